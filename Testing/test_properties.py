"""What must hold for any input: geometry and back, crops and back, options through record and message, damaged manifests."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import slicer_runtime

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays_of  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from TumorSynthLib import delta, provenance  # noqa: E402
from TumorSynthLib.edit.edits import EDITS  # noqa: E402
from TumorSynthLib.edit.options import IMAGES, OPTIONS, from_message, of_edit, to_message  # noqa: E402
from TumorSynthLib.errors import InputError, ModelError  # noqa: E402
from TumorSynthLib.models import bundled_folder  # noqa: E402
from TumorSynthLib.models.manifest import parse_manifest  # noqa: E402
from TumorSynthLib.region import Frame, Region  # noqa: E402
from TumorSynthLib.requests import EditRequest  # noqa: E402
from TumorSynthLib.resampling import Lattice  # noqa: E402
from TumorSynthLib.volume import Volume  # noqa: E402

slicer_runtime.start()

from TumorSynthSlicer import geometry  # noqa: E402

#: The same examples at each run, and no limit of time for one. Add Phase.shrink to see the smallest one that fails.
few = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)
numbers = st.floats(-1000.0, 1000.0, allow_subnormal=False)
triples = st.tuples(numbers, numbers, numbers)
spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)
shapes = st.tuples(*[st.integers(1, 6)] * 3)


@st.composite
def directions(draw) -> tuple[float, ...]:
    """Nine numbers of a rotation, or of one with axes that run backwards or in another order."""
    turned = Rotation.from_euler(
        "xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True
    ).as_matrix()
    matrix = draw(st.sampled_from([turned, np.eye(3)]))
    columns = matrix[:, draw(st.permutations(range(3)))]
    return tuple((columns * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))).ravel())


@st.composite
def volumes(draw) -> Volume:
    """Small int16 images anywhere in space."""
    array = draw(arrays_of.arrays(np.int16, draw(shapes), elements=st.integers(-1000, 3000)))
    return Volume(array, draw(spacings), draw(triples), draw(directions()))


@st.composite
def masked(draw) -> tuple[Volume, np.ndarray]:
    """An image and a mask in it that isn't empty."""
    volume = draw(volumes())
    mask = draw(arrays_of.arrays(bool, volume.array.shape))
    mask[tuple(draw(st.integers(0, n - 1)) for n in mask.shape)] = True
    return volume, mask


@few
@given(volumes(), triples)
def test_positions_and_indices_are_inverse(volume, index):
    points = volume.points(np.array(index))
    assert np.allclose(volume.indices(points), index, atol=1e-6)


@few
@given(volumes(), triples)
def test_simpleitk_has_the_same_positions(volume, index):
    image = volume.sitk()
    assert np.allclose(
        image.TransformContinuousIndexToPhysicalPoint(index), volume.points(np.array(index)), atol=1e-6
    )
    back = Volume.from_sitk(image)
    assert back.same_grid(volume) and np.array_equal(back.array, volume.array)


@few
@given(volumes(), triples)
def test_slicer_s_geometry_is_the_engine_s(volume, index):
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([volume.matrix, volume.origin])
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix  # index to RAS, as Slicer has it
    ras = (matrix @ [*index, 1.0])[:3]
    assert np.allclose(geometry.toLPS(ras), volume.points(np.array(index)), atol=1e-6)
    assert geometry.toRAS(geometry.toLPS(ras)) == tuple(ras)
    for found, had in zip(
        geometry.lpsGeometry(matrix, "image"), (volume.spacing, volume.origin, volume.direction)
    ):
        assert np.allclose(found, had, atol=1e-9)


@few
@given(volumes(), st.data())
def test_frames_and_boxes_go_back(volume, data):
    frame, array = Frame.of(volume.direction), volume.array
    assert np.array_equal(frame.back(frame.view(array)), array)
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in array.shape]
    box = tuple(slice(a, b) for a, b in ends)
    lps = frame.lps_box(box, array.shape)
    assert frame.file_box(lps, array.shape) == box
    assert np.array_equal(frame.view(array)[lps], frame.view(array[box]))


@few
@given(st.integers(1, 200), st.floats(0.1, 8.0), st.booleans())
def test_samples_and_positions_are_inverse(size, ratio, flipped):
    lattice = Lattice(size, ratio, flipped)
    samples = np.arange(lattice.count)
    positions = lattice.positions(samples)
    assert np.allclose(lattice.samples_at(positions), samples, atol=1e-6)
    assert np.allclose(np.diff(positions), 1 / ratio)
    plain = Lattice(size, ratio).positions(samples)
    assert np.allclose(positions, size - 1 - plain[::-1] if flipped else plain)
    first, last = lattice.covering(0, size - 1)
    assert first <= 0 and last >= lattice.count - 1


@few
@given(masked(), st.floats(0.0, 5.0), st.sampled_from([(1, 1, 1), (2, 4, 4)]))
def test_a_region_is_pasted_into_its_mask_alone(case, margin, multiple):
    """On the image's own grid: the values that were put in, and all other voxels as they were."""
    volume, mask = case
    region = Region.around(volume, mask, None, margin, multiple)
    assert np.array_equal(region.paste(region.native), volume.array)
    new = region.paste(region.native + 7)
    assert np.array_equal(new[mask], volume.array[mask] + 7) and np.array_equal(
        new[~mask], volume.array[~mask]
    )
    patch, array = region.patch(region.native + 7), volume.array.copy()
    assert np.array_equal(patch.apply(array), new) and np.array_equal(patch.revert(array), volume.array)


@few
@given(masked(), spacings)
def test_a_resampled_region_changes_its_mask_alone(case, spacing):
    volume, mask = case
    try:
        region = Region.around(volume, mask, spacing)
    except InputError as error:
        assert "too small for the model's grid" in str(error)
        return
    new = region.paste(region.to_native(region.array + 50.0))
    assert new.dtype == volume.array.dtype and np.array_equal(new[~mask], volume.array[~mask])


@few
@given(st.data(), shapes, st.sampled_from(["int16", "uint8", "float32", "bool"]))
def test_a_change_is_packed_and_unpacked(data, shape, dtype):
    before, after = (data.draw(arrays_of.arrays(dtype, shape, elements=None)) for _ in range(2))
    text = delta.encode(before, after)
    there = delta.toggle(before, text)
    assert there.tobytes() == after.tobytes() and delta.toggle(there, text).tobytes() == before.tobytes()
    mask = np.asarray(before, bool)
    assert np.array_equal(delta.unpack(delta.pack(mask), mask.shape), mask)


def values_of(row) -> st.SearchStrategy:
    """Values that an option may have; of an image none."""
    low, high = max(row.low, -1e6), min(row.high, 1e6)
    found = {
        "number": lambda: st.floats(low, high),
        "whole": lambda: st.integers(int(low), int(min(row.high, 2**63 - 1))),
        "switch": st.booleans,
        "choice": lambda: st.sampled_from(row.choices),
        "text": lambda: st.text(max_size=20),
        "point": lambda: st.one_of(triples, *(st.just(word) for word in row.words)),
        "features": lambda: st.fixed_dictionaries({}, optional={
            "original_glcm_Contrast": st.floats(0.0, 1000.0), "original_firstorder_Mean": numbers,
        }),
        "box": lambda: st.tuples(*[st.builds(slice, st.integers(0, 9), st.integers(10, 20))] * 3),
    }  # fmt: skip
    return found[row.kind]()


@st.composite
def requests(draw) -> tuple[str, EditRequest]:
    """An edit and a request with any of the options that it has."""
    edit = draw(st.sampled_from([name for name in EDITS if name not in ("measure", "series")]))
    rows = {name: row for name, row in of_edit(edit).items() if row.kind not in IMAGES}
    return edit, EditRequest(
        **draw(st.fixed_dictionaries({}, optional={n: values_of(r) for n, r in rows.items()}))
    )


def plain(request: EditRequest) -> dict:
    """What a request holds, without images."""
    return {name: getattr(request, name) for name, row in OPTIONS.items() if row.kind not in IMAGES}


@few
@given(requests())
def test_a_request_goes_through_a_message(case):
    _, request = case
    text = json.dumps(to_message(request, None), allow_nan=False)
    assert plain(from_message(json.loads(text), None)) == plain(request)


@few
@given(requests())
def test_a_repetition_asks_for_what_the_record_has(case):
    edit, request = case
    volume = Volume(np.zeros((2, 2, 2), np.int16), (1.0, 1.0, 1.0))
    source = SimpleNamespace(
        volume=volume, mask=volume.array == 0, request=request, modality=request.modality
    )
    done = SimpleNamespace(
        asked=request.features or {}, used={}, reached={}, before={}, timing={}, warnings=()
    )
    plan = {"engine": request.engine, "texture_from": request.texture_from}
    entry = json.loads(json.dumps(provenance.record(edit, None, source, done, plan=plan), allow_nan=False))
    again = EditRequest(**provenance.request_of(entry))
    assert plain(again) == {**plain(request), "features": request.features or None}


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MANIFESTS = {
    path.parent.name: json.loads(path.read_text()) for path in sorted(bundled_folder().glob("*/bundle.json"))
}


def read(data: bytes) -> None:
    """A manifest is read, or refused in one line."""
    try:
        assert isinstance(parse_manifest(data, "bundle.json"), dict)
    except ModelError as error:
        assert "\n" not in str(error) and str(error).startswith("bundle.json")


@few
@given(st.binary(max_size=200) | jsons.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_manifest_s_parser(data):
    read(data)


@settings(few, max_examples=200)
@given(st.data())
def test_no_damage_breaks_the_manifest_s_parser(data):
    """A bundled model's manifest in which one value, anywhere, is another or is missing."""
    manifest = json.loads(json.dumps(MANIFESTS[data.draw(st.sampled_from(sorted(MANIFESTS)))]))
    where, key = manifest, data.draw(st.sampled_from(sorted(manifest)))
    while isinstance(where[key], (dict, list)) and where[key] and data.draw(st.booleans()):
        where = where[key]
        key = data.draw(
            st.sampled_from(sorted(where)) if isinstance(where, dict) else st.integers(0, len(where) - 1)
        )
    if data.draw(st.booleans()):
        del where[key]
    else:
        where[key] = data.draw(jsons)
    read(json.dumps(manifest).encode())

"""The record of an edit: complete, written whole, read back to repeat it; and the marks of a synthetic image."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from TumorSynthLib import provenance
from TumorSynthLib.edit.options import check_used
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.requests import EditRequest
from TumorSynthLib.volume import Volume, read_image, write_volume

BUNDLE = SimpleNamespace(
    id="lung-nodule-ct",
    version="1.2",
    sha256="ab" * 32,
    scale=1.0,
    json={
        "files": {"network.safetensors": {"sha256": "cd" * 32, "bytes": 10}},
        "sampler": {"eta": 1},
        "licence": "CC BY",
    },
)


def make_source(**options):
    rng = np.random.default_rng(0)
    volume = Volume(rng.integers(-1000, 400, (6, 7, 8)).astype(np.int16), (0.7, 0.7, 2.5), (1.0, 2.0, 3.0))
    request = EditRequest(
        features={"original_firstorder_Mean": 30.0}, seed=7, samples=2, to=(1, 2, 3), **options
    )
    return SimpleNamespace(volume=volume, mask=volume.array > 100, request=request, modality="CT")


def make_result():
    return SimpleNamespace(
        asked={"original_firstorder_Mean": np.float64(0.1) + 0.2},
        used={"original_firstorder_Mean": np.float32(0.25)},
        reached={"original_firstorder_Mean": 0.29, "original_glcm_MCC": float("nan")},
        before={"original_firstorder_Mean": -5.0},
        timing={"total": 1.5},
        warnings=("far from the training tumours",),
    )


def make_record(**options):
    files = {"image": "/data/Jane Doe/ct.nii.gz", "mask": "mask.nrrd"}
    return provenance.record(
        "synthesize", BUNDLE, make_source(**options), make_result(), device="cpu", files=files
    )


def test_record_says_what_was_done():
    entry = make_record()
    assert entry["synthetic"] is True and entry["operation"] == "synthesize" and entry["device"] == "cpu"
    assert entry["model"]["id"] == "lung-nodule-ct" and entry["model"]["sha256"] == BUNDLE.sha256
    assert entry["model"]["files"] == {"network.safetensors": "cd" * 32}
    assert entry["features"]["asked"] == {"original_firstorder_Mean": 0.30000000000000004}
    assert entry["features"]["reached"]["original_glcm_MCC"] is None
    assert entry["request"]["seed"] == 7 and entry["request"]["to"] == [1, 2, 3]
    assert entry["timing_seconds"] == {"total": 1.5} and entry["warnings"]
    assert entry["statement"].endswith("For research use only; not for diagnosis.")
    assert "Synthetic image: edited by" in entry["statement"]
    assert entry["software"]["packages"]["numpy"] == np.__version__
    json.dumps(entry, allow_nan=False)


def test_folders_are_not_kept():
    entry = make_record()
    assert entry["files"] == {"image": "ct.nii.gz", "mask": "mask.nrrd"}
    assert "Jane" not in json.dumps(entry)
    assert provenance.with_files(entry, {"result": "/x/y.nrrd"})["files"]["result"] == "y.nrrd"


def test_hash_depends_on_values_only(tmp_path):
    volume = make_source().volume
    stored = read_image(write_volume(volume, tmp_path / "a.nii.gz"))
    assert provenance.voxel_hash(stored.array) == provenance.voxel_hash(volume.array)
    assert provenance.voxel_hash(volume.array.astype(">i2")) == provenance.voxel_hash(volume.array)
    assert provenance.voxel_hash(np.asfortranarray(volume.array)) == provenance.voxel_hash(volume.array)
    assert provenance.voxel_hash(volume.array + 1) != provenance.voxel_hash(volume.array)


@pytest.mark.parametrize(
    "image, sidecar",
    [("a/b.nii.gz", "a/b.json"), ("b.NRRD", "b.json"), ("b.v2.mha", "b.v2.json"), ("folder", "folder.json")],
)
def test_sidecar_path(image, sidecar):
    assert provenance.sidecar_path(image).as_posix() == sidecar


def test_a_record_read_back_repeats_the_edit(tmp_path):
    entry = make_record()
    path = provenance.write_sidecar(entry, tmp_path / "new" / "edited.nii.gz")
    assert path.name == "edited.json" and os.listdir(path.parent) == ["edited.json"]
    again = provenance.read_sidecar(tmp_path / "new" / "edited.nii.gz")
    assert again == entry == provenance.read_sidecar(path)
    request = EditRequest(**provenance.request_of(again))
    assert request.features == {"original_firstorder_Mean": 0.30000000000000004}
    assert (request.seed, request.samples, request.to, request.modality) == (7, 2, (1, 2, 3), "CT")
    source = make_source()
    assert provenance.check_repeatable(again, BUNDLE, source.volume, source.mask) == []


def test_a_record_of_the_first_format_is_repeated_by_the_network():
    entry = make_record()
    del entry["plan"]
    entry["format"] = 1
    assert provenance.request_of(entry)["engine"] == "bridge"
    entry["request"]["grow"] = 3.0  # passed over by synthesize, and recorded all the same
    check_used("synthesize", EditRequest(**provenance.request_of(entry)))
    entry["operation"] = "move"
    asked = entry["features"]["asked"]
    for features, donor, source in (({}, False, "own"), (asked, False, "request"), (asked, True, "request")):
        entry["request"] |= {"features": features, "donor": donor}
        assert provenance.request_of(entry)["texture_from"] == source


def test_a_record_says_what_was_decided():
    plan = {"engine": "exemplar", "texture_from": "own", "zone_voxels": 3}
    entry = provenance.record("move", BUNDLE, make_source(), make_result(), plan=plan)
    assert entry["format"] == 2 and entry["plan"] == plan
    again = provenance.request_of(entry)
    assert again["engine"] == "exemplar" and again["texture_from"] == "own"


def test_a_repetition_needs_the_same_model_image_and_mask():
    entry, source = make_record(), make_source()
    with pytest.raises(InputError, match="voxels differ"):
        provenance.check_repeatable(
            entry, BUNDLE, source.volume.with_array(source.volume.array + 1), source.mask
        )
    with pytest.raises(InputError, match="mask"):
        provenance.check_repeatable(entry, BUNDLE, source.volume, ~source.mask)
    other = SimpleNamespace(**{**vars(BUNDLE), "sha256": "00" * 32})
    with pytest.raises(ModelError, match="lung-nodule-ct 1.2"):
        provenance.check_repeatable(entry, other, source.volume, source.mask)
    entry["software"]["packages"]["torch"] = "0.1"
    entry["software"]["version"] = "0.1.0"
    assert provenance.check_repeatable(entry, BUNDLE, source.volume, source.mask) == [
        "made with SlicerTumorSynthRadiomics 0.1.0, torch 0.1, not with those here: the voxels may differ"
    ]


def test_an_error_of_the_model_names_what_can_repeat_the_record():
    entry = make_record()
    entry["software"]["version"] = "0.1.0"
    told = r"^damaged; \S+ 0\.1\.0 with model lung-nodule-ct 1\.2 repeats it$"
    with pytest.raises(ModelError, match=told), provenance.repeating(entry):
        raise ModelError("damaged")
    with pytest.raises(ModelError, match="^damaged$"), provenance.repeating(None):
        raise ModelError("damaged")


def test_a_repetition_needs_the_same_organ():
    organ = make_source().volume.array > 0
    for entry, given, text in (
        (make_record(inside=organ), None, "was made with --inside: give it again"),
        (make_record(inside=organ), ~organ, "mask of --inside isn.t the one"),
        (make_record(), organ, "without --inside: leave it out"),
    ):
        with pytest.raises(InputError, match=text):
            provenance.check_repeatable(entry, BUNDLE, make_source().volume, make_source().mask, given)
    provenance.check_repeatable(
        make_record(inside=organ), BUNDLE, make_source().volume, make_source().mask, organ
    )


def test_a_mask_drawn_on_an_image_is_repeated_on_that_image_alone():
    like, organ = make_source().volume, make_source().volume.array > 0
    drawn = SimpleNamespace(volume=like, asked={}, used={}, reached={}, timing={}, warnings=())
    request = EditRequest(at=(0.0, 0.0, 0.0), inside=organ)
    entry, alone = (provenance.of_shape(BUNDLE, request, drawn, image) for image in (like, None))
    assert entry["input"]["inside_sha256"] and provenance.request_of(entry)["at"] == (0.0, 0.0, 0.0)
    provenance.check_like(entry, like)
    provenance.check_like(alone, None)
    older = {**alone, "files": {"like": "ct.nii.gz"}}  # kept the name alone
    provenance.check_like(older, like)
    for record, image, text in (
        (entry, None, "give it by --like"), (older, None, "ct.nii.gz"), (alone, like, "leave out --like"),
        (entry, like.with_array(like.array + 1), "isn't the one"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=text):
            provenance.check_like(record, image)
    with pytest.raises(InputError, match="--inside"):
        provenance.check_repeatable(entry, BUNDLE, request=EditRequest(at=(0.0, 0.0, 0.0)))


def test_no_partial_sidecar(tmp_path, monkeypatch):
    path = provenance.write_sidecar(make_record(), tmp_path / "edited.nrrd")
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(provenance.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        provenance.write_sidecar(make_record(), tmp_path / "edited.nrrd")
    assert os.listdir(tmp_path) == ["edited.json"] and path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"synthetic": true, "format": 1}', "[" * 100_000, "\x00\xff", '{"format": 99}']
)
def test_bad_sidecars(tmp_path, text):
    (tmp_path / "bad.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError) as caught:
        provenance.read_sidecar(tmp_path / "bad.json")
    assert "\n" not in str(caught.value) and "bad.json" in str(caught.value)


def test_missing_and_newer_sidecars(tmp_path):
    with pytest.raises(InputError, match="no file"):
        provenance.read_sidecar(tmp_path / "nothing.nii.gz")
    provenance.write_sidecar({**make_record(), "format": 99}, tmp_path / "newer.nii")
    with pytest.raises(InputError, match="newer version"):
        provenance.read_sidecar(tmp_path / "newer.json")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_written_images_are_marked(tmp_path, suffix):
    volume = make_source().volume
    assert not provenance.is_marked(read_image(write_volume(volume, tmp_path / f"plain{suffix}")).metadata)
    marked = read_image(write_volume(volume, tmp_path / f"x{suffix}", provenance.marks(make_record())))
    assert provenance.is_marked(marked.metadata)
    assert "not for diagnosis" in marked.metadata["descrip"]
    again = read_image(write_volume(marked, tmp_path / f"again{suffix}"))
    assert provenance.is_marked(again.metadata), "a copy stays marked"
    assert provenance.record("remove", BUNDLE, SimpleNamespace(**{**vars(make_source()), "volume": marked}),
                             make_result())["input"]["synthetic"]  # fmt: skip


def test_plain():
    value = {1: np.int64(3), "b": (np.float32(0.5), float("inf")), "c": np.arange(2), "d": np.bool_(True)}
    assert provenance.plain(value) == {"1": 3, "b": [0.5, None], "c": [0, 1], "d": True}

"""The editor: what changes and what doesn't, what is reached, what is said."""

from dataclasses import replace

import editor_case
import numpy as np
import pytest

from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import Cancelled, InputError
from TumorSynthLib.placement import body, grown, moved_mask
from TumorSynthLib.radiomics.extract import extract_image
from TumorSynthLib.region import Frame
from TumorSynthLib.requests import EditRequest, differences, resolved, steerable
from TumorSynthLib.texture import solver
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.request import bounds_of
from TumorSynthLib.volume import Volume

CONTRAST, MEAN, SD = "original_glcm_Contrast", "original_firstorder_Mean", "original_firstorder_Variance"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return Editor(editor_case.model(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def case():
    return editor_case.ct()


def request(**options):
    return EditRequest(**{"features": {"mean_intensity": 30.0, "contrast": 4.0}, **options})


@pytest.fixture(scope="module")
def result(editor, case):
    return editor.synthesize(*case, request())


def test_only_the_mask_changes(case, result):
    volume, mask = case
    changed = result.volume.array != volume.array
    assert changed[mask].mean() > 0.5
    assert not changed[~mask].any()
    assert result.volume.array.dtype == volume.array.dtype
    assert result.volume.same_grid(volume) and result.volume.direction == volume.direction


@pytest.mark.parametrize("edit", ["remove", "synthesize"])
def test_the_result_has_voxels_of_its_own_and_the_input_keeps_its(editor, case, edit):
    volume, mask = case
    before = volume.array.copy()
    edited = getattr(editor, edit)(volume, mask).volume.array
    assert edited.flags.c_contiguous and edited.flags.writeable and edited.dtype == before.dtype
    assert not np.shares_memory(edited, volume.array)
    edited[...] = 7
    assert np.array_equal(volume.array, before)


def test_patch_does_and_undoes(case, result):
    volume, _ = case
    again = result.patch.apply(volume.array.copy())
    assert np.array_equal(again, result.volume.array)
    assert np.array_equal(result.patch.revert(again), volume.array)


def test_asked_features_are_reached(result):
    assert result.asked == {MEAN: 30.0, CONTRAST: 4.0}
    assert abs(result.reached[MEAN] - 30) < 1
    assert abs(result.reached[CONTRAST] - 4) < 0.2
    assert abs(result.before[CONTRAST] - 4) > 1


def test_reached_is_what_an_extraction_of_the_result_finds(editor, result):
    found = extract_image(
        result.volume, result.mask, editor.bundle.settings("CT"), ("firstorder", "glcm", "glrlm", "glszm")
    )
    assert result.reached.keys() == found.keys()
    for name, value in found.items():
        assert result.reached[name] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_other_spacing_is_resampled_and_measured_alike(editor):
    volume, mask = editor_case.ct(spacing=(0.8, 0.8, 2.5))
    result = editor.synthesize(volume, mask, request())
    settings = replace(editor.bundle.settings("CT"), resampledPixelSpacing=editor.bundle.spacing)
    found = extract_image(result.volume, mask, settings, ("firstorder", "glcm"))
    for name, value in found.items():
        assert result.reached[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert not (result.volume.array != volume.array)[~mask].any()


@pytest.mark.parametrize(
    "order, flip", [((0, 1, 2), (1, 1, 0)), ((2, 0, 1), (0, 1, 0)), ((1, 2, 0), (0, 0, 1))]
)
def test_axis_order_does_not_matter(editor, case, result, order, flip):
    volume, mask = (
        stored_otherwise(case[0], order, flip),
        stored_otherwise(case[0].with_array(case[1]), order, flip).array,
    )
    turned = editor.synthesize(volume, mask, request())
    expected = stored_otherwise(result.volume, order, flip)
    assert turned.volume.direction == expected.direction
    assert np.array_equal(turned.volume.array, expected.array)


def stored_otherwise(volume, order, flip):
    """The same image in space, its array axes in another order and direction."""
    array = volume.array.transpose(order)
    matrix = np.array(volume.direction).reshape(3, 3)[:, [2 - a for a in order][::-1]]
    spacing = np.array(volume.spacing)[[2 - a for a in order][::-1]]
    origin = np.array(volume.origin)
    for axis in range(3):
        if flip[axis]:
            column = 2 - axis
            origin = origin + matrix[:, column] * spacing[column] * (array.shape[axis] - 1)
            array, matrix = np.flip(array, axis), matrix.copy()
            matrix[:, column] *= -1
    return Volume(np.ascontiguousarray(array), tuple(spacing), tuple(origin), tuple(matrix.ravel()))


def test_same_seed_same_voxels(editor, case, result):
    again = Editor(editor.bundle, "cpu").synthesize(*case, request())
    assert np.array_equal(again.volume.array, result.volume.array)


def test_another_seed_another_tumour(editor, case, result):
    other = editor.synthesize(*case, request(seed=1))
    assert (other.volume.array != result.volume.array)[case[1]].mean() > 0.3


def test_a_removal_may_grow_the_mask_and_says_so(editor, case):
    volume, mask = case
    result = editor.remove(volume, mask, EditRequest(grow=2.0, engine="bridge"))
    wide = grown(mask, volume.spacing, 2.0)
    changed = result.volume.array != volume.array
    assert np.array_equal(result.mask, wide) and wide.sum() > mask.sum()
    assert changed[wide & ~mask].any() and not changed[~wide].any()
    assert result.provenance["request"]["grow"] == 2.0
    with pytest.raises(InputError, match="grow is 99"):
        EditRequest(grow=99.0)


def test_remove_needs_no_features_and_takes_none(editor, case):
    volume, mask = case
    result = editor.remove(volume, mask, EditRequest(engine="bridge"))
    assert (result.volume.array != volume.array)[mask].mean() > 0.5 and not result.asked
    assert not (result.volume.array != volume.array)[~mask].any()
    with pytest.raises(InputError, match="healthy tissue"):
        editor.remove(volume, mask, request())


def test_donor_gives_its_texture(editor, case):
    donor = editor_case.ct(5, spread=15)
    wanted = editor.extract(*donor, classes=("firstorder", "glcm"))
    exact = editor.retexture(*case, EditRequest(donor=donor, priority="features"))
    assert exact.asked[CONTRAST] == pytest.approx(wanted[CONTRAST])
    assert exact.reached[CONTRAST] == pytest.approx(wanted[CONTRAST], abs=0.05)
    result = editor.retexture(*case, EditRequest(donor=donor))
    asked = result.asked[CONTRAST]  # with the recipient's noise, which is stronger here
    assert wanted[CONTRAST] < asked < result.before[CONTRAST]
    assert any("the donor lends its look" in warning for warning in result.warnings)
    assert abs(result.reached[CONTRAST] - asked) < 0.5 * abs(result.before[CONTRAST] - asked)
    assert "original_firstorder_Energy" not in result.asked  # it follows the size of the region
    with pytest.raises(InputError, match="donor"):
        editor.retexture(*case, EditRequest())


def test_samples_are_judged_by_exact_features(editor, case):
    plain = [editor.synthesize(*case, request(seed=seed, solve=False)) for seed in range(3)]
    best = editor.synthesize(*case, request(seed=0, samples=3, solve=False))
    miss = [np.median(np.abs(list(differences(r.used, r.reached, r.spread).values()))) for r in plain]
    assert np.array_equal(best.volume.array, plain[int(np.argmin(miss))].volume.array)


def test_impossible_together_is_projected_and_told(editor, case):
    result = editor.synthesize(*case, EditRequest(features={SD: 100.0, "original_firstorder_Range": 5.0}))
    assert result.used != result.asked
    assert any("nearest request" in w for w in result.warnings)


def test_far_request_names_near_cases(editor, case):
    result = editor.synthesize(*case, EditRequest(features={CONTRAST: 400.0}))
    assert any("training tumours" in w and "case0" in w for w in result.warnings)


def test_a_mask_without_extent_is_refused_before_anything_is_drawn(editor, case, monkeypatch):
    monkeypatch.setattr(TextureModel, "sample", lambda *a, **k: pytest.fail("drawn"))
    line = np.zeros_like(case[1])
    line[9, 24, 10:20] = True
    with pytest.raises(InputError, match="in 2 of 3 directions"):
        editor.remove(case[0], line, EditRequest(engine="bridge"))


def test_the_solver_keeps_to_what_the_image_can_store(editor, case, monkeypatch):
    volume, mask = case
    told, solve = [], solver.solve
    monkeypatch.setattr(solver, "solve", lambda *a, **k: told.append(k["bounds"]) or solve(*a, **k))
    editor.synthesize(volume, mask, EditRequest(features={CONTRAST: 1.0}))
    assert told and set(told) == {bounds_of(editor.population("CT"), np.int16)}
    assert bounds_of(None, np.uint8) == (0, 255) and bounds_of(None, np.float32) == (-np.inf, np.inf)


def test_move_carries_the_tumour(editor, case):
    volume, mask = case
    to = volume.points(np.array([16, 26, 9]))
    result = editor.move(volume, mask, EditRequest(to=tuple(to), engine="bridge"))
    assert result.mask.sum() == mask.sum()
    centre = volume.points(np.argwhere(result.mask).mean(0)[::-1])
    assert np.abs(centre - to).max() <= 0.5 * max(volume.spacing)
    assert not (result.volume.array != volume.array)[~(mask | result.mask)].any()
    assert (result.volume.array != volume.array)[mask & ~result.mask].mean() > 0.5
    inner = ball_inside(result.mask)
    moved = volume.array[np.roll(inner, -shift_of(mask, result.mask), (0, 1, 2))]
    assert np.corrcoef(result.volume.array[inner], moved)[0, 1] > 0.7
    again = result.patch.apply(volume.array.copy())
    assert np.array_equal(again, result.volume.array)


def ball_inside(mask):
    from scipy import ndimage

    return ndimage.binary_erosion(mask, iterations=3)


def shift_of(mask, moved):
    return np.argwhere(moved).min(0) - np.argwhere(mask).min(0)


@pytest.mark.parametrize("index, where", [((60, 20, 10), "image"), ((18, 11, 10), "body")])
def test_move_out_of_the_body_is_refused_with_a_proposal(editor, case, index, where):
    volume, mask = case
    with pytest.raises(
        InputError, match=rf"leave the {where}; the nearest place where it fits is \("
    ) as error:
        editor.move(volume, mask, EditRequest(to=tuple(volume.points(np.array(index)))))
    numbers = str(error.value).rsplit("(", 1)[1].split(")")[0].split()
    assert moved_mask(volume, mask, [float(v) for v in numbers], True)[0].sum() == mask.sum()


def test_move_stays_in_the_organ(editor, case):
    volume, mask = case
    organ = np.zeros_like(mask)
    organ[:, :, 8:30] = True
    to = tuple(volume.points(np.array([28, 24, 10])))
    with pytest.raises(InputError, match="leave the organ"):
        editor.move(volume, mask, EditRequest(to=to, inside=organ))


def test_body_holds_the_lungs():
    from TumorSynthLib.phantom import chest

    volume, mask = chest()
    found = body(volume.array[:, ::2, ::2], Frame.of(volume.direction), ct=True)
    lung = (
        (volume.array < -700)
        & (np.indices(volume.array.shape)[2] > 60)
        & (np.indices(volume.array.shape)[2] < 100)
    )
    assert found[mask[:, ::2, ::2]].all()
    assert (
        found[
            lung[:, ::2, ::2] & (np.indices(found.shape)[1] > 40) & (np.indices(found.shape)[1] < 60)
        ].mean()
        > 0.99
    )
    assert not found[:, :3].any()


def test_progress_and_cancel(editor, case):
    seen = []
    editor.synthesize(*case, request(), lambda stage, fraction: seen.append((stage, fraction)))
    assert {stage for stage, _ in seen} >= {"prepare", "model", "texture", "solve", "measure"}
    assert all(0 <= fraction <= 1 for _, fraction in seen)

    def stop(stage, fraction):
        if stage == "texture":
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        editor.synthesize(*case, request(), stop)


def test_out_of_memory_falls_back_to_the_cpu(editor, case, monkeypatch):
    other = Editor(editor.bundle, "cpu")

    class Full:
        device = type("Device", (), {"type": "cuda", "__str__": lambda self: "cuda"})()
        features, in_band, tries = (), True, 0

        def sample(self, *args, **options):
            self.tries += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    other.engine("bridge").texture = full = Full()
    for tries in (1, 2):  # the next edit tries the device again, and says it again
        result = other.synthesize(*case, request(solve=False))
        assert any("done on the CPU" in w for w in result.warnings) and full.tries == tries
        assert result.provenance["device"] == "cpu"
    assert np.array_equal(result.volume.array, editor.synthesize(*case, request(solve=False)).volume.array)


def test_result_says_what_was_done(editor, case, result):
    record = result.provenance
    assert record["operation"] == "synthesize" and record["model"]["sha256"] == editor.bundle.sha256
    assert record["request"]["seed"] == 0 and record["request"]["features"] == result.asked
    assert result.timing["total"] >= result.timing["texture"] > 0
    assert set(editor.estimate(*case)) == {"seconds", "bytes", "voxels"}


def test_model_without_a_population(tmp_path, case):
    bundle = editor_case.model(tmp_path / "plain")
    bundle.json["population"] = {}
    result = Editor(bundle, "cpu").synthesize(*case, request())
    assert abs(result.reached[MEAN] - 30) < 1 and result.spread == {}


def test_names_and_units_of_a_request():
    assert resolved({"intensity_sd": 5.0}) == {SD: 25.0}
    assert resolved({"glcm_Contrast": 2}) == resolved({"glcm_Contrast": np.float32(2)}) == {CONTRAST: 2.0}
    kept, left = steerable(
        {CONTRAST: 1.0, "original_shape_Sphericity": 0.5, "original_firstorder_Energy": 3.0}
    )
    assert kept == {CONTRAST: 1.0} and len(left) == 2

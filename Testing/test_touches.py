"""Last touches: single voxels cross a grey level's edge where that brings features nearer; nothing else moves."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from TumorSynthLib.radiomics.extract import extract  # noqa: E402
from TumorSynthLib.radiomics.settings import Settings  # noqa: E402
from TumorSynthLib.region import Region  # noqa: E402
from TumorSynthLib.texture import solver, touches  # noqa: E402
from TumorSynthLib.texture.request import scales_of  # noqa: E402
from TumorSynthLib.texture.touches import Touches  # noqa: E402
from TumorSynthLib.volume import Volume  # noqa: E402

CLASSES = ("firstorder", "glcm", "glrlm", "glszm")
SPACING = (1.0, 1.0, 2.0)


def _tumour(seed=0, mean=40.0, spread=60.0, shape=(6, 12, 12)):
    """Image (D, H, W) float32 of whole numbers, of either sign, and a mask inside it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    mask[1:-1, 3:-3, 3:-3] = True
    return np.rint(rng.normal(mean, spread, shape)).astype(np.float32), mask


def _features(image, mask):
    return extract(image.astype(np.int32), mask, SPACING, Settings(), CLASSES)


def _touches(mask, asked, region=None, integer=True):
    return Touches(mask, asked, scales_of(asked, {}), Settings(), SPACING, integer, region)


@pytest.fixture(scope="module")
def asked():
    image, mask = _tumour(1, 55.0, 50.0)
    return _features(image, mask)


def test_features_come_nearer_by_small_moves_of_allowed_voxels_alone(asked):
    image, mask = _tumour()
    allowed = mask.copy()
    allowed[2] = False
    found = _touches(mask, asked).touched(image, allowed)
    was, now = (_touches(mask, asked).error(x[mask]) for x in (image, found))
    assert now < 0.7 * was
    assert np.array_equal(found[~allowed], image[~allowed])
    assert 0 < np.abs(found - image).max() <= touches.ROUGH * 25
    assert np.array_equal(found, np.rint(found))


def test_its_error_is_of_exactly_measured_features(asked):
    image, mask = _tumour()
    found = _features(image, mask)
    scales = scales_of(asked, {})
    off = np.array([abs(found[k] - v) / scales[k] for k, v in asked.items() if "StandardDev" not in k])
    expected = np.where(
        off < 1, off**2, np.where(off < 10, 2 * off - 1, 19 + np.log(off.clip(1e-9) / 10))
    ).sum()
    assert _touches(mask, asked).error(image[mask]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("kind", "resampled"), [("int16", False), ("int16", True), ("float32", False)])
def test_a_move_across_an_edge_changes_the_grey_level_by_one(kind, resampled):
    values = np.random.default_rng(3).uniform(-120, 120, 400)
    values = values if resampled or kind == "float32" else np.rint(values)
    region = SimpleNamespace(volume=SimpleNamespace(array=np.zeros(1, kind))) if resampled else None
    touches_ = _touches(np.ones((4, 10, 10), bool), {}, region, kind == "int16")
    level = touches_.disc.levels(touches_.stored(values))[0]
    inner = (level > 0) & (level < level.max())  # the outermost would move the first edge, or add a level
    for move, step in zip(touches_.crossings(values), (1, -1)):
        move = move if resampled else touches_._whole(move)
        crossed = np.where(inner, values + move + step * 1e-6 * resampled, values)
        assert np.array_equal(touches_.disc.levels(touches_.stored(crossed))[0][inner], level[inner] + step)


def test_through_another_grid_the_stored_file_is_what_is_measured(asked):
    rng = np.random.default_rng(0)
    array = np.rint(rng.normal(40, 60, (7, 16, 16))).astype(np.int16)
    mask = np.zeros(array.shape, bool)
    mask[2:-2, 5:-5, 5:-5] = True
    region = Region.around(Volume(array, (1.3, 1.3, 2.5)), mask, SPACING, 4.0)
    judge = _touches(region.mask, asked, region)
    measured, found = judge.finished(region.array, region.native, (-np.inf, np.inf))
    was, now = (
        judge.error(x[region.mask]) for x in (region.measure(region.native, as_stored=True), measured)
    )
    assert now < 0.8 * was
    assert np.array_equal(measured, region.measure(found, as_stored=True))
    assert np.array_equal(found[~region.native_mask], region.native[~region.native_mask])


def test_it_stays_within_bounds_and_gives_the_same_again(asked):
    image, mask = _tumour()
    low, high = float(image[mask].min()), float(np.percentile(image[mask], 60))
    found = [_touches(mask, asked).touched(image, mask, (low, high)) for _ in range(2)]
    moved = found[0] != image
    assert moved.any() and found[0][moved].min() >= low and found[0][moved].max() <= high
    assert np.array_equal(*found)


def test_moves_go_farther_where_near_ones_leave_much(asked, monkeypatch):
    image, mask = _tumour()
    farthest = {}
    for stuck in (0.0, np.inf):  # always farther, never
        monkeypatch.setattr(touches, "STUCK", stuck)
        farthest[stuck] = np.abs(_touches(mask, asked).touched(image, mask) - image).max()
    assert farthest[np.inf] <= touches.GENTLE * 25 < farthest[0.0] <= touches.ROUGH * 25


def test_no_more_voxels_are_measured_than_allowed(asked, monkeypatch):
    image, mask = _tumour()
    monkeypatch.setattr(touches, "WORK", 20 * (touches.BESIDES + int(mask.sum())))
    made, calls = _touches(mask, asked), []
    error = made.error
    made.error = lambda values: calls.append(1) or error(values)
    made.touched(image, mask)
    assert len(calls) == 20 + 1


def test_nothing_asked_or_nothing_missed_moves_nothing(asked):
    image, mask = _tumour()
    assert np.array_equal(_touches(mask, {}).touched(image, mask), image)
    assert np.array_equal(_touches(mask, _features(image, mask)).touched(image, mask), image)


def test_a_solve_ends_nearer_for_them_and_a_large_tumour_goes_without(asked, monkeypatch):
    image, mask = _tumour(2)
    ends = {}
    for largest in (touches.LARGEST, 10):
        monkeypatch.setattr(solver, "LARGEST", largest)
        ends[largest] = solver.solve(image, mask, asked, spacing=SPACING, integer=True, iterations=10)
    near, without = (_touches(mask, asked).error(end.array[mask]) for end in ends.values())
    assert near < 0.8 * without
    assert all(np.array_equal(end.array[~mask], image[~mask]) for end in ends.values())


def test_a_few_asked_features_come_within_a_hundredth(asked):
    image, mask = _tumour(3)
    wish = {"original_glcm_Contrast": 0.9 * _features(image, mask)["original_glcm_Contrast"]}
    array, _ = _touches(mask, wish).finished(image, None, (-np.inf, np.inf))
    assert _features(array, mask)["original_glcm_Contrast"] == pytest.approx(*wish.values(), rel=0.01)

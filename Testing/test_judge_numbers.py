"""Named numbers of edits: each on an array whose answer can be worked out by hand."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
pytest.importorskip("skimage", reason="the training extra is not installed")
import judge_numbers as numbers

SPACING = (3.0, 1.0, 1.0)  # z, y, x in mm
SHAPE = (9, 56, 56)


def noise(sd=10.0, mean=50.0, seed=0):
    return np.random.default_rng(seed).normal(mean, sd, SHAPE)


def ball(radius=9.0):
    z, y, x = np.indices(SHAPE) - np.array([4, 28, 28])[:, None, None, None]
    return (3 * z) ** 2 + y**2 + x**2 <= radius**2


def test_an_untouched_place_is_as_what_is_around():
    found = numbers.healthy(noise(), ball(), SPACING, ct=True)
    assert found["grain"] == pytest.approx(1, abs=0.08) and found["power"] == pytest.approx(1, abs=0.15)
    assert found["step"] == pytest.approx(1, abs=0.5)
    assert abs(found["lag_plane"]) < 0.08 and abs(found["lag_slice"]) < 0.08
    assert found["level"] < 0.3  # means of 75 voxels are off by sd / sqrt(75)


def test_level_is_in_robust_sd_of_the_nearest_kind():
    image, hole = noise(), ball()
    image[hole] = 50 + 2 * 10.0
    found = numbers.healthy(image, hole, SPACING, ct=True)
    assert found["level"] == pytest.approx(2, abs=0.1) and found["level_90"] == pytest.approx(2, abs=0.1)
    fat = image.copy()
    fat[:, :, :28] -= 150  # half of the surroundings is another kind; the hole is as far off the nearer one
    fat[hole] = 70
    assert numbers.healthy(fat, hole, SPACING, ct=True)["level"] == pytest.approx(2, abs=0.15)


def test_a_smooth_filling_has_neither_grain_nor_power():
    image, hole = noise(), ball()
    image[hole] = 50 + np.random.default_rng(1).normal(0, 2.5, hole.sum())
    found = numbers.healthy(image, hole, SPACING, ct=True)
    assert found["grain"] == pytest.approx(0.25, abs=0.08)
    assert found["power"] < 0.15  # a sixteenth, and what leaks in over the border


def test_a_step_is_compared_with_those_farther_out():
    image, hole = noise(sd=4.0), ball()
    image[hole] += 40
    assert numbers.healthy(image, hole, SPACING, ct=True)["step"] > 10


def test_grain_that_runs_through_slices_is_seen():
    image, hole = noise(), ball()
    image[hole] = np.broadcast_to(image[:1], image.shape)[hole]  # every slice of the hole is the first one
    found = numbers.healthy(image, hole, SPACING, ct=True)
    assert found["lag_slice"] > 0.7 and abs(found["lag_plane"]) < 0.1


def test_power_is_that_of_the_finest_pattern():
    checks = np.indices(SHAPE).sum(0) % 2 * 2.0 - 1  # alternates in both directions: .71 cycles per voxel
    wave = np.sin(2 * np.pi * np.arange(SHAPE[2]) / 8) * np.ones(SHAPE)  # .125
    deep = (slice(None), slice(10, -10), slice(10, -10))
    fine, coarse = (numbers.fine_power(a)[deep].mean() for a in (checks, wave))
    assert fine == pytest.approx(1, rel=0.25) and coarse < 1e-3
    assert numbers.fine_power(3 * checks)[deep].mean() == pytest.approx(9 * fine)


def test_specks_are_counted_by_the_unit_of_the_real_tumour():
    image, mask = np.zeros(SHAPE), np.zeros(SHAPE, bool)
    mask[2:7, 18:38, 18:38] = True  # 2,000 voxels
    image[4, 20:36:4, 20:36:4] = 100  # 16 of them
    assert numbers.specks(image, mask, unit=10.0) == pytest.approx(8.0)
    assert numbers.specks(image, mask, unit=26.0) == 0
    assert numbers.tumour(image, mask, SPACING, unit=10.0)["specks"] == pytest.approx(8.0)


def test_step_over_the_border_is_the_difference_of_faces():
    mask = np.zeros(SHAPE, bool)
    mask[3:6, 20:30, 20:30] = True
    assert numbers.border_step(np.where(mask, 70.0, 20.0), mask) == pytest.approx(50)
    half = np.where(mask, 70.0, 20.0)
    half[mask & ~ndimage.binary_erosion(mask, numbers.PLANE)] = 45  # a soft rim
    assert numbers.border_step(half, mask) == pytest.approx(25)


@pytest.mark.parametrize("sigma", [1.0, 1.6])
def test_width_of_a_blurred_border_is_known(sigma):
    sharp = np.zeros((3, 80, 80))
    y, x = np.indices((80, 80)) - 40
    mask = np.broadcast_to(y**2 + x**2 <= 20**2, sharp.shape)
    image = ndimage.gaussian_filter(np.where(mask, 100.0, 0.0), (0, sigma, sigma))
    image += np.random.default_rng(0).normal(0, 0.5, image.shape)
    # From 10 to 90 % of a Gaussian's integral: 2.563 sigma; bins of half a voxel and the pixels themselves widen it.
    expected = 2.563 * math.hypot(sigma, 0.3)
    assert numbers.border_width(image, mask, SPACING, 0.5) == pytest.approx(expected, rel=0.12)
    assert numbers.border_width(image, mask, (3.0, 2.0, 2.0), 0.5) == pytest.approx(
        2 * expected, rel=0.12
    )  # mm


def test_a_loose_contour_is_tightened_to_where_the_tumour_ends():
    y, x = np.indices((80, 80)) - 40
    mask = np.broadcast_to(y**2 + x**2 <= 20**2, (3, 80, 80))
    loose = np.broadcast_to(y**2 + (x - 2) ** 2 <= 22**2, mask.shape)
    image = ndimage.gaussian_filter(np.where(mask, 100.0, 0.0), (0, 1.2, 1.2))
    image += np.random.default_rng(0).normal(0, 10, image.shape)
    width = numbers.border_width(image, mask, SPACING, 5.0)
    assert numbers.border_width(image, loose, SPACING, 5.0) > 1.2 * width
    tight = numbers.tightened(image, loose, 5.0)
    assert numbers.border_width(image, tight, SPACING, 5.0) == pytest.approx(width, rel=0.12)
    assert tight.sum() == pytest.approx(mask.sum(), rel=0.04)
    assert (
        numbers.tightened(np.full(mask.shape, 7.0), mask, 5.0) == mask
    ).all()  # nothing tells where it ends


def test_a_border_that_was_there_already_has_no_part_in_a_new_tumours_width():
    y, x = np.indices((80, 80)) - 40
    mask = np.broadcast_to(y**2 + x**2 <= 20**2, (3, 80, 80))
    image = ndimage.gaussian_filter(np.where(mask, 100.0, 0.0), (0, 1.5, 1.5))
    sharp = np.where(mask & (x < 0), 100.0, 0.0)  # half of it is muscle with a border of its own
    image = np.where(x < 0, sharp, image) + np.random.default_rng(0).normal(0, 0.5, mask.shape)
    both = numbers.border_width(image, mask, SPACING, 0.5)
    new = numbers.border_width(image, mask, SPACING, 0.5, before=sharp)
    assert new == pytest.approx(2.563 * math.hypot(1.5, 0.3), rel=0.12) and both < 0.9 * new
    assert math.isnan(numbers.border_width(image, mask, SPACING, 0.5, before=np.where(mask, 100.0, 0.0)))


def test_there_is_no_width_without_contrast():
    assert math.isnan(numbers.border_width(noise(), ball(), SPACING, 10.0))


def test_correlation_of_grain_by_axis():
    mask = np.ones(SHAPE, bool)
    along_x = ndimage.uniform_filter1d(
        noise(), 2, axis=2
    )  # neighbours along x share half of what they are made of
    x, y, z = numbers.grain_lags(along_x, mask)
    assert x == pytest.approx(0.45, abs=0.08) and abs(y) < 0.1 and abs(z) < 0.05


def test_pattern_knows_neither_level_nor_gain():
    mask, image = ball(14), ndimage.gaussian_filter(noise(), (0, 4, 4))
    assert numbers.pattern(image, 3 * image + 100, mask, SPACING, 3.0) == pytest.approx(1)
    assert (
        abs(numbers.pattern(image, ndimage.gaussian_filter(noise(seed=7), (0, 4, 4)), mask, SPACING, 3.0))
        < 0.6
    )
    assert numbers.pattern(image, np.full(SHAPE, 5.0), mask, SPACING, 3.0) == 0


def test_a_place_without_surroundings_has_no_numbers():
    found = numbers.healthy(noise(), np.ones(SHAPE, bool), SPACING, ct=True)
    assert all(math.isnan(v) for v in found.values())
    assert set(numbers.COMPARED) >= set(found)


@pytest.mark.parametrize("spacing, shape", [((1.0, 1.0, 1.0), (50, 60, 60)), ((2.5, 0.7, 0.7), (20, 84, 84))])
def test_vessels_that_run_up_to_a_tumour_count_as_whole_and_cut_ones_do_not(spacing, shape):
    rng = np.random.default_rng(0)
    z, y, x = (np.indices(shape) - (np.array(shape) / 2)[:, None, None, None]) * np.array(spacing)[
        :, None, None, None
    ]

    def soft(where, mm):
        return ndimage.gaussian_filter(where.astype(float), [mm / s for s in spacing])

    lung = -850 + rng.normal(0, 30, shape)
    before = lung + 850 * soft((np.hypot(z, y) < 1.6) | (np.hypot(z - 9, x - 3) < 1.2), 0.7)
    mask, away = z**2 + y**2 + x**2 < 9**2, np.sqrt(z**2 + y**2 + x**2)
    none, share = np.zeros(shape, bool), soft(mask, 1.0)

    def ratio(around):
        made, plain = numbers.vessels(before, 30 * share + (1 - share) * around, mask, none, spacing)
        return made / plain

    assert ratio(before) == pytest.approx(1, abs=0.05)
    assert ratio(np.where(away < 11, lung, before)) < 0.9
    assert ratio(np.where(away < 13, lung, before)) < 0.6
    assert all(math.isnan(v) for v in numbers.vessels(lung, lung, mask, none, spacing))

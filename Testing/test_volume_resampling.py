"""Our resampling against pyradiomics' own, on random images, and the operators behind it."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from TumorSynthLib.resampling import Lattice, apply_separable, axis_operator, bounding_box, bspline_matrix
from TumorSynthLib.volume import Volume, resample_like_pyradiomics


def random_case(seed):
    """Random image, mask and wanted spacing; every third asks for exactly half the resolution (ties)."""
    rng = np.random.default_rng(seed)
    size = rng.integers(5, 32, 3)
    if seed % 5 == 0:
        size[rng.integers(3)] = 1
    dtype = (np.float32, np.float64, np.int16, np.uint8)[seed % 4]
    array = np.abs(rng.normal(60, 40, size)).astype(dtype)
    mask = np.zeros(size, bool)
    low = [int(rng.integers(0, max(1, n - 2))) for n in size]
    mask[tuple(slice(a, a + int(rng.integers(1, n - a + 1))) for a, n in zip(low, size))] = True
    mask &= rng.random(size) < 0.8
    mask[tuple(low)] = True
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if seed % 2:
        turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    spacing = rng.uniform(0.4, 4, 3)
    wanted = spacing * 2 if seed % 3 == 0 else rng.uniform(0.5, 3, 3)
    if seed % 7 == 0:
        wanted[rng.integers(3)] = 0
    if seed % 13 == 0:
        wanted = spacing
    volume = Volume(array, tuple(spacing), tuple(rng.normal(0, 100, 3)), tuple(turn.ravel()))
    return volume, mask, tuple(float(s) for s in wanted)


@pytest.mark.parametrize("seed", range(60))
def test_same_grid_values_and_mask_as_pyradiomics(seed):
    imageoperations = pytest.importorskip("radiomics.imageoperations")
    volume, mask, wanted = random_case(seed)
    labels = sitk.Cast(volume.with_array(mask).sitk(), sitk.sitkUInt32)
    image, labels = imageoperations.resampleImage(
        volume.sitk(), labels, resampledPixelSpacing=list(wanted), padDistance=5, label=1
    )
    ours = resample_like_pyradiomics(volume, mask, wanted)
    expected = sitk.GetArrayFromImage(image).astype(float)
    expected_mask = sitk.GetArrayFromImage(labels) > 0
    assert ours.spacing == pytest.approx(image.GetSpacing())
    assert np.array_equal(ours.mask, expected_mask)
    np.testing.assert_allclose(ours.array[ours.mask], expected[expected_mask], atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_bspline_matrix_is_the_interpolating_spline(size):
    values = np.random.default_rng(size).normal(size=size)
    positions = np.linspace(-0.5, size - 0.51, 50)
    expected = (
        ndimage.map_coordinates(values, positions[None], order=3, mode="mirror")
        if size > 1
        else values.repeat(50)
    )
    np.testing.assert_allclose(bspline_matrix(positions, size) @ values, expected, atol=1e-10)
    np.testing.assert_allclose(bspline_matrix(np.arange(size), size), np.eye(size), atol=1e-10)


def test_a_window_gives_the_values_of_the_whole_image():
    rng = np.random.default_rng(0)
    array = rng.normal(size=(50, 60, 70))
    lattices = [Lattice(n, ratio) for n, ratio in zip(array.shape, (0.7, 1.3, 0.5))]
    whole = [axis_operator(lattice, np.arange(lattice.count))[0] for lattice in lattices]
    window = [np.arange(12, 20), np.arange(30, 45), np.arange(14, 18)]
    part, start = zip(*(axis_operator(lattice, w) for lattice, w in zip(lattices, window)))
    crop = tuple(slice(s, s + op.shape[1]) for op, s in zip(part, start))
    assert crop[2].stop - crop[2].start < 50
    np.testing.assert_allclose(
        apply_separable(part, array[crop]), apply_separable(whole, array)[np.ix_(*window)], atol=1e-6
    )


@pytest.mark.parametrize("interpolator", ["sitkLinear", "sitkNearestNeighbor"])
def test_other_interpolators(interpolator):
    imageoperations = pytest.importorskip("radiomics.imageoperations")
    volume, mask, wanted = random_case(1)
    image, _ = imageoperations.resampleImage(
        volume.sitk(), sitk.Cast(volume.with_array(mask).sitk(), sitk.sitkUInt32),
        resampledPixelSpacing=list(wanted), interpolator=interpolator,
    )  # fmt: skip
    ours = resample_like_pyradiomics(volume, mask, wanted, interpolator=interpolator)
    np.testing.assert_allclose(ours.array[ours.mask], sitk.GetArrayFromImage(image)[ours.mask], atol=1e-4)


def test_flipped_lattice_is_the_same_grid_from_the_other_end():
    plain, flipped = Lattice(11, 0.7), Lattice(11, 0.7, flipped=True)
    samples = np.arange(plain.count)
    np.testing.assert_allclose(flipped.positions(samples)[::-1], 10 - plain.positions(samples))
    np.testing.assert_allclose(flipped.samples_at(flipped.positions(samples)), samples, atol=1e-12)


def test_bounding_box():
    mask = np.zeros((4, 5, 6), bool)
    assert all(s.stop == s.start for s in bounding_box(mask))
    mask[1, 2, 3] = mask[2, 4, 1] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 5), slice(1, 4))

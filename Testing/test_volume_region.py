"""The working region: same tumour in the same place whatever the order, direction and spacing of the file."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Region, Volume, resample_like_pyradiomics

SPACING = (0.8, 0.9, 2.5)
ORDERS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def tumour(shape=(20, 30, 40), dtype=np.int16, seed=0):
    """Random image in LPS order with a ragged mask."""
    rng = np.random.default_rng(seed)
    array = rng.normal(0, 100, shape).astype(dtype)
    mask = np.zeros(shape, bool)
    mask[5:13, 8:20, 9:30] = rng.random((8, 12, 21)) < 0.7
    return array, mask


def rotation(seed):
    """Right-handed rotation by less than 45 degrees, so that LPS stays the nearest order."""
    x, y, z = np.random.default_rng(seed).uniform(-0.4, 0.4, 3)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.linalg.solve(np.eye(3) + skew / 2, np.eye(3) - skew / 2)


def stored(array, mask, order, flips, turn=None, spacing=SPACING):
    """The LPS image stored with its axes in another order: volume and mask, the same voxels at the same places."""
    turn = np.eye(3) if turn is None else turn
    steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
    directions, sizes, origin = np.zeros((3, 3)), np.zeros(3), np.array([5.0, -20.0, 300.0])
    for axis, (source, flip) in enumerate(zip(order, flips)):
        world, column = 2 - source, 2 - axis
        directions[:, column] = turn[:, world] * (-1 if flip else 1)
        sizes[column] = spacing[world]
        if flip:
            origin = origin + turn[:, world] * (array.shape[source] - 1) * spacing[world]
    volume = Volume(array.transpose(order)[steps], tuple(sizes), tuple(origin), tuple(directions.ravel()))
    return volume, mask.transpose(order)[steps]


def positions(volume, mask):
    """Sorted LPS positions of the mask's voxels."""
    points = volume.points(np.argwhere(mask)[:, ::-1]).round(6)
    return points[np.lexsort(points.T)]


@pytest.mark.parametrize("turn", [None, rotation(1)], ids=["straight", "oblique"])
@pytest.mark.parametrize("order, flips", ORDERS)
def test_edit_lands_in_the_same_place(order, flips, turn):
    array, mask = tumour()
    volume, stored_mask = stored(array, mask, order, flips, turn)
    plain, plain_mask = stored(array, mask, (0, 1, 2), (False,) * 3, turn)
    for spacing in (None, (1.0, 1.0, 1.9)):
        region = Region.around(volume, stored_mask, spacing, margin_mm=6, multiple=(4, 4, 4))
        after = region.paste(region.native + 100)
        changed = after != volume.array
        assert np.array_equal(changed, stored_mask)
        assert (after[changed] - volume.array[changed] == 100).all()
        np.testing.assert_allclose(positions(volume, changed), positions(plain, plain_mask), atol=1e-5)


@pytest.mark.parametrize("order, flips", ORDERS)
def test_working_array_does_not_depend_on_the_order(order, flips):
    array, mask = tumour()
    volume, stored_mask = stored(array, mask, order, flips)
    expected = Region.around(*stored(array, mask, (0, 1, 2), (False,) * 3), None, 6, (4, 4, 4))
    region = Region.around(volume, stored_mask, None, 6, (4, 4, 4))
    assert np.array_equal(region.array, expected.array)
    assert np.array_equal(region.mask, expected.mask)
    assert np.array_equal(region.valid, expected.valid)
    assert region.spacing == pytest.approx(expected.spacing)


@pytest.mark.parametrize("order, flips", ORDERS[::5])
def test_grid_is_that_of_pyradiomics_for_the_file_as_stored(order, flips):
    volume, mask = stored(*tumour(dtype=np.float32), order, flips)
    region = Region.around(volume, mask, (1.0, 1.1, 1.9), margin_mm=10)
    along_file = [0.0] * 3
    for lps_axis, file_axis in enumerate(region.frame.order):
        along_file[2 - file_axis] = region.spacing[2 - lps_axis]
    expected = resample_like_pyradiomics(volume, mask, tuple(along_file))
    assert np.array_equal(region.frame.back(region.mask).nonzero()[0].size, expected.mask.sum())
    values = region.frame.back(region.array)[region.frame.back(region.mask)]
    np.testing.assert_allclose(values, expected.array[expected.mask], atol=1e-2)


def test_left_handed_direction_is_kept():
    array, mask = tumour()
    volume = Volume(array, SPACING, direction=(1, 0, 0, 0, 1, 0, 0, 0, -1))
    region = Region.around(volume, mask, (1, 1, 2), 5)
    assert np.array_equal(region.paste(region.native + 7) != array, mask)
    assert region.frame.flip == (True, False, False)


def test_padding_and_margin_at_the_border():
    array = np.random.default_rng(0).normal(0, 100, (6, 12, 12)).astype(np.int16)
    mask = np.zeros(array.shape, bool)
    mask[0:3, 0:4, 8:12] = True
    volume = Volume(array, SPACING)
    region = Region.around(volume, mask, None, margin_mm=100, multiple=(8, 8, 8))
    assert region.shape == (8, 16, 16)
    assert region.valid.sum() == array.size
    assert np.array_equal(region.array[region.valid], array.ravel().astype(np.float32))
    assert np.array_equal(region.array[6:, :12, :12], np.repeat(array[5:6], 2, axis=0).astype(np.float32))
    assert np.array_equal(region.paste(region.native - 50) != array, mask)
    finer = Region.around(volume, mask, (0.5, 0.5, 1.0), margin_mm=100, multiple=(8, 8, 8))
    assert not finer.valid.all() and finer.mask[finer.valid].sum() == finer.mask.sum()
    assert np.array_equal(finer.paste(finer.native - 50) != array, mask)


def test_margin_is_clipped_and_covers_what_was_asked():
    array, mask = tumour((40, 60, 60))
    region = Region.around(Volume(array, SPACING), mask, None, margin_mm=8)
    found = np.argwhere(region.mask).min(axis=0)
    assert tuple(found) == (4, 8, 9)  # 8 mm are 4 slices, 9 rows (the mask starts in row 8), 10 columns (9)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_thin_images(slices):
    rng = np.random.default_rng(slices)
    array = rng.normal(0, 100, (slices, 24, 24)).astype(np.float32)
    mask = np.zeros(array.shape, bool)
    mask[:, 6:18, 6:18] = True
    region = Region.around(Volume(array, (0.7, 0.7, 5.0)), mask, (1.0, 1.0, 2.0), 5, (4, 4, 4))
    assert np.isfinite(region.array).all() and region.mask.any()
    assert region.spacing[2] == (5.0 if slices == 1 else 2.0)  # an axis of one slice is never resampled
    assert np.array_equal(region.paste(region.native + 1) != array, mask)
    back = region.to_native(region.array + 10 * region.mask)
    assert np.array_equal(
        back != array[tuple(slice(s, s + n) for s, n in zip(region.start, back.shape))], mask
    )


def test_only_the_models_own_grid_is_not_resampled():
    """pyradiomics' rule: spacings that agree to 1e-5, as numbers in headers do."""
    array, mask = tumour()
    volume = Volume(array, (0.9765625, 0.9765625, 3.27))
    assert Region.around(volume, mask, (0.976562, 0.976562, 3.27), 5).operators is None
    assert Region.around(volume, mask, (0.977, 0.977, 3.27), 5).operators is not None


@pytest.mark.parametrize(
    "spacing, exact", [((0.5, 0.5, 0.5), True), ((0.6, 0.6, 0.7), True), ((0.7, 0.7, 2.5), False)]
)
def test_to_native_recovers_an_edit(spacing, exact):
    rng = np.random.default_rng(3)
    shape = (40, 50, 60)
    array = rng.normal(0, 100, shape).astype(np.float32)
    z, y, x = np.indices(shape)
    mask = ((z - 20) / 12) ** 2 + ((y - 25) / 15) ** 2 + ((x - 30) / 16) ** 2 < 1
    region = Region.around(Volume(array, spacing), mask, (1.0, 1.0, 1.0), 8)
    edited = np.where(region.native_mask, rng.normal(50, 30, region.native.shape), region.native)
    wanted = region.measure(edited)
    native = region.to_native(wanted)
    assert np.array_equal(native[~region.native_mask], region.native[~region.native_mask])
    miss = (region.measure(native) - wanted)[region.mask].std() / wanted[region.mask].std()
    assert miss < (0.001 if exact else 0.04)  # thick voxels: see the next test


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 2.5), (0.57, 0.57, 5.0)])
def test_thick_slices_take_no_spikes_from_what_lies_outside_the_mask(spacing):
    """A removal in slices thicker than the working grid once drew black and white voxels along the border."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices((20, 50, 60))
    body = ((z - 10) / 6) ** 2 + ((y - 25) / 15) ** 2 + ((x - 30) / 16) ** 2 < 1.2
    mask = ((z - 10) / 6) ** 2 + ((y - 25) / 15) ** 2 + ((x - 30) / 16) ** 2 < 1
    array = np.where(body, 0, -850) + rng.normal(0, 10, body.shape)
    region = Region.around(Volume(array.astype(np.float32), spacing), mask, (0.7, 0.7, 1.25), 8)
    wanted = np.where(region.mask, -850 + rng.normal(0, 10, region.mask.shape), region.array)
    native = region.to_native(wanted)[region.native_mask]
    assert (
        wanted[region.mask].min() - 0.01 <= native.min() and native.max() <= wanted[region.mask].max() + 0.01
    )
    assert abs(native.mean() + 850) < 10


def test_a_voxel_that_the_grid_hardly_sees_does_not_run_away():
    """In slices thinner than the working grid's, one mask voxel at the end of a nodule was once driven to 6000 HU."""
    rng = np.random.default_rng(1)
    z, y, x = np.indices((14, 40, 40))
    mask = ((z - 6) / 2.6) ** 2 + ((y - 20) / 4) ** 2 + ((x - 20) / 4) ** 2 < 1
    mask[9, 20, 20] = True
    array = np.round(-750 + ndimage.gaussian_filter(rng.normal(0, 60, mask.shape), 0.6)).astype(np.float32)
    region = Region.around(Volume(array, (0.78125, 0.78125, 1.0)), mask, (0.7, 0.7, 1.25), 8)
    wanted = np.where(region.mask, -700 + rng.normal(0, 15, region.mask.shape), region.array)
    native = region.to_native(wanted)[region.native_mask]
    spread = np.ptp(wanted[region.mask])
    assert (
        wanted[region.mask].min() - spread < native.min()
        and native.max() < wanted[region.mask].max() + spread
    )


def test_measure_as_stored_is_what_pyradiomics_reads_after_the_paste():
    array, mask = tumour(dtype=np.int16)
    volume = Volume(array, SPACING)
    region = Region.around(volume, mask, (1.1, 1.1, 2.0), 8)
    native = region.native + np.random.default_rng(0).normal(0, 20, region.native.shape)
    after = volume.with_array(region.paste(native))
    expected = resample_like_pyradiomics(after, mask, (1.1, 1.1, 2.0))
    assert np.array_equal(region.measure(native, as_stored=True)[region.mask], expected.array[expected.mask])
    fresh = Region.around(after, mask, (1.1, 1.1, 2.0), 8)
    np.testing.assert_allclose(fresh.array, region.measure(fresh.native), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_paste_rounds_and_clips_to_the_file_type(dtype):
    array, mask = tumour(dtype=np.float64)
    array = np.abs(array).astype(dtype)
    region = Region.around(Volume(array, SPACING), mask)
    after = region.paste(np.full(region.shape, 1e5 + 0.6, dtype=np.float32))
    assert after.dtype == array.dtype
    top = {"uint8": 255, "int16": 32767, "uint16": 65535, "int32": 100001}.get(
        np.dtype(dtype).name, 1e5 + 0.6
    )
    np.testing.assert_allclose(after[mask], top, rtol=1e-6)
    assert np.array_equal(after[~mask], array[~mask])


def test_patch_applies_and_reverts_exactly():
    volume, mask = stored(*tumour(), (2, 0, 1), (True, False, True))
    region = Region.around(volume, mask, (1, 1, 2), 5)
    patch = region.patch(region.native + 33)
    array = volume.array.copy()
    assert np.array_equal(patch.apply(array), region.paste(region.native + 33))
    assert patch.before.size <= 8 * 12 * 21
    assert np.array_equal(patch.revert(array), volume.array)


def test_only_the_region_is_touched_in_a_large_volume():
    array, mask = np.zeros((2, 2, 2), np.int16), np.zeros((512, 512, 512), bool)
    array = np.broadcast_to(array[:1, :1, :1], mask.shape)  # no memory behind it: a full copy would show
    mask[200:220, 240:270, 100:130] = True
    import tracemalloc

    tracemalloc.start()
    region = Region.around(Volume(array, (0.69, 0.71, 0.8)), mask, (1, 1, 1), 20, (8, 8, 8))
    region.patch(region.native + 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize(
    "mask, spacing, words",
    [
        (np.zeros((10, 10, 10), bool), None, "empty"),
        (np.ones((10, 10, 9), bool), None, "read_mask"),
        (np.pad(np.ones((2, 1, 2), bool), ((4, 4), (4, 5), (4, 4))), (40.0, 40.0, 40.0), "too small"),
    ],
)
def test_bad_masks(mask, spacing, words):
    volume = Volume(np.zeros((10, 10, 10), np.int16), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=words) as caught:
        Region.around(volume, mask, spacing)
    assert "\n" not in str(caught.value)

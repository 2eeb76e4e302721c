"""Tumours moved, reshaped and inserted by opacity, colour and grain."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import BandConfig, Filter
from TumorSynthLib.texture.exemplar.carry import Source, contact_of, moved, on_wall, reshaped
from TumorSynthLib.texture.exemplar.graft import grafted, resampled
from TumorSynthLib.texture.exemplar.matte import composed, depth_of, ramp
from TumorSynthLib.texture.exemplar.place import detached, in_soft_tissue, laid_over, wall_of
from TumorSynthLib.texture.exemplar.removal import remove
from TumorSynthLib.texture.exemplar.room import filled_up
from TumorSynthLib.texture.exemplar.scan import blur_mm, grain_of, without_grain
from TumorSynthLib.texture.exemplar.warp import motion_between, warped

SPACING = (1.0, 1.0, 1.0)
SHAPE = (24, 48, 48)


def ball(centre, radius, shape=SHAPE):
    grid = np.indices(shape)
    return ((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= radius**2


def scene(level=60.0, background=-100.0, noise=8.0, centre=(12, 20, 20), radius=7, seed=0):
    """Image with a blurred ball, the same without it, and its mask."""
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.normal(size=SHAPE), (0, 0.5, 0.5)) * noise * 2
    empty = (background + grain).astype(np.float32)
    mask = ball(centre, radius)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.8)
    texture = 10 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0) * 8
    return empty + soft * (level - background + texture), empty, mask


def changed_of(mask, mm=4.0):
    return ndimage.distance_transform_edt(~mask, SPACING) <= mm


@pytest.fixture(scope="module")
def case():
    image, empty, mask = scene()
    source = Source(image, empty, mask, changed_of(mask), SPACING, True)
    return image, empty, mask, *source.matte(), source


def test_a_tumour_comes_back_to_the_voxel(case):
    image, empty, _, matte, box, _ = case
    back = composed(matte, empty[box]) + matte.residual
    assert np.abs(back - image[box])[matte.touched].max() < 1e-3


def test_opacity_is_one_inside_and_zero_outside_and_half_at_the_border(case):
    _, _, mask, matte, box, _ = case
    depth = depth_of(mask[box], SPACING)
    assert matte.opacity[depth > 4].min() > 0.95
    assert matte.opacity[depth < -4].max() < 0.05
    assert 0.25 < matte.opacity[np.abs(depth) <= 0.5].mean() < 0.75


def test_a_moved_tumour_leaves_the_background_and_changes_nothing_else(case):
    image, empty, mask, _, _, source = case
    laid = moved(source, (0, 12, 14))
    out = empty.copy()
    out[laid.box] = laid.values
    there = np.zeros(SHAPE, bool)
    there[laid.box] = laid.changed
    assert (out[~there] == empty[~there]).all()
    now = np.zeros(SHAPE, bool)
    now[laid.box] = laid.mask
    assert (now == np.roll(mask, (12, 14), (1, 2))).all()
    core = ndimage.binary_erosion(mask, iterations=4)
    assert np.allclose(out[np.roll(core, (12, 14), (1, 2))], image[core], atol=4)


def test_the_input_is_not_written_to(case):
    empty, source = case[1], case[-1]
    before = empty.copy()
    moved(source, (0, 3, 3))
    assert (before == empty).all()


def test_a_tumour_partly_outside_the_image_is_cut(case):
    _, empty, _, matte, *_ = case
    laid = laid_over(empty, matte, (-3, 30, 30))
    assert laid.values.shape == tuple(s.stop - s.start for s in laid.box)
    assert all(0 <= s.start < s.stop <= n for s, n in zip(laid.box, SHAPE))


def test_the_same_mask_gives_the_image_back(case):
    image, empty, mask, _, _, source = case
    laid = reshaped(source, mask)
    assert np.abs(laid.values - image[laid.box])[laid.changed].max() < 1e-3


@pytest.mark.parametrize("radius", [5, 9])
def test_a_grown_or_shrunk_tumour_has_its_new_mask_and_its_old_border(case, radius):
    image, empty, mask, _, _, source = case
    new = ball((12, 20, 20), radius)
    laid = reshaped(source, new)
    out = empty.copy()
    out[laid.box] = laid.values

    def width(picture, m):
        depth = depth_of(m, SPACING)
        profile = [picture[np.abs(depth - d) <= 0.5].mean() for d in np.arange(-4, 4.1, 0.5)]
        share = np.clip((np.array(profile) - profile[0]) / (profile[-1] - profile[0]), 0, 1)
        return np.interp(0.9, np.maximum.accumulate(share), np.arange(17)) - np.interp(
            0.1, np.maximum.accumulate(share), np.arange(17)
        )

    assert width(out, new) == pytest.approx(width(image, mask), rel=0.3)
    assert out[ndimage.binary_erosion(new, iterations=2)].mean() == pytest.approx(
        image[ndimage.binary_erosion(mask, iterations=2)].mean(), abs=12
    )


@pytest.mark.parametrize("radius", [6, 10])
def test_the_finest_grain_is_as_strong_at_each_depth_as_in_the_tumour(radius):
    image, empty, mask = scene(level=900.0, background=-800.0, noise=12.0, radius=8)
    quiet = ball((12, 20, 20), 5)  # less noise deep inside than at the border
    image[quiet] = ndimage.gaussian_filter(image, (0, 0.45, 0.45))[quiet]
    source = Source(image, empty, mask, changed_of(mask, 5.0), SPACING, True)
    new = ball((12, 20, 20), radius)
    laid = reshaped(source, new)
    out = empty.copy()
    out[laid.box] = laid.values

    def powers(picture, tumour):
        depth, top = depth_of(tumour, SPACING), Filter(SHAPE, BandConfig(cutoff=0.45)).grain(picture)
        return np.array([(top[(depth > d) & (depth < d + 2)] ** 2).mean() for d in (0, 2, 4)])

    ratio = powers(out, new) / powers(image, mask)
    assert (ratio > 0.6).all() and (ratio < 1.5).all(), ratio


def test_motion_carries_one_contour_onto_the_other():
    old = ball((12, 22, 22), 8)
    new = ndimage.binary_dilation(old, iterations=2) & (np.indices(SHAPE)[2] > 16)
    motion = motion_between(old, new, SPACING)
    at = np.indices(SHAPE) - motion
    carried = ndimage.map_coordinates(depth_of(old, SPACING), at, order=1, mode="nearest") > 0
    assert 2 * (carried & new).sum() / (carried.sum() + new.sum()) > 0.96


def test_motion_is_the_same_for_any_number_of_threads():
    import SimpleITK as sitk

    old, new = ball((12, 22, 22), 7), ball((12, 23, 22), 9)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 2, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(motion_between(old, new, SPACING))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert all((f == found[0]).all() for f in found)


def test_no_motion_between_equal_masks(case):
    _, _, mask, matte, box, _ = case
    assert not motion_between(mask, mask, SPACING).any()
    assert warped(matte, mask[box]) is matte


def test_bands_of_a_scan_add_up_and_grain_is_fine():
    x = np.arange(64)
    slow, fast = np.sin(2 * np.pi * x * 0.1), np.sin(2 * np.pi * x * 0.48)
    image = np.broadcast_to(slow + fast, (2, 64, 64)).copy()
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs((grain_of(image) - fast)[inner]).max() < 0.2
    assert np.abs((without_grain(image) - slow)[inner]).max() < 0.2


def test_a_sharper_scan_has_less_blur():
    edges = ball((12, 24, 24), 14).astype(np.float32) * 500
    sharp, soft = (blur_mm(ndimage.gaussian_filter(edges, (0, s, s)), SPACING) for s in (0.8, 1.8))
    assert sharp < soft


def test_a_graft_on_another_grid_keeps_its_volume_and_level(case):
    matte = case[3]
    other = resampled(matte, (2.0, 0.8, 0.8))
    assert other.mask.sum() * 2 * 0.64 == pytest.approx(matte.mask.sum(), rel=0.1)
    _, empty, _ = scene(seed=3)
    laid = grafted(empty, SPACING, ball((12, 30, 28), 7), matte, 0.8)
    middle = ndimage.binary_erosion(laid.mask, iterations=3)
    assert laid.values[middle].mean() == pytest.approx(60, abs=25)
    assert np.argwhere(laid.mask).mean(0) + [s.start for s in laid.box] == pytest.approx([12, 30, 28], abs=1)


def test_a_graft_has_the_grain_of_a_noisy_scan_without_the_fascia_under_it(case):
    """Streaks as wide as a CT's, which a smooth donor would cover with a smooth disc."""
    matte = case[3]
    rng = np.random.default_rng(4)
    streaks = ndimage.gaussian_filter(rng.normal(size=SHAPE), (0, 0.7, 0.7))
    place = (streaks * 20 / streaks.std() + 40).astype(np.float32)
    fascia = np.indices(SHAPE)[2] == 30
    laid = grafted(place - 150 * fascia.astype(np.float32), SPACING, ball((12, 30, 30), 7), matte, 0.8)
    middle, box = ndimage.binary_erosion(laid.mask, iterations=3), tuple(laid.box)
    beside = middle & (abs(np.indices(SHAPE)[2][box] - 30) > 2)
    fine = laid.values - ndimage.gaussian_filter(laid.values, (0, 1.2, 1.2))
    there = (place - ndimage.gaussian_filter(place, (0, 1.2, 1.2)))[box]
    assert 0.6 < fine[beside].std() / there[beside].std() < 1.3
    assert abs(laid.values[middle & fascia[box]].mean() - laid.values[beside].mean()) < 60  # of 150


def test_no_edge_of_what_was_there_shows_through_a_graft(case):
    matte, shape = case[3], (24, 64, 64)
    streaks = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=shape), (0, 0.7, 0.7))
    image = streaks * 20 / streaks.std() + np.where(np.indices(shape)[2] < 32, -110, 40)
    laid = grafted(image.astype(np.float32), SPACING, ball((12, 32, 32), 9, shape), matte, 0.8)
    middle = ndimage.binary_erosion(laid.mask, iterations=3)
    at = np.indices(shape)[2][laid.box]
    level = np.array([laid.values[middle & (at == i)].mean() for i in range(27, 37)])
    ripples = np.abs(level[2:-2] - (level[:-4] + level[4:]) / 2)
    assert ripples.max() < 8  # 25 where the edge shows


def test_slices_of_another_gain_show_no_stripes_in_a_graft(case):
    matte, shape = case[3], (24, 64, 64)
    matte = replace(matte, colour=matte.colour + 400)
    gain = 1 + 0.04 * np.resize([1, -1, 0], len(matte.mask))[:, None, None]
    striped = replace(matte, colour=matte.colour * gain, grain=matte.grain * gain)
    image = (300 + 5 * np.random.default_rng(3).normal(size=shape)).astype(np.float32)
    target = ball((12, 32, 32), 8, shape)

    def stripes(one):
        laid = grafted(image, SPACING, target, one, 0.8, is_ct=False)
        levels = [
            np.median(v[m]) for v, m in zip(laid.values, laid.mask & (laid.values > 400)) if m.sum() > 60
        ]
        return np.abs(np.diff(levels)).mean()

    assert stripes(striped) < stripes(matte) + 4  # of 27


def test_what_bone_takes_of_a_new_tumour_its_free_surface_gives():
    image = np.full((24, 64, 64), 40, np.float32)
    image[:, :, 36:44] = 800
    mask = ball((12, 32, 31), 9, image.shape)
    filled = filled_up(image, mask, SPACING, False, True)
    assert filled.sum() == pytest.approx(mask.sum(), rel=0.02) and (mask & ~filled).any()
    assert not (filled & (np.indices(image.shape)[2] >= 36)).any() and ndimage.label(filled)[1] == 1
    free = np.indices(image.shape)[0] < 20
    assert not (filled_up(image, mask, SPACING, False, True, free) & ~free & ~mask).any()
    image[:, :, 26:] = 800
    assert (filled_up(image, mask, SPACING, False, True) == mask).all()  # hardly any of it would be left


def test_marrow_is_bone_where_its_cortex_fades_and_where_the_image_cuts_it():
    k, j, i = np.indices((15, 60, 60))
    image = np.full(k.shape, 280, np.float32)
    for centre in (30, 57):
        far = np.hypot(j - centre, i - 30)
        image[far < 10], image[far < 6] = 30, 900
    image[6:9, 18:42, 34:40] = 280  # the ring is open in three slices
    image[:, :, :4] = 1000
    image[12:, 18:42, 36:40] = 280  # and from here on to its end
    may = in_soft_tissue(image, (3.3, 1.0, 1.0), False, 1000.0)
    assert may[:, 30, 30].max() == 0 and may[:, 58, 30].max() == 0 and may[:, 12, 12].min() == 1


@pytest.mark.parametrize("spacing", [SPACING, (2.0, 0.8, 0.8)])
def test_a_graft_ends_near_its_contour_though_the_donors_surroundings_looked_like_it(case, spacing):
    *_, matte, _, _ = case
    far = depth_of(matte.mask, SPACING) < -6
    matte = replace(matte, opacity=np.where(far, 0.5, matte.opacity).astype(np.float32))
    image = (40 + 10 * np.random.default_rng(3).normal(size=(24, 64, 64))).astype(np.float32)
    target = ball((12, 32, 32), 8, image.shape)
    laid = grafted(image, spacing, target, matte, 0.8)
    changed = np.zeros(image.shape, bool)
    changed[laid.box] = laid.changed
    assert changed[target].all() and not (changed & (depth_of(target, spacing) < -7)).any()


def test_a_graft_has_the_finest_grain_that_is_around_it(case):
    *_, matte, box, _ = case
    rng = np.random.default_rng(3)
    shape = (24, 64, 64)
    image = (40 + 12 * rng.normal(size=shape)).astype(np.float32)
    laid = grafted(image, SPACING, ball((12, 32, 32), 8, shape), matte, 0.8)
    out = image.copy()
    out[laid.box] = laid.values
    top = Filter(shape, BandConfig(cutoff=0.45))
    inside = ball((12, 32, 32), 6, shape)
    power = [float((top.grain(a)[inside] ** 2).mean()) for a in (out, image)]
    assert 0.8 < power[0] / power[1] < 1.25


def test_a_vessel_is_no_wall_and_a_tumour_on_the_wall_touches_it():
    lung = np.full(SHAPE, -850.0, np.float32)
    lung[:, :, :10] = 40
    lung[:, 30:33, :] = 40
    wall = wall_of(lung, SPACING)
    assert wall[12, 10, 5] and not wall[12, 31, 30]
    on_wall = ball((12, 16, 12), 6) & (np.indices(SHAPE)[2] >= 10)
    contact = contact_of(lung, on_wall, SPACING, True)
    assert contact is not None and contact[2] < 14
    assert contact_of(lung, ball((12, 16, 32), 6), SPACING, True) is None


def test_bone_and_its_marrow_stay_when_a_tumour_is_moved_or_grown_onto_them():
    image, empty, mask = scene(background=40.0, level=90.0)
    bone = ball((12, 20, 38), 5) & ~ball((12, 20, 38), 3)
    marrow = ball((12, 20, 38), 3)
    for picture in (image, empty):
        picture[bone], picture[marrow] = 900.0, -50.0
    source = Source(image, empty, mask, changed_of(mask), SPACING, True)
    for laid in (moved(source, (0, 0, 12)), reshaped(source, ball((12, 20, 20), 15))):
        out = empty.copy()
        out[laid.box] = laid.values
        assert np.abs(out - empty)[(bone | marrow) & ~mask].max() < 1, "a bone was painted over"
        there = np.zeros(SHAPE, bool)
        there[laid.box] = laid.mask
        assert not (there & (bone | marrow)).any()


def test_a_tumour_in_mr_leaves_marrow_and_covers_vessels():
    rng = np.random.default_rng(0)
    empty = (300 + 5 * rng.normal(size=SHAPE)).astype(np.float32)
    empty[:, :10] = 1000.0
    row, column = np.indices(SHAPE)[1:]
    bone, vessel = np.hypot(row - 24, column - 34) <= 8, np.hypot(row - 24, column - 20) <= 2
    marrow = np.hypot(row - 24, column - 34) <= 5
    empty[bone], empty[marrow], empty[vessel] = 20.0, 950.0, 20.0
    tumour = ball((12, 24, 24), 9)
    image = np.where(tumour, 500.0, 300.0).astype(np.float32)
    source = Source(image, np.full(SHAPE, 300, np.float32), tumour, changed_of(tumour), SPACING, False)
    corner = np.array([s.start for s in source.matte()[1]])
    laid = laid_over(empty, source.matte()[0], corner, False)
    out = empty.copy()
    out[laid.box] = laid.values
    assert np.array_equal(out[bone], empty[bone]), "the tumour goes on behind the bone's wall"
    assert out[vessel & ball((12, 24, 24), 7)].min() > 300, "a vessel shows through the tumour"


def test_ramp_is_monotone():
    values = ramp(np.linspace(-1, 2, 50), 0.0, 1.0)
    assert values[0] == 0 and values[-1] == 1 and (np.diff(values) >= 0).all()


def wall_scene(jagged):
    """A nodule cut by the chest's wall at x = 12, its removal, its mask; the contour ends on the wall slice by slice."""
    rng = np.random.default_rng(7)
    empty = rng.normal(-850, 12, SHAPE).astype(np.float32)
    wall = np.indices(SHAPE)[2] < 12
    empty[wall] = 40 + rng.normal(0, 12, int(wall.sum()))
    whole = ball((12, 24, 12), 9)
    image = np.where(whole, 50 + rng.normal(0, 12, SHAPE), empty).astype(np.float32)
    mask = whole & ~wall
    if jagged:
        mask[::2] &= np.indices(SHAPE)[2][::2] >= 14
    return image, empty, mask


@pytest.mark.parametrize("jagged", [False, True])
def test_a_flat_side_off_the_wall_is_rounded_and_brings_no_wall_along(jagged):
    image, empty, mask = wall_scene(jagged)
    matte, _ = Source(image, empty, mask, changed_of(mask), SPACING, True).matte()
    free = detached(matte)
    depth = depth_of(free.mask, SPACING)
    assert 0.7 * matte.mask.sum() < free.mask.sum() < 0.97 * matte.mask.sum()
    assert free.opacity[(depth < -2.5)].max() < 0.25, "pieces of the wall come along"
    across = free.mask.sum((0, 1))
    assert across[across > 0][0] < 0.6 * across.max() < across.max(), "still flat"
    first = np.where(free.mask.any(2), free.mask.argmax(2), 99)[
        4:21, 18:31
    ]  # where it begins, over slices and rows
    assert np.abs(np.diff(first, axis=0))[(first[1:] < 99) & (first[:-1] < 99)].max() <= 1, "slices jut out"


def test_what_a_removal_leaves_of_a_nodule_on_the_wall_goes_along():
    image, empty, mask = wall_scene(False)
    left = mask & (np.indices(SHAPE)[2] < 14)  # taken for the wall
    empty[left] = image[left]
    free = detached(Source(image, empty, mask, changed_of(mask) & ~left, SPACING, True).matte()[0])
    assert free.opacity[depth_of(free.mask, SPACING) > 1.5].min() > 0.9, "its cut side is straight"


def test_a_vessel_that_runs_into_a_nodule_stays_at_its_place_and_a_spicule_goes_along():
    image, empty, mask = scene(level=40.0, background=-850.0, noise=8.0)
    z, y, x = np.indices(SHAPE)
    vessel, spicule = (
        (np.hypot(z - 12, across - 20) <= 1.2) & (along > 20) for across, along in ((y, x), (x, y))
    )
    spicule &= y < 31
    image[vessel | spicule], empty[vessel & ~changed_of(mask)] = 40.0, 40.0
    free, (_, rows, columns) = Source(image, empty, mask, changed_of(mask), SPACING, True).matte()
    middle = detached(free).opacity[12]
    assert middle[20 - rows.start, 30 - columns.start] < 0.2, "the vessel came along"
    assert middle[30 - rows.start, 20 - columns.start] > 0.6, "the spicule stayed behind"


def test_what_is_not_one_piece_with_a_nodule_stays_at_its_place():
    image, empty, mask = scene(level=40.0, background=-850.0, noise=8.0)
    beside = ball((12, 20, 30), 1)
    image[beside], grown = 40.0, changed_of(mask)
    free = detached(Source(image, empty, mask, grown, SPACING, True).matte()[0])
    box = Source(image, empty, mask, grown, SPACING, True).matte()[1]
    assert free.opacity[beside[box]].max() < 0.1
    assert free.opacity[ndimage.binary_erosion(mask, iterations=2)[box]].min() > 0.9


def test_bone_through_a_tumour_stays_when_it_is_removed_moved_or_reshaped_and_its_calcification_does_not():
    rng = np.random.default_rng(5)
    shape = (24, 64, 64)
    image = (40 + ndimage.gaussian_filter(rng.normal(size=shape), (0, 0.6, 0.6)) * 16).astype(np.float32)
    mask, calcified = ball((12, 28, 28), 9, shape), ball((12, 28, 34), 2, shape)
    image[mask] += 60
    _, y, x = np.indices(shape)
    off = np.hypot(y - 28, x - 24)
    image[off <= 4], image[off <= 2], image[calcified] = 900.0, -50.0, 800.0
    made = remove(image, mask, SPACING, is_ct=True)
    bone = off <= 4
    assert (made.values == image)[bone].all() and not (made.hole | made.zone)[bone].any()
    assert made.values[calcified].max() < 300
    source = Source(image, made.values, mask, made.hole | made.zone, SPACING, True)
    for laid in (moved(source, (0, 0, 24)), reshaped(source, ball((12, 28, 28), 7, shape)),
                 reshaped(source, ball((12, 28, 28), 11, shape))):  # fmt: skip
        out = made.values.copy()
        out[laid.box] = laid.values
        assert np.abs(out - image)[bone].max() < 1
        there = np.zeros(shape, bool)
        there[laid.box] = laid.changed
        assert out[there & (np.hypot(y - 28, x - 48) <= 4)].max(initial=0) < 300, "bone came along"
    same = reshaped(source, mask)
    assert np.abs(same.values - image[same.box])[same.changed].max() < 1e-3


def test_a_tumour_that_bone_runs_through_grows_up_to_it():
    shape = (24, 64, 64)
    rng = np.random.default_rng(6)
    empty = (40 + 4 * rng.normal(size=shape)).astype(np.float32)
    off = np.hypot(*(np.indices(shape)[1:] - 28))
    image, mask = empty.copy(), ball((12, 28, 28), 9, shape)
    image[mask] += 60
    image[off <= 3] = empty[off <= 3] = 900.0
    source = Source(image, empty, mask, changed_of(mask) & (off > 4), SPACING, True)
    laid = reshaped(source, ball((12, 28, 28), 13, shape))
    ring = (off > 6) & (off < 10) & (np.indices(shape)[0] == 12)
    assert np.median(laid.values[ring[laid.box]]) == pytest.approx(100, abs=20)


def test_beside_bone_a_filling_has_the_level_of_the_tissue_and_no_bone_is_repeated():
    rng = np.random.default_rng(8)
    shape = (24, 72, 72)
    image = (40 + ndimage.gaussian_filter(rng.normal(size=shape), (0, 0.6, 0.6)) * 16).astype(np.float32)
    mask, off = (
        ball((12, 36, 36), 9, shape),
        np.hypot(*(np.indices(shape)[1:] - np.array([36, 23])[:, None, None, None])),
    )
    image[mask] += 60
    image += 900 * ndimage.gaussian_filter((off <= 5).astype(np.float32), (0, 0.6, 0.6))
    made = remove(image, mask, SPACING, is_ct=True)
    assert (made.values == image)[off <= 5].all()
    assert made.values[mask & (off > 8)].max() < 150, "bone is repeated"
    assert made.values[mask & (off > 7) & (off < 9)].mean() == pytest.approx(40, abs=12)
    far = (made.hole | made.zone) & (np.indices(shape)[2] < 18)
    assert not far.any(), "tissue on the other side of the bone changed"


def test_a_tumour_on_the_wall_leaves_no_slit_when_it_shrinks():
    _, empty, mask = wall_scene(False)
    small = ball((12, 24, 15), 5) & mask & (np.indices(SHAPE)[2] >= 15)  # scaled, it would float off the wall
    held = on_wall(empty, mask, small, SPACING, True)
    assert abs(int(held.sum()) - int(small.sum())) <= 0.03 * small.sum()
    assert not (held & ~mask).any()
    assert held[12, 24, 12:15].all(), "lung between tumour and wall"
    alone = ball((12, 24, 36), 7)
    smaller = ball((12, 24, 36), 5)
    assert (on_wall(empty, alone, smaller, SPACING, True) == smaller).all()


def test_a_vessel_follows_a_nodule_that_shrinks():
    image, empty, mask = scene(level=40.0, background=-850.0, noise=8.0)
    z, y, x = np.indices(SHAPE)
    vessel = ndimage.gaussian_filter(
        (((z - 12) ** 2 + (y - 20) ** 2 <= 4) & (x > 20)).astype(np.float32), 0.7
    )
    for picture in (image, empty):
        picture += vessel * (40 - picture)
    gone = changed_of(mask)
    empty = np.where(gone, np.float32(-850) + 8 * np.random.default_rng(3).normal(size=SHAPE), empty)
    source = Source(image, empty, mask, gone, SPACING, True)
    laid = reshaped(source, ball((12, 20, 20), 4))
    out = empty.copy()
    out[laid.box][laid.changed] = laid.values[laid.changed]
    along = out[11:14, 19:22, 24:40].mean((0, 1))
    assert along.min() > -420, f"the vessel is cut: {along.round()}"
    assert (out[~gone] == empty[~gone]).all()
    beside = out[12, 20, 8:15].mean()
    assert beside < -700, "the nodule's old border stays"


def test_a_tumour_that_lay_beside_bone_stays_off_it_when_its_shape_changes():
    shape = (16, 64, 64)
    rng = np.random.default_rng(7)
    empty = (-60 + 16 * ndimage.gaussian_filter(rng.normal(size=shape), (0, 0.6, 0.6))).astype(np.float32)
    _, y, x = np.indices(shape)
    off = np.hypot(y - 30, x - 40)
    bone = ndimage.gaussian_filter((off <= 9).astype(np.float32), (0, 0.7, 0.7))
    mask, kept = ball((8, 30, 36), 15, shape) & (off > 10) & (x < 46), off <= 10.5
    image = empty + 100 * ndimage.gaussian_filter(mask.astype(np.float32), 0.8)
    image, empty = (values + bone * (1200 - values) for values in (image, empty))
    empty[kept] = image[kept]
    source = Source(image, empty, mask, changed_of(mask) & ~kept, SPACING, True)
    laid = reshaped(source, ball((8, 30, 34), 10, shape))
    out = empty.copy()
    out[laid.box] = laid.values
    assert (
        np.abs(out - image)[kept & (bone > 0.15)].max() < 1 and not (laid.mask & (bone > 0.5)[laid.box]).any()
    )


@pytest.mark.parametrize("radius", [8, 13])
def test_a_nodule_that_lies_on_the_diaphragm_grows_and_shrinks_without_a_line_between_them(radius):
    shape = (36, 56, 56)
    rng = np.random.default_rng(3)
    z = np.indices(shape)[0]
    mask = ball((10, 28, 28), 10, shape) & (z >= 10)
    gone = (ndimage.distance_transform_edt(~mask) <= 3) & (z >= 7)
    solid = ndimage.gaussian_filter((ball((10, 28, 28), 10, shape) | (z < 10)).astype(np.float32), 0.6)
    image = (-850 + 890 * solid + 12 * rng.normal(size=shape)).astype(np.float32)
    # Removal lets the diaphragm's edge be softer and lower than it was under the tumour.
    removed = ndimage.gaussian_filter(np.where(z < 8, 40.0, -850.0), (1.0, 0, 0)) + 12 * rng.normal(
        size=shape
    )
    empty = np.where(gone, removed, image).astype(np.float32)
    source = Source(image, empty, mask, gone, SPACING, True)
    laid = reshaped(source, ball((10, 28, 28), radius, shape) & (z >= 10))
    out = empty.copy()
    out[laid.box][laid.changed] = laid.values[laid.changed]
    along = out[4:16, 25:32, 25:32].mean((1, 2))
    assert along.min() > -60 and along.max() < 140, f"a line under the nodule: {along.round()}"


@pytest.mark.parametrize("radius", [17, 28])
def test_streaks_of_a_scan_stay_straight_and_as_fine_in_a_tumour_that_grows_or_shrinks(radius):
    shape, centre = (7, 88, 88), (3, 44, 44)
    rng = np.random.default_rng(5)
    streaks = ndimage.gaussian_filter(rng.normal(size=shape), (0, 1.3, 4.0))
    streaks *= 20 / streaks.std()
    mask = ball(centre, 22, shape)
    empty = (-100 + streaks).astype(np.float32)
    image = empty + 140 * ndimage.gaussian_filter(mask.astype(np.float32), (0, 0.8, 0.8))
    source = Source(image, empty, mask, changed_of(mask), (5.0, 1.0, 1.0), True)
    laid = reshaped(source, ball(centre, radius, shape))
    out = empty.copy()
    out[laid.box] = laid.values

    def across_and_along(values, inner):
        dy, dx = np.gradient(values.astype(float), axis=(1, 2))
        return np.sqrt((dy[inner] ** 2).mean()), np.sqrt((dx[inner] ** 2).mean())

    inner = ball(centre, 13, shape)
    was, now = across_and_along(image, inner), across_and_along(out, inner)
    assert abs(now[0] / was[0] - 1) < 0.15, "coarser or finer"
    assert now[1] / now[0] < 1.15 * was[1] / was[0], "bent"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "mask", [ball((12, 22, 20), 0.5), ball((12, 24, 20), 10) & (np.indices(SHAPE)[1] > 15)]
)
def test_a_tumour_of_one_voxel_or_in_an_even_image_comes_off_a_wall(mask):
    y = np.indices(SHAPE)[1]
    tumour = mask & ball((12, 22, 20), 4)
    empty = np.where(y < 22 if mask.sum() == 1 else y < 16, 40.0, -850.0).astype(np.float32)
    image = np.where(tumour, np.float32(30), empty)
    laid = moved(Source(image, empty, mask, changed_of(mask), SPACING, True), (0, 8, 4))
    assert np.isfinite(laid.values).all() and laid.mask.any()

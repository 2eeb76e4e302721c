"""Removal with the image's own tissue: where it may change the image, the same voxels for any number of threads, odd inputs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, sparse

from TumorSynthLib.errors import Cancelled, InputError
from TumorSynthLib.texture.exemplar import shiftmap
from TumorSynthLib.texture.exemplar.grain import _islands
from TumorSynthLib.texture.exemplar.hole import HoleConfig, next_slices, rim_width, surroundings
from TumorSynthLib.texture.exemplar.lenders import Atlas, LenderConfig, describe
from TumorSynthLib.texture.exemplar.membrane import conjugate_gradients
from TumorSynthLib.texture.exemplar.propagation import propagate
from TumorSynthLib.texture.exemplar.removal import remove
from TumorSynthLib.texture.exemplar.spatial import dilate, distance, in_plane

ROOT = Path(__file__).resolve().parents[1]
SPACING = (3.0, 1.0, 1.0)


def tissue(shape=(16, 72, 64), seed=0, level=40.0):
    """Soft tissue with fibres along y and noise (HU)."""
    rng = np.random.default_rng(seed)
    fibres = ndimage.gaussian_filter(rng.standard_normal(shape), (2, 8, 1.2))
    image = (
        level
        + 12 * fibres / fibres.std()
        + ndimage.gaussian_filter(rng.standard_normal(shape), (0, 0.6, 0.6)) * 20
    )
    return image.astype(np.float32)


def ball(shape=(16, 72, 64), centre=(8, 36, 30), radius_mm=9.0, spacing=SPACING):
    far = sum(((g - c) * s) ** 2 for g, c, s in zip(np.indices(shape), centre, spacing))
    return far <= radius_mm**2


def with_tumour(seed=0, shift=80.0):
    image, mask = tissue(seed=seed), ball()
    return image + shift * ndimage.gaussian_filter(mask.astype(np.float32), (0.2, 0.8, 0.8)), mask


@pytest.fixture(scope="module")
def removed():
    image, mask = with_tumour()
    return image, mask, remove(image, mask, SPACING, is_ct=True)


def test_nothing_changes_beyond_hole_and_zone(removed):
    image, mask, result = removed
    changed = result.values != image
    assert changed[mask].mean() > 0.95
    assert not (changed & ~(result.hole | result.zone)).any()
    assert (result.hole >= mask).all() and not (result.hole & result.zone).any()
    away = ndimage.distance_transform_edt(~mask, SPACING)
    assert away[result.hole | result.zone].max() <= 5 + 5 + 2


def test_the_tumour_is_gone_and_grain_stays(removed):
    image, mask, result = removed
    healthy, core = tissue(), ndimage.binary_erosion(mask)
    around = ball(radius_mm=20) & ~ball(radius_mm=15)
    assert (
        abs(result.values[core].mean() - healthy[around].mean())
        < 8
        < image[core].mean() - healthy[around].mean()
    )
    fine = result.values - ndimage.gaussian_filter(result.values, (0, 1, 1))
    assert 0.8 < fine[core].std() / fine[around].std() < 1.2


def test_seams_leave_little_in_the_finest_grain_of_a_smooth_mr():
    """Pieces of an interpolated image have next to nothing near the highest frequencies: a seam's edge would show there."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((12, 72, 64)), (0.5, 1.3, 1.3))
    image, mask = (400 + 180 * smooth).astype(np.float32), ball((12, 72, 64), (6, 36, 32))
    made = remove(image, mask, SPACING, is_ct=False, grow_mm=0.0).values
    high = [
        sum(ndimage.correlate1d(i, [1, -6, 15, -20, 15, -6, 1], axis) ** 2 for axis in (1, 2))[mask].mean()
        for i in (image, made)
    ]
    assert 0.7 < high[1] / high[0] < 1.9  # 2.4 with the seams as they are


def test_little_tissue_is_not_repeated_by_turns(monkeypatch):
    """Blocks that all leave a piece together must not all come back to it: regular patterns are seen."""
    seen, choices = [], []
    used, spread = shiftmap._used, shiftmap.propagate
    monkeypatch.setattr(shiftmap, "_used", lambda *a: seen.append(a[:4]) or used(*a))
    monkeypatch.setattr(shiftmap, "propagate", lambda *a: choices.append(spread(*a)) or choices[-1])
    image, mask = tissue(), ball(radius_mm=16.0)
    lend = np.zeros_like(mask)
    lend[:, 8:64, 50:62] = True
    remove(image, mask, SPACING, is_ct=False, lend=lend)
    repeated = [used(*seen[0], c)[np.arange(len(c)), c].mean() for c in choices]
    assert repeated[-1] < 0.8 * repeated[0]


def test_strict_changes_the_mask_only():
    image, mask = with_tumour()
    result = remove(image, mask, SPACING, is_ct=True, strict=True)
    assert np.array_equal(result.hole, mask) and not result.zone.any()
    assert np.array_equal(result.values[~mask], image[~mask])


@pytest.mark.parametrize(("radius", "strict", "said"), [(6.0, True, 1), (6.0, False, 0), (11.0, True, 0)])
def test_strict_says_that_an_outline_stays(radius, strict, said):
    """Of a mask that is too tight, not of one that holds the whole tumour."""
    image = tissue() + 150 * ball(radius_mm=9.0)
    result = remove(image, ball(radius_mm=radius), SPACING, is_ct=True, strict=strict)
    assert [w for w in result.warnings if "outline stays visible" in w] == list(result.warnings)
    assert len(result.warnings) == said


def test_a_seed_is_a_result(removed):
    image, mask, result = removed
    again, other = (remove(image, mask, SPACING, is_ct=True, seed=s).values for s in (0, 1))
    assert np.array_equal(again, result.values)
    assert not np.array_equal(other, result.values)
    assert abs(other[mask].mean() - result.values[mask].mean()) < 8


def test_threads_change_no_voxel(tmp_path, removed):
    image, mask, result = removed
    np.savez(tmp_path / "case.npz", image=image, mask=mask)
    code = (
        "import numpy as np; from TumorSynthLib.texture.exemplar.removal import remove; c = np.load('case.npz');"
        f"np.save('out.npy', remove(c['image'], c['mask'], {SPACING}, is_ct=True).values)"
    )
    for threads in ("1", "2", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=120)
        assert np.array_equal(np.load(tmp_path / "out.npy"), result.values)


def test_it_runs_without_torch():
    code = "import sys; sys.modules['torch'] = None; import TumorSynthLib.texture.exemplar.removal"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_any_axis_may_be_the_slices(removed, order):
    """The slice axis is found by its spacing; the other axes keep their order, so only the axis' place changes."""
    image, mask, result = removed
    back = np.argsort(order)
    turned = remove(image.transpose(order), mask.transpose(order), [SPACING[a] for a in order], is_ct=True)
    values = turned.values.transpose(back)
    assert np.array_equal(turned.hole.transpose(back), result.hole)
    assert abs(values[mask].mean() - result.values[mask].mean()) < 8


def test_avoided_voxels_neither_change_nor_lend():
    image, mask = with_tumour()
    other = ball(centre=(8, 36, 46), radius_mm=4.0)
    image[other] = 400
    result = remove(image, mask, SPACING, is_ct=True, avoid=other)
    assert np.array_equal(result.values[other], image[other])
    assert result.values[mask].max() < 200


def test_tissue_comes_from_where_it_may_be_lent():
    image, mask = with_tumour()
    image[:, :, 45:] += 300
    lend = np.zeros(mask.shape, bool)
    lend[:, :, 46:] = True
    result = remove(image, mask, SPACING, is_ct=False, lend=lend, grow_mm=0)
    assert result.facts["pieces"] >= 1
    plain = remove(image, mask, SPACING, is_ct=False, grow_mm=0)
    assert not np.array_equal(plain.values, result.values)


def test_progress_rises_and_may_cancel():
    image, mask = with_tumour()
    seen = []
    remove(image, mask, SPACING, is_ct=True, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 4

    def stop(share):
        if share > 0.3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        remove(image, mask, SPACING, is_ct=True, progress=stop)


@pytest.mark.parametrize(
    "centre, radius, shape, spacing",
    [
        ((0, 0, 0), 9.0, (16, 72, 64), SPACING),
        ((8, 36, 63), 12.0, (16, 72, 64), SPACING),
        ((1, 20, 20), 6.0, (2, 40, 40), (6.0, 1.0, 1.0)),
        ((12, 12, 12), 9.0, (24, 24, 24), (1.0, 1.0, 1.0)),
        ((6, 10, 10), 8.0, (13, 21, 21), (1.0, 1.0, 1.0)),
    ],
)
def test_masks_at_borders_and_in_tiny_crops(centre, radius, shape, spacing):
    image, mask = tissue(shape), ball(shape, centre, radius, spacing)
    image[mask] += 80
    result = remove(image, mask, spacing, is_ct=True)
    assert np.isfinite(result.values).all()
    assert abs(result.values[mask].mean() - 40) < 25


def test_inputs_that_cannot_be_used_say_why():
    image, mask = with_tumour()
    with pytest.raises(InputError, match="empty"):
        remove(image, np.zeros_like(mask), SPACING, is_ct=True)
    with pytest.raises(InputError, match="one grid"):
        remove(image, mask[1:], SPACING, is_ct=True)
    with pytest.raises(InputError, match="aren't numbers"):
        remove(np.where(mask, np.nan, image), mask, SPACING, is_ct=True)
    with pytest.raises(InputError, match="no healthy tissue"):
        remove(image, np.ones_like(mask), SPACING, is_ct=True)


def test_propagation_finds_the_least_of_a_chain():
    """Four nodes in a chain, three labels: against all 81 ways."""
    rng = np.random.default_rng(3)
    unary, pair = rng.random((4, 3)).astype(np.float32), rng.random((3, 3, 3)).astype(np.float32)
    first, second = np.arange(3), np.arange(1, 4)

    def cost(labels):
        return sum(unary[i, k] for i, k in enumerate(labels)) + sum(
            pair[labels[e], labels[e + 1], e] for e in range(3)
        )

    best = min(np.ndindex(3, 3, 3, 3), key=cost)
    assert tuple(propagate(unary, first, second, pair, rounds=20, damping=0.3, sweeps=3)) == best


def test_conjugate_gradients_solve_a_small_system():
    """-1 2 -1 with its ends held at 0: the parabola."""
    links = sparse.diags([-np.ones(4), -np.ones(4)], [-1, 1], format="csr")
    x = conjugate_gradients(links, np.full(5, 2.0), np.full(5, 2.0), 1e-9, 50)
    assert np.allclose(x, [5, 8, 9, 8, 5])


def test_the_rim_ends_where_the_tumour_does():
    """A contour that is 3 mm too tight all around is widened by about that; a good one by two pixels."""
    image = tissue() + 150 * ball(radius_mm=9.0)
    config = HoleConfig()
    tight, good = (ball(radius_mm=r) for r in (6.0, 9.5))
    around = surroundings(image, tight, SPACING, True, config)
    assert 2.9 <= rim_width(image, tight, around, SPACING, config) <= 4.0
    assert rim_width(image, good, around, SPACING, config) == 2.0


def test_bone_in_the_rim_stays():
    image, mask = with_tumour()
    bone = ball(centre=(8, 36, 43), radius_mm=4.0) & ~mask
    image[bone] = 900
    result = remove(image, mask, SPACING, is_ct=True, grow_mm=5.0)
    assert np.array_equal(result.values[bone], image[bone])


def test_skin_goes_on_over_the_hole():
    """A half-space with a bright skin; the tumour reaches it: the outline and the skin's brightness stay."""
    image = tissue()
    row = np.arange(72)[None, :, None] + np.zeros(image.shape)
    image[row < 28] = -1000
    image[(row >= 28) & (row < 31)] += 150
    mask = ball(centre=(8, 34, 30), radius_mm=8.0) & (row >= 28)
    image[mask] += 120
    result = remove(image, mask, SPACING, is_ct=True)
    skin = mask & (row >= 28) & (row < 31) & ndimage.binary_erosion(mask | (row < 28))
    assert (result.values[mask] < -300).mean() < 0.02
    assert abs(result.values[skin].mean() - 190) < 30
    assert abs(result.values[mask & (row > 33)].mean() - 40) < 20


def lung(shape=(32, 64, 56), seed=0):
    """Lung of -850 HU with small vessels in a round chest wall of 40 HU, and where the wall is."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    noise /= noise.std()
    vessels = ndimage.gaussian_filter((rng.random(shape) > 0.998).astype(float), 1.0) * 3000
    _, y, x = np.indices(shape)
    wall = np.hypot(y - 20, x - 28) > 26
    image = np.where(wall, 40 + 15 * noise, -850 + 60 * noise + vessels)
    return ndimage.gaussian_filter(image, 0.6).astype(np.float32), wall


def test_the_chest_wall_goes_on_where_a_nodule_lay_on_it():
    image, wall = lung()
    mask = ball(image.shape, (16, 40, 28), 10.0, (1, 1, 1)) & ~wall
    before = image.copy()
    image[mask] = 30
    result = remove(image, mask, (1.0, 1.0, 1.0), is_ct=True)
    assert result.facts["lung"]
    off = ndimage.distance_transform_edt(~wall)
    assert (result.values[mask & (off > 3)] > -400).mean() < 0.01
    assert np.abs(result.values - before)[mask & (off <= 3)].mean() < 120
    deep = ndimage.distance_transform_edt(wall) > 5
    assert np.array_equal(result.values[deep], image[deep])


def test_a_rib_that_a_tumour_lay_on_is_covered_and_not_lent():
    """The mask reaches the rib: what lies next to the rib is wall, not lung, and no bone is lent to where none was."""
    image, wall = lung()
    z, _, x = np.indices(image.shape)
    rib = wall & (ndimage.distance_transform_edt(wall) < 7) & (np.abs(z - 16) < 5) & (np.abs(x - 28) < 20)
    image = ndimage.gaussian_filter(image + 700 * rib, 0.6)
    mask = ball(image.shape, (16, 40, 28), 10.0, (1, 1, 1)) & ~ndimage.binary_dilation(rib)
    image[mask] = 30
    off = ndimage.distance_transform_edt(~rib)
    depth = surroundings(image, mask, (1.0, 1.0, 1.0), True, HoleConfig()).depth
    assert (depth[mask & (off < 2)] < 0).mean() > 0.9 and (depth[mask & (off > 4)] > 0).all()
    result = remove(image, mask, (1.0, 1.0, 1.0), is_ct=True)
    assert result.values[mask & (off > 1.5)].max() < 180


def test_a_rim_of_haze_leaves_no_ghost_in_lung():
    """Haze around a nodule that reaches beyond the hole isn't carried into it."""
    image, _ = lung()
    mask = ball(image.shape, (16, 20, 28), 7.0, (1, 1, 1))
    before = np.median(image[mask])
    away = ndimage.distance_transform_edt(~mask)
    image += (120 * np.exp(-((away / 6) ** 2))).astype(np.float32)
    image[mask] = 30
    made = remove(image, mask, (1.0, 1.0, 1.0), is_ct=True, grow_mm=2.0).values
    assert np.median(made[ndimage.binary_erosion(mask, iterations=2)]) < before + 25


def test_the_faint_end_of_a_small_nodule_in_the_next_thick_slice_goes():
    """The slice beyond shows a fifth of the nodule, under the mask but not under the wider hole."""
    spacing = (5.0, 0.6, 0.6)
    image = (-850 + 60 * np.random.default_rng(0).standard_normal((9, 60, 60))).astype(np.float32)
    away = np.hypot(*(np.indices((60, 60)) - 30.0))
    mask, hole = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    mask[3:6], hole[3:6] = away < 5.5, away < 11
    image[mask] = -50
    image[6][away < 5.5] += 160
    wider = next_slices(image, hole, mask, spacing, np.ones_like(mask), HoleConfig())
    assert np.array_equal(wider[6], hole[5]) and not wider[2].any()


@pytest.mark.parametrize(
    "spacing", [(1, 1, 1), (3.27, 0.977, 0.977), in_plane((5.0, 0.6, 0.7)), (0.4, 0.3, 2.5)]
)
@pytest.mark.parametrize("mm", [0.2, 2.0, 6.5])
def test_a_mask_grows_by_a_distance(spacing, mm):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.002, 0.05):
        mask = rng.random((11, 23, 38)) < share
        assert (dilate(mask, spacing, mm) == (distance(mask, spacing, mm) <= mm + 1e-6)).all()


def test_islands_of_a_piece_are_farther_apart_than_their_feathers_reach():
    rng, reach = np.random.default_rng(0), np.array([1, 2, 3])
    labels = np.where(rng.random((20, 60, 60)) < 0.004, rng.integers(0, 3, (20, 60, 60)), -1)
    seen = np.full(labels.shape, -1)
    islands: dict[int, list] = {}
    for piece, voxels in _islands(labels, reach):
        seen[tuple(voxels.T)] = piece
        islands.setdefault(piece, []).append(voxels)
    assert (seen == labels).all() and max(len(parts) for parts in islands.values()) > 3
    for parts in islands.values():
        for k, one in enumerate(parts):
            for other in parts[k + 1 :]:
                assert (np.abs(one[:, None] - other) > 2 * reach).any(-1).all()


def test_mirrored_banks_turn_about_the_centre():
    image, mask = with_tumour()
    config = LenderConfig()
    around = surroundings(image, mask, SPACING, True, HoleConfig())
    found = describe(image, mask, np.zeros_like(mask), around, ~mask, SPACING, True, config)
    atlas = Atlas(found, np.array([2, 3, 4]), np.array([8, 36, 30]), ((2,),))
    banks = atlas.banks(image, np.float32(-5))
    inner = banks[1, 2:-2, 3:-3, 4:-4]
    assert np.array_equal(inner[:, :, 30], image[:, :, 30])
    assert np.array_equal(inner[:, :, 20:41], image[:, :, 20:41][:, :, ::-1])
    assert np.array_equal(inner[:, :, 0], image[:, :, 60])
    shape = (3, 11, 9)
    for bank in (0, 1):
        for start in ([0, 0, 0], [5, 30, 20], [atlas.shape[0] - 3, atlas.shape[1] - 11, atlas.shape[2] - 9]):
            box = tuple(slice(a, a + n) for a, n in zip(start, shape))
            assert np.array_equal(atlas.cut(image, bank, np.array(start), shape, -5), banks[bank][box])
    assert (atlas.cut(image, 1, np.array([0, 0, -50]), shape, -5) == -5).all()


@pytest.mark.parametrize(
    "case, is_ct",
    [
        ("sts/val/STS_041_CT", True),
        ("sts/val/STS_041_T1", False),
        ("lidc_ct/val/LIDC-IDRI-0091_R_5_CT", True),
        ("nsclc_ct/val/NSCLC_000_CT", True),
    ],
)
def test_real_tumours_go(shared_data, case, is_ct):
    """What is left differs from the tissue around by less than the tumour did, with grain of the same strength."""
    from TumorSynthLib.volume import read_image, read_mask

    path = next(shared_data.glob(case.replace("/val/", "/*/") + "_image.nii.gz"))
    volume = read_image(path)
    mask = read_mask(str(path).replace("_image", "_mask"), volume) > 0
    spacing, image = volume.spacing[::-1], volume.array.astype(np.float32)
    result = remove(image, mask, spacing, is_ct=is_ct)
    ring = result.hole ^ ndimage.binary_dilation(result.hole | result.zone, iterations=4)
    ring &= ~result.zone
    assert not (result.values != image)[~(result.hole | result.zone)].any()
    fine = result.values - ndimage.gaussian_filter(result.values, (0, 1.5, 1.5))
    strength = [np.median(np.abs(fine[m])) for m in (mask, ring)]
    assert 0.4 < strength[0] / strength[1] < 2  # the ring of a nodule holds the hilum
    low, high = np.percentile(image[ring], [1, 99])
    assert ((result.values[mask] >= low) & (result.values[mask] <= high)).mean() > 0.9


def test_the_scale_of_an_image_without_a_unit_makes_no_difference():
    """Diffusion maps in mm2/s have values of a thousandth."""
    image, mask = with_tumour()
    whole = remove(image + 500, mask, SPACING, is_ct=False).values
    small = remove((image + 500) * np.float32(2.0**-20), mask, SPACING, is_ct=False).values
    assert np.allclose(small * 2.0**20, whole, atol=0.01)


def test_spacing_in_metres_takes_no_more_memory_than_the_image():
    image, mask = tissue(), ball(radius_mm=4.0)
    result = remove(image, mask, (0.03, 0.01, 0.01), is_ct=True, grow_mm=0.0)
    assert np.isfinite(result.values).all()


def test_lending_masks_of_another_grid_are_refused():
    image, mask = with_tumour()
    with pytest.raises(InputError, match="lend .* isn't on the image's grid"):
        remove(image, mask, SPACING, is_ct=True, lend=mask[1:])

"""What a removal replaces: the mask, the rim where the tumour still shows (found by profile), and how far the
change may reach.

Arrays are (D, H, W) with the slice axis first, spacing (z, y, x) in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .spatial import FAR_MM, ROBUST, blur, dilate, edt, in_plane, near_box


@dataclass(frozen=True)
class HoleConfig:
    """How the tumour's end is found. Chosen on soft-tissue sarcomas (CT, T1) and lung nodules of the training
    split."""

    far_mm: float = 9.0
    """Where on a ray out of the mask the tissue is taken as free of the tumour."""
    limit_mm: float = 5.0
    """The rim is never wider: a contour that is wrong by more is a matter of the contour."""
    limit_lung_mm: float = 3.2
    """The same in lung, where a wider one takes vessels and pleura along."""
    least_voxels: float = 2.0
    """The rim is never narrower (voxels in plane): partial volume."""
    clear_share: float = 0.5
    """Rays count with at least this share of the contrast's 90th percentile."""
    taint_percentile: float = 65.0
    """Percentile over rays of how tumour-like a distance is."""
    taint_end: float = 0.12
    """The tumour ends at the first distance that is less tumour-like (0 tissue, 1 tumour)."""
    taint_end_lung: float = 0.08
    """The same in lung, from which a nodule stands out by far more than the noise."""
    taint_endless: float = 0.4
    """Still so tumour-like at `limit_mm`: the tissue around is as bright as the tumour, there is no end to
    find."""
    min_rays: int = 50
    slice_contrast: float = 0.08
    """Thick slices: the slice beyond is taken too where it still shows this share of the contrast."""
    bone_hu: float = 180.0
    """CT: bone in the rim stays, tumours don't reach this level."""
    through: float = 0.25
    """Bone in the contour of which at least this share lies outside goes on there: it isn't the tumour's."""
    marrow_mm2: float = 1000.0
    """What bone encloses in a slice is marrow up to this area."""
    air_hu: float = -500.0
    air_share: float = 0.1
    """MR: air is below this share of the range from the lowest value to the 99th percentile."""
    lung_share: float = 0.3
    """More air than this in the 8 mm around the mask: the tumour lies in air-filled tissue, which is lent,
    too."""
    least_air_mm2: float = 100.0
    """Air that touches less of the box's sides than this is inside of the patient (bowel, cortical bone in MR): no skin."""
    surface_mm: float = 6.0
    """So far from the skin, on both sides, tissue and air are lent along the surface."""
    air_zone_mm: float = 2.0
    """The zone reaches so far out of the skin: its blur."""
    wall_hu: float = -400.0
    """CT of lung: what is denser and at least twice `wall_mm` thick is no lung."""
    wall_mm: float = 4.0
    wall_smooth_mm: float = 1.5
    """Gaussian of the distance to the wall: dents that a contour leaves are evened."""
    cover_mm: float = 1.5
    """CT of lung: so much soft tissue lies between a rib and the lung."""
    outside_hu: float = -960.0
    """CT: air around the mask that is mostly lower than this is outside of the patient, no lung."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Where tissue is; arrays (D, H, W).

    body: bool, tissue that doesn't touch air; usable: bool, body and the skin with some of the air beyond; depth:
    mm below the skin, negative outside; bone: bool, what a rim must not take; through: bool, bone
    that the contour takes in and that goes on outside; in_air: the tumour lies in lung, then
    all of the box counts as body.
    """

    body: np.ndarray
    usable: np.ndarray
    depth: np.ndarray
    bone: np.ndarray
    through: np.ndarray
    in_air: bool


def surroundings(
    image: np.ndarray, mask: np.ndarray, spacing, is_ct: bool, config: HoleConfig
) -> Surroundings:
    """Body, surface and bone around the mask."""
    if is_ct:
        threshold = config.air_hu
    else:
        low = float(image.min())
        threshold = low + config.air_share * (float(np.percentile(image, 99)) - low)
    air = image < threshold
    ring = dilate(mask, spacing, 8.0) & ~mask
    in_air = bool(ring.any() and air[ring].mean() > config.lung_share)
    if in_air and is_ct:
        in_air = bool(np.median(image[ring & air]) > config.outside_hu)
    through = bone_through(image, mask, spacing, config) if is_ct else np.zeros_like(mask)
    bone = _bone(image, mask, config) | through if is_ct else through
    if in_air:
        everywhere = np.ones_like(mask)
        depth = (
            _off_wall(image, mask, bone, spacing, config)
            if is_ct
            else np.full(mask.shape, FAR_MM, np.float32)
        )
        return Surroundings(everywhere, everywhere, depth, bone, through, True)
    body, depth = blur(air, (0, 1, 1)) <= 0.3, _depth(air, spacing, config)
    return Surroundings(body, body | (np.abs(depth) <= config.surface_mm), depth, bone, through, False)


def _off_wall(image, mask, bone, spacing, config: HoleConfig) -> np.ndarray:
    """Distance (mm) in the lung to what bounds it (chest wall, mediastinum, diaphragm), negative in there; the tumour
    counts as lung, but for what covers a rib. What is as thin as a vessel is no wall."""
    dense = blur(image, (0, 0.7, 0.7)) > config.wall_hu
    soft = dense & (~mask | bone)
    core = edt(np.pad(soft, 1), spacing)[1:-1, 1:-1, 1:-1] > config.wall_mm
    if not core.any():
        return np.full(mask.shape, FAR_MM, np.float32)
    wall = soft & dilate(core, spacing, config.wall_mm + spacing[1])
    wall |= dense & dilate(wall & bone, spacing, config.cover_mm)
    apart = edt(~wall, spacing) - edt(wall, spacing)
    return blur(apart, [config.wall_smooth_mm / s for s in spacing])


def _depth(air, spacing, config: HoleConfig) -> np.ndarray:
    """Distance (mm) to the skin: positive in the patient, negative outside. Outside is air that reaches a side of the box."""
    parts, count = ndimage.label(air)
    sides = np.concatenate([parts[:, [0, -1]].reshape(-1), parts[:, :, [0, -1]].reshape(-1)])
    touching = (
        np.bincount(sides, minlength=count + 1) * np.sqrt(np.prod(spacing[1:])) * spacing[0]
        >= config.least_air_mm2
    )
    touching[0] = False
    outside = touching[parts]
    if not outside.any() or outside.all():
        return np.full(air.shape, -FAR_MM if outside.any() else FAR_MM, np.float32)
    inner, outer = (edt(m, spacing) for m in (~outside, outside))
    half = 0.5 * spacing[1]
    return np.where(outside, half - outer, inner - half).astype(np.float32)


def _bone(image, mask, config: HoleConfig) -> np.ndarray:
    """CT: bone and the pixel around it; nothing where the tumour itself is as dense."""
    if np.percentile(image[mask], 90) > config.bone_hu:
        return np.zeros_like(mask)
    return ndimage.binary_dilation(blur(image, (0, 0.7, 0.7)) > config.bone_hu, np.ones((1, 3, 3)))


def bone_through(image, mask, spacing, config: HoleConfig = HoleConfig()) -> np.ndarray:
    """CT: bone that runs through the contour, its marrow and the pixel around it. Calcifications of a tumour end in it."""
    plane = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
    bone = ndimage.binary_opening(blur(image, (0, 0.7, 0.7)) > config.bone_hu, plane)
    parts, count = ndimage.label(bone)
    inside = np.bincount(parts[mask], minlength=count + 1)
    runs = (inside > 0) & (inside <= (1 - config.through) * np.bincount(parts.ravel(), minlength=count + 1))
    runs[0] = False
    if not runs.any():
        return np.zeros_like(mask)
    bone = runs[parts]
    holes, count = ndimage.label(ndimage.binary_fill_holes(bone, plane) & ~bone, plane)
    small = np.bincount(holes.ravel(), minlength=count + 1) * spacing[1] * spacing[2] < config.marrow_mm2
    small[0] = False
    return ndimage.binary_dilation(bone | small[holes], plane)


def hole_of(image, mask, spacing, around: Surroundings, grow_mm: float | None, config: HoleConfig):
    """The voxels to replace, and the rim's width in mm: `grow_mm`, or found by profile."""
    grow = (
        rim_width(blur(image, (0, 0.7, 0.7)), mask, around, spacing, config) if grow_mm is None else grow_mm
    )
    inner = mask & ~around.through
    if grow <= 0 or not inner.any():
        return inner if inner.any() else mask.copy(), 0.0
    tissue = around.usable & (around.depth > 0) & ~around.bone
    hole = inner | (dilate(mask, spacing, grow) & tissue)
    if grow_mm is None and grow < spacing[0]:
        hole = next_slices(image, hole, mask, spacing, around.body & ~around.bone, config)
    return hole, float(grow)


def rim_width(image, mask, around: Surroundings, spacing, config: HoleConfig) -> float:
    """Width (mm) of the rim in which the tumour still shows: profiles in plane against what lies `far_mm` out
    on the same ray."""
    pixel = float(spacing[1])
    least, limit = config.least_voxels * pixel, _limits(around, config)[0]
    count = _tainted(image, mask, around, spacing, config)
    return least if count is None else float(max(least, min((count + 1) * pixel - 0.01, limit)))


def shows_beyond(image, mask, around: Surroundings, spacing, config: HoleConfig) -> bool:
    """Whether the tumour still shows next to the mask: its partial volume, or more."""
    return bool(_tainted(blur(image, (0, 0.7, 0.7)), mask, around, spacing, config))


def _limits(around: Surroundings, config: HoleConfig) -> tuple[float, float]:
    """The widest rim (mm), and how tumour-like a distance may be beyond it."""
    if around.in_air:
        return config.limit_lung_mm, config.taint_end_lung
    return config.limit_mm, config.taint_end


def _tainted(image, mask, around: Surroundings, spacing, config: HoleConfig) -> int | None:
    """Pixels beyond the mask in which the tumour still shows; None where that can't be told."""
    pixel, box = float(spacing[1]), near_box(mask, spacing, config.far_mm)
    value, beyond, length = _rays(image[box], mask[box], around.body[box], in_plane(spacing), pixel, config)
    if len(value) < config.min_rays:
        return None
    core = ndimage.binary_erosion(mask[box])
    contrast = np.median(image[box][core if core.any() else mask[box]]) - beyond
    clear = np.abs(contrast) > max(config.clear_share * np.percentile(np.abs(contrast), 90), 1e-3)
    if clear.sum() < config.min_rays:
        return None
    taint = (value - beyond)[clear] / contrast[clear]
    steps = (length[clear] / pixel).astype(int)
    limit, clean = _limits(around, config)
    last = max(1, int(limit / pixel))
    shells = [taint[steps == k] for k in range(1, last + 1)]
    shells = [np.percentile(s, config.taint_percentile) if len(s) > 8 else 0.0 for s in shells]
    if shells[-1] > config.taint_endless:
        return None
    return next((k for k, share in enumerate(shells) if share < clean), last)


def _rays(image, mask, body, spacing, pixel, config: HoleConfig):
    """Of each voxel next to the mask: its value, the value `far_mm` out on its ray, its distance (mm)."""
    far, near = ndimage.distance_transform_edt(~mask, spacing, return_indices=True)
    usable = body & ~mask
    shell = np.argwhere((far > 0) & (far < config.limit_mm + pixel) & usable)
    root, length = near[(slice(None), *shell.T)].T, far[tuple(shell.T)]
    out = np.round(root + (shell - root) * (config.far_mm / length)[:, None]).astype(int)
    fits = ((out >= 0) & (out < far.shape)).all(1)
    fits[fits] = usable[tuple(out[fits].T)] & (far[tuple(out[fits].T)] > 0.7 * config.far_mm)
    return image[tuple(shell[fits].T)], image[tuple(out[fits].T)], length[fits]


def next_slices(image, hole, mask, spacing, body, config: HoleConfig) -> np.ndarray:
    """Thick slices: where the hole ends, its outline goes on for a slice if the tumour still shows there: under
    the mask itself, whose rim would dilute a small tumour's end."""
    smooth = blur(image, [min(1.5 / s, 1.5) for s in spacing])
    ring = dilate(hole, in_plane(spacing), 10.0) & ~dilate(hole, in_plane(spacing), 3.0) & body
    out, inside = hole.copy(), float(np.median(smooth[mask]))
    for z in range(len(hole)):
        for beside in (z - 1, z + 1):
            if not 0 <= beside < len(hole):
                continue
            tail = hole[beside] & ~hole[z] & body[z]
            own = tail & mask[beside]
            if tail.any() and _still_shows(
                smooth[z], own if own.any() else tail, ring[beside] & body[z] & ~mask[z], inside, config
            ):
                out[z] |= hole[beside] & body[z]
    return out


def _still_shows(plane, tail, about, inside: float, config: HoleConfig) -> bool:
    core = ndimage.binary_erosion(tail, iterations=2) if tail.sum() > 60 else tail
    if not core.any() or about.sum() <= 20:
        return False
    far, value = float(np.median(plane[about])), float(np.median(plane[core]))
    spread = ROBUST * float(np.median(np.abs(plane[about] - far)))
    contrast = inside - far
    return (
        abs(contrast) > 1e-6
        and (value - far) / contrast > config.slice_contrast
        and abs(value - far) > spread
    )

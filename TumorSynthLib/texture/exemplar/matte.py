"""A tumour taken out of its image: how much of each voxel is tumour, what the tumour looks like, and its grain.

    image = opacity * colour + (1 - opacity) * background + grain

`background` is what removal puts in the tumour's place, `colour` the tumour's level continued outwards from its core, `opacity`
the share of a voxel that is tumour, and `grain` what is left, so that inside the tumour its own voxels come back exactly.
Moving, growing and inserting a tumour are compositions of the four. What is finer than a scan's structures is composed by
itself, of the scans' own voxels (`finest`): a composition has neither more nor less of it than they have, at borders, too.

Arrays are (D, H, W), the axis of the slices first; spacing is (z, y, x) mm. "Voxels" as a unit of length are voxels in plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.scan import finest_of, without_grain
from TumorSynthLib.texture.exemplar.spatial import blur, in_plane, known_blur, robust_sd

IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
"""Neighbours within the slice (3, 3, 3)."""

DISC = (np.hypot(*np.indices((5, 5)) - 2.0) <= 2.3)[None]
"""(1, 5, 5) bool, over which small gaps in a tumour's opacity are closed within the slice."""

THICK = 2.0
"""Ratio of the distance of slices to that of pixels from which slices hardly mix, and each is treated by itself."""


@dataclass(frozen=True)
class MatteConfig:
    """How opacity, colour and grain are told apart. Lengths in voxels in plane; found on sarcomas (CT, T1) and lung tumours.

    :param fine: Gaussian below which everything is grain; `crisp`: the same in lung, where contrast is 20 times the noise.
    :param colour: Gaussian of the tumour's level.
    :param clear_sd: contrast in standard deviations of the noise; below the first opacity goes by distance from the
        contour alone, above the second by level alone.
    :param unclear_border: to each side of the contour over which opacity goes where there is no contrast to see it by.
    :param end: over which opacity ends at the end of hole and zone.
    :param opaque_depth: below the contour from which on a tumour in soft tissue is opaque.
    :param margin_mm: of the box around hole and zone.
    """

    fine: float = 0.7
    crisp: float = 0.35
    colour: float = 1.5
    clear_sd: tuple[float, float] = (3.0, 6.0)
    unclear_border: float = 2.3
    end: float = 1.5
    opaque_depth: float = 2.0
    margin_mm: float = 8.0


@dataclass(frozen=True, eq=False)
class Matte:
    """A tumour without its image, in a box; all arrays (D, H, W).

    :param mask: bool, the tumour's contour; `tissue`: the part of it that is tumour (without fat and fascia at its border).
    :param opacity: 0 to 1; `colour`, `grain`: in the image's unit; `own`: 0 to 1, weight of the tumour's own grain.
    :param finest: what of its image is finer than a scan's structures (`scan.finest_of`), with the weight `own`, too.
    :param background: the image without the tumour; `residual`: image less the composition at the tumour's own place.
    :param spacing: (z, y, x) mm.
    :param in_lung: air is around the tumour.
    :param noise: standard deviation of what `fine` leaves of the image's noise; `grain_bound`: of the core's grain, 3 sd.
    """

    mask: np.ndarray
    tissue: np.ndarray
    opacity: np.ndarray
    colour: np.ndarray
    grain: np.ndarray
    finest: np.ndarray
    own: np.ndarray
    background: np.ndarray
    residual: np.ndarray
    spacing: tuple[float, float, float]
    in_lung: bool
    noise: float
    grain_bound: float

    @property
    def touched(self) -> np.ndarray:
        """(D, H, W) bool, the voxels that the tumour changes."""
        return (self.opacity > 0) | (self.own > 0)

    def turned(self, order: tuple[int, ...]) -> Matte:
        """The matte with its axes in another order."""
        if tuple(order) == (0, 1, 2):
            return self
        arrays = {name: np.ascontiguousarray(getattr(self, name).transpose(order)) for name in ARRAYS}
        return replace(self, spacing=tuple(self.spacing[axis] for axis in order), **arrays)


ARRAYS = ("mask", "tissue", "opacity", "colour", "grain", "finest", "own", "background", "residual")
"""Fields of a `Matte` that are arrays of its box."""


def sigma_of(voxels: float, spacing) -> tuple[float, float, float]:
    """Gaussian (z, y, x) in samples of so many voxels in plane, as many mm across; thick slices hardly mix."""
    across = voxels * spacing[1] / spacing[0]
    return (min(across, 0.3) if spacing[0] > THICK * spacing[1] else across, voxels, voxels)


def sd_of(values: np.ndarray) -> float:
    """Robust standard deviation, never 0."""
    return robust_sd(values) + 1e-3


def ramp(values, low: float, high: float):
    """Smooth step: 0 up to `low`, 1 from `high` on."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def depth_of(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance from the contour in voxels in plane, positive inside; thick slices each by themselves."""
    unit = np.array([1000.0 if spacing[0] > THICK * spacing[1] else spacing[0], *spacing[1:]]) / spacing[1]
    outside = ndimage.distance_transform_edt(~mask, unit) if mask.any() else np.full(mask.shape, 1e3)
    inside = ndimage.distance_transform_edt(mask, unit) if not mask.all() else np.full(mask.shape, 1e3)
    return inside - outside + np.where(mask, -0.5, 0.5)


def distance_mm(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance in mm to a mask, within slices; very far where there is none."""
    if not mask.any():
        return np.full(mask.shape, 1e6)
    return ndimage.distance_transform_edt(~mask, in_plane(spacing))


def voxels_to(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance in voxels in plane to a mask, thick slices each by themselves; very far where there is none."""
    if not mask.any():
        return np.full(mask.shape, 1e3)
    unit = in_plane(spacing) if spacing[0] > THICK * spacing[1] else spacing
    return ndimage.distance_transform_edt(~mask, unit) / spacing[1]


def take_out(
    image: np.ndarray,
    background: np.ndarray,
    mask: np.ndarray,
    changed: np.ndarray,
    spacing,
    in_lung: bool,
    config: MatteConfig | None = None,
) -> Matte:
    """A tumour's opacity, colour and grain against the image without it.

    :param image, background: (D, H, W) of a box around the tumour, before and after its removal.
    :param mask: bool, the tumour; `changed`: bool, hole and zone of the removal.
    :param spacing: (z, y, x) mm.
    """
    c, spacing = config or MatteConfig(), tuple(float(s) for s in spacing)
    image, background = np.asarray(image, np.float32), np.asarray(background, np.float32)
    fine = blur(image, sigma_of(c.crisp if in_lung else c.fine, spacing))
    back = blur(background, sigma_of(c.fine, spacing))
    ring = (ndimage.distance_transform_edt(~mask, spacing) <= 8.0) & ~mask
    noise = 0.6 * sd_of((image - blur(image, sigma_of(c.fine, spacing)))[ring if ring.any() else mask])
    inside = mask & changed if (mask & changed).any() else mask  # what a removal leaves is no tumour: bone
    core, tissue = _core(image, fine, back, inside, spacing, in_lung)
    depth = depth_of(tissue, spacing)
    colour = _continued(image, core, spacing, c)
    opacity = _opacity(colour, fine, back, depth, noise, c)
    opacity = opacity * ramp(depth_of(changed, spacing), 0.0, c.end)
    if in_lung:
        opacity = opacity * ramp(opacity, 0.03, 0.1)  # noise is no tumour
    else:
        opaque = ramp(depth, c.opaque_depth - 1.5, c.opaque_depth + 1.5)
        closed = ndimage.grey_closing(np.maximum(opacity, opaque), footprint=DISC)
        opacity = _without_islands(np.maximum(blur(closed, sigma_of(c.fine, spacing)), opaque), spacing)
    own = (opacity > 0.6) & ndimage.binary_dilation(tissue, IN_PLANE, 2)
    own = blur(own, sigma_of(0.9, spacing)) * changed
    grain = image - (opacity * colour + (1 - opacity) * back)
    bound = 3 * sd_of(grain[core]) if core.any() else 3 * noise
    finest = finest_of(image)
    if not in_lung:
        free = ramp(depth, 0.0, 3.0)
        grain = held(grain, free, bound)
        finest = held(
            finest, ramp(depth, -1.5, 0.5), 3 * sd_of(finest[tissue])
        )  # its rim's edges are its own
    matte = Matte(
        mask, tissue, opacity.astype(np.float32), colour, grain, finest, own, background, np.zeros_like(image),
        spacing, in_lung, noise, bound,
    )  # fmt: skip
    return replace(matte, residual=np.where(matte.touched, image - composed(matte, background), 0))


def _core(image, fine, back, mask, spacing, in_lung: bool) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that are tumour for certain, and the mask without other tissue that its contour takes in."""
    depth = depth_of(mask, spacing)
    core = mask & (depth >= min(2.5, np.quantile(depth[mask], 0.7)))
    if in_lung:  # the contour takes in lung
        top = np.quantile(fine[mask & (depth >= np.quantile(depth[mask], 0.6))], 0.6)
        dense = mask & ((fine - back) > 0.8 * (top - back)) & (top - back > 100)
        return (core if dense.sum() <= 0.05 * mask.sum() else dense & (depth > 0.4)), mask
    # It takes in fat and fascia: what deviates and hangs together with the outside isn't the tumour's.
    level = blur(image, sigma_of(1.0, spacing))
    middle, unit = np.median(level[core]), sd_of(level[core])
    strange = mask & (np.abs(level - middle) > 4 * unit)
    edge = ndimage.binary_dilation(~mask) & mask
    strange = ndimage.binary_propagation(edge & strange, mask=strange & (depth < 7))
    tissue = ndimage.binary_opening(mask & ~strange, IN_PLANE, 2) if strange.any() else mask
    tissue = tissue if tissue.any() else mask
    deep = depth_of(tissue, spacing) >= min(2.0, np.quantile(depth_of(tissue, spacing)[tissue], 0.7))
    alike = core & (np.abs(level - middle) <= 4 * unit) & deep
    return (alike if alike.any() else core), tissue


def _continued(image, core, spacing, c: MatteConfig) -> np.ndarray:
    """The core's level, continued outwards from the nearest part of it."""
    colour, weight = known_blur(image, core, sigma_of(c.colour, spacing))
    nearest = ndimage.distance_transform_edt(
        ~(weight > 0.05), spacing, return_distances=False, return_indices=True
    )
    spread = blur(colour[tuple(nearest)], sigma_of(2.0, spacing))
    share = np.clip(weight / 0.3, 0, 1)
    return np.where(weight > 0.05, colour * share + spread * (1 - share), spread).astype(np.float32)


def _opacity(colour, fine, back, depth, noise: float, c: MatteConfig) -> np.ndarray:
    """By level where tumour and background differ, else by the distance from the contour."""
    contrast = colour - back
    clear = ramp(np.abs(contrast) / noise, *c.clear_sd)
    by_level = np.clip((fine - back) / np.where(np.abs(contrast) < 1, 1, contrast), 0, 1)
    return clear * by_level + (1 - clear) * ramp(depth, -c.unclear_border, c.unclear_border)


def _without_islands(opacity: np.ndarray, spacing) -> np.ndarray:
    """Opacity near the solid part only: islands are where removal guessed another tissue."""
    solid = ndimage.binary_opening(opacity > 0.5, IN_PLANE)
    if not solid.any():
        return opacity
    near = (min(spacing[0] / spacing[1], 1.2), 1, 1)  # a thick slice's neighbour may hold the tumour's end
    return opacity * (1 - ramp(ndimage.distance_transform_edt(~solid, near), 1.2, 3.0))


def held(grain: np.ndarray, free: np.ndarray, bound: float) -> np.ndarray:
    """Grain that has no more than `bound` where it isn't free (0 to 1): what is more is other tissue."""
    return free * grain + (1 - free) * bound * np.tanh(grain / bound)


MOST_GRAIN = 1.25
"""Largest gain that gives mixed grain back the variance it loses."""

EDGES = (0.05, 0.5)
"""Opacity over which what is finest becomes the tumour's: that of its edge goes with it."""


def _variance_kept(share: np.ndarray) -> np.ndarray:
    """Factor for grain of which a share is one scan's or place's and the rest another's."""
    mixed = (share > 0) & (share < 1)
    return np.where(mixed, np.minimum((share**2 + (1 - share) ** 2) ** -0.5, MOST_GRAIN), 1.0)


def composed(
    matte: Matte, background: np.ndarray, may: np.ndarray | float = 1.0, sharp: float | None = None
) -> np.ndarray:
    """The tumour over a background (D, H, W) of the matte's box, float32; untouched voxels are the background's own.

    :param may: 0 to 1, how much of a tumour each place may hold.
    :param sharp: of a tumour from another scan, whose grain is the background's own: how much of what is finest in its edges
        shows (`graft.grafted`). None: from this scan, of whose voxels `finest` has the edges, too.
    """
    background = np.asarray(background, np.float32)
    back = blur(background, sigma_of(MatteConfig.fine, matte.spacing))
    opacity, own = matte.opacity * may, matte.own * may
    edges = np.maximum(own, ramp(opacity, *EDGES))
    kept = [_variance_kept(v) if sharp is None else 1.0 for v in (own, edges)]
    grain = kept[0] * (own * matte.grain + (1 - own) * (background - back))
    level = opacity * matte.colour + (1 - opacity) * back
    finest = kept[1] * (edges * matte.finest + (1 - edges) * finest_of(background))
    values = without_grain(level + grain) + finest
    if sharp:
        values += sharp * finest_of(level)
    return np.where((opacity > 0) | (own > 0), values, background).astype(np.float32)

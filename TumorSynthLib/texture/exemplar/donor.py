"""A donor's tissue in another tumour's mask: its arrangement and roughness, on the recipient's own grain.

The donor's level (core, rim, cavities) is carried by the motion that takes one contour to the other, so that no seam is
needed whatever the forms. Its roughness is lent as a factor of the recipient's own bands, so that sharpness, streaks and noise
stay the recipient's scan's. What a donor's contour takes in of fat, bone or air isn't lent.

Arrays are (D, H, W), the axis of the slices first; spacing is (x, y, z) mm, as `bands.Bands` has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.exemplar.bands import Bands
from TumorSynthLib.texture.exemplar.limits import Limits, softly_held
from TumorSynthLib.texture.exemplar.matte import sd_of
from TumorSynthLib.texture.exemplar.warp import motion_between


@dataclass(frozen=True)
class DonorConfig:
    """How tissue is lent.

    :param strange_sd: robust standard deviations from the core at which what a contour takes in isn't tumour.
    :param rim: voxels in plane below the border that may hold such tissue.
    :param scale: by which a donor is enlarged at least and at most, so that it fills the recipient.
    :param low: in-plane voxels, Gaussian of what is carried: where noise is a small part of the contrast, and elsewhere.
    :param clear: times the noise from which the spread of a donor's level counts as clear contrast.
    :param local: in-plane voxels, Gaussian over which roughness is compared.
    :param fine, medium: factors of the recipient's bands, at least and at most.
    """

    strange_sd: float = 5.0
    rim: float = 2.5
    scale: tuple[float, float] = (0.5, 2.0)
    low: tuple[float, float] = (1.0, 2.0)
    clear: float = 8.0
    local: float = 4.0
    fine: tuple[float, float] = (0.7, 1.4)
    medium: tuple[float, float] = (0.4, 2.5)


CONFIG = DonorConfig()


def lent_tissue(
    image: np.ndarray, mask: np.ndarray, spacing, in_air: bool, is_ct: bool, config=CONFIG
) -> np.ndarray:
    """The donor's mask without other tissue at its border; all of it where air is around, which no contour tells apart.

    In MR septa inside are the tumour's own.
    """
    if in_air:
        return mask
    bands = Bands(image, mask, spacing)
    level = bands.smooth(bands.image, 1.5)[bands.mask]
    core = level[bands.depth > min(config.rim, np.quantile(bands.depth, 0.5))]
    same = np.abs(level - np.median(core)) < config.strange_sd * sd_of(core)
    kept = mask.copy()
    kept[mask] = same if is_ct else same | (bands.depth > config.rim)
    return kept if kept.sum() > 0.3 * mask.sum() else mask


def laid(
    bands: Bands, image: np.ndarray, lend: np.ndarray, spacing, limits: Limits | None = None, config=CONFIG
) -> np.ndarray:
    """Voxels (n,) of a tumour with a donor's tissue.

    :param bands: of the recipient.
    :param image, lend: the donor's image and lent tissue; `spacing` (x, y, z) mm.
    :param limits: what tissue allows in the recipient.
    """
    level, rough = _carried(bands, image, lend, spacing, config)
    wanted, bounds = level, (config.fine, config.medium)
    for part, theirs, ends in zip(bands.parts[1:], rough, bounds):
        wanted = wanted + _gain(bands, part, theirs, ends, config) * part
    change = wanted - (bands.own - bands.parts[0])
    if limits is not None:
        change = softly_held(change, bands.own, limits.low, limits.high, 2 * bands.noise)
    return bands.own + bands.without_grain(bands.fade * change)


def _carried(bands: Bands, image, lend, spacing, c: DonorConfig) -> tuple[np.ndarray, np.ndarray]:
    """The donor's level (n,) and the standard deviations (1 or 2, n) of its finer bands, at the recipient's voxels."""
    theirs = Bands(image, lend, spacing)
    size = float(np.cbrt(bands.mask.sum() * np.prod(bands.spacing) / (lend.sum() * np.prod(theirs.spacing))))
    zoom = np.clip(size, *c.scale) * theirs.spacing / bands.spacing
    box = bounding_box(theirs.mask)
    near = ndimage.distance_transform_edt(
        ~theirs.mask, theirs.spacing, return_distances=False, return_indices=True
    )
    spread = np.subtract(*np.percentile(theirs.smooth(theirs.image, c.low[1])[theirs.mask], (95, 5)))
    clear = spread > c.clear * theirs.noise
    detail = [_box(theirs, part) for part in theirs.parts[1 : 2 if clear else 3]]
    fields = [theirs.smooth(theirs.image, c.low[0 if clear else 1])]
    fields += [np.sqrt(np.maximum(theirs.smooth(d**2, c.local), 0)) for d in detail]
    fields = [
        ndimage.zoom(f[tuple(near)][box], zoom, order=1, mode="nearest", grid_mode=True) for f in fields
    ]
    inside = (
        ndimage.zoom(theirs.mask[box].astype(np.float32), zoom, order=1, mode="grid-constant", grid_mode=True)
        > 0.5
    )
    old, new, shift = _aligned(inside, bands.mask)
    motion = motion_between(old, new, bands.spacing)
    at = np.argwhere(new) - motion[:, new].T
    # The nearest voxel of the donor's box: beyond it the border is repeated.
    found = [ndimage.map_coordinates(f, (at - shift).T, order=1, mode="nearest") for f in fields]
    return found[0], np.stack(found[1:])


def _aligned(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both masks in the box of the second, grown where the first needs it, with their centres together; and the first's place."""
    shift = np.round(np.argwhere(new).mean(0) - np.argwhere(old).mean(0)).astype(int)
    before = np.maximum(-shift, 0) + 4
    after = np.maximum(shift + old.shape - new.shape, 0) + 4
    wide = np.pad(new, list(zip(before, after)))
    moved = np.zeros(wide.shape, bool)
    moved[tuple(slice(a, a + n) for a, n in zip(shift + before, old.shape))] = old
    return moved, wide, shift + before


def _box(bands: Bands, values: np.ndarray) -> np.ndarray:
    box = np.zeros(bands.mask.shape)
    box[bands.mask] = values
    return box


def _gain(bands: Bands, band: np.ndarray, wanted: np.ndarray, bounds, c: DonorConfig) -> np.ndarray:
    """(n,) factor of one of the recipient's bands that makes it as rough as the donor's."""
    mine = np.sqrt(np.maximum(bands.smooth(_box(bands, band**2), c.local)[bands.mask], 0)) + 1e-6
    return np.clip(wanted / mine, *bounds)

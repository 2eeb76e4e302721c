"""Tumours moved, reshaped and inserted: the door to `matte`, `place`, `warp` and `graft`.

Arrays are (D, H, W), the axis of the slices first; spacing is (z, y, x) mm. Images are read around the tumour only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import Matte, MatteConfig, distance_mm, take_out
from TumorSynthLib.texture.exemplar.place import Laid, allowed, detached, laid_over
from TumorSynthLib.texture.exemplar.warp import warped

LUNG_HU, LUNG_SHARE, RING_MM = -500.0, 0.3, 8.0
"""A tumour lies in lung where this share of the voxels within `RING_MM` of it is below `LUNG_HU` in a CT."""
CONTACT_SHARE = 0.05
"""Share of a mask that touches the chest's wall from which on the tumour stays on it when its size changes."""


def tumour_of(
    image: np.ndarray,
    removed: np.ndarray,
    mask: np.ndarray,
    changed: np.ndarray,
    spacing,
    is_ct: bool,
    reach_mm: float,
) -> tuple[Matte, tuple[slice, slice, slice]]:
    """A tumour's matte, and the box of the image that it covers.

    :param image, removed: (D, H, W), before and after the tumour's removal, which changed the voxels `changed`.
    :param reach_mm: by which hole and zone go beyond the mask.
    """
    return _cut(image, removed, mask, changed, spacing, is_ct, reach_mm, MatteConfig.margin_mm)


def _cut(image, removed, mask, changed, spacing, is_ct, reach_mm, margin_mm):
    box = box_around(mask | changed, spacing, margin_mm)
    ring = (ndimage.distance_transform_edt(~mask[box], spacing) <= RING_MM) & ~mask[box]
    in_lung = bool(is_ct and ring.any() and (image[box][ring] < LUNG_HU).mean() > LUNG_SHARE)
    return take_out(image[box], removed[box], mask[box], changed[box], spacing, in_lung, reach_mm), box


def box_around(mask: np.ndarray, spacing, mm: float) -> tuple[slice, slice, slice]:
    """The mask's box and so many mm around it, within the image."""
    margin = [int(np.ceil(mm / s)) for s in spacing]
    bounds = [(i.min(), i.max() + 1) for i in np.nonzero(mask)]
    return tuple(
        slice(max(0, int(a) - m), min(n, int(b) + m)) for (a, b), m, n in zip(bounds, margin, mask.shape)
    )


def moved(removed: np.ndarray, matte: Matte, box, shift, is_ct: bool) -> Laid:
    """The tumour shifted by whole voxels (z, y, x) over the image without it."""
    corner = np.array([s.start for s in box]) + np.asarray(shift)
    return laid_over(removed, detached(matte, is_ct), corner, is_ct)


def reshaped(
    image: np.ndarray,
    removed: np.ndarray,
    mask: np.ndarray,
    new: np.ndarray,
    changed: np.ndarray,
    spacing,
    is_ct: bool,
    reach_mm: float,
    shift=(0, 0, 0),
) -> Laid:
    """The tumour with another mask (D, H, W) of the same image, then shifted by whole voxels.

    An equal mask without a shift gives the image back to the voxel.
    """
    larger = box_around(mask | new | changed, spacing, MatteConfig.margin_mm)
    margin = max(abs(a.start - b.start) * s for a, b, s in zip(larger, box_around(mask, spacing, 0), spacing))
    matte, box = _cut(
        image, removed, mask, changed, spacing, is_ct, reach_mm, max(margin, MatteConfig.margin_mm)
    )
    away = any(shift)
    matte = warped(detached(matte, is_ct) if away else matte, new[box])
    laid = laid_over(removed, matte, np.array([s.start for s in box]) + np.asarray(shift), is_ct, not away)
    return laid if away else replace(laid, values=laid.values + matte.residual)


def contact_of(removed: np.ndarray, mask: np.ndarray, spacing, is_ct: bool) -> np.ndarray | None:
    """Centre (z, y, x) index of where a tumour in the lung lies on the chest's wall; None where it doesn't."""
    box = box_around(mask, spacing, RING_MM)
    inside = allowed(removed[box], spacing, True, is_ct) >= 0.5
    near = distance_mm(~inside, spacing) <= 2.5 * spacing[1]
    touch = mask[box] & near
    if inside.all() or touch.sum() <= CONTACT_SHARE * mask[box].sum():
        return None
    return np.argwhere(touch).mean(0) + [s.start for s in box]

"""A new tumour's mask brought to where a tumour may lie, without losing its size."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import sigma_of
from TumorSynthLib.texture.exemplar.place import allowed, bright_of, seen_around
from TumorSynthLib.texture.exemplar.spatial import blur, near_box

MARGIN_MM, LEAST, STEPS = 25.0, 0.5, 12
"""Around a tumour where it may grow; share of it that its place has to leave, or it stays as it is; halvings of the depth."""


def filled_up(
    image: np.ndarray, mask: np.ndarray, spacing, in_lung: bool, is_ct: bool, free=None
) -> np.ndarray:
    """A mask (D, H, W) off what a tumour can't replace, and as large as it was: what bone takes, its free surface gives.

    :param image: (D, H, W); `spacing` (z, y, x) mm; `free` bool of its shape, where it may grow; None: everywhere.
    """
    box = near_box(mask, spacing, MARGIN_MM)
    wide, inner = seen_around(image, box, spacing, in_lung)
    may = allowed(wide, spacing, in_lung, is_ct, 0.0 if is_ct else bright_of(image))[inner] > 0.5
    old, size = mask[box], int(mask.sum())
    left = _whole(old & may, old)
    if not LEAST * size < left.sum() < size:
        return mask
    if free is not None:
        may &= old | free[box]
    depth = ndimage.distance_transform_edt(old, spacing) - ndimage.distance_transform_edt(~old, spacing)
    depth = depth + 0.5 * blur(depth, sigma_of(1.0, spacing))  # else many are as deep
    low, high = float(depth[may].min()), float(depth[left].max())
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _whole(may & (depth > middle), left).sum() > size else (low, middle)
    filled = np.zeros_like(mask)
    filled[box] = _whole(may & (depth > high), left)
    return filled


def _whole(mask: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The largest part of a mask that has some of its core."""
    parts, count = ndimage.label(mask)
    return parts == 1 + ndimage.sum_labels(core, parts, np.arange(1, count + 1)).argmax() if count else mask

"""Tumours moved, reshaped and inserted: the door to `matte`, `place`, `warp` and `graft`.

Arrays are (D, H, W), the axis of the slices first; spacing is (z, y, x) mm. Images are read around the tumour only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import (
    IN_PLANE,
    Matte,
    MatteConfig,
    depth_of,
    distance_mm,
    ramp,
    sigma_of,
    take_out,
)
from TumorSynthLib.texture.exemplar.place import Laid, allowed, detached, joined, laid_over
from TumorSynthLib.texture.exemplar.spatial import blur
from TumorSynthLib.texture.exemplar.warp import warped

LUNG_HU, LUNG_SHARE, RING_MM = -500.0, 0.3, 8.0
"""A tumour lies in lung where this share of the voxels within `RING_MM` of it is below `LUNG_HU` in a CT."""
CONTACT_MM, CONTACT_SHARE = 3.5, 0.05
"""Share of a mask's border that lies so near the chest's wall from which on the tumour stays on it when its size changes."""

THROUGH = 4.0
"""Voxels in plane around bone within which a tumour goes on as it would without it."""


@dataclass(frozen=True, eq=False)
class Source:
    """A tumour in its image, before and after its removal; arrays (D, H, W), the axis of the slices first.

    :param image, removed: before and after; `changed` bool, the voxels that the removal changed.
    :param mask: bool, the tumour; `spacing` (z, y, x) mm; `is_ct`: intensities are Hounsfield units.
    """

    image: np.ndarray
    removed: np.ndarray
    mask: np.ndarray
    changed: np.ndarray
    spacing: tuple[float, float, float]
    is_ct: bool

    def matte(self, cover: np.ndarray | None = None) -> tuple[Matte, tuple[slice, ...]]:
        """The tumour's matte and the box of the image that it covers, which holds `cover`, too."""
        whole = self.mask | self.changed if cover is None else self.mask | self.changed | cover
        box = box_around(whole, self.spacing, MatteConfig.margin_mm)
        image, mask = self.image[box], self.mask[box]
        made = take_out(image, self.removed[box], mask, self.changed[box], self.spacing, self.in_lung)
        return made, box

    @cached_property
    def in_lung(self) -> bool:
        """Whether lung is around the tumour."""
        if not self.is_ct:
            return False
        box = box_around(self.mask, self.spacing, RING_MM)
        mask = self.mask[box]
        ring = (ndimage.distance_transform_edt(~mask, self.spacing) <= RING_MM) & ~mask
        return bool(ring.any() and (self.image[box][ring] < LUNG_HU).mean() > LUNG_SHARE)


def box_around(mask: np.ndarray, spacing, mm: float) -> tuple[slice, ...]:
    """The mask's box and so many mm around it, within the image."""
    margin = [int(np.ceil(mm / s)) for s in spacing]
    bounds = [(i.min(), i.max() + 1) for i in np.nonzero(mask)]
    return tuple(
        slice(max(0, int(a) - m), min(n, int(b) + m)) for (a, b), m, n in zip(bounds, margin, mask.shape)
    )


def moved(source: Source, shift, onto: np.ndarray | None = None) -> Laid:
    """The tumour shifted by whole voxels (z, y, x).

    :param onto: (D, H, W) image that it is laid onto; None is the one without it.
    """
    matte, box = source.matte()
    corner = np.array([s.start for s in box]) + np.asarray(shift)
    return laid_over(
        source.removed if onto is None else onto, detached(matte, source.is_ct), corner, source.is_ct
    )


def reshaped(source: Source, new: np.ndarray, shift=(0, 0, 0), onto: np.ndarray | None = None) -> Laid:
    """The tumour with another mask (D, H, W) of the same image, then shifted by whole voxels.

    An equal mask without a shift gives the image back to the voxel.

    :param onto: see `moved`.
    """
    if not any(shift) and np.array_equal(new, source.mask):
        box = box_around(source.mask | source.changed, source.spacing, 0.0)
        mask = source.mask[box]
        return Laid(box, np.asarray(source.image[box], np.float32), mask | source.changed[box], mask, mask)
    matte, box = source.matte(new)
    away, under = any(shift), source.removed if onto is None else onto
    left = matte.mask & ~source.changed[box]  # bone that runs through the tumour
    home = None if away else (matte.touched | matte.mask) & source.changed[box]
    if away:
        matte = warped(_whole(detached(matte, source.is_ct), left), new[box])
    else:
        matte, seam = joined(matte)
        matte = joined(warped(_whole(matte, left), new[box], source.changed[box]), seam)[0]
    laid = laid_over(under, matte, np.array([s.start for s in box]) + np.asarray(shift), source.is_ct, home)
    return laid if away else replace(laid, values=laid.values + matte.residual)


def _whole(matte: Matte, left: np.ndarray) -> Matte:
    """The tumour as if what is left, (D, H, W) bool, didn't run through it: its parts are to move against it."""
    if not left.any():
        return matte
    near = ramp(depth_of(left, matte.spacing), -THROUGH, 1 - THROUGH)
    inner = ramp(depth_of(matte.mask, matte.spacing), -MatteConfig.unclear_border, MatteConfig.unclear_border)
    return replace(matte, opacity=np.maximum(matte.opacity, near * inner).astype(np.float32))


def contact_of(removed: np.ndarray, mask: np.ndarray, spacing, is_ct: bool) -> np.ndarray | None:
    """Centre (z, y, x) index of where a tumour in the lung lies on the chest's wall; None where it doesn't."""
    box = box_around(mask, spacing, RING_MM)
    inside = allowed(removed[box], spacing, True, is_ct) >= 0.5
    border = mask[box] & (distance_mm(~mask[box], spacing) <= 2.5 * spacing[1])
    touch = border & (distance_mm(~inside, spacing) <= CONTACT_MM)
    if inside.all() or touch.sum() <= CONTACT_SHARE * border.sum():
        return None
    return np.argwhere(touch).mean(0) + [s.start for s in box]


def on_wall(removed: np.ndarray, old: np.ndarray, new: np.ndarray, spacing, is_ct: bool) -> np.ndarray:
    """A smaller mask of a tumour that lay on the chest's wall without the slit of lung that scaling opens between the two.

    It is as large as `new`: what the slit takes, the free surface gives.

    :param removed: (D, H, W) without the tumour; `old`, `new` (D, H, W) bool.
    """
    box = box_around(old | new, spacing, RING_MM)
    wall = distance_mm(allowed(removed[box], spacing, True, is_ct) < 0.5, spacing) <= CONTACT_MM
    old, small = old[box], new[box]
    radius = [float((3 * m.sum() * np.prod(spacing) / (4 * np.pi)) ** (1 / 3)) for m in (old, small)]
    gap = distance_mm(small, spacing) + distance_mm(wall, spacing)
    whole = small | (old & (gap <= radius[0] - radius[1] + 2 * spacing[1]))
    if not wall.any() or (whole == small).all():
        return new
    depth = ndimage.distance_transform_edt(whole | wall, spacing)
    depth = depth + 0.5 * blur(depth, sigma_of(1.0, spacing))  # else many are as deep
    levels = np.sort(depth[whole])
    low, high = 0, len(levels) - 1
    while low < high:  # the free surface goes down until the size is right
        middle = (low + high) // 2
        left = _in_one_piece(whole & (depth > levels[middle]), small)
        low, high = (middle + 1, high) if left.sum() > small.sum() else (low, middle)
    result = new.copy()
    result[box] = _in_one_piece(whole & (depth > levels[low]), small)
    return result


def _in_one_piece(mask: np.ndarray, core: np.ndarray) -> np.ndarray:
    """A mask without what is cut off from its core, and without the holes that it has in a slice."""
    whole = ndimage.binary_propagation(mask & core, mask=mask)
    return ndimage.binary_fill_holes(whole, IN_PLANE)

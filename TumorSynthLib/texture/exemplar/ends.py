"""Vessels of the lung that a removal cuts: outside the hole each runs out in a tip, where else its cut would be a flat face.

Arrays are (D, H, W) with the slice axis first, spacing (z, y, x) in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .hole import Surroundings
from .spatial import blur, dilate, edt, near_box


@dataclass(frozen=True)
class EndsConfig:
    """Which vessels run out, and how. Chosen on lung tumours of the training split."""

    length_mm: float = 10.0
    """Of a tip."""
    vessel_hu: float = -500.0
    """Vessels are brighter."""
    thickest_mm: float = 3.5
    """Radius from which on it is no vessel but hilum."""
    cut_mm2: tuple[float, float] = (4.0, 60.0)
    """Area of the cut: smaller ones aren't seen, larger ones are no vessel's."""
    tube: float = 2.5
    """A vessel has no more volume than so many times its cut by the length: bronchi's walls and forks have."""
    free_mm: float = 4.0
    """A vessel keeps so far off what bounds the lung: nearer to it lie hilum and pleura."""
    beside_mm: float = 2.0
    """So far beside a vessel its partial volume is taken for its own."""
    soft_mm: float = 0.8
    """Half the width of a tip's edge, and Gaussian (three quarters of it) by which everything is evened."""


def kept_share(image, hole, around: Surroundings, spacing, config: EndsConfig | None = None) -> np.ndarray:
    """(D, H, W) 0 to 1, how much stays of an image around a hole in the lung: less of a vessel near to where the hole cuts it."""
    c, kept = config or EndsConfig(), np.ones(hole.shape, np.float32)
    box = near_box(hole, spacing, c.length_mm + 2 * c.thickest_mm)
    one = [0.75 * c.soft_mm / s for s in spacing]
    inside, lung = hole[box], (around.depth > spacing[1])[box] & ~around.bone[box]
    vessel = (blur(image[box], one) > c.vessel_hu) & lung & ~inside
    deep, away = edt(np.pad(vessel, 1), spacing)[1:-1, 1:-1, 1:-1], edt(~inside, spacing)
    vessel &= ~dilate(deep > c.thickest_mm, spacing, 2 * c.thickest_mm)
    parts, count = ndimage.label(vessel & (away <= c.length_mm), np.ones((3, 3, 3)))
    voxel, each = float(np.prod(spacing)), np.arange(count + 1)
    cut = np.bincount(parts[away <= 1.01 * max(spacing)], minlength=count + 1) * voxel / max(spacing)
    runs = (cut >= c.cut_mm2[0]) & (cut <= c.cut_mm2[1])
    runs &= np.bincount(parts.ravel(), minlength=count + 1) * voxel < c.tube * cut * c.length_mm
    runs &= ndimage.maximum(away, parts, each) > 0.9 * c.length_mm  # else it passes by
    runs &= ndimage.minimum(around.depth[box], parts, each) > c.free_mm
    runs[0] = False
    part = runs[parts]
    if not part.any():
        return kept
    near = dilate(part, spacing, c.beside_mm) & ~inside & lung & (away <= c.length_mm) & (part | (parts == 0))
    wide = [2 * int(np.ceil(c.thickest_mm / s)) + 1 for s in spacing]
    radius = blur(ndimage.maximum_filter(np.where(part, deep, 0), wide), [2.0 / s for s in spacing])
    share = np.clip(away / c.length_mm, 0, 1)
    depth = blur(deep - edt(~vessel, spacing), one) - (1 - share) * (
        radius + c.soft_mm
    )  # below the tip's surface
    tip = np.clip(0.5 + 0.5 * depth / c.soft_mm, 0, 1)
    tip = np.maximum(tip * tip * (3 - 2 * tip), np.clip(5 * share - 4, 0, 1))
    kept[box] = np.where(near, blur(np.where(near, tip, 1), one), 1)
    return kept

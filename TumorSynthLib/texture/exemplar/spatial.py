"""Small tools on arrays (D, H, W) with spacing (z, y, x) in mm: blurs that respect what is unknown,
distances, boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

FAR_MM = 1e6
"""Distance (mm) given to voxels that weren't looked at because they are farther than asked."""
ROBUST = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""


def blur(array: np.ndarray, sigma) -> np.ndarray:
    """Gaussian of `sigma` voxels (one number or one per axis), float32."""
    return ndimage.gaussian_filter(np.asarray(array, np.float32), sigma, truncate=3.0)


def known_blur(array: np.ndarray, known: np.ndarray, sigma) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian of the known voxels only, and the share of known voxels under it (0 to 1)."""
    weight = blur(known, sigma)
    return blur(np.where(known, array, 0), sigma) / np.maximum(weight, 1e-4), weight


def near_box(mask: np.ndarray, spacing: Sequence[float], mm: float) -> tuple[slice, ...]:
    """Box of the mask, which must not be empty, and `mm` around it."""
    box = []
    for axis, size in enumerate(spacing):
        rows = np.flatnonzero(mask.any(tuple(k for k in range(mask.ndim) if k != axis)))
        more = int(mm / size) + 2
        box.append(slice(max(0, int(rows[0]) - more), int(rows[-1]) + more + 1))
    return tuple(box)


def distance(mask: np.ndarray, spacing: Sequence[float], mm: float) -> np.ndarray:
    """Distance (mm) of each voxel to the mask, right up to `mm`; FAR_MM where it is certainly more."""
    far = np.full(mask.shape, np.float32(FAR_MM))
    if mask.any():
        box = near_box(mask, spacing, mm)
        far[box] = edt(~mask[box], spacing)
    return far


def edt(where: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance (mm, float32) of each voxel of `where` to the nearest that isn't, of which there must be one: scipy's
    transform, which works out its distances in float64 at twice the time."""
    nearest = ndimage.distance_transform_edt(where, spacing, return_distances=False, return_indices=True)
    square = np.zeros(where.shape, np.float32)
    for axis, size in enumerate(spacing):
        own = np.arange(where.shape[axis], dtype=np.int32)
        apart = (nearest[axis] - np.expand_dims(own, [a for a in range(where.ndim) if a != axis])).astype(
            np.float32
        )
        apart *= np.float32(size)
        apart *= apart
        square += apart
    return np.sqrt(square)


def behind(wall: np.ndarray, mask: np.ndarray, where: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Voxels of `where` that a wall hides from the mask: the straight way from its nearest voxel crosses it."""
    out = np.zeros(mask.shape, bool)
    box = near_box(where, spacing, 0.0)
    at = np.argwhere(where[box] & ~mask[box])
    if not len(at) or not mask[box].any():
        return out
    nearest = ndimage.distance_transform_edt(~mask[box], spacing, return_distances=False, return_indices=True)
    way = at - nearest[(slice(None), *at.T)].T
    hidden, steps = np.zeros(len(at), bool), 2 * int(np.abs(way).max())
    for part in np.arange(1, steps) / steps:
        hidden |= wall[box][tuple(np.rint(at - part * way).astype(int).T)]
    out[box][tuple(at[hidden].T)] = True
    return out


def dilate(mask: np.ndarray, spacing: Sequence[float], mm: float) -> np.ndarray:
    """Voxels within `mm` of the mask, the mask included: rows widened by each number of voxels, eight to a byte, and joined
    over the offsets that they reach, which takes a tenth of a distance transform's time."""
    out = np.zeros(mask.shape, bool)
    if not mask.any():
        return out
    box = near_box(mask, spacing, mm)
    inner, limit = mask[box], np.float32(mm + 1e-6)
    along = [
        (np.arange(int(mm / s) + 2, dtype=np.float32) * np.float32(s))[:n] ** 2
        for s, n in zip(spacing, inner.shape)
    ]
    apart = np.sqrt(along[0][:, None, None] + along[1][:, None] + along[2])
    width = (apart <= limit).sum(-1) - 1  # voxels along a row at each offset across rows, -1: too far
    wide = [inner]
    for step in range(1, int(width.max()) + 1):
        row = wide[-1].copy()
        row[..., step:] |= inner[..., :-step]
        row[..., :-step] |= inner[..., step:]
        wide.append(row)
    rows = [np.packbits(row, axis=-1) for row in wide]
    near = np.zeros_like(rows[0])
    for z, y in np.argwhere(width >= 0):
        for there_z, from_z in _shifted(z):
            for there_y, from_y in _shifted(y):
                near[there_z, there_y] |= rows[width[z, y]][from_z, from_y]
    out[box] = np.unpackbits(near, axis=-1, count=inner.shape[2]).view(bool)
    return out


def _shifted(step: int) -> list[tuple[slice, slice]]:
    """Where to and where from a shift by `step` voxels goes, to both sides."""
    if not step:
        return [(slice(None), slice(None))]
    return [(slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None))]


def in_plane(spacing: Sequence[float]) -> tuple[float, ...]:
    """A spacing with which distances are measured within slices only."""
    return (100.0 * max(spacing), *spacing[1:])


def robust_sd(values: np.ndarray) -> float:
    """Standard deviation estimated by the median absolute deviation."""
    return ROBUST * float(np.median(np.abs(values - np.median(values)))) if values.size else 0.0


def grid_points(low: Sequence[int], high: Sequence[int]) -> np.ndarray:
    """All index triples from `low` up to, not including, `high`: int (n, 3)."""
    axes = [np.arange(a, b) for a, b in zip(low, high)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def element_strides(shape: Sequence[int]) -> np.ndarray:
    """How far apart neighbours along each axis lie in the flat (C order) array."""
    return np.array([shape[1] * shape[2], shape[2], 1], np.int64)


def neighbours(nodes: np.ndarray, shape: Sequence[int]):
    """For each axis and sign: (axis, sign, rows of `nodes` (n, 3) that have a neighbour there, its indices as
    a tuple)."""
    for axis in range(3):
        for sign in (1, -1):
            beside = nodes.copy()
            beside[:, axis] += sign
            rows = np.flatnonzero((beside[:, axis] >= 0) & (beside[:, axis] < shape[axis]))
            yield axis, sign, rows, tuple(beside[rows].T)

"""A tumour given another shape: its opacity and colour are warped, its grain is laid at its own scale.

The motion carries the old contour onto the new one by the distances from them, so that the border keeps its width; scaling
is left to the inside. It is found by symmetric demons (Thirion 1998; SimpleITK) on a coarse grid, and mended at the contour.

Arrays are (D, H, W), the axis of the slices first; displacements (3, D, H, W) in voxels along (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import Matte, depth_of, ramp, sigma_of
from TumorSynthLib.texture.exemplar.scan import grain_of, without_grain
from TumorSynthLib.texture.exemplar.spatial import blur


@dataclass(frozen=True)
class WarpConfig:
    """How the motion is found and how grain follows it.

    :param samples: along the longest side of the grid that the motion is found on.
    :param iterations: of the demons; `smooth`: Gaussian of the motion in samples of that grid.
    :param mends: corrections along the contour's normal on the image's own grid.
    :param feather: voxels, Gaussian over which grain goes from one whole-voxel shift to the next.
    :param coarse: voxels, Gaussian above which grain is warped like colour.
    """

    samples: int = 40
    iterations: int = 60
    smooth: float = 1.5
    mends: int = 4
    feather: float = 0.6
    coarse: float = 2.2


def motion_between(old: np.ndarray, new: np.ndarray, spacing, config: WarpConfig | None = None) -> np.ndarray:
    """Displacement (3, D, H, W) in voxels that carries one mask onto another: new(y) = old(y - motion(y)); 0 for equal ones."""
    c, spacing = config or WarpConfig(), np.asarray(spacing, float)
    if (old == new).all():
        return np.zeros((3, *old.shape), np.float32)
    source, target = (ndimage.gaussian_filter(_signed_mm(m, spacing), 0.5) for m in (old, new))
    step = max(float((np.array(old.shape) * spacing).max()) / c.samples, float(spacing.min()))
    zoom = np.minimum(spacing / step, 1.0)
    coarse = [ndimage.zoom(v, zoom, order=1, mode="nearest", grid_mode=True) for v in (target, source)]
    real = spacing * np.array(old.shape) / coarse[0].shape
    motion = _demons(*coarse, real, c) / spacing[:, None, None, None]
    scale = np.array(old.shape) / np.array(coarse[0].shape)
    motion = np.stack([ndimage.zoom(v, scale, order=1, mode="nearest", grid_mode=True) for v in motion])
    return _mended(motion, source, target, spacing, c).astype(np.float32)


def _signed_mm(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance from the contour in mm, positive inside."""
    inside = ndimage.distance_transform_edt(mask, spacing)
    return (inside - ndimage.distance_transform_edt(~mask, spacing)).astype(np.float32)


def _demons(target: np.ndarray, source: np.ndarray, spacing, c: WarpConfig) -> np.ndarray:
    """Displacement (3, D, H, W) in mm of the coarse grid, with the sign of `motion_between`."""
    import SimpleITK as sitk

    images = []
    for values in (target, source):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(tuple(float(s) for s in spacing[::-1]))
        images.append(image)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(c.iterations)
    demons.SetMaximumRMSError(0.0)  # a fixed number of rounds, the same for any number of threads
    demons.SetStandardDeviations([c.smooth] * 3)
    field = sitk.GetArrayFromImage(demons.Execute(*images))
    return -np.moveaxis(field[..., ::-1], -1, 0)


def _mended(motion, source, target, spacing, c: WarpConfig) -> np.ndarray:
    """The motion with what the contour is still off put right along its normal."""
    at, size = np.indices(target.shape, dtype=np.float32), sigma_of(1.5, spacing)
    normal = np.stack(np.gradient(target, *spacing))
    normal /= np.maximum(np.sqrt((normal**2).sum(0)), 1e-3)
    near = np.exp(-((target / (2.0 * spacing[1])) ** 2)).astype(np.float32)
    weight = np.maximum(ndimage.gaussian_filter(near, size), 0.05)
    for _ in range(c.mends):
        carried = ndimage.map_coordinates(source, at - motion, order=1, mode="nearest")
        off = near * np.clip(carried - target, -2 * spacing[1], 2 * spacing[1])
        for axis in range(3):
            motion[axis] += ndimage.gaussian_filter(off * normal[axis], size) / weight / spacing[axis]
    return motion


def warped(matte: Matte, new: np.ndarray, config: WarpConfig | None = None) -> Matte:
    """The tumour with another mask (D, H, W) in its box; border as wide and grain as fine as they were."""
    c = config or WarpConfig()
    motion = motion_between(matte.mask, new, matte.spacing, c)
    if not motion.any():
        return matte
    at = np.indices(new.shape, dtype=np.float32) - motion

    def pulled(values, order=3):
        return ndimage.map_coordinates(values.astype(np.float32), at, order=order, mode="nearest")

    opacity, own = np.clip(pulled(matte.opacity), 0, 1), np.clip(pulled(matte.own, 1), 0, 1)
    opacity, own = opacity * ramp(opacity, 0.005, 0.03), own * ramp(own, 0.005, 0.03)
    still = np.exp(-((motion**2).sum(0) / 0.25))
    return replace(
        matte,
        mask=new,
        tissue=pulled(depth_of(matte.tissue, matte.spacing), 1) > 0,
        opacity=opacity,
        own=own,
        colour=pulled(matte.colour),
        grain=_laid_grain(matte, motion, own > 0.5, c),
        residual=(still * matte.residual).astype(np.float32),
    )


def _laid_grain(matte: Matte, motion: np.ndarray, wanted: np.ndarray, c: WarpConfig) -> np.ndarray:
    """Grain from whole-voxel shifts, so that it isn't scaled, and as strong as the tumour's own.

    What is coarser than grain is warped. Pieces of equal shifts are feathered, but for what is finer than the scan's
    structures: that is laid hard.
    """
    at, whole = np.indices(matte.grain.shape) - motion, np.round(motion).astype(int)
    coarse, finest = blur(matte.grain, sigma_of(c.coarse, matte.spacing)), grain_of(matte.grain)
    detail = matte.grain - finest - coarse
    laid = without_grain(_feathered(detail, whole, wanted, sigma_of(c.feather, matte.spacing)))
    index = [np.clip(i - k, 0, n - 1) for i, k, n in zip(np.indices(whole.shape[1:]), whole, whole.shape[1:])]
    hard = grain_of(finest[tuple(index)])
    inside = matte.own > 0.9
    result = ndimage.map_coordinates(coarse, at, order=3, mode="nearest")
    result += laid * _gain(detail, inside, laid, wanted) + hard * _gain(finest, inside, hard, wanted)
    return result.astype(np.float32)


def _gain(before, there, after, here) -> float:
    """Factor that makes one grain as strong as another."""
    if not (there.any() and here.any()):
        return 1.0
    return float(
        np.clip(np.sqrt((before[there] ** 2).mean() / max((after[here] ** 2).mean(), 1e-9)), 0.5, 2.0)
    )


def _feathered(values, whole, wanted, sigma) -> np.ndarray:
    """Values from whole-voxel shifts (3, D, H, W), feathered between them."""
    reach, shape = 3, values.shape
    mix, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for shift in np.unique(whole[:, wanted].T, axis=0) if wanted.any() else ():
        here = (whole == shift[:, None, None, None]).all(0)
        bounds = [(int(i.min()), int(i.max()) + 1) for i in np.nonzero(here)]
        box = tuple(slice(max(a - reach, 0), min(b + reach, n)) for (a, b), n in zip(bounds, shape))
        w = ndimage.gaussian_filter(here[box].astype(np.float32), sigma, truncate=2.5)
        index = [np.clip(np.arange(b.start, b.stop) - s, 0, n - 1) for b, s, n in zip(box, shift, shape)]
        mix[box] += w * values[np.ix_(*index)]
        total[box] += w
    return mix / np.maximum(total, 1e-3)

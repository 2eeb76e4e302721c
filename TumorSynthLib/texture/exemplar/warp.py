"""A tumour given another shape: its opacity and colour are warped, its grain is laid at its own scale.

The motion carries the old contour onto the new one by the distances from them, so that the border keeps its width; scaling
is left to the inside. It is found by symmetric demons (Thirion 1998; SimpleITK) on a coarse grid, and mended at the contour.

Arrays are (D, H, W), the axis of the slices first; displacements (3, D, H, W) in voxels along (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import Matte, blurred, depth_of, ramp, sigma_of


@dataclass(frozen=True)
class WarpConfig:
    """How the motion is found and how grain follows it.

    :param samples: along the longest side of the grid that the motion is found on.
    :param iterations: of the demons; `smooth`: Gaussian of the motion in samples of that grid.
    :param mends: corrections along the contour's normal on the image's own grid.
    :param feather: voxels, Gaussian over which grain goes from one whole-voxel shift to the next.
    :param coarse_gain, fine_gain: largest gains that give feathered grain its variance back.
    """

    samples: int = 40
    iterations: int = 60
    smooth: float = 1.5
    mends: int = 4
    feather: float = 0.6
    coarse_gain: float = 1.05
    fine_gain: float = 1.42


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
        grain=_laid_grain(matte, motion, own > 0, c),
        residual=(still * matte.residual).astype(np.float32),
    )


def _laid_grain(matte: Matte, motion: np.ndarray, wanted: np.ndarray, c: WarpConfig) -> np.ndarray:
    """Grain from whole-voxel shifts, so that it isn't scaled; pieces of equal shifts are feathered, variance given back."""
    whole = np.round(motion).astype(int)
    smooth = blurred(matte.grain, sigma_of(0.7, matte.spacing))
    parts = np.stack([smooth, matte.grain - smooth])
    shape = matte.grain.shape
    mix, total, squares = (np.zeros(n + shape, np.float32) for n in ((2,), (), ()))
    reach = 3
    for shift in np.unique(whole[:, wanted].T, axis=0) if wanted.any() else ():
        here = (whole == shift[:, None, None, None]).all(0)
        box = tuple(
            slice(max(int(i.min()) - reach, 0), min(int(i.max()) + reach + 1, n))
            for i, n in zip(np.nonzero(here), shape)
        )
        w = ndimage.gaussian_filter(
            here[box].astype(np.float32), sigma_of(c.feather, matte.spacing), truncate=2.5
        )
        index = [np.clip(np.arange(b.start, b.stop) - s, 0, n - 1) for b, s, n in zip(box, shift, shape)]
        mix[(slice(None), *box)] += w * parts[(slice(None), *np.ix_(*index))]
        total[box] += w
        squares[box] += w * w
    total = np.maximum(total, 1e-3)
    lost = total / np.sqrt(np.maximum(squares, 1e-6))
    gains = np.stack([np.minimum(lost, g) for g in (c.coarse_gain, c.fine_gain)])
    return (mix / total * gains).sum(0)

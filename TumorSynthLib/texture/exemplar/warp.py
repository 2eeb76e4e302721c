"""A tumour given another shape: its opacity and colour are warped, its grain is laid at its own scale.

The motion carries the old contour onto the new one by the distances from them, so that the border keeps its width; scaling
is left to the inside. It is found by symmetric demons (Thirion 1998; SimpleITK) on a coarse grid, and mended at the contour.

Arrays are (D, H, W), the axis of the slices first; displacements (3, D, H, W) in voxels along (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import BandConfig, Filter
from TumorSynthLib.texture.exemplar.matte import THICK, Matte, composed, depth_of, ramp, sd_of, sigma_of
from TumorSynthLib.texture.exemplar.scan import finest_of, without_grain
from TumorSynthLib.texture.exemplar.spatial import blur, in_plane


@dataclass(frozen=True)
class WarpConfig:
    """How the motion is found and how grain follows it.

    :param samples: along the longest side of the grid that the motion is found on.
    :param iterations: of the demons; `smooth`: Gaussian of the motion in samples of that grid.
    :param mends: corrections along the contour's normal on the image's own grid.
    :param feather: voxels, Gaussian over which grain goes from one whole-voxel shift to the next in lung; `wide`: in soft
        tissue, where neighbours are unlike, and the variance that is lost is given back.
    :param coarse: voxels, Gaussian above which grain of a tumour in lung, or of another scan, is warped like colour.
    :param level: voxels, Gaussian above which colour of other tumours is warped; what is finer is grain: a CT's
        streaks, warped, run like a fingerprint's lines.
    :param apart: voxels in plane, whole-voxel shifts of that grain are multiples of it: so its pieces are large.
    :param fewest: slices of which those across are a multiple at least, else neighbours show the same.
    :param stands_out: standard deviations (smoothed by 1 voxel) from which on grain is structure, as calcifications are, and
        is warped, or it might come twice.
    """

    samples: int = 40
    iterations: int = 60
    smooth: float = 1.5
    mends: int = 4
    feather: float = 0.6
    wide: float = 1.5
    coarse: float = 2.2
    level: float = 5.0
    apart: float = 8.0
    fewest: int = 3
    stands_out: float = 3.5


DEPTHS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 1e4])
"""Voxels in plane below the contour: between two of them grain is as strong as it was there."""
TOP = 0.45
"""Cycles per voxel in plane above which what is finest is made as strong as it was."""
BORDER = 2.5
"""Voxels in plane around a contour that are its border, which keeps its width."""
REACH_MM = 5.0
"""Around a tumour in lung what a removal changes."""
DRAWN = 0.8
"""Voxels in plane, Gaussian of what is drawn out."""
FEWEST = 30
"""Voxels that tell how strong grain is at a depth."""


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


def warped(
    matte: Matte,
    new: np.ndarray,
    gone: np.ndarray | None = None,
    config: WarpConfig | None = None,
    foreign: bool = False,
) -> Matte:
    """The tumour with another mask (D, H, W) in its box; border as wide and grain as fine as they were.

    :param gone: (D, H, W) bool, the voxels that its removal changed: there the lung around follows a tumour that shrinks.
        None: it stays as it is.
    :param foreign: it comes from another scan: what is coarser than grain is warped in soft tissue, too.
    """
    c = config or WarpConfig()
    motion = motion_between(matte.mask, new, matte.spacing, c)
    if not motion.any():
        return matte
    around = np.zeros(new.shape, np.float32)
    stays = not (matte.in_lung or foreign)
    matte = _levelled(matte, c) if stays else matte
    if matte.in_lung and gone is not None:
        held, around = _drawn_out(matte, new, gone, motion)
        motion *= held
    at = np.indices(new.shape, dtype=np.float32) - motion

    def pulled(values, order=3):
        return ndimage.map_coordinates(values.astype(np.float32), at, order=order, mode="nearest")

    opacity, own = np.clip(pulled(matte.opacity), 0, 1), np.clip(pulled(matte.own, 1), 0, 1)
    opacity, own = opacity * ramp(opacity, 0.005, 0.03), own * ramp(own, 0.005, 0.03)
    still = np.exp(-((motion**2).sum(0) / 0.25))
    grain, finest = _laid_grain(matte, motion, new, own > 0.5, stays, c)
    result = replace(
        matte,
        mask=new,
        tissue=pulled(depth_of(matte.tissue, matte.spacing), 1) > 0,
        opacity=np.maximum(opacity, 1e-6 * around),  # there it is changed, too
        own=own,
        colour=pulled(matte.colour),
        grain=grain,
        finest=finest,
        residual=(still * matte.residual).astype(np.float32),
    )
    if not around.any():
        return result
    image = composed(matte, matte.background) + matte.residual
    low, high = (pulled(f(image, 3), 0) for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    drawn = np.clip(pulled(image), low, high) - composed(result, matte.background)
    coarse = blur(drawn, sigma_of(DRAWN, matte.spacing))
    seen = ramp(np.abs(coarse) / matte.noise, 3.0, 6.0)  # else it is noise, which isn't drawn out
    drawn = seen * drawn + (1 - seen) * coarse
    return replace(result, residual=result.residual * (1 - around) + around * drawn)


def _drawn_out(
    matte: Matte, new: np.ndarray, gone: np.ndarray, motion: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How lung follows a tumour that shrinks: its border moves along, and what hangs on it stays where it was at its other
    end, so that vessels and haze are drawn out and not torn off. Thick slices each by themselves.

    Returns (D, H, W) 1 to 0, the share of the motion, and 0 to 1, where the image is drawn out.
    """
    spacing = np.array(matte.spacing)
    axes = (1, 2) if spacing[0] > THICK * spacing[1] else (0, 1, 2)
    unit = in_plane(matte.spacing) if len(axes) == 2 else matte.spacing
    away = np.maximum(-_signed_mm(new, unit), 0)
    left = np.minimum(
        np.maximum(REACH_MM + _signed_mm(matte.mask, unit), 0), ndimage.distance_transform_edt(gone, unit)
    )
    slope = [np.gradient(blur(away, sigma_of(1.0, spacing)), axis=axis) / spacing[axis] for axis in axes]
    moved = motion * spacing[:, None, None, None]
    inward = -np.sum([moved[axis] * g for axis, g in zip(axes, slope)], axis=0)
    inward = inward / np.maximum(np.sqrt((moved**2).sum(0) * np.sum(np.square(slope), axis=0)), 1e-6)
    if len(axes) == 2:  # what comes from another slice moves along
        inward = np.where(new.any((1, 2), keepdims=True), ramp(inward, 0.5, 0.95), 0)
    beyond, inward = np.maximum(away - BORDER * spacing[1], 0), ramp(inward, 0.0, 0.5)
    share = inward * ramp(away / spacing[1], 1.0, BORDER) * (left > 0)
    held = 1 - (1 - left / np.maximum(left + beyond, 1e-3)) * inward
    return held.astype(np.float32), share.astype(np.float32)


def _levelled(matte: Matte, c: WarpConfig) -> Matte:
    """A tumour of soft tissue whose colour is its level and what stands out; streaks and other coarse grain are grain."""
    level, one = blur(matte.colour, sigma_of(c.level, matte.spacing)), sigma_of(1.0, matte.spacing)
    fine = ramp(matte.own, 0.8, 1.0) * (matte.colour - level)
    grain = fine + matte.grain
    deep, coarse = depth_of(matte.tissue, matte.spacing) > 2.0, blur(grain, one)
    unit = sd_of(coarse[deep if deep.any() else matte.mask])
    high = blur(ndimage.maximum_filter(np.abs(coarse), (1, 3, 3)), one) / unit
    structure = deep * ramp(high, c.stands_out, c.stands_out + 1.0) * grain
    return replace(matte, colour=matte.colour - fine + structure, grain=grain - structure)


def _shifts(matte: Matte, motion: np.ndarray, c: WarpConfig) -> np.ndarray:
    """Whole-voxel shifts (3, D, H, W) of grain in soft tissue: it stays in its place where that is deep enough below the old
    contour; elsewhere shifts near the motion are the same in large pieces, from where it is."""
    nearest = np.round(motion).astype(int)
    shape, spacing = matte.mask.shape, np.array(matte.spacing)
    step = np.maximum(np.round(c.apart * spacing[1] / spacing), (c.fewest, 1, 1))
    step = step.astype(int).reshape(3, 1, 1, 1)
    depth, at = depth_of(matte.tissue, matte.spacing), np.indices(shape)
    wanted = np.minimum(ndimage.map_coordinates(depth, at - motion, order=1, mode="nearest"), 3.5) - 0.5
    node, least, result = np.round(motion / step).astype(int), np.full(shape, np.inf), nearest
    for off in np.ndindex(3, 3, 3):
        other = node + np.reshape(off, (3, 1, 1, 1)) - 1
        shift = other * step
        shift[1:] += other[0] % 2 * (step[1:] // 2)  # or slices that show the same lie above each other
        there = [np.clip(i - k, 0, n - 1) for i, k, n in zip(at, shift, shape)]
        cost = np.where(depth[tuple(there)] >= wanted, ((shift - motion) ** 2).sum(0), np.inf)
        result = np.where(cost < least, shift, result)
        least = np.minimum(cost, least)
    return np.where(depth >= wanted, 0, result)


def _laid_grain(
    matte: Matte, motion: np.ndarray, new: np.ndarray, wanted: np.ndarray, stays: bool, c: WarpConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Grain and what is finest of the scan from whole-voxel shifts: not scaled, and at each depth as strong as in the tumour.

    What is coarser than grain is warped, unless it `stays` grain. Pieces of equal shifts are feathered, but for what is finer
    than the scan's structures: that is laid hard.
    """
    at = np.indices(matte.grain.shape) - motion
    whole = _shifts(matte, motion, c) if stays else np.round(motion).astype(int)
    coarse = blur(matte.grain, sigma_of(c.coarse, matte.spacing)) * (not stays)
    detail = without_grain(matte.grain - coarse, 1)
    over = sigma_of(c.wide if stays else c.feather, matte.spacing)
    laid = without_grain(_feathered(detail, whole, wanted, over, 0.5 * stays))
    index = [np.clip(i - k, 0, n - 1) for i, k, n in zip(np.indices(whole.shape[1:]), whole, whole.shape[1:])]
    hard = finest_of(matte.finest[tuple(index)])
    depths = depth_of(matte.mask, matte.spacing), depth_of(new, matte.spacing)
    result = ndimage.map_coordinates(coarse, at, order=3, mode="nearest")
    result += laid * _gain(detail, laid, depths)
    # Joints of shifts are whiter than grain: it is compared where detectors look, near the highest frequencies.
    top = Filter(hard.shape, BandConfig(cutoff=TOP))
    gain = _gain(top.grain(matte.finest), top.grain(hard), depths)
    return result.astype(np.float32), (hard * gain).astype(np.float32)


def _gain(before: np.ndarray, after: np.ndarray, depths, bounds=(0.4, 2.5)) -> np.ndarray:
    """(D, H, W) factor that makes one grain as strong as another at each depth below its own contour."""
    powers = []
    for values, depth in zip((before, after), depths):
        band = np.digitize(depth, DEPTHS)
        count = np.bincount(band.ravel(), minlength=len(DEPTHS) + 1)[1:-1]
        total = np.bincount(band.ravel(), (values**2).ravel(), len(DEPTHS) + 1)[1:-1]
        powers.append(np.where(count >= FEWEST, total / np.maximum(count, 1), np.nan))
    gain = np.sqrt(powers[0] / np.maximum(powers[1], 1e-9))
    known, middle = np.isfinite(gain), (DEPTHS[:-1] + np.minimum(DEPTHS[1:], DEPTHS[-2] + 4)) / 2
    if not known.any():
        return np.ones(before.shape, np.float32)
    return np.interp(depths[1], middle[known], np.clip(gain[known], *bounds)).astype(np.float32)


def _feathered(values, whole, wanted, sigma, unlike: float) -> np.ndarray:
    """Values from whole-voxel shifts (3, D, H, W), feathered between them; `unlike`: 0.5 gives back the variance that unlike
    ones lose, 0 none."""
    reach, shape = int(np.ceil(2.5 * max(sigma))), values.shape
    mix, total, squares = (np.zeros(shape, np.float32) for _ in range(3))
    for shift in np.unique(whole[:, wanted].T, axis=0) if wanted.any() else ():
        here = (whole == shift[:, None, None, None]).all(0)
        bounds = [(int(i.min()), int(i.max()) + 1) for i in np.nonzero(here)]
        box = tuple(slice(max(a - reach, 0), min(b + reach, n)) for (a, b), n in zip(bounds, shape))
        w = ndimage.gaussian_filter(here[box].astype(np.float32), sigma, truncate=2.5)
        index = [np.clip(np.arange(b.start, b.stop) - s, 0, n - 1) for b, s, n in zip(box, shift, shape)]
        mix[box] += w * values[np.ix_(*index)]
        total[box] += w
        squares[box] += w * w
    return mix / np.maximum(total, 1e-3) * (total**2 / np.maximum(squares, 1e-6)) ** unlike

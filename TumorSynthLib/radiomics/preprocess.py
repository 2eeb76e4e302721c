"""Preparation of an image and its mask before features are measured, in pyradiomics' order and arithmetic."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .settings import Settings

MAX_VOXELS = 2.5e8  # of a resampled region: half a metre at 0.8 mm


def normalise(image, settings: Settings):
    """SimpleITK image with mean 0 and standard deviation `normalizeScale` over all its voxels.

    With `removeOutliers`, values beyond that many standard deviations are set to the limit before scaling.
    """
    import SimpleITK as sitk

    normalised = sitk.Normalize(image)
    if settings.removeOutliers is not None:
        limit = settings.removeOutliers
        clipped = sitk.GetImageFromArray(np.clip(sitk.GetArrayViewFromImage(normalised), -limit, limit))
        clipped.CopyInformation(normalised)
        normalised = clipped
    return normalised * settings.normalizeScale


def resegment(array: np.ndarray, mask: np.ndarray, settings: Settings) -> np.ndarray:
    """The voxels of `mask` whose intensity lies in `resegmentRange`; (D, H, W) both.

    One number is a lower limit. In mode 'relative' limits are shares of the region's maximum, in mode 'sigma'
    standard deviations from its mean.
    """
    limits = np.sort(np.array(settings.resegmentRange, float))
    values = array[mask]
    if settings.resegmentMode == "relative":
        limits = limits * values.max()
    elif settings.resegmentMode == "sigma":
        limits = values.mean() + limits * values.std()
    keep = mask & (array >= limits[0])
    if len(limits) == 2:
        keep &= array <= limits[1]
    if not keep.any():
        raise InputError(
            f"No voxel of the region lies in resegmentRange {tuple(map(float, limits))}. "
            "Widen the range, or check that the image has the expected unit."
        )
    return keep


def resample(image, mask, settings: Settings):
    """SimpleITK image and 0/1 mask on pyradiomics' grid for `resampledPixelSpacing` (x, y, z; mm).

    The grid has the mask's direction and starts at the corner of the mask's first voxel; only the region and
    `padDistance` voxels around it are kept. An axis with spacing 0, or in which the region has one slice,
    keeps its spacing. The image is interpolated by `interpolator`, the mask by nearest neighbour.

    :raises InputError: the region reaches out of the image, or the new grid has too many voxels.
    """
    import SimpleITK as sitk

    old = np.array(mask.GetSpacing())
    first, size = _region_box(image, mask)
    wanted = np.array(settings.resampledPixelSpacing, float)
    new = np.where((wanted == 0) | (size == 1), old, wanted)
    if np.allclose(image.GetSpacing(), new):
        mask = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor)
        return cropped(image, mask, settings.padDistance)
    ratio = old / new
    lower = np.maximum(np.floor((first - 0.5) * ratio - settings.padDistance), 0)
    upper = np.minimum(
        np.ceil((first + size - 0.5) * ratio + settings.padDistance),
        np.ceil(np.array(mask.GetSize()) * ratio) - 1,
    )
    if np.prod(upper - lower + 1) > MAX_VOXELS:
        raise InputError(
            f"resampledPixelSpacing {' × '.join(f'{s:g}' for s in wanted)} mm gives the region "
            f"{np.prod(upper - lower + 1):.2g} voxels, more than {MAX_VOXELS:.2g}. Give a larger one."
        )
    start = 0.5 * (new - old) / old + lower / ratio  # continuous index in the mask's grid
    grid = sitk.ResampleImageFilter()
    grid.SetOutputSpacing(new.tolist())
    grid.SetOutputDirection(mask.GetDirection())
    grid.SetSize((upper - lower + 1).astype(int).tolist())
    grid.SetOutputOrigin(mask.TransformContinuousIndexToPhysicalPoint(start.tolist()))
    grid.SetInterpolator(getattr(sitk, settings.interpolator))
    grid.SetOutputPixelType(image.GetPixelID())
    resampled = grid.Execute(image)
    grid.SetInterpolator(sitk.sitkNearestNeighbor)
    grid.SetOutputPixelType(mask.GetPixelID())
    return resampled, grid.Execute(mask)


def cropped(image, mask, padding: int):
    """SimpleITK image and 0/1 mask of one grid, cut to the region and so many voxels around it."""
    spans = _spans(mask)
    box = tuple(
        slice(max(int(s[0]) - padding, 0), min(int(s[-1]) + padding + 1, n))
        for s, n in zip(spans, mask.GetSize())
    )
    return image[box], mask[box]


def _spans(mask) -> list[np.ndarray]:
    """Indices (x, y, z) of a mask's columns, rows and slices that hold a part of it."""
    import SimpleITK as sitk

    used = sitk.GetArrayViewFromImage(mask) != 0
    if not used.any():
        raise InputError(
            "The mask is empty: no voxel is marked. Segment the tumour first, or check the label."
        )
    return [np.flatnonzero(used.any(axis=tuple(a for a in range(3) if a != 2 - axis))) for axis in range(3)]


def _region_box(image, mask) -> tuple[np.ndarray, np.ndarray]:
    """First index and size (x, y, z) of the region, after the check that it lies within the image."""
    spans = _spans(mask)
    first = np.array([span[0] for span in spans])
    size = np.array([span[-1] - span[0] + 1 for span in spans])
    corners = [
        image.TransformPhysicalPointToContinuousIndex(
            mask.TransformContinuousIndexToPhysicalPoint(c.tolist())
        )
        for c in (first - 0.5, first + size - 0.5)
    ]
    tolerance = 1e-3  # voxels, as in pyradiomics
    if (np.min(corners, axis=0) < -0.5 - tolerance).any() or (
        np.max(corners, axis=0) > np.array(image.GetSize()) - 0.5 + tolerance
    ).any():
        raise InputError("The region reaches out of the image. Check that the mask belongs to this image.")
    return first, size


def same_grid(image, mask, tolerance: float | None = None) -> bool:
    """Whether two SimpleITK images have one size, spacing, origin and direction.

    :param tolerance: of positions in voxels, and of direction cosines; None is SimpleITK's default (1e-6).
    """
    tolerance = 1e-6 if tolerance is None else tolerance
    length = tolerance * abs(image.GetSpacing()[0])
    return (
        image.GetSize() == mask.GetSize()
        and np.allclose(image.GetSpacing(), mask.GetSpacing(), rtol=0, atol=length)
        and np.allclose(image.GetOrigin(), mask.GetOrigin(), rtol=0, atol=length)
        and np.allclose(image.GetDirection(), mask.GetDirection(), rtol=0, atol=tolerance)
    )

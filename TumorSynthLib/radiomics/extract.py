"""Exact extraction of radiomics features, equal to pyradiomics' for the original image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import InputError
from . import matrices, texture_features
from .discretise import Levels, discretise
from .firstorder import firstorder
from .preprocess import normalise, resample, resegment, same_grid
from .settings import Settings
from .shape_features import shape
from .table import FEATURES

TEXTURE_CLASSES = ("firstorder", "glcm", "glrlm", "glszm")
CLASSES = ("shape", *TEXTURE_CLASSES, "gldm", "ngtdm")
ONLY_WHEN_NAMED = {"original_firstorder_StandardDeviation"}  # as in pyradiomics: the root of Variance


def extract(
    array: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    settings: Settings | None = None,
    classes: Iterable[str] | None = None,
) -> dict[str, float]:
    """Features of the masked region on the grid as given, named as in pyradiomics (`original_glcm_Contrast`).

    :param array: (D, H, W) = (z, y, x) intensities; integer types stay integers, as in pyradiomics.
    :param mask: (D, H, W) bool.
    :param spacing: (x, y, z) in mm.
    :param settings: `normalize` and `resampledPixelSpacing` are for `extract_image` and have no effect here.
    :param classes: some of `CLASSES`, or names of single features; None is all. Shape has pyradiomics' 14
        features and Compactness1, Compactness2, SphericalDisproportion;
        `original_firstorder_StandardDeviation` comes only when it is named.
    :raises InputError: nothing to measure, or values that are not finite.
    """
    settings = settings or Settings()
    wanted = _wanted(classes)
    array, mask = _check_arrays(array, mask)
    spacing = _check_spacing(spacing)
    region = mask
    box = _box(mask, settings)
    if settings.resegmentRange is not None:
        _check_finite(array[mask])
        region = resegment(array, mask, settings)
        box = _box(region, settings)
    values = array[box]
    region, full = region[box], (region if settings.resegmentShape else mask)[box]
    _check_finite(values[region])
    levels = discretise(values, region, settings) if set(wanted) - {"shape"} else None
    features = {}
    for name, only in wanted.items():
        found = _COMPUTE[name](values, full if name == "shape" else region, levels, spacing, settings)
        features |= {
            f"original_{name}_{short}": float(value) for short, value in found.items() if short in only
        }
    return features


def extract_image(
    volume, mask, settings: Settings | None = None, classes: Iterable[str] | None = None
) -> dict[str, float]:
    """Features of a region of an image, normalised and resampled by the settings as in pyradiomics.

    :param volume: `Volume` or SimpleITK image (3-D, one value per voxel).
    :param mask: bool array (D, H, W) on the grid of the image, or a SimpleITK labelmap, of which
        `settings.label` is taken. With resampling, or with `correctMask`, the labelmap may have another grid.
    :raises InputError: as `extract`, or image and mask don't fit together.
    """
    import SimpleITK as sitk

    settings = settings or Settings()
    image = volume if isinstance(volume, sitk.Image) else volume.sitk()
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            "The image must be 3-D with one value per voxel; this one is a series or has colours."
        )
    region = _label_image(image, mask, settings)
    if settings.normalize:
        image = normalise(image, settings)
    if settings.resampledPixelSpacing is not None and settings.interpolator is not None:
        image, region = resample(image, region, settings)
    elif not same_grid(image, region, settings.geometryTolerance):
        if not settings.correctMask:
            raise InputError(
                "Image and mask have different grids (size, spacing, origin or direction). "
                "Resample the mask to the image, or set correctMask."
            )
        region = sitk.Resample(region, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    return extract(
        sitk.GetArrayViewFromImage(image),
        sitk.GetArrayViewFromImage(region) != 0,
        image.GetSpacing(),
        settings,
        classes,
    )


def _label_image(image, mask, settings: Settings):
    """The mask as a SimpleITK image of 0 and 1."""
    import SimpleITK as sitk

    if isinstance(mask, sitk.Image):
        if mask.GetDimension() != 3 or mask.GetNumberOfComponentsPerPixel() != 1:
            raise InputError("The mask must be a 3-D labelmap with one value per voxel.")
        region = mask == settings.label
        if not sitk.GetArrayViewFromImage(region).any():
            labels = [int(v) for v in np.unique(sitk.GetArrayViewFromImage(mask)) if v]
            raise InputError(
                f"Label {settings.label} is not in the mask. "
                + (f"Labels there: {labels}." if labels else "The mask is empty.")
            )
        return region
    mask = np.asarray(mask)
    if mask.shape != image.GetSize()[::-1]:
        raise InputError(
            f"The mask has shape {mask.shape}, but the image has {image.GetSize()[::-1]} (z, y, x)."
        )
    region = sitk.GetImageFromArray(mask.astype(np.uint8))
    region.CopyInformation(image)
    return region


def _wanted(classes: Iterable[str] | None) -> dict[str, set[str]]:
    """Classes to compute, each with the short names of the features to keep."""
    wanted: dict[str, set[str]] = {}
    for name in CLASSES if classes is None else ([classes] if isinstance(classes, str) else classes):
        if name in CLASSES:
            shorts = {f.short for f in FEATURES.values() if f.cls == name and f.name not in ONLY_WHEN_NAMED}
            wanted.setdefault(name, set()).update(shorts)
        elif name in FEATURES:
            wanted.setdefault(FEATURES[name].cls, set()).add(FEATURES[name].short)
        else:
            raise InputError(f"Unknown feature class or feature '{name}'. Classes: {', '.join(CLASSES)}.")
    return wanted


def _check_arrays(array: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    array, mask = np.asarray(array), np.asarray(mask)
    if array.ndim != 3 or array.shape != mask.shape:
        raise InputError(
            f"Image and mask must be 3-D arrays of one shape, but are {array.shape} and {mask.shape}."
        )
    if array.dtype.kind not in "iuf":
        raise InputError(f"The image has values of type {array.dtype}; give integers or floats.")
    return array, mask.astype(bool, copy=False)


def _check_spacing(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"Spacing is {spacing}, but must be three lengths above 0 in mm (x, y, z).")
    return spacing


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            "The region has voxels that are not finite (NaN or infinite). "
            "Leave them out of the mask, or repair the image."
        )


def _box(mask: np.ndarray, settings: Settings) -> tuple[slice, slice, slice]:
    """Bounding box of the region, after pyradiomics' checks of its size."""
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            raise InputError(
                "The mask is empty: no voxel is marked. Segment the tumour first, or check the label."
            )
        box.append(slice(used[0], used[-1] + 1))
    dimensions = sum(side.stop - side.start > 1 for side in box)
    if dimensions == 0:
        raise InputError("The mask has one voxel only; features need a region. Check the segmentation.")
    if dimensions < settings.minimumROIDimensions:
        raise InputError(
            f"The mask extends in {dimensions} direction(s), but minimumROIDimensions is "
            f"{settings.minimumROIDimensions}. Check the segmentation."
        )
    voxels = int(np.count_nonzero(mask))
    if settings.minimumROISize is not None and voxels <= settings.minimumROISize:
        raise InputError(
            f"The mask has {voxels} voxels, but more than minimumROISize = "
            f"{settings.minimumROISize} are needed."
        )
    return tuple(box)


def _firstorder(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    return firstorder(array[mask], levels.counts, spacing, settings.voxelArrayShift)


def _glcm(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    counts, offsets = matrices.glcm(levels, settings)
    weights = None
    if settings.weightingNorm is not None:
        lengths = texture_features.direction_weights(offsets, spacing, settings.weightingNorm)
        weights = lengths if settings.weightingNorm == "no_weighting" else np.exp(-(lengths**2))
    return texture_features.glcm_features(
        counts, levels.gray, symmetrical=settings.symmetricalGLCM, weights=weights
    )


def _glrlm(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    counts, offsets = matrices.glrlm(levels, settings)
    weights = None
    if settings.weightingNorm is not None:
        weights = texture_features.direction_weights(offsets, spacing, settings.weightingNorm)
    lengths = np.arange(1.0, counts.shape[2] + 1)
    return texture_features.size_features(counts, levels.gray, lengths, texture_features.RUN_NAMES, weights)


def _glszm(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    counts, sizes = matrices.glszm(levels, settings)
    return texture_features.size_features(counts[None], levels.gray, sizes, texture_features.ZONE_NAMES)


def _gldm(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    counts, sizes = matrices.gldm(levels, settings)
    return texture_features.size_features(counts[None], levels.gray, sizes, texture_features.DEPENDENCE_NAMES)


def _ngtdm(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    return texture_features.ngtdm_features(levels.counts, matrices.ngtdm(levels, settings), levels.gray)


def _shape(array, mask, levels: Levels | None, spacing, settings: Settings) -> dict[str, float]:
    return shape(mask, spacing)


_COMPUTE = {
    "shape": _shape,
    "firstorder": _firstorder,
    "glcm": _glcm,
    "glrlm": _glrlm,
    "glszm": _glszm,
    "gldm": _gldm,
    "ngtdm": _ngtdm,
}

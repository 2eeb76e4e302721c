"""Exact extraction of radiomics features, equal to pyradiomics' for the original image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import InputError
from . import matrices, texture_features
from .discretise import Levels, discretise
from .firstorder import firstorder
from .settings import Settings

TEXTURE_CLASSES = ("firstorder", "glcm", "glrlm", "glszm")
CLASSES = TEXTURE_CLASSES


def extract(array: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float],
            settings: Settings | None = None, classes: Iterable[str] | None = None) -> dict[str, float]:
    """Features of the masked region on the grid as given, named as in pyradiomics (`original_glcm_Contrast`).

    :param array: (D, H, W) = (z, y, x) intensities; integer types stay integers, as in pyradiomics.
    :param mask: (D, H, W) bool.
    :param spacing: (x, y, z) in mm.
    :param classes: some of `CLASSES`; None is all.
    :raises InputError: nothing to measure, or values that are not finite.
    """
    settings = settings or Settings()
    classes = _check_classes(classes)
    array, mask = _check_arrays(array, mask)
    spacing = tuple(float(s) for s in spacing)
    array, mask = _crop(array, mask, settings)
    if not np.isfinite(array[mask]).all():
        raise InputError("The region has voxels that are not finite (NaN or infinite). "
                         "Leave them out of the mask, or repair the image.")
    levels = discretise(array, mask, settings)
    features = {}
    for name in classes:
        values = _COMPUTE[name](array, mask, levels, spacing, settings)
        features.update({f"original_{name}_{short}": float(value) for short, value in values.items()})
    return features


def _check_classes(classes: Iterable[str] | None) -> tuple[str, ...]:
    classes = CLASSES if classes is None else tuple(classes)
    for name in classes:
        if name not in CLASSES:
            raise InputError(f"Unknown feature class '{name}'. Known: {', '.join(CLASSES)}.")
    return classes


def _check_arrays(array: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    array, mask = np.asarray(array), np.asarray(mask)
    if array.ndim != 3 or array.shape != mask.shape:
        raise InputError(f"Image and mask must be 3-D arrays of one shape, but are {array.shape} and {mask.shape}.")
    if array.dtype.kind not in "iuf":
        raise InputError(f"The image has values of type {array.dtype}; give integers or floats.")
    return array, mask.astype(bool, copy=False)


def _crop(array: np.ndarray, mask: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask in the bounding box of the region, after pyradiomics' checks of its size."""
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            raise InputError("The mask is empty: no voxel is marked. Segment the tumour first, or check the label.")
        box.append(slice(used[0], used[-1] + 1))
    array, mask = array[tuple(box)], mask[tuple(box)]
    dimensions = sum(size > 1 for size in mask.shape)
    if dimensions == 0:
        raise InputError("The mask has one voxel only; features need a region. Check the segmentation.")
    if dimensions < settings.minimumROIDimensions:
        raise InputError(f"The mask extends in {dimensions} direction(s), but minimumROIDimensions is "
                         f"{settings.minimumROIDimensions}. Check the segmentation.")
    voxels = int(np.count_nonzero(mask))
    if settings.minimumROISize is not None and voxels <= settings.minimumROISize:
        raise InputError(f"The mask has {voxels} voxels, but more than minimumROISize = "
                         f"{settings.minimumROISize} are needed.")
    return array, mask


def _firstorder(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    values = firstorder(array[mask], levels.counts, spacing, settings.voxelArrayShift)
    del values["StandardDeviation"]
    return values


def _glcm(array, mask, levels: Levels, spacing, settings: Settings) -> dict[str, float]:
    counts, offsets = matrices.glcm(levels, settings)
    weights = None
    if settings.weightingNorm is not None:
        lengths = texture_features.direction_weights(offsets, spacing, settings.weightingNorm)
        weights = lengths if settings.weightingNorm == "no_weighting" else np.exp(-(lengths**2))
    return texture_features.glcm_features(counts, levels.gray, symmetrical=settings.symmetricalGLCM, weights=weights)


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


_COMPUTE = {"firstorder": _firstorder, "glcm": _glcm, "glrlm": _glrlm, "glszm": _glszm}

"""Exact extraction of radiomics features, equal to pyradiomics', of an image and of filtered ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from . import matrices, texture_features
from .discretise import Levels, discretise
from .filters import ORIGINAL, Box, ImageType, filtered
from .firstorder import firstorder
from .preprocess import cropped, normalise, resample, resegment, same_grid
from .settings import Settings
from .shape_features import shape
from .table import FEATURES

FEW_LEVELS = 2  # grey levels of a region in which textures say little; an image scaled to 0…1 or to z-scores at the usual width
TEXTURE_CLASSES = ("firstorder", "glcm", "glrlm", "glszm")
CLASSES = ("shape", *TEXTURE_CLASSES, "gldm", "ngtdm")
ONLY_WHEN_NAMED = {"original_firstorder_StandardDeviation"}  # as in pyradiomics: the root of Variance


def extract(
    array: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    settings: Settings | None = None,
    classes: Iterable[str] | None = None,
    warn: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Features of the masked region on the grid as given, named as in pyradiomics (`original_glcm_Contrast`).

    :param array: (D, H, W) = (z, y, x) intensities; integer types stay integers, as in pyradiomics.
    :param mask: (D, H, W) bool.
    :param spacing: (x, y, z) in mm.
    :param settings: `normalize`, `preCrop` and `resampledPixelSpacing` are for `extract_image` and have no effect here.
    :param classes: some of `CLASSES`, or names of single features; None is all. Shape has pyradiomics' 14
        features and Compactness1, Compactness2, SphericalDisproportion;
        `original_firstorder_StandardDeviation` comes only when it is named.
    :param warn: takes a sentence where the region has one or two grey levels, in which textures say little.
    :raises InputError: nothing to measure, or values that are not finite.
    """
    settings = settings or Settings()
    array, mask = _check_arrays(array, mask)
    place = _Place.of(array, mask, _check_spacing(spacing), settings)
    return place.measure(_wanted(classes), [("original", array[place.box], settings)], warn)


def extract_image(
    volume,
    mask,
    settings: Settings | None = None,
    classes: Iterable[str] | None = None,
    image_types: Sequence[ImageType] | None = None,
    warn: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Features of a region of an image, normalised, resampled and filtered by the settings as in pyradiomics.

    :param volume: `Volume` or SimpleITK image (3-D, one value per voxel).
    :param mask: bool array (D, H, W) on the grid of the image, or a SimpleITK labelmap, of which
        `settings.label` is taken. With resampling, or with `correctMask`, the labelmap may have another grid.
    :param classes: as in `extract`; those of `original_` stand for every image type, and shape for the mask alone.
    :param image_types: the images to measure, each with its settings; None is the original one.
    :param warn: takes a sentence on regions of one or two grey levels, and on images that can't be made.
    :raises InputError: as `extract`, or image and mask don't fit together, or a package for an image type is missing.
    """
    import SimpleITK as sitk

    settings = settings or Settings()
    image = volume if isinstance(volume, sitk.Image) else volume.sitk()
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            "The image must be 3-D with one value per voxel; this one is a series or has colours."
        )
    image, region = _prepared(image, _label_image(image, mask, settings), settings)
    array, mask = _check_arrays(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(region) != 0)
    place = _Place.of(array, mask, image.GetSpacing(), settings)
    images = (
        (name, values, kind.settings)
        for kind in image_types or (replace(ORIGINAL, settings=settings),)
        for name, values in filtered(image, place.box, kind, warn or _silent)
    )
    return place.measure(_wanted(classes), images, warn)


def _prepared(image, region, settings: Settings):
    """SimpleITK image and 0/1 mask on one grid, as features are measured and filters applied."""
    import SimpleITK as sitk

    if settings.normalize:
        image = normalise(image, settings)
    if settings.resampledPixelSpacing is not None and settings.interpolator is not None:
        return resample(image, region, settings)
    if not same_grid(image, region, settings.geometryTolerance):
        if not settings.correctMask:
            raise InputError(
                "Image and mask have different grids (size, spacing, origin or direction). "
                "Resample the mask to the image, or set correctMask."
            )
        region = sitk.Resample(region, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    return cropped(image, region, settings.padDistance) if settings.preCrop else (image, region)


def _silent(text: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where features are measured.

    box: slices of the image's (D, H, W) array. region, full: (D, H, W) bool in the box, the voxels whose intensities count, and
    those whose shape counts. spacing: (x, y, z) mm.
    """

    box: Box
    region: np.ndarray
    full: np.ndarray
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, array: np.ndarray, mask: np.ndarray, spacing, settings: Settings) -> _Place:
        region, box = mask, _box(mask, settings)
        _check_finite(array[box][mask[box]])
        if settings.resegmentRange is not None:
            region = resegment(array, mask, settings)
            box = _box(region, settings)
        return cls(box, region[box], (region if settings.resegmentShape else mask)[box], spacing)

    def measure(
        self,
        wanted: dict[str, set[str]],
        images: Iterable[tuple[str, np.ndarray, Settings]],
        warn: Callable[[str], None] | None,
    ) -> dict[str, float]:
        """Features of images, each a name, (D, H, W) values in the box, and settings; the shape once."""
        features: dict = {}
        flat = {}
        if "shape" in wanted:
            features |= _named("original_shape", shape(self.full, self.spacing), wanted["shape"])
        texture = {name: only for name, only in wanted.items() if name != "shape"}
        for image, values, settings in images if texture else ():
            _check_finite(values[self.region], image)
            levels = discretise(values, self.region, settings)
            for name, only in texture.items():
                found = _COMPUTE[name](values, self.region, levels, self.spacing, settings, only)
                features |= _named(f"{image}_{name}", found, only)
            spread = np.ptp(values[self.region].astype(float))
            if spread == 0 or (len(levels.gray) <= FEW_LEVELS and settings.binCount is None):
                flat[image] = (settings, len(levels.gray), spread)
        if flat and warn is not None:
            warn(_flat_warning(flat))
        return features


def _flat_warning(flat: dict[str, tuple[Settings, int, float]]) -> str:
    """What to say of images, by name, whose region has too few grey levels: settings, levels and range of intensity of each."""
    name, (settings, levels, spread) = next(iter(flat.items()))
    more = f" and {len(flat) - 1} more images" if len(flat) > 1 else ""
    if spread == 0:
        return f"the region has one value, so one grey level ({name}{more}): its textures say nothing; check mask and image"
    count = "one grey level" if levels == 1 else f"{levels} grey levels only"
    return (
        f"the region has {count} at binWidth {settings.binWidth:g}, as its intensities span {spread:.3g} ({name}{more}): "
        f"its textures say little; give a smaller binWidth in the settings, such as {spread / 32:.1g}"
    )


def _named(prefix: str, found: dict[str, float], only: set[str]) -> dict[str, float]:
    return {f"{prefix}_{short}": float(value) for short, value in found.items() if short in only}


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


def _check_finite(values: np.ndarray, image: str = "original") -> None:
    if not np.isfinite(values).all():
        where = "" if image == "original" else f" in the {image} image, as the image has some around it"
        raise InputError(
            f"The region has voxels that are not finite (NaN or infinite){where}. "
            "Leave them out of the mask, or repair the image."
        )


def _box(mask: np.ndarray, settings: Settings) -> tuple[slice, ...]:
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


def _firstorder(array, mask, levels: Levels, spacing, settings: Settings, only) -> dict[str, float]:
    return firstorder(array[mask], levels.counts, spacing, settings.voxelArrayShift)


def _glcm(array, mask, levels: Levels, spacing, settings: Settings, only) -> dict[str, float]:
    counts, offsets = matrices.glcm(levels, settings)
    weights = None
    if settings.weightingNorm is not None:
        lengths = texture_features.direction_weights(offsets, spacing, settings.weightingNorm)
        weights = lengths if settings.weightingNorm == "no_weighting" else np.exp(-(lengths**2))
    return texture_features.glcm_features(
        counts, levels.gray, symmetrical=settings.symmetricalGLCM, weights=weights, mcc="MCC" in only
    )


def _glrlm(array, mask, levels: Levels, spacing, settings: Settings, only) -> dict[str, float]:
    counts, offsets = matrices.glrlm(levels, settings)
    weights = None
    if settings.weightingNorm is not None:
        weights = texture_features.direction_weights(offsets, spacing, settings.weightingNorm)
    lengths = np.arange(1.0, counts.shape[2] + 1)
    return texture_features.size_features(counts, levels.gray, lengths, texture_features.RUN_NAMES, weights)


def _glszm(array, mask, levels: Levels, spacing, settings: Settings, only) -> dict[str, float]:
    counts, sizes = matrices.glszm(levels, settings)
    return texture_features.size_features(counts[None], levels.gray, sizes, texture_features.ZONE_NAMES)


def _gldm(array, mask, levels: Levels, spacing, settings: Settings, only) -> dict[str, float]:
    counts, sizes = matrices.gldm(levels, settings)
    return texture_features.size_features(counts[None], levels.gray, sizes, texture_features.DEPENDENCE_NAMES)


def _ngtdm(array, mask, levels: Levels, spacing, settings: Settings, only) -> dict[str, float]:
    return texture_features.ngtdm_features(levels.counts, matrices.ngtdm(levels, settings), levels.gray)


_COMPUTE = {
    "firstorder": _firstorder,
    "glcm": _glcm,
    "glrlm": _glrlm,
    "glszm": _glszm,
    "gldm": _gldm,
    "ngtdm": _ngtdm,
}

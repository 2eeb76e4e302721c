"""Filtered images of which features are measured: pyradiomics' image types, on a box around the region.

Each filter gives what pyradiomics computes on the whole image, but computes only the box and as much around it as reaches into
it, so that the cost follows the tumour and not the image. Formulas: pyradiomics 3.1, `imageoperations`; Laplacian of Gaussian:
ITK's recursive filter (Deriche 1993), normalised across scales; wavelets: stationary transform of PyWavelets, one level after
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import InputError
from .settings import Settings

Box = tuple[slice, ...]

#: Image types, in pyradiomics' spelling, with the options of their filters.
FILTERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Original": (),
        "LoG": ("sigma",),
        "Wavelet": ("wavelet", "level", "start_level"),
        "Square": (),
        "SquareRoot": (),
        "Logarithm": (),
        "Exponential": (),
        "Gradient": ("gradientUseSpacing",),
    }
)
LOG_REACH = 12  # sigmas; the recursive filter decays as exp(-1.7 distance / sigma), to 1e-9 there
LOG_LEAST = 4  # voxels along each axis that ITK's recursive filter needs
MAX_LEVEL = 10  # of wavelets; the tenth is a thousand voxels wide


@dataclass(frozen=True)
class ImageType:
    """A kind of filtered image to measure.

    :param name: a key of `FILTERS`.
    :param settings: those of its features.
    :param options: those of its filter.
    """

    name: str
    settings: Settings = Settings()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def check(self) -> list[str]:
        """Notes on what can't be done.

        :raises InputError: an option's value can't be used.
        """
        if self.name == "LoG":
            return self._check_sigma()
        whole = {"level": 1, "start_level": 0}
        for option, value in self.options.items():
            if option in whole:
                number = isinstance(value, int) and not isinstance(value, bool)
                if not (number and whole[option] <= value <= MAX_LEVEL):
                    raise self._refused(option, f"a whole number from {whole[option]} to {MAX_LEVEL}")
            elif option == "wavelet" and not isinstance(value, str):
                raise self._refused(option, "a name such as coif1")
            elif option == "gradientUseSpacing" and not isinstance(value, bool):
                raise self._refused(option, "true or false")
        return []

    def _check_sigma(self) -> list[str]:
        sigmas = self.options.get("sigma")
        if not sigmas:
            return ["image type LoG has no features: it needs 'sigma', a list of widths in mm"]
        good = isinstance(sigmas, (list, tuple)) and all(
            isinstance(s, (int, float)) and not isinstance(s, bool) and 0 < s < 1e4 for s in sigmas
        )
        if not good:
            raise self._refused("sigma", "a list of widths above 0 in mm")
        return []

    def _refused(self, option: str, expected: str) -> InputError:
        shown = repr(self.options[option])[:60]
        return InputError(f"Option {option} of image type {self.name} is {shown}, but must be {expected}.")

    def as_record(self, shared: Settings) -> dict[str, Any]:
        """Options, and the settings in which it differs from others."""
        own, base = self.settings.to_pyradiomics(), shared.to_pyradiomics()
        return dict(self.options) | {name: v for name, v in own.items() if base.get(name) != v}


ORIGINAL = ImageType("Original")


def filtered(
    image, box: Box, kind: ImageType, warn: Callable[[str], None]
) -> Iterator[tuple[str, np.ndarray]]:
    """Names, as features begin with them, and values (D, H, W) in a box, of the images of one type.

    :param image: SimpleITK image, 3-D, one value per voxel.
    :param box: slices into its (z, y, x) array.
    :param warn: takes a sentence on an image that can't be made.
    :raises InputError: a package is missing, or the wavelet is unknown.
    """
    import SimpleITK as sitk

    array = sitk.GetArrayViewFromImage(image)
    if kind.name == "Original":
        yield "original", array[box]
    elif kind.name == "LoG":
        yield from _laplacians(image, box, kind.options.get("sigma") or (), warn)
    elif kind.name == "Wavelet":
        yield from _wavelets(array, box, kind)
    elif kind.name == "Gradient":
        yield "gradient", _gradient(image, box, kind.options.get("gradientUseSpacing", True))
    else:
        yield kind.name.lower(), _pointwise(kind.name, array, box)


def _pointwise(name: str, array: np.ndarray, box: Box) -> np.ndarray:
    """A function of each voxel, scaled so that the image's largest absolute value stays."""
    largest = max(abs(float(array.max())), abs(float(array.min())))
    values = array[box].astype(np.float64)
    if largest == 0:
        return values
    size, sign = np.abs(values), np.sign(values)
    if name == "Square":
        return (values * (1 / np.sqrt(largest))) ** 2
    if name == "SquareRoot":
        return sign * np.sqrt(size * largest)
    if name == "Logarithm":
        return sign * np.log(size + 1) * (largest / np.log(largest + 1))
    return np.exp(np.log(largest) / largest * values)  # Exponential


def _grown(box: Box, reach: tuple[int, int, int], shape: tuple[int, ...]) -> tuple[Box, Box]:
    """A box with voxels around it, as far as the image goes, and the place of the first within it."""
    outer = tuple(slice(max(s.start - r, 0), min(s.stop + r, n)) for s, r, n in zip(box, reach, shape))
    return outer, tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(box, outer))


def _part(image, box: Box):
    """A box of a SimpleITK image as one."""
    return image[tuple(box[axis] for axis in (2, 1, 0))]


def _laplacians(image, box: Box, sigmas, warn: Callable[[str], None]) -> Iterator[tuple[str, np.ndarray]]:
    import SimpleITK as sitk

    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    for sigma in sigmas:
        if size.min() < LOG_LEAST or (size < np.ceil(sigma / spacing) + 1).any():
            warn(
                f"LoG of {sigma:g} mm is left out, as in pyradiomics: the image of {' × '.join(map(str, size))} voxels is "
                "smaller; give a smaller sigma or a larger padDistance"
            )
            continue
        reach = tuple(max(ceil(LOG_REACH * sigma / s), LOG_LEAST) for s in spacing[::-1])
        outer, inner = _grown(box, reach, tuple(size[::-1]))
        log = sitk.LaplacianRecursiveGaussianImageFilter()
        log.SetNormalizeAcrossScale(True)
        log.SetSigma(sigma)
        values = sitk.GetArrayFromImage(log.Execute(_part(image, outer)))[inner]
        yield f"log-sigma-{str(sigma).replace('.', '-')}-mm-3D", values


def _gradient(image, box: Box, use_spacing: bool) -> np.ndarray:
    import SimpleITK as sitk

    outer, inner = _grown(box, (1, 1, 1), image.GetSize()[::-1])
    magnitude = sitk.GradientMagnitudeImageFilter()
    magnitude.SetUseImageSpacing(use_spacing)
    return sitk.GetArrayFromImage(magnitude.Execute(_part(image, outer)))[inner]


def _wavelets(array: np.ndarray, box: Box, kind: ImageType) -> Iterator[tuple[str, np.ndarray]]:
    """The eight (in 2-D four) parts of each level; those that are low-pass along all axes of the last level only."""
    pywt = _pywavelets()
    name = kind.options.get("wavelet", "coif1")
    if name not in pywt.wavelist(kind="discrete"):
        raise InputError(
            f"Unknown wavelet '{name[:60]}'. PyWavelets has coif1, haar, db2, sym4, bior2.2 and others."
        )
    wavelet = pywt.Wavelet(name)
    axes = [2, 1, 0]
    if kind.settings.force2D:
        axes.remove(kind.settings.force2Ddimension)
    first, levels = kind.options.get("start_level", 0), kind.options.get("level", 1)
    reach = [(first + levels) * wavelet.dec_len if axis in axes else 0 for axis in range(3)]
    data, inner = _periodic_part(array, box, reach, axes)
    for step in range(first + levels):
        parts = pywt.swtn(data, wavelet, level=1, start_level=0, axes=tuple(axes))[0]
        data = parts.pop("a" * len(axes))
        if step >= first:
            prefix = _level_prefix(step - first + 1)
            for part, values in parts.items():
                yield f"{prefix}-{part.replace('a', 'L').replace('d', 'H')}", values[inner]
    yield f"{_level_prefix(levels)}-{'L' * len(axes)}", data[inner]


def _level_prefix(level: int) -> str:
    return "wavelet" if level == 1 else f"wavelet{level}"


def _periodic_part(array: np.ndarray, box: Box, reach: list[int], axes: list[int]) -> tuple[np.ndarray, Box]:
    """A box with even sizes that holds all that wavelets reach, of the image continued periodically; and the place of the first.

    pyradiomics makes odd sizes even by repeating the first slice behind the last, which the period then includes.
    """
    inner: list[slice] = []
    for axis, (part, wide) in enumerate(zip(box, reach)):
        size = array.shape[axis]
        period = size + size % 2 if axis in axes else size
        length = part.stop - part.start + 2 * wide
        if axis in axes and length >= period:
            index, start = np.arange(period), part.start
        else:
            even = length % 2 if axis in axes else 0
            index, start = np.arange(part.start - wide, part.stop + wide + even) % period, wide
        array = array.take(np.where(index == size, 0, index), axis)
        inner.append(slice(start, start + part.stop - part.start))
    return array, tuple(inner)


def _pywavelets():
    try:
        import pywt
    except ImportError:
        raise InputError(
            "Image type Wavelet needs the package PyWavelets: `pip install PyWavelets`, or leave Wavelet out."
        ) from None
    return pywt

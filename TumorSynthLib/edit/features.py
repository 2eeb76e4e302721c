"""Asked features: their full names and units, which can be asked for, and which values no tumour can have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from TumorSynthLib.errors import InputError
from TumorSynthLib.numeric import is_finite
from TumorSynthLib.radiomics.identities import RANGES, TINY
from TumorSynthLib.radiomics.table import FEATURES, resolve

if TYPE_CHECKING:
    import numpy as np

STEERABLE = ("firstorder", "glcm", "glrlm", "glszm")  # the classes that a texture request can hold
INTENSITIES = {"Minimum", "10Percentile", "Median", "Mean", "90Percentile", "Maximum"}


def resolved(features: Mapping[str, float] | None) -> dict[str, float]:
    """A request to a texture by full feature names, checked one by one.

    :raises InputError: an unknown name, a feature that texture can't have, or a value that no region can have.
    """
    texture, shape = split(features)
    if shape:
        name = next(name for name in features or {} if FEATURES[resolve(name)[0]].cls == "shape")
        raise InputError(
            f"{name} can't be asked for here, where the mask stays as it is: ask for it with reshape, move or insert"
        )
    return texture


def split(features: Mapping[str, float] | None) -> tuple[dict[str, float], dict[str, float]]:
    """The texture's and the shape's part of a request, by full feature names, checked one by one.

    :raises InputError: an unknown name, a feature that can't be asked for, or a value that no tumour can have.
    """
    texture: dict[str, float] = {}
    shape: dict[str, float] = {}
    for given, value in (features or {}).items():
        if not isinstance(given, str):
            raise InputError(
                f"a feature is named {given!r:.40}: give pyradiomics' name, e.g. original_glcm_Contrast"
            )
        name, factor = resolve(given)
        if not is_finite(value):
            raise InputError(f"feature {given} is asked to be {value!r}: give a finite number")
        cls = FEATURES[name].cls
        if cls != "shape" and cls not in STEERABLE:
            raise InputError(
                f"{given} can be measured, but not asked for: ask for shape, first-order, GLCM, GLRLM or GLSZM features"
            )
        value = float(value) * factor
        if cls == "shape":
            shape[name] = value
            continue
        _check_possible(given, name, value)
        if FEATURES[name].short == "StandardDeviation":
            name, value = "original_firstorder_Variance", value * value
        texture[name] = value
    if shape:
        from TumorSynthLib.shape import feasible

        feasible.request(shape)
    return texture, shape


def steerable(features: Mapping[str, float], shape: bool = False) -> tuple[dict[str, float], list[str]]:
    """Those of measured features that another mask can be given, and the names left out (size, audit features).

    :param shape: keep those of the shape too.
    """
    kept, left = {}, []
    for given, value in features.items():
        feature = FEATURES[resolve(given)[0]]
        if (feature.cls in STEERABLE and feature.size == "free") or (shape and feature.cls == "shape"):
            kept[given] = value
        else:
            left.append(given)
    return kept, left


def storable(features: Mapping[str, float], dtype: np.dtype) -> None:
    """Raise InputError where an asked intensity can't be stored in the image's type."""
    import numpy as np

    if not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    for name, value in features.items():
        if FEATURES[name].short in INTENSITIES and not limits.min <= value <= limits.max:
            raise InputError(
                f"{name} is asked to be {value:g}, but the image stores {limits.min} to {limits.max} only"
            )


def _check_possible(given: str, name: str, value: float) -> None:
    """Raise InputError for a value that the feature's definition rules out."""
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if not low - TINY <= value <= high + TINY:
        bound = f"between {low:g} and {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise InputError(f"{given} = {value:g} is impossible: the feature is always {bound}")


def short(name: str) -> str:
    return name.removeprefix("original_")


def listed(parts: Sequence[str], shown: int = 4) -> str:
    """The first few of a list, in words."""
    return ", ".join(parts[:shown]) + (f" and {len(parts) - shown} more" if len(parts) > shown else "")

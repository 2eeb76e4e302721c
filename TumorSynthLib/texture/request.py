"""What a solve is asked for, as it counts: features by class, units of error, bounds, and one clear error where it can't be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from TumorSynthLib.errors import InputError


def by_class(features: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{'original_glcm_Contrast': v} as {'glcm': {'Contrast': v}}."""
    result: dict[str, dict[str, float]] = {}
    for name, value in features.items():
        cls, _, short = name.removeprefix("original_").partition("_")
        result.setdefault(cls, {})[short] = float(value)
    return result


def scales_of(asked: Mapping[str, float], deviation: Mapping[str, float]) -> dict[str, float]:
    """Unit of error of each feature: a quarter of its value, but between a tenth and one of the population's deviation.

    Heavy-tailed features (ClusterProminence, …) have a deviation far above most of their values.
    """
    result = {}
    for name, value in asked.items():
        one = sigma(deviation, name, value)
        result[name] = float(np.clip(0.25 * abs(value), 0.1 * one, one))
    return result


def sigma(deviation: Mapping[str, float], name: str, value: float) -> float:
    """Standard deviation of a feature in the population; a quarter of the asked value where there is none."""
    found = deviation.get(name, 0.0)
    return found if np.isfinite(found) and found > 0 else max(abs(value), 1e-6) * 0.25


def check(sample: np.ndarray, mask: np.ndarray, request: Mapping[str, float]) -> None:
    if np.shape(sample) != mask.shape:
        raise InputError(
            f"The sample has shape {np.shape(sample)} but the mask {mask.shape}: give both on one grid."
        )
    if not mask.any():
        raise InputError("The mask is empty: there is no voxel to change. Give a mask that marks the tumour.")
    if not np.isfinite(np.asarray(sample)[mask]).all():
        raise InputError(
            "The sample has values that are not finite inside the mask: check the image intensities."
        )
    for name, value in request.items():
        if not np.isfinite(value):
            raise InputError(f"Feature '{name}' is asked to be {value}: give a finite number.")


def is_integer(sample: np.ndarray, mask: np.ndarray, region) -> bool:
    volume = getattr(region, "volume", None)
    if volume is not None:
        return np.issubdtype(volume.array.dtype, np.integer)
    outside = np.asarray(sample)[~mask]
    return bool(len(outside) == 0 or np.array_equal(outside, np.rint(outside)))


def bounds_of(population, kind=None) -> tuple[float, float]:
    """Extremes of the population's Minimum and Maximum, widened; where no training tumour has a negative value, none is allowed.

    :param kind: NumPy type that voxels are stored as: nothing that it can't hold.
    """
    low, high = _extremes(population)
    if kind is None or not np.issubdtype(kind, np.integer):
        return low, high
    return max(low, float(np.iinfo(kind).min)), min(high, float(np.iinfo(kind).max))


def _extremes(population) -> tuple[float, float]:
    if population is None:
        return -np.inf, np.inf
    names = list(population.names)
    values = np.asarray(population.values, float)
    low = high = None
    if "original_firstorder_Minimum" in names:
        low = float(values[:, names.index("original_firstorder_Minimum")].min())
    if "original_firstorder_Maximum" in names:
        high = float(values[:, names.index("original_firstorder_Maximum")].max())
    if low is None or high is None:
        return -np.inf, np.inf
    slack = 0.25 * (high - low)
    return (max(low - slack, 0.0) if low >= 0 else low - slack), high + slack

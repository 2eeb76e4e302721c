"""What tissue allows: between which intensities a slider may bring a tumour's voxels, and its level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TumorSynthLib.texture.exemplar.bands import Bands, robust_sd


@dataclass(frozen=True)
class LimitConfig:
    """Where tissue ends.

    :param own: per cent of the tumour's own voxels left out at either end.
    :param own_level: the same of its level, the band without detail.
    :param bulk: percentile of the population's 10Percentile below which, and (100 minus it) of its 90Percentile above which,
        no tumour's level is moved. Quartiles: beyond them are calcified tumours and such with fat or air.
    :param noise: standard deviations of noise that voxels may lie beyond the level's limits.
    :param unknown: without a population: of the tumour's own robust standard deviation that its level may be moved.
    """

    own: float = 0.5
    own_level: float = 1.0
    bulk: float = 25.0
    noise: float = 3.0
    unknown: float = 1.0


CONFIG = LimitConfig()


@dataclass(frozen=True)
class Limits:
    """Intensities: of voxels (low, high), of the level (level_low, level_high); what lies beyond already may stay there."""

    low: float
    high: float
    level_low: float
    level_high: float


def tissue_limits(
    bands: Bands, population=None, bounds=(-np.inf, np.inf), config: LimitConfig = CONFIG
) -> Limits:
    """Limits of a tumour by its own voxels and by the population's.

    :param population: `radiomics.population.Population` of tumours of this kind and modality; None: by the tumour alone.
    :param bounds: lowest and highest value that can be stored.
    """
    level = bands.parts[4] + bands.parts[5]
    level_low, level_high = np.percentile(level, [config.own_level, 100 - config.own_level])
    low, high = np.percentile(bands.own, [config.own, 100 - config.own])
    if population is None:
        more = config.unknown * max(robust_sd(bands.own), 2 * bands.noise)
        level_low, level_high = level_low - more, level_high + more
    else:
        level_low = min(level_low, _quantile(population, "10Percentile", config.bulk, level_low))
        level_high = max(level_high, _quantile(population, "90Percentile", 100 - config.bulk, level_high))
    low = min(low, level_low - config.noise * bands.noise)
    high = max(high, level_high + config.noise * bands.noise)
    return Limits(max(low, bounds[0]), min(high, bounds[1]), float(level_low), float(level_high))


def _quantile(population, short: str, percent: float, default: float) -> float:
    name = f"original_firstorder_{short}"
    if name not in population.names:
        return default
    return float(
        np.nanpercentile(np.asarray(population.values)[:, list(population.names).index(name)], percent)
    )


def softly_held(change: np.ndarray, base: np.ndarray, low: float, high: float, knee: float) -> np.ndarray:
    """A change of `base` that ends between low and high, bending over `knee` before them; what lies beyond moves inwards only."""
    up, down = np.maximum(high - base, 0.0), np.maximum(base - low, 0.0)
    room = np.where(change > 0, up, down)
    bend = np.minimum(knee, room)
    over = np.maximum(np.abs(change) - (room - bend), 0.0)
    held = np.abs(change) - over + bend * np.tanh(over / np.maximum(bend, 1e-9))
    return np.sign(change) * held

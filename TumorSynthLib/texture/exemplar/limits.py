"""What tissue allows: between which intensities a slider may bring a tumour's voxels, and its level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import Bands, robust_sd


@dataclass(frozen=True)
class LimitConfig:
    """Where tissue ends.

    :param own: per cent of the tumour's own plateau left out at either end.
    :param strange: of the tumour's robust standard deviation off its core, beyond which tissue in its contour is another (air,
        bone, fat in a loose one) and tells nothing of what the tumour may become.
    :param bulk: percentile of the population's 10Percentile below which, and (100 minus it) of its 90Percentile above which,
        no tumour is moved. Quartiles: beyond them are calcified tumours and such with fat or air.
    :param noise: robust standard deviations of the core's fine detail that voxels may lie beyond the plateau's limits.
    :param unknown: without a population: of the core's robust standard deviation that its plateau may be moved.
    :param core: share of the mask's voxels, the deepest, that tell what a tumour is without its border.
    :param around: per cent of the voxels around left out at either end: where darker tissue is around, no voxel gets darker
        than that, and where brighter tissue is, none gets brighter.
    :param knee: of the distance between the plateau's limits, over which they are approached.
    :param beside: in-plane voxels around an edge (`Bands.inner`) within which the tumour is as bright, and what is beside it as
        dark, as stronger detail may make the edge; `even`: in-plane voxels, the Gaussian of that level.
    """

    own: float = 1.0
    strange: float = 8.0
    bulk: float = 25.0
    noise: float = 1.5
    unknown: float = 1.5
    core: float = 0.4
    around: float = 20.0
    knee: float = 0.1
    beside: float = 4.0
    even: float = 2.0


CONFIG = LimitConfig()


@dataclass(frozen=True)
class Limits:
    """What tissue allows, in intensities. The plateau is a tumour without detail finer than one voxel's Gaussian.

    :param low, high: of the plateau; what lies beyond already may stay there.
    :param lowest, highest: of single voxels.
    :param core: median of the tumour's own plateau away from its border.
    :param knee: distance over which a limit is approached.
    :param floor, ceiling: (n,) of each voxel's detail.
    """

    low: float
    high: float
    lowest: float
    highest: float
    core: float
    knee: float
    floor: np.ndarray
    ceiling: np.ndarray


def tissue_limits(bands: Bands, population=None, config: LimitConfig = CONFIG) -> Limits:
    """Limits of a tumour by its own voxels and by the population's.

    :param population: `radiomics.population.Population` of tumours of this kind and modality; None: by the tumour alone.
    """
    deep = bands.depth >= np.quantile(bands.depth, 1 - config.core)
    plateau, detail = bands.parts[2:].sum(0), bands.parts[1]
    core, sd = float(np.median(plateau[deep])), robust_sd(bands.own)
    mine = plateau[np.abs(plateau - core) <= config.strange * sd]
    low, high = np.percentile(mine, [config.own, 100 - config.own])
    if population is None:
        more = config.unknown * robust_sd(bands.own[deep])
        low, high = low - more, high + more
    else:
        low = min(low, _quantile(population, "10Percentile", config.bulk, low))
        high = max(high, _quantile(population, "90Percentile", 100 - config.bulk, high))
    noise = config.noise * robust_sd(detail[deep])
    lowest, highest = low - noise, high + noise
    if bands.around is not None:
        darkest, middle, brightest = np.percentile(bands.around, [config.around, 50, 100 - config.around])
        if middle < core:
            lowest = max(lowest, min(darkest, core))
        else:
            highest = min(highest, max(brightest, core))
    knee = config.knee * float(high - low)
    floor, ceiling = _beside(bands, lowest, highest, config)
    return Limits(float(low), float(high), float(lowest), float(highest), core, knee, floor, ceiling)


def _beside(bands: Bands, lowest: float, highest: float, config: LimitConfig):
    """(n,) lowest and highest of each voxel's detail."""
    ends = np.full((2, len(bands.own)), [[lowest], [highest]])
    wide = bands.voxel / bands.spacing
    level = ndimage.gaussian_filter(bands.image, config.even * wide, truncate=3.0)
    size = 2 * np.floor(config.beside * wide).astype(int) + 1
    near = np.stack([f(level, size)[bands.mask] for f in (ndimage.minimum_filter, ndimage.maximum_filter)])
    return near + bands.inner * (ends - near)


def _quantile(population, short: str, percent: float, default: float) -> float:
    name = f"original_firstorder_{short}"
    if name not in population.names:
        return default
    return float(
        np.nanpercentile(np.asarray(population.values)[:, list(population.names).index(name)], percent)
    )


def softly_held(change: np.ndarray, base: np.ndarray, low, high, knee: float) -> np.ndarray:
    """A change of `base` that ends between low and high, bending over `knee` before them; what lies beyond moves inwards only."""
    size = np.abs(change)
    room = np.maximum(np.where(change > 0, high - base, base - low), 0.0)
    bent = np.flatnonzero(size > room - np.minimum(knee, room))
    if not len(bent):
        return change
    room, over = room[bent], size[bent]
    knees = np.minimum(knee, room)
    over = over - (room - knees)
    size[bent] += knees * np.tanh(over / np.maximum(knees, 1e-9)) - over
    return np.copysign(size, change)

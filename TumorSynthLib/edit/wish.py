"""Which features a tumour is asked to have: its own or a donor's at another size, single ones changed, all of them possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from TumorSynthLib.edit.features import listed, short, steerable
from TumorSynthLib.radiomics.identities import RANGES
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.sizing import at_size
from TumorSynthLib.region import Region

NOTED = 0.05  # population standard deviations from which a changed request is told
UNUSUAL = 99.0  # percentile of the distance to the population from which a request is flagged
RIDGE = 1e-3  # of the correlation of asked features, which may say the same twice
VARIANCE = "original_firstorder_Variance"
#: Features that fix how far intensities spread.
SPREADS = {
    f"firstorder_{name}"
    for name in (
        "Variance",
        "InterquartileRange",
        "MeanAbsoluteDeviation",
        "RobustMeanAbsoluteDeviation",
        "Range",
        "RootMeanSquared",
    )
}


@dataclass(frozen=True, eq=False)
class Wish:
    """The nearest request that a tumour can meet; full feature names to values.

    :param used: what is asked for then. :param implied: the variance that the population has with it, where that is left free.
    :param changed: feature to (asked, used) where they differ by more than `NOTED`.
    """

    used: Mapping[str, float]
    implied: Mapping[str, float] = field(default_factory=dict)
    changed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def texture_of(
    population: Population | None, features: Mapping[str, float], volume: float, wanted: float
) -> dict[str, float]:
    """Those of a tumour's features that make a request: the model knows them, and they don't grow with the size.

    :param volume: of the tumour, mm³; `wanted`: of the one that is to have its texture (`radiomics.sizing`).
    """
    kept = steerable(features)[0]
    if population is None:
        return dict(kept)
    kept = {name: value for name, value in kept.items() if name in population.names}
    return at_size(population, kept, volume, wanted) if volume != wanted else kept


def edited(
    population: Population | None, own: Mapping[str, float], wanted: Mapping[str, float]
) -> dict[str, float]:
    """A tumour's features with some of them asked to be different: the others follow as they do in the population.

    Without that, sixty own features would outvote the asked one: a mean can't rise while all percentiles stay.
    """
    names = [n for n in own if population is not None and n in population.names]
    changed = [n for n in wanted if n in names]
    if population is None or not changed:
        return {**own, **wanted}
    index = [population.names.index(n) for n in names]
    spread = np.maximum(population.std[index], 1e-12)
    correlation = population.covariance[np.ix_(index, index)] / np.outer(spread, spread)
    at = [names.index(n) for n in changed]
    step = np.array([wanted[n] - own[n] for n in changed]) / spread[at]
    along = np.linalg.solve(correlation[np.ix_(at, at)] + RIDGE * np.eye(len(at)), step)
    moved = np.array([own[n] for n in names]) + spread * (correlation[:, at] @ along)
    possible = {
        n: min(max(float(v), RANGES[n][0]), RANGES[n][1]) if n in RANGES else float(v)
        for n, v in zip(names, moved)
    }
    return {**own, **possible, **wanted}


def nearest(population: Population | None, asked: Mapping[str, float], region: Region) -> Wish:
    """The request that a tumour can meet nearest to the asked one.

    :param region: whose mask the tumour is drawn into: its size bounds some features.
    """
    voxels, voxel_volume = int(region.mask.sum()), float(np.prod(region.spacing))
    known = {n: value for n, value in asked.items() if population is not None and n in population.names}
    if population is None or not known:
        return Wish(dict(asked))
    found = population.project(known, voxels=voxels, voxel_volume=voxel_volume)
    spread = {name: float(s) for name, s in zip(population.names, population.std)}
    moved = {n: (b - a) / max(spread[n], 1e-12) for n, (a, b) in found.changed.items()}
    large = sorted((n for n in moved if abs(moved[n]) > NOTED), key=lambda n: -abs(moved[n]))
    warnings = []
    if large:
        warnings.append(
            "no tumour has all of these features at once, so the nearest request is used: "
            + listed([f"{short(n)} {known[n]:.4g} → {found.features[n]:.4g}" for n in large])
        )
    if found.distance_percentile > UNUSUAL:
        warnings.append(
            f"the request is unusual: {found.distance_percentile:.0f} % of the training tumours are nearer to their average, so "
            f"expect features that aren't reached; the tumours nearest to it are {', '.join(found.nearest)}"
        )
    implied = {}
    if not any(short(n) in SPREADS for n in asked) and VARIANCE in population.names:
        implied = {VARIANCE: float(found.features[VARIANCE])}
    used = {**asked, **{name: float(found.features[name]) for name in known}}
    changed = {n: (float(known[n]), used[n]) for n in large if n in known}
    return Wish(used, implied, changed, tuple(warnings))

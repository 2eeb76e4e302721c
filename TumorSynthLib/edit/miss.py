"""How far what was reached lies from what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from TumorSynthLib.edit.features import listed, short
from TumorSynthLib.edit.result import differences

REACHED = 0.25  # population standard deviations within which a feature counts as reached
MEDIAN_FROM_FEATURES = 10  # asked features, from which their median tells if they are reached
NEARLY_OWN = 0.1  # population standard deviations: median of asked features' differences from a tumour's own, if they are meant
MIN_MISS_UNIT_SD = 0.01  # population standard deviations that a unit of error is at least


@dataclass(frozen=True, eq=False)
class Miss:
    """reached - asked of each asked feature, in population standard deviations; in asked values where there is no population.

    :param shares: a quarter of each asked value in population standard deviations, 1 where there is no population.
    """

    by: Mapping[str, float]
    shares: Mapping[str, float]

    @classmethod
    def of(
        cls, asked: Mapping[str, float], reached: Mapping[str, float], spread: Mapping[str, float]
    ) -> Miss:
        """:param spread: standard deviation of each feature in the population."""
        off = differences(asked, reached, spread)
        return cls(off, {n: abs(asked[n]) / (4 * spread[n]) if spread.get(n) else 1.0 for n in off})

    @property
    def median(self) -> float:
        """The middle one, which chooses among several draws."""
        return float(np.median(np.abs(list(self.by.values())))) if self.by else 0.0

    @property
    def worst(self) -> float:
        """The largest one."""
        return max(map(abs, self.by.values()), default=0.0)

    @property
    def seen(self) -> float:
        """The median; of few features the largest, in quarters of what was asked where that is less: who moves one slider
        sees a miss that the population hardly knows."""
        if len(self.by) >= MEDIAN_FROM_FEATURES:
            return self.median
        units = {n: float(np.clip(share, MIN_MISS_UNIT_SD, 1.0)) for n, share in self.shares.items()}
        return max((abs(d) / units[n] for n, d in self.by.items()), default=0.0)

    @property
    def reached(self) -> bool:
        """Whether no feature is missed by more than `REACHED`."""
        return self.worst <= REACHED

    def text(self) -> str:
        """The features that weren't reached, as a warning; empty where all were."""
        far = sorted((n for n in self.by if abs(self.by[n]) > REACHED), key=lambda n: -abs(self.by[n]))
        shown = listed([f"{short(n)} by {self.by[n]:+.1f} σ" for n in far])
        return f"{len(far)} of {len(self.by)} asked features were not reached: {shown}" if far else ""

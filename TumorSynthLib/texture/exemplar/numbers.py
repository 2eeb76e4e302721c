"""Seven numbers that give a tumour other features: gains of its own bands, a shift of its level, a bend of its values.

Of all that reach the asked features, those at the least price are taken (`search.py`). Nothing is drawn, so that the tumour
keeps its pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TumorSynthLib.texture.exemplar.bands import Bands, robust_sd
from TumorSynthLib.texture.exemplar.limits import Limits, softly_held
from TumorSynthLib.texture.exemplar.search import Goal

NUMBERS = ("grain", "fine", "medium", "coarse", "rest", "shift", "bend")
FINE, REST, SHIFT, BEND = 1, 4, 5, 6
LEAST_LEVEL = 0.1  # of a shift that reaches the core
CORE = 0.6  # of the voxels by depth: the deeper ones are a tumour's core


@dataclass(frozen=True)
class NumberConfig:
    """Prices, bounds and steps of the seven numbers: log gains, shift in the tumour's robust standard deviations, log power.

    :param price: of the square of each. Grain is what betrays an edit; a shift darkens or lightens the whole tumour.
    :param level_price: of the shift where a feature of the level is asked for.
    :param grain: gains of the grain at least and at most: its power stays within .86 to 1.15 of the scan's.
    :param least, most: gains of the other bands at least and at most, from fine to rest; beyond them structure turns into
        knots, and the level into clouds.
    :param many: power of those bounds where many features are asked for, of which none is to be met at any price.
    :param edge: share of stronger detail that an edge to other tissue is spared, as a scan sharpens none; of weaker detail it is
        spared all: softened, it shows a shelf around the core.
    :param bend: log power at most.
    :param drift: of the core's robust standard deviation that it may get darker or lighter where no level is asked for, times the
        strength, if that is more than `still`: beyond it a nodule is greyer or whiter than the vessels around.
    :param stronger: log gain of a band from which on the core gets no darker at all: behind stronger detail that shows a rim.
    :param step: of the numeric derivatives.
    """

    price: tuple[float, ...] = (40.0, 2.5, 1.5, 1.5, 2.0, 30.0, 25.0)
    level_price: float = 2.0
    grain: tuple[float, float] = (0.93, 1.07)
    least: tuple[float, ...] = (0.35, 0.35, 0.4, 0.5)
    most: tuple[float, ...] = (3.0, 3.0, 2.0, 1.5)
    many: float = 0.6
    edge: float = 0.25
    bend: float = 0.4
    drift: float = 1.0
    still: float = 0.2
    stronger: float = 0.3
    step: tuple[float, ...] = (0.03, 0.05, 0.05, 0.05, 0.05, 0.05, 0.03)


CONFIG = NumberConfig()


def tamed(theta: np.ndarray) -> np.ndarray:
    """Numbers (7,) whose rest gets no weaker than what is finer: a core that darkens behind stronger detail shows a rim."""
    held = theta.copy()
    held[REST] = max(theta[REST], min(0.0, theta[FINE : REST - 1].max()))
    return held


class Numbers:
    """A tumour's voxels for seven numbers: a `search.Space`.

    :param bands: of the tumour.
    :param limits: what tissue allows.
    :param bounds: lowest and highest value that can be stored.
    :param level_kept: the tumour's mean stays where it is.
    :param level_asked: the level may go as far as tissue allows.
    :param strength: 0 to 1, how much of the noise is made stronger with the structure (`Bands.moving`); of what gets
        weaker half of the rest goes along, too: a tumour smoother than its scan shows.
    """

    def __init__(
        self, bands: Bands, limits: Limits, bounds, level_kept: bool, level_asked: bool = False,
        strength: float = 0.0, config: NumberConfig = CONFIG,
    ):  # fmt: skip
        self.bands, self.limits, self.bounds, self.level_kept = bands, limits, bounds, level_kept
        self.config, self.step = config, np.array(config.step)
        self.base, self.clean, self.fade = bands.own, bands.clean, bands.fade
        self.sd = max(robust_sd(self.base), bands.noise)
        self.core = bands.depth >= np.quantile(bands.depth, CORE)
        loose = config.drift * max(strength, config.still)
        core = min(self.sd, max(robust_sd(self.base[self.core]), bands.noise))
        self.drift = None if level_asked else loose * core
        self.shifted = self.sd * bands.shifting
        # (2, 4, n) of what is made weaker, and stronger.
        self.moving = bands.tissue * np.stack([bands.moving((1 + strength) / 2), bands.moving(strength)])
        self.spread = np.stack([[bands.without_grain(part) for part in parts] for parts in self.moving])
        self.grain, self.level = self.fade * bands.parts[0], bands.without_grain(self.shifted)
        self.even = bands.without_grain(self.fade)
        self.core_level = max(float(self.level[self.core].mean()), LEAST_LEVEL * self.sd)
        self.plateau = self.clean - bands.structure[0]
        self.ends = limits.lowest, limits.highest

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Voxels (n,) of numbers (7,); the tumour's own for zeros."""
        theta = tamed(theta)
        weight, stronger = np.expm1(theta[:5]), (theta[FINE : REST + 1] > 0).astype(int)
        grain = weight[0] * self.grain
        change = grain + weight[FINE:] @ self.spread[stronger, range(4)] + theta[SHIFT] * self.level
        more = self._beyond(change, theta)
        if np.abs(more).max() > 1e-6 * self.sd:
            change = change + self.bands.without_grain(more)
        if self.level_kept:
            off = float((self.fade * (change - grain)).sum() / max((self.fade * self.even).sum(), 1e-9))
            change = change - off * self.even
        if self.drift is not None:
            core = float(change[self.core].mean())
            share = np.clip(theta[FINE:REST].max() / self.config.stronger, 0, 1)
            off = core - np.clip(core, -self.drift * (1 - share), self.drift)
            change = change - off / self.core_level * self.level
        return np.clip(
            self.base + change, np.minimum(self.bounds[0], self.base), np.maximum(self.bounds[1], self.base)
        )

    def _beyond(self, change: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """(n,) what tissue and the bend of values add to a change that is linear in the numbers."""
        limits, (low, high), power = self.limits, self.ends, float(theta[BEND])
        moving = self.moving[(theta[FINE : REST + 1] > 0).astype(int), range(4)]
        wide = np.expm1(theta[2:5]) @ moving[1:] + theta[SHIFT] * self.shifted
        gains = np.expm1(theta[FINE:REST]) @ moving[:3]
        more = np.expm1(np.maximum(theta[FINE:REST], 0.0)) @ moving[:3]
        less = gains - more
        held = gains - (1 - self.bands.inner) * (self.config.edge * more + less)
        sharp = softly_held(held, self.clean, limits.floor, limits.ceiling, limits.knee) - gains
        detail, held = change - wide + sharp, wide
        if power:
            bent = self.bands.tissue * (self._bent(self.plateau + wide, power) - self.plateau - wide)
            whole = self.clean + change
            held, detail = wide + bent, detail + self.bands.tissue * (self._bent(whole, power) - whole) - bent
        held = softly_held(held, self.plateau, limits.low, limits.high, limits.knee)
        return softly_held(held + detail, self.clean, low, high, limits.knee) - change

    def _bent(self, values: np.ndarray, power: float) -> np.ndarray:
        low, high = self.ends
        t = (values - low) / (high - low)
        inside = np.flatnonzero((t > 0) & (t < 1))
        bent = values.copy()
        bent[inside] = t[inside] ** np.exp(power) * (high - low) + low
        return bent

    def price(self, goal: Goal) -> np.ndarray:
        """(7,) of the square of each number."""
        price = np.array(self.config.price)
        if goal.exact and goal.level:
            price[SHIFT] = self.config.level_price
        return price

    def reach(self, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest of each number (7,); a shift brings the core up to what tissue allows."""
        config = self.config
        power = 1.0 if goal.exact else config.many
        least, most = power * np.log(config.least), power * np.log(config.most)
        grain = np.log(config.grain)
        ends = (np.array([self.limits.low, self.limits.high]) - self.limits.core) / self.sd
        low = np.array([grain[0], *least, min(ends[0], 0.0), -config.bend])
        return low, np.array([grain[1], *most, max(ends[1], 0.0), config.bend])

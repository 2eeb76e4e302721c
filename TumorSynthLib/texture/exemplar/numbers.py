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
SHIFT, BEND = 5, 6
CORE = 0.6  # of the voxels by depth: the deeper ones are a tumour's core


@dataclass(frozen=True)
class NumberConfig:
    """Prices, bounds and steps of the seven numbers: log gains, shift in the tumour's robust standard deviations, log power.

    :param price: of the square of each. Grain is what betrays an edit; a shift darkens or lightens the whole tumour.
    :param level_price: of the shift where a feature of the level is asked for.
    :param grain: gains of the grain at least and at most: its power stays within .77 to 1.3 of the scan's.
    :param least, most: gains of the other bands at least and at most, from fine to rest; beyond them structure turns into
        knots, and the level into clouds.
    :param many: power of those bounds where many features are asked for, of which none is to be met at any price.
    :param bend: log power at most.
    :param drift: of the tumour's robust standard deviation that its core may get lighter or darker where no level is asked for:
        beyond it an edge shows where the change fades out.
    :param step: of the numeric derivatives.
    """

    price: tuple[float, ...] = (40.0, 2.5, 1.5, 1.5, 2.0, 30.0, 25.0)
    level_price: float = 2.0
    grain: tuple[float, float] = (0.88, 1.14)
    least: tuple[float, ...] = (0.25, 0.25, 0.3, 0.5)
    most: tuple[float, ...] = (3.0, 3.5, 3.0, 1.7)
    many: float = 0.6
    bend: float = 0.4
    drift: float = 1.0
    step: tuple[float, ...] = (0.03, 0.05, 0.05, 0.05, 0.05, 0.05, 0.03)


CONFIG = NumberConfig()


class Numbers:
    """A tumour's voxels for seven numbers: a `search.Space`.

    :param bands: of the tumour.
    :param limits: what tissue allows.
    :param bounds: lowest and highest value that can be stored.
    :param level_kept: the tumour's mean stays where it is.
    :param level_asked: the level may go as far as tissue allows.
    """

    def __init__(
        self, bands: Bands, limits: Limits, bounds, level_kept: bool, level_asked: bool = False,
        config: NumberConfig = CONFIG,
    ):  # fmt: skip
        self.bands, self.limits, self.bounds, self.level_kept = bands, limits, bounds, level_kept
        self.config, self.step = config, np.array(config.step)
        self.base, self.fade = bands.own, bands.fade
        self.sd = max(robust_sd(self.base), bands.noise)
        self.drift = None if level_asked else config.drift * self.sd
        self.core = bands.depth >= np.quantile(bands.depth, CORE)
        self.shifted = self.sd * bands.shifting
        spread = [bands.without_grain(self.fade * part) for part in bands.parts[1:5]]
        self.basis = np.stack([self.fade * bands.parts[0], *spread, bands.without_grain(self.shifted)])
        self.even = bands.without_grain(self.fade)
        self.plateau = bands.parts[2:].sum(0)
        self.faded = self.fade * bands.parts[2:5]
        self.ends = limits.lowest, limits.highest

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Voxels (n,) of numbers (7,); the tumour's own for zeros."""
        weight = np.append(np.expm1(theta[:5]), theta[SHIFT])
        change = weight @ self.basis
        grain = weight[0] * self.basis[0]
        more = self._beyond(change, theta)
        if np.abs(more).max() > 1e-6 * self.sd:
            change = change + self.bands.without_grain(more)
        if self.level_kept:
            off = float((self.fade * (change - grain)).sum() / max((self.fade * self.even).sum(), 1e-9))
            change = change - off * self.even
        elif self.drift is not None:
            core = float(change[self.core].mean())
            change = change - (core - np.clip(core, -self.drift, self.drift)) * self.even
        return np.clip(
            self.base + change, np.minimum(self.bounds[0], self.base), np.maximum(self.bounds[1], self.base)
        )

    def _beyond(self, change: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """(n,) what tissue and the bend of values add to a change that is linear in the numbers."""
        limits, (low, high), power = self.limits, self.ends, float(theta[BEND])
        wide = np.expm1(theta[2:5]) @ self.faded + theta[SHIFT] * self.shifted
        detail, held = change - wide, wide
        if power:
            bent = self.fade * (self._bent(self.plateau + wide, power) - self.plateau - wide)
            whole = self.base + change
            held, detail = wide + bent, detail + self.fade * (self._bent(whole, power) - whole) - bent
        held = softly_held(held, self.plateau, limits.low, limits.high, limits.knee)
        return softly_held(held + detail, self.base, low, high, limits.knee) - change

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

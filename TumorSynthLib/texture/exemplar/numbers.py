"""Seven numbers that give a tumour other features: gains of its own bands, a shift of its level, a bend of its values.

Of all that reach the asked features, those at the least price are taken: Gauss-Newton steps on features that are measured
exactly, with numeric derivatives. Nothing is drawn, so that the tumour keeps its pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import Bands, robust_sd
from TumorSynthLib.texture.exemplar.limits import Limits, softly_held

NUMBERS = ("grain", "fine", "medium", "coarse", "rest", "shift", "bend")
SHIFT, BEND = 5, 6
LEVELS = frozenset(
    (
        "Mean",
        "Median",
        "10Percentile",
        "90Percentile",
        "RootMeanSquared",
        "JointAverage",
        "SumAverage",
        "Autocorrelation",
    )
)
"""Features of the level: where one is asked for, the level is free and cheap to shift."""


@dataclass(frozen=True)
class NumberConfig:
    """Prices, bounds and steps of the seven numbers: log gains, shift in the tumour's robust standard deviations, log power.

    :param price: of the square of each. Grain is what betrays an edit; a shift darkens or lightens the whole tumour.
    :param level_price: of the shift where a feature of the level is asked for.
    :param grain: gains of the grain at least and at most: its power stays within .77 to 1.3 of the scan's.
    :param gains: gains of the other bands at least and at most.
    :param many_gains: the same where many features are asked for, of which none is to be met at any price.
    :param shift: robust standard deviations at most.
    :param bend: log power at most.
    :param step: of the numeric derivatives.
    :param longest: of a number in one round.
    :param rounds: Gauss-Newton rounds at most.
    :param trials: lengths of a step that are tried.
    :param enough: largest error, in the features' units, at which a request counts as met.
    :param matte: robust standard deviations between core and surroundings, above which a voxel's share of tumour is read off
        its level instead of its depth.
    """

    price: tuple[float, ...] = (40.0, 2.5, 1.5, 1.5, 2.0, 30.0, 15.0)
    level_price: float = 2.0
    grain: tuple[float, float] = (0.88, 1.14)
    gains: tuple[float, float] = (0.2, 4.0)
    many_gains: tuple[float, float] = (0.4, 2.0)
    shift: float = 6.0
    bend: float = 1.2
    step: tuple[float, ...] = (0.03, 0.05, 0.05, 0.05, 0.05, 0.05, 0.03)
    longest: float = 0.5
    rounds: int = 8
    trials: int = 4
    enough: float = 0.004
    matte: float = 4.0


CONFIG = NumberConfig()


@dataclass(frozen=True)
class Goal:
    """What is asked, in units of error.

    :param names: features; `target` and `unit` (k,) their values and units.
    :param exact: all are to be met, at the least price; else they are met as nearly as the price allows.
    """

    names: tuple[str, ...]
    target: np.ndarray
    unit: np.ndarray
    exact: bool

    def error(self, found) -> np.ndarray:
        """(k,) found minus asked, in units."""
        return (np.array([found[n] for n in self.names]) - self.target) / self.unit

    @property
    def level(self) -> bool:
        """Whether a feature of the level is asked for."""
        return any(n.rsplit("_", 1)[-1] in LEVELS for n in self.names)


class Renderer:
    """A tumour's voxels for seven numbers.

    :param bands: of the tumour.
    :param limits: what tissue allows.
    :param bounds: lowest and highest value that can be stored.
    :param level_kept: the tumour's mean stays where it is.
    """

    def __init__(self, bands: Bands, limits: Limits, bounds, level_kept: bool, config: NumberConfig = CONFIG):
        self.bands, self.limits, self.bounds, self.level_kept = bands, limits, bounds, level_kept
        self.base, self.fade = bands.own, bands.fade
        self.sd = max(robust_sd(self.base), bands.noise)
        self.level = bands.parts[4] + bands.parts[5]
        self.shifted = self.sd * np.minimum(self.fade, matte(bands, config.matte))
        spread = [bands.without_grain(self.fade * part) for part in bands.parts[1:5]]
        self.basis = np.stack([self.fade * bands.parts[0], *spread, bands.without_grain(self.shifted)])
        self.even = bands.without_grain(self.fade)
        self.ends = (
            min(float(np.quantile(self.base, 0.002)), limits.low),
            max(float(np.quantile(self.base, 0.998)), limits.low + 1e-3 * self.sd),
        )

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
        return np.clip(
            self.base + change, np.minimum(self.bounds[0], self.base), np.maximum(self.bounds[1], self.base)
        )

    def _beyond(self, change: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """(n,) what tissue and the bend of values add to a change that is linear in the numbers."""
        limits, knee = self.limits, 2 * self.bands.noise
        level = self.fade * np.expm1(theta[4]) * self.bands.parts[4] + theta[SHIFT] * self.shifted
        held = change + softly_held(level, self.level, limits.level_low, limits.level_high, knee) - level
        low, high = self.ends
        t = (self.base + held - low) / (high - low)
        inside = (t > 0) & (t < 1)
        bent = np.where(inside, np.clip(t, 1e-6, 1) ** np.exp(theta[BEND]) - t, 0.0) * (high - low)
        held = softly_held(held + self.fade * bent, self.base, limits.low, limits.high, knee)
        return held - change


def matte(bands: Bands, apart: float) -> np.ndarray:
    """(n,) how much of each voxel is tumour: by its level between surroundings and core, or by depth where they hardly differ."""
    plane = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
    ring = ndimage.binary_dilation(bands.mask, plane, 4) & ~ndimage.binary_dilation(bands.mask, plane, 1)
    core = float(np.median(bands.own[bands.depth >= np.quantile(bands.depth, 0.6)]))
    around = bands.image[ring]
    if not len(around) or abs(core - np.median(around)) < apart * robust_sd(around):
        return np.clip(bands.depth / bands.config.rim, 0, 1)
    width = 0.5 * bands.voxel / bands.spacing
    level = ndimage.gaussian_filter(bands.image, width, truncate=3.0)[bands.mask]
    return np.clip((level - np.median(around)) / (core - np.median(around)), 0, 1)


@dataclass(frozen=True)
class Solution:
    """Numbers (7,), the error (k,) that they leave, and how often features were measured."""

    theta: np.ndarray
    error: np.ndarray
    measured: int = 0

    @property
    def worst(self) -> float:
        return float(np.abs(self.error).max())


Measure = Callable[[np.ndarray], dict]


def solve(
    render: Renderer,
    measure: Measure,
    goal: Goal,
    start: Solution | None = None,
    config: NumberConfig = CONFIG,
) -> Solution:
    """The numbers at the least price whose features are the asked ones, or as near as bounds allow.

    :param measure: features of the mask's voxels (n,).
    :param start: numbers to go on from.
    """
    price = np.array(config.price)
    if goal.exact and goal.level:
        price[SHIFT] = config.level_price
    low, high = _bounds(config, goal.exact)
    count = 0

    def error(theta: np.ndarray) -> np.ndarray:
        return goal.error(measure(render.values(theta)))

    def cost(e: np.ndarray, theta: np.ndarray) -> float:
        paid = float((price * theta**2).sum())
        return (
            1e3 * float(np.abs(e).max()) + 1e-3 * paid
            if goal.exact
            else float(np.log1p(e**2).sum()) + 0.05 * paid
        )

    theta = np.zeros(len(NUMBERS)) if start is None else start.theta
    e, count, damping, slopes = error(theta), 1, 1.0, None
    best = cost(e, theta)
    for _ in range(config.rounds):
        if goal.exact and np.abs(e).max() < config.enough:
            break
        slopes = np.stack([(error(theta + d) - e) / d.max() for d in np.diag(config.step)], 1)
        count += len(theta)
        wanted = _wanted(theta, e, slopes, price, low, high, goal.exact)
        move = np.clip(wanted - theta, -config.longest, config.longest)
        for _ in range(config.trials):
            trial = theta + damping * move
            found, count = error(trial), count + 1
            if cost(found, trial) < best:
                best, theta, e, damping = cost(found, trial), trial, found, min(1.0, 2 * damping)
                break
            damping /= 2.5
        else:
            break
    return Solution(theta, e, count)


def _bounds(config: NumberConfig, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    gains = config.gains if exact else config.many_gains
    ends = [
        [np.log(config.grain[k]), *[np.log(gains[k])] * 4, s * config.shift, s * config.bend]
        for k, s in ((0, -1), (1, 1))
    ]
    return np.array(ends[0]), np.array(ends[1])


def _wanted(theta, e, slopes, price, low, high, exact: bool) -> np.ndarray:
    """The numbers that a linear model of the errors asks for; those that reach a bound stay there, the others make up for it."""
    new, free = theta.copy(), np.ones(len(theta), bool)
    for _ in range(len(theta)):
        inside, cheap = slopes[:, free], 1 / price[free]
        want = -e + slopes @ theta - slopes[:, ~free] @ new[~free]
        if exact:
            square = (inside * cheap) @ inside.T
            square += 1e-9 * max(np.trace(square), 1e-9) * np.eye(len(e))
            new[free] = cheap * (inside.T @ np.linalg.solve(square, want))
        else:
            weight = 1 / (1 + e**2)
            square = (inside.T * weight) @ inside + np.diag(0.05 * price[free])
            new[free] = np.linalg.solve(square, inside.T @ (weight * want))
        out = (new < low - 1e-9) | (new > high + 1e-9)
        new = np.clip(new, low, high)
        if not (out & free).any():
            break
        free &= ~out
        if not free.any():
            break
    return new

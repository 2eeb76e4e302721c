"""Seven numbers that give a tumour other features: gains of its own bands, a shift of its level, a bend of its values.

Of all that reach the asked features, those at the least price are taken: Gauss-Newton steps on features that are measured
exactly, with numeric derivatives. Nothing is drawn, so that the tumour keeps its pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
    :param least, most: gains of the other bands at least and at most, from fine to rest; beyond them structure turns into
        knots, and the level into clouds.
    :param many: power of those bounds where many features are asked for, of which none is to be met at any price.
    :param bend: log power at most.
    :param dearest: price of coming one unit of error nearer at which the look is worth more: a request that costs more isn't
        followed to its end.
    :param step: of the numeric derivatives.
    :param longest: of a number in one round.
    :param gain: of the cost, below which a step isn't worth it.
    :param trusted: share of the error that a step may leave for its slopes to be used again.
    :param rounds: Gauss-Newton rounds at most.
    :param trials: lengths of a step that are tried.
    :param enough: largest error, in the features' units, at which a request counts as met.
    """

    price: tuple[float, ...] = (40.0, 2.5, 1.5, 1.5, 2.0, 30.0, 25.0)
    level_price: float = 2.0
    grain: tuple[float, float] = (0.88, 1.14)
    least: tuple[float, ...] = (0.25, 0.25, 0.3, 0.5)
    most: tuple[float, ...] = (3.0, 3.5, 3.0, 1.7)
    many: float = 0.6
    bend: float = 0.4
    dearest: float = 40.0
    step: tuple[float, ...] = (0.03, 0.05, 0.05, 0.05, 0.05, 0.05, 0.03)
    longest: float = 0.5
    gain: float = 0.02
    trusted: float = 0.3
    rounds: int = 10
    trials: int = 4
    enough: float = 0.004


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
        self.shifted = self.sd * bands.shifting
        spread = [bands.without_grain(self.fade * part) for part in bands.parts[1:5]]
        self.basis = np.stack([self.fade * bands.parts[0], *spread, bands.without_grain(self.shifted)])
        self.even = bands.without_grain(self.fade)
        self.plateau = bands.parts[2:].sum(0)
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
        return np.clip(
            self.base + change, np.minimum(self.bounds[0], self.base), np.maximum(self.bounds[1], self.base)
        )

    def _beyond(self, change: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """(n,) what tissue and the bend of values add to a change that is linear in the numbers."""
        limits, (low, high) = self.limits, self.ends
        wide = self.fade * (np.expm1(theta[2:5]) @ self.bands.parts[2:5]) + theta[SHIFT] * self.shifted
        bent = self.fade * (self._bent(self.plateau + wide, theta[BEND]) - self.plateau - wide)
        held = softly_held(wide + bent, self.plateau, limits.low, limits.high, limits.knee)
        detail = change - wide
        detail = (
            detail
            + self.fade * (self._bent(self.base + wide + detail, theta[BEND]) - self.base - wide - detail)
            - bent
        )
        return softly_held(held + detail, self.base, low, high, limits.knee) - change

    def _bent(self, values: np.ndarray, power: float) -> np.ndarray:
        low, high = self.ends
        t = (values - low) / (high - low)
        inside = (t > 0) & (t < 1)
        return np.where(inside, np.clip(t, 1e-6, 1) ** np.exp(power) * (high - low) + low, values)

    def reach(self, config: NumberConfig, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest of each number (7,); a shift brings the core up to what tissue allows."""
        power = 1.0 if exact else config.many
        least, most = power * np.log(config.least), power * np.log(config.most)
        grain = np.log(config.grain)
        ends = (np.array([self.limits.low, self.limits.high]) - self.limits.core) / self.sd
        low = np.array([grain[0], *least, min(ends[0], 0.0), -config.bend])
        return low, np.array([grain[1], *most, max(ends[1], 0.0), config.bend])


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
    ends = render.reach(config, goal.exact)

    def error(theta: np.ndarray) -> np.ndarray:
        return goal.error(measure(render.values(theta)))

    def cost(e: np.ndarray, theta: np.ndarray) -> float:
        paid = float((price * theta**2).sum())
        if goal.exact:
            return config.dearest * float(np.abs(e).sum()) + paid
        return float(np.log1p(e**2).sum()) + 0.05 * paid

    theta = np.zeros(len(NUMBERS)) if start is None else start.theta
    e, damping, slopes, count = error(theta), 1.0, None, 1
    best = cost(e, theta)
    for _ in range(config.rounds):
        if goal.exact and np.abs(e).max() < config.enough:
            break
        if slopes is None:
            slopes = np.stack([(error(theta + d) - e) / d.max() for d in np.diag(config.step)], 1)
            count += len(theta)
        wanted = _wanted(theta, e, slopes, price, ends, goal.exact and config.dearest)
        move = np.clip(wanted - theta, -config.longest, config.longest)
        taken = None
        for _ in range(config.trials):
            step = damping * move
            found, count = error(theta + step), count + 1
            if cost(found, theta + step) < best - config.gain:
                taken = step
                break
            damping /= 2.5
        if taken is None:
            break
        trusted = np.abs(found).sum() < config.trusted * np.abs(e).sum()
        slopes = _updated(slopes, taken, found - e) if trusted else None
        best, theta, e, damping = cost(found, theta + taken), theta + taken, found, min(1.0, 2 * damping)
    return Solution(theta, e, count)


def _updated(slopes: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Slopes (k, 7) that tell what the last step did (Broyden's rank-one update), which saves measuring them anew."""
    return slopes + np.outer(change - slopes @ step, step) / max(float(step @ step), 1e-12)


def _wanted(theta, e, slopes, price, ends, dearest: float | bool) -> np.ndarray:
    """The numbers that a linear model of the errors asks for; those that reach a bound stay there, the others make up for it."""
    (low, high), new, free = ends, theta.copy(), np.ones(len(theta), bool)
    for _ in range(len(theta)):
        inside, cheap = slopes[:, free], 1 / price[free]
        want = -e + slopes @ theta - slopes[:, ~free] @ new[~free]
        if dearest:
            square = (inside * cheap) @ inside.T
            square += 1e-9 * max(np.trace(square), 1e-9) * np.eye(len(e))
            force = np.clip(np.linalg.solve(square, want), -dearest / 2, dearest / 2)
            new[free] = cheap * (inside.T @ force)
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

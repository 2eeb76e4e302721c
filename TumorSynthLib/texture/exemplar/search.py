"""The cheapest of the changes that a few parameters offer whose features are the asked ones.

Gauss-Newton steps on features that are measured exactly, with numeric derivatives. A request whose last bit costs the look more
than it is worth isn't followed to its end, nor one that parameters can't reach within their bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

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
class SearchConfig:
    """Of the search.

    :param dearest: price of coming one unit of error nearer at which the look is worth more.
    :param budget: price of all changes together at most, where few features are asked for.
    :param many: price of the look beside the errors where a request holds many features, of which none is met at any price.
    :param longest: change of a parameter in one round.
    :param gain: of the cost, below which a step isn't worth it: where few features are asked for, and where many.
    :param trusted: share of the error that a step may leave for its slopes to be used again.
    :param rounds: Gauss-Newton rounds at most.
    :param trials: lengths of a step that are tried, each `shorter` than the one before.
    :param enough: largest error, in the features' units, at which a request counts as met.
    :param wider: factors of the derivatives' steps, in turn, where no step helps: grey levels make features jump, so that small
        ones see no slope.
    """

    dearest: float = 400.0
    budget: float = 100.0
    many: float = 0.05
    longest: float = 0.5
    gain: tuple[float, float] = (3.0, 0.02)
    trusted: float = 0.3
    rounds: int = 6
    trials: int = 4
    shorter: float = 0.4
    enough: float = 0.004
    wider: tuple[float, ...] = (1.0, 4.0, -4.0)


CONFIG = SearchConfig()


def _is_level(name: str) -> bool:
    return name.rsplit("_", 1)[-1] in LEVELS


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
        return any(_is_level(n) for n in self.names)

    def free(self, off: np.ndarray, near: float) -> Goal:
        """The goal without features of the level that are to stay as they are.

        :param off: (k,) the tumour's own errors; `near`: up to which a feature has its value already.
        """
        kept = [i for i, n in enumerate(self.names) if not (_is_level(n) and abs(off[i]) < near)]
        return Goal(tuple(self.names[i] for i in kept), self.target[kept], self.unit[kept], self.exact)


class Space(Protocol):
    """What can be changed: parameters (p,), of which zeros change nothing."""

    step: np.ndarray
    """(p,) of the numeric derivatives."""

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Voxels (n,) of parameters."""

    def price(self, goal: Goal) -> np.ndarray:
        """(p,) of the square of each parameter."""

    def reach(self, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest of each parameter (p,)."""


@dataclass(frozen=True)
class Solution:
    """Parameters (p,), the error (k,) that they leave, and how often features were measured."""

    theta: np.ndarray
    error: np.ndarray
    measured: int = 0

    @property
    def worst(self) -> float:
        return float(np.abs(self.error).max())


Measure = Callable[[np.ndarray], dict]


def solve(
    space: Space,
    measure: Measure,
    goal: Goal,
    start: Solution | None = None,
    config: SearchConfig = CONFIG,
) -> Solution:
    """The parameters at the least price whose features are the asked ones, or as near as bounds allow.

    :param measure: features of the mask's voxels (n,).
    :param start: parameters to go on from.
    """
    price, ends = space.price(goal), space.reach(goal)
    widths = config.wider[: 1 if goal.level or not goal.exact else None]  # a level has no jumps

    def error(theta: np.ndarray) -> np.ndarray:
        return goal.error(measure(space.values(theta)))

    def cost(e: np.ndarray, theta: np.ndarray) -> float:
        paid = float((price * theta**2).sum())
        if goal.exact:
            return config.dearest * float(np.abs(e).sum()) + paid
        return float(np.log1p(e**2).sum()) + config.many * paid

    theta = np.zeros(len(price)) if start is None else start.theta
    e, damping, slopes, count, wide = error(theta), 1.0, None, 1, 0
    best = cost(e, theta)
    for _ in range(config.rounds):
        if goal.exact and np.abs(e).max() < config.enough:
            break
        if slopes is None:
            steps = widths[wide] * space.step
            slopes = np.stack([(error(theta + d) - e) / s for d, s in zip(np.diag(steps), steps)], 1)
            count += len(theta)
        wanted = _wanted(theta, e, slopes, price, ends, goal.exact, config)
        if goal.exact:
            wanted = wanted * min(1.0, np.sqrt(config.budget / max(float((price * wanted**2).sum()), 1e-9)))
        move = np.clip(wanted - theta, -config.longest, config.longest)
        taken = None
        for _ in range(config.trials):
            step = damping * move
            found, count = error(theta + step), count + 1
            if cost(found, theta + step) < best - config.gain[not goal.exact]:
                taken = step
                break
            damping *= config.shorter
        if taken is None:
            wide, slopes, damping = wide + 1, None, 1.0
            if wide == len(widths):
                break
            continue
        trials = config.trials if goal.exact else 0
        taken, found, more = _longer(error, cost, theta, e, taken, found, (price, ends), trials, config)
        count += more
        trusted = np.abs(found).sum() < config.trusted * np.abs(e).sum()
        slopes = _updated(slopes, taken, found - e) if trusted else None
        best, theta, e, damping = cost(found, theta + taken), theta + taken, found, min(1.0, 2 * damping)
    return Solution(theta, e, count)


def _longer(error, cost, theta, e, taken, found, space, trials: int, config: SearchConfig):
    """A step that falls short, as a change saturates, made longer while that helps: the step (p,), its errors (k,), and how often
    features were measured.

    :param e: errors at `theta`; `found`: after the step `taken`. :param space: price and ends of the parameters.
    """
    price, ends = space
    for count in range(trials):
        before, left = np.abs(e).sum(), np.abs(found).sum()
        longer = np.clip(theta + min(2.0, before / max(before - left, 1e-9)) * taken, *ends) - theta
        dear = float((price * (theta + longer) ** 2).sum()) > config.budget
        if np.abs(found).max() < config.enough or dear:
            return taken, found, count
        further = error(theta + longer)
        if cost(further, theta + longer) > cost(found, theta + taken) - config.gain[0]:
            return taken, found, count + 1
        taken, found = longer, further
    return taken, found, trials


def _updated(slopes: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Slopes (k, p) that tell what the last step did (Broyden's rank-one update), which saves measuring them anew."""
    return slopes + np.outer(change - slopes @ step, step) / max(float(step @ step), 1e-12)


def _wanted(theta, e, slopes, price, ends, exact: bool, config: SearchConfig) -> np.ndarray:
    """The parameters that a linear model of the errors asks for; those at a bound stay there, the others make up for it."""
    (low, high), new, free = ends, theta.copy(), np.ones(len(theta), bool)
    for _ in range(len(theta)):
        inside, cheap = slopes[:, free], 1 / price[free]
        want = -e + slopes @ theta - slopes[:, ~free] @ new[~free]
        if exact:
            square = (inside * cheap) @ inside.T
            new[free] = cheap * (inside.T @ _force(square, want, config.dearest / 2))
        else:
            weight = 1 / (1 + e**2)
            square = (inside.T * weight) @ inside + np.diag(config.many * price[free])
            new[free] = np.linalg.solve(square, inside.T @ (weight * want))
        out = (new < low - 1e-9) | (new > high + 1e-9)
        new = np.clip(new, low, high)
        if not (out & free).any():
            break
        free &= ~out
        if not free.any():
            break
    return new


def _force(square: np.ndarray, want: np.ndarray, most: float, passes: int = 50) -> np.ndarray:
    """What pulls at each error (k,): the solution of `square` @ force = want, none above `most`; what can't be reached at that
    leaves the others as near as they come.

    :param square: (k, k), symmetric.
    """
    square = square + 1e-9 * max(np.trace(square), 1e-9) * np.eye(len(want))
    force = np.linalg.solve(square, want)
    if np.abs(force).max() <= most:
        return force
    force = np.clip(force, -most, most)
    for i in list(range(len(want))) * passes:
        left = want[i] - square[i] @ force + square[i, i] * force[i]
        force[i] = np.clip(left / square[i, i], -most, most)
    return force

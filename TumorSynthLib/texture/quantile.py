"""Quantile specification: a monotone map of a region's values after which asked first-order features hold.

Ranks stay, hence the pattern stays. The map bends the sample's own quantile function: the increments between a few hundred
quantiles are multiplied by factors that vary smoothly and stay near one, so that everything not asked stays as in the sample.
The factors come from Levenberg-Marquardt steps on exactly measured features, so rounding to whole grey values is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from TumorSynthLib.radiomics.differentiable import FIRSTORDER_FEATURES, firstorder_features

KNOTS = 192  # quantiles that the map may bend at; more cost time and change nothing measurable
SUBSAMPLE = 4096  # sorted values that derivatives are taken on; values themselves always use every voxel
STIFFNESS = 1e-4  # price of a factor that differs from its neighbour's
STAY = 0.01  # price of a factor other than one, and of moving a value by one standard deviation
TOLERANCE = 0.001  # a feature off by this many of its scales costs one
ROBUST = 1.0  # errors beyond this many scales are taken for unreachable and weigh less
#: Features that are points of the quantile function.
PERCENTILES = {"Minimum": 0.0, "10Percentile": 0.1, "Median": 0.5, "90Percentile": 0.9, "Maximum": 1.0}


@dataclass(frozen=True)
class Discretisation:
    """How values become grey levels: fixed width from zero, or a fixed number of bins over the range.

    :param integer: the file stores whole numbers, so values are rounded before they are measured.
    """

    width: float = 25.0
    count: int | None = None
    integer: bool = True

    def stored(self, values: np.ndarray) -> np.ndarray:
        return np.rint(values) if self.integer else values

    def origin(self, stored: np.ndarray) -> tuple[float, float]:
        """Lower edge of the first bin and the bin width, for stored values."""
        low, high = float(stored.min()), float(stored.max())
        if self.count is not None:
            return low, max(high - low, 1e-6) / self.count
        return float(np.floor(low / self.width) * self.width), self.width

    def levels(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """0-based grey levels of `values` and their number."""
        stored = self.stored(values)
        low, width = self.origin(stored)
        level = np.floor((stored - low) / width).astype(np.int64)
        if self.count is not None:
            level = np.minimum(level, self.count - 1)
        return level, int(level.max()) + 1

    def edges(self, stored: np.ndarray) -> np.ndarray:
        """Inner bin edges in the unrounded values (a value just below half rounds down)."""
        low, width = self.origin(stored)
        inner = np.arange(1, int(np.floor((stored.max() - low) / width)) + 1)
        return low + width * inner - (0.5 if self.integer else 0.0)


def measure(
    values: np.ndarray, disc: Discretisation, *, shift: float = 0.0, voxel_volume: float = 1.0
) -> dict[str, float]:
    """Exact first-order features of the values (n,), by pyradiomics' name without prefix."""
    stored = disc.stored(np.asarray(values, np.float64))
    level, levels = disc.levels(values)
    share = torch.from_numpy(np.bincount(level, minlength=levels) / len(level))
    features = firstorder_features(
        torch.from_numpy(np.sort(stored)), share, shift=shift, voxel_volume=voxel_volume, is_sorted=True
    )
    return {name: float(value) for name, value in features.items()}


def _robust(error: np.ndarray, robust: float) -> float:
    """Cost of errors in units of their scales: quadratic up to about `robust`, then logarithmic."""
    return float(np.sum(np.log1p((error / robust) ** 2))) * robust**2 / TOLERANCE**2


class QuantileMap:
    """Bends the quantile function of the values (n,) until asked first-order features hold.

    :param tie: (n,) decides the order among equal values (e.g. a local mean, so that the order makes no noise).
    :param bounds: lowest and highest value allowed.
    """

    def __init__(
        self,
        values: np.ndarray,
        disc: Discretisation,
        *,
        tie: np.ndarray | None = None,
        shift: float = 0.0,
        voxel_volume: float = 1.0,
        bounds: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        values = np.asarray(values, np.float64)
        self.disc, self.bounds = disc, bounds
        self.exact = {"shift": shift, "voxel_volume": voxel_volume}
        self.order = np.lexsort((tie, values)) if tie is not None else np.argsort(values, kind="stable")
        self.sorted = values[self.order]
        n = len(values)
        self.sd = max(float(values.std()), 1e-3 * max(1.0, abs(float(values.mean()))))
        tail = np.unique(np.rint(np.geomspace(1, max(n / 20, 1), 24)))
        at = np.concatenate([np.linspace(0, n - 1, KNOTS), [0], tail, n - 1 - tail])
        self.rank = np.unique(np.clip(np.rint(at), 0, n - 1).astype(np.int64))
        if len(self.rank) < 2:
            self.rank = np.array([0, max(n - 1, 0)])
        knots = self.sorted[self.rank]
        self.steps = np.maximum(np.diff(knots), 1e-4 * self.sd)
        self.start = float(knots[0])
        self.interval = np.clip(
            np.searchsorted(self.rank, np.arange(n), side="right") - 1, 0, len(self.steps) - 1
        )
        self.part = self._parts(knots)
        self.coarse = np.unique(np.rint(np.linspace(0, n - 1, min(n, SUBSAMPLE))).astype(np.int64))
        self.all = np.arange(n)

    def _parts(self, knots: np.ndarray) -> np.ndarray:
        """Position (n,) in 0..1 of each sorted value between the knots around it; by rank where they coincide."""
        k, ranks = self.interval, np.arange(len(self.sorted))
        gap = np.diff(knots)
        by_value = (self.sorted - knots[k]) / np.maximum(gap[k], 1e-12)
        by_rank = (ranks - self.rank[k]) / np.maximum(np.diff(self.rank)[k], 1)
        return np.where(gap[k] > 1e-4 * self.sd, np.clip(by_value, 0, 1), np.clip(by_rank, 0, 1))

    def _values(
        self, theta: np.ndarray, index: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sorted values of the ranks `index`, and increments, for the parameters [offset / sd, log factors]."""
        steps = self.steps * np.exp(theta[1:])
        knots = self.start + theta[0] * self.sd + np.concatenate([[0.0], np.cumsum(steps)])
        k = self.interval[index]
        return knots[k] + self.part[index] * steps[k], steps

    def _pull_back(self, gradient: np.ndarray, index: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Gradient in the parameters from one in the sorted values `index`."""
        k, size = self.interval[index], len(steps)
        own = np.bincount(k, gradient * self.part[index], minlength=size)
        total = np.bincount(k, gradient, minlength=size)
        above = np.cumsum(total[::-1])[::-1] - total
        return np.concatenate([[gradient.sum() * self.sd], (own + above) * steps])

    def _jacobian(self, names: list[str], theta: np.ndarray) -> np.ndarray:
        """Derivatives (features, parameters), on a subsample of the ranks."""
        index = self.coarse
        ordered, steps = self._values(theta, index)
        x = torch.from_numpy(ordered).requires_grad_()
        features = firstorder_features(x, shift=self.exact["shift"], is_sorted=True)
        rows = []
        for name in names:
            if name in ("Entropy", "Uniformity"):
                rows.append(self._histogram_row(name, ordered, index, steps))
                continue
            (gradient,) = torch.autograd.grad(features[name], x, retain_graph=True)
            rows.append(self._pull_back(gradient.numpy(), index, steps))
        return np.stack(rows)

    def _histogram_row(
        self, name: str, ordered: np.ndarray, index: np.ndarray, steps: np.ndarray
    ) -> np.ndarray:
        """Derivative of Entropy or Uniformity through the share of voxels that crosses each bin edge."""
        edges = self.disc.edges(self.disc.stored(ordered))
        below = np.searchsorted(ordered, edges)
        share = np.diff(np.concatenate([[0], below, [len(ordered)]])) / len(ordered)
        share = np.maximum(share, 0.5 / len(ordered))
        slope = np.diff(np.log2(share)) if name == "Entropy" else -2 * np.diff(share)
        at = index[np.clip(below, 0, len(ordered) - 1)]
        k = self.interval[at]
        density = np.diff(self.rank)[k] / len(self.sorted) / steps[k]
        return self._pull_back(-slope * density, at, steps)

    def solve(
        self, asked: Mapping[str, float], scales: Mapping[str, float], iterations: int = 20
    ) -> np.ndarray:
        """New values (n,), in the voxel order of the input, nearest to it of those with the asked features.

        :param asked: first-order features by short name; Energy and TotalEnergy enter through RootMeanSquared.
        :param scales: what counts as one unit of error of each.
        """
        asked = {
            name: value
            for name, value in asked.items()
            if name in FIRSTORDER_FEATURES or name == "StandardDeviation"
        }
        asked, scales = self._without_energy(dict(asked), dict(scales))
        if not asked:
            return self._unsorted(np.zeros(len(self.steps) + 1))
        theta = self._first_guess(asked, scales)
        # Plain squares on a subsample first: they don't give up on a feature that is far off. The histogram's features,
        # whose derivatives jump where a bin edge passes many voxels, join when the rest is nearly there.
        smooth = {name: value for name, value in asked.items() if name not in ("Entropy", "Uniformity")}
        if smooth and len(smooth) < len(asked):
            theta = self._descend(theta, smooth, scales, 30.0, iterations, self.coarse)
        theta = self._descend(theta, asked, scales, 30.0, iterations, self.coarse)
        return self._unsorted(self._descend(theta, asked, scales, ROBUST, max(iterations // 2, 4), self.all))

    def _descend(
        self, theta, asked: dict, scales: Mapping[str, float], robust: float, iterations: int, index
    ) -> np.ndarray:
        """Levenberg-Marquardt from `theta` until it settles; features measured on the ranks `index`."""
        names, error = self._errors(theta, asked, scales, index)
        damping, settled, rows = 1e-4, 0, None
        for _ in range(iterations):
            if rows is None:
                rows = self._jacobian(names, theta) / self._scale(names, scales)[:, None]
            step = self._step(theta, rows, error, damping, robust)
            trial = self._errors(theta + step, asked, scales, index)
            before = _robust(error, robust) + self._price(theta)
            after = _robust(trial[1], robust) + self._price(theta + step)
            if after >= before:
                damping *= 8
                if damping > 1e6:
                    break
                continue
            theta, (names, error), rows = theta + step, trial, None
            damping = max(damping / 10, 1e-12)
            settled = settled + 1 if before - after < 1e-2 * before + 1e-3 else 0
            if settled == 2 or float(np.abs(error).max()) < TOLERANCE:
                break
        return theta

    def _unsorted(self, theta: np.ndarray) -> np.ndarray:
        ordered, _ = self._values(theta)
        result = np.empty_like(ordered)
        result[self.order] = np.clip(ordered, *self.bounds)
        return result

    def _scale(self, names: list[str], scales: Mapping[str, float]) -> np.ndarray:
        return np.array([scales.get(name, self.sd) for name in names])

    def _errors(
        self, theta, asked: dict, scales: Mapping[str, float], index: np.ndarray
    ) -> tuple[list[str], np.ndarray]:
        """Features and their errors in units of their scales, measured on the ranks `index`."""
        ordered, _ = self._values(theta, index)
        targets = self._with_bounds(asked, ordered)
        measured = measure(ordered, self.disc, **self.exact)
        names = list(targets)
        return names, np.array([measured[name] - targets[name] for name in names]) / self._scale(
            names, scales
        )

    def _price(self, theta: np.ndarray) -> float:
        """What the map costs, in the units of `_robust`."""
        mass, bend, _ = self._geometry(theta)
        moved = self._displacement(theta)
        w = theta[1:]
        return float(
            STIFFNESS * np.sum((bend @ w) ** 2)
            + STAY * np.sum((mass + 2e-3) * w**2)
            + STAY * np.sum(mass * moved**2)
        )

    def _geometry(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Share of voxels per interval, weighted differences of neighbouring factors, d(displacement)/d(parameters)."""
        mass = np.diff(self.rank) / max(self.rank[-1], 1)
        bend = np.diff(np.eye(len(mass)), axis=0) / np.sqrt(np.minimum(mass[1:], mass[:-1]) + 2e-3)[:, None]
        steps = self.steps * np.exp(theta[1:]) / self.sd
        moved = np.tril(np.ones((len(mass), len(mass)))) * steps[None]
        return mass, bend, np.concatenate([np.ones((len(mass), 1)), moved], 1)

    def _first_guess(self, asked: dict, scales: Mapping[str, float]) -> np.ndarray:
        """The best of: the sample, the sample with the asked mean and spread, a ladder through the asked percentiles."""

        def cost(theta: np.ndarray) -> float:
            return _robust(self._errors(theta, asked, scales, self.coarse)[1], 10.0)

        guesses = [np.zeros(len(self.steps) + 1), self._affine(asked)]
        rungs = [(q, asked[name]) for name, q in PERCENTILES.items() if name in asked]
        if len(rungs) > 1 and cost(guesses[0]) > len(asked) / TOLERANCE**2 * 0.1:
            plain = np.zeros(len(rungs) - 1)
            best = minimize(
                lambda power: cost(self._ladder(rungs, power)),
                plain,
                method="Nelder-Mead",
                options={
                    "maxfev": 40 * len(plain),
                    "initial_simplex": np.concatenate([[plain], plain + 1.2 * np.eye(len(plain))]),
                },
            )
            guesses += [self._ladder(rungs, plain), self._ladder(rungs, best.x)]
        return min(guesses, key=cost)

    def _affine(self, asked: dict) -> np.ndarray:
        theta = np.zeros(len(self.steps) + 1)
        variance = asked.get("Variance", asked.get("StandardDeviation", self.sd) ** 2)
        factor = np.sqrt(max(variance, 1e-12)) / self.sd
        centre = float(self.sorted.mean())
        theta[1:] = np.log(max(factor, 1e-3))
        target = asked.get("Mean", asked.get("Median", centre))
        theta[0] = (target + (self.start - centre) * factor - self.start) / self.sd
        return theta

    def _ladder(self, rungs: list[tuple[float, float]], power: np.ndarray) -> np.ndarray:
        """Parameters that put the sample's percentiles on `rungs`, with its shape between them raised to 2 ** power."""
        at = [int(np.argmin(np.abs(self.rank - q * (len(self.sorted) - 1)))) for q, _ in rungs]
        old = np.concatenate([[0.0], np.cumsum(self.steps)])
        new = np.array(old)
        for (i, (_, low)), (j, (_, high)), p in zip(zip(at, rungs), zip(at[1:], rungs[1:]), power):
            t = (old[i : j + 1] - old[i]) / max(old[j] - old[i], 1e-12)
            if i == 0:  # the lower tail is the mirror of the upper one
                t = 1 - (1 - t) ** (2.0 ** np.clip(p, -5, 5))
            else:
                t = t ** (2.0 ** np.clip(p, -5, 5))
            new[i : j + 1] = low + max(high - low, 0.0) * t
        new[: at[0]] = new[at[0]] + (old[: at[0]] - old[at[0]])
        new[at[-1] + 1 :] = new[at[-1]] + (old[at[-1] + 1 :] - old[at[-1]])
        theta = np.zeros(len(self.steps) + 1)
        theta[0] = (new[0] - self.start) / self.sd
        theta[1:] = np.clip(np.log(np.maximum(np.diff(new), 1e-9) / self.steps), -8, 8)
        return theta

    def _step(
        self, theta: np.ndarray, rows: np.ndarray, error: np.ndarray, damping: float, robust: float
    ) -> np.ndarray:
        """Levenberg-Marquardt step of: errors in asked features + prices of a bent map."""
        soft = 1 / (1 + (error / robust) ** 2)  # a feature that can't be reached must not outweigh the rest
        weight = soft / TOLERANCE**2
        mass, bend, basis = self._geometry(theta)
        w = theta[1:]
        normal = (rows * weight[:, None]).T @ rows + STAY * (basis * mass[:, None]).T @ basis
        normal[1:, 1:] += STIFFNESS * bend.T @ bend + STAY * np.diag(mass + 2e-3)
        slope = rows.T @ (weight * error) + STAY * basis.T @ (mass * self._displacement(theta))
        slope[1:] += STIFFNESS * bend.T @ (bend @ w) + STAY * (mass + 2e-3) * w
        step = -np.linalg.solve(normal + np.diag(damping * (np.diag(normal) + 1.0)), slope)
        step *= min(1.0, 20.0 / max(float(np.abs(step).max()), 1e-12))
        step[1:] = np.sign(step[1:]) * np.log1p(
            np.abs(step[1:])
        )  # most features are linear in the increments, not in their logarithm
        step[1:] = np.clip(w + step[1:], -9, 9) - w
        return step

    def _displacement(self, theta: np.ndarray) -> np.ndarray:
        """How far each upper knot moved, in standard deviations."""
        steps = self.steps * np.exp(theta[1:])
        return theta[0] + (np.cumsum(steps) - np.cumsum(self.steps)) / self.sd

    def _with_bounds(self, asked: dict[str, float], ordered: np.ndarray) -> dict[str, float]:
        """The request, plus a bound as a target where the values leave it."""
        result = dict(asked)
        if ordered[0] < self.bounds[0]:
            result["Minimum"] = max(result.get("Minimum", -np.inf), self.bounds[0])
        if ordered[-1] > self.bounds[1]:
            result["Maximum"] = min(result.get("Maximum", np.inf), self.bounds[1])
        return result

    def _without_energy(self, asked: dict, scales: dict) -> tuple[dict, dict]:
        """Energy and TotalEnergy as the RootMeanSquared that they mean for this number of voxels."""
        n = len(self.sorted)
        for name, factor in (("Energy", n), ("TotalEnergy", n * self.exact["voxel_volume"])):
            value = asked.pop(name, None)
            if value is not None and "RootMeanSquared" not in asked:
                asked["RootMeanSquared"] = float(np.sqrt(max(value, 0) / factor))
                scales.setdefault("RootMeanSquared", self.sd)
        return asked, scales


def transfer(values: np.ndarray, reference: np.ndarray, tie: np.ndarray | None = None) -> np.ndarray:
    """The sorted `reference` values (n,) put in the rank order of `values` (n,)."""
    order = np.lexsort((tie, values)) if tie is not None else np.argsort(values, kind="stable")
    result = np.empty_like(reference)
    result[order] = np.sort(reference)
    return result

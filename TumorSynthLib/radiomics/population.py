"""The tumours a model was trained on, as a table of features: what is usual, what is possible, what is near.

Distances and completions are computed on features made Gaussian one by one (as they are, logarithm or asinh, whichever is
nearest), because many are heavy-tailed. The covariance is shrunk (Ledoit and Wolf 2004), since cases are few and features many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import isfinite
from statistics import NormalDist

import numpy as np

from ..errors import InputError
from .identities import RANGES, TINY, Relation, broken, relations
from .table import power_of

REACH = 5.0  # Gaussian units beyond which a completed feature is not extrapolated
ASKED_FREEDOM = (
    1e-9  # variance left to an asked feature, so that it moves only where the request contradicts itself
)
ITERATIONS = 100
MARGIN = 1e-8  # relative error up to which a relation counts as holding; inequalities are passed by as much


@dataclass(frozen=True)
class Feasible:
    """The nearest feasible request.

    :param features: every feature of the population: as asked, or completed from what tumours with the asked ones are like.
    :param asked: the request; `changed`: name -> (asked, used) of the asked features that had to give way.
    :param distance_percentile: share in percent of the population's tumours that lie nearer to its middle than the request does.
    :param nearest: cases most like the request, nearest first.
    :param broken: the relations that the request as asked would break.
    """

    features: dict[str, float]
    asked: dict[str, float]
    changed: dict[str, tuple[float, float]] = field(default_factory=dict)
    distance_percentile: float = 0.0
    nearest: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Gauss:
    """A monotone map of one feature to about a standard normal distribution."""

    kind: str
    centre: float
    scale: float
    mean: float
    std: float
    constant: bool = False

    def _bend(self, x):
        if self.kind == "log":
            return np.log(np.maximum(x, self.scale))
        return np.arcsinh((x - self.centre) / self.scale) if self.kind == "asinh" else np.asarray(x, float)

    def forward(self, x):
        return (self._bend(x) - self.mean) / self.std

    def backward(self, z):
        y = np.asarray(z, float) * self.std + self.mean
        if self.kind == "log":
            return np.exp(y)
        return np.sinh(y) * self.scale + self.centre if self.kind == "asinh" else y

    def slope(self, x: float) -> float:
        """d(feature) / d(Gaussian unit) at the value x."""
        if self.kind == "log":
            return max(x, self.scale) * self.std
        if self.kind == "asinh":
            return self.scale * np.hypot(1.0, (x - self.centre) / self.scale) * self.std
        return self.std

    @classmethod
    def fit(cls, x: np.ndarray) -> _Gauss:
        """The map whose sorted result is straightest against normal scores."""
        if np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max())):
            return cls("plain", 0.0, 1.0, float(x.mean()), max(1e-9, 1e-9 * abs(float(x.mean()))), True)
        low, middle, high = np.percentile(x, [25, 50, 75])
        spread = (high - low) / 1.349 if high > low else float(x.std())
        options = [("plain", 0.0, 1.0), ("asinh", float(middle), float(spread))]
        if x.min() > 0:
            options.append(("log", 0.0, float(x.min()) * 1e-3))
        scores = _normal_scores(len(x))
        best = None
        for kind, centre, scale in options:
            bent = cls(kind, centre, scale, 0.0, 1.0)._bend(x)
            fit = np.corrcoef(np.sort(bent), scores)[0, 1]
            if best is None or fit > best[0] + 1e-3:
                best = fit, cls(kind, centre, scale, float(bent.mean()), float(bent.std()))
        return best[1]


def _normal_scores(n: int) -> np.ndarray:
    inverse = NormalDist().inv_cdf  # scipy.special has it too, and takes half a second to import
    return np.array([inverse((k - 0.375) / (n + 0.25)) for k in range(1, n + 1)])


@dataclass(frozen=True, eq=False)
class Population:
    """Features of the training tumours.

    :param names: f feature names; `values`: (n, f) float; `cases`: n names.
    :param shift: pyradiomics' voxelArrayShift of the extraction.
    :raises InputError: shapes that don't fit together, or values that are not finite.
    """

    names: tuple[str, ...]
    values: np.ndarray
    cases: tuple[str, ...]
    shift: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "cases", tuple(self.cases))
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        if self.values.shape != (len(self.cases), len(self.names)) or len(self.cases) < 2:
            raise InputError(
                f"A population of {len(self.cases)} cases and {len(self.names)} features can't have values of shape "
                f"{self.values.shape}: give one row per case (two at least), one column per feature."
            )
        if not np.isfinite(self.values).all():
            row, column = np.argwhere(~np.isfinite(self.values))[0]
            raise InputError(
                f"Feature '{self.names[column]}' of case '{self.cases[row]}' is not a finite number: leave the case out."
            )

    def scaled(self, factor: float) -> Population:
        """The same tumours in images whose intensities, and whose bins, are so many times larger."""
        return replace(self, values=self.values * np.power(float(factor), [power_of(n) for n in self.names]))

    @cached_property
    def mean(self) -> np.ndarray:
        """(f,)"""
        return self.values.mean(0)

    @cached_property
    def std(self) -> np.ndarray:
        """(f,) standard deviation over cases (n in the denominator)."""
        return self.values.std(0)

    @cached_property
    def covariance(self) -> np.ndarray:
        """(f, f) shrunk covariance of the features as they are."""
        std = np.where(self.std > 0, self.std, 1.0)
        shrunk, _ = _ledoit_wolf((self.values - self.mean) / std)
        return shrunk * std[:, None] * std[None]

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.names)}

    @cached_property
    def _maps(self) -> tuple[_Gauss, ...]:
        return tuple(_Gauss.fit(column) for column in self.values.T)

    def map_of(self, name: str) -> _Gauss:
        """The monotone map (`forward`, `backward`) of a feature to Gaussian units."""
        return self._maps[self._index(name)]

    @cached_property
    def gaussian(self) -> np.ndarray:
        """(n, f) the population in Gaussian units; a feature that never varies is zero."""
        columns = [
            m.forward(c) if not m.constant else np.zeros(len(c)) for m, c in zip(self._maps, self.values.T)
        ]
        return np.stack(columns, 1)

    @cached_property
    def _shrunk(self) -> np.ndarray:
        return _ledoit_wolf(self.gaussian)[0]

    def quantiles(self, name: str, levels: Sequence[float] = (5, 25, 50, 75, 95)) -> tuple[float, ...]:
        """Percentiles of a feature over the cases."""
        return tuple(float(q) for q in np.percentile(self.values[:, self._index(name)], levels))

    def percentile(self, name: str, value: float) -> float:
        """Share in percent of the cases whose feature is below `value` (ties count half)."""
        column = self.values[:, self._index(name)]
        return float(100 * ((column < value).mean() + 0.5 * (column == value).mean()))

    def distance(self, features: Mapping[str, float]) -> float:
        """Mahalanobis distance of the given features, over the root of their number, from the middle of the population."""
        index, z = self._position(features)
        precision = np.linalg.inv(_ledoit_wolf(self.gaussian[:, index])[0])
        return float(np.sqrt(z @ precision @ z / max(len(index), 1)))

    def distance_percentile(self, features: Mapping[str, float]) -> float:
        """Share in percent of the cases, each judged by the others, whose `distance` is smaller."""
        index, _ = self._position(features)
        return float(100 * (self._own_distances(tuple(index)) < self.distance(features)).mean())

    def nearest(self, features: Mapping[str, float], k: int = 3) -> list[tuple[str, float]]:
        """The k cases most like the features: (case, root mean squared difference in Gaussian units), nearest first."""
        index, z = self._position(features)
        gap = np.sqrt(((self.gaussian[:, index] - z) ** 2).mean(1))
        return [(self.cases[i], float(gap[i])) for i in np.argsort(gap, kind="stable")[:k]]

    def project(
        self, request: Mapping[str, float], *, voxels: int | None = None, voxel_volume: float | None = None
    ) -> Feasible:
        """The nearest feasible full set of features for any subset asked.

        Free features become what tumours with the asked ones are like; then all features are moved as little as possible
        (asked ones last) until every relation between features holds.

        :param voxels: of the region, mm³ per voxel `voxel_volume`: ties Energy and the zone counts to the rest.
        :raises InputError: a feature that the population lacks, or a value that no region can have.
        """
        asked = {name: self._possible(name, value) for name, value in request.items()}
        rules = relations(voxels, self.shift, voxel_volume)
        features = self._settle(asked, rules)
        unit = dict(zip(self.names, self.std))
        changed = {}
        for name, value in asked.items():
            if abs(features[name] - value) <= 1e-4 * unit[name] + 1e-6 * abs(value):
                features[name] = value
            else:
                changed[name] = (value, features[name])
        judged = {name: features[name] for name in asked} or features
        return Feasible(
            features, asked, changed, self.distance_percentile(judged) if asked else 0.0,
            tuple(case for case, _ in self.nearest(judged)), tuple(broken(asked, rules)),
        )  # fmt: skip

    def _settle(self, asked: Mapping[str, float], rules: Sequence[Relation]) -> dict[str, float]:
        """Completed features that satisfy the rules; each attempt leaves more freedom, the last ones to asked features too."""
        start, spread = self._complete(asked)
        fixed = np.array([name in asked for name in self.names])
        # Far from all tumours the covariance says little: then each feature moves on its own, by its own deviation.
        alone = np.diag(np.where(fixed, 0.0, np.maximum(self.std, 1e-9) ** 2))
        given = np.diag(np.where(fixed, ASKED_FREEDOM * np.maximum(self.std, 1e-9) ** 2, 0.0))
        for covariance, damping in (
            (spread, 1e-4),
            (alone, 1e-4),
            (spread + given, 0.0),
            (alone + given, 0.0),
        ):
            values = _satisfy(self.names, start, covariance, rules, damping)
            features = dict(zip(self.names, values.tolist()))
            if np.isfinite(values).all() and not broken(features, rules):
                break
        return features

    def _index(self, name: str) -> int:
        if name not in self._column:
            raise InputError(
                f"Feature '{name}' is not in this model's population; it knows {len(self.names)} features."
            )
        return self._column[name]

    def _position(self, features: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Columns and Gaussian units of the given features that the population has and that vary."""
        index = [k for k, name in enumerate(self.names) if name in features and not self._maps[k].constant]
        return np.array(index, int), np.array(
            [float(self._maps[k].forward(features[self.names[k]])) for k in index]
        )

    @cached_property
    def _own_distances(self):
        @lru_cache(maxsize=16)
        def compute(index: tuple[int, ...]) -> np.ndarray:
            return _leave_one_out(self.gaussian[:, list(index)])

        return compute

    def _possible(self, name: str, value: float) -> float:
        self._index(name)
        low, high = RANGES.get(name, (-np.inf, np.inf))
        number = isinstance(value, (int, float, np.integer, np.floating)) and isfinite(value)
        if not number or not low - TINY <= value <= high + TINY:
            allowed = (
                "any finite number"
                if low == -np.inf
                else f"{low:g} to {high:g}"
                if high < np.inf
                else f"{low:g} or more"
            )
            raise InputError(f"Feature '{name}' can't be {value}: allowed is {allowed}.")
        return float(value)

    def _complete(self, asked: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Values (f,) with the free ones at their conditional mean, and the (f, f) covariance that is left to them."""
        fixed = np.array([name in asked for name in self.names])
        covariance = self._shrunk
        z = np.zeros(len(self.names))
        z[fixed] = [float(self._maps[k].forward(asked[self.names[k]])) for k in np.flatnonzero(fixed)]
        left = np.zeros((len(self.names), len(self.names)))
        gain = np.zeros(((~fixed).sum(), fixed.sum()))
        if fixed.any():
            gain = np.linalg.solve(covariance[np.ix_(fixed, fixed)], covariance[np.ix_(fixed, ~fixed)]).T
        z[~fixed] = np.clip(gain @ np.clip(z[fixed], -2 * REACH, 2 * REACH), -REACH, REACH)
        left[np.ix_(~fixed, ~fixed)] = (
            covariance[np.ix_(~fixed, ~fixed)] - gain @ covariance[np.ix_(fixed, ~fixed)]
        )
        values = np.array([m.mean if m.constant else float(m.backward(v)) for m, v in zip(self._maps, z)])
        values[fixed] = [asked[self.names[k]] for k in np.flatnonzero(fixed)]
        slope = np.array([m.slope(v) for m, v in zip(self._maps, values)])
        return values, left * slope[:, None] * slope[None]


def _ledoit_wolf(z: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance (f, f) of the rows, shrunk to a multiple of the identity by the weight that Ledoit and Wolf derive."""
    n, f = z.shape
    centred = z - z.mean(0)
    sample = centred.T @ centred / n
    mean = np.trace(sample) / max(f, 1)
    distance = ((sample - mean * np.eye(f)) ** 2).sum()
    noise = ((centred**2).sum(1) ** 2).sum() / n**2 - (sample**2).sum() / n
    weight = float(np.clip(noise / distance, 1e-4, 1.0)) if distance > 0 else 1.0
    return (1 - weight) * sample + weight * max(mean, 1e-12) * np.eye(f), weight


def _leave_one_out(z: np.ndarray) -> np.ndarray:
    """Distances (n,) of each row from the mean and covariance of all others, as `Population.distance` counts them."""
    n, f = z.shape
    centred = z - z.mean(0)
    shrunk, weight = _ledoit_wolf(z)
    grown = (1 - weight) * n / (n - 1) * (centred.T @ centred / n) + weight * np.trace(shrunk) / max(
        f, 1
    ) * np.eye(f)
    inverse = np.linalg.inv(grown)
    square = np.einsum("ij,jk,ik->i", centred, inverse, centred)
    # Without row i the covariance lacks the rank-one term c·z zᵀ (Sherman-Morrison); its mean moves by z / (n - 1).
    c = (1 - weight) * n / (n - 1) ** 2
    without = square / np.maximum(1 - c * square, 1e-6)
    return np.sqrt(without * (n / (n - 1)) ** 2 / max(f, 1))


def _satisfy(
    names: Sequence[str], start: np.ndarray, covariance: np.ndarray, rules: Sequence[Relation], damping: float
) -> np.ndarray:
    """Values (f,) nearest to `start`, in the metric of `covariance`, of those that satisfy rules and ranges.

    :param damping: keeps a step from satisfying rules at any price where they nearly contradict each other.
    """
    column = {name: k for k, name in enumerate(names)}
    rules = [r for r in rules if all(n in column for n in r.names)]
    low = np.array([RANGES.get(n, (-np.inf, np.inf))[0] for n in names])
    high = np.array([RANGES.get(n, (-np.inf, np.inf))[1] for n in names])
    unit = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    x = np.clip(start, low, high)
    for _ in range(ITERATIONS):
        rows, gaps = [], []
        for rule in rules:
            index = [column[n] for n in rule.names]
            gap, size = rule.residual(*x[index]), max(1e-9, float(np.abs(x[index]).max()))
            if abs(gap) > MARGIN * size if rule.equal else gap > 0:
                row = np.zeros(len(x))
                row[index] = _slopes(rule, x[index])
                rows.append(row)
                gaps.append(gap if rule.equal else gap + MARGIN * size)
        if not rows:
            break
        jacobian = np.stack(rows)
        spread = jacobian @ covariance @ jacobian.T
        free = np.diag(spread)
        scale = np.where(
            free > 0, np.sqrt(np.maximum(free, 1e-300)), np.inf
        )  # a rule between fixed features is left alone
        normal = spread / scale[:, None] / scale[None] + damping * np.eye(len(rows))
        force = np.linalg.lstsq(normal, np.array(gaps) / scale, rcond=1e-12)[0]
        step = covariance @ jacobian.T @ (force / scale)
        step *= min(1.0, 1.0 / max(float(np.max(np.abs(step) / (np.abs(x) + 3 * unit + 1e-12))), 1e-12))
        x = np.clip(x - step, low, high)
    return x


def _slopes(rule: Relation, values: np.ndarray) -> np.ndarray:
    """Numerical derivatives of a relation in its values."""
    result = np.zeros(len(values))
    for k in range(len(values)):
        h = 1e-6 * max(abs(values[k]), 1e-3)
        up, down = values.copy(), values.copy()
        up[k] += h
        down[k] -= h
        result[k] = (rule.residual(*up) - rule.residual(*down)) / (2 * h)
    return result

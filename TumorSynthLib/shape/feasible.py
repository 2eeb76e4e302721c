"""Which shape a request means: the features not asked for are filled in, and contradictions between asked ones settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..radiomics.table import resolve
from .coordinates import LIMITS, NAMES, PREFIX, SCALE, V, W, features_of, rows, short

#: Below one: what a shape can have (a ball has a Sphericity of 1 and an axis is not longer than the next longer one).
AT_MOST_ONE = ("Sphericity", "Compactness2", "Elongation", "Flatness")
LOOSE_SCALE = (
    25.0  # variance of log volume of a tumour that is being changed: its size follows whatever is asked
)
STEADY_FORM = 0.02  # and standard deviation of the logarithms of its other features
STEADY_SIZE = 2e-3  # of its volume, where no size is asked for
ASKED = 1e-3  # of the logarithm of an asked feature, so that a contradiction is shared between the asked ones
BINDING = 3e-4  # of a limit that would be passed
FREE = 0.08  # of features that were not asked for: near what such tumours have
KEPT = 0.01  # of features of a tumour that is being changed
STAIRS = 0.06  # what the steps of fine voxels add to the logarithm of a smooth surface's area
SAME = 2e-3  # relative difference up to which an asked feature counts as kept


@dataclass(frozen=True)
class Target:
    """A full set of shape features to be reached.

    :param logs: (10,) base logarithms; `leeway` (10,): how far each may stay off where it was not asked for.
    :param asked: as requested, by full name; `used`: the nearest feasible values of the same features.
    :param warnings: what had to give way.
    :param aims: the features to be reached exactly: those asked for, and the volume of a tumour that keeps its size.
    :param stairs: what the steps of voxels add to the logarithm of a smooth surface's area.
    """

    logs: np.ndarray
    leeway: np.ndarray
    asked: dict[str, float]
    used: dict[str, float]
    warnings: tuple[str, ...] = ()
    aims: tuple[str, ...] = ()
    stairs: float = STAIRS

    @property
    def features(self) -> dict[str, float]:
        """All 17."""
        return features_of(self.logs)


def request(features: Mapping[str, float] | None) -> dict[str, float]:
    """A request by full names, checked one by one.

    :raises InputError: an unknown feature, one that isn't a shape feature, or a value that no shape has.
    """
    asked: dict[str, float] = {}
    for name, value in (features or {}).items():
        full, factor = resolve(name)
        if full not in NAMES:
            raise InputError(
                f"'{name}' is not a shape feature: ask for volume_ml, sphericity, elongation, flatness, max_diameter_mm, "
                "surface_cm2, or one of pyradiomics' such as original_shape_MajorAxisLength."
            )
        given, value = float(value), float(value) * factor
        if not np.isfinite(value) or value <= 0:
            raise InputError(f"{name} = {given:g} is not possible: every shape feature is a positive number.")
        if short(full) in AT_MOST_ONE and value > 1:
            raise InputError(
                f"{short(full)} = {value:g} is not possible: it is at most 1. Ask for a value up to 1."
            )
        asked[full] = value
    _check_axes(asked)
    return asked


def _check_axes(asked: Mapping[str, float]) -> None:
    ordered = (
        ("Flatness", "Elongation"), ("LeastAxisLength", "MinorAxisLength"), ("MinorAxisLength", "MajorAxisLength"),
        ("LeastAxisLength", "MajorAxisLength"),
    )  # fmt: skip
    for low, high in ordered:
        a, b = asked.get(PREFIX + low), asked.get(PREFIX + high)
        if a is not None and b is not None and a > b * (1 + 1e-6):
            raise InputError(
                f"{low} = {a:g} is above {high} = {b:g}, which no shape has: ask for a {low} up to {b:g}."
            )


def complete(
    asked: Mapping[str, float],
    mean: np.ndarray,
    covariance: np.ndarray,
    rng: np.random.Generator | None = None,
    leeway: float = FREE,
) -> Target:
    """What a tumour with the asked features is like: the free ones from a Gaussian (in logarithms), within the limits.

    :param mean: (10,) and `covariance` (10, 10) of base logarithms, of the tumours to be alike.
    :param rng: draws the free features; without it they get their most likely values.
    """
    weights, constants = rows(list(asked))
    goal = np.log(list(asked.values())) - constants if asked else np.zeros(0)
    start, spread = mean, covariance
    if asked:
        start, spread = _observe(mean, covariance, weights, goal, ASKED)
    if rng is not None:
        start = start + _draw(spread, rng)
    base = _within_limits(start, spread, weights, goal)
    features = features_of(base)
    used, warnings = {}, []
    for name, value in asked.items():
        kept = abs(features[name] - value) <= SAME * value
        used[name] = value if kept else features[name]
        if not kept:
            warnings.append(
                f"{short(name)} {value:g} does not go together with the rest of the request: {features[name]:g} is used"
            )
    return Target(base, np.full(len(base), leeway), dict(asked), used, tuple(warnings), tuple(asked))


def keep(asked: Mapping[str, float], own: np.ndarray) -> Target:
    """The asked features on a tumour whose base logarithms (10,) are `own`: its form stays where it can.

    Its size follows if a feature that has a size is asked for, and stays otherwise.
    """
    resized = sized(asked)
    covariance = STEADY_FORM**2 * np.eye(len(own))
    if resized:
        covariance = covariance + LOOSE_SCALE * np.outer(SCALE, SCALE) / 9
    else:
        covariance[[V, W], [V, W]] = STEADY_SIZE**2
    target = complete(asked, own, covariance, leeway=KEPT)
    if not resized:
        target.leeway[[V, W]] = STEADY_SIZE
        target = replace(target, aims=(*target.aims, PREFIX + "MeshVolume"))
    return target


def sized(asked: Mapping[str, float]) -> bool:
    """Whether a request tells how large the tumour is, and not its form alone."""
    return bool(np.any(np.abs(rows(list(asked))[0] @ SCALE) > 1e-9))


def _observe(mean, covariance, weights, goal, noise):
    """Mean and covariance of a Gaussian after weights @ x was seen to be `goal`, up to `noise`."""
    cross = covariance @ weights.T
    gain = np.linalg.solve(weights @ cross + noise**2 * np.eye(len(goal)), cross.T).T
    left = covariance - gain @ cross.T
    return mean + gain @ (goal - weights @ mean), (left + left.T) / 2


def _draw(covariance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ (np.sqrt(np.maximum(values, 0)) * np.clip(rng.normal(size=len(values)), -2, 2))


def _within_limits(start, spread, weights, goal) -> np.ndarray:
    """The logarithms nearest to `start` that pass no limit; asked features yield only where they leave no other way."""
    freedom = spread + 1e-5 * np.eye(len(start))
    active: list[int] = []
    base = start
    for _ in range(20):
        over = [k for k, (row, bound) in enumerate(LIMITS) if row @ base > bound + 1e-6 and k not in active]
        if not over:
            break
        active += over
        lines = np.vstack([weights, *(LIMITS[k][0] for k in active)])
        noise = np.array([ASKED] * len(goal) + [BINDING] * len(active))
        values = np.concatenate([goal, [LIMITS[k][1] - 2e-3 for k in active]])
        cross = freedom @ lines.T
        step = np.linalg.solve(lines @ cross + np.diag(noise**2), values - lines @ start)
        base = start + cross @ step
    return base

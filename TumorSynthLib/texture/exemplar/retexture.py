"""A tumour given other features from its own voxels: the edit behind a slider, a preset or a file of features.

    made = retexture(image, mask, spacing, {"original_glcm_Contrast": 30.0}, measure, spread)

Nothing is drawn. Stages, each only where the one before leaves the request unmet: the tumour as it is; seven numbers on its own
bands (`numbers.py`) with its level kept, then free; voxels moved a little (`voxels.py`), as far as
`strength` allows. What tissue doesn't allow (`limits.py`) isn't done: the request is taken to
the limit, and a warning says to which value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.texture.exemplar.bands import Bands
from TumorSynthLib.texture.exemplar.limits import Limits, tissue_limits
from TumorSynthLib.texture.exemplar.numbers import NUMBERS, Numbers, tamed
from TumorSynthLib.texture.exemplar.search import Goal, SearchConfig, Solution, solve
from TumorSynthLib.texture.exemplar.voxels import Voxels
from TumorSynthLib.texture.request import scales_of, sigma

Measure = Callable[[np.ndarray, tuple[str, ...]], Mapping[str, float]]
"""Features of a native box (D, H, W) float32 as it would be stored, by pyradiomics' names, of those named."""


@dataclass(frozen=True)
class RetextureConfig:
    """What counts as met, and how.

    :param few: features up to which all are met exactly; more are met as nearly as the look allows.
    :param met: standard deviations within which a feature counts as met.
    :param short: share of a change of few features that may be left undone: who moves one slider sees a miss that the spread
        hardly knows.
    :param near: the same, in the features' units, at which the next tier isn't tried.
    :param enough: the same, at which the tumour is left as it is.
    :param usual: strength where none is asked for.
    :param large: voxels of a tumour from which on its features don't jump, so that small steps tell their slopes.
    :param voxel_rounds: of the search among moves of voxels, which measures features some 25 times in each.
    :param longer: times that those moves are made longer where they fall short of few features.
    :param coarse_unit: of the spread: the least unit of error where many features are asked for.
    :param beyond: standard deviations that a slider is pushed by to find the end of its range.
    """

    few: int = 8
    met: float = 0.05
    short: float = 0.1
    near: float = 0.02
    enough: float = 0.004
    usual: float = 0.3
    large: int = 20_000
    voxel_rounds: int = 1
    longer: int = 3
    coarse_unit: float = 0.25
    beyond: float = 6.0


CONFIG = RetextureConfig()


@dataclass(frozen=True, eq=False)
class Retextured:
    """What became of a tumour.

    :param values: (D, H, W) float32; unchanged outside the mask.
    :param stage: the last that was needed: "own", "level kept", "level free" or "voxels".
    :param numbers: the seven numbers by name (`NUMBERS`): log gains, robust standard deviations, log power.
    :param reached: the asked features of `values`; `missed`: those not met, by reached minus asked in standard deviations.
    :param limits: of few features that were asked for, the values of those that tissue doesn't allow to be met: the request was
        taken to them, and `warnings` say so.
    """

    values: np.ndarray
    stage: str
    numbers: dict[str, float]
    reached: dict[str, float]
    missed: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict:
        """For the record."""
        return {"stage": self.stage, "numbers": {k: round(v, 4) for k, v in self.numbers.items()}}


class Slider:
    """A tumour whose features are to be moved; its bands are made once.

    :param image: (D, H, W) native intensities; `mask` (D, H, W) bool; `spacing` (x, y, z) mm.
    :param measure: see `Measure`.
    :param spread: one standard deviation of each feature.
    :param population: of tumours of this kind, for the limits of tissue; None: by the tumour alone.
    :param bounds: lowest and highest value that can be stored.
    :param advice: what more could be done where its tissue ends; follows "ask for up to that".
    :raises InputError: the mask is empty, or the image isn't finite in it.
    """

    def __init__(
        self, image: np.ndarray, mask: np.ndarray, spacing, measure: Measure, spread: Mapping[str, float],
        population=None, bounds: tuple[float, float] = (-np.inf, np.inf),
        config: RetextureConfig = CONFIG, advice: str = ", or more strength",
    ) -> None:  # fmt: skip
        if not mask.any():
            raise InputError("the mask is empty: draw the tumour first, or give another label")
        if not np.isfinite(image[mask]).all():
            raise InputError(
                "the tumour has voxels that are not finite (NaN or infinite): repair the image, or leave them out"
            )
        self.image, self._measure, self.spread = np.asarray(image, np.float32), measure, spread
        self.bounds, self.config, self.advice = bounds, config, advice
        self._own: dict[str, float] = {}
        self.bands = Bands(image, mask, spacing)
        self.limits: Limits = tissue_limits(self.bands, population)
        self.search = SearchConfig(wider=(1.0,)) if len(self.bands.own) > config.large else SearchConfig()

    def measured(self, values: np.ndarray, names) -> dict[str, float]:
        """Features by name of voxels (n,) in the mask."""
        found = self._measure(self.bands.put(values, self.image), tuple(names))
        return {n: float(found[n]) for n in names}

    def moved(
        self, asked: Mapping[str, float], strength: float = 0.0, seed: int = 0, voxels: bool = True
    ) -> Retextured:
        """The tumour with some features asked to be different, each as near as tissue allows.

        :param strength: share of the scan's noise that is made stronger with structure, for few features. 0: seven numbers
            only; else single voxels may be moved by this times 4 local standard deviations for what the numbers leave; but not
            where another level is asked for, whose end is tissue's. A strength above the usual never reaches less than that.
        :param seed: of those moves; `voxels`: whether there are any.
        """
        made = self._moved(asked, strength, seed, voxels)
        if not made.limits or strength <= self.config.usual:
            return made
        usual = self._moved(asked, self.config.usual, seed, voxels)
        return min(made, usual, key=lambda one: sum(map(abs, one.missed.values())))

    def _moved(self, asked: Mapping[str, float], strength: float, seed: int, voxels: bool) -> Retextured:
        goal = self._goal(asked)
        stage, values, found = self._solved(goal, strength)
        level = goal.free(goal.error(self.own(goal.names)), self.config.near).level
        if voxels and strength > 0 and found.worst > self.config.near and not (goal.exact and level):
            better = self._voxels(goal, values, found, strength, seed)
            stage, values = ("voxels", better) if better is not None else (stage, values)
        reached = self.measured(values, goal.names)
        off = {n: (reached[n] - v) / sigma(self.spread, n, v) for n, v in asked.items()}
        own, short = self.own(goal.names), self.config.short if goal.exact else np.inf
        missed = {
            n: d for n, d in off.items() if abs(d) > self.config.met or
            abs(reached[n] - asked[n]) > short * abs(asked[n] - own[n]) > 0
        }  # fmt: skip
        limits = {n: reached[n] for n in missed} if goal.exact else {}
        made, numbers = self.bands.put(values, self.image), dict(zip(NUMBERS, map(float, tamed(found.theta))))
        return Retextured(made, stage, numbers, reached, missed, limits, self._advice(asked, limits))

    def _voxels(
        self, goal: Goal, values: np.ndarray, before: Solution, strength: float, seed: int
    ) -> np.ndarray | None:
        """Voxels (n,) moved until the features are nearer; None where that gains nothing."""
        space = Voxels(self.bands, self.limits, self.bounds, values, strength, seed, goal.exact)
        search = SearchConfig(rounds=self.config.voxel_rounds, wider=(1.0,))
        found = solve(space, lambda v: self.measured(v, goal.names), goal, config=search)
        ends, before, theta = space.reach(goal), np.abs(before.error).sum(), found.theta
        best, left = None, before
        for _ in range(1 + goal.exact * self.config.longer):  # specks that go take some of it back
            made = space.without_specks(space.values(theta))
            off = np.abs(goal.error(self.measured(made, goal.names))).sum()
            if off >= left:
                break
            best, left = made, off
            if left < self.config.near:
                break
            theta = np.clip(min(2.0, before / (before - left)) * theta, *ends)
        return best

    def reachable(
        self, name: str, strength: float = 0.0, seed: int = 0, voxels: bool = True
    ) -> tuple[float, float]:
        """Lowest and highest value of one feature that tissue allows, the other features left free.

        :param strength, seed, voxels: as for `moved`; without voxels, which takes a fraction of the time, it tells what the seven
            numbers alone reach.
        """
        own = self.own([name])[name]
        away = self.config.beyond * sigma(self.spread, name, own)
        ends = [
            self.moved({name: target}, strength, seed, voxels).reached[name]
            for target in (own - away, own + away)
        ]
        return min(own, *ends), max(own, *ends)

    def _goal(self, asked: Mapping[str, float]) -> Goal:
        """What is asked, in units that hang on the tumour and not on the request: the limits of the look do, too."""
        names, exact = tuple(asked), len(asked) <= self.config.few
        scale = scales_of(self.own(names), self.spread)
        if not exact:
            scale = {
                n: max(scale[n], self.config.coarse_unit * sigma(self.spread, n, asked[n])) for n in names
            }
        return Goal(names, np.array([asked[n] for n in names]), np.array([scale[n] for n in names]), exact)

    def own(self, names) -> dict[str, float]:
        """The tumour's own features by name, each measured once."""
        new = tuple(n for n in names if n not in self._own)
        if new:
            self._own.update(self._measure(self.image, new))
        return {n: float(self._own[n]) for n in names}

    def _solved(self, goal: Goal, strength: float) -> tuple[str, np.ndarray, Solution]:
        """Stage, voxels (n,) and numbers of the first tier that meets a goal, else of the nearest."""
        best: tuple[str, np.ndarray, Solution] | None = None
        own = goal.error(self.own(goal.names))
        if np.abs(own).max() < self.config.enough:
            return "own", self.bands.own, Solution(np.zeros(len(NUMBERS)), own)
        # A level that is to stay is kept by the stage that keeps it: among what is asked, it would only hold up the rest.
        kept = goal.free(own, self.config.near) if goal.exact else goal
        for stage in ("level kept", "level free")[int(kept.level or not goal.exact) :]:
            asked, noise = goal.level or not goal.exact, strength if goal.exact else 1.0
            space = Numbers(self.bands, self.limits, self.bounds, stage == "level kept", asked, noise)
            wanted = kept if stage == "level kept" else goal
            found = solve(
                space, lambda v, g=wanted: self.measured(v, g.names), wanted, best and best[2], self.search
            )
            if wanted is not goal:
                left = goal.error(self.measured(space.values(found.theta), goal.names))
                found = Solution(found.theta, left, found.measured)
            if best is None or found.worst < best[2].worst:
                best = stage, space.values(found.theta), found
            if found.worst < self.config.near:
                break
        return best

    def _advice(self, asked: Mapping[str, float], limits: Mapping[str, float]) -> tuple[str, ...]:
        """One sentence for each feature that tissue doesn't allow."""
        sides = {True: ("more", "up to that"), False: ("less", "that or more")}
        return tuple(
            f"{n.removeprefix('original_')} is taken to {end:.4g}, not {asked[n]:.4g}{_as_sd(n, end, asked[n])}: this tumour's "
            f"tissue allows no {sides[asked[n] > end][0]}; ask for {sides[asked[n] > end][1]}{self.advice}"
            for n, end in limits.items()
        )


def _as_sd(name: str, *values: float) -> str:
    """Variances as the standard deviations that a user may have asked for."""
    if name != "original_firstorder_Variance":
        return ""
    first, second = np.sqrt(np.maximum(values, 0.0))
    return f" (intensity_sd {first:.4g}, not {second:.4g})"


def retexture(
    image, mask, spacing, asked: Mapping[str, float], measure: Measure, spread, **options
) -> Retextured:
    """A tumour with some features asked to be different; see `Slider` for the arguments."""
    return Slider(image, mask, spacing, measure, spread, **options).moved(asked)

"""Moves a believable sample as little as possible until asked features hold; no network, seconds on one core.

1. Quantile specification (`quantile.py`): first-order features hold, ranks stay.
2. Far from what was asked, correlation length and noise level: two scalars, by coordinate search on exactly measured texture.
3. Refinement: Adam on the region's voxels against differentiable texture features (`objective.py`), with a price
   on leaving the sample, on another radial profile and on the seam; exact features are re-measured, and step 1 redone, every
   few steps. Grain is what betrays a solved tumour: it is held to the image's (`band.py`), more loosely where what is asked is
   far from the sample, or isn't reached within it.
4. Last touches: single voxels cross the edge of a grey level (`touches.py`).
5. The result is re-extracted exactly; what could not be reached is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.band import FIRST, REACH, Band
from TumorSynthLib.texture.objective import TEXTURE, Objective
from TumorSynthLib.texture.quantile import Discretisation, QuantileMap, transfer
from TumorSynthLib.texture.request import bounds_of, by_class, check, is_integer, scales_of
from TumorSynthLib.texture.touches import LARGEST, Touches

STEPS_PER_ROUND = 10  # Adam steps between exact measurements
RATE = 0.25  # grey-level bins per Adam step at first
WIDTH = 2.5  # voxels in plane: a Gaussian's deviation, over which steps are spread; less and less in the last third
FAR = 0.35  # mean squared error, in the features' scales, from which smoothness and noise are searched, and no step is spread
NEAR = (
    1 / 1000
)  # of the number of asked features: the mean squared error that will do where moves are smooth; less for few
HELD = 1e-4  # mean squared error per asked feature below which nothing is left to gain, however the moves are
ASTRAY, SLOWER = (
    1.5,
    0.7,
)  # an error so many times the best one sends the search back there, with smaller steps …
LITTLE = 0.1  # … unless it is so little per asked feature, where it only swings around the goal
SEARCHES = 4  # for the prices of the band each time that it is held to
LOOSER, LOOSEST = (
    2.0,
    10.0,
)  # from half of the steps on, each round takes the band so much wider, up to so much …
FINISHED = 2.0  # … or up to this where a request is near, and last touches do the rest
LOOSE, LONGER = (
    4.0,
    2.5,
)  # a FAR request begins with so wide a band, with so many times the steps in small regions
SPLIT_VOXELS, SPLIT_MORE = 6000, 40000  # larger regions take a half, a third of the 13 directions per step
SMOOTHING = (0.0, 0.45, 0.6, 0.8, 1.1, 1.6, 2.4)  # voxels, in plane
NOISE = (0.0, 0.15, 0.3, 0.5, 0.8, 1.3, 2.0)  # in robust standard deviations of the sample
OUTLIER = 5.0  # robust standard deviations from the median
TURNS, MORE_TURNS = (
    3,
    9,
)  # solves through the image's own grid, where that is another one; more while each gains a tenth …
FEW = 10  # … or where fewer features are asked: each then gains a little for long
ENOUGH = 0.01  # mean error of the asked features, in their scales, at which the turns end …
WILL_DO = 1 / 400  # … or this times the number of asked features, where moves are smooth


@dataclass(frozen=True)
class Solved:
    """Result of `solve`.

    :param array: (D, H, W) float32 on the working grid; unchanged outside the mask.
    :param native: the native box behind it (see `Region`), None without resampling.
    :param asked: the request as used; `reached`: all features re-extracted from the result.
    """

    array: np.ndarray
    native: np.ndarray | None
    asked: dict[str, float]
    reached: dict[str, float]


def gaussian_field(mask: np.ndarray, spacing, correlation_mm: float, seed: int = 0) -> np.ndarray:
    """A Gaussian random field (D, H, W) float32, mean 0 and deviation 1 in the mask: the solver's sample without a network."""
    noise = np.random.default_rng(seed).standard_normal(mask.shape).astype(np.float32)
    sigma = [correlation_mm / 2 / s for s in tuple(spacing)[::-1]]
    smooth = ndimage.gaussian_filter(noise, sigma)
    inside = smooth[mask]
    return ((smooth - inside.mean()) / max(float(inside.std()), 1e-6)).astype(np.float32)


class _Solver:
    """One solve on the working grid; values are always those of the mask's voxels (n,) in raster order."""

    def __init__(
        self, sample, mask, asked, scales, settings, spacing, integer, bounds, iterations, seed, progress, width=WIDTH,
        band=None, prices=None, slack=1.0,
    ):  # fmt: skip
        self.mask, self.spacing, self.settings = mask, spacing, settings
        self.sample = np.asarray(sample, np.float64)
        self.disc = Discretisation(float(settings.binWidth), settings.binCount, integer)
        self.asked, self.scales, self.bounds = by_class(asked), by_class(scales), bounds
        self.iterations, self.progress = iterations, progress or (lambda stage, fraction: None)
        self.generator = torch.Generator().manual_seed(seed)
        self.rng, self.width, self.band = np.random.default_rng(seed), width, band
        self.prices, self.slack = prices or [FIRST] * 2, slack
        self.loosest = FINISHED if slack <= FINISHED and np.count_nonzero(mask) <= LARGEST else LOOSEST
        self.objective = Objective(mask, spacing, self.asked, self.scales, settings.symmetricalGLCM)
        self.sigma = np.array(spacing[:2]).mean() / np.array(spacing[::-1], float)

    def specify(self, values: np.ndarray, iterations: int = 20) -> np.ndarray:
        """Step 1 on values (n,)."""
        mapping = QuantileMap(
            values,
            self.disc,
            tie=self._local_mean(values),
            shift=self.settings.voxelArrayShift,
            voxel_volume=float(np.prod(self.spacing)),
            bounds=self.bounds,
        )
        return mapping.solve(self.asked.get("firstorder", {}), self.scales.get("firstorder", {}), iterations)

    def held(self, values: np.ndarray) -> np.ndarray:
        """Values (n,) without grain that the image around doesn't have."""
        if self.band is None:
            return values
        box = self.sample.astype(np.float32)
        box[self.mask] = values
        return self.band.held(box, self.mask, self.prices, SEARCHES, self.slack)[self.mask].astype(np.float64)

    def _local_mean(self, values: np.ndarray) -> np.ndarray | None:
        """Decides the order of equal values by their surroundings, so that ties make no noise; None without ties."""
        if len(np.unique(values)) == len(values):
            return None
        return self._smooth(values, 1.0)

    def _smooth(self, values: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian mean inside the mask; `sigma` in voxels in plane, the same mm across."""
        box = np.zeros(self.mask.shape, np.float32)
        box[self.mask] = values - values.mean()
        width = sigma * self.sigma
        blurred = ndimage.gaussian_filter(box, width, truncate=3.0)
        weight = ndimage.gaussian_filter(self.mask.astype(np.float32), width, truncate=3.0)
        return blurred[self.mask] / np.maximum(weight[self.mask], 1e-3) + values.mean()

    def coordinates(self, values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Bin coordinates, 0-based levels and their number."""
        stored = self.disc.stored(values)
        low, width = self.disc.origin(stored)
        level, levels = self.disc.levels(values)
        u = (values - low + (0.5 if self.disc.integer else 0.0)) / width
        return torch.from_numpy(u.astype(np.float32)), torch.from_numpy(level), levels

    def values(self, u: torch.Tensor, reference: np.ndarray) -> np.ndarray:
        """Values of bin coordinates that were made from `reference`."""
        low, width = self.disc.origin(self.disc.stored(reference))
        return u.double().numpy() * width + low - (0.5 if self.disc.integer else 0.0)

    def solve(self) -> np.ndarray:
        """Solved values (n,)."""
        start = self.sample[self.mask]
        values = self.specify(start)
        if not self.objective.asked:
            return values
        if self._error(values) > FAR * self.count or not self.iterations:
            values, self.width = self.adjust_texture(start, values), 0.0
            self.slack, self.loosest = max(self.slack, LOOSE), LOOSEST
            if len(values) <= SPLIT_VOXELS:
                self.iterations = int(LONGER * self.iterations)
        return self.refine(values)

    def again(self) -> np.ndarray:
        """Solved values (n,) from a start whose texture is nearly right already."""
        values = self.specify(self.sample[self.mask], 12)
        return self.refine(values) if self.objective.asked else values

    @property
    def count(self) -> int:
        """Of asked texture features."""
        return sum(map(len, self.objective.asked.values()))

    def _error(self, values: np.ndarray) -> float:
        _, level, levels = self.coordinates(values)
        return self.objective.error(self.objective.measure(level, levels))

    def adjust_texture(self, start: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Step 2: smooth the sample, or add noise, where that brings the asked texture nearer; values stay `target`'s.

        The noise is the sample's own fine detail, which fits its surroundings, or white where that alone does better.
        """
        start = transfer(start, target, self._local_mean(start))  # smoothing acts on the asked distribution
        gathered = self._gather_outliers(start)
        noises = self._noises(start)
        zones = len(start) <= 30000
        tried: dict[tuple[int, ...], tuple[float, np.ndarray]] = {}

        def attempt(smoothing: int, noise: int, kind: int, gather: int = 0) -> float:
            key = (smoothing, noise, kind if noise else 0, gather)
            if key not in tried:
                x = gathered if gather else start
                x = self._smooth(x, SMOOTHING[smoothing]) if smoothing else x
                x = x + NOISE[noise] * noises[kind] if noise else x
                values = transfer(x, target, self._local_mean(x))
                _, level, levels = self.coordinates(values)
                error = self.objective.error(self.objective.measure(level, levels, zones))
                # What is nearer to the sample as it is wins where the features hardly differ.
                tried[key] = error * (1 + 0.03 * (smoothing + noise) + (0.1 if noise and kind else 0)), values
            return tried[key][0]

        coarse = range(0, len(SMOOTHING), 2)
        kinds = (0,) if gathered is None else (0, 1)
        best = min(((k, 0, 0, g) for k in coarse for g in kinds), key=lambda key: attempt(*key))
        options = [best]
        for k in sorted({best[0], len(SMOOTHING) - 1}):
            options += [(k, n, kind, best[3]) for n in (2, 4) for kind in (0, 1)]
        best = min(options, key=lambda key: attempt(*key))
        for axis in (1, 0, 1):
            best = _walk(attempt, best, axis, (len(SMOOTHING), len(NOISE)))
        self.progress("texture", 0.2)
        return tried[(best[0], best[1], best[2] if best[1] else 0, best[3])][1]

    def _gather_outliers(self, values: np.ndarray) -> np.ndarray | None:
        """The values (n,) with their outliers (calcification, bone, vessels) in few places instead of as specks; None without.

        Outliers go to where a smooth version of the sample is highest (or lowest); all other voxels keep their order.
        """
        centre, spread = _bulk(values)
        high, low = (
            int((values > centre + OUTLIER * spread).sum()),
            int((values < centre - OUTLIER * spread).sum()),
        )
        if not 0 < high + low < 0.2 * len(values):
            return None
        key = self._smooth(np.clip(values, centre - 2 * OUTLIER * spread, centre + 2 * OUTLIER * spread), 2.0)
        order = np.argsort(key, kind="stable")
        middle = np.sort(order[low : len(order) - high])
        ranked = np.concatenate(
            [order[:low], middle[np.argsort(values[middle], kind="stable")], order[len(order) - high :]]
        )
        result = np.empty_like(values)
        result[ranked] = np.sort(values)
        return result

    def _noises(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sample's own detail (without outliers) and white noise (n,), both as strong as the bulk of the values spreads."""
        spread = max(_bulk(start)[1], 0.1 * float(start.std()), 1e-6)
        detail = np.clip(start - self._smooth(start, 1.1), -3 * spread, 3 * spread)
        white = self.rng.standard_normal(len(start))
        return detail * (spread / max(float(detail.std()), 0.05 * spread)), white * spread

    def refine(self, values: np.ndarray) -> np.ndarray:
        """Step 3."""
        goal = self.objective
        parts = 1 if len(values) <= SPLIT_VOXELS else 2 if len(values) <= SPLIT_MORE else 3
        values = self.specify(self.held(values), 12)
        goal.anchor(self.coordinates(values)[0])
        reference, best, best_error = values, values, np.inf
        u = self._measured(values, reference, parts)
        first, second, pace = None, None, 1.0
        for step in range(self.iterations):
            if step and step % STEPS_PER_ROUND == 0:
                if 2 * step > self.iterations:
                    self.slack = min(self.slack * LOOSER, self.loosest)
                values = self.specify(self.held(self.values(u.detach(), reference)), 8)
                u, reference = self._measured(values, reference, parts), values
            if step % STEPS_PER_ROUND == 0:
                error = goal.error(goal.now)
                if error < best_error:
                    best, best_error = values, error
                elif error > ASTRAY * best_error + LITTLE * self.count:  # the surrogates were trusted too far
                    u, reference = self._measured(best, reference, parts), best
                    first, pace = None, SLOWER * pace
                if best_error <= max(NEAR * self.count if self.width else 0.0, HELD) * self.count:
                    return best
                self.progress("solve", 0.2 + 0.8 * step / self.iterations)
            (slope,) = torch.autograd.grad(goal.loss(u, step % parts), u)
            first = slope if first is None else 0.9 * first + 0.1 * slope
            second = slope.square() if second is None else 0.95 * second + 0.05 * slope.square()
            left = 1 - step / self.iterations
            self.width = min(self.width, WIDTH * 3 * left)
            with torch.no_grad():
                # The common floor lets voxels that matter little move little; plain Adam would turn their noise into grain.
                rate = pace * RATE * min(1.0, 2 * left + 0.1)
                u -= self._spread(rate * first / (second.sqrt() + second.mean().sqrt() + 1e-12))
        values = self.specify(self.held(self.values(u.detach(), reference)), 12)
        return values if self._error(values) <= best_error else best

    def _spread(self, move: torch.Tensor) -> torch.Tensor:
        """A move (n,) of voxels in the band's colour, or under a Gaussian of the present width, as large as before."""
        if self.band is None and self.width < 0.4:
            return move
        box = np.zeros(self.mask.shape, np.float32)
        box[self.mask] = move.numpy()
        if self.band is not None:
            box = self.band.spread(box, self.prices[-1])
        else:
            box = ndimage.gaussian_filter(box, self.width * self.sigma, mode="constant", truncate=3.0)
        spread = torch.from_numpy(box[self.mask])
        return spread * (move.norm() / (spread.norm() + 1e-12))

    def _measured(self, values: np.ndarray, reference: np.ndarray, parts: int) -> torch.Tensor:
        """Bin coordinates of `values`, where the surrogates are now anchored; the anchor moves along with the first bin."""
        u, level, levels = self.coordinates(values)
        low, width = self.disc.origin(self.disc.stored(values))
        self._shift_anchor((self.disc.origin(self.disc.stored(reference))[0] - low) / width)
        count = len(self.objective.paths.order)
        groups = torch.randperm(count, generator=self.generator).chunk(parts)
        self.objective.prepare(u, level, levels, list(groups))
        return u.requires_grad_()

    def _shift_anchor(self, bins: float) -> None:
        """Keeps the anchor at the same grey values when the first bin moves."""
        if bins:
            self.objective.start = self.objective.start + bins
            self.objective.profile = (self.objective.profile[0] + bins, self.objective.profile[1])


def _bulk(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), float(high - low) / 1.349


def _walk(attempt: Callable[..., float], best: tuple, axis: int, sizes: tuple[int, int]) -> tuple:
    """Steps along one axis of a grid while that lowers `attempt`."""
    for direction in (1, -1):
        moved = False
        while True:
            trial = list(best)
            trial[axis] += direction
            if not 0 <= trial[axis] < sizes[axis] or attempt(*trial) >= attempt(*best):
                break
            best, moved = tuple(trial), True
        if moved:
            break
    return best


def solve(
    sample: np.ndarray,
    mask: np.ndarray,
    request: Mapping[str, float],
    population=None,
    settings=None,
    *,
    spacing,
    region=None,
    iterations: int = 60,
    progress: Callable[[str, float], None] | None = None,
    seed: int = 0,
    integer: bool | None = None,
    bounds: tuple[float, float] | None = None,
    band: Band | None = None,
    touch: bool = True,
) -> Solved:
    """Moves `sample` as little as possible until the requested features hold when re-extracted exactly.

    :param sample: (D, H, W) intensities on the working grid, believable inside the mask.
    :param mask: (D, H, W) bool.
    :param request: any subset of first-order, GLCM, GLRLM and GLSZM features by pyradiomics name (`original_glcm_Contrast`).
        Features of other classes are reported, not steered.
    :param population: gives the standard deviation of each feature (`names`, `std`); None judges errors by their value.
    :param settings: extraction settings; None is pyradiomics' defaults.
    :param spacing: (x, y, z) in mm of the working grid.
    :param region: where the image has another grid, the `Region` whose native box is measured in the end.
    :param iterations: refinement steps; 0 leaves quantile specification and the search for smoothness and noise.
    :param integer: the file stores whole numbers; None takes it from the region, else from the values outside the mask.
    :param bounds: lowest and highest value allowed; None takes the population's extremes.
    :param band: grain of the sample's surroundings, which the tumour's is held to; it is loosened, at most tenfold, where the
        request isn't reached otherwise. None lets grain be as it comes.
    :param touch: False leaves the last touches to a later call of `touched`.
    :raises InputError: empty mask or a value that is not a number.
    """
    settings = settings or Settings()
    mask = np.asarray(mask, bool)
    request = {name: float(value) for name, value in request.items()}
    check(sample, mask, request)
    deviation = {} if population is None else dict(zip(population.names, np.asarray(population.std, float)))
    integer = is_integer(sample, mask, region) if integer is None else integer
    bounds = bounds_of(population) if bounds is None else bounds
    scales = scales_of(request, deviation)

    width, slack = WIDTH, 1.0  # later attempts go on as finely and as loosely as the one before ended
    area, prices = _around(mask), [FIRST] * 2

    def attempt(start: np.ndarray, targets: Mapping[str, float], budget: int, fresh: bool) -> np.ndarray:
        nonlocal width, slack
        solver = _Solver(
            start[area], mask[area], targets, scales, settings, spacing, integer, bounds, budget, seed, progress, width, band,
            prices, slack,
        )  # fmt: skip
        result = np.array(start, np.float32)
        result[mask] = solver.disc.stored(solver.solve() if fresh else solver.again())
        width, slack = solver.width, solver.slack
        return result

    def judge(array: np.ndarray) -> tuple[dict[str, float], float]:
        reached = extract(_stored(array, integer), mask, spacing, settings, ("firstorder", *TEXTURE))
        return reached, sum(
            min(abs(reached[k] - v) / scales[k], 3.0) for k, v in request.items() if k in reached
        )

    array, native = attempt(np.asarray(sample, np.float32), request, iterations, True), None
    if region is not None and region.operators is not None:
        array, native, reached = _through_native(
            region, array, request, scales, integer, judge, attempt, iterations // 2,
            max(ENOUGH, WILL_DO * len(request)) if width else ENOUGH, region.native_band if band else None,
            lambda: slack,
        )  # fmt: skip
    else:
        reached, _ = judge(array)
    solved = Solved(array, native, request, reached)
    if not (touch and iterations):
        return solved
    return touched(
        solved,
        sample,
        mask,
        population,
        settings,
        spacing=spacing,
        region=region,
        seed=seed,
        integer=integer,
        bounds=bounds,
    )


def touched(
    solved: Solved, sample, mask, population=None, settings=None, *, spacing, region=None, seed: int = 0,
    integer: bool | None = None, bounds: tuple[float, float] | None = None,
) -> Solved:  # fmt: skip
    """What `solve` made of the same arguments, with last touches; as it is where the region is too large for them."""
    mask, settings = np.asarray(mask, bool), settings or Settings()
    if np.count_nonzero(mask) > LARGEST:
        return solved
    deviation = {} if population is None else dict(zip(population.names, np.asarray(population.std, float)))
    integer = is_integer(sample, mask, region) if integer is None else integer
    bounds = bounds_of(population) if bounds is None else bounds
    request, scales = solved.asked, scales_of(solved.asked, deviation)
    touches = Touches(
        mask, request, scales, settings, spacing, integer, None if solved.native is None else region
    )
    array, native = touches.finished(solved.array, solved.native, bounds, seed)
    reached = extract(_stored(array, integer), mask, spacing, settings, ("firstorder", *TEXTURE))
    return Solved(array, native, request, reached)


def _through_native(
    region, array, request, scales, integer: bool, judge, attempt, budget: int, enough: float, band, slack
):
    """Best (array as measured, native box, features) of a few turns through the image's own grid.

    The native grid can't hold every working array; each turn starts from what it did hold, and asks for more where the last one
    fell short. `enough` is the mean error, in the features' scales, that ends it; `band` the native grid's, so much wider as
    `slack` says.
    """
    best, best_error, targets = None, np.inf, dict(request)
    for turn in range(MORE_TURNS):
        # Resampling an image of whole numbers cuts decimals off (towards zero): half a unit makes up for that on average.
        wanted = array + 0.5 * np.sign(array) if integer else array
        native = np.where(region.native_mask, region.to_native(wanted), region.native).astype(np.float32)
        if band is not None:
            native = band.held(native, region.native_mask, slack=slack())
        held = region.measure(native, as_stored=True)
        reached, error = judge(held)
        stuck = turn >= TURNS - 1 and len(request) >= FEW and error > 0.9 * best_error
        if error < best_error:
            best, best_error = (held, native, reached), error
        if stuck or turn == MORE_TURNS - 1 or best_error <= enough * len(request):
            break
        shift = {
            k: float(np.clip(v - reached.get(k, v), -2 * scales[k], 2 * scales[k]))
            for k, v in request.items()
        }
        targets = {k: targets[k] + shift[k] for k in request}
        array = attempt(held, targets, budget, False)
    return best


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """The mask's box and what its voxels follow from in plane."""
    z, y, x = bounding_box(mask)
    margin = 2 * REACH
    return z, *(slice(max(s.start - margin, 0), s.stop + margin) for s in (y, x))


def _stored(array: np.ndarray, integer: bool) -> np.ndarray:
    return np.rint(array).astype(np.int32) if integer else array

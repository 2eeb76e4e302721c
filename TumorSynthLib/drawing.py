"""The drawing part of an edit: what is asked of a texture, the network's samples, and the solver on top of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from TumorSynthLib.edit.features import steerable
from TumorSynthLib.edit.result import differences
from TumorSynthLib.job import Job, listed, short
from TumorSynthLib.models import Bundle
from TumorSynthLib.radiomics.identities import RANGES
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.sizing import at_size
from TumorSynthLib.resampling import bounding_box

NOTED = 0.05  # population standard deviations from which a changed request is told
MANY = 10  # asked features of which the median tells if they are reached
LEAST = 0.01  # population standard deviations that a unit of error is at least
REACHED = 0.25  # population standard deviations within which a feature counts as reached
NEARLY = 1.3  # times that, from where last touches can bring a request there
UNUSUAL = 99.0  # percentile of the distance to the population from which a request is flagged
RIDGE = 1e-3  # of the correlation of asked features, which may say the same twice
VARIANCE = "original_firstorder_Variance"
#: Features that fix how far intensities spread.
SPREADS = {
    f"firstorder_{name}"
    for name in (
        "Variance",
        "InterquartileRange",
        "MeanAbsoluteDeviation",
        "RobustMeanAbsoluteDeviation",
        "Range",
        "RootMeanSquared",
    )
}


class Painter:
    """Draws tumours and healthy tissue with one model, which is loaded once, at the first drawing.

    :param device: auto, cpu, cuda or mps.
    :param parent: painter of another region of the same model, whose network is used.
    """

    def __init__(self, bundle: Bundle, device: str, parent: Painter | None = None):
        self.bundle, self.device, self.parent = bundle, device, parent
        self.texture: Any = None
        self._populations: dict[str, Population | None] = {}

    @property
    def where(self) -> str:
        """The device that drawing ran on."""
        return str(self.load().device)

    def population(self, modality: str) -> Population | None:
        """Features of the model's training tumours; None where the model has none for the modality."""
        if modality not in self._populations:
            there = (self.bundle.json.get("population") or {}).get(modality)
            there = there if len(self.bundle.regions) == 1 or self.bundle.painted else None
            self._populations[modality] = self.bundle.population(modality) if there else None
        return self._populations[modality]

    def texture_of(
        self, features: Mapping[str, float], modality: str, volume: float, wanted: float
    ) -> dict[str, float]:
        """Those of a tumour's features that make a request: the model knows them, and they don't grow with the size.

        :param volume: of the tumour, mm³; `wanted`: of the one that is to have its texture (`radiomics.sizing`).
        """
        kept, population = steerable(features)[0], self.population(modality)
        if population is None:
            return dict(kept)
        kept = {name: value for name, value in kept.items() if name in population.names}
        return at_size(population, kept, volume, wanted) if volume != wanted else kept

    def edited(
        self, own: Mapping[str, float], wanted: Mapping[str, float], modality: str
    ) -> dict[str, float]:
        """A tumour's features with some of them asked to be different: the others follow as they do in the population.

        Without that, sixty own features would outvote the asked one: a mean can't rise while all percentiles stay.
        """
        population = self.population(modality)
        names = [n for n in own if population is not None and n in population.names]
        changed = [n for n in wanted if n in names]
        if not changed:
            return {**own, **wanted}
        index = [population.names.index(n) for n in names]
        spread = np.maximum(population.std[index], 1e-12)
        correlation = population.covariance[np.ix_(index, index)] / np.outer(spread, spread)
        at = [names.index(n) for n in changed]
        step = np.array([wanted[n] - own[n] for n in changed]) / spread[at]
        along = np.linalg.solve(correlation[np.ix_(at, at)] + RIDGE * np.eye(len(at)), step)
        moved = np.array([own[n] for n in names]) + spread * (correlation[:, at] @ along)
        possible = {
            n: min(max(float(v), RANGES[n][0]), RANGES[n][1]) if n in RANGES else float(v)
            for n, v in zip(names, moved)
        }
        return {**own, **possible, **wanted}

    def feasible(self, job: Job) -> dict[str, float]:
        population = self.population(job.modality)
        names = population.names if population else ()
        known = {name: value for name, value in job.asked.items() if name in names}
        if not population or not known:
            return dict(job.asked)
        region = job.region
        voxel_volume = float(np.prod(region.spacing))
        feasible = population.project(known, voxels=int(region.mask.sum()), voxel_volume=voxel_volume)
        spread = self.spread(job.modality)
        moved = {n: (b - a) / max(spread[n], 1e-12) for n, (a, b) in feasible.changed.items()}
        large = sorted((n for n in moved if abs(moved[n]) > NOTED), key=lambda n: -abs(moved[n]))
        if large:
            job.warn(
                "no tumour has all of these features at once, so the nearest request is used: "
                + listed([f"{short(n)} {known[n]:.4g} → {feasible.features[n]:.4g}" for n in large])
            )
        if feasible.distance_percentile > UNUSUAL:
            job.warn(
                f"the request is farther from the middle of the training tumours than "
                f"{feasible.distance_percentile:.0f} % of them; most like it: {', '.join(feasible.nearest)}"
            )
        if not any(short(n) in SPREADS for n in job.asked) and VARIANCE in population.names:
            job.implied = {VARIANCE: float(feasible.features[VARIANCE])}
        return job.asked | {name: float(feasible.features[name]) for name in known}

    def removed(self, job: Job) -> np.ndarray:
        """Native box with healthy tissue.

        On another grid than the model's, what continues the surroundings is made in the image's own voxels, and only what
        the network adds to it is resampled: twice interpolated surroundings would fit less well. Between thick slices the
        model's grid interpolates better.
        """
        sample, region = self._sample(job, None, job.request.seed), job.region
        if region.operators is None or region.thick:
            return self._to_native(job, sample, False)
        texture = self.load()
        with job.clock.stage("paste"):
            added = sample - texture.continued(region.array, region.mask, job.modality, region.valid)
            own = texture.continued(
                region.native, region.native_mask, job.modality, spacing=region.native_spacing
            )
            return region.added(own, added)

    def synthesized(self, job: Job, arrange: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Native box with the best of the drawn tumours, solved if that is wanted.

        :param arrange: changes a drawn (D, H, W) sample before it is judged.
        """
        best, best_error = None, np.inf
        for i in range(job.request.samples):
            sample = self._sample(job, job.used, job.request.seed + i)
            sample = arrange(sample) if arrange else sample
            native = self._to_native(job, sample)
            error = self._error(job, native) if job.request.samples > 1 else 0.0
            if error < best_error or best is None:
                best, best_error = (sample, native), error
        if job.request.solve and job.used:
            return self._solved(job, *best)
        return best[1]

    def _sample(self, job: Job, features: Mapping[str, float] | None, seed: int) -> np.ndarray:
        """One draw of the network on the working grid; on the CPU where the device's memory doesn't suffice."""
        with job.clock.stage("model"):
            job.report("model", 0.0)
            texture = self.load()
        unknown = [name for name in features or {} if name not in texture.features]
        if unknown and not job.request.solve:
            job.warn(f"the network doesn't know {', '.join(unknown[:5])}: only the solver can reach it")
        region, request = job.region, job.request
        options = {
            "valid": region.valid,
            "seed": seed,
            "steps": request.steps,
            "eta": request.eta,
            "progress": job.report,
            "contrast": not request.solve,  # the solver changes less for its sake
        }
        if self.bundle.painted:
            others = {name: region.resample_mask(mask) for name, mask in job.others.items()}
            options |= {"region": self.bundle.painted.name, "others": others}
        with job.clock.stage("texture"):
            try:
                return texture.sample(region.array, region.mask, job.modality, features, **options)
            except RuntimeError as error:
                if texture.device.type == "cpu" or "memory" not in str(error).lower():
                    raise
            job.warn(f"the memory of {texture.device} didn't suffice: the CPU was used")
            return self.load("cpu").sample(region.array, region.mask, job.modality, features, **options)

    def load(self, device: str | None = None):
        """The texture model, on the editor's device, or from now on on another one."""
        if self.parent is not None:
            return self.parent.load(device)
        if self.texture is None or device is not None:
            from TumorSynthLib.texture.generator import TextureModel

            self.texture = TextureModel.from_bundle(self.bundle, device or self.device)
        return self.texture

    def _to_native(self, job: Job, sample: np.ndarray, tumour: bool = True) -> np.ndarray:
        region = job.region
        with job.clock.stage("paste"):
            native = region.to_native(sample)
            band = (
                region.native_band
                if tumour and self.load().in_band and region.operators is not None
                else None
            )
            return native if band is None else band.held(native, region.native_mask)

    def _error(self, job: Job, native: np.ndarray) -> float:
        """Median difference from the request in population standard deviations, re-extracted exactly."""
        if not job.used:
            return 0.0
        with job.clock.stage("judge"):
            off = differences(job.used, job.measure(native, list(job.used)), self.spread(job.modality))
            return float(np.median(np.abs(list(off.values()))))

    def spread(self, modality: str) -> dict[str, float]:
        population = self.population(modality)
        return {name: float(s) for name, s in zip(population.names, population.std)} if population else {}

    def _solved(self, job: Job, sample: np.ndarray, native: np.ndarray) -> np.ndarray:
        """Native box of the solved sample.

        Texture can need another spread of intensities than the drawn tumour has. Where the spread is free and the first
        attempt misses, a second one asks for the spread that the population has with these features. What the image's grain
        leaves far from the request is solved again without holding to it: features come first. Last touches take as long as
        half a solve, so only what is kept, or will be with them, gets them.
        """
        from TumorSynthLib.texture.touches import LARGEST
        from TumorSynthLib.threads import one_thread

        with job.clock.stage("solve"), one_thread(np.count_nonzero(job.region.mask) <= LARGEST):
            result = self._solve(job, sample, job.used)
            if job.implied and self._worst(job, result.reached) > REACHED:
                second = self._solve(job, sample, job.used | job.implied)
                if self._worst(job, second.reached) < self._worst(job, result.reached):
                    result = second
            nearly = self._missed(job, result.reached) <= NEARLY * REACHED
            result = self._touched(job, sample, result) if nearly else result
            if self._missed(job, result.reached) > REACHED:
                free = self._solve(job, sample, job.used, in_band=False)
                if self._missed(job, free.reached) < self._missed(job, result.reached):
                    result, nearly = free, False
            result = result if nearly else self._touched(job, sample, result)
        if result.native is not None:
            return result.native
        box = bounding_box(job.region.mask)
        native = native.copy()
        native[box] = np.where(job.region.native_mask[box], result.array[box], native[box])
        return native

    def _solve(self, job: Job, sample: np.ndarray, asked: Mapping[str, float], in_band: bool = True):
        """A solve without last touches."""
        from TumorSynthLib.texture.solver import solve

        case, more = self._case(job, sample)
        band = job.region.band if in_band and self.load().in_band else None
        return solve(
            *case[:2], asked, *case[2:], **more, band=band, touch=False, progress=lambda s, f: job.report("solve", f)
        )  # fmt: skip

    def _touched(self, job: Job, sample: np.ndarray, solved):
        from TumorSynthLib.texture.solver import touched

        case, more = self._case(job, sample)
        return touched(solved, *case, **more)

    def _case(self, job: Job, sample: np.ndarray) -> tuple[tuple, dict[str, Any]]:
        """What the solver is told of a tumour."""
        from TumorSynthLib.texture.request import bounds_of

        region, kind, population = job.region, job.volume.array.dtype, self.population(job.modality)
        more = {
            "spacing": region.spacing,
            "region": region if region.operators is not None else None,
            "seed": job.request.seed,
            "integer": np.issubdtype(kind, np.integer),
            "bounds": bounds_of(population, kind),
        }
        return (sample, region.mask, population, job.settings), more

    def _missed(self, job: Job, reached: Mapping[str, float]) -> float:
        """Median difference from the request in population standard deviations; of few features the largest, in quarters of
        what was asked where that is less: who moves one slider sees a miss that the population hardly knows."""
        spread = self.spread(job.modality)
        off = {k: abs(d) for k, d in differences(job.used, reached, spread).items()}
        if len(off) >= MANY:
            return float(np.median(list(off.values())))
        shares = {k: abs(job.used[k]) / (4 * spread[k]) if spread.get(k) else 1.0 for k in off}
        return max((d / float(np.clip(shares[k], LEAST, 1.0)) for k, d in off.items()), default=0.0)

    def _worst(self, job: Job, reached: Mapping[str, float]) -> float:
        """Largest difference from the request in population standard deviations."""
        return max(map(abs, differences(job.used, reached, self.spread(job.modality)).values()), default=0.0)

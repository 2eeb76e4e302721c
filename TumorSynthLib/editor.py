"""The one door to every edit: measure, synthesize, remove, retexture and move a tumour.

    editor = Editor("lung-nodule-ct")
    result = editor.synthesize(volume, mask, EditRequest(features={"contrast": 12.0, "mean_intensity": -40.0}, seed=3))
    write_volume(result.volume, "edited.nii.gz")

Masks are (K, J, I) bool on the grid of their `Volume`. Nothing outside the mask changes. Each method checks its input
before any heavy work and raises `InputError` or `ModelError`; a progress callback that raises `Cancelled` stops it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from TumorSynthLib import provenance, suitability
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import Bundle, find
from TumorSynthLib.placement import grown, moved_mask
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.region import Patch, Region
from TumorSynthLib.requests import EditRequest, EditResult, differences, resolved, steerable, storable
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.volume import Volume, check_image, check_mask

Progress = Callable[[str, float], None]

NOTED = 0.05  # population standard deviations from which a changed request is told
REACHED = 0.25  # population standard deviations within which a feature counts as reached
UNUSUAL = 99.0  # percentile of the distance to the population from which a request is flagged
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
RIM_VOXELS = 2.5  # depth, in plane, over which a moved tumour's own voxels take over from the network's rim


class _Clock:
    """Seconds by stage."""

    def __init__(self):
        self.start, self.seconds = time.perf_counter(), {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def done(self) -> dict[str, float]:
        rounded = {name: round(value, 3) for name, value in self.seconds.items()}
        return rounded | {"total": round(time.perf_counter() - self.start, 3)}


@dataclass(eq=False)
class _Job:
    """One edit under way: a checked input and its region."""

    volume: Volume
    mask: np.ndarray
    request: EditRequest
    modality: str
    region: Region
    settings: Settings
    warnings: list[str]
    report: Progress
    origin: Future
    clock: _Clock = field(default_factory=_Clock)
    asked: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    implied: dict[str, float] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def measure(self, native: np.ndarray | None = None, classes=TEXTURE_CLASSES) -> dict[str, float]:
        """Exact features of a native box as it will be stored; of the image itself without one."""
        box = self.region.native if native is None else native
        return _features(self.region, box, self.settings, classes)


class Editor:
    """Edits with one model, which is loaded once, at the first edit.

    :param model: id of a model, folder of a bundle, or a `Bundle`.
    :param device: auto, cpu, cuda or mps.
    :raises ModelError: there is no such model, or it is damaged.
    """

    def __init__(self, model: str | Bundle, device: str = "auto"):
        self.bundle = model if isinstance(model, Bundle) else find(model)
        self.device = device
        self._texture: Any = None
        self._populations: dict[str, Population | None] = {}

    def modality(self, volume: Volume, wanted: str | None = None) -> str:
        """The model's modality that an image has. Raises InputError where it has none of them."""
        return suitability.modality_of(self.bundle, wanted, volume)[0]

    def population(self, modality: str) -> Population | None:
        """Features of the model's training tumours; None where the model has none for the modality."""
        if modality not in self._populations:
            there = (self.bundle.json.get("population") or {}).get(modality)
            self._populations[modality] = self.bundle.population(modality) if there else None
        return self._populations[modality]

    def estimate(self, volume: Volume, mask: np.ndarray, steps: int | None = None) -> dict[str, float]:
        """Rough seconds and bytes of an edit on a CPU, before it is run."""
        return suitability.estimate(volume, check_mask(mask, volume), self.bundle, steps)

    def extract(
        self, volume: Volume, mask: np.ndarray, modality: str | None = None, classes=None
    ) -> dict[str, float]:
        """Features on the model's grid with its settings, equal to pyradiomics' with `models params`.

        :param classes: see `radiomics.extract.extract`; None is all.
        """
        check_image(volume)
        mask = check_mask(mask, volume)
        modality = self.modality(volume, modality)
        region = Region.around(volume, mask, self.bundle.spacing)
        return _features(region, region.native, self.bundle.settings(modality), classes)

    def synthesize(
        self,
        volume: Volume,
        mask: np.ndarray,
        request: EditRequest | None = None,
        progress: Progress | None = None,
    ) -> EditResult:
        """A tumour in the mask, with the asked features; those not asked for are free, all of them without any."""
        job = self._prepare(volume, mask, request or EditRequest(), progress)
        self._decide(job)
        return self._finish("synthesize", job, self._synthesized(job))

    def retexture(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Progress | None = None
    ) -> EditResult:
        """Another texture in the same shape: `synthesize` with a donor or features, which must be given."""
        if request.donor is None and not request.features:
            raise InputError("there is no texture to give: name a donor (image and mask) or features")
        return self.synthesize(volume, mask, request, progress)

    def remove(
        self,
        volume: Volume,
        mask: np.ndarray,
        request: EditRequest | None = None,
        progress: Progress | None = None,
    ) -> EditResult:
        """Healthy tissue in place of the tumour. Features can't be asked for."""
        request = request or EditRequest()
        if request.features or request.donor is not None:
            raise InputError(
                "features can't be asked of healthy tissue: use synthesize to give a tumour another texture"
            )
        job = self._prepare(volume, mask, request, progress, request.grow)
        return self._finish("remove", job, self._removed(job))

    def move(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Progress | None = None
    ) -> EditResult:
        """The same tumour with its centre at `request.to`, healthy tissue where it was.

        The network makes a tumour of the same features in the new place; the old tumour's own voxels replace its inside,
        so that only the rim, which shares voxels with the surroundings, is new. The solver restores the features.
        """
        if request.to is None:
            raise InputError("say where to: the new centre of the tumour, x y z in LPS mm")
        first = self._prepare(volume, mask, request, progress)
        ct = suitability.is_ct(first.modality, self.bundle.json["intensity"][first.modality])
        moved, shift = moved_mask(volume, first.mask, request.to, ct, request.inside)
        own = self._texture_of(first.measure(), first.modality)
        first.asked = own | resolved(request.features)
        cleaned = volume.with_array(first.region.paste(self._removed(first)))
        second = replace(first, volume=cleaned, mask=moved, region=self._region(cleaned, moved))
        second.used = self._feasible(second) if request.features else dict(second.asked)
        carried = self._region(cleaned.with_array(_carried(volume, first.mask, cleaned, shift)), moved).native
        native = self._synthesized(second, lambda sample: _with_rim(second.region, carried, sample))
        return self._finish("move", second, native, first)

    def _prepare(self, volume, mask, request: EditRequest, progress: Progress | None, grow: float = 0.0) -> _Job:
        """Check everything that can be checked, cheapest first, and cut out the region of the mask, grown by mm."""
        clock, report = _Clock(), progress or (lambda stage, fraction: None)
        report("prepare", 0.0)
        with clock.stage("prepare"):
            check_image(volume)
            mask = grown(check_mask(mask, volume), volume.spacing, grow)
            storable(resolved(request.features), volume.array.dtype)
            modality, warnings = suitability.modality_of(self.bundle, request.modality, volume)
            warnings += suitability.check_fit(volume, mask, self.bundle)
            settings = self.bundle.settings(modality)
            region = self._region(volume, mask)
            hashing = ThreadPoolExecutor(
                1
            )  # beside the network: hashing a large image takes as long as a small edit
            origin = hashing.submit(provenance.fingerprint, volume, mask)
            hashing.shutdown(wait=False)
        return _Job(volume, mask, request, modality, region, settings, warnings, report, origin, clock)

    def _region(self, volume: Volume, mask: np.ndarray) -> Region:
        from TumorSynthLib.texture.network import MULTIPLE

        return Region.around(
            volume, mask, self.bundle.spacing, float(self.bundle.json["margin_mm"]), MULTIPLE
        )

    def _decide(self, job: _Job) -> None:
        """Fill in what is asked (features and donor) and the nearest request that a tumour can meet."""
        with job.clock.stage("request"):
            asked = {}
            if job.request.donor is not None:
                image, mask = job.request.donor
                asked = self._texture_of(
                    self.extract(image, mask, job.modality, TEXTURE_CLASSES), job.modality
                )
            job.asked = asked | resolved(job.request.features)
            job.used = self._feasible(job) if job.asked else {}

    def _texture_of(self, features: Mapping[str, float], modality: str) -> dict[str, float]:
        """Those of a tumour's features that make a request: the model knows them, and they don't follow the size."""
        kept, population = steerable(features)[0], self.population(modality)
        return {name: value for name, value in kept.items() if population is None or name in population.names}

    def _feasible(self, job: _Job) -> dict[str, float]:
        population = self.population(job.modality)
        names = population.names if population else ()
        known = {name: value for name, value in job.asked.items() if name in names}
        if not population or not known:
            return dict(job.asked)
        region = job.region
        voxel_volume = float(np.prod(region.spacing))
        feasible = population.project(known, voxels=int(region.mask.sum()), voxel_volume=voxel_volume)
        spread = self._spread(job.modality)
        moved = {n: (b - a) / max(spread[n], 1e-12) for n, (a, b) in feasible.changed.items()}
        large = sorted((n for n in moved if abs(moved[n]) > NOTED), key=lambda n: -abs(moved[n]))
        if large:
            job.warn(
                "no tumour has all of these features at once, so the nearest request is used: "
                + _listed([f"{_short(n)} {known[n]:.4g} → {feasible.features[n]:.4g}" for n in large])
            )
        if feasible.distance_percentile > UNUSUAL:
            job.warn(
                f"the request is farther from the middle of the training tumours than "
                f"{feasible.distance_percentile:.0f} % of them; most like it: {', '.join(feasible.nearest)}"
            )
        if not any(_short(n) in SPREADS for n in job.asked) and VARIANCE in population.names:
            job.implied = {VARIANCE: float(feasible.features[VARIANCE])}
        return job.asked | {name: float(feasible.features[name]) for name in known}

    def _removed(self, job: _Job) -> np.ndarray:
        """Native box with healthy tissue."""
        return self._to_native(job, self._sample(job, None, job.request.seed))

    def _synthesized(
        self, job: _Job, arrange: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
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

    def _sample(self, job: _Job, features: Mapping[str, float] | None, seed: int) -> np.ndarray:
        """One draw of the network on the working grid; on the CPU where the device's memory doesn't suffice."""
        with job.clock.stage("model"):
            job.report("model", 0.0)
            texture = self._load()
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
        }
        with job.clock.stage("texture"):
            try:
                return texture.sample(region.array, region.mask, job.modality, features, **options)
            except RuntimeError as error:
                if texture.device.type == "cpu" or "memory" not in str(error).lower():
                    raise
            job.warn(f"the memory of {texture.device} didn't suffice: the CPU was used")
            return self._load("cpu").sample(region.array, region.mask, job.modality, features, **options)

    def _load(self, device: str | None = None):
        """The texture model, on the editor's device, or from now on on another one."""
        if self._texture is None or device is not None:
            from TumorSynthLib.texture.generator import TextureModel

            self._texture = TextureModel.from_bundle(self.bundle, device or self.device)
        return self._texture

    def _to_native(self, job: _Job, sample: np.ndarray) -> np.ndarray:
        with job.clock.stage("paste"):
            return job.region.to_native(sample)

    def _error(self, job: _Job, native: np.ndarray) -> float:
        """Median difference from the request in population standard deviations, re-extracted exactly."""
        if not job.used:
            return 0.0
        with job.clock.stage("judge"):
            off = differences(job.used, job.measure(native, list(job.used)), self._spread(job.modality))
            return float(np.median(np.abs(list(off.values()))))

    def _spread(self, modality: str) -> dict[str, float]:
        population = self.population(modality)
        return {name: float(s) for name, s in zip(population.names, population.std)} if population else {}

    def _solved(self, job: _Job, sample: np.ndarray, native: np.ndarray) -> np.ndarray:
        """Native box of the solved sample.

        Texture can need another spread of intensities than the drawn tumour has. Where the spread is free and the first
        attempt misses, a second one asks for the spread that the population has with these features.
        """
        with job.clock.stage("solve"):
            result = self._solve(job, sample, job.used)
            if job.implied and self._worst(job, result.reached) > REACHED:
                second = self._solve(job, sample, job.used | job.implied)
                if self._worst(job, second.reached) < self._worst(job, result.reached):
                    result = second
        if result.native is not None:
            return result.native
        box = bounding_box(job.region.mask)
        native = native.copy()
        native[box] = np.where(job.region.native_mask[box], result.array, native[box])
        return native

    def _solve(self, job: _Job, sample: np.ndarray, asked: Mapping[str, float]):
        from TumorSynthLib.texture.solver import solve

        region = job.region
        resampled = region.operators is not None
        # Without resampling only the mask's box matters, which spares the solver the surroundings.
        box = tuple(slice(None) for _ in range(3)) if resampled else bounding_box(region.mask)
        return solve(
            sample[box], region.mask[box], asked, self.population(job.modality), job.settings,
            spacing=region.spacing, region=region if resampled else None, seed=job.request.seed,
            integer=np.issubdtype(job.volume.array.dtype, np.integer), progress=lambda s, f: job.report("solve", f),
        )  # fmt: skip

    def _worst(self, job: _Job, reached: Mapping[str, float]) -> float:
        """Largest difference from the request in population standard deviations."""
        return max(map(abs, differences(job.used, reached, self._spread(job.modality)).values()), default=0.0)

    def _finish(self, edit: str, job: _Job, native: np.ndarray, moved_from: _Job | None = None) -> EditResult:
        """Paste, measure what was reached, and say what was done."""
        source = moved_from or job
        job.report("measure", 0.0)
        with job.clock.stage("paste"):
            array = job.region.paste(native)
            patch = job.region.patch(native) if moved_from is None else _joint_patch(source, job, array)
        with job.clock.stage("measure"):
            before, reached = source.measure(), job.measure(native)
        self._judge(job, reached)
        volume = job.volume.with_array(array)
        result = EditResult(
            volume, job.mask, patch, job.asked, job.used, reached, before, job.clock.done(), {}, tuple(job.warnings),
            self._spread(job.modality),
        )  # fmt: skip
        job.report("measure", 1.0)
        return replace(result, provenance=self._provenance(edit, source, result))

    def _judge(self, job: _Job, reached: dict[str, float]) -> None:
        """Warn of asked features that weren't reached."""
        off = differences(job.used, reached, self._spread(job.modality)) if job.used else {}
        far = sorted((n for n in off if abs(off[n]) > REACHED), key=lambda n: -abs(off[n]))
        if far and job.request.solve:
            shown = _listed([f"{_short(n)} by {off[n]:+.1f} σ" for n in far])
            job.warn(f"{len(far)} of {len(off)} asked features were not reached: {shown}")

    def _provenance(self, edit: str, source: _Job, result: EditResult) -> dict[str, Any]:
        return provenance.record(
            edit, self.bundle, source, result, device=str(self._load().device), origin=source.origin.result()
        )


def _features(region: Region, native: np.ndarray, settings: Settings, classes) -> dict[str, float]:
    """Exact features of a native box, as an extraction of the stored file finds them."""
    values = region.measure(native, as_stored=True)
    dtype = region.volume.array.dtype
    values = values.astype(np.int64 if np.issubdtype(dtype, np.integer) else np.float64)
    return extract(values, region.mask, region.spacing, settings, classes)


def _short(name: str) -> str:
    return name.removeprefix("original_")


def _listed(parts: list[str], shown: int = 4) -> str:
    """The first few of a list, in words."""
    return ", ".join(parts[:shown]) + (f" and {len(parts) - shown} more" if len(parts) > shown else "")


def _carried(volume: Volume, mask: np.ndarray, cleaned: Volume, shift) -> np.ndarray:
    """The cleaned image with the tumour's own voxels at their new place, sharp-edged."""
    box = bounding_box(mask)
    target = tuple(slice(s.start + d, s.stop + d) for s, d in zip(box, shift))
    array = cleaned.array.copy()
    array[target][mask[box]] = volume.array[box][mask[box]]
    return array


def _with_rim(region: Region, carried: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Working-grid sample whose inside is the carried tumour's (native box), blended towards the border of the mask."""
    from scipy import ndimage

    native_mm = region.frame.take(region.volume.spacing[::-1])
    depth = ndimage.distance_transform_edt(np.pad(region.native_mask, 1), native_mm)[1:-1, 1:-1, 1:-1]
    weight = np.clip(depth / (RIM_VOXELS * min(native_mm[1:])), 0.0, 1.0)
    blend = weight * carried + (1 - weight) * region.to_native(sample)
    working = region.measure(blend.astype(np.float32))
    return np.where(region.mask, working, region.array).astype(np.float32)


def _joint_patch(first: _Job, second: _Job, array: np.ndarray) -> Patch:
    """One patch for the old place and the new one."""
    boxes = [bounding_box(first.mask), bounding_box(second.mask)]
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*boxes))
    return Patch(box, first.volume.array[box].copy(), array[box].copy())


__all__ = ["Editor", "EditRequest", "EditResult"]

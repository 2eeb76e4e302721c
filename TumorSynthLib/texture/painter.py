"""The engine "bridge": the network's samples, and the solver on top of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from TumorSynthLib.edit.case import Case, measured
from TumorSynthLib.edit.edits import names
from TumorSynthLib.edit.features import STEERABLE
from TumorSynthLib.edit.miss import REACHED, Miss
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.edit.plan import Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.models import Bundle
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.radiomics.table import FEATURES
from TumorSynthLib.region import Region
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.blend import carried, with_rim
from TumorSynthLib.texture.engine import Draft
from TumorSynthLib.threads import needing_torch, threads_now
from TumorSynthLib.volume import Volume

NEARLY = 1.3  # times that, from where last touches can bring a request there


@dataclass(frozen=True, eq=False)
class Drawing:
    """What the network and the solver are told of one draw; what happens in it is added to its two lists.

    :param short: where it was drawn instead, once the device's memory didn't suffice.
    """

    case: Case
    plan: Plan
    region: Region
    seed: int
    clock: Progress
    warnings: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)

    @property
    def request(self) -> EditRequest:
        return self.plan.request

    @property
    def volume(self) -> Volume:
        return self.case.volume

    @property
    def modality(self) -> str:
        return self.case.modality

    @property
    def settings(self) -> Settings:
        return self.case.settings

    @property
    def others(self) -> Mapping[str, np.ndarray]:
        return self.case.others

    @property
    def used(self) -> Mapping[str, float]:
        return self.plan.used

    @property
    def implied(self) -> Mapping[str, float]:
        return self.plan.implied

    @property
    def report(self) -> Progress:
        return self.clock

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


class Painter:
    """The engine "bridge": draws tumours and healthy tissue with one model, which is loaded once, at the first drawing.

    :param device: auto, cpu, cuda or mps.
    :param parent: painter of another region of the same model, whose network is used.
    """

    name, edits, needs_bundle = "bridge", names(changes=True), True

    def __init__(self, bundle: Bundle, device: str, parent: Any = None):
        self.bundle, self.device, self.parent = bundle, device, parent
        self.texture: Any = None
        self._spare: Any = None
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

    def knows(self, feature: str) -> bool:
        """Whether it can be asked for a feature; the solver reaches those that the network doesn't know."""
        return FEATURES[feature].cls in STEERABLE

    def draw(self, case: Case, plan: Plan, seed: int, progress: Progress) -> Draft:
        """Healthy tissue in the plan's hole, or the asked tumour in its target."""
        mask = plan.hole if plan.target is None else plan.target
        region = case.source if mask is case.mask and case.before is None else case.region(mask)
        drawing = Drawing(case, plan, region, seed, progress)
        if plan.target is None:
            native = self.removed(drawing)
        else:
            native = self.synthesized(drawing, self._own_voxels(case, plan, region))
        with progress.stage("paste"):
            patch = region.patch(native)
        reached = {}
        if plan.target is not None or plan.edit == "remove":
            progress("measure", 0.0)
            with progress.stage("measure"):
                reached = measured(region, native, case.settings, TEXTURE_CLASSES)
        where = drawing.short[0] if drawing.short else self.where
        return Draft(patch, mask, reached, where, tuple(drawing.warnings), facts={"threads": threads_now()})

    @staticmethod
    def _own_voxels(case: Case, plan: Plan, region: Region) -> Callable[[np.ndarray], np.ndarray] | None:
        """Puts a moved tumour's own voxels into a drawn sample, all but its rim; None where they aren't kept."""
        if plan.texture_from != "own" or plan.shift is None or case.before is None:
            return None
        volume = case.volume.with_array(carried(case.before, case.mask, case.volume, plan.shift))
        native = case.in_image(volume).region(plan.target).native
        return lambda sample: with_rim(region, native, sample)

    def removed(self, job: Drawing) -> np.ndarray:
        """Native box with healthy tissue.

        On another grid than the model's, what continues the surroundings is made in the image's own voxels, and only what
        the network adds to it is resampled: twice interpolated surroundings would fit less well. Between thick slices the
        model's grid interpolates better.
        """
        sample, region = self._sample(job, None, job.seed), job.region
        if region.operators is None or region.thick:
            return self._to_native(job, sample, False)
        texture = self.load()
        with job.clock.stage("paste"):
            added = sample - texture.continued(region.array, region.mask, job.modality, region.valid)
            own = texture.continued(
                region.native, region.native_mask, job.modality, spacing=region.native_spacing
            )
            return region.added(own, added)

    def synthesized(
        self, job: Drawing, arrange: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        """Native box with the best of the drawn tumours, solved if that is wanted.

        :param arrange: changes a drawn (D, H, W) sample before it is judged.
        """
        best, best_error = None, np.inf
        for i in range(job.request.samples):
            sample = self._sample(job, job.used, job.seed + i)
            sample = arrange(sample) if arrange else sample
            native = self._to_native(job, sample)
            error = self._error(job, native) if job.request.samples > 1 else 0.0
            if error < best_error or best is None:
                best, best_error = (sample, native), error
        if job.request.solve and job.used:
            return self._solved(job, *best)
        return best[1]

    def _sample(self, job: Drawing, features: Mapping[str, float] | None, seed: int) -> np.ndarray:
        """One draw of the network on the working grid; on the CPU where the device's memory doesn't suffice."""
        with job.clock.stage("model"):
            job.report("model", 0.0)
            texture = self.load()
        unknown = [name for name in features or {} if name not in texture.features]
        if unknown and not job.request.solve:
            names = ", ".join(unknown[:5])
            job.warn(
                f"the model's network wasn't trained with {names}: without the solver nothing brings it there"
            )
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
            job.warn(
                f"the memory of {texture.device} didn't suffice: this edit was done on the CPU, which is slower"
            )
            job.short.append("cpu")
            return self.spare().sample(region.array, region.mask, job.modality, features, **options)

    def load(self):
        """The texture model, on the editor's device."""
        if self.parent is not None:
            return self.parent.load()
        if self.texture is None:
            self.texture = self._loaded(self.device)
        return self.texture

    def spare(self):
        """The texture model on the CPU, for an edit that the device's memory doesn't suffice for; the next one tries again."""
        if self.parent is not None:
            return self.parent.spare()
        if self._spare is None:
            self._spare = self._loaded("cpu")
        return self._spare

    def _loaded(self, device: str):
        with needing_torch("drawing with a model's network"):
            from TumorSynthLib.texture.generator import TextureModel

        return TextureModel.from_bundle(self.bundle, device)

    def _to_native(self, job: Drawing, sample: np.ndarray, tumour: bool = True) -> np.ndarray:
        region = job.region
        with job.clock.stage("paste"):
            native = region.to_native(sample)
            band = (
                region.native_band
                if tumour and self.load().in_band and region.operators is not None
                else None
            )
            return native if band is None else band.held(native, region.native_mask)

    def _error(self, job: Drawing, native: np.ndarray) -> float:
        """Median difference from the request in population standard deviations, re-extracted exactly."""
        if not job.used:
            return 0.0
        with job.clock.stage("judge"):
            found = measured(job.region, native, job.settings, list(job.used))
            return Miss.of(job.used, found, self.spread(job.modality)).median

    def spread(self, modality: str) -> dict[str, float]:
        population = self.population(modality)
        return {name: float(s) for name, s in zip(population.names, population.std)} if population else {}

    def _solved(self, job: Drawing, sample: np.ndarray, native: np.ndarray) -> np.ndarray:
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
            if job.implied and self._miss(job, result.reached).worst > REACHED:
                second = self._solve(job, sample, {**job.used, **job.implied})
                if self._miss(job, second.reached).worst < self._miss(job, result.reached).worst:
                    result = second
            nearly = self._miss(job, result.reached).seen <= NEARLY * REACHED
            result = self._touched(job, sample, result) if nearly else result
            if self._miss(job, result.reached).seen > REACHED:
                free = self._solve(job, sample, job.used, in_band=False)
                if self._miss(job, free.reached).seen < self._miss(job, result.reached).seen:
                    result, nearly = free, False
            result = result if nearly else self._touched(job, sample, result)
        if result.native is not None:
            return result.native
        box = bounding_box(job.region.mask)
        native = native.copy()
        native[box] = np.where(job.region.native_mask[box], result.array[box], native[box])
        return native

    def _solve(self, job: Drawing, sample: np.ndarray, asked: Mapping[str, float], in_band: bool = True):
        """A solve without last touches."""
        from TumorSynthLib.texture.solver import solve

        case, more = self._case(job, sample)
        band = job.region.band if in_band and self.load().in_band else None
        return solve(
            *case[:2], asked, *case[2:], **more, band=band, touch=False, progress=lambda s, f: job.report("solve", f)
        )  # fmt: skip

    def _touched(self, job: Drawing, sample: np.ndarray, solved):
        from TumorSynthLib.texture.solver import touched

        case, more = self._case(job, sample)
        return touched(solved, *case, **more)

    def _case(self, job: Drawing, sample: np.ndarray) -> tuple[tuple, dict[str, Any]]:
        """What the solver is told of a tumour."""
        from TumorSynthLib.texture.request import bounds_of

        region, kind, population = job.region, job.volume.array.dtype, self.population(job.modality)
        more = {
            "spacing": region.spacing,
            "region": region if region.operators is not None else None,
            "seed": job.seed,
            "integer": np.issubdtype(kind, np.integer),
            "bounds": bounds_of(population, kind),
        }
        return (sample, region.mask, population, job.settings), more

    def _miss(self, job: Drawing, reached: Mapping[str, float]) -> Miss:
        return Miss.of(job.used, reached, self.spread(job.modality))

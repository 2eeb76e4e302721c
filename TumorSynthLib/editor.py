"""The one door to every edit: measure, synthesize, remove, retexture, reshape, move and insert a tumour, series.

    editor = Editor("lung-nodule-ct")
    result = editor.synthesize(volume, mask, EditRequest(features={"contrast": 12.0, "mean_intensity": -40.0}, seed=3))
    write_volume(result.volume, "edited.nii.gz")

Masks are (K, J, I) bool on the grid of their `Volume`. Models that paint several regions take a labelmap instead, and
`EditRequest.region` says which of them. Nothing outside the mask changes, unless it is to grow or to push tissue aside. Each
method checks its input before any heavy work and raises `InputError` or `ModelError`; a progress callback that raises `Cancelled`
stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from TumorSynthLib import provenance, series, suitability
from TumorSynthLib.carrying import Arrange, carried, joint_patch, with_rim
from TumorSynthLib.deformation import push, warped
from TumorSynthLib.drawing import REACHED, Painter
from TumorSynthLib.edit.features import resolved, split, storable
from TumorSynthLib.edit.options import EditRequest, check_used
from TumorSynthLib.edit.result import EditResult, ShapeResult, differences
from TumorSynthLib.errors import InputError
from TumorSynthLib.job import Clock, Job, Progress, listed, measured, short
from TumorSynthLib.models import Bundle, find
from TumorSynthLib.painted import parts
from TumorSynthLib.placement import Part, centre_of_mass, grown, moved_mask, placed, window_of
from TumorSynthLib.preparing import around, hashed, in_hounsfield, open_job, prepared, region_of
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.table import FEATURES
from TumorSynthLib.region import Frame, Region, quantise
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.shaping import Form, Shaper, check_room, measured_shape, with_core
from TumorSynthLib.volume import Volume, check_image, check_mask


class Editor:
    """Edits with one model, which is loaded once, at the first edit.

    :param model: id of a model, folder of a bundle, or a `Bundle`.
    :param device: auto, cpu, cuda or mps.
    :raises ModelError: there is no such model, or it is damaged.
    """

    def __init__(self, model: str | Bundle, device: str = "auto"):
        self.bundle = model if isinstance(model, Bundle) else find(model)
        self._painter = Painter(self.bundle, device)
        self._shaper = Shaper(self.bundle, device)
        self._regions: dict[str, Editor] = {}

    @property
    def several(self) -> bool:
        """Whether the model paints several regions, and this editor isn't that of one of them."""
        return len(self.bundle.regions) > 1 and self.bundle.painted is None

    def painting(self, region: str | None) -> Editor:
        """The editor of one of the model's regions, with the same network; itself where the model has only one.

        :raises InputError: there is no such region, or there are several and none is named.
        """
        chosen = self.bundle.region(region)
        if not self.several:
            return self
        if chosen.name not in self._regions:
            editor = Editor(self.bundle.painting(chosen.name), self._painter.device)
            editor._painter.parent = self._painter
            self._regions[chosen.name] = editor
        return self._regions[chosen.name]

    def modality(
        self, volume: Volume, wanted: str | None = None, warn: Callable[[str], None] | None = None
    ) -> str:
        """The model's modality that an image has. Raises InputError where it has none of them.

        :param warn: takes a sentence where the header or the intensities leave doubts.
        """
        modality, doubts = suitability.modality_of(self.bundle, wanted, volume)
        for text in doubts if warn else ():
            warn(text)
        return modality

    def population(self, modality: str) -> Population | None:
        """Features of the model's training tumours; None where the model has none for the modality."""
        return self._painter.population(modality)

    def load(self):
        """The texture model, loaded if it isn't yet."""
        return self._painter.load()

    def estimate(self, volume: Volume, mask: np.ndarray, steps: int | None = None) -> dict[str, float]:
        """Rough seconds and bytes of an edit on a CPU, before it is run."""
        return suitability.estimate(volume, check_mask(mask, volume), self.bundle, steps)

    def extract(
        self,
        volume: Volume,
        mask: np.ndarray,
        modality: str | None = None,
        classes=None,
        region: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> dict[str, float]:
        """Features on the model's grid with its settings, equal to pyradiomics' with `models params`.

        :param classes: see `radiomics.extract.extract`; None is all.
        :param region: of a labelmap, where the model paints several; None is all of them together.
        :param warn: takes a sentence where the region has one grey level.
        """
        check_image(volume)
        mask = check_mask(parts(self.bundle, mask, region)[0], volume)
        modality = self.modality(volume, modality)
        region = Region.around(volume, mask, self.bundle.spacing)
        return measured(region, region.native, self.bundle.settings(modality), classes, warn)

    def synthesize(
        self,
        volume: Volume,
        mask: np.ndarray,
        request: EditRequest | None = None,
        progress: Progress | None = None,
    ) -> EditResult:
        """A tumour in the mask, with the asked features; those not asked for are free, all of them without any."""
        request = request or EditRequest()
        check_used("synthesize", request)
        if self.several:
            return self.painting(request.region).synthesize(volume, mask, request, progress)
        return self._retextured(prepared(self.bundle, volume, mask, request, progress, copy=True))

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
        """Healthy tissue in place of the tumour, with all its regions where none is named. Features can't be asked for."""
        request = request or EditRequest()
        if self.several:
            region = request.region or self.bundle.regions[0].name
            return self.painting(region).remove(volume, mask, request, progress)
        if request.features or request.donor is not None:
            raise InputError(
                "features can't be asked of healthy tissue: use synthesize to give a tumour another texture"
            )
        check_used("remove", request)
        job = prepared(self.bundle, volume, mask, request, progress, request.grow, copy=True)
        return self._finish("remove", job, self._painter.removed(job))

    def move(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Progress | None = None
    ) -> EditResult:
        """The same tumour with its centre at `request.to`, healthy tissue where it was.

        The network makes a tumour of the same features in the new place; the old tumour's own voxels replace its inside,
        so that only the rim, which shares voxels with the surroundings, is new. The solver restores the features. With
        shape features it is a `reshape` at another place.
        """
        if request.to is None:
            raise InputError("say where to: the new centre of the tumour, x y z in LPS mm")
        check_used("move", request)
        return self._replanted("move", prepared(self.bundle, volume, mask, request, progress))

    def reshape(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Progress | None = None
    ) -> EditResult:
        """The tumour with another shape at the same place, or with its centre of mass at `request.to`.

        The old tumour is removed first. Shape features that aren't asked for stay as they are. The texture's features are
        the old tumour's, where they don't follow the size, or those of a donor; single ones can be asked for.
        """
        if not split(request.features)[1]:
            raise InputError(
                "say which shape: at least one shape feature, e.g. volume_ml, sphericity or elongation"
            )
        check_used("reshape", request)
        return self._replanted("reshape", prepared(self.bundle, volume, mask, request, progress))

    def insert(self, volume: Volume, request: EditRequest, progress: Progress | None = None) -> EditResult:
        """A new tumour with its centre of mass at `request.at`. What isn't asked of its shape and texture is drawn as in the
        model's population; `before` are the features of the healthy tissue there."""
        if request.at is None:
            raise InputError("say where: the centre of the new tumour, x y z in LPS mm (at)")
        check_used("insert", request)
        job = open_job(self.bundle, volume, request, progress)
        origin = hashed(volume, np.zeros(volume.array.shape, bool))
        part, form, warnings = self._drawn(job, _lps_spacing(volume))
        new, note = placed(
            volume, part, request.at, in_hounsfield(self.bundle, job), request.inside, nearest=request.nearest
        )
        job = replace(around(self.bundle, job, new), origin=origin, form=form)
        job.warn(*warnings, note)
        texture = split(request.features)[0]
        job.asked = self._painter.edited(self._donated(job, new), texture, job.modality)
        return self._planted("insert", job, volume, new, bool(job.asked))

    def series(
        self,
        volume: Volume,
        mask: np.ndarray,
        feature: str,
        values: Sequence[float | str],
        request: EditRequest | None = None,
        progress: Progress | None = None,
    ) -> tuple[EditResult, ...]:
        """The tumour with several values of one feature, of its shape or its texture.

        Each result is a `reshape` or `synthesize` of its own, which can be repeated alone. `provenance["series"]` says
        feature, value and step. Before each step the callback hears "step" and the fraction of those done.

        :param values: numbers in the feature's unit, or multiples of the tumour's own value such as "0.5x".
        :param request: further features that all steps share; else a texture series keeps the mean intensity.
        """
        request = request or EditRequest()
        name = series.checked(feature, values)
        form = FEATURES[name].cls == "shape"
        check_used("series", request)
        if not (form or split(request.features)[1]):
            check_used("synthesize", request, f"a series of {feature}, which keeps the tumour's shape,")
        job = prepared(self.bundle, volume, mask, request, progress)
        own = job.measure() | measured_shape(Frame.of(volume.direction).view(job.mask), _lps_spacing(volume))
        numbers = series.absolute(feature, values, own)
        jobs = []
        for number in numbers:
            asked = dict(request.features or {})
            asked = (
                {**asked, feature: number}
                if form
                else series.step_features(name, feature, number, asked, own[series.MEAN])
            )
            storable(split(asked)[0], volume.array.dtype)
            check_room(split(asked)[1], tuple(n * s for n, s in zip(volume.size, volume.spacing)))
            jobs.append(job.again(replace(request, features=asked)))
        drawn = (
            self._series_shapes(jobs)
            if form or any(split(j.request.features)[1] for j in jobs)
            else [None] * len(jobs)
        )
        results = []
        for i, (step, shape) in enumerate(zip(jobs, drawn)):
            job.report("step", i / len(jobs))
            step.clock.resume()
            result = self._replanted("reshape", step, shape) if shape else self._retextured(step)
            entry = {
                "feature": name,
                "value": numbers[i],
                "named": feature,
                "step": i + 1,
                "steps": len(jobs),
            }
            results.append(replace(result, provenance=result.provenance | {"series": entry}))
        return tuple(results)

    def _series_shapes(self, jobs: list[Job]) -> list[tuple[Part, Form, list[str]]]:
        """The shapes of all steps; the jobs then share a region that holds all of them."""
        first, drawn = jobs[0], [self._reshaped(job) for job in jobs]
        window = window_of(
            first.volume, grown(first.mask, first.volume.spacing, first.request.grow), [d[0] for d in drawn]
        )
        region = region_of(self.bundle, first.volume, first.mask, replace(first.request, window=window))
        for job in jobs:
            job.request, job.region = replace(job.request, window=window), region
        return drawn

    def _retextured(self, job: Job) -> EditResult:
        self._decide(job)
        return self._finish("synthesize", job, self._painter.synthesized(job))

    def shape(
        self,
        request: EditRequest | None = None,
        spacing: tuple[float, float, float] | None = None,
        like: Volume | None = None,
        progress: Progress | None = None,
    ) -> ShapeResult:
        """A mask alone; with `request.core` a labelmap, 1 the rim and 2 the core within it.

        :param spacing: (x, y, z) mm of its grid; None is the model's. The centre of mass lies at `request.at`, or at 0.
        :param like: image whose grid the mask gets; it is then put at `request.at`, which is checked as in `insert`.
        """
        request, clock = request or EditRequest(), Clock()
        if split(request.features)[0] or request.donor is not None:
            raise InputError("a mask has no texture: ask for shape features only, or use insert")
        check_used("shape", request)
        if like is not None:
            if request.at is None:
                raise InputError("say where on the image: the centre of the tumour, x y z in LPS mm (at)")
            job = open_job(self.bundle, like, request, progress)
            part, form, warnings = self._drawn(job, _lps_spacing(like))
            mask, note = placed(
                like,
                part,
                request.at,
                in_hounsfield(self.bundle, job),
                request.inside,
                nearest=request.nearest,
            )
            grid, warnings = like.with_array(mask.astype(np.uint8)), [*warnings, *([note] if note else [])]
        else:
            job = Job.without_image(request, progress)
            part, form, warnings = self._drawn(job, spacing or self.bundle.spacing)
            grid = _alone(part, spacing or self.bundle.spacing, request.at)
        result = ShapeResult(
            with_core(grid, request.core, request.seed),
            grid.array > 0,
            form.asked,
            form.used,
            form.reached,
            clock.done(),
            {},
            tuple(warnings),
            self._shaper.spread(),
        )
        return replace(result, provenance=provenance.of_shape(self.bundle, request, result))

    def _decide(self, job: Job) -> None:
        """Fill in what is asked (features and donor) and the nearest request that a tumour can meet."""
        with job.clock.stage("request"):
            own = self._donated(job, job.mask)
            job.asked = self._painter.edited(own, resolved(job.request.features), job.modality)
            job.used = self._painter.feasible(job) if job.asked else {}

    def _donated(self, job: Job, new: np.ndarray) -> dict[str, float]:
        """The donor's texture as a request for a new mask: as a tumour of its size would have it."""
        if job.request.donor is None:
            return {}
        image, mask = job.request.donor
        found = self.extract(image, mask, job.modality, TEXTURE_CLASSES, job.request.region)
        own = parts(self.bundle, mask, job.request.region)[0] > 0
        sizes = image.volume_of(own), job.volume.volume_of(new)
        return self._painter.texture_of(found, job.modality, *sizes)

    def _drawn(self, job: Job, spacing) -> tuple[Part, Form, list[str]]:
        with job.clock.stage("shape"):
            asked = split(job.request.features)[1]
            return self._shaper.draw(
                asked, spacing, job.request.seed, job.request.solve, lambda done: job.report("shape", done)
            )

    def _reshaped(self, job: Job) -> tuple[Part, Form, list[str]]:
        """The tumour of a job with the asked shape features."""
        volume = job.volume
        with job.clock.stage("shape"):
            part = Part.of(Frame.of(volume.direction).view(job.mask))
            shape = split(job.request.features)[1]
            return self._shaper.reshape(
                part, shape, _lps_spacing(volume), job.request.seed, lambda done: job.report("shape", done)
            )

    def _replanted(
        self, edit: str, job: Job, drawn: tuple[Part, Form, list[str]] | None = None
    ) -> EditResult:
        """The tumour of a job with another shape, at another place, or both.

        :param drawn: the new shape, where it is there already.
        """
        request, volume = job.request, job.volume
        texture, shape = split(request.features)
        options = {
            "ct": in_hounsfield(self.bundle, job),
            "inside": request.inside,
            "nearest": request.nearest,
        }
        arrange = shift = None
        if shape:
            part, job.form, warnings = drawn or self._reshaped(job)
            job.warn(*warnings)
            to = request.to if request.to is not None else centre_of_mass(volume, job.mask)
            new, note = placed(volume, part, to, also=job.mask, **options)
        else:
            new, shift, note = moved_mask(volume, job.mask, request.to, **options)
        job.warn(note)
        sizes = volume.volume_of(job.mask), volume.volume_of(new)
        own = self._painter.texture_of(job.measure(), job.modality, *sizes) | self._donated(job, new)
        job.asked = self._painter.edited(own, texture, job.modality)
        cleared = self._cleared(job, new)
        # Where all features are asked for, as a donor's are when its edit is repeated, nothing of the old texture stays.
        if not shape and request.donor is None and not own.keys() <= texture.keys():
            arrange = self._keeping(job, cleared, new, shift)
        return self._planted(edit, job, cleared, new, bool(texture or request.donor), arrange)

    def _keeping(self, job: Job, cleared: Volume, new: np.ndarray, shift) -> Arrange:
        """Puts the tumour's own voxels into a drawn sample of the moved one, all but its rim."""
        volume = cleared.with_array(carried(job.volume, job.mask, cleared, shift))
        native = region_of(self.bundle, volume, new, job.request).native
        return lambda region, sample: with_rim(region, native, sample)

    def _cleared(self, job: Job, new: np.ndarray) -> Volume:
        """The image without the old tumour, where the new one doesn't cover it anyway."""
        hole = grown(job.mask, job.volume.spacing, job.request.grow)
        job.boxes.append(bounding_box(hole))
        if not job.request.mass_effect and not (hole & ~new).any():
            return job.volume
        if hole is not job.mask:
            job = replace(job, mask=hole, region=region_of(self.bundle, job.volume, hole, job.request))
        return job.volume.with_array(job.region.paste(self._painter.removed(job)))

    def _planted(
        self,
        edit: str,
        source: Job,
        volume: Volume,
        new: np.ndarray,
        feasible: bool,
        arrange: Arrange | None = None,
    ) -> EditResult:
        """A tumour in a new mask of an image that has been cleared for it.

        :param feasible: the asked texture isn't one tumour's own: find the nearest that a tumour can have.
        """
        if source.request.mass_effect:
            volume = self._with_room(source, volume, new)
        job = around(self.bundle, replace(source, volume=volume), new)
        with job.clock.stage("request"):
            job.used = self._painter.feasible(job) if feasible else dict(job.asked)
        draw = (lambda sample: arrange(job.region, sample)) if arrange else None
        job.boxes.append(bounding_box(new))
        return self._finish(edit, job, self._painter.synthesized(job, draw), source)

    def _with_room(self, job: Job, volume: Volume, new: np.ndarray) -> Volume:
        """The image whose tissue has made room for the new mask: pushed aside, or drawn in where the old one was larger."""
        margin, frame = float(job.request.mass_effect), Frame.of(volume.direction)
        spacing = frame.take(volume.spacing[::-1])
        grows = job.form is not None and job.form.before and job.request.to is None
        with job.clock.stage("mass effect"):
            job.report("mass effect", 0.0)
            view = frame.view(new)
            motion = push(view.shape, spacing, view, frame.view(job.mask) if grows else None, margin)
            array, box = warped(volume.array, frame, spacing, motion)
        job.boxes.append(box)
        job.notes["mass_effect"] = motion.facts()
        return volume.with_array(quantise(array, volume.array.dtype))

    def _finish(self, edit: str, job: Job, native: np.ndarray, source: Job | None = None) -> EditResult:
        """Paste, measure what was reached, and say what was done.

        :param source: the edit before the tissue around was changed.
        """
        source = source or job
        job.report("measure", 0.0)
        with job.clock.stage("paste"):
            array = job.pasted(native)
            patch = joint_patch(source, array) if job.boxes else job.region.patch(native)
        with job.clock.stage("measure"):
            before, reached = source.measure(), job.measure(native)
        spread = self._painter.spread(job.modality)
        self._judge(job, reached, spread)
        asked, used = job.asked, job.used
        if job.form is not None:
            spread = spread | self._shaper.spread()
            asked, used = job.form.asked | asked, job.form.used | used
            before, reached = job.form.before | before, job.form.reached | reached
        result = EditResult(
            job.volume.with_array(array), job.mask, patch, asked, used, reached, before, job.clock.done(), {},
            tuple(job.warnings), spread,
        )  # fmt: skip
        job.report("measure", 1.0)
        record = provenance.record(
            edit, self.bundle, source, result, device=self._painter.where, origin=source.origin.result()
        )
        return replace(result, provenance=record | job.notes)

    def _judge(self, job: Job, reached: dict[str, float], spread: Mapping[str, float]) -> None:
        """Warn of asked features that weren't reached."""
        off = differences(job.used, reached, spread) if job.used else {}
        far = sorted((n for n in off if abs(off[n]) > REACHED), key=lambda n: -abs(off[n]))
        if far and job.request.solve:
            shown = listed([f"{short(n)} by {off[n]:+.1f} σ" for n in far])
            job.warn(f"{len(far)} of {len(off)} asked features were not reached: {shown}")


def _lps_spacing(volume: Volume) -> tuple[float, float, float]:
    """(x, y, z) mm in LPS order."""
    return tuple(float(s) for s in Frame.of(volume.direction).take(volume.spacing[::-1])[::-1])


def _alone(part: Part, spacing, at) -> Volume:
    """A mask as an image of its own, with its centre of mass at a point (x, y, z) LPS mm."""
    array = np.pad(part.mask, 1).astype(np.uint8)
    origin = np.asarray(at if at is not None else (0.0, 0.0, 0.0)) - (part.centre[::-1] + 1) * np.asarray(
        spacing
    )
    return Volume(array, tuple(map(float, spacing)), tuple(map(float, origin)))


__all__ = ["Editor", "EditRequest", "EditResult", "ShapeResult"]

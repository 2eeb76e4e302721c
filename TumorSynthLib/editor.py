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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from TumorSynthLib import provenance, series, suitability
from TumorSynthLib.edit.bank import Bank, Lender
from TumorSynthLib.edit.case import Case, measured, open_case
from TumorSynthLib.edit.choose import suited
from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.features import resolved, split, storable
from TumorSynthLib.edit.lending import lender_of, room_of
from TumorSynthLib.edit.miss import MEDIAN_FROM_FEATURES, NEARLY_OWN, Miss
from TumorSynthLib.edit.options import EditRequest, check_used
from TumorSynthLib.edit.plan import (
    Drawn,
    Plan,
    choose_engine,
    of_existing,
    plan_insert,
    plan_planted,
    plan_remove,
    plan_synthesize,
)
from TumorSynthLib.edit.progress import Progress, Report
from TumorSynthLib.edit.result import EditResult, ShapeResult
from TumorSynthLib.edit.wish import Wish, nearest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import Bundle, find
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.models.parts import draws
from TumorSynthLib.painted import parts
from TumorSynthLib.placement import NoPlace, Part, grown, placed, window_of
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract_image
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.radiomics.table import FEATURES, resolve
from TumorSynthLib.region import Frame, Region
from TumorSynthLib.shaping import Form, Shaper, check_room, measured_shape, on_grid, with_core
from TumorSynthLib.texture import pipeline
from TumorSynthLib.texture.engine import Engine, make_engine
from TumorSynthLib.texture.exemplar.sliders import reachable
from TumorSynthLib.volume import Volume, check_image, check_mask

SMALLER = (1.0, 0.8, 0.6, 0.4)
"""Factors of the lengths of a bank's tumour that are tried in turn where it fits nowhere, and no size is asked."""


class Editor:
    """Edits with one model, which is loaded once, at the first edit.

    :param model: id of a model, folder of a bundle, or a `Bundle`; None removes without one, in any organ and modality.
    :param device: auto, cpu, cuda or mps.
    :param settings: of the extraction without a model; None is pyradiomics' defaults on the image's grid.
    :raises ModelError: there is no such model, or it is damaged.
    """

    def __init__(self, model: str | Bundle | None, device: str = "auto", settings: Settings | None = None):
        self.bundle = model if model is None or isinstance(model, Bundle) else find(model)
        self.settings = settings
        self.device = device
        self._engines: dict[str, Engine] = {}
        self._populations: dict[str, Population | None] = {}
        self._shaper = Shaper(self.bundle, device)
        self._regions: dict[str, Editor] = {}

    @classmethod
    def auto(
        cls, volume: Volume, mask: np.ndarray | None = None, texts: Sequence[str] = (), modality: str | None = None,
        device: str = "auto",
    ) -> Editor:  # fmt: skip
        """An editor with the installed model that suits a tumour, or without one; `edit.choose.suited` says why.

        :param mask: (K, J, I) bool. :param texts: what is said of image and tumour, e.g. "liver".
        """
        return cls(suited(volume, mask, texts, modality).model_id or None, device)

    @property
    def several(self) -> bool:
        """Whether the model paints several regions, and this editor isn't that of one of them."""
        return self.bundle is not None and len(self.bundle.regions) > 1 and self.bundle.painted is None

    def painting(self, region: str | None) -> Editor:
        """The editor of one of the model's regions, with the same network; itself where the model has only one.

        :raises InputError: there is no such region, or there are several and none is named.
        """
        if self.bundle is None:
            return self
        chosen = self.bundle.region(region)
        if not self.several:
            return self
        if chosen.name not in self._regions:
            editor = Editor(self.bundle.painting(chosen.name), self.device)
            editor._engines = {
                "bridge": make_engine("bridge", editor.bundle, self.device, self.engine("bridge"))
            }
            self._regions[chosen.name] = editor
        return self._regions[chosen.name]

    def modality(
        self, volume: Volume, wanted: str | None = None, warn: Callable[[str], None] | None = None
    ) -> str:
        """The model's modality that an image has. Raises InputError where it has none of them.

        :param warn: takes a sentence where the header or the intensities leave doubts.
        """
        if self.bundle is None:
            modality, doubts = suitability.modality_without_model(volume, wanted)
        else:
            modality, doubts = suitability.modality_of(self.bundle, wanted, volume)
        for text in doubts if warn else ():
            warn(text)
        return modality

    def population(self, modality: str, volume: Volume | None = None) -> Population | None:
        """Features of the model's training tumours; None where the model has none for the modality.

        :param volume: in whose grey levels, where those of the modality have no unit and the model is for any image.
        """
        if volume is not None and self.bundle is not None:
            fitted = suitability.at_scale(self.bundle, volume, modality)
            if fitted is not self.bundle:
                return fitted.population(modality)
        if self.bundle is not None and modality not in self._populations:
            there = (self.bundle.json.get("population") or {}).get(modality)
            there = there if len(self.bundle.regions) == 1 or self.bundle.painted else None
            self._populations[modality] = self.bundle.population(modality) if there else None
        return self._populations.get(modality)

    def measuring(self, volume: Volume, modality: str | None = None) -> Settings:
        """The settings that features of an image are measured with, before and after an edit."""
        if self.bundle is None:
            return self.settings or Settings()
        modality = self.modality(volume, modality)
        return suitability.at_scale(self.bundle, volume, modality).settings(modality)

    def engine(self, name: str) -> Engine:
        """An engine, made once."""
        if name not in self._engines:
            self._engines[name] = make_engine(name, self.bundle, self.device)
        return self._engines[name]

    def load(self):
        """The texture model of the bridge, loaded if it isn't yet."""
        return self.engine("bridge").load()

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
        if self.bundle is None:
            return extract_image(volume, check_mask(mask, volume), self.settings or Settings(), classes)
        mask = check_mask(parts(self.bundle, mask, region)[0], volume)
        modality = self.modality(volume, modality)
        bundle = suitability.at_scale(self.bundle, volume, modality)
        region = Region.around(volume, mask, bundle.spacing)
        return measured(region, region.native, bundle.settings(modality), classes, warn)

    def own(
        self, volume: Volume, mask: np.ndarray, features: Iterable[str], request: EditRequest
    ) -> dict[str, float]:
        """A tumour's values of features, by full names, as an edit measures them: those of shape on the image's own grid."""
        own = mask if self.bundle is None else parts(self.bundle, mask, request.region)[0]
        own = check_mask(own, volume)
        found: dict[str, float] = {}
        if any(FEATURES[resolve(name)[0]].cls != "shape" for name in features):
            suitability.check_surroundings(own)
            found = self.extract(volume, mask, request.modality, TEXTURE_CLASSES, request.region)
        return found | measured_shape(Frame.of(volume.direction).view(own), _lps_spacing(volume))

    def nearest(
        self,
        volume: Volume,
        mask: np.ndarray,
        features: Mapping[str, float],
        modality: str | None = None,
        region: str | None = None,
    ) -> Wish:
        """The request for a texture that `synthesize` would draw in place of one that no tumour of that size can have."""
        if self.several:
            return self.painting(region).nearest(volume, mask, features, modality)
        if self.bundle is None:
            return Wish(resolved(features))
        mask = check_mask(parts(self.bundle, mask, region)[0], volume)
        modality = self.bundle.modality(modality) if modality else self.modality(volume)
        return nearest(
            self.population(modality), resolved(features), Region.around(volume, mask, self.bundle.spacing)
        )

    def synthesize(
        self,
        volume: Volume,
        mask: np.ndarray,
        request: EditRequest | None = None,
        progress: Report | None = None,
    ) -> EditResult:
        """A tumour in the mask, with the asked features; those not asked for are free, all of them without any."""
        request = request or EditRequest()
        check_used("synthesize", request)
        if self.several:
            return self.painting(request.region).synthesize(volume, mask, request, progress)
        told = Progress(progress)
        return self._synthesized(
            self._open("synthesize", volume, mask, request, told, copy=True), request, told
        )

    def on_tumour(self, volume: Volume, mask: np.ndarray, request: EditRequest) -> EditRequest:
        """The request of a `synthesize` where a mask is all that is known: a tumour in it keeps its own pattern.

        Without features and donor, with many features that are another tumour's (its own network reaches those far better than
        its voxels), or where the request speaks of how to draw (strength, engine, steps …), it is drawn.
        """
        kept = of_existing(request) if request.features or request.donor is not None else request
        if kept is request or self.several:
            return request
        modality = self.modality(volume, request.modality)
        many = len(request.features or ()) >= MEDIAN_FROM_FEATURES
        if many and draws(self.bundle) and not self._nearly_own(volume, mask, modality, request.features):
            return request
        ct = Intensity.of(volume.array, modality, self.bundle).is_ct
        return kept if suitability.holds_tumour(volume, check_mask(mask, volume), ct) else request

    def _nearly_own(
        self, volume: Volume, mask: np.ndarray, modality: str, features: Mapping[str, float]
    ) -> bool:
        """Whether most of the asked features are the tumour's own, as after a change of some in its features file."""
        population = self.population(modality, volume)
        spread = dict(zip(population.names, population.std)) if population else {}
        own = self.extract(volume, mask, modality, TEXTURE_CLASSES)
        return Miss.of(resolved(features), own, spread).median < NEARLY_OWN

    def retexture(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Report | None = None
    ) -> EditResult:
        """Another texture in the same shape: `synthesize` with a donor or features, which must be given.

        Asked for features, the tumour keeps its own voxels as far as `strength` says (None: 0.3); it is drawn anew with 1, with a
        donor, and where an option of the network is asked for.
        """
        if request.donor is None and not request.features:
            raise InputError("there is no texture to give: name a donor (image and mask) or features")
        return self.synthesize(volume, mask, of_existing(request), progress)

    def reachable(
        self, volume: Volume, mask: np.ndarray, features: Sequence[str], request: EditRequest | None = None,
        progress: Report | None = None,
    ) -> dict[str, tuple[float, float]]:  # fmt: skip
        """Lowest and highest value of each feature that a tumour can be given by its own tissue, the others left free.

        A slider beyond its range is taken to about the range's end. Seconds for a nodule, longer for large tumours.

        :param features: names of first-order, GLCM, GLRLM and GLSZM features.
        :param request: says modality, region and strength.
        """
        request, told = request or EditRequest(), Progress(progress)
        if self.several:
            return self.painting(request.region).reachable(volume, mask, features, request, progress)
        named = {name: next(iter(resolved({name: 1.0}))) for name in features}
        case = self._open("synthesize", volume, mask, request, told)
        found = reachable(case, named.values(), request.strength, told)
        roots = {name: FEATURES[resolve(name)[0]].short == "StandardDeviation" for name in named}
        return {
            n: tuple(float(np.sqrt(v)) if roots[n] else v for v in found[full]) for n, full in named.items()
        }

    def remove(
        self,
        volume: Volume,
        mask: np.ndarray,
        request: EditRequest | None = None,
        progress: Report | None = None,
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
        told = Progress(progress)
        case = self._open("remove", volume, mask, request, told, copy=True)
        with told.stage("request"):
            plan = plan_remove(case, request)
        return self._run(case, plan, told)

    def move(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Report | None = None
    ) -> EditResult:
        """The same tumour with its centre at `request.to`, healthy tissue where it was.

        The network makes a tumour of the same features in the new place; the old tumour's own voxels replace its inside,
        so that only the rim, which shares voxels with the surroundings, is new. The solver restores the features. With
        shape features it is a `reshape` at another place.
        """
        if request.to is None:
            raise InputError("say where to: the new centre of the tumour, x y z in LPS mm")
        check_used("move", request)
        told = Progress(progress)
        return self._planted("move", self._open("move", volume, mask, request, told), request, told)

    def reshape(
        self, volume: Volume, mask: np.ndarray, request: EditRequest, progress: Report | None = None
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
        told = Progress(progress)
        return self._planted("reshape", self._open("reshape", volume, mask, request, told), request, told)

    def insert(self, volume: Volume, request: EditRequest, progress: Report | None = None) -> EditResult:
        """A new tumour with its centre of mass at `request.at`. What isn't asked of its shape and texture is drawn as in the
        model's population; `before` are the features of the healthy tissue there."""
        if request.at is None:
            raise InputError("say where: the centre of the new tumour, x y z in LPS mm, or auto (at)")
        check_used("insert", request)
        told = Progress(progress)
        case = self._open("insert", volume, None, request, told)
        engine, lender = choose_engine("insert", case, request), None
        if engine == "exemplar" and request.donor is None:
            lender = lender_of(case, request)
        free = lender is not None and not split(request.features)[1]  # of any size
        for size in SMALLER if free else SMALLER[:1]:
            if engine == "exemplar":
                drawn = self._lent(case, request, lender, told, size)
            else:
                drawn = self._drawn(request, _lps_spacing(volume), told)
            try:
                with told.stage("request"):
                    plan = plan_insert(case, request, drawn, engine, lender)
                break
            except NoPlace:
                if not free or size == SMALLER[-1]:
                    raise
        return self._run(case, plan, told)

    def series(
        self,
        volume: Volume,
        mask: np.ndarray,
        feature: str,
        values: Sequence[float | str],
        request: EditRequest | None = None,
        progress: Report | None = None,
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
        told = Progress(progress)
        case = self._open("series", volume, mask, request, told)
        own = case.own | measured_shape(Frame.of(volume.direction).view(case.mask), _lps_spacing(volume))
        numbers = series.absolute(feature, values, own)
        steps = [replace(request, features=f) for f in self._step_features(feature, numbers, request, own)]
        for step in steps:
            texture, shape = split(step.features)
            storable(texture, volume.array.dtype)
            check_room(shape, tuple(n * s for n, s in zip(volume.size, volume.spacing)))
        drawn: list[Drawn | None] = [None] * len(steps)
        if form or any(split(step.features)[1] for step in steps):
            if self.bundle is None:
                raise InputError("a series of a shape needs a model: name one")
            case, steps, drawn = self._series_shapes(case, steps, told)
        results = []
        for i, (step, shape) in enumerate(zip(steps, drawn)):
            told("step", i / len(steps))
            further = told.again()
            if shape is None:
                result = self._synthesized(case, of_existing(step), further)
            else:
                result = self._planted("reshape", case, step, further, shape)
            entry = {
                "feature": name,
                "value": numbers[i],
                "named": feature,
                "step": i + 1,
                "steps": len(steps),
            }
            results.append(replace(result, provenance=result.provenance | {"series": entry}))
        return tuple(results)

    @staticmethod
    def _step_features(
        feature: str, numbers: Sequence[float], request: EditRequest, own: Mapping[str, float]
    ) -> list[dict[str, float]]:
        """What each step of a series asks for."""
        name, asked = series.checked(feature, numbers), dict(request.features or {})
        if FEATURES[name].cls == "shape":
            return [{**asked, feature: number} for number in numbers]
        return [series.step_features(name, feature, number, asked, own[series.MEAN]) for number in numbers]

    def _series_shapes(
        self, case: Case, steps: list[EditRequest], told: Progress
    ) -> tuple[Case, list[EditRequest], list[Drawn | None]]:
        """The shapes of all steps; case and steps then share a window that holds all of them."""
        drawn = [self._reshaped(case, step, told) for step in steps]
        old = grown(case.mask, case.volume.spacing, steps[0].grow or 0.0)
        window = window_of(case.volume, old, [part for part, *_ in drawn])
        return replace(case, window=window), [replace(step, window=window) for step in steps], list(drawn)

    def shape(
        self,
        request: EditRequest | None = None,
        spacing: tuple[float, float, float] | None = None,
        like: Volume | None = None,
        progress: Report | None = None,
    ) -> ShapeResult:
        """A mask alone; with `request.core` a labelmap, 1 the rim and 2 the core within it.

        :param spacing: (x, y, z) mm of its grid; None is the model's. The centre of mass lies at `request.at`, or at 0.
        :param like: image whose grid the mask gets; it is then put at `request.at`, which is checked as in `insert`.
        """
        request, told = request or EditRequest(), Progress(progress)
        if split(request.features)[0] or request.donor is not None:
            raise InputError("a mask has no texture: ask for shape features only, or use insert")
        check_used("shape", request)
        if isinstance(request.at, str):
            raise InputError(
                "a place is only found in an image (insert): give the mask's centre as three numbers (at)"
            )
        if like is None:
            spacing = spacing or self.bundle.spacing
            part, form, warnings = self._drawn(request, spacing, told)
            grid = _alone(part, spacing, request.at)
        else:
            if request.at is None:
                raise InputError("say where on the image: the centre of the tumour, x y z in LPS mm (at)")
            case = self._open("shape", like, None, request, told)
            part, form, warnings = self._drawn(request, _lps_spacing(like), told)
            mask, note = placed(like, part, request.at, case.ct, request.inside, nearest=request.nearest)
            grid, warnings = like.with_array(mask.astype(np.uint8)), [*case.warnings, *warnings, note]
        result = ShapeResult(
            with_core(grid, request.core, request.seed),
            grid.array > 0,
            form.asked,
            form.used,
            form.reached,
            told.seconds(),
            {},
            tuple(filter(None, warnings)),
            self._shaper.spread(),
        )
        return replace(result, provenance=provenance.of_shape(self.bundle, request, result, like))

    def _open(
        self, edit: str, volume: Volume, mask, request: EditRequest, told: Progress, copy: bool = False
    ) -> Case:
        """The checked case of an edit, with the population of its modality."""
        if self.bundle is None and EDITS[edit].model:
            raise InputError(f"{edit} needs a model: name one; `tumorsynth models list` shows what there is")
        case = open_case(self.bundle, volume, mask, request, told, settings=self.settings, copy=copy)
        return replace(case, population=self.population(case.modality, volume))

    def _run(self, case: Case, plan: Plan, told: Progress) -> EditResult:
        shapes = self._shaper.spread() if plan.form is not None and plan.form.asked else {}
        return pipeline.run(case, plan, self.engine(plan.engine), told, shapes)

    def _synthesized(self, case: Case, request: EditRequest, told: Progress) -> EditResult:
        with told.stage("request"):
            plan = plan_synthesize(case, request)
        return self._run(case, plan, told)

    def _planted(
        self, edit: str, case: Case, request: EditRequest, told: Progress, drawn: Drawn | None = None
    ) -> EditResult:
        """The tumour of a case with another shape, at another place, or both.

        :param drawn: the new shape, where it is there already.
        """
        if drawn is None and split(request.features)[1]:
            drawn = self._reshaped(case, request, told)
        with told.stage("request"):
            plan = plan_planted(edit, case, request, drawn)
        return self._run(case, plan, told)

    def _drawn(self, request: EditRequest, spacing, told: Progress) -> Drawn:
        """A new shape with the asked features."""
        asked = split(request.features)[1]
        with told.stage("shape"):
            return self._shaper.draw(
                asked, spacing, request.seed, request.solve, lambda done: told("shape", done)
            )

    def _lent(
        self, case: Case, request: EditRequest, lender: Lender | None, told: Progress, size: float
    ) -> Drawn:
        """The shape of the tumour that lends its tissue, of a bank or else the donor's, with the asked features.

        :param size: factor of the lengths of a bank's tumour, where no shape is asked.
        """
        spacing, asked = _lps_spacing(case.volume), split(request.features)[1]
        if lender is not None:
            mask = Bank.of_bundle(self.bundle).arrays(lender)["mask"] > 0
            fit = 1.0 if asked else size * lender.fit(room_of(case, request))
            theirs = tuple(fit * s for s in lender.spacing)
        else:
            image, mask = request.donor
            check_image(image)
            frame = Frame.of(image.direction)
            mask, theirs = frame.view(check_mask(mask, image)), _lps_spacing(image)[::-1]
        part = Part.of(on_grid(mask, theirs, spacing[::-1]))
        with told.stage("shape"):
            if asked:
                part, form, warnings = self._shaper.reshape(
                    part, asked, spacing, request.seed, lambda done: told("shape", done)
                )
                return part, replace(form, before={}), warnings
            return part, Form({}, {}, measured_shape(part.mask, spacing)), []

    def _reshaped(self, case: Case, request: EditRequest, told: Progress) -> Drawn:
        """The tumour of a case with the asked shape features."""
        view = Frame.of(case.volume.direction).view
        assert case.mask is not None
        mask, kept = view(case.mask), request.avoid
        asked, spacing = split(request.features)[1], _lps_spacing(case.volume)
        more: tuple = (asked, spacing, request.seed, lambda done: told("shape", done))
        with told.stage("shape"):
            if kept is not None and request.to is None and kept.shape == case.mask.shape:
                return self._shaper.reshape_beside(mask, view(kept) & ~mask, *more)
            return self._shaper.reshape(Part.of(mask), *more)


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

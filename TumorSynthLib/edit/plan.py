"""What an edit will do, decided once before a voxel is drawn; the record stores it, and a repetition reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from TumorSynthLib import suitability
from TumorSynthLib.edit.bank import Bank, Lender
from TumorSynthLib.edit.case import Case, check_fit
from TumorSynthLib.edit.choose import shows_lung
from TumorSynthLib.edit.features import resolved, split
from TumorSynthLib.edit.options import OPTIONS, EditRequest, unused, unused_text
from TumorSynthLib.edit.wish import Wish, edited, nearest, texture_of
from TumorSynthLib.errors import InputError
from TumorSynthLib.models.parts import draws
from TumorSynthLib.painted import parts
from TumorSynthLib.placement import Part, centre_of_mass, found_place, grown, moved_mask, placed
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES
from TumorSynthLib.region import Region
from TumorSynthLib.shaping import Form
from TumorSynthLib.volume import Volume, check_image, check_mask

#: A shape that has been drawn: its mask, what became of the request, warnings.
Drawn = tuple[Part, Form, list[str]]


KEPT = 0.3  # strength where a tumour is changed: its pattern stays, single voxels may be moved a little
LOOK = "look"  # priority with which a donor lends its tissue
DRAWN_ANEW = 1.0  # strength of which nothing of the old tumour stays


@dataclass(frozen=True, eq=False)
class Plan:
    """One edit, decided.

    :param target: (K, J, I) bool, where the tumour is drawn; None puts healthy tissue there.
    :param hole: (K, J, I) bool, from where the old tumour is cleared; None: the engine finds it, or there is none.
    :param shift: (k, j, i) voxels that a tumour is moved by.
    :param form: the shape that the edit makes, if it makes one.
    :param texture_from: "own" keeps the moved tumour's voxels; "donor" and "request" draw anew.
    :param asked: features as asked, `used`: the nearest request that a tumour can meet, `implied`: the spread of intensities
        that the population has with these features, where the request leaves it free.
    :param engine: name of the one that draws, see `texture.engine`.
    :param lender: tumour of the model's bank whose tissue is used, turned as it is laid.
    :param unused: options that ask for something which that engine doesn't use.
    """

    edit: str
    request: EditRequest
    engine: str
    target: np.ndarray | None = None
    hole: np.ndarray | None = None
    shift: tuple[int, int, int] | None = None
    form: Form | None = None
    texture_from: str = "request"
    asked: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    implied: Mapping[str, float] = field(default_factory=dict)
    lender: Lender | None = None
    unused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return self.request.seed

    def clearing(self) -> Plan:
        """The part of the plan that clears the old tumour."""
        return replace(self, target=None, asked={}, used={}, implied={}, warnings=(), shift=None)

    def as_record(self) -> dict[str, Any]:
        """What a repetition needs beside the request, and what a reader wants to know."""
        record = {"engine": self.engine, "texture_from": self.texture_from, "unused": list(self.unused)}
        return record if self.shift is None else {**record, "moved_voxels": [int(n) for n in self.shift]}


def choose_engine(edit: str, case: Case, request: EditRequest) -> str:
    """The engine of an edit: as asked, else the only one that uses what is asked, else the one that serves the edit best.

    :raises InputError: the network is asked for, but there is no model.
    """
    if request.engine == "bridge" and not draws(case.bundle):
        raise InputError(
            f"the engine bridge is a model's network{', which this model lacks' if case.bundle else ''}: name a model that has "
            "one; `tumorsynth models list` shows what there is"
        )
    if request.engine is not None:
        return request.engine
    if not draws(case.bundle):
        return "exemplar"
    if request.strength == DRAWN_ANEW:
        return "bridge"
    bound = bound_to(request)
    return next(iter(bound)) if len(bound) == 1 else _best_engine(edit, case, request)


def _switched(case: Case, plan: Plan) -> str:
    """A warning where a network draws for the sake of an option, and tissue would have been taken without it."""
    request = plan.request
    names = [OPTIONS[n].flag or n for n in request.asked() if OPTIONS[n].engines == ("bridge",)]
    given = request.engine is not None or request.strength == DRAWN_ANEW
    if plan.engine != "bridge" or given or not names or _best_engine(plan.edit, case, request) == "bridge":
        return ""
    return f"the model's network draws this because of {', '.join(names)}: without it, real tissue is taken, which is quicker"


def _best_engine(edit: str, case: Case, request: EditRequest) -> str:
    """Real tissue wherever some can be lent: the image's own, the tumour's own, a donor's or a bank's."""
    if edit == "insert":
        return "exemplar" if request.donor is not None or lenders(case) else "bridge"
    lent = edit == "remove" or (edit in ("move", "reshape") and request.donor is None)
    of_donor = edit == "synthesize" and request.donor is not None and request.priority == LOOK
    lent = lent or (of_donor and case.bundle.painted is None)
    return "exemplar" if lent else "bridge"


def lenders(case: Case) -> tuple[Lender, ...]:
    """The tumours of the model's bank that an insertion can take its tissue from."""
    bank = None if case.bundle is None else Bank.of_bundle(case.bundle)
    return bank.of(case.modality) if bank else ()


def bound_to(request: EditRequest) -> set[str]:
    """The engines that alone use something which is asked for."""
    return {OPTIONS[name].engines[0] for name in request.asked() if len(OPTIONS[name].engines) == 1}


def of_existing(request: EditRequest) -> EditRequest:
    """The request to a tumour that is there: it keeps its pattern, unless a donor or something else speaks for drawing anew."""
    if request.donor is not None and not (request.engine or bound_to(request)) and request.priority is None:
        return replace(request, priority=LOOK)
    if request.donor is not None or request.engine or request.strength is not None or bound_to(request):
        return request
    return replace(request, strength=KEPT)


def plan_remove(case: Case, request: EditRequest) -> Plan:
    """Healthy tissue in the tumour's place."""
    engine = choose_engine("remove", case, request)
    if engine == "exemplar":  # it finds the hole
        return _told(
            case,
            Plan("remove", request, engine, warnings=tuple(suitability.check_surroundings(case.mask, False))),
        )
    hole = _hole(case, request)
    return _told(case, Plan("remove", request, engine, hole=hole, warnings=check_fit(case, hole)))


def _hole(case: Case, request: EditRequest) -> np.ndarray:
    """(K, J, I) bool, from where a network clears the old tumour."""
    hole = grown(case.mask, case.volume.spacing, request.grow or 0.0)
    return hole if request.avoid is None else case.mask | (hole & ~request.avoid)


def plan_synthesize(case: Case, request: EditRequest) -> Plan:
    """A tumour in the mask with the asked features: drawn, or made of the one that is there."""
    engine = choose_engine("synthesize", case, request)
    if engine == "exemplar":
        asked = resolved(request.features)
        if request.donor is None and not asked:
            raise InputError(
                "a range is told of features: ask for some"
                if request.reachable
                else "there is nothing to change: ask for features, name a donor, or let a model draw (--model)"
            )
        if request.donor is not None:
            donor_of(case, request)
        warnings = tuple(suitability.check_surroundings(case.mask))
        return _told(case, Plan(
            "synthesize", request, engine, case.mask, texture_from="own" if request.donor is None else "donor", asked=asked,
            used=asked, warnings=warnings,
        ))  # fmt: skip
    warnings = check_fit(case, case.mask)
    asked = edited(case.population, donor_texture(case, request, case.mask), resolved(request.features))
    wish = nearest(case.population, asked, case.source) if asked else Wish({})
    source = "donor" if request.donor is not None else "request"
    return _told(case, Plan(
        "synthesize", request, engine, case.mask, texture_from=source, asked=asked, used=wish.used, implied=wish.implied,
        warnings=(*warnings, *wish.warnings),
    ))  # fmt: skip


def plan_planted(edit: str, case: Case, request: EditRequest, drawn: Drawn | None = None) -> Plan:
    """The tumour of a case with another shape, at another place, or both.

    :param drawn: its new shape; None keeps the one that it has.
    """
    engine = choose_engine(edit, case, request)
    warnings = _checked(case, case.mask, engine)
    volume, form, shift = case.volume, None, None
    options: dict = {"ct": case.ct, "inside": request.inside, "nearest": request.nearest}
    if drawn is not None:
        part, form, told = drawn
        to = request.to if request.to is not None else centre_of_mass(volume, case.mask)
        new, note = placed(volume, part, to, also=case.mask, **options)
        warnings = (*warnings, *told)
    else:
        new, shift, note = moved_mask(volume, case.mask, request.to, **options)
    warnings = (*warnings, note, *_checked(case, new, engine))
    texture = split(request.features)[0]
    plan = Plan(edit, request, engine, new, shift=shift, form=form, texture_from=_texture_from(request, form))
    if engine == "exemplar":  # the tumour's own tissue, or the donor's, has its features
        if request.donor is not None:
            donor_of(case, request)
        source = "own" if request.donor is None else "donor"
        return _told(case, replace(plan, asked=texture, used=texture, texture_from=source, warnings=warnings))
    sizes = volume.volume_of(case.mask), volume.volume_of(new)
    own = texture_of(case.population, case.own, *sizes) | donor_texture(case, request, new)
    asked = edited(case.population, own, texture)
    wish = Wish(asked)
    if texture or request.donor is not None:
        wish = nearest(case.population, asked, case.region(new))
    _check_avoided(request, new & ~case.mask)  # a tumour of tissue ends there
    return _told(case, replace(
        plan, hole=_hole(case, request), asked=asked, used=wish.used, implied=wish.implied, warnings=(*warnings, *wish.warnings)
    ))  # fmt: skip


def plan_insert(
    case: Case, request: EditRequest, drawn: Drawn, engine: str, lender: Lender | None = None
) -> Plan:
    """A new tumour in healthy tissue.

    :param lender: tumour of the model's bank that lends its tissue.
    """
    part, form, told = drawn
    at = request.at
    if isinstance(at, str):
        lung = _of_lung(case, request, lender)
        at = found_place(case.volume, part, case.ct, request.inside, request.seed, lung, request.avoid)
    new, note = placed(case.volume, part, at, case.ct, request.inside, nearest=request.nearest)
    _check_avoided(request, new)
    warnings = (*told, note, *_checked(case, new, engine))
    texture = split(request.features)[0]
    if engine == "exemplar":
        return _told(case, Plan(
            "insert", request, engine, new, form=form, texture_from="donor", asked=texture, used=texture,
            lender=lender, warnings=warnings,
        ))  # fmt: skip
    asked = edited(case.population, donor_texture(case, request, new), texture)
    wish = nearest(case.population, asked, case.region(new)) if asked else Wish({})
    return _told(case, Plan(
        "insert", request, engine, new, form=form, asked=asked, used=wish.used, implied=wish.implied,
        warnings=(*warnings, *wish.warnings),
    ))  # fmt: skip


def _check_avoided(request: EditRequest, new: np.ndarray) -> None:
    if request.avoid is not None and (new & request.avoid).any():
        raise InputError(
            "the new tumour would cover other tumours or regions, which stay, or what else is to be avoided: "
            "give another place, or make it smaller"
        )


def _of_lung(case: Case, request: EditRequest, lender: Lender | None) -> bool:
    """Whether a new tumour is one of the lung: its donor or lender lay there, or the model is made for it."""
    if request.donor is not None:
        return case.ct and shows_lung(request.donor[0], np.asarray(request.donor[1]) > 0, "CT", None)
    return case.bundle is not None and (
        case.bundle.organ == "lung" or (lender is not None and lender.in_lung)
    )


def _checked(case: Case, mask: np.ndarray, engine: str) -> tuple[str, ...]:
    """Warnings of a mask that an engine is to fill. Raises InputError where it can't."""
    if engine == "exemplar":
        return tuple(suitability.check_surroundings(mask))
    return tuple(check_fit(case, mask))


def donor_texture(case: Case, request: EditRequest, new: np.ndarray) -> dict[str, float]:
    """The donor's texture as a request for a new mask: as a tumour of its size would have it."""
    if request.donor is None:
        return {}
    image, mask = donor_of(case, request)
    region = Region.around(image, mask, case.bundle.spacing)
    found = Case.measure(replace(case, volume=image), mask, region, TEXTURE_CLASSES)
    return texture_of(case.population, found, image.volume_of(mask), case.volume.volume_of(new))


def donor_of(case: Case, request: EditRequest) -> tuple[Volume, np.ndarray]:
    """The donor's image and mask (K, J, I) bool of the region that is meant.

    :raises InputError: it is damaged, or of another modality.
    """
    image, mask = request.donor
    check_image(image)
    if case.bundle is None:
        return image, check_mask(mask, image)
    mask = check_mask(parts(case.bundle, mask, request.region)[0], image)
    suitability.modality_of(case.bundle, case.modality, image)  # raises where it has another one
    return image, mask


def _texture_from(request: EditRequest, form: Form | None) -> str:
    """Whether a moved tumour keeps its own voxels: it does, unless it gets another shape or a donor's texture."""
    if request.texture_from is not None:
        return request.texture_from
    return "donor" if request.donor is not None else "own" if form is None else "request"


def _beyond_tissue(plan: Plan) -> list[str]:
    """What a request asks for that a network alone does, where its engine is tissue."""
    request, texts = plan.request, []
    if plan.engine == "exemplar" and request.strength == DRAWN_ANEW:
        texts.append(
            "the tumour can't be drawn anew (strength 1) without a model that has a network: its own voxels are moved instead"
        )
    if plan.engine == "exemplar" and request.donor is not None and request.priority == "features":
        texts.append(
            "the donor's features can't be put before its look without a model that has a network: its tissue is lent"
        )
    return texts


def _at_odds(case: Case, plan: Plan) -> list[str]:
    """Options of tissue that leave others nothing to do."""
    request, texts = plan.request, []
    if request.priority is not None and request.donor is None:
        return [f"there is no donor that the priority {request.priority} could be of: it changed nothing"]
    idle = [name for name in ("grow", "zone") if request.strict and getattr(request, name)]
    if idle:
        texts.append(f"no voxel outside the mask may change (strict): {' and '.join(idle)} changed nothing")
    both = [mask for mask in (case.mask, request.avoid) if mask is not None]
    if len(both) == 2 and both[0].shape == both[1].shape and (both[0] & both[1]).any():
        share = (both[0] & both[1]).sum() / both[0].sum()
        texts.append(
            f"the mask to avoid covers {100 * share:.0f} % of the tumour itself, which is cleared all the same"
        )
    return texts if plan.engine == "exemplar" else []


def _told(case: Case, plan: Plan) -> Plan:
    """The plan with all warnings once, and a word on options that its engine doesn't use."""
    left = unused(plan.request, plan.engine)
    if plan.engine == "bridge" and plan.request.strength == DRAWN_ANEW:  # which is what it does
        left = tuple(name for name in left if name != "strength")
    asked, doubt = plan.request, ""
    if asked.donor is not None:
        said = asked.modality is not None
        doubt = suitability.donor_doubt(asked.donor[0], case.volume, case.modality, case.ct, said)
    texts = [
        *case.warnings,
        doubt,
        *plan.warnings,
        _switched(case, plan),
        *_beyond_tissue(plan),
        *_at_odds(case, plan),
    ]
    if left:
        texts.append(unused_text(plan.engine, left))
    return replace(plan, unused=left, warnings=tuple(dict.fromkeys(filter(None, texts))))

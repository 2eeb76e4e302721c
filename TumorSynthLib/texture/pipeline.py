"""The stages of an edit in their order, from a plan to a result: clear the old tumour, make room, draw, put together, record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import ndimage

from TumorSynthLib import provenance
from TumorSynthLib.deformation import bone_of, push, warped
from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.miss import Miss
from TumorSynthLib.edit.plan import Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.edit.result import EditResult
from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame, Patch, quantise
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.engine import Draft, Engine
from TumorSynthLib.threads import blas_threads

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Cleared:
    """The case in an image that is ready for the tumour.

    :param boxes: of the (K, J, I) array, which together hold what has changed so far. :param facts: for the record.
    """

    case: Case
    boxes: tuple[Box, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def run(case: Case, plan: Plan, engine: Engine, progress: Progress, shapes=None) -> EditResult:
    """The whole edit.

    :param shapes: spread of shape features in the population, for an edit that makes a shape.
    """
    if plan.edit not in engine.edits:
        raise InputError(
            f"the engine {engine.name} can't {plan.edit}, only {', '.join(engine.edits)}: leave --engine out"
        )
    if plan.edit in ("remove", "synthesize"):
        cleared = Cleared(case)
    else:
        cleared = with_room(clear(case, plan, engine, progress), plan, progress)
    draft = engine.draw(cleared.case, plan, plan.seed, progress)
    return record(case, plan, cleared, draft, progress, shapes or {})


def clear(case: Case, plan: Plan, engine: Engine, progress: Progress) -> Cleared:
    """The image without the old tumour, where the new one doesn't cover it anyway."""
    if case.mask is None:
        return Cleared(case.in_image(case.volume))
    boxes: tuple[Box, ...] = ()
    if plan.hole is not None:
        boxes = (bounding_box(plan.hole),)
        if not plan.request.mass_effect and not (plan.hole & ~plan.target).any():
            return Cleared(case.in_image(case.volume), boxes)
    draft = engine.draw(case, plan.clearing(), plan.seed, progress)
    volume = case.volume.with_array(draft.patch.apply(case.volume.array.copy()))
    return Cleared(case.in_image(volume, draft.changed), (*boxes, draft.patch.box), warnings=draft.warnings)


def with_room(cleared: Cleared, plan: Plan, progress: Progress) -> Cleared:
    """The image whose tissue has made room for the new tumour: pushed aside, or drawn in where the old one was larger."""
    margin, case = float(plan.request.mass_effect), cleared.case
    if not margin:
        return cleared
    volume, frame = case.volume, Frame.of(case.volume.direction)
    spacing = frame.take(volume.spacing[::-1])
    grows = plan.form is not None and plan.form.before and plan.request.to is None
    with progress.stage("mass effect"):
        progress("mass effect", 0.0)
        view = frame.view(plan.target)
        stiff, kept = bone_of(frame.view(volume.array), spacing) if case.ct else None, plan.request.avoid
        if kept is not None:
            stiff = frame.view(kept) if stiff is None else stiff | frame.view(kept)
        motion = push(view.shape, spacing, view, frame.view(case.mask) if grows else None, margin, stiff)
        array, box = warped(volume.array, frame, spacing, motion)
        if kept is not None:
            array[kept] = volume.array[kept]
    moved = volume.with_array(quantise(array, volume.array.dtype))
    facts = {**cleared.facts, "mass_effect": motion.facts()}
    return replace(cleared, case=case.in_image(moved), boxes=(*cleared.boxes, box), facts=facts)


def record(
    case: Case, plan: Plan, cleared: Cleared, draft: Draft, progress: Progress, shapes: dict[str, float]
) -> EditResult:
    """Put the change into the image, measure what was reached, and say what was done.

    :param case: the edit before anything was changed.
    """
    with progress.stage("paste"):
        whole = cleared.case.copy.result() if cleared.case.copy else cleared.case.volume.array.copy()
        array = draft.patch.apply(whole)
        patch = _joint(case, (*cleared.boxes, draft.patch.box), array) if cleared.boxes else draft.patch
    with progress.stage("measure"):
        before = _before(case, plan, draft) if draft.reached else {}
    spread, asked, used, reached = case.spread() or draft.spread, plan.asked, plan.used, draft.reached
    if draft.asked is not None:
        asked = used = draft.asked
    used = {**used, **draft.used}
    miss = Miss.of(used, reached, spread).text() if plan.request.solve else ""
    if plan.form is not None:
        spread = {**spread, **shapes}
        asked, used = {**plan.form.asked, **asked}, {**plan.form.used, **used}
        before, reached = {**plan.form.before, **before}, {**plan.form.reached, **reached}
    told = (*plan.warnings, *cleared.warnings, *draft.warnings, *((miss,) if miss else ()))
    changed = _changed(cleared, draft, patch)
    result = EditResult(
        cleared.case.volume.with_array(array), draft.mask, patch, dict(asked), dict(used), dict(reached), dict(before),
        progress.seconds(), {}, tuple(dict.fromkeys(told)), dict(spread), changed,
    )  # fmt: skip
    progress("measure", 1.0)
    source = SimpleNamespace(volume=case.volume, mask=case.mask, request=plan.request, modality=case.modality)
    decided = {**plan.as_record(), **draft.facts}
    decided |= _around(case, draft.mask, changed, patch)
    if (blas := blas_threads()) is not None:
        decided["blas_threads"] = blas
    decided["settings"] = case.settings.to_pyradiomics()
    origin = case.origin.result() if case.origin else None
    entry = provenance.record(
        plan.edit, case.bundle, source, result, device=draft.device, origin=origin, plan=decided
    )
    return replace(result, provenance={**entry, **provenance.plain(cleared.facts)})


def _changed(cleared: Cleared, draft: Draft, patch: Patch) -> np.ndarray | None:
    """All voxels that the edit could change; None where that isn't recorded."""
    if draft.changed is None:
        return None
    gone = cleared.case.gone
    changed = draft.changed.copy() if gone is None else draft.changed | gone
    if cleared.facts:  # tissue made room, somewhere in the box
        changed[patch.box] |= patch.before != patch.after
    return changed


def _around(case: Case, mask: np.ndarray, changed: np.ndarray | None, patch: Patch) -> dict[str, Any]:
    """For the record: how many voxels outside the old and new tumour could change, and how far from them the farthest lies."""
    tumours = mask if case.mask is None else mask | case.mask
    if changed is None:  # what did change; nothing where both are NaN
        changed = np.zeros_like(tumours)
        known = (patch.before == patch.before) | (patch.after == patch.after)
        changed[patch.box] = (patch.before != patch.after) & known
    outside = changed & ~tumours
    if not outside.any():
        return {"zone_voxels": 0}
    box = bounding_box(outside | tumours)
    away = ndimage.distance_transform_edt(~tumours[box], case.volume.spacing[::-1])[outside[box]].max()
    return {"zone_voxels": int(outside.sum()), "reach_mm": float(np.ceil(10 * away - 1e-6) / 10)}


def _before(case: Case, plan: Plan, draft: Draft) -> dict[str, float]:
    """Features of what was there: the tumour, or the tissue in a new one's place."""
    if draft.before is not None:
        return dict(draft.before)
    if case.mask is None or draft.mask is not case.mask and plan.edit == "remove":
        return case.measure(draft.mask)
    return case.own


def _joint(case: Case, boxes: tuple[Box, ...], array: np.ndarray) -> Patch:
    """One patch for the boxes that an edit has changed, from the case's image to the whole edited array."""
    box = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes))
    return Patch(box, case.volume.array[box].copy(), array[box].copy())

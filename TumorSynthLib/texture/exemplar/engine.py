"""The engine "exemplar": tumours are removed and changed with the image's own tissue. No model is needed, and no torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from TumorSynthLib.edit.bank import Bank
from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.features import STEERABLE, split
from TumorSynthLib.edit.plan import Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.table import FEATURES
from TumorSynthLib.region import Frame, Patch, quantise
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.shaping import measured_shape
from TumorSynthLib.texture.engine import Draft
from TumorSynthLib.texture.exemplar.kept import kept
from TumorSynthLib.texture.exemplar.lent import lent
from TumorSynthLib.texture.exemplar.planted import carried, inserted
from TumorSynthLib.texture.exemplar.removal import remove
from TumorSynthLib.texture.exemplar.sliders import changed


class Exemplar:
    """See `texture.engine.Engine`. Of the bundle its bank of tumours is used, for insertions; the device makes no difference."""

    name, edits, needs_bundle = "exemplar", ("remove", "synthesize", "reshape", "move", "insert"), False

    def __init__(self, bundle=None, device: str = "cpu", parent=None):
        del device, parent
        self.bank = None if bundle is None else Bank.of_bundle(bundle)

    def knows(self, feature: str) -> bool:
        """Whether it can be asked for a feature."""
        return FEATURES[feature].cls in STEERABLE

    def draw(self, case: Case, plan: Plan, seed: int, progress: Progress) -> Draft:
        """Healthy tissue in place of the tumour, or the tumour itself with the asked features."""
        if plan.target is None:
            return self._healthy(case, plan, seed, progress)
        if plan.edit == "synthesize" and plan.request.donor is not None:
            return lent(case, plan, seed, progress)
        if plan.edit == "synthesize":
            return changed(case, plan, seed, progress)
        return self._planted(case, plan, seed, progress)

    def _planted(self, case: Case, plan: Plan, seed: int, progress: Progress) -> Draft:
        """A real tumour in another place or shape; then the asked features, by its own bands."""
        progress("texture", 0.0)
        with progress.stage("texture"):
            if plan.edit == "insert":
                made = inserted(case, plan, self.bank, progress)
            else:
                made = carried(case, plan, progress)
        volume = case.volume.with_array(made.patch.apply(case.volume.array.copy()))
        patch = made.patch
        warnings = made.warnings
        facts = dict(made.facts)
        used: dict = {}
        targets = {n: plan.used[n] for n in split(plan.request.features)[0] if n in plan.used}
        lends = plan.edit in ("move", "reshape") and plan.request.donor is not None
        if targets or lends:
            there = replace(case, volume=volume, mask=made.mask)
            slid = (lent if lends else changed)(there, replace(plan, used=targets), seed, progress)
            volume = volume.with_array(slid.patch.apply(volume.array.copy()))
            patch = Patch(patch.box, patch.before, volume.array[patch.box].copy())
            warnings, facts, used = (*warnings, *slid.warnings), {**facts, **slid.facts}, slid.used
        elif made.was is not None:
            stays = kept(replace(case, volume=volume), made.mask, made.was, seed, progress)
            patch = Patch(patch.box, patch.before, stays.volume.array[patch.box].copy())
            facts, changed_to = {**facts, **stays.facts}, made.changed | made.mask
            return Draft(
                patch, made.mask, stays.reached, "cpu", warnings, changed_to, facts, before=stays.before
            )
        progress("measure", 0.0)
        with progress.stage("measure"):
            reached = dict(slid.reached) if lends else replace(case, volume=volume).measure(made.mask)
            if plan.form is not None:
                frame = Frame.of(volume.direction)
                spacing = frame.take(volume.spacing[::-1])[::-1]
                reached |= measured_shape(frame.view(made.mask), tuple(float(s) for s in spacing))
        return Draft(
            patch, made.mask, reached, "cpu", warnings, made.changed | made.mask, facts, used=used,
            asked=slid.asked if lends else None,
        )  # fmt: skip

    @staticmethod
    def _healthy(case: Case, plan: Plan, seed: int, progress: Progress) -> Draft:
        request, volume = plan.request, case.volume
        with progress.stage("texture"):
            made = remove(
                volume.array,
                case.mask,
                volume.spacing[::-1],
                is_ct=case.ct,
                seed=seed,
                grow_mm=request.grow,
                zone_mm=request.zone,
                strict=request.strict,
                avoid=_either(request.avoid, *case.others.values()),
                lend=request.lend,
                progress=lambda share: progress("texture", share),
            )
        changed = made.hole | made.zone
        patch = patch_of(volume.array, made.values, changed)
        facts = {**made.facts, "hole_voxels": int(made.hole.sum())}
        reached, warnings = _measured(case, patch, progress) if plan.edit == "remove" else ({}, ())
        return Draft(patch, case.mask, reached, "cpu", (*made.warnings, *warnings), changed, facts)


def patch_of(array: np.ndarray, values: np.ndarray, changed: np.ndarray) -> Patch:
    """The change of an array (K, J, I) to values float32 of its shape, in the voxels `changed` only."""
    box = bounding_box(changed)
    before = array[box].copy()
    after = before.copy()
    after[changed[box]] = quantise(values[box][changed[box]], array.dtype)
    return Patch(box, before, after)


def _measured(case: Case, patch: Patch, progress: Progress) -> tuple[dict[str, float], tuple[str, ...]]:
    """Features of the mask afterwards; a warning where it is too small for any."""
    progress("measure", 0.0)
    with progress.stage("measure"):
        edited = case.in_image(case.volume.with_array(patch.apply(case.volume.array.copy())))
        try:
            return edited.own, ()
        except InputError as error:
            return {}, (f"the features of the mask can't be measured: {error}",)


def _either(*masks: np.ndarray | None) -> np.ndarray | None:
    """Where any of some masks is; None where there is none."""
    given = [mask for mask in masks if mask is not None]
    return np.logical_or.reduce(given) if given else None

"""The exemplars' part of move, reshape and insert: a real tumour composited into its new place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from TumorSynthLib.edit.bank import Bank
from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.features import split
from TumorSynthLib.edit.plan import Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Patch, quantise
from TumorSynthLib.suitability import level_of
from TumorSynthLib.texture.exemplar.axes import Axes
from TumorSynthLib.texture.exemplar.bank import matte_of
from TumorSynthLib.texture.exemplar.carry import Source, contact_of, moved, on_wall, reshaped
from TumorSynthLib.texture.exemplar.graft import grafted
from TumorSynthLib.texture.exemplar.matte import Matte
from TumorSynthLib.texture.exemplar.place import Laid, detached
from TumorSynthLib.texture.exemplar.removal import remove
from TumorSynthLib.texture.exemplar.room import filled_up
from TumorSynthLib.texture.exemplar.scan import blur_mm, level_between
from TumorSynthLib.volume import Volume

HIDDEN, UNEVEN = 0.75, 1.3
"""Standard deviations of the tissue there up to which a new tumour is hardly seen, unless it varies so many times as much."""
LEAST_LEFT, LEAST_BESIDE = 0.5, 0.25
"""Share of a tumour that its place has to leave of it: a chest wall cuts what it covers; and other tumours and regions."""


@dataclass(frozen=True, eq=False)
class Planted:
    """A tumour in its new place.

    :param patch: of the case's image; `mask`, `changed` (K, J, I) bool: the new tumour, and what may differ.
    :param was: (K, J, I) bool, the same voxels of the tumour at its old place; None where it has another shape.
    """

    patch: Patch
    mask: np.ndarray
    changed: np.ndarray
    facts: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    was: np.ndarray | None = None


def carried(case: Case, plan: Plan, progress: Progress) -> Planted:
    """The case's own tumour, moved or with another shape, in the image that it was cleared from."""
    axes = Axes.of(case.volume)
    view = axes.view
    mask, new, onto = view(case.mask), view(plan.target), view(case.volume.array)
    source = Source(
        view(case.before.array), view(case.cleared.array), mask, view(case.gone), axes.spacing, case.ct
    )
    progress("texture", 0.2)
    if plan.form is None:
        offset = _offset(mask, new)
        laid = moved(source, offset, onto)
        made = _planted(case, plan, axes, laid, laid.tissue, plan.target, {})
        return replace(made, was=axes.back(shifted(view(made.mask), -offset)))
    shift = np.zeros(3, int)
    if plan.request.to is not None:
        shift = np.round(_centre(new) - _centre(mask)).astype(int)
    home = _held_on_wall(source, mask, shifted(new, -shift), bool(shift.any()))
    laid = reshaped(source, home, shift, onto)
    return _planted(case, plan, axes, laid, laid.mask, axes.back(shifted(home, shift)), {})


def inserted(case: Case, plan: Plan, bank: Bank | None, progress: Progress) -> Planted:
    """A lender's tumour in healthy tissue: of the request's donor, or of the model's bank."""
    axes, level = Axes.of(case.volume), 1.0
    if plan.request.donor is not None:
        matte, blur = _of_donor(*plan.request.donor, case.ct)
        level = 1.0 if case.ct else level_between(case.volume.array, plan.request.donor[0].array)
        facts = {"lender": "donor", **({} if case.ct else {"level": round(level, 3)})}
    else:
        assert bank is not None and plan.lender is not None
        lender = plan.lender
        matte, blur, facts = (
            matte_of(bank, lender),
            lender.blur_mm,
            {"lender": lender.case, "turn": lender.turn},
        )
        level = level_of(case.volume) / lender.level if lender.level else 1.0
    progress("texture", 0.5)
    matte = matte.turned(axes.order)
    image, target, request = axes.view(case.volume.array), axes.view(plan.target), plan.request
    free = None if request.inside is None else axes.view(request.inside)
    if request.avoid is not None:
        free = axes.view(~request.avoid) if free is None else free & ~axes.view(request.avoid)
    target = filled_up(image, target, axes.spacing, matte.in_lung, case.ct, free)
    laid = grafted(image, axes.spacing, target, matte, blur, case.ct, level)
    made = _planted(case, plan, axes, laid, laid.mask, plan.target, facts)
    hidden = "" if split(plan.request.features)[0] else _hidden(made)
    return replace(made, warnings=(*made.warnings, hidden)) if hidden else made


def _hidden(made: Planted) -> str:
    """A warning where a new tumour can hardly be told from the tissue that was there; empty else."""
    inside = made.mask[made.patch.box]
    before, after = (values[inside].astype(np.float32) for values in (made.patch.before, made.patch.after))
    if not inside.any():
        return ""
    off, noise = float(np.median(after) - np.median(before)), float(before.std())
    if abs(off) > HIDDEN * noise or after.std() > UNEVEN * noise:
        return ""
    return (
        f"the new tumour is hardly seen: it differs by {off:+.3g} from the tissue there, which varies by {noise:.3g}; ask for "
        "another mean_intensity"
    )


def _of_donor(image: Volume, mask: np.ndarray, ct: bool) -> tuple[Matte, float]:
    """A donor's matte in LPS order, detached, and its scan's sharpness."""
    axes = Axes.of(image)
    array, tumour = axes.view(image.array), axes.view(np.asarray(mask) > 0)
    made = remove(array, tumour, axes.spacing, is_ct=ct)
    source = Source(array, made.values, tumour, made.hole | made.zone, axes.spacing, ct)
    matte = detached(source.matte()[0], ct)
    return matte.turned(tuple(int(i) for i in np.argsort(axes.order))), blur_mm(array, axes.spacing)


def _planted(
    case: Case,
    plan: Plan,
    axes: Axes,
    laid: Laid,
    tumour: np.ndarray,
    wanted: np.ndarray,
    facts: Mapping[str, Any],
) -> Planted:
    """The change of the file's voxels.

    :param tumour: bool of the laid box, the new mask; `wanted` (K, J, I) as it was planned.
    """
    shape = case.volume.array.shape
    box = axes.file_box(laid.box, shape)
    before = case.volume.array[box].copy()
    inside, tumour = axes.back(laid.changed), axes.back(tumour)
    spared, own = 0, np.zeros(shape, bool) if case.mask is None else case.mask
    if plan.request.avoid is not None:
        free = own[box] | ~plan.request.avoid[box]
        spared = int((tumour & ~free).sum())
        inside, tumour = inside & free, tumour & free
        if (tumour & own[box]).any():  # it doesn't go on behind them
            tumour = ndimage.binary_propagation(tumour & own[box], mask=tumour) if spared else tumour
            inside = ndimage.binary_propagation((tumour | own[box]) & inside, mask=inside)
    if plan.request.strict:
        inside = inside & (tumour if case.mask is None else tumour | case.mask[box])
    after = before.copy()
    after[inside] = quantise(axes.back(laid.values)[inside], before.dtype)
    mask, changed = np.zeros(shape, bool), np.zeros(shape, bool)
    mask[box], changed[box] = tumour, inside
    planned = max(int(wanted.sum()), 1)
    share, left = mask.sum() / planned, laid.mask.sum() / planned
    if left < LEAST_LEFT:
        raise InputError(
            f"only {100 * left:.0f} % of the tumour would lie in tissue that it may replace there, the rest in the chest's "
            "wall, in bone or outside the body: choose another place"
        )
    grows = plan.request.to is None and wanted.sum() > own.sum()
    if spared and (share < LEAST_BESIDE * left or (grows and mask.sum() <= own.sum())):
        ml = np.prod(case.volume.spacing) / 1000
        raise InputError(
            f"only {ml * mask.sum():.3g} of {ml * planned:.3g} ml of the tumour would lie beside other tumours or regions, which "
            "stay as they are: ask for less or another place, or name the one that may change (--inside)"
        )
    warnings = ()
    if share < 0.98:
        why = "what would lie in another tissue at its border isn't tumour there"
        if spared > (1 - share) * planned / 2:
            why = "what would lie in other tumours or regions, which stay as they are, is cut off"
        warnings = (f"the new mask holds {100 * share:.0f} % of the voxels of the planned one: {why}",)
    return Planted(Patch(box, before, after), mask, changed, facts, warnings)


def _held_on_wall(source: Source, mask: np.ndarray, new: np.ndarray, away: bool) -> np.ndarray:
    """A new shape, taken to where a tumour of the lung that lies on the chest's wall stays on it."""
    if away or not source.in_lung:
        return new
    contact = contact_of(source.removed, mask, source.spacing, True)
    if contact is None:
        return new
    scale = (new.sum() / mask.sum()) ** (1 / 3)
    new = shifted(new, np.round((scale - 1) * (_centre(mask) - contact)).astype(int))
    return on_wall(source.removed, mask, new, source.spacing, True) if scale < 1 else new


def _centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)


def _offset(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Voxels (z, y, x) from one mask to the same mask elsewhere."""
    return np.array([b.min() - a.min() for a, b in zip(np.nonzero(old), np.nonzero(new))])


def shifted(mask: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A mask moved by whole voxels; what leaves the array is lost."""
    if not np.any(shift):
        return mask
    result = np.zeros_like(mask)
    at = np.argwhere(mask) + shift
    result[tuple(at[((at >= 0) & (at < mask.shape)).all(1)].T)] = True
    return result

"""Whether an edit can be done and what it takes, found in the application's own process without torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from TumorSynthLib import suitability
from TumorSynthLib.edit.edits import EDITS as TABLE
from TumorSynthLib.edit.options import IMAGES, of_edit
from TumorSynthLib.edit.options import OPTIONS as ROWS
from TumorSynthLib.errors import InputError
from TumorSynthLib.requests import EditRequest, resolved, split

from .api import EDITS, OPTIONS, Check
from .geometry import toLPS

OUTPUTS = ("inPlace", "newVolume", "syntheticCopy")
NOTED = 0.05  # population standard deviations from which a changed request is told


def checkOptions(edit: str, options: Mapping[str, Any]) -> None:
    """Raise InputError for an unknown edit or option, or one that is missing."""
    if edit not in EDITS:
        raise InputError(
            _("there is no edit {edit}: use one of {edits}").format(edit=edit, edits=", ".join(EDITS))
        )
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise InputError(
            _("there is no option {names}: use some of {known}").format(
                names=", ".join(unknown), known=", ".join(OPTIONS)
            )
        )
    for name, value in options.items():
        rows = [row for row in ROWS.values() if row.slicer == name and row.asks(value)]
        if rows and not any(edit in row.edits for row in rows):
            text = _("{edit} has no option {name}: leave it out")
            raise InputError(text.format(edit=edit, name=name))
    if TABLE[edit].place and options.get("to") is None:
        raise InputError(_("say where to: place a point, the new centre of the tumour"))
    if edit == "retexture" and not (options.get("features") or options.get("donor")):
        raise InputError(_("choose another tumour to take the texture from, or set a feature"))
    if edit == "reshape" and not options.get("features"):
        raise InputError(_("set a feature of the shape, for example the volume"))
    if edit == "series" and (not options.get("feature") or not options.get("values")):
        raise InputError(_("choose the feature that is to change, and its values"))
    if options.get("whole") and edit != "remove":
        raise InputError(_("only remove takes a whole tumour of several regions: leave out the option whole"))
    if options.get("output", "inPlace") not in OUTPUTS:
        raise InputError(_("output must be one of {known}").format(known=", ".join(OUTPUTS)))


def engineOptions(edit: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `EditRequest`, but for images; RAS becomes LPS here.

    :raises InputError: a value that isn't possible.
    """
    found = {}
    for name, row in of_edit(edit).items():
        value = options.get(row.slicer) if row.slicer else None
        if value is None or row.kind in IMAGES:
            continue
        found[name] = toLPS(value) if row.kind == "point" else float(value) if row.kind == "number" else value
    return found


def checkRequest(edit: str, options: Mapping[str, Any]) -> EditRequest:
    """The request without images, checked as far as that goes.

    :raises InputError: an option out of range, an unknown feature, an impossible value.
    """
    request = EditRequest(**engineOptions(edit, options))
    if TABLE[edit].texture and not TABLE[edit].shape:
        resolved(request.features)
    else:
        split(request.features)
    return request


def check(edit: str, editor, volume, mask, options: Mapping[str, Any], device: str) -> Check:
    """What an edit with a checked input takes.

    :param editor: the engine's `Editor`. :param mask: (K, J, I) bool; None for insert. :param device: as asked.
    :raises InputError, ModelError: it can't be done.
    """
    request = checkRequest(edit, options)
    modality, warnings = suitability.modality_of(editor.bundle, request.modality, volume)
    if mask is None:
        return Check(modality=modality, device=_device(device), warnings=tuple(warnings))
    warnings = warnings + suitability.check_fit(volume, mask, editor.bundle)
    rough = suitability.estimate(volume, mask, editor.bundle, request.steps)
    used = {}
    if edit in ("synthesize", "retexture") and request.features:
        used, more = _feasible(editor, modality, resolved(request.features), volume, mask)
        warnings += more
    return Check(
        modality=modality,
        device=_device(device),
        seconds=rough["seconds"] * runsOf(edit, request, options),
        bytes=rough["bytes"],
        voxels=int(rough["voxels"]),
        warnings=tuple(dict.fromkeys(warnings)),
        used=used,
    )


def runsOf(edit: str, request: EditRequest, options: Mapping[str, Any]) -> int:
    """How often the network runs, compared with one edit."""
    runs = request.samples if edit != "remove" else 1
    runs += edit in ("move", "reshape")
    return runs * (len(options["values"]) if edit == "series" else 1)


def _feasible(
    editor, modality: str, asked: Mapping[str, float], volume, mask
) -> tuple[dict[str, float], list[str]]:
    """The nearest request that a tumour can meet where it isn't the asked one, and what is unusual about it."""
    population = editor.population(modality)
    known = {name: value for name, value in asked.items() if population and name in population.names}
    if not known:
        return {}, []
    feasible = population.project(known)
    spread = dict(zip(population.names, population.std))
    moved = {n: b for n, (a, b) in feasible.changed.items() if abs(b - a) > NOTED * max(spread[n], 1e-12)}
    warnings = []
    if moved:
        warnings.append(_("no tumour has all of these features at once: the nearest request will be used"))
    if feasible.distance_percentile > 99:
        warnings.append(
            _(
                "the request is farther from the middle of the model's tumours than {share:.0f} % of them"
            ).format(share=feasible.distance_percentile)
        )
    return {name: float(value) for name, value in moved.items()}, warnings


def _device(asked: str) -> str:
    """The device that an edit will most likely run on; torch, which knows, isn't asked here."""
    if asked and asked != "auto":
        return asked
    return "cuda" if shutil.which("nvidia-smi") else "cpu"

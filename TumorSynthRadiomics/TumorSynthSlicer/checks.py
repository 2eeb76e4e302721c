"""Whether an edit can be done and what it takes, found in the application's own process without torch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from TumorSynthLib import suitability
from TumorSynthLib.edit.edits import EDITS as TABLE
from TumorSynthLib.edit.options import IMAGES, of_edit
from TumorSynthLib.edit.options import OPTIONS as ROWS
from TumorSynthLib.errors import InputError
from TumorSynthLib.models.parts import draws_shapes
from TumorSynthLib.radiomics.table import FEATURES, resolve
from TumorSynthLib.requests import EditRequest, resolved, split

from .api import EDITS, OPTIONS, Check
from .geometry import toLPS

OUTPUTS = ("inPlace", "newVolume", "syntheticCopy")


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
        found[name] = _engineValue(row, value)
    return found


def _engineValue(row, value):
    """A value of an option as the engine takes it."""
    if row.kind == "point":
        return value if isinstance(value, str) else toLPS(value)
    return float(value) if row.kind == "number" else value


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


def engineOf(edit: str, request: EditRequest, bundle, modality: str = "") -> str:
    """Name of the engine that an edit takes: "bridge" is a model's network, "exemplar" the image's own tissue."""
    from TumorSynthLib.edit.plan import choose_engine, of_existing

    if edit in ("retexture", "series"):  # a series' steps change the tumour that is there too
        edit, request = "synthesize", of_existing(request)
    return choose_engine(edit, SimpleNamespace(bundle=bundle, modality=modality), request)


def needsTorch(edit: str, request: EditRequest, bundle, feature: str | None = None) -> bool:
    """Whether an edit takes a network, a model's own or that of its shapes, or has tissue make room.

    :param feature: which a series changes.
    """
    drawn = TABLE[edit].draws or bool(split(request.features)[1])
    drawn = drawn or (feature is not None and FEATURES[resolve(feature)[0]].cls == "shape")
    makesRoom = bool(request.mass_effect)
    return makesRoom or (drawn and draws_shapes(bundle)) or engineOf(edit, request, bundle) == "bridge"


def check(
    edit: str,
    editor,
    volume,
    mask,
    options: Mapping[str, Any],
    device: str,
    modality: tuple[str, list[str]] | None = None,
) -> Check:
    """What an edit with a checked input takes.

    :param editor: the engine's `Editor`.
    :param volume: the image or a part of it around the tumour. :param mask: (K, J, I) bool on it; None for insert.
    :param device: as asked.
    :param modality: of the whole image, and warnings about it; None looks for it in the volume.
    :raises InputError, ModelError: it can't be done.
    """
    request, bundle = checkRequest(edit, options), editor.bundle
    name, warnings = modality or modalityOf(bundle, volume, options.get("modality"))
    engine = engineOf(edit, request, bundle, name)
    if engine == "exemplar" and mask is not None:
        warnings = warnings + suitability.check_surroundings(mask, edit != "remove")
        return Check(
            modality=name, voxels=int(mask.sum()), warnings=tuple(dict.fromkeys(warnings)), engine=engine
        )
    if mask is None:
        rough: dict = _ofNew(request, bundle)
        return Check(modality=name, device=_device(device), warnings=tuple(warnings), engine=engine, **rough)
    warnings = warnings + suitability.check_fit(volume, mask, bundle)
    rough = suitability.estimate(volume, mask, bundle, request.steps)
    used = {}
    if edit in ("synthesize", "retexture") and request.features:
        wish = editor.nearest(volume, mask, request.features, name, request.region)
        used, warnings = {n: float(b) for n, (a, b) in wish.changed.items()}, warnings + list(wish.warnings)
    return Check(
        modality=name,
        device=_device(device),
        seconds=rough["seconds"] * runsOf(edit, request, options),
        bytes=rough["bytes"],
        voxels=int(rough["voxels"]),
        warnings=tuple(dict.fromkeys(warnings)),
        used=used,
        engine=engine,
    )


def modalityOf(bundle, volume, wanted: str | None) -> tuple[str, list[str]]:
    """Modality of an image, and warnings about it.

    :raises InputError, ModelError: the model has none that the image can have.
    """
    if bundle is None:
        return suitability.modality_without_model(volume, wanted)
    return suitability.modality_of(bundle, wanted, volume)


def _ofNew(request: EditRequest, bundle) -> dict[str, float]:
    """Seconds and bytes for a new tumour of the asked volume; nothing where no volume is asked."""
    size = split(request.features)[1].get("original_shape_MeshVolume")
    if not size:
        return {}
    margin = 2 * float(bundle.json["margin_mm"])
    extent = (float(size) * 6 / math.pi) ** (1 / 3) + margin  # mm, of a ball with its surroundings
    voxels = math.prod(extent / d for d in bundle.spacing)
    return suitability.estimate_of(voxels, bundle, request.steps)


def runsOf(edit: str, request: EditRequest, options: Mapping[str, Any]) -> int:
    """How often the network runs, compared with one edit."""
    runs = request.samples if edit != "remove" else 1
    runs += edit in ("move", "reshape")
    return runs * (len(options["values"]) if edit == "series" else 1)


def _device(asked: str) -> str:
    """The device that an edit will most likely run on; torch, which knows, isn't asked here."""
    if asked and asked != "auto":
        return asked
    return "cuda" if shutil.which("nvidia-smi") else "cpu"

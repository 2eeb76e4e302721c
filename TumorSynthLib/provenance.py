"""What was done to an image, with what, and the marks that say it is synthetic.

A record is a plain dictionary that goes into a JSON file beside the image (the sidecar). It holds all that is needed to
repeat the edit: operation, model with its hash, features, seed and sampler, and the hashes of the voxels it began with.
File names are kept without their folders, which may name a patient.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from TumorSynthLib import NOTICE, __version__
from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.options import OPTIONS, of_edit, recorded
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.small_files import read_small
from TumorSynthLib.terminal import shown

if TYPE_CHECKING:
    import numpy as np

    from TumorSynthLib.models.bundle import Bundle
    from TumorSynthLib.volume import Volume

SOFTWARE = "SlicerTumorSynthRadiomics"
FORMAT = 2  # 1 had no plan
MAX_BYTES = 16 << 20
"""Largest sidecar that is read; one with all features of a few hundred samples stays far below."""

_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch", "safetensors", "monai")
_IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def record(
    operation: str,
    bundle: Bundle | None,
    source: Any,
    result: Any,
    *,
    device: str | None = None,
    files: Mapping[str, str | os.PathLike] | None = None,
    origin: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of one edit.

    :param operation: name of the editor's method, e.g. "synthesize".
    :param bundle: the model; None without one.
    :param source: what was edited; has `volume`, `mask`, `request` (an `EditRequest`) and `modality`.
    :param result: the `EditResult`.
    :param device: where the network ran, e.g. "cpu".
    :param files: role ("image", "mask", "donor_image", …) to file; names and no folders are kept.
    :param origin: the `fingerprint` of what was edited, if it is there already.
    :param plan: what was decided, e.g. the engine; see `edit.plan.Plan.as_record`.
    """
    request, lent = source.request, (plan or {}).get("engine") == "exemplar"
    entry: dict[str, Any] = {
        "format": FORMAT,
        "synthetic": True,
        "statement": statement(operation, bundle.id if bundle else "", bundle.version if bundle else ""),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "software": software(),
        "operation": operation,
        "model": model(bundle) if bundle else {},
        "modality": source.modality,
        "plan": dict(plan or {}),
        "request": {
            **request.options(operation),
            "features": _wanted(request, result, lent),
            "donor": request.donor is not None,
        },
        "features": {
            "asked": result.asked,
            "used": result.used,
            "reached": result.reached,
            "before": result.before,
        },
        "input": dict(origin or fingerprint(source.volume, source.mask)),
        "timing_seconds": result.timing,
        "device": device,
        "warnings": list(result.warnings),
    }
    entry["input"] |= _mask_hashes(request, lent)
    entry["input"]["synthetic"] = is_marked(source.volume.metadata)
    return plain(with_files(entry, files or {}))


def _wanted(request: Any, result: Any, lent: bool) -> dict[str, float]:
    """Features that a repetition has to ask for: those of a donor too, not those that an edit takes from the tumour itself.

    :param lent: the donor's tissue was used, which a repetition needs again.
    """
    if request.donor is not None and not lent:
        return dict(result.asked)
    from TumorSynthLib.edit.features import split

    texture, shape = split(request.features)
    return {name: result.asked.get(name, value) for name, value in (shape | texture).items()}


def of_shape(bundle: Bundle, request: Any, result: Any, like: Volume | None = None) -> dict[str, Any]:
    """The record of a drawn mask; `like` is the image whose grid it got."""
    grid = result.volume
    entry = {
        "format": FORMAT,
        "synthetic": True,
        "statement": f"Synthetic mask: drawn by {SOFTWARE} {__version__} (model {bundle.id} {bundle.version}). {NOTICE}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "software": software(),
        "operation": "shape",
        "model": model(bundle),
        "request": {**request.options("shape"), "features": result.asked, "donor": False},
        "features": {"asked": result.asked, "used": result.used, "reached": result.reached},
        "input": {name: list(getattr(grid, name)) for name in ("size", "spacing", "origin", "direction")},
        "timing_seconds": result.timing,
        "warnings": list(result.warnings),
    }
    entry["input"] |= _mask_hashes(request) | (
        {} if like is None else {"like_sha256": voxel_hash(like.array)}
    )
    return plain(entry)


def with_files(
    entry: Mapping[str, Any],
    files: Mapping[str, str | os.PathLike],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The record with the names of files added, and with the labels that were taken of masks, by role."""
    named = {role: shown(Path(path).name) for role, path in files.items()}
    taken = {role: [shown(str(name)) for name in names] for role, names in (labels or {}).items()}
    told = {"files": {**entry.get("files", {}), **named}}
    return {**entry, **told, **({"labels": taken} if taken else {})}


def statement(operation: str, model_id: str, version: str) -> str:
    """The sentence that a synthetic image carries."""
    model_text = f"model {model_id} {version}" if model_id else "no model"
    return f"Synthetic image: edited by {SOFTWARE} {__version__} ({operation}, {model_text}). {NOTICE}"


def software() -> dict[str, Any]:
    """Versions of this package and of those that the voxels depend on."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "name": SOFTWARE,
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
    }


def model(bundle: Bundle) -> dict[str, Any]:
    """Identity of a model: the hash of its manifest holds the hashes of all its files."""
    files = {name: entry["sha256"] for name, entry in bundle.json.get("files", {}).items()}
    return {
        "id": bundle.id,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "files": files,
        "sampler": bundle.json.get("sampler"),
        "licence": bundle.json.get("licence"),
        **({"scale": bundle.scale} if bundle.scale != 1 else {}),
    }


def fingerprint(volume: Volume, mask: np.ndarray) -> dict[str, Any]:
    """Hashes of the voxels and the mask, and the geometry, of an edit's input."""
    import numpy as np

    return {
        "voxels_sha256": voxel_hash(volume.array),
        "mask_sha256": voxel_hash(np.packbits(mask)),
        "mask_voxels": int(np.count_nonzero(mask)),
        "type": volume.array.dtype.name,
        "size": list(volume.size),
        "spacing_mm": list(volume.spacing),
        "origin_mm": list(volume.origin),
        "direction": list(volume.direction),
    }


def voxel_hash(array: np.ndarray) -> str:
    """SHA-256 of an array's values in (K, J, I) order, little-endian; the same for any file format."""
    import numpy as np

    data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(data.data.cast("B")).hexdigest()


def marks(entry: Mapping[str, Any]) -> dict[str, str]:
    """Header fields that mark a written image as synthetic (see `volume.write_volume`).

    `descrip` and `aux_file` are NIfTI's own fields; the other keys are kept by NRRD and MetaImage.
    """
    model_id = entry.get("model", {}).get("id", "")
    what = f"{entry.get('operation', 'edit')} {model_id}".strip()
    return {
        "descrip": f"SYNTHETIC, research use only, not for diagnosis: {what}"[:79],
        "aux_file": "SYNTHETIC",
        "synthetic": "true",
        "synthetic_statement": str(entry.get("statement", NOTICE)),
        "synthetic_operation": str(entry.get("operation", "")),
        "synthetic_model": f"{model_id} {entry.get('model', {}).get('version', '')}".strip(),
    }


def is_marked(metadata: Mapping[str, str]) -> bool:
    """True where an image's header says that it is synthetic."""
    return metadata.get("synthetic") == "true" or metadata.get("descrip", "").startswith("SYNTHETIC")


def sidecar_path(image: str | os.PathLike) -> Path:
    """The JSON file that belongs to an image: edited.nii.gz → edited.json."""
    path = Path(image)
    for suffix in _IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.with_name(path.name[: -len(suffix)] + ".json")
    return path.with_name(path.name + ".json")


def write_sidecar(entry: Mapping[str, Any], image: str | os.PathLike) -> Path:
    """Write the record beside an image, whole or not at all; returns the file.

    :raises InputError: the folder refuses the file.
    """
    path = sidecar_path(image)
    text = json.dumps(plain(entry), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if shown(text) != text:  # half a character, e.g. of a name that isn't UTF-8: the file couldn't be written
        text = json.dumps(plain(entry), indent=2, allow_nan=False) + "\n"
    part = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")  # a longer name may not be possible
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"can't write {path} ({error.strerror}): check that the folder can be written to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def check_sidecar(path: str | os.PathLike) -> None:
    """Check, before any work, that no other file has the name that a record is to get: BIDS, for one, has its own there.

    :raises InputError: something else is there.
    """
    path = Path(path)
    if not path.exists():
        return
    with contextlib.suppress(InputError, OSError):
        if _is_record(_parsed(path)):
            return
    raise InputError(
        f"{path} is there, and isn't the record of an edit: it would be overwritten; give --out another name"
    )


def read_sidecar(path: str | os.PathLike) -> dict[str, Any]:
    """The record in a sidecar, or in that of an image.

    :raises InputError: there is none, or it isn't one of ours.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        path = sidecar_path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: an edit is repeated from the JSON file beside its result")
    entry = _parsed(path)
    if not _is_record(entry):
        raise InputError(f"{path} isn't the record of an edit: give the JSON file beside a result")
    if entry["format"] > FORMAT:
        raise InputError(
            f"{path} was written by a newer version ({entry['format']} > {FORMAT}): update this software"
        )
    return entry


def _parsed(path: Path) -> Any:
    data = read_small(path, MAX_BYTES, "the record of an edit")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"can't read {path} as JSON: give the JSON file beside a result") from error


def request_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `EditRequest` that repeats a recorded edit.

    A donor isn't needed again where its features are among those that were asked; where its tissue was lent, it is.
    The sampler's steps and eta stay None where they were the model's own choice.
    """
    arguments = recorded(entry["request"])
    if (
        entry.get("format") == 1 and entry["operation"] in EDITS
    ):  # which told of options that the edit passed over, too
        arguments = {name: value for name, value in arguments.items() if name in of_edit(entry["operation"])}
    arguments["features"] = dict(entry["request"]["features"]) or None
    arguments["modality"] = entry.get("modality")
    if EDITS.get(entry["operation"], EDITS["shape"]).changes:
        plan = entry.get("plan") or _plan_of_format_1(entry)
        arguments["engine"] = plan["engine"]
        if entry["operation"] in OPTIONS["texture_from"].edits:
            arguments["texture_from"] = plan["texture_from"]
    return arguments


def _plan_of_format_1(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a record without a plan was made with: the network, and a moved tumour's own voxels unless all features were asked."""
    asked = entry.get("features", {}).get("asked", {})
    whole = entry["request"].get("donor") or (asked and asked.keys() <= entry["request"]["features"].keys())
    return {"engine": "bridge", "texture_from": "request" if whole else "own"}


def _mask_hashes(request: Any, lent: bool = False) -> dict[str, str]:
    """Hash of each mask that a request holds, by the name that the record has for it.

    :param lent: a donor's tissue is used, so that it is hashed, too.
    """
    import numpy as np

    masks = {name: getattr(request, name) for name, row in OPTIONS.items() if row.kind == "mask"}
    hashes = {
        f"{name}_sha256": voxel_hash(np.packbits(mask)) for name, mask in masks.items() if mask is not None
    }
    if lent and request.donor is not None:
        image, mask = request.donor
        hashes["donor_sha256"] = voxel_hash(image.array)
        hashes["donor_mask_sha256"] = voxel_hash(np.packbits(np.asarray(mask) > 0))
    return hashes


def check_repeatable(
    entry: Mapping[str, Any],
    bundle: Bundle | None,
    volume: Volume | None = None,
    mask: np.ndarray | None = None,
    inside: np.ndarray | None = None,
    request: Any = None,
) -> list[str]:
    """Check that a repetition starts from the same model, voxels, mask and further masks, where there are any.

    :param inside: the organ, where there is no `request`: the `EditRequest`, whose masks are compared.
    :returns: what differs without changing the request, e.g. another version of a package: the voxels may differ slightly.
    :raises InputError: other voxels, or another mask. :raises ModelError: another model.
    """
    if (bundle.sha256 if bundle else None) != entry["model"].get("sha256"):
        made = (
            f"model {entry['model'].get('id')} {entry['model'].get('version')}"
            if entry["model"]
            else "no model"
        )
        there = f"{bundle.id} {bundle.version} is another" if bundle else "there is none: name it (--model)"
        raise ModelError(
            f"the edit was made with {made}, and {there}"
            if entry["model"]
            else "the edit was made without a model: leave out --model"
        )
    now = (
        {} if volume is None else fingerprint(volume, volume.array != volume.array if mask is None else mask)
    )
    if now and now["voxels_sha256"] != entry["input"].get("voxels_sha256"):
        raise InputError(
            f"the image isn't the one that was edited{_named(entry, 'image')} (its voxels differ): give the original image"
        )
    if now and now["mask_sha256"] != entry["input"].get("mask_sha256"):
        raise InputError(
            f"the mask isn't the one that was used{_named(entry, 'mask')} (its voxels differ): give the original mask and label"
        )
    if request is None:
        request = SimpleNamespace(**{**dict.fromkeys(OPTIONS), "inside": inside})
    hashes, before = _mask_hashes(request, lent=True), entry.get("input", {})
    if "donor_sha256" in before and any(
        hashes.get(k) != before.get(k) for k in ("donor_sha256", "donor_mask_sha256")
    ):
        raise InputError(
            "the edit took the tissue of a donor: give the same one again (--donor IMAGE2 MASK2)"
        )
    for name, row in OPTIONS.items():
        key = f"{name}_sha256"
        if row.kind != "mask" or hashes.get(key) == before.get(key):
            continue
        if key not in before:
            raise InputError(f"the edit was made without {row.flag}: leave it out")
        again = f"{row.flag}{_named(entry, name)}"
        raise InputError(
            f"the mask of {again} isn't the one that the edit was made with: give that one"
            if key in hashes
            else f"the edit left other labels alone: give the mask that has them{_named(entry, 'mask')}, and --label"
            if name == "avoid" and name not in entry.get("files", {}) and "mask" in entry.get("labels", {})
            else f"the edit was made with {again}: give it again"
        )
    then, here = entry.get("software", {}), software()
    differing = [f"{SOFTWARE} {then.get('version')}"] if then.get("version") != here["version"] else []
    for name, version in then.get("packages", {}).items():
        if here["packages"].get(name) != version:
            differing.append(f"{name} {version}")
    return [f"made with {', '.join(differing)}, not with those here: the voxels may differ"] * bool(differing)


def _named(entry: Mapping[str, Any], role: str) -> str:
    """In brackets, the file of a role and its labels, as far as the record tells them."""
    files, labels = entry.get("files", {}), entry.get("labels", {}).get(role)
    told = [str(files[role])] if role in files else []
    told += [f"label {', '.join(map(str, labels))}"] if isinstance(labels, list) else []
    return f" ({', '.join(told)})" if told else ""


@contextlib.contextmanager
def repeating(entry: Mapping[str, Any] | None) -> Iterator[None]:
    """Context in which an error of the model says, too, what can repeat a recorded edit; None: nothing is repeated."""
    try:
        yield
    except ModelError as error:
        if not entry or not entry["model"]:
            raise
        model, version = entry["model"], entry.get("software", {}).get("version")
        raise ModelError(
            f"{error}; {SOFTWARE} {version} with model {model.get('id')} {model.get('version')} repeats it"
        ) from error


def check_like(entry: Mapping[str, Any], like: Volume | None) -> None:
    """Raise InputError unless a mask is repeated on the grid that it was drawn on.

    :param like: the image whose grid it is to get; None: a grid of its own.
    """
    then, named = entry["input"].get("like_sha256"), entry.get("files", {}).get("like")
    if like is None and (then or named):
        raise InputError(
            f"the mask was drawn on the grid of an image ({named or 'unnamed'}): give it by --like, and --inside as then"
        )
    if like is not None and not (then or named):
        raise InputError("the mask was drawn without an image: leave out --like")
    if like is not None and then and voxel_hash(like.array) != then:
        raise InputError(
            "the image of --like isn't the one that the mask was drawn on (its voxels differ): give that one"
        )


def plain(value: Any) -> Any:
    """A value as JSON knows it: numpy numbers and arrays unwrapped, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def _is_record(entry: Any) -> bool:
    """True where a parsed JSON file has the parts of a record that a repetition needs."""
    if (
        not isinstance(entry, dict)
        or entry.get("synthetic") is not True
        or not isinstance(entry.get("format"), int)
    ):
        return False
    parts = [entry.get(name) for name in ("model", "request", "input")]
    parts += [entry.get(name, {}) for name in ("files", "labels")]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(entry.get("operation"), str):
        return False
    made_by = entry.get("software", {})
    if not isinstance(made_by, dict) or not isinstance(made_by.get("packages", {}), dict):
        return False
    if not isinstance(entry["model"].get("id", ""), (str, type(None))):
        return False
    return isinstance(entry["request"].get("features"), dict)

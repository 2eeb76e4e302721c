"""The models on this machine: find, list, describe, verify."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .bundle import Bundle, load_bundle, verify_folder
from .card import memorisation
from .catalogue import Catalogue, Entry, load_catalogue
from .folders import NoHomeFolder, bundled_folder, user_folder
from .names import MANIFEST, is_id


@dataclass(frozen=True)
class Installed:
    """A model on this machine. `error` says what is wrong with a damaged one, whose other texts may be
    empty."""

    id: str
    folder: Path
    bundled: bool
    version: str = ""
    title: str = ""
    organ: str = ""
    modalities: tuple[str, ...] = ()
    bytes: int = 0
    licence: str = ""
    error: str = ""


@dataclass(frozen=True)
class Listing:
    """`models`: one dict per model with ``id, version, title, organ, modality, bytes, licence, status,
    update``; `notes`: what to tell the user besides, e.g. that the catalogue can't be reached. `status`:
    bundled, installed, available or damaged."""

    models: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def model_folders() -> list[tuple[Path, bool]]:
    """All model folders as (folder, bundled); the user's come first and hide bundled ones of the same id.

    A user without a home folder has the bundled ones.
    """
    found: dict[str, tuple[Path, bool]] = {}
    try:
        own = user_folder()
    except NoHomeFolder:
        own = None
    for root, bundled in ((own, False), (bundled_folder(), True)):
        if root is None or not root.is_dir():
            continue
        for folder in sorted(root.iterdir()):
            if is_id(folder.name) and (folder / MANIFEST).is_file():
                found.setdefault(folder.name, (folder, bundled))
    return list(found.values())


def find(model: str | os.PathLike[str]) -> Bundle:
    """Open a model by id: one that the user installed, else a bundled one. A path to a bundle folder works
    too.

    :raises ModelError: if there is none (the message lists what there is), or if it is damaged.
    """
    text = os.fspath(model)
    if not is_id(text) or os.sep in text:
        if Path(text).is_dir():
            return load_bundle(text)
        raise ModelError(f"there is no model {text!r}; {_what_there_is()}")
    for folder, _ in model_folders():
        if folder.name == text:
            return _checked_id(load_bundle(folder), text)
    raise ModelError(f"there is no model {text!r}; {_what_there_is(text)}")


def that_come_along() -> list[Bundle]:
    """The bundled models, by id, whatever the user installed besides.

    :raises ModelError: one is damaged.
    """
    root = bundled_folder()
    folders = sorted(root.iterdir()) if root is not None else []
    return [load_bundle(f) for f in folders if is_id(f.name) and (f / MANIFEST).is_file()]


def installed() -> list[Installed]:
    """All models on this machine, damaged ones too, by id."""
    return sorted(
        (_describe(folder, bundled) for folder, bundled in model_folders()), key=lambda model: model.id
    )


def list_models(catalogue: Catalogue | None = None) -> Listing:
    """Models on this machine, then those that can be installed. An unreachable catalogue is a note, not an
    error."""
    notes: list[str] = []
    if catalogue is None:
        catalogue, notes = _catalogue_or_note()
    rows = []
    local = installed()
    for model in local:
        status = "damaged" if model.error else "bundled" if model.bundled else "installed"
        if model.error:
            notes.append(model.error)
        rows.append(
            {
                "id": model.id,
                "version": model.version,
                "title": model.title,
                "organ": model.organ,
                "modality": ", ".join(model.modalities),
                "bytes": model.bytes,
                "licence": model.licence,
                "status": status,
                "update": _update(model, catalogue),
            }
        )
    known = {model.id for model in local}
    rows += [
        {
            "id": entry.id,
            "version": entry.version,
            "title": entry.title,
            "organ": entry.organ,
            "modality": entry.modality,
            "bytes": entry.bytes,
            "licence": entry.licence,
            "status": "available",
            "update": "",
        }
        for entry in catalogue.entries
        if entry.id not in known
    ]
    return Listing(tuple(rows), tuple(notes))


def info(model: str, catalogue: Catalogue | None = None) -> dict[str, Any]:
    """All that is known of a model, for display: the manifest without the numbers of population, bank and shapes, and
    what it holds of patients; or its catalogue entry.

    :raises ModelError: if it is neither on this machine nor in the catalogue, or damaged.
    """
    try:
        bundle = find(model)
    except ModelError:
        if any(folder.name == model for folder, _ in model_folders()) or Path(model).is_dir():
            raise
        entry = _entry(model, catalogue)
        if entry is None:
            raise
        return {"status": "available", **asdict(entry)}
    shown = {key: value for key, value in bundle.json.items() if key not in ("population", "bank")}
    shown["memorisation"] = memorisation(bundle.json)
    if bundle.json.get("shape"):
        shown["shape"] = _without_cases(bundle.json["shape"])
    if bundle.json.get("bank"):
        shown["bank"] = _lenders(bundle.json["bank"]["tumours"])
    population = {
        modality: _counts(entry)
        if "names" in entry
        else {name: _counts(part) for name, part in entry.items()}
        for modality, entry in (bundle.json.get("population") or {}).items()
    }
    return {
        "status": "bundled" if _is_bundled(bundle.folder) else "installed",
        "folder": str(bundle.folder),
        "sha256": bundle.sha256,
        "bytes": bundle.bytes,
        **shown,
        "population": population,
        "ignored": bundle.ignored,
    }


def _lenders(tumours: list[dict[str, Any]]) -> dict[str, Any]:
    """What a bank holds of patients, and by which licence."""
    return {
        "what": "voxels of real tumours of training patients, 8 bit, which insertions show again",
        "tumours": [str(tumour.get("case")) for tumour in tumours],
        "data": sorted({str(tumour.get("data")) for tumour in tumours}),
        "licence": sorted({str(tumour.get("licence")) for tumour in tumours}),
    }


def _without_cases(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape part without the hundreds of case numbers of its population and forms."""
    forms = shape.get("forms")
    short = {"forms": {k: v for k, v in forms.items() if k != "cases"}} if isinstance(forms, dict) else {}
    return {**shape, "population": _counts(shape["population"]), **short}


def _counts(entry: dict[str, Any]) -> dict[str, int]:
    """Size of a population of one region."""
    return {"cases": len(entry["cases"]), "features": len(entry["names"])}


def verify(model: str | None = None) -> list[tuple[str, str]]:
    """Check all files of one model, or of all: (id, error) pairs, the error empty where all is well.

    :raises ModelError: if `model` is given and not on this machine.
    """
    if model is not None and not any(folder.name == model for folder, _ in model_folders()):
        find(model).verify()
        return [(model, "")]
    results = []
    for folder, _ in model_folders():
        if model in (None, folder.name):
            results.append((folder.name, _error_of(folder)))
    return results


def _error_of(folder: Path) -> str:
    try:
        _checked_id(verify_folder(folder), folder.name)
    except ModelError as error:
        return str(error)
    return ""


def _checked_id(bundle: Bundle, expected: str) -> Bundle:
    if bundle.id != expected:
        raise ModelError(
            f"the folder {bundle.folder} holds the model {bundle.id!r}; rename the folder to that"
        )
    return bundle


def _describe(folder: Path, bundled: bool) -> Installed:
    try:
        bundle = _checked_id(load_bundle(folder), folder.name)
    except ModelError as error:
        return Installed(folder.name, folder, bundled, error=str(error))
    return Installed(
        bundle.id,
        folder,
        bundled,
        bundle.version,
        bundle.title,
        bundle.organ,
        bundle.modalities,
        bundle.bytes,
        bundle.licence,
    )


def _is_bundled(folder: Path) -> bool:
    root = bundled_folder()
    return root is not None and folder.parent == root


def _update(model: Installed, catalogue: Catalogue) -> str:
    """The catalogue's version where it is newer, else empty."""
    entry = catalogue.get(model.id)
    newer = entry is not None and (model.error or version_key(entry.version) > version_key(model.version))
    return entry.version if entry is not None and newer else ""


def version_key(version: str) -> tuple[int, ...]:
    """Numbers of a version for comparison; what follows ``-`` or ``+`` does not count."""
    numbers = version.replace("+", "-").split("-", 1)[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in [*numbers, "0", "0", "0"][:4])


def _entry(model: str, catalogue: Catalogue | None) -> Entry | None:
    return (catalogue or _catalogue_or_note()[0]).get(model)


def _catalogue_or_note() -> tuple[Catalogue, list[str]]:
    try:
        return load_catalogue(), []
    except ModelError as error:
        return Catalogue((), ""), [str(error)]


def _what_there_is(model: str = "") -> str:
    """What to do about a model that is not there. The network is not asked: `find` must work offline."""
    import difflib

    here = [folder.name for folder, _ in model_folders()]
    close = difflib.get_close_matches(model, here, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    there = f"on this machine: {', '.join(sorted(here)) or 'none'}"
    return f"{hint}{there}. 'tumorsynth models list' shows what can be installed"

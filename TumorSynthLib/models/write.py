"""Writing of bundles, for training and tests: tensors, manifest with hashes, and the zip that is released."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from .bundle import Bundle, licence_text, verify_folder
from .card import memorisation
from .manifest import check_manifest
from .names import MANIFEST, check_file_name, is_note

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same bundle gives the same archive


def write_bundle(folder: str | Path, manifest: dict[str, Any], files: dict[str, dict[str, Any]]) -> Bundle:
    """Write a bundle folder; ``bundle.json`` comes last, so that an interrupted writing is no bundle.

    :param manifest: all keys of ``bundle.json`` but ``files``, ``memorisation`` (and ``format``), which are filled in.
    :param files: file name → tensors by name, all numpy arrays or all torch tensors.
    :raises ModelError: if the manifest is incomplete, naming the key.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = {}
    for name, tensors in files.items():
        data = _serialize(tensors)
        _write(folder / check_file_name(name, "the new bundle"), data)
        listed[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = {"format": 1, **manifest, "memorisation": "", "files": listed}
    check_manifest(manifest, f"the new {MANIFEST}")
    manifest["memorisation"] = memorisation(manifest)
    _write(
        folder / MANIFEST,
        (json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    )
    return verify_folder(folder)


def pack(folder: str | Path, target: str | Path) -> dict[str, Any]:
    """Zip a bundle for release (``NAME.tsm.zip``); returns its entry for the catalogue, whose `url` is the
    file's name."""
    bundle = verify_folder(folder)
    target = Path(target)
    notes = [
        path.name
        for path in bundle.folder.iterdir()
        if is_note(path.name) and path.is_file() and not path.is_symlink()
    ]
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in [MANIFEST, *sorted(bundle.json["files"]), *sorted(notes)]:
                entry = zipfile.ZipInfo(f"{bundle.id}/{name}", _ZIP_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, (bundle.folder / name).read_bytes())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    data = target.read_bytes()
    return {
        "id": bundle.id,
        "version": bundle.version,
        "title": bundle.title,
        "organ": bundle.organ,
        "modality": ", ".join(bundle.modalities),
        "url": target.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": licence_text(bundle.json["licence"]),
        "scores": bundle.json.get("scores") or {},
    }


def _serialize(tensors: dict[str, Any]) -> bytes:
    if any(type(tensor).__module__.startswith("torch") for tensor in tensors.values()):
        from safetensors.torch import save
    else:
        from safetensors.numpy import save
    return save(tensors)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""`bundle.json`: read with a bound on its size, and checked key by key."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..numeric import is_finite
from ..small_files import read_small
from .names import MANIFEST, check_file_name, is_id, is_sha256, is_version
from .parts import check_contents, check_parts

FORMAT = 1
MAX_MANIFEST_BYTES = 16 * 2**20  # a population's names and cases take some 100 kB
MAX_FILES = 64
MAX_FILE_BYTES = 16 * 2**30


def read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Read and check ``bundle.json`` of a bundle folder.

    :returns: the manifest, and the bytes it was parsed from (their SHA-256 identifies the model).
    :raises ModelError: naming the key that is missing or wrong.
    """
    path = folder / MANIFEST
    if path.is_symlink():
        raise ModelError(f"{path} is a link, so it is not opened; put the file itself there")
    if not path.exists():
        raise ModelError(f"{folder} is not a model: it has no {MANIFEST}")
    data = read_small(path, MAX_MANIFEST_BYTES, "the description of a model", ModelError)
    return parse_manifest(data, str(path)), data


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """Parse and check the bytes of a ``bundle.json``; `where` names it in messages."""
    _checked(data, where)
    return json.loads(data)


@lru_cache(maxsize=32)
def _checked(data: bytes, where: str) -> None:
    """Check the bytes of a manifest, the same ones once: Slicer's panel asks for its models with each slider."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelError(
            f"{where} is larger than {MAX_MANIFEST_BYTES >> 20} MB, so it is not opened; get the model again"
        )
    try:
        manifest = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not valid JSON ({_short(error)}); get the model again") from None
    if not isinstance(manifest, dict):
        raise ModelError(f"{where} is not a JSON object; get the model again")
    check_manifest(manifest, where)


def check_manifest(manifest: dict[str, Any], where: str) -> None:
    """Check each key that the library reads; keys it doesn't know are left alone, for later versions.

    :raises ModelError: naming `where` and the key.
    """
    check_contents(manifest, where)
    version = manifest.get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise ModelError(
            f"{where} has format {version}, this version reads up to {FORMAT}; update Tumor Synth Radiomics"
        )
    for key, (test, expected) in _REQUIRED.items():
        if key not in manifest:
            raise ModelError(f"{where} lacks the key {key!r} ({expected}); get the model again")
        if not test(manifest[key]):
            raise ModelError(_wrong(where, key, manifest[key], expected))
    for key, (test, expected) in _OPTIONAL.items():
        if manifest.get(key) is not None and not test(manifest[key]):
            raise ModelError(_wrong(where, key, manifest[key], expected))
    _check_modalities(manifest, where)
    _check_population(manifest, where)
    _check_files(manifest["files"], where)
    check_parts(manifest, where)


def _check_modalities(manifest: dict[str, Any], where: str) -> None:
    for modality in manifest["modalities"]:
        mapping = manifest["intensity"].get(modality)
        key = f"intensity.{modality}"
        if not isinstance(mapping, dict) or not _is_text(mapping.get("kind")):
            raise ModelError(_wrong(where, key, mapping, "an object with 'kind'"))
        for name in ("center", "scale", "level"):
            if name in mapping and not _is_number(mapping[name]):
                raise ModelError(_wrong(where, f"{key}.{name}", mapping[name], "a number"))
        if "range" in mapping and not _is_range(mapping["range"]):
            raise ModelError(_wrong(where, f"{key}.range", mapping["range"], "[low, high] with low < high"))
        if not isinstance(manifest["extraction"].get(modality), dict):
            raise ModelError(
                _wrong(
                    where,
                    f"extraction.{modality}",
                    manifest["extraction"].get(modality),
                    "pyradiomics settings",
                )
            )


def _check_population(manifest: dict[str, Any], where: str) -> None:
    entries: dict = {}
    for modality, entry in (manifest.get("population") or {}).items():
        several = isinstance(entry, dict) and "names" not in entry and len(manifest.get("regions") or []) > 1
        entries |= {f"{modality}.{r}": e for r, e in entry.items()} if several else {modality: entry}
    for modality, entry in entries.items():
        key = f"population.{modality}"
        if not isinstance(entry, dict):
            raise ModelError(_wrong(where, key, entry, "an object with 'names', 'cases' and 'tensor'"))
        for name in ("names", "cases"):
            if not _is_texts(entry.get(name)) or len(set(entry[name])) != len(entry[name]):
                raise ModelError(_wrong(where, f"{key}.{name}", entry.get(name), "a list of distinct texts"))
        if not _is_text(entry.get("tensor")):
            raise ModelError(_wrong(where, f"{key}.tensor", entry.get("tensor"), "the name of a tensor"))


def _check_files(files: dict[str, Any], where: str) -> None:
    if len({name.lower() for name in files}) != len(files):
        raise ModelError(
            f"{where}: two names in 'files' differ only in upper and lower case; ask the author to rename one"
        )
    for name, entry in files.items():
        check_file_name(name, where)
        if not name.endswith(".safetensors"):
            raise ModelError(f"{where}: 'files' lists {name!r}; a bundle holds safetensors files only")
        if not isinstance(entry, dict) or not is_sha256(entry.get("sha256")):
            raise ModelError(_wrong(where, f"files.{name}.sha256", entry, "64 hexadecimal digits"))
        size = entry.get("bytes")
        if not isinstance(size, int) or isinstance(size, bool) or not 8 < size <= MAX_FILE_BYTES:
            raise ModelError(_wrong(where, f"files.{name}.bytes", size, "the file's size"))


def _wrong(where: str, key: str, value: object, expected: str) -> str:
    return f"{where}: the key {key!r} is {_short(value)}, expected {expected}; get the model again"


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100_000 and bool(value.strip())


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _is_number(value: object) -> bool:
    return is_finite(value)


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


def _is_spacing(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 3 and all(_is_number(v) and 0.01 <= v <= 100 for v in value)
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_modalities(value: object) -> bool:
    return _is_texts(value) and len(set(value)) == len(value)


def _is_regions(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    if _is_texts(value):
        return len(set(value)) == len(value)
    if not all(isinstance(r, dict) and _is_text(r.get("name")) and _is_label(r.get("label")) for r in value):
        return False
    return all(len({r[key] for r in value}) == len(value) for key in ("name", "label"))


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 256


def _is_files(value: object) -> bool:
    return isinstance(value, dict) and 0 < len(value) <= MAX_FILES


def _is_licence(value: object) -> bool:
    return _is_text(value) or (isinstance(value, dict) and bool(value))


Check = tuple[Callable[[Any], bool], str]

_REQUIRED: dict[str, Check] = {
    "format": (lambda value: value == FORMAT and not isinstance(value, bool), str(FORMAT)),
    "id": (is_id, "lower-case letters, digits, '.', '_' and '-'"),
    "version": (is_version, "a version such as '1.0.0'"),
    "title": (_is_text, "a text"),
    "organ": (_is_text, "a text"),
    "modalities": (_is_modalities, "a list such as ['CT']"),
    "spacing_mm": (_is_spacing, "[x, y, z] in mm"),
    "margin_mm": (lambda value: _is_number(value) and 0 <= value <= 1000, "a length in mm"),
    "intensity": (_is_object, "an object, by modality"),
    "extraction": (_is_object, "an object, by modality"),
    "licence": (_is_licence, "a text, or an object"),
    "files": (_is_files, f"an object with 1 to {MAX_FILES} files"),
}
_OPTIONAL: dict[str, Check] = {
    "regions": (_is_regions, "a list of names, or of objects with 'name' and 'label', all distinct"),
    "codec": (_is_object, "an object"),
    "network": (_is_object, "an object"),
    "engine": (_is_text, "the name of an engine"),
    "sampler": (_is_object, "an object"),
    "population": (_is_object, "an object, by modality"),
    "training": (_is_object, "an object"),
    "scores": (_is_object, "an object"),
}

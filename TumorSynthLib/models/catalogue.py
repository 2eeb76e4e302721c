"""The catalogue: which models can be installed, from where, with which hash, size, licence and scores."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ..errors import ModelError
from ..small_files import read_small
from .folders import bundled_folder, expanded
from .names import is_id, is_sha256, is_version
from .parts import check_contents

RELEASE_URL = ""
"""Base of the addresses of released models, ending in ``/``; change it here when the releases move. Empty:
none yet."""

CATALOGUE_VARIABLE = "TUMORSYNTH_CATALOGUE"
CATALOGUE_FILE = "catalogue.json"
FORMAT = 1
MAX_CATALOGUE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue; `url` is an https address, or the path of a file."""

    id: str
    version: str
    title: str
    organ: str
    modality: str
    url: str
    sha256: str
    bytes: int
    licence: str
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """The models that can be installed; `source` is where the list came from."""

    entries: tuple[Entry, ...]
    source: str

    def get(self, model: str) -> Entry | None:
        """The entry of a model, or None."""
        return next((entry for entry in self.entries if entry.id == model), None)


def load_catalogue(source: str | None = None, *, allow_loopback_http: bool = False) -> Catalogue:
    """Read the catalogue.

    :param source: an https address or a file; default ``TUMORSYNTH_CATALOGUE``, else the bundled file.
        Relative addresses in it are relative to the catalogue itself, in the bundled one to `RELEASE_URL`.
    :raises ModelError: if it can't be read, or an entry is wrong (named).
    """
    source = source or os.environ.get(CATALOGUE_VARIABLE) or ""
    if not source:
        folder = bundled_folder()
        path = folder / CATALOGUE_FILE if folder else None
        if path is None or not path.is_file():
            return Catalogue((), "")
        return parse_catalogue(_read_file(path), str(path), RELEASE_URL)
    if is_address(source):
        from . import download  # its libraries for the web take a tenth of the panel's opening

        data = download.fetch(source, MAX_CATALOGUE_BYTES, allow_loopback_http=allow_loopback_http)
        return parse_catalogue(data, source, source)
    path = expanded(source, "the catalogue is")
    return parse_catalogue(_read_file(path), str(path), str(path.parent))


def parse_catalogue(data: bytes, source: str, base: str) -> Catalogue:
    """Check a catalogue's JSON and resolve its addresses against `base` (an address or a folder)."""
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"catalogue {source} is not valid JSON ({error}); check {CATALOGUE_VARIABLE}"
        ) from None
    check_contents(content, f"catalogue {source}")
    if not isinstance(content, dict) or not isinstance(content.get("models"), list):
        raise ModelError(
            f"catalogue {source} is not an object with a list 'models'; check {CATALOGUE_VARIABLE}"
        )
    if content.get("format") != FORMAT:
        raise ModelError(
            f"catalogue {source} has format {content.get('format')!r}, this version reads {FORMAT}; "
            "update Tumor Synth Radiomics"
        )
    entries = tuple(_entry(item, number, source, base) for number, item in enumerate(content["models"]))
    if len({entry.id for entry in entries}) != len(entries):
        raise ModelError(f"catalogue {source} lists a model twice; ask its author to correct it")
    return Catalogue(entries, source)


def is_address(text: str) -> bool:
    """Whether `text` is a web address rather than a file or an id (``C:\\…`` is a file)."""
    scheme, there, _ = text.partition("://")
    return bool(there) and len(scheme) > 1


def _entry(item: object, number: int, source: str, base: str) -> Entry:
    where = f"catalogue {source}, model {number + 1}"
    if not isinstance(item, dict):
        raise ModelError(f"{where} is not an object; ask its author to correct it")
    checks = {
        "id": is_id,
        "version": is_version,
        "sha256": is_sha256,
        "bytes": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**50,
        "scores": lambda value: value is None or isinstance(value, dict),
        **{
            name: lambda value: isinstance(value, str) and bool(value.strip())
            for name in ("title", "organ", "modality", "url", "licence")
        },
    }
    for key, valid in checks.items():
        if not valid(item.get(key)):
            raise ModelError(
                f"{where}: the key {key!r} is {item.get(key)!r}; ask the catalogue's author to correct it"
            )
    return Entry(
        **{key: item[key] for key in checks if key not in ("url", "scores")},
        url=_resolve(item["url"], base),
        scores=item.get("scores") or {},
    )


def _resolve(url: str, base: str) -> str:
    if is_address(url) or not base:
        return url
    try:
        return urljoin(base, url) if is_address(base) else str(Path(base) / url)
    except ValueError:
        raise ModelError(
            f"the catalogue has the address {url[:80]!r}, which is none; ask its author to correct it"
        ) from None


def _read_file(path: Path) -> bytes:
    return read_small(path, MAX_CATALOGUE_BYTES, f"a catalogue of models ({CATALOGUE_VARIABLE})", ModelError)

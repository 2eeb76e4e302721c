"""Names that are safe to become files and folders, on every platform."""

from __future__ import annotations

import re

from ..errors import ModelError

_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}(?:[-+.][0-9A-Za-z.-]{1,32})?")
_FILE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib", ".npy", ".npz")
_NOTES = (".md", ".txt", ".png", ".jpg", ".svg", ".yaml", ".yml", ".csv")

MANIFEST = "bundle.json"


def is_id(text: object) -> bool:
    """Whether `text` can name a model: lower-case letters, digits, ``. _ -``, at most 64, no Windows device
    name."""
    return isinstance(text, str) and bool(_ID.fullmatch(text)) and text.split(".")[0] not in _WINDOWS_DEVICES


def is_version(text: object) -> bool:
    """Whether `text` is a version such as ``1.2.0``."""
    return isinstance(text, str) and bool(_VERSION.fullmatch(text))


def is_sha256(text: object) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal."""
    return isinstance(text, str) and bool(_SHA256.fullmatch(text))


def is_pickle(name: str) -> bool:
    """Whether `name` belongs to a format that may run code when it is opened."""
    return name.lower().endswith(_PICKLES)


def is_note(name: str) -> bool:
    """Whether `name` is documentation that may travel with a bundle; the library never opens it."""
    return name.upper() in ("LICENSE", "LICENCE", "README", "NOTICE") or name.lower().endswith(_NOTES)


def check_file_name(name: object, where: str) -> str:
    """Return `name` if it is a plain file name inside a bundle.

    :param where: what holds the name, for the message, e.g. ``bundle.json of tiny``.
    :raises ModelError: for a path (``/``, ``\\``, ``..``, a drive), a hidden or unusual name, or a pickle.
    """
    if not isinstance(name, str) or not _FILE.fullmatch(name) or ".." in name:
        raise ModelError(
            f"{where} names the file {name!r}, which is not a plain file name inside the bundle; "
            "the model was not opened. Get it again from its author"
        )
    if name.split(".")[0].lower() in _WINDOWS_DEVICES:
        raise ModelError(
            f"{where} names the file {name!r}, which Windows reserves; ask the model's author to rename it"
        )
    if is_pickle(name):
        raise ModelError(
            f"{where} contains {name!r}: files of this kind can run any program when opened, so they are "
            "refused. Ask the model's author for safetensors"
        )
    return name

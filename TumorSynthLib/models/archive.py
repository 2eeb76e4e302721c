"""A zipped bundle is unpacked member by member: only what its bundle.json lists, only where it belongs, only
as large as listed."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .manifest import MAX_FILES, MAX_MANIFEST_BYTES, parse_manifest, read_manifest
from .names import MANIFEST, check_file_name, is_note

Progress = Callable[[str, float], None]

MAX_NOTE_BYTES = 2 * 2**20
MAX_RATIO = 200  # deflate reaches 1000 : 1 on zeros; weights compress by less than 2
_CHUNK = 2**20


def archive_manifest(path: Path) -> dict[str, Any]:
    """Checked ``bundle.json`` of a zip archive, without unpacking anything.

    :raises ModelError: if the archive is damaged or holds anything unsafe.
    """
    with _open(path) as archive:
        return _members(archive, path)[1]


def unpack(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Unpack a zip archive into the existing empty `folder`.

    Notes (licence, read-me) are kept, all else must be listed in the archive's ``bundle.json``.

    :raises ModelError: if the archive is damaged or unsafe; `folder` may then hold a part of it.
    """
    with _open(path) as archive:
        members, _ = _members(archive, path)
        total = sum(info.file_size for info in members.values()) or 1
        done = 0
        for name, info in members.items():
            done = _extract(archive, info, folder / name, path, done, total, progress)


def copy_folder(source: Path, folder: Path, progress: Progress | None = None) -> None:
    """Copy a bundle folder's listed files and notes into the empty `folder`; links are not followed."""
    manifest, data = read_manifest(source)
    (folder / MANIFEST).write_bytes(data)
    notes = [
        path.name
        for path in source.iterdir()
        if is_note(path.name)
        and path.is_file()
        and not path.is_symlink()
        and path.stat().st_size <= MAX_NOTE_BYTES
    ]
    names = [*manifest["files"], *sorted(notes)[:MAX_FILES]]
    for number, name in enumerate(names):
        path = source / name
        if path.is_symlink() or not path.is_file():
            raise ModelError(f"{path} is missing or a link; copy the model's real files there")
        _copy_file(path, folder / name)
        if progress:
            progress("copy", (number + 1) / len(names))


def _copy_file(source: Path, target: Path) -> None:
    try:
        with open(source, "rb") as reader, open(target, "xb") as writer:
            while chunk := reader.read(_CHUNK):
                writer.write(chunk)
    except OSError as error:
        raise ModelError(
            f"{source} can't be copied to {target.parent} ({error.strerror}); "
            "check permissions and free space"
        ) from None


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; check the path") from None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable zip archive ({error}); get the model again") from None


def _members(archive: zipfile.ZipFile, path: Path) -> tuple[dict[str, zipfile.ZipInfo], dict[str, Any]]:
    """Members by plain name (one common top folder is allowed), and the manifest."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > 2 * MAX_FILES:
        raise ModelError(
            f"{path} holds {len(infos)} files, a model has at most {2 * MAX_FILES}; get the model again"
        )
    prefix = _top_folder(infos)
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_member(info, path)
        name = check_file_name(info.filename.removeprefix(prefix), f"the archive {path}")
        if name.lower() in map(str.lower, members):
            raise ModelError(f"{path} holds {name!r} twice; get the model again")
        members[name] = info
    if MANIFEST not in members:
        raise ModelError(f"{path} is not a model: it has no {MANIFEST}")
    manifest = parse_manifest(
        _read(archive, members[MANIFEST], MAX_MANIFEST_BYTES, path), f"{MANIFEST} in {path}"
    )
    _check_listed(members, manifest, path)
    return members, manifest


def _top_folder(infos: list[zipfile.ZipInfo]) -> str:
    """``name/`` if every member lies in that one folder, else empty."""
    tops = {info.filename.split("/", 1)[0] for info in infos if info.filename.count("/") == 1}
    inside = all(info.filename.count("/") == 1 for info in infos)
    top = tops.pop() if inside and len(tops) == 1 else ""
    return f"{top}/" if top and top != ".." and top != "." else ""


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ModelError(f"{path} holds {info.filename!r}, which is a link or a device, not a file; refused")
    if info.flag_bits & 1:
        raise ModelError(f"{path} is protected by a password; unpack it yourself and install the folder")
    if info.file_size > MAX_MANIFEST_BYTES and info.file_size > MAX_RATIO * max(1, info.compress_size):
        raise ModelError(
            f"{path}: {info.filename!r} grows from {info.compress_size:,} to {info.file_size:,} bytes, "
            "which no model does; refused"
        )


def _check_listed(members: dict[str, zipfile.ZipInfo], manifest: dict[str, Any], path: Path) -> None:
    for name, entry in manifest["files"].items():
        if name not in members:
            raise ModelError(f"{path} lacks {name!r}, which its {MANIFEST} lists; get the model again")
        if members[name].file_size != entry["bytes"]:
            raise ModelError(
                f"{path}: {name!r} has {members[name].file_size:,} bytes, its {MANIFEST} says "
                f"{entry['bytes']:,}; get the model again"
            )
    for name in members.keys() - manifest["files"].keys() - {MANIFEST}:
        if not is_note(name):
            raise ModelError(f"{path} holds {name!r}, which its {MANIFEST} does not list; refused")
        if members[name].file_size > MAX_NOTE_BYTES:
            raise ModelError(f"{path}: {name!r} is larger than {MAX_NOTE_BYTES >> 20} MB; refused")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int, path: Path) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise ModelError(f"{path} is damaged at {info.filename!r} ({error}); get the model again") from None


def _extract(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    target: Path,
    path: Path,
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    left = info.file_size
    try:
        with archive.open(info) as member, open(target, "xb") as file:
            while chunk := member.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise ModelError(f"{path}: {info.filename!r} is larger than it says; refused")
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress("unpack", done / total)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ModelError(f"{path} is damaged at {info.filename!r} ({error}); get the model again") from None
    except OSError as error:
        raise ModelError(
            f"{target} can't be written ({error.strerror}); check permissions and free space"
        ) from None
    return done

"""Installation and removal of models in the user's folder.

A new model is unpacked into a staging folder beside the others, checked file by file, and then renamed into
place; the version that was there before stays until then. What an interrupted installation leaves is the
``.part`` of its download.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from . import archive
from .bundle import Bundle, licence_text, load_bundle, verify_folder
from .catalogue import Catalogue, Entry, is_address, load_catalogue
from .folders import bundled_folder, expanded, user_folder
from .lock import locked
from .manifest import read_manifest
from .names import MANIFEST, is_id, is_pickle, is_sha256

if TYPE_CHECKING:
    from . import download

Progress = Callable[[str, float], None]

MAX_DOWNLOAD_BYTES = 8 * 2**30
_DOWNLOADS = ".downloads"
_STAGING = ".staging-"
_REPLACED = ".replaced-"


@dataclass(frozen=True)
class InstallPlan:
    """What an installation would do, to be shown before it is done. Unknown texts are empty, unknown sizes
    None: of a bare address only the size is known before the download."""

    kind: str  # catalogue, address, archive or folder
    source: str
    destination: Path
    id: str = ""
    version: str = ""
    title: str = ""
    licence: str = ""
    bytes: int | None = None
    sha256: str = ""
    replaces: str = ""  # version of the user's copy that is there now

    def lines(self) -> list[str]:
        """The plan in words, one fact a line."""
        name = f"{self.title} ({self.id} {self.version})" if self.id else "model"
        size = "unknown size" if self.bytes is None else _size(self.bytes)
        lines = [
            f"Install {name}, {size}",
            f"  from     {self.source}",
            f"  to       {self.destination}",
            f"  licence  {self.licence or 'stated inside; shown after the download'}",
        ]
        if self.sha256:
            lines.append(f"  SHA-256  {self.sha256}")
        if self.replaces:
            lines.append(f"  replaces version {self.replaces}")
        return lines


def plan_install(
    source: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    catalogue: Catalogue | None = None,
    rules: download.Rules | None = None,
) -> InstallPlan:
    """Find out what `source` is and what installing it would do; nothing is downloaded or written.

    :param source: an id of the catalogue, an https address of a zipped bundle (with ``#sha256=…``, or
        `sha256`), a zip archive, or a bundle folder.
    :param rules: how to download; for tests.
    :raises ModelError: if the source is unknown, unsafe, damaged, or lacks the hash that a download needs.
    """
    text = os.fspath(source)
    if is_address(text):
        return _plan_address(text, sha256, rules)
    path = expanded(text, "the source is")
    if path.is_dir():
        return _plan_local("folder", path.absolute(), read_manifest(path)[0], sha256)
    if path.is_file():
        return _plan_archive(path.absolute(), sha256)
    entry = (catalogue or load_catalogue()).get(text) if is_id(text) else None
    if entry is None:
        raise ModelError(
            f"{text!r} is neither a model of the catalogue, nor a file, folder or https address; "
            "'tumorsynth models list' shows the catalogue"
        )
    return _plan_entry(entry, sha256, rules)


def install(
    source: str | os.PathLike[str] | InstallPlan,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    catalogue: Catalogue | None = None,
    rules: download.Rules | None = None,
) -> Bundle:
    """Install a model into the user's folder; a version that is there already is replaced after the new one
    has been checked.

    :param source: see `plan_install`, or the plan it returned.
    :param progress: called as ``progress(stage, fraction)``; stages ``download``, ``unpack``, ``copy``,
        ``check``.
    :raises ModelError: with the reason; then nothing was installed or changed.
    """
    plan = (
        source
        if isinstance(source, InstallPlan)
        else plan_install(source, sha256=sha256, catalogue=catalogue, rules=rules)
    )
    root = user_folder()
    with locked(root):
        _tidy(root)
        if plan.kind in ("catalogue", "address") and is_address(plan.source):
            return _install_download(plan, root, rules, progress)
        path = Path(plan.source)
        if plan.kind == "folder":
            return _stage(plan, root, lambda folder: archive.copy_folder(path, folder, progress), progress)
        _check_archive_hash(path, plan.sha256)
        return _stage(plan, root, lambda folder: archive.unpack(path, folder, progress), progress)


def remove(model: str) -> Path:
    """Delete a model that the user installed; returns the folder that is gone.

    :raises ModelError: if it is not there, or came with the software.
    """
    root = user_folder()
    folder = root / model
    if not is_id(model) or not folder.is_dir():
        bundled = bundled_folder()
        if bundled is not None and is_id(model) and (bundled / model / MANIFEST).is_file():
            raise ModelError(
                f"{model!r} came with the software and can't be removed; only installed models can"
            )
        raise ModelError(
            f"no model {model!r} is installed in {root}; 'tumorsynth models list' shows which are"
        )
    if folder.is_symlink():
        raise ModelError(f"{folder} is a link; delete the link yourself")
    with locked(root):
        doomed = root / f"{_REPLACED}{model}"
        _delete(doomed)
        _rename(folder, doomed)
        _delete(doomed)
    return folder


def _plan_address(text: str, sha256: str | None, rules: download.Rules | None) -> InstallPlan:
    from . import download

    address, _, fragment = text.partition("#")
    rules = rules or download.Rules()
    download.check_address(address, rules.allow_loopback_http)
    _refuse_pickle(address.partition("?")[0])
    stated = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else ""
    digest = _agreed_hash(stated, sha256)
    if not digest:
        raise ModelError(
            "a download is checked by its SHA-256, and the address has none; append "
            "'#sha256=…' with the hash that the model's author states, or install from a file"
        )
    return InstallPlan(
        "address", address, user_folder(), bytes=download.remote_size(address, rules), sha256=digest
    )


def _plan_entry(entry: Entry, sha256: str | None, rules: download.Rules | None) -> InstallPlan:
    if is_address(entry.url):
        from . import download

        download.check_address(entry.url, bool(rules and rules.allow_loopback_http))
    elif not Path(entry.url).is_file():
        raise ModelError(
            f"the catalogue has no reachable file for {entry.id!r} ({entry.url}); install it from a file"
        )
    return InstallPlan(
        "catalogue",
        entry.url,
        user_folder() / entry.id,
        entry.id,
        entry.version,
        entry.title,
        entry.licence,
        entry.bytes,
        _agreed_hash(entry.sha256, sha256),
        _version_there(entry.id),
    )


def _plan_archive(path: Path, sha256: str | None) -> InstallPlan:
    _refuse_pickle(path.name)
    if path.suffix.lower() != ".zip":
        raise ModelError(f"{path} is not a .zip archive; give a zipped model or its unpacked folder")
    return _plan_local("archive", path, archive.archive_manifest(path), sha256)


def _plan_local(kind: str, path: Path, manifest: dict, sha256: str | None) -> InstallPlan:
    if kind == "folder":
        load_bundle(path)
        if sha256:
            raise ModelError("a SHA-256 belongs to a zipped model, not to a folder; leave it out")
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    model = manifest["id"]
    return InstallPlan(
        kind,
        str(path),
        user_folder() / model,
        model,
        manifest["version"],
        manifest["title"],
        licence_text(manifest["licence"]),
        size,
        _agreed_hash("", sha256),
        _version_there(model),
    )


def _install_download(
    plan: InstallPlan, root: Path, rules: download.Rules | None, progress: Progress | None
) -> Bundle:
    from . import download

    there = _already_there(plan)
    if there is not None:
        return there
    # One name per content: another version never continues this one's .part.
    path = root / _DOWNLOADS / f"{plan.id or 'model'}-{plan.sha256[:16]}.tsm.zip"
    size = plan.bytes if plan.kind == "catalogue" else None
    _check_space(root, 2 * (plan.bytes or 0))
    try:
        download.download(
            plan.source,
            path,
            max_bytes=MAX_DOWNLOAD_BYTES,
            sha256=plan.sha256,
            size=size,
            rules=rules,
            progress=progress,
        )
        bundle = _stage(plan, root, lambda folder: archive.unpack(path, folder, progress), progress)
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only if no .part is waiting there
    _note_source(bundle.folder, plan.sha256)
    return bundle


def _stage(plan: InstallPlan, root: Path, fill: Callable[[Path], None], progress: Progress | None) -> Bundle:
    _check_space(root, plan.bytes or 0)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
    try:
        fill(staging)
        if progress:
            progress("check", 0.0)
        bundle = verify_folder(staging)
        if plan.id and (bundle.id, bundle.version) != (plan.id, plan.version):
            raise ModelError(
                f"{plan.source} holds {bundle.id} {bundle.version}, expected {plan.id} {plan.version}; "
                "tell the author of the catalogue or file"
            )
        staging.chmod(0o755)
        _put_in_place(staging, root / bundle.id)
        if progress:
            progress("check", 1.0)
    finally:
        _delete(staging)
    return load_bundle(root / bundle.id)


def _put_in_place(staging: Path, target: Path) -> None:
    old = target.with_name(f"{_REPLACED}{target.name}")
    if target.exists() or target.is_symlink():
        _rename(target, old)
    try:
        _rename(staging, target)
    except ModelError:
        if old.exists():
            _rename(old, target)
        raise
    _delete(old)


def _tidy(root: Path) -> None:
    """Undo what a killed process left: stagings are deleted, a version that was being replaced comes back."""
    for path in root.iterdir():
        if path.name.startswith(_STAGING):
            _delete(path)
        elif path.name.startswith(_REPLACED):
            target = root / path.name.removeprefix(_REPLACED)
            if target.exists() or not (path / MANIFEST).is_file():
                _delete(path)
            else:
                _rename(path, target)


def _already_there(plan: InstallPlan) -> Bundle | None:
    """The installed bundle if it came from this very download and is whole (e.g. put there by another process
    meanwhile)."""
    candidates = (
        [plan.destination] if plan.id else [path for path in user_folder().iterdir() if is_id(path.name)]
    )
    for folder in candidates:
        try:
            if (folder / _SOURCE_NOTE).read_text(encoding="ascii").strip() == plan.sha256:
                return verify_folder(folder)
        except (OSError, ValueError, ModelError):
            continue
    return None


_SOURCE_NOTE = ".source-sha256"


def _note_source(folder: Path, sha256: str) -> None:
    with contextlib.suppress(OSError):
        (folder / _SOURCE_NOTE).write_text(sha256 + "\n", encoding="ascii")


def _version_there(model: str) -> str:
    folder = user_folder() / model
    if not folder.is_dir():
        return ""
    try:
        return load_bundle(folder).version
    except ModelError:
        return "(damaged)"


def _agreed_hash(stated: str, given: str | None) -> str:
    given = (given or "").lower()
    for digest in (stated, given):
        if digest and not is_sha256(digest):
            raise ModelError(f"{digest!r} is not a SHA-256 (64 hexadecimal digits); copy it again")
    if stated and given and stated != given:
        raise ModelError("the SHA-256 that you gave differs from the stated one; check which file you want")
    return stated or given


def _check_archive_hash(path: Path, sha256: str) -> None:
    if not sha256:
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise ModelError(
            f"{path} is not the expected file: its SHA-256 is {digest.hexdigest()}, expected {sha256}; "
            "get it again"
        )


def _refuse_pickle(name: str) -> None:
    if is_pickle(name):
        raise ModelError(
            f"{name} is a file that can run any program when opened, so it is refused; "
            "ask the model's author for a zipped bundle"
        )


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed + 16 * 2**20 > free:
        raise ModelError(
            f"{root} has {_size(free)} free, and {_size(needed)} are needed; "
            "make room, or set TUMORSYNTH_MODELS to another drive"
        )


def _size(count: int) -> str:
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.1f} MB"
        if count >= 1e5
        else f"{count / 1e3:.1f} kB"
    )


def _rename(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        raise ModelError(
            f"{source} can't be renamed to {target.name} ({error.strerror}); if the model is in use, "
            "close the programs that use it and try again"
        ) from None


def _delete(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)

"""Output files of one command: all of them appear at once, or none.

Files are written into a hidden folder beside their place and renamed together at the end. An error, Ctrl-C or SIGTERM
before that leaves nothing. A process that is killed leaves its hidden folder; the next command that writes there finishes
the renames that had begun, so that an image never lies beside another's record, and removes the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import signal
import stat
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.locks import lock, unlock

HIDDEN = ".tumorsynth-"
HOST = f"{zlib.crc32(platform.node().encode('utf-8', 'replace')):08x}"  # a lock may not be seen from another machine
FORGOTTEN_S = (
    86400.0  # age from which a hidden folder is tidied where it can't be told whether its process lives
)
JOURNAL = "renames.json"
MAX_JOURNAL = 2**20  # bytes; that of a series of 64 steps takes 60 kB
ROOM = 40  # characters of the hidden folder's name, which a path must leave free
MAX_NAME, MAX_PATH = 255, 4096  # bytes, where the system doesn't say


class Staging:
    """Use as a context: `file` and `folder` give places to write to, leaving the context moves all into place.

    :param last: nothing but messages follows, so signals are ignored once the files are in their places: a command that
        has written its result isn't "stopped". The caller restores the handlers.
    """

    def __init__(self, last: bool = False):
        self._last = last
        self._moves: list[tuple[Path, Path]] = []
        self._temporary: dict[Path, int | None] = {}  # hidden folders, and the descriptors that lock them
        self._made: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for folder, held in self._temporary.items():
                shutil.rmtree(folder, ignore_errors=True)
                unlock(held)
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # it isn't empty
                    folder.rmdir()
        if isinstance(error, OSError) and error.errno != errno.EPIPE:
            raise InputError(
                f"can't write the result ({error.strerror or error}); nothing was written: check that the disk isn't full "
                "and its folder can be written to"
            ) from error

    def file(self, path: str | os.PathLike) -> Path:
        """Where to write the file that is to become `path`; a link keeps its place, its target is replaced."""
        target = _followed(Path(path))
        temporary = self._beside(target.parent) / target.name
        self._moves.append((temporary, target))
        return temporary

    def folder(self, path: str | os.PathLike) -> Path:
        """An empty folder whose files are to go into the folder `path`."""
        temporary = self._beside(Path(path))
        self._moves.append((temporary, Path(path)))
        return temporary

    def _beside(self, folder: Path) -> Path:
        try:
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._made += reversed(missing)
            with _alone(folder):
                tidy(folder)
                temporary = Path(tempfile.mkdtemp(prefix=f"{HIDDEN}{HOST}-", dir=folder))
                self._temporary[temporary] = lock(temporary)[0]
        except OSError as error:
            raise InputError(
                f"can't write to the folder {folder} ({error.strerror}): choose another one"
            ) from None
        return temporary

    def _commit(self) -> None:
        pairs = []
        for source, target in self._moves:
            pairs += (
                [(f, target / f.name) for f in source.iterdir()] if source.is_dir() else [(source, target)]
            )
        for source, target in pairs:
            check_replaceable(target)
            _flush(source)
            _as_before(source, target)
        with _undisturbed(forever=self._last):
            try:
                self._note(pairs)
                _move(pairs, self._kept)
            except OSError as error:
                raise InputError(
                    f"can't write {error.filename2 or error.filename} ({error.strerror}): choose another name"
                ) from None

    def _note(self, pairs: list[tuple[Path, Path]]) -> None:
        """Write down what is about to be renamed, for the command after a killed one."""
        moves = [[os.path.abspath(s), os.path.abspath(t), _state(s), _state(t)] for s, t in pairs]
        text = json.dumps({"moves": moves})  # names that aren't UTF-8 are escaped
        for folder in self._temporary:
            part = folder / (JOURNAL + ".part")
            with open(part, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, folder / JOURNAL)

    def _kept(self, number: int, target: Path) -> Path | None:
        """What is at a target now, once more in a hidden folder beside it; None if nothing is."""
        if not target.exists():
            return None
        home = next((f for f in self._temporary if f.parent == target.parent), next(iter(self._temporary)))
        old = home / f"{number}.before"
        try:
            os.link(target, old)
        except OSError:  # not on every file system
            shutil.copy2(target, old)
        return old


def _flush(path: Path) -> None:
    """Make sure that a file is on the disk: some file systems tell only then that they are full.

    :raises InputError: it isn't.
    """
    try:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"can't write {path.name} ({error.strerror}); nothing was written: check that the disk isn't full"
        ) from error


def _move(pairs: list[tuple[Path, Path]], kept) -> None:
    """Rename all; where one fails, put back what was there."""
    done: list[tuple[Path | None, Path]] = []
    for number, (source, target) in enumerate(pairs):
        try:
            old = kept(number, target)
            os.replace(source, target)
            done.append((old, target))
        except OSError as error:
            for old, path in reversed(done):
                old.replace(path) if old else path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(target)) from None


def tidy(folder: Path) -> None:
    """Remove the hidden folders of killed processes, after the renames that these had begun are finished.

    Those of living processes, which hold a lock, stay; where locks aren't known, or on a disk that is shared with other
    machines, all that aren't a day old.
    """
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(HIDDEN + "*")):
            if path.is_symlink() or not path.is_dir():
                continue
            held, taken = lock(path)
            host, dash, _ = path.name[len(HIDDEN) :].partition("-")
            here = not dash or host == HOST
            try:
                if taken:
                    continue  # its process lives
                if (held is not None and here) or time.time() - path.stat().st_mtime > FORGOTTEN_S:
                    _finish(path)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                unlock(held)


def _finish(hidden: Path) -> None:
    """Do the rest of the renames that a killed process had begun, unless one of their targets was changed since."""
    try:
        if (hidden / JOURNAL).stat().st_size > MAX_JOURNAL:
            return
        moves = json.loads((hidden / JOURNAL).read_text(encoding="ascii"))["moves"]
        moves = [(Path(source), Path(target), new, old) for source, target, new, old in moves]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # it hadn't begun
    rest = [(source, target, old) for source, target, _, old in moves if source.is_file()]
    begun = any(_state(target) == new for _, target, new, _ in moves)
    inside = all(s.parent.name.startswith(HIDDEN) and s.parent.parent == t.parent for s, t, _ in rest)
    if not begun or not inside or any(_state(target) != old for _, target, old in rest):
        return
    for source, target, _ in rest:
        with contextlib.suppress(OSError):
            os.replace(source, target)


def _state(path: Path) -> list[int] | None:
    """What tells whether a file was changed; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _followed(path: Path) -> Path:
    """The file that a link leads to, which need not be there."""
    try:
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    except OSError:
        return path


def check_replaceable(path: Path) -> None:
    """Raise InputError where something is at a path that mustn't be replaced: a folder, a device, a protected file."""
    try:
        found = os.stat(path)
    except OSError:
        return  # nothing is there; a folder that can't be read is found when it is written to
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"can't write {path}: it is a folder; choose another name")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"can't write {path}: it is a device or pipe, no plain file; choose another name")
    if not found.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise InputError(f"can't write {path}: it is write-protected; choose another name, or allow writing")


def _as_before(source: Path, target: Path) -> None:
    """Give a new file the permissions and, where allowed, the owner of the one that it replaces."""
    with contextlib.suppress(OSError):
        before = os.stat(target)
        if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(OSError):
                os.chown(source, before.st_uid, before.st_gid)
        os.chmod(source, stat.S_IMODE(before.st_mode))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes and tidies hidden folders, so that none is tidied before it is locked."""
    deadline = time.monotonic() + 2.0
    held, taken = lock(folder)
    while taken and time.monotonic() < deadline:
        time.sleep(0.01)
        held, taken = lock(folder)
    try:
        yield
    finally:
        unlock(held)


@contextmanager
def _undisturbed(forever: bool = False) -> Iterator[None]:
    """Ignore signals while a few renames are done; `forever` from then on, if they succeed."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
    previous: dict[Any, Any] = {}
    done = False
    with contextlib.suppress(ValueError):  # not the main thread, where no signal arrives
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            previous[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
        done = True
    finally:
        if not (forever and done):
            for number, handler in previous.items():
                signal.signal(number, handler)


def check_apart(
    outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None]
) -> None:
    """Check all places that a command will write to, before any work.

    :raises InputError: an output would overwrite an input, two outputs are one file, a name is too long, or something is
        there that mustn't be replaced.
    """
    outputs = [Path(p) for p in outputs if p is not None]
    for i, path in enumerate(outputs):
        _check_length(path)
        if any(_same(path, Path(other)) for other in inputs if other is not None):
            raise InputError(f"{path} is an input and would be overwritten: give another name for the result")
        if any(_same(path, other) for other in outputs[:i]):
            raise InputError(f"{path} is named for two results: give each its own name")
        check_replaceable(path)


def _check_length(path: Path) -> None:
    """Raise InputError where the file system has no room for a name, or the system none for the path."""
    if "\0" in str(path):
        raise InputError("a file name holds a zero byte: give another name")
    try:
        whole = os.path.abspath(path)
    except OSError as error:
        raise InputError(f"the working folder is gone ({error.strerror}): change to another one") from None
    limits = _limits(Path(whole))
    longest = max(Path(whole).parts[1:], key=_bytes, default="")
    if _bytes(longest) > limits[0]:
        raise InputError(
            f"the name {longest[:40]}… has {_bytes(longest)} bytes, {limits[0]} are possible here: shorten it"
        )
    if _bytes(whole) + ROOM > limits[1]:
        raise InputError(
            f"the path {whole[:40]}… has {_bytes(whole)} bytes, {limits[1] - ROOM} are possible: shorten it"
        )


def _bytes(name: str) -> int:
    return len(os.fsencode(name))


def _limits(path: Path) -> tuple[int, int]:
    """Bytes of a name and of a path that are possible where a file is to be."""
    for folder in path.parents:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # Windows has no pathconf
            return os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    return MAX_NAME, MAX_PATH


def _same(a: Path, b: Path) -> bool:
    try:
        if a.exists() and b.exists():
            return a.samefile(b) or (b.is_dir() and a.resolve().parent == b.resolve())
        return a.resolve() == b.resolve() or (b.is_dir() and a.resolve().parent == b.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, or a circle of links: reading it tells
        return False

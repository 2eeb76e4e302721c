"""Output files of one command: all of them appear at once, or none.

Files are written into a hidden folder beside their place and renamed together at the end. An error, Ctrl-C or SIGTERM
before that leaves nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from TumorSynthLib.errors import InputError


class Staging:
    """Use as a context: `file` and `folder` give places to write to, leaving the context moves all into place."""

    def __init__(self):
        self._moves: list[tuple[Path, Path]] = []
        self._temporary: list[Path] = []
        self._made: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for folder in self._temporary:
                shutil.rmtree(folder, ignore_errors=True)
            for folder in reversed(self._made):
                if not any(folder.iterdir()):
                    folder.rmdir()

    def file(self, path: str | os.PathLike) -> Path:
        """Where to write the file that is to become `path`."""
        path = Path(path)
        temporary = self._beside(path.parent) / path.name
        self._moves.append((temporary, path))
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
            self._temporary.append(Path(tempfile.mkdtemp(prefix=".tumorsynth-", dir=folder)))
        except OSError as error:
            raise InputError(
                f"can't write to the folder {folder} ({error.strerror}): choose another one"
            ) from None
        return self._temporary[-1]

    def _commit(self) -> None:
        pairs = []
        for source, target in self._moves:
            pairs += (
                [(f, target / f.name) for f in source.iterdir()] if source.is_dir() else [(source, target)]
            )
        for _, target in pairs:
            if target.is_dir():
                raise InputError(f"can't write {target}: it is a folder; choose another name")
        done: list[tuple[Path | None, Path]] = []
        with _undisturbed():
            for source, target in pairs:
                try:
                    old = _kept(target, source)
                    os.replace(source, target)
                    done.append((old, target))
                except OSError as error:
                    for old, path in reversed(done):
                        old.replace(path) if old else path.unlink(missing_ok=True)
                    raise InputError(
                        f"can't write {target} ({error.strerror}): choose another name"
                    ) from None


def _kept(target: Path, source: Path) -> Path | None:
    """What is at a target now, once more beside the file that is to take its place; None if nothing is."""
    if not target.exists():
        return None
    old = source.with_name(source.name + ".before")
    try:
        os.link(target, old)
    except OSError:  # not on every file system
        shutil.copy2(target, old)
    return old


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore signals while a few renames are done."""
    try:
        previous = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where no signal arrives
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_apart(
    outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None]
) -> None:
    """Raise InputError where an output would overwrite an input, or two outputs are one file."""
    outputs = [Path(p) for p in outputs if p is not None]
    for i, path in enumerate(outputs):
        if any(_same(path, Path(other)) for other in inputs if other is not None):
            raise InputError(f"{path} is an input and would be overwritten: give another name for the result")
        if any(_same(path, other) for other in outputs[:i]):
            raise InputError(f"{path} is named for two results: give each its own name")


def _same(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b) or (b.is_dir() and a.resolve().parent == b.resolve())
    return a.resolve() == b.resolve() or (b.is_dir() and a.resolve().parent == b.resolve())

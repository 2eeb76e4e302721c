"""The folder through which the worker and its client hand each other arrays; names in it are bare.

Both hold a shared lock on it. A folder that nobody holds is what a killed process left, with a patient's voxels in it: the
next worker removes it.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.locks import lock, unlock
from TumorSynthLib.numeric import is_finite

PREFIX = "tumorsynth-"  # of the folder's name: no other one is ever removed
UNLOCKED = ".new-"  # before it, as long as the folder isn't locked yet
FORGOTTEN_S = 86400.0  # age from which a folder is removed where there are no locks (Windows)
TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64",
)  # fmt: skip
MOST_VOXELS = 2**40  # of an array that a message may claim; what is there is compared with it


def new_folder() -> tuple[Path, int | None]:
    """A new folder for the exchange, locked until the descriptor is closed or the process ends."""
    made = Path(tempfile.mkdtemp(prefix=UNLOCKED + PREFIX))
    descriptor, _ = lock(made, shared=True)
    named = made.with_name(made.name[len(UNLOCKED) :])
    made.rename(named)
    return named, descriptor


def remove_forgotten(beside: Path) -> None:
    """Remove the folders beside one that no process holds any more; those of other users stay."""
    with contextlib.suppress(OSError):
        for path in beside.parent.iterdir():
            if path == beside or not path.name.startswith((PREFIX, UNLOCKED + PREFIX)):
                continue
            with contextlib.suppress(OSError):
                _remove_forgotten(path)


def _remove_forgotten(path: Path) -> None:
    if (
        path.is_symlink()
        or not path.is_dir()
        or (hasattr(os, "getuid") and path.stat().st_uid != os.getuid())
    ):
        return
    old = time.time() - path.stat().st_mtime > FORGOTTEN_S
    descriptor, taken = lock(path)
    try:
        if not taken and (old or (descriptor is not None and path.name.startswith(PREFIX))):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        unlock(descriptor)


class Folder:
    """The exchange of arrays; names are bare, so that nothing else can be read or written."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lock: int | None = None

    def hold(self) -> None:
        """Keep it from being taken for a forgotten one."""
        self._lock = lock(self.path, shared=True)[0]

    def file(self, name: Any) -> Path:
        """Path of a named file.

        :raises InputError: the name is not a bare one.
        """
        bare = isinstance(name, str) and name not in ("", ".", "..") and name == os.path.basename(name)
        if not bare or "\0" in name or len(os.fsencode(name)) > 200:
            raise InputError(f"{name!r:.60} is no name of a file in the exchange folder: use a bare name")
        return self.path / name

    def read(self, entry: Mapping[str, Any]):
        """Array of `file`, `dtype`, `shape`, mapped and not copied."""
        import numpy as np

        with well_formed("an array"):
            name, kind, shape = entry["file"], entry["dtype"], tuple(map(_whole, entry["shape"]))
        if kind not in TYPES:
            raise InputError(f"the image holds {kind!r:.40} values, but an image of real numbers is needed")
        count = math.prod(shape)
        if not shape or len(shape) > 3 or min(shape) < 1 or count > MOST_VOXELS:
            raise InputError(f"the array {name!r:.60} has the shape {shape!r:.60}: try again")
        path, dtype = self.file(name), np.dtype(kind)
        if not path.is_file() or path.stat().st_size != dtype.itemsize * count:
            raise InputError(
                f"the exchange file {path.name} is missing or has another size than {shape}: try again"
            )
        return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)

    def volume(self, entry: Mapping[str, Any]):
        """The `Volume` of an entry: an array with `spacing`, `origin` and `direction` (LPS mm)."""
        import numpy as np

        from TumorSynthLib.volume import Volume

        with well_formed("an image"):
            lengths = {"spacing": 3, "origin": 3, "direction": 9}
            geometry = {name: tuple(map(_number, entry[name])) for name in lengths}
            metadata = {str(k): str(v) for k, v in dict(entry.get("metadata") or {}).items()}
        wrong = [name for name, count in lengths.items() if len(geometry[name]) != count]
        if not wrong and abs(np.linalg.det(np.reshape(geometry["direction"], (3, 3)))) < 0.1:
            wrong = ["direction"]
        if wrong or min(geometry["spacing"]) <= 0:
            raise InputError(f"the image's {(wrong or ['spacing'])[0]} can't be so: try again")
        array = self.read(entry)
        if array.ndim != 3:
            raise InputError(f"the image has {array.ndim} dimensions, but 3 are needed: try again")
        return Volume(array, metadata=metadata, **geometry)

    def mask(self, entry: Mapping[str, Any], shape):
        """(K, J, I) array of that shape from the bytes of a box: bool, or uint8 for a labelmap."""
        import numpy as np

        with well_formed("a mask"):
            box = tuple(slice(_whole(a), _whole(b)) for a, b in entry["box"])
            name, dtype = entry["file"], "uint8" if entry.get("dtype") == "uint8" else "bool"
        if len(box) != 3 or any(not 0 <= s.start < s.stop <= n for s, n in zip(box, shape)):
            raise InputError("the mask's box lies outside the image: try again")
        mask = np.zeros(shape, dtype)
        mask[box] = self.read({"file": name, "dtype": dtype, "shape": [s.stop - s.start for s in box]})
        return mask

    def write(self, name: str, array) -> str:
        """Write an array's bytes; returns the name."""
        array.tofile(self.file(name))
        return name

    def remove(self) -> None:
        if self.path.name.startswith(PREFIX):
            shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Context in which a message is taken apart: what it lacks, or has of another type, is an InputError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"the message doesn't describe {what} ({type(error).__name__}: {str(error)[:80]}): the module and its engine "
            "have different versions; restart the application, or install the extension again"
        ) from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.40} is no whole number")
    return value


def _number(value: Any) -> float:
    if not is_finite(value):
        raise TypeError(f"{value!r:.40} is no finite number")
    return float(value)

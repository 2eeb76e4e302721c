"""The folder through which the worker and its client hand each other arrays, and both sides of it; names in it are bare.

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
import weakref
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
CHUNK = 8 * 2**20  # bytes of a volume that are written at a time: a few milliseconds
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
            geometry: dict = {name: tuple(map(_number, entry[name])) for name in lengths}
            metadata = {str(k): str(v) for k, v in dict(entry.get("metadata") or {}).items()}
        wrong = [name for name, count in lengths.items() if len(geometry[name]) != count]
        if not wrong and abs(np.linalg.det(np.reshape(geometry["direction"], (3, 3)))) < 0.1:
            wrong = ["direction"]
        if wrong or min(geometry["spacing"]) <= 0:
            raise InputError(f"the image's {(wrong or ['spacing'])[0]} is impossible: repair its header")
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


class Exchange:
    """The front end's side of a new folder: volumes stay in it, so that the next edit only sends what has changed.

    Nothing here blocks longer than a few milliseconds. What is written is found by the entries that the methods give, which
    `Folder` reads.
    """

    def __init__(self):
        self.path, held = new_folder()
        #: By key: name of the file, then the state, shape and type of a volume.
        self._there: dict[str, tuple] = {}
        self._stale: list[str] = []  # files that couldn't be removed yet
        self._number = 0
        # Also where nobody has stopped the client, at the end of the process at the latest.
        self._finalizer = weakref.finalize(self, _removed, str(self.path), held)

    def sendVolume(self, key: str, volume, state) -> Iterator[float]:
        """Write an engine `Volume`'s voxels chunk by chunk, yielding the fraction done; nothing if they are there already.

        :param key: names the volume. :param state: what changes when the voxels do, e.g. the image's modification time.
        """
        state = (state, volume.array.shape, volume.array.dtype.name)
        there = self._there.get(key)
        if there is not None and there[1:] == state and (self.path / there[0]).is_file():
            return
        self._forget(key)
        import numpy as np

        data = np.ascontiguousarray(volume.array).data.cast("B")
        name = self._newName(key)
        self._stale.append(name)  # until it is whole
        with open(self.path / name, "xb") as file:
            for start in range(0, len(data), CHUNK):
                file.write(data[start : start + CHUNK])
                yield min(start + CHUNK, len(data)) / len(data)
        self._stale.remove(name)
        self._there[key] = (name, *state)

    def _newName(self, key: str) -> str:
        """Name of a file that was never there: Windows can't write over a file that the worker still maps, and writing over
        an old one waits for the disk in some file systems (ext4)."""
        self._number += 1
        return f"{key}-{self._number}"

    def _forget(self, key: str) -> None:
        """Remove a volume's file, on Windows as soon as the worker doesn't map it any more."""
        there = self._there.pop(key, None)
        if there is not None:
            self._stale.append(there[0])
        self._stale = [name for name in self._stale if not self._gone(name)]

    def _gone(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            try:
                (self.path / name).unlink()
            except OSError:
                return False
        return True

    def adopt(self, old: str, new: str) -> None:
        """A copy was made of a volume: what was sent of the original is taken for the copy, with which edits go on."""
        self._forget(new)
        if old in self._there:
            self._there[new] = self._there.pop(old)

    def patchVolume(self, key: str, box, array, state) -> None:
        """The volume's voxels have changed in a box only: do the same in its file."""
        there = self._there.get(key)
        if there is None:
            return
        import numpy as np

        try:
            mapped = np.memmap(self.path / there[0], array.dtype, "r+", shape=array.shape)
            mapped[box] = array[box]  # the worker sees it at once; a flush would wait for the disk
        except OSError:
            self._forget(key)  # it is sent again
        else:
            self._there[key] = (there[0], state, *there[2:])

    def keepOnly(self, keys: list[str]) -> None:
        """Forget the volumes of other edits, which take room."""
        for key in [k for k in self._there if k not in keys]:
            self._forget(key)

    def entry(self, key: str, volume) -> dict:
        """How the worker finds a volume that was sent."""
        return {
            "file": self._there[key][0], "dtype": volume.array.dtype.name, "shape": list(volume.array.shape),
            "spacing": list(volume.spacing), "origin": list(volume.origin), "direction": list(volume.direction),
            "metadata": dict(volume.metadata),
        }  # fmt: skip

    def sendMask(self, key: str, mask) -> dict:
        """Write a `Mask`; returns how the worker finds it."""
        self._forget(key)
        import numpy as np

        name = self._newName(key)
        np.ascontiguousarray(mask.array).tofile(self.path / name)
        self._there[key] = (name,)
        return {"file": name, "dtype": mask.array.dtype.name, "box": [[s.start, s.stop] for s in mask.box]}

    def read(self, name: str, dtype, shape):
        """An array that the worker wrote; its file is removed."""
        path = self.path / os.path.basename(name)
        import numpy as np

        array = np.fromfile(path, dtype).reshape(shape)
        path.unlink()
        return array

    def readText(self, name: str) -> str:
        """A text that the worker wrote; its file is removed."""
        path = self.path / os.path.basename(name)
        text = path.read_text(encoding="ascii")
        path.unlink()
        return text

    def remove(self) -> None:
        self._finalizer()


def _removed(path: str, held: int | None) -> None:
    shutil.rmtree(path, ignore_errors=True)
    unlock(held)


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

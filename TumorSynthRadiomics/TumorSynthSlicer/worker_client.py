"""The client of `TumorSynthLib.worker`: starts the process, hands voxels over, reads events, ends it.

Nothing here blocks longer than a few milliseconds, except `stop` and, in `cancel`, the moment that is left to the worker.
Voxels go through files in a temporary folder; a volume stays there, so that the next edit only sends what has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from TumorSynthLib.errors import TumorSynthError
from TumorSynthLib.exchange import new_folder
from TumorSynthLib.locks import unlock

from .pipes import endTree, makePipe

CHUNK = 8 * 2**20  # bytes of a volume that are written at a time: a few milliseconds
ENDS = ("done", "error")  # events after which a request gets no other one
GRACE = 0.4  # seconds that a worker has to stop by itself


class WorkerError(TumorSynthError):
    """The worker process can't be used; the message says why."""


class Exchange:
    """The temporary folder through which arrays go."""

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
        data = memoryview(np.ascontiguousarray(volume.array)).cast("B")
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

    def patchVolume(self, key: str, box, array: np.ndarray, state) -> None:
        """The volume's voxels have changed in a box only: do the same in its file."""
        there = self._there.get(key)
        if there is None:
            return
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
        name = self._newName(key)
        np.ascontiguousarray(mask.array).tofile(self.path / name)
        self._there[key] = (name,)
        return {"file": name, "dtype": mask.array.dtype.name, "box": [[s.start, s.stop] for s in mask.box]}

    def read(self, name: str, dtype, shape) -> np.ndarray:
        """An array that the worker wrote; its file is removed."""
        path = self.path / os.path.basename(name)
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


class WorkerClient:
    """One worker process, started when it is first needed and again after it was ended.

    :param command: how to start it, for tests.
    """

    def __init__(self, command: list[str] | None = None):
        self._command = command
        self._pipe = None
        self._exchange: Exchange | None = None
        self._number = 0
        self._handlers: dict[int, Callable[[dict], None]] = {}  # of the requests under way, by their numbers
        self.processID = 0  # of the worker itself, which a launcher may have started
        self.device = ""

    @property
    def exchange(self) -> Exchange:
        if self._exchange is None or not self._exchange.path.is_dir():
            self._exchange = Exchange()
        return self._exchange

    def isRunning(self) -> bool:
        return self._pipe is not None and self._pipe.isRunning()

    def start(self) -> None:
        """Start the process unless it runs; returns at once.

        :raises WorkerError: it can't be started.
        """
        if self.isRunning():
            return
        self.processID = 0
        self._pipe = makePipe()
        command = self._command or [pythonExecutable(), "-m", "TumorSynthLib.worker"]
        try:
            self._pipe.start(
                [*command, "--folder", str(self.exchange.path)], str(engineFolder()), environment()
            )
        except OSError as error:
            self._pipe = None
            raise WorkerError(
                _("the worker process can't be started ({error}): reinstall the extension").format(
                    error=error
                )
            ) from error

    def request(self, message: dict, onEvent: Callable[[dict], None]) -> int:
        """Send a request; its events go to `onEvent` from `pump`. Returns its number. Requests are done one after the other."""
        self.start()
        self._number += 1
        self._handlers[self._number] = onEvent
        line = json.dumps({"id": self._number, **message}, allow_nan=False)
        self._pipe.write(line.encode("ascii") + b"\n")
        return self._number

    def pump(self, waitSeconds: float = 0.0) -> None:
        """Deliver the events that have arrived, and the end of the process as an error event."""
        if self._pipe is None:
            return
        for line in self._pipe.readLines(waitSeconds):
            self._deliver(line)
        if self._pipe is not None and not self._pipe.isRunning():
            for line in self._pipe.readLines():
                self._deliver(line)
            self._ended()

    def cancel(self, number: int) -> None:
        """Stop the last request: by asking, and where the worker doesn't stop in `GRACE` seconds by ending it."""
        if self._handlers.pop(number, None) is None or not self.isRunning():
            return
        stopped = []
        self._handlers[number] = lambda event: stopped.append(event["event"] in ENDS)
        self._pipe.write(json.dumps({"command": "cancel", "id": number}).encode("ascii") + b"\n")
        limit = time.monotonic() + GRACE
        while not any(stopped) and time.monotonic() < limit and self.isRunning():
            self.pump(0.02)
        self._handlers.pop(number, None)
        if not any(stopped):
            self.kill()

    def kill(self) -> None:
        """End the process and what belongs to it, at once. The exchange folder stays for the next one."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            endTree(self.processID, pipe.processID() if pipe.isRunning() else 0)
            pipe.kill()
        self.processID = 0
        self._fail("cancelled", _("the worker process was ended"))

    def stop(self) -> None:
        """End the process in good order and remove all files."""
        if self.isRunning():
            self._pipe.closeInput()
            if not self._pipe.waitForEnd(1.0):
                self.kill()
        self._pipe, self._handlers = None, {}
        if self._exchange is not None:
            self._exchange.remove()
            self._exchange = None

    def _deliver(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if event.get("event") == "ready":
            self.processID = int(event["pid"])
        elif event.get("id") in self._handlers:
            self.device = event.get("device") or self.device
            ended = event["event"] in ENDS
            handle = self._handlers.pop(event["id"]) if ended else self._handlers[event["id"]]
            handle(event)

    def _ended(self) -> None:
        """The process is gone without having been asked to."""
        said, self._pipe, self.processID = self._pipe.errorText(), None, 0
        self._fail("crash", _crashMessage(said))

    def _fail(self, kind: str, message: str) -> None:
        """Tell all requests under way that they won't be answered."""
        handlers, self._handlers = self._handlers, {}
        for handle in handlers.values():
            handle({"event": "error", "kind": kind, "message": message})


def _crashMessage(said: str) -> str:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    text = _(
        "the worker process ended unexpectedly, most likely for lack of memory; nothing has been changed, try again"
    )
    return f"{text} ({last[:200]})" if last else text


def engineFolder() -> Path:
    """The folder that holds the package TumorSynthLib."""
    import TumorSynthLib

    return Path(TumorSynthLib.__file__).resolve().parents[1]


def pythonExecutable() -> str:
    """Slicer's Python, or this one where it is a Python itself.

    :raises WorkerError: there is none.
    """
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    home = os.environ.get("SLICER_HOME", "")
    found = shutil.which("PythonSlicer") or (str(Path(home) / "bin" / name) if home else "")
    if found and os.path.isfile(found):
        return found
    if Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    raise WorkerError(_("PythonSlicer isn't there: reinstall 3D Slicer"))


def environment() -> dict[str, str]:
    """This process' environment with the engine on the path."""
    paths = [str(engineFolder()), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUNBUFFERED": "1"}

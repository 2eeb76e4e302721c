"""The client of `TumorSynthLib.worker`: starts the process, hands voxels over, reads events, ends it.

Nothing here blocks longer than a few milliseconds, except `stop` and, in `cancel`, the moment that is left to the worker.
Voxels go through files in a temporary folder; a volume stays there, so that the next edit only sends what has changed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from slicer.i18n import tr as _

from TumorSynthLib import wire
from TumorSynthLib.errors import TumorSynthError
from TumorSynthLib.exchange import Exchange

from .pipes import endTree, makePipe

ENDS = (wire.Done, wire.Failed)  # events after which a request gets no other one
GRACE = 0.4  # seconds that a worker has to stop by itself


class WorkerError(TumorSynthError):
    """The worker process can't be used; the message says why."""


class WorkerClient:
    """One worker process, started when it is first needed and again after it was ended.

    :param command: how to start it, for tests.
    """

    def __init__(self, command: list[str] | None = None):
        self._command = command
        self._pipe = None
        self._exchange: Exchange | None = None
        self._number = 0
        self._handlers: dict[
            int, Callable[[wire.Event], None]
        ] = {}  # of the requests under way, by their numbers
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

    def request(self, message: wire.Request, onEvent: Callable[[wire.Event], None]) -> int:
        """Send a request; its events go to `onEvent` from `pump`. Returns its number. Requests are done one after the other."""
        self.start()
        self._number += 1
        self._handlers[self._number] = onEvent
        self._send(wire.as_json(message, id=self._number))
        return self._number

    def _send(self, message: dict) -> None:
        self._pipe.write(json.dumps(message, allow_nan=False).encode("ascii") + b"\n")

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
        self._handlers[number] = lambda event: stopped.append(isinstance(event, ENDS))
        self._send(wire.as_json(wire.Cancel(number)))
        limit = time.monotonic() + GRACE
        while not any(stopped) and time.monotonic() < limit and self.isRunning():
            self.pump(0.02)
        self._handlers.pop(number, None)
        if not any(stopped):
            self.kill()

    def drop(self, number: int) -> None:
        """Stop a request without waiting for it: later ones wait until the worker has noticed."""
        if self._handlers.pop(number, None) is not None and self.isRunning():
            self._send(wire.as_json(wire.Cancel(number)))

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
            event = wire.event_of(json.loads(line))
        except ValueError:
            return
        if isinstance(event, wire.Ready):
            self.processID = event.pid
        elif event is not None and event.id in self._handlers:
            self.device = getattr(event, "device", "") or self.device
            ended = isinstance(event, ENDS)
            handle = self._handlers.pop(event.id) if ended else self._handlers[event.id]
            handle(event)

    def _ended(self) -> None:
        """The process is gone without having been asked to."""
        said, self._pipe, self.processID = self._pipe.errorText(), None, 0
        self._fail("crash", _crashMessage(said))

    def _fail(self, kind: str, message: str) -> None:
        """Tell all requests under way that they won't be answered."""
        handlers, self._handlers = self._handlers, {}
        for number, handle in handlers.items():
            handle(wire.Failed(number, kind, message))


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

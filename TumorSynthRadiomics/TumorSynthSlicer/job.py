"""An edit under way: voxels over to the worker, events back, and exactly one of the three ends."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator

import slicer
from slicer.i18n import tr as _

from TumorSynthLib import wire
from TumorSynthLib.errors import Cancelled, InputError, ModelError, TumorSynthError

from .api import Outcome

SLICE = 0.015  # seconds of the main thread that a step of the transfer may take
SENT, RECEIVED = 0.03, 0.99  # fraction of the whole when the voxels are over, and when the worker has done


class WorkerFailed(TumorSynthError):
    """The worker couldn't do the edit: it crashed, or its memory didn't suffice."""


class EditJob:
    """See `api.Job`. `step` does a few milliseconds of work; the logic calls it until the job has ended.

    :param transfer: writes voxels, yielding the fraction. :param message: makes the request.
    :param finish: makes the outcome of the worker's answer; changes the scene.
    :param onEnd: called before the one callback that is due, so that this may start another edit.
    """

    def __init__(
        self,
        edit: str,
        client,
        transfer: Iterator[float],
        message: Callable[[], wire.Request],
        finish,
        callbacks: dict,
        onEnd=None,
    ):
        self.edit, self._onEnd = edit, onEnd
        self._client, self._transfer, self._message, self._finish = client, transfer, message, finish
        self._callbacks = {name: callback for name, callback in callbacks.items() if callback is not None}
        self._stepping, self._number = False, 0  # the number of the request, once it is sent
        self._running, self._started = True, time.monotonic()
        self._fraction = 0.0
        self._applied: Outcome | None = None  # the scene holds it, nobody has been told
        self.outcome: Outcome | None = None
        self.error: TumorSynthError | None = None

    def isRunning(self) -> bool:
        return self._running

    def cancel(self) -> None:
        if not self._running:
            return
        if self._applied is not None:
            self._end(outcome=self._applied)
            return
        if self._number:
            self._client.cancel(self._number)
        self._end(error=Cancelled(_("the edit was cancelled; nothing has been changed")))

    def drop(self) -> None:
        """Stop without waiting for the worker, and without any callback."""
        self._running = False
        if self._number:
            self._client.drop(self._number)

    def wait(self, timeout: float | None = None) -> Outcome:
        limit = None if timeout is None else time.monotonic() + timeout
        while self._running:
            self.step(0.02)
            slicer.app.processEvents()
            if limit is not None and time.monotonic() > limit:
                self.cancel()
                raise WorkerFailed(
                    _("the edit took longer than {seconds:.0f} s and was stopped").format(seconds=timeout)
                )
        if self.error is not None:
            raise self.error
        return self.outcome

    def step(self, waitSeconds: float = 0.0) -> None:
        """Do what can be done without waiting longer than that."""
        if not self._running or self._stepping:
            return
        self._stepping = True
        try:
            if self._applied is not None:
                self._end(outcome=self._applied)
            elif self._number:
                self._client.pump(waitSeconds)
            else:
                self._send()
        except TumorSynthError as error:
            self._end(error=error)
        except OSError as error:
            self._end(error=WorkerFailed(_folderProblem(error)))
        finally:
            self._stepping = False

    def _send(self) -> None:
        limit = time.monotonic() + SLICE
        for fraction in self._transfer:
            self._progress("transfer", SENT * fraction)
            if time.monotonic() > limit:
                return
        self._number = self._client.request(self._message(), self._onEvent)
        self._progress("start", SENT)

    def _onEvent(self, event: wire.Event) -> None:
        if not self._running:
            return
        if isinstance(event, wire.Progress):
            fraction = SENT + (RECEIVED - SENT) * event.fraction
            self._progress(event.stage, fraction, event.remaining)
        elif isinstance(event, wire.Range):
            self._callbacks["onRange"](event.feature, event.low, event.high)
        elif isinstance(event, wire.Done):
            self._done(event)
        else:
            self._end(error=errorOf(event))

    def _done(self, event: wire.Done) -> None:
        self._progress("receive", RECEIVED, 0.0)
        try:
            self._applied = self._finish(event, time.monotonic() - self._started)  # the next step tells of it
        except TumorSynthError as error:
            self._end(error=error)

    def _progress(self, stage: str, fraction: float, remaining: float | None = None) -> None:
        self._fraction = max(self._fraction, fraction)
        if "onProgress" in self._callbacks:
            self._callbacks["onProgress"](stage, self._fraction, remaining)

    def _end(self, outcome: Outcome | None = None, error: TumorSynthError | None = None) -> None:
        """Call the one callback that is due. What it raises is the caller's."""
        if not self._running:
            return
        self._running, self.outcome, self.error = False, outcome, error
        if self._onEnd is not None:
            self._onEnd()
        arguments: tuple
        if outcome is not None:
            name, arguments = "onDone", (outcome,)
        elif isinstance(error, Cancelled):
            name, arguments = "onCancel", ()
        else:
            name, arguments = "onError", (str(error),)
        if name in self._callbacks:
            self._callbacks[name](*arguments)


def _folderProblem(error: OSError) -> str:
    """What to do about a temporary folder that can't be used."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _("the disk with the temporary folder is full ({error}): free some space").format(error=error)
    text = _(
        "the temporary folder can't be used ({error}): try again; if that doesn't help, restart Slicer, or choose another "
        "folder under Edit, Application Settings, Modules, Temporary directory"
    )
    return text.format(error=error)


def errorOf(event: wire.Failed) -> TumorSynthError:
    """The exception of a failure."""
    kinds = {"input": InputError, "model": ModelError, "cancelled": Cancelled}
    return kinds.get(event.kind, WorkerFailed)(event.message)

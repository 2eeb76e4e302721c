"""How far a tumour's own tissue can take each feature: found by the worker one by one, given up for anything else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from TumorSynthLib import wire

from .job import EditJob


class Ranges:
    """At most one search at a time, in the worker; `step` is called until it has ended.

    :param client: the `WorkerClient`.
    """

    def __init__(self, client):
        self._client = client
        self._job: EditJob | None = None
        self._onEnd: Callable[[bool], None] = lambda whole: None

    def isRunning(self) -> bool:
        return self._job is not None

    def ask(self, transfer, features: Sequence[str], onRange, onEnd: Callable[[bool], None]) -> None:
        """Begin a search; see `api.Logic.reachable`.

        :param transfer: an `edits.Transfer` of a measurement of the tumour.
        """
        self.forget()

        def message() -> wire.Reach:
            given = transfer.message()
            more = {"request": given.request, "model": given.model, "device": given.device}
            return wire.Reach(given.volume, given.mask, tuple(features), **more)

        calls = {"onRange": onRange, "onError": lambda text: logging.debug("no ranges: %s", text)}
        self._onEnd = onEnd
        self._job = EditJob(
            "reach", self._client, transfer.write(), message, lambda event, seconds: event, calls, self._ended
        )

    def step(self) -> None:
        if self._job is not None:
            self._job.step()

    def forget(self) -> None:
        """Give up, without waiting for the worker, which stops at its next report of progress."""
        if self._job is not None:
            self._job.drop()
            self._ended(False)

    def _ended(self, whole: bool = True) -> None:
        self._job = None
        self._onEnd(whole)

"""Jobs on many machines: a Dask cluster whose workers share a disk with this process.

Only the job goes to a worker and only its row comes back, a few kB; images, results and models lie on the shared disk. A worker
that dies has its job done by another one; a scheduler that restarts gets again what hadn't ended.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.perform import Bench
from TumorSynthLib.study.plan import Job
from TumorSynthLib.study.processes import Ended, given_up

CONNECT_S = 30.0  # for a scheduler to answer
RETURN_S = 600.0  # for one to come back
WORKERS_EVERY_S = 5.0  # between looks at how many workers there are
AHEAD = 2  # jobs for each worker: one under way and one that waits, so that the scheduler never holds many

_benches: dict[tuple[str, ...], Bench] = {}
_one_at_a_time = threading.Lock()


def do(job: str, folder: str, kind: str, device: str, threads: int) -> Mapping[str, Any]:
    """Do a job in a worker's process, which keeps its editors; one at a time, whatever threads the worker has."""
    from TumorSynthLib.provenance import plain

    with _one_at_a_time:
        key = (folder, kind, device, str(threads))
        bench = _benches.setdefault(key, Bench(Layout(Path(folder), kind), device, threads))
        return plain(bench.do(Job.from_json(job)))


class Cluster:
    """Runs jobs with Dask.

    :param address: of a scheduler (tcp://host:8786), or a scheduler file.
    :raises InputError: the package distributed is missing, or no scheduler answers.
    """

    def __init__(self, address: str, layout: Layout, device: str = "auto", threads: int = 1):
        self.address = address
        self._arguments = (str(layout.folder.resolve()), layout.kind, device, threads)
        self._events: queue.Queue[tuple[Job, Any]] = queue.Queue()
        self._running: dict[str, Any] = {}  # futures by the job's key, which keep Dask from forgetting them
        self._again: list[Job] = []
        self._workers, self._looked = 0, 0.0
        self._client = self._connected(CONNECT_S)

    @property
    def free(self) -> int:
        """How many jobs can be started now."""
        if time.monotonic() - self._looked > WORKERS_EVERY_S and self._client.status == "running":
            with contextlib.suppress(Exception):  # the scheduler has just gone
                self._workers = len(self._client.nthreads())
            self._looked = time.monotonic()
        return AHEAD * self._workers - len(self._running) - len(self._again)

    def start(self, job: Job) -> None:
        """Submit a job."""
        if self._client.status != "running":
            self._again.append(job)
            return
        name = f"tumorsynth-{job.key}"
        future = self._client.submit(do, job.to_json(), *self._arguments, key=name, pure=False)
        self._running[job.key] = future
        future.add_done_callback(lambda done: self._events.put((job, done)))

    def ended(self, timeout: float) -> Iterator[Ended]:
        """Jobs that have ended, each with its row; waits for the first one for so many seconds at most."""
        self._go_on()
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=timeout)
            while True:
                done = self._after(*event)
                if done is not None:
                    yield done
                event = self._events.get_nowait()

    def close(self) -> None:
        """Take back what hasn't begun and let go of the scheduler; jobs under way end, and their results are found again."""
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._running.values()), force=True)
        self._running = {}
        with contextlib.suppress(Exception):
            self._client.close(timeout=CONNECT_S)

    def _connected(self, seconds: float):
        try:
            from distributed import Client
        except ImportError:
            raise InputError(
                "--dask needs the package distributed: `pip install 'TumorSynthLib[cluster]'`, or use --workers"
            ) from None
        where = (
            {"scheduler_file": self.address} if Path(self.address).is_file() else {"address": self.address}
        )
        try:
            return Client(**where, timeout=seconds, name="tumorsynth-batch", set_as_default=False)
        except (OSError, ValueError) as error:  # also a time that has run out
            raise InputError(
                f"no Dask scheduler answers at {self.address} ({str(error)[:120]}): start one with `dask scheduler`"
            ) from None

    def _go_on(self) -> None:
        """Submit again what a restarted scheduler has forgotten."""
        if self._client.status == "closed":
            self._client = self._connected(RETURN_S)
        if self._again and self._client.status == "running":
            jobs, self._again = self._again, []
            for job in jobs:
                self.start(job)

    def _after(self, job: Job, future) -> Ended | None:
        """What the end of a job's future means."""
        if self._running.get(job.key) is not future:
            return None  # of an attempt before
        del self._running[job.key]
        if future.status == "error":
            error = future.exception()
            return job, given_up(job, f"on the cluster ({type(error).__name__}: {str(error)[:200]})")
        try:
            return job, future.result(timeout=CONNECT_S)
        except (
            Exception
        ):  # cancelled, lost, or its worker died just now: its result is found, or it is done again
            self._again.append(job)
            return None

"""Jobs on this machine: several processes, each with its own warm editor, that are replaced when they die."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import TumorSynthLib
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.plan import Job

ATTEMPTS = 2  # a job whose process dies twice is given up: it probably takes more memory than there is
STOP_S = 10.0  # for a process to take away what it was writing, before it is killed
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

Ended = tuple[Job, Mapping[str, Any]]


class Processes:
    """Runs jobs in `count` processes.

    A fresh interpreter each, not a fork: it works from consoles and notebooks too, and with networks that have been loaded.
    """

    def __init__(self, layout: Layout, count: int, device: str = "auto", threads: int = 1):
        self.layout, self.device, self.threads = layout, device, threads
        self._events: queue.Queue[tuple[_Process, str]] = queue.Queue()
        self._idle: list[_Process] = []
        self._busy: dict[_Process, Job] = {}
        self._attempts: dict[str, int] = {}
        self._free = count

    @property
    def free(self) -> int:
        """How many jobs can be started now."""
        return self._free

    def start(self, job: Job) -> None:
        """Hand a job to a process."""
        self._free -= 1
        process = self._idle.pop() if self._idle else self._new()
        self._busy[process] = job
        process.send(job.to_json())

    def ended(self, timeout: float) -> Iterator[Ended]:
        """Jobs that have ended, each with its row; waits for the first one for so many seconds at most."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=timeout)
            while True:
                done = self._after(*event)
                if done is not None:
                    yield done
                event = self._events.get_nowait()

    def close(self) -> None:
        """End all processes; jobs that they are at leave nothing."""
        processes = [*self._idle, *self._busy]
        for process in processes:
            process.stop()
        for process in processes:
            process.wait(STOP_S)
        self._idle, self._busy = [], {}

    def _new(self) -> _Process:
        arguments = [str(self.layout.folder.resolve()), self.layout.kind, self.device, str(self.threads)]
        return _Process(arguments, self.threads, self._events)

    def _after(self, process: _Process, line: str) -> Ended | None:
        """What a process' line means; an empty one is its end."""
        job = self._busy.pop(process, None)
        if line:
            self._idle.append(process)
            self._free += 1
            return job, json.loads(line)
        if process in self._idle:  # it was killed while it had nothing to do
            self._idle.remove(process)
        if job is None:
            return None
        self._free += 1
        self._attempts[job.key] = self._attempts.get(job.key, 0) + 1
        if self._attempts[job.key] < ATTEMPTS:
            self.start(job)
            return None
        return job, given_up(job, process.how_it_ended())


def given_up(job: Job, why: str) -> dict[str, Any]:
    """The row of a job whose processes died."""
    row = {name: getattr(job, name) for name in ("id", "patient", "edit", "key", "model_sha256")}
    error = f"its process ended {ATTEMPTS} times, {why}: give fewer --workers where memory is short"
    return row | {"name": job.stem, "model": job.model_id, "state": "failed", "error": error}


class _Process:
    """A child, and the thread that listens to it."""

    def __init__(self, arguments: list[str], threads: int, events: queue.Queue):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child
        package = str(Path(TumorSynthLib.__file__).resolve().parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONIOENCODING": "utf-8",
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", "TumorSynthLib.study.process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which tells its children
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def _listen(self, events: queue.Queue) -> None:
        for line in self._child.stdout:
            if line.endswith(b"\n"):  # else it died while it wrote
                events.put((self, line.decode("ascii")))
        self._child.wait()
        events.put((self, ""))

    def send(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it is dead, which the listener tells
            self._child.stdin.write(line.encode("ascii") + b"\n")
            self._child.stdin.flush()

    def stop(self) -> None:
        self._child.terminate()

    def wait(self, seconds: float) -> None:
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def how_it_ended(self) -> str:
        code = self._child.returncode
        self._log.seek(0)
        last = self._log.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        said = f" ({last[0][:200]})" if last else ""
        return (
            f"the last time by signal {-code}{said}" if code < 0 else f"the last time with code {code}{said}"
        )

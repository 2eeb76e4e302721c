"""A batch: the jobs of a plan that the ledger doesn't have yet, done by processes or by a cluster."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from TumorSynthLib.errors import InputError
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.ledger import DONE, FAILED, Ledger, Row
from TumorSynthLib.study.perform import NO_ROOM
from TumorSynthLib.study.plan import Job
from TumorSynthLib.study.processes import Ended
from TumorSynthLib.study.stamps import Stamps

POLL_S = 0.5
LINE_S = 60.0  # between lines of progress where stderr is no terminal


class Executor(Protocol):
    """Where jobs are done: `Processes` or `Cluster`."""

    @property
    def free(self) -> int:
        """How many jobs can be started now."""

    def start(self, job: Job) -> None:
        """Begin a job."""

    def ended(self, timeout: float) -> Iterator[Ended]:
        """Jobs that have ended with their rows; waits for the first one for so many seconds at most."""

    def close(self) -> None:
        """Let go of everything; jobs under way leave nothing."""


@dataclass
class Tally:
    """How far a batch is: jobs of the plan, those done before, done and failed now, and seconds."""

    jobs: int
    before: int
    done: int = 0
    failed: int = 0
    start: float = 0.0

    @property
    def left(self) -> int:
        return self.jobs - self.before - self.done - self.failed

    def remaining(self) -> float | None:
        """Seconds that the rest will take at the pace so far."""
        ended = self.done + self.failed
        return (time.monotonic() - self.start) / ended * self.left if ended else None

    def __str__(self) -> str:
        text = f"{self.before + self.done + self.failed} of {self.jobs} jobs"
        text += f", {self.failed} failed" if self.failed else ""
        left = self.remaining()
        return text + (f", {duration(left)} left" if left is not None and self.left else "")


def duration(seconds: float) -> str:
    """Seconds in words, for people who wait."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def pending(
    jobs: Sequence[Job],
    ledger: Ledger,
    layout: Layout,
    retry: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[Job, ...]:
    """The jobs that are still to be done; those whose results are there without a row get one.

    A job whose files have another size or time than when it was done is done again.

    :param retry: do failed jobs again. :param say: takes a sentence on what is done again for its files' sake.
    """
    there, stamps, changed = _Files(layout.folder), Stamps(), []
    left, again = [], set()
    for job in jobs:
        row = ledger.rows.get(job.key)
        if row is None:
            found = layout.recovered(job) if all(map(there.has, layout.names(job).values())) else None
            if found is None or stamps.differ(found, job):
                left.append(job)
            else:
                ledger.add(found)
        elif stamps.differ(row, job):
            again.add(job.key)
            changed.append(job)
            left.append(job)
        elif retry if row["state"] == FAILED else not all(map(there.has, layout.names(job).values())):
            again.add(job.key)
            left.append(job)
    ledger.forget(again)
    if changed:
        say(
            f"{len(changed)} of {len(jobs)} jobs are done again, since files that they read have another size or time than "
            f"they had: the first is {changed[0].stem}"
        )
    return tuple(left)


def run(
    jobs: Iterable[Job], ledger: Ledger, executor: Executor, tally: Tally, show: Show | None = None
) -> None:
    """Do jobs until all have ended; each gets its row when it does.

    :raises InputError: the disk is full; what was done until then is in the ledger.
    """
    waiting, running = deque(jobs), 0
    tally.start = time.monotonic()
    try:
        while waiting or running:
            while waiting and executor.free > 0:
                executor.start(waiting.popleft())
                running += 1
            for _, row in executor.ended(POLL_S):
                running -= 1
                if row["state"] == NO_ROOM:
                    raise InputError(f"{row['error']}; make room and give the same command again")
                ledger.add(row)
                tally.done += row["state"] == DONE
                tally.failed += row["state"] == FAILED
            if show:
                show(tally)
    finally:
        executor.close()


class Show:
    """Progress on stderr: a bar on a terminal, else a line each minute."""

    def __init__(self, quiet: bool = False):
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self._last, self._at = "", time.monotonic()

    def __call__(self, tally: Tally) -> None:
        if self.quiet:
            return
        if self.terminal:
            share = 1 - tally.left / max(tally.jobs, 1)
            line = f"[{'#' * round(24 * share):<24}] {share:4.0%} {tally}"
            if line != self._last:
                print(f"\r{line.ljust(len(self._last))}", end="", file=sys.stderr, flush=True)
                self._last = line
        elif time.monotonic() - self._at > LINE_S:
            print(f"tumorsynth: {tally}", file=sys.stderr, flush=True)
            self._at = time.monotonic()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._last:
            print("\r" + " " * len(self._last) + "\r", end="", file=sys.stderr, flush=True)


class _Files:
    """Which files there are in a folder's folders, one look at each."""

    def __init__(self, folder: Path):
        self._folder = str(folder)
        self._names: dict[str, set[str]] = {}

    def has(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(f"{self._folder}/{folder}"))
            except OSError:
                self._names[folder] = set()
        return file in self._names[folder]


def failures(jobs: Sequence[Job], ledger: Ledger) -> list[Row]:
    """Rows of the plan's jobs that failed."""
    return [ledger.rows[j.key] for j in jobs if ledger.rows.get(j.key, {}).get("state") == FAILED]

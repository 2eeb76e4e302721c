"""What `tumorsynth batch` does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from TumorSynthLib.console import as_json
from TumorSynthLib.errors import Cancelled, InputError
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.ledger import Ledger
from TumorSynthLib.study.plan import Job, read_plan
from TumorSynthLib.study.processes import Processes
from TumorSynthLib.study.run import Show, Tally, failures, pending, run

MAX_WORKERS = 256


def batch(args: argparse.Namespace) -> int:
    """`tumorsynth batch`: exit code 2 if a job failed, 130 if it was stopped."""
    for name, value in (("--workers", args.workers), ("--threads", args.threads)):
        if not 1 <= value <= MAX_WORKERS:
            raise InputError(f"{name} is {value}, but must be a whole number from 1 to {MAX_WORKERS}")
    layout = Layout(Path(args.out), args.out_layout)
    layout.check()
    jobs = read_plan(args.table, args.model)
    _check_apart(jobs, layout)
    show = Show(args.quiet)
    with Ledger(layout.folder) as ledger:
        left = pending(
            jobs, ledger, layout, args.retry, lambda text: print(f"warning: {text}", file=sys.stderr)
        )
        tally = Tally(len(jobs), len(jobs) - len(left))
        try:
            if left:
                run(left, ledger, _executor(args, layout, len(left)), tally, show)
            notes = []
            if left or layout.is_stale(ledger.path):
                notes = layout.finish(ledger.rows[job.key] for job in jobs)
        except (KeyboardInterrupt, Cancelled):
            show.close()
            print(f"tumorsynth: stopped at {tally}: the same command goes on from here", file=sys.stderr)
            return Cancelled.exit_code
        finally:
            show.close()
        failed = failures(jobs, ledger)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    told = {"jobs": len(jobs), "done": len(jobs) - len(failed), "failed": len(failed), "ledger": ledger.path}
    print(as_json(told) if args.json else f"{told['done']} of {len(jobs)} jobs are done: {ledger.path}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(jobs)} jobs failed, the first, {failed[0]['name']}: {failed[0]['error']} "
            "(see the ledger's column error; --retry does them again)"
        )
    return 0


def _check_apart(jobs: Sequence[Job], layout: Layout) -> None:
    """Raise InputError where a result would overwrite what a job reads."""
    read = {os.path.normpath(p) for job in jobs for p in (job.image, job.mask, job.settings) if p}
    folder = str(layout.folder.resolve())
    for job in jobs:
        for name in layout.names(job).values():
            if f"{folder}/{name}" in read:
                raise InputError(
                    f"{folder}/{name} is an input and would be overwritten: give the job another name"
                )


def _executor(args: argparse.Namespace, layout: Layout, jobs: int):
    if args.dask:
        from TumorSynthLib.study.cluster import Cluster

        return Cluster(args.dask, layout, args.device, args.threads)
    return Processes(layout, min(args.workers, jobs), args.device, args.threads)

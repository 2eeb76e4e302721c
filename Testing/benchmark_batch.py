"""What batches cost: edits by one and two processes, bytes of a job, resuming, and Dask's scheduler.

    python Testing/benchmark_batch.py [--edits 200] [--tasks 2000]

Edits are removals of small tumours with a tiny model, so that what is around the edits shows. Prints one line of JSON for each
measurement. Seconds of edits are those of the clock, so run it on a machine that does nothing else; the others are of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import editor_case  # noqa: E402
import study_case  # noqa: E402

from TumorSynthLib.study.layouts import Layout  # noqa: E402
from TumorSynthLib.study.ledger import Ledger  # noqa: E402
from TumorSynthLib.study.plan import read_plan  # noqa: E402
from TumorSynthLib.study.processes import Processes  # noqa: E402
from TumorSynthLib.study.run import Tally, pending, run  # noqa: E402


def told(name: str, **values) -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(json.dumps({"measured": name, **values, "load": load}), flush=True)


def edits(folder: Path, count: int) -> None:
    """The same edits by one process and by two."""
    cases = study_case.cases(folder, 4)
    rows = [
        {
            "id": f"c{n}",
            "image": cases[n % 4][0],
            "mask": cases[n % 4][1],
            "edit": "remove",
            "seed": n,
            "options": "steps=1",
        }
        for n in range(count)
    ]
    jobs = read_plan(study_case.table(folder / "plan.csv", rows), "tiny")
    seconds = {}
    for workers in (1, 2):
        layout = Layout(folder / f"out{workers}")
        with Ledger(layout.folder) as ledger:
            start = time.perf_counter()
            run(jobs, ledger, Processes(layout, workers, "cpu"), Tally(len(jobs), 0))
            seconds[workers] = time.perf_counter() - start
        assert all(row["state"] == "done" for row in study_case.rows(layout.folder))
    same = [
        {row["key"]: row["result_sha256"] for row in study_case.rows(folder / f"out{workers}")}
        for workers in (1, 2)
    ]
    told(
        "edits",
        edits=count,
        seconds={w: round(s, 1) for w, s in seconds.items()},
        speedup=round(seconds[1] / seconds[2], 2),
        same_voxels=same[0] == same[1],
    )
    row = study_case.rows(folder / "out1")[0]
    written = {
        role: (folder / "out1" / name).stat().st_size for role, name in json.loads(row["outputs"]).items()
    }
    told(
        "bytes of an edit", job=len(jobs[0].to_json()), ledger_row=len(",".join(row.values())), files=written
    )


def resume(folder: Path, count: int = 10_000) -> None:
    """Reading a ledger of many rows, and seeing that all results are there."""
    text = ["image,mask,edit,id,seed", *(f"i{n}.nrrd,m.nrrd,remove,c{n},{n}" for n in range(count))]
    (folder / "many.csv").write_text("\n".join(text))
    start = time.process_time()
    jobs = read_plan(folder / "many.csv", "tiny")
    planned = time.process_time() - start
    layout = Layout(folder / "many")
    with Ledger(layout.folder) as ledger:
        for job in jobs[:1]:
            ledger.add(study_case.row_of(job))
        rows = {job.key: {**ledger.rows[jobs[0].key], "key": job.key, "name": job.stem} for job in jobs}
        ledger.rows = rows
        ledger._rewrite()
        for job in jobs:
            for path in layout.paths(job).values():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    start = time.perf_counter()
    with Ledger(layout.folder) as ledger:
        left = pending(jobs, ledger, layout)
    assert not left
    told(
        "resume",
        rows=count,
        seconds=round(time.perf_counter() - start, 2),
        reading_the_table=round(planned, 2),
    )


def scheduler(count: int) -> None:
    """What a job that does nothing costs a scheduler and its client, which share this process."""
    from distributed import Client, LocalCluster, as_completed

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
        Client(made) as client,
    ):
        text = study_case.job().to_json()
        for future in as_completed(client.map(len, [text] * 10, pure=False)):
            future.result()
        start = time.process_time()
        for future in as_completed(client.map(len, [text] * count, pure=False)):
            future.result()
        seconds = time.process_time() - start
    told("scheduler", tasks=count, milliseconds_a_task=round(1000 * seconds / count, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=200, metavar="N", help="of each run (default: 200)")
    parser.add_argument(
        "--tasks", type=int, default=2000, metavar="N", help="for the scheduler (default: 2000)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        editor_case.model(folder / "models" / "tiny")
        os.environ["TUMORSYNTH_MODELS"] = str(folder / "models")
        edits(folder, args.edits)
        resume(folder)
    try:
        scheduler(args.tasks)
    except ImportError:
        print("distributed isn't installed: the scheduler wasn't measured", file=sys.stderr)


if __name__ == "__main__":
    main()

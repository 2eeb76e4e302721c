"""What an edit through the module's logic costs beyond the engine's own time, and how fast it can be cancelled.

    python Testing/benchmark_worker.py [DATA] [--json FILE]

DATA is the folder with the test data (default ../shared/data). Prints, for a lung nodule and a soft-tissue sarcoma with a warm
worker and no solver: the time of the whole call, the engine's own, the difference, and the longest block of the main thread;
then the time of Cancel and the memory before and after. Takes a minute on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import slicer_case
import slicer_runtime

ROOT = Path(__file__).resolve().parents[1]
CASES = (
    ("lung nodule", slicer_case.lung, "lung-nodule-ct"),
    ("sarcoma", slicer_case.largeSarcoma, "soft-tissue-sarcoma"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logic = slicer_runtime.moduleLogic()
    rows = []
    try:
        for name, load, model in CASES:
            for edit in ("remove", "synthesize"):
                rows.append(
                    {"case": name, "edit": edit, **warm(logic, load, args.data, model, edit, args.repeat)}
                )
                print(line(rows[-1]), flush=True)
        rows.append({"cancel": cancelled(logic, args.data)})
        print(f"cancel: {rows[-1]['cancel']}")
    finally:
        logic.close()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def warm(logic, load, data: Path, model: str, edit: str, repeat: int) -> dict:
    """Medians of several calls, after one that starts the worker and loads the model."""
    with slicer_runtime.freshScene():
        volumeNode, segmentationNode, mask = load(data)
        given = (edit, volumeNode, segmentationNode, "tumour", model)
        timed(logic, given)
        calls = []
        for _ in range(repeat):
            logic.undo()
            calls.append(timed(logic, given))
        found = {key: round(statistics.median(call[key] for call in calls), 3) for key in calls[0]}
        return {"voxels": int(mask.sum()), "image": list(mask.shape[::-1]), **found}


def timed(logic, given: tuple) -> dict[str, float]:
    """Seconds of one edit, driven as by Qt's timer."""
    done, blocks = [], []
    options = {"solve": False} if given[0] == "synthesize" else {}
    start = time.perf_counter()
    job = logic.start(*given, onDone=done.append, **options)
    blocks.append(time.perf_counter() - start)
    while job.isRunning():
        time.sleep(0.005)
        begin = time.perf_counter()
        logic.poll()
        blocks.append(time.perf_counter() - begin)
    whole = time.perf_counter() - start
    engine = done[0].timing["total"]
    return {"whole": whole, "engine": engine, "overhead": whole - engine, "longest block": max(blocks)}


def cancelled(logic, data: Path) -> dict[str, float]:
    """Seconds until Cancel has returned, and the worker's memory in MB while it worked and afterwards."""
    with slicer_runtime.freshScene():
        volumeNode, segmentationNode, _mask = slicer_case.largeSarcoma(data)
        given = (volumeNode, segmentationNode, "tumour", "soft-tissue-sarcoma")
        slicer_case.drain(logic, logic.start("remove", *given))
        logic.undo()
        time.sleep(1.0)
        number = logic._client.processID
        before = memory(number)
        job = logic.start("synthesize", *given, steps=50)
        working, limit = 0.0, time.monotonic() + 4.0
        while time.monotonic() < limit:
            logic.poll()
            time.sleep(0.01)
            working = max(working, memory(number))
        start = time.perf_counter()
        assert job.isRunning(), job.error
        job.cancel()
        seconds = time.perf_counter() - start
        time.sleep(1.0)
        found = {"MB before": before, "MB working": working, "MB afterwards": memory(number)}
        return {"seconds": round(seconds, 3), **found}


def memory(number: int) -> float:
    """Resident memory of a process in MB; 0 where it has ended (or there is no /proc)."""
    path = Path(f"/proc/{number}/status")
    if not number or not path.exists():
        return 0.0
    return next(
        (round(int(s.split()[1]) / 1024, 1) for s in path.read_text().splitlines() if s.startswith("VmRSS")),
        0.0,
    )


def line(row: dict) -> str:
    numbers = ", ".join(f"{key} {row[key]:.3f} s" for key in ("whole", "engine", "overhead", "longest block"))
    return f"{row['case']} ({row['voxels']:,} voxels), {row['edit']}: {numbers}"


if __name__ == "__main__":
    main()

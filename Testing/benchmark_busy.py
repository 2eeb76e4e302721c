"""How much slower an edit gets beside one busy process per core, and what waiting without spinning costs on a quiet machine.

    python Testing/benchmark_busy.py [--anew]   # exit code 1 if it is more than 2.5 times as slow as quiet

All calls are the same edit of the phantom in processes of their own, in turns, so that a machine that gets slower or
faster doesn't change the ratios; medians of the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from TumorSynthLib.phantom import chest  # noqa: E402
from TumorSynthLib.threads import WAITING  # noqa: E402
from TumorSynthLib.volume import write_volume  # noqa: E402

COMMAND = "import sys, TumorSynthLib.cli as c; sys.exit(c.main(sys.argv[1:]))"
SPINNING = COMMAND.replace(
    "; sys.exit", "; c.share_cores = lambda: None; sys.exit"
)  # as OpenMP does by itself
LIMIT = 2.5  # busy time over quiet time
LIMIT_QUIET = 1.03  # quiet time over that with OpenMP's own way to wait


@contextmanager
def busy(processes: int):
    """So many other processes that compute without a pause."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(files: tuple[str, str], folder: Path, more: list[str], code: str = COMMAND) -> float:
    """Wall clock of one edit from the shell."""
    environment = {k: v for k, v in os.environ.items() if k not in WAITING}
    command = ["synthesize", *files, "--model", "lung-nodule-ct", "--set", "contrast=30", "--device", "cpu"]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *command, *more, "--quiet", "--out", str(folder / "out.nii.gz")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--anew", action="store_true", help="draw the tumour anew by the network, not of its own tissue"
    )
    args = parser.parse_args()
    more = ["--strength", "1"] if args.anew else []
    found: dict[str, list[float]] = {"quiet": [], "busy": [], "quiet, spinning": []}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume, mask = chest()
        files = (str(folder / "image.nii.gz"), str(folder / "mask.nii.gz"))
        write_volume(volume, Path(files[0]))
        write_volume(volume.with_array(mask.astype("uint8")), Path(files[1]))
        for _ in range(args.turns):
            found["quiet"].append(seconds(files, folder, more))
            found["quiet, spinning"].append(seconds(files, folder, more, SPINNING))
            with busy(cores):
                found["busy"].append(seconds(files, folder, more))
    medians = {kind: statistics.median(times) for kind, times in found.items()}
    slower = medians["busy"] / medians["quiet"]
    row = {"cores": cores, "load": os.getloadavg() if hasattr(os, "getloadavg") else None, "seconds": medians}
    row |= {"busy / quiet": slower, "quiet / spinning": medians["quiet"] / medians["quiet, spinning"]}
    print(json.dumps(row | {"limits": [LIMIT, LIMIT_QUIET]}, indent=1))
    return int(slower > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

"""A process that does jobs one after the other: `python -m TumorSynthLib.study.process FOLDER LAYOUT DEVICE THREADS`.

Each line of stdin is a job, each line of stdout the row of one that has ended, both JSON. The process ends with its input, after
the job that it is at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Serve until the input ends."""
    folder, layout, device, threads = arguments
    signal.signal(signal.SIGTERM, _stop)  # so that what was being written is taken away
    lines = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    sys.stdout = sys.stderr

    from TumorSynthLib.memory import reuse_memory
    from TumorSynthLib.provenance import plain
    from TumorSynthLib.study.layouts import Layout
    from TumorSynthLib.study.perform import Bench
    from TumorSynthLib.study.plan import Job

    reuse_memory()
    bench = Bench(Layout(Path(folder), layout), device, int(threads))
    for line in sys.stdin:
        row = bench.do(Job.from_json(line))
        try:
            lines.write(json.dumps(plain(row)) + "\n")
            lines.flush()
        except OSError:  # nobody listens any more
            break
    return 0


def _stop(number, frame):
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Checks the types with mypy: a file may have no more errors than `type_errors.json` allows it, and new files none.

    python Testing/support/type_errors.py [--update]

Ends with 1 where a file has more errors, which are printed, or fewer, so that the list only shrinks: --update writes the lower
numbers, and never a higher one. mypy's settings are those of pyproject.toml.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = Path(__file__).with_suffix(".json")


def found() -> dict[str, list[str]]:
    """File to the lines that mypy says of it.

    :raises SystemExit: mypy itself fails.
    """
    command = [sys.executable, "-m", "mypy", "--no-color-output", "--no-error-summary"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(done.stdout + done.stderr)
    lines: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"(.+?):\d+: error: ", line):
            lines.setdefault(match[1].replace("\\", "/"), []).append(line)
    return lines


def compared(lines: dict[str, list[str]], allowed: dict[str, int]) -> tuple[list[str], dict[str, int]]:
    """What is to be said of errors beyond those allowed, and the numbers that hold from now on."""
    counts = Counter({file: len(said) for file, said in lines.items()})
    worse = [
        "\n".join([f"{file}: {n} errors of type, {allowed.get(file, 0)} are allowed", *lines[file]])
        for file, n in sorted(counts.items())
        if n > allowed.get(file, 0)
    ]
    return worse, {file: min(n, counts[file]) for file, n in sorted(allowed.items()) if counts[file]}


def main() -> None:
    allowed = json.loads(ALLOWED.read_text(encoding="utf-8"))
    worse, lower = compared(found(), allowed)
    if worse:
        sys.exit("\n".join(worse))
    if lower == allowed:
        print(f"types: {sum(allowed.values())} old errors in {len(allowed)} files, no new one")
    elif "--update" in sys.argv:
        ALLOWED.write_text(json.dumps(lower, indent=1) + "\n", encoding="utf-8")
        print(f"types: {sum(allowed.values())} old errors are {sum(lower.values())} now")
    else:
        sys.exit(
            "types: some old errors are gone; keep it so: python Testing/support/type_errors.py --update"
        )


if __name__ == "__main__":
    main()

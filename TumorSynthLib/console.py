"""What the commands print: a progress bar on a terminal, aligned tables, JSON."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from TumorSynthLib.terminal import shown

#: Share of an edit's time by stage: (start, end) of the bar.
STAGES = {
    "prepare": (0.0, 0.05, "reading the region"),
    "shape": (0.05, 0.1, "drawing the shape"),
    "mass effect": (0.1, 0.12, "moving the tissue around"),
    "model": (0.05, 0.12, "loading the model"),
    "texture": (0.12, 0.6, "drawing tissue"),
    "solve": (0.6, 0.95, "matching features"),
    "measure": (0.95, 1.0, "measuring"),
    "series": (0.0, 1.0, "all steps"),
}
WIDTH = 24


class Bar:
    """Progress bar on stderr, if that is a terminal; call it as ``bar(stage, fraction)``."""

    def __init__(
        self, quiet: bool = False, stages: Mapping[str, tuple[float, float, str]] = STAGES, title: str = ""
    ):
        self.on, self.stages, self.title, self.last = sys.stderr.isatty() and not quiet, stages, title, None

    def __call__(self, stage: str, fraction: float) -> None:
        if not self.on:
            return
        start, end, text = self.stages.get(stage, (0.0, 1.0, stage))
        done = start + (end - start) * min(max(fraction, 0.0), 1.0)
        line = f"{self.title}[{'#' * round(done * WIDTH):<{WIDTH}}] {done:4.0%} {text}"
        if line != self.last:
            text = line[: shutil.get_terminal_size().columns - 1].ljust(len(self.last or ""))
            _draw("\r" + text)
            self.last = line

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.on and self.last:
            _draw("\r" + " " * len(self.last) + "\r")
            self.last = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def _draw(text: str) -> None:
    getattr(sys.stderr, "draw", sys.stderr.write)(
        text
    )  # a `terminal.Sturdy` would show the return as a character
    sys.stderr.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns padded with blanks; those in `right` are flush right."""
    lines = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    text = []
    for row in lines:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def number(value: float | None) -> str:
    """A number with five significant digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.5g}"


def size(count: float) -> str:
    """Bytes in words."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def as_json(value: Any) -> str:
    """JSON text; numbers that JSON lacks (NaN, infinity) become null, characters that the terminal lacks are escaped."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    if shown(text, getattr(sys.stdout, "encoding", None)) == text:
        return text
    return json.dumps(plain(value), indent=1, ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """Containers and numbers as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)

"""What the commands print: a progress bar on a terminal, aligned tables, JSON."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from TumorSynthLib.edit.progress import STAGES, WORDS
from TumorSynthLib.pace import Pace
from TumorSynthLib.provenance import plain
from TumorSynthLib.terminal import shown

WIDTH = 24


class Bar:
    """Progress bar on stderr, if that is a terminal; call it as ``bar(stage, fraction)``. It never goes back.

    :param stages: of something else than an edit: (start, end, what is being done) by stage.
    """

    def __init__(
        self,
        quiet: bool = False,
        stages: Mapping[str, tuple[float, float, str]] | None = None,
        title: str = "",
    ):
        self.on, self.title = sys.stderr.isatty() and not quiet, title
        self.last: str | None = None
        self.pace, self._stages, self._done = Pace(tuple(STAGES)), stages, 0.0
        self.said: list[str] = []

    def __call__(self, stage: str, fraction: float) -> None:
        if not self.on:
            return
        done, words = self._at(stage, fraction)
        self._done = max(self._done, done)
        line = f"{self.title}[{'#' * round(self._done * WIDTH):<{WIDTH}}] {self._done:4.0%} {words}"
        if line != self.last:
            text = line[: shutil.get_terminal_size().columns - 1].ljust(len(self.last or ""))
            _draw("\r" + text)
            self.last = line

    def say(self, text: str) -> None:
        """A warning that is known before the edit is drawn, on a line of its own; kept in `said`."""
        self.close()
        print(f"warning: {text}", file=sys.stderr, flush=True)
        self.said.append(text)

    def _at(self, stage: str, fraction: float) -> tuple[float, str]:
        """Fraction of the whole, and what is being done."""
        if self._stages is None:
            return self.pace.at(stage, fraction)[0], WORDS.get(stage, stage)
        start, end, words = self._stages.get(stage, (0.0, 1.0, stage))
        return start + (end - start) * min(max(fraction, 0.0), 1.0), words

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


def asked_table(result, rows: int = 12, named: Iterable[str] = ()) -> str:
    """Asked and reached features, those farthest off first, the difference in population deviations; of a shape in per cent.

    :param named: as they were asked for, e.g. `volume_ml`, by whose name and unit they are then told.
    """
    off, told = result.differences, told_as(named)
    names = sorted(off, key=lambda n: -abs(off[n]))
    lines = [
        [
            told.get(n, (n, number))[0],
            *(
                told.get(n, (n, number))[1](values.get(n))
                for values in (result.before, result.asked, result.reached)
            ),
            f"{100 * (result.reached[n] / result.asked[n] - 1):+.1f} %"
            if "_shape_" in n and result.asked[n]
            else f"{off[n]:+.2f} σ",
        ]
        for n in names[:rows]
    ]
    text = table(["feature", "before", "asked", "reached", "difference"], lines, right=(1, 2, 3, 4))
    return text + (f"\n… and {len(names) - rows} more, nearer" if len(names) > rows else "")


def told_as(named: Iterable[str]) -> dict[str, tuple[str, Callable[[float | None], str]]]:
    """Full name of a feature to that which was asked for, and how its value is told: a deviation, not its square; ml, not mm³."""
    from TumorSynthLib.radiomics.table import FEATURES, resolve

    def shown_by(factor: float, root: bool = False) -> Callable[[float | None], str]:
        return lambda v: number(v if v is None else max(v, 0.0) ** 0.5 if root else v / factor)

    found = {}
    for name in named:
        full, factor = resolve(name)
        root = FEATURES[full].short == "StandardDeviation"
        found["original_firstorder_Variance" if root else full] = name, shown_by(factor, root)
    return found


def as_asked(text: str, named: Iterable[str]) -> str:
    """A warning with a shape's volume or surface in the unit that it was asked in: ml or cm², not mm³ or mm²."""
    for name, (short, factor) in {
        "volume_ml": ("MeshVolume", 1000),
        "surface_cm2": ("SurfaceArea", 100),
    }.items():
        if name in named:
            value = r"(\d[\d.]*(?:e[+-]?\d+)?)"
            told = re.compile(
                rf"\b{short}( is | ){value}( instead of | does not go together with .*?: ){value}"
            )
            for found in reversed(list(told.finditer(text))):
                verb, first, link, second = found.groups()
                first, second = (f"{float(value) / factor:.4g}" for value in (first, second))
                text = text[: found.start()] + f"{name}{verb}{first}{link}{second}" + text[found.end() :]
    return text

"""How far an edit is and what its stages took; the one table of stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Stage of an edit, in their order, to the share of its time and what is being done; rough, measured on a nodule and a
#: sarcoma on two cores.
STAGES = {
    "prepare": (0.03, "reading the region"),
    "model": (0.05, "loading the model"),
    "shape": (0.12, "drawing the shape"),
    "mass effect": (0.02, "moving the tissue around"),
    "texture": (0.43, "drawing tissue"),
    "solve": (0.3, "matching features"),
    "measure": (0.05, "measuring"),
}
#: What is being done, for each stage that an edit can report; "step" begins the next edit of a series.
WORDS = {name: words for name, (_, words) in STAGES.items()} | {"step": "beginning the next step"}

Report = Callable[[str, float], None]


class Progress:
    """One edit's progress: call it with a stage and the fraction of it that is done; `stage` measures seconds.

    :param report: hears each call; what it raises (`errors.Cancelled`) stops the edit.
    """

    def __init__(self, report: Report | None = None):
        self._report = report
        self._start = time.perf_counter()
        self._seconds: dict = {}

    def __call__(self, stage: str, fraction: float) -> None:
        if self._report is not None:
            self._report(stage, fraction)

    def say(self, text: str) -> None:
        """A sentence that is known before the edit is drawn, for a report that has somewhere to say it."""
        say = getattr(self._report, "say", None)
        if say is not None:
            say(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context whose seconds count as those of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def again(self) -> Progress:
        """The progress of a further edit, with seconds of its own."""
        return Progress(self._report)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, and in total."""
        rounded = {name: round(value, 3) for name, value in self._seconds.items()}
        return rounded | {"total": round(time.perf_counter() - self._start, 3)}

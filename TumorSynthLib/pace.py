"""How far an edit is, and how long it will still take, from the stages that the editor reports."""

from __future__ import annotations

import time
from collections.abc import Callable

from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.edit.progress import STAGES

SHARES = {name: share for name, (share, _) in STAGES.items()}
TRUSTED = 0.15  # fraction from which the elapsed time says more about the rest than the estimate


class Pace:
    """Turns (stage, fraction of the stage) into (fraction of the whole, remaining seconds); never goes back.

    :param stages: those that will come, some of `SHARES`. :param passes: how often the texture stage will run.
    :param steps: edits of a series, each of which is begun by the stage "step". :param passes: of one step.
    :param estimate: seconds of the whole, if there is one.
    """

    def __init__(
        self,
        stages: tuple[str, ...],
        passes: int = 1,
        steps: int = 1,
        estimate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stages = [s for s in SHARES if s in stages]
        self.passes, self.steps, self.estimate, self._clock = max(1, passes), max(1, steps), estimate, clock
        self._start, self._done, self._step, self._pass, self._last = clock(), 0.0, 0, 0, 0.0

    @classmethod
    def of(cls, edit: str, request: EditRequest, steps: int = 1, estimate: float | None = None) -> Pace:
        """The pace of an edit: the stages that it will have, and how often tissue is drawn."""
        left_out = set()
        if not request.solve or not EDITS[edit].texture:
            left_out.add("solve")
        if not (EDITS[edit].draws or edit == "series"):
            left_out.add("shape")
        if not request.mass_effect:
            left_out.add("mass effect")
        passes = (request.samples if EDITS[edit].texture else 1) + (edit in ("move", "reshape"))
        return cls(tuple(s for s in STAGES if s not in left_out), passes, steps, estimate)

    def at(self, stage: str, fraction: float) -> tuple[float, float | None]:
        """Fraction of the whole (0…1) and remaining seconds, None while they can't be told."""
        fraction = min(max(fraction, 0.0), 1.0)
        if stage == "step":
            self._step, self._pass, self._last = round(fraction * self.steps), 0, 0.0
            self._done = max(self._done, self._step / self.steps)
        elif stage in self.stages:
            part = self._texture(fraction) if stage == "texture" else fraction
            total = sum(SHARES[s] for s in self.stages)
            before = sum(SHARES[s] for s in self.stages[: self.stages.index(stage)])
            within = (before + SHARES[stage] * part) / total
            self._done = max(self._done, min((self._step + within) / self.steps, 1.0))
        return self._done, self._remaining()

    def _texture(self, fraction: float) -> float:
        """Fraction of all passes; one that begins anew is the next."""
        if fraction < self._last:
            self._pass = min(self._pass + 1, self.passes - 1)
        self._last = fraction
        return (self._pass + fraction) / self.passes

    def _remaining(self) -> float | None:
        elapsed = self._clock() - self._start
        if self._done >= TRUSTED:
            return elapsed * (1 - self._done) / self._done
        return None if self.estimate is None else max(self.estimate - elapsed, 0.0)

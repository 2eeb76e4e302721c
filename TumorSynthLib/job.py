"""One edit under way: its checked input, its region, what it asked and what it warned of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.region import Region
from TumorSynthLib.shaping import Form
from TumorSynthLib.volume import Volume

Progress = Callable[[str, float], None]


class Clock:
    """Seconds by stage."""

    def __init__(self):
        self.start, self.seconds = time.perf_counter(), {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def resume(self) -> None:
        """Leave out of the total the time since the last stage, in which other edits went on."""
        self.start = time.perf_counter() - sum(self.seconds.values())

    def done(self) -> dict[str, float]:
        rounded = {name: round(value, 3) for name, value in self.seconds.items()}
        return rounded | {"total": round(time.perf_counter() - self.start, 3)}


@dataclass(eq=False)
class Job:
    """One edit under way: a checked input and its region.

    :param origin: the fingerprint of the input, and `copy` a copy of the image's whole array, both under way in threads.
    :param form: the shape that the edit makes, if it makes one.
    :param boxes: of the (K, J, I) array, which together hold all that changed; empty where that is the mask's alone.
    :param notes: further entries of the provenance.
    :param others: masks (K, J, I) of the model's other regions by name, which stay as they are.
    """

    volume: Volume
    request: EditRequest
    modality: str
    settings: Settings
    warnings: list[str]
    report: Progress
    clock: Clock = field(default_factory=Clock)
    mask: np.ndarray | None = None
    region: Region | None = None
    origin: Future | None = None
    copy: Future | None = None
    asked: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    implied: dict[str, float] = field(default_factory=dict)
    form: Form | None = None
    boxes: list[tuple[slice, ...]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    others: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def without_image(cls, request: EditRequest, progress: Progress | None) -> Job:
        """A job that draws a shape and nothing else."""
        return cls(None, request, "", None, [], progress or (lambda stage, fraction: None))

    def again(self, request: EditRequest) -> Job:
        """The same tumour for another request."""
        return replace(
            self,
            request=request,
            warnings=list(self.warnings),
            clock=Clock(),
            asked={},
            used={},
            implied={},
            boxes=[],
            notes={},
            copy=None,
        )

    def pasted(self, native: np.ndarray) -> np.ndarray:
        """The whole (K, J, I) edited array: a copy, which may have been made meanwhile, with the native box in it."""
        if self.copy is None:
            return self.region.paste(native)
        return self.region.patch(native).apply(self.copy.result())

    def warn(self, *texts: str) -> None:
        """Add warnings, but for empty ones and those that are there."""
        self.warnings += [text for text in dict.fromkeys(texts) if text and text not in self.warnings]

    def measure(self, native: np.ndarray | None = None, classes=TEXTURE_CLASSES) -> dict[str, float]:
        """Exact features of a native box as it will be stored; of the image itself without one."""
        box = self.region.native if native is None else native
        return measured(self.region, box, self.settings, classes)


def measured(
    region: Region,
    native: np.ndarray,
    settings: Settings,
    classes,
    warn: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Exact features of a native box, as an extraction of the stored file finds them; `warn`: see `extract`."""
    values = region.measure(native, as_stored=True)
    dtype = region.volume.array.dtype
    values = values.astype(np.int64 if np.issubdtype(dtype, np.integer) else np.float64)
    return extract(values, region.mask, region.spacing, settings, classes, warn)


def short(name: str) -> str:
    return name.removeprefix("original_")


def listed(parts: list[str], shown: int = 4) -> str:
    """The first few of a list, in words."""
    return ", ".join(parts[:shown]) + (f" and {len(parts) - shown} more" if len(parts) > shown else "")

"""What draws voxels: the door behind which each engine works; `engines` lists them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.plan import Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.engines import ENGINES
from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Patch


@dataclass(frozen=True, eq=False)
class Draft:
    """What an engine drew.

    :param patch: the change of the image's voxels, in its type.
    :param mask: (K, J, I) bool, the voxels whose features count: the tumour, or what took its place.
    :param reached: features measured in it; empty where the engine didn't measure.
    :param device: where it was drawn.
    :param changed: (K, J, I) bool, the voxels that could change; None where they are the mask.
    :param asked: what was asked, where the engine decides it: features of the tissue that a donor lends.
    :param before: features of what was there, where the engine measures them: of a moved tumour's voxels at their old place.
    :param spread: one standard deviation of each feature, where no population tells it.
    :param used: values that tissue limits of what was asked were taken to; the warnings name them.
    :param facts: what the record tells of it, by name.
    """

    patch: Patch
    mask: np.ndarray
    reached: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    warnings: tuple[str, ...] = ()
    changed: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    asked: Mapping[str, float] | None = None
    before: Mapping[str, float] | None = None


class Engine(Protocol):
    """Draws what a plan says: a tumour in `plan.target`, or healthy tissue where there is none.

    It is made with the bundle (None without a model) and the name of a device, and kept between edits.
    """

    name: str
    edits: tuple[str, ...]
    needs_bundle: bool

    def knows(self, feature: str) -> bool:
        """Whether it can be asked for a feature, by its full name."""

    def draw(self, case: Case, plan: Plan, seed: int, progress: Progress) -> Draft:
        """:raises InputError: it can't be drawn."""


def make_engine(name: str, bundle, device: str, parent: Engine | None = None) -> Engine:
    """The engine of a name.

    :param parent: that of another region of the same model, with which it shares what is loaded.
    :raises InputError: it needs a model, and there is none.
    """
    module, cls = ENGINES[name].split(":")
    found = getattr(import_module(module), cls)
    if found.needs_bundle and bundle is None:
        raise InputError(f"the engine {name} needs a model: name one (--model)")
    return found(bundle, device, parent)

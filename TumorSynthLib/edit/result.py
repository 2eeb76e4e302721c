"""What an edit gives back: frozen dataclasses shared by all users of the editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from TumorSynthLib.region import Patch
    from TumorSynthLib.volume import Volume


@dataclass(frozen=True, eq=False)
class EditResult:
    """An edited image, and what became of the request.

    :param volume: the whole edited image; `mask` (K, J, I) is the tumour's mask afterwards.
    :param patch: the box that changed, before and after, for undo and redo.
    :param asked: features as asked; `used`: the nearest feasible request; `reached`, `before`: all features, measured
        in the stored voxels of the result and of the input.
    :param timing: seconds by stage.
    :param spread: standard deviation of each feature in the model's population.
    :param changed: (K, J, I) bool, the voxels that the edit could change; None where they are the mask, or weren't recorded.
    """

    volume: Volume
    mask: np.ndarray
    patch: Patch
    asked: dict[str, float]
    used: dict[str, float]
    reached: dict[str, float]
    before: dict[str, float]
    timing: dict[str, float]
    provenance: dict[str, Any]
    warnings: tuple[str, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)
    changed: np.ndarray | None = None

    @property
    def differences(self) -> dict[str, float]:
        """reached - asked of each asked feature, in standard deviations of the population."""
        return differences(self.asked, self.reached, self.spread)


@dataclass(frozen=True, eq=False)
class ShapeResult:
    """A drawn mask and what became of the request.

    :param volume: the mask as an image, uint8; `mask` the same as bool.
    :param asked: shape features as asked; `used`: the nearest feasible request; `reached`: all 17, measured in the mask.
    """

    volume: Volume
    mask: np.ndarray
    asked: dict[str, float]
    used: dict[str, float]
    reached: dict[str, float]
    timing: dict[str, float]
    provenance: dict[str, Any]
    warnings: tuple[str, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)

    @property
    def before(self) -> dict[str, float]:
        """Nothing was there."""
        return {}

    @property
    def differences(self) -> dict[str, float]:
        """reached - asked of each asked feature, in standard deviations of the population."""
        return differences(self.asked, self.reached, self.spread)


def differences(
    asked: Mapping[str, float], reached: Mapping[str, float], spread: Mapping[str, float]
) -> dict[str, float]:
    """reached - asked in units of `spread` (standard deviations); of the asked value where there is none."""
    return {n: (reached[n] - v) / max(spread.get(n, abs(v)), 1e-9) for n, v in asked.items() if n in reached}

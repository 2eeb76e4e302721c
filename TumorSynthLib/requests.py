"""What an edit is asked for and what it gives back: frozen dataclasses shared by all users of the editor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.identities import RANGES, TINY
from TumorSynthLib.radiomics.table import FEATURES, resolve

if TYPE_CHECKING:
    import numpy as np

    from TumorSynthLib.region import Patch
    from TumorSynthLib.volume import Volume

STEERABLE = ("firstorder", "glcm", "glrlm", "glszm")  # the classes that a texture request can hold
MAX_SAMPLES = 64
MAX_GROW = 10.0  # mm
MAX_MARGIN = 60.0  # mm, of the mass effect

INTENSITIES = {"Minimum", "10Percentile", "Median", "Mean", "90Percentile", "Maximum"}


@dataclass(frozen=True)
class EditRequest:
    """One edit, complete: the same request on the same image gives the same voxels.

    :param features: feature (pyradiomics' name or a driver's, e.g. `intensity_sd`) to value; any subset, the rest is free.
    :param donor: image and mask (K, J, I) whose texture is taken; `features` override single ones.
    :param modality: one of the model's; None finds it from the intensities.
    :param region: which of the model's regions is painted, where it has several; the mask is then a labelmap.
    :param steps: evaluations of the network; None is the model's own choice.
    :param eta: noise of the sampler, 0 (deterministic) to 1 (the paper's); None is the model's own choice.
    :param samples: how many are drawn; the one nearest to the request is used.
    :param solve: let the solver move the sample until the asked features hold.
    :param to: where `move` and `reshape` put the tumour's centre of mass, (x, y, z) LPS mm.
    :param at: where `insert` and `shape` put it, (x, y, z) LPS mm.
    :param nearest: take the nearest place where the tumour fits, if it doesn't fit at the asked one.
    :param inside: (K, J, I) bool, an organ that the tumour must stay in.
    :param grow: mm by which the mask is widened where the old tumour is removed, so that a rim of it outside its contour
        goes too.
    :param mass_effect: mm around the tumour within which the tissue makes room for it; 0: nothing around it moves.
    :param core: share of the volume of a mask drawn by `shape` that is its core, with a label of its own; 0: none.
    :param window: box (slices into the (K, J, I) array) that the model sees at least. A series gives it to all its steps,
        whose random numbers then lie at the same places.
    """

    features: Mapping[str, float] | None = None
    donor: tuple[Volume, np.ndarray] | None = None
    modality: str | None = None
    seed: int = 0
    steps: int | None = None
    eta: float | None = None
    samples: int = 1
    solve: bool = True
    to: tuple[float, float, float] | None = None
    at: tuple[float, float, float] | None = None
    nearest: bool = False
    inside: np.ndarray | None = None
    grow: float = 0.0
    mass_effect: float = 0.0
    window: tuple[slice, slice, slice] | None = None
    region: str | None = None
    core: float = 0.0

    def __post_init__(self):
        _check_whole("seed", self.seed, 0, 2**63 - 1)
        _check_whole("samples", self.samples, 1, MAX_SAMPLES)
        if self.steps is not None:
            _check_whole("steps", self.steps, 1, 1000)
        if self.eta is not None and not (_is_finite(self.eta) and 0 <= self.eta <= 1):
            raise InputError(f"eta is {self.eta}, but must be between 0 (deterministic) and 1 (the paper's)")
        if not (_is_finite(self.grow) and 0 <= self.grow <= MAX_GROW):
            raise InputError(f"grow is {self.grow}, but must be a number of mm from 0 to {MAX_GROW:g}")
        if not (_is_finite(self.mass_effect) and 0 <= self.mass_effect <= MAX_MARGIN):
            raise InputError(
                f"mass effect is {self.mass_effect}, but must be a number of mm around the tumour from 0 to {MAX_MARGIN:g}"
            )
        if not (_is_finite(self.core) and 0 <= self.core < 1):
            raise InputError(f"the core is to be {self.core} of the tumour: give a share between 0 and 1")
        _check_place("to move to", self.to)
        _check_place("to put it", self.at)

    def options(self) -> dict[str, Any]:
        """The request without images and features, for the provenance."""
        names = ("seed", "steps", "eta", "samples", "solve", "grow", "nearest", "mass_effect")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        for name in ("to", "at"):
            if getattr(self, name) is not None:
                options[name] = [float(v) for v in getattr(self, name)]
        if self.region is not None:
            options["region"] = self.region
        if self.core:
            options["core"] = self.core
        if self.window is not None:
            options["window"] = [[s.start, s.stop] for s in self.window]
        return options


@dataclass(frozen=True, eq=False)
class EditResult:
    """An edited image, and what became of the request.

    :param volume: the whole edited image; `mask` (K, J, I) is the tumour's mask afterwards.
    :param patch: the box that changed, before and after, for undo and redo.
    :param asked: features as asked; `used`: the nearest feasible request; `reached`, `before`: all features, measured
        in the stored voxels of the result and of the input.
    :param timing: seconds by stage.
    :param spread: standard deviation of each feature in the model's population.
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


def resolved(features: Mapping[str, float] | None) -> dict[str, float]:
    """A request to a texture by full feature names, checked one by one.

    :raises InputError: an unknown name, a feature that texture can't have, or a value that no region can have.
    """
    texture, shape = split(features)
    if shape:
        raise InputError(
            f"{next(iter(shape))} can't be asked of a texture: the mask's shape decides it; use reshape, insert or move"
        )
    return texture


def split(features: Mapping[str, float] | None) -> tuple[dict[str, float], dict[str, float]]:
    """The texture's and the shape's part of a request, by full feature names, checked one by one.

    :raises InputError: an unknown name, a feature that can't be asked for, or a value that no tumour can have.
    """
    texture: dict[str, float] = {}
    shape: dict[str, float] = {}
    for given, value in (features or {}).items():
        name, factor = resolve(given)
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(f"feature {given} is asked to be {value!r}: give a finite number")
        cls = FEATURES[name].cls
        if cls != "shape" and cls not in STEERABLE:
            raise InputError(
                f"{given} can't be asked of a tumour: it is measured, not steered; ask for shape, first-order, GLCM, "
                "GLRLM or GLSZM features"
            )
        value = float(value) * factor
        if cls == "shape":
            shape[name] = value
            continue
        _check_possible(given, name, value)
        if FEATURES[name].short == "StandardDeviation":
            name, value = "original_firstorder_Variance", value * value
        texture[name] = value
    if shape:
        from TumorSynthLib.shape import feasible

        feasible.request(shape)
    return texture, shape


def steerable(features: Mapping[str, float], shape: bool = False) -> tuple[dict[str, float], list[str]]:
    """Those of measured features that another mask can be given, and the names left out (size, audit features).

    :param shape: keep those of the shape too.
    """
    kept, left = {}, []
    for given, value in features.items():
        feature = FEATURES[resolve(given)[0]]
        if (feature.cls in STEERABLE and feature.size == "free") or (shape and feature.cls == "shape"):
            kept[given] = value
        else:
            left.append(given)
    return kept, left


def storable(features: Mapping[str, float], dtype: np.dtype) -> None:
    """Raise InputError where an asked intensity can't be stored in the image's type."""
    import numpy as np

    if not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    for name, value in features.items():
        if FEATURES[name].short in INTENSITIES and not limits.min <= value <= limits.max:
            raise InputError(
                f"{name} is asked to be {value:g}, but the image stores {limits.min} to {limits.max} only"
            )


def _check_possible(given: str, name: str, value: float) -> None:
    """Raise InputError for a value that the feature's definition rules out."""
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if not low - TINY <= value <= high + TINY:
        bound = f"between {low:g} and {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise InputError(f"{given} = {value:g} is impossible: the feature is always {bound}")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not low <= value <= high:
        raise InputError(f"{name} is {value}, but must be a whole number from {low} to {high}")


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def _check_place(what: str, place: object) -> None:
    if place is not None and not (len(place) == 3 and all(_is_finite(v) for v in place)):
        raise InputError(f"the place {what} is {place}, but must be three numbers: x y z in LPS mm")

"""Settings of an extraction, with the names and defaults of pyradiomics' parameter files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite

from ..errors import InputError

WEIGHTING_NORMS = (None, "manhattan", "euclidean", "infinity", "no_weighting")
RESEGMENT_MODES = ("absolute", "relative", "sigma")
#: pyradiomics' interpolators; a number counts them from 1, whatever numbers SimpleITK gives them.
INTERPOLATORS = tuple(
    "sitk" + name
    for name in (
        "NearestNeighbor",
        "Linear",
        "BSpline",
        "Gaussian",
        "LabelGaussian",
        "HammingWindowedSinc",
        "CosineWindowedSinc",
        "WelchWindowedSinc",
        "LanczosWindowedSinc",
        "BlackmanWindowedSinc",
    )
)
# Settings that pyradiomics knows and that change no value here: accepted in a file, not kept.
WITHOUT_EFFECT = frozenset({"additionalInfo", "label_channel", "enableCExtensions", "voxelBatch"})
# Settings that say which voxels are read, or that refuse some.
_NO_VALUE = frozenset(
    "label padDistance preCrop resegmentShape minimumROIDimensions minimumROISize geometryTolerance correctMask".split()
)
MAX_DISTANCE = 50  # voxels; a matrix takes all directions up to it, whose number grows with its cube
MAX_BINS = 2**16  # as many as a 16-bit image has values
MAX_PADDING = 10_000  # voxels; more than any image has
MAX_LABEL = 2**32 - 1  # of a labelmap, which pyradiomics reads as unsigned 32-bit numbers


@dataclass(frozen=True)
class Settings:
    """How features are extracted; every name means what it means in pyradiomics.

    Spacings are (x, y, z) in mm, intensities are in the unit of the image.

    :raises InputError: a value is out of its range.
    """

    binWidth: float = 25
    binCount: int | None = None
    resampledPixelSpacing: tuple[float, float, float] | None = None
    interpolator: str | None = "sitkBSpline"
    padDistance: int = 5
    preCrop: bool = False
    normalize: bool = False
    normalizeScale: float = 1
    removeOutliers: float | None = None
    resegmentRange: tuple[float, ...] | None = None
    resegmentMode: str = "absolute"
    resegmentShape: bool = False
    voxelArrayShift: float = 0
    label: int = 1
    distances: tuple[int, ...] = (1,)
    symmetricalGLCM: bool = True
    weightingNorm: str | None = None
    gldm_a: float = 0
    force2D: bool = False
    force2Ddimension: int = 0
    minimumROIDimensions: int = 2
    minimumROISize: int | None = None
    geometryTolerance: float | None = None
    correctMask: bool = False

    def __post_init__(self) -> None:
        for name in ("resampledPixelSpacing", "resegmentRange", "distances"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                value = (value,)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if _is_whole(self.interpolator) and 1 <= self.interpolator <= len(INTERPOLATORS):
            object.__setattr__(self, "interpolator", INTERPOLATORS[self.interpolator - 1])
        self._check()

    def _check(self) -> None:
        """Refuse values that can't be meant; the message names the setting."""
        for name in ("binWidth", "normalizeScale", "voxelArrayShift", "gldm_a"):
            _require(_is_number(getattr(self, name)), name, "a finite number", self)
        _require(self.binWidth > 0, "binWidth", "above 0", self)
        _require(self.gldm_a >= 0, "gldm_a", "0 or above", self)
        for name in ("removeOutliers", "geometryTolerance"):
            value = getattr(self, name)
            _require(value is None or (_is_number(value) and value > 0), name, "a number above 0", self)
        for name, least, most in (
            ("binCount", 1, MAX_BINS),
            ("minimumROISize", 0, MAX_LABEL),
            ("label", 1, MAX_LABEL),
            ("padDistance", 0, MAX_PADDING),
        ):
            value, optional = getattr(self, name), name in ("binCount", "minimumROISize")
            good = (optional and value is None) or (_is_whole(value) and least <= value <= most)
            _require(good, name, f"an integer from {least} to {most}", self)
        for name in ("normalize", "preCrop", "resegmentShape", "symmetricalGLCM", "force2D", "correctMask"):
            _require(isinstance(getattr(self, name), bool), name, "true or false", self)
        for name, allowed in (
            ("interpolator", (None, *INTERPOLATORS)),
            ("minimumROIDimensions", (1, 2, 3)),
            ("force2Ddimension", (0, 1, 2)),
            ("weightingNorm", WEIGHTING_NORMS),
            ("resegmentMode", RESEGMENT_MODES),
        ):
            _require(getattr(self, name) in allowed, name, f"one of {', '.join(map(str, allowed))}", self)
        _require(
            len(self.distances) > 0 and all(_is_whole(d) and 1 <= d <= MAX_DISTANCE for d in self.distances),
            "distances",
            f"integers from 1 to {MAX_DISTANCE}",
            self,
        )
        limits, spacing = self.resegmentRange, self.resampledPixelSpacing
        _require(
            limits is None or (len(limits) in (1, 2) and all(map(_is_number, limits))),
            "resegmentRange",
            "one or two numbers",
            self,
        )
        _require(
            spacing is None or (len(spacing) == 3 and all(_is_number(s) and s >= 0 for s in spacing)),
            "resampledPixelSpacing",
            "three numbers in mm (x, y, z), 0 to keep an axis",
            self,
        )

    @classmethod
    def from_dict(cls, values: Mapping) -> Settings:
        """Settings from pyradiomics' names, or from the section `setting` of a parameter file that measures original images.

        :raises InputError: a setting is unknown or its value can't be used, or there are image types (`Parameters` reads them).
        """
        if not isinstance(values, Mapping):
            raise InputError("The extraction settings must be a mapping of names to values.")
        if set(values.get("imageType") or ()) - {"Original"}:
            raise InputError("These extraction settings are for original images only: leave out 'imageType'.")
        values = values.get("setting", values) or {}
        if not isinstance(values, Mapping):
            raise InputError("The section 'setting' must be a mapping of names to values.")
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known and name not in WITHOUT_EFFECT:
                raise unknown(name, known)
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise InputError(f"An extraction setting has a value of the wrong kind: {error}.") from error

    def unlike(self, other: Settings) -> dict:
        """What gives a texture other values than another's settings do, by name."""
        names = [f.name for f in fields(self) if f.name not in _NO_VALUE]
        if self.resampledPixelSpacing is None and other.resampledPixelSpacing is None:
            names.remove("interpolator")
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(other, n)}

    def to_pyradiomics(self) -> dict:
        """The `setting` section of pyradiomics' parameter file that gives the same features."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        optional = ("binCount", "weightingNorm", "geometryTolerance", "preCrop")
        return {name: v for name, v in plain.items() if not (name in optional and v in (None, False))}


def unknown(name: object, known: list[str]) -> InputError:
    """The error for a setting that doesn't exist, with the nearest that do."""
    near = get_close_matches(str(name), known, 3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known settings: {', '.join(known)}."
    return InputError(f"Unknown extraction setting '{str(name)[:60]}'. {hint}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _require(good: bool, name: str, expected: str, settings: Settings) -> None:
    if not good:
        found = repr(getattr(settings, name))
        shown = found if len(found) <= 60 else f"{found[:57]}…"
        raise InputError(f"Extraction setting {name} is {shown}, but must be {expected}.")

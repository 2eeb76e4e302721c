"""Settings of an extraction, with the names and defaults of pyradiomics' parameter files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path

from ..errors import InputError

WEIGHTING_NORMS = (None, "manhattan", "euclidean", "infinity", "no_weighting")
RESEGMENT_MODES = ("absolute", "relative", "sigma")
# Settings that pyradiomics knows and that change no value here: accepted in a file, not kept.
WITHOUT_EFFECT = frozenset({"additionalInfo", "preCrop", "label_channel", "enableCExtensions", "voxelBatch"})


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
        for name, least in (("binCount", 1), ("minimumROISize", 0)):
            value = getattr(self, name)
            _require(
                value is None or (_is_whole(value) and value >= least), name, f"an integer ≥ {least}", self
            )
        for name, allowed in (
            ("minimumROIDimensions", (1, 2, 3)),
            ("force2Ddimension", (0, 1, 2)),
            ("weightingNorm", WEIGHTING_NORMS),
            ("resegmentMode", RESEGMENT_MODES),
        ):
            _require(getattr(self, name) in allowed, name, f"one of {allowed}", self)
        _require(_is_whole(self.label), "label", "an integer", self)
        _require(_is_whole(self.padDistance) and self.padDistance >= 0, "padDistance", "an integer ≥ 0", self)
        _require(
            len(self.distances) > 0 and all(_is_whole(d) and d >= 1 for d in self.distances),
            "distances",
            "integers ≥ 1",
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
        """Settings from pyradiomics' names, or from a whole parameter file with a `setting` section.

        :raises InputError: a setting is unknown or its value can't be used.
        """
        if not isinstance(values, Mapping):
            raise InputError("The extraction settings must be a mapping of names to values.")
        values = values.get("setting", values) or {}
        if not isinstance(values, Mapping):
            raise InputError("The section 'setting' must be a mapping of names to values.")
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known and name not in WITHOUT_EFFECT:
                near = get_close_matches(str(name), known, 3)
                hint = f"Did you mean {', '.join(near)}?" if near else f"Known settings: {', '.join(known)}."
                raise InputError(f"Unknown extraction setting '{name}'. {hint}")
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise InputError(f"An extraction setting has a value of the wrong kind: {error}.") from error

    @classmethod
    def from_file(cls, path: str | Path) -> Settings:
        """Settings from a pyradiomics parameter file, YAML or JSON.

        :raises InputError: the file can't be read or parsed, or a setting is unknown.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"Can't read the settings file {path}: {error}. Give a YAML or JSON file."
            ) from error
        from .parameter_file import parse  # only files need the parser

        return cls.from_dict(parse(text, str(path)))

    def to_pyradiomics(self) -> dict:
        """The `setting` section of pyradiomics' parameter file that gives the same features."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        optional = ("binCount", "weightingNorm", "geometryTolerance")
        return {name: v for name, v in plain.items() if not (name in optional and v is None)}

    def to_json(self) -> str:
        """One line of JSON that `from_dict(json.loads(...))` reads back."""
        return json.dumps(self.to_pyradiomics(), sort_keys=True)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _require(good: bool, name: str, expected: str, settings: Settings) -> None:
    if not good:
        raise InputError(f"Extraction setting {name} is {getattr(settings, name)!r}, but must be {expected}.")

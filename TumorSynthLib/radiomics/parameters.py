"""What a pyradiomics parameter file asks for: settings, image types with settings of their own, classes and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from .extract import CLASSES
from .filters import FILTERS, ORIGINAL, ImageType
from .parameter_file import read
from .settings import WITHOUT_EFFECT, Settings, unknown
from .table import FEATURES

SECTIONS = ("setting", "imageType", "featureClass", "voxelSetting")
#: Settings that act after an image is filtered, so that an image type can have its own.
PER_IMAGE_TYPE = frozenset(
    {
        "binWidth",
        "binCount",
        "distances",
        "force2D",
        "force2Ddimension",
        "symmetricalGLCM",
        "weightingNorm",
        "gldm_a",
        "voxelArrayShift",
    }
)
#: Features that pyradiomics measures only where they are named, as others say the same.
ONLY_WHEN_NAMED = {
    "shape": ("Compactness1", "Compactness2", "SphericalDisproportion"),
    "firstorder": ("StandardDeviation",),
}
#: Features that pyradiomics accepts and gives no value of, as others are equal to them.
WITHDRAWN = {
    "glcm": ("Dissimilarity", "Homogeneity1", "Homogeneity2", "SumVariance"),
    "gldm": ("GrayLevelNonUniformityNormalized", "DependencePercentage"),
}
NOT_DONE = {
    "LBP2D": "local binary patterns",
    "LBP3D": "local binary patterns",
}


@dataclass(frozen=True)
class Parameters:
    """A whole extraction, as a parameter file describes it.

    :param settings: those of the section `setting`.
    :param image_types: the images to measure, each with its own settings; the original alone where the file names none.
    :param classes: names of features in pyradiomics' form (`original_glcm_Contrast`); None is all.
    :param label: of the tumour in the mask, where the file says it.
    :param notes: sentences on what the file asks for and isn't done.
    """

    settings: Settings = Settings()
    image_types: tuple[ImageType, ...] = (ORIGINAL,)
    classes: tuple[str, ...] | None = None
    label: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_file(cls, path: str | Path) -> Parameters:
        """The parameters of a file, YAML or JSON, with pyradiomics' sections or as settings alone.

        :raises InputError: as `parameter_file.read` and `from_dict`.
        """
        return cls.from_dict(read(path))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Parameters:
        """The parameters of a file's content.

        :raises InputError: a section, setting, image type, class or feature is unknown, or a value can't be used.
        """
        if not any(name in content for name in SECTIONS):
            content = {"setting": content}
        for name in content:
            if name not in SECTIONS:
                raise InputError(
                    f"Unknown section '{str(name)[:60]}' in the parameters. Sections: {', '.join(SECTIONS)}."
                )
        options, values = _apart(_mapping(content, "setting"))
        settings = Settings.from_dict({"setting": values})
        notes: list[str] = []
        asked = _mapping(content, "imageType") or {"Original": {}}
        types = [_image_type(name, asked, settings, options, notes) for name in asked]
        classes = _classes(_mapping(content, "featureClass"), settings.force2D, notes)
        label = settings.label if "label" in values else None
        return cls(settings, tuple(t for t in types if t is not None), classes, label, tuple(notes))

    def as_record(self) -> dict[str, Any]:
        """Settings and, where they aren't the original image alone, image types; as JSON."""
        found: dict[str, Any] = {"settings": self.settings.to_pyradiomics()}
        if self.image_types != (replace(ORIGINAL, settings=self.settings),):
            found["image types"] = {t.name: t.as_record(self.settings) for t in self.image_types}
        return found


def _mapping(content: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = content.get(section) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"The section '{section}' must be a mapping of names to values.")
    return found


def _apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of filters, and the other settings."""
    known = {option for options in FILTERS.values() for option in options}
    options = {name: value for name, value in values.items() if name in known or name.startswith("lbp")}
    return options, {name: value for name, value in values.items() if name not in options}


def _image_type(
    name: str, asked: Mapping[str, Any], settings: Settings, shared: Mapping[str, Any], notes: list[str]
) -> ImageType | None:
    """An image type with its settings; None, and a note, for one that isn't done."""
    if name in NOT_DONE:
        notes.append(f"image type {name} is left out: {NOT_DONE[name]} aren't done here; use pyradiomics")
        return None
    if name not in FILTERS:
        near = get_close_matches(str(name), FILTERS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Image types: {', '.join(FILTERS)}."
        raise InputError(f"Unknown image type '{str(name)[:60]}'. {hint}")
    options, values = _apart(_mapping(asked, name))
    known = {f.name for f in fields(Settings)} | WITHOUT_EFFECT
    for given in values:
        if given not in known:
            raise unknown(given, sorted(known))
    if "label" in values:
        raise InputError(
            f"Image type {name} has a label of its own, which isn't done: write it below 'setting'."
        )
    idle = sorted(set(values) - PER_IMAGE_TYPE - WITHOUT_EFFECT)
    if idle:
        notes.append(
            f"{', '.join(idle)} of image type {name} has no effect, as in pyradiomics: write it below 'setting'"
        )
    own = {given: value for given, value in values.items() if given in PER_IMAGE_TYPE}
    kept = {option: value for option, value in {**shared, **options}.items() if option in FILTERS[name]}
    made = ImageType(name, Settings.from_dict({"setting": _as_given(settings) | own}), MappingProxyType(kept))
    notes += made.check()
    return made


def _as_given(settings: Settings) -> dict[str, Any]:
    return {f.name: getattr(settings, f.name) for f in fields(settings)}


def _classes(asked: Mapping[str, Any], flat: bool, notes: list[str]) -> tuple[str, ...] | None:
    """Full names of the features that a section `featureClass` asks for; `flat`: they are measured slice by slice."""
    if "shape2D" in asked or (flat and not asked):
        notes.append(
            "class shape2D is left out: shape features of one slice aren't done here; use pyradiomics"
        )
    if not asked:
        return None
    found: list[str] = []
    for cls, features in asked.items():
        if cls == "shape2D":
            continue
        if cls not in CLASSES:
            known = (*CLASSES, "shape2D")
            raise InputError(f"Unknown feature class '{str(cls)[:60]}'. Classes: {', '.join(known)}.")
        if not (features is None or isinstance(features, (list, tuple))):
            raise InputError(f"Feature class {cls} must have a list of features, or nothing for all of them.")
        known = [f.short for f in FEATURES.values() if f.cls == cls]
        if not features:
            features = [short for short in known if short not in ONLY_WHEN_NAMED.get(cls, ())]
        for feature in features:
            if feature in WITHDRAWN.get(cls, ()):
                notes.append(
                    f"{cls}_{feature} is left out, as in pyradiomics: another feature is equal to it"
                )
            elif feature not in known:
                near = get_close_matches(str(feature), known, 3)
                hint = f" Did you mean {', '.join(near)}?" if near else ""
                raise InputError(f"Feature class {cls} has no feature '{str(feature)[:60]}'.{hint}")
            else:
                found.append(f"original_{cls}_{feature}")
    return tuple(dict.fromkeys(found))

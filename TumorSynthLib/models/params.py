"""A model's features as a pyradiomics parameter file, so that anyone can check them with pyradiomics."""

from __future__ import annotations

import json
from typing import Any

from .bundle import Bundle

_CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
_PREFIX = "original_"


def pyradiomics_params(bundle: Bundle, modality: str | None = None) -> str:
    """YAML text for pyradiomics (``RadiomicsFeatureExtractor(FILE)``) that reproduces the model's features of
    one modality.

    The settings are those of the bundle; the model's working grid (`spacing_mm`) becomes
    ``resampledPixelSpacing`` where they name none. The classes are those of the model's population, or all
    seven.

    :raises ModelError: if the model wasn't trained for the modality, or has several and none is given.
    """
    modality = bundle.modality(modality)
    setting = _settings(bundle.json["extraction"][modality])
    lines = [
        f"# Features of the model {bundle.id} {bundle.version} ({modality}), for pyradiomics.",
        f"# Model SHA-256: {bundle.sha256}",
    ]
    if setting.get("resampledPixelSpacing") is None:
        setting["resampledPixelSpacing"] = list(bundle.spacing)
        lines.append("# resampledPixelSpacing is the model's working grid.")
    lines += ["imageType:", "  Original: {}", "featureClass:"]
    lines += [
        f"  {name}: {_scalar(features)}" for name, features in _feature_classes(bundle, modality).items()
    ]
    lines.append("setting:")
    lines += [f"  {key}: {_scalar(value)}" for key, value in setting.items()]
    return "\n".join(lines) + "\n"


def _settings(extraction: dict[str, Any]) -> dict[str, Any]:
    """The ``setting`` part, whether the bundle stores that part alone or a whole parameter file; unset keys
    are left out."""
    setting = extraction.get("setting", extraction)
    skipped = ("imageType", "featureClass", "voxelSetting")
    return {key: value for key, value in setting.items() if value is not None and key not in skipped}


def _feature_classes(bundle: Bundle, modality: str) -> dict[str, list[str]]:
    """Features by class in pyradiomics' spelling; an empty list means all of the class."""
    entry = (bundle.json.get("population") or {}).get(modality) or {"names": []}
    if "names" not in entry:  # by region; all have the same features
        entry = next(iter(entry.values()))
    classes: dict[str, list[str]] = {}
    for name in entry["names"]:
        cls, _, feature = name.removeprefix(_PREFIX).partition("_")
        if cls in _CLASSES and name.startswith(_PREFIX):
            classes.setdefault(cls, []).append(feature)
    return {name: classes[name] for name in _CLASSES if name in classes} or {name: [] for name in _CLASSES}


def _scalar(value: Any) -> str:
    """JSON, which is YAML too, except that YAML 1.1 takes ``1e-06`` for a text: it wants a point in the
    mantissa."""
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_scalar, value))}]"
    return json.dumps(value)

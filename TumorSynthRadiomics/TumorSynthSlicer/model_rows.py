"""The models and their features as rows of plain data, and which model suits an image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from slicer.i18n import tr as _

from TumorSynthLib import models
from TumorSynthLib.edit.choose import suited
from TumorSynthLib.edit.edits import names as editsWith
from TumorSynthLib.models import Bundle
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.models.parts import draws
from TumorSynthLib.radiomics.table import DRIVERS, FEATURES, Feature, unit_of
from TumorSynthLib.requests import STEERABLE

from . import regions
from .api import EDITS, NO_MODEL, NO_MODEL_EDITS, FeatureRow, ModelChoice, ModelRow

LEVELS = (5, 25, 50, 75, 95)
SHAPE_EDITS = editsWith(draws=True)
DEVIATION, VARIANCE = "original_firstorder_StandardDeviation", "original_firstorder_Variance"


def modelRows() -> list[ModelRow]:
    """All models: those on this machine, then those that can be installed."""
    return [_row(entry) for entry in models.list_models().models]


def _row(entry: dict) -> ModelRow:
    scores: dict = {}
    error, memorisation, network = "", "", True
    edits: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    if entry["status"] in ("bundled", "installed"):
        bundle = models.find(entry["id"])
        scores, edits = bundle.json.get("scores") or {}, editsOf(bundle)
        parts, network = regions.namesOf(bundle), draws(bundle)
        memorisation = models.memorisation(bundle.json)
    elif entry["status"] == "damaged":
        error = next((text for name, text in models.verify() if name == entry["id"]), "")
    return ModelRow(
        id=entry["id"],
        title=entry["title"] or entry["id"],
        version=entry["version"],
        organ=entry["organ"],
        modalities=tuple(m.strip() for m in entry["modality"].split(",") if m.strip()),
        bytes=entry["bytes"] or 0,
        licence=entry["licence"],
        status=entry["status"],
        update=entry["update"],
        removable=entry["status"] in ("installed", "damaged") and _isUsers(entry["id"]),
        error=error,
        scores=scores,
        edits=edits,
        regions=parts,
        network=network,
        memorisation=memorisation,
    )


def _isUsers(modelID: str) -> bool:
    return (models.user_folder() / modelID).is_dir()


def editsOf(bundle: Bundle | None) -> tuple[str, ...]:
    """The edits that can be done with a model: new shapes need to know those of its tumours."""
    if bundle is None:
        return NO_MODEL_EDITS
    if regions.namesOf(bundle):
        return regions.EDITS
    shapes = bundle.json.get("population") or bundle.json.get("shape")
    return tuple(edit for edit in EDITS if shapes or edit not in SHAPE_EDITS)


@lru_cache(maxsize=16)
def _features(folder: str, sha256: str, modality: str, region: str, scale: float) -> tuple[FeatureRow, ...]:
    """Rows of one model; its hash is there so that another version is read anew."""
    bundle = models.load_bundle(folder).at_scale(modality, scale).painting(region)
    there = (bundle.json.get("population") or {}).get(modality)
    population = bundle.population(modality) if there else None
    unit = Intensity.of(None, modality, bundle).unit
    byName = {name: (key, factor) for key, (name, factor) in DRIVERS.items()}
    order = [name for name, _factor in DRIVERS.values()]
    names = order + [name for name in FEATURES if name not in byName]
    return tuple(_featureRow(FEATURES[name], byName.get(name), population, unit) for name in names)


@lru_cache(maxsize=4)
def _withoutModel(modality: str) -> tuple[FeatureRow, ...]:
    """Rows without a population."""
    byName = {name: (key, factor) for key, (name, factor) in DRIVERS.items()}
    names = [name for name, _factor in DRIVERS.values()]
    names += [name for name in FEATURES if name not in byName]
    unit = Intensity.of(None, modality).unit
    return tuple(_featureRow(FEATURES[name], byName.get(name), None, unit) for name in names)


def featureRows(
    modelID: str,
    modality: str | None = None,
    edit: str | None = None,
    region: str | None = None,
    scale: float = 1.0,
) -> list[FeatureRow]:
    """See `api.Logic.features`."""
    if modelID == NO_MODEL:
        rows = _withoutModel(modality or "")
        return list(rows) if edit in (None, "measure") else [r for r in rows if r.kind == "texture"]
    bundle = models.find(modelID)
    region = region or bundle.regions[0].name
    rows = _features(str(bundle.folder), bundle.sha256, modality or bundle.modalities[0], region, scale)
    if edit is None or edit == "measure":
        return list(rows)
    kinds = {"shape", "texture"} if edit in (*SHAPE_EDITS, "series") else {"texture"}
    kinds = set() if edit == "remove" else kinds
    return [row for row in rows if row.kind in kinds]


def _featureRow(feature: Feature, driver, population, intensityUnit: str) -> FeatureRow:
    key, factor = driver or (feature.name, 1.0)
    values = _populationValues(feature.name, population)
    unit = driverUnit(key) or unit_of(feature.name, intensityUnit)
    row: dict = {
        "key": key, "name": feature.name, "label": featureLabel(feature, key), "unit": "" if unit == "1" else unit,
        "meaning": feature.meaning, "cls": feature.cls, "role": feature.role, "kind": _kind(feature), "factor": factor,
    }  # fmt: skip
    if values is not None:
        values = values / factor
        row["percentiles"] = {level: float(v) for level, v in zip(LEVELS, np.percentile(values, LEVELS))}
        row["low"], row["high"] = float(values.min()), float(values.max())
    return FeatureRow(**row)


def _kind(feature: Feature) -> str:
    if feature.cls == "shape":
        return "shape" if feature.steered else ""
    return "texture" if feature.cls in STEERABLE else ""


def _populationValues(name: str, population):
    """(n,) values of a feature in a model's tumours; None where it isn't known."""
    if population is None:
        return None
    if name == DEVIATION:
        variance = _populationValues(VARIANCE, population)
        return None if variance is None else np.sqrt(variance)
    return population.values[:, population.names.index(name)] if name in population.names else None


def driverUnit(key: str) -> str:
    """Unit of a driver whose unit isn't its feature's."""
    return {"volume_ml": "ml", "surface_cm2": "cm²"}.get(key, "")


def featureLabel(feature: Feature, key: str = "") -> str:
    """Short text for a feature: a driver's own, else pyradiomics' name in words."""
    drivers = {
        "volume_ml": _("Volume"), "surface_cm2": _("Surface area"), "max_diameter_mm": _("Largest diameter"),
        "sphericity": _("Sphericity"), "elongation": _("Elongation"), "flatness": _("Flatness"),
        "mean_intensity": _("Mean intensity"), "intensity_sd": _("Intensity spread (SD)"), "skewness": _("Skewness"),
        "kurtosis": _("Kurtosis"), "p10": _("10th percentile"), "p90": _("90th percentile"), "entropy": _("Entropy"),
        "contrast": _("Contrast"), "correlation": _("Correlation"),
    }  # fmt: skip
    if key in drivers:
        return drivers[key]
    return f"{feature.cls.upper() if feature.cls.startswith(('gl', 'ng')) else feature.cls} {_words(feature.short)}"


def _words(short: str) -> str:
    """Words of a name in camel case: GrayLevelVariance → Gray Level Variance."""
    words = []
    for i, letter in enumerate(short):
        before = short[i - 1] if i else ""
        after = short[i + 1] if i + 1 < len(short) else ""
        starts = letter.isupper() and (
            before.islower() or (before.isupper() and after.islower()) or before.isdigit()
        )
        words.append(" " + letter if i and starts else letter)
    return "".join(words)


def choose(volume, mask=None, texts=(), whole=None, at=None, inside=None, avoid=None) -> ModelChoice:
    """See `api.Logic.chooseModel`.

    :param volume: the engine's. :param mask: (K, J, I) bool of the tumour. :param texts: what is said of them.
    :param whole: the image that `volume` is a part of. :param at, inside, avoid: of a new tumour, as the engine has them.
    """
    found = suited(volume, mask, texts, None, at, whole, inside, avoid)
    return ModelChoice(found.model_id or NO_MODEL, found.reason)

"""Measuring a tumour as the panel and the worker show it: features, percentiles, and whether the image suits the model."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from TumorSynthLib import suitability
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.volume import Volume, check_image, check_mask

UNLIKE = 99.0  # share of the training tumours, in percent, from which a tumour counts as unlike them


def measure(editor, volume: Volume, mask: np.ndarray, modality: str | None = None) -> dict[str, Any]:
    """Features of a tumour and what is to be said of them; unlike an edit, an image that doesn't suit is only warned of.

    :param editor: an `Editor`; None measures with pyradiomics' default settings, without a population.
    :returns: features, percentiles, model, modality, scale, unit, voxels, warnings, seconds.
    :raises InputError: the image or the mask can't be measured at all.
    """
    start = time.perf_counter()
    check_image(volume)
    mask = check_mask(mask, volume)
    if editor is None:
        found = _plain(volume, mask)
    else:
        found = _with_model(editor, volume, mask, modality)
    return {**found, "voxels": int(np.count_nonzero(mask)), "seconds": round(time.perf_counter() - start, 3)}


def percentiles(population, features: dict[str, float]) -> dict[str, float]:
    """Share in percent of a population's tumours below each value, of the features that it knows."""
    if population is None:
        return {}
    known = [name for name in features if name in population.names]
    return {name: float(population.percentile(name, features[name])) for name in known}


def _plain(volume: Volume, mask: np.ndarray) -> dict[str, Any]:
    from TumorSynthLib.radiomics.extract import extract_image
    from TumorSynthLib.radiomics.settings import Settings

    warnings = ["no model suits this image: measured with pyradiomics' default settings, without percentiles"]
    features = extract_image(volume, mask, Settings(), warn=warnings.append)
    return {
        "features": features, "percentiles": {}, "model": "", "modality": "", "scale": 1.0, "unit": "", "warnings": warnings,
    }  # fmt: skip


def _with_model(editor, volume: Volume, mask: np.ndarray, modality: str | None) -> dict[str, Any]:
    bundle = editor.bundle
    warnings: list[str] = []
    try:
        modality, warnings = suitability.modality_of(bundle, modality, volume)
    except InputError as error:
        modality = modality or bundle.modalities[0]
        warnings = [f"{error}; the values can't be compared with the model's tumours"]
    except ModelError:
        modality = bundle.modalities[0] if modality is None else bundle.modality(modality)
    try:
        warnings += suitability.check_fit(volume, mask, bundle)
    except InputError as error:
        warnings.append(
            f"{error}; the model can't draw in it, but the tumour can be measured, and edited with its own tissue"
        )
    bundle = suitability.at_scale(bundle, volume, modality)
    features = _extracted(bundle, volume, mask, modality, warnings.append)
    population = editor.population(modality, volume)
    warnings += _unlike(bundle, population, features)
    return {
        "features": features, "percentiles": percentiles(population, features), "model": bundle.id,
        "modality": modality, "scale": bundle.scale, "unit": Intensity.of(volume.array, modality, bundle).unit,
        "warnings": warnings,
    }  # fmt: skip


def _unlike(bundle, population, features: dict[str, float]) -> list[str]:
    """A warning where no training tumour is as far from their middle, as with another organ or another scale of intensities.

    Patients of the models' own kinds that were not trained on stay below the limit, a brain and a breast tumour are beyond it.
    """
    from TumorSynthLib.edit.features import steerable

    texture = {
        n: v for n, v in steerable(features)[0].items() if population is not None and n in population.names
    }
    if not texture or population.distance_percentile(texture) <= UNLIKE:
        return []
    return [
        f"the tumour is unlike those that model {bundle.id!r} was trained on ({bundle.organ}): check organ, modality and "
        "intensities, or choose another model"
    ]


def _extracted(bundle, volume: Volume, mask: np.ndarray, modality: str, warn) -> dict[str, float]:
    """As `Editor.extract`, without its refusal of images that don't look like the modality."""
    from TumorSynthLib.edit.case import measured
    from TumorSynthLib.region import Region

    region = Region.around(volume, mask, bundle.spacing)
    return measured(region, region.native, bundle.settings(modality), None, warn)

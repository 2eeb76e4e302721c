"""Sliders behind the engine's door: a case's tumour with other features, and how far each feature can go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count

import numpy as np

from TumorSynthLib.edit.case import Case, measured
from TumorSynthLib.edit.options import OPTIONS
from TumorSynthLib.edit.plan import KEPT, Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.models import ANY
from TumorSynthLib.models.parts import draws
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract_image
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.region import Region
from TumorSynthLib.texture.engine import Draft
from TumorSynthLib.texture.exemplar.retexture import Slider
from TumorSynthLib.texture.exemplar.windows import spread_within
from TumorSynthLib.texture.request import bounds_of

USUAL_MEASURES = 30  # of a request of one feature; the bar is at half then


def changed(case: Case, plan: Plan, seed: int, progress: Progress) -> Draft:
    """The case's tumour with the features of a plan."""
    strength = KEPT if plan.request.strength is None else plan.request.strength
    with progress.stage("solve"):
        region, slider = slider_of(case, progress, plan.edit)
        made = slider.moved(plan.used, strength, seed)
        for text in made.warnings:  # before anything is drawn in the image
            progress.say(text)
        wanted = list(plan.used) if plan.request.reachable else []
        ranges = {
            name: _ends(slider.reachable(name, strength, seed), made.limits.get(name)) for name in wanted
        }
    progress("measure", 0.0)
    with progress.stage("measure"):
        reached = _measure(case, region, made.values, TEXTURE_CLASSES)
    kind = _of_kind(case)
    facts = {
        **made.facts(),
        "strength": strength,
        "spread_from": "population" if kind else "sub-windows of the tumour",
        **({"reachable": ranges} if ranges else {}),
        **({"limits": made.limits} if made.limits else {}),
    }
    spread = {} if kind else dict(slider.spread)
    return Draft(
        region.patch(made.values), case.mask, reached, "cpu", made.warnings, facts=facts, spread=spread,
        used=made.limits,
    )  # fmt: skip


def _ends(found: tuple[float, float], limit: float | None) -> list[float]:
    """A range, with the end that the edit's own search came to: what was reached can be reached."""
    known = [*found] if limit is None else [*found, limit]
    return [float(min(known)), float(max(known))]


def reachable(
    case: Case, names: Iterable[str], strength: float | None, progress: Progress
) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each feature that the case's tumour can be given without other tissue than its own."""
    slider, strength = slider_of(case, progress)[1], KEPT if strength is None else strength
    return {name: slider.reachable(name, strength, voxels=False) for name in names}


def slider_of(case: Case, progress: Progress, edit: str = "synthesize") -> tuple[Region, Slider]:
    """The window of the tumour on the grid that it is measured on, and its slider, which advises for an edit."""
    region, calls, dtype = _region(case), count(1), case.volume.array.dtype

    def measure(values: np.ndarray, names: tuple[str, ...]) -> Mapping[str, float]:
        progress("solve", 1 - 1 / (1 + next(calls) / USUAL_MEASURES))
        return _measure(case, region, values, names)

    kind = _of_kind(case)
    spread = (case.spread() if kind else {}) or _spread(case, region) or case.spread()
    slider = Slider(
        region.native,
        region.native_mask,
        region.native_spacing,
        measure,
        spread,
        kind,
        bounds_of(kind, dtype),
        advice=_advice(case, edit),
    )
    return region, slider


def _advice(case: Case, edit: str) -> str:
    """What more an edit could do where a tumour's tissue ends."""
    if edit in OPTIONS["strength"].edits:
        return ", or more strength" + ("; 1 draws the tumour anew" if draws(case.bundle) else "")
    return ", or another seed, which takes another tumour" if edit == "insert" else ""


def _of_kind(case: Case) -> Population | None:
    """Tumours like the case's; those of other organs tell neither what its tissue allows nor what is little of a feature."""
    return None if case.bundle is not None and case.bundle.organ == ANY else case.population


def _plain(case: Case) -> bool:
    """Whether a window of the image tells the features; else settings look at the whole image, or interpolate in another way."""
    settings = case.settings
    return case.bundle is not None or not (
        settings.normalize
        or (settings.resampledPixelSpacing is not None and settings.interpolator != "sitkBSpline")
    )


def _region(case: Case) -> Region:
    """The window around the tumour on the grid of the features."""
    spacing = case.settings.resampledPixelSpacing
    if case.bundle is not None or spacing is None or not _plain(case):
        return case.source
    return Region.around(case.volume, case.mask, tuple(spacing), window=case.window)


def _measure(case: Case, region: Region, values: np.ndarray, classes) -> dict[str, float]:
    if _plain(case):
        return measured(region, values, case.settings, classes)
    return extract_image(case.volume.with_array(region.paste(values)), case.mask, case.settings, classes)


def _spread(case: Case, region: Region) -> dict[str, float]:
    """Between sub-windows of the tumour."""
    values = region.measure(region.native, as_stored=True)
    if np.issubdtype(case.volume.array.dtype, np.integer):
        values = values.astype(np.int64)
    return spread_within(values, region.mask, region.spacing, case.settings)

"""What of its features a moved tumour keeps: those of the same voxels before and after, brought nearer by its darkest voxel, from
which grey levels are counted, and by seven numbers where the new place changed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.edit.wish import texture_of
from TumorSynthLib.texture.exemplar.bands import robust_sd
from TumorSynthLib.texture.exemplar.lent import correlation
from TumorSynthLib.texture.exemplar.sliders import slider_of
from TumorSynthLib.volume import Volume

LEAST_R, WORTH = 0.95, 0.5
"""Pearson's r across the features before and after, in standard deviations, below which numbers are tried; they are kept
where they bring this share of what r lacks of it: a tumour isn't changed for less."""
DARKEST = 0.5
"""Of the tumour's robust standard deviation that its darkest voxel may be moved by, so that nobody sees it."""
CLASSES = ("firstorder", "glcm")
"""Features that the numbers look at: the others follow, and take longer."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A moved tumour.

    :param volume: the image with it; `before` and `reached`: features of its voxels at their old place and now.
    """

    volume: Volume
    before: Mapping[str, float]
    reached: Mapping[str, float]
    facts: Mapping[str, float] = field(default_factory=dict)


def kept(case: Case, mask: np.ndarray, was: np.ndarray, seed: int, progress: Progress) -> Kept:
    """The tumour's features as they were, as nearly as its own bands allow where r is below `LEAST_R`.

    :param case: in the image with the moved tumour; `mask` (K, J, I) bool: its voxels there, `was`: in `case.before`.
    """
    there = replace(case, mask=mask)
    before = replace(case, volume=case.before, before=None).measure(was)
    reached, spread = there.measure(mask), case.spread()
    if case.population is None:  # nothing tells how far apart two values are
        return Kept(case.volume, before, reached)
    asked = {n: v for n, v in texture_of(case.population, before, 1.0, 1.0).items() if n in reached}
    r = correlation(asked, reached, spread, case.population)
    facts = {"kept_r": round(r, 3)}
    if r >= LEAST_R:
        return Kept(case.volume, before, reached, facts)
    darker = None if case.before is None else _with_darkest(case.before, case.volume, mask, was)
    if darker is not None:
        counted = replace(there, volume=darker).measure(mask)
        better = correlation(asked, counted, spread, case.population)
        if better >= r + WORTH * (LEAST_R - r):
            case, there, reached = replace(case, volume=darker), replace(there, volume=darker), counted
            facts, r = {"kept_r": round(better, 3), "kept_r_laid": round(r, 3), "darkest": True}, better
    if r >= LEAST_R:
        return Kept(case.volume, before, reached, facts)
    with progress.stage("solve"):
        region, slider = slider_of(there, progress)
        made = slider.moved({n: v for n, v in asked.items() if n.split("_")[1] in CLASSES}, 0.0, seed)
    volume = case.volume.with_array(region.patch(made.values).apply(case.volume.array.copy()))
    after = replace(there, volume=volume).measure(mask)
    better = correlation(asked, after, spread, case.population)
    if better < r + WORTH * (LEAST_R - r):
        return Kept(case.volume, before, reached, facts)
    return Kept(
        volume, before, after,
        {"kept_r_laid": round(r, 3), **facts, "kept_r": round(better, 3), **made.facts()},
    )  # fmt: skip


def _with_darkest(before: Volume, volume: Volume, mask: np.ndarray, was: np.ndarray) -> Volume | None:
    """The image with the moved tumour's darkest voxel as dark as it was; None where that would be seen, or is so."""
    old, new = before.array[was], volume.array[mask]
    low, now = old.min(), new.min()
    if low == now or abs(float(low) - float(now)) > DARKEST * robust_sd(new.astype(np.float64)):
        return None
    array = volume.array.copy()
    if low < now:
        array[tuple(np.argwhere(mask)[new.argmin()])] = low
    else:
        array[mask & (array < low)] = low
    return volume.with_array(array)

"""The exemplars' part of a donor: its tissue laid into the recipient's, then numbers and voxels where features are still off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.edit.case import Case, measured
from TumorSynthLib.edit.plan import KEPT, Plan
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.edit.wish import texture_of
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES
from TumorSynthLib.region import Region
from TumorSynthLib.texture.engine import Draft
from TumorSynthLib.texture.exemplar.bands import Bands
from TumorSynthLib.texture.exemplar.carry import LUNG_HU, LUNG_SHARE
from TumorSynthLib.texture.exemplar.donor import laid, lent_tissue
from TumorSynthLib.texture.exemplar.retexture import Slider
from TumorSynthLib.texture.exemplar.scan import level_between
from TumorSynthLib.texture.exemplar.sliders import slider_of
from TumorSynthLib.volume import Volume

LEVEL, MOST_NOISE, NOISE_SD = 2.0, 4.0, 3.0
"""In-plane voxels of the Gaussian that parts a donor's level from its detail, by how much at most its noise is made stronger or
weaker for the recipient's, and its standard deviations up to which detail is noise."""
NOISE_TOLD = 0.2
"""Logarithm of the ratio of noise from which on it is said."""
RING_VOXELS = 3
"""Around a mask, in which air says that the tumour lies in lung."""


@dataclass(frozen=True)
class LookConfig:
    """When a donor's tissue is near enough.

    :param median_sd: median difference of the asked features, in standard deviations, up to which no further stage is needed,
        where they also correlate by `least_r` (each in standard deviations from the population's mean).
    """

    median_sd: float = 0.15
    least_r: float = 0.95


def lent(case: Case, plan: Plan, seed: int, progress: Progress, config: LookConfig | None = None) -> Draft:
    """The case's tumour with the tissue of the request's donor.

    Asked are the features of the tissue that is lent, not of the donor's contour; in the recipient, too, what its contour takes
    in of fat, bone or air stays and isn't measured. It stops at the first stage that is near enough.
    """
    config, (image, mask) = config or LookConfig(), plan.request.donor
    if not case.ct and (level := level_between(case.volume.array, image.array)) != 1.0:
        image = image.with_array(image.array.astype(np.float32) * np.float32(level))
    strength = KEPT if plan.request.strength is None else plan.request.strength
    with progress.stage("solve"):
        theirs, mine = case.region_in(image, np.asarray(mask) > 0), case.source
        given, kept = _tissue(theirs, case.ct), _tissue(mine, case.ct)
        tissue = _part(case.volume, mine, kept)
        region, slider = slider_of(replace(case, mask=tissue), progress)
        values = laid(slider.bands, theirs.native, given, theirs.native_spacing, slider.limits)
        made = slider.bands.put(values, region.native)
        asked, noisier = _features_of(case, image, _part(image, theirs, given), slider, tissue)
        asked = {n: v for n, v in asked.items() if n in slider.spread} | dict(plan.used)
        stage, reached = "laid", slider.measured(values, asked)
        if not _near(asked, reached, slider.spread, case.population, config):
            after = slider_of(replace(case, mask=tissue, volume=_pasted(region, made)), progress)[1].moved(
                asked, strength, seed
            )
            if _off(asked, after.reached, slider.spread) < _off(asked, reached, slider.spread):
                made, stage = after.values, after.stage
    progress("measure", 0.0)
    with progress.stage("measure"):
        reached = measured(region, made, case.settings, TEXTURE_CLASSES)
    shares = [
        float(part.sum() / max(int(r.native_mask.sum()), 1)) for part, r in ((given, theirs), (kept, mine))
    ]
    facts = {
        "stage": stage,
        "strength": strength,
        "lent_share": round(shares[0], 3),
        "tissue_share": round(shares[1], 3),
        "noise_ratio": round(noisier, 2),
    }
    warnings = ()
    if min(shares) < 0.98:
        warnings = (
            f"features are those of the tissue that is lent ({100 * shares[0]:.0f} % of the donor's contour) and of the tumour's "
            f"own ({100 * shares[1]:.0f} % of its mask): fat, bone or air that the contours take in were left out",
        )
    if abs(np.log(noisier)) > NOISE_TOLD:
        warnings += (
            f"the donor's scan is {noisier:.1f} times as noisy as this one: its tissue's features are asked as they would be "
            "with this scan's noise",
        )
    spread = {} if case.population else dict(slider.spread)
    return Draft(
        region.patch(made),
        case.mask,
        reached,
        "cpu",
        warnings,
        facts={**facts, "zone": "mask"},
        spread=spread,
        asked=asked,
    )


def _pasted(region: Region, native: np.ndarray) -> Volume:
    return region.volume.with_array(region.paste(native))


def _tissue(region: Region, ct: bool) -> np.ndarray:
    """The part of a region's native mask that is tumour."""
    mask = region.native_mask
    ring = ndimage.binary_dilation(mask, iterations=RING_VOXELS) & ~mask
    around = region.native[ring]
    if ct and len(around) and (around < LUNG_HU).mean() > LUNG_SHARE:
        return _solid(region.native, mask, float(np.median(around[around < LUNG_HU])))
    return lent_tissue(region.native, mask, region.native_spacing, False, ct)


def _solid(values: np.ndarray, mask: np.ndarray, air: float) -> np.ndarray:
    """The mask without the air at its border: what is less than half tumour and hangs together with the outside."""
    core = float(np.median(values[mask][values[mask] >= np.median(values[mask])]))
    thin = mask & (values < 0.5 * (air + core))
    edge = mask & ndimage.binary_dilation(~mask)
    solid = mask & ~ndimage.binary_propagation(edge & thin, mask=thin)
    return solid if solid.sum() > 0.3 * mask.sum() else mask


def _part(volume: Volume, region: Region, native: np.ndarray) -> np.ndarray:
    """A mask of a region's native box as one of the file's array (K, J, I)."""
    whole = np.zeros(volume.array.shape, bool)
    region.frame.view(whole)[tuple((np.argwhere(native) + np.array(region.start)).T)] = True
    return whole


def _features_of(
    case: Case, image: Volume, lent: np.ndarray, slider: Slider, tissue: np.ndarray
) -> tuple[dict[str, float], float]:
    """Features of the lent tissue as it would look in the recipient's scan: its level within what tissue allows there, its
    detail with that scan's noise; at the recipient's size. And by how much noisier the donor's scan is."""
    region = case.region_in(image, lent)
    theirs = Bands(region.native, region.native_mask, region.native_spacing)
    noisier = theirs.noise / max(slider.bands.noise, 1e-6)
    level = theirs.smooth(theirs.image, LEVEL)[theirs.mask]
    detail, bound = theirs.own - level, NOISE_SD * theirs.noise
    more = 1 / np.clip(noisier, 1 / MOST_NOISE, MOST_NOISE) - 1
    detail = detail + more * bound * np.tanh(detail / bound)  # edges stay
    held = theirs.put(np.clip(level, slider.limits.low, slider.limits.high) + detail, region.native)
    found = measured(region, held, case.settings, ("firstorder", "glcm", "glrlm", "glszm"))
    return texture_of(case.population, found, image.volume_of(lent), case.volume.volume_of(tissue)), noisier


def _near(asked, reached, spread, population, config: LookConfig) -> bool:
    """Whether no further stage is needed."""
    near = _median(asked, reached, spread) <= config.median_sd
    return near and correlation(asked, reached, spread, population) >= config.least_r


def correlation(asked, reached, spread, population) -> float:
    """Pearson's r of asked and reached features, in standard deviations from the population's mean; 1 without a population."""
    if population is None or len(asked) < 4:
        return 1.0
    middle = dict(zip(population.names, np.asarray(population.values, float).mean(0)))
    names = [n for n in asked if n in middle]
    pairs = [[(v[n] - middle[n]) / max(spread[n], 1e-9) for n in names] for v in (asked, reached)]
    return float(np.corrcoef(np.clip(pairs, -6, 6))[0, 1]) if len(names) > 3 else 1.0


def _off(asked, reached, spread) -> float:
    """Mean difference in standard deviations, each at most 3."""
    off = [min(abs(reached[n] - v) / max(spread.get(n, abs(v)), 1e-9), 3.0) for n, v in asked.items()]
    return float(np.mean(off)) if off else 0.0


def _median(asked: Mapping[str, float], reached: Mapping[str, float], spread: Mapping[str, float]) -> float:
    off = [abs(reached[n] - v) / max(spread.get(n, abs(v)), 1e-9) for n, v in asked.items()]
    return float(np.median(off)) if off else 0.0

"""The exemplars' part of a donor: its tissue laid into the recipient's, then numbers and voxels where features are still off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.edit.case import Case, measured
from TumorSynthLib.edit.features import listed, short
from TumorSynthLib.edit.miss import REACHED
from TumorSynthLib.edit.plan import KEPT, Plan, donor_of
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.edit.result import differences
from TumorSynthLib.edit.wish import texture_of
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES
from TumorSynthLib.region import Region
from TumorSynthLib.texture.engine import Draft
from TumorSynthLib.texture.exemplar.bands import BandConfig, Bands, Filter
from TumorSynthLib.texture.exemplar.carry import LUNG_HU, LUNG_SHARE
from TumorSynthLib.texture.exemplar.donor import CONFIG as DONOR
from TumorSynthLib.texture.exemplar.donor import (
    Lent,
    expected,
    laid,
    lent_tissue,
    levelled,
    part_laid,
    places_of,
)
from TumorSynthLib.texture.exemplar.limits import Limits
from TumorSynthLib.texture.exemplar.noise import CONFIG as NOISE
from TumorSynthLib.texture.exemplar.noise import Noise, as_noisy, noise_of
from TumorSynthLib.texture.exemplar.retexture import Slider
from TumorSynthLib.texture.exemplar.scan import AIR_SHARE, level_between
from TumorSynthLib.texture.exemplar.sliders import slider_of
from TumorSynthLib.volume import Volume

LEVEL = 1.0
"""In-plane voxels of the Gaussian that tells a donor's levels."""
GRAIN = (0.1, 10.0)
"""Factor of a donor's finest grain at least and at most, which makes it as strong as the recipient's."""
THEIRS = (0.5, 99.5)
"""Percentiles of the donor's levels that the recipient may take."""
AIR_HU, SOFT_HU = -1000.0, (-200.0, 250.0)
"""CT: healthy lung and soft tissue, which tell a scan's noise."""
MET = 0.05
"""Standard deviations within which a feature counts as met."""
NOISE_TOLD = 0.2
"""Logarithm of the ratio of noise from which on it is said."""
LEAST_CORE = 0.1
"""Share of a donor's tissue that has to be left without its border."""
RING_VOXELS = 3
"""Around a mask, in which air says that the tumour lies in lung."""


@dataclass(frozen=True)
class LookConfig:
    """When a donor's tissue is near enough.

    :param median_sd: median difference of the asked features, in standard deviations, up to which no further stage is needed,
        where they also correlate by `least_r` (each in standard deviations from the population's mean).
    :param unit: of error, in standard deviations: features that are off by more count less and less.
    :param finest: cycles per voxel in plane above which `power` (made / real, at least and at most) tells an edit.
    :param speck_sd: robust standard deviations from the 3 x 3 x 3 median that make a speck.
    :param specks: times the share of specks in the real tumour, at most; `least`: share of voxels that are no sign of it.
    :param depths: in-plane voxels below the border, between which power is looked at apart.
    :param shares: of what features ask of the laid tissue; the largest is done that leaves it within these bounds.
    """

    median_sd: float = 0.15
    least_r: float = 0.95
    unit: float = 0.75
    finest: float = 0.45
    power: tuple[float, float] = (0.8, 1.25)
    speck_sd: float = 4.0
    specks: float = 1.5
    least: float = 0.002
    shares: tuple[float, ...] = (1.0, 0.7, 0.4)
    depths: tuple[float, ...] = (1.2, 3.5)


def lent(case: Case, plan: Plan, seed: int, progress: Progress, config: LookConfig | None = None) -> Draft:
    """The case's tumour with the tissue of the request's donor.

    Asked are the features that the tissue which is lent would have in this mask and this scan, with the recipient's border
    (`donor.expected`), not those of the donor's contour; in the recipient, too, what its contour takes in of fat, bone or air
    stays and isn't measured. It stops at the first stage that is near enough.
    """
    config = config or LookConfig()
    assert case.mask is not None
    image, contour = donor_of(case, plan.request)
    if not case.ct and (level := level_between(case.volume.array, image.array)) != 1.0:
        image = image.with_array(image.array.astype(np.float32) * np.float32(level))
    strength = KEPT if plan.request.strength is None else plan.request.strength
    with progress.stage("solve"):
        theirs, mine = case.region_in(image, contour), case.source
        given, kept = _core(theirs, case.ct), _tissue(mine, case.ct)
        tissue = _part(case.volume, mine, kept)
        region, slider = slider_of(replace(case, mask=tissue), progress, plan.edit)
        noisier, donor = _donor(case, image, contour, _part(image, theirs, given), slider, tissue)
        places = places_of(slider.bands, donor)
        like = expected(slider.bands, donor, places=places)
        shown = measured(region, slider.bands.put(like, region.native), case.settings, TEXTURE_CLASSES)
        asked = texture_of(case.population, shown, 1.0, 1.0)
        asked = {n: v for n, v in asked.items() if n in slider.spread} | dict(plan.used)
        laid_now = _laid(slider, donor, places, like, asked, case.population, config)
        if not _near(asked, laid_now[2], slider.spread, case.population, config):
            there = replace(
                case, mask=tissue, volume=_pasted(region, slider.bands.put(laid_now[1], region.native))
            )
            another = slider_of(there, progress, plan.edit)[1]
            another.config = replace(another.config, coarse_unit=config.unit)
            after = another.moved(asked, strength, seed)
            further = after.stage, after.values[region.native_mask]
            laid_now = _nearer(slider, laid_now, further, asked, case.population, config)
        stage, values, reached = laid_now
        made = slider.bands.put(values, region.native)
        limits = {n: reached[n] for n in _missed(asked, reached, slider.spread)}
        before = slider.own(asked)
        words = _words(asked, reached, slider.spread, case.population, before)
        progress.say(words)
    progress("measure", 0.0)
    with progress.stage("measure"):
        reached = measured(region, made, case.settings, TEXTURE_CLASSES)
        both = {
            "donor": measured(theirs, theirs.native, case.settings, TEXTURE_CLASSES),
            "reached": replace(case, volume=_pasted(region, made)).measure(case.mask),
        }
    shares = [
        float(part.sum() / max(int(r.native_mask.sum()), 1)) for part, r in ((given, theirs), (kept, mine))
    ]
    sizes = image.volume_of(contour), case.volume.volume_of(case.mask)
    drawn = texture_of(case.population, both["donor"], *sizes)
    facts = {
        "shown": "look",
        "stage": stage,
        "strength": strength,
        "lent_share": round(shares[0], 3),
        "tissue_share": round(shares[1], 3),
        "noise_ratio": round(noisier, 2),
        "reach": {
            "tissue": _nearness(asked, reached, slider.spread, case.population),
            "before": _nearness(asked, before, slider.spread, case.population),
            "contour": _nearness(drawn, both["reached"], slider.spread, case.population),
        },
        "contour": both,
        "limits": limits,
    }
    spread = {} if case.population else dict(slider.spread)
    return Draft(
        region.patch(made),
        case.mask,
        reached,
        "cpu",
        (words, *_notes(shares, noisier)),
        facts=facts,
        spread=spread,
        asked=asked,
        used=limits,
    )


Stage = tuple[str, np.ndarray, dict[str, float]]
"""Its name, voxels (n,), and the asked features of them."""


def _laid(
    slider: Slider, donor: Lent, places, like: np.ndarray, asked: Mapping[str, float], population, config: LookConfig
) -> Stage:  # fmt: skip
    """The whole donor laid into the recipient, or a part of it where that is nearer; with the levels of `like` (n,)."""
    limits, bands = _limits(slider, donor), slider.bands

    def levels(stage: str, values: np.ndarray) -> Stage:
        now = stage, values, slider.measured(values, asked)
        return _nearer(slider, now, (stage, levelled(bands, values, like)), asked, population, config)

    whole = levels("laid", laid(bands, donor, limits, places=places))
    if _near(asked, whole[2], slider.spread, population, config):
        return whole
    values = part_laid(bands, donor, limits)
    if values is None:
        return whole
    part = levels("part", values)
    return min(whole, part, key=lambda one: _off(asked, one[2], slider.spread, population))


def _nearer(
    slider: Slider, now: Stage, further: tuple[str, np.ndarray], asked, population, config: LookConfig
) -> Stage:
    """A stage with so much of a further one's change as the look allows, where that brings the features nearer."""
    stage, values, reached = now
    change = further[1] - values
    made = values + _share(slider.bands, values, change, config) * change
    found = slider.measured(made, asked)
    off = [_off(asked, features, slider.spread, population) for features in (found, reached)]
    return (further[0], made, found) if off[0] < off[1] else now


def _missed(asked, reached, spread) -> list[str]:
    """Features that aren't met, the farthest first."""
    off = {n: abs(d) for n, d in differences(asked, reached, spread).items()}
    return sorted((n for n, d in off.items() if d > MET), key=lambda n: -off[n])


def _nearness(asked, reached, spread, population) -> dict[str, float]:
    """For the record: r of asked and reached features, and their median difference in standard deviations."""
    known = {n: v for n, v in asked.items() if n in reached}
    r = correlation(known, reached, spread, population)
    return {"r": round(r, 3), "median_sd": round(_median(known, reached, spread), 3)}


def _words(asked, reached, spread, population, before: Mapping[str, float] | None = None) -> str:
    """How near the lent tissue's features come, before the image is changed.

    :param before: features of the tumour as it is.
    """
    near, off = _nearness(asked, reached, spread, population), differences(asked, reached, spread)
    far = [n for n in _missed(asked, reached, spread) if abs(off[n]) > REACHED]
    text = f"the donor lends its look: its tissue's features come to within {near['median_sd']:.2g} σ in the median"
    if population is not None:
        text += f", r {near['r']:.2f}"
        text += f" (as it is: {correlation(asked, before, spread, population):.2f})" if before else ""
    if not far:
        return text
    named = listed([f"{short(n)} {asked[n]:.4g} → {reached[n]:.4g}" for n in far], 3)
    return (
        f"{text}; {len(far)} of {len(asked)} stay farther off than {REACHED:g} σ (asked → reached): {named}"
    )


def _notes(shares, noisier: float) -> tuple[str, ...]:
    """Warnings of what was left out of the contours, and of a noisier or less noisy donor."""
    notes: list[str] = []
    if min(shares) < 0.98:
        notes.append(
            f"features are those of the tissue that is lent ({100 * shares[0]:.0f} % of the donor's contour) as it would be in "
            f"the tumour's own ({100 * shares[1]:.0f} % of its mask), whose border stays: the donor's border, and fat, bone or "
            "air that the contours take in, were left out"
        )
    if abs(np.log(noisier)) > NOISE_TOLD:
        notes.append(
            f"the donor's scan is {noisier:.1f} times as noisy as this one: its tissue's features are asked as they would be "
            "with this scan's noise"
        )
    return tuple(notes)


def _pasted(region: Region, native: np.ndarray) -> Volume:
    return region.volume.with_array(region.paste(native))


def _tissue(region: Region, ct: bool) -> np.ndarray:
    """The part of a region's native mask that is tumour: without the air at its border."""
    mask = region.native_mask
    thin = _thin(region, ct)
    if thin is None:
        return lent_tissue(region.native, mask, region.native_spacing, False, ct)
    edge = mask & ndimage.binary_dilation(~mask)
    solid = mask & ~ndimage.binary_propagation(edge & thin, mask=thin)
    return solid if solid.sum() > 0.3 * mask.sum() else mask


def _core(region: Region, ct: bool) -> np.ndarray:
    """The part that a donor lends: its tissue without cavities and without the border, which its scan blurs with what is beside
    it; all of its tissue where too little would be left."""
    tissue, thin = _tissue(region, ct), _thin(region, ct)
    sides = np.asarray(region.native_spacing[::-1], np.float64)
    dense = np.pad(tissue if thin is None else tissue & ~thin, 1)
    core = ndimage.distance_transform_edt(dense, sides / sides[1:].mean())[1:-1, 1:-1, 1:-1] >= DONOR.border
    return core if core.sum() > LEAST_CORE * tissue.sum() else tissue


def _thin(region: Region, ct: bool) -> np.ndarray | None:
    """Which voxels of a native mask are air by more than half, where it lies in lung; None elsewhere."""
    mask, values = region.native_mask, region.native
    around = values[ndimage.binary_dilation(mask, iterations=RING_VOXELS) & ~mask]
    if not ct or not len(around) or (around < LUNG_HU).mean() <= LUNG_SHARE:
        return None
    air = float(np.median(around[around < LUNG_HU]))
    core = float(np.median(values[mask][values[mask] >= np.median(values[mask])]))
    return mask & (values < 0.5 * (air + core))


def _part(volume: Volume, region: Region, native: np.ndarray) -> np.ndarray:
    """A mask of a region's native box as one of the file's array (K, J, I)."""
    whole = np.zeros(volume.array.shape, bool)
    region.frame.view(whole)[tuple((np.argwhere(native) + np.array(region.start)).T)] = True
    return whole


def _donor(
    case: Case, image: Volume, contour: np.ndarray, lent: np.ndarray, slider: Slider, tissue: np.ndarray
) -> tuple[float, Lent]:
    """By how much noisier the donor's scan is, and the lent tissue, also as the recipient's scan would show it: with that
    scan's noise.

    :param contour, lent: the donor's mask (K, J, I) as drawn, and the part that is lent. :param tissue: the recipient's.
    """
    region, mine = case.region_in(image, lent), case.region(tissue)
    assert case.mask is not None
    theirs, own = _noise(region, contour, case.ct), _noise(mine, case.mask, case.ct)
    noisier = theirs.sd / own.sd
    shown = as_noisy(region.native, region.native_mask, theirs, own)
    bands = Bands(shown, region.native_mask, region.native_spacing)
    gain = np.clip(slider.bands.parts[0].std() / max(bands.parts[0].std(), 1e-6), *GRAIN)
    shown = bands.put(bands.own + (gain - 1) * bands.parts[0], shown)
    return noisier, Lent(region.native, shown, region.native_mask, region.native_spacing)


def _noise(region: Region, contour: np.ndarray, ct: bool) -> Noise:
    """Of a region's scan, in and around a mask (K, J, I)."""
    array, mask = region.frame.view(region.volume.array), region.frame.view(contour)
    at = np.argwhere(mask)
    more = NOISE.ring[1] + 3
    low, high = at.min(0) - [0, more, more], at.max(0) + [1, more + 1, more + 1]
    box = tuple(slice(max(int(a), 0), int(b)) for a, b in zip(low, high))
    image, mask = array[box].astype(np.float32), mask[box]
    level = ndimage.gaussian_filter(image, (0, 1.5, 1.5))
    if not ct:
        return noise_of(image, mask, level > AIR_SHARE * np.percentile(array[::2, ::2, ::2], 99))
    ring = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask, iterations=2)
    lung = ring.any() and np.median(image[ring]) < LUNG_HU
    low, high = (AIR_HU, LUNG_HU) if lung else SOFT_HU
    return noise_of(image, mask, (level > low) & (level < high))


def _limits(slider: Slider, donor: Lent) -> Limits:
    """What tissue allows: what it does in the recipient, and the donor's levels."""
    theirs, own = Bands(donor.image, donor.mask, donor.spacing), slider.limits
    level = theirs.smooth(theirs.image, LEVEL)[theirs.mask]
    low, high = np.percentile(level, THEIRS)
    return replace(own, low=min(own.low, float(low)), high=max(own.high, float(high)))


def _share(bands: Bands, laid: np.ndarray, change: np.ndarray, config: LookConfig) -> float:
    """How much of a change (n,) leaves laid tissue (n,) as fine as it is, or as the tumour that was there; without new specks."""
    top = Filter(bands.mask.shape, BandConfig(cutoff=config.finest))
    depths = np.searchsorted(config.depths, bands.depth)
    power: list[np.ndarray] = []
    specks: list[float] = []
    unit = 0.0
    for values in (bands.own, laid, *(laid + share * change for share in config.shares)):
        box = bands.image.copy()
        box[bands.mask] = values
        off = np.abs(bands.specks(box))
        unit = unit or config.speck_sd * 1.4826 * float(np.median(off))
        power.append(np.bincount(depths, top.grain(box)[bands.mask] ** 2, len(config.depths) + 1))
        specks.append(float((off > unit).mean()))
    low = np.minimum(config.power[0] * power[0], power[1])
    high = np.maximum(config.power[1] * power[0], power[1])
    most = max(config.specks * specks[0], specks[1]) + config.least
    for share, fine, seen in zip(config.shares, power[2:], specks[2:]):
        if (low <= fine).all() and (fine <= high).all() and seen <= most:
            return share
    return 0.0


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


def _off(asked, reached, spread, population) -> float:
    """Root mean square difference in standard deviations, each at most 3, less r: the smaller, the nearer."""
    off = [min(abs(d), 3.0) for d in differences(asked, reached, spread).values()]
    rms = float(np.sqrt(np.mean(np.square(off)))) if off else 0.0
    return rms - correlation(asked, reached, spread, population)


def _median(asked: Mapping[str, float], reached: Mapping[str, float], spread: Mapping[str, float]) -> float:
    off = np.abs(list(differences(asked, reached, spread).values()))
    return float(np.median(off)) if len(off) else 0.0

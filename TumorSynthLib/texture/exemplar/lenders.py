"""What healthy tissue around a hole looks like, and the atlas from which pieces of it are looked up.

Copies are compared in whole numbers (features times SCALE, rounded): sums of their products stay below 2^24,
so float32 matrix products of them are exact and every choice between copies is the same for any number of
threads and any BLAS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .hole import Surroundings
from .spatial import dilate, element_strides, known_blur, robust_sd

SCALE = 12
"""Steps of a feature per unit; 64 voxels of two features bounded by 8 and 12 units give sums below 2^24."""
BOUND = 8.0
"""Features saturate here (units): beyond, tissue is just different."""
NO_LENDER = 0
"""Value of the last channel where a voxel mustn't lend; elsewhere it is 1 more than how strange the tissue is."""
STRUCTURE_FROM, STRUCTURE_TO = 1.0, 4.0
"""Units between which a difference of the finer feature from the level goes from noise to structure."""
FINE, LEVEL, SURFACE, STRANGE = range(4)
"""Channels of the atlas."""


@dataclass(frozen=True)
class LenderConfig:
    """How tissue is described."""

    low_voxels: float = 2.2
    """Gaussian (voxels in plane) that parts level from grain."""
    low_thick: float = 0.4
    """The same across slices that are more than twice as thick as a pixel (voxels)."""
    fine_voxels: float = 0.7
    """Gaussian of the finer feature (voxels in plane)."""
    level_weight: float = 1.5
    """Weight of the level against the finer feature."""
    margin_voxels: float = 2.0
    """Tissue so near the hole (voxels in plane) doesn't lend: the tumour's own blur."""
    around_mm: float = 12.0
    """Tissue within this distance says what is usual here."""
    unit_share: float = 1 / 8
    """A unit of the features is at least this share of the range of levels around, so that seams don't all
    cost alike at borders of tissues."""
    unit_share_lung: float = 1 / 16
    calm_weight: float = 0.35
    """Strangeness of tissue that is calmer than such tissue near the hole, per log of the ratio of grain (MR)."""
    calm_weight_lung: float = 0.5
    """The same in lung, where calm tissue has no small vessels."""
    calm_weight_ct: float = 0.1
    """The same in CT of soft tissue, whose noise changes from place to place: with more, holes get too rough."""
    calm_from: float = 0.05
    rough_from: float = 0.3
    """Logs of the ratio of grain that are still usual: calmer by 5 %, rougher by 35 %."""
    calm_voxels: float = 4.0
    """Gaussian (voxels in plane) within which grain is compared."""
    calm_levels: int = 6
    """Classes of levels (quantiles near the hole) whose usual grain is told apart."""
    skin_mm: float = 3.0
    """Tissue nearer to the surface is skin: it isn't strange where it is as deep as what it replaces."""
    surface_mm: float = 5.0
    """Depth below the skin over which tissue is lent along the surface."""
    surface_outside_mm: float = 4.0
    surface_weight: float = 1.0
    """Units of the features per mm at the skin."""
    min_weight: float = 0.3
    """A voxel lends where at least this share of its surroundings is known."""


@dataclass(frozen=True, eq=False)
class Tissue:
    """The image near a hole, described; arrays (D, H, W).

    level and grain: low-passed known voxels and what is left of the image; sigma: robust SD of the grain near
    the hole; lend: may be copied; features: int16 (D, H, W, 3); strange: how unlike the tissue around the
    hole (0 to 3).
    """

    image: np.ndarray
    known: np.ndarray
    lend: np.ndarray
    level: np.ndarray
    grain: np.ndarray
    features: np.ndarray
    strange: np.ndarray
    sigma: float
    level_weight: float
    low: tuple[float, float, float]


def describe(
    image, hole, zone, around: Surroundings, may_lend, spacing, is_ct: bool, config: LenderConfig
) -> Tissue:
    """Level, grain and features of the tissue around a hole."""
    thick = spacing[0] > 2 * spacing[1]
    across = config.low_thick if thick else config.low_voxels * spacing[1] / spacing[0]
    low = (across, config.low_voxels, config.low_voxels)
    known = ~hole & around.usable
    level, weight = known_blur(image, known, low)
    lend = (
        around.usable
        & may_lend
        & ~dilate(hole, spacing, config.margin_voxels * spacing[1])
        & (weight > config.min_weight)
    )
    grain = np.where(known, image - level, 0).astype(np.float32)
    near = _near(hole | zone, known & around.body & (around.depth > config.skin_mm) & ~zone, spacing, config)
    sigma = robust_sd(grain[near]) + 1e-3
    lo, hi = np.percentile(level[near], [2, 98]) if near.any() else (0.0, 0.0)
    unit = max(sigma, (hi - lo) * (config.unit_share_lung if around.in_air else config.unit_share))
    sides = (0, config.fine_voxels, config.fine_voxels)
    fine = np.where(known, known_blur(image, known, sides)[0], level)
    features = [w * _bounded(f, near, unit) for w, f in ((1.0, fine), (config.level_weight, level))]
    features.append(_surface(around.depth, config))
    strange = np.clip(np.maximum(lo - level, level - hi) / (sigma + 0.1 * (hi - lo)), 0, 3).astype(np.float32)
    calm = (
        config.calm_weight_lung if around.in_air else config.calm_weight_ct if is_ct else config.calm_weight
    )
    strange = np.clip(strange + calm * _unlike(grain, known, level, near, low, config), 0, 3)
    strange[around.depth < config.skin_mm] = 0  # judged by its depth
    whole = np.stack([np.rint(f * np.float32(SCALE)).astype(np.int16) for f in features], -1)
    return Tissue(image, known, lend, level, grain, whole, strange, sigma, config.level_weight, low)


def _near(fill, known, spacing, config: LenderConfig) -> np.ndarray:
    near = dilate(fill, spacing, config.around_mm) & known
    return near if near.sum() >= 100 else known


def _unlike(grain, known, level, near, low, config: LenderConfig) -> np.ndarray:
    """How much calmer or rougher than tissue of the same level near the hole: log of the ratio of local grain, 0 to 1.

    Joining prefers calm tissue, as it differs little from anything; without this, holes are filled too smoothly."""
    window = config.calm_voxels / config.low_voxels
    power = known_blur(grain**2, known, [window * s for s in low])[0]
    rough = 0.5 * np.log(np.maximum(power, 1e-6))
    if near.sum() < 100:
        return np.zeros_like(level)
    edges = np.percentile(level[near], np.linspace(0, 100, config.calm_levels + 1))
    which = np.clip(np.searchsorted(edges, level[near], side="right") - 1, 0, config.calm_levels - 1)
    usual = np.array(
        [
            np.median(rough[near][which == k]) if (which == k).any() else np.nan
            for k in range(config.calm_levels)
        ]
    )
    middle, there = 0.5 * (edges[1:] + edges[:-1]), np.isfinite(usual)
    calmer = np.interp(level, middle[there], usual[there]) - rough
    return np.clip(np.maximum(calmer - config.calm_from, -calmer - config.rough_from), 0, 1)


def _surface(depth, config: LenderConfig) -> np.ndarray:
    """Feature of the distance to the skin: steep at the skin, level deep below it."""
    at = np.maximum(depth, -config.surface_outside_mm)
    return config.surface_weight * config.surface_mm * np.tanh(at / config.surface_mm)


def _bounded(feature, around, unit: float) -> np.ndarray:
    middle = float(np.median(feature[around])) if around.any() else 0.0
    return BOUND * np.tanh((feature - middle) / (BOUND * unit))


@dataclass(frozen=True, eq=False)
class Pieces:
    """Candidates: shifts int (K, 3) in voxels, and from which bank of the atlas (0 as it is, others
    mirrored)."""

    shifts: np.ndarray
    banks: np.ndarray

    def __len__(self) -> int:
        return len(self.shifts)


class Atlas:
    """Padded copies of the tissue's features, flat, so that every shift is one number to add to a voxel's
    place.

    Bank 0 is the tissue as it is; each further bank is mirrored in the plane about the hole's centre (axes in
    `mirrors`).
    """

    def __init__(
        self, tissue: Tissue, pad: np.ndarray, centre: np.ndarray, mirrors: tuple[tuple[int, ...], ...] = ()
    ):
        self.pad = np.asarray(pad, np.int64)
        self.centre = np.asarray(centre) + self.pad
        self.mirrors = ((), *mirrors)
        self.level_weight = tissue.level_weight
        self.shape = tuple(int(n + 2 * p) for n, p in zip(tissue.image.shape, self.pad))
        self.strides = element_strides(self.shape)
        self.size = int(np.prod(self.shape))
        channels = np.empty((*tissue.image.shape, 4), np.int16)
        channels[..., :STRANGE] = tissue.features
        channels[..., STRANGE] = np.where(tissue.lend, np.round(tissue.strange * SCALE) + 1, NO_LENDER)
        self._packed = self.banks(channels.view(np.int64)[..., 0], 0)
        self.packed = self._packed.reshape(-1)

    def banks(self, array: np.ndarray, outside) -> np.ndarray:
        """An array (D, H, W) padded and mirrored as the atlas is: (banks, *shape)."""
        first = self.padded(array, outside)
        if not self.mirrors[1:]:
            return first[None]
        return np.stack([first, *(_mirrored(first, axes, self.centre, outside) for axes in self.mirrors[1:])])

    def padded(self, array: np.ndarray, outside) -> np.ndarray:
        """An array (D, H, W) padded as a bank is."""
        out = np.zeros(self.shape, array.dtype)  # memory that nothing is written to costs no time
        if outside:
            out[...] = outside
        out[tuple(slice(p, p + n) for p, n in zip(self.pad, array.shape))] = array
        return out

    def cut(
        self, array: np.ndarray, bank: int, start: np.ndarray, shape: tuple[int, ...], outside
    ) -> np.ndarray:
        """A box of `banks(array, outside)[bank]` from `start` on, without the rest of it."""
        found = np.full(shape, outside, array.dtype)
        there, here, turned = [], [], []
        for axis, (first, count, size) in enumerate(zip(start, shape, array.shape)):
            back = axis in self.mirrors[bank]
            low = int(round(2 * float(self.centre[axis])) - first - count + 1 if back else first) - int(
                self.pad[axis]
            )
            at, end = min(max(low, 0), size), min(max(low + count, 0), size)
            there.append(slice(at, end))
            here.append(slice(at - low, end - low) if end > at else slice(0, 0))
            turned.append(slice(None, None, -1 if back else 1))
        found[tuple(here)] = array[tuple(there)]
        return found[tuple(turned)]

    def flat(self, points: np.ndarray) -> np.ndarray:
        """Flat places in bank 0 of points (..., 3) of the unpadded array."""
        return ((points + self.pad) * self.strides).sum(-1)

    def offsets(self, pieces: Pieces) -> np.ndarray:
        """What to add to a flat place to look a piece up there: int64 (K,)."""
        return (pieces.shifts * self.strides).sum(-1) + pieces.banks * self.size

    def look(self, places: np.ndarray) -> np.ndarray:
        """Features at flat places: int16 (..., 4), the last channel 1 + how strange, NO_LENDER where it mustn't
        lend."""
        # no place is beyond the pad: to look for one takes a fifth of the time
        return self.packed.take(places, mode="clip").view(np.int16).reshape(*places.shape, 4)

    def unlike(self, places: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Squared difference of the features at flat places from `others`, looked up elsewhere (int16 (..., 4)): float32
        (...), whole numbers in units of 1 / SCALE squared."""
        return unlike(self.look(places), others)

    def structure(self, places: np.ndarray) -> np.ndarray:
        """How much of a fine structure (vessel, fascia) is at flat places: 0 to 1, by what the finer feature differs
        from the level beyond the noise."""
        seen = self.look(places)
        apart = np.abs(seen[..., FINE] - seen[..., LEVEL] / self.level_weight).astype(np.float32) / SCALE
        return np.clip((apart - STRUCTURE_FROM) / (STRUCTURE_TO - STRUCTURE_FROM), 0, 1)

    def lends(self, places: np.ndarray) -> np.ndarray:
        """Whether tissue at flat places may be copied."""
        return self.look(places)[..., STRANGE] != NO_LENDER


def unlike(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared difference of looked up features (..., 4): float32 (...), whole numbers in units of 1 / SCALE squared."""

    def squared(channel: int) -> np.ndarray:
        apart = some[..., channel].astype(np.float32)
        apart -= others[..., channel]
        apart *= apart
        return apart

    return squared(FINE) + squared(LEVEL) + squared(SURFACE)


def _mirrored(array, axes, centre, outside) -> np.ndarray:
    """The array mirrored along `axes` about `centre`; what comes from beyond is `outside`."""
    for axis in axes:
        size = array.shape[axis]
        source = int(round(2 * float(centre[axis]))) - np.arange(size)
        inside = (source >= 0) & (source < size)
        array = np.take(array, np.clip(source, 0, size - 1), axis)
        outer = [slice(None)] * array.ndim
        outer[axis] = ~inside
        array[tuple(outer)] = outside
    return array

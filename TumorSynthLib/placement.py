"""Where a tumour may be put: inside the image, inside the body, inside an organ if one is given.

All here is in LPS order (see `region.Frame`), so that the order of storage makes no difference. The search runs on a
coarse copy of the image (about 3 mm), so that its cost hardly depends on the volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.suitability import stands_out

GRID_MM = 3.0
BODY_HU = -500.0  # soft tissue above it, air and lung below
CORNER_AIR_HU = -985.0  # fifth percentile of outer air below it, of lung that fills a crop's corner above it
OUTER_AIR_HU = -940.0  # air outside the body below it, lung above it
GAS_HU, GAS_MM = (
    -955.0,
    9.0,
)  # mean over so many mm: windpipe and bowel gas below it, almost all lung above it
LEAST = 0.05  # of an image is body; where less is found, as in a crop of emphysema, all of it counts as body
BODY_SHARE = 0.1  # of the 99th percentile: MR background is darker
OUTSIDE = 0.02  # part of the tumour that may stick out: the coarse grid's rounding
BONE_HU, BONE_SHARE = 250.0, 0.03  # in a CT, part of the tumour that may replace bone without a word
RIM_MM, NEW_SHARE = 3.0, 0.1  # part of it beyond the old tumour and its rim; of less nothing is said
LUNG_HU = -600.0  # of a coarse, smoothed CT: lung below it, vessels and chest wall above
# Of a coarse CT: no soft tissue beyond the first two, fat below the third.
AIR_HU, DENSE_HU, FAT_HU = -400.0, 200.0, -30.0
DARK_SHARE = 0.16  # of MR's 99th percentile: cortical bone and air are darker
# In a slice: smaller dark spots are vessels, smaller holes of bone hold marrow.
SPOT_MM2, MARROW_MM2 = 60.0, 1000.0
# MR's fat, or fluid, is so many times as bright as the rest, which is at least this share of the tissue.
TWICE, LEAN = 2.0, 0.3
MIXED = 0.1  # part of a tumour that may lie in fat where it is to lie in lean tissue
MOST_TRIED = 100  # places that are looked at for something that is there already
# Voxels so far off the middle level at a place are another tissue's (in lung: brighter; in MR: part of it); taken is
# the first place with less than this share of them, else that with the fewest.
STRANGE_HU, STRANGE_LUNG, STRANGE_MR, STRANGE_SHARE = 80.0, 300.0, 0.2, 0.01
CALM_MM, CALMEST, BUSY_SD = (
    4.0,
    0.2,
    8.0,
)  # around a found place; share of the calmest ones; robust sd at most
LUNG_SHARE = (0.15, 0.85)  # part of it in the lung, between which it crosses the lung's border


NOWHERE = "the tumour fits nowhere in the organ or body, off what is to be avoided: make it smaller, or name another organ"


class NoPlace(InputError):
    """There is no place for a tumour of this size."""


@dataclass(frozen=True, eq=False)
class Part:
    """A tumour's mask cut out of its image.

    :param mask: (D, H, W) bool, tight, in LPS order.
    :param centre: (z, y, x) index of the centre of mass in it.
    """

    mask: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, view: np.ndarray) -> Part:
        """Part of a mask in LPS order."""
        mask = view[bounding_box(view)]
        return cls(mask, np.argwhere(mask).mean(axis=0))


def grown(mask: np.ndarray, spacing: tuple[float, float, float], mm: float) -> np.ndarray:
    """The mask (K, J, I) and all voxels within `mm` of it; spacing (x, y, z) mm."""
    if mm <= 0:
        return mask
    from scipy import ndimage

    steps = [int(np.ceil(mm / s)) for s in spacing[::-1]]
    box = tuple(slice(max(0, s.start - n), s.stop + n) for s, n in zip(bounding_box(mask), steps))
    wide = mask.copy()
    wide[box] = ndimage.distance_transform_edt(~mask[box], spacing[::-1]) <= mm
    return wide


def moved_mask(
    volume, mask: np.ndarray, to, ct: bool, inside: np.ndarray | None = None, nearest: bool = False
) -> tuple[np.ndarray, tuple, str]:
    """The mask (K, J, I) moved by whole voxels so that its centre comes to lie at `to`, the (k, j, i) shift, and a note.

    See `placed` for the parameters and errors.
    """
    frame = Frame.of(volume.direction)
    part = Part.of(frame.view(mask))
    moved, note = placed(volume, part, to, ct, inside, also=mask, nearest=nearest)
    shift = tuple(a.start - b.start for a, b in zip(bounding_box(moved), bounding_box(mask)))
    if not any(shift):
        raise InputError("the tumour is at that place already; give another one")
    return moved, shift, note


def placed(
    volume,
    part: Part,
    to,
    ct: bool,
    inside: np.ndarray | None = None,
    also: np.ndarray | None = None,
    nearest: bool = False,
) -> tuple[np.ndarray, str]:
    """The mask (K, J, I) of a tumour with its centre of mass at `to`, up to half a voxel, and a note.

    :param to: (x, y, z) LPS mm.
    :param ct: intensities are HU.
    :param inside: (K, J, I) bool, an organ to stay in; the body isn't looked for then.
    :param also: (K, J, I) bool, where it may lie whatever the image shows there: the old tumour.
    :param nearest: put it at the nearest place where it fits; the note then says where.
    :raises InputError: it is larger than the image, or the place is out of the image, the body or the organ; the message
        names the nearest one that isn't.

    The note also tells of a tumour that takes the place of bone, or crosses the border of the lung.
    """  # fmt: skip
    places = _Places(volume, part, ct, inside, also)
    start = places.start(to)
    problem = places.problem(start)
    if not problem:
        mask = places.mask(start)
        return mask, "" if inside is not None or not ct else _crossed(volume, mask, also)
    found = places.nearest(start)
    if found is None:
        raise InputError(
            f"at {_point(to)} the tumour would leave {problem}, and it fits nowhere else: make it smaller"
        )
    where = _point(places.centre(found))
    if not nearest:
        raise InputError(
            f"at {_point(to)} the tumour would leave {problem}; the nearest place where it fits is {where}; --nearest takes it"
        )
    off = float(np.linalg.norm((found - start) * places.spacing))
    mask = places.mask(found)
    notes = [f"at the asked place the tumour would leave {problem}: it was put {off:.0f} mm off, at {where}"]
    if ct and inside is None and (crossed := _crossed(volume, mask, also)):
        notes.append(crossed)
    return mask, "; ".join(notes)


def _crossed(volume, mask: np.ndarray, also: np.ndarray | None) -> str:
    """Whether a tumour takes the place of bone, or crosses the border of the lung, in a CT: a note, empty if not.

    What the old tumour (`also`) and its rim hold already isn't counted.
    """
    new = mask
    if also is not None and also.any():
        new = mask & ~grown(also, volume.spacing, max(RIM_MM, *volume.spacing))
    if new.sum() < NEW_SHARE * mask.sum():
        return ""
    values = volume.array[new]
    bone, lung = float((values > BONE_HU).mean()), float((values < BODY_HU).mean())
    hint = "give another point, or an organ that it has to stay in (inside)"
    if bone > BONE_SHARE:
        return f"{100 * bone:.0f} % of the new tumour takes the place of bone: {hint}"
    if LUNG_SHARE[0] < lung < LUNG_SHARE[1]:
        return f"the new tumour crosses the border of the lung, {100 * lung:.0f} % of it lies within: {hint}"
    return ""


class _Grid:
    """Places of a part in a volume: the (z, y, x) LPS index of the first voxel of its box, and the positions in mm."""

    def __init__(self, volume, part: Part):
        self.volume, self.part = volume, part
        self.frame = Frame.of(volume.direction)
        self.spacing = np.array(self.frame.take(volume.spacing[::-1]))
        self.size = np.array(self.frame.take(volume.array.shape))

    def start(self, to) -> np.ndarray:
        """Place whose centre of mass is nearest to a point (x, y, z) LPS mm."""
        index = np.array(self.frame.take(self.volume.indices(np.asarray(to, float))[::-1]))
        flip = np.array(self.frame.flip)
        return np.rint(np.where(flip, self.size - 1 - index, index) - self.part.centre).astype(int)

    def centre(self, start: np.ndarray) -> np.ndarray:
        """Centre of mass (x, y, z) LPS mm at a place."""
        index = start + self.part.centre
        index = np.where(self.frame.flip, self.size - 1 - index, index)
        return self.volume.points(index[np.argsort(self.frame.order)][::-1])


class _Places(_Grid):
    """The places that a tumour may take: a coarse map of where its voxels may lie, and the search in it."""

    def __init__(self, volume, part: Part, ct: bool, inside: np.ndarray | None, also: np.ndarray | None):
        super().__init__(volume, part)
        self._check_size()
        self.steps = tuple(max(1, int(GRID_MM / s)) for s in self.spacing)
        coarse = tuple(slice(None, None, s) for s in self.steps)
        self.organ = inside is not None
        if inside is not None:
            if inside.shape != volume.array.shape or not inside.any():
                raise InputError("the organ's mask is empty or not on the image's grid: check it")
            if also is None or not (grown(also, volume.spacing, max(volume.spacing)) & inside).any():
                also = inside
            else:  # whose label ends where its tumour's begins
                also = inside | also
        self.also = None if also is None else self.frame.view(also)
        if inside is not None:
            self.map = self.frame.view(inside)[coarse].astype(bool)
        else:
            seen = self.frame.view(volume.array)[coarse]
            self.map = _body(seen, ct)
            if self.map.mean() < LEAST:
                self.map[:] = True
            if ct:
                self.map &= ~_gas(seen, self.spacing * self.steps)
        if self.also is not None:
            self.map = self.map | self.also[coarse]

    def _check_size(self) -> None:
        if (np.array(self.part.mask.shape) > self.size).any():
            tumour, image = (
                " × ".join(f"{n * s:.0f}" for n, s in zip(shape[::-1], self.spacing[::-1]))
                for shape in (self.part.mask.shape, self.size)
            )
            raise InputError(
                f"the tumour ({tumour} mm) is larger than the image ({image} mm): ask for a smaller one, e.g. by volume_ml"
            )

    def problem(self, start: np.ndarray) -> str:
        """What a tumour at a place would leave; empty where it fits."""
        if (start < 0).any() or (start + self.part.mask.shape > self.size).any():
            return "the image"
        index = np.argwhere(self.part.mask) + start
        fits = self.map[tuple((index // np.array(self.steps)).T)]
        if self.also is not None:  # voxel by voxel: a smaller tumour lies within the old one
            fits = fits | self.also[tuple(index.T)]
        if fits.mean() >= 1 - OUTSIDE:
            return ""
        return "the organ" if self.organ else "the body"

    def mask(self, start: np.ndarray) -> np.ndarray:
        """The mask (K, J, I) at a place."""
        result = np.zeros(self.volume.array.shape, bool)
        box = tuple(slice(a, a + n) for a, n in zip(start, self.part.mask.shape))
        self.frame.view(result)[box] = self.part.mask
        return result

    def strange(self, start: np.ndarray, ct: bool, lung: bool) -> float:
        """Part of a tumour's voxels at a place that another tissue has there, as a ventricle, the falx or a vessel does."""
        from scipy import ndimage

        box = tuple(slice(a, a + n) for a, n in zip(start, self.part.mask.shape))
        seen = self.frame.view(self.volume.array)[box].astype(np.float32)
        values = ndimage.gaussian_filter(seen, (0, 0.7, 0.7))[self.part.mask]
        middle = float(np.median(values))
        lung = lung and ct and middle < BODY_HU
        limit = STRANGE_LUNG if lung else STRANGE_HU if ct else STRANGE_MR * abs(middle)
        off = values - middle if lung else np.abs(values - middle)
        return float((off > limit).mean())

    def nearest(self, start: np.ndarray) -> np.ndarray | None:
        """The place nearest to another where the tumour fits, on the coarse grid; None where there is none."""
        from scipy.signal import fftconvolve

        steps = np.array(self.steps)
        coarse = np.zeros((np.array(self.part.mask.shape) - 1) // steps + 1, bool)
        coarse[tuple((np.argwhere(self.part.mask) // steps).T)] = True
        if (np.array(coarse.shape) > self.map.shape).any():
            return None
        flipped = coarse[::-1, ::-1, ::-1].astype(np.float32)
        covered = fftconvolve((~self.map).astype(np.float32), flipped, mode="valid")
        found = np.argwhere(covered < max(OUTSIDE * coarse.sum(), 0.5)) * steps
        order = np.argsort((((found - start) * self.spacing) ** 2).sum(1), kind="stable")[:200]
        return next((place for place in found[order] if not self.problem(place)), None)


def found_place(
    volume, part: Part, ct: bool, inside: np.ndarray | None = None, seed: int = 0, lung: bool = False,
    avoid: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """A point (x, y, z) LPS mm where a tumour fits, by seed: one of the calmest places, away from vessels, bone and borders.

    Without `lung` it lies in soft tissue, and where it fits there, not in fat.

    Where something stands out already, a tumour above all, or another tissue lies, is taken only if there is no other place.

    :param lung: it is to lie in the lung, where the image shows one.
    :param avoid: (K, J, I) bool, tumours that it stays away from.
    :raises NoPlace: it fits nowhere. Other parameters as in `placed`.
    """
    from scipy import ndimage
    from scipy.signal import fftconvolve

    places = _Places(volume, part, ct, inside, None)
    thinned = tuple(slice(None, None, s) for s in places.steps)
    seen = places.frame.view(volume.array)[thinned].astype(np.float32)
    step_mm = places.spacing * np.array(places.steps)
    allowed = places.map.copy()
    for axis, n in enumerate(allowed.shape):  # a border tells nothing of what a tumour there would touch
        cut = int(np.ceil(CALM_MM / step_mm[axis]))
        if n > 4 * cut + part.mask.shape[axis] // places.steps[axis]:
            np.moveaxis(allowed, axis, 0)[np.r_[0:cut, n - cut : n]] = False
    if avoid is not None and avoid.any():
        allowed &= ~places.frame.view(grown(avoid, volume.spacing, CALM_MM))[thinned]
    coarse = np.zeros((np.array(part.mask.shape) - 1) // places.steps + 1, np.float32)
    coarse[tuple((np.argwhere(part.mask) // places.steps).T)] = 1
    if (np.array(coarse.shape) > seen.shape).any():
        raise NoPlace("the tumour fits nowhere in the image: make it smaller")
    most = max(OUTSIDE * coarse.sum(), OUTSIDE / MIXED / 2)  # one voxel of fat is more
    for tissue, unfit in _tissues(seen, step_mm, allowed, ct, lung, places.organ):
        leaves = fftconvolve(unfit, coarse[::-1, ::-1, ::-1], mode="valid")
        found = np.argwhere(leaves < most)
        if len(found):
            busy = _busy(seen, tissue, ct)
            break
    else:
        raise NoPlace(NOWHERE)
    around = np.ceil((np.array(part.mask.shape) * places.spacing + 2 * CALM_MM) / step_mm).astype(int)
    window = np.minimum(np.maximum(around, 1), seen.shape)
    score = ndimage.uniform_filter(busy, window, mode="nearest")
    cost = score[tuple((found + np.array(coarse.shape) // 2).T)]
    order = np.argsort(cost, kind="stable")[: max(1, int(np.ceil(CALMEST * len(found))))]
    best: tuple[float, np.ndarray] | None = None
    for index in np.random.default_rng(seed).permutation(order)[:MOST_TRIED]:
        start = np.minimum(found[index] * places.steps, places.size - part.mask.shape)
        mask = places.mask(start)
        if places.problem(start) or (avoid is not None and (mask & avoid).any()):
            continue
        strange = places.strange(start, ct, lung) + stands_out(volume, mask, ct)
        if best is None or strange < best[0]:
            best = strange, start
        if strange < STRANGE_SHARE:
            break
    if best is None:
        raise NoPlace(NOWHERE)
    return places.centre(best[1])


def _tissues(seen: np.ndarray, step_mm, allowed: np.ndarray, ct: bool, lung: bool, organ: bool):
    """Where a new tumour may lie in a coarse image (D, H, W): bool, and how far each voxel doesn't fit; the best first.

    In soft tissue that is off bone, its marrow and air, and where it fits, in lean tissue: in fat lie skin and fascia.
    """
    from scipy import ndimage

    if lung and ct:
        air = allowed & (ndimage.gaussian_filter(seen, 1.0) < LUNG_HU)
        if air.mean() > LEAST / 5:
            yield air, (~air).astype(np.float32)
            if not organ:
                return
    soft = allowed & ~_hard(seen, step_mm, ct)
    lean = soft & ~_fat(seen, soft, ct)
    for tissue in (lean, soft):
        yield tissue, np.where(tissue, 0, np.where(soft, OUTSIDE / MIXED, 1)).astype(np.float32)
    if organ or not ct:  # who names an organ knows it; MR's levels have no unit
        yield allowed, (~allowed).astype(np.float32)


def _hard(seen: np.ndarray, step_mm, ct: bool) -> np.ndarray:
    """Bone, the marrow in it and air, with a margin, of a coarse image (D, H, W)."""
    from scipy import ndimage

    flat, area = ndimage.generate_binary_structure(3, 1), float(step_mm[1] * step_mm[2])
    flat[[0, 2]] = False

    def large(mask: np.ndarray, mm2: float) -> np.ndarray:
        parts, count = ndimage.label(mask, flat)
        return (np.bincount(parts.ravel(), minlength=count + 1) * area >= mm2)[parts] & mask

    if ct:
        bone, air = ndimage.gaussian_filter(seen, 0.5) > DENSE_HU, seen < AIR_HU
    else:
        dark = large(seen < DARK_SHARE / BODY_SHARE * _mr_threshold(seen), SPOT_MM2)
        bone, air = dark, dark
    bone = ndimage.binary_closing(np.pad(bone, 1), flat)[1:-1, 1:-1, 1:-1] | bone
    holes = ndimage.binary_fill_holes(bone, flat) & ~bone
    hard = bone | air | (holes & ~large(holes, MARROW_MM2))
    return ndimage.distance_transform_edt(~hard, step_mm) <= CALM_MM


def _fat(seen: np.ndarray, soft: np.ndarray, ct: bool) -> np.ndarray:
    """Fat of a coarse image; in MR what is much brighter than the rest, as fat or fluid is. None where all is alike."""
    from scipy import ndimage

    if ct:
        return ndimage.gaussian_filter(seen, 1.0) < FAT_HU
    values = np.sort(seen[soft])
    if not values.size:
        return soft
    sums, n = np.cumsum(values, dtype=float), np.arange(1, values.size)
    low, high = sums[:-1] / n, (sums[-1] - sums[:-1]) / (values.size - n)
    cut = int(np.argmax(n * (values.size - n) * (high - low) ** 2)) if n.size else 0  # as Otsu does
    fat = n.size and high[cut] > TWICE * low[cut] and n[cut] > LEAN * values.size
    return seen > values[cut] if fat else np.zeros_like(soft)


def _busy(seen: np.ndarray, allowed: np.ndarray, ct: bool) -> np.ndarray:
    """How far a coarse image (D, H, W) is from the tissue that prevails where a tumour may lie; the rest is farthest."""
    inside = seen[allowed]
    middle = np.median(inside)
    unit = max(1.4826 * float(np.median(np.abs(inside - middle))), 1e-3)
    off = np.minimum(np.abs(seen - middle) / unit, BUSY_SD)
    off[~allowed] = BUSY_SD
    if ct:
        off[seen > BONE_HU] = BUSY_SD
    return off


def centre_of_mass(volume, mask: np.ndarray) -> np.ndarray:
    """Centre of mass (x, y, z) LPS mm of a mask (K, J, I)."""
    box = bounding_box(mask)
    return volume.points((np.argwhere(mask[box]).mean(axis=0) + [s.start for s in box])[::-1])


def window_of(volume, mask: np.ndarray, parts: list[Part]) -> tuple[slice, ...]:
    """Box (K, J, I) that holds a mask and parts with the same centre of mass, cut at the image's border."""
    box = bounding_box(mask)
    for part in parts:
        places = _Grid(volume, part)
        start = places.start(centre_of_mass(volume, mask))
        low = np.clip(start, 0, places.size - 1)
        high = np.clip(start + part.mask.shape, 1, places.size)
        wide = places.frame.file_box(tuple(map(slice, low.tolist(), high.tolist())), mask.shape)
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, wide))
    return box


def body(array: np.ndarray, frame: Frame, ct: bool) -> np.ndarray:
    """Bool map of the body in a (K, J, I) image, lung and bowel gas included.

    The largest connected part above a threshold, with its holes filled in each axial slice. Lung that the border of the
    image cuts open is told from outer air by its density.
    """
    return np.ascontiguousarray(frame.back(_body(frame.view(array), ct)))


def _body(view: np.ndarray, ct: bool) -> np.ndarray:
    from scipy import ndimage

    solid = view > (BODY_HU if ct else _mr_threshold(view))
    solid = (
        ndimage.binary_opening(solid, ndimage.generate_binary_structure(3, 1))
        if min(view.shape) > 2
        else solid
    )
    labels, count = ndimage.label(solid)
    if not count:
        return np.zeros(view.shape, bool)
    inside = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    inside = ndimage.binary_closing(np.pad(inside, 2, mode="edge"), iterations=2)[2:-2, 2:-2, 2:-2] | inside
    result = np.empty_like(inside)
    for k in range(len(inside)):
        result[k] = ndimage.binary_fill_holes(inside[k]) | (_cut_lung(view[k], ~inside[k]) if ct else False)
    return result


def _gas(view: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Air without lung tissue in a coarse CT with (z, y, x) mm: windpipe, bowel gas, outer air."""
    from scipy import ndimage

    size = [max(1, int(GAS_MM / s)) for s in spacing]
    middle = ndimage.uniform_filter(view.astype(np.float32), size, mode="nearest") < GAS_HU
    return ndimage.binary_dilation(middle, np.ones(size, bool)) & (view < GAS_HU)


def _mr_threshold(values: np.ndarray) -> float:
    """Between background and tissue; empty background, which may be most of the image, is left aside."""
    tissue = values[values > values.min()]
    return BODY_SHARE * float(np.percentile(tissue, 99)) if tissue.size else float(values.min())


def _cut_lung(values: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Parts of a slice's air that are lung by their density.

    What holds a corner of the slice is outer air as a rule, and the mattress in it is as dense as lung: there hardly any
    voxel may be as thin as air.
    """
    from scipy import ndimage

    labels, count = ndimage.label(air)
    if not count:
        return np.zeros_like(air)
    density = np.array(ndimage.median(values, labels, np.arange(1, count + 1)), float)
    for corner in set(labels[[0, 0, -1, -1], [0, -1, 0, -1]]) - {0}:
        thin = np.percentile(values[labels == corner], 5) <= CORNER_AIR_HU  # in a crop a corner may hold lung
        density[corner - 1] = OUTER_AIR_HU if thin else max(density[corner - 1], OUTER_AIR_HU + 1)
    return np.isin(labels, 1 + np.flatnonzero(density > OUTER_AIR_HU))


def _point(position) -> str:
    return "(" + " ".join(f"{v:.1f}" for v in position) + ") mm LPS"

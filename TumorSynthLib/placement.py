"""Where a tumour may be moved: inside the image, inside the body, inside an organ if one is given.

The search runs on a coarse copy of the image (about 3 mm), so that its cost hardly depends on the volume.
"""

from __future__ import annotations

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box

GRID_MM = 3.0
BODY_HU = -500.0  # soft tissue above it, air and lung below
OUTER_AIR_HU = -940.0  # median of air outside the body below it, of lung above it
BODY_SHARE = 0.1  # of the 99th percentile: MR background is darker
OUTSIDE = 0.02  # part of the tumour that may stick out: the coarse grid's rounding


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
    volume, mask: np.ndarray, to, ct: bool, inside: np.ndarray | None = None
) -> tuple[np.ndarray, tuple]:
    """The mask (K, J, I) moved by whole voxels so that its centre comes to lie at `to`, and the (k, j, i) shift.

    :param to: (x, y, z) LPS mm.
    :param ct: intensities are HU.
    :param inside: (K, J, I) bool, an organ to stay in.
    :raises InputError: the place is out of the image, the body or the organ; the message names the nearest one that isn't.
    """
    box = bounding_box(mask)
    centre = np.array([s.start for s in box]) + np.argwhere(mask[box]).mean(axis=0)
    shift = np.rint(volume.indices(np.asarray(to, float))[::-1] - centre).astype(int)
    if not shift.any():
        raise InputError("the tumour is at that place already; give another one")
    target = tuple(slice(s.start + d, s.stop + d) for s, d in zip(box, shift))
    leaves = any(s.start < 0 or s.stop > n for s, n in zip(target, mask.shape))
    allowed = None
    if not leaves:
        moved = np.zeros_like(mask)
        moved[target] = mask[box]
        allowed = _Allowed(volume, mask, ct, inside)
        if allowed.holds(moved):
            return moved, tuple(int(d) for d in shift)
    allowed = allowed or _Allowed(volume, mask, ct, inside)
    where = "the image" if leaves else ("the organ" if inside is not None else "the body")
    raise InputError(f"at {_point(to)} the tumour would leave {where}; {allowed.proposal(shift)}")


class _Allowed:
    """Coarse map of the places that a tumour's voxels may take, and the search in it."""

    def __init__(self, volume, mask: np.ndarray, ct: bool, inside: np.ndarray | None):
        self.volume, self.mask = volume, mask
        self.steps = tuple(max(1, int(GRID_MM / s)) for s in volume.spacing[::-1])
        coarse = tuple(slice(None, None, s) for s in self.steps)
        self.map = body(volume.array[coarse], Frame.of(volume.direction), ct)
        self.map |= mask[coarse]  # where the tumour is, it may be
        if inside is not None:
            if inside.shape != mask.shape or not inside.any():
                raise InputError("the organ's mask is empty or not on the image's grid: check it")
            self.map &= inside[coarse].astype(bool)

    def holds(self, moved: np.ndarray) -> bool:
        """Whether a mask (K, J, I) lies in the map, nearest neighbour."""
        index = np.argwhere(moved) // np.array(self.steps)
        return bool(self.map[tuple(index.T)].mean() >= 1 - OUTSIDE)

    def proposal(self, shift: np.ndarray) -> str:
        """In words, the valid place nearest to a (k, j, i) shift."""
        from scipy.signal import fftconvolve

        box = bounding_box(self.mask)
        first = [s.start // n for s, n in zip(box, self.steps)]
        part = np.zeros([(s.stop - 1) // n + 1 - f for s, n, f in zip(box, self.steps, first)], bool)
        index = np.argwhere(self.mask[box]) + [s.start for s in box]
        part[tuple((index // np.array(self.steps) - first).T)] = True
        if any(a > b for a, b in zip(part.shape, self.map.shape)):
            return "it fits nowhere else"
        flipped = part[::-1, ::-1, ::-1].astype(np.float32)
        covered = fftconvolve((~self.map).astype(np.float32), flipped, mode="valid")
        places = np.argwhere(covered < OUTSIDE * part.sum() * 0.5)
        spacing = np.array(self.volume.spacing[::-1])
        shifts = (places - first) * np.array(self.steps)
        shifts = shifts[self._in_image(shifts, box) & (np.abs(shifts).sum(1) > 0)]
        near = np.argsort((((shifts - shift) * spacing) ** 2).sum(1))[:50]
        for candidate in shifts[near]:
            moved = np.zeros_like(self.mask)
            moved[tuple(slice(s.start + d, s.stop + d) for s, d in zip(box, candidate))] = self.mask[box]
            if self.holds(moved):
                return f"the nearest place where it fits is {_point(self._centre(candidate))}"
        return "no place nearby fits either; choose one farther inside"

    def _in_image(self, shifts: np.ndarray, box) -> np.ndarray:
        low = np.array([s.start for s in box]) + shifts
        high = np.array([s.stop for s in box]) + shifts
        return (low >= 0).all(1) & (high <= np.array(self.mask.shape)).all(1)

    def _centre(self, shift: np.ndarray) -> np.ndarray:
        box = bounding_box(self.mask)
        centre = np.array([s.start for s in box]) + np.argwhere(self.mask[box]).mean(axis=0) + shift
        return self.volume.points(centre[::-1])


def body(array: np.ndarray, frame: Frame, ct: bool) -> np.ndarray:
    """Bool map of the body in a (K, J, I) image, lung and bowel gas included.

    The largest connected part above a threshold, with its holes filled in each axial slice. Lung that the border of the
    image cuts open is told from outer air by its density.
    """
    from scipy import ndimage

    view = frame.view(array)
    solid = view > (BODY_HU if ct else _mr_threshold(view))
    solid = (
        ndimage.binary_opening(solid, ndimage.generate_binary_structure(3, 1))
        if min(view.shape) > 2
        else solid
    )
    labels, count = ndimage.label(solid)
    if not count:
        return np.zeros(array.shape, bool)
    inside = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    inside = ndimage.binary_closing(np.pad(inside, 2, mode="edge"), iterations=2)[2:-2, 2:-2, 2:-2] | inside
    result = np.empty_like(inside)
    for k in range(len(inside)):
        result[k] = ndimage.binary_fill_holes(inside[k]) | (_cut_lung(view[k], ~inside[k]) if ct else False)
    return np.ascontiguousarray(frame.back(result))


def _mr_threshold(values: np.ndarray) -> float:
    """Between background and tissue; empty background, which may be most of the image, is left aside."""
    tissue = values[values > values.min()]
    return BODY_SHARE * float(np.percentile(tissue, 99)) if tissue.size else float(values.min())


def _cut_lung(values: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Parts of a slice's air that are lung by their density."""
    from scipy import ndimage

    labels, count = ndimage.label(air)
    if not count:
        return np.zeros_like(air)
    medians = ndimage.median(values, labels, np.arange(1, count + 1))
    return np.isin(labels, 1 + np.flatnonzero(np.asarray(medians) > OUTER_AIR_HU))


def _point(position) -> str:
    return "(" + " ".join(f"{v:.1f}" for v in position) + ") mm LPS"

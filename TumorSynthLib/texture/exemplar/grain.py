"""The grain of the copies, joined: high-passed pieces feathered over their seams, the variance that averaging
takes given back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .lenders import Atlas, Pieces, Tissue
from .spatial import blur, edt, known_blur

REACH = 2.5
"""How far a Gaussian reaches, in its standard deviations."""
UNKNOWN_SHARE = 1e-3
"""Weight of a piece beyond the known tissue, where it has no grain: only where no other piece reaches."""
SMOOTH = np.array([1, -6, 15, 44, 15, -6, 1]) / 64
"""Passes what is below about .35 cycles per voxel: 1 - sin^6 of half the angular frequency."""


@dataclass(frozen=True)
class GrainConfig:
    feather_voxels: float = 1.5
    """Gaussian (voxels in plane) over which grain goes from one piece to the next."""
    feather_fine_voxels: float = 0.8
    """The same for the finest grain."""
    split_voxels: float = 0.8
    """Gaussian (voxels in plane) that parts the finest grain from the rest."""
    feather_thick: float = 0.6
    """The same across slices that are more than twice as thick as a pixel (voxels)."""
    feather_thick_mr: float = 0.9
    """The same in MR."""
    feather_across: float = 0.8
    """The same across thinner slices, as a share of that in plane."""
    gain_ct: float = 1.25
    """Largest factor by which averaged grain is made stronger again; more shows above .45 cycles per voxel."""
    gain_mr: float = 1.2
    gain_mr_coarse: float = 1.7
    """The same in MR for all but the finest grain, of which the wider feather takes more."""
    window_voxels: float = 6.0
    """Gaussian (voxels in plane) within which it is seen whether copies that overlap are alike."""
    finest_voxels: float = 2.5
    """Gaussian (voxels in plane) within which the finest grain of MR is made no stronger than that of the copies."""


def filled(
    tissue: Tissue,
    atlas: Atlas,
    pieces: Pieces,
    labels,
    level,
    hole,
    zone_mm: float,
    spacing,
    is_ct: bool,
    config: GrainConfig,
) -> np.ndarray:
    """The image with its hole filled: `level` and the pieces' grain; in the zone it gives way to the image.
    float32 (D, H, W)."""
    box = _box_of(labels >= 0)
    fill = labels[box] >= 0
    own = _share_of_own(hole[box], fill, zone_mm, spacing)
    made = own * tissue.level[box] + (1 - own) * level[box]
    bands, feathers, gains = zip(*_bands(tissue, is_ct, config))
    sides = [_sides(feather, spacing, is_ct, config) for feather in feathers]
    feathered = _feathered(bands, tissue.known, atlas, pieces, labels, box, sides)
    for band, most, (mean, power, squares) in zip(bands, gains, feathered):
        mean, power = (1 - own) * mean + own * band[box], (1 - own) * power + own * band[box] ** 2
        left = (1 - own) ** 2 * squares + own**2
        made += mean * _variance_kept(mean, power, left, fill, most, config.window_voxels)
    out = tissue.image.copy()
    out[box] = np.where(fill, made, tissue.image[box])
    if not is_ct:
        out[box] -= _seams_finest(out, tissue.image, atlas, pieces, labels, own, box, config.finest_voxels)
    return out


def _seams_finest(out, image, atlas: Atlas, pieces: Pieces, labels, own, box, window: float) -> np.ndarray:
    """What is too much in the finest grain of the filled image: MR is often interpolated and has next to none, so that what
    seams of pieces leave there shows. (d, h, w) of the box, 0 outside the hole and its zone."""
    fill, finest = labels[box] >= 0, _finest(out[box])
    copied = atlas.banks(_finest(image) ** 2, np.float32(0)).reshape(-1)
    there = np.argwhere(labels >= 0)
    lent = finest**2
    lent[fill] = copied[atlas.flat(there) + atlas.offsets(pieces)[labels[labels >= 0]]]
    lent = (1 - own) * lent + own * finest**2
    have, due = (blur(a, (0, window, window)) for a in (finest**2, lent))
    share = np.sqrt(np.clip(due / np.maximum(have, 1e-12), 0, 1))
    return np.where(fill, (1 - share) * finest, 0)


def _finest(image: np.ndarray) -> np.ndarray:
    """What an image has near the highest frequencies in plane: half of its amplitude at .35 cycles per voxel, all at .5."""
    smooth = image
    for axis in (1, 2):
        smooth = ndimage.correlate1d(smooth, SMOOTH, axis, mode="nearest")
    return image - smooth


def _bands(tissue: Tissue, is_ct: bool, config: GrainConfig):
    """The grain in two bands, each with the feather (voxels in plane) that suits its scale (Burt and Adelson, A
    multiresolution spline, ACM TOG 1983), as the finest would lose its strength over a wide one, and its largest gain."""
    fine, coarse = (config.gain_ct,) * 2 if is_ct else (config.gain_mr, config.gain_mr_coarse)
    sides = (0, config.split_voxels, config.split_voxels)
    low = np.where(tissue.known, known_blur(tissue.grain, tissue.known, sides)[0], 0)
    return (low, config.feather_voxels, coarse), (tissue.grain - low, config.feather_fine_voxels, fine)


def _sides(feather: float, spacing, is_ct: bool, config: GrainConfig) -> tuple[float, float, float]:
    across = config.feather_across * feather
    if spacing[0] > 2 * spacing[1]:
        across = config.feather_thick if is_ct else config.feather_thick_mr
    return (across, feather, feather)


def _box_of(fill, more: int = 4):
    at = np.argwhere(fill)
    return tuple(slice(max(0, int(a) - more), int(b) + more + 1) for a, b in zip(at.min(0), at.max(0)))


def _feathered(bands, known, atlas: Atlas, pieces: Pieces, labels, box, feathers):
    """For each band: weighted mean of the pieces' grain in the box, of its square, and the sum of squared weights."""
    sub, first = labels[box], np.array([s.start for s in box]) + atlas.pad
    sums = np.zeros((len(bands), 4, *sub.shape), np.float32)
    kernels = [[_gaussian(s) for s in feather] for feather in feathers]
    reach = np.array([max(len(k[axis]) // 2 for k in kernels) for axis in range(3)])
    for piece, voxels in _islands(sub, reach):
        low, high = np.maximum(voxels.min(0) - reach, 0), np.minimum(voxels.max(0) + reach + 1, sub.shape)
        part = tuple(slice(a, b) for a, b in zip(low, high))
        inside = np.zeros(high - low, np.float32)
        inside[tuple((voxels - low).T)] = 1
        there = (int(pieces.banks[piece]), first + low + pieces.shifts[piece], inside.shape)
        unknown = ~atlas.cut(known, *there, False)
        for grain, kernel, found in zip(bands, kernels, sums):
            mean, power, total, squares = (a[part] for a in found)
            weight = inside
            for axis, along in enumerate(kernel):
                weight = ndimage.correlate1d(weight, along, axis, mode="constant")
            np.multiply(weight, np.float32(UNKNOWN_SHARE), out=weight, where=unknown)
            copy = atlas.cut(grain, *there, 0)
            mean += weight * copy
            power += weight * copy**2
            total += weight
            squares += weight * weight
    mean, power, total, squares = sums.swapaxes(0, 1)
    total = np.maximum(total, 1e-4)
    return zip(mean / total, power / total, squares / total**2)


def _gaussian(sigma: float) -> np.ndarray:
    """A Gaussian's weights up to its reach, as scipy's filters have them."""
    one = np.zeros(2 * int(REACH * sigma + 0.5) + 1)
    one[len(one) // 2] = 1
    return ndimage.gaussian_filter1d(one, sigma, truncate=REACH, mode="constant")


def _islands(labels, reach):
    """Each piece with its voxels (n, 3), in parts so far apart that a Gaussian with that reach of one ends before the next's
    begins: the box of a piece that lies here and there would be mostly empty."""
    voxels = np.argwhere(labels >= 0)
    piece = labels[tuple(voxels.T)]
    order = np.argsort(piece, kind="stable")
    voxels, piece = voxels[order], piece[order]
    for some in np.split(voxels, np.flatnonzero(np.diff(piece)) + 1):
        cells = some // np.maximum(2 * reach, 1)
        cells -= cells.min(0)
        full = np.zeros(cells.max(0) + 1, bool)
        full[tuple(cells.T)] = True
        island = ndimage.label(full, np.ones((3, 3, 3)))[0][tuple(cells.T)]
        for k in range(1, int(island.max()) + 1):
            yield int(labels[tuple(some[0])]), some[island == k]


def _share_of_own(inside, fill, zone_mm: float, spacing) -> np.ndarray:
    """How much of a voxel stays the image's own: 0 in the hole, rising over the zone, 1 beyond."""
    away = edt(~inside, spacing)
    own = 0.5 - 0.5 * np.cos(np.pi * np.clip((away - 0.5 * spacing[1]) / (zone_mm + 1e-3), 0, 1))
    return np.where(inside, 0, np.where(fill, own, 1)).astype(np.float32)


def _variance_kept(mean, power, left, fill, most: float, window: float) -> np.ndarray:
    """Factor for averaged grain. Independent copies lose variance where they overlap, copies that are alike
    (a structure that goes on) don't: which, is seen in a window."""
    sides = (0.5, window, window)
    lost = blur(fill * (power - mean**2), sides)
    expected = np.maximum(blur(fill * power * (1 - left), sides), 1e-6)
    independent = np.clip(lost / expected, 0, 1)
    return 1 + independent * np.minimum(1 / np.sqrt(np.maximum(left, 0.2)) - 1, most - 1)

"""A tumour of one scan put into another: brought to its grid, sharpness and grain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import BandConfig, Filter
from TumorSynthLib.texture.exemplar.matte import ARRAYS, DISC, Matte, depth_of, ramp, sigma_of
from TumorSynthLib.texture.exemplar.place import Laid, laid_over
from TumorSynthLib.texture.exemplar.scan import blur_mm, finest_of
from TumorSynthLib.texture.exemplar.spatial import blur
from TumorSynthLib.texture.exemplar.warp import warped

FINE, COARSE = 1.2, 3.0
"""Voxels in plane: Gaussian below which the recipient's own grain is taken, not the donor's; and up to which, in soft tissue, the
recipient's makes up for what the donor's lacks. Streaks of CT are that wide."""
BESIDE = 4
"""Voxels around a new shape in the box of a matte."""
SAME_SHAPE = 0.97
"""Dice from which a lender has the wanted shape already."""
FAINT, BEYOND = (0.01, 0.04), (-5.0, -2.5)
"""Opacity up to which it is none; and voxels in plane below the contour, over which a tumour in soft tissue ends: what is farther
off belonged to the donor's surroundings, such as fascia. In lung there are spicules."""
NEAR, LOUD, BOUND = 2.0, 1.2, 3.0
"""Voxels in plane: Gaussian within which the strength of the recipient's grain is looked at; and how many times as strong as
usual it may be there, and a voxel of it: vessels are no noise."""
AROUND = (2, 16, 16)
"""Voxels beyond the matte's box in which it is seen how strong grain is there."""
CALM = {"lung": (10, 10), "CT": (50, 50, 25), "MR": (10, 10, 10)}
"""Percentile of the strength of the surroundings' grain that tumours have: of what is finest, of grain, of what is coarser.
Found on untouched tumours of training patients: in MR fascia is everywhere and noise weak, in lung vessels are."""
LUNG_HU, SOFT_HU, BODY_SHARE = -500.0, (-200.0, 150.0), 0.1
"""Tissue whose grain is looked at: lung and soft tissue in CT; in MR above this share of the 99th percentile."""
TOP, EDGES = 0.45, {"lung": 0.8, "CT": 0.05, "MR": 0.45}
"""Cycles per voxel in plane above which edges are compared, and how much of the power there that the tissue around has a tumour's
border adds to that of its inside; found like `CALM`."""
STRONGER, SHARPER = 1.5, 1.5
"""Most by which grain is made stronger, and the finest of edges sharper than in the donor's scan."""
EDGE, PIECES, LEFT = 2.2, 12, 0.01
"""Times as strong as usual that coarse grain is from which on it is an edge of what was there; most shifts by which grain from
elsewhere takes its place; share that may be left."""
STRIPES, MOST_STRIPE = 1.5, 0.08
"""Slices, Gaussian along them within which an MR scan's slices are brought to one level; most by which one is changed."""


def resampled(matte: Matte, spacing, soft_mm: float = 0.0) -> Matte:
    """A matte on another grid, (z, y, x) mm; thick slices average thin ones.

    :param soft_mm: further Gaussian in plane, for a scan that is less sharp.
    """
    spacing = tuple(float(s) for s in spacing)
    zoom = np.array(matte.spacing) / np.array(spacing)
    if not soft_mm and np.allclose(zoom, 1, atol=0.01):
        return replace(matte, spacing=spacing)
    sigma = [
        np.hypot(soft_mm / s * (axis > 0), 0.5 * np.sqrt(max((1 / z) ** 2 - 1, 0)))
        for axis, (s, z) in enumerate(zip(matte.spacing, zoom))
    ]

    def brought(values, order=3):
        smooth = ndimage.gaussian_filter(np.asarray(values, np.float32), sigma)
        return ndimage.zoom(smooth, zoom, order=order, mode="nearest", grid_mode=True)

    def contour(mask):
        soft = np.clip(depth_of(mask, matte.spacing), -4, 4).astype(np.float32)
        return ndimage.zoom(soft, zoom, order=1, mode="nearest", grid_mode=True) > 0

    weight = brought(matte.opacity)
    mixed = brought(matte.opacity * matte.colour) / np.maximum(weight, 1e-3)
    opacity = np.clip(weight, 0, 1)
    new = {
        "mask": contour(matte.mask),
        "tissue": contour(matte.tissue),
        "opacity": opacity,
        "colour": np.where(opacity > 0.05, mixed, brought(matte.colour)),
        "own": np.clip(brought(matte.own), 0, 1),
        "grain": brought(matte.grain * (matte.own > 0.5)),
        "finest": np.zeros(weight.shape, np.float32),
        "background": brought(matte.background, 1),
        "residual": np.zeros(weight.shape, np.float32),
    }
    assert set(new) == set(ARRAYS)
    return replace(matte, spacing=spacing, **new)


def grafted(
    image: np.ndarray,
    spacing,
    target: np.ndarray,
    donor: Matte,
    donor_blur_mm: float,
    is_ct: bool = True,
    level: float = 1.0,
) -> Laid:
    """A donor's tumour in another image, with the place and the shape of a mask there.

    :param image: (D, H, W), the recipient; `target` bool of its shape; `spacing` (z, y, x) mm.
    :param donor: its matte in its own scan, detached (`place.detached`); the scan's sharpness is `donor_blur_mm`.
    :param level: factor between the scans' intensities (MR has no common unit).
    """
    soft = float(np.sqrt(max(blur_mm(image, spacing) ** 2 - donor_blur_mm**2, 0)))
    matte = resampled(donor if is_ct else _without_stripes(donor), spacing, soft)
    corner = np.round(np.argwhere(target).mean(0) - np.argwhere(matte.mask).mean(0)).astype(int)
    matte, corner = _in_shape(matte, corner, target)
    wide, inner = _around(image, corner, matte.mask.shape)
    opacity = matte.opacity * ramp(matte.opacity, *FAINT)
    if not matte.in_lung:
        opacity = opacity * ramp(depth_of(matte.mask, matte.spacing), *BEYOND)
    lent = blur(level * matte.grain, sigma_of(FINE, matte.spacing))
    own = np.where(opacity > 0, matte.own, 0).astype(np.float32)
    matte = replace(
        matte, opacity=opacity.astype(np.float32), own=own, colour=level * matte.colour, grain=lent
    )
    kind = "lung" if matte.in_lung else "CT" if is_ct else "MR"
    grain, finest = _own_grain(wide, inner, matte, kind)
    matte = replace(matte, grain=lent + grain, finest=finest)
    return laid_over(image, matte, corner, is_ct, sharp=_sharpness(wide, inner, matte, kind))


def _without_stripes(matte: Matte) -> Matte:
    """The matte with slices on one level: an MR scan's slices differ in gain, in an order of their own."""
    values, solid = matte.colour + matte.grain, matte.opacity > 0.5
    counts = solid.sum((1, 2)).astype(float)
    if np.count_nonzero(counts) < 3:
        return matte
    levels = np.array([np.median(v[s]) if s.any() else 0.0 for v, s in zip(values, solid)])
    smooth = ndimage.gaussian_filter1d(levels * counts, STRIPES, mode="constant")
    smooth /= np.maximum(ndimage.gaussian_filter1d(counts, STRIPES, mode="constant"), 1e-3)
    gain = np.where(levels > 0, smooth / np.where(levels > 0, levels, 1.0), 1.0)
    gain = np.clip(gain, 1 - MOST_STRIPE, 1 + MOST_STRIPE)[:, None, None].astype(np.float32)
    return replace(matte, colour=matte.colour * gain, grain=matte.grain * gain)


def _in_shape(matte: Matte, corner: np.ndarray, target: np.ndarray) -> tuple[Matte, np.ndarray]:
    """The matte with the shape of a mask of the image, in a box that holds both; and the box's corner."""
    bounds = [(int(i.min()), int(i.max()) + 1) for i in np.nonzero(target)]
    before = [max(int(c) - a + BESIDE, 0) for (a, _), c in zip(bounds, corner)]
    after = [max(b + BESIDE - int(c) - n, 0) for (_, b), c, n in zip(bounds, corner, matte.mask.shape)]
    pads = list(zip(before, after))
    arrays = {}
    for name in ARRAYS:
        values = getattr(matte, name)
        arrays[name] = np.pad(values, pads, mode="edge" if name in ("colour", "background") else "constant")
    corner = corner - np.array(before)
    new = np.zeros(arrays["mask"].shape, bool)
    at = np.argwhere(target) - corner
    new[tuple(at[((at >= 0) & (at < new.shape)).all(1)].T)] = True
    matte = replace(matte, **arrays)
    both = (new & matte.mask).sum()
    if 2 * both > SAME_SHAPE * (new.sum() + matte.mask.sum()):
        return matte, corner
    return warped(matte, new, foreign=True), corner


def _around(image: np.ndarray, corner: np.ndarray, shape) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The image in a matte's box and around it, mirrored at its border; and where in this the box is."""
    more = np.minimum(AROUND, np.array(image.shape) - 1)
    index = [
        np.abs((np.arange(c - m, c + n + m) + s - 1) % max(2 * s - 2, 1) - (s - 1)).clip(0, s - 1)
        for c, n, m, s in zip(corner, shape, more, image.shape)
    ]
    inner = tuple(slice(int(m), int(m + n)) for m, n in zip(more, shape))
    return image[np.ix_(*index)].astype(np.float32), inner


def _own_grain(wide: np.ndarray, inner, matte: Matte, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The recipient's grain at the place, and what is finest of it (D, H, W of the matte): as strong everywhere as a tumour's is
    there, so that neither vessels nor fascia show through, nor the tumour is smoother than what is around.

    :param matte: the donor's, of whose grain there may be enough already.
    """
    level = blur(wide, sigma_of(FINE, matte.spacing))
    finest, tissue = finest_of(wide - level), _tissue(wide, matte, kind)
    bands = [finest, wide - level - finest, level - blur(level, sigma_of(COARSE, matte.spacing))]
    bands = bands[: len(CALM[kind])]
    strength = [np.sqrt(blur(band**2, sigma_of(NEAR, matte.spacing))) for band in bands]
    usuals = [float(np.percentile(near[tissue], calm)) + 1e-3 for near, calm in zip(strength, CALM[kind])]
    solid = matte.mask if matte.mask.any() else np.ones_like(matte.mask)
    source = _calm(tissue & (strength[-1] < EDGE * usuals[-1]), inner, matte.touched | solid)
    made: list[np.ndarray] = []
    for band, near, usual in zip(bands, strength, usuals):
        band, near = band[source], near[source]
        even = band * np.minimum(1, LOUD * usual / np.maximum(near, 1e-3)) ** 2
        even = np.clip(even, -BOUND * usual, BOUND * usual)
        there = float(np.sqrt(np.mean(even[solid] ** 2))) + 1e-6
        lacks = _lacks(matte, usual) if len(made) == 2 else 1.0
        made.append(lacks * min(usual / there, STRONGER) * even)
    return sum(made[1:], made[0]).astype(np.float32), made[0].astype(np.float32)


def _calm(calm: np.ndarray, inner, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices into the surroundings, each (D, H, W) of the box `inner` in them, from where its grain is taken: its own place, or
    where edges are, calm tissue of the same slice: few shifts, each that of most of what is left.

    :param calm: bool of the surroundings, where no edge is; `wanted` bool of the box.
    """
    calm = ndimage.binary_erosion(calm, DISC, border_value=1)
    source = [i + s.start for i, s in zip(np.indices(wanted.shape), inner)]
    left, size = np.zeros_like(calm), [2 * n for n in calm.shape[1:]]
    left[inner] = wanted & ~calm[inner]
    there = np.fft.rfft2(calm, size)
    for _ in range(PIECES):
        if left.sum() <= LEFT * wanted.sum():
            break
        match = np.fft.irfft2((np.conj(np.fft.rfft2(left, size)) * there).sum(0), size)
        dy, dx = (
            int(i) - n * (i >= n // 2) for i, n in zip(np.unravel_index(match.argmax(), match.shape), size)
        )
        z, y, x = np.nonzero(left)
        ok = (y + dy >= 0) & (y + dy < calm.shape[1]) & (x + dx >= 0) & (x + dx < calm.shape[2])
        z, y, x = z[ok], y[ok], x[ok]
        ok = calm[z, y + dy, x + dx]
        if not ok.any():
            break
        z, y, x = z[ok], y[ok], x[ok]
        left[z, y, x] = False
        at = tuple(i - s.start for i, s in zip((z, y, x), inner))
        source[1][at], source[2][at] = y + dy, x + dx
    return tuple(source)


def _lacks(matte: Matte, usual: float) -> float:
    """Share of a scan's coarser grain, as strong as `usual`, that the donor's doesn't have."""
    band = matte.grain - blur(matte.grain, sigma_of(COARSE, matte.spacing))
    solid = matte.mask & (matte.opacity > 0.9)
    has = float(np.sqrt(np.mean(band[solid] ** 2))) if solid.any() else 0.0
    return float(np.sqrt(max(0.0, 1 - (has / usual) ** 2)))


def _sharpness(wide: np.ndarray, inner, matte: Matte, kind: str) -> float:
    """How much of what is finest in the tumour's edges is to show: as much as real ones have in such an image."""
    around = _finer(wide)[_tissue(wide, matte, kind)]
    back = blur(wide[inner], sigma_of(1.0, matte.spacing))
    edge = (matte.opacity > 0.1) & (matte.opacity < 0.9)
    ours = _finer(matte.opacity * matte.colour + (1 - matte.opacity) * back)[edge]
    if not (edge.any() and ours.mean() > 0):
        return 0.0
    return min(float(np.sqrt(EDGES[kind] * around.mean() / ours.mean())), SHARPER)


def _finer(image: np.ndarray) -> np.ndarray:
    """Power of each voxel above `TOP`."""
    return Filter(image.shape, BandConfig(cutoff=TOP)).grain(image) ** 2


def _tissue(wide: np.ndarray, matte: Matte, kind: str) -> np.ndarray:
    """Where the tissue is that a tumour's grain and edges are compared with; all where there is none."""
    level = blur(wide, sigma_of(FINE, matte.spacing))
    if kind == "MR":
        tissue = level > BODY_SHARE * np.percentile(wide, 99)
    else:
        tissue = level < LUNG_HU if kind == "lung" else (level > SOFT_HU[0]) & (level < SOFT_HU[1])
    return tissue if tissue.any() else np.ones_like(tissue)

"""A tumour of one scan put into another: brought to its grid, sharpness and grain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import ARRAYS, Matte, depth_of, ramp, sd_of, sigma_of
from TumorSynthLib.texture.exemplar.place import Laid, laid_over
from TumorSynthLib.texture.exemplar.scan import blur_mm, finest_of, without_grain
from TumorSynthLib.texture.exemplar.spatial import blur
from TumorSynthLib.texture.exemplar.warp import warped

FINE = 1.2
"""Voxels in plane: Gaussian below which the recipient's own grain is taken, not the donor's. Streaks of CT are that wide."""
BESIDE = 4
"""Voxels around a new shape in the box of a matte."""
SAME_SHAPE = 0.97
"""Dice from which a lender has the wanted shape already."""
BOUND_SD = 3.0
"""Robust standard deviations that the recipient's grain is held to: vessels are no noise."""
NEAR = 2.0
"""Voxels in plane: Gaussian within which the strength of the recipient's grain is looked at."""
LOUD_SD = {"CT": 2.0, "MR": 1.0}
"""Robust standard deviations from which it is no grain but fascia and the edges of bone, which would show through a new tumour.
In MR fascia is everywhere and noise weak."""


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
    matte = resampled(donor, spacing, soft)
    corner = np.round(np.argwhere(target).mean(0) - np.argwhere(matte.mask).mean(0)).astype(int)
    matte, corner = _in_shape(matte, corner, target)
    own = _own_grain(image, corner, matte, is_ct)
    grain = level * blur(matte.grain, sigma_of(FINE, matte.spacing)) + own
    # Nothing finer than the recipient's scan shows.
    opacity = np.clip(without_grain(matte.opacity), 0, 1)
    opacity = (opacity * ramp(opacity, 0.0, 0.02)).astype(np.float32)
    colour = (level * without_grain(matte.colour)).astype(np.float32)
    matte = replace(matte, opacity=opacity, colour=colour, grain=grain, finest=finest_of(own))
    return laid_over(image, matte, corner, is_ct)


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
    return warped(matte, new), corner


def _own_grain(image: np.ndarray, corner: np.ndarray, matte: Matte, is_ct: bool) -> np.ndarray:
    """The recipient's fine grain at the place (D, H, W of the matte), without what is no noise."""
    index = [
        np.abs((np.arange(c, c + n) + s - 1) % (2 * s - 2) - (s - 1)) if s > 1 else np.zeros(n, int)
        for c, n, s in zip(corner, matte.mask.shape, image.shape)
    ]  # mirrored at the image's border
    index = [np.clip(i, 0, s - 1) for i, s in zip(index, image.shape)]
    here = image[np.ix_(*index)].astype(np.float32)
    rest = here - blur(here, sigma_of(FINE, matte.spacing))
    usual = sd_of(rest)
    near = np.sqrt(blur(rest**2, sigma_of(NEAR, matte.spacing)))
    rest = rest * np.minimum(1, LOUD_SD["CT" if is_ct else "MR"] * usual / np.maximum(near, 1e-3)) ** 2
    return BOUND_SD * usual * np.tanh(rest / (BOUND_SD * usual))

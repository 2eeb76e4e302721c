"""How sharp a scan is, and what is finer than its structures: both decide how foreign tissue has to look in it.

Arrays are (D, H, W), the axis of the slices first; spacing is (z, y, x) mm.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import Filter


def grain_of(values: np.ndarray) -> np.ndarray:
    """What is finer than structures of a scan, slice by slice (`bands.BandConfig.cutoff`)."""
    return Filter(values.shape).grain(values)


def without_grain(values: np.ndarray, times: int = 2) -> np.ndarray:
    """What is coarser than the cutoff."""
    for _ in range(times):
        values = values - grain_of(values)
    return values


def finest_of(values: np.ndarray) -> np.ndarray:
    """What `without_grain` takes away: grain, and what of coarser detail shows above the cutoff."""
    return values - without_grain(values)


def blur_mm(image: np.ndarray, spacing, seed: int = 0) -> float:
    """Gaussian in mm in plane that the sharpest edges show: step / (slope * sqrt(2 pi)), without the difference's own."""
    slices = image[:: max(1, len(image) // 24)].astype(np.float32)
    smooth = ndimage.gaussian_filter(slices, (0, 0.5, 0.5))
    gy, gx = np.gradient(smooth, axis=1), np.gradient(smooth, axis=2)
    slope = np.hypot(gy, gx)
    at = np.argwhere(slope > np.percentile(slope, 97))
    least = 0.8 * spacing[1]
    if not len(at):
        return least
    at = at[np.random.default_rng(seed).permutation(len(at))[:6000]]
    normal = np.stack([gy, gx])[(slice(None), *at.T)] / slope[tuple(at.T)]
    t = np.linspace(-5, 5, 41)
    lines = [
        at[:, 0, None] + 0 * t,
        at[:, 1, None] + normal[0][:, None] * t,
        at[:, 2, None] + normal[1][:, None] * t,
    ]
    profile = ndimage.map_coordinates(smooth, np.stack(lines), order=1, mode="nearest")
    low, high = profile[:, :8], profile[:, -8:]
    height, steepest = (
        profile[:, -6:].mean(1) - profile[:, :6].mean(1),
        np.diff(profile, axis=1).max(1) / 0.25,
    )
    edge = np.maximum(high.std(1), low.std(1)) < 0.08 * height
    edge &= np.abs(profile[:, 20] - (profile[:, 0] + profile[:, -1]) / 2) < 0.15 * height
    if edge.sum() < 20:
        return least
    sigma = (height / steepest)[edge] / np.sqrt(2 * np.pi)
    return float(np.sqrt(max(np.percentile(sigma, 25) ** 2 - 0.25 - 0.08, 0.16))) * spacing[1]


AIR_SHARE, BRIGHT, SAME_LEVEL = 0.1, 95, 0.1
"""MR: what is below this share of the 99th percentile is air; the percentile of the rest that is compared between scans (in a T1
it is fat); logarithm of the ratio up to which two scans are on one level."""


def level_between(image: np.ndarray, other: np.ndarray) -> float:
    """Factor that brings the intensities of another MR scan to an image's: MR has no common unit. 1 for scans on one level."""
    bright = []
    for values in (image, other):
        some = np.asarray(values[::2, ::2, ::2], np.float32)
        body = some[some > AIR_SHARE * np.percentile(some, 99)]
        bright.append(float(np.percentile(body, BRIGHT)) if len(body) else 1.0)
    factor = bright[0] / bright[1] if min(bright) > 0 else 1.0
    return factor if abs(np.log(factor)) > SAME_LEVEL else 1.0

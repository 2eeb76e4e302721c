"""Tumours that no patient has: real ones with another texture (`vary`), and made-up ones in healthy tissue (`procedural`).

They spread training over more of feature space than the patients do; none of them is ever measured as a real tumour.
Arrays are (z, y, x), spacings (x, y, z) in mm, intensities those of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TumorSynthLib.placement import BODY_HU, BODY_SHARE, OUTER_AIR_HU

SPREAD = 3.0  # robust standard deviations of the real tumours that level and contrast of made-up ones cover
GRAIN = 4.0  # least noise, in HU or grey levels
FILLED = 0.8  # share of a crop's extent that a placed mask takes at most
FITS = 0.9  # share of a placed mask that must lie in tissue; the rest is cut off
SMALLEST = 40  # voxels, the least that features are measured on


def field(shape: tuple[int, ...], correlation, spacing, rng) -> np.ndarray:
    """Gaussian random field of unit variance; correlation length in mm, one number or (x, y, z)."""
    sigma = np.broadcast_to(correlation, 3)[::-1] / np.array(spacing[::-1])
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / max(noise.std(), 1e-6)


def vary(image: np.ndarray, mask: np.ndarray, plan, spread: float, rng) -> np.ndarray:
    """A copy of image (z, y, x) whose tumour differs in level, contrast, smoothness, noise, skew, or is a random field.

    Amplitudes follow the tumour's interior, so that a border with partial volume doesn't pass for texture.
    """
    depth = ndimage.distance_transform_edt(mask)
    inside = mask & (depth > min(2.0, 0.6 * depth.max()))
    mean, deviation = image[inside].mean(), max(image[inside].std(), 6.0)
    residual = np.where(mask, image - mean, 0.0)
    smooth = _smooth(residual, mask, np.array([0.5, 1.0, 1.0]))
    grain = max((residual - smooth)[inside].std(), GRAIN)
    if rng.random() < 0.25:
        residual = _random_fields(mask, plan, deviation, rng)
    if rng.random() < 0.5:
        width = rng.uniform(0.2, 1.4) * np.array([0.4, 1, 1])
        softer = _smooth(residual, mask, width)
        residual = softer if rng.random() < 0.7 else residual + rng.uniform(0.2, 0.8) * (residual - softer)
    if rng.random() < 0.35:
        skewed = np.sinh(
            rng.uniform(0.2, 0.8) * np.clip(residual / deviation + rng.uniform(-0.5, 0.5), -4, 4)
        )
        residual = skewed * deviation
    residual = residual * np.exp(rng.uniform(np.log(0.45), np.log(2.0)))
    if rng.random() < 0.6:
        noise = field(image.shape, rng.uniform(0.05, 1.5), plan.spacing, rng)
        residual = residual + noise * grain * rng.uniform(0.3, 2.5)
    shift = rng.normal(0, spread) if rng.random() < 0.7 else 0.0
    edge = np.clip(depth / 2, 0, 1)  # the outermost voxels keep half of their partial volume
    blended = np.where(mask, edge * (mean + shift + residual) + (1 - edge) * image, image)
    return np.clip(np.rint(blended), *plan.range)


def _smooth(residual, mask, width):
    """Gaussian smoothing (voxels) that sees only the mask."""
    weight = ndimage.gaussian_filter(mask.astype(np.float64), width)
    return ndimage.gaussian_filter(np.where(mask, residual, 0.0), width) / np.maximum(weight, 1e-3)


def _random_fields(mask, plan, deviation, rng):
    """Mixture of two random fields, with a gradient from rim to core and a necrotic part now and then."""
    depth = ndimage.distance_transform_edt(mask, plan.spacing[::-1])
    depth = depth / max(depth.max(), 1e-3)
    a, b = (
        field(mask.shape, np.exp(rng.uniform(np.log(0.6), np.log(8))), plan.spacing, rng) for _ in range(2)
    )
    mix = rng.random()
    out = np.sqrt(mix) * a + np.sqrt(1 - mix) * b
    if rng.random() < 0.6:
        out = out + rng.uniform(-2.5, 2.5) * (depth - 0.5)
    if rng.random() < 0.3:
        out = out + rng.uniform(-3, 3) / (1 + np.exp(-6 * (a + rng.uniform(-1, 1))))
    return deviation * out


@dataclass(frozen=True)
class Levels:
    """Where the levels and contrasts of the real tumours lie: centre and robust deviation of mean and of log SD.

    `limits` are the lowest and highest intensity of their modality's crops, `air` what is no tissue below.
    """

    mean: tuple[float, float]
    log_sd: tuple[float, float]
    limits: tuple[float, float]
    air: float

    @classmethod
    def of(cls, means: np.ndarray, variances: np.ndarray, limits: tuple[float, float], air: float) -> Levels:
        """From first-order Mean and Variance of real tumours."""
        return cls(_robust(means), _robust(np.log(np.sqrt(np.maximum(variances, 1.0)))), limits, air)

    def draw(self, rng) -> tuple[float, float]:
        """Mean and SD within `SPREAD` deviations, uniformly: the edges of feature space as often as its middle."""
        mean = self.mean[0] + SPREAD * self.mean[1] * rng.uniform(-1, 1)
        log_sd = self.log_sd[0] + SPREAD * self.log_sd[1] * rng.uniform(-1, 1)
        return float(np.clip(mean, *self.limits)), float(np.exp(log_sd))


def _robust(values: np.ndarray) -> tuple[float, float]:
    """Median, and half the spread of 68 %."""
    low, middle, high = np.percentile(values, [16, 50, 84])
    return float(middle), float(max((high - low) / 2, 1e-3))


def air_level(around: np.ndarray, ct: bool) -> float:
    """Intensity below which there is no tissue to put a tumour in, from the voxels around real tumours."""
    if not ct:
        low = float(around.min())
        return low + BODY_SHARE * (float(np.percentile(around, 99)) - low)
    return OUTER_AIR_HU if np.median(around) < BODY_HU else BODY_HU  # in the lung, or in soft tissue


def tissue(image: np.ndarray, air: float) -> np.ndarray:
    """(z, y, x) bool: not air outside the body, nor the constant background of a masked image."""
    return ndimage.gaussian_filter(image.astype(np.float32), (0.5, 1.0, 1.0)) > air


def fitted(mask: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A whole tumour's mask in the middle of an array of `shape` (z, y, x), made smaller where it is too large."""
    places = np.argwhere(mask)
    low, high = places.min(0), places.max(0) + 1
    factor = min(1.0, float((FILLED * np.array(shape) / (high - low)).min()))
    # Output voxel o shows input voxel (o - centre of the output) / factor + centre of the tumour.
    offset = (low + high - 1) / 2 - (np.array(shape) - 1) / 2 / factor
    offset = np.floor(offset) if factor == 1 else offset  # whole voxels keep the mask as it is
    soft = ndimage.affine_transform(mask.astype(np.float32), np.full(3, 1 / factor), offset, shape, order=1)
    return soft > 0.5


def placed(mask: np.ndarray, allowed: np.ndarray, rng, tries: int = 20) -> np.ndarray | None:
    """A real tumour's mask (z, y, x), turned, scaled and moved to lie where `allowed`; None where it doesn't fit."""
    for _ in range(tries):
        shape = np.flip(
            np.rot90(mask, int(rng.integers(4)), (1, 2)), tuple(a for a in (0, 2) if rng.random() < 0.5)
        )
        if shape.shape != allowed.shape or not shape.any():
            continue
        shape = _scaled(shape, rng.uniform(0.45, 1.25))
        room = np.array(shape.shape) // 3
        shape = _shifted(shape, rng.integers(-room, room + 1))
        inside = shape & allowed
        if inside.sum() >= max(SMALLEST, FITS * shape.sum()):
            return inside
    return None


def _scaled(mask: np.ndarray, factor: float) -> np.ndarray:
    """The mask made larger or smaller about its centre, in an array of the same shape."""
    centre = np.argwhere(mask).mean(0)
    soft = ndimage.affine_transform(
        mask.astype(np.float32), np.full(3, 1 / factor), centre * (1 - 1 / factor), order=1
    )
    return soft > 0.5


def _shifted(mask: np.ndarray, steps) -> np.ndarray:
    """The mask moved by whole voxels; what leaves the array is lost."""
    moved = np.zeros_like(mask)
    to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(steps, mask.shape))
    source = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in zip(steps, mask.shape))
    moved[to] = mask[source]
    return moved


def procedural(image: np.ndarray, mask: np.ndarray, spacing, levels: Levels, rng) -> np.ndarray:
    """A copy of a healthy image with a made-up tumour in the mask; nothing outside it changes."""
    mean, deviation = levels.draw(rng)
    depth = ndimage.distance_transform_edt(mask, spacing[::-1])
    pattern = _pattern(mask, depth, spacing, rng)
    middle = mask & (depth >= min(np.median(depth[mask]), 2 * spacing[0]))
    pattern = (pattern - pattern[middle].mean()) / max(pattern[middle].std(), 1e-6)
    if rng.random() < 0.4:  # smooth inside: the border with its partial volume makes the spread
        deviation *= np.exp(rng.uniform(np.log(0.04), 0))
    made = (
        mean
        + deviation * pattern
        + (rng.uniform(0.4, 1.2) * _grain(image, mask) if rng.random() < 0.7 else 0)
    )
    weight = _edge(mask, depth, spacing, rng)
    blended = weight * made + (1 - weight) * image
    return np.where(mask, np.clip(np.rint(blended), *levels.limits), image)


def _grain(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The scanner's noise and streaks: what is finer than two voxels in the healthy image, without its edges and vessels."""
    fine = image - ndimage.gaussian_filter(image, (0.5, 1.0, 1.0))
    limit = 3 * 1.48 * float(np.median(np.abs(fine[mask])))
    return np.clip(fine, -limit, limit)


def _pattern(mask, depth, spacing, rng) -> np.ndarray:
    """Arrangement of a made-up tumour, in units of its own: two random fields, and by chance core, rim, skew and noise."""
    largest = max(depth.max(), spacing[0])
    stretch = np.exp(rng.uniform(-0.6, 0.6, 3))
    lengths = np.exp(rng.uniform(np.log(0.6 * spacing[0]), np.log(min(20.0, 2 * largest + 4)), 2))
    a, b = (field(mask.shape, length * stretch, spacing, rng) for length in lengths)
    share = rng.random()
    out = np.sqrt(share) * a + np.sqrt(1 - share) * b
    if rng.random() < 0.3:  # one tail longer than the other, or both
        out = np.sinh(rng.uniform(0.3, 0.9) * (out + rng.uniform(-1.5, 1.5)))
    if rng.random() < 0.35:  # necrosis: the core, with an uneven border
        border = rng.uniform(0.3, 0.8) * largest
        uneven = 0.25 * largest * field(mask.shape, 0.5 * largest, spacing, rng)
        core = 1 / (1 + np.exp(-(depth + uneven - border) / rng.uniform(0.3, 1.0)))
        out = out * (1 - rng.uniform(0.3, 0.9) * core) + rng.uniform(-4, 4) * core
    if rng.random() < 0.35:  # enhancing rim
        out = out + rng.uniform(-1, 4) * np.exp(-(((depth - rng.uniform(0, 2)) / rng.uniform(0.8, 3)) ** 2))
    if rng.random() < 0.5:
        noise = field(mask.shape, rng.uniform(0.05, 1.0) * spacing[0], spacing, rng)
        out = out + np.exp(rng.uniform(np.log(0.05), np.log(2))) * out[mask].std() * noise
    return out


def _edge(mask, depth, spacing, rng) -> np.ndarray:
    """Weight of the tumour (0 to 1): a sharp border, one of partial volume, or one that infiltrates its surroundings."""
    kind = rng.random()
    if kind < 0.25:
        return mask.astype(float)
    if kind < 0.7:
        return np.clip((depth - 0.3 * spacing[0]) / (rng.uniform(0.5, 2.0) * spacing[0]), 0.15, 1)
    width = rng.uniform(0.2, 0.7) * max(depth.max(), spacing[0])
    uneven = depth + 0.5 * width * field(mask.shape, rng.uniform(1, 5), spacing, rng)
    return np.clip(uneven / width, 0.1, 1)

"""A scan's noise, and a tumour as a scan with other noise would show it.

Noise is what a scan shows where it is smoothest: in healthy tissue around a tumour, and in the tumour. It is told by its strength
and by how far and which way it reaches in plane (streaks). Arrays are (D, H, W), the axis of the slices first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage


@dataclass(frozen=True)
class NoiseConfig:
    """How noise is told from texture.

    :param detail: in-plane voxels, the Gaussian that parts detail from level.
    :param local: in-plane voxels, the Gaussian over which a standard deviation is local; slices are seen one by one.
    :param quiet: share of the tumour, and of what is around it, the smoothest, that tells its noise.
    :param missed: times that noise is stronger than where it was seen, which was chosen for being smooth.
    :param uneven: times the noise around a tumour that its own may have: a CT's noise grows towards the middle of the body.
    :param ring: in-plane voxels from a tumour between which healthy tissue is looked at.
    :param least: voxels of an area that tell anything.
    :param lags: in-plane voxels to each side over which noise is compared with itself.
    :param size: of spectra. :param bound: standard deviations up to which detail is noise.
    :param margin: of noise, up to which the detail of a place is all noise.
    :param most: factor of noise at most. :param spectrum: of its power at one frequency, at least and at most.
    """

    detail: float = 2.5
    local: float = 4.0
    quiet: tuple[float, float] = (0.6, 0.33)
    missed: float = 1.1
    uneven: float = 1.4
    ring: tuple[int, int] = (3, 25)
    least: int = 300
    lags: int = 6
    size: int = 32
    bound: float = 3.0
    margin: float = 1.2
    most: float = 10.0
    spectrum: tuple[float, float] = (0.05, 20.0)


CONFIG = NoiseConfig()


@dataclass(frozen=True)
class Noise:
    """:param sd: standard deviation in intensities; `power` (size, size) spectrum in plane, of mean 1."""

    sd: float
    power: np.ndarray


def noise_of(image: np.ndarray, mask: np.ndarray, healthy: np.ndarray, config: NoiseConfig = CONFIG) -> Noise:
    """The noise of a scan in and around a tumour.

    :param image: (D, H, W) of the tumour's slices with its surroundings; `mask` bool, `healthy` bool: tissue outside it.
    """
    far = ndimage.distance_transform_edt(~mask, (1e3, 1.0, 1.0))
    inside = ndimage.binary_erosion(mask, np.ones((1, 3, 3), bool))
    own = _seen(image, inside if inside.sum() >= config.least else mask, config.quiet[0], config)
    ring = healthy & (far > config.ring[0]) & (far <= config.ring[1])
    if ring.sum() < config.least:
        return own
    around = _seen(image, ring, config.quiet[1], config)
    if own.sd <= config.uneven * around.sd:
        return own
    return Noise(config.uneven * around.sd, around.power)


def _seen(image: np.ndarray, area: np.ndarray, share: float, c: NoiseConfig) -> Noise:
    """Noise of the smoothest part of an area."""
    detail = image - _mean(image, area, c.detail)
    local = _mean(detail**2, area, c.local)
    quiet = area & (local <= np.quantile(local[area], share))
    values = detail[quiet]
    bound = 3 * 1.4826 * float(np.median(np.abs(values))) + 1e-6
    held = np.where(quiet, np.clip(detail, -bound, bound), 0.0).astype(np.float32)
    shape = [fft.next_fast_len(s + c.lags, real=True) for s in area.shape[1:]]
    found, count = (
        fft.irfft2((np.abs(fft.rfft2(a, shape)) ** 2).sum(0), shape) for a in (held, quiet.astype(np.float32))
    )
    steps = np.arange(-c.lags, c.lags + 1)
    covariances = found[np.ix_(steps, steps)] / np.maximum(count[np.ix_(steps, steps)], 1)
    taper = np.hanning(2 * c.lags + 3)[1:-1]
    wide = np.zeros((c.size, c.size))
    wide[np.ix_(steps, steps)] = covariances * np.outer(taper, taper)
    power = fft.fft2(wide).real
    power = np.maximum(power, 0.002 * power.max())
    sd = c.missed * float(np.sqrt(np.mean(held[quiet].astype(np.float64) ** 2))) + 1e-6
    return Noise(sd, power / power.mean())


def _mean(values: np.ndarray, area: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean within an area, slice by slice."""
    width = (0, sigma, sigma)
    weight = ndimage.gaussian_filter(area.astype(np.float32), width, truncate=3.0)
    inside = ndimage.gaussian_filter(np.where(area, values, 0).astype(np.float32), width, truncate=3.0)
    return inside / np.maximum(weight, 1e-4)


def as_noisy(
    image: np.ndarray, mask: np.ndarray, own: Noise, other: Noise, config: NoiseConfig = CONFIG
) -> np.ndarray:
    """(D, H, W): an image whose tumour shows another scan's noise in place of its own; edges and texture stay."""
    c = config
    level = _mean(image, mask, c.detail)
    detail = np.where(mask, image - level, 0.0)
    local = np.sqrt(np.maximum(_mean(detail**2, mask, c.local), 1e-12))
    ratio = float(np.clip(other.sd / own.sd, 1 / c.most, c.most))
    share = np.minimum(1.0, c.margin * own.sd / local) ** 2  # of the detail's power that is noise
    part = share
    if abs(ratio - 1) > 1e-3:  # so much of the detail that its power becomes what it is with the other noise
        part = (np.sqrt(np.maximum(1 + (ratio**2 - 1) * share, 0)) - 1) / (ratio - 1)
    bound = c.bound * own.sd
    part = part * np.clip(detail, -bound, bound)  # edges stay
    gain = np.clip(ratio * np.sqrt(np.clip(other.power / own.power, *c.spectrum)), 1 / c.most, c.most)
    turned = _filtered(part, gain, c)
    strength, now = (float(np.sqrt(np.mean(a[mask] ** 2))) for a in (part, turned))
    turned *= ratio * strength / max(now, 1e-9)
    return np.where(mask, image - part + turned, image).astype(np.float32)


def _filtered(values: np.ndarray, gain: np.ndarray, c: NoiseConfig) -> np.ndarray:
    steps = np.arange(-c.lags, c.lags + 1)
    kernel = fft.ifft2(gain).real[np.ix_(steps, steps)]
    kernel = kernel * np.outer(*[np.hanning(2 * c.lags + 3)[1:-1]] * 2)
    return ndimage.convolve(values, kernel[None], mode="constant")

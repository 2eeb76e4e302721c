"""What of a tumour's bands is structure, and what the scan's noise: it is made stronger only as far as `strength` says.

Noise of a CT isn't white: each band of size has its own. How much of it a scan holds is read off the quietest places around the
tumour, or in it where those are quieter; what of a band stands out of that, place by place, is structure (a local Wiener filter).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TumorSynthLib.resampling import bounding_box


@dataclass(frozen=True)
class StructureConfig:
    """How structure is told from noise.

    :param around: in-plane voxels around the tumour (the same mm across) in which the noise is looked for.
    :param near: in-plane voxels off the tumour that are left out, as its edge is no noise.
    :param window: in-plane voxels, the Gaussian within which a band's power is local.
    :param quiet: per cent of the places, by their power, up to which one is quiet.
    :param empty: share of the tumour's grain, below which a place is empty (air, padding) and tells no noise.
    :param above: of the noise's power, how much a place must have for any of it to be structure.
    """

    around: float = 16.0
    near: float = 3.0
    window: float = 2.5
    quiet: float = 25.0
    empty: float = 0.2
    above: float = 2.0


CONFIG = StructureConfig()


def structure_of(bands, config: StructureConfig = CONFIG) -> np.ndarray:
    """(3, n) what of the fine, medium and coarse band (`bands.BANDS`) is structure.

    :param bands: `bands.Bands` of a tumour.
    """
    power = np.stack([_power(bands, part, config) for part in bands.parts[1:4]])
    noise = np.percentile(power, config.quiet, axis=1)
    around = _around(bands, config)
    if around is not None:
        noise = np.minimum(noise, around)
    noisy = np.sqrt(config.above * noise[:, None] / np.maximum(power, 1e-9))
    return bands.parts[1:4] * np.clip(1 - noisy, 0, 1)


def _power(bands, part: np.ndarray, config: StructureConfig) -> np.ndarray:
    """(n,) local mean square of a band (n,) within the tumour."""
    box = np.zeros(bands.mask.shape)
    box[bands.mask] = part**2
    return bands.smooth(box, config.window)[bands.mask]


def _around(bands, config: StructureConfig) -> np.ndarray | None:
    """(3,) mean square of the three bands in quiet places around; None where nothing is around."""
    image, mask = bands.whole
    wide = bands.voxel / bands.spacing
    reach = np.ceil(config.around * wide).astype(int)
    box = tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(bounding_box(mask), reach))
    image, mask = np.asarray(image[box], np.float32), mask[box]
    off = ndimage.distance_transform_edt(~mask, wide**-1)
    where = (off > config.near) & (off <= config.around)
    left = image - type(bands.filter)(image.shape, bands.config).grain(image)
    squares = [(image - left) ** 2]
    for sigma in bands.config.sigmas:
        low = ndimage.gaussian_filter(left, sigma * wide, truncate=3.0)
        squares.append((left - low) ** 2)
        left = low
    grain, *power = (ndimage.gaussian_filter(s, config.window * wide, truncate=3.0)[where] for s in squares)
    kept = grain > config.empty**2 * np.mean(bands.parts[0] ** 2)
    if not kept.any():
        return None
    return np.array([np.percentile(p[kept], config.quiet) for p in power])

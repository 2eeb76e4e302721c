"""A moved tumour keeps its own voxels, all but its rim."""

from __future__ import annotations

import numpy as np

from TumorSynthLib.region import Region
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.volume import Volume

RIM_VOXELS = 2.5  # depth, in plane, over which a moved tumour's own voxels take over from the network's rim


def carried(volume: Volume, mask: np.ndarray, cleaned: Volume, shift) -> np.ndarray:
    """The cleaned image with the tumour's own voxels at their new place, sharp-edged."""
    box = bounding_box(mask)
    target = tuple(slice(s.start + d, s.stop + d) for s, d in zip(box, shift))
    array = cleaned.array.copy()
    array[target][mask[box]] = volume.array[box][mask[box]]
    return array


def with_rim(region: Region, carried: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Working-grid sample whose inside is the carried tumour's (native box), blended towards the border of the mask."""
    from scipy import ndimage

    native_mm = region.frame.take(region.volume.spacing[::-1])
    depth = ndimage.distance_transform_edt(np.pad(region.native_mask, 1), native_mm)[1:-1, 1:-1, 1:-1]
    weight = np.clip(depth / (RIM_VOXELS * min(native_mm[1:])), 0.0, 1.0)
    blend = weight * carried + (1 - weight) * region.to_native(sample)
    working = region.measure(blend.astype(np.float32))
    return np.where(region.mask, working, region.array).astype(np.float32)

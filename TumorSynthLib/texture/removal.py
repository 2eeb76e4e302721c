"""What a removal takes for healthy: which voxels around the tumour, which intensities, and how its border blends.

The voxels around a contour hold some tumour (partial volume). Where they do, a removal doesn't take them for context, or it
would continue them inwards; they keep their values in the result.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from TumorSynthLib.texture.context import IntensityMap, fill

RIM = np.ones((1, 3, 3), bool)
RIM_DEPTH = 2  # voxels in plane
RIM_SLACK = 0.25
AIR_HU, AIR_SHARE = -500.0, 0.1  # in CT, and of the 99th percentile in MR: darker voxels are air
AIR_RING, AIR_MOST = 3, 0.3  # voxels around a tumour, of which fewer are air where it lies in tissue
DETAIL = 0.5  # share of a draw's own texture in a removal; the rest is what is expected there, which no draw can hit


def tainted_rim(image: np.ndarray, mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Voxels around the mask that hold some tumour: brighter or darker than all that lies a little farther out.

    image (D, H, W), mask and valid bool. Of the `RIM_DEPTH` voxels around the mask in plane, those count as healthy whose
    value is within the range, widened by `RIM_SLACK`, of the voxels of the slice that lie near them beyond that depth.
    """
    rim = ndimage.binary_dilation(mask, RIM, iterations=RIM_DEPTH) & valid & ~mask
    beyond = valid & ~mask & ~rim
    near = np.ones((1, 4 * RIM_DEPTH + 1, 4 * RIM_DEPTH + 1), bool)
    high = ndimage.maximum_filter(np.where(beyond, image, -np.inf), footprint=near)
    low = ndimage.minimum_filter(np.where(beyond, image, np.inf), footprint=near)
    slack = RIM_SLACK * np.maximum(high - low, 0.0)
    return rim & ~((image >= low - slack) & (image <= high + slack))


def without_air(image: np.ndarray, mask: np.ndarray, valid: np.ndarray, ct: bool) -> np.ndarray:
    """Voxels (D, H, W) bool that say what healthy tissue can be: not the air beyond the skin of a tumour that lies in tissue.

    From beside a tumour under the skin, air once ran into the middle of it. In the lung all stays as it is.

    :param image: (D, H, W) intensities; `ct`: they are HU.
    """
    known = image[valid & ~mask]
    if not len(known):
        return valid
    air = image < (AIR_HU if ct else AIR_SHARE * np.percentile(known, 99))
    ring = ndimage.binary_dilation(mask, np.ones((3, 3, 3), bool), AIR_RING) & valid & ~mask
    if not ring.any() or air[ring].mean() > AIR_MOST:
        return valid
    return valid & ~(air & ~mask)


def continued(x: torch.Tensor, hole: torch.Tensor, intensity: IntensityMap) -> torch.Tensor:
    """x (1, 1, D, H, W) in the network's range with the hole filled smoothly from around it.

    MR is filled in its own intensities: the map bends bright fat, whose slopes then lead astray. CT is filled in the map's
    range, which holds air and bone down.
    """
    if intensity.limits[0] < AIR_HU:
        return torch.where(hole, fill(x, ~hole), x)
    smooth = intensity.forward(fill(intensity.inverse(x), ~hole))
    return torch.where(hole, smooth.to(x.dtype), x)


def surrounding_range(x: torch.Tensor, hole: torch.Tensor, known: torch.Tensor) -> tuple[float, float]:
    """5th and 95th percentile of what is known within eight voxels (two across slices) of the hole.

    Healthy tissue is neither darker nor brighter: a bright rim all around once drew air into the middle of a removal. Hidden
    healthy places would be met better with a wider range, a more tolerant rim and a filling that reaches farther; real
    tumours would then leave a bright blob.
    """
    near = F.max_pool3d(hole.float(), (5, 17, 17), 1, (2, 8, 8)) > 0
    around = x[near & known]
    if len(around) < 20:
        return -torch.inf, torch.inf
    low, high = (float(torch.kthvalue(around, max(1, round(q * len(around)))).values) for q in (0.05, 0.95))
    return low, high


def blend_rim(out: np.ndarray, array: np.ndarray, mask: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Leads the outermost one or two voxels of a removal over to what stays around it, so that no line shows.

    out, array (D, H, W) drawn and given intensities; rim the voxels around the mask that were drawn as well.
    """
    if not rim.any():
        return out
    width = (0.3, 0.8, 0.8)
    excess = ndimage.gaussian_filter(np.where(rim, array - out, 0.0), width)
    weight = ndimage.gaussian_filter(rim.astype(np.float32), width)
    depth = ndimage.distance_transform_edt(mask, (2.0, 1.0, 1.0))
    return out + np.exp(-((depth / 1.3) ** 2)) * excess / np.maximum(weight, 1e-3) * mask

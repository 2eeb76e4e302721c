"""What a removal takes for healthy: which voxels around the tumour, which intensities, and how its border blends.

The voxels around a contour hold some tumour (partial volume). Where they do, a removal doesn't take them for context, or it
would continue them inwards; they keep their values in the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from TumorSynthLib.texture.context import Filling, IntensityMap, fill

RIM = np.ones((1, 3, 3), bool)
RIM_DEPTH = 2  # voxels in plane
RIM_SLACK = 0.25
RIM_SHARE = (
    0.6  # of the voxels next to the mask are brighter (or darker) than farther out, or they hold no tumour
)
AIR_HU, AIR_SHARE = -500.0, 0.1  # in CT, and of the 99th percentile in MR: darker voxels are air
AIR_RING, AIR_MOST = 3, 0.3  # voxels around a tumour, of which fewer are air where it lies in tissue
NEAR, FAR_OUT, FEW = (
    6,
    2.5,
    0.15,
)  # voxels around a hole; interquartile ranges beyond quartiles; share of the voxels there
CT_FILLING, MR_FILLING = (
    Filling((0.05, 1.0, 0.0)),
    Filling((0.0, 1.0, 1.0)),
)  # noise is drawn level, bends are carried on
TAIL, CLEAN_TAIL = 0.05, 0.01  # share of the voxels around that a removal's range leaves out at either end
SEEN = (4, 12, 12)  # voxels around a hole that its filling looks at
LEAST, MOST, PATIENCE = 30, 150, 10_000_000  # iterations of a filling, and times voxels
DETAIL = 0.35  # share of a draw's own texture in a removal; the rest is what is expected there, which no draw can hit


@dataclass(frozen=True)
class Surroundings:
    """What a removal goes by.

    :param hole: (D, H, W) bool, the mask and the voxels around it that hold some tumour.
    :param tissue: (D, H, W) bool, what is healthy, and of the kind that the hole is filled with.
    :param clean: no voxel around the mask holds any tumour.
    """

    hole: np.ndarray
    tissue: np.ndarray
    clean: bool

    @classmethod
    def of(
        cls, array: np.ndarray, mask: np.ndarray, valid: np.ndarray, intensity: IntensityMap
    ) -> Surroundings:
        """array (D, H, W) intensities, mask and valid (inside the image) bool."""
        ct = intensity.is_ct
        rim = tainted_rim(intensity.forward(array), mask, valid)
        hole = mask | rim
        tissue = without_air(array, hole, valid, ct)
        tissue = without_strangers(array, hole, tissue) if ct else tissue
        return cls(hole, tissue & ~hole, not rim.any())


def tainted_rim(image: np.ndarray, mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Voxels around the mask that hold some tumour: brighter or darker than all that lies a little farther out.

    image (D, H, W), mask and valid bool. Of the `RIM_DEPTH` voxels around the mask in plane, those count as healthy whose
    value is within the range, widened by `RIM_SLACK`, of the voxels of the slice that lie near them beyond that depth. All
    of them do where hardly more voxels next to the mask are brighter than those farther out than are darker.
    """
    rim = ndimage.binary_dilation(mask, RIM, iterations=RIM_DEPTH) & valid & ~mask
    beyond = valid & ~mask & ~rim
    near = np.ones((1, 4 * RIM_DEPTH + 1, 4 * RIM_DEPTH + 1), bool)
    high = ndimage.maximum_filter(np.where(beyond, image, -np.inf), footprint=near)
    low = ndimage.minimum_filter(np.where(beyond, image, np.inf), footprint=near)
    slack = RIM_SLACK * np.maximum(high - low, 0.0)
    first, farther = ndimage.binary_dilation(mask, RIM) & rim, beyond & ~ndimage.binary_dilation(rim, RIM)
    if first.any() and farther.any():
        at = ndimage.distance_transform_edt(
            ~farther, (100, 1, 1), return_distances=False, return_indices=True
        )
        excess = (image - image[tuple(at)])[first]
        if max((excess > 0).mean(), (excess < 0).mean()) < RIM_SHARE:
            return np.zeros_like(rim)
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


def without_strangers(image: np.ndarray, mask: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """`tissue` (D, H, W) bool without the few voxels around the mask that are of another kind than the rest: bone, a vessel.

    Bone that touches a tumour in muscle once shone far into the place where the tumour had been. In CT only: fat is bright in
    T1, and belongs there.

    :param image: (D, H, W) intensities.
    """
    around = ndimage.binary_dilation(mask, RIM, NEAR) & tissue & ~mask
    values = image[around]
    if len(values) < 20:
        return tissue
    low, high = np.percentile(values, [25, 75])
    slack = FAR_OUT * (high - low)
    strange = around & ((image < low - slack) | (image > high + slack))
    return tissue & ~strange if strange.sum() < FEW * len(values) else tissue


def continued(
    x: torch.Tensor,
    hole: torch.Tensor,
    intensity: IntensityMap,
    spacing: tuple[float, float, float],
    tissue: torch.Tensor,
) -> torch.Tensor:
    """x (1, 1, D, H, W) in the network's range with the hole filled smoothly from the `tissue` around it.

    MR is continued in its own intensities, where noise and slopes are even, and fat isn't bent; CT in the network's
    range, which holds air and bone down.
    """
    box = (..., *_around(hole[0, 0]))
    part, gap = x[box], hole[box]
    known = tissue[box] & ~gap
    ct = intensity.is_ct
    how = replace(CT_FILLING if ct else MR_FILLING, iterations=min(MOST, max(LEAST, PATIENCE // gap.numel())))
    how = how.on(spacing)
    smooth = fill(part if ct else intensity.inverse(part), known, how)
    out = x.clone()
    out[box] = torch.where(gap, (smooth if ct else intensity.forward(smooth)).to(x.dtype), part)
    return out


def _around(hole: torch.Tensor) -> tuple[slice, ...]:
    """Box of a hole (D, H, W) and what the filling looks at around it."""
    at = hole.nonzero()
    low, high = at.min(0).values.tolist(), at.max(0).values.tolist()
    return tuple(slice(max(0, a - m), b + 1 + m) for a, b, m in zip(low, high, SEEN))


def surrounding_range(
    x: torch.Tensor, hole: torch.Tensor, known: torch.Tensor, clean: bool
) -> tuple[float, float]:
    """Percentiles of what is known within eight voxels (two across slices) of the hole: the 5th and 95th, or where the
    surroundings are clean the 1st and 99th.

    Healthy tissue is neither darker nor brighter: a bright rim all around once drew air into the middle of a removal.
    """
    share = CLEAN_TAIL if clean else TAIL
    near = F.max_pool3d(hole.float(), (5, 17, 17), 1, (2, 8, 8)) > 0
    around = x[near & known]
    if len(around) < 20:
        return -torch.inf, torch.inf
    low, high = (
        float(torch.kthvalue(around, max(1, round(q * len(around)))).values) for q in (share, 1 - share)
    )
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

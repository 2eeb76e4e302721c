"""What the network is told besides features: the hole filled smoothly, the mask, its distance map, the extent.

All functions take and give torch tensors (B, C, D, H, W) unless said otherwise; training and inference share them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.texture.codec import pool_any
from TumorSynthLib.texture.network import condition_channels

ACROSS = 1.5  # weight of differences between slices, times the voxels' width over their thickness, at most 1
DISTANCES_MM = (20.0, 5.0)  # two ranges of the distance map: position in the tumour, and the border itself


class IntensityMap:
    """Monotone, invertible map between intensities and the network's range: asinh((v - center) / scale).

    Linear near `center`, logarithmic far from it, so that air and bone don't drown soft tissue, and no input clips.
    What the network draws is held within `limits`, the intensities that the modality can have.

    :param is_ct: the intensities are Hounsfield units.
    """

    def __init__(
        self,
        center: float,
        scale: float,
        limits: tuple[float, float] = (-np.inf, np.inf),
        is_ct: bool = False,
    ):
        self.center, self.scale = float(center), float(scale)
        self.limits = (float(limits[0]), float(limits[1]))
        self.is_ct = is_ct

    @classmethod
    def of(cls, intensity: Intensity) -> IntensityMap:
        """The map of a model's modality."""
        return cls(intensity.center, intensity.scale, intensity.limits, intensity.is_ct)

    def forward(self, values: np.ndarray | torch.Tensor):
        if isinstance(values, torch.Tensor):
            return torch.asinh((values - self.center) / self.scale)
        return np.arcsinh((np.asarray(values, np.float32) - self.center) / self.scale)

    def inverse(self, mapped: np.ndarray | torch.Tensor):
        low, high = (float(np.arcsinh((v - self.center) / self.scale)) for v in self.limits)
        if isinstance(mapped, torch.Tensor):
            return torch.sinh(mapped.clamp(low, high)) * self.scale + self.center
        return np.sinh(np.clip(mapped, low, high)) * self.scale + self.center


@dataclass(frozen=True)
class Filling:
    """How a hole is continued from around it: least weighted sum of squared derivatives of first, second and third order.

    Second order alone is the biharmonic equation. The lower ones draw level, for images with noise; the higher ones carry
    bends over, for smooth ones.

    :param orders: weights of the three; `axes`: of differences along (z, y, x).
    :param iterations: of conjugate gradients; they reach only so far into large holes, so that nothing overshoots there.
    """

    orders: tuple[float, float, float] = (0.0, 1.0, 0.0)
    axes: tuple[float, float, float] = (1.0, 1.0, 1.0)
    iterations: int = 30

    def on(self, spacing: tuple[float, float, float]) -> Filling:
        """The same on a grid of (x, y, z) mm: the thicker its slices, the less they say of each other."""
        steps = np.array(spacing[::-1], float)
        thick = int(steps.argmax())
        weight = min(1.0, ACROSS * float(np.delete(steps, thick).mean() / steps[thick]))
        return replace(self, axes=tuple(weight if k == thick else 1.0 for k in range(3)))

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        """Gradient of the energy at x (B, 1, D, H, W)."""
        total, order = torch.zeros_like(x), x
        for k, weight in enumerate(self.orders):
            if not any(self.orders[k:]):
                break
            order = -_laplace(order, self.axes)
            total = total + weight * order if weight else total
        return total


BIHARMONIC = Filling()


def fill(x: torch.Tensor, known: torch.Tensor, how: Filling = BIHARMONIC) -> torch.Tensor:
    """x (B, 1, D, H, W) with voxels that are not `known` continued smoothly from the known ones.

    A coarse-to-fine blend, then conjugate gradients on `how`'s energy, which carry slopes over the border.
    """
    out, hole = _blend(x, known), (~known).to(x.dtype)
    if not bool(hole.any()):
        return out
    residual = -how.energy(out) * hole
    step, direction, size = torch.zeros_like(out), residual, _dot(residual, residual)
    for _ in range(how.iterations):
        pushed = how.energy(direction) * hole
        length = size / _dot(direction, pushed).clamp_min(1e-20)
        step = step + length * direction
        residual = residual - length * pushed
        fresh = _dot(residual, residual)
        direction, size = residual + fresh / size.clamp_min(1e-20) * direction, fresh
    return out + step


def _laplace(x: torch.Tensor, axes: tuple[float, float, float]) -> torch.Tensor:
    """Weighted sum of second differences along the three axes; the border is repeated."""
    p, inner = F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate"), slice(1, -1)
    total = (-2.0 * sum(axes)) * x
    for axis, weight in enumerate(axes, 2):
        for part in (slice(2, None), slice(None, -2)):
            at = [slice(None), slice(None), inner, inner, inner]
            at[axis] = part
            total.add_(p[tuple(at)], alpha=weight)
    return total


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum((1, 2, 3, 4), keepdim=True)


def _blend(x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Push-pull: averages of the known voxels on ever coarser grids, brought back where nothing finer is known."""
    levels, weight, value = [], known.to(x.dtype), x * known
    while True:
        levels.append((value, weight))
        if bool((weight.flatten(1) > 0).all()) or max(weight.shape[2:]) == 1:
            break
        kernel = tuple(2 if s > 1 else 1 for s in weight.shape[2:])
        pooled = F.avg_pool3d(weight, kernel, ceil_mode=True, count_include_pad=False)
        value = F.avg_pool3d(value, kernel, ceil_mode=True, count_include_pad=False)
        weight = (pooled > 0).to(x.dtype)
        value = torch.where(weight > 0, value / pooled.clamp_min(1e-6), value)
    value, weight = levels[-1]
    mean = (value * weight).sum((2, 3, 4), True) / weight.sum((2, 3, 4), True).clamp_min(1)
    out = torch.where(weight > 0, value, mean)
    for value, weight in reversed(levels[:-1]):
        up = F.interpolate(out, value.shape[2:], mode="trilinear", align_corners=False)
        out = torch.where(weight > 0, value, up)
    return out


def masked(x: torch.Tensor, hole: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The bridge's start y: x (B, 1, D, H, W) with the hole filled smoothly from around it.

    level (B,) is the mean asked for in the hole, in the network's range; nan leaves the mean of the filling. A start at
    the right level spares the network from learning it.
    """
    filled = fill(x, ~hole)
    mean = (filled * hole).sum((1, 2, 3, 4)) / hole.sum((1, 2, 3, 4)).clamp_min(1)
    shift = torch.nan_to_num(level.to(x.dtype) - mean, nan=0.0)
    return torch.where(hole, filled + shift.view(-1, 1, 1, 1, 1), x)


def complete(x: torch.Tensor, hole: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """x (B, 1, D, H, W) with a smooth continuation outside the image, made from what is known inside it.

    Replicated border voxels would show the hole's hidden content where a tumour touches the border of the image.
    """
    if bool(valid.all()):
        return x
    return torch.where(valid | hole, x, fill(x, valid & ~hole))


def signed_distance(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Distance in mm to the border of mask (D, H, W), positive inside; spacing (x, y, z) mm."""
    sampling = tuple(spacing[::-1])
    if not mask.any() or mask.all():
        return np.full(mask.shape, -1e3 if not mask.any() else 1e3, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling)
    outside = ndimage.distance_transform_edt(~mask, sampling)
    return (inside - outside).astype(np.float32)


def conditions(
    masks: np.ndarray,
    valid: np.ndarray,
    spacing: tuple[float, float, float],
    hole: np.ndarray | None = None,
) -> torch.Tensor:
    """Condition channels (1, K, d, h, w) for region masks (R, D, H, W) bool and valid (D, H, W) bool.

    :param hole: (D, H, W) bool, the region that is painted, from whose border distances are measured; None is all regions.
    """
    hole = masks.any(0) if hole is None else hole
    distance = torch.from_numpy(signed_distance(hole, spacing))[None, None]
    coarse = F.avg_pool3d(distance, 2)
    distance = torch.cat([(coarse / d).clamp(-1, 1) for d in DISTANCES_MM], 1)
    regions = torch.from_numpy(masks.astype(np.float32))[None]
    extent = torch.from_numpy(valid.astype(np.float32))[None, None]
    return condition_channels(regions, extent, distance)


def region_masks(hole: np.ndarray, number: int, others: np.ndarray) -> np.ndarray:
    """Masks (R, D, H, W) bool of all regions as the network sees them: the painted one is the hole, the others are around it.

    :param hole: (D, H, W) bool; `number` says which region it is.
    :param others: (R, D, H, W) bool; what of them lies in the hole is painted over, and the painted one's own is left out.
    """
    masks = others & ~hole
    masks[number] = hole
    return masks


def noise_cells(mask: torch.Tensor) -> torch.Tensor:
    """Latent cells that carry noise: those any hole voxel touches; all others are known exactly."""
    return pool_any(mask)

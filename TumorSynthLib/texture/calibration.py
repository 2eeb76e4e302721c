"""A drawn tumour's three simplest statistics set to what was asked: mean, variance, and difference between neighbours.

The network arranges; a linear filter inside the mask sets level, spread and the share of fine structure, at each of the
last evaluations, so that the next one can fit the result to its surroundings. All functions take torch tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from TumorSynthLib.radiomics.differentiable import offsets
from TumorSynthLib.texture.context import IntensityMap

STRETCH = 4.0  # smooth or fine structure of a draw changes by this factor at most
ROUNDING = (
    1 / 6
)  # what rounding to bins adds to the mean squared difference of two voxels, in squared bin widths
ANGLES = 256
CONTRAST = "original_glcm_Contrast"
PERCENTILES = {"Minimum": 0.0, "10Percentile": 0.1, "Median": 0.5, "90Percentile": 0.9, "Maximum": 1.0}


@dataclass(frozen=True)
class Moments:
    """Asked statistics of the intensities in the hole; None is free.

    :param contrast: mean squared difference of neighbours, averaged over the 13 directions, in squared intensities.
    :param anchors: (share of voxels, intensity) pairs, ascending: percentiles.
    """

    mean: float | None = None
    variance: float | None = None
    contrast: float | None = None
    anchors: tuple[tuple[float, float], ...] = ()

    @classmethod
    def asked(cls, features: Mapping[str, float], bin_width: float | None) -> Moments:
        """Those among asked features (pyradiomics' names); GLCM contrast counts in squared bin widths."""
        contrast = features.get(CONTRAST)
        if contrast is not None and bin_width:
            contrast = max(contrast - ROUNDING, 0.02) * bin_width**2
        else:
            contrast = None
        names = ("original_firstorder_Mean", "original_firstorder_Variance")
        anchors = [
            (q, features[f"original_firstorder_{n}"])
            for n, q in PERCENTILES.items()
            if f"original_firstorder_{n}" in features
        ]
        return cls(*(features.get(n) for n in names), contrast, tuple(anchors))


def calibrated(x: torch.Tensor, hole: torch.Tensor, intensity: IntensityMap, asked: Moments) -> torch.Tensor:
    """x (1, 1, D, H, W) in the network's range, changed in the hole so that intensities there have the asked moments."""
    if asked == Moments():
        return x
    values = intensity.inverse(x)
    inside = values[hole]
    own = inside.mean()
    if asked.contrast is not None:
        inside = _refined(values - own, hole, asked)
    inside = _anchored(inside, asked.anchors)
    centred = inside - inside.mean()
    spread = centred.std(unbiased=False).clamp_min(1e-3)
    ratio = 1.0
    if asked.variance is not None:
        ratio = (math.sqrt(max(asked.variance, 0.0)) / spread).clamp(1 / STRETCH, STRETCH)
    moved = centred * ratio + (own if asked.mean is None else asked.mean)
    return x.masked_scatter(hole, intensity.forward(moved).to(x.dtype))


def _anchored(inside: torch.Tensor, anchors) -> torch.Tensor:
    """Values (n,) moved by a piecewise linear, rising map so that their percentiles are the anchors; bounded slopes."""
    if len(anchors) < 2:
        return inside
    shares, wanted = zip(*anchors)
    with torch.no_grad():
        ordered = inside.sort().values
        at = [min(len(ordered) - 1, round(q * (len(ordered) - 1))) for q in shares]
        own = [float(ordered[i]) for i in at]
        slopes = []
        for k in range(len(own) - 1):
            slope = (wanted[k + 1] - wanted[k]) / max(own[k + 1] - own[k], 1e-3)
            slopes.append(min(max(slope, 1 / STRETCH), STRETCH))
    middle = min(range(len(shares)), key=lambda k: abs(shares[k] - 0.5))
    out = wanted[middle] + torch.zeros_like(inside)
    for k, slope in enumerate(slopes):
        low = own[k] if k > 0 else -torch.inf
        high = own[k + 1] if k + 1 < len(slopes) else torch.inf
        base = own[middle]
        out = out + slope * (inside.clamp(low, high) - min(max(base, low), high))
    return out


def _refined(centred: torch.Tensor, hole: torch.Tensor, asked: Moments) -> torch.Tensor:
    """Voxels (n,) of the hole: smooth and fine structure mixed so that neighbours differ as asked for the asked variance."""
    inside = torch.where(hole, centred, torch.zeros_like(centred))
    smooth = _smooth(inside, hole)
    fine = torch.where(hole, inside - smooth, torch.zeros_like(inside))
    with torch.no_grad():
        variance = _variances(smooth[hole], fine[hole])
        wanted = asked.variance if asked.variance is not None else float(centred[hole].var(unbiased=False))
        ratio = asked.contrast / max(wanted, 1e-6)
        limit = math.atan(STRETCH)
        angle = torch.linspace(math.pi / 2 - limit, limit, ANGLES, dtype=torch.float64)
        pair = torch.stack([angle.cos() ** 2, 2 * angle.cos() * angle.sin(), angle.sin() ** 2])
        found = (_differences(smooth, fine, hole) @ pair) / (variance @ pair).clamp_min(1e-9)
        best = float(angle[(found.clamp_min(1e-9).log() - math.log(max(ratio, 1e-9))).abs().argmin()])
    return math.sqrt(2) * (math.cos(best) * smooth + math.sin(best) * fine)[hole]


def _smooth(inside: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Mean over 3 x 3 x 3 voxels, of those in the hole."""
    weight = F.avg_pool3d(hole.to(inside.dtype), 3, 1, 1)
    mean = F.avg_pool3d(inside, 3, 1, 1) / weight.clamp_min(1e-6)
    return torch.where(hole, mean, torch.zeros_like(mean))


def _variances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Var a, covariance, Var b of (n,) each, float64."""
    a, b = (t.cpu().double() for t in (a, b))  # an Apple GPU has no float64
    a, b = a - a.mean(), b - b.mean()
    return torch.stack([(a * a).mean(), (a * b).mean(), (b * b).mean()])


def _differences(a: torch.Tensor, b: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Mean products of neighbours' differences (aa, ab, bb), averaged over the directions that have pairs, float64."""
    total, count = torch.zeros(3, dtype=torch.float64), 0
    a, b, inside = (t[0, 0].cpu() for t in (a, b, hole))
    for offset in offsets():
        here = tuple(slice(max(0, -o), s - max(0, o)) for o, s in zip(offset, inside.shape))
        there = tuple(slice(max(0, o), s - max(0, -o)) for o, s in zip(offset, inside.shape))
        pairs = inside[here] & inside[there]
        if not bool(pairs.any()):
            continue
        da, db = ((t[here] - t[there])[pairs].double() for t in (a, b))
        total = total + torch.stack([(da * da).mean(), (da * db).mean(), (db * db).mean()])
        count += 1
    return total / max(count, 1)

"""Radiomics features that torch can differentiate, equal to the exact ones in the limit.

Names follow pyradiomics without the `original_<class>_` prefix. Grey levels enter as a continuous *bin coordinate* `u`: level
`i` (1-based) covers `[i - 1, i)`, so `u = (x - low) / binWidth` for a fixed bin width. A voxel shares its count between the
two nearest bin centres (triangular membership); `sharpness` narrows the shared zone, and as it grows every value tends to the
exact one. Run and zone features are functions of a (levels, sizes) count matrix; how such a matrix follows the voxels is in
`texture/surrogate.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

EPS = 2.220446049250313e-16  # what pyradiomics adds inside logarithms (np.spacing(1))

FIRSTORDER_FEATURES = (
    "10Percentile 90Percentile Energy Entropy InterquartileRange Kurtosis Maximum MeanAbsoluteDeviation Mean Median Minimum "
    "Range RobustMeanAbsoluteDeviation RootMeanSquared Skewness TotalEnergy Uniformity Variance"
).split()


@dataclass(frozen=True)
class Lines:
    """All straight lines of neighbours through the voxels of a mask, one row per direction.

    :param order: (A, n) int64, the voxels (raster rank inside the mask) so sorted that those of one line follow each other.
    :param link: (A, n) bool, true where element k and k + 1 of `order` are neighbours (the last column is false).
    """

    order: torch.Tensor
    link: torch.Tensor

    @property
    def voxels(self) -> int:
        return self.order.shape[1]

    def to(self, device: torch.device) -> Lines:
        """The same where the voxels are."""
        return Lines(self.order.to(device), self.link.to(device))

    def rows(self, index: torch.Tensor | Sequence[int]) -> Lines:
        """The lines of some directions only."""
        return Lines(self.order[index], self.link[index])


def offsets(distances: Sequence[int] = (1,)) -> list[tuple[int, int, int]]:
    """Half of all (z, y, x) offsets whose largest component is one of `distances`: 13 for distance 1."""
    reach = range(-max(distances), max(distances) + 1)
    every = [o for o in itertools.product(reach, repeat=3) if max(map(abs, o)) in distances]
    return [o for o in every if o > (0, 0, 0)]


def lines(mask: np.ndarray, distances: Sequence[int] = (1,)) -> Lines:
    """Lines of neighbours for every direction in which the (D, H, W) bool mask has at least one pair."""
    position = np.argwhere(mask)
    rank = np.arange(len(position))
    orders, links = [], []
    for offset in offsets(distances):
        step = np.asarray(offset)
        axis = int(np.argmax(np.abs(step)))
        along = position[:, axis] // step[axis] if step[axis] > 0 else -(position[:, axis] // -step[axis])
        start = position - along[:, None] * step  # the same for all voxels of one line
        start = start - start.min(0)
        key = np.ravel_multi_index(start.T, start.max(0) + 1)
        order = np.lexsort((along, key))
        link = np.zeros(len(rank), bool)
        link[:-1] = (np.diff(key[order]) == 0) & (np.diff(along[order]) == 1)
        if link.any():
            orders.append(order)
            links.append(link)
    if not orders:
        return Lines(
            torch.zeros((0, len(rank)), dtype=torch.int64), torch.zeros((0, len(rank)), dtype=torch.bool)
        )
    return Lines(torch.from_numpy(np.stack(orders)), torch.from_numpy(np.stack(links)))


def membership(u: torch.Tensor, levels: int, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower bin index (0-based, int64) and the share of the upper neighbour bin, for bin coordinates `u`."""
    centre = (u - 0.5).clamp(0, max(levels - 1, 0))
    low = centre.detach().floor().clamp(0, max(levels - 2, 0))
    share = centre - low
    if sharpness != 1.0:
        share = ((share - 0.5) * sharpness + 0.5).clamp(0, 1)
    return low.to(torch.int64), share


class _PairCounts(torch.autograd.Function):
    """Soft co-occurrence counts (A, g, g) of consecutive linked elements; written by hand to keep no graph of the pairs."""

    @staticmethod
    def forward(ctx, share, low, order, link, levels):
        rows, n = order.shape
        left, right = low[order[:, :-1]], low[order[:, 1:]]
        cells = levels * levels
        base = left * levels + right + torch.arange(rows, device=low.device)[:, None] * cells
        base = torch.where(
            link[:, :-1], base, rows * cells
        ).flatten()  # pairs that don't exist land behind the last cell
        wa, wb = share[order[:, :-1]].flatten(), share[order[:, 1:]].flatten()
        both = wa * wb
        size = rows * cells + levels + 2
        total = torch.bincount(base, 1 - wa - wb + both, minlength=size)[:size]
        total[levels:] += torch.bincount(base, wa - both, minlength=size)[: size - levels]
        total[1:] += torch.bincount(base, wb - both, minlength=size)[: size - 1]
        total[levels + 1 :] += torch.bincount(base, both, minlength=size)[: size - levels - 1]
        ctx.save_for_backward(base, wa, wb, order)
        ctx.levels, ctx.voxels = levels, len(share)
        return total[: rows * cells].clamp_min_(0).view(rows, levels, levels).to(share.dtype)

    @staticmethod
    def backward(ctx, gradient):
        base, wa, wb, order = ctx.saved_tensors
        levels, (rows, n) = ctx.levels, order.shape
        flat = torch.cat([gradient.reshape(-1), gradient.new_zeros(levels + 2)])
        if levels > 1:
            g00, g01, g10, g11 = (flat[base + k] for k in (0, 1, levels, levels + 1))
        else:
            g00 = g01 = g10 = g11 = flat[base]
        outside = base >= rows * levels * levels
        da = torch.lerp(g10 - g00, g11 - g01, wb).masked_fill_(outside, 0).view(rows, n - 1)
        db = torch.lerp(g01 - g00, g11 - g10, wa).masked_fill_(outside, 0).view(rows, n - 1)
        both = da.new_zeros((rows, n))
        both[:, :-1] = da
        both[:, 1:] += db
        total = torch.bincount(order.flatten(), both.flatten(), minlength=ctx.voxels)
        return total.to(gradient.dtype), None, None, None, None


def soft_glcm(
    u: torch.Tensor, paths: Lines, levels: int, sharpness: float = 1.0, symmetric: bool = True
) -> torch.Tensor:
    """Normalised co-occurrence matrices (A, levels, levels) of bin coordinates `u` (n,)."""
    low, share = membership(u, levels, sharpness)
    counts = _PairCounts.apply(share, low, paths.order, paths.link, levels)
    return _normalise(counts, symmetric)


def hard_glcm(level: torch.Tensor, paths: Lines, levels: int, symmetric: bool = True) -> torch.Tensor:
    """The exact matrices (A, levels, levels), float64, of 0-based integer grey levels (n,)."""
    cells, rows = levels * levels, paths.order.shape[0]
    ordered = level[paths.order]
    base = (
        ordered[:, :-1] * levels + ordered[:, 1:] + torch.arange(rows, device=level.device)[:, None] * cells
    )
    counts = torch.bincount(base[paths.link[:, :-1]], minlength=rows * cells).view(rows, levels, levels)
    return _normalise(counts.to(torch.float64), symmetric)


def _normalise(counts: torch.Tensor, symmetric: bool) -> torch.Tensor:
    if symmetric:
        counts = counts + counts.transpose(1, 2)
    return counts / counts.sum((1, 2), keepdim=True)


def _entropy(p: torch.Tensor, dims) -> torch.Tensor:
    return -(p * (p + EPS).log2()).sum(dims)


def glcm_features(p: torch.Tensor, mcc: bool = False) -> dict[str, torch.Tensor]:
    """GLCM features (IBSI 3.6; pyradiomics' names and definitions) per direction, each (A,).

    pyradiomics' value is the mean over directions. :param p: (A, g, g), each matrix summing to one.
    """
    g = p.shape[1]
    level = torch.arange(1, g + 1, dtype=p.dtype, device=p.device)
    i, j = level[:, None], level[None]
    px, py = p.sum(2), p.sum(1)
    mx, my = (px * level).sum(1), (py * level).sum(1)
    vx = (px * (level - mx[:, None]) ** 2).sum(1)
    vy = (py * (level - my[:, None]) ** 2).sum(1)
    index = torch.arange(g, device=p.device)
    flat = p.flatten(1)
    pd = p.new_zeros(len(p), g).index_add(1, (index[:, None] - index[None]).abs().flatten(), flat)
    ps = p.new_zeros(len(p), 2 * g - 1).index_add(1, (index[:, None] + index[None]).flatten(), flat)
    k, s = (torch.arange(*ends, dtype=p.dtype, device=p.device) for ends in ((g,), (2, 2 * g + 1)))
    autocorrelation = (p * (i * j)).sum((1, 2))
    sum_average = (ps * s).sum(1)
    around = s - (mx + my)[:, None]
    difference = (pd * k).sum(1)
    spread = (vx * vy).clamp_min(1e-20).sqrt()
    correlation = torch.where(vx * vy > 1e-12, (autocorrelation - mx * my) / spread, torch.ones_like(mx))
    return {
        "Autocorrelation": autocorrelation,
        "ClusterProminence": (ps * around**4).sum(1),
        "ClusterShade": (ps * around**3).sum(1),
        "ClusterTendency": (ps * around**2).sum(1),
        "Contrast": (pd * k**2).sum(1),
        "Correlation": correlation,
        "DifferenceAverage": difference,
        "DifferenceEntropy": _entropy(pd, 1),
        "DifferenceVariance": (pd * (k - difference[:, None]) ** 2).sum(1),
        "Id": (pd / (1 + k)).sum(1),
        "Idm": (pd / (1 + k**2)).sum(1),
        "Idmn": (pd / (1 + (k / g) ** 2)).sum(1),
        "Idn": (pd / (1 + k / g)).sum(1),
        "InverseVariance": (pd[:, 1:] / k[1:] ** 2).sum(1),
        "JointAverage": mx,
        "JointEnergy": (p**2).sum((1, 2)),
        "MaximumProbability": flat.amax(1),
        "SumAverage": sum_average,
        "SumEntropy": _entropy(ps, 1),
        "SumSquares": vx,
        **_information(p, px, py),
        **({"MCC": _maximal_correlation(p, px, py)} if mcc else {}),
    }


def _information(p: torch.Tensor, px: torch.Tensor, py: torch.Tensor) -> dict[str, torch.Tensor]:
    """JointEntropy and the two information correlations."""
    joint, hx, hy = _entropy(p, (1, 2)), _entropy(px, 1), _entropy(py, 1)
    product = px[:, :, None] * py[:, None, :]
    log = (product + EPS).log2()
    first, second = -(p * log).sum((1, 2)), -(product * log).sum((1, 2))
    top = torch.maximum(hx, hy)
    flat = top <= 0
    imc1 = torch.where(
        flat, torch.zeros_like(top), (joint - first) / torch.where(flat, torch.ones_like(top), top)
    )
    gain = 1 - torch.exp(-2 * (second - joint))
    imc2 = torch.where(gain > 1e-12, gain.clamp_min(1e-12).sqrt(), torch.zeros_like(gain))
    return {"JointEntropy": joint, "Imc1": imc1, "Imc2": imc2}


def _maximal_correlation(p: torch.Tensor, px: torch.Tensor, py: torch.Tensor) -> torch.Tensor:
    """Square root of the second largest eigenvalue of Q = the second singular value of p / sqrt(px py)."""
    if p.shape[1] < 2:
        return torch.ones(len(p), dtype=p.dtype)
    least = 1e-9  # share of voxels below which a level counts as empty; keeps the gradient finite
    kind, p, px, py = (
        p.dtype,
        p.double(),
        px.double(),
        py.double(),
    )  # LAPACK's single precision fails now and then
    scaled = p * (px.clamp_min(least).rsqrt()[:, :, None] * py.clamp_min(least).rsqrt()[:, None, :])
    symmetric = torch.equal(p, p.transpose(1, 2))
    values = torch.linalg.eigvalsh(scaled).abs() if symmetric else torch.linalg.svdvals(scaled)
    return values.sort(1).values[:, -2].to(kind)


def quantile(ordered: torch.Tensor, q: float) -> torch.Tensor:
    """numpy's linear-interpolation percentile of ascending values (n,); `q` in 0..1."""
    at = q * (len(ordered) - 1)
    low = int(math.floor(at))
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def firstorder_features(
    values: torch.Tensor,
    probability: torch.Tensor | None = None,
    *,
    shift: float = 0.0,
    voxel_volume: float = 1.0,
    is_sorted: bool = False,
) -> dict[str, torch.Tensor]:
    """First-order features (IBSI 3.3, with pyradiomics' definitions) of the voxel values (n,).

    :param probability: (g,) histogram for Entropy and Uniformity, e.g. from `soft_histogram`; without it they are left out.
    :param shift: pyradiomics' voxelArrayShift, used by Energy, TotalEnergy and RootMeanSquared alone.
    :param voxel_volume: mm³, for TotalEnergy.
    """
    x = values if is_sorted else values.sort().values
    p10, p25, p50, p75, p90 = (quantile(x, q) for q in (0.1, 0.25, 0.5, 0.75, 0.9))
    mean = x.mean()
    centred = x - mean
    variance = (centred**2).mean()
    safe = variance.clamp_min(1e-12)
    alive = (variance > 1e-12).to(x.dtype)
    inside = x[(x >= p10.detach()) & (x <= p90.detach())]
    energy = ((x + shift) ** 2).sum()
    result = {
        "10Percentile": p10,
        "90Percentile": p90,
        "Energy": energy,
        "TotalEnergy": energy * voxel_volume,
        "InterquartileRange": p75 - p25,
        "Maximum": x[-1],
        "Minimum": x[0],
        "Mean": mean,
        "Median": p50,
        "MeanAbsoluteDeviation": centred.abs().mean(),
        "Range": x[-1] - x[0],
        "RobustMeanAbsoluteDeviation": (inside - inside.mean()).abs().mean(),
        "RootMeanSquared": (energy / len(x)).clamp_min(1e-30).sqrt(),
        "Skewness": alive * (centred**3).mean() / safe**1.5,
        "Kurtosis": alive * (centred**4).mean() / safe**2,
        "StandardDeviation": safe.sqrt() * alive,
        "Variance": variance,
    }
    if probability is not None:
        result["Entropy"] = _entropy(probability, 0)
        result["Uniformity"] = (probability**2).sum()
    return result


def soft_histogram(u: torch.Tensor, levels: int, sharpness: float = 1.0) -> torch.Tensor:
    """Share of voxels per grey level (levels,) of bin coordinates `u` (n,)."""
    low, share = membership(u, levels, sharpness)
    counts = u.new_zeros(levels + 1).index_add(0, low, 1 - share).index_add(0, low + 1, share)
    return counts[:levels] / len(u)


#: Features of a (levels, sizes) matrix: (name in GLRLM, name in GLSZM).
SIZE_FEATURES = {
    "ShortRunEmphasis": "SmallAreaEmphasis",
    "LongRunEmphasis": "LargeAreaEmphasis",
    "GrayLevelNonUniformity": "GrayLevelNonUniformity",
    "GrayLevelNonUniformityNormalized": "GrayLevelNonUniformityNormalized",
    "RunLengthNonUniformity": "SizeZoneNonUniformity",
    "RunLengthNonUniformityNormalized": "SizeZoneNonUniformityNormalized",
    "RunPercentage": "ZonePercentage",
    "GrayLevelVariance": "GrayLevelVariance",
    "RunVariance": "ZoneVariance",
    "RunEntropy": "ZoneEntropy",
    "LowGrayLevelRunEmphasis": "LowGrayLevelZoneEmphasis",
    "HighGrayLevelRunEmphasis": "HighGrayLevelZoneEmphasis",
    "ShortRunLowGrayLevelEmphasis": "SmallAreaLowGrayLevelEmphasis",
    "ShortRunHighGrayLevelEmphasis": "SmallAreaHighGrayLevelEmphasis",
    "LongRunLowGrayLevelEmphasis": "LargeAreaLowGrayLevelEmphasis",
    "LongRunHighGrayLevelEmphasis": "LargeAreaHighGrayLevelEmphasis",
}


def size_features(counts: torch.Tensor, sizes: torch.Tensor, voxels: float) -> dict[str, torch.Tensor]:
    """The sixteen GLRLM features (IBSI 3.7) per direction, each (A,); GLSZM's under the names of `SIZE_FEATURES`.

    :param counts: (A, g, s) number of runs (or zones) of grey level 1..g and of the size `sizes[k]`.
    :param sizes: (s,) ascending run lengths or zone sizes in voxels.
    """
    level = torch.arange(1, counts.shape[1] + 1, dtype=counts.dtype, device=counts.device)
    total = counts.sum((1, 2))
    by_level, by_size = counts.sum(2), counts.sum(1)
    p = counts / total[:, None, None]
    mean_level = (by_level * level).sum(1) / total
    mean_size = (by_size * sizes).sum(1) / total
    low, high = 1 / level**2, level**2
    small, large = 1 / sizes**2, sizes**2

    def emphasis(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return ((p * b).sum(2) * a).sum(1)

    ones = torch.ones_like(level)
    return {
        "ShortRunEmphasis": emphasis(ones, small),
        "LongRunEmphasis": emphasis(ones, large),
        "GrayLevelNonUniformity": (by_level**2).sum(1) / total,
        "GrayLevelNonUniformityNormalized": (by_level**2).sum(1) / total**2,
        "RunLengthNonUniformity": (by_size**2).sum(1) / total,
        "RunLengthNonUniformityNormalized": (by_size**2).sum(1) / total**2,
        "RunPercentage": total / voxels,
        "GrayLevelVariance": (by_level * (level - mean_level[:, None]) ** 2).sum(1) / total,
        "RunVariance": (by_size * (sizes - mean_size[:, None]) ** 2).sum(1) / total,
        "RunEntropy": _entropy(p, (1, 2)),
        "LowGrayLevelRunEmphasis": (by_level * low).sum(1) / total,
        "HighGrayLevelRunEmphasis": (by_level * high).sum(1) / total,
        "ShortRunLowGrayLevelEmphasis": emphasis(low, small),
        "ShortRunHighGrayLevelEmphasis": emphasis(high, small),
        "LongRunLowGrayLevelEmphasis": emphasis(low, large),
        "LongRunHighGrayLevelEmphasis": emphasis(high, large),
    }


def zone_names(features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values under GLSZM's names."""
    return {SIZE_FEATURES[name]: value for name, value in features.items()}

"""Features of the texture matrices (IBSI 3.6-3.11, with pyradiomics' deviations)."""

from __future__ import annotations

import numpy as np

from .firstorder import EPSILON
from .matrices import Offset


def _entropy(p: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    return -np.sum(p * np.log2(p + EPSILON), axes)


def direction_weights(offsets: list[Offset], spacing: tuple[float, float, float], norm: str) -> np.ndarray:
    """Length of each offset in mm by the given norm, 1 for 'no_weighting'."""
    steps = np.abs(np.array(offsets, float).reshape(-1, 3)) * spacing[::-1]
    if norm == "no_weighting":
        return np.ones(len(steps))
    order = {"infinity": np.inf, "euclidean": 2, "manhattan": 1}[norm]
    return np.linalg.norm(steps, order, axis=1)


def _directions(counts: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Matrices to evaluate: one per direction that is not empty, or one weighted sum."""
    if weights is not None:
        return np.tensordot(weights, counts, 1)[None]
    if len(counts) == 1:
        return counts
    return counts[counts.any(axis=(1, 2))]


def _mean(values: np.ndarray) -> float:
    """Mean over the directions that have a value."""
    good = values[~np.isnan(values)]
    return float(good.mean()) if good.size else np.nan


def glcm_features(
    counts: np.ndarray, gray: np.ndarray, *, symmetrical: bool = True, weights: np.ndarray | None = None,
    mcc: bool = True,
) -> dict[str, float]:  # fmt: skip
    """24 co-occurrence features from counts (direction, level, level); `gray` are the levels' numbers.

    :param mcc: MCC too, which takes longer than all others together.
    """
    if symmetrical:
        counts = counts + counts.transpose(0, 2, 1)
    counts = _directions(counts, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = counts / counts.sum(axis=(1, 2), keepdims=True)
        features = _pair_features(p, gray) | _sum_difference_features(p, gray) | _information_features(p, mcc)
        return {name: _mean(values) for name, values in features.items()}


def _pair_features(p: np.ndarray, gray: np.ndarray) -> dict[str, np.ndarray]:
    """Moments of the joint distribution p (direction, i, j), one value per direction."""
    i, j = gray[:, None], gray[None, :]
    px, py = p.sum(2), p.sum(1)
    ux, uy = px @ gray, py @ gray
    di = gray - ux[:, None]
    dj = gray - uy[:, None]
    vx, vy = np.sum(px * di**2, 1), np.sum(py * dj**2, 1)
    covariance = np.einsum("aij,ai,aj->a", p, di, dj, optimize=True)
    sigma = np.sqrt(vx) * np.sqrt(vy)
    cluster = di[:, :, None] + dj[:, None, :]
    squared = cluster**2
    return {
        "Autocorrelation": np.einsum("aij,i,j->a", p, gray, gray, optimize=True),
        "JointAverage": ux,
        "ClusterProminence": np.sum(p * squared**2, (1, 2)),
        "ClusterShade": np.sum(p * squared * cluster, (1, 2)),
        "ClusterTendency": np.sum(p * squared, (1, 2)),
        "Contrast": np.sum(p * (i - j) ** 2, (1, 2)),
        "Correlation": np.where(sigma == 0, 1.0, covariance / (sigma + EPSILON)),
        "JointEnergy": np.sum(p * p, (1, 2)),
        "MaximumProbability": p.max(axis=(1, 2), initial=0),
        "SumSquares": vx,
    }


def _sum_difference_features(p: np.ndarray, gray: np.ndarray) -> dict[str, np.ndarray]:
    """Features of the distributions of i - j and i + j."""
    top = gray[-1]
    k, difference = _collect(p, np.abs(gray[:, None] - gray[None, :]))
    total, addition = _collect(p, gray[:, None] + gray[None, :])
    average = difference @ k
    return {
        "DifferenceAverage": average,
        "DifferenceEntropy": _entropy(difference, 1),
        "DifferenceVariance": np.sum(difference * (k - average[:, None]) ** 2, 1),
        "Id": difference @ (1 / (1 + k)),
        "Idm": difference @ (1 / (1 + k**2)),
        "Idn": difference @ (1 / (1 + k / top)),
        "Idmn": difference @ (1 / (1 + k**2 / top**2)),
        "InverseVariance": difference[:, k > 0] @ (1 / k[k > 0] ** 2),
        "SumAverage": addition @ total,
        "SumEntropy": _entropy(addition, 1),
    }


def _collect(p: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum p (direction, i, j) over equal `keys` (i, j): the keys, and (direction, key)."""
    codes = keys.ravel().astype(np.intp)
    size = int(codes.max()) + 1
    sums = np.array([np.bincount(codes, matrix.ravel(), size) for matrix in p]).reshape(len(p), size)
    return np.arange(size, dtype=float), sums


def _information_features(p: np.ndarray, mcc: bool) -> dict[str, np.ndarray]:
    """Entropies, informational measures of correlation, maximal correlation coefficient."""
    px, py = p.sum(2), p.sum(1)
    product = px[:, :, None] * py[:, None, :]
    log_product = np.log2(product + EPSILON)
    joint = _entropy(p, (1, 2))
    largest = np.fmax(_entropy(px, 1), _entropy(py, 1))
    gain1 = joint + np.sum(p * log_product, (1, 2))
    joint2 = -np.sum(product * log_product, (1, 2))
    return {
        "JointEntropy": joint,
        "Imc1": np.where(largest == 0, 0.0, gain1 / largest),
        "Imc2": np.where(joint2 == joint, 0.0, np.sqrt(1 - np.exp(-2 * (joint2 - joint)))),
        **({"MCC": _maximal_correlation(p, px, py)} if mcc else {}),
    }


def _maximal_correlation(p: np.ndarray, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Root of the second eigenvalue of Haralick's Q: the second singular value of p / sqrt(px py).

    pyradiomics adds EPSILON to px py. That shows only for levels that are rare to the extreme; there Q is
    built as it does.
    """
    if p.shape[1] < 2:
        return np.ones(max(len(p), 1))
    if not np.isfinite(p).all():
        return np.full(len(p), np.nan)
    product = px[:, :, None] * py[:, None, :]
    ratio = np.divide(p, np.sqrt(product), out=np.zeros_like(p), where=product > 0)
    result = np.linalg.svd(ratio, compute_uv=False)[:, 1]
    for k in np.flatnonzero(np.any((p > 0) & (product < 1e5 * EPSILON), axis=(1, 2))):
        eigenvalues = np.linalg.eigvals(p[k] / (product[k] + EPSILON) @ p[k].T)
        result[k] = np.sqrt(max(np.sort(eigenvalues.real)[-2], 0))
    return result


# Names of the 16 features that run-length, zone-size and dependence matrices share, in the order in which
# `_emphases` gives them; None where pyradiomics has no such feature.
RUN_NAMES = (
    "ShortRunEmphasis",
    "LongRunEmphasis",
    "GrayLevelNonUniformity",
    "GrayLevelNonUniformityNormalized",
    "RunLengthNonUniformity",
    "RunLengthNonUniformityNormalized",
    "RunPercentage",
    "GrayLevelVariance",
    "RunVariance",
    "RunEntropy",
    "LowGrayLevelRunEmphasis",
    "HighGrayLevelRunEmphasis",
    "ShortRunLowGrayLevelEmphasis",
    "ShortRunHighGrayLevelEmphasis",
    "LongRunLowGrayLevelEmphasis",
    "LongRunHighGrayLevelEmphasis",
)
ZONE_NAMES = (
    "SmallAreaEmphasis",
    "LargeAreaEmphasis",
    "GrayLevelNonUniformity",
    "GrayLevelNonUniformityNormalized",
    "SizeZoneNonUniformity",
    "SizeZoneNonUniformityNormalized",
    "ZonePercentage",
    "GrayLevelVariance",
    "ZoneVariance",
    "ZoneEntropy",
    "LowGrayLevelZoneEmphasis",
    "HighGrayLevelZoneEmphasis",
    "SmallAreaLowGrayLevelEmphasis",
    "SmallAreaHighGrayLevelEmphasis",
    "LargeAreaLowGrayLevelEmphasis",
    "LargeAreaHighGrayLevelEmphasis",
)
DEPENDENCE_NAMES = (
    "SmallDependenceEmphasis",
    "LargeDependenceEmphasis",
    "GrayLevelNonUniformity",
    None,
    "DependenceNonUniformity",
    "DependenceNonUniformityNormalized",
    None,
    "GrayLevelVariance",
    "DependenceVariance",
    "DependenceEntropy",
    "LowGrayLevelEmphasis",
    "HighGrayLevelEmphasis",
    "SmallDependenceLowGrayLevelEmphasis",
    "SmallDependenceHighGrayLevelEmphasis",
    "LargeDependenceLowGrayLevelEmphasis",
    "LargeDependenceHighGrayLevelEmphasis",
)


def size_features(
    counts: np.ndarray,
    gray: np.ndarray,
    sizes: np.ndarray,
    names: tuple[str | None, ...],
    weights: np.ndarray | None = None,
) -> dict[str, float]:
    """Features of a matrix (direction, level, size) of runs, zones or dependences.

    `gray` are the levels' numbers, `sizes` the run lengths, zone sizes or dependence counts of the columns.
    """
    counts = _directions(counts, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _emphases(counts, gray, sizes)
    return {name: _mean(value) for name, value in zip(names, values) if name}


def _emphases(counts: np.ndarray, i: np.ndarray, j: np.ndarray) -> list[np.ndarray]:
    number = counts.sum(axis=(1, 2))
    p = counts / number[:, None, None]
    pi, pj = p.sum(2), p.sum(1)
    voxels = pj @ j  # per run, zone or dependence
    i2, j2 = i * i, j * j
    both = [np.einsum("aij,i,j->a", p, u, v, optimize=True) for v in (1 / j2, j2) for u in (1 / i2, i2)]
    level_uniformity, size_uniformity = np.sum(pi**2, 1), np.sum(pj**2, 1)
    return [
        pj @ (1 / j2),
        pj @ j2,
        level_uniformity * number,
        level_uniformity,
        size_uniformity * number,
        size_uniformity,
        1 / voxels,
        np.sum(pi * (i - (pi @ i)[:, None]) ** 2, 1),
        np.sum(pj * (j - voxels[:, None]) ** 2, 1),
        _entropy(p, (1, 2)),
        pi @ (1 / i2),
        pi @ i2,
        *both,
    ]


def ngtdm_features(voxels: np.ndarray, differences: np.ndarray, gray: np.ndarray) -> dict[str, float]:
    """Five features from the voxels and the summed neighbourhood differences of each level that occurs.

    A homogeneous region has Coarseness 1e6 and 0 for the others, as in pyradiomics.
    """
    number = voxels.sum()
    p = voxels / number
    total = differences.sum()
    weighted = p @ differences
    distance = gray[:, None] - gray[None, :]
    levels = len(gray)
    pairs = levels * (levels - 1)
    spread = np.abs((gray * p)[:, None] - (gray * p)[None, :]).sum()
    product = p * differences
    shares = (product[:, None] + product[None, :]) / (p[:, None] + p[None, :])
    strength = np.sum((p[:, None] + p[None, :]) * distance**2)
    return {
        "Coarseness": 1 / weighted if weighted != 0 else 1e6,
        "Contrast": p @ distance**2 @ p * total / number / pairs if pairs else 0.0,
        "Busyness": weighted / spread if spread != 0 else 0.0,
        "Complexity": np.sum(np.abs(distance) * shares) / number,
        "Strength": strength / total if total != 0 else 0.0,
    }

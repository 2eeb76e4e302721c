"""First-order features of a region (IBSI 3.3 and 3.4, with pyradiomics' deviations)."""

from __future__ import annotations

import numpy as np

EPSILON = np.spacing(1.0)  # keeps log2(0) finite, as in pyradiomics


def firstorder(
    values: np.ndarray, counts: np.ndarray, spacing: tuple[float, float, float], shift: float = 0
) -> dict[str, float]:
    """Features of the intensities `values` (n,); `counts` are the voxels of each grey level.

    `spacing` is (x, y, z) in mm; `shift` (voxelArrayShift) is added for the energies and the root mean
    square. Kurtosis is not reduced by 3. StandardDeviation is included here; `extract` gives it only when
    asked.
    """
    x = values.astype(float)
    mean = x.mean()
    centred = x - mean
    squares = centred * centred
    variance = squares.mean()
    p10, p25, median, p75, p90 = np.percentile(x, (10, 25, 50, 75, 90))
    middle = x[(x >= p10) & (x <= p90)]
    energy = float(np.sum((x + shift) ** 2))
    p = counts / counts.sum()
    flat = variance == 0
    return {
        "Energy": energy,
        "TotalEnergy": energy * float(np.prod(spacing)),
        "Entropy": -np.sum(p * np.log2(p + EPSILON)),
        "Minimum": x.min(),
        "10Percentile": p10,
        "90Percentile": p90,
        "Maximum": x.max(),
        "Mean": mean,
        "Median": median,
        "InterquartileRange": p75 - p25,
        "Range": x.max() - x.min(),
        "MeanAbsoluteDeviation": np.abs(centred).mean(),
        "RobustMeanAbsoluteDeviation": np.abs(middle - middle.mean()).mean() if middle.size else np.nan,
        "RootMeanSquared": np.sqrt(energy / x.size),
        "StandardDeviation": np.sqrt(variance),
        "Skewness": 0.0 if flat else np.mean(squares * centred) / variance**1.5,
        "Kurtosis": 0.0 if flat else np.mean(squares * squares) / variance**2,
        "Variance": variance,
        "Uniformity": np.sum(p * p),
    }

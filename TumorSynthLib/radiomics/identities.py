"""What holds between radiomics features of any region: allowed ranges, equalities, inequalities.

Only exact statements are listed. GLCM and GLRLM features are means over directions; an equality that is linear in the features
survives the mean, one that is not becomes an inequality (Jensen) or is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

_FO, _GLCM, _RUN, _ZONE = (f"original_{c}_" for c in ("firstorder", "glcm", "glrlm", "glszm"))
_POSITIVE = (0.0, inf)
_UNIT = (0.0, 1.0)

#: Lowest and highest value that a feature can have in any region.
RANGES: dict[str, tuple[float, float]] = {
    **{_FO + n: _POSITIVE for n in (
        "Energy TotalEnergy Entropy InterquartileRange Kurtosis MeanAbsoluteDeviation Range RobustMeanAbsoluteDeviation "
        "RootMeanSquared StandardDeviation Variance"
    ).split()},
    _FO + "Uniformity": _UNIT,
    **{_GLCM + n: _POSITIVE for n in (
        "ClusterProminence ClusterTendency Contrast DifferenceAverage DifferenceEntropy DifferenceVariance JointEntropy "
        "SumEntropy SumSquares"
    ).split()},
    **{_GLCM + n: _UNIT for n in "Id Idm Idmn Idn Imc2 InverseVariance JointEnergy MaximumProbability MCC".split()},
    _GLCM + "Correlation": (-1.0, 1.0),
    _GLCM + "Imc1": (-1.0, 0.0),
    _GLCM + "Autocorrelation": (1.0, inf),
    _GLCM + "JointAverage": (1.0, inf),
    _GLCM + "SumAverage": (2.0, inf),
    **{p + n: _UNIT for p, names in (
        (_RUN, "ShortRunEmphasis GrayLevelNonUniformityNormalized RunLengthNonUniformityNormalized RunPercentage "
               "LowGrayLevelRunEmphasis ShortRunLowGrayLevelEmphasis"),
        (_ZONE, "SmallAreaEmphasis GrayLevelNonUniformityNormalized SizeZoneNonUniformityNormalized ZonePercentage "
                "LowGrayLevelZoneEmphasis SmallAreaLowGrayLevelEmphasis"),
    ) for n in names.split()},
    **{p + n: (1.0, inf) for p, names in (
        (_RUN, "LongRunEmphasis HighGrayLevelRunEmphasis LongRunHighGrayLevelEmphasis"),
        (_ZONE, "LargeAreaEmphasis HighGrayLevelZoneEmphasis LargeAreaHighGrayLevelEmphasis"),
    ) for n in names.split()},
    **{p + n: _POSITIVE for p, names in (
        (_RUN, "GrayLevelNonUniformity RunLengthNonUniformity GrayLevelVariance RunVariance RunEntropy "
               "ShortRunHighGrayLevelEmphasis LongRunLowGrayLevelEmphasis"),
        (_ZONE, "GrayLevelNonUniformity SizeZoneNonUniformity GrayLevelVariance ZoneVariance ZoneEntropy "
                "SmallAreaHighGrayLevelEmphasis LargeAreaLowGrayLevelEmphasis"),
    ) for n in names.split()},
}  # fmt: skip
TINY = 1e-9  # rounding in the extraction may pass a limit by this much


@dataclass(frozen=True)
class Relation:
    """`residual(values)` is zero (`equal`) or not above zero, for the values of `names` in that order."""

    text: str
    names: tuple[str, ...]
    residual: Callable[..., float]
    equal: bool = False


def _relation(
    text: str, prefix: str, names: str, residual: Callable[..., float], equal: bool = False
) -> Relation:
    return Relation(text, tuple(prefix + n for n in names.split()), residual, equal)


def relations(
    voxels: int | None = None, shift: float = 0.0, voxel_volume: float | None = None
) -> tuple[Relation, ...]:
    """All relations; those with Energy only where the number of voxels (and mm³ per voxel) is known.

    :param shift: pyradiomics' voxelArrayShift, which Energy and RootMeanSquared contain and Mean does not.
    """
    return (*_firstorder(voxels, shift, voxel_volume), *_cooccurrence(), *_sizes(voxels))


def _firstorder(voxels: int | None, shift: float, voxel_volume: float | None) -> list[Relation]:
    def above(low: str, high: str) -> Relation:
        return _relation(f"{low} ≤ {high}", _FO, f"{low} {high}", lambda a, b: a - b)

    result = [
        _relation("RootMeanSquared² = (Mean + shift)² + Variance", _FO, "RootMeanSquared Mean Variance",
                  lambda r, m, v: r * r - (m + shift) ** 2 - v, True),
        _relation("StandardDeviation² = Variance", _FO, "StandardDeviation Variance",
                  lambda s, v: s * s - v, True),
        _relation("Range = Maximum - Minimum", _FO, "Range Maximum Minimum", lambda r, a, b: r - a + b, True),
        above("Minimum", "10Percentile"), above("10Percentile", "Median"), above("Median", "90Percentile"),
        above("90Percentile", "Maximum"), above("Minimum", "Median"), above("Median", "Maximum"),
        above("10Percentile", "90Percentile"), above("Minimum", "Maximum"), above("Minimum", "90Percentile"),
        above("10Percentile", "Maximum"), above("Minimum", "Mean"), above("Mean", "Maximum"),
        above("InterquartileRange", "Range"), above("MeanAbsoluteDeviation", "Range"),
        _relation("InterquartileRange ≤ 90Percentile - 10Percentile", _FO, "InterquartileRange 90Percentile 10Percentile",
                  lambda i, a, b: i - a + b),
        _relation("RobustMeanAbsoluteDeviation ≤ (90Percentile - 10Percentile) / 2", _FO,
                  "RobustMeanAbsoluteDeviation 90Percentile 10Percentile", lambda r, a, b: r - (a - b) / 2),
        _relation("MeanAbsoluteDeviation² ≤ Variance", _FO, "MeanAbsoluteDeviation Variance",
                  lambda d, v: d * d - v),
        _relation("|Mean - Median|² ≤ Variance", _FO, "Mean Median Variance",
                  lambda m, d, v: (m - d) ** 2 - v),
        _relation("Variance ≤ Range² / 4", _FO, "Variance Range", lambda v, r: v - r * r / 4),
        _relation("Variance ≤ (Maximum - Mean)(Mean - Minimum)", _FO, "Variance Maximum Mean Minimum",
                  lambda v, a, m, b: v - (a - m) * (m - b)),
        _relation("Skewness² + 1 ≤ Kurtosis (or both 0 in a flat region)", _FO, "Skewness Kurtosis",
                  lambda s, k: 0.0 if s == k == 0 else s**2 + 1 - k),
        _relation("-log2(Uniformity) ≤ Entropy", _FO, "Uniformity Entropy",
                  lambda u, h: -np.log2(max(u, 1e-12)) - h),
    ]  # fmt: skip
    if voxels:
        result.append(
            _relation(
                "Energy = voxels · RootMeanSquared²",
                _FO,
                "Energy RootMeanSquared",
                lambda e, r: e - voxels * r * r,
                True,
            )
        )
        result.append(_relation("2 ^ Entropy ≤ voxels", _FO, "Entropy", lambda h: h - np.log2(voxels)))
    if voxel_volume:
        result.append(
            _relation(
                "TotalEnergy = Energy · voxel volume",
                _FO,
                "TotalEnergy Energy",
                lambda t, e: t / voxel_volume - e,
                True,
            )
        )
    return result


def _cooccurrence() -> list[Relation]:
    def above(low: str, high: str) -> Relation:
        return _relation(f"{low} ≤ {high}", _GLCM, f"{low} {high}", lambda a, b: a - b)

    return [
        _relation("SumAverage = 2 · JointAverage", _GLCM, "SumAverage JointAverage", lambda s, j: s - 2 * j, True),
        _relation("ClusterTendency + Contrast = 4 · SumSquares", _GLCM, "ClusterTendency Contrast SumSquares",
                  lambda t, c, s: t + c - 4 * s, True),
        _relation("DifferenceVariance + DifferenceAverage² ≤ Contrast", _GLCM,
                  "DifferenceVariance DifferenceAverage Contrast", lambda v, a, c: v + a * a - c),
        above("DifferenceAverage", "Contrast"), above("Idm", "Id"), above("Id", "Idn"), above("Idm", "Idmn"),
        above("JointEnergy", "MaximumProbability"), above("SumEntropy", "JointEntropy"),
        above("DifferenceEntropy", "JointEntropy"),
        _relation("MaximumProbability² ≤ JointEnergy", _GLCM, "MaximumProbability JointEnergy",
                  lambda m, e: m * m - e),
        _relation("-log2(JointEnergy) ≤ JointEntropy", _GLCM, "JointEnergy JointEntropy",
                  lambda e, h: -np.log2(max(e, 1e-12)) - h),
    ]  # fmt: skip


def _sizes(voxels: int | None) -> list[Relation]:
    def above(prefix: str, low: str, high: str) -> Relation:
        return _relation(f"{low} ≤ {high}", prefix, f"{low} {high}", lambda a, b: a - b)

    result = [
        _relation("RunVariance + 1 / RunPercentage² ≤ LongRunEmphasis", _RUN, "RunVariance RunPercentage LongRunEmphasis",
                  lambda v, p, e: v + 1 / max(p, 1e-6) ** 2 - e),
        above(_RUN, "ShortRunLowGrayLevelEmphasis", "LowGrayLevelRunEmphasis"),
        above(_RUN, "ShortRunHighGrayLevelEmphasis", "HighGrayLevelRunEmphasis"),
        above(_RUN, "HighGrayLevelRunEmphasis", "LongRunHighGrayLevelEmphasis"),
        above(_RUN, "LowGrayLevelRunEmphasis", "LongRunLowGrayLevelEmphasis"),
        above(_RUN, "RunPercentage", "LongRunEmphasis"),
        above(_ZONE, "SmallAreaLowGrayLevelEmphasis", "LowGrayLevelZoneEmphasis"),
        above(_ZONE, "SmallAreaHighGrayLevelEmphasis", "HighGrayLevelZoneEmphasis"),
        above(_ZONE, "HighGrayLevelZoneEmphasis", "LargeAreaHighGrayLevelEmphasis"),
        above(_ZONE, "LowGrayLevelZoneEmphasis", "LargeAreaLowGrayLevelEmphasis"),
        _relation("ZoneVariance + 1 / ZonePercentage² = LargeAreaEmphasis", _ZONE,
                  "ZoneVariance ZonePercentage LargeAreaEmphasis", lambda v, p, e: v + 1 / max(p, 1e-6) ** 2 - e, True),
        _relation("the non-uniformities have one number of zones", _ZONE,
                  "GrayLevelNonUniformity GrayLevelNonUniformityNormalized SizeZoneNonUniformity SizeZoneNonUniformityNormalized",
                  lambda g, gn, s, sn: g * sn - s * gn, True),
    ]  # fmt: skip
    if voxels:
        for name in ("GrayLevelNonUniformity", "SizeZoneNonUniformity"):
            result.append(
                _relation(
                    f"{name} = {name}Normalized · ZonePercentage · voxels",
                    _ZONE,
                    f"{name} {name}Normalized ZonePercentage",
                    lambda g, n, p: g - n * p * voxels,
                    True,
                )
            )
    return result


def broken(features: Mapping[str, float], rules: tuple[Relation, ...], tolerance: float = 1e-5) -> list[str]:
    """The relations that the features break by more than `tolerance` of the values involved."""
    result = []
    for rule in rules:
        if all(name in features for name in rule.names):
            values = [features[name] for name in rule.names]
            excess = rule.residual(*values)
            if (abs(excess) if rule.equal else excess) > tolerance * max(1.0, *map(abs, values)):
                result.append(rule.text)
    return result

"""Shape features as logarithms, in which the identities between them are straight lines.

Ten logarithms (`BASE`: mesh and voxel volume, surface, four diameters, three axes) give all 17 features of pyradiomics by
addition: log Sphericity = log(36 π)/3 + 2/3 log V - log A, and so on. So a set of features that contradicts itself is
recognised, and the nearest one that doesn't is found, by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

PREFIX = "original_shape_"
BASE = (
    "MeshVolume VoxelVolume SurfaceArea Maximum3DDiameter Maximum2DDiameterSlice Maximum2DDiameterColumn "
    "Maximum2DDiameterRow MajorAxisLength MinorAxisLength LeastAxisLength"
).split()
V, W, A, D3, DZ, DY, DX, L1, L2, L3 = range(10)
#: Power of length of each base feature: what scaling a shape adds to its logarithm.
SCALE = np.array([3.0, 3.0, 2.0, *[1.0] * 7])

_SPHERE = math.log(36 * math.pi)


def _row(**weights: float) -> np.ndarray:
    row = np.zeros(len(BASE))
    for name, weight in weights.items():
        row[{"V": V, "A": A, "L1": L1, "L2": L2, "L3": L3}[name]] = weight
    return row


#: feature -> (constant, weights (10,)) of its logarithm.
FEATURES: dict[str, tuple[float, np.ndarray]] = {
    **{name: (0.0, np.eye(len(BASE))[k]) for k, name in enumerate(BASE)},
    "SurfaceVolumeRatio": (0.0, _row(A=1, V=-1)),
    "Sphericity": (_SPHERE / 3, _row(V=2 / 3, A=-1)),
    "Compactness1": (-math.log(math.pi) / 2, _row(V=1, A=-1.5)),
    "Compactness2": (_SPHERE, _row(V=2, A=-3)),
    "SphericalDisproportion": (-_SPHERE / 3, _row(V=-2 / 3, A=1)),
    "Elongation": (0.0, _row(L2=1, L1=-1)),
    "Flatness": (0.0, _row(L3=1, L1=-1)),
}
NAMES = tuple(PREFIX + name for name in FEATURES)

#: weights (10,) and bound: no shape has weights @ logs above the bound.
_BALL = -_SPHERE / 3
_ELLIPSOID = math.log(math.pi * 5**1.5 / 48)  # V / (L1 L2 L3) of an ellipsoid, the largest for its moments
LIMITS: tuple[tuple[np.ndarray, float], ...] = (
    (_row(V=2 / 3, A=-1), _BALL),
    (_row(V=1, L1=-1, L2=-1, L3=-1), _ELLIPSOID + 0.02),  # voxels are not points
    (_row(L2=1, L1=-1), 0.0),
    (_row(L3=1, L2=-1), 0.0),
    (np.eye(10)[V] - 3 * np.eye(10)[D3], math.log(math.pi / 6)),
    *((np.eye(10)[k] - np.eye(10)[D3], 0.0) for k in (DZ, DY, DX)),
    (np.eye(10)[L1] - np.eye(10)[D3], 0.0),
)


def short(name: str) -> str:
    """`Sphericity` for `original_shape_Sphericity`."""
    return name[len(PREFIX) :] if name.startswith(PREFIX) else name


def logs(features: Mapping[str, float]) -> np.ndarray:
    """Base logarithms (10,) of a full set of features; names with or without the prefix."""
    known = {short(name): value for name, value in features.items()}
    return np.log([max(float(known[name]), 1e-12) for name in BASE])


def features_of(base: np.ndarray) -> dict[str, float]:
    """All 17 features, by pyradiomics' full names, of base logarithms (10,)."""
    return {PREFIX + name: float(np.exp(constant + row @ base)) for name, (constant, row) in FEATURES.items()}


def rows(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, 10) and constants (n,) of the logarithms of some features."""
    pairs = [FEATURES[short(name)] for name in names]
    return np.array([row for _, row in pairs]).reshape(-1, len(BASE)), np.array([c for c, _ in pairs])

"""What a tumour's texture features would be in a tumour of another size.

Co-occurrence and run-length features depend on how many voxels they are counted in, even those that don't grow with them:
few pairs make a sparse matrix, few voxels a sparse histogram without extremes. How much is read off the population: the part
of a feature that follows the volume where level, spread and skewness are the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .population import Population

VOLUME = "original_shape_VoxelVolume"
HELD = ("Mean", "Variance", "Skewness", "10Percentile", "90Percentile")  # say how intensities are distributed
COUNTED = (
    "Entropy",
    "Uniformity",
    "Minimum",
    "Maximum",
    "Range",
    "Kurtosis",
)  # first-order, and yet of few voxels
CLASSES = ("glcm", "glrlm", "glszm", "gldm", "ngtdm")
CERTAIN = 3.0  # standard errors that a slope must differ from zero by
REACH = 2.5  # standard deviations of a feature that it is moved by at most
LEAST = 30  # tumours below which a population tells no slopes


def slopes(population: Population) -> dict[str, float]:
    """Change of each feature, in the population's Gaussian units, per unit of the volume's logarithm.

    Ordinary least squares on log volume and the `HELD` first-order features; only slopes that are certain.
    """
    names = list(population.names)
    held = [names.index(n) for n in (f"original_firstorder_{h}" for h in HELD) if n in names]
    if VOLUME not in names or len(population.cases) < LEAST:
        return {}
    z, size = population.gaussian, np.log(population.values[:, names.index(VOLUME)])
    design = np.column_stack([size - size.mean(), np.ones(len(z)), z[:, held]])
    moved = [k for k, n in enumerate(names) if n.split("_")[1] in CLASSES or n.split("_")[2] in COUNTED]
    fitted, _, rank, _ = np.linalg.lstsq(design, z[:, moved], rcond=None)
    rest = z[:, moved] - design @ fitted
    noise = (rest**2).sum(0) / max(len(z) - rank, 1)
    error = np.sqrt(noise * np.linalg.pinv(design.T @ design)[0, 0])
    return {names[k]: float(b) for k, b, e in zip(moved, fitted[0], error) if abs(b) > CERTAIN * e}


def at_size(
    population: Population, features: Mapping[str, float], volume: float, wanted: float
) -> dict[str, float]:
    """Features of a tumour of `volume` mm³ as one of `wanted` mm³ with intensities like its own would have them.

    A size beyond the population's counts as its largest or smallest, and no feature leaves the population's range, or leaves it
    farther than the tumour's own: slopes say nothing of what lies there.
    """
    if not slopes(population):
        return dict(features)
    sizes = population.values[:, list(population.names).index(VOLUME)]
    known = np.log(np.clip([volume, wanted], sizes.min(), sizes.max()))
    moved, step = dict(features), float(known[1] - known[0])
    for name, slope in slopes(population).items():
        if name not in features:
            continue
        map_ = population.map_of(name)
        place = map_.forward(features[name]) + np.clip(slope * step, -REACH, REACH)
        column = population.values[:, list(population.names).index(name)]
        low, high = min(column.min(), features[name]), max(column.max(), features[name])
        moved[name] = float(np.clip(map_.backward(place), low, high))
    return moved

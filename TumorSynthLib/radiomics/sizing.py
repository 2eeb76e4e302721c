"""What a tumour's texture features would be in a tumour of another size.

Co-occurrence and run-length features depend on how many voxels they are counted in, even those that don't grow with them:
few pairs make a sparse matrix, few voxels a sparse histogram without extremes. How much is read off the population: the part
of a feature that follows the volume where level, spread and skewness are the same. Each feature moved on its own makes a set
that no tumour has: the set is then drawn to those of about the new size, the more the farther it was moved.
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
DOUBT = 0.45  # standard error of a moved feature, in Gaussian units per unit of the volume's logarithm
ABOUT = 0.7  # standard deviation, in the volume's logarithm, of the sizes that count as about the new one
TOGETHER = 100  # tumours below which a population doesn't tell how features go together at a size


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
    moved = [k for k, n in enumerate(names) if _moves(n)]
    fitted, _, rank, _ = np.linalg.lstsq(design, z[:, moved], rcond=None)
    rest = z[:, moved] - design @ fitted
    noise = (rest**2).sum(0) / max(len(z) - rank, 1)
    error = np.sqrt(noise * np.linalg.pinv(design.T @ design)[0, 0])
    return {names[k]: float(b) for k, b, e in zip(moved, fitted[0], error) if abs(b) > CERTAIN * e}


def _moves(name: str) -> bool:
    """Whether a feature follows the number of voxels that it is counted in."""
    _, kind, feature = name.split("_", 2)
    return kind in CLASSES or feature in COUNTED


def _usual(population: Population, names: list[str], z: np.ndarray, size: float, step: float) -> np.ndarray:
    """Features z (n,) in Gaussian units as tumours of about this size (log mm³) have them together.

    Posterior mean: prior the tumours' mean and covariance, weighted by how near their size is, and the mean's slope with it;
    error of z the `DOUBT` of a step. Nothing moves where there was no step, or where tumours are few.
    """
    if len(population.cases) < TOGETHER:
        return z
    column = {n: k for k, n in enumerate(population.names)}
    sizes = np.log(population.values[:, column[VOLUME]])
    weight = np.exp(-0.5 * ((sizes - size) / ABOUT) ** 2)
    weight /= weight.sum()
    near = population.gaussian[:, [column[n] for n in names]]
    middle, off = weight @ near, sizes - weight @ sizes
    slope = weight * off @ (near - middle) / max(float(weight @ off**2), 1e-9)
    rest = near - middle - np.outer(off, slope)
    expected = middle + slope * (size - weight @ sizes)
    covariance = (weight[:, None] * rest).T @ rest
    doubt = max((DOUBT * step) ** 2, 1e-9)
    return expected + covariance @ np.linalg.solve(covariance + doubt * np.eye(len(z)), z - expected)


def at_size(
    population: Population, features: Mapping[str, float], volume: float, wanted: float
) -> dict[str, float]:
    """Features of a tumour of `volume` mm³ as one of `wanted` mm³ with intensities like its own would have them.

    A size beyond the population's counts as its largest or smallest, and no feature leaves the population's range, or leaves it
    farther than the tumour's own: slopes say nothing of what lies there.
    """
    follow = slopes(population)
    if not follow:
        return dict(features)
    column = {n: k for k, n in enumerate(population.names)}
    sizes = population.values[:, column[VOLUME]]
    known = np.log(np.clip([volume, wanted], sizes.min(), sizes.max()))
    step = float(known[1] - known[0])
    names = [n for n in features if n in column and not population.map_of(n).constant]
    names = [n for n in names if _moves(n) or (n.split("_")[1] == "firstorder" and not n.endswith("Energy"))]
    moved = dict(features)
    if not step or not names:
        return moved
    maps = [population.map_of(n) for n in names]
    own = np.array([float(m.forward(features[n])) for m, n in zip(maps, names)])
    z = own + [np.clip(follow.get(n, 0.0) * step, -REACH, REACH) for n in names]
    places = _usual(population, names, z, float(known[1]), step)
    for name, map_, was, place in zip(names, maps, own, places):
        if _moves(name) and place != was:
            values = population.values[:, column[name]]
            low, high = min(values.min(), features[name]), max(values.max(), features[name])
            moved[name] = float(np.clip(map_.backward(place), low, high))
    return moved

"""Shape features of a mask (IBSI 3.1, with pyradiomics' names and deviations)."""

from __future__ import annotations

import numpy as np

from .mesh import area_and_volume, vertices

# Directions in which the width of a plane's points is measured: they bound its diameter to 0.2 %.
WIDTHS = 24
# With at most this many points left, all their distances are computed; with more, only the convex hull's.
MANY_POINTS = 1500


def shape(mask: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    """The 17 shape features of a mask (D, H, W); `spacing` is (x, y, z) in mm, results are in mm, mm², mm³.

    Compactness1, Compactness2 and SphericalDisproportion, which follow from Sphericity, are included.
    """
    padded = np.pad(mask, 1)
    area, volume = area_and_volume(padded, spacing)
    sphere = (36 * np.pi * volume**2) ** (1 / 3)  # area of the sphere of this volume
    least, minor, major = _axis_variances(padded, spacing)
    diameters = _diameters(vertices(padded), spacing)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "MeshVolume": volume,
            "VoxelVolume": int(np.count_nonzero(mask)) * float(np.prod(spacing)),
            "SurfaceArea": area,
            "SurfaceVolumeRatio": np.float64(area) / volume,
            "Sphericity": sphere / area,
            "Compactness1": volume / (area**1.5 * np.sqrt(np.pi)),
            "Compactness2": 36 * np.pi * volume**2 / area**3,
            "SphericalDisproportion": np.float64(area) / sphere,
            "Maximum3DDiameter": diameters[3],
            "Maximum2DDiameterSlice": diameters[0],
            "Maximum2DDiameterColumn": diameters[1],
            "Maximum2DDiameterRow": diameters[2],
            "MajorAxisLength": 4 * np.sqrt(major),
            "MinorAxisLength": 4 * np.sqrt(minor),
            "LeastAxisLength": 4 * np.sqrt(least),
            "Elongation": np.sqrt(minor / major),
            "Flatness": np.sqrt(least / major),
        }


def _axis_variances(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Variances (mm²) of the voxel centres along their principal axes, ascending."""
    points = np.argwhere(mask) * np.array(spacing[::-1], float)
    points -= points.mean(0)
    variances = np.linalg.eigvalsh(points.T @ points / len(points))
    return np.where((variances < 0) & (variances > -1e-10), 0, variances)  # a plane has one of rounding size


def _diameters(points: np.ndarray, spacing: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Largest distances (mm) within slices, columns, rows and overall.

    `points` are the vertices (n, 3) as (z, y, x) in half voxels, `spacing` is (x, y, z) in mm.
    """
    scale = np.array(spacing[::-1], float) / 2
    planar = [_largest_in_planes(points, scale, axis) for axis in range(3)]
    return (*planar, _largest_overall(points * scale))


def _largest_overall(points: np.ndarray) -> float:
    """Largest distance between any two of many points (n, 3)."""
    start = points[0]
    for _ in range(3):  # hopping to the farthest point finds a distance near the largest
        other = start
        start = points[np.argmax(np.sum((points - start) ** 2, 1))]
    near = np.linalg.norm(start - other)
    radius = np.linalg.norm(points - (start + other) / 2, axis=1)
    # Both ends of a longer distance lie at least this far from the middle (triangle inequality).
    points = points[radius >= (near - radius.max()) * (1 - 1e-9)]
    if len(points) > MANY_POINTS:
        from scipy.spatial import ConvexHull

        points = points[ConvexHull(points).vertices]
    return _largest_distance(points)


def _largest_distance(points: np.ndarray) -> float:
    """Largest distance between any two points (n, d)."""
    centred = points - points.mean(0)
    squares = np.sum(centred**2, 1)
    largest = 0.0
    for start in range(0, len(points), 512):  # keeps the table of distances small
        part = slice(start, start + 512)
        table = centred[part] @ centred[start:].T
        table *= -2
        table += squares[part, None]
        table += squares[None, start:]
        i, j = np.unravel_index(np.argmax(table), table.shape)
        largest = max(largest, float(np.linalg.norm(points[start + i] - points[start + j])))
    return largest


def _largest_in_planes(points: np.ndarray, scale: np.ndarray, axis: int) -> float:
    """Largest distance (mm) between two points that share their coordinate along `axis`.

    The widths of a plane's points in several directions bound its diameter from below and above; only planes
    that can hold the largest are looked into.
    """
    order = np.argsort(points[:, axis], kind="stable")
    plane = points[order, axis]
    starts = np.append(0, np.flatnonzero(plane[1:] != plane[:-1]) + 1)
    ends = np.append(starts[1:], len(order))
    flat = (points[order] * scale)[:, [a for a in range(3) if a != axis]]
    angles = np.arange(WIDTHS) * np.pi / WIDTHS
    along = np.stack([np.cos(angles), np.sin(angles)]).T @ flat.T
    width = (np.maximum.reduceat(along, starts, axis=1) - np.minimum.reduceat(along, starts, axis=1)).max(0)
    largest = width.max() * (1 - 1e-9)
    upper = width / np.cos(np.pi / (2 * WIDTHS))
    for k in np.argsort(-upper):
        if upper[k] <= largest:
            break
        members = flat[starts[k] : ends[k]]
        radius = np.linalg.norm(members - (members.max(0) + members.min(0)) / 2, axis=1)
        far = radius >= (largest - radius.max()) * (1 - 1e-9)
        if far.any():
            largest = max(largest, _largest_distance(members[far]))
    return float(largest)

"""Shape features of a mask (IBSI 3.1, with pyradiomics' names and deviations)."""

from __future__ import annotations

import numpy as np

from .mesh import area_and_volume, vertices

# Below this many points all distances are computed at once; above it, a convex hull pays off.
DIRECT_POINTS = 400


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
    points = np.argwhere(mask) * np.array(spacing[::-1])
    points -= points.mean(0)
    variances = np.linalg.eigvalsh(points.T @ points / len(points))
    return np.where((variances < 0) & (variances > -1e-10), 0, variances)  # a plane has one of rounding size


def _diameters(points: np.ndarray, spacing: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Largest distances (mm) between vertices (n, 3; z, y, x in half voxels): within slices, columns, rows, overall."""
    scale = np.array(spacing[::-1]) / 2
    planar = [_largest_in_planes(points, scale, axis) for axis in range(3)]
    extreme = _ends_of_lines(points, 2)
    if len(extreme) > DIRECT_POINTS:
        from scipy.spatial import ConvexHull

        extreme = extreme[ConvexHull(extreme).vertices]
    return (*planar, _largest_distance(extreme * scale))


def _ends_of_lines(points: np.ndarray, axis: int) -> np.ndarray:
    """The first and last point on every line along `axis`: no other point can be an end of the diameter."""
    others = [a for a in range(points.shape[1]) if a != axis]
    size = points.max(0) + 1
    line = points[:, others[0]]
    for other in others[1:]:
        line = line * size[other] + points[:, other]
    order = np.argsort(line * size[axis] + points[:, axis])
    line = line[order]
    change = line[1:] != line[:-1]
    keep = np.append(True, change) | np.append(change, True)
    return points[order[keep]]


def _largest_distance(points: np.ndarray) -> float:
    """Largest distance between any two points (n, d)."""
    largest = 0.0
    for start in range(0, len(points), 512):  # keeps the table of distances small
        offsets = points[start:start + 512, None, :] - points[None, start:, :]
        largest = max(largest, float(np.einsum("abk,abk->ab", offsets, offsets).max()))
    return float(np.sqrt(largest))


def _largest_in_planes(points: np.ndarray, scale: np.ndarray, axis: int) -> float:
    """Largest distance (mm) between two points that share their coordinate along `axis`.

    Planes are visited by the diagonal of their bounding box, until no diagonal left exceeds the result.
    """
    u, v = (a for a in range(3) if a != axis)
    order = np.lexsort((points[:, u], points[:, axis]))
    plane = points[order, axis]
    starts = np.append(0, np.flatnonzero(plane[1:] != plane[:-1]) + 1)
    flat = points[order][:, [u, v]] * scale[[u, v]]
    extent = np.maximum.reduceat(flat, starts) - np.minimum.reduceat(flat, starts)
    bound = np.hypot(extent[:, 0], extent[:, 1])
    ends = np.append(starts[1:], len(flat))
    largest = 0.0
    for k in np.argsort(-bound):
        if bound[k] <= largest:
            break
        members = points[order[starts[k]:ends[k]]][:, [u, v]]
        largest = max(largest, _largest_distance(_ends_of_lines(members, 1) * scale[[u, v]]))
    return largest

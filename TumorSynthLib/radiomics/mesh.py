"""Area, volume and vertices of the surface mesh of a mask, cell by cell, as pyradiomics defines it.

A cell is a cube between eight voxel centres. Vertices lie half-way on its edges between a voxel of the region
and one outside; on each face of the cube they are joined by segments, the segments close to loops, and the
loops are split into triangles (marching cubes, Lorensen and Cline 1987). A cell whose corner (1, 1, 0)
belongs to the region is treated as its complement with the normals reversed. Two things are conventions:
where a face has its two region corners on a diagonal, these corners are cut off; and the way a loop of four
vertices or more is split (`SPLITS`), which was fitted to areas and volumes that pyradiomics reports for
random masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

# Corners as (z, y, x); corner number = 4 z + 2 y + x.
CORNERS = np.array([(n >> 2 & 1, n >> 1 & 1, n & 1) for n in range(8)])
REVERSING = 6  # the corner (1, 1, 0)
# Edges as pairs of corners, in ascending order, and their mid-points.
EDGES = [(a, b) for a, b in combinations(range(8), 2) if bin(a ^ b).count("1") == 1]
MIDPOINTS = np.array([(CORNERS[a] + CORNERS[b]) / 2 for a, b in EDGES])
# Corners of each face in order around it, all in the same sense seen from outside.
FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
# One digit (base 62) per loop of at least four vertices: which of `splits` it takes. Cells ascend in their
# number (bit n: corner n belongs to the region), without those that hold the reversing corner.
SPLITS = (
    "000000100000000200030200000012200100212000300FF00000022320000000002n3k0700300003k1101203022002n070d20i7"
)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class CellTable:
    """What each of the 256 cells contributes, in units of voxels, axes (z, y, x).

    normals: (t, 3) cross products of the triangles' sides; cell: (t,) the cell that each belongs to.
    volume: (256,) six times the volume of the tetrahedra between the triangles and the cell's origin.
    drift: (256, 3) how `volume` changes when the cell moves by one voxel along each axis.
    """

    normals: np.ndarray
    cell: np.ndarray
    volume: np.ndarray
    drift: np.ndarray


def loops(inside: tuple[bool, ...]) -> list[tuple[int, ...]]:
    """Closed loops of edge numbers around the region's corners; each starts at its smallest edge."""
    follows = {}
    for face in FACES:
        crossed = []  # (edge, does it leave the region?) in the order around the face
        for a, b in zip(face, face[1:] + face[:1]):
            if inside[a] != inside[b]:
                crossed.append((EDGES.index((min(a, b), max(a, b))), inside[a]))
        for k, (edge, leaving) in enumerate(crossed):
            if leaving:  # the edge before it entered at the corner that is cut off
                follows[crossed[k - 1][0]] = edge
    found = []
    while follows:
        edge = min(follows)
        loop = []
        while edge in follows:
            loop.append(edge)
            edge = follows.pop(edge)
        found.append(tuple(loop))
    return found


@lru_cache(maxsize=None)
def splits(size: int) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """All ways to split a polygon with vertices 0 ... size - 1 into triangles, in a fixed order."""

    def between(first: int, last: int) -> list[list[tuple[int, int, int]]]:
        if last - first < 2:
            return [[]]
        return [
            left + [(first, apex, last)] + right
            for apex in range(first + 1, last)
            for left in between(first, apex)
            for right in between(apex, last)
        ]

    return tuple(tuple(split) for split in between(0, size - 1))


@lru_cache(maxsize=1)
def cell_table() -> CellTable:
    """The contributions of all cells, built once."""
    digits = iter(SPLITS)
    normals, owners = [], []
    volume, drift = np.zeros(256), np.zeros((256, 3))
    for cell in range(1, 256):
        if cell >> REVERSING & 1:
            continue
        for loop in loops(tuple(bool(cell >> n & 1) for n in range(8))):
            choice = DIGITS.index(next(digits)) if len(loop) > 3 else 0
            corners = MIDPOINTS[np.array(loop)[np.array(splits(len(loop))[choice])]]
            a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
            cross = np.cross(b - a, c - a)
            normals.append(cross)
            owners += [cell] * len(cross)
            volume[cell] += np.sum(a * np.cross(b, c))
            drift[cell] += cross.sum(0)
    reversed_cells = np.arange(255, -1, -1)
    owners = np.array(owners)
    return CellTable(
        np.concatenate(normals * 2),
        np.concatenate([owners, 255 - owners]),
        volume - volume[reversed_cells],
        drift - drift[reversed_cells],
    )


def area_and_volume(mask: np.ndarray, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """Area (mm²) and volume (mm³) of the mesh of a mask (D, H, W) that is padded with one empty voxel.

    `spacing` is (x, y, z) in mm. The volume counts from the corner of the array, as in pyradiomics, which
    matters only where the mesh isn't closed.
    """
    table = cell_table()
    depth, height, width = (size - 1 for size in mask.shape)
    bits = mask.astype(np.uint8)
    cells = np.zeros((depth, height, width), np.uint8)
    for n, (z, y, x) in enumerate(CORNERS):
        cells |= bits[z : z + depth, y : y + height, x : x + width] << np.uint8(n)
    surface = np.flatnonzero((cells > 0).ravel() & (cells < 255).ravel())
    kinds = cells.ravel()[surface]
    counts = np.bincount(kinds, minlength=256)
    dz, dy, dx = spacing[::-1]
    scaled = table.normals * (dy * dx, dz * dx, dz * dy)
    area = 0.5 * np.sum(np.sqrt(np.sum(scaled**2, 1)) * counts[table.cell])
    position = np.unravel_index(surface, cells.shape)
    sixfold = counts @ table.volume + sum(
        np.sum(table.drift[kinds, axis] * position[axis]) for axis in range(3)
    )
    return float(area), float(sixfold / 6 * dx * dy * dz)


def vertices(mask: np.ndarray) -> np.ndarray:
    """Vertices (n, 3) of the mesh of a padded mask (D, H, W) as (z, y, x) in half voxels, integers."""
    found = []
    for axis in range(3):
        upper = np.moveaxis(mask, axis, 0)
        crossing = np.argwhere(np.moveaxis(upper[1:] != upper[:-1], 0, axis)) * 2
        crossing[:, axis] += 1
        found.append(crossing)
    return np.concatenate(found)

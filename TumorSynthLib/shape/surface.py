"""A closed triangle surface of a smooth field, and how volume, area and moments follow its vertices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Corners of a cell (z, y, x), and its edges between them.
_CORNERS = np.array([(n >> 2 & 1, n >> 1 & 1, n & 1) for n in range(8)])
_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1])


@dataclass(frozen=True)
class Surface:
    """vertices (V, 3) in mm, axes x, y, z (LPS), from the centroid; faces (F, 3) int, anticlockwise seen from outside.

    `mask` (K, J, I) bool is the same tumour on a coarse grid of `spacing` (x, y, z) mm.
    """

    vertices: np.ndarray
    faces: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]


def surface_nets(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) in index units, axes as the array's, and faces (F, 3) of the zero level of a field, positive inside.

    One vertex in each cell that the surface passes, at the mean of the crossings of its edges (surface nets, Gibson 1998).
    The field must be negative at the border of the array.
    """
    box = around(values > 0)
    values = np.ascontiguousarray(values[box], np.float64)
    inside = values > 0
    count = sum(inside[_part(c, inside.shape)].astype(np.uint8) for c in _CORNERS)
    flat = np.flatnonzero((count.ravel() & 7) > 0)  # neither none nor all eight
    number = np.full(count.size, -1, np.int64)
    number[flat] = np.arange(len(flat))
    cells = np.stack(np.unravel_index(flat, count.shape), 1)
    start, steps = _flat(cells, inside.shape), _flat(_CORNERS, inside.shape)
    corner = values.ravel()[start + steps[:, None]]  # (8, cells)
    a, b = corner[_EDGES[:, 0]], corner[_EDGES[:, 1]]
    crossed = (a > 0) != (b > 0)
    share = np.divide(a, a - b, out=np.zeros_like(a), where=crossed)
    begin, along = _CORNERS[_EDGES[:, 0]], _CORNERS[_EDGES[:, 1]] - _CORNERS[_EDGES[:, 0]]
    total = crossed.T.astype(np.float64) @ begin + share.T @ along
    vertices = cells + total / crossed.sum(0)[:, None] + [s.start for s in box]
    return vertices, _faces(inside, number, count.shape)


def around(mask: np.ndarray) -> tuple[slice, ...]:
    """The mask's box and one voxel around it, within the array; all of it where the mask is empty."""
    flat = (mask.any(2), mask.any(0))
    lines = [np.flatnonzero(line) for line in (flat[0].any(1), flat[0].any(0), flat[1].any(0))]
    if not len(lines[0]):
        return tuple(slice(0, n) for n in mask.shape)
    return tuple(slice(max(0, k[0] - 1), min(n, k[-1] + 2)) for k, n in zip(lines, mask.shape))


def _flat(index: np.ndarray, shape) -> np.ndarray:
    """Indices (n, 3) as those of the flattened array."""
    return (index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2]


def _part(corner, shape):
    return tuple(slice(c, n - 1 + c) for c, n in zip(corner, shape))


def _faces(inside: np.ndarray, number: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Two triangles around each grid edge that the surface crosses, between the four cells (of an array of this shape) at it."""
    faces, step = [], np.array([cells[1] * cells[2], cells[2], 1])
    for axis in range(3):
        first, second = step[(axis + 1) % 3], step[(axis + 2) % 3]
        ends = [slice(None)] * 3
        low, high = (inside[(*ends[:axis], part, *ends[axis + 1 :])] for part in (slice(-1), slice(1, None)))
        change = low != high
        at = np.flatnonzero(change)
        cell = _flat(np.stack(np.unravel_index(at, change.shape), 1), cells)
        ring = number[cell[:, None] - [first + second, second, 0, first]]
        ring = np.where(low.ravel()[at][:, None], ring, ring[:, ::-1])
        faces += [ring[:, [0, 1, 2]], ring[:, [0, 2, 3]]]
    return np.concatenate(faces)


class Slopes:
    """A closed surface's features and their first derivatives in its vertices, each computed when it is asked for.

    :param vertices: (V, 3) mm, `faces` (F, 3).
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self._faces, self._count = faces.T, len(vertices)
        self._corners = vertices.T[:, faces.T]  # (3 axes, 3 corners, F)

    @cached_property
    def _normal(self) -> np.ndarray:
        """(3, F) outwards, twice as long as a face has mm²."""
        a, b, c = (self._corners[:, k] for k in range(3))
        return _cross(b - a, c - a)

    @cached_property
    def _length(self) -> np.ndarray:
        return np.maximum(np.sqrt((self._normal**2).sum(0)), 1e-12)

    @cached_property
    def _six(self) -> np.ndarray:
        """(F,) six times the volume between each face and the origin."""
        return (self._corners[:, 0] * self._normal).sum(0)

    @cached_property
    def area(self) -> float:
        """mm²."""
        return float(self._length.sum() / 2)

    @cached_property
    def volume(self) -> float:
        """mm³; negative where the faces turn inwards."""
        return float(self._six.sum() / 6)

    @cached_property
    def centre(self) -> np.ndarray:
        """(3,) mm of the enclosed points."""
        return self._corners.sum(1) @ self._six / 24 / self.volume

    @cached_property
    def covariance(self) -> np.ndarray:
        """(3, 3) mm² of the enclosed points."""
        parts = (*(self._corners[:, k] for k in range(3)), self._corners.sum(1))
        second = sum((p * self._six) @ p.T for p in parts) / 120 / self.volume
        return second - np.outer(self.centre, self.centre)

    @cached_property
    def push(self) -> np.ndarray:
        """(V, 3) derivative of the volume."""
        return self._added([self._normal / 6] * 3)

    @cached_property
    def pull(self) -> np.ndarray:
        """(V, 3) derivative of the area."""
        unit, p = self._normal / self._length, self._corners
        return self._added([_cross(unit, p[:, (k + 2) % 3] - p[:, (k + 1) % 3]) / 2 for k in range(3)])

    def _added(self, parts: list[np.ndarray]) -> np.ndarray:
        """(V, 3) sums over the faces at each vertex of what each face gives to its three corners, (3, F) each."""
        index, parts = self._faces.ravel(), np.concatenate(parts, 1)
        return np.stack([np.bincount(index, line, self._count) for line in parts], 1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Vector product of (3, n), which is many times faster than numpy's along the last axis."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])

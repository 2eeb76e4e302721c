"""A closed triangle surface of a smooth field, and how volume, area and moments follow its vertices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Edges of a cell between its corners (z, y, x).
_CORNERS = np.array([(n >> 2 & 1, n >> 1 & 1, n & 1) for n in range(8)])
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]


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
    inside = values > 0
    bits = [inside[_part(c, inside.shape)] for c in _CORNERS]
    count = sum(b.astype(np.uint8) for b in bits)
    cells = np.argwhere((count > 0) & (count < 8))
    number = np.full(count.shape, -1, np.int64)
    number[tuple(cells.T)] = np.arange(len(cells))
    corner = np.stack([values[tuple((cells + c).T)] for c in _CORNERS], 1).astype(np.float64)
    total, hits = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for a, b in _EDGES:
        crossed = (corner[:, a] > 0) != (corner[:, b] > 0)
        va, vb = corner[crossed, a], corner[crossed, b]
        share = (va / (va - vb))[:, None]
        total[crossed] += _CORNERS[a] + share * (_CORNERS[b] - _CORNERS[a])
        hits[crossed] += 1
    return cells + total / hits[:, None], _faces(inside, number)


def _part(corner, shape):
    return tuple(slice(c, n - 1 + c) for c, n in zip(corner, shape))


def _faces(inside: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Two triangles around each grid edge that the surface crosses, between the four cells at that edge."""
    faces = []
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        low, high = np.moveaxis(inside, axis, 0)[:-1], np.moveaxis(inside, axis, 0)[1:]
        at = np.argwhere(np.moveaxis(low != high, 0, axis))
        at = at[
            (
                (at[:, [first, second]] > 0)
                & (at[:, [first, second]] < np.array(number.shape)[[first, second]])
            ).all(1)
        ]
        leaving = inside[tuple(at.T)]
        ring = []
        for da, db in ((1, 1), (0, 1), (0, 0), (1, 0)):
            cell = at.copy()
            cell[:, first] -= da
            cell[:, second] -= db
            ring.append(number[tuple(cell.T)])
        ring = np.stack(ring, 1)
        ring = np.where(leaving[:, None], ring, ring[:, ::-1])
        faces += [ring[:, [0, 1, 2]], ring[:, [0, 2, 3]]]
    return np.concatenate(faces)


@dataclass(frozen=True)
class Slopes:
    """First derivatives of a closed surface in its vertices.

    :param volume: mm³, `area` mm², `centre` (3,), `covariance` (3, 3) of the enclosed points.
    :param push: (V, 3) derivative of the volume; `pull`: (V, 3) of the area.
    """

    volume: float
    area: float
    centre: np.ndarray
    covariance: np.ndarray
    push: np.ndarray
    pull: np.ndarray


def slopes(vertices: np.ndarray, faces: np.ndarray) -> Slopes:
    """Volume, area and moments of the solid inside a closed surface, with their derivatives."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    length = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    unit = normal / length
    push, pull = np.zeros_like(vertices), np.zeros_like(vertices)
    for k, (one, other) in enumerate(((b, c), (c, a), (a, b))):
        _add(push, faces[:, k], np.cross(one, other) / 6)
        _add(pull, faces[:, k], np.cross(unit, other - one) / 2)
    six = np.einsum("ij,ij->i", a, np.cross(b, c))
    volume = six.sum() / 6
    centre = (six[:, None] * (a + b + c)).sum(0) / 24 / volume
    total = a + b + c
    second = sum(np.einsum("i,ij,ik->jk", six, p, p) for p in (a, b, c, total)) / 120 / volume
    return Slopes(
        float(volume), float(length.sum() / 2), centre, second - np.outer(centre, centre), push, pull
    )


def _add(target: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
    """target[index] += values, repeated indices adding up."""
    for axis in range(target.shape[1]):
        target[:, axis] += np.bincount(index, values[:, axis], len(target))

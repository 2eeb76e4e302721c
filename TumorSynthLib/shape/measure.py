"""The ten base features of a mask, with the points that its diameters hang on: quick, for the solver's loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..radiomics.mesh import area_and_volume, vertices

ANGLES = 24  # directions in a plane, and
DIRECTIONS = 30  # directions in space, in which widths are looked for
PAIRS = 600  # points of one plane of which all distances are computed


@dataclass(frozen=True)
class Measure:
    """:param logs: (10,) base logarithms. :param ends: (4, 2, 3) end points in mm (z, y, x) of the diameters: in space,
    within slices, columns, rows. :param centre: (3,) mm and `covariance` (3, 3) mm² of the voxels."""

    logs: np.ndarray
    ends: np.ndarray
    centre: np.ndarray
    covariance: np.ndarray


def measure(mask: np.ndarray, spacing: tuple[float, float, float]) -> Measure:
    """Base features of a (D, H, W) mask; diameters may be a little short (0.1 %)."""
    steps = np.array(spacing[::-1], float)
    padded = np.pad(mask, 1)
    area, volume = area_and_volume(padded, spacing)
    count, centre, covariance = _moments(mask, steps)
    least, minor, major = np.maximum(np.linalg.eigvalsh(covariance), 1e-9)
    corners = vertices(padded)
    ends = np.stack([_in_space(corners * steps / 2), *(_in_planes(corners, steps / 2, k) for k in range(3))])
    ends -= steps  # the padding
    widths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    axes = 4 * np.sqrt([major, minor, least])
    values = [max(volume, 1e-9), count * steps.prod(), area, *widths, *axes]
    return Measure(np.log(np.maximum(values, 1e-9)), ends, centre, covariance)


def _moments(mask: np.ndarray, steps: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of voxels, their centre (3,) mm and covariance (3, 3) mm², from the mask's three projections."""
    flat = {(0, 1): mask.sum(2), (0, 2): mask.sum(1), (1, 2): mask.sum(0)}
    lines = [flat[0, 1].sum(1), flat[0, 1].sum(0), flat[0, 2].sum(0)]
    count = int(lines[0].sum())
    places = [np.arange(n) * s for n, s in zip(mask.shape, steps)]
    centre = np.array([line @ place / count for line, place in zip(lines, places)])
    places = [place - c for place, c in zip(places, centre)]
    covariance = np.diag([line @ place**2 / count for line, place in zip(lines, places)])
    for (a, b), projection in flat.items():
        covariance[a, b] = covariance[b, a] = places[a] @ projection @ places[b] / count
    return count, centre, covariance


def _in_space(points: np.ndarray) -> np.ndarray:
    """(2, 3) two points with about the largest distance."""
    k = np.arange(DIRECTIONS) + 0.5
    height, turn = k / DIRECTIONS, np.pi * (1 + 5**0.5) * k  # Fibonacci half-sphere
    ring = np.sqrt(1 - height**2)
    along = points @ np.stack([height, ring * np.cos(turn), ring * np.sin(turn)])
    first, last = along.argmin(0), along.argmax(0)
    best = np.sum((points[first] - points[last]) ** 2, 1).argsort()[-3:]
    found = None
    for i, j in zip(first[best], last[best]):
        for _ in range(2):
            i, j = j, int(np.sum((points - points[j]) ** 2, 1).argmax())
        distance = np.sum((points[i] - points[j]) ** 2)
        if found is None or distance > found[0]:
            found = distance, points[[i, j]]
    return found[1]


def _in_planes(points: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """(2, 3) two points in one plane across `axis` with about the largest distance; `points` integers, mm = points · scale."""
    order = np.argsort(points[:, axis], kind="stable")
    points = points[order]
    plane = points[:, axis]
    starts = np.append(0, np.flatnonzero(np.diff(plane)) + 1)
    ends = np.append(starts[1:], len(plane))
    position = points * scale
    flat = position[:, [a for a in range(3) if a != axis]]
    angles = np.arange(ANGLES) * np.pi / ANGLES
    along = np.stack([np.cos(angles), np.sin(angles)]).T @ flat.T
    widths = np.maximum.reduceat(along, starts, axis=1) - np.minimum.reduceat(along, starts, axis=1)
    k = int(widths.max(0).argmax())
    part, members = flat[starts[k] : ends[k]], position[starts[k] : ends[k]]
    if len(part) > PAIRS:
        row = along[widths[:, k].argmax(), starts[k] : ends[k]]
        return members[[row.argmin(), row.argmax()]]
    squares = np.sum((part[:, None] - part[None]) ** 2, -1)
    i, j = np.unravel_index(squares.argmax(), squares.shape)
    return members[[i, j]]

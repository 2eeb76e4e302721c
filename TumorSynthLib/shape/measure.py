"""The ten base features of a mask, with the points that its diameters hang on: quick, for the solver's loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..radiomics.mesh import area_and_volume, vertices

ANGLES = 24  # directions in a plane, and
DIRECTIONS = 30  # directions in space, in which widths are looked for
RIVALS = 8  # widths beside a diameter that are told, if they are
RIVAL = 0.9  # of it at least, and
APART = 0.2  # of it apart from each other
PAIRS = 600  # points of one plane of which all distances are computed


@dataclass(frozen=True)
class Measure:
    """:param logs: (10,) base logarithms. :param ends: (4, 2, 3) end points in mm (z, y, x) of the diameters: in space,
    within slices, columns, rows. :param rivals: for each of the four, (n, 2, 3) ends of other widths that are nearly as large:
    where the diameter has to shrink, these have to as well."""

    logs: np.ndarray
    ends: np.ndarray
    rivals: tuple[np.ndarray, ...]


def measure(mask: np.ndarray, spacing: tuple[float, float, float]) -> Measure:
    """Base features of a (D, H, W) mask; diameters may be a little short (0.1 %)."""
    steps = np.array(spacing[::-1], float)
    padded = np.pad(mask, 1)
    area, volume = area_and_volume(padded, spacing)
    count, covariance = _moments(mask, steps)
    least, minor, major = np.maximum(np.linalg.eigvalsh(covariance), 1e-9)
    corners = vertices(padded)
    found = [_in_space(corners * steps / 2), *(_in_planes(corners, steps / 2, k) for k in range(3))]
    ends = np.stack([f[0] for f in found]) - steps  # the padding
    widths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    axes = 4 * np.sqrt([major, minor, least])
    values = [max(volume, 1e-9), count * steps.prod(), area, *widths, *axes]
    return Measure(np.log(np.maximum(values, 1e-9)), ends, tuple(_distinct(*f) - steps for f in found))


def _distinct(ends: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, 2, 3) of the other pairs that are nearly as long as (2, 3) `ends` and lie apart from it and from each other."""
    widths = np.linalg.norm(others[:, 0] - others[:, 1], axis=1)
    most = np.linalg.norm(ends[0] - ends[1])
    left, kept = others[np.argsort(-widths)[: np.count_nonzero(widths > RIVAL * most)]], [ends]
    while True:
        both = np.stack([left, left[:, ::-1]]) - kept[-1]  # (2, n, 2, 3)
        left = left[(both**2).sum(-1).max(-1).min(0) > (APART * most) ** 2]
        if not len(left) or len(kept) > RIVALS:
            return np.array(kept[1:]).reshape(-1, 2, 3)
        kept.append(left[0])


def _moments(mask: np.ndarray, steps: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of voxels and their covariance (3, 3) mm², from the mask's three projections."""
    flat = {(0, 1): mask.sum(2), (0, 2): mask.sum(1), (1, 2): mask.sum(0)}
    lines = [flat[0, 1].sum(1), flat[0, 1].sum(0), flat[0, 2].sum(0)]
    count = int(lines[0].sum())
    places = [np.arange(n) * s for n, s in zip(mask.shape, steps)]
    centre = np.array([line @ place / count for line, place in zip(lines, places)])
    places = [place - c for place, c in zip(places, centre)]
    covariance = np.diag([line @ place**2 / count for line, place in zip(lines, places)])
    for (a, b), projection in flat.items():
        covariance[a, b] = covariance[b, a] = places[a] @ projection @ places[b] / count
    return count, covariance


def _in_space(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, 3) two points with about the largest distance, and (n, 2, 3) the farthest pairs in several directions."""
    k = np.arange(DIRECTIONS) + 0.5
    height, turn = k / DIRECTIONS, np.pi * (1 + 5**0.5) * k  # Fibonacci half-sphere
    ring = np.sqrt(1 - height**2)
    along = points @ np.stack([height, ring * np.cos(turn), ring * np.sin(turn)])
    pairs = points[np.stack([along.argmin(0), along.argmax(0)], 1)]
    best, most = pairs[0], -1.0
    for pair in pairs[np.sum((pairs[:, 0] - pairs[:, 1]) ** 2, 1).argsort()[-3:]]:
        for _ in range(2):  # hopping to the farthest point
            pair = np.stack([pair[1], points[np.sum((points - pair[1]) ** 2, 1).argmax()]])
        if np.sum((pair[0] - pair[1]) ** 2) > most:
            best, most = pair, np.sum((pair[0] - pair[1]) ** 2)
    return best, pairs


def _in_planes(points: np.ndarray, scale: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_in_space`, of points that share their coordinate along `axis`; `points` are integers, mm = points · scale."""
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
    pairs = []
    for entry in np.argsort(-widths, axis=None)[: 40 * RIVALS : 4]:
        angle, k = np.unravel_index(entry, widths.shape)
        if widths[angle, k] < RIVAL * widths.max():
            break
        row = along[angle, starts[k] : ends[k]]
        pairs.append(position[starts[k] + np.array([row.argmin(), row.argmax()])])
    k = int(widths.max(0).argmax())
    part, members = flat[starts[k] : ends[k]], position[starts[k] : ends[k]]
    if len(part) > PAIRS:
        return pairs[0], np.array(pairs)
    squares = np.sum((part[:, None] - part[None]) ** 2, -1)
    return members[list(np.unravel_index(squares.argmax(), squares.shape))], np.array(pairs)

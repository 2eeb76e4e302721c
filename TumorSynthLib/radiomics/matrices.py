"""Texture matrices of a discretised region, without a loop over voxels.

The grid of a region is padded with zeros, so a shift by an offset is a shift of the flat array: what leaves
the box lands in the padding. All matrices have the levels that occur as rows.
"""

from __future__ import annotations

import numpy as np

from .discretise import Levels, half_neighbourhood
from .settings import Settings

Offset = tuple[int, int, int]


def glcm(levels: Levels, settings: Settings) -> tuple[np.ndarray, list[Offset]]:
    """Co-occurrence counts (offset, level, neighbour's level), and the offsets (IBSI 3.6)."""
    offsets = half_neighbourhood(levels, settings)
    flat = levels.flat
    size = len(levels.gray) + 1  # row and column 0 count the outside
    inside = np.flatnonzero(flat)
    scaled = flat[inside].astype(np.intp) * size
    neighbour = np.empty(inside.size, flat.dtype)  # buffers: fresh memory costs more than the arithmetic
    pairs = np.empty_like(scaled)
    counts = np.empty((len(offsets), size, size))
    for k, offset in enumerate(offsets):
        flat[levels.step(offset) :].take(inside, out=neighbour, mode="clip")  # the padding keeps it in range
        np.add(scaled, neighbour, out=pairs)
        counts[k] = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return counts[:, 1:, 1:], offsets


def glrlm(levels: Levels, settings: Settings) -> tuple[np.ndarray, list[Offset]]:
    """Run counts (offset, level, length - 1), and the offsets (IBSI 3.7).

    As in pyradiomics, a direction in which no line holds two voxels of the region stays empty.
    """
    offsets = half_neighbourhood(levels, settings, (1,))
    rows, longest = len(levels.gray) + 1, max(levels.box)
    counts = np.zeros((len(offsets), rows, longest))
    for k, offset in enumerate(offsets):
        runs = _runs(levels, levels.step(offset), longest)
        if not runs[1:, 1:].any() and not _shares_a_line(levels, offset):
            continue
        counts[k] = runs
    return counts[:, 1:], offsets


def _runs(levels: Levels, step: int, longest: int) -> np.ndarray:
    """Runs (level, length - 1) along one direction; row 0 counts the outside."""
    flat = levels.flat
    # Laid out in rows of `step`, the voxels of a line stand below each other; the last row is padding.
    lines = np.zeros(-(-flat.size // step) * step, flat.dtype)
    lines[: flat.size] = flat
    lines = lines.reshape(-1, step).T.ravel()
    ends = np.flatnonzero(lines[1:] != lines[:-1])
    codes = lines[ends].astype(np.intp)
    codes *= longest
    codes[1:] += np.minimum(np.diff(ends), longest) - 1  # the first run lies outside
    return np.bincount(codes, minlength=(len(levels.gray) + 1) * longest).reshape(-1, longest)


def _shares_a_line(levels: Levels, offset: Offset) -> bool:
    """Whether two voxels of the region lie on one line along `offset`, adjacent or not."""
    voxels = np.argwhere(levels.grid)
    axis = next(a for a in range(3) if offset[a])
    lines = voxels - np.outer(voxels[:, axis] * offset[axis], offset)
    return len(np.unique(lines, axis=0)) < len(lines)


def glszm(levels: Levels, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Zone counts (level, size), and the sizes that occur (IBSI 3.8); zones are 26-connected."""
    zones, zone, own = _zones(levels, settings)
    of_zone = np.zeros(zones, own.dtype)
    of_zone[zone] = own
    sizes, column = np.unique(np.bincount(zone), return_inverse=True)
    codes = (of_zone.astype(np.intp) - 1) * len(sizes) + column
    counts = np.bincount(codes, minlength=len(levels.gray) * len(sizes))
    return counts.reshape(len(levels.gray), len(sizes)).astype(float), sizes.astype(float)


def _zones(levels: Levels, settings: Settings) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of zones, and for each voxel of the region its zone and its level."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    flat = levels.flat
    voxels = np.flatnonzero(flat)
    node = np.zeros(flat.size, np.int32)
    node[voxels] = np.arange(len(voxels))
    first, second = [], []
    for step, here in _links(levels, settings):
        first.append(node[here])
        second.append(node[step:][here])
    if not first:
        return len(voxels), np.arange(len(voxels)), flat[voxels]
    rows, columns = np.concatenate(first), np.concatenate(second)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(voxels), len(voxels)))
    zones, zone = connected_components(graph, directed=False)
    return zones, zone, flat[voxels]


def _links(levels: Levels, settings: Settings) -> list[tuple[int, np.ndarray]]:
    """Pairs of equal neighbours that connect all zones: flat step, and indices of the first voxels.

    A diagonal pair is left out where a voxel between the two has their level too: going through it connects
    them.
    """
    flat = levels.flat
    offsets = half_neighbourhood(levels, settings, (1,))
    alike = {}
    for offset in sorted(offsets, key=lambda o: np.count_nonzero(o)):
        step = levels.step(offset)
        equal = np.zeros(flat.size, bool)
        np.equal(flat[:-step], flat[step:], out=equal[:-step])
        equal &= flat > 0
        alike[offset] = equal
    found = []
    for offset, equal in alike.items():
        needed = equal.copy()
        for axis in range(3):
            through = tuple(0 if a == axis else c for a, c in enumerate(offset))
            if offset[axis] and through in alike:
                needed &= ~alike[through]
        found.append((levels.step(offset), np.flatnonzero(needed)))
    return found


def gldm(levels: Levels, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Dependence counts (level, dependence), and the dependences that occur (IBSI 3.11).

    A dependence is the voxel itself plus the neighbours whose level differs by gldm_a at most.
    """
    flat = levels.flat
    inside = flat > 0
    dependence = np.ones(flat.size, np.uint16)
    numbers = np.append(0, levels.gray).astype(np.int32)[flat] if settings.gldm_a else None
    for offset in half_neighbourhood(levels, settings):
        step = levels.step(offset)
        if numbers is None:
            alike = (flat[:-step] == flat[step:]) & inside[step:]
        else:
            alike = np.abs(numbers[:-step] - numbers[step:]) <= settings.gldm_a
            alike &= inside[:-step] & inside[step:]
        dependence[:-step] += alike
        dependence[step:] += alike
    dependence = dependence[inside].astype(np.intp)
    width = int(dependence.max()) + 1
    codes = (flat[inside].astype(np.intp) - 1) * width + dependence
    counts = np.bincount(codes, minlength=len(levels.gray) * width).reshape(-1, width)
    present = np.flatnonzero(counts.any(axis=0))
    return counts[:, present].astype(float), present.astype(float)


def ngtdm(levels: Levels, settings: Settings) -> np.ndarray:
    """Sum over the voxels of each level of their difference from the mean of their neighbours (IBSI 3.10)."""
    flat = levels.flat
    inside = flat > 0
    numbers = np.append(0, levels.gray).astype(np.int32)[flat]
    total = np.zeros(flat.size, np.int32)
    neighbours = np.zeros(flat.size, np.int16)
    for offset in half_neighbourhood(levels, settings):
        step = levels.step(offset)
        total[:-step] += numbers[step:]
        total[step:] += numbers[:-step]
        neighbours[:-step] += inside[step:]
        neighbours[step:] += inside[:-step]
    valid = np.flatnonzero(inside & (neighbours > 0))  # a voxel alone adds no difference
    difference = np.abs(numbers[valid] - total[valid] / neighbours[valid])
    return np.bincount(flat[valid].astype(np.intp) - 1, difference, len(levels.gray))

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
    size = len(levels.gray) + 1  # row and column 0 count the outside
    own = levels.flat.astype(np.intp)
    scaled = own * size
    counts = np.empty((len(offsets), size, size))
    for k, offset in enumerate(offsets):
        step = levels.step(offset)
        pairs = scaled[:-step] + own[step:]
        counts[k] = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return np.ascontiguousarray(counts[:, 1:, 1:]), offsets


def glrlm(levels: Levels, settings: Settings) -> tuple[np.ndarray, list[Offset]]:
    """Run counts (offset, level, length - 1), and the offsets (IBSI 3.7).

    As in pyradiomics, a direction in which no line holds two voxels of the region stays empty.
    """
    offsets = half_neighbourhood(levels, settings, (1,))
    rows, longest = len(levels.gray) + 1, max(levels.box)
    voxels = int(levels.counts.sum())
    counts = np.zeros((len(offsets), rows, longest))
    for k, offset in enumerate(offsets):
        of_run, length = _runs(levels, levels.step(offset))
        if len(length) == voxels and not _shares_a_line(levels, offset):
            continue
        codes = of_run.astype(np.intp) * longest + (length - 1)
        counts[k] = np.bincount(codes, minlength=rows * longest).reshape(rows, longest)
    return counts[:, 1:], offsets


def _runs(levels: Levels, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Level and length of all runs along one direction."""
    flat = levels.flat
    # Laid out in rows of `step`, the voxels of a line stand below each other; the last row lies in the padding.
    lines = np.zeros(-(-flat.size // step) * step, flat.dtype)
    lines[:flat.size] = flat
    lines = lines.reshape(-1, step).T.ravel()
    ends = np.flatnonzero(lines[1:] != lines[:-1])
    of_run = lines[ends]
    length = np.diff(ends, prepend=-1)
    inside = of_run > 0
    return of_run[inside], length[inside]


def _shares_a_line(levels: Levels, offset: Offset) -> bool:
    """Whether two voxels of the region lie on one line along `offset`, adjacent or not."""
    voxels = np.argwhere(levels.grid)
    axis = next(a for a in range(3) if offset[a])
    lines = voxels - np.outer(voxels[:, axis] * offset[axis], offset)
    return len(np.unique(lines, axis=0)) < len(lines)


def glszm(levels: Levels, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Zone counts (level, size), and the sizes that occur (IBSI 3.8); zones are 26-connected."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    flat = levels.flat
    inside = flat > 0
    node = np.cumsum(inside, dtype=np.int32) - 1
    own = flat[inside]
    first, second = [], []
    for offset in half_neighbourhood(levels, settings, (1,)):
        step = levels.step(offset)
        here = np.flatnonzero((flat[:-step] == flat[step:]) & inside[step:])
        first.append(node[here])
        second.append(node[here + step])
    if first:
        rows, columns = np.concatenate(first), np.concatenate(second)
        graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(own), len(own)))
        zones, zone = connected_components(graph, directed=False)
    else:
        zones, zone = len(own), np.arange(len(own))
    of_zone = np.zeros(zones, own.dtype)
    of_zone[zone] = own
    sizes, column = np.unique(np.bincount(zone), return_inverse=True)
    codes = (of_zone.astype(np.intp) - 1) * len(sizes) + column
    counts = np.bincount(codes, minlength=len(levels.gray) * len(sizes))
    return counts.reshape(len(levels.gray), len(sizes)).astype(float), sizes.astype(float)


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

"""Seams to the voxel: where pieces of blocks meet, each voxel chooses anew among those of the nearest blocks."""

from __future__ import annotations

import numpy as np

from .candidates import NO_LENDER_COST, Costs
from .lenders import NO_LENDER, SCALE, STRANGE, SURFACE, Atlas, Pieces
from .propagation import propagate
from .shiftmap import Blocks, ShiftMapConfig
from .spatial import neighbours


def refine(
    atlas: Atlas, pieces: Pieces, blocks: Blocks, chosen, fill, known, config: ShiftMapConfig
) -> np.ndarray:
    """Seams to the voxel: each voxel chooses among the pieces of its own and the nearest blocks. int (D, H,
    W), -1 outside `fill`."""
    nodes = np.argwhere(fill)
    options = _nearby(nodes, blocks, chosen)
    place, offsets = atlas.flat(nodes), atlas.offsets(pieces)
    open_ = (options != options[:, :1]).any(1)
    ids = np.full(fill.shape, -1)
    ids[fill] = np.arange(len(nodes))
    unary = _of_itself(atlas, place, place[:, None] + offsets[options], config.costs)
    edges = []
    for axis, sign, rows, beside in neighbours(nodes, fill.shape):
        if sign > 0:
            other = ids[beside]
            use = (other >= 0) & (open_[rows] | open_[other])
            edges.append(
                (rows[use], other[use], np.full(int(use.sum()), config.tie if axis == 0 else 1.0, np.float32))
            )
        rim = rows[known[beside] & open_[rows]]
        there = place[rim] + sign * atlas.strides[axis]
        unary[rim] += atlas.unlike(
            there[:, None] + offsets[options[rim]], atlas.look(there)[:, None]
        ) * np.float32(0.5 / SCALE**2)
    first, second, tie = (np.concatenate(e) for e in zip(*edges))
    pair = _pairs(atlas, place, offsets, options, first, second, config.voxel_step * tie)
    choice = propagate(unary, first, second, pair, config.voxel_rounds, config.damping, config.sweeps)
    labels = np.full(fill.shape, -1)
    labels[fill] = options[np.arange(len(options)), choice]
    return labels


def _pairs(atlas: Atlas, place, offsets, options, first, second, step) -> np.ndarray:
    """Cost of each pair of pieces at neighbouring voxels: what the copies differ at both, and a step: (L, L, E)."""
    count = options.shape[1]
    pair = np.empty((count, count, len(first)), np.float32)
    for a in range(count):
        for b in range(count):
            pair[a, b] = step * (options[first, a] != options[second, b])
    for there in (place[first], place[second]):
        x, y = (
            [_features(atlas, there + offsets[options[e, k]]) for k in range(count)] for e in (first, second)
        )
        for a in range(count):
            for b in range(count):
                apart = _squares(x[a], y[b])
                apart *= np.float32(0.5 / SCALE**2)
                pair[a, b] += apart
    return pair


def _squares(some, others) -> np.ndarray:
    """Squared differences, summed over the features: float32 (n,)."""
    total, *more = (p - q for p, q in zip(some, others))
    total *= total
    for apart in more:
        apart *= apart
        total += apart
    return total


def _of_itself(atlas: Atlas, places, copies, costs: Costs) -> np.ndarray:
    """Cost of copies (n, L) for voxels (n,) by themselves: mustn't lend, or lies at another depth."""
    lent = atlas.look(copies)
    depth = atlas.look(places)[:, None, SURFACE].astype(np.float32)
    missing = NO_LENDER_COST * (lent[..., STRANGE] == NO_LENDER)
    return (missing + costs.surface / SCALE**2 * (lent[..., SURFACE] - depth) ** 2).astype(np.float32)


def _nearby(nodes, blocks: Blocks, chosen) -> np.ndarray:
    """Pieces of each voxel's own block and of the nearest block along each axis: (n, 4)."""
    block, inside = np.divmod(nodes - blocks.start, blocks.size)
    own = chosen[tuple(block.T)]
    options = [own]
    for axis in range(3):
        beside = block.copy()
        beside[:, axis] += np.where(inside[:, axis] * 2 >= blocks.size[axis], 1, -1)
        beside[:, axis] = np.clip(beside[:, axis], 0, chosen.shape[axis] - 1)
        piece = chosen[tuple(beside.T)]
        options.append(np.where(piece < 0, own, piece))
    return np.stack(options, -1)


def _features(atlas: Atlas, places) -> list[np.ndarray]:
    """The features at flat places (n,), float32 (n,) each."""
    found = atlas.look(places)
    return [found[:, channel].astype(np.float32) for channel in range(STRANGE)]

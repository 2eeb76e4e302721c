"""Which piece goes where: one piece per block of the hole by belief propagation, then seams to the voxel.

Minimised is  sum_i unary(i, l_i) + sum_ij pair(ij, l_i, l_j)  over the labels l (candidates). A pair of
neighbours costs what both copies differ in the band over their common face, plus a step where the labels
differ; equal labels cost nothing, so that pieces stay large and structures whole. (Pritch et al., Shift-map
image editing, ICCV 2009, describe the idea.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from .candidates import NO_LENDER_COST, Costs
from .lenders import NO_LENDER, SCALE, STRANGE, SURFACE, Atlas, Pieces, unlike
from .propagation import propagate
from .spatial import grid_points


@dataclass(frozen=True)
class ShiftMapConfig:
    """Costs in squared units of the features."""

    costs: Costs = field(default_factory=Costs)
    block_mm: float = 6.0
    labels: int = 28
    """Pieces that a block may choose from: its cheapest ones."""
    step: float = 1.0
    """Cost of a seam, besides what differs there."""
    tie: float = 2.0
    """A seam's step from slice to slice, in units of one's in plane."""
    border: float = 2.0
    """Weight of what differs from the known voxels next to a block."""
    structure: float = 2.0
    """A known voxel of a vessel, a fascia or another fine structure counts so many times more: it is to go on."""
    repeated: float = 1.5
    """Tissue that is used already, per other block that takes it."""
    turns: int = 2
    """How often the pieces are chosen anew, knowing what is used."""
    unknown: float = 8.0
    """Cost of a known voxel whose copy is unknown."""
    inner_samples: int = 20
    border_samples: int = 64
    face_samples: int = 64
    rounds: int = 16
    sweeps: int = 9
    damping: float = 0.4
    voxel_step: float = 0.2
    voxel_rounds: int = 8


@dataclass(frozen=True, eq=False)
class Blocks:
    """The hole in blocks: `size` voxels each, the grid's `shape`, `start` of the first; `node` (shape)
    numbers the active ones or -1."""

    size: np.ndarray
    start: np.ndarray
    node: np.ndarray
    corner: np.ndarray  # (N, 3) of each active block


def blocks_of(fill: np.ndarray, spacing, config: ShiftMapConfig) -> Blocks:
    size = block_size(spacing, config)
    at = np.argwhere(fill)
    extent = np.ptp(at, 0) + 1
    shape = -(-extent // size)
    start = at.min(0) - (shape * size - extent) // 2
    node = np.full(shape, -1)
    active = np.zeros(shape, bool)
    active[tuple(((at - start) // size).T)] = True
    node[active] = np.arange(active.sum())
    return Blocks(size, start, node, np.argwhere(active) * size + start)


def block_size(spacing, config: ShiftMapConfig) -> np.ndarray:
    """Voxels of a block along each axis."""
    return np.array([max(1, round(config.block_mm / s)) for s in spacing])


def choose(
    atlas: Atlas,
    pieces: Pieces,
    blocks: Blocks,
    fill,
    known,
    spacing,
    seed: int,
    config: ShiftMapConfig,
    tick=lambda share: None,
) -> np.ndarray:
    """One piece per block: int (blocks' grid), -1 where there is no block."""
    rng = np.random.default_rng(seed)
    unary = _unary(atlas, pieces, blocks, fill, known, spacing, rng, config)
    tick(0.4)
    count = min(config.labels, len(pieces))
    options = np.argsort(unary, 1, kind="stable")[:, :count]
    unary = np.take_along_axis(unary, options, 1)
    edges = [_faces(atlas, pieces, blocks, options, axis, rng, config) for axis in range(3)]
    tick(0.7)
    first, second, pair = (np.concatenate(e, -1) for e in zip(*edges))
    choice = propagate(unary, first, second, pair, config.rounds, config.damping, config.sweeps)
    used = np.zeros_like(unary)
    for turn in range(config.turns):
        # the mean over all turns: what the last one alone left would be taken again by all blocks at once
        used += _used(atlas, pieces, blocks, options, choice)
        again = unary + config.repeated / (turn + 1) * used
        choice = propagate(again, first, second, pair, config.rounds, config.damping, config.sweeps)
    out = np.full(blocks.node.shape, -1)
    out[blocks.node >= 0] = options[np.arange(len(options)), choice]
    return out


def _used(atlas: Atlas, pieces: Pieces, blocks: Blocks, options, choice) -> np.ndarray:
    """How many other blocks take their tissue from where each option (N, L) of a block would, by cells of a block's size:
    what is used several times is seen as a pattern."""
    sources = blocks.corner[:, None] + pieces.shifts[options] + atlas.pad
    cells = sources // blocks.size
    shape = np.array(atlas.shape) // blocks.size + 1
    cell = np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), tuple(shape)) + pieces.banks[options] * int(
        np.prod(shape)
    )
    own = cell[np.arange(len(cell)), choice]
    count = np.bincount(own, minlength=int(cell.max()) + 1)
    return (count[cell] - (cell == own[:, None])).astype(np.float32)


def _sampled(atlas: Atlas, blocks: Blocks, which: np.ndarray, low, high, count: int, rng):
    """For each block up to `count` voxels of a kind (`which` > 0; higher ones first) between two corners: flat
    places, weights (sum 1), share of the kind."""
    offsets = grid_points(low, high)
    where = atlas.flat(blocks.corner)[:, None] + (offsets * atlas.strides).sum(1)
    has = which[where]
    key = rng.random(where.shape, np.float32) - which[where]
    has = has > 0
    count = min(count, where.shape[1])
    some = (
        np.argpartition(key, count - 1, axis=1)[:, :count] if count < where.shape[1] else np.argsort(key, 1)
    )
    some = np.sort(some, 1)
    weight = np.take_along_axis(has, some, 1).astype(np.float32)
    return (
        np.take_along_axis(where, some, 1),
        weight / np.maximum(weight.sum(1, keepdims=True), 1),
        has.mean(1),
    )


def _half_band(blocks: Blocks) -> np.ndarray:
    """Half width (voxels) of the band over a face in which copies are compared."""
    return np.minimum((1, 2, 2), blocks.size)


def _unary(atlas, pieces, blocks, fill, known, spacing, rng, config: ShiftMapConfig) -> np.ndarray:
    """Cost of each piece for each block by itself: float32 (N, K)."""
    is_fill, is_known = (atlas.padded(m.astype(np.float32), 0).reshape(-1) for m in (fill, known))
    near = atlas.flat(np.argwhere(ndimage.binary_dilation(fill, iterations=4) & known))
    is_known[near] += atlas.structure(near) > 0.5  # vessels are few voxels: none is left out
    band, zero = _half_band(blocks), np.zeros(3, int)
    inner, inner_weight, _ = _sampled(atlas, blocks, is_fill, zero, blocks.size, config.inner_samples, rng)
    outer, outer_weight, share = _sampled(
        atlas, blocks, is_known, -band, blocks.size + band, config.border_samples, rng
    )
    outer_weight = outer_weight * (1 + config.structure * atlas.structure(outer))
    length = np.sqrt(((pieces.shifts * np.array(spacing)) ** 2).sum(1))
    depth, costs = atlas.look(inner)[..., SURFACE].astype(np.float32), config.costs
    unary = np.empty((len(inner), len(pieces)), np.float32)
    rim = np.flatnonzero(share > 0)
    outer, outer_weight = outer[rim], (config.border * share[:, None] * outer_weight)[rim]
    own = atlas.look(outer).astype(np.float32)
    for k, offset in enumerate(atlas.offsets(pieces)):
        lent = atlas.look(inner + offset)
        missing, strange = lent[..., STRANGE] == NO_LENDER, (lent[..., STRANGE] - 1) * (costs.strange / SCALE)
        cost = np.where(missing, NO_LENDER_COST + 3 * costs.strange, strange)
        cost += costs.surface / SCALE**2 * (lent[..., SURFACE] - depth) ** 2
        unary[:, k] = (inner_weight * cost).sum(1)
        lent = atlas.look(outer + offset)
        apart = unlike(lent, own) / np.float32(SCALE**2)
        apart[lent[..., STRANGE] == NO_LENDER] = config.unknown
        unary[rim, k] += (outer_weight * apart).sum(1)
    # ties are broken by chance, so that another seed is another result
    return unary + (costs.far * length + 1e-4 * rng.random(unary.shape)).astype(np.float32)


def _faces(atlas, pieces, blocks, options, axis: int, rng, config: ShiftMapConfig):
    """Pairs of blocks along an axis: their numbers (E,), (E,), and the cost of each pair of pieces (L, L, E)."""
    count = blocks.node.shape[axis]
    first, second = (blocks.node.take(range(i, count - 1 + i), axis).reshape(-1) for i in (0, 1))
    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    half = _half_band(blocks)
    band = grid_points(
        *np.transpose([(-half[k], half[k]) if k == axis else (0, blocks.size[k]) for k in range(3)])
    )
    band = band[rng.permutation(len(band))[: config.face_samples]]
    step = config.step * (config.tie if axis == 0 else 1.0)
    offsets, corner = atlas.offsets(pieces), atlas.flat(blocks.corner)
    pair = np.empty((options.shape[1], options.shape[1], len(first)), np.float32)
    for i in range(0, len(first), 256):
        p, q = first[i : i + 256], second[i : i + 256]
        where = (corner[q][:, None] + (band * atlas.strides).sum(1))[:, None]
        x, y = (_flat_features(atlas, where + offsets[options[e]][..., None]) for e in (p, q))
        # whole numbers below 2^24: exact in float32
        apart = (x * x).sum(-1)[..., None] + (y * y).sum(-1)[:, None] - 2 * (x @ y.transpose(0, 2, 1))
        other = options[p][:, :, None] != options[q][:, None]
        cost = apart / np.float32(len(band) * SCALE**2) + step * other
        pair[:, :, i : i + 256] = cost.transpose(1, 2, 0)
    return first, second, pair


def _flat_features(atlas: Atlas, where: np.ndarray) -> np.ndarray:
    """Features at places (E, L, n) as float32 (E, L, n * 4), the last of four 0."""
    found = atlas.look(where).astype(np.float32)
    found[..., STRANGE] = 0
    return found.reshape(*where.shape[:2], -1)

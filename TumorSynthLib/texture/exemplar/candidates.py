"""Candidates of the shift map: for each part of the hole, the shifts whose tissue fits the known ring around
it best.

The search is exhaustive over a grid of shifts; copies are compared in sampled voxels of the ring (as the
feature LEVEL, then refined to the voxel in all features) and asked in sampled voxels of the hole whether they
may lend and how strange they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .lenders import LEVEL, NO_LENDER, SCALE, STRANGE, SURFACE, Atlas, Pieces
from .spatial import dilate, grid_points


@dataclass(frozen=True)
class CandidateConfig:
    """Extent of the search."""

    reach_mm: float = 45.0
    """Farthest shift; more where the hole is larger."""
    reach_share: float = 0.75
    """Farthest shift as a share of the hole's width in plane."""
    sector_mm: float = 16.0
    """Size of the hole's parts that look for shifts of their own."""
    least_parts: int = 3
    most_parts: int = 36
    each: int = 7
    """Shifts kept per part; twice as many for the hole as a whole."""
    grid_mm: float = 3.0
    """Grid of the search."""
    least_shift_mm: float = 3.0
    most_shifts: int = 12000
    """The grid gets coarser where it would hold more shifts."""
    ring_mm: float = 9.0
    """Known voxels so near are compared."""
    ring_samples: int = 64
    inner_samples: int = 48
    first_samples: int = 20
    """All shifts are first compared and asked in so many voxels only."""
    shortlist: int = 2000
    """So many go on to be compared in all samples."""
    structure: float = 3.0
    """Voxels of vessels and fasciae are so many times likelier to be compared."""
    best: int = 400
    """So many of the best shifts are looked through for ones that differ."""


@dataclass(frozen=True)
class Costs:
    """What a voxel's copy costs by itself, in squared units of the features."""

    strange: float = 4.0
    """Tissue that isn't around the hole, per unit of strangeness (0 to 3)."""
    surface: float = 2.0
    """Tissue of another depth below the skin, per squared unit of the feature SURFACE."""
    far: float = 0.010
    """A shift, per mm."""


NO_LENDER_COST = 400.0
"""Cost of a hole's voxel whose copy mustn't lend (units of features, squared)."""
UNKNOWN_COST = 12.0
"""Cost of a ring's voxel whose copy is unknown."""


def reach_of(mask: np.ndarray, spacing, config: CandidateConfig) -> float:
    """Farthest shift (mm) for a mask."""
    extent = [
        float(np.ptp(np.flatnonzero(mask.any(tuple(k for k in range(3) if k != a))))) + 1 for a in (1, 2)
    ]
    width = max(e * s for e, s in zip(extent, spacing[1:]))
    return max(config.reach_mm, config.reach_share * width)


def farthest(reach: float, spacing, shape) -> np.ndarray:
    """Farthest shift along each axis in voxels: none leads out of the image."""
    return np.minimum(np.floor(reach / np.asarray(spacing)), np.asarray(shape) - 1).astype(int)


def find_pieces(
    atlas: Atlas,
    fill,
    known,
    spacing,
    reach: float,
    costs: Costs,
    seed: int,
    config: CandidateConfig,
) -> Pieces:
    """Candidate pieces for the hole `fill` with the tissue `known` around it."""
    rng = np.random.default_rng(seed)
    size = np.array(spacing)
    inner = np.argwhere(fill)
    search = _Search(atlas, size, reach, costs, (inner.min(0), inner.max(0)), config)
    ring = np.argwhere(known & dilate(fill, spacing, config.ring_mm - 1e-5))
    chance = 1 + config.structure * atlas.structure(atlas.flat(ring))
    inner_mm, ring_mm = inner.T * size[:, None], ring.T * size[:, None]
    found: dict[tuple[int, ...], None] = {}
    for centre, radius, share in _parts(inner, size, rng, config):
        at_ring = _within(ring_mm, centre, 1.2 * radius)
        near = ring[at_ring]
        mine = inner[_within(inner_mm, centre, radius)]
        compared = _some(near, config.ring_samples * (3 if share > 1 else 2) // 2, rng, chance[at_ring])
        asked = _some(mine, config.inner_samples, rng)
        for piece in search.best(compared, asked, share * config.each):
            found[piece] = None
    table = np.array(list(found), np.int64).reshape(-1, 4)
    return Pieces(table[:, 1:], table[:, 0])


def _some(points: np.ndarray, count: int, rng, chance: np.ndarray | None = None) -> np.ndarray:
    """Up to `count` of the points, drawn with a chance each."""
    share = None if chance is None or not len(points) else chance / chance.sum()
    return points[rng.choice(len(points), min(count, len(points)), replace=False, p=share)]


def _parts(inner, size, rng, config: CandidateConfig):
    """Parts of the hole: (centre in mm, radius in mm, share of shifts); farthest points, then the hole as a
    whole."""
    volume = np.prod(np.ptp(inner, 0) * size / config.sector_mm + 1)
    count = int(np.clip(round(float(volume)), config.least_parts, config.most_parts))
    centres = _some(inner, count * 40, rng) * size
    chosen = [centres[0]]
    gap = ((centres - chosen[0]) ** 2).sum(1)
    for _ in range(count - 1):
        chosen.append(centres[gap.argmax()])
        gap = np.minimum(gap, ((centres - chosen[-1]) ** 2).sum(1))
    parts = [(centre, config.sector_mm, 1) for centre in chosen]
    return [*parts, ((inner * size).mean(0), np.inf, 2)]


def _within(points, centre, radius: float) -> np.ndarray:
    """Which of points (3, n) lie nearer to a centre than a radius."""
    return sum((p - c) ** 2 for p, c in zip(points, centre)) < radius**2


def _sum(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers (n, m) summed over the first axis: float64 (m,). Sums below 2^24 are exact in float32."""
    return (np.ones(len(numbers), np.float32) @ numbers.astype(np.float32, copy=False)).astype(float)


def _lands(shifts, atlas: Atlas, box) -> np.ndarray:
    """Shifts that leave at least a part of the hole's box (first and last voxel) in the image."""
    inner = np.array(atlas.shape) - 2 * atlas.pad
    return ((box[1] + shifts >= 0) & (box[0] + shifts < inner)).all(1)


class _Search:
    """All shifts of a grid in all banks, and the best of them for one part of the hole."""

    def __init__(self, atlas: Atlas, size, reach: float, costs: Costs, box, config: CandidateConfig):
        self.atlas, self.config = atlas, config
        self.strange, self.surface = costs.strange, costs.surface
        share = (4 / 3) * np.pi * reach**3 / config.most_shifts
        step_mm = max(config.grid_mm, float(share ** (1 / 3))) if size[0] < 3 else config.grid_mm
        self.step = np.maximum(1, np.round(step_mm / size)).astype(int)
        self.limit = farthest(reach, size, np.array(atlas.shape) - 2 * atlas.pad)
        grid = grid_points(-(self.limit // self.step), self.limit // self.step + 1) * self.step
        length = np.sqrt(((grid * size) ** 2).sum(1))
        fits = (length <= reach) & _lands(grid, atlas, box)
        moved = fits & (length > config.least_shift_mm)
        self.shifts = np.concatenate([grid[moved], *(grid[fits] for _ in atlas.mirrors[1:])])
        self.banks = np.repeat(
            np.arange(len(atlas.mirrors)), [moved.sum(), *[fits.sum()] * (len(atlas.mirrors) - 1)]
        )
        self.flat = atlas.offsets(Pieces(self.shifts, self.banks))
        self.length_cost = (
            2 * costs.far * np.concatenate([length[moved], *(length[fits] for _ in atlas.mirrors[1:])])
        )

    def best(self, compared: np.ndarray, asked: np.ndarray, count: int) -> list[tuple[int, ...]]:
        """The best pieces that differ, (bank, z, y, x), each refined to the voxel."""
        order = self._ranked(compared, asked)[: self.config.best]
        kept: list[int] = []
        for i in order:
            if len(kept) == count:
                break
            apart = (np.abs(self.shifts[kept] - self.shifts[i]) > self.step).any(1) | (
                self.banks[kept] != self.banks[i]
            )
            if apart.all():
                kept.append(int(i))
        return [self._refined(i, compared) for i in kept]

    def _ranked(self, compared, asked) -> np.ndarray:
        """Numbers of the shifts, best first: all by a few voxels, the better ones by all."""
        few = self.config.first_samples
        rows = np.arange(len(self.shifts))
        if len(rows) > self.config.shortlist:
            rough = self._score(compared[:few], asked[:few], rows)
            rows = np.flatnonzero(rough <= np.partition(rough, self.config.shortlist)[self.config.shortlist])
        return rows[np.argsort(self._score(compared, asked, rows), kind="stable")]

    def _score(self, compared, asked, rows) -> np.ndarray:
        """Cost of the shifts `rows`: what the hole's voxels would get, and what differs in the ring."""
        flat, there = self.flat[rows], self.atlas.flat(asked)
        copy = self.atlas.look(there[:, None] + flat)
        missing, count = _sum(copy[..., STRANGE] == NO_LENDER), len(there)
        odd = _sum(copy[..., STRANGE]) - count + (3 * SCALE + 1) * missing
        score = NO_LENDER_COST / count * missing + self.strange / SCALE / count * odd
        apart = copy[..., SURFACE] - self.atlas.look(there)[:, None, SURFACE].astype(np.float32)
        apart *= apart
        score += self.surface / SCALE**2 / count * _sum(apart)
        score += self.length_cost[rows]
        if len(compared):
            there = self.atlas.flat(compared)
            level = self.atlas.look(there)[:, None, LEVEL].astype(np.float32)
            copy = self.atlas.look(there[:, None] + flat)
            apart = copy[..., LEVEL] - level
            apart *= apart
            apart[copy[..., STRANGE] == NO_LENDER] = UNKNOWN_COST * SCALE**2
            score += 0.5 / SCALE**2 / len(there) * _sum(apart)
        return score

    def _refined(self, i: int, compared) -> tuple[int, ...]:
        shift, bank = self.shifts[i], int(self.banks[i])
        if len(compared):
            near = shift + grid_points(-(self.step // 2), self.step // 2 + 1)
            there = self.atlas.flat(compared)
            own = self.atlas.look(there)[:, None, :STRANGE].astype(np.int32)
            copy = self.atlas.look(
                there[:, None] + self.atlas.offsets(Pieces(near, np.full(len(near), bank)))
            )
            apart = ((copy[..., :STRANGE] - own) ** 2).sum(-1) / SCALE**2
            cost = np.where(copy[..., STRANGE] == NO_LENDER, UNKNOWN_COST, apart).mean(0)
            shift = near[cost.argmin()]
        return (bank, *(int(v) for v in np.clip(shift, -self.limit, self.limit)))

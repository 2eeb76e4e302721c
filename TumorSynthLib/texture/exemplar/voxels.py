"""A tumour's voxels moved a little, each by no more than a share of how much its surroundings vary: what seven numbers lack.

The moves are sums of a few smooth fields: the tumour's own texture displaced, its bands stronger in some depths or brightnesses,
bumps of its histogram, trends across it. All are free of grain, fade in below the border and stay within tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.bands import Bands, robust_sd
from TumorSynthLib.texture.exemplar.limits import Limits, softly_held
from TumorSynthLib.texture.exemplar.numbers import CORE
from TumorSynthLib.texture.exemplar.search import Goal


@dataclass(frozen=True)
class VoxelConfig:
    """Fields and how far they reach.

    :param most: local standard deviations that a voxel may be moved by at strength 1.
    :param edge: share of a move that is left at an edge to other tissue.
    :param local: in-plane voxels over which a standard deviation is local: of the structure, and at least
    :param unseen: of that of the noise, in which such a move isn't seen.
    :param bumps: bumps of the histogram, evenly spread over the voxels' ranks.
    :param displaced: in-plane voxels by which own texture is displaced at least and at most.
    :param price: of the square of a field's weight, in local standard deviations.
    :param weight: of a field at most.
    :param step: of the numeric derivatives.
    :param speck: robust standard deviations from the 3 x 3 x 3 median that no voxel may newly exceed.
    """

    most: float = 4.0
    edge: float = 0.3
    local: float = 3.0
    unseen: float = 0.5
    bumps: int = 5
    displaced: tuple[int, int] = (5, 11)
    price: float = 1.0
    weight: float = 3.0
    step: float = 0.1
    speck: float = 3.5


CONFIG = VoxelConfig()


class Voxels:
    """Moves of a tumour's voxels: a `search.Space`.

    :param bands: of the tumour as it was; `start` (n,) its voxels before these moves.
    :param strength: 0 to 1, of `VoxelConfig.most`.
    :param seed: of the way that own texture is displaced.
    """

    def __init__(
        self, bands: Bands, limits: Limits, bounds, start: np.ndarray, strength: float, seed: int = 0,
        level_kept: bool = False, config: VoxelConfig = CONFIG,
    ) -> None:  # fmt: skip
        self.bands, self.limits, self.bounds, self.config, self.start = bands, limits, bounds, config, start
        box = bands.image.copy()
        box[bands.mask] = start
        self.clean = bands.clean + start - bands.own
        parts = bands.split(box)
        self.plateau = parts[2:].sum(0)
        self.rest = parts[4:].sum(0)
        self.texture = bands.moving(strength)[:3] + (parts - bands.parts)[1:4]
        box[bands.mask] = self.texture.sum(0) ** 2
        power = np.maximum(bands.smooth(box, config.local)[bands.mask], (config.unseen * bands.noise) ** 2)
        self.sd = np.sqrt(power)
        self.sd = np.minimum(self.sd, np.percentile(self.sd[bands.inner >= np.median(bands.inner)], 50))
        self.most = strength * config.most * self.sd
        self.where = bands.tissue * (config.edge + (1 - config.edge) * bands.inner)
        self.fields = np.stack([self.sd * self.where * _unit(f) for f in self._fields(seed)])
        core = bands.depth >= np.quantile(bands.depth, CORE)
        self.core = level_kept * core / max(self.where[core].sum(), 1e-9)
        self.step = np.full(len(self.fields), config.step)

    def price(self, goal: Goal) -> np.ndarray:
        """(p,) of the square of each field's weight."""
        return np.full(len(self.fields), self.config.price)

    def reach(self, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest weight of each field."""
        ends = np.full(len(self.fields), self.config.weight)
        return -ends, ends

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Voxels (n,) of the fields' weights (p,)."""
        change = theta @ self.fields
        change = self.most * np.tanh(change / self.most)
        limits = self.limits
        change = softly_held(change, self.plateau, limits.low, limits.high, limits.knee)
        change = softly_held(change, self.clean, limits.floor, limits.ceiling, limits.knee)
        change = change - (self.core @ change) * self.where
        made = self.start + np.clip(self.bands.without_grain(change), -self.most, self.most)
        return np.clip(made, np.minimum(self.bounds[0], self.start), np.maximum(self.bounds[1], self.start))

    def without_specks(self, values: np.ndarray) -> np.ndarray:
        """Voxels (n,) none of which newly stands out of its 3 x 3 x 3 median; what that takes away holds no grain either."""
        bands, bound, box = self.bands, self.bound, self.bands.image.copy()
        box[bands.mask] = values
        off = bands.specks(box)
        return values + bands.without_grain(np.clip(off, -bound, bound) - off)

    @cached_property
    def bound(self) -> np.ndarray:
        """(n,) how far a voxel may stand out."""
        bands, box = self.bands, self.bands.image.copy()
        box[bands.mask] = self.start
        own = self.config.speck * robust_sd(bands.specks(bands.image))
        return np.maximum(own, np.abs(bands.specks(box)))

    def _fields(self, seed: int):
        """Fields (n,) of any scale."""
        bands, config = self.bands, self.config
        texture = self.texture
        level = texture.sum(0) + self.rest
        rank = np.argsort(np.argsort(level, kind="stable")) / len(level)
        yield from self._displaced(texture, np.random.default_rng(seed))
        for k in range(config.bumps):
            width = 1 / config.bumps
            yield np.clip(1 - np.abs(rank - (k + 0.5) * width) / width, 0, 1)
        deep = bands.depth / bands.depth.max()
        for part in texture:
            yield part * deep
            yield part * (1 - deep)
            yield part * (rank - 0.5)
            yield part * np.abs(part)
        yield from self._smeared()

    def _displaced(self, texture: np.ndarray, rng: np.random.Generator):
        """The tumour's own bands, each a few voxels away from where it was: its grain and direction, another pattern."""
        index = np.full(self.bands.mask.shape, -1)
        index[self.bands.mask] = np.arange(len(self.start))
        where = np.argwhere(self.bands.mask)
        for part in texture:
            length, angle = rng.uniform(*self.config.displaced), rng.uniform(0, 2 * np.pi)
            offset = np.rint([0, length * np.sin(angle), length * np.cos(angle)]).astype(int)
            there = [_looked_up(index, where + sign * offset) for sign in (1, -1)]
            source = np.where(there[0] >= 0, there[0], there[1])
            yield np.where(source >= 0, part[np.maximum(source, 0)], 0.0)

    def _smeared(self):
        """What a blur along each axis takes away."""
        box = np.zeros(self.bands.mask.shape)
        detail = self.texture.sum(0)
        box[self.bands.mask] = detail
        for axis in range(3):
            yield ndimage.gaussian_filter1d(box, 1.0, axis, truncate=3.0)[self.bands.mask] - detail


def _looked_up(index: np.ndarray, where: np.ndarray) -> np.ndarray:
    """index at places (n, 3); -1 beyond it."""
    inside = ((where >= 0) & (where < index.shape)).all(1)
    held = np.clip(where, 0, np.array(index.shape) - 1)
    return np.where(inside, index[tuple(held.T)], -1)


def _unit(values: np.ndarray) -> np.ndarray:
    """Values without mean whose mean square is one; zeros where they are all alike."""
    centred = values - values.mean()
    return centred / max(float(np.sqrt((centred**2).mean())), 1e-9)

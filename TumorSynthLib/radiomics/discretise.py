"""Grey-level discretisation of a region, and its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .settings import Settings

# A matrix of 4000 levels takes 128 MB per direction; more levels mean a bin width that is wrong by far.
MAX_LEVELS = 4000


@dataclass(frozen=True)
class Levels:
    """The discretised region in its bounding box.

    grid: (D + 2 pad, H + 2 pad, W + 2 pad), 0 outside of the region, else 1 + index into `gray`.
    gray: (n,) the grey levels that occur, ascending, as pyradiomics numbers them (from 1, gaps possible).
    counts: (n,) voxels of each.
    """

    grid: np.ndarray
    gray: np.ndarray
    counts: np.ndarray
    pad: int

    @property
    def box(self) -> tuple[int, int, int]:
        """Size (D, H, W) of the bounding box."""
        return tuple(size - 2 * self.pad for size in self.grid.shape)

    @property
    def flat(self) -> np.ndarray:
        return self.grid.ravel()

    def step(self, offset: tuple[int, int, int]) -> int:
        """Distance in the flat grid from a voxel to its neighbour at `offset` (z, y, x)."""
        _, height, width = self.grid.shape
        return (offset[0] * height + offset[1]) * width + offset[2]


def bin_edges(values: np.ndarray, settings: Settings) -> np.ndarray:
    """Lower edges of the bins, and one above the maximum (IBSI: fixed bin size from 0, or fixed bin number).

    The arithmetic runs in the type of `values`, as in pyradiomics: a value that lies on an edge then falls
    on the same side of it.
    """
    if settings.binCount is not None:
        edges = np.histogram_bin_edges(values, settings.binCount)
        edges[-1] += 1  # the maximum belongs to the last bin
        return edges
    lowest, highest = values.min(), values.max()
    if values.dtype.kind in "iub":  # small integer types would overflow
        lowest, highest = int(lowest), int(highest)
    bins = (float(highest) - float(lowest)) / settings.binWidth
    if bins > 1e6:
        raise InputError(
            f"binWidth {settings.binWidth:g} splits the region into {bins:.2g} grey levels. "
            "Give a larger binWidth, or a binCount."
        )
    return np.arange(lowest - lowest % settings.binWidth, highest + 2 * settings.binWidth, settings.binWidth)


def discretise(array: np.ndarray, mask: np.ndarray, settings: Settings) -> Levels:
    """Grey levels of the masked voxels of `array`; both (D, H, W) and already cropped to the region.

    :raises InputError: the bin width gives more levels than a matrix can hold.
    """
    values = array[mask]
    numbers = np.digitize(values, bin_edges(values, settings))
    counts = np.bincount(numbers)
    present = np.flatnonzero(counts)
    if len(present) > MAX_LEVELS:
        raise InputError(
            f"The region has {len(present)} grey levels of width {settings.binWidth:g}; "
            f"at most {MAX_LEVELS} are supported. Give a larger binWidth, or a binCount."
        )
    rank = np.zeros(len(counts), np.uint8 if len(present) < 256 else np.uint16)
    rank[present] = np.arange(1, len(present) + 1)
    pad = max(settings.distances)
    grid = np.zeros([size + 2 * pad for size in mask.shape], rank.dtype)
    grid[tuple(slice(pad, pad + size) for size in mask.shape)][mask] = rank[numbers]
    return Levels(grid, present.astype(float), counts[present], pad)


def half_neighbourhood(levels: Levels, settings: Settings, distances: tuple[int, ...] | None = None) -> list:
    """Offsets (z, y, x) of one half of the neighbours at the given Chebyshev distances.

    Of each pair of opposite offsets the one with a positive first component is listed, in pyradiomics' order;
    offsets that are longer than the box are left out.
    """
    distances = settings.distances if distances is None else distances
    reach = range(max(distances), -max(distances) - 1, -1)
    fixed = settings.force2Ddimension if settings.force2D else None
    offsets = [(z, y, x) for z in reach for y in reach for x in reach if (z, y, x) > (0, 0, 0)]
    return [
        offset
        for offset in offsets
        if max(map(abs, offset)) in distances
        and all(abs(step) < size for step, size in zip(offset, levels.box))
        and (fixed is None or offset[fixed] == 0)
    ]

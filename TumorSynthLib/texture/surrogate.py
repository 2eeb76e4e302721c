"""Runs and zones of a region, exact and with a gradient.

Whether two neighbours share a grey level has no useful gradient. If the bin grid lay at random, two voxels whose bin
coordinates differ by d < 1 would share a level with probability 1 - d, and L voxels in a row with 1 - (their range).
That is the surrogate: exact counts are taken at the last measurement, and only their *change* follows the surrogate.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from TumorSynthLib.radiomics.differentiable import Lines

SOFT_LENGTHS = 4  # windows of 2..4 voxels get a gradient; longer runs are rare in textures and follow these
SOFT_ZONES = 8  # zones of 1..8 voxels get a gradient; the size of larger ones depends on far-away voxels


def run_counts(level: torch.Tensor, paths: Lines, levels: int) -> torch.Tensor:
    """Exact run counts (A, levels, longest) of 0-based grey levels (n,); run length k + 1 in column k."""
    rows, n = paths.order.shape
    ordered = level[paths.order]
    joined = paths.link & (ordered == ordered.roll(-1, 1))
    end = (~joined).flatten().nonzero().flatten()
    length = torch.diff(end, prepend=end.new_tensor([-1]))
    longest = int(length.max())
    row = end.div(n, rounding_mode="floor")
    cell = (row * levels + ordered.flatten()[end]) * longest + length - 1
    return torch.bincount(cell, minlength=rows * levels * longest).view(rows, levels, longest)


def zone_size(level: torch.Tensor, paths: Lines) -> torch.Tensor:
    """Size in voxels of the 26-connected zone of equal grey level that each voxel (n,) belongs to, int64."""
    n = paths.voxels
    ordered = level[paths.order]
    equal = paths.link[:, :-1] & (ordered[:, :-1] == ordered[:, 1:])
    a, b = paths.order[:, :-1][equal].numpy(), paths.order[:, 1:][equal].numpy()
    graph = coo_matrix((np.ones(len(a), np.int8), (a.astype(np.int32), b.astype(np.int32))), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    return torch.from_numpy(np.bincount(label)[label].astype(np.int64))


def zone_counts(level: torch.Tensor, size: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Zone counts (1, levels, s) float64 and the s sizes; the first SOFT_ZONES columns are the sizes 1..SOFT_ZONES."""
    small = torch.arange(1, SOFT_ZONES + 1)
    sizes = torch.cat([small, torch.unique(size[size > SOFT_ZONES])])
    column = torch.searchsorted(sizes, size)
    counts = torch.bincount(
        level * len(sizes) + column, 1 / size.to(torch.float64), minlength=levels * len(sizes)
    )
    return counts.view(1, levels, len(sizes)).round(), sizes.to(torch.float64)


def soft_windows(u: torch.Tensor, level: torch.Tensor, paths: Lines, levels: int) -> torch.Tensor:
    """Expected numbers (A, levels, SOFT_LENGTHS - 1) of windows of 2..SOFT_LENGTHS voxels in a row with one grey level."""
    rows, n = paths.order.shape
    ordered, link = u[paths.order], paths.link
    cell = level[paths.order] + torch.arange(rows)[:, None] * levels
    high = low = ordered
    alive, result = torch.ones_like(link), []
    for length in range(2, SOFT_LENGTHS + 1):
        m = n - length + 1
        if m < 1:
            result.append(u.new_zeros(rows, levels))
            continue
        new = ordered[:, length - 1 :]
        high, low = torch.maximum(high[:, :m], new), torch.minimum(low[:, :m], new)
        alive = alive[:, :m] & link[:, length - 2 :][:, :m]
        chance = (1 - (high - low)).clamp_min(0) * alive
        result.append(
            u.new_zeros(rows * levels)
            .index_add(0, cell[:, :m].flatten(), chance.flatten())
            .view(rows, levels)
        )
    return torch.stack(result, 2)


def window_changes_to_runs(change: torch.Tensor, longest: int) -> torch.Tensor:
    """Change of the run counts (A, g, longest) that follows from a change of the window counts (A, g, SOFT_LENGTHS - 1).

    With T(L) windows of L equal voxels in a row, the runs of exactly L voxels are T(L) - 2 T(L+1) + T(L+2).
    """
    rows, g, _ = change.shape
    width = max(longest, SOFT_LENGTHS) + 2
    windows = torch.cat(
        [change.new_zeros(rows, g, 1), change, change.new_zeros(rows, g, width - SOFT_LENGTHS)], 2
    )
    runs = windows[:, :, :-2] - 2 * windows[:, :, 1:-1] + windows[:, :, 2:]
    return runs[:, :, :longest]


def equal_neighbours(u: torch.Tensor, paths: Lines) -> torch.Tensor:
    """Expected number (n,) of neighbours along `paths` that share the voxel's grey level.

    1 / (1 + this over all directions) stands for 1 / (zone size): exact where all voxels of a zone touch one another.
    """
    ordered = u[paths.order]
    equal = (1 - (ordered[:, 1:] - ordered[:, :-1]).abs()).clamp_min(0) * paths.link[:, :-1]
    both = torch.nn.functional.pad(equal, (0, 1)) + torch.nn.functional.pad(equal, (1, 0))
    return torch.zeros_like(u).index_add(0, paths.order.flatten(), both.flatten())


def soft_zone_counts(share: torch.Tensor, level: torch.Tensor, levels: int) -> torch.Tensor:
    """Zone counts (levels, SOFT_ZONES) that voxels with 1 / (zone size) = `share` (n,) make up; differentiable."""
    size = 1 / share
    low = size.detach().floor().clamp(1, SOFT_ZONES)
    part = (size - low).clamp(0, 1)
    inside = (size.detach() < SOFT_ZONES + 1).to(share.dtype)
    cell = level * (SOFT_ZONES + 1) + low.to(torch.int64) - 1
    counts = share.new_zeros(levels * (SOFT_ZONES + 1))
    counts = counts.index_add(0, cell, share * (1 - part) * inside).index_add(
        0, cell + 1, share * part * inside
    )
    return counts.view(levels, SOFT_ZONES + 1)[:, :SOFT_ZONES]

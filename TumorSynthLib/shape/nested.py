"""A core inside a tumour's rim: for tumours of several regions."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .field import one_piece

UNEVEN = 0.35  # of the depth at the deepest point: how much the rim's thickness varies
SMOOTH = 0.3  # of the tumour's radius: over which it does
ROUNDS = 12
NEAR = 0.01  # relative error of the core's volume at which the search ends


def core_of(
    mask: np.ndarray, spacing: tuple[float, float, float], fraction: float, seed: int = 0
) -> np.ndarray:
    """A part of a tumour that a rim of at least one voxel surrounds: (D, H, W) bool, one piece without holes.

    :param mask: (D, H, W) bool with an empty margin, on `spacing` (x, y, z) mm. :param fraction: share of its volume.
    :raises InputError: a fraction that leaves no rim, or is too small for a voxel.
    """
    from scipy import ndimage

    if not 0 < fraction < 1:
        raise InputError(
            f"a core of {fraction:g} of the tumour is not possible; ask for a share between 0 and 1."
        )
    steps = np.array(spacing[::-1], float)
    inner = one_piece(ndimage.binary_erosion(mask, np.ones((3, 3, 3))))
    wanted = int(round(fraction * mask.sum()))
    if wanted < 1 or wanted > inner.sum():
        raise InputError(
            f"a core of {100 * fraction:.0f} % leaves no rim around it on these voxels, or has none itself; "
            f"ask for up to {100 * inner.sum() / mask.sum():.0f} %."
        )
    depth = ndimage.distance_transform_edt(mask, steps)
    radius = (3 * mask.sum() * steps.prod() / (4 * np.pi)) ** (1 / 3)
    noise = ndimage.gaussian_filter(
        np.random.default_rng([seed, 4]).normal(size=mask.shape), SMOOTH * radius / steps
    )
    noise /= max(float(noise[mask].std()), 1e-12)
    best = None
    for uneven in (UNEVEN, UNEVEN / 2, UNEVEN / 4, 0.0):  # a rim that varies less leaves the core whole
        score = np.where(inner, depth / depth.max() + uneven * noise, -np.inf)
        off, core = _best_level(score, inner, wanted)
        if best is None or off < best[0]:
            best = off, core
        if off <= 2 * NEAR * wanted:
            break
    return best[1]


def _best_level(score: np.ndarray, inner: np.ndarray, wanted: int) -> tuple[int, np.ndarray]:
    """The largest piece above a level of the score, filled, with about as many voxels as wanted, and how many it is off."""
    ordered = np.sort(score[inner])[::-1]
    low, high, best = 1, len(ordered), None
    for _ in range(ROUNDS):
        count = (low + high) // 2 if best is not None else wanted
        piece = one_piece(score >= ordered[count - 1])
        off = abs(int(piece.sum()) - wanted)
        if best is None or off < best[0]:
            best = off, piece
        if off <= NEAR * wanted or low >= high:
            break
        if piece.sum() < wanted:  # its other pieces don't count
            low = min(count + 1, high)
        else:
            high = max(count - 1, low)
    return best

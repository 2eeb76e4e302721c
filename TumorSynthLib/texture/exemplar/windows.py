"""One standard deviation of each feature where no population tells it: how it varies between parts of the tumour itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract
from TumorSynthLib.radiomics.settings import Settings

PARTS = 8  # sub-windows: each half of each half of each half
LEAST = 64  # voxels of a sub-window at least; below, features count single voxels


def windows(mask: np.ndarray, spacing, parts: int = PARTS, least: int = LEAST) -> list[np.ndarray]:
    """Masks (D, H, W) bool of about equally many voxels that make up a mask: halves along the longest side, again and again.

    :param spacing: (x, y, z) mm.
    :param parts: a power of two; fewer where the parts would hold less than `least` voxels.
    """
    found = [mask]
    while len(found) < parts and min(int(m.sum()) for m in found) >= 2 * least:
        found = [half for m in found for half in _halves(m, spacing)]
    return found


def _halves(mask: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    at = np.argwhere(mask)
    side = np.ptp(at, axis=0) * np.asarray(spacing[::-1])
    axis = int(np.argmax(side))
    order = np.lexsort((*at.T[::-1], at[:, axis]))
    first = np.zeros_like(mask)
    first[tuple(at[order[: len(at) // 2]].T)] = True
    return first, mask & ~first


def spread_within(
    array: np.ndarray, mask: np.ndarray, spacing, settings: Settings, classes: Iterable[str] = TEXTURE_CLASSES
) -> dict[str, float]:
    """Standard deviation of each feature between the sub-windows of a tumour; {} where it is too small to be parted.

    :param array: (D, H, W) as it is measured, with `mask` (D, H, W) bool and `spacing` (x, y, z) mm of that grid.
    """
    found = []
    for part in windows(mask, spacing):
        try:
            found.append(extract(array, part, spacing, settings, classes))
        except InputError:  # a part that the settings are too strict for
            continue
    if len(found) < 2:
        return {}
    names = set.intersection(*map(set, found))
    values = {n: np.array([f[n] for f in found]) for n in sorted(names)}
    return {n: float(v.std(ddof=1)) for n, v in values.items() if np.isfinite(v).all() and v.std() > 0}

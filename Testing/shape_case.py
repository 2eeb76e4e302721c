"""A tiny model that also knows shapes: those of 30 ellipsoids with bumps."""

from pathlib import Path

import editor_case
import numpy as np
from scipy import ndimage
from tiny_bundle import tiny_bundle

from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.shaping import measured_shape

GRID = (24, 48, 48)


def model(folder: Path) -> Bundle:
    """As `editor_case.model`, with the 17 shape features in its population."""
    rows, settings = [], Settings(binWidth=25)
    for seed in range(30):
        volume, mask = editor_case.ct(seed, spread=15 + 2.5 * seed)
        array = volume.array + 4 * (seed % 7)
        found = extract(array, mask, editor_case.SPACING, settings, editor_case.CLASSES)
        rows.append(found | measured_shape(bumpy(seed), editor_case.SPACING))
    names = tuple(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])
    return tiny_bundle(folder, names=names, values=values, network=True)


def bumpy(seed: int) -> np.ndarray:
    """(K, J, I) bool ellipsoid with bumps, on `editor_case.SPACING`."""
    rng = np.random.default_rng(seed)
    axes = rng.uniform(6.0, 11.0, 3)
    place = [(c - (n - 1) / 2) * s for c, n, s in zip(np.indices(GRID), GRID, editor_case.SPACING[::-1])]
    bumps = ndimage.gaussian_filter(rng.standard_normal(GRID), (1.5, 3, 3))
    return sum((p / a) ** 2 for p, a in zip(place, axes)) < (1 + 0.1 * bumps / bumps.std()).clip(0.6, 1.4)

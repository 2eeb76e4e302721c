"""One picture of several edits: each before and after, axial and coronal, in the window that a radiologist uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from TumorSynthLib.series_figures import column, label, row
from TumorSynthLib.slices import (
    PLANES,
    centre_of,
    crop_around,
    cut,
    display_window,
    grey,
    pixel_spacing,
    scaled,
)

MARGIN_MM = 30.0
"""Around the tumour: enough of the surroundings to judge whether an edit shows."""
PIXELS_PER_MM = 2.5
ACROSS = 2
"""Edits side by side."""


def sheet(edits: Sequence[tuple], modality: str) -> np.ndarray:
    """(H, W, 3) uint8 picture; edits are numbered from 1.

    :param edits: of (before, after: `Volume`; the mask afterwards: (K, J, I) bool).
    """
    cells = [_cell(number, *edit, modality) for number, edit in enumerate(edits, 1)]
    size = [max(cell.shape[axis] for cell in cells) for axis in (0, 1)]
    cells = [np.pad(c, ((0, size[0] - c.shape[0]), (0, size[1] - c.shape[1]), (0, 0))) for c in cells]
    return column([row(cells[i : i + ACROSS]) for i in range(0, len(cells), ACROSS)])


def _cell(number: int, before, after, mask: np.ndarray, modality: str) -> np.ndarray:
    """Number, then axial before and after, coronal before and after."""
    crop = crop_around(before, after, mask, None, MARGIN_MM)
    window, middle = display_window(crop, modality), centre_of(crop.mask)
    pictures = []
    for plane in PLANES[:2]:
        spacing = pixel_spacing(crop.spacing, plane)
        for array in (crop.before, crop.after):
            shown = grey(scaled(cut(array, plane, middle[plane.axis]), spacing, PIXELS_PER_MM), window)
            pictures.append(np.repeat(shown[..., None], 3, axis=2))
    return row([label(number), *pictures])

"""One picture of several edits: each before and after, axial and coronal, in the window that a radiologist uses.

An edit that changes the tumour alone is shown in the window of soft tissue, and twice as large."""

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
CLOSER = 2.0
ACROSS = 2
"""Edits side by side."""


def sheet(edits: Sequence[tuple], modality: str) -> np.ndarray:
    """(H, W, 3) uint8 picture.

    :param edits: of (name; before, after: `Volume`; the mask afterwards: (K, J, I) bool).
    """
    shown = [_pictures(*edit, modality) for _, *edit in edits]
    planes = []
    for pair in zip(
        *shown, strict=True
    ):  # all pictures of a plane get one size, so that the tumours stand in line
        size = np.min([picture.shape for picture in pair], axis=0)
        planes.append([_middle(picture, size) for picture in pair])
    names = [label(name.upper()) for name, *_ in edits]
    cells = [column([name, row(pictures)]) for name, *pictures in zip(names, *planes, strict=True)]
    return column([row(cells[i : i + ACROSS]) for i in range(0, len(cells), ACROSS)])


def _middle(picture: np.ndarray, size) -> np.ndarray:
    """The middle `size` of a picture."""
    start = [(have - want) // 2 for have, want in zip(picture.shape, size, strict=True)]
    return picture[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]


def _pictures(before, after, mask: np.ndarray, modality: str) -> list[np.ndarray]:
    """Axial before and after, coronal before and after: (H, W, 3) uint8 each."""
    crop, scale = crop_around(before, after, mask, None, MARGIN_MM), PIXELS_PER_MM
    lung = bool((crop.before != crop.after)[~crop.mask].any())
    window = display_window(crop, modality, lung)
    if not lung:
        crop, scale = crop_around(before, after, mask, None, MARGIN_MM / CLOSER), CLOSER * PIXELS_PER_MM
    middle = centre_of(crop.mask)
    pictures = []
    for plane in PLANES[:2]:
        spacing = pixel_spacing(crop.spacing, plane)
        for array in (crop.before, crop.after):
            shown = grey(scaled(cut(array, plane, middle[plane.axis]), spacing, scale), window)
            pictures.append(np.repeat(shown[..., None], 3, axis=2))
    return pictures

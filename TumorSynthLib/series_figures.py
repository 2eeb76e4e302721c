"""The pictures of a series: an animation in three planes, and a contact sheet with one column a step."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from .region import Frame
from .report_figures import outlined
from .report_page import number
from .slices import PLANES, Crop, centre_of, crop_around, display_window

PANEL = 300  # pixels of a picture at most
GAP = 6
MARGIN_MM = 15.0
BACKGROUND = 12  # grey
_LABEL = 3  # pixels of a digit's dot
_HEIGHT = 5 * _LABEL + 12

#: 3 x 5 dots of what numbers and the names of the demonstration's edits are written with, row by row.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71111",
    "8": "75757", "9": "75717", ".": "00002", "-": "00700", "+": "02720", "e": "06765",
    "A": "25755", "C": "34443", "D": "65556", "E": "74647", "G": "34553", "H": "55755", "I": "72227", "L": "44447",
    "M": "57755", "N": "65555", "O": "25552", "P": "65644", "R": "65655", "S": "34216", "T": "72222", "U": "55557",
    "V": "55552", "W": "55775", "'": "22000",
}  # fmt: skip


def series_pictures(
    original: Any, results: Sequence[Any], mask: np.ndarray, modality: str, values: Sequence[float]
) -> tuple[list[np.ndarray], np.ndarray]:
    """The frames of the animation and the contact sheet, RGB (H, W, 3) uint8.

    :param original: `Volume` before the edits; `mask` (K, J, I) the tumour in it.
    :param results: `EditResult` of each step; `values` what the step asks for, written above its picture.
    """
    everywhere = np.logical_or.reduce([mask, *(result.mask for result in results)])
    frame = Frame.of(original.direction)
    whole = crop_around(original, original, everywhere, margin_mm=MARGIN_MM)
    window = display_window(whole, modality)
    box = _box(frame.view(everywhere), whole)
    centre = centre_of(frame.view(mask)[box])
    columns = []
    for result in results:
        view = frame.view(result.mask)[box]
        crop = Crop(
            whole.before,
            frame.view(result.volume.array)[box].astype(np.float32),
            view,
            None,
            whole.spacing,
            0.0,
        )
        columns.append([outlined(crop, plane, centre[plane.axis], window, PANEL) for plane in PLANES])
    labels = [label(value) for value in values]
    frames = [_below(label, row(pictures)) for label, pictures in zip(labels, columns)]
    sheet = row([column([_fitted(label, _HEIGHT), *pictures]) for label, pictures in zip(labels, columns)])
    return frames, sheet


def section(feature: str, animation: bytes, sheet: bytes, results: Sequence[Any]) -> str:
    """The report's HTML of a series: both pictures and a table."""
    name = results[0].provenance["series"]["feature"]
    rows = "".join(
        f"<tr><td>{result.provenance['series']['step']}</td><td>{number(result.provenance['series']['value'])}</td>"
        f"<td>{number(result.reached.get(name))}</td><td>{int(np.count_nonzero(result.mask)):,}</td></tr>"
        for result in results
    )
    head = f"<tr><th>Step</th><th>{escape(feature)}</th><th>{escape(name)}, reached</th><th>Voxels</th></tr>"
    pictures = [
        _figure(animation, f"Animation of {len(results)} steps in three planes, tumour outlined"),
        _figure(sheet, "Contact sheet: a column a step, axial, coronal and sagittal slices, tumour outlined"),
    ]
    return (
        f"<section id='series'><h2>Series of {escape(feature)}</h2>"
        f"<p class='soft'>Slices through the middle of the tumour, in one window.</p>{''.join(pictures)}"
        f"<div class='wide'><table>{head}{rows}</table></div></section>"
    )


def _figure(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" '
        'style="display:block;max-width:100%;margin:14px auto;border-radius:4px">'
    )


def there_and_back(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames that can be repeated without a jump."""
    return frames + frames[-2:0:-1]


def _box(view: np.ndarray, crop: Crop) -> tuple[slice, ...]:
    """The box that a crop was cut with."""
    box = []
    for axis, size in enumerate(crop.before.shape):
        inside = np.flatnonzero(view.any(axis=tuple(other for other in range(3) if other != axis)))
        first = max(0, inside[0] - int(np.ceil(MARGIN_MM / crop.spacing[axis])))
        box.append(slice(first, first + size))
    return tuple(box)


def label(value: float | str) -> np.ndarray:
    """(H, W, 3) picture of a number, or of a few words in capitals."""
    columns = []
    text = value if isinstance(value, str) else f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    for character in text:
        rows = [int(dots) for dots in _GLYPHS.get(character, "00000")]
        columns.append(np.array([[row >> shift & 1 for shift in (2, 1, 0, 7)] for row in rows]))
    dots = np.hstack(columns).astype(np.uint8)
    picture = BACKGROUND + np.kron(dots, np.full((_LABEL, _LABEL), 220 - BACKGROUND, np.uint8))
    return np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)


def _below(label: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return column([_fitted(label, _HEIGHT), picture])


def _fitted(picture: np.ndarray, height: int) -> np.ndarray:
    """A picture in the middle of a strip of that height."""
    above = (height - picture.shape[0]) // 2
    margins = ((above, height - picture.shape[0] - above), (GAP, GAP), (0, 0))
    return np.pad(picture, margins, constant_values=BACKGROUND)


def row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Side by side, each in the middle."""
    height = max(p.shape[0] for p in pictures)
    parts = []
    for picture in pictures:
        above = (height - picture.shape[0]) // 2
        margins = ((above, height - picture.shape[0] - above), (GAP // 2, GAP // 2), (0, 0))
        parts.append(np.pad(picture, margins, constant_values=BACKGROUND))
    return np.hstack(parts)


def column(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(row([np.swapaxes(p, 0, 1) for p in pictures]), 0, 1))

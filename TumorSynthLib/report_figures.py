"""The report's figures: three planes before and after, and the bars of asked and reached features."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from .png import encode_png
from .report_page import number, signed
from .slices import (
    PLANES,
    Crop,
    Plane,
    centre_of,
    colour_difference,
    cut,
    grey,
    outline,
    pixel_spacing,
    scaled,
)

PANEL_WIDTH, PANEL_HEIGHT = 400, 440  # largest size of a picture, in pixels
_GAP = 8
_YELLOW = (255, 225, 77)
_STATES = ("before", "after", "difference")


def panels(
    crop: Crop, window: tuple[float, float], limit: float, name: str, unit: str
) -> tuple[str, np.ndarray]:
    """The nine pictures of an edit.

    :param window: (low, high) intensities.
    :param limit: difference shown in full colour.
    :param name: the edit, for the alternative texts.
    :returns: HTML, and one RGB picture (H, W, 3) of all with the outlines drawn in.
    """
    places = [("", crop.mask)]
    moved = crop.old_mask is not None and crop.old_mask.any() and not crop.old_mask[centre_of(crop.mask)]
    if moved:  # else the same slices show both
        places = [("Where it was", crop.old_mask), ("Where it is now", crop.mask)]
    html, montage = [], []
    for place, mask in places:
        title = f"<h3>{escape(place)}</h3>" if place else ""
        heads = "".join(f'<div class="head">{state.capitalize()}</div>' for state in _STATES)
        html.append(f"{title}<div class='panels'>{heads}")
        centre = centre_of(mask)
        for plane in PLANES:
            pictures, masks = _row(crop, plane, centre[plane.axis], window, limit)
            montage.append(_montage_row(pictures, masks))
            for state, picture, outlined in zip(_STATES, pictures, masks):
                alt = _alt(name, state, plane, place, window, limit, unit)
                html.append(_panel(picture, outlined, plane, crop, alt))
        html.append("</div>")
    return "".join(html), _stack(montage)


def _row(crop: Crop, plane: Plane, index: int, window, limit) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures before, after and of the difference, and the mask that is outlined on each."""
    spacing = pixel_spacing(crop.spacing, plane)
    scale = _pixels_per_mm(crop, plane)
    before, after = (cut(array, plane, index) for array in (crop.before, crop.after))
    shown = [grey(scaled(picture, spacing, scale), window) for picture in (before, after)]
    # Boxes here: smoothing would carry the change past the outline, where no voxel changed.
    change = scaled(after - before, spacing, scale, smooth=False)
    now = cut(crop.mask, plane, index)
    then = now if crop.old_mask is None else cut(crop.old_mask, plane, index)
    return [*shown, colour_difference(change, limit)], [then, now, now | then]


def _pixels_per_mm(crop: Crop, plane: Plane) -> float:
    """One scale per plane, so that a picture fits its place."""
    rows, columns = pixel_spacing(crop.spacing, plane)
    height, width = cut(crop.mask, plane, 0).shape
    return min(PANEL_WIDTH / (width * columns), PANEL_HEIGHT / (height * rows))


def _panel(picture: np.ndarray, mask: np.ndarray, plane: Plane, crop: Crop, alt: str) -> str:
    height, width = picture.shape[:2]
    data = base64.b64encode(encode_png(picture)).decode("ascii")
    alt = escape(alt)
    marks = _marks(plane, height, _pixels_per_mm(crop, plane))
    return (
        f'<figure class="view"><svg viewBox="0 0 {PANEL_WIDTH} {height}" role="img" aria-label="{alt}">'
        f"<title>{alt}</title>"
        f'<g transform="translate({(PANEL_WIDTH - width) / 2:.1f} 0)">'
        f'<image href="data:image/png;base64,{data}" width="{width}" height="{height}"/>'
        f"{_contour(mask, width, height)}</g>{marks}</svg></figure>"
    )


def _contour(mask: np.ndarray, width: int, height: int) -> str:
    """The mask's border as an SVG path, in pixels of the picture."""
    x, y = width / mask.shape[1], height / mask.shape[0]
    steps = "".join(f"M{a[0] * x:.1f} {a[1] * y:.1f}L{b[0] * x:.1f} {b[1] * y:.1f}" for a, b in outline(mask))
    return f'<path class="contour" d="{steps}"/>' if steps else ""


def _marks(plane: Plane, height: int, pixels_per_mm: float) -> str:
    """The patient's sides at the borders, and a scale bar."""
    middle, centre = height / 2 + 4, PANEL_WIDTH / 2
    letters = (
        (8, middle, "start", plane.left), (PANEL_WIDTH - 8, middle, "end", plane.right),
        (centre, 16, "middle", plane.top), (centre, height - 8, "middle", plane.bottom),
    )  # fmt: skip
    text = "".join(
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{t}</text>' for x, y, anchor, t in letters
    )
    length = max(
        (mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm * pixels_per_mm <= PANEL_WIDTH / 4), default=1
    )
    end, base = PANEL_WIDTH - 10, height - 10
    start = end - length * pixels_per_mm
    label = f'<text x="{end:.0f}" y="{base - 6}" text-anchor="end">{length} mm</text>'
    line = f"M{start:.1f} {base}H{end:.1f}"
    bar = f'<path class="edge" d="{line}"/><path class="bar" d="{line}"/>'
    text += f'<text x="8" y="16">{plane.name.capitalize()}</text>'
    return f'<g class="marks">{text}{bar}{label}</g>'


def _alt(name: str, state: str, plane: Plane, place: str, window, limit: float, unit: str) -> str:
    where = f", {place.lower()}" if place else ""
    shown = (
        f"change of intensity up to ±{number(limit)}{unit}, blue darker, orange brighter"
        if state == "difference"
        else f"window {number(window[0])} to {number(window[1])}{unit}"
    )
    return f"{name}: {plane.name} slice through the tumour{where}, {state}, {shown}, tumour outlined"


def outlined(crop: Crop, plane: Plane, index: int, window: tuple[float, float], width: int) -> np.ndarray:
    """RGB picture (H, W, 3) of a crop's edited image in one plane, its tumour outlined, at most `width` pixels wide and high."""
    spacing, mask = pixel_spacing(crop.spacing, plane), cut(crop.mask, plane, index)
    scale = min(width / (mask.shape[1] * spacing[1]), width / (mask.shape[0] * spacing[0]))
    shown = grey(scaled(cut(crop.after, plane, index), spacing, scale), window)
    rgb = np.repeat(shown[..., None], 3, axis=2)
    _draw(rgb, mask)
    return rgb


def _montage_row(pictures: list[np.ndarray], masks: list[np.ndarray]) -> np.ndarray:
    row = []
    for picture, mask in zip(pictures, masks):
        rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
        _draw(rgb, mask)
        row.append(_centred(rgb))
    gap = np.full((row[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([row[0], gap, row[1], gap, row[2]])


def _draw(rgb: np.ndarray, mask: np.ndarray) -> None:
    """Draw a mask's border into a picture, in place."""
    y, x = rgb.shape[0] / mask.shape[0], rgb.shape[1] / mask.shape[1]
    for (x0, y0), (x1, y1) in outline(mask):
        rows = slice(*_pixels(y0 * y, y1 * y, rgb.shape[0]))
        columns = slice(*_pixels(x0 * x, x1 * x, rgb.shape[1]))
        rgb[rows, columns] = _YELLOW


def _pixels(first: float, last: float, count: int) -> tuple[int, int]:
    start = min(int(first), count - 1)
    return start, max(start + 1, min(int(np.ceil(last)), count))


def _centred(rgb: np.ndarray) -> np.ndarray:
    left = (PANEL_WIDTH - rgb.shape[1]) // 2
    return np.pad(rgb, ((0, 0), (left, PANEL_WIDTH - rgb.shape[1] - left), (0, 0)))


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.vstack([part for row in rows for part in (row, gap)][:-1])


def bars(rows: list[tuple[str, float, float]]) -> str:
    """Bar plot of (label, asked z-score, reached z-score), one pair of bars each."""
    left, width, pitch, top = 210, 860, 33, 8
    reach = min(6.0, max(2.0, *(np.ceil(abs(z)) for _, *pair in rows for z in pair)))
    bottom = top + pitch * len(rows)

    def at(z: float) -> float:
        return left + 34 + (width - left - 80) * (min(max(z, -reach), reach) + reach) / (2 * reach)

    ticks = [z for z in range(-int(reach), int(reach) + 1) if reach <= 4 or z % 2 == 0]
    parts = [
        f'<path class="{"zero" if z == 0 else "grid"}" d="M{at(z):.1f} {top}V{bottom}"/>'
        f'<text class="tick" x="{at(z):.1f}" y="{bottom + 16}" text-anchor="middle">{signed(z, 0)}</text>'
        for z in ticks
    ]
    for i, (label, asked, reached) in enumerate(rows):
        y = top + pitch * i
        parts.append(f'<text x="{left - 12}" y="{y + 21}" text-anchor="end">{escape(label)}</text>')
        for kind, z, offset in (("asked", asked, 6), ("reached", reached, 17)):
            start, end = sorted((at(0), at(z)))
            length = max(end - start, 1.5)
            parts.append(
                f'<rect class="{kind}" x="{start:.1f}" y="{y + offset}" width="{length:.1f}" height="9">'
                f"<title>{escape(label)}: {kind} {signed(z)} σ</title></rect>"
            )
            if abs(z) > reach:  # the bar is cut off: say where it would end
                x, anchor = (end + 4, "start") if z > 0 else (start - 4, "end")
                where = f'x="{x:.1f}" y="{y + offset + 8}" text-anchor="{anchor}"'
                parts.append(f'<text class="tick" {where}>{signed(z, 1)}</text>')
    alt = "; ".join(
        f"{label}: asked {signed(asked)} σ, reached {signed(reached)} σ" for label, asked, reached in rows
    )
    size = f"0 0 {width} {bottom + 24}"
    return f'<svg class="plot" viewBox="{size}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'

"""The population of a feature as a thin strip: where nine in ten and half of the model's tumours lie, and marks on it."""

import qt

RATIO = 2.0  # pixels per logical pixel, enough for every screen scaling
WIDTH, HEIGHT = 70, 12  # of a strip in a table


def pixmap(palette, scale, percentiles, filled=None, hollow=None, width=WIDTH, height=HEIGHT, limits=None):
    """A strip in the colours of the palette.

    :param scale: `panel_request.Scale`. :param percentiles: as `FeatureRow.percentiles`.
    :param filled, hollow: values marked by a disc and by a ring, or None.
    :param limits: (low, high) marked by a bracket below the bands, or None.
    """
    image = qt.QPixmap(int(width * RATIO), int(height * RATIO))
    image.setDevicePixelRatio(RATIO)
    image.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter(image)
    painter.setRenderHint(qt.QPainter.Antialiasing, True)
    _bands(painter, palette, scale, percentiles, width, height)
    radius = min(height, 2 * HEIGHT / 3) / 2.0 - 1.0
    color = palette.color(qt.QPalette.Highlight)
    if limits is not None:
        _bracket(painter, color, [_at(scale, value, width, 1.0) for value in limits], height)
    if hollow is not None:
        _disc(
            painter,
            qt.QPen(qt.QBrush(color), 1.5),
            qt.QBrush(palette.color(qt.QPalette.Base)),
            scale,
            hollow,
            radius,
            width,
            height,
        )
    if filled is not None:
        _disc(
            painter,
            qt.QPen(qt.QBrush(color), 1.0),
            qt.QBrush(color),
            scale,
            filled,
            radius - 1.0,
            width,
            height,
        )
    painter.end()
    return image


def _bands(painter, palette, scale, percentiles, width, height) -> None:
    """A line for the whole range, a light band for 5 to 95 percent, a dark one for 25 to 75, and a tick at the median."""
    middle = height / 2.0
    line, band, core = (palette.color(role) for role in (qt.QPalette.Mid, qt.QPalette.Mid, qt.QPalette.Dark))
    band.setAlpha(110)
    painter.fillRect(qt.QRectF(0, middle - 0.5, width, 1.0), line)
    for low, high, color, thickness in ((5, 95, band, height * 0.5), (25, 75, core, height * 0.5)):
        if low in percentiles and high in percentiles:
            start, end = _at(scale, percentiles[low], width, 0), _at(scale, percentiles[high], width, 0)
            painter.fillRect(
                qt.QRectF(start, middle - thickness / 2, max(1.0, end - start), thickness), color
            )
    if 50 in percentiles:
        tick = palette.color(qt.QPalette.Text)
        painter.fillRect(
            qt.QRectF(_at(scale, percentiles[50], width, 0) - 0.5, middle - height * 0.35, 1.0, height * 0.7),
            tick,
        )


def _bracket(painter, color, ends, height) -> None:
    """A line along the bottom, with a tick of the whole height at both ends."""
    low, high = ends
    painter.fillRect(qt.QRectF(low, height - 1.5, max(1.0, high - low), 1.5), color)
    for end in ends:
        painter.fillRect(qt.QRectF(end - 0.75, 0, 1.5, height), color)


def _at(scale, value, width, margin) -> float:
    """Where a value lies, in logical pixels."""
    return margin + scale.fraction(value) * (width - 2 * margin)


def _disc(painter, pen, brush, scale, value, radius, width, height) -> None:
    painter.setPen(pen)
    painter.setBrush(brush)
    painter.drawEllipse(qt.QPointF(_at(scale, value, width, radius + 1.0), height / 2.0), radius, radius)

"""One feature to ask for: its name, keep / free / set, a slider with the population's range, and a number."""

import qt
from slicer.i18n import tr as _

from TumorSynthSlicer import panel_strip, panel_text
from TumorSynthSlicer.panel_request import FREE, KEEP, SET, Scale, modes
from TumorSynthSlicer.panel_widgets import setMessage

STEPS = 1000  # of the slider
HEIGHT = 11  # logical pixels of the strip
HANDLE = 6  # logical pixels by which a slider's ends lie inside the widget, half its handle


class DriverRow:
    """The widgets for one feature.

    :param row: the `FeatureRow`. :param onAsked: called as onAsked(key, mode, value) when the user changes something.
    """

    def __init__(self, row, onAsked):
        self.row, self._onAsked = row, onAsked
        self._updating, self._measured, self._drawn, self.scale = False, None, None, Scale(row)
        self._range, self._value = None, None  # what the tumour's tissue allows; what is asked
        self.widget = qt.QWidget()
        self._make()
        self._connect()

    def _make(self) -> None:
        self.label = qt.QLabel(panel_text.labelWithUnit(self.row))
        self.mode = qt.QComboBox()
        self.slider = qt.QSlider(qt.Qt.Horizontal)
        self.slider.setRange(0, STEPS)
        self.spin = qt.QDoubleSpinBox()
        self.spin.setRange(-1e12, 1e12)
        self.spin.setKeyboardTracking(False)
        self.strip = qt.QLabel()
        self.strip.setScaledContents(True)
        self.strip.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.strip.setFixedHeight(HEIGHT)
        self.strip.setContentsMargins(HANDLE, 0, HANDLE, 0)
        self.reach = qt.QLabel()
        self.reach.setWordWrap(True)
        setMessage(self.reach, "")
        self._lay_out()
        self._name()

    def _lay_out(self) -> None:
        grid = qt.QGridLayout(self.widget)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(1)
        grid.addWidget(self.label, 0, 0)
        grid.addWidget(self.mode, 0, 1)
        grid.addWidget(self.slider, 1, 0)
        grid.addWidget(self.spin, 1, 1, 2, 1)
        grid.addWidget(self.strip, 2, 0)
        grid.addWidget(self.reach, 3, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnMinimumWidth(1, 96)
        self.spin.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.mode.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)

    def _name(self) -> None:
        """Object names for tests and tooltips for users."""
        for part in ("widget", "mode", "slider", "spin", "strip", "reach"):
            getattr(self, part).setObjectName(f"{self.row.key}_{part}")
        self._setTips("")
        self.mode.setToolTip(
            _("Keep: as measured. Free: whatever fits the rest. Set: the value of the slider.")
        )
        self.strip.setToolTip(self._population())

    def _setTips(self, allowed: str) -> None:
        for part in (self.label, self.slider, self.spin):
            part.setToolTip("\n".join(text for text in (self.row.meaning, allowed) if text))

    def _population(self) -> str:
        if not {5, 50, 95} <= set(self.row.percentiles):
            return _("The model doesn't know how this feature is distributed.")
        text = _("Nine in ten of the model's tumours: {low} to {high}; half of them below {median}.")
        shown = {
            name: panel_text.withUnit(self.row.percentiles[p], self.row.unit)
            for name, p in (("low", 5), ("high", 95), ("median", 50))
        }
        return text.format(**shown)

    def _connect(self) -> None:
        self.mode.connect("activated(int)", self._onMode)
        self.slider.connect("valueChanged(int)", self._onSlider)
        self.spin.connect("valueChanged(double)", self._onSpin)

    def update(self, request, measured, reach) -> None:
        """Show a request.

        :param measured: the tumour's value in the row's unit, or None where there is none to keep. :param reach: a `Reach`.
        """
        self._updating = True
        try:
            self._measured = measured
            mode, value = request.mode(self.row.key), request.value(self.row.key)
            self._value, self._range = value, reach.range(self.row.key)
            self.scale = Scale(self.row, [v for v in (measured, value) if v is not None])
            shown = self._shown(value)
            self.spin.setDecimals(panel_text.decimals(self.scale.high - self.scale.low, shown))
            self.spin.setSingleStep((self.scale.high - self.scale.low) / 50 or 1.0)
            self._showMode(mode if measured is not None or mode != KEEP else FREE)
            self._showValue(shown)
        finally:
            self._updating = False
        self.showReach(reach)

    def showReach(self, reach) -> None:
        """Mark on the strip, and say below a slider that was moved, what the tumour's own tissue allows."""
        self._range = reach.range(self.row.key)
        text = reach.text(self.row)
        self._setTips(text)
        setMessage(self.reach, text if self._value is not None else "")
        font = self.reach.font
        font.setBold(reach.beyond(self.row, self._value))
        self.reach.setFont(font)
        self._draw()

    def _shown(self, value) -> float:
        """The value to show: what is set, else what is measured, else the population's median."""
        for candidate in (value, self._measured, self.row.percentiles.get(50)):
            if candidate is not None:
                return candidate
        return self.scale.low

    def _showMode(self, mode: str) -> None:
        self.mode.clear()
        for name, text in modes().items():
            if name != KEEP or self._measured is not None:
                self.mode.addItem(text, name)
        self.mode.setCurrentIndex(self.mode.findData(mode))
        font = self.label.font
        font.setBold(mode == SET)  # what the user set stands out among what is kept or free
        self.label.setFont(font)
        self._draw()

    def _draw(self) -> None:
        drawn = (self.scale.low, self.scale.high, self._measured, self._range)
        if drawn != self._drawn:
            self._drawn = drawn
            percentiles, palette = self.row.percentiles, self.strip.palette
            picture = panel_strip.pixmap(
                palette, self.scale, percentiles, self._measured, width=220, height=HEIGHT, limits=self._range
            )
            self.strip.setPixmap(picture)

    def _showValue(self, value: float) -> None:
        self.spin.setValue(value)
        self.slider.setValue(round(STEPS * self.scale.fraction(value)))

    def _onMode(self, index: int) -> None:
        mode = self.mode.itemData(index)
        if mode != SET:
            self._onAsked(self.row.key, mode, 0.0)
        else:
            self._onAsked(self.row.key, SET, self.spin.value)

    def _onSlider(self, position: int) -> None:
        if not self._updating:
            self._set(self.scale.value(position / STEPS), self.slider)

    def _onSpin(self, value: float) -> None:
        if not self._updating:
            self._set(value, self.spin)

    def _set(self, value: float, source) -> None:
        """The user moved one of the two: the other follows, and the feature is asked for."""
        self._updating = True
        try:
            if source is self.slider:
                self.spin.setValue(value)
                value = self.spin.value  # as shown, so that what is asked is what one reads
            else:
                self.slider.setValue(round(STEPS * self.scale.fraction(value)))
            self.mode.setCurrentIndex(self.mode.findData(SET))
        finally:
            self._updating = False
        self._onAsked(self.row.key, SET, value)

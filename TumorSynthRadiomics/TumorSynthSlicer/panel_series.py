"""Part of section 2: one feature that runs from a value to another."""

import qt
from slicer.i18n import tr as _

from TumorSynthSlicer import panel_text


class Series:
    """The feature of a series, its first and last value, and the number of volumes.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._keys, self._updating = [], False
        for spin in (self._ui.seriesFromSpinBox, self._ui.seriesToSpinBox):
            spin.setRange(-1e12, 1e12)
            spin.setSizePolicy(
                qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed
            )  # else as wide as that many digits
        self._ui.seriesFeatureSelector.connect("activated(int)", self._onFeature)
        self._ui.seriesFromSpinBox.connect(
            "valueChanged(double)", lambda value: self._onValue("seriesFrom", value)
        )
        self._ui.seriesToSpinBox.connect(
            "valueChanged(double)", lambda value: self._onValue("seriesTo", value)
        )

    def _known(self) -> list:
        return [row for row in self._panel.rows() if row.role == "driver" and row.kind]

    def _row(self):
        parameters = self._panel.parameters
        key = parameters.seriesFeature if parameters is not None else ""
        return next((row for row in self._known() if row.key == key), None)

    def update(self) -> None:
        """Show the parameters."""
        parameters, known = self._panel.parameters, self._known()
        selector = self._ui.seriesFeatureSelector
        self._updating = True
        try:
            if [row.key for row in known] != self._keys:
                self._keys = [row.key for row in known]
                selector.clear()
                for row in known:
                    selector.addItem(row.label, row.key)
            selector.setCurrentIndex(selector.findData(parameters.seriesFeature))
            self._showValues()
        finally:
            self._updating = False

    def _showValues(self) -> None:
        row, parameters = self._row(), self._panel.parameters
        values = {"seriesFromSpinBox": parameters.seriesFrom, "seriesToSpinBox": parameters.seriesTo}
        for name, value in values.items():
            spin = getattr(self._ui, name)
            spin.enabled = row is not None
            if row is not None:
                spread = (row.high or 1.0) - (row.low or 0.0)
                spin.setDecimals(panel_text.decimals(spread, value))
                spin.setSingleStep(spread / 50 or 1.0)
                spin.setSuffix(" " + row.unit if row.unit else "")
            spin.setValue(value)

    def _onFeature(self, index: int) -> None:
        """Begin with half and end with twice the tumour's value, or with the population's middle where it isn't known."""
        parameters = self._panel.parameters
        if parameters is None:
            return
        key = self._ui.seriesFeatureSelector.itemData(index)
        row = next(row for row in self._known() if row.key == key)
        measured = self._panel.tumour.features.get(row.name)
        first, last = row.percentiles.get(25, 0.0), row.percentiles.get(75, 1.0)
        if measured is not None and row.key == "volume_ml":
            first, last = 0.5 * measured / row.factor, 2.0 * measured / row.factor
        parameters.seriesFeature = key
        parameters.seriesFrom, parameters.seriesTo = float(first), float(last)

    def _onValue(self, name: str, value: float) -> None:
        if not self._updating and self._panel.parameters is not None:
            setattr(self._panel.parameters, name, float(value))

    def options(self) -> dict:
        """Evenly spaced values, both ends included; by equal factors for a volume, which is how tumours grow."""
        row, p = self._row(), self._panel.parameters
        if row is None or p.seriesFrom == p.seriesTo:
            return {}
        first, last, count = p.seriesFrom, p.seriesTo, p.seriesCount
        at = [i / (count - 1) for i in range(count)]
        if row.key == "volume_ml" and first > 0 and last > 0:
            return {"feature": row.key, "values": [first * (last / first) ** t for t in at]}
        return {"feature": row.key, "values": [first + t * (last - first) for t in at]}

    def missing(self) -> str:
        if self._row() is None:
            return _("Choose the feature that changes in the series.")
        return "" if self.options() else _("Let the series begin and end with different values.")

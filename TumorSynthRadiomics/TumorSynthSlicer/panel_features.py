"""Part of section 2: the features to ask for, as sliders for the main ones and a list with search for all."""

import qt
from slicer.i18n import tr as _

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_reach import Reach
from TumorSynthSlicer.panel_request import FREE, KEEP, SET, Request, modes, preset, presets
from TumorSynthSlicer.panel_rows import DriverRow
from TumorSynthSlicer.panel_widgets import fitColumns, fitHeight, matches

KEY_ROLE = int(qt.Qt.UserRole)
#: Whether there is a tumour to change, and the kind of features: parameter with the request.
PARAMETERS = {
    (True, "texture"): "textureRequest",
    (True, "shape"): "shapeRequest",
    (False, "texture"): "insertTexture",
    (False, "shape"): "insertShape",
}


class Features:
    """Rows for the features of one or both kinds, and the request that they make.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._kinds: tuple = ()
        self._canKeep, self._rows, self._shown = True, {}, None
        self._single, self.reach = None, Reach(panel, self._showReach)
        fitColumns(self._ui.advancedTree)
        self._ui.presetSelector.connect("activated(int)", self._onPreset)
        self._ui.advancedSearch.connect("textChanged(QString)", lambda text: self._fillAdvanced())
        self._ui.advancedTree.connect("itemSelectionChanged()", self._onChosen)

    def update(self, kinds, canKeep: bool) -> None:
        """Show the request for these kinds of features.

        :param canKeep: whether there is a tumour whose features can be kept.
        """
        if kinds != self._kinds:
            self._kinds = kinds
            self._fillPresets()
        self._canKeep = canKeep
        self._makeRows()
        self.reach.update()
        for row in self._rows.values():
            self._updateRow(row)
        self._fillAdvanced()

    def _updateRow(self, row) -> None:
        row.update(self._request(row.row.kind), self._measuredValue(row.row), self.reach)

    def _showReach(self) -> None:
        """Another range is known."""
        for row in [*self._rows.values(), self._single]:
            if row is not None:
                row.showReach(self.reach)
        self._panel.refresh()

    # The request

    def _request(self, kind: str) -> Request:
        return Request(getattr(self._panel.parameters, PARAMETERS[self._canKeep, kind]))

    def _known(self, kind: str) -> list:
        return [row for row in self._panel.rows() if row.kind == kind]

    @property
    def _measured(self) -> dict:
        return self._panel.tumour.features if self._canKeep else {}

    def _measuredValue(self, row):
        value = self._measured.get(row.name)
        return value / row.factor if value is not None else None

    def asked(self) -> dict:
        """{key: value} of what is asked."""
        result: dict = {}
        for kind in self._kinds:
            result |= self._request(kind).features(self._known(kind), self._measured)
        return result

    def settings(self) -> dict:
        """{key: value} of what the user set."""
        found: dict = {}
        for kind in self._kinds:
            request = self._request(kind)
            found |= {row.key: request.value(row.key) for row in self._known(kind)}
        return {key: value for key, value in found.items() if value is not None}

    def changes(self) -> bool:
        """True where the user set something."""
        return any(self._request(kind).changes(self._known(kind)) for kind in self._kinds)

    def _onAsked(self, key: str, mode: str, value: float) -> None:
        kind = next((row.kind for row in self._panel.rows() if row.key == key), None)
        if kind is None or self._panel.parameters is None:
            return
        request = self._request(kind)
        request.ask(key, mode, value)
        setattr(self._panel.parameters, PARAMETERS[self._canKeep, kind], request.text())

    # Presets

    def _fillPresets(self) -> None:
        selector = self._ui.presetSelector
        selector.clear()
        selector.addItem(_("Choose a preset"), "")
        for kind in self._kinds:
            for name, text in presets(kind):
                if len(self._kinds) > 1:
                    kindName = _("Shape") if kind == "shape" else _("Texture")
                    text = _("{kind}: {preset}").format(kind=kindName, preset=text)
                selector.addItem(text, f"{kind}/{name}")

    def _onPreset(self, index: int) -> None:
        chosen = self._ui.presetSelector.itemData(index)
        self._ui.presetSelector.setCurrentIndex(0)
        if not chosen or self._panel.parameters is None:
            return
        kind, name = chosen.split("/")
        request = Request()
        request.replace(preset(name, self._known(kind), self._measured))
        setattr(self._panel.parameters, PARAMETERS[self._canKeep, kind], request.text())

    # Sliders

    def _makeRows(self) -> None:
        """One row for each driver of the shown kinds, made once for each model."""
        wanted = [row for kind in self._kinds for row in self._known(kind) if row.role == "driver"]
        if [id(row) for row in wanted] == self._shown:
            return
        for row in self._rows.values():
            self._ui.driverRows.layout().removeWidget(row.widget)
            row.widget.setParent(None)
            row.widget.deleteLater()
        self._rows = {row.key: DriverRow(row, self._onAsked) for row in wanted}
        for row in self._rows.values():
            self._ui.driverRows.layout().addWidget(row.widget)
        self._shown = [id(row) for row in wanted]

    # All features

    def _fillAdvanced(self) -> None:
        tree, words = self._ui.advancedTree, self._ui.advancedSearch.text
        selected = self._chosenKey()
        tree.blockSignals(True)
        tree.clear()
        parameters = self._panel.parameters
        if parameters is not None and parameters.advanced:
            for kind in self._kinds:
                request = self._request(kind)
                for row in self._known(kind):
                    if row.role != "driver" and matches(words, row.label, row.name, row.meaning):
                        self._addAdvanced(tree, row, request, row.key == selected)
        tree.blockSignals(False)
        fitHeight(tree, least=3, most=6)
        self._showSingle()

    def _addAdvanced(self, tree, row, request, selected: bool) -> None:
        item = qt.QTreeWidgetItem(tree)
        item.setData(0, KEY_ROLE, row.key)
        item.setText(0, row.label)
        item.setText(1, panel_text.number(self._measuredValue(row)))
        mode = request.mode(row.key)
        asked = {SET: panel_text.number(request.value(row.key)), FREE: ""}
        item.setText(2, asked.get(mode, modes()[KEEP]))
        for column in range(3):
            item.setToolTip(column, row.meaning)
        for column in (1, 2):
            item.setTextAlignment(column, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        if selected:
            item.setSelected(True)

    def _chosenKey(self) -> str:
        items = self._ui.advancedTree.selectedItems()
        return items[0].data(0, KEY_ROLE) if items else ""

    def _onChosen(self) -> None:
        self._showSingle()

    def _showSingle(self) -> None:
        """The row of the feature that is chosen in the list."""
        key = self._chosenKey()
        row = next((r for r in self._panel.rows() if r.key == key), None)
        if self._single is not None and self._single.row is not row:
            self._ui.advancedRow.layout().removeWidget(self._single.widget)
            self._single.widget.setParent(None)
            self._single.widget.deleteLater()
            self._single = None
        if row is None:
            return
        if self._single is None:
            self._single = DriverRow(row, self._onAsked)
            self._ui.advancedRow.layout().addWidget(self._single.widget)
        self._updateRow(self._single)

"""Section 3, Result: run the edit, compare before and after, what was asked and what was reached, the history."""

import qt
import slicer
from slicer.i18n import tr as _

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_history import History
from TumorSynthSlicer.panel_run import Run
from TumorSynthSlicer.panel_tumour import DEVIATION, VARIANCE, withDeviation
from TumorSynthSlicer.panel_views import Comparison, showSeries
from TumorSynthSlicer.panel_widgets import fitColumns, fitHeight, setAvailable, setMessage, waiting

REACHED = (
    0.25  # standard deviations of the population within which a feature counts as reached, as in the engine
)


TAKEN = 0.02  # of what was asked, by which a value that was taken to what tissue allows differs from it


def isReached(outcome, name: str) -> bool:
    """Whether a feature is near what was asked, among the population and by its own size: tissue may have allowed less."""
    asked = outcome.asked.get(name, 0.0)
    near = abs(outcome.used.get(name, asked) - asked) <= TAKEN * abs(asked)
    return near and abs(outcome.differences.get(name, 0.0)) <= REACHED


class ResultSection:
    """What came of the edits.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self.run, self.history = Run(panel), History(panel)
        self._outcomes, self._compared, self._before = {}, "", None
        self._comparison, self._given = Comparison(), {}  # of a removal's entry: what was chosen before
        fitColumns(self._ui.resultTree)
        self._ui.beforeButton.connect("toggled(bool)", self._onBefore)
        self._ui.fadeSlider.connect("valueChanged(int)", self._onFade)
        self._ui.plotButton.connect("clicked()", self._onPlot)
        self._ui.anotherButton.connect("clicked()", self._onAnother)
        self._ui.saveResultButton.connect("clicked()", self._onSaveResult)
        self._ui.reportButton.connect("clicked()", self._onReport)
        self._ui.keepButton.connect("clicked()", self._onKeep)

    def update(self) -> None:
        """Show the history and the chosen edit."""
        self.history.update()
        self.fill()

    def refresh(self) -> None:
        """The states of the buttons."""
        self.run.refresh()
        self.history.refresh()
        entry = self.history.chosen()
        none = "" if entry is not None else _("There is no edit yet.")
        reason = self._panel.busy() or none
        gone = reason or self._whyNoBefore(entry)
        setAvailable(self._ui.beforeButton, _("Switch between the volume before and after the edit."), gone)
        setAvailable(self._ui.fadeSlider, _("Fade from after (left) to before (right)."), gone)
        asked = reason or ("" if entry.asked else _("Nothing was asked for in this edit."))
        setAvailable(self._ui.plotButton, _("Plot what was asked and what was reached."), asked)
        setAvailable(
            self._ui.reportButton, _("Write a report on the edits, with pictures, as a web page."), reason
        )
        setAvailable(
            self._ui.saveResultButton,
            _("Write the image, marked as synthetic, with the tumour's mask and the record of the edit."),
            gone,
        )
        setAvailable(
            self._ui.keepButton, _("Copy the edited volume, so that it stays when you edit on."), gone
        )
        last = self._lastRemoval()
        self._ui.anotherButton.setVisible(last is not None)
        setAvailable(
            self._ui.anotherButton, _("Take this removal back and fill the place with other tissue."), reason
        )
        for name in ("compareOptions", "resultButtons", "historyLabel", "historyTree", "historyButtons"):
            getattr(self._ui, name).setVisible(entry is not None)

    @staticmethod
    def _whyNoBefore(entry) -> str:
        if entry.edit == "series":
            return _("A series changes no volume: its steps are in a sequence.")
        if entry.undone:
            return _("This edit is undone: redo it first.")
        return "" if entry.undoable else _("The voxels before this edit are not known any more.")

    # After an edit

    def done(self, outcome, follow: bool = True) -> None:
        """Show what an edit did.

        :param follow: whether further edits go on in its result.
        """
        self.hideBefore()
        self._outcomes[outcome.entryID] = outcome
        parameters = self._panel.parameters
        follow = follow and self._panel.begunWith(parameters)  # else the user has gone on with another tumour
        if follow and outcome.edit == "remove" and parameters is not None:
            names = ("inputVolume", "segmentation", "segmentID")
            self._given[outcome.entryID] = {name: getattr(parameters, name) for name in names}
        if follow:
            self._follow(outcome)
        elif outcome.volumeNode is not None and outcome.edit != "series" and parameters is not None:
            slicer.util.setSliceViewerLayers(background=outcome.volumeNode)
        setMessage(self._ui.outcomeLabel, self._summary(outcome))
        self.history.update(choose=outcome.entryID)
        self.fill()

    def _follow(self, outcome) -> None:
        """Go on with the volume and the tumour where they are now, and show the volume."""
        parameters = self._panel.parameters
        if parameters is None:
            return
        if outcome.sequenceNodes:
            showSeries(outcome.sequenceNodes[0])
            return
        if outcome.volumeNode is not None and outcome.volumeNode is not parameters.inputVolume:
            slicer.util.setSliceViewerLayers(background=outcome.volumeNode)
        with slicer.util.NodeModify(parameters.parameterNode):
            if outcome.volumeNode is not None:
                parameters.inputVolume = outcome.volumeNode
            if outcome.segmentationNode is not None and outcome.segmentID:
                parameters.segmentation, parameters.segmentID = outcome.segmentationNode, outcome.segmentID
            self._panel.tumour.keepModel()

    def _summary(self, outcome) -> str:
        lines = []
        seconds = sum(outcome.timing.get(name, 0.0) for name in ("total", "overhead"))
        if outcome.asked:
            reached = sum(isReached(outcome, name) for name in outcome.asked)
            text = _("Done in {time}. {reached} of {asked} features reached.")
            lines.append(
                text.format(time=panel_text.duration(seconds), reached=reached, asked=len(outcome.asked))
            )
        else:
            lines.append(_("Done in {time}.").format(time=panel_text.duration(seconds)))
        warnings = [panel_text.plain(text, self._panel.rows()) for text in outcome.warnings]
        return panel_text.sentences([*lines, *panel_text.drawn(outcome), *warnings])

    def failed(self, message: str) -> None:
        setMessage(self._ui.outcomeLabel, message)

    def cancelled(self) -> None:
        setMessage(self._ui.outcomeLabel, _("Stopped. Nothing was changed."))

    # Asked and reached

    def fill(self) -> None:
        """The table of the chosen edit."""
        tree, entry = self._ui.resultTree, self.history.chosen()
        tree.clear()
        asked = withDeviation(entry.asked) if entry is not None else {}
        reached = withDeviation(entry.reached) if entry is not None else {}
        for row in self._panel.rows():
            if row.name in asked and row.name != VARIANCE:  # shown as its root
                self._addRow(tree, entry, row, asked[row.name], reached.get(row.name))
        tree.setVisible(bool(asked))
        fitHeight(tree, least=1)

    def _addRow(self, tree, entry, row, asked, reached) -> None:
        outcome = self._outcomes.get(entry.id)
        off, missed = None, False
        if outcome is not None:
            name = VARIANCE if row.name == DEVIATION else row.name
            off, missed = outcome.differences.get(name), not isReached(outcome, name)
        item = qt.QTreeWidgetItem(tree)
        texts = [
            row.label,
            panel_text.number(asked / row.factor),
            panel_text.number(reached / row.factor if reached is not None else None),
            panel_text.deviation(off),
        ]
        for column, text in enumerate(texts):
            item.setText(column, text)
            item.setToolTip(column, row.meaning)
            if column:
                item.setTextAlignment(column, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        if missed:
            font = item.font(3)
            font.setBold(True)
            item.setFont(3, font)

    def _onPlot(self) -> None:
        with self._panel.reported(self._ui.outcomeLabel):
            chart = self._panel.logic.featurePlot(self.history.chosen().id)
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    # Before and after

    def _onBefore(self, on: bool) -> None:
        self._ui.fadeSlider.setValue(100 if on else 0)

    def _onFade(self, value: int) -> None:
        """Lay the volume before the edit over the one after it."""
        entry = self.history.chosen()
        if value and entry is not None:
            with self._panel.reported(self._ui.outcomeLabel):
                if self._compared != entry.id:
                    self._before, self._compared = self._panel.logic.beforeVolume(entry.id), entry.id
                self._comparison.show(self._before, value / 100.0)
        else:
            self._comparison.end()
        self._ui.beforeButton.blockSignals(True)
        self._ui.beforeButton.checked = value == 100
        self._ui.beforeButton.blockSignals(False)

    def hideBefore(self) -> None:
        """End the comparison and remove what it needed."""
        if not self._compared:
            return
        self._compared, self._before = "", None
        self._ui.fadeSlider.setValue(0)
        self._comparison.end()
        self._panel.logic.hideBefore()

    # Another removal

    def _lastRemoval(self):
        """The newest edit that isn't undone, if it is a removal whose tumour is still known."""
        entries = [entry for entry in self._panel.logic.history() if not entry.undone]
        last = entries[-1] if entries else None
        return last if last is not None and last.edit == "remove" and last.id in self._given else None

    def _onAnother(self) -> None:
        """Take the last removal back, and remove again with another seed."""
        entry, parameters = self._lastRemoval(), self._panel.parameters
        self.hideBefore()
        with self._panel.reported(self._ui.outcomeLabel):
            self._panel.logic.undo()
            with slicer.util.NodeModify(parameters.parameterNode):
                for name, value in self._given.pop(entry.id).items():
                    setattr(parameters, name, value)
                parameters.seed = (parameters.seed + 1) % 1000000
                parameters.edit = "remove"
                self._panel.tumour.keepModel()
            self.run.checkNow()
            self.run.generate()

    # Keeping

    def _onSaveResult(self) -> None:
        entry = self.history.chosen()
        name = "".join(c if c.isalnum() or c in " ._-()" else "_" for c in entry.volumeName) + ".nii.gz"
        filters = _("Images (*.nii.gz *.nii *.nrrd *.mha)")
        path = self._panel.dialogs.saveFile(_("Save the result"), name, filters)
        if not path:
            return
        if not path.lower().endswith((".nii.gz", ".nii", ".nrrd", ".mha")):
            path += ".nii.gz"
        with self._panel.reported(self._ui.outcomeLabel), waiting():
            path = self._panel.logic.saveResult(path, entry.id)
            text = _("Saved as {path}, with the tumour's mask and the record of the edit beside it.")
            setMessage(self._ui.outcomeLabel, text.format(path=path))

    def _onReport(self) -> None:
        folder = self._panel.dialogs.chooseFolder(_("Save the report in a folder"))
        if not folder:
            return
        with self._panel.reported(self._ui.outcomeLabel):
            path = self._panel.logic.saveReport(folder)
            setMessage(self._ui.outcomeLabel, _("The report is {path}.").format(path=path))
            self._panel.dialogs.openFile(path)

    def _onKeep(self) -> None:
        with self._panel.reported(self._ui.outcomeLabel):
            node = self._panel.logic.keepAsNewVolume(self.history.chosen().id)
            setMessage(self._ui.outcomeLabel, _("Kept as {name}.").format(name=node.GetName()))

    def forget(self) -> None:
        """The scene is closed: nothing of it is left."""
        self._outcomes, self._compared, self._before = {}, "", None
        self._comparison.forget()
        self._given = {}
        self._ui.fadeSlider.blockSignals(True)
        self._ui.fadeSlider.setValue(0)
        self._ui.fadeSlider.blockSignals(False)
        self._ui.beforeButton.blockSignals(True)
        self._ui.beforeButton.checked = False
        self._ui.beforeButton.blockSignals(False)
        setMessage(self._ui.outcomeLabel, "")
        self.run.check = None

"""Part of section 3: the edits of the scene, to be undone, redone and repeated."""

import qt
from slicer.i18n import tr as _

from TumorSynthSlicer.panel_widgets import fitColumns, fitHeight, setAvailable, setMessage

ID_ROLE = int(qt.Qt.UserRole)


class History:
    """The list of edits, the newest first.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._entries = []
        fitColumns(self._ui.historyTree)
        self._ui.historyTree.connect("itemSelectionChanged()", self._onChosen)
        self._ui.undoButton.connect("clicked()", self.undo)
        self._ui.redoButton.connect("clicked()", self.redo)
        self._ui.repeatButton.connect("clicked()", self.repeat)

    def update(self, choose: str = "") -> None:
        """Show the edits; `choose`: the id of the one to be chosen, by default the one that is."""
        entries = list(self._panel.logic.history())
        if entries == self._entries and not choose:
            return
        known = {entry.id for entry in self._entries}
        new = [entry.id for entry in entries if entry.id not in known]
        chosen = choose or (new[-1] if new else self._chosenID())
        self._entries = entries
        tree = self._ui.historyTree
        tree.blockSignals(True)
        tree.clear()
        for entry in reversed(entries):
            self._add(tree, entry)
        self._select(chosen or (entries[-1].id if entries else ""))
        tree.blockSignals(False)
        fitHeight(tree, least=1, most=5)

    @staticmethod
    def _add(tree, entry) -> None:
        item = qt.QTreeWidgetItem(tree)
        item.setData(0, ID_ROLE, entry.id)
        item.setText(0, _("{title} (undone)").format(title=entry.title) if entry.undone else entry.title)
        item.setText(1, entry.when[11:16])
        tip = _("Seed {seed}, model {model}, {when}").format(
            seed=entry.seed, model=entry.modelID, when=entry.when
        )
        for column in range(2):
            item.setToolTip(column, tip)
        if entry.undone:
            font = item.font(0)
            font.setItalic(True)
            item.setFont(0, font)

    def _select(self, entryID: str) -> None:
        tree = self._ui.historyTree
        for i in range(tree.topLevelItemCount):
            item = tree.topLevelItem(i)
            item.setSelected(item.data(0, ID_ROLE) == entryID)

    def _chosenID(self) -> str:
        items = self._ui.historyTree.selectedItems()
        return items[0].data(0, ID_ROLE) if items else ""

    def chosen(self):
        """The chosen entry, by default the newest; None without any."""
        chosen = self._chosenID()
        found = next((entry for entry in self._entries if entry.id == chosen), None)
        return found or (self._entries[-1] if self._entries else None)

    def _onChosen(self) -> None:
        self._panel.result.hideBefore()
        self._panel.result.fill()
        self._panel.refresh()

    def refresh(self) -> None:
        """The states of the buttons."""
        busy, logic = self._panel.busy(), self._panel.logic
        undo = "" if logic.canUndo() else _("There is nothing to undo.")
        redo = "" if logic.canRedo() else _("There is nothing to redo.")
        none = "" if self._entries else _("There is no edit yet.")
        setAvailable(
            self._ui.undoButton, _("Take back the last edit, voxel by voxel (Ctrl+Z)."), busy or undo
        )
        setAvailable(self._ui.redoButton, _("Do the undone edit again (Ctrl+Y)."), busy or redo)
        setAvailable(
            self._ui.repeatButton, _("Compute the chosen edit again, into a new volume."), busy or none
        )

    def undo(self) -> None:
        self._step(self._panel.logic.canUndo, self._panel.logic.undo, _("Undone: {title}"))

    def redo(self) -> None:
        self._step(self._panel.logic.canRedo, self._panel.logic.redo, _("Done again: {title}"))

    def _step(self, can, step, text: str) -> None:
        if self._panel.busy() or not can():
            return
        self._panel.result.hideBefore()
        with self._panel.reported(self._ui.outcomeLabel):
            entry = step()
            setMessage(self._ui.outcomeLabel, text.format(title=entry.title))
        self._panel.parametersChanged()

    def repeat(self) -> None:
        """Run the chosen edit again as it was."""
        entry = self.chosen()
        setMessage(self._ui.outcomeLabel, _("Computing it again…"))
        self._panel.refreshSoon()
        outcome = None
        with self._panel.reported(self._ui.outcomeLabel):
            outcome = self._panel.logic.repeat(entry.id)  # lets the application go on meanwhile
        if outcome is not None and not self._panel.closed:
            self._panel.result.done(outcome, follow=False)
        self._panel.parametersChanged()

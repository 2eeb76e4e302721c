"""Section Models: what is installed, what can be installed, and what can go."""

import qt
import slicer
from slicer.i18n import tr as _

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_widgets import fitColumns, fitHeight, setAvailable, setMessage

ID_ROLE = int(qt.Qt.UserRole)


class Stopped(Exception):
    """The user stopped an installation."""


def scoreLines(scores, indent: str = "") -> list:
    """Scores as text: a line for each number, groups above their members, and of lists the first value, which is the score."""
    lines = []
    for name, value in scores.items():
        if isinstance(value, dict) and "mean" in value:
            value = value["mean"]
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], (int, float)):
            value = value[0]
        if isinstance(value, dict):
            lines += [indent + name, *scoreLines(value, indent + "    ")]
        elif isinstance(value, (int, float)):
            lines.append(f"{indent}{name}: {panel_text.number(value)}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


class ModelsSection:
    """Lists, installs and removes models.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._installing, self._stop, self._shown = False, False, None
        fitColumns(self._ui.modelTree)
        setMessage(self._ui.installMessage, "")
        self._ui.installProgress.setVisible(False)
        self._ui.modelTree.connect("itemSelectionChanged()", self.refresh)
        self._ui.removeModelButton.connect("clicked()", self._onRemove)
        self._ui.scoresButton.connect("toggled(bool)", lambda on: self.refresh())
        self._ui.browseButton.connect("clicked()", self._onBrowse)
        self._ui.installEdit.connect("textChanged(QString)", lambda text: self.refresh())
        self._ui.installButton.connect("clicked()", self._onInstall)
        self._ui.stopInstallButton.connect("clicked()", self._onStop)

    def update(self) -> None:
        """Fill the list."""
        rows = self._panel.models()
        if rows == self._shown:
            return
        self._shown = rows
        tree, chosen = self._ui.modelTree, self._chosenID()
        tree.clear()
        for row in rows:
            item = qt.QTreeWidgetItem(tree)
            item.setData(0, ID_ROLE, row.id)
            item.setText(0, row.title or row.id)
            item.setText(1, panel_text.size(row.bytes) if row.bytes else "")
            item.setText(2, _("update available") if row.update else panel_text.state(row.status))
            item.setSelected(row.id == chosen)
        fitHeight(tree, least=2, most=6)

    def _chosenID(self) -> str:
        items = self._ui.modelTree.selectedItems()
        return items[0].data(0, ID_ROLE) if items else ""

    def _chosen(self):
        return next((row for row in self._panel.models() if row.id == self._chosenID()), None)

    def refresh(self) -> None:
        """The states of the buttons, and what is known of the chosen model."""
        row = self._chosen()
        setMessage(self._ui.modelDetails, self._details(row))
        setAvailable(
            self._ui.removeModelButton, _("Delete the chosen model from this computer."), self._whyKept(row)
        )
        self._showScores(row)
        source = self._ui.installEdit.text.strip() or self._installable(row)
        reason = (
            ""
            if source
            else _("Give an address, a file or a folder, or choose a model that can be installed.")
        )
        reason = _("A model is being installed.") if self._installing else reason or self._panel.busy()
        setAvailable(self._ui.installButton, _("Show what would be installed, then install it."), reason)
        setAvailable(
            self._ui.browseButton, _("Choose a model's zip archive."), reason if self._installing else ""
        )
        idle = "" if self._installing else _("Nothing is being installed.")
        setAvailable(self._ui.stopInstallButton, _("Stop the installation; nothing is left behind."), idle)

    def _showScores(self, row) -> None:
        scores = row.scores if row is not None else {}
        setAvailable(
            self._ui.scoresButton,
            _("Show what the model reached."),
            "" if scores else _("No scores are known."),
        )
        self._ui.scoresText.setVisible(bool(scores) and self._ui.scoresButton.checked)
        self._ui.scoresText.setPlainText("\n".join(scoreLines(scores)))

    def _whyKept(self, row) -> str:
        if row is None:
            return _("Choose a model in the list.")
        if not row.removable:
            return _("Only models that you installed can be removed.")
        return self._panel.busy()

    @staticmethod
    def _installable(row) -> str:
        return row.id if row is not None and (row.status == "available" or row.update) else ""

    @staticmethod
    def _details(row) -> str:
        if row is None:
            return ""
        if row.error:
            return row.error
        lines = [_("{id}, version {version}").format(id=row.id, version=row.version or "–")]
        if row.organ:
            lines.append(
                _("For: {organ} ({modalities})").format(organ=row.organ, modalities=", ".join(row.modalities))
            )
        if row.licence:
            lines.append(_("Licence: {licence}").format(licence=row.licence))
        if row.memorisation:
            lines.append(_("Of patients: {text}").format(text=row.memorisation))
        return "\n".join(lines)

    def _onRemove(self) -> None:
        row = self._chosen()
        text = _("Delete the model {title} ({size}) from this computer?")
        if not self._panel.dialogs.confirm(text.format(title=row.title, size=panel_text.size(row.bytes))):
            return
        with self._panel.reported(self._ui.installMessage):
            self._panel.logic.removeModel(row.id)
            setMessage(self._ui.installMessage, _("{title} was removed.").format(title=row.title))
        self._panel.modelsChanged()

    def _onBrowse(self) -> None:
        path = self._panel.dialogs.chooseFile(_("Choose a model"), _("Models (*.zip)"))
        if path:
            self._ui.installEdit.text = path

    def _onStop(self) -> None:
        self._stop = True

    def _onInstall(self) -> None:
        source = self._ui.installEdit.text.strip() or self._installable(self._chosen())
        with self._panel.reported(self._ui.installMessage):
            plan = self._panel.logic.planInstall(source)
            if not self._panel.dialogs.confirm(_("Install this model?") + "\n\n" + "\n".join(plan)):
                return
            self._install(source)
        self._panel.modelsChanged()

    def _install(self, source: str) -> None:
        self._installing, self._stop = True, False
        self._ui.installProgress.setVisible(True)
        setMessage(self._ui.installMessage, "")
        self._panel.refresh()
        try:
            row = self._panel.logic.installModel(source, self._onProgress)
            self._ui.installEdit.text = ""
            setMessage(self._ui.installMessage, _("{title} was installed.").format(title=row.title or row.id))
        except Stopped:
            setMessage(self._ui.installMessage, _("The installation was stopped; nothing was left behind."))
        finally:
            self._installing = False
            self._ui.installProgress.setVisible(False)
            self._panel.refresh()

    def _onProgress(self, stage: str, fraction: float) -> None:
        names = {
            "download": _("Downloading"),
            "unpack": _("Unpacking"),
            "copy": _("Copying"),
            "check": _("Checking"),
        }
        self._ui.installProgress.setValue(round(1000 * fraction))
        setMessage(self._ui.installMessage, names.get(stage, stage))
        slicer.app.processEvents()
        if self._stop:
            raise Stopped()

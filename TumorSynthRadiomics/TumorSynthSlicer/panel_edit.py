"""Section 2, Edit: what is to be done with the tumour."""

from slicer.i18n import tr as _

from TumorSynthSlicer.panel_features import Features
from TumorSynthSlicer.panel_place import Place
from TumorSynthSlicer.panel_series import Series
from TumorSynthSlicer.panel_widgets import SegmentChoice, SegmentLink, segmentExists

#: Edit to the widgets that it needs; the button of an edit is named first.
TASKS = {
    "remove": ("removeButton", "removeOptions"),
    "retexture": (
        "textureButton",
        "donorOptions",
        "presetOptions",
        "keepOptions",
        "driverRows",
        "advancedCheckBox",
    ),
    "reshape": (
        "shapeButton",
        "presetOptions",
        "driverRows",
        "previewCheckBox",
        "advancedCheckBox",
        "removeOptions",
        "roomOptions",
    ),
    "move": ("moveButton", "placeOptions", "removeOptions"),
    "insert": (
        "insertButton",
        "placeOptions",
        "presetOptions",
        "driverRows",
        "previewCheckBox",
        "advancedCheckBox",
        "roomOptions",
    ),
    "series": ("seriesButton", "seriesOptions"),
}
OPTIONAL = {name for widgets in TASKS.values() for name in widgets[1:]}

#: Edit to the kinds of features that it can be asked for.
KINDS = {"retexture": ("texture",), "reshape": ("shape",), "insert": ("shape", "texture")}


def hints() -> dict:
    """One sentence on each edit."""
    return {
        "remove": _("Puts healthy tissue in place of the tumour."),
        "retexture": _("Gives the tumour another texture in the same shape."),
        "reshape": _("Gives the tumour another size or shape, with the texture that it has."),
        "move": _("Puts the same tumour at another place, and healthy tissue where it was."),
        "insert": _("Puts a new tumour into healthy tissue."),
        "series": _("Makes several volumes in which one feature changes step by step."),
    }


class EditSection:
    """The six edits, and what each has to be told.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self.features, self.place, self.series = Features(panel), Place(panel), Series(panel)
        self._donor = SegmentLink(self._ui.donorSegmentSelector, panel, "donorSegmentation", "donorSegmentID")
        self._segments = {
            "lend": SegmentChoice(self._ui.lendSelector, panel, "lend", _("Anywhere healthy")),
            "avoid": SegmentChoice(self._ui.avoidSelector, panel, "avoid", _("Other segments")),
        }
        for edit, (button, *_rest) in TASKS.items():
            getattr(self._ui, button).connect("clicked()", lambda *unused, edit=edit: self._onTask(edit))

    @property
    def edit(self) -> str:
        """The chosen edit."""
        parameters = self._panel.parameters
        return parameters.edit if parameters is not None and parameters.edit in TASKS else "retexture"

    def _onTask(self, edit: str) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.edit = edit

    def update(self) -> None:
        """Show the parameters."""
        edit, parameters = self.edit, self._panel.parameters
        getattr(self._ui, TASKS[edit][0]).checked = True
        self._ui.taskHint.text = hints()[edit]
        for name in OPTIONAL:
            getattr(self._ui, name).setVisible(name in TASKS[edit])
        self._ui.wholeCheckBox.setVisible(edit == "remove" and bool(self._panel.tumour.regions.names))
        self._ui.donorInput.setVisible(parameters.useDonor)
        self._ui.keepOptions.setVisible(edit == "retexture" and not parameters.useDonor)
        self._ui.advancedOptions.setVisible(parameters.advanced and "advancedCheckBox" in TASKS[edit])
        self._donor.update()
        for choice in self._segments.values():
            choice.update()
        self.place.update()
        self.series.update()
        self.features.update(KINDS.get(edit, ()), canKeep=edit != "insert")

    def refresh(self) -> None:
        """The states of the buttons."""
        can = self._panel.modelEdits()
        for edit, (button, *_rest) in TASKS.items():
            widget = getattr(self._ui, button)
            missing = "" if not can or edit in can else self._panel.cannot()
            widget.toolTip = missing or hints()[edit]
        self.place.refresh()

    def options(self) -> dict:
        """What the logic is told besides volume, segment and model."""
        edit, parameters = self.edit, self._panel.parameters
        options = dict(self._panel.tumour.regions.options())
        if edit in KINDS:
            options["features"] = self.features.asked()
        if "removeOptions" in TASKS[edit]:
            if parameters.grow:  # else the engine finds how far the tumour goes
                options["grow"] = parameters.grow
            options |= {name: choice.chosen() for name, choice in self._segments.items() if choice.chosen()}
        if edit == "retexture" and not parameters.useDonor:
            options["strength"] = 1.0 - parameters.keepPattern / 100.0
        if edit == "remove" and options.get("regions"):
            options["whole"] = parameters.whole
            if not parameters.whole:  # what lies around a region may be another one
                options["grow"] = 0.0
        if "roomOptions" in TASKS[edit]:
            options["massEffect"] = parameters.massEffect
        if edit == "retexture" and self._donorChosen():
            options["donor"] = (
                parameters.donorVolume,
                parameters.donorSegmentation,
                parameters.donorSegmentID,
            )
        if edit in ("move", "insert"):
            options |= self.place.options()
        if edit == "series":
            options |= self.series.options()
        return options

    def _donorChosen(self) -> bool:
        p = self._panel.parameters
        return (
            p.useDonor and p.donorVolume is not None and segmentExists(p.donorSegmentation, p.donorSegmentID)
        )

    def missing(self) -> str:
        """What the user still has to give before the edit can be tried, a sentence; empty if nothing."""
        edit, parameters, options = self.edit, self._panel.parameters, self.options()
        can = self._panel.modelEdits()
        if can and edit not in can:
            return self._panel.cannot()
        if edit not in ("insert", "series") and self._panel.tumour.removed:
            return _(
                "There is no tumour any more: undo the removal, insert a new one, or choose another segment."
            )
        if edit == "retexture":
            if parameters.useDonor and "donor" not in options:
                return _("Choose the donor's volume and tumour, or untick the donor.")
            if not self.features.changes() and "donor" not in options:
                return _("Nothing is asked for: move a slider, choose a preset, or take a donor.")
        if edit == "reshape" and not self.features.changes():
            return _("Nothing is asked to change: move a slider, or choose a preset.")
        if edit in ("move", "insert") and "to" not in options:
            return _("Place the new centre: press Place, then click in a view.")
        return self.series.missing() if edit == "series" else ""

"""Part of section 3: what an edit will take, Generate, Cancel, and progress."""

from random import SystemRandom

from slicer.i18n import tr as _

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_widgets import setAvailable, setMessage

DELAY = 250  # ms after the last change before the edit is checked


class Run:
    """Checks the edit while it is being described, and runs it.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self.check, self._checked = None, None
        self._message, self._installing = "", False
        self._timer = panel.timer(DELAY, self.checkNow)
        self._ui.generateButton.connect("clicked()", self.generate)
        self._ui.cancelButton.connect("clicked()", self._panel.cancel)
        self._ui.newSeedButton.connect("clicked()", self._onNewSeed)
        for name in ("estimateLabel", "warningLabel", "progressLabel", "outcomeLabel"):
            setMessage(getattr(self._ui, name), "")

    def update(self) -> None:
        """Something that the edit depends on has changed: check it soon."""
        self.check = None
        self._timer.start()

    def _arguments(self) -> tuple:
        """(edit, volume, segmentation, segment, model) and the options for the logic."""
        p, section = self._panel.parameters, self._panel.editSection
        options = section.options() | {"seed": p.seed}
        options["output"] = "inPlace" if p.inPlace else "syntheticCopy"
        if section.edit == "series":
            del options["output"]
        if self._network():
            options |= {"samples": p.samples, "solve": p.solve}
            if p.steps:
                options["steps"] = p.steps
        return (section.edit, p.inputVolume, p.segmentation, p.segmentID, p.modelID), options

    def _network(self) -> bool:
        """Whether a model's network draws, which alone has samples, steps and a solver."""
        p, edit = self._panel.parameters, self._panel.editSection.edit
        anew = p.useDonor or p.keepPattern == 0
        return self._panel.draws() and edit != "remove" and (edit != "retexture" or anew)

    def checkNow(self) -> None:
        """Ask the logic what the edit would take."""
        self._timer.stop()
        if not self._panel.active or self._panel.busy():
            return
        if not self._missing():
            arguments, options = self._arguments()
            self.check = self._panel.logic.check(*arguments, **options)
        self._panel.refresh()

    def _missing(self) -> str:
        """What has to be chosen before an edit can be tried."""
        edit = self._panel.editSection.edit
        return self._panel.missingInput(segment=edit != "insert") or self._panel.editSection.missing()

    def reason(self) -> str:
        """Why Generate is disabled; empty if it isn't."""
        return (
            (_("Packages are being installed.") if self._installing else "")
            or self._panel.busy()
            or self._missing()
            or (self._panel.inWords(self.check.reason) if self.check is not None else "")
        )

    def refresh(self) -> None:
        """The states of the buttons, and the lines above Generate."""
        reason = self.reason()
        setAvailable(self._ui.generateButton, _("Run the edit (Ctrl+Enter)."), reason)
        idle = "" if self._panel.job is not None else _("Nothing is running.")
        setAvailable(self._ui.cancelButton, _("Stop; nothing is changed (Esc)."), idle)
        network = self._panel.parameters is not None and self._network()
        for name in ("samplesLabel", "samplesSpinBox", "stepsLabel", "stepsSpinBox", "solveCheckBox"):
            getattr(self._ui, name).setVisible(network)
        running = self._panel.job is not None and self._panel.job.edit != "measure"
        self._ui.progressBar.setVisible(running)
        setMessage(self._ui.progressLabel, self._message if running else "")
        setMessage(self._ui.estimateLabel, "" if running else self._estimate(reason))
        setMessage(self._ui.warningLabel, "" if running else self._warnings())

    def _estimate(self, reason: str) -> str:
        """One line: where it will run, how long, how much memory; or why it can't."""
        if self._panel.job is not None:
            return ""
        if reason:
            return reason
        if self.check is None:
            return ""
        if not self.check.seconds:
            return ""
        text = _("On the {device}, about {seconds}, {memory} of memory.")
        device, seconds = panel_text.device(self.check.device), panel_text.duration(self.check.seconds)
        return text.format(device=device, seconds=seconds, memory=panel_text.size(self.check.bytes))

    def _warnings(self) -> str:
        reason = self._panel.tumour.modelReason
        if self.check is None:
            return reason
        said = [panel_text.plain(text, self._panel.rows()) for text in self.check.warnings]
        lines = [*([reason] if reason else []), *said]
        if self.check.missing:
            text = _("{packages} must be installed first; you are asked before.")
            lines.append(text.format(packages=", ".join(self.check.missing)))
        lines += self._changed()
        lines += self._beyond()
        return panel_text.sentences(lines)

    def _beyond(self) -> list:
        """What the tumour's own tissue doesn't allow."""
        section = self._panel.editSection
        asked = {key: (value,) for key, value in section.features.settings().items()}
        if section.edit == "series":
            options = section.series.options()
            asked = {options["feature"]: options["values"]} if options else {}
        return section.features.reach.warnings(asked)

    def _changed(self) -> list:
        """Where the nearest possible request differs from what is asked."""
        parts = []
        for row in self._panel.rows():
            used = self.check.used.get(row.name, self.check.used.get(row.key))
            if used is not None:
                value = used / row.factor if row.name in self.check.used else used
                parts.append(f"{row.label} {panel_text.withUnit(value, row.unit)}")
        if not parts or any(text.startswith("no tumour has all") for text in self.check.warnings):
            return []  # nothing, or the engine has said it
        return [
            _("No tumour has all that is asked; the nearest has: {features}.").format(
                features=", ".join(parts[:4])
            )
        ]

    def _onNewSeed(self) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.seed = SystemRandom().randint(0, 999999)

    # Running

    def generate(self) -> None:
        """Begin the edit."""
        if self.reason():
            return
        setMessage(self._ui.outcomeLabel, "")
        with self._panel.reported(self._ui.outcomeLabel):
            needed = self.check is None or self.check.missing
            if needed and self._panel.logic.missingDependencies() and not self._install():
                setMessage(self._ui.outcomeLabel, _("Nothing was installed, so the edit wasn't run."))
                return
            arguments, options = self._arguments()
            self.started()
            self._panel.start(*arguments, onDone=self._panel.result.done, **options)
        self._panel.refresh()

    def _install(self) -> bool:
        """Install what is missing; the installer's lines are shown, and Generate waits."""
        self._installing = True
        self._panel.refresh()
        try:
            return self._panel.logic.installDependencies(
                lambda line: setMessage(self._ui.outcomeLabel, line.strip()[-120:])
            )
        finally:
            self._installing = False
            self._panel.refresh()

    def started(self) -> None:
        self._message = panel_text.stage("start")
        self._ui.progressBar.setValue(0)

    def progress(self, stage: str, fraction: float, remaining) -> None:
        """Show how far the edit is."""
        self._ui.progressBar.setValue(round(1000 * min(1.0, max(0.0, fraction))))
        text = f"{panel_text.stage(stage)} · {100 * fraction:.0f} %"
        if remaining is not None:
            text += " · " + _("{time} left").format(time=panel_text.duration(remaining))
        self._message = text
        setMessage(self._ui.progressLabel, text)

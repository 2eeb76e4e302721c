"""The module's panel: its sections, what they share, and what happens to them while the scene changes.

The widget class of the module makes one and hands its events on:

    panel = Panel(slicer.util.loadUI(path), logic)   # after uiWidget.setMRMLScene(slicer.mrmlScene)
    panel.enter()      # the user comes to the module
    panel.exit()       # the user goes to another one
    panel.cleanup()    # the module goes away

The panel reads and writes nodes through the logic (`api.Logic`) only. It imports neither the engine nor torch.
"""

import contextlib
import importlib
import logging
import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_edit import EditSection
from TumorSynthSlicer.panel_help import helpText
from TumorSynthSlicer.panel_models import ModelsSection
from TumorSynthSlicer.panel_preview import Preview
from TumorSynthSlicer.panel_result import ResultSection
from TumorSynthSlicer.panel_tumour import TumourSection
from TumorSynthSlicer.panel_widgets import Dialogs, segmentExists, setMessage
from TumorSynthSlicer.parameters import PanelParameters
from TumorSynthSlicer.rows import NO_MODEL, NO_MODEL_EDITS

#: Libraries that choosing a model and checking an edit take, the slow ones in parts.
NEEDED = ("SimpleITK", "scipy.special", "scipy.ndimage", "scipy.fft", "TumorSynthLib.editor")


class Panel(VTKObservationMixin):
    """All sections of the panel.

    :param root: the widget from the .ui file. :param logic: an `api.Logic`.
    :param dialogs: a `Dialogs`; tests give another.
    """

    def __init__(self, root, logic, dialogs=None):
        VTKObservationMixin.__init__(self)
        self.root, self.logic, self.dialogs = root, logic, dialogs or Dialogs()
        self.ui = slicer.util.childWidgetVariables(root)
        self.parameters, self._job, self.active, self.closed = None, None, False, False
        self._begun, self._toLoad = None, [name for name in NEEDED if name not in sys.modules]
        self._guiTag, self._models, self._rows, self._updating, self._timers = None, None, {}, False, []
        self.tumour, self.editSection = TumourSection(self), EditSection(self)
        self.result, self.modelsSection, self.preview = (
            ResultSection(self),
            ModelsSection(self),
            Preview(self),
        )
        self._soon, self._shownSoon = self.timer(0, self.refresh), self.timer(0, self.parametersChanged)
        self._loader = self.timer(0, self._loadNext)
        self.ui.helpText.text = helpText()
        self.ui.modelsSection.collapsed = self.ui.helpSection.collapsed = True
        self._shortcuts = [self._shortcut(keys, action) for keys, action in self._keys()]
        scene = slicer.mrmlScene
        self.addObserver(scene, slicer.vtkMRMLScene.StartCloseEvent, self._onStartClose)
        self.addObserver(scene, slicer.vtkMRMLScene.EndCloseEvent, self._onEndClose)
        self.addObserver(scene, slicer.vtkMRMLScene.EndImportEvent, self._onEndClose)
        self.addObserver(scene, slicer.vtkMRMLScene.NodeAddedEvent, self._onNodeAdded)
        self.addObserver(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._onNodeRemoved)

    def timer(self, delay: int, action):
        """A timer that fires once, `delay` ms after it was started last."""
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.setInterval(delay)
        timer.connect("timeout()", action)
        self._timers.append(timer)
        return timer

    def _keys(self) -> list:
        click = {
            name: getattr(self.ui, name)
            for name in ("generateButton", "cancelButton", "undoButton", "redoButton")
        }
        return [
            ("Ctrl+Return", click["generateButton"].click),
            ("Ctrl+Enter", click["generateButton"].click),
            ("Esc", click["cancelButton"].click),
            ("Ctrl+Z", click["undoButton"].click),
            ("Ctrl+Y", click["redoButton"].click),
        ]

    def _shortcut(self, keys: str, action):
        shortcut = qt.QShortcut(self.root)
        shortcut.setKey(qt.QKeySequence(keys))
        shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
        shortcut.connect("activated()", action)
        return shortcut

    # Coming and going

    def enter(self) -> None:
        """The user comes to the module."""
        self.active = True
        if not self.loaded:
            self._loader.start()
        if self.parameters is None:
            self.connectParameters()
        else:
            self._takeShownVolume()
            self.parametersChanged()

    @property
    def loaded(self) -> bool:
        """Whether the libraries are there; they are loaded once the user sees the panel."""
        return not self._toLoad

    def _loadNext(self) -> None:
        """Load one library, and let the application go on before the next."""
        with contextlib.suppress(ImportError):  # who needs it says so
            importlib.import_module(self._toLoad.pop(0))
        if self._toLoad:
            self._loader.start()
        else:
            self.parametersChanged()

    def exit(self) -> None:
        """The user goes to another module. An edit under way goes on."""
        self.active = False
        self._quiet()
        self._disconnectParameters()

    def cleanup(self) -> None:
        """The module goes away."""
        self.closed = True
        self.cancel()
        self.exit()
        self.editSection.place.close()
        self.removeObservers()

    def _quiet(self) -> None:
        """End what belongs to the moment: timers, place mode, preview and comparison."""
        for timer in self._timers:
            timer.stop()
        self.editSection.place.stop()
        self.preview.hide()
        self.result.hideBefore()

    def connectParameters(self) -> None:
        """Show what the scene remembers, and follow it."""
        self._disconnectParameters()
        self.parameters = PanelParameters(self.logic.getParameterNode())
        self._takeShownVolume()
        self._guiTag = self.parameters.connectGui(self.root)
        self.addObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.parametersChanged)
        self.parametersChanged()

    def _disconnectParameters(self) -> None:
        if self.parameters is None:
            return
        self.tumour.removeObservers()
        self.parameters.disconnectGui(self._guiTag)
        self.removeObserver(
            self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.parametersChanged
        )
        self.parameters = None

    def _takeShownVolume(self) -> None:
        """Begin with what the scene has, where there is no choice: the only volume and the only segmentation."""
        p = self.parameters
        for name, kind in (
            ("inputVolume", "vtkMRMLScalarVolumeNode"),
            ("segmentation", "vtkMRMLSegmentationNode"),
        ):
            nodes = [n for n in slicer.util.getNodesByClass(kind) if n.GetClassName() == kind]
            if getattr(p, name) is None and len(nodes) == 1:
                setattr(p, name, nodes[0])

    def _onStartClose(self, caller, event) -> None:
        self.cancel()
        self._quiet()
        self._disconnectParameters()
        self.tumour.sceneClosed()
        self.result.forget()

    def _onEndClose(self, caller, event) -> None:
        if self.active:
            self.connectParameters()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, caller, event, node) -> None:
        """Lists of segments follow the scene."""
        if self.active and node.IsA("vtkMRMLSegmentationNode"):
            self._shownSoon.start()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller, event, node) -> None:
        """An edit whose volume or segmentation is deleted is stopped."""
        if self._job is not None and node in self._inUse:
            self.cancel()
        if self.active and node.IsA("vtkMRMLSegmentationNode"):
            self._shownSoon.start()

    # What the sections share

    def parametersChanged(self, *unused) -> None:
        """Show the parameters in all sections."""
        if self.parameters is None or self._updating or self.closed:
            return
        self._updating = True
        try:
            self.tumour.update()
            self.editSection.update()
            self.result.update()
            self.modelsSection.update()
        finally:
            self._updating = False
        self.requestChanged()

    def changedSoon(self, *unused) -> None:
        """Show the parameters once the application is idle; of many changes at a time only the last is shown."""
        if not self.closed:
            self._shownSoon.start()

    def requestChanged(self) -> None:
        """What the edit is asked for has changed."""
        self.result.run.update()
        self.preview.update()
        self.refresh()

    def refresh(self) -> None:
        """Each button's state and the messages."""
        if self.parameters is None or self.closed:
            return
        for section in (self.tumour, self.editSection, self.result, self.modelsSection):
            section.refresh()

    def refreshSoon(self) -> None:
        """Refresh as soon as the application is idle, e.g. once a blocking call has begun."""
        self._soon.start()

    def measured(self) -> None:
        """The tumour's features are known now, or can't be."""
        self._rows = {}
        self.parametersChanged()

    def modelsChanged(self) -> None:
        """A model has come or gone."""
        self._models, self._rows = None, {}
        self.parametersChanged()

    def models(self) -> list:
        """All models, asked for once."""
        if self._models is None:
            self._models = list(self.logic.models())
        return self._models

    def draws(self) -> bool:
        """Whether the chosen model has a network, which draws textures anew."""
        chosen = self.parameters.modelID if self.parameters is not None else NO_MODEL
        row = next((row for row in self.models() if row.id == chosen), None)
        return row.network if row is not None else chosen != NO_MODEL

    def modelEdits(self) -> tuple:
        """What the chosen model can do; empty if that isn't known."""
        chosen = self.parameters.modelID if self.parameters is not None else ""
        if chosen == NO_MODEL:
            return NO_MODEL_EDITS
        return next((row.edits for row in self.models() if row.id == chosen), ())

    def cannot(self) -> str:
        """Why the chosen model can't do the chosen edit, and what to do."""
        if self.parameters.modelID == NO_MODEL:
            return _("This edit needs a model: choose one that is meant for this organ under 1 Tumour.")
        return _("The chosen model can't do this edit: choose another model, or another edit.")

    def rows(self) -> list:
        """The feature table of the chosen model, asked for once for each model, modality and region."""
        chosen = self.parameters.modelID if self.parameters is not None else ""
        if not chosen:
            return []
        measurement = self.tumour.measurement
        modality = measurement.modality if measurement is not None and measurement.modelID == chosen else None
        scale = measurement.scale if modality is not None else 1.0
        key = (chosen, modality, self.tumour.regions.edited, scale)
        if key not in self._rows:
            self._rows = {
                key: list(self.logic.features(chosen, modality, region=key[2] or None, scale=scale))
            }
        return self._rows[key]

    def missingInput(self, segment: bool = True) -> str:
        """Which input is still to be chosen, a sentence; empty if none."""
        p = self.parameters
        if p is None or p.inputVolume is None:
            return _("Choose a volume under 1 Tumour.")
        if segment and not segmentExists(p.segmentation, p.segmentID):
            return _("Choose the tumour's segment under 1 Tumour.")
        if not p.modelID:
            return _("Choose a model under 1 Tumour.") if self.loaded else _("Getting ready…")
        return self.tumour.regions.missing() if segment else ""

    def busy(self) -> str:
        """Why nothing can be started now; empty if it can."""
        if self.job is None:
            return ""
        return (
            _("The tumour is being measured.")
            if self.job.edit == "measure"
            else _("An edit is running: wait, or cancel it.")
        )

    def notReady(self) -> str:
        return self.busy() or self.missingInput()

    @contextlib.contextmanager
    def reported(self, label):
        """Show an error of the logic in a label instead of a window; its traceback goes to the log."""
        try:
            yield
        except Exception as error:
            logging.exception("Tumor Synth Radiomics")
            setMessage(label, self.inWords(str(error)))

    def inWords(self, text: str) -> str:
        """A message of the engine as a sentence of the panel."""
        return panel_text.sentence(panel_text.plain(text, self.rows()))

    # Jobs

    @property
    def job(self):
        """What runs, also where a script or a repetition started it; None if nothing does."""
        return self._job if self._job is not None else self.logic.currentJob()

    def start(self, edit, volume, segmentation, segmentID, modelID, onDone, **options) -> None:
        """Begin an edit or a measurement; errors are shown in the panel."""
        self._inUse = [node for node in (volume, segmentation) if node is not None]
        self._begun = (volume, segmentation, segmentID)
        calls = {
            "onProgress": self._onProgress,
            "onDone": lambda outcome: self._onDone(onDone, outcome),
            "onError": lambda message: self._onError(edit, message),
            "onCancel": lambda: self._onCancel(edit),
        }
        try:
            self._job = self.logic.start(edit, volume, segmentation, segmentID, modelID, **calls, **options)
        except Exception as error:
            logging.exception("Tumor Synth Radiomics")
            self._onError(edit, str(error))
            return
        if not self._job.isRunning():  # it ended before start returned
            self._job = None
        self.refresh()

    def begunWith(self, parameters) -> bool:
        """Whether what runs, or ran last, was begun with what is chosen now."""
        p = parameters
        return p is not None and self._begun == (p.inputVolume, p.segmentation, p.segmentID)

    def cancel(self) -> None:
        """Stop what runs; nothing is changed by it."""
        if self.job is not None:
            self.job.cancel()

    def _onProgress(self, stage, fraction, remaining) -> None:
        if not self.closed:
            self.result.run.progress(stage, fraction, remaining)

    def _onDone(self, then, outcome) -> None:
        self._job = None
        if self.closed:
            return
        self._updating = True  # of all that changes now the panel shows the end
        try:
            then(outcome)
        finally:
            self._updating = False
        self.parametersChanged()

    def _onError(self, edit, message) -> None:
        self._job = None
        if self.closed:
            return
        message = self.inWords(message)
        if edit == "measure":
            self.tumour.failed(message)
        else:
            self.result.failed(message)
        self.refresh()

    def _onCancel(self, edit) -> None:
        self._job = None
        if self.closed:
            return
        if edit == "measure":
            self.tumour.forget()
        else:
            self.result.cancelled()
        self.refresh()

"""The logic of the module: every edit on nodes, blocking or with callbacks; see `api.Logic` for the contract."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from TumorSynthLib import models
from TumorSynthLib.errors import InputError, TumorSynthError

from . import checks, dependencies, edits, history, model_rows, nodes, preview, ranges, results, subject
from .api import (
    NO_MODEL,
    NO_MODEL_EDITS,
    Check,
    FeatureRow,
    HistoryEntry,
    Logic,
    Measurement,
    ModelChoice,
    ModelRow,
    Outcome,
)  # fmt: skip
from .job import EditJob
from .regions import assign, assigned, keepOthers
from .worker_client import WorkerClient

POLL_MS = 15  # how often the worker's events are looked for


class EditLogic(Logic):
    """Edits tumours on MRML nodes.

        logic = slicer.util.getModuleLogic("TumorSynthRadiomics")
        outcome = logic.remove(volumeNode, segmentationNode, "tumour", "lung-nodule-ct", seed=3)
        logic.undo()

    :param client: the worker's; another one for tests.
    """

    def __init__(self, client: WorkerClient | None = None):
        self._client = client or WorkerClient()
        self._editors: dict[str, Any] = {}
        self._modalities: dict[tuple, tuple] = {}  # of the image and model that were checked last
        self._job: EditJob | None = None
        self._previews, self._ranges = preview.Previews(self._client), ranges.Ranges(self._client)
        self._jobNodes: list = []
        self._shown: list[str] = []  # IDs of the volumes that show a state before an edit
        self._timer = None
        scene = slicer.mrmlScene
        self._observers = [
            scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneClose),
            scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._nodeObserver()),
        ]

    # Models

    def models(self) -> list[ModelRow]:
        return model_rows.modelRows()

    def planInstall(self, source: str) -> list[str]:
        return models.plan_install(source).lines()

    def installModel(
        self, source: str, onProgress: Callable[[str, float], None] | None = None, sha256: str | None = None
    ) -> ModelRow:
        def progress(stage: str, fraction: float) -> None:
            if onProgress is not None:
                onProgress(stage, fraction)
            slicer.app.processEvents()

        bundle = models.install(source, sha256=sha256, progress=progress)
        return next(row for row in self.models() if row.id == bundle.id)

    def removeModel(self, modelID: str) -> None:
        self._editors.pop(modelID, None)
        models.remove(modelID)

    def features(
        self, modelID: str, modality: str | None = None, edit: str | None = None, region: str | None = None,
        scale: float = 1.0,
    ) -> list[FeatureRow]:  # fmt: skip
        return model_rows.featureRows(modelID, modality, edit, region, scale)

    def suggestModel(self, volumeNode, segmentationNode=None, segmentID: str = "") -> str:
        found = self.chooseModel(volumeNode, segmentationNode, segmentID).modelID
        return "" if found == NO_MODEL else found

    def chooseModel(self, volumeNode, segmentationNode=None, segmentID: str = "") -> ModelChoice:
        try:
            volume, mask, segment = nodes.volumeOf(volumeNode), None, ""
            if segmentationNode is not None:
                segment = nodes.segmentID(segmentationNode, segmentID)
                mask = nodes.maskOf(segmentationNode, segment, volumeNode)
        except InputError as error:
            return ModelChoice(NO_MODEL, str(error))
        return edits.suitingModel(volume, mask, nodes.textsOf(volumeNode, segmentationNode, segment))

    def assignRegions(
        self, modelID: str, segmentationNode, regions: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        return {} if modelID == NO_MODEL else assigned(models.find(modelID), segmentationNode, regions)

    # Before an edit

    def check(
        self, edit: str, volumeNode, segmentationNode=None, segmentID: str = "", modelID: str = "", **options
    ) -> Check:
        if self._job is not None:
            return Check(reason=_("an edit is under way: wait for it, or cancel it"))
        try:
            given = edits.Input.of(edit, volumeNode, segmentationNode, segmentID, modelID, options)
            if edit == "measure":
                return Check(voxels=given.mask.voxels)
            editor = self._editor(modelID or self._suggested(given))
            self._checkCan(edit, editor.bundle)
            assign(given, editor.bundle)
            volume, mask = (
                (given.volume, None)
                if given.mask is None
                else nodes.around(given.volume, given.mask, edits.MARGIN)
            )
            editor = editor.painting(given.region) if given.region else editor
            device = options.get("device") or self._client.device
            modality = self._modality(editor, given, options.get("modality"))
            found = checks.check(edit, editor, volume, mask, options, device, modality)
        except (TumorSynthError, ValueError, TypeError) as error:
            return Check(reason=str(error))
        if not checks.needsTorch(edit, given.request, editor.bundle, options.get("feature")):
            return found
        return replace(found, missing=tuple(self.missingDependencies()))

    def _modality(self, editor, given: edits.Input, wanted: str | None) -> tuple[str, list[str]]:
        """Modality of an image, and warnings: looked for once, as it takes a look at the whole image."""
        bundle = editor.bundle
        model = bundle.sha256 if bundle is not None else ""
        key = (given.volumeNode.GetID(), edits.stateOf(given.volumeNode), model, given.region, wanted)
        if key not in self._modalities:
            self._modalities = {key: checks.modalityOf(bundle, given.volume, wanted)}
        return self._modalities[key]

    def missingDependencies(self) -> list[str]:
        return dependencies.missing()

    def installDependencies(self, onLine: Callable[[str], None] | None = None) -> bool:
        return dependencies.install(self.missingDependencies(), onLine)

    def measure(
        self,
        volumeNode,
        segmentationNode,
        segmentID: str = "",
        modelID: str = "",
        modality: str | None = None,
        regions: Mapping[str, str] | None = None,
    ) -> Measurement:
        from TumorSynthLib.measurement import measure

        options = {"modality": modality, "regions": regions}
        given = edits.Input.of("measure", volumeNode, segmentationNode, segmentID, modelID, options)
        modelID = modelID or self._suggested(given)
        editor = self._editor(modelID) if modelID != NO_MODEL else None
        if editor is not None:
            assign(given, editor.bundle)
            editor = editor.painting(given.region) if given.region else editor
        mask = given.mask.full(given.volume.array.shape)
        return edits.measurement(measure(editor, given.volume, mask, modality), given.region)

    def previewShape(
        self, modelID: str, features: Mapping[str, float], seed: int = 0, to=None, modelNode=None, *,
        onDone=None, onError=None,
    ):  # fmt: skip
        if self._job is not None:
            raise InputError(_("an edit is under way: wait for it, or cancel it"))
        self._checkInstalled()
        models.find(modelID)
        self._ranges.forget()  # the worker does one thing after the other
        found: list = []
        done, failed = (
            onDone or found.append,
            lambda error: onError(str(error)) if onError else found.append(error),
        )
        self._previews.ask(preview.Wish(modelID, features, seed, to, modelNode, done, failed))
        if onDone is not None:
            self._startTimer()
            return None
        while not found and self._previews.isRunning():
            self._client.pump(0.02)
            slicer.app.processEvents()
        return self._blockedFor(found)

    @staticmethod
    def _blockedFor(found: list):
        """What a blocking preview gives; nothing where the scene was closed meanwhile."""
        if found and isinstance(found[0], TumorSynthError):
            raise found[0]
        return found[0] if found else None

    def reachable(
        self, volumeNode, segmentationNode, segmentID: str, modelID: str, features: Sequence[str], *, onRange, onEnd,
        regions: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        if self._job is not None:
            raise InputError(_("an edit is under way: wait for it, or cancel it"))
        options = {"regions": regions} if regions else {}
        given = edits.Input.of("measure", volumeNode, segmentationNode, segmentID, modelID, options)
        assign(given, models.find(modelID) if modelID != NO_MODEL else None)
        self._ranges.ask(edits.Transfer(given, self._client.exchange), features, onRange, onEnd)
        self._startTimer()

    # Edits

    def start(
        self,
        edit: str,
        volumeNode,
        segmentationNode=None,
        segmentID: str = "",
        modelID: str = "",
        *,
        onProgress=None,
        onDone: Callable[[Outcome], None] | None = None,
        onError: Callable[[str], None] | None = None,
        onCancel: Callable[[], None] | None = None,
        **options,
    ) -> EditJob:
        given = edits.Input.of(edit, volumeNode, segmentationNode, segmentID, modelID, options)
        callbacks = {"onProgress": onProgress, "onDone": onDone, "onError": onError, "onCancel": onCancel}
        return self._start(given, callbacks)

    def _start(self, given: edits.Input, callbacks: dict[str, Any]) -> EditJob:
        if self._job is not None:
            raise InputError(_("an edit is under way: wait for it, or cancel it"))
        given.modelID = given.modelID or self._suggested(given)
        bundle = models.find(given.modelID) if given.modelID != NO_MODEL else None
        if given.edit != "measure":
            self._checkCan(given.edit, bundle)
            if checks.needsTorch(given.edit, given.request, bundle, given.options.get("feature")):
                self._checkInstalled()
        if given.labels is None:  # a repetition has them already
            assign(given, bundle)
        keepOthers(given)
        self._previews.forget()
        self._ranges.forget()
        transfer = edits.Transfer(given, self._client.exchange, given.estimate(bundle))
        finish = edits.Finisher(given, self._client.exchange)
        job = EditJob(
            given.edit,
            self._client,
            transfer.write(),
            transfer.message,
            finish,
            callbacks,
            onEnd=self._onJobEnd,
        )
        self._job, self._jobNodes = job, given.nodes()
        self._startTimer()
        return job

    def poll(self) -> None:
        if self._job is not None:
            self._job.step()
        elif self._previews.isRunning() or self._ranges.isRunning():
            self._ranges.step()
            self._client.pump()
        else:
            self._stopTimer()

    def currentJob(self) -> EditJob | None:
        return self._job

    def _blocking(self, edit: str, *given, **options) -> Outcome:
        return self.start(edit, *given, **options).wait()

    def synthesize(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        return self._blocking("synthesize", volumeNode, segmentationNode, segmentID, modelID, **options)

    def remove(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        return self._blocking("remove", volumeNode, segmentationNode, segmentID, modelID, **options)

    def retexture(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        return self._blocking("retexture", volumeNode, segmentationNode, segmentID, modelID, **options)

    def reshape(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        return self._blocking("reshape", volumeNode, segmentationNode, segmentID, modelID, **options)

    def move(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", *, to, **options
    ) -> Outcome:
        return self._blocking("move", volumeNode, segmentationNode, segmentID, modelID, to=to, **options)

    def insert(
        self, volumeNode, segmentationNode=None, segmentID: str = "", modelID: str = "", *, to, **options
    ) -> Outcome:
        return self._blocking("insert", volumeNode, segmentationNode, segmentID, modelID, to=to, **options)

    def series(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", *, feature: str,
        values: Sequence[float], **options,
    ) -> Outcome:  # fmt: skip
        options |= {"feature": feature, "values": values}
        return self._blocking("series", volumeNode, segmentationNode, segmentID, modelID, **options)

    # After an edit

    def history(self) -> list[HistoryEntry]:
        return [entry.shown() for entry in history.entries()]

    def canUndo(self) -> bool:
        return self._job is None and history.nextUndo() is not None

    def canRedo(self) -> bool:
        return self._job is None and history.nextRedo() is not None

    def undo(self) -> HistoryEntry:
        return self._toggled(history.nextUndo(), _("there is nothing to undo"))

    def redo(self) -> HistoryEntry:
        return self._toggled(history.nextRedo(), _("there is nothing to redo"))

    def _toggled(self, entry: history.Entry | None, nothing: str) -> HistoryEntry:
        if self._job is not None:
            raise InputError(_("an edit is under way: wait for it, or cancel it"))
        if entry is None:
            raise InputError(nothing)
        entry.toggle()
        volumeNode = entry.volumeNode
        history.mark(volumeNode)
        array = nodes.volumeArray(volumeNode)
        self._client.exchange.patchVolume(
            edits.volumeKey(volumeNode), entry.box, array, edits.stateOf(volumeNode)
        )
        return entry.shown()

    def repeat(self, entryID: str) -> Outcome:
        entry = history.entry(entryID)
        given = edits.repetition(entry)
        try:
            outcome = self._start(given, {}).wait()
        except TumorSynthError:
            slicer.mrmlScene.RemoveNode(given.volumeNode)
            raise
        same = history.entry(outcome.entryID).record["checksums"] == entry.record["checksums"]
        if same:
            return outcome
        text = _("the voxels aren't exactly those of the first time: the software or the device differs")
        return replace(outcome, warnings=(*outcome.warnings, text))

    def repeatOptions(self, entryID: str) -> dict[str, Any]:
        entry = history.entry(entryID)
        record = entry.record
        return {
            "edit": record["edit"], "volumeNode": entry.volumeNode, "segmentationNode": entry.segmentationNode,
            "segmentID": record["segmentID"], "modelID": record["modelID"], "options": dict(record["options"]),
        }  # fmt: skip

    def beforeVolume(self, entryID: str):
        entry = history.entry(entryID)
        name = subject.resultName(entry.volumeNode.GetName(), "before")
        node = self._copy(entry, name, after=False)
        self._shown.append(node.GetID())
        return node

    def hideBefore(self) -> None:
        for nodeID in self._shown:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        self._shown = []

    def keepAsNewVolume(self, entryID: str = ""):
        entry = history.entry(entryID)
        return self._copy(entry, subject.resultName(entry.volumeNode.GetName(), "keep"), after=True)

    def _copy(self, entry: history.Entry, name: str, after: bool):
        """A new volume node with the voxels before or after an edit, marked as what it is."""
        image = subject.imageOf(history.arrayAt(entry, after))
        node = subject.cloneVolume(entry.volumeNode, name, image)
        history.inherit(node, history.recordsUpTo(entry, after))
        return node

    def saveReport(self, folder: str, entryIDs: Sequence[str] = ()) -> str:
        chosen = [history.entry(i) for i in entryIDs] or [
            e for e in history.entries() if not e.undone and e.undoable
        ]
        title = chosen[0].record["title"] if len(chosen) == 1 else _("Edits of tumours")
        return results.saveReport(folder, chosen, title)

    def saveResult(self, path: str, entryID: str = "") -> str:
        return results.saveResult(path, history.entry(entryID))

    def featureTable(self, entryID: str):
        return results.featureTable(history.entry(entryID))

    def featurePlot(self, entryID: str):
        return results.featurePlot(history.entry(entryID))

    def shutdown(self) -> None:
        if self._job is not None:
            self._job.cancel()
        self._previews.forget()
        self._ranges.forget()
        self._stopTimer()
        self._client.stop()

    def close(self) -> None:
        """`shutdown`, and let go of the scene; for tests and for reloading the module."""
        self.shutdown()
        for observer in self._observers:
            slicer.mrmlScene.RemoveObserver(observer)
        self._observers = []

    # Inside

    def _editor(self, modelID: str):
        """An engine's editor for checks and measuring, which never loads its network here; a changed model is noticed."""
        from TumorSynthLib.editor import Editor

        if modelID == NO_MODEL:
            return Editor(None)
        bundle = models.find(modelID)
        editor = self._editors.get(modelID)
        if editor is None or editor.bundle.sha256 != bundle.sha256:
            editor = self._editors[modelID] = Editor(bundle)
        return editor

    def _suggested(self, given: edits.Input) -> str:
        texts = nodes.textsOf(given.volumeNode, given.segmentationNode, given.segmentID)
        found = edits.suitingModel(given.volume, given.mask, texts, given)
        if found.modelID == NO_MODEL and given.edit not in NO_MODEL_EDITS:
            text = _("{edit} needs a model, and {reason}")
            raise InputError(text.format(edit=given.edit, reason=found.reason))
        return found.modelID

    @staticmethod
    def _checkCan(edit: str, bundle) -> None:
        if edit not in model_rows.editsOf(bundle):
            if bundle is None:
                raise InputError(_("{edit} needs a model: choose one").format(edit=edit))
            raise InputError(
                _("model {model} can't {edit}: choose another model").format(model=bundle.id, edit=edit)
            )

    def _checkInstalled(self) -> None:
        lacking = self.missingDependencies()
        if lacking:
            text = _("{names} isn't installed: call installDependencies() first")
            raise dependencies.DependencyError(text.format(names=", ".join(lacking)))

    def _onJobEnd(self) -> None:
        self._job, self._jobNodes = None, []

    def _startTimer(self) -> None:
        """Poll from Qt's event loop, where there is one."""
        qt = sys.modules.get("qt")
        if qt is None or qt.QCoreApplication.instance() is None:
            return
        if self._timer is None:
            self._timer = qt.QTimer()
            self._timer.setInterval(POLL_MS)
            self._timer.connect("timeout()", self.poll)
        self._timer.start()

    def _stopTimer(self) -> None:
        if self._timer is not None:
            self._timer.stop()

    def _onSceneClose(self, caller=None, event=None) -> None:
        self._shown = []
        self._previews.forget()
        self._ranges.forget()
        if self._job is not None:
            self._job.cancel()

    def _nodeObserver(self):
        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removed(caller, event, node) -> None:
            if self._job is not None and any(node is used for used in self._jobNodes):
                self._job.cancel()

        return removed

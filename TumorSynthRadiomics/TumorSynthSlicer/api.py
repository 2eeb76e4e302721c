"""What the module's logic offers: the one contract between the panel, scripts, and the logic.

Everything here is plain data, `typing` and docstrings: no import of Slicer or of Qt, and of the engine the tables of edits,
options and stages alone, so that the panel can be tested against a double of it. Get the real one by
`slicer.util.getModuleLogic("TumorSynthRadiomics")`.

Nodes go in, nodes come out. Positions are world RAS millimetres (as in Slicer's markups), volumes ml or mm³ as the feature
says. A parent transform of a node counts, if it is linear. A message is one sentence that says what happened, why, and what to
do; methods that can't do what they are asked raise `TumorSynthLib.errors.TumorSynthError` with such a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, Protocol

from TumorSynthLib.edit.edits import EDITS as _EDITS
from TumorSynthLib.edit.options import OPTIONS as _OPTIONS
from TumorSynthLib.edit.progress import WORDS as _WORDS

from .rows import (
    NO_MODEL,
    NO_MODEL_EDITS,
    Check,
    FeatureRow,
    HistoryEntry,
    Measurement,
    ModelChoice,
    ModelRow,
    Outcome,
)  # fmt: skip

__all__ = [
    "EDITS", "NO_MODEL", "NO_MODEL_EDITS",
    "OPTIONS", "STAGES", "Check", "FeatureRow", "HistoryEntry", "Job", "Logic", "Measurement", "ModelChoice", "ModelRow",
    "Outcome", "ProgressCallback",
]  # fmt: skip

#: What can be done. `measure` changes nothing. All but `insert` need a segment.
EDITS = tuple(name for name, edit in _EDITS.items() if edit.changes or name == "measure")

#: Options that only the scene knows; those of the engine are in the table `TumorSynthLib.edit.options`, where the module's names
#: for them are (`massEffect`, and `to` for the place of an insert, too). An option that an edit doesn't have is an error.
#:   donor       (volumeNode, segmentationNode, segmentID): the texture of another tumour.
#:   to          (R, A, S) world mm: the new centre, for reshape, move and insert.
#:               "auto" lets insert find a calm place.
#:   inside      (segmentationNode, segmentID): an organ that the tumour stays in.
#:   lend, avoid (segmentationNode, segmentID): where healthy tissue is taken from; what neither lends tissue nor changes.
#:   feature, values  of series: which one runs through which values.
#:   regions     {region: segment ID} for a model with several regions, such as a core and its rim; those left out are found by
#:               the segments' names. The given segment is edited, the others stay as they are.
#:   whole       remove takes all regions of the tumour, not only the given segment.
#:   device      auto, cpu, cuda or mps.
#:   output      "inPlace" (default: the voxels of the volume node change, undo brings them back), "newVolume", or
#:               "syntheticCopy": a new volume "… (synthetic)" for the first edit, in which further edits of it go on.
SCENE_OPTIONS = ("feature", "values", "device", "output", "regions", "whole")
OPTIONS = (*dict.fromkeys(row.slicer for row in _OPTIONS.values() if row.slicer), *SCENE_OPTIONS)

ProgressCallback = Callable[[str, float, Optional[float]], None]
"""onProgress(stage, fraction, remainingSeconds): stage is one of `STAGES`, fraction 0…1 of the whole edit, remaining seconds
None while they can't be told."""

#: Those of the engine, and what the module does before and after it; `panel_text.stage` has a name for each.
STAGES = ("transfer", "start", *_WORDS, "receive")


class Job(Protocol):
    """An edit under way; one at a time."""

    edit: str

    def isRunning(self) -> bool:
        """True until one of the callbacks has been called."""

    def cancel(self) -> None:
        """Stop. Returns within a second; `onCancel` is called before it returns, and nothing has been changed."""

    def wait(self, timeout: float | None = None) -> Outcome:
        """Block until it is done, keeping the application responsive; raises the error, or `Cancelled`."""


class Logic(Protocol):
    """The logic of the module, as scripts and the panel see it."""

    # Models

    def models(self) -> list[ModelRow]:
        """All models: those here first. Doesn't use the network unless the user set up a catalogue there.

        >>> sorted(row.id for row in logic.models())[:2]
        ['generic-ct', 'generic-mr']
        """

    def planInstall(self, source: str) -> list[str]:
        """What installing would do, in words, one fact a line (name, size, source, place, licence, SHA-256).

        >>> "Install Lung nodule (CT)" in logic.planInstall(folder)[0]
        True
        """

    def installModel(
        self, source: str, onProgress: Callable[[str, float], None] | None = None, sha256: str | None = None
    ) -> ModelRow:
        """Install from a catalogue's id, an https address with #sha256=…, a zip archive, or a folder; blocks.

        :param onProgress: called as onProgress(stage, fraction) with stage download, unpack, copy or check; what it raises
            stops the installation, which then leaves nothing.

        >>> logic.installModel(folder).status
        'installed'
        """

    def removeModel(self, modelID: str) -> None:
        """Delete a model that the user installed.

        >>> logic.removeModel("lung-nodule-ct")  # the installed one; the bundled one shows again
        """

    def features(
        self, modelID: str, modality: str | None = None, edit: str | None = None, region: str | None = None,
        scale: float = 1.0,
    ) -> list[FeatureRow]:  # fmt: skip
        """Rows of the feature table for a model, drivers first.

        :param edit: leave only those that this edit can be asked for (texture or shape).
        :param region: whose tumours are meant, where the model has several; None is the first.
        :param scale: of the image's grey levels to the model's, as `Measurement` has it.

        >>> row = logic.features("lung-nodule-ct")[0]
        >>> row.key, row.unit, row.cls
        ('volume_ml', 'ml', 'shape')
        """

    def suggestModel(self, volumeNode, segmentationNode=None, segmentID: str = "") -> str:
        """Id of the model that suits an image best (modality, spacing, and the tumour's size if given); "" if none.

        >>> logic.suggestModel(volumeNode, segmentationNode, "nodule")
        'lung-nodule-ct'
        """

    def chooseModel(self, volumeNode, segmentationNode=None, segmentID: str = "") -> ModelChoice:
        """The model for a tumour and why: `suggestModel` with `NO_MODEL`, with which it can be measured, removed and changed.

        >>> logic.chooseModel(volumeNode, segmentationNode, "nodule").reason
        'chosen for lung'
        """

    def assignRegions(
        self, modelID: str, segmentationNode, regions: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """{region: segment ID} of a model with several regions; {} where it has one, and no entry without a segment.

        :param regions: those that are known; the others are found by the segments' names. "" says that there is none.

        >>> logic.assignRegions("lung-nodule-ct", segmentationNode)
        {}
        """

    # Before an edit

    def check(
        self, edit: str, volumeNode, segmentationNode=None, segmentID: str = "", modelID: str = "", **options
    ) -> Check:
        """Whether an edit can be done and what it takes. Never raises for bad input: see `Check.reason`.

        >>> logic.check("move", volumeNode, segmentationNode, "nodule", "lung-nodule-ct").reason
        'say where to: place a point, the new centre of the tumour'
        """

    def missingDependencies(self) -> list[str]:
        """Packages that an edit needs and that are not here yet; measuring needs none.

        >>> logic.missingDependencies()
        []
        """

    def installDependencies(self, onLine: Callable[[str], None] | None = None) -> bool:
        """Ask the user once, then install what is missing; False if the user declined. Raises if it can't be done.

        :param onLine: called with what the installer says, where Slicer can install while the window goes on (5.12).

        >>> logic.installDependencies()
        True
        """

    def measure(
        self,
        volumeNode,
        segmentationNode,
        segmentID: str = "",
        modelID: str = "",
        modality: str | None = None,
        regions: Mapping[str, str] | None = None,
    ) -> Measurement:
        """Features of a segment, in this process: blocks for the time it takes. `start("measure", …)` doesn't.

        >>> found = logic.measure(volumeNode, segmentationNode, "nodule", "lung-nodule-ct")
        >>> round(found.features["original_shape_MeshVolume"], -2), found.unit
        (900.0, 'HU')
        """

    def previewShape(
        self, modelID: str, features: Mapping[str, float], seed: int = 0, to=None, modelNode=None, *,
        onDone: Callable[[Any], None] | None = None, onError: Callable[[str], None] | None = None,
    ):  # fmt: skip
        """A model node with the surface of a shape that has these features, its centre at world RAS `to`.

        Blocks until the worker has drawn it, a tenth of a second once it is started. With `onDone` it returns None at once
        and calls onDone(modelNode) later; of several that are asked for meanwhile only the last is drawn.

        :param modelNode: the one to update; None makes one.

        >>> model = logic.previewShape("lung-nodule-ct", {"volume_ml": 2.0}, to=(10.0, 20.0, 30.0))
        >>> model.GetName()
        'Shape preview'
        """

    def reachable(
        self, volumeNode, segmentationNode, segmentID: str, modelID: str, features: Sequence[str], *,
        onRange: Callable[[str, float, float], None], onEnd: Callable[[bool], None],
        regions: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Find how far a tumour's own tissue can take each feature, alone; returns at once.

        onRange(feature, low, high) is called for each as soon as it is known, onEnd(whole) once, when nothing more comes: any
        edit, measurement or preview that is started ends the search, which `whole` then denies.

        :param features: keys of texture features.

        >>> ranges, ended = {}, []
        >>> logic.reachable(volumeNode, segmentationNode, "nodule", "lung-nodule-ct", ["mean_intensity"],
        ...                 onRange=lambda key, low, high: ranges.update({key: (low, high)}), onEnd=ended.append)
        >>> while not ended:
        ...     logic.poll()
        >>> low, high = ranges["mean_intensity"]
        >>> low < high
        True
        """

    # Edits

    def start(
        self,
        edit: str,
        volumeNode,
        segmentationNode=None,
        segmentID: str = "",
        modelID: str = "",
        *,
        onProgress: ProgressCallback | None = None,
        onDone: Callable[[Outcome], None] | None = None,
        onError: Callable[[str], None] | None = None,
        onCancel: Callable[[], None] | None = None,
        **options,
    ) -> Job:
        """Begin an edit (or measure) in the worker process and return at once.

        Exactly one of onDone, onError, onCancel is called, once, in the main thread. Raises if the input can't be used or
        another edit is under way. An empty modelID takes `chooseModel`'s, `NO_MODEL` none.

        >>> job = logic.start("remove", volumeNode, segmentationNode, "nodule", "lung-nodule-ct",
        ...               onProgress=lambda stage, fraction, remaining: None, onDone=print, steps=1)
        >>> job.cancel()  # nothing was changed, and onDone isn't called
        """

    def poll(self) -> None:
        """Deliver what has arrived; a timer does it in the application, scripts without an event loop call it.

        >>> job = logic.start("measure", volumeNode, segmentationNode, "nodule", "lung-nodule-ct")
        >>> while job.isRunning():
        ...     logic.poll()
        >>> job.outcome.measurement.voxels == found.voxels
        True
        """

    def currentJob(self) -> Job | None:
        """The job under way.

        >>> logic.currentJob() is None
        True
        """

    def synthesize(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """A tumour in the segment, with the asked features, those not asked for free; blocks. So do the following.

        >>> outcome = logic.synthesize(volumeNode, segmentationNode, "nodule", "lung-nodule-ct",
        ...                           features={"mean_intensity": -50.0}, seed=3, steps=1, solve=False)
        >>> sorted(outcome.asked)
        ['original_firstorder_Mean']
        """

    def remove(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """Healthy tissue in place of the tumour.

        >>> logic.remove(volumeNode, segmentationNode, "nodule", "lung-nodule-ct", steps=1).edit
        'remove'
        """

    def retexture(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """Another texture in the same shape; `donor` or `features` must be given.

        >>> outcome = logic.retexture(volumeNode, segmentationNode, "nodule", "lung-nodule-ct",
        ...                          features={"contrast": 20.0}, output="newVolume", steps=1, solve=False)
        >>> outcome.volumeNode.GetName()
        'Phantom tumour retextured'
        """

    def reshape(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """Another shape or size, with the same texture; `features` with shape features must be given.

        >>> outcome = logic.reshape(volumeNode, segmentationNode, "nodule", "lung-nodule-ct",
        ...                        features={"volume_ml": 0.5}, steps=1, solve=False)
        >>> round(outcome.reached["original_shape_MeshVolume"], -2)
        500.0
        """

    def move(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", *, to, **options
    ) -> Outcome:
        """The same tumour with its centre at world RAS `to`.

        >>> centre = segmentationNode.GetSegmentCenterRAS("nodule")
        >>> outcome = logic.move(volumeNode, segmentationNode, "nodule", "lung-nodule-ct",
        ...                     to=[centre[0] + 4.0, centre[1], centre[2]], steps=1, solve=False)
        >>> round(segmentationNode.GetSegmentCenterRAS("nodule")[0] - centre[0])
        4
        """

    def insert(
        self, volumeNode, segmentationNode=None, segmentID: str = "", modelID: str = "", *, to, **options
    ) -> Outcome:
        """A new tumour with its centre at world RAS `to`; its segment is added to the segmentation, or to a new one.

        >>> outcome = logic.insert(volumeNode, segmentationNode, modelID="lung-nodule-ct", to=centre,
        ...                       features={"volume_ml": 0.3}, nearest=True, steps=1, solve=False)
        >>> segmentationNode.GetSegmentation().GetSegment(outcome.segmentID).GetName()
        'Inserted tumour'
        """

    def series(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", *, feature: str,
        values: Sequence[float | str], **options,
    ) -> Outcome:  # fmt: skip
        """One volume per value of a feature, as a sequence with a browser; the volume itself stays as it is.

        :param values: numbers in the unit of `feature` as named, or multiples of the tumour's own value such as "0.5x".

        >>> outcome = logic.series(volumeNode, segmentationNode, "nodule", "lung-nodule-ct",
        ...                       feature="volume_ml", values=["0.8x", "1.2x"], steps=1, solve=False)
        >>> outcome.sequenceNodes[0].GetNumberOfDataNodes()
        2
        """

    # After an edit

    def history(self) -> list[HistoryEntry]:
        """All edits of the scene, oldest first, those read from a file too.

        >>> [entry.edit for entry in logic.history()][:2]
        ['synthesize', 'remove']
        """

    def canUndo(self) -> bool:
        """Whether there is an edit to take back.

        >>> logic.canUndo()
        True
        """

    def canRedo(self) -> bool:
        """Whether there is one to do again.

        >>> logic.canRedo()
        False
        """

    def undo(self) -> HistoryEntry:
        """Take back the last edit that isn't, bit for bit.

        >>> logic.undo().edit
        'insert'
        """

    def redo(self) -> HistoryEntry:
        """Do again the first edit that was taken back.

        >>> logic.redo().edit
        'insert'
        """

    def repeat(self, entryID: str) -> Outcome:
        """Compute an edit again from its record, into a new volume; warns if the voxels aren't the same. Blocks.

        >>> entryID = logic.history()[0].id
        >>> logic.repeat(entryID).volumeNode.GetName()
        'Phantom repeated'
        """

    def repeatOptions(self, entryID: str) -> dict[str, Any]:
        """Edit, nodes, model and options of an edit, to be shown in the panel or given to `start`.

        >>> logic.repeatOptions(entryID)["options"]["features"]
        {'mean_intensity': -50.0}
        """

    def beforeVolume(self, entryID: str):
        """A volume node as it was before an edit, for comparison; made at the first call, removed by `hideBefore`.

        >>> logic.beforeVolume(entryID).GetName()
        'Phantom before'
        """

    def hideBefore(self) -> None:
        """Remove the volumes that `beforeVolume` made.

        >>> logic.hideBefore()
        """

    def keepAsNewVolume(self, entryID: str = ""):
        """A new volume node with the voxels after an edit (default: the last), with its provenance.

        >>> logic.keepAsNewVolume(entryID).GetName()
        'Phantom edited'
        """

    def saveReport(self, folder: str, entryIDs: Sequence[str] = ()) -> str:
        """Write an HTML report on edits (default: all that aren't undone) into a folder; returns the file's path.

        >>> os.path.basename(logic.saveReport(os.path.join(temporary, "report"), [entryID]))
        'report.html'
        """

    def saveResult(self, path: str, entryID: str = "") -> str:
        """Write the volume after an edit as NIfTI, NRRD or MetaImage, marked as synthetic, its mask, and the JSON record.

        The mask is that of the tumour after the edit, of a removal that of what was removed: edited_mask.nii.gz beside
        edited.nii.gz. Files that aren't of an earlier result are not overwritten.

        >>> os.path.basename(logic.saveResult(os.path.join(temporary, "edited.nii.gz"), entryID))
        'edited.nii.gz'
        """

    def featureTable(self, entryID: str):
        """Table node of an edit: feature, before, asked, used, reached, difference.

        >>> logic.featureTable(entryID).GetColumnName(0)
        'Feature'
        """

    def featurePlot(self, entryID: str):
        """Plot chart node of an edit: asked and reached, in standard deviations from the population's mean.

        >>> logic.featurePlot(entryID).GetNumberOfPlotSeriesNodes()
        2
        """

    def shutdown(self) -> None:
        """End the worker process and remove temporary files; the next edit starts another.

        >>> logic.shutdown()
        """

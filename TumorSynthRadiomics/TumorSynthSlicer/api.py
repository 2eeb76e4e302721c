"""What the module's logic offers: the one contract between the panel, scripts, and the logic.

Everything here is plain data, `typing` and docstrings: no import of Slicer, of Qt, or of the engine, so that the panel can be
tested against a double of it. Get the real one by `slicer.util.getModuleLogic("TumorSynthRadiomics")`.

Nodes go in, nodes come out. Positions are world RAS millimetres (as in Slicer's markups), volumes ml or mm³ as the feature
says. A parent transform of a node counts, if it is linear. A message is one sentence that says what happened, why, and what to
do; methods that can't do what they are asked raise `TumorSynthLib.errors.TumorSynthError` with such a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol

#: What can be done. `measure` changes nothing. All but `insert` need a segment.
EDITS = ("measure", "remove", "synthesize", "retexture", "reshape", "move", "insert", "series")

#: Keyword options of `check`, `start` and the blocking methods; each edit ignores none silently: an option that it
#: doesn't know is an error.
#:   features    {feature or driver name: value}; what is not named is free. Shape features for reshape and insert.
#:   donor       (volumeNode, segmentationNode, segmentID): the texture of another tumour.
#:   to          (R, A, S) world mm: the new centre, for move and insert.
#:   inside      (segmentationNode, segmentID): an organ that move and insert stay in.
#:   nearest     take the nearest place where the tumour fits, if it doesn't fit at `to`.
#:   massEffect  mm around the tumour within which the tissue makes room for it; 0: nothing around it moves.
#:   grow        mm by which remove widens the segment.
#:   feature, values  of series: which one runs through which values.
#:   modality    one of the model's; None finds it from the intensities.
#:   seed, steps, eta, samples, solve   see `TumorSynthLib.requests.EditRequest`.
#:   device      auto, cpu, cuda or mps.
#:   output      "inPlace" (default: the voxels of the volume node change, undo brings them back) or "newVolume".
OPTIONS = (
    "features", "donor", "to", "inside", "nearest", "massEffect", "grow", "feature", "values", "modality", "seed", "steps",
    "eta", "samples", "solve", "device", "output",
)  # fmt: skip

ProgressCallback = Callable[[str, float, Optional[float]], None]
"""onProgress(stage, fraction, remainingSeconds): stage is one of `STAGES`, fraction 0…1 of the whole edit, remaining seconds
None while they can't be told."""

STAGES = ("transfer", "start", "prepare", "model", "shape", "texture", "solve", "measure", "receive")


@dataclass(frozen=True)
class ModelRow:
    """A model that is here, or that can be installed.

    :param status: bundled, installed, available (can be installed) or damaged (see `error`).
    :param bytes: size on disk. :param scores: as measured by the model's makers, name to number or text.
    :param update: the newer version that can be installed, or empty. :param removable: the user installed it.
    :param edits: which of `EDITS` the model can do.
    """

    id: str
    title: str
    version: str = ""
    organ: str = ""
    modalities: tuple[str, ...] = ()
    bytes: int = 0
    licence: str = ""
    status: str = "bundled"
    update: str = ""
    removable: bool = False
    error: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureRow:
    """A feature as a slider or a row of a table, in the unit in which it is shown and asked for under `key`.

    :param key: name to use in `features`: a driver's (`volume_ml`) or pyradiomics' (`original_glcm_Contrast`).
    :param name: pyradiomics' name, under which measured values are given. :param factor: value under `name` per value
        under `key` (1000 for `volume_ml`, whose feature is in mm³).
    :param label: short text for the user. :param unit: "" for none. :param meaning: one sentence.
    :param cls: shape, firstorder, glcm, glrlm, glszm, gldm or ngtdm. :param role: driver (a slider) or derived.
    :param kind: "texture" or "shape": what an edit can ask for; "" for what is only measured.
    :param percentiles: {5: value, 25: …, 50: …, 75: …, 95: …} of the model's tumours, in `unit`; empty if unknown.
    :param low, high: lowest and highest value among them, None if unknown.
    """

    key: str
    name: str
    label: str
    unit: str
    meaning: str
    cls: str
    role: str
    kind: str
    factor: float = 1.0
    percentiles: Mapping[int, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Features of a tumour, equal to pyradiomics', under pyradiomics' names and units.

    :param percentiles: share in percent of the model's tumours below the value; only for what the model knows.
    :param warnings: e.g. that the image doesn't suit the model. :param unit: of the intensities ("HU" or "").
    """

    features: Mapping[str, float]
    percentiles: Mapping[str, float]
    modelID: str
    modality: str
    unit: str = ""
    voxels: int = 0
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Check:
    """What an edit would take, and whether it can be done at all; found without torch, in a fraction of a second.

    :param reason: why it can't be done, a sentence for the tooltip; empty if it can.
    :param missing: packages to be installed first (see `installDependencies`); these don't block.
    :param device: cpu, cuda or mps. :param seconds, bytes: rough, for that edit. :param warnings: sentences.
    :param used: the nearest features that a tumour can have, where they differ from what was asked.
    """

    reason: str = ""
    modality: str = ""
    device: str = "cpu"
    seconds: float = 0.0
    bytes: float = 0.0
    voxels: int = 0
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    used: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Outcome:
    """What an edit did.

    :param entryID: of the history; empty for measure. :param volumeNode: the edited volume.
    :param segmentationNode, segmentID: the tumour afterwards. :param sequenceNodes: of series: volumes, then segmentations.
    :param asked, used, reached, before: features under pyradiomics' names: as asked, the nearest feasible request, measured
        in the result, measured before. :param differences: reached − asked in population standard deviations.
    :param spread: these standard deviations. :param measurement: of measure. :param timing: seconds by stage, `total` those
        of the engine, `overhead` those of going there and back.
    """

    edit: str
    modelID: str
    entryID: str = ""
    volumeNode: Any = None
    segmentationNode: Any = None
    segmentID: str = ""
    sequenceNodes: tuple = ()
    asked: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    reached: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measurement: Measurement | None = None


@dataclass(frozen=True)
class HistoryEntry:
    """One edit of this scene, oldest first in `history()`.

    :param title: for the user, e.g. "Remove: lung1". :param when: local time, ISO 8601. :param undone: it is taken back at
        present. :param undoable: its voxels are still there to be taken back or redone.
    """

    id: str
    edit: str
    title: str
    when: str
    modelID: str
    volumeName: str
    volumeID: str = ""
    segmentationID: str = ""
    segmentID: str = ""
    seed: int = 0
    asked: Mapping[str, float] = field(default_factory=dict)
    reached: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    undone: bool = False
    undoable: bool = True


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
        """All models: those here first. Doesn't use the network unless the user set up a catalogue there."""

    def planInstall(self, source: str) -> list[str]:
        """What installing would do, in words, one fact a line (name, size, source, place, licence, SHA-256)."""

    def installModel(
        self, source: str, onProgress: Callable[[str, float], None] | None = None, sha256: str | None = None
    ) -> ModelRow:
        """Install from a catalogue's id, an https address with #sha256=…, a zip archive, or a folder; blocks.

        :param onProgress: called as onProgress(stage, fraction) with stage download, unpack, copy or check; what it raises
            stops the installation, which then leaves nothing.
        """

    def removeModel(self, modelID: str) -> None:
        """Delete a model that the user installed."""

    def features(
        self, modelID: str, modality: str | None = None, edit: str | None = None
    ) -> list[FeatureRow]:
        """Rows of the feature table for a model, drivers first.

        :param edit: leave only those that this edit can be asked for (texture or shape).
        """

    def suggestModel(self, volumeNode, segmentationNode=None, segmentID: str = "") -> str:
        """Id of the model that suits an image best (modality, spacing, and the tumour's size if given); "" if none."""

    # Before an edit

    def check(
        self, edit: str, volumeNode, segmentationNode=None, segmentID: str = "", modelID: str = "", **options
    ) -> Check:
        """Whether an edit can be done and what it takes. Never raises for bad input: see `Check.reason`."""

    def missingDependencies(self) -> list[str]:
        """Packages that an edit needs and that are not here yet; measuring needs none."""

    def installDependencies(self) -> bool:
        """Ask the user once, then install what is missing; False if the user declined. Raises if it can't be done."""

    def measure(
        self,
        volumeNode,
        segmentationNode,
        segmentID: str = "",
        modelID: str = "",
        modality: str | None = None,
    ) -> Measurement:
        """Features of a segment, in this process: blocks for the time it takes. `start("measure", …)` doesn't."""

    def previewShape(
        self, modelID: str, features: Mapping[str, float], seed: int = 0, to=None, modelNode=None
    ):
        """A model node with the surface of a shape that has these features, its centre at world RAS `to`.

        :param modelNode: the one to update; None makes one. Takes tens of milliseconds.
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
        another edit is under way. An empty modelID takes `suggestModel`'s.
        """

    def poll(self) -> None:
        """Deliver what has arrived; a timer does it in the application, scripts without an event loop call it."""

    def currentJob(self) -> Job | None:
        """The job under way."""

    def synthesize(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """A tumour in the segment, with the asked features, those not asked for free; blocks. So do the following."""

    def remove(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """Healthy tissue in place of the tumour."""

    def retexture(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """Another texture in the same shape; `donor` or `features` must be given."""

    def reshape(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", **options
    ) -> Outcome:
        """Another shape or size, with the same texture; `features` with shape features must be given."""

    def move(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", *, to, **options
    ) -> Outcome:
        """The same tumour with its centre at world RAS `to`."""

    def insert(
        self, volumeNode, segmentationNode=None, segmentID: str = "", modelID: str = "", *, to, **options
    ) -> Outcome:
        """A new tumour with its centre at world RAS `to`; its segment is added to the segmentation, or to a new one."""

    def series(
        self, volumeNode, segmentationNode, segmentID: str = "", modelID: str = "", *, feature: str,
        values: Sequence[float | str], **options,
    ) -> Outcome:  # fmt: skip
        """One volume per value of a feature, as a sequence with a browser; the volume itself stays as it is.

        :param values: numbers in the unit of `feature` as named, or multiples of the tumour's own value such as "0.5x".
        """

    # After an edit

    def history(self) -> list[HistoryEntry]:
        """All edits of the scene, oldest first, those read from a file too."""

    def canUndo(self) -> bool: ...

    def canRedo(self) -> bool: ...

    def undo(self) -> HistoryEntry:
        """Take back the last edit that isn't, bit for bit."""

    def redo(self) -> HistoryEntry:
        """Do again the first edit that was taken back."""

    def repeat(self, entryID: str) -> Outcome:
        """Compute an edit again from its record, into a new volume; warns if the voxels aren't the same. Blocks."""

    def repeatOptions(self, entryID: str) -> dict[str, Any]:
        """Edit, nodes, model and options of an edit, to be shown in the panel or given to `start`."""

    def beforeVolume(self, entryID: str):
        """A volume node as it was before an edit, for comparison; made at the first call, removed by `hideBefore`."""

    def hideBefore(self) -> None:
        """Remove the volumes that `beforeVolume` made."""

    def keepAsNewVolume(self, entryID: str = ""):
        """A new volume node with the voxels after an edit (default: the last), with its provenance."""

    def saveReport(self, folder: str, entryIDs: Sequence[str] = ()) -> str:
        """Write an HTML report on edits (default: all that aren't undone) into a folder; returns the file's path."""

    def saveResult(self, path: str, entryID: str = "") -> str:
        """Write the volume after an edit as NIfTI, NRRD or MetaImage, marked as synthetic, with its JSON sidecar."""

    def featureTable(self, entryID: str):
        """Table node of an edit: feature, before, asked, used, reached, difference."""

    def featurePlot(self, entryID: str):
        """Plot chart node of an edit: asked and reached, in standard deviations from the population's mean."""

    def shutdown(self) -> None:
        """End the worker process and remove temporary files; the next edit starts another."""

"""What the logic gives back: plain data, without Slicer, Qt or the engine. `api` offers all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_MODEL = "none"  # in place of a model's id: the image's own tissue and the tumour's own pattern, no network
ANY = "any"  # organ of a model that is for all
NO_MODEL_EDITS = ("measure", "remove", "synthesize", "retexture", "move")


@dataclass(frozen=True)
class ModelChoice:
    """Which model suits a tumour.

    :param modelID: `NO_MODEL` where none does. :param reason: one sentence.
    """

    modelID: str
    reason: str


@dataclass(frozen=True)
class ModelRow:
    """A model that is here, or that can be installed.

    :param status: bundled, installed, available (can be installed) or damaged (see `error`).
    :param bytes: size on disk. :param scores: as measured by the model's makers, name to number or text.
    :param update: the newer version that can be installed, or empty. :param removable: the user installed it.
    :param edits: which of `EDITS` the model can do. :param regions: which it paints one at a time; empty where it has one.
    :param network: it has one, which draws textures. :param memorisation: what it holds of patients, in sentences.
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
    regions: tuple[str, ...] = ()
    network: bool = True
    memorisation: str = ""


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
    :param region: of a model with several. :param scale: of the image's grey levels to the model's (see `Bundle.at_scale`).
    """

    features: Mapping[str, float]
    percentiles: Mapping[str, float]
    modelID: str
    modality: str
    unit: str = ""
    voxels: int = 0
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    region: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class Check:
    """What an edit would take, and whether it can be done at all; found without torch, in a fraction of a second.

    :param reason: why it can't be done, a sentence for the tooltip; empty if it can.
    :param missing: packages to be installed first (see `installDependencies`); these don't block.
    :param device: cpu, cuda or mps. :param seconds, bytes: rough, for that edit; 0 where they can't be told.
    :param warnings: sentences. :param used: the nearest features that a tumour can have, where they differ from what was asked.
    :param engine: what would draw: "bridge", the network, or "exemplar", the image's own tissue, which needs no torch.
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
    engine: str = ""

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

"""What was done, kept in the scene: one hidden text node per edit, so that a saved scene can be undone and repeated.

A node's text holds the change of voxels (see `TumorSynthLib.delta`), and the segment before and after where the edit changed it;
its attributes say what was done; its references name the volume and the segmentation. Nothing is kept outside the scene.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from TumorSynthLib import delta, models
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.provenance import plain

from . import nodes, subject
from .api import HistoryEntry
from .geometry import volumeMatrix
from .rows import NO_MODEL
from .segments import markRemoved, removeSegment, restoreSegment

ENTRY, UNDONE, PREFIX = "TumorSynth.edit", "TumorSynth.undone", "TumorSynth."
VOLUME, SEGMENTATION, TABLE, CHART = "volume", "segmentation", "table", "chart"
PROVENANCE, INHERITED = PREFIX + "provenance", PREFIX + "inherited"
COPY = PREFIX + "copy"  # attribute of a volume that was made for edits
ORIGINAL = PREFIX + "original"  # reference of such a volume to the one that it is a copy of
CHANGED = PREFIX + "changed"  # attribute of a volume: when its voxels were changed last, seconds since 1970


class Entry:
    """One edit of the scene, behind its node."""

    def __init__(self, node):
        self.node = node
        self.record: dict[str, Any] = json.loads(node.GetAttribute(ENTRY))

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def undone(self) -> bool:
        return self.node.GetAttribute(UNDONE) == "1"

    @undone.setter
    def undone(self, value: bool) -> None:
        self.node.SetAttribute(UNDONE, "1" if value else "0")

    @property
    def volumeNode(self):
        return self.node.GetNodeReference(VOLUME)

    @property
    def segmentationNode(self):
        return self.node.GetNodeReference(SEGMENTATION)

    @property
    def undoable(self) -> bool:
        """Whether the voxels can be taken to the other side."""
        return bool(self.record.get("box")) and self.volumeNode is not None and bool(self.node.GetText())

    @property
    def box(self):
        return tuple(slice(a, b) for a, b in self.record["box"])

    def payload(self) -> dict[str, Any]:
        """What the node's text holds.

        :raises InputError: the damaged record of a scene file.
        """
        try:
            found = json.loads(self.node.GetText() or "{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(_("the record of this edit is damaged: it can't be undone or redone"))
        return found

    def usedMask(self) -> nodes.Mask | None:
        """The mask that the edit was given, on the volume's grid."""
        return self._mask("mask")

    def usedMasks(self) -> dict[str, nodes.Mask]:
        """The other segments that the edit was given, by the option's name."""
        payload = self.payload()
        keys = {"inside": "inside" if "inside" in payload else "organ", "lend": "lend", "avoid": "avoid"}
        return {name: self._mask(key) for name, key in keys.items() if payload.get(key)}

    def _mask(self, name: str) -> nodes.Mask | None:
        mask = self.payload().get(name)
        if not mask:
            return None
        box = tuple(slice(a, b) for a, b in mask["box"])
        return nodes.Mask(box, delta.unpack(mask["bits"], [s.stop - s.start for s in box]))

    def usedLabels(self) -> nodes.Mask | None:
        """The labelmap of an edit with a model of several regions."""
        labels = self.payload().get("labels")
        if not labels:
            return None
        box = tuple(slice(a, b) for a, b in labels["box"])
        array = np.zeros([s.stop - s.start for s in box], np.uint8)
        for label, bits in labels["bits"].items():
            array[delta.unpack(bits, array.shape)] = int(label)
        return nodes.Mask(box, array)

    def bundle(self):
        """The model of the edit, for the region that was edited.

        :raises TumorSynthError: it isn't here.
        """
        if self.record["modelID"] == NO_MODEL:
            raise ModelError(_("this edit was done without a model"))
        found, region = models.find(self.record["modelID"]), self.record.get("region")
        made = self.record["provenance"]
        found = found.at_scale(made.get("modality"), float(made.get("model", {}).get("scale", 1)))
        return found.painting(region) if region else found

    def change(self, array: np.ndarray) -> None:
        """Take a (K, J, I) array in place to the other side of the edit.

        :raises InputError: the damaged record of a scene file.
        """
        array[self.box] = delta.toggle(array[self.box], self.payload()["change"])

    def toggle(self) -> None:
        """Undo the edit, or redo it, in its volume and segment.

        :raises InputError: something else has changed the voxels or removed the nodes since; then nothing is changed.
        """
        volumeNode, payload = self.volumeNode, self.payload()
        if not self.undoable:
            raise InputError(_("the voxels of this edit aren't there any more: it can't be undone or redone"))
        array = nodes.volumeArray(volumeNode)
        there = delta.checksum(array[self.box]) if _holds(array, self.box) else None
        if there != self.record["checksums"][0 if self.undone else 1]:
            raise InputError(
                _(
                    "{name} was changed by something else since this edit: it can't be undone or redone"
                ).format(name=volumeNode.GetName())
            )
        nodes.apply(volumeNode, self.box, delta.toggle(array[self.box], payload["change"]))
        if self.segmentationNode is not None:
            if payload.get("segment"):
                self._toggleSegment(payload["segment"])
            for segment in payload.get("removed", ()):
                markRemoved(self.segmentationNode, segment, self.undone)
        self.undone = not self.undone

    def _toggleSegment(self, states: Mapping[str, Any]) -> None:
        state = states["after" if self.undone else "before"]
        if state is None:
            removeSegment(self.segmentationNode, self.record["segmentID"])
        else:
            restoreSegment(self.segmentationNode, self.record["segmentID"], state)

    def shown(self) -> HistoryEntry:
        """As plain data."""
        record, volumeNode = self.record, self.volumeNode
        fields = (
            "id",
            "edit",
            "title",
            "when",
            "modelID",
            "volumeName",
            "segmentID",
            "seed",
            "asked",
            "reached",
        )
        return HistoryEntry(
            **{name: record[name] for name in fields},
            volumeID=volumeNode.GetID() if volumeNode else "",
            segmentationID=self.segmentationNode.GetID() if self.segmentationNode else "",
            warnings=tuple(record["warnings"]),
            undone=self.undone,
            undoable=self.undoable,
        )


def entries() -> list[Entry]:
    """All edits of the scene, oldest first; records that can't be read are left out."""
    found = []
    for node in slicer.util.getNodesByClass("vtkMRMLTextNode"):
        if node.GetAttribute(ENTRY):
            try:
                found.append(Entry(node))
            except ValueError:
                continue
    return sorted(found, key=lambda entry: entry.record["index"])


def entry(entryID: str = "") -> Entry:
    """The edit of an ID, or the last that isn't undone.

    :raises InputError: there is none.
    """
    for candidate in reversed(entries()):
        if candidate.id == entryID or (not entryID and not candidate.undone):
            return candidate
    raise InputError(_("there is no such edit in this scene: choose one of the history"))


def add(record: Mapping[str, Any], payload: Mapping[str, Any], volumeNode, segmentationNode) -> Entry:
    """Note an edit that hasn't been applied yet: `toggle` does it. Edits of the volume that were undone can't be redone then."""
    for old in entries():
        if old.undone and old.volumeNode is volumeNode:
            remove(old)
    there = entries()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", record["title"])
    node.SetHideFromEditors(True)
    index = there[-1].record["index"] + 1 if there else 0
    fixed = {"id": uuid.uuid4().hex, "index": index, "when": datetime.now().isoformat(timespec="seconds")}
    node.SetAttribute(ENTRY, json.dumps(plain({**record, **fixed}), allow_nan=False))
    node.SetAttribute(UNDONE, "1")
    node.SetText(json.dumps(payload))
    node.SetNodeReferenceID(VOLUME, volumeNode.GetID())
    if segmentationNode is not None:
        node.SetNodeReferenceID(SEGMENTATION, segmentationNode.GetID())
    return Entry(node)


def remove(old: Entry) -> None:
    """Forget an edit."""
    for role in (TABLE, CHART):
        shown = old.node.GetNodeReference(role)
        if shown is not None:
            slicer.mrmlScene.RemoveNode(shown)
    slicer.mrmlScene.RemoveNode(old.node)


def nextUndo() -> Entry | None:
    """The edit that undo would take back."""
    return next((e for e in reversed(entries()) if not e.undone and e.undoable), None)


def nextRedo() -> Entry | None:
    """The edit that redo would do again."""
    return next((e for e in entries() if e.undone and e.undoable), None)


def arrayAt(target: Entry, after: bool) -> np.ndarray:
    """(K, J, I) copy of the volume's voxels before or after an edit, later edits taken back.

    :raises InputError: the voxels aren't there any more.
    """
    if not target.undoable:
        raise InputError(_("the voxels of this edit aren't there any more"))
    array = nodes.volumeArray(target.volumeNode).copy()
    for later in reversed(entries()):
        if later.record["index"] <= target.record["index"]:
            break
        if later.volumeNode is target.volumeNode and later.undoable and not later.undone:
            later.change(array)
    if target.undone == after:
        target.change(array)
    return array


def mark(volumeNode) -> None:
    """Say in a volume's attributes what was done to its voxels; take it off where all was undone."""
    records = json.loads(volumeNode.GetAttribute(INHERITED) or "[]")
    records += [e.record["provenance"] for e in entries() if e.volumeNode is volumeNode and not e.undone]
    values: dict[str, str | None] = {nodes.SYNTHETIC: None, PREFIX + "statement": None, PROVENANCE: None}
    if records:
        values = {
            nodes.SYNTHETIC: "true",
            PREFIX + "statement": str(records[-1].get("statement", "")),
            PROVENANCE: json.dumps(plain(records), allow_nan=False),
        }
    for name, value in values.items():
        if value is None:
            volumeNode.RemoveAttribute(name)
        else:
            volumeNode.SetAttribute(name, value)
    volumeNode.SetAttribute(CHANGED, repr(time.time()))
    old, new = (subject.INSTANCE_UIDS, subject.KEPT_UIDS)[:: 1 if records else -1]
    if volumeNode.GetAttribute(old):  # edited voxels aren't those of the patient's series
        volumeNode.SetAttribute(new, volumeNode.GetAttribute(old))
        volumeNode.RemoveAttribute(old)


def markSeries(sequenceNode, records: list) -> None:
    """Mark a sequence of edited volumes, whose file keeps no attributes of theirs."""
    sequenceNode.SetAttribute(nodes.SYNTHETIC, "true")
    sequenceNode.SetAttribute(PROVENANCE, json.dumps(plain(records), allow_nan=False))
    sequenceNode.SetAttribute(CHANGED, repr(time.time()))


def inherit(volumeNode, records: list) -> None:
    """Mark a copy of a volume with what was done to the original."""
    volumeNode.SetAttribute(INHERITED, json.dumps(plain(records), allow_nan=False))
    mark(volumeNode)


def recordsUpTo(target: Entry, after: bool = True) -> list:
    """Records of all that was done to the voxels that `arrayAt` gives."""
    volumeNode, limit = target.volumeNode, target.record["index"] + (1 if after else 0)
    own = [e for e in entries() if e.volumeNode is volumeNode and e.record["index"] < limit]
    inherited = json.loads(volumeNode.GetAttribute(INHERITED) or "[]")
    return inherited + [e.record["provenance"] for e in own if not e.undone or e.id == target.id]


def setCopy(volumeNode, original) -> None:
    """Note that a volume was made for edits of another one, so that further ones go on in it."""
    volumeNode.SetAttribute(COPY, "1")
    volumeNode.SetNodeReferenceID(ORIGINAL, original.GetID())


def unusedCopy(original):
    """The copy of a volume that was made for edits which were all undone; None if there is none."""
    image, used = original.GetImageData(), {e.volumeNode for e in entries() if not e.undone}
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(COPY) != "1" or node.GetNodeReference(ORIGINAL) is not original or node in used:
            continue
        there = node.GetImageData()
        same = there is not None and there.GetDimensions() == image.GetDimensions()
        same = same and there.GetScalarType() == image.GetScalarType()
        same = same and provenanceOf(node) == provenanceOf(original)
        if same and np.array_equal(volumeMatrix(node), volumeMatrix(original)):
            return node
    return None


def isOriginals(volumeNode, segmentationNode, segment: str) -> bool:
    """Whether a segment shows the tumour of the volume that this one is a copy of, where it must stay as it is."""
    if segmentationNode is None or volumeNode.GetNodeReference(ORIGINAL) is None:
        return False
    made = [
        e for e in entries() if e.segmentationNode is segmentationNode and e.record["segmentID"] == segment
    ]
    return not any(
        (e.payload().get("segment") or {"before": ""})["before"] is None for e in made if not e.undone
    )


def showsTumourOf(volumeNode, segmentationNode, segment: str) -> bool:
    """Whether what a segment shows is in a volume: not where a tumour was, or of another volume, or moved away in this one."""
    if nodes.isRemoved(segmentationNode, segment):
        return False
    line, node = [], volumeNode
    while node is not None and node not in line:
        line.append(node)
        node = node.GetNodeReference(ORIGINAL)
    for done in entries():
        if done.undone or done.segmentationNode is not segmentationNode:
            continue
        made = done.record["segmentID"] == segment != done.record.get("source", segment)
        if made and done.volumeNode not in line:
            return False
        gone = done.record.get("source") == segment != done.record["segmentID"]
        if gone and done.volumeNode in line:
            return False
    return True


def isCopy(volumeNode) -> bool:
    """Whether a volume is an edited one already, or was made for edits."""
    return volumeNode.GetAttribute(COPY) == "1" or volumeNode.GetAttribute(nodes.SYNTHETIC) == "true"


def provenanceOf(volumeNode) -> list[dict]:
    """Records of what was done to a volume's voxels, oldest first."""
    return json.loads(volumeNode.GetAttribute(PROVENANCE) or "[]")


def _holds(array: np.ndarray, box) -> bool:
    return all(s.stop <= n for s, n in zip(box, array.shape))

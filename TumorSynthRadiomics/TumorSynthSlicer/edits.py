"""From nodes to the worker's request, and from its answer to the scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from TumorSynthLib import delta, wire
from TumorSynthLib.edit.options import to_message
from TumorSynthLib.errors import InputError
from TumorSynthLib.exchange import Exchange
from TumorSynthLib.provenance import request_of
from TumorSynthLib.requests import EditRequest

from . import history, model_rows, nodes, segments, subject
from .api import Measurement, ModelChoice, Outcome
from .checks import checkOptions, checkRequest, engineOf, runsOf
from .geometry import volumeMatrix, worldMatrix
from .rows import NO_MODEL

MASKS = ("inside", "lend", "avoid")  # options that are segments: (segmentation node, segment ID)
IMAGE_OPTIONS = ("donor", *MASKS)
MARGIN = 40.0  # mm around a tumour that its checks look at: more than any model's margin
DONE = tuple(name for name in wire.TOLD if name != "warnings")


@dataclass
class Input:
    """The checked input of an edit.

    :param mask: what is edited, on the volume's grid; None for insert. :param request: the engine's, without images.
    :param copied: the volume is a copy already, so that the segment stays for the original.
    :param region: the one that is edited, where the model has several. :param labels: all of them (see `regions.assign`).
    :param masks: those of `MASKS` that were given, on the volume's grid. :param notes: warnings of what was found so far.
    """

    edit: str
    volumeNode: Any
    segmentationNode: Any
    segmentID: str
    modelID: str
    volume: Any
    mask: nodes.Mask | None
    options: dict[str, Any]
    request: EditRequest
    copied: bool = False
    region: str = ""
    labels: nodes.Mask | None = None
    masks: dict[str, nodes.Mask] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, edit: str, volumeNode, segmentationNode, segment: str, modelID: str, options: Mapping[str, Any]
    ) -> Input:
        """Check all that can be checked without the engine's model.

        :raises InputError: with the reason.
        """
        checkOptions(edit, options)
        request = checkRequest(edit, options)
        volume = nodes.volumeOf(volumeNode)
        mask = None
        if edit == "insert":
            segment = ""
        else:
            segment = nodes.segmentID(segmentationNode, segment)
            mask = nodes.maskOf(segmentationNode, segment, volumeNode)
        masks = {name: maskOf(options[name], volumeNode) for name in MASKS if options.get(name)}
        return cls(
            edit,
            volumeNode,
            segmentationNode,
            segment,
            modelID,
            volume,
            mask,
            dict(options),
            request,
            masks=masks,
        )

    def estimate(self, bundle) -> float | None:
        """Rough seconds of a network's edit; None where they can't be told."""
        from TumorSynthLib import suitability

        if self.edit in ("measure", "insert") or bundle is None:
            return None
        request = self.request
        if engineOf(self.edit, request, bundle) == "exemplar":
            return None
        part, mask = nodes.around(self.volume, self.mask, MARGIN)
        seconds = suitability.estimate(part, mask, bundle, request.steps)["seconds"]
        return seconds * runsOf(self.edit, request, self.options)

    def nodes(self) -> list:
        """Nodes without which the edit can't be finished."""
        return [n for n in (self.volumeNode, self.segmentationNode) if n is not None]


class Transfer:
    """Hands an input over to the worker: `write` the voxels, then make the `message`."""

    def __init__(self, given: Input, exchange: Exchange, estimate: float | None = None):
        self._given, self._exchange, self._estimate = given, exchange, estimate
        self._donor = self._donorInput()

    def write(self) -> Iterator[float]:
        """Write the volumes, yielding the fraction of the one being written."""
        exchange = self._exchange
        exchange.keepOnly([volumeKey(n) for n in self._volumeNodes()])
        yield from exchange.sendVolume(
            volumeKey(self._given.volumeNode), self._given.volume, stateOf(self._given.volumeNode)
        )
        if self._donor is not None:
            yield from exchange.sendVolume(volumeKey(self._donor[0]), self._donor[1], stateOf(self._donor[0]))

    def message(self) -> wire.Request:
        """The request, once the voxels are over."""
        given, exchange = self._given, self._exchange
        request = to_message(given.request)  # which holds no image
        if given.edit == "series":
            request |= {
                "feature": given.options["feature"],
                "values": list(map(plainNumber, given.options["values"])),
            }
        if self._donor is not None:
            node, volume, mask = self._donor
            donor = {
                "volume": exchange.entry(volumeKey(node), volume),
                "mask": exchange.sendMask("donor-mask", mask),
            }
            request["donor"] = donor
        for name, mask in given.masks.items():
            request[name] = exchange.sendMask(name, mask)
        if given.region:
            request["region"] = given.region
        mask = given.labels or given.mask
        entries: dict = {"volume": exchange.entry(volumeKey(given.volumeNode), given.volume)}
        if mask is not None:
            entries["mask"] = exchange.sendMask("mask", mask)
        model = "" if given.modelID == NO_MODEL else given.modelID
        more: dict = {"request": request, "model": model, "device": given.options.get("device") or "auto"}
        if given.edit == "measure":
            return wire.Measure(**entries, **more)
        return wire.Edit(edit=given.edit, estimate=self._estimate, **entries, **more)

    def _volumeNodes(self) -> list:
        return [self._given.volumeNode] + ([self._donor[0]] if self._donor is not None else [])

    def _donorInput(self):
        """(node, volume, mask) of the other tumour whose texture is taken."""
        donor = self._given.options.get("donor")
        if not donor:
            return None
        volumeNode, *segment = donor
        return volumeNode, nodes.volumeOf(volumeNode), maskOf(segment, volumeNode)


class Finisher:
    """Brings the worker's answer into the scene."""

    def __init__(self, given: Input, exchange: Exchange):
        self._given, self._exchange = given, exchange
        self._copying = None
        if self._isNew():
            again = given.options["output"] == "syntheticCopy"
            earlier = history.unusedCopy(given.volumeNode) if again else None
            self._copying = subject.Copying(given.volumeNode, earlier)

    def _isNew(self) -> bool:
        """Whether the result goes into a new volume."""
        output = self._given.options.get("output")
        return output == "newVolume" or (
            output == "syntheticCopy" and not history.isCopy(self._given.volumeNode)
        )

    def __call__(self, event: wire.Done, seconds: float) -> Outcome:
        """:param seconds: since the edit was started. :raises InputError: the nodes or voxels changed meanwhile."""
        given = self._given
        if given.edit == "measure":
            found = measurement(event.measurement, given.region)
            return Outcome(
                "measure",
                given.modelID,
                volumeNode=given.volumeNode,
                measurement=found,
                warnings=found.warnings,
            )
        if any(slicer.mrmlScene.GetNodeByID(node.GetID() or "") is not node for node in given.nodes()):
            raise InputError(
                _("the volume or the segmentation was deleted during the edit: the result is dropped")
            )
        if given.edit == "series":
            from . import series

            return series.finish(given, [self._result(r) for r in event.results], seconds)
        return self._applied(self._result(event.results[0]), seconds)

    def _result(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A result with its files read: `changeText` and, where the mask isn't the input's, `newMask`."""
        result = {**entry, "warnings": [*self._given.notes, *entry["warnings"]]}
        result["changeText"] = self._exchange.readText(entry["change"])
        result["newMask"] = None
        if entry.get("mask"):
            box = tuple(slice(a, b) for a, b in entry["mask"]["box"])
            shape = [s.stop - s.start for s in box]
            result["newMask"] = nodes.Mask(box, self._exchange.read(entry["mask"]["file"], bool, shape))
        return result

    def _applied(self, result: dict[str, Any], seconds: float) -> Outcome:
        given, isNew = self._given, self._copying is not None
        checkUnchanged(given.volumeNode, result)
        volumeNode = self._newVolume() if isNew else given.volumeNode
        segmentationNode, segment = given.segmentationNode, given.segmentID
        states, removed = None, ()
        apart = isNew or given.copied or history.isOriginals(given.volumeNode, segmentationNode, segment)
        if given.edit == "remove" and segmentationNode is not None and not apart:
            removed = removedSegments(given)
        elif given.edit == "remove" or result["newMask"] is not None:
            segmentationNode = segmentationNode or self._newSegmentation(volumeNode)
            segment, states = segmentStates(given, segmentationNode, result["newMask"], apart)
        entry = history.add(
            self._record(result, volumeNode, segment),
            payload(given, result, states, removed),
            volumeNode,
            segmentationNode,
        )
        entry.toggle()
        history.mark(volumeNode)
        array = nodes.volumeArray(volumeNode)
        if isNew:
            self._exchange.adopt(volumeKey(given.volumeNode), volumeKey(volumeNode))
        self._exchange.patchVolume(volumeKey(volumeNode), entry.box, array, stateOf(volumeNode))
        return outcome(given, result, seconds, entry.id, volumeNode, segmentationNode, segment)

    def _newVolume(self):
        """A copy of the volume as it was before the edit; an earlier one whose edits were all undone is taken again."""
        given, earlier = self._given, self._copying.earlier()
        if earlier is not None:
            return earlier
        image = self._copying.image()
        kind = "synthetic" if given.options["output"] == "syntheticCopy" else given.edit
        node = subject.cloneVolume(
            given.volumeNode, subject.resultName(given.volumeNode.GetName(), kind), image
        )
        history.inherit(node, history.provenanceOf(given.volumeNode))
        history.setCopy(node, given.volumeNode)
        return node

    def _newSegmentation(self, volumeNode):
        node = segments.newSegmentation(volumeNode)
        subject.placeBeside(node, volumeNode)
        return node

    def _record(self, result: Mapping[str, Any], volumeNode, segment: str) -> dict[str, Any]:
        given = self._given
        title = _("{edit} ({region}): {volume}") if given.region else _("{edit}: {volume}")
        title = title.format(
            edit=subject.editName(given.edit), region=given.region, volume=given.volumeNode.GetName()
        )
        return {
            "edit": given.edit, "title": title, "modelID": given.modelID, "volumeName": volumeNode.GetName(),
            "segmentID": segment, "source": given.segmentID, "region": given.region, "seed": given.request.seed,
            "box": result["box"], "checksums": result["checksums"], "options": plainOptions(given.options),
            **{name: result[name] for name in (*DONE, "warnings")},
        }  # fmt: skip


def suitingModel(volume, mask: nodes.Mask | None, texts, given: Input | None = None) -> ModelChoice:
    """The model for a tumour, or, without a mask, for a new one where an input asks for it."""
    if mask is not None:
        return model_rows.choose(*nodes.around(volume, mask, MARGIN), texts, volume)
    if given is None:
        return model_rows.choose(volume, None, texts)
    masks = {name: one.full(volume.array.shape) for name, one in given.masks.items() if name != "lend"}
    return model_rows.choose(volume, None, texts, at=given.request.at, **masks)


def repetition(entry) -> Input:
    """The input that repeats an edit of the history: a new volume with the voxels from before, and the recorded request.

    :raises InputError: its voxels aren't there any more.
    """
    if entry.record["edit"] == "series":
        raise InputError(_("a series can't be repeated as it is: run it again from the panel"))
    name = subject.resultName(entry.volumeNode.GetName(), "repeat")
    node = subject.cloneVolume(entry.volumeNode, name, subject.imageOf(history.arrayAt(entry, after=False)))
    history.inherit(node, history.recordsUpTo(entry, after=False))
    request = EditRequest(**request_of(entry.record["provenance"]))
    record = entry.record
    options = {"device": record["options"].get("device")}
    return Input(
        record["edit"], node, entry.segmentationNode, record["segmentID"], record["modelID"], nodes.volumeOf(node),
        entry.usedMask(), options, request, True, record.get("region", ""), entry.usedLabels(), entry.usedMasks(),
    )  # fmt: skip


def outcome(
    given: Input,
    result: Mapping[str, Any],
    seconds: float,
    entryID: str,
    volumeNode,
    segmentationNode,
    segment,
):
    """The `api.Outcome` of a result."""
    timing = dict(result["timing"])
    timing["overhead"] = round(max(seconds - timing.get("total", 0.0), 0.0), 3)
    values = {name: result[name] for name in DONE if name != "timing"}
    return Outcome(
        given.edit, given.modelID, entryID, volumeNode, segmentationNode, segment, **values, timing=timing,
        warnings=tuple(result["warnings"]),
    )  # fmt: skip


def removedSegments(given: Input) -> list[str]:
    """IDs of the segments whose tumour a removal takes away."""
    if given.options.get("whole") and given.options.get("regions"):
        return [segment for segment in given.options["regions"].values() if segment]
    return [given.segmentID]


def payload(given: Input, result: Mapping[str, Any], states, removed=()) -> dict[str, Any]:
    """What the history keeps to undo, redo and repeat an edit."""
    kept: dict[str, Any] = {"change": result["changeText"], "removed": list(removed)}
    for name, mask in {"mask": given.mask, **given.masks}.items():
        if mask is not None:
            kept[name] = {"box": [[s.start, s.stop] for s in mask.box], "bits": delta.pack(mask.array)}
    if given.labels is not None:
        box, array = [[s.start, s.stop] for s in given.labels.box], given.labels.array
        kept["labels"] = {"box": box, "bits": {int(n): delta.pack(array == n) for n in np.unique(array) if n}}
    if states is not None:
        kept["segment"] = states
    return kept


def segmentStates(
    given: Input, segmentationNode, mask: nodes.Mask | None, isNew: bool
) -> tuple[str, dict[str, Any]]:
    """(segment ID, state before and after) of an edit that changes the tumour's place or shape, or takes it away.

    A new volume gets a segment of its own, so that the old one goes on showing the tumour of the old volume.
    """
    item = segmentationNode.GetSegmentation().GetSegment(given.segmentID) if given.segmentID else None
    matrix = np.linalg.inv(worldMatrix(segmentationNode)) @ volumeMatrix(given.volumeNode)
    nodes.lpsGeometry(matrix, segmentationNode.GetName())  # refuses a grid that a labelmap can't have
    if item is not None and not isNew:
        after = segments.newState(mask, matrix, item.GetName(), item)
        return given.segmentID, {
            "before": segments.stateOf(segmentationNode, given.segmentID),
            "after": after,
        }
    segment = segments.uniqueID(segmentationNode, "Tumour")
    if given.edit == "remove":
        return segment, {"before": None, "after": segments.removedState(given.mask, matrix, item)}
    name = subject.resultName(item.GetName(), given.edit) if item is not None else _("Inserted tumour")
    return segment, {"before": None, "after": segments.newState(mask, matrix, name, item)}


def checkUnchanged(volumeNode, result: Mapping[str, Any]) -> None:
    """Raise InputError where something else has changed the voxels since the edit was started."""
    box = tuple(slice(a, b) for a, b in result["box"])
    if delta.checksum(nodes.volumeArray(volumeNode)[box]) != result["checksums"][0]:
        raise InputError(
            _("{name} was changed during the edit: the result is dropped, run it again").format(
                name=volumeNode.GetName()
            )
        )


def measurement(found: Mapping[str, Any], region: str = "") -> Measurement:
    """`api.Measurement` of what the engine measured."""
    return Measurement(
        found["features"], found["percentiles"], found["model"], found["modality"], found["unit"], found["voxels"],
        tuple(found["warnings"]), found["seconds"], region, found["scale"],
    )  # fmt: skip


def plainOptions(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON knows them; nodes as their IDs."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if name in IMAGE_OPTIONS:
            value = [part if isinstance(part, str) else part.GetID() for part in value] if value else None
        elif isinstance(value, Mapping):
            value = {str(k): v if isinstance(v, str) else float(v) for k, v in value.items()}
        elif isinstance(value, (list, tuple, np.ndarray)):
            value = list(map(plainNumber, value))
        kept[name] = value
    return kept


def plainNumber(value) -> float | str:
    """A number as JSON knows it; a multiple such as "0.5x" stays as it is."""
    return value if isinstance(value, str) else float(value)


def maskOf(segment, volumeNode) -> nodes.Mask:
    """The mask on a volume's grid of (segmentation node, segment ID); without an ID its only segment's."""
    segmentationNode, *name = segment
    return nodes.maskOf(
        segmentationNode, nodes.segmentID(segmentationNode, name[0] if name else ""), volumeNode
    )


def volumeKey(volumeNode) -> str:
    """What a volume is called in the exchange folder."""
    return f"volume-{volumeNode.GetID()}"


def stateOf(volumeNode) -> int:
    """What changes with a volume's voxels."""
    return volumeNode.GetImageData().GetMTime()

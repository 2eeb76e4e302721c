"""A series of edits as a sequence of volumes, with a browser; and of segmentations where the shape changes too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from TumorSynthLib import delta

from . import edits, history, nodes, segments, subject
from .api import Outcome
from .geometry import volumeMatrix, worldMatrix


def finish(given, results: Sequence[dict[str, Any]], seconds: float) -> Outcome:
    """Make the sequences of a series; the input volume stays as it is."""
    edits.checkUnchanged(given.volumeNode, results[0])
    browser = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSequenceBrowserNode", subject.resultName(given.volumeNode.GetName(), "series")
    )
    volumes = _sequence(given, subject.resultName(given.volumeNode.GetName(), "series"))
    masks = None
    if any(result["newMask"] is not None for result in results):
        masks = _sequence(given, subject.resultName(given.volumeNode.GetName(), "masks"))
    for result in results:
        value = result["provenance"]["series"]["value"]
        _addVolume(given, volumes, value, result)
        if masks is not None:
            _addMask(given, masks, value, result)
    made = tuple(n for n in (volumes, masks) if n is not None)
    history.markSeries(volumes, [r["provenance"] for r in results])
    for node in made:
        browser.AddSynchronizedSequenceNode(node)
        subject.placeBeside(node, given.volumeNode)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return _noted(given, results, made, seconds)


def _sequence(given, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    node.SetIndexName(str(given.options["feature"]))
    node.SetIndexUnit("")
    node.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    return node


def _addVolume(given, sequence, value: float, result: Mapping[str, Any]) -> None:
    """Add the volume of one value; it is made outside the scene's lists and copied into the sequence."""
    clone = subject.cloneVolume(given.volumeNode, given.volumeNode.GetName())
    try:
        box = tuple(slice(a, b) for a, b in result["box"])
        array = nodes.volumeArray(clone)
        nodes.apply(clone, box, delta.toggle(array[box], result["changeText"]))
        history.inherit(clone, [*history.provenanceOf(given.volumeNode), result["provenance"]])
        sequence.SetDataNodeAtValue(clone, _text(value))
    finally:
        slicer.mrmlScene.RemoveNode(clone)


def _addMask(given, sequence, value: float, result: Mapping[str, Any]) -> None:
    node = segments.newSegmentation(given.volumeNode)
    try:
        mask = result["newMask"] or given.mask
        item = given.segmentationNode.GetSegmentation().GetSegment(given.segmentID)
        matrix = np.linalg.inv(worldMatrix(node)) @ volumeMatrix(given.volumeNode)
        state = segments.newState(mask, matrix, item.GetName(), item)
        segments.restoreSegment(node, given.segmentID, state)
        sequence.SetDataNodeAtValue(node, _text(value))
    finally:
        slicer.mrmlScene.RemoveNode(node)


def _noted(given, results: Sequence[Mapping[str, Any]], made: tuple, seconds: float) -> Outcome:
    """The outcome, with the last step's features, and a note in the history, which can't be undone."""
    last = dict(results[-1])
    last["warnings"] = list(dict.fromkeys(w for result in results for w in result["warnings"]))
    last["timing"] = _summed([result["timing"] for result in results])
    title = _("{edit}: {volume}").format(edit=subject.editName("series"), volume=given.volumeNode.GetName())
    record = {
        "edit": "series", "title": title, "modelID": given.modelID, "volumeName": given.volumeNode.GetName(),
        "segmentID": given.segmentID, "seed": given.request.seed, "box": None, "checksums": None,
        "options": edits.plainOptions(given.options), **{name: last[name] for name in (*edits.DONE, "warnings")},
        "steps": [{"asked": r["asked"], "reached": r["reached"]} for r in results],
    }  # fmt: skip
    entry = history.add(record, {}, given.volumeNode, given.segmentationNode)
    entry.undone = False
    found = edits.outcome(
        given, last, seconds, entry.id, given.volumeNode, given.segmentationNode, given.segmentID
    )
    return replace(found, sequenceNodes=made)


def _summed(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for timing in timings for name in timing}
    return {name: round(sum(timing.get(name, 0.0) for timing in timings), 3) for name in sorted(names)}


def _text(value: float) -> str:
    return f"{float(value):.6g}"

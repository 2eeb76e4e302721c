"""Segments as states that can be kept, restored, named and coloured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support
from slicer.i18n import tr as _

from TumorSynthLib import delta
from TumorSynthLib.errors import InputError

from . import nodes, subject
from .geometry import fromVTK

#: Mass, of Slicer's own terminology: what a new tumour is, unless its segmentation says otherwise.
MASS = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure~"
    "SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
)
COLOUR = (0.56, 0.93, 0.56)  # of Mass in that terminology
KEPT_TAGS = ("TerminologyEntry", "Segmentation.Status", nodes.REMOVED)


def stateOf(segmentationNode, segment: str) -> dict[str, Any] | None:
    """A segment's voxels, geometry, name, colour and tags as plain data; None if it isn't there."""
    item = segmentationNode.GetSegmentation().GetSegment(segment) if segmentationNode is not None else None
    if item is None:
        return None
    state: dict[str, Any] = {"name": item.GetName(), "colour": list(item.GetColor()), "tags": _tags(item)}
    try:
        image = nodes.labelmapOf(segmentationNode, segment)
    except InputError:
        return state  # an empty segment
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    extent = list(image.GetExtent())
    array = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()) != 0
    return {**state, "extent": extent, "matrix": fromVTK(matrix).tolist(), "bits": delta.pack(array)}


def restoreSegment(segmentationNode, segment: str, state: Mapping[str, Any]) -> None:
    """Give a segment the voxels of a state; make it if it isn't there."""
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetSegment(segment) is None:
        item = slicer.vtkSegment()
        item.SetName(state["name"])
        item.SetColor(*state["colour"])
        for tag, value in state["tags"].items():
            item.SetTag(tag, value)
        segmentation.AddSegment(item, segment)
    if "bits" in state:
        nodes.setLabelmap(segmentationNode, segment, _image(state))


def removeSegment(segmentationNode, segment: str) -> None:
    """Remove a segment that an edit had made."""
    segmentationNode.GetSegmentation().RemoveSegment(segment)


def newState(mask: nodes.Mask, matrix: np.ndarray, name: str, like=None) -> dict[str, Any]:
    """State of a new segment with the voxels of a mask.

    :param matrix: (4, 4) voxel index → the segmentation's RAS.
    :param like: the segment whose colour and terminology it takes; None makes it a Mass.
    """
    k, j, i = mask.box
    extent = [i.start, i.stop - 1, j.start, j.stop - 1, k.start, k.stop - 1]
    return {
        "name": name,
        "colour": list(like.GetColor()) if like is not None else list(COLOUR),
        "tags": _tags(like) if like is not None else {"TerminologyEntry": MASS},
        "extent": extent,
        "matrix": np.asarray(matrix).tolist(),
        "bits": delta.pack(mask.array),
    }


def removedState(mask: nodes.Mask, matrix: np.ndarray, like) -> dict[str, Any]:
    """State of a new segment that shows where a tumour was; as `newState`."""
    state = newState(mask, matrix, subject.resultName(like.GetName(), "removed"), like)
    return {**state, "tags": {**state["tags"], nodes.REMOVED: like.GetName()}}


def markRemoved(segmentationNode, segment: str, removed: bool) -> None:
    """Say in a segment's name and tags that its tumour was removed, or that it is there again."""
    item = segmentationNode.GetSegmentation().GetSegment(segment)
    if item is None or removed == item.HasTag(nodes.REMOVED):
        return
    if removed:
        item.SetTag(nodes.REMOVED, item.GetName())
        item.SetName(subject.resultName(item.GetName(), "removed"))
    else:
        item.SetName(_tags(item)[nodes.REMOVED])
        item.RemoveTag(nodes.REMOVED)


def uniqueID(segmentationNode, wanted: str) -> str:
    """A segment ID that isn't taken."""
    return segmentationNode.GetSegmentation().GenerateUniqueSegmentID(wanted)


def newSegmentation(volumeNode):
    """An empty segmentation with the geometry of a volume, beside it in the subject hierarchy."""
    name = _("{volume} tumour").format(volume=volumeNode.GetName())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    node.CreateDefaultDisplayNodes()
    transform = volumeNode.GetParentTransformNode()
    node.SetAndObserveTransformNodeID(transform.GetID() if transform else None)
    return node


def _image(state: Mapping[str, Any]):
    i0, i1, j0, j1, k0, k1 = state["extent"]
    box = (slice(k0, k1 + 1), slice(j0, j1 + 1), slice(i0, i1 + 1))
    array = delta.unpack(state["bits"], [s.stop - s.start for s in box])
    return nodes.labelmap(nodes.Mask(box, array), np.array(state["matrix"]))


def _tags(item) -> dict[str, str]:
    found = {}
    for tag in KEPT_TAGS:
        value = vtk.reference("")
        if item.GetTag(tag, value):
            found[tag] = str(value)
    return found

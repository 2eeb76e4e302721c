"""Volumes and segments as the engine's arrays, and edits back into the nodes.

A mask is a `Mask`: a box of the volume's grid and the bool array of that box, so that the work and the memory depend on the
tumour's size and not on the volume's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from TumorSynthLib.errors import InputError

from .geometry import labelmapMatrix, lpsGeometry, toVTK, volumeMatrix, worldMatrix

if TYPE_CHECKING:
    from TumorSynthLib.volume import Volume

BINARY, SURFACE = "Binary labelmap", "Closed surface"
SYNTHETIC = "TumorSynth.synthetic"  # attribute of a volume node that holds edited voxels
REMOVED = "TumorSynth.removed"  # tag of a segment that shows where a tumour was


@dataclass(frozen=True, eq=False)
class Mask:
    """Part of a volume's grid.

    :param box: (k, j, i) slices. :param array: bool, of the box; uint8 for a labelmap.
    """

    box: tuple[slice, ...]
    array: np.ndarray

    def full(self, shape) -> np.ndarray:
        """(K, J, I) array of the whole volume."""
        mask = np.zeros(shape, self.array.dtype)
        mask[self.box] = self.array
        return mask

    def within(self, box) -> np.ndarray:
        """Array of another box, False or 0 where this one doesn't reach."""
        part = np.zeros([s.stop - s.start for s in box], self.array.dtype)
        both = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.box, box)]
        if all(low < high for low, high in both):
            there, here = (
                tuple(slice(low - s.start, high - s.start) for (low, high), s in zip(both, of))
                for of in (box, self.box)
            )
            part[there] = self.array[here]
        return part

    @property
    def voxels(self) -> int:
        return int(np.count_nonzero(self.array))


def checkVolume(volumeNode) -> None:
    """Raise InputError unless a node is a volume with one real value per voxel."""
    if volumeNode is None or not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(_("no volume is selected: choose the image"))
    image = volumeNode.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(_("{name} has no voxels: load it again").format(name=volumeNode.GetName()))
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            _("{name} has several values per voxel (colour or vector): use a volume with one").format(
                name=volumeNode.GetName()
            )
        )


def volumeArray(volumeNode) -> np.ndarray:
    """(K, J, I) view of a volume's voxels."""
    return slicer.util.arrayFromVolume(volumeNode)


def volumeOf(volumeNode) -> Volume:
    """The engine's `Volume` of a node, in world coordinates; its array is a view, not a copy.

    :raises InputError: no volume, in colour, or under a transform that it can't be measured under.
    """
    from TumorSynthLib.volume import Volume  # not at the module's start: it imports SimpleITK

    checkVolume(volumeNode)
    spacing, origin, direction = lpsGeometry(volumeMatrix(volumeNode), volumeNode.GetName())
    marked = {"synthetic": "true"} if volumeNode.GetAttribute(SYNTHETIC) == "true" else {}
    for key, tag in (("0008|0060", "Modality"), ("0018|0015", "BodyPartExamined")):
        if volumeNode.GetAttribute(f"DICOM.{tag}"):
            marked[key] = volumeNode.GetAttribute(f"DICOM.{tag}")
    return Volume(volumeArray(volumeNode), spacing, origin, direction, marked)


def segmentID(segmentationNode, given: str = "") -> str:
    """The segment's ID for an ID or a name; the only one there is without either.

    :raises InputError: no segmentation, no such segment, or several and none given.
    """
    if segmentationNode is None or not segmentationNode.IsA("vtkMRMLSegmentationNode"):
        raise InputError(_("no segmentation is selected: choose the one that holds the tumour"))
    segmentation = segmentationNode.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    if given in ids:
        return given
    named = segmentation.GetSegmentIdBySegmentName(given) if given else ""
    if named:
        return named
    if not given and len(ids) == 1:
        return ids[0]
    name = segmentationNode.GetName()
    if not ids:
        raise InputError(_("{name} has no segment: draw the tumour first").format(name=name))
    if given:
        raise InputError(
            _("{name} has no segment {segment}: choose another").format(name=name, segment=given)
        )
    raise InputError(_("{name} has several segments: choose the tumour's").format(name=name))


def around(volume: Volume, mask: Mask, margin: float) -> tuple[Volume, np.ndarray]:
    """The part of a volume within so many mm of a mask's box, and the mask (K, J, I) on it; what costs no more in a large one.

    The part's origin is that of the whole.
    """
    room = [int(np.ceil(margin / d)) + 2 for d in volume.spacing[::-1]]
    box = tuple(
        slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in zip(mask.box, room, volume.array.shape)
    )
    part = replace(volume, array=volume.array[box])
    there = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(mask.box, box))
    return part, Mask(there, mask.array).full(part.array.shape)


def textsOf(volumeNode, segmentationNode, segment: str) -> list[str]:
    """What names and terminology say of an image and a tumour."""
    texts = [volumeNode.GetName() or ""]
    if segmentationNode is not None:
        item = segmentationNode.GetSegmentation().GetSegment(segment)
        entry = vtk.reference("")
        texts += [segmentationNode.GetName() or "", item.GetName() if item is not None else ""]
        if item is not None and item.GetTag("TerminologyEntry", entry):
            texts.append(str(entry))
    return texts


def isRemoved(segmentationNode, segment: str) -> bool:
    """Whether a segment shows where a tumour was, and not one that is there."""
    item = segmentationNode.GetSegmentation().GetSegment(segment) if segmentationNode is not None else None
    return item is not None and item.HasTag(REMOVED)


def labelmapOf(segmentationNode, segment: str):
    """Oriented image with the voxels of one segment, in the segmentation's own RAS; converted if it is a surface.

    :raises InputError: the segment is empty.
    """
    image = slicer.vtkOrientedImageData()
    item = segmentationNode.GetSegmentation().GetSegment(segment)
    if item.GetRepresentation(BINARY) is not None:
        # Takes this segment's label out of a labelmap that several share; the logic's method doesn't.
        there = segmentationNode.GetBinaryLabelmapRepresentation(segment, image)
    else:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        there = logic.GetSegmentBinaryLabelmapRepresentation(segmentationNode, segment, image, False)
    scalars = image.GetPointData().GetScalars() if there else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise InputError(_emptySegment(segmentationNode, segment))
    return image


def maskOf(segmentationNode, segment: str, volumeNode) -> Mask:
    """A segment on the grid of a volume: as it is where both have the same grid, nearest neighbour else.

    :raises InputError: empty, outside the volume, or under a non-linear transform.
    """
    key = _maskKey(segmentationNode, segment, volumeNode)
    if key is not None and _last.get("key") == key:
        return _last["mask"]
    found = _maskOf(segmentationNode, segment, volumeNode)
    _last.update(key=key, mask=found)
    return found


_last: dict = {}  # the mask that was found last: a check while a slider moves asks for the same one again


def _maskKey(segmentationNode, segment: str, volumeNode):
    """What a segment's mask on a volume depends on; None where that can't be told."""
    segmentation = segmentationNode.GetSegmentation()
    item = segmentation.GetSegment(segment)
    image = item.GetRepresentation(BINARY) if item is not None else None
    if image is None:
        return None
    times = (segmentation.GetMTime(), item.GetMTime(), image.GetMTime())
    matrices = volumeMatrix(volumeNode).tobytes() + worldMatrix(segmentationNode).tobytes()
    return (segmentationNode.GetID(), segment, times, matrices, volumeArray(volumeNode).shape)


def _maskOf(segmentationNode, segment: str, volumeNode) -> Mask:
    image = labelmapOf(segmentationNode, segment)
    first, values = _voxels(image)
    inside = _box(values)
    if inside is None:
        raise InputError(_emptySegment(segmentationNode, segment))
    values = values[inside]
    first = first + [s.start for s in inside]
    toVolume = np.linalg.inv(volumeMatrix(volumeNode)) @ labelmapMatrix(image, segmentationNode)
    name = segmentationNode.GetSegmentation().GetSegment(segment).GetName()
    return _onGrid(values, first, toVolume, volumeArray(volumeNode).shape, name)


def setMask(segmentationNode, segment: str, mask: Mask, volumeNode) -> None:
    """Give a segment the voxels of a mask, on the volume's grid.

    :raises InputError: the segmentation's transform shears the volume's grid.
    """
    toSegmentation = np.linalg.inv(worldMatrix(segmentationNode)) @ volumeMatrix(volumeNode)
    lpsGeometry(toSegmentation, segmentationNode.GetName())  # refuses what a labelmap can't have
    setLabelmap(segmentationNode, segment, labelmap(mask, toSegmentation))


def labelmap(mask: Mask, matrix: np.ndarray):
    """Oriented image of a mask whose (i, j, k) indices the (4, 4) matrix takes to RAS."""
    image = slicer.vtkOrientedImageData()
    k, j, i = mask.box
    image.SetExtent(i.start, i.stop - 1, j.start, j.stop - 1, k.start, k.stop - 1)
    image.SetImageToWorldMatrix(toVTK(matrix))
    scalars = numpy_to_vtk(np.ascontiguousarray(mask.array, np.uint8).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def setLabelmap(segmentationNode, segment: str, image) -> None:
    """Replace the voxels of one segment by those of an oriented image; other segments stay as they are."""
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetSourceRepresentationName() != BINARY:
        segmentation.CreateRepresentation(BINARY)
        segmentation.SetSourceRepresentationName(BINARY)
    shown = segmentation.ContainsRepresentation(SURFACE)
    segmentation.SeparateSegmentLabelmap(segment)
    item = segmentation.GetSegment(segment)
    item.SetLabelValue(1)
    item.AddRepresentation(BINARY, image)
    if shown:
        slicer.vtkSlicerSegmentationsModuleLogic.ReconvertAllRepresentations(segmentationNode, [segment])
    segmentation.Modified()


def apply(volumeNode, box, values: np.ndarray) -> None:
    """Write values into a box of a volume; nothing else changes."""
    volumeArray(volumeNode)[box] = values
    slicer.util.arrayFromVolumeModified(volumeNode)


def _voxels(image) -> tuple[np.ndarray, np.ndarray]:
    """First (k, j, i) index, and bool array, of an oriented image."""
    extent = np.array(image.GetExtent()).reshape(3, 2)[::-1]
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(extent[:, 1] - extent[:, 0] + 1)
    return extent[:, 0], array != 0


def _box(array: np.ndarray):
    """Bounding box of a bool array as slices; None if it is empty."""
    box = []
    for axis in range(3):
        there = np.flatnonzero(array.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(there):
            return None
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def _onGrid(values: np.ndarray, first: np.ndarray, toVolume: np.ndarray, shape, name: str) -> Mask:
    """A bool array whose first voxel has (k, j, i) index `first`, taken to a volume's grid by an ijk → ijk matrix."""
    from TumorSynthLib.volume import MASK_OUTSIDE, SAME_GRID

    shift = np.rint(toVolume[:3, 3])
    stop = (first + values.shape)[::-1]
    corners = np.array(
        [
            [x, y, z, 1.0]
            for x in (first[2], stop[0])
            for y in (first[1], stop[1])
            for z in (first[0], stop[2])
        ]
    )
    off = np.abs(corners @ toVolume[:3].T - (corners[:, :3] + shift)).max()
    if off <= SAME_GRID:
        low, part = first + shift[::-1].astype(int), values
    else:
        low, part = _resampled(values, first, toVolume)
    low, part, lost = _clipped(low, part, shape)
    if lost > MASK_OUTSIDE:
        raise InputError(
            _(
                "{share:.0%} of the segment {name} lies outside the volume: check that both belong to the same scan"
            ).format(share=lost, name=name)
        )
    if not part.any():
        raise InputError(
            _("the segment {name} is too small for the volume's grid: no voxel lies in it").format(name=name)
        )
    return _tight(low, part)


def _resampled(values: np.ndarray, first: np.ndarray, toVolume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbour on the volume's grid: first (k, j, i) index and bool array of the box that holds all."""
    from scipy import ndimage

    values, first = np.pad(values, 1), first - 1  # scipy takes half a voxel beyond the border for outside
    size = np.array(values.shape)[::-1]
    ends = np.array(
        [
            [x, y, z]
            for x in (-0.5, size[0] - 0.5)
            for y in (-0.5, size[1] - 0.5)
            for z in (-0.5, size[2] - 0.5)
        ]
    )
    reach = (ends + first[::-1]) @ toVolume[:3, :3].T + toVolume[:3, 3]
    low, high = np.floor(reach.min(axis=0)).astype(int), np.ceil(reach.max(axis=0)).astype(int) + 1
    back = np.linalg.inv(toVolume)[::-1, ::-1]  # in (k, j, i) order; its first row and column belong to the 1
    matrix, offset = back[1:, 1:], back[1:, 0]
    shape = tuple((high - low)[::-1])
    offset = matrix @ low[::-1] + offset - first
    part = ndimage.affine_transform(
        values.astype(np.uint8), matrix, offset, shape, order=0, mode="constant", cval=0, prefilter=False
    )
    return low[::-1], part.astype(bool)


def _clipped(low: np.ndarray, part: np.ndarray, shape) -> tuple[np.ndarray, np.ndarray, float]:
    """What of an array lies on the grid, its first index, and the share that doesn't."""
    start = np.clip(low, 0, shape)
    stop = np.clip(low + part.shape, 0, shape)
    inside = part[tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low))]
    total = np.count_nonzero(part)
    return start, inside, 1.0 - np.count_nonzero(inside) / total if total else 0.0


def _tight(low: np.ndarray, part: np.ndarray) -> Mask:
    box = _box(part)
    placed = tuple(slice(int(s.start + o), int(s.stop + o)) for s, o in zip(box, low))
    return Mask(placed, np.ascontiguousarray(part[box]))


def _emptySegment(segmentationNode, segment: str) -> str:
    found = segmentationNode.GetSegmentation().GetSegment(segment)
    name = found.GetName() if found else segment
    return _("the segment {name} is empty: draw the tumour first").format(name=name)

"""Where results go and what they are called: beside the input in the subject hierarchy, with names made of the input's."""

from __future__ import annotations

import threading

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

INSTANCE_UIDS = "DICOM.instanceUIDs"  # attribute by which Slicer says from which files a volume was read
KEPT_UIDS = "TumorSynth.sourceInstanceUIDs"  # the same while the volume isn't what those files hold


def editName(edit: str) -> str:
    """What an edit is called."""
    names = {
        "measure": _("Measure"), "remove": _("Remove"), "synthesize": _("Synthesize"), "retexture": _("Texture"),
        "reshape": _("Shape"), "move": _("Move"), "insert": _("Insert"), "series": _("Series"),
    }  # fmt: skip
    return names.get(edit, edit)


def resultName(name: str, edit: str) -> str:
    """Name of a new volume with the result of an edit."""
    patterns = {
        "remove": _("{name} tumour removed"), "synthesize": _("{name} tumour synthesized"),
        "retexture": _("{name} tumour retextured"), "reshape": _("{name} tumour reshaped"),
        "move": _("{name} tumour moved"), "insert": _("{name} tumour inserted"), "before": _("{name} before"),
        "repeat": _("{name} repeated"), "keep": _("{name} edited"), "series": _("{name} series"),
        "masks": _("{name} series tumour"), "table": _("{name} features"), "chart": _("{name} feature plot"),
        "synthetic": _("{name} (synthetic)"), "removed": _("{name} (removed)"),
    }  # fmt: skip
    return patterns[edit].format(name=name)


def placeBeside(node, original) -> None:
    """Put a new node into the subject hierarchy's folder of the one it was made of."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None or original is None:
        return
    beside, item = hierarchy.GetItemByDataNode(original), hierarchy.GetItemByDataNode(node)
    if not beside:  # the application makes an item for each node, other programs don't
        return
    parent = hierarchy.GetItemParent(beside)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


class Copying:
    """A copy of a volume's voxels, made by a thread so that the application goes on meanwhile.

    :param earlier: an earlier copy, which is taken again if it holds the same voxels, or None.
    """

    def __init__(self, volumeNode, earlier=None):
        source = volumeNode.GetImageData()
        self._node, self._state = volumeNode, source.GetMTime()
        self._earlier, self._same = earlier, False
        self._earlierState = earlier.GetImageData().GetMTime() if earlier is not None else None
        self._image = vtk.vtkImageData()
        self._image.SetDimensions(source.GetDimensions())
        scalars = source.GetPointData().GetScalars()
        self._image.AllocateScalars(scalars.GetDataType(), scalars.GetNumberOfComponents())
        images = [self._image, source] + ([earlier.GetImageData()] if earlier is not None else [])
        views = [vtk_to_numpy(image.GetPointData().GetScalars()) for image in images]
        self._thread = threading.Thread(target=lambda: self._copy(*views), daemon=True)
        self._thread.start()

    def _copy(self, target, source, earlier=None) -> None:
        self._same = earlier is not None and np.array_equal(source, earlier)
        if not self._same:
            np.copyto(target, source)

    def earlier(self):
        """The earlier copy, if it is there still and holds the same voxels; else None."""
        self._thread.join()
        if not self._same or self._earlier.GetScene() is None or self._changed():
            return None
        return self._earlier if self._earlier.GetImageData().GetMTime() == self._earlierState else None

    def _changed(self) -> bool:
        return self._node.GetImageData().GetMTime() != self._state

    def image(self):
        """The copy as it is now; voxels that changed since it was begun are copied again."""
        self._thread.join()
        if self._same or self._changed():
            self._image = vtk.vtkImageData()
            self._image.DeepCopy(self._node.GetImageData())
        return self._image


def cloneVolume(volumeNode, name: str, image=None):
    """A copy of a volume with its display and transform, beside it, but without what identifies the patient's own series.

    :param image: its voxels, a `vtkImageData` that nobody else uses; None copies those of the volume.
    """
    taken, count = name, 1
    while slicer.mrmlScene.GetFirstNodeByName(name) is not None:
        count += 1
        name = f"{taken} {count}"
    if image is None:
        image = vtk.vtkImageData()
        image.DeepCopy(volumeNode.GetImageData())
    logic = slicer.modules.volumes.logic()
    clone = logic.CloneVolumeWithoutImageData(slicer.mrmlScene, volumeNode, name)
    if clone.GetDisplayNode() is not None:  # the contrast that the original has
        clone.GetDisplayNode().SetAutoWindowLevel(False)
    clone.SetAndObserveImageData(image)
    for attribute in (INSTANCE_UIDS, KEPT_UIDS):
        clone.RemoveAttribute(attribute)
    transform = volumeNode.GetParentTransformNode()
    clone.SetAndObserveTransformNodeID(transform.GetID() if transform else None)
    placeBeside(clone, volumeNode)
    return clone


def imageOf(array: np.ndarray):
    """`vtkImageData` with the voxels of a (K, J, I) array; without spacing and origin, which are the node's."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.AllocateScalars(get_vtk_array_type(array.dtype), 1)
    np.copyto(vtk_to_numpy(image.GetPointData().GetScalars()), array.ravel())
    return image

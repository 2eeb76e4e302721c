"""Where results go and what they are called: beside the input in the subject hierarchy, with names made of the input's."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _


def editName(edit: str) -> str:
    """What an edit is called."""
    names = {
        "measure": _("Measure"), "remove": _("Remove"), "synthesize": _("Synthesize"), "retexture": _("Retexture"),
        "reshape": _("Reshape"), "move": _("Move"), "insert": _("Insert"), "series": _("Series"),
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


def cloneVolume(volumeNode, name: str):
    """A copy of a volume with its display and transform, beside it."""
    if slicer.mrmlScene.GetFirstNodeByName(name) is not None:
        name = slicer.mrmlScene.GenerateUniqueName(name)
    clone = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, volumeNode, name)
    transform = volumeNode.GetParentTransformNode()
    clone.SetAndObserveTransformNodeID(transform.GetID() if transform else None)
    placeBeside(clone, volumeNode)
    return clone

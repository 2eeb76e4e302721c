"""What the slice views show: layers that are borrowed for a comparison and given back, and a series in the views."""

import slicer

#: Properties of a slice view's composite node that a comparison changes, or that the user may have set.
LAYERS = (
    "ForegroundVolumeID",
    "ForegroundOpacity",
    "LabelVolumeID",
    "LabelOpacity",
    "LinkedControl",
    "HotLinkedControl",
    "Compositing",
)


class Comparison:
    """A volume laid over what the slice views show; `end` brings back exactly the layers that were there."""

    def __init__(self):
        self._kept = {}

    def show(self, volumeNode, opacity: float) -> None:
        """Lay a volume over the background.

        :param opacity: 0…1.
        """
        for composite in _composites():
            if composite.GetID() not in self._kept:
                self._kept[composite.GetID()] = {name: _get(composite, name) for name in LAYERS}
            with slicer.util.NodeModify(composite):
                composite.SetCompositing(composite.Alpha)
                composite.SetForegroundVolumeID(volumeNode.GetID())
                composite.SetForegroundOpacity(opacity)

    def end(self) -> None:
        """Give the layers back; those whose volume is gone stay empty."""
        for nodeID, layers in self._kept.items():
            composite = slicer.mrmlScene.GetNodeByID(nodeID)
            if composite is None:
                continue
            with slicer.util.NodeModify(composite):
                for name, value in layers.items():
                    if name.endswith("VolumeID") and slicer.mrmlScene.GetNodeByID(value or "") is None:
                        value = None
                    getattr(composite, "Set" + name)(value)
        self._kept = {}

    def forget(self) -> None:
        """The scene is closed: there is nothing to give back."""
        self._kept = {}


def _composites() -> list:
    return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))


def _get(composite, name: str):
    return getattr(composite, "Get" + name)()


def showSeries(sequenceNode) -> None:
    """Put a sequence of volumes into the slice views and its browser into the tool bar for sequences.

    The tool bar takes a browser only when it is told to, and a browser's proxy volume isn't shown by itself.
    """
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(sequenceNode)
    if browser is None:
        return
    slicer.modules.sequences.setToolBarActiveBrowserNode(browser)
    slicer.modules.sequences.setToolBarVisible(True)
    proxy = browser.GetProxyNode(sequenceNode)
    if proxy is not None:
        slicer.util.setSliceViewerLayers(background=proxy)

"""Small helpers that all sections of the panel share."""

import contextlib

import qt
import slicer


def setAvailable(button, tip: str, reason: str = "") -> None:
    """Enable a button, or disable it with a tooltip that says why."""
    button.enabled = not reason
    button.toolTip = reason or tip


def setMessage(label, text: str) -> None:
    """Show a text, or take no room without one."""
    label.text = text
    label.setVisible(bool(text))


@contextlib.contextmanager
def waiting():
    """The wait cursor, for what blocks the application for a while."""
    slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        yield
    finally:
        slicer.app.restoreOverrideCursor()


def segmentExists(segmentationNode, segmentID: str) -> bool:
    """True for a segment that is there."""
    if segmentationNode is None or not segmentID:
        return False
    return segmentationNode.GetSegmentation().GetSegment(segmentID) is not None


def sameChain(one, other) -> bool:
    """Whether two volumes are the same, or one is the copy of the other that edits go into."""
    return one is other or any(
        a is not None and b is not None and a.GetNodeReference("TumorSynth.original") is b
        for a, b in ((one, other), (other, one))
    )


def segmentRemoved(segmentationNode, segmentID: str) -> bool:
    """True for a segment whose tumour was removed; the logic marks it so."""
    if not segmentExists(segmentationNode, segmentID):
        return False
    return segmentationNode.GetSegmentation().GetSegment(segmentID).HasTag("TumorSynth.removed")


def fitColumns(tree, first: int = 0) -> None:
    """One column of a tree takes what the others leave, so that nothing is cut off when the panel is narrow."""
    header = tree.header()
    header.setStretchLastSection(False)
    header.setMinimumSectionSize(24)
    for column in range(tree.columnCount):
        stretch = column == first
        header.setSectionResizeMode(
            column, qt.QHeaderView.Stretch if stretch else qt.QHeaderView.ResizeToContents
        )


def fitHeight(tree, least: int = 2, most: int = 9) -> None:
    """Give a tree the height of its rows, within limits."""
    rows = min(most, max(least, tree.topLevelItemCount))
    line = tree.sizeHintForRow(0) if tree.topLevelItemCount else 0
    line = line if line > 0 else tree.fontMetrics().height() + 2
    tree.setFixedHeight(tree.header().sizeHint.height() + rows * line + 2 * tree.frameWidth)


def matches(words: str, *texts) -> bool:
    """True where each word of a search occurs in one of the texts."""
    whole = " ".join(texts).lower()
    return all(word in whole for word in words.lower().split())


class SegmentLink:
    """Links a segment selector to two parameters, which Slicer's wrapper doesn't do for this widget.

    :param owner: has `parameters` (or None), and `parametersChanged()`.
    """

    def __init__(self, selector, owner, nodeName: str, segmentName: str):
        self._selector, self._owner = selector, owner
        self._nodeName, self._segmentName, self._updating = nodeName, segmentName, False
        selector.connect("currentNodeChanged(vtkMRMLNode*)", self._onNode)
        selector.connect("currentSegmentChanged(QString)", self._onChanged)

    def update(self) -> None:
        """Show the parameters."""
        parameters = self._owner.parameters
        if parameters is None or self._updating:
            return
        self._updating = True
        try:
            node, segmentID = getattr(parameters, self._nodeName), getattr(parameters, self._segmentName)
            if node is not self._selector.currentNode():
                self._selector.setCurrentNode(node)
            if segmentExists(node, segmentID):
                self._selector.setCurrentSegmentID(segmentID)
        finally:
            self._updating = False
        if not segmentExists(node, segmentID):
            self._onChanged()  # the widget chose the first segment, or there is none any more

    def _onNode(self, node) -> None:
        """A segmentation was chosen: take its first segment, where the widget stays on None."""
        ids = node.GetSegmentation().GetSegmentIDs() if node is not None and not self._updating else ()
        if ids and self._selector.currentSegmentID() not in ids:
            self._selector.setCurrentSegmentID(ids[0])
        self._onChanged()

    def _onChanged(self, *unused) -> None:
        parameters = self._owner.parameters
        if parameters is None or self._updating:
            return
        node, segmentID = self._selector.currentNode(), self._selector.currentSegmentID()
        segmentID = (
            segmentID if segmentExists(node, segmentID) else ""
        )  # the widget keeps the last one without a node
        if (node, segmentID) == (getattr(parameters, self._nodeName), getattr(parameters, self._segmentName)):
            return
        with slicer.util.NodeModify(parameters.parameterNode):
            setattr(parameters, self._nodeName, node)
            setattr(parameters, self._segmentName, segmentID)


class SegmentChoice:
    """A list of all segments of the scene but the tumour, linked to two parameters; the first entry stands for none.

    One list, because `qMRMLSegmentSelectorWidget` takes two and a line that no node is selected.

    :param owner: has `parameters` (or None). :param name: of the parameters: nameSegmentation and nameSegmentID.
    :param none: text of the entry for none.
    """

    def __init__(self, selector, owner, name: str, none: str):
        self._selector, self._owner, self._none = selector, owner, none
        self._shown: list | None = None
        self._names = (f"{name}Segmentation", f"{name}SegmentID")
        selector.connect("activated(int)", self._onChosen)

    def chosen(self) -> tuple:
        """(segmentation node, segment ID); empty for none, and for the tumour itself."""
        p = self._owner.parameters
        found = tuple(getattr(p, name) for name in self._names) if p is not None else (None, "")
        return found if segmentExists(*found) and found != (p.segmentation, p.segmentID) else ()

    def update(self) -> None:
        """Show the segments that are there, and the parameters."""
        entries = [(self._none, "", "")] + self._entries()
        if entries != self._shown:
            self._shown = entries
            self._selector.clear()
            for text, _nodeID, _segmentID in entries:
                self._selector.addItem(text)
        chosen = self.chosen()
        wanted = (chosen[0].GetID(), chosen[1]) if chosen else ("", "")
        there = [entry[1:] for entry in entries]
        self._selector.setCurrentIndex(there.index(wanted) if wanted in there else 0)

    def _entries(self) -> list:
        """(text, segmentation's ID, segment's ID) of each segment; with the segmentation's name where there are several."""
        p, found = self._owner.parameters, []
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        for node in nodes:
            for segmentID in node.GetSegmentation().GetSegmentIDs():
                if p is not None and node is p.segmentation and segmentID == p.segmentID:
                    continue
                name = node.GetSegmentation().GetSegment(segmentID).GetName()
                text = f"{name} ({node.GetName()})" if len(nodes) > 1 else name
                found.append((text, node.GetID(), segmentID))
        return found

    def _onChosen(self, index: int) -> None:
        p = self._owner.parameters
        if p is None:
            return
        _text, nodeID, segmentID = self._shown[index]
        with slicer.util.NodeModify(p.parameterNode):
            setattr(p, self._names[0], slicer.mrmlScene.GetNodeByID(nodeID) if nodeID else None)
            setattr(p, self._names[1], segmentID)


class Dialogs:
    """The few windows that the panel opens; tests put others in their place."""

    def chooseFolder(self, title: str) -> str:
        return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)

    def chooseFile(self, title: str, filters: str) -> str:
        chosen = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", filters)
        return chosen[0] if isinstance(chosen, tuple) else chosen

    def saveFile(self, title: str, name: str, filters: str) -> str:
        chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, filters)
        return chosen[0] if isinstance(chosen, tuple) else chosen

    def confirm(self, text: str) -> bool:
        return slicer.util.confirmOkCancelDisplay(text)

    def openFile(self, path: str) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

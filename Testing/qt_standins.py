"""Stand-ins for the widgets of CTK and Slicer that the module's panel uses.

Each has exactly properties, slots and signals of the real class, and those of its methods that Python can call (or fewer):
test_qt_runtime.py holds them against qt_widgets.json, which was taken from the headers of CTK and Slicer. They behave as the
real ones do where the panel depends on it, in particular: `qMRMLNodeComboBox` doesn't select a node on its own when one is
added. `qMRMLSegmentSelectorWidget` follows Libs/MRML/Widgets/qMRMLSegmentSelectorWidget.cxx of Slicer 5.12: with `noneEnabled`
it stays on "None" when a segmentation is chosen, without it it selects the first segment, and it keeps its last segment ID
without a node.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import vtk
from PySide6 import QtCore, QtUiTools, QtWidgets

Signal, Property = QtCore.Signal, QtCore.Property
NONE = "None"  # text and data of the item that a segment selector offers for no segment


def _stored(kind, name: str, default):
    """A property that is kept and has no effect of its own."""
    attribute = "_" + name

    def read(self):
        return getattr(self, attribute, default)

    def write(self, value):
        setattr(self, attribute, value)

    return Property(kind, read, write)


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A section: a header that is a button, and below it what its layout holds, hidden while collapsed."""

    contentsCollapsed = Signal(bool)
    flat = _stored(bool, "flat", False)
    collapsedHeight = _stored(int, "collapsedHeight", 10)
    contentsLineWidth = _stored(int, "contentsLineWidth", 1)

    def __init__(self, *arguments):
        super().__init__(*[a for a in arguments if not isinstance(a, str)])
        self.setText(next((a for a in arguments if isinstance(a, str)), ""))
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._header(), 0, 0)
        self._limit = self.maximumHeight
        self.toggled.connect(self._fold)

    def _header(self) -> int:
        return self.fontMetrics().height() + 8

    def _fold(self, opened: bool) -> None:
        if opened:
            self.setMaximumHeight(self._limit)
        else:
            self._limit = self.maximumHeight
            self.setMaximumHeight(self._header())
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                self._show(child)
        self.updateGeometry()
        self.contentsCollapsed.emit(not opened)

    def _show(self, child) -> None:
        """Show or hide a child without forgetting whether it was hidden on its own account."""
        if self.isChecked():
            child.setVisible(not QtCore.QObject.property(child, "_hidden"))
            return
        QtCore.QObject.setProperty(child, "_hidden", child.isHidden())
        child.setVisible(False)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, c: self.setChecked(not c))

    def hitButton(self, position) -> bool:
        return position.y() <= self._header()

    def sizeHint(self):
        inner = self.layout().totalSizeHint() if self.layout() and self.isChecked() else QtCore.QSize(0, 0)
        text = self.fontMetrics().horizontalAdvance(self.text) + 40
        return QtCore.QSize(max(text, inner.width()), max(self._header(), inner.height()))

    def minimumSizeHint(self):
        inner = self.layout().totalMinimumSize() if self.layout() and self.isChecked() else QtCore.QSize(0, 0)
        return QtCore.QSize(inner.width(), max(self._header(), inner.height()))

    def paintEvent(self, event) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._header())
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(8, (self._header() - 10) // 2, 10, 10)
        down = QtWidgets.QStyle.PE_IndicatorArrowDown
        painter.drawPrimitive(down if self.isChecked() else QtWidgets.QStyle.PE_IndicatorArrowRight, arrow)
        where = option.rect.adjusted(26, 0, -4, 0)
        self.style().drawItemText(painter, where, 0x0081, option.palette, True, self.text)


class ctkSearchBox(QtWidgets.QLineEdit):
    """A line edit with a magnifying glass and a button that clears it."""

    showSearchIcon = _stored(bool, "showSearchIcon", False)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setClearButtonEnabled(True)


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene."""

    mrmlSceneChanged = Signal(object)
    SIGNATURES = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}
    _scene = None

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """The nodes of the scene that have certain classes and attributes; shows none until one is chosen."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAddedByUser = Signal(object)
    SIGNATURES = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    }
    addEnabled = _stored(bool, "addEnabled", True)
    removeEnabled = _stored(bool, "removeEnabled", True)
    renameEnabled = _stored(bool, "renameEnabled", False)
    editEnabled = _stored(bool, "editEnabled", False)
    showHidden = _stored(bool, "showHidden", False)
    showChildNodeTypes = _stored(bool, "showChildNodeTypes", True)
    selectNodeUponCreation = _stored(bool, "selectNodeUponCreation", True)
    noneDisplay = _stored(str, "noneDisplay", "None")
    baseName = _stored(str, "baseName", "")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._observed, self._node = None, [], None
        self._types, self._attributes, self._none = [], [], False
        self._combo = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._combo.activated.connect(lambda i: self.setCurrentNodeID(self._combo.itemData(i) or ""))

    def _set_types(self, kinds) -> None:
        self._types = list(kinds)
        self._update()

    def _set_none(self, enabled) -> None:
        self._none = bool(enabled)
        self._update()

    nodeTypes = Property("QStringList", lambda self: list(self._types), _set_types)
    noneEnabled = Property(bool, lambda self: self._none, _set_none)

    def addAttribute(self, kind, name, value=None) -> None:
        self._attributes.append((kind, name, value))
        self._update()

    def setMRMLScene(self, scene) -> None:
        for tag in self._observed:
            self._scene.RemoveObserver(tag)
        self._scene, self._observed = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
            self._observed = [scene.AddObserver(event, self._update) for event in events]
        self._update()

    def mrmlScene(self):
        return self._scene

    def _accepts(self, node) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if not any(node.IsA(kind) for kind in self._types):
            return False
        wanted = [(name, value) for kind, name, value in self._attributes if node.IsA(kind)]
        return all(
            node.GetAttribute(n) is not None and (v is None or node.GetAttribute(n) == str(v))
            for n, v in wanted
        )

    def _nodes(self) -> list:
        if self._scene is None:
            return []
        everything = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
        return [node for node in everything if self._accepts(node)]

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index):
        return self._nodes()[index]

    def _update(self, *unused) -> None:
        nodes = self._nodes()
        self._combo.blockSignals(True)
        self._combo.clear()
        if self._none:
            self._combo.addItem(self.noneDisplay, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        self._combo.blockSignals(False)
        if self._node is not None and self._node not in nodes:
            self._choose(None)
        self._show()

    def _show(self) -> None:
        self._combo.setCurrentIndex(self._combo.findData(self._node.GetID() if self._node else ""))

    def _choose(self, node) -> None:
        if node is self._node:
            return
        self._node = node
        self._show()
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node else "")

    def setCurrentNode(self, node) -> None:
        self._choose(node if node is not None and node in self._nodes() else None)

    def currentNode(self):
        return self._node

    def setCurrentNodeID(self, node_id) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene and node_id else None)

    currentNodeID = Property(str, lambda self: self._node.GetID() if self._node else "", setCurrentNodeID)

    def addNode(self, kind=None):
        node = self._scene.AddNewNodeByClass(kind or self._types[0], self.baseName)
        if self.selectNodeUponCreation:
            self._choose(node)
        self.nodeAddedByUser.emit(node)
        return node


class qMRMLSegmentSelectorWidget(qMRMLWidget):
    """A segmentation, and one of its segments below it or beside it."""

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)
    SIGNATURES = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentSegmentChanged(QString)": "currentSegmentChanged",
        "mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged",
    }
    selectNodeUponCreation = _stored(bool, "selectNodeUponCreation", True)
    editEnabled = _stored(bool, "editEnabled", False)
    horizontalLayout = _stored(bool, "horizontalLayout", False)
    segmentationNodeSelectorVisible = _stored(bool, "segmentationNodeSelectorVisible", True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._observed, self._segmentation, self._segment = [], None, ""
        self._nodes, self._combo, self._message = (
            qMRMLNodeComboBox(),
            QtWidgets.QComboBox(),
            QtWidgets.QLabel(),
        )
        self._nodes.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._nodes.addEnabled = self._nodes.removeEnabled = False
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self._nodes, self._combo, self._message):
            layout.addWidget(part)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._nodes.currentNodeChanged.connect(self._on_node)
        self._combo.currentIndexChanged.connect(self._on_segment)
        self._populate()

    def _set_none(self, enabled) -> None:
        self._nodes.noneEnabled = enabled
        self._populate()

    noneEnabled = Property(bool, lambda self: self._nodes.noneEnabled, _set_none)

    def setMRMLScene(self, scene) -> None:
        self._nodes.setMRMLScene(scene)
        qMRMLWidget.setMRMLScene(self, scene)

    def _on_node(self, node) -> None:
        for tag in self._observed:
            self._segmentation.GetSegmentation().RemoveObserver(tag)
        self._observed, self._segmentation = [], node
        if node is not None:
            segmentation = node.GetSegmentation()
            events = (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified)
            self._observed = [segmentation.AddObserver(event, self._populate) for event in events]
        self._populate()
        self.currentNodeChanged.emit(node)

    def _populate(self, *unused) -> None:
        """As qMRMLSegmentSelectorWidget::populateSegmentCombobox, which keeps "None" where nothing was chosen before."""
        ids = vtk.vtkStringArray()
        if self._segmentation is not None:
            self._segmentation.GetSegmentation().GetSegmentIDs(ids)
        ids = [ids.GetValue(i) for i in range(ids.GetNumberOfValues())]
        self._combo.setVisible(bool(ids))
        self._message.setVisible(not ids)
        self._message.setText("No segments in segmentation" if self._segmentation else "No node is selected")
        self._combo.blockSignals(True)
        self._combo.clear()
        if ids and self.noneEnabled:
            self._combo.addItem(NONE, NONE)
        for segment in ids:
            self._combo.addItem(self._segmentation.GetSegmentation().GetSegment(segment).GetName(), segment)
        kept = self._segment in ids or (self.noneEnabled and not self._segment)
        if ids and kept:
            self.setCurrentSegmentID(self._segment)
        elif ids:
            self._combo.setCurrentIndex(-1)
        self._combo.blockSignals(False)
        if ids and not kept:
            self._combo.setCurrentIndex(1 if self.noneEnabled else 0)

    def _on_segment(self, index: int) -> None:
        if self._segmentation is not None:
            chosen = self._combo.itemData(index) or ""
            self._segment = "" if chosen == NONE else chosen
            self.currentSegmentChanged.emit(self._segment)

    def currentNode(self):
        return self._nodes.currentNode()

    def currentNodeID(self) -> str:
        return self._nodes.currentNodeID

    def setCurrentNode(self, node) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id) -> None:
        self._nodes.setCurrentNodeID(node_id)

    def currentSegmentID(self) -> str:
        return self._segment

    def setCurrentSegmentID(self, segment_id: str) -> None:
        if not segment_id and self.noneEnabled:
            self._combo.setCurrentIndex(0)
            return
        index = self._combo.findData(segment_id)
        if self._segmentation is not None and index >= 0:
            self._combo.setCurrentIndex(index)

    def segmentIDs(self) -> list[str]:
        data = [self._combo.itemData(i) for i in range(self._combo.count)]
        return [segment for segment in data if segment != NONE]


class _Bare(QtWidgets.QWidget):
    """A widget that the module doesn't use, but that Slicer's own Python files name."""


def _bare(name: str):
    return type(name, (_Bare,), {"__module__": __name__})


USED = (ctkCollapsibleButton, ctkSearchBox, qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentSelectorWidget)
NAMED = (
    "ctkCheckBox ctkComboBox ctkCheckablePushButton ctkSliderWidget ctkDoubleSlider ctkDoubleSpinBox ctkRangeWidget "
    "ctkDoubleRangeSlider ctkPathLineEdit ctkDirectoryButton ctkColorPickerButton qMRMLSliderWidget qMRMLSpinBox "
    "qMRMLRangeWidget"
).split()
CLASSES = {cls.__name__: cls for cls in USED} | {name: _bare(name) for name in NAMED}


class QUiLoader(QtUiTools.QUiLoader):
    """Loads .ui files with the stand-ins; links that carry a vtkMRMLScene are made in Python."""

    def createWidget(self, kind, parent=None, name=""):
        made = {cls.__name__: cls for cls in USED}
        if kind not in made:
            if kind not in self.availableWidgets():
                raise RuntimeError(f"the .ui file wants a {kind}, for which there is no stand-in")
            return super().createWidget(kind, parent, name)
        widget = made[kind](parent)
        widget.setObjectName(name)
        self._made.append(widget)
        return widget

    def load(self, device, parent=None):
        self._made = []
        root = ET.fromstring(bytes(device.readAll()))
        links = _take_links(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        widget._kept = self._made  # PySide6 would drop Python parts of widgets that only C++ refers to
        for sender, signal, receiver, slot in links:
            source, target = _named(widget, sender), _named(widget, receiver)
            source.connect(signal, getattr(target, slot.split("(")[0]))
        return widget


def _take_links(root) -> list[tuple[str, str, str, str]]:
    """Remove the connections of a .ui file and return them as (sender, signal, receiver, slot)."""
    connections = root.find("connections")
    if connections is None:
        return []
    root.remove(connections)
    return [
        tuple(link.find(part).text for part in ("sender", "signal", "receiver", "slot"))
        for link in connections
    ]


def _named(widget, name: str):
    found = widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)
    if found is None:
        raise RuntimeError(f"the .ui file links {name!r}, which it doesn't have")
    return found

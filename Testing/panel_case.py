"""What tests of the panel share: the runtime, a scene with a tumour, and the panel on a double of the logic."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("slicer_core")

import qt_runtime
import slicer_runtime

UI = slicer_runtime.MODULE_FOLDER / "Resources" / "UI" / "TumorSynthRadiomics.ui"
freshScene = slicer_runtime.freshScene
if str(slicer_runtime.MODULE_FOLDER) not in sys.path:
    sys.path.insert(0, str(slicer_runtime.MODULE_FOLDER))


def start() -> None:
    """Slicer's runtime with Qt; a second call changes nothing."""
    app = slicer_runtime.start()
    qt_runtime.install(app.temporaryPath)
    if slicer_runtime.source() is None:
        import parameter_node_double

        if "slicer.parameterNodeWrapper" not in sys.modules:
            parameter_node_double.install()


def addTumour(name: str = "lung1"):
    """(volume, segmentation, segmentID) of a small cube in an empty volume."""
    import numpy as np
    import slicer

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, np.zeros((10, 12, 14), np.int16))
    volume.CreateDefaultDisplayNodes()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name + " segmentation")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentID = segmentation.GetSegmentation().AddEmptySegment("tumour", "Tumour")
    mask = np.zeros((10, 12, 14), np.uint8)
    mask[3:7, 3:8, 4:9] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segmentID, volume)
    return volume, segmentation, segmentID


def wait(until=None, seconds: float = 120.0) -> None:
    """Let timers fire until a condition holds, by default until none is running any more."""
    import qt

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        qt.QApplication.processEvents()
        if until is not None and until():
            return
        time.sleep(0.002)
    if until is not None:
        raise AssertionError("it didn't happen in time")


class Dialogs:
    """Answers in place of the user."""

    def __init__(self):
        self.agree, self.folder, self.file, self.asked, self.opened = True, "", "", [], []

    def chooseFolder(self, title):
        return self.folder

    def chooseFile(self, title, filters):
        return self.file

    def saveFile(self, title, name, filters):
        self.suggested = name
        return self.file

    def confirm(self, text):
        self.asked.append(text)
        return self.agree

    def openFile(self, path):
        self.opened.append(path)


class Case:
    """The panel, as the module's widget class makes it, and a user's hands."""

    def __init__(self, logic=None):
        import slicer
        from panel_double import FakeLogic
        from TumorSynthSlicer.panel import Panel

        self.logic, self.dialogs = logic or FakeLogic(), Dialogs()
        self.root = slicer.util.loadUI(str(UI))
        self.root.setMRMLScene(slicer.mrmlScene)
        self.panel = Panel(self.root, self.logic, self.dialogs)
        self.ui = self.panel.ui

    def settle(self) -> None:
        """Let the panel's timers fire."""
        wait(lambda: not any(timer.active for timer in self.panel._timers))

    def choose(self, volume, segmentation) -> None:
        self.ui.inputVolumeSelector.setCurrentNode(volume)
        self.ui.segmentSelector.setCurrentNode(segmentation)
        self.settle()

    def task(self, button: str) -> None:
        getattr(self.ui, button).click()
        self.settle()

    def widget(self, name: str):
        import qt

        found = self.root.findChild(qt.QWidget, name)
        assert found is not None, name
        return found

    def close(self) -> None:
        self.panel.cleanup()
        for name in (
            "inputVolumeSelector",
            "segmentSelector",
            "pointSelector",
        ):
            getattr(self.ui, name).setMRMLScene(None)
        for name in ("donorVolumeSelector", "donorSegmentSelector"):
            getattr(self.ui, name).setMRMLScene(None)
        self.root.deleteLater()


@contextlib.contextmanager
def noErrors():
    """Errors in slots and observers, which Qt and VTK print only, fail the test."""
    found, keep = [], sys.excepthook
    sys.excepthook = lambda kind, error, trace: found.append(
        "".join(traceback.format_exception(kind, error, trace))
    )
    try:
        yield
    finally:
        sys.excepthook = keep
    assert not found, "\n".join(found)


@contextlib.contextmanager
def opened(logic=None, enter: bool = True):
    """A `Case` in a fresh scene."""
    start()
    with noErrors(), freshScene():
        case = Case(logic)
        if enter:
            case.panel.enter()
        try:
            yield case
        finally:
            case.close()


@contextlib.contextmanager
def measured(logic=None):
    """A `Case` with a tumour that is chosen and measured."""
    with opened(logic) as case:
        case.volume, case.segmentation, case.segmentID = addTumour()
        case.choose(case.volume, case.segmentation)
        yield case

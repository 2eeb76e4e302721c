"""The runtime that the panel's tests stand on: PythonQt's manners, and stand-ins that can do no more than the real widgets."""

import json
from pathlib import Path

import panel_case  # first: it starts Qt
import pytest
import qt_standins
from PySide6 import QtCore

REAL = json.loads((Path(__file__).parent / "qt_widgets.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _started():
    panel_case.start()


def own_meta(cls):
    meta = cls.staticMetaObject
    return (
        [meta.property(i).name() for i in range(meta.propertyOffset(), meta.propertyCount())],
        [meta.method(i) for i in range(meta.methodOffset(), meta.methodCount())],
    )


def inherited(name, part):
    """What a real class has, its bases among the stand-ins included."""
    found = list(REAL[name][part])
    return found + (inherited(REAL[name]["base"], part) if REAL[name]["base"] in REAL else [])


@pytest.mark.parametrize("cls", qt_standins.USED, ids=lambda c: c.__name__)
def test_a_stand_in_has_nothing_that_the_real_widget_lacks(cls):
    name = cls.__name__
    properties, methods = own_meta(cls)
    assert set(properties) <= set(REAL[name]["properties"])
    signals = {signal.split("(")[0] for signal in inherited(name, "signals")}
    assert {
        bytes(m.name()).decode() for m in methods if m.methodType() == QtCore.QMetaMethod.Signal
    } <= signals
    assert set(getattr(cls, "SIGNATURES", {})) <= set(inherited(name, "signals"))
    callable_names = set(inherited(name, "slots")) | set(inherited(name, "invokable"))
    base = next(c for c in cls.__mro__ if c.__module__.startswith("PySide6"))
    for public in (
        n for n in vars(cls) if not n.startswith("_") and n not in ("SIGNATURES", "staticMetaObject")
    ):
        known = callable_names | set(properties) | signals
        assert public in known or hasattr(base, public), f"{name} has no {public}"


@pytest.mark.parametrize("cls", qt_standins.USED, ids=lambda c: c.__name__)
def test_a_stand_in_derives_from_what_the_real_widget_derives_from(cls):
    assert REAL[cls.__name__]["base"] in [c.__name__ for c in cls.__mro__]


def test_a_property_is_an_attribute_and_no_method():
    import qt

    button = qt.QPushButton("Go")
    button.text = "Stop"
    assert button.text == "Stop" and button.enabled is True
    with pytest.raises(TypeError):
        button.text()


def test_what_a_widget_does_not_have_can_not_be_used():
    import ctk
    import qt

    for widget in (qt.QPushButton(), ctk.ctkCollapsibleButton()):
        with pytest.raises(AttributeError):
            widget.tooltip = "written wrongly"
        with pytest.raises(ValueError):
            widget.connect("clicking()", print)
        with pytest.raises(ValueError):
            widget.connect("clicked(int)", print)


def test_signals_are_connected_by_name():
    import qt

    box, seen = qt.QSpinBox(), []
    box.connect("valueChanged(int)", seen.append)
    box.value = 7
    box.disconnect("valueChanged(int)", seen.append)
    box.value = 8
    assert seen == [7]


def test_a_node_selector_waits_for_a_choice():
    import slicer

    with panel_case.freshScene() as scene:
        combo = slicer.qMRMLNodeComboBox()
        combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        combo.setMRMLScene(scene)
        seen = []
        combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "one")
        assert combo.nodeCount() == 1 and combo.currentNode() is None
        combo.setCurrentNode(node)
        scene.RemoveNode(node)
        assert seen == [node, None] and combo.currentNode() is None
        combo.setMRMLScene(None)


def test_a_segment_selector_takes_the_first_segment():
    import slicer

    with panel_case.freshScene() as scene:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        for name in ("a", "b"):
            node.GetSegmentation().AddEmptySegment(name, name)
        selector = slicer.qMRMLSegmentSelectorWidget()
        selector.setMRMLScene(scene)
        selector.setCurrentNode(node)
        assert selector.currentSegmentID() == "a"
        selector.setCurrentSegmentID("b")
        node.GetSegmentation().RemoveSegment("b")
        assert selector.currentSegmentID() == "a"
        selector.setMRMLScene(None)


def test_a_segment_selector_with_none_waits_for_a_choice():
    """As qMRMLSegmentSelectorWidget::populateSegmentCombobox: "None" is kept while nothing was chosen."""
    import slicer

    with panel_case.freshScene() as scene:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        for name in ("a", "b"):
            node.GetSegmentation().AddEmptySegment(name, name)
        selector = slicer.qMRMLSegmentSelectorWidget()
        selector.noneEnabled = True
        selector.setMRMLScene(scene)
        seen = []
        selector.connect("currentSegmentChanged(QString)", seen.append)
        selector.setCurrentNode(node)
        assert selector.currentSegmentID() == "" and not seen and selector.segmentIDs() == ["a", "b"]
        selector.setCurrentSegmentID("b")
        selector.setCurrentSegmentID("")
        assert seen == ["b", ""] and selector.currentSegmentID() == ""
        selector.setMRMLScene(None)

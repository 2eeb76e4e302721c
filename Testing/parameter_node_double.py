"""A small `slicer.parameterNodeWrapper` for tests, after Slicer's documentation: typed members, limits, links to widgets.

It takes only pairs of type and widget class that the genuine one takes. `TUMORSYNTH_SLICER_SOURCE` (the folder of a Slicer
source checkout) replaces it by the genuine one.
"""

from __future__ import annotations

import sys
import types
import typing

import ctk
import qt
import slicer
import vtk

PROPERTY = "SlicerParameterName"


class WithinRange:
    """A number must lie between two limits."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], got {value}")


class _Member:
    """One typed parameter, kept in the node as text or, for nodes, as a reference."""

    def __init__(self, name, kind, default, limits):
        self.name, self.kind, self.limits = name, kind, limits
        self.node = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)
        self.default = default if default is not None or self.node else kind()

    def read(self, node):
        if self.node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node, value) -> None:
        if self.node:
            if value is not None and not value.IsA(self.kind.__name__):
                raise ValueError(f"{self.name} takes a {self.kind.__name__}")
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            return
        if type(value) is not self.kind and not (self.kind is float and isinstance(value, int)):
            raise ValueError(f"{self.name} takes {self.kind.__name__}, not {value!r}")
        for limit in self.limits:
            limit.validate(value)
        node.SetParameter(self.name, str(value))


class _Link:
    """A widget that shows a parameter."""

    TABLE: typing.ClassVar = {  # class: (type, signal, property)
        qt.QCheckBox: (bool, "toggled(bool)", "checked"),
        qt.QPushButton: (bool, "toggled(bool)", "checked"),
        qt.QSpinBox: (int, "valueChanged(int)", "value"),
        qt.QSlider: (int, "valueChanged(int)", "value"),
        qt.QDoubleSpinBox: (float, "valueChanged(double)", "value"),
        qt.QLineEdit: (str, "textChanged(QString)", "text"),
        slicer.qMRMLNodeComboBox: (None, "currentNodeChanged(vtkMRMLNode*)", None),
    }

    def __init__(self, widget, member):
        kind, self.signal, self.property = self.TABLE.get(type(widget), ("none", "", ""))
        if kind != (None if member.node else member.kind):
            raise RuntimeError(f"Unable to create GUI connector from {member.name} to {type(widget)}")
        self.widget, self.member, self.callback = widget, member, None
        if member.node:
            widget.nodeTypes = [member.kind.__name__]
        elif member.kind in (int, float):
            low, high = (
                (member.limits[0].minimum, member.limits[0].maximum)
                if member.limits
                else (-(2**31), 2**31 - 1)
            )
            widget.setMinimum(low)
            widget.setMaximum(high)

    def read(self):
        return self.widget.currentNode() if self.member.node else getattr(self.widget, self.property)

    def write(self, value) -> None:
        if self.member.node:
            self.widget.setCurrentNode(value)
        else:
            setattr(self.widget, self.property, value)

    def connect(self, callback) -> None:
        self.callback = lambda *unused: callback()
        self.widget.connect(self.signal, self.callback)

    def disconnect(self) -> None:
        self.widget.disconnect(self.signal, self.callback)


class _Wrapper:
    """What every wrapped parameter node can do."""

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode, self._guis, self._updating = parameterNode, {}, False
        for member in self.allParameters.values():
            absent = member.name not in parameterNode.GetParameterNames()
            if not member.node and absent:
                member.write(parameterNode, member.default)

    def getValue(self, name):
        return self.allParameters[name].read(self.parameterNode)

    def setValue(self, name, value) -> None:
        self.allParameters[name].write(self.parameterNode, value)

    def connectGui(self, gui) -> int:
        widgets = {w.property(PROPERTY): w for w in gui.findChildren(qt.QWidget) if w.property(PROPERTY)}
        links = [_Link(widget, self.allParameters[name]) for name, widget in widgets.items()]
        for link in links:
            link.write(self.getValue(link.member.name))
            link.connect(lambda link=link: self._from_gui(link))
        tag = len(self._guis)
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *unused: self._to_gui())
        self._guis[tag] = (links, observer)
        return tag

    def disconnectGui(self, tag) -> None:
        links, observer = self._guis.pop(tag)
        for link in links:
            link.disconnect()
        self.RemoveObserver(observer)

    def _from_gui(self, link) -> None:
        if not self._updating:
            self.setValue(link.member.name, link.read())

    def _to_gui(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for links, _ in self._guis.values():
                for link in links:
                    link.write(self.getValue(link.member.name))
        finally:
            self._updating = False

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag) -> None:
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, state) -> None:
        self.parameterNode.EndModify(state)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def parameterNodeWrapper(cls):
    """Class decorator: annotated members become parameters."""
    members = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        kind, *extra = typing.get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        members[name] = _Member(name, kind, getattr(cls, name, None), extra)
    body = {n: v for n, v in vars(cls).items() if n not in members and n not in ("__dict__", "__weakref__")}
    for name in members:
        body[name] = property(
            lambda self, name=name: self.getValue(name),
            lambda self, value, name=name: self.setValue(name, value),
        )
    return type(cls.__name__, (_Wrapper,), body | {"allParameters": members})


def install() -> None:
    """Make `slicer.parameterNodeWrapper` this double."""
    assert ctk  # the genuine one imports it too: a runtime without it would hide an error
    module = types.ModuleType("slicer.parameterNodeWrapper")
    module.parameterNodeWrapper, module.WithinRange = parameterNodeWrapper, WithinRange
    sys.modules[module.__name__] = slicer.parameterNodeWrapper = module

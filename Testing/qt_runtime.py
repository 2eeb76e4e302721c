"""Run the module's widgets without the Slicer application: PySide6 with the manners of PythonQt, as modules `qt` and `ctk`.

PythonQt is what Slicer's Python sees of Qt. It differs from PySide6 in what this file gives PySide6:

- a property is an attribute (`button.text = "Go"`, `if box.checked`), so calling it is an error;
- `widget.connect("clicked(bool)", f)` besides `widget.clicked.connect(f)`; a signal that isn't there is an error;
- an attribute that a class of Qt doesn't have can't be set on its objects;
- enums are taken as whole numbers; `qt.QUiLoader` knows Slicer's and CTK's widgets.

`install(scene)` is called once, after `slicer` can be imported (see slicer_runtime.py).
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

QObject = QtCore.QObject
_property, _setProperty = QObject.property, QObject.setProperty
#: Properties that are methods in PythonQt too, or that PySide6 needs for itself.
METHODS = {"layout", "parent", "children", "actions", "action"}


class _Property:
    """A property on the instance, and the original (for example the static QTimer.singleShot) on the class."""

    def __init__(self, name: str, original):
        self.name, self.original, self.asked = name, original, set()

    def __get__(self, instance, owner=None):
        if instance is not None and id(instance) not in self.asked:
            self.asked.add(id(instance))
            try:
                return _property(instance, self.name)
            finally:
                self.asked.discard(id(instance))
        if instance is not None:  # Qt looks whether Python overrides the virtual getter: it doesn't
            return self.original.__get__(instance, owner)
        return self.original.__get__(None, owner) if hasattr(self.original, "__get__") else self.original

    def __set__(self, instance, value):
        setter = getattr(instance, "set" + self.name[0].upper() + self.name[1:], None)
        if setter is not None:
            setter(value)
        elif not _setProperty(instance, self.name, value):
            raise AttributeError(f"can't set {self.name} of {type(instance).__name__}")


def _give_properties(cls) -> None:
    """Make the properties of a class of Qt attributes of its objects."""
    meta = cls.staticMetaObject
    for i in range(meta.propertyCount()):
        name = meta.property(i).name()
        own = i >= meta.propertyOffset() or name in cls.__dict__
        if own and name not in METHODS and name.isidentifier():
            setattr(cls, name, _Property(name, cls.__dict__.get(name)))


def _signal(sender, signature: str):
    """The signal of an object by its C++ signature; ValueError where the object has none of it."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", signature)
    name, arguments = match.group(1), match.group(2) or ""
    bound = getattr(sender, name, None)
    if not hasattr(bound, "connect"):
        raise ValueError(f"{type(sender).__name__} has no signal {signature}")
    normal = bytes(QtCore.QMetaObject.normalizedSignature(f"{name}({arguments})")).decode()
    aliases = getattr(type(sender), "SIGNATURES", {})
    if normal in aliases:
        return getattr(sender, aliases[normal])
    meta = sender.metaObject()
    known = {bytes(meta.method(i).methodSignature()).decode() for i in range(meta.methodCount())}
    if normal not in known:
        raise ValueError(f"{type(sender).__name__} has no signal {normal}")
    try:
        return bound[arguments] if arguments else bound
    except (KeyError, IndexError, TypeError):
        return bound


def _target(arguments):
    if len(arguments) > 2 and isinstance(arguments[2], str):
        return getattr(arguments[1], arguments[2].split("(")[0])
    return arguments[1]


def connect(self, *arguments):
    """`sender.connect("signal(args)", callable)` or `sender.connect("signal()", receiver, "slot()")`."""
    _signal(self, arguments[0]).connect(_target(arguments))
    return True


def disconnect(self, *arguments):
    """The reverse of `connect`."""
    _signal(self, arguments[0]).disconnect(_target(arguments))
    return True


def hook_connect(cls) -> None:
    """Let `connect` and `disconnect` be PythonQt's: PySide6 answers them in C++, so each class's lookup is replaced."""
    lookup = cls.__getattribute__

    def getattribute(self, name):
        if name == "connect":
            return types.MethodType(connect, self)
        if name == "disconnect":
            return types.MethodType(disconnect, self)
        return lookup(self, name)

    cls.__getattribute__ = getattribute


def _refuse_unknown(cls) -> None:
    """As PythonQt: an object of a class of Qt takes no new attributes, one of a Python subclass does."""
    keep = QObject.__mro__[1].__setattr__  # of the first class without an own lookup, or Python refuses

    def setattribute(self, name, value):
        foreign = type(self).__module__.startswith(("PySide6", "qt_standins"))
        if foreign and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(
                f"attribute {name!r} doesn't exist, and {type(self).__name__} takes no new ones"
            )
        if isinstance(inspect.getattr_static(type(self), name, None), QtCore.Property):
            _setProperty(self, name, value)
        else:
            keep(self, name, value)

    cls.__setattr__ = setattribute


def _qt_module() -> types.ModuleType:
    module = types.ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets, QtUiTools):
        for name in dir(source):
            if name.startswith("Q"):
                setattr(module, name, getattr(source, name))
    module.Signal, module.Slot = QtCore.Signal, QtCore.Slot
    return module


def _patch(module) -> None:
    objects = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, QObject)]
    for cls in sorted(set(objects), key=lambda c: len(c.__mro__)):
        if hasattr(cls, "staticMetaObject"):
            _give_properties(cls)
        if "__getattribute__" in cls.__dict__:
            hook_connect(cls)
        _refuse_unknown(cls)
    QObject.connect, QObject.disconnect = connect, disconnect
    QObject.name = _Property("objectName", None)
    QObject.className = lambda self: self.metaObject().className()
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu):
        if not hasattr(cls, "exec_"):
            cls.exec_ = cls.exec


def _settings(folder: str) -> None:
    """Settings of the tests go to a folder of their own."""
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, folder)


def install(settings_folder: str):
    """Make `qt`, `ctk` and Slicer's widget classes importable; returns the QApplication. Repeated calls change nothing."""
    import slicer

    app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["slicer-test"])
    if "qt" in sys.modules and getattr(sys.modules["qt"], "_standin", False):
        return app
    app.setOrganizationName("slicer-test")
    _settings(settings_folder)
    module = _qt_module()
    _patch(module)
    module._standin = True
    sys.modules["qt"] = module

    import qt_standins

    ctk = types.ModuleType("ctk")
    for name, cls in qt_standins.CLASSES.items():
        hook_connect(cls)
        setattr(ctk if name.startswith("ctk") else slicer, name, cls)
    module.QUiLoader = qt_standins.QUiLoader
    sys.modules["ctk"] = ctk
    return app


def moduleWidget(name: str):
    """What qSlicerScriptedLoadableModuleWidget is to a scripted module's panel; see slicer_runtime.openModule."""
    import slicer

    class ModuleWidget(slicer.qMRMLWidget):
        def __init__(self):
            super().__init__()
            self.setLayout(QtWidgets.QVBoxLayout())
            self.setMRMLScene(slicer.mrmlScene)
            self._python = None
            self.setPythonSource()

        def setPythonSource(self) -> None:
            self._python = getattr(sys.modules[name], name + "Widget")(self)
            setattr(slicer.modules, name + "Widget", self._python)

        def self(self):
            return self._python

        def setup(self) -> None:
            self._python.setup()

        def reload(self) -> None:
            self.setPythonSource()
            self.setup()

    return ModuleWidget()

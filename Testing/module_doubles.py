"""Test doubles of Slicer's `ScriptedLoadableModule` and `i18n`, which slicer-core lacks; they behave as documented.

With TUMORSYNTH_SLICER_SOURCE set, the genuine files of a Slicer checkout are used instead (see slicer_runtime.py).
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import unittest

import slicer


class ScriptedLoadableModule:
    """Metadata of a module; registers its self-test."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name: str) -> str:
        return os.path.join(os.path.dirname(self.parent.path), "Resources", name)

    def getDefaultModuleDocumentationLink(self) -> str:
        return f'<a href="{slicer.app.moduleDocumentationUrl(self.moduleName)}">documentation</a>'

    def runTest(self, msec: int = 100, **options) -> None:
        case = getattr(importlib.import_module(self.__module__), f"{self.moduleName}Test")()
        case.messageDelay = msec
        case.runTest(**options)


class ScriptedLoadableModuleWidget:
    """A module's panel: a parent widget with a layout, filled by `setup`."""

    def __init__(self, parent=None):
        import qt

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()

    def resourcePath(self, name: str) -> str:
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", name)

    def setup(self) -> None:
        """The developer's section; none here."""

    def cleanup(self) -> None:
        """Called before the module is unloaded."""

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """A module's logic: its parameter node, one in the scene."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(self.createParameterNode())
        node.SetAttribute("ModuleName", self.moduleName)
        return node

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The self-test of a module: `runTest` is called without a runner."""

    messageDelay = 100

    def delayDisplay(self, message: str, msec: int | None = None) -> None:
        """In the application, a message for a moment."""

    def runTest(self) -> None:
        """Overridden by modules."""


def tr(text: str) -> str:
    """`slicer.i18n.tr` in the source language."""
    return text


def translate(context: str, text: str) -> str:
    """`slicer.i18n.translate` in the source language."""
    return text


def install() -> None:
    """Put the doubles where modules import them from."""
    classes = (
        "ScriptedLoadableModule",
        "ScriptedLoadableModuleWidget",
        "ScriptedLoadableModuleLogic",
        "ScriptedLoadableModuleTest",
    )
    _add("slicer.ScriptedLoadableModule", {name: globals()[name] for name in classes})
    _add("slicer.i18n", {"tr": tr, "translate": translate})


def _add(name: str, contents: dict) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    module.__all__ = list(contents)
    sys.modules[name] = module
    setattr(slicer, name.rpartition(".")[2], module)

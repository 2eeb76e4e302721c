"""Real MRML without the Slicer application: what `slicer.app`, `slicer.mrmlScene` and `slicer.modules` are, for tests.

PyPI's slicer-core brings the MRML classes, the module logics and `slicer.util`. It lacks the application, which `start()`
supplies, and a few Python files (`ScriptedLoadableModule`, `i18n`, …), for which module_doubles.py stands in, or, where the
environment variable TUMORSYNTH_SLICER_SOURCE names a source checkout of Slicer, the genuine ones (with qt_runtime.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import types
from pathlib import Path

import slicer
import slicer.util
import vtk

SOURCE_VARIABLE = "TUMORSYNTH_SLICER_SOURCE"
MODULE_FOLDER = Path(__file__).resolve().parents[1] / "TumorSynthRadiomics"

#: slicer.modules.<key>: logic class, name under which the application logic knows it.
LOGICS = {
    "colors": ("vtkMRMLColorLogic", "Colors"),
    "volumes": ("vtkSlicerVolumesLogic", "Volumes"),
    "terminologies": ("vtkSlicerTerminologiesModuleLogic", "Terminologies"),
    "subjecthierarchy": ("vtkSlicerSubjectHierarchyModuleLogic", "SubjectHierarchy"),
    "segmentations": ("vtkSlicerSegmentationsModuleLogic", "Segmentations"),
    "markups": ("vtkSlicerMarkupsLogic", "Markups"),
    "tables": ("vtkSlicerTablesLogic", "Tables"),
    "texts": ("vtkSlicerTextsLogic", "Texts"),
    "transforms": ("vtkSlicerTransformLogic", "Transforms"),
    "models": ("vtkSlicerModelsLogic", "Models"),
    "sequences": ("vtkSlicerSequencesLogic", "Sequences"),
    "plots": ("vtkSlicerPlotsLogic", "Plots"),
}
#: Readers by the end of the file's name: file type, node class, storage class (None: read by the volumes logic).
READERS = {
    ".seg.nrrd": ("SegmentationFile", "vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    ".mrk.json": ("MarkupsFile", "vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsFiducialStorageNode"),
    ".tsv": ("TableFile", "vtkMRMLTableNode", "vtkMRMLTableStorageNode"),
    ".vtk": ("ModelFile", "vtkMRMLModelNode", "vtkMRMLModelStorageNode"),
    ".txt": ("TextFile", "vtkMRMLTextNode", "vtkMRMLTextStorageNode"),
    ".mrml": ("SceneFile", "", ""),
    ".mrb": ("SceneFile", "", ""),
    "": ("VolumeFile", "", ""),
}


class Module:
    """What `slicer.modules.<name>` is."""

    def __init__(self, name: str, logic=None, path: str = ""):
        self.name, self.path, self._logic = name, path, logic

    def logic(self):
        return self._logic


class SequencesModule(Module):
    """qSlicerSequencesModule: its tool bar shows a browser only when it is told to, or when a scene with one is read."""

    def __init__(self, name: str, logic=None, path: str = ""):
        super().__init__(name, logic, path)
        self.toolBarVisible, self.autoShowToolBar, self.activeBrowser = False, True, None

    def setToolBarActiveBrowserNode(self, browser) -> None:
        assert browser is None or browser.IsA("vtkMRMLSequenceBrowserNode")
        self.activeBrowser = browser

    def setToolBarVisible(self, visible: bool) -> None:
        self.toolBarVisible = bool(visible)


class Signals:
    """`connect("signal(…)", function)` and `emit`, as QObjects have."""

    def __init__(self):
        self._slots: dict = {}

    def connect(self, signal: str, slot) -> None:
        self._slots.setdefault(signal, []).append(slot)

    def disconnect(self, signal: str, slot) -> None:
        self._slots.get(signal, []).remove(slot)

    def emit(self, signal: str, *arguments) -> None:
        for slot in list(self._slots.get(signal, [])):
            slot(*arguments)


class IOManager(Signals):
    """What qSlicerCoreIOManager does for the file types used here, through their storage nodes, which write no attributes.

    It emits `fileSaved` for each file, of a scene bundle too.
    """

    def fileType(self, name: str) -> str:
        return next(kind for end, (kind, *_) in READERS.items() if str(name).lower().endswith(end))

    def registeredFileReaderCount(self, kind: str) -> int:
        return int(any(kind == row[0] for row in READERS.values()))

    def loadNodes(self, kind: str, properties, loaded, messages=None) -> bool:
        path = properties["fileName"]
        if not os.path.exists(path):
            return False
        if kind == "SceneFile":
            return self._loadScene(path, properties.get("clear", False), messages)
        node = self._load(kind, path, properties)
        if node is not None:
            loaded.AddItem(node)
        return node is not None

    def _load(self, kind: str, path: str, properties):
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        if kind == "VolumeFile":
            logic = slicer.modules.volumes.logic()
            return logic.AddArchetypeVolume(path, name, 1 if properties.get("labelmap") else 0)
        _, nodeClass, storageClass = next(row for row in READERS.values() if row[0] == kind)
        node = slicer.mrmlScene.AddNewNodeByClass(nodeClass, name)
        storage = slicer.mrmlScene.AddNewNodeByClass(storageClass)
        storage.SetFileName(path)
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(storage)
            slicer.mrmlScene.RemoveNode(node)
            return None
        node.SetAndObserveStorageNodeID(storage.GetID())
        return node

    def _loadScene(self, path: str, clear: bool, messages) -> bool:
        scene = slicer.mrmlScene
        if path.endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear, messages))
        scene.SetURL(path)
        return bool(scene.Connect(messages) if clear else scene.Import(messages))

    def saveNodes(self, kind: str, properties, messages=None) -> bool:
        saved = self._save(kind, properties, messages)
        if saved:
            self.emit("fileSaved(qSlicerIO::IOProperties)", dict(properties))
        return saved

    def _save(self, kind: str, properties, messages) -> bool:
        scene, path = slicer.mrmlScene, str(properties["fileName"])
        if kind == "SceneFile":
            if path.endswith(".mrb"):
                return bool(scene.WriteToMRB(path, None, messages))
            scene.SetRootDirectory(os.path.dirname(path))
            return bool(scene.Commit(path, messages))
        node = scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node))

    def fileWriterFileType(self, node) -> str:
        return node.GetClassName()


class ModuleManager(Signals):
    def module(self, name: str):
        return getattr(slicer.modules, name.lower(), None)


class App(Signals):
    """What `slicer.app` is with --no-main-window."""

    applicationName, majorVersion, minorVersion, revision = "Slicer", 5, 12, "0"
    slicerHome = ""
    documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __init__(self, scene, logic, folder: str):
        super().__init__()
        self._scene, self._logic, self.temporaryPath = scene, logic, folder
        self._io, self._modules = IOManager(), ModuleManager()
        self.cursors = 0

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def coreIOManager(self):
        return self._io

    ioManager = coreIOManager

    def moduleManager(self):
        return self._modules

    def layoutManager(self):
        return None

    def testingEnabled(self) -> bool:
        return True

    def commandOptions(self):
        return types.SimpleNamespace(testingEnabled=True, noMainWindow=True)

    def translate(self, context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def processEvents(self, *arguments) -> None:
        qt = sys.modules.get("qt")
        if qt is not None and qt.QCoreApplication.instance() is not None:
            qt.QCoreApplication.processEvents()

    def setOverrideCursor(self, cursor) -> None:
        self.cursors += 1

    def restoreOverrideCursor(self) -> None:
        self.cursors -= 1

    def pauseRender(self) -> None:
        """No views, no rendering."""

    resumeRender = pauseRender

    def userSettings(self):
        return sys.modules["qt"].QSettings()

    settings = userSettings

    def __getattr__(self, name: str):
        """The rest is QApplication's, where the tests have one."""
        qt = sys.modules.get("qt")
        if qt is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(qt.QApplication.instance(), name)


def start(modules: Path = MODULE_FOLDER) -> App:
    """Make `slicer` usable; a second call gives the same application.

    :param modules: folder of the scripted module, as Slicer's "additional module paths".
    """
    if getattr(slicer, "app", None) is not None:
        return slicer.app
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(window)
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    for name in ("modules", "moduleNames"):
        module = types.ModuleType(f"slicer.{name}")
        sys.modules[module.__name__] = module
        setattr(slicer, name, module)
    slicer._kept = [_addLogic(key, scene, logic) for key in LOGICS]
    folder = tempfile.mkdtemp(prefix="slicer-test-")
    slicer._kept += _addRemoteIO(scene, logic, folder)
    _addSliceViews(scene)
    slicer.mrmlScene, slicer.app, slicer.selfTests = scene, App(scene, logic, folder), {}
    if str(modules) not in sys.path:
        sys.path.insert(0, str(modules))
    _addPythonFiles()
    return slicer.app


def source() -> Path | None:
    """Slicer's own Python folder in the source checkout that the environment names."""
    checkout = os.environ.get(SOURCE_VARIABLE)
    return Path(checkout) / "Base" / "Python" / "slicer" if checkout else None


def loadModule(name: str = "TumorSynthRadiomics"):
    """Import the module as Slicer does: its file, an instance of its main class, and `slicer.modules.<name>`."""
    import importlib

    if getattr(slicer, "app", None) is None:
        start()
    python = importlib.import_module(name)
    path = python.__file__
    entry = Module(name, path=path)
    parent = types.SimpleNamespace(path=path, title="", icon=None)
    entry.parent, entry.instance = parent, getattr(python, name)(parent)
    entry.python = python
    setattr(slicer.modules, name.lower(), entry)
    setattr(slicer.moduleNames, name, name)
    return entry


def openModule(name: str = "TumorSynthRadiomics"):
    """The module's panel as the application makes it when the module is opened first; returns its widget representation.

    It behaves as qSlicerScriptedLoadableModuleWidget, which is the parent of the Python widget: the class is instantiated, then
    `setup` is called, then `enter`; Reload instantiates it anew and calls `setup` but not `enter`, as the panel is shown
    already. Needs qt_runtime.
    """
    import qt_runtime

    entry = getattr(slicer.modules, name.lower(), None) or loadModule(name)
    representation = qt_runtime.moduleWidget(name)
    entry.widgetRepresentation = lambda: representation
    representation.setup()
    representation.show()
    representation.self().enter()
    return representation


def moduleLogic(name: str = "TumorSynthRadiomics"):
    """A new logic of the module, which `slicer.util.getModuleLogic(name)` then gives, too."""
    entry = getattr(slicer.modules, name.lower(), None) or loadModule(name)
    entry._logic = getattr(entry.python, f"{name}Logic")()
    if not hasattr(
        slicer, "qSlicerScriptedLoadableModule"
    ):  # without Qt no class of the application is there
        slicer.qSlicerScriptedLoadableModule = type("qSlicerScriptedLoadableModule", (), {})
    return slicer.util.getModuleLogic(name)


def closeScene() -> None:
    """What File → Close Scene does."""
    slicer.mrmlScene.Clear(False)


def _addLogic(key: str, scene, application):
    cls, name = LOGICS[key]
    logic = getattr(slicer, cls)()
    if key != "terminologies":  # whose files slicer-core doesn't bring
        logic.SetMRMLScene(scene)
    logic.SetMRMLApplicationLogic(application)
    application.SetModuleLogic(name, logic)
    kind = SequencesModule if key == "sequences" else Module
    setattr(slicer.modules, key, kind(name, logic))
    setattr(slicer.moduleNames, name, name)
    return logic


def _addSliceViews(scene) -> None:
    """The layers of the three slice views; closing the scene empties them."""
    for name in ("Red", "Yellow", "Green"):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetName(name)
        composite.SetLayoutName(name)
        composite.SetSingletonTag(name)
        scene.AddNode(composite)


def _addRemoteIO(scene, application, folder: str) -> list:
    """What reading scene bundles needs."""
    remote, manager = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    for logic in (remote, manager):
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
    remote.GetCacheManager().SetRemoteCacheDirectory(folder)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    return [remote, manager]


def _addPythonFiles() -> None:
    genuine = source()
    if genuine is not None:
        slicer.__path__.append(str(genuine))
        import qt_runtime  # the genuine files import qt and ctk

        qt_runtime.install(slicer.app.temporaryPath)
        return
    import module_doubles

    module_doubles.install()


@contextlib.contextmanager
def freshScene():
    """An empty scene, cleared afterwards."""
    start()
    closeScene()
    yield slicer.mrmlScene
    closeScene()

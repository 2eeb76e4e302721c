"""What edits with a network need: found without importing it, half an installation told, installed while the window goes on."""

import importlib.metadata
import importlib.util
import platform
import sys
import types

import pytest
import slicer
import slicer_runtime

slicer_runtime.start()

from TumorSynthSlicer import dependencies  # noqa: E402


@pytest.fixture
def torch_folder(tmp_path, monkeypatch):
    """A torch that is whole, in a folder of its own."""
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('the application must not import torch')")
    (folder / "_C.cpython-312-x86_64-linux-gnu.so").write_text("")
    information = tmp_path / "torch-2.4.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.4.0\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_whole_torch_is_there(torch_folder):
    assert "torch" not in dependencies.missing() and not dependencies.torchIsDamaged()


@pytest.mark.parametrize("lost", ["_C.cpython-312-x86_64-linux-gnu.so", "__init__.py"])
def test_half_a_torch_is_told(torch_folder, lost, monkeypatch):
    (torch_folder / lost).unlink()
    if lost == "__init__.py":  # nor is there another one behind it on the path
        spec = importlib.machinery.ModuleSpec("torch", None)
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "torch" else find(name))
    assert "torch" in dependencies.missing()
    with pytest.raises(dependencies.DependencyError, match="in part only.*Uninstall"):
        dependencies.install(["torch"])


@pytest.fixture
def mac(monkeypatch):
    """Slicer on a Mac, with numpy 2, and what it is asked."""
    asked, done = [], []
    version = importlib.metadata.version
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "2.4.6" if n == "numpy" else version(n))
    monkeypatch.setattr(slicer.util, "pip_install", done.append)
    monkeypatch.setattr(slicer.util, "restart", lambda: done.append("restart"))
    answer = types.SimpleNamespace(yes=True, asked=asked, done=done)

    def confirm(text, **more):
        asked.append(text)
        return answer.yes

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", confirm)
    return answer


@pytest.mark.parametrize("yes, wanted", [(True, [["numpy<2"], "restart"]), (False, [])])
def test_on_a_mac_numpy_is_explained_and_nothing_else_replaced(mac, torch_folder, yes, wanted):
    mac.yes = yes
    assert "torch" in dependencies.missing()
    assert dependencies.install(["torch"]) is False
    assert "numpy 2.4.6" in mac.asked[0] and "restart" in mac.asked[0] and mac.done == wanted


class Torch:
    """The PyTorch extension's logic, as far as it is used."""

    def _getPipInstallArguments(self, backend, requirement):
        return ["install", "torch" + requirement, "torchvision"]

    def _installLightTheTorch(self):
        raise AssertionError("it is there")

    def installTorch(self, **given):
        raise AssertionError("it would block the window and import torch")


@pytest.fixture
def extension(monkeypatch):
    run = []
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Torch))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **more: True)
    find = importlib.util.find_spec
    there = importlib.machinery.ModuleSpec("light_the_torch", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: there if n == "light_the_torch" else find(n))

    def execute(module, args, blocking=True, logCallback=None, completedCallback=None):
        assert not blocking
        run.append([module, *args])
        logCallback("Downloading torch")
        completedCallback(run[0].count("fail"))

    monkeypatch.setattr(slicer.util, "executePythonModule", execute, raising=False)
    return run


def test_torch_is_installed_beside_the_window(extension, torch_folder):
    lines = []
    assert dependencies.install(["torch"], lines.append) is True
    assert extension == [["light_the_torch", "install", "torch>=2.1", "torchvision"]]
    assert lines == ["Downloading torch"] and "torch" not in sys.modules


def test_a_failed_installation_says_what_helps(extension, torch_folder, monkeypatch):
    monkeypatch.setattr(Torch, "_getPipInstallArguments", lambda self, *given: ["fail"])
    with pytest.raises(dependencies.DependencyError, match="code 1.*check the connection"):
        dependencies.install(["torch"])


def test_an_older_slicer_installs_by_the_extension_itself(extension, torch_folder, monkeypatch):
    monkeypatch.delattr(slicer.util, "executePythonModule")
    given = []
    monkeypatch.setattr(Torch, "installTorch", lambda self, **options: given.append(options))
    assert dependencies.install(["torch"]) is False  # declined
    assert given == [{"askConfirmation": True, "torchVersionRequirement": ">=2.1"}]

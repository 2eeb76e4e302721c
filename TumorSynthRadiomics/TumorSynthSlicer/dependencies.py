"""What an edit needs beyond Slicer's own Python, looked for at first use and installed after one question.

torch comes through the PyTorch extension, which knows the build that fits the computer; the rest through
`slicer.packaging.pip_ensure` (Slicer 5.11 and later) or `slicer.util.pip_install`. Measuring needs none of it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import sys
import time
from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from TumorSynthLib.errors import TumorSynthError

TORCH, TORCH_REQUIREMENT, TORCH_LEAST = "torch", ">=2.1", (2, 1)
REQUIREMENTS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "Resources", "requirements.txt"
)


class DependencyError(TumorSynthError):
    """A needed package isn't there and can't be installed; the message says what to do."""


def requirements() -> list[str]:
    """Lines of requirements.txt: what is needed besides torch and what Slicer brings."""
    with open(REQUIREMENTS, encoding="utf-8") as file:
        lines = (line.split("#")[0].strip() for line in file)
        return [line for line in lines if line]


def missing() -> list[str]:
    """Names of the packages that aren't here, or too old; nothing is imported."""
    importlib.invalidate_caches()
    return [name for name in [TORCH, *map(_name, requirements())] if not _isThere(name)]


def _isThere(name: str) -> bool:
    if importlib.util.find_spec(name) is None:
        return False
    if name != TORCH:
        return True
    if torchIsDamaged() or numpyProblem():
        return False
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        major, minor = importlib.metadata.version(TORCH).split(".")[:2]
        return (int(major), int(minor)) >= TORCH_LEAST
    return True


def torchIsDamaged() -> bool:
    """Whether parts of torch are there only, as an interrupted installation leaves them; found without importing it."""
    spec = importlib.util.find_spec(TORCH)
    if spec is None:
        return False
    if not spec.origin:  # a folder without the package's own file
        return True
    folder = os.path.dirname(spec.origin)
    return not any(name.startswith("_C") and name.endswith((".so", ".pyd")) for name in os.listdir(folder))


def numpyProblem() -> str:
    """Why torch can't work with Slicer's numpy here, a sentence; empty if it can.

    For Intel Macs, which Slicer's application is built for, torch ends at 2.2, which was made for numpy 1.
    """
    if sys.platform != "darwin" or platform.machine() != "x86_64":
        return ""
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) < 2:
        return ""
    text = _("on a Mac, PyTorch works with numpy below 2 only, and Slicer has numpy {version}")
    return text.format(version=version)


def install(names: list[str], onLine: Callable[[str], None] | None = None) -> bool:
    """Ask once, then install; False if the user declined, or if Slicer must be restarted first.

    The question about torch is the PyTorch extension's own where it installs by itself; the others, which are small, go with it.

    :param onLine: called with what the installer says, line by line, where Slicer can install without blocking (5.12).
    :raises DependencyError: an installation failed, or the PyTorch extension isn't there.
    """
    if not names:
        return True
    try:
        if TORCH in names:
            if torchIsDamaged():
                raise DependencyError(_damaged())
            if numpyProblem() and not _replaceNumpy():
                return False
            if not _installTorch(onLine):
                return False
        elif not _confirmed(names):
            return False
        others = [line for line in requirements() if _name(line) in names]
        if others:
            _pipInstall(others)
    except TumorSynthError:
        raise
    except Exception as error:  # pip's and the PyTorch extension's errors have no common base
        raise DependencyError(_offline(names, error)) from error
    left = missing()
    if left:
        raise DependencyError(_offline(left, _("it isn't there after the installation")))
    return True


def _damaged() -> str:
    return _(
        "PyTorch is there in part only, as an interrupted installation leaves it: open the module PyTorch Utils, press "
        "Uninstall, restart Slicer, and try again"
    )


def _replaceNumpy() -> bool:
    """Offer numpy below 2 and a restart; True where nothing had to be replaced."""
    text = _(
        "{problem}. Install numpy below 2 and restart Slicer? Nothing else is changed; generate again after the restart."
    ).format(problem=numpyProblem()[:1].upper() + numpyProblem()[1:])
    if slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Tumor Synth Radiomics")):
        slicer.util.pip_install(["numpy<2"])
        slicer.util.restart()
    return False


def _name(line: str) -> str:
    return re.split(r"[<>=!~; \[]", line)[0]


def _confirmed(names: list[str]) -> bool:
    text = _(
        "Editing tumours needs {names}, which is downloaded once (less than 1 MB). Images are never sent anywhere. Install now?"
    ).format(names=", ".join(names))
    return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Tumor Synth Radiomics")))


def _installTorch(onLine: Callable[[str], None] | None = None) -> bool:
    """Install by the PyTorch extension; False if the user declined."""
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _(
                "the PyTorch extension isn't installed: install it in the Extensions Manager, and restart Slicer"
            )
        ) from error
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if _canInstallBeside() and hasattr(logic, "_getPipInstallArguments"):
        return _installTorchBeside(logic, onLine or (lambda line: None))
    torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT)
    return torch is not None


def _canInstallBeside() -> bool:
    """Whether Slicer can run an installer without blocking the window (5.12)."""
    execute = getattr(slicer.util, "executePythonModule", None)
    return execute is not None and "completedCallback" in inspect.signature(execute).parameters


def _installTorchBeside(logic, onLine: Callable[[str], None]) -> bool:
    """What `installTorch` does, while the application goes on, and without importing torch into it."""
    arguments = logic._getPipInstallArguments(None, TORCH_REQUIREMENT)
    text = _(
        "Editing with a model's network needs PyTorch, which is downloaded once (up to 3 GB). The PyTorch extension finds the "
        "build that fits this computer. Images are never sent anywhere. Install now?"
    )
    if not slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Tumor Synth Radiomics")):
        return False
    if importlib.util.find_spec("light_the_torch") is None:
        logic._installLightTheTorch()
    ended: list[int] = []
    slicer.util.executePythonModule(
        "light_the_torch", arguments, blocking=False, logCallback=onLine, completedCallback=ended.append
    )
    while not ended:
        slicer.app.processEvents()
        time.sleep(0.02)
    if ended[0]:
        raise RuntimeError(_("the installer ended with code {code}").format(code=ended[0]))
    return True


def _pipInstall(lines: list[str]) -> None:
    """Install without replacing what Slicer brings: none of these packages depends on numpy or SimpleITK."""
    packaging = getattr(slicer, "packaging", None)
    if packaging is None and importlib.util.find_spec("slicer.packaging") is not None:
        packaging = importlib.import_module("slicer.packaging")
    if packaging is not None and hasattr(packaging, "pip_ensure"):
        packaging.pip_ensure(
            lines, prompt_install=False, requester="TumorSynthRadiomics", skip_in_testing=False
        )
    else:
        slicer.util.pip_install(lines)


def _offline(names: list[str], error) -> str:
    lines = str(error).strip().splitlines()
    return _(
        "{names} couldn't be installed ({reason}): check the connection and the proxy; without a network install it from "
        "files on another computer's download, as the documentation's section on offline use says"
    ).format(names=", ".join(names), reason=lines[-1][:160] if lines else type(error).__name__)

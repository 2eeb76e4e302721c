"""What an edit needs beyond Slicer's own Python, looked for at first use and installed after one question.

torch comes through the PyTorch extension, which knows the build that fits the computer; the rest through
`slicer.packaging.pip_ensure` (Slicer 5.11 and later) or `slicer.util.pip_install`. Measuring needs none of it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import re

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
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        major, minor = importlib.metadata.version(TORCH).split(".")[:2]
        return (int(major), int(minor)) >= TORCH_LEAST
    return True


def install(names: list[str]) -> bool:
    """Ask once, then install; False if the user declined.

    The question about torch is the PyTorch extension's own, which names the build; the others, which are small, go with it.

    :raises DependencyError: an installation failed, or the PyTorch extension isn't there.
    """
    if not names:
        return True
    try:
        if TORCH in names:
            if not _installTorch():
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


def _name(line: str) -> str:
    return re.split(r"[<>=!~; \[]", line)[0]


def _confirmed(names: list[str]) -> bool:
    text = _(
        "Editing tumours needs {names}, which is downloaded once (less than 1 MB). Images are never sent anywhere. Install now?"
    ).format(names=", ".join(names))
    return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Tumor Synth Radiomics")))


def _installTorch() -> bool:
    """Have the PyTorch extension ask and install; False if the user declined."""
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _(
                "the PyTorch extension isn't installed: install it in the Extensions Manager, and restart Slicer"
            )
        ) from error
    logic = PyTorchUtils.PyTorchUtilsLogic()
    torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT)
    return torch is not None


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

"""What an edit needs beyond Slicer's own Python, looked for at first use and installed after one question.

torch comes through the PyTorch extension, which knows the build that fits the computer; the rest through
`slicer.packaging.pip_ensure` (Slicer 5.11 and later) or `slicer.util.pip_install`. Measuring needs none of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re

import slicer
from slicer.i18n import tr as _

from TumorSynthLib.errors import TumorSynthError

TORCH, TORCH_REQUIREMENT = "torch", ">=2.1"
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
    """Names of the packages that aren't here; nothing is imported."""
    importlib.invalidate_caches()
    names = [TORCH, *(re.split(r"[<>=!~; \[]", line)[0] for line in requirements())]
    return [name for name in names if importlib.util.find_spec(name) is None]


def install(names: list[str]) -> bool:
    """Ask once, then install; False if the user declined.

    :raises DependencyError: an installation failed, or the PyTorch extension isn't there.
    """
    if not names:
        return True
    if not _confirmed(names):
        return False
    try:
        if TORCH in names:
            _installTorch()
        others = [line for line in requirements() if re.split(r"[<>=!~; \[]", line)[0] in names]
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


def _confirmed(names: list[str]) -> bool:
    text = _(
        "Editing tumours needs {names}, which is downloaded once (PyTorch: 200 MB to 3 GB, depending on the computer). "
        "Images are never sent anywhere. Install now?"
    ).format(names=", ".join("PyTorch" if name == TORCH else name for name in names))
    return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Tumor Synth Radiomics")))


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _(
                "the PyTorch extension isn't installed: install it in the Extensions Manager, and restart Slicer"
            )
        ) from error
    # The question has been asked already, together with the other packages.
    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
        askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT
    )
    if torch is None:
        raise DependencyError(
            _(
                "PyTorch couldn't be installed: see the module PyTorch Utils, which says why, and try again there"
            )
        )


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

"""Where models live: a folder of the user's for installed ones, and the bundled ones of the package or
checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import ModelError

USER_FOLDER_VARIABLE = "TUMORSYNTH_MODELS"
_PACKAGE = Path(__file__).resolve().parents[1]


class NoHomeFolder(ModelError):
    """The user has no home folder, e.g. in a container that runs as a user without an entry."""


def user_folder() -> Path:
    """Folder of the models that the user installed; it may not exist yet.

    ``TUMORSYNTH_MODELS`` if set, else ``%LOCALAPPDATA%\\TumorSynthRadiomics\\models`` on Windows,
    ``~/Library/Application Support/TumorSynthRadiomics/models`` on macOS, and
    ``$XDG_DATA_HOME/TumorSynthRadiomics/models`` (``~/.local/share/…``) elsewhere.

    :raises NoHomeFolder: there is no home folder, and no variable that names another one.
    :raises ModelError: a variable names the home folder of a user who isn't there.
    """
    override = os.environ.get(USER_FOLDER_VARIABLE)
    if override:
        return expanded(override, f"{USER_FOLDER_VARIABLE} is")
    return _platform_data_folder() / "TumorSynthRadiomics" / "models"


def bundled_folder() -> Path | None:
    """Folder of the models that came with the software, or None if this copy has none.

    ``TumorSynthLib/bundled`` of an installed package, else ``Resources/Models`` beside the package in a
    checkout.
    """
    for folder in (_PACKAGE / "bundled", _PACKAGE.parent / "Resources" / "Models"):
        if folder.is_dir():
            return folder
    return None


def expanded(text: str, what: str) -> Path:
    """Absolute path of a text that may begin with ``~`` or ``~user``.

    :param what: for the message, e.g. ``TUMORSYNTH_MODELS is``.
    :raises ModelError: that user isn't there, or neither is the working folder.
    """
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ModelError(f"{what} {text!r}, but there is no such user's folder; give a whole path") from None
    except OSError as error:
        raise ModelError(f"{what} {text!r}, but the working folder is gone ({error.strerror})") from None


def home_folder() -> Path:
    """The user's home folder.

    :raises NoHomeFolder: there is none.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise NoHomeFolder(
            f"this user has no home folder to keep files in; set {USER_FOLDER_VARIABLE} to a folder for models, "
            "and TUMORSYNTH_CACHE to one for sample data"
        ) from None


def _platform_data_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home_folder() / "AppData" / "Local")
    if sys.platform == "darwin":
        return home_folder() / "Library" / "Application Support"
    data = os.environ.get("XDG_DATA_HOME", "")
    return Path(data) if os.path.isabs(data) else home_folder() / ".local" / "share"

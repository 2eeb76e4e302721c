"""Where models live: a folder of the user's for installed ones, and the bundled ones of the package or
checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

USER_FOLDER_VARIABLE = "TUMORSYNTH_MODELS"
_PACKAGE = Path(__file__).resolve().parents[1]


def user_folder() -> Path:
    """Folder of the models that the user installed; it may not exist yet.

    ``TUMORSYNTH_MODELS`` if set, else ``%LOCALAPPDATA%\\TumorSynthRadiomics\\models`` on Windows,
    ``~/Library/Application Support/TumorSynthRadiomics/models`` on macOS, and
    ``$XDG_DATA_HOME/TumorSynthRadiomics/models`` (``~/.local/share/…``) elsewhere.
    """
    override = os.environ.get(USER_FOLDER_VARIABLE)
    if override:
        return Path(override).expanduser().absolute()
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


def _platform_data_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    data = os.environ.get("XDG_DATA_HOME", "")
    return Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"

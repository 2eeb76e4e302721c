"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

DATA_VARIABLE = "TUMORSYNTH_TEST_DATA"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real test data; the test is skipped where it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, default))
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no test data at {folder}: set {DATA_VARIABLE} to the folder that holds manifest.csv")
    return folder

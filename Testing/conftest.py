"""Fixtures shared by all tests, and what keeps tests that run at the same time apart."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

DATA_VARIABLE = "TUMORSYNTH_TEST_DATA"


def pytest_configure(config) -> None:
    """A folder of temporary files for this process alone: workers remove there what others have forgotten.

    pytest's own folders stay where they usually are. One thread a process, as results depend on it in their last digits.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="test-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def pytest_collection_finish(session) -> None:
    """What is loaded by now stays: Python needn't look through it at each `gc.collect`, which the worker does after each edit."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real test data; the test is skipped where it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, default))
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no test data at {folder}: set {DATA_VARIABLE} to the folder that holds manifest.csv")
    return folder

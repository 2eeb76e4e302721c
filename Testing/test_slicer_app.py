"""The script for the real application: its steps that need no window, on Slicer's own classes."""

import importlib.util
from pathlib import Path

import pytest
import slicer_runtime

slicer_runtime.start()

PATH = Path(__file__).with_name("slicer_app") / "check.py"


@pytest.fixture
def check():
    spec = importlib.util.spec_from_file_location("slicer_app_check", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_steps_without_a_window(check):
    from TumorSynthSlicer import sidecars

    logic = slicer_runtime.moduleLogic()
    sidecars.watchSaves()
    try:
        with slicer_runtime.freshScene():
            check.editAndSave()
    finally:
        sidecars.stopWatching()
        logic.close()


def test_a_failed_step_is_told(check, monkeypatch, capsys):
    monkeypatch.setattr(check, "STEPS", (lambda: 1 / 0,))
    check.STEPS[0].__doc__ = "Fails."
    assert check.main() == 1 and "ZeroDivisionError" in capsys.readouterr().err

"""The module in the application's hands: opened, left, reloaded, tested and unloaded, in the order in which Slicer calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("slicer_core")

TESTING = Path(__file__).resolve().parent
#: Each runs in a process of its own, as a reload drops the modules that other tests use.
BEGIN = """
import sys, traceback
sys.path.insert(0, sys.argv[1])
errors = []

def noted(kind, error, trace):
    errors.append("".join(traceback.format_exception(kind, error, trace)))
    print(errors[-1])

sys.excepthook = noted  # errors in slots and observers, which Qt and VTK print only
import panel_case
panel_case.start()
import slicer, slicer_runtime

def settle():
    panel = widget().panel
    panel_case.wait(lambda: not any(timer.active for timer in panel._timers) and panel.job is None, 60)

def widget():
    return slicer.modules.TumorSynthRadiomicsWidget

def done():
    widget().cleanup()
    assert not errors, errors
    print("done")

representation = slicer_runtime.openModule()
volume, segmentation, segmentID = panel_case.addTumour()
"""


def run(code: str, **environment) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(TESTING)],
        capture_output=True, text=True, timeout=180, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.splitlines()[-1:] == ["done"], done.stdout + done.stderr


def test_the_panel_lives_after_a_reload():
    """Slicer calls no `enter` after Reload: the panel shows the scene and reacts to the user nevertheless."""
    run("""
before = widget()
before.onReload()
assert widget() is not before and before.panel is None
panel = widget().panel
assert panel.parameters is not None and panel.active
ui = panel.ui
ui.inputVolumeSelector.setCurrentNode(volume)
ui.segmentSelector.setCurrentNode(segmentation)
ui.shapeButton.click()
settle()
assert panel.parameters.edit == "reshape" and panel.parameters.segmentID == segmentID
assert panel.tumour.measurement is not None or panel.tumour.error, "the tumour wasn't measured"
representation.self().exit()
representation.self().enter()
assert panel.parameters is not None
done()
""")


def test_leaving_after_the_panel_has_gone_is_no_error():
    """Slicer may call `exit` of a panel that was cleaned up, and `cleanup` twice."""
    run("""
panel_widget = widget()
panel_widget.cleanup()
panel_widget.exit()
panel_widget.enter()
panel_widget.cleanup()
done()
""")


def test_the_panel_is_connected_before_it_is_entered():
    run("""
import qt
from TumorSynthRadiomics import TumorSynthRadiomicsWidget
made = TumorSynthRadiomicsWidget()
assert made.panel.parameters is not None and not made.panel.active
made.cleanup()
done()
""")


def test_reload_and_test_without_torch_ends_without_an_error():
    """The self-test leaves out what needs torch, and says so."""
    run("""
from TumorSynthSlicer import dependencies
said = []
slicer.util.delayDisplay = lambda message, *rest: said.append(message)
widget().onReload()
from TumorSynthSlicer import dependencies
dependencies.missing = lambda: ["torch"]
import TumorSynthRadiomics
TumorSynthRadiomics.TumorSynthRadiomicsTest.delayDisplay = lambda self, message, *rest: said.append(message)
slicer.selfTests["TumorSynthRadiomics"](msec=1)
assert any("PyTorch isn't installed" in text for text in said), said
assert said[-1] == "Test passed"
done()
""")

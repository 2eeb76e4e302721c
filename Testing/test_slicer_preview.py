"""The preview of a shape: drawn by the worker, in the right place, one at a time, and never in the way."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer_case
import slicer_runtime
import vtk

from TumorSynthLib.errors import InputError, ModelError

LUNG = "lung-nodule-ct"
PLACE = (10.0, 20.0, 30.0)


@pytest.fixture(scope="module")
def worker():
    logic = slicer_runtime.moduleLogic()
    yield logic
    logic.close()


@pytest.fixture
def logic(worker):
    with slicer_runtime.freshScene():
        yield worker


def volumeOf(node) -> float:
    """mm³ inside the surface."""
    mass = vtk.vtkMassProperties()
    mass.SetInputData(node.GetPolyData())
    return mass.GetVolume()


def pollUntil(logic, condition, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it took too long"
        logic.poll()
        time.sleep(0.002)


def previews() -> int:
    return len(slicer.util.getNodes("Shape preview*"))


def test_it_has_the_asked_volume_and_place(logic):
    node = logic.previewShape(LUNG, {"volume_ml": 2.0}, seed=1, to=PLACE)
    assert volumeOf(node) == pytest.approx(2000.0, rel=0.1)
    bounds = np.array(node.GetPolyData().GetBounds()).reshape(3, 2)
    assert np.abs(bounds.mean(1) - PLACE).max() < 5.0
    same = logic.previewShape(LUNG, {"volume_ml": 4.0}, seed=1, to=PLACE, modelNode=node)
    assert same is node and not node.GetSaveWithScene()
    assert volumeOf(node) == pytest.approx(4000.0, rel=0.1)


def test_only_the_last_of_many_is_drawn(logic):
    shown = []
    for volume in (1.0, 2.0, 3.0, 8.0):
        asked = {"volume_ml": volume}
        assert (
            logic.previewShape(LUNG, asked, 1, PLACE, onDone=lambda node: shown.append(volumeOf(node)))
            is None
        )
    pollUntil(logic, lambda: len(shown) == 2)
    assert shown == [pytest.approx(1000.0, rel=0.1), pytest.approx(8000.0, rel=0.1)]
    assert not logic._previews.isRunning()


def test_what_can_not_be_drawn_is_said(logic):
    with pytest.raises(InputError, match="[Ss]phericity"):
        logic.previewShape(LUNG, {"sphericity": 2.0})
    with pytest.raises(ModelError, match="no model"):
        logic.previewShape("nothing", {"volume_ml": 1.0})
    errors, shown = [], []
    logic.previewShape(LUNG, {"sphericity": 2.0}, onDone=shown.append, onError=errors.append)
    pollUntil(logic, lambda: errors)
    assert not shown and previews() == 0


def test_a_scene_that_was_closed_gets_no_preview(logic):
    shown = []
    logic.previewShape(LUNG, {"volume_ml": 2.0}, onDone=shown.append)
    slicer_runtime.closeScene()
    node = logic.previewShape(LUNG, {"volume_ml": 3.0})
    assert not shown and previews() == 1 and volumeOf(node) == pytest.approx(3000.0, rel=0.1)


def test_a_node_that_was_deleted_meanwhile_is_made_anew(logic):
    node, shown = logic.previewShape(LUNG, {"volume_ml": 2.0}), []
    logic.previewShape(LUNG, {"volume_ml": 3.0}, modelNode=node, onDone=shown.append)
    slicer.mrmlScene.RemoveNode(node)
    pollUntil(logic, lambda: shown)
    assert shown[0] is not node and previews() == 1


def test_an_edit_goes_first(logic, shared_data):
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    shown, done = [], []
    for volume in (1.0, 2.0):
        logic.previewShape(LUNG, {"volume_ml": volume}, onDone=shown.append)
    job = logic.start("remove", volumeNode, segmentationNode, "tumour", LUNG, steps=1, onDone=done.append)
    with pytest.raises(InputError, match="under way"):
        logic.previewShape(LUNG, {"volume_ml": 2.0})
    slicer_case.drain(logic, job)
    assert len(done) == 1 and not shown and previews() == 0


SCRIPT = """
import sys, time
import slicer_runtime
slicer_runtime.start()
from TumorSynthSlicer import pipes
waits, readLines = [], pipes.ThreadPipe.readLines
pipes.ThreadPipe.readLines = lambda pipe, seconds=0.0: waits.append(seconds) or readLines(pipe, seconds)
logic = slicer_runtime.moduleLogic()
shown, moves = [], 0
while len(shown) < 3:
    if len(shown) == moves:
        moves += 1
        logic.previewShape("lung-nodule-ct", {"volume_ml": 1.0 * moves}, onDone=shown.append)
    logic.poll()
    time.sleep(0.002)
print([m for m in ("torch", "scipy", "TumorSynthLib.shape") if m in sys.modules], sorted(set(waits)))
logic.close()
"""


def test_it_neither_draws_here_nor_waits():
    """From the very first one, whose worker has yet to be started: what draws isn't imported, and no line is waited for."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] [0.0]\n"

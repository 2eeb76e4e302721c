"""The module in the real application: self-test, an edit, the ordinary Save, a reload. Exits with 1 where a step fails.

    Slicer --no-splash --testing --additional-module-paths TumorSynthRadiomics --python-script Testing/slicer_app/check.py

`workflow.yml` beside this file runs it in a container. Neither was run where this module was written, as the application can't be
had there: only the steps that need no window are tried by test_slicer_app.py, on Slicer's own classes.
"""

import json
import os
import sys
import tempfile
import traceback

import slicer

NAME, MODEL = "TumorSynthRadiomics", "lung-nodule-ct"


def selfTest():
    """The module's own test; what needs PyTorch is left out where it isn't installed."""
    slicer.selfTests[NAME](msec=1)


def panelOpens():
    """The panel is made of the genuine widgets, and shows the scene."""
    slicer.util.selectModule(NAME)
    widget = slicer.util.getModuleWidget(NAME)
    assert widget.panel is not None and widget.panel.parameters is not None
    assert "torch" not in sys.modules, "the application must not import torch"


def editAndSave():
    """A removal goes into a synthetic copy; Slicer's ordinary Save leaves a record beside its file."""
    from TumorSynthSlicer import nodes, self_test

    logic = slicer.util.getModuleLogic(NAME)
    volume, segmentation, mask = self_test.phantom()
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    before = slicer.util.arrayFromVolume(volume).copy()
    outcome = logic.remove(volume, segmentation, "nodule", "none", seed=1, output="syntheticCopy")
    assert (slicer.util.arrayFromVolume(volume) == before).all(), "the original changed"
    edited = slicer.util.arrayFromVolume(outcome.volumeNode)
    assert edited[mask].mean() < before[mask].mean() - 300, "the nodule is still there"
    assert outcome.volumeNode.GetAttribute("DICOM.instanceUIDs") is None
    assert nodes.isRemoved(outcome.segmentationNode, outcome.segmentID)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "edited.nrrd")
        assert slicer.util.saveNode(outcome.volumeNode, path)
        with open(os.path.join(folder, "edited.json"), encoding="utf-8") as file:
            assert json.load(file)["synthetic"] is True
        result = logic.saveResult(os.path.join(folder, "result.nii.gz"), outcome.entryID)
        assert os.path.isfile(result.replace(".nii.gz", "_mask.nii.gz"))
    logic.undo()
    assert (slicer.util.arrayFromVolume(outcome.volumeNode) == before).all(), "undo isn't exact"


def reload():
    """Reload leaves a living panel, and leaving it is no error."""
    old = slicer.util.getModuleWidget(NAME)
    old.onReload()
    new = slicer.util.getModuleWidget(NAME)
    assert new is not old and old.panel is None and new.panel.parameters is not None
    slicer.util.selectModule("Data")
    slicer.util.selectModule(NAME)
    assert new.panel.active


STEPS = (selfTest, panelOpens, editAndSave, reload)


def main() -> int:
    for step in STEPS:
        slicer.mrmlScene.Clear(False)
        print(f"{step.__name__}: {step.__doc__}")
        try:
            step()
        except Exception:
            traceback.print_exc()
            return 1
    print("all steps passed")
    return 0


if __name__ == "__main__":
    slicer.util.exit(main())

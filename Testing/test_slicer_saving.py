"""The synthetic mark and the patient's identifiers: what copies, edits and Slicer's ordinary Save do with them."""

import json
import os
import threading
import time

import numpy as np
import pytest
import slicer
import slicer_runtime

slicer_runtime.start()

from TumorSynthSlicer import history, nodes, self_test, sidecars, subject  # noqa: E402

from TumorSynthLib.errors import InputError  # noqa: E402
from TumorSynthLib.provenance import read_sidecar  # noqa: E402
from TumorSynthLib.volume import read_image  # noqa: E402

MODEL = self_test.MODEL
QUICK = {"steps": 1, "solve": False, "seed": 5}
UIDS = "1.2.840.1 1.2.840.2"


@pytest.fixture(scope="module")
def worker():
    logic = slicer_runtime.moduleLogic()
    yield logic
    logic.close()


@pytest.fixture
def case(worker):
    with slicer_runtime.freshScene():
        yield Case(worker)


class Case:
    """A CT as the DICOM module loads it, with a nodule."""

    def __init__(self, logic):
        self.logic = logic
        self.volume, self.segmentation, self.mask = self_test.phantom()
        self.volume.SetAttribute("DICOM.instanceUIDs", UIDS)
        self.volume.CreateDefaultDisplayNodes()
        self.before = self.voxels()

    def voxels(self, node=None) -> np.ndarray:
        return slicer.util.arrayFromVolume(node or self.volume).copy()

    def segmentMask(self, segment: str) -> np.ndarray:
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segment, self.volume) > 0

    def edit(self, name="synthesize", volume=None, segment="nodule", **options):
        given = (volume or self.volume, self.segmentation, segment, MODEL)
        quick = {"steps": 1, "seed": 5} if name == "remove" else QUICK
        return getattr(self.logic, name)(*given, **quick, **options)


def warm(case, **options):
    return case.edit(features={"mean_intensity": -50.0}, **options)


# Identifiers


def test_an_edited_volume_is_no_longer_the_patients_series(case):
    warm(case)
    assert case.volume.GetAttribute("DICOM.instanceUIDs") is None
    case.logic.undo()
    assert case.volume.GetAttribute("DICOM.instanceUIDs") == UIDS
    case.logic.redo()
    assert case.volume.GetAttribute("DICOM.instanceUIDs") is None


def test_copies_have_no_identifiers(case):
    outcome = warm(case, output="newVolume")
    assert case.volume.GetAttribute("DICOM.instanceUIDs") == UIDS
    made = [outcome.volumeNode, case.logic.keepAsNewVolume(outcome.entryID)]
    made += [case.logic.beforeVolume(outcome.entryID), case.logic.repeat(outcome.entryID).volumeNode]
    assert all(node.GetAttribute("DICOM.instanceUIDs") is None for node in made)
    case.logic.undo()
    assert outcome.volumeNode.GetAttribute("DICOM.instanceUIDs") is None


# Copies


def test_a_synthetic_copy_is_made_once_a_chain(case):
    first = warm(case, output="syntheticCopy")
    copy = first.volumeNode
    assert copy.GetName() == "Phantom (synthetic)" and copy.GetAttribute(nodes.SYNTHETIC) == "true"
    assert np.array_equal(case.voxels(), case.before) and case.volume.GetAttribute(nodes.SYNTHETIC) is None
    edited = case.voxels(copy)
    assert np.array_equal(edited[~case.mask], case.before[~case.mask])
    assert not np.array_equal(edited, case.before)
    second = case.edit("reshape", copy, features={"volume_ml": 0.5}, output="syntheticCopy")
    assert second.volumeNode is copy and first.segmentID == "nodule" != second.segmentID
    assert np.array_equal(case.segmentMask("nodule"), case.mask), "the original's segment stays"
    third = case.edit("reshape", copy, second.segmentID, features={"volume_ml": 0.4}, output="syntheticCopy")
    assert third.segmentID == second.segmentID, "the copy's own segment goes on"
    case.logic.undo()
    removed = case.edit("remove", copy, output="syntheticCopy")
    assert removed.segmentID not in ("nodule", second.segmentID)
    assert not nodes.isRemoved(case.segmentation, "nodule") and nodes.isRemoved(
        case.segmentation, removed.segmentID
    )
    case.logic.undo()
    case.logic.undo()
    case.logic.undo()
    assert np.array_equal(case.voxels(copy), case.before) and copy.GetAttribute(nodes.SYNTHETIC) is None
    third = warm(case, volume=copy, output="syntheticCopy")  # of a copy whose edits were taken back
    assert third.volumeNode is copy
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def test_a_copy_whose_edits_were_undone_is_taken_again(case):
    """Each edit that began with the original made another copy: (synthetic)_1, (synthetic)_2, …"""
    copy = warm(case, output="syntheticCopy").volumeNode
    case.logic.undo()
    again = case.edit("remove", output="syntheticCopy")
    assert again.volumeNode is copy and np.array_equal(case.voxels(), case.before)
    assert not np.array_equal(case.voxels(copy), case.before)
    other = warm(case, output="syntheticCopy").volumeNode  # the first one holds a removal
    assert other is not copy and other.GetName() == "Phantom (synthetic) 2"
    assert nodes.isRemoved(again.segmentationNode, again.segmentID) and again.segmentID != "nodule"


def test_a_copy_that_something_else_changed_is_not_taken_again(case):
    copy = warm(case, output="syntheticCopy").volumeNode
    case.logic.undo()
    slicer.util.arrayFromVolume(copy)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(copy)
    other = warm(case, output="syntheticCopy").volumeNode
    assert other is not copy and case.voxels(other)[0, 0, 0] == case.before[0, 0, 0]


def test_a_copy_looks_like_its_original(case):
    display = case.volume.GetDisplayNode()
    display.SetAutoWindowLevel(True)
    window = display.GetWindow(), display.GetLevel()
    copy = warm(case, output="syntheticCopy").volumeNode
    shown = copy.GetDisplayNode()
    assert shown is not display and (shown.GetWindow(), shown.GetLevel()) == window
    assert not shown.GetAutoWindowLevel()  # else an edit of a few voxels would change the contrast of all
    assert np.array_equal(nodes.volumeMatrix(copy), nodes.volumeMatrix(case.volume))
    assert copy.GetImageData().GetPointData().GetScalars().GetDataType() == (
        case.volume.GetImageData().GetPointData().GetScalars().GetDataType()
    )


def test_the_copy_is_made_by_another_thread_and_holds_what_was_there(case, monkeypatch):
    by, keep = [], np.copyto
    monkeypatch.setattr(np, "copyto", lambda *given: (by.append(threading.current_thread()), keep(*given)))
    copying = subject.Copying(case.volume)
    image = copying.image()
    assert by and threading.main_thread() not in by
    slicer.util.arrayFromVolume(case.volume)[:] = 0  # the copy is one
    made = subject.cloneVolume(case.volume, "copy", image)
    assert np.array_equal(case.voxels(made), case.before)


def test_voxels_that_changed_elsewhere_during_the_edit_are_in_the_copy(case):
    given = (case.volume, case.segmentation, "nodule", MODEL)
    options = {**QUICK, "features": {"mean_intensity": -50.0}, "output": "syntheticCopy"}
    job = case.logic.start("synthesize", *given, **options)
    array = slicer.util.arrayFromVolume(case.volume)
    array[0, 0, 0] = 77
    slicer.util.arrayFromVolumeModified(case.volume)
    assert case.voxels(job.wait(60).volumeNode)[0, 0, 0] == 77


def test_a_removal_marks_its_segment(case):
    """In place the segment says so; for a copy a segment of its own, as the original still has its tumour."""
    segmentation = case.segmentation.GetSegmentation()
    case.edit("remove")
    assert segmentation.GetSegment("nodule").GetName() == "nodule (removed)"
    assert nodes.isRemoved(case.segmentation, "nodule")
    case.logic.undo()
    assert segmentation.GetSegment("nodule").GetName() == "nodule"
    assert not nodes.isRemoved(case.segmentation, "nodule")
    outcome = case.edit("remove", output="syntheticCopy")
    assert outcome.segmentID != "nodule" and not nodes.isRemoved(case.segmentation, "nodule")
    assert segmentation.GetSegment(outcome.segmentID).GetName() == "nodule (removed)"
    assert nodes.isRemoved(case.segmentation, outcome.segmentID)
    there = nodes.maskOf(case.segmentation, outcome.segmentID, outcome.volumeNode).full(case.mask.shape)
    assert np.array_equal(there, case.mask)


# Files


def test_a_result_is_saved_with_mask_record_and_mark(case, tmp_path):
    outcome = warm(case, output="syntheticCopy")
    path = case.logic.saveResult(str(tmp_path / "out.nii.gz"), outcome.entryID)
    assert sorted(os.listdir(tmp_path)) == ["out.json", "out.nii.gz", "out_mask.nii.gz"]
    image, mask = read_image(path), read_image(tmp_path / "out_mask.nii.gz")
    assert np.array_equal(image.array, case.voxels(outcome.volumeNode))
    assert np.array_equal(mask.array > 0, case.mask) and mask.same_grid(image)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["synthetic"] is True and record["files"] == {
        "result": "out.nii.gz",
        "mask": "out_mask.nii.gz",
    }
    assert "SYNTHETIC" in image.metadata["descrip"]


def test_saving_a_result_overwrites_no_other_file(case, tmp_path):
    (tmp_path / "out.json").write_text('{"EchoTime": 0.08}')
    warm(case)
    with pytest.raises(InputError, match="another name"):
        case.logic.saveResult(str(tmp_path / "out.nii.gz"))
    assert os.listdir(tmp_path) == ["out.json"]
    case.logic.saveResult(str(tmp_path / "again.nii.gz"))
    case.logic.saveResult(str(tmp_path / "again.nii.gz"))  # its own files may be replaced


@pytest.fixture
def watched():
    sidecars.watchSaves()
    yield
    sidecars.stopWatching()


def test_the_ordinary_save_writes_a_sidecar(case, watched, tmp_path):
    """Slicer's storage node writes no attribute of a volume, so the mark goes beside the file."""
    copy = warm(case, output="syntheticCopy").volumeNode
    time.sleep(0.02)
    slicer.util.saveNode(case.volume, str(tmp_path / "original.nrrd"))
    slicer.util.saveNode(copy, str(tmp_path / "copy.nrrd"))
    assert sorted(os.listdir(tmp_path)) == ["copy.json", "copy.nrrd", "original.nrrd"]
    record = read_sidecar(tmp_path / "copy.nrrd")
    assert record["synthetic"] is True and record["files"] == {"result": "copy.nrrd"}
    assert len(record["edits"]) == 1
    case.edit("reshape", copy, features={"volume_ml": 0.5})
    time.sleep(0.02)
    slicer.util.saveNode(copy, str(tmp_path / "copy.nrrd"))
    assert [r["operation"] for r in read_sidecar(tmp_path / "copy.nrrd")["edits"]] == [
        "synthesize",
        "reshape",
    ]


def test_a_file_that_was_not_written_gets_no_sidecar(case, watched, tmp_path):
    """The original file of a volume that was edited in place, while the scene goes into a bundle elsewhere."""
    path = tmp_path / "patient.nrrd"
    slicer.util.saveNode(case.volume, str(path))
    os.utime(path, (path.stat().st_mtime - 60,) * 2)  # a minute before the edit
    warm(case)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    assert sorted(os.listdir(tmp_path)) == ["patient.nrrd", "scene.mrb"]


def test_a_sidecar_of_somebody_else_stays(case, watched, tmp_path):
    """Programs that convert DICOM put JSON files beside their images, too."""
    theirs = tmp_path / "scan.json"
    theirs.write_text('{"EchoTime": 0.08}')
    warm(case)
    time.sleep(0.02)
    slicer.util.saveNode(case.volume, str(tmp_path / "scan.nrrd"))
    assert theirs.read_text() == '{"EchoTime": 0.08}'
    assert json.loads((tmp_path / "scan.synthetic.json").read_text())["synthetic"] is True


def test_a_series_is_marked_when_it_is_saved(case, watched, tmp_path):
    outcome = case.edit("series", feature="volume_ml", values=["0.8x", "1.2x"])
    time.sleep(0.02)
    sequence = outcome.sequenceNodes[0]
    slicer.util.saveNode(sequence, str(tmp_path / "series.seq.nrrd"))
    record = json.loads((tmp_path / "series.seq.json").read_text())
    assert record["synthetic"] is True and len(record["edits"]) == 2
    assert history.provenanceOf(sequence.GetNthDataNode(1))[-1] == record["edits"][-1]

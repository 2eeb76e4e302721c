"""Every task of the module by its logic, on real MRML with the bundled models: voxels, geometry, undo, scenes, errors."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer_case
import slicer_runtime

from TumorSynthLib.errors import InputError
from TumorSynthLib.models import find
from TumorSynthLib.volume import read_image

slicer_runtime.start()

from TumorSynthSlicer import history, nodes  # noqa: E402
from TumorSynthSlicer.edits import MARGIN  # noqa: E402

LUNG, SARCOMA = "lung-nodule-ct", "soft-tissue-sarcoma"
QUICK = {"steps": 1, "solve": False, "seed": 5}  # one evaluation of the network


@pytest.fixture(scope="module")
def worker():
    """One logic, and so one worker process, for all tests of this file."""
    logic = slicer_runtime.moduleLogic()
    yield logic
    logic.close()
    assert not logic._client.isRunning()


@pytest.fixture
def logic(worker):
    with slicer_runtime.freshScene():
        yield worker


def voxels(node) -> np.ndarray:
    return slicer.util.arrayFromVolume(node).copy()


def centre(segmentationNode) -> np.ndarray:
    return np.array(segmentationNode.GetSegmentCenterRAS("tumour"))


def test_measure_equals_the_engine(logic, shared_data):
    from TumorSynthLib.editor import Editor

    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    found = logic.measure(volumeNode, segmentationNode, "tumour", LUNG)
    image = read_image(shared_data / "pyradiomics" / "lung1_image.nrrd")
    assert found.features == Editor(LUNG).extract(image, mask)
    assert found.voxels == mask.sum() and found.unit == "HU" and found.modality == "CT"
    assert 0 < found.percentiles["original_firstorder_Mean"] < 100
    done = []
    job = logic.start("measure", volumeNode, segmentationNode, "tumour", LUNG, onDone=done.append)
    slicer_case.drain(logic, job)
    assert done[0].measurement.features == pytest.approx(found.features)
    assert logic.history() == []


def test_measure_without_a_fitting_model_warns(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.brain(shared_data)
    found = logic.measure(volumeNode, segmentationNode, "tumour", SARCOMA)
    assert found.voxels == mask.sum() and len(found.features) > 100 and found.warnings
    assert "unlike those that model 'soft-tissue-sarcoma'" in " ".join(found.warnings)
    volumeNode, segmentationNode, _mask = slicer_case.sarcoma(shared_data)
    assert not logic.measure(volumeNode, segmentationNode, "tumour", SARCOMA).warnings


def test_remove_keeps_all_else_and_undo_is_exact(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    before, matrix = voxels(volumeNode), nodes.volumeMatrix(volumeNode)
    outcome = logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1, seed=5)
    after = voxels(volumeNode)
    assert outcome.volumeNode is volumeNode and np.array_equal(nodes.volumeMatrix(volumeNode), matrix)
    assert np.array_equal(before[~mask], after[~mask]) and (before[mask] != after[mask]).mean() > 0.9
    assert after[mask].mean() < before[mask].mean() - 200
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape), mask)
    assert logic.canUndo() and not logic.canRedo()
    assert logic.undo().id == outcome.entryID and np.array_equal(voxels(volumeNode), before)
    assert volumeNode.GetAttribute("TumorSynth.synthetic") is None
    assert logic.redo().id == outcome.entryID and np.array_equal(voxels(volumeNode), after)
    record = history.provenanceOf(volumeNode)[0]
    assert record["synthetic"] is True and record["operation"] == "remove"
    assert record["model"]["sha256"] == find(LUNG).sha256 and "research use" in record["statement"]


def test_same_voxels_as_the_engine(logic, shared_data):
    from TumorSynthLib.editor import Editor, EditRequest
    from TumorSynthLib.volume import read_mask

    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    features = {"original_glcm_Contrast": 20.0}
    logic.synthesize(volumeNode, segmentationNode, "tumour", LUNG, features=features, **QUICK)
    folder = shared_data / "pyradiomics"
    image = read_image(folder / "lung1_image.nrrd")
    result = Editor(LUNG).synthesize(
        image, read_mask(folder / "lung1_label.nrrd", image), EditRequest(features=features, **QUICK)
    )
    assert (
        np.abs(voxels(volumeNode).astype(int) - result.volume.array).max() <= 1
    )  # float rounding between processes


def test_donor_of_another_scan(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.sarcoma(shared_data)
    folder = shared_data / "sts" / "val"
    donor = slicer_case.load(folder / "STS_040_T1_image.nii.gz", folder / "STS_040_T1_mask.nii.gz", "donor")
    before = voxels(volumeNode)
    outcome = logic.retexture(
        volumeNode,
        segmentationNode,
        "tumour",
        SARCOMA,
        donor=(donor[0], donor[1], "tumour"),
        output="newVolume",
        **QUICK,
    )
    after = voxels(outcome.volumeNode)
    assert outcome.volumeNode is not volumeNode and np.array_equal(voxels(volumeNode), before)
    assert outcome.volumeNode.GetName() == "sarcoma tumour retextured"
    assert np.array_equal(after[~mask], before[~mask]) and not np.array_equal(after[mask], before[mask])
    wanted = logic.measure(donor[0], donor[1], "tumour", SARCOMA).features
    assert outcome.asked["original_firstorder_Mean"] == pytest.approx(wanted["original_firstorder_Mean"])
    assert outcome.volumeNode.GetAttribute("TumorSynth.synthetic") == "true"
    assert volumeNode.GetAttribute("TumorSynth.synthetic") is None


def test_move_under_a_rotated_and_scaled_transform(logic, shared_data):
    """The same edit with and without a transform on both nodes gives the same voxels, and the place is the world's."""
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    item = segmentationNode.GetSegmentation().GetSegment("tumour")
    item.SetColor(0.9, 0.1, 0.2)
    before, start = voxels(volumeNode), centre(segmentationNode)
    # A rotation only: with a scale the model's grid would be another one.
    matrix = slicer_case.rotated(25.0, 1.0, (30.0, 0.0, -10.0))
    transform = slicer_case.transformNode(matrix)
    for node in (volumeNode, segmentationNode):
        node.SetAndObserveTransformNodeID(transform.GetID())
    target = (matrix @ np.array([*(start + (-10.0, -14.0, 5.0)), 1.0]))[:3]
    outcome = logic.move(volumeNode, segmentationNode, "tumour", LUNG, to=target, **QUICK)
    moved = nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape)
    assert moved.sum() == mask.sum() and not np.array_equal(moved, mask)
    reached = (np.argwhere(moved).mean(0) - np.argwhere(mask).mean(0)) * (5.0, 0.5703125, 0.5703125)
    assert np.abs(reached - (5.0, 14.0, 10.0)).max() < 2.6  # k, j, i; half a slice
    after = voxels(volumeNode)
    assert np.array_equal(after[~(mask | moved)], before[~(mask | moved)])
    assert after[moved].mean() > after[mask & ~moved].mean() + 100
    assert segmentationNode.GetSegmentation().GetSegment("tumour").GetColor() == (0.9, 0.1, 0.2)
    assert outcome.segmentID == "tumour" and outcome.volumeNode.GetParentTransformNode() is transform
    logic.undo()
    assert np.array_equal(voxels(volumeNode), before)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape), mask)
    logic.redo()
    assert np.array_equal(voxels(volumeNode), after)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape), moved)


def test_scaled_transform_counts_in_the_measurement(logic, shared_data):
    volumeNode, segmentationNode, _mask = slicer_case.sarcoma(shared_data)
    plain = logic.measure(volumeNode, segmentationNode, "tumour", SARCOMA).features
    transform = slicer_case.transformNode(slicer_case.rotated(40.0, 1.5))
    for node in (volumeNode, segmentationNode):
        node.SetAndObserveTransformNodeID(transform.GetID())
    scaled = logic.measure(volumeNode, segmentationNode, "tumour", SARCOMA).features
    ratio = scaled["original_shape_MeshVolume"] / plain["original_shape_MeshVolume"]
    assert ratio == pytest.approx(1.5**3, rel=0.02)


def test_segmentation_of_another_grid(logic, shared_data):
    """A segment drawn on a finer grid is edited on the volume's."""
    volumeNode, segmentationNode, mask = slicer_case.sarcoma(shared_data)
    coarse = slicer.util.arrayFromVolume(volumeNode)
    fine = np.repeat(np.repeat(np.repeat(mask, 2, 0), 2, 1), 2, 2)
    matrix = nodes.volumeMatrix(volumeNode)
    half = matrix @ np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = (matrix @ np.array([-0.25, -0.25, -0.25, 1.0]))[:3]
    other = slicer.util.addVolumeFromArray(np.zeros(fine.shape, np.uint8), ijkToRAS=half, name="fine")
    fineNode = slicer_case.segmentation(other, fine, "Fine")
    assert np.array_equal(nodes.maskOf(fineNode, "tumour", volumeNode).full(mask.shape), mask)
    before = coarse.copy()
    logic.remove(volumeNode, fineNode, "tumour", SARCOMA, steps=1)
    after = voxels(volumeNode)
    assert np.array_equal(before[~mask], after[~mask]) and not np.array_equal(before[mask], after[mask])


def test_reshape_and_insert(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.sarcoma(shared_data)
    before = voxels(volumeNode)
    outcome = logic.reshape(
        volumeNode, segmentationNode, "tumour", SARCOMA, features={"volume_ml": 30.0}, **QUICK
    )
    smaller = nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape)
    assert smaller.sum() == pytest.approx(0.5 * mask.sum(), rel=0.1)
    assert outcome.reached["original_shape_MeshVolume"] == pytest.approx(30000.0, rel=0.05)
    assert np.array_equal(voxels(volumeNode)[~(mask | smaller)], before[~(mask | smaller)])
    logic.undo()
    assert np.array_equal(voxels(volumeNode), before)
    there = set(segmentationNode.GetSegmentation().GetSegmentIDs())
    inserted = logic.insert(
        volumeNode, segmentationNode, "", SARCOMA, to=centre(segmentationNode) + (4.0, 0.0, 0.0),
        features={"volume_ml": 5.0}, nearest=True, **QUICK,
    )  # fmt: skip
    new = set(segmentationNode.GetSegmentation().GetSegmentIDs()) - there
    assert new == {inserted.segmentID}
    item = segmentationNode.GetSegmentation().GetSegment(inserted.segmentID)
    assert item.GetName() == "Inserted tumour" and "Mass" in inserted_terminology(item)
    made = nodes.maskOf(segmentationNode, inserted.segmentID, volumeNode).full(mask.shape)
    assert np.array_equal(voxels(volumeNode)[~made], before[~made]) and not np.array_equal(
        voxels(volumeNode), before
    )
    logic.undo()
    assert set(segmentationNode.GetSegmentation().GetSegmentIDs()) == there
    assert np.array_equal(voxels(volumeNode), before)
    logic.redo()
    assert np.array_equal(
        nodes.maskOf(segmentationNode, inserted.segmentID, volumeNode).full(mask.shape), made
    )


def inserted_terminology(item) -> str:
    import vtk

    value = vtk.reference("")
    assert item.GetTag("TerminologyEntry", value)
    return str(value)


def test_insert_makes_a_segmentation_where_there_is_none(logic, shared_data):
    volumeNode, segmentationNode, _mask = slicer_case.sarcoma(shared_data)
    place = centre(segmentationNode)
    slicer.mrmlScene.RemoveNode(segmentationNode)
    outcome = logic.insert(volumeNode, modelID=SARCOMA, to=place, features={"volume_ml": 4.0}, **QUICK)
    assert outcome.segmentationNode.GetName() == "sarcoma tumour"
    found = outcome.segmentationNode.GetSegmentCenterRAS(outcome.segmentID)
    assert np.abs(np.array(found) - place).max() < 4.0


def test_series_becomes_a_sequence(logic, shared_data, tmp_path):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    before = voxels(volumeNode)
    outcome = logic.series(
        volumeNode, segmentationNode, "tumour", LUNG, feature="volume_ml", values=[0.8, "1x", 2.0], **QUICK
    )
    volumes, masks = outcome.sequenceNodes
    assert np.array_equal(voxels(volumeNode), before) and volumes.GetNumberOfDataNodes() == 3
    assert volumes.GetNthIndexValue(0) == "0.8" and volumes.GetIndexName() == "volume_ml"
    sizes = []
    for i in range(3):
        image = slicer.util.arrayFromVolume(volumes.GetNthDataNode(i)).copy()
        segmentation = masks.GetNthDataNode(i)
        sizes.append(slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, "tumour").sum())
        assert (image != before).any() and volumes.GetNthDataNode(i).GetAttribute(
            "TumorSynth.synthetic"
        ) == "true"
    assert sizes == sorted(sizes) and sizes[2] > 2.0 * sizes[0]
    entry = logic.history()[0]
    assert entry.edit == "series" and not entry.undoable and not logic.canUndo()
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert len(browsers) == 1 and browsers[0].GetNumberOfSynchronizedSequenceNodes() in (1, 2)
    browsers[0].SetSelectedItemNumber(2)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browsers[0])
    assert np.array_equal(voxels(browsers[0].GetProxyNode(volumes)), image)
    assert np.array_equal(voxels(volumeNode), before)
    assert slicer.util.saveScene(str(tmp_path / "series.mrb"))
    slicer_runtime.closeScene()
    slicer.util.loadScene(str(tmp_path / "series.mrb"))
    loaded = [
        n for n in slicer.util.getNodesByClass("vtkMRMLSequenceNode") if n.GetIndexName() == "volume_ml"
    ]
    assert sorted(n.GetNumberOfDataNodes() for n in loaded) == [3, 3]


def test_history_and_voxels_survive_the_scene_file(logic, shared_data, tmp_path):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    before = voxels(volumeNode)
    logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1, seed=3)
    removed = voxels(volumeNode)
    target = centre(segmentationNode) + (-10.0, -14.0, 0.0)
    logic.move(volumeNode, segmentationNode, "tumour", LUNG, to=target, **QUICK)
    table = logic.featureTable(logic.history()[1].id)
    rows, moved = table.GetNumberOfRows(), voxels(volumeNode)
    newMask = nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape)
    records = history.provenanceOf(volumeNode)
    entries = logic.history()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer_runtime.closeScene()
    assert logic.history() == [] and not logic.canUndo()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    volumeNode, segmentationNode = slicer.util.getNode("lung1"), slicer.util.getNode("Segmentation")
    assert history.provenanceOf(volumeNode) == records
    loaded = logic.history()
    assert [e.id for e in loaded] == [e.id for e in entries] and all(e.undoable for e in loaded)
    assert [e.title for e in loaded] == ["Remove: lung1", "Move: lung1"]
    assert np.array_equal(voxels(volumeNode), moved)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape), newMask)
    assert logic.featureTable(loaded[1].id).GetNumberOfRows() == rows
    logic.undo()
    assert np.array_equal(voxels(volumeNode), removed)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape), mask)
    logic.undo()
    assert np.array_equal(voxels(volumeNode), before) and not logic.canUndo()


def test_repeat_gives_the_same_voxels(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    first = logic.synthesize(volumeNode, segmentationNode, "tumour", LUNG, features={"entropy": 4.0}, **QUICK)
    wanted = voxels(volumeNode)
    logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1)
    again = logic.repeat(first.entryID)
    assert again.volumeNode is not volumeNode and np.array_equal(voxels(again.volumeNode), wanted)
    assert not any("exactly" in text for text in again.warnings)
    options = logic.repeatOptions(first.entryID)
    assert options["edit"] == "synthesize" and options["options"]["features"] == {"entropy": 4.0}


def test_a_repetition_stays_in_the_organ(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    organ = np.zeros_like(mask)
    organ[
        tuple(slice(a - 12, b + 13) for a, b in zip(np.argwhere(mask).min(0), np.argwhere(mask).max(0)))
    ] = True
    organNode = slicer_case.segmentation(volumeNode, organ, "Organ")
    options = {
        "to": centre(segmentationNode) + (-30.0, -14.0, 0.0),
        "inside": (organNode,),
        "nearest": True,
        **QUICK,
    }
    first = logic.move(volumeNode, segmentationNode, "tumour", LUNG, **options)
    wanted = voxels(volumeNode)
    moved = nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape)
    assert (moved & organ).sum() > 0.9 * moved.sum()
    slicer.mrmlScene.RemoveNode(organNode)
    assert np.array_equal(voxels(logic.repeat(first.entryID).volumeNode), wanted)


def test_copies_before_and_after(logic, shared_data, tmp_path):
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    before = voxels(volumeNode)
    first = logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1)
    removed = voxels(volumeNode)
    logic.synthesize(volumeNode, segmentationNode, "tumour", LUNG, **QUICK)
    shown = logic.beforeVolume(first.entryID)
    assert np.array_equal(voxels(shown), before) and shown.GetAttribute("TumorSynth.synthetic") is None
    logic.hideBefore()
    assert slicer.mrmlScene.GetFirstNodeByName("lung1 before") is None
    kept = logic.keepAsNewVolume(first.entryID)
    assert np.array_equal(voxels(kept), removed) and len(history.provenanceOf(kept)) == 1
    path = logic.saveResult(str(tmp_path / "removed.nrrd"), first.entryID)
    file = read_image(path)
    assert np.array_equal(file.array, removed) and file.metadata["synthetic"] == "true"
    assert json.loads((tmp_path / "removed.json").read_text())["operation"] == "remove"
    assert file.same_grid(nodes.volumeOf(volumeNode))


def test_report_and_plot(logic, shared_data, tmp_path):
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    features = {"original_glcm_Contrast": 20.0, "mean_intensity": 0.0}
    outcome = logic.synthesize(volumeNode, segmentationNode, "tumour", LUNG, features=features, **QUICK)
    page = logic.saveReport(str(tmp_path / "report"))
    assert "Contrast" in Path(page).read_text(encoding="utf-8")
    chart = logic.featurePlot(outcome.entryID)
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    table = logic.featureTable(outcome.entryID)
    titles = [table.GetColumnName(i) for i in range(table.GetNumberOfColumns())]
    row = next(
        r
        for r in range(table.GetNumberOfRows())
        if table.GetCellText(r, titles.index("Name")).endswith("glcm_Contrast")
    )
    assert float(table.GetCellText(row, titles.index("Asked"))) == pytest.approx(20.0)
    reached = outcome.reached["original_glcm_Contrast"]
    assert float(table.GetCellText(row, titles.index("Reached"))) == pytest.approx(reached, rel=1e-4)


def test_check_says_what_is_missing(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    arguments = (volumeNode, segmentationNode, "tumour", LUNG)
    fine = logic.check("synthesize", *arguments)
    assert fine.ok and fine.seconds > 0 and fine.bytes > 1e8 and fine.modality == "CT"
    own = logic.check("remove", *arguments)
    assert (
        own.ok and own.engine == "exemplar" and own.seconds == 0 and not own.missing
    )  # not told, not invented
    place = segmentationNode.GetSegmentCenterRAS("tumour")
    new = logic.check("insert", *arguments, to=place, features={"volume_ml": 2.0})
    assert new.seconds > 5 and new.bytes > 4e8
    assert logic.check("insert", *arguments, to=place).seconds == 0
    assert logic.check("move", *arguments, to=place, features={"volume_ml": 2.0}).ok
    reasons = {
        "remove": (None, None, "", LUNG),
        "synthesize": (volumeNode, segmentationNode, "other", LUNG),
        "move": arguments,
        "retexture": arguments,
        "reshape": arguments,
        "paint": arguments,
    }
    for edit, given in reasons.items():
        reason = logic.check(edit, *given).reason
        assert reason and "\n" not in reason, edit
    assert "no model" in logic.check("remove", volumeNode, segmentationNode, "tumour", "nothing").reason
    assert "impossible" in logic.check("synthesize", *arguments, features={"entropy": -1.0}).reason
    assert "no option" in logic.check("synthesize", *arguments, colour=3).reason
    unusual = logic.check("synthesize", *arguments, features={"contrast": 500.0, "intensity_sd": 5.0})
    assert unusual.ok and unusual.warnings


class Counted:
    """Stands for a volume's voxels: gives parts of them and counts what it gave; nothing else can be done with it."""

    def __init__(self, array: np.ndarray):
        self._array, self.given = array, 0
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size

    def __getitem__(self, box) -> np.ndarray:
        part = self._array[box]
        self.given += part.size
        return part

    def __array__(self, *_arguments, **_options):
        raise AssertionError("the whole image was read")


def test_a_check_costs_no_more_in_a_large_volume(logic, monkeypatch):
    """After the first look at the image only the tumour's surroundings are read, and the segment's mask isn't made again."""
    array = np.full((180, 200, 220), -850, np.int16)
    array[:, :40] = -1000
    array[::7, 100::5, ::3] = 60
    tumour = np.s_[80:100, 90:120, 90:120]
    array[tumour] = 40
    mask = np.zeros(array.shape, bool)
    mask[tumour] = True
    volumeNode = slicer.util.addVolumeFromArray(array, name="large")
    arguments = ("retexture", volumeNode, slicer_case.segmentation(volumeNode, mask), "tumour", LUNG)
    options = {"features": {"contrast": 9.0}, "strength": 1.0}
    first = logic.check(*arguments, **options)
    assert first.reason == ""
    counted = Counted(slicer.util.arrayFromVolume(volumeNode))
    monkeypatch.setattr(slicer.util, "arrayFromVolume", lambda node: counted)
    monkeypatch.setattr(nodes, "labelmapOf", None)
    assert logic.check(*arguments, **options) == first
    around = np.prod([n + 2 * (MARGIN + 2) for n in (20, 30, 30)])  # 1 mm a voxel
    assert 0 < counted.given <= around < 0.2 * array.size
    with pytest.raises(AssertionError, match="whole image"):
        np.asarray(counted)


def test_the_nearest_request_is_the_engines(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    arguments = (volumeNode, segmentationNode, "tumour", LUNG)
    options = {"features": {"contrast": 500.0, "intensity_sd": 5.0}, **QUICK}
    told = logic.check("synthesize", *arguments, **options).used
    outcome = logic.synthesize(*arguments, **options)
    for name, asked in outcome.asked.items():
        assert outcome.used[name] == pytest.approx(told.get(name, asked), rel=0.05), name


def test_errors_change_nothing(logic, shared_data):
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    before = voxels(volumeNode)
    with pytest.raises(InputError, match="would leave"):
        logic.move(volumeNode, segmentationNode, "tumour", LUNG, to=(500.0, 0.0, 0.0), **QUICK)
    assert np.array_equal(voxels(volumeNode), before) and logic.history() == []
    errors = []
    job = logic.start(
        "move", volumeNode, segmentationNode, "tumour", LUNG, to=(500.0, 0.0, 0.0), onError=errors.append
    )
    slicer_case.drain(logic, job)
    assert len(errors) == 1 and "would leave" in errors[0] and logic.currentJob() is None
    logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1)


def test_voxels_that_changed_meanwhile_are_not_overwritten(logic, shared_data):
    volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
    errors = []
    job = logic.start("remove", volumeNode, segmentationNode, "tumour", LUNG, onError=errors.append, steps=1)
    logic.poll()
    slicer.util.arrayFromVolume(volumeNode)[mask] += 1
    slicer.util.arrayFromVolumeModified(volumeNode)
    changed = voxels(volumeNode)
    slicer_case.drain(logic, job)
    assert "was changed during the edit" in errors[0] and np.array_equal(voxels(volumeNode), changed)
    outcome = logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1)
    slicer.util.arrayFromVolume(volumeNode)[mask] += 1
    slicer.util.arrayFromVolumeModified(volumeNode)
    with pytest.raises(InputError, match="changed by something else"):
        logic.undo()
    assert logic.history()[0].id == outcome.entryID and not logic.history()[0].undone


def test_new_edit_forgets_what_was_undone(logic, shared_data):
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1, seed=1)
    logic.undo()
    second = logic.remove(volumeNode, segmentationNode, "tumour", LUNG, steps=1, seed=2)
    assert [e.id for e in logic.history()] == [second.entryID] and not logic.canRedo()


def test_cancel_and_progress(logic, shared_data):
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    before, seen, ends = voxels(volumeNode), [], []
    callbacks = {
        "onProgress": lambda *event: seen.append(event),
        "onDone": lambda outcome: ends.append("done"),
        "onError": lambda text: ends.append(text),
        "onCancel": lambda: ends.append("cancelled"),
    }
    job = logic.start("synthesize", volumeNode, segmentationNode, "tumour", LUNG, **callbacks, steps=50)
    with pytest.raises(InputError, match="under way"):
        logic.start("remove", volumeNode, segmentationNode, "tumour", LUNG)
    while not any(stage == "texture" for stage, *_ in seen):
        logic.poll()
        time.sleep(0.005)
    job.cancel()  # waits no longer than the client's GRACE, whatever the worker does
    assert ends == ["cancelled"] and not job.isRunning() and logic.currentJob() is None
    logic.poll()
    assert np.array_equal(voxels(volumeNode), before) and logic.history() == []
    seen.clear()
    job = logic.start("remove", volumeNode, segmentationNode, "tumour", LUNG, steps=2, **callbacks)
    slicer_case.drain(logic, job)
    fractions = [fraction for _stage, fraction, _rest in seen]
    assert (
        ends == ["cancelled", "done"]
        and fractions == sorted(fractions)
        and 0 <= fractions[0] <= fractions[-1] <= 1
    )
    assert {"transfer", "start", "prepare", "texture", "measure", "receive"} >= {s for s, *_ in seen} - {
        "model"
    }


def test_closing_the_scene_or_deleting_a_node_ends_the_edit(logic, shared_data):
    for end in (slicer_runtime.closeScene, lambda: slicer.mrmlScene.RemoveNode(slicer.util.getNode("lung1"))):
        volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
        ends = []
        job = logic.start(
            "synthesize", volumeNode, segmentationNode, "tumour", LUNG, steps=50,
            onCancel=lambda ends=ends: ends.append("cancelled"), onError=ends.append,
        )  # fmt: skip
        for _ in range(3):
            logic.poll()
        del volumeNode
        end()
        assert ends == ["cancelled"] and not job.isRunning() and logic.currentJob() is None
        slicer_runtime.closeScene()


def test_feature_rows(logic):
    rows = {row.key: row for row in logic.features(LUNG)}
    volume = rows["volume_ml"]
    assert volume.unit == "ml" and volume.factor == 1000.0 and volume.kind == "shape"
    population = find(LUNG).population("CT")
    column = population.values[:, population.names.index("original_shape_MeshVolume")]
    assert volume.percentiles[50] == pytest.approx(np.median(column) / 1000)
    assert rows["intensity_sd"].percentiles[50] > 0 and rows["intensity_sd"].unit == "HU"
    assert {row.kind for row in logic.features(LUNG, edit="synthesize")} == {"texture"}
    assert logic.features(LUNG, edit="remove") == []
    labels = [row.label for row in rows.values()]
    assert all(labels) and len(set(labels)) == len(labels)


def test_models_and_suggestion(logic, shared_data):
    assert {LUNG, SARCOMA} <= {row.id for row in logic.models()}
    row = next(row for row in logic.models() if row.id == LUNG)
    assert row.status == "bundled" and not row.removable and row.bytes > 1e6 and "remove" in row.edits
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    assert logic.suggestModel(volumeNode, segmentationNode, "tumour") == LUNG
    volumeNode, segmentationNode, _mask = slicer_case.sarcoma(shared_data)
    assert logic.suggestModel(volumeNode, segmentationNode, "tumour") == SARCOMA
    assert logic.suggestModel(None) == ""

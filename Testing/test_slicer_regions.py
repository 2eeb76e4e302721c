"""Tumours of several regions by the module's logic, on real MRML: one region is edited, the others stay."""

from types import SimpleNamespace

import numpy as np
import pytest
import region_case
import slicer
import slicer_case
import slicer_runtime
from region_case import ID, REGIONS

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import find

slicer_runtime.start()

from TumorSynthSlicer import edits, history, nodes, regions  # noqa: E402

QUICK = {"steps": 1, "solve": False, "seed": 5}
SEGMENTS = {"necrosis": "core", "enhancing": "rim"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """One logic for all tests, whose worker knows the model too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("models")
        patch.setenv("TUMORSYNTH_MODELS", str(folder))
        region_case.model(folder)
        logic = slicer_runtime.moduleLogic()
        yield logic
        logic.close()


@pytest.fixture
def logic(worker):
    with slicer_runtime.freshScene():
        yield worker


def voxels(node) -> np.ndarray:
    return slicer.util.arrayFromVolume(node).copy()


def test_the_model_says_its_regions_and_what_it_can_do(logic):
    row = next(row for row in logic.models() if row.id == ID)
    assert row.regions == ("necrosis", "enhancing")
    assert row.edits == ("measure", "remove", "synthesize", "retexture")
    assert next(row for row in logic.models() if row.id == "lung-nodule-ct").regions == ()


def test_segments_are_found_by_their_names_or_as_said(logic):
    _volume, segmentation, _labels = region_case.addTumour()
    assert logic.assignRegions(ID, segmentation) == SEGMENTS
    swapped = {"necrosis": "rim", "enhancing": "core"}
    assert logic.assignRegions(ID, segmentation, swapped) == swapped
    assert logic.assignRegions(ID, segmentation, {"necrosis": ""}) == {"enhancing": "rim"}
    segmentation.GetSegmentation().GetSegment("core").SetName("Segment_1")
    assert logic.assignRegions(ID, segmentation) == {"enhancing": "rim"}
    for wrong, said in (({"oedema": "rim"}, "no region oedema"), ({"necrosis": "other"}, "no segment other")):
        with pytest.raises(InputError, match=said):
            logic.assignRegions(ID, segmentation, wrong)
    with pytest.raises(InputError, match="two regions"):
        logic.assignRegions(ID, segmentation, {"necrosis": "rim", "enhancing": "rim"})


@pytest.mark.parametrize("region", REGIONS)
def test_each_region_is_measured_among_its_own_kind(logic, region):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    found = logic.measure(volumeNode, segmentationNode, SEGMENTS[region], ID)
    own = voxels(volumeNode)[labels == REGIONS[region]]
    assert found.region == region and found.voxels == own.size
    assert found.features["original_firstorder_Mean"] == pytest.approx(own.mean())
    population = find(ID).painting(region).population("CT")
    column = population.values[:, population.names.index("original_firstorder_Mean")]
    expected = 100 * (column < own.mean()).mean()
    assert found.percentiles["original_firstorder_Mean"] == pytest.approx(expected, abs=10)
    rows = {row.key: row for row in logic.features(ID, "CT", region=region)}
    assert rows["mean_intensity"].percentiles[50] == pytest.approx(np.median(column), rel=1e-5)
    done = []
    job = logic.start("measure", volumeNode, segmentationNode, SEGMENTS[region], ID, onDone=done.append)
    slicer_case.drain(logic, job)
    assert (
        done[0].measurement.features == pytest.approx(found.features) and done[0].measurement.region == region
    )
    assert done[0].measurement.percentiles == pytest.approx(found.percentiles)


@pytest.mark.parametrize("region", REGIONS)
def test_one_region_changes_and_undo_is_exact(logic, region):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    before, own = voxels(volumeNode), labels == REGIONS[region]
    features = {"mean_intensity": 70.0}
    outcome = logic.retexture(volumeNode, segmentationNode, SEGMENTS[region], ID, features=features, **QUICK)
    after = voxels(volumeNode)
    assert np.array_equal(after[~own], before[~own]) and (after[own] != before[own]).mean() > 0.5
    assert logic.history()[0].title == f"Texture ({region}): glioma"
    assert history.provenanceOf(volumeNode)[0]["request"]["region"] == region
    assert set(outcome.asked) == {"original_firstorder_Mean"}
    for name, segment in SEGMENTS.items():
        mask = nodes.maskOf(segmentationNode, segment, volumeNode).full(labels.shape)
        assert np.array_equal(mask, labels == REGIONS[name])  # all segments are as they were
    logic.undo()
    assert np.array_equal(voxels(volumeNode), before)
    logic.redo()
    assert np.array_equal(voxels(volumeNode), after)
    again = logic.repeat(outcome.entryID)
    assert np.array_equal(voxels(again.volumeNode), after) and not any("exactly" in t for t in again.warnings)


def test_same_voxels_as_the_engine_which_sees_the_other_region(logic):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    before = voxels(volumeNode)
    logic.synthesize(volumeNode, segmentationNode, "core", ID, **QUICK)
    volume, _labels = region_case.tumour()
    editor, request = Editor(ID, "cpu"), EditRequest(region="necrosis", **QUICK)
    expected = editor.synthesize(volume, labels, request).volume.array
    assert np.abs(voxels(volumeNode).astype(int) - expected).max() <= 1  # float rounding between processes
    logic.undo()
    assert np.array_equal(voxels(volumeNode), before)
    logic.synthesize(volumeNode, segmentationNode, "core", ID, regions={"enhancing": ""}, **QUICK)
    alone = editor.synthesize(volume, labels == 1, request).volume.array
    assert np.abs(voxels(volumeNode).astype(int) - alone).max() <= 1 and not np.array_equal(alone, expected)


def test_remove_takes_the_segment_or_the_whole_tumour(logic):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    before = voxels(volumeNode)
    logic.remove(volumeNode, segmentationNode, "core", ID, steps=1)
    assert np.array_equal(voxels(volumeNode)[labels != 1], before[labels != 1])
    logic.undo()
    outcome = logic.remove(volumeNode, segmentationNode, "core", ID, whole=True, steps=1)
    after = voxels(volumeNode)
    assert np.array_equal(after[labels == 0], before[labels == 0])
    for label in REGIONS.values():
        assert (after[labels == label] != before[labels == label]).mean() > 0.9
    again = logic.repeat(outcome.entryID)
    assert np.array_equal(voxels(again.volumeNode), after)
    for name, segment in SEGMENTS.items():  # which still say where the tumour was
        mask = nodes.maskOf(segmentationNode, segment, volumeNode).full(labels.shape)
        assert np.array_equal(mask, labels == REGIONS[name])


def test_a_donor_gives_its_texture_to_one_region(logic):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    before = voxels(volumeNode)
    other = slicer_case.segmentation(volumeNode, labels == 4, "Donor")
    outcome = logic.retexture(
        volumeNode, segmentationNode, "core", ID, donor=(volumeNode, other, "tumour"), **QUICK
    )
    assert outcome.asked["original_firstorder_Mean"] == pytest.approx(before[labels == 4].mean())
    assert np.array_equal(voxels(volumeNode)[labels != 1], before[labels != 1])


def test_regions_survive_the_scene_file(logic, tmp_path):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    before = voxels(volumeNode)
    outcome = logic.synthesize(
        volumeNode, segmentationNode, "rim", ID, features={"mean_intensity": 80.0}, **QUICK
    )
    after = voxels(volumeNode)
    assert logic.saveReport(str(tmp_path / "report"), [outcome.entryID])
    assert logic.featurePlot(outcome.entryID).GetNumberOfPlotSeriesNodes() == 2
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer_runtime.closeScene()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    volumeNode = slicer.util.getNode("glioma")
    logic.undo()
    assert np.array_equal(voxels(volumeNode), before)
    logic.redo()
    again = logic.repeat(logic.history()[0].id)
    assert np.array_equal(voxels(again.volumeNode), after)


def test_what_can_not_be_done_says_why(logic):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    given = (volumeNode, segmentationNode, "core", ID)
    assert logic.check("retexture", *given, features={"contrast": 9.0}).ok
    assert "can't move" in logic.check("move", *given, to=(0.0, 0.0, 0.0)).reason
    assert "only remove" in logic.check("synthesize", *given, whole=True).reason
    one = logic.check("remove", volumeNode, segmentationNode, "core", "lung-nodule-ct", regions=SEGMENTS)
    assert "one region only" in one.reason
    segmentationNode.GetSegmentation().GetSegment("core").SetName("Segment_1")
    assert "say which region" in logic.check("synthesize", *given).reason
    assert logic.check("synthesize", *given, regions={"necrosis": "core"}).ok
    whole = tuple(slice(0, n) for n in labels.shape)
    nodes.setMask(segmentationNode, "core", nodes.Mask(whole, labels > 0), volumeNode)
    assert "overlap" in logic.check("synthesize", *given, regions={"necrosis": "core"}).reason
    assert logic.suggestModel(volumeNode, segmentationNode, "rim") in ("generic-ct", ID)


@pytest.mark.parametrize("segment, label, ml", [("core", 1, 0.2), ("rim", 4, 1.2)])
def test_other_segments_stay_as_other_labels_do_on_the_command_line(logic, segment, label, ml):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    before = voxels(volumeNode)
    request = {"features": {"volume_ml": ml}, "seed": 1}
    outcome = logic.reshape(volumeNode, segmentationNode, segment, "generic-ct", **request)
    after, others = voxels(volumeNode), (labels > 0) & (labels != label)
    assert (after != before)[labels == label].any() and not (after != before)[others].any()
    other = "Necrosis" if segment == "rim" else "Enhancing tumour"
    said = sum(f"{other}, next to the tumour, is left as it is" in text for text in outcome.warnings)
    assert said == (segment == "core")  # which the rim surrounds
    made = Editor("generic-ct").reshape(
        region_case.tumour()[0], labels == label, EditRequest(**request, avoid=others)
    )
    assert np.array_equal(made.volume.array, after)
    logic.undo()
    entry = logic.history()[-1]
    assert np.array_equal(voxels(logic.repeat(entry.id).volumeNode), after)


def test_a_segment_of_an_organ_or_of_another_volume_does_not_stay(logic):
    volumeNode, segmentationNode, labels = region_case.addTumour()
    for segment in ("core", "rim"):
        segmentationNode.GetSegmentation().GetSegment(segment).SetName(
            "Liver" if segment == "rim" else "core"
        )
    to = np.array(segmentationNode.GetSegmentCenterRAS("core")) + (0, -12.0, 0)
    moved = logic.move(volumeNode, segmentationNode, "core", "generic-ct", to=to, output="syntheticCopy")
    assert any("Liver is taken for the tumour's organ" in text for text in moved.warnings)
    assert moved.segmentID != "core" and moved.volumeNode is not volumeNode
    shows = [
        history.showsTumourOf(node, segmentationNode, segment)
        for node in (volumeNode, moved.volumeNode)
        for segment in ("core", moved.segmentID, "rim")
    ]
    assert shows == [True, False, True, False, True, True]
    logic.undo()
    assert history.showsTumourOf(moved.volumeNode, segmentationNode, "core")


def test_a_new_tumour_has_the_model_of_its_place(logic, monkeypatch):
    from TumorSynthSlicer import model_rows

    seen = []
    monkeypatch.setattr(
        model_rows, "suited", lambda *given: seen.append(given) or SimpleNamespace(model_id="", reason="none")
    )
    volumeNode, segmentationNode, labels = region_case.addTumour()
    with pytest.raises(InputError):
        logic.start(
            "insert",
            volumeNode,
            to=(1.0, 2.0, 3.0),
            inside=(segmentationNode, "rim"),
            features={"volume_ml": 1},
        )
    _volume, _mask, _texts, _modality, at, _whole, inside, _avoid = seen[0]
    assert at == (-1.0, -2.0, 3.0) and np.array_equal(inside, labels == 4)


def test_an_avoided_segment_is_not_cut_off_with_what_is_far(logic, monkeypatch):
    monkeypatch.setattr(regions, "NEAR", 0.0)
    monkeypatch.setattr(regions, "WIDE", 0.0)
    volumeNode, segmentationNode, labels = region_case.addTumour()
    options = {"avoid": (segmentationNode, "rim")}
    given = edits.Input.of("remove", volumeNode, segmentationNode, "core", "generic-ct", options)
    regions.keepOthers(given)
    assert np.array_equal(given.masks["avoid"].full(labels.shape), labels == 4)

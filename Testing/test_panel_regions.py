"""The panel with a model of several regions: which segment is which, and one of them edited at a time."""

import numpy as np
import panel_case
import pytest
from panel_case import measured, opened
from panel_double import MODELS, FakeLogic, api

GLIOMA = api.ModelRow(
    "glioma",
    "Glioma",
    regions=("necrosis", "enhancing"),
    edits=("measure", "remove", "synthesize", "retexture"),
)


def addRim(case) -> str:
    """A second segment beside the tumour's."""
    import slicer

    segmentID = case.segmentation.GetSegmentation().AddEmptySegment("rim", "Rim")
    mask = np.zeros((10, 12, 14), np.uint8)
    mask[3:7, 3:8, 9:12] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, case.segmentation, segmentID, case.volume)
    return segmentID


@pytest.fixture
def case():
    logic = FakeLogic()
    logic.modelRows = [*MODELS, GLIOMA]
    with measured(logic) as made:
        made.rim = addRim(made)
        made.root.show()
        made.ui.modelSelector.activated.emit(made.ui.modelSelector.findData("glioma"))
        made.settle()
        yield made
        made.root.hide()


def choose(case, region, segmentID):
    selector = case.widget(f"{region}_region")
    selector.activated.emit(selector.findData(segmentID))
    case.settle()


def test_a_model_with_one_region_shows_nothing_of_it():
    with measured() as case:
        case.root.show()
        case.task("removeButton")
        assert not case.ui.regionOptions.visible and not case.ui.wholeCheckBox.visible
        case.ui.generateButton.click()
        assert not {"regions", "whole"} & set(case.logic.called("start")[-1][2])
        case.root.hide()


def test_each_region_has_a_list_of_the_segments(case):
    assert case.ui.regionOptions.visible
    for region in GLIOMA.regions:
        selector = case.widget(f"{region}_region")
        assert [selector.itemText(i) for i in range(selector.count)] == ["None", "Tumour", "Rim"]
        assert selector.currentIndex == 0
    case.segmentation.GetSegmentation().GetSegment(case.rim).SetName("Enhancing rim")
    case.settle()
    assert case.widget("necrosis_region").findText("Enhancing rim") == 2
    case.ui.modelSelector.activated.emit(case.ui.modelSelector.findData("sarcoma"))
    case.settle()
    assert not case.ui.regionOptions.visible


def test_the_chosen_segment_must_be_a_region(case):
    case.task("textureButton")
    measurements = len([job for job in case.logic.jobs if job.edit == "measure"])
    assert "which region" in case.ui.generateButton.toolTip and not case.ui.measureButton.enabled
    choose(case, "necrosis", case.segmentID)
    assert case.logic.jobs[-1].edit == "measure" and len(case.logic.jobs) == measurements + 1
    assert case.logic.called("start")[-1][2] == {"regions": {"necrosis": case.segmentID, "enhancing": ""}}
    assert case.logic.called("features")[-1] == ("features", "glioma", "necrosis")
    case.widget("contrast_slider").value = 700
    case.settle()
    assert case.ui.generateButton.enabled, case.ui.generateButton.toolTip


def test_another_region_is_edited_by_choosing_its_segment(case):
    choose(case, "necrosis", case.segmentID)
    choose(case, "enhancing", case.rim)
    case.task("textureButton")
    case.ui.segmentSelector.setCurrentSegmentID(case.rim)
    case.settle()
    assert case.logic.called("features")[-1] == ("features", "glioma", "enhancing")
    case.widget("contrast_slider").value = 700
    case.settle()
    case.ui.generateButton.click()
    job = case.logic.jobs[-1]
    assert job.edit == "retexture" and job.arguments[2] == case.rim
    assert job.arguments[4]["regions"] == {"necrosis": case.segmentID, "enhancing": case.rim}


def test_a_segment_is_one_region_only(case):
    choose(case, "necrosis", case.segmentID)
    choose(case, "enhancing", case.segmentID)
    assert case.panel.tumour.regions.options()["regions"] == {"necrosis": "", "enhancing": case.segmentID}
    assert case.widget("necrosis_region").currentIndex == 0
    case.segmentation.GetSegmentation().RemoveSegment(case.segmentID)
    case.settle()
    assert case.panel.tumour.regions.options()["regions"] == {"necrosis": "", "enhancing": ""}


def test_remove_takes_all_regions_unless_told_otherwise(case):
    choose(case, "necrosis", case.segmentID)
    choose(case, "enhancing", case.rim)
    case.task("removeButton")
    assert case.ui.wholeCheckBox.visible and case.ui.wholeCheckBox.checked
    case.ui.generateButton.click()
    options = case.logic.called("start")[-1][2]
    assert options["whole"] is True and "grow" not in options  # the engine finds how far the tumour goes
    case.logic.jobs[-1].cancel()
    case.ui.wholeCheckBox.click()
    case.settle()
    case.ui.generateButton.click()
    options = case.logic.called("start")[-1][2]
    assert options["whole"] is False and options["grow"] == 0.0  # what lies around it may be the other region
    case.task("moveButton")
    assert not case.ui.wholeCheckBox.visible and "model can't" in case.ui.moveButton.toolTip


def test_the_choice_comes_back_with_the_scene(case, tmp_path):
    import slicer

    choose(case, "enhancing", case.segmentID)
    for node, end in ((case.volume, ".nrrd"), (case.segmentation, ".seg.nrrd")):
        assert slicer.util.saveNode(node, str(tmp_path / node.GetName()) + end)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Clear(False)
    case.settle()
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    case.settle()
    assert case.ui.regionOptions.visible
    assert case.panel.tumour.regions.options()["regions"] == {"necrosis": "", "enhancing": case.segmentID}


def test_a_choice_that_can_not_be_read_is_forgotten(case):
    for text in ("nonsense", "[]", '{"oedema": "rim"}', '{"necrosis": "gone"}', "null"):
        case.panel.parameters.regionSegments = text
        case.settle()
        assert case.panel.tumour.regions.options()["regions"] == {"necrosis": "", "enhancing": ""}


def test_nothing_is_cut_off(case):
    choose(case, "necrosis", case.segmentID)
    case.root.setFixedWidth(350)
    panel_case.wait(seconds=0.05)
    assert case.root.minimumSizeHint.width() <= 350


def test_real_logic_and_model(tmp_path, monkeypatch):
    """Clicks on the real logic with a real model: the core changes, and nothing else."""
    import slicer

    panel_case.start()
    import region_case
    import slicer_runtime

    slicer_runtime.loadModule()
    from TumorSynthRadiomics import TumorSynthRadiomicsLogic

    monkeypatch.setenv("TUMORSYNTH_MODELS", str(tmp_path))
    region_case.model(tmp_path)
    with opened(enter=False) as case:
        volume, segmentation, labels = region_case.addTumour()
        case.panel.logic = case.logic = logic = TumorSynthRadiomicsLogic()
        try:
            case.panel.enter()
            case.ui.modelSelector.activated.emit(case.ui.modelSelector.findData(region_case.ID))
            panel_case.wait(lambda: case.panel.tumour.measurement is not None, 120)
            panel_case.wait(lambda: case.panel.tumour.measurement.region == "necrosis", 120)
            before = slicer.util.arrayFromVolume(volume).copy()
            case.task("textureButton")
            case.widget("mean_intensity_spin").value = 60.0
            case.ui.solveCheckBox.checked = False
            panel_case.wait(lambda: case.ui.generateButton.enabled, 120)
            case.ui.generateButton.click()
            panel_case.wait(lambda: case.panel.job is None, 120)
            after = slicer.util.arrayFromVolume(case.panel.parameters.inputVolume)  # the copy
            assert np.array_equal(after[labels != 1], before[labels != 1])
            assert (after[labels == 1] != before[labels == 1]).mean() > 0.5
            assert "(necrosis)" in case.ui.historyTree.topLevelItem(0).text(0)
        finally:
            case.panel.cancel()
            logic.close()

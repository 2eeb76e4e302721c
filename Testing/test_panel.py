"""The panel driven by clicks, on real MRML nodes and a double of the logic: what is shown, what is asked, what can be pressed."""

import panel_case
import pytest
from panel_case import measured, opened

TASK_BUTTONS = ("removeButton", "textureButton", "shapeButton", "moveButton", "insertButton", "seriesButton")


def place(case, position=(1.0, 2.0, 3.0)):
    """A point list with one point, chosen."""
    import slicer

    point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "there")
    point.AddControlPoint(*position)
    case.ui.pointSelector.setCurrentNode(point)
    case.settle()
    return point


def texts(tree, column):
    return [tree.topLevelItem(i).text(column) for i in range(tree.topLevelItemCount)]


def last(case, name="start"):
    """Options of the last call of a method of the logic."""
    return case.logic.called(name)[-1]


# 1 Tumour


def test_an_empty_scene_says_what_to_do():
    with opened() as case:
        case.settle()
        assert "volume" in case.ui.generateButton.toolTip and not case.ui.generateButton.enabled
        assert case.ui.estimateLabel.text == case.ui.generateButton.toolTip
        assert not case.ui.featureTree.visible
        assert case.logic.jobs == []


def test_the_tumour_is_measured_when_it_is_chosen():
    with measured() as case:
        assert [job.edit for job in case.logic.jobs] == ["measure"]
        drivers = [row for row in case.logic.rows if row.role == "driver"]
        tree = case.ui.featureTree
        assert texts(tree, 0) == [row.label for row in drivers]
        assert texts(tree, 1)[0] == "12 ml" and texts(tree, 2)[0] == "62 %"
        assert tree.topLevelItem(0).toolTip(0).split("\n")[0] == drivers[0].meaning
        assert not tree.topLevelItem(0).icon(2).isNull()


def test_it_is_measured_again_when_it_has_changed_only():
    import numpy as np
    import slicer

    with measured() as case:
        case.panel.exit()
        case.panel.enter()
        case.settle()
        assert len(case.logic.jobs) == 1
        case.panel.exit()
        slicer.util.updateVolumeFromArray(case.volume, np.ones((10, 12, 14), np.int16))
        case.panel.enter()
        case.settle()
        assert len(case.logic.jobs) == 2


def test_search_and_all_features():
    with measured() as case:
        case.ui.allFeaturesCheckBox.click()
        assert case.ui.featureTree.topLevelItemCount == len(case.logic.rows)
        case.ui.featureSearch.text = "zone small"
        assert 0 < case.ui.featureTree.topLevelItemCount < 10


def test_a_failed_measurement_is_said_and_not_repeated():
    from panel_double import FakeLogic

    with measured(FakeLogic(autoMeasure=False)) as case:
        assert "measured" in case.ui.generateButton.toolTip
        case.logic.jobs[0].fail("The image doesn't look like CT.")
        case.settle()
        assert case.ui.measureMessage.text == "The image doesn't look like CT."
        assert len(case.logic.jobs) == 1 and case.ui.measureButton.enabled
        case.ui.measureButton.click()
        assert len(case.logic.jobs) == 2


def test_the_only_volume_and_segmentation_are_taken():
    with opened(enter=False) as case:
        volume, segmentation, segmentID = panel_case.addTumour()
        case.panel.enter()
        assert case.ui.inputVolumeSelector.currentNode() is volume
        assert (case.panel.parameters.segmentation, case.panel.parameters.segmentID) == (
            segmentation,
            segmentID,
        )
        assert case.panel.parameters.modelID == "lung-nodule-ct"


# 2 Edit


@pytest.mark.parametrize("button", TASK_BUTTONS)
def test_each_edit_shows_what_it_needs(button):
    from TumorSynthSlicer.panel_edit import OPTIONAL, TASKS

    with measured() as case:
        case.root.show()
        case.task(button)
        edit = next(edit for edit, widgets in TASKS.items() if widgets[0] == button)
        assert case.panel.parameters.edit == edit and getattr(case.ui, button).checked
        shown = {name for name in OPTIONAL if getattr(case.ui, name).visible}
        assert shown == set(TASKS[edit][1:])
        case.root.hide()


def test_remove_asks_for_nothing_else():
    with measured() as case:
        case.task("removeButton")
        case.ui.growSpinBox.value = 1.5
        case.settle()
        case.ui.generateButton.click()
        assert last(case) == ("start", "remove", {"grow": 1.5, "seed": 0, "output": "syntheticCopy"})


def test_a_slider_sets_its_feature_and_the_others_stay():
    with measured() as case:
        case.task("textureButton")
        case.widget("contrast_slider").value = 900
        contrast = case.widget("contrast_spin").value
        case.settle()
        case.ui.generateButton.click()
        features = last(case)[2]["features"]
        assert set(features) == {"mean_intensity", "contrast"}
        assert features["contrast"] == pytest.approx(contrast)
        row = next(row for row in case.logic.rows if row.key == "mean_intensity")
        assert features["mean_intensity"] == pytest.approx(1.2 * row.percentiles[50])


def test_keep_free_and_set():
    with measured() as case:
        case.task("textureButton")
        mode, spin = case.widget("skewness_mode"), case.widget("skewness_spin")
        for name in ("set", "free", "keep"):
            mode.currentIndex = mode.findData(name)
            mode.activated.emit(mode.currentIndex)
            asked = case.panel.editSection.features.asked().get("skewness")
            assert asked == {"set": spin.value, "free": None, "keep": pytest.approx(21.6)}[name]


def test_a_number_moves_the_slider():
    with measured() as case:
        case.task("textureButton")
        slider, before = case.widget("entropy_slider"), case.widget("entropy_slider").value
        case.widget("entropy_spin").value = 5.0
        assert slider.value < before and case.widget("entropy_mode").currentText == "Set"


def test_presets():
    with measured() as case:
        case.task("shapeButton")
        selector = case.ui.presetSelector
        selector.activated.emit(selector.findData("shape/double"))
        volume = case.widget("volume_ml_spin").value
        assert volume == pytest.approx(24.0, rel=1e-3)
        features = case.panel.editSection.features.asked()
        assert set(features) == {"volume_ml", "sphericity", "elongation", "flatness"}
        selector.activated.emit(selector.findData("shape/keep"))
        assert not case.panel.editSection.features.changes()


def test_reshape_wants_a_change_and_insert_a_place():
    with measured() as case:
        case.task("shapeButton")
        assert "Nothing is asked" in case.ui.generateButton.toolTip
        case.task("insertButton")
        assert "Place" in case.ui.generateButton.toolTip
        place(case)
        assert case.ui.generateButton.enabled
        case.ui.generateButton.click()
        assert last(case)[2]["to"] == (1.0, 2.0, 3.0) and "inside" not in last(case)[2]


def test_insert_keeps_nothing_of_the_tumour():
    with measured() as case:
        case.task("insertButton")
        assert case.widget("volume_ml_mode").findData("keep") == -1
        assert case.panel.editSection.features.asked() == {}


def test_insert_needs_no_segment():
    with opened() as case:
        volume, segmentation, _ = panel_case.addTumour()
        segmentation.GetSegmentation().RemoveAllSegments()
        case.choose(volume, None)
        case.task("insertButton")
        place(case)
        assert case.ui.generateButton.enabled, case.ui.generateButton.toolTip


def interactionNode():
    import slicer

    return slicer.app.applicationLogic().GetInteractionNode()


def move_mouse(point) -> int:
    """The mouse enters a view in place mode: the point list gets a preview of the point; returns its index."""
    index = point.AddControlPointWorld(9.0, 9.0, 9.0)
    point.SetNthControlPointPositionWorld(index, 9.0, 9.0, 9.0, point.PositionPreview)
    return index


def click(point, position) -> None:
    """A click in a view: the preview becomes a point, then place mode ends, as it isn't persistent."""
    index = move_mouse(point)
    point.SetNthControlPointPositionWorld(index, *position, point.PositionDefined)
    interactionNode().SwitchToViewTransformMode()


def test_place_mode_ends_with_the_click():
    with measured() as case:
        case.task("moveButton")
        case.ui.placeButton.click()
        point, interaction = case.panel.parameters.point, interactionNode()
        assert point is not None and case.ui.pointSelector.currentNode() is point
        assert interaction.GetCurrentInteractionMode() == interaction.Place
        click(point, (4.0, 5.0, 6.0))
        case.settle()
        assert not case.ui.placeButton.checked
        assert interaction.GetCurrentInteractionMode() != interaction.Place
        assert case.ui.positionLabel.text == "R 4, A 5, S 6 mm"


def test_a_placement_that_is_given_up_leaves_the_point():
    """Esc, a right click or another tool end place mode: the button follows, and the point that was there stays."""
    with measured() as case:
        case.task("moveButton")
        point = place(case)
        case.ui.placeButton.click()
        index = move_mouse(point)
        assert case.ui.placeButton.checked and case.ui.positionLabel.text == "R 1, A 2, S 3 mm"
        interactionNode().SwitchToViewTransformMode()
        point.RemoveNthControlPoint(index)
        case.settle()
        assert not case.ui.placeButton.checked and case.panel.editSection.place.position() == (1.0, 2.0, 3.0)


def test_a_point_that_is_placed_anew_replaces_the_earlier_one():
    with measured() as case:
        case.task("moveButton")
        point = place(case)
        for there in ((4.0, 5.0, 6.0), (7.0, 8.0, 9.0)):
            case.ui.placeButton.click()
            click(point, there)
            case.settle()
            assert case.panel.editSection.place.position() == there and point.GetNumberOfControlPoints() == 1


def test_points_that_the_user_made_for_something_else_stay():
    with measured() as case:
        case.task("moveButton")
        points = place(case)
        points.AddControlPoint(2.0, 2.0, 2.0)
        case.ui.placeButton.click()
        placed = case.panel.parameters.point
        click(placed, (4.0, 5.0, 6.0))
        case.settle()
        assert placed is not points and points.GetNumberOfControlPoints() == 2
        assert case.panel.editSection.place.position() == (4.0, 5.0, 6.0)


def test_placing_something_else_does_not_press_the_button():
    import slicer

    with measured() as case:
        case.task("moveButton")
        other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "other")
        slicer.modules.markups.logic().SetActiveList(other)
        slicer.modules.markups.logic().StartPlaceMode(False)
        assert not case.ui.placeButton.checked
        case.ui.placeButton.click()
        assert case.ui.placeButton.checked
        slicer.modules.markups.logic().SetActiveList(other)
        assert not case.ui.placeButton.checked
        case.panel.editSection.place.stop()
        assert interactionNode().GetCurrentInteractionMode() == interactionNode().Place  # the other's
        interactionNode().SwitchToViewTransformMode()


def test_a_donor():
    with measured() as case:
        other, donors, donorID = panel_case.addTumour("other")
        case.task("textureButton")
        case.ui.donorCheckBox.click()
        case.settle()
        assert "donor" in case.ui.generateButton.toolTip
        case.ui.donorVolumeSelector.setCurrentNode(other)
        case.ui.donorSegmentSelector.setCurrentNode(donors)
        case.settle()
        case.ui.generateButton.click()
        assert last(case)[2]["donor"] == (other, donors, donorID)


def test_a_series():
    with measured() as case:
        case.task("seriesButton")
        assert "Choose the feature" in case.ui.generateButton.toolTip
        selector = case.ui.seriesFeatureSelector
        selector.activated.emit(selector.findData("volume_ml"))
        case.ui.seriesCountSpinBox.value = 3
        case.settle()
        case.ui.generateButton.click()
        assert last(case)[2]["feature"] == "volume_ml" and "output" not in last(case)[2]
        assert last(case)[2]["values"] == pytest.approx([6.0, 12.0, 24.0], rel=1e-3)


def test_any_feature_can_be_asked_for():
    with measured() as case:
        case.task("textureButton")
        case.ui.advancedCheckBox.click()
        case.ui.advancedSearch.text = "RunEntropy"
        tree = case.ui.advancedTree
        assert texts(tree, 0) == ["RunEntropy"]
        tree.topLevelItem(0).setSelected(True)
        case.widget("original_glrlm_RunEntropy_spin").value = 3.0
        assert case.panel.editSection.features.asked()["original_glrlm_RunEntropy"] == 3.0
        assert texts(tree, 2) == ["3"]


def test_a_model_that_can_not_do_an_edit():
    with measured() as case:
        case.ui.modelSelector.activated.emit(case.ui.modelSelector.findData("sarcoma"))
        case.task("moveButton")
        assert "model can't" in case.ui.generateButton.toolTip and "model can't" in case.ui.moveButton.toolTip


def test_the_preview_follows_the_sliders_and_goes():
    import slicer

    def models():
        return slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLModelNode")

    with measured() as case:
        case.task("shapeButton")
        before = models()
        case.widget("sphericity_slider").value = 800
        case.settle()
        case.widget("sphericity_slider").value = 900
        case.settle()
        assert models() == before + 1
        first, second = case.logic.called("previewShape")[-2:]
        assert first[3] is None and second[3] is not None and second[1]["sphericity"] > first[1]["sphericity"]
        assert len(second[2]) == 3
        case.ui.previewCheckBox.click()
        assert models() == before


# Before Generate


def test_the_line_above_generate():
    from panel_double import api

    with measured() as case:
        case.task("shapeButton")
        case.widget("volume_ml_slider").value = 700
        case.settle()
        assert case.ui.estimateLabel.text == "On the processor, about 6 s, 900 MB of memory."
        case.task("textureButton")
        case.logic.nextCheck = api.Check(
            device="cuda", seconds=0.4, bytes=2e9, warnings=("the slices are thick",), missing=("PyTorch",),
            used={"original_glcm_Contrast": 12.0},
        )  # fmt: skip
        case.widget("contrast_slider").value = 990
        case.settle()
        assert case.ui.estimateLabel.text == "On the graphics card, about less than a second, 2 GB of memory."
        lines = case.ui.warningLabel.text.split("\n")
        assert lines[0] == "The slices are thick." and "PyTorch" in lines[1] and "Contrast 12" in lines[2]


def test_an_edit_that_can_not_be_done_says_why():
    from panel_double import api

    with measured() as case:
        case.logic.nextCheck = api.Check(reason="The tumour is larger than supported.")
        case.task("removeButton")
        assert not case.ui.generateButton.enabled
        assert (
            case.ui.generateButton.toolTip
            == case.ui.estimateLabel.text
            == "The tumour is larger than supported."
        )


def test_a_user_who_declines_the_packages_loses_nothing():
    from panel_double import api

    with measured() as case:
        case.logic.nextCheck = api.Check(missing=("PyTorch",))
        case.logic.missing = ["PyTorch"]
        case.task("removeButton")
        case.ui.generateButton.click()
        assert case.logic.called("installDependencies") and len(case.logic.jobs) == 1
        assert case.ui.generateButton.enabled and "Nothing was installed" in case.ui.outcomeLabel.text


def test_what_needs_no_package_asks_for_none():
    from panel_double import api

    with measured() as case:
        case.logic.missing = ["PyTorch"]  # of the edits with a network
        case.logic.nextCheck = api.Check(engine="exemplar")
        case.task("removeButton")
        assert case.ui.estimateLabel.text == ""  # no invented duration
        case.ui.generateButton.click()
        assert not case.logic.called("installDependencies") and case.logic.jobs[-1].edit == "remove"


def test_nothing_is_generated_while_nothing_is_asked():
    with measured() as case:
        case.task("textureButton")
        assert "Nothing is asked for" in case.ui.generateButton.toolTip
        case.widget("contrast_slider").value = 700
        case.settle()
        assert case.ui.generateButton.enabled


def test_what_is_asked_of_one_edit_is_not_asked_of_another():
    with measured() as case:
        case.task("insertButton")
        place(case)
        case.widget("volume_ml_spin").value = 3.0
        case.widget("contrast_spin").value = 5.0
        case.settle()
        for button in ("shapeButton", "textureButton"):
            case.task(button)
            assert not case.ui.generateButton.enabled and not case.panel.editSection.features.changes()


def test_the_pattern_is_kept_as_far_as_told():
    """70 % by default; the network's own options are shown and sent only where it draws."""
    with measured() as case:
        case.task("textureButton")
        case.widget("contrast_slider").value = 700
        case.settle()
        case.ui.generateButton.click()
        options = last(case)[2]
        assert options["strength"] == pytest.approx(0.3) and "samples" not in options
        assert case.ui.samplesSpinBox.isHidden()
        case.logic.jobs[-1].cancel()
        case.ui.keepSpinBox.value = 0
        case.settle()
        case.ui.generateButton.click()
        assert last(case)[2]["strength"] == 1.0 and last(case)[2]["samples"] == 1
        assert not case.ui.samplesSpinBox.isHidden()


def test_a_place_is_found_for_a_new_tumour():
    with measured() as case:
        case.task("insertButton")
        case.ui.autoPlaceCheckBox.click()
        case.widget("volume_ml_spin").value = 3.0
        case.settle()
        assert case.ui.placeButton.isHidden() and case.ui.pointSelector.isHidden()
        case.ui.generateButton.click()
        assert last(case)[2]["to"] == "auto"
        case.logic.jobs[-1].cancel()
        case.task("moveButton")
        assert (
            case.ui.autoPlaceCheckBox.isHidden() and "Place the new centre" in case.ui.generateButton.toolTip
        )


def test_where_no_model_is_made_for_the_organ_the_one_for_any_is_taken_and_says_why():
    """It has no network, so that nothing of one is offered."""
    from panel_double import FakeLogic, api

    logic = FakeLogic()
    logic.modelRows = [
        *logic.modelRows,
        api.ModelRow(
            "generic-mr", "Any organ (MR)", organ="any", modalities=("MR",), edits=api.EDITS, network=False
        ),
    ]
    logic.suggestModel = lambda volume, *rest: "generic-mr"
    logic.chooseModel = lambda *case: api.ModelChoice("generic-mr", "nothing says which organ this is")
    with measured(logic) as case:
        assert case.panel.parameters.modelID == "generic-mr"
        case.task("removeButton")
        assert "Any organ (MR): nothing says which organ this is." in case.ui.warningLabel.text
        assert case.ui.generateButton.enabled
        selector = case.ui.modelSelector
        selector.activated.emit(selector.findData("lung-nodule-ct"))
        case.settle()
        assert "Any organ" not in case.ui.warningLabel.text


def test_the_model_follows_the_case():
    from panel_double import FakeLogic, api

    logic = FakeLogic()
    fitting = {"lung1": "lung-nodule-ct", "brain1": ""}
    logic.suggestModel = lambda volume, *rest: fitting[volume.GetName()]
    with measured(logic) as case:
        assert case.panel.parameters.modelID == "lung-nodule-ct"
        brain, segmentation, _ = panel_case.addTumour("brain1")
        case.choose(brain, segmentation)
        assert (
            case.panel.parameters.modelID == api.NO_MODEL and case.ui.modelSelector.currentText == "No model"
        )
        case.task("removeButton")
        assert "nothing says which organ" in case.ui.warningLabel.text and case.ui.generateButton.enabled
        case.task("shapeButton")
        assert "needs a model" in case.ui.generateButton.toolTip
        selector = case.ui.modelSelector
        selector.activated.emit(selector.findData("sarcoma"))  # as the user says, until there is another case
        case.settle()
        assert case.panel.parameters.modelID == "sarcoma" and case.ui.warningLabel.text == ""
        case.choose(case.volume, case.segmentation)
        assert case.panel.parameters.modelID == "lung-nodule-ct"


def test_a_removed_tumour_is_not_measured_and_not_edited():
    with measured() as case:
        case.segmentation.GetSegmentation().GetSegment(case.segmentID).SetTag("TumorSynth.removed", "Tumour")
        case.segmentation.GetSegmentation().Modified()
        case.panel.parametersChanged()
        case.settle()
        assert "was removed" in case.ui.measureMessage.text and not case.ui.measureButton.enabled
        assert not case.ui.featureTree.visible
        for button in ("removeButton", "textureButton", "shapeButton", "moveButton"):
            case.task(button)
            assert "no tumour any more" in case.ui.generateButton.toolTip
        case.task("insertButton")
        assert "Place the new centre" in case.ui.generateButton.toolTip


# Text and size


def test_every_control_explains_itself():
    """Buttons, boxes and fields have a tooltip; those of features are the feature table's sentence."""
    import qt

    with measured() as case:
        case.task("insertButton")
        kinds = (qt.QPushButton, qt.QCheckBox, qt.QSpinBox, qt.QDoubleSpinBox, qt.QSlider, qt.QComboBox)
        inner = ("qt_", "")
        silent = [
            w.objectName
            for kind in kinds
            for w in case.root.findChildren(kind)
            if w.objectName and w.objectName not in inner and not w.toolTip
        ]
        assert silent == []
        for row in case.logic.rows:
            if row.role == "driver":
                assert case.widget(row.key + "_slider").toolTip == row.meaning


@pytest.mark.parametrize("button", TASK_BUTTONS)
def test_nothing_is_cut_off_at_350_pixels(button):
    import qt

    with measured() as case:
        case.ui.modelsSection.collapsed = case.ui.helpSection.collapsed = False
        case.task(button)
        case.root.setFixedWidth(350)
        case.root.show()
        panel_case.wait(seconds=0.05)
        assert case.root.minimumSizeHint.width() <= 350
        for kind in (qt.QPushButton, qt.QLabel, qt.QCheckBox):
            for widget in case.root.findChildren(kind):
                if (
                    not widget.visible
                    or widget.objectName.startswith("qt_")
                    or widget.objectName.endswith("_strip")
                ):
                    continue
                right = widget.mapTo(case.root, qt.QPoint(widget.width, 0)).x()
                assert right <= 350, widget.objectName
                needed = widget.minimumSizeHint.width()
                assert widget.width >= needed, (
                    f"{widget.objectName} is {widget.width} wide and needs {needed}"
                )
        case.root.hide()

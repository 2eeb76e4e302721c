"""What the panel asks, what it says of it, and how far a tumour's own tissue can be taken, by clicks on a double of the logic."""

import ast
from pathlib import Path

import panel_case
from panel_case import measured
from test_panel import last, place


def choose_segment(selector, text: str) -> None:
    """What a click on an entry of the list does."""
    selector.setCurrentIndex(selector.findText(text))
    selector.activated.emit(selector.currentIndex)


def entries(selector) -> list:
    return [selector.itemText(i) for i in range(selector.count)]


def test_the_organ_to_stay_in():
    with measured() as case:
        case.task("moveButton")
        place(case)
        organ = case.segmentation.GetSegmentation().AddEmptySegment("organ", "Organ")
        case.settle()
        choose_segment(case.ui.insideSelector, "Organ")
        case.settle()
        case.ui.generateButton.click()
        assert last(case)[2]["inside"] == (case.segmentation, organ)


def test_tissue_is_taken_from_a_segment_and_not_from_another():
    import slicer

    with measured() as case:
        segmentation = case.segmentation.GetSegmentation()
        liver, other = (segmentation.AddEmptySegment(name, name) for name in ("liver", "other"))
        case.task("removeButton")
        assert entries(case.ui.lendSelector) == ["Anywhere healthy", "liver", "other"], (
            "not the tumour itself"
        )
        assert not {"lend", "avoid"} & set(case.panel.editSection.options())
        choose_segment(case.ui.lendSelector, "liver")
        choose_segment(case.ui.avoidSelector, "other")
        case.settle()
        case.ui.generateButton.click()
        options = last(case)[2]
        assert options["lend"] == (case.segmentation, liver) and options["avoid"] == (
            case.segmentation,
            other,
        )
        case.logic.jobs[-1].cancel()
        # The lists follow the scene; with two segmentations they tell which is meant.
        further = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
        further.GetSegmentation().AddEmptySegment("muscle", "muscle")
        case.settle()
        name = case.segmentation.GetName()
        assert entries(case.ui.avoidSelector)[1:] == [f"liver ({name})", f"other ({name})", "muscle (organs)"]
        assert case.ui.avoidSelector.currentText == f"other ({name})"
        segmentation.RemoveSegment(other)
        case.settle()
        assert case.ui.avoidSelector.currentText == "Other segments"
        assert "avoid" not in case.panel.editSection.options()
        case.ui.segmentSelector.setCurrentSegmentID("liver")  # the tumour now
        case.settle()
        assert "lend" not in case.panel.editSection.options()


def test_each_slider_shows_how_far_the_tumours_tissue_goes():
    from panel_double import api

    with measured() as case:
        case.task("textureButton")
        keys = [row.key for row in case.panel.rows() if row.kind == "texture" and row.role == "driver"]
        assert case.logic.reach.features == keys, "all sliders of the edit"
        strip = case.widget("contrast_strip").pixmap.toImage()
        case.logic.reach.onRange("contrast", 18.0, 42.0)
        assert case.widget("contrast_strip").pixmap.toImage() != strip, "marked on the strip"
        assert "Its own tissue allows 18 to 42." in case.widget("contrast_slider").toolTip
        assert case.widget("contrast_reach").isHidden()
        case.logic.nextCheck = api.Check()
        case.widget("contrast_spin").value = 30.0
        case.settle()
        assert case.widget("contrast_reach").text == "Its own tissue allows 18 to 42."
        assert not case.widget("contrast_reach").font.bold() and not case.ui.warningLabel.text
        case.widget("contrast_spin").value = 60.0
        case.settle()
        assert case.widget("contrast_reach").font.bold()
        assert (
            "Contrast: Its own tissue allows 18 to 42. It is taken there, or somewhat further by single voxels."
            in case.ui.warningLabel.text
        )
        case.ui.keepSpinBox.value = 0  # drawn anew: another tissue
        case.settle()
        assert case.widget("contrast_reach").isHidden() and not case.ui.warningLabel.text


def test_ranges_go_on_after_an_edit_and_belong_to_their_tumour():
    with measured() as case:
        case.task("textureButton")
        first = case.logic.reach
        first.onRange("contrast", 18.0, 42.0)
        case.ui.measureButton.click()
        first.onEnd(False)  # the measurement ended it
        case.settle()
        assert "contrast" not in case.logic.reach.features and case.logic.reach is not first, (
            "only what is missing"
        )
        case.widget("skewness_slider").value = 600
        second = case.logic.reach
        second.onEnd(False)
        case.settle()
        assert case.logic.reach.features[0] == "skewness", "what is asked for comes first"
        volume, segmentation, _ = panel_case.addTumour("other")
        case.choose(volume, segmentation)
        second.onRange("entropy", 1.0, 2.0)  # too late
        reach = case.panel.editSection.features.reach
        assert reach.range("contrast") is None and reach.range("entropy") is None
        case.logic.reach.onEnd(True)  # none was found: it isn't tried again and again
        count = len(case.logic.called("reachable"))
        case.panel.parametersChanged()
        case.settle()
        assert len(case.logic.called("reachable")) == count
        case.task("shapeButton")
        assert not reach._wanted()


def test_a_series_says_what_lies_beyond():
    with measured() as case:
        case.task("seriesButton")
        case.logic.reach.onEnd(False)  # that of the texture's sliders
        selector = case.ui.seriesFeatureSelector
        selector.activated.emit(selector.findData("contrast"))
        case.settle()
        assert case.logic.reach.features == ["contrast"]
        case.logic.reach.onRange("contrast", 18.0, 42.0)
        case.ui.seriesToSpinBox.value = 80.0
        case.settle()
        assert "Contrast: Its own tissue allows 18 to 42" in case.ui.warningLabel.text


def test_the_engine_speaks_in_the_panels_words():
    """Its messages name pyradiomics' features, whose numbers have other units, and options of the command line."""
    panel_case.start()
    from TumorSynthSlicer import panel_text
    from TumorSynthSlicer.model_rows import featureRows

    rows = featureRows("none", "CT")
    for said, shown in (
        (
            "2 of 3 asked features were not reached: glcm_Contrast by +1.2 σ, glszm_SmallAreaEmphasis by -0.4 σ",
            "2 of 3 asked features were not reached: Contrast by +1.2 σ, GLSZM Small Area Emphasis by -0.4 σ",
        ),
        (
            "firstorder_Variance is taken to 2500, not 3600 (intensity_sd 50, not 60): this tumour's tissue allows no more; "
            "ask for up to that, or draw the tumour anew (strength 1)",
            "Intensity spread (SD) is taken to 50, not 60 HU: this tumour's tissue allows no more; ask for up to that, or draw "
            "the tumour anew (Keep the tumour's own pattern: 0 %)",
        ),
        (
            "the nearest request is used: original_glcm_Contrast 30 → 28.5, firstorder_Skewness -1.2e-05 → 0.3",
            "the nearest request is used: Contrast 30 → 28.5, Skewness -1.20e-05 → 0.3",
        ),
        ("MeshVolume is 1500 instead of 2000", "Volume is 1.5 instead of 2 ml"),
        (
            "MeshVolume 2000 does not go together with the rest of the request: 1500 is used",
            "Volume 2 does not go together with the rest of the request: 1.5 ml is used",
        ),
        (
            "the image doesn't look like CT: its values run from 0 to 1; or say --modality",
            "the image doesn't look like CT: its values run from 0 to 1",
        ),
    ):
        assert panel_text.plain(said, rows) == shown


def test_libraries_are_loaded_one_by_one_while_the_panel_is_shown(monkeypatch):
    """All at once they would keep the window waiting for half a second when the panel is opened with a volume."""
    panel_case.start()
    from TumorSynthSlicer import panel

    order, keep = [], panel.importlib.import_module
    monkeypatch.setattr(panel, "NEEDED", ("one.that.is.missing", "another.that.is.missing"))
    monkeypatch.setattr(panel.importlib, "import_module", lambda name: (order.append(name), keep(name))[1])
    with panel_case.opened(enter=False) as case:
        volume, segmentation, _ = panel_case.addTumour()
        case.panel.enter()
        assert not case.panel.loaded and not order and not case.logic.called("chooseModel")
        assert case.ui.generateButton.toolTip == "Getting ready…"
        case.panel._loadNext()
        assert len(order) == 1 and not case.panel.loaded
        case.settle()
        assert (
            case.panel.loaded and case.panel.parameters.modelID and case.panel.tumour.measurement is not None
        )


def test_no_message_of_the_engine_names_an_option_of_the_command_line():
    """All texts of the files whose messages reach the panel; the panel chooses the engine itself, so that one is left out."""
    panel_case.start()
    from TumorSynthSlicer import panel_text

    library = Path(__file__).resolve().parents[1] / "TumorSynthLib"
    files = [
        library / name
        for name in (
            "suitability.py",
            "shaping.py",
            "edit/wish.py",
            "edit/plan.py",
            "models/bundle.py",
            "placement.py",
            "deformation.py",
        )
    ]
    files += [*library.glob("texture/*.py"), *library.glob("texture/exemplar/*.py")]
    said = [text for path in files for text in texts_of(path) if "--" in text and "--engine" not in text]
    assert len(said) > 5
    assert not [text for text in said if "--" in panel_text.plain(text, ())]


def texts_of(path: Path) -> list:
    """Texts of one line, with X in place of values."""
    found = []
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            found.append("".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append(node.value)
    return [text for text in found if "\n" not in text]


def test_warnings_are_in_the_panels_words():
    from panel_double import api

    with measured() as case:
        case.logic.nextCheck = api.Check(
            warnings=("the nearest request is used: glcm_Contrast 30 → 28",),
            used={"original_glcm_Contrast": 28.0},
        )
        case.task("textureButton")
        case.widget("contrast_slider").value = 700
        case.settle()
        assert "Contrast 30 → 28" in case.ui.warningLabel.text and "glcm" not in case.ui.warningLabel.text
        case.ui.generateButton.click()
        job = case.logic.jobs[-1]
        said = "1 of 1 asked features were not reached: glcm_Contrast by +1.0 σ"
        plan = {"engine": "exemplar", "stage": "level kept", "zone_voxels": 34667, "reach_mm": 8.4}
        job.finish(case.logic.outcome(job, warnings=(said,), provenance={"plan": plan}))
        assert "reached: Contrast by +1.0 σ" in case.ui.outcomeLabel.text
        text = case.ui.outcomeLabel.text
        assert "35 ml around the outline changed, too, up to 8.4 mm from it" in text  # of voxels of 1 mm³
        assert "own pattern, adjusted, its mean intensity kept" in text
        case.ui.generateButton.click()
        case.logic.jobs[-1].fail("glcm_Contrast of -3 is not possible")
        assert case.ui.outcomeLabel.text.startswith("Contrast of -3 is")


def test_every_stage_has_a_name():
    panel_case.start()
    from TumorSynthSlicer import api, panel_text

    assert {"mass effect", "step", "solve"} <= set(api.STAGES)
    assert not [stage for stage in api.STAGES if panel_text.stage(stage) == stage]


def test_what_was_asked_of_one_tumour_is_not_asked_of_another():
    with measured() as case:
        case.task("textureButton")
        case.widget("contrast_slider").value = 700
        case.settle()
        assert case.ui.generateButton.enabled
        volume, segmentation, _ = panel_case.addTumour("other")
        case.choose(volume, segmentation)
        assert case.panel.parameters.textureRequest == "{}"
        assert "Nothing is asked for" in case.ui.generateButton.toolTip


def test_what_is_asked_stays_for_the_copy_that_edits_go_into():
    with measured() as case:
        case.task("textureButton")
        case.widget("contrast_slider").value = 700
        case.settle()
        asked = case.panel.parameters.textureRequest
        copy, _, _ = panel_case.addTumour("copy")
        copy.SetNodeReferenceID("TumorSynth.original", case.volume.GetID())
        case.ui.inputVolumeSelector.setCurrentNode(copy)
        case.settle()
        assert case.panel.parameters.textureRequest == asked

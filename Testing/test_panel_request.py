"""What is asked of features, scales of sliders, and numbers as the panel writes them; plain data without widgets."""

import panel_case
import pytest

panel_case.start()

from panel_double import featureRows  # noqa: E402
from TumorSynthSlicer import api, panel_text  # noqa: E402
from TumorSynthSlicer.panel_request import FREE, KEEP, SET, Request, Scale, preset  # noqa: E402

ROWS = {row.key: row for row in featureRows()}


def test_a_request_survives_the_scene():
    request = Request()
    request.ask("contrast", SET, 12.5)
    request.ask("mean_intensity", FREE)
    again = Request(request.text())
    assert (again.mode("contrast"), again.value("contrast")) == (SET, 12.5)
    assert (
        again.mode("mean_intensity") == FREE
        and again.mode("volume_ml") == KEEP
        and again.mode("skewness") == FREE
    )


def test_each_stage_of_an_edit_has_a_name_in_the_panel():
    assert {"mass effect", "step", "transfer", "receive"} < set(api.STAGES)
    assert [stage for stage in api.STAGES if panel_text.stage(stage) == stage] == []


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", '{"a": 1}', '{"a": ["set", "x"]}', '{"a": ["set", NaN]}']
)
def test_what_is_no_request_is_forgotten(text):
    assert Request(text).text() == "{}"


def test_what_is_not_measured_can_not_be_kept():
    request = Request()
    row = ROWS["volume_ml"]
    assert request.features([row], {}) == {}
    assert request.features([row], {row.name: 5000.0}) == {"volume_ml": 5.0}


def test_presets_set_what_they_name():
    rows, volume = list(ROWS.values()), ROWS["volume_ml"]
    assert preset("half", rows, {volume.name: 8000.0}) == {"volume_ml": (SET, 4.0)}
    assert preset("half", rows, {}) == {"volume_ml": (SET, ROWS["volume_ml"].percentiles[25])}
    name = ROWS["contrast"].name
    assert preset("rough", rows, {name: 8.0})["contrast"] == (SET, 16.0)  # relative to this tumour
    assert preset("round", rows, {ROWS["sphericity"].name: 0.95})["sphericity"] == (SET, 1.0)
    assert preset("round", rows, {}) == {"sphericity": (SET, ROWS["sphericity"].percentiles[95])}
    typical = preset("typical", rows, {})
    assert (
        typical["entropy"] == (SET, ROWS["entropy"].percentiles[50])
        and "original_glrlm_RunEntropy" not in typical
    )


@pytest.mark.parametrize(
    "key, others", [("contrast", ()), ("contrast", (0.01, 5000.0)), ("skewness", (-3.0,))]
)
def test_a_slider_reaches_every_value(key, others):
    scale = Scale(ROWS[key], others)
    for value in (*others, *ROWS[key].percentiles.values()):
        assert scale.value(scale.fraction(value)) == pytest.approx(value)
    assert scale.fraction(scale.high * 2 + 1) == 1.0 and scale.fraction(scale.low - 1) == 0.0
    assert scale.log == (scale.low > 0 and scale.high > 30 * scale.low)


@pytest.mark.parametrize(
    "value, text",
    [(0.0, "0"), (60.4444, "60.44"), (0.00049, "4.90e-04"), (123456.7, "123457"), (2.5e7, "2.50e+07"), (-23.0, "-23"),
     (100.0, "100"), (float("nan"), "–"), (None, "–")],
)  # fmt: skip
def test_numbers(value, text):
    assert panel_text.number(value) == text


@pytest.mark.parametrize(
    "spread, value, digits", [(2300.0, 30.22, 2), (2300.0, 1500.0, 0), (8.0, -0.9762, 4), (1.0, 0.0, 3)]
)
def test_decimals_show_four_digits(spread, value, digits):
    assert panel_text.decimals(spread, value) == digits


@pytest.mark.parametrize(
    "value, text", [(-0.04, "0.0 σ"), (0.0, "0.0 σ"), (-0.06, "-0.1 σ"), (1.5, "+1.5 σ"), (None, "")]
)
def test_deviations_have_no_negative_zero(value, text):
    assert panel_text.deviation(value) == text


def test_messages_become_sentences():
    assert panel_text.sentence("the mask is empty: draw one") == "The mask is empty: draw one."
    assert panel_text.sentence("Done.") == "Done." and panel_text.sentence("") == ""

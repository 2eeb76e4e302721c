"""Messages between a front end and the worker: as JSON and back, and what no message is."""

import json

import pytest

from TumorSynthLib import wire
from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.errors import Cancelled, InputError, ModelError, OutOfMemory

IMAGE, MASK = {"file": "v", "dtype": "int16", "shape": [2, 2, 2]}, {"file": "m", "box": [[0, 1]] * 3}
MESSAGES = (
    wire.Edit(IMAGE, "move", {"to": [1.0, 2.0, 3.0]}, MASK, "lung", "cpu", 2.5),
    wire.Edit(IMAGE, "remove", mask=MASK),
    wire.Edit(IMAGE, "series", {"feature": "contrast", "values": [1.0, "2x"], "seed": 3}, MASK),
    wire.Measure(IMAGE, MASK, {"modality": "CT"}),
    wire.Reach(IMAGE, MASK, ["contrast"], {"region": "rim"}, "lung"),
    wire.Preview("lung", {"volume_ml": 2.0}, 4),
    wire.Warm("lung", "cuda"),
)
EVENTS = (
    wire.Ready(4711, wire.PROTOCOL, "1.0"),
    wire.Progress(3, "texture", 0.5, 1.25),
    wire.Progress("a", "measure", 0.0),
    wire.Range(3, "contrast", 1.5, 9.0),
    wire.Done(3, "cpu", ({"box": [[0, 1]] * 3, "change": "r3-0-change"},)),
    wire.Done(3, measurement={"features": {}}),
    wire.Failed(None, "input", "no JSON: it was left out"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_request_comes_over_as_it_was(message):
    line = json.loads(json.dumps(wire.as_json(message, id=7)))
    assert line["id"] == 7 and line["command"] == message.command
    assert wire.request_of(line) == message


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_event_comes_over_as_it_was(event):
    line = json.loads(json.dumps(wire.as_json(event)))
    assert "id" in line or isinstance(event, wire.Ready)
    assert wire.event_of(line) == event
    assert wire.event_of({**line, "of a later version": 1}) == event
    assert wire.event_of({"event": "of a later version"}) is None


def test_a_series_has_feature_and_values_beside_its_options():
    series = MESSAGES[2]
    assert series.series == ("contrast", [1.0, "2x"]) and series.options == {"seed": 3}
    assert MESSAGES[0].series == () and MESSAGES[0].options == MESSAGES[0].request


@pytest.mark.parametrize("line, why", [
    ({}, "no command of type NoneType"), ({"command": "cancel"}, "no command 'cancel'"), ({"command": ["edit"]}, "of type list"),
    ({"command": "edit", "edit": "remove"}, "volume"), ({"command": "measure", "volume": IMAGE}, "mask"),
    ({"command": "edit", "edit": "measure", "volume": IMAGE}, "can't 'measure'"),
    ({"command": "edit", "edit": "reshape", "volume": IMAGE}, "names no model"),
    ({"command": "edit", "edit": "remove", "volume": 5}, "volume is of type int"),
    ({"command": "edit", "edit": "remove", "volume": IMAGE, "estimate": "soon"}, "estimate is 'soon'"),
    ({"command": "reach", "volume": IMAGE, "mask": MASK, "names": "contrast"}, "names is 'contrast'"),
    ({"command": "warm", "model": 5}, "model is of type int"), ({"command": "preview"}, "model"),
], ids=str)  # fmt: skip
def test_what_is_no_message_is_refused(line, why):
    with pytest.raises(InputError, match=why):
        wire.request_of(line)


@pytest.mark.parametrize(
    "error, kind",
    [
        (OutOfMemory("x"), "memory"),
        (Cancelled("x"), "cancelled"),
        (ModelError("x"), "model"),
        (InputError("x"), "input"),
    ],
)
def test_a_failure_says_of_what_kind_it_is(error, kind):
    assert wire.Failed.of(1, error) == wire.Failed(1, kind, "x")


def test_the_edits_are_those_that_change_an_image():
    assert set(wire.CHANGING) == {name for name, edit in EDITS.items() if edit.changes}

"""The one table of options: each row goes from the shell to a request, a message, a record and a repetition by itself."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import editor_case
import numpy as np
import pytest
from test_provenance import BUNDLE, make_result

from TumorSynthLib import cli, commands, provenance, wire
from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.options import (
    IMAGES,
    KINDS,
    OPTIONS,
    EditRequest,
    check_used,
    from_message,
    of_edit,
    to_message,
    unused,
)
from TumorSynthLib.errors import InputError

#: Kind to a value that asks for something, as the shell takes it; files are named below.
SHELL = {"text": ["tumour"], "point": ["1", "2.5", "-3"], "features": []}


def words(row, files):
    """What the shell is told after the flag, and the value that the request then holds."""
    if row.kind in ("number", "whole"):
        value = row.low + 0.5 if row.kind == "number" else int(row.low) + 2
        return [str(value)], value
    if row.kind == "switch":
        return [], not row.default
    if row.kind == "choice":
        return [row.choices[-1]], row.choices[-1]
    if row.kind == "mask":
        return [str(files[1])], editor_case.ct()[1]
    if row.kind == "donor":
        return [str(f) for f in files], editor_case.ct()
    if row.kind == "features":
        return [], {"contrast": 4.0}
    return SHELL[row.kind], {"text": "tumour", "point": (1.0, 2.5, -3.0)}[row.kind]


def same(row, a, b):
    if row.kind == "donor":
        return np.array_equal(a[0].array, b[0].array) and np.array_equal(a[1], b[1])
    return np.array_equal(a, b) if row.kind == "mask" else a == b


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return editor_case.files(tmp_path_factory.mktemp("options"))


def parsed(edit, row, files, told):
    """The request of a command line with one option."""
    line = [
        edit,
        *(map(str, files[: 1 + EDITS[edit].mask]) if edit != "shape" else ()),
        "--out",
        "o.nii",
        "--model",
        "m",
    ]
    line += ["--out-mask", "n.nii"] if edit in ("reshape", "move", "insert") else []
    line += ["--feature", "contrast", "--values", "1,2"] if edit == "series" else []
    flag = "--no-solve" if row.name == "solve" else row.flag
    line += ["--set", "contrast=4"] if row.kind == "features" else [flag, *told]
    args = cli.parser().parse_args(line)
    options, _ = commands.options_of(args, None)
    if edit == "shape":
        return EditRequest(**options)
    return commands.inputs(args, options)[2]


def over_the_wire(edit, options):
    """The options as the worker gets them: `shape` has no message of its own, its options go with an insert's."""
    edit = edit if EDITS[edit].changes else "insert"
    message = wire.Edit({"file": "v"}, edit, options, {"file": "m"}, "m")
    return wire.request_of(json.loads(json.dumps(wire.as_json(message, id=1)))).options


def repeated(edit, request):
    """What the record of an edit makes of its request, and the record."""
    volume, mask = editor_case.ct()
    source = SimpleNamespace(volume=volume, mask=mask, request=request, modality=request.modality or "CT")
    result = make_result()
    result.asked = dict(request.features or {})
    plan = {"engine": request.engine or "bridge", "texture_from": request.texture_from or "own"}
    entry = json.loads(json.dumps(provenance.record(edit, BUNDLE, source, result, plan=plan)))
    return EditRequest(**provenance.request_of(entry)), entry


@pytest.mark.parametrize("name", [name for name, row in OPTIONS.items() if row.flag])
def test_an_option_goes_from_the_shell_to_a_repetition(name, files):
    row = OPTIONS[name]
    told, value = words(row, files)
    edit = next(e for e in row.edits if EDITS[e].command)
    if name == "features" or row.kind in IMAGES and edit == "shape":
        edit = next(e for e in row.edits if EDITS[e].changes and EDITS[e].command)
    request = parsed(edit, row, files, told)
    assert same(row, getattr(request, name), value)
    check_used(edit, request)

    exchange = {}

    def put(option, image):
        exchange[option.name] = image
        return {"file": option.name}

    message = over_the_wire(edit, to_message(request, put))
    received = from_message(message, lambda option, entry: exchange[entry["file"]])
    assert same(row, getattr(received, name), value)

    again, entry = repeated(edit, received)
    if row.kind == "mask":
        assert entry["input"][f"{name}_sha256"] == provenance.voxel_hash(np.packbits(value))
    elif row.kind == "features":
        assert again.features == {"original_glcm_Contrast": 4.0}
    elif row.kind == "donor":
        assert entry["request"]["donor"] is True
    else:
        assert same(row, getattr(again, name), value)


@pytest.mark.parametrize("edit", [e for e in EDITS if EDITS[e].changes])
def test_an_option_that_an_edit_lacks_is_an_error(edit):
    values = {
        "grow": 3.0,
        "core": 0.3,
        "samples": 2,
        "to": (1, 2, 3),
        "at": (1, 2, 3),
        "mass_effect": 5.0,
        "strict": True,
    }
    for name, value in values.items():
        request = EditRequest(**{name: value})
        if edit in OPTIONS[name].edits:
            check_used(edit, request)
        else:
            with pytest.raises(InputError, match=f"{edit} has no option '{name}'"):
                check_used(edit, request)
    check_used(edit, EditRequest(solve=False))  # a switch that is off asks for nothing


def test_rows_are_whole():
    for name, row in OPTIONS.items():
        assert row.name == name and row.kind in KINDS and row.edits and set(row.edits) <= set(EDITS)
        assert not row.flag or (row.help and row.flag == "--" + name.replace("_", "-"))
        row.check(row.default)
    assert all(set(of_edit(edit)) for edit in EDITS)


def test_unknown_and_impossible_options_of_a_message_are_named():
    with pytest.raises(InputError, match="no option 'colour'"):
        from_message({"colour": 1}, None)
    for given, text in (
        ({"steps": "many"}, "steps is many"),
        ({"to": [1, 2]}, "to is"),
        ({"solve": 1}, "solve is 1"),
    ):
        with pytest.raises(InputError, match=text):
            from_message(given, None)


def test_what_an_engine_does_not_use_is_known():
    request = EditRequest(steps=3, zone=2.0, strict=True, seed=4)
    assert unused(request, "exemplar") == ("steps",) and unused(request, "bridge") == ("zone", "strict")


def test_requests_can_be_compared_and_hashed():
    """Fields are arrays and dictionaries, so that a request equals itself alone."""
    first, second = (
        EditRequest(inside=np.ones((2, 2, 2), bool), features={"contrast": 1.0}) for _ in range(2)
    )
    assert first == first and first != second and len({first, second}) == 2


def flags_of(command):
    """The flags that a command of the shell has."""
    (choices,) = [action.choices for action in cli.parser()._actions if action.dest == "command"]
    return set(choices[command]._option_string_actions)


def test_the_readme_s_options_are_those_of_the_table():
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text, re.M)
    assert {name for name, _ in rows} >= {name for name, edit in EDITS.items() if edit.command}
    for name, column in rows:
        assert set(re.findall(r"--[a-z-]+", column)) <= flags_of(name), name
    for name, line in re.findall(r"^tumorsynth (\w+) +(.*)$", text, re.M):
        assert name == "models" or set(re.findall(r"--[a-z-]+", line)) <= flags_of(name), line


def test_a_place_that_is_no_point_is_told_what_it_may_be():
    with pytest.raises(
        InputError, match=r"at is here, but must be three numbers \(x y z in LPS mm\), or auto$"
    ):
        EditRequest(at="here")
    with pytest.raises(InputError, match=r"three numbers \(x y z in LPS mm\)$"):
        EditRequest(to="here")

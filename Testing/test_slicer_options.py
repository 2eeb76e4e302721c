"""Each option that the module offers goes from the logic's name and units to a message and a record of the engine by itself."""

import panel_case
import pytest

panel_case.start()

import json  # noqa: E402
from dataclasses import replace  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import editor_case  # noqa: E402
import numpy as np  # noqa: E402
import region_case  # noqa: E402
import slicer_case  # noqa: E402
from test_options import over_the_wire, repeated, words  # noqa: E402
from TumorSynthSlicer import api, checks, edits  # noqa: E402

from TumorSynthLib import models, provenance, wire  # noqa: E402
from TumorSynthLib.edit.edits import EDITS  # noqa: E402
from TumorSynthLib.edit.options import IMAGES, OPTIONS, EditRequest, from_message  # noqa: E402
from TumorSynthLib.editor import Editor  # noqa: E402
from TumorSynthLib.errors import InputError  # noqa: E402
from TumorSynthLib.exchange import Exchange, Folder  # noqa: E402
from TumorSynthLib.worker import Worker  # noqa: E402

OFFERED = [name for name, row in OPTIONS.items() if row.slicer and row.kind not in IMAGES]
NEEDED = {"move": {"to": (0.0, 0.0, 0.0)}, "insert": {"to": (0.0, 0.0, 0.0)}, "reshape": {"features": {"volume_ml": 2.0}},
          "retexture": {"features": {"contrast": 3.0}}, "series": {"feature": "contrast", "values": [1.0]}}  # fmt: skip


@pytest.mark.parametrize("name", OFFERED)
def test_an_option_goes_from_the_module_to_a_repetition(name):
    row = OPTIONS[name]
    value = words(row, None)[1]
    edit = next(e for e in row.edits if EDITS[e].changes)
    given = (1.0, 2.5, -3.0) if row.kind == "point" else value
    wanted = (-1.0, -2.5, -3.0) if row.kind == "point" else value  # RAS is LPS in the engine
    options = {**NEEDED.get(edit, {}), row.slicer: given}
    checks.checkOptions(edit, options)
    request = from_message(over_the_wire(edit, checks.engineOptions(edit, options)), None)
    assert getattr(request, name) == wanted
    again, _ = repeated(edit, request)
    expected = {"original_glcm_Contrast": 4.0} if row.kind == "features" else wanted
    assert getattr(again, name) == expected


def test_what_an_edit_lacks_is_refused():
    for edit in (e for e in api.EDITS if EDITS[e].changes):
        for name in OFFERED:
            row, options = OPTIONS[name], dict(NEEDED.get(edit, {}))
            if row.slicer in options or any(
                edit in r.edits for r in OPTIONS.values() if r.slicer == row.slicer
            ):
                continue
            options[row.slicer] = words(row, None)[1]
            if not row.asks(options[row.slicer]):  # a switch that is off
                continue
            with pytest.raises(InputError, match=f"{edit} has no option {row.slicer}"):
                checks.checkOptions(edit, options)


def test_the_contract_s_names_are_those_of_the_table():
    assert {row.slicer for row in OPTIONS.values() if row.slicer} | set(api.SCENE_OPTIONS) == set(api.OPTIONS)
    assert set(api.EDITS) == {name for name, edit in EDITS.items() if edit.changes or name == "measure"}


def test_the_request_that_the_panel_shows_is_the_engine_s(tmp_path):
    """On a coarser image, voxels of the model's grid aren't those that the volumes' ratio gives, and they bound the entropy."""
    editor = Editor(editor_case.model(tmp_path / "model"), "cpu")
    volume, _ = editor_case.ct(spacing=(1.5, 1.5, 3.0))
    small = np.zeros(volume.array.shape, bool)
    small[9:12, 19:22, 17:20] = True
    small[8:13, 20, 18] = small[10, 18:23, 18] = small[10, 20, 16:21] = True
    features = {"original_firstorder_Entropy": 7.5, "original_glcm_Contrast": 90.0}
    shown = checks.check("synthesize", editor, volume, small, {"features": features}, "cpu")
    result = editor.synthesize(volume, small, EditRequest(features=features, steps=1, solve=False))
    assert shown.modality == "CT" and shown.used["original_firstorder_Entropy"] < 7.4
    for name, value in features.items():
        assert shown.used.get(name, value) == pytest.approx(result.used[name], rel=1e-6), name


EDITED_WITHOUT_NETWORK = {
    "remove": {},
    "retexture": {"features": {"mean_intensity": 60.0}},
    "move": {"to": (-168.0, -200.0, 300.0)},
    "series": {"feature": "mean_intensity", "values": [30.0, 60.0]},
}


@pytest.mark.parametrize("edit", EDITED_WITHOUT_NETWORK)
def test_what_the_engine_edits_without_a_network_is_not_refused(tmp_path, edit):
    """Slices of 20 mm are too coarse for the model's network, which none of these edits takes."""
    bundle = editor_case.model(tmp_path / "model")
    volume, mask = editor_case.ct(spacing=(10.0, 10.0, 20.0))
    options, editor = EDITED_WITHOUT_NETWORK[edit], Editor(bundle, "cpu")
    shown = checks.check(edit, editor, volume, mask, options, "cpu")
    assert shown.engine == "exemplar" and not shown.seconds
    request = checks.checkRequest(edit, options)
    assert not checks.needsTorch(edit, request, bundle, options.get("feature"))
    series = (options["feature"], options["values"]) if edit == "series" else ()
    results = getattr(editor, edit)(volume, mask, *series, request)
    for result in results if series else [results]:
        assert result.provenance["plan"]["engine"] == "exemplar"
    with pytest.raises(InputError, match="too coarse"):
        checks.check("synthesize", editor, volume, mask, {"features": {"contrast": 9.0}}, "cpu")


def test_shapes_that_are_grown_from_forms_take_no_network():
    grown = models.find("soft-tissue-sarcoma")
    drawn = SimpleNamespace(json={**grown.json, "files": {}}, organ="lung", painted=None)
    for bundle in (drawn, grown):
        assert checks.needsTorch("series", EditRequest(), bundle, "volume_ml") == (bundle is drawn)
        assert not checks.needsTorch("series", EditRequest(), bundle, "contrast")
    request = EditRequest(features={"volume_ml": 2.0})
    assert not checks.needsTorch("reshape", request, grown)
    assert checks.needsTorch("reshape", replace(request, mass_effect=20.0), grown)


@pytest.mark.parametrize(
    "name, edit", [("donor", "retexture"), ("inside", "move"), ("lend", "remove"), ("avoid", "remove")]
)
def test_an_image_goes_from_the_scene_to_the_record(name, edit):
    """Nodes become files of the exchange, which the worker's side reads; the record tells of them by hashes."""
    volume, mask = editor_case.ct()
    volumeNode, segmentationNode, segment = addTumour(volume, mask)
    organ = np.zeros(mask.shape, bool)
    organ[2:-2, 4:-4, 5:-5] = True
    value = (
        addTumour(volume.with_array(volume.array + 3), mask)
        if name == "donor"
        else (addTumour(volume, organ)[1], "")
    )
    options = {**NEEDED.get(edit, {}), OPTIONS[name].slicer: value}
    given = edits.Input.of(edit, volumeNode, segmentationNode, segment, api.NO_MODEL, options)
    exchange = Exchange()
    try:
        transfer = edits.Transfer(given, exchange)
        list(transfer.write())
        line = json.loads(json.dumps(wire.as_json(transfer.message(), id=1)))
        message, folder = wire.request_of(line), Folder(exchange.path)
        assert (message.edit, message.model) == (edit, "")
        assert np.array_equal(folder.mask(message.mask, mask.shape), mask)
        worker = Worker(folder, None)
        request = from_message(message.options, lambda row, entry: worker._image(row, entry, mask.shape))
    finally:
        exchange.remove()
    found = getattr(request, name)
    if name == "donor":
        assert np.array_equal(found[0].array, volume.array + 3) and np.array_equal(found[1], mask)
    else:
        assert np.array_equal(found, organ)
    entry = repeated(edit, request)[1]
    if name == "donor":
        assert entry["request"]["donor"] is True
    else:
        assert entry["input"][f"{name}_sha256"] == provenance.voxel_hash(np.packbits(organ))


def test_every_option_of_the_module_is_taken_through():
    through = {*OFFERED, "donor", "inside", "lend", "avoid"}
    assert through == {name for name, row in OPTIONS.items() if row.slicer}


def addTumour(volume, mask):
    """(volume node, segmentation node, segment ID) of an image in memory."""
    node = region_case.addVolume(volume, "scan")
    return node, slicer_case.segmentation(node, mask), "tumour"

"""The bank of real tumours that insertions take their tissue from."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_carry import SPACING, changed_of, scene

from TumorSynthLib.errors import ModelError
from TumorSynthLib.texture.exemplar.bank import Bank, packed, write
from TumorSynthLib.texture.exemplar.carry import tumour_of
from TumorSynthLib.texture.exemplar.graft import grafted
from TumorSynthLib.texture.exemplar.place import detached


@pytest.fixture
def bank(tmp_path):
    tumours = []
    for k, radius in enumerate((5, 8)):
        image, empty, mask = scene(radius=radius, seed=k)
        matte = detached(tumour_of(image, empty, mask, changed_of(mask), SPACING, True, 4.0)[0])
        facts = {"case": f"c{radius}", "modality": "CT", "blur_mm": 0.8, "volume_ml": mask.sum() / 1000}
        tumours.append((matte, packed(matte, f"{k:03d}", {**facts, "features": {"mean": 10.0 * radius}})))
    write(tmp_path / "bank.safetensors", [pack for _, pack in tumours])
    return Bank(tmp_path / "bank.safetensors"), [matte for matte, _ in tumours]


def test_a_tumour_comes_out_of_the_bank_as_it_went_in(bank):
    there, mattes = bank
    _, empty, _ = scene(seed=7)
    for lender, matte in zip(there.of("CT"), mattes):
        ways = [grafted(empty, SPACING, (12, 26, 24), m, 0.8) for m in (matte, there.matte(lender))]
        assert ways[0].mask.sum() == ways[1].mask.sum()
        pictures = []
        for laid in ways:
            out = empty.copy()
            out[laid.box] = laid.values
            pictures.append(out)
        assert np.abs(pictures[0] - pictures[1]).max() < 12  # of a contrast of 160


def test_the_nearest_lender_is_chosen_by_features_and_by_size(bank):
    there, _ = bank
    assert there.nearest("CT", {"mean": 78.0}, {"mean": 10.0}, None, 0).case == "c8"
    assert there.nearest("CT", {}, {}, 0.5, 0).case == "c5"
    assert there.nearest("T1", {}, {}, None, 0) is None
    assert {there.nearest("CT", {}, {}, None, seed).case for seed in range(12)} == {"c5", "c8"}
    assert there.nearest("CT", {}, {}, None, 3) == there.nearest("CT", {}, {}, None, 3)


@pytest.mark.parametrize("change", [{"shape": [10**4, 10**4, 10**4]}, {"shape": "x"}, {"features": None}])
def test_odd_entries_are_refused(bank, tmp_path, change):
    there, _ = bank
    entries = [{**dict(one.entry), **change} for one in there.lenders]
    save_file(load_file(str(there.path)), str(tmp_path / "odd.safetensors"), {"bank": json.dumps(entries)})
    with pytest.raises(ModelError, match="install the model again"):
        Bank(tmp_path / "odd.safetensors")


def test_a_tensor_that_unpacks_to_more_is_refused(bank, tmp_path):
    there, _ = bank
    entries = [{**dict(one.entry), "shape": [3, 3, 3]} for one in there.lenders]
    save_file(load_file(str(there.path)), str(tmp_path / "odd.safetensors"), {"bank": json.dumps(entries)})
    odd = Bank(tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="another size"):
        odd.matte(odd.lenders[0])

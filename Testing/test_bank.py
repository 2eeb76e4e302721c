"""The bank of real tumours that insertions take their tissue from."""

import numpy as np
import pytest
from test_carry import SPACING, ball, changed_of, scene

from TumorSynthLib.edit.bank import Bank
from TumorSynthLib.errors import ModelError
from TumorSynthLib.texture.exemplar.bank import matte_of, packed
from TumorSynthLib.texture.exemplar.carry import Source
from TumorSynthLib.texture.exemplar.graft import grafted
from TumorSynthLib.texture.exemplar.place import detached


@pytest.fixture(scope="module")
def tumours():
    """Mattes of two tumours, their entries and tensors."""
    mattes, entries, tensors = [], [], {}
    for k, radius in enumerate((5, 8)):
        image, empty, mask = scene(radius=radius, seed=k)
        matte = detached(Source(image, empty, mask, changed_of(mask), SPACING, True).matte()[0])
        facts = {"case": f"c{radius}", "modality": "CT", "blur_mm": 0.8, "volume_ml": mask.sum() / 1000}
        parts, entry = packed(matte, f"{k:03d}", {**facts, "features": {"mean": 10.0 * radius}})
        mattes.append(matte)
        entries.append(entry)
        tensors |= parts
    return mattes, entries, tensors


@pytest.fixture
def bank(tumours):
    mattes, entries, tensors = tumours
    return Bank(entries, lambda: tensors), mattes


def test_a_tumour_comes_out_of_the_bank_as_it_went_in(bank):
    there, mattes = bank
    _, empty, _ = scene(seed=7)
    for lender, matte in zip(there.of("CT"), mattes):
        target = ball((12, 26, 24), int(lender.case[1:]))
        ways = [grafted(empty, SPACING, target, m, 0.8) for m in (matte, matte_of(there, lender))]
        assert ways[0].mask.sum() == ways[1].mask.sum()
        pictures = []
        for laid in ways:
            out = empty.copy()
            out[laid.box] = laid.values
            pictures.append(out)
        assert np.abs(pictures[0] - pictures[1]).max() < 15  # of a contrast of 160


def test_the_nearest_lender_is_chosen_by_features_and_by_size(bank):
    there, _ = bank
    assert there.nearest("CT", {"mean": 78.0}, {"mean": 10.0}, None, 0).case == "c8"
    assert there.nearest("CT", {}, {}, 0.5, 0).case == "c5"
    assert there.nearest("T1", {}, {}, None, 0) is None
    assert {there.nearest("CT", {}, {}, None, seed).case for seed in range(12)} == {"c5", "c8"}
    assert there.nearest("CT", {}, {}, None, 3) == there.nearest("CT", {}, {}, None, 3)


@pytest.mark.parametrize("change", [{"shape": [10**4, 10**4, 10**4]}, {"shape": "x"}, {"features": None}])
def test_odd_entries_are_refused(tumours, change):
    _, entries, tensors = tumours
    with pytest.raises(ModelError, match="install the model again"):
        Bank([{**entry, **change} for entry in entries], lambda: tensors)


def test_a_tensor_that_unpacks_to_more_is_refused(tumours):
    _, entries, tensors = tumours
    odd = Bank([{**entry, "shape": [3, 3, 3]} for entry in entries], lambda: tensors)
    with pytest.raises(ModelError, match="another size"):
        odd.arrays(odd.lenders[0])


def test_a_lender_is_chosen_that_is_seen_in_its_place(tumours):
    """In MR, of two tumours the one that isn't as bright as the tissue around, though its size is farther off."""
    _, entries, tensors = tumours
    there = Bank([{**e, "level": 1000.0, "tone": t} for e, t in zip(entries, (0.4, 0.8))], lambda: tensors)
    assert there.nearest("CT", {}, {}, 0.5, 0).case == "c5"
    assert there.nearest("CT", {}, {}, 0.5, 0, tone=0.4).case == "c8"
    assert {there.nearest("CT", {}, {}, None, seed, tone=0.4).case for seed in range(6)} == {"c8"}
    assert there.nearest("CT", {}, {}, 0.5, 0, tone=0.8).case == "c5"

"""The bank of real tumours that insertions take their tissue from."""

from dataclasses import replace

import numpy as np
import pytest
from test_carry import SPACING, ball, changed_of, scene

from TumorSynthLib.edit.bank import ROOM, Bank, Wanted
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


def cases(there, wanted, seeds=12):
    """Cases that lend to a request, by seed."""
    return {there.fitting("CT", wanted, seed).case for seed in range(seeds)}


def test_a_lender_fits_the_features_and_the_size_and_goes_by_seed(bank):
    there, _ = bank
    assert cases(there, Wanted({"mean": 78.0}, {"mean": 10.0})) == {"c8"}
    assert cases(there, Wanted(volume_ml=0.5)) == {"c5"}
    assert cases(there, Wanted(volume_ml=1.0)) == {"c5", "c8"}  # each within a factor of two
    assert there.fitting("T1", Wanted(), 0) is None
    assert cases(there, Wanted()) == {"c5", "c8"}
    assert there.fitting("CT", Wanted(), (3, 4)) == there.fitting("CT", Wanted(), (3, 4))
    assert len({there.fitting("CT", Wanted(), seed).turn for seed in range(40)}) == 8


def test_a_turned_lender_is_the_same_tumour(bank):
    there, _ = bank
    lender = there.of("CT")[1]
    plain = there.arrays(lender)["voxels"]
    for turn in range(16):
        other = there.arrays(replace(lender, turn=turn))["voxels"]
        assert np.array_equal(np.sort(other, None), np.sort(plain, None))
        assert turn == 0 or not np.array_equal(other, plain)


def test_a_lender_that_the_image_has_no_room_for_is_made_smaller(bank):
    there, _ = bank
    small, large = there.of("CT")
    assert large.fit(None) == large.fit(np.full(3, 400.0)) == 1
    assert large.fit(np.array([20.0, 400, 400])) == pytest.approx(ROOM * 20 / large.extent[0])
    assert cases(there, Wanted(room=np.array([8.0, 80, 80]))) == {"c5"}


def test_lenders_of_thick_slices_and_loud_scans_are_left_out(tumours):
    _, entries, tensors = tumours
    for change in ({"spacing_mm": [6.0, 1.0, 1.0]}, {"noise": 400.0}):
        there = Bank([entries[0], {**entries[1], **change}], lambda: tensors)
        noise = float(entries[0]["noise"])
        assert cases(there, Wanted(slice_mm=1.0, noise=noise)) == {"c5"}


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
    assert cases(there, Wanted(volume_ml=0.5)) == {"c5"}
    assert cases(there, Wanted(volume_ml=1.0)) == {"c5", "c8"}  # each within a factor of two
    assert cases(there, Wanted(volume_ml=0.5, tone=0.4)) == {"c8"}
    assert cases(there, Wanted(tone=0.4)) == {"c8"}
    assert cases(there, Wanted(volume_ml=0.5, tone=0.8)) == {"c5"}
    rim = {"original_firstorder_Mean": 400.0, "original_firstorder_Variance": 300.0**2}
    odd = [{**entries[0], "tone": 0.4, "features": rim}, {**entries[1], "tone": 0.8}]
    assert "c5" in cases(Bank(odd, lambda: tensors), Wanted(tone=0.4)), "a bright rim is seen"

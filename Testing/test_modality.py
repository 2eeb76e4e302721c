"""Which modality an image has: the user is believed, then the DICOM header, then shares of voxels, never a single one."""

import numpy as np
import pytest

from TumorSynthLib.errors import InputError
from TumorSynthLib.models import find
from TumorSynthLib.suitability import modality_of, parts_said
from TumorSynthLib.volume import Volume

SHAPE = (20, 40, 40)


def ct():
    """(K, J, I) int16 HU: lung, fat, muscle, air."""
    array = np.random.default_rng(0).normal(-840, 40, SHAPE)
    array[:, :, 24:28], array[:, :, 28:34], array[:, :, 34:] = -100, 45, -1000
    return (array + np.random.default_rng(1).normal(0, 10, SHAPE)).astype(np.int16)


def t1():
    """(K, J, I) int16 grey levels from 0: muscle, fat, air."""
    array = np.random.default_rng(0).normal(400, 30, SHAPE)
    array[:, :, 24:30], array[:, :, 34:] = 1100, 0
    return np.clip(array + np.random.default_rng(1).normal(0, 8, SHAPE), 0, None).astype(np.int16)


def image(array, header=""):
    return Volume(array, (1.0, 1.0, 3.0), metadata={"0008|0060": header} if header else {})


@pytest.fixture(scope="module")
def both():
    return find("soft-tissue-sarcoma")  # CT and T1


@pytest.fixture(scope="module")
def only_ct():
    return find("lung-nodule-ct")


def test_plain_images_without_a_word(both, only_ct):
    assert modality_of(both, None, image(ct())) == ("CT", [])
    assert modality_of(both, None, image(t1())) == ("T1", [])
    assert modality_of(both, "t1", image(t1())) == ("T1", [])
    assert modality_of(only_ct, None, image(ct(), "CT")) == ("CT", [])


@pytest.mark.parametrize("count", [1, 30])
def test_a_few_negative_voxels_make_no_ct(both, count):
    array = t1()
    array.ravel()[:count] = -260
    modality, warnings = modality_of(both, None, image(array))
    assert modality == "T1" and any("single voxels" in text for text in warnings)
    modality, warnings = modality_of(both, "T1", image(array))
    assert modality == "T1" and len(warnings) == 1


def test_a_ct_of_little_air_stays_one(both):
    array = np.random.default_rng(2).normal(45, 20, SHAPE)
    array[:, :, :4] = -100  # fat
    assert modality_of(both, None, image(array.astype(np.int16)))[0] == "CT"


def test_the_user_is_believed_with_a_warning(both):
    for array, wanted in ((ct(), "T1"), (ct() + np.int16(1024), "CT")):
        modality, warnings = modality_of(both, wanted, image(array))
        assert modality == wanted and "which is believed" in warnings[0]
    modality, warnings = modality_of(both, "CT", image(ct(), "MR"))
    assert modality == "CT" and "Modality says MR" in warnings[0]


def test_ct_stored_without_its_sign_is_said(both):
    modality, warnings = modality_of(both, None, image(ct() + np.int16(1024)))
    assert modality == "T1" and "CT stored 1024 too high" in " ".join(warnings)


def test_the_header_is_believed_or_the_contradiction_said(both, only_ct):
    with pytest.raises(InputError, match="Modality says MR, but model 'lung-nodule-ct' works on CT"):
        modality_of(only_ct, None, image(ct(), "MR"))
    with pytest.raises(InputError, match="Modality says PT"):
        modality_of(both, None, image(ct(), "PT"))
    modality, warnings = modality_of(both, None, image(ct(), "MR"))
    assert modality == "T1" and "Modality says MR, which is believed" in warnings[0]
    with pytest.raises(InputError, match="Modality says CT, but the image doesn't look like CT"):
        modality_of(both, None, image(t1(), "CT"))


def test_what_no_modality_has_is_refused_whoever_says_it(both):
    for array in (np.full(SHAPE, 7, np.int16), ct().astype(np.float32) * 1000):
        with pytest.raises(InputError, match="doesn't look like"):
            modality_of(both, "CT", image(array))


def test_several_tumours_in_a_mask_are_said():
    mask = np.zeros(SHAPE, bool)
    mask[2:8, 2:10, 2:10] = True
    mask[12, 12, 12] = True  # a crumb
    assert parts_said(mask, (1, 1, 3)) == []
    mask[12:18, 20:26, 20:26] = True
    (text,) = parts_said(mask, (1, 1, 3))
    assert "2 separate parts (1.2, 0.65 ml)" in text and "as one tumour" in text

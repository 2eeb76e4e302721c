"""Which model suits a tumour: never one of another organ, and none where nothing speaks for one."""

import numpy as np
import pytest

from TumorSynthLib.edit.choose import choose, organs_in
from TumorSynthLib.models import find
from TumorSynthLib.volume import Volume

LUNG, SARCOMA = "lung-nodule-ct", "soft-tissue-sarcoma"
SHAPE = (24, 48, 48)


@pytest.fixture(scope="module")
def bundles():
    return [find(LUNG), find(SARCOMA)]


@pytest.fixture(scope="module")
def everything(bundles):
    return [*bundles, find("generic-ct"), find("generic-mr")]


def ball() -> np.ndarray:
    k, j, i = np.indices(SHAPE)
    return (k - 12) ** 2 + (j - 24) ** 2 + (i - 24) ** 2 < 36


def ct(around: float) -> Volume:
    """A tumour of 40 HU in tissue of so many HU, in a body with air outside."""
    array = np.random.default_rng(0).normal(around, 20, SHAPE)
    array[ball()] = 40
    array[:, :3] = -1000
    return Volume(np.rint(array).astype(np.int16), (1.0, 1.0, 1.5))


def mr() -> Volume:
    return Volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), (1.0, 1.0, 2.0))


def test_a_nodule_in_lung_needs_no_name(bundles):
    assert choose(bundles, ct(-850.0), ball()).model_id == LUNG


def test_soft_tissue_is_chosen_where_something_says_so(bundles):
    assert choose(bundles, ct(50.0), ball(), ("Thigh CT",)).model_id == SARCOMA
    assert choose(bundles, mr(), ball(), ("STS_036 T1", "Sarcoma")).model_id == SARCOMA


@pytest.mark.parametrize("texts", [("Brain MR",), ("T1", "glioma"), ("head", "Tumor")])
def test_a_sarcoma_model_is_never_chosen_for_a_brain(bundles, texts):
    found = choose(bundles, mr(), ball(), texts)
    assert found.model_id == "" and "brain" in found.reason


def test_without_any_hint_there_is_no_model(bundles):
    found = choose(bundles, mr(), ball(), ("Volume_1", "Segment_1"))
    assert found.model_id == "" and "which organ" in found.reason
    assert choose(bundles, ct(50.0), ball()).model_id == ""


def test_the_dicom_body_part_counts(bundles):
    body = Volume(mr().array, (1.0, 1.0, 2.0), metadata={"0018|0015": "BRAIN"})
    assert choose(bundles, body, ball()).model_id == ""
    assert "brain" in choose(bundles, body, ball()).reason


def test_an_image_that_the_organs_model_does_not_know_has_none(bundles):
    """A lung in MR: the lung model works on CT."""
    assert choose(bundles, mr(), ball(), ("lung MR",)).model_id == ""


def test_words_are_recognised_by_their_beginnings():
    assert organs_in(["Pulmonary CT", "x"]) == {"lung"} and organs_in(["Volume"]) == frozenset()
    assert organs_in(["computer ahead"]) == frozenset() and organs_in(["STS_1 Glioma"]) == {"brain"}
    assert organs_in(["thyroid nodule"]) == {"thyroid"}


@pytest.mark.parametrize("texts", [("Brain MR",), ("Volume_1",), ("breast",), ("brain", "thigh")])
def test_without_a_model_of_the_organ_it_is_the_one_for_any(everything, texts):
    found = choose(everything, mr(), ball(), texts)
    assert found.model_id == "generic-mr" and "any organ" in found.reason
    assert choose(everything, ct(50.0), ball(), texts).model_id == "generic-ct"


def test_the_modality_that_is_said_counts(everything):
    assert choose(everything, mr(), ball(), ("thigh",), "T1").model_id == SARCOMA
    assert choose(everything, mr(), ball(), ("thigh",), "FLAIR").model_id == "generic-mr"
    assert choose(everything, mr(), ball(), (), "T1").model_id == "generic-mr"
    found = choose(everything, mr(), ball(), (), "PT")
    assert found.model_id == "" and "in PT" in found.reason


def test_an_image_that_is_no_image_has_no_model_and_says_why(everything):
    blank = Volume(np.zeros(SHAPE, np.int16), (1.0, 1.0, 2.0))
    found = choose(everything, blank, ball())
    assert found.model_id == "" and "contrast" in found.reason


def test_a_new_tumour_has_the_model_of_its_place(everything):
    """In the lung by a point, or, where the place is to be found, by the image."""
    assert choose(everything, ct(-850.0), at=(24.0, 8.0, 18.0)).model_id == LUNG
    assert choose(everything, ct(-850.0), at="auto").model_id == LUNG
    assert choose(everything, ct(50.0), at=(24.0, 8.0, 18.0)).model_id == "generic-ct"
    assert choose(everything, ct(50.0), at="auto").model_id == "generic-ct"
    assert choose(everything, mr(), at="auto").model_id == "generic-mr"


def test_a_new_tumour_at_a_found_place_has_the_model_of_its_organ_else_of_the_tumours_that_are_there(
    everything,
):
    chest = ct(-850.0)
    array = chest.array.copy()
    array[:, :, 30:] = 50  # its wall
    chest, lung, wall = chest.with_array(array), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    lung[4:20, 6:40, 2:16] = True
    wall[10:14, 20:28, 40:44] = True
    assert choose(everything, chest, at="auto").model_id == LUNG
    assert choose(everything, chest, at="auto", avoid=wall).model_id == "generic-ct"
    assert choose(everything, chest, at="auto", inside=wall).model_id == "generic-ct"
    assert choose(everything, chest, at="auto", inside=lung, avoid=wall).model_id == LUNG


def test_a_crop_of_lung_without_outer_air_is_lung(everything):
    crop = ct(-800.0)
    array = np.maximum(crop.array, -930)
    assert choose(everything, crop.with_array(array), at="auto").model_id == LUNG


def test_lung_around_a_tumour_counts_more_than_words(everything):
    assert choose(everything, ct(-850.0), ball(), ("sarcoma metastasis",)).model_id == LUNG

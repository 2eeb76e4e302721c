"""A place that is found for a new tumour."""

import numpy as np
import pytest
from test_carry import ball

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.placement import Part, found_place
from TumorSynthLib.volume import Volume, read_image, read_mask


def chest():
    """A body with a lung, a vessel through it, and a rib, 2 mm voxels."""
    array = np.full((40, 60, 60), -1000, np.int16)
    array[:, 5:55, 5:55] = 30
    array[:, 12:48, 12:48] = -850
    array[:, 28:31, :] = 40
    array[:, 45:48, 20:30] = 500
    array = array + np.random.default_rng(0).normal(0, 15, array.shape).astype(np.int16)
    return Volume(array.astype(np.int16), (2.0, 2.0, 2.0), (-10.0, 5.0, 0.0))


PART = Part.of(ball((5, 5, 5), 4, (11, 11, 11)))


@pytest.mark.parametrize("seed", range(6))
def test_a_place_lies_in_the_lung_and_off_vessels_and_ribs(seed):
    volume = chest()
    index = np.rint(volume.indices(found_place(volume, PART, True, seed=seed, lung=True))).astype(int)[::-1]
    box = tuple(slice(i - 4, i + 5) for i in index)
    assert (volume.array[box] < -600).mean() > 0.95


def test_seeds_give_different_places_and_one_seed_always_the_same():
    volume = chest()
    places = [tuple(found_place(volume, PART, True, seed=s, lung=True)) for s in (0, 1, 2, 0)]
    assert len(set(places)) == 3 and places[0] == places[3]


def test_a_place_lies_in_the_organ_that_is_given():
    volume = chest()
    organ = np.zeros(volume.array.shape, bool)
    organ[10:30, 14:27, 14:30] = True
    index = np.rint(volume.indices(found_place(volume, PART, True, organ))).astype(int)[::-1]
    assert organ[tuple(index)]


def test_a_tumour_that_fits_nowhere_is_an_error():
    volume = chest()
    organ = np.zeros(volume.array.shape, bool)
    organ[10:12, 14:16, 14:16] = True
    with pytest.raises(InputError, match="fits nowhere"):
        found_place(volume, PART, True, organ)


def with_tumours(contrast: float):
    """Even tissue with noise, half of it tumours of so many grey levels more, and their mask."""
    rng = np.random.default_rng(2)
    array, mask = rng.normal(400, 10, (40, 60, 60)), np.zeros((40, 60, 60), bool)
    for z in range(8, 40, 16):
        for y in range(8, 60, 16):
            for x in range(8, 60, 16):
                mask |= ball((z, y, x), 6, mask.shape)
    array[mask] += contrast
    array[:, :2] = array[:, -2:] = 0
    return Volume(np.rint(array).astype(np.int16), (2.0, 2.0, 2.0)), mask


@pytest.mark.parametrize("contrast", [300.0, -250.0])
def test_a_place_lies_off_bright_and_dark_tumours(contrast):
    volume, mask = with_tumours(contrast)
    small = Part.of(ball((3, 3, 3), 3, (7, 7, 7)))
    for seed in range(12):
        index = np.rint(volume.indices(found_place(volume, small, False, seed=seed))).astype(int)[::-1]
        assert not mask[tuple(index)]


def test_a_tumour_that_is_given_is_kept_away_from_though_it_looks_like_tissue():
    volume, mask = with_tumours(0.0)
    small = Part.of(ball((2, 2, 2), 2, (5, 5, 5)))
    around = ball((2, 2, 2), 2, (5, 5, 5))
    places = [found_place(volume, small, False, seed=seed, avoid=mask) for seed in range(8)]
    for place in places:
        index = np.rint(volume.indices(place)).astype(int)[::-1]
        box = tuple(slice(i - 2, i + 3) for i in index)
        assert not (mask[box] & around).any()
    free = [found_place(volume, small, False, seed=seed) for seed in range(8)]
    assert any(mask[tuple(np.rint(volume.indices(p)).astype(int)[::-1])] for p in free)


def test_a_nodule_in_the_lung_is_no_place():
    volume = chest()
    nodules = np.zeros(volume.array.shape, bool)
    for z in range(4, 40, 8):
        for x in range(16, 46, 8):
            nodules |= ball((z, 20, x), 3, nodules.shape)
    array = volume.array.copy()
    array[nodules] = -450
    small = Part.of(ball((2, 2, 2), 2, (5, 5, 5)))
    volume = volume.with_array(array)
    for seed in range(12):
        index = np.rint(volume.indices(found_place(volume, small, True, seed=seed, lung=True))).astype(int)[
            ::-1
        ]
        assert not nodules[tuple(index)]


def thigh(fat: float, muscle: float, bone: float, marrow: float, air: float, noise: float):
    """Two thighs that touch: most of each is fat, then muscle around a bone with marrow. The image, and where muscle is."""
    k, j, i = np.indices((30, 60, 112))
    array, lean = np.full(k.shape, air), np.zeros(k.shape, bool)
    for centre in (28, 84):
        far = np.hypot(j - 30, i - centre)
        for radius, level in ((28, fat), (19, muscle), (8, bone), (6, marrow)):
            array[far < radius] = level
        lean |= (far < 19) & (far >= 8)
    array[:, 12:48, 55:58] = np.where(np.arange(3) == 1, muscle, fat)  # their skin
    array = array + np.random.default_rng(0).normal(0, noise, array.shape)
    return Volume(np.rint(array).astype(np.int16), (2.0, 2.0, 3.0)), lean


@pytest.mark.parametrize("radius", [2, 4])
@pytest.mark.parametrize("ct", [True, False])
def test_a_place_in_a_thigh_lies_in_muscle_off_bone_marrow_and_skin(ct, radius):
    volume, lean = thigh(-100, 55, 900, -60, -1000, 15) if ct else thigh(900, 250, 30, 850, 5, 15)
    around = ball((radius,) * 3, radius, (2 * radius + 1,) * 3)
    for seed in range(8):
        index = np.rint(volume.indices(found_place(volume, Part.of(around), ct, seed=seed))).astype(int)
        box = tuple(slice(i - radius, i + radius + 1) for i in index[::-1])
        assert lean[box][around].mean() > 0.9


@pytest.mark.parametrize("ct", [True, False])
def test_a_place_lies_off_ventricles_the_falx_and_vessels(ct):
    """Small and thin, and as dark as little else: a coarse image hardly shows them."""
    k, j, i = np.indices((8, 120, 120))
    level, dark, bright = (40, -70, 180) if ct else (130, 40, 220)
    other = np.abs(i - 60) < (2 if ct else 1)
    for y in range(20, 110, 30):
        other |= (np.abs(j - y) < 3) & (np.abs(i - 30) < 5)
    array = np.where(other, dark, level)
    vessels = (np.abs((i + j) % 60 - 5) < 3) & (i > 60)
    array[vessels] = bright
    array = np.where(np.hypot(j - 60, i - 60) < 55, array, -1000 if ct else 0)
    array = array + np.random.default_rng(0).normal(0, 6, array.shape)
    volume = Volume(np.rint(array).astype(np.int16), (1.0, 1.0, 6.0))
    shape = ball((1, 9, 9), 9, (3, 19, 19))
    for seed in range(10):
        index = np.rint(volume.indices(found_place(volume, Part.of(shape), ct, seed=seed))).astype(int)[::-1]
        box = tuple(slice(n - r, n + r + 1) for n, r in zip(index, (1, 9, 9)))
        assert (other | vessels)[box][shape].mean() < 0.03


def test_a_place_in_soft_tissue_lies_off_the_lung_though_most_of_the_image_is_lung():
    volume = chest()
    volume.array[:, 5:55, 48:55] = 30
    small = Part.of(ball((1, 1, 1), 1, (3, 3, 3)))
    for seed in range(8):
        index = np.rint(volume.indices(found_place(volume, small, True, seed=seed))).astype(int)[::-1]
        assert volume.array[tuple(index)] > -200
    with pytest.raises(InputError, match="fits nowhere"):
        found_place(volume, PART, True)


def test_a_place_where_a_spike_touches_what_is_to_be_avoided_is_none():
    """Little of a tumour may lie where it doesn't fit, but nothing on another tumour."""
    array = np.random.default_rng(0).normal(400, 10, (30, 44, 60)).astype(np.int16)
    volume, other = Volume(array, (1.5, 1.5, 1.5)), np.zeros(array.shape, bool)
    other[:, :, 27:] = True
    shape = np.zeros((19, 19, 29), bool)
    shape[:, :, :19] = ball((9, 9, 9), 9, (19, 19, 19))
    found_place(volume, Part.of(shape), False, avoid=other)
    shape[9, 9] = True
    with pytest.raises(InputError, match="avoided"):
        found_place(volume, Part.of(shape), False, avoid=other)


def seen_at(shared_data, case: str, model: str, volume_ml: float, seed: int):
    """The original voxels where a tumour is inserted at a found place, and the image's brightest tissue."""
    volume = read_image(shared_data / f"{case}_image.nii.gz")
    mask = read_mask(shared_data / f"{case}_mask.nii.gz", volume)
    request = EditRequest(features={"volume_ml": volume_ml}, at="auto", avoid=mask, seed=seed)
    made = Editor(model).insert(volume, request)
    assert not (made.mask & mask).any()
    return volume.array[made.mask], float(np.percentile(volume.array, 99))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_real_thigh_keeps_its_femur_in_mr(shared_data, seed):
    values, bright = seen_at(shared_data, "sts/val/STS_040_T1", "generic-mr", 20.0, seed)
    assert (values < 0.16 * bright).mean() < 0.02 and (values > 0.55 * bright).mean() < 0.15


def test_a_real_thigh_keeps_its_skin_in_ct(shared_data):
    values, _ = seen_at(shared_data, "sts/val/STS_041_CT", "generic-ct", 15.0, 1)
    assert (values > -30).mean() > 0.9


@pytest.mark.parametrize("case", ["NSCLC_069_CT", "NSCLC_406_CT"])
def test_the_model_for_any_organ_finds_a_place_beside_a_nodule(shared_data, case):
    values, _ = seen_at(shared_data, f"nsclc_ct/val/{case}", "generic-ct", 1.0, 1)
    assert np.median(values) < -600


@pytest.mark.parametrize("seed", [1, 5])
def test_a_tumour_of_any_size_is_put_beside_a_large_one_that_is_to_be_avoided(shared_data, seed):
    volume = read_image(shared_data / "sts/val/STS_040_CT_image.nii.gz")
    mask = read_mask(shared_data / "sts/val/STS_040_CT_mask.nii.gz", volume)
    made = Editor("soft-tissue-sarcoma").insert(volume, EditRequest(at="auto", avoid=mask, seed=seed))
    assert made.mask.any() and not (made.mask & mask).any()

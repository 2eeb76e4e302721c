"""A place that is found for a new tumour."""

import numpy as np
import pytest
from test_carry import ball

from TumorSynthLib.errors import InputError
from TumorSynthLib.placement import Part, found_place
from TumorSynthLib.volume import Volume


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

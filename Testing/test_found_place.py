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

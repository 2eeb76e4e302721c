"""Texture features of a tumour at another size, read off a population."""

import numpy as np
import pytest

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.models import find
from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.sizing import HELD, VOLUME, at_size, slopes
from TumorSynthLib.region import Region
from TumorSynthLib.volume import Volume, read_image, read_mask

IDN, CONTRAST = "original_glcm_Idn", "original_glcm_Contrast"
ENTROPY, MEAN = "original_firstorder_Entropy", "original_firstorder_Mean"


def _population(n=200):
    """Idn follows log volume, Contrast the variance alone, Entropy the volume; Mean is correlated with volume too."""
    rng = np.random.default_rng(0)
    held = rng.normal(size=(n, len(HELD)))
    log = rng.normal(6, 1, n)
    held[:, 0] += 0.5 * (log - 6)
    noise = rng.normal(0, 0.1, (3, n))
    columns = {f"original_firstorder_{h}": held[:, k] for k, h in enumerate(HELD)}
    columns |= {VOLUME: np.exp(log), IDN: 0.6 + 0.05 * log + 0.01 * noise[0]}
    columns |= {CONTRAST: 20 + 3 * held[:, 1] + noise[1], ENTROPY: 3 + 0.5 * log + noise[2]}
    return Population(tuple(columns), np.stack(list(columns.values()), 1), tuple(map(str, range(n))))


def test_only_what_follows_the_size_is_moved():
    own = {IDN: 0.9, CONTRAST: 21.0, ENTROPY: 6.0, MEAN: 0.3}
    moved = at_size(_population(), own, 300.0, 600.0)
    assert moved[IDN] == pytest.approx(0.9 + 0.05 * np.log(2), abs=0.003)
    assert moved[ENTROPY] == pytest.approx(6.0 + 0.5 * np.log(2), abs=0.05)
    assert moved[CONTRAST] == own[CONTRAST] and moved[MEAN] == own[MEAN]


def test_there_and_back_again():
    own = {IDN: 0.85, ENTROPY: 5.5}
    there = at_size(_population(), own, 300.0, 500.0)
    assert there != own
    assert at_size(_population(), there, 500.0, 300.0) == pytest.approx(own)


def test_nothing_is_led_beyond_the_population():
    """A huge donor's joint entropy once became zero in a small nodule."""
    population = _population()
    column = population.values[:, population.names.index(IDN)]
    for own in (float(column.min()), 0.9, float(column.max()), 0.99):
        for wanted in (1.0, 1e9):
            moved = at_size(population, {IDN: own}, 400.0, wanted)[IDN]
            assert min(own, column.min()) <= moved <= max(own, column.max())
    sizes = population.values[:, population.names.index(VOLUME)]
    assert at_size(population, {IDN: 0.9}, 1e9, 400.0) == at_size(population, {IDN: 0.9}, sizes.max(), 400.0)


def test_a_small_population_tells_nothing():
    few = _population(20)
    assert slopes(few) == {}
    assert at_size(few, {IDN: 0.9}, 1.0, 2.0) == {IDN: 0.9}


def test_a_population_without_volumes_tells_nothing():
    full = _population()
    keep = [k for k, n in enumerate(full.names) if n != VOLUME]
    assert slopes(Population(tuple(full.names[k] for k in keep), full.values[:, keep], full.cases)) == {}


def test_real_nodules_never_trained_on(shared_data):
    """Features that follow the size, taken to another nodule's size, come nearer to that nodule's own."""
    masks = sorted((shared_data / "lidc_ct" / "val").glob("*_mask.nii.gz"))[:24]
    bundle = find("lung-nodule-ct")
    population, settings = bundle.population("CT"), bundle.settings("CT")
    found = []
    for path in masks:
        volume = read_image(path.with_name(path.name.replace("_mask", "_image")))
        mask = read_mask(path, like=volume)
        region = Region.around(volume, mask, bundle.spacing)
        found.append((volume.volume_of(mask), extract(region.array, region.mask, region.spacing, settings)))
    names = [
        n
        for n, b in slopes(population).items()
        if "NonUniformity" not in n and abs(b) > 0.3 and "_glcm_" in n
    ]
    raw, moved = [], []
    for size, own in found:
        for other, theirs in found:
            taken = at_size(population, own, size, other)
            for n in names:
                place = population.map_of(n).forward
                raw.append(abs(place(own[n]) - place(theirs[n])))
                moved.append(abs(place(taken[n]) - place(theirs[n])))
    assert len(names) >= 3
    assert np.mean(moved) < 0.8 * np.mean(raw)


def test_a_donor_is_asked_for_at_the_tumour_s_size():
    bundle, rng = find("lung-nodule-ct"), np.random.default_rng(0)
    shape = (24, 48, 48)
    z, y, x = np.indices(shape) - np.array(shape)[:, None, None, None] / 2
    distance = np.sqrt((z * bundle.spacing[2]) ** 2 + (y * bundle.spacing[1]) ** 2 + (x * bundle.spacing[0]) ** 2)
    found = []
    for radius in (4.0, 9.0):
        mask = distance < radius
        array = np.where(mask, 30 + 60 * rng.standard_normal(shape), -850 + 20 * rng.standard_normal(shape))
        found.append((Volume(np.rint(array).astype(np.int16), bundle.spacing), mask))
    (small, mask), donor = found
    editor = Editor(bundle)
    result = editor.retexture(small, mask, EditRequest(donor=donor, solve=False, steps=1))
    own = editor.extract(*donor)
    wanted = at_size(bundle.population("CT"), own, donor[0].volume_of(donor[1]), small.volume_of(mask))
    assert result.asked[IDN] == pytest.approx(wanted[IDN])
    assert result.asked[IDN] < own[IDN] - 0.005
    assert result.asked[MEAN] == pytest.approx(own[MEAN])

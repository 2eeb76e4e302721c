"""Texture features of a tumour at another size, read off a population."""

import numpy as np
import pytest

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.models import find
from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.sizing import HELD, VOLUME, at_size, slopes
from TumorSynthLib.region import Region
from TumorSynthLib.requests import steerable
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


def test_what_follows_the_size_is_moved():
    own = {IDN: 0.885, CONTRAST: 21.0, ENTROPY: 5.9, MEAN: 0.3}
    moved = at_size(_population(), own, 300.0, 600.0)
    assert moved[IDN] == pytest.approx(0.885 + 0.05 * np.log(2), abs=0.003)
    assert moved[ENTROPY] == pytest.approx(5.9 + 0.5 * np.log(2), abs=0.05)
    assert moved[CONTRAST] == pytest.approx(own[CONTRAST], abs=0.2)
    assert moved[MEAN] == own[MEAN]


def test_its_own_size_changes_nothing_and_a_small_step_little():
    own = {IDN: 0.85, ENTROPY: 5.5, CONTRAST: 25.0}
    assert at_size(_population(), own, 300.0, 300.0) == own
    assert at_size(_population(), own, 300.0, 301.0) == pytest.approx(own, rel=1e-3)


def test_with_few_tumours_every_feature_moves_on_its_own():
    own = {IDN: 0.85, ENTROPY: 5.5, CONTRAST: 25.0}
    there = at_size(_population(60), own, 300.0, 500.0)
    assert there[CONTRAST] == own[CONTRAST] and there[IDN] != own[IDN]
    assert at_size(_population(60), there, 500.0, 300.0) == pytest.approx(own)


def test_features_are_moved_to_what_tumours_of_that_size_have_together():
    """Moved one by one, two features that are nearly one would contradict each other."""
    rng, n = np.random.default_rng(1), 300
    log, texture = rng.normal(6, 1, n), rng.normal(size=n)
    columns = {VOLUME: np.exp(log), CONTRAST: 20 + 3 * texture + rng.normal(0, 0.1, n)}
    columns["original_glcm_DifferenceVariance"] = 40 + 6 * texture + rng.normal(0, 0.2, n)
    columns[IDN] = 0.6 + 0.05 * log + rng.normal(0, 0.001, n)
    columns |= {f"original_firstorder_{h}": rng.normal(size=n) for h in HELD}
    population = Population(tuple(columns), np.stack(list(columns.values()), 1), tuple(map(str, range(n))))
    apart = {CONTRAST: 23.0, "original_glcm_DifferenceVariance": 40.0}
    moved = at_size(population, apart, 200.0, 800.0)
    gap = [
        abs((f[CONTRAST] - 20) / 3 - (f["original_glcm_DifferenceVariance"] - 40) / 6) for f in (apart, moved)
    ]
    assert gap[0] == pytest.approx(1.0) and gap[1] < 0.2
    assert 20.5 < moved[CONTRAST] < 22.5


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


def test_parts_of_real_nodules_never_trained_on(shared_data):
    """What a nodule's features are from a quarter of it, and a quarter's from it: nearer to what is measured than as they are."""
    bundle, rng = find("lung-nodule-ct"), np.random.default_rng(0)
    population, settings = bundle.population("CT"), bundle.settings("CT")
    raw, moved = [], []
    for path in sorted((shared_data / "lidc_ct" / "val").glob("*_mask.nii.gz"))[:40]:
        volume = read_image(path.with_name(path.name.replace("_mask", "_image")))
        region = Region.around(volume, read_mask(path, like=volume), bundle.spacing)
        places = np.argwhere(region.mask)
        if len(places) < 80:
            continue
        far = ((places - places[rng.integers(len(places))]) ** 2 @ np.square(bundle.spacing[::-1])).argsort()
        part = np.zeros_like(region.mask)
        part[tuple(places[far[: len(places) // 4]].T)] = True
        found = []
        for mask in (region.mask, part):
            features = steerable(extract(region.array, mask, region.spacing, settings))[0]
            known = {n: v for n, v in features.items() if n in population.names}
            found.append((known, mask.sum() * np.prod(bundle.spacing)))
        for (own, size), (theirs, other) in (found, found[::-1]):
            taken = at_size(population, own, size, other)
            for start, errors in ((own, raw), (taken, moved)):
                place = {n: population.map_of(n).forward for n in own}
                errors.append(np.mean([min(abs(place[n](start[n]) - place[n](theirs[n])), 3.0) for n in own]))
    assert len(raw) >= 20
    assert np.mean(moved) < 0.95 * np.mean(raw)  # .99 where features were moved one by one


def test_a_donor_is_asked_for_at_the_tumour_s_size():
    bundle, rng = find("lung-nodule-ct"), np.random.default_rng(0)
    shape = (24, 48, 48)
    z, y, x = np.indices(shape) - np.array(shape)[:, None, None, None] / 2
    distance = np.sqrt(
        (z * bundle.spacing[2]) ** 2 + (y * bundle.spacing[1]) ** 2 + (x * bundle.spacing[0]) ** 2
    )
    found = []
    for radius in (4.0, 9.0):
        mask = distance < radius
        array = np.where(mask, 30 + 60 * rng.standard_normal(shape), -850 + 20 * rng.standard_normal(shape))
        found.append((Volume(np.rint(array).astype(np.int16), bundle.spacing), mask))
    (small, mask), donor = found
    editor = Editor(bundle)
    result = editor.retexture(small, mask, EditRequest(donor=donor, solve=False, steps=1))
    own = editor.extract(*donor)
    texture = {n: v for n, v in steerable(own)[0].items() if n in bundle.population("CT").names}
    wanted = at_size(bundle.population("CT"), texture, donor[0].volume_of(donor[1]), small.volume_of(mask))
    assert result.asked[IDN] == pytest.approx(wanted[IDN])
    assert result.asked[IDN] < own[IDN] - 0.005
    assert result.asked[MEAN] == pytest.approx(own[MEAN])

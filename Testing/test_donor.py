"""A donor's tissue in another tumour's mask."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from test_carry import SPACING, ball, scene

from TumorSynthLib.edit.plan import donor_of
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.region import Region
from TumorSynthLib.texture.exemplar.bands import Bands
from TumorSynthLib.texture.exemplar.donor import Lent, expected, laid, lent_tissue, levelled, part_laid
from TumorSynthLib.texture.exemplar.lent import LookConfig, _core, _share, _words
from TumorSynthLib.volume import Volume


def donor_with_core(seed=5):
    """A bright ball with a dark core, on a finer grid than the recipient's."""
    rng = np.random.default_rng(seed)
    outer, inner = ball((12, 24, 24), 11), ball((12, 24, 24), 6)
    image = np.where(outer, 120.0, -100.0) - np.where(inner, 200.0, 0.0)
    return ndimage.gaussian_filter(image, 1.0) + rng.normal(size=image.shape), outer


@pytest.fixture(scope="module")
def made():
    image, _, mask = scene(radius=8)
    bands = Bands(image, mask, SPACING)
    theirs, contour = donor_with_core()
    values = laid(bands, Lent(theirs, theirs, contour, (0.8, 0.8, 0.8)))
    return image, mask, bands, bands.put(values, image)


def test_the_donors_core_is_laid_into_the_recipients(made):
    image, mask, _, out = made
    core, rim = ball((12, 20, 20), 2), ball((12, 20, 20), 6) & ~ball((12, 20, 20), 5)
    assert out[core].mean() == pytest.approx(-80, abs=30)
    assert out[rim].mean() > out[core].mean() + 40
    assert image[rim].mean() < image[core].mean() + 20


def test_nothing_outside_the_mask_changes(made):
    image, mask, _, out = made
    assert (out[~mask] == image[~mask].astype(np.float32)).all()


def test_the_finest_grain_stays_the_recipients(made):
    image, _, bands, out = made
    deep = bands.depth > 4
    before, after = (bands.filter.grain(v[bands.box])[bands.mask][deep] for v in (image, out))
    assert np.corrcoef(before, after)[0, 1] > 0.95


def test_a_donor_of_another_form_leaves_no_hole():
    image, _, mask = scene(radius=8)
    bands = Bands(image, mask, SPACING)
    theirs, contour = donor_with_core()
    flat = contour & (np.indices(contour.shape)[2] > 24)
    out = bands.put(laid(bands, Lent(theirs, theirs, flat, (0.8, 0.8, 0.8))), image)
    assert out[ndimage.binary_erosion(mask, iterations=3)].min() > -100  # the dark core


def test_fat_in_a_donors_contour_is_not_lent():
    rng = np.random.default_rng(0)
    contour = ball((12, 24, 24), 9)
    fat = contour & (np.indices(contour.shape)[2] > 30)
    image = np.where(fat, -100.0, 50.0) + rng.normal(size=contour.shape) * 5
    lend = lent_tissue(image, contour, SPACING, False, True)
    assert not lend[ndimage.binary_erosion(fat)].any()
    assert lend[contour & ~ndimage.binary_dilation(fat, iterations=2)].mean() > 0.9
    assert (lent_tissue(image, contour, SPACING, True, True) == contour).all()


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_donors_noise_is_not_lent(factor):
    image, _, mask = scene(level=60.0, background=20.0, noise=15.0, radius=8)
    other, empty, contour = scene(level=60.0, background=20.0, noise=15.0 * factor, radius=8, seed=1)
    volume, donor = (Volume(np.rint(a).astype(np.int16), SPACING, (0.0, 0.0, 0.0)) for a in (image, other))
    request = EditRequest(donor=(donor, contour), modality="CT")
    result = Editor(None).retexture(volume, mask, request)
    assert result.provenance["plan"]["noise_ratio"] == pytest.approx(factor, rel=0.35)
    assert any("times as noisy" in text for text in result.warnings)
    deep = ndimage.binary_erosion(mask, iterations=3)
    specks = [
        (a - ndimage.median_filter(a, 3))[deep].std() for a in (image, result.volume.array.astype(float))
    ]
    assert specks[1] == pytest.approx(specks[0], rel=0.3)


def mr(level, centre, seed):
    """A T1 of fat around muscle with a tumour in it, by its scanner's unit."""
    rng, muscle = np.random.default_rng(seed), ball((12, 24, 24), 20)
    image = np.where(muscle, 350.0, 1000.0)
    mask = ball(centre, 5)
    image[mask] = 500.0
    image = ndimage.gaussian_filter(image, 0.7) + 8 * rng.normal(size=image.shape)
    return Volume(np.rint(level * image).astype(np.int16), SPACING, (0.0, 0.0, 0.0)), mask


@pytest.mark.parametrize("unit", [0.3, 4.0])
def test_a_donor_of_an_mr_with_another_unit_is_brought_to_the_recipients(unit):
    (volume, mask), donor = mr(1.0, (12, 24, 20), 0), mr(unit, (12, 22, 26), 1)
    at = tuple(volume.points(np.array([32.0, 30.0, 12.0])))
    laid = Editor(None).insert(volume, EditRequest(donor=donor, modality="MR", at=at))
    lent = Editor(None).retexture(volume, mask, EditRequest(donor=donor, modality="MR"))
    for made in (laid, lent):
        inside = ndimage.binary_erosion(made.mask, iterations=2)
        assert made.volume.array[inside].mean() == pytest.approx(500, rel=0.08)
    assert laid.provenance["plan"]["level"] == pytest.approx(1 / unit, rel=0.1)


def test_a_part_of_a_larger_donor_keeps_its_scale_and_levels():
    image, _, mask = scene(level=60.0, background=-100.0, noise=1.0, radius=8)
    bands = Bands(image, mask, SPACING)
    big = np.zeros((49, 97, 97), bool)
    big[8:41, 24:73, 24:73] = True
    stripes = 60.0 + 40.0 * np.sin(2 * np.pi * np.indices(big.shape)[2] / 8)
    out = bands.put(part_laid(bands, Lent(stripes, stripes, big, SPACING)), image)
    line = out[12, 20, 14:27] - out[12, 20, 14:27].mean()
    turns = np.flatnonzero(np.diff(np.sign(line)))
    assert np.diff(turns).mean() == pytest.approx(4, abs=1)
    deep = bands.depth > 4
    assert out[bands.box][bands.mask][deep].std() == pytest.approx(stripes[big].std(), rel=0.3)


def blotchy(seed=0, radius=8):
    """A ball of blotches, with noise everywhere, in darker surroundings."""
    rng = np.random.default_rng(seed)
    image, _, mask = scene(level=60.0, background=-100.0, noise=0.0, radius=radius)
    blotches = ndimage.gaussian_filter(rng.normal(size=image.shape), 2)
    return image + np.where(mask, 20 * blotches / blotches.std(), 0) + 5 * rng.normal(size=image.shape), mask


def test_a_tumours_own_mirror_image_as_donor_is_expected_to_have_its_features():
    image, mask = blotchy()
    bands = Bands(image, mask, SPACING)
    mirrored, contour = image[:, :, ::-1].copy(), mask[:, :, ::-1].copy()
    found = expected(bands, Lent(mirrored, mirrored, contour, SPACING))
    inner = bands.depth > 3
    assert np.abs(found - bands.own)[inner].mean() > 10  # it isn't the tumour as it is
    assert np.sort(found) == pytest.approx(np.sort(bands.own), abs=12)
    deep = ndimage.binary_erosion(mask, iterations=3)[:, :, 1:]
    boxes = [bands.put(values, image) for values in (found, bands.own)]
    beside = [np.corrcoef(box[:, :, 1:][deep], box[:, :, :-1][deep])[0, 1] for box in boxes]
    assert beside[0] == pytest.approx(beside[1], abs=0.1)
    rim = bands.depth < 1.1
    assert np.abs(found - bands.own)[rim].max() < np.abs(found - bands.own)[inner].max()


def test_levels_of_a_donor_make_no_pits_of_a_smooth_tumours_noise():
    image, mask = blotchy()
    smooth = np.where(mask, 60.0, image) + np.random.default_rng(1).normal(size=image.shape)
    bands = Bands(smooth, mask, SPACING)
    holes = np.where(np.random.default_rng(2).random(len(bands.own)) < 0.1, -800.0, bands.own)
    made = levelled(bands, bands.own, holes)
    assert made.std() < 2 * bands.own.std() and made.min() > 0
    lighter = levelled(bands, bands.own, bands.own + 30)
    assert np.median((lighter - bands.own)[bands.depth > 4]) == pytest.approx(30, abs=3)


def test_a_nodules_cavity_and_border_are_not_lent():
    rng = np.random.default_rng(0)
    nodule, cavity, contour = ball((12, 24, 24), 9), ball((12, 24, 24), 3), ball((12, 24, 24), 11)
    image = np.where(nodule & ~cavity, 40.0, -850.0)
    image = (ndimage.gaussian_filter(image, 0.7) + 10 * rng.normal(size=image.shape)).astype(np.int16)
    region = Region.around(Volume(image, SPACING, (0.0, 0.0, 0.0)), contour)
    core = _core(region, True)
    assert core.sum() > 0.2 * nodule.sum() and region.native[core].min() > -100
    assert not _core(region, False)[~region.native_mask].any()


def test_a_donor_that_is_too_small_lends_no_part():
    image, _, mask = scene(radius=8)
    small = ball((12, 24, 24), 3)
    assert part_laid(Bands(image, mask, SPACING), Lent(image, image, small, SPACING)) is None


def test_what_a_donor_comes_to_is_said_before_and_recorded_of_both_masks():
    image, _, mask = scene(level=60.0, background=20.0, noise=15.0, radius=8)
    other, _, contour = scene(level=90.0, background=20.0, noise=30.0, radius=9, seed=1)
    volume, donor = (Volume(np.rint(a).astype(np.int16), SPACING, (0.0, 0.0, 0.0)) for a in (image, other))
    said = []

    class Report:
        def __call__(self, stage, share):
            if said:
                assert stage == "measure"

        def say(self, text):
            said.append(text)

    result = Editor(None).retexture(
        volume, mask, EditRequest(donor=(donor, contour), modality="CT"), Report()
    )
    plan = result.provenance["plan"]
    assert said and said[0] in result.warnings and "the donor lends its look" in said[0]
    assert plan["shown"] == "look" and set(plan["reach"]) == {"tissue", "before", "contour"}
    assert plan["contour"]["donor"]["original_firstorder_Mean"] == pytest.approx(85, abs=5)
    for name, value in plan["limits"].items():
        assert result.reached[name] == pytest.approx(value, rel=1e-3, abs=1e-6)
        assert name in result.asked


def test_a_moved_tumour_gets_the_donors_tissue_without_a_network():
    image, _, mask = scene(level=60.0, background=-100.0, noise=5.0, radius=6)
    other, _, contour = scene(level=120.0, background=-100.0, noise=5.0, radius=8, seed=1)
    volume, donor = (Volume(np.rint(a).astype(np.int16), SPACING, (0.0, 0.0, 0.0)) for a in (image, other))
    options = {"to": tuple(volume.points(np.array([[26.0, 24.0, 12.0]]))[0]), "nearest": True}
    made = [
        Editor(None).move(volume, mask, EditRequest(donor=d, modality="CT", **options))
        for d in (None, (donor, contour))
    ]
    deep = ndimage.binary_erosion(made[1].mask, iterations=2)
    own, lent = (m.volume.array[deep].mean() for m in made)
    assert (made[0].mask == made[1].mask).all() and lent > own + 15
    assert made[1].provenance["plan"]["texture_from"] == "donor" and "limits" in made[1].provenance["plan"]
    changed = made[1].volume.array != made[0].volume.array
    assert not (changed & ~made[1].mask).any()


def test_what_features_ask_of_laid_tissue_is_done_as_far_as_it_stays_as_fine():
    image, _, mask = scene(radius=8)
    bands = Bands(image, mask, SPACING)
    rng = np.random.default_rng(0)
    salt = bands.noise * rng.normal(size=bands.own.shape)
    shares = [
        _share(bands, bands.own, change, LookConfig()) for change in (3 * salt, 0.6 * salt, 8 * bands.fade)
    ]
    assert shares[0] == 0 < shares[1] < shares[2] == 1


@pytest.mark.parametrize(("region", "voxels"), [("core", 8), ("rim", 19), (None, 27)])
def test_a_donor_with_several_regions_lends_the_one_that_is_meant(monkeypatch, region, voxels):
    monkeypatch.setattr("TumorSynthLib.suitability.modality_of", lambda *_: ("CT", []))
    regions = [SimpleNamespace(name="core", label=1), SimpleNamespace(name="rim", label=2)]
    bundle = SimpleNamespace(regions=regions, region=lambda name: next(r for r in regions if r.name == name))
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:5, 2:5, 2:5] = 2
    labels[2:4, 2:4, 2:4] = 1
    image = Volume(np.arange(512, dtype=np.int16).reshape(8, 8, 8), SPACING, (0.0, 0.0, 0.0))
    case = SimpleNamespace(bundle=bundle, modality="CT")
    mask = donor_of(case, EditRequest(donor=(image, labels), region=region))[1]
    assert mask.dtype == bool and mask.sum() == voxels


def test_of_many_features_that_stay_far_three_are_named():
    asked = {f"original_glcm_F{i}": 0.0 for i in range(40)}
    text = _words(asked, {name: 1.0 + i for i, name in enumerate(asked)}, dict.fromkeys(asked, 1.0), None)
    assert "40 of 40 stay farther off than 0.25 σ (asked → reached): glcm_F39 0 → 40, glcm_F38" in text
    assert text.count("→") == 4 and text.endswith(" and 37 more")


@pytest.mark.parametrize("few, spacing", [(1, (1.2, 1.2, 1.2)), (3, (1.2, 1.2, 1.2)), (10, (0.8, 0.8, 2.5))])
def test_a_donor_of_one_voxel_is_laid_into_thick_slices(few, spacing):
    image, _, mask = scene(radius=8)
    near = np.argwhere(mask)[np.abs(np.argwhere(mask) - (12, 20, 20)).sum(1).argsort(kind="stable")[:few]]
    recipient = np.zeros_like(mask)
    recipient[tuple(near.T)] = True
    bands = Bands(image, recipient, (0.8, 0.8, 2.5))
    donor = Lent(image, image, ball((12, 20, 20), 0.5), spacing)
    part = part_laid(bands, donor)
    for values in (laid(bands, donor), expected(bands, donor), bands.own if part is None else part):
        assert np.isfinite(values).all() and len(values) == few

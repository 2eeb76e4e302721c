"""Move, reshape and insert with real tissue, through the editor."""

import numpy as np
import pytest
from scipy import ndimage
from test_carry import ball
from test_editor import stored_otherwise
from tiny_bundle import tiny_bundle

from TumorSynthLib.edit.bank import FILE
from TumorSynthLib.edit.case import open_case
from TumorSynthLib.edit.lending import lender_of
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models.bundle import load_bundle
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.placement import centre_of_mass
from TumorSynthLib.texture.exemplar import kept as module
from TumorSynthLib.texture.exemplar.bank import packed
from TumorSynthLib.texture.exemplar.carry import Source
from TumorSynthLib.texture.exemplar.place import detached
from TumorSynthLib.volume import Volume

SHAPE = (26, 64, 64)
MEAN = "original_firstorder_Mean"


def lung(nodule=(12, 24, 24), radius=6, seed=0):
    """A lung of 1 mm voxels beside a chest wall, with a blurred nodule; and the nodule's mask."""
    rng = np.random.default_rng(seed)
    image = -850 + 60 * ndimage.gaussian_filter(rng.normal(size=SHAPE), (0.3, 0.7, 0.7))
    image[:, :, 56:] = 40 + 10 * rng.normal(size=(*SHAPE[:2], 8))
    mask = ball(nodule, radius, SHAPE)
    soft = ndimage.gaussian_filter(mask.astype(float), 0.7)
    inside = 30 + 25 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5) * 6
    image = image * (1 - soft) + inside * soft
    return Volume(np.rint(image).astype(np.int16), (1.0, 1.0, 1.0), (-30.0, -30.0, 10.0)), mask


@pytest.fixture(scope="module")
def case():
    return lung()


@pytest.fixture(scope="module")
def moved(case):
    volume, mask = case
    to = tuple(centre_of_mass(volume, mask) + np.array([10.0, 14.0, 1.0]))
    return Editor(None).move(volume, mask, EditRequest(to=to, modality="CT", seed=1)), to


@pytest.fixture(scope="module")
def banked(tmp_path_factory):
    """A tiny model with a bank of one nodule."""
    plain = tiny_bundle(tmp_path_factory.mktemp("plain"))
    volume, mask = lung(seed=5, radius=7)
    empty = np.where(ndimage.binary_dilation(mask, iterations=4), -850, volume.array).astype(np.float32)
    source = Source(
        volume.array.astype(np.float32),
        empty,
        mask,
        ndimage.binary_dilation(mask, iterations=4),
        (1.0, 1.0, 1.0),
        True,
    )
    facts = {"case": "lent", "modality": "CT", "blur_mm": 0.7, "volume_ml": 1.4, "features": {MEAN: 20.0}}
    tensors, entry = packed(detached(source.matte()[0]), "000", facts)
    manifest = {k: v for k, v in plain.json.items() if k != "files"} | {"bank": {"tumours": [entry]}}
    files = {name: plain.tensors(name, "numpy") for name in plain.json["files"]}
    folder = tmp_path_factory.mktemp("banked")
    write_bundle(folder, manifest, files | {FILE: tensors})
    return Editor(load_bundle(folder))


def test_a_move_needs_no_model_and_changes_only_what_it_states(case, moved):
    volume, mask = case
    result, _ = moved
    differs = result.volume.array != volume.array
    assert differs.any() and not (differs & ~result.changed).any()
    around = result.changed & ~mask & ~result.mask
    assert result.provenance["plan"]["zone_voxels"] == around.sum() > 0
    assert result.provenance["plan"]["engine"] == "exemplar"
    again = result.patch.revert(result.volume.array.copy())
    assert np.array_equal(again, volume.array)


def test_a_strict_move_changes_nothing_outside_the_masks(case, moved):
    volume, mask = case
    result = Editor(None).move(volume, mask, EditRequest(to=moved[1], modality="CT", seed=1, strict=True))
    differs = result.volume.array != volume.array
    assert differs[mask].any() and differs[result.mask].any() and not (differs & ~mask & ~result.mask).any()
    assert result.provenance["plan"]["zone_voxels"] == 0


def test_a_moved_tumour_lies_where_it_was_asked_to_with_its_features(case, moved):
    volume, mask = case
    result, to = moved
    assert centre_of_mass(volume, result.mask) == pytest.approx(to, abs=0.6)
    assert result.mask.sum() == pytest.approx(mask.sum(), rel=0.05)
    assert result.reached[MEAN] == pytest.approx(result.before[MEAN], abs=25)
    assert result.volume.array[ndimage.binary_erosion(mask, iterations=2)].mean() < -700


def thigh(seed=0):
    """Muscle in which a tumour lies whose contour takes in a crescent of fat; its mask, and the crescent."""
    rng = np.random.default_rng(seed)
    image = 50 + 12 * ndimage.gaussian_filter(rng.normal(size=SHAPE), (0.3, 0.7, 0.7)) * 2
    mask = ball((12, 24, 24), 8, SHAPE)
    image += 60 * ndimage.gaussian_filter(ball((12, 24, 24), 7, SHAPE).astype(float), 0.7)
    fat = mask & (np.indices(SHAPE)[2] < 19)
    image[fat] = -100 + 8 * rng.normal(size=int(fat.sum()))
    volume = Volume(np.rint(image).astype(np.int16), (1.0, 1.0, 1.0), (-30.0, -30.0, 10.0))
    return volume, mask, fat


def test_what_a_contour_takes_in_of_fat_stays_behind_and_features_are_of_the_same_voxels():
    volume, mask, fat = thigh()
    to = tuple(centre_of_mass(volume, mask) + np.array([22.0, 14.0, 0.0]))
    editor = Editor(None)
    result = editor.move(volume, mask, EditRequest(to=to, modality="CT", seed=1))
    shift = np.array(result.provenance["plan"]["moved_voxels"])
    assert shift.tolist() == [0, 14, 22]
    was = np.roll(result.mask, -shift, (0, 1, 2))
    assert was.any() and not (was & ~mask).any()
    assert (was & fat).sum() < 0.15 * fat.sum(), "fat was moved along"
    expected = editor.extract(volume, was, "CT")
    assert result.before[MEAN] == pytest.approx(expected[MEAN])
    assert result.reached[MEAN] == pytest.approx(expected[MEAN], abs=6)


def test_numbers_bring_a_moved_tumour_nearer_to_its_features_where_the_place_changed_them(
    banked, monkeypatch
):
    volume, mask = lung()
    to = tuple(centre_of_mass(volume, mask) + np.array([10.0, 14.0, 1.0]))
    request = EditRequest(to=to, modality="CT", seed=1)
    plain = banked.move(volume, mask, request)
    assert 0.9 < plain.provenance["plan"]["kept_r"] <= 1.0
    monkeypatch.setattr(module, "LEAST_R", 1.01)
    monkeypatch.setattr(module, "WORTH", 0.0)
    nearer = banked.move(volume, mask, request)
    plan = nearer.provenance["plan"]
    assert plan["kept_r"] >= plain.provenance["plan"]["kept_r"]
    assert not ((nearer.volume.array != plain.volume.array) & ~nearer.mask).any(), (
        "numbers reached out of the tumour"
    )


@pytest.mark.parametrize("off", [3, -3, 60])
def test_a_moved_tumours_darkest_voxel_from_which_levels_are_counted_is_as_dark_as_it_was(off):
    """A step of it by one level shifts all levels, and features of low ones by standard deviations."""
    rng = np.random.default_rng(0)
    mask = ball((12, 24, 24), 8, SHAPE)
    image = np.rint(100 + 20 * rng.normal(size=SHAPE)).astype(np.int16)
    image[12, 24, 24] = image[mask].min() - 5
    moved, now = image.copy(), int(image[mask].min()) + off
    moved[12, 24, 24] = now
    before, volume = (Volume(one, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) for one in (image, moved))
    made = module._with_darkest(before, volume, mask, mask)
    if off == 60:
        assert now > np.sort(image[mask])[1] and made.array[mask].min() == image[mask].min()
    else:
        assert np.array_equal(made.array, image)
    far = before.with_array(image + np.int16(15))
    assert module._with_darkest(before, far, mask, mask) is None, "a change that would be seen"
    assert module._with_darkest(before, before, mask, mask) is None


@pytest.mark.parametrize("order, flip", [((2, 0, 1), (0, 1, 0)), ((1, 2, 0), (1, 0, 1))])
def test_the_order_of_axes_hardly_matters(case, moved, order, flip):
    volume, mask = case
    result, to = moved
    turned = stored_otherwise(volume, order, flip)
    turned_mask = stored_otherwise(volume.with_array(mask), order, flip).array
    other = Editor(None).move(turned, turned_mask, EditRequest(to=to, modality="CT", seed=1))
    expected = stored_otherwise(volume.with_array(result.mask), order, flip).array
    both = (other.mask & expected).sum() * 2 / (other.mask.sum() + expected.sum())
    assert both > 0.97


def test_a_place_in_the_wall_is_refused_with_advice(case):
    volume, mask = case
    to = tuple(volume.points(np.array([61.0, 30.0, 12.0])))
    with pytest.raises(InputError, match="choose another place|nearest place"):
        Editor(None).move(volume, mask, EditRequest(to=to, modality="CT"))


def test_a_shape_without_a_model_is_an_error_that_says_so(case):
    volume, mask = case
    with pytest.raises(InputError, match="model"):
        Editor(None).reshape(volume, mask, EditRequest(features={"volume_ml": 2.0}, modality="CT"))


def test_a_donor_is_inserted_without_a_model(case):
    volume, _ = case
    donor = lung(nodule=(12, 30, 30), radius=5, seed=9)
    at = tuple(volume.points(np.array([40.0, 44.0, 13.0])))
    result = Editor(None).insert(volume, EditRequest(at=at, donor=donor, modality="CT"))
    assert centre_of_mass(volume, result.mask) == pytest.approx(at, abs=0.8)
    assert result.volume.array[result.mask].mean() > -300
    differs = result.volume.array != volume.array
    assert not (differs & ~result.changed).any()


def test_a_bank_lends_to_an_insertion_by_seed_at_a_calm_place(case, banked):
    volume, _ = case
    request = EditRequest(at="auto", modality="CT", seed=4)
    first, second = (banked.insert(volume, request) for _ in range(2))
    assert np.array_equal(first.volume.array, second.volume.array)
    assert first.provenance["plan"]["lender"] == "lent"
    assert first.volume.array[first.mask].mean() > -300
    assert volume.array[first.mask].mean() < -700
    other = banked.insert(volume, EditRequest(at="auto", modality="CT", seed=5))
    assert not np.array_equal(other.mask, first.mask)


def test_the_same_seed_takes_other_tumours_in_other_images(banked):
    taken = set()
    for seed in range(4):
        volume, _ = lung(seed=seed)
        at = tuple(volume.points(np.array([36.0, 44.0, 13.0])))
        case = open_case(banked.bundle, volume, None, EditRequest(at=at, modality="CT"), Progress(None))
        taken.add(lender_of(case, EditRequest(at=at, modality="CT", seed=4)).turn)
        again = lender_of(case, EditRequest(at=at, modality="CT", seed=4))
        assert again == lender_of(case, EditRequest(at=at, modality="CT", seed=4))
    assert len(taken) > 1


def test_an_inserted_tumour_gets_the_features_that_are_asked(case, banked):
    volume, _ = case
    plain = banked.insert(volume, EditRequest(at="auto", modality="CT", seed=4))
    wanted = plain.reached[MEAN] - 10
    result = banked.insert(volume, EditRequest(at="auto", features={MEAN: wanted}, modality="CT", seed=4))
    assert result.reached[MEAN] == pytest.approx(wanted, abs=1)

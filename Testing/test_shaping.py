"""Edits that make a new mask: what is reached, where it lies, what changes and what doesn't, what is refused."""

from dataclasses import replace

import editor_case
import numpy as np
import pytest
import shape_case
from test_editor import stored_otherwise

from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.placement import Part, centre_of_mass, grown, placed
from TumorSynthLib.provenance import request_of
from TumorSynthLib.radiomics.extract import extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.requests import EditRequest, split
from TumorSynthLib.shaping import measured_shape
from TumorSynthLib.volume import Volume

VOLUME, SPHERICITY = "original_shape_MeshVolume", "original_shape_Sphericity"
MEAN, CONTRAST = "original_firstorder_Mean", "original_glcm_Contrast"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return Editor(shape_case.model(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def case():
    return editor_case.ct()


@pytest.fixture(scope="module")
def own(case):
    return measured_shape(case[1], case[0].spacing)


def request(**options):
    return EditRequest(**{"features": {"volume_ml": 2.7}, "solve": False, "engine": "bridge", **options})


@pytest.fixture(scope="module")
def reshaped(editor, case):
    return editor.reshape(*case, request())


def place(volume, k, j, i):
    return tuple(volume.points(np.array([i, j, k])))


def test_a_tumour_of_its_own_size_leaves_the_image_as_it_is(editor, case, own):
    volume, mask = case
    result = editor.reshape(volume, mask, request(features={VOLUME: own[VOLUME]}, engine=None))
    assert result.provenance["plan"]["engine"] == "exemplar"
    assert np.array_equal(result.mask, mask) and np.array_equal(result.volume.array, volume.array)


def test_reshape_reaches_the_volume_where_the_tumour_was(case, own, reshaped):
    volume, mask = case
    assert reshaped.asked[VOLUME] == 2700 and reshaped.before[VOLUME] == pytest.approx(own[VOLUME])
    assert reshaped.reached[VOLUME] == pytest.approx(2700, rel=0.01)
    off = centre_of_mass(volume, reshaped.mask) - centre_of_mass(volume, mask)
    assert np.all(np.abs(off) <= 0.51 * np.array(volume.spacing))
    for name in ("Sphericity", "Elongation", "Flatness"):  # not asked for: they stay
        name = f"original_shape_{name}"
        assert reshaped.reached[name] == pytest.approx(reshaped.before[name], rel=0.08)


def test_shape_features_are_those_of_an_extraction(reshaped):
    found = extract_image(reshaped.volume, reshaped.mask, Settings(), ("shape",))
    assert len(found) == 17
    for name, value in found.items():
        assert reshaped.reached[name] == pytest.approx(value, rel=1e-6)


def test_reshape_changes_both_masks_and_nothing_else(case, reshaped):
    volume, mask = case
    changed = reshaped.volume.array != volume.array
    both = mask | reshaped.mask
    assert not changed[~both].any() and changed[reshaped.mask].mean() > 0.5
    again = reshaped.patch.apply(volume.array.copy())
    assert np.array_equal(again, reshaped.volume.array)
    assert np.array_equal(reshaped.patch.revert(again), volume.array)


def test_a_smaller_tumour_leaves_tissue_where_the_old_one_was(editor, case):
    volume, mask = case
    result = editor.reshape(volume, mask, request(features={"volume_ml": 1.0}))
    left = mask & ~result.mask
    changed = result.volume.array != volume.array
    assert left.sum() > 400 and changed[left].mean() > 0.5 and not changed[~(mask | result.mask)].any()
    rim = editor.reshape(volume, mask, request(features={"volume_ml": 1.0}, grow=2.0))
    wide = grown(mask, volume.spacing, 2.0)
    changed = rim.volume.array != volume.array
    assert changed[wide & ~mask].any() and not changed[~wide].any()


def test_texture_stays_that_of_the_tumour_unless_asked(editor, case, reshaped):
    before = editor.extract(*case)
    assert reshaped.asked[CONTRAST] == pytest.approx(before[CONTRAST])
    assert "original_firstorder_Energy" not in reshaped.asked  # it follows the size
    mixed = editor.reshape(*case, request(features={"volume_ml": 2.5, "mean_intensity": 35.0}, solve=True))
    assert mixed.asked[VOLUME] == 2500 and mixed.asked[MEAN] == 35.0
    assert abs(mixed.reached[MEAN] - 35) < 2 and mixed.reached[VOLUME] == pytest.approx(2500, rel=0.01)
    assert mixed.provenance["request"]["features"] == {VOLUME: 2500.0, MEAN: 35.0}


@pytest.mark.parametrize("order, flip", [((2, 0, 1), (0, 1, 0)), ((1, 2, 0), (1, 0, 1))])
def test_axis_order_does_not_matter(editor, case, reshaped, order, flip):
    volume, mask = case
    turned = stored_otherwise(volume, order, flip)
    turned_mask = stored_otherwise(volume.with_array(mask), order, flip).array
    result = editor.reshape(turned, turned_mask, request())
    expected = stored_otherwise(reshaped.volume, order, flip)
    assert np.array_equal(result.volume.array, expected.array)
    expected = stored_otherwise(volume.with_array(reshaped.mask), order, flip)
    assert np.array_equal(result.mask, expected.array)


def test_insert_needs_no_tumour_and_repeats(editor, case):
    volume, _ = case
    wanted = request(
        features={"volume_ml": 1.2, "sphericity": 0.8, "mean_intensity": 10.0},
        at=place(volume, 9, 24, 16),
        seed=4,
        solve=True,
    )
    result = editor.insert(volume, wanted)
    assert result.reached[VOLUME] == pytest.approx(1200, rel=0.02)
    assert result.reached[SPHERICITY] == pytest.approx(0.8, abs=0.02)
    assert abs(result.reached[MEAN] - 10) < 1 and VOLUME not in result.before
    assert np.abs(centre_of_mass(volume, result.mask) - wanted.at).max() <= 0.51 * max(volume.spacing)
    changed = result.volume.array != volume.array
    assert changed[result.mask].mean() > 0.5 and not changed[~result.mask].any()
    again = editor.insert(volume, EditRequest(**request_of(result.provenance)))
    assert np.array_equal(again.volume.array, result.volume.array)
    other = editor.insert(volume, replace(wanted, seed=5))
    assert not np.array_equal(other.mask, result.mask)


def test_a_place_in_the_air_is_refused_and_the_nearest_is_taken_if_wanted(editor, case):
    volume, _ = case
    wanted = request(features={"volume_ml": 1.0}, at=place(volume, 10, 3, 16))
    with pytest.raises(
        InputError, match=r"leave the (body|image); the nearest place where it fits is \("
    ) as error:
        editor.insert(volume, wanted)
    proposed = np.array([float(v) for v in str(error.value).rsplit("(", 1)[1].split(")")[0].split()])
    result = editor.insert(volume, replace(wanted, nearest=True))
    assert np.abs(centre_of_mass(volume, result.mask) - proposed).max() < 0.1
    assert not result.mask[:, :7].any() and any("mm off" in warning for warning in result.warnings)


def test_nothing_over_the_border_of_the_image(editor, case):
    volume, _ = case
    wanted = request(features={"volume_ml": 1.0}, at=place(volume, 0, 24, 16))
    with pytest.raises(InputError, match="leave the image"):
        editor.insert(volume, wanted)
    result = editor.insert(volume, replace(wanted, nearest=True))
    assert result.reached[VOLUME] == pytest.approx(1000, rel=0.02)


def test_the_organ_is_kept_to(case):
    volume, _ = case
    part = Part.of(editor_case.ball((10, 20, 20), 5.0, volume.spacing))
    organ = np.zeros(volume.array.shape, bool)
    organ[:, 10:, 8:24] = True
    at = place(volume, 10, 24, 28)
    assert placed(volume, part, at, True)[0].any()
    with pytest.raises(InputError, match="leave the organ"):
        placed(volume, part, at, True, organ)
    mask, note = placed(volume, part, at, True, organ, nearest=True)
    assert mask.sum() == part.mask.sum() and not (mask & ~organ).any() and "organ" in note
    organ[:] = False
    organ[0, 20, 20] = True
    with pytest.raises(InputError, match="fits nowhere"):
        placed(volume, part, at, True, organ)


def test_air_in_the_body_and_under_it_is_no_place(case):
    """A windpipe inside; a mattress, as dense as lung, outside."""
    volume = case[0]
    array = np.full((20, 80, 80), 40, np.int16)
    array[:, :, :12] = -1000
    array[:, 66:] = -880
    array[:, 72:76] = -1000
    array[:, 20:32, 30:42] = -1000  # filled as a hole of the body
    array[:, 36:54, 22:60] = -850  # lung
    image = replace(volume, array=array)
    part = Part.of(np.ones((3, 6, 6), bool))
    for j, i, there in ((45, 40, True), (30, 60, True), (26, 36, False), (69, 40, False), (40, 5, False)):
        if there:
            assert placed(image, part, place(image, 10, j, i), True)[0].sum() == part.mask.sum()
        else:
            with pytest.raises(InputError, match="leave the body"):
                placed(image, part, place(image, 10, j, i), True)


def test_a_smaller_tumour_fits_within_the_old_one_even_in_air(case):
    array = np.full((20, 80, 80), 40, np.int16)
    array[4:16, 20:44, 30:54] = -1000
    image, old = replace(case[0], array=array), np.zeros((20, 80, 80), bool)
    old[7:13, 25:38, 35:48] = True
    inner = np.zeros_like(old)
    inner[8:12, 26:37, 36:47] = True
    at = centre_of_mass(image, inner)
    assert (placed(image, Part.of(inner), at, True, also=old)[0] == inner).all()
    with pytest.raises(InputError, match="leave the body"):
        placed(image, Part.of(inner), at, True)


def test_a_crop_of_thin_lung_counts_as_body(case):
    array = np.random.default_rng(0).normal(-930, 30, (12, 40, 40)).astype(np.int16)
    image = replace(case[0], array=array)
    mask, note = placed(image, Part.of(np.ones((3, 6, 6), bool)), place(image, 6, 20, 20), True)
    assert mask.sum() == 108 and not note


def test_move_takes_the_rim_too(editor, case):
    volume, mask = case
    result = editor.move(
        volume, mask, EditRequest(to=place(volume, 9, 26, 16), grow=2.0, solve=False, engine="bridge")
    )
    wide = grown(mask, volume.spacing, 2.0)
    changed = result.volume.array != volume.array
    ring = wide & ~mask & ~result.mask
    assert changed[ring].mean() > 0.5 and not changed[~(wide | result.mask)].any()
    assert np.array_equal(result.patch.revert(result.volume.array.copy()), volume.array)


def test_move_with_another_shape(editor, case):
    volume, mask = case
    to = place(volume, 9, 24, 15)
    result = editor.move(volume, mask, request(features={"volume_ml": 1.5}, to=to))
    assert result.provenance["operation"] == "move"
    assert result.reached[VOLUME] == pytest.approx(1500, rel=0.02)
    assert np.abs(centre_of_mass(volume, result.mask) - to).max() <= 0.51 * max(volume.spacing)


def test_a_record_tells_how_many_voxels_around_could_change_where_tissue_made_room(editor, case):
    volume, mask = case
    result = editor.reshape(volume, mask, request(mass_effect=8.0, engine=None))
    changed = result.volume.array != volume.array
    assert changed.any() and not (changed & ~result.changed).any()
    around = result.changed & ~mask & ~result.mask
    assert result.provenance["plan"]["zone_voxels"] == around.sum() > 500


def test_tissue_moves_only_if_asked_and_only_within_the_margin(editor, case, reshaped):
    from scipy import ndimage

    volume, mask = case
    result = editor.reshape(volume, mask, request(mass_effect=8.0))
    assert np.array_equal(result.mask, reshaped.mask)
    changed = result.volume.array != volume.array
    both = mask | result.mask
    away = ndimage.distance_transform_edt(~both, volume.spacing[::-1])
    assert changed[~both].sum() > 500 and not changed[away > 8.0].any()
    assert np.array_equal(result.patch.revert(result.volume.array.copy()), volume.array)
    told = result.provenance["mass_effect"]
    assert (
        told["margin_mm"] == 8.0
        and told["smallest_jacobian"] > 0
        and 0.5 < told["largest_displacement_mm"] < 8
    )
    assert result.provenance["request"]["mass_effect"] == 8.0 and "mass_effect" not in reshaped.provenance


@pytest.mark.parametrize(
    "features, message",
    [
        ({"sphericity": 1.2}, "at most 1"),
        ({"volume_ml": -1.0}, "positive"),
        ({"flatness": 0.8, "elongation": 0.5}, "no shape has"),
        ({"volume_ml": 1e3}, "larger than the image of 44 × 40 × 40 mm"),
        ({"max_diameter_mm": 500.0}, "larger than the image"),
        ({"volume_ml": 20.0}, "leave the|larger than the image"),
        ({"contrast": 3.0}, "say which shape"),
        ({"volume_ml": 1.0, "gldm_DependenceEntropy": 3.0}, "measured, but not asked for"),
        ({"volume_ml": float("nan")}, "finite"),
    ],
)
def test_impossible_shapes_are_refused(editor, case, features, message):
    with pytest.raises(InputError, match=message) as error:
        editor.reshape(*case, request(features=features))
    assert "\n" not in str(error.value)


def test_wrong_use(editor, case):
    with pytest.raises(InputError, match="say where"):
        editor.insert(case[0], request())
    with pytest.raises(InputError, match="x y z"):
        request(at=(1.0, 2.0))
    with pytest.raises(InputError, match="mass effect"):
        request(mass_effect=-3.0)
    with pytest.raises(InputError, match="has no texture"):
        editor.shape(request(features={"contrast": 3.0}))
    with pytest.raises(InputError, match="volume_ml can.t be asked for here.*reshape, move or insert"):
        editor.synthesize(*case, request())


def test_a_model_without_shapes_says_so(tmp_path, case):
    plain = Editor(editor_case.model(tmp_path / "plain"), "cpu")
    with pytest.raises(ModelError, match="makes no shapes"):
        plain.insert(case[0], request(at=place(case[0], 9, 24, 16)))


def test_a_mask_alone(editor, case):
    free = editor.shape(
        EditRequest(features={"volume_ml": 1.0}, at=(5.0, -3.0, 20.0)), spacing=(1.0, 1.0, 1.5)
    )
    assert free.volume.spacing == (1.0, 1.0, 1.5) and free.volume.array.dtype == np.uint8
    assert np.allclose(centre_of_mass(free.volume, free.mask), (5, -3, 20))
    assert free.reached[VOLUME] == pytest.approx(1000, rel=0.02)
    assert (
        not free.mask[[0, -1]].any()
        and not free.mask[:, [0, -1]].any()
        and not free.mask[:, :, [0, -1]].any()
    )
    volume = case[0]
    on = editor.shape(EditRequest(features={"volume_ml": 1.0}, at=place(volume, 9, 24, 16)), like=volume)
    assert on.volume.same_grid(volume) and on.mask.shape == volume.array.shape
    assert on.provenance["operation"] == "shape" and on.provenance["synthetic"] is True
    assert on.volume.array.max() == 1 and on.reached[VOLUME] == pytest.approx(1000, rel=0.02)


def test_a_request_far_from_the_models_tumours_is_flagged(editor):
    near, far = (editor.shape(EditRequest(features={"volume_ml": ml}), (2.0, 2.0, 2.0)) for ml in (2.0, 60.0))
    assert not any("the model knows" in text for text in near.warnings)
    assert sum("the model knows" in text for text in far.warnings) == 1


def test_a_core_within_a_rim_is_a_label_of_its_own(editor, case):
    volume = case[0]
    asked = EditRequest(features={"volume_ml": 2.0}, at=place(volume, 9, 24, 16), core=0.3)
    drawn = editor.shape(asked, like=volume)
    rim, core = (drawn.volume.array == label for label in (1, 2))
    assert np.array_equal(rim | core, drawn.mask)
    assert core.sum() == pytest.approx(0.3 * drawn.mask.sum(), rel=0.05)
    plain = editor.shape(replace(asked, core=0.0), like=volume)
    assert np.array_equal(plain.mask, drawn.mask) and plain.volume.array.max() == 1
    assert request_of(drawn.provenance)["core"] == 0.3 and "core" not in request_of(plain.provenance)
    order, flip = (2, 1, 0), (True, False, True)
    turned = editor.shape(asked, like=stored_otherwise(volume, order, flip)).volume
    assert np.array_equal(turned.array, stored_otherwise(drawn.volume, order, flip).array)
    with pytest.raises(InputError, match="from 0 to 0.999"):
        EditRequest(core=1.2)


@pytest.mark.parametrize(("where", "said"), [("lung", ""), ("bone", "bone"), ("wall", "border of the lung")])
def test_bone_and_the_border_of_the_lung_are_told(where, said):
    """A chest in which lung, wall and ribs lie side by side along x."""
    array = np.full((12, 40, 60), -850.0, np.float32)
    array[:, :, 30:] = 40.0
    array[:, :, 45:50] = 700.0
    image = Volume(array, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    at = place(image, 6, 20, {"lung": 15, "bone": 47, "wall": 30}[where])
    part = Part.of(np.ones((4, 8, 8), bool))
    organ = np.ones(array.shape, bool)
    mask, note = placed(image, part, at, True)
    assert mask.sum() == part.mask.sum() and (said in note if said else not note)
    assert not placed(image, part, at, True, organ)[1] and not placed(image, part, at, True, also=organ)[1]


def test_features_go_to_their_parts():
    texture, shape = split(
        {"volume_ml": 2.0, "intensity_sd": 5.0, "glcm_Contrast": 3.0, "shape_Sphericity": 0.7}
    )
    assert texture == {"original_firstorder_Variance": 25.0, CONTRAST: 3.0}
    assert shape == {VOLUME: 2000.0, SPHERICITY: 0.7}

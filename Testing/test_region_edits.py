"""Edits of one region of a tumour, or of one of several tumours: the other labels stay bit-identical, an organ's may change."""

import json

import editor_case
import numpy as np
import pytest
import SimpleITK as sitk
from cli_case import data, home, models, run, voxels  # noqa: F401
from scipy import ndimage

from TumorSynthLib.edit.regions import ORGAN_ML, others_of
from TumorSynthLib.errors import InputError
from TumorSynthLib.placement import Part as Placed
from TumorSynthLib.placement import placed
from TumorSynthLib.shaping import PREFIX, Shaper, measured_shape, resized_beside
from TumorSynthLib.texture.exemplar.removal import remove
from TumorSynthLib.texture.exemplar.spatial import behind
from TumorSynthLib.volume import Volume
from TumorSynthLib.volume.masks import Part

BALL = editor_case.ball((10, 20, 18), 5.0, editor_case.SPACING)
RING = editor_case.ball((10, 20, 18), 8.0, editor_case.SPACING) & ~BALL
FAR = editor_case.ball((10, 20, 36), 4.0, editor_case.SPACING)


def kept(ml=0.002, healthy=(), **parts):
    """Names of the structures that stay while the ball is edited, and of those taken for its organ."""
    found = [Part(i, name, lambda mask=mask: mask) for i, (name, mask) in enumerate(parts.items(), 1)]
    voxels, near, organs = others_of(found, BALL, ml, healthy)
    assert not (voxels & BALL).any() and {p.name for p in near}.isdisjoint(p.name for p in organs)
    names = {part.name for part in found if (part.voxels() & ~BALL & voxels).any()}
    return names, {part.name for part in organs}


def test_a_rim_and_other_tumours_stay():
    assert kept(Segment_1=RING, Segment_2=FAR) == ({"Segment_1", "Segment_2"}, set())


@pytest.mark.parametrize("name, organ", [("Liver", True), ("right kidney", True), ("liver tumour rim", False),
                                         ("renal cyst", False), ("glioma oedema", False), ("edema", False)])  # fmt: skip
def test_an_organ_is_told_by_its_name(name, organ):
    assert kept(**{name: RING}) == ((set(), {name}) if organ else ({name}, set()))


def test_without_a_name_an_organ_is_far_larger_than_tumours_are():
    around = np.ones_like(BALL) & ~BALL
    large = 1.01 * ORGAN_ML / around.sum()
    assert kept(large, one=around) == (set(), {"one"})
    assert kept(0.9 * large, one=around) == ({"one"}, set())  # an oedema may be so large
    assert kept(100.0, one=RING) == ({"one"}, set())  # and a rim, of a large tumour
    assert kept(large, tumour=around) == ({"tumour"}, set())


def test_what_is_said_to_be_healthy_or_holds_the_tumour_may_change():
    assert kept(healthy=[RING], one=RING) == (set(), set())
    assert kept(margin=RING | BALL) == (set(), {"margin"})


def labelled(data, path, labels):
    """The files of an edit whose mask has labels (K, J, I)."""
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.CopyInformation(sitk.ReadImage(str(data[1])))
    sitk.WriteImage(image, str(path))
    return data[0], path


@pytest.fixture
def core(data, tmp_path):
    """Image and mask of a core (7) in its rim (3), which is closed."""
    mask = voxels(data[1]) > 0
    return labelled(
        data, tmp_path / "rim.nii", np.where(ndimage.binary_erosion(mask, iterations=2), 7, 3 * mask)
    )


def ml_of(path, label):
    return (voxels(path) == label).sum() * np.prod(sitk.ReadImage(str(path)).GetSpacing()) / 1000


@pytest.mark.parametrize("name, options", [
    ("remove", []),
    ("reshape", ["--set", "volume_ml=0.5x", "--model", "generic-ct"]),
    ("reshape", ["--set", "volume_ml=0.5x", "--model", "generic-ct", "--mass-effect", 8]),
    ("reshape", ["--set", "sphericity=0.8", "volume_ml=0.6x", "--model", "generic-ct"]),
    ("move", ["--nearest", "--to", 0, 0, 0]),
    ("synthesize", ["--set", "mean_intensity=50"]),
])  # fmt: skip
@pytest.mark.parametrize("label, other", [(7, 3), (3, 7)])
def test_an_edit_of_core_or_rim_leaves_the_other_bit_identical(
    run, data, core, tmp_path, name, options, label, other
):
    if name == "move":
        options = [*options[:-3], *sitk.ReadImage(str(data[0])).TransformIndexToPhysicalPoint((34, 24, 9))]
    files = ["--out", tmp_path / "o.nii"] + (
        ["--out-mask", tmp_path / "m.nii"] if name in ("move", "reshape") else []
    )
    code, _, err = run(name, *core, "--label", label, "--model", "none", *options, *files)
    if (
        code == 2 and (name, label) == ("reshape", 3) and "sphericity=0.8" in options
    ):  # a rim has no room for that
        assert "regions" in err[-1] and not (tmp_path / "o.nii").exists()
        return
    assert code == 0, err
    labels, changed = voxels(core[1]), voxels(tmp_path / "o.nii") != voxels(data[0])
    assert changed[labels == label].any() and not changed[labels == other].any()
    if name in ("move", "reshape"):
        assert np.array_equal(voxels(tmp_path / "m.nii") == other, labels == other)
    if name != "synthesize":
        assert (
            sum(f"label {other} of rim.nii, next to the tumour, is left as it is" in line for line in err)
            == 1
        )


def test_nothing_changes_behind_a_closed_rim(run, data, core, tmp_path):
    assert run("remove", *core, "--label", 7, "--out", tmp_path / "o.nii")[0] == 0
    changed = voxels(tmp_path / "o.nii") != voxels(data[0])
    assert changed.any() and not changed[voxels(core[1]) != 7].any()


def test_a_core_that_fills_its_rim_cannot_grow_unless_the_rim_may_change(run, data, core, tmp_path):
    more = (
        "--label",
        7,
        "--model",
        "generic-ct",
        "--set",
        "volume_ml=1.8x",
        "--out-mask",
        tmp_path / "m.nii",
    )
    code, _, err = run("reshape", *core, *more, "--out", tmp_path / "o.nii")
    assert (
        code == 2
        and "room for 1.00 times its volume, not for 1.80 times" in err[-1]
        and "--inside" in err[-1]
    )
    assert not (tmp_path / "o.nii").exists()
    inside = ("--inside", core[1], "--inside-label", 3)
    more = [*more[:5], "volume_ml=1.3x", *more[6:]]
    code, _, err = run("reshape", *core, *more, *inside, "--out", tmp_path / "o.nii")
    assert code == 0 and not any("left as it is" in line for line in err), err
    assert (voxels(tmp_path / "o.nii") != voxels(data[0]))[voxels(core[1]) == 3].any()


def test_the_label_of_an_organ_that_the_tumour_has_to_stay_in_holds_it(run, data, tmp_path):
    mask = voxels(data[1]) > 0
    two = labelled(
        data, tmp_path / "organ.nii", np.where(mask, 2, ndimage.binary_dilation(mask, iterations=6))
    )
    options = (
        "--label",
        2,
        "--model",
        "generic-ct",
        "--set",
        "volume_ml=1.3x",
        "--inside",
        two[1],
        "--inside-label",
        1,
        "--out-mask",
        tmp_path / "m.nii",
    )
    code, _, err = run("reshape", *two, *options, "--out", tmp_path / "o.nii")
    assert code == 0, err
    assert (voxels(tmp_path / "o.nii") != voxels(data[0]))[voxels(two[1]) == 1].any()


def test_the_old_place_counts_as_the_organ_it_touches():
    volume = Volume(np.zeros(editor_case.SHAPE, np.int16), editor_case.SPACING, editor_case.ORIGIN)
    part, at = Placed.of(BALL), volume.points(np.argwhere(BALL).mean(0)[::-1])
    mask, note = placed(volume, part, at, True, RING, also=BALL)
    assert np.array_equal(mask, BALL) and not note
    with pytest.raises(InputError, match="leave the organ"):
        placed(volume, part, at, True, FAR, also=BALL)


def test_a_size_beside_what_is_kept_is_met_to_the_voxel():
    half = BALL & (np.indices(BALL.shape)[2] < 18)
    beside = ~half & (np.indices(BALL.shape)[2] >= 18)
    for times in (0.4, 1.7):
        new = resized_beside(half, beside, times, editor_case.SPACING[::-1])
        assert new.sum() == round(times * half.sum()) and not (new & beside).any()
        assert (new & half).sum() == min(new.sum(), half.sum()) and ndimage.label(new)[1] == 1
    with pytest.raises(InputError, match="room for 1.00 times its volume"):
        resized_beside(half, ~half, 1.7, editor_case.SPACING[::-1])


def test_a_size_beside_what_is_kept_is_one_piece():
    z, y, x = np.indices((24, 48, 48))
    ball = ((z - 12) * 3) ** 2 + (y - 24) ** 2 + (x - 20) ** 2 <= 64
    plate = np.zeros_like(ball)
    plate[6:19, 14:34, 29] = True
    grown = resized_beside(ball, plate, 4.0, (3.0, 1.0, 1.0))
    assert ndimage.label(grown)[1] == 1 and grown.sum() == 4 * ball.sum() and not (grown & plate).any()
    two = [((z - 12) * 3) ** 2 + (y - at) ** 2 + (x - 20) ** 2 <= 49 for at in (14, 32)]
    neck = (z == 12) & (abs(x - 20) < 2) & (y > 14) & (y < 32)
    whole = two[0] | two[1] | neck
    before, half = whole.copy(), resized_beside(whole, x == 28, 0.5, (3.0, 1.0, 1.0))
    assert ndimage.label(half)[1] == 1 and half.sum() == round(0.5 * whole.sum())
    assert np.array_equal(whole, before)


@pytest.mark.parametrize("times", [0.1, 0.5, 1.0, 4.0])
def test_the_volume_of_the_mesh_is_met_beside_what_is_kept(times):
    half = BALL & (np.indices(BALL.shape)[2] < 18)
    beside, name = np.indices(BALL.shape)[2] == 18, PREFIX + "MeshVolume"
    large = np.kron(half, np.ones((2, 2, 2), bool))
    beside = np.kron(beside, np.ones((2, 2, 2), bool))
    asked = times * measured_shape(large, editor_case.SPACING)[name]
    part, form, notes = Shaper(None, "cpu").reshape_beside(
        large, beside, {name: asked}, editor_case.SPACING, 0
    )
    assert abs(form.reached[name] / asked - 1) < 0.01 and not notes
    assert times != 1 or np.array_equal(part.mask, Placed.of(large).mask)


def test_too_few_voxels_beside_what_is_kept_are_refused():
    with pytest.raises(InputError, match="too few for a tumour"):
        resized_beside(BALL, RING, 10 / BALL.sum(), editor_case.SPACING[::-1])


def test_nothing_changes_behind_a_wall_that_the_image_s_end_cuts():
    z, y, x = np.indices((16, 64, 64))
    grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=z.shape), 0.7)
    mask, wall = (z < 4) & ((y - 32) ** 2 + (x - 28) ** 2 <= 36), (x == 35) & (y > 10) & (y < 54)
    image = (50 + 30 * grain + 60 * mask).astype(np.int16)
    changed = remove(image, mask, (2.0, 1.0, 1.0), is_ct=True, avoid=wall).values != image
    assert changed[mask].any() and not (changed & (x >= 35)).any()


def test_what_a_wall_hides():
    mask, wall = np.zeros((3, 9, 9), bool), np.zeros((3, 9, 9), bool)
    mask[1, 4, 1], wall[:, 2:7, 3] = True, True
    hidden = behind(wall, mask, np.ones_like(mask), (5.0, 1.0, 1.0))
    assert (
        hidden[1, 4, 6]
        and hidden[0, 5, 5]
        and not hidden[1, 4, 2]
        and not hidden[1, 8, 2]
        and not hidden[1, 0, 2]
    )


def test_the_record_of_a_region_repeats_it(run, data, core, tmp_path):
    assert run("remove", *core, "--label", 7, "--out", tmp_path / "a.nii")[0] == 0
    assert json.loads((tmp_path / "a.json").read_text())["labels"] == {"mask": ["7"]}
    again = ("--repeat", tmp_path / "a.json", "--out", tmp_path / "b.nii")
    code, _, err = run("remove", *core, *again)
    assert code == 0, err
    assert np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii"))


def test_several_labels_next_to_the_tumour_are_told_in_one_line(run, data, tmp_path):
    mask, right = voxels(data[1]) > 0, np.arange(44) > 18
    ring = ndimage.binary_dilation(mask, iterations=2) & ~mask
    two = labelled(data, tmp_path / "sides.nii", np.where(mask, 1, np.where(right, 2, 3) * ring))
    code, _, err = run("remove", *two, "--label", 1, "--out", tmp_path / "o.nii")
    assert code == 0, err
    (line,) = [line for line in err if "sides.nii" in line]
    assert (
        "labels 2, 3 of sides.nii, next to the tumour, are left as they are" in line
        and "--lend-label 2" in line
    )
    assert not (voxels(tmp_path / "o.nii") != voxels(data[0]))[ring].any()


def test_a_label_of_aerated_lung_is_the_organ_of_a_nodule():
    image = np.where(RING, -800, 30)
    part = Part(1, "", lambda: RING)
    assert others_of([part], BALL, 0.002, (), image)[2] == [part]
    assert others_of([part], BALL, 0.002, (), image + 500)[2] == []
    cavity = Part(1, "", lambda: RING & (np.indices(RING.shape)[0] == 10))
    assert others_of([cavity], BALL, 0.002, (), image)[2] == []  # smaller than the tumour

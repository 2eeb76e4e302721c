"""What the command line says of options that are empty, at odds, or named in other words than they were asked."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from cli_case import data, home, models, run, voxels  # noqa: F401

from TumorSynthLib.commands import asked
from TumorSynthLib.console import as_asked


@pytest.fixture
def written(data, tmp_path):
    """A call that writes an array as a mask on the case's grid."""

    def write(name, array):
        image = sitk.GetImageFromArray(array.astype(np.uint8))
        image.CopyInformation(sitk.ReadImage(str(data[1])))
        sitk.WriteImage(image, str(tmp_path / name))
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("synthesize", "--reachable"), "a range is told of features: ask for some"),
        (
            ("remove", "--engine", "bridge", "--model", "generic-ct"),
            "a model's network, which this model lacks: name a model that has one",
        ),
        (
            ("remove", "--engine", "bridge", "--model", "none"),
            "the engine bridge is a model's network: name a model that has one",
        ),
        (
            ("synthesize", "--set", "contrast=3", "--label", 1, 2),
            "unrecognized arguments: 2; --label takes one here",
        ),
        (("remove", "--bogus"), "unrecognized arguments: --bogus; see"),
    ],
)
def test_an_error_says_what_is_wrong(run, data, tmp_path, options, text):
    name, *more = options
    code, _, err = run(name, *data, "--out", tmp_path / "a.nii", *more)
    assert code == 2 and len(err) == 1 and text in err[0]


def test_masks_of_options_are_named_where_they_are_empty_or_leave_nothing(run, data, tmp_path, written):
    """It was advised to draw the tumour, and to name tissue by --lend where all of it was avoided."""
    mask = voxels(data[1]) > 0
    empty, everything = written("empty.nii", np.zeros_like(mask)), written("all.nii", np.ones_like(mask))
    out = ("--out", tmp_path / "a.nii")
    for flag in ("--lend", "--avoid"):
        code, _, err = run("remove", *data, flag, empty, *out)
        assert (
            code == 2 and f"{flag}: {empty} is empty: mark something in it, or leave the option out" in err[0]
        )
    code, _, err = run("remove", *data, "--avoid", everything, *out)
    assert code == 2 and "avoid less" in err[-1] and "--lend" not in err[-1]
    code, _, err = run("remove", *data, "--lend", empty.with_name("tiny.nii"), *out)
    assert code == 2 and err[0].startswith("tumorsynth: --lend: ")


def test_options_that_change_nothing_are_said(run, data, tmp_path):
    out = ("--out", tmp_path / "a.nii")
    for options, text in (
        (
            ("--strict", "--zone", 3, "--grow", 2),
            "no voxel outside the mask may change (strict): grow and zone changed nothing",
        ),
        (
            ("--avoid", data[1]),
            "the mask to avoid covers 100 % of the tumour itself, which is cleared all the same",
        ),
    ):
        code, _, err = run("remove", *data, *options, *out)
        assert code == 0 and f"warning: {text}" in err
        assert (voxels(tmp_path / "a.nii") != voxels(data[0])).any()
    for options in (("--strict",), ("--zone", 3), ("--strict", "--zone", 0)):
        code, _, err = run("remove", *data, *options, *out)
        assert code == 0 and not any("changed nothing" in line or "covers" in line for line in err)


def test_a_spread_is_said_as_it_was_asked(run, data, tmp_path):
    asked = ("--set", "intensity_sd=300", "--strength", 0, "--out", tmp_path / "a.nii")
    code, _, err = run("synthesize", *data, "--model", "none", *asked)
    (line,) = [line for line in err if "firstorder_Variance is taken to" in line]
    assert code == 0 and "not 9e+04 (intensity_sd " in line and ", not 300)" in line


def test_settings_in_place_of_a_model_are_said_and_so_is_a_new_folder(run, data, tmp_path):
    settings = tmp_path / "s.yaml"
    settings.write_text("imageType: {Original: {}, Wavelet: {}}\nsetting: {binWidth: 10}\n")
    asked = ("--settings", settings, "--set", "contrast=3", "--out", tmp_path / "new" / "a.nii")
    code, out, err = run("synthesize", *data, *asked)
    assert code == 0 and "no model: --settings says how to measure, which a model does with its own" in err
    assert any("the original image alone, without Wavelet of" in line for line in err)
    assert f"warning: there was no folder {tmp_path / 'new'}: it was made" in err
    assert (
        f"measured with bin width 10, as `tumorsynth extract --settings {settings}` does" in out.splitlines()
    )
    assert not any("no folder" in line for line in run("synthesize", *data, *asked)[2])


def test_a_repetition_asks_for_the_mask_whose_other_labels_were_left_alone(run, data, tmp_path, written):
    mask = voxels(data[1]) > 0
    both = written("both.nii", np.where(np.roll(mask, 12, 2) & ~mask, 2, mask))
    assert run("remove", data[0], both, "--label", 1, "--out", tmp_path / "a.nii")[0] == 0
    repeat = ("--repeat", tmp_path / "a.json", "--out", tmp_path / "b.nii")
    code, _, err = run("remove", *data, *repeat)
    assert (
        code == 2
        and "left other labels alone: give the mask that has them (both.nii, label 1), and --label" in err[0]
    )
    assert run("remove", data[0], both, "--label", 1, *repeat)[0] == 0
    assert np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii"))


def test_features_are_told_as_they_were_asked(run, data, tmp_path):
    """The table once showed the variance where a deviation was asked for, and mm³ where ml were."""
    files = ("--out", tmp_path / "a.nii", "--out-mask", tmp_path / "m.nii", "--model", "generic-ct")
    code, out, _ = run("reshape", *data, "--set", "volume_ml=1.5", "mean_intensity=30", *files)
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert code == 0 and float(rows["volume_ml"][2]) == 1.5 and float(rows["mean_intensity"][2]) == 30
    assert 1.2 < float(rows["volume_ml"][3]) < 1.8
    code, out, _ = run(
        "synthesize", *data, "--set", "intensity_sd=1.1x", "--model", "none", "--out", tmp_path / "b.nii"
    )
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert code == 0 and float(rows["intensity_sd"][2]) == pytest.approx(
        1.1 * float(rows["intensity_sd"][1]), rel=1e-3
    )
    said = "MeshVolume 1597.17 does not go together with the rest of the request: 2735.88 is used"
    assert as_asked(said, ["volume_ml"]) == (
        "volume_ml 1.597 does not go together with the rest of the request: 2.736 is used"
    )
    assert as_asked(said, ["sphericity"]) == said
    assert (
        as_asked("SurfaceArea is 2302 instead of 2230", ["surface_cm2"])
        == "surface_cm2 is 23.02 instead of 22.3"
    )


def test_a_multiple_needs_a_tumour_and_a_known_feature(run, data, tmp_path):
    files = ("--out", tmp_path / "a.nii", "--out-mask", tmp_path / "m.nii")
    code, _, err = run("insert", data[0], "--at", "auto", "--set", "volume_ml=1.2x", *files)
    assert code == 2 and err[-1].endswith(
        "insert has no tumour whose volume_ml could be multiplied: give a number"
    )
    for text, said in (
        ("volume_ml=ax", "a number, or a multiple of the tumour's own such as 0.5x"),
        ("volum=2x", "volum"),
        ("volume_ml=nanx", "--set volume_ml=nanx: give a finite multiple"),
    ):
        code, _, err = run("reshape", *data, "--set", text, *files, "--model", "generic-ct")
        assert code == 2 and said in err[-1] and not (tmp_path / "a.nii").exists()


@pytest.mark.parametrize("given, features, multiples", [(["0.5x", "2"], {"volume_ml": 2.0}, {}),
                                                        (["2", "0.5x"], {}, {"volume_ml": 0.5})])  # fmt: skip
def test_of_two_values_of_a_feature_the_last_counts(given, features, multiples):
    args = SimpleNamespace(command="reshape", features=None, set=[[f"volume_ml={value}" for value in given]])
    assert asked(args)[0] == features and args.multiples == multiples


def test_a_priority_without_a_donor_is_said(run, data, tmp_path):
    asked = ("--set", "mean_intensity=30", "--model", "none", "--priority", "look")
    code, _, err = run("synthesize", *data, *asked, "--out", tmp_path / "a.nii")
    assert code == 0 and sum("there is no donor that the priority" in line for line in err) == 1


def test_a_shapes_record_names_the_masks_of_its_options_and_repeats_with_their_labels(
    run, data, tmp_path, written
):
    around = written("organ.nii", np.where(voxels(data[1]) > 0, 2, 5))
    at = (
        "--like",
        data[0],
        "--at",
        *sitk.ReadImage(str(data[0])).TransformIndexToPhysicalPoint((18, 20, 10)),
    )
    place = (
        *at,
        "--inside",
        around,
        "--inside-label",
        2,
        "--set",
        "volume_ml=0.5",
        "--model",
        "lung-nodule-ct",
    )
    code, _, err = run("shape", *place, "--nearest", "--out", tmp_path / "s.nii")
    assert code == 0, err
    entry = json.loads((tmp_path / "s.json").read_text())
    assert entry["files"]["inside"] == "organ.nii" and entry["labels"] == {"inside": ["2"]}
    again = (
        "--like",
        data[0],
        "--inside",
        around,
        "--repeat",
        tmp_path / "s.json",
        "--out",
        tmp_path / "t.nii",
    )
    code, _, err = run("shape", *again)
    assert code == 0, err
    assert np.array_equal(voxels(tmp_path / "s.nii"), voxels(tmp_path / "t.nii"))


@pytest.mark.parametrize("count", [1, 4])
def test_a_tumour_of_a_few_voxels_can_be_removed_and_else_says_that_it_is_too_small(
    run, data, tmp_path, written, count
):
    mask = np.zeros_like(voxels(data[1]))
    mask[10, 20, 18 : 18 + count] = 1
    tiny = written("tiny.nii", mask)
    code, _, err = run("remove", data[0], tiny, "--out", tmp_path / "a.nii")
    assert code == 0, err
    assert (voxels(tmp_path / "a.nii") != voxels(data[0]))[mask > 0].any()
    asked = ("--set", "mean_intensity=1.2x", "--model", "none")
    code, _, err = run("synthesize", data[0], tiny, *asked, "--out", tmp_path / "b.nii")
    assert code == 2 and "fewer than 8 voxels" in err[-1] and not (tmp_path / "b.nii").exists()


def test_a_series_is_told_in_one_unit(run, data, tmp_path):
    """Volumes once were told in ml, and in mm³ where they were asked and reached."""
    code, out, err = run("series", *data, "--feature", "volume_ml", "--values", "0.6x,0.8x", "--model", "generic-ct",
                         "--out", tmp_path / "s")  # fmt: skip
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 2 and all(
        row[1] == row[2] and abs(float(row[3]) / float(row[2]) - 1) < 0.1 for row in rows
    )

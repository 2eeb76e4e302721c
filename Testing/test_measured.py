"""By whose settings features are measured: extractions, edits and features files tell, and different ones aren't mixed."""

import json

import numpy as np
import pytest
from cli_case import data, home, models, run, voxels  # noqa: F401

from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.volume import write_volume

CONTRAST = "original_glcm_Contrast"


@pytest.fixture(scope="module")
def mr(tmp_path_factory):
    """A tumour in MR, and the same one in grey levels that are four times as large."""
    from test_generic import tumour_in_tissue

    folder = tmp_path_factory.mktemp("mr")
    volume, mask = tumour_in_tissue(400.0, 700.0, 15.0)
    array = volume.array.copy()
    array[:, 4:14, 4:-4] = 1000
    found = []
    for factor in (1, 4):
        image, label = folder / f"mr{factor}.nii", folder / f"mask{factor}.nii"
        write_volume(volume.with_array((array * factor).astype(np.int16)), image)
        write_volume(volume.with_array(mask.astype(np.uint8)), label)
        found.append((image, label))
    return found


def test_extract_auto_measures_as_an_edit_does_and_both_say_how(run, mr, tmp_path):
    """There was no model "auto", and features of the defaults couldn't be told from those of an edit."""
    code, out, err = run("extract", *mr[1], "--model", "auto", "--json")
    found = json.loads(out)
    assert (
        code == 0 and found["model"] == "generic-mr" and err[0].startswith("model generic-mr: nothing says")
    )
    assert "(--model auto)" in run("extract", *mr[1])[1].splitlines()[-1]
    code, out, _ = run("extract", *mr[1], "--json")
    plain = json.loads(out)
    assert code == 0 and plain["model"] is None
    assert plain["settings"]["resampledPixelSpacing"] is None
    for model, own, told in (
        (
            "auto",
            found,
            "measured with bin width 100 on 1 × 1 × 3 mm, as `tumorsynth extract --model generic-mr` does",
        ),
        ("none", plain, "measured with bin width 25, as `tumorsynth extract --model none` does"),
    ):
        edited = ("--set", "contrast=2", "--model", model, "--out", tmp_path / f"{model}.nii")
        code, out, _ = run("synthesize", *mr[1], *edited)
        record = json.loads((tmp_path / f"{model}.json").read_text())
        assert code == 0 and told in out.splitlines()
        assert record["features"]["before"][CONTRAST] == pytest.approx(own["features"][CONTRAST], rel=1e-9)
        assert record["plan"]["settings"] == own["settings"]
    assert abs(found["features"][CONTRAST] - plain["features"][CONTRAST]) > 1
    code, out, _ = run("extract", *mr[1], "--model", "none", "--json")
    assert code == 0 and json.loads(out)["features"] == plain["features"]


def test_a_features_file_of_other_settings_is_warned_of_and_the_named_way_works(run, data, tmp_path):
    """Up to 50 of 64 features of a tumour's own file "weren't reached"."""
    plain, own, out = tmp_path / "plain.json", tmp_path / "own.json", tmp_path / "a.nii"
    run("extract", *data, "--out", plain)
    asked = ("synthesize", *data, "--out", out, "--features")
    code, _, err = run(*asked, plain)
    assert code == 0 and out.exists()
    warned = [line for line in err if "were measured with" in line]
    for text in (
        "resampledPixelSpacing None",
        "resampledPixelSpacing (1.0, 1.0, 2.0)",
        "--model generic-ct --json",
    ):
        assert len(warned) == 1 and text in warned[0]
    assert "binWidth" not in warned[0]
    run("extract", *data, "--model", "generic-ct", "--out", own)
    code, _, err = run(*asked, own)
    assert code == 0 and not any("not reached" in line or "were measured with" in line for line in err)
    assert np.array_equal(voxels(out), voxels(data[0]))
    assert run(*asked, plain, "--model", "none")[0] == 0  # the record is now of no model
    for of_none in (own, tmp_path / "a.json"):
        code, _, err = run(*asked[:-2], tmp_path / "b.nii", "--features", of_none, "--model", "none")
        assert code == 0 and any("were measured with" in line for line in err) == (of_none is own)
    code, _, err = run(*asked[:-2], tmp_path / "c.nii", "--features", tmp_path / "a.json")
    assert code == 0 and any("a.json were measured with" in line for line in err)


def test_a_features_file_of_another_scale_of_grey_levels_names_the_donor(run, mr, tmp_path):
    small, large = mr
    run("extract", *large, "--model", "auto", "--out", tmp_path / "f.json")
    asked = ("--features", tmp_path / "f.json", "--out", tmp_path / "a.nii")
    code, _, err = run("synthesize", *small, *asked)
    (warned,) = [line for line in err if "were measured with" in line]
    assert code == 0 and "binWidth 100" in warned and "binWidth 25" in warned and "by --donor" in warned
    assert run("synthesize", *large, *asked)[0] == 0


@pytest.mark.parametrize("content", ['"x"', {"setting": 3}, {"binWidht": 25}])
def test_settings_in_a_features_file_that_are_none_are_an_error_that_names_it(run, data, tmp_path, content):
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"features": {"contrast": 3}, "settings": content}))
    code, _, err = run("synthesize", *data, "--features", file, "--out", tmp_path / "a.nii")
    assert code == 2 and "f.json" in err[0]


def test_only_settings_that_change_values_count():
    assert Settings().unlike(Settings(label=3, padDistance=9, interpolator="sitkLinear", preCrop=True)) == {}
    fine = Settings(binWidth=5, resampledPixelSpacing=(1, 1, 1))
    assert fine.unlike(Settings()) == {"binWidth": 5, "resampledPixelSpacing": (1, 1, 1)}
    assert fine.unlike(Settings(binWidth=5, resampledPixelSpacing=(1, 1, 1), interpolator="sitkLinear")) == {
        "interpolator": "sitkBSpline"
    }

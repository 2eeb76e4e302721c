"""The record beside a result: it repeats the edit, tells all that was warned of, and never takes another file's place."""

import json

import editor_case
import numpy as np
import pytest
import SimpleITK as sitk
from cli_case import data, edit, home, models, run, voxels  # noqa: F401

from TumorSynthLib.volume import write_volume


def test_a_record_of_the_first_format_is_repeated(run, data, tmp_path):
    """It had no plan, no engine, and told of options that the edit passed over; the network's voxels come again."""
    out = tmp_path / "a.nii"
    assert (
        run(
            *edit("synthesize", data, out, "--seed", 5, "--steps", 3, "--set", "contrast=4", "--strength", 1)
        )[0]
        == 0
    )
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["format"] == 2 and record["plan"]["engine"] == "bridge"
    del record["plan"], record["request"]["strength"]
    record["request"] |= {"grow": 0.0, "nearest": False, "mass_effect": 0.0}
    (tmp_path / "old.json").write_text(json.dumps(record | {"format": 1}))
    again = ("--repeat", tmp_path / "old.json", "--device", "cpu", "--out", tmp_path / "b.nii")
    code, _, err = run("synthesize", *data, *again)
    assert code == 0, err
    assert np.array_equal(voxels(out), voxels(tmp_path / "b.nii"))
    assert json.loads((tmp_path / "b.json").read_text())["plan"]["engine"] == "bridge"


def test_what_readers_warn_of_is_on_stderr_once_in_the_json_and_in_the_record(run, data, tmp_path):
    """A mask that had to be resampled was told on stderr alone, where nobody who reads the record sees it."""
    mask = sitk.ReadImage(str(data[1]))
    shifted = sitk.Resample(
        mask, mask, sitk.TranslationTransform(3, (1.3, 0.0, 0.0)), sitk.sitkNearestNeighbor
    )
    shifted.SetOrigin([o - 1.3 * (i == 0) for i, o in enumerate(mask.GetOrigin())])
    other = tmp_path / "other.nii"
    sitk.WriteImage(shifted, str(other))
    files = (data[0], other)
    code, _, err = run("remove", *files, "--out", tmp_path / "a.nii")
    told = [line for line in err if "another grid" in line]
    assert code == 0 and len(told) == 1
    code, out, err = run("remove", *files, "--out", tmp_path / "b.nii", "--json")
    assert code == 0 and [line for line in err if "another grid" in line] == told
    shown, (text,) = json.loads(out), [line.removeprefix("warning: ") for line in told]
    for where in (
        shown,
        shown["provenance"],
        *(json.loads((tmp_path / f"{n}.json").read_text()) for n in "ab"),
    ):
        assert where["warnings"].count(text) == 1
    assert text in json.loads(run("extract", *files, "--json")[1])["warnings"]


def test_seed(run, data, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(*edit("synthesize", data, tmp_path / f"{name}.nii", "--seed", seed))
    assert np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii"))
    assert not np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "c.nii"))


def test_sidecar_repeats_the_edit(run, data, tmp_path):
    run(
        *edit(
            "synthesize",
            data,
            tmp_path / "a.nii",
            "--seed",
            5,
            "--samples",
            2,
            "--steps",
            3,
            "--set",
            "contrast=4",
        )
    )
    again = ("--repeat", tmp_path / "a.json", "--device", "cpu")
    code, _, err = run("synthesize", *data, *again, "--out", tmp_path / "b.nii")
    assert code == 0, err
    assert np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii"))
    code, _, err = run(
        "synthesize",
        data[0],
        tmp_path / "a.nii",
        "--repeat",
        tmp_path / "a.json",
        "--out",
        tmp_path / "c.nii",
    )
    assert code == 2 and not (tmp_path / "c.nii").exists()
    code, _, err = run("remove", *data, "--repeat", tmp_path / "a.json", "--out", tmp_path / "c.nii")
    assert code == 2 and "records `synthesize`" in err[0]


@pytest.mark.parametrize("name", ["remove", "move"])
def test_a_sidecar_repeats_what_was_taken_from_elsewhere(run, data, tmp_path, name):
    """A grown mask, and another tumour's texture, which leaves nothing of the old one."""
    volume, mask = editor_case.ct(seed=3, spread=60.0)
    donor = tmp_path / "donor.nii", tmp_path / "donor-mask.nii"
    write_volume(volume, donor[0])
    write_volume(volume.with_array(mask.astype(np.uint8)), donor[1])
    to = sitk.ReadImage(str(data[0])).TransformIndexToPhysicalPoint((16, 24, 9))
    options = (
        ("--grow", 2)
        if name == "remove"
        else ("--to", *to, "--donor", *donor, "--out-mask", tmp_path / "m.nii")
    )
    code, _, err = run(*edit(name, data, tmp_path / "a.nii", "--seed", 5, *options))
    assert code == 0, err
    mask = () if name == "remove" else ("--out-mask", tmp_path / "n.nii")
    code, _, err = run(
        name, *data, "--repeat", tmp_path / "a.json", "--device", "cpu", "--out", tmp_path / "b.nii", *mask
    )
    assert code == 0, err
    assert np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii"))


def test_a_repetition_takes_no_option_beside_its_record(run, data, tmp_path):
    assert run("remove", *data, "--out", tmp_path / "a.nii")[0] == 0
    again = ("--repeat", tmp_path / "a.json", "--out", tmp_path / "b.nii")
    for more in (("--grow", 3), ("--seed", 9), ("--engine", "bridge"), ("--zone", 1)):
        code, _, err = run("remove", *data, *again, *more)
        assert code == 2 and err == [
            f"tumorsynth: --repeat takes the whole request from its file: leave out {more[0]}"
        ]
    assert not (tmp_path / "b.nii").exists()


def test_a_record_tells_which_masks_and_labels_were_taken(run, data, tmp_path):
    """`--repeat` without --avoid or --lend said that its mask wasn't the one, though none was given."""
    mask, both = sitk.ReadImage(str(data[1])), tmp_path / "both.nii"
    array = sitk.GetArrayFromImage(mask)
    labels = sitk.GetImageFromArray(np.where(np.roll(array, 12, 2) > array, 3, array).astype(np.uint8))
    labels.CopyInformation(mask)
    sitk.WriteImage(labels, str(both))
    of_one, lent = (*data, "--label", 1), ("--lend", both, "--lend-label", 3)
    out, again = tmp_path / "a.nii", tmp_path / "b.nii"
    code, _, err = run("remove", *of_one, *lent, "--out", out)
    assert code == 0, err
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["labels"] == {"mask": ["1"], "lend": ["3"]} and record["files"]["lend"] == "both.nii"
    repeat = ("--repeat", tmp_path / "a.json", "--out", again)
    for given, text in (
        (of_one, "the edit was made with --lend (both.nii, label 3): give it again"),
        (
            (*of_one, "--lend", both, "--lend-label", 1),
            "the mask of --lend (both.nii, label 3) isn't the one",
        ),
        ((*of_one, *lent, "--avoid", data[1]), "the edit was made without --avoid: leave it out"),
        ((data[0], both, "--label", 3, *lent), f"isn't the one that was used ({data[1].name}, label 1)"),
    ):
        code, _, err = run("remove", *given, *repeat)
        assert code == 2 and text in err[0], err
    code, _, err = run("remove", *of_one, *lent, *repeat)
    assert code == 0 and np.array_equal(voxels(out), voxels(again))


def test_a_record_of_another_version_or_model_says_so(run, data, tmp_path):
    """Its voxels came out otherwise, and nothing was said; one of an older model named nothing that repeats it."""
    assert run("remove", *data, "--out", tmp_path / "a.nii")[0] == 0
    record = json.loads((tmp_path / "a.json").read_text())
    record["software"]["version"] = "0.1.0"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(record))
    repeat = ("remove", *data, "--repeat", old, "--out", tmp_path / "b.nii")
    code, _, err = run(*repeat)
    assert code == 0 and [line for line in err if "0.1.0, not with those here: the voxels may differ" in line]
    for change in ({"sha256": "0" * 64, "version": "0.0.7"}, {"id": "gone", "version": "0.0.7"}):
        old.write_text(json.dumps(record | {"model": record["model"] | change}))
        code, _, err = run(*repeat)
        assert code == 3 and "SlicerTumorSynthRadiomics 0.1.0 with model" in err[-1]
        assert err[-1].endswith("0.0.7 repeats it")


@pytest.mark.parametrize(
    "text", ['{"Manufacturer": "none", "EchoTime": 0.03}', "[1, 2]", "{not json", "", "\ufeff{}"]
)
def test_a_json_file_that_is_no_record_is_never_overwritten(run, data, tmp_path, text):
    """BIDS, for one, keeps a file of that name."""
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    code, _, err = run(*edit("remove", data, tmp_path / "x.nii.gz"))
    assert code == 2 and len(err) == 1 and "isn't the record of an edit" in err[0]
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == text and sorted(tmp_path.iterdir()) == before


def test_an_own_record_is_replaced(run, data, tmp_path):
    for seed in (1, 2):
        assert run(*edit("remove", data, tmp_path / "x.nii.gz", "--seed", seed))[0] == 0
        assert json.loads((tmp_path / "x.json").read_text())["request"]["seed"] == seed


@pytest.mark.parametrize(
    "damage", [{"software": "mine"}, {"software": {"packages": []}}, {"model": {"id": 5}}, {"request": []}]
)
def test_a_damaged_record_is_no_record(run, data, tmp_path, damage):
    assert run(*edit("remove", data, tmp_path / "x.nii"))[0] == 0
    entry = json.loads((tmp_path / "x.json").read_text())
    (tmp_path / "odd.json").write_text(json.dumps({**entry, **damage}))
    code, _, err = run("remove", *data, "--repeat", tmp_path / "odd.json", "--out", tmp_path / "y.nii")
    assert code == 2 and "isn't the record of an edit" in err[0]

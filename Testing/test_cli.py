"""The command line: what each command writes and prints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from cli_case import data, edit, home, leftovers, models, run, voxels  # noqa: F401
from scipy import ndimage

from TumorSynthLib import commands
from TumorSynthLib.console import asked_table

ROOT = Path(__file__).resolve().parents[1]
CONTRAST, MEAN = "original_glcm_Contrast", "original_firstorder_Mean"


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, TumorSynthLib.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'scipy', 'SimpleITK', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for command in ("extract", "synthesize", "remove", "move", "models", "demo"):
        assert command in shown
    assert "not for diagnosis" in shown


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "TumorSynthLib", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("tumorsynth ")


def test_extract_prints_a_table(run, data):
    code, out, err = run("extract", *data)
    assert code == 0 and not err, "a plain image is no reason for a warning"
    *lines, empty, by = out.splitlines()
    assert not empty and "pyradiomics' default settings" in by
    assert lines[0].split() == ["feature", "value", "unit"] and len(lines) > 100
    assert len({line.index(line.split()[1]) + len(line.split()[1]) for line in lines[1:]}) == 1  # flush right


def test_extract_json_and_file_agree(run, data, tmp_path):
    code, out, _ = run("extract", *data, "--json", "--out", tmp_path / "f.json")
    found = json.loads(out)
    assert code == 0 and found == json.loads((tmp_path / "f.json").read_text())
    assert found["mask voxels"] == int(voxels(data[1]).sum())
    assert found["settings"]["binWidth"] == 25 and found["features"][CONTRAST] > 0


def test_extract_with_a_model_gives_percentiles(run, data):
    found = json.loads(run("extract", *data, "--model", "tiny", "--json")[1])
    assert found["model"] == "tiny" and found["modality"] == "CT"
    assert 0 <= found["percentiles"][CONTRAST] <= 100
    code, out, _ = run("extract", *data, "--model", "tiny")
    assert code == 0 and "percentile" in out.splitlines()[0]


def test_extract_with_settings(run, data, tmp_path):
    (tmp_path / "s.yaml").write_text("setting:\n  binWidth: 10\n")
    found = json.loads(run("extract", *data, "--settings", tmp_path / "s.yaml", "--json")[1])
    assert found["settings"]["binWidth"] == 10


def test_extract_with_a_parameter_file(run, data, tmp_path):
    settings, labels = tmp_path / "p.yaml", tmp_path / "labels.nrrd"
    mask = sitk.ReadImage(str(data[1]))
    sitk.WriteImage(sitk.Cast(mask != 0, sitk.sitkUInt8) * 2, str(labels))
    settings.write_text(
        "imageType: {Square: {binWidth: 5}, LBP2D: {}}\nfeatureClass: {shape: [VoxelVolume], glcm: [Contrast]}\n"
        "setting: {label: 2}"
    )
    code, out, err = run("extract", data[0], labels, "--settings", settings, "--json")
    found = json.loads(out)
    assert code == 0 and list(found["features"]) == ["original_shape_VoxelVolume", "square_glcm_Contrast"]
    assert found["image types"] == {"Square": {"binWidth": 5}}
    assert len(err) == 1 and "LBP2D" in err[0]
    assert "square_glcm_Contrast" in run("extract", data[0], labels, "--settings", settings)[1]
    code, _, err = run("extract", *data, "--settings", settings)
    assert code == 2 and "label 2" in err[-1]  # a mask of label 1
    code, out, _ = run("extract", *data, "--settings", settings, "--label", "1", "--json")
    assert code == 0 and json.loads(out)["features"] == found["features"]


@pytest.mark.parametrize(
    "kind, words, model", [("scaled", "binWidth", ()), ("constant", "one value", ("--model", "tiny"))]
)
def test_extract_says_one_grey_level(run, data, tmp_path, kind, words, model):
    """An image scaled to 0…1 at the usual bin width, or a mask on a constant."""
    image = sitk.ReadImage(str(data[0]))
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    if kind == "scaled":
        array = (array - array.min()) / np.ptp(array)
    else:
        array[voxels(data[1]) > 0] = 40
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(tmp_path / "changed.nrrd"))
    code, _, err = run("extract", tmp_path / "changed.nrrd", data[1], *model)
    assert code == 0
    (line,) = [line for line in err if "one grey level" in line]
    assert words in line


def test_synthesize_writes_image_sidecar_and_report(run, data, tmp_path):
    out = tmp_path / "new" / "edited.nii.gz"
    report = tmp_path / "report"
    code, shown, _ = run(
        *edit("synthesize", data, out, "--set", "mean_intensity=30", f"{CONTRAST}=4", "--report", report)
    )
    assert code == 0 and "asked" in shown and str(out) in shown
    before, after, mask = voxels(data[0]), voxels(out), voxels(data[1]) > 0
    assert np.array_equal(before[~mask], after[~mask]) and (before[mask] != after[mask]).any()
    source, result = (sitk.ReadImage(str(p)) for p in (data[0], out))
    for name in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize", "GetPixelID"):
        assert getattr(source, name)() == getattr(result, name)()
    assert "SYNTHETIC" in result.GetMetaData("ITK_FileNotes") + result.GetMetaData("descrip")
    record = json.loads((tmp_path / "new" / "edited.json").read_text())
    assert record["synthetic"] is True and record["features"]["asked"] == {MEAN: 30.0, CONTRAST: 4.0}
    assert record["files"]["image"] == "image.nii.gz" and str(tmp_path) not in json.dumps(record)
    assert (report / "report.html").stat().st_size > 1000 and list(report.glob("*.png"))
    assert not leftovers(tmp_path)


def test_json_of_an_edit(run, data, tmp_path):
    code, out, _ = run(*edit("synthesize", data, tmp_path / "e.nrrd", "--set", "mean_intensity=30", "--json"))
    shown = json.loads(out)
    assert code == 0 and shown["edit"] == "synthesize"
    assert set(shown) == {
        "edit", "outputs", "asked", "used", "reached", "before", "timing", "warnings", "command timing", "provenance",
    }  # fmt: skip
    assert shown["asked"] == {MEAN: 30.0} and abs(shown["reached"][MEAN] - 30) < 1
    assert shown["outputs"] == {"image": str(tmp_path / "e.nrrd"), "sidecar": str(tmp_path / "e.json")}
    assert sitk.ReadImage(str(tmp_path / "e.nrrd")).GetMetaData("synthetic") == "true"


def test_features_of_extract_go_into_synthesize(run, data, tmp_path):
    run("extract", *data, "--model", "tiny", "--out", tmp_path / "f.json")
    code, out, _ = run(
        *edit("synthesize", data, tmp_path / "e.nii", "--features", tmp_path / "f.json", "--json")
    )
    shown = json.loads(out)
    assert code == 0 and CONTRAST in shown["asked"] and "original_shape_Sphericity" not in shown["asked"]
    assert any("left free" in w for w in shown["warnings"])
    (tmp_path / "plain.json").write_text(json.dumps({"contrast": 3.0}))
    assert commands.read_features(tmp_path / "plain.json") == {"contrast": 3.0}
    assert commands.read_features(tmp_path / "e.json") == shown["asked"]


def test_donor(run, data, tmp_path):
    code, out, _ = run(
        *edit("synthesize", data, tmp_path / "e.nii", "--donor", *data, "--no-solve", "--json")
    )
    assert code == 0 and CONTRAST in json.loads(out)["asked"]


def test_remove(run, data, tmp_path):
    zone = tmp_path / "zone.nii.gz"
    code, out, _ = run(*edit("remove", data, tmp_path / "e.nii.gz", "--zone-out", zone))
    mask, zone = voxels(data[1]) > 0, voxels(zone) > 0
    changed = voxels(data[0]) != voxels(tmp_path / "e.nii.gz")
    assert code == 0 and changed[mask].any() and zone[mask].all() and not changed[~zone].any()
    code, out, _ = run(*edit("remove", data, tmp_path / "f.nii.gz", "--strict"))
    changed = voxels(data[0]) != voxels(tmp_path / "f.nii.gz")
    assert code == 0 and changed[mask].any() and not changed[~mask].any()


def test_remove_needs_no_model_nor_torch(data, tmp_path):
    """As a user calls it, in a process that can't import torch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [
        sys.executable,
        "-m",
        "TumorSynthLib",
        "remove",
        *map(str, data),
        "--model",
        "none",
        "--out",
        str(tmp_path / "e.nii"),
        "--json",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)["provenance"]
    assert record["model"] == {} and record["modality"] == "CT" and record["plan"]["engine"] == "exemplar"
    assert record["plan"]["settings"]["binWidth"] == 25 and record["plan"]["zone_voxels"] > 0


def test_a_shape_that_is_missed_is_told_in_per_cent():
    shape, texture = "original_shape_MeshVolume", "original_firstorder_Mean"
    result = SimpleNamespace(
        asked={shape: 20000.0, texture: 30.0},
        reached={shape: 14800.0, texture: 35.0},
        before={},
        differences={shape: -0.04, texture: 0.5},
    )
    shown = asked_table(result)
    assert "-26.0 %" in shown and "+0.50 σ" in shown and "-0.04" not in shown


def test_shapes_of_real_forms_need_no_torch(data, tmp_path):
    """New shapes are grown from the model's forms of real tumours; its network, which needs torch, isn't loaded."""
    image, mask = map(str, data)
    model = ["--model", "soft-tissue-sarcoma", "--quiet"]
    masked = ["--out", str(tmp_path / "e.nii"), "--out-mask", str(tmp_path / "m.nii")]
    calls = [
        ["shape", "--set", "volume_ml=1", "--out", str(tmp_path / "s.nii")],
        ["reshape", image, mask, "--set", "volume_ml=1", *masked],
        ["insert", image, "--at", "-10", "0", "120", "--set", "volume_ml=0.5", *masked],
    ]
    code = "import json, sys; from TumorSynthLib.cli import main; sys.exit(max(map(main, json.loads(sys.argv[1]))))"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", code, json.dumps([[*call, *model] for call in calls])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert voxels(tmp_path / "s.nii").any() and voxels(tmp_path / "m.nii").any()


def test_drawing_without_torch_is_one_clear_line(data, models, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "TumorSynthLib", *map(str, edit("synthesize", data, tmp_path / "e.nii"))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1 and "needs PyTorch" in done.stderr
    assert not (tmp_path / "e.nii").exists()


def test_a_slider_without_a_model_measures_by_the_settings_given(run, data, tmp_path):
    """Its result has the asked value as `extract` measures it with the same file, and its record repeats it without."""
    settings, out, again = tmp_path / "s.yaml", tmp_path / "e.nii", tmp_path / "r.nii"
    settings.write_text("setting:\n  binWidth: 10\nimageType:\n  Original: {}\n  Square: {}\n")
    name = "original_glcm_Contrast"
    own = json.loads(run("extract", *data, "--settings", settings, "--json")[1])["features"][name]
    given = ["--set", f"{name}={1.2 * own}", "--settings", settings, "--out", out]
    code, _, err = run("synthesize", *data, *given)
    assert code == 0 and sum("Square" in line for line in err) == 1
    found = json.loads(run("extract", out, data[1], "--settings", settings, "--json")[1])["features"]
    assert found[name] == pytest.approx(1.2 * own, rel=0.02)
    assert run("synthesize", *data, "--repeat", tmp_path / "e.json", "--out", again)[0] == 0
    assert np.array_equal(voxels(out), voxels(again))


def test_a_slider_beyond_tissue_says_the_limit_once_before_it_draws(run, data, tmp_path):
    command = ["synthesize", *data, "--out", tmp_path / "e.nii", "--set", "mean_intensity=3000", "--json"]
    code, out, err = run(*command)
    shown, name = json.loads(out), "original_firstorder_Mean"
    said = [line for line in err if "firstorder_Mean" in line]
    assert code == 0 and len(said) == 1 and said[0].startswith("warning: firstorder_Mean is taken to")
    assert shown["asked"][name] == 3000 and shown["used"] == shown["provenance"]["plan"]["limits"]
    assert f"{shown['used'][name]:.4g}" in said[0] and said[0][len("warning: ") :] in shown["warnings"]
    assert "strength 1" not in said[0]  # the model for any organ has no network to draw it anew with


def test_the_range_that_is_told_holds_what_was_reached(run, data, tmp_path):
    """With single voxels moved, too: the seven numbers alone reach less."""
    name = "original_glcm_Contrast"
    command = ["synthesize", *data, "--out", tmp_path / "e.nii", "--set", f"{name}=1000", "--reachable"]
    code, out, err = run(*command, "--strength", "0.6")
    plan = json.loads((tmp_path / "e.json").read_text())["plan"]
    low, high = plan["reachable"][name]
    assert code == 0 and low < plan["limits"][name] <= high
    assert f"{name}: this tumour's tissue allows {low:.5g} to {high:.5g}" in out
    run(*command, "--strength", "0")
    assert high > json.loads((tmp_path / "e.json").read_text())["plan"]["reachable"][name][1]


@pytest.mark.parametrize(
    "given, said",
    [
        (["--set", "contrast=40", "--strength", "1"], "can't be drawn anew (strength 1)"),
        (["--donor", "IMAGE", "MASK", "--priority", "features"], "can't be put before its look"),
    ],
)
def test_what_only_a_network_does_is_said_where_there_is_none(run, data, tmp_path, given, said):
    given = [{"IMAGE": data[0], "MASK": data[1]}.get(word, word) for word in given]
    code, _, err = run("synthesize", *data, "--model", "generic-ct", "--out", tmp_path / "e.nii", *given)
    assert code == 0 and sum(said in line for line in err) == 1


def test_several_labels_are_removed_together(run, data, tmp_path):
    mask = voxels(data[1])
    halves = np.where(np.arange(mask.shape[2]) < 18, 1, 3) * (mask > 0)
    image, labels = sitk.ReadImage(str(data[0])), sitk.GetImageFromArray(halves.astype(np.uint8))
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(tmp_path / "l.nii"))
    for name, label in (
        ("a", ("--label", "1,3")),
        ("b", ("--label", 1, "--label", 3)),
        ("s", ("--label", 1, 3)),
    ):
        code, _, err = run("remove", data[0], tmp_path / "l.nii", "--out", tmp_path / f"{name}.nii", *label)
        assert code == 0, err
    run("remove", *data, "--out", tmp_path / "c.nii")
    assert np.array_equal(voxels(tmp_path / "a.nii"), voxels(tmp_path / "c.nii"))
    for name in "bs":
        assert np.array_equal(voxels(tmp_path / f"{name}.nii"), voxels(tmp_path / "c.nii"))
    assert run("remove", data[0], tmp_path / "l.nii", "--out", tmp_path / "d.nii")[0] == 2


def relabelled(data, path, labels):
    """The mask's file with other labels (K, J, I)."""
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.CopyInformation(sitk.ReadImage(str(data[1])))
    sitk.WriteImage(image, str(path))
    return data[0], path


@pytest.mark.parametrize(
    "name, options",
    [
        ("remove", []),
        ("remove", ["--engine", "bridge", "--grow", 3]),
        ("move", ["--nearest", "--to", 0, 0, 0]),
        ("reshape", ["--set", "volume_ml=1.5", "--model", "lung-nodule-ct"]),
    ],
)
def test_other_tumours_of_the_mask_stay_as_they_are(run, data, tmp_path, name, options):
    """`remove --label 1` once changed the next label's voxels, which lie in its zone."""
    mask = voxels(data[1]) > 0
    two = relabelled(data, tmp_path / "two.nii", np.where(np.arange(mask.shape[2]) < 18, 1, 3) * mask)
    out, more = tmp_path / "o.nii", [] if name == "remove" else ["--out-mask", tmp_path / "m.nii"]
    if name == "move":
        options[-3:] = sitk.ReadImage(str(data[0])).TransformIndexToPhysicalPoint((20, 24, 9))
    code, _, err = run(*edit(name, two, out, "--label", 1, "--seed", 1, *options, *more))
    assert code == 0, err
    changed, labels = voxels(out) != voxels(data[0]), voxels(two[1])
    assert changed[labels == 1].any() and not changed[labels == 3].any()
    assert changed[labels == 0].any()
    if name == "remove":
        again = ("--label", 1, "--repeat", tmp_path / "o.json", "--out", tmp_path / "p.nii")
        code, _, err = run("remove", *two, *again)
        assert code == 0, err
        assert np.array_equal(voxels(out), voxels(tmp_path / "p.nii"))


def test_the_organ_of_the_mask_lends_and_may_change(run, data, tmp_path):
    mask = voxels(data[1]) > 0
    around = ndimage.binary_dilation(mask, iterations=8)
    two = relabelled(data, tmp_path / "organ.nii", np.where(mask, 2, around))
    more = ("--label", 2, "--model", "none", "--lend", two[1], "--lend-label", 1, "--out", tmp_path / "o.nii")
    code, _, err = run("remove", *two, *more)
    assert code == 0 and not any("organ.nii" in line for line in err)
    lend = ("--lend", relabelled(data, tmp_path / "lend.nii", around & ~mask)[1])
    run("remove", *data, "--model", "none", *lend, "--out", tmp_path / "p.nii")
    assert np.array_equal(voxels(tmp_path / "o.nii"), voxels(tmp_path / "p.nii"))
    assert (voxels(tmp_path / "o.nii") != voxels(data[0]))[around & ~mask].any()


def test_a_region_of_a_tumour_grows_up_to_the_others_which_the_new_mask_holds_too(run, data, tmp_path):
    """A core in its rim, open to one side: `--avoid` with the same file once said that the mask is empty, and the new mask
    held the core alone."""
    mask = voxels(data[1]) > 0
    core = ndimage.binary_erosion(mask, iterations=2)
    rim = mask & ~core & (np.arange(mask.shape[2]) < 20)
    two = relabelled(data, tmp_path / "rim.nii", np.where(core, 7, rim))
    files = ("--out-mask", tmp_path / "m.nii", "--model", "generic-ct")
    ml = core.sum() * np.prod(sitk.ReadImage(str(two[1])).GetSpacing()) / 1000
    for times in (0.6, 1.5):
        request = ("--label", 7, "--avoid", two[1], "--set", f"volume_ml={times * ml}")
        code, _, err = run(*edit("reshape", two, tmp_path / "o.nii", *request, *files))
        assert code == 0, err
        assert not any("organ" in line and "rim.nii" in line for line in err)
        changed, labels = voxels(tmp_path / "o.nii") != voxels(data[0]), voxels(tmp_path / "m.nii")
        assert changed[core].any() and not changed[rim].any()
        assert set(np.unique(labels)) == {0, 1, 7} and ((labels == 1) == rim).all()
        assert (labels == 7)[~core].any() == (times > 1)
        assert (labels == 7).sum() == pytest.approx(times * core.sum(), rel=0.1)


def test_what_the_engine_does_not_use_is_one_line(run, data, tmp_path):
    out = tmp_path / "e.nii"
    code, _, err = run(*edit("remove", data, out, "--engine", "exemplar", "--steps", 3))
    assert code == 0 and len(err) == 1 and "doesn't use --steps" in err[0]
    assert json.loads((tmp_path / "e.json").read_text())["plan"]["unused"] == ["steps"]
    code, _, err = run(*edit("remove", data, tmp_path / "x.nii", "--mass-effect", 3))
    assert code == 2 and len(err) == 1 and not (tmp_path / "x.nii").exists()


def test_move_writes_the_mask_and_what_could_change(run, data, tmp_path):
    image = sitk.ReadImage(str(data[0]))
    to = image.TransformIndexToPhysicalPoint((16, 24, 9))
    for engine in ("exemplar", "bridge"):
        out, zone = tmp_path / f"{engine}.nii.gz", tmp_path / "zone.nii.gz"
        files = ("--out-mask", tmp_path / "m.nii.gz", "--zone-out", zone)
        code, *_ = run(*edit("move", data, out, *files, "--no-solve", "--engine", engine, "--to", *to))
        assert code == 0
        changed = voxels(out) != voxels(data[0])
        assert changed.any() and not changed[voxels(zone) == 0].any()
    moved, mask = voxels(tmp_path / "m.nii.gz"), voxels(data[1])
    assert 0.9 * mask.sum() <= moved.sum() <= mask.sum() and not np.array_equal(moved, mask)
    assert np.allclose(np.argwhere(moved).mean(0), (9, 24, 16), atol=0.6)


@pytest.mark.parametrize("name", ["f.csv", "f.tsv"])
def test_extract_writes_a_table(run, data, tmp_path, name):
    import csv

    code, out, _ = run("extract", *data, "--json", "--out", tmp_path / name)
    found = json.loads(out)["features"]
    with open(tmp_path / name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="," if name.endswith("csv") else "\t"))
    assert code == 0 and {r["feature"]: float(r["value"]) for r in rows if r["value"]} == {
        n: v for n, v in found.items() if v is not None
    }


@pytest.mark.parametrize("name", ["f.xlsx", "f.nii.gz", "f.txt"])
def test_extract_refuses_other_files_before_any_work(run, data, tmp_path, name):
    code, _, err = run("extract", "no-image", "no-mask", "--out", tmp_path / name)
    assert code == 2 and ".json, .csv or .tsv" in err[0]

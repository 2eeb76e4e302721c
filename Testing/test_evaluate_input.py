"""What evaluate.py is given: regions, files stored in other orders, wrong folders; the command it prints, and its pictures."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
evaluate = pytest.importorskip("evaluate", reason="the training extra is not installed")
import arms  # noqa: E402
import curves  # noqa: E402
import figures  # noqa: E402
from test_evaluate import bundle, cases, one_thread, run  # noqa: E402, F401  fixtures
from training_case import call  # noqa: E402

from TumorSynthLib.editor import Editor  # noqa: E402
from TumorSynthLib.models.bundle import load_bundle  # noqa: E402
from TumorSynthLib.texture.generator import TextureModel  # noqa: E402
from TumorSynthLib.volume import read_image, read_labelmap, read_mask  # noqa: E402

REGIONS = {"necrosis": 1, "enhancing": 4}
FIDELITY = ("--parts", "fidelity", "--arms", "network", "--requests", "donor")


# Several regions


@pytest.fixture(scope="module")
def labelled(cases, tmp_path_factory) -> Path:
    """The cases with tumours of two regions; the last one has no enhancing part."""
    folder = shutil.copytree(cases, tmp_path_factory.mktemp("labelled") / "val")
    masks = sorted(folder.glob("*_mask.nii.gz"))
    for path in masks:
        image = sitk.ReadImage(str(path))
        mask = sitk.GetArrayFromImage(image)
        mask[:, :, 18:] *= 1 if path == masks[-1] else 4
        out = sitk.GetImageFromArray(mask)
        out.CopyInformation(image)
        sitk.WriteImage(out, str(path))
    return folder


@pytest.fixture(scope="module")
def two_regions(bundle, tmp_path_factory):
    """The tiny model for two regions, with a population under each one's name."""
    config, population = tiny_bundle._network_config, bundle.json["population"]["CT"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_bundle, "_network_config", lambda *a: config(*a) | {"regions": len(REGIONS)})
        return tiny_bundle.tiny_bundle(
            tmp_path_factory.mktemp("regions") / "two",
            names=tuple(population["names"]),
            values=bundle.population("CT").values,
            network=True,
            regions=[{"name": n, "label": v} for n, v in REGIONS.items()],
            population={"CT": {name: population for name in REGIONS}},
        )


def test_one_region_is_painted_and_measured_among_the_others(labelled, two_regions, tmp_path, monkeypatch):
    seen, sample = [], TextureModel.sample

    def spied(self, *a, **k):
        seen.append((k["region"], sorted(k["others"])))
        return sample(self, *a, **k)

    monkeypatch.setattr(TextureModel, "sample", spied)
    words = (
        "--model",
        two_regions.folder,
        "--data",
        labelled,
        "--json",
        tmp_path / "all.json",
        "--quick",
        *FIDELITY,
    )
    call(evaluate, "texture", *words, "--patients", 5, "--donors", 1, "--region", "enhancing")
    out = json.loads((tmp_path / "all.json").read_text())
    assert out["region"] == "enhancing" and "--region enhancing" in out["command"]
    assert len(out["cases"]) == 4 and len(out["left_out"]) == 1 and "enhancing" in out["left_out"][0]
    assert seen and set(map(str, seen)) == {"('enhancing', ['necrosis'])"}
    for row in json.loads((tmp_path / "all.rows.json").read_text()):
        volume = read_image(labelled / f"{row['case']}_CT_image.nii.gz")
        assert row["voxels"] == (read_labelmap(labelled / f"{row['case']}_CT_mask.nii.gz", volume) == 4).sum()


def test_the_first_region_is_measured_where_none_is_named(labelled, two_regions):
    painted = two_regions.painting(two_regions.regions[0].name)
    bench = arms.Bench.load(painted, list(arms.cases("sts", labelled))[:1], device="cpu")
    (tumour,) = bench.tumours
    own = tumour.labels == REGIONS["necrosis"]
    assert np.array_equal(tumour.mask, own) and bench.region == "necrosis"
    drawn = bench.draw(tumour, "network", {})
    assert np.array_equal(drawn.volume(tumour.volume).array[~own], tumour.volume.array[~own])
    assert tumour.own["original_firstorder_Mean"] == pytest.approx(tumour.volume.array[own].mean())


# Wrong input


def stopped(*words) -> str:
    """The one line with which the script ends."""
    with pytest.raises(SystemExit) as end:
        call(evaluate, *words)
    assert "\n" not in end.value.code
    return end.value.code


def test_wrong_input_is_one_line_and_nothing_is_written(bundle, two_regions, cases, labelled, tmp_path):
    out = tmp_path / "out.json"
    empty, rest = tmp_path / "empty", ("--json", out, "--quick")
    empty.mkdir()
    for task in ("texture", "removal"):
        for folder in (empty, tmp_path / "nowhere"):
            assert f"{folder} has no images of CT" in stopped(
                task, "--model", bundle.folder, "--data", folder, *rest
            )
    shutil.copy(next(cases.glob("*_image.nii.gz")), empty / "P_1_PET_image.nii.gz")
    assert "only of PET" in stopped("texture", "--model", bundle.folder, "--data", empty, *rest)
    assert "meta.json" in stopped("codec", "--data", empty, *rest)
    (empty / "P_image.nii.gz").touch()
    assert "<ID>_<MODALITY>" in stopped("texture", "--model", bundle.folder, "--data", empty, *rest)
    assert "labels 1, 4" in stopped("texture", "--model", bundle.folder, "--data", labelled, *rest)
    many = ("--model", two_regions.folder, "--data", labelled, *rest)
    assert "oedema" in stopped("texture", *many, "--region", "oedema")
    assert "several regions" in stopped("removal", *many)
    assert "no-such-model" in stopped("texture", "--model", "no-such-model", "--data", cases, *rest)
    assert "--update" in stopped("texture", "--model", bundle.folder, "--data", cases, *rest, "--update")
    mine = ("texture", "--model", bundle.folder, "--data", cases, *rest)
    assert "netwrok is none of network" in stopped(*mine, "--arms", "netwrok")
    assert "three patients" in stopped(*mine, "--patients", 2)
    assert "prepare.py made" in stopped(*mine, "--prepared", empty)
    assert "checkpoint of train_baseline.py" in stopped(*mine, "--baseline", tmp_path / "gone.pt")
    assert not out.exists()


def test_one_patient_has_no_donors_for_the_curve(bundle, cases):
    bench = arms.Bench.load(bundle, list(arms.cases("sts", cases))[:1], device="cpu")
    assert curves.evaluations(bench, [], (1, 2)) == {}


# Order of storage


def test_a_sagittal_file_is_measured_as_the_product_does(bundle, cases, tmp_path):
    """Slices along x, of other spacing than the model's: pyradiomics' grid then lies along the patient's axes, too."""
    for name in ("image", "mask"):
        image = sitk.ReadImage(str(cases / f"STS_001_CT_{name}.nii.gz"))
        image.SetSpacing((0.8, 0.9, 2.6))
        sitk.WriteImage(sitk.PermuteAxes(image, (1, 2, 0)), str(tmp_path / f"STS_001_CT_{name}.nii.gz"))
    volume = read_image(tmp_path / "STS_001_CT_image.nii.gz")
    assert volume.spacing == pytest.approx((0.9, 2.6, 0.8))
    bench = arms.Bench.load(bundle, list(arms.cases("sts", tmp_path)), device="cpu")
    mask = read_mask(tmp_path / "STS_001_CT_mask.nii.gz", volume)
    product = Editor(load_bundle(bundle.folder), "cpu").extract(volume, mask, "CT", ["firstorder", "glcm"])
    found = bench.tumours[0].own
    assert {n: found[n] for n in product} == pytest.approx(product, rel=1e-6)


# What it writes


def parsed(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    return evaluate.parse()


@pytest.mark.parametrize(
    "words",
    [
        "texture --model m --data /my/disk/lidc_ct/val --json /my/out.json --update --parts sweeps --arms 'mask only' full "
        "--region 'the rim' --prepared /my/runs/data/lidc --baseline /my/gan/last.pt --budget medium --requests donor --seed 3",
        "removal --model m --image '/my/lung 1.nrrd' --mask /my/lung1_label.nrrd --json /my/out.json --quick",
        "codec --data /my/data/lidc --json /my/out.json --codec /my/f2/last.pt",
    ],
)
def test_the_printed_command_runs_again(words, monkeypatch):
    a = parsed(shlex.split(words), monkeypatch)
    line = evaluate.command(a, a.model)
    assert "/my" not in line and line.startswith("python Training/evaluate.py ")
    again = parsed(shlex.split(line)[2:], monkeypatch)
    paths = {"data", "image", "mask", "json", "prepared", "baseline", "codec"}
    assert all(getattr(again, k) == v for k, v in vars(a).items() if k not in paths)
    assert all(bool(getattr(again, k)) == bool(v) for k, v in vars(a).items() if k in paths)
    if a.data:
        assert again.data.parts[-2:] == a.data.parts[-2:]


def test_a_refused_arm_leaves_its_place_empty(monkeypatch, tmp_path):
    mask = np.zeros((4, 30, 30), bool)
    mask[1:3, 12:18, 12:18] = True
    box = (slice(1, 3), slice(12, 18), slice(12, 18))
    case = SimpleNamespace(id="P", modality="T1")
    original = arms.Volume(np.zeros(mask.shape, np.int16), (1.0, 1.0, 1.0))
    bench = SimpleNamespace(tumours=[arms.Tumour(case, original, mask, {}, mask)] * 2)
    made = {
        n: arms.Drawn(box, np.full((2, 6, 6), v, np.int16), {}, 0.0) for n, v in (("network", 5), ("full", 9))
    }
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, *a: kept.append(figure))
    figures.gallery(
        bench, {"network": [(1, made["network"])], "full": [(0, made["full"]), (1, made["full"])]}, tmp_path
    )
    axes = np.reshape(kept[0].axes, (2, 3))
    assert [a.get_title() for a in axes[0]] == ["real", "network", "full"]
    shown = [[int(a.images[0].get_array().max()) if a.images else None for a in row] for row in axes]
    assert shown == [[0, None, 9], [0, 5, 9]]


def test_too_few_cases_have_no_curve_to_draw(tmp_path):
    none, tumours = (
        float("nan"),
        SimpleNamespace(bundle=SimpleNamespace(id="m", version="1", modalities=()), tumours=[]),
    )
    task = evaluate.Texture(SimpleNamespace(figures=tmp_path), tumours, evaluate.BUDGETS["quick"])
    point = {"median": none, "interval": (None, None)}
    task.figures({"evaluations": {"curve": {"1": point, "2": point}, "plateau": none}})
    assert not list(tmp_path.iterdir())


def test_processes_that_share_the_samples_are_put_together(bundle, cases, tmp_path, monkeypatch):
    """As the docstring has it for several GPUs: arms drawn apart, then judged by a run that draws none of them."""
    words = ("--cache", tmp_path / "cache", "--requests", "donor", "--parts", "fidelity", "--patients", 3)
    for arm in ("network", "unguided"):
        run("texture", bundle, cases, tmp_path / f"{arm}.json", *words, "--arms", arm)
    monkeypatch.setattr(arms.Bench, "_make", lambda *a: pytest.fail("drawn again"))
    out = run("texture", bundle, cases, tmp_path / "both.json", *words, "--arms", "network", "unguided")
    assert set(out["results"]) == {"CT donor network", "CT donor unguided"}
    assert not list((tmp_path / "cache").glob("*.part*"))

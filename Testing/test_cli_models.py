"""The command line and models: listed, installed, checked, and chosen by what the image shows."""

import json

import editor_case
import numpy as np
from cli_case import data, edit, home, leftovers, models, run, voxels  # noqa: F401

from TumorSynthLib.volume import read_image, write_volume

CONTRAST, MEAN = "original_glcm_Contrast", "original_firstorder_Mean"


def test_models_commands(run, models, tmp_path):
    listed = json.loads(run("models", "list", "--json")[1])
    assert any(m["id"] == "tiny" and m["status"] == "installed" for m in listed["models"])
    assert "tiny" in run("models", "list")[1]
    assert json.loads(run("models", "info", "tiny", "--json")[1])["licence"] == "CC0-1.0"
    assert "CC0-1.0" in run("models", "info", "tiny")[1]
    assert run("models", "verify", "tiny")[0] == 0
    text = run("models", "params", "tiny")[1]
    assert "featureClass" in text and "binWidth" in text
    assert run("models", "params", "tiny", "--out", tmp_path / "p.yaml")[0] == 0
    assert (tmp_path / "p.yaml").read_text() == text


def test_models_install_and_remove(run, tmp_path, monkeypatch):
    source = tmp_path / "other"
    editor_case.tiny_bundle(source, id="other")
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(tmp_path / "home"))
    code, out, err = run("models", "install", source, "--json")
    assert code == 0 and json.loads(out)["id"] == "other" and any("licence" in line for line in err)
    code, out, _ = run("models", "remove", "other")
    assert code == 0 and not (tmp_path / "home" / "other").exists()
    assert run("models", "remove", "other")[0] == 3


def test_models_verify_damaged(run, tmp_path, monkeypatch):
    bundle = editor_case.tiny_bundle(tmp_path / "home" / "bad", id="bad")
    path = bundle.folder / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(tmp_path / "home"))
    code, _, err = run("models", "verify", "bad")
    assert code == 3 and len(err) == 1 and "damaged" in err[0]


def test_a_model_with_weights_that_are_no_numbers_is_refused_whatever_draws(run, data, tmp_path):
    import hashlib

    from safetensors.numpy import load_file, save_file

    folder = editor_case.model(tmp_path / "bad", id="bad").folder
    manifest = json.loads((folder / "bundle.json").read_text())
    file = folder / "network.safetensors"
    tensors = {k: np.full_like(a, np.nan) if a.dtype.kind == "f" else a for k, a in load_file(file).items()}
    save_file(tensors, file)
    blob = file.read_bytes()
    manifest["files"][file.name] = {"sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    code, _, err = run("remove", *data, "--model", folder, "--out", tmp_path / "x.nii")
    assert code == 3 and "NaN or infinity" in err[0] and not (tmp_path / "x.nii").exists()


def test_auto_takes_the_model_of_the_organ_and_says_why(run, data, tmp_path):
    from TumorSynthLib.phantom import chest

    volume, mask = chest(seed=1)
    files = [tmp_path / "chest.nii.gz", tmp_path / "chest-mask.nii.gz"]
    for path, image in zip(files, (volume, volume.with_array(mask.astype(np.uint8)))):
        write_volume(image, path)
    asked = ["--model", "auto", "--set", f"{MEAN}=-30", "--quiet", "--out"]
    code, _, err = run("synthesize", *files, *asked, tmp_path / "o.nii.gz")
    assert code == 0 and any("model lung-nodule-ct: chosen for lung" in line for line in err)
    assert json.loads((tmp_path / "o.json").read_text())["model"]["id"] == "lung-nodule-ct"
    code, _, err = run("synthesize", *data, *asked, tmp_path / "p.nii.gz")
    assert code == 0 and any(line.startswith("model generic-ct: nothing says which organ") for line in err)
    assert json.loads((tmp_path / "p.json").read_text())["model"]["id"] == "generic-ct"
    again = run(
        "synthesize", *data, "--repeat", tmp_path / "p.json", "--quiet", "--out", tmp_path / "q.nii.gz"
    )
    assert again[0] == 0 and not any("nothing says" in line for line in again[2])
    assert (read_image(tmp_path / "q.nii.gz").array == read_image(tmp_path / "p.nii.gz").array).all()


def test_auto_is_the_default_and_can_be_declined(run, data, tmp_path):
    code, _, err = run("remove", *data, "--quiet", "--out", tmp_path / "o.nii.gz")
    assert code == 0 and sum(line.startswith("model generic-ct:") for line in err) == 1
    code, _, err = run("remove", *data, "--model", "none", "--quiet", "--out", tmp_path / "p.nii.gz")
    assert code == 0 and not any("model" in line for line in err)
    assert json.loads((tmp_path / "p.json").read_text())["model"] == {}
    assert (read_image(tmp_path / "o.nii.gz").array == read_image(tmp_path / "p.nii.gz").array).all()

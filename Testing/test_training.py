"""Training: preparation, batches, steps, resuming, sharing a batch among processes; on generated images of a few voxels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from training_case import (  # noqa: F401
    CROP,
    EACH_STEP,
    PATIENTS,
    SPACING,
    TRAINING,
    WIDTHS,
    assert_same_losses,
    call,
    close,
    common,
    each_step,
    killed_and_resumed,
    one_thread,
    prepare,
    prepared,
    sampler_of,
    train,
    train_texture,
    trained,
    write_case,
)

from TumorSynthLib.radiomics.extract import extract, extract_image
from TumorSynthLib.radiomics.settings import Settings

# On a GPU the steering's gradients through attention and pooling are summed in any order.
ROUNDING = 1e-4 if torch.cuda.is_available() else 0

# Preparation


def assert_features_are_those_of_the_crops(data):
    settings = Settings(binWidth=data.meta["extraction"]["binWidth"])
    kinds = [r["kind"] for r in data.rows]
    assert {"real", "varied", "context"} == set(kinds)
    for i, kind in enumerate(kinds):
        mask = (data.labels[i] & prepare.FULL) > 0
        if kind == "context":
            assert not mask.any() and np.isnan(data.features[i]).all()
            continue
        found = extract(
            data.images[i].astype(np.float32), mask, tuple(data.meta["spacing"]), settings, prepare.CLASSES
        )
        np.testing.assert_allclose(data.features[i], [found[n] for n in data.meta["names"]], rtol=1e-9)
        assert ((data.labels[i] & prepare.TUMOUR) > 0)[mask].all()


def test_prepared_crops_have_the_features_they_say(prepared):
    data = common.Prepared(prepared)
    assert data.images.shape == data.labels.shape == (len(data), *CROP)
    assert len(data.meta["names"]) == 74 and data.meta["modalities"] == ["CT", "T1"]
    assert_features_are_those_of_the_crops(data)


def test_real_crops_are_windows_of_the_image_and_varied_ones_differ_in_the_tumour_alone(prepared):
    data = common.Prepared(prepared)
    whole = sitk.GetArrayFromImage(
        sitk.ReadImage(str(prepared.parent / "raw" / f"{data.rows[0]['id']}_CT_image.nii.gz"))
    )
    assert data.rows[0]["kind"] == "real" and data.rows[1]["kind"] == "varied"
    views = np.lib.stride_tricks.sliding_window_view(whole, CROP)
    assert (views == data.images[0]).all((3, 4, 5)).any()
    mask = (data.labels[0] & prepare.FULL) > 0
    assert np.array_equal(data.images[0][~mask], data.images[1][~mask])
    assert (data.images[0] != data.images[1])[mask].mean() > 0.5


def test_population_holds_whole_tumours(prepared):
    data = common.Prepared(prepared)
    population = data.meta["population"]
    assert sorted(population) == ["CT", "T1"] and len(population["CT"]) == PATIENTS
    raw = prepared.parent / "raw"
    image, mask = (sitk.ReadImage(str(raw / f"STS_003_T1_{k}.nii.gz")) for k in ("image", "mask"))
    expected = extract_image(image, mask, Settings(binWidth=25), ("firstorder", "glcm"))
    for name, value in expected.items():
        assert population["T1"]["STS_003"][name] == pytest.approx(value, rel=1e-6), name


def test_lidc_names_give_patients(tmp_path):
    for nodule in ("0001_R_1", "0001_R_2"):
        stem = tmp_path / f"LIDC-IDRI-{nodule}_CT"
        write_case(Path(f"{stem}_image.nii.gz"), Path(f"{stem}_mask.nii.gz"), 1)
    found = list(prepare.cases("lidc", tmp_path))
    assert [c.id for c in found] == ["LIDC-IDRI-0001_R_1", "LIDC-IDRI-0001_R_2"]
    assert {c.patient for c in found} == {"LIDC-IDRI-0001"} and {c.modality for c in found} == {"CT"}


def test_nnunet_raw_is_resampled_and_prepared(tmp_path):
    raw = tmp_path / "Dataset001_Toy"
    write_case(raw / "imagesTr/a_0000.nii.gz", raw / "labelsTr/a.nii.gz", 1, (0.8, 0.8, 2.0))
    write_case(raw / "imagesTr/a_0001.nii.gz", raw / "labelsTr/a.nii.gz", 1, (0.8, 0.8, 2.0))
    (raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}}))
    arguments = [
        "--data",
        raw,
        "--out",
        tmp_path / "out",
        "--spacing",
        1,
        1,
        2,
        "--crop",
        8,
        16,
        16,
        "--bin-width",
        10,
    ]
    call(prepare, "nnunet", *arguments)
    data = common.Prepared(tmp_path / "out")
    assert data.meta["modalities"] == ["FLAIR", "T1"] and {r["patient"] for r in data.rows} == {"a"}
    assert data.meta["extraction"]["binWidth"] == 10
    assert_features_are_those_of_the_crops(data)
    maps = train_texture.intensity_maps(data)  # a layout that the script has no map for
    inside = data.images[:][(data.labels[:] & prepare.FULL) > 0]
    assert len(maps) == 2 and all(
        np.percentile(inside, 5) < m.center < np.percentile(inside, 95) for m in maps
    )


@pytest.mark.parametrize("arguments", [["nnunet", "--data", "x"], ["sts", "--data", "nowhere"]])
def test_prepare_refuses_what_it_cannot_use(arguments, tmp_path):
    with pytest.raises(SystemExit) as stop:
        call(prepare, *arguments, "--out", tmp_path)
    assert stop.value.code == 2


# Batches


def test_a_batch_is_the_same_however_it_is_shared(prepared):
    sampler, _ = sampler_of(prepared)
    whole = sampler.batch(6, step=3, first=0, seed=0)
    parts = [sampler.batch(2, step=3, first=k, seed=0) for k in (0, 2, 4)]
    for key, value in whole.items():
        shared = torch.cat([p[key] for p in parts])
        torch.testing.assert_close(value, shared, rtol=0, atol=0, equal_nan=True, msg=key)
    m, noise = train_texture.draws(whole["seed"], (8, 2, 2, 2))
    again = [train_texture.draws(p["seed"], (8, 2, 2, 2)) for p in parts]
    assert torch.equal(m, torch.cat([a[0] for a in again])) and torch.equal(
        noise, torch.cat([a[1] for a in again])
    )
    assert len(whole["seed"].unique()) == 6
    other = sampler.batch(6, step=4, first=0, seed=0)
    assert not torch.equal(other["x"], whole["x"])


def test_items_carry_the_features_of_what_they_show(prepared):
    """Turned and flipped crops keep their features, and holes of the removal path hold no tumour."""
    sampler, names = sampler_of(prepared)
    batch = sampler.batch(24, step=0, first=0, seed=0)
    removal = batch["removal"]
    assert 0 < int(removal.sum()) < 24 and not batch["given"][removal].any()
    settings = Settings(binWidth=25)
    for k in np.flatnonzero(~removal.numpy())[:6]:
        image = np.rint(sampler.maps[int(batch["modality"][k])].inverse(batch["x"][k, 0].numpy()))
        mask = batch["hole"][k, 0].numpy()
        found = extract(image.astype(np.float32), mask, SPACING, settings, prepare.CLASSES)
        np.testing.assert_allclose(batch["values"][k], [found[n] for n in names], rtol=1e-4, atol=1e-6)
    assert all(int(h.sum()) > 40 for h in batch["hole"])


def test_network_is_told_no_feature_that_grows_with_the_region(prepared):
    _, names = sampler_of(prepared)
    assert "original_firstorder_Mean" in names and "original_glcm_Contrast" in names
    assert "original_firstorder_Energy" not in names and "original_glszm_SizeZoneNonUniformity" not in names


def test_times_cover_the_bridge():
    times = train_texture.times(4000, torch.Generator().manual_seed(0))
    assert float(times.min()) > 0 and float(times.max()) <= 1
    assert all(((times > low) & (times < low + 0.1)).any() for low in np.arange(0, 1, 0.1))


def test_scaling_sees_heavy_tails_in_log():
    rng = np.random.default_rng(0)
    features = np.stack([rng.normal(50, 3, 500), np.exp(rng.normal(2, 2, 500)), np.full(500, 7.0)], 1)
    scaling = train_texture.scaling(np.concatenate([features, features + 100]), np.repeat([0, 1], 500))
    assert scaling["log"].tolist() == [[False, True, False], [False, False, False]]
    assert float(scaling["center"][0, 1]) == pytest.approx(2, abs=0.3) and float(
        scaling["scale"][0, 0]
    ) == pytest.approx(3, rel=0.15)
    assert float(scaling["center"][1, 0]) == pytest.approx(150, abs=1)  # each modality has its own scale
    assert bool((scaling["scale"] > 0).all())


# Training


def test_training_lowers_the_loss(prepared, tmp_path):
    train(prepared, tmp_path, "--steps", 40, "--batch", 4, "--threads", 1, "--lr", 3e-3)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [20, 40] and log[1]["loss"] < 0.95 * log[0]["loss"]


def test_checkpoint_has_what_an_export_needs(trained):
    _, saved = trained
    assert saved["step"] == 4 and saved["codec_config"] == {"kind": "haar"}
    assert saved["config"]["meta"] == {"layout": "sts", "spacing": list(SPACING), "modalities": ["CT", "T1"]}
    assert saved["ema"].keys() == saved["network"].keys() and close(saved["ema"], saved["network"]) > 0
    assert float(saved["codec"]["std"].min()) > 0 and float(saved["codec"]["std"].max()) != 1


def test_a_killed_run_goes_on_as_if_nothing_had_happened(prepared, trained, tmp_path, monkeypatch):
    whole = trained[1]
    arguments = (prepared, tmp_path, "--steps", 4, "--batch", 4, "--threads", 1, "--save-every", 2)
    resumed = killed_and_resumed(arguments, monkeypatch)
    assert resumed["step"] == 4 and resumed["config"] == whole["config"]
    for key in ("network", "ema", "codec"):
        assert close(resumed[key], whole[key]) <= ROUNDING, key
    assert resumed["spent"] > 0


def test_accumulation_equals_a_larger_batch(prepared, trained, tmp_path, each_step):
    whole = trained[1]
    parts = train(prepared, tmp_path, "--steps", 4, "--batch", 2, "--accumulate", 2, "--threads", 1)
    assert_same_losses(tmp_path, trained[0])
    assert_same_way(parts, whole)


def assert_same_way(a: dict, b: dict):
    """Two runs moved their weights alike; Adam's first steps make more of rounding than the gradients have."""
    torch.manual_seed(0)
    start = train_texture.BridgeNetwork(
        train_texture.NetworkConfig.from_dict(b["config"]["network"])
    ).state_dict()
    floats = [k for k in start if start[k].is_floating_point() and not k.startswith("tokens.s")]
    moved = [torch.cat([(s["network"][k] - start[k]).flatten() for k in floats]) for s in (a, b)]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.995


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_equal_one(prepared, trained, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--no-python", sys.executable, "-c", EACH_STEP.format(str(TRAINING), "train_texture")]
    command += ["--data", str(prepared), "--out", str(tmp_path), *WIDTHS]
    command += ["--steps", "4", "--batch", "2", "--draws", "1", "--threads", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_losses(tmp_path, trained[0])  # only the first process writes
    assert_same_way(torch.load(tmp_path / "last.pt", map_location="cpu", weights_only=True), trained[1])

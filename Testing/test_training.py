"""Training: preparation, steps, resuming, sharing a batch among processes, export; on generated images of a few voxels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import load_bundle
from TumorSynthLib.radiomics.extract import extract, extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture.generator import TextureModel

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

common = pytest.importorskip("common")
export_bundle = pytest.importorskip("export_bundle")
monitor = pytest.importorskip("monitor")
prepare = pytest.importorskip("prepare")
train_texture = pytest.importorskip("train_texture")

SPACING = (1.0, 1.0, 2.0)  # x, y, z in mm
CROP = (12, 16, 16)
PLAN = prepare.Plan(SPACING, CROP, windows=2, varied=1, context=2)
WIDTHS = ["--widths", "8", "8", "16"]
PATIENTS = 6


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, and no fight for the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

SCORES = {"task": "removal", "command": "evaluate.py removal --data toy/val", "results": {"T1 model psnr": {"mean": 30.0}}}


def write_case(image_path: Path, mask_path: Path, seed: int, spacing=SPACING):
    """A noisy ellipsoid in noisy surroundings, 20 x 36 x 36 voxels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((20, 36, 36))
    center = rng.uniform(-2, 2, 3)
    mask = ((z - 9.5 - center[0]) / 3.5) ** 2 + ((y - 18 - center[1]) / 6) ** 2 + (
        (x - 18 - center[2]) / 5
    ) ** 2 < 1
    image = np.where(mask, rng.normal(80 + 20 * seed, 45, mask.shape), rng.normal(-40, 20, mask.shape))
    for path, array in ((image_path, np.rint(image).astype(np.int16)), (mask_path, mask.astype(np.uint8))):
        path.parent.mkdir(parents=True, exist_ok=True)
        out = sitk.GetImageFromArray(array)
        out.SetSpacing(spacing)
        out.SetOrigin((-10.0, 20.0, 5.0))
        sitk.WriteImage(out, str(path))


def tree(folder: Path, patients: int, modalities=("CT", "T1")) -> Path:
    """A folder in the layout of `sts`."""
    for i in range(patients):
        for j, modality in enumerate(modalities):
            stem = folder / f"STS_{i:03d}_{modality}"
            write_case(Path(f"{stem}_image.nii.gz"), Path(f"{stem}_mask.nii.gz"), 2 * i + j)
    return folder


def call(module, *arguments):
    """A script's `main` with command-line arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()


def train(data: Path, out: Path, *more) -> dict:
    call(train_texture, "--data", data, "--out", out, "--draws", 2, *WIDTHS, *more)
    return torch.load(out / "last.pt", map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Crops of six generated patients with two modalities."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prepare.PLANS, "sts", PLAN)
        call(prepare, "sts", "--data", tree(folder / "raw", PATIENTS), "--out", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> tuple[Path, dict]:
    """Four uninterrupted steps of four items; the log has each step's own losses."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        log_each_step(patch)
        return out, train(prepared, out, "--steps", 4, "--batch", 4, "--threads", 1)


# What a process of its own runs to log each step, as `log_each_step` lets this one do.
EACH_STEP = """
import sys
sys.path.insert(0, {!r})
import monitor, {} as script
monitor.EVERY, monitor.KEPT = 1, 0.0
script.main()
"""


def log_each_step(patch):
    """A line of the log for each step, with that step's own losses in place of running averages."""
    patch.setattr(monitor, "EVERY", 1)
    patch.setattr(monitor, "KEPT", 0.0)


@pytest.fixture
def each_step(monkeypatch):
    log_each_step(monkeypatch)


def assert_same_losses(folder: Path, other: Path):
    """Two runs logged the same losses, step by step, and the first has the last ones in its checkpoint."""
    found, expected = step_losses(folder), step_losses(other)
    assert len(found) == len(expected) > 1 and "loss" in expected[0]
    for row, wanted in zip(found, expected):
        assert row == pytest.approx(wanted, rel=5e-3)  # sums in another order tip weights, and then grey levels
    average = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["average"]
    assert average == pytest.approx({k: found[-1][k] for k in average}, abs=1e-6)


def step_losses(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "left")} for row in rows]


def sampler_of(prepared: Path):
    data = common.Prepared(prepared)
    names = train_texture.conditioning(data.meta["names"])
    columns = [data.meta["names"].index(n) for n in names]
    return train_texture.Sampler(data, columns, train_texture.intensity_maps(data)), names


def close(a: dict, b: dict) -> float:
    """Largest difference between two states of tensors."""
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


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


def killed_and_resumed(arguments, monkeypatch) -> dict:
    """A run of four steps that was stopped after two, and started again."""
    save = common.Run.save

    def killed(self, state, name="last.pt"):
        save(self, state, name)
        if state["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(common.Run, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments)
    assert torch.load(arguments[1] / "last.pt", map_location="cpu", weights_only=True)["step"] == 2
    return train(*arguments)


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


# Codec


@pytest.fixture(scope="module")
def train_codec():
    pytest.importorskip("monai", reason="train_codec.py takes its discriminator from MONAI")
    import train_codec

    return train_codec


def test_codec_trains_resumes_and_feeds_the_texture_network(train_codec, prepared, tmp_path, monkeypatch):
    arguments = [
        "--data",
        prepared,
        "--steps",
        6,
        "--batch",
        2,
        "--width",
        8,
        "--levels",
        9,
        9,
        9,
        "--critic",
        4,
    ]
    arguments += ["--threads", 1, "--crops", 4, "--save-every", 4]
    call(train_codec, *arguments, "--out", tmp_path / "whole")
    whole = torch.load(tmp_path / "whole/last.pt", map_location="cpu", weights_only=True)
    assert whole["config"] == {"kind": "vqgan", "width": 8, "levels": [9, 9, 9], "factor": 2} and whole["step"] == 6
    standardise = train_codec.standardise
    with monkeypatch.context() as patch:
        patch.setattr(train_codec, "standardise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            call(train_codec, *arguments, "--out", tmp_path / "parts")
    assert train_codec.standardise is standardise
    assert torch.load(tmp_path / "parts/last.pt", map_location="cpu", weights_only=True)["step"] == 4
    call(train_codec, *arguments, "--out", tmp_path / "parts")
    resumed = torch.load(tmp_path / "parts/last.pt", map_location="cpu", weights_only=True)
    assert close(resumed["codec"], whole["codec"]) == 0 and close(resumed["critic"], whole["critic"]) == 0
    assert step_losses(tmp_path / "parts")[-1] == step_losses(tmp_path / "whole")[-1]
    assert resumed["average"] == whole["average"] and set(whole["average"]) == {"loss", "critic"}
    table = json.loads((tmp_path / "whole/round_trip.json").read_text())
    assert (
        table["haar"]["concordance"]["glcm"]["worst"] == 1
        and table["vqgan"]["concordance"]["glcm"]["worst"] < 1
    )
    assert table["haar"]["psnr"]["CT"] > 100 > table["vqgan"]["psnr"]["CT"]
    saved = train(
        prepared, tmp_path / "texture", "--steps", 1, "--batch", 2, "--codec", tmp_path / "whole/last.pt"
    )
    assert saved["codec_config"] == whole["config"] and saved["config"]["network"]["latent_channels"] == 3


def test_codec_loss_counts_the_tumour_more(train_codec):
    x, mask = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    mask[..., :1] = True
    inside, outside = (train_codec.reconstruction_loss(x + m.float(), x, mask) for m in (mask, ~mask))
    assert float(inside) == pytest.approx(10.25) and float(outside) == pytest.approx(0.75)


def test_each_item_of_a_codec_batch_counts_alike(train_codec):
    """Or else several processes, whose losses are averaged, would not train as one with a larger batch."""
    rng = torch.Generator().manual_seed(0)
    made, x = torch.rand(2, 2, 1, 4, 4, 4, generator=rng)
    mask = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    mask[0, ..., :1], mask[1, ..., 1:] = True, True
    parts = [train_codec.reconstruction_loss(*(t[k : k + 1] for t in (made, x, mask))) for k in (0, 1)]
    assert float(train_codec.reconstruction_loss(made, x, mask)) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


def test_codec_holds_whole_patients_out(train_codec, prepared):
    data = common.Prepared(prepared)
    crops = train_codec.Crops(data, train_texture.intensity_maps(data))
    seen, held = ({data.rows[i]["patient"] for i in rows} for rows in (crops.training, crops.held))
    assert held and not seen & held and len(seen) + len(held) == PATIENTS


def test_concordance_needs_equal_values(train_codec):
    a = np.arange(10.0)
    assert train_codec.concordance(a, a) == 1
    assert train_codec.concordance(a, 2 * a) < 0.8 and train_codec.concordance(a, -a) < 0


# Export


def export(run: Path, data: Path, out: Path, *more):
    arguments = [
        "--run",
        run,
        "--data",
        data,
        "--out",
        out,
        "--id",
        "toy",
        "--version",
        "0.1.0",
        "--title",
        "Toy",
    ]
    arguments += ["--organ", "phantom", "--licence", "CC0-1.0", *more]
    return export_bundle.export(export_bundle.parse([str(a) for a in arguments]))


def test_export_load_sample(prepared, trained, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    export(trained[0], prepared, tmp_path / "toy", "--scores", tmp_path / "scores.json")
    bundle = load_bundle(tmp_path / "toy")
    bundle.verify()
    j, saved = bundle.json, trained[1]
    assert (
        j["spacing_mm"] == list(SPACING)
        and j["scores"] == {"removal in toy/val, inside the hole + 5 mm": SCORES["results"]}
        and j["margin_mm"] == pytest.approx(16 / 3, abs=0.1)
    )
    assert j["intensity"]["CT"]["range"] == [-1024, 3071] and j["intensity"]["T1"]["unit"] == "grey level"
    low, high = j["intensity"]["T1"]["range"]
    assert low < 0 < 200 < high < 600
    assert (
        j["training"]["steps"] == 4
        and j["training"]["patients"] == PATIENTS
        and j["training"]["crops"]["real"] == 24
    )
    assert bundle.settings("T1").binWidth == 25
    population = bundle.tensors("population.safetensors")["T1"]
    row, column = (
        j["population"]["T1"][k].index(v)
        for k, v in (("cases", "STS_003"), ("names", "original_glcm_Contrast"))
    )
    expected = common.Prepared(prepared).meta["population"]["T1"]["STS_003"]["original_glcm_Contrast"]
    assert population[row, column] == pytest.approx(expected, rel=1e-6)
    model = TextureModel.from_bundle(bundle, "cpu")
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, export_bundle.small(saved["ema"][name]).to(value.dtype)), name
    for name in ("tokens.center", "tokens.scale"):
        assert torch.equal(model.network.state_dict()[name], saved["ema"][name])
    assert torch.equal(model.codec.std, saved["codec"]["std"])
    array = np.zeros((6, 12, 12), np.float32)
    mask = np.zeros(array.shape, bool)
    mask[2:4, 3:9, 3:9] = True
    out = model.sample(array, mask, "T1", {"original_firstorder_Mean": 300.0}, seed=1)
    assert np.isfinite(out).all() and (out[mask] != 0).all() and (out[~mask] == 0).all()


def test_export_stores_large_weights_small(prepared, trained, tmp_path):
    bundle = export(trained[0], prepared, tmp_path / "toy")
    tensors = bundle.tensors("network.safetensors", "torch")
    large = [v for v in tensors.values() if v.ndim >= 2 and v.numel() >= 1024]
    assert large and all(v.dtype == torch.float16 for v in large)
    mantissas = torch.cat([torch.frexp(v.float())[0].flatten() for v in large]) * 2**8
    assert torch.equal(mantissas, mantissas.round())
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(export_bundle.small(weights).float(), weights, rtol=2**-8, atol=0)
    assert tensors["network.tokens.center"].dtype == tensors["codec.std"].dtype == torch.float32


def test_export_refuses_foreign_data_and_unnamed_sources(prepared, trained, tmp_path):
    meta = json.loads((prepared / "meta.json").read_text())
    for key, value, message in (("spacing", [1, 1, 3], "spacing"), ("layout", "nnunet", "layout")):
        other = tmp_path / key
        other.mkdir()
        for name in ("images.npy", "labels.npy", "features.npy", "rows.json"):
            (other / name).symlink_to(prepared / name)
        (other / "meta.json").write_text(json.dumps(meta | {key: value}))
        with pytest.raises(ModelError, match=message):
            export(trained[0], other, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_export_leaves_cases_without_a_feature_out(prepared, trained, tmp_path, capsys):
    other = tmp_path / "data"
    other.mkdir()
    for name in ("images.npy", "labels.npy", "features.npy", "rows.json"):
        (other / name).symlink_to(prepared / name)
    meta = json.loads((prepared / "meta.json").read_text())
    meta["population"]["CT"]["STS_001"]["original_glcm_Contrast"] = float("nan")
    (other / "meta.json").write_text(json.dumps(meta))
    bundle = export(trained[0], other, tmp_path / "toy")
    assert (
        "STS_001" not in bundle.json["population"]["CT"]["cases"]
        and "1 of 6 cases left out" in capsys.readouterr().out
    )
    assert len(bundle.json["population"]["T1"]["cases"]) == PATIENTS


def test_training_goes_on_from_a_bundle(prepared, trained, tmp_path):
    bundle = export(trained[0], prepared, tmp_path / "toy")
    train(prepared, tmp_path / "again", "--steps", 1, "--lr", 0, "--init", bundle.folder, "--threads", 1)
    again = torch.load(tmp_path / "again" / "last.pt", map_location="cpu", weights_only=True)
    for name, value in trained[1]["ema"].items():
        stored = export_bundle.small(value).to(value.dtype)
        assert torch.equal(again["network"][name], stored) and torch.equal(again["ema"][name], stored), name
    assert torch.equal(again["codec"]["std"], trained[1]["codec"]["std"])
    assert again["config"]["names"] == trained[1]["config"]["names"]
    further = export(tmp_path / "again", prepared, tmp_path / "further", "--init", bundle.folder)
    assert further.json["training"]["steps"] == 1
    assert further.json["training"]["before"] == [
        {"version": bundle.version, **{k: bundle.json["training"][k] for k in ("steps", "minutes", "hardware")}}
    ]


def test_further_training_is_stored_as_differences(prepared, trained, tmp_path):
    bundle = export(trained[0], prepared, tmp_path / "toy")
    train(prepared, tmp_path / "again", "--steps", 2, "--lr", 1e-3, "--init", bundle.folder, "--threads", 1)
    again = torch.load(tmp_path / "again" / "last.pt", map_location="cpu", weights_only=True)["ema"]
    options = "--init", bundle.folder, "--further"
    later = export(tmp_path / "again", prepared, tmp_path / "later", *options)
    name = "network.safetensors"
    assert later.json["files"][name] == bundle.json["files"][name]
    networks = (TextureModel.from_bundle(b, "cpu").network.state_dict() for b in (later, bundle))
    for (key, mine), former in zip(next(networks).items(), next(networks).values()):
        assert torch.dist(mine.float(), again[key].float()) <= 0.5 * torch.dist(former.float(), again[key].float()), key
    with pytest.raises(SystemExit):
        export(tmp_path / "again", prepared, tmp_path / "no", "--further")

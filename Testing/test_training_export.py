"""Training: the codec, and what is exported to a bundle; on generated images of a few voxels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_case import (  # noqa: F401
    PATIENTS,
    SPACING,
    call,
    close,
    common,
    export_bundle,
    one_thread,
    prepared,
    step_losses,
    train,
    train_texture,
    trained,
)

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import load_bundle
from TumorSynthLib.texture.generator import TextureModel

SCORES = {
    "task": "removal",
    "command": "evaluate.py removal --data toy/val",
    "results": {"T1 model psnr": {"mean": 30.0}},
}


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
    assert (
        whole["config"] == {"kind": "vqgan", "width": 8, "levels": [9, 9, 9], "factor": 2}
        and whole["step"] == 6
    )
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
    assert float(train_codec.reconstruction_loss(made, x, mask)) == pytest.approx(
        float(sum(parts)) / 2, rel=1e-5
    )


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
        {
            "version": bundle.version,
            **{k: bundle.json["training"][k] for k in ("steps", "minutes", "hardware")},
        }
    ]

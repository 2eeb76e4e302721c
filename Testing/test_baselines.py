"""Baselines, the unordered conditioner and the codec table: tiny networks, a few steps, generated crops."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import tiny_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
train_baseline = pytest.importorskip("train_baseline", reason="the training extra is not installed")
evaluate = pytest.importorskip("evaluate", reason="the training extra is not installed")
import baselines  # noqa: E402
from training_case import SPACING, WIDTHS, call, close, one_thread, prepared, step_losses, write_case  # noqa: E402, F401

from TumorSynthLib.editor import EditRequest  # noqa: E402
from TumorSynthLib.errors import ModelError  # noqa: E402
from TumorSynthLib.texture.codec import make_codec  # noqa: E402
from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig  # noqa: E402
from TumorSynthLib.volume import read_image, read_mask  # noqa: E402

CONFIG = NetworkConfig(8, 6, widths=(8, 8, 16), token=8, embedding=8, heads=2)


def train(kind: str, data: Path, out: Path, *more) -> dict:
    arguments = ("--kind", kind, "--data", data, "--out", out, "--batch", 2, "--threads", 1, *WIDTHS)
    call(train_baseline, *arguments, *more)
    return torch.load(out / "last.pt", map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("model") / "tiny", modalities=("CT", "T1"), network=True)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder / "image.nii.gz", folder / "mask.nii.gz", 0)
    volume = read_image(folder / "image.nii.gz")
    return volume, read_mask(folder / "mask.nii.gz", like=volume)


# Parts


def answer(network, values: torch.Tensor) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 4, 8, 8, generator=rng)
    around = torch.rand(1, 18, 4, 8, 8, generator=rng)
    told, no = torch.ones(1, 6, dtype=torch.bool), torch.tensor([False])
    with torch.no_grad():
        return network(x, x, around, torch.tensor([0.3]), torch.tensor([0]), values, told, no)


@pytest.mark.parametrize("unordered", [False, True])
def test_only_unordered_tokens_are_blind_to_which_feature_has_which_value(unordered):
    torch.manual_seed(0)
    network = BridgeNetwork(CONFIG)
    network = (baselines.make_unordered(network) if unordered else network).eval()
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.1)
    values = torch.tensor([[0.5, -1.0, 2.0, 0.1, -0.3, 1.2]])
    same, shuffled, other = (answer(network, v) for v in (values, values.flip(1), values + 1))
    assert float((same - other).abs().max()) > 1e-3  # values matter to both
    assert (float((same - shuffled).abs().max()) < 1e-5) is unordered


def test_diffusion_goes_from_data_to_noise():
    x0, noise = torch.randn(2, 8, 4, 4, 4), torch.randn(2, 8, 4, 4, 4)
    made = baselines.diffused(x0, torch.tensor([0.0, 1.0]), noise)
    assert torch.allclose(made[0], x0[0]) and torch.allclose(made[1], noise[1], atol=0.01)
    middle = baselines.diffused(
        torch.randn(1, 8, 16, 16, 16), torch.tensor([0.5]), torch.randn(1, 8, 16, 16, 16)
    )
    assert float(middle.std()) == pytest.approx(1, abs=0.05)


def test_denoising_ends_at_what_the_network_sees():
    """An oracle that always predicts the truth is followed from pure noise, in any number of steps."""
    truth, known = torch.randn(1, 8, 2, 4, 4), torch.zeros(1, 8, 2, 4, 4)
    cells = torch.rand(1, 1, 2, 4, 4) < 0.5
    seen = []

    def oracle(state, y, t):
        seen.append((t, float((state - truth)[cells.expand_as(state)].std())))
        return truth

    model = baselines.BaselineModel.__new__(baselines.BaselineModel)
    made = model._denoise(oracle, known, known, cells, torch.randn_like(truth), 5)
    assert torch.equal(made, torch.where(cells, truth, known))
    assert [t for t, _ in seen] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    distance = [d for _, d in seen]
    assert distance == sorted(distance, reverse=True) and distance[-1] < 0.5 * distance[0]


def test_sobel_sees_edges_alone():
    flat, step = torch.full((1, 1, 6, 8, 8), 3.0), torch.zeros(1, 1, 6, 8, 8)
    step[..., 4:] = 2.0
    assert float(train_baseline.sobel(flat).max()) < 0.01
    edge = train_baseline.sobel(step)[0, 0, 3, 4]
    assert float(edge[3]) == pytest.approx(1, abs=0.01) and float(edge[1]) < 0.01


# Training and use


@pytest.mark.parametrize("kind", ["gan", "ldm"])
def test_training_resumes_exactly(kind, prepared, tmp_path):
    whole = train(kind, prepared, tmp_path / "whole", "--steps", 4)
    args = dict(step=2)
    with pytest.MonkeyPatch.context() as patch:  # the same plan of four steps, stopped after two
        update = train_baseline.Trainer.update

        def stop(self, batch):
            if self.step == args["step"]:
                self.save()
                raise KeyboardInterrupt
            return update(self, batch)

        patch.setattr(train_baseline.Trainer, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            train(kind, prepared, tmp_path / "parts", "--steps", 4)
    stopped = torch.load(tmp_path / "parts" / "last.pt", map_location="cpu", weights_only=True)
    parts = train(kind, prepared, tmp_path / "parts", "--steps", 4)
    assert stopped["step"] == 2 and close(stopped["network"], parts["network"]) > 0
    assert parts["step"] == 4 and close(whole["network"], parts["network"]) == 0
    assert close(whole["ema"], parts["ema"]) == 0 and parts["average"] == whole["average"]
    assert step_losses(tmp_path / "parts")[-1] == step_losses(tmp_path / "whole")[-1]
    if kind == "gan":
        assert close(whole["critic"], parts["critic"]) == 0


@pytest.mark.parametrize(
    ("kind", "more", "name"),
    [
        ("gan", (), "gan"),
        ("ldm", (), "ldm"),
        ("bridge", (), "bridge"),
        ("bridge", ("--unordered",), "unordered"),
    ],
)
def test_a_checkpoint_edits_like_a_model(kind, more, name, prepared, bundle, case, tmp_path, monkeypatch):
    saved = train(kind, prepared, tmp_path, "--steps", 1, *more)
    for weights in saved["ema"].values():  # layers that start at zero draw nothing yet
        if weights.is_floating_point() and float(weights.abs().max()) < 0.05:
            weights.normal_(0, 0.1)
    torch.save(saved, tmp_path / "last.pt")
    monkeypatch.setattr(baselines, "DDIM_STEPS", 3)
    found, editor = baselines.load_baseline(tmp_path / "last.pt", bundle, "cpu")
    assert found == name and editor.budget == {"steps": 1, "batch": 2, "minutes": editor.budget["minutes"]}
    volume, mask = case
    wish = EditRequest(features={"original_firstorder_Mean": 150.0}, modality="CT", solve=False)
    first, same, other = (
        editor.synthesize(volume, mask, replace(wish, seed=s)).volume.array for s in (1, 1, 2)
    )
    assert (first[~mask] == volume.array[~mask]).all() and (first[mask] != volume.array[mask]).any()
    assert (first == same).all() and (first != other).any()
    removed = editor.remove(volume, mask, EditRequest(modality="CT", engine="bridge")).volume.array
    assert (removed[~mask] == volume.array[~mask]).all()


def test_a_baseline_of_another_grid_is_refused(prepared, tmp_path, bundle):
    train("ldm", prepared, tmp_path, "--steps", 1)
    saved = torch.load(tmp_path / "last.pt", map_location="cpu", weights_only=True)
    saved["config"]["meta"]["spacing"] = [9.0, 1.0, 1.0]
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(ModelError, match="was trained at"):
        baselines.load_baseline(tmp_path / "last.pt", bundle, "cpu")


# Codecs


@pytest.mark.parametrize("factor", [2, 4])
def test_vqgan_of_either_factor_has_its_latent_size(factor):
    codec = make_codec({"kind": "vqgan", "width": 8, "factor": factor})
    x = torch.randn(2, 1, 8, 16, 24)
    z = codec.encode(x)
    assert z.shape == (2, 4, 8 // factor, 16 // factor, 24 // factor) and codec.decode(z).shape == x.shape
    from TumorSynthLib.texture.codec import folded, unfolded

    assert torch.equal(unfolded(folded(x, factor), factor), x)


def test_codec_table(prepared, tmp_path):
    train_codec = pytest.importorskip("train_codec")
    arguments = ("--data", prepared, "--steps", 2, "--batch", 2, "--width", 8, "--critic", 0, "--crops", 2)
    for factor in (2, 4):
        call(train_codec, *arguments, "--out", tmp_path / f"f{factor}", "--factor", factor, "--threads", 1)
    paths = [tmp_path / f"f{factor}" / "last.pt" for factor in (2, 4)]
    call(evaluate, "codec", "--data", prepared, "--json", tmp_path / "out.json", "--quick", "--codec", *paths)
    found = json.loads((tmp_path / "out.json").read_text())["codecs"]
    assert list(found) == ["Haar", "resampling by 2", "VQ-GAN f2, 4 channels", "VQ-GAN f4, 4 channels"]
    assert all(c["median"] > 0.999 for c in found["Haar"]["concordance"].values())
    psnr = {name: np.mean(list(r["psnr"].values())) for name, r in found.items()}
    assert psnr["Haar"] > 60 > psnr["resampling by 2"]
    assert found["resampling by 2"]["concordance"]["glcm"]["median"] < 0.9  # blurring costs texture
    import write_results

    page = "\n".join(write_results.codec(json.loads((tmp_path / "out.json").read_text())))
    assert "VQ-GAN f4, 4 channels" in page and f"{found['Haar']['concordance']['glcm']['median']:.3f}" in page
    row = next(line for line in page.splitlines() if line.startswith("| glszm_SmallAreaEmphasis |"))
    assert row.split(" | ")[1:] == [
        f"{found[name]['each']['original_glszm_SmallAreaEmphasis']:.3f}" + " |" * (k == 3)
        for k, name in enumerate(found)
    ]

"""Weights of a model that was trained further, stored as differences."""

from __future__ import annotations

import pytest
import tiny_bundle

torch = pytest.importorskip("torch")

from TumorSynthLib.errors import ModelError  # noqa: E402
from TumorSynthLib.models.bundle import load_bundle  # noqa: E402
from TumorSynthLib.models.write import write_bundle  # noqa: E402
from TumorSynthLib.texture.generator import TextureModel  # noqa: E402
from TumorSynthLib.texture.weights import FURTHER, WEIGHTS, differences, further, read_weights  # noqa: E402


def changed(base: dict, size: float = 0.05) -> dict:
    """Weights after some training."""
    rng = torch.Generator().manual_seed(1)
    return {
        k: v + size * v.std() * torch.randn(v.shape, generator=rng)
        if v.is_floating_point() and v.numel() > 1
        else v
        for k, v in ((k, v.float() if v.is_floating_point() else v) for k, v in base.items())
    }


def bundle_of(folder, **tensors: dict):
    """A tiny model with these files instead of its own weights."""
    tiny = tiny_bundle.tiny_bundle(folder / "tiny", network=True)
    files = {name: tiny.tensors(name, "torch") for name in tiny.json["files"]} | tensors
    return write_bundle(
        folder / "again", {k: v for k, v in tiny.json.items() if k not in ("files", "format")}, files
    )


def test_small_tensors_are_exact_and_large_ones_near():
    rng = torch.Generator().manual_seed(0)
    base = {"few": torch.randn(40, generator=rng), "first": torch.randn(32, 100, 3, 3, generator=rng).half(),
            "large": torch.randn(128, 512, generator=rng).half(), "same": torch.randn(64, 64, generator=rng)}  # fmt: skip
    new = {k: v.float() + 0.05 * torch.randn(v.shape, generator=rng) for k, v in base.items()} | {
        "same": base["same"]
    }
    stored = differences(base, new)
    assert "same" not in stored and stored["large"].dtype == stored["first"].dtype == torch.int8
    result = base | further(base, stored)
    off = {k: float((result[k].float() - new[k]).square().mean().sqrt()) / 0.05 for k in new}
    assert off["few"] == off["same"] == 0
    assert off["first"] < 0.03 and off["large"] < 0.45


def test_a_row_with_one_large_difference_is_kept():
    base = {"w": torch.zeros(32, 1024)}
    new = {"w": torch.randn(32, 1024, generator=torch.Generator().manual_seed(0)) * 1e-3}
    new["w"][3, 5] = 1.0
    result = further(base, differences(base, new))["w"]
    assert float(result[3, 5]) == pytest.approx(1.0, abs=0.03)
    assert float((result[4] - new["w"][4]).abs().max()) < 1.5e-3


def test_a_model_draws_with_its_further_weights(tmp_path):
    base = tiny_bundle.tiny_bundle(tmp_path / "base", network=True).tensors(WEIGHTS, "torch")
    new = changed(base)
    bundle = bundle_of(tmp_path, **{FURTHER: differences(base, new)})
    assert set(read_weights(bundle)) == set(base)
    network = TextureModel.from_bundle(bundle, "cpu").network
    for name, value in network.state_dict().items():
        told, former = new[f"network.{name}"], base[f"network.{name}"]
        assert torch.dist(value.float(), told.float()) <= 0.5 * torch.dist(former.float(), told.float()), name


def test_differences_to_other_weights_are_refused(tmp_path):
    base = tiny_bundle.tiny_bundle(tmp_path / "base", network=True).tensors(WEIGHTS, "torch")
    name = next(k for k, v in base.items() if v.ndim >= 2)
    stray = {name: torch.ones(3, 5, dtype=torch.int8), f"{name}.step": torch.ones(3, 1)}
    for wrong in (
        stray,
        {"network.other": torch.ones(3, 5, dtype=torch.int8), "network.other.step": torch.ones(3, 1)},
    ):
        bundle = bundle_of(tmp_path, **{FURTHER: wrong})
        with pytest.raises(ModelError, match="reinstall"):
            TextureModel.from_bundle(load_bundle(bundle.folder), "cpu")

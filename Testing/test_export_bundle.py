"""Export of bundles: which may be large, and that a refused one leaves nothing behind."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from TumorSynthLib.errors import ModelError
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

pytest.importorskip("yaml")
common = pytest.importorskip("common")
export_bundle = pytest.importorskip("export_bundle")

NAMES = ["original_firstorder_Mean", "original_firstorder_Variance", "original_glcm_Contrast"]
SMALL = (8, 8, 16)
RECIPES = sorted((TRAINING / "recipes").glob("*.yaml"))


def trained(folder: Path, widths: tuple[int, ...]) -> list[str]:
    """Options of an export of random weights, with the files it reads."""
    torch.manual_seed(0)
    network = BridgeNetwork(NetworkConfig(8, len(NAMES), 1, 1, widths))
    meta = {"layout": "lidc", "spacing": [1.0, 1.0, 2.0], "modalities": ["CT"]}
    config = {
        "network": network.config.as_dict(),
        "names": NAMES,
        "meta": meta,
        "intensity": {"CT": [0.0, 100.0]},
    }
    state = {
        "ema": network.state_dict(), "codec": common.make_codec({"kind": "haar"}).state_dict(), "codec_config": {"kind": "haar"},
        "config": config, "step": 1, "spent": 1.0,
    }  # fmt: skip
    torch.save(state, folder / "last.pt")
    cases = {f"case{i}": dict(zip(NAMES, (1.0 + i, 2.0, 3.0))) for i in range(4)}
    meta |= {"names": NAMES, "population": {"CT": cases}, "extraction": {"binWidth": 25.0}}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "rows.json").write_text(json.dumps([{"kind": "real", "patient": "p", "modality": "CT"}]))
    for name, shape, dtype in (
        ("images", (1, 8, 16, 16), "i2"),
        ("labels", (1, 8, 16, 16), "u1"),
        ("features", (1, 3), "f8"),
    ):
        np.save(folder / f"{name}.npy", np.zeros(shape, dtype))
    return [
        "--run",
        str(folder),
        "--data",
        str(folder),
        "--id",
        "toy",
        "--version",
        "1",
        "--title",
        "T",
        "--organ",
        "o",
    ]


def export(options: list[str], out: Path):
    return export_bundle.export(export_bundle.parse([*options, "--out", str(out), "--licence", "CC0-1.0"]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_a_recipe_trains_can_be_exported(path, tmp_path):
    """Two bytes a weight, as large ones are stored; none but models of this repository need be small."""
    recipe = common.read_recipe(path)["train_texture"]
    with torch.device("meta"):
        network = BridgeNetwork(NetworkConfig(widths=tuple(recipe.get("widths", (32, 64, 96)))))
    count = 2 * sum(p.numel() for p in network.parameters())
    export_bundle.check_size(count, tmp_path / "model")
    inside = export_bundle.MODELS / "model"
    if count <= export_bundle.MAX_BYTES:
        export_bundle.check_size(count, inside)
    else:
        with pytest.raises(ModelError, match="another folder"):
            export_bundle.check_size(count, inside)


def test_a_large_model_is_exported_but_not_into_the_repository(tmp_path, monkeypatch):
    """With the widths of the recipes for GPUs."""
    monkeypatch.setattr(export_bundle, "MODELS", tmp_path / "Models")
    options = trained(tmp_path, (64, 128, 192))
    bundle = export(options, tmp_path / "toy")
    assert bundle.bytes > export_bundle.MAX_BYTES
    assert TextureModel.from_bundle(bundle, "cpu").network.config.widths == (64, 128, 192)
    with pytest.raises(ModelError, match="Resources/Models"):
        export(options, tmp_path / "Models" / "toy")
    assert not (tmp_path / "Models").exists()


def test_a_bundle_that_differs_from_its_checkpoint_leaves_the_former_one(tmp_path, monkeypatch):
    options = trained(tmp_path, SMALL)
    former = export(options, tmp_path / "toy")
    files = {path.name: path.read_bytes() for path in former.folder.iterdir()}
    trained(tmp_path, (8, 16, 16))
    monkeypatch.setattr(export_bundle, "difference", lambda *_: float("nan"))
    with pytest.raises(ModelError, match="isn't written"):
        export(options, tmp_path / "toy")
    assert {path.name: path.read_bytes() for path in former.folder.iterdir()} == files

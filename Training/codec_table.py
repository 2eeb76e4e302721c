"""Which codec keeps what: every feature's concordance and the PSNR in the tumour after encode and decode.

Haar (the default), plain resampling by 2, and VQ-GANs of train_codec.py, on the same real crops of the patients that
train_codec.py holds out; features by pyradiomics.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
import torch
from scoring import pyradiomics_features
from torch import nn
from torch.nn import functional as F
from train_codec import Crops, round_trip
from train_texture import intensity_maps

from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.volume import Volume

CROPS, QUICK_CROPS = 200, 24


class Resampling(nn.Module):
    """Half the resolution and back, linear: what any codec must beat."""

    lossless = False

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(x, 2)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return F.interpolate(z, scale_factor=2, mode="trilinear", align_corners=False)


def measured(values: np.ndarray, mask: np.ndarray, spacing, settings: Settings, classes) -> dict[str, float]:
    """As `radiomics.extract.extract`, by pyradiomics."""
    volume = Volume(
        np.asarray(values), tuple(spacing), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    )
    return pyradiomics_features(volume, mask, settings.to_pyradiomics(), classes)


def opened(path: Path) -> tuple[str, nn.Module, str]:
    """Name, codec and training of a checkpoint."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    codec, config = make_codec(saved["config"]), saved["config"]
    codec.load_state_dict(saved["codec"])
    trained = f"{saved['step']} steps, {saved['spent'] / 60:.0f} min ({saved.get('hardware', 'CPU')})"
    return f"VQ-GAN f{config.get('factor', 2)}, {len(config['levels'])} channels", codec.eval(), trained


def codec_table(a) -> dict:
    """Round trip of every codec."""
    data = common.Prepared(a.data)
    crops = Crops(data, intensity_maps(data))
    found = [("Haar", make_codec({"kind": "haar"}), ""), ("resampling by 2", Resampling(), "")]
    table = {}
    for name, codec, trained in [*found, *map(opened, a.codec)]:
        table[name] = round_trip(codec, crops, QUICK_CROPS if a.quick else CROPS, measured) | {
            "training": trained
        }
        print(name, table[name], flush=True)
    return {"codecs": table, "patients": crops.held_patients}

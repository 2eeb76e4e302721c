"""A valid bundle in a few kilobytes, written without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.models.write import write_bundle

FIRST_ORDER = ("Mean", "Median", "Variance", "Skewness", "10Percentile", "90Percentile", "Entropy", "Energy")
GLCM = ("Contrast", "Correlation", "JointEntropy", "Idm")
NAMES = tuple(
    [f"original_firstorder_{name}" for name in FIRST_ORDER]
    + [f"original_glcm_{name}" for name in GLCM]
    + ["original_shape_MeshVolume", "original_shape_Sphericity"]
)


def tiny_bundle(
    folder: Path,
    *,
    id: str = "tiny",
    version: str = "1.0.0",
    modalities: tuple[str, ...] = ("CT",),
    names: tuple[str, ...] = NAMES,
    values: np.ndarray | None = None,
    network: bool = False,
    seed: int = 0,
    **changes: Any,
) -> Bundle:
    """Write a bundle to `folder` and open it.

    :param names: the features of the population, which are also the network's.
    :param values: (cases, features) of the population; default: 20 random cases, the same for each modality.
    :param network: write a random-initialised texture network that `TextureModel.from_bundle` loads (needs
        torch), instead of two small arrays.
    :param changes: further keys of ``bundle.json``, or other values for them.
    """
    rng = np.random.default_rng(seed)
    if values is None:
        values = rng.normal(loc=10.0, scale=2.0, size=(20, len(names)))
    cases = [f"case{number:03d}" for number in range(len(values))]
    manifest = {
        "id": id,
        "version": version,
        "title": "Tiny model for tests",
        "organ": "phantom",
        "modalities": list(modalities),
        "regions": ["tumour"],
        "spacing_mm": [1.0, 1.0, 2.0],
        "margin_mm": 8.0,
        "intensity": {
            modality: {
                "kind": "asinh",
                "center": 0.0,
                "scale": 100.0,
                "unit": "HU",
                "range": [-1024.0, 3071.0],
            }
            for modality in modalities
        },
        "extraction": {modality: {"binWidth": 25.0} for modality in modalities},
        "codec": {"kind": "haar"},
        "network": {"config": _network_config(names, modalities), "features": list(names)},
        "sampler": {"nodes": [1.0, 0.5], "eta": 1.0},
        "population": {
            modality: {"names": list(names), "cases": cases, "tensor": modality} for modality in modalities
        },
        "training": {"data": "random numbers"},
        "licence": "CC0-1.0",
        "scores": {"pearson": 0.0},
        **changes,
    }
    files = {
        "network.safetensors": _random_network(manifest, seed) if network else _two_arrays(rng),
        "population.safetensors": {modality: values.astype(np.float32) for modality in modalities},
    }
    return write_bundle(folder, manifest, files)


def _network_config(names: tuple[str, ...], modalities: tuple[str, ...]) -> dict[str, Any]:
    return {
        "features": len(names), "modalities": len(modalities), "widths": [4, 4, 8], "blocks": 1, "heads": 2, "token": 8,
        "embedding": 8,
    }  # fmt: skip


def _two_arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "network.weight": rng.normal(size=(16, 16)).astype(np.float32),
        "network.bias": np.zeros(16, np.float32),
    }


def _random_network(manifest: dict[str, Any], seed: int) -> dict[str, Any]:
    import torch

    from TumorSynthLib.texture.codec import make_codec
    from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig

    torch.manual_seed(seed)
    parts = {
        "network.": BridgeNetwork(NetworkConfig.from_dict(manifest["network"]["config"])),
        "codec.": make_codec(manifest["codec"]),
    }
    for parameter in parts["network."].parameters():
        if (
            not parameter.any()
        ):  # layers that start at zero would make the network draw nothing, whatever the seed
            parameter.data.normal_(0.0, 0.1)
    return {
        prefix + name: tensor.contiguous()
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }

"""The paper's baselines and an ablation, on this project's network, codec, data and conditioning.

gan         a conditional 3-D GAN (pix2pix, Ea-GAN): the bridge's network as generator, one evaluation from noise
ldm         latent diffusion: the same network, denoising from pure noise, the masked image as a condition; DDIM sampling
bridge      our bridge with the plain loss: what `gan` and `ldm` compare with at an equal number of steps
unordered   that bridge with the release's conditioner: tokens that don't know which feature they stand for

All of them start from the mean that is asked for, because it is in the masked image they see; none is guided to the asked
moments on its way, as the shipped model's draws are (the arm `unguided` is that model without). `train_baseline.py` makes
checkpoints, `load_baseline` opens one as an editor that `evaluate.py` uses beside the model's own.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.texture.bridge import FEW_STEP_NODES
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.context import IntensityMap, complete, masked, noise_cells
from TumorSynthLib.texture.generator import LEVEL, TextureModel, pick_device
from TumorSynthLib.texture.network import BridgeNetwork, FeatureTokens, NetworkConfig

KINDS = ("gan", "ldm", "bridge")
DDIM_STEPS = 50  # evaluations of the ldm; more change little
LAST_SIGNAL = 1e-3  # share of signal left at the noisy end, so that dividing by it stays finite


class UnorderedTokens(FeatureTokens):
    """Tokens as in the release: a feature's standardised value alone, the same map for all, and their mean.

    Exchanging two values changes nothing, so that the network can't know which feature was asked to be what.
    """

    def __init__(self, features: int, token: int, embedding: int, modalities: int = 1):
        super().__init__(features, token, embedding, modalities)
        self.identity = nn.Parameter(torch.randn(1, token) * 0.5)
        self.slope = nn.Parameter(torch.randn(1, token) * 0.5)
        self.missing = nn.Parameter(torch.zeros(1, token))
        self.pool = nn.Sequential(
            nn.Linear(token, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, embedding)
        )

    def forward(self, values, given, modality):
        g = given.to(values.dtype)
        v = torch.where(given, self.standardise(values, modality), torch.zeros_like(values))
        h = self.identity + v[..., None] * self.slope + (1 - g)[..., None] * self.missing
        tokens = h + self.mlp(h)
        return tokens, self.pool(tokens.mean(1))


def make_unordered(network: BridgeNetwork) -> BridgeNetwork:
    """The network with tokens that don't know their feature; scaling as it was."""
    old, c = network.tokens, network.config
    tokens = UnorderedTokens(c.features, c.token, c.embedding, len(old.center))
    tokens.set_scaling(old.center, old.scale, old.log)
    network.tokens = tokens.to(old.center.device)
    return network


def signal(t: torch.Tensor) -> torch.Tensor:
    """Share of signal (root of alpha bar) at diffusion time t in [0, 1], cosine schedule; noise has the rest of variance 1."""
    return torch.cos(t * math.pi / 2).clamp_min(LAST_SIGNAL)


def diffused(x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noisy latent at times t (B,)."""
    a = signal(t).view(-1, *([1] * (x0.ndim - 1)))
    return a * x0 + (1 - a**2).sqrt() * noise


class BaselineModel(TextureModel):
    """A `TextureModel` whose network is drawn from as its kind wants; everything around it is the library's."""

    kind = "gan"

    def draw(
        self, predict, x, hole, valid, features, modalities, times, eta, seeds, progress=None, around=None
    ):
        """x (1, 1, D, H, W) with the hole filled; as `TextureModel.draw`, `times` and `eta` are the bridge's and ignored."""
        x, (asked,), (seed,) = complete(x, hole, valid), features or [{}], seeds
        mean = self.intensity[modalities[0]].forward([asked.get(LEVEL, np.nan)])
        base = masked(x, hole, torch.as_tensor(mean).to(x.device))
        y, cells = self.codec.encode(base), noise_cells(hole) > 0
        known = self.codec.encode(torch.where(hole, base, x))
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(int(seed))).to(y.device)
        if self.kind == "gan":
            clean = predict(torch.where(cells, noise, known), y, 1.0)
        else:
            clean = self._denoise(predict, y, known, cells, noise, self._steps(times))
        image = self.codec.decode(torch.where(cells, clean, known))
        return torch.where(hole, image, x)

    def _steps(self, times) -> int:
        """The editor's own number means the baseline's; any other is what somebody asked for."""
        return DDIM_STEPS if tuple(times) == tuple(self.few_steps) else len(times)

    def _denoise(self, predict, y, known, cells, noise, steps: int) -> torch.Tensor:
        """DDIM without fresh noise, from pure noise to the clean latent."""
        state = clean = noise
        for k in range(steps):
            t, n = (torch.tensor([1 - j / steps]) for j in (k, k + 1))
            state = torch.where(cells, state, known)
            clean = torch.where(cells, predict(state, y, float(t)), known)
            a, b = (signal(v).item() for v in (t, n))
            left = (state - a * clean) / math.sqrt(1 - a * a)
            state = b * clean + math.sqrt(max(1 - b * b, 0.0)) * left
        return clean


class BaselineEditor(Editor):
    """The editor of a bundle, with a baseline in place of its network.

    :param budget: kind, steps and minutes of the baseline's training, for the report.
    """

    def __init__(self, bundle: Bundle, texture: TextureModel, identity: str, budget: dict):
        super().__init__(bundle)
        self.engine("bridge").texture = texture
        self.identity, self.budget = identity, budget


def name_of(config: dict) -> str:
    """Arm of a checkpoint."""
    return "unordered" if config["unordered"] else config["kind"]


def load_baseline(path: Path, bundle: Bundle, device: str = "auto") -> tuple[str, BaselineEditor]:
    """Arm and editor of a checkpoint of train_baseline.py.

    :raises ModelError: it was trained on another grid than the bundle's, or for other modalities.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(
            f"can't read the baseline {path} ({error.strerror}): give a checkpoint of train_baseline.py"
        ) from None
    config, codec = saved["config"], make_codec(saved["codec_config"])
    meta = config["meta"]
    if not np.allclose(meta["spacing"], bundle.spacing) or set(bundle.modalities) - set(meta["modalities"]):
        raise ModelError(
            f"{path} was trained at {meta['spacing']} mm on {meta['modalities']}, but {bundle.id} works at "
            f"{bundle.spacing} mm on {list(bundle.modalities)}; give the data's own baseline"
        )
    network = BridgeNetwork(NetworkConfig.from_dict(config["network"]))
    network = make_unordered(network) if config["unordered"] else network
    network.load_state_dict(saved["ema"])
    codec.load_state_dict(saved["codec"])
    known = {m: Intensity.of(None, m, bundle) for m in bundle.modalities}
    maps = {m: IntensityMap(*config["intensity"][m], i.limits, i.is_ct) for m, i in known.items()}
    where, bridge = pick_device(device), config["kind"] == "bridge"
    texture = (TextureModel if bridge else BaselineModel)(
        network.eval().to(where), codec.eval().to(where), tuple(config["names"]), tuple(meta["modalities"]),
        maps, tuple(meta["spacing"]), FEW_STEP_NODES, 1.0, device=where, guided=False, in_band=False,
        regions=tuple(r["name"] for r in meta.get("regions", [{"name": "tumour"}])),
    )  # fmt: skip
    if not bridge:
        texture.kind = config["kind"]
    identity = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    budget = {"steps": saved["step"], "batch": config["batch"], "minutes": round(saved["spent"] / 60, 1)}
    return name_of(config), BaselineEditor(bundle, texture, identity, budget)

"""Train a baseline on the same crops, codec, conditioning and network as train_texture.py (see baselines.py).

    one CPU core      python Training/train_baseline.py --kind gan --data runs/data/lidc --out runs/gan --steps 600 --threads 1
    one GPU           python Training/train_baseline.py --kind ldm --data runs/data/lidc --out runs/ldm --batch 32
    one node, 8 GPUs  torchrun --nproc-per-node 8 Training/train_baseline.py --kind gan --data runs/data/lidc --out runs/gan
    several nodes     torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
                      Training/train_baseline.py --kind gan --data runs/data/lidc --out runs/gan
    the release's conditioner: --kind bridge --unordered

For a fair table give all kinds the same --steps and --batch; `--kind bridge` trains our bridge with the plain loss.
The GAN's loss is pix2pix's with Ea-GAN's edges: L1 in the tumour + L1 of the Sobel edges + least-squares adversarial, whose
discriminator sees the image, its edges, the masked image, the mask and the features. The LDM predicts the clean latent (L1)
from noise at uniform times. The same command goes on from the last checkpoint. Losses and pictures go where those of
train_texture.py go. Nothing stops early here, as the budgets would differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import monitor
import torch
from baselines import KINDS, BaselineModel, diffused, make_unordered
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from sampling import Sampler, Steps, moved
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from train_texture import (
    BACKGROUND_WEIGHT,
    averaged,
    build,
    conditioning,
    configuration,
    exchange,
    intensity_maps,
    loss_of,
)

from TumorSynthLib.texture.bridge import FEW_STEP_NODES, Bridge
from TumorSynthLib.texture.context import complete, masked, noise_cells
from TumorSynthLib.texture.generator import TextureModel

EDGE_WEIGHT = 1.0  # of the L1 of edges next to the L1 of intensities, as in Ea-GAN
ADVERSARIAL_WEIGHT = 0.01  # pix2pix's 1 : 100
FEATURE_CHANNELS = 8  # of the features, spread over the discriminator's input


def sobel(x: torch.Tensor) -> torch.Tensor:
    """Magnitude (B, 1, D, H, W) of the 3-D Sobel gradient of x."""
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0]) / 2
    kernels = []
    for axis in range(3):
        a, b, c = (slope if k == axis else smooth for k in range(3))
        kernels.append(a[:, None, None] * b[None, :, None] * c[None, None])
    padded = F.pad(x, (1,) * 6, mode="replicate")
    gradient = F.conv3d(padded, torch.stack(kernels)[:, None].to(x))
    return (gradient.square().sum(1, keepdim=True) + 1e-6).sqrt()


class Critic(nn.Module):
    """Patch logits of (image, its edges, masked image, mask) with the features spread over the volume."""

    def __init__(self, features: int, crop: tuple[int, ...], width: int = 16):
        super().__init__()
        self.features = nn.Linear(2 * features, FEATURE_CHANNELS)
        layers = 2 if min(crop) >= 12 else 1
        self.patches = PatchDiscriminator(
            3, width, 4 + FEATURE_CHANNELS, num_layers_d=layers, norm="INSTANCE"
        )

    def forward(self, image, start, hole, told):
        spread = self.features(told)[:, :, None, None, None].expand(-1, -1, *image.shape[2:])
        return self.patches(torch.cat([image, sobel(image), start, hole.to(image.dtype), spread], 1))[
            -1
        ].float()


def prepared(codec, batch: dict) -> dict:
    """What every loss starts from: clean and masked image, their latents, cells to draw, noise."""
    hole = batch["hole"]
    x = complete(batch["x"], hole, batch["valid"])
    start = masked(x, hole, batch["level"])
    x0, y = codec.encode(x), codec.encode(start)
    draws = [torch.Generator().manual_seed(s) for s in batch["seed"].tolist()]
    noise = torch.cat([torch.randn(1, *x0.shape[1:], generator=g) for g in draws]).to(x.device)
    t = torch.cat([torch.rand(1, generator=g) for g in draws]).to(x.device)
    return {"x": x, "start": start, "x0": x0, "y": y, "cells": noise_cells(hole), "noise": noise, "t": t}


def guess(network, batch: dict, state, y, times):
    told = (batch[k] for k in ("modality", "values", "given", "removal", "region"))
    return network(state, y, batch["conditions"], times, *told).float()


def denoising_loss(network, codec, batch: dict) -> torch.Tensor:
    """Region L1 between predicted and true clean latent from noise at a uniform time; weights as the bridge's."""
    with torch.no_grad():
        p = prepared(codec, batch)
        noisy = torch.where(p["cells"] > 0, diffused(p["x0"], p["t"], p["noise"]), p["x0"])
    weight = torch.ones(1, codec.channels, 1, 1, 1, device=p["x"].device)
    if codec.lossless:
        weight[:, 0] = BACKGROUND_WEIGHT["low"]
    error = (guess(network, batch, noisy, p["y"], p["t"]) - p["x0"]).abs() * weight * p["cells"]
    return (error.sum((1, 2, 3, 4)) / (p["cells"].sum((1, 2, 3, 4)) * weight.sum()).clamp_min(1)).mean()


class Gan:
    """Discriminator, its optimiser, and the two losses of a step."""

    def __init__(self, run: common.Run, network, crop: tuple[int, ...], lr: float, saved: dict | None):
        self.run, self.network = run, network
        self.critic = Critic(network.config.features, crop).to(run.device)
        self.optimiser = torch.optim.AdamW(self.critic.parameters(), lr, betas=(0.5, 0.9))
        if saved:
            self.critic.load_state_dict(saved["critic"])
            self.optimiser.load_state_dict(saved["judge"])
        self.model = DistributedDataParallel(self.critic) if run.world > 1 else self.critic
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")
        self.seen: list = []

    def told(self, batch: dict) -> torch.Tensor:
        """Standardised features and which were given (B, 2F); none in a removal."""
        given = batch["given"] & ~batch["removal"][:, None]
        row = self.network.scaling_row(batch["modality"], batch["region"])
        values = self.network.tokens.standardise(batch["values"], row)
        return torch.cat([torch.where(given, values, torch.zeros_like(values)), given.to(values.dtype)], 1)

    def generator_loss(self, network, codec, batch: dict) -> torch.Tensor:
        with torch.no_grad():
            p = prepared(codec, batch)
        state = torch.where(p["cells"] > 0, p["noise"], p["x0"])
        clean = guess(network, batch, state, p["y"], torch.ones_like(p["t"]))
        hole = batch["hole"]
        made = torch.where(hole, codec.decode(torch.where(p["cells"] > 0, clean, p["x0"])), p["x"])
        self.seen.append((made.detach(), p["x"], p["start"], hole, self.told(batch)))
        inside = hole.sum((1, 2, 3, 4)).clamp_min(1)
        pixels = ((made - p["x"]).abs() * hole).sum((1, 2, 3, 4)) / inside
        edges = ((sobel(made) - sobel(p["x"])).abs() * hole).sum((1, 2, 3, 4)) / inside
        self.critic.requires_grad_(False)
        fooled = self.adversarial(self.critic(made, p["start"], hole, self.told(batch)), True, False)
        self.critic.requires_grad_(True)
        return (pixels + EDGE_WEIGHT * edges).mean() + ADVERSARIAL_WEIGHT * fooled

    def judge(self, lr: float) -> float:
        """One step of the discriminator on what the generator has made in this step."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        value, parts = 0.0, len(self.seen)
        self.optimiser.zero_grad(set_to_none=True)
        for k, (made, x, start, hole, told) in enumerate(self.seen):
            with exchange(self.model, k + 1 == parts):
                both = self.model(torch.cat([made, x]), *(torch.cat([v, v]) for v in (start, hole, told)))
                false, true = both.chunk(2)
                loss = (self.adversarial(false, False, True) + self.adversarial(true, True, True)) / 2 / parts
                loss.backward()
            value += float(loss.detach())
        self.seen.clear()
        nn.utils.clip_grad_norm_(self.critic.parameters(), 1.0)
        self.optimiser.step()
        return value


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kind", choices=KINDS, required=True)
    p.add_argument(
        "--unordered", action="store_true", help="tokens without identity, as in the paper's release"
    )
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--codec", default=None, help="a codec checkpoint of train_codec.py; default: Haar")
    p.add_argument("--steps", type=int, default=100_000)
    p.add_argument("--batch", type=int, default=6)
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--lr", type=float, default=1.2e-3)
    p.add_argument("--widths", type=int, nargs=3, default=[32, 64, 96])
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int)
    p.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that make batches ahead: a GPU waits for them otherwise",
    )
    p.add_argument("--save-every", type=int, default=50)
    p.add_argument("--samples-every", type=int, default=0, help="steps between sample pictures; 0: none")
    p.add_argument("--tensorboard", action="store_true", help="write losses and pictures for TensorBoard too")
    return p.parse_args()


class Trainer:
    """Network, codec, optimisers and their state."""

    def __init__(self, a):
        self.a, self.run, self.data = a, common.Run(a.out, a.threads), common.Prepared(a.data)
        saved = self.run.load()
        self.names = saved["config"]["names"] if saved else conditioning(self.data.meta["names"])
        self.maps = intensity_maps(self.data)
        self.sampler = Sampler(self.data, [self.data.meta["names"].index(n) for n in self.names], self.maps)
        torch.manual_seed(a.seed)
        codec, self.codec_config = common.open_codec(a.codec)
        widths = saved["config"]["network"]["widths"] if saved else a.widths
        self.codec, self.network = build(self.run, self.data, self.sampler, codec, widths)
        self.network = make_unordered(self.network) if a.unordered else self.network
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), a.lr, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.ema, self.step, self.spent = common.Ema(self.network), 0, 0.0
        self.watch = monitor.Watch(self.run, a.tensorboard, (saved or {}).get("average"))
        if saved:
            self._resume(saved)
        crop = self.data.images.shape[1:]
        self.gan = Gan(self.run, self.network, crop, a.lr / 3, saved) if a.kind == "gan" else None
        world = self.run.world > 1
        self.model = (
            DistributedDataParallel(self.network, find_unused_parameters=True) if world else self.network
        )

    def _resume(self, saved: dict):
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.codec.load_state_dict(saved["codec"])
        self.ema.shadow = {k: v.to(self.run.device) for k, v in saved["ema"].items()}
        self.ema.count = self.step = saved["step"]
        self.spent = saved["spent"]

    def update(self, batches: list[dict]):
        """One step, of one batch or of several that add up."""
        a = self.a
        lr = common.rate(a, self.step / a.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        value = 0.0
        self.optimiser.zero_grad(set_to_none=True)
        for k, batch in enumerate(batches):
            batch = moved(batch, self.run.device)
            with exchange(self.model, k + 1 == len(batches)):
                with self.run.autocast():
                    loss = self._loss(batch) / len(batches)
                loss.backward()
            value += float(loss.detach())
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.ema.update(self.network)
        self.step += 1
        self.watch.note({"loss": value} | ({"critic": self.gan.judge(lr / 3)} if self.gan else {}))

    def _loss(self, batch: dict) -> torch.Tensor:
        if self.gan:
            return self.gan.generator_loss(self.model, self.codec, batch)
        if self.a.kind == "ldm":
            return denoising_loss(self.model, self.codec, batch)
        return loss_of(self.model, self.codec, batch, Bridge()).mean()

    def report(self):
        """What is due after a step: log, pictures, checkpoint."""
        a, step = self.a, self.step
        if step % monitor.EVERY == 0 or step == a.steps:
            self.watch.report(step, step / a.steps, self.spent + self.run.elapsed())
        if a.samples_every and step % a.samples_every == 0 and self.run.first:
            self._picture()
        if step % a.save_every == 0:
            self.save()

    def _picture(self):
        meta, path = self.data.meta, self.run.folder / "samples" / f"{self.step:07d}.png"
        bridge = self.a.kind == "bridge"
        model = (TextureModel if bridge else BaselineModel)(
            averaged(self.network, self.ema), self.codec, tuple(self.names), tuple(meta["modalities"]),
            dict(zip(meta["modalities"], self.maps)), tuple(meta["spacing"]), FEW_STEP_NODES, device=self.run.device,
            regions=tuple(self.data.regions), guided=False, in_band=False,
        )  # fmt: skip
        if not bridge:
            model.kind = self.a.kind
        self.watch.image(self.step, monitor.picture(path, model, self.sampler, self.names, (1, 2)))

    def save(self):
        a = self.a
        config = configuration(self.network, self.names, self.data, self.maps)
        config |= {"kind": a.kind, "unordered": a.unordered, "batch": a.batch * a.accumulate * self.run.world}
        state = {
            "network": self.network.state_dict(), "ema": self.ema.shadow, "optimiser": self.optimiser.state_dict(),
            "codec": self.codec.state_dict(), "codec_config": self.codec_config, "config": config,
            "step": self.step, "spent": self.spent + self.run.elapsed(), "average": self.watch.means(),
        }  # fmt: skip
        if self.gan:
            state |= {"critic": self.gan.critic.state_dict(), "judge": self.gan.optimiser.state_dict()}
        self.run.save(state)


def main():
    a = parse()
    trainer = Trainer(a)
    steps = Steps(trainer.sampler, None, a, trainer.run.rank, trainer.run.world)
    for items in steps.stream(trainer.step, a.steps, a.workers):
        trainer.update(items["batches"])
        trainer.report()
    trainer.save()
    trainer.watch.close()
    trainer.run.close()


if __name__ == "__main__":
    main()

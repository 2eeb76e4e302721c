"""Train the shape generator: a conditional 3-D GAN on prepared tumour fields (prepare_shapes.py).

    one CPU core         python Training/train_shape.py --data runs/shapes --out runs/shape --minutes 60 --threads 1
    one GPU              python Training/train_shape.py --data runs/shapes --out runs/shape --steps 100000 --batch 64
    one node, 8 GPUs     torchrun --nproc-per-node 8 Training/train_shape.py --data runs/shapes --out runs/shape --batch 32
    several nodes        torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
                         Training/train_shape.py --data runs/shapes --out runs/shape --batch 32

The discriminator has a hinge loss on real fields with their features against drawn ones and against real ones with another
tumour's features. Drawn fields also have to show the features asked for (differentiable surface, diameters and axes), and
others for another code. So that
a CPU gets somewhere in an hour, half of each batch is drawn from codes of an encoder that has seen the real field (a
variational autoencoder); the GAN joins when a fifth of the budget is used. `--batch` is per process. The same command goes on
from the last checkpoint; `export_shape.py` puts the generator into a bundle.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import torch
from shape_networks import Discriminator, Encoder, soft_features
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from TumorSynthLib.shape.coordinates import BASE, DX, DY, DZ, NAMES, short
from TumorSynthLib.shape.network import VALUES, Generator, ShapeConfig, free_of_size

LOSSES = {"field": 5.0, "code": 4e-3, "features": 1.0, "variety": 2.0, "adversarial": 0.15}
JOINS = 0.2  # share of the budget after which the GAN joins, and over which its weight then rises
NOISE = 0.04  # on fields that the discriminator sees, so that it doesn't count quantisation steps
VARIETY = 0.3  # mean difference of two fields for the same features, of what two codes should differ by
SPREAD = 0.1  # logarithm: an error of the soft features that costs 1
#: Columns of the 18 values whose token tells a soft feature (surface, diameters, axes).
TOLD = [[short(n) for n in NAMES].index(n) for n in BASE if not n.endswith("Volume")]


@dataclass
class Shapes:
    """Prepared fields; a batch's items are the same however many processes share it."""

    folder: Path

    def __post_init__(self):
        self.meta = json.loads((self.folder / "meta.json").read_text())
        self.fields = np.load(self.folder / "fields.npy", mmap_mode="r")
        self.logs = np.load(self.folder / "logs.npy")
        rows = json.loads((self.folder / "rows.json").read_text())
        self.groups = tuple(self.meta["groups"])
        self.group = np.array([self.groups.index(r["group"]) for r in rows])
        self.usable = np.isfinite(self.logs).all(1)

    def scaling(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (groups, 18) of the values."""
        values = free_of_size(self.logs)
        parts = [values[self.usable & (self.group == g)] for g in range(len(self.groups))]
        mean = np.stack([p.mean(0) for p in parts])
        return torch.from_numpy(mean).float(), torch.from_numpy(
            np.stack([p.std(0) + 0.01 for p in parts])
        ).float()

    def batch(self, size: int, step: int, first: int, seed: int) -> dict[str, torch.Tensor]:
        items = [self._draw(np.random.default_rng([seed, step, k])) for k in range(first, first + size)]
        return {k: torch.from_numpy(np.stack([i[k] for i in items])) for k in items[0]}

    def _draw(self, rng) -> dict[str, np.ndarray]:
        """A tumour of a group at random, in one of the 48 symmetries of the cube: they permute the planar diameters."""
        g = int(rng.integers(len(self.groups)))
        i = int(rng.choice(np.flatnonzero(self.usable & (self.group == g))))
        order = rng.permutation(3)
        field = np.transpose(self.fields[i], order)
        field = np.flip(field, tuple(a for a in range(3) if rng.random() < 0.5))
        logs = self.logs[i].copy()
        logs[[DZ, DY, DX]] = logs[np.array([DZ, DY, DX])[order]]
        share = 1.0 if rng.random() < 0.7 else rng.uniform(0.0, 0.8)
        return {
            "field": field[None].astype(np.float32) / 127,
            "values": free_of_size(logs[None])[0].astype(np.float32),
            "given": rng.random(VALUES) < share,
            "group": np.int64(g),
            "code": rng.normal(size=2 * 64).astype(np.float32),
        }


class Painter(torch.nn.Module):
    """Generator and encoder as one module, for gradients to be shared between processes in one go."""

    def __init__(self, config: ShapeConfig):
        super().__init__()
        self.generator, self.encoder = Generator(config), Encoder(config)

    def forward(self, b: dict[str, torch.Tensor]):
        """The real fields again (B), as many new ones, and the price of the code."""
        mean, log_variance = self.encoder(b["field"])
        size = mean.shape[1]
        code = mean + (0.5 * log_variance).exp() * b["code"][:, :size]
        price = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        codes = torch.cat([code, b["code"][:, 64 : 64 + size]])
        twice = [torch.cat([b[k], b[k]]) for k in ("values", "given", "group")]
        again, new = self.generator(codes, *twice).chunk(2)
        return again, new, price


def generator_losses(again, new, price, b, clip: float) -> dict[str, torch.Tensor]:
    """All but the adversarial one."""
    near = 1.0 + 4.0 * (b["field"].abs() < 0.6)
    with torch.no_grad():
        asked = soft_features(clip * b["field"])
    off = (soft_features(clip * new) - asked).abs().clamp_max(10 * SPREAD) * b["given"][:, TOLD]
    apart = ((again.detach() - new).abs() * near).mean((1, 2, 3, 4)) / near.mean((1, 2, 3, 4))
    return {
        "field": ((again - b["field"]).abs() * near).mean(), "code": price, "features": off.mean() / SPREAD,
        "variety": F.relu(VARIETY - apart).mean(),
    }  # fmt: skip


def judge(discriminator, field, b, *shifts: int) -> list[torch.Tensor]:
    """Logits of fields for the features of the batch's items that many places further on."""
    noisy = field + NOISE * torch.randn_like(field)
    return discriminator(
        noisy, [[torch.roll(b[k], s, 0) for k in ("values", "given", "group")] for s in shifts]
    )


def hinge(discriminator, new, b) -> torch.Tensor:
    """Real with its features up; drawn, and real with another's features, down."""
    real, other = judge(discriminator, b["field"], b, 0, 1)
    (drawn,) = judge(discriminator, new.detach(), b, 0)
    return F.relu(1 - real).mean() + 0.5 * (F.relu(1 + drawn).mean() + F.relu(1 + other).mean())


@torch.no_grad()
def agreement(generator, shapes: Shapes, clip: float, count: int = 96) -> float:
    """Median correlation of asked and drawn soft features, over examples at random."""
    b = shapes.batch(count, 10**6, 0, 1)
    device = next(generator.parameters()).device
    size = generator.config.code
    given = torch.ones_like(b["given"])
    args = (t.to(device) for t in (b["code"][:, :size], b["values"], given, b["group"]))
    new = soft_features(clip * generator(*args)).cpu()
    real = soft_features(clip * b["field"])
    return float(np.median([np.corrcoef(real[:, k], new[:, k])[0, 1] for k in range(real.shape[1])]))


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--steps", type=int, default=100_000)
    p.add_argument("--minutes", type=float, help="stop after this many minutes in all, instead of --steps")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--widths", type=int, nargs=3, default=[64, 48, 16])
    p.add_argument("--save-every", type=int, default=100)
    p.add_argument("--threads", type=int)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args(arguments)


def rate(a, done: float) -> float:
    """Cosine from lr to lr / 50 over the share of the budget that is done, after a short warm-up."""
    return float(a.lr * min(1.0, done / 0.02 + 0.02) * (0.51 + 0.49 * np.cos(np.pi * min(done, 1.0))))


class Trainer:
    """Networks, optimisers and what a checkpoint holds."""

    def __init__(self, a, run: common.Run, shapes: Shapes):
        saved = run.load()
        torch.manual_seed(a.seed)
        made = ShapeConfig(groups=shapes.groups, widths=tuple(a.widths), clip=shapes.meta["clip"])
        config = ShapeConfig.from_dict(saved["config"]) if saved else made
        self.config, self.run = config, run
        self.painter, self.judge = Painter(config), Discriminator(config)
        for tokens in (self.painter.generator.tokens, self.judge.tokens):
            mean, std = shapes.scaling()
            tokens.mean.copy_(mean)
            tokens.std.copy_(std)
        self.painter.to(run.device, memory_format=torch.channels_last_3d)
        self.judge.to(run.device, memory_format=torch.channels_last_3d)
        self.optimisers = [
            torch.optim.Adam(m.parameters(), a.lr, betas=(0.5, 0.99)) for m in (self.painter, self.judge)
        ]
        self.ema, self.step, self.spent = common.Ema(self.painter.generator), 0, 0.0
        if saved:
            self._restore(saved)
        wrap = (
            (lambda m: DistributedDataParallel(m, find_unused_parameters=True))
            if run.world > 1
            else (lambda m: m)
        )
        self.parallel, self.parallel_judge = wrap(self.painter), wrap(self.judge)

    def _restore(self, saved: dict):
        self.painter.load_state_dict(saved["painter"])
        self.judge.load_state_dict(saved["judge"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        self.ema.shadow = {k: v.to(self.run.device) for k, v in saved["ema"].items()}
        self.ema.count, self.step, self.spent = saved["step"], saved["step"], saved["spent"]

    def state(self, used: float) -> dict:
        return {
            "painter": self.painter.state_dict(), "judge": self.judge.state_dict(), "ema": self.ema.shadow,
            "optimisers": [o.state_dict() for o in self.optimisers], "config": self.config.as_dict(),
            "step": self.step, "spent": used,
        }  # fmt: skip

    def advance(self, b: dict, lr: float, done: float) -> dict[str, float]:
        """One step of the generator with its encoder, and one of the discriminator once it takes part."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
        with self.run.autocast():
            again, new, price = self.parallel(b)
        again, new = again.float(), new.float()
        losses = generator_losses(again, new, price, b, self.config.clip)
        playing = done > JOINS * 0.75
        if playing:
            rise = float(np.clip((done - JOINS) / JOINS, 0, 1))
            losses["adversarial"] = -rise * judge(self.judge, new, b, 0)[0].mean()
        self.optimisers[0].zero_grad(set_to_none=True)
        sum(LOSSES[k] * v for k, v in losses.items()).backward()
        torch.nn.utils.clip_grad_norm_(self.painter.parameters(), 2.0)
        self.optimisers[0].step()
        self.ema.update(self.painter.generator)
        if playing:
            self.optimisers[1].zero_grad(set_to_none=True)
            losses["judge"] = hinge(self.parallel_judge, new, b)
            losses["judge"].backward()
            self.optimisers[1].step()
        self.step += 1
        return {k: float(v.detach()) for k, v in losses.items()}


def main():
    a = parse()
    run, shapes = common.Run(a.out, a.threads), Shapes(a.data)
    trainer = Trainer(a, run, shapes)
    average: dict = {}
    while True:
        used = trainer.spent + run.elapsed()
        done = used / (60 * a.minutes) if a.minutes else trainer.step / a.steps
        if done >= 1 or trainer.step >= a.steps:
            break
        b = shapes.batch(a.batch, trainer.step, run.rank * a.batch, a.seed)
        b = {k: v.to(run.device) for k, v in b.items()}
        losses = trainer.advance(b, rate(a, done), done)
        average = {k: 0.95 * average.get(k, v) + 0.05 * v for k, v in losses.items()}
        if trainer.step % 20 == 0:
            run.log(
                step=trainer.step, done=done, seconds=used, **{k: run.mean(v) for k, v in average.items()}
            )
        if trainer.step % 200 == 0 and run.first:
            sketch = Generator(trainer.config).to(run.device)
            sketch.load_state_dict(trainer.ema.shadow)
            run.log(step=trainer.step, agreement=agreement(sketch.eval(), shapes, trainer.config.clip))
        if trainer.step % a.save_every == 0:
            run.save(trainer.state(used))
    run.save(trainer.state(used))
    run.close()


if __name__ == "__main__":
    main()

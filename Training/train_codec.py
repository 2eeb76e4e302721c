"""Train the paper's compression, a VQ-GAN at factor 2 (or 4), on prepared crops, and measure what survives its round trip.

    one CPU core         python Training/train_codec.py --data runs/data/sts --out runs/sts_codec --minutes 30 --threads 1
    one GPU              python Training/train_codec.py --data runs/data/sts --out runs/sts_codec --steps 20000 --batch 16
    one node, 8 GPUs     torchrun --nproc-per-node 8 Training/train_codec.py --data runs/data/sts --out runs/sts_codec --batch 16
    several nodes        torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
                         Training/train_codec.py --data runs/data/sts --out runs/sts_codec --batch 16

The loss is the paper's (section 3.2): L1 + 10 x L1 inside the tumour + 0.001 x adversarial. Its perceptual term (also
0.001) is left out: it needs the weights of another network. Its codebook term is not needed: finite scalar quantisation
has no codebook to learn. `--batch` is per process. The same command goes on from the last checkpoint.
Losses go to log.jsonl, on a terminal to a progress bar, with `--tensorboard` to TensorBoard; `--samples-every` writes pictures of
held-out tumours before and after.

At the end the latents' mean and deviation are set, and crops of patients that were held out go through the codec: PSNR
inside the tumour, and for each class of features the concordance between the crop's and its reconstruction's, next to
the Haar codec's, which loses nothing. `--measure` does only that. The checkpoint is what train_texture.py's --codec takes (at
factor 2), and what `evaluate.py codec` puts into one table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import common
import monitor
import numpy as np
import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from train_texture import exchange, intensity_maps

from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.context import IntensityMap

TUMOUR_WEIGHT = 10.0  # the paper's release: L1 inside the tumour counts this much more
ADVERSARIAL_WEIGHT = 0.001  # the paper's
ADVERSARIAL_FROM = (
    0.3  # share of the budget after which the discriminator takes part: before, blur is all it sees
)
HELD_OUT = 10  # every tenth patient is kept for the measurement


@dataclass
class Crops:
    """Draws batches of crops and tumour masks; the k-th crop of a step is the same however processes share the batch."""

    data: common.Prepared
    maps: list[IntensityMap]

    def __post_init__(self):
        owner = [common.patient_of(r["patient"]) for r in self.data.rows]
        patients = sorted(set(owner))
        held = set(patients[HELD_OUT // 2 :: HELD_OUT])
        out = np.array([p in held for p in owner])
        kinds = np.array([r["kind"] for r in self.data.rows])
        self.patients, self.held_patients = len(patients), len(held)
        self.training = np.flatnonzero(~out)
        self.held = np.flatnonzero(out & (kinds == "real"))
        tumours = np.flatnonzero(~out & (kinds != "context"))
        self.tumours = tumours

    def crop(self, i: int, rng: np.random.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mapped crop and tumour mask, each (1, 1, D, H, W); turned and flipped with `rng`."""
        image, mask = np.asarray(self.data.images[i]), (self.data.labels[i] & 1) > 0
        if rng is not None:
            turns, axes = int(rng.integers(4)), tuple(a for a in range(3) if rng.random() < 0.5)
            image, mask = (np.flip(np.rot90(a, turns, (1, 2)), axes) for a in (image, mask))
        mapped = self.maps[self.data.modality[i]].forward(np.ascontiguousarray(image))
        return torch.from_numpy(mapped)[None, None], torch.from_numpy(np.ascontiguousarray(mask))[None, None]

    def batch(self, size: int, step: int, first: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops number first ... first + size - 1 of the step's batch."""
        pairs = []
        for k in range(first, first + size):
            rng = np.random.default_rng([seed, step, k])
            pool = self.tumours if rng.random() < 0.8 else self.training
            pairs.append(self.crop(int(rng.choice(pool)), rng))
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


class Reconstruction(nn.Module):
    """The codec as one forward pass, which DistributedDataParallel needs."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.codec.reconstruct(x)


def discriminator(channels: int, crop: tuple[int, ...]) -> nn.Module:
    """Judges patches of 22 voxels (16 in thin crops); instance norm, as crops of a step differ in level."""
    return PatchDiscriminator(3, channels, 1, num_layers_d=2 if min(crop) >= 12 else 1, norm="INSTANCE")


def reconstruction_loss(made: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over items of L1 over the crop plus `TUMOUR_WEIGHT` x L1 over the tumour's voxels; tensors (B, 1, D, H, W)."""
    error, each = (made.float() - x).abs(), (1, 2, 3, 4)
    inside = (error * mask).sum(each) / mask.sum(each).clamp_min(1)
    return error.mean() + TUMOUR_WEIGHT * inside.mean()


@torch.no_grad()
def standardise(codec: nn.Module, crops: Crops, count: int = 200):
    """Set the latents' mean and std per channel, over tumour cells of training crops."""
    rng, cells = np.random.default_rng(0), []
    device = codec.mean.device
    for i in rng.choice(crops.tumours, min(count, len(crops.tumours)), replace=False):
        x, mask = crops.crop(int(i))
        touched = nn.functional.max_pool3d(mask.float(), codec.factor)[0, 0] > 0
        cells.append(codec.raw(x.to(device))[0][:, touched.to(device)])
    z = torch.cat(cells, 1)
    codec.mean.copy_(z.mean(1))
    codec.std.copy_(z.std(1).clamp_min(1e-4))


def concordance(a: np.ndarray, b: np.ndarray) -> float:
    """Lin's concordance coefficient of two vectors: 1 only where they are equal."""
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(2 * np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else 1.0


@torch.no_grad()
def reconstructed(codec: nn.Module, crops: Crops, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Intensities (D, H, W) of crop i after encode and decode, and its tumour mask."""
    x, mask = crops.crop(i)
    made = codec.decode(codec.encode(x.to(codec.mean.device)))[0, 0].float().cpu().numpy()
    return crops.maps[crops.data.modality[i]].inverse(made), mask[0, 0].numpy()


def picture(path: Path, codec: nn.Module, crops: Crops) -> np.ndarray | None:
    """Write a picture of fixed held-out tumours before and after the codec; returns it as (H, W, 3)."""

    def images(i: int) -> tuple[list[np.ndarray], np.ndarray]:
        made, mask = reconstructed(codec, crops, i)
        return [np.asarray(crops.data.images[i], np.float32), made], mask

    rows = monitor.shown(crops.held if len(crops.held) else crops.tumours)
    return monitor.sheet(path, crops.data, rows, images, ("after the codec",))


def round_trip(codec: nn.Module, crops: Crops, count: int, measured=extract) -> dict:
    """What held-out tumours look like after encode and decode; `measured` extracts features as `extract` does.

    PSNR in dB over the tumour's voxels, median over crops; its peak is the spread between the 1st and 99th percentile of
    the modality's held-out crops. Concordance of each feature across crops, and per class the median and the worst.
    """
    rng = np.random.default_rng(0)
    chosen = rng.choice(crops.held, min(count, len(crops.held)), replace=False)
    data, settings = crops.data, Settings(binWidth=crops.data.meta["extraction"]["binWidth"])
    peak = {
        m: np.ptp(np.percentile(data.images[chosen[data.modality[chosen] == m]], [1, 99]))
        for m in set(data.modality[chosen])
    }
    before: list = []
    after: list = []
    psnr = {m: [] for m in peak}
    for i in map(int, chosen):
        back, mask = reconstructed(codec, crops, i)
        back, m = np.rint(back).astype(np.float32), int(data.modality[i])  # images hold integers
        image = data.images[i].astype(np.float32)
        error = float(np.mean((back - image)[mask] ** 2))
        psnr[m].append(20 * np.log10(peak[m]) - 10 * np.log10(max(error, 1e-12)))
        for values, found in ((image, before), (back, after)):
            features = measured(values, mask, tuple(data.meta["spacing"]), settings, TEXTURE_CLASSES)
            found.append([features[n] for n in data.meta["names"]])
    kept = {
        n: concordance(a, b) for n, a, b in zip(data.meta["names"], np.array(before).T, np.array(after).T)
    }
    return {
        "crops": len(chosen),
        "psnr": {data.meta["modalities"][m]: round(float(np.median(v)), 2) for m, v in psnr.items()},
        "peak": {data.meta["modalities"][m]: float(v) for m, v in peak.items()},
        "concordance": {c: _class_summary(kept, c) for c in TEXTURE_CLASSES},
        "each": {n: round(float(v), 4) for n, v in kept.items()},
    }


def _class_summary(kept: dict[str, float], cls: str) -> dict:
    mine = {n: v for n, v in kept.items() if n.startswith(f"original_{cls}_")}
    worst = min(mine, key=mine.get)
    return {
        "median": round(float(np.median(list(mine.values()))), 4),
        "worst": round(mine[worst], 4),
        "feature": worst,
    }


def measure(codec: nn.Module, crops: Crops, count: int, run: common.Run):
    """Print the round trip of the codec and of Haar, and write both to round_trip.json."""
    if not run.first or not len(crops.held):
        return
    table = {
        "vqgan": round_trip(codec.eval(), crops, count),
        "haar": round_trip(make_codec({"kind": "haar"}), crops, count),
    }
    (run.folder / "round_trip.json").write_text(json.dumps(table, indent=1))
    print(
        f"round trip of {table['vqgan']['crops']} crops of {crops.held_patients} patients that were held out"
    )
    for name, row in table.items():
        print(f"  {name:6s} PSNR in the tumour (dB): {row['psnr']}, peak {row['peak']}")
        for cls, found in row["concordance"].items():
            print(
                f"         {cls:10s} concordance median {found['median']:.4f}, worst {found['worst']:.4f} {found['feature']}"
            )


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipe", type=Path, help="YAML file with these options, under `train_codec`")
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--steps", type=int, default=20_000)
    p.add_argument("--minutes", type=float, help="stop by the clock, counted over all resumed runs")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--width", type=int, default=32, help="channels of the encoder and decoder")
    p.add_argument(
        "--levels",
        type=int,
        nargs="+",
        default=[33, 33, 33, 33],
        help="quantisation levels of each latent channel",
    )
    p.add_argument(
        "--factor", type=int, choices=(2, 4), default=2, help="compression per axis; 4 only to compare"
    )
    p.add_argument("--critic", type=int, default=16, help="channels of the discriminator; 0 for none")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int)
    p.add_argument("--save-every", type=int, default=100)
    p.add_argument("--samples-every", type=int, default=0, help="steps between sample pictures; 0: none")
    p.add_argument("--tensorboard", action="store_true", help="write losses and pictures for TensorBoard too")
    p.add_argument("--crops", type=int, default=200, help="held-out crops to measure")
    p.add_argument("--measure", action="store_true", help="only measure the last checkpoint")
    return common.parse(p, "train_codec")


class Trainer:
    """Codec, discriminator and their optimisers."""

    def __init__(self, a, run: common.Run, saved: dict | None, crop: tuple[int, ...]):
        self.a, self.run = a, run
        self.config = (
            saved["config"]
            if saved
            else {"kind": "vqgan", "width": a.width, "levels": list(a.levels), "factor": a.factor}
        )
        self.codec = make_codec(self.config).to(run.device)
        self.critic = discriminator(a.critic, crop).to(run.device) if a.critic else None
        self.optimiser = torch.optim.AdamW(
            self.codec.parameters(), a.lr, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.judge = (
            torch.optim.AdamW(self.critic.parameters(), a.lr, betas=(0.5, 0.9)) if self.critic else None
        )
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")
        if saved:
            self.codec.load_state_dict(saved["codec"])
            self.optimiser.load_state_dict(saved["optimiser"])
            if self.critic and saved["critic"]:
                self.critic.load_state_dict(saved["critic"])
                self.judge.load_state_dict(saved["judge"])
        whole = Reconstruction(self.codec)
        self.model, self.model_critic = whole, self.critic
        if run.world > 1:
            self.model = DistributedDataParallel(whole)
            self.model_critic = DistributedDataParallel(self.critic) if self.critic else None

    def step(self, batches: list, done: float) -> dict[str, float]:
        """One update from the micro-batches; returns the reconstruction's loss, and the discriminator's once it takes part."""
        joined = self.critic is not None and done >= ADVERSARIAL_FROM
        for optimiser in filter(None, (self.optimiser, self.judge)):
            for group in optimiser.param_groups:
                group["lr"] = common.rate(self.a, done)
        made, value = [], 0.0
        if joined:
            self.critic.requires_grad_(False)
        for k, (x, mask) in enumerate(batches):
            with exchange(self.model, k + 1 == len(batches)), self.run.autocast():
                out = self.model(x)
                loss = reconstruction_loss(out, x, mask)
                value += float(loss.detach()) / len(batches)
                if joined:
                    fooled = self.adversarial(self.critic(out)[-1].float(), True, False)
                    loss = loss + ADVERSARIAL_WEIGHT * fooled
                (loss / len(batches)).backward()
            made.append(out.detach())
        self._update(self.optimiser, self.codec)
        if not joined:
            return {"loss": value}
        self.critic.requires_grad_(True)
        return {"loss": value, "critic": self._judge(made, batches)}

    def _judge(self, made: list, batches: list) -> float:
        total = 0.0
        for k, (out, (x, _)) in enumerate(zip(made, batches)):
            with exchange(self.model_critic, k + 1 == len(batches)), self.run.autocast():
                both = self.model_critic(torch.cat([out.to(x.dtype), x]))[-1].float()
                false, true = both.chunk(2)
                loss = (self.adversarial(false, False, True) + self.adversarial(true, True, True)) / 2
                (loss / len(batches)).backward()
            total += float(loss.detach()) / len(batches)
        self._update(self.judge, self.critic)
        return total

    @staticmethod
    def _update(optimiser, module):
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def state(self, **more) -> dict:
        return {
            "config": self.config, "codec": self.codec.state_dict(), "optimiser": self.optimiser.state_dict(),
            "critic": self.critic.state_dict() if self.critic else None,
            "judge": self.judge.state_dict() if self.judge else None, "hardware": self.run.hardware, **more,
        }  # fmt: skip


def train(trainer: Trainer, crops: Crops, saved: dict | None):
    """Steps until the budget is used up; a checkpoint at the end, with the latents' mean and deviation set."""
    a, run = trainer.a, trainer.run
    step, spent = (saved["step"], saved["spent"]) if saved else (0, 0.0)
    watch = monitor.Watch(run, a.tensorboard, (saved or {}).get("average"))
    maps = {m: [f.center, f.scale] for m, f in zip(crops.data.meta["modalities"], crops.maps)}

    def used() -> tuple[float, float]:
        """Seconds, and the share of the budget."""
        seconds = spent + run.elapsed()
        return seconds, seconds / (60 * a.minutes) if a.minutes else step / a.steps

    def save():
        run.save(trainer.state(step=step, spent=used()[0], intensity=maps, average=watch.means()))

    while step < a.steps and (done := used()[1]) < 1:
        firsts = [(part * run.world + run.rank) * a.batch for part in range(a.accumulate)]
        drawn = [crops.batch(a.batch, step, first, a.seed) for first in firsts]
        watch.note(trainer.step([(x.to(run.device), m.to(run.device)) for x, m in drawn], done))
        step += 1
        if step % monitor.EVERY == 0 or step == a.steps:
            seconds, done = used()
            watch.report(step, done, seconds)
        if a.samples_every and step % a.samples_every == 0 and run.first:
            path = run.folder / "samples" / f"{step:07d}.png"
            watch.image(step, picture(path, trainer.codec, crops))
        if step % a.save_every == 0:
            save()
    standardise(trainer.codec, crops)
    save()
    watch.close()


def main():
    a = parse()
    run = common.Run(a.out, a.threads)
    data = common.Prepared(a.data)
    crops = Crops(data, intensity_maps(data))
    torch.manual_seed(a.seed)
    saved = run.load()
    trainer = Trainer(a, run, saved, data.images.shape[1:])
    if not a.measure:
        train(trainer, crops, saved)
    measure(trainer.codec, crops, a.crops, run)
    run.close()


if __name__ == "__main__":
    main()

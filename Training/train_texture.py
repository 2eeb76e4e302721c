"""Train the texture network of a model: synthesis and removal in one Brownian bridge.

    one CPU core         python Training/train_texture.py --data runs/data/lidc --out runs/lidc --minutes 60 --threads 1
    one GPU              torchrun --nproc-per-node 3 Training/train_texture.py --data runs/data/lidc --out runs/lidc --batch 8 \\
                         --draws 8 --workers 2
    one node, 8 GPUs     torchrun --nproc-per-node 8 Training/train_texture.py --data runs/data/lidc --out runs/lidc --batch 16
    several nodes        torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
                         Training/train_texture.py --data runs/data/lidc --out runs/lidc --batch 16

`--data` is a folder made by prepare.py, `--batch` and `--draws` are per process. Several processes can share a large GPU, as the
network is small (with NVIDIA's MPS their kernels run side by side). The same command goes on from the last checkpoint; the
learning rate follows the share of --steps or --minutes that is used up. `--val` watches patients that were held out (prepare.py
--hold-out): the best checkpoint is kept as best.pt, and training stops when none better comes.
Losses go to log.jsonl, on a terminal to a progress bar, with `--tensorboard` to TensorBoard, pictures to samples/.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path

import common
import monitor
import numpy as np
import torch
from adversary import Adversary
from monitor import Patience, Watch, check_validation, picture, validation_loss
from sampling import Sampler, Steps, moved
from steering import Requests, Steering
from torch.nn.parallel import DistributedDataParallel

from TumorSynthLib.models.bundle import load_bundle
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.texture.bridge import FEW_STEP_NODES, Bridge
from TumorSynthLib.texture.context import IntensityMap, complete, masked, noise_cells
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig

INTENSITY = {  # center, scale of the asinh map: linear around the tissue of interest
    "sts": {"CT": (20.0, 100.0), "T1": (450.0, 300.0)},
    "lidc": {"CT": (-200.0, 300.0)},
}
FALLBACK_VOXELS = 200_000  # voxels per modality from which a data set without an entry above gets its map
BACKGROUND_WEIGHT = {"low": 2.0}  # the block mean is one channel of eight, and sets level and gradient


def intensity_maps(data: common.Prepared) -> list[IntensityMap]:
    """Map of each modality: from `INTENSITY`, or the tumours' median and half the spread of 68 % of all voxels."""
    known, rng = INTENSITY.get(data.meta["layout"], {}), np.random.default_rng(0)
    tumours = np.array([r["kind"] != "context" for r in data.rows])
    maps = []
    for k, modality in enumerate(data.meta["modalities"]):
        if modality not in known:
            rows = np.flatnonzero(tumours & (data.modality == k))
            rows = np.sort(
                rng.choice(
                    rows, min(len(rows), max(8, FALLBACK_VOXELS // data.images[0].size)), replace=False
                )
            )
            values, labels = data.images[rows], data.labels[rows]
            low, high = np.percentile(values[(labels & 2) > 0], [16, 84])
            known = known | {
                modality: (float(np.median(values[(labels & 1) > 0])), float(max((high - low) / 2, 1.0)))
            }
        maps.append(IntensityMap(*known[modality], is_ct=Intensity.of(None, modality).is_ct))
    return maps


def scaling(features: np.ndarray, modality: np.ndarray, count: int | None = None) -> dict[str, torch.Tensor]:
    """Centre, scale and log flag (M, F), robust, per modality; heavy-tailed positive features are seen in log.

    :param modality: (N,) number of each row's modality, or of its modality and region; `count` is how many there are.
    """
    rows = []
    for m in range(int(modality.max()) + 1 if count is None else count):
        part = features[modality == m]
        part = part if len(part) else features  # a region that no patient has in this modality
        low, high = np.nanpercentile(part, [1, 99], axis=0)
        log = (np.nanmin(part, 0) > 0) & (high > 20 * low)
        seen = np.where(log, np.log(np.maximum(part, 1e-12)), part)
        q = np.nanpercentile(seen, [16, 50, 84], axis=0)
        rows.append((q[1], np.maximum((q[2] - q[0]) / 2, 1e-6 + 1e-3 * np.abs(q[1])), log))
    center, scale, log = (torch.from_numpy(np.stack(column)) for column in zip(*rows))
    return {"center": center.float(), "scale": scale.float(), "log": log}


def times(count: int, rng: torch.Generator) -> torch.Tensor:
    """Bridge times: 80 % at the inference nodes with jitter, 20 % uniform."""
    few = torch.tensor(FEW_STEP_NODES)
    at = few[torch.randint(len(few), (count,), generator=rng)]
    jittered = (at * torch.exp(0.15 * torch.randn(count, generator=rng))).clamp(0.003, 1)
    uniform = torch.rand(count, generator=rng).clamp_min(0.003)
    return torch.where(torch.rand(count, generator=rng) < 0.8, jittered, uniform)


def draws(seeds: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Bridge times (B,) and standard normal noise (B, *shape), from one seed per item."""
    found = []
    for seed in seeds.tolist():
        rng = torch.Generator().manual_seed(seed)
        found.append((times(1, rng), torch.randn(1, *shape, generator=rng)))
    return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


def loss_of(network, codec, batch, bridge: Bridge):
    """Region L1 between predicted and true clean latent, per sample (B,); low-frequency channel counts more."""
    with torch.no_grad():
        hole = batch["hole"]
        x = complete(batch["x"], hole, batch["valid"])
        x0, y = codec.encode(x), codec.encode(masked(x, hole, batch["level"]))
        cells = noise_cells(hole)
        m, noise = (t.to(x.device) for t in draws(batch["seed"], x0.shape[1:]))
        m = torch.where(
            batch["removal"] & (batch["seed"] % 2 == 0), torch.ones_like(m), m
        )  # its mean counts most
        noisy = torch.where(cells > 0, bridge.noised(x0, y, m, noise), x0)
    told = ("modality", "values", "given", "removal", "region")
    guess = network(noisy, y, batch["conditions"], m, *(batch[k] for k in told))
    weight = torch.ones(1, codec.channels, 1, 1, 1, device=x.device)
    if codec.lossless:
        weight[:, 0] = BACKGROUND_WEIGHT["low"]
    error = (guess.float() - x0).abs() * weight * cells
    return error.sum((1, 2, 3, 4)) / (cells.sum((1, 2, 3, 4)) * weight.sum()).clamp_min(1)


def standardise(codec, sampler: Sampler, count: int = 200):
    """Set the codec's mean and std per channel from latents of tumour cells."""
    rng = np.random.default_rng(0)
    total = []
    for _ in range(count):
        item = sampler._synthesis(rng)
        cells = noise_cells(item["hole"])[0, 0] > 0
        total.append(codec.encode(item["x"])[0][:, cells])
    z = torch.cat(total, 1)
    codec.mean.copy_(z.mean(1))
    codec.std.copy_(z.std(1))


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipe", type=Path, help="YAML file with these options, under `train_texture`")
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--codec", default=None, help="a codec checkpoint of train_codec.py; default: Haar")
    p.add_argument(
        "--init", type=Path, help="start from the weights of this bundle's folder, to train it further"
    )
    p.add_argument("--steps", type=int, default=100_000)
    p.add_argument("--minutes", type=float, help="stop by the clock, counted over all resumed runs")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--lr", type=float, default=1.2e-3)
    p.add_argument(
        "--widths", type=int, nargs=3, default=[32, 64, 96], help="channels of the network's three levels"
    )
    p.add_argument(
        "--removal", type=float, default=0.35, help="share of items that are healthy places, filled"
    )
    p.add_argument(
        "--steer", type=float, default=0.1, help="weight of the loss of drawn tumours' features; 0: off"
    )
    p.add_argument("--draws", type=int, default=1, help="tumours drawn for that loss, per step and process")
    p.add_argument(
        "--adversary",
        type=float,
        default=0.0,
        help="weight of a critic's loss of those drawn tumours; 0: off",
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int)
    p.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that make batches ahead: a GPU waits for them otherwise",
    )
    p.add_argument("--save-every", type=int, default=100)
    p.add_argument(
        "--val", type=Path, help="prepared folder of other patients: its loss is logged, the best is best.pt"
    )
    p.add_argument("--val-every", type=int, default=500, help="steps between validations")
    p.add_argument("--val-items", type=int, default=64, help="items of a validation, always the same")
    p.add_argument(
        "--patience",
        type=int,
        default=20,
        help="stop after so many validations without a better one; 0: never",
    )
    p.add_argument("--samples-every", type=int, default=0, help="steps between sample pictures; 0: none")
    p.add_argument("--tensorboard", action="store_true", help="write losses and pictures for TensorBoard too")
    return common.parse(p, "train_texture")


def build(run, data, sampler, codec, widths):
    """Codec and network, with their feature scaling and latent scaling set."""
    standardise(codec, sampler)
    modalities, regions = len(data.meta["modalities"]), len(data.regions)
    config = NetworkConfig(codec.channels, len(sampler.columns), modalities, regions, tuple(widths))
    network = BridgeNetwork(config)
    rows = (data.modality * regions + data.region)[sampler.tumours]
    features = data.features[sampler.tumours][:, sampler.columns]
    network.tokens.set_scaling(**scaling(features, rows, modalities * regions))
    return codec.to(run.device).eval().requires_grad_(False), network.to(run.device)


def configuration(network, names, data, maps) -> dict:
    """What a checkpoint says of its network and of the data that it was trained on."""
    meta = ["layout", "spacing", "modalities", *(["regions"] if len(data.regions) > 1 else [])]
    return {
        "network": network.config.as_dict(), "names": names, "meta": {k: data.meta[k] for k in meta},
        "intensity": {m: [f.center, f.scale] for m, f in zip(data.meta["modalities"], maps)},
    }  # fmt: skip


def conditioning(names: list[str]) -> list[str]:
    """The features the network is told: those of the paper that don't grow with the region."""
    from TumorSynthLib.radiomics.table import FEATURES

    return [n for n in names if FEATURES[n].size == "free"]


def exchange(model, last: bool) -> AbstractContextManager:
    """Where the gradients of a part of a step are computed: several processes exchange them with the step's last part only."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()


def averaged(network: torch.nn.Module, ema: common.Ema) -> torch.nn.Module:
    """The network with its averaged weights, which are those that are used afterwards."""
    network = deepcopy(network)
    network.load_state_dict(ema.shadow)
    return network.eval()


class Trainer:
    """One run: data, network, optimiser, and what has been done so far."""

    def __init__(self, a):
        self.a, self.run, self.data = a, common.Run(a.out, a.threads), common.Prepared(a.data)
        saved = self.run.load()
        start = None if saved or not a.init else TextureModel.from_bundle(load_bundle(a.init), "cpu")
        names = saved["config"]["names"] if saved else conditioning(self.data.meta["names"])
        self.names = list(start.features) if start else names
        self.maps = intensity_maps(self.data)
        self.sampler = self._sampler(self.data)
        torch.manual_seed(a.seed)
        codec, self.codec_config = common.open_codec(a.codec)
        widths = saved["config"]["network"]["widths"] if saved else a.widths
        widths = start.network.config.widths if start else widths
        self.codec, self.network = build(self.run, self.data, self.sampler, codec, widths)
        if start:
            self.network.load_state_dict(start.network.state_dict())
            self.codec.load_state_dict(start.codec.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), a.lr, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.ema, self.step, self.spent = common.Ema(self.network), 0, 0.0
        self.patience = Patience(a.patience)
        self.adversary = Adversary(self.run.device, seed=a.seed) if a.adversary > 0 else None
        if saved:
            self._resume(saved)
        self.used = self.spent
        many = self.run.world > 1
        self.model = (
            DistributedDataParallel(self.network, find_unused_parameters=True) if many else self.network
        )
        self.config = configuration(self.network, self.names, self.data, self.maps)
        self.bridge = Bridge()
        self.steering = self._steering() if a.steer > 0 and self.codec.lossless else None
        if self.adversary and not self.steering:
            raise SystemExit(
                "--adversary judges the tumours that --steer draws: give --steer above 0, and a lossless codec"
            )
        self.val = self._validation() if a.val else None
        self.watch = Watch(self.run, a.tensorboard, (saved or {}).get("average"))

    def _sampler(self, data: common.Prepared) -> Sampler:
        return Sampler(data, [data.meta["names"].index(n) for n in self.names], self.maps, self.a.removal)

    def _validation(self) -> Sampler:
        val = common.Prepared(self.a.val)
        check_validation(self.data, val)
        return self._sampler(val)

    def _steering(self) -> Steering:
        requests = Requests(self.sampler, self.names, self.data.meta, self.adversary is not None)
        return Steering(
            requests, self.maps, self.codec, self.network, self.bridge, self.run.device, self.adversary
        )

    def _resume(self, saved: dict):
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.ema.shadow = {k: v.to(self.run.device) for k, v in saved["ema"].items()}
        self.ema.count = saved["step"]
        self.codec.load_state_dict(saved["codec"])
        self.step, self.spent = saved["step"], saved["spent"]
        self.patience = Patience(self.a.patience, *saved.get("validation", (None, 0)))
        if self.adversary and "seen" in saved.get("adversary", {}):
            self.adversary.load(saved["adversary"])

    def state(self) -> dict:
        """All that a resumed run needs to go on as if it had not stopped; all processes must call this.

        Of the patches that the critic of `--adversary` has seen, only the first process's are kept: several processes go on
        from those, all of them, and so a little differently than without a stop.
        """
        return {
            "network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "ema": self.ema.shadow,
            "codec": self.codec.state_dict(), "codec_config": self.codec_config, "config": self.config,
            "step": self.step, "spent": self.used, "hardware": self.run.hardware, "average": self.watch.means(),
            "validation": [self.patience.best, self.patience.since],
            **({"adversary": self.adversary.state()} if self.adversary else {}),
        }  # fmt: skip

    def done(self) -> float:
        """Share of the budget that is used up."""
        self.used = self.spent + self.run.elapsed()
        return self.used / (60 * self.a.minutes) if self.a.minutes else self.step / self.a.steps

    def train(self):
        """Steps until the budget or the patience is used up."""
        requests = self.steering and self.steering.requests
        steps = Steps(self.sampler, requests, self.a, self.run.rank, self.run.world)
        for items in steps.stream(self.step, self.a.steps, self.a.workers):
            done = self.done()
            if done >= 1 or self.patience.spent:
                break
            rate = common.rate(self.a, done)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            if self.adversary:
                self.adversary.pace(rate / self.a.lr)
            self._step(items)
            self._report()
        self.run.save(self.state())
        self.watch.close()
        self.run.close()

    def _step(self, items: dict):
        a, value = self.a, 0.0
        for part, batch in enumerate(items["batches"]):
            batch = moved(batch, self.run.device)
            with exchange(self.model, not self.steering and part + 1 == a.accumulate):
                with self.run.autocast():
                    loss = loss_of(self.model, self.codec, batch, self.bridge).mean() / a.accumulate
                loss.backward()
            value += float(loss.detach())
        found = {"loss": value}
        if self.steering:
            found |= self.steering.backward(
                self.model, self.network.tokens, items["draws"], (a.steer, a.adversary)
            )
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.network)
        self.step += 1
        self.watch.note(found)

    def _report(self):
        """What is due after a step: log, validation, pictures, checkpoint."""
        a, step, last = self.a, self.step, self.step == self.a.steps
        if step % monitor.EVERY == 0 or last:
            done = self.done()
            self.watch.report(step, done, self.used, lr=self.optimiser.param_groups[0]["lr"])
        if self.val and (step % a.val_every == 0 or last):
            self._validate()
        if a.samples_every and step % a.samples_every == 0 and self.run.first:
            self._picture()
        if step % a.save_every == 0:
            self.run.save(self.state())

    def _validate(self):
        network = averaged(self.network, self.ema)
        value = validation_loss(
            lambda batch: loss_of(network, self.codec, batch, self.bridge),
            self.val,
            self.run,
            self.a.val_items,
        )
        better = self.patience.better(value)
        self.watch.write(self.step, {"val": value}, best=self.patience.best)
        if better:
            self.run.save(self.state(), "best.pt")

    def _picture(self):
        meta, path = self.data.meta, self.run.folder / "samples" / f"{self.step:07d}.png"
        model = TextureModel(
            averaged(self.network, self.ema), self.codec, tuple(self.names), tuple(meta["modalities"]),
            dict(zip(meta["modalities"], self.maps)), tuple(meta["spacing"]), FEW_STEP_NODES, bridge=self.bridge,
            device=self.run.device, regions=tuple(self.data.regions),
        )  # fmt: skip
        self.watch.image(self.step, picture(path, model, self.val or self.sampler, self.names, (1, 2)))


def main():
    Trainer(parse()).train()


if __name__ == "__main__":
    main()

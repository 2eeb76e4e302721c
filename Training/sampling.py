"""What a step of training sees: crops of tumours and healthy places, drawn the same in however many processes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import Any

import common
import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from TumorSynthLib.texture.context import IntensityMap, conditions, region_masks
from TumorSynthLib.texture.generator import LEVEL


@dataclass
class Sampler:
    """Draws training batches; item k of a step is the same however many processes share the batch."""

    data: common.Prepared
    columns: list[int]
    maps: list[IntensityMap]
    removal: float = 0.35

    def __post_init__(self):
        self.regions = len(self.data.regions)
        kinds = np.array([r["kind"] for r in self.data.rows])
        self.tumours = np.flatnonzero(kinds != "context")
        real = kinds == "real"
        weight = np.where(real, 1.0, 0.5)[self.tumours]
        self.weight = weight / weight.sum()
        shares = (np.asarray(self.data.labels) & 4 > 0).mean((1, 2, 3))
        self.healthy = np.flatnonzero((kinds == "context") | (real & (shares < 0.25)))
        self.holes = np.flatnonzero(kinds == "real")

    def batch(self, size: int, step: int, first: int, seed: int) -> dict[str, torch.Tensor]:
        """Items first ... first + size - 1 of a step's batch."""
        items = [self._draw(np.random.default_rng([seed, step, k])) for k in range(first, first + size)]
        return {k: torch.cat([i[k] for i in items]) for k in items[0]}

    def _draw(self, rng):
        return self._removal(rng) if rng.random() < self.removal else self._synthesis(rng)

    def _flip(self, arrays, rng):
        """One of the 16 in-plane and axial symmetries: they leave every texture feature as it is."""
        turns, axes = int(rng.integers(4)), tuple(a for a in (0, 2) if rng.random() < 0.5)
        return [np.ascontiguousarray(np.flip(np.rot90(x, turns, (1, 2)), axes)) for x in arrays]

    def _synthesis(self, rng):
        i = int(rng.choice(self.tumours, p=self.weight))
        return self._tumour(i, self._given(rng, len(self.columns)), rng)

    def _tumour(self, i, given, rng):
        image, label = self._flip((self.data.images[i], self.data.labels[i]), rng)
        return self._item(image, (label & 1) > 0, label, i, given, False, int(self.data.region[i]), rng)

    def real(self, rng):
        """A crop as it was, turned and flipped."""
        return self._tumour(int(rng.choice(self.holes)), self._given(rng, len(self.columns)), rng)

    def _removal(self, rng):
        for _ in range(20):
            i, j = int(rng.choice(self.healthy)), int(rng.choice(self.holes))
            image, label = self._flip((self.data.images[i], self.data.labels[i]), rng)
            hole = self._flip((shrunk((self.data.labels[j] & 1) > 0, rng.uniform(0.3, 1.0)),), rng)[0]
            hole = np.roll(hole, rng.integers(-8, 9, 3) // (2, 1, 1), (0, 1, 2))
            hole &= (label & 2 > 0) & (label & 4 == 0)
            if 40 < hole.sum() < 0.6 * hole.size:
                given = np.zeros(len(self.columns), bool)
                region = int(rng.integers(self.regions)) if self.regions > 1 else 0
                return self._item(image, hole, label, i, given, True, region, rng)
        return self._synthesis(rng)

    @staticmethod
    def _given(rng, count):
        """Which features the network is told: all, a random part, or none, so that a user may ask for any subset."""
        u = rng.random()
        share = 1.0 if u < 0.55 else 0.0 if u > 0.95 else rng.uniform(0.03, 0.7)
        return rng.random(count) < share

    def _item(self, image, hole, label, i, given, removal, region, rng):
        valid, masks = (label & 2) > 0, hole[None]
        if self.regions > 1:
            bits = [(label & (1 << (common.REGION_BIT + k))) > 0 for k in range(self.regions)]
            masks = region_masks(hole, region, np.stack(bits))
        mapped = torch.from_numpy(self.maps[self.data.modality[i]].forward(image))[None, None]
        values = np.nan_to_num(self.data.features[i, self.columns]).astype(np.float32)
        mean = self.data.meta["names"].index(LEVEL)
        told = given[self.columns.index(mean)] and not removal
        level = self.data.features[i, mean] if told else np.nan
        return {
            "x": mapped,
            "hole": torch.from_numpy(hole)[None, None],
            "valid": torch.from_numpy(valid)[None, None],
            "conditions": conditions(masks, valid, tuple(self.data.meta["spacing"]), hole),
            "level": torch.from_numpy(self.maps[self.data.modality[i]].forward([level])),
            "modality": torch.tensor([int(self.data.modality[i])]),
            "region": torch.tensor([region]),
            "values": torch.from_numpy(values)[None],
            "given": torch.from_numpy(given)[None],
            "removal": torch.tensor([removal]),
            "seed": torch.from_numpy(rng.integers(2**62, size=1)),
        }


def shrunk(mask: np.ndarray, share: float) -> np.ndarray:
    """A mask (D, H, W) bool drawn together towards its middle to `share` of its extent along each axis."""
    middle = np.array(ndimage.center_of_mass(mask)) if mask.any() else np.array(mask.shape) / 2
    return (
        ndimage.affine_transform(
            mask.astype(np.float32), np.full(3, 1 / share), middle * (1 - 1 / share), order=1
        )
        > 0.5
    )


@dataclass
class Steps(Dataset):
    """What one process trains on in each step: its `batches`, one per accumulated part, and the `draws` of the steering.

    :param sampler: of the training items; `requests` of the steering's (`steering.Requests`), or None.
    :param a: the options `batch`, `accumulate`, `seed`, and with requests `draws`.
    :param rank: number of this process among `world`.
    """

    sampler: Sampler
    requests: Any
    a: argparse.Namespace
    rank: int
    world: int

    def __getitem__(self, step: int) -> dict:
        a = self.a
        firsts = [(part * self.world + self.rank) * a.batch for part in range(a.accumulate)]
        batches = [self.sampler.batch(a.batch, step, first, a.seed) for first in firsts]
        draws = self.requests and self.requests.of(step, self.rank * a.draws, a.draws, a.seed)
        return {"batches": batches, "draws": draws}

    def stream(self, first: int, last: int, workers: int) -> DataLoader:
        """Steps first ... last - 1 in order, made ahead by `workers` processes (0: when they are asked for).

        :raises SystemExit: workers are wanted where processes can't fork, and so can't share the data (Windows).
        """
        if workers and "fork" not in get_all_start_methods():
            raise SystemExit("--workers: processes can't share the data on this system; use --workers 0")
        how, rng = "fork" if workers else None, torch.Generator()  # its own: the run's is left as it is
        return DataLoader(
            self,
            None,
            sampler=range(first, last),
            num_workers=workers,
            generator=rng,
            multiprocessing_context=how,
        )


def moved(items: dict, device: torch.device) -> dict:
    """A batch with its tensors on a device."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in items.items()}

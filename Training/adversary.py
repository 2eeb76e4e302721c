"""Teach draws to look real: a small critic compares drawn tumours with real ones, patch by patch.

The bridge's loss is met best by a mean of what could be there, the loss of features by anything that has them; neither
notices grain of the wrong kind. The critic sees three slices and the mask at a time, at the scale of the texture, and
never the request. Hinge loss; spectral norms keep its gradients bounded.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

MARGIN = 8  # voxels around the tumour that the critic sees
SLICES = 12  # of a tumour at most, per step
REAL = 2  # real tumours for every drawn one


class Critic(nn.Module):
    """Logits (N, 1, H/2, W/2) for slices (N, 4, H, W): a slice between its neighbours, and the mask."""

    def __init__(self, width: int = 24):
        super().__init__()
        sizes = (7, width, width, 2 * width, 2 * width)
        layers = []
        for k, (a, b) in enumerate(zip(sizes, sizes[1:])):
            layers += [spectral_norm(nn.Conv2d(a, b, 3, 2 if k == 1 else 1, 1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, spectral_norm(nn.Conv2d(2 * width, 1, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grain = x[:, :3] - F.avg_pool2d(x[:, :3], 3, 1, 1, count_include_pad=False)
        return self.body(torch.cat([x, 4 * grain], 1))


def slices(image: torch.Tensor, hole: torch.Tensor, rng) -> tuple[torch.Tensor, torch.Tensor]:
    """What the critic sees of a tumour: (N, 4, h, w), and where in it the mask is, (N, 1, h/2, w/2) bool.

    image (1, 1, D, H, W) in the network's range, hole bool of its shape.
    """
    image, hole = image[0, 0], hole[0, 0]
    where = hole.nonzero()
    low, high = where.min(0).values.tolist(), where.max(0).values.tolist()
    plane = []
    for axis in (1, 2):  # an even number of voxels
        start, stop = max(0, low[axis] - MARGIN), min(hole.shape[axis], high[axis] + 1 + MARGIN)
        plane.append(slice(start, stop - (stop - start) % 2))
    chosen = np.arange(low[0], high[0] + 1)
    chosen = np.sort(rng.permutation(chosen)[:SLICES])
    padded = torch.cat([image[:1], image, image[-1:]])[(slice(None), *plane)]
    mask = hole[(slice(None), *plane)][chosen][:, None]
    stacked = torch.stack([padded[chosen + k] for k in range(3)], 1)
    return torch.cat([stacked, mask.to(image.dtype)], 1), F.max_pool2d(mask.float(), 2) > 0


class Adversary:
    """The critic, its training, and what it holds against a draw.

    :param sampler: the training's `Sampler`; `real` rows of its data are what draws are compared with.
    """

    def __init__(self, sampler, device: torch.device, lr: float = 4e-4, seed: int = 0):
        self.sampler, self.device = sampler, device
        self.rows = sampler.holes
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.critic = Critic().to(device)
        self.optimiser = torch.optim.Adam(self.critic.parameters(), lr, betas=(0.0, 0.9))

    def state(self) -> dict:
        """All that a resumed run needs."""
        return {"critic": self.critic.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load(self, saved: dict):
        self.critic.load_state_dict(saved["critic"])
        self.optimiser.load_state_dict(saved["optimiser"])

    def _logits(self, image, hole, rng) -> torch.Tensor:
        seen, where = slices(image, hole, rng)
        return self.critic(seen)[where]

    def held_against(self, image: torch.Tensor, hole: torch.Tensor, rng) -> torch.Tensor:
        """Loss of a draw: how unreal it looks to the critic as it is."""
        self.critic.requires_grad_(False)
        loss = -self._logits(image, hole, rng).mean()
        self.critic.requires_grad_(True)
        return loss

    def learn(self, image: torch.Tensor, hole: torch.Tensor, modality: int, rng) -> None:
        """One step of the critic on a drawn tumour and on real ones of its modality."""
        rows = self.rows[self.sampler.data.modality[self.rows] == modality]
        loss = F.relu(1 + self._logits(image.detach(), hole, rng)).mean()
        for _ in range(REAL):
            item = self.sampler.real(int(rng.choice(rows)), rng)
            real = self._logits(*(item[k].to(self.device) for k in ("x", "hole")), rng)
            loss = loss + F.relu(1 - real).mean() / REAL
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if dist.is_initialized():
            for p in self.critic.parameters():
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()
        self.optimiser.step()

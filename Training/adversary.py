"""Teach draws to look real: a small critic compares patches of drawn tumours with patches of real ones.

The bridge's loss is met best by a mean of what could be there, the loss of features by anything that has them; neither
notices grain of the wrong kind. The critic sees five slices and the mask at a time, at the scale of the texture, and
never the request. It judges the mean and the spread of its filters over a patch, which tells textures apart after few
steps, and learns from the latest draws again and again: one draw at a time teaches it next to nothing.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from TumorSynthLib.texture.context import complete

PATCH = 24  # voxels in plane
SLICES = 5  # of a patch: the middle one is in the tumour
PATCHES = 12  # per tumour, half of them around its border
KEPT = 96  # latest pairs of a drawn and a real tumour that the critic learns from
UPDATES = 4  # of the critic per draw, as far as `MOST`
BATCH = 24  # patches of either kind per update; more where more draws than `MOST` share the updates
MOST = 2  # draws of a step with updates of their own
SLOPE_PRICE = 0.1  # of the critic's squared slope: without it a sure critic teaches streaks that are worse than what was there


class Critic(nn.Module):
    """Logits (N,) of being drawn, for patches (N, SLICES + 1, PATCH, PATCH): slices, and the mask in the middle one."""

    def __init__(self, width: int = 16):
        super().__init__()
        sizes, layers = (2 * SLICES + 1, width, width, 2 * width, 2 * width), []
        for k, (a, b) in enumerate(zip(sizes, sizes[1:])):
            layers += [nn.AvgPool2d(2)] if k == 2 else []
            layers += [
                nn.Conv2d(a, b, 3),
                nn.LeakyReLU(0.2),
            ]  # without a margin: zeros around a patch are no tissue
        self.body, self.out = nn.Sequential(*layers), nn.Linear(4 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slices = x[:, :SLICES]
        grain = slices - F.avg_pool2d(slices, 3, 1, 1, count_include_pad=False)
        h = self.body(torch.cat([x, 4 * grain], 1))
        return self.out(torch.cat([h.mean((2, 3)), (h.var((2, 3)) + 1e-6).sqrt()], 1))[:, 0]


def patches(images: torch.Tensor, holes: torch.Tensor, rng) -> torch.Tensor:
    """(B * PATCHES, SLICES + 1, PATCH, PATCH) around random voxels of each mask, with the images' gradients.

    images (B, 1, D, H, W) in the network's range, holes bool of its shape.
    """
    half, beside = PATCH // 2, SLICES // 2
    x = F.pad(images, (half, half, half, half, beside, beside), mode="replicate")[:, 0]
    m = F.pad(holes.to(images.dtype), (half, half, half, half))[:, 0]
    found = []
    for k, mask in enumerate(holes[:, 0].cpu()):
        inner = -F.max_pool3d(-mask[None, None].float(), 3, 1, 1)[0, 0] > 0
        pools = [p for p in ((mask & ~inner).nonzero(), mask.nonzero()) if len(p)]
        for n in range(PATCHES):
            pool = pools[n % len(pools)]
            z, i, j = pool[int(rng.integers(len(pool)))].tolist()
            area = (slice(None), slice(i, i + PATCH), slice(j, j + PATCH))
            found.append(torch.cat([x[k, z : z + SLICES][area], m[k, z : z + 1][area]]))
    return torch.stack(found)


class Adversary:
    """The critic, its training, and what it holds against a draw."""

    def __init__(self, device: torch.device, lr: float = 2e-3, seed: int = 0):
        self.device, self.lr = device, lr
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.critic = Critic().to(device)
        self.optimiser = torch.optim.Adam(self.critic.parameters(), lr, betas=(0.5, 0.99))
        self.seen: list[torch.Tensor] = []  # (2, PATCHES, SLICES + 1, PATCH, PATCH) float16: real, drawn

    def state(self) -> dict:
        """All that a resumed run needs."""
        seen = torch.stack(self.seen) if self.seen else torch.zeros(0)
        return {"critic": self.critic.state_dict(), "optimiser": self.optimiser.state_dict(), "seen": seen}

    def load(self, saved: dict):
        self.critic.load_state_dict(saved["critic"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.seen = list(saved["seen"].to(self.device))

    def pace(self, share: float):
        """Learns at this share of its rate: as the network settles, so does the critic, which would win otherwise."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * share

    def held_against(self, images: torch.Tensor, holes: torch.Tensor, rng) -> torch.Tensor:
        """Loss of draws (B, 1, D, H, W): how unreal they look to the critic as it is."""
        self.critic.requires_grad_(False)
        loss = F.softplus(self.critic(patches(images, holes, rng))).mean()
        self.critic.requires_grad_(True)
        return loss

    def learn(self, images: torch.Tensor, items: dict[str, torch.Tensor], rng) -> None:
        """Keeps draws and the real tumours of the same places; some steps of the critic on all that are kept.

        :param items: of the training, of real crops. Surroundings are the same, beyond the image too, where they are continued:
            the critic would learn any other difference first.
        """
        holes, count = items["hole"], len(images)
        real = complete(items["x"], holes, items["valid"])
        both = [patches(x, holes, rng).unflatten(0, (count, PATCHES)) for x in (real, images.detach())]
        self.seen = [*self.seen, *torch.stack(both, 1).half()][-KEPT:]
        own = min(count, MOST)
        for _ in range(UPDATES * own):
            self._update(rng, BATCH * count // own)

    def _update(self, rng, size: int) -> None:
        which, where = rng.integers(len(self.seen), size=(2, size)), rng.integers(PATCHES, size=(2, size))
        batch = torch.stack(
            [self.seen[i][kind, k] for kind in (0, 1) for i, k in zip(which[kind], where[kind])]
        ).float()
        batch = torch.rot90(batch, int(rng.integers(4)), (2, 3))
        batch = (batch.flip(3) if rng.random() < 0.5 else batch).requires_grad_()
        logits = self.critic(batch)
        (slope,) = torch.autograd.grad(logits.sum(), batch, create_graph=True)
        loss = F.softplus(logits[:size]).mean() + F.softplus(-logits[size:]).mean()
        loss = loss + SLOPE_PRICE * slope[:, :SLICES].square().sum((1, 2, 3)).mean()
        self.optimiser.zero_grad()
        loss.backward()
        if dist.is_initialized():
            for p in self.critic.parameters():
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()
        self.optimiser.step()

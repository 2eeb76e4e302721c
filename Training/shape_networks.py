"""What trains the shape generator and isn't needed after: discriminator, encoder, differentiable features of a batch."""

from __future__ import annotations

import math

import common  # noqa: F401  (puts the checkout on the path)
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from TumorSynthLib.shape.network import VALUES, Attention, ShapeConfig, Tokens

SOFT = 0.03  # u over which occupancy goes from out to in: about half a cell
DIRECTIONS, ANGLES = 24, 8  # in space and in planes, in which widths are looked for
WIDTH_SOFT = 0.05  # u, of the soft maximum in a width


def patches(x: torch.Tensor, side: int) -> torch.Tensor:
    """(B, 1, n, n, n) -> (B, side³, n / side, ...): cubes of values as channels."""
    b, n = len(x), x.shape[-1] // side
    x = x.view(b, n, side, n, side, n, side).permute(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(b, side**3, n, n, n)


class Trunk(nn.Module):
    """(B, 1, 32, 32, 32) -> (B, 48, 8³) and (B, 64, 4³); the field is seen at 32³, 16³ and 8³."""

    def __init__(self, config: ShapeConfig, wrap):
        super().__init__()
        self.enter = nn.ModuleList(wrap(nn.Conv3d(side**3, 48, 1)) for side in (4, 2, 1))
        self.fine = wrap(nn.Conv3d(48, 48, 3, padding=1))
        self.down = wrap(nn.Conv3d(48, 64, 2, 2))
        self.look = Attention(64, config.heads)

    def forward(self, field):
        x = 0.0
        for side, layer in zip((4, 2, 1), self.enter):
            x = x + layer(patches(field, side))
            field = F.avg_pool3d(field, 2) if side > 1 else field
        x = F.leaky_relu(self.fine(F.leaky_relu(x, 0.2)), 0.2)
        return x, self.look(F.leaky_relu(self.down(x), 0.2))


class Discriminator(nn.Module):
    """Is a field a tumour that has these features? Two logits per field, at 8³ and 4³: (B, 2)."""

    def __init__(self, config: ShapeConfig):
        super().__init__()
        self.tokens = Tokens(config)
        self.trunk = Trunk(config, spectral_norm)
        self.cross = Attention(64, config.heads, config.token)
        self.mixed = spectral_norm(nn.Conv3d(64, 64, 3, padding=1))
        self.heads = nn.ModuleList([spectral_norm(nn.Conv3d(48, 1, 1)), spectral_norm(nn.Linear(64 * 64, 1))])
        self.asks = nn.ModuleList(nn.Linear(config.token * (VALUES + 1), c) for c in (48, 64))

    def forward(self, field, conditions):
        """`conditions`: one or more (values, given, group); the field is looked at once. -> one (B, 2) for each."""
        seen = self.trunk(field)
        return [self._score(*seen, self.tokens(*c)) for c in conditions]

    def _score(self, fine, coarse, tokens):
        coarse = F.leaky_relu(self.mixed(self.cross(coarse, tokens)), 0.2)
        asked = tokens.flatten(1)
        scores = [self.heads[0](fine).mean((1, 2, 3, 4)), self.heads[1](coarse.flatten(1))[:, 0]]
        for k, x in enumerate((fine, coarse)):
            seen = x.mean((2, 3, 4))
            scores[k] = scores[k] + (seen * self.asks[k](asked)).sum(1) / math.sqrt(seen.shape[1])
        return torch.stack(scores, 1)


class Encoder(nn.Module):
    """A real field's code: mean and log variance, (B, Z) each."""

    def __init__(self, config: ShapeConfig):
        super().__init__()
        self.trunk = Trunk(config, lambda layer: layer)
        self.out = nn.Linear(64 * 64, 2 * config.code)

    def forward(self, field):
        mean, log_variance = self.out(self.trunk(field)[1].flatten(1)).chunk(2, 1)
        return mean, log_variance.clamp(-8, 4)


def soft_features(field: torch.Tensor) -> torch.Tensor:
    """(B, 8) logarithms, over their power of the radius, of surface, four diameters and three axes of (B, 1, n, n, n) fields.

    The fields are distances in u, positive inside. Widths are soft maxima over directions, a little too large: compare fields
    with fields, not with masks.
    """
    occupancy = torch.sigmoid(field[:, 0].float() / SOFT)
    n = occupancy.shape[-1]
    h = 2 / (n - 1)
    volume = occupancy.sum((1, 2, 3)) * h**3 + 1e-6
    parts = [torch.diff(occupancy, dim=d)[:, : n - 1, : n - 1, : n - 1] for d in (1, 2, 3)]
    area = (sum(p**2 for p in parts) + 1e-10).sqrt().sum((1, 2, 3)) * h**2
    line = torch.linspace(-1, 1, n, device=field.device)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    weight = occupancy.flatten(1) / occupancy.flatten(1).sum(1, keepdim=True).clamp_min(1e-6)
    centre = weight @ points
    second = torch.einsum("bn,ni,nj->bij", weight, points, points) - centre[:, :, None] * centre[:, None]
    axes = torch.linalg.eigvalsh(second + 1e-5 * torch.eye(3, device=field.device)).clamp_min(1e-6).flip(1)
    lengths = torch.cat([_widths(F.avg_pool3d(occupancy[:, None], 2)[:, 0]), 4 * axes.sqrt()], 1)
    radius = (volume * (3 / (4 * math.pi))).log() / 3
    return torch.cat([area.log()[:, None] - 2 * radius[:, None], lengths.log() - radius[:, None]], 1)


def _widths(occupancy: torch.Tensor) -> torch.Tensor:
    """(B, 4) largest widths of (B, n, n, n): in space, and within planes across z, y and x."""
    n = occupancy.shape[-1]
    line = torch.linspace(-1 + 0.5 / n, 1 - 0.5 / n, n, device=occupancy.device)
    seen = 4 * (occupancy + 1e-4).log()  # so that what is far outside does not count, however far it is
    k = torch.arange(DIRECTIONS, device=occupancy.device) + 0.5
    height, turn = k / DIRECTIONS, math.pi * (1 + 5**0.5) * k
    ring = (1 - height**2).sqrt()
    space = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    found = [
        _reach(seen.flatten(1), space @ torch.stack([height, ring * turn.cos(), ring * turn.sin()])).amax(1)
    ]
    angle = torch.arange(ANGLES, device=occupancy.device) * (math.pi / ANGLES)
    plane = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
    along = plane @ torch.stack([angle.cos(), angle.sin()])
    for axis in (1, 2, 3):
        found.append(_reach(seen.movedim(axis, 1).flatten(2), along).amax((1, 2)))
    return torch.stack(found, 1).clamp_min(1e-3)


def _reach(seen: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Soft width (..., k) of points with log occupancy (..., n) along k directions, whose coordinates are (n, k)."""
    ends = [torch.logsumexp(sign * along / WIDTH_SOFT + seen[..., None], -2) for sign in (1.0, -1.0)]
    return WIDTH_SOFT * (ends[0] + ends[1])

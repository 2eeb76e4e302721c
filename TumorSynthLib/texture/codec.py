"""Image codecs: a volume (B, 1, D, H, W) to a latent (B, C, D/2, H/2, W/2) and back.

Both speak one interface, `encode(x) -> z` and `decode(z) -> x`, with latents standardised per channel:
- `HaarCodec`: one level of the orthonormal 3-D Haar transform, 8 channels; lossless and free.
- `VQGANCodec`: the paper's VQ-GAN at factor 2, small; `decode` quantises (finite scalar quantisation). At factor 4 it is
  there to be measured; the network works at factor 2.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from TumorSynthLib.errors import ModelError

FACTOR = 2


class Codec(Protocol):
    """What the generator needs of a codec."""

    channels: int
    lossless: bool

    def encode(self, x: torch.Tensor) -> torch.Tensor: ...

    def decode(self, z: torch.Tensor) -> torch.Tensor: ...


def blocks(x: torch.Tensor) -> torch.Tensor:
    """(B, 1, D, H, W) to (B, 8, D/2, H/2, W/2): the eight voxels of each 2 x 2 x 2 block as channels."""
    b, _, d, h, w = x.shape
    x = x.view(b, d // 2, 2, h // 2, 2, w // 2, 2)
    return x.permute(0, 2, 4, 6, 1, 3, 5).reshape(b, 8, d // 2, h // 2, w // 2)


def unblocks(z: torch.Tensor) -> torch.Tensor:
    """Inverse of `blocks`."""
    b, _, d, h, w = z.shape
    z = z.view(b, 2, 2, 2, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return z.reshape(b, 1, 2 * d, 2 * h, 2 * w)


def folded(x: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, 1, D, H, W) to (B, factor^3, D/factor, ...); factor is 2 or 4, and 2 is `blocks`."""
    z = blocks(x)
    if factor == 2:
        return z
    b, c, *size = z.shape
    return blocks(z.reshape(b * c, 1, *size)).reshape(b, 8 * c, *(s // 2 for s in size))


def unfolded(z: torch.Tensor, factor: int) -> torch.Tensor:
    """Inverse of `folded`."""
    if factor == 4:
        b, c, *size = z.shape
        z = unblocks(z.reshape(b * c // 8, 8, *size)).reshape(b, c // 8, *(2 * s for s in size))
    return unblocks(z)


def _haar_matrix() -> torch.Tensor:
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    return torch.kron(torch.kron(one, one), one)


class HaarCodec(nn.Module):
    """One-level 3-D Haar transform; channel 0 is the block mean (times sqrt 8), the others are details."""

    channels = 8
    lossless = True

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", _haar_matrix(), persistent=False)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("std", torch.ones(8))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.einsum("ij,bjdhw->bidhw", self.matrix, blocks(x))
        return (z - self.mean.view(1, 8, 1, 1, 1)) / self.std.view(1, 8, 1, 1, 1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        z = z * self.std.view(1, 8, 1, 1, 1) + self.mean.view(1, 8, 1, 1, 1)
        return unblocks(torch.einsum("ji,bjdhw->bidhw", self.matrix, z))


class _Res(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv3d(channels, channels, 3, padding=1),
            nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv3d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


class VQGANCodec(nn.Module):
    """The paper's compression, small (32 channels), with finite scalar quantisation; at factor 2, or 4 for comparison.

    `levels` are the quantisation levels of each latent channel. The bridge runs on the latents before
    quantisation, and `decode` quantises, as in the paper (section 3.2).
    """

    lossless = False

    def __init__(self, width: int = 32, levels: tuple[int, ...] = (33, 33, 33, 33), factor: int = FACTOR):
        super().__init__()
        if factor not in (2, 4):
            raise ModelError(f"a VQ-GAN has factor 2 or 4, not {factor}")
        self.channels, self.factor = len(levels), factor
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.encoder = nn.Sequential(
            nn.Conv3d(factor**3, width, 3, padding=1),
            _Res(width),
            _Res(width),
            nn.Conv3d(width, self.channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv3d(self.channels, width, 3, padding=1),
            _Res(width),
            _Res(width),
            nn.Conv3d(width, factor**3, 1),
        )
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))

    def _shape(self, v):
        return v.view(1, -1, 1, 1, 1)

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """Latent in (-1, 1) before quantisation."""
        return torch.tanh(self.encoder(folded(x, self.factor)))

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Nearest level per channel; the gradient passes straight through."""
        half = (self._shape(self.levels) - 1) / 2
        q = torch.round(z.clamp(-1, 1) * half) / half
        return z + (q - z).detach()

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return unfolded(self.decoder(self.quantise(self.raw(x))), self.factor)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (self.raw(x) - self._shape(self.mean)) / self._shape(self.std)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        raw = z * self._shape(self.std) + self._shape(self.mean)
        return unfolded(self.decoder(self.quantise(raw)), self.factor)


def make_codec(config: dict) -> nn.Module:
    """Codec from a bundle's `codec` entry, e.g. {"kind": "haar"} or {"kind": "vqgan", "width": 32}."""
    kind = config.get("kind")
    if kind == "haar":
        return HaarCodec()
    if kind == "vqgan":
        levels = tuple(config.get("levels", (33, 33, 33, 33)))
        return VQGANCodec(int(config.get("width", 32)), levels, int(config.get("factor", FACTOR)))
    raise ModelError(f"unknown codec kind {kind!r}; this version knows 'haar' and 'vqgan'")


def pool_any(mask: torch.Tensor) -> torch.Tensor:
    """Latent cells (B, 1, D/2, H/2, W/2) that any voxel of the mask (B, 1, D, H, W) touches."""
    return F.max_pool3d(mask.float(), FACTOR)

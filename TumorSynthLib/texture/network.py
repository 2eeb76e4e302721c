"""The network of the bridge: a 3-D UNet that predicts the clean latent from features, mask and context.

Two paths in one network (paper, equation 8): with features, attention takes keys and values from the feature
tokens; without, from the image itself. Beyond the paper: each token carries its feature's identity and whether it
was given, tokens reach three levels by attention and every block by FiLM, and the mask, its distance map and the
image's extent are input channels.

Tensors inside are slices `(B*D, C, H, W)` in channels-last memory. A 3 x 3 x 3 convolution is one 2-D convolution
over three stacked neighbour slices: the same sum as `Conv3d`, and six times faster on a CPU at these widths.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import GRID_MULTIPLE

MULTIPLE = GRID_MULTIPLE


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that fixes the tensors' shapes."""

    latent_channels: int = 8
    features: int = 74
    modalities: int = 1
    regions: int = 1
    widths: tuple[int, ...] = (32, 64, 96)
    blocks: int = 2
    heads: int = 4
    token: int = 64
    embedding: int = 128

    def __post_init__(self):
        if len(self.widths) != 3 or any(w % self.heads for w in self.widths):
            raise ModelError(f"network widths must be three multiples of {self.heads}, not {self.widths}")

    @classmethod
    def from_dict(cls, d: dict) -> NetworkConfig:
        unknown = set(d) - set(cls.__dataclass_fields__)
        if unknown:
            raise ModelError(
                f"unknown network option(s) {sorted(unknown)}; install a newer version to use this model"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in d.items()})

    def as_dict(self) -> dict:
        return asdict(self)


class SliceConv(nn.Conv2d):
    """3 x 3 x 3 convolution, zero padded, on slices (B*D, C, H, W)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(3 * channels_in, channels_out, 3, padding=1)

    def forward(self, x: torch.Tensor, depth: int) -> torch.Tensor:
        n, c, h, w = x.shape
        v = x.permute(0, 2, 3, 1).reshape(n // depth, depth, h, w, c)
        zero = torch.zeros_like(v[:, :1])
        below, above = torch.cat([zero, v[:, :-1]], 1), torch.cat([v[:, 1:], zero], 1)
        stacked = torch.cat([below, v, above], -1).view(n, h, w, 3 * c).permute(0, 3, 1, 2)
        return super().forward(stacked)


def channel_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Layer norm over channels at each voxel: unlike group norm it doesn't depend on the region's extent."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), weight).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Two convolutions with FiLM from the embedding (B, E)."""

    def __init__(self, channels_in: int, channels: int, embedding: int):
        super().__init__()
        self.norm1, self.norm2 = nn.Parameter(torch.ones(channels_in)), nn.Parameter(torch.ones(channels))
        self.conv1, self.conv2 = SliceConv(channels_in, channels), SliceConv(channels, channels)
        self.film = nn.Linear(embedding, 2 * channels)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x, emb, depth):
        h = self.conv1(F.silu(channel_norm(x, self.norm1)), depth)
        scale, shift = self.film(emb).repeat_interleave(depth, 0)[:, :, None, None].chunk(2, 1)
        h = channel_norm(h, self.norm2) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h), depth)


class Attention(nn.Module):
    """Equation 8: q from the image; k and v from the feature tokens, or from the image where none are given."""

    def __init__(self, channels: int, token: int, heads: int, self_path: bool):
        super().__init__()
        self.heads = heads
        self.norm = nn.Parameter(torch.ones(channels))
        self.q, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.kv_tokens = nn.Linear(token, 2 * channels)
        self.kv_self = nn.Linear(channels, 2 * channels) if self_path else None
        nn.init.zeros_(self.out.weight)

    def _attend(self, q, kv):
        q, (k, v) = self._split(q), (self._split(t) for t in kv.chunk(2, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _split(self, t):
        return t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x, tokens, given, depth):
        n, c, h, w = x.shape
        flat = channel_norm(x, self.norm).permute(0, 2, 3, 1).reshape(n // depth, -1, c)
        q = self.q(flat)
        out = torch.zeros_like(q)
        if bool(given.any()):
            out[given] = self._attend(q[given], self.kv_tokens(tokens[given]))
        if self.kv_self is not None and not bool(given.all()):
            out[~given] = self._attend(q[~given], self.kv_self(flat[~given]))
        return x + self.out(out).view(n, h, w, c).permute(0, 3, 1, 2)


class FeatureTokens(nn.Module):
    """Raw values and a given-flag (B, F) to tokens (B, F, T) that carry each feature's identity, and a pooled vector."""

    def __init__(self, features: int, token: int, embedding: int, modalities: int = 1):
        super().__init__()
        self.identity = nn.Parameter(torch.randn(features, token) * 0.5)
        self.slope = nn.Parameter(torch.randn(features, token) * 0.5)
        self.missing = nn.Parameter(torch.zeros(features, token))
        self.mlp = nn.Sequential(
            nn.LayerNorm(token), nn.Linear(token, 2 * token), nn.SiLU(), nn.Linear(2 * token, token)
        )
        self.pool = nn.Sequential(
            nn.Linear(2 * features, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, embedding)
        )
        self.register_buffer("center", torch.zeros(modalities, features))
        self.register_buffer("scale", torch.ones(modalities, features))
        self.register_buffer("log", torch.zeros(modalities, features, dtype=torch.bool))

    def set_scaling(self, center: torch.Tensor, scale: torch.Tensor, log: torch.Tensor):
        """How raw feature values are standardised, each (M, F), one row per modality; in log where `log`."""
        self.center.copy_(center)
        self.scale.copy_(scale)
        self.log.copy_(log)

    def standardise(self, values: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
        """Raw values (B, F) of modality (B,) to a range of a few units, logarithmic far out."""
        seen = torch.where(self.log[modality], values.clamp_min(1e-12).log(), values)
        return torch.asinh((seen - self.center[modality]) / self.scale[modality])

    def forward(self, values, given, modality):
        g = given.to(values.dtype)
        v = torch.where(given, self.standardise(values, modality), torch.zeros_like(values))
        h = self.identity + v[..., None] * self.slope + (1 - g)[..., None] * self.missing
        return h + self.mlp(h), self.pool(torch.cat([v, g], 1))


class Down(nn.Module):
    """Halve in plane, and in depth where `deep`; a linear map of each block of voxels."""

    def __init__(self, channels_in: int, channels: int, deep: bool):
        super().__init__()
        self.deep = deep
        self.map = nn.Linear(channels_in * (8 if deep else 4), channels)

    def forward(self, x, depth):
        n, c, h, w = x.shape
        k = 2 if self.deep else 1
        v = x.permute(0, 2, 3, 1).reshape(n // k, k, h // 2, 2, w // 2, 2, c)
        v = v.permute(0, 2, 4, 1, 3, 5, 6).flatten(3)
        return self.map(v).permute(0, 3, 1, 2), depth // k


class Up(nn.Module):
    """Inverse of `Down`: a linear map to each block of voxels."""

    def __init__(self, channels_in: int, channels: int, deep: bool):
        super().__init__()
        self.k = 2 if deep else 1
        self.map = nn.Linear(channels_in, channels * 4 * self.k)

    def forward(self, x, depth):
        n, _, h, w = x.shape
        v = self.map(x.permute(0, 2, 3, 1)).view(n, h, w, self.k, 2, 2, -1).permute(0, 3, 1, 4, 2, 5, 6)
        return v.reshape(n * self.k, 2 * h, 2 * w, -1).permute(0, 3, 1, 2), depth * self.k


def time_embedding(m: torch.Tensor, size: int) -> torch.Tensor:
    """Sinusoids of log-spaced frequency of the bridge time m (B,) in [0, 1]; fine near 0 through its square root."""
    f = torch.exp(torch.linspace(0, 5, size // 2, device=m.device))
    a = m.sqrt()[:, None] * f[None] * 3.14159
    return torch.cat([a.sin(), a.cos()], 1)


class BridgeNetwork(nn.Module):
    """Predicts the clean latent x0.

    forward(x, y, conditions (B, K, d, h, w), m (B,), modality (B,), values (B, F), given (B, F), removal (B,)) -> x0;
    x, y and the result are (B, C, d, h, w). `conditions` come from `condition_channels`. `region` (B,) is the number of the
    one that is painted; None is the first.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = c = config
        w, e = c.widths, c.embedding
        inputs = 2 * c.latent_channels + condition_count(c.regions)
        self.tokens = FeatureTokens(c.features, c.token, e, c.modalities * c.regions)
        self.modality = nn.Embedding(c.modalities, e)
        self.region = nn.Embedding(c.regions, e) if c.regions > 1 else None
        self.removal = nn.Embedding(2, e)
        self.time = nn.Sequential(nn.Linear(64, e), nn.SiLU(), nn.Linear(e, e))
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(e, e), nn.SiLU())
        self.enter = SliceConv(inputs, w[0])
        self.enc = nn.ModuleList(nn.ModuleList(ResBlock(k, k, e) for _ in range(c.blocks)) for k in w)
        self.dec = nn.ModuleList(
            nn.ModuleList(ResBlock(2 * k if i == 0 else k, k, e) for i in range(c.blocks)) for k in w[:2]
        )
        self.mid = nn.ModuleList(ResBlock(w[2], w[2], e) for _ in range(c.blocks))
        self.down = nn.ModuleList([Down(w[0], w[1], False), Down(w[1], w[2], True)])
        self.up = nn.ModuleList([Up(w[1], w[0], False), Up(w[2], w[1], True)])
        self.attend = nn.ModuleDict(
            {
                "enc1": Attention(w[1], c.token, c.heads, False),
                "enc2": Attention(w[2], c.token, c.heads, True),
                "mid": Attention(w[2], c.token, c.heads, True),
                "dec1": Attention(w[1], c.token, c.heads, False),
            }
        )
        self.leave = SliceConv(w[0], c.latent_channels)
        nn.init.zeros_(self.leave.weight)

    def scaling_row(self, modality: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
        """Row (B,) of the feature scaling: each modality has one per region."""
        return (
            modality
            if self.region is None
            else modality * self.config.regions + (0 if region is None else region)
        )

    def embed(self, m, modality, values, given, removal, region=None):
        """FiLM embedding (B, E) and feature tokens (B, F, T)."""
        row = self.scaling_row(modality, region)
        tokens, pooled = self.tokens(values, given & ~removal[:, None], row)
        emb = self.time(time_embedding(m, 64)) + self.modality(modality) + self.removal(removal.long())
        if self.region is not None:
            emb = emb + self.region(torch.zeros_like(modality) if region is None else region)
        return self.mix(emb + pooled), tokens

    def forward(self, x, y, conditions, m, modality, values, given, removal, region=None):
        emb, tokens = self.embed(m, modality, values, given, removal, region)
        cross, depth = ~removal, x.shape[2]
        h = self.enter(_slices(torch.cat([x, y, conditions], 1)), depth)
        for block in self.enc[0]:
            h = block(h, emb, depth)
        skip0 = h
        h, depth1 = self.down[0](h, depth)
        for block in self.enc[1]:
            h = block(h, emb, depth1)
        skip1 = h = self.attend["enc1"](h, tokens, cross, depth1)
        h, depth2 = self.down[1](h, depth1)
        for block in self.enc[2]:
            h = block(h, emb, depth2)
        h = self.attend["enc2"](h, tokens, cross, depth2)
        for i, block in enumerate(self.mid):
            h = block(h, emb, depth2)
            if i == 0:
                h = self.attend["mid"](h, tokens, cross, depth2)
        h, _ = self.up[1](h, depth2)
        h = torch.cat([h, skip1], 1)
        for i, block in enumerate(self.dec[1]):
            h = block(h, emb, depth1)
            if i == 0:
                h = self.attend["dec1"](h, tokens, cross, depth1)
        h, _ = self.up[0](h, depth1)
        h = torch.cat([h, skip0], 1)
        for block in self.dec[0]:
            h = block(h, emb, depth)
        return y + _volumes(self.leave(F.silu(h), depth), depth)


def _slices(x: torch.Tensor) -> torch.Tensor:
    b, c, d, h, w = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(b * d, h, w, c).permute(0, 3, 1, 2)


def _volumes(x: torch.Tensor, depth: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n // depth, depth, c, h, w).transpose(1, 2)


def condition_count(regions: int) -> int:
    """Channels that `condition_channels` makes."""
    return 8 * regions + 8 + 2


def condition_channels(regions: torch.Tensor, valid: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Input channels at latent resolution.

    regions (B, R, D, H, W) one binary mask per region, valid (B, 1, D, H, W) inside the image,
    distance (B, 2, D/2, H/2, W/2): signed distance to the mask's border / 20 mm clipped to +-1, and / 5 mm.
    """
    from TumorSynthLib.texture.codec import blocks

    parts = [blocks(regions[:, i : i + 1]) for i in range(regions.shape[1])]
    return torch.cat([*parts, blocks(valid), distance], 1)

"""The shape generator of the paper: a conditional 3-D GAN in the manner of GigaGAN, that gives a field of 32³.

Every feature is a token [value, identity, given or not]; tokens reach the generator by cross-attention at 4³ and 8³ and
by the style that modulates its convolutions. Kernels of the coarse levels are mixtures that the style selects; self-attention is
at 4³. The discriminator looks at three sizes and is conditioned by projection and cross-attention; the encoder (training
only) gives the latent code of a real shape. Sizes are told apart from form: values are logarithms of features divided by their
power of the radius of the ball of the same volume, and that radius is a token of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ModelError
from ..threads import one_thread
from .coordinates import NAMES, SCALE, V, rows
from .field import whole, widened
from .solver import Form

SIDE = 32
VALUES = len(NAMES) + 1  # the features, and the radius
MARGIN = 3  # cells around what is drawn, for the solver to move in
SMALLEST = 0.002  # share of the cube that a form fills at least
REACH = 4.0  # standardised values are not extrapolated beyond


@dataclass(frozen=True)
class ShapeConfig:
    """Everything that fixes the tensors' shapes. `groups` are the populations the weights were trained on."""

    groups: tuple[str, ...] = ("tumour",)
    widths: tuple[int, ...] = (64, 48, 16)
    token: int = 48
    style: int = 96
    code: int = 48
    heads: int = 4
    kernels: int = 2
    clip: float = 0.25

    def __post_init__(self):
        if len(self.widths) != 3 or any(w % self.heads for w in self.widths):
            raise ModelError(
                f"shape network widths must be three multiples of {self.heads}, not {self.widths}"
            )

    @classmethod
    def from_dict(cls, d: Mapping) -> ShapeConfig:
        unknown = set(d) - set(cls.__dataclass_fields__)
        if unknown:
            raise ModelError(
                f"unknown shape network option(s) {sorted(unknown)}; install a newer version to use this model"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in d.items()})

    def as_dict(self) -> dict:
        return asdict(self)


def free_of_size(logs: np.ndarray) -> np.ndarray:
    """(n, 18) logarithms of the 17 features over their power of the radius, and of the radius, of base logs (n, 10)."""
    radius = (logs[:, V] + math.log(3 / (4 * math.pi))) / 3
    weights, constants = rows(NAMES)
    return np.column_stack([(logs - radius[:, None] * SCALE) @ weights.T + constants, radius])


class Tokens(nn.Module):
    """Values (B, 18), flags (B, 18), groups (B,) -> tokens (B, 19, T): one per value, one for the group."""

    def __init__(self, config: ShapeConfig):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(config.groups), VALUES))
        self.register_buffer("std", torch.ones(len(config.groups), VALUES))
        self.identity = nn.Parameter(0.5 * torch.randn(VALUES, config.token))
        self.missing = nn.Parameter(0.5 * torch.randn(VALUES, config.token))
        self.group = nn.Parameter(0.5 * torch.randn(len(config.groups), config.token))
        self.gain = nn.Parameter(torch.randn(VALUES, config.token))
        self.mix = nn.Sequential(
            nn.Linear(config.token, config.token), nn.SiLU(), nn.Linear(config.token, config.token)
        )

    def standardised(self, values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        return ((values - self.mean[group]) / self.std[group]).clamp(-REACH, REACH)

    def forward(self, values: torch.Tensor, given: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        z = self.standardised(values, group)[..., None]
        tokens = torch.where(
            given[..., None], self.identity + z * self.gain, self.missing.expand(len(z), -1, -1)
        )
        tokens = torch.cat([tokens, self.group[group][:, None]], 1)
        return tokens + self.mix(tokens)


class Attention(nn.Module):
    """Self-attention over the positions of x (B, C, n, n, n), or cross-attention to tokens (B, N, T); residual."""

    def __init__(self, channels: int, heads: int, token: int | None = None):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(token or channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.normal_(self.out.weight, 0, 0.02)

    def _split(self, t: torch.Tensor) -> torch.Tensor:
        return t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        flat = x.flatten(2).transpose(1, 2)
        seen = self.norm(flat)
        k, v = self.kv(seen if tokens is None else tokens).chunk(2, -1)
        found = F.scaled_dot_product_attention(self._split(self.q(seen)), self._split(k), self._split(v))
        flat = flat + self.out(found.transpose(1, 2).flatten(2))
        return flat.transpose(1, 2).reshape(x.shape)


class StyledConv(nn.Module):
    """A convolution whose inputs are scaled by the style and whose outputs are normalised (StyleGAN2), its kernel a mixture
    that the style selects (GigaGAN)."""

    def __init__(self, channels_in: int, channels: int, style: int, kernels: int = 1):
        super().__init__()
        self.kernels, self.channels = kernels, channels
        self.weight = nn.Parameter(
            torch.randn(kernels * channels, channels_in, 3, 3, 3) / math.sqrt(27 * channels_in)
        )
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = nn.Linear(style, channels_in)
        self.choose = nn.Linear(style, kernels) if kernels > 1 else None
        nn.init.ones_(self.scale.bias)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        scale = self.scale(style)
        out = _convolved(x * scale[:, :, None, None, None], self.weight)
        energy = (self.weight**2).sum((2, 3, 4))  # (kernels · channels, channels_in)
        size = (scale**2) @ energy.T
        if self.choose is not None:
            share = self.choose(style).softmax(-1)
            out = (
                out.view(len(x), self.kernels, self.channels, *x.shape[2:])
                * share[:, :, None, None, None, None]
            ).sum(1)
            size = (size.view(len(x), self.kernels, -1) * share[:, :, None] ** 2).sum(1)
        out = out * (size + 1e-6).rsqrt()[:, :, None, None, None]
        return F.leaky_relu(out + self.bias[:, None, None, None], 0.2) * 1.4


class Generator(nn.Module):
    """Code (B, Z), values (B, 18), flags (B, 18) bool, groups (B,) -> field (B, 1, 32, 32, 32) in (-1, 1): distance / clip."""

    def __init__(self, config: ShapeConfig):
        super().__init__()
        self.config = config
        w, s = config.widths, config.style
        self.tokens = Tokens(config)
        self.style = nn.Sequential(
            nn.Linear(config.code + config.token * (VALUES + 1), s),
            nn.SiLU(),
            nn.Linear(s, s),
            nn.SiLU(),
            nn.Linear(s, s),
        )
        self.start = nn.Parameter(torch.randn(1, w[0], 4, 4, 4))
        self.place = nn.Linear(config.code, w[0] * 64)
        pairs = ((w[0], w[0]), (w[0], w[1]), (w[1], w[1]), (w[1], w[2]), (w[2], w[2]))
        kernels = (config.kernels, config.kernels, 1, 1, 1)
        self.convs = nn.ModuleList(StyledConv(a, b, s, k) for (a, b), k in zip(pairs, kernels))
        self.look = Attention(w[0], config.heads)
        self.crosses = nn.ModuleList(Attention(c, config.heads, config.token) for c in w[:2])
        self.last = nn.Conv3d(w[2], 32, 3, padding=1)
        self.out = nn.Conv3d(4, 1, 3, padding=1)

    def forward(self, code, values, given, group) -> torch.Tensor:
        tokens = self.tokens(values, given, group)
        style = self.style(torch.cat([code, tokens.flatten(1)], 1))
        x = self.start + self.place(code).view(-1, *self.start.shape[1:])
        x = self.crosses[0](self.look(self.convs[0](x, style)), tokens)
        x = self.convs[1](_doubled(x), style)
        x = self.crosses[1](self.convs[2](x, style), tokens)
        x = self.convs[4](self.convs[3](_doubled(x), style), style)
        x = F.leaky_relu(_shuffled(_convolved(x, self.last.weight, self.last.bias)), 0.2)
        return torch.tanh(_convolved(x, self.out.weight, self.out.bias) - 0.5)


def _convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The convolution of x (B, C, D, H, W) with a kernel (O, C, 3, 3, 3), padded by one.

    One form alone, as a preview needs it, is convolved slice by slice: torch's own way in 3-D takes three times as long on a CPU.
    """
    if len(x) > 1 or torch.is_grad_enabled():
        return F.conv3d(x, weight, bias, padding=1)
    flat = weight.permute(2, 0, 1, 3, 4).flatten(0, 1)  # (3 · O, C, 3, 3)
    below, here, above = F.conv2d(x[0].transpose(0, 1), flat, padding=1).chunk(3, 1)
    out = here + bias[:, None, None] if bias is not None else here.clone()
    out[1:] += below[:-1]
    out[:-1] += above[1:]
    return out.transpose(0, 1)[None]


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


def _shuffled(x: torch.Tensor) -> torch.Tensor:
    """(B, 8 C, n, n, n) -> (B, C, 2n, 2n, 2n)."""
    b, c, n = x.shape[0], x.shape[1] // 8, x.shape[2]
    return x.view(b, c, 2, 2, 2, n, n, n).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c, 2 * n, 2 * n, 2 * n)


class FormGenerator:
    """The generator of a bundle as the engine uses it: forms for base logarithms and a seed."""

    def __init__(self, network: Generator, group: str, device: str = "cpu"):
        self.network = network.eval()
        self.group = network.config.groups.index(group)
        self.device = device

    @classmethod
    def load(
        cls, config: Mapping, weights: Mapping[str, torch.Tensor], model: str, device: str = "auto"
    ) -> FormGenerator:
        """From a bundle's manifest entry {"config", "group"} and tensors; it is small, so it stays on the CPU.

        :raises ModelError: weights that don't fit.
        """
        try:
            shapes = ShapeConfig.from_dict(config["config"])
            with torch.device("meta"):  # takes no memory
                needed = sum(p.numel() for p in Generator(shapes).parameters())
            if needed > sum(v.numel() for v in weights.values()):
                raise ValueError(f"the network has {needed:,} weights, the file fewer")
            network = Generator(shapes)
            state = {k: v.float() for k, v in weights.items()}
            network.load_state_dict(state)
            return cls(network, config["group"])
        except (RuntimeError, KeyError, TypeError, ValueError, AssertionError, ArithmeticError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"model {model!r}: its shape weights don't fit its network; install it again ({first})"
            ) from None

    @torch.inference_mode()
    def field(self, logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(32, 32, 32) distances in u, as the network gives them."""
        code = torch.from_numpy(rng.normal(size=(1, self.network.config.code))).float()
        values = torch.from_numpy(free_of_size(np.asarray(logs)[None])).float()
        given = torch.ones(1, VALUES, dtype=torch.bool)
        with one_thread():
            field = self.network(code, values, given, torch.tensor([self.group]))[0, 0]
        return field.double().numpy() * self.network.config.clip

    def form(self, logs: np.ndarray, seed: int) -> Form:
        """A form for base logarithms (10,), not yet scaled."""
        rng = np.random.default_rng([seed, 3])
        # Mirror images have the same features, so they are as likely.
        field = np.flip(self.field(logs, rng), tuple(a for a in range(3) if rng.random() < 0.5))
        values, factor = widened(field, MARGIN)
        solid = whole(values)
        if (solid > 0).mean() < SMALLEST:  # crumbs: where most of them are, is a tumour
            from scipy import ndimage

            blurred = ndimage.gaussian_filter(values, 3.0)
            solid = whole(blurred - np.quantile(blurred, 0.95))
        return Form(solid, np.eye(3) * factor)

"""Brownian bridge between a masked image and a tumour image: schedule, forward process, sampler step.

x_t = (1 - m) x0 + m y + sqrt(delta) eps with m = t / T and delta = 2 s (m - m^2) (paper, equations 1-2; BBDM).
The network predicts x0; equation 4's noise target is the same information, eps_theta = x_t - x0.
A step from m to n < m follows DBIM: eta = 1 is BBDM's own ancestral step, eta = 0 its deterministic counterpart.
No network is imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from TumorSynthLib.errors import InputError

FEW_STEP_NODES = (1.0, 0.62, 0.32, 0.14, 0.05, 0.004)  # dense near 0, where fine texture is decided


@dataclass(frozen=True)
class Bridge:
    """The schedule; `scale` is the paper's s, the largest variance is scale / 2 at the middle."""

    scale: float = 1.0

    def deviation(self, m: float) -> float:
        """Standard deviation sqrt(delta) of x_t around its mean, m in [0, 1]."""
        return math.sqrt(max(2.0 * self.scale * m * (1.0 - m), 0.0))

    def noised(self, x0: torch.Tensor, y: torch.Tensor, m: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t for latents (B, C, D, H, W) and m of shape (B,)."""
        m = m.view(-1, *([1] * (x0.ndim - 1)))
        return (1 - m) * x0 + m * y + (2.0 * self.scale * m * (1 - m)).clamp_min(0).sqrt() * noise

    def step(self, x, x0, y, m: float, n: float, eta: float, noise: torch.Tensor) -> torch.Tensor:
        """From x at m to n < m, given the prediction x0 of the clean latent; `noise` is standard normal.

        At m = 1 the state is y itself, so the first step draws all of its variance afresh whatever eta is.
        """
        if not 0 <= n < m <= 1:
            raise InputError(f"a bridge step goes down within [0, 1], not from {m} to {n}")
        mean = n * y + (1 - n) * x0
        if n == 0:
            return mean
        c_n, c_m = self.deviation(n), self.deviation(m)
        if c_m == 0:
            return mean + c_n * noise
        ratio = (c_n * (1 - m)) / (c_m * (1 - n))
        rho = eta * c_n * math.sqrt(max(1 - ratio * ratio, 0.0))
        kept = math.sqrt(max(c_n * c_n - rho * rho, 0.0)) / c_m
        return mean + kept * (x - m * y - (1 - m) * x0) + rho * noise


def nodes(steps: int | None, few: tuple[float, ...] = FEW_STEP_NODES) -> tuple[float, ...]:
    """Descending times in (0, 1] at which the network is evaluated.

    None gives `few`, the model's own nodes. Up to 16 steps interpolate `few`; more are uniform, as in the paper.
    """
    if steps is None or steps == len(few):
        return tuple(few)
    if not 1 <= steps <= 1000:
        raise InputError(f"steps must be between 1 and 1000, not {steps}")
    if steps > 16:
        return tuple(1 - i / steps for i in range(steps))
    if steps == 1:
        return (1.0,)
    logs = [math.log(v) for v in few]
    positions = [i * (len(few) - 1) / (steps - 1) for i in range(steps)]
    low = [min(int(p), len(few) - 2) for p in positions]
    return tuple(math.exp(logs[i] + (p - i) * (logs[i + 1] - logs[i])) for i, p in zip(low, positions))

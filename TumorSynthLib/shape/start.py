"""The form to start from where there is no network: a super-ellipsoid with the asked axes, turned so that the diameters within
slices, columns and rows come out right, with random low bumps."""

from __future__ import annotations

import numpy as np

from .coordinates import D3, DX, DY, DZ, L1, L2, L3
from .field import Waves, closed, grid
from .solver import Form

EXTENT = 0.64  # half the widths of a new form in u: bumps need room
TURNS = 300  # random rotations to choose from
BUMPS = 0.05  # standard deviation of the bumps in u


def analytic(logs: np.ndarray, seed: int, n: int = 32) -> Form:
    """A form with about the base logarithms (10,); another for every seed."""
    rng = np.random.default_rng([seed, 0])
    axes = np.exp(logs[[L1, L2, L3]]) * np.sqrt(5) / 4  # half axes of the ellipsoid with these moments
    turn = _turn(axes, logs, rng)
    power = rng.uniform(1.8, 2.6)
    waves = Waves.draw(rng, 24, 3.0, 7.0, 1.0, 1.5)
    bumps = waves.on_grid(rng.normal(size=24) * waves.heights, n)
    radius = (np.abs(grid(n)) ** power).sum(-1) ** (1 / power)
    values = closed(EXTENT - radius + BUMPS * bumps / bumps.std())
    return Form(values, turn @ np.diag(axes / EXTENT))


def _turn(axes: np.ndarray, logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the rotations for which an ellipsoid's diameters across z, y and x are nearest to those asked."""
    turns = np.linalg.qr(rng.normal(size=(TURNS, 3, 3)))[0]
    form = np.einsum("tij,j,tkj->tik", turns, axes**-2.0, turns)
    gaps = np.zeros(TURNS)
    for axis, k in ((0, DZ), (1, DY), (2, DX)):
        a, b = (i for i in range(3) if i != axis)
        mean, half = (form[:, a, a] + form[:, b, b]) / 2, (form[:, a, a] - form[:, b, b]) / 2
        least = mean - np.hypot(half, form[:, a, b])
        widths = -0.5 * np.log(np.maximum(least, 1e-12)) - np.log(axes[0])
        gaps += (widths - (logs[k] - logs[D3])) ** 2
    return turns[rng.choice(np.argsort(gaps)[:4])]

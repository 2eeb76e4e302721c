"""Forms of real tumours, from which a model's shapes are grown: turned, mirrored and bent, then brought to what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError
from .coordinates import SCALE, V, rows
from .field import EXTENT, Waves, closed, from_mask, grid
from .solver import Form, draw, sharpened

CELLS, MOST_CELLS = 48, 64
"""Along each side of a form's field: as many as its mask has voxels, within these bounds."""
SMOOTH = 0.5
"""Voxels by which a form's steps are smoothed; with the 0.7 of `field.SMOOTH` forms lose half of their fine relief."""
LARGEST_CELLS = 64
"""Along a side of a stored mask."""
TILT = 0.15
"""Standard deviation (radians) of the axis around which a form is turned, off the body's long axis: slices stay slices."""
BENT = 0.05
"""Root mean square of the displacement by which a form is bent, in half sides of its cube; its waves are long."""
NEAR = 0.35
"""Standard deviations of the population, over which forms near a request are as good as the nearest."""
LEAST = 0.03
"""Standard deviation of a feature's logarithm, at least, by which forms are told apart."""
MEASURED_VOXELS = 6000
"""Of a form, when what bending did to its features is measured."""


@dataclass(frozen=True)
class Forms:
    """:param masks: (D, H, W) bool each, `edges` (N,) mm of their voxels, `logs` (N, 10) base logarithms of the tumours."""

    masks: tuple[np.ndarray, ...]
    edges: np.ndarray
    logs: np.ndarray

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray], table: np.ndarray) -> Forms:
        """From a bundle's file: `bits` of all masks, packed one after another, their `shape` (N, 3), `edge` (N,) in
        mm, and `row` (N,) in the population's `table` (cases, 10) of base logarithms.

        :raises ModelError: it is damaged.
        """
        try:
            shapes, rows_, edges = (np.asarray(tensors[k]) for k in ("shape", "row", "edge"))
            sizes = [-(-int(np.prod(s)) // 8) for s in shapes.tolist()]
            fits = len(shapes) == len(rows_) == len(edges) > 0 and shapes.shape[1:] == (3,)
            fits = fits and shapes.min() > 0 and shapes.max() <= LARGEST_CELLS
            fits = (
                fits and sum(sizes) == len(tensors["bits"]) and 0 <= rows_.min() <= rows_.max() < len(table)
            )
            if not fits or not np.isfinite(edges).all() or edges.min() <= 0:
                raise ValueError("sizes that don't fit")
            parts = np.split(np.asarray(tensors["bits"], np.uint8), np.cumsum(sizes)[:-1])
            masks = tuple(
                np.unpackbits(bits, count=int(np.prod(s))).reshape(s).astype(bool)
                for bits, s in zip(parts, shapes)
            )
            if not all(mask.any() for mask in masks):
                raise ValueError("an empty form")
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's forms of tumours are damaged ({error}): install the model again"
            ) from None
        return cls(masks, edges.astype(float), table[rows_])

    @classmethod
    def joined(cls, parts: Sequence[Forms]) -> Forms:
        """The forms of several models."""
        masks = tuple(mask for part in parts for mask in part.masks)
        return cls(masks, *(np.concatenate([getattr(p, n) for p in parts]) for n in ("edges", "logs")))

    @staticmethod
    def packed(masks: Sequence[np.ndarray], edges: Sequence[float], rows_: Sequence[int]) -> dict:
        """The tensors of `of`; each mask in its tight box."""
        return {
            "bits": np.concatenate([np.packbits(m.ravel()) for m in masks]),
            "shape": np.array([m.shape for m in masks], np.int32), "edge": np.array(edges, np.float32),
            "row": np.array(rows_, np.int32),
        }  # fmt: skip

    def chosen(self, asked: Mapping[str, float], covariance: np.ndarray, rng: np.random.Generator) -> int:
        """One of the forms nearest to a request, by chance.

        :param covariance: (10, 10) of the population's base logarithms.
        """
        off = np.zeros(len(self.logs))
        if asked:
            weights, constants = rows(list(asked))
            goal = np.log(list(asked.values())) - constants
            gap = goal - self.logs @ weights.T  # (N, asked)
            sized = weights @ SCALE / 3
            if sized.any():  # another size is a step of its own, the rest is told on the scaled form
                step = gap @ sized / (sized @ sized)
                gap = gap - step[:, None] * sized
                off += step**2 / covariance[V, V]
            weights = weights - sized[:, None] * np.eye(len(SCALE))[V]
            spread = np.sqrt(np.einsum("fi,ij,fj->f", weights, covariance, weights))
            off += ((gap / np.maximum(spread, LEAST)) ** 2).sum(1)
        chance = np.exp(-(off - off.min()) / (2 * NEAR**2))
        return int(rng.choice(len(chance), p=chance / chance.sum()))

    def form(self, index: int, rng: np.random.Generator) -> tuple[Form, np.ndarray]:
        """A form turned, mirrored and bent, and its base logarithms (10,)."""
        mask, edge = self.masks[index], float(self.edges[index])
        cells = int(np.clip(max(mask.shape) / EXTENT, CELLS, MOST_CELLS))
        values, matrix = from_mask(mask, (edge,) * 3, cells, SMOOTH, order=3)
        plain = sharpened(Form(values, matrix, beads=True), self.logs[index], (edge,) * 3)
        other = Form(bent(plain.values, rng), turn(rng) @ matrix, beads=True)
        change = _measured(other) - _measured(plain)
        return other, self.logs[index] + change


def turn(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) turn about the body's long axis by any angle, a small tilt, mirrored or not; axes z, y, x."""
    a, b = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    tilt = np.clip(rng.normal(0, TILT), -2 * TILT, 2 * TILT)

    def about(u: float) -> np.ndarray:
        return np.array([[1, 0, 0], [0, np.cos(u), -np.sin(u)], [0, np.sin(u), np.cos(u)]])

    leaning = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    flips = np.diag(rng.choice([-1.0, 1.0], 3))
    return about(b) @ leaning @ about(a) @ flips


def bent(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A field moved by a smooth random displacement."""
    from scipy import ndimage

    n = len(values)
    index = np.moveaxis((grid(n) + 1) * ((n - 1) / 2), -1, 0)
    for k in range(3):
        waves = Waves.draw(rng, 12, 2.0, 4.5, 1.0, 1.0)
        push = waves.on_grid(rng.normal(size=12) * waves.heights, n)
        index[k] += push * (BENT * (n - 1) / 2 / max(float(push.std()), 1e-9))
    return closed(ndimage.map_coordinates(values, index, order=3, mode="nearest"))


def _measured(form: Form) -> np.ndarray:
    """(10,) base logarithms of a form on cubes of which it has `MEASURED_VOXELS`."""
    edge = (abs(form.surface.volume) / MEASURED_VOXELS) ** (1 / 3)
    return draw(form, (edge,) * 3).found.logs

"""Smooth scalar fields whose positive part is a tumour: sampled on a small cube, drawn on any voxel grid.

A field lives on the cube [-1, 1]³ (coordinates u, axes z, y, x) and is about the signed distance to the surface, positive
inside. A matrix (3, 3) of mm per unit of u says how large, stretched and turned the tumour is: x = matrix @ u.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .surface import around, surface_nets

EXTENT = 0.8  # half the largest width of a new field's tumour, in u
ROOM = 0.86  # half the width from which a field gets more room around
SMOOTH = 0.7  # voxels by which a mask's steps are smoothed
NECKS = (1, 2)  # cells on either side of a thread's middle
BODY = 0.8  # of what is left beside the necks: the part of a tumour without which the others would be lobes
BAND = 3.0  # half-cells beside the surface within which a field is interpolated smoothly
COARSE = 120_000  # voxels of a grid that is interpolated point by point; finer grids are, from a coarser one, axis by axis


@dataclass(frozen=True)
class Waves:
    """Random smooth fields, cosines of random direction: wave numbers (p, 3), phases (p,), usual heights (p,) in u."""

    numbers: np.ndarray
    phases: np.ndarray
    heights: np.ndarray

    @classmethod
    def draw(
        cls, rng: np.random.Generator, count: int, low: float, high: float, height: float, slope: float = 1.5
    ):
        """`count` waves with `low` to `high` radians per unit of u, evenly in the logarithm; longer ones are higher."""
        size = low * (high / low) ** ((np.arange(count) + rng.random()) / count % 1)
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return cls(
            direction * size[:, None], rng.uniform(0, 2 * np.pi, count), height * (size / low) ** -slope
        )

    def at(self, points: np.ndarray) -> np.ndarray:
        """(n, p) values at points (n, 3)."""
        return np.cos((points @ self.numbers.T + self.phases).astype(np.float32))

    def on_grid(self, weights: np.ndarray, n: int) -> np.ndarray:
        """(n, n, n) sum of the waves with the given weights (p,)."""
        line = np.linspace(-1, 1, n)
        z, y, x = (np.exp(1j * line[:, None] * self.numbers[:, a]).astype(np.complex64) for a in range(3))
        plane = (z * (weights * np.exp(1j * self.phases)).astype(np.complex64))[:, None] * y[None]
        real = np.concatenate([plane.real, -plane.imag], 2).reshape(n * n, -1)
        return (real @ np.concatenate([x.real, x.imag], 1).T).reshape(n, n, n)


def grid(n: int) -> np.ndarray:
    """Coordinates u (n, n, n, 3)."""
    line = np.linspace(-1, 1, n)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), -1)


def closed(values: np.ndarray) -> np.ndarray:
    """The field, negative at the border of its cube, so that its surface is closed."""
    values = np.array(values, np.float64)
    for axis in range(3):
        side = np.moveaxis(values, axis, 0)
        side[[0, -1]] = np.minimum(side[[0, -1]], -1e-3)
    return values


def whole(values: np.ndarray, beads: bool = True) -> np.ndarray:
    """The field of its largest part alone, without holes, and closed.

    :param beads: keep what hangs on the largest part by a thread; a new form has no such parts.
    """
    values = closed(values)
    if not (values > 0).any():  # nothing to be seen: its highest part is taken
        values = closed(values - np.quantile(values, 0.98))
    inside = one_piece(values > 0)
    if not beads:
        inside = unstrung(inside)
    wrong = inside != (values > 0)
    if wrong.any():  # sunk with what is around them, so that the next change doesn't bring them back
        from scipy import ndimage

        depth = 3.0 / len(values)
        near = ndimage.binary_dilation(wrong, iterations=2)
        beside = ndimage.binary_dilation(inside) != ndimage.binary_erosion(
            inside
        )  # where the surface is made
        sunk = np.where(inside, np.maximum(values, depth), np.minimum(values, -depth))
        values = np.where(wrong | (near & ~beside), sunk, values)
    return values


def unstrung(mask: np.ndarray) -> np.ndarray:
    """A mask in one piece without its beads: what is cut off where `NECKS` voxels are taken away on all sides, and its thread.

    Where no part is by far the largest, they are lobes and stay.
    """
    from scipy import ndimage

    for neck in NECKS:
        box = around(mask)
        part = mask[box]
        labels, count = ndimage.label(ndimage.binary_erosion(part, iterations=neck), np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        if count < 2 or sizes.max() < BODY * sizes.sum():
            continue
        main = labels == sizes.argmax() + 1
        beads = ndimage.binary_dilation((labels > 0) & ~main, iterations=neck + 2)
        mask = mask.copy()
        mask[box] &= ~beads | ndimage.binary_dilation(main, iterations=neck)
        mask = one_piece(mask)
    return mask


def widened(values: np.ndarray, cells: int) -> tuple[np.ndarray, float]:
    """The field on a cube that has so many more cells at each side; and how much longer its unit of u is."""
    size = len(values)
    factor = (size + 2 * cells - 1) / (size - 1)
    beyond = np.maximum(0, np.abs(np.arange(size + 2 * cells) - (size - 1) / 2 - cells) - (size - 1) / 2)
    distance = np.sqrt(beyond[:, None, None] ** 2 + beyond[None, :, None] ** 2 + beyond[None, None] ** 2)
    return (np.pad(values, cells, mode="edge") - distance * (2 / (size - 1))) / factor, factor


def outline(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Surface of a field: vertices (V, 3) in u, faces (F, 3) that turn outwards in (z, y, x)."""
    vertices, faces = surface_nets(values)
    return vertices * (2 / (values.shape[0] - 1)) - 1, faces


def sample(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values at points u (n, 3); beyond the cube those of its border."""
    from scipy import ndimage

    return ndimage.map_coordinates(
        values, (points.T + 1) * ((values.shape[0] - 1) / 2), order=1, mode="nearest"
    )


def gradient(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 3) slope per unit of u at points (n, 3)."""
    parts = np.gradient(values, 2 / (values.shape[0] - 1))
    return np.stack([sample(part, points) for part in parts], -1)


def from_mask(
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    n: int = 48,
    smooth: float = SMOOTH,
    order: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Field (n, n, n) and matrix (3, 3) of an existing tumour: (D, H, W) bool on a grid of `spacing` (x, y, z) mm.

    The mask's stair steps are smoothed by about so many voxels. The origin of u is the mask's centre of mass.

    :param order: of the interpolation; with 3 the field keeps the finest relief.
    """
    from scipy import ndimage

    steps = np.array(spacing[::-1], float)
    padded = np.pad(mask, 3)
    # The surface runs half-way between the last voxel inside and the first outside.
    inner = ndimage.distance_transform_edt(padded, steps)
    outer = ndimage.distance_transform_edt(~padded, steps)
    distance = np.where(padded, inner - steps.min() / 2, steps.min() / 2 - outer)
    distance = ndimage.gaussian_filter(distance, smooth * steps.min() / steps)
    points = np.argwhere(padded) * steps
    centre = points.mean(0)
    reach = np.abs(points - centre).max() + steps.min()
    scale = reach / EXTENT
    index = np.moveaxis((grid(n) * scale + centre) / steps, -1, 0)
    values = ndimage.map_coordinates(distance, index, order=order, mode="nearest")
    beyond = np.maximum(0, np.maximum(-index, index - np.array(padded.shape).reshape(3, 1, 1, 1) + 1))
    values = values - np.sqrt((beyond**2 * steps.reshape(3, 1, 1, 1) ** 2).sum(0))
    return closed(values / scale), np.eye(3) * scale


def rasterise(
    values: np.ndarray,
    matrix: np.ndarray,
    spacing: tuple[float, float, float],
    reach: np.ndarray,
    shift: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The field on a voxel grid: (D, H, W) float32 values, and the index (3,) of the origin of u in it.

    :param spacing: (x, y, z) mm; :param reach: (3,) mm from the origin (z, y, x) that the grid has to cover.
    :param shift: (3,) voxels by which the origin is off a voxel's centre.
    """
    from scipy import ndimage

    steps = np.array(spacing[::-1], float)
    half = np.ceil(reach / steps).astype(int) + 2
    origin = half + (np.zeros(3) if shift is None else shift)
    axes = [(np.arange(2 * h + 1) - o) * s for h, o, s in zip(half, origin, steps)]
    spline = ndimage.spline_filter(values, 3, mode="mirror")
    if np.prod([len(a) for a in axes]) <= COARSE:
        return _points(values, spline, matrix, axes), origin
    factor = (np.prod([len(a) for a in axes]) / COARSE) ** (1 / 3)
    coarse, weights = zip(*(_thinned(a, factor) for a in axes))
    result = _points(values, spline, matrix, coarse)
    for axis, weight in enumerate(weights):
        result = np.moveaxis(np.tensordot(weight, result, (1, axis)), 0, axis)
    return np.ascontiguousarray(result), origin


def _points(values: np.ndarray, spline: np.ndarray, matrix: np.ndarray, axes) -> np.ndarray:
    """Values at all points (mm) of a grid of three axes: cubic near the surface, linear elsewhere."""
    from scipy import ndimage

    inverse, n = np.linalg.inv(matrix), spline.shape[0]
    z, y, x = (np.multiply.outer(inverse[:, k], np.asarray(a)) for k, a in enumerate(axes))
    u = z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]
    beyond = np.maximum(np.abs(u).max(0) - 1, 0)
    index = (u + 1) * ((n - 1) / 2)
    result = ndimage.map_coordinates(values, index, order=1, mode="nearest")
    near = np.abs(result) < BAND / n
    result[near] = ndimage.map_coordinates(spline, index[:, near], order=3, mode="nearest", prefilter=False)
    return (result - beyond).astype(np.float32)


def _thinned(axis: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Fewer points along an axis, and the weights (fine, coarse) of a cubic convolution back to all of them (Keys 1981)."""
    if len(axis) < 12:
        return axis, np.eye(len(axis), dtype=np.float32)
    step = (axis[1] - axis[0]) * max(1.0, factor)
    coarse = np.arange(axis[0] - 2 * step, axis[-1] + 3 * step, step)
    t = np.abs((axis[:, None] - coarse[None]) / step)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return coarse, np.where(t <= 1, near, np.where(t < 2, far, 0.0)).astype(np.float32)


def one_piece(mask: np.ndarray) -> np.ndarray:
    """The largest connected part (through faces) with its holes filled."""
    from scipy import ndimage

    box = around(mask)
    part = mask[box]
    labels, count = ndimage.label(part)
    pieces = count
    if pieces > 1:
        part = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    outside, count = ndimage.label(~np.pad(part, 1))
    if pieces <= 1 and count <= 1:
        return mask
    result = np.zeros_like(mask)
    result[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return result

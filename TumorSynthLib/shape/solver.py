"""Bring a shape to asked features with as little change of its form as possible.

The shape is a field and a matrix (`field.py`). Each step measures the voxels themselves, predicts from the field's surface how
every feature follows a stretch, a set of smooth random waves on the surface and a change of its roughness, and takes the
smallest combination of those that should close the gap (damped Gauss-Newton). A large tumour is solved on a coarse grid; what
the features differ by on the fine one is measured and subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .coordinates import BASE, L1, A, V, W, rows
from .feasible import Target
from .field import Waves, closed, gradient, one_piece, outline, rasterise, sample
from .measure import Measure, measure
from .surface import Slopes, slopes

COARSE_VOXELS = 12_000  # of the tumour on the grid on which it is solved, where the asked grid has more
ITERATIONS = 14
CLOSE = 1.0  # root mean square of the asked gaps, in units of their tolerances, at which the loop ends
TOLERANCE = {"MeshVolume": 0.001, "VoxelVolume": 0.001}  # of the logarithm; else
USUAL_TOLERANCE = 0.003
STRETCH = 0.15  # usual size of a stretch, of a wave (u), and of a change of roughness in a step
WAVE = 0.02
ROUGH = 0.3
WAVES = 72
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Form:
    """A field (n, n, n) and its matrix (3, 3) mm per u."""

    values: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """A form on a grid: mask (D, H, W) bool in its box, and its measure."""

    mask: np.ndarray
    spacing: tuple[float, float, float]
    found: Measure
    origin: np.ndarray


def draw(form: Form, spacing, shift=None) -> Drawn:
    """One component without holes, measured; the level is the field's zero."""
    values, origin = rasterise(form.values, form.matrix, spacing, shift)
    mask = one_piece(values > 0)
    if not mask.any():  # smaller than a voxel
        mask = np.zeros(values.shape, bool)
        mask[np.unravel_index(values.argmax(), values.shape)] = True
    return Drawn(mask, tuple(spacing), measure(mask, spacing), origin)


def solving_grid(volume: float, spacing, voxels: int = COARSE_VOXELS) -> tuple[float, float, float]:
    """The asked spacing, or a coarser one on which a tumour of `volume` mm³ has about `voxels` voxels."""
    spacing = np.array(spacing, float)
    if volume / spacing.prod() <= 2 * voxels:
        return tuple(spacing)
    edge = (volume / voxels) ** (1 / 3)
    for _ in range(8):  # axes that are coarse already stay, the others share what is left
        coarse = np.maximum(spacing, edge)
        edge *= (volume / voxels / coarse.prod()) ** (1 / 3)
    return tuple(np.maximum(spacing, edge))


def solve(
    form: Form,
    target: Target,
    spacing,
    seed: int = 0,
    iterations: int = ITERATIONS,
    progress: Progress | None = None,
) -> tuple[Form, Drawn]:
    """The form nearest to `form` with the target's features on a grid of `spacing` (x, y, z) mm, and its mask there."""
    rng = np.random.default_rng([seed, 1])
    coarse = solving_grid(float(np.exp(target.logs[V])), spacing)
    fine = coarse != tuple(float(s) for s in spacing)
    form = to_volume(form, target)
    form = roughen(form, target, rng)
    form, drawn = _loop(form, target.logs, target, coarse, rng, iterations, progress)
    if not fine:
        return _polish(form, drawn, target, rng)
    for _ in range(2):
        exact = draw(form, spacing)
        shift = exact.found.logs - drawn.found.logs
        if cost(target.logs - exact.found.logs, target) < CLOSE:
            break
        form, drawn = _loop(form, target.logs - shift, target, coarse, rng, max(3, iterations // 3), progress)
    return form, _level(form, target, spacing)


def to_volume(form: Form, target: Target) -> Form:
    """The form scaled to the target's volume, centred on the origin."""
    vertices, faces = outline(form.values)
    s = slopes(vertices, faces)
    form = replace(form, values=_moved(form.values, s.centre))
    volume = s.volume * abs(np.linalg.det(form.matrix))
    return replace(form, matrix=form.matrix * (np.exp(target.logs[V]) / volume) ** (1 / 3))


def _moved(values: np.ndarray, centre: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    cells = centre * (values.shape[0] - 1) / 2
    if np.abs(cells).max() < 0.05:
        return values
    return closed(ndimage.shift(values, -cells, order=1, mode="nearest"))


STAIRS = 0.06  # what the steps of voxels add to the logarithm of a smooth surface's area


def roughen(form: Form, target: Target, rng: np.random.Generator) -> Form:
    """Waves on a form that is much smoother than asked, a blur of one that is much rougher."""
    from scipy import ndimage

    waves = Waves.draw(rng, 40, 5.0, 13.0, 1.0, 0.8)
    relief = waves.on_grid(rng.normal(size=40) * waves.heights, form.values.shape[0])
    relief /= relief.std()
    asked = target.logs[A] - 2 / 3 * target.logs[V] - STAIRS

    def area(values: np.ndarray) -> float:
        vertices, faces = outline(values)
        if not len(faces):
            return -np.inf
        s = slopes(vertices @ form.matrix.T, faces)
        return np.log(s.area) - 2 / 3 * np.log(abs(s.volume))

    def at(amount: float) -> np.ndarray:
        if amount >= 0:
            return closed(form.values + amount * relief)
        return closed(ndimage.gaussian_filter(form.values, -20 * amount))

    gap = asked - area(form.values)
    if abs(gap) < 0.03:
        return form
    low, high = (0.0, 0.15) if gap > 0 else (-0.15, 0.0)
    for _ in range(7):
        middle = (low + high) / 2
        if area(at(middle)) < asked:
            low = middle
        else:
            high = middle
    return replace(form, values=at((low + high) / 2))


def cost(gap: np.ndarray, target: Target) -> float:
    """Root mean square of the asked features' gaps in units of their tolerances."""
    weights, _, tolerance = _asked(target)
    return float(np.sqrt(np.mean((weights @ gap / tolerance) ** 2))) if len(weights) else 0.0


def _asked(target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = list(target.asked) or ["MeshVolume"]
    weights, constants = rows(names)
    tolerance = np.array([TOLERANCE.get(n.rsplit("_", 1)[-1], USUAL_TOLERANCE) for n in names])
    return weights, constants, tolerance


def _loop(form, goal, target, spacing, rng, iterations, progress):
    """Gauss-Newton steps; the best form met and its mask."""
    best, cautious = None, 1.0
    for k in range(iterations):
        drawn = draw(form, spacing)
        gap = goal - drawn.found.logs
        value = cost(gap, target) + 0.1 * float(np.sqrt(np.mean((gap / target.leeway) ** 2)))
        if best is None or value < best[0]:
            best = value, form, drawn
        elif value > 1.5 * best[0]:
            cautious *= 0.6
            form, drawn = best[1], best[2]
            gap = goal - drawn.found.logs
        if progress:
            progress("solving the shape", (k + 1) / iterations)
        if cost(gap, target) < CLOSE and np.abs(gap / target.leeway).max() < 2:
            break
        form = _step(form, drawn, cautious * gap, target, rng)
    return best[1], best[2]


def _step(form: Form, drawn: Drawn, gap: np.ndarray, target: Target, rng: np.random.Generator) -> Form:
    """The smallest change that closes the gap (10,) to first order."""
    from scipy import ndimage

    n = form.values.shape[0]
    waves = Waves.draw(rng, WAVES, 3.0, 16.0, WAVE)
    blurred = ndimage.gaussian_filter(form.values, 0.06 * n)
    vertices, faces = outline(form.values)
    x = vertices @ form.matrix.T
    surface = slopes(x, faces)
    slope = gradient(form.values, vertices)
    steep = np.maximum((slope**2).sum(1, keepdims=True), 0.05)
    # Raising the field by one moves its surface by this much (mm), outwards.
    lift = -(slope / steep) @ form.matrix.T
    columns = [np.eye(3)[a] * x[:, b : b + 1] * STRETCH for a in range(3) for b in range(3)]
    heights = np.column_stack(
        [waves.at(vertices) * waves.heights, ROUGH * sample(form.values - blurred, vertices)]
    )
    moves = np.concatenate([np.stack(columns), heights.T[:, :, None] * lift])
    jacobian = _jacobian(surface, x, moves, drawn)
    weights, _, tolerance = _asked(target)
    lines = np.vstack([weights / tolerance[:, None], np.eye(len(BASE)) / target.leeway])
    amounts = _damped(lines @ jacobian, lines @ gap)
    stretch = np.eye(3) + STRETCH * amounts[:9].reshape(3, 3)
    values = form.values + waves.on_grid(amounts[9:-1] * waves.heights, n)
    values = values + ROUGH * amounts[-1] * (form.values - blurred)
    return Form(closed(values), stretch @ form.matrix)


def _damped(jacobian: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Least squares with a price on the amounts; no amount above 2.5."""
    amounts = np.linalg.lstsq(
        np.vstack([jacobian, np.eye(jacobian.shape[1])]),
        np.concatenate([gap, np.zeros(jacobian.shape[1])]),
        None,
    )[0]
    return amounts * min(1.0, 2.5 / max(np.abs(amounts).max(), 1e-9))


def _jacobian(surface: Slopes, x: np.ndarray, moves: np.ndarray, drawn: Drawn) -> np.ndarray:
    """(10, p) derivatives of the base logarithms by the moves (p, V, 3) mm of the surface's vertices x (V, 3) mm."""
    count = len(moves)
    result = np.zeros((len(BASE), count))
    through = np.einsum("pvi,vi->pv", moves, surface.push)
    volume = through.sum(1) / surface.volume
    result[V] = result[W] = volume
    result[A] = np.einsum("pvi,vi->p", moves, surface.pull) / surface.area
    values, vectors = np.linalg.eigh(surface.covariance)
    along = (x - surface.centre) @ vectors
    for k, (value, place) in enumerate(zip(values[::-1], range(L1, L1 + 3))):
        square = along[:, 2 - k] ** 2
        result[place] = 0.5 * ((through @ square) / surface.volume / value - volume)
    result[3:7] = _diameters(surface, x, moves, drawn)
    return result


def _diameters(surface: Slopes, x: np.ndarray, moves: np.ndarray, drawn: Drawn) -> np.ndarray:
    """(4, p) of the logarithms of the diameters: how far their ends move outwards."""
    normal = surface.push / np.maximum(np.linalg.norm(surface.push, axis=1, keepdims=True), 1e-12)
    offset = drawn.origin * np.array(drawn.spacing[::-1])
    result = np.zeros((4, len(moves)))
    for k, ends in enumerate(drawn.found.ends):
        across = ends[0] - ends[1]
        width = np.linalg.norm(across)
        for end, outwards in ((ends[0], across / width), (ends[1], -across / width)):
            distance = np.sum((x - (end - offset)) ** 2, 1)
            near = distance < 4 * distance.min() + (0.05 * width) ** 2
            speed = np.einsum("pvi,vi->pv", moves[:, near], normal[near])
            facing = np.clip(normal[near] @ outwards, 0.35, None)
            weight = 1 / (distance[near] + (0.03 * width) ** 2)
            result[k] += (speed / facing) @ (weight / weight.sum()) / width
    return result


def _level(form: Form, target: Target, spacing, shift=None) -> Drawn:
    """The form on a grid, at the level of the field that gives the asked volume."""
    drawn = draw(form, spacing, shift)
    miss = target.logs[V] - drawn.found.logs[V]
    if not _size_asked(target) or not 1e-4 < abs(miss) < 0.05:
        return drawn
    values, origin = rasterise(form.values, form.matrix, spacing, shift)
    inside = int(round(drawn.mask.sum() * np.exp(miss)))
    ordered = np.partition(values.ravel(), values.size - inside)
    mask = one_piece(values >= ordered[values.size - inside])
    other = Drawn(mask, tuple(spacing), measure(mask, spacing), origin)
    both = (drawn, other)
    return min(both, key=lambda d: cost(target.logs - d.found.logs, target))


def _size_asked(target: Target) -> bool:
    return any(n.endswith("Volume") for n in target.asked) or not target.asked


def _polish(form: Form, drawn: Drawn, target: Target, rng: np.random.Generator) -> tuple[Form, Drawn]:
    """The best of a few positions between the voxels, where a shape has so few that it matters."""
    best = _level(form, target, drawn.spacing)
    tries = int(np.clip(40_000 / max(drawn.mask.sum(), 1), 0, 24))
    for _ in range(tries):
        if cost(target.logs - best.found.logs, target) < CLOSE:
            break
        other = _level(form, target, drawn.spacing, rng.uniform(-0.5, 0.5, 3))
        best = min((best, other), key=lambda d: cost(target.logs - d.found.logs, target))
    return form, best

"""Bring a shape to asked features with as little change of its form as possible.

The shape is a field and a matrix (`field.py`). Each step measures the voxels themselves, predicts from the field's surface how
every feature follows a stretch, a set of smooth random waves on the surface and a change of its roughness, and takes the
smallest combination of those that should close the gap (damped Gauss-Newton). A large tumour is solved on a coarse grid; what
the features differ by on the fine one is measured and subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .coordinates import BASE, D3, L1, L2, L3, SCALE, A, V, W, rows
from .feasible import STAIRS, Target
from .field import ROOM, Waves, closed, gradient, one_piece, outline, rasterise, sample, whole, widened
from .measure import Measure, measure
from .surface import Slopes

FEW, MANY = 3.0, 12.0  # voxels across the least axis: a grid tells little of a tumour's form, or all of it
COARSE_VOXELS = 12_000  # of the tumour on the grid on which it is solved, where the asked grid has more
ITERATIONS = 12
FAR = 0.05  # logarithm of a volume's error, from which the tumour is scaled before it is bent, and
SCALINGS = 2  # times that it is
CLOSE = 1.2  # root mean square of the asked gaps, in units of their tolerances, at which the loop ends
TOLERANCE = {"MeshVolume": 0.001, "VoxelVolume": 0.001}  # of the logarithm; else
USUAL_TOLERANCE = 0.003
GOOD = 2.5  # the same, at which it isn't tried again with other waves
TRIES = 3
STRETCH = 0.15  # usual size of a stretch, of a wave (u), and of a change of roughness in a step
WAVE = 0.03
ROUGH = 0.3
RELIEF = 0.06  # widths of the cube: what is finer is the relief of a surface
SHARPEST = 3.0  # times that a tumour's relief becomes higher at most
CORRECTIONS = 2  # times that the difference between coarse and fine grid is measured
PLENTY = 200_000  # voxels of a tumour, from which a change of level by a part of a voxel needs no measuring
ENOUGH = 4  # steps after which features not asked for are let be
WAVES = 72
Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Form:
    """A field (n, n, n) and its matrix (3, 3) mm per u.

    :param phase: (3,) mm (z, y, x) by which the centre of mass is off a voxel's centre on the grid it is drawn on.
    :param beads: whether it may have parts that hang on a thread, as a tumour that is changed.
    """

    values: np.ndarray
    matrix: np.ndarray
    phase: tuple[float, float, float] = (0.0, 0.0, 0.0)
    beads: bool = False

    @cached_property
    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) in u and faces (F, 3) of the surface."""
        return outline(self.values)

    @cached_property
    def surface(self) -> Slopes:
        """Volume, area and moments in mm, with their derivatives by the vertices."""
        vertices, faces = self.outline
        return Slopes(vertices @ self.matrix.T, faces if np.linalg.det(self.matrix) > 0 else faces[:, ::-1])


@dataclass(frozen=True, eq=False)
class Drawn:
    """A form on a grid: mask (D, H, W) bool in its box, its measure, and the field's values there."""

    mask: np.ndarray
    spacing: tuple[float, float, float]
    found: Measure
    origin: np.ndarray
    values: np.ndarray


def draw(form: Form, spacing, shift=None, whole: bool = True) -> Drawn:
    """The form on a grid, measured; the level is the field's zero.

    :param whole: one component without holes; without it, which is faster, as it comes.
    """
    values, origin = _on_grid(form, spacing, shift)
    mask = _filled(values, 0.0) if whole else values > 0
    return Drawn(mask, tuple(spacing), measure(mask, spacing), origin, values)


def _on_grid(form: Form, spacing, shift=None):
    """The field's values there, with the tumour's centre of mass `shift` voxels, or the form's phase, off a voxel's centre."""
    steps = np.array(spacing[::-1])
    reach = np.abs(form.outline[0] @ form.matrix.T).max(0, initial=0.0)
    shift = np.array(form.phase) / steps if shift is None else shift
    return rasterise(form.values, form.matrix, spacing, reach, shift - form.surface.centre / steps)


def _filled(values: np.ndarray, level: float) -> np.ndarray:
    mask = one_piece(values > level)
    if not mask.any():  # smaller than a voxel
        mask[np.unravel_index(values.argmax(), values.shape)] = True
    return mask


def solving_grid(volume: float, spacing, voxels: int = COARSE_VOXELS) -> tuple[float, float, float]:
    """The asked spacing, or a coarser one on which a tumour of `volume` mm³ has about `voxels` voxels."""
    spacing = np.array(spacing, float)
    if volume / spacing.prod() <= 2 * voxels:
        return tuple(spacing.tolist())
    edge = (volume / voxels) ** (1 / 3)
    for _ in range(8):  # axes that are coarse already stay, the others share what is left
        coarse = np.maximum(spacing, edge)
        edge *= (volume / voxels / coarse.prod()) ** (1 / 3)
    return tuple(np.maximum(spacing, edge).tolist())


def solve(
    form: Form,
    target: Target,
    spacing,
    seed: int = 0,
    spare: Callable[[int], Form] | None = None,
    progress: Progress | None = None,
    sway: float = 0.5,
) -> tuple[Form, Drawn]:
    """The form nearest to `form` with the target's features on a grid of `spacing` (x, y, z) mm, and its mask there.

    :param spare: gives another form to start from, for the second try on, where the first doesn't get there.
    :param sway: voxels by which its place between the voxels may change, where that helps.
    """
    rng = np.random.default_rng([seed, 1])
    coarse = solving_grid(float(np.exp(target.logs[V])), spacing)
    tries = []
    for k in range(TRIES):
        begin = spare(k) if spare and k else form
        tries.append(sketch(begin, target, coarse, rng, ITERATIONS, progress))
        if cost(target.logs - tries[-1][1].found.logs, target) < GOOD:
            break
    form, drawn = min(tries, key=lambda t: cost(target.logs - t[1].found.logs, target))
    if coarse == tuple(float(s) for s in spacing):
        return _polish(form, drawn, target, rng, sway)
    best = None
    for k in range(CORRECTIONS + 1):
        exact = draw(form, spacing, whole=False)
        value = cost(target.logs - exact.found.logs, target)
        if best is None or value < best[0]:
            best = value, form, exact
        if k == CORRECTIONS or value < (CLOSE if exact.mask.sum() < PLENTY else GOOD):
            break
        goal = target.logs - (exact.found.logs - drawn.found.logs)
        form, drawn = _loop(form, goal, target, coarse, rng, 4, progress)
    return best[1], _level(best[2], target)


def sketch(
    form: Form,
    target: Target,
    spacing,
    rng,
    iterations: int,
    progress: Progress | None = None,
    near: float = 0.0,
):
    """(form, drawn) solved on the grid of `spacing` only; `near` is the `cost` that is enough, whatever wasn't asked for."""
    form = to_volume(replace(form, values=whole(form.values, form.beads)), target)
    form = roughen(roomy(form, ROOM / 1.25), target, rng)
    form = _scaled(form, target.logs[V] - np.log(abs(form.surface.volume)))
    return _loop(form, target.logs, target, spacing, rng, iterations, progress, near)


def sharpened(form: Form, own: np.ndarray, spacing) -> Form:
    """A form made from a mask, with its relief so much higher that it has the area it had before it was smoothed.

    :param own: base logarithms (10,) of the mask on its grid of `spacing`, whose steps are let be.
    """
    from scipy import ndimage

    lost = _fineness(own, spacing) * (own[A] - 2 / 3 * own[V] - STAIRS - _log_area(form))
    relief = form.values - ndimage.gaussian_filter(form.values, RELIEF * len(form.values))
    low, high, best = 0.0, SHARPEST, form
    goal = _log_area(form) + lost
    for _ in range(6 if lost > 0.01 else 0):
        amount = (low + high) / 2
        best = replace(form, values=whole(form.values + amount * relief, form.beads))
        low, high = (amount, high) if _log_area(best) < goal else (low, amount)
    return best


def settled(form: Form, target: Target, own: np.ndarray, spacing) -> Target:
    """The target of a tumour that is changed: its steps are as high as its own, so that only what is asked for roughens it.

    On a grid that is too coarse to tell its form the same form has other features at another size or place. There, what isn't
    asked for becomes what the scaled form has on the grid, so that the solver doesn't bend it after the steps of the voxels.

    :param form: of the tumour, whose base logarithms (10,) are `own`.
    """
    target = replace(target, stairs=own[A] - 2 / 3 * own[V] - _log_area(form))
    fine = _fineness(target.logs, spacing)
    if fine == 1:
        return target
    form = to_volume(form, target)
    found = draw(form, spacing).found.logs
    for _ in range(SCALINGS):
        form = _scaled(form, target.logs[V] - found[V])
        found = draw(form, spacing).found.logs
    off = found - own - SCALE / 3 * (target.logs[V] - own[V])
    weights, _, _ = _asked(target)
    off -= np.linalg.pinv(weights) @ (weights @ off)
    return replace(target, logs=target.logs + (1 - fine) * off)


def _fineness(logs: np.ndarray, spacing) -> float:
    """How well a grid tells the form of a tumour with these base logarithms: 0 not at all, 1 well."""
    return float(np.clip((np.exp(logs[L3]) / max(spacing) - FEW) / (MANY - FEW), 0, 1))


def to_volume(form: Form, target: Target) -> Form:
    """The form scaled to the target's volume, centred on the origin."""
    form = replace(form, values=_moved(form.values, np.linalg.solve(form.matrix, form.surface.centre)))
    return _scaled(form, target.logs[V] - np.log(abs(form.surface.volume)))


def _scaled(form: Form, log: float) -> Form:
    """The form with exp(log) times its volume."""
    return replace(form, matrix=form.matrix * np.exp(log / 3))


def _moved(values: np.ndarray, centre: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    cells = centre * (values.shape[0] - 1) / 2
    if np.abs(cells).max() < 0.05:
        return values
    return closed(ndimage.shift(values, -cells, order=1, mode="nearest"))


def roomy(form: Form, limit: float = ROOM) -> Form:
    """The same form with more of the cube around it, if it reaches farther than `limit` in u."""
    reach = np.abs(form.outline[0]).max(initial=0.0)
    if reach <= limit:
        return form
    cells = int(np.ceil((reach / limit - 1) * (len(form.values) - 1) / 2))
    values, factor = widened(form.values, cells)
    return replace(form, values=values, matrix=form.matrix * factor)


def roughen(form: Form, target: Target, rng: np.random.Generator) -> Form:
    """Waves on a form that is much smoother than asked, a blur of one that is much rougher."""
    from scipy import ndimage

    asked = target.logs[A] - 2 / 3 * target.logs[V] - target.stairs
    first = asked - _log_area(form)
    if abs(first) < 0.03:
        return form
    waves = Waves.draw(rng, 40, 5.0, 13.0, 1.0, 0.8)
    relief = waves.on_grid(rng.normal(size=40) * waves.heights, len(form.values))
    relief /= relief.std()

    def at(amount: float) -> Form:
        if first > 0:
            return replace(form, values=whole(form.values + amount * relief, form.beads))
        blurred = ndimage.gaussian_filter(form.values, amount * len(form.values))
        return replace(form, values=whole(blurred))

    # The area changes about with the square of the amount.
    amount, low, high = (0.05 if first > 0 else 0.03), 0.0, 0.16
    best = 0.0, abs(first), form
    for _ in range(4):
        other = at(amount)
        gap = asked - _log_area(other) if (other.values > 0).any() else -np.inf
        if abs(gap) < best[1]:
            best = amount, abs(gap), other
        if abs(gap) < 0.02:
            break
        low, high = (amount, high) if gap * first > 0 else (low, amount)
        guess = amount * np.sqrt(abs(first / (first - gap))) if np.isfinite(gap) and first != gap else 0.0
        amount = guess if low < guess < high else (low + high) / 2
    return roomy(best[2])


def _log_area(form: Form) -> float:
    return float(np.log(form.surface.area) - 2 / 3 * np.log(abs(form.surface.volume) + 1e-12))


def cost(gap: np.ndarray, target: Target) -> float:
    """Root mean square of the gaps of the features that are aimed at, in units of their tolerances."""
    weights, _, tolerance = _asked(target)
    return float(np.sqrt(np.mean((weights @ gap / tolerance) ** 2))) if len(weights) else 0.0


def _asked(target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = list(target.aims) or ["MeshVolume"]
    weights, constants = rows(names)
    tolerance = np.array([TOLERANCE.get(n.rsplit("_", 1)[-1], USUAL_TOLERANCE) for n in names])
    return weights, constants, tolerance


def _loop(form, goal, target, spacing, rng, iterations, progress, near=0.0):
    """Gauss-Newton steps; the best form met and its mask."""
    best, cautious = None, 1.0
    for k in range(iterations):
        drawn = draw(form, spacing)
        gap = goal - drawn.found.logs
        value = cost(gap, target) + 0.1 * float(np.sqrt(np.mean((gap / target.leeway) ** 2)))
        if best is None or value < best[0]:
            best, cautious = (value, form, drawn, gap), min(1.0, 1.5 * cautious)
        elif value > 1.5 * best[0]:  # too far: a shorter step from the best one
            cautious *= 0.5
            _, form, drawn, gap = best
        if progress:
            progress("shape", (k + 1) / iterations)
        left = cost(best[3], target)
        if left < near or left < CLOSE and (k >= ENOUGH or np.abs(best[3] / target.leeway).max() < 2):
            break
        if k < SCALINGS and abs(gap[V]) > FAR and _size_asked(target):
            form = _scaled(form, gap[V])
        elif k + 1 < iterations:
            form = roomy(_step(form, drawn, cautious * gap, target, rng))
    return best[1], best[2]


def _step(form: Form, drawn: Drawn, gap: np.ndarray, target: Target, rng: np.random.Generator) -> Form:
    """The smallest change that closes the gap (10,) to first order."""
    from scipy import ndimage

    n = len(form.values)
    waves = Waves.draw(rng, WAVES, 2.0, 12.0, WAVE, 1.0)
    relief = form.values - ndimage.gaussian_filter(form.values, RELIEF * n)
    moves = Moves.of(form, waves, relief)
    jacobian = _jacobian(form, moves, drawn)
    weights, _, tolerance = _asked(target)
    lines = np.vstack([weights / tolerance[:, None], np.eye(len(BASE)) / target.leeway[:, None]])
    rival, excess = _rivals(form, moves, drawn, gap, target)
    amounts = _damped(np.vstack([lines @ jacobian, rival]), np.concatenate([lines @ gap, excess]))
    stretch = np.eye(3) + STRETCH * amounts[:9].reshape(3, 3)
    values = form.values + waves.on_grid(amounts[9:-1] * waves.heights, n) + ROUGH * amounts[-1] * relief
    return replace(form, values=whole(values, form.beads), matrix=stretch @ form.matrix)


@dataclass(frozen=True)
class Moves:
    """How the vertices of a form's surface go with each change: 9 stretches, the waves, the relief.

    :param x: (V, 3) mm. :param heights: (V, p) rise of the field. :param lift: (V, 3) mm by which a rise of one moves a vertex.
    """

    x: np.ndarray
    heights: np.ndarray
    lift: np.ndarray

    @classmethod
    def of(cls, form: Form, waves: Waves, relief: np.ndarray) -> Moves:
        vertices, _ = form.outline
        slope = gradient(form.values, vertices)
        steep = np.maximum((slope**2).sum(1, keepdims=True), 0.05)
        heights = np.column_stack([waves.at(vertices) * waves.heights, ROUGH * sample(relief, vertices)])
        return cls(vertices @ form.matrix.T, heights, -(slope / steep) @ form.matrix.T)

    def along(self, direction: np.ndarray, part=slice(None)) -> np.ndarray:
        """(n, 9 + p) components of the moves along directions (n, 3) at a part of the vertices."""
        stretches = STRETCH * direction[:, :, None] * self.x[part][:, None, :]
        rises = self.heights[part] * np.einsum("vi,vi->v", self.lift[part], direction)[:, None]
        return np.concatenate([stretches.reshape(len(direction), 9), rises], 1)


def _damped(jacobian: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Least squares with a price on the amounts; no amount above 2.5."""
    square = jacobian @ jacobian.T + np.eye(len(jacobian))
    amounts = jacobian.T @ np.linalg.solve(square, gap)
    return amounts * min(1.0, 2.5 / max(np.abs(amounts).max(), 1e-9))


def _jacobian(form: Form, moves: Moves, drawn: Drawn) -> np.ndarray:
    """(10, 9 + p) derivatives of the base logarithms by the moves."""
    surface = form.surface
    through = moves.along(surface.push)
    result = np.zeros((len(BASE), through.shape[1]))
    volume = through.sum(0) / surface.volume
    result[V] = result[W] = volume
    result[A] = moves.along(surface.pull).sum(0) / surface.area
    values, vectors = np.linalg.eigh(surface.covariance)
    squares = ((moves.x - surface.centre) @ vectors) ** 2
    moments = (squares.T @ through) / surface.volume / values[:, None]
    result[[L3, L2, L1]] = 0.5 * (moments - volume)
    result[3:7] = _widening(form, moves, drawn, drawn.found.ends)
    return result


def _rivals(form: Form, moves: Moves, drawn: Drawn, gap: np.ndarray, target: Target):
    """Lines and gaps, in tolerances, of the widths that are above what their diameter shall become."""
    weights, _, _ = _asked(target)
    lines, gaps = [np.zeros((0, 9 + moves.heights.shape[1]))], [np.zeros(0)]
    for k, pairs in enumerate(drawn.found.rivals):
        goal = drawn.found.logs[D3 + k] + gap[D3 + k]
        excess = goal - np.log(np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1))
        above = excess < 0
        tolerance = USUAL_TOLERANCE if len(weights) and weights[:, D3 + k].any() else target.leeway[D3 + k]
        lines.append(_widening(form, moves, drawn, pairs[above]) / tolerance)
        gaps.append(excess[above] / tolerance)
    return np.concatenate(lines), np.concatenate(gaps)


def _widening(form: Form, moves: Moves, drawn: Drawn, pairs: np.ndarray) -> np.ndarray:
    """(n, 9 + p) change of the logarithm of widths with ends (n, 2, 3) mm: how far their ends move outwards."""
    push = form.surface.push
    normal = push / np.maximum(np.linalg.norm(push, axis=1, keepdims=True), 1e-12)
    offset = drawn.origin * np.array(drawn.spacing[::-1])
    result = np.zeros((len(pairs), 9 + moves.heights.shape[1]))
    for k, ends in enumerate(pairs):
        across = ends[0] - ends[1]
        width = np.linalg.norm(across) + 1e-9
        for end, outwards in ((ends[0], across / width), (ends[1], -across / width)):
            distance = np.sum((moves.x - (end - offset)) ** 2, 1)
            near = np.flatnonzero(distance < 4 * distance.min() + (0.05 * width) ** 2)
            facing = np.clip(normal[near] @ outwards, 0.35, None)
            weight = 1 / (distance[near] + (0.03 * width) ** 2)
            result[k] += (weight / weight.sum() / facing) @ moves.along(normal[near], near) / width
    return result


def _level(drawn: Drawn, target: Target) -> Drawn:
    """The same at the level of the field that gives the asked volume, if that is no worse."""
    miss = target.logs[V] - drawn.found.logs[V]
    if not _size_asked(target) or not 2e-4 < abs(miss) < 0.05:
        return replace(drawn, mask=_filled(drawn.values, 0.0))
    values = drawn.values
    rank = int(np.clip(values.size - round(drawn.mask.sum() * np.exp(miss)), 0, values.size - 1))
    level = np.nextafter(np.partition(values.ravel(), rank)[rank], -np.inf, dtype=values.dtype)
    other = replace(drawn, mask=_filled(values, level))
    if drawn.mask.sum() > PLENTY:  # so thin a layer changes nothing but the volume
        return other
    drawn = replace(drawn, mask=_filled(values, 0.0))
    other = replace(other, found=measure(other.mask, drawn.spacing))
    return min((drawn, other), key=lambda d: cost(target.logs - d.found.logs, target))


def _size_asked(target: Target) -> bool:
    return any(n.endswith("Volume") for n in target.aims) or not target.aims


def _polish(
    form: Form, drawn: Drawn, target: Target, rng: np.random.Generator, sway: float
) -> tuple[Form, Drawn]:
    """The best of a few positions between the voxels, where a shape has so few that it matters."""
    best = _level(drawn, target)
    phase = np.array(form.phase) / np.array(drawn.spacing[::-1])
    tries = int(np.clip(40_000 / max(drawn.mask.sum(), 1), 0, 24))
    for _ in range(tries):
        if cost(target.logs - best.found.logs, target) < CLOSE:
            break
        other = _level(draw(form, drawn.spacing, phase + rng.uniform(-sway, sway, 3)), target)
        best = min((best, other), key=lambda d: cost(target.logs - d.found.logs, target))
    return form, best

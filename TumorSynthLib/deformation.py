"""Mass effect: the tissue around a growing or shrinking tumour makes room for it, smoothly and invertibly.

A stationary velocity field v is sought whose flow exp(v) carries the old tumour's surface onto the new one's (Arsigny et
al., MICCAI 2006: scaling and squaring). It is found in a few corrections: wherever the carried surface is still off, the
field is pushed along the new surface's normal by the distance, and smoothed. v falls to zero within a margin around both
tumours, so that nothing moves beyond. As the flow of a smooth field, the displacement folds nowhere and has an inverse.

Arrays are (D, H, W) = (z, y, x) in LPS order, displacements (3, D, H, W) in mm along (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.threads import needing_torch

SEED = 0.5  # size, as a length, of the core from which an inserted tumour pushes its surroundings aside
GRID = 56  # samples along the longest side of the velocity field
FINEST = 1.0  # mm between them at least
SQUARINGS = 6
ROUNDS = 15  # corrections; the surface is then met to about a tenth of a sample
GOAL = 0.15  # samples of mean distance between the surfaces, at which corrections end
SPLINE = 5  # order of the interpolation; lower orders smooth the image's noise visibly
BONE_HU, BONE_SMOOTH = 180.0, 1.0  # of a CT smoothed by so many mm
BESIDE_STIFF = 4.0  # mm beside bone over which tissue begins to move
STILL = 1e-3  # voxels; what moves less keeps its value


@dataclass(frozen=True, eq=False)
class Deformation:
    """The flow of a stationary velocity field on an isotropic grid.

    :param velocity: (3, D, H, W) mm; zero at the grid's border.
    :param step: mm between its samples; sample 0 lies at `start` (z, y, x) mm from the volume's first voxel.
    :param margin: mm around both tumours beyond which nothing moves.
    :param tissue: (D, H, W) bool, the samples outside the old tumour: what is there moves, what is inside is replaced.
    """

    velocity: np.ndarray
    step: float
    start: np.ndarray
    margin: float
    tissue: np.ndarray

    def displacement(self, backward: bool = False) -> np.ndarray:
        """(3, D, H, W) mm that exp(v), or backward its inverse exp(-v), moves each sample by."""
        return _exponential(-self.velocity if backward else self.velocity, self.step)

    def jacobian(self, backward: bool = False) -> np.ndarray:
        """(D, H, W) determinant: the volume of each sample after the motion, relative to before."""
        return _jacobian(self.displacement(backward), self.step)

    def largest(self) -> float:
        """Longest way in mm that tissue moves."""
        return float(np.sqrt((self.displacement() ** 2).sum(0))[self.tissue].max())

    def facts(self) -> dict[str, float]:
        """What the provenance says of it."""
        volumes = self.jacobian()[self.tissue]
        return {
            "margin_mm": self.margin, "largest_displacement_mm": round(self.largest(), 2),
            "smallest_jacobian": round(float(volumes.min()), 4), "largest_jacobian": round(float(volumes.max()), 4),
        }  # fmt: skip


def push(
    view: tuple[int, int, int],
    spacing,
    new: np.ndarray,
    old: np.ndarray | None,
    margin: float,
    stiff: np.ndarray | None = None,
) -> Deformation:
    """The motion of the tissue from an old tumour to a new one.

    :param view: (z, y, x) size of the image in LPS order; `spacing` its (z, y, x) mm.
    :param new, old: bool masks of that size; without an old one the new tumour grows out of a core of itself (`SEED`).
    :param margin: mm around both masks within which tissue moves.
    :param stiff: bool mask of what stays where it is: bone.
    :raises InputError: the tumour grows too much for the margin.
    """
    spacing = np.asarray(spacing, float)
    box = _around(new if old is None else new | old, spacing, margin)
    target = _distance(new[box], spacing)
    if old is None:
        centre = np.argwhere(new[box]).mean(axis=0)
        source = _shrunk(target, centre, spacing)
    else:
        source = _distance(old[box], spacing)
    extent = np.array(target.shape) * spacing
    step = max(FINEST, float(extent.max()) / GRID)
    shape = tuple(int(n) for n in np.ceil(extent / step) + 1)
    grid = np.indices(shape, dtype=np.float64) * step
    at = grid / spacing[:, None, None, None]
    target, source = (_sampled(field, at, 1) for field in (target, source))
    # Two samples less than the margin: interpolation spreads the field by one.
    reach = max(margin - 2 * step, 0.5 * margin)
    window = _window(np.minimum(target, source), reach) * _border(grid, box, view, spacing)
    soft = np.ones_like(window)
    if stiff is not None and stiff[box].any():  # two samples more, as above
        off = _sampled(_distance(stiff[box], spacing), at, 1)
        soft = _window(BESIDE_STIFF + 2 * step - off, BESIDE_STIFF)
    velocity = _velocity(source, target, window * soft, step, soft)
    start = np.array([s.start for s in box]) * spacing
    result = Deformation(velocity, step, start, margin, source > 0)
    if min(result.jacobian().min(), result.jacobian(True).min()) <= 0:
        raise InputError(
            f"the tumour grows too much for tissue to make room within {margin:g} mm: give a larger margin to --mass-effect"
        )
    return result


def bone_of(array: np.ndarray, spacing) -> np.ndarray:
    """(D, H, W) bool, bone of a CT: it doesn't make room."""
    from scipy import ndimage

    level = ndimage.gaussian_filter(array.astype(np.float32), [BONE_SMOOTH / s for s in spacing])
    return level > BONE_HU


def warped(
    array: np.ndarray, frame: Frame, spacing, motion: Deformation
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """A (K, J, I) image whose tissue has moved, float64, and the box (file order) outside which it is the same.

    :param spacing: (z, y, x) mm in LPS order.
    """
    from scipy import ndimage

    view, spacing = frame.view(array), np.asarray(spacing, float)
    stop = motion.start + (np.array(motion.velocity.shape[1:]) - 1) * motion.step
    low = np.maximum(np.floor(motion.start / spacing).astype(int), 0)
    high = np.minimum(np.ceil(stop / spacing).astype(int) + 1, view.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    index = np.indices([s.stop - s.start for s in box], dtype=np.float64)
    place = (index + low[:, None, None, None]) * spacing[:, None, None, None]
    at = (place - motion.start[:, None, None, None]) / motion.step
    shift = np.stack([_sampled(part, at, 1) for part in motion.displacement(backward=True)])
    shift /= spacing[:, None, None, None]
    moves = np.abs(shift).max(axis=0) > STILL
    values = view[box].astype(np.float64)
    found = ndimage.map_coordinates(values, (index + shift)[:, moves], order=SPLINE, mode="nearest")
    result = view.astype(np.float64)
    part = result[box]
    part[moves] = np.clip(found, values.min(), values.max())
    return frame.back(result), frame.file_box(box, array.shape)


def _velocity(
    source: np.ndarray, target: np.ndarray, window: np.ndarray, step: float, soft: np.ndarray
) -> np.ndarray:
    """(3, D, H, W) mm whose flow carries the zero level of one distance (mm, negative inside) to that of another.

    :param window: 0 to 1, how far each sample may move; `soft` how much its surface counts: none in what is stiff.
    """
    from scipy import ndimage

    normal = np.stack(np.gradient(target, step))
    normal /= np.maximum(np.sqrt((normal**2).sum(0)), 1e-6)
    near = np.exp(-((target / (1.5 * step)) ** 2))
    size = max(
        1.0, float((target < 0).sum()) ** (1 / 3) / 6
    )  # samples; the field is as smooth as the tumour is large
    weight = np.maximum(ndimage.gaussian_filter(near, size), 1e-3)
    velocity = np.zeros((3, *target.shape))
    # Linear from the middle of the tumour to its surface, as in an even expansion, which keeps the Jacobian away from 0.
    depth = np.minimum(target, source)
    reach = window * (1 - np.minimum(depth, 0.0) / depth.min())
    grid = np.indices(target.shape, dtype=np.float64)
    for _ in range(ROUNDS):
        back = _exponential(-velocity, step)
        carried = _sampled(source, grid + back / step, 1)
        error = (carried - target) * near * soft
        if np.abs(error).sum() < GOAL * step * near.sum():
            break
        for part, direction in zip(velocity, normal):
            part += ndimage.gaussian_filter(error * direction, size) / weight * reach
    return velocity


def _exponential(velocity: np.ndarray, step: float) -> np.ndarray:
    """Displacement (mm) of the flow of a velocity field (mm) after unit time, by scaling and squaring."""
    with needing_torch("tissue that makes room"):
        import torch

    shape = velocity.shape[1:]
    # grid_sample wants (x, y, z) from -1 to 1; its speed is why torch does this part.
    scale = torch.tensor([2.0 / max(n - 1, 1) / step for n in shape[::-1]])
    axes = [torch.linspace(-1.0, 1.0, n) for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]
    shift = torch.from_numpy(np.ascontiguousarray(velocity / 2**SQUARINGS, dtype=np.float32))[None]
    for _ in range(SQUARINGS):
        at = grid + shift.flip(1).permute(0, 2, 3, 4, 1) * scale
        shift = shift + torch.nn.functional.grid_sample(shift, at, padding_mode="border", align_corners=True)
    return shift[0].numpy().astype(np.float64)


def _jacobian(shift: np.ndarray, step: float) -> np.ndarray:
    gradient = np.stack([np.stack(np.gradient(part, step)) for part in shift])
    matrix = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3)
    return np.linalg.det(matrix)


def _sampled(field: np.ndarray, at: np.ndarray, order: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.map_coordinates(field, at, order=order, mode="nearest")


def _around(mask: np.ndarray, spacing: np.ndarray, margin: float) -> tuple[slice, ...]:
    """The mask's box and the margin, within the image."""
    wide = [int(np.ceil(margin / s)) + 1 for s in spacing]
    return tuple(
        slice(max(0, s.start - n), min(s.stop + n, size))
        for s, n, size in zip(bounding_box(mask), wide, mask.shape)
    )


def _distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the mask's border, negative inside."""
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~mask, spacing)
    inside = ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[1:-1, 1:-1, 1:-1]
    half = 0.5 * float(spacing.min())
    return np.where(mask, half - inside, outside - half)


def _shrunk(distance: np.ndarray, centre: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Signed distance to the shape made smaller by `SEED` around its centre."""
    at = np.indices(distance.shape, dtype=np.float64)
    middle = centre[:, None, None, None]
    scaled = middle + (at - middle) / SEED
    beyond = scaled - np.clip(scaled, 0, np.array(distance.shape)[:, None, None, None] - 1)
    away = np.sqrt(((beyond * spacing[:, None, None, None]) ** 2).sum(0))
    return SEED * (_sampled(distance, scaled, 1) + away)


def _window(distance: np.ndarray, margin: float) -> np.ndarray:
    """1 at the tumours, 0 from the margin on, smooth between."""
    t = np.clip(1 - np.maximum(distance, 0.0) / margin, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _border(grid: np.ndarray, box, view, spacing: np.ndarray) -> np.ndarray:
    """0 at the sides of the box, so that no tissue crosses them; matters where the image's border cuts the margin."""
    result = np.ones(grid.shape[1:])
    for axis in range(3):
        length = (box[axis].stop - box[axis].start - 1) * spacing[axis]
        side = np.minimum(grid[axis], length - grid[axis])
        t = np.clip(side / max(3 * spacing[axis], 3.0), 0.0, 1.0)
        result *= t * t * (3 - 2 * t)
    return result

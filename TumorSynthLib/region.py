"""The window around a tumour on a model's grid, and the way back into the image.

Arrays are (D, H, W) = (z, y, x) with the axes in LPS order: x to the patient's left, y to the back, z to the head, as
near as the image's direction allows. An image stored in another order is only viewed differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.resampling import (
    Lattice,
    Matrices,
    all_inside,
    apply_separable,
    axis_operator,
    bounding_box,
    bspline_matrix,
    cast_like_itk,
    nearest_mask,
    pyradiomics_spacing,
)

if TYPE_CHECKING:
    from TumorSynthLib.texture.band import Band
    from TumorSynthLib.volume.types import Volume

THICK = 1.2  # native spacing in units of the working grid's, from which voxels are damped and bounded
SLACK = 0.25  # share of the range by which native voxels may lie outside it: one that the working grid hardly sees could run away
DAMPING = 0.1
"""Price of moving a thick voxel. Few samples of the mask see one at the mask's border; without a price it would be driven far
out of range to satisfy them, which shows as black and white spikes."""


@dataclass(frozen=True)
class Patch:
    """What an edit changed: a box of the volume before and after.

    :param box: slices into the volume's (K, J, I) array, in the file's axis order.
    :param before: values of the box before the edit, in the file's type.
    :param after: values of the box after it.
    """

    box: tuple[slice, ...]
    before: np.ndarray
    after: np.ndarray

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Write the edit into a (K, J, I) array in place; returns it."""
        array[self.box] = self.after
        return array

    def revert(self, array: np.ndarray) -> np.ndarray:
        """Undo the edit in a (K, J, I) array in place; returns it."""
        array[self.box] = self.before
        return array


@dataclass(frozen=True)
class Frame:
    """How the file's axes are turned into the nearest LPS order.

    :param order: for each LPS array axis (z, y, x) the file's array axis.
    :param flip: which LPS array axes run against the file.
    """

    order: tuple[int, ...]
    flip: tuple[bool, ...]

    @classmethod
    def of(cls, direction: tuple[float, ...]) -> Frame:
        """Nearest frame of a 3 × 3 direction matrix (row-major, columns are the file's x, y, z axes in LPS)."""
        matrix = np.asarray(direction, dtype=np.float64).reshape(3, 3)
        best = max(
            permutations(range(3)), key=lambda p: sum(abs(matrix[world, p[world]]) for world in range(3))
        )
        flip = tuple(bool(matrix[world, best[world]] < 0) for world in (2, 1, 0))
        return cls(tuple(2 - best[world] for world in (2, 1, 0)), flip)

    def view(self, array: np.ndarray) -> np.ndarray:
        """(K, J, I) array seen in LPS order (no copy)."""
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flip)
        return array.transpose(self.order)[steps]

    def back(self, array: np.ndarray) -> np.ndarray:
        """LPS-ordered array seen in the file's order (no copy); the inverse of `view`."""
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flip)
        return array[steps].transpose(np.argsort(self.order))

    def take(self, values) -> tuple:
        """Per-axis values in the file's array order, rearranged to LPS array order."""
        return tuple(values[axis] for axis in self.order)

    def lps_box(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Box of slices of the file's (K, J, I) array of that shape as one in LPS order; the inverse of `file_box`."""
        sizes = self.take(shape)
        return tuple(
            slice(size - s.stop, size - s.start) if flip else s
            for s, size, flip in zip(self.take(box), sizes, self.flip)
        )

    def file_box(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """LPS box of slices as slices of the file's (K, J, I) array of that shape."""
        result: list[slice] = [slice(0)] * 3
        for axis, part, flip in zip(self.order, box, self.flip):
            size = shape[axis]
            result[axis] = slice(size - part.stop, size - part.start) if flip else part
        return tuple(result)


@dataclass(frozen=True, eq=False)
class Region:
    """The working-grid window around a mask. Make one with `Region.around`.

    :param volume: the `Volume` it belongs to (not copied).
    :param array: (D, H, W) float32 working values.
    :param mask: (D, H, W) bool on the working grid.
    :param valid: (D, H, W) bool, the part inside the image; outside it the border is repeated.
    :param spacing: (x, y, z) mm of the working grid, along LPS.
    :param operators: None without resampling, else float64 (Rz, Ry, Rx): working = Rz·Ry·Rx native.
    :param native: float32 native box in LPS order (equal to `array` without resampling).
    :param native_mask: bool, the voxels of the native box that an edit may change.
    :param frame: the axis order of the file.
    :param start: (z, y, x) LPS index of the native box's first voxel; negative where the box leaves the image.
    :param window: (z, y, x) index of the first working sample.
    :param lattices: the working grid along each LPS axis.
    """

    volume: Volume
    array: np.ndarray
    mask: np.ndarray
    valid: np.ndarray
    spacing: tuple[float, ...]
    operators: Matrices | None
    native: np.ndarray
    native_mask: np.ndarray
    frame: Frame
    start: tuple[int, ...]
    window: tuple[int, ...]
    lattices: tuple[Lattice, ...]

    @classmethod
    def around(
        cls,
        volume,
        mask: np.ndarray,
        spacing: tuple[float, ...] | None = None,
        margin_mm: float = 0.0,
        multiple: tuple[int, ...] = (1, 1, 1),
        window: tuple[slice, ...] | None = None,
    ) -> Region:
        """Region of the working grid that holds a mask and a margin.

        Only the image around the mask is read, so that the cost doesn't depend on the size of the volume.

        :param volume: a `Volume`.
        :param mask: (K, J, I) bool on the volume's grid.
        :param spacing: (x, y, z) mm along LPS; None keeps the image's own grid, as do spacings within 1e-5 of it.
        :param margin_mm: context on each side of the mask's bounding box; clipped at the image border.
        :param multiple: (z, y, x) numbers that the shape is made a multiple of.
        :param window: box of the volume's (K, J, I) array that the region holds beside the mask's.
        :raises InputError: the mask is empty, has another shape, or vanishes on the working grid.
        """
        frame, box, lattices, working = _plan(volume, mask, spacing, window)
        samples = [_samples(*args) for args in zip(lattices, box, working, [margin_mm] * 3, multiple)]
        resampled = any(lattice.ratio != 1.0 for lattice in lattices)
        if resampled:
            operators, start = zip(*(axis_operator(lattice, s) for lattice, s in zip(lattices, samples)))
            shape = tuple(op.shape[1] for op in operators)
        else:
            operators, start, shape = None, tuple(int(s[0]) for s in samples), tuple(len(s) for s in samples)
        native, native_mask = _gather(frame, volume.array, mask, start, shape)
        if resampled:
            array = apply_separable(operators, native.astype(np.float64)).astype(np.float32)
            working_mask = _working_mask(volume, mask, frame, lattices, samples, working)
        else:
            array, working_mask = native.copy(), native_mask
        if not working_mask.any():
            raise InputError(
                f"the mask is too small for the model's grid of {_mm(working[::-1])}: no voxel is left after "
                "resampling; use a larger mask or a model with a finer grid"
            )
        valid = all_inside(lattices, samples)
        first = tuple(int(s[0]) for s in samples)
        spacing_xyz = tuple(float(s) for s in working[::-1])
        return cls(
            volume,
            array,
            working_mask,
            valid,
            spacing_xyz,
            operators,
            native,
            native_mask,
            frame,
            tuple(int(s) for s in start),
            first,
            tuple(lattices),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) of the working grid."""
        return self.array.shape

    @property
    def native_spacing(self) -> tuple[float, ...]:
        """(x, y, z) mm of the native box, along LPS."""
        return tuple(s * lattice.ratio for s, lattice in zip(self.spacing, self.lattices[::-1]))

    @property
    def thick(self) -> bool:
        """Whether the image's slices are much thicker than the working grid's."""
        return max(lattice.ratio for lattice in self.lattices) > THICK

    def added(self, native: np.ndarray, working: np.ndarray) -> np.ndarray:
        """Native float32 box with (D, H, W) working values added inside the mask."""
        return np.where(self.native_mask, native + self._interpolate(working), self.native).astype(np.float32)

    def measure(self, native: np.ndarray, as_stored: bool = False) -> np.ndarray:
        """Working-grid float32 values of a native box.

        :param as_stored: give what pyradiomics finds once the box is pasted into the file: inside the mask rounded to
            the file's type, outside it unchanged, and resampled values cut to whole numbers for integer images.
        """
        if as_stored:
            stored = quantise(native, self.volume.array.dtype).astype(np.float32)
            native = np.where(self.native_mask, stored, self.native)
        if self.operators is None:
            return np.array(native, dtype=np.float32)
        values = apply_separable(self.operators, np.asarray(native, dtype=np.float64))
        return (cast_like_itk(values, self.volume.array.dtype) if as_stored else values).astype(np.float32)

    def resample_mask(self, mask: np.ndarray) -> np.ndarray:
        """Another mask (K, J, I) bool of the volume, e.g. of a second region, as (D, H, W) bool on the working grid."""
        if not mask.any():
            return np.zeros(self.shape, bool)
        samples = [np.arange(first, first + size) for first, size in zip(self.window, self.shape)]
        if self.operators is None:
            return _gather(self.frame, mask, mask, self.start, self.shape)[1]
        working = np.array(self.spacing[::-1])
        return _working_mask(self.volume, mask, self.frame, self.lattices, samples, working)

    @cached_property
    def band(self) -> Band | None:
        """Grain of the working grid around the mask."""
        from TumorSynthLib.texture.band import Band

        return Band.around(self.array, self.mask, self.valid)

    @cached_property
    def native_band(self) -> Band | None:
        """Grain of the image's own grid around the mask."""
        from TumorSynthLib.texture.band import Band

        there = np.zeros(self.native.shape, bool)
        size = self.frame.view(self.volume.array).shape
        there[tuple(slice(max(-a, 0), max(n - a, 0)) for a, n in zip(self.start, size))] = True
        return Band.around(self.native, self.native_mask, there)

    def to_native(self, working: np.ndarray, iterations: int = 30) -> np.ndarray:
        """Native float32 box whose `measure` equals the working values inside the mask, as nearly as the grids allow.

        The working values are interpolated to the native mask, then corrected by conjugate gradients on
        ‖measure(x) − working‖² inside the mask. Stopping early regularises: patterns that the working grid can't see
        stay as smooth as the interpolation made them. Voxels outside the native mask keep their values.

        :param working: (D, H, W) values on the working grid.
        :param iterations: conjugate gradient steps at most.
        """
        working = np.asarray(working, dtype=np.float64)
        if self.operators is None:
            return np.where(self.native_mask, working, self.native).astype(np.float32)
        thick = self.thick
        guess = self._interpolate(self._continued(working) if thick else working)
        result = np.where(self.native_mask, guess, self.native.astype(np.float64))
        inner, outer = bounding_box(self.native_mask), bounding_box(self.mask)
        operators = tuple(op[o, i] for op, o, i in zip(self.operators, outer, inner))
        residual = (working - apply_separable(self.operators, result))[outer]
        unknown, known = self.native_mask[inner], self.mask[outer]
        result[inner] += _least_squares(
            operators, unknown, known, residual, iterations, DAMPING if thick else 0.0
        )
        low, high = working[self.mask].min(), working[self.mask].max()
        if not thick:
            start = guess[self.native_mask]
            low, high = min(low, start.min()), max(high, start.max())
            low, high = low - SLACK * (high - low), high + SLACK * (high - low)
        result[self.native_mask] = np.clip(result[self.native_mask], low, high)
        return result.astype(np.float32)

    def _continued(self, working: np.ndarray) -> np.ndarray:
        """Working values with those outside the mask replaced by the nearest inside, so that neither side bleeds over."""
        from scipy import ndimage

        nearest = ndimage.distance_transform_edt(
            ~self.mask, self.spacing[::-1], return_distances=False, return_indices=True
        )
        return working[tuple(nearest)]

    def patch(self, native: np.ndarray) -> Patch:
        """The change that a native box makes to the volume, inside the mask only; copies the mask's box alone."""
        inner = bounding_box(self.native_mask)
        lps = tuple(slice(s.start + first, s.stop + first) for s, first in zip(inner, self.start))
        box = self.frame.file_box(lps, self.volume.array.shape)
        before = self.volume.array[box].copy()
        values = self.frame.back(np.asarray(native)[inner])
        inside = self.frame.back(self.native_mask[inner])
        after = before.copy()
        after[inside] = quantise(values[inside], before.dtype)
        return Patch(box, before, after)

    def paste(self, native: np.ndarray) -> np.ndarray:
        """Copy of the volume's whole (K, J, I) array, in the file's type, with the native box put inside the mask."""
        return self.patch(native).apply(self.volume.array.copy())

    def _interpolate(self, working: np.ndarray) -> np.ndarray:
        """Working values at the native box's voxels (cubic B-spline; beyond the window the border is repeated)."""
        matrices = []
        for lattice, first, start, size, count in zip(
            self.lattices, self.window, self.start, self.native.shape, working.shape
        ):
            positions = lattice.samples_at(np.arange(start, start + size)) - first
            matrices.append(bspline_matrix(np.clip(positions, 0, count - 1), count))
        return apply_separable(tuple(matrices), working)


def quantise(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values in a file's type: rounded to nearest and clipped for integers."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return np.asarray(values).astype(dtype)


def _plan(volume, mask: np.ndarray, spacing, window=None):
    """Frame, mask box, lattices and working spacing, all per LPS array axis (z, y, x); the grid is where pyradiomics puts it
    for the file as it is stored."""
    if mask.shape != volume.array.shape:
        raise InputError(
            f"the mask has {mask.shape[::-1]} voxels but the image {volume.array.shape[::-1]}: "
            "read it with read_mask, which brings it to the image's grid"
        )
    file_box = bounding_box(mask)
    if any(s.stop == s.start for s in file_box):
        raise InputError("the mask is empty: draw the tumour first, or give another label")
    frame = Frame.of(volume.direction)
    native = np.array(frame.take(volume.spacing[::-1]))
    sizes = frame.take(mask.shape)
    box = frame.lps_box(file_box, mask.shape)
    working = native
    if spacing is not None:
        working = pyradiomics_spacing(native, np.array(spacing[::-1]), [s.stop - s.start for s in box])
        if np.allclose(
            native, working
        ):  # pyradiomics' own rule, so that its features are those of the region
            working = native
    lattices = [Lattice(n, a / b, flip) for n, a, b, flip in zip(sizes, native, working, frame.flip)]
    if window is not None:
        wide = frame.lps_box(window, mask.shape)
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, wide))
    return frame, box, lattices, working


def _samples(lattice: Lattice, box: slice, spacing: float, margin_mm: float, multiple: int) -> np.ndarray:
    """Working samples of the window along one axis."""
    first, last = lattice.covering(box.start, box.stop - 1)
    margin = int(np.ceil(margin_mm / spacing - 1e-6))
    first, last = max(first - margin, 0), min(last + margin, lattice.count - 1)
    missing = -(last - first + 1) % multiple
    # Real context is better than a repeated border: grow into the image first.
    after = min(missing, lattice.count - 1 - last)
    before = min(missing - after, first)
    return np.arange(first - before, last + missing - before + 1)


def _gather(frame: Frame, array: np.ndarray, mask: np.ndarray, start, shape) -> tuple[np.ndarray, np.ndarray]:
    """Native box in LPS order (border repeated outside the image) and the mask in it."""
    image, labels = frame.view(array), frame.view(mask)
    stop = [first + size for first, size in zip(start, shape)]
    inside = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(start, stop, image.shape))
    pad = [(s.start - a, b - s.stop) for s, a, b in zip(inside, start, stop)]
    values = np.pad(image[inside].astype(np.float32), pad, mode="edge")
    return np.ascontiguousarray(values), np.pad(labels[inside].astype(bool), pad)


def _working_mask(volume, mask, frame: Frame, lattices, samples, working: np.ndarray) -> np.ndarray:
    """Nearest-neighbour mask on the working window, in LPS order."""
    file_axis = np.argsort(frame.order)
    plain = [Lattice(lattices[a].size, lattices[a].ratio) for a in file_axis]
    ordered = []
    for axis in file_axis:
        lattice, s = lattices[axis], samples[axis]
        ordered.append((lattice.count - 1 - s)[::-1] if lattice.flipped else s)
    found = nearest_mask(volume, mask, plain, ordered, working[file_axis])
    return np.ascontiguousarray(frame.view(found))


def _least_squares(
    operators: Matrices, unknown, known, residual: np.ndarray, iterations: int, damping: float
) -> np.ndarray:
    """Conjugate gradients (CGLS) for the change inside `unknown` that removes `residual` inside `known`.

    Minimises ‖residual − R change‖² + damping ‖change‖².
    """
    transposed = tuple(op.T for op in operators)
    residual = np.where(known, residual, 0.0)
    step = np.where(unknown, apply_separable(transposed, residual), 0.0)
    change, gradient = np.zeros_like(step), float(np.vdot(step, step))
    goal = 1e-8 * gradient
    for _ in range(iterations):
        if gradient <= goal or gradient == 0.0:
            break
        effect = np.where(known, apply_separable(operators, step), 0.0)
        curvature = float(np.vdot(effect, effect)) + damping * float(np.vdot(step, step))
        length = gradient / max(curvature, np.finfo(float).tiny)
        change += length * step
        residual -= length * effect
        slope = np.where(unknown, apply_separable(transposed, residual), 0.0) - damping * change
        previous, gradient = gradient, float(np.vdot(slope, slope))
        step = slope + gradient / previous * step
    return change


def _mm(spacing) -> str:
    return " × ".join(f"{s:.3g}" for s in spacing) + " mm"

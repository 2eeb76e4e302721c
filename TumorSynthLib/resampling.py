"""The resampling grid of pyradiomics, one axis at a time, as small dense matrices.

pyradiomics' `resampledPixelSpacing` aligns the new grid to the outer corner of the image's first voxel and
interpolates with ITK's cubic B-spline. Both are separable, so each axis needs only a matrix that takes the native
samples to the working ones. A window of the grid can then be computed from a box of the image, and the transpose
leads back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SUPPORT = 14
"""Native voxels kept beyond the window. The B-spline prefilter decays by 0.268 a voxel, so that what is cut off
weighs less than 1e-7."""

Matrices = tuple[np.ndarray, ...]  # one an axis: (z, y, x)


@dataclass(frozen=True)
class Lattice:
    """Working samples along one image axis.

    :param size: native voxels along the axis.
    :param ratio: native spacing divided by working spacing.
    :param flipped: the axis runs against the file, so that sample 0 here is the last one of the file.
    """

    size: int
    ratio: float
    flipped: bool = False

    @property
    def count(self) -> int:
        """Working samples of the whole image."""
        return int(np.ceil(self.size * self.ratio))

    def file_positions(self, samples: np.ndarray) -> np.ndarray:
        """Continuous native index, in the file's direction, of working samples."""
        samples = np.asarray(samples, dtype=np.float64)
        if self.flipped:
            samples = self.count - 1 - samples
        return (samples + 0.5) / self.ratio - 0.5

    def positions(self, samples: np.ndarray) -> np.ndarray:
        """Continuous native index, in this axis' own direction, of working samples."""
        positions = self.file_positions(samples)
        return self.size - 1 - positions if self.flipped else positions

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """Continuous working index at continuous native indices; the inverse of `positions`."""
        return (np.asarray(positions, dtype=np.float64) - self.positions(np.zeros(1))[0]) * self.ratio

    def inside(self, samples: np.ndarray, slack: float = 0.0) -> np.ndarray:
        """Which working samples lie within the image's voxels (`slack` voxels beyond them allowed)."""
        positions = self.file_positions(samples)
        return (positions >= -0.5 - slack) & (positions < self.size - 0.5 + slack)

    def clamped(self, samples: np.ndarray) -> np.ndarray:
        """Working samples moved to the nearest one within the image."""
        inside = np.flatnonzero(self.inside(np.arange(self.count), slack=1e-6))
        return np.clip(samples, inside[0], inside[-1]) if inside.size else np.zeros_like(samples)

    def nearest(self, samples: np.ndarray) -> np.ndarray:
        """Nearest native voxel of each working sample, halves rounded up along the file; -1 outside the image."""
        index = np.floor(self.file_positions(samples) + 0.5).astype(np.int64)
        if self.flipped:
            index = self.size - 1 - index
        return np.where(self.inside(samples), index, -1)

    def has_ties(self, samples: np.ndarray) -> bool:
        """True where a sample lies midway between two voxels, so that rounding errors choose the nearest."""
        fraction = np.mod(self.file_positions(samples), 1.0)
        return bool(np.any(np.abs(fraction - 0.5) < 1e-6))

    def covering(self, first: int, last: int) -> tuple[int, int]:
        """First and last working sample whose extent touches the native voxels `first`..`last`."""
        edges = self.samples_at(np.array([first - 0.5, last + 0.5]))
        return int(np.floor(edges[0] + 0.5)), int(np.ceil(edges[1] - 0.5))

    def box(self, samples: np.ndarray) -> tuple[int, int]:
        """Native voxels [start, stop) that the interpolation at these samples needs."""
        positions = np.clip(self.positions(self.clamped(samples)), -0.5, self.size - 0.5)
        start = int(np.floor(positions.min())) - SUPPORT
        stop = int(np.ceil(positions.max())) + SUPPORT + 1
        return max(start, 0), min(stop, self.size)


def mirror(index: np.ndarray, size: int) -> np.ndarray:
    """Reflect indices at the first and last sample, which are not repeated (ITK's B-spline border)."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    index = np.mod(index, period)
    return np.where(index < size, index, period - index)


def _bspline_weights(positions: np.ndarray, size: int) -> np.ndarray:
    """(m, n) cubic B-spline basis functions of n coefficients at m positions."""
    base = np.floor(positions).astype(np.int64)
    matrix = np.zeros((len(positions), size))
    rows = np.arange(len(positions))
    for tap in range(-1, 3):
        distance = np.abs(positions - (base + tap))
        inner = 2.0 / 3.0 - distance**2 * (1.0 - distance / 2.0)
        outer = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
        np.add.at(matrix, (rows, mirror(base + tap, size)), np.where(distance < 1.0, inner, outer))
    return matrix


def bspline_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """(m, n) matrix of the interpolating cubic B-spline (prefilter included) through n samples, at m positions."""
    prefilter = _bspline_weights(np.arange(size, dtype=np.float64), size)
    weights = _bspline_weights(np.asarray(positions, dtype=np.float64), size)
    return np.linalg.solve(prefilter.T, weights.T).T


def linear_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """(m, n) matrix of linear interpolation; the border sample is repeated."""
    positions = np.clip(positions, 0, size - 1)
    base = np.minimum(np.floor(positions).astype(np.int64), max(size - 2, 0))
    matrix = np.zeros((len(positions), size))
    rows = np.arange(len(positions))
    matrix[rows, base] = 1.0 - (positions - base)
    matrix[rows, np.minimum(base + 1, size - 1)] += positions - base
    return matrix


def nearest_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """(m, n) matrix of nearest-neighbour interpolation, halves rounded up."""
    index = np.clip(np.floor(positions + 0.5).astype(np.int64), 0, size - 1)
    return np.eye(size)[index]


INTERPOLATORS = {
    "sitkBSpline": bspline_matrix,
    "sitkLinear": linear_matrix,
    "sitkNearestNeighbor": nearest_matrix,
}


def axis_operator(
    lattice: Lattice, samples: np.ndarray, interpolator: str = "sitkBSpline"
) -> tuple[np.ndarray, int]:
    """Matrix from the native box of `lattice.box(samples)` to the samples, and the start of that box.

    Samples outside the image repeat the last one inside.
    """
    start, stop = lattice.box(samples)
    positions = lattice.positions(lattice.clamped(samples)) - start
    return INTERPOLATORS[interpolator](positions, stop - start), start


def all_inside(lattices, samples) -> np.ndarray:
    """(D, H, W) bool, the samples of three axes that lie inside the image."""
    z, y, x = (lattice.inside(s) for lattice, s in zip(lattices, samples))
    return z[:, None, None] & y[None, :, None] & x[None, None, :]


def apply_separable(matrices: Matrices, array: np.ndarray) -> np.ndarray:
    """Apply (Rz, Ry, Rx) to a (D, H, W) array, each along its own axis."""
    array = array @ matrices[2].T
    array = np.matmul(matrices[1], array)
    return np.tensordot(matrices[0], array, axes=(1, 0))


def pyradiomics_spacing(native: np.ndarray, wanted: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Spacing that pyradiomics really uses for `resampledPixelSpacing`.

    :param native: spacing of the mask (mm).
    :param wanted: asked spacing (mm); 0 keeps the native one.
    :param extent: size of the mask's bounding box in voxels; an axis of one slice is never resampled.
    """
    native, wanted = np.asarray(native, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    return np.where((wanted == 0) | (np.asarray(extent) == 1), native, wanted)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box of slices around the true voxels; empty slices where there are none."""
    box: list[slice] = []
    view = mask
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        where = np.flatnonzero(view.any(axis=others))
        found = slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)
        box.append(found)
        # The next axis only needs the slab that was found, which keeps large volumes cheap.
        view = view[(slice(None),) * axis + (found,)]
    return tuple(box)


@dataclass(frozen=True)
class Resampled:
    """Image and mask on the resampled grid.

    :param array: (D, H, W) values in the file's axis order, float64 (whole numbers for integer images, as in ITK).
    :param mask: (D, H, W) bool.
    :param spacing: (x, y, z) mm along the file's axes.
    :param start: (z, y, x) index of the window's first voxel in the resampled grid of the whole image.
    """

    array: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    start: tuple[int, int, int]


def resample_like_pyradiomics(
    volume,
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    pad: int = 5,
    interpolator: str = "sitkBSpline",
) -> Resampled:
    """Image and mask as pyradiomics' `resampleImage` returns them, computed from the mask's surroundings only.

    :param volume: a `Volume`.
    :param mask: (K, J, I) bool on the volume's grid, not empty.
    :param spacing: `resampledPixelSpacing`, (x, y, z) mm along the file's axes.
    :param pad: `padDistance`, in resampled voxels.
    :param interpolator: a key of `INTERPOLATORS`.
    """
    box = bounding_box(mask)
    native = np.array(volume.spacing[::-1])
    working = pyradiomics_spacing(native, np.array(spacing[::-1]), [s.stop - s.start for s in box])
    if np.allclose(native, working):
        window = tuple(slice(max(s.start - pad, 0), s.stop + pad) for s in box)
        crop = volume.array[window].astype(np.float64)
        return Resampled(crop, mask[window].copy(), volume.spacing, tuple(s.start for s in window))
    lattices = [Lattice(n, a / b) for n, a, b in zip(mask.shape, native, working)]
    samples = [pyradiomics_window(lattice, s, pad) for lattice, s in zip(lattices, box)]
    operators, crop = zip(*(axis_operator(a, s, interpolator) for a, s in zip(lattices, samples)))
    window = tuple(slice(start, start + op.shape[1]) for op, start in zip(operators, crop))
    values = apply_separable(operators, volume.array[window].astype(np.float64))
    found = nearest_mask(volume, mask, lattices, samples, working)
    # ITK leaves 0 outside the image. A sample right on the image's edge is inside if ITK found the mask there.
    values = np.where(all_inside(lattices, samples) | found, values, 0.0)
    return Resampled(
        cast_like_itk(values, volume.array.dtype),
        found,
        tuple(float(s) for s in working[::-1]),
        tuple(int(s[0]) for s in samples),
    )


def pyradiomics_window(lattice: Lattice, box: slice, pad: int) -> np.ndarray:
    """Working samples that pyradiomics keeps along one axis (not flipped) for a mask that spans `box`."""
    first = max(np.floor((box.start - 0.5) * lattice.ratio - pad), 0)
    last = min(np.ceil((box.stop - 0.5) * lattice.ratio + pad), lattice.count - 1)
    return np.arange(int(first), int(last) + 1)


def cast_like_itk(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values as ITK's resampling stores them in an image of this type: cut towards zero for integers."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.clip(np.trunc(values), limits.min, limits.max)
    return values.astype(dtype).astype(np.float64)


def nearest_mask(volume, mask: np.ndarray, lattices, samples, working: np.ndarray) -> np.ndarray:
    """Mask at the working samples, nearest neighbour, in the file's axis order.

    Where samples fall midway between voxels (e.g. at exactly half the resolution) ITK's choice hangs on rounding
    errors in physical space: there ITK itself is asked, on pyradiomics' own grid.
    """
    index = [lattice.nearest(s) for lattice, s in zip(lattices, samples)]
    found = mask[np.ix_(*[np.maximum(i, 0) for i in index])]
    found &= all_inside(lattices, samples)
    box = bounding_box(mask)
    near = [
        s[(lattice.samples_at(b.start - 1) <= s) & (s <= lattice.samples_at(b.stop))]
        for lattice, s, b in zip(lattices, samples, box)
    ]
    if any(lattice.has_ties(s) for lattice, s in zip(lattices, near)):
        _ask_itk(volume, mask, lattices, samples, working, found)
    return found


def _ask_itk(volume, mask: np.ndarray, lattices, samples, working: np.ndarray, found: np.ndarray) -> None:
    """Overwrite `found` with ITK's nearest-neighbour mask where pyradiomics' default window covers it."""
    import SimpleITK as sitk

    # Cropped at the far end only: the same origin and indices keep the same rounding errors.
    box = bounding_box(mask)
    image = sitk.GetImageFromArray(mask[tuple(slice(0, s.stop + 2) for s in box)].astype(np.uint8))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    window = [pyradiomics_window(lattice, s, pad=5) for lattice, s in zip(lattices, box)]
    native, wanted = np.array(volume.spacing), working[::-1]
    corner = 0.5 * (wanted - native) / native + np.array([w[0] for w in window[::-1]]) / (native / wanted)
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetOutputSpacing(wanted.tolist())
    resampler.SetOutputDirection(volume.direction)
    resampler.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint(corner.tolist()))
    resampler.SetSize([len(w) for w in window[::-1]])
    asked = sitk.GetArrayFromImage(resampler.Execute(image)).astype(bool)
    found[...] = False
    source, target = [], []
    for w, s in zip(window, samples):
        first, last = max(w[0], s[0]), min(w[-1], s[-1])
        source.append(slice(first - w[0], last - w[0] + 1))
        target.append(slice(first - s[0], last - s[0] + 1))
    found[tuple(target)] = asked[tuple(source)]

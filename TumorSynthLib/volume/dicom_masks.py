"""Masks out of DICOM: segments of a SEG and structures of an RTSTRUCT, on the grid of an image.

A SEG has a geometry of its own and leaves empty slices out; an RTSTRUCT holds contours in the slices of its image,
where one that lies within another cuts a hole. Tags: DICOM PS3.3, C.8.20 and C.8.8.6.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import guard
from TumorSynthLib.volume.dicom_pixels import pixels as pixels_of
from TumorSynthLib.volume.dicom_stack import UNEVEN, Plane, moved, planes_of, stacked
from TumorSynthLib.volume.dicom_tags import foreign, frames_of, header, is_packed, refused, whole
from TumorSynthLib.volume.types import Volume

OFF_PLANE = 0.25  # slices that a contour's points may be apart from each other, and from their slice
MAX_GRID = 2**29  # voxels of a grid that contours may ask for
FINER = 2  # pixels of a grid for contours per pixel of the image
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
TILED = "(0048,0006)"

Structure = tuple[int, str, Callable[[], np.ndarray]]
OntoGrid = Callable[[Volume, Volume, str], np.ndarray]


def structures(found: tuple[Path, str], like: Volume, onto_grid: OntoGrid) -> list[Structure]:
    """Number, name and voxels (a function that gives (K, J, I) bool on the image's grid) of all structures in a file.

    :param found: file and kind, as `dicom.mask_file` gives them.
    :param onto_grid: brings a mask to the image's grid by nearest neighbour.
    :raises InputError: damaged, without geometry, or a soft mask.
    """
    path, kind = found
    with foreign(path):
        return (_segments if kind == "SEG" else _contours)(path, like, onto_grid)


def _segments(path: Path, like: Volume, onto_grid: OntoGrid) -> list[Structure]:
    head = header(path, pixels=False)
    _say_of_frame(path, str(head.get("FrameOfReferenceUID", "")), like)
    frames = frames_of(path, head)
    if "PerFrameFunctionalGroupsSequence" not in head or "TotalPixelMatrixRows" in head:
        raise InputError(f"can't read {path}: its frames have no place in space (tags (5200,9230), {TILED})")
    planes = planes_of(path, head)
    values = _values(path, head, frames)
    numbers = _numbers(path, head, values)
    names = {int(s.SegmentNumber): str(s.get("SegmentLabel", "")).strip() for s in head.SegmentSequence}
    used = [n for n, held in numbers.items() if held] or list(numbers)
    return [
        (n, names.get(n, ""), partial(_segment, path, planes, values, numbers[n], n, like, onto_grid))
        for n in sorted(used)
    ]


def _values(path: Path, head: Any, frames: int) -> np.ndarray:
    """(frames, rows, columns) uint8 or uint16 of a SEG: 0 and 1, or the labels of a LABELMAP.

    :raises InputError: a soft mask.
    """
    rows, columns = whole(path, head, "Rows"), whole(path, head, "Columns")
    bits = whole(path, head, "BitsAllocated")
    kind = str(head.get("SegmentationType", "")).strip().upper()
    count = frames * rows * columns
    if min(rows, columns) < 1 or bits not in (1, 8, 16):
        raise refused(path, "BitsAllocated", f"is {bits} for {rows} × {columns} pixels")
    if bits == 1:
        guard.check_claim(path, (count + 7) // 8, path.stat().st_size, is_packed(head))
        guard.check_claim(path, count, path.stat().st_size, True)
        data = header(path, pixels=True).get("PixelData") or b""
        if is_packed(head) or len(data) < (count + 7) // 8:
            raise refused(path, "PixelData", "is compressed single bits, or ends early")
        flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
        return flat.reshape(frames, rows, columns)
    guard.check_claim(path, count * bits // 8, path.stat().st_size, is_packed(head))
    values = pixels_of(path, head)
    if kind == "FRACTIONAL":
        most = int(head.get("MaximumFractionalValue", 255))
        if not np.isin(values, (0, most)).all():
            raise InputError(
                f"{path} is a soft mask (SEG of SegmentationType FRACTIONAL, shares of each voxel): make it BINARY, "
                "e.g. by a threshold of 0.5"
            )
        return (values > 0).astype(np.uint8)
    return values


def _numbers(path: Path, head: Any, values: np.ndarray) -> dict[int, list[int]]:
    """Frames of each segment, by its number; in a LABELMAP every frame may hold every segment."""
    found: dict[int, list[int]] = {int(s.SegmentNumber): [] for s in head.SegmentSequence}
    if str(head.get("SegmentationType", "")).strip().upper() == "LABELMAP":
        for n in found:
            found[n] = [k for k in range(len(values)) if n > 0 and (values[k] == n).any()]
        return {n: held for n, held in found.items() if n > 0}
    shared = (head.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for k, groups in enumerate(head.PerFrameFunctionalGroupsSequence):
        which = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        if not which:
            raise InputError(
                f"can't read {path}: frame {k + 1} doesn't say which segment it is (tag (0062,000B))"
            )
        found.setdefault(int(which[0].ReferencedSegmentNumber), []).append(k)
    return found


def _segment(
    path: Path, planes, values, frames: list[int], number: int, like: Volume, onto_grid: OntoGrid
) -> np.ndarray:
    """One segment on the image's grid: put into its slices where they coincide, else resampled."""
    with foreign(path):
        labelled = values.max(initial=0) > 1
        held = [(planes[k], values[k] == number if labelled else values[k] > 0) for k in frames]
        held = [(plane, pixels) for plane, pixels in held if pixels.any()]
        if not held:
            return np.zeros(like.array.shape, bool)
        put = _put(held, planes, like)
        if put is not None:
            return put
        stack = stacked(path, [plane for plane, _ in held], gaps=True)
        columns, rows = stack.planes[0].size
        guard.check_claim(path, (max(stack.slots) + 1) * rows * columns, path.stat().st_size, True)
        array = np.zeros((max(stack.slots) + 1, rows, columns), np.uint8)
        for place, slot in zip(stack.order, stack.slots):
            array[slot] |= held[place][1]
        spacing, origin, direction = stack.geometry()
        if stack.tilted:
            array, low = moved(array, stack.drift, 0, nearest=True)
            axes = np.asarray(direction).reshape(3, 3)
            origin = tuple((np.asarray(origin) + axes[:, :2] @ (low * np.asarray(spacing[:2]))).tolist())
        return onto_grid(Volume(array > 0, spacing, origin, direction), like, str(path))


def _put(held: list[tuple[Plane, np.ndarray]], planes: Sequence[Plane], like: Volume) -> np.ndarray | None:
    """The frames as slices of the image; None where their pixels aren't its voxels, or their slices are of another thickness.

    The image's axes may run otherwise than the frames' (another order of slices, a mirrored or turned NIfTI).
    """
    first = held[0][0]
    steps = np.linalg.inv(like.matrix) @ np.stack(
        [first.across * first.pixel[0], first.down * first.pixel[1], first.normal], axis=1
    )
    axes = np.abs(steps).argmax(axis=0)
    whole = np.zeros((3, 3))
    whole[axes, [0, 1, 2]] = np.sign(steps[axes, [0, 1, 2]])
    whole[:, 2] *= np.abs(steps[:, 2]).max()
    size = max(first.size)
    if len(set(axes.tolist())) < 3 or np.abs(steps - whole)[:, :2].max() * size > OFF_PLANE:
        return None
    thickness = first.thickness or _least_gap(planes)
    if thickness is not None and abs(thickness / like.spacing[int(axes[2])] - 1) > UNEVEN:
        return None
    mask = np.zeros(like.array.shape, bool)
    for plane, pixels in held:
        rows, columns = np.nonzero(pixels)
        index = like.indices(plane.position) + np.outer(columns, steps[:, 0]) + np.outer(rows, steps[:, 1])
        nearest = np.rint(index)
        inside = ((nearest >= 0) & (nearest < like.size)).all(1)
        if np.abs(index - nearest).max() > OFF_PLANE or not inside.all():
            return None
        k, j, i = nearest.astype(int).T[::-1]
        mask[k, j, i] = True
    return mask


def _least_gap(planes: Sequence[Plane]) -> float | None:
    """mm between the two planes that are nearest to each other."""
    heights = np.unique(np.round([plane.position @ planes[0].normal for plane in planes], 3))
    return float(np.diff(heights).min()) if len(heights) > 1 else None


def _say_of_frame(path: Path, uid: str, like: Volume) -> None:
    """Say where a mask belongs to another frame of reference than the image."""
    own = like.metadata.get("0020|0052", "")
    if uid and own and uid != own:
        warnings.warn(
            f"{path} belongs to another frame of reference than the image (tag (0020,0052)): check that they fit",
            ImageWarning, stacklevel=3,
        )  # fmt: skip


def _contours(path: Path, like: Volume, onto_grid: OntoGrid) -> list[Structure]:
    head = header(path)
    frames = head.get("ReferencedFrameOfReferenceSequence") or []
    uids = {str(frame.get("FrameOfReferenceUID", "")) for frame in frames}
    if len(uids) == 1:
        _say_of_frame(path, uids.pop(), like)
    names = {
        int(r.ROINumber): str(r.get("ROIName", "")).strip() for r in head.get("StructureSetROISequence") or []
    }
    found = []
    for roi in head.get("ROIContourSequence") or []:
        number = int(roi.ReferencedROINumber)
        items = roi.get("ContourSequence") or []
        kinds = [str(item.get("ContourGeometricType", CLOSED[0])).strip().upper() for item in items]
        outlines = [_points(path, item) for item, kind in zip(items, kinds) if kind in CLOSED]
        if outlines:
            found.append((number, names.get(number, ""), partial(_filled, path, outlines, like, onto_grid)))
        elif kinds:
            warnings.warn(
                f"{path}: {names.get(number, number)} has no closed outlines ({', '.join(sorted(set(kinds)))}) and was left out",
                ImageWarning, stacklevel=3,
            )  # fmt: skip
    if not found:
        raise InputError(f"{path} holds no closed contours: draw the tumour first")
    return found


def _points(path: Path, item: Any) -> np.ndarray:
    """(N, 3) LPS mm of a contour."""
    data = np.asarray(item.get("ContourData") or [], np.float64)
    if data.size % 3 or not np.isfinite(data).all() or np.abs(data).max(initial=0) > 1e6:
        raise InputError(
            f"can't read {path}: a contour (tag (3006,0050) ContourData) has no usable positions"
        )
    return data.reshape(-1, 3)


def _filled(path: Path, outlines: list[np.ndarray], like: Volume, onto_grid: OntoGrid) -> np.ndarray:
    """Voxels whose centres lie in an odd number of the contours, so that a contour within another cuts a hole."""
    outlines = _once(path, [points for points in outlines if len(points) >= 3])
    if not outlines:
        return np.zeros(like.array.shape, bool)
    slices = [like.indices(points) for points in outlines]
    heights = np.array([index[:, 2].mean() for index in slices])
    flat = max(np.ptp(index[:, 2]) for index in slices) <= OFF_PLANE
    if flat and np.abs(heights - np.rint(heights)).max() <= OFF_PLANE and _every_slice(np.rint(heights)):
        _say_of_gaps(path, np.rint(heights))
        return onto_grid(_whole_slices(path, slices, like), like, str(path))
    own = _own_grid(path, outlines, like)
    return onto_grid(own, like, str(path))


def _once(path: Path, outlines: list[np.ndarray]) -> list[np.ndarray]:
    """The contours without those that are there twice, of which one would take out what the other puts in."""
    kept = list({np.round(points, 3).tobytes(): points for points in outlines}.values())
    if len(kept) < len(outlines):
        warnings.warn(
            f"{path} holds {len(outlines) - len(kept)} contours twice: each was taken once", ImageWarning, stacklevel=4
        )  # fmt: skip
    return kept


def _whole_slices(path: Path, slices: list[np.ndarray], like: Volume) -> Volume:
    """Contours (N, 3) in the image's indices, filled on its voxels, also on those that it would have beyond its border."""
    points = np.concatenate(slices)
    low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int)
    low[2], high[2] = np.rint([points[:, 2].min(), points[:, 2].max()]).astype(int)
    size = high - low + 1
    if np.prod(size.astype(object)) > MAX_GRID:
        raise _too_far(path, float((size * like.spacing).max()))
    array = np.zeros(tuple(size[::-1]), bool)
    for index in slices:
        k = int(np.rint(index[:, 2].mean())) - low[2]
        array[k] ^= polygon(index[:, :2] - low[:2], array.shape[1:])
    return replace(like, array=array, origin=tuple(like.points(low)))


def _too_far(path: Path, mm: float) -> InputError:
    return InputError(
        f"can't read {path}: its contours reach over {mm:.0f} mm; check that they fit the image"
    )


def _every_slice(heights: np.ndarray) -> bool:
    """Whether contours lie in neighbouring slices; else they were drawn on thicker ones."""
    gaps = np.diff(np.unique(heights))
    return not len(gaps) or float(np.median(gaps)) == 1


def _say_of_gaps(path: Path, heights: np.ndarray) -> None:
    """Say where slices between contours have none."""
    gaps = np.diff(np.unique(heights))
    if (gaps > 1).any():
        warnings.warn(
            f"{path} has no contour in {int((gaps - 1).sum())} slices between others: they stay empty",
            ImageWarning, stacklevel=4,
        )  # fmt: skip


def _own_grid(path: Path, outlines: list[np.ndarray], like: Volume) -> Volume:
    """Contours filled on a grid of their own: its slices are their planes, its pixels finer than the image's."""
    across, down, normal = _frame(outlines, like)
    flat = [points @ np.stack([across, down, normal], axis=1) for points in outlines]
    heights = np.round([points[:, 2].mean() for points in flat], 2)
    planes = np.unique(heights)
    gaps = np.diff(planes)
    step, usual = (float(gaps.min()), float(np.median(gaps))) if len(gaps) else (min(like.spacing),) * 2
    if max(np.ptp(points[:, 2]) for points in flat) > OFF_PLANE * max(step, min(like.spacing)):
        raise InputError(f"can't read {path}: a contour (tag (3006,0050) ContourData) doesn't lie in a plane")
    pitch = min(like.spacing) / FINER
    ends = np.concatenate(flat)
    low, high = ends.min(axis=0), ends.max(axis=0)
    size = np.ceil((high - low) / [pitch, pitch, step]).astype(np.int64) + 2
    if np.prod(size.astype(object)) > MAX_GRID:
        raise _too_far(path, float((high - low).max()))
    array = np.zeros(tuple(size[::-1]), bool)
    for k in range(len(array)):
        # A slice takes the plane nearest to it, if that isn't farther than contours usually are apart.
        height = planes[np.abs(planes - (planes[0] + k * step)).argmin()]
        if abs(height - planes[0] - k * step) <= 0.505 * max(step, usual):
            for points in (points for points, at in zip(flat, heights) if at == height):
                array[k] ^= polygon((points[:, :2] - low[:2]) / pitch, array.shape[1:])
    direction = np.stack([across, down, normal], axis=1)
    origin = direction @ np.array([low[0], low[1], planes[0]])
    return Volume(array, (pitch, pitch, step), tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def _frame(outlines: list[np.ndarray], like: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions across, down and normal of the plane that the contours are drawn in."""
    largest = max(outlines, key=lambda points: float(np.ptp(points, axis=0).max()))
    normal = np.linalg.svd(largest - largest.mean(axis=0), full_matrices=True)[2][2]
    axes = np.asarray(like.direction, np.float64).reshape(3, 3)
    across = axes[:, int(np.abs(axes.T @ normal).argmin())]
    across = across - normal * (across @ normal)
    across /= np.linalg.norm(across)
    return across, np.cross(normal, across), normal


def polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: pixels whose centres lie in a closed polygon, by the even-odd rule.

    :param points: (N, 2) corners (x, y) in pixels, centres at whole numbers; the last is joined to the first.
    """
    rows, columns = shape
    mask = np.zeros(shape, bool)
    x, y = np.asarray(points, np.float64).T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    low, high = np.minimum(y, y2), np.maximum(y, y2)
    for row in range(max(int(np.ceil(y.min())), 0), min(int(np.floor(y.max())), rows - 1) + 1):
        crossed = (low <= row) & (row < high)
        at = np.sort(
            x[crossed] + (row - y[crossed]) * (x2[crossed] - x[crossed]) / (y2[crossed] - y[crossed])
        )
        for start, stop in zip(at[::2], at[1::2]):
            first, last = max(int(np.ceil(start)), 0), min(int(np.floor(stop)), columns - 1)
            mask[row, first : last + 1] = True
    return mask

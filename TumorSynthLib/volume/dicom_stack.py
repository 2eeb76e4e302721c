"""Slices and frames of DICOM, each placed by its own tags, as one stack; what isn't a plain stack is refused.

Tags: DICOM PS3.3, C.7.6.2, C.7.6.16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume.dicom_tags import TAGS, frames_of, pydicom, refused, vector, whole

SAME_DIRECTION = 5e-4  # parts of two slices' orientations that may differ: rounding of four digits
SAME_PIXEL = 0.1  # voxels that slices may be off their place, at their farthest corner
UNEVEN = 0.05  # share of the distance between slices by which it may vary
MAX_TILT_DEG = 45.0


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice or frame, as its tags place it.

    :param file: where it is stored, and which `frame` of it, from 0.
    :param position: (3,) LPS mm of its first pixel.
    :param across: (3,) direction along a row; `down` along a column.
    :param pixel: (2,) mm between columns and between rows.
    :param scale: slope and intercept of its values.
    :param thickness: mm between slices as its tags say, else None.
    """

    file: Path
    frame: int
    position: np.ndarray
    across: np.ndarray
    down: np.ndarray
    pixel: np.ndarray
    size: tuple[int, int]
    scale: tuple[float, float]
    thickness: float | None

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.across, self.down)


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes as one volume.

    :param order: places of the planes from the first slice to the last.
    :param slots: slice of the volume that each of them, in that order, takes (0, 1, 2 … but where frames are left out).
    :param step: mm between slices.
    :param drift: (2,) pixels that each slice lies aside of the one before; not zero where the gantry was tilted.
    """

    planes: tuple[Plane, ...]
    order: tuple[int, ...]
    slots: tuple[int, ...]
    step: float
    drift: np.ndarray

    @property
    def tilted(self) -> bool:
        return bool(np.abs(self.drift * max(self.slots)).max() > SAME_PIXEL)

    @property
    def tilt_degrees(self) -> float:
        aside = np.linalg.norm(self.drift * self.planes[0].pixel)
        return float(np.degrees(np.arctan2(aside, self.step)))

    def geometry(self) -> tuple[tuple, tuple, tuple]:
        """Spacing, origin and direction of the volume, without tilt."""
        first = self.planes[self.order[0]]
        direction = np.stack([first.across, first.down, first.normal], axis=1)
        spacing = (*first.pixel.tolist(), self.step)
        return spacing, tuple(first.position.tolist()), tuple(direction.ravel().tolist())


def planes_of(path: Path, head: Any) -> list[Plane]:
    """The slice of a file, or its frames, each with what its own tags or functional groups say.

    :raises InputError: a tag is missing or has no usable value.
    """
    if "PerFrameFunctionalGroupsSequence" not in head:
        if frames_of(path, head) > 1:
            raise refused(
                path, "PerFrameFunctionalGroupsSequence", "is missing: nothing says where its frames lie"
            )
        return [_plane(path, 0, head, head, head, head, head)]
    frames = head.PerFrameFunctionalGroupsSequence
    shared = (head.get("SharedFunctionalGroupsSequence") or [{}])[0]
    if len(frames) != frames_of(path, head):
        raise refused(
            path,
            "PerFrameFunctionalGroupsSequence",
            f"has {len(frames)} items for {frames_of(path, head)} frames",
        )

    def group(frame: Any, name: str) -> Any:
        found = frame.get(name) or shared.get(name)
        return found[0] if found else pydicom().Dataset()

    names = ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
    return [
        _plane(path, n, head, *(group(frame, f"{name}Sequence") for name in names))
        for n, frame in enumerate(frames)
    ]


def _plane(path: Path, frame: int, head, place, orientation, measures, values) -> Plane:
    """One plane out of the attributes that say where it lies, how it is turned, how large its pixels are, and its scale."""
    cosines = vector(path, orientation, "ImageOrientationPatient", 6)
    across, down = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if abs(lengths[0] - 1) > 0.01 or abs(lengths[1] - 1) > 0.01 or abs(across @ down) > 0.01:
        raise refused(path, "ImageOrientationPatient", "isn't two directions at right angles")
    rows_apart, columns_apart = vector(path, measures, "PixelSpacing", 2)
    if min(rows_apart, columns_apart) <= 0:
        raise refused(path, "PixelSpacing", f"is {rows_apart:g} and {columns_apart:g} mm")
    across = across / lengths[0]
    down = down / lengths[1] - across * (across @ down)
    thickness = None
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        if thickness is None and measures.get(name) not in (None, ""):
            thickness = abs(float(vector(path, measures, name, 1)[0])) or None
    return Plane(
        path, frame, vector(path, place, "ImagePositionPatient", 3), across, down / np.linalg.norm(down),
        np.array([columns_apart, rows_apart]), (whole(path, head, "Columns"), whole(path, head, "Rows")),
        _scale(path, values), thickness,
    )  # fmt: skip


def _scale(path: Path, values: Any) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where there are none."""
    found = []
    for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        there = values.get(name) not in (None, "")
        found.append(float(vector(path, values, name, 1)[0]) if there else default)
    if found[0] == 0:
        raise refused(path, "RescaleSlope", "is 0")
    return found[0], found[1]


def check_alike(path: Path, planes: Sequence[Plane]) -> None:
    """Raise InputError where slices differ in size, orientation or pixel size, and name the tag."""
    first = planes[0]
    for plane in planes[1:]:
        where = f"{plane.file.name} and {first.file.name}" if plane.file != first.file else plane.file.name
        if plane.size != first.size:
            sizes = f"{first.size[0]} × {first.size[1]} and {plane.size[0]} × {plane.size[1]} pixels"
            raise refused(
                path, "Rows", f"differs between slices ({sizes}; {where}): give one series of one size"
            )
        turned = max(np.abs(plane.across - first.across).max(), np.abs(plane.down - first.down).max())
        if turned > SAME_DIRECTION:
            raise refused(
                path, "ImageOrientationPatient", f"differs between slices ({where}): they are no stack"
            )
        grown = np.abs(plane.pixel / first.pixel - 1) * first.size
        if grown.max() > SAME_PIXEL:
            sizes = f"{first.pixel[0]:g} and {plane.pixel[0]:g} mm"
            raise refused(path, "PixelSpacing", f"differs between slices ({sizes}; {where})")


def stacked(path: Path, planes: Sequence[Plane], gaps: bool = False) -> Stack:
    """Planes of one orientation in the order of their positions, checked to be equally far apart.

    :param gaps: slices may be missing (frames of a SEG that are empty); they are left out of `slots`.
    :raises InputError: missing, doubled or shifted slices.
    """
    first = planes[0]
    positions = np.array([plane.position for plane in planes])
    heights = (positions - first.position) @ first.normal
    order = np.argsort(heights, kind="stable")
    heights = heights[order]
    step, slots = _steps(path, heights, first.thickness, gaps)
    aside = (
        (positions[order] - positions[order[0]]) @ np.stack([first.across, first.down], axis=1) / first.pixel
    )
    drift = aside[-1] / slots[-1] if slots[-1] else np.zeros(2)
    if np.abs(aside - slots[:, None] * drift).max() > SAME_PIXEL:
        raise refused(
            path, "ImagePositionPatient", "differs within the slices' plane: some are shifted aside"
        )
    stack = Stack(tuple(planes), tuple(order.tolist()), tuple(slots.tolist()), step, drift)
    if stack.tilt_degrees > MAX_TILT_DEG:
        raise refused(
            path, "ImagePositionPatient", f"runs {stack.tilt_degrees:.0f}° aside of the slices' normal"
        )
    return stack


def _steps(path: Path, heights: np.ndarray, thickness: float | None, gaps: bool) -> tuple[float, np.ndarray]:
    """Distance of slices in mm, and the slot of each plane."""
    apart = np.diff(heights)
    if len(heights) == 1:
        if thickness is None:
            raise refused(path, "SliceThickness", "is missing: nothing says how thick the only slice is")
        return thickness, np.zeros(1, int)
    usual = float(np.median(apart))
    if not gaps:
        if (
            apart.max() > (1 + UNEVEN) * usual + 0.01
            or apart.min() < (1 - UNEVEN) * usual - 0.01
            or usual < 1e-4
        ):
            raise InputError(
                f"the slices in {path} are {apart.min():.3g} to {apart.max():.3g} mm apart (tag "
                f"{TAGS['ImagePositionPatient']} ImagePositionPatient): a slice is missing or doubled; export the series again"
            )
        return float(heights[-1] - heights[0]) / len(apart), np.arange(len(heights))
    distinct = apart[apart > 1e-3]
    if not len(distinct):
        step = thickness
    else:
        options = [t for t in (thickness, float(distinct.min())) if t]
        step = next(
            (t for t in options if np.abs(distinct / t - np.rint(distinct / t)).max() <= 2 * UNEVEN), None
        )
    if step is None:
        raise refused(path, "ImagePositionPatient", "isn't that of slices equally far apart")
    return step, np.rint((heights - heights[0]) / step).astype(int)


def moved(
    array: np.ndarray, drift: np.ndarray, outside: float, nearest: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Slices moved within their plane by so many pixels from one to the next, the grid widened to hold them all.

    :param array: (K, J, I).
    :param drift: (2,) pixels along x and y.
    :param outside: value where no slice lies.
    :returns: the wider array, and (2,) pixels by which it begins before the first slice's corner.
    """
    count, rows, columns = array.shape
    whole_way = drift * (count - 1)
    low = np.floor(np.minimum(whole_way, 0))
    extra = (np.ceil(np.maximum(whole_way, 0)) - low).astype(int)
    result = np.full((count, rows + extra[1], columns + extra[0]), outside, array.dtype)
    for k in range(count):
        shift = drift * k - low
        base = np.rint(shift).astype(int) if nearest else np.floor(shift).astype(int)
        part = np.zeros(2) if nearest else shift - base
        plane = np.pad(array[k].astype(np.float64), ((1, 1), (1, 1)), constant_values=outside)
        for axis, share in ((1, part[0]), (0, part[1])):
            plane = (1 - share) * plane + share * np.roll(plane, 1, axis)
        if array.dtype.kind in "iu":
            plane = np.rint(plane)
        # The padded plane begins one pixel early, and the last row or column may lie just outside.
        rows_to, columns_to = (
            slice(max(b - 1, 0), b + n + 1) for b, n in ((base[1], rows), (base[0], columns))
        )
        part_of = plane[rows_to.start - base[1] + 1 :, columns_to.start - base[0] + 1 :]
        target = result[k, rows_to, columns_to]
        target[...] = part_of[: target.shape[0], : target.shape[1]]
    return result, low

"""Masks from files: labelmaps, segmentations with names, DICOM SEG and RTSTRUCT, brought onto an image's grid."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.volume import dicom, nrrd
from TumorSynthLib.volume.files import read_any
from TumorSynthLib.volume.types import SAME_GRID, Volume, check_image, corners

MASK_OUTSIDE = 0.01
"""Part of a mask that may lie outside the image (rounding at the border). More is a mask of another image."""

MANY_LABELS = 255  # more values than that are no labelmap's
LABEL_SLACK = 1e-3  # by which a label may miss a whole number: labelmaps are saved as floats, or scaled


@dataclass(frozen=True)
class Part:
    """One structure that a mask file holds: number and name to choose it by, and its voxels on the image's grid.

    :param size: number of its voxels, where `voxels` gives a part of the image.
    """

    number: float
    name: str
    voxels: Callable[[], np.ndarray]
    size: int | None = None

    def __str__(self) -> str:
        return f"{written(self.number)} ({self.name})" if self.name else written(self.number)


def written(number: float) -> str:
    """A label as text: all digits of a whole number."""
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def read_mask(path: str | os.PathLike, like: Volume, label: int | str | None = None) -> np.ndarray:
    """Read a mask onto the grid of an image (nearest neighbour where it has a grid of its own).

    :param path: labelmap (NIfTI, NRRD, MetaImage), .seg.nrrd, DICOM SEG or RTSTRUCT.
    :param like: the image.
    :param label: which value, segment or structure is the tumour, by number or name; None takes the only one there is.
    :returns: (K, J, I) bool on the grid of `like`.
    :raises InputError: unreadable, empty, several labels and none chosen, or not over the image.
    """
    found = parts_of(Path(path), like)
    mask = chosen_part(found, label, str(path)).voxels()
    if not mask.any():
        raise InputError(f"{path} is empty: draw the tumour first")
    return mask


def among_others(path: str | os.PathLike, like: Volume, label: int | str, mask: np.ndarray) -> np.ndarray:
    """A mask file's labels with a new mask (K, J, I) bool for one of them, on top of the others; 0 and 1 where there are none."""
    found = parts_of(Path(path), like)
    chosen = chosen_part(found, label, str(path))
    if len(found) == 1 or not all(float(part.number).is_integer() for part in found):
        return mask.astype(np.uint8)
    small = all(part.number in range(256) for part in found)
    result = np.zeros(mask.shape, np.uint8 if small else np.int32)
    for part in found:
        if part is not chosen:
            result[part.voxels()] = int(part.number)
    result[mask] = int(chosen.number)
    return result


def read_labelmap(path: str | os.PathLike, like: Volume) -> np.ndarray:
    """Read a labelmap onto the grid of an image, nearest neighbour where it has a grid of its own.

    :returns: (K, J, I) uint8 on the grid of `like`; segments and structures have their numbers.
    :raises InputError: unreadable, empty, not over the image, or labels that aren't whole numbers from 0 to 255.
    """
    found = parts_of(Path(path), like)
    if any(part.number not in range(256) for part in found):
        numbers = listed([written(part.number) for part in found])
        raise InputError(f"{path} holds {numbers}: labels must be whole numbers from 0 to 255")
    result = np.zeros(like.array.shape, np.uint8)
    for part in found:
        result[part.voxels()] = int(part.number)
    if not result.any():
        raise InputError(f"{path} is empty: draw the tumour first")
    return result


def parts_of(path: Path, like: Volume) -> list[Part]:
    """All structures that a mask file holds.

    :raises InputError: unreadable, empty, an image instead of a mask, or a soft mask.
    """
    found = dicom.mask_file(path)
    if found is not None:
        from TumorSynthLib.volume import dicom_masks

        return [Part(n, name, voxels) for n, name, voxels in dicom_masks.structures(found, like, onto_grid)]
    if path.name.lower().endswith((".nrrd", ".nhdr")) and path.is_file():
        content = nrrd.read_content(path)
        if content.segments:
            return _segments(path, content, like)
        volume = nrrd.read(path) if len(content.layers) > 1 else content.layers[0]
    else:
        volume = read_any(path)
    check_image(volume, str(path))
    return _labels(path, volume, like)


def _labels(path: Path, volume: Volume, like: Volume) -> list[Part]:
    """The labels of a plain labelmap."""
    array = _rounded(volume.array)
    low, high = array.min(), array.max()
    if low == high == 0:
        raise InputError(f"{path} is empty: draw the tumour first")
    values = [v.item() for v in np.unique(array[array != 0])]
    if len(values) > 1 and low >= 0 and high <= 1:
        raise InputError(
            f"{path} is a soft mask: it holds {len(values)} values between 0 and 1; make it 0 and 1, e.g. by a "
            "threshold of 0.5"
        )
    if len(values) > MANY_LABELS:
        raise InputError(
            f"{path} holds {len(values)} values and looks like an image: give the tumour's mask in its place"
        )
    return [
        Part(value, "", lambda v=value: onto_grid(replace(volume, array=array == v), like, str(path)))
        for value in values
    ]


def _rounded(array: np.ndarray) -> np.ndarray:
    """Labels that rounding has moved, as the whole numbers that they were."""
    if array.dtype.kind != "f":
        return array
    whole = np.rint(array)
    return np.where(np.abs(array - whole) <= LABEL_SLACK, whole, array)


def _segments(path: Path, content: nrrd.Content, like: Volume) -> list[Part]:
    """The segments of a .seg.nrrd; by their values where these differ, else by their places in the list."""
    for volume in content.layers:
        check_image(volume, str(path))
    values = [s.value for s in content.segments]
    numbers = values if len(set(values)) == len(values) else list(range(1, len(values) + 1))

    def voxels(segment: nrrd.Segment) -> np.ndarray:
        if not 0 <= segment.layer < len(content.layers):
            raise InputError(
                f"{path} has no layer {segment.layer} for its segment {segment.name!r}: it is damaged"
            )
        volume = content.layers[segment.layer]
        return onto_grid(replace(volume, array=volume.array == segment.value), like, str(path))

    return [
        Part(number, segment.name, lambda s=segment: voxels(s))
        for number, segment in zip(numbers, content.segments)
    ]


def chosen_part(found: Sequence[Part], label: int | str | None, name: str) -> Part:
    """The one structure that a label names."""
    if not found:
        raise InputError(f"{name} is empty: draw the tumour first")
    if label is None:
        if len(found) > 1:
            raise InputError(
                f"{name} has several labels ({listed(found)}): choose one with --label; `remove` takes several"
            )
        return found[0]
    text = str(label).strip()
    fitting = [part for part in found if text in (written(part.number), f"{part.number:g}")]
    fitting = fitting or [part for part in found if part.name and part.name.casefold() == text.casefold()]
    if not fitting:
        raise InputError(f"{name} has no label {text[:60]}: it has {listed(found)}")
    if len(fitting) > 1:
        raise InputError(
            f"{name} has {len(fitting)} structures called {text[:60]!r}: choose by number ({listed(found)})"
        )
    return fitting[0]


def listed(values: Sequence) -> str:
    shown = ", ".join(str(v)[:40] for v in values[:10])
    return shown + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def onto_grid(mask: Volume, like: Volume, name: str) -> np.ndarray:
    """A bool mask, brought to the grid of `like` by nearest neighbour where it has another.

    :raises InputError: it lies outside the image, or between its voxels.
    """
    if not mask.array.any():
        return np.zeros(like.array.shape, bool)
    if mask.same_grid(like):
        return mask.array
    box = bounding_box(mask.array)
    ends = corners([(s.start - 0.5, s.stop - 0.5) for s in box[::-1]])
    reach = like.indices(mask.points(ends))
    size = np.array(like.size)
    low = np.clip(np.floor(reach.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, size).astype(int)
    outside = _outside(mask, box, like)
    if outside > MASK_OUTSIDE or (high <= low).any():
        share = "" if outside >= 1.0 else f"{outside:.0%} of "
        raise InputError(f"{share}{name} lies outside the image: check that both belong to the same scan")
    crop = replace(mask, array=mask.array[box], origin=tuple(mask.points([s.start for s in box[::-1]])))
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetOutputSpacing([float(s) for s in like.spacing])
    resampler.SetOutputDirection([float(s) for s in like.direction])
    resampler.SetOutputOrigin([float(s) for s in like.points(low)])
    resampler.SetSize([int(n) for n in high - low])
    part = sitk.GetArrayFromImage(resampler.Execute(crop.sitk())).astype(bool)
    result = np.zeros(like.array.shape, dtype=bool)
    result[tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1]))] = part
    if not result.any():
        raise InputError(f"{name} is too small for the image's grid: no voxel of the image lies in it")
    if not _same_voxels(mask, like):
        warnings.warn(
            f"{name} has another grid than the image ({_grid(mask)}, not {_grid(like)}): it was resampled to the image's "
            "by nearest neighbour",
            ImageWarning, stacklevel=2,
        )  # fmt: skip
    return result


def _same_voxels(mask: Volume, like: Volume) -> bool:
    """Whether each voxel of a mask is one of the image's: cropped, shifted by whole voxels, mirrored, or its axes swapped."""
    steps = np.rint(np.linalg.inv(like.matrix) @ mask.matrix)
    if not (np.abs(steps).sum(0) == 1).all() or not (np.abs(steps).sum(1) == 1).all():
        return False
    ends = corners([(0, n - 1) for n in mask.size])
    index = like.indices(mask.points(ends))
    return bool(np.abs(index - ends @ steps.T - np.rint(index[0])).max() <= SAME_GRID)


def _grid(volume: Volume) -> str:
    return (
        " × ".join(map(str, volume.size))
        + " voxels of "
        + " × ".join(f"{s:.3g}" for s in volume.spacing)
        + " mm"
    )


def _outside(mask: Volume, box: tuple[slice, ...], like: Volume) -> float:
    """Part of the mask's voxels whose centres lie outside the image."""
    index = np.argwhere(mask.array[box])[:, ::-1] + [s.start for s in box[::-1]]
    reach = like.indices(mask.points(index))
    inside = np.all((reach >= -0.5) & (reach <= np.array(like.size) - 0.5), axis=1)
    return 1.0 - float(inside.mean())

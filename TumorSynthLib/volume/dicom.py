"""DICOM series as images: every slice or frame is placed by its own tags, and what isn't a plain stack is refused.

Nothing is assumed; a gantry tilt is resampled to right angles, and said. Tags: DICOM PS3.3, C.7.6.2, C.7.6.16, C.8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import guard
from TumorSynthLib.volume.dicom_pixels import check_pixels, pixels
from TumorSynthLib.volume.dicom_stack import Plane, Stack, check_alike, moved, planes_of, stacked
from TumorSynthLib.volume.dicom_tags import (
    STORAGE,
    TAGS,
    foreign,
    header,
    is_dicom,
    refused,
    say,
    texts,
    whole,
)
from TumorSynthLib.volume.types import Volume

#: SOP classes that are no images to edit: begin of the UID, and what they are.
NO_IMAGES = {
    STORAGE + "66.4": "a segmentation (SEG)", STORAGE + "66.7": "a segmentation (SEG)",
    STORAGE + "66.5": "a surface segmentation", STORAGE + "481.3": "a structure set (RTSTRUCT)",
    STORAGE + "481.2": "a radiotherapy dose (RTDOSE)", STORAGE + "481.": "a radiotherapy object",
    STORAGE + "88.": "a report (SR)", STORAGE + "11.": "a presentation state", STORAGE + "30": "a parametric map",
    STORAGE + "104.": "a document", STORAGE + "66": "raw data", STORAGE + "9.": "a waveform",
}  # fmt: skip
MASK_CLASSES = {STORAGE + "66.4": "SEG", STORAGE + "66.7": "SEG", STORAGE + "481.3": "RTSTRUCT"}
#: What the SOP class of an image says of its modality.
CLASS_MODALITY = {
    STORAGE + "2": "CT", STORAGE + "2.1": "CT", STORAGE + "2.2": "CT", STORAGE + "4": "MR", STORAGE + "4.1": "MR",
    STORAGE + "4.4": "MR", STORAGE + "128": "PT", STORAGE + "130": "PT",
}  # fmt: skip
MAX_FILES = 100_000  # of a folder that are looked at


def mask_file(path: Path) -> tuple[Path, str] | None:
    """The SEG or RTSTRUCT that a path is, or that lies alone in a folder without images; and which of both."""
    if not path.is_dir() and not is_dicom(path):
        return None
    found = []
    for file in _files(path):
        with foreign(file):
            head = header(file, specific_tags=["SOPClassUID", "Modality"])
            kind = MASK_CLASSES.get(str(head.get("SOPClassUID", "")))
        if kind is None:
            return None
        found.append((file, kind))
    if len(found) > 1:
        names = ", ".join(file.name for file, _ in found[:5])
        raise InputError(
            f"the folder {path} holds {len(found)} SEG or RTSTRUCT files ({names}): give one of them"
        )
    return found[0] if found else None


def _files(path: Path) -> list[Path]:
    """The DICOM files of a folder, or the one file."""
    if not path.is_dir():
        return [path]
    names = sorted(path.iterdir())[:MAX_FILES]
    return [p for p in names if not p.name.startswith("._") and p.name != "DICOMDIR" and is_dicom(p)]


def read(path: Path) -> Volume:
    """The image of a folder with one DICOM series, or of one file.

    :raises InputError: no image, several series, or slices that aren't a plain stack; the tag is named.
    """
    with foreign(path):
        heads = _series(path)
        for file, head in heads:
            check_pixels(file, head)
        for name in ("SOPClassUID", "PhotometricInterpretation", "FrameOfReferenceUID"):
            _check_one(path, heads, name)
        _check_patient(path, heads)
        modality = _modality(path, heads)
        planes = [plane for file, head in heads for plane in planes_of(file, head)]
        check_alike(path, planes)
        stack = stacked(path, planes)
        _say_of_scale(path, modality, heads)
        dtype = _dtype(heads, planes)
        array = _filled(path, stack, dict(heads), dtype)
        spacing, origin, direction = stack.geometry()
        if stack.tilted:
            array, origin = _straightened(path, stack, array)
        return Volume(array, spacing, origin, direction, texts(heads[0][1]))


def _series(path: Path) -> list[tuple[Path, Any]]:
    """Files and headers of the one series of images that there is, without localizers."""
    heads = [(file, header(file)) for file in _files(path)]
    others = Counter(kind for _, head in heads if (kind := no_image(head)))
    images = [(file, head) for file, head in heads if not no_image(head) and "Rows" in head]
    if not images:
        what = f": it holds {', '.join(others)}" if others else ""
        if path.is_dir():
            raise InputError(
                f"the folder {path} holds no DICOM image{what}; give the folder that the slices lie in"
            )
        raise InputError(
            f"{path} is no DICOM image{what or ': it has no pixels'}; give the folder of a series"
        )
    kept = [(file, head) for file, head in images if not _is_localizer(head)]
    if kept and len(kept) < len(images):
        left = [file.name for file, head in images if _is_localizer(head)]
        say(path, f"has a localizer in its series ({', '.join(left[:3])}), which was left out")
    images = kept or images
    series = Counter(str(head.get("SeriesInstanceUID", "")) for _, head in images)
    if len(series) > 1:
        found = ", ".join(f"{uid} ({n} files)" for uid, n in list(series.items())[:5])
        raise InputError(
            f"the folder {path} holds {len(series)} DICOM series ({found}): put one in its own folder"
        )
    return images


def no_image(head: Any) -> str:
    """What an object that is no image to edit is; "" for images."""
    uid = str(head.get("SOPClassUID", ""))
    return next(
        (
            what
            for start, what in NO_IMAGES.items()
            if uid == start or (start[-1] == "." and uid.startswith(start))
        ),
        "",
    )


def _is_localizer(head: Any) -> bool:
    kind = head.get("ImageType") or []
    return any(
        str(part).upper() in ("LOCALIZER", "SCOUT") for part in ([kind] if isinstance(kind, str) else kind)
    )


def _modality(path: Path, heads: Sequence[tuple[Path, Any]]) -> str:
    """The tag Modality of all slices; what contradicts it is said."""
    found = Counter(str(head.get("Modality", "")).strip() for _, head in heads)
    if len(found) > 1:
        raise refused(path, "Modality", f"differs between slices: {', '.join(map(repr, found))}")
    (modality,) = found
    classes = {CLASS_MODALITY.get(str(head.get("SOPClassUID", ""))) for _, head in heads} - {None}
    if modality and classes and classes != {modality}:
        said = " and ".join(sorted(str(c) for c in classes))
        say(
            path,
            f"says {modality!r} in its tag {TAGS['Modality']} Modality, but its SOP class is that of {said}",
        )
    return modality


def _check_one(path: Path, heads: Sequence[tuple[Path, Any]], name: str) -> None:
    """Raise InputError where slices differ in an attribute that all slices of a stack share."""
    found = Counter(str(head.get(name, "")).strip() for _, head in heads)
    if len(found) > 1:
        rare = min(found, key=lambda value: found[value])
        file = next(file.name for file, head in heads if str(head.get(name, "")).strip() == rare)
        raise refused(path, name, f"differs between slices: {rare!r} in {file}")


def _check_patient(path: Path, heads: Sequence[tuple[Path, Any]]) -> None:
    """Raise InputError where slices are of several patients, without their names."""
    found = {str(head.get("PatientID", "")).strip() for _, head in heads}
    if len(found) > 1:
        raise refused(path, "PatientID", f"has {len(found)} values: give the slices of one patient")


def _say_of_scale(path: Path, modality: str, heads: Sequence[tuple[Path, Any]]) -> None:
    """Say where a CT doesn't tell how its values become HU."""
    head = heads[0][1]
    if modality != "CT":
        return
    groups = [head, *(head.get("SharedFunctionalGroupsSequence") or [])]
    groups += list(head.get("PerFrameFunctionalGroupsSequence") or [])[:1]
    scales = [
        one for group in groups for one in (group, *(group.get("PixelValueTransformationSequence") or []))
    ]
    unit = next((str(one.RescaleType) for one in scales if one.get("RescaleType")), "HU")
    if not any("RescaleIntercept" in one for one in scales):
        tag = f"{TAGS['RescaleIntercept']} RescaleIntercept"
        say(path, f"is CT without the tag {tag}: its stored values are taken as HU; check them")
    elif unit not in ("HU", "HU_MOD"):
        say(
            path,
            f"is CT whose values are in {unit!r} (tag {TAGS['RescaleType']} RescaleType), not HU; check them",
        )


def _dtype(heads: Sequence[tuple[Path, Any]], planes: Sequence[Plane]) -> np.dtype:
    """Type that holds the values of all slices: of whole numbers where slopes are 1 and intercepts whole."""
    if any(slope != 1 or shift != int(shift) for slope, shift in (plane.scale for plane in planes)):
        return np.dtype(np.float32)
    low, high = 0, 0
    shifts = [int(plane.scale[1]) for plane in planes]
    for file, head in heads:
        bits = whole(file, head, "BitsStored", whole(file, head, "BitsAllocated"))
        signed = whole(file, head, "PixelRepresentation", 0) == 1
        low = min(low, (-(2 ** (bits - 1)) if signed else 0) + min(shifts))
        high = max(high, (2 ** (bits - 1) if signed else 2**bits) - 1 + max(shifts))
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def _filled(path: Path, stack: Stack, heads: dict[Path, Any], dtype: np.dtype) -> np.ndarray:
    """(K, J, I) values of a stack, slopes and intercepts applied."""
    columns, rows = stack.planes[0].size
    present = sum(file.stat().st_size for file in heads)
    claimed = rows * columns * len(stack.planes) * dtype.itemsize
    guard.check_claim(path, claimed, present, True)
    result = np.empty((max(stack.slots) + 1, rows, columns), dtype)
    slots: dict[Path, list[tuple[int, Plane]]] = {}
    for place, slot in zip(stack.order, stack.slots):
        slots.setdefault(stack.planes[place].file, []).append((slot, stack.planes[place]))
    for file, wanted in slots.items():
        frames = pixels(file, heads[file])
        for slot, plane in wanted:
            slope, shift = plane.scale
            values = frames[plane.frame]
            result[slot] = values if (slope, shift) == (1, 0) else values * np.float64(slope) + shift
    return result


def _straightened(path: Path, stack: Stack, array: np.ndarray) -> tuple[np.ndarray, tuple]:
    """A tilted stack on a grid with right angles: each slice moved within its plane, linear between pixels."""
    spacing, origin, direction = stack.geometry()
    result, low = moved(array, stack.drift, float(array.min()))
    axes = np.asarray(direction).reshape(3, 3)
    start = np.asarray(origin) + axes[:, :2] @ (low * np.asarray(spacing[:2]))
    say(
        path,
        f"has a gantry tilt of {stack.tilt_degrees:.1f}° (tag {TAGS['ImagePositionPatient']} ImagePositionPatient): it "
        "was resampled to right angles, and results have that grid",
    )
    return result, tuple(start.tolist())

"""Attributes of DICOM files: read by pydicom, checked, and named in errors. Tags: DICOM PS3.3 and PS3.6."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from TumorSynthLib.errors import ImageWarning, InputError, TumorSynthError
from TumorSynthLib.volume import guard

STORAGE = "1.2.840.10008.5.1.4.1.1."  # how the UIDs of all storage classes begin
#: Tags that errors name.
TAGS = {
    "SOPClassUID": "(0008,0016)", "Modality": "(0008,0060)", "ImagePositionPatient": "(0020,0032)",
    "ImageOrientationPatient": "(0020,0037)", "PixelSpacing": "(0028,0030)", "SamplesPerPixel": "(0028,0002)",
    "PhotometricInterpretation": "(0028,0004)", "NumberOfFrames": "(0028,0008)", "Rows": "(0028,0010)",
    "Columns": "(0028,0011)", "BitsAllocated": "(0028,0100)", "BitsStored": "(0028,0101)", "HighBit": "(0028,0102)",
    "PixelRepresentation": "(0028,0103)", "RescaleIntercept": "(0028,1052)", "RescaleSlope": "(0028,1053)",
    "ModalityLUTSequence": "(0028,3000)", "GantryDetectorTilt": "(0018,1120)", "SpacingBetweenSlices": "(0018,0088)",
    "SliceThickness": "(0018,0050)", "PixelData": "(7FE0,0010)", "TransferSyntaxUID": "(0002,0010)",
    "PerFrameFunctionalGroupsSequence": "(5200,9230)", "SeriesInstanceUID": "(0020,000E)",
    "RescaleType": "(0028,1054)", "PatientID": "(0010,0020)", "FrameOfReferenceUID": "(0020,0052)",
}  # fmt: skip
DEFLATED, START = b"1.2.840.10008.1.2.1.99", 4096  # a transfer syntax, and bytes of a file that name it
MAX_TEXT = 1024  # characters of an attribute that is kept as text


def pydicom() -> Any:
    """The package that parses DICOM, imported when it is needed.

    :raises InputError: it is missing.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError("DICOM files need the package pydicom: pip install pydicom") from None
    return pydicom


@contextlib.contextmanager
def foreign(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises on a damaged file into an error of one line."""
    with warnings.catch_warnings():
        for kind in (UserWarning, DeprecationWarning, RuntimeWarning):
            warnings.simplefilter("ignore", kind)
        try:
            yield
        except (TumorSynthError, Warning):
            raise
        except (
            Exception
        ) as error:  # pydicom interprets values when they are asked for, and raises of any kind
            why = " ".join(str(error).split())[:120] or type(error).__name__
            raise guard.damaged(path, f"as DICOM: {why}") from error


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return looks_dicom(file.read(132))
    except OSError:
        return False


def looks_dicom(start: bytes) -> bool:
    """A preamble and "DICM", or, as old programs wrote, the first attribute at once: of group 2 or 8, little endian."""
    if start[128:132] == b"DICM":
        return True
    return (
        start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0" and len(start) == 132 and start[2] < 0x20
    )


def header(path: Path, pixels: bool = False, **options) -> Any:
    """Attributes of a DICOM file."""
    package = pydicom()
    with guard.opened(path) as file:
        if DEFLATED in file.read(START):
            raise InputError(
                f"can't read {path}: its transfer syntax {TAGS['TransferSyntaxUID']} is Deflated, of unknown size "
                "until unpacked; save it uncompressed"
            )
    return package.dcmread(path, stop_before_pixels=not pixels, force=True, **options)


def frames_of(path: Path, head: Any) -> int:
    count = whole(path, head, "NumberOfFrames", 1)
    if not 1 <= count <= guard.MAX_AXIS:
        raise refused(path, "NumberOfFrames", f"is {count}")
    return count


def is_packed(head: Any) -> bool:
    """Whether the pixels are compressed."""
    syntax = head.file_meta.get("TransferSyntaxUID") if "file_meta" in head.__dict__ else None
    return bool(syntax is not None and syntax.is_compressed)


def whole(path: Path, head: Any, name: str, default: int | None = None) -> int:
    """A whole number of an attribute.

    :raises InputError: missing without a default, or no number.
    """
    value = head.get(name)
    if value is None or value == "":
        if default is None:
            raise refused(path, name, "is missing")
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise refused(path, name, f"is {str(value)[:40]!r}, not a number") from None


def vector(path: Path, head: Any, name: str, count: int) -> np.ndarray:
    """(count,) finite numbers of an attribute.

    :raises InputError: missing, of another count, or not finite.
    """
    value = head.get(name)
    if value is None or value == "":
        raise refused(path, name, "is missing")
    try:
        numbers = np.array(np.atleast_1d(value), np.float64)
    except (TypeError, ValueError):
        raise refused(path, name, f"is {str(value)[:60]!r}, not numbers") from None
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise refused(path, name, f"is {str(value)[:60]}, not {count} numbers")
    return numbers


def refused(path: Path, name: str, why: str) -> InputError:
    """The error of a tag that can't be used."""
    return InputError(f"can't read {path}: the DICOM tag {TAGS.get(name, '')} {name} {why}")


def texts(head: Any) -> dict[str, str]:
    """Attributes of a header as texts by "gggg|eeee", without sequences, pixels and long ones."""
    found = {}
    for element in head:
        if element.VR in ("SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN") or element.tag.group >= 0x6000:
            continue
        value = element.value
        parts = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
        text = "\\".join(str(part) for part in parts)
        if len(text) <= MAX_TEXT:
            found[f"{element.tag.group:04x}|{element.tag.elem:04x}"] = text
    return found


def say(path: Path, text: str) -> None:
    warnings.warn(f"{path} {text}", ImageWarning, stacklevel=2)

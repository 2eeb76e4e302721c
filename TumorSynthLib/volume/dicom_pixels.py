"""Stored numbers of DICOM files, packed or not, checked to be all there."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from TumorSynthLib.volume import guard
from TumorSynthLib.volume.dicom_tags import (
    STORAGE,
    TAGS,
    frames_of,
    header,
    is_packed,
    pydicom,
    refused,
    whole,
)

BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: Attributes that say how pixels are stored, and the pixels.
PIXEL_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip


def check_pixels(path: Path, head: Any) -> None:
    """Raise InputError unless the pixels are of one real value each, in a form that can be read."""
    samples = whole(path, head, "SamplesPerPixel", 1)
    kind = str(head.get("PhotometricInterpretation", "")).strip()
    if samples != 1 or (kind and not kind.startswith("MONOCHROME")):
        raise refused(path, "PhotometricInterpretation", f"is {kind!r}, {samples} values per voxel (colour)")
    if "ModalityLUTSequence" in head:
        raise refused(path, "ModalityLUTSequence", "gives the values by a table, which isn't read")
    allocated = whole(path, head, "BitsAllocated")
    if "FloatPixelData" in head or "DoubleFloatPixelData" in head or allocated not in (8, 16, 32):
        raise refused(path, "BitsAllocated", f"is {allocated}, not 8, 16 or 32")
    stored = whole(path, head, "BitsStored", allocated)
    high = whole(path, head, "HighBit", stored - 1)
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        raise refused(path, "BitsStored", f"is {stored} with a HighBit of {high}, of {allocated} bits")
    rows, columns = whole(path, head, "Rows"), whole(path, head, "Columns")
    frames = frames_of(path, head)
    claimed = rows * columns * frames * allocated // 8
    if min(rows, columns) < 1:
        raise refused(path, "Rows", f"claims {rows} rows and {columns} columns")
    guard.check_claim(path, claimed, path.stat().st_size, is_packed(head))


def pixels(path: Path, head: Any) -> np.ndarray:
    """(frames, rows, columns) stored numbers of a file.

    :raises InputError: they are cut, or can't be unpacked.
    """
    full = header(path, pixels=True, specific_tags=[*PIXEL_TAGS])
    shape = (frames_of(path, head), whole(path, head, "Rows"), whole(path, head, "Columns"))
    data = full.get("PixelData")
    if not data:
        raise refused(path, "PixelData", "is missing")
    if is_packed(full):
        return _unpacked(path, full, shape)
    allocated = whole(path, head, "BitsAllocated")
    stored = whole(path, head, "BitsStored", allocated)
    high = whole(path, head, "HighBit", stored - 1)
    signed = whole(path, head, "PixelRepresentation", 0) == 1
    meta = full.__dict__.get("file_meta") or {}  # old programs wrote none, and little endian
    little = meta.get("TransferSyntaxUID") != BIG_ENDIAN
    kind = np.dtype(f"{'<' if little else '>'}u{allocated // 8}")
    count = int(np.prod(shape, dtype=object))
    if len(data) < count * kind.itemsize:
        raise guard.damaged(
            path, f"its {TAGS['PixelData']} PixelData end early: {len(data)} of {count * kind.itemsize} bytes"
        )
    values = np.frombuffer(data, kind, count).reshape(shape).astype(kind.newbyteorder("="), copy=False)
    if high + 1 > stored or allocated > stored:
        # Bits beside the stored ones may hold an overlay of old.
        values = (values >> np.array(high + 1 - stored, values.dtype)) & np.array(2**stored - 1, values.dtype)
    if not signed:
        return values
    whole_number = values.view(np.dtype(f"i{allocated // 8}"))
    if stored == allocated:
        return whole_number
    sign = np.array(2 ** (stored - 1), whole_number.dtype)
    return (whole_number ^ sign) - sign


def _unpacked(path: Path, full: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels of a compressed file: unpacked by GDCM out of a file that holds nothing but them."""
    package = pydicom()
    bare = package.Dataset()
    for name in PIXEL_TAGS:
        if name in full:
            bare[name] = full[name]
    wide = whole(path, full, "BitsAllocated") > 8
    many = "Multi-frame Grayscale Word" if wide else "Multi-frame Grayscale Byte"
    bare.SOPClassUID = STORAGE + ("7" if shape[0] == 1 else "7.3" if many.endswith("Word") else "7.2")
    bare.SOPInstanceUID, bare.Modality = "2.25.1", "OT"
    meta = package.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = bare.SOPClassUID, bare.SOPInstanceUID
    meta.TransferSyntaxUID = full.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix="tumorsynth-") as folder:
        file = Path(folder) / "pixels.dcm"
        made = package.dataset.FileDataset(str(file), bare, preamble=bytes(128), file_meta=meta)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.save_as(str(file))
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        with unwarned():
            values = sitk.GetArrayFromImage(reader.Execute())
    if values.shape != shape or values.dtype.kind not in "iu":
        raise refused(path, "PixelData", f"unpacks to {values.shape} {values.dtype}, not {shape}")
    return values


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Without ITK's warnings on stderr, where the error that follows says it better."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)

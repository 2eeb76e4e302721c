"""Images from files, and into files: one registry of formats, one way to write.

A format is a row of `FORMATS`: its suffixes, its reader, and its writer where it is written. DICOM is known by its
content, since its files are named in any way.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import dicom, guard, metaimage, nifti, nrrd
from TumorSynthLib.volume.dicom_tags import is_dicom
from TumorSynthLib.volume.types import FILE_KEYS, Volume, check_image

Pieces = Iterable["bytes | memoryview"]


@dataclass(frozen=True)
class Format:
    """A file format of images: its suffixes, its reader, and pieces of a file to write, where it is written."""

    suffixes: tuple[str, ...]
    read: Callable[[Path], Volume]
    pieces: Callable[[Volume, Mapping[str, str], bool], Pieces] | None = None


def _packed_nifti(volume: Volume, fields: Mapping[str, str], keep_dicom: bool) -> Iterator[bytes]:
    return guard.packed(nifti.chunks(volume, fields, keep_dicom), guard.GZIP)


FORMATS = (
    Format((".nii.gz",), nifti.read, _packed_nifti),
    Format((".nii",), nifti.read, nifti.chunks),
    Format((".nrrd",), nrrd.read, lambda volume, fields, _: nrrd.chunks(volume, fields)),
    Format((".mha",), metaimage.read, lambda volume, fields, _: metaimage.chunks(volume, fields)),
    Format((".hdr", ".img", ".hdr.gz", ".img.gz"), nifti.read),
    Format((".nhdr",), nrrd.read),
    Format((".mhd",), metaimage.read),
)
WRITABLE = tuple(suffix for form in FORMATS if form.pieces for suffix in form.suffixes)
WRITTEN_TYPES = tuple(np.dtype(t) for t in "u1 i1 u2 i2 u4 i4 u8 i8 f4 f8".split())

#: Names that programs give to DICOM's attributes in other files' headers, e.g. "0010|0010", "DICOM.patient.name".
_DICOM_KEY = re.compile(r"(?i)^\W*(dicom|[0-9a-f]{4}[|,._:;/ -]\s?[0-9a-f]{4}\b)")
_DICOM_NAME = re.compile(r"(?i)patient|birth.?(date|day)|^(study|series|accession|institution|referring)")


def format_of(path: Path) -> Format | None:
    """The format that a file's name says, or None."""
    name = path.name.lower()
    return next((form for form in FORMATS if name.endswith(form.suffixes)), None)


def read_image(path: str | os.PathLike) -> Volume:
    """Read and check a 3-D image: NIfTI, NRRD, MetaImage, a folder with one DICOM series, or one DICOM file.

    What had to be chosen or resampled is an `ImageWarning`.

    :raises InputError: the file is missing, unreadable, damaged, not 3-D, in colour, or holds NaN.
    """
    volume = read_any(Path(path))
    check_image(volume, str(path))
    return volume


def read_any(path: Path) -> Volume:
    """Volume of a file or DICOM folder, 3-D and of one real value per voxel.

    :raises InputError: as `read_image`, but for NaN and the geometry.
    """
    if path.is_dir() or is_dicom(path):
        return dicom.read(path)
    form = format_of(path)
    if form is None:
        guard.opened(path).close()
        guard.unreadable(path, "damaged, or of an unknown format")
    return form.read(path)


def check_output(path: str | os.PathLike) -> Path:
    """The path of an image to write, checked before any work is done.

    :raises InputError: a format that can't be written, or a folder in the way.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITABLE):
        raise InputError(f"can't write {path.name}: use a name that ends in one of {', '.join(WRITABLE)}")
    if path.is_dir():
        raise InputError(f"can't write {path}: it is a folder; give a file name")
    check_folder(path.parent)
    return path


def check_folder(folder: str | os.PathLike) -> None:
    """Check, before any work is done, that files can be written into a folder, which need not exist yet.

    :raises InputError: a file is in its way, or it can't be written to.
    """
    folder = Path(folder).absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"can't write to {folder}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"can't write to {folder}: {there} can't be written to; choose another folder")


def write_volume(
    volume: Volume,
    path: str | os.PathLike,
    marks: Mapping[str, str] | None = None,
    keep_header: bool = False,
) -> Path:
    """Write an image whole or not at all: to a temporary file beside it, flushed to the disk, then renamed.

    :param path: .nii.gz, .nii, .nrrd or .mha; missing folders are made.
    :param marks: header fields that are added (see `provenance.marks`). NIfTI keeps `descrip` (79 characters) and
        `aux_file` (23) only; NRRD and MetaImage keep all.
    :param keep_header: write the source's DICOM attributes, too, the patient's name among them (NRRD and MetaImage).
    :raises InputError: a format that can't be written, or the folder refuses the file.
    """
    path = check_output(path)
    form = format_of(path)
    assert form is not None and form.pieces is not None  # checked by check_output
    if volume.array.dtype == bool:
        volume = volume.with_array(volume.array.astype(np.uint8))
    if volume.array.dtype.newbyteorder("=") not in WRITTEN_TYPES:
        raise InputError(f"can't write {path}: images of {volume.array.dtype} can't be stored; use float32")
    fields = _fields(volume.metadata, marks or {}, keep_header)
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard.written(part, form.pieces(volume, fields, keep_header))
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"can't write {path} ({error.strerror}): check that the folder can be written to and the disk isn't full"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def _fields(metadata: Mapping[str, str], marks: Mapping[str, str], keep_header: bool) -> dict[str, str]:
    """Header fields to write: those of the source, without DICOM's unless they are asked for, and the marks."""
    kept = {}
    for key, value in metadata.items():
        private = bool(_DICOM_KEY.search(key) or _DICOM_NAME.search(key))
        if not key.startswith(FILE_KEYS) and key != "Modality" and (keep_header or not private):
            kept[key] = value
    return {**kept, **marks}

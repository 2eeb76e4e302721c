"""What ITK doesn't do for NIfTI: notice damaged files, and keep the geometry of a header to the last bit.

ITK fills the missing half of a truncated file with whatever is in memory and turns NaN into 0, without an error.
When it writes, it derives the geometry anew: the orientation of an oblique image then differs in the eighth digit and
the qform and sform codes may change, though an edited file should have the header of its source.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TumorSynthLib.errors import InputError

HEADER_SIZE = 348

# Byte ranges of NIfTI-1: pixdim[0..3], xyzt_units, qform_code to srow_z.
_GEOMETRY = ((76, 92), (123, 124), (252, 328))

_TYPES = {
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64,
    256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip


def read_header(path: Path) -> bytes:
    """Header of a NIfTI-1 file; b"" for any other file."""
    if not path.is_file() or not path.name.lower().endswith((".nii", ".nii.gz")):
        return b""
    try:
        with _open(path) as file:
            header = file.read(HEADER_SIZE)
    except (OSError, EOFError, zlib.error):
        return b""
    known = len(header) == HEADER_SIZE and HEADER_SIZE in (
        struct.unpack_from(o + "i", header)[0] for o in "<>"
    )
    return header if known else b""


def byte_order(header: bytes) -> str:
    """ "<" or ">", as struct and NumPy call the order of a header's bytes."""
    return "<" if struct.unpack_from("<i", header)[0] == HEADER_SIZE else ">"


def is_scaled(header: bytes) -> bool:
    """True where the stored numbers are to be multiplied or shifted (scl_slope, scl_inter)."""
    slope, shift = struct.unpack_from(byte_order(header) + "2f", header, 112)
    return slope != 0 and (slope, shift) != (1, 0)


def read_array(path: Path, header: bytes) -> np.ndarray | None:
    """(K, J, I) numbers as stored in a 3-D file whose header is at hand; None for types that are left to ITK.

    :raises InputError: the file is damaged or ends too early.
    """
    order = byte_order(header)
    dims = struct.unpack_from(order + "8h", header, 40)
    dtype = _TYPES.get(struct.unpack_from(order + "h", header, 70)[0])
    shape = dims[1:4][::-1]
    if dtype is None or dims[0] < 3 or min(shape) < 1 or any(n > 1 for n in dims[4 : dims[0] + 1]):
        return None
    # The size is a claim of the file: a lie must not cost memory before it is found out.
    packed = path.name.lower().endswith(".gz")
    expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if expected > path.stat().st_size * (1100 if packed else 1):
        raise _damaged(path, "it ends before the last voxel")
    array = np.empty(shape, dtype=np.dtype(dtype).newbyteorder(order))
    try:
        with _open(path) as file:
            file.read(max(int(struct.unpack_from(order + "f", header, 108)[0]), HEADER_SIZE))
            left = memoryview(array).cast("B")
            while left and (count := file.readinto(left)):
                left = left[count:]
            if packed and not left:
                file.read()  # the check sum comes last
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if left:
        raise _damaged(path, "it ends before the last voxel")
    return array.astype(dtype, copy=False)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"can't read {path} ({why}): the file is damaged; copy or export it again")


def _open(path: Path):
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def keep_geometry(path: Path, header: bytes) -> None:
    """Put the geometry fields of a source header into an uncompressed NIfTI file, unless they would move it.

    A header in the other byte order, which ITK doesn't write, is left aside.
    """
    expected = _geometry(path)
    with path.open("r+b") as file:
        written = file.read(HEADER_SIZE)
        if (
            len(header) != HEADER_SIZE
            or byte_order(header) == ">"
            or struct.unpack_from("<i", written)[0] != HEADER_SIZE
        ):
            return
        _replace(file, header)
    moved = max(abs(a - b) for a, b in zip(_geometry(path), expected))
    if moved > 1e-4:
        with path.open("r+b") as file:
            _replace(file, written)


def compress(path: Path, target: Path) -> None:
    """Gzip a file; the same content gives the same bytes."""
    # Level 3 takes a quarter of the default's time for 2 % more bytes on CT.
    with (
        path.open("rb") as source,
        target.open("wb") as file,
        gzip.GzipFile("", "wb", 3, file, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 22)


def _replace(file, header: bytes) -> None:
    for start, stop in _GEOMETRY:
        file.seek(start)
        file.write(header[start:stop])


def _geometry(path: Path) -> tuple[float, ...]:
    """Spacing, origin and direction as ITK reads them."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return (*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection())

"""What every reader checks before it believes a file: that its data are there, whole, and no larger than it can hold.

A header is a claim. ITK allocates what it claims, fills what is missing with whatever lies in memory, and says nothing of
a check sum that doesn't fit; here each of them is an error of one line, found before memory is taken.
"""

from __future__ import annotations

import bz2
import errno
import math
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from TumorSynthLib.errors import InputError

TRUSTED_BYTES = 512 * 2**20  # packed data may claim so much at any ratio: a mask is packed a thousandfold
MAX_RATIO = 100  # of claimed to packed bytes above that; images of a scanner are packed two- to tenfold
CHUNK = 1 << 20  # bytes read or packed at once
MAX_HEADER = 4 * 2**20  # bytes of a header of text; more is none
PACKING_LEVEL = 3  # of zlib: a quarter of the default's time for 2 % more bytes on CT
GZIP, ZLIB = 31, 15  # zlib's numbers of its two frames
MAX_AXIS = 2**31 - 1

#: Millimetres of the units of length that headers name.
MILLIMETRES = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "cm": 10.0, "centimeter": 10.0, "centimeters": 10.0, "centimetre": 10.0, "centimetres": 10.0,
    "m": 1e3, "meter": 1e3, "meters": 1e3, "metre": 1e3, "metres": 1e3,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometers": 1e-3,
    "micrometre": 1e-3, "micrometres": 1e-3, "nm": 1e-6, "nanometer": 1e-6, "nanometers": 1e-6, "nanometre": 1e-6,
    "dm": 100.0, "in": 25.4, "inch": 25.4, "inches": 25.4,
}  # fmt: skip


def damaged(path: Path, why: str) -> InputError:
    """The error of a file that isn't whole."""
    return InputError(f"can't read {path} ({why}): the file is damaged; copy or export it again")


def unreadable(path: Path, why: str) -> NoReturn:
    """Raise the error of a file that is of another kind than it should be."""
    raise InputError(
        f"can't read {path} ({why}): give a whole NIfTI, NRRD or MetaImage file, or a folder of DICOM files"
    )


def opened(path: Path) -> BinaryIO:
    """An existing regular file, open for reading.

    :raises InputError: missing, a pipe or device (which would wait or never end), or not allowed to be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no plain file (a pipe, device or folder): give an image file")
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"can't read {path} ({reason}): check the name and its permissions") from None


def beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names: in the header's own folder or below, since any file could be named.

    :raises InputError: it lies elsewhere.
    """
    target = Path(name)
    if not name or target.is_absolute() or ".." in target.parts or "\0" in name:
        raise InputError(
            f"{path} keeps its voxels in {name!r}, outside its folder: put both into one folder, or save one file"
        )
    return path.parent / target


def check_sizes(path: Path, sizes: Sequence[int], parts: int = 1, kind: str = "") -> None:
    """Raise InputError unless the axes are those of a 3-D image of one real value per voxel.

    :param sizes: of all axes, the fastest first.
    :param parts: values per voxel.
    :param kind: "complex" or "" of the values.
    """
    if not sizes or any(n < 1 or n > MAX_AXIS for n in sizes):
        raise damaged(path, f"its header claims {_times(sizes) or 'no'} voxels")
    if len(sizes) < 3 or any(n > 1 for n in sizes[3:]):
        raise InputError(
            f"{path} is {len(sizes)}-D ({_times(sizes)}), but a 3-D image is needed: save one volume of it"
        )
    if kind == "complex":
        raise InputError(f"{path} holds complex numbers: save the magnitude image")
    if parts != 1:
        raise InputError(
            f"{path} has {parts} values per voxel (colour or vector): save one channel as a 3-D image"
        )


def _times(sizes: Sequence[int]) -> str:
    return " × ".join(str(n) for n in sizes[:8])


def check_claim(path: Path, claimed: int, present: int, packed: bool) -> None:
    """Raise InputError where a file can't hold, or hardly holds, what its header claims.

    :param claimed: bytes of voxels by the header.
    :param present: bytes of the file that may hold them.
    """
    if not packed and claimed > present:
        raise damaged(path, f"it ends before the last voxel: {present} of {claimed} bytes")
    if packed and claimed > max(TRUSTED_BYTES, MAX_RATIO * present):
        size = f"{claimed / 1e9:.1f} GB in {present / 1e6:.3g} MB"
        raise InputError(
            f"can't read {path}: its header claims {size}, more than an image can be packed: the file is damaged "
            "or made up; crop the image, or save it unpacked"
        )


def packing(start: bytes) -> str:
    """How a file that begins like this is packed: "gzip", "bzip2" or ""."""
    return "gzip" if start[:2] == b"\x1f\x8b" else "bzip2" if start[:3] == b"BZh" else ""


class Unpacked:
    """The content of a zlib or gzip stream from a file's present position; the check sum is compared at its end.

    As fast as ITK's reader, which Python's gzip module isn't.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._rest = file, b""
        self._stream = zlib.decompressobj(47)

    def read(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end.

        :raises EOFError, zlib.error: the stream is cut, or damaged.
        """
        parts = []
        while count and (data := self._piece(count)):
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def readinto(self, buffer: memoryview) -> int:
        data = self._piece(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _piece(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        while True:
            if self._stream.eof:
                self._rest = self._stream.unused_data or self._file.read(CHUNK)
                if not self._rest.strip(b"\0"):
                    return b""
                self._stream = zlib.decompressobj(47)  # a gzip file may have several members
            raw = self._rest or self._file.read(CHUNK)
            data = self._stream.decompress(
                raw, count
            )  # at the file's end, too: the last of it may be held back
            self._rest = self._stream.unconsumed_tail
            if data:
                return data
            if not raw and not self._stream.eof:
                raise EOFError("the packed voxels end too early")


def unpacked(file: BinaryIO, kind: str) -> BinaryIO:
    """The content of a packed file from its present position; its check sum is compared where it ends."""
    if kind == "gzip":
        return Unpacked(file)  # type: ignore[return-value]
    return bz2.BZ2File(file, "rb") if kind == "bzip2" else file  # type: ignore[return-value]


def skip(path: Path, file: BinaryIO, count: int) -> None:
    """Move past so many bytes of a file or of a packed stream.

    :raises InputError: the stream is damaged.
    """
    try:
        if not isinstance(file, Unpacked):
            file.seek(count, 1)
        while isinstance(file, Unpacked) and count > 0 and (step := len(file.read(min(count, CHUNK)))):
            count -= step
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, _plain(error)) from error


def filled(path: Path, file: BinaryIO, shape: Sequence[int], dtype: np.dtype, packed: bool) -> np.ndarray:
    """Numbers of an open file from its present position, all of them, the stream checked to its end.

    :param shape: of the array, slowest axis first; the claim was checked before.
    :raises InputError: too few or too many bytes, or a stream that is damaged.
    """
    array = np.empty(shape, dtype)
    left = array.data.cast("B")
    rest = 0
    try:
        while left and (count := file.readinto(left[:CHUNK])):  # type: ignore[attr-defined]
            left = left[count:]
        # To the end, where the check sum is: more than a slice too much is a header that claims too little.
        spare = max(CHUNK, array.nbytes // max(shape[0], 1))
        while not left and rest < spare and (count := len(file.read(CHUNK))):
            rest += count
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise damaged(path, _plain(error)) from error
    if left:
        raise damaged(
            path, f"it ends before the last voxel: {array.nbytes - len(left)} of {array.nbytes} bytes"
        )
    if rest >= max(array.nbytes // max(shape[0], 1), 16):
        raise damaged(path, f"its header claims {array.nbytes} bytes of voxels, but more of them follow")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def numbers(path: Path, text: str, field: str, count: int | None = None) -> tuple[float, ...]:
    """Finite numbers of a header's field, written with a decimal point whatever the locale.

    :raises InputError: other text, NaN, infinity, or another count.
    """
    try:
        values = tuple(float(part) for part in text.split())
    except ValueError:
        hint = "; numbers need a decimal point" if "," in text else ""
        raise damaged(path, f"its field {field!r} holds {text[:40]!r}{hint}") from None
    if not all(math.isfinite(v) for v in values):
        raise damaged(path, f"its field {field!r} holds {text[:40]!r}, which isn't finite")
    if count is not None and len(values) != count:
        raise damaged(path, f"its field {field!r} holds {len(values)} numbers, not {count}")
    return values


def whole_numbers(path: Path, text: str, field: str, count: int | None = None) -> tuple[int, ...]:
    """Whole numbers of a header's field.

    :raises InputError: as `numbers`.
    """
    values = numbers(path, text, field, count)
    if not all(v == int(v) and abs(v) < 2**53 for v in values):
        raise damaged(path, f"its field {field!r} holds {text[:40]!r}, not whole numbers")
    return tuple(int(v) for v in values)


def millimetres(path: Path, unit: str) -> float:
    """Millimetres of a unit of length.

    :raises InputError: an unknown unit.
    """
    factor = MILLIMETRES.get(unit.strip().lower())
    if factor is None:
        raise InputError(f"{path} gives its lengths in {unit[:20]!r}, an unknown unit: save it in mm")
    return factor


def scaled(path: Path, array: np.ndarray, slope: float, offset: float, field: str) -> np.ndarray:
    """array · slope + offset, as the header says that intensities are stored.

    :param field: the names of both in this format, for the error.
    :returns: float32, or float64 where the stored numbers need it; the array itself for 1 and 0.
    :raises InputError: a slope or offset that is infinite or NaN.
    """
    if not (math.isfinite(slope) and math.isfinite(offset)):
        raise damaged(path, f"its {field} are {slope:g} and {offset:g}")
    if (slope, offset) == (1.0, 0.0):
        return array
    result = array.astype(np.float64)
    result *= slope
    result += offset
    return result.astype(np.float32) if array.dtype.itemsize <= 2 or array.dtype == np.float32 else result


def packed(pieces: Iterable[bytes | memoryview], frame: int) -> Iterator[bytes]:
    """Pieces packed by zlib; the same content gives the same bytes.

    :param frame: GZIP or ZLIB.
    """
    packer = zlib.compressobj(PACKING_LEVEL, zlib.DEFLATED, frame)
    for piece in pieces:
        for start in range(0, len(piece), CHUNK):
            yield packer.compress(piece[start : start + CHUNK])
    yield packer.flush()


def written(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file and make sure that it is on the disk: a full disk, quota or size limit is an error, not a cut file.

    :raises OSError: it can't be written whole.
    """
    size = 0
    with path.open("wb") as file:
        for piece in pieces:
            size += len(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    there = path.stat().st_size
    if there != size:
        raise OSError(errno.EIO, f"{there} of {size} bytes were written")


def text_of(raw: bytes) -> str:
    """Text of a header: UTF-8, or else Latin-1, as older programs write."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")

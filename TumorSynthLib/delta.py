"""A change of voxels as text, that is its own undo: the bytes of before XOR after, compressed.

Applying it to the voxels before gives those after, and the other way round, bit for bit and for every type. Where an edit
changed nothing the bytes are zero, so that a patch takes little more room than the tumour.
"""

from __future__ import annotations

import base64
import math
import zlib

import numpy as np

from TumorSynthLib.errors import InputError


def encode(before: np.ndarray, after: np.ndarray) -> str:
    """Text of a change between two arrays of one shape and type."""
    return base64.b64encode(zlib.compress(_xor(before, after).tobytes(), 1)).decode("ascii")


def toggle(array: np.ndarray, text: str) -> np.ndarray:
    """The array on the other side of a change.

    :raises InputError: the text isn't a change of this array.
    """
    there = _bytes(array)
    change = np.frombuffer(_unpacked(text, there.size), np.uint8)
    return (there ^ change).view(array.dtype).reshape(array.shape)


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes, to notice voxels that something else has changed."""
    return zlib.crc32(_bytes(array))


def pack(mask: np.ndarray) -> str:
    """Text of a bool array."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 6)).decode("ascii")


def unpack(text: str, shape) -> np.ndarray:
    """Bool array of a text and its shape.

    :raises InputError: the text isn't an array of this shape.
    """
    count = math.prod(int(n) for n in shape)
    bits = np.frombuffer(_unpacked(text, -(-count // 8)), np.uint8)
    return np.unpackbits(bits, count=count).reshape(shape).astype(bool)


def _unpacked(text: str, size: int) -> bytes:
    """The bytes in a text, which must be so many; what would be more is never unpacked.

    :raises InputError: the text is damaged, or of something else.
    """
    if not isinstance(text, str):
        raise InputError("the record of an edit is damaged: it can't be undone or redone")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text.encode("ascii"), validate=True), size + 1)
    except (ValueError, zlib.error) as error:  # not ASCII, not base64, not compressed
        raise InputError("the record of an edit is damaged: it can't be undone or redone") from error
    if len(data) < size and not unpacker.eof:
        raise InputError("the record of an edit is damaged: it can't be undone or redone")
    if len(data) != size or unpacker.unused_data:
        raise InputError("the record of an edit doesn't fit the image: it can't be undone or redone")
    return data


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _xor(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return _bytes(before) ^ _bytes(after)

"""A change of voxels as text, that is its own undo: the bytes of before XOR after, compressed.

Applying it to the voxels before gives those after, and the other way round, bit for bit and for every type. Where an edit
changed nothing the bytes are zero, so that a patch takes little more room than the tumour.
"""

from __future__ import annotations

import base64
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
    try:
        change = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    except (ValueError, zlib.error) as error:
        raise InputError("the record of an edit is damaged: it can't be undone or redone") from error
    there = _bytes(array)
    if change.shape != there.shape:
        raise InputError("the record of an edit doesn't fit the image: it can't be undone or redone")
    return (there ^ change).view(array.dtype).reshape(array.shape)


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes, to notice voxels that something else has changed."""
    return zlib.crc32(_bytes(array))


def pack(mask: np.ndarray) -> str:
    """Text of a bool array."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 6)).decode("ascii")


def unpack(text: str, shape) -> np.ndarray:
    """Bool array of a text and its shape."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _xor(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return _bytes(before) ^ _bytes(after)

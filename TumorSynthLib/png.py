"""Small pictures without an imaging library: resampling, and PNG with numpy and zlib."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_UP_FILTER = 2  # each row minus the one above: smooth pictures compress well


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG of (H, W) grey or (H, W, 3) RGB values, uint8.

    :raises ValueError: another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"a picture is (H, W) or (H, W, 3) of uint8, not {pixels.shape} of {pixels.dtype}")
    height, width = pixels.shape[:2]
    if not height or not width:
        raise ValueError("a picture has at least one pixel")
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.hstack([np.full((height, 1), _UP_FILTER, np.uint8), rows - above])
    kind = _GREY if pixels.ndim == 2 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return b"".join([_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", body), _chunk(b"IEND", b"")])


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Write a picture; an existing file is replaced only by a whole one."""
    write_bytes(encode_png(pixels), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file by way of a temporary one beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def resample(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) values on another pixel grid over the same extent, float32.

    Linear between pixel centres where it enlarges; where it shrinks, each new pixel averages all that it
    covers.
    """
    rows, columns = _weights(picture.shape[0], height), _weights(picture.shape[1], width)
    return (rows @ picture.astype(np.float32) @ columns.T).astype(np.float32)


def enlarge(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) values on another pixel grid over the same extent, each the value of the pixel it lies in."""
    rows, columns = ((np.arange(n) * count // n) for n, count in zip((height, width), picture.shape))
    return picture[np.ix_(rows, columns)]


def _weights(count: int, wanted: int) -> np.ndarray:
    """(wanted, count) weights of a triangle filter, as wide as a pixel of the coarser grid."""
    scale = count / wanted
    centres = (np.arange(wanted) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(count)) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

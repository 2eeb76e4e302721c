"""Small pictures without an imaging library: resampling, and PNG, also animated, with numpy and zlib."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_UP_FILTER = 2  # each row minus the one above: smooth pictures compress well


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG of (H, W) grey or (H, W, 3) RGB values, uint8.

    :raises ValueError: another shape or type.
    """
    _check(pixels)
    body = _chunk(b"IDAT", _compressed(pixels))
    return b"".join([_SIGNATURE, _header(pixels), body, _chunk(b"IEND", b"")])


def encode_apng(frames: Sequence[np.ndarray], milliseconds: int = 500) -> bytes:
    """Animated PNG of pictures of one size, endlessly repeated; viewers that don't know it show the first.

    https://wiki.mozilla.org/APNG_Specification

    :raises ValueError: no pictures, or of different shapes.
    """
    if not len(frames) or any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError("an animation has at least one picture, and all of one shape")
    for frame in frames:
        _check(frame)
    height, width = frames[0].shape[:2]
    parts = [_SIGNATURE, _header(frames[0]), _chunk(b"acTL", struct.pack(">II", len(frames), 0))]
    number = 0
    for i, frame in enumerate(frames):
        control = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, milliseconds, 1000, 0, 0)
        data = _compressed(frame)
        parts.append(_chunk(b"fcTL", control))
        parts.append(
            _chunk(b"IDAT", data) if i == 0 else _chunk(b"fdAT", struct.pack(">I", number + 1) + data)
        )
        number += 1 if i == 0 else 2
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _check(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"a picture is (H, W) or (H, W, 3) of uint8, not {pixels.shape} of {pixels.dtype}")
    if not pixels.shape[0] or not pixels.shape[1]:
        raise ValueError("a picture has at least one pixel")


def _header(pixels: np.ndarray) -> bytes:
    kind = _GREY if pixels.ndim == 2 else _RGB
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, kind, 0, 0, 0))


def _compressed(pixels: np.ndarray) -> bytes:
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.hstack([np.full((len(rows), 1), _UP_FILTER, np.uint8), rows - above])
    return zlib.compress(filtered.tobytes(), 6)


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

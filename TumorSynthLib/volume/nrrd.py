"""NRRD: .nrrd in one file, .nhdr with its voxels beside it, and the segments of .seg.nrrd.

Fields: https://teem.sourceforge.net/nrrd/format.html; segments as Slicer writes them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import guard
from TumorSynthLib.volume.types import Volume

_TYPES = {
    "b1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        "longlong",
        "long long",
        "long long int",
        "signed long long",
        "signed long long int",
        "int64",
        "int64_t",
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: np.dtype(code.replace("b1", "i1")) for code, names in _TYPES.items() for name in names}
_NAMES = {_DTYPES[names[0]]: names[0] for names in _TYPES.values()}
_SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
_ALIASES = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "axismins": "axis mins",
}
_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer|ID)$")


@dataclass(frozen=True)
class Segment:
    """One segment of a .seg.nrrd: its name, its value in the labelmap, and the layer it lies in."""

    name: str
    value: int
    layer: int


@dataclass(frozen=True, eq=False)
class Content:
    """What an NRRD file holds: one image a layer (all but segmentations have one), and its segments."""

    layers: tuple[Volume, ...]
    segments: tuple[Segment, ...]


def read(path: Path) -> Volume:
    """The image of an NRRD file, checked whole.

    :raises InputError: damaged, not NRRD, not 3-D, or without a voxel size.
    """
    content = read_content(path)
    if len(content.layers) > 1:
        raise InputError(
            f"{path} is a segmentation of {len(content.layers)} layers: it can be a mask, but no image"
        )
    return content.layers[0]


def read_content(path: Path) -> Content:
    """All layers and segments of an NRRD file."""
    with guard.opened(path) as file:
        fields, texts, start = _header(path, file)
    sizes = guard.whole_numbers(path, _needed(path, fields, "sizes"), "sizes")
    if not all(1 <= n <= guard.MAX_AXIS for n in sizes):
        guard.check_sizes(path, sizes)
    if guard.whole_numbers(path, fields.get("dimension", str(len(sizes))), "dimension") != (len(sizes),):
        raise guard.damaged(path, "its fields 'dimension' and 'sizes' don't fit together")
    segments = _segments(path, texts, sizes)
    axes = _space_axes(path, fields, len(sizes))
    inner = [sizes[a] for a in axes]
    outer = [n for axis, n in enumerate(sizes) if axis not in axes and axis > min(axes, default=0) and n > 1]
    layered = bool(segments) and axes == [1, 2, 3] and len(sizes) == 4
    if not layered:
        guard.check_sizes(path, inner, _parts(sizes, axes))
        guard.check_sizes(path, inner + outer)
    dtype = _dtype(path, fields)
    array = _voxels(path, fields, start, sizes, dtype)
    spacing, origin, direction = _geometry(path, fields, axes)
    layers = (
        [array[..., n] for n in range(sizes[0])]
        if layered
        else [array.reshape([sizes[a] for a in axes][::-1])]
    )
    volumes = (Volume(np.ascontiguousarray(one), spacing, origin, direction, dict(texts)) for one in layers)
    return Content(tuple(volumes), segments)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, str], dict[str, str], int]:
    """Fields, texts (`key:=value`), and where the header ends."""
    if file.read(4) != b"NRRD":
        guard.unreadable(path, "damaged, or no NRRD file")
    file.seek(0)
    fields: dict[str, str] = {}
    texts: dict[str, str] = {}
    file.readline(guard.MAX_HEADER)
    while file.tell() < guard.MAX_HEADER:
        line = file.readline(guard.MAX_HEADER)
        text = guard.text_of(line.rstrip(b"\r\n"))
        if not text:
            return fields, texts, file.tell()
        if text.startswith("#"):
            continue
        name, sign, value = text.partition(":")
        if not sign:
            raise guard.damaged(path, f"its header has the line {text[:40]!r}")
        if value.startswith("="):
            texts[name] = value[1:].replace("\\n", "\n").replace("\\\\", "\\")
        else:
            key = name.strip().lower()
            key, value = _ALIASES.get(key, key), value.strip()
            if fields.setdefault(key, value) != value:
                raise guard.damaged(path, f"its field {key!r} is there twice, with two values")
            if key == "data file" and value.upper().startswith("LIST"):
                raise InputError(f"{path} keeps its voxels in several files: save it as one .nrrd file")
    raise guard.damaged(path, "its header doesn't end")


def _needed(path: Path, fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise guard.damaged(path, f"its header has no field {name!r}")
    return fields[name]


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype:
    name = _needed(path, fields, "type").lower()
    if name not in _DTYPES:
        raise InputError(
            f"can't read {path}: its voxels are of the type {name[:30]!r}; save it as 16-bit or float"
        )
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big") or ("endian" not in fields and _DTYPES[name].itemsize > 1):
        raise guard.damaged(path, f"its field 'endian' is {fields.get('endian', 'missing')!r}")
    return _DTYPES[name].newbyteorder(">" if endian == "big" else "<")


def _vectors(path: Path, text: str) -> list[tuple[float, ...] | None]:
    """The vectors of "space directions"; None where an axis has none."""
    found: list[tuple[float, ...] | None] = []
    for part in re.findall(r"none|\([^)]*\)|\S+", text):
        if part == "none":
            found.append(None)
        elif part.startswith("(") and part.endswith(")"):
            found.append(
                guard.numbers(path, part[1:-1].replace(",", " "), "space directions", part.count(",") + 1)
            )
        else:
            raise guard.damaged(path, f"its field 'space directions' holds {text[:60]!r}")
    return found


def _space_axes(path: Path, fields: Mapping[str, str], count: int) -> list[int]:
    """Which axes lie in space."""
    if "space directions" in fields:
        vectors = _vectors(path, fields["space directions"])
        if len(vectors) != count:
            raise guard.damaged(
                path, f"its field 'space directions' has {len(vectors)} vectors for {count} axes"
            )
        return [n for n, vector in enumerate(vectors) if vector is not None]
    kinds = fields.get("kinds", "").lower().split()
    if len(kinds) == count and any(kind in ("domain", "space") for kind in kinds):
        return [n for n, kind in enumerate(kinds) if kind in ("domain", "space")]
    return list(range(min(count, 3)))


def _parts(sizes: Sequence[int], axes: list[int]) -> int:
    """Values per voxel: the size of an axis that lies before those in space."""
    before = [sizes[n] for n in range(len(sizes)) if n not in axes and n < min(axes, default=0)]
    return int(np.prod(before)) if before else 1


def _geometry(path: Path, fields: Mapping[str, str], axes: list[int]) -> tuple[tuple, tuple, tuple]:
    """Spacing, origin and direction in LPS mm."""
    flip, units = _space(path, fields), _units(path, fields, axes)
    if "space directions" in fields:
        vectors = [v for v in _vectors(path, fields["space directions"]) if v is not None]
        if any(len(v) != 3 for v in vectors):
            raise guard.damaged(path, "its space directions don't have three numbers each")
        # "space units" belong to the axes of space, which the vectors' numbers run along.
        matrix = np.array(vectors, np.float64).T * flip[:, None] * units[:, None]
        spacing = np.linalg.norm(matrix, axis=0)
        text = fields.get("space origin", "(0,0,0)").strip()
        origin = (
            np.array(guard.numbers(path, text.strip("()").replace(",", " "), "space origin", 3))
            * units
            * flip
        )
        direction = matrix / np.where(spacing > 0, spacing, 1)
        return tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.ravel().tolist())
    if "spacings" not in fields:
        raise InputError(
            f"{path} has no voxel size (space directions or spacings): export it again with its geometry"
        )
    all_spacings = [t for t in fields["spacings"].split()]
    if len(all_spacings) <= max(axes):
        raise guard.damaged(path, "its field 'spacings' has fewer numbers than there are axes")
    spacing = np.array(guard.numbers(path, " ".join(all_spacings[a] for a in axes), "spacings", 3)) * units
    starts = fields.get("axis mins", "").split()
    origin = np.zeros(3)
    if len(starts) > max(axes) and "nan" not in [starts[a].lower() for a in axes]:
        origin = np.array(guard.numbers(path, " ".join(starts[a] for a in axes), "axis mins", 3)) * units
    return tuple(spacing.tolist()), tuple(origin.tolist()), tuple(np.eye(3).ravel().tolist())


def _space(path: Path, fields: Mapping[str, str]) -> np.ndarray:
    """Signs that turn the file's space into LPS."""
    name = fields.get("space", "").lower().removesuffix("-time")
    if name in _SPACES:
        return np.array(_SPACES[name], np.float64)
    if name or "space directions" in fields:
        what = f"the space {name[:40]!r}" if name else "no named space"
        warnings.warn(
            f"{path} has {what}: its axes are taken as left, posterior, superior, as Slicer does",
            ImageWarning, stacklevel=2,
        )  # fmt: skip
    return np.ones(3)


def _units(path: Path, fields: Mapping[str, str], axes: list[int]) -> np.ndarray:
    """(3,) millimetres of each axis' unit; mm where none is named."""
    for name, places in (("space units", [0, 1, 2]), ("units", axes)):
        found = (
            [a or b for a, b in re.findall(r'"([^"]*)"|([^"\s]+)', fields.get(name, ""))]
            if name in fields
            else []
        )
        quoted = re.findall(r'"[^"]*"|[^"\s]+', fields.get(name, ""))
        if len(quoted) > max(places):
            chosen = [found[p] for p in places]
            return np.array(
                [guard.millimetres(path, u) if u.strip() not in ("", "???") else 1.0 for u in chosen]
            )
        if quoted:
            raise guard.damaged(path, f"its field {name!r} has {len(quoted)} units")
    return np.ones(3)


def _voxels(
    path: Path, fields: Mapping[str, str], start: int, sizes: Sequence[int], dtype: np.dtype
) -> np.ndarray:
    """Numbers as stored, the slowest axis first."""
    encoding = fields.get("encoding", "raw").lower()
    kinds = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
    if encoding not in kinds:
        raise InputError(f"can't read {path}: its encoding is {encoding[:30]!r}; save it as raw or gzip")
    data_file, offset = path, start
    if "data file" in fields:
        name = fields["data file"]
        if name.upper().startswith("LIST") or "%" in name:
            raise InputError(f"{path} keeps its voxels in several files: save it as one .nrrd file")
        data_file, offset = guard.beside(path, name), 0
    claimed = int(np.prod(sizes, dtype=object)) * dtype.itemsize
    packed = kinds[encoding]
    with guard.opened(data_file) as file:
        file.seek(offset)
        _skip(path, fields, file, claimed, packed)
        present = max(data_file.stat().st_size - file.tell(), 0)
        guard.check_claim(path, claimed, present, bool(packed))
        return guard.filled(path, guard.unpacked(file, packed), sizes[::-1], dtype, bool(packed))


def _skip(path: Path, fields: Mapping[str, str], file: BinaryIO, claimed: int, packed: str) -> None:
    """Move an open file past the lines and bytes that its header says to leave out."""
    (lines,) = guard.whole_numbers(path, fields.get("line skip", "0"), "line skip", 1)
    (count,) = guard.whole_numbers(path, fields.get("byte skip", "0"), "byte skip", 1)
    if not (0 <= lines <= 100_000 and count >= -1) or (count == -1 and packed):
        raise guard.damaged(path, f"it skips {lines} lines and {count} bytes")
    for _ in range(lines):
        if not file.readline(guard.MAX_HEADER):
            break
    if count == -1:
        end = file.seek(0, 2)
        if end < claimed:
            raise guard.damaged(path, f"it ends before the last voxel: {end} of {claimed} bytes")
        file.seek(end - claimed)
    else:
        file.seek(count, 1)


def _segments(path: Path, texts: Mapping[str, str], sizes: Sequence[int]) -> tuple[Segment, ...]:
    """Segments of a .seg.nrrd of these sizes, in the order of their numbers.

    Slicer wrote neither layers nor values before 4.11: there each segment has a layer of its own, in their order.
    """
    found: dict[int, dict[str, str]] = {}
    for key, value in texts.items():
        match = _SEGMENT.match(key)
        if match:
            found.setdefault(int(match[1][:9]), {})[match[2]] = value
    found = {n: one for n, one in sorted(found.items()) if "Name" in one or "LabelValue" in one}
    layers = sizes[0] if len(sizes) == 4 else 1
    old = layers == len(found) and not any("Layer" in one for one in found.values())
    kept = []
    for place, (n, one) in enumerate(found.items()):
        layer = str(place) if old else one.get("Layer", "0" if layers == 1 else None)
        value = one.get("LabelValue", "1" if old or layers > 1 or len(found) == 1 else None)
        numbers = []
        for name, text in (("LabelValue", value), ("Layer", layer)):
            if text is None:
                raise guard.damaged(path, f"nothing says the {name} of its segment {one.get('Name', n)!r}")
            numbers.append(guard.whole_numbers(path, text, f"Segment{n}_{name}", 1)[0])
        kept.append(Segment(one.get("Name", f"Segment {n}"), *numbers))
    return tuple(kept)


def chunks(volume: Volume, fields: Mapping[str, str]) -> Iterator[bytes]:
    """A whole .nrrd file, gzip-packed, piece by piece.

    :param fields: texts of the header.
    """
    array = np.ascontiguousarray(volume.array, volume.array.dtype.newbyteorder("<"))
    matrix = volume.matrix
    head = [
        "NRRD0004",
        f"type: {_NAMES[volume.array.dtype]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, volume.size)),
        "space directions: " + " ".join(_vector(matrix[:, n]) for n in range(3)),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        "space origin: " + _vector(volume.origin),
    ]
    head += [
        f"{key}:={_escaped(value)}" for key, value in fields.items() if ":" not in key and "\n" not in key
    ]
    yield ("\n".join(head) + "\n\n").encode("utf-8", "replace")
    yield from guard.packed([array.data.cast("B")], guard.GZIP)


def _vector(values: Iterable[float]) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n")

"""MetaImage: .mha in one file, .mhd with its voxels beside it.

Fields: https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import guard
from TumorSynthLib.volume.types import Volume

MAX_TEXT = 4000  # characters of a header's field; MetaIO reads no more

_TYPES = {
    "MET_CHAR": "i1", "MET_ASCII_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in reversed(_TYPES.items())}
#: Fields of the format itself; all others are texts of whoever wrote the file.
_FIELDS = {
    "ObjectType", "ObjectSubType", "NDims", "DimSize", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
    "CompressedData", "CompressedDataSize", "CompressionLevel", "HeaderSize", "Modality", "SequenceID", "ElementType",
    "ElementNumberOfChannels", "ElementSize", "ElementSpacing", "ElementMin", "ElementMax", "ElementDataFile", "Offset",
    "Origin", "Position", "TransformMatrix", "Rotation", "Orientation", "CenterOfRotation", "AnatomicalOrientation",
    "DistanceUnits", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ID", "ParentID", "Color",
    "TransformType", "AcquisitionDate", "Name", "Comment",
}  # fmt: skip
_YES = ("true", "1")


def read(path: Path) -> Volume:
    """The image of a MetaImage file, checked whole.

    :raises InputError: damaged, not MetaImage, not 3-D, or without a voxel size.
    """
    with guard.opened(path) as file:
        fields, start = _header(path, file)
    sizes = guard.whole_numbers(path, _needed(path, fields, "DimSize"), "DimSize")
    if guard.whole_numbers(path, fields.get("NDims", ""), "NDims") != (len(sizes),):
        raise guard.damaged(path, "its fields NDims and DimSize don't fit together")
    (parts,) = guard.whole_numbers(
        path, fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", 1
    )
    guard.check_sizes(path, sizes, parts)
    array = _voxels(path, fields, start, sizes)
    scale = [
        _first_number(path, fields, f"ElementToIntensityFunction{name}", default)
        for name, default in (("Slope", 1.0), ("Offset", 0.0))
    ]
    array = guard.scaled(path, array, *scale, "ElementToIntensityFunctionSlope and -Offset")
    spacing, origin, direction = _geometry(path, fields, len(sizes))
    texts = {name: value for name, value in fields.items() if name not in _FIELDS or name == "Comment"}
    return Volume(array, spacing, origin, direction, texts)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, str], int]:
    """Fields, and where the header ends: after ElementDataFile."""
    fields: dict[str, str] = {}
    while file.tell() < guard.MAX_HEADER and (line := file.readline(guard.MAX_HEADER)):
        name, sign, value = guard.text_of(line.rstrip(b"\r\n")).partition("=")
        name = name.strip()
        if not sign and name:
            break
        if not fields and name not in _FIELDS:
            break
        if name and fields.setdefault(name, value.strip()) != value.strip():
            raise guard.damaged(path, f"its field {name} is there twice, with two values")
        if name == "ElementDataFile":
            return fields, file.tell()
    if "ObjectType" in fields or "NDims" in fields:
        raise guard.damaged(path, "its header doesn't end with ElementDataFile")
    return guard.unreadable(path, "damaged, or no MetaImage file")


def _needed(path: Path, fields: Mapping[str, str], *names: str) -> str:
    found = next((fields[n] for n in names if n in fields), None)
    if found is None:
        raise guard.damaged(path, f"its header has no field {names[0]}")
    return found


def _first_number(path: Path, fields: Mapping[str, str], name: str, default: float) -> float:
    return guard.numbers(path, fields[name], name, 1)[0] if name in fields else default


def _geometry(path: Path, fields: Mapping[str, str], count: int) -> tuple[tuple, tuple, tuple]:
    """Spacing, origin and direction in LPS mm, of the first three axes."""
    unit = fields.get("DistanceUnits", "mm")
    factor = 1.0 if unit in ("?", "") else guard.millimetres(path, unit)
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        raise InputError(f"{path} has no voxel size (ElementSpacing): export it again with its geometry")
    name = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    spacing = np.array(guard.numbers(path, fields[name], name, count))[:3] * factor
    origin, direction = np.zeros(3), np.eye(3)
    for name in ("Offset", "Origin", "Position"):
        if name in fields:
            origin = np.array(guard.numbers(path, fields[name], name, count))[:3] * factor
            break
    for name in ("TransformMatrix", "Rotation", "Orientation"):
        if name in fields:
            rows = np.array(guard.numbers(path, fields[name], name, count * count)).reshape(count, count)
            direction = rows[:3, :3].T
            break
    return tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.ravel().tolist())


def _voxels(path: Path, fields: Mapping[str, str], start: int, sizes) -> np.ndarray:
    """(K, J, I) numbers as stored."""
    kind = _needed(path, fields, "ElementType")
    if kind not in _TYPES:
        raise InputError(
            f"can't read {path}: its voxels are of the type {kind[:30]!r}; save it as 16-bit or float"
        )
    if fields.get("BinaryData", "False").lower() not in _YES:
        raise InputError(f"can't read {path}: its voxels are written as text; save it as binary")
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() in _YES
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    name, data_file, offset = fields["ElementDataFile"], path, start
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path} keeps its voxels in several files: save it as one .mha file")
    if name.upper() != "LOCAL":
        data_file, offset = guard.beside(path, name), 0
    (skip,) = guard.whole_numbers(path, fields.get("HeaderSize", "0"), "HeaderSize", 1)
    claimed = int(np.prod(sizes, dtype=object)) * dtype.itemsize
    packed = fields.get("CompressedData", "False").lower() in _YES
    with guard.opened(data_file) as file:
        end = data_file.stat().st_size
        if skip == -1 and not packed:
            offset = end - claimed
        elif skip > 0 and data_file != path:
            offset = skip
        guard.check_claim(path, claimed, end - max(offset, 0), packed)
        file.seek(max(offset, 0))
        shape = sizes[:3][::-1]
        stream = guard.unpacked(file, "gzip" if packed else "")
        return guard.filled(path, stream, shape, dtype, packed)


def chunks(volume: Volume, fields: Mapping[str, str]) -> Iterator[bytes]:
    """A whole .mha file, packed by zlib, piece by piece.

    :param fields: texts of the header.
    """
    array = np.ascontiguousarray(volume.array, volume.array.dtype.newbyteorder("<"))
    parts = list(guard.packed([array.data.cast("B")], guard.ZLIB))
    head = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(sum(map(len, parts))),
        "TransformMatrix": _text(np.asarray(volume.direction, np.float64).reshape(3, 3).T.ravel()),
        "Offset": _text(volume.origin),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": _orientation(volume),
        "ElementSpacing": _text(volume.spacing),
    }
    for name, value in fields.items():
        key = "".join(c if c.isprintable() and c not in " =" else "_" for c in name)
        if key and key not in _FIELDS or key == "Comment":
            head[key] = " ".join(value.split())[:MAX_TEXT]
    head |= {"DimSize": " ".join(map(str, volume.size)), "ElementType": _NAMES[volume.array.dtype]}
    lines = [f"{name} = {value}" for name, value in head.items()] + ["ElementDataFile = LOCAL"]
    yield ("\n".join(lines) + "\n").encode("utf-8", "replace")
    yield from parts


def _orientation(volume: Volume) -> str:
    """Where each axis comes from, e.g. "RAI" for axes to the left, back and head."""
    matrix = np.asarray(volume.direction, np.float64).reshape(3, 3)
    main = np.abs(matrix).argmax(axis=0)
    return "".join("RAI"[m] if matrix[m, n] > 0 else "LPS"[m] for n, m in enumerate(main))


def _text(values) -> str:
    return " ".join(repr(float(v)) for v in values)

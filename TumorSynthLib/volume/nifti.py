"""NIfTI-1 and NIfTI-2: one file (.nii, .nii.gz) or two (.hdr and .img).

The header of a source is kept byte by byte in what is written, as far as it still holds: an edited image has the
geometry codes, display range, intent, timing and extensions of its source. Fields:
https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import guard
from TumorSynthLib.volume.types import Volume, orthogonal

HEADER_SIZE, HEADER_2_SIZE = 348, 540
DATA_START = 352  # of NIfTI-1 in one file without extensions
MAX_EXTENSIONS = 16 * 2**20  # bytes; more is not kept in memory
DICOM_CODE = 2  # of an extension that holds DICOM attributes, the patient's name among them
SAME_POSITION = 1e-4  # mm and parts of a direction by which a kept header may differ from the volume
APART_MM = 0.01  # sform and qform that differ by more at a corner of the image disagree
SCANNER = 1  # sform_code and qform_code: scanner coordinates
#: xyzt_units: millimetres of a unit; 0 is unknown and taken as mm.
UNITS = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}

_TYPES = {
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64,
    256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}
_COLOUR = {128: 3, 2304: 4}
_COMPLEX = (32, 1792, 2048)

HEADER = np.dtype([
    ("sizeof_hdr", "<i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "<i4"), ("session_error", "<i2"),
    ("regular", "S1"), ("dim_info", "u1"), ("dim", "<i2", 8), ("intent_p", "<f4", 3), ("intent_code", "<i2"),
    ("datatype", "<i2"), ("bitpix", "<i2"), ("slice_start", "<i2"), ("pixdim", "<f4", 8), ("vox_offset", "<f4"),
    ("scl_slope", "<f4"), ("scl_inter", "<f4"), ("slice_end", "<i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
    ("cal_max", "<f4"), ("cal_min", "<f4"), ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4"),
    ("glmin", "<i4"), ("descrip", "V80"), ("aux_file", "V24"), ("qform_code", "<i2"), ("sform_code", "<i2"),
    ("quatern", "<f4", 3), ("qoffset", "<f4", 3), ("srow", "<f4", (3, 4)), ("intent_name", "V16"), ("magic", "V4"),
])  # fmt: skip
HEADER_2 = np.dtype([
    ("sizeof_hdr", "<i4"), ("magic", "V8"), ("datatype", "<i2"), ("bitpix", "<i2"), ("dim", "<i8", 8),
    ("intent_p", "<f8", 3), ("pixdim", "<f8", 8), ("vox_offset", "<i8"), ("scl_slope", "<f8"), ("scl_inter", "<f8"),
    ("cal_max", "<f8"), ("cal_min", "<f8"), ("slice_duration", "<f8"), ("toffset", "<f8"), ("slice_start", "<i8"),
    ("slice_end", "<i8"), ("descrip", "V80"), ("aux_file", "V24"), ("qform_code", "<i4"), ("sform_code", "<i4"),
    ("quatern", "<f8", 3), ("qoffset", "<f8", 3), ("srow", "<f8", (3, 4)), ("slice_code", "<i4"),
    ("xyzt_units", "<i4"), ("intent_code", "<i4"), ("intent_name", "V16"), ("dim_info", "u1"), ("unused", "V15"),
])  # fmt: skip
#: Fields that say what the voxels are and how to show them; kept where the values are still of that kind.
_VALUE_FIELDS = ("intent_p", "intent_code", "intent_name", "cal_max", "cal_min")
#: Fields that say where the voxels lie and when they were measured; kept where the geometry is.
_PLACE_FIELDS = (
    "dim_info", "slice_start", "slice_end", "slice_code", "slice_duration", "toffset", "pixdim", "xyzt_units",
    "qform_code", "sform_code", "quatern", "qoffset", "srow",
)  # fmt: skip


def read(path: Path) -> Volume:
    """The image of a NIfTI file, checked whole.

    :raises InputError: damaged, not NIfTI, not 3-D, or with a geometry that can't be used.
    """
    pair = _pair(path)
    header_file, data_file = pair or (path, path)
    with guard.opened(header_file) as file:
        packed = guard.packing(file.read(3))
        file.seek(0)
        if packed and header_file.suffix.lower() != ".gz":
            _say(path, f"is packed by {packed}, though its name says otherwise")
        raw, rest = _header(path, guard.unpacked(file, packed), pair is not None)
    fields, swapped = parsed(path, raw)
    start = _data_start(path, fields, pair is not None, len(raw))
    sizes, dtype = _layout(path, fields, swapped)
    array = _voxels(path, data_file, start, sizes, dtype)
    array = guard.scaled(path, array, *_scale(fields), "scl_slope and scl_inter")
    spacing, origin, direction = geometry(path, fields, sizes)
    metadata = {name: _text(fields[name]) for name in ("descrip", "aux_file")}
    kept = (_as_first(fields) + rest)[: MAX_EXTENSIONS + HEADER_SIZE]
    return Volume(array, spacing, origin, direction, {k: v for k, v in metadata.items() if v}, kept)


def _pair(path: Path) -> tuple[Path, Path] | None:
    """Header and voxels of an image of two files; None for one file."""
    name = path.name.lower()
    packed = ".gz" if name.endswith(".gz") else ""
    stem = name.removesuffix(".gz")
    if not stem.endswith((".hdr", ".img")):
        return None
    cut = path.name[: len(stem) - 4]
    upper = path.name[len(cut) :].isupper()
    found = []
    for kind in (".hdr", ".img"):
        options = [cut + (kind.upper() if upper else kind) + end for end in (packed, "", ".gz")]
        there = next((path.with_name(n) for n in options if path.with_name(n).exists()), None)
        if there is None:
            raise InputError(f"{path} is one half of an image: there is no file {options[0]} beside it")
        found.append(there)
    return found[0], found[1]


def _header(path: Path, file: BinaryIO, pair: bool) -> tuple[bytes, bytes]:
    """The header's bytes, and those between it and the voxels."""
    try:
        raw = file.read(HEADER_SIZE)
        if raw[:4] in (HEADER_2_SIZE.to_bytes(4, "little"), HEADER_2_SIZE.to_bytes(4, "big")):
            raw += file.read(HEADER_2_SIZE - HEADER_SIZE)
        rest = file.read(4)
        if rest[:1] not in (b"", b"\0"):
            rest += file.read(MAX_EXTENSIONS if pair else min(_gap(path, raw), MAX_EXTENSIONS))
    except (OSError, EOFError, ValueError, guard.zlib.error) as error:
        raise guard.damaged(path, " ".join(str(error).split())[:120]) from error
    return raw, rest


def _gap(path: Path, raw: bytes) -> int:
    """Bytes between the first four after the header and the voxels."""
    fields, _ = parsed(path, raw)
    gap = float(fields["vox_offset"]) - len(raw) - 4
    return int(gap) if 0 < gap < 2**31 else 0


def parsed(path: Path, raw: bytes) -> tuple[np.void, bool]:
    """Fields of a header of either version and byte order, and whether its bytes were turned around.

    :raises InputError: it is no NIfTI header.
    """
    for kind, size in ((HEADER, HEADER_SIZE), (HEADER_2, HEADER_2_SIZE)):
        if len(raw) < size:
            continue
        for order in ("<", ">"):
            fields = np.frombuffer(raw, kind.newbyteorder(order), 1)[0]
            if fields["sizeof_hdr"] == size:
                _check_magic(path, bytes(fields["magic"]))
                return fields, order == ">"
    if raw[:4] == b"NRRD":
        guard.unreadable(path, "it is an NRRD file; name it .nrrd")
    if len(raw) < HEADER_SIZE:
        raise guard.damaged(path, f"it ends within the header: {len(raw)} of {HEADER_SIZE} bytes")
    return guard.unreadable(path, "damaged, or no NIfTI file")


def _check_magic(path: Path, magic: bytes) -> None:
    if magic[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        guard.unreadable(path, "an Analyze 7.5 file, which doesn't say where left and right are")


def _data_start(path: Path, fields: np.void, pair: bool, size: int) -> int:
    """Where the voxels begin in their file."""
    offset, least = float(fields["vox_offset"]), 0 if pair else size + 4
    one_file = bytes(fields["magic"])[:2] == b"n+"
    if one_file == pair:
        kind = "one file" if one_file else "two files, .hdr and .img"
        raise guard.damaged(path, f"its header belongs to an image of {kind}")
    if offset == 0 and not pair:
        _say(path, f"has a vox_offset of 0: {least} is taken, where the voxels of such a file begin")
        return least
    if not (least <= offset < 2**40 and offset == int(offset)):
        raise guard.damaged(path, f"vox_offset is {offset:g}, but voxels begin at byte {least} or later")
    return int(offset)


def _layout(path: Path, fields: np.void, swapped: bool) -> tuple[tuple[int, ...], np.dtype]:
    """Sizes (x, y, z) and type of the voxels."""
    count, code = int(fields["dim"][0]), int(fields["datatype"])
    if not 1 <= count <= 7:
        raise guard.damaged(path, f"its header claims {count} axes")
    sizes = tuple(int(n) for n in fields["dim"][1 : count + 1])
    guard.check_sizes(path, sizes, _COLOUR.get(code, 1), "complex" if code in _COMPLEX else "")
    if code not in _TYPES:
        raise InputError(
            f"can't read {path}: its voxels are of the NIfTI type {code}; save it as 16-bit or float"
        )
    return sizes[:3], np.dtype(_TYPES[code]).newbyteorder(">" if swapped else "<")


def _voxels(path: Path, data_file: Path, start: int, sizes: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """(K, J, I) numbers as stored."""
    claimed = int(np.prod(sizes, dtype=object)) * dtype.itemsize
    with guard.opened(data_file) as file:
        packed = guard.packing(file.read(3))
        file.seek(0)
        guard.check_claim(path, claimed, data_file.stat().st_size - (0 if packed else start), bool(packed))
        stream = guard.unpacked(file, packed)
        guard.skip(path, stream, start)
        return guard.filled(path, stream, sizes[::-1], dtype, bool(packed))


def _scale(fields: np.void) -> tuple[float, float]:
    """Slope and offset; a slope of 0 or NaN means that there are none."""
    slope, offset = float(fields["scl_slope"]), float(fields["scl_inter"])
    return (1.0, 0.0) if slope == 0 or np.isnan(slope) else (slope, offset)


def geometry(path: Path, fields: np.void, sizes: tuple[int, ...]) -> tuple[tuple, tuple, tuple]:
    """Spacing, origin and direction in LPS mm, chosen as ITK and Slicer choose; what had to be chosen is said.

    :raises InputError: neither sform nor qform can be used.
    """
    pixdim = np.asarray(fields["pixdim"], np.float64)
    unit = UNITS.get(int(fields["xyzt_units"]) & 7)
    if unit is None:
        raise InputError(
            f"{path} gives its lengths in the unit {int(fields['xyzt_units']) & 7}, which NIfTI doesn't know"
        )
    spacing = pixdim[1:4] * unit
    sform = _sform(path, fields, unit) if fields["sform_code"] > 0 else None
    if not (spacing > 0).all() or not np.isfinite(spacing).all():
        spacing = _spacing_of(path, pixdim, sform)
    qform = _qform(path, fields, unit) if fields["qform_code"] > 0 else None
    if sform is None and qform is None:
        if fields["sform_code"] > 0 or fields["qform_code"] > 0:
            raise InputError(
                f"can't read {path}: its sform is sheared or damaged (no axes at right angles) and there is no usable "
                "qform; resample it to a grid with right angles"
            )
        _say(path, "has neither sform nor qform: its axes are taken as left, posterior, superior from 0")
        return tuple(spacing.tolist()), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist())
    chosen = _chosen(path, fields, sform, qform, sizes, spacing)
    columns = chosen[:, :3] / np.linalg.norm(chosen[:, :3], axis=0)
    flip = np.array([-1.0, -1.0, 1.0])
    direction, origin = columns * flip[:, None], chosen[:, 3] * flip
    norms = np.linalg.norm(chosen[:, :3], axis=0)
    if chosen is sform and np.abs(norms / spacing - 1).max() > 1e-3:
        text = " × ".join(f"{v:.4g}" for v in spacing)
        _say(
            path,
            f"has other voxel sizes in its sform than in pixdim: {text} mm of pixdim are taken, as Slicer does",
        )
    return tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.ravel().tolist())


def _spacing_of(path: Path, pixdim: np.ndarray, sform: np.ndarray | None) -> np.ndarray:
    """Voxel sizes where pixdim doesn't give them."""
    text = ", ".join(f"{v:g}" for v in pixdim[1:4])
    if sform is None or not (pixdim[1:4] == 0).any() or (pixdim[1:4] < 0).any():
        raise InputError(f"{path} has no usable geometry: pixdim is {text}; repair its header")
    spacing = np.linalg.norm(sform[:, :3], axis=0)
    _say(path, f"has a pixdim of {text}: the voxel size is taken from its sform, {_times(spacing)} mm")
    return spacing


def _times(values: np.ndarray) -> str:
    return " × ".join(f"{v:.4g}" for v in values)


def _sform(path: Path, fields: np.void, unit: float) -> np.ndarray | None:
    """(3, 4) RAS mm of the sform; None where its axes aren't at right angles, or it isn't finite."""
    rows = np.asarray(fields["srow"], np.float64) * unit
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(rows[:, :3], axis=0)
        good = np.isfinite(rows).all() and (lengths > 0).all() and orthogonal(rows[:, :3] / lengths)
    if not good and fields["qform_code"] > 0:
        _say(path, "has an sform that is sheared or damaged: its qform is taken")
    return rows if good else None


def _qform(path: Path, fields: np.void, unit: float) -> np.ndarray | None:
    """(3, 4) RAS mm of the qform, its columns of length 1; None where it isn't finite."""
    b, c, d = np.asarray(fields["quatern"], np.float64)
    offset = np.asarray(fields["qoffset"], np.float64) * unit
    square = b * b + c * c + d * d
    if not np.isfinite([square, *offset]).all():
        return None
    if square > 1 - 1e-7:  # rounding of a half turn
        (b, c, d), a = np.array([b, c, d]) / np.sqrt(square), 0.0
    else:
        a = np.sqrt(1 - square)
    matrix = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])  # fmt: skip
    if fields["pixdim"][0] < 0:
        matrix[:, 2] *= -1
    return np.column_stack([matrix, offset])


def _chosen(path, fields, sform, qform, sizes, spacing) -> np.ndarray:
    """sform or qform, whichever ITK takes: the sform where it is the scanner's or both agree."""
    if sform is None or qform is None:
        return qform if sform is None else sform
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in sizes], indexing="ij")).reshape(3, -1)
    places = []
    for form in (sform, qform):
        columns = form[:, :3] / np.linalg.norm(form[:, :3], axis=0) * spacing
        places.append(columns @ ends + form[:, 3:])
    apart = float(np.abs(places[0] - places[1]).max())
    wins = sform if fields["sform_code"] == SCANNER or apart <= APART_MM else qform
    if apart > APART_MM:
        name = "sform" if wins is sform else "qform"
        _say(
            path,
            f"has an sform and a qform that differ by up to {apart:.3g} mm: the {name} is taken, as Slicer does",
        )
    return wins


def _say(path: Path, text: str) -> None:
    warnings.warn(f"{path} {text}", ImageWarning, stacklevel=2)


def _text(field: np.void) -> str:
    return guard.text_of(field.tobytes().split(b"\0")[0]).strip()


def _as_first(fields: np.void) -> bytes:
    """A header of either version as the little-endian bytes of NIfTI-1; numbers that it can't hold are cut."""
    result = np.zeros((), HEADER)
    own = {"sizeof_hdr", "magic", "dim", "vox_offset"}
    with np.errstate(all="ignore"):
        for name in set(HEADER.names or ()) & set(fields.dtype.names or ()) - own:
            kind = HEADER[name].base
            limits = np.iinfo(kind) if kind.kind in "iu" else None
            result[name] = np.clip(fields[name], limits.min, limits.max) if limits else fields[name]
    result["sizeof_hdr"], result["magic"] = HEADER_SIZE, np.void(b"n+1\0")
    result["dim"] = np.clip(fields["dim"], 0, 32767)
    result["vox_offset"] = DATA_START
    return result.tobytes()


def header_of(volume: Volume, fields: Mapping[str, str], keep_dicom: bool = False) -> bytes:
    """Header and extensions to write before a volume's voxels: those of its source as far as they still hold.

    :param fields: texts for `descrip` and `aux_file`.
    :raises InputError: an axis is too long for NIfTI-1.
    """
    array = volume.array
    if max(array.shape) > 32767:
        raise InputError(f"an axis of {max(array.shape)} voxels is too long for NIfTI: write .nrrd or .mha")
    result = np.zeros((), HEADER)
    source, extensions = None, b""
    if len(volume.nifti_header) >= HEADER_SIZE:
        source = np.frombuffer(volume.nifti_header, HEADER, 1)[0]
        extensions = _extensions(volume.nifti_header[HEADER_SIZE:], keep_dicom)
    code = _CODES[array.dtype]
    if source is not None and (code != 2 or source["datatype"] == 2):
        _copy(source, result, _VALUE_FIELDS)
    if source is not None and _still_there(volume, source):
        _copy(source, result, _PLACE_FIELDS)
    else:
        _place(volume, result)
    result["sizeof_hdr"], result["regular"], result["magic"] = HEADER_SIZE, b"r", np.void(b"n+1\0")
    result["dim"] = [3, *volume.size, 1, 1, 1, 1]
    result["datatype"], result["bitpix"] = code, 8 * array.dtype.itemsize
    result["vox_offset"], result["scl_slope"] = DATA_START + len(extensions), 1
    for name, most in (("descrip", 79), ("aux_file", 23)):
        result[name] = np.void(fields.get(name, "").encode("utf-8")[:most].ljust(most + 1, b"\0"))
    return result.tobytes() + (b"\1\0\0\0" if extensions else bytes(4)) + extensions


def chunks(
    volume: Volume, fields: Mapping[str, str], keep_dicom: bool = False
) -> Iterator[bytes | memoryview]:
    """A whole .nii file, unpacked, piece by piece.

    :param fields: texts for `descrip` and `aux_file`; NIfTI keeps no others.
    """
    yield header_of(volume, fields, keep_dicom)
    yield np.ascontiguousarray(volume.array, volume.array.dtype.newbyteorder("<")).data.cast("B")


def _copy(source: np.void, result: np.ndarray, names: tuple[str, ...]) -> None:
    for name in names:
        result[name] = source[name]


def _extensions(rest: bytes, keep_dicom: bool) -> bytes:
    """The header extensions to keep: whole ones, without DICOM attributes unless they are asked for."""
    kept, at = [], 4
    while rest[:1] not in (b"", b"\0") and at + 8 <= len(rest):
        size = int.from_bytes(rest[at : at + 4], "little")
        if size < 16 or size % 16 or at + size > len(rest):
            break
        if keep_dicom or int.from_bytes(rest[at + 4 : at + 8], "little") != DICOM_CODE:
            kept.append(rest[at : at + size])
        at += size
    return b"".join(kept)


def _still_there(volume: Volume, source: np.void) -> bool:
    """Whether the header of the source still says where the volume lies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        try:
            found = geometry(Path("source"), source, volume.size)
        except InputError:
            return False
    wanted = (volume.spacing, volume.origin, volume.direction)
    return all(np.allclose(a, b, rtol=0, atol=SAME_POSITION) for a, b in zip(found, wanted))


def _place(volume: Volume, result: np.ndarray) -> None:
    """Set pixdim, qform and sform, both as scanner coordinates in mm, from a volume's geometry."""
    flip = np.array([-1.0, -1.0, 1.0])
    direction = np.asarray(volume.direction, np.float64).reshape(3, 3) * flip[:, None]
    origin = np.asarray(volume.origin, np.float64) * flip
    handed = 1.0 if np.linalg.det(direction) > 0 else -1.0
    result["pixdim"] = [handed, *volume.spacing, 0, 0, 0, 0]
    result["xyzt_units"], result["qform_code"], result["sform_code"] = 2, SCANNER, SCANNER
    result["quatern"], result["qoffset"] = _quaternion(direction * [1, 1, handed]), origin
    result["srow"] = np.column_stack([direction * np.asarray(volume.spacing), origin])


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """(b, c, d) of the unit quaternion of a rotation, its first part not negative."""
    products = np.array([
        [matrix[0, 0] - matrix[1, 1] - matrix[2, 2], 0, 0, 0],
        [matrix[0, 1] + matrix[1, 0], matrix[1, 1] - matrix[0, 0] - matrix[2, 2], 0, 0],
        [matrix[0, 2] + matrix[2, 0], matrix[1, 2] + matrix[2, 1], matrix[2, 2] - matrix[0, 0] - matrix[1, 1], 0],
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1], np.trace(matrix)],
    ])  # fmt: skip
    # Its largest eigenvector, in the order b, c, d, a (Bar-Itzhack, 2000): exact also for half turns.
    vector = np.linalg.eigh(products)[1][:, -1]
    return vector[:3] if vector[3] >= 0 else -vector[:3]

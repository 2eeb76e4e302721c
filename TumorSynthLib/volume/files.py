"""Images and masks from files, and images into files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TumorSynthLib.errors import InputError
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.volume import nifti
from TumorSynthLib.volume.types import FILE_KEYS, Volume, check_image, corners

WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")

MASK_OUTSIDE = 0.01
"""Part of a mask that may lie outside the image (rounding at the border). More is a mask of another image."""

MANY_LABELS = 255  # more values than that are no labelmap's

_NIFTI_KEYS = (
    "dim[", "pixdim[", "srow_", "qoffset_", "quatern_", "qform_", "sform_", "intent_", "scl_", "slice_", "cal_",
    "datatype", "bitpix", "nifti_type", "vox_offset", "xyzt_units", "qfac", "qto_xyz", "dim_info", "toffset",
    "descrip", "aux_file",
)  # fmt: skip


def read_image(path: str | os.PathLike) -> Volume:
    """Read and check a 3-D image: NIfTI, NRRD, MetaImage, or a folder with one DICOM series.

    :raises InputError: the file is missing, unreadable, not 3-D, in colour, or holds NaN.
    """
    volume = _read(Path(path))
    check_image(volume, str(path))
    return volume


def read_mask(path: str | os.PathLike, like: Volume, label: int | None = None) -> np.ndarray:
    """Read a mask or labelmap onto the grid of an image (nearest neighbour where it has a grid of its own).

    :param like: the image.
    :param label: which value is the tumour; None takes the only one there is.
    :returns: (K, J, I) bool on the grid of `like`.
    :raises InputError: unreadable, empty, several labels and none chosen, or not over the image.
    """
    mask = _read(Path(path))
    check_image(mask, str(path))
    chosen = mask.array == _choose_label(mask.array, label, str(path))
    if not mask.same_grid(like):
        chosen = _onto_grid(replace(mask, array=chosen), like, str(path))
    return chosen


def read_labelmap(path: str | os.PathLike, like: Volume) -> np.ndarray:
    """Read a labelmap onto the grid of an image, nearest neighbour where it has a grid of its own.

    :returns: (K, J, I) uint8 on the grid of `like`.
    :raises InputError: unreadable, empty, not over the image, or labels that aren't whole numbers from 0 to 255.
    """
    labels = _read(Path(path))
    check_image(labels, str(path))
    values = np.unique(labels.array)
    if not np.isin(values, np.arange(256)).all():
        raise InputError(
            f"{path} holds {_listed(values.tolist())}: labels must be whole numbers from 0 to 255"
        )
    if not values.any():
        raise InputError(f"{path} is empty: draw the tumour first")
    if labels.same_grid(like):
        return labels.array.astype(np.uint8)
    result = np.zeros(like.array.shape, np.uint8)
    for value in values[values > 0]:
        result[_onto_grid(replace(labels, array=labels.array == value), like, str(path))] = value
    return result


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


def write_volume(volume: Volume, path: str | os.PathLike, marks: Mapping[str, str] | None = None) -> Path:
    """Write an image whole or not at all: to a temporary file beside it, then renamed.

    :param path: .nii.gz, .nii, .nrrd or .mha; missing folders are made.
    :param marks: header fields that are added (see `provenance.marks`). NIfTI keeps `descrip` (79 characters) and
        `aux_file` (23) only; NRRD and MetaImage keep all.
    :raises InputError: a format that can't be written, or the folder refuses the file.
    """
    path = check_output(path)
    image = volume.sitk()
    for key, value in _header(volume.metadata, marks or {}, path).items():
        image.SetMetaData(key, value)
    suffix = next(s for s in WRITABLE if path.name.lower().endswith(s))
    part = path.with_name(f".{path.name}.{os.getpid()}.part{suffix}")
    plain = part.with_name(part.name.removesuffix(".gz")) if suffix == ".nii.gz" else part
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(plain), useCompression=suffix in (".nrrd", ".mha"))
        if ".nii" in suffix and volume.nifti_header:
            nifti.keep_geometry(plain, volume.nifti_header)
        if plain != part:
            nifti.compress(plain, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"can't write {path} ({_reason(error)}): check that the folder can be written to"
        ) from error
    finally:
        for leftover in (part, plain):
            _remove(leftover)
    return path


def _read(path: Path) -> Volume:
    """Volume of a file or DICOM folder, 3-D and of one real value per voxel."""
    if not path.exists():
        raise InputError(f"there is no file {path}: check the name")
    try:
        return Volume.from_sitk(_read_dicom(path)) if path.is_dir() else _read_file(path)
    except RuntimeError as error:
        # ITK says so of files that it found but could not make sense of.
        reason = _reason(error).replace("No such file or directory", "damaged or cut short")
        raise InputError(
            f"can't read {path} ({reason}): give a whole NIfTI, NRRD or MetaImage file, or a folder of DICOM files"
        ) from error


def _read_file(path: Path) -> Volume:
    """Volume of one file; a trailing axis of length 1 is dropped."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = reader.GetSize()
    _check_kind(reader, size, path)
    if len(size) > 3:
        reader.SetExtractSize([*size[:3], *([0] * (len(size) - 3))])
    header = nifti.read_header(path)
    array = nifti.read_array(path, header) if header else None
    if array is not None and array.dtype.kind == "f" and not np.isfinite([array.min(), array.max()]).all():
        # ITK would read 0 in their place.
        check_image(Volume(array, (1.0, 1.0, 1.0)), str(path))
    if array is None or nifti.is_scaled(header) or len(size) > 3 or array.shape[::-1] != size:
        return replace(Volume.from_sitk(reader.Execute()), nifti_header=header)
    metadata = {k: reader.GetMetaData(k) for k in reader.GetMetaDataKeys() if not k.startswith(FILE_KEYS)}
    return Volume(array, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection(), metadata, header)


def _check_kind(reader: sitk.ImageFileReader, size: tuple[int, ...], path: Path) -> None:
    """Raise InputError unless the file holds a 3-D image of one real value per voxel."""
    if len(size) < 3 or any(n > 1 for n in size[3:]):
        shape = " × ".join(str(n) for n in size)
        raise InputError(
            f"{path} is {len(size)}-D ({shape}), but a 3-D image is needed: save one volume of it"
        )
    parts = reader.GetNumberOfComponents()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{path} holds complex numbers: save the magnitude image")
    if parts != 1:
        raise InputError(
            f"{path} has {parts} values per voxel (colour or vector): save one channel as a 3-D image"
        )


def _read_dicom(folder: Path) -> sitk.Image:
    """Image of a folder with one DICOM series, checked for missing slices."""
    with _unwarned():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"the folder {folder} holds no DICOM image: give the folder that the slices lie in")
    if len(series) > 1:
        files = [len(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), s)) for s in series]
        found = ", ".join(f"{s} ({n} files)" for s, n in list(zip(series, files))[:5])
        raise InputError(
            f"the folder {folder} holds {len(series)} DICOM series ({found}): put one in its own folder"
        )
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    first = sitk.ImageFileReader()
    first.SetFileName(names[0])
    first.ReadImageInformation()
    _check_kind(first, first.GetSize(), folder)
    if len(names) == 1:
        return first.Execute()
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    _check_slices(reader, len(names), image, folder)
    return image


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Without ITK's warnings on stderr, where the error that follows says it better."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _check_slices(reader: sitk.ImageSeriesReader, count: int, image: sitk.Image, folder: Path) -> None:
    """Raise InputError where the slices of a series aren't equally far apart, i.e. one is missing."""
    key = "0020|0032"
    if not all(reader.HasMetaDataKey(n, key) for n in range(count)):
        return
    positions = np.array([[float(v) for v in reader.GetMetaData(n, key).split("\\")] for n in range(count)])
    normal = np.asarray(image.GetDirection()).reshape(3, 3)[:, 2]
    gaps = np.abs(np.diff(positions @ normal))
    if gaps.max() > 1.05 * np.median(gaps) + 0.01 or gaps.min() < 0.95 * np.median(gaps) - 0.01:
        raise InputError(
            f"the slices in {folder} are {gaps.min():.3g} to {gaps.max():.3g} mm apart: "
            "a slice is missing or doubled; export the series again"
        )


def _choose_label(array: np.ndarray, label: int | None, name: str) -> int | float:
    """The label to use, out of those in the mask."""
    low, high = array.min(), array.max()
    if low == high == 0:
        raise InputError(f"{name} is empty: draw the tumour first")
    values = [v.item() for v in np.unique(array[array != 0])]
    if label is not None:
        if label in values:
            return label
        raise InputError(f"{name} has no label {label}: it has {_listed(values)}")
    if len(values) > MANY_LABELS:
        raise InputError(
            f"{name} holds {len(values)} values and looks like an image: give the tumour's mask in its place"
        )
    if len(values) > 1:
        raise InputError(f"{name} has several labels ({_listed(values)}): choose one with --label")
    return values[0]


def _listed(values: list) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:10])
    return shown + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def _onto_grid(mask: Volume, like: Volume, name: str) -> np.ndarray:
    """A bool mask on another grid, brought to the grid of `like` by nearest neighbour."""
    box = bounding_box(mask.array)
    ends = corners([(s.start - 0.5, s.stop - 0.5) for s in box[::-1]])
    reach = like.indices(mask.points(ends))
    size = np.array(like.size)
    low = np.clip(np.floor(reach.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, size).astype(int)
    outside = _outside(mask, box, like)
    if outside > MASK_OUTSIDE or (high <= low).any():
        if outside >= 1.0:
            raise InputError(f"{name} lies outside the image: check that both belong to the same scan")
        raise InputError(
            f"{outside:.0%} of {name} lies outside the image: check that both belong to the same scan"
        )
    crop = replace(mask, array=mask.array[box], origin=tuple(mask.points([s.start for s in box[::-1]])))
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetOutputSpacing([float(s) for s in like.spacing])
    resampler.SetOutputDirection([float(s) for s in like.direction])
    resampler.SetOutputOrigin([float(s) for s in like.points(low)])
    resampler.SetSize([int(n) for n in high - low])
    part = sitk.GetArrayFromImage(resampler.Execute(crop.sitk())).astype(bool)
    result = np.zeros(like.array.shape, dtype=bool)
    result[tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1]))] = part
    if not result.any():
        raise InputError(f"{name} is too small for the image's grid: no voxel of the image lies in it")
    return result


def _outside(mask: Volume, box: tuple[slice, ...], like: Volume) -> float:
    """Part of the mask's voxels whose centres lie outside the image."""
    index = np.argwhere(mask.array[box])[:, ::-1] + [s.start for s in box[::-1]]
    reach = like.indices(mask.points(index))
    inside = np.all((reach >= -0.5) & (reach <= np.array(like.size) - 0.5), axis=1)
    return 1.0 - float(inside.mean())


def _header(metadata: Mapping[str, str], marks: Mapping[str, str], path: Path) -> dict[str, str]:
    """Header fields to write: those of the source that suit the format, and the marks."""
    nifti = ".nii" in path.name.lower()
    kept = {k: v for k, v in metadata.items() if not k.startswith(FILE_KEYS) and k != "Modality"}
    if not nifti:
        kept = {k: v for k, v in kept.items() if not k.startswith(_NIFTI_KEYS)}
    kept.update(marks)
    if nifti and "descrip" in kept:
        # ITK writes NIfTI's descrip field from this key and ignores the field's own name.
        kept["ITK_FileNotes"] = kept["descrip"][:79]
        kept["aux_file"] = kept.get("aux_file", "")[:23]
    return kept


def _remove(path: Path) -> None:
    """Remove a temporary file if it is there."""
    # Not made yet, or its folder doesn't exist: the first error says what is wrong.
    with contextlib.suppress(OSError):
        path.unlink()


def _reason(error: Exception) -> str:
    """Last line of an error, without ITK's file names and addresses."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    if "Unable to determine ImageIO" in text:
        return "damaged, or of an unknown format"
    return text.split("): ", 1)[-1][:160]

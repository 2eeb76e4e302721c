"""Where training cases come from: data sets in the folder layout of their official download.

| layout | folder |
|---|---|
| `sts`, `lidc` | `<ID>_<MODALITY>_image.nii.gz` beside `<ID>_<MODALITY>_mask.nii.gz` |
| `nnunet` | nnU-Net raw: `imagesTr/<ID>_0000.nii.gz`, `labelsTr/<ID>.nii.gz`, `dataset.json` with `channel_names` |
| `kits23` | `case_00000/imaging.nii.gz` with `segmentation.nii.gz`: 1 kidney, 2 tumour, 3 cyst |
| `nsclc` | NSCLC-Radiomics as TCIA gives it: a folder per DICOM series; `GTV-1` in an RTSTRUCT, or a DICOM SEG |
| `brats2021` | `BraTS2021_00000/BraTS2021_00000_{t1ce,flair,t1,t2,seg}.nii.gz`: 1 necrosis, 2 oedema, 4 enhancing |
| `brats2015` | `<ID>_<MODALITY>_image.nii.gz` beside `<ID>_mask.nii.gz`: 1 necrosis, 2 oedema, 3, 4 enhancing |
| `lidc-dicom` | LIDC-IDRI as TCIA gives it: a folder per DICOM series; readers' XML files anywhere below |
| `folder` | `<ID>/<MODALITY>.nii.gz` (or .nrrd, .mha) beside `<ID>/mask.nii.gz`, e.g. breast MR |

Images are stored in any order: `Case.load` gives their axes in that of x, y, z, in which spacings are told.
Masks come as labelmaps. `LAYOUTS` says which labels are which region; labels that belong to no region are lesions that
no healthy tissue is taken from, unless they are named as healthy (the kidney).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import patient_of

from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame
from TumorSynthLib.volume import Volume, read_image, read_labelmap

IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha")
REGION, OTHER = 1, 2  # labels of masks that are read from contours: the tumour, and lesions besides it
BRATS = ("t1ce", "flair", "t1", "t2")


def read_pair(case: Case) -> tuple[Volume, np.ndarray]:
    """Image and labelmap of two files."""
    volume = read_image(case.image)
    return volume, read_labelmap(case.mask, volume)


def in_order(volume: Volume, labels: np.ndarray) -> tuple[Volume, np.ndarray]:
    """Image and labelmap with array axes (z, y, x) nearest to LPS, so that spacings are along those.

    Axes change places only: no voxel is resampled, and none is flipped, which would move pyradiomics' grid.
    """
    order = Frame.of(volume.direction).order
    if order == (0, 1, 2):
        return volume, labels
    axes = [2 - axis for axis in reversed(order)]  # of the file, for x, y and z
    moved = replace(
        volume,
        array=np.ascontiguousarray(volume.array.transpose(order)),
        spacing=tuple(volume.spacing[axis] for axis in axes),
        direction=tuple(np.reshape(volume.direction, (3, 3))[:, axes].ravel().tolist()),
        nifti_header=b"",
    )
    return moved, np.ascontiguousarray(labels.transpose(order))


@dataclass(frozen=True)
class Case:
    """One image with its mask; `read` brings both into memory."""

    id: str
    patient: str
    modality: str
    image: Path
    mask: Path
    read: Callable[[Case], tuple[Volume, np.ndarray]] = read_pair

    def load(self) -> tuple[Volume, np.ndarray]:
        """The image, and its labelmap (K, J, I) uint8 on the same grid, with axes as `in_order` gives them.

        :raises InputError: a file is missing or damaged, or the mask lies elsewhere.
        """
        return in_order(*self.read(self))


@dataclass(frozen=True)
class Layout:
    """A data set's folder layout: how its cases are found, and what its labels mean.

    :param regions: name of each region to the labels it is made of; None takes the mask's only label as the tumour.
    :param healthy: labels that are healthy tissue.
    """

    find: Callable[[Path], Iterator[Case]]
    regions: dict[str, tuple[int, ...]] | None = None
    healthy: tuple[int, ...] = ()


def parted(image: Path) -> tuple[str, str]:
    """ID and modality of <ID>_<MODALITY>_image.nii.gz."""
    id, _, modality = image.name.removesuffix("_image.nii.gz").rpartition("_")
    if not id or not modality:
        raise InputError(f"{image} doesn't say what it is: name it <ID>_<MODALITY>_image.nii.gz")
    return id, modality


def paired(folder: Path) -> Iterator[Case]:
    """`sts`, `lidc`."""
    for image in sorted(folder.glob("*_image.nii.gz")):
        id, modality = parted(image)
        yield Case(id, patient_of(id), modality, image, image.with_name(f"{id}_{modality}_mask.nii.gz"))


def one_mask(folder: Path) -> Iterator[Case]:
    """`brats2015`: modalities share a mask."""
    for image in sorted(folder.glob("*_image.nii.gz")):
        id, modality = parted(image)
        yield Case(id, id, modality, image, image.with_name(id + "_mask.nii.gz"))


def nnunet(folder: Path) -> Iterator[Case]:
    """`nnunet`."""
    try:
        names = json.loads((folder / "dataset.json").read_text())["channel_names"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"can't read channel_names of {folder / 'dataset.json'} ({error!r}): give a folder in nnU-Net's raw format"
        ) from None
    for label in sorted((folder / "labelsTr").glob("*.nii.gz")):
        id = label.name.removesuffix(".nii.gz")
        for channel, name in names.items():
            yield Case(id, id, name, folder / "imagesTr" / f"{id}_{int(channel):04d}.nii.gz", label)


def kits23(folder: Path) -> Iterator[Case]:
    """`kits23`; cases whose image has not been downloaded are passed over."""
    for image in sorted(folder.glob("case_*/imaging.nii.gz")):
        id = image.parent.name
        yield Case(id, id, "CT", image, image.with_name("segmentation.nii.gz"))


def brats2021(folder: Path) -> Iterator[Case]:
    """`brats2021`; the number after the underscore is the patient."""
    for mask in sorted(folder.glob("BraTS*/*_seg.nii.gz")):
        id = mask.name.removesuffix("_seg.nii.gz")
        for modality in BRATS:
            image = mask.with_name(f"{id}_{modality}.nii.gz")
            if image.exists():
                yield Case(id, id, modality.upper(), image, mask)


def generic(folder: Path) -> Iterator[Case]:
    """`folder`: a sub-folder per patient, with one mask for all its images."""
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = {_stem(f): f for f in sorted(place.iterdir()) if f.name.lower().endswith(IMAGES)}
        mask = files.pop("mask", None)
        if mask is not None:
            for modality, image in files.items():
                yield Case(place.name, place.name, modality, image, mask)


def _stem(path: Path) -> str:
    suffix = next(s for s in IMAGES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]


def _nsclc(folder: Path) -> Iterator[Case]:
    from dicom_cases import nsclc

    return nsclc(folder)


def _lidc_dicom(folder: Path) -> Iterator[Case]:
    from lidc_xml import lidc

    return lidc(folder)


LAYOUTS = {
    "sts": Layout(paired),
    "lidc": Layout(paired),
    "nnunet": Layout(nnunet),
    "kits23": Layout(kits23, {"tumour": (2,)}, healthy=(1,)),
    "nsclc": Layout(_nsclc, {"tumour": (REGION,)}),
    "brats2021": Layout(brats2021, {"necrosis": (1,), "enhancing": (4,)}),
    "brats2015": Layout(one_mask, {"necrosis": (1, 3), "enhancing": (4,)}),
    "lidc-dicom": Layout(_lidc_dicom, {"tumour": (REGION,)}),
    "folder": Layout(generic),
}


def cases(layout: str, folder: Path) -> Iterator[Case]:
    """All cases of a folder in one of the layouts of this file's docstring.

    :raises InputError: a file's name or the folder's table of contents can't be understood, or a modality's name has an
        underscore, at which names of files are parted.
    """
    for case in LAYOUTS[layout].find(Path(folder)):
        if "_" in case.modality:
            raise InputError(
                f"the modality {case.modality!r} of {case.image} has an underscore, at which <ID>_<MODALITY>_image.nii.gz is "
                f"parted: call it {case.modality.replace('_', '-')!r}, in dataset.json (nnunet) or by the image's name (folder)"
            )
        yield case

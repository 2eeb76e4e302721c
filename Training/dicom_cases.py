"""The cases of NSCLC-Radiomics, whose tumours are contours of an RTSTRUCT or segments of a SEG.

TCIA's downloads have one folder per series, so that one header tells what a folder holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from layouts import OTHER, REGION, Case

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume, dicom_tags, read_image
from TumorSynthLib.volume.masks import parts_of

#: Names of the primary tumour in NSCLC-Radiomics: in its RTSTRUCTs, and in its SEGs.
PRIMARY = ("gtv-1", "gtv1", "neoplasm, primary", "neoplasm")
LESION = ("gtv", "neoplasm")  # how names of other lesions begin


def read_header(path: Path):
    """DICOM header without pixels."""
    with dicom_tags.foreign(path):
        return dicom_tags.header(path)


def series_folders(folder: Path) -> dict[Path, Any]:
    """First header of each folder below `folder` that holds DICOM files, in the order of the names."""
    found = {}
    for path in sorted(folder.rglob("*.dcm")):
        if path.parent not in found:
            found[path.parent] = read_header(path)
    return found


def nsclc(folder: Path) -> Iterator[Case]:
    """Cases of NSCLC-Radiomics: each CT that an RTSTRUCT, or else a SEG, belongs to."""
    scans = {}
    masks: dict = {}
    for place, header in series_folders(folder).items():
        modality = header.get("Modality")
        if modality == "CT":
            scans[str(header.SeriesInstanceUID)] = (place, str(header.PatientID))
        elif modality in ("RTSTRUCT", "SEG"):
            file = min(place.glob("*.dcm"))
            masks.setdefault(referenced_series(read_header(file)), {})[modality] = file
    for uid, (place, patient) in sorted(scans.items(), key=lambda item: item[1][1]):
        there = masks.get(uid, {})
        if "RTSTRUCT" in there:
            yield Case(patient, patient, "CT", place, there["RTSTRUCT"], read_labelled)
        elif "SEG" in there:
            yield Case(patient, patient, "CT", place, there["SEG"], read_labelled)


def read_labelled(case: Case) -> tuple[Volume, np.ndarray]:
    """A DICOM series, and the labelmap of the tumours in the case's mask file."""
    volume = read_image(case.image)
    return volume, labels_in(case.mask, volume)


def referenced_series(header) -> str | None:
    """UID of the image series that an RTSTRUCT or a SEG belongs to."""
    for frame in header.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                return str(series.SeriesInstanceUID)
    for series in header.get("ReferencedSeriesSequence", []):
        return str(series.SeriesInstanceUID)
    return None


def label_of(name: str) -> int:
    """What a structure of this name is: the primary tumour, another lesion, or nothing that matters (0)."""
    name = name.strip().lower()
    return REGION if name in PRIMARY else OTHER if name.startswith(LESION) else 0


def labels_in(path: Path, volume: Volume) -> np.ndarray:
    """Labelmap (K, J, I) uint8 of the tumours in an RTSTRUCT or a SEG, known by their names or by what they are coded as.

    :raises InputError: there is no primary tumour, or it lies outside the image.
    """
    found, kinds = parts_of(path, volume), coded_as(path)
    masks = []
    for part in found:
        label = label_of(part.name) or label_of(kinds.get(int(part.number), ""))
        if label:
            masks.append((label, part.voxels()))
    return merged(masks, volume, path, [part.name for part in found])


def coded_as(path: Path) -> dict[int, str]:
    """What each segment of a SEG is said to show, e.g. "Neoplasm, Primary"; its label can be any text."""
    found = {}
    for segment in read_header(path).get("SegmentSequence") or []:
        codes = segment.get("SegmentedPropertyTypeCodeSequence") or [{}]
        found[int(segment.SegmentNumber)] = str(codes[0].get("CodeMeaning", ""))
    return found


def merged(masks: list[tuple[int, np.ndarray]], volume: Volume, path: Path, names: list[str]) -> np.ndarray:
    """Labelmap of (label, mask) pairs; the tumour wins over other lesions."""
    labels = np.zeros(volume.array.shape, np.uint8)
    for label, mask in sorted(masks, key=lambda pair: -pair[0]):
        labels[mask] = label
    if not (labels == REGION).any():
        known = ", ".join(names) or "no structure"
        raise InputError(f"{path} has no voxel of {PRIMARY[0].upper()} in its image: it holds {known}")
    return labels

"""Masks out of DICOM: contours of an RTSTRUCT, frames of a SEG; and the cases of NSCLC-Radiomics.

TCIA's downloads have one folder per series, so that one header tells what a folder holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from layouts import OTHER, REGION, Case

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume, read_image

#: Names of the primary tumour in NSCLC-Radiomics: in its RTSTRUCTs, and in its SEGs.
PRIMARY = ("gtv-1", "gtv1", "neoplasm, primary", "neoplasm")
LESION = ("gtv", "neoplasm")  # how names of other lesions begin
OFF_PLANE = 0.5  # slices that a contour's points may be apart from each other


def read_header(path: Path):
    """DICOM header without pixels.

    :raises InputError: pydicom is missing.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError('DICOM layouts need pydicom: pip install -e ".[training]"') from None
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def series_folders(folder: Path) -> dict[Path, object]:
    """First header of each folder below `folder` that holds DICOM files, in the order of the names."""
    found = {}
    for path in sorted(folder.rglob("*.dcm")):
        if path.parent not in found:
            found[path.parent] = read_header(path)
    return found


def nsclc(folder: Path) -> Iterator[Case]:
    """Cases of NSCLC-Radiomics: each CT that an RTSTRUCT, or else a SEG, belongs to."""
    scans, masks = {}, {}
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
            yield Case(
                patient, patient, "CT", place, there["RTSTRUCT"], partial(read_labelled, rtstruct_labels)
            )
        elif "SEG" in there:
            yield Case(patient, patient, "CT", place, there["SEG"], partial(read_labelled, seg_labels))


def read_labelled(labels: Callable[[Path, Volume], np.ndarray], case: Case) -> tuple[Volume, np.ndarray]:
    """A DICOM series, and the labelmap that `labels` makes of the case's mask file."""
    volume = read_image(case.image)
    return volume, labels(case.mask, volume)


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


def rtstruct_labels(path: Path, volume: Volume) -> np.ndarray:
    """Labelmap (K, J, I) uint8 of an RTSTRUCT's tumours: voxels whose centres lie in their contours.

    :raises InputError: there is no primary tumour, or it lies outside the image.
    """
    header = read_header(path)
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in header.StructureSetROISequence}
    masks = []
    for roi in header.ROIContourSequence:
        label = label_of(names.get(int(roi.ReferencedROINumber), ""))
        if label:
            contours = [
                np.reshape(np.asarray(c.ContourData, float), (-1, 3)) for c in roi.get("ContourSequence", [])
            ]
            masks.append((label, filled(contours, volume, path)))
    return merged(masks, volume, path, list(names.values()))


def filled(contours: list[np.ndarray], volume: Volume, path: Path) -> np.ndarray:
    """(K, J, I) bool: inside an odd number of the contours, each (N, 3) LPS mm in one slice."""
    from skimage.draw import polygon

    mask = np.zeros(volume.array.shape, bool)
    for contour in contours:
        x, y, z = volume.indices(contour).T
        if np.ptp(z) > OFF_PLANE:
            raise InputError(
                f"{path}: a contour crosses slices of its image; resample the image to the contours' planes"
            )
        k = int(np.rint(z.mean()))
        if 0 <= k < len(mask):
            rows, columns = polygon(y, x, mask.shape[1:])
            mask[k, rows, columns] ^= True
    return mask


def seg_labels(path: Path, volume: Volume) -> np.ndarray:
    """Labelmap (K, J, I) uint8 of a DICOM SEG's tumours; its voxels are those of the image, in any order of slices.

    :raises InputError: there is no primary tumour, or it lies outside the image.
    """
    import pydicom

    header = pydicom.dcmread(path)
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in header.SegmentSequence}
    kinds = {int(s.SegmentNumber): _kind(s) for s in header.SegmentSequence}
    labels = {number: label_of(name) or label_of(kinds[number]) for number, name in names.items()}
    frames, whole = np.atleast_3d(header.pixel_array), float(header.get("MaximumFractionalValue", 1))
    frames = frames.reshape(-1, int(header.Rows), int(header.Columns))
    masks = {number: np.zeros(volume.array.shape, bool) for number, label in labels.items() if label}
    for pixels, groups in zip(frames, header.PerFrameFunctionalGroupsSequence):
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        if number in masks:
            _put(masks[number], pixels >= 0.5 * whole, _plane(header, groups), volume)
    return merged([(labels[n], mask) for n, mask in masks.items()], volume, path, list(names.values()))


def _kind(segment) -> str:
    """What a segment is said to show, e.g. "Neoplasm, Primary"; its label can be any text."""
    codes = segment.get("SegmentedPropertyTypeCodeSequence") or [{}]
    return str(codes[0].get("CodeMeaning", ""))


def _plane(header, groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position of a frame's first pixel, and its steps to the next row and the next column, in LPS mm."""
    shared = header.SharedFunctionalGroupsSequence[0]

    def group(name: str):
        return (groups.get(name) or shared.get(name))[0]

    cosines = np.asarray(group("PlaneOrientationSequence").ImageOrientationPatient, float)
    down, across = np.asarray(group("PixelMeasuresSequence").PixelSpacing, float)
    position = np.asarray(group("PlanePositionSequence").ImagePositionPatient, float)
    return position, cosines[3:] * down, cosines[:3] * across


def _put(mask: np.ndarray, pixels: np.ndarray, plane, volume: Volume):
    """Set the voxels of `mask` nearest to the pixels of a frame."""
    position, down, across = plane
    rows, columns = np.nonzero(pixels)
    index = np.rint(volume.indices(position + rows[:, None] * down + columns[:, None] * across)).astype(int)[
        :, ::-1
    ]
    inside = ((index >= 0) & (index < mask.shape)).all(1)
    mask[tuple(index[inside].T)] = True


def merged(masks: list[tuple[int, np.ndarray]], volume: Volume, path: Path, names: list[str]) -> np.ndarray:
    """Labelmap of (label, mask) pairs; the tumour wins over other lesions."""
    labels = np.zeros(volume.array.shape, np.uint8)
    for label, mask in sorted(masks, key=lambda pair: -pair[0]):
        labels[mask] = label
    if not (labels == REGION).any():
        known = ", ".join(names) or "no structure"
        raise InputError(f"{path} has no voxel of {PRIMARY[0].upper()} in its image: it holds {known}")
    return labels

"""DICOM objects for tests: a CT series, an RTSTRUCT, a SEG; and a reading of LIDC-IDRI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from skimage.measure import find_contours

SHAPE = (12, 32, 28)  # z, y, x
SPACING = (1.25, 1.5, 3.0)  # x, y, z in mm; all different, so that no two axes can be mistaken for each other
ORIGIN = (-12.5, -30.0, 210.0)


def ball(centre, radius: float) -> np.ndarray:
    """(z, y, x) bool: voxels within radius mm of a voxel."""
    distance = [(c - m) * s for c, m, s in zip(np.indices(SHAPE), centre, SPACING[::-1])]
    return sum(d**2 for d in distance) < radius**2


def image(seed: int = 0) -> np.ndarray:
    """(z, y, x) int16 HU."""
    return np.random.default_rng(seed).integers(-200, 300, SHAPE).astype(np.int16)


def ct_series(folder: Path, patient: str, array: np.ndarray) -> list:
    """Write a CT series, a file per slice, named so that the order of names isn't that of slices."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    study, series, frame, slices = generate_uid(), generate_uid(), generate_uid(), []
    for k, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset(None, Dataset(), file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, series, frame
        d.PatientID = d.PatientName = patient
        d.PatientBirthDate = d.PatientSex = d.StudyDate = d.StudyTime = d.AccessionNumber = d.StudyID = ""
        d.ReferringPhysicianName = ""
        d.Modality, d.Manufacturer, d.InstanceNumber, d.SeriesNumber = "CT", "test", len(array) - k, 1
        d.PositionReferenceIndicator = ""
        d.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + k * SPACING[2]]
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        d.PixelSpacing, d.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = *plane.shape, 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation, d.RescaleIntercept, d.RescaleSlope = 15, 0, -1024, 1
        d.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        d.save_as(folder / f"1-{len(array) - k:03d}.dcm", enforce_file_format=True)
        slices.append(d)
    return slices


def rtstruct(file: Path, slices: list, structures: dict[str, np.ndarray]):
    """Write an RTSTRUCT with the outlines of masks (z, y, x), half a pixel outside their outermost voxels."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(None, Dataset(), file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    d.PatientID, d.Modality, d.SeriesInstanceUID = slices[0].PatientID, "RTSTRUCT", generate_uid()
    d.StudyInstanceUID, d.StructureSetLabel = slices[0].StudyInstanceUID, "test"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = slices[0].FrameOfReferenceUID, [study]
    d.ReferencedFrameOfReferenceSequence = [frame]
    d.StructureSetROISequence, d.ROIContourSequence = [], []
    for number, (name, mask) in enumerate(structures.items(), 1):
        roi, contours = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        contours.ReferencedROINumber, contours.ContourSequence = number, outlines(mask)
        d.StructureSetROISequence.append(roi)
        d.ROIContourSequence.append(contours)
    file.parent.mkdir(parents=True)
    d.save_as(file, enforce_file_format=True)


def outlines(mask: np.ndarray) -> list:
    """Contour items of a mask: LPS mm."""
    from pydicom.dataset import Dataset

    items = []
    for k in np.flatnonzero(mask.any((1, 2))):
        for line in find_contours(np.pad(mask[k], 1).astype(float), 0.5):
            y, x = (line[:-1] - 1).T
            points = np.stack([x * SPACING[0], y * SPACING[1], np.full(len(x), k * SPACING[2])], 1) + ORIGIN
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = [f"{v:.4f}" for v in points.ravel()]
            items.append(item)
    return items


def seg(file: Path, slices: list, structures: dict[str, np.ndarray]):
    """Write a DICOM SEG with highdicom, a binary segment per mask (z, y, x)."""
    import highdicom
    from highdicom.sr.coding import CodedConcept

    category = CodedConcept("M-01000", "SRT", "Morphologically Altered Structure")
    tumour, organ = (
        CodedConcept("M-80003", "SRT", "Neoplasm, Primary"),
        CodedConcept("T-28000", "SRT", "Lung"),
    )
    manual = highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    segments = [
        highdicom.seg.SegmentDescription(number, name, category, organ if "Lung" in name else tumour, manual)
        for number, name in enumerate(structures, 1)
    ]
    made = highdicom.seg.Segmentation(
        slices, np.stack([m.astype(np.uint8) for m in structures.values()], -1), highdicom.seg.SegmentationTypeValues.BINARY,
        segments, highdicom.UID(), 2, highdicom.UID(), 1, "test", "test", "1", "0",
    )  # fmt: skip
    file.parent.mkdir(parents=True)
    made.save_as(file)


def lidc_xml(file: Path, series: str, sessions: list[list[list[tuple[int, np.ndarray, bool]]]]):
    """Write a reading: for each reader, for each nodule, (slice, mask (y, x), whether it adds) outlined from outside."""
    parts = []
    for nodules in sessions:
        text = ""
        for number, rois in enumerate(nodules):
            text += f"<unblindedReadNodule><noduleID>{number}</noduleID>"
            for k, mask, adds in rois:
                edge = "".join(
                    f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for y, x in outside(mask)
                )
                z = ORIGIN[2] + k * SPACING[2]
                text += f"<roi><imageZposition>{z:.1f} </imageZposition><inclusion>{str(adds).upper()}</inclusion>{edge}</roi>"
            text += "</unblindedReadNodule>"
        parts.append(f"<readingSession>{text}</readingSession>")
    file.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
        f"<SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>{''.join(parts)}</LidcReadMessage>"
    )


def outside(mask: np.ndarray) -> list[tuple[int, int]]:
    """The first pixels (y, x) outside a mask, in order along its border."""
    from scipy import ndimage

    if mask.sum() <= 1:
        return [tuple(p) for p in np.argwhere(mask)]
    ring = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
    start = min(map(tuple, np.argwhere(ring)))
    path, last = [start], None
    while True:  # walk along the ring, 4-connected, clockwise
        y, x = path[-1]
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            step = (y + dy, x + dx)
            inside = 0 <= step[0] < ring.shape[0] and 0 <= step[1] < ring.shape[1]
            if (
                inside
                and ring[step]
                and step != last
                and (step not in path[1:])
                and not (step == start and len(path) < 3)
            ):
                break
        else:
            raise ValueError("the mask's border is no simple ring")
        if step == start:
            return path
        last = path[-1]
        path.append(step)

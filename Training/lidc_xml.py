"""Nodules of LIDC-IDRI from the readers' XML files: 50 % consensus of those who outlined the nodule.

The rules are those of the data set's documentation and of pylidc (Hancock & Magnan 2016), which needs a data base of its own
and an older numpy, and is not used: an outline runs through the first pixels outside the nodule, nodules under 3 mm
have a single point and are left out, and marks of different readers that touch are the same nodule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from dicom_cases import series_folders
from layouts import OTHER, REGION, Case

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume, read_image

CONSENSUS = 0.5  # share of a nodule's readers that a voxel needs
READERS = 2  # at least so many outlined it
POINTS = 4  # an outline has at least so many; fewer mark a place


@dataclass(frozen=True)
class Mark:
    """One reader's outlines of one nodule: (z in mm, (N, 2) pixels (x, y), whether it adds or cuts out)."""

    reader: int
    outlines: tuple[tuple[float, np.ndarray, bool], ...]


def lidc(folder: Path) -> Iterator[Case]:
    """One case per nodule that at least `READERS` readers outlined; a patient's are counted over all scans."""
    files = {}
    counted = Counter()
    for path in sorted(folder.rglob("*.xml")):
        uid = series_of(path)
        if uid:
            files[uid] = path
    for place, header in series_folders(folder).items():
        path = files.get(str(header.get("SeriesInstanceUID")))
        if header.get("Modality") != "CT" or path is None:
            continue
        patient = str(header.PatientID)
        spacing = float(header.PixelSpacing[0])
        for number in range(len(nodules(path, spacing))):
            counted[patient] += 1
            yield Case(
                f"{patient}_N_{counted[patient]}", patient, "CT", place, path, partial(read_nodule, number)
            )


def _tag(element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _children(element, name: str) -> list:
    return [child for child in element if _tag(child) == name]


def _text(element, name: str) -> str:
    found = _children(element, name)
    return (found[0].text or "").strip() if found else ""


def _root(path: Path):
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError(f"{path} is not XML ({error}): download it again") from None


def series_of(path: Path) -> str | None:
    """UID of the CT series that a reading belongs to; None for files of another kind (chest films)."""
    root = _root(path)
    if _tag(root) != "LidcReadMessage":
        return None
    return next((_text(header, "SeriesInstanceUid") for header in _children(root, "ResponseHeader")), None)


def marks(path: Path) -> list[Mark]:
    """All outlined nodules of all readers."""
    found = []
    for reader, session in enumerate(_children(_root(path), "readingSession")):
        for nodule in _children(session, "unblindedReadNodule"):
            outlines = []
            for roi in _children(nodule, "roi"):
                points = [
                    (int(_text(e, "xCoord")), int(_text(e, "yCoord"))) for e in _children(roi, "edgeMap")
                ]
                if len(points) >= POINTS:
                    adds = _text(roi, "inclusion").upper() != "FALSE"
                    outlines.append((float(_text(roi, "imageZposition")), np.array(points), adds))
            if outlines:
                found.append(Mark(reader, tuple(outlines)))
    return found


@lru_cache(maxsize=8)
def nodules(path: Path, spacing: float) -> list[list[Mark]]:
    """Marks grouped into nodules of at least `READERS` readers, from the head down, then by x.

    :param spacing: of pixels, in mm: marks that come nearer to each other than this are one nodule.
    """
    groups: list[list[Mark]] = []
    for mark in marks(path):
        touching = [g for g in groups if any(_touch(mark, other, spacing) for other in g)]
        joined = [mark, *(m for g in touching for m in g)]
        groups = [g for g in groups if not any(g is t for t in touching)] + [joined]
    groups = [g for g in groups if len({m.reader for m in g}) >= READERS]
    return sorted(
        groups, key=lambda g: (-np.mean([z for m in g for z, _, _ in m.outlines]), g[0].outlines[0][1][0, 0])
    )


def _touch(a: Mark, b: Mark, spacing: float) -> bool:
    """Whether two marks share a pixel of their filled outlines."""
    return any(
        abs(za - zb) < spacing and bool(_pixels(pa) & _pixels(pb))
        for za, pa, _ in a.outlines
        for zb, pb, _ in b.outlines
    )


def _pixels(points: np.ndarray) -> set[tuple[int, int]]:
    """Pixels (y, x) inside an outline, without its own."""
    from skimage.draw import polygon

    inside = set(zip(*(v.tolist() for v in polygon(points[:, 1], points[:, 0]))))
    return inside - {(int(y), int(x)) for x, y in points}


def mask_of(mark: Mark, volume: Volume) -> np.ndarray:
    """(K, J, I) bool of one mark."""
    mask = np.zeros(volume.array.shape, bool)
    for z, points, adds in sorted(mark.outlines, key=lambda o: not o[2]):  # what is cut out comes last
        k = int(np.rint(volume.indices((*volume.origin[:2], z))[2]))
        pixels = [(y, x) for y, x in _pixels(points) if 0 <= y < mask.shape[1] and 0 <= x < mask.shape[2]]
        if 0 <= k < len(mask) and pixels:
            rows, columns = np.array(pixels).T
            mask[k, rows, columns] = adds
    return mask


def consensus(group: list[Mark], volume: Volume) -> np.ndarray:
    """(K, J, I) bool: voxels that at least half of the nodule's readers took in."""
    readers: dict[int, np.ndarray] = {}
    for mark in group:
        mask = mask_of(mark, volume)
        readers[mark.reader] = readers.get(mark.reader, False) | mask
    return sum(mask.astype(np.uint8) for mask in readers.values()) >= CONSENSUS * len(readers)


@lru_cache(maxsize=1)
def _scan(folder: Path) -> Volume:
    """The nodules of a scan come one after the other."""
    return read_image(folder)


def read_nodule(number: int, case: Case) -> tuple[Volume, np.ndarray]:
    """A scan, and the labelmap of one of its nodules; the others are lesions."""
    volume = _scan(case.image)
    labels = np.zeros(volume.array.shape, np.uint8)
    groups = nodules(case.mask, float(volume.spacing[0]))
    for k, group in enumerate(groups):
        if k != number:
            labels[consensus(group, volume)] = OTHER
    labels[consensus(groups[number], volume)] = REGION
    if not (labels == REGION).any():
        raise InputError(f"{case.mask}: nodule {number + 1} has no voxel; its outlines lie outside the scan")
    return volume, labels

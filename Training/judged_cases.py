"""Whom edits are judged on, and where: the reserved patients, and healthy places as large as real tumours.

A place is a case with a hole: a real tumour's mask, of any case of the data set, laid where no tumour is: inside the lung for a
model of the lung, and for one of any organ where most of the tumours lie in lung; else inside the body. It is the hole of
*hidden* edits, where the truth is known, and what others are compared with. The same case and seed give the same place, whatever
engine is judged.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from layouts import Case, cases
from scipy import ndimage, signal

from TumorSynthLib.edit.choose import shows_lung
from TumorSynthLib.errors import InputError
from TumorSynthLib.models.bundle import SEQUENCES
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.volume import Volume

LIST = Path(__file__).with_name("judged_patients.json")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class PlaceConfig:
    """What counts as a healthy place."""

    scales: tuple[float, ...] = (
        1.0,
        0.8,
        0.65,
        0.5,
        0.4,
        0.3,
    )  # of a tumour's lengths; the largest that fits is used
    shapes: int = 6  # tumours tried at each scale
    fewest_voxels: int = 60
    body_hu: float = -300.0
    lung_hu: tuple[float, float] = (-980.0, -500.0)  # of the smoothed image
    mr_share: float = 0.1  # of the 99th percentile: below is air
    smooth_mm: float = 2.0
    strangers: float = 0.03  # share of a hole that may be another tissue: vessels in lung, air in soft tissue
    from_tumour_mm: float = 5.0
    from_border: tuple[int, int, int] = (1, 4, 4)  # voxels (z, y, x) of known tissue at each side


PLACES = PlaceConfig()


@dataclass(eq=False)
class Place:
    """One case and a healthy place in it.

    :param mask: (K, J, I) bool, the tumour; `hole` the healthy place, None where none fits.
    :param scale: of the hole's lengths against those of the tumour whose mask it is.
    """

    case: Case
    volume: Volume
    mask: np.ndarray
    lung: bool
    hole: np.ndarray | None = None
    scale: float = 1.0

    @property
    def key(self) -> str:
        return f"{self.case.id} {self.case.modality}"

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) mm."""
        return self.volume.spacing[::-1]

    @property
    def ct(self) -> bool:
        return Intensity.of(None, self.case.modality).is_ct


def reserved(path: Path = LIST) -> set[str]:
    """Patients that judge and that nothing is chosen on."""
    return {name for part in json.loads(path.read_text())["patients"].values() for name in part}


def in_turn(names) -> list[str]:
    """Patients in the order in which they were, and are, drawn: by the hash of the name."""
    return sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())


def judged(folder: Path, modalities, patients: int | None = None, choosing: bool = False) -> list[Case]:
    """Cases to judge: of the reserved patients where the folder (or its `train` and `val`) has any of them, else of its `val`,
    else of all.

    :param modalities: those wanted, as the model calls them; `patients` bounds their number. One case a patient and modality:
        the first.
    :param choosing: those of the patients that aren't reserved instead.
    :raises InputError: there is none.
    """
    folders = [folder / s for s in SPLITS if (folder / s).is_dir()] or [folder]
    found = {
        f: [replace(c, modality=m) for c in cases("sts", f) if (m := _called(c.modality, modalities))]
        for f in folders
    }
    known = reserved()
    kept = [c for part in found.values() for c in part if (c.patient in known) != choosing]
    kept = kept or ([] if choosing else found[folders[-1]])
    if not kept:
        raise InputError(
            f"{folder} has no images of {' or '.join(modalities)}: give the folder that holds "
            "<ID>_<MODALITY>_image.nii.gz beside <ID>_<MODALITY>_mask.nii.gz, or its train and val"
        )
    names = in_turn({c.patient for c in kept})[:patients]
    first: dict[tuple[str, str], Case] = {}
    for case in sorted(kept, key=lambda c: c.id):
        first.setdefault((case.patient, case.modality), case)
    return [first[n, m] for n in names for m in modalities if (n, m) in first]


def _called(name: str, modalities) -> str | None:
    """What a model calls a case's modality; None where it doesn't have it."""
    if name in modalities:
        return name
    return "MR" if "MR" in modalities and name.upper().startswith(SEQUENCES) else None


def load(
    found: list[Case], lung: bool | None, seed: int = 0, largest: float = 1.0, holes: bool = True
) -> list[Place]:
    """The cases in memory, each with its healthy place.

    :param lung: whether these are tumours of the lung; None looks at what most of them lie in.
    :param largest: scale at which holes are tried first.
    :param holes: look for healthy places, which takes long in large images.
    """
    places = []
    for case in found:
        volume, labels = case.load()
        places.append(Place(case, volume, labels > 0, bool(lung)))
    if lung is None:
        within = [shows_lung(p.volume, p.mask, p.case.modality, None) for p in places]
        places = [replace(p, lung=2 * sum(within) > len(within)) for p in places]
    shapes = [(p.mask[ndimage.find_objects(p.mask.astype(np.uint8))[0]], p.spacing) for p in places]
    for place in places if holes else ():
        rng = np.random.default_rng([seed, *place.key.encode()])
        place.hole, place.scale = healthy_place(place, shapes, rng, largest)
    return places


def allowed(place: Place, config: PlaceConfig = PLACES) -> np.ndarray:
    """(K, J, I) bool: healthy tissue of the body, or of the lung, away from tumour and border."""
    image = place.volume.array.astype(np.float32)
    smooth = ndimage.gaussian_filter(image, [config.smooth_mm / s for s in place.spacing])
    if place.lung:
        inside = (smooth > config.lung_hu[0]) & (smooth < config.lung_hu[1])
    elif place.ct:
        inside = smooth > config.body_hu
    else:
        inside = smooth > config.mr_share * np.percentile(image, 99)
    inside &= ndimage.distance_transform_edt(~place.mask, place.spacing) > config.from_tumour_mm
    known = np.zeros_like(inside)
    known[tuple(slice(b, n - b) for b, n in zip(config.from_border, inside.shape))] = True
    return inside & known


def healthy_place(place: Place, shapes, rng, largest: float = 1.0, config: PlaceConfig = PLACES):
    """The hole (K, J, I) of a real tumour's mask at a healthy place, and its scale; None and 0 where none fits.

    :param shapes: [(mask, (z, y, x) mm)].
    """
    free = allowed(place, config)
    for scale in (s for s in config.scales if s <= largest):
        for i in rng.permutation(len(shapes))[: config.shapes]:
            mask, spacing = shapes[i]
            shape = ndimage.zoom(
                mask.astype(np.float32), [scale * a / b for a, b in zip(spacing, place.spacing)], order=1
            )
            hole = laid(shape > 0.5, free, rng, config)
            if hole is not None:
                return hole, scale
    return None, 0.0


def laid(shape: np.ndarray, free: np.ndarray, rng, config: PlaceConfig = PLACES) -> np.ndarray | None:
    """A mask as large as `free` with `shape` at a random one of all places where it is free; None where there is none."""
    if shape.sum() < config.fewest_voxels or any(a > b for a, b in zip(shape.shape, free.shape)):
        return None
    if shape.sum() > free.sum() / (1 - config.strangers):
        return None
    taken = signal.fftconvolve(
        (~free).astype(np.float32), shape[::-1, ::-1, ::-1].astype(np.float32), "valid"
    )
    corners = np.argwhere(taken <= config.strangers * shape.sum() + 0.5)
    if not len(corners):
        return None
    corner = corners[rng.integers(len(corners))]
    hole = np.zeros(free.shape, bool)
    hole[tuple(slice(c, c + n) for c, n in zip(corner, shape.shape))] = shape
    return hole


def extent_mm(mask: np.ndarray, spacing) -> float:
    """Largest side of a mask's box in mm."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return float(max((s.stop - s.start) * mm for s, mm in zip(box, spacing)))

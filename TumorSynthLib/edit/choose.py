"""Which installed model suits a tumour: by what is known of the organ, by modality, voxel size and tumour size. No torch here.

A model is chosen only where something speaks for its organ: a word in the names, the terminology or the DICOM body part, or, for
lung, the air around the tumour. Without that, no model is better than one of another organ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from TumorSynthLib import suitability
from TumorSynthLib.errors import TumorSynthError
from TumorSynthLib.resampling import bounding_box

#: Parts of words by which an organ is recognised, in lower case; English, Latin and the DICOM terms of Body Part Examined.
ORGAN_WORDS: Mapping[str, tuple[str, ...]] = {
    "lung": ("lung", "pulmo", "bronch", "nodule"),
    "soft tissue": ("sarcoma", "soft tissue", "soft-tissue", "muscle", "thigh", "extremity", "lipoma", "femur", "calf"),
    "brain": ("brain", "head", "glio", "cerebr", "cereb", "mening", "skull", "intracranial"),
    "liver": ("liver", "hepat", "hcc"),
    "kidney": ("kidney", "renal", "nephro"),
    "breast": ("breast", "mamma"),
    "prostate": ("prostat",),
    "pancreas": ("pancrea",),
    "colon": ("colon", "rectum", "rectal", "bowel"),
}  # fmt: skip
RING_MM = (3.0, 12.0)  # distance from a tumour at which its surroundings are looked at
LUNG_HU = -500.0  # the median around a nodule in lung is far below it, anywhere else far above
SIZE_LEVELS = (5, 95)  # percentiles of a model's tumours within which a size is usual


@dataclass(frozen=True)
class Choice:
    """The model for a tumour.

    :param model_id: empty where none suits. :param reason: one sentence on why this one, or why none.
    """

    model_id: str
    reason: str


def organs_in(texts: Iterable[str]) -> frozenset[str]:
    """The organs that some texts speak of."""
    whole = " ".join(texts).lower()
    return frozenset(organ for organ, words in ORGAN_WORDS.items() if any(word in whole for word in words))


def choose(bundles: Iterable, volume, mask: np.ndarray | None = None, texts: Iterable[str] = ()) -> Choice:
    """The model that suits a tumour best.

    :param bundles: the installed ones. :param volume: the engine's `Volume`. :param mask: (K, J, I) bool of the tumour.
    :param texts: what is said of the image and the tumour: names, terminology, body part.
    """
    organs = organs_in([*texts, volume.metadata.get("0018|0015", "")])
    if not organs and mask is not None and _in_lung(volume, mask):
        organs = frozenset(("lung",))
    if not organs:
        return Choice("", "nothing says which organ this is: choose a model if one is meant for it")
    found: list = []
    others: list = []
    for bundle in bundles:
        known = organs_in([str(bundle.json.get("organ") or ""), str(bundle.json.get("title") or "")])
        misfit = _misfit(bundle, volume, mask) if known & organs else None
        (others if misfit is None else found).append((misfit, bundle.id))
    named = " and ".join(sorted(organs))
    if not found:
        return Choice("", f"no installed model is made for {named} in an image like this")
    best = min(found)[1]
    return Choice(best, f"chosen for {named}")


def _in_lung(volume, mask: np.ndarray) -> bool:
    """Whether a CT has lung around a mask (K, J, I)."""
    from scipy import ndimage

    spacing = np.asarray(volume.spacing[::-1])
    room = np.ceil(RING_MM[1] / spacing).astype(int)
    box = tuple(
        slice(max(0, s.start - r), min(n, s.stop + r))
        for s, r, n in zip(bounding_box(mask), room, mask.shape)
    )
    distance = ndimage.distance_transform_edt(~mask[box], spacing)
    ring = volume.array[box][(distance > RING_MM[0]) & (distance <= RING_MM[1])]
    return bool(ring.size) and LUNG_HU >= float(np.median(ring)) >= -1100.0


def _misfit(bundle, volume, mask: np.ndarray | None) -> float | None:
    """How badly an image suits a model, in doublings of the spacing and of the tumour's volume; None where it can't be used."""
    try:
        modality = suitability.modality_of(bundle, None, volume)[0]
        if mask is not None:
            suitability.check_fit(volume, mask, bundle)
    except TumorSynthError:
        return None
    misfit = float(
        np.mean([abs(math.log2(a / b)) for a, b in zip(sorted(volume.spacing), sorted(bundle.spacing))])
    )
    sizes = _sizes(bundle, modality)
    if mask is None or sizes is None:
        return misfit
    size = np.count_nonzero(mask[bounding_box(mask)]) * float(np.prod(volume.spacing))
    low, high = np.percentile(sizes, SIZE_LEVELS)
    return misfit + max(0.0, math.log2(low / size), math.log2(size / high))


def _sizes(bundle, modality: str) -> np.ndarray | None:
    """(n,) volumes in mm³ of a model's tumours; None where it has several regions, or knows none."""
    if len(bundle.regions) > 1 or not (bundle.json.get("population") or {}).get(modality):
        return None
    population, name = bundle.population(modality), "original_shape_MeshVolume"
    return population.values[:, population.names.index(name)] if name in population.names else None

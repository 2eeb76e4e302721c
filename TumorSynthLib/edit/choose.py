"""Which installed model suits a tumour: by what is known of the organ, by modality, voxel size and tumour size. No torch here.

A model is chosen where something speaks for its organ: the air around a tumour in a CT's lung, or a word in the names, the
terminology or the DICOM body part. Else the model for any organ is taken, which has no network: none is better than one of
another organ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from TumorSynthLib import suitability
from TumorSynthLib.errors import TumorSynthError
from TumorSynthLib.models import ANY
from TumorSynthLib.resampling import bounding_box

#: Beginnings of words by which an organ is recognised, in lower case; English, Latin and the DICOM terms of Body Part Examined.
ORGAN_WORDS: Mapping[str, tuple[str, ...]] = {
    "lung": ("lung", "pulmo", "bronch"),
    "soft tissue": ("sarcoma", "soft tissue", "soft-tissue", "muscle", "thigh", "extremity", "lipoma", "femur", "calf"),
    "brain": ("brain", "head", "glio", "cerebr", "cereb", "mening", "skull", "intracranial"),
    "liver": ("liver", "hepat", "hcc"),
    "kidney": ("kidney", "renal", "nephro"),
    "breast": ("breast", "mamma"),
    "prostate": ("prostat",),
    "pancreas": ("pancrea",),
    "colon": ("colon", "rectum", "rectal", "bowel"),
    "bladder": ("bladder",),
    "thyroid": ("thyroid",),
    "bone": ("bone", "osteo", "vertebr", "spine"),
    "lymph node": ("lymph",),
    "adrenal": ("adrenal",),
    "spleen": ("spleen", "splen"),
    "stomach": ("stomach", "gastr"),
    "oesophagus": ("oesophag", "esophag"),
    "uterus": ("uterus", "uterine", "cervix", "cervical"),
    "ovary": ("ovary", "ovarian"),
}  # fmt: skip
RING_MM = (3.0, 12.0)  # distance from a tumour at which its surroundings are looked at
LUNG_HU = -500.0  # the median around a nodule in lung is far below it, anywhere else far above
AERATED = (-950.0, -650.0)  # HU of lung; outer air is thinner
CHEST = 0.12  # share of an image that is aerated, from which it shows the chest
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
    return frozenset(
        organ
        for organ, words in ORGAN_WORDS.items()
        if any(re.search(rf"(?<![a-z]){word}", whole) for word in words)
    )


def suited(
    volume, mask: np.ndarray | None = None, texts: Iterable[str] = (), modality: str | None = None,
    at: Sequence[float] | str | None = None, whole=None, inside: np.ndarray | None = None,
    avoid: np.ndarray | None = None,
) -> Choice:  # fmt: skip
    """`choose` among the models of this machine that aren't damaged."""
    from TumorSynthLib.models import find, installed

    return choose(
        [find(one.id) for one in installed() if not one.error],
        volume, mask, texts, modality, at, whole, inside, avoid,
    )  # fmt: skip


def choose(
    bundles: Iterable, volume, mask: np.ndarray | None = None, texts: Iterable[str] = (), modality: str | None = None,
    at: Sequence[float] | str | None = None, whole=None, inside: np.ndarray | None = None,
    avoid: np.ndarray | None = None,
) -> Choice:  # fmt: skip
    """The model that suits a tumour best.

    :param bundles: the installed ones. :param volume: the engine's `Volume`. :param mask: (K, J, I) bool of the tumour.
    :param texts: what is said of the image and the tumour: names, terminology, body part.
    :param modality: as the user says; None asks header and intensities.
    :param at: where a new tumour is to come, (x, y, z) LPS mm, or "auto".
    :param whole: the image, where `volume` is a part of it.
    :param inside: (K, J, I) bool, the organ of a new tumour whose place is to be found; `avoid`: other tumours.
    """
    bundles = list(bundles)
    organs = organs_in([*texts, volume.metadata.get("0018|0015", "")])
    if shows_lung(volume, mask, modality, at, inside, avoid):
        organs = frozenset(("lung",))
    named = " and ".join(sorted(organs))
    found: list[tuple[float, str]] = []
    for bundle in bundles if organs else ():
        known = organs_in([str(bundle.json.get("organ") or ""), str(bundle.json.get("title") or "")])
        misfit = _misfit(bundle, volume, mask, modality) if organs <= known else None
        if misfit is not None:
            found.append((misfit, bundle.id))
    if found:
        return Choice(min(found)[1], f"chosen for {named}")
    why = (
        f"no installed model is made for {named} in an image like this"
        if organs
        else "nothing says which organ this is"
    )
    general, fault = _general(bundles, volume if whole is None else whole, modality)
    if general:
        return Choice(general, f"{why}, so that the one for any organ is taken, which has no network")
    return Choice("", f"{why}{fault}")


def _general(bundles: Iterable, volume, modality: str | None) -> tuple[str, str]:
    """The model for any organ in an image of this modality, or why there is none."""
    try:
        kind = suitability.modality_without_model(volume, modality)[0]
    except TumorSynthError as error:
        return "", f", nor of which modality: {error}"
    for bundle in bundles:
        if bundle.organ == ANY and _misfit(bundle, volume, None, kind) is not None:
            return bundle.id, ""
    return "", f", and there is none for any organ in {kind}"


def shows_lung(
    volume, mask: np.ndarray | None, modality: str | None, at, inside: np.ndarray | None = None,
    avoid: np.ndarray | None = None,
) -> bool:  # fmt: skip
    """Whether a tumour, or the place of a new one, lies in a CT's lung.

    Where that is to be found yet, its organ tells, else the tumours that it is to avoid, else the image.
    """
    if (modality or volume.modality or "CT").upper() != "CT":
        return False
    if mask is None and isinstance(at, str):
        if inside is not None and inside.any():
            return bool(np.median(volume.array[inside]) < LUNG_HU)
        if avoid is not None and avoid.any():
            return _in_lung(volume, avoid)
        values, (low, high) = suitability.looked_at(volume), AERATED
        return bool(((values > low) & (values < high)).mean() > CHEST)
    if mask is None and at is not None:
        index = np.rint(volume.indices(np.asarray(at, float))[::-1]).astype(int)
        if (index < 0).any() or (index >= volume.array.shape).any():
            return False
        mask = np.zeros(volume.array.shape, bool)
        mask[tuple(index)] = True
    return mask is not None and bool(mask.any()) and _in_lung(volume, mask)


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


def _misfit(bundle, volume, mask: np.ndarray | None, wanted: str | None = None) -> float | None:
    """How badly an image suits a model, in doublings of the spacing and of the tumour's volume; None where it can't be used."""
    try:
        modality = suitability.modality_of(bundle, wanted, volume)[0]
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

"""What stays as it is while one region of a tumour, or one of several tumours, is edited: the other labels or segments."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from TumorSynthLib.edit.choose import AERATED, organs_in
from TumorSynthLib.edit.options import OPTIONS
from TumorSynthLib.errors import ImageWarning
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.volume import Volume
from TumorSynthLib.volume.masks import Part, chosen_part, listed, parts_of, written

BESIDE, LARGER, ORGAN_ML = 0.1, 5.0, 500.0
"""A structure without a telling name is the organ that a tumour lies in where it takes the first share of what is next to the
tumour, so many times its voxels, and so many ml: rims and oedema are smaller than that."""
TUMOUR = re.compile(
    r"tumou?r|lesion|nodule|metast|cancer|neoplas|oma\b|hcc|gtv|\bcore|\brim|necro|cyst|o?edema|enhanc|mass\b",
    re.I,
)
"""Words for tumours and regions of them: not in the name of an organ."""
KEPT = (
    "{what}, next to the tumour, is left as it is; if it is the tumour's organ, --lend {file} --lend-label {number} lets it lend "
    "tissue and change",
    "{what}, next to the tumour, are left as they are; if one is the tumour's organ, --lend {file} --lend-label {number} lets it "
    "lend tissue and change",
)
ORGAN = (
    "{what}, around the tumour, is taken for its organ: it lends tissue and may change; --avoid {file} leaves it as it is",
    "{what}, around the tumour, are taken for its organ: they lend tissue and may change; --avoid {file} leaves them as they are",
)


def other_labels(
    path: str | os.PathLike,
    like: Volume,
    labels: Sequence[int | str],
    mask: np.ndarray,
    healthy: Sequence[np.ndarray] = (),
    avoid: np.ndarray | None = None,
) -> np.ndarray | None:
    """The voxels of a mask file that stay as they are while the chosen labels are edited; see `others_of`.

    An `ImageWarning` tells of those next to the tumour, and one of its organ.

    :param labels: those that were chosen; `mask` (K, J, I) bool: their voxels.
    :param healthy: see `others_of`; `avoid` (K, J, I) bool: nothing is told of it.
    :returns: (K, J, I) bool on the grid of `like`; None where there are none.
    """
    found, file = parts_of(Path(path), like), Path(path).name
    chosen = [chosen_part(found, label, str(path)) for label in labels]
    others = [part for part in found if not any(part is one for one in chosen)]
    ml = float(np.prod(like.spacing)) / 1000
    kept, near, organs = others_of(others, mask, ml, healthy, like.array)
    if avoid is not None:
        near, organs = ([p for p in ps if (p.voxels() & ~avoid & ~mask).any()] for ps in (near, organs))
    for parts, texts in ((near, KEPT), (organs, ORGAN)):
        if parts:
            several = len(parts) > 1
            what = f"label{'s' if several else ''} {listed(parts)} of {file}"
            text = texts[several].format(what=what, file=file, number=written(parts[0].number))
            warnings.warn(text, ImageWarning, stacklevel=2)
    return kept if kept.any() else None


def keeping_others(edit: str, request, path: str, volume, labels: Sequence[int | str | None], mask):
    """The request that leaves the other labels of the mask's file as they are, as if they were given by --avoid.

    :param labels: those of `mask` (K, J, I) bool; None is the only one.
    """
    named = [label for label in labels if label is not None]
    if not named or edit not in OPTIONS["avoid"].edits:
        return request
    healthy = [one for one in (request.lend, request.inside) if one is not None]
    others = other_labels(path, volume, named, mask, healthy, request.avoid)
    if others is None:
        return request
    return replace(request, avoid=others if request.avoid is None else others | request.avoid)


def others_of(
    found: Sequence[Part],
    mask: np.ndarray,
    ml: float,
    healthy: Sequence[np.ndarray] = (),
    image: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Part], list[Part]]:
    """What stays as it is while a tumour is edited: structures beside it, in it or around it, but for its organ.

    The organ is said to be healthy, has an organ's name, is aerated lung, or far larger than a tumour and its oedema. What holds
    most of the tumour (an organ with its tumours, a margin for radiotherapy, another reader's contour) isn't kept either.

    :param found: structures on the image's grid; `mask` (K, J, I) bool: the tumour's voxels; `ml`: volume of one of them.
    :param healthy: (K, J, I) bool, tissue that lends or that the tumour has to stay in: what is most of it is an organ.
    :param image: (K, J, I), in which a CT's lung is seen.
    :returns: (K, J, I) bool, what is kept; of the structures in it those next to the tumour; those next to it that aren't kept.
    """
    from scipy import ndimage  # Slicer opens the module without it

    kept, size = np.zeros_like(mask), int(np.count_nonzero(mask))
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in bounding_box(mask))
    inside = mask[box]
    ring = ndimage.binary_dilation(inside, np.ones((3, 3, 3)), 2) & ~inside
    near, organs = [], []
    for part in found:
        voxels = part.voxels()
        beside = ring.any() and voxels[box][ring].mean() >= BESIDE
        said = any(2 * np.count_nonzero(voxels & one) > np.count_nonzero(one) for one in healthy)
        if (
            2 * np.count_nonzero(voxels[box] & inside) > size
            or said
            or (beside and _organ(part, voxels, size, ml, image))
        ):
            if beside and not said:
                organs.append(part)
            continue
        kept |= voxels
        if beside:
            near.append(part)
    kept &= ~mask
    return kept, near, organs


def _organ(part: Part, voxels: np.ndarray, size: int, ml: float, image: np.ndarray | None) -> bool:
    """Whether a structure next to a tumour of `size` voxels is an organ, by its name, or else by its air or its size."""
    if TUMOUR.search(part.name):
        return False
    count = part.size or int(np.count_nonzero(voxels))
    if image is not None and count > size and AERATED[0] < np.median(image[voxels]) < AERATED[1]:
        return True
    return bool(organs_in([part.name]) or (count > LARGER * size and count * ml >= ORGAN_ML))

"""Which tumour of a model's bank lends its tissue to an insertion: one that fits, by seed and by case."""

from __future__ import annotations

import zlib

import numpy as np

from TumorSynthLib import suitability
from TumorSynthLib.edit.bank import Bank, Lender, Wanted
from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.choose import shows_lung
from TumorSynthLib.edit.features import split
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import ANY
from TumorSynthLib.placement import BODY_SHARE
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box

TONE_MM = 8.0
"""Around the centre of a new tumour, whose tissue it has to differ from."""
COARSE = 4
"""Every so many-th voxel along each axis tells one image from another."""
TISSUE_HU, FINE = (-980.0, 150.0), 0.7
"""Lung and soft tissue of a CT; voxels in plane, Gaussian whose residual is noise, as in a bank (`matte.MatteConfig.fine`)."""
LEVELS = ("original_firstorder_Mean", "original_firstorder_90Percentile")
"""Features by which calcified and hardly visible tumours are told from usual ones."""


def lender_of(case: Case, request: EditRequest) -> Lender:
    """One of the tumours of the model's bank that fit a request and the image.

    :raises InputError: there is none of the image's modality.
    """
    bank = None if case.bundle is None else Bank.of_bundle(case.bundle)
    texture, shape = split(request.features)
    volume_ml = shape.get("original_shape_MeshVolume", shape.get("original_shape_VoxelVolume", 0.0)) / 1000
    population, spread = case.population, case.spread()
    usual = {}
    if population is not None and not texture:
        middle = dict(zip(population.names, np.median(np.asarray(population.values, float), 0)))
        usual = {n: float(middle[n]) for n in LEVELS if n in middle and n in spread}
    frame = Frame.of(case.volume.direction)
    wanted = Wanted(
        texture,
        spread,
        volume_ml or None,
        _meant_for_lung(case, request) if case.bundle is not None and case.bundle.organ == ANY else None,
        _tone(case, request),
        usual,
        float(frame.take(case.volume.spacing[::-1])[0]),
        _noise(frame.view(case.volume.array)) if case.ct else None,
        room_of(case, request),
    )
    found = bank and bank.fitting(case.modality, wanted, (request.seed, _digest(case, request)))
    if not found:
        raise InputError(
            "there is no tumour here whose tissue could be used: name a donor, or a model with a bank of tumours or a network"
        )
    return found


def room_of(case: Case, request: EditRequest) -> np.ndarray:
    """(z, y, x) mm, in LPS order, of the image, or of the organ that a tumour is to lie in."""
    frame = Frame.of(case.volume.direction)
    spacing = np.array(frame.take(case.volume.spacing[::-1]), float)
    if request.inside is None or not request.inside.any():
        return spacing * frame.take(case.volume.array.shape)
    return spacing * [s.stop - s.start for s in bounding_box(frame.view(request.inside))]


def _noise(image: np.ndarray) -> float | None:
    """Standard deviation of the noise of a CT (D, H, W), as `Lender.noise`; None where it shows no tissue."""
    from scipy import ndimage

    some = image[:: max(1, len(image) // 24)].astype(np.float32)
    rest = (some - ndimage.gaussian_filter(some, (0, FINE, FINE)))[
        (some > TISSUE_HU[0]) & (some < TISSUE_HU[1])
    ]
    return 0.6 * 1.4826 * float(np.median(np.abs(rest - np.median(rest)))) or None if rest.size else None


def _digest(case: Case, request: EditRequest) -> int:
    """A number of the image and of what is asked, so that the same seed takes other tumours in other cases."""
    seen = Frame.of(case.volume.direction).view(case.volume.array)[::COARSE, ::COARSE, ::COARSE]
    at = request.at if isinstance(request.at, str) else [round(float(v), 1) for v in request.at or ()]
    asked = repr((at, sorted((n, float(v)) for n, v in (request.features or {}).items())))
    return zlib.crc32(asked.encode(), zlib.crc32(np.ascontiguousarray(seen, dtype="<f4").tobytes()))


def _tone(case: Case, request: EditRequest) -> float | None:
    """The tissue's level where a new tumour comes, as a share of bright tissue's; None in CT, where levels are HU."""
    if case.ct:
        return None
    volume, values = case.volume, suitability.looked_at(case.volume)
    values = values[values > BODY_SHARE * np.percentile(values, 99)]
    values = values if request.inside is None else volume.array[request.inside]
    if request.at is not None and not isinstance(request.at, str):
        index = np.rint(volume.indices(np.asarray(request.at, float))[::-1]).astype(int)
        room = np.ceil(TONE_MM / np.array(volume.spacing[::-1])).astype(int)
        there = volume.array[tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(index, room))]
        values = there if there.size else values
    return float(np.median(values)) / suitability.level_of(volume)


def _meant_for_lung(case: Case, request: EditRequest) -> bool:
    """Whether a new tumour comes into a CT's lung."""
    return case.ct and shows_lung(case.volume, None, "CT", request.at, request.inside, request.avoid)

"""Whether an image fits a model, found out before any heavy work: modality, spacing, size, context.

What can't work is an InputError; what may work less well is a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box

AIR, FAT = -200.0, -20.0  # HU: a CT shows air or lung below the first almost always, and fat below the second
FEW_BELOW_FAT = 0.001  # share of voxels below it that a CT hardly goes without
MANY_BELOW_FAT = 0.01  # share that no other modality has: splines and filters leave single voxels
EVEN_BELOW_FAT = 0.004  # share from which CT is guessed where both could be
ALL_AIR = -500.0  # HU that no CT stays below: lung has vessels
RARE_AIR = 1e-4  # share of voxels below AIR that counts as none
OFFSET = 1024.0  # of CT values that are stored without their sign
SOFT_TISSUE, BETWEEN = (
    (-150.0, 200.0),
    (-674.0, -174.0),
)  # HU: dense tissue, and what lies between lung and fat
MIN_SOFT_TISSUE, MAX_BETWEEN = (
    0.05,
    0.3,
)  # share of the image that is dense, and of that, how much may lie between
COARSE, TOO_COARSE = 2.0, 8.0  # image spacing relative to the model's
MAX_VOXELS = 12_000_000  # of the working region; at 400 bytes a voxel about 5 GB
BYTES_PER_VOXEL = 400  # peak memory of the network per working voxel, measured at 1.5 million voxels
MIN_PART, MIN_PART_VOXELS = (
    0.05,
    8,
)  # share of the largest part, and voxels, from which a part is a tumour of its own
LOOKED_AT = 2_000_000  # voxels of a large image that are looked at to tell its modality


@dataclass(frozen=True)
class Judgement:
    """What an image's intensities say about one modality; all empty where nothing is unusual.

    :param impossible: no image of this modality has them, whatever anyone says.
    :param unlike: they look like another modality; believed if the user or the DICOM header says so.
    :param doubt: unusual, but possible.
    """

    impossible: str = ""
    unlike: str = ""
    doubt: str = ""

    @property
    def fits(self) -> bool:
        return not (self.impossible or self.unlike)


def modality_of(bundle, wanted: str | None, volume) -> tuple[str, list[str]]:
    """The model's modality that the image has, and warnings.

    Who says it is believed in this order: the user, the DICOM header, the intensities.

    :param wanted: as the user says; None asks header and intensities.
    :raises InputError: the intensities don't fit, or contradict the header; `ModelError` where the model doesn't know the
        modality.
    """
    values = looked_at(volume)
    if values.min() == values.max() and volume.array.min() == volume.array.max():
        modality = bundle.modality(wanted) if wanted or len(bundle.modalities) == 1 else bundle.modalities[0]
        raise InputError(
            f"the image doesn't look like {modality}: all voxels have the value {values.min():g}; give an image with contrast"
        )
    if wanted is not None:
        return _as_told(bundle, bundle.modality(wanted), values, volume)
    if volume.modality in ("CT", "MR", "PT"):
        return _as_header_says(bundle, values, volume)
    return _guessed(bundle, values, volume)


def _as_told(bundle, modality: str, values: np.ndarray, volume) -> tuple[str, list[str]]:
    """The modality that the user says, with what speaks against it as warnings."""
    found = judged(values, volume, Intensity.of(values, modality, bundle))
    if found.impossible:
        raise InputError(f"the image doesn't look like {modality}: {found.impossible}")
    warnings = (
        [f"the image doesn't look like {modality}, which is believed: {found.unlike}"] if found.unlike else []
    )
    header = volume.modality
    if header in ("CT", "MR", "PT") and not _is_kind(header, modality, bundle):
        warnings.append(
            f"the DICOM tag Modality says {header}, but {modality} is asked for, which is believed"
        )
    return modality, warnings + ([found.doubt] if found.doubt else [])


def _as_header_says(bundle, values: np.ndarray, volume) -> tuple[str, list[str]]:
    """The model's modality that the DICOM header says; intensities choose where the model has several of its kind."""
    header = volume.modality
    candidates = [m for m in bundle.modalities if _is_kind(header, m, bundle)]
    if not candidates:
        raise InputError(
            f"the DICOM tag Modality says {header}, but model {bundle.id!r} works on {', '.join(bundle.modalities)}: choose "
            "a model for it, or say --modality if the tag is wrong"
        )
    if len(candidates) > 1:
        return bundle.modality(None), []
    (modality,) = candidates
    found = judged(values, volume, Intensity.of(values, modality, bundle))
    if found.impossible or (found.unlike and header == "CT"):
        raise InputError(
            f"the DICOM tag Modality says {header}, but the image doesn't look like {modality}: "
            f"{found.impossible or found.unlike}"
        )
    text = f"the DICOM tag Modality says {header}, which is believed, but the image doesn't look like {modality}: {found.unlike}"
    return modality, [t for t in (text if found.unlike else "", found.doubt) if t]


def _guessed(bundle, values: np.ndarray, volume) -> tuple[str, list[str]]:
    """The only modality that the intensities agree with."""
    known = bundle.modalities
    intensities = {m: Intensity.of(values, m, bundle) for m in known}
    found = {m: judged(values, volume, intensities[m]) for m in known}
    if len(known) == 1 and not found[known[0]].fits:
        one = found[known[0]]
        raise InputError(f"the image doesn't look like {known[0]}: {one.impossible or one.unlike}")
    fitting = [m for m in known if found[m].fits]
    if not fitting:
        raise InputError(
            f"the image runs from {values.min():g} to {values.max():g} and looks like none of {', '.join(known)}, which "
            f"model {bundle.id!r} works on: check its intensities, or say --modality"
        )
    warnings = []
    if len(fitting) > 1:
        ct = float((values < FAT).mean()) >= EVEN_BELOW_FAT
        kind = [m for m in fitting if intensities[m].is_ct == ct]
        if len(kind) != 1:
            return bundle.modality(None), []
        warnings = [
            f"{kind[0]} was guessed from the intensities, which don't tell clearly: say --modality to be sure"
        ]
        fitting = kind
    doubt = found[fitting[0]].doubt
    return fitting[0], warnings + ([doubt] if doubt else [])


def _is_kind(header: str, modality: str, bundle) -> bool:
    """Whether a model's modality is of the kind that a DICOM header names: CT, MR or PT."""
    if Intensity.of(None, modality, bundle).is_ct:
        return header == "CT"
    pet = modality.upper() in ("PET", "PT", "SUV")
    return header == ("PT" if pet else "MR")


LEVEL = 95  # percentile of an image's tissue that grey levels without a unit are told by


def level_of(volume) -> float:
    """A bright tissue's grey level: what MR, which has no unit, can be compared by."""
    values = looked_at(volume)
    tissue = values[values > values.min()]
    return float(np.percentile(tissue, LEVEL)) if tissue.size else float(values.max())


def at_scale(bundle, volume, modality: str):
    """The model with its numbers in an image's grey levels: as it is, but for one whose numbers are relative to `level_of`.

    Steps are factors of two, so that an edit doesn't change them.
    """
    known = bundle.json["intensity"][modality].get("level") if bundle is not None else None
    level = level_of(volume) if known else 0.0
    if not known or level <= 0:
        return bundle
    return bundle.at_scale(modality, scale_of(level, known))


def scale_of(level: float, known: float) -> float:
    """How many times as large an image's grey levels are as a model's, by the levels of both: a power of two."""
    return 2.0 ** round(math.log2(level / known))


def modality_without_model(volume, wanted: str | None) -> tuple[str, list[str]]:
    """CT, MR or PT, or as the user says, and warnings; believed are the user, the DICOM header, the intensities, in this order.

    :raises InputError: the image has no contrast, or intensities that can't be what is said.
    """
    values = looked_at(volume)
    if values.min() == values.max() and volume.array.min() == volume.array.max():
        raise InputError(
            f"all voxels of the image have the value {values.min():g}: give an image with contrast"
        )
    header = volume.modality if volume.modality in ("CT", "MR", "PT") else None
    modality = wanted or header
    if modality is None:
        ct = judged(values, volume, Intensity(True)).fits and float((values < FAT).mean()) >= EVEN_BELOW_FAT
        modality = "CT" if ct else "MR"
    found = judged(values, volume, Intensity.of(values, modality))
    if found.impossible or (found.unlike and not wanted):
        raise InputError(
            f"the image doesn't look like {modality}: {found.impossible or found.unlike}; or say --modality"
        )
    return modality, [text for text in (found.unlike, found.doubt) if text]


def donor_doubt(donor, volume, modality: str, ct: bool, said: bool) -> str:
    """A warning of a donor whose intensities aren't of the modality that an image has; empty where they may be.

    :param said: whether the user says the modality, who is believed; else such a donor raises InputError.
    """
    theirs, own = (judged(looked_at(v), v, Intensity(ct)) for v in (donor, volume))
    if theirs.fits or not own.fits:
        return ""
    text = f"the donor doesn't look like {modality}, as the image does"
    why = (theirs.impossible or theirs.unlike).split(";")[0]
    if said:
        return f"{text}, which is believed: {why}"
    raise InputError(f"{text}: {why}; give a donor of the same modality, or say --modality if it is one")


def check_extent(mask: np.ndarray, least: int) -> None:
    """Raise InputError unless a mask (D, H, W) on the model's grid extends in so many directions: features need that."""
    extended = sum(s.stop - s.start > 1 for s in bounding_box(mask)) if mask.any() else 0
    if extended < least:
        raise InputError(
            f"at the model's voxel size the mask is only one voxel thick in {3 - extended} of 3 directions, but features need "
            f"more in {least} of them: draw a larger mask"
        )


def check_fit(volume, mask: np.ndarray, bundle) -> list[str]:
    """Warnings for a mask on an image, after the checks of spacing, context and size.

    :raises InputError: spacing too coarse, no surroundings, or a tumour larger than supported.
    """
    warnings = []
    ratios = _ratios(volume, bundle.spacing)
    if max(ratios) > TOO_COARSE:
        raise InputError(
            f"the image's spacing of {_mm(volume.spacing)} is too coarse for model {bundle.id!r}, which works at "
            f"{_mm(bundle.spacing)}: use thinner slices, or another model"
        )
    if max(ratios) > COARSE:
        warnings.append(
            f"the image's spacing of {_mm(volume.spacing)} is coarser than the model's {_mm(bundle.spacing)}: "
            "fine texture can't be shown"
        )
    touching = check_surroundings(mask)
    box = bounding_box(mask)
    warnings += parts_said(mask[box], volume.spacing)
    voxels = working_voxels(volume, box, bundle)
    if voxels > MAX_VOXELS:
        extent = " × ".join(f"{(s.stop - s.start) * d:.0f}" for s, d in zip(box[::-1], volume.spacing))
        raise InputError(
            f"the tumour is larger than supported: {extent} mm with its surroundings are {voxels / 1e6:.0f} million "
            f"voxels of the model's grid, and {MAX_VOXELS / 1e6:.0f} million are the limit; edit a part of it"
        )
    return warnings + touching


def check_surroundings(mask: np.ndarray, textured: bool = True) -> list[str]:
    """Warnings of a mask that touches the image's border.

    :param textured: it is to hold a texture; healthy tissue can take the place of a single voxel, too.
    :raises InputError: it leaves nothing around it, or is too small for a texture.
    """
    box = bounding_box(mask)
    part = mask[box]
    if all(s.stop - s.start == n for s, n in zip(box, mask.shape)) and part.all():
        raise InputError(
            "the mask covers the whole image: an edit needs tissue around the tumour; mask the tumour only"
        )
    if textured and np.count_nonzero(part) < 8:
        raise InputError(
            "the mask has fewer than 8 voxels: too few for a texture; check the label or draw a larger mask"
        )
    if any(s.start == 0 or s.stop == n for s, n in zip(box, mask.shape)):
        return ["the mask touches the border of the image: there are no surroundings to go by on that side"]
    return []


def parts_said(mask: np.ndarray, spacing) -> list[str]:
    """A warning where a mask (K, J, I) is of several tumours: separate parts that are no crumbs of the largest."""
    from scipy import ndimage  # Slicer opens the module without it

    labels, count = ndimage.label(mask[bounding_box(mask)] if mask.any() else mask, np.ones((3, 3, 3)))
    if count < 2:
        return []
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    large = sizes[sizes >= max(MIN_PART * sizes[0], MIN_PART_VOXELS)]
    if len(large) < 2:
        return []
    volumes = ", ".join(f"{n * float(np.prod(spacing)) / 1000:.2g}" for n in large[:5])
    return [
        f"the mask has {len(large)} separate parts ({volumes} ml{' …' if len(large) > 5 else ''}): they are measured and "
        "edited together, as one tumour; give a mask of one of them to change it alone"
    ]


def working_voxels(volume, box: tuple[slice, ...], bundle) -> int:
    """Voxels of the model's grid that an edit of this box takes, the surroundings included."""
    ratios = _ratios(volume, bundle.spacing)
    frame = Frame.of(volume.direction)
    margin = float(bundle.json["margin_mm"])
    total = 1.0
    for part, size, ratio, spacing in zip(
        frame.take(box), frame.take(volume.array.shape), ratios, bundle.spacing[::-1]
    ):
        total *= min((part.stop - part.start) * ratio + 2 * margin / spacing, size * ratio) + 4
    return int(total)


def estimate(volume, mask: np.ndarray, bundle, steps: int | None = None) -> dict[str, float]:
    """Seconds and bytes that an edit will take on a CPU, roughly: within a factor of two on a laptop."""
    return estimate_of(working_voxels(volume, bounding_box(mask), bundle), bundle, steps)


def estimate_of(voxels: float, bundle, steps: int | None = None) -> dict[str, float]:
    """As `estimate`, for so many voxels of the model's grid, the surroundings included."""
    steps = steps or len(bundle.json.get("sampler", {}).get("nodes", [])) or 6
    return {"seconds": 5.0 + 2e-6 * voxels * steps, "bytes": 4e8 + BYTES_PER_VOXEL * voxels, "voxels": voxels}


def _ratios(volume, spacing) -> list[float]:
    """Image spacing relative to the model's, per LPS array axis (z, y, x)."""
    native = Frame.of(volume.direction).take(volume.spacing[::-1])
    return [a / b for a, b in zip(native, spacing[::-1])]


def looked_at(volume) -> np.ndarray:
    """Evenly spaced voxels of an image."""
    array = volume.array
    step = max(1, int(np.ceil((array.size / LOOKED_AT) ** (1 / 3))))
    return array[::step, ::step, ::step]


def judged(values: np.ndarray, volume, intensity: Intensity) -> Judgement:
    """What the values say about a modality.

    :param values: evenly spaced voxels of the image. :param intensity: what those of the modality are.
    """
    return _judged_ct(values, volume) if intensity.is_ct else _judged_scale(values, intensity.limits[1])


def _judged_ct(values: np.ndarray, volume) -> Judgement:
    low, high = float(values.min()), float(values.max())
    if low > AIR:
        low = float(volume.array.min())  # air may be rare: look at every voxel before refusing
    found = f"its values run from {low:g} to {high:g}"
    if high < ALL_AIR or low < -33000 or high > 70000:
        return Judgement(impossible=f"{found}, which can't be HU; rescale the image")
    if low > FAT:
        return Judgement(
            unlike=f"{found}, but CT in HU has air at -1000 and fat at -100; rescale it to HU, or choose the modality it has"
        )
    if (values < FAT).mean() < FEW_BELOW_FAT:
        return Judgement(doubt=f"{found}, hardly any below {FAT:g}: check that it is CT in HU")
    if (values < AIR).mean() < RARE_AIR:
        return Judgement(doubt=f"{found}, without air: check that it is CT in HU")
    return Judgement()


def _judged_scale(values: np.ndarray, usual: float) -> Judgement:
    """:param usual: highest grey level that the model knows."""
    low, below = float(values.min()), float((values < FAT).mean())
    if below >= MANY_BELOW_FAT:
        return Judgement(
            unlike=f"its values go down to {low:g}, as in CT; choose the modality it has, or a model for CT"
        )
    doubts = []
    if low < FAT:
        doubts.append(f"its values go down to {low:g} in single voxels: check that it isn't CT")
    elif _is_offset_ct(values):
        doubts.append(
            f"its values look like CT stored {OFFSET:g} too high: check; if it is CT, subtract {OFFSET:g}, if not, say "
            "--modality"
        )
    if np.isfinite(usual):
        # Without the background, which may be most of the image.
        bright = float(np.percentile(values[values > values.min()], 99))
        text = f"its 99th percentile is {bright:.4g}, but the model knows grey levels up to {usual:.4g}"
        if bright < 0.01 * usual or bright > 20 * usual:
            return Judgement(impossible=f"{text}; rescale its intensities as the model's description says")
        if bright < 0.05 * usual or bright > 2 * usual:
            doubts.append(f"{text}: rescale it if the result looks wrong")
    return Judgement(doubt="; ".join(doubts))


def _is_offset_ct(values: np.ndarray) -> bool:
    """Whether values from 0 have CT's two peaks, dense tissue and air or lung, with little between them."""
    if (values < 0).mean() >= MANY_BELOW_FAT or not (values == np.rint(values)).all():
        return False
    dense, between = (
        float(((values > low + OFFSET) & (values < high + OFFSET)).mean())
        for low, high in (SOFT_TISSUE, BETWEEN)
    )
    return dense >= MIN_SOFT_TISSUE and between <= MAX_BETWEEN * dense


def _mm(spacing) -> str:
    return " × ".join(f"{s:.3g}" for s in spacing) + " mm"


LUNG_RING_MM, LUNG_RING_SHARE, LUNG_RING_HU, DENSER_HU = 8.0, 0.3, -500.0, 200.0
"""A mask lies in lung where this share of the voxels within so many mm of it is below -500 HU; a tumour is denser by 200 HU."""


STANDS_OUT_SD = 2.0
"""Robust standard deviations of what is around, by which a place differs from it where something is there already."""


def holds_tumour(volume, mask: np.ndarray, ct: bool) -> bool:
    """Whether a mask (K, J, I) holds a tumour, and not healthy lung; of other tissue that can't be told: it does."""
    if not ct:
        return True
    inside, ring = _inside_and_ring(volume, mask)
    return not _is_lung(ring) or _denser(inside, ring)


def stands_out(volume, mask: np.ndarray, ct: bool) -> bool:
    """Whether something is there already, where a new tumour is to come: darker or brighter than what is around the place."""
    inside, ring = _inside_and_ring(volume, mask)
    if not ring.size:
        return False
    if ct and _is_lung(ring):
        return _denser(inside, ring)
    middle = float(np.median(ring))
    unit = max(1.4826 * float(np.median(np.abs(ring - middle))), 1e-6)
    return abs(float(np.median(inside)) - middle) > STANDS_OUT_SD * unit


def _inside_and_ring(volume, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensities in a mask (K, J, I), and within some mm of it."""
    from scipy import ndimage

    spacing = volume.spacing[::-1]
    margin = [int(np.ceil(LUNG_RING_MM / s)) for s in spacing]
    box = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(bounding_box(mask), margin))
    inside, values = mask[box], volume.array[box]
    ring = (ndimage.distance_transform_edt(~inside, spacing) <= LUNG_RING_MM) & ~inside
    return values[inside].astype(np.float32), values[ring].astype(np.float32)


def _is_lung(ring: np.ndarray) -> bool:
    return bool(ring.size) and bool((ring < LUNG_RING_HU).mean() > LUNG_RING_SHARE)


def _denser(inside: np.ndarray, ring: np.ndarray) -> bool:
    return float(np.median(inside)) > float(np.median(ring[ring < LUNG_RING_HU])) + DENSER_HU

"""Whether an image fits a model, found out before any heavy work: modality, spacing, size, context.

What can't work is an InputError; what may work less well is a warning.
"""

from __future__ import annotations

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box

AIR, FAT = -200.0, -20.0  # HU: a CT shows air or lung below the first almost always, and fat below the second
COARSE, TOO_COARSE = 2.0, 8.0  # image spacing relative to the model's
MAX_VOXELS = 12_000_000  # of the working region; at 400 bytes a voxel about 5 GB
BYTES_PER_VOXEL = 400  # peak memory of the network per working voxel, measured at 1.5 million voxels
LOOKED_AT = 2_000_000  # voxels of a large image that are looked at to tell its modality


def modality_of(bundle, wanted: str | None, volume) -> tuple[str, list[str]]:
    """The model's modality that the image has, and warnings.

    :param wanted: as the user says; None takes the only one that the intensities agree with.
    :raises InputError: the intensities don't fit; `ModelError` where the model doesn't know the modality.
    """
    values = _look(volume.array)
    if wanted is not None or len(bundle.modalities) == 1:
        modality = bundle.modality(wanted)
        problem, warning = _judge(values, volume, modality, bundle.json["intensity"][modality])
        if problem:
            raise InputError(f"the image doesn't look like {modality}: {problem}")
        return modality, [warning] if warning else []
    fitting = [m for m in bundle.modalities if not _judge(values, volume, m, bundle.json["intensity"][m])[0]]
    if len(fitting) == 1:
        warning = _judge(values, volume, fitting[0], bundle.json["intensity"][fitting[0]])[1]
        return fitting[0], [warning] if warning else []
    if not fitting:
        known = ", ".join(bundle.modalities)
        raise InputError(
            f"the image runs from {values.min():g} to {values.max():g} and looks like none of {known}, which "
            f"model {bundle.id!r} works on: check its intensities, or say --modality"
        )
    return bundle.modality(None), []


def is_ct(modality: str, mapping: dict) -> bool:
    """True where intensities are Hounsfield units."""
    return modality.upper() == "CT" or str(mapping.get("unit", "")).upper() == "HU"


def check_extent(mask: np.ndarray, least: int) -> None:
    """Raise InputError unless a mask (D, H, W) on the model's grid extends in so many directions: features need that."""
    extended = sum(s.stop - s.start > 1 for s in bounding_box(mask)) if mask.any() else 0
    if extended < least:
        raise InputError(
            f"on the model's grid the mask extends in {extended} of 3 directions, but features need {least}: draw a larger mask"
        )


def check_fit(volume, mask: np.ndarray, bundle) -> list[str]:
    """Warnings for a mask on an image, after the checks of spacing, context and size.

    :raises InputError: spacing too coarse, no surroundings, or a tumour larger than supported.
    """
    warnings = []
    box = bounding_box(mask)
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
    part = mask[box]
    if all(s.stop - s.start == n for s, n in zip(box, mask.shape)) and part.all():
        raise InputError(
            "the mask covers the whole image: the model needs surroundings to continue; mask the tumour only"
        )
    if np.count_nonzero(part) < 8:
        raise InputError(
            "the mask has fewer than 8 voxels: too few for a texture; check the label or draw a larger mask"
        )
    voxels = working_voxels(volume, box, bundle)
    if voxels > MAX_VOXELS:
        extent = " × ".join(f"{(s.stop - s.start) * d:.0f}" for s, d in zip(box[::-1], volume.spacing))
        raise InputError(
            f"the tumour is larger than supported: {extent} mm with its surroundings are {voxels / 1e6:.0f} million "
            f"voxels of the model's grid, and {MAX_VOXELS / 1e6:.0f} million are the limit; edit a part of it"
        )
    # Only the slice axis: a tumour at the border in plane is as often cut by the crop's choice as by the scan.
    if any(s.start == 0 or s.stop == n for s, n in zip(box, mask.shape)):
        warnings.append(
            "the mask touches the border of the image: the model sees no surroundings on that side"
        )
    return warnings


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
    voxels = working_voxels(volume, bounding_box(mask), bundle)
    steps = steps or len(bundle.json.get("sampler", {}).get("nodes", [])) or 6
    return {"seconds": 5.0 + 2e-6 * voxels * steps, "bytes": 4e8 + BYTES_PER_VOXEL * voxels, "voxels": voxels}


def _ratios(volume, spacing) -> list[float]:
    """Image spacing relative to the model's, per LPS array axis (z, y, x)."""
    native = Frame.of(volume.direction).take(volume.spacing[::-1])
    return [a / b for a, b in zip(native, spacing[::-1])]


def _look(array: np.ndarray) -> np.ndarray:
    """Evenly spaced voxels of an image."""
    step = max(1, int(np.ceil((array.size / LOOKED_AT) ** (1 / 3))))
    return array[::step, ::step, ::step]


def _judge(values: np.ndarray, volume, modality: str, mapping: dict) -> tuple[str, str]:
    """Why the intensities can't be of this modality, and what is unusual about them; both empty where all is well."""
    low, high = float(values.min()), float(values.max())
    if is_ct(modality, mapping) and low > AIR:
        low = float(volume.array.min())  # air may be rare: look at every voxel before refusing
    if low == high:
        return f"all voxels have the value {low:g}; give an image with contrast", ""
    if is_ct(modality, mapping):
        return _judge_ct(low, high)
    return _judge_scale(values, low, mapping)


def _judge_ct(low: float, high: float) -> tuple[str, str]:
    found = f"its values run from {low:g} to {high:g}"
    if low > FAT:
        return (
            f"{found}, but CT in HU has air at -1000 and fat at -100; rescale it to HU, or choose the modality it has",
            "",
        )
    if high < AIR or low < -33000 or high > 70000:
        return f"{found}, which can't be HU; rescale the image", ""
    return "", f"{found}, without air: check that it is CT in HU" if low > AIR else ""


def _judge_scale(values: np.ndarray, low: float, mapping: dict) -> tuple[str, str]:
    if low < AIR:
        return f"its values go down to {low:g}, as in CT; choose the modality it has, or a model for CT", ""
    limits = mapping.get("range")
    if not limits:
        return "", ""
    # Without the background, which may be most of the image.
    bright, usual = float(np.percentile(values[values > values.min()], 99)), float(limits[1])
    unit = mapping.get("unit", "grey level")
    text = f"its 99th percentile is {bright:.4g} where the model knows up to {usual:.4g} {unit}"
    if bright < 0.01 * usual or bright > 20 * usual:
        return f"{text}; rescale its intensities as the model's description says", ""
    return (
        "",
        f"{text}: rescale it if the result looks wrong"
        if bright < 0.05 * usual or bright > 2 * usual
        else "",
    )


def _mm(spacing) -> str:
    return " × ".join(f"{s:.3g}" for s in spacing) + " mm"

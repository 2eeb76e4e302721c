"""Tumours of a model's bank as mattes, and mattes packed for a bank (see `edit.bank`)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from TumorSynthLib.edit.bank import Bank, Lender
from TumorSynthLib.texture.exemplar.matte import IN_PLANE, Matte, sigma_of
from TumorSynthLib.texture.exemplar.spatial import blur

LEVELS = 255
OWN_FROM = 0.6
"""Opacity from which a tumour's grain is its own (as in `matte.take_out`)."""


def matte_of(bank: Bank, lender: Lender) -> Matte:
    """A lender's matte, detached from what it lay on."""
    entry, parts = lender.entry, bank.arrays(lender)
    low, high = (float(v) for v in entry["range"])
    scale = (high - low) / LEVELS
    mask, opacity = parts["mask"] > 0, parts["opacity"].astype(np.float32) / LEVELS
    colour, voxels = (low + scale * parts[k].astype(np.float32) for k in ("colour", "voxels"))
    return _matte(mask, opacity, colour, voxels, entry)


def _matte(mask, opacity, colour, voxels, entry) -> Matte:
    spacing = tuple(float(s) for s in entry["spacing_mm"])
    tissue = mask & (opacity > 0.5)
    own = blur((opacity > OWN_FROM) & ndimage.binary_dilation(mask, IN_PLANE, 2), sigma_of(0.9, spacing))
    own = own * (opacity > 0)
    empty = np.zeros(mask.shape, np.float32)
    grain = np.where(opacity > 0.5, voxels - colour, 0.0).astype(np.float32)
    bound, noise = float(entry["grain_bound"]), float(entry["noise"])
    return Matte(
        mask,
        tissue,
        opacity,
        colour,
        grain,
        empty,
        own,
        empty,
        empty,
        spacing,
        bool(entry["in_lung"]),
        noise,
        bound,
    )


def packed(
    matte: Matte, name: str, facts: Mapping[str, object]
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Tensors and entry of a detached matte, cut to where it is.

    :param facts: case, modality, blur_mm, volume_ml and features of the tumour.
    """
    there = matte.opacity > 0.01
    box = ndimage.find_objects((there | matte.mask).astype(np.uint8))[0]
    opacity, mask = matte.opacity[box], matte.mask[box]
    voxels, colour = (matte.colour + matte.grain)[box], matte.colour[box]
    solid = opacity > 0.5
    low, high = float(voxels[solid].min()), float(voxels[solid].max())
    low, high = min(low, float(colour[solid].min())), max(high, float(colour[solid].max()))

    def bytes_of(values):
        return np.clip(np.rint((values - low) / (high - low) * LEVELS), 0, LEVELS).astype(np.uint8)

    arrays = {
        "mask": mask.astype(np.uint8),
        "opacity": np.rint(opacity * LEVELS).astype(np.uint8),
        "colour": bytes_of(np.where(there[box], colour, low)) // 2 * 2,
        "voxels": bytes_of(np.where(solid, voxels, low)),
    }
    entry = {
        **facts,
        "name": name,
        "shape": list(mask.shape),
        "spacing_mm": [round(s, 5) for s in matte.spacing],
        "range": [low, high],
        "in_lung": matte.in_lung,
        "noise": matte.noise,
        "grain_bound": matte.grain_bound,
    }
    tensors = {
        f"{name}.{k}": np.frombuffer(zlib.compress(v.tobytes(), 9), np.uint8) for k, v in arrays.items()
    }
    return tensors, entry

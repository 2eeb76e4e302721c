"""A bank of real tumours, small and 8 bit, that a model lends to insertions and to requests by numbers.

A bundle's manifest says of each tumour where it comes from and what its features are; one file holds their arrays, bytes packed
by zlib, which are unpacked to the size that the manifest states and no further.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from TumorSynthLib.errors import ModelError
from TumorSynthLib.texture.exemplar.matte import IN_PLANE, Matte, sigma_of
from TumorSynthLib.texture.exemplar.spatial import blur

FILE = "bank.safetensors"
KINDS = ("mask", "opacity", "colour", "voxels")
MAX_VOXELS = 4_000_000
"""Of one tumour's box; a bank's are a hundredth of it."""
LEVELS = 255
OWN_FROM = 0.6
"""Opacity from which a tumour's grain is its own (as in `matte.take_out`)."""


@dataclass(frozen=True)
class Lender:
    """A tumour of a bank.

    :param case: of the training data; `modality`: the model's; `blur_mm`: sharpness of its scan (`scan.blur_mm`).
    :param volume_ml: of its mask; `features`: full name to value, on the model's grid.
    :param entry: what the file says of its arrays.
    """

    case: str
    modality: str
    blur_mm: float
    volume_ml: float
    features: Mapping[str, float]
    entry: Mapping[str, object]


class Bank:
    """The tumours of a bank.

    :param entries: of the manifest, one a tumour; `load` gives the tensors by name.
    :raises ModelError: it is damaged.
    """

    def __init__(self, entries: Sequence[Mapping], load: Callable[[], Mapping[str, np.ndarray]]):
        try:
            self.lenders = tuple(_lender(entry) for entry in entries)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's bank of tumours is damaged ({error}): install the model again"
            ) from error
        self._load = load

    @classmethod
    def of_bundle(cls, bundle) -> Bank | None:
        """The bank of a `models.Bundle`; None where it has none."""
        entry = bundle.json.get("bank")
        if not entry:
            return None
        return cls(entry["tumours"], lru_cache(maxsize=1)(lambda: bundle.tensors(FILE, "numpy")))

    def of(self, modality: str) -> tuple[Lender, ...]:
        """The tumours of one modality."""
        return tuple(one for one in self.lenders if one.modality == modality)

    def nearest(
        self,
        modality: str,
        asked: Mapping[str, float],
        spread: Mapping[str, float],
        volume_ml: float | None,
        seed: int,
    ) -> Lender | None:
        """The tumour most like a request, one of them by seed where nothing is asked; None where there is none.

        Size counts by its logarithm: a factor of two is as far as a standard deviation.
        """
        there = self.of(modality)
        if not there:
            return None

        def far(one: Lender) -> float:
            off = [
                min(abs(one.features[n] - v) / max(spread.get(n, abs(v)), 1e-9), 3.0)
                for n, v in asked.items()
                if n in one.features
            ]
            texture = float(np.mean(off)) if off else 0.0
            size = 0.0 if volume_ml is None else abs(np.log2(one.volume_ml / volume_ml))
            return texture + size

        if not asked and volume_ml is None:
            return there[int(np.random.default_rng(seed).integers(len(there)))]
        return min(there, key=far)

    def matte(self, lender: Lender) -> Matte:
        """A lender's matte, detached from what it lay on."""
        entry, tensors, shape = lender.entry, self._load(), tuple(int(n) for n in lender.entry["shape"])
        parts = {kind: _unpacked(tensors[f"{entry['name']}.{kind}"], shape) for kind in KINDS}
        low, high = (float(v) for v in entry["range"])
        scale = (high - low) / LEVELS
        mask, opacity = parts["mask"] > 0, parts["opacity"].astype(np.float32) / LEVELS
        colour, voxels = (low + scale * parts[k].astype(np.float32) for k in ("colour", "voxels"))
        return _matte(mask, opacity, colour, voxels, entry)


def _lender(entry: Mapping) -> Lender:
    shape = [int(n) for n in entry["shape"]]
    if len(shape) != 3 or min(shape) < 1 or np.prod(shape) > MAX_VOXELS:
        raise ValueError(f"{entry['name']} has the size {shape}")
    features = {str(k): float(v) for k, v in entry["features"].items()}
    numbers = (float(entry[k]) for k in ("blur_mm", "volume_ml"))
    return Lender(str(entry["case"]), str(entry["modality"]), *numbers, features, entry)


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
        own,
        empty,
        empty,
        spacing,
        bool(entry["in_lung"]),
        noise,
        bound,
        0.0,
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


def _unpacked(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    size, packing = int(np.prod(shape)), zlib.decompressobj()
    plain = packing.decompress(data.tobytes(), size)
    if len(plain) != size or packing.unconsumed_tail:
        raise ModelError("a tumour of the bank has another size than it states: install the model again")
    return np.frombuffer(plain, np.uint8).reshape(shape)

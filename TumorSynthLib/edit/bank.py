"""A bank of real tumours, small and 8 bit, that a model lends to insertions and to requests by numbers.

A bundle's manifest says of each tumour where it comes from and what its features are; one file holds their arrays, bytes packed
by zlib, which are unpacked to the size that the manifest states and no further.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from TumorSynthLib.errors import ModelError

FILE = "bank.safetensors"
KINDS = ("mask", "opacity", "colour", "voxels")
SEEN, UNSEEN = 0.2, 4.0
"""Share of bright tissue's level by which a tumour differs from what is around, to be seen; and what less than that costs."""
MAX_VOXELS = 4_000_000
"""Of one tumour's box; a bank's are a hundredth of it."""


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
    entry: Mapping[str, Any]

    @property
    def level(self) -> float | None:
        """`suitability.level_of` of its scan, where grey levels have no unit; None where they are taken as they are."""
        return float(self.entry["level"]) if self.entry.get("level") else None

    @property
    def tone(self) -> float | None:
        """Its median intensity as a share of `level`; None where intensities are taken as they are."""
        return float(self.entry["tone"]) if self.entry.get("tone") is not None else None

    @property
    def in_lung(self) -> bool:
        return bool(self.entry.get("in_lung"))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) mm in LPS order."""
        return tuple(float(s) for s in self.entry["spacing_mm"])


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
        lung: bool | None = None,
        tone: float | None = None,
    ) -> Lender | None:
        """The tumour most like a request, one of them by seed where nothing is asked; None where there is none.

        Size counts by its logarithm: a factor of two is as far as a standard deviation.

        :param lung: it is to be one of the lung, or none of it, where there are such; None takes any.
        :param tone: of the tissue around its place, as `Lender.tone`: a tumour that is as bright would hardly be seen there.
        """
        there = self.of(modality)
        there = tuple(one for one in there if lung is None or one.in_lung == lung) or there
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
            alike = 0.0 if None in (tone, one.tone) else max(0.0, 1 - abs(one.tone - tone) / SEEN)
            return texture + size + UNSEEN * alike

        if not asked and volume_ml is None and tone is None:
            return there[int(np.random.default_rng(seed).integers(len(there)))]
        if not asked and volume_ml is None:  # any that will be seen
            there = tuple(one for one in there if far(one) < UNSEEN / 2) or there
            return there[int(np.random.default_rng(seed).integers(len(there)))]
        return min(there, key=far)

    def arrays(self, lender: Lender) -> dict[str, np.ndarray]:
        """A lender's arrays (D, H, W) uint8 by kind, in LPS order."""
        shape, tensors = tuple(int(n) for n in lender.entry["shape"]), self._load()
        return {kind: _unpacked(tensors[f"{lender.entry['name']}.{kind}"], shape) for kind in KINDS}

    def named(self, case: str, modality: str) -> Lender:
        """The lender of a record.

        :raises ModelError: the bank has no such tumour.
        """
        for one in self.of(modality):
            if one.case == case:
                return one
        raise ModelError(
            f"the model's bank has no tumour {case}: install the version of the model that the record names"
        )


def _lender(entry: Mapping) -> Lender:
    shape = [int(n) for n in entry["shape"]]
    if len(shape) != 3 or min(shape) < 1 or np.prod(shape) > MAX_VOXELS:
        raise ValueError(f"{entry['name']} has the size {shape}")
    features = {str(k): float(v) for k, v in entry["features"].items()}
    numbers = (float(entry[k]) for k in ("blur_mm", "volume_ml"))
    return Lender(str(entry["case"]), str(entry["modality"]), *numbers, features, entry)


def _unpacked(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    size, packing = int(np.prod(shape)), zlib.decompressobj()
    plain = packing.decompress(data.tobytes(), size)
    if len(plain) != size or packing.unconsumed_tail:
        raise ModelError("a tumour of the bank has another size than it states: install the model again")
    return np.frombuffer(plain, np.uint8).reshape(shape)

"""A bank of real tumours, small and 8 bit, that a model lends to insertions and to requests by numbers.

A bundle's manifest says of each tumour where it comes from and what its features are; one file holds their arrays, bytes packed
by zlib, which are unpacked to the size that the manifest states and no further.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from TumorSynthLib.errors import ModelError

FILE = "bank.safetensors"
KINDS = ("mask", "opacity", "colour", "voxels")
SEEN, UNSEEN = 0.2, 4.0
"""Share of bright tissue's level by which a tumour differs from what is around, to be seen; and what less than that costs."""
ALIKE, ALIKE_ASKED = 0.8, 0.3
"""Standard deviations up to which a tumour fits as well as the best one; the same where features of texture are asked."""
SAME_SIZE = 1.0
"""Logarithm (base 2) of the ratio of volumes up to which a tumour is as good as one of the asked size."""
USUAL_SD, UNUSUAL = 1.2, 2.0
"""Standard deviations from its population up to which a tumour is usual, and what each more costs where nothing is asked."""
THICKER, NOISIER, ROOM = 1.6, 1.5, 0.6
"""Times as thick as the image's slices, from which a tumour's show as steps; as noisy as it, from which its noise does; and share
of the image's or organ's extent up to which a tumour is left as large as it is."""
TURNS = {True: 16, False: 8}
"""Ways to lay a tumour of the lung, and others: there streaks run along the rows."""
MAX_VOXELS = 4_000_000
"""Of one tumour's box; a bank's are a hundredth of it."""


@dataclass(frozen=True)
class Lender:
    """A tumour of a bank.

    :param case: of the training data; `modality`: the model's; `blur_mm`: sharpness of its scan (`scan.blur_mm`).
    :param volume_ml: of its mask; `features`: full name to value, on the model's grid.
    :param entry: what the file says of its arrays.
    :param turn: how it is laid: 1, 2 and 4 mirror the slices' order, rows and columns, 8 swaps rows and columns.
    """

    case: str
    modality: str
    blur_mm: float
    volume_ml: float
    features: Mapping[str, float]
    entry: Mapping[str, Any]
    turn: int = 0

    @property
    def level(self) -> float | None:
        """`suitability.level_of` of its scan, where grey levels have no unit; None where they are taken as they are."""
        return float(self.entry["level"]) if self.entry.get("level") else None

    @property
    def tone(self) -> float | None:
        """Its median intensity as a share of `level`; None where intensities are taken as they are."""
        return float(self.entry["tone"]) if self.entry.get("tone") is not None else None

    @property
    def uneven(self) -> float:
        """Standard deviation of its intensity, as `tone`; 0 where nothing is known of it."""
        mean, variance = (self.features.get(f"original_firstorder_{n}", 0.0) for n in ("Mean", "Variance"))
        return abs(self.tone or 0.0) * float(np.sqrt(max(variance, 0.0))) / abs(mean) if mean else 0.0

    @property
    def noise(self) -> float:
        """`Matte.noise`: of its scan around it."""
        return max(float(self.entry["noise"]), 1e-3)

    @property
    def extent(self) -> np.ndarray:
        """(z, y, x) mm of its box in LPS order."""
        return np.array([int(n) for n in self.entry["shape"]]) * np.array(self.spacing)

    def fit(self, room: np.ndarray | None) -> float:
        """Factor of its lengths, 1 at most, by which it takes no more than `ROOM` of (z, y, x) mm."""
        return 1.0 if room is None else float(min(1.0, (ROOM * room / self.extent).min()))

    @property
    def in_lung(self) -> bool:
        return bool(self.entry.get("in_lung"))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) mm in LPS order."""
        return tuple(float(s) for s in self.entry["spacing_mm"])


@dataclass(frozen=True)
class Wanted:
    """What a tumour is to be like.

    :param features: asked of its texture, with their `spread`; `volume_ml` None for any size.
    :param lung: it is to be one of the lung, or none of it, where there are such; None takes any.
    :param tone: of the tissue around its place, as `Lender.tone`: a tumour that is as bright would hardly be seen there.
    :param usual: of the population, the middle of features that aren't asked.
    :param slice_mm, noise: of the image, see `Lender.noise`; None takes any.
    :param room: (z, y, x) mm that the image, or the organ, has.
    """

    features: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    volume_ml: float | None = None
    lung: bool | None = None
    tone: float | None = None
    usual: Mapping[str, float] = field(default_factory=dict)
    slice_mm: float | None = None
    noise: float | None = None
    room: np.ndarray | None = None

    def _off(self, one: Lender, asked: Mapping[str, float]) -> list[float]:
        """How far a tumour's features are off others, each in standard deviations."""
        both = {n: v for n, v in asked.items() if n in one.features}
        return [abs(one.features[n] - v) / max(self.spread.get(n, abs(v)), 1e-9) for n, v in both.items()]

    def far(self, one: Lender) -> float:
        """How far a tumour is from it, about in standard deviations."""
        off = [min(v, 3.0) for v in self._off(one, self.features)]
        texture = float(np.mean(off)) if off else 0.0
        size = 3 * np.log2(one.fit(self.room))
        if self.volume_ml:
            size = max(0.0, abs(np.log2(one.volume_ml / self.volume_ml)) - SAME_SIZE)
        odd = max([0.0, *(v - USUAL_SD for v in self._off(one, self.usual))])
        loud = 0.0 if self.noise is None else max(0.0, np.log2(one.noise / (NOISIER * self.noise)))
        return texture + abs(size) + UNSEEN * self._hidden(one) + UNUSUAL * odd + self._thick(one) + loud

    def _hidden(self, one: Lender) -> float:
        """How much a tumour looks like the tissue at its place, 0 to 1."""
        if self.tone is None or one.tone is None:
            return 0.0
        return max(0.0, 1 - (abs(one.tone - self.tone) + one.uneven) / SEEN)

    def _thick(self, one: Lender) -> float:
        """How much thicker its slices are, in factors of two; in MR, whose protocols go by organs, how different."""
        if self.slice_mm is None:
            return 0.0
        off = np.log2(one.spacing[0] / self.slice_mm)
        return float(max(0.0, off - np.log2(THICKER)) if one.tone is None else abs(off))


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

    def fitting(self, modality: str, wanted: Wanted, seed: int | Sequence[int]) -> Lender | None:
        """One of the tumours that fit a request nearly as well as the best, turned, by seed; None where there is none.

        Size counts by its logarithm: a factor of two is as far as a standard deviation.
        """
        there = self.of(modality)
        there = tuple(one for one in there if wanted.lung is None or one.in_lung == wanted.lung) or there
        if not there:
            return None
        far = np.array([wanted.far(one) for one in there])
        near = np.flatnonzero(far <= far.min() + (ALIKE_ASKED if wanted.features else ALIKE))
        chance = np.random.default_rng(seed)
        lender = there[int(near[chance.integers(len(near))])]
        return replace(lender, turn=int(chance.integers(TURNS[lender.in_lung])))

    def arrays(self, lender: Lender) -> dict[str, np.ndarray]:
        """A lender's arrays (D, H, W) uint8 by kind, in LPS order, turned."""
        shape, tensors = tuple(int(n) for n in lender.entry["shape"]), self._load()
        found = {kind: _unpacked(tensors[f"{lender.entry['name']}.{kind}"], shape) for kind in KINDS}
        return {kind: _turned(values, lender.turn) for kind, values in found.items()}


def _lender(entry: Mapping) -> Lender:
    shape = [int(n) for n in entry["shape"]]
    if len(shape) != 3 or min(shape) < 1 or np.prod(shape) > MAX_VOXELS:
        raise ValueError(f"{entry['name']} has the size {shape}")
    features = {str(k): float(v) for k, v in entry["features"].items()}
    numbers = (float(entry[k]) for k in ("blur_mm", "volume_ml"))
    return Lender(str(entry["case"]), str(entry["modality"]), *numbers, features, entry)


def _turned(values: np.ndarray, turn: int) -> np.ndarray:
    """An array (D, H, W) mirrored and turned, see `Lender.turn`."""
    values = values[tuple(slice(None, None, -1 if turn >> axis & 1 else 1) for axis in range(3))]
    return np.ascontiguousarray(values.swapaxes(1, 2) if turn >> 3 & 1 else values)


def _unpacked(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    size, packing = int(np.prod(shape)), zlib.decompressobj()
    plain = packing.decompress(data.tobytes(), size)
    if len(plain) != size or packing.unconsumed_tail:
        raise ModelError("a tumour of the bank has another size than it states: install the model again")
    return np.frombuffer(plain, np.uint8).reshape(shape)

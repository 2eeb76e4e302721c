"""Last touches of a solved tumour: voxels near the edge of a grey level cross it where that brings measured features nearer.

Zones, runs and pairs hang on which side of an edge a voxel lies, and a step's slope says nothing of it. So single voxels of the
image's own grid are moved just across, the gentlest moves first, and stay where the asked features, measured exactly, come
nearer together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from TumorSynthLib.region import Region, quantise
from TumorSynthLib.resampling import apply_separable, cast_like_itk
from TumorSynthLib.texture.objective import Objective, cost
from TumorSynthLib.texture.quantile import Discretisation
from TumorSynthLib.texture.quantile import measure as firstorder
from TumorSynthLib.texture.request import by_class

WORK, BESIDES = 5e6, 1500  # voxels measured; what a measurement costs beside its voxels, in voxels
TOGETHER, MORE, FEWER, MOST = (
    4.0,
    1.3,
    0.92,
    64.0,
)  # moves tried at once: at first, after one that helped, after another; at most
LARGEST = 10_000  # voxels above which too few can be tried to matter
ENOUGH = (
    1 / 6400
)  # of the number of asked features: error of each, in its scale squared, at which nothing is left to do …
FEW, CLOSE = 10, 0.01  # … and of fewer, which count in shares of what was asked
GENTLE, ROUGH = (
    1.0,
    4.0,
)  # grey levels' widths that a voxel of the image is moved by at most in all: at first, and in the end
STUCK = (
    0.9  # of the error: where a round of moves leaves more than this, those of the next may go twice as far
)
LEAST_WEIGHT = 0.1  # of a voxel of the image in one of the working grid, to be moved for its sake


class Touches:
    """What is measured of a tumour, and against what.

    :param mask: (D, H, W) bool on the working grid, where features are measured.
    :param request, scales: feature by pyradiomics' name -> value, and unit of error; others than first-order, GLCM, GLRLM and
        GLSZM don't count.
    :param region: where the image has another grid, the `Region`; None: the working grid is the image's.
    """

    def __init__(
        self, mask: np.ndarray, request: Mapping[str, float], scales: Mapping[str, float], settings, spacing,
        integer: bool, region: Region | None = None,
    ) -> None:  # fmt: skip
        self.mask, self.region, self.disc = (
            mask,
            region,
            Discretisation(float(settings.binWidth), settings.binCount, integer),
        )
        if len(request) < FEW:
            scales = {k: abs(v) or scales[k] for k, v in request.items()}
        asked, units = by_class(request), by_class(scales)
        self.objective = Objective(mask, spacing, asked, units, settings.symmetricalGLCM)
        self.asked, self.scales = asked.get("firstorder", {}), units.get("firstorder", {})
        count = sum(map(len, (*self.objective.asked.values(), self.asked)))
        self.enough = ENOUGH * count**2 if count >= FEW else CLOSE**2 * bool(count)
        self.shift, self.voxel_volume = settings.voxelArrayShift, float(np.prod(spacing))

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Working values (n,) as they are measured."""
        return (
            self.disc.stored(values)
            if self.region is None
            else cast_like_itk(values, self.region.volume.array.dtype)
        )

    @torch.inference_mode()
    def error(self, values: np.ndarray) -> float:
        """Sum over asked features of the `cost` of their error, for the values (n,) of the mask on the working grid."""
        values = self.stored(values)
        level, levels = self.disc.levels(values)
        total = self.objective.error(self.objective.measure(torch.from_numpy(level), levels))
        if self.asked:
            found = firstorder(values, self.disc, shift=self.shift, voxel_volume=self.voxel_volume)
            total += sum(cost((found[k] - v) / self.scales[k]) for k, v in self.asked.items() if k in found)
        return total

    def crossings(self, values: np.ndarray) -> np.ndarray:
        """How far each of the values (n,) is from the grey level above and below: (2, n), up and down."""
        stored = self.stored(values)
        low, width = self.disc.origin(stored)
        edge = low + width * np.floor((stored - low) / width)
        below = edge - values - (np.where(edge <= 0, 1.0, 1e-3) if self.disc.integer else 1e-3)
        return np.stack([edge + width - values, below])

    def finished(
        self, array: np.ndarray, native: np.ndarray | None, bounds: tuple[float, float], seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(array as measured, native box), float32, after last touches.

        :param array: (D, H, W) on the working grid.
        :param native: the box of the `Region`; None without one.
        :param bounds: lowest and highest value allowed.
        """
        if self.region is None:
            return self.touched(array, self.mask, bounds, seed).astype(np.float32), None
        kind = self.region.volume.array.dtype
        if np.issubdtype(kind, np.integer):
            bounds = max(bounds[0], np.iinfo(kind).min), min(bounds[1], np.iinfo(kind).max)
        box = np.where(self.region.native_mask, quantise(native, kind), self.region.native)
        native = self.touched(box, self.region.native_mask, bounds, seed).astype(np.float32)
        return self.region.measure(native, as_stored=True), native

    def touched(
        self,
        native: np.ndarray,
        allowed: np.ndarray,
        bounds: tuple[float, float] = (-np.inf, np.inf),
        seed: int = 0,
    ) -> np.ndarray:
        """The image's own box, as stored, with single voxels moved a little where the asked features come nearer; float64.

        :param allowed: of its shape, bool: the voxels that may change.
        """
        native = np.array(native, np.float64)
        values, rows, nearest, weight = self._seen(native)
        movable = allowed[tuple(nearest.T)] & (weight > LEAST_WEIGHT)
        width = self.disc.origin(self.stored(values))[1]
        reach = GENTLE * width
        before, rng = native.copy(), np.random.default_rng(seed)
        best = self.error(values)
        left, together = int(WORK / (BESIDES + len(values))), TOGETHER

        def going() -> bool:
            return best > self.enough and left > 0

        while going() and reach <= ROUGH * width:
            start = best
            moves = self._whole(self.crossings(values) / weight)
            gentle = np.argwhere(movable & (np.abs(moves) <= reach))
            order = np.argsort(np.abs(moves[tuple(gentle.T)]) + rng.random(len(gentle)))
            ahead = iter(gentle[order])
            while going():
                trial, made, crossings = values, {}, self.crossings(values)
                for side, k in ahead:
                    at = tuple(nearest[k])
                    move = float(self._whole(crossings[side, k] / weight[k]))
                    now = native[at] + move
                    if (
                        move
                        and at not in made
                        and abs(now - before[at]) <= reach
                        and bounds[0] <= now <= bounds[1]
                    ):
                        trial = trial + move * np.prod([r[:, i] for r, i in zip(rows, at)], 0)
                        made[at] = now
                        if len(made) >= round(together):
                            break
                if not made:
                    break
                error, left = self.error(trial), left - 1
                if error < best:
                    best, values, together = error, trial, min(MORE * together, MOST)
                    native[tuple(np.transpose(list(made)))] = list(made.values())
                else:
                    together = max(FEWER * together, 1.0)
            if best > STUCK * start:
                together, reach = 1.0, 2 * reach
        return native

    def _seen(self, native: np.ndarray):
        """Values (n,) on the working grid, the three factors of what native voxels give them, the nearest (n, 3), its weight."""
        where = np.argwhere(self.mask)
        if self.region is None:
            rows = [np.equal.outer(at, np.arange(size)) for at, size in zip(where.T, native.shape)]
            return native[self.mask], rows, where, np.ones(len(where))
        rows = [np.asarray(m)[at] for m, at in zip(self.region.operators, where.T)]
        values = apply_separable(self.region.operators, native)[self.mask]
        return values, rows, np.stack([r.argmax(1) for r in rows], 1), np.prod([r.max(1) for r in rows], 0)

    def _whole(self, moves: np.ndarray) -> np.ndarray:
        """Moves away from zero to whole numbers, where the image stores such."""
        return np.sign(moves) * np.ceil(np.abs(moves)) if self.disc.integer else 1.001 * moves

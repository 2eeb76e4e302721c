"""What the solver minimises: errors in asked texture features, and the price of leaving the sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from TumorSynthLib.radiomics.differentiable import (
    Lines,
    glcm_features,
    hard_glcm,
    lines,
    size_features,
    soft_glcm,
    zone_names,
)
from TumorSynthLib.texture import surrogate

STAY_PRICE = (
    0.3  # of moving every voxel by one standard deviation of the region; in squared scales of one feature
)
SEAM_WEIGHT = 3.0  # the outermost voxels hold to the sample this much more
PROFILE_PRICE = 10.0  # of changing mean or spread of every distance shell by one standard deviation
SHELLS = 10
MCC_LEVELS = 64  # above this many grey levels the eigenvalues of MCC cost more than all other features
TEXTURE = ("glcm", "glrlm", "glszm")


@dataclass
class Measured:
    """Exact texture of some grey levels, and the surrogates at the same place."""

    features: dict[str, dict[str, torch.Tensor]]  # class -> name -> (A,) per direction
    level: torch.Tensor
    runs: torch.Tensor | None = None
    zones: tuple[torch.Tensor, torch.Tensor] | None = None
    share: torch.Tensor | None = None

    def mean(self) -> dict[str, dict[str, float]]:
        return {
            c: dict(zip(f, torch.stack(list(f.values())).mean(1).tolist())) for c, f in self.features.items()
        }


class Objective:
    """Differentiable loss of bin coordinates `u` (n,) of the voxels of a mask.

    :param asked: class -> short name -> value, for the classes of `TEXTURE`.
    :param scales: the same, what counts as one unit of error.
    """

    def __init__(
        self, mask: np.ndarray, spacing, asked: Mapping, scales: Mapping, symmetric: bool = True
    ) -> None:
        self.paths = lines(mask)
        self.n = int(mask.sum())
        self.asked = {c: f for c, f in asked.items() if c in TEXTURE and f} if len(self.paths.order) else {}
        self.scales, self.symmetric = scales, symmetric
        inside = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=tuple(spacing)[::-1])[
            1:-1, 1:-1, 1:-1
        ][mask]
        edge = mask & ~ndimage.binary_erosion(mask)
        self.hold = torch.from_numpy(np.where(edge[mask], SEAM_WEIGHT, 1.0).astype(np.float32))
        self.shell, self.shells = _shells(inside, SHELLS)

    def measure(self, level: torch.Tensor, levels: int, zones: bool = True) -> Measured:
        """Exact features of 0-based grey levels (n,)."""
        features, out = {}, Measured({}, level)
        if "glcm" in self.asked:
            mcc = "MCC" in self.asked["glcm"] and levels <= MCC_LEVELS
            features["glcm"] = glcm_features(
                hard_glcm(level, self.paths, levels, self.symmetric).float(), mcc
            )
        if "glrlm" in self.asked:
            out.runs = surrogate.run_counts(level, self.paths, levels).float()
            features["glrlm"] = self._runs(out.runs)
        if "glszm" in self.asked and zones:
            size = surrogate.zone_size(level, self.paths)
            out.share = (1 / size.double()).float()
            counts, sizes = surrogate.zone_counts(level, size, levels)
            out.zones = counts.float(), sizes.float()
            features["glszm"] = zone_names(size_features(*out.zones, self.n))
        out.features = features
        return out

    def _runs(self, counts: torch.Tensor) -> dict[str, torch.Tensor]:
        return size_features(counts, torch.arange(1.0, counts.shape[2] + 1), self.n)

    def error(self, measured: Measured) -> float:
        """Sum over features of the `cost` of their error in scales."""
        total = 0.0
        for name, features in measured.mean().items():
            for k, target in self.asked[name].items():
                if k in features:
                    total += cost((features[k] - target) / self.scales[name][k])
        return total

    def anchor(self, u: torch.Tensor) -> None:
        """Makes `u` the place to stay near: the sample after its quantile specification."""
        self.start = u.clone()
        self.spread = float(u.std()) + 1e-3
        self.profile = self._profile(u)

    def _profile(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread of each distance shell."""
        size = torch.bincount(self.shell, minlength=self.shells).clamp_min(1)
        mean = u.new_zeros(self.shells).index_add(0, self.shell, u) / size
        square = u.new_zeros(self.shells).index_add(0, self.shell, (u - mean[self.shell]) ** 2) / size
        return mean, (square + 1e-6).sqrt()

    def price(self, u: torch.Tensor) -> torch.Tensor:
        """Price of leaving the sample, of another radial profile, of a changed seam."""
        away = ((u - self.start) / self.spread) ** 2
        mean, spread = self._profile(u)
        shells = ((mean - self.profile[0]) ** 2 + (spread - self.profile[1]) ** 2).mean() / self.spread**2
        return STAY_PRICE * (self.hold * away).mean() + PROFILE_PRICE * shells

    def prepare(self, u: torch.Tensor, level: torch.Tensor, levels: int, groups: list[torch.Tensor]) -> None:
        """Exact measurement at `u`, from which the surrogates count until the next one; `groups` split the directions."""
        self.levels, self.groups = levels, [self.paths.rows(g) for g in groups]
        self.index = groups
        self.now = self.measure(level, levels)
        self.base = []
        with torch.no_grad():
            if "glszm" in self.asked:
                self.neighbours = [surrogate.equal_neighbours(u, p) for p in self.groups]
                self.all_neighbours = sum(self.neighbours)
                self.zone_base = surrogate.soft_zone_counts(self.now.share, level, levels)
            for k, paths in enumerate(self.groups):
                self.base.append({c: f(u, k, paths) for c, f in self._soft().items()})

    def _soft(self) -> dict:
        return {c: getattr(self, f"_soft_{c}") for c in self.asked}

    def _soft_glcm(self, u: torch.Tensor, k: int, paths: Lines) -> dict[str, torch.Tensor]:
        mcc = "MCC" in self.asked["glcm"] and self.levels <= MCC_LEVELS
        return glcm_features(soft_glcm(u, paths, self.levels, 1.0, self.symmetric), mcc)

    def _soft_glrlm(self, u: torch.Tensor, k: int, paths: Lines) -> dict[str, torch.Tensor]:
        windows = surrogate.soft_windows(u, self.now.level, paths, self.levels)
        if not u.requires_grad:
            self.windows = getattr(self, "windows", {})
            self.windows[k] = windows
        change = surrogate.window_changes_to_runs(windows - self.windows[k], self.now.runs.shape[2])
        return self._runs((self.now.runs[self.index[k]] + change).clamp_min(0))

    def _soft_glszm(self, u: torch.Tensor, k: int, paths: Lines) -> dict[str, torch.Tensor]:
        portion = len(self.paths.order) / len(paths.order)
        change = (surrogate.equal_neighbours(u, paths) - self.neighbours[k]) * portion
        soft = 1 / (1 + (self.all_neighbours + change).clamp_min(0))
        share = (self.now.share + soft - 1 / (1 + self.all_neighbours)).clamp(1e-3, 1.0)
        counts, sizes = self.now.zones
        small = surrogate.soft_zone_counts(share, self.now.level, self.levels) - self.zone_base
        small = (counts[0, :, : surrogate.SOFT_ZONES] + small).clamp_min(0)
        counts = torch.cat([small, counts[0, :, surrogate.SOFT_ZONES :]], 1)[None]
        return zone_names(size_features(counts, sizes, self.n))

    def loss(self, u: torch.Tensor, k: int) -> torch.Tensor:
        """Loss with the directions of group `k` alone; what they lack is taken from the last exact measurement."""
        total = self.price(u)
        for name, compute in self._soft().items():
            soft = compute(u, k, self.groups[k])
            for feature, target in self.asked[name].items():
                if feature not in soft:
                    continue
                value = (
                    self.now.features[name][feature].mean()
                    + soft[feature].mean()
                    - self.base[k][name][feature].mean()
                )
                total = total + torch.nn.functional.huber_loss(
                    value / self.scales[name][feature],
                    u.new_tensor(target / self.scales[name][feature]),
                    delta=1.0,
                )
        return total


def cost(error: float) -> float:
    """What an error in scales counts: squared up to one, growing slowly beyond."""
    error = abs(error)
    return error**2 if error < 1 else 2 * error - 1 if error < 10 else 19 + float(np.log(error / 10))


def _shells(depth: np.ndarray, count: int) -> tuple[torch.Tensor, int]:
    """Shell index (n,) by distance from the border: equal shares of voxels, the outermost layer on its own."""
    inner = depth > depth.min() * 1.01
    cuts = np.quantile(depth[inner], np.linspace(0, 1, count)[1:-1]) if inner.any() else []
    shell = np.where(inner, 1 + np.searchsorted(np.unique(cuts), depth), 0)
    _, shell = np.unique(shell, return_inverse=True)
    return torch.from_numpy(shell.reshape(-1).astype(np.int64)), int(shell.max()) + 1

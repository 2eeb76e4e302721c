"""What fits between its neighbours: the finest grain that an image holds, learned around a mask and kept inside it.

A scanner's reconstruction, and every resampling, leave next to nothing of the highest frequencies in plane. So a voxel
follows from its neighbours but for a few units, in a tumour as around it. What a network draws, or a solver moves,
deviates more, most of all where it meets the image; a detector needs nothing else. `Band` learns in a ring around the
mask how a voxel follows from the 24 around it in its slice, and takes out of the mask what deviates more than the ring
does; and it turns grain that a scanner drew out along one axis the way that it runs around.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from TumorSynthLib.resampling import bounding_box

REACH = 2  # voxels in plane, to each side, that a voxel is predicted from
RING = (2, 9)  # voxels from the mask in plane: from, to
LEAST = 200  # voxels of a ring that teach the weights
TRIMMED = 1.0  # per cent of the ring's deviations at either end that don't count
BORDER = 2  # voxels on both sides of the border that have a goal of their own
CLOSE = 1.03  # times the goal is near enough
SEARCHES, ITERATIONS = 8, 30  # for the two prices; conjugate gradients for each
CHEAPEST, FIRST, DEAREST = 1e-3, 0.5, 1e2
LITTLE, MOST = (
    1.05,
    1.5,
)  # times that what fits is made stronger or weaker, so that the standard deviation stays: from, to
STEEP = 1.5  # power of what is too much that a price follows
QUIET = 1e-3  # of the ring's spread: less deviation than that is no grain, but an empty background
LAGS = 6  # voxels in plane, to each side, over which grain is compared
SIZE = 32  # of the spectra
ROUGH = 2.5  # voxels: the Gaussian's deviation that parts grain from structure
LEAST_POWER = 0.02  # of the largest, below which frequencies count as equally weak
TOLD = (
    0.12  # difference of the correlations along x and y, from which on it is the scanner's more than chance
)


def _shells() -> list[np.ndarray]:
    """Indicators (5, 5) of the neighbours equally far along y and along x, divided by their number; not of the voxel itself."""
    y, x = np.abs(np.indices((2 * REACH + 1,) * 2) - REACH)
    number = (REACH + 1) * y + x
    return [(number == k) / (number == k).sum() for k in np.unique(number)[1:]]


def grain_of(array: np.ndarray, area: np.ndarray) -> np.ndarray:
    """array (D, H, W) in the area without its smooth part, 0 elsewhere."""
    width = (0, ROUGH, ROUGH)
    weight = ndimage.gaussian_filter(area.astype(np.float32), width)
    smooth = ndimage.gaussian_filter(np.where(area, array, 0).astype(np.float32), width) / np.maximum(
        weight, 1e-3
    )
    return np.where(area, array - smooth, 0).astype(np.float32)


def covariances_of(grain: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mean products of voxels (2 LAGS + 1, 2 LAGS + 1) apart in plane, over the mean square; outliers held in."""
    bound = 3 * 1.4826 * float(np.median(np.abs(grain[area]))) + 1e-6
    shape = [s + LAGS for s in area.shape[1:]]
    values, weights = (
        np.fft.rfft2(a, shape) for a in (np.clip(grain, -bound, bound), area.astype(np.float32))
    )
    found, count = (np.fft.irfft2((np.abs(f) ** 2).sum(0), shape) for f in (values, weights))
    steps = np.arange(-LAGS, LAGS + 1)
    found, count = (f[np.ix_(steps, steps)] for f in (found, count))
    found = found / np.maximum(count, 1)
    return found / max(found[LAGS, LAGS], 1e-9)


def power_of(covariances: np.ndarray) -> np.ndarray:
    """Spectrum (SIZE, SIZE) of grain, over its largest value."""
    taper = np.hanning(2 * LAGS + 3)[1:-1]
    wide = np.zeros((SIZE, SIZE))
    steps = np.arange(-LAGS, LAGS + 1)
    wide[np.ix_(steps, steps)] = covariances * np.outer(taper, taper)
    power = np.fft.fft2(wide).real
    return np.maximum(power / power.max(), LEAST_POWER)


def _lean(covariances: np.ndarray) -> np.ndarray:
    """Logarithm (SIZE, SIZE) of the power at a frequency (y, x) over that at (x, y)."""
    power = np.log(power_of(covariances))
    return power - power.T


def _structure() -> np.ndarray:
    """Response (SIZE, SIZE) of the Gaussian that parts grain from structure."""
    f = np.fft.fftfreq(SIZE)
    return np.exp(-2 * (np.pi * ROUGH) ** 2 * (f[:, None] ** 2 + f[None] ** 2))


def kernel_of(response: np.ndarray, reach: int) -> torch.Tensor:
    """(2 reach + 1, 2 reach + 1) float32 with nearly this real response (SIZE, SIZE) to frequencies."""
    steps = np.arange(-reach, reach + 1)
    return torch.from_numpy(np.fft.ifft2(response).real[np.ix_(steps, steps)].astype(np.float32))


@dataclass(frozen=True)
class Band:
    """How a voxel follows from its neighbours in plane, and how far it deviates from that around a mask.

    :param kernel: (5, 5) float32; applied to an image it gives prediction minus value.
    :param level: standard deviation of that around the mask, in intensities.
    :param lean: (SIZE, SIZE) logarithm of how much stronger grain around the mask is at a frequency (y, x) than at (x, y).
    :param power: (SIZE, SIZE) its spectrum, of which nothing but `lean` tells the axes apart; 1 at most.
    """

    kernel: torch.Tensor
    level: float
    lean: np.ndarray
    power: np.ndarray

    @classmethod
    def around(cls, array: np.ndarray, mask: np.ndarray, valid: np.ndarray | None = None) -> Band | None:
        """Learned in the ring around mask (D, H, W) in array of its shape, where it is valid; None where too little is."""
        near, far = (ndimage.binary_dilation(mask, _plane(), n) for n in RING)
        ring = far & ~near
        ring[:, :REACH] = ring[:, -REACH:] = ring[:, :, :REACH] = ring[:, :, -REACH:] = False
        if valid is not None:
            ring &= ndimage.binary_erosion(valid, _square())
        if ring.sum() < LEAST or not np.ptp(array[ring]):
            return None
        x, here = torch.from_numpy(np.asarray(array, np.float64)), torch.from_numpy(ring)
        means = np.stack([(convolved(x, torch.from_numpy(s)) - x)[here].numpy() for s in _shells()])
        # Weights sum to one: a flat image follows from itself. Least squares over the others, then with outliers held down.
        left, right, trust = (means[1:] - means[0]).T, -means[0], 1.0
        for _ in range(4):
            weights = np.linalg.lstsq(left * np.reshape(trust, (-1, 1)), right * trust, rcond=None)[0]
            off = np.abs(left @ weights - right)
            spread = 2 * 1.4826 * float(np.median(off)) + 1e-9
            trust = 1 / np.sqrt(np.maximum(1.0, off / spread))
        off = left @ weights - right
        low, high = np.percentile(off, [TRIMMED, 100 - TRIMMED])
        level = float(np.sqrt(np.mean(np.clip(off, low, high) ** 2)))
        if level < QUIET * float(np.std(array[ring])):
            return None
        kernel = sum(w * s for w, s in zip([1 - weights.sum(), *weights], _shells()))
        kernel[REACH, REACH] = -1.0
        covariances = covariances_of(grain_of(array, ring), ring)
        told = (covariances[LAGS, LAGS + 1] - covariances[LAGS + 1, LAGS]) ** 2
        lean = told / (told + TOLD**2) * _lean(covariances)
        power = power_of(covariances)
        power = np.sqrt(power * power.T) * np.exp(lean / 2)
        return cls(torch.from_numpy(kernel.astype(np.float32)), level, lean, power / power.max())

    def held(
        self, array: np.ndarray, mask: np.ndarray, prices: list[float] | None = None, searches: int = SEARCHES,
        slack: float = 1.0,
    ) -> np.ndarray:  # fmt: skip
        """array (D, H, W) float32, changed in the mask as little as it takes to deviate no more than around it.

        Least ‖change‖² + price · ‖deviations‖², with one price near the border and one deep inside, both as low as will do.
        The mean stays, since a mask's level is no grain, and so does the standard deviation, which features hang on.
        :param prices: the two, where a search begins that is one of many; they are replaced by those found.
        :param slack: how many times as far as around it.
        """
        prices = [FIRST] * 2 if prices is None else prices
        reached = ndimage.binary_dilation(mask, _square())
        box = bounding_box(ndimage.binary_dilation(reached, _square()))
        start = torch.from_numpy(np.asarray(array[box], np.float32).copy())
        rows, inside = torch.from_numpy(reached[box]), torch.from_numpy(mask[box])
        deep = torch.from_numpy(ndimage.binary_erosion(mask, _plane(), BORDER)[box])
        parts = [rows & ~deep, deep] if bool(deep.any()) else [rows]
        before = convolved(start, self.kernel)
        change, after, made = torch.zeros_like(start), before, start
        for turn in range(searches):
            levels = [float(after[p].square().mean().sqrt()) / max(slack * self.level, 1e-6) for p in parts]
            if turn == 0 and max(levels) <= CLOSE:
                return np.asarray(array, np.float32)
            if turn and all(
                abs(x - 1) < CLOSE - 1 or (x < 1 and p <= CHEAPEST) for x, p in zip(levels, prices)
            ):
                break
            if turn == 0:
                prices[:] = [max(p, FIRST) if x > CLOSE else CHEAPEST for x, p in zip(levels, prices)]
            else:
                prices[:] = [float(np.clip(p * x**STEEP, CHEAPEST, DEAREST)) for x, p in zip(levels, prices)]
            price = sum(p * w for p, w in zip(prices, parts))
            change = self._change(before, change, price, inside)
            made = _as_strong(start + change, start, inside)
            after = before + convolved(made - start, self.kernel, "constant")
        out = np.array(array, np.float32)
        out[box][mask[box]] = made[inside].numpy()
        return (
            out if np.isfinite(out[mask]).all() else np.asarray(array, np.float32)
        )  # squares of huge values overflow

    def oriented(self, array: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """array (D, H, W) float32 whose grain in the mask runs along the axis that it runs along around the mask.

        The noise of a CT is drawn out along the way that lets least through; what is finer and coarser stays as it was.
        """
        if mask.sum() < LEAST:
            return array
        grain = grain_of(array, mask)
        kernel = kernel_of(np.exp((self.lean - _lean(covariances_of(grain, mask))) / 4), LAGS)
        turned = convolved(torch.from_numpy(grain), kernel, "constant").numpy()
        turned *= float(grain[mask].std()) / max(float(turned[mask].std()), 1e-6)
        out = np.array(array, np.float32)
        out[mask] += (turned - grain)[mask]
        return out if np.isfinite(out[mask]).all() else array

    def spread(self, move: np.ndarray, price: float) -> np.ndarray:
        """A move (D, H, W) of voxels given the colour of grain around the mask, without what the price takes out of it again."""
        off = np.abs(np.fft.fft2(self.kernel.numpy(), (SIZE, SIZE)))
        kernel = kernel_of(np.maximum(self.power, _structure()) / (1 + price * off**2), LAGS)
        return convolved(torch.from_numpy(move), kernel, "constant").numpy()

    def _change(
        self, before: torch.Tensor, change: torch.Tensor, price: torch.Tensor, inside: torch.Tensor
    ) -> torch.Tensor:
        """Conjugate gradients from `change` on, which is 0 outside the mask and on average."""

        count = inside.sum()

        def within(v):
            v = v * inside
            return v - v.sum() / count * inside

        def pushed(v):
            return within(
                v + convolved(price * convolved(v, self.kernel, "constant"), self.kernel, "constant")
            )

        goal = within(-convolved(price * before, self.kernel, "constant"))
        residual = goal - pushed(change)
        direction, size, least = residual, residual.square().sum(), 1e-5 * goal.square().sum()
        for _ in range(ITERATIONS):
            if size <= least:
                break
            effect = pushed(direction)
            length = size / (direction * effect).sum().clamp_min(1e-20)
            change = change + length * direction
            residual = residual - length * effect
            fresh = residual.square().sum()
            direction, size = residual + fresh / size * direction, fresh
        return change


def _as_strong(x: torch.Tensor, before: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """x (D, H, W) with the standard deviation inside that it had `before`, as far as `MOST` times will do."""
    mean, deviation = x[inside].mean(), float(x[inside].std(correction=0))
    more = float(np.clip(float(before[inside].std(correction=0)) / max(deviation, 1e-6), 1 / MOST, MOST))
    return x if 1 / LITTLE < more < LITTLE else torch.where(inside, mean + more * (x - mean), x)


def _plane() -> np.ndarray:
    return ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


def _square() -> np.ndarray:
    return np.ones((1, 2 * REACH + 1, 2 * REACH + 1), bool)


def convolved(x: torch.Tensor, kernel: torch.Tensor, beyond: str = "replicate") -> torch.Tensor:
    """x (D, H, W) with a symmetric kernel (K, K) over every slice."""
    around = [kernel.shape[-1] // 2] * 4
    return F.conv2d(F.pad(x[:, None], around, mode=beyond), kernel[None, None].to(x.dtype))[:, 0]

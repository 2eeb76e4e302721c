"""A tumour's voxels parted into bands of size, from the finest grain to its level, and what a change of them may be.

What lies within a few voxels of the mask's border fades out of every change, and every change but that of the grain itself is
free of what is finer than `BandConfig.cutoff`: the finest grain stays what the scanner made it. Arrays (n,) are the mask's
voxels in raster order; boxes are (D, H, W) = (z, y, x); numpy and scipy alone, the same voxels for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.exemplar.structure import structure_of

SAME = 1e-4  # weight of a normalised convolution below which there is nothing to divide by


@dataclass(frozen=True)
class BandConfig:
    """How a tumour is parted.

    :param cutoff: cycles per voxel in plane, above which detail is grain. A reconstruction leaves little there but noise,
        and a detector looks there first.
    :param softness: cycles per voxel over which the cutoff goes from nothing to all.
    :param kernel_voxels: in-plane reach of the filter to each side.
    :param sigmas: in-plane voxels, the Gaussians between the coarser bands; the same mm across slices.
    :param rim: in-plane voxels below the border over which a change fades in.
    :param apart: robust standard deviations between core and surroundings, above which a voxel's share of tumour is read off its
        level instead of its depth.
    :param other: of the core's robust standard deviations off it, beyond which a place is another tissue, or air.
    :param edge: in-plane voxels from such a place up to which is edge, and from which on is none.
    :param least_share: of tumour that a voxel counts with in a mean, so that there always is one.
    :param passes: times that a change is freed of grain, between which it is cut to the mask: the cut makes some anew.
    """

    cutoff: float = 0.40
    softness: float = 0.015
    kernel_voxels: int = 5
    sigmas: tuple[float, float, float] = (1.0, 2.0, 4.0)
    rim: float = 2.5
    apart: float = 4.0
    other: float = 6.0
    edge: tuple[float, float] = (2.0, 6.0)
    least_share: float = 0.05
    passes: tuple[int, ...] = (2, 1)


CONFIG = BandConfig()
BANDS = ("grain", "fine", "medium", "coarse", "rest", "mean")


def robust_sd(values: np.ndarray) -> float:
    """Standard deviation by the median of absolute deviations; never 0."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) + 1e-6


def eased(share: np.ndarray) -> np.ndarray:
    """0 to 1 without a kink at either end."""
    held = np.clip(share, 0.0, 1.0)
    return held**2 * (3 - 2 * held)


def grain_kernel(config: BandConfig = CONFIG) -> np.ndarray:
    """(k, k) kernel, k = 2 kernel_voxels + 1, that passes what is finer than the cutoff, and no constant."""
    frequency, at = np.fft.fftfreq(64), np.arange(-config.kernel_voxels, config.kernel_voxels + 1)
    radius = np.hypot(frequency[:, None], frequency[None])
    passed = 1 / (1 + np.exp(np.clip((config.cutoff - radius) / config.softness, -50, 50)))
    kernel = np.fft.ifft2(passed).real[np.ix_(at, at)]
    taper = np.hanning(2 * config.kernel_voxels + 3)[1:-1]
    kernel = kernel * np.outer(taper, taper)
    return kernel - kernel.mean()


class Filter:
    """The grain's filter for boxes of one shape (D, H, W), slice by slice, float32."""

    def __init__(self, shape: tuple[int, int, int], config: BandConfig = CONFIG):
        from scipy import fft  # a removal does without it, and an edit begins sooner

        self.fft = fft
        self.reach = config.kernel_voxels
        self.plane = shape[1:]
        self.size = [self.fft.next_fast_len(n + 4 * self.reach, real=True) for n in self.plane]
        kernel = np.zeros(self.size, np.float32)
        at = np.arange(-self.reach, self.reach + 1)
        kernel[np.ix_(at, at)] = grain_kernel(config)  # symmetric, so that its response is real
        self.response = self.fft.rfft2(kernel, workers=1).real

    def grain(self, box: np.ndarray) -> np.ndarray:
        """What of a box (D, H, W) is finer than the cutoff; beyond the box its border is repeated."""
        r = self.reach
        padded = np.pad(np.asarray(box, np.float32), ((0, 0), (r, r), (r, r)), mode="edge")
        return self._through(padded, self.response)[:, r : r + self.plane[0], r : r + self.plane[1]]

    def without_grain(self, box: np.ndarray, times: int) -> np.ndarray:
        """A box (D, H, W) freed of grain so many times; beyond it there is nothing."""
        found = self._through(np.asarray(box, np.float32), (1 - self.response) ** times)
        return found[:, : self.plane[0], : self.plane[1]]

    def _through(self, box: np.ndarray, response: np.ndarray) -> np.ndarray:
        spectrum = self.fft.rfft2(box, self.size, workers=1) * response
        return self.fft.irfft2(spectrum, self.size, workers=1)


class Bands:
    """The bands of a tumour, and how a change of its voxels fades out at its border.

    :param image: (D, H, W) native intensities around the tumour.
    :param mask: (D, H, W) bool, the voxels that may change.
    :param spacing: (x, y, z) mm.
    """

    def __init__(self, image: np.ndarray, mask: np.ndarray, spacing, config: BandConfig = CONFIG):
        self.config = config
        z, *plane = bounding_box(mask)
        self.box = (
            z,
            *(slice(max(s.start - config.kernel_voxels, 0), s.stop + config.kernel_voxels) for s in plane),
        )
        self.whole = image, mask
        self.image = np.asarray(image[self.box], np.float64)
        self.mask = np.ascontiguousarray(mask[self.box])
        self.spacing = np.asarray(spacing[::-1], np.float64)
        self.voxel = float(self.spacing[1:].mean())
        self.filter = Filter(self.mask.shape, config)
        self.own = self.image[self.mask]
        self.depth = self._distance(self.mask)[self.mask]
        self.around: np.ndarray | None = None  # intensities beside the tumour, where they tell it apart
        self.fade = eased((self.depth - 0.5) / config.rim)
        self.share, self.shifting = self._shares()
        # What is mostly air takes part in a shift alone: stronger or weaker, bent or moved, it would harden or fill the edge.
        self.tissue = self.fade * eased(1.5 * self.share - 0.25)
        self._weight = np.zeros(self.mask.shape)
        self._weight[self.mask] = np.maximum(self.share, config.least_share)
        self.parts = self.split(self.image)

    def _distance(self, where: np.ndarray) -> np.ndarray:
        """In-plane voxels (D, H, W) from each voxel to the nearest that isn't `where`; beyond the box none is."""
        padded = np.pad(where, 1)
        return ndimage.distance_transform_edt(padded, self.spacing / self.voxel)[1:-1, 1:-1, 1:-1]

    def _shares(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) share of tumour in each voxel, and how much of a shift of the tumour's level it takes part in.

        Where core and surroundings differ by far, as a nodule and lung do, the level tells the share, and a shift reaches up to
        the border as far as a voxel is tumour; but where tissue of the tumour's level lies beyond it, it fades in. Else nothing
        is known but the depth.
        """
        plane = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
        ring = ndimage.binary_dilation(self.mask, plane, 4) & ~ndimage.binary_dilation(self.mask, plane, 1)
        deep = self.own[self.depth >= np.quantile(self.depth, 0.6)]
        core = float(np.median(deep))
        around = self.image[ring]
        level = ndimage.gaussian_filter(self.image, 0.5 * self.voxel / self.spacing, truncate=3.0)
        self.inner = self._inner(np.abs(level - core) <= self.config.other * robust_sd(deep))
        if not len(around) or abs(core - np.median(around)) < self.config.apart * robust_sd(around):
            return np.ones(len(self.own)), self.fade
        self.around = around
        share = np.clip((level - np.median(around)) / (core - np.median(around)), 0, 1)
        lung = self.mask | (share < 0.5)
        self.inner = self._inner(share >= 0.5)
        reached = eased((self._distance(lung)[self.mask] - 0.5) / self.config.rim)
        return share[self.mask], share[self.mask] * reached

    def _inner(self, same: np.ndarray) -> np.ndarray:
        """(n,) 0 at the tumour's edge to other tissue or air, 1 away from it.

        :param same: (D, H, W) bool, where the tissue is the tumour's by its level.
        """
        first, last = self.config.edge
        return eased((self._distance(same)[self.mask] - first) / (last - first))

    def split(self, box: np.ndarray) -> np.ndarray:
        """(6, n) bands of a box of the same grid, see `BANDS`; they add up to its voxels in the mask."""
        grain = self.filter.grain(box)
        left, found = box - grain, [grain[self.mask]]
        for sigma in self.config.sigmas:
            low = self.smooth(left, sigma)
            found.append((left - low)[self.mask])
            left = low
        rest = left[self.mask]
        return np.stack([*found, rest - rest.mean(), np.full(len(rest), rest.mean())])

    def smooth(self, box: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian mean of the tumour in a box: nothing around bleeds in, and a voxel counts by its share of tumour.

        :param sigma: in-plane voxels, the same mm across.
        """
        width, mean = sigma * self.voxel / self.spacing, box[self.mask].mean()
        weight = ndimage.gaussian_filter(self._weight, width, truncate=3.0)
        inside = ndimage.gaussian_filter(self._weight * (box - mean), width, truncate=3.0)
        return inside / np.maximum(weight, SAME) + mean

    def without_grain(self, change: np.ndarray) -> np.ndarray:
        """A change (n,) of the mask's voxels without what is finer than the cutoff."""
        box = np.zeros(self.mask.shape, np.float32)
        for times in self.config.passes:
            box[self.mask] = change
            change = self.filter.without_grain(box, times)[self.mask]
        return change

    def put(self, values: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Copy of the whole image (D, H, W), float32, with values (n,) in the mask."""
        out = np.array(image, np.float32)
        out[self.box][self.mask] = values
        return out

    @cached_property
    def structure(self) -> np.ndarray:
        """(4, n) what of the bands from fine to rest is no noise (`structure.py`)."""
        return np.concatenate([structure_of(self), self.parts[4:5]])

    def moving(self, strength: float) -> np.ndarray:
        """(4, n) what of the bands from fine to rest is made stronger or weaker: structure, and that share of their noise."""
        return self.structure + strength * (self.parts[1:5] - self.structure)

    @cached_property
    def clean(self) -> np.ndarray:
        """(n,) the tumour without its grain and the noise of the fine band: what values may be held or bent by."""
        return self.parts[2:].sum(0) + self.structure[0]

    @cached_property
    def noise(self) -> float:
        """Standard deviation of what single voxels add to their surroundings, in intensities.

        By the 3 x 3 x 3 median: unlike a Gaussian's residual it doesn't take a nodule's edge for noise. The factor makes up
        for the voxel's own share in the median.
        """
        return 1.2 * robust_sd(self.specks(self.image))

    def specks(self, box: np.ndarray) -> np.ndarray:
        """(n,) how far each voxel of the mask stands out of its 3 x 3 x 3 median."""
        return (box - ndimage.median_filter(box, 3))[self.mask]

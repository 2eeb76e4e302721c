"""Named numbers of an image at a tumour or at a place where one was, on the native grid; the same for made and untouched.

    healthy(image, hole, spacing, ct)       level off, grain, power, step, correlations, against the tissue around
    tumour(image, mask, spacing)            power, specks, step and width of the border, grain and its correlations
    pattern(real, made, mask, spacing, mm)  how much of the tumour's coarse pattern was kept
    vessels(real, made, mask, old, spacing) how much of the lung's vessels beside a new tumour goes on

Arrays are (z, y, x); spacing is (z, y, x) mm. Nothing here knows what was edited: what is judged and its control go through the
same functions, and `COMPARED` says how they are compared. nan where a place is too small for a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

ROBUST = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
SQUARE = np.ones((1, 3, 3), bool)


@dataclass(frozen=True)
class NumberConfig:
    """Distances and limits of the numbers; voxels are in plane."""

    ring_mm: tuple[float, float] = (4.0, 18.0)  # the tissue around
    block_mm: float = 5.0  # of the level
    step_mm: float = 6.0  # stretches of border that a step is the mean of
    step_voxels: int = 2  # depth on each side of the border
    outer_voxels: int = 7  # the contour that a step is compared with
    grain_voxels: float = 2.2  # Gaussian whose residual is grain
    lag_voxels: float = 2.5  # the same for its correlations
    fine: float = 0.45  # cycles per voxel above which power is fine
    kinds_hu: tuple[float, ...] = (-500.0, -20.0, 150.0)  # air, fat, soft tissue, bone
    air_hu: float = -500.0
    air_share: float = 0.1  # of MR's 99th percentile
    lung_share: float = 0.3  # of the ring that is air: the place lies in lung
    speck_sd: float = 4.0
    profile_voxels: float = 5.0
    tight_voxels: float = 1.0  # Gaussian of the image in which a contour is tightened
    shell_voxels: tuple[float, float] = (3.0, 7.0)  # what a border's outer level is taken from
    vessel_mm: tuple[float, float] = (1.0, 1.5)  # Gaussians at which vessels are looked for
    vessel_hu: float = 60.0  # tubeness of a vessel, several times that of noise
    vessel_reach_mm: float = 8.0  # how far from the border vessels are followed
    vessel_length_mm: float = 6.0  # shorter paths are nodes of noise
    plain_voxels: float = 0.8  # Gaussian of a plain tumour's border
    wall_mm: float = 4.0  # half of the thickness from which dense tissue is no vessel


NUMBERS = NumberConfig()
#: Number to how it is compared with its control: by their ratio or by their difference.
COMPARED = {
    "level": "difference", "level_90": "difference", "grain": "ratio", "power": "ratio", "step": "ratio",
    "specks": "ratio", "width": "ratio", "lag_plane": "difference", "lag_slice": "difference", "pattern": "difference",
    "vessels": "ratio",
}  # fmt: skip


def robust_sd(values: np.ndarray) -> float:
    return float(ROBUST * np.median(np.abs(values - np.median(values)))) if values.size else float("nan")


def fine_kernel(cut: float = NUMBERS.fine) -> np.ndarray:
    """(13, 13) Hann-windowed kernel that passes radial frequencies above `cut` cycles per voxel."""
    f = np.fft.fftfreq(64)
    whole = np.fft.fftshift(np.fft.ifft2((np.hypot(*np.meshgrid(f, f)) > cut).astype(float)).real)
    kernel = whole[26:39, 26:39] * np.outer(np.hanning(15)[1:-1], np.hanning(15)[1:-1])
    return kernel - kernel.mean()


FINE = fine_kernel()


def fine_power(image: np.ndarray) -> np.ndarray:
    """Power of each voxel above .45 cycles per voxel in plane."""
    return np.stack([ndimage.convolve(s, FINE, mode="nearest") for s in image.astype(np.float64)]) ** 2


def shrunk(mask: np.ndarray, by: int = 1, fewest: int = 30) -> np.ndarray:
    """The mask without `by` voxels of its border in plane; whole where fewer than `fewest` would be left."""
    inner = ndimage.binary_erosion(mask, PLANE, by)
    return inner if inner.sum() > fewest else mask


# Healthy tissue


def healthy(
    image: np.ndarray, hole: np.ndarray, spacing, ct: bool, avoid=None, config: NumberConfig = NUMBERS
) -> dict[str, float]:
    """Numbers of healthy tissue in `hole` against what is around: level, level_90 (robust sd off the nearest kind of tissue, 5 mm
    blocks, median and 90th percentile), grain, power (ratios inside / around), step (over the hole's border / over a contour
    farther out), lag_plane and lag_slice (correlation of grain with its neighbour, inside - around).

    :param avoid: (z, y, x) bool, what isn't healthy: no part of the surroundings.
    """
    image = image.astype(np.float64)
    distance = ndimage.distance_transform_edt(~hole, spacing)
    air = image < (config.air_hu if ct else config.air_share * np.percentile(image, 99))
    ring = (distance > config.ring_mm[0]) & (distance < config.ring_mm[1])
    if avoid is not None:
        ring &= ~avoid
    lung = bool(ring.any()) and air[ring].mean() > config.lung_share
    if not lung:
        ring &= ~air
    if ring.sum() < 60:
        return {
            n: float("nan") for n in ("level", "level_90", "grain", "power", "step", "lag_plane", "lag_slice")
        }
    coarse = ndimage.gaussian_filter(image, (0, config.grain_voxels, config.grain_voxels))
    around = _kinds_around(image, image - coarse, ring, ct, config)
    inner, outer = grain_lags(image, shrunk(hole), config), grain_lags(image, ring, config)
    usable = ~air if not lung else np.ones_like(air)
    return {
        **level(image, hole, around, spacing, config),
        "grain": grain(image, image - coarse, hole, around),
        "power": power_ratio(image, hole, ring),
        "step": step_ratio(image, hole, spacing, usable, config),
        "lag_plane": float(np.mean(inner[:2]) - np.mean(outer[:2])),
        "lag_slice": inner[2] - outer[2],
    }


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of tissue around a place: its level, its spread, its grain, and where the image is well inside that kind."""

    level: float
    spread: float
    grain: float
    core: np.ndarray


def _kinds_around(image, residual, ring, ct: bool, config: NumberConfig) -> list[Kind]:
    smooth = ndimage.gaussian_filter(image, (0, 1.5, 1.5))
    edges = [-np.inf, *(config.kinds_hu if ct else _mr_kinds(smooth[ring])), np.inf]
    found = []
    for least in (60, 0):  # where all kinds are scarce, the commonest stands for all
        for low, high in zip(edges[:-1], edges[1:]):
            kind = (smooth > low) & (smooth <= high)
            core = ndimage.binary_erosion(kind, SQUARE, 2)
            here, deep = kind & ring, core & ring
            if here.sum() > 0.05 * ring.sum() and deep.sum() > least:
                values = image[here]
                found.append(
                    Kind(np.median(values), robust_sd(values) + 1e-3, robust_sd(residual[deep]), core)
                )
        if found:
            return found
    return [Kind(np.median(image[ring]), robust_sd(image[ring]) + 1e-3, robust_sd(residual[ring]), ring)]


def _mr_kinds(values: np.ndarray) -> list[float]:
    """Otsu's threshold, where it parts two kinds of tissue of which neither is rare."""
    from skimage.filters import threshold_otsu

    cut = threshold_otsu(values)
    low, high = values[values <= cut], values[values > cut]
    if min(len(low), len(high)) <= 0.08 * len(values):
        return []
    apart = abs(np.median(high) - np.median(low)) / (low.std() + high.std() + 1e-6)
    return [float(cut)] if apart > 1.5 else []


def blocks(where: np.ndarray, size: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Block (n,) of every voxel of `where` in blocks of `size` voxels, numbered from 0, and how many each has."""
    index = np.argwhere(where) // np.array(size)
    _, block = np.unique(index, axis=0, return_inverse=True)
    return block.ravel(), np.bincount(block.ravel())


def level(image, hole, around: list[Kind], spacing, config: NumberConfig = NUMBERS) -> dict[str, float]:
    """How far 5 mm blocks of the hole are off the nearest kind's level, in its robust sd: median and 90th percentile."""
    size = [max(1, round(config.block_mm / s)) for s in spacing]
    block, count = blocks(hole, size)
    means = np.bincount(block, image[hole]) / count
    kept = count >= min(0.5 * np.prod(size), count.max())
    off = np.min([np.abs(means - kind.level) / kind.spread for kind in around], 0)[kept]
    return {"level": float(np.median(off)), "level_90": float(np.percentile(off, 90))}


def grain(image, residual, hole, around: list[Kind]) -> float:
    """Robust sd of grain inside over that around, within each kind; mean over kinds by their voxels in the hole."""
    ratios, voxels = [], []
    for kind in around:
        inside = hole & kind.core
        if inside.sum() > 80 and kind.grain > 0:
            ratios.append(robust_sd(residual[inside]) / kind.grain)
            voxels.append(inside.sum())
    if ratios:
        return float(np.average(ratios, weights=voxels))
    nearest = min(around, key=lambda kind: abs(np.median(image[hole]) - kind.level) / kind.spread)
    return robust_sd(residual[hole]) / nearest.grain if nearest.grain > 0 else float("nan")


def power_ratio(image: np.ndarray, hole: np.ndarray, ring: np.ndarray) -> float:
    """Typical (median of 9 x 9 voxel means) fine power well inside over that around."""
    local = ndimage.uniform_filter(fine_power(image), (0, 9, 9))
    outside = np.median(local[ring])
    return float(np.median(local[shrunk(hole, 3)]) / outside) if outside > 0 else float("nan")


def step_ratio(image, hole, spacing, usable, config: NumberConfig = NUMBERS) -> float:
    """Median step over the hole's border, over that across the contour some voxels farther out."""
    here = _steps(image, hole, spacing, usable, config)
    out = ndimage.binary_dilation(hole, SQUARE, config.outer_voxels)
    there = _steps(image, out, spacing, usable, config)
    return here / there if there > 0 else float("nan")


def _steps(image, mask, spacing, usable, config: NumberConfig) -> float:
    """Median over 6 mm stretches of |mean inside - mean outside|, two voxels deep on each side."""
    inner = mask & ~ndimage.binary_erosion(mask, SQUARE, config.step_voxels) & usable
    outer = ndimage.binary_dilation(mask, SQUARE, config.step_voxels) & ~mask & usable
    size = np.array([max(1, round(config.step_mm / s)) for s in spacing])
    shape = np.array(mask.shape) // size + 1
    sides = []
    for side in (inner, outer):
        block = (
            np.ravel_multi_index(tuple((np.argwhere(side) // size).T), shape)
            if side.any()
            else np.zeros(0, int)
        )
        count = np.bincount(block, minlength=shape.prod())
        total = np.bincount(block, image[side], shape.prod())
        sides.append(np.where(count >= 6, total / np.maximum(count, 1), np.nan))
    off = np.abs(sides[0] - sides[1])
    return float(np.nanmedian(off)) if np.isfinite(off).any() else float("nan")


# Tumours


def tumour(
    image: np.ndarray,
    mask: np.ndarray,
    spacing,
    unit: float | None = None,
    config: NumberConfig = NUMBERS,
    before=None,
) -> dict[str, float]:
    """Numbers of a tumour: power (mean, above .45 cycles per voxel, a voxel inside), specks (of 1000 voxels, those more than 4
    `unit`s off the median of their 27), step (mean over the border's faces in plane), width (mm from 10 to 90 % of the border),
    grain (sd), lag_plane, lag_slice (its correlation with the neighbour).

    :param unit: robust sd of voxel - median of 27 in the tumour that was there; None takes this one's own.
    :param before: of a new tumour's width, see `border_width`.
    """
    image = image.astype(np.float64)
    unit = speck_unit(image, mask) if unit is None else unit
    lags = grain_lags(image, mask, config)
    return {
        "power": float(fine_power(image)[shrunk(mask)].mean()),
        "specks": specks(image, mask, unit, config),
        "step": border_step(image, mask),
        "width": border_width(image, mask, spacing, unit, config, before),
        "grain": _grain(image, mask, config)[1],
        "lag_plane": float(np.mean(lags[:2])),
        "lag_slice": lags[2],
    }


def speck_unit(image: np.ndarray, mask: np.ndarray) -> float:
    """Robust sd in the mask of voxel - median of its 27."""
    return robust_sd((image - ndimage.median_filter(image, 3))[mask]) + 1e-6


def specks(image, mask, unit: float, config: NumberConfig = NUMBERS) -> float:
    """Of 1000 voxels, those more than 4 `unit`s off the median of their 27."""
    off = np.abs(image - ndimage.median_filter(image, 3))[mask]
    return 1e3 * float((off > config.speck_sd * unit).mean())


def border_step(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean difference across the voxel faces of the mask's border, in plane."""
    found = []
    for axis in (1, 2):
        face = np.diff(mask.astype(np.int8), axis=axis) != 0
        found.append(np.abs(np.diff(image, axis=axis))[face].mean() if face.any() else np.nan)
    return float(np.nanmean(found))


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Voxels from the mask's border, slice by slice, below 0 inside; far where a slice has no border."""
    out = np.full(mask.shape, np.inf)
    for k in np.flatnonzero(mask.any((1, 2))):
        out[k] = np.where(
            mask[k],
            0.5 - ndimage.distance_transform_edt(np.pad(mask[k], 1))[1:-1, 1:-1],
            ndimage.distance_transform_edt(~mask[k]) - 0.5,
        )
    return out


def border_width(image, mask, spacing, unit: float, config: NumberConfig = NUMBERS, before=None) -> float:
    """mm from 10 to 90 % of the mean profile across the border, where the tumour stands out from what is beside it.

    Each voxel counts as its share of the way from the level beside it (3-7 voxels outside) to the tumour's median, where that way
    is at least half as long as its 90th percentile; nan where it is shorter than two `unit`s.

    :param before: (z, y, x), the image without the tumour: where the border was one of muscle and fat already, it is none of an
        edit's.
    """
    d, share, clear = _shares(image, mask, unit, config, before)
    if not clear.any():
        return float("nan")
    share = share[clear]
    edges = np.arange(-config.profile_voxels, config.profile_voxels + 0.25, 0.5)
    which = np.digitize(d[clear], edges) - 1
    count = np.bincount(which, minlength=len(edges))[: len(edges) - 1]
    total = np.bincount(which, share, len(edges))[: len(edges) - 1]
    known = count >= 5
    return spacing[1] * _width(((edges[:-1] + edges[1:]) / 2)[known], (total / np.maximum(count, 1))[known])


def _shares(image, mask, unit: float, config: NumberConfig, before=None):
    """(z, y, x) each: voxels from the border; share of the way from the level beside it to the tumour's median; bool, where that
    way is long enough near the border, and the border is new against the image `before`."""
    d = signed_distance(mask)
    none = d, np.zeros(mask.shape), np.zeros(mask.shape, bool)
    deep = d < min(-2.5, np.percentile(d[mask], 30))
    shell = (d > config.shell_voxels[0]) & (d < config.shell_voxels[1])
    if not deep.any() or shell.sum() < 20:
        return none
    weight = ndimage.gaussian_filter(shell.astype(np.float64), (0, 3, 3))
    beside = ndimage.gaussian_filter(np.where(shell, image, 0.0), (0, 3, 3)) / np.maximum(weight, 1e-6)
    way = np.median(image[deep]) - beside
    near = (np.abs(d) < config.profile_voxels) & (weight > 1e-3)
    if not near.any():
        return none
    clear = near & (np.abs(way) > 0.5 * np.percentile(np.abs(way[near]), 90))
    if not clear.any() or np.median(np.abs(way[clear])) < 2 * unit:
        return none
    way = np.where(clear, way, 1.0)
    if before is not None:
        rim = clear & (d < 0)
        was = ndimage.gaussian_filter((rim & ((before - beside) / way > 0.5)).astype(np.float64), (0, 3, 3))
        clear &= was < 0.5 * ndimage.gaussian_filter(rim.astype(np.float64), (0, 3, 3))
    return d, np.where(clear, (image - beside) / way, 0.0), clear


def tightened(image: np.ndarray, mask: np.ndarray, unit: float, config: NumberConfig = NUMBERS) -> np.ndarray:
    """The mask without what its contour takes in of the tissue beside the tumour: near the border, voxels that are nearer to its
    level than to the tumour's.

    Two tumours whose contours were drawn by different hands have borders that can be compared then.
    """
    image = ndimage.gaussian_filter(image.astype(np.float64), (0, config.tight_voxels, config.tight_voxels))
    _, share, clear = _shares(image, mask, unit, config)
    parts, _ = ndimage.label(ndimage.binary_opening(mask & ~(clear & (share < 0.5)), PLANE))
    sizes = np.bincount(parts.ravel())[1:]
    if not sizes.size:
        return mask
    return mask & ndimage.binary_fill_holes(parts == 1 + sizes.argmax(), PLANE)


def _width(at: np.ndarray, profile: np.ndarray) -> float:
    """Distance between 10 and 90 % of a profile that falls from inside (first) to outside, by linear interpolation."""
    if len(at) < 6:
        return float("nan")
    high, low = profile[:3].mean(), profile[-3:].mean()
    if abs(high - low) < 1e-6:
        return float("nan")
    share = (profile - low) / (high - low)
    middle = int(np.argmax(share < 0.5))
    inner = next((i for i in range(middle, -1, -1) if share[i] >= 0.9), 0)
    outer = next((i for i in range(middle, len(share)) if share[i] <= 0.1), len(share) - 1)

    def crossing(i: int, value: float) -> float:
        a, b = share[i], share[min(i + 1, len(share) - 1)]
        return at[i] if a == b else at[i] + (at[min(i + 1, len(at) - 1)] - at[i]) * (a - value) / (a - b)

    start = crossing(inner, 0.9) if share[inner] >= 0.9 else at[0]
    stop = crossing(outer - 1, 0.1) if outer and share[outer] <= 0.1 else at[-1]
    return float(max(stop - start, 0.1))


def _grain(image, mask, config: NumberConfig) -> tuple[np.ndarray, float]:
    """What a Gaussian within the mask leaves, held within 3 robust sd, and its sd."""
    sigma = (0, config.lag_voxels, config.lag_voxels)
    weight = ndimage.gaussian_filter(mask.astype(np.float64), sigma)
    smooth = ndimage.gaussian_filter(np.where(mask, image, 0.0), sigma) / np.maximum(weight, 1e-3)
    residual = np.where(mask, image - smooth, 0.0)
    bound = 3 * robust_sd(residual[mask]) + 1e-6
    residual = np.clip(residual, -bound, bound)
    return residual, float(np.sqrt((residual[mask] ** 2).mean()))


def grain_lags(image: np.ndarray, mask: np.ndarray, config: NumberConfig = NUMBERS) -> list[float]:
    """Correlation of grain with its neighbour along x, y and z (to the next slice), within the mask."""
    residual, sd = _grain(image, mask, config)
    found = []
    for axis in (2, 1, 0):
        a, b = (
            np.take(residual, range(*r), axis) for r in ((0, mask.shape[axis] - 1), (1, mask.shape[axis]))
        )
        m, n = (np.take(mask, range(*r), axis) for r in ((0, mask.shape[axis] - 1), (1, mask.shape[axis])))
        both = m & n
        found.append(
            float((a[both] * b[both]).mean() / max(sd**2, 1e-9)) if both.sum() > 20 else float("nan")
        )
    return found


def pattern(real: np.ndarray, made: np.ndarray, mask: np.ndarray, spacing, mm: float) -> float:
    """Correlation over the mask of real and made, both smoothed within it by a Gaussian of `mm`; 0 where one is flat."""
    sigma = [mm / s for s in spacing]
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float64), sigma), 1e-3)
    smooth = []
    for image in (real.astype(np.float64), made.astype(np.float64)):
        mean = image[mask].mean()
        smooth.append((ndimage.gaussian_filter(np.where(mask, image - mean, 0.0), sigma) / weight)[mask])
    if min(s.std() for s in smooth) < 1e-9:
        return 0.0
    return float(np.corrcoef(*smooth)[0, 1])


# Vessels


def tubeness(image: np.ndarray, spacing, where: np.ndarray, config: NumberConfig = NUMBERS) -> np.ndarray:
    """How much like a bright tube each voxel is (Sato et al., Medical Image Analysis 1998): the second largest curvature
    downwards, in the image's unit, the largest over `vessel_mm`; 0 for plates, and outside the bool array `where`."""
    found = np.zeros(int(where.sum()))
    for mm in config.vessel_mm:
        sigma = [max(mm / s, 0.7) for s in spacing]  # differences over less are no curvature
        matrix = np.empty((len(found), 3, 3))
        for i in range(3):
            for j in range(i, 3):
                order = np.eye(3, dtype=int)[i] + np.eye(3, dtype=int)[j]
                part = ndimage.gaussian_filter(image, sigma, order=order)[where] * sigma[i] * sigma[j]
                matrix[:, i, j] = matrix[:, j, i] = part
        found = np.maximum(found, -np.linalg.eigvalsh(matrix)[:, 1])
    out = np.zeros(image.shape)
    out[where] = found
    return out


def vessel_paths(image: np.ndarray, where: np.ndarray, spacing, config: NumberConfig = NUMBERS) -> np.ndarray:
    """Bool, the middle lines of vessels in the voxels `where` of a CT: of what is like a tube, neither wall nor fissure."""
    from skimage.morphology import skeletonize

    dense = ndimage.gaussian_filter(image, [0.7 / s for s in spacing]) > config.air_hu
    core = ndimage.distance_transform_edt(np.pad(dense, 1), spacing)[1:-1, 1:-1, 1:-1] > config.wall_mm
    if core.any():
        where = where & (ndimage.distance_transform_edt(~core, spacing) > config.wall_mm + 2 * max(spacing))
    tube = tubeness(image, spacing, where, config) > config.vessel_hu
    lines = skeletonize(tube) if tube.any() else tube
    parts, count = ndimage.label(lines, np.ones((3, 3, 3)))
    longest = [
        max((s.stop - s.start - 1) * mm for s, mm in zip(box, spacing)) for box in ndimage.find_objects(parts)
    ]
    return (
        np.isin(parts, 1 + np.flatnonzero(np.array(longest) >= config.vessel_length_mm)) if count else lines
    )


def vessels(
    real: np.ndarray,
    made: np.ndarray,
    mask: np.ndarray,
    old: np.ndarray,
    spacing,
    config: NumberConfig = NUMBERS,
) -> tuple[float, float]:
    """Tubeness along the vessels that the unedited CT has within `vessel_reach_mm` of the new tumour's border, edited / unedited;
    and the same with a plain tumour in place of the edit, as any tumour bends the tubes that end in it. nan without vessels.

    :param real, made: (z, y, x) before and after; `mask`, `old` bool, the new tumour and the one that was there (none for an
        insertion): vessels are followed outside of both.
    """
    reach = [int(np.ceil(2 * config.vessel_reach_mm / s)) for s in spacing]
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(found, reach))
    real, made, mask = real[box].astype(np.float64), made[box].astype(np.float64), mask[box]
    beside = ~mask & (ndimage.distance_transform_edt(~mask, spacing) <= config.vessel_reach_mm)
    if old[box].any():  # it and its rim are no vessel
        beside &= ndimage.distance_transform_edt(~old[box], spacing) > 2 * max(config.vessel_mm)
    path = vessel_paths(real, beside, spacing, config)
    if not path.any():
        return float("nan"), float("nan")
    share = ndimage.gaussian_filter(
        mask.astype(np.float64), [config.plain_voxels * spacing[1] / s for s in spacing]
    )
    plain = share * np.median(made[mask]) + (1 - share) * real
    before, after, alike = (tubeness(v, spacing, path, config)[path].mean() for v in (real, made, plain))
    return float(after / before), float(alike / before)

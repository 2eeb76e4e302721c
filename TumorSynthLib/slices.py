"""Three planes through a tumour, as a radiologist looks at them.

Pictures follow the radiological convention: on axial and coronal slices the patient's right is on the left of
the picture, axial slices are seen from the feet, sagittal ones from the patient's left side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .models.intensity import Intensity
from .png import enlarge, resample
from .region import Frame

MARGIN_MM = 30.0
OBLIQUE_DEG = 5.0  # a smaller tilt of the image against the patient isn't worth a remark

_LUNG = (-1350.0, 150.0)  # usual CT windows: width 1500 level -600, and width 400 level 40
_SOFT_TISSUE = (-160.0, 240.0)
_LUNG_BELOW = -300.0  # HU; the median around a tumour in lung lies below, in any other tissue above
_MR_PERCENTILES = (1.0, 99.5)


@dataclass(frozen=True)
class Plane:
    """One way to cut: the axis it removes from (z, y, x), and the patient's sides at its borders."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str


PLANES = (
    Plane("axial", 0, "R", "L", "A", "P"),
    Plane("coronal", 1, "R", "L", "S", "I"),
    Plane("sagittal", 2, "A", "P", "S", "I"),
)


@dataclass(frozen=True, eq=False)
class Crop:
    """A box around a tumour in LPS order.

    :param before, after: (D, H, W) float32 intensities.
    :param mask: (D, H, W) bool, the tumour to outline; `old_mask` where it was before, or None if it stayed.
    :param spacing: (z, y, x) mm.
    :param tilt: degrees between the image's axes and the patient's.
    """

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    old_mask: np.ndarray | None
    spacing: tuple[float, float, float]
    tilt: float


def crop_around(
    before, after, mask: np.ndarray, old_mask: np.ndarray | None = None, margin_mm: float = MARGIN_MM
) -> Crop:
    """The box of the tumour (of both places if it moved) plus a margin.

    :param before, after: `Volume` of one grid.
    :param mask, old_mask: (K, J, I) bool.
    :raises ValueError: both masks are empty.
    """
    frame = Frame.of(before.direction)
    views = [frame.view(mask)] + ([frame.view(old_mask)] if old_mask is not None else [])
    anywhere = np.logical_or.reduce(views)
    if not anywhere.any():
        raise ValueError("there is no tumour to show: the mask is empty")
    spacing = frame.take(before.spacing[::-1])
    sides = []
    for axis in range(3):
        inside = np.flatnonzero(anywhere.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(margin_mm / spacing[axis]))
        sides.append(slice(max(0, inside[0] - margin), inside[-1] + 1 + margin))
    box = tuple(sides)
    arrays = [frame.view(volume.array)[box].astype(np.float32) for volume in (before, after)]
    masks = [view[box] for view in views]
    same = len(masks) == 1 or np.array_equal(masks[0], masks[1])
    return Crop(*arrays, masks[0], None if same else masks[1], spacing, _tilt(before.direction))


def centre_of(mask: np.ndarray) -> tuple[int, int, int]:
    """(z, y, x) slices through the middle of a mask; each is one that the mask touches."""
    return tuple(
        _middle(mask.any(axis=tuple(o for o in range(3) if o != axis)), mask, axis) for axis in range(3)
    )


def _middle(touched: np.ndarray, mask: np.ndarray, axis: int) -> int:
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    mean = float((counts * np.arange(len(counts))).sum() / counts.sum())
    candidates = np.flatnonzero(touched)
    return int(candidates[np.abs(candidates - mean).argmin()])


def cut(array: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """(H, W) slice of an LPS-ordered (D, H, W) array, oriented as the plane says."""
    picture = np.take(array, index, axis=plane.axis)
    return picture[::-1] if plane.axis else picture


def pixel_spacing(spacing: tuple[float, float, float], plane: Plane) -> tuple[float, float]:
    """(row, column) distance in mm of a plane's pixels."""
    rows, columns = (spacing[axis] for axis in range(3) if axis != plane.axis)
    return rows, columns


def scaled(
    picture: np.ndarray, spacing: tuple[float, float], pixels_per_mm: float, smooth: bool = True
) -> np.ndarray:
    """(H, W) picture with square pixels; smooth as viewers show images, or each voxel as a box."""
    height, width = (max(1, round(n * s * pixels_per_mm)) for n, s in zip(picture.shape, spacing))
    return (resample if smooth else enlarge)(picture, height, width)


def display_window(crop: Crop, modality: str, lung: bool = True) -> tuple[float, float]:
    """(low, high) intensities shown as black and white; the same before and after.

    :param lung: a tumour in lung gets the window of lung, in which it is white all over; else that of soft tissue.
    """
    if Intensity.of(crop.before, modality).is_ct:
        near = crop.mask if crop.old_mask is None else crop.mask | crop.old_mask
        around = crop.before[~near] if (~near).any() else crop.before
        return _LUNG if lung and np.median(around) < _LUNG_BELOW else _SOFT_TISSUE
    low, high = np.percentile(crop.before, _MR_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def grey(picture: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """uint8 picture of intensities in a window."""
    low, high = window
    return (np.clip((picture - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


def difference_limit(crop: Crop) -> float:
    """The difference shown in full colour: what 99 % of the changed voxels stay below."""
    change = np.abs(crop.after - crop.before)
    changed = change[change > 0]
    return float(np.percentile(changed, 99)) if changed.size else 1.0


_LESS, _MORE = (
    np.array([64, 156, 255.0]),
    np.array([255, 150, 50.0]),
)  # blue and orange: told apart by all eyes


def colour_difference(picture: np.ndarray, limit: float) -> np.ndarray:
    """uint8 RGB of a difference: black where nothing changed, blue where darker, orange where brighter."""
    strength = np.clip(np.abs(picture) / limit, 0, 1)[..., None] ** 0.7  # small changes stay visible
    return (np.where(picture[..., None] < 0, _LESS, _MORE) * strength + 0.5).astype(np.uint8)


def outline(mask: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Border of a (H, W) mask along its pixels' edges, as straight segments ((x, y), (x, y)) in pixels."""
    padded = np.pad(mask, 1).astype(np.int8)
    segments = []
    for vertical, edges in (
        (False, np.diff(padded, axis=0)[:, 1:-1]),
        (True, np.diff(padded, axis=1)[1:-1].T),
    ):
        for at, line in enumerate(edges):
            steps = np.flatnonzero(np.diff(np.r_[0, line, 0]))
            for first, last in zip(steps[:-1], steps[1:]):
                if line[first]:
                    ends = ((int(first), at), (int(last), at))
                    segments.append(tuple((y, x) for x, y in ends) if vertical else ends)
    return segments


def _tilt(direction: tuple[float, ...]) -> float:
    """Largest angle in degrees between an axis of the image and the patient's axis nearest to it."""
    columns = np.abs(np.asarray(direction, dtype=np.float64).reshape(3, 3)).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(columns, -1, 1))).max())

"""Pictures of places for readers: three planes through one point, in the windows that radiologists use, all cropped alike.

    python Training/judge_pictures.py Training/results/place-worst.png PICTURE.png PICTURE.png ...

puts pictures of `evaluate.py place --out` on one sheet, two beside each other, at two thirds of their size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from scipy import ndimage

from TumorSynthLib.png import write_png
from TumorSynthLib.region import Frame
from TumorSynthLib.slices import PLANES, cut, grey, pixel_spacing, scaled

WINDOWS = {"lung": (-1350.0, 150.0), "soft": (-160.0, 240.0)}  # width 1500 level -600, width 400 level 40; HU
MR_PERCENTILE = 99.5
SIDE = 256  # pixels of one plane
GAP = 4


def window_of(array: np.ndarray, ct: bool, lung: bool) -> tuple[float, float]:
    """Intensities shown as black and white: the same for an image before and after an edit, so take the one before."""
    return WINDOWS["lung" if lung else "soft"] if ct else (0.0, float(np.percentile(array, MR_PERCENTILE)))


def room_mm(like, mask: np.ndarray) -> np.ndarray:
    """(3, 2) mm from the middle of a mask to both ends of the image, along (z, y, x) LPS."""
    frame = Frame.of(like.direction)
    middle = _middle(frame.view(mask))
    ends = np.stack([middle, frame.view(mask).shape - middle - 1], 1)
    return ends * np.array(frame.take(like.spacing[::-1]))[:, None]


def planes(array: np.ndarray, like, mask: np.ndarray, half_mm: float, window, room=None) -> np.ndarray:
    """(SIDE, 3 SIDE + 2 GAP) uint8: axial, coronal and sagittal through the middle of a mask, `half_mm` to each side; black
    outside the image.

    :param array: (K, J, I) on the grid of the volume `like`.
    :param room: (3, 2) mm to both sides of the middle, as `room_mm` gives them, beyond which it is black, too.
    """
    frame = Frame.of(like.direction)
    view, spacing = frame.view(array).astype(np.float32), frame.take(like.spacing[::-1])
    middle = _middle(frame.view(mask))
    if room is not None:
        steps = np.rint(np.asarray(room) / np.array(spacing)[:, None]).astype(int)
        kept = tuple(slice(max(0, m - a), m + b + 1) for m, (a, b) in zip(middle, steps))
        whole, view = view, np.full_like(view, window[0])
        view[kept] = whole[kept]
    reach = [int(np.ceil(half_mm / s)) for s in spacing]
    padded = np.pad(view, [(r, r) for r in reach], constant_values=window[0])
    box = padded[tuple(slice(m, m + 2 * r + 1) for m, r in zip(middle, reach))]
    shown = []
    for plane in PLANES:
        rows, columns = pixel_spacing(spacing, plane)
        picture = scaled(cut(box, plane, reach[plane.axis]), (rows, columns), SIDE / (2 * half_mm))
        shown += [_square(grey(picture, window)), np.full((SIDE, GAP), 255, np.uint8)]
    return np.concatenate(shown[:-1], 1)


def _middle(mask: np.ndarray) -> np.ndarray:
    """(3,) index of the mask's voxel that is nearest to its centre of mass."""
    where = np.argwhere(mask)
    return where[np.abs(where - where.mean(0)).sum(1).argmin()]


def _square(picture: np.ndarray) -> np.ndarray:
    """The middle of a picture on (SIDE, SIDE) pixels, which it misses by some pixels at most."""
    out = np.zeros((SIDE, SIDE), np.uint8)
    take = [min(SIDE, n) for n in picture.shape]
    source = tuple(slice((n - t) // 2, (n - t) // 2 + t) for n, t in zip(picture.shape, take))
    target = tuple(slice((SIDE - t) // 2, (SIDE - t) // 2 + t) for t in take)
    out[target] = picture[source]
    return out


def strength_figure(path: Path, curves: dict[str, list[tuple[float, float, float]]]):
    """Pattern kept and mean miss over `strength`, a line for each data set (`judge_page.strengths`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, points in curves.items():
        strength, *values = zip(*points)
        for axis, value in zip(axes, values):
            axis.plot(strength, value, "o-", markersize=3, label=name)
    for axis, title in zip(axes, ("pattern kept (correlation)", "asked feature missed by (sd, mean)")):
        axis.set(title=title, xlabel="strength", xticks=(0, 0.3, 0.6, 1))
        axis.title.set_fontsize(9)
    axes[1].set_ylim(0, None)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=72)


def stacked(path: Path, rows: list[np.ndarray]):
    """Pictures of one width below each other."""
    gap = np.full((GAP, rows[0].shape[1]), 255, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(np.concatenate([part for row in rows for part in (row, gap)][:-1], 0), path)


def sheet(path: Path, pictures: list[Path]):
    """Pictures (of two rows each) as one PNG, two beside each other, at two thirds of their size."""
    from matplotlib.image import imread

    rows = []
    for pair in (pictures[i : i + 2] for i in range(0, len(pictures), 2)):
        parts = [ndimage.zoom(ndimage.gaussian_filter(255 * imread(p), 0.5), 2 / 3, order=1) for p in pair]
        parts += [np.zeros_like(parts[0])] * (2 - len(parts))
        gap = np.full((parts[0].shape[0], 2 * GAP), 255)
        rows.append(np.concatenate([parts[0], gap, parts[1]], 1).round().astype(np.uint8))
    stacked(path, rows)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="One sheet of pictures that evaluate.py place --pictures wrote."
    )
    parser.add_argument("path", type=Path, metavar="OUT.png")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE.png")
    return parser


if __name__ == "__main__":
    sheet(**vars(make_parser().parse_args()))

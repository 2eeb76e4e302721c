"""Pictures of tumour shapes: shaded as if lit from the upper left, seen from the front."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from scipy import ndimage

matplotlib.use("Agg")
from matplotlib import pyplot

from TumorSynthLib.shape.coordinates import PREFIX

LIGHT = np.array([0.55, -0.65, 0.53])  # towards it: up (z), to the viewer (-y), left on the page
FINE = 2  # steps per voxel along the line of sight


def shaded(mask: np.ndarray, spacing: tuple[float, float, float], mm: float, side: int = 160) -> np.ndarray:
    """(side, side) grey picture of a (K, J, I) mask from the front, `mm` wide; nan beside the tumour."""
    steps = np.array(spacing[::-1], float)
    smooth = ndimage.gaussian_filter(np.pad(mask, 3).astype(np.float32), 0.9)
    centre = (np.array(smooth.shape) - 1) / 2  # of the box, which is tight
    mm = 1.08 * mm
    line = (np.arange(side) + 0.5) / side * mm - mm / 2
    depth = np.arange(-mm / 2, mm / 2, min(steps) / FINE)
    z, x, y = np.meshgrid(-line, line, depth, indexing="ij")
    index = [z / steps[0] + centre[0], y / steps[1] + centre[1], x / steps[2] + centre[2]]
    values = ndimage.map_coordinates(smooth, index, order=1, cval=0)
    inside = values > 0.5
    hit, first = inside.any(2), inside.argmax(2)
    slopes = np.stack(np.gradient(ndimage.gaussian_filter(smooth, 0.8)))
    at = [np.take_along_axis(i, first[..., None], 2)[..., 0] for i in index]
    normal = -np.stack([ndimage.map_coordinates(s, at, order=1) for s in slopes]) / steps[:, None, None]
    normal /= np.linalg.norm(normal, axis=0) + 1e-9
    light = LIGHT / np.linalg.norm(LIGHT)
    bright = 0.25 + 0.75 * np.clip(np.einsum("i,ihw->hw", light, normal), 0, 1)
    return np.where(hit, bright, np.nan)


def sheet(path: Path, pictures: list[list[np.ndarray]], titles: list[list[str]], above: str):
    """A table of pictures with a line under each."""
    rows, columns = len(pictures), max(map(len, pictures))
    figure, axes = pyplot.subplots(rows, columns, figsize=(1.75 * columns, 1.95 * rows + 0.4), squeeze=False)
    for line, texts, row in zip(pictures, titles, axes):
        for axis in row:
            axis.axis("off")
        for picture, text, axis in zip(line, texts, row):
            axis.imshow(np.where(np.isnan(picture), 1.0, 0.9 * picture), cmap="gray", vmin=0, vmax=1)
            axis.set_title(text, fontsize=7, y=-0.12)
    figure.suptitle(above, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def extent(mask: np.ndarray, spacing) -> float:
    """The longest side (mm) of a mask's box."""
    return float(max(n * s for n, s in zip(mask.shape, spacing[::-1])))


def all_of(folder: Path, model, shapes, found: dict, cases: list, rows: list[dict], seed: int) -> None:
    """The grid, draws for one request, and real tumours beside the ones drawn for their features."""
    wide = max(extent(d.mask, d.spacing) for line in shapes for d in line)
    text = [
        [
            f"{d.reached[PREFIX + 'MeshVolume'] / 1000:.3g} ml, {d.reached[PREFIX + 'Sphericity']:.2f}"
            for d in line
        ]
        for line in shapes
    ]
    sheet(
        folder / "grid.png", [[shaded(d.mask, d.spacing, wide) for d in line] for line in shapes], text,
        "Volume (to the right) by sphericity (down), one scale; below each: reached",
    )  # fmt: skip
    request = {
        PREFIX + n: found[k][2] for n, k in (("MeshVolume", "volumes"), ("Sphericity", "sphericities"))
    }
    edge = (request[PREFIX + "MeshVolume"] / 20_000) ** (1 / 3)
    made = [model.draw(request, (edge,) * 3, seed + k) for k in range(15)]
    wide = max(extent(d.mask, d.spacing) for d in made)
    pictures = [shaded(d.mask, d.spacing, wide) for d in made]
    label = [f"seed {seed + k}" for k in range(15)]
    above = "One volume and sphericity, 15 seeds"
    sheet(
        folder / "draws.png",
        [pictures[k : k + 5] for k in (0, 5, 10)],
        [label[k : k + 5] for k in (0, 5, 10)],
        above,
    )
    _beside(folder / "beside.png", model, cases, rows, seed)


def _beside(path: Path, model, cases: list, rows: list[dict], seed: int):
    """Real above, solved in the middle, the network alone below."""
    asked = {r["case"]: r["asked"] for r in rows}
    kept = list(range(0, len(cases), max(1, len(cases) // 6)))[:6]
    lines: list[list] = [[], [], []]
    titles: list[list] = [[], [], []]
    for i in kept:
        id, _, mask, spacing = cases[i]
        some = [mask] + [model.draw(asked[id], spacing, seed + i, solve=s).mask for s in (True, False)]
        wide = max(extent(m, spacing) for m in some)
        for k, (m, name) in enumerate(zip(some, (id, "solved", "alone"))):
            lines[k].append(shaded(m, spacing, wide))
            titles[k].append(name[-24:])
    sheet(path, lines, titles, "Real tumours, and what is drawn for their 17 features")

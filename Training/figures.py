"""Figures of an evaluation: asked against reached, sweeps, cross-talk, evaluations needed, gallery."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from arms import Bench, Drawn, request_of
from matplotlib import pyplot
from scoring import klass, table

from TumorSynthLib.models.intensity import Intensity


def _save(figure, path: Path, dpi: int = 80):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=dpi)
    pyplot.close(figure)


def scatter(rows: list[dict], population, path: Path, title: str):
    """Asked and reached values of every feature and case, in the population's standard deviations, by class."""
    names = [n for n in request_of(rows[0]["asked"]) if n in population.names]
    where = [population.names.index(n) for n in names]
    mean, sigma = np.asarray(population.mean)[where], np.maximum(np.asarray(population.std)[where], 1e-12)
    asked, reached = ((table(rows, names, k) - mean) / sigma for k in ("asked", "reached"))
    kinds = sorted({klass(n) for n in names})
    figure, axes = pyplot.subplots(
        1, len(kinds), figsize=(3.2 * len(kinds), 3.4), squeeze=False, sharex=True, sharey=True
    )
    for axis, kind in zip(axes[0], kinds):
        part = [klass(n) == kind for n in names]
        axis.plot([-4, 4], [-4, 4], color="0.7", linewidth=0.8)
        axis.plot(asked[:, part].ravel(), reached[:, part].ravel(), ".", markersize=3, alpha=0.5)
        axis.set(title=kind, xlim=(-4, 4), ylim=(-4, 4), xlabel="asked (σ)")
    axes[0][0].set_ylabel("reached (σ)")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def sweep_panels(arm: dict, path: Path, title: str):
    """One panel per driver: a line per case, asked against reached."""
    drivers = arm["drivers"]
    columns = min(5, len(drivers))
    lines = -(-len(drivers) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(2.7 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.ravel()[len(drivers) :]:
        axis.axis("off")
    for axis, (name, found) in zip(axes.ravel(), drivers.items()):
        ends = [np.min(found["asked"]), np.max(found["asked"])]
        axis.plot(ends, ends, color="0.7", linewidth=0.8)
        for asked, reached in zip(found["asked"], found["reached"]):
            axis.plot(asked, reached, "o-", markersize=3, linewidth=0.8)
        axis.set_title(
            f"{name}\nslope {found['slope']:.2f}, monotone {100 * found['monotone']:.0f} %", fontsize=8
        )
        axis.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def cross_talk(arm: dict, names: list[str], path: Path, title: str):
    """Matrix: how far each driver (column) moves per standard deviation asked of one (row)."""
    matrix = np.array(arm["cross_talk"])
    figure, axis = pyplot.subplots(figsize=(6.4, 5.6))
    shown = axis.imshow(matrix, cmap="RdBu_r", vmin=-1.5, vmax=1.5)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(arm["drivers"])), list(arm["drivers"]), fontsize=8)
    for (i, j), v in np.ndenumerate(matrix):
        axis.text(
            j, i, f"{v:.1f}", ha="center", va="center", fontsize=7, color="w" if abs(v) > 0.9 else "0.2"
        )
    axis.set(xlabel="moves (robust σ)", ylabel="asked (per σ)")
    figure.colorbar(shown, shrink=0.7)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def evaluations_curve(found: dict, path: Path, title: str):
    """Median correlation against the number of evaluations, with its interval."""
    counts = [int(n) for n in found["curve"]]
    points = list(found["curve"].values())
    low, high = (
        [p["interval"][k] if p["interval"][k] is not None else np.nan for p in points] for k in (0, 1)
    )
    figure, axis = pyplot.subplots(figsize=(4.6, 3.4))
    axis.fill_between(counts, low, high, alpha=0.2)
    axis.plot(counts, [p["median"] for p in points], "o-")
    axis.axhline(0.99 * found["plateau"], color="0.6", linestyle="--", linewidth=0.8)
    axis.set(xscale="log", xlabel="evaluations of the network", ylabel="median Pearson, network alone")
    axis.set_xticks(counts, [str(n) for n in counts])
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def gallery(bench: Bench, samples: dict[str, list[tuple[int, Drawn]]], path: Path, count: int = 20):
    """A row per case: the real tumour and what each arm made in its mask; the slice with most of the mask."""
    cases = sorted({i for made in samples.values() for i, _ in made})[:count]
    figure, axes = pyplot.subplots(
        len(cases), 1 + len(samples), figsize=(1.7 * (1 + len(samples)), 1.75 * len(cases)), squeeze=False
    )
    for axis, name in zip(axes[0], ["real", *samples]):
        axis.set_title(name, fontsize=8)
    for row, i in zip(axes, cases):
        tumour = bench.tumours[i]
        first = {arm: next((d for k, d in made if k == i), None) for arm, made in samples.items()}
        z = int(tumour.mask.sum((1, 2)).argmax())
        box = _view(tumour.mask[z])
        inside = tumour.volume.array[tumour.mask]
        low, high = _window(bench, tumour.case.modality, inside)
        images = [tumour.volume.array, *(d and d.volume(tumour.volume).array for d in first.values())]
        for axis, image in zip(row, images):
            axis.axis("off")
            if image is not None:  # else the arm was refused
                axis.imshow(image[z][box], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        row[0].contour(tumour.mask[z][box], [0.5], colors="r", linewidths=0.5)
        row[0].text(0, 1, tumour.key, fontsize=5, color="y", va="top")
    _save(figure, path, 90)


def _view(mask: np.ndarray, margin: int = 14) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(a)) for a in (1, 0))
    return tuple(slice(max(0, v[0] - margin), v[-1] + margin) for v in (rows, columns))


def _window(bench: Bench, modality: str, inside: np.ndarray) -> tuple[float, float]:
    """Lung window for lung CT, soft tissue for other CT, the tumour's own range elsewhere."""
    if not Intensity.of(None, modality).is_ct:
        return float(min(0, inside.min())), float(np.percentile(inside, 99) * 1.6)
    return (-1000.0, 400.0) if "lung" in bench.bundle.organ.lower() else (-150.0, 250.0)

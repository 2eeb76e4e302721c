"""Measure a model's shapes against tumours it has never seen: `evaluate.py shape`.

    python Training/evaluate.py shape --model ID --shapes DATA/shapes/lidc_nodule_0p5mm_val.npz --json OUT.json \\
        [--quick] [--pictures DIR] [--parts timings]

`--model` is the id of an installed model or a bundle folder, `--shapes` a file of masks as prepare_shapes.py reads. Each tumour's
17 shape features, measured by pyradiomics at its own grid, are asked for; what is drawn on the same grid is measured by
pyradiomics again. `solved` is the product's way (form of a real tumour, then solver), `alone` the form without it; with
`--network` the form is the network's, as of a model without forms (or the analytic start of one that has no network
either). As a control, `shuffled` pairs each result with another case's request.
Intervals are 95 % bootstraps over patients. The grid asks for volumes and sphericities of the model's population, with one
seed; diversity is the Dice of 50 draws for one request, and beside all 17 features of a tumour that of its own mirror images,
which have the same features: what they fix alone. Coverage compares draws for no request with the file's tumours, all
scaled to one volume. Timings hold for the machine they were taken on: seconds of the clock, and of processor time, which
says more where it is busy with other things; `others` is the share of its cores that these took. Looks
are those of real tumours of the file and of one drawn for the volume of each, on its grid: share lost to an opening by a
ball of two voxels, solidity (part of the convex hull), bending (mean absolute curvature of the surface times the radius of the
ball of the same volume), lobulation and spiculation (3-6 and 7-20 waves around the silhouettes, of their mean radius): share of
the drawn ones within the 5th to 95th percentile of the real ones (of which .90 are), and the AUC of silhouettes told apart by
logistic regression and a random forest across patients. `--parts` measures some of
it and leaves what OUT.json has of the others, so that timings can be taken later, on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from prepare_shapes import masks

from TumorSynthLib.models import find, load_bundle
from TumorSynthLib.shape import ShapeModel
from TumorSynthLib.shape.coordinates import NAMES, PREFIX, short
from TumorSynthLib.shaping import Shaper

VOLUME, SPHERICITY = PREFIX + "MeshVolume", PREFIX + "Sphericity"
LEVELS = (10, 30, 50, 70, 90)  # percentiles of the population along each side of the grid
QUICK_CASES, DRAWS, QUICK_DRAWS = 12, 50, 12
COMPARED = 4000  # voxels of a shape that is compared with others
BOOTSTRAPS = 300
PARTS = ("fidelity", "grid", "diversity", "coverage", "looks", "timings")
OPENED = 2  # voxels of the ball by which a shape is opened
BEYOND_BODY = 2000  # voxels of the smallest tumour whose looks are told
LOBES, SPICULES = (3, 6), (7, 20)  # waves around a silhouette


def pyradiomics_shape(mask: np.ndarray, spacing) -> dict[str, float]:
    """The 17 shape features by pyradiomics."""
    import SimpleITK as sitk
    from radiomics import setVerbosity
    from radiomics.shape import RadiomicsShape

    setVerbosity(60)
    label = sitk.GetImageFromArray(mask.astype(np.uint8))
    label.SetSpacing([float(s) for s in spacing])
    found = RadiomicsShape(label, label)
    for name in NAMES:
        found.enableFeatureByName(short(name))
    return {PREFIX + name: float(value) for name, value in found.execute().items()}


def correlations(rows: list[dict], shuffled: bool = False) -> np.ndarray:
    """(17,) Pearson of asked and reached across cases; `shuffled` pairs results with the next case's request."""
    asked, reached = (np.array([[r[k][n] for n in NAMES] for r in rows]) for k in ("asked", "reached"))
    if shuffled:
        asked = np.roll(asked, 1, axis=0)
    with np.errstate(invalid="ignore"):
        return np.array([np.corrcoef(asked[:, k], reached[:, k])[0, 1] for k in range(len(NAMES))])


def interval(rows: list[dict], statistic) -> list[float | None]:
    """95 % bootstrap interval over patients; of fewer than three there is none."""
    rng = np.random.default_rng(0)
    groups: dict = {}
    for row in rows:
        groups.setdefault(row["patient"], []).append(row)
    names = sorted(groups)
    if len(names) < 3:
        return [None, None]
    values = []
    for _ in range(BOOTSTRAPS):
        drawn = rng.choice(names, len(names))
        if len(set(drawn)) > 2:
            values.append(statistic([r for p in drawn for r in groups[p]]))
    return [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]


def table(rows: list[dict]) -> dict:
    """How well one arm reaches what is asked."""
    every = correlations(rows)
    order = np.argsort(every)
    error = [abs(r["reached"][VOLUME] / r["asked"][VOLUME] - 1) for r in rows]
    relative = [[abs(r["reached"][n] / r["asked"][n] - 1) for n in NAMES] for r in rows]
    return {
        "cases": len(rows), "patients": len({r["patient"] for r in rows}),
        "median": float(np.median(every)), "interval": interval(rows, lambda some: float(np.nanmedian(correlations(some)))),
        "worst": float(every.min()), "worst_interval": interval(rows, lambda some: float(np.nanmin(correlations(some)))),
        "worst_features": {short(NAMES[k]): float(every[k]) for k in order[:5]},
        "shuffled": float(np.median(correlations(rows, True))),
        "volume_error": {"mean": float(np.mean(error)), "largest": float(np.max(error))},
        "relative_error": {short(n): float(e) for n, e in zip(NAMES, np.median(relative, axis=0))},
        "seconds": {"median": float(np.median([r["seconds"] for r in rows])), "largest": max(r["seconds"] for r in rows)},
    }  # fmt: skip


def fidelity(model: ShapeModel, cases: list, seed: int) -> list[dict]:
    """One row per case and arm."""
    rows = []
    for i, (id, patient, mask, spacing) in enumerate(cases):
        asked = pyradiomics_shape(mask, spacing)
        for arm in ("solved", "alone"):
            start = time.perf_counter()
            drawn = model.draw(asked, spacing, seed + i, solve=arm == "solved")
            seconds = time.perf_counter() - start
            reached = pyradiomics_shape(drawn.mask, spacing)
            row = {"case": id, "patient": patient, "arm": arm, "voxels": int(mask.sum()), "seconds": seconds}
            rows.append(row | {"asked": asked, "reached": reached})
        print(f"{i + 1}/{len(cases)} {id}", flush=True)
    return rows


def levels(model: ShapeModel) -> tuple[list[float], list[float]]:
    """Volumes (mm³) and sphericities of the grid."""
    return tuple([list(model.population.quantiles(n, LEVELS)) for n in (VOLUME, SPHERICITY)])


def grid(model: ShapeModel, seed: int) -> tuple[dict, list]:
    """Volume by sphericity: what is reached, and whether it rises along every row and column."""
    volumes, sphericities = levels(model)
    shapes = [
        [model.draw({VOLUME: v, SPHERICITY: s}, (_edge(v),) * 3, seed) for v in volumes] for s in sphericities
    ]
    volume, sphericity = (
        np.array([[d.reached[n] for d in line] for line in shapes]) for n in (VOLUME, SPHERICITY)
    )
    found = {
        "volumes": volumes, "sphericities": sphericities, "reached_volume": volume.tolist(),
        "reached_sphericity": sphericity.tolist(), "rows_monotone": int((np.diff(volume, axis=1) > 0).all(1).sum()),
        "columns_monotone": int((np.diff(sphericity, axis=0) > 0).all(0).sum()), "of": len(LEVELS),
    }  # fmt: skip
    return found, shapes


def _edge(volume: float, voxels: int = COMPARED) -> float:
    """Edge (mm) of voxels of which a volume (mm³) has that many."""
    return float((volume / voxels) ** (1 / 3))


def laid(mask: np.ndarray, side: int = 64) -> np.ndarray:
    """A mask in a cube of `side` voxels with its centre of mass in the middle (cut where it is longer)."""
    centre = np.round(np.argwhere(mask).mean(0))
    result = np.zeros((side,) * 3, bool)
    points = np.argwhere(mask) - centre.astype(int) + side // 2
    points = points[((points >= 0) & (points < side)).all(1)]
    result[tuple(points.T)] = True
    return result


def dices(some: list[np.ndarray], others: list[np.ndarray]) -> np.ndarray:
    """(n, m) Dice of all pairs of laid masks."""
    a, b = (np.stack([m.ravel() for m in part]).astype(np.float32) for part in (some, others))
    return 2 * (a @ b.T) / (a.sum(1)[:, None] + b.sum(1)[None])


def diversity(model: ShapeModel, cases: list, draws: int, seed: int) -> dict:
    """Mean Dice of pairs of draws for one request: two features, the six sliders, and all 17 of the median case."""
    middle = {n: model.population.quantiles(n, (50,))[0] for n in NAMES}
    sliders = ("MeshVolume", "SurfaceArea", "Maximum3DDiameter", "Sphericity", "Elongation", "Flatness")
    ordered = sorted(cases, key=lambda c: c[2].sum() * np.prod(c[3]))
    _, _, mask, spacing = ordered[len(ordered) // 2]
    own = pyradiomics_shape(mask, spacing)
    requests = {
        "volume and sphericity": {n: middle[n] for n in (VOLUME, SPHERICITY)},
        "all sliders but the surface": {PREFIX + n: own[PREFIX + n] for n in sliders if n != "SurfaceArea"},
        "all 17": own,
    }
    out = {}
    for name, request in requests.items():
        edge = _edge(request[VOLUME])
        made = [laid(model.draw(request, (edge,) * 3, seed + k).mask) for k in range(draws)]
        pairs = dices(made, made)[np.triu_indices(draws, 1)]
        out[name] = {"dice": float(pairs.mean()), "largest": float(pairs.max()), "draws": draws}
    out["all 17"]["mirrored"] = mirrored(mask, spacing)
    return out


def mirrored(mask: np.ndarray, spacing) -> float:
    """Mean Dice of pairs of the eight mirror images of a mask."""
    from TumorSynthLib.shape.field import from_mask
    from TumorSynthLib.shape.solver import Form, draw

    values, matrix = from_mask(mask, spacing)
    edge = _edge(float(mask.sum() * np.prod(spacing)))
    turns = (np.diag(signs) for signs in itertools.product((1.0, -1.0), repeat=3))
    images = [laid(draw(Form(values, turn @ matrix), (edge,) * 3).mask) for turn in turns]
    return float(dices(images, images)[np.triu_indices(len(images), 1)].mean())


def coverage(model: ShapeModel, cases: list, draws: int, seed: int) -> dict:
    """Dice with the nearest neighbour, all scaled to one volume: of real with drawn, drawn with real, real with real."""
    from TumorSynthLib.shape.field import from_mask
    from TumorSynthLib.shape.solver import Form, draw

    real = []
    for _, _, mask, spacing in cases[: 2 * draws]:
        real.append(
            laid(
                draw(Form(*from_mask(mask, spacing)), (_edge(float(mask.sum() * np.prod(spacing))),) * 3).mask
            )
        )
    made = []
    for k in range(draws):
        edge = _edge(model._start(None, seed + k)[1].features[VOLUME])
        made.append(laid(model.draw(None, (edge,) * 3, seed + k).mask))
    among, between = dices(real, real), dices(real, made)
    np.fill_diagonal(among, 0)
    usual = np.median(among.max(1))
    return {
        "real to drawn": float(between.max(1).mean()), "drawn to real": float(between.max(0).mean()),
        "real to real": float(among.max(1).mean()), "covered": float((between.max(1) >= usual).mean()),
        "real": len(real), "drawn": len(made),
    }  # fmt: skip


def looks(model: ShapeModel, cases: list, seed: int) -> dict:
    """How like grown tumours the drawn ones look; each of the file's tumours beside one drawn for its volume."""
    kept = [c for c in cases if c[2].sum() >= BEYOND_BODY]
    real, made, outlines, labels, patients = [], [], [], [], []
    for i, (_, patient, mask, spacing) in enumerate(kept):
        volume = pyradiomics_shape(mask, spacing)[VOLUME]
        drawn = model.draw({VOLUME: volume}, spacing, seed + i).mask
        for label, one, found in ((0, mask, real), (1, drawn, made)):
            lines = silhouettes(one, spacing)
            found.append(look(one, spacing) | waviness(lines))
            outlines += list(lines)
            labels += [label] * len(lines)
            patients += [patient] * len(lines)
    out = {"tumours": len(kept), "patients": len(set(patients)), "features": {}}
    for name in real[0] if real else ():
        a, b = (np.array([row[name] for row in rows]) for rows in (real, made))
        low, high = np.percentile(a, [5, 95])
        out["features"][name] = {
            "real 5, 50, 95": [float(v) for v in np.percentile(a, [5, 50, 95])],
            "made 5, 50, 95": [float(v) for v in np.percentile(b, [5, 50, 95])],
            "made within": float(((b >= low) & (b <= high)).mean()),
        }
    out["silhouettes"] = told_apart(np.array(outlines), np.array(labels), np.array(patients))
    return out


def look(mask: np.ndarray, spacing) -> dict[str, float]:
    """Share lost to the opening, solidity, and bending of a mask."""
    from scipy import ndimage
    from scipy.spatial import ConvexHull
    from skimage import measure

    mask = np.pad(mask, OPENED + 2)
    ball = np.sum((np.indices((2 * OPENED + 1,) * 3) - OPENED) ** 2, 0) <= OPENED**2
    opened = ndimage.binary_opening(mask, ball)
    steps = np.array(spacing[::-1], float)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
    points, faces, normals, _ = measure.marching_cubes(soft, 0.5, spacing=tuple(steps))
    hull = ConvexHull(points).volume
    corners = points[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    volume = abs(np.einsum("fi,fi->f", corners[:, 0], cross).sum()) / 6
    slope = np.stack(np.gradient(soft, *steps))
    unit = slope / (np.linalg.norm(slope, axis=0) + 1e-6)
    bend = 0.5 * sum(np.gradient(unit[k], steps[k], axis=k) for k in range(3))
    at = ndimage.map_coordinates(bend, (points / steps).T, order=1)
    weight = np.bincount(faces.ravel(), np.repeat(np.linalg.norm(cross, axis=1), 3), len(points))
    radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
    return {
        "opening": float(1 - opened.sum() / mask.sum()), "solidity": float(volume / hull),
        "bending": float(radius * np.average(np.abs(at), weights=weight)),
    }  # fmt: skip


def silhouettes(mask: np.ndarray, spacing, waves: int = 20) -> np.ndarray:
    """(3, 3 + waves) descriptors of a mask's outlines from three sides, free of size, place, turn and mirroring.

    Solidity, roundness, length of the box by its width, and the heights of the waves around the outline, by the mean radius.
    """
    from scipy import ndimage
    from skimage import measure

    steps, found = np.array(spacing[::-1], float), []
    for axis in range(3):
        across = np.delete(steps, axis)
        flat = ndimage.zoom(
            np.pad(mask.any(axis), 2).astype(float), across / across.min(), order=1, grid_mode=True
        )
        shape = max(measure.regionprops(measure.label(flat > 0.5)), key=lambda r: r.area)
        line = max(
            measure.find_contours(ndimage.gaussian_filter(np.pad(shape.image.astype(float), 3), 0.7), 0.5),
            key=len,
        )
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        places = np.linspace(0, length[-1], 128, endpoint=False)
        path = np.interp(places, length, line[:, 0]) + 1j * np.interp(places, length, line[:, 1])
        power = np.abs(np.fft.fft(path) / 128)
        high = np.hypot(power[2 : waves + 2], power[-1 : -waves - 1 : -1]) / max(power[1], power[-1])
        round_ = 4 * np.pi * shape.area / length[-1] ** 2
        longer = shape.axis_minor_length / max(shape.axis_major_length, 1e-6)
        found.append([shape.solidity, round_, longer, *np.log(high + 1e-4)])
    return np.array(found)


def waviness(outlines: np.ndarray) -> dict[str, float]:
    """Lobulation and spiculation of (3, 3 + waves) silhouettes' descriptors."""
    power = np.exp(outlines[:, 3:]) ** 2
    parts = {"lobulation": LOBES, "spiculation": SPICULES}
    return {n: float(np.sqrt(power[:, a - 1 : b].sum(1)).mean()) for n, (a, b) in parts.items()}


def told_apart(x: np.ndarray, label: np.ndarray, patient: np.ndarray, folds: int = 5) -> dict:
    """AUC of made against real silhouettes, judged by detectors that never saw the patient; controls with labels at random."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = np.unique(patient)
    if len(names) < 2 * folds:
        return {"auc": None, "control": None}

    def auc(y: np.ndarray) -> float:
        score = np.zeros(len(y))
        for train, test in GroupKFold(folds).split(x, y, patient):
            for one in (
                make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
                RandomForestClassifier(200, min_samples_leaf=3, random_state=0),
            ):
                score[test] += one.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
        return float(roc_auc_score(y, score))

    rng = np.random.default_rng(0)
    swapped = np.array([rng.random() < 0.5 for _ in range(len(label) // 3)]).repeat(3)
    return {"auc": auc(label), "control": auc(np.where(swapped, 1 - label, label))}


def timings(model: ShapeModel, cases: list, quick: bool) -> dict:
    """Seconds of a preview after a slider moved, and of solved shapes at 1 mm: of two features, and of all 17 of real tumours."""
    volumes, sphericities = levels(model)
    out: dict = {"cores": os.cpu_count()}
    before = _busy(), time.process_time(), time.perf_counter()
    model.preview({VOLUME: volumes[0]}, 0)
    asked = [{VOLUME: v, SPHERICITY: s} for v in volumes for s in sphericities][:: 3 if quick else 1]
    out["preview"] = _timed(lambda request: model.preview(request, 1), asked)
    largest = model.population.quantiles(VOLUME, (95,))[0]
    voxels = {"median tumour": volumes[2], "95th percentile": largest}
    for name, volume in voxels.items():
        if volume < 100:  # at 1 mm
            continue
        requests = [{VOLUME: volume, SPHERICITY: s} for s in sphericities[:: 2 if quick else 1]]
        out[f"solved at 1 mm, {name}"] = _timed(lambda request: model.draw(request, (1, 1, 1), 1), requests)
        out[f"solved at 1 mm, {name}"]["ml"] = volume / 1000
    ordered = sorted((c[2].sum() * np.prod(c[3]), k) for k, c in enumerate(cases))
    some = [cases[k] for volume, k in ordered if volume >= 100]
    requests = [pyradiomics_shape(c[2], c[3]) for c in some[:: max(1, len(some) // (3 if quick else 10))]]
    if requests:
        out["solved at 1 mm, all 17"] = _timed(lambda request: model.draw(request, (1, 1, 1), 1), requests)
    if before[0] is not None:
        others = _busy() - before[0] - (time.process_time() - before[1])
        out["others"] = max(0.0, others / (time.perf_counter() - before[2]) / out["cores"])
    return out


def _busy() -> float | None:
    """Seconds that all cores have worked since the machine started; None where it isn't told (outside Linux)."""
    try:
        line = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, *interrupts = map(int, line[:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _timed(call, requests: list) -> dict:
    clock, processor = [], []
    for request in requests:
        start = time.perf_counter(), time.process_time()
        call(request)
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {
        "median": float(np.median(clock)), "largest": max(clock), "processor_median": float(np.median(processor)),
        "processor_largest": max(processor), "times": len(clock),
    }  # fmt: skip


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(
        prog="evaluate.py shape", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", required=True, help="id of an installed model, or a bundle's folder")
    p.add_argument("--shapes", type=Path, required=True)
    p.add_argument(
        "--also",
        type=Path,
        help="masks of further tumours, whose looks count, too: those of train where val is small",
    )
    p.add_argument("--json", type=Path, required=True)
    p.add_argument("--pictures", "--figures", type=Path, help="folder for pictures")
    p.add_argument("--network", action="store_true", help="as the network draws, without the model's forms")
    p.add_argument("--quick", action="store_true", help="a dozen cases and draws")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(arguments)
    if a.pictures and not {"fidelity", "grid"} <= set(a.parts):
        p.error("--pictures shows the parts fidelity and grid: measure both")
    return a


def measured(a, model: ShapeModel, cases: list) -> tuple[dict, list[dict], list]:
    """The asked parts of the results; rows and shapes of the grid for the pictures."""
    draws = QUICK_DRAWS if a.quick else DRAWS
    out = {}
    rows = []
    shapes: list = []
    if "fidelity" in a.parts:
        rows = fidelity(model, cases, a.seed)
        out["results"] = {arm: table([r for r in rows if r["arm"] == arm]) for arm in ("solved", "alone")}
        a.json.with_suffix(".rows.json").write_text(json.dumps(rows))
    if "grid" in a.parts:
        out["grid"], shapes = grid(model, a.seed)
    if "diversity" in a.parts:
        out["diversity"] = diversity(model, cases, draws, a.seed)
    if "coverage" in a.parts:
        out["coverage"] = coverage(model, cases, draws, a.seed)
    if "looks" in a.parts:
        out["looks"] = looks(model, cases + (list(masks(a.also)) if a.also else []), a.seed)
    if "timings" in a.parts:
        out["timings"] = timings(model, cases, a.quick)
    return out, rows, shapes


def main(arguments: list[str] | None = None) -> None:
    a = parse(arguments)
    bundle = load_bundle(Path(a.model)) if Path(a.model).is_dir() else find(a.model)
    model = ShapeModel.from_bundle(bundle, grown=False) if a.network else Shaper(bundle, "auto").model
    cases = list(masks(a.shapes))
    if a.quick:
        cases = cases[:: max(1, len(cases) // QUICK_CASES)][:QUICK_CASES]
    given = "".join(
        f" --{name} DATA/{'/'.join(p.parts[-2:])}"
        for name, p in (("shapes", a.shapes), ("also", a.also))
        if p
    )
    command = f"python Training/evaluate.py shape --model {bundle.id}{given} --json OUT.json"
    head = {
        "task": "shape", "model": bundle.id, "version": bundle.version, "network": model.network is not None,
        "forms": 0 if model.forms is None else len(model.forms.masks),
        "command": command + (" --network" * a.network + " --quick" * a.quick) + f" --seed {a.seed}",
    }  # fmt: skip
    a.json.parent.mkdir(parents=True, exist_ok=True)
    found, rows, shapes = measured(a, model, cases)
    out = {**head, **_kept(a.json, head), **found}
    a.json.write_text(json.dumps(out, indent=1) + "\n")
    if a.pictures:
        import shape_pictures

        shape_pictures.all_of(a.pictures, model, shapes, out["grid"], cases, rows, a.seed)
    print(json.dumps(out, indent=1))


def _kept(path: Path, head: dict) -> dict:
    """What a file has of the same command's parts, which are measured one by one; nothing of another model or command."""
    if not path.is_file():
        return {}
    old = json.loads(path.read_text())
    return old if all(old.get(k) == v for k, v in head.items()) else {}


if __name__ == "__main__":
    main()

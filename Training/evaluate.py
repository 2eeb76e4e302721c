"""Measure a model on patients it has never seen, and write what was found.

    python Training/evaluate.py texture --model ID --data DATA/sts/val --json OUT.json [--quick] [--pictures DIR]
    python Training/evaluate.py removal --model ID --data DATA/sts/val --json OUT.json [--quick] [--pictures DIR]
    python Training/evaluate.py removal --model ID --image CT.nrrd --mask LUNG_TUMOUR.nrrd --json OUT.json

`--model` is the id of an installed model or a bundle folder. `--data` has <ID>_<MODALITY>_image.nii.gz and
..._mask.nii.gz. Every number comes from the edited file's voxels, re-extracted by pyradiomics (not by our extractor)
with the model's own parameter file; intervals are 95 % bootstraps over patients.

texture: each case is synthesized with its own features and with another patient's (those that don't grow with the
region), by three arms: `network`, `full` (network + solver, the default of the product) and `field` (solver on a
Gaussian field, no network). Controls: `shuffled` pairs each result of `full` with another case's request.
removal: holes of real tumour shapes are cut into healthy places and filled; PSNR and SSIM inside the hole + 5 mm,
next to scikit-image's biharmonic inpainting.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from prepare import CLASSES, cases, window
from scipy import ndimage, stats

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import find, load_bundle
from TumorSynthLib.radiomics import FEATURES
from TumorSynthLib.region import Region
from TumorSynthLib.texture.solver import gaussian_field, solve
from TumorSynthLib.volume import read_image, read_mask

AUDIT = ("gldm", "ngtdm", "glcm_other")  # never seen by the solver
OTHER_BIN = 0.6  # the audit's second bin width, as a share of the model's
WINDOWS = {"CT": {"sts": (-150.0, 250.0), "lung": (-1000.0, 400.0)}, "T1": {"sts": (0.0, 1200.0)}}


def pyradiomics_features(volume, mask, settings: dict) -> dict[str, float]:
    """All texture features by pyradiomics, plus GLCM at another bin width as `original_glcm_other_*`."""
    import SimpleITK as sitk
    from radiomics import featureextractor, setVerbosity

    setVerbosity(logging.CRITICAL)
    image = volume.sitk()
    label = sitk.GetImageFromArray(mask.astype(np.uint8))
    label.CopyInformation(image)
    found = {}
    for classes, scale, rename in (
        (("firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm"), 1.0, ""),
        (("glcm",), OTHER_BIN, "_other"),
    ):
        options = {**settings, "binWidth": settings["binWidth"] * scale}
        extractor = featureextractor.RadiomicsFeatureExtractor(**options)
        extractor.disableAllFeatures()
        for name in classes:
            extractor.enableFeatureClassByName(name)
        values = extractor.execute(image, label)
        for k, v in values.items():
            if k.startswith("original_"):
                found[k.replace("glcm_", f"glcm{rename}_")] = float(v)
    return found


def klass(name: str) -> str:
    return name.split("_")[1] + ("_other" if "_other_" in name else "")


def size_free(name: str) -> bool:
    return FEATURES[name.replace("glcm_other", "glcm")].size == "free"


def field_arm(bundle, modality, volume, mask, request, seed):
    """Solver on a Gaussian field: the control without a network."""
    region = Region.around(volume, mask, tuple(bundle.json["spacing_mm"]), bundle.json["margin_mm"])
    inside = region.array[region.mask]
    noise = gaussian_field(region.mask, region.spacing, 3.0, seed)
    sample = region.array.copy()
    sample[region.mask] = inside.mean() + inside.std() * noise[region.mask]
    population, settings = bundle.population(modality), bundle.settings(modality)
    solved = solve(sample, region.mask, request, population, settings, spacing=region.spacing, region=region)
    native = solved.native if solved.native is not None else solved.array
    return volume.with_array(region.paste(native))


def run_texture(a, bundle) -> list[dict]:
    """One row per (case, request, arm): asked and reached values of every texture feature."""
    editor, rows = Editor(bundle, a.device), []
    found = list(cases("sts", a.data))
    loaded = [(c, *_load(c)) for c in found]
    loaded = [item for item in loaded if item[0].modality in bundle.json["modalities"]]
    if a.quick:
        loaded = loaded[:: max(1, len(loaded) // 12)]
    own = [_measure(bundle, c.modality, v, m) for c, v, m in loaded]
    for i, (case, volume, mask) in enumerate(loaded):
        mates = [
            j
            for j, other in enumerate(loaded)
            if other[0].modality == case.modality and other[0].patient != case.patient
        ]
        donor = own[mates[(7 * i) % len(mates)]]
        for kind, asked in (("own", own[i]), ("donor", donor)):
            request = {n: v for n, v in asked.items() if klass(n) in CLASSES and size_free(n)}
            for arm in ("network", "full", "field"):
                start = time.perf_counter()
                try:
                    edited = _edit(editor, bundle, case, volume, mask, request, arm, a.seed)
                except InputError as error:
                    print(f"{case.id} {kind} {arm}: refused: {error}", flush=True)
                    continue
                seconds = time.perf_counter() - start
                reached = _measure(bundle, case.modality, edited, mask)
                rows.append(
                    {
                        "case": case.id,
                        "patient": case.patient,
                        "modality": case.modality,
                        "request": kind,
                        "arm": arm,
                        "seconds": seconds,
                        "voxels": int(mask.sum()),
                        "asked": asked,
                        "reached": reached,
                    }
                )
        print(f"{i + 1}/{len(loaded)} {case.id} {case.modality} {seconds:.1f} s", flush=True)
    return rows


def _load(case):
    volume = read_image(case.image)
    return volume, read_mask(case.mask, like=volume)


def _measure(bundle, modality, volume, mask):
    return pyradiomics_features(volume, mask, bundle.settings(modality).to_pyradiomics())


def _edit(editor, bundle, case, volume, mask, request, arm, seed):
    if arm == "field":
        return field_arm(bundle, case.modality, volume, mask, request, seed)
    wish = EditRequest(features=request, modality=case.modality, seed=seed, solve=arm == "full")
    return editor.synthesize(volume, mask, wish).volume


def correlations(rows: list[dict], names: list[str], shuffle: bool = False) -> dict[str, float]:
    """Pearson of asked against reached across cases, per feature; `shuffle` pairs results with the next case's request."""
    asked = np.array([[r["asked"][n] for n in names] for r in rows])
    reached = np.array([[r["reached"][n] for n in names] for r in rows])
    if shuffle:
        asked = np.roll(asked, 1, axis=0)
    out = {}
    for k, name in enumerate(names):
        if asked[:, k].std() > 0 and reached[:, k].std() > 0:
            out[name] = float(np.corrcoef(asked[:, k], reached[:, k])[0, 1])
    return out


def interval(rows: list[dict], statistic, draws: int = 300) -> list[float]:
    """95 % bootstrap interval of a statistic of rows, resampling patients."""
    rng, patients = np.random.default_rng(0), sorted({r["patient"] for r in rows})
    groups = {p: [r for r in rows if r["patient"] == p] for p in patients}
    values = []
    for _ in range(draws):
        drawn = [r for p in rng.choice(patients, len(patients)) for r in groups[p]]
        if len({r["patient"] for r in drawn}) > 2:
            values.append(statistic(drawn))
    return [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]


def summary(rows: list[dict], names: list[str], population) -> dict:
    """Feature-wise medians with intervals per class, the worst features, the shuffled control and case-wise values."""
    out = {"cases": len(rows), "patients": len({r["patient"] for r in rows}), "classes": {}}
    for kind in sorted({klass(n) for n in names}):
        part = [n for n in names if klass(n) == kind]

        def middle(some, part=part):
            return float(np.median(list(correlations(some, part).values()) or [np.nan]))

        shuffled = float(np.median(list(correlations(rows, part, True).values()) or [np.nan]))
        out["classes"][kind] = {
            "median": middle(rows),
            "interval": interval(rows, middle),
            "shuffled": shuffled,
        }
    every = correlations(rows, names)
    out["worst"] = dict(sorted(every.items(), key=lambda kv: kv[1])[:5])
    steered = [n for n in names if klass(n) in CLASSES and n in population.names]
    where = [population.names.index(n) for n in steered]
    mean, sigma = np.asarray(population.mean)[where], np.maximum(np.asarray(population.std)[where], 1e-12)
    z = [[(np.array([r[k][n] for n in steered]) - mean) / sigma for k in ("asked", "reached")] for r in rows]
    out["case_pearson"] = float(np.mean([np.corrcoef(*p)[0, 1] for p in z]))
    out["case_spearman"] = float(np.mean([stats.spearmanr(*p).statistic for p in z]))
    out["mean_difference_sigma"] = float(np.mean([np.abs(p[1] - p[0]).mean() for p in z]))
    out["seconds_median"] = float(np.median([r["seconds"] for r in rows]))
    return out


def texture(a, bundle) -> dict:
    rows = run_texture(a, bundle)
    names = [n for n in rows[0]["asked"] if size_free(n)]
    out = {"task": "texture", "model": bundle.json["id"], "version": bundle.json["version"], "results": {}}
    for modality in sorted({r["modality"] for r in rows}):
        for kind in ("own", "donor"):
            for arm in ("network", "full", "field"):
                part = [r for r in rows if (r["modality"], r["request"], r["arm"]) == (modality, kind, arm)]
                if len({r["patient"] for r in part}) > 2:
                    key = f"{modality} {kind} {arm}"
                    out["results"][key] = summary(part, names, bundle.population(modality))
                    medians = {k: round(v["median"], 3) for k, v in out["results"][key]["classes"].items()}
                    print(
                        key, medians, "case-wise", round(out["results"][key]["case_pearson"], 3), flush=True
                    )
    out["rows"] = rows
    return out


def healthy_places(volume, mask, holes, count, rng, lung: bool):
    """(hole mask, box) pairs: tumour-shaped holes at places without tumour, whole inside the image (and inside lung)."""
    image = volume.array.astype(np.float32)
    allowed = ~ndimage.binary_dilation(mask, iterations=2)
    if lung:
        smooth = ndimage.gaussian_filter(image, (1, 3, 3))
        allowed &= (smooth > -960) & (smooth < -650)
    elif image.min() < -500:
        allowed &= image > -300
    else:
        allowed &= image > 0.1 * np.percentile(image, 95)
    found = []
    for _ in range(60 * count):
        hole = holes[rng.integers(len(holes))]
        if any(h >= s for h, s in zip(hole.shape, image.shape)):
            continue
        corner = np.array([rng.integers(0, s - h + 1) for s, h in zip(image.shape, hole.shape)])
        if window(allowed, corner, hole.shape, "zero")[hole].mean() > 0.97:
            full = np.zeros(image.shape, bool)
            full[tuple(slice(c, c + s) for c, s in zip(corner, hole.shape))] = hole
            full &= ~mask
            found.append(full)
        if len(found) == count:
            break
    return found


def tumour_shapes(loaded, spacing, limit_mm: float) -> list[np.ndarray]:
    """Real tumour masks, shrunk to at most limit_mm across, on a grid of `spacing` (x, y, z)."""
    shapes = []
    for _, volume, mask in loaded:
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        crop = mask[box].astype(np.float32)
        extent = np.array(crop.shape) * np.array(volume.spacing[::-1])
        for target in (0.5 * limit_mm, limit_mm):
            factor = (
                min(1.0, target / extent.max()) * np.array(volume.spacing[::-1]) / np.array(spacing[::-1])
            )
            shape = ndimage.zoom(crop, factor, order=1) > 0.5
            if shape.sum() > 60:
                shapes.append(shape)
    return shapes


def psnr_ssim(truth, result, where, low, high) -> tuple[float, float]:
    """PSNR (dB) and mean SSIM inside `where` at the window [low, high]."""
    from skimage.metrics import structural_similarity

    t, r = (np.clip((x.astype(np.float64) - low) / (high - low), 0, 1) for x in (truth, result))
    error = np.mean((t - r)[where] ** 2)
    size = min(7, min(t.shape) - (1 - min(t.shape) % 2))
    _, full = structural_similarity(t, r, data_range=1.0, full=True, win_size=max(3, size))
    return float(-10 * np.log10(max(error, 1e-12))), float(full[where].mean())


def removal(a, bundle) -> dict:
    from skimage.restoration import inpaint_biharmonic

    editor, rng, rows = Editor(bundle, a.device), np.random.default_rng(a.seed), []
    lung = "lung" in bundle.json["organ"].lower()
    if a.image:
        volume = read_image(a.image)
        loaded = [(None, volume, read_mask(a.mask, like=volume))]
        spared = tumour_shapes(loaded, volume.spacing, 25.0)
        count = 4 if a.quick else 12
    else:
        loaded = [(c, *_load(c)) for c in cases("sts", a.data) if c.modality in bundle.json["modalities"]]
        loaded, spared, count = (
            loaded[:: 8 if a.quick and len(loaded) > 24 else 1],
            None,
            1 if a.quick or lung else 3,
        )
    limit = 14.0 if lung else 40.0
    for case, volume, mask in loaded:
        modality = case.modality if case else bundle.json["modalities"][0]
        low, high = WINDOWS[modality]["lung" if lung else "sts"]
        holes = spared or tumour_shapes(loaded[:40], volume.spacing, limit)
        for hole in healthy_places(volume, mask, holes, count, rng, lung and a.image is not None):
            margin = np.ceil(15.0 / np.array(volume.spacing[::-1])).astype(int)
            box = tuple(
                slice(max(0, s.start - m), s.stop + m)
                for s, m in zip(ndimage.find_objects(hole.astype(np.uint8))[0], margin)
            )
            distance = ndimage.distance_transform_edt(~hole[box], volume.spacing[::-1])
            edited = editor.remove(volume, hole, EditRequest(modality=modality, seed=a.seed)).volume.array[
                box
            ]
            truth = volume.array[box].astype(np.float32)
            smooth = inpaint_biharmonic(np.where(hole[box], 0, truth).astype(np.float64), hole[box])
            row = {
                "case": case.id if case else a.image.name,
                "patient": case.patient if case else a.image.name,
                "modality": modality,
                "voxels": int(hole.sum()),
            }
            for arm, result in (("model", edited), ("biharmonic", smooth)):
                row[arm] = psnr_ssim(truth, result, distance <= 5.0, low, high)
            rows.append(row)
            if a.pictures and len(rows) <= 24:
                _removal_picture(
                    a.pictures / f"removal_{len(rows):02d}.png", truth, hole[box], edited, smooth, low, high
                )
            print(row, flush=True)
    return {
        "task": "removal",
        "model": bundle.json["id"],
        "version": bundle.json["version"],
        "results": _removal_summary(rows),
        "rows": rows,
    }


def _removal_summary(rows):
    out = {}
    for modality in sorted({r["modality"] for r in rows}):
        part = [r for r in rows if r["modality"] == modality]
        for arm in ("model", "biharmonic"):
            for k, name in enumerate(("psnr", "ssim")):

                def mean(some, arm=arm, k=k):
                    return float(np.mean([r[arm][k] for r in some]))

                out[f"{modality} {arm} {name}"] = {
                    "mean": mean(part),
                    "interval": interval(part, mean),
                    "holes": len(part),
                }
        out[f"{modality} model better (PSNR), share of holes"] = float(
            np.mean([r["model"][0] > r["biharmonic"][0] for r in part])
        )
    return out


def _removal_picture(path: Path, truth, hole, edited, smooth, low, high):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    z = hole.sum((1, 2)).argmax()
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3.2))
    for axis, image, title in zip(
        axes, (truth, edited, smooth), ("healthy (truth)", "removal", "biharmonic")
    ):
        axis.imshow(image[z], cmap="gray", vmin=low, vmax=high)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    axes[0].contour(hole[z], [0.5], colors="r", linewidths=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=["texture", "removal"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--quick", action="store_true", help="about a dozen cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    if (a.data is None) == (a.image is None) or (a.image is not None and a.mask is None):
        parser.error("give --data DIR, or --image with --mask (removal only)")
    bundle = load_bundle(Path(a.model)) if Path(a.model).is_dir() else find(a.model)
    out = {"texture": texture, "removal": removal}[a.task](a, bundle)
    out["command"] = (
        f"evaluate.py {a.task} --model {bundle.json['id']}"
        + (" --quick" if a.quick else "")
        + f" --seed {a.seed}"
    )
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(out, indent=1))
    print(json.dumps({k: v for k, v in out["results"].items() if a.task == "removal"}, indent=1))


if __name__ == "__main__":
    main()

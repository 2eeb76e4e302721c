"""Measure a model on patients it has never seen, and write what was found.

    python Training/evaluate.py texture --model ID --data DATA/sts/val --json OUT.json [--quick] [--pictures DIR]
    python Training/evaluate.py removal --model ID --data DATA/sts/val --json OUT.json [--quick] [--pictures DIR]
    python Training/evaluate.py removal --model ID --image CT.nrrd --mask LUNG_TUMOUR.nrrd --json OUT.json

`--model` is the id of an installed model or a bundle folder. `--data` has <ID>_<MODALITY>_image.nii.gz and
..._mask.nii.gz. Every number comes from the edited file's voxels, re-extracted by pyradiomics (not by our extractor)
with the model's own parameter file; intervals are 95 % bootstraps over patients.

texture: each case is synthesized with its own features by `full` (network + solver, the default of the product), and
with another patient's (those that don't grow with the region) by `full`, `network` alone, and `field` (solver on a
Gaussian field, no network). As a control, `shuffled` pairs each result with another case's request.
removal: holes of real tumour shapes are cut into healthy places and filled; PSNR and SSIM inside the hole + 5 mm,
next to scikit-image's biharmonic inpainting.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from pictures import strip
from prepare import CLASSES, cases, window
from scipy import ndimage
from scoring import compact, klass, psnr_ssim, pyradiomics_features, removal_summary, size_free, summary

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import find, load_bundle
from TumorSynthLib.region import SAME_SPACING, Region
from TumorSynthLib.texture.solver import gaussian_field, solve
from TumorSynthLib.volume import read_image, read_mask

WINDOWS = {"CT": {"sts": (-150.0, 250.0), "lung": (-1000.0, 400.0)}, "T1": {"sts": (0.0, 1200.0)}}


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
    editor, rows, window_of = Editor(bundle, a.device), [], "lung" if _is_lung(bundle) else "sts"
    loaded = [(c, *_load(c)) for c in cases("sts", a.data) if c.modality in bundle.json["modalities"]]
    if a.quick:
        loaded = loaded[:: max(1, len(loaded) // 12)]
    own = [_measure(bundle, c.modality, v, m) for c, v, m in loaded]
    for i, (case, volume, mask) in enumerate(loaded):
        mates = [
            k
            for k, (c, _, _) in enumerate(loaded)
            if c.modality == case.modality and c.patient != case.patient
        ]
        donor, shown = mates[(7 * i) % len(mates)], {"real": volume.array}
        for kind, asked, arm in _arms(own[i], own[donor]):
            request = {n: v for n, v in asked.items() if klass(n) in CLASSES and size_free(n)}
            start = time.perf_counter()
            try:
                edited = _edit(editor, bundle, case, volume, mask, request, arm, a.seed)
            except InputError as error:
                print(f"{case.id} {kind} {arm}: refused: {error}", flush=True)
                continue
            seconds = time.perf_counter() - start
            shown[f"{kind}: {arm}"] = edited.array
            row = {
                "case": case.id,
                "patient": case.patient,
                "modality": case.modality,
                "request": kind,
                "arm": arm,
            }
            reached = _measure(bundle, case.modality, edited, mask)
            rows.append(
                {**row, "seconds": seconds, "voxels": int(mask.sum()), "asked": asked, "reached": reached}
            )
        if a.pictures:
            strip(
                a.pictures / f"texture_{case.id}_{case.modality}.png",
                shown,
                mask,
                *WINDOWS[case.modality][window_of],
            )
        print(f"{i + 1}/{len(loaded)} {case.id} {case.modality}", flush=True)
    return rows


def _arms(own: dict, donor: dict) -> list[tuple[str, dict, str]]:
    """(request, asked features, arm) of one case."""
    return [("own", own, "full"), *(("donor", donor, arm) for arm in ("network", "full", "field"))]


def _is_lung(bundle) -> bool:
    return "lung" in bundle.json["organ"].lower()


def _load(case):
    volume = read_image(case.image)
    return volume, read_mask(case.mask, like=volume)


def _measure(bundle, modality, volume, mask):
    """As the product measures: a grid within 1 % of the model's is not resampled."""
    settings = bundle.settings(modality).to_pyradiomics()
    if np.allclose(volume.spacing, bundle.spacing, rtol=SAME_SPACING, atol=0):
        settings["resampledPixelSpacing"] = None
    else:
        settings["resampledPixelSpacing"] = list(bundle.spacing)
    return pyradiomics_features(volume, mask, settings)


def _edit(editor, bundle, case, volume, mask, request, arm, seed):
    if arm == "field":
        return field_arm(bundle, case.modality, volume, mask, request, seed)
    wish = EditRequest(features=request, modality=case.modality, seed=seed, solve=arm == "full")
    return editor.synthesize(volume, mask, wish).volume


def texture(a, bundle) -> dict:
    """Correlations of asked and reached features, per modality, request and arm."""
    rows, results = run_texture(a, bundle), {}
    names = [n for n in rows[0]["asked"] if size_free(n)]
    for key in sorted({(r["modality"], r["request"], r["arm"]) for r in rows}):
        part = [r for r in rows if (r["modality"], r["request"], r["arm"]) == key]
        if len({r["patient"] for r in part}) > 2:
            results[" ".join(key)] = summary(part, names, bundle.population(key[0]))
    return {"results": results, "rows": rows}


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


def removal(a, bundle) -> dict:
    """Fill holes in healthy places, by the model and by biharmonic inpainting."""
    editor, rng, rows, lung = Editor(bundle, a.device), np.random.default_rng(a.seed), [], _is_lung(bundle)
    if a.image:
        volume = read_image(a.image)
        loaded = [(None, volume, read_mask(a.mask, like=volume))]
        count = 4 if a.quick else 12
    else:
        loaded = [(c, *_load(c)) for c in cases("sts", a.data) if c.modality in bundle.json["modalities"]]
        shapes_from, count = loaded[:40], 1 if a.quick or lung else 3
        loaded = loaded[:: max(1, len(loaded) // 12)] if a.quick else loaded
    for case, volume, mask in loaded:
        modality = case.modality if case else bundle.json["modalities"][0]
        sources, limit = (loaded, 25.0) if case is None else (shapes_from, 14.0 if lung else 30.0)
        holes = tumour_shapes(sources, volume.spacing, limit)
        name = {"case": case.id if case else a.image.name, "patient": case.patient if case else a.image.name}
        for hole in healthy_places(volume, mask, holes, count, rng, lung):
            row, images, box = _filled(
                editor, volume, hole, modality, WINDOWS[modality]["lung" if lung else "sts"], a.seed
            )
            if case is None:
                name["patient"] = f"hole {len(rows)}"  # one patient: the interval is over holes
            rows.append({**name, "modality": modality, "voxels": int(hole.sum()), **row})
            if a.pictures:
                path = a.pictures / f"removal_{modality}_{len(rows):02d}.png"
                strip(path, images, hole[box], *WINDOWS[modality]["lung" if lung else "sts"])
            print(rows[-1], flush=True)
    return {"results": removal_summary(rows), "rows": rows}


def _filled(editor, volume, hole, modality, limits, seed):
    """PSNR and SSIM of both arms for one hole, the images of its box, and the box."""
    from skimage.restoration import inpaint_biharmonic

    margin = np.ceil(15.0 / np.array(volume.spacing[::-1])).astype(int)
    found = ndimage.find_objects(hole.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margin))
    near = ndimage.distance_transform_edt(~hole[box], volume.spacing[::-1]) <= 5.0
    edited = editor.remove(volume, hole, EditRequest(modality=modality, seed=seed)).volume.array[box]
    truth = volume.array[box].astype(np.float64)
    smooth = inpaint_biharmonic(np.where(hole[box], 0, truth), hole[box])
    row = {
        arm: psnr_ssim(truth, result, near, *limits)
        for arm, result in (("model", edited), ("biharmonic", smooth))
    }
    return row, {"healthy (truth)": truth, "removal": edited, "biharmonic": smooth}, box


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
    source = (
        f"--data {'/'.join(a.data.parts[-2:])}" if a.data else f"--image {a.image.name} --mask {a.mask.name}"
    )
    command = f"python Training/evaluate.py {a.task} --model {bundle.id} {source}"
    command += (" --quick" if a.quick else "") + f" --seed {a.seed}"
    out = {"task": a.task, "model": bundle.id, "version": bundle.version, "command": command}
    out |= {"texture": texture, "removal": removal}[a.task](a, bundle)
    rows = out.pop("rows")
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(out, indent=1) + "\n")
    a.json.with_suffix(".rows.json").write_text(json.dumps(rows))
    print(json.dumps(compact(out), indent=1))


if __name__ == "__main__":
    main()

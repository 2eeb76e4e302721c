"""Removal, measured where the truth is known: tumour-shaped holes are cut into healthy places and filled.

PSNR and SSIM inside the hole + 5 mm at a stated window, next to scikit-image's biharmonic inpainting and the baselines.
"""

from __future__ import annotations

import numpy as np
from arms import cases
from pictures import strip
from prepare import window
from scipy import ndimage
from scoring import psnr_ssim, removal_summary

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import ANY
from TumorSynthLib.volume import read_image, read_mask

WINDOWS = {"CT": {"sts": (-150.0, 250.0), "lung": (-1000.0, 400.0)}, "T1": {"sts": (0.0, 1200.0)}}
QUICK_CASES = 12


def is_lung(bundle) -> bool | None:
    """Whether a model is of the lung; None for one of any organ, whose images tell."""
    return None if bundle.organ == ANY else "lung" in bundle.organ.lower()


def window_of(bundle, modality: str) -> tuple[float, float]:
    """Window at which PSNR and SSIM are taken, and pictures shown; MR without one of its own is taken for T1."""
    known = WINDOWS.get(modality, WINDOWS["T1"])
    return known.get("lung" if is_lung(bundle) else "sts", next(iter(known.values())))


def load(case):
    volume = read_image(case.image)
    return volume, read_mask(case.mask, like=volume)


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


def removal(a, bundle, baselines: dict[str, Editor]) -> dict:
    """Fill holes in healthy places, by the model, by biharmonic inpainting and by the baselines."""
    editors = {"model": Editor(bundle, a.device), **baselines}
    rng = np.random.default_rng(a.seed)
    rows: list = []
    lung = is_lung(bundle)
    if a.image:
        volume = read_image(a.image)
        loaded = [(None, volume, read_mask(a.mask, like=volume))]
        count = 4 if a.quick else 12
    else:
        loaded = [(c, *load(c)) for c in cases("sts", a.data) if c.modality in bundle.json["modalities"]]
        shapes_from, count = loaded[:40], 1 if a.quick or lung else 3
        loaded = loaded[:: max(1, len(loaded) // QUICK_CASES)] if a.quick else loaded
    for case, volume, mask in loaded:
        modality = case.modality if case else editors["model"].modality(volume)
        sources, limit = (loaded, 25.0) if case is None else (shapes_from, 14.0 if lung else 30.0)
        holes = tumour_shapes(sources, volume.spacing, limit)
        name = {"case": case.id if case else a.image.name, "patient": case.patient if case else a.image.name}
        for hole in healthy_places(volume, mask, holes, count, rng, bool(lung)):
            row, images, box = _filled(editors, volume, hole, modality, window_of(bundle, modality), a.seed)
            if case is None:
                name["patient"] = f"hole {len(rows)}"  # one patient: the interval is over holes
            rows.append({**name, "modality": modality, "voxels": int(hole.sum()), **row})
            if a.figures:
                path = a.figures / f"removal_{modality}_{len(rows):02d}.png"
                strip(path, images, hole[box], *window_of(bundle, modality))
            print(rows[-1], flush=True)
    if not rows:
        raise InputError(
            "no healthy place is large enough for a hole of a tumour's shape: give images with more context"
        )
    return {"results": removal_summary(rows), "rows": rows}


def _filled(editors, volume, hole, modality, limits, seed):
    """PSNR and SSIM of all arms for one hole, the images of its box, and the box."""
    from skimage.restoration import inpaint_biharmonic

    margin = np.ceil(15.0 / np.array(volume.spacing[::-1])).astype(int)
    found = ndimage.find_objects(hole.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margin))
    near = ndimage.distance_transform_edt(~hole[box], volume.spacing[::-1]) <= 5.0
    wish = EditRequest(modality=modality, seed=seed, engine="bridge")
    filled = {arm: e.remove(volume, hole, wish).volume.array[box] for arm, e in editors.items()}
    truth = volume.array[box].astype(np.float64)
    filled["biharmonic"] = inpaint_biharmonic(np.where(hole[box], 0, truth), hole[box])
    row = {arm: psnr_ssim(truth, result, near, *limits) for arm, result in filled.items()}
    return row, {"healthy (truth)": truth, **filled}, box

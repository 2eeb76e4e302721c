"""Cut training crops from tumour images, with the features of what each crop shows. Once, to disk.

    python Training/prepare.py sts     --data DATA/sts/train     --out runs/data/sts     # 41-patient sarcoma set, CT + T1
    python Training/prepare.py lidc    --data DATA/lidc_ct/train --out runs/data/lidc    # lung nodules, CT
    python Training/prepare.py nnunet  --data DIR                --out runs/data/mine --spacing 1 1 1 --crop 64 64 64

Layouts: `sts`, `lidc`: <ID>_<MODALITY>_image.nii.gz beside <ID>_<MODALITY>_mask.nii.gz.
`nnunet`: nnU-Net raw, imagesTr/<ID>_0000.nii.gz with labelsTr/<ID>.nii.gz and the channel names of dataset.json.

Each case is resampled to the model's spacing exactly as pyradiomics would, then windows are cut around its tumour.
Three kinds of crop: `real` (the tumour as it is), `varied` (its texture changed: contrast, level, smoothness, noise,
skew, or replaced by random fields with rim and core, so that features cover more than the patients do), and
`context` (a place without tumour, for the removal path; holes are cut in it during training).
Features are measured on the tumour voxels that the crop shows, after every change, with our extractor, whose
values equal pyradiomics'.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
from scipy import ndimage

from TumorSynthLib.radiomics.extract import extract, extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.region import Region
from TumorSynthLib.volume import Volume, read_image, read_mask

CLASSES = ("firstorder", "glcm", "glrlm", "glszm")  # the paper's 74 texture features
FULL, INSIDE, TUMOUR = 1, 2, 4  # bits of a label crop


@dataclass(frozen=True)
class Case:
    id: str
    patient: str
    modality: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Plan:
    """How a data set is cut; the defaults of the two shipped models are in PLANS."""

    spacing: tuple[float, float, float]  # mm (x, y, z): the training set's median, as nnU-Net does
    crop: tuple[int, int, int]  # voxels (z, y, x), multiples of (4, 8, 8)
    windows: int  # windows per case and modality
    varied: int  # varied copies per window
    context: int  # windows without tumour per case
    bin_width: float = 25.0
    range: tuple[float, float] = (-1024.0, 3071.0)


PLANS = {
    "sts": Plan((0.9765625, 0.9765625, 3.27), (16, 64, 64), 20, 2, 8),
    "lidc": Plan((0.7, 0.7, 1.25), (16, 40, 40), 2, 4, 3),
}


def cases(layout: str, folder: Path) -> Iterator[Case]:
    """All cases of a folder in one of the layouts of this file's docstring."""
    if layout == "nnunet":
        names = json.loads((folder / "dataset.json").read_text())["channel_names"]
        for label in sorted((folder / "labelsTr").glob("*.nii.gz")):
            id = label.name.removesuffix(".nii.gz")
            for channel, name in names.items():
                yield Case(id, id, name, folder / "imagesTr" / f"{id}_{int(channel):04d}.nii.gz", label)
        return
    for image in sorted(folder.glob("*_image.nii.gz")):
        stem = image.name.removesuffix("_image.nii.gz")
        id, modality = stem.rsplit("_", 1)
        yield Case(id, common.patient_of(id), modality, image, image.with_name(stem + "_mask.nii.gz"))


def window(array: np.ndarray, corner: np.ndarray, size: tuple[int, int, int], pad: str) -> np.ndarray:
    """Box of `size` at `corner` (both z, y, x), padded where it leaves the array."""
    lo, hi = np.maximum(corner, 0), np.minimum(corner + size, array.shape)
    box = array[tuple(slice(a, b) for a, b in zip(lo, hi))]
    margins = [(int(a - c), int(c + s - b)) for a, b, c, s in zip(lo, hi, corner, size)]
    return np.pad(box, margins, mode="edge") if pad == "edge" else np.pad(box, margins)


def field(shape: tuple[int, ...], correlation: float, spacing, rng) -> np.ndarray:
    """Gaussian random field of unit variance with a correlation length in mm."""
    sigma = correlation / np.array(spacing[::-1])
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / max(noise.std(), 1e-6)


def vary(image: np.ndarray, mask: np.ndarray, plan: Plan, spread: float, rng) -> np.ndarray:
    """A copy of image (z, y, x) whose tumour differs in level, contrast, smoothness, noise, skew, or is a random field.

    Amplitudes follow the tumour's interior, so that a border with partial volume doesn't pass for texture.
    """
    depth = ndimage.distance_transform_edt(mask)
    inside = mask & (depth > min(2.0, 0.6 * depth.max()))
    mean, deviation = image[inside].mean(), max(image[inside].std(), 6.0)
    residual = np.where(mask, image - mean, 0.0)
    smooth = _smooth(residual, mask, np.array([0.5, 1.0, 1.0]))
    grain = max((residual - smooth)[inside].std(), 4.0)
    if rng.random() < 0.25:
        residual = _random_fields(mask, plan, deviation, rng)
    if rng.random() < 0.5:
        width = rng.uniform(0.2, 1.4) * np.array([0.4, 1, 1])
        softer = _smooth(residual, mask, width)
        residual = softer if rng.random() < 0.7 else residual + rng.uniform(0.2, 0.8) * (residual - softer)
    if rng.random() < 0.35:
        skewed = np.sinh(
            rng.uniform(0.2, 0.8) * np.clip(residual / deviation + rng.uniform(-0.5, 0.5), -4, 4)
        )
        residual = skewed * deviation
    residual = residual * np.exp(rng.uniform(np.log(0.45), np.log(2.0)))
    if rng.random() < 0.6:
        noise = field(image.shape, rng.uniform(0.05, 1.5), plan.spacing, rng)
        residual = residual + noise * grain * rng.uniform(0.3, 2.5)
    shift = rng.normal(0, spread) if rng.random() < 0.7 else 0.0
    edge = np.clip(depth / 2, 0, 1)  # the outermost voxels keep half of their partial volume
    blended = np.where(mask, edge * (mean + shift + residual) + (1 - edge) * image, image)
    return np.clip(np.rint(blended), *plan.range)


def _smooth(residual, mask, width):
    """Gaussian smoothing (voxels) that sees only the mask."""
    weight = ndimage.gaussian_filter(mask.astype(np.float64), width)
    return ndimage.gaussian_filter(np.where(mask, residual, 0.0), width) / np.maximum(weight, 1e-3)


def _random_fields(mask, plan, deviation, rng):
    """Mixture of two random fields, with a gradient from rim to core and a necrotic part now and then."""
    depth = ndimage.distance_transform_edt(mask, plan.spacing[::-1])
    depth = depth / max(depth.max(), 1e-3)
    a, b = (
        field(mask.shape, np.exp(rng.uniform(np.log(0.6), np.log(8))), plan.spacing, rng) for _ in range(2)
    )
    mix = rng.random()
    out = np.sqrt(mix) * a + np.sqrt(1 - mix) * b
    if rng.random() < 0.6:
        out = out + rng.uniform(-2.5, 2.5) * (depth - 0.5)
    if rng.random() < 0.3:
        out = out + rng.uniform(-3, 3) / (1 + np.exp(-6 * (a + rng.uniform(-1, 1))))
    return deviation * out


class Writer:
    """Collects crops and writes one folder."""

    def __init__(self, plan: Plan):
        self.plan, self.settings = plan, Settings(binWidth=plan.bin_width)
        self.images, self.labels, self.features, self.rows, self.names = [], [], [], [], None

    def add(self, image, label, kind: str, case: Case):
        """One crop; features are measured unless it is context."""
        if kind != "context":
            found = extract(
                image.astype(np.float32), (label & FULL) > 0, self.plan.spacing, self.settings, CLASSES
            )
            self.names = self.names or list(found)
            self.features.append([found[n] for n in self.names])
        else:
            self.features.append(None)
        self.images.append(np.rint(image).astype(np.int16))
        self.labels.append(label.astype(np.uint8))
        self.rows.append({"id": case.id, "patient": case.patient, "modality": case.modality, "kind": kind})

    def save(self, folder: Path, population: dict, layout: str):
        folder.mkdir(parents=True, exist_ok=True)
        empty = [np.nan] * len(self.names)
        np.save(folder / "images.npy", np.stack(self.images))
        np.save(folder / "labels.npy", np.stack(self.labels))
        np.save(folder / "features.npy", np.array([f or empty for f in self.features]))
        (folder / "rows.json").write_text(json.dumps(self.rows))
        meta = {"layout": layout, "spacing": self.plan.spacing, "names": self.names, "population": population}
        meta["modalities"] = sorted({r["modality"] for r in self.rows})
        meta["extraction"] = {
            "binWidth": self.plan.bin_width,
            "resampledPixelSpacing": list(self.plan.spacing),
        }
        (folder / "meta.json").write_text(json.dumps(meta))


def corners(mask: np.ndarray, shape, plan: Plan, count: int, rng) -> Iterator[np.ndarray]:
    """Window corners: centred on the tumour where it fits, else on its voxels, mostly those near the border."""
    size, places = np.array(plan.crop), np.argwhere(mask)
    extent = places.max(0) - places.min(0) + 1
    fits = (extent <= size - 4).all()
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask, iterations=3))
    for i in range(count):
        jitter = rng.integers(-size // 8, size // 8 + 1)
        pool = border if rng.random() < 0.6 and len(border) else places
        centre = (places.max(0) + places.min(0)) // 2 if fits or i == 0 else pool[rng.integers(len(pool))]
        yield centre + jitter - size // 2


def process(case: Case, plan: Plan, writer: Writer, spread: float, rng) -> dict:
    """All crops of one case; returns the features of the whole tumour for the population."""
    volume = read_image(case.image)
    mask = read_mask(case.mask, like=volume)
    region = Region.around(volume, mask, plan.spacing, margin_mm=60.0)
    image, tumour = np.clip(region.array, *plan.range), region.mask
    base = np.where(region.valid, INSIDE, 0) | np.where(tumour, TUMOUR, 0)
    for corner in corners(tumour, image.shape, plan, plan.windows, rng):
        crop, label = window(image, corner, plan.crop, "edge"), window(base, corner, plan.crop, "zero")
        shown = (label & TUMOUR) > 0
        if shown.sum() < 40:
            continue
        if rng.random() < 0.15 and shown.sum() > 4000:  # part of a large tumour, the rest of it is context
            shown &= field(shown.shape, 8.0, plan.spacing, rng) > rng.uniform(-0.5, 0.8)
        if shown.sum() < 40:
            continue
        label = label | np.where(shown, FULL, 0)
        crop = np.rint(crop)
        writer.add(crop, label, "real", case)
        for _ in range(plan.varied):
            writer.add(vary(crop, shown, plan, spread, rng), label, "varied", case)
    for _ in range(plan.context):
        places = np.argwhere(region.valid & ~tumour)
        corner = places[rng.integers(len(places))] - np.array(plan.crop) // 2
        corner = np.clip(corner, 0, np.maximum(np.array(image.shape) - plan.crop, 0))
        writer.add(
            window(image, corner, plan.crop, "edge"), window(base, corner, plan.crop, "zero"), "context", case
        )
    settings = Settings(binWidth=plan.bin_width, resampledPixelSpacing=plan.spacing)
    return extract_image(
        Volume(volume.array, volume.spacing, volume.origin, volume.direction), mask, settings
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("layout", choices=["sts", "lidc", "nnunet"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="mm; for nnunet")
    parser.add_argument("--crop", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels; for nnunet")
    parser.add_argument("--bin-width", type=float, default=25.0, help="of the features; for nnunet")
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=(-1024.0, 3071.0),
        help="intensities are clipped to it; for nnunet",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only the first cases, to try things")
    a = parser.parse_args()
    if a.layout == "nnunet" and not (a.spacing and a.crop):
        parser.error("nnunet needs --spacing (the data's median) and --crop")
    plan = PLANS.get(a.layout)
    if plan is None:
        plan = Plan(tuple(a.spacing), tuple(a.crop), 8, 2, 4, a.bin_width, tuple(a.range))
    writer, population = Writer(plan), {}
    found = list(cases(a.layout, a.data))[: a.limit]
    if not found:
        parser.error(f"no cases of layout {a.layout} in {a.data}")
    for i, case in enumerate(found):
        rng = np.random.default_rng([a.seed, i])
        spread = 60.0 if case.modality == "CT" else 120.0  # shift of the mean, in HU or grey levels
        population.setdefault(case.modality, {})[case.id] = process(case, plan, writer, spread, rng)
        print(f"{i + 1}/{len(found)} {case.id} {case.modality}: {len(writer.rows)} crops", flush=True)
    writer.save(a.out, population, a.layout)


if __name__ == "__main__":
    main()

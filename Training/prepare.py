"""Cut training crops from tumour images, with the features of what each crop shows. Once, to disk.

    one CPU core         python Training/prepare.py sts    --data DATA/sts/train     --out runs/data/sts   # sarcomas, CT + T1
                         python Training/prepare.py lidc   --data DATA/lidc_ct/train --out runs/data/lidc  # lung nodules, CT
                         python Training/prepare.py nnunet --data DIR --out runs/data/mine --spacing 1 1 1 --crop 64 64 64
    one GPU              the same: nothing here runs on a GPU
    one node, 8 GPUs     python Training/prepare.py --recipe Training/recipes/kits23.yaml --data kits23/dataset \\
                         --out runs/data/kits23 --jobs 32
    several nodes        that command on one of them; held-out patients (--held-out, another --out) on a second

`--jobs` is the number of processes, one per CPU core; crops are the same with any number. One process gathers what they cut, so
that a data set isn't shared among nodes: put `--out` where all nodes that train can read it.

The layouts are those of `layouts.py`: the official downloads of KiTS23, NSCLC-Radiomics, BraTS 2021 and LIDC-IDRI, a generic
folder, and nnU-Net raw. A data set can have several regions (`--regions necrosis=1 enhancing=4`, or a ring around the
tumour, `--ring 5`): each is cut, measured and later painted by itself, with the others as context.

Each case is resampled to the model's spacing exactly as pyradiomics would, then windows are cut around its regions.
Four kinds of crop: `real` (the tumour as it is), `varied` (its texture changed: contrast, level, smoothness, noise,
skew, or replaced by random fields with rim and core, so that features cover more than the patients do),
`context` (a place without tumour, for the removal path; holes are cut in it during training), and `procedural` (a
made-up tumour in such a place). Features are measured on the region's voxels that the crop shows, after every change,
with our extractor, whose values equal pyradiomics'. `coverage.py` shows what they cover.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import common
import numpy as np
from crops import Crop, Writer
from layouts import LAYOUTS, Case, cases
from procedural import SMALLEST, Levels, air_level, field, fitted, placed, procedural, tissue, vary
from scipy import ndimage

from TumorSynthLib.errors import InputError
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.placement import BODY_HU, BODY_SHARE, grown
from TumorSynthLib.radiomics.extract import extract, extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.region import Region
from TumorSynthLib.texture.network import MULTIPLE
from TumorSynthLib.volume import Volume, write_volume

CLASSES = ("firstorder", "glcm", "glrlm", "glszm")  # the paper's 74 texture features
FULL, INSIDE, TUMOUR = 1, 2, 4  # bits of a label crop: the region to paint, the image's extent, any lesion
MAX_REGIONS = 5  # bits that are left
LESION = 255  # in a map of regions: a lesion that is none of them
LEVELS = ("original_firstorder_Mean", "original_firstorder_Variance")  # what made-up tumours are drawn from
MARGIN_MM = 60.0  # context that is read around a tumour
CT_SHIFT, MR_SHIFT = 60.0, 120.0  # spread of a varied tumour's mean, in HU and grey levels


@dataclass(frozen=True)
class Plan:
    """How a data set is cut; those of known layouts are in PLANS."""

    spacing: tuple[float, float, float]  # mm (x, y, z): the training set's median, as nnU-Net does
    crop: tuple[int, int, int]  # voxels (z, y, x), multiples of (4, 8, 8)
    windows: int = 8  # windows per case, modality and region
    varied: int = 2  # varied copies per window
    context: int = 4  # windows without tumour per case
    bin_width: float = 25.0
    range: tuple[float, float] = (-1024.0, 3071.0)  # intensities are clipped to it; within int16
    procedural: int = 0  # made-up tumours per window without one
    median: float | None = None  # images are scaled so that their non-zero voxels have this median
    ring: float = 0.0  # mm: a further region around the tumour, peri-tumour
    regions: dict[str, tuple[int, ...]] | None = None
    healthy: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        return [*(self.regions or ["tumour"]), *(["peri-tumour"] if self.ring else [])]

    def labels(self) -> list[dict]:
        """Regions as a bundle names them: name, and label in a labelmap."""
        known = [labels[0] for labels in (self.regions or {"tumour": (1,)}).values()]
        free = next(n for n in range(1, 255) if n not in known)
        return [{"name": n, "label": label} for n, label in zip(self.names, [*known, free])]


PLANS = {
    "sts": Plan((0.9765625, 0.9765625, 3.27), (16, 64, 64), 20, 2, 8, procedural=1),
    "lidc": Plan((0.7, 0.7, 1.25), (16, 40, 40), 2, 4, 3, procedural=1),
    "lidc-dicom": Plan((0.7, 0.7, 1.25), (16, 40, 40), 2, 4, 3, procedural=1),
    "kits23": Plan((1.0, 1.0, 1.0), (32, 64, 64), 6, 2, 3, procedural=1),
    "nsclc": Plan((0.9765625, 0.9765625, 3.0), (16, 64, 64), 6, 2, 3, procedural=1),
    "brats2021": Plan((1.0, 1.0, 1.0), (32, 64, 64), 2, 1, 1, 10.0, (0.0, 8000.0), 1, 500.0),
    "brats2015": Plan((1.0, 1.0, 1.0), (32, 64, 64), 6, 2, 3, 10.0, (0.0, 8000.0), 1, 500.0),
}


def window(array: np.ndarray, corner: np.ndarray, size: tuple[int, int, int], pad: str) -> np.ndarray:
    """Box of `size` at `corner` (both z, y, x), padded where it leaves the array."""
    lo, hi = np.maximum(corner, 0), np.minimum(corner + size, array.shape)
    box = array[tuple(slice(a, b) for a, b in zip(lo, hi))]
    margins = [(int(a - c), int(c + s - b)) for a, b, c, s in zip(lo, hi, corner, size)]
    return np.pad(box, margins, mode="edge") if pad == "edge" else np.pad(box, margins)


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


def region_map(labels: np.ndarray, volume: Volume, plan: Plan, ct: bool) -> np.ndarray:
    """Labelmap to map of regions (K, J, I) uint8: 0 healthy, 1 the first region ..., LESION.

    :raises InputError: several labels, and no word which is the tumour; or no region at all.
    """
    if plan.regions is None:
        found = [n for n in np.unique(labels) if n and n not in plan.healthy]
        if len(found) > 1:
            raise InputError(
                f"the mask has the labels {found}: say which is what with --regions NAME=LABEL ..."
            )
        result = np.isin(labels, found).astype(np.uint8)
    else:
        result = np.where((labels > 0) & ~np.isin(labels, plan.healthy), LESION, 0).astype(np.uint8)
        for number, own in enumerate(plan.regions.values()):
            result[np.isin(labels, own)] = number + 1
    if not ((result > 0) & (result < LESION)).any():
        raise InputError("the mask has no voxel of " + " or ".join(plan.names))
    if plan.ring:
        low = volume.array.min()
        air = BODY_HU if ct else low + BODY_SHARE * (np.percentile(volume.array, 99) - low)
        around = grown(result == 1, volume.spacing, plan.ring) & (result == 0) & (volume.array > air)
        result[around] = len(plan.names)
    return result


def scaled(volume: Volume, plan: Plan) -> Volume:
    """The volume with the plan's median of non-zero voxels, in whole numbers."""
    if plan.median is None:
        return volume
    factor = plan.median / max(float(np.median(volume.array[volume.array != 0])), 1e-6)
    return volume.with_array(np.clip(np.rint(volume.array * factor), -32768, 32767).astype(np.int16))


def measured(image: np.ndarray, label: np.ndarray, plan: Plan, kind: str, region: int) -> Crop:
    """The crop with its features."""
    image, settings = np.rint(image).astype(np.int16), Settings(binWidth=plan.bin_width)
    found = extract(image.astype(np.float32), (label & FULL) > 0, plan.spacing, settings, CLASSES)
    return Crop(image, label.astype(np.uint8), kind, region, found)


@dataclass
class Cut:
    """What one case gives: crops, features of its whole regions by name, and their masks (bits of a crop, region)."""

    crops: list[Crop]
    population: dict[str, dict[str, float]]
    masks: list[tuple[np.ndarray, int]]


def process(plan: Plan, seed: int, job: tuple[int, Case]) -> Cut | str:
    """What one case gives, or why it can't be used."""
    number, case = job
    rng, ct = np.random.default_rng([seed, number]), Intensity.of(None, case.modality).is_ct
    try:
        volume, labels = case.load()
        volume = scaled(volume, plan)
        regions = region_map(labels, volume, plan, ct)
        names = [k for k in range(len(plan.names)) if (regions == k + 1).any()]
        region = Region.around(volume, (regions > 0) & (regions < LESION), plan.spacing, MARGIN_MM)
        base = _base(region, regions, plan)
        crops: list = []
        masks = []
        for k in names:
            own = region.resample_mask(regions == k + 1) if len(plan.names) > 1 else region.mask
            if own.any():
                masks.append((np.packbits(fitted(own, plan.crop)), k))
            crops += _windows(region, own, base, k, plan, CT_SHIFT if ct else MR_SHIFT, rng)
        crops += _context(region, base, plan, rng)
        settings = Settings(binWidth=plan.bin_width, resampledPixelSpacing=plan.spacing)
        population = {plan.names[k]: extract_image(volume, regions == k + 1, settings) for k in names}
        return Cut(crops, population, masks)
    except InputError as error:
        return str(error)


def _base(region: Region, regions: np.ndarray, plan: Plan) -> np.ndarray:
    """Label bits of a whole case on the working grid, without FULL."""
    lesion = region.mask | region.resample_mask(regions == LESION)
    base = np.where(region.valid, INSIDE, 0) | np.where(lesion, TUMOUR, 0)
    if len(plan.names) > 1:
        for k in range(len(plan.names)):
            base |= np.where(region.resample_mask(regions == k + 1), 1 << (common.REGION_BIT + k), 0)
    return base


def _windows(region: Region, own, base, k: int, plan: Plan, spread: float, rng) -> Iterator[Crop]:
    """Real and varied crops of region number k, whose mask is `own`."""
    image = np.clip(region.array, *plan.range)
    if own.sum() < SMALLEST:
        return
    for corner in corners(own, image.shape, plan, plan.windows, rng):
        crop, label = window(image, corner, plan.crop, "edge"), window(base, corner, plan.crop, "zero")
        shown = window(own, corner, plan.crop, "zero")
        if shown.sum() < SMALLEST:
            continue
        if rng.random() < 0.15 and shown.sum() > 4000:  # part of a large tumour, the rest of it is context
            shown &= field(shown.shape, 8.0, plan.spacing, rng) > rng.uniform(-0.5, 0.8)
        if shown.sum() < SMALLEST:
            continue
        label, crop = label | np.where(shown, FULL, 0), np.rint(crop)
        yield measured(crop, label, plan, "real", k)
        for _ in range(plan.varied):
            yield measured(vary(crop, shown, plan, spread, rng), label, plan, "varied", k)


def _context(region: Region, base, plan: Plan, rng) -> Iterator[Crop]:
    """Crops around places without tumour; the background of a skull-stripped image is no such place."""
    image = np.clip(region.array, *plan.range)
    empty = region.array == region.array.min()
    healthy = region.valid & ((base & TUMOUR) == 0) & ~(empty if empty.mean() > 0.1 else False)
    places = np.argwhere(healthy)
    for _ in range(plan.context if len(places) else 0):
        corner = places[rng.integers(len(places))] - np.array(plan.crop) // 2
        corner = np.clip(corner, 0, np.maximum(np.array(image.shape) - plan.crop, 0))
        crop, label = window(image, corner, plan.crop, "edge"), window(base, corner, plan.crop, "zero")
        yield Crop(np.rint(crop).astype(np.int16), label.astype(np.uint8), "context", 0, None)


def made_up(plan: Plan, levels: dict, job) -> list[Crop]:
    """Procedural tumours in one healthy crop: (seed, modality, image, label, (mask, region) to place)."""
    seed, modality, image, label, masks = job
    rng, crops = np.random.default_rng(seed), []
    air = next(found.air for (m, _), found in levels.items() if m == modality)
    allowed = ((label & INSIDE) > 0) & ((label & TUMOUR) == 0) & tissue(image, air)
    for bits, k in masks:
        mask = np.unpackbits(bits, count=image.size).reshape(image.shape).astype(bool)
        mask = placed(mask, allowed, rng)
        if mask is None:
            continue
        own = FULL | TUMOUR | (1 << (common.REGION_BIT + k) if len(plan.names) > 1 else 0)
        made = procedural(image.astype(float), mask, plan.spacing, levels[modality, k], rng)
        crops.append(measured(made, label | np.where(mask, own, 0), plan, "procedural", k))
    return crops


def cut(found: list[Case], plan: Plan, writer: Writer, seed: int, each) -> tuple[dict, dict[str, str], list]:
    """Real, varied and context crops of all cases; returns the population, the cases left out and why, and the masks."""
    population: dict = {}
    left_out = {}
    masks = []
    for i, (case, result) in enumerate(zip(found, each(partial(process, plan, seed), enumerate(found)))):
        if isinstance(result, str):
            left_out[f"{case.id} {case.modality}"] = result
            print(f"{i + 1}/{len(found)} {case.id} {case.modality}: left out: {result}", flush=True)
            continue
        masks += result.masks
        for crop in result.crops:
            writer.add(crop, {"id": case.id, "patient": case.patient, "modality": case.modality})
        of_case = population.setdefault(case.modality, {})
        for name, features in result.population.items():
            (of_case.setdefault(name, {}) if len(plan.names) > 1 else of_case)[case.id] = features
        print(f"{i + 1}/{len(found)} {case.id} {case.modality}: {len(writer.rows)} crops", flush=True)
    return population, left_out, masks


def levels_of(plan: Plan, writer: Writer) -> dict[tuple[str, int], Levels]:
    """Levels and contrasts of the real tumours, by modality and region."""
    images, labels = writer.arrays()
    kinds, modality, region = (np.array(column) for column in zip(*map(_what(plan), writer.rows)))
    levels, air = {}, {}
    for m, k in sorted({(m, int(k)) for m, k in zip(modality, region)}):
        if m not in air:
            rows = np.flatnonzero((kinds == "real") & (modality == m))[::5][:200]
            around = [images[i][(labels[i] & (INSIDE | TUMOUR)) == INSIDE] for i in rows]
            air[m] = (
                air_level(np.concatenate(around), Intensity.of(None, m).is_ct)
                if sum(map(len, around))
                else None
            )
        rows = np.flatnonzero((kinds == "real") & (modality == m) & (region == k))
        if len(rows) and air[m] is not None:
            limits = min(int(images[i].min()) for i in rows), max(int(images[i].max()) for i in rows)
            mean, variance = (np.array([writer.features[i][n] for i in rows]) for n in LEVELS)
            levels[m, k] = Levels.of(mean, variance, limits, air[m])
    return levels


def add_procedural(plan: Plan, writer: Writer, masks: list, seed: int, each):
    """Made-up tumours in the healthy crops, in masks of real ones."""
    (images, labels), levels = writer.arrays(), levels_of(plan, writer)
    contexts = [i for i, row in enumerate(writer.rows) if row["kind"] == "context"]
    fitting = {m: [j for j, (_, k) in enumerate(masks) if (m, k) in levels] for m, _ in levels}
    contexts = [i for i in contexts if fitting.get(writer.rows[i]["modality"])]

    def jobs() -> Iterator[tuple]:
        for i in contexts:
            modality = writer.rows[i]["modality"]
            chosen = np.random.default_rng([seed, 1, i]).choice(fitting[modality], plan.procedural)
            yield [seed, 2, i], modality, np.array(images[i]), np.array(labels[i]), [masks[j] for j in chosen]

    owners = [{k: writer.rows[i][k] for k in ("id", "patient", "modality")} for i in contexts]
    for owner, crops in zip(owners, each(partial(made_up, plan, levels), jobs())):
        for crop in crops:
            writer.add(crop, owner)


def _what(plan: Plan):
    """Function of a row to its kind, modality, and region by number."""
    return lambda row: (row["kind"], row["modality"], plan.names.index(row.get("region", plan.names[0])))


@contextmanager
def workers(count: int):
    """A function like `map` that shares the work among processes, in order, without reading far ahead."""
    if count <= 1:
        yield map
        return
    with ProcessPoolExecutor(count) as pool:

        def each(function, jobs):
            ahead: deque = deque()
            for job in jobs:
                ahead.append(pool.submit(function, job))
                if len(ahead) >= 3 * count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        yield each


def region_option(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME=LABEL[,LABEL ...] of `--regions`."""
    name, sign, labels = text.partition("=")
    try:
        numbers = tuple(int(n) for n in labels.split(","))
    except ValueError:
        numbers = ()
    if not (name and sign and numbers and all(0 < n < LESION for n in numbers)):
        raise argparse.ArgumentTypeError(
            f"{text}: expected NAME=LABEL or NAME=LABEL,LABEL, e.g. necrosis=1,3"
        )
    return name, numbers


def options() -> argparse.ArgumentParser:
    """The script's options."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("layout", nargs="?", choices=sorted(LAYOUTS))
    p.add_argument(
        "--recipe", type=Path, help="YAML file with these options, under `prepare`; the command line wins"
    )
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="working grid in mm")
    p.add_argument(
        "--crop", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels, multiples of 4, 8 and 8"
    )
    p.add_argument("--windows", type=int, help="per case, modality and region")
    p.add_argument("--varied", type=int, help="varied copies per window")
    p.add_argument("--context", type=int, help="windows without tumour per case")
    p.add_argument("--procedural", type=int, help="made-up tumours per window without one")
    p.add_argument("--bin-width", type=float, help="of the features (25)")
    p.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="intensities are clipped to it"
    )
    p.add_argument(
        "--median", type=float, help="scale each image so that its non-zero voxels have this median (MR)"
    )
    p.add_argument(
        "--regions", type=region_option, nargs="+", metavar="NAME=LABEL", help="what is painted by itself"
    )
    p.add_argument(
        "--healthy", type=int, nargs="+", metavar="LABEL", help="labels of healthy tissue, e.g. the organ"
    )
    p.add_argument(
        "--ring", type=float, metavar="MM", help="a further region around the first one: peri-tumour"
    )
    p.add_argument(
        "--hold-out", type=int, default=0, metavar="N", help="leave every Nth patient out, for validation"
    )
    p.add_argument("--held-out", action="store_true", help="take those patients, and no others")
    p.add_argument(
        "--pairs", action="store_true", help="write whole images and masks, as evaluate.py takes them"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--limit", type=int, help="only the first cases, to try things")
    p.add_argument("--jobs", type=int, default=1, help="processes")
    return p


def plan_of(a, parser: argparse.ArgumentParser) -> Plan:
    """The layout's plan with what the options change."""
    if a.layout is None:
        parser.error("which layout? one of " + ", ".join(sorted(LAYOUTS)))
    known, layout = PLANS.get(a.layout), LAYOUTS[a.layout]
    if known is None and not (a.spacing and a.crop):
        parser.error(f"{a.layout} needs --spacing (the data's median) and --crop")
    plan = known or Plan(tuple(a.spacing), tuple(a.crop))
    given = {f.name: getattr(a, f.name) for f in fields(Plan) if getattr(a, f.name) is not None}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    regions = dict(a.regions) if a.regions else plan.regions or layout.regions
    plan = replace(
        plan,
        **(given | {"regions": regions, "healthy": given.get("healthy", plan.healthy or layout.healthy)}),
    )
    if any(n % m for n, m in zip(plan.crop, MULTIPLE)):
        parser.error(f"--crop {plan.crop}: give multiples of {MULTIPLE}")
    if not -32768 <= plan.range[0] < plan.range[1] <= 32767:
        parser.error(f"--range {plan.range}: crops are 16-bit integers, from -32768 to 32767")
    if len(plan.names) > MAX_REGIONS or len(set(plan.names)) < len(plan.names):
        parser.error(f"--regions {plan.names}: give {MAX_REGIONS} at most, each with a name of its own")
    return plan


def chosen(found: list[Case], hold_out: int, held_out: bool) -> list[Case]:
    """Cases of the training patients, or of every `hold_out`-th patient, which are kept for validation; 0 keeps none."""
    kept = set(sorted({c.patient for c in found})[hold_out // 2 :: hold_out]) if hold_out else set()
    return [c for c in found if (c.patient in kept) == held_out]


def write_pairs(found: list[Case], plan: Plan, out: Path):
    """Cases as evaluate.py takes them: <ID>_<MODALITY>_image.nii.gz beside ..._mask.nii.gz, whole images.

    The mask has the labels of the regions that a bundle names.
    """
    values = np.zeros(256, np.uint8)
    values[1 : len(plan.names) + 1] = [r["label"] for r in plan.labels()]
    for case in found:
        try:
            volume, labels = case.load()
            volume = scaled(volume, plan)
            mask = values[region_map(labels, volume, plan, Intensity.of(None, case.modality).is_ct)]
        except InputError as error:
            print(f"{case.id} {case.modality}: left out: {error}", flush=True)
            continue
        stem = f"{case.id}_{case.modality}"
        write_volume(volume, out / f"{stem}_image.nii.gz")
        write_volume(volume.with_array(mask), out / f"{stem}_mask.nii.gz")
        print(f"{stem}", flush=True)


def main():
    parser = options()
    a = common.parse(parser, "prepare")
    plan = plan_of(a, parser)
    if a.held_out and not a.hold_out:
        parser.error("--held-out takes the patients that --hold-out N leaves out: give both")
    try:
        there = list(cases(a.layout, a.data)) if a.data.is_dir() else []
    except InputError as error:
        parser.error(str(error))
    if not there:
        parser.error(f"no cases of layout {a.layout} in {a.data}")
    found = chosen(there, a.hold_out, a.held_out)[: a.limit]
    if not found:
        parser.error(
            f"--hold-out {a.hold_out} leaves none of {len({c.patient for c in there})} patients to take: give another number"
        )
    if a.pairs:
        return write_pairs(found, plan, a.out)
    writer = Writer(a.out, plan)
    with workers(a.jobs) as each:
        population, left_out, masks = cut(found, plan, writer, a.seed, each)
        if not population:
            parser.error(f"none of the {len(found)} cases can be used: {next(iter(left_out.values()))}")
        if plan.procedural:
            add_procedural(plan, writer, masks, a.seed, each)
    writer.save(population, a.layout, left_out)
    kinds = [r["kind"] for r in writer.rows]
    print(f"{a.out}: " + ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds))), flush=True)


if __name__ == "__main__":
    main()

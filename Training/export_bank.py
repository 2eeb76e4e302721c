"""Give a model bundle a bank of real tumours, which insertions and requests by numbers take their tissue from.

    python Training/export_bank.py --bundle Resources/Models/lung-nodule-ct --data DATA/nsclc_ct DATA/lidc_ct \\
        --licence "CC BY 3.0" --tumours 24 [--version 0.8.0] [--pictures OUT]

Each folder of --data holds a `train` folder in the layout of layouts.py (`sts`). Tumours of patients that judge edits
(judged_patients.json) are left out. Of the rest those are taken that lie whole in their image and whose scan lends to removal,
one for each group that they form by size and features. The bundle is written anew with all it had,
plus bank.safetensors and `bank` in its manifest. --pictures writes each tumour as it comes out of the bank.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from judged_cases import reserved
from layouts import cases

from TumorSynthLib.edit.bank import FILE, Bank
from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models.bundle import Bundle, load_bundle
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES
from TumorSynthLib.radiomics.table import power_of
from TumorSynthLib.region import Frame
from TumorSynthLib.suitability import level_of, scale_of
from TumorSynthLib.texture.exemplar.bank import matte_of, packed
from TumorSynthLib.texture.exemplar.carry import Source, contact_of
from TumorSynthLib.texture.exemplar.matte import composed
from TumorSynthLib.texture.exemplar.place import detached
from TumorSynthLib.texture.exemplar.removal import remove
from TumorSynthLib.texture.exemplar.scan import blur_mm

MAX_BYTES = 750_000
LUNG_HU = -850.0
"""Behind tumours of the lung in the picture."""
MEASURED = 150
"""Tumours of a modality that are measured, about: every so many-th where there are more."""
ENDS = 0.4
"""Of a tumour's largest area in a slice, that its end slices may have in a stack that ends with it."""
LARGEST_VOXELS = 70_000
"""Of a tumour in the bank: larger ones would fill it."""


def candidates(folders: list[Path], modality: str, skip: list[str]):
    """Cases of a modality of the training patients that judge nothing, in the order of their names."""
    kept = reserved() | set(skip)
    for folder in folders:
        for case in sorted(cases("sts", folder / "train"), key=lambda c: c.id):
            if case.modality == modality and case.patient not in kept:
                yield folder.name, case


def measured(editor: Editor, case, modality: str, stacks: bool = False):
    """Image, mask, features and volume (ml) of a tumour; None where it is cut by its image's border, or too large.

    :param stacks: images that end with their tumour: one counts as whole whose first and last slice show little of it.
    """
    volume, labels = case.load()
    mask = labels == 1
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    if stacks:
        areas = mask.sum((1, 2))
        border[[0, -1]] = max(areas[0], areas[-1]) > ENDS * areas.max()
    if not 200 <= mask.sum() <= LARGEST_VOXELS or (mask & border).sum() > 0.02 * mask.sum():
        return None
    try:
        features = editor.extract(volume, mask, modality, TEXTURE_CLASSES)
    except InputError:
        return None
    return volume, mask, features, float(volume.volume_of(mask)) / 1000


def representatives(table: np.ndarray, count: int) -> list[int]:
    """Rows nearest to the middles of so many groups (k-means), so that each kind of tumour has a typical one."""
    from sklearn.cluster import KMeans

    scaled = (table - np.median(table, 0)) / np.maximum(table.std(0), 1e-9)
    scaled = np.clip(scaled, -3, 3)
    middles = KMeans(min(count, len(table)), n_init=4, random_state=0).fit(scaled).cluster_centers_
    far = ((scaled[:, None] - middles) ** 2).sum(2)
    return list(dict.fromkeys(int(i) for i in far.argmin(0)))


def taken_out(volume, mask: np.ndarray, ct: bool):
    """The detached matte of a tumour."""
    frame = Frame.of(volume.direction)
    image, tumour = frame.view(volume.array), frame.view(mask)
    spacing = tuple(float(s) for s in frame.take(volume.spacing[::-1]))
    removed = remove(image, tumour, spacing, is_ct=ct)
    if ct and contact_of(removed.values, tumour, spacing, ct) is not None and removed.facts["lung"]:
        raise InputError("it lies on the chest's wall, whose trace it would carry elsewhere")
    source = Source(image, removed.values, tumour, removed.hole | removed.zone, spacing, ct)
    matte, _ = source.matte()
    return detached(matte, ct), blur_mm(image, spacing)


def bank_of(
    editor: Editor, modality: str, folders: list[Path], count: int, licence: str, skip: list[str],
    kind: str | None = None, first: int = 0, most: int = MAX_BYTES, stacks: bool = False,
):  # fmt: skip
    """Entries and tensors of one modality.

    :param kind: what the folders call it. :param first: number of the first entry. :param most: bytes.
    :param stacks: see `measured`.
    """
    population, found = editor.population(modality), []
    there = list(candidates(folders, kind or modality, skip))
    for data, case in there[:: max(1, len(there) // MEASURED)]:
        one = measured(editor, case, modality, stacks)
        if one is not None:
            found.append((data, case, *one))
    names = [n for n in population.names if n in found[0][4]] if population else list(found[0][4])
    table = np.array([[one[4][n] for n in names] + [np.log2(one[5])] * 6 for one in found])
    entries: list = []
    tensors: dict = {}
    for index in representatives(table, count):
        data, case, volume, mask, features, ml = found[index]
        try:
            matte, blur = taken_out(volume, mask, Intensity.of(None, modality).is_ct)
        except InputError as error:
            print(f"{case.id}: left out, {error}")
            continue
        facts = {
            "case": case.id, "data": data, "licence": licence, "modality": modality, "blur_mm": round(blur, 3),
            "volume_ml": round(ml, 4), "features": {n: float(f"{features[n]:.6g}") for n in names},
        }  # fmt: skip
        if "level" in editor.bundle.json["intensity"][modality]:
            facts |= relative(editor.bundle, volume, modality, facts["features"])
            facts["tone"] = round(float(np.median(volume.array[mask])) / facts["level"], 3)
        parts, entry = packed(matte, f"{modality}.{first + len(entries):03d}", facts)
        size = sum(p.nbytes for p in (*tensors.values(), *parts.values()))
        if size > most:
            continue
        entries.append(entry)
        tensors |= parts
        print(f"{case.id}: {ml:.2f} ml, {sum(p.nbytes for p in parts.values()) / 1000:.0f} kB")
    return entries, tensors


def relative(bundle: Bundle, volume, modality: str, features: dict[str, float]) -> dict:
    """What a tumour's entry says where grey levels have no unit: that of its scan, and features at the model's scale."""
    level = level_of(volume)
    factor = scale_of(level, bundle.json["intensity"][modality]["level"])
    scaled = {n: float(f"{v / factor ** power_of(n):.6g}") for n, v in features.items()}
    return {"level": round(level, 2), "features": scaled}


def pictures(bank: Bank, folder: Path) -> None:
    """Middle slices of all tumours as they come out of the bank, in one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    side = int(np.ceil(np.sqrt(len(bank.lenders))))
    figure, axes = pyplot.subplots(side, side, figsize=(1.6 * side, 1.6 * side))
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, lender in zip(np.ravel(axes), bank.lenders):
        matte = matte_of(bank, lender)
        around = LUNG_HU if matte.in_lung else float(np.median(matte.colour[matte.mask])) - 120
        values = composed(matte, np.full(matte.mask.shape, around, np.float32))
        low, high = (-1350, 150) if matte.in_lung else (around - 60, around + 300)
        axis.imshow(values[len(values) // 2], cmap="gray", vmin=low, vmax=high)
        axis.set_title(f"{lender.case[-14:]} {lender.volume_ml:.1f} ml", fontsize=5)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "bank.png", dpi=150)


def add(a) -> Bundle:
    """Write the bundle with its bank, open it again and return it."""
    bundle = load_bundle(a.bundle)
    editor = Editor(bundle)
    files = {name: bundle.tensors(name, "torch") for name in bundle.json["files"] if name != FILE}
    manifest = {k: v for k, v in bundle.json.items() if k not in ("files", "bank")}
    entries = []
    tensors: dict = {}
    share = max(1, a.tumours // len(bundle.modalities))
    for modality in bundle.modalities:
        more, parts = bank_of(editor, modality, a.data, share, a.licence, a.skip)
        entries += more
        tensors |= parts
    size = sum(t.nbytes for t in tensors.values())
    if size > MAX_BYTES:
        raise ModelError(
            f"the bank would have {size / 1e6:.2f} MB, {MAX_BYTES / 1e6:.2f} at most: fewer --tumours"
        )
    manifest["bank"] = {"tumours": entries}
    manifest["version"] = a.version or manifest["version"]
    bundle = write_bundle(a.bundle, manifest, files | {FILE: tensors})
    bank = Bank.of_bundle(bundle)
    print(f"{a.bundle}: {len(bank.lenders)} tumours, {size / 1e6:.2f} MB")
    if a.pictures:
        pictures(bank, a.pictures)
    return bundle


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, required=True)
    p.add_argument("--data", type=Path, nargs="+", required=True, help="folders with a `train` folder each")
    p.add_argument(
        "--licence", required=True, help="of these data; it has to allow that patches are passed on"
    )
    p.add_argument("--tumours", type=int, default=24, help="of all modalities together, at most")
    p.add_argument("--skip", nargs="*", default=[], metavar="PATIENT", help="e.g. whose contours don't fit")
    p.add_argument("--version", help="the bundle's new version; default: as it was")
    p.add_argument("--pictures", type=Path, help="folder for a picture of the bank")
    return p.parse_args(arguments)


if __name__ == "__main__":
    try:
        add(parse())
    except (InputError, ModelError, OSError) as error:
        raise SystemExit(f"export_bank: {error}") from None

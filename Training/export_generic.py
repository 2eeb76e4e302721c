"""Write the models for any organ, `generic-ct` and `generic-mr`: no network, features of many tumours, a small bank.

    python Training/export_generic.py --data DATA [--out Resources/Models] [--only generic-ct] [--pictures OUT]

DATA holds the data sets' folders (`sts`, `lidc_ct`, `nsclc_ct`, `brain_t1gd`), each with a `train` folder. Patients that judge
edits (judged_patients.json) are left out. Each data set gives the same number of tumours at most, so that none prevails. Grey
levels of MR, which have no unit, are brought to one scale by factors of two (`suitability.at_scale`).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from export_bank import bank_of, candidates, pictures

from TumorSynthLib.edit.bank import FILE, Bank
from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models.bundle import POPULATION_FILE, load_bundle
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.radiomics.extract import extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.radiomics.table import FEATURES, power_of
from TumorSynthLib.suitability import level_of, scale_of

VERSION = "0.2.0"
MOST = 60
"""Tumours of one data set in the population."""
MAX_BYTES = 500_000
"""Of one bundle, its manifest included."""
LEVEL = 1000.0
"""Grey level of bright tissue in MR (`suitability.level_of`) that the population is given in."""
BIN_WIDTH = 25.0
CAN = (
    "measure; remove; sliders, presets and features files on a tumour that is there; a donor's tissue; move; resize, grow, "
    "shrink and reshape; insert a tumour of the bank or of a donor; series"
)
CANNOT = (
    "It has no network: no texture is drawn anew (strength 1, engine bridge, samples). New shapes are grown from those of "
    "nodules and sarcomas, whatever the organ. Its population pools tumours of several organs: percentiles say where a tumour "
    "lies among those, not among tumours of its own organ. A model of the organ is better where there is one."
)


@dataclass(frozen=True)
class Source:
    """A data set.

    :param kind: its modality, as its files say. :param lenders: tumours for the bank; `bytes` of them at most.
    :param skip: patients that lend nothing. :param stacks: images end with their tumours (`export_bank.measured`).
    """

    folder: str
    kind: str
    name: str
    licence: str
    cite: str
    lenders: int = 0
    bytes: int = 0
    skip: tuple[str, ...] = ()
    stacks: bool = False


LIDC = Source("lidc_ct", "CT", "LIDC-IDRI (TCIA), nodules' volumes of interest", "CC BY 3.0",
              "doi:10.7937/K9/TCIA.2015.LO9QL9SX", 5, 60_000)  # fmt: skip
NSCLC = Source("nsclc_ct", "CT", "NSCLC-Radiogenomics (TCIA)", "CC BY 3.0",
               "doi:10.7937/K9/TCIA.2017.7hs46erv", 4, 70_000)  # fmt: skip
STS = Source("sts", "CT", "Soft-tissue-Sarcoma (TCIA), by way of theibsi/data_sets", "CC BY 3.0",
             "doi:10.7937/K9/TCIA.2015.7GO2GSKS", 12, 190_000,
             ("STS_009", "STS_013", "STS_019", "STS_035"))  # fmt: skip
STS_T1 = Source("sts", "T1", STS.name + ", T1", STS.licence, STS.cite, 12, 190_000)
BRAIN = Source("brain_t1gd", "T1GD", "brain tumours, T1 with gadolinium (figshare 1512427)", "CC BY 4.0",
               "doi:10.6084/m9.figshare.1512427.v5", 10, 120_000,
               ("CHENG_men_0049", "CHENG_men_0115", "CHENG_gli_2186", "CHENG_gli_2196"), True)  # fmt: skip


@dataclass(frozen=True)
class Generic:
    """One of the bundles.

    :param spacing: (x, y, z) mm that features are measured at.
    """

    id: str
    title: str
    modality: str
    spacing: tuple[float, float, float]
    sources: tuple[Source, ...]

    @property
    def intensity(self) -> dict:
        if self.modality == "CT":
            return {"kind": "plain", "unit": "HU", "range": [-1024.0, 3071.0]}
        return {"kind": "plain", "unit": "grey level", "level": LEVEL}


GENERIC = (
    Generic("generic-ct", "Any organ (CT)", "CT", (1.0, 1.0, 2.0), (LIDC, NSCLC, STS)),
    Generic("generic-mr", "Any organ (MR)", "MR", (1.0, 1.0, 3.0), (STS_T1, BRAIN)),
)


def measured(volume, mask: np.ndarray, model: Generic) -> dict[str, float]:
    """Features of a tumour at the model's scale."""
    factor = 1.0 if model.modality == "CT" else scale_of(level_of(volume), LEVEL)
    settings = Settings(binWidth=factor * BIN_WIDTH, resampledPixelSpacing=model.spacing)
    found = extract_image(volume, mask, settings)
    return {n: v / factor ** power_of(n) for n, v in found.items() if n in FEATURES}


def population(data: Path, model: Generic) -> tuple[list[str], list[str], np.ndarray, int]:
    """Names, cases, values (n, f) float32 and number of patients; tumours with an undefined feature are left out."""
    rows, patients = {}, set()
    for source in model.sources:
        there = list(candidates([data / source.folder], source.kind, []))
        step = max(1, -(-len(there) // MOST))
        for _, case in there[::step]:
            volume, labels = case.load()
            try:
                found = measured(volume, labels == 1, model)
            except InputError as error:
                print(f"{case.id}: left out, {error}")
                continue
            if np.isfinite(list(found.values())).all():
                rows[case.id] = found
                patients.add(case.patient)
    names = [n for n in next(iter(rows.values())) if all(n in row for row in rows.values())]
    values = np.array([[row[n] for n in names] for row in rows.values()], np.float32)
    return names, list(rows), values, len(patients)


def card(model: Generic, patients: int) -> dict:
    """The manifest but for population and bank."""
    spacing = list(model.spacing)
    return {
        "id": model.id, "version": VERSION, "title": model.title, "organ": "any", "modalities": [model.modality],
        "regions": [{"name": "tumour", "label": 1}], "spacing_mm": spacing, "margin_mm": 12.0,
        "intensity": {model.modality: model.intensity},
        "extraction": {model.modality: {"binWidth": BIN_WIDTH, "resampledPixelSpacing": spacing}},
        "training": {
            "data": "; ".join(s.name for s in model.sources), "licence": ", ".join(sorted({s.licence for s in model.sources})),
            "source": "; ".join(dict.fromkeys(s.cite for s in model.sources)), "patients": patients,
        },
        "licence": "CC BY 4.0", "can": CAN, "cannot": CANNOT,
    }  # fmt: skip


def write(model: Generic, data: Path, out: Path, picture: Path | None = None) -> None:
    """Measure, gather the bank and write one bundle."""
    names, cases, values, patients = population(data, model)
    told = card(model, patients)
    told["population"] = {model.modality: {"names": names, "cases": cases, "tensor": model.modality}}
    files = {POPULATION_FILE: {model.modality: values}}
    with tempfile.TemporaryDirectory() as folder:
        editor = Editor(write_bundle(Path(folder) / model.id, told, files))
        entries, tensors = [], {}
        for source in (s for s in model.sources if s.lenders):
            more, parts = bank_of(editor, model.modality, [data / source.folder], source.lenders, source.licence,
                                  list(source.skip), source.kind, len(entries), source.bytes, source.stacks)  # fmt: skip
            entries += more
            tensors |= parts
    if entries:
        told["bank"] = {"tumours": entries}
        files[FILE] = tensors
    bundle = write_bundle(out / model.id, told, files)
    size = sum(p.stat().st_size for p in bundle.folder.iterdir())
    print(
        f"{bundle.folder}: {len(cases)} tumours of {patients} patients, {len(entries)} lend, {size / 1000:.0f} kB"
    )
    if size > MAX_BYTES:
        raise ModelError(
            f"{bundle.folder} has {size / 1000:.0f} kB, {MAX_BYTES / 1000:.0f} at most: fewer lenders"
        )
    if picture and entries:
        pictures(Bank.of_bundle(load_bundle(bundle.folder)), picture / model.id)


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder of the data sets' folders")
    p.add_argument("--out", type=Path, default=Path("Resources/Models"), help="folder of the bundles")
    p.add_argument("--only", choices=[m.id for m in GENERIC], help="write this one alone")
    p.add_argument("--pictures", type=Path, help="folder for pictures of the banks")
    return p.parse_args(arguments)


if __name__ == "__main__":
    a = parse()
    try:
        for one in GENERIC:
            if a.only in (None, one.id):
                write(one, a.data, a.out, a.pictures)
    except (InputError, ModelError, OSError) as error:
        raise SystemExit(f"export_generic: {error}") from None

"""The main job on one lung tumour: measure, remove, put back, give other textures and sizes, move, insert; one report."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from TumorSynthLib import NOTICE
from TumorSynthLib.console import Bar, as_json, number, table
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.edit.result import EditResult
from TumorSynthLib.outputs import Staging
from TumorSynthLib.pace import Pace
from TumorSynthLib.shaping import measured_shape
from TumorSynthLib.volume import Volume, read_image, read_mask, write_volume

#: LPS mm, in the left lung away from large vessels: of lung1, and of the phantom.
LUNG1_TO, PHANTOM_TO = (65.0, -131.0, -627.5), (58.0, 5.0, 5.0)
GRAINIER, SMOOTHER = 1.3, 0.6  # times the tumour's own GLCM contrast
SHRUNK = 0.6  # times the tumour's own volume
VALUES = ("0.5x", "1x", "2x")  # of the series: times the tumour's own volume
DRIVERS = ("mean_intensity", "intensity_sd", "skewness", "entropy", "contrast", "correlation")
CONTRAST = "original_glcm_Contrast"
VOLUME = "original_shape_MeshVolume"


@dataclass(frozen=True, eq=False)
class Case:
    """What the demonstration edits."""

    name: str
    real: bool
    volume: Volume
    mask: np.ndarray
    donor: tuple[Volume, np.ndarray]
    to: tuple[float, float, float]


@dataclass(frozen=True)
class Outcome:
    """What the demonstration did, for `--json`."""

    case: str
    real: bool
    folder: str
    report: str
    seconds: float
    edits: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""


def run(
    out: Path, model: str, *, phantom: bool = False, device: str = "auto", quiet: bool = False
) -> Outcome:
    """Do all edits of the demonstration and write them to `out`.

    :param phantom: use generated data and download nothing.
    :raises ModelError: the model is missing.
    """
    from TumorSynthLib.editor import Editor
    from TumorSynthLib.png import encode_png
    from TumorSynthLib.report import ReportEdit, write_report
    from TumorSynthLib.sheet import sheet

    say = (lambda *text: None) if quiet else print
    editor = Editor(model, device)
    say(f"Tumor Synth Radiomics: a demonstration with {editor.bundle.id} {editor.bundle.version}. {NOTICE}")
    case, note = _case(phantom, say)
    start = time.perf_counter()
    modality = editor.modality(case.volume, "CT")
    features = editor.extract(case.volume, case.mask, modality)
    say(_measured(editor, modality, case, features))
    with Staging() as staging:
        write_volume(case.volume, staging.file(out / "original.nii.gz"))
        write_volume(case.volume.with_array(case.mask.astype(np.uint8)), staging.file(out / "mask.nii.gz"))
        staging.file(out / "features.json").write_text(
            as_json({"features": features}) + "\n", encoding="utf-8"
        )
    shown, told, said, pairs = [], {}, set(), []
    for name, (method, request) in _edits(case, features, modality).items():
        images = (case.volume,) if method == "insert" else (case.volume, case.mask)
        with Bar(quiet, title=f"{name:<20} ") as bar:
            bar.pace = Pace.of(method, request)
            result = getattr(editor, method)(*images, request, bar)
            told[name] = _write(out, name, method, result, case)
        said.update(bar.said)
        say(f"{name:<20} {_told(result)}")
        for warning in result.warnings:
            if warning not in said:
                say(f"{'':<20}   {warning}")
        said.update(result.warnings)
        old = None if method == "insert" else case.mask
        pairs.append((name, case.volume, result.volume, result.mask))
        shown.append(
            ReportEdit(name.capitalize(), case.volume, result, old, editor.population(modality), modality)
        )
    told["series"], lead = _series(out, editor, case, modality, quiet, say)
    picture = out / "edits.png"
    with Staging() as staging:
        write_report(staging.folder(out), f"Demonstration: {case.name}", shown, lead)
        staging.file(picture).write_bytes(encode_png(sheet(pairs, modality)))
    seconds = time.perf_counter() - start
    say(f"\nAll edits, before and after, axial and coronal: {picture.resolve()}")
    say(
        f"Done in {seconds:.0f} s. Report: {(out / 'report.html').resolve()}\nVolumes, masks and sidecars: {out.resolve()}"
    )
    return Outcome(
        case.name, case.real, str(out.resolve()), str((out / "report.html").resolve()), seconds, told, note
    )


def _case(phantom: bool, say: Callable[..., None]) -> tuple[Case, str]:
    """The real case, or the phantom and why."""
    from TumorSynthLib import samples

    note = "A generated phantom, as asked: no patient's data."
    if not phantom:
        try:
            if not samples.complete(samples.cache_folder() / f"pyradiomics-{samples.VERSION}"):
                say("Downloading a chest CT, 34 MB, once …")
            return real(samples.lungs()), ""
        except samples.Unavailable as error:
            note = f"The real chest CT is not available: {error}. A GENERATED PHANTOM is used instead; it shows no patient."
    print(f"note: {note}", file=sys.stderr)
    return generated(), note


def real(folder: Path) -> Case:
    """Case of the downloaded files."""
    volumes = [read_image(folder / f"lung{i}_image.nrrd") for i in (1, 2)]
    masks = [read_mask(folder / f"lung{i}_label.nrrd", volume, 1) for i, volume in zip((1, 2), volumes)]
    return Case("lung1, a real lung tumour", True, volumes[0], masks[0], (volumes[1], masks[1]), LUNG1_TO)


def generated() -> Case:
    """Case of generated data."""
    from TumorSynthLib.phantom import chest

    volume, mask = chest(seed=1)
    return Case(
        "generated phantom, not a patient",
        False,
        volume,
        mask,
        chest(seed=2, grain=60.0, level=-20.0),
        PHANTOM_TO,
    )


def _edits(case: Case, features: Mapping[str, float], modality: str) -> dict[str, tuple[str, EditRequest]]:
    """Name to (method of the editor, request)."""

    def texture(factor: float) -> EditRequest:
        return EditRequest(features={CONTRAST: factor * features[CONTRAST]}, modality=modality)

    def sized(factor: float) -> EditRequest:
        return EditRequest(features={"volume_ml": factor * ml}, modality=modality, nearest=True)

    ml = measured_shape(case.mask, case.volume.spacing)[VOLUME] / 1000
    inserted = EditRequest(features={"volume_ml": ml}, modality=modality, at=case.to, nearest=True)
    return {
        "removed": ("remove", EditRequest(modality=modality)),
        "a donor's tissue": ("retexture", EditRequest(donor=case.donor, modality=modality)),
        "higher contrast": ("retexture", texture(GRAINIER)),
        "lower contrast": ("retexture", texture(SMOOTHER)),
        "moved": ("move", EditRequest(to=case.to, modality=modality, nearest=True)),
        "twice the volume": ("reshape", sized(2.0)),
        "smaller": ("reshape", sized(SHRUNK)),
        "inserted": ("insert", inserted),
    }


def _series(out: Path, editor, case: Case, modality: str, quiet: bool, say) -> tuple[dict[str, Any], str]:
    """The tumour in several sizes: written, and what `--json` and the report say of it."""
    from TumorSynthLib.commands import write_edit
    from TumorSynthLib.png import encode_apng, encode_png
    from TumorSynthLib.provenance import sidecar_path
    from TumorSynthLib.series import table_text
    from TumorSynthLib.series_figures import section, series_pictures, there_and_back

    start = time.perf_counter()
    request = EditRequest(modality=modality, nearest=True)
    with Bar(quiet, title=f"{'series':<20} ") as bar:
        bar.pace = Pace.of("series", request, len(VALUES))
        results = editor.series(case.volume, case.mask, "volume_ml", VALUES, request, bar)
    values = [result.provenance["series"]["value"] for result in results]
    frames, sheet = series_pictures(case.volume, results, case.mask, modality, values)
    animation, contact = encode_apng(there_and_back(frames)), encode_png(sheet)
    files = {"image": out / "original.nii.gz", "mask": out / "mask.nii.gz"}
    with Staging() as staging:
        for i, result in enumerate(results, 1):
            image = out / f"series-{i}.nii.gz"
            paths = {"image": image, "sidecar": sidecar_path(image), "mask": out / f"series-{i}-mask.nii.gz"}
            write_edit(staging, paths, result, files)
        staging.file(out / "series.csv").write_text(table_text("volume_ml", results), encoding="utf-8")
        staging.file(out / "series.png").write_bytes(animation)
        staging.file(out / "series-contact-sheet.png").write_bytes(contact)
    reached = [result.reached[VOLUME] / 1000 for result in results]
    seconds = time.perf_counter() - start
    said = ", ".join(f"{number(a)} → {number(b)}" for a, b in zip(values, reached))
    say(f"{'series':<20} {seconds:5.1f} s   volume_ml asked → reached: {said}")
    told = {"asked": values, "reached": reached, "seconds": seconds, "animation": str(out / "series.png")}
    return told, section("volume_ml", animation, contact, results)


def _write(out: Path, name: str, method: str, result: EditResult, case: Case) -> dict[str, Any]:
    """Write one edit; returns what `--json` says of it."""
    from TumorSynthLib.commands import write_edit
    from TumorSynthLib.provenance import sidecar_path

    image = out / f"{name.replace(' ', '-').replace(chr(39), '')}.nii.gz"
    paths = {"image": image, "sidecar": sidecar_path(image)}
    if method in ("move", "reshape", "insert"):
        paths["mask"] = out / f"{name.replace(' ', '-')}-mask.nii.gz"
    with Staging() as staging:
        write_edit(staging, paths, result, {"image": out / "original.nii.gz", "mask": out / "mask.nii.gz"})
    off = result.differences
    return {
        "outputs": {kind: str(path) for kind, path in paths.items()},
        "asked": len(result.asked),
        "median miss (σ)": statistics.median(map(abs, off.values())) if off else None,
        "seconds": result.timing["total"],
        "warnings": list(result.warnings),
    }


def _told(result: EditResult) -> str:
    """One line on an edit."""
    off = result.differences
    text = f"{result.timing['total']:5.1f} s"
    if len(off) > 4:
        return f"{text}   {len(off)} features asked, median miss {statistics.median(map(abs, off.values())):.2f} σ"
    parts = [
        f"{n.removeprefix('original_')} {number(result.before.get(n))} → asked {number(v)}, "
        f"reached {number(result.reached[n])}"
        for n, v in result.asked.items()
    ]
    return "   ".join([text, *parts])


def _measured(editor, modality: str, case: Case, features: Mapping[str, float]) -> str:
    """Table of the drivers."""
    from TumorSynthLib.radiomics.table import resolve, unit_of

    population, rows = editor.population(modality), []
    for alias in DRIVERS:
        name = resolve(alias)[0]
        value = features[name] if name in features else features["original_firstorder_Variance"] ** 0.5
        percentile = (
            f"{population.percentile(name, value):.0f}" if population and name in population.names else ""
        )
        unit = unit_of(name, "HU")
        rows.append([alias, number(value), "" if unit == "1" else unit,
                     percentile])  # fmt: skip
    ml = case.mask.sum() * float(np.prod(case.volume.spacing)) / 1000
    head = f"Measured: {case.name}, {ml:.1f} ml"
    return f"{head}\n{table(['feature', 'value', 'unit', 'percentile'], rows, right=(1, 3))}\n"


def command(args: argparse.Namespace) -> int:
    """`tumorsynth demo`."""
    result = run(
        Path(args.out), args.model, phantom=args.phantom, device=args.device, quiet=args.quiet or args.json
    )
    if args.json:
        print(as_json(asdict(result)))
    return 0

"""What `tumorsynth shape` and `tumorsynth series` do."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from TumorSynthLib.commands import (
    AUTO,
    given,
    input_files,
    inputs,
    model_of,
    model_settings,
    option_files,
    option_mask,
    options_of,
    recorded,
    reuse_memory,
    taken_labels,
    tell,
    tell_measured,
    tell_model,
    with_warnings,
    write_edit,
)
from TumorSynthLib.console import Bar, as_json, number, table, told_as
from TumorSynthLib.edit.options import OPTIONS
from TumorSynthLib.edit.told import made
from TumorSynthLib.errors import InputError, noticed
from TumorSynthLib.features_file import measured_otherwise, with_multiples
from TumorSynthLib.outputs import Staging, check_apart
from TumorSynthLib.pace import Pace

ANIMATION, SHEET, TABLE = "series.png", "contact-sheet.png", "features.csv"


def draw(args: argparse.Namespace) -> int:
    """`tumorsynth shape`."""
    from TumorSynthLib.edit.options import EditRequest
    from TumorSynthLib.provenance import check_like, check_repeatable, check_sidecar, repeating, sidecar_path
    from TumorSynthLib.volume import check_output, read_image

    start = time.perf_counter()
    entry = recorded(args)
    out = check_output(args.out)
    paths = {"mask": out, "sidecar": sidecar_path(out)}
    check_sidecar(paths["sidecar"])
    if args.report:
        paths["report"] = _report_file(args.report)
    check_apart(paths.values(), [args.like, *option_files(args), args.repeat])
    spacing = _spacing(args, entry)
    options, notes = options_of(args, entry)
    if args.like and options.get("at") is None:
        raise InputError("--like needs --at X Y Z: where on the image the mask's centre is to lie, LPS mm")
    if {"inside", "nearest"} & given(args).keys() and not args.like:
        raise InputError(
            "--inside and --nearest belong to a place on an image: give --like IMAGE and --at X Y Z"
        )
    with Bar(args.quiet) as bar, repeating(entry):
        from TumorSynthLib.editor import Editor

        with noticed() as seen:
            like = read_image(args.like) if args.like else None
            args.image = args.like
            if like is None and entry is None and args.model in (None, AUTO):
                raise InputError(
                    "a mask alone shows no organ: name a model (--model; `tumorsynth models list`), or an image (--like)"
                )
            editor = Editor(model_of(args, entry, like), args.device)
            masks = {
                name: option_mask(OPTIONS[name], value, like, getattr(args, f"{name}_label", None))
                for name, value in given(args).items()
                if OPTIONS[name].kind == "mask"
            }
        request = EditRequest(**options, **masks)
        if entry is not None:
            check_like(entry, like)
            notes += check_repeatable(entry, editor.bundle, request=request)
        read = time.perf_counter()
        result = with_warnings(editor.shape(request, spacing, like, bar), seen)
        edited = time.perf_counter()
    _write_shape(args, paths, result, like)
    timing = {"read": read - start, "edit": edited - read, "write": time.perf_counter() - edited}
    tell(args, paths, result, notes, timing, seen)
    return 0


def _spacing(args: argparse.Namespace, entry: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """(x, y, z) mm of the mask's own grid; None for the model's or an image's."""
    if args.spacing is None:
        return tuple(entry["input"]["spacing"]) if entry is not None and not args.like else None
    if args.like:
        raise InputError("--spacing and --like exclude each other: the mask gets the grid of the image")
    if len(args.spacing) not in (1, 3) or min(args.spacing) <= 0:
        raise InputError(f"--spacing {args.spacing}: give one number or three, x y z, in mm")
    x, y, z = args.spacing if len(args.spacing) == 3 else args.spacing * 3
    return x, y, z


def _write_shape(args: argparse.Namespace, paths: Mapping[str, Path], result, like) -> None:
    from TumorSynthLib import provenance
    from TumorSynthLib.volume import write_volume

    with Staging(last=True) as staging:
        write_volume(result.volume, staging.file(paths["mask"]), provenance.marks(result.provenance))
        masks = {name: value for name, value in given(args).items() if OPTIONS[name].kind == "mask"}
        files = {"like": args.like, "result": paths["mask"], **masks}
        named = {k: v for k, v in files.items() if v}
        entry = provenance.with_files(result.provenance, named, taken_labels(args))
        provenance.write_sidecar(entry, staging.file(paths["sidecar"]).with_name(paths["mask"].name))
        if "report" in paths:
            from TumorSynthLib.report import ReportEdit, write_report

            shown = like or result.volume
            fields = (
                "mask",
                "asked",
                "used",
                "reached",
                "before",
                "timing",
                "provenance",
                "warnings",
                "spread",
            )
            told = SimpleNamespace(volume=shown, **{name: getattr(result, name) for name in fields})
            edit = ReportEdit("Shape", shown, told, result.mask)
            write_report(staging.folder(Path(args.report)), f"Shape: {paths['mask'].name}", [edit])


def run_series(args: argparse.Namespace) -> int:
    """`tumorsynth series`."""
    from TumorSynthLib import series
    from TumorSynthLib.provenance import check_sidecar

    start = time.perf_counter()
    reuse_memory()
    args.repeat = None
    recorded(args)
    folder = Path(args.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {args.out} is a file: give a folder for the series")
    values = [value.strip() for value in args.values.split(",") if value.strip()]
    series.checked(args.feature, values)
    options, notes = options_of(args, None)
    paths = _series_paths(args, folder, len(values))
    for step in paths["steps"]:
        check_sidecar(step["sidecar"])
    check_apart(
        [path for step in paths["steps"] for path in step.values()],
        [*input_files(args).values(), getattr(args, "settings", None), *option_files(args)],
    )
    with Bar(args.quiet) as bar:
        from TumorSynthLib.editor import Editor
        from TumorSynthLib.volume import read_image

        settings = model_settings(args, None, notes)
        with noticed() as seen:
            volume = read_image(args.image)
            editor = Editor(model_of(args, None, volume), args.device, settings)
            volume, mask, request = inputs(args, options, None, volume)
            request = with_multiples(args.multiples, editor, volume, mask, request)
        notes += measured_otherwise(getattr(args, "features", None), editor, volume, request)
        read = time.perf_counter()
        bar.pace = Pace.of("series", request, len(values))
        found = editor.series(volume, mask, args.feature, values, request, bar)
        results = [with_warnings(result, seen) for result in found]
        edited = time.perf_counter()
        _write_series(args, paths, editor, volume, mask, results)
    timing = {"read": read - start, "edit": edited - read, "write": time.perf_counter() - edited}
    _tell_series(args, paths, results, notes, timing, [*bar.said, *seen])
    return 0


def _series_paths(args: argparse.Namespace, folder: Path, count: int) -> dict[str, Any]:
    """All files that a series writes."""
    steps = []
    for i in range(1, count + 1):
        name = f"step-{i:02d}"
        steps.append({"image": folder / f"{name}.nii.gz", "sidecar": folder / f"{name}.json",
                      "mask": folder / f"{name}-mask.nii.gz"})  # fmt: skip
    paths: dict[str, Any] = {
        "steps": steps,
        "table": folder / TABLE,
        "animation": folder / ANIMATION,
        "sheet": folder / SHEET,
    }
    if args.report:
        paths["report"] = _report_file(args.report)
    return paths


def _report_file(folder: str) -> Path:
    if Path(folder).exists() and not Path(folder).is_dir():
        raise InputError(f"--report {folder} is a file: give a folder")
    return Path(folder) / "report.html"


def _write_series(args, paths: Mapping[str, Any], editor, volume, mask, results: Sequence[Any]) -> None:
    from TumorSynthLib.png import encode_apng, encode_png
    from TumorSynthLib.series import table_text
    from TumorSynthLib.series_figures import section, series_pictures, there_and_back

    modality = results[0].provenance["modality"]
    values = [result.provenance["series"]["value"] for result in results]
    frames, sheet = series_pictures(volume, results, mask, modality, values)
    animation, contact = encode_apng(there_and_back(frames)), encode_png(sheet)
    with Staging(last=True) as staging:
        for step, result in zip(paths["steps"], results):
            write_edit(staging, step, result, input_files(args), args.keep_header, taken_labels(args))
        staging.file(paths["table"]).write_text(table_text(args.feature, results), encoding="utf-8")
        staging.file(paths["animation"]).write_bytes(animation)
        staging.file(paths["sheet"]).write_bytes(contact)
        if "report" in paths:
            from TumorSynthLib.report import ReportEdit, write_report

            population = editor.population(modality, volume)
            edits = [
                ReportEdit(f"{args.feature} {number(value)}", volume, result, mask, population, modality)
                for value, result in zip(values, results)
            ]
            lead = section(args.feature, animation, contact, results)
            title = f"Series of {args.feature}: {Path(args.image).name}"
            write_report(staging.folder(Path(args.report)), title, edits, lead)


def _tell_series(
    args, paths: Mapping[str, Any], results: Sequence[Any], notes: list[str], timing, said
) -> None:
    """Print what was made; of the warnings, those that were `said` before aren't printed again."""
    tell_model(args)
    from TumorSynthLib.series import table as series_table

    warnings = list(dict.fromkeys([*notes, *(text for result in results for text in result.warnings)]))
    rows = series_table(args.feature, results)
    if args.json:
        told: dict[str, Any] = {"edit": "series", "feature": args.feature, "outputs": paths, "table": rows}
        told["steps"] = [
            {
                name: getattr(r, name)
                for name in ("asked", "used", "reached", "before", "timing", "warnings", "provenance")
            }
            for r in results
        ]
        print(
            as_json(
                told | {"warnings": warnings, "command timing": {k: round(v, 3) for k, v in timing.items()}}
            )
        )
        return
    for text in warnings:
        if text not in said:
            print(f"warning: {text}", file=sys.stderr)
    name = results[0].provenance["series"]["feature"]
    told = told_as([args.feature])
    full, (_, shown) = next(iter(told.items())) if told else (name, (name, number))
    lines = [
        [
            str(r["step"]),
            number(r[args.feature]),
            shown(result.asked.get(full)),
            shown(r.get(full)),
            step["image"].name,
        ]
        for r, result, step in zip(rows, results, paths["steps"])
    ]
    print(table(["step", args.feature, "asked", "reached", "file"], lines, right=(0, 1, 2, 3)))
    for text in dict.fromkeys(made(result.provenance)[0] for result in results):
        print(text)
    tell_measured(args, results[0])
    for kind in ("table", "animation", "sheet", "report"):
        if kind in paths:
            print(f"{kind}: {paths[kind]}")

"""What the commands of `cli.py` do: read, call the editor, write everything or nothing, print."""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from TumorSynthLib.console import Bar, as_asked, as_json, asked_table, number, table
from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.options import IMAGES, OPTIONS, Option, of_edit, unused_text
from TumorSynthLib.edit.told import made
from TumorSynthLib.errors import InputError, noticed
from TumorSynthLib.features_file import measured_otherwise, read_features, with_multiples
from TumorSynthLib.memory import reuse_memory
from TumorSynthLib.numeric import is_finite
from TumorSynthLib.outputs import Staging, check_apart
from TumorSynthLib.pace import Pace
from TumorSynthLib.threads import restored

AUTO, NONE = "auto", "none"  # as a model: the one that suits, which is the default; and no model
SEPARATORS = {".csv": ",", ".tsv": "\t"}  # of tables of features


def extract(args: argparse.Namespace) -> int:
    """`tumorsynth extract`."""
    check_apart([args.out], [args.image, args.mask, args.settings])
    _check_table(args.out)
    from TumorSynthLib.models import find
    from TumorSynthLib.volume import read_image

    with noticed() as read:
        volume = read_image(args.image)
        model = model_of(args, None, volume) if args.model else None
        found, warnings, unit = extracted(args, find(model) if model else None, volume)
    tell_model(args)
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr)
    found["warnings"] = [*read, *warnings]
    if args.out:
        with Staging(last=True) as staging:
            staging.file(args.out).write_text(_features_text(args.out, found, unit), encoding="utf-8")
    print(as_json(found) if args.json else _feature_table(found, unit))
    if model is None and not (args.settings or args.json):
        more = "" if args.model else "; an edit measures as its model does (--model auto)"
        print(f"\nmeasured with pyradiomics' default settings{more}")
    return 0


def extracted(args, bundle, volume=None) -> tuple[dict[str, Any], list[str], str]:
    """What `extract` prints as JSON, warnings, and the unit of the intensities ("HU" or none).

    :param args: has `image`, `mask`, `label`, `settings`, `modality` and `region`.
    :param bundle: the model to measure as; None measures by `settings`, a file, or pyradiomics' defaults.
    :param volume: the image, where it was read already.
    """
    from TumorSynthLib.radiomics.parameters import Parameters
    from TumorSynthLib.suitability import parts_said
    from TumorSynthLib.volume import read_image

    parameters = Parameters.from_file(args.settings) if args.settings else Parameters()
    warnings = list(parameters.notes)
    if args.label is None:
        args.label = parameters.label
    volume = read_image(args.image) if volume is None else volume
    mask = painted_mask(args, volume, bundle)
    warnings += parts_said(mask, volume.spacing)
    found: dict[str, Any] = {
        "features": None,
        "settings": None,
        "model": None,
        "mask voxels": int(mask.sum()),
    }
    if bundle is None:
        from TumorSynthLib.radiomics.extract import extract_image

        found["features"] = extract_image(
            volume, mask, parameters.settings, parameters.classes, parameters.image_types, warnings.append
        )
        return found | parameters.as_record(), warnings, ""
    from TumorSynthLib.editor import Editor
    from TumorSynthLib.models.intensity import Intensity

    editor = Editor(bundle).painting(args.region)
    modality = editor.modality(volume, args.modality, warnings.append)
    found["features"] = editor.extract(volume, mask, modality, warn=warnings.append)
    found["settings"] = editor.measuring(volume, modality).to_pyradiomics()
    found |= {"model": bundle.id, "model sha256": bundle.sha256, "modality": modality}
    found |= {"region": args.region} if args.region else {}
    found["percentiles"] = _percentiles(editor.population(modality, volume), found["features"])
    return found, warnings, Intensity.of(volume.array, modality, bundle).unit


def painted_mask(args: argparse.Namespace, volume, bundle):
    """The voxels to measure, (K, J, I) bool: those of the model's region, or of the label."""
    from TumorSynthLib.painted import parts
    from TumorSynthLib.volume import read_labelmap, read_mask

    if bundle is None and args.region:
        raise InputError("--region needs --model, which says what label the region has")
    if bundle is None or len(bundle.regions) == 1 or args.label is not None:
        return read_mask(args.mask, volume, args.label)
    return parts(bundle, read_labelmap(args.mask, volume), bundle.region(args.region).name)[0]


def _percentiles(population, features: Mapping[str, float]) -> dict[str, float]:
    if population is None:
        return {}
    return {
        name: float(population.percentile(name, value))
        for name, value in features.items()
        if name in population.names
    }


def _check_table(out: str | None) -> None:
    """Raise InputError for a file that features aren't written to."""
    if out is not None and Path(out).suffix.lower() not in ("", ".json", *SEPARATORS):
        raise InputError(f"--out {out}: give a name that ends in .json, .csv or .tsv")
    if out is not None:
        from TumorSynthLib.volume import check_folder

        check_folder(Path(out).parent)


def _features_text(out: str, found: Mapping[str, Any], unit: str) -> str:
    """What goes into the file: all that is known as JSON, or the features as a table."""
    separator = SEPARATORS.get(Path(out).suffix.lower())
    if separator is None:
        return as_json(found) + "\n"
    head, rows = _feature_rows(found, unit, lambda value: repr(value) if is_finite(value) else "")
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _feature_table(found: Mapping[str, Any], unit: str) -> str:
    return table(*_feature_rows(found, unit, number), right=(1, 3))


def _feature_rows(
    found: Mapping[str, Any], unit: str, shown: Callable[[float], str]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the features; values as `shown` gives them, one that couldn't be measured is no number."""
    from TumorSynthLib.radiomics.table import unit_of

    percentiles = found.get("percentiles")
    head = ["feature", "value", "unit"] + (["percentile"] if percentiles is not None else [])
    rows = []
    for name, value in found["features"].items():
        measured = unit_of(name, unit)
        row = [name, shown(value), "" if measured == "1" else measured]
        if percentiles is not None:
            row.append(f"{percentiles[name]:.0f}" if name in percentiles else "")
        rows.append(row)
    return head, rows


def edit(args: argparse.Namespace) -> int:
    """Any edit: check options and output, read, edit, write all at once, print."""
    start = time.perf_counter()
    reuse_memory()
    entry = recorded(args)
    threads = restored(entry)
    paths = output_paths(args)
    from TumorSynthLib.provenance import check_repeatable, repeating

    with Bar(args.quiet) as bar, repeating(entry):
        options, notes = options_of(args, entry)
        notes = threads + notes
        from TumorSynthLib.editor import Editor
        from TumorSynthLib.volume import read_image

        settings = model_settings(args, entry, notes)
        with noticed() as seen:
            volume = read_image(args.image)
            editor = Editor(model_of(args, entry, volume), args.device, settings)
            if editor.bundle is not None:
                editor.bundle.verify()  # 0.1 s; also where the engine draws without it: the record names the model
            volume, mask, request = inputs(args, options, editor.bundle, volume, entry)
        images = (volume,) if mask is None else (volume, mask)
        request = with_multiples(getattr(args, "multiples", None), editor, volume, mask, request)
        if entry is not None:
            notes += check_repeatable(
                entry, editor.bundle, *_painted(editor, images, request), request=request
            )
        if args.command == "synthesize" and entry is None:
            request = editor.on_tumour(volume, mask, request)
        notes += measured_otherwise(getattr(args, "features", None), editor, volume, request)
        read = time.perf_counter()
        bar.pace = Pace.of(args.command, request)
        result = getattr(editor, args.command)(*images, request, bar)
        result = with_warnings(result, seen)
        edited = time.perf_counter()
        if editor.several:
            mask, editor = result.mask, editor.painting(request.region or editor.bundle.regions[0].name)
        new = sorted(
            {str(p.parent) for kind, p in paths.items() if kind != "report" and not p.parent.exists()}
        )
        _write(args, paths, editor, volume, mask, result)
        notes += [f"there was no folder {name}: it was made" for name in new]
    timing = {"read": read - start, "edit": edited - read, "write": time.perf_counter() - edited}
    tell(args, paths, result, notes, timing, [*bar.said, *seen])
    return 0


def with_warnings(result, texts: Sequence[str]):
    """A result that tells, in its record too, what the readers of its files warned of."""
    told = tuple(dict.fromkeys([*texts, *result.warnings]))
    return replace(result, warnings=told, provenance={**result.provenance, "warnings": list(told)})


def model_of(args: argparse.Namespace, entry: Mapping[str, Any] | None, volume) -> str | None:
    """The model to edit with: as named, as recorded, or the installed one that suits; `args.chosen` then says why.

    :param args: has `model`, `image`, and what else says of the tumour: `mask`, `label`, `modality`, `at`, `inside`,
        `avoid`, `settings`.
    :raises InputError: none suits, and the edit needs one.
    """
    if args.model not in (None, AUTO):
        return None if args.model == NONE else args.model
    if entry is not None:
        return entry["model"].get("id")
    if getattr(args, "settings", None):
        args.chosen = "no model: --settings says how to measure, which a model does with its own"
        return None
    from TumorSynthLib.edit.choose import suited
    from TumorSynthLib.volume import read_labelmap, read_mask

    mask, path = None, getattr(args, "mask", None)
    if path:
        labels = args.label if isinstance(args.label, list) else [args.label]
        with noticed(show=False):  # it is read again for the edit
            known = labels[0] is not None
            mask = read_mask(path, volume, labels[0]) if known else read_labelmap(path, volume) > 0
    texts = [Path(str(name)).name for name in (args.image, path) if name]
    place: dict[str, Any] = {"at": getattr(args, "at", None)}
    if isinstance(place["at"], str):
        with noticed(show=False):
            for name in [n for n in ("inside", "avoid") if getattr(args, n, None)]:
                label = getattr(args, f"{name}_label", None)
                place[name] = option_mask(OPTIONS[name], getattr(args, name), volume, label)
    found = suited(volume, mask, texts, getattr(args, "modality", None), **place)
    if not found.model_id and args.command in EDITS and EDITS[args.command].model:
        raise InputError(
            f"{found.reason}: name a model (--model); `tumorsynth models list` shows what there is"
        )
    args.chosen = (f"model {found.model_id}" if found.model_id else "no model") + f": {found.reason}"
    return found.model_id or None


def model_settings(args: argparse.Namespace, entry: Mapping[str, Any] | None, notes: list[str]):
    """Settings of the extraction of an edit without a model; None is what the engine takes.

    :param notes: gets sentences on what the file of `--settings` asks for and an edit doesn't do.
    """
    from TumorSynthLib.radiomics.parameters import ORIGINAL, Parameters
    from TumorSynthLib.radiomics.settings import Settings

    path, before = getattr(args, "settings", None), (entry or {}).get("plan", {}).get("settings")
    if path and args.model not in (None, NONE):
        raise InputError("--settings and --model exclude each other: a model measures with its own settings")
    if not path:
        return Settings.from_dict(before) if entry and before and not entry["model"] else None
    parameters = Parameters.from_file(path)
    notes += parameters.notes
    others = [t.name for t in parameters.image_types if t.name != ORIGINAL.name]
    if others:
        notes.append(f"an edit measures the original image alone, without {', '.join(others)} of {path}")
    return parameters.settings


def _painted(editor, images, request):
    """The images with the mask of what the request changes, in place of a labelmap."""
    from TumorSynthLib.painted import parts

    volume, *masks = images
    if editor.bundle is None:
        return images
    return (volume, *(parts(editor.bundle, mask, request.region)[0] for mask in masks))


def recorded(args: argparse.Namespace) -> dict[str, Any] | None:
    """The record of the edit to repeat, or None."""
    if not args.repeat:
        if args.model == NONE and EDITS[args.command].model:
            raise InputError(f"{args.command} needs a model: `tumorsynth models list` shows what there is")
        place = EDITS[args.command].place
        if place and not hasattr(args, place):
            raise InputError(f"--{place} X Y Z is needed: the new centre of the tumour, LPS mm")
        return None
    from TumorSynthLib.provenance import read_sidecar

    entry = read_sidecar(args.repeat)
    again = ("mask", "donor") if "donor_sha256" in entry.get("input", {}) else ("mask",)
    kept = [OPTIONS[name].flag for name in given(args) if OPTIONS[name].kind not in again]
    kept += ["--set"] if getattr(args, "set", None) else []
    if kept:
        raise InputError(f"--repeat takes the whole request from its file: leave out {', '.join(kept)}")
    if entry["operation"] != args.command:
        raise InputError(
            f"{args.repeat} records `{entry['operation']}`, not `{args.command}`: call that command"
        )
    files, labels = input_files(args), entry.get("labels", {})
    masks = [(n, f"{n}_label") for n, row in OPTIONS.items() if row.kind == "mask"]
    for role, name in (("mask", "label"), ("donor_mask", "donor_label"), *masks):
        same = role in files and Path(files[role]).name == entry.get("files", {}).get(role)
        if same and role in labels and not getattr(args, name, None):
            setattr(args, name, labels[role] if name == "label" else labels[role][0])
    return entry


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the table that were given on the command line, as parsed."""
    return {
        name: getattr(args, name) for name in of_edit(args.command) if getattr(args, name, None) is not None
    }


def output_paths(args: argparse.Namespace) -> dict[str, Path]:
    """All files that the edit will write, checked before any work."""
    from TumorSynthLib.provenance import check_sidecar, sidecar_path
    from TumorSynthLib.volume import check_folder, check_output

    out = check_output(args.out)
    paths = {"image": out, "sidecar": sidecar_path(out)}
    check_sidecar(paths["sidecar"])
    if getattr(args, "out_mask", None):
        paths["mask"] = check_output(args.out_mask)
    if getattr(args, "zone_out", None):
        paths["zone"] = check_output(args.zone_out)
    if args.report:
        if Path(args.report).exists() and not Path(args.report).is_dir():
            raise InputError(f"--report {args.report} is a file: give a folder")
        check_folder(args.report)
        paths["report"] = Path(args.report) / "report.html"
    inputs = [*input_files(args).values(), args.repeat, getattr(args, "settings", None), *option_files(args)]
    check_apart(paths.values(), inputs)
    return paths


def options_of(args: argparse.Namespace, entry: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """Arguments of the `EditRequest` but for images, checked before any file is read, and notes for the user."""
    from TumorSynthLib.edit.features import resolved, split
    from TumorSynthLib.edit.options import EditRequest

    notes: list[str] = []
    if entry is not None:
        from TumorSynthLib.provenance import request_of

        options = request_of(entry)
    else:
        options = {
            name: OPTIONS[name].decode(value)
            for name, value in given(args).items()
            if OPTIONS[name].kind not in (*IMAGES, "features")
        }
        if hasattr(args, "set"):
            options["features"], notes = asked(args)
    check = split if EDITS[args.command].shape else resolved
    check(
        {
            **(EditRequest(**options).features or {}),
            **dict.fromkeys(getattr(args, "multiples", None) or {}, 1.0),
        }
    )
    return options, notes


def asked(args: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Features of --features and --set, and notes on what was left out of the file."""
    features: dict = {}
    notes = []
    if getattr(args, "features", None):
        from TumorSynthLib.edit.features import steerable

        features, left = steerable(read_features(args.features), shape=EDITS[args.command].shape)
        if left:
            notes.append(
                f"{len(left)} features of {args.features} were left free: "
                + ("" if EDITS[args.command].shape else "those of shape, ")
                + "those that follow the region's size, and those that are measured only"
            )
    args.multiples = {}
    for text in (item for group in getattr(args, "set", []) for item in group):
        name, sign, value = text.partition("=")
        relative = value.strip().lower().endswith(("x", "×"))
        try:
            into, other = (args.multiples, features) if relative else (features, args.multiples)
            into[name.strip()] = float(value.strip()[:-1] if relative else value)
            other.pop(name.strip(), None)  # the last one counts
        except ValueError:
            where = "" if sign else " (IMAGE and MASK come before --set)"
            more = ", or a multiple of the tumour's own such as 0.5x" if EDITS[args.command].mask else ""
            raise InputError(f"--set {text}: expected NAME=VALUE with a number{more}{where}") from None
        if relative and not is_finite(into[name.strip()]):
            raise InputError(f"--set {text}: give a finite multiple")
        if relative and not EDITS[args.command].mask:
            raise InputError(
                f"--set {text}: {args.command} has no tumour whose {name} could be multiplied: give a number"
            )
    args.named = [*features, *args.multiples]
    return features, notes


def inputs(args: argparse.Namespace, options: Mapping[str, Any], bundle=None, volume=None, entry=None):
    """Volume, mask (a labelmap for a bundle with several regions) and whole request of an edit.

    :param volume: the image, where it was read already. :param entry: the record of the edit to repeat.
    """
    import functools

    import numpy as np

    from TumorSynthLib.edit.options import EditRequest
    from TumorSynthLib.edit.regions import keeping_others
    from TumorSynthLib.volume import read_image, read_labelmap, read_mask

    def read(path, like, label):
        if bundle is not None and len(bundle.regions) > 1 and label is None:
            return read_labelmap(path, like)
        return read_mask(path, like, label)

    volume = read_image(args.image) if volume is None else volume
    mask = None
    if getattr(args, "mask", None):
        labels = args.label if isinstance(args.label, list) else [args.label]
        mask = (
            functools.reduce(np.logical_or, [read(args.mask, volume, n) for n in labels])
            if labels[1:]
            else None
        )
        mask = read(args.mask, volume, labels[0]) if mask is None else mask
    images: dict[str, Any] = {}
    for name, value in given(args).items():
        label = getattr(args, f"{name}_label", None)
        if OPTIONS[name].kind == "donor":
            image = read_image(value[0])
            images[name] = (image, read(value[1], image, label))
        elif OPTIONS[name].kind == "mask":
            images[name] = option_mask(OPTIONS[name], value, volume, label)
    request = EditRequest(**options, **images)
    if mask is not None and (entry is None or "avoid_sha256" in entry["input"]):
        request = keeping_others(args.command, request, args.mask, volume, labels, mask)
    return volume, mask, request


def option_mask(row: Option, path: str, like, label: int | str | None):
    """The mask of an option on an image's grid, (K, J, I) bool."""
    from TumorSynthLib.volume import read_labelmap, read_mask

    try:
        return read_labelmap(path, like) > 0 if row.labels == "all" else read_mask(path, like, label)
    except InputError as error:
        text = str(error).replace(
            ": draw the tumour first", ": mark something in it, or leave the option out"
        )
        raise InputError(f"{row.flag}: {text}") from None


def option_files(args: argparse.Namespace) -> list[str]:
    """The files that options name, but for a donor's."""
    return [value for name, value in given(args).items() if OPTIONS[name].kind in ("mask", "features")]


def _write(args, paths: Mapping[str, Path], editor, volume, mask, result) -> None:
    with Staging(last=True) as staging:
        write_edit(staging, paths, result, input_files(args), args.keep_header, taken_labels(args))
        if "report" in paths:
            from TumorSynthLib.report import ReportEdit, write_report

            modality = result.provenance["modality"]
            edit = ReportEdit(
                args.command.capitalize(), volume, result, mask, editor.population(modality, volume), modality
            )
            title = f"{args.command.capitalize()}: {Path(args.image).name}"
            write_report(staging.folder(Path(args.report)), title, [edit])


def input_files(args: argparse.Namespace) -> dict[str, str]:
    """Role to file of what an edit reads."""
    donor = getattr(args, "donor", None) or [None, None]
    files = {
        "image": getattr(args, "image", None),
        "mask": getattr(args, "mask", None),
        "donor_image": donor[0],
        "donor_mask": donor[1],
    }
    files |= {name: value for name, value in given(args).items() if OPTIONS[name].kind == "mask"}
    return {role: path for role, path in files.items() if path is not None}


def taken_labels(args: argparse.Namespace) -> dict[str, list[str]]:
    """Role to the labels named for it, as `input_files` has roles; without one it is the only label, or all."""
    named = {"mask": getattr(args, "label", None), "donor_mask": getattr(args, "donor_label", None)}
    named |= {
        name: getattr(args, f"{name}_label", None) for name in given(args) if OPTIONS[name].kind == "mask"
    }
    return {
        role: [str(n) for n in (one if isinstance(one, list) else [one])]
        for role, one in named.items()
        if one is not None
    }


def write_edit(
    staging: Staging, paths: Mapping[str, Path], result, files: Mapping[str, Any], keep_header: bool = False,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> None:  # fmt: skip
    """Image, sidecar and, if named, mask of an edit, marked as synthetic.

    :param files: role to file of the input, for the sidecar; `labels`: role to the labels taken of it. The mask of one of
        several labels is written with its number, among the others.
    :param keep_header: the source's DICOM attributes, too.
    """
    import numpy as np

    from TumorSynthLib import provenance
    from TumorSynthLib.volume import among_others, write_volume

    marks = provenance.marks(result.provenance)
    write_volume(result.volume, staging.file(paths["image"]), marks, keep_header)
    entry = provenance.with_files(result.provenance, {**files, "result": paths["image"]}, labels)
    provenance.write_sidecar(entry, staging.file(paths["sidecar"]).with_name(paths["image"].name))
    if "mask" in paths:
        mask = result.mask.astype(np.uint8)
        if labels and "mask" in labels:
            with noticed(show=False):  # told when it was read
                mask = among_others(files["mask"], result.volume, labels["mask"][0], result.mask)
        write_volume(result.volume.with_array(mask), staging.file(paths["mask"]))
    if "zone" in paths:
        zone = result.changed
        if zone is None:  # not recorded, as by a network: what did change
            zone = result.mask.copy()
            zone[result.patch.box] |= result.patch.before != result.patch.after
        write_volume(result.volume.with_array(zone.astype(np.uint8)), staging.file(paths["zone"]))


def tell(
    args, paths: Mapping[str, Path], result, notes: list[str], timing: Mapping[str, float], said=()
) -> None:
    """Print the result; of its warnings, those that were `said` before it was drawn aren't printed again."""
    tell_model(args)
    warnings = [*notes, *result.warnings]
    if args.json:
        shown: dict[str, Any] = {"edit": args.command, "outputs": paths}
        shown |= {name: getattr(result, name) for name in ("asked", "used", "reached", "before", "timing")}
        shown |= {
            "warnings": warnings,
            "command timing": {k: round(v, 3) for k, v in timing.items()},
            "provenance": result.provenance,
        }
        print(as_json(shown))
        plan = result.provenance.get("plan") or {}
        if plan.get("unused"):
            print(f"warning: {unused_text(plan['engine'], plan['unused'])}", file=sys.stderr)
        return
    named = getattr(args, "named", ())
    for text in warnings:
        if text not in said:
            print(f"warning: {as_asked(text, named)}", file=sys.stderr)
    if result.asked:
        print(asked_table(result, named=named))
        tell_measured(args, result)
    for name, (low, high) in (result.provenance.get("plan") or {}).get("reachable", {}).items():
        print(f"{name}: this tumour's tissue allows {number(low)} to {number(high)}")
    if told := made(result.provenance):
        print(" ".join(told))
    for kind, path in paths.items():
        print(f"{kind}: {path}")


def tell_model(args: argparse.Namespace) -> None:
    """Say on stderr which model was chosen, and why."""
    if getattr(args, "chosen", None):
        print(args.chosen, file=sys.stderr)


def tell_measured(args: argparse.Namespace, result) -> None:
    """Say by whose settings an edit's features of texture are measured, and how to see them."""
    from TumorSynthLib.edit.features import split

    settings, model = (result.provenance.get("plan") or {}).get("settings"), result.provenance["model"]
    if not settings or not split(result.asked)[0]:
        return
    given = getattr(args, "settings", None)
    how = f"--model {model['id']}" if model else f"--settings {given}" if given else "--model none"
    grid = " × ".join(f"{s:g}" for s in settings["resampledPixelSpacing"] or ())
    bins = (
        f"{settings['binCount']} bins" if settings.get("binCount") else f"bin width {settings['binWidth']:g}"
    )
    print(f"measured with {bins}{f' on {grid} mm' if grid else ''}, as `tumorsynth extract {how}` does")

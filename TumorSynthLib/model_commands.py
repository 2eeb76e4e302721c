"""What `tumorsynth models …` does."""

from __future__ import annotations

import argparse
import sys

from TumorSynthLib.console import Bar, as_json, size, table
from TumorSynthLib.errors import ModelError
from TumorSynthLib.outputs import Staging, check_apart


def models_list(args: argparse.Namespace) -> int:
    """`tumorsynth models list`."""
    from TumorSynthLib.models import list_models

    listing = list_models()
    if args.json:
        print(as_json({"models": listing.models, "notes": listing.notes}))
        return 0
    head = ["id", "version", "organ", "modality", "size", "licence", "status"]
    rows = []
    for m in listing.models:
        status = m["status"] + (f", {m['update']} can be installed" if m["update"] else "")
        rows.append(
            [m["id"], m["version"], m["organ"], m["modality"], size(m["bytes"] or 0), m["licence"], status]
        )
    print(
        table(head, rows, right=(4,)) if rows else "no models; `tumorsynth models install SRC` installs one"
    )
    for note in listing.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def models_info(args: argparse.Namespace) -> int:
    """`tumorsynth models info`."""
    from TumorSynthLib.models import info

    found = info(args.model)
    if args.json:
        print(as_json(found))
        return 0
    first = (
        "id",
        "version",
        "title",
        "organ",
        "modalities",
        "status",
        "licence",
        "memorisation",
        "can",
        "cannot",
        "bytes",
        "spacing_mm",
        "scores",
        "training",
    )
    names = [n for n in first if n in found] + [n for n in found if n not in first]
    for name in names:
        value = found[name]
        text = (
            size(value) if name == "bytes" and value else value if isinstance(value, str) else as_json(value)
        )
        print(f"{name}: {text}")
    return 0


def models_install(args: argparse.Namespace) -> int:
    """`tumorsynth models install`: what would be done is shown, and on a terminal asked, before it is done."""
    from TumorSynthLib.models import install, plan_install

    plan = plan_install(args.source, sha256=args.sha256)
    print("\n".join(plan.lines()), file=sys.stderr)
    if not args.yes and not _agreed():
        print("nothing was installed", file=sys.stderr)
        return 0
    stages = {"download": (0.0, 0.8, "downloading"), "unpack": (0.8, 0.9, "unpacking"), "copy": (0.0, 0.9, "copying"),
              "check": (0.9, 1.0, "checking")}  # fmt: skip
    with Bar(stages=stages) as bar:
        bundle = install(plan, progress=bar)
    told = {name: getattr(bundle, name) for name in ("id", "version", "folder", "licence", "sha256")}
    print(as_json(told) if args.json else f"installed {bundle.id} {bundle.version} in {bundle.folder}")
    return 0


def _agreed() -> bool:
    """Ask on a terminal; elsewhere there is nobody to ask."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print("Install? [Y/n] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("", "y", "yes")
    except EOFError:  # Ctrl-D
        return False


def models_remove(args: argparse.Namespace) -> int:
    """`tumorsynth models remove`."""
    from TumorSynthLib.models import remove as remove_model

    folder = remove_model(args.model)
    print(
        as_json({"removed": args.model, "folder": folder})
        if args.json
        else f"removed {args.model} from {folder.parent}"
    )
    return 0


def models_verify(args: argparse.Namespace) -> int:
    """`tumorsynth models verify`: exit code 3 if any model is damaged."""
    from TumorSynthLib.models import verify

    results = verify(args.model)
    if args.json:
        print(
            as_json(
                {"models": [{"id": model, "good": not error, "error": error} for model, error in results]}
            )
        )
    else:
        for model, error in results:
            if not error:
                print(f"{model}: good")
    bad = [error for _, error in results if error]
    if bad:
        raise ModelError("; ".join(bad))
    return 0


def models_params(args: argparse.Namespace) -> int:
    """`tumorsynth models params`."""
    from TumorSynthLib.models import find, pyradiomics_params

    text = pyradiomics_params(find(args.model), args.modality)
    if args.out:
        check_apart([args.out], [])
        with Staging(last=True) as staging:
            staging.file(args.out).write_text(text, encoding="utf-8")
    if args.json:
        print(as_json({"model": args.model, "yaml": text}))
    elif not args.out:
        print(text, end="")
    return 0

"""Blinded reading: would a reader know edited images from untouched ones?

    python Training/reading.py make  --model soft-tissue-sarcoma --data DATA/sts --edits hidden --out KIT --key KEY.json
    python Training/reading.py score --key KEY.json --json OUT.json KIT/guesses.csv [ANOTHER_READER.csv ...]

`make` writes pictures without names: three planes through the place in question, in the windows that radiologists use, all
cropped alike, half of the patients untouched and half edited, in random order. No patient is shown both ways in one kit. What is
what stands in the key alone, which stays with whoever made the kit; the kit holds its SHA-256, so that nobody can change it after
the reading. A reader fills in `guesses.csv` (real or made), and `score` gives the accuracy of all readers together with its 95 %
interval by patient: .5 is chance. Edits are those of `judge_edits.py`; of several, each patient shows one. Of removals of real
tumours (`removed`) untouched pictures show a healthy place of an image in which the tumour may be seen nearby: read `hidden`.
`--cache` takes the edits that `evaluate.py place` has kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import secrets
import sys
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from judge_edits import EDITS, HEALTHY, SAME_MASK, Maker
from judge_pictures import planes, room_mm, window_of
from judged_cases import Place, extent_mm, judged, load
from removal import is_lung
from scoring import interval

from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError, TumorSynthError
from TumorSynthLib.models import find, load_bundle
from TumorSynthLib.png import write_png

REAL, MADE = "real", "made"
GUESSES, SEAL = "guesses.csv", "seal.json"
MARGIN_MM = 20.0  # shown around most places
NEEDED_MM = 2.0  # shown around every place, if the image has it
SHARE = 75  # percentile of the places' sizes that is shown whole
INSTRUCTIONS = """Each picture shows one place in three planes (axial, coronal, sagittal); what is asked about is in the middle.
{what}
About half of the pictures are untouched. Write "real" or "made" behind each name in guesses.csv; don't leave one out.
No patient is shown both ways. Please don't look for the images elsewhere, and don't talk about them before all have read.
"""
WHAT = {
    True: "Real: the tissue there is the patient's. Made: it was filled in by a program, as if to remove a tumour.",
    False: "Real: the tumour there is the patient's. Made: a program changed it, moved it, or put it there.",
}


def drawn(patients: list[str], rng) -> dict[str, str]:
    """real or made for every patient: half of each, at random."""
    order = rng.permutation(sorted(patients))
    return {p: MADE if k % 2 else REAL for k, p in enumerate(order)}


def shown(maker: Maker, edits: list[str], seed: int, most: int | None = None) -> list[dict]:
    """What a kit shows, in the order of its pictures: place, truth, edit, image and mask."""
    rng = np.random.default_rng([seed, 7])
    truth, items = drawn([p.case.patient for p in maker.places], rng), []
    patients = sorted({p.case.patient for p in maker.places})
    turn = dict(zip(rng.permutation(patients), (edits * len(patients))[: len(patients)]))
    for i, place in enumerate(maker.places):
        edit, made = turn[place.case.patient], truth[place.case.patient] == MADE
        sample = maker.made(i, edit) if made else None
        mask = sample.mask if sample else place.hole if edit in HEALTHY else place.mask
        if mask is None or (made and sample is None):
            continue
        image = sample.image(place) if sample else place.volume.array
        items.append(
            {"place": place, "truth": truth[place.case.patient], "edit": edit, "image": image, "mask": mask}
        )
    return [items[k] for k in rng.permutation(len(items))[:most]]


def alike(items: list[dict]) -> list[np.ndarray]:
    """(3, 2) mm that each picture shows to both sides of its place: no more than another one of the other kind has.

    Images are often cut out around the tumour, so that the border of the image told which tumours were moved.
    """
    rooms = [room_mm(item["place"].volume, item["mask"]) for item in items]
    rng, shown_mm = np.random.default_rng(len(items)), []
    for item, room in zip(items, rooms):
        others = [r for r, other in zip(rooms, items) if other["truth"] != item["truth"]]
        needed = extent_mm(item["mask"], item["place"].spacing) / 2 + NEEDED_MM
        other = others[rng.integers(len(others))] if others else room
        shown_mm.append(np.minimum(room, np.maximum(other, needed)))
    return shown_mm


def write_kit(items: list[dict], folder: Path, key: Path, about: dict) -> dict:
    """Pictures, empty guesses and the seal in `folder`, and the key; the key's content.

    :raises InputError: the folder or the key is there already, or nothing is to be shown.
    """
    if not items:
        raise InputError("there is nothing to read: no edit could be made, or no healthy place was found")
    if key.exists() or (folder.exists() and any(folder.iterdir())):
        raise InputError(
            f"{key if key.exists() else folder} is there already: a kit is made once, give other names"
        )
    if key.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the key {key} would lie in the kit: readers mustn't have it; put it elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    extents = [extent_mm(item["mask"], item["place"].spacing) for item in items]
    half = float(np.percentile(extents, SHARE) / 2 + MARGIN_MM)
    entries, rooms = {}, alike(items)
    for k, item in enumerate(items):
        place: Place = item["place"]
        name, window = f"{k + 1:03d}.png", window_of(place.volume.array, place.ct, place.lung)
        write_png(planes(item["image"], place.volume, item["mask"], half, window, rooms[k]), folder / name)
        told = {
            "truth": item["truth"],
            "edit": item["edit"],
            "case": place.key,
            "patient": place.case.patient,
        }
        entries[name] = told | {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    secret = about | {"half_mm": half, "salt": secrets.token_hex(16), "pictures": entries}
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text(json.dumps(secret, indent=1) + "\n")
    seal = {"sha256_of_key": hashlib.sha256(key.read_bytes()).hexdigest(), "pictures": len(items)}
    (folder / SEAL).write_text(json.dumps(seal, indent=1) + "\n")
    (folder / GUESSES).write_text("picture,guess\n" + "".join(f"{name},\n" for name in entries))
    healthy = {item["edit"] in HEALTHY for item in items}
    (folder / "README.txt").write_text(INSTRUCTIONS.format(what="\n".join(WHAT[h] for h in sorted(healthy))))
    return secret


def read_guesses(path: Path, names) -> dict[str, str]:
    """Picture to real or made.

    :raises InputError: a picture has no guess, or another word.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            found = {r["picture"].strip(): (r["guess"] or "").strip().lower() for r in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"can't read the guesses in {path} ({error}): expected columns picture and guess"
        ) from None
    for name in names:
        if found.get(name) not in (REAL, MADE):
            raise InputError(
                f"{path}: {name} has {found.get(name)!r}; write real or made behind every picture"
            )
    return found


def score(key: Path, readings: list[Path]) -> dict:
    """Accuracy of all readers together with its interval by patient, of each, and the share of each truth that was known.

    :raises InputError: the key isn't the one that a reader's kit was sealed with, or guesses are missing.
    """
    try:
        secret = json.loads(key.read_text())
        entries = secret["pictures"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"can't read the key {key}: {error}") from None
    digest, rows = hashlib.sha256(key.read_bytes()).hexdigest(), []
    for reader, path in enumerate(readings):
        seal = path.with_name(SEAL)
        if seal.exists() and json.loads(seal.read_text())["sha256_of_key"] != digest:
            raise InputError(
                f"{key} isn't the key that {seal} was sealed with: it is another one, or was changed"
            )
        guesses = read_guesses(path, entries)
        for name, told in entries.items():
            right = float(guesses[name] == told["truth"])
            rows.append(
                {
                    "patient": told["patient"],
                    "truth": told["truth"],
                    "edit": told["edit"],
                    "reader": reader,
                    "right": right,
                }
            )
    if not any(path.with_name(SEAL).exists() for path in readings):
        raise InputError(f"no reader's folder has {SEAL}: put the guesses beside the kit's pictures")

    def accuracy(some) -> float:
        return float(np.mean([r["right"] for r in some])) if some else float("nan")

    out = {
        "task": "reading",
        **{k: secret[k] for k in ("model", "version", "data", "engine", "strength", "command")},
    }
    out |= {"accuracy": accuracy(rows), "interval": interval(rows, accuracy)}
    out |= {"pictures": len(entries), "readers": len(readings), "key": digest}
    out["each"] = [accuracy([r for r in rows if r["reader"] == k]) for k in range(len(readings))]
    out["known"] = {t: accuracy([r for r in rows if r["truth"] == t]) for t in (REAL, MADE)}
    edits = sorted({r["edit"] for r in rows})
    out["edits"] = {e: accuracy([r for r in rows if r["edit"] == e]) for e in edits}
    return out


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = p.add_subparsers(dest="task", required=True)
    m = tasks.add_parser("make", help="a kit of pictures, and its key")
    m.add_argument("--model", required=True, help="id of an installed model, or a bundle's folder")
    m.add_argument("--data", type=Path, required=True)
    m.add_argument("--edits", nargs="+", choices=EDITS, default=["hidden"])
    m.add_argument("--modality", nargs="+", help="only these of the model's")
    m.add_argument("--engine")
    m.add_argument("--strength", type=float)
    m.add_argument("--places", type=int, help="patients, in a fixed order (default: all)")
    m.add_argument("--scale", type=float, default=1.0, help="of hidden places, as in `evaluate.py place`")
    m.add_argument("--pictures", type=int, default=40, help="at most")
    m.add_argument("--out", type=Path, required=True, help="folder of the kit")
    m.add_argument("--key", type=Path, required=True, help="file that readers don't get")
    m.add_argument("--cache", type=Path, help="folder with the edits of `evaluate.py place`")
    m.add_argument("--seed", type=int, default=0, help="of the edits")
    m.add_argument(
        "--draw", type=int, default=0, help="of who is shown edited, and in which order: one for each kit"
    )
    m.add_argument("--device", default="auto")
    s = tasks.add_parser("score", help="accuracy of the readers")
    s.add_argument("--key", type=Path, required=True)
    s.add_argument("--json", type=Path)
    s.add_argument("--said", default="", help="who read, in words")
    s.add_argument(
        "readings", type=Path, nargs="+", help="guesses.csv of each reader, each beside its kit's seal"
    )
    return p.parse_args(arguments)


def make(a) -> None:
    bundle = load_bundle(Path(a.model)) if Path(a.model).is_dir() else find(a.model)
    bundle = bundle.painting(bundle.regions[0].name)
    modalities = [m for m in bundle.modalities if not a.modality or m in a.modality]
    holes = not set(a.edits) <= set(SAME_MASK)
    places = load(judged(a.data, modalities, a.places), is_lung(bundle), a.seed, a.scale, holes)
    maker = Maker(Editor(bundle, a.device), places, a.engine, a.strength, a.seed, a.cache)
    words = [
        "python Training/reading.py make --model",
        bundle.id,
        "--data",
        f"DATA/{a.data.name}",
        "--edits",
        *a.edits,
    ]
    for name in ("engine", "strength", "places"):
        words += [f"--{name}", str(getattr(a, name))] if getattr(a, name) is not None else []
    words += ["--modality", *a.modality] if a.modality else []
    words += ["--scale", f"{a.scale:g}"] if a.scale != 1 else []
    about = {
        "model": bundle.id,
        "version": bundle.version,
        "data": a.data.name,
        "engine": a.engine or "default",
    }
    about |= {"strength": a.strength, "command": " ".join([*words, "--draw", str(a.draw)])}
    items = shown(maker, a.edits, a.draw, a.pictures)
    write_kit(items, a.out, a.key, about)
    print(f"{len(items)} pictures in {a.out}; the key is {a.key}: keep it from the readers")


def main(arguments: list[str] | None = None):
    a = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if a.task == "make":
            return make(a)
        out = score(a.key, a.readings) | ({"said": a.said} if a.said else {})
    except TumorSynthError as error:
        raise SystemExit(f"reading: {error}") from None
    if a.json:
        a.json.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()

"""Would anybody see the edit? `evaluate.py place`: every kind of edit beside its control, on the native grid, by patient.

    python Training/evaluate.py place --model soft-tissue-sarcoma --data DATA/sts --json OUT.json --quick --edits hidden
    python Training/evaluate.py place --model lung-nodule-ct --data DATA/nsclc_ct --json OUT.json --out PICTURES --cache CACHE
    python Training/evaluate.py place --model lung-nodule-ct --data DATA/nsclc_ct --json OUT.json --engine exemplar --strength 0.3

Edits go through the public `Editor`, so one command judges every engine. Judged are the patients of `judged_patients.json`, which
nothing is chosen on; `--choosing` takes the others instead, to choose a parameter on. A folder of none of them (held-back
patients) is judged whole. Every number stands beside its control: the same number of the same healthy place untouched
(`hidden`), of an untouched healthy place of the same image (`removed`), or of the tumour that was there (all others). Edits are
described in `judge_edits.py`, numbers in `judge_numbers.py`, detectors in `judge_detectors.py`. `--cache DIR` keeps the edits: a
stopped run goes on, and `reading.py` makes blinded kits of them. `--update` keeps what the results in --json have of other edits.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import judge_numbers
import numpy as np
import torch
from judge_detectors import DETECTORS, DetectorConfig, Look, detect, look, rim_of
from judge_edits import CONTROLS, EDITS, HEALTHY, SAME_MASK, Maker, Sample
from judge_numbers import COMPARED
from judge_pictures import planes, stacked, window_of
from judged_cases import Place, extent_mm, judged, load
from removal import is_lung
from scipy import ndimage
from scoring import interval, middle

from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError, TumorSynthError
from TumorSynthLib.models import ANY, find, load_bundle

CROP_MM = 30.0  # beyond what numbers are taken of
PATTERN_MM = {True: 2.0, False: 3.0}  # lung, other
QUICK_PLACES = 5
REACHED_SD = 0.05
MARGIN_MM = 25.0  # of pictures
FEWEST_FEATURES = 6  # for a correlation across features


def boxed(mask: np.ndarray, spacing) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    reach = [int(np.ceil(CROP_MM / s)) for s in spacing]
    return tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(found, reach))


def of_healthy(image, mask, place: Place) -> dict[str, float]:
    box = boxed(mask, place.spacing)
    avoid = place.mask[box] & ~mask[box]
    return judge_numbers.healthy(image[box], mask[box], place.spacing, place.ct, avoid)


def of_tumour(image, mask, place: Place, unit: float, before=None) -> dict[str, float]:
    box = boxed(mask, place.spacing)
    was = None if before is None else before[box]
    return judge_numbers.tumour(image[box], mask[box], place.spacing, unit, before=was)


def tight(image, mask, place: Place, unit: float) -> np.ndarray:
    box, found = boxed(mask, place.spacing), np.zeros_like(mask)
    found[box] = judge_numbers.tightened(image[box], mask[box], unit)
    return found


def own(place: Place, sample: Sample) -> np.ndarray:
    """(z, y, x) bool, the tumour in the untouched image.

    Of a moved one the voxels that went along: it leaves fat of a loose contour behind, and two contours of different tightness
    would be compared, not two borders.
    """
    if "moved_voxels" not in sample.facts:
        return place.mask
    at = np.argwhere(sample.mask) - np.array(sample.facts["moved_voxels"])
    at = at[((at >= 0) & (at < place.mask.shape)).all(1)]
    found = np.zeros_like(place.mask)
    found[tuple(at.T)] = True
    return found & place.mask


def compared(place: Place, edit: str, sample: Sample) -> dict[str, dict[str, float]] | None:
    """Numbers of what was made and of its control: {"made": …, "control": …}; None where a removal has no control."""
    image, before = sample.image(place), place.volume.array
    if edit in HEALTHY:
        if place.hole is None:
            return None
        return {
            "made": of_healthy(image, sample.mask, place),
            "control": of_healthy(before, place.hole, place),
        }
    box = boxed(place.mask, place.spacing)
    unit = judge_numbers.speck_unit(before[box].astype(np.float64), place.mask[box])
    new, old, was = sample.mask, own(place, sample), None
    if edit == "inserted":  # else two contours of different tightness would be compared, not two borders
        new, old, was = tight(image, new, place, unit), tight(before, old, place, unit), before
    made, control = of_tumour(image, new, place, unit, was), of_tumour(before, old, place, unit)
    if edit in SAME_MASK:
        mm = PATTERN_MM[place.lung]
        made["pattern"] = judge_numbers.pattern(before[box], image[box], place.mask[box], place.spacing, mm)
        control["pattern"] = 1.0
    elif place.lung:
        old = place.mask if edit != "inserted" else np.zeros_like(place.mask)
        both = judge_numbers.vessels(before, image, sample.mask, old, place.spacing)
        made["vessels"], control["vessels"] = both
    return {"made": made, "control": control}


def reach(facts: dict, population) -> dict[str, float]:
    """How near the asked features came: share within .05 sd; share within that of what was asked or of the limit that was said
    before the tumour was drawn; the farthest in sd; case-wise r over z-scored features."""
    asked, reached, spread, limits = (facts.get(n, {}) for n in ("asked", "reached", "spread", "limits"))
    known = [n for n in asked if spread.get(n, 0) > 0]
    if not known:
        return {}
    off, left = (
        np.array([abs(reached[n] - of.get(n, asked[n])) / spread[n] for n in known]) for of in (asked, limits)
    )
    out = {"within": float(np.mean(off <= REACHED_SD)), "farthest": float(off.max())}
    out["said"] = float(np.mean((off <= REACHED_SD) | (left <= REACHED_SD)))
    names = [n for n in asked if n in population.names]
    if len(names) >= FEWEST_FEATURES:
        at = [population.names.index(n) for n in names]
        mean, sd = np.asarray(population.mean)[at], np.maximum(np.asarray(population.std)[at], 1e-12)
        z = [(np.array([part[n] for n in names]) - mean) / sd for part in (asked, reached)]
        out["pearson"] = float(np.corrcoef(*z)[0, 1])
    return out


def looks(place: Place, edit: str, sample: Sample, case: int, numbers: dict) -> tuple[Look, ...]:
    """The untouched place and the made one, as detectors see them: without what compares it with the untouched one."""
    patient, lender = place.case.patient, sample.facts.get("lender", place.case.patient)
    rim = None if edit in HEALTHY else rim_of(place.spacing, place.lung, edit not in SAME_MASK)
    old = place.hole if edit in HEALTHY else own(place, sample)
    if edit == "untouched":  # of the patients in turn, every other one passes for edited
        made = bool(case % 2)
        return (
            look(place.volume.array, old, place.spacing, None, rim, made=made, case=case, patient=patient,
                 lender=patient, numbers=numbers["control"]),
        )  # fmt: skip
    pair = ((place.volume.array, old, False, "control"), (sample.image(place), sample.mask, True, "made"))
    avoid = place.mask if edit in HEALTHY else None
    seen = {
        of: {k: v for k, v in found.items() if k not in ("pattern", "vessels")}
        for of, found in numbers.items()
    }
    return tuple(
        look(
            image, mask, place.spacing, None if avoid is None else avoid & ~mask, rim,
            made=made, case=case, patient=patient, lender=lender if made else patient, numbers=seen[of],
        )
        for image, mask, made, of in pair
    )  # fmt: skip


def pictured(folder: Path, place: Place, edit: str, sample: Sample) -> str:
    """Before and after below each other, and the new place where the tumour went elsewhere; the file's name."""
    before, after = place.volume.array, sample.image(place)
    old = place.hole if edit in ("hidden", "inserted") else place.mask
    half = extent_mm(old | sample.mask if edit in SAME_MASK else old, place.spacing) / 2 + MARGIN_MM
    window = window_of(before, place.ct, place.lung)
    rows = [planes(image, place.volume, old, half, window) for image in (before, after)]
    if edit == "moved":
        rows.append(planes(after, place.volume, sample.mask, half, window))
    name = f"{place.case.modality}_{edit}_{place.case.id}.png"
    stacked(folder / name, rows)
    return name


class Judge:
    """Makes, measures and shows; results by modality and edit."""

    def __init__(self, maker: Maker, out: Path | None, config: DetectorConfig = DETECTORS):
        self.maker, self.out, self.config = maker, out, config
        self.rows: list[dict] = []

    def of(self, modality: str, edit: str) -> dict:
        """All places of one modality with one edit: numbers, reach, detectors; {} where none could be made."""
        refused = len(self.maker.refused)
        rows = []
        seen: list = []
        for i, place in enumerate(self.maker.places):
            if place.case.modality != modality:
                continue
            sample = self.maker.made(i, edit)
            numbers = compared(place, edit, sample) if sample else None
            if numbers is None:
                continue
            rows.append(self._row(place, edit, sample, numbers))
            seen += looks(place, edit, sample, i, numbers)
            print(f"{modality} {edit} {place.case.id}: {sample.seconds:.1f} s", flush=True)
        self.rows += rows
        if not rows:
            return {}
        lung = self.maker.places[0].lung
        found = summary(rows) | {"detectors": detect(seen, lung, self.maker.seed, self.config)}
        return found | {"refused": self.maker.refused[refused:]}

    def _row(self, place: Place, edit: str, sample: Sample, numbers: dict) -> dict:
        population = self.maker.editor.population(place.case.modality, place.volume)
        row: dict = {
            "case": place.case.id,
            "patient": place.case.patient,
            "modality": place.case.modality,
            "edit": edit,
        }
        row |= numbers | {"seconds": sample.seconds, "extent_mm": extent_mm(sample.mask, place.spacing)}
        row |= {
            "voxels": int(sample.mask.sum()),
            "scale": place.scale if edit in ("hidden", "inserted") else 1.0,
        }
        row |= {k: v for k, v in sample.facts.items() if k in ("feature", "lender")}
        row["reach"] = {} if edit in HEALTHY else reach(sample.facts, population)
        row["picture"] = pictured(self.out, place, edit, sample) if self.out else None
        return row


def off(row: dict, name: str) -> float:
    """A number of a row against its control: made / control, or made - control, as `COMPARED` says; nan where it is missing."""
    made, control = (row[k].get(name, np.nan) for k in ("made", "control"))
    if COMPARED.get(name, "ratio") == "difference":
        return made - control
    return made / control if control > 0 else float("nan")


def summary(rows: list[dict]) -> dict:
    """Medians over cases beside their controls', how they compare case by case with an interval by patient, the worst case."""
    out = {"places": len(rows), "patients": len({r["patient"] for r in rows}), "numbers": {}}
    out |= {k: middle(r[k] for r in rows) for k in ("seconds", "voxels", "extent_mm")}
    for name in rows[0]["made"]:
        values = np.array([off(r, name) for r in rows])
        if not np.isfinite(values).any():
            continue
        ratio = COMPARED.get(name, "ratio") == "ratio"
        far = (
            np.abs(np.log(np.maximum(values, 1e-9)))
            if ratio
            else values
            if name.startswith("level")
            else np.abs(values)
        )
        worst = int(np.nanargmax(np.where(np.isfinite(values), far, np.nan)))
        out["numbers"][name] = {
            "made": middle(r["made"].get(name, np.nan) for r in rows),
            "control": middle(r["control"].get(name, np.nan) for r in rows),
            "compared": COMPARED.get(name, "ratio"),
            "median": middle(values),
            "interval": interval(rows, lambda some, n=name: middle(off(r, n) for r in some)),
            "measured": int(np.isfinite(values).sum()),
            "worst": {
                "value": float(values[worst]),
                "case": rows[worst]["case"],
                "picture": rows[worst]["picture"],
            },
        }
    return out | {"reach": _reached([r for r in rows if r["reach"]])}


def _reached(rows: list[dict]) -> dict:
    if not rows:
        return {}

    def mean(some, name):
        found = [r["reach"][name] for r in some if name in r["reach"]]
        return float(np.mean(found)) if found else float("nan")

    far = max(rows, key=lambda r: r["reach"]["farthest"])
    out = {"within": mean(rows, "within"), "interval": interval(rows, lambda some: mean(some, "within"))}
    out |= {"said": mean(rows, "said"), "off": mean(rows, "farthest")}
    out["worst"] = {"value": far["reach"]["farthest"], "case": far["case"], "picture": far["picture"]}
    found = [r["reach"]["pearson"] for r in rows if "pearson" in r["reach"]]
    return out | ({"pearson": middle(found), "pearson_worst": min(found)} if found else {})


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(
        prog="evaluate.py place", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", required=True, help="id of an installed model, or a bundle's folder")
    p.add_argument(
        "--data", type=Path, required=True, help="folder of images and masks, or of train and val with those"
    )
    p.add_argument("--json", type=Path, required=True)
    p.add_argument("--edits", nargs="+", choices=EDITS + CONTROLS, default=list(EDITS))
    p.add_argument("--modality", nargs="+", help="only these of the model's")
    p.add_argument("--engine", help="which engine edits; the library's choice by default")
    p.add_argument("--strength", type=float, help="of sliders, 0 (the least change) to 1 (drawn anew)")
    p.add_argument("--places", type=int, help="patients, in a fixed order (default: all)")
    p.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="of hidden places' lengths: the largest that is tried (default: 1, real tumours)",
    )
    p.add_argument("--quick", action="store_true", help=f"{QUICK_PLACES} patients, no patch network")
    p.add_argument(
        "--choosing", action="store_true", help="the patients that don't judge: to choose parameters on"
    )
    p.add_argument("--network-steps", type=int, help="training of the patch network; 0 leaves it out")
    p.add_argument("--out", type=Path, help="folder for pictures of all places")
    p.add_argument("--cache", type=Path, help="folder that keeps the edits")
    p.add_argument("--update", action="store_true", help="keep what --json has of other edits")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto")
    p.add_argument("--threads", type=int)
    return p.parse_args(arguments)


def command(a, id: str) -> str:
    """The command that repeats this run, with DATA and OUT.json in place of this machine's folders."""
    line = f"python Training/evaluate.py place --model {shlex.quote(id)} --data DATA/{shlex.quote(a.data.name)} --json OUT.json"
    line += f" --edits {shlex.join(a.edits)}" if list(a.edits) != list(EDITS) else ""
    line += f" --modality {shlex.join(a.modality)}" if a.modality else ""
    for name in ("engine", "strength", "places", "network_steps"):
        if getattr(a, name) is not None:
            line += f" --{name.replace('_', '-')} {shlex.quote(str(getattr(a, name)))}"
    line += f" --scale {a.scale:g}" if a.scale != 1 else ""
    line += "".join(f" --{n}" for n in ("quick", "choosing") if getattr(a, n))
    return line + f" --seed {a.seed}"


def measured(a) -> Iterator[dict]:
    """The results so far, after every kind of edit."""
    bundle = load_bundle(Path(a.model)) if Path(a.model).is_dir() else find(a.model)
    bundle = bundle.painting(bundle.regions[0].name)
    modalities = [m for m in bundle.modalities if not a.modality or m in a.modality]
    count = QUICK_PLACES if a.quick and a.places is None else a.places
    found = judged(a.data, modalities, count, a.choosing)
    places = load(found, is_lung(bundle), a.seed, a.scale, holes=not set(a.edits) <= set(SAME_MASK))
    judge = Judge(
        Maker(Editor(bundle, a.device), places, a.engine, a.strength, a.seed, a.cache), a.out, detectors(a)
    )
    past = earlier(a.json) if a.update else {}
    out: dict = {
        "task": "place",
        "model": bundle.id,
        "version": bundle.version,
        "command": command(a, bundle.id),
    }
    out |= {"engine": a.engine or "default", "strength": a.strength}
    out |= {
        "data": a.data.name
        + (f", model {bundle.id}" if bundle.organ == ANY else "")
        + (f", hidden places at {a.scale:g} of a tumour's size" if a.scale != 1 else "")
    }
    out |= {
        "cases": [p.key for p in places],
        "results": past.get("results", {}),
        "commands": past.get("commands", {}),
    }
    for edit in a.edits:
        for modality in modalities:
            results = judge.of(modality, edit)
            if results or judge.maker.refused:
                key = f"{modality} {edit}"
                out["results"][key] = results or {"refused": judge.maker.refused}
                out["commands"][key] = out["command"]
            yield out | {"rows": judge.rows}


def detectors(a) -> DetectorConfig:
    steps = 0 if a.quick and a.network_steps is None else a.network_steps
    return DETECTORS if steps is None else replace(DETECTORS, network_steps=steps)


def earlier(path: Path) -> dict:
    """Results that `--update` adds to.

    :raises InputError: they can't be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--update: can't read the results in {path} ({error}): leave it out") from None


def brief(out: dict) -> dict:
    """The few numbers to look at first."""
    shown: dict = {}
    for key, r in out["results"].items():
        if "numbers" not in r:
            shown[key] = f"none could be made: {r['refused'][0]}"
            continue
        found = r["detectors"]
        shown[key] = {"places": r["places"], **{n: _rounded(v) for n, v in r["numbers"].items()}}
        shown[key] |= {
            f"AUC {n}": round(found[n]["auc"], 3) for n in ("trees", "network", "numbers") if n in found
        }
        shown[key]["seen"] = {n: round(v, 2) for n, v in list(found.get("seen", {}).items())[:4]}
    return shown


def _rounded(v: dict) -> str:
    return f"{v['made']:.3g} (control {v['control']:.3g}); {v['compared']} {v['median']:.3g}"


def main(arguments: list[str]):
    from evaluate import write

    a = parse(arguments)
    if a.threads:
        torch.set_num_threads(a.threads)
    try:
        for out in measured(a):
            done = dict(out)
            write(a.json, done)
        print(json.dumps(brief(done), indent=1))
    except TumorSynthError as error:
        raise SystemExit(f"evaluate: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])

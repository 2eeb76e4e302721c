"""Measure a model on patients it has never seen, and write what was found.

    one CPU         python Training/evaluate.py texture --model ID --data DATA/lidc_ct/val --json OUT.json --quick --threads 1
    one GPU         python Training/evaluate.py texture --model ID --data DATA/lidc_ct/val --json OUT.json --figures DIR
    one node, GPUs  one process draws on one GPU: several share arms and parts, with one folder for samples ...
                    CUDA_VISIBLE_DEVICES=0 python Training/evaluate.py texture --model ID --data DATA/lidc_ct/val --json 0.json \\
                    --cache CACHE --parts fidelity --arms network &     # and so on with full, field, unguided
                    CUDA_VISIBLE_DEVICES=4 python Training/evaluate.py texture --model ID --data DATA/lidc_ct/val --json 4.json \\
                    --cache CACHE --parts sweeps evaluations &
                    ... and when all are done, the command for one GPU with --cache CACHE finds the samples, and judges them
    several nodes   the same, with CACHE in a folder that all nodes see, and the same code on each

    python Training/evaluate.py texture --model ID --data DATA/lidc_ct/val --json OUT.json --baseline gan.pt ldm.pt unordered.pt
    python Training/evaluate.py texture --model ID --data runs/val/brats2021 --json OUT.json --region enhancing
    python Training/evaluate.py removal --model ID --data DATA/sts/val --json OUT.json [--quick] [--baseline gan.pt ldm.pt]
    python Training/evaluate.py removal --model ID --image CT.nrrd --mask LUNG_TUMOUR.nrrd --json OUT.json
    python Training/evaluate.py codec   --data runs/data/lidc --json OUT.json [--codec vqgan_f2.pt vqgan_f4.pt]

`--model` is the id of an installed model or a bundle folder; `--data` has <ID>_<MODALITY>_image.nii.gz and ..._mask.nii.gz
(for `codec`, a folder that prepare.py made). Every number comes from the edited file's voxels, re-extracted by pyradiomics
(not by our extractor) with the model's own parameter file; intervals are 95 % bootstraps over patients. `--cache DIR` keeps
every sample, so that a stopped run goes on and analyses share samples. What was left out to save time is in the JSON.
Of a model that paints several regions one is measured (`--region`, the first by default), by its label in the masks.

texture has these parts (`--parts`, all by default):
    fidelity     asked and reached features with all controls, own and other patients' requests (arms: `arms.py`)
    sweeps       one driver at -2 ... +2 sigma, all else free: slope, monotonicity, cross-talk
    evaluations  the network alone at 1, 2, 4 ... 200 evaluations
    believable   detectors of synthetic tumours, Fréchet Radiomics Distance, distance of arrangement
    copies       nearest training patch (needs --prepared, the folder that the model was trained on)
removal: holes of real tumour shapes are cut into healthy places and filled; codec: what survives a round trip.
place: every kind of edit beside untouched places, for numbers, detectors and readers (`judge.py`, with options of its own);
shape: asked and reached shapes (`shape_scoring.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import common
import torch
from arms import Bench, cases, chosen, judged, request_of
from curves import NFE, STEPS, evaluations, sweeps
from detectors import detect
from distances import Training, arrangement, by_package, memorised, to_population
from removal import removal, window_of
from scipy import ndimage
from scoring import compact, psnr_ssim, summary

from TumorSynthLib.errors import InputError, TumorSynthError
from TumorSynthLib.models import find, load_bundle

PARTS = ("fidelity", "sweeps", "evaluations", "believable", "copies")
SOLVED = ("full", "field")  # arms that take seconds, not tenths
ARMS = ("network", "unguided", *SOLVED, "codec", "mask only")  # besides the baselines
NEAR_MM = 5.0  # PSNR and SSIM are taken inside the mask + this


@dataclass(frozen=True)
class Budget:
    """How much is measured; the same for all arms and models, and part of the JSON."""

    patients: int | None = None  # None: all
    each: int | None = 2  # cases per patient and modality
    donors: int = 19  # requests of other patients per case, by the network; with its own at least twenty
    compared: int = 4  # of those, by the baselines
    solved: int = 2  # of those, by arms with the solver; so many of every arm are shown to the detectors
    own: bool = True  # a tumour's own features by `full` too
    sweep_cases: int = 6
    sweep_solved: int = 3  # of those, with the solver
    sweep_steps: tuple[float, ...] = STEPS
    nfe_cases: int = 40
    nfe: tuple[int, ...] = NFE
    folds: int = 5
    patch_steps: int = 400
    repeats: int = 2
    package: bool = True  # Fréchet distance by frd-score as well (filters each image)
    crops: int = 1200  # training crops that copies are looked for in


#: Of a budget, what tells of one part alone.
OF_PART = {"sweep_cases": "sweeps", "sweep_solved": "sweeps", "sweep_steps": "sweeps", "nfe_cases": "evaluations",
           "nfe": "evaluations", "crops": "copies"}  # fmt: skip
BUDGETS = {
    "quick": Budget(7, 1, 1, 1, 1, False, 2, 0, (-2.0, 0.0, 2.0), 6, (1, 2, 4, 8), 4, 150, 1, False, 300),
    "medium": Budget(20, 1, 2, 1, 1, True, 4, 2, STEPS, 20, NFE, 5, 300, 2, True),
    "full": Budget(),
}


def few(made: list, count: int) -> list:
    """The first `count` samples of every case."""
    seen: dict[int, int] = {}
    kept = []
    for i, drawn in made:
        seen[i] = seen.get(i, 0) + 1
        if seen[i] <= count:
            kept.append((i, drawn))
    return kept


class Texture:
    """The parts of a texture evaluation on one bench."""

    def __init__(self, a, bench: Bench, budget: Budget):
        self.a, self.bench, self.budget = a, bench, budget
        self.modalities = [
            m for m in bench.bundle.modalities if any(t.case.modality == m for t in bench.tumours)
        ]
        self.rows: list[dict] = []
        self.samples: dict[tuple[str, str], list] = {}  # (modality, arm): [(case, sample)], donors' requests
        self.own: dict[tuple[str, str], list] = {}  # the same for tumours asked for with their own features
        self.own_drawn = False

    def arms(self) -> list[str]:
        every = ["network", "unguided", *self.bench.baselines, "full", "field"]
        return [x for x in every if not self.a.arms or x in self.a.arms]

    def donors(self, i: int, arm: str) -> list[int]:
        b = self.budget
        count = b.solved if arm in SOLVED else b.compared if arm in self.bench.baselines else b.donors
        return self.bench.mates(i)[:count]

    def draw_donors(self):
        """Every arm's tumours for other patients' requests; drawn once, used by several parts."""
        if self.samples:
            return
        for i, tumour in enumerate(self.bench.tumours):
            for arm in self.arms():
                for donor in self.donors(i, arm):
                    asked = self.bench.wish(i, donor)
                    drawn = self.bench.draw(tumour, arm, request_of(asked), self.a.seed)
                    if drawn:
                        drawn = replace(drawn, donor=donor)
                        self.samples.setdefault((tumour.case.modality, arm), []).append((i, drawn))
                        self._row(i, "donor", arm, asked, drawn, self.bench.tumours[donor].own)
            print(f"donors {i + 1}/{len(self.bench.tumours)} {tumour.key}", flush=True)

    def draw_own(self):
        """Every arm's tumours for their own features, and the controls; drawn once, used by several parts."""
        if self.own_drawn or "own" not in self.a.requests:
            return
        self.own_drawn = True
        alone = ["network", "unguided", *self.bench.baselines]
        own_arms = [*alone, *(["full"] if self.budget.own else []), "codec", "mask only"]
        for i, tumour in enumerate(self.bench.tumours):
            for arm in own_arms:
                if self.a.arms and arm not in (*self.a.arms, "codec", "mask only"):
                    continue
                drawn = self.bench.draw(tumour, arm, request_of(tumour.own), self.a.seed)
                if drawn:
                    self.own.setdefault((tumour.case.modality, arm), []).append((i, drawn))
                    self._row(i, "own", arm, tumour.own, drawn)
            self._other_seed(i)
            print(f"own {i + 1}/{len(self.bench.tumours)} {tumour.key}", flush=True)

    def _row(self, i: int, request: str, arm: str, asked: dict, drawn, unsized: dict | None = None):
        """:param unsized: the donor's features as measured, where they were asked for at another size."""
        tumour = self.bench.tumours[i]
        row: dict = {"case": tumour.case.id, "patient": tumour.case.patient, "modality": tumour.case.modality}
        row |= {"request": request, "arm": arm, "seconds": drawn.seconds, "voxels": int(tumour.mask.sum())}
        row |= {
            "asked": {n: asked[n] for n in judged(asked)},
            "reached": {n: drawn.features[n] for n in judged(asked)},
        }
        if unsized:
            row["unsized"] = {n: unsized[n] for n in judged(asked)}
        if request == "own" and arm not in ("mask only", "other seed"):
            row["psnr"], row["ssim"] = self._likeness(tumour, drawn)
        self.rows.append(row)

    def _likeness(self, tumour, drawn) -> tuple[float, float]:
        """PSNR and SSIM inside the mask + 5 mm against the tumour that was there."""
        volume = tumour.volume
        near = ndimage.distance_transform_edt(~tumour.mask, volume.spacing[::-1]) <= NEAR_MM
        box = ndimage.find_objects(near.astype("uint8"))[0]
        edited, truth = drawn.volume(volume).array[box], volume.array[box]
        return psnr_ssim(truth, edited, near[box], *window_of(self.bench.bundle, tumour.case.modality))

    def fidelity(self) -> dict:
        """Asked against reached for donors' and own requests, by arm, and the controls."""
        self.draw_donors()
        self.draw_own()
        results = {}
        for key in sorted({(r["modality"], r["request"], r["arm"]) for r in self.rows}):
            part = [r for r in self.rows if (r["modality"], r["request"], r["arm"]) == key]
            if len({r["patient"] for r in part}) > 2:
                results[" ".join(key)] = summary(
                    part, list(part[0]["asked"]), self.bench.bundle.population(key[0])
                )
        return results

    def _other_seed(self, i: int):
        """How much of a result is the seed's: the first donor's request, another seed asked against the first."""
        tumour, mates = self.bench.tumours[i], self.bench.mates(i)
        if not mates:
            return
        asked = request_of(self.bench.wish(i, mates[0]))
        first, second = (self.bench.draw(tumour, "network", asked, self.a.seed + k) for k in (0, 1))
        if first and second:
            self._row(i, "donor", "other seed", first.features, second)

    def sweeps(self) -> dict:
        cases = self._in_turn(self.budget.sweep_cases)
        out = {"cases": [self.bench.tumours[i].key for i in cases]}
        for arm, count in (("network", len(cases)), ("full", self.budget.sweep_solved)):
            if count and (not self.a.arms or arm in self.a.arms):
                out |= sweeps(self.bench, cases[:count], (arm,), self.budget.sweep_steps, self.a.seed)
        return out

    def evaluations(self) -> dict:
        cases = self._in_turn(self.budget.nfe_cases)
        pairs = [(i, self.bench.mates(i)[0]) for i in cases if self.bench.mates(i)]
        return evaluations(self.bench, pairs, self.budget.nfe, seed=self.a.seed)

    def _in_turn(self, count: int) -> list[int]:
        """Indices of `count` cases, in turn from each modality, of as many patients as possible."""
        order = sorted(
            range(len(self.bench.tumours)),
            key=lambda i: (
                sum(t.case.patient == self.bench.tumours[i].case.patient for t in self.bench.tumours[:i]),
                i,
            ),
        )
        by = [[i for i in order if self.bench.tumours[i].case.modality == m] for m in self.modalities]
        turns = [part[k] for k in range(len(order)) for part in by if k < len(part)]
        return turns[:count]

    def believable(self) -> dict:
        """Per modality, request and arm: both detectors, Fréchet distances, distance of arrangement."""
        self.draw_donors()
        self.draw_own()
        out, b = {}, self.budget
        for modality in self.modalities:
            population = self.bench.bundle.population(modality)
            real = [t for t in self.bench.tumours if t.case.modality == modality]
            if len(real) > 1:
                out[f"{modality} real"] = {
                    "frechet_population": to_population(population, [t.own for t in real])
                }
            for request, samples in (("donor", self.samples), ("own", self.own)):
                for arm in (x for x in self.arms() if (modality, x) in samples):
                    # As many of every arm; one per case where sets are compared with the real ones, which have one each.
                    made = few(samples[modality, arm], max(b.solved, 1))
                    if len({self.bench.tumours[i].case.patient for i, _ in made}) >= 4:
                        out[f"{modality} {request} {arm}"] = self._judged(made, population)
                        print(f"believable {modality} {request} {arm}", flush=True)
        return out

    def _judged(self, made: list, population) -> dict:
        b, first = self.budget, few(made, 1)
        found = {
            "detectors": detect(self.bench, made, b.folds, b.patch_steps, b.repeats, self.a.seed),
            "frechet_population": to_population(population, [d.features for _, d in first]),
            "arrangement": arrangement(self.bench, first),
        }
        return found | ({"frechet_frd_score": by_package(self.bench, first)} if b.package else {})

    def copies(self) -> dict:
        if not self.a.prepared:
            return {"left out": "--prepared was not given"}
        self.draw_donors()
        out = {}
        for modality in self.modalities:
            training = Training(self.a.prepared, modality, self.budget.crops)
            for arm in (x for x in self.arms() if x != "field"):
                made = self.samples.get((modality, arm), [])
                if made:
                    out[f"{modality} {arm}"] = memorised(self.bench, few(made, 1), training)
        return out

    def figures(self, out: dict):
        """Pictures of what was measured, and galleries of all arms."""
        import figures

        folder, title = self.a.figures, f"{self.bench.bundle.id} {self.bench.bundle.version}"
        asked = (("donor", "donors'", "", self.samples), ("own", "their own", "_own", self.own))
        for modality, (request, whose, ending, samples) in product(self.modalities, asked):
            mine = {arm: made for (m, arm), made in samples.items() if m == modality}
            if mine:
                figures.gallery(self.bench, mine, folder / f"gallery_{modality}{ending}.png")
            for arm in mine:
                key, path = (
                    (modality, request, arm),
                    folder / f"scatter_{modality}{ending}_{arm.replace(' ', '_')}.png",
                )
                part = [r for r in self.rows if (r["modality"], r["request"], r["arm"]) == key]
                population = self.bench.bundle.population(modality)
                figures.scatter(part, population, path, f"{title}: {modality}, {whose} features, {arm}")
        for arm in ("network", "full"):
            found = out.get("sweeps", {}).get(arm, {})
            if found.get("drivers"):
                figures.sweep_panels(found, folder / f"sweeps_{arm}.png", f"{title}: one driver asked, {arm}")
                names, path = out["sweeps"]["drivers"], folder / f"cross_talk_{arm}.png"
                figures.cross_talk(found, names, path, f"{title}: cross-talk, {arm}")
        if math.isfinite(out.get("evaluations", {}).get("plateau", math.nan)):  # too few cases have no curve
            figures.evaluations_curve(out["evaluations"], folder / "evaluations.png", title)


def texture(a, bundle, baselines, head: dict) -> dict:
    """All asked parts, with the budget, the cases and the refused requests; written after each, below `head`."""
    budget = BUDGETS["quick" if a.quick else a.budget]
    asked = {k: getattr(a, k) for k in ("patients", "donors", "sweep_cases", "nfe_cases")}
    budget = replace(budget, **{k: v for k, v in asked.items() if v is not None})
    found = measurable(a.data, bundle)
    kept = chosen(found, budget.patients, budget.each, a.seed)
    unknown = set(a.arms or ()) - {*ARMS, *baselines}
    if unknown:
        raise InputError(f"--arms: {', '.join(sorted(unknown))} is none of {', '.join([*ARMS, *baselines])}")
    if len({c.patient for c in kept}) < 3:
        raise InputError(
            f"{a.data}: agreement across cases needs three patients; give more, or more --patients"
        )
    if a.prepared:
        common.Prepared(
            a.prepared
        )  # needed in the last part: what is wrong with it is better said before the first
    bench = Bench.load(bundle, kept, device=a.device, baselines=baselines, cache=a.cache)
    task = Texture(a, bench, budget)
    out = {"budget": asdict(budget), "cases": [t.key for t in bench.tumours], "of_cases": len(found)}
    out |= {"region": bench.region} if bench.region else {}
    out |= {"left_out": bench.left_out} if bench.left_out else {}
    past = earlier(a.json, out, a.parts) | {"version": head["version"]} if a.update else {}
    for part in a.parts:
        name = "results" if part == "fidelity" else part
        out[name] = {**past.get(name, {}), **getattr(task, part)()}
        out["refused"] = bench.refused
        write(a.json, head | past | out | {"rows": task.rows})
    if a.figures:
        task.figures(out)
    others = [c for c in past.get("renewed", []) if c != head["command"]]
    renewed = {"renewed": [*others, head["command"]], "command": past["command"]} if past else {}
    return past | out | renewed | {"rows": task.rows}


def measurable(folder: Path, bundle) -> list:
    """Cases of a folder whose modality the model has.

    :raises InputError: there is none.
    """
    there = list(cases("sts", folder))
    found = [c for c in there if c.modality in bundle.modalities]
    if not found:
        other = f", only of {', '.join(sorted({c.modality for c in there}))}" if there else ""
        raise InputError(
            f"{folder} has no images of {' or '.join(bundle.modalities)}{other}: give the folder that holds "
            "<ID>_<MODALITY>_image.nii.gz beside <ID>_<MODALITY>_mask.nii.gz"
        )
    return found


def earlier(path: Path, out: dict, parts) -> dict:
    """The results that `--update` puts new ones of some parts into. A part's own budget may be another where it is measured anew.

    :raises InputError: there are none, or they are of other cases, another region or another budget.
    """
    try:
        past = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"--update: can't read the results in {path} ({error}): give another file, or leave it out"
        ) from None
    free = {k for k, part in OF_PART.items() if part in parts or part not in past}

    def compared(found: dict) -> list:
        budget = {k: v for k, v in (found.get("budget") or {}).items() if k not in free}
        return [budget, found.get("cases"), found.get("region")]

    if compared(past) != compared(json.loads(json.dumps(out))):
        raise InputError(
            f"{path} measured other cases, another region or another budget: write to another file, or leave --update out"
        )
    return past


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "task",
        choices=["texture", "removal", "codec"],
        help="or place, or shape, which have options of their own: evaluate.py place --help",
    )
    p.add_argument("--model", help="id of an installed model, or a bundle's folder")
    p.add_argument("--region", help="which one, of a model that paints several (default: the first)")
    p.add_argument("--data", type=Path)
    p.add_argument("--image", type=Path, help="removal: one image …")
    p.add_argument("--mask", type=Path, help="… with its tumour")
    p.add_argument("--json", type=Path, required=True)
    p.add_argument("--figures", "--pictures", type=Path, help="folder for figures")
    p.add_argument("--quick", action="store_true", help="the smallest budget, a few minutes")
    p.add_argument("--budget", choices=list(BUDGETS), default="full", help="how much is measured")
    p.add_argument("--patients", type=int, help="texture: this many, drawn with --seed")
    p.add_argument("--donors", type=int, help="texture: other patients' requests per case")
    p.add_argument("--sweep-cases", type=int)
    p.add_argument("--nfe-cases", type=int)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--arms", nargs="+", help="texture: only these of network, full, field and the baselines")
    p.add_argument("--baseline", type=Path, nargs="+", default=[], help="checkpoints of train_baseline.py")
    p.add_argument("--codec", type=Path, nargs="+", default=[], help="codec: checkpoints of train_codec.py")
    p.add_argument("--prepared", type=Path, help="the folder of prepare.py that the model was trained on")
    p.add_argument(
        "--requests", nargs="+", choices=["own", "donor"], default=["own", "donor"],
        help="texture, fidelity: donor leaves a tumour's own features and the controls out",
    )  # fmt: skip
    p.add_argument(
        "--update",
        action="store_true",
        help="texture: renew parts and arms of the results in --json, keep the others",
    )
    p.add_argument("--cache", type=Path, help="folder that keeps samples")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto")
    p.add_argument("--threads", type=int)
    a = p.parse_args()
    if a.task != "codec" and not a.model:
        p.error("--model is missing")
    if (a.data is None) == (a.image is None) or (
        a.image is not None and (a.mask is None or a.task != "removal")
    ):
        p.error("give --data DIR, or --image with --mask (removal only)")
    return a


def command(a, id: str) -> str:
    """The command that repeats this run, with DATA, runs and OUT.json in place of this machine's folders."""
    line = f"python Training/evaluate.py {a.task} " + (f"--model {shlex.quote(id)} " if id else "")
    if a.data:
        line += f"--data {placed(a.data, 'runs' if a.task == 'codec' else 'DATA')} --json OUT.json"
    else:
        line += f"--image {placed(a.image, 'DATA', 1)} --mask {placed(a.mask, 'DATA', 1)} --json OUT.json"
    line += (
        " --quick"
        if a.quick
        else f" --budget {a.budget}"
        if a.task == "texture" and a.budget != "full"
        else ""
    )
    for name in ("region", "patients", "donors", "sweep_cases", "nfe_cases"):
        if getattr(a, name) is not None:
            line += f" --{name.replace('_', '-')} {shlex.quote(str(getattr(a, name)))}"
    if a.task == "texture" and list(a.parts) != list(PARTS):
        line += f" --parts {' '.join(a.parts)}"
    if a.task == "texture" and "own" not in a.requests:
        line += " --requests donor"
    line += f" --arms {shlex.join(a.arms)}" if a.arms else ""
    for name in ("baseline", "codec"):
        values = getattr(a, name)
        line += f" --{name} {' '.join(placed(v, 'runs') for v in values)}" if values else ""
    line += f" --prepared {placed(a.prepared, 'runs')}" if a.prepared else ""
    return line + (" --update" if a.update else "") + f" --seed {a.seed}"


def placed(path: Path, folder: str, kept: int = 2) -> str:
    """The last parts of a path, below a folder that stands for what is this machine's own."""
    return shlex.quote("/".join([folder, *path.absolute().parts[1:][-kept:]]))


def made(bundle) -> dict:
    """What a model's draws hang on: codec, sampler and its last training."""
    sampler, training = bundle.json["sampler"], bundle.json.get("training", {})
    told = {k: training[k] for k in ("steps", "minutes", "hardware") if k in training}
    return {
        "codec": bundle.json["codec"]["kind"],
        "evaluations": len(sampler["nodes"]),
        "noise": sampler["eta"],
        **told,
    }


def write(path: Path, out: dict):
    """The results as JSON, and the rows they were made of beside it."""
    rows = out.pop("rows", [])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(out, indent=1) + "\n")
    path.with_suffix(".rows.json").write_text(json.dumps(rows))


def main():
    if sys.argv[1:2] == ["shape"]:  # its own options
        import shape_scoring

        return shape_scoring.main(sys.argv[2:])
    if sys.argv[1:2] == ["place"]:
        import judge

        return judge.main(sys.argv[2:])
    try:
        measured(parse())
    except TumorSynthError as error:
        raise SystemExit(f"evaluate: {error}") from None


def measured(a):
    """Do what is asked, and write it."""
    if a.threads:
        torch.set_num_threads(a.threads)
    if a.task == "codec":
        from codec_table import codec_table

        if not (a.data / "meta.json").is_file():
            raise InputError(f"{a.data} has no meta.json: give a folder that prepare.py made")
        write(a.json, {"task": "codec", "command": command(a, "")} | codec_table(a))
        return
    bundle = load_bundle(Path(a.model)) if Path(a.model).is_dir() else find(a.model)
    bundle = bundle.painting(a.region or bundle.regions[0].name)
    a.region = bundle.painted and bundle.painted.name
    if a.task == "removal" and a.data:
        measurable(a.data, bundle)
        if a.region:
            raise InputError(
                f"{bundle.id} paints several regions: measure its removal with --image, and --mask of one label"
            )
    baselines = {}
    if a.baseline:
        from baselines import load_baseline

        baselines = dict(load_baseline(path, bundle, a.device) for path in a.baseline)
    out = {"task": a.task, "model": bundle.id, "version": bundle.version, "command": command(a, bundle.id)}
    out |= {"baselines": {name: e.budget for name, e in baselines.items()}} if baselines else {}
    out |= {"made": made(bundle)} if a.task == "texture" else {}
    out |= texture(a, bundle, baselines, out) if a.task == "texture" else removal(a, bundle, baselines)
    write(a.json, out)
    if "results" in out:
        print(json.dumps(compact(out), indent=1))


if __name__ == "__main__":
    main()

"""Write the results page from the results of evaluate.py.

python Training/write_results.py Training/results      # reads *.json and notes.md there, writes README.md beside them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import judge_page
from goals import span, table

EXACT_DB = 120.0  # after rounding to whole grey values nothing is left to tell apart

MODELS = Path(__file__).parents[1] / "Resources/Models"

HEAD = """# Results

Written by `Training/write_results.py` from the JSON files in this folder, which `Training/evaluate.py` wrote. All cases are of
patients that were never trained on. Features are re-extracted by pyradiomics from the edited file's voxels; intervals are
95 % bootstraps over patients.

- **network**: the network alone, its draws guided to the asked mean, spread, percentiles and contrast, their grain put right
  (`equalise.py`) and held to the image's; **unguided**: without any of that;
  **full**: network, guided to all of these but contrast, and solver, the default; **field**: solver on a Gaussian field, without
  network; **mask only**: the network told the population's mean features; **codec**: the real tumour through the codec and back,
  the ceiling; **other seed**: the network's result for one seed, taken as the request, against that for another.
- **gan**, **ldm**, **unordered**, **bridge**: the paper's baselines, the release's conditioner and our bridge, trained on
  the same data (for how long stands at each table), without the solver.
- **own**: a tumour asked for with its own features; **donor**: with another patient's, as a tumour
  of this one's size would have them (`radiomics/sizing.py`).
- A cell is the median over features of Pearson's correlation between asked and reached across cases, its interval, and in
  brackets the same with each result paired with another case's request (*shuffled*). Few patients make wide intervals.
- `firstorder`, `glcm`, `glrlm`, `glszm` are steered by the solver; `gldm`, `ngtdm`, `glcm_other` (another bin width) never are.
  Features that grow with the region are left out.
- Where a table says *renewed since*, the commands named there replaced what they measure, the last one last.
- Detectors learn from the cases that they judge others of: AUCs of different numbers of cases don't compare.
- The field starts from the real tumour's mean and deviation, a help that the other arms don't get.
"""
NOTES = "notes.md"  # beside the results: what else there is to say of them, put after the goals


def cell(part: dict) -> str:
    return f"{part['median']:.3f}{span(part['interval'])} [{part['shuffled']:.2f}]"


def texture(results: dict) -> list[str]:
    kinds = sorted({k for r in results.values() for k in r["classes"]})
    lines = [
        f"| modality, request, arm | cases (patients) | {' | '.join(kinds)} | case-wise Pearson / Spearman | mean \\|Δ\\|/σ | s |"
    ]
    lines.append("|" + "---|" * (len(kinds) + 5))
    for key, r in results.items():
        cells = " | ".join(cell(r["classes"][k]) if k in r["classes"] else "" for k in kinds)
        case = " / ".join(
            f"{r[k]:.3f}{span(r.get(f'{k}_interval'), 3)}" for k in ("case_pearson", "case_spearman")
        )
        row = f"| {key} | {r['cases']} ({r['patients']}) | {cells} | {case}"
        lines.append(f"{row} | {r['mean_difference_sigma']:.2f} | {r['seconds_median']:.1f} |")
    lines.append("")
    for key, r in results.items():
        if key.endswith("full"):
            worst = ", ".join(f"{n.removeprefix('original_')} {v:.2f}" for n, v in r["worst"].items())
            lines.append(f"Worst of {key}: {worst}.")
            if "unsized" in r:
                raw = ", ".join(f"{k} {v:.3f}" for k, v in r["unsized"].items())
                lines.append(f"{key}, against the donor's features as measured at the donor's size: {raw}.")
    return lines


def agreement(results: dict) -> list[str]:
    """Other measures of agreement, for steered and audit features."""
    if not all("groups" in r for r in results.values()):
        return []
    lines = [
        "",
        "Medians over features: Spearman, Lin's concordance, Pearson after both were freed of the region's volume.",
        "",
        "| | steered: Pearson [shuffled] | Spearman | concordance | without volume "
        "| audit: Pearson [shuffled] | Spearman | concordance | without volume | PSNR / SSIM, mask + 5 mm |",
        "|" + "---|" * 10,
    ]
    for key, r in results.items():
        cells = []
        for group in ("steered", "audit"):
            g = r["groups"].get(group, {})
            cells.append(f"{g['median']:.3f} [{g['shuffled']:.2f}]" if g else "")
            cells += [f"{g[k]:.3f}" if k in g else "" for k in ("spearman", "concordance", "without_volume")]
        like = f"{r['psnr']:.1f} / {r['ssim']:.3f}" if "psnr" in r else ""
        lines.append(f"| {key} | {' | '.join(cells)} | {like} |")
    return lines


def sweeps(found: dict) -> list[str]:
    """A table of slopes and monotonicity per driver and arm."""
    arms = [a for a in ("network", "full") if found.get(a, {}).get("drivers")]
    if not arms:
        return []
    steps = ", ".join(f"{v:+g}" for v in found["steps_sigma"])
    lines = ["", f"Sweeps: one driver asked at {steps} sigma (population percentiles), all else free.", ""]
    lines.append("| driver | " + " | ".join(f"{a}: slope (10-90 %), monotone" for a in arms) + " |")
    lines.append("|" + "---|" * (len(arms) + 1))
    for name in found["drivers"]:
        cells = []
        for arm in arms:
            d = found[arm]["drivers"].get(name)
            cells.append(
                f"{d['slope']:.2f} ({d['slope_range'][0]:.2f}-{d['slope_range'][1]:.2f}), {100 * d['monotone']:.0f} %"
                if d
                else ""
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    whole = [
        f"median slope {found[a]['slope_median']:.2f}, {100 * found[a]['slope_within_0.9_1.1']:.0f} % within 0.9-1.1, "
        f"monotone {100 * found[a]['monotone']:.0f} %"
        for a in arms
    ]
    lines.append(f"| **all** | {' | '.join(whole)} |")
    return lines


def evaluations(found: dict) -> list[str]:
    lines = [
        "",
        f"Network alone by evaluations ({found['cases']} cases); arrangement: distance from real tumours.",
        "",
    ]
    lines += ["| evaluations | median Pearson | 95 % interval | arrangement |", "|---|---|---|---|"]
    for count, p in found["curve"].items():
        low, high = p["interval"]
        span = f"{low:.3f} to {high:.3f}" if low is not None else ""
        lines.append(f"| {count} | {p['median']:.3f} | {span} | {p.get('arrangement', float('nan')):.2f} |")
    return [*lines, "", f"Evaluations for 99 % of the best: {found['evaluations_for_99_percent']}."]


def believable(found: dict) -> list[str]:
    """Detectors and distances per arm."""
    lines = [
        "",
        "Believable? AUC of detectors of synthetic tumours across patients (.5 is perfect, 1 is always recognised; *pairs*: how "
        "often the synthetic tumour of a mask scores above the real one), Fréchet Radiomics Distance (our features to the "
        "training population / `frd-score` to the same cases), and distance of arrangement (profile, spectrum, border).",
        "",
        "| | AUC of numbers (pairs) | AUC of patches (pairs) | Fréchet, population | frd-score | arrangement | real, synthetic |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, f in found.items():
        cells = []
        for name in ("numbers", "patches"):
            d = f.get("detectors", {}).get(name)
            low, high = d["interval"] if d else (None, None)
            span = f" ({low:.2f}-{high:.2f})" if low is not None else ""
            cells.append(f"{d['auc']:.2f}{span} [{d['pairs']:.2f}]" if d else "")
        cells += [
            f"{f[k]:.2f}" if f.get(k) is not None else ""
            for k in ("frechet_population", "frechet_frd_score", "arrangement")
        ]
        d = f.get("detectors")
        lines.append(
            f"| {key} | {' | '.join(cells)} | {d['real']}, {d['synthetic']} |"
            if d
            else f"| {key} | {' | '.join(cells)} | |"
        )
    return lines


def copies(found: dict) -> list[str]:
    if "left out" in found:
        return []
    lines = [
        "",
        "Copies? Correlation with the nearest patch of another patient's training tumour: median (95 %, largest).",
        "",
    ]
    lines += ["| | real tumours | synthetic | synthetic above the real 95 % |", "|---|---|---|---|"]
    for key, f in found.items():
        cells = [f"{v[1]:.2f} ({v[2]:.2f}, {v[3]:.2f})" for v in (f["real_to_real"], f["synthetic_to_real"])]
        lines.append(f"| {key} | {' | '.join(cells)} | {100 * f['above_real_95']:.0f} % |")
    return lines


def budget(out: dict) -> list[str]:
    """What was trained and what was measured."""
    lines = []
    if out.get("made") and not ships(out):
        m = out["made"]
        trained = (
            f"; trained for {m['steps']} steps, {m['minutes']:.0f} minutes ({m['hardware']})"
            if "steps" in m
            else ""
        )
        lines.append(
            f"Codec {m['codec']}; {m['evaluations']} evaluations, noise {m['noise']}{trained}. Not shipped."
        )
    if out.get("baselines"):
        each = [f"{n}: {b['steps']} steps of {b['batch']} crops" for n, b in out["baselines"].items()]
        lines.append(f"Baselines, {'; '.join(each)}.")
    if "of_cases" in out:
        lines.append(
            f"{len(out['cases'])} of {out['of_cases']} cases, drawn by patient with the seed of the command."
        )
    if out.get("refused"):
        lines.append(f"{len(out['refused'])} requests were refused as impossible.")
    return [*lines, ""] if lines else []


def ships(out: dict) -> bool:
    """Whether results are of a model that comes with the library."""
    return (MODELS / out.get("model", "-")).is_dir()


def everything(out: dict) -> list[str]:
    """All parts of a texture evaluation that were run."""
    lines = budget(out)
    if out.get("results"):
        lines += texture(out["results"]) + agreement(out["results"])
    for part in (sweeps, evaluations, believable, copies):
        if out.get(part.__name__):
            lines += part(out[part.__name__])
    return lines


def codec(out: dict) -> list[str]:
    """Round-trip table of codecs."""
    rows = out["codecs"]
    kinds = list(next(iter(rows.values()))["concordance"])
    lines = [
        f"{next(iter(rows.values()))['crops']} real crops of patients that no codec was trained on. PSNR in the tumour; "
        "concordance over crops, median over features (worst feature).",
        "",
        f"| codec | PSNR (dB) | {' | '.join(kinds)} | training |",
        "|" + "---|" * (len(kinds) + 3),
    ]
    for name, r in rows.items():
        psnr = ", ".join(f"{m} {v:.1f}" if v < EXACT_DB else f"{m} exact" for m, v in r["psnr"].items())
        cells = [
            f"{c['median']:.3f} ({c['worst']:.2f} {c['feature'].split('_')[-1]})"
            for c in r["concordance"].values()
        ]
        lines.append(f"| {name} | {psnr} | {' | '.join(cells)} | {r.get('training', '')} |")
    names = [
        n
        for n in next(iter(rows.values())).get("each", ())
        if all(n in r.get("each", ()) for r in rows.values())
    ]
    if names:
        lines += [
            "",
            "<details><summary>Concordance of each feature</summary>",
            "",
            f"| | {' | '.join(rows)} |",
        ]
        lines.append("|" + "---|" * (len(rows) + 1))
        for n in names:
            cells = [f"{r['each'][n]:.3f}" for r in rows.values()]
            lines.append(f"| {n.removeprefix('original_')} | {' | '.join(cells)} |")
        lines += ["", "</details>"]
    return lines


def removal(results: dict) -> list[str]:
    lines = [
        "Healthy places hidden and filled; inside the hole + 5 mm.",
        "",
        "| | mean | 95 % interval | holes |",
        "|---|---|---|---|",
    ]
    for key, r in results.items():
        if isinstance(r, dict):
            lines.append(
                f"| {key} | {r['mean']:.3f} | {' to '.join(f'{v:.3f}' for v in r['interval'] if v is not None)} | {r['holes']} |"
            )
        else:
            lines.append(f"| {key} | {r:.2f} | | |")
    return lines


def shape(out: dict) -> list[str]:
    """Asked and reached shape features, the grid, variety, looks and timings: what was measured of them."""
    lines = []
    if "results" in out:
        start = "form of a real tumour" if out.get("forms") else "network" if out["network"] else "ellipsoid"
        lines += [
            f"**solved**: {start} and solver; **alone**: the {start}, scaled to the volume. Pearson over tumours of asked and "
            "reached, each of 17 features: median (interval by patient), worst feature; in brackets the shuffled control.",
            "",
            "| | tumours (patients) | median | worst | volume error, mean (largest) |",
            "|---|---|---|---|---|",
        ]
        for arm, r in out["results"].items():
            name, worst = next(iter(r["worst_features"].items()))
            error, control = r["volume_error"], middle(r["shuffled"])
            lines.append(
                f"| {arm} | {r['cases']} ({r['patients']}) | {r['median']:.3f}{span(r['interval'], 3)} [{control:.2f}] | "
                f"{worst:.3f} {name} | {100 * error['mean']:.2f} % ({100 * error['largest']:.2f} %) |"
            )
        lines.append("")
    if "grid" in out:
        grid = out["grid"]
        lines.append(
            f"Volume × sphericity grid: rows monotone {grid['rows_monotone']}, "
            f"columns {grid['columns_monotone']}, of {grid['of']}."
        )
    if "diversity" in out:
        alike = "; ".join(
            f"{k} {v['dice']:.2f} ({v['draws']} draws"
            + (f"; the tumour's own mirror images {v['mirrored']:.2f})" if "mirrored" in v else ")")
            for k, v in out["diversity"].items()
        )
        lines.append(f"Mean pairwise Dice of draws for one request, by what it fixes: {alike}.")
    if "coverage" in out:
        cover = out["coverage"]
        lines.append(
            f"Dice with the nearest, all at one volume: real to drawn {cover['real to drawn']:.2f}, drawn to real "
            f"{cover['drawn to real']:.2f}, real to real {cover['real to real']:.2f} "
            f"({cover['real']} real, {cover['drawn']} drawn)."
        )
    lines += shape_looks(out["looks"]) if "looks" in out else []
    return lines + [shape_timings(out["timings"]) if "timings" in out else ""]


def shape_looks(found: dict) -> list[str]:
    """How like grown tumours drawn ones look, beside real tumours of the same volume."""
    by = found["silhouettes"]
    auc = (
        ""
        if by["auc"] is None
        else f" Silhouettes: AUC {by['auc']:.2f} (labels at random {by['control']:.2f})."
    )
    lines = [
        f"Looks of {found['tumours']} tumours ({found['patients']} patients) and of one drawn for the volume of each, whose "
        f"other features were free: 5th, 50th and 95th percentile.{auc}",
        "",
        "| | real | drawn | drawn within the real ones' 5th to 95th |",
        "|---|---|---|---|",
    ]
    for name, row in found["features"].items():
        real, made = (" ".join(f"{v:.3f}" for v in row[f"{k} 5, 50, 95"]) for k in ("real", "made"))
        lines.append(f"| {name} | {real} | {made} | {row['made within']:.2f} |")
    return [*lines, ""]


def shape_timings(times: dict) -> str:
    """How long previews and solved shapes take, and how busy the machine was with other things."""
    seconds = "; ".join(
        f"{k} {v['median']:.2f} s of the clock (largest {v['largest']:.2f}), {v['processor_median']:.2f} s of processor time"
        for k, v in times.items()
        if isinstance(v, dict)
    )
    others = f", of which other things took {100 * times['others']:.0f} %" if "others" in times else ""
    return f"Timings on {times['cores']} cores{others}: {seconds}."


def middle(value) -> float:
    """A number, or the median of an entry that has one."""
    return float(value["median"] if isinstance(value, dict) else value)


def page(outs: list[dict], notes: str = "") -> str:
    """The page of results; goals of the models that come with the library, or where none does, of all."""
    judged = [out for out in outs if out["task"] in ("place", "reading")]
    outs = [out for out in outs if out not in judged]
    lines = [HEAD, *table([out for out in outs if ships(out)] or outs), notes, *judge_page.section(judged)]
    for out in outs:
        of = f"{out['model']} {out['version']}: " if "model" in out else ""
        lines += [f"## {of}{out['task']}", "", f"`{out['command']}`", ""]
        for later in out.get("renewed", []):
            lines += [f"Renewed since: `{later}`", ""]
        write = {
            "texture": everything,
            "removal": lambda o: budget(o) + removal(o["results"]),
            "codec": codec,
            "shape": shape,
        }
        lines += write[out["task"]](out) + [""]
    return "\n".join(lines).rstrip() + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, nargs="?", default=Path("Training/results"))
    folder = p.parse_args().folder
    paths = sorted(q for q in folder.glob("*.json") if not q.name.endswith(".rows.json"))
    target, notes = folder / "README.md", folder / NOTES
    if not paths:
        raise SystemExit(f"write_results: no results of evaluate.py (*.json) in {folder}")
    if target.exists() and not target.read_text(encoding="utf-8").startswith(HEAD.splitlines()[0]):
        raise SystemExit(
            f"write_results: {target} isn't a results page; move it, or the results to a folder of their own"
        )
    outs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    curves = judge_page.strengths(outs)
    if curves:
        from judge_pictures import strength_figure

        strength_figure(folder / judge_page.FIGURE, curves)
    target.write_text(
        page(outs, notes.read_text(encoding="utf-8") if notes.exists() else ""), encoding="utf-8"
    )


if __name__ == "__main__":
    main()

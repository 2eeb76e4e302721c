"""Write the results page from the results of evaluate.py.

python Training/write_results.py Training/results      # reads *.json there, writes README.md beside them
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAD = """# Results

Written by `Training/write_results.py` from the JSON files in this folder, which `Training/evaluate.py` wrote. All cases are of
patients that were never trained on. Features are re-extracted by pyradiomics from the edited file's voxels; intervals are
95 % bootstraps over patients.

- **network**: the network alone; **full**: network and solver, the default; **field**: solver on a Gaussian field, no network.
- **own**: a tumour asked for with its own features; **donor**: with another patient's.
- A cell is the median over features of Pearson's correlation between asked and reached across cases, its interval, and in
  brackets the same with each result paired with another case's request (*shuffled*). Few patients make wide intervals.
- `firstorder`, `glcm`, `glrlm`, `glszm` are steered by the solver; `gldm`, `ngtdm`, `glcm_other` (another bin width) never are.
  Features that grow with the region are left out.
- **How much these numbers were chosen**: how removals fill a hole, treat the rim, their range and thick slices was decided by
  looking at lung1 and at holes in these validation patients, so the removal figures are not independent of those choices,
  those of lung1 least of all. Stopping times and the sampler were not chosen on these cases.
- The field starts from the real tumour's mean and deviation, a help that the other arms don't get.
"""


def cell(part: dict) -> str:
    low, high = part["interval"]
    return f"{part['median']:.3f} ({low:.2f}-{high:.2f}) [{part['shuffled']:.2f}]"


def texture(results: dict) -> list[str]:
    kinds = list(next(iter(results.values()))["classes"])
    lines = [
        f"| modality, request, arm | cases (patients) | {' | '.join(kinds)} | case-wise Pearson / Spearman | mean \\|Δ\\|/σ | s |"
    ]
    lines.append("|" + "---|" * (len(kinds) + 5))
    for key, r in results.items():
        cells = " | ".join(cell(r["classes"][k]) for k in kinds)
        row = f"| {key} | {r['cases']} ({r['patients']}) | {cells} | {r['case_pearson']:.3f} / {r['case_spearman']:.3f}"
        lines.append(f"{row} | {r['mean_difference_sigma']:.2f} | {r['seconds_median']:.1f} |")
    lines.append("")
    for key, r in results.items():
        if key.endswith("full"):
            worst = ", ".join(f"{n.removeprefix('original_')} {v:.2f}" for n, v in r["worst"].items())
            lines.append(f"Worst of {key}: {worst}.")
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
                f"| {key} | {r['mean']:.3f} | {r['interval'][0]:.3f} to {r['interval'][1]:.3f} | {r['holes']} |"
            )
        else:
            lines.append(f"| {key} | {r:.2f} | | |")
    return lines


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "Training/results")
    lines = [HEAD]
    for path in sorted(folder.glob("*.json")):
        out = json.loads(path.read_text())
        lines += [f"## {out['model']} {out['version']}: {out['task']}", "", f"`{out['command']}`", ""]
        lines += {"texture": texture, "removal": removal}[out["task"]](out["results"]) + [""]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()

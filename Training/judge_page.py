"""The part of the results page that tells whether an edit is seen: tables of `evaluate.py place` and `reading.py`."""

from __future__ import annotations

import math

from goals import span

PROVES = 0.85  # AUC that a detector needs on the first engine's edits, to say something of the others
FOUND = 0.8  # the same on salt and pepper, where that was judged
SLID = ("slider+", "slider-")
FIGURE = "place-strength.png"
FIRST = ("bridge", "default")  # engines that a detector is proved on
SEEN = 3
DEFAULT_STRENGTH = 0.3
ALIKE = (0.8, 1.25)  # made / real that passes for alike
ENGINES_HEAD = f"""### Which engine wins

Where both were judged on the same data, by the tables above. *Alike*: how many of the ratios made / real (medians over cases)
lie within {ALIKE[0]:g} to {ALIKE[1]:g}, and the one farthest from 1, which decides between equals; *reached*: share of asked
features within .05 sd. Patients can differ.

| data, edit | patients: bridge, exemplar | alike: bridge | exemplar | reached: bridge | exemplar | looks | features |
|---|---|---|---|---|---|---|---|"""
HEAD = """## Is the edit seen?

Every kind of edit by `evaluate.py place`, on the native grid, beside its **control**: the same number of the same healthy place
untouched (*hidden*), of an untouched healthy place of the same image (*removed*), of the tumour that was there (others). Judged
are the patients of `judged_patients.json`, on whom nothing is chosen; texture models have learned from those of them that are
from `train`. In brackets: 95 % interval by patient of the comparison case by case.

- *level*: 5 mm blocks off the nearest kind of tissue around, robust sd; *grain*, *power* (above .45 cycles per voxel): inside /
  around; *step*: over the border / over a contour farther out; *neighbours*: correlation of grain, in plane and between slices,
  less that around. Of tumours: made / real, and differences of correlations; *pattern*: correlation with the real tumour, both
  smoothed.
- *AUC*: boosted trees on patches / patch network / the named numbers, folds by patient; .5: not seen. †: the same detector
  doesn't find salt and pepper by .8 or, where that wasn't judged, the edits of the engine `bridge` by .85: it proves nothing.
  *seen*: the single features of patches that tell most (AUC; above .5: higher where edited).
- *untouched*: real tumours, those of every other patient passing for edited; *speckled*: salt and pepper, which any detector of
  worth finds: the two ends of the scale.
- *reached*: share of asked features within .05 sd / share within that of what was asked or of the limit that was said before the
  tumour was drawn; in brackets the worst in sd; r: case-wise over z-scored features.
"""


def section(outs: list[dict]) -> list[str]:
    """Tables of all engines together, by data set; readings; nothing where nothing was judged."""
    places = [o for o in outs if o["task"] == "place"]
    readings = [o for o in outs if o["task"] == "reading"]
    if not places and not readings:
        return []
    lines = [HEAD]
    for data in sorted({o["data"] for o in places}):
        mine = sorted((o for o in places if o["data"] == data), key=lambda o: o["engine"] not in FIRST)
        lines += _data(data, mine)
    return lines + _engines(places) + _strengths(places) + (_readings(readings) if readings else [])


def _data(data: str, outs: list[dict]) -> list[str]:
    keys = sorted(dict.fromkeys(k for o in outs for k in o["results"]), key=lambda k: k.split(" ")[0])
    rows = [(key, o, o["results"][key]) for key in keys for o in outs if key in o["results"]]
    weak = {
        key: _weak(found) for key, o, found in reversed(rows) if o["engine"] in FIRST and "numbers" in found
    }
    for key, _, found in rows:
        if key.endswith(" speckled"):
            weak |= {f"{key.split()[0]} {edit}": _weak(found, FOUND) for edit in (*SLID, "own")}
    lines = [f"### {data}", ""]
    for columns, healthy in ((HEALTHY_COLUMNS, True), (TUMOUR_COLUMNS, False)):
        part = [r for r in rows if "numbers" in r[2] and ("level" in r[2]["numbers"]) == healthy]
        if part:
            lines += _table(columns, part, weak) + [""] + _worst(part) + [""]
    none = [f"{key}, {_engine(o)}: {found['refused'][0]}" for key, o, found in rows if "numbers" not in found]
    lines += [f"None could be made: {'; '.join(none)}.", ""] if none else []
    for command in sorted({c for o in outs for c in o.get("commands", {}).values()}):
        lines.append(f"`{command}`  ")
    return [*lines, ""]


def _engine(out: dict) -> str:
    return out["engine"] + (f", strength {out['strength']:g}" if out.get("strength") is not None else "")


def _weak(found: dict, proves: float = PROVES) -> set[str]:
    """Detectors that don't tell the first engine's edits, or salt and pepper."""
    detectors = found.get("detectors", {})
    return {n for n in ("trees", "network", "numbers") if n in detectors and detectors[n]["auc"] < proves}


def strengths(outs: list[dict]) -> dict[str, list[tuple[float, float, float]]]:
    """Strength, pattern kept and mean miss (sd) of sliders, by data set and modality; strength 1 is the network's, drawn anew."""
    curves: dict[str, dict[float, list]] = {}
    for o in outs:
        strength = 1.0 if o.get("engine") == "bridge" else o.get("strength")
        if strength is None:
            continue
        for key, found in o.get("results", {}).items():
            modality, edit = key.split(" ", 1)
            if edit in SLID and "off" in found.get("reach", {}):
                point = (found["numbers"]["pattern"]["made"], found["reach"]["off"])
                name = f"{o['data']}, {modality}, {found['patients']} patients"  # the same at all strengths
                curves.setdefault(name, {}).setdefault(strength, []).append(point)
    return {
        name: [(s, *(sum(v) / len(v) for v in zip(*points[s]))) for s in sorted(points)]
        for name, points in sorted(curves.items())
        if len(points) > 2
    }


def _engines(outs: list[dict]) -> list[str]:
    """Which engine wins each edit that both were judged on, by its looks and by what it reaches."""
    lines = []
    exemplars = [
        o for o in outs if o["engine"] == "exemplar" and o.get("strength") in (None, DEFAULT_STRENGTH)
    ]
    for first in (o for o in outs if o["engine"] in FIRST):
        for key, drawn in first["results"].items():
            for other in (o for o in exemplars if (o["data"], o["model"]) == (first["data"], first["model"])):
                copied = other["results"].get(key)
                if copied and "numbers" in copied and "numbers" in drawn:
                    lines.append(_compared(f"{first['data']}, {key}", drawn, copied))
    if not lines:
        return []
    return [ENGINES_HEAD, *sorted(lines), ""]


def _compared(name: str, drawn: dict, copied: dict) -> str:
    """A row of the table of `_engines`."""
    looks, cells = [], []
    for found in (drawn, copied):
        ratios = {k: n["median"] for k, n in found["numbers"].items() if n["compared"] == "ratio"}
        off = {k: abs(math.log(max(r, 0.001))) for k, r in ratios.items()}
        far = max(off, key=off.__getitem__)
        alike = sum(ALIKE[0] <= r <= ALIKE[1] for r in ratios.values())
        looks.append((alike, -off[far]))
        cells.append(f"{alike} of {len(ratios)}, {far} ×{ratios[far]:.2f}")
    reached = [found.get("reach", {}).get("within") for found in (drawn, copied)]
    cells += ["" if r is None else f"{r:.2f}" for r in reached]
    cells += [_winner(looks), "" if None in reached else _winner(reached)]
    return f"| {name} | {drawn['patients']}, {copied['patients']} | {' | '.join(cells)} |"


def _winner(values: list) -> str:
    drawn, copied = values
    return "both" if drawn == copied else "bridge" if drawn > copied else "exemplar"


def _strengths(outs: list[dict]) -> list[str]:
    curves = strengths(outs)
    if not curves:
        return []
    lines = ["### What `strength` does to sliders", ""]
    lines += ["| data | strength: pattern kept, mean miss in sd |", "|---|---|"]
    for name, points in curves.items():
        told = "; ".join(f"{s:g}: {pattern:.3f}, {off:.2f}" for s, pattern, off in points)
        lines.append(f"| {name} | {told} |")
    return [*lines, "", f"![What strength does]({FIGURE})", ""]


def beside(name: str):
    """Cell: made (control), and the comparison's interval where there is one."""

    def cell(found: dict) -> str:
        n = found["numbers"].get(name)
        if not n:
            return ""
        return f"{n['made']:.2f} ({n['control']:.2f}); {_signed(n)}{span(n['interval'])}"

    return cell


def against(name: str):
    """Cell: the comparison alone."""

    def cell(found: dict) -> str:
        n = found["numbers"].get(name)
        return f"{_signed(n)}{span(n['interval'])}" if n else ""

    return cell


def _signed(n: dict) -> str:
    return f"{n['median']:+.2f}" if n["compared"] == "difference" else f"×{n['median']:.2f}"


def _pattern(found: dict) -> str:
    n = found["numbers"].get("pattern")
    return f"{n['made']:.2f}" if n else ""


def _reach(found: dict) -> str:
    r = found.get("reach")
    if not r:
        return ""
    tail = f"; r {r['pearson']:.2f} (worst {r['pearson_worst']:.2f})" if "pearson" in r else ""
    said = f" / {r['said']:.2f}" if "said" in r else ""
    return f"{r['within']:.2f}{said} ({r['worst']['value']:.2f}){tail}"


HEALTHY_COLUMNS = {
    "level: made (control)": beside("level"),
    "grain": beside("grain"),
    "power": beside("power"),
    "step": beside("step"),
    "neighbours in plane": against("lag_plane"),
    "between slices": against("lag_slice"),
}
TUMOUR_COLUMNS = {
    "power, made / real": against("power"),
    "specks": against("specks"),
    "step": against("step"),
    "border width": against("width"),
    "grain": against("grain"),
    "neighbours in plane": against("lag_plane"),
    "between slices": against("lag_slice"),
    "pattern": _pattern,
    "reached": _reach,
}


def _table(columns: dict, rows: list, weak: dict) -> list[str]:
    names = [*columns, "AUC: trees / network / numbers", "seen"]
    lines = [f"| edit, engine | patients | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
    for key, out, found in rows:
        cells = [cell(found) for cell in columns.values()]
        refused = f", {len(found['refused'])} refused" if found.get("refused") else ""
        cells += [_aucs(found, weak.get(key, set())), _seen(found)]
        size = f"{found['patients']}{refused}; {found['extent_mm']:.0f} mm"
        lines.append(f"| {key}, {_engine(out)} | {size} | {' | '.join(cells)} |")
    return lines


def _aucs(found: dict, weak: set[str]) -> str:
    detectors = found.get("detectors", {})
    cells = []
    for name in ("trees", "network", "numbers"):
        d = detectors.get(name)
        cells.append(f"{d['auc']:.2f}{span(d['interval'])}{'†' if name in weak else ''}" if d else "-")
    return " / ".join(cells)


def _seen(found: dict) -> str:
    seen = found.get("detectors", {}).get("seen", {})
    return ", ".join(f"{n} {v:.2f}" for n, v in list(seen.items())[:SEEN])


def _worst(rows: list) -> list[str]:
    """The worst case of the number that is farthest off in each row."""
    lines = []
    for key, out, found in rows:
        told = []
        for name, n in found["numbers"].items():
            unit = "×" if n["compared"] == "ratio" else ""
            value = f"{unit}{n['worst']['value']:{'.2f' if unit else '+.2f'}}"
            told.append(f"{name} {value} ({n['worst']['case']})")
        lines.append(f"Worst of {key}, {_engine(out)}: {', '.join(told)}.  ")
    return ["<details><summary>Worst cases</summary>", "", *lines, "", "</details>"] if lines else []


def _readings(outs: list[dict]) -> list[str]:
    lines = ["### Blinded reading", ""]
    lines += ["Accuracy of telling edited from untouched pictures, by `reading.py`; .5 is chance.", ""]
    lines += [
        "| data, edits, engine | pictures, readings | accuracy | untouched known, edited known | |",
        "|" + "---|" * 5,
    ]
    for o in outs:
        edits = ", ".join(o["edits"])
        known = ", ".join(f"{o['known'][t]:.2f}" for t in ("real", "made"))
        accuracy = f"{o['accuracy']:.2f}{span(o['interval'])}"
        counts = f"{o['pictures']}, {o['readers']}"
        lines.append(
            f"| {o['data']}, {edits}, {_engine(o)} | {counts} | {accuracy} | {known} | {o.get('said', '')} |"
        )
    return [*lines, ""]

"""One HTML file that shows what edits did: pictures, asked and reached features, warnings, provenance.

The file holds everything (pictures, style) and loads nothing, so it can be sent or archived as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from . import NOTICE
from .edit.told import made
from .errors import InputError
from .models.intensity import Intensity
from .png import write_bytes, write_png
from .radiomics.table import DRIVERS, FEATURES, unit_of
from .report_figures import bars, panels
from .report_page import number, page, signed
from .slices import MARGIN_MM, OBLIQUE_DEG, crop_around, difference_limit, display_window
from .terminal import shown

REPORT_FILE = "report.html"
GOOD, FAIR = 0.25, 1.0  # σ; closer than GOOD can't be told from the asked tumour by that feature
_VISIBLE_ROWS = 14  # of the table and plot; the rest is behind a click

_CLASS_TITLES = {
    "shape": "Shape", "firstorder": "First order", "glcm": "GLCM", "glrlm": "GLRLM", "glszm": "GLSZM",
    "gldm": "GLDM", "ngtdm": "NGTDM",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ReportEdit:
    """One edit to show.

    :param name: heading, e.g. "Remove".
    :param original: `Volume` before the edit.
    :param result: `EditResult`: volume, mask, asked, used, reached, before, timing, provenance, warnings.
    :param mask: (K, J, I) bool, the tumour before the edit; None if there was none.
    :param population: `Population` of the model, for the plot, and for σ where the result has no `spread`.
    :param modality: "CT", "T1", …; empty: guessed from the values.
    """

    name: str
    original: Any
    result: Any
    mask: np.ndarray | None = None
    population: Any = None
    modality: str = ""


def write_report(folder: str | Path, title: str, edits: Sequence[ReportEdit], lead: str = "") -> Path:
    """Write ``report.html`` and one PNG per edit into `folder`, which is made if it is missing.

    :param lead: HTML that comes before the edits, e.g. that of a series.
    :returns: the HTML file.
    :raises InputError: there is nothing to show, or the folder can't be written.
    """
    if not edits:
        raise InputError("there is no edit to report; pass at least one")
    folder, title = Path(folder), shown(title)  # a file's name in it may not be UTF-8
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sections = [_section(edit, i, folder) for i, edit in enumerate(edits, 1)]
        head = f'<h1>{escape(title)}</h1><p class="safety">{NOTICE}</p>'
        body = head + lead + (_summary(edits) if len(edits) > 1 else "") + "".join(sections)
        write_bytes(page(title, body).encode("utf-8"), folder / REPORT_FILE)
    except OSError as error:
        raise InputError(
            f"the report can't be written to {folder} ({error.strerror}); choose another folder"
        ) from None
    return folder / REPORT_FILE


def _section(edit: ReportEdit, i: int, folder: Path) -> str:
    now = edit.result.mask if edit.result.mask is not None and edit.result.mask.any() else edit.mask
    if now is None or not now.any():
        raise InputError(f"edit {edit.name!r} has no tumour to show: its masks are empty")
    crop = crop_around(edit.original, edit.result.volume, now, edit.mask)
    unit = f" {Intensity.of(crop.before, edit.modality).unit}".rstrip()
    window, limit = display_window(crop, edit.modality), difference_limit(crop)
    pictures, montage = panels(crop, window, limit, edit.name, unit)
    write_png(montage, folder / f"{i:02d}-{_slug(edit.name)}.png")
    changed = int(np.count_nonzero(edit.original.array != edit.result.volume.array))
    facts = [
        f"Window {number(window[0])} to {number(window[1])}{unit}.",
        f"Shown: the tumour and {MARGIN_MM:.0f} mm around it.",
        f"{changed:,} voxels changed.",
        *made(edit.result.provenance or {}),
    ]
    if crop.tilt > OBLIQUE_DEG:
        facts.append(f"The image lies {crop.tilt:.0f}° oblique; the planes follow its own axes.")
    return (
        f'<section id="edit{i}"><h2>{escape(edit.name)}</h2><p class="soft">{escape(" ".join(facts))}</p>'
        f"{_controls(i, limit, unit)}{pictures}{_warnings(edit.result)}{_features(edit, unit.strip())}"
        f"{_provenance(edit.result)}</section>"
    )


def _controls(i: int, limit: float, unit: str) -> str:
    """The switch of the outline, and what the colours of the difference mean."""
    colours = '<i role="img" aria-label="blue is darker, orange is brighter"></i>'
    return (
        f'<input type="checkbox" class="toggle" id="o{i}" checked><label for="o{i}">Outline</label>'
        f'<span class="legend">Difference −{number(limit)}{unit} {colours} +{number(limit)}{unit}</span>'
    )


def _summary(edits: Sequence[ReportEdit]) -> str:
    rows = []
    for i, edit in enumerate(edits, 1):
        misses = _misses(edit)
        asked = f"{len(edit.result.asked or {})}" if edit.result.asked else "–"
        miss = _grade(float(np.median(misses)), f"{np.median(misses):.2f} σ") if misses else "<td>–</td>"
        rows.append(
            f'<tr><td><a href="#edit{i}">{escape(edit.name)}</a></td><td>{asked}</td>{miss}'
            f"<td>{_seconds(edit.result.timing)}</td><td>{len(edit.result.warnings or ()) or '–'}</td></tr>"
        )
    head = "<tr><th>Edit</th><th>Features asked</th><th>Median miss</th><th>Time</th><th>Warnings</th></tr>"
    return f"<section class='wide'><table>{head}{''.join(rows)}</table></section>"


def _features(edit: ReportEdit, unit: str) -> str:
    """Table and plot of what was asked, and all features behind a click."""
    result = edit.result
    asked = dict(result.asked or {})
    everything = _ordered({**(result.before or {}), **(result.reached or {})}, asked)
    details = ""
    if everything:
        details = (
            f"<details><summary>All {len(everything)} measured features</summary>"
            f'<div class="wide">{_table(edit, everything, unit)}</div></details>'
        )
    if not asked:
        return f'<h3>Features</h3><p class="soft">None were asked for.</p>{details}'
    shown = _ordered(asked, asked)[:_VISIBLE_ROWS]
    more = f" The first {len(shown)} of {len(asked)}." if len(shown) < len(asked) else ""
    plot = _plot(edit, shown)
    note = f'<p class="note">σ: standard deviation among the tumours that the model was trained on.{more}</p>'
    return (
        f'<h3>Asked and reached</h3><div class="wide">{_table(edit, shown, unit)}</div>{note}{plot}{details}'
    )


def _table(edit: ReportEdit, names: list[str], unit: str) -> str:
    result = edit.result
    asked, used = result.asked or {}, result.used or {}
    projected = any(_differ(asked[name], used.get(name)) for name in names if name in asked)
    heads = ["Feature", "Before", "Asked", *(["Used"] if projected else []), "Reached", "Difference"]
    rows = ["".join(f"<th>{head}</th>" for head in heads)]
    for name in names:
        before, reached = (result.before or {}).get(name), (result.reached or {}).get(name)
        values = [before, asked.get(name), *([used.get(name)] if projected else []), reached]
        cells = "".join(f"<td>{number(value)}</td>" for value in values)
        rows.append(f"{_name_cell(name, unit)}{cells}{_difference(edit, name)}")
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _name_cell(name: str, unit: str) -> str:
    feature = FEATURES.get(name)
    if feature is None:
        return f"<td>{escape(name)}</td>"
    shown = unit_of(name, unit)
    small = f" <small>{escape(shown)}</small>" if shown and shown not in ("1", "-") else ""
    return f'<td title="{escape(feature.meaning)}">{escape(_label(name))}{small}</td>'


def _label(name: str) -> str:
    feature = FEATURES.get(name)
    if feature is None:
        return name
    words = re.sub(
        r"(?<=[a-z])(?=[A-Z]|\d[A-Z])|(?<=\d)(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", feature.short
    )
    return f"{_CLASS_TITLES.get(feature.cls, feature.cls)} · {words}"


def _difference(edit: ReportEdit, name: str) -> str:
    asked, reached = (edit.result.asked or {}).get(name), (edit.result.reached or {}).get(name)
    if asked is None or reached is None:
        return "<td>–</td>"
    sigma = _sigma(edit, name)
    if sigma is not None:
        miss = (reached - asked) / sigma
        return _grade(abs(miss), f"{signed(miss)} σ")
    return (
        f"<td>{signed(100 * (reached - asked) / abs(asked), 1)} %</td>"
        if asked
        else f"<td>{number(reached)}</td>"
    )


def _grade(miss: float, text: str) -> str:
    return f'<td class="{"good" if miss <= GOOD else "fair" if miss <= FAIR else "off"}">{text}</td>'


def _misses(edit: ReportEdit) -> list[float]:
    """|reached − asked| / σ of each asked feature that was measured."""
    reached, misses = edit.result.reached or {}, []
    for name, asked in (edit.result.asked or {}).items():
        sigma = _sigma(edit, name)
        if sigma is not None and reached.get(name) is not None:
            misses.append(abs(reached[name] - asked) / sigma)
    return misses


def _sigma(edit: ReportEdit, name: str) -> float | None:
    """Standard deviation of a feature, the editor's or else the population's; None where it doesn't vary."""
    sigma = (getattr(edit.result, "spread", None) or {}).get(name)
    if sigma is None and _values(edit.population, name) is not None:
        sigma = float(_values(edit.population, name).std())
    return sigma if sigma is not None and np.isfinite(sigma) and sigma > 1e-12 else None


def _values(population: Any, name: str) -> np.ndarray | None:
    """(n,) values of a feature in the population, or None."""
    if population is None or name not in population.names:
        return None
    return np.asarray(population.values, dtype=np.float64)[:, list(population.names).index(name)]


def _plot(edit: ReportEdit, names: list[str]) -> str:
    rows = []
    for name in names:
        values, sigma = _values(edit.population, name), _sigma(edit, name)
        asked, reached = edit.result.asked.get(name), (edit.result.reached or {}).get(name)
        if values is not None and sigma is not None and asked is not None and reached is not None:
            mean = float(values.mean())
            rows.append((_label(name), (asked - mean) / sigma, (reached - mean) / sigma))
    if not rows:
        return ""
    key = '<span class="key asked"></span>asked<span class="key reached"></span>reached'
    caption = f'<p class="note">{key} &nbsp; in σ from the mean of the training tumours</p>'
    return f"<h3>Against the training tumours</h3>{caption}{bars(rows)}"


def _ordered(features: Mapping[str, float], asked: Mapping[str, float]) -> list[str]:
    """Asked before others, drivers before derived ones, then as in the feature table."""
    drivers = {name for name, _ in DRIVERS.values()}
    place = {name: i for i, name in enumerate(FEATURES)}
    return sorted(features, key=lambda n: (n not in asked, n not in drivers, place.get(n, len(place)), n))


def _warnings(result: Any) -> str:
    items = "".join(f"<li>{escape(str(text))}</li>" for text in result.warnings or ())
    return f'<ul class="warnings" role="note">{items}</ul>' if items else ""


def _provenance(result: Any) -> str:
    timing = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in (result.timing or {}).items())
    text = json.dumps(result.provenance or {}, indent=1, ensure_ascii=False, default=str)
    time = f'<p class="soft">{escape(timing)}</p>' if timing else ""
    return f"<details><summary>Provenance and timing</summary>{time}<pre>{escape(text)}</pre></details>"


def _seconds(timing: Mapping[str, float] | None) -> str:
    if not timing:
        return "–"
    return f"{timing.get('total', sum(timing.values())):.1f} s"


def _differ(asked: float, used: float | None) -> bool:
    return used is not None and abs(used - asked) > 1e-6 * max(1.0, abs(asked))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "edit"

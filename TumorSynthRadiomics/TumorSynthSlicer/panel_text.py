"""Words and numbers as the panel shows them."""

import math
import re

from slicer.i18n import tr as _


def number(value) -> str:
    """Four significant digits without an exponent where that is readable."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -3 <= magnitude < 6:
        return f"{value:.2e}"
    text = "{:.{}f}".format(value, max(0, 3 - magnitude))
    return text.rstrip("0").rstrip(".") if "." in text else text


def decimals(spread: float, value: float = 0.0) -> int:
    """Decimals of a spin box that shows a value with four digits, among values that differ by about `spread`."""
    if not (spread > 0 and math.isfinite(spread)):
        return 3
    coarse = 3 - math.floor(math.log10(spread))
    fine = 3 - math.floor(math.log10(abs(value))) if value else coarse
    return min(8, max(0, coarse, min(fine, coarse + 3)))


def withUnit(value, unit: str) -> str:
    return f"{number(value)} {unit}".strip()


def labelWithUnit(row) -> str:
    """A feature's name for a field that shows its number."""
    if not row.unit:
        return row.label
    return f"{row.label}, {row.unit}" if row.label.endswith(")") else f"{row.label} ({row.unit})"


def size(count: float) -> str:
    """Bytes, in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return _("{count} bytes").format(count=int(count))


def duration(seconds: float) -> str:
    if seconds < 1:
        return _("less than a second")
    if seconds < 90:
        return _("{seconds} s").format(seconds=round(seconds))
    return _("{minutes} min").format(minutes=round(seconds / 60))


def device(name: str) -> str:
    """A device as a user calls it."""
    return {"cpu": _("processor"), "cuda": _("graphics card"), "mps": _("graphics card")}.get(name, name)


def percentile(value) -> str:
    """A percentile in words that fit a narrow column."""
    if value is None:
        return ""
    if value < 1:
        return "< 1 %"
    if value > 99:
        return "> 99 %"
    return f"{value:.0f} %"


def deviation(value) -> str:
    """Standard deviations with their sign, but for zero."""
    if value is None:
        return ""
    rounded = round(value, 1)
    return f"{rounded:+.1f} σ" if rounded else "0.0 σ"


def stage(name: str) -> str:
    """What is being done, for one of `api.STAGES`."""
    return {
        "transfer": _("Handing over the volume"),
        "start": _("Starting the engine"),
        "prepare": _("Looking at the region"),
        "model": _("Loading the model"),
        "shape": _("Making the shape"),
        "mass effect": _("Moving the tissue around"),
        "texture": _("Generating tissue"),
        "solve": _("Refining the features"),
        "measure": _("Measuring"),
        "step": _("Next volume of the series"),
        "receive": _("Taking over the result"),
    }.get(name, name)


def state(status: str) -> str:
    """Where a model is."""
    return {
        "bundled": _("built in"),
        "installed": _("installed"),
        "available": _("can be installed"),
        "damaged": _("damaged"),
    }.get(status, status)


def sentence(text: str) -> str:
    """A message with a capital and a full stop; the engine's have neither."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) or not text else ".")


def sentences(lines) -> str:
    """Messages, one a line."""
    return "\n".join(sentence(line) for line in lines)


# The engine's messages name features as pyradiomics does, and options as the command line does.

NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
#: After a feature's name: one value, or the one that was reached or asked and the other one; not numbers in sigma.
VALUES = (
    rf"(?P<verb> (?:is|was)(?: taken to)?)? (?P<first>{NUMBER})(?! ?σ)"
    rf"(?:(?P<link>, not | instead of | → | does not go together with the rest of the request: )(?P<second>{NUMBER}))?"
)
ROOT = {
    "firstorder_Variance": "original_firstorder_StandardDeviation"
}  # which the panel shows in place of the square


def plain(text: str, rows) -> str:
    """A message of the engine in the panel's words: features by their labels and units, controls in place of options.

    :param rows: all `FeatureRow` of the model.
    """
    for pattern, words in _options():
        text = re.sub(pattern, words, text)
    names = _names(rows)
    if not names:
        return text
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.sub(
        rf"\b(?:original_)?(?P<name>{known})\b(?:{VALUES})?", lambda found: _shown(found, names), text
    )


def _options() -> tuple:
    """(pattern, what the panel says instead)."""
    pattern, tissue = _("Keep the tumour's own pattern: 0 %"), _("choose where under Take tissue from")
    nearest = _("Nearest place where it fits")
    return (
        (r"\(strength 1\)", f"({pattern})"),
        (r"name tissue by --lend", tissue),
        (r", or name the one that may change \(--inside\)", ""),
        (r"--nearest takes it", f"{nearest} takes it"),
        (r": give a larger margin to --mass-effect", ""),
        (r"with --strict", _("as nothing around it may change,")),
        (
            r"[,;:]? (?:or )?(?:choose one with|if not, say|say) --modality(?: if the tag is wrong| to be sure)?",
            "",
        ),
        (r" \(--(?:model|modality|region)\)", ""),
        (r" \(intensity_sd [^)]*\)", ""),  # which the panel shows in place of the variance
    )


def _names(rows) -> dict:
    """Row by each name that the engine may use: with its class, and of a shape's features alone, too."""
    byName = {row.name: row for row in rows}
    found = {row.name.removeprefix("original_"): row for row in rows}
    found |= {name.removeprefix("shape_"): row for name, row in found.items() if row.cls == "shape"}
    found |= {name: byName[root] for name, root in ROOT.items() if root in byName}
    return found


def _shown(found, names) -> str:
    """A name and the values after it, as the panel shows them."""
    row = names[found["name"]]
    if found["first"] is None:
        return row.label
    first, second = (_value(found, part, row) for part in ("first", "second"))
    unit = f" {row.unit}" if row.unit else ""
    text = f"{row.label}{found['verb'] or ''} {first}"
    return f"{text}{found['link']}{second}{unit}" if second else text + unit


def _value(found, part: str, row) -> str:
    if found[part] is None:
        return ""
    value = float(found[part])
    return number(math.sqrt(max(0.0, value)) if found["name"] in ROOT else value / row.factor)


def _around(plan, ml: float) -> str:
    """How much around the tumour changed, and how far from it; `ml` is of one voxel."""
    if not plan["zone_voxels"]:
        return _("Nothing outside the outline changed")
    volume = number(float(f"{plan['zone_voxels'] * ml:.2g}"))
    if plan.get("reach_mm") is None:  # an earlier version's
        return _("{volume} ml around the outline changed, too").format(volume=volume)
    text = _("{volume} ml around the outline changed, too, up to {reach} mm from it")
    return text.format(volume=volume, reach=number(plan["reach_mm"]))


def drawn(outcome) -> list:
    """Where the result is, what drew it, and how far around the tumour voxels could change."""
    plan, lines = outcome.provenance.get("plan") or {}, []
    donor = (outcome.provenance.get("request") or {}).get("donor")
    engines = {
        "bridge": _("Drawn by the model's network"),
        "exemplar": {
            "remove": _("Made of the image's own tissue"),
            "insert": _("Made of a real tumour"),
        }.get(
            outcome.edit, _("Made of the donor's tissue") if donor else _("Made of the tumour's own pattern")
        ),
    }
    stages = {
        "own": _("as it was"),
        "level kept": _("adjusted, its mean intensity kept"),
        "level free": _("adjusted, its mean intensity, too"),
        "voxels": _("adjusted, single voxels, too"),
    }
    if plan.get("engine") in engines:
        parts = [engines[plan["engine"]], stages.get(plan.get("stage", ""))]
        lines.append(", ".join(part for part in parts if part))
    if outcome.volumeNode is not None and plan.get("zone_voxels") is not None:
        lines.append(_around(plan, math.prod(outcome.volumeNode.GetSpacing()) / 1000.0))
    if outcome.sequenceNodes:
        lines.append(
            _("The volumes are in the sequence {name}").format(name=outcome.sequenceNodes[0].GetName())
        )
    elif outcome.volumeNode is not None and outcome.volumeNode.GetName():
        lines.append(_("The result is in {name}").format(name=outcome.volumeNode.GetName()))
    return lines

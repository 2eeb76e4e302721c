"""Words and numbers as the panel shows them."""

import math

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
        "step": _("Beginning the next step"),
        "receive": _("Taking over the result"),
    }.get(name, name)


def edit(name: str) -> str:
    """The name of an edit."""
    return {
        "measure": _("Measure"),
        "remove": _("Remove"),
        "synthesize": _("Synthesize"),
        "retexture": _("Texture"),
        "reshape": _("Shape"),
        "move": _("Move"),
        "insert": _("Insert"),
        "series": _("Series"),
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


def drawn(outcome) -> list:
    """Where the result is, what drew it, and how far around the tumour voxels could change."""
    plan, lines = outcome.provenance.get("plan") or {}, []
    engines = {
        "bridge": _("Drawn by the model's network"),
        "exemplar": _("Made of the image's own tissue")
        if outcome.edit == "remove"
        else _("Made of the tumour's own pattern"),
    }
    if plan.get("engine") in engines:
        lines.append(engines[plan["engine"]])
    if plan.get("zone_voxels"):
        lines.append(_("{count} voxels around the outline changed, too").format(count=plan["zone_voxels"]))
    if outcome.volumeNode is not None and outcome.volumeNode.GetName():
        lines.append(_("The result is in {name}").format(name=outcome.volumeNode.GetName()))
    return lines

"""A series: one feature of a tumour takes several values, everything else stays as near as it can.

All steps share the seed and the region that the model sees, so that the same random numbers lie at the same places and
neighbouring steps look alike. A series of a shape feature changes the tumour's own form, as `reshape` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from TumorSynthLib.edit.features import INTENSITIES
from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.table import FEATURES, resolve

if TYPE_CHECKING:
    from TumorSynthLib.edit.result import EditResult

MAX_STEPS = 64
MEAN = "original_firstorder_Mean"
#: Features that fix the level of the intensities; a series of another one keeps the tumour's mean.
LEVELS = {f"original_firstorder_{name}" for name in (*INTENSITIES, "RootMeanSquared")}
SAME = 1e-9


def checked(feature: str, values: Sequence[float | str]) -> str:
    """Full name of the feature, after a check of it and of the number of values.

    :raises InputError: no or too many values, or one that is neither a number nor a multiple such as 0.5x.
    """
    name = resolve(feature)[0]
    if not 1 <= len(values) <= MAX_STEPS:
        raise InputError(f"a series has 1 to {MAX_STEPS} values, not {len(values)}")
    for value in values:
        _number(value)
    return name


def absolute(feature: str, values: Sequence[float | str], own: Mapping[str, float]) -> list[float]:
    """The values as numbers in the feature's unit as named; "0.5x" is half the tumour's own.

    :param own: the tumour's features by full names.
    """
    name, factor = resolve(feature)
    if FEATURES[name].short == "StandardDeviation":
        mine = math.sqrt(max(own["original_firstorder_Variance"], 0.0))
    else:
        mine = own.get(name)
    result = []
    for value in values:
        number, relative = _number(value)
        if relative and (mine is None or not math.isfinite(mine)):
            raise InputError(f"the tumour has no {feature} of its own to multiply: give plain numbers")
        result.append(number * mine / factor if relative else number)
    return result


def _number(value: float | str) -> tuple[float, bool]:
    """The number, and whether it multiplies the tumour's own value."""
    text = str(value).strip().lower()
    relative = text.endswith(("x", "×"))
    try:
        number = float(text.rstrip("x×"))
    except ValueError:
        raise InputError(
            f"{value} is no value of a series: give a number, or a multiple such as 0.5x"
        ) from None
    if not math.isfinite(number):
        raise InputError(f"{value} is no value of a series: give a finite number")
    return number, relative


def step_features(
    name: str, feature: str, value: float, features: Mapping[str, float], mean: float
) -> dict[str, float]:
    """What one step of a texture series asks for: the value, what the request fixes, and else the tumour's mean intensity."""
    fixed = {given: v for given, v in features.items() if resolve(given)[0] != name}
    levels = LEVELS | {resolve("mean_intensity")[0]}
    if name not in levels and not any(resolve(given)[0] in levels for given in fixed):
        fixed[MEAN] = mean
    return {**fixed, feature: value}


def table(feature: str, results: Sequence[EditResult]) -> list[dict[str, Any]]:
    """One row a step: value, and all features that were measured in it."""
    rows = []
    for result in results:
        entry = result.provenance["series"]
        rows.append({"step": entry["step"], feature: entry["value"], **result.reached})
    return rows


def table_text(feature: str, results: Sequence[EditResult]) -> str:
    """The table as CSV."""
    rows = table(feature, results)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names)]
    lines += [",".join(_cell(row.get(name)) for name in names) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)

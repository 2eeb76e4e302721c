"""Features files, as `tumorsynth extract --json` prints them: read, and whether an edit measures as they were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.numeric import is_finite
from TumorSynthLib.small_files import read_small

MAX_BYTES = 16 * 2**20  # all features of one tumour take 6 kB


def read_features(path: str | Path) -> dict[str, float]:
    """Features file: {"features": {name: value}, …}, or the inner object.

    :raises InputError: missing, not JSON, or not names and numbers.
    """
    data = _parsed(path)
    inner = data.get("features", data) if isinstance(data, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get("asked"), dict):  # the sidecar of an edit
        inner = inner["asked"]
    if not isinstance(inner, dict) or not inner:
        raise InputError(f'{path} holds no features: expected {{"features": {{NAME: VALUE, …}}}}')
    inner = {name: value for name, value in inner.items() if value is not None}  # null: could not be measured
    for name, value in inner.items():
        if not is_finite(value):
            raise InputError(f"{path}: the value of {name} is {str(value)[:40]!r}, expected a number")
    return inner


def _parsed(path: str | Path) -> Any:
    data = read_small(path, MAX_BYTES, "a features file, as `tumorsynth extract --json` prints it")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        hint = "give what `tumorsynth extract --json` prints"
        raise InputError(f"the features file {path} is not JSON ({error}): {hint}") from None


def measured_otherwise(path: str | Path | None, editor, volume, request) -> list[str]:
    """A warning where a file tells that its features were measured in another way than the edit measures: the same names then
    have other values.

    :raises InputError: the file's settings are none.
    """
    from TumorSynthLib.edit.features import split
    from TumorSynthLib.radiomics.settings import Settings

    data = _parsed(path) if path and split(request.features)[0] else {}
    plan = data.get("plan")  # where it is the record of an edit
    told = data.get("settings") or (isinstance(plan, dict) and plan.get("settings"))
    if not told:
        return []
    here = editor.measuring(volume, request.modality)
    try:
        then = Settings.from_dict(told)
    except InputError as error:
        raise InputError(f"the settings in {path}: {error}") from None
    unlike = (then.unlike(here), here.unlike(then))
    theirs, ours = (", ".join(f"{name} {value}" for name, value in one.items()) for one in unlike)
    if not theirs:
        return []
    model = editor.bundle.id if editor.bundle else "none"
    if editor.bundle is not None and data.get("model sha256") == editor.bundle.sha256:
        advice = "that image has another scale of grey levels; name it and its mask by --donor"
    else:
        advice = f"measure with `tumorsynth extract --model {model} --json`"
    return [
        f"the features of {path} were measured with {theirs}, but this edit (--model {model}) measures with {ours}, which "
        f"gives other values: {advice}"
    ]


def with_multiples(multiples: Mapping[str, float] | None, editor, volume, mask, request):
    """The request with features that are asked as multiples of the tumour's own: 0.5 is half of it."""
    from dataclasses import replace

    from TumorSynthLib.series import absolute

    if not multiples:
        return request
    own = editor.own(volume, mask, multiples, request)
    asked = {name: absolute(name, [f"{times}x"], own)[0] for name, times in multiples.items()}
    return replace(request, features={**(request.features or {}), **asked})

"""Numbers that come from files, messages and command lines."""

from __future__ import annotations

import math
from numbers import Real


def is_finite(value: object) -> bool:
    """True for a real number that a float can hold: no bool, no text, no NaN, no infinity, no integer of 400 digits."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except (OverflowError, ValueError):
        return False

"""Which voxels of a labelmap an edit changes, for models that paint several regions one at a time."""

from __future__ import annotations

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.models.bundle import Bundle


def parts(bundle: Bundle, mask: np.ndarray, name: str | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The painted region's mask (K, J, I), and the other regions' by name, which stay as they are.

    :param mask: labelmap with the bundle's labels; a bool mask is the painted region, and nothing is known of others.
    :param name: the painted region; None is all of them together.
    :raises InputError: the labelmap has no such region.
    """
    if len(bundle.regions) == 1 or mask.dtype == bool:
        return mask, {}
    found = {r.name: mask == r.label for r in bundle.regions}
    if name is None:
        return np.logical_or.reduce(list(found.values())), {}
    region = bundle.region(name)
    own = found.pop(region.name)
    if not own.any():
        raise InputError(
            f"the labelmap has no voxel of {region.name} (label {region.label}): choose another region, or draw it first"
        )
    return own, {other: there for other, there in found.items() if there.any()}

"""What the intensities of one modality are: whether they are Hounsfield units, and how a model maps them. Asked here only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .bundle import Bundle

HU = "HU"
ONLY_CT_BELOW = -500.0  # HU: air and lung, which no other modality has


@dataclass(frozen=True)
class Intensity:
    """Intensities of one modality.

    :param is_ct: they are Hounsfield units.
    :param limits: lowest and highest value that the model knows; infinite where it says none.
    :param center, scale: of the map to the range of the model's network; None where it has none.
    """

    is_ct: bool
    limits: tuple[float, float] = (-math.inf, math.inf)
    center: float | None = None
    scale: float | None = None

    @property
    def unit(self) -> str:
        """Unit of the intensities, "HU" or none."""
        return HU if self.is_ct else ""

    @classmethod
    def of(cls, image: np.ndarray | None, modality: str, bundle: Bundle | None = None) -> Intensity:
        """The intensities of a modality.

        :param image: voxels, which tell where no modality does.
        :param modality: one of the bundle's where there is one; "" if it isn't known.
        """
        known = {} if bundle is None else bundle.json["intensity"][modality]
        hounsfield = modality.upper().startswith("CT") or str(known.get("unit", "")).upper() == HU
        if not modality and image is not None:
            hounsfield = float(image.min()) < ONLY_CT_BELOW
        low, high = known.get("range", (-math.inf, math.inf))
        return cls(hounsfield, (float(low), float(high)), known.get("center"), known.get("scale"))

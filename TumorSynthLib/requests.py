"""What an edit is asked for and what it gives back, in one place for those who import it; see the package `edit`."""

from TumorSynthLib.edit.features import INTENSITIES, STEERABLE, resolved, split, steerable, storable
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.edit.result import EditResult, ShapeResult, differences

__all__ = [
    "INTENSITIES", "STEERABLE", "EditRequest", "EditResult", "ShapeResult", "differences", "resolved", "split", "steerable",
    "storable",
]  # fmt: skip

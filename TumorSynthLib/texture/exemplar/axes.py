"""An image's axes in the order that the exemplars work in: the coarsest first, for the slices; the others in LPS order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TumorSynthLib.region import Frame
from TumorSynthLib.volume import Volume


@dataclass(frozen=True)
class Axes:
    """How a file's (K, J, I) arrays are turned.

    :param order: of the LPS axes (z, y, x); `spacing` mm in that order.
    """

    frame: Frame
    order: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, volume: Volume) -> Axes:
        """The axes of an image."""
        frame = Frame.of(volume.direction)
        spacing = [float(s) for s in frame.take(volume.spacing[::-1])]
        first = int(np.argmax(np.round(spacing, 6)))
        order = (first, *(axis for axis in range(3) if axis != first))
        return cls(frame, order, tuple(spacing[axis] for axis in order))

    def view(self, array: np.ndarray) -> np.ndarray:
        """A file's array turned (no copy)."""
        return self.frame.view(array).transpose(self.order)

    def back(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `view` (no copy)."""
        return self.frame.back(array.transpose(np.argsort(self.order)))

    def file_box(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """A turned box as one of the file's array of that shape."""
        inverse = np.argsort(self.order)
        return self.frame.file_box(tuple(box[axis] for axis in inverse), shape)

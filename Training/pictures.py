"""Pictures of an evaluation: what was there, and what each arm made of it."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot


def strip(path: Path, images: dict[str, np.ndarray], mask: np.ndarray, low: float, high: float):
    """One row of the same axial slice, the mask's largest, of several (D, H, W) images at the window [low, high]."""
    z = mask.sum((1, 2)).argmax()
    figure, axes = pyplot.subplots(1, len(images), figsize=(3 * len(images), 3.2), squeeze=False)
    for i, (axis, (title, image)) in enumerate(zip(axes[0], images.items())):
        axis.imshow(image[z], cmap="gray", vmin=low, vmax=high)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
        if i == 0:
            axis.contour(mask[z], [0.5], colors="r", linewidths=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    pyplot.close(figure)

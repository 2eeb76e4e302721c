"""What a network draws too weakly or too strongly, by how fine it is: found on training tumours, put right in every draw.

A network settles on grain that is too coarse or too fine, the same way in nearly every tumour. A few numbers per modality,
the logarithms of what the power of its draws lacks in rings of frequencies, are stored in its bundle (`Training/equalise.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from TumorSynthLib.texture.band import (
    LAGS,
    LEAST,
    SIZE,
    convolved,
    covariances_of,
    grain_of,
    kernel_of,
    power_of,
)

EDGES = (0.0, 0.06, 0.12, 0.18, 0.24, 0.3, 0.36, 0.42, 0.5)  # of the rings, in cycles per voxel in plane
RINGS = len(EDGES) - 1
_FREQUENCY = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))


def spectrum(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logarithm (RINGS,) of the power of grain of array (D, H, W) in the mask, in each ring of frequencies."""
    grain = grain_of(array, mask)
    power = power_of(covariances_of(grain, mask))
    power *= float(grain[mask].var()) / power.mean()
    return np.log(
        [power[(a <= _FREQUENCY) & (b > _FREQUENCY)].mean() + 1e-12 for a, b in zip(EDGES, EDGES[1:])]
    )


def equalised(array: np.ndarray, mask: np.ndarray, lacking: Sequence[float]) -> np.ndarray:
    """array (D, H, W) float32 with other grain in the mask; its mean and standard deviation there stay.

    :param lacking: (RINGS,) logarithm of how much more power there should be in each ring.
    """
    if mask.sum() < LEAST or not any(lacking):
        return array
    grain = grain_of(array, mask)
    middles = [(a + b) / 2 for a, b in zip(EDGES, EDGES[1:])]
    kernel = kernel_of(np.exp(np.interp(_FREQUENCY, middles, lacking) / 2), LAGS)
    other = array[mask] + (convolved(torch.from_numpy(grain), kernel, "constant").numpy() - grain)[mask]
    out = np.array(array, np.float32)
    share = float(array[mask].std()) / max(float(other.std()), 1e-6)
    out[mask] = array[mask].mean() + share * (other - other.mean())
    return out if np.isfinite(out[mask]).all() else array  # squares of huge values overflow

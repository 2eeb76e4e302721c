"""A generated chest CT with a lung tumour, for demonstrations without data. It looks like CT from afar only."""

from __future__ import annotations

import numpy as np

from TumorSynthLib.volume import Volume

SIZE = (40, 200, 240)  # (z, y, x) voxels
SPACING = (1.2, 1.2, 2.5)  # (x, y, z) mm
BODY, FAT, LUNG, AIR, VESSEL, BONE = 40.0, -100.0, -850.0, -1000.0, 30.0, 500.0  # HU
VESSELS = 90
NOISE = 12.0  # HU


def chest(
    seed: int = 0, grain: float = 25.0, level: float = 20.0, radius: float = 14.0
) -> tuple[Volume, np.ndarray]:
    """Chest CT (int16, HU) and the mask (K, J, I) of the tumour in its right lung.

    :param grain: spread of the tumour's intensities (HU); `level`: their mean; `radius`: its size in mm.
    """
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    z, y, x = (c * s for c, s in zip(np.indices(SIZE, dtype=np.float32), SPACING[::-1]))
    centre = np.array([(n - 1) * s / 2 for n, s in zip(SIZE, SPACING[::-1])])
    z, y, x = z - centre[0], y - centre[1], x - centre[2]
    image = np.full(SIZE, AIR, np.float32)
    image[(x / 135) ** 2 + (y / 105) ** 2 < 1] = FAT
    image[(x / 125) ** 2 + (y / 95) ** 2 < 1] = BODY
    lungs = ((np.abs(x) - 58) / 44) ** 2 + (y / 70) ** 2 < 1
    image[lungs] = LUNG
    image[(x / 16) ** 2 + ((y - 72) / 16) ** 2 < 1] = BONE
    image[_vessels(rng, lungs)] = VESSEL
    tumour = _tumour(rng, x + 58, y - 5, z, radius)
    texture = ndimage.gaussian_filter(rng.standard_normal(SIZE), (0.8, 1.6, 1.6))
    texture *= grain / texture[tumour].std()
    image[tumour] = level + texture[tumour]
    image = ndimage.gaussian_filter(image, (0.3, 0.6, 0.6))
    image += ndimage.gaussian_filter(rng.standard_normal(SIZE), (0, 0.6, 0.6)) * NOISE * 2.1
    volume = Volume(np.clip(np.rint(image), -1024, 3071).astype(np.int16), SPACING, tuple(-centre[::-1]))
    return volume, tumour


def _tumour(rng: np.random.Generator, x, y, z, radius: float) -> np.ndarray:
    """A ball with bumps."""
    from scipy import ndimage

    bumps = ndimage.gaussian_filter(rng.standard_normal(SIZE), (2.5, 5, 5))
    bumps *= 0.12 / bumps.std()
    return np.sqrt(x**2 + y**2 + z**2) < radius * (1 + np.clip(bumps, -0.3, 0.3))


def _vessels(rng: np.random.Generator, lungs: np.ndarray) -> np.ndarray:
    """Random walks through the lungs, thick near the middle of the chest."""
    from scipy import ndimage

    result = np.zeros(SIZE, bool)
    for _ in range(VESSELS):
        side = rng.choice([-1, 1])
        place = np.array([rng.uniform(0, SIZE[0]), SIZE[1] / 2 + rng.normal(0, 10), SIZE[2] / 2 + side * 25])
        step = np.array([rng.normal(0, 0.4), rng.normal(0, 1), side * 1.0])
        for _ in range(70):
            step = step + rng.normal(0, 0.2, 3) * (0.5, 1, 1)
            step /= np.linalg.norm(step)
            place = place + step
            index = tuple(np.rint(place).astype(int))
            if all(0 <= i < n for i, n in zip(index, SIZE)):
                result[index] = True
    return ndimage.binary_dilation(result, np.ones((1, 2, 2), bool)) & lungs

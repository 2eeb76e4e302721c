"""Small images and a tiny model for the tests of the editor and of the command line."""

from pathlib import Path

import numpy as np
from scipy import ndimage
from tiny_bundle import tiny_bundle

from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.volume import Volume, write_volume

SHAPE = (20, 40, 44)
SPACING = (1.0, 1.0, 2.0)  # that of the tiny bundle: no resampling
ORIGIN = (-22.0, -20.0, 100.0)
CLASSES = ("firstorder", "glcm")


def texture(rng: np.random.Generator, width: float = 1.0, spread: float = 40.0) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(SHAPE), width)
    return field * spread / field.std()


def ct(seed: int = 0, spread: float = 40.0, spacing=SPACING) -> tuple[Volume, np.ndarray]:
    """Soft tissue with fat and outer air, and a ball of tumour in it; int16 HU."""
    rng = np.random.default_rng(seed)
    image = 40 + texture(rng, 1.5, 10.0)
    image[:, :, 36:] = -100.0
    image[:, :8] = -1000.0
    mask = ball((10, 20, 18), 8.0, SPACING)
    image[mask] = (20 + texture(rng, 1.0, spread))[mask]
    image += rng.normal(0, 5, SHAPE)
    return Volume(np.rint(image).astype(np.int16), spacing, ORIGIN), mask


def ball(centre, radius: float, spacing) -> np.ndarray:
    distance = [(c - m) * s for c, m, s in zip(np.indices(SHAPE), centre, spacing[::-1])]
    return sum(d**2 for d in distance) < radius**2


def model(folder: Path, **changes) -> Bundle:
    """Tiny bundle with a random network, whose population are the tumours of `ct`."""
    rows, settings = [], Settings(binWidth=25)
    for seed in range(30):
        volume, mask = ct(seed, spread=15 + 2.5 * seed)
        array = volume.array + 4 * (seed % 7)
        found = extract(array, mask, SPACING, settings, CLASSES)
        rows.append(found)
    names = tuple(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])
    return tiny_bundle(folder, names=names, values=values, network=True, **changes)


def files(folder: Path) -> tuple[Path, Path]:
    """Image and mask of `ct` on disk."""
    volume, mask = ct()
    image, label = folder / "image.nii.gz", folder / "mask.nii.gz"
    write_volume(volume, image)
    write_volume(volume.with_array(mask.astype(np.uint8)), label)
    return image, label

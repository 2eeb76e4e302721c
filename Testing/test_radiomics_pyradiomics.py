"""Exact features against pyradiomics itself, on random regions and settings."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.extract import CLASSES, extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.radiomics.table import FEATURES

radiomics = pytest.importorskip("radiomics")

KINDS = ("ball", "border", "slice", "tiny", "flat", "sparse", "bulky")
VARIATIONS = (
    {},
    {"distances": (1, 2)},
    {"binCount": 16},
    {"symmetricalGLCM": False},
    {"voxelArrayShift": 1000},
    {"weightingNorm": "euclidean"},
    {"weightingNorm": "no_weighting", "binWidth": 10},
    {"weightingNorm": "manhattan", "symmetricalGLCM": False},
    {"weightingNorm": "infinity"},
    {"gldm_a": 2},
    {"resegmentRange": (-1.5, 1.5), "resegmentMode": "sigma"},
    {"resegmentRange": (0.1,), "resegmentMode": "relative", "resegmentShape": True},
    {"force2D": True},
    {"force2D": True, "force2Ddimension": 2, "distances": (2,)},
    {"normalize": True, "normalizeScale": 100, "removeOutliers": 2.5},
    {"resampledPixelSpacing": (1.5, 1.5, 0), "padDistance": 3},
    {"resampledPixelSpacing": (2.0, 2.0, 2.0), "interpolator": "sitkLinear"},
    {"binWidth": 7.5, "distances": (1, 3)},
)


def random_case(seed: int) -> tuple[sitk.Image, sitk.Image, Settings]:
    """A small image with random spacing, a region of one of `KINDS`, and settings."""
    rng = np.random.default_rng(seed)
    kind, variation = KINDS[seed % len(KINDS)], VARIATIONS[seed % len(VARIATIONS)]
    shape = rng.integers(8, 15, 3)
    field = gaussian_filter(rng.standard_normal(shape), rng.uniform(0.5, 2))
    array = 100 + 60 * field / field.std() + 15 * rng.standard_normal(shape)
    z, y, x = np.indices(shape)
    centre = shape / 2 + rng.uniform(-1, 1, 3)
    radius = sum(
        ((axis - c) / s) ** 2 for axis, c, s in zip((z, y, x), centre, shape / rng.uniform(2.2, 4, 3))
    )
    mask = radius < 1
    if kind == "border":
        mask = np.roll(mask, -int(centre[0]), 0)
        mask[0, 0, :4] = mask[-1, -1, -2:] = True
    elif kind == "slice":
        mask[np.arange(shape[0]) != shape[0] // 2] = False
    elif kind == "tiny":
        mask[:] = False
        mask[2:4, 3:5, 2:5] = rng.random((2, 2, 3)) < 0.6
        mask[2, 3, 2] = mask[3, 4, 4] = True
    elif kind == "flat":
        array[:] = 100
    elif kind == "sparse":
        mask &= rng.random(shape) < 0.3
    dtype = (np.float32, np.int16, np.float64)[seed % 3]
    image = sitk.GetImageFromArray(array.astype(dtype))
    image.SetSpacing(rng.uniform(0.5, 3, 3).round(2).tolist())
    image.SetOrigin(rng.uniform(-50, 50, 3).tolist())
    labels = sitk.GetImageFromArray(mask.astype(np.uint8) * 3)
    labels.CopyInformation(image)
    return image, labels, Settings(label=3, **variation)


def reference(image: sitk.Image, labels: sitk.Image, settings: Settings) -> dict[str, float]:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(60)
    extractor = RadiomicsFeatureExtractor(**settings.to_pyradiomics(), additionalInfo=False)
    extractor.enableFeaturesByName(
        **{cls: [f.short for f in FEATURES.values() if f.cls == cls] for cls in CLASSES}
    )
    return {name: float(value) for name, value in extractor.execute(image, labels).items()}


@pytest.mark.parametrize("seed", range(54))
def test_equals_pyradiomics(seed):
    image, labels, settings = random_case(seed)
    try:
        expected = reference(image, labels, settings)
    except ValueError:  # pyradiomics refuses the region; so must we
        with pytest.raises(InputError):
            extract_image(image, labels, settings)
        return
    except RuntimeError:
        pytest.skip("pyradiomics fails where a distance exceeds the region's box")
    found = extract_image(image, labels, settings, [*CLASSES, "original_firstorder_StandardDeviation"])
    assert set(expected) == set(found)
    wrong = {}
    for name, value in expected.items():
        same = found[name] == pytest.approx(value, rel=1e-4, abs=1e-8, nan_ok=True)
        if not same:
            wrong[name] = (value, found[name])
    assert not wrong

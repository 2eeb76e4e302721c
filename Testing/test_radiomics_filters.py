"""Features of filtered images, and whole parameter files, against pyradiomics itself."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.extract import extract_image
from TumorSynthLib.radiomics.parameters import Parameters

radiomics = pytest.importorskip("radiomics")

CLASSES = {"firstorder": [], "glcm": [], "glszm": ["ZoneEntropy", "SmallAreaEmphasis"]}
ALL_TYPES = {
    "Original": {},
    "LoG": {"sigma": [1.0, 2]},
    "Wavelet": {},
    "Square": {},
    "SquareRoot": {},
    "Logarithm": {},
    "Exponential": {},
    "Gradient": {},
}
VARIATIONS = {
    "all": {"imageType": ALL_TYPES},
    "own settings": {
        "imageType": {"Original": {"binWidth": 10}, "LoG": {"sigma": [1.5], "binCount": 12}, "Wavelet": {"binWidth": 4}}
    },
    "shared options": {"imageType": {"LoG": {}, "Gradient": {}}, "setting": {"sigma": [1.5], "gradientUseSpacing": False}},
    "levels": {"imageType": {"Wavelet": {"level": 2, "start_level": 1, "wavelet": "haar"}}},
    "long wavelet": {"imageType": {"Wavelet": {"wavelet": "db4", "level": 2}}},
    "slices": {"imageType": {"Wavelet": {}, "Square": {}}, "setting": {"force2D": True, "force2Ddimension": 0}},
    "resampled": {"imageType": ALL_TYPES, "setting": {"resampledPixelSpacing": [1.1, 1.1, 2.0], "padDistance": 7}},
    "same spacing": {"imageType": {"Square": {}, "LoG": {"sigma": [1]}}, "setting": {"resampledPixelSpacing": [0, 0, 0]}},
    "cropped": {"imageType": {"Exponential": {}, "Wavelet": {}, "LoG": {"sigma": [2.5]}}, "setting": {"preCrop": True}},
    "normalised": {
        "imageType": {"Original": {}, "Square": {}, "Gradient": {}},
        "setting": {"normalize": True, "normalizeScale": 100, "removeOutliers": 3, "voxelArrayShift": 300},
    },
    "resegmented": {
        "imageType": {"Original": {}, "Logarithm": {}},
        "setting": {"resegmentRange": [-2, 1.5], "resegmentMode": "sigma", "weightingNorm": "euclidean"},
    },
    "too wide": {"imageType": {"Original": {}, "LoG": {"sigma": [500, 1]}}},
}  # fmt: skip


def case(dtype=np.int16, shape=(23, 30, 27)) -> tuple[sitk.Image, sitk.Image]:
    """An image with negative and positive values, odd sizes and a region of label 2 off its centre."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices(shape)
    field = 250 * gaussian_filter(rng.standard_normal(shape), 1.5) + 12 * rng.standard_normal(shape)
    inside = ((z - 10) / 6.2) ** 2 + ((y - 16) / 8) ** 2 + ((x - 9) / 7) ** 2 < 1
    image = sitk.GetImageFromArray((field - 60 + 90 * inside).astype(dtype))
    image.SetSpacing((0.8, 0.8, 1.5))
    image.SetOrigin((10.0, -30.0, 7.0))
    labels = sitk.GetImageFromArray(inside.astype(np.uint8) * 2)
    labels.CopyInformation(image)
    return image, labels


def theirs(content: dict, image: sitk.Image, labels: sitk.Image) -> dict[str, float]:
    """pyradiomics' features for a parameter file's content."""
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(60)
    extractor = RadiomicsFeatureExtractor()
    extractor.loadJSONParams(json.dumps(content))
    found = extractor.execute(image, labels)
    return {name: float(value) for name, value in found.items() if not name.startswith("diagnostics")}


def assert_equal(found: dict[str, float], expected: dict[str, float]) -> None:
    assert set(found) == set(expected)
    wrong = {
        name: (value, found[name])
        for name, value in expected.items()
        if found[name] != pytest.approx(value, rel=1e-4, abs=1e-8, nan_ok=True)
    }
    assert not wrong


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_equals_pyradiomics(variation, dtype):
    image, labels = case(dtype)
    content = {"featureClass": CLASSES, **VARIATIONS[variation]}
    content = {**content, "setting": {"label": 2, **content.get("setting", {})}}
    asked, notes = Parameters.from_dict(content), []
    found = extract_image(image, labels, asked.settings, asked.classes, asked.image_types, notes.append)
    assert_equal(found, theirs(content, image, labels))
    assert any("LoG of 500 mm is left out" in note for note in notes) == (variation == "too wide")


def test_a_large_image_costs_no_more_than_its_region():
    """The region's surroundings are filtered, not the whole image, and the values are the whole image's."""
    image, labels = case(shape=(20, 150, 130))
    content = {
        "featureClass": {"firstorder": []},
        "imageType": {"LoG": {"sigma": [1.0]}, "Wavelet": {"level": 2}, "Gradient": {}},
        "setting": {"label": 2},
    }
    asked = Parameters.from_dict(content)
    found = extract_image(image, labels, asked.settings, asked.classes, asked.image_types)
    assert_equal(found, theirs(content, image, labels))


@pytest.mark.parametrize("crop", ["lidc_ct/val", "sts/val"])
def test_equals_pyradiomics_on_real_tumours(shared_data, crop):
    image_path = min((shared_data / crop).glob("*_CT_image.nii.gz"), key=lambda path: path.stat().st_size)
    image = sitk.ReadImage(str(image_path))
    mask = sitk.ReadImage(str(image_path).replace("_image.", "_mask."))
    content = {"imageType": ALL_TYPES, "setting": {"binWidth": 25, "label": 1}, "featureClass": CLASSES}
    asked = Parameters.from_dict(content)
    found = extract_image(image, mask, asked.settings, asked.classes, asked.image_types)
    assert_equal(found, theirs(content, image, mask))


def test_wavelets_without_their_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pywt", None)
    asked = Parameters.from_dict({"imageType": {"Wavelet": {}}, "setting": {"label": 2}})
    with pytest.raises(InputError, match="pip install PyWavelets"):
        extract_image(*case(), asked.settings, asked.classes, asked.image_types)

"""Extraction: bad input, limits, names, and the feature table."""

import numpy as np
import pytest
import SimpleITK as sitk

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.extract import CLASSES, TEXTURE_CLASSES, extract, extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.radiomics.table import DRIVERS, FEATURES, names, resolve, unit_of

SPACING = (1.0, 1.0, 2.0)


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    array = rng.normal(50, 40, (6, 9, 10)).astype(np.float32)
    mask = np.zeros(array.shape, bool)
    mask[1:5, 2:8, 2:9] = True
    return array, mask


def test_all_features_of_the_table_come_out(case):
    found = extract(*case, SPACING, classes=[*CLASSES, "original_firstorder_StandardDeviation"])
    assert set(found) == set(FEATURES)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())


def test_texture_classes_are_the_74_features(case):
    assert len(extract(*case, SPACING, classes=TEXTURE_CLASSES)) == 74
    assert len(names(*TEXTURE_CLASSES, steered=True)) == 74
    assert len(names("shape", steered=True)) == 17


def test_one_feature_by_name(case):
    found = extract(*case, SPACING, classes=["original_glcm_Contrast"])
    assert list(found) == ["original_glcm_Contrast"]
    assert found["original_glcm_Contrast"] == extract(*case, SPACING)["original_glcm_Contrast"]


def test_outside_of_the_mask_has_no_effect(case):
    array, mask = case
    changed = np.where(mask, array, np.nan)
    assert extract(changed, mask, SPACING) == extract(array, mask, SPACING)


def test_input_is_not_changed(case):
    array, mask = case
    before = array.copy(), mask.copy()
    extract(array, mask, SPACING, Settings(resegmentRange=(0, 80)))
    assert np.array_equal(array, before[0]) and np.array_equal(mask, before[1])


def test_shape_follows_spacing_and_translation(case):
    array, mask = case
    small = extract(array, mask, SPACING, classes=["shape"])
    large = extract(np.pad(array, 3), np.pad(mask, 3), tuple(2 * s for s in SPACING), classes=["shape"])
    assert large["original_shape_MeshVolume"] == pytest.approx(8 * small["original_shape_MeshVolume"])
    assert large["original_shape_Maximum3DDiameter"] == pytest.approx(
        2 * small["original_shape_Maximum3DDiameter"]
    )
    assert large["original_shape_Sphericity"] == pytest.approx(small["original_shape_Sphericity"])


def test_largest_diameters_equal_brute_force():
    rng = np.random.default_rng(5)
    from TumorSynthLib.radiomics.mesh import vertices

    for _ in range(8):
        mask = np.zeros((12, 14, 13), bool)
        mask[1:-1, 1:-1, 1:-1] = rng.random((10, 12, 11)) < rng.uniform(0.02, 0.9)
        spacing = tuple(rng.uniform(0.5, 3, 3))
        found = extract(np.zeros(mask.shape), mask, spacing, classes=["shape"])
        half = vertices(np.pad(mask, 1))
        points = half * np.array(spacing[::-1]) / 2
        table = np.linalg.norm(points[:, None] - points[None], axis=2)
        assert found["original_shape_Maximum3DDiameter"] == pytest.approx(table.max())
        for axis, plane in enumerate(("Slice", "Column", "Row")):
            same = half[:, None, axis] == half[None, :, axis]
            assert found[f"original_shape_Maximum2DDiameter{plane}"] == pytest.approx(table[same].max())


def test_constant_region_has_the_conventional_values(case):
    array, mask = case
    found = extract(np.full_like(array, 7), mask, SPACING)
    expected = {
        "firstorder_Variance": 0,
        "firstorder_Skewness": 0,
        "firstorder_Kurtosis": 0,
        "glcm_Correlation": 1,
        "glcm_MCC": 1,
        "glcm_Imc1": 0,
        "ngtdm_Coarseness": 1e6,
        "ngtdm_Contrast": 0,
        "glszm_ZonePercentage": 1 / mask.sum(),
    }
    for name, value in expected.items():
        assert found[f"original_{name}"] == pytest.approx(value), name


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a, m: (a, np.zeros_like(m)), "empty"),
        (lambda a, m: (a, np.arange(m.size).reshape(m.shape) == 200), "one voxel"),
        (lambda a, m: (np.where(np.arange(a.size).reshape(a.shape) == 245, np.nan, a), m), "not finite"),
        (lambda a, m: (np.where(a > 0, np.inf, a), m), "not finite"),
        (lambda a, m: (a[1:], m), "shape"),
        (lambda a, m: (a[0], m[0]), "3-D"),
        (lambda a, m: (a.astype(complex), m), "type"),
        (lambda a, m: (a * 1e9, m), "binWidth"),
    ],
)
def test_bad_input_is_one_clear_error(case, change, words):
    array, mask = case
    mask[2, 4, 5] = True  # voxel 245
    with pytest.raises(InputError, match=words):
        extract(*change(array, mask), SPACING)


@pytest.mark.parametrize(
    "settings, words",
    [
        (Settings(minimumROIDimensions=3), "minimumROIDimensions"),
        (Settings(minimumROISize=1000), "minimumROISize"),
        (Settings(resegmentRange=(9000, 9001)), "resegmentRange"),
    ],
)
def test_region_refused_by_settings(case, settings, words):
    array, mask = case
    mask[:2] = mask[3:] = False
    with pytest.raises(InputError, match=words):
        extract(array, mask, SPACING, settings)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, float("nan"))])
def test_bad_spacing(case, spacing):
    with pytest.raises(InputError, match="Spacing"):
        extract(*case, spacing)


def test_unknown_class(case):
    with pytest.raises(InputError, match="glcmm"):
        extract(*case, SPACING, classes=["glcmm"])


def test_image_and_mask_must_fit(case):
    array, mask = case
    image = sitk.GetImageFromArray(array)
    labels = sitk.GetImageFromArray(mask.astype(np.uint8) * 2)
    with pytest.raises(InputError, match=r"Labels there: \[2\]"):
        extract_image(image, labels)
    with pytest.raises(InputError, match="shape"):
        extract_image(image, mask[1:])
    shifted = sitk.GetImageFromArray(mask.astype(np.uint8))
    shifted.SetOrigin((0.5, 0, 0))
    with pytest.raises(InputError, match="different grids"):
        extract_image(image, shifted)
    shifted.SetOrigin((500, 0, 0))
    with pytest.raises(InputError, match="out of the image"):
        extract_image(image, shifted, Settings(resampledPixelSpacing=(2, 2, 2)))
    with pytest.raises(InputError, match="interpolator"):
        extract_image(image, mask, Settings(resampledPixelSpacing=(2, 2, 2), interpolator="cubic"))
    assert extract_image(image, mask) == extract(array, mask, (1.0, 1.0, 1.0))


def test_drivers_resolve_to_the_table():
    for alias, (name, factor) in DRIVERS.items():
        assert resolve(alias) == (name, factor)
        assert FEATURES[name].role == "driver"
    assert resolve("glcm_Contrast") == resolve("original_glcm_Contrast") == ("original_glcm_Contrast", 1.0)
    assert resolve("volume_ml") == ("original_shape_MeshVolume", 1000.0)


@pytest.mark.parametrize(
    "typed, hint",
    [
        ("volume", "volume_ml"),
        ("original_glcm_Contrat", "original_glcm_Contrast"),
        ("Sphericty", "phericity"),
    ],
)
def test_unknown_feature_names_the_closest(typed, hint):
    with pytest.raises(InputError, match=hint):
        resolve(typed)


def test_table_rows_are_complete():
    assert {cls: len(names(cls)) for cls in CLASSES} == {
        "shape": 17,
        "firstorder": 19,
        "glcm": 24,
        "glrlm": 16,
        "glszm": 16,
        "gldm": 14,
        "ngtdm": 5,
    }
    for feature in FEATURES.values():
        assert feature.meaning.endswith(".") and feature.unit
        assert feature.size == {0: "free", 1: "grows", -1: "shrinks"}[np.sign(feature.growth)]
    assert unit_of("original_firstorder_Variance", "HU") == "HU²"
    assert unit_of("original_shape_MeshVolume", "HU") == "mm³"
    assert unit_of("original_glcm_Contrast", "HU") == unit_of("original_glrlm_LowGrayLevelRunEmphasis") == "1"


def test_size_dependence_of_the_table_holds():
    """Texture features of one random texture in a small and a large region, against the table's exponents."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    found, voxels = [], []
    for scale in (1, 2):
        grid = np.meshgrid(*(np.linspace(-1, 1, scale * n) for n in (16, 20, 24)), indexing="ij")
        mask = sum(axis**2 for axis in grid) < 1
        field = gaussian_filter(rng.standard_normal([n + 16 for n in mask.shape]), 1.2)[8:-8, 8:-8, 8:-8]
        array = 100 + 800 * field + 15 * rng.standard_normal(mask.shape)
        found.append(extract(array, mask, (1, 1, 1)))
        voxels.append(mask.sum())
    steps = np.log(voxels[1] / voxels[0])
    for name, value in found[0].items():
        if FEATURES[name].size == "free":
            continue
        growth = np.log(found[1][name] / value) / steps
        zones = name.startswith("original_glszm")  # one draw each: a few large zones decide
        assert growth == pytest.approx(FEATURES[name].growth, abs=0.5 if zones else 0.25), name


@pytest.mark.parametrize(
    "values, settings, words",
    [
        ((0.0, 1.0), Settings(), "one grey level"),
        ((0.0005, 0.003), Settings(), "one grey level"),
        ((-3.0, 3.0), Settings(), "2 grey levels"),
        ((7, 7), Settings(), "one value"),
        ((7, 7), Settings(binCount=8), "one value"),
        ((0.0, 1.0), Settings(binWidth=0.04), None),
        ((0.0, 1.0), Settings(binCount=2), None),
        ((0, 300), Settings(), None),
    ],
)
def test_few_grey_levels_are_said(values, settings, words):
    rng = np.random.default_rng(0)
    array = rng.uniform(*values, (6, 7, 8)) if values[0] != values[1] else np.full((6, 7, 8), values[0])
    said = []
    extract(array, np.ones(array.shape, bool), (1, 1, 1), settings, ("firstorder", "glcm"), said.append)
    assert [words in text for text in said] == ([True] if words else [])

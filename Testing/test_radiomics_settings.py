"""Extraction settings: files, errors, round trip."""

import json
import os

import pytest

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.parameter_file import MAX_BYTES, parse
from TumorSynthLib.radiomics.parameters import Parameters
from TumorSynthLib.radiomics.settings import INTERPOLATORS, Settings

PARAMETERS = """
# An example with everything that pyradiomics' own examples use
imageType:
  Original: {}
featureClass:
  shape:
  firstorder: []
  glcm:
    - 'Contrast'   # only one
setting:
  normalize: true
  normalizeScale: 100
  resampledPixelSpacing: [1, 1.5, 0]
  interpolator: 'sitkBSpline'
  binWidth: 12.5
  resegmentRange:
    - -3
    - 3
  resegmentMode: sigma
  weightingNorm: null
  label: 2
  additionalInfo: False
"""


def test_reads_yaml(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMETERS)
    found = Parameters.from_file(path)
    assert found.classes[-1] == "original_glcm_Contrast" and len(found.classes) == 14 + 18 + 1
    assert found.label == 2
    assert [kind.name for kind in found.image_types] == ["Original"]
    assert found.settings == Settings(
        normalize=True,
        normalizeScale=100,
        resampledPixelSpacing=(1, 1.5, 0),
        binWidth=12.5,
        resegmentRange=(-3, 3),
        resegmentMode="sigma",
        label=2,
    )


def test_reads_json(tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"setting": {"binCount": 32}}))
    assert Parameters.from_file(path).settings == Settings(binCount=32)


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(binCount=16, distances=(1, 2)), Settings(resampledPixelSpacing=(1, 1, 3), label=4)],
)
def test_round_trip(settings, tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(settings.to_pyradiomics()))
    assert Parameters.from_file(path).settings == settings


@pytest.mark.parametrize("start", ["", "---\n", "\ufeff", "# first\n\n"])
@pytest.mark.parametrize(
    "text",
    [
        "imageType:\n  LoG: {sigma: [1.0, 3], binWidth: 10}\nsetting: {binWidth: 20, label: 3}\n",
        "imageType:\n  LoG:\n    sigma:\n    - 1.0\n    - 3\n    binWidth: 10\nsetting:\n  binWidth: 20\n  label: 3",
        "imageType: {LoG: {'sigma': [1.0,\n  3], # two\n  binWidth: 10}}\nsetting:\n    binWidth: 20\n    'label': 3\n",
        '{"imageType": {"LoG": {"sigma": [1.0, 3], "binWidth": 10}}, "setting": {"binWidth": 20, "label": 3}}',
        "{imageType: {LoG: {sigma: [1.0, 3],\n  binWidth: 10}}, setting: {binWidth: 20, label: 3}}\n",
    ],
)
def test_reads_any_form(tmp_path, start, text):
    path = tmp_path / "params.yaml"
    path.write_text(start + text, encoding="utf-8")
    found = Parameters.from_file(path)
    (kind,) = found.image_types
    assert (kind.name, kind.options["sigma"], kind.settings.binWidth) == ("LoG", [1.0, 3], 10)
    assert found.settings == Settings(binWidth=20, label=3) and found.label == 3


@pytest.mark.parametrize(
    "content", [{"imageType": {"Original": {}}}, {"featureClass": {"firstorder": None}}, {}]
)
def test_settings_may_be_missing(content):
    found = Parameters.from_dict(content)
    assert found.settings == Settings() and found.label is None


@pytest.mark.parametrize("name", ["infinity", "nan", "inf", "1_000", "0x10", "1.2.3", "--1", "1e"])
def test_only_numbers_are_numbers(name):
    assert parse(f"setting:\n  weightingNorm: {name}\n", "it") == {"setting": {"weightingNorm": name}}


@pytest.mark.parametrize(
    "text, value", [("20", 20), ("-3", -3), ("2e1", 20.0), (".5", 0.5), ("1.", 1.0), ("+1.5E-3", 0.0015)]
)
def test_numbers(text, value):
    found = parse(f"a: {text}", "it")["a"]
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize("number, name", list(enumerate(INTERPOLATORS, 1)))
def test_interpolators_by_number(number, name):
    assert Settings(interpolator=number).interpolator == name


@pytest.mark.parametrize(
    "content, words",
    [
        ({"imageType": {"LBP3D": {}, "Original": {}}}, "LBP3D is left out"),
        ({"imageType": {"LoG": {}}}, "needs 'sigma'"),
        ({"imageType": {"Square": {"resampledPixelSpacing": [1, 1, 1]}}}, "no effect"),
        ({"featureClass": {"shape2D": []}}, "shape2D is left out"),
        ({"setting": {"force2D": True}}, "shape2D is left out"),
        ({"featureClass": {"glcm": ["Contrast", "Homogeneity1"]}}, "Homogeneity1 is left out"),
    ],
)
def test_says_what_is_left_out(content, words):
    (note,) = Parameters.from_dict(content).notes
    assert words in note


@pytest.mark.parametrize(
    "content, words",
    [
        ({"imageTypes": {}, "setting": {}}, "imageTypes"),
        ({"imageType": {"Wavelets": {}}}, "Did you mean Wavelet"),
        ({"imageType": {"Wavelet": {"level": 0}}}, "level"),
        ({"imageType": {"LoG": {"sigma": [0]}}}, "sigma"),
        ({"imageType": {"Square": {"label": 2}}}, "label"),
        ({"imageType": {"Square": {"binwidth": 2}}}, "binWidth"),
        ({"imageType": {"Square": {"binWidth": -2}}}, "binWidth"),
        ({"imageType": ["Square"]}, "mapping"),
        ({"featureClass": {"glcm": ["Kontrast"]}}, "Did you mean Contrast"),
        ({"featureClass": {"glcmx": None}}, "glcmx"),
        ({"featureClass": {"glcm": "Contrast"}}, "list of features"),
    ],
)
def test_refuses_parameters(content, words):
    with pytest.raises(InputError, match=words):
        Parameters.from_dict(content)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"binwidth": 25}, "binWidth"),
        ({"binWidth": 0}, "binWidth"),
        ({"binWidth": "wide"}, "binWidth"),
        ({"binWidth": float("nan")}, "binWidth"),
        ({"binCount": 0}, "binCount"),
        ({"resampledPixelSpacing": [1, 1]}, "resampledPixelSpacing"),
        ({"resampledPixelSpacing": "fine"}, "resampledPixelSpacing"),
        ({"resegmentRange": [1, 2, 3]}, "resegmentRange"),
        ({"resegmentMode": "most"}, "resegmentMode"),
        ({"weightingNorm": "euclid"}, "weightingNorm"),
        ({"distances": []}, "distances"),
        ({"distances": [0]}, "distances"),
        ({"label": 1.5}, "label"),
        ({"label": 0}, "label"),
        ({"interpolator": 11}, "interpolator"),
        ({"interpolator": ["sitkLinear"]}, "interpolator"),
        ({"interpolator": "sitkUInt8"}, "interpolator"),
        ({"binWidth": 10**400}, "binWidth"),
        ({"binCount": 10**9}, "binCount"),
        ({"distances": [10**9]}, "distances"),
        ({"padDistance": 10**400}, "padDistance"),
        ({"normalize": "maybe"}, "normalize"),
        ({"imageType": {"LoG": {"sigma": [1]}}}, "original images only"),
        ({"gldm_a": -1}, "gldm_a"),
        ({"setting": [1]}, "mapping"),
    ],
)
def test_refuses(values, words):
    with pytest.raises(InputError, match=words):
        Settings.from_dict(values)


@pytest.mark.parametrize(
    "text, words",
    [
        ("setting:\n  binWidth 25", "line 2"),
        ("setting:\n\tbinWidth: 25", "tabs"),
        ('{"setting": ', "isn't closed"),
        ("setting:\n  distances: [1,\n  2", "line 2"),
        ("setting:\n  distances: [1, 2]]", "line 2"),
        ("setting:\n  binWidth: 20\n  binWidth: 25", "line 3.*twice"),
        ('{"setting": {"binWidth": 20, "binWidth": 25}}', "twice"),
        ('{"setting": {"binWidth": ' + "9" * 5000 + "}}", "binWidth"),
        ("{setting: {binWidth: 20} extra", "isn't closed"),
        ("{setting: {binWidth: 20}} extra", "line 1.*follows"),
        ("setting:\n  binWidth: " + "[" * 500 + "]" * 500, "nested"),
        ("{" * 100_000, "isn't closed"),
        ("{" * 1000 + "}" * 1000, "expected 'name: value'"),
        ("- 1", "no settings"),
        ("setting:\n  binCount: 032", "line 2.*octal"),
        ("setting:\n  binWidth: 20\n---\nsetting:\n  binCount: 5", "line 3.*second document"),
    ],
)
def test_bad_file_names_the_place(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        Parameters.from_file(path)


@pytest.mark.parametrize("make", ["nothing", "folder", "fifo", "large", "latin"])
def test_no_plain_file(tmp_path, make):
    path = tmp_path / "params.yaml"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "large":
        path.write_bytes(b" " * (MAX_BYTES + 1))
    elif make == "latin":
        path.write_bytes("setting:\n  name: Tumörgröße".encode("latin-1"))
    with pytest.raises(InputError, match="params.yaml"):
        Parameters.from_file(path)


def test_written_settings_work_in_pyradiomics():
    extractor = pytest.importorskip("radiomics.featureextractor")
    made = extractor.RadiomicsFeatureExtractor(
        **Settings(binCount=8, weightingNorm="manhattan").to_pyradiomics()
    )
    assert made.settings["binCount"] == 8
    assert made.settings["weightingNorm"] == "manhattan"

"""Extraction settings: files, errors, round trip."""

import json

import pytest

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.settings import Settings

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
    assert Settings.from_file(path) == Settings(
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
    assert Settings.from_file(path) == Settings(binCount=32)


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(binCount=16, distances=(1, 2)), Settings(resampledPixelSpacing=(1, 1, 3), label=4)],
)
def test_round_trip(settings, tmp_path):
    path = tmp_path / "params.json"
    path.write_text(settings.to_json())
    assert Settings.from_file(path) == settings


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
        ('{"setting": ', "JSON"),
        ("setting:\n  distances: [1,\n  2]", "line 2"),
        ("- 1", "no settings"),
    ],
)
def test_bad_file_names_the_place(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        Settings.from_file(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Settings.from_file(tmp_path / "nowhere.yaml")


def test_written_settings_work_in_pyradiomics():
    extractor = pytest.importorskip("radiomics.featureextractor")
    made = extractor.RadiomicsFeatureExtractor(
        **Settings(binCount=8, weightingNorm="manhattan").to_pyradiomics()
    )
    assert made.settings["binCount"] == 8
    assert made.settings["weightingNorm"] == "manhattan"

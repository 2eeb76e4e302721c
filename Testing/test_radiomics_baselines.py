"""Exact features against the published baselines of pyradiomics' five test cases."""

import ast
import csv
import functools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TumorSynthLib.radiomics.extract import CLASSES, extract_image
from TumorSynthLib.radiomics.settings import Settings

CASES = ("brain1", "brain2", "breast1", "lung1", "lung2")
VARIANTS = ("", "_FBN", "_combined", "_flatRegion", "_resegmentation", "_2d")
WHOLE_IMAGE = ("_normalization", "_resampling")  # the lungs are cropped here, so theirs don't apply
COLUMNS = [case + variant for case in CASES for variant in VARIANTS] + [
    case + variant for case in CASES[:3] for variant in WHOLE_IMAGE
]
# pyradiomics itself differs from its file here: the mesh changed after the file was written.
STALE = {
    "brain1": (
        "MeshVolume",
        "SurfaceArea",
        "Sphericity",
        "SurfaceVolumeRatio",
        "Compactness1",
        "Compactness2",
        "SphericalDisproportion",
    )
}


@functools.lru_cache(maxsize=None)
def baseline(folder: Path, cls: str) -> dict[str, dict[str, str]]:
    with open(folder / "baseline" / f"baseline_{cls}.csv", newline="") as stream:
        rows = {row["featureName"]: row for row in csv.DictReader(stream)}
    columns = {}
    for name, row in rows.items():
        for column, value in row.items():
            if column != "featureName" and value:
                columns.setdefault(column, {})[name] = value
    return columns


@pytest.mark.parametrize("column", COLUMNS)
def test_features_equal_published_baseline(shared_data, column):
    folder = shared_data / "pyradiomics"
    case = column.split("_")[0]
    image = sitk.ReadImage(str(folder / f"{case}_image.nrrd"))
    mask = sitk.ReadImage(str(folder / f"{case}_label.nrrd"))
    compared = 0
    for cls in CLASSES:
        expected = dict(baseline(folder, cls).get(column, {}))
        if not expected or (cls == "shape" and column.endswith("_2d")):
            continue
        settings = Settings.from_dict(ast.literal_eval(expected["diagnostics_Configuration_Settings"]))
        wanted = {n: float(v) for n, v in expected.items() if n.startswith("original_")}
        found = extract_image(image, mask, settings, [cls, *wanted])
        for name, value in wanted.items():
            short = name.split("_")[-1]
            if cls == "shape" and short in STALE.get(case, ()):
                continue
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-8), name
            compared += 1
    if not compared:
        pytest.skip("no baseline for this case and setting")
    assert np.isfinite(list(found.values())).all()

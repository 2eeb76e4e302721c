"""The figure of feature coverage is small enough for a repository."""

import sys
from pathlib import Path

import numpy as np
import pytest

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

pytest.importorskip("matplotlib")
coverage = pytest.importorskip("coverage")
table = pytest.importorskip("TumorSynthLib.radiomics.table")


@pytest.mark.parametrize("only", [None, "firstorder"])
def test_the_figure_has_a_panel_per_class_and_few_bytes(only, tmp_path):
    from PIL import Image

    kinds = ("firstorder", "glcm", "glrlm", "glszm")
    names = [n for n in table.FEATURES if coverage.klass(n) in ([only] if only else kinds)]
    values = np.random.default_rng(0).normal(0, 2, (60, len(names)))
    path = tmp_path / "figure.png"
    coverage.figure(path, names, "CT", values, np.repeat(list(coverage.KINDS), 20))
    with Image.open(path) as image:
        assert image.mode == "P" and image.width <= 900 and len(image.getcolors()) > 4
    assert path.stat().st_size < 60_000

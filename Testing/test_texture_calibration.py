"""Draws given the moments that were asked for."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_texture import ball

from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture.calibration import STRETCH, Moments, calibrated
from TumorSynthLib.texture.context import IntensityMap

FIRST = "original_firstorder_"
CONTRAST = "original_glcm_Contrast"


def draw(shape=(8, 24, 24), seed=0, smooth=0.7):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return torch.from_numpy((0.4 * field / field.std()).astype(np.float32))[None, None]


@pytest.mark.parametrize("mean, variance", [(60.0, 400.0), (60.0, None), (None, 400.0), (None, None)])
def test_mean_and_variance_are_as_asked_and_the_rest_stays(mean, variance):
    intensity, hole, x = (
        IntensityMap(20.0, 100.0),
        torch.from_numpy(ball((8, 24, 24), 7.0))[None, None],
        draw(),
    )
    before, out = intensity.inverse(x)[hole], calibrated(x, hole, intensity, Moments(mean, variance))
    inside = intensity.inverse(out)[hole]
    assert torch.equal(out[~hole], x[~hole])
    assert float(inside.mean()) == pytest.approx(float(before.mean()) if mean is None else mean, abs=0.05)
    wanted = float(before.var(unbiased=False)) if variance is None else variance
    assert float(inside.var(unbiased=False)) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("contrast", [4.0, 5.0, 7.5])
def test_neighbours_differ_as_asked(contrast):
    """GLCM contrast as extracted, of a draw whose own contrast is another."""
    intensity, mask = IntensityMap(20.0, 100.0), ball((8, 24, 24), 9.0)
    hole = torch.from_numpy(mask)[None, None]
    asked = Moments.asked({FIRST + "Mean": 40.0, FIRST + "Variance": 3600.0, CONTRAST: contrast}, 25.0)
    out = intensity.inverse(calibrated(draw(smooth=0.85), hole, intensity, asked))[0, 0].numpy()
    found = extract(out, mask, (1.0, 1.0, 1.0), Settings(binWidth=25.0), (FIRST + "Variance", CONTRAST))
    assert found[FIRST + "Variance"] == pytest.approx(3600.0, rel=0.01)
    assert found[CONTRAST] == pytest.approx(contrast, rel=0.03)


def test_percentiles_are_as_asked():
    wanted = {"Minimum": -90.0, "10Percentile": -40.0, "Median": 0.0, "90Percentile": 110.0, "Maximum": 260.0}
    intensity, hole = IntensityMap(20.0, 100.0), torch.from_numpy(ball((8, 24, 24), 9.0))[None, None]
    asked = Moments.asked({FIRST + n: v for n, v in wanted.items()}, 25.0)
    inside = intensity.inverse(calibrated(draw(), hole, intensity, asked))[hole]
    for share, value in zip((0, 0.1, 0.5, 0.9, 1), wanted.values()):
        assert float(inside.quantile(share)) == pytest.approx(value, abs=6.0)


def test_order_of_voxels_stays_where_only_percentiles_are_asked():
    intensity, hole, x = (
        IntensityMap(20.0, 100.0),
        torch.from_numpy(ball((8, 24, 24), 9.0))[None, None],
        draw(),
    )
    out = calibrated(x, hole, intensity, Moments(anchors=((0.1, -300.0), (0.5, 10.0), (0.9, 20.0))))
    assert torch.equal(out[hole].argsort(stable=True), x[hole].argsort(stable=True))


def test_a_flat_draw_is_not_blown_up():
    intensity, hole = IntensityMap(0.0, 100.0), torch.ones(1, 1, 8, 24, 24, dtype=torch.bool)
    x = 1e-3 * draw()
    inside = intensity.inverse(calibrated(x, hole, intensity, Moments(variance=1e6)))
    assert float(inside.std()) < 1.01 * STRETCH * float(intensity.inverse(x).std())


def test_contrast_is_free_where_bins_are_counted():
    assert Moments.asked({CONTRAST: 3.0}, None) == Moments()


def test_one_voxel_and_a_constant_draw_stay_finite():
    intensity, hole = IntensityMap(0.0, 100.0), torch.zeros(1, 1, 4, 8, 8, dtype=torch.bool)
    hole[0, 0, 2, 4, 4] = True
    asked = Moments(30.0, 100.0, 50.0, ((0.1, 0.0), (0.9, 60.0)))
    for mask in (hole, ~hole):
        assert bool(calibrated(torch.zeros(1, 1, 4, 8, 8), mask, intensity, asked).isfinite().all())

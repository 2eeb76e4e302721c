"""Grain of a drawn tumour: no finer than the image's, along the same axis, and nothing outside the mask touched."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture import solver
from TumorSynthLib.texture.band import Band, convolved
from TumorSynthLib.texture.painter import Painter

CONTRAST = "original_glcm_Contrast"
VALUES = (
    "original_firstorder_Mean",
    "original_firstorder_Variance",
    "original_glcm_Correlation",
    "original_glcm_Idm",
)


def blurred(shape, sigma, seed=0, deviation=30.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (100 + deviation * noise / noise.std()).astype(np.float32)


def ball(shape, radius):
    z, y, x = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return (2 * z) ** 2 + y**2 + x**2 < radius**2


@pytest.fixture(scope="module")
def scan():
    """Image (12, 48, 48) with nothing fine in it, and a mask in its middle."""
    image = blurred((12, 48, 48), (0, 1.0, 1.0))
    return image, ball(image.shape, 12)


def spread_of(band, image, where):
    return convolved(torch.from_numpy(image), band.kernel).numpy()[where].std()


def test_a_voxel_follows_from_its_neighbours(scan):
    image, mask = scan
    band = Band.around(image, mask)
    assert band.kernel.sum() == pytest.approx(0, abs=1e-4)  # a flat image follows from itself
    assert band.level < 0.1 * image.std()
    assert spread_of(band, image, mask) == pytest.approx(band.level, rel=0.15)


def test_what_fits_stays_as_it_is(scan):
    image, mask = scan
    image = np.where(mask, 0.97 * image, image)  # not a voxel too many
    band = Band.around(image, ball(image.shape, 14))
    assert np.array_equal(band.held(image, ball(image.shape, 6)), image)


@pytest.mark.parametrize("seed", [1, 2])
def test_drawn_grain_is_held_to_the_images_and_the_rest_stays(scan, seed):
    image, mask = scan
    other = blurred(image.shape, (0, 1.0, 1.0), seed) + np.random.default_rng(seed).normal(0, 5, image.shape)
    drawn = np.where(mask, other, image).astype(np.float32)
    band = Band.around(image, mask)
    held = band.held(drawn, mask)
    border = ndimage.binary_dilation(mask, np.ones((1, 3, 3))) & ~ndimage.binary_erosion(
        mask, np.ones((1, 3, 3))
    )
    for where in (mask, border):
        assert spread_of(band, drawn, where) > 4 * band.level
        assert spread_of(band, held, where) == pytest.approx(band.level, rel=0.25)
    assert np.array_equal(held[~mask], image[~mask])
    inner = ball(image.shape, 8)
    assert np.corrcoef(held[inner], drawn[inner])[0, 1] > 0.9


def test_another_level_than_around_is_no_grain(scan):
    """A drawn tumour keeps its mean, however far that is from the tissue around it."""
    image, mask = scan
    drawn = np.where(mask, image + 800, image)
    held = Band.around(image, mask).held(drawn, mask)
    assert held[mask].mean() == pytest.approx(drawn[mask].mean(), abs=1)
    assert not np.array_equal(held, drawn)


def test_what_loses_grain_keeps_its_standard_deviation(scan):
    """First-order features, and with them most others, hang on it."""
    image, mask = scan
    drawn = np.where(mask, image / 2 + np.random.default_rng(0).normal(0, 8, image.shape), image).astype(
        np.float32
    )
    held = Band.around(image, mask).held(drawn, mask)
    assert held[mask].std() == pytest.approx(drawn[mask].std(), rel=0.06)
    assert held[mask].mean() == pytest.approx(drawn[mask].mean(), abs=0.5)


def test_values_whose_squares_overflow_stay_numbers(scan):
    """A model without a range of intensities can draw anything."""
    image, mask = scan
    drawn = np.where(mask, -1e25 * (1 + np.random.default_rng(0).random(image.shape)), image).astype(
        np.float32
    )
    band = Band.around(image, mask)
    with np.errstate(all="ignore"):
        assert np.array_equal(band.held(band.oriented(drawn, mask), mask), drawn)


def test_grain_runs_as_it_does_around():
    image, mask = blurred((12, 48, 48), (0, 0.5, 1.5)), ball((12, 48, 48), 12)
    drawn = np.where(mask, blurred(image.shape, (0, 1.5, 0.5), 1), image)
    turned = Band.around(image, mask).oriented(drawn, mask)

    def along(x, axis):
        moved = np.roll(x, 1, axis)
        inner = ndimage.binary_erosion(mask, np.ones((1, 3, 3)))
        return np.corrcoef(x[inner], moved[inner])[0, 1]

    assert along(drawn, 1) - along(drawn, 2) > 0.3
    assert along(turned, 2) - along(turned, 1) > 0.05
    assert np.array_equal(turned[~mask], drawn[~mask])
    assert turned[mask].std() == pytest.approx(drawn[mask].std(), rel=0.1)


def test_grain_without_a_direction_stays():
    image, mask = blurred((12, 48, 48), (0, 1, 1)), ball((12, 48, 48), 12)
    drawn = np.where(mask, blurred(image.shape, (0, 1, 1), 1), image)
    turned = Band.around(image, mask).oriented(drawn, mask)
    assert np.corrcoef(turned[mask], drawn[mask])[0, 1] > 0.97


def test_too_little_around_teaches_nothing():
    image = blurred((2, 12, 12), (0, 1, 1))
    assert Band.around(image, np.ones(image.shape, bool)) is None
    assert Band.around(image, ball(image.shape, 4), np.zeros(image.shape, bool)) is None
    mask = ball((12, 48, 48), 12)
    assert Band.around(np.where(mask, blurred(mask.shape, (0, 1, 1)), 0), mask) is None  # nothing around it


def test_the_solver_reaches_what_is_asked_within_the_band(scan):
    image, mask = scan
    drawn = np.where(mask, blurred(image.shape, (0, 1.0, 1.0), 3), image)
    band, settings = Band.around(image, mask), Settings(binWidth=10.0)
    drawn = band.held(drawn, mask)
    asked = extract(blurred(image.shape, (0, 0.9, 0.9), 4), mask, (1, 1, 2), settings, ("firstorder", "glcm"))
    asked = {k: asked[k] for k in (*VALUES, CONTRAST)}
    found = {}
    for name, held_to in (("free", None), ("held", band)):
        result = solver.solve(
            drawn, mask, asked, settings=settings, spacing=(1, 1, 2), band=held_to, integer=False
        )
        assert result.reached[CONTRAST] == pytest.approx(asked[CONTRAST], rel=0.05)
        found[name] = spread_of(band, result.array, mask) / band.level
    assert found["held"] < 1.1 < 1.2 < found["free"]


@pytest.mark.parametrize("asked, spread, missed, free_missed, made, kept", [
    (20, 1, 0.2, 0.0, ["held", "touched"], "held"), (20, 1, 1.0, 0.1, ["held", "free", "touched"], "free"),
    (20, 1, 1.0, 1.2, ["held", "free", "touched"], "held"), (20, 1, 0.3, 0.2, ["held", "touched"], "held"),
    (20, 300, 6.0, 0.1, ["held", "free", "touched"], "free"), (20, 300, 1.0, 0.1, ["held", "touched"], "held"),
])  # fmt: skip
def test_what_is_missed_within_the_band_is_solved_without_it(
    monkeypatch, asked, spread, missed, free_missed, made, kept
):
    """The nearer of the two is kept, what was reached isn't solved twice, and a tenth of the value is a miss, too. Touches,
    which here halve a miss, are given once: to what is kept, or at once where they may bring it near."""
    done = []

    def solve(self, job, sample, asked, in_band=True):
        done.append("held" if in_band else "free")
        off = missed if in_band else free_missed
        return SimpleNamespace(native=done[-1], reached={CONTRAST: job.used[CONTRAST] + off})

    def touched(self, job, sample, solved):
        done.append("touched")
        return SimpleNamespace(
            native=solved.native, reached={CONTRAST: (solved.reached[CONTRAST] + job.used[CONTRAST]) / 2}
        )

    monkeypatch.setattr(Painter, "_solve", solve)
    monkeypatch.setattr(Painter, "_touched", touched)
    monkeypatch.setattr(Painter, "spread", lambda self, modality: {CONTRAST: spread})
    clock = SimpleNamespace(stage=lambda name: nullcontext())
    region = SimpleNamespace(mask=np.ones(1, bool))
    job = SimpleNamespace(clock=clock, implied={}, used={CONTRAST: asked}, modality="CT", region=region)
    assert Painter(None, "cpu")._solved(job, None, None) == kept
    assert done == made


@pytest.mark.parametrize("far", [False, True])
def test_far_requests_begin_and_end_looser_and_take_more_steps(scan, monkeypatch, far):
    image, mask = scan
    settings, begun = Settings(binWidth=10.0), []
    own = extract(image, mask, (1, 1, 2), settings, ("firstorder", "glcm"))
    asked = {k: own[k] for k in VALUES} | {CONTRAST: own[CONTRAST] * (4 if far else 1.05)}
    monkeypatch.setattr(solver, "SPLIT_VOXELS", int(mask.sum()))
    monkeypatch.setattr(
        solver._Solver, "refine", lambda s, values: begun.append((s.slack, s.loosest, s.iterations)) or values
    )
    solver.solve(
        image, mask, asked, settings=settings, spacing=(1, 1, 2), band=Band.around(image, mask), integer=False
    )
    assert begun == [(solver.LOOSE, solver.LOOSEST, 150) if far else (1.0, solver.FINISHED, 60)]

"""Made-up tumours: where they lie, what they change, and how far they spread over feature space."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1] / "Training")
)  # the scripts are run, not installed

procedural = pytest.importorskip("procedural")
prepare = pytest.importorskip("prepare")
coverage = pytest.importorskip("coverage")
common = pytest.importorskip("common")

SPACING = (1.0, 1.0, 2.0)
LEVELS = procedural.Levels((100.0, 30.0), (3.0, 0.3), (-1000.0, 2000.0), -500.0)
SHAPE = (16, 40, 40)


def ball(centre=(8, 20, 20), radius=9.0) -> np.ndarray:
    return sum(((c - m) * s) ** 2 for c, m, s in zip(np.indices(SHAPE), centre, SPACING[::-1])) < radius**2


def healthy(seed=0) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).normal(40, 10, SHAPE))


def test_only_the_mask_changes_and_intensities_stay_in_their_limits():
    image, mask = healthy(), ball()
    limits = procedural.Levels((100.0, 300.0), (6.0, 0.3), (0.0, 150.0), -500.0)
    for seed in range(8):
        made = procedural.procedural(image, mask, SPACING, limits, np.random.default_rng(seed))
        assert np.array_equal(made[~mask], image[~mask]) and (made != image)[mask].mean() > 0.5
        assert made[mask].min() >= 0 and made[mask].max() <= 150 and np.array_equal(made, np.rint(made))


def test_levels_and_contrasts_spread_over_three_deviations():
    image, mask = healthy(), ball()
    inside = ball(radius=5.0)
    made = [procedural.procedural(image, mask, SPACING, LEVELS, np.random.default_rng(s)) for s in range(120)]
    means = np.array([m[inside].mean() for m in made])
    spreads = np.log([m[inside].std() for m in made])
    assert means.min() < 100 - 2.5 * 30 and means.max() > 100 + 2.5 * 30
    assert spreads.min() < 3 - 2 * 0.3 and spreads.max() > 3 + 2 * 0.3


def test_patterns_differ_in_coarseness_core_and_edge():
    mask = ball()
    rngs = [np.random.default_rng(s) for s in range(60)]
    flat = np.zeros(SHAPE)
    made = [procedural.procedural(flat, mask, SPACING, LEVELS, r) for r in rngs]
    step = [np.abs(np.diff(m, axis=2))[mask[..., 1:] & mask[..., :-1]].mean() / m[mask].std() for m in made]
    assert min(step) < 0.25 and max(step) > 0.9  # smooth ones and noise
    core, rim = ball(radius=3.0), mask & ~ball(radius=7.5)
    contrast = [abs(m[core].mean() - m[rim].mean()) / m[mask].std() for m in made]
    assert min(contrast) < 0.3 and max(contrast) > 1.5


def test_masks_are_placed_in_tissue():
    allowed = np.ones(SHAPE, bool)
    allowed[..., 24:] = False
    for seed in range(20):
        mask = procedural.placed(ball(radius=6.0), allowed, np.random.default_rng(seed))
        assert mask is None or (mask.sum() >= procedural.SMALLEST and not (mask & ~allowed).any())
    assert mask is not None
    nowhere = np.zeros(SHAPE, bool)
    assert procedural.placed(ball(), nowhere, np.random.default_rng(0)) is None


def test_large_masks_are_made_to_fit_and_small_ones_keep_their_size():
    large = np.zeros((60, 200, 200), bool)
    large[10:50, 40:180, 60:160] = True
    small = procedural.fitted(large, SHAPE)
    extent = np.argwhere(small).max(0) - np.argwhere(small).min(0) + 1
    assert (extent <= np.array(SHAPE)).all() and extent.tolist() == pytest.approx([9, 32, 23], abs=2)
    assert procedural.fitted(ball((5, 12, 30), 6.0), SHAPE).sum() == ball(radius=6.0).sum()


def test_air_is_no_place_for_a_tumour():
    lung = np.concatenate([np.full(800, -850.0), np.full(200, 40.0)])
    soft = np.concatenate([np.full(800, 40.0), np.full(200, -1000.0)])
    mr = np.concatenate([np.zeros(900), np.full(100, 500.0)])
    assert -1000 < procedural.air_level(lung, ct=True) < -850 < procedural.air_level(soft, ct=True) < 0
    assert 0 < procedural.air_level(mr, ct=False) < 100
    image = np.where(np.indices(SHAPE)[2] < 20, 40.0, -1000.0)
    there = procedural.tissue(image, procedural.air_level(soft, ct=True))
    assert there[..., :19].all() and not there[..., 22:].any()


@pytest.fixture(scope="module")
def prepared(shared_data, tmp_path_factory) -> Path:
    """Eight real nodules, two made-up ones in each healthy crop."""
    out = tmp_path_factory.mktemp("prepared")
    arguments = [
        "lidc",
        "--data",
        shared_data / "lidc_ct/train",
        "--out",
        out,
        "--limit",
        8,
        "--procedural",
        2,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", *map(str, arguments), "--varied", "1"])
        prepare.main()
    return out


def test_procedural_crops_carry_their_features_and_spare_real_tumours(prepared):
    data = common.Prepared(prepared)
    kinds = np.array([r["kind"] for r in data.rows])
    made = np.flatnonzero(kinds == "procedural")
    assert len(made) > 20
    settings = prepare.Settings(binWidth=25)
    images = {data.images[i].tobytes() for i in np.flatnonzero(kinds == "context")}
    for i in made[:4]:
        mask = (data.labels[i] & prepare.FULL) > 0
        found = prepare.extract(
            data.images[i].astype(np.float32), mask, tuple(data.meta["spacing"]), settings, prepare.CLASSES
        )
        np.testing.assert_allclose(data.features[i], [found[n] for n in data.meta["names"]], rtol=1e-9)
        assert data.images[i].tobytes() not in images
    for i in np.flatnonzero(kinds == "context"):
        same = [j for j in made if data.rows[j]["id"] == data.rows[i]["id"]]
        spared = (data.labels[i] & prepare.TUMOUR) > 0
        near = [j for j in same if (data.images[j] == data.images[i]).mean() > 0.5]
        assert all(not ((data.labels[j] & prepare.FULL) > 0)[spared].any() for j in near)


def test_coverage_of_the_prepared_crops(prepared, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["--data", prepared, "--out", tmp_path / "figure.png", "--json", tmp_path / "shares.json"]
    monkeypatch.setattr(sys, "argv", ["coverage.py", *map(str, arguments)])
    coverage.main()
    shares = json.loads((tmp_path / "shares.json").read_text())["CT"]
    assert shares["real"]["crops"] == 16 and (tmp_path / "figure.png").stat().st_size > 10_000
    assert shares["procedural"]["firstorder"]["3"] > shares["real"]["firstorder"]["3"]
    assert "procedural" in capsys.readouterr().out


def test_coverage_counts_only_sides_that_a_feature_can_reach():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (500, 2)), rng.uniform(-4, 4, (500, 2))])
    real = np.arange(1000) < 500
    names = ["original_firstorder_Mean", "original_firstorder_Skewness"]
    values, limits = coverage.deviations(features, real, names)
    assert coverage.share(values[~real], limits, 3.0) == 1 and coverage.share(values[real], limits, 3.0) == 0
    bounded = np.array([[-1.0, -np.inf], [np.inf, np.inf]])
    half = values[~real] * [1, 0.5]
    half[:, 0] = np.maximum(half[:, 0], -1)
    assert coverage.share(half, bounded, 3.0) == pytest.approx(1 / 3)

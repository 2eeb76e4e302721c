"""Differentiable features: the exact ones in the limit, with right gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from TumorSynthLib.radiomics import differentiable as d  # noqa: E402
from TumorSynthLib.radiomics.extract import extract  # noqa: E402
from TumorSynthLib.radiomics.settings import Settings  # noqa: E402
from TumorSynthLib.texture import surrogate  # noqa: E402

SPACING = (1.0, 1.5, 3.0)


@pytest.fixture(scope="module")
def ball():
    """A ball of 7 levels at binWidth 10, as integers (n,), with its box and mask."""
    z, y, x = np.indices((7, 11, 12))
    mask = (z - 3) ** 2 / 9 + (y - 5) ** 2 / 25 + (x - 5.5) ** 2 / 30 <= 1
    array = np.random.default_rng(0).integers(3, 72, mask.shape).astype(np.int16)
    return array, mask


@pytest.fixture(scope="module")
def exact(ball):
    return extract(*ball, SPACING, Settings(binWidth=10), ("firstorder", "glcm", "glrlm", "glszm"))


def _level(array, mask):
    values = array[mask]
    return torch.from_numpy(values // 10 - values.min() // 10).long()


def test_hard_glcm_features_are_exact(ball, exact):
    paths = d.lines(ball[1])
    level = _level(*ball)
    features = d.glcm_features(d.hard_glcm(level, paths, int(level.max()) + 1), mcc=True)
    assert {f"original_glcm_{name}" for name in features} == {n for n in exact if "_glcm_" in n}
    for name, value in features.items():
        assert float(value.mean()) == pytest.approx(exact[f"original_glcm_{name}"], rel=1e-6), name


def test_sharp_soft_features_tend_to_the_exact_ones(ball, exact):
    paths = d.lines(ball[1])
    level = _level(*ball)
    u = (
        level.double()
        + 0.5
        + 0.3 * torch.rand(len(level), generator=torch.Generator().manual_seed(1)).double()
    )
    soft = {s: d.glcm_features(d.soft_glcm(u, paths, int(level.max()) + 1, s)) for s in (1.0, 50.0)}
    error = {s: abs(float(f["Contrast"].mean()) - exact["original_glcm_Contrast"]) for s, f in soft.items()}
    assert error[1.0] > 1e-3
    for name, value in soft[50.0].items():
        assert float(value.mean()) == pytest.approx(exact[f"original_glcm_{name}"], rel=1e-6), name


def test_firstorder_features_are_exact(ball, exact):
    values = torch.from_numpy(ball[0][ball[1]].astype(float))
    level = _level(*ball)
    share = torch.bincount(level).double() / len(level)
    features = d.firstorder_features(values, share, voxel_volume=float(np.prod(SPACING)))
    for name in d.FIRSTORDER_FEATURES:
        assert float(features[name]) == pytest.approx(exact[f"original_firstorder_{name}"], rel=1e-6), name
    assert torch.allclose(d.soft_histogram(level + 0.5, len(share)).double(), share, atol=1e-6)


def test_runs_and_zones_are_exact(ball, exact):
    paths, level = d.lines(ball[1]), _level(*ball)
    levels = int(level.max()) + 1
    runs = surrogate.run_counts(level, paths, levels).double()
    for name, value in d.size_features(runs, torch.arange(1.0, runs.shape[2] + 1), len(level)).items():
        assert float(value.mean()) == pytest.approx(exact[f"original_glrlm_{name}"], rel=1e-6), name
    counts, sizes = surrogate.zone_counts(level, surrogate.zone_size(level, paths), levels)
    for name, value in d.zone_names(d.size_features(counts, sizes, len(level))).items():
        assert float(value.mean()) == pytest.approx(exact[f"original_glszm_{name}"], rel=1e-6), name


def test_windows_give_runs():
    """Changing window counts by those of a real change gives the runs of the changed levels."""
    mask = np.ones((1, 1, 9), bool)
    paths = d.lines(mask)
    before, after = torch.tensor([0, 1, 1, 1, 0, 1, 0, 1, 1]), torch.tensor([0, 1, 0, 0, 0, 1, 1, 1, 0])

    def windows(level):
        u = level * 5.0  # different levels are further apart than one bin
        return surrogate.soft_windows(u, level, paths, 2)

    change = surrogate.window_changes_to_runs(windows(after) - windows(before), 3)
    singles = torch.tensor([int((after == k).sum() - (before == k).sum()) for k in (0, 1)])
    change[0, :, 0] += singles
    expected = (
        surrogate.run_counts(after, paths, 2)[:, :, :3] - surrogate.run_counts(before, paths, 2)[:, :, :3]
    )
    assert torch.equal(change.round().long(), expected)


def test_pair_counts_pass_gradcheck():
    mask = np.ones((2, 3, 3), bool)
    mask[0, 0, 0] = False
    paths = d.lines(mask)
    u = (
        0.7 + 3.6 * torch.rand(17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: d.soft_glcm(x, paths, 5), u, eps=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda x: torch.stack([v.mean() for v in d.glcm_features(d.soft_glcm(x, paths, 5), mcc=True).values()]), u,
        eps=1e-6, atol=1e-4,
    )  # fmt: skip


def test_descent_reaches_a_contrast(ball):
    paths, level = d.lines(ball[1]), _level(*ball)
    u = (level + 0.5).float().requires_grad_()
    optimiser = torch.optim.Adam([u], 0.1)
    start = None
    for _ in range(30):
        contrast = d.glcm_features(d.soft_glcm(u, paths, 7))["Contrast"].mean()
        start = start or float(contrast.detach())
        optimiser.zero_grad()
        (contrast - 2.0).square().backward()
        optimiser.step()
    assert start > 4
    assert abs(float(contrast.detach()) - 2.0) < 0.2


def test_one_level_and_one_line_don_t_fail():
    mask = np.zeros((1, 1, 4), bool)
    mask[0, 0, :3] = True
    paths = d.lines(mask)
    assert paths.order.shape == (1, 3)
    u = torch.full((3,), 0.5, requires_grad=True)
    features = d.glcm_features(d.soft_glcm(u, paths, 1), mcc=True)
    sum(v.sum() for v in features.values()).backward()
    assert float(features["JointEnergy"].detach()) == 1 and torch.isfinite(u.grad).all()

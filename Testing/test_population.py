"""The feature population: distances, completion, and the projection of impossible requests."""

import numpy as np
import pytest

from TumorSynthLib.errors import InputError
from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.identities import broken, relations
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.settings import Settings

FO, GLCM = "original_firstorder_", "original_glcm_"


def _tumour(seed: int) -> dict[str, float]:
    """Features of a random textured box: mean, spread, correlation and skewness vary."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((8, 14, 14)), rng.uniform(0.3, 2.0))
    field = (field - field.mean()) / field.std()
    array = np.rint(
        rng.uniform(100, 400) + rng.uniform(20, 120) * np.sinh(rng.uniform(0.2, 1.0) * field)
    ).astype(np.int16)
    mask = np.zeros(array.shape, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    return extract(array, mask, (1.0, 1.0, 1.0), Settings(), ("firstorder", "glcm", "glrlm", "glszm"))


@pytest.fixture(scope="module")
def tumours():
    return [_tumour(seed) for seed in range(30)]


@pytest.fixture(scope="module")
def population(tumours):
    names = tuple(tumours[0])
    return Population(
        names, np.array([[t[n] for n in names] for t in tumours]), tuple(f"case{k}" for k in range(30))
    )


def test_real_features_break_no_relation(tumours):
    rules = relations(voxels=6 * 12 * 12, voxel_volume=1.0)
    for tumour in tumours:
        assert broken(tumour, rules) == []
    assert broken(tumours[0] | {FO + "Mean": 1e4}, rules)


def test_statistics(population):
    column = population.values[:, population.names.index(FO + "Mean")]
    assert population.percentile(FO + "Mean", np.median(column)) == pytest.approx(50, abs=2)
    assert population.percentile(FO + "Mean", column.max() + 1) == 100
    assert population.quantiles(FO + "Mean", (0, 100)) == (column.min(), column.max())
    assert population.covariance.shape == (len(population.names),) * 2
    assert np.linalg.eigvalsh(population.covariance).min() > -1e-6 * population.std.max() ** 2


def test_distance_tells_own_from_foreign(population, tumours):
    assert population.nearest(tumours[7], 2)[0] == ("case7", 0.0)
    new = _tumour(100)
    strange = new | {GLCM + "Correlation": -0.6, FO + "Entropy": 0.3}
    assert population.distance(strange) > 1.3 * population.distance(new)
    assert population.distance_percentile(strange) == 100
    # Judged by the others, the cases' own distances are like a new case's, not like one that shaped the covariance.
    own = population._own_distances(tuple(range(len(population.names))))
    fresh = [population.distance(_tumour(seed)) for seed in range(200, 212)]
    assert 0.6 < np.median(own) / np.median(fresh) < 1.6


def test_leave_one_out_is_that(population):
    """The shortcut equals leaving the case out, with the shrinkage weight of all cases."""
    from TumorSynthLib.radiomics.population import _leave_one_out, _ledoit_wolf

    z = population.gaussian[:, :5]
    n, f = z.shape
    shrunk, weight = _ledoit_wolf(z)
    rest = np.delete(z, 3, 0)
    covariance = (1 - weight) * np.cov(rest.T, bias=True) + weight * np.trace(shrunk) / f * np.eye(f)
    away = z[3] - rest.mean(0)
    assert _leave_one_out(z)[3] == pytest.approx(
        np.sqrt(away @ np.linalg.solve(covariance, away) / f), rel=1e-6
    )


def test_a_real_request_is_not_changed(population, tumours):
    for tumour in tumours[:4]:
        feasible = population.project(tumour)
        assert feasible.changed == {} and feasible.broken == ()
        assert feasible.features == pytest.approx(tumour)


def test_completion_is_nearer_than_the_mean(population):
    asked = [
        FO + "Mean",
        FO + "Variance",
        FO + "Skewness",
        FO + "Entropy",
        GLCM + "Contrast",
        GLCM + "Correlation",
    ]
    rules, unit = relations(), population.std
    completed, middle = [], []
    for seed in range(50, 58):
        tumour = _tumour(seed)
        feasible = population.project({name: tumour[name] for name in asked})
        assert broken(feasible.features, rules) == []
        for name in asked:
            assert feasible.features[name] == pytest.approx(tumour[name], rel=1e-3)
        truth = np.array([tumour[n] for n in population.names])
        completed.append(np.median(np.abs([feasible.features[n] for n in population.names] - truth) / unit))
        middle.append(np.median(np.abs(population.mean - truth) / unit))
    assert np.mean(completed) < 0.6 * np.mean(middle)


@pytest.mark.parametrize(
    "request_",
    [
        {FO + "10Percentile": 400.0, FO + "90Percentile": 200.0},
        {GLCM + "SumAverage": 20.0, GLCM + "JointAverage": 5.0},
        {FO + "Mean": 300.0, FO + "RootMeanSquared": 200.0},
        {FO + "Minimum": 100.0, FO + "Maximum": 500.0, FO + "Range": 600.0},
        {FO + "Skewness": 3.0, FO + "Kurtosis": 2.0},
        {FO + "InterquartileRange": 300.0, FO + "Range": 100.0},
        {FO + "Uniformity": 0.05, FO + "Entropy": 0.5},
    ],
)
def test_contradictions_are_resolved(population, request_):
    feasible = population.project(request_)
    assert feasible.changed and feasible.broken or len(request_) == 2
    assert feasible.changed
    assert broken(feasible.features, relations()) == []
    for name, (asked, used) in feasible.changed.items():
        assert asked == request_[name] and used == feasible.features[name] != asked
    assert len(feasible.nearest) == 3 and 0 <= feasible.distance_percentile <= 100


def test_percentiles_meet_in_the_middle(population):
    feasible = population.project({FO + "10Percentile": 400.0, FO + "90Percentile": 200.0})
    low, high = feasible.features[FO + "10Percentile"], feasible.features[FO + "90Percentile"]
    assert 200 <= low <= high + 1e-3 and high <= 400


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (FO + "Variance", -1.0, "0 or more"),
        (FO + "Entropy", -0.1, "0 or more"),
        (FO + "Uniformity", 1.5, "0 to 1"),
        (GLCM + "Correlation", 1.2, "-1 to 1"),
        (FO + "Mean", float("nan"), "finite"),
        (FO + "Mean", float("inf"), "finite"),
    ],
)
def test_impossible_values(population, name, value, allowed):
    with pytest.raises(InputError) as error:
        population.project({name: value})
    assert name in str(error.value) and allowed in str(error.value)


def test_unknown_feature_and_bad_table(population):
    with pytest.raises(InputError, match="not in this model's population"):
        population.project({"original_glcm_Nonsense": 1.0})
    with pytest.raises(InputError, match="shape"):
        Population(("a", "b"), np.zeros((3, 1)), ("x", "y", "z"))
    with pytest.raises(InputError, match="finite"):
        Population(("a",), np.array([[1.0], [np.nan]]), ("x", "y"))


def test_energy_follows_the_number_of_voxels(population):
    rms = FO + "RootMeanSquared"
    feasible = population.project({rms: 250.0}, voxels=1000, voxel_volume=2.0)
    assert feasible.features[FO + "Energy"] == pytest.approx(250.0**2 * 1000, rel=1e-4)
    assert feasible.features[FO + "TotalEnergy"] == pytest.approx(250.0**2 * 2000, rel=1e-4)


def test_real_sarcomas_are_feasible(shared_data):
    """Features of two real tumours break no relation."""
    import SimpleITK as sitk

    for name in ("STS_002_T1", "STS_002_CT"):
        image, mask = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / f"sts/train/{name}_{k}.nii.gz")))
            for k in ("image", "mask")
        )
        features = extract(
            image, mask > 0, (0.98, 0.98, 3.27), Settings(), ("firstorder", "glcm", "glrlm", "glszm")
        )
        assert broken(features, relations(int((mask > 0).sum()))) == []

"""The table of goals: which results it takes, and what it calls missed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "Training"))
import goals

FRECHET = "Fréchet distances (population / frd-score) below GAN's and LDM's, donors, same cases"
SWEPT = "sweeps of one driver: monotone ≥ 95 %; slope .9 to 1.1"


def fidelity(value: float = 0.99, case: float = 0.97, psnr: float = 29.0) -> dict:
    kinds = ("firstorder", "glcm", "glrlm", "glszm", *goals.AUDIT)
    return {
        "classes": {kind: {"median": value} for kind in kinds},
        "groups": {"steered": {"median": value, "shuffled": 0.1}},
        "case_pearson": case, "case_spearman": case, "seconds_median": 3.0, "psnr": psnr, "ssim": 0.9,
    }  # fmt: skip


def believable(auc: float, distance: float = 2.0, package: float = 7.0) -> dict:
    return {
        "detectors": {k: {"auc": auc} for k in ("numbers", "patches")},
        "frechet_population": distance,
        "frechet_frd_score": package,
    }


def results(cases: int, **parts) -> dict:
    return {"task": "texture", "model": "toy", "command": "x", "cases": ["c"] * cases, **parts}


def cells(outs: list[dict]) -> dict[str, str]:
    lines = [line for line in goals.table(outs) if line.startswith("| ") and not line.startswith("| goal")]
    return {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines}


def test_missed_goals_are_bold_and_unmeasured_ones_say_so():
    out = results(
        3,
        results={
            "CT own full": fidelity(),
            "CT own network": fidelity(0.7),
            "CT donor full": fidelity(0.9, 0.94),
        },
    )
    found = cells([out])
    assert found["first-order / GLCM, own features ≥ .99"] == "0.990 / 0.990"
    assert found["the same, donors' features"] == "not measured"  # the last row of that name: network alone
    assert (
        found["network alone: median Pearson ≥ .85; gap to shuffled ≥ .5, own features"] == "**0.700; 0.60**"
    )
    assert found["evaluations for 99 % of the best ≤ 8"] == "not measured"
    donors = [line for line in goals.table([out]) if line.startswith("| the same, donors'")]
    assert "**0.940 / 0.940**" in donors[0]


@pytest.mark.parametrize(("auc", "shown"), [(0.65, "0.65 / 0.65"), (0.71, "**0.71 / 0.71**")])
def test_either_detector_must_be_deceived(auc, shown):
    out = results(3, results={"CT own full": fidelity()}, believable={"CT own full": believable(auc)})
    assert cells([out])["AUC of detectors by numbers / patches ≤ .70, own features"] == shown


def test_values_are_of_most_cases_and_comparisons_of_the_same():
    few = results(
        2,
        results={"CT own full": fidelity(psnr=29), "CT own gan": fidelity(psnr=30)},
        believable={
            "CT real": believable(0.5, 1.0),
            "CT donor full": believable(0.6),
            "CT donor gan": believable(0.9, 3.0, 7.5),
        },
    )
    many = results(
        9, results={"CT own full": fidelity(psnr=40)}, believable={"CT donor full": believable(0.8)}
    )
    found = cells([few, many])
    assert (
        found["PSNR / SSIM of own features above GAN's and LDM's"]
        == "**full 29.0 / 0.900, gan 30.0 / 0.900**"
    )
    assert found["mean AUC below GAN's, LDM's and field's, same cases"] == "donor 0.60, gan 0.90"
    assert found[FRECHET] == "full 2.00 / 7.00, gan 3.00 / 7.50, real 1.00"
    lines = goals.table([few, many])
    assert any("donors' features | **0.80 / 0.80** |" in line for line in lines)


def test_removals_are_of_most_holes_and_sweeps_must_be_monotone():
    def removal(holes: int, ours: float) -> dict:
        entries = {
            f"CT {arm} {k}": {"mean": v, "holes": holes}
            for arm, value in (("model", ours), ("biharmonic", 30.0))
            for k, v in (("psnr", value), ("ssim", value / 100))
        }
        return {"task": "removal", "model": "toy", "command": "x --data y", "results": entries}

    sweeps = {"full": {"monotone": 0.9, "slope_median": 1.0}}
    found = cells(
        [results(3, results={"CT own full": fidelity()}, sweeps=sweeps), removal(9, 29.0), removal(3, 31.0)]
    )
    assert found["PSNR / SSIM of removals above biharmonic's, GAN's and LDM's"].startswith(
        "**model 29.0 / 0.290"
    )
    assert (
        cells([results(3, results={"CT own full": fidelity()}, sweeps={"network": {}})])[SWEPT]
        == "not measured"
    )
    assert found[SWEPT] == "**90 %; 1.00**"


@pytest.mark.parametrize("count, shown", [(6, "6"), (50, "**50**"), (None, "**never**")])
def test_few_evaluations_must_suffice(count, shown):
    out = results(3, results={"CT own full": fidelity()}, evaluations={"evaluations_for_99_percent": count})
    assert cells([out])["evaluations for 99 % of the best ≤ 8"] == shown


def test_without_texture_results_there_is_no_table():
    assert goals.table([{"task": "codec", "codecs": {}, "command": "x"}]) == []


def test_either_frechet_distance_must_be_lower():
    seen = {
        "CT real": believable(0.5, 1.0),
        "CT donor full": believable(0.6),
        "CT donor gan": believable(0.9, 3.0, 6.9),
    }
    found = cells([results(2, results={"CT own full": fidelity()}, believable=seen)])
    assert found[FRECHET] == "**full 2.00 / 7.00, gan 3.00 / 6.90, real 1.00**"


def test_values_bring_their_intervals():
    row = fidelity(case=0.94) | {"case_pearson_interval": [0.9, 0.97], "case_spearman_interval": [None, None]}
    row["classes"]["glcm"]["interval"] = [0.91, 1.0]
    found = cells([results(2, results={"CT own full": row})])
    assert (
        found["case-wise Pearson ≥ .95 / Spearman ≥ .96, own features"] == "**0.940 (0.900-0.970) / 0.940**"
    )
    assert found["first-order / GLCM, own features ≥ .99"] == "0.990 / 0.990 (0.910-1.000)"

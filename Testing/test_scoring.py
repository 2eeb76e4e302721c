"""Statistics of an evaluation, on made-up results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
scoring = pytest.importorskip("scoring", reason="the training extra is not installed")
import write_results  # noqa: E402

from TumorSynthLib.radiomics.population import Population  # noqa: E402

NAMES = [
    "original_firstorder_Mean",
    "original_firstorder_Median",
    "original_glcm_Contrast",
    "original_gldm_DependenceEntropy",
]


def rows(noise: float, count: int = 24) -> list[dict]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        asked = {n: float(v) for n, v in zip(NAMES, rng.normal(10, 3, len(NAMES)))}
        reached = {n: v + noise * float(rng.normal()) for n, v in asked.items()}
        made.append(
            {"case": f"c{i}", "patient": f"p{i // 2}", "asked": asked, "reached": reached, "seconds": 1.0}
        )
    return made


def population() -> Population:
    values = np.random.default_rng(1).normal(10, 3, (30, len(NAMES)))
    return Population(tuple(NAMES), values, tuple(f"c{i}" for i in range(30)))


def test_correlations_tell_a_hit_from_a_miss():
    assert all(v == pytest.approx(1) for v in scoring.correlations(rows(0.0), NAMES).values())
    assert all(abs(v) < 0.7 for v in scoring.correlations(rows(0.0), NAMES, shuffle=True).values())
    assert 0.5 < np.median(list(scoring.correlations(rows(2.0), NAMES).values())) < 0.99


def test_summary_by_class_with_interval_and_control():
    found = scoring.summary(rows(1.0), NAMES, population())
    assert set(found["classes"]) == {"firstorder", "glcm", "gldm"} and found["patients"] == 12
    for part in found["classes"].values():
        low, high = part["interval"]
        assert low <= part["median"] <= high and part["shuffled"] < part["median"] - 0.3
    assert 0.1 < found["mean_difference_sigma"] < 0.6


def test_interval_resamples_patients_not_cases():
    one = [{"patient": f"p{i // 10}", "v": float(i // 10)} for i in range(80)]
    each = [{"patient": f"p{i}", "v": float(i // 10)} for i in range(80)]

    def mean(some):
        return float(np.mean([r["v"] for r in some]))

    wide, narrow = (np.ptp(scoring.interval(r, mean)) for r in (one, each))
    assert wide > 2 * narrow
    assert scoring.interval(one[:40], mean) == [None, None]  # four patients


def test_psnr_and_ssim_at_a_window():
    truth = np.random.default_rng(0).uniform(0, 100, (8, 16, 16))
    where = np.zeros(truth.shape, bool)
    where[2:6, 4:12, 4:12] = True
    psnr, ssim = scoring.psnr_ssim(truth, truth + 10 * where, where, 0, 1000)
    assert psnr == pytest.approx(40, abs=0.01) and 0.5 < ssim < 1
    assert scoring.psnr_ssim(truth, truth + 10 * ~where, where, 0, 1000)[0] > 100


def test_results_page_holds_the_numbers(tmp_path, monkeypatch):
    found = scoring.summary(rows(1.0), NAMES, population())
    out = {
        "task": "texture",
        "model": "toy",
        "version": "1",
        "command": "evaluate.py texture --data toy/val",
        "results": {"CT donor full": found},
    }
    (tmp_path / "toy.json").write_text(json.dumps(out))
    holes = [
        {"patient": f"p{i}", "modality": "CT", "model": (30.0 + i, 0.9), "biharmonic": (29.0, 0.8)}
        for i in range(4)
    ]
    out = {
        "task": "removal",
        "model": "toy",
        "version": "1",
        "command": "evaluate.py removal --data toy/val",
        "results": scoring.removal_summary(holes),
    }
    (tmp_path / "removal.json").write_text(json.dumps(out))
    monkeypatch.setattr(sys, "argv", ["write_results.py", str(tmp_path)])
    write_results.main()
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{found['classes']['glcm']['median']:.3f}" in page and "31.500" in page and "1.00" in page
    assert scoring.compact(out) == {"removal in toy/val, inside the hole + 5 mm": out["results"]}
    there = out | {"command": "evaluate.py removal --data DATA/toy/val --json OUT.json"}
    assert scoring.compact(there) == scoring.compact(out)
    (tmp_path / "notes.md").write_text("What is odd here.\n")
    write_results.main()
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert page.index("## Goals") < page.index("What is odd here.") < page.index("## toy 1: texture")
    (tmp_path / "README.md").write_text("# Another page\n")
    with pytest.raises(SystemExit, match="isn't a results page"):
        write_results.main()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Another page\n"

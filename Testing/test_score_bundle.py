"""Measured scores in a model's card."""

import json
import sys
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import load_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
score = pytest.importorskip("score_bundle").score


def _removal(path: Path, model="tiny", version="1.0.0", psnr=40.0) -> Path:
    out = {
        "task": "removal",
        "model": model,
        "version": version,
        "command": "evaluate.py removal --data x/val",
    }
    path.write_text(json.dumps(out | {"results": {"CT model psnr": {"mean": psnr, "holes": 3}}}))
    return path


def test_scores_are_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "tiny"
    before = tiny_bundle(folder, scores={"old": 1}).json
    weights = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    score(folder, [_removal(tmp_path / "removal.json")])
    after = load_bundle(folder).json
    assert {k: v for k, v in after.items() if k != "scores"} == {
        k: v for k, v in before.items() if k != "scores"
    }
    assert after["scores"] == {
        "removal in x/val, inside the hole + 5 mm": {"CT model psnr": {"mean": 40.0, "holes": 3}}
    }
    assert {p.name: p.read_bytes() for p in folder.glob("*.safetensors")} == weights


@pytest.mark.parametrize("other", [{"model": "another"}, {"version": "0.9.0"}])
def test_scores_of_another_model_are_refused(tmp_path, other):
    tiny_bundle(tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"measured .* not tiny 1\.0\.0"):
        score(tmp_path / "tiny", [_removal(tmp_path / "removal.json", **other)])


def _texture(path: Path, medians: dict[str, float], cases: int) -> Path:
    rows = {
        key: {
            "classes": {"glcm": {"median": m, "interval": [m, m], "shuffled": 0.0}},
            "case_pearson": m, "case_spearman": m, "cases": cases, "patients": cases,
        }
        for key, m in medians.items()
    }  # fmt: skip
    out = {
        "task": "texture",
        "model": "tiny",
        "version": "1.0.0",
        "command": "evaluate.py texture --data x/val",
    }
    path.write_text(json.dumps(out | {"results": rows}))
    return path


def test_rows_beside_the_results_are_left_out_and_empty_results_refused(tmp_path):
    tiny_bundle(tmp_path / "tiny")
    (tmp_path / "removal.rows.json").write_text("[]")
    score(tmp_path / "tiny", [_removal(tmp_path / "removal.json"), tmp_path / "removal.rows.json"])
    before = load_bundle(tmp_path / "tiny").json["scores"]
    with pytest.raises(ModelError, match="has no results"):
        score(tmp_path / "tiny", [_texture(tmp_path / "few.json", {}, 2)])
    assert load_bundle(tmp_path / "tiny").json["scores"] == before


def test_what_was_measured_twice_is_taken_from_more_cases(tmp_path):
    tiny_bundle(tmp_path / "tiny")
    many = _texture(tmp_path / "a.json", {"CT own full": 0.9}, 45)
    few = _texture(tmp_path / "b.json", {"CT own full": 0.8, "CT own gan": 0.7}, 20)
    score(tmp_path / "tiny", [many, few])
    (card,) = load_bundle(tmp_path / "tiny").json["scores"].values()
    assert {k: (row["glcm"][0], row["cases, patients"][0]) for k, row in card.items()} == {
        "CT own full": (0.9, 45), "CT own gan": (0.7, 20),
    }  # fmt: skip

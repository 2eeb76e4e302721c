"""The judge: places, edits through the public editor, detectors with folds by patient, and the whole command on made-up cases."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from tiny_bundle import tiny_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
pytest.importorskip("evaluate", reason="the training extra is not installed")
pytest.importorskip("sklearn", reason="the training extra is not installed")
import detectors
import judge
import judge_detectors
import judge_edits
import judge_page
import judge_pictures
import judged_cases
from training_case import call, one_thread, tree  # noqa: F401

from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume

PATIENTS = 5


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    return tree(tmp_path_factory.mktemp("judged") / "val", PATIENTS, ("CT",))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model") / "tiny", network=True).folder


# Whom, and where


def test_twenty_patients_of_each_data_set_judge():
    parts = json.loads(judged_cases.LIST.read_text())["patients"]
    assert {name: len(part) for name, part in parts.items()} == {"sts": 20, "nsclc_ct": 20, "lidc_ct": 20}
    assert len(judged_cases.reserved()) == 60


def test_those_who_judge_are_apart_from_those_to_choose_on(cases, monkeypatch):
    monkeypatch.setattr(judged_cases, "reserved", lambda: {"STS_001", "STS_003"})
    judging = judged_cases.judged(cases, ("CT",))
    choosing = judged_cases.judged(cases, ("CT",), choosing=True)
    assert {c.patient for c in judging} == {"STS_001", "STS_003"}
    assert {c.patient for c in choosing} == {"STS_000", "STS_002", "STS_004"}
    assert (
        judged_cases.judged(cases, ("CT",), 1)[0].patient == judged_cases.in_turn(["STS_001", "STS_003"])[0]
    )
    monkeypatch.setattr(judged_cases, "reserved", lambda: {"somebody"})
    assert len(judged_cases.judged(cases, ("CT",))) == PATIENTS  # held-back patients: all of them
    with pytest.raises(InputError, match="no images of MR"):
        judged_cases.judged(cases, ("MR",))


def test_without_reserved_patients_val_judges_and_a_model_for_any_sequence_takes_it(tmp_path):
    """What a model of any organ learned from (train) doesn't judge it, and `T1GD` is its `MR`."""
    tree(tmp_path / "train", 2, ("T1GD",))
    tree(tmp_path / "val", 3, ("T1GD",))
    found = judged_cases.judged(tmp_path, ("MR",))
    assert len(found) == 3 and {c.modality for c in found} == {"MR"}
    assert all("val" in c.image.parts for c in found)


def test_a_model_for_any_organ_looks_whether_tumours_lie_in_lung(cases):
    found = judged_cases.judged(cases, ("CT",), 1)
    place = judged_cases.load(found, None, holes=False)[0]
    assert not place.lung

    def aerated(case):
        return replace(place.volume, array=np.where(place.mask, 0, -850).astype(np.int16)), place.mask

    assert judged_cases.load([replace(found[0], read=aerated)], None, holes=False)[0].lung


def test_a_kept_edit_is_of_its_voxels(cases, model, tmp_path):
    place = judged_cases.load(judged_cases.judged(cases, ("CT",)), lung=False)[0]
    changed = replace(place, volume=place.volume.with_array(place.volume.array + 1))
    names = {
        judge_edits.Maker(Editor(str(model)), [p], None, None, 0, tmp_path)._name(0, "removed")
        for p in (place, place, changed)
    }
    assert len(names) == 2


def test_a_hole_lies_in_free_tissue_and_is_the_same_again():
    free = np.zeros((8, 30, 30), bool)
    free[2:7, 5:20, 6:25] = True
    shape = np.ones((3, 6, 6), bool)
    first, second = (judged_cases.laid(shape, free, np.random.default_rng(4)) for _ in range(2))
    assert first.sum() == shape.sum() and (first & free).sum() >= 0.97 * shape.sum()
    assert (first == second).all()
    assert judged_cases.laid(np.ones((3, 20, 20), bool), free, np.random.default_rng(4)) is None


def test_healthy_places_keep_away_from_tumour_and_border(cases):
    places = judged_cases.load(judged_cases.judged(cases, ("CT",)), lung=False)
    assert all(0 < p.scale <= 1 for p in places if p.hole is not None)
    found = [p for p in places if p.hole is not None]
    assert found
    for place in found:
        assert not (place.hole & place.mask).any()
        assert place.hole[1:-1, 4:-4, 4:-4].sum() >= 0.97 * place.hole.sum()


# Detectors


def made_up(patients=8, smooth=True):
    """Looks at noise, untouched and with a smoother half inside."""
    looks = []
    for i in range(patients):
        rng = np.random.default_rng(i)
        image = rng.normal(0, 10, (5, 48, 48))
        mask = np.zeros(image.shape, bool)
        mask[1:4, 14:34, 14:34] = True
        made = np.where(mask, rng.normal(0, 4 if smooth else 10, image.shape), image)
        for array, edited in ((image, False), (made, True)):
            of = {"made": edited, "case": i, "patient": f"p{i}", "lender": f"p{i}"}
            numbers = {"grain": 0.4 + 0.01 * i if edited and smooth else 1.0 + 0.01 * i}
            looks.append(judge_detectors.look(array, mask, (1.0, 1.0, 1.0), numbers=numbers, **of))
    return looks


QUICK = judge_detectors.DetectorConfig(each=12, repeats=1, network_steps=0)


def test_detectors_tell_a_smooth_filling_and_name_what_they_saw():
    found = judge_detectors.detect(made_up(), lung=True, config=QUICK)
    assert found["trees"]["auc"] > 0.9 and found["numbers"]["auc"] > 0.9
    name, value = next(iter(found["seen"].items()))
    assert name in judge_detectors.FEATURES and value < 0.1  # less power, or less grain
    assert found["untouched"] == found["made"] == found["patients"] == 8
    assert found["numbers"]["each"]["grain"] == 0


def test_controls_are_tumours_as_they_are_and_with_salt_and_pepper(cases):
    place = judged_cases.load(judged_cases.judged(cases, ["CT"], 1), lung=False)[0]
    place.volume = place.volume.with_array(ndimage.gaussian_filter(place.volume.array, 2.0))
    alike, bad = (judge_edits.control(place, edit, 0) for edit in judge_edits.CONTROLS)
    assert np.array_equal(alike.image(place), place.volume.array)
    changed = bad.image(place) != place.volume.array
    assert not changed[~place.mask].any() and 0.07 < changed[place.mask].mean() < 0.13
    numbers = judge.compared(place, "speckled", bad)
    assert numbers["made"]["power"] > 1.5 * numbers["control"]["power"]
    seen = judge.looks(place, "untouched", alike, 1, judge.compared(place, "untouched", alike))
    assert len(seen) == 1 and seen[0].made


def test_detectors_tell_nothing_of_untouched_places():
    found = judge_detectors.detect(made_up(smooth=False), lung=True, config=QUICK)
    assert 0.3 < found["trees"]["auc"] < 0.7


def test_nobody_judges_a_patient_that_a_detector_learned_from(monkeypatch):
    looks, seen = made_up(), []
    patients = np.array([v.patient for v in looks])
    monkeypatch.setattr(
        judge_detectors,
        "number_scores",
        lambda x, y, parts, seed: seen.extend(parts) or np.full(len(y), 0.5),
    )
    judge_detectors.detect(looks, lung=True, config=QUICK)
    assert len(seen) == QUICK.folds
    for train, test in seen:
        assert train.any() and test.any() and not set(patients[train]) & set(patients[test])


def test_pairs_are_cut_at_the_same_voxels():
    looks = made_up(4)
    x, of = judge_detectors.rows_of(looks[:1] + looks[:1], 10, 0)
    assert (x[of == 0] == x[of == 1]).all()


def test_rank_auc_is_the_share_of_pairs_in_order():
    score, made = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert judge_detectors.rank_auc(score, made) == pytest.approx(detectors.auc(score, made)) == 0.75
    assert judge_detectors.rank_auc(np.zeros(4), made) == 0.5


def test_patch_features_have_their_names_and_hands():
    rng = np.random.default_rng(0)
    patches = rng.normal(0, 5, (40, 3, 14, 14))
    patches[:, 2] = patches[:, 1]  # the slice above is the middle one again
    patches[:, 1] += 20 * np.sin(np.arange(14) * np.pi / 2)  # a wave along x, .25 cycles a voxel
    patches[:, 2] += 20 * np.sin(np.arange(14) * np.pi / 2)
    found = dict(zip(judge_detectors.NAMES, judge_detectors.patch_features(patches).mean(0)))
    assert found["slice above"] == pytest.approx(1) and found["slice below"] < 0.3
    assert found["power along x / y"] > 2
    assert found["power 0.15-0.25"] > found["power 0.25-0.35"] > found["power 0.45-0.51"]


# Edits


def test_an_engine_that_edits_do_not_have_is_refused():
    with pytest.raises(InputError, match="engine"):
        judge_edits.Maker(editor=None, places=[], engine="magic")
    with pytest.raises(InputError, match="strength"):
        judge_edits.Maker(editor=None, places=[], engine="bridge", strength=2.0)


def test_engine_and_strength_go_to_edits_that_have_them(monkeypatch):
    place = SimpleNamespace(case=SimpleNamespace(modality="CT"))
    asked, row = [], SimpleNamespace(edits=("synthesize",))
    monkeypatch.setattr(
        judge_edits, "OPTIONS", {"strength": row, "engine": SimpleNamespace(edits=("remove", "synthesize"))}
    )
    maker = judge_edits.Maker(editor=None, places=[], engine="exemplar", strength=0.3)
    monkeypatch.setattr(judge_edits, "EditRequest", lambda **options: asked.append(options))
    maker._wish(place, "own")
    maker._wish(place, "removed")
    assert (asked[0]["strength"], asked[0]["engine"]) == (0.3, "exemplar")
    assert "strength" not in asked[1] and asked[1]["engine"] == "exemplar"


def test_samples_come_back_from_disk_as_they_were(tmp_path):
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 2:4, 1:5] = True
    box = (slice(1, 3), slice(2, 4), slice(1, 5))
    sample = judge_edits.Sample(box, np.arange(16).reshape(2, 2, 4), mask, 1.5, {"feature": "x"})
    judge_edits.write_sample(tmp_path / "a.npz", sample)
    again = judge_edits.read_sample(tmp_path / "a.npz", None)
    assert again.box == box and (again.values == sample.values).all() and (again.mask == mask).all()
    assert again.seconds == 1.5 and again.facts == {"feature": "x"}


def test_sliders_ask_by_turns_one_sd_up_or_down_within_what_texture_can_have(cases):
    places = judged_cases.load(judged_cases.judged(cases, ("CT",)), lung=False)
    names = tuple(judge_edits.SLIDERS)
    own = dict(zip(names, (10.0, 400.0, 0.9, 4.0, 50.0)))
    population = SimpleNamespace(names=names, std=np.array([3.0, 900.0, 0.2, 0.5, 30.0]))
    editor = SimpleNamespace(extract=lambda *_: own, population=lambda _, volume: population)
    maker = judge_edits.Maker(editor, places * 5)
    up, down = ([maker._slid(i, sign) for i in range(5)] for sign in (1, -1))
    assert dict(up) == dict(
        zip(names, (13.0, 800.0, 0.96, 4.5, 80.0))
    )  # variance at most doubled, correlation below .96
    assert dict(down) == dict(zip(names, (7.0, 200.0, 0.7, 3.5, 20.0)))
    assert all(a[0] != b[0] for a, b in zip(up, down))


def test_an_edit_is_measured_beside_the_tumour_that_was_there(cases):
    place = judged_cases.load(judged_cases.judged(cases, ("CT",)), lung=False)[0]
    whole = tuple(slice(0, n) for n in place.mask.shape)
    doubled = place.volume.array.copy()
    mean = doubled[place.mask].mean()
    doubled[place.mask] = (mean + 2 * (doubled[place.mask] - mean)).astype(doubled.dtype)
    found = judge.compared(place, "slider+", judge_edits.Sample(whole, doubled, place.mask, 0.0))
    row = {"made": found["made"], "control": found["control"]}
    assert judge.off(row, "grain") == pytest.approx(2, abs=0.05)
    assert judge.off(row, "pattern") == pytest.approx(0, abs=0.01)
    seen = judge.looks(place, "slider+", judge_edits.Sample(whole, doubled, place.mask, 0.0), 0, found)
    assert [v.made for v in seen] == [False, True] and all(
        "pattern" not in v.numbers for v in seen
    )  # 1 by definition
    facts = {"asked": {"a": 1.0, "b": 2.0}, "reached": {"a": 1.04, "b": 2.5}, "spread": {"a": 1.0, "b": 0.5}}
    found = judge.reach(facts, SimpleNamespace(names=()))
    assert found == {"within": 0.5, "farthest": 1.0, "said": 0.5}
    assert judge.reach(facts | {"limits": {"b": 2.51}}, SimpleNamespace(names=()))["said"] == 1.0


def test_a_moved_tumour_is_measured_beside_the_voxels_that_went_along(cases):
    place = judged_cases.load(judged_cases.judged(cases, ("CT",)), lung=False)[0]
    left = place.mask & (np.arange(place.mask.shape[2]) < np.argwhere(place.mask)[:, 2].mean() - 1)
    shift = (0, 2, 3)
    moved = np.roll(place.volume.array, shift, (0, 1, 2))
    mask = np.roll(place.mask & ~left, shift, (0, 1, 2))
    whole = tuple(slice(0, n) for n in mask.shape)
    sample = judge_edits.Sample(whole, moved, mask, 0.0, {"moved_voxels": list(shift)})
    assert (judge.own(place, sample) == (place.mask & ~left)).all()
    found = judge.compared(place, "moved", sample)
    assert found["made"] == pytest.approx(found["control"], rel=1e-6, nan_ok=True)


def test_an_inserted_tumour_is_measured_beside_a_real_one_as_tightly_drawn():
    z, y, x = np.indices((9, 60, 110))
    real, made = ((y - 30) ** 2 + (x - at) ** 2 <= 12**2 for at in (30, 80))
    real, made = real & (abs(z - 4) < 3), made & (abs(z - 4) < 3)
    loose = real | np.roll(real, 4, 2)
    noise = np.random.default_rng(0).normal(0, 5, real.shape)
    before, after = (
        (ndimage.gaussian_filter(np.where(m, 100.0, -100.0), (0, 1, 1)) + noise).astype(np.int16)
        for m in (real, real | made)
    )
    case = SimpleNamespace(modality="CT", id="a", patient="a")
    place = judged_cases.Place(case, Volume(before, (1.0, 1.0, 1.0)), loose, False)
    whole = tuple(slice(0, n) for n in real.shape)
    found = judge.compared(place, "inserted", judge_edits.Sample(whole, after, made, 0.0))
    for name in ("width", "step"):
        assert found["control"][name] == pytest.approx(found["made"][name], rel=0.1)


# Statistics and pictures


def test_numbers_stand_beside_their_control():
    rows = [
        {
            "case": f"c{i}", "patient": f"p{i}", "seconds": 1.0, "voxels": 9, "extent_mm": 4.0, "picture": f"{i}.png",
            "made": {"grain": 0.5 * (i + 1), "lag_slice": 0.1 * i}, "control": {"grain": 1.0, "lag_slice": 0.0},
            "reach": {"within": i / 4, "farthest": float(i), "said": 1.0},
        }
        for i in range(5)
    ]  # fmt: skip
    found = judge.summary(rows)
    grain = found["numbers"]["grain"]
    assert (grain["made"], grain["control"], grain["median"]) == (1.5, 1.0, 1.5)
    assert grain["interval"][0] <= 1.5 <= grain["interval"][1]
    assert grain["worst"] == {
        "value": 2.5,
        "case": "c4",
        "picture": "4.png",
    }  # x 2.5 is farther off than x .5
    assert found["numbers"]["lag_slice"]["median"] == pytest.approx(
        0.2
    )  # by difference: a ratio to 0 says nothing
    assert found["reach"]["within"] == 0.5 and found["reach"]["worst"]["case"] == "c4"


def test_planes_go_through_the_middle_of_the_mask():
    array = np.zeros((20, 40, 40), np.int16)
    array[10, 20, 20] = 240
    mask = np.zeros(array.shape, bool)
    mask[9:12, 19:22, 19:22] = True
    volume = Volume(array, (1.0, 1.0, 2.0))
    picture = judge_pictures.planes(array, volume, mask, 15.0, (-160.0, 240.0))
    side, step = judge_pictures.SIDE, judge_pictures.SIDE + judge_pictures.GAP
    assert picture.shape == (side, 2 * step + side)
    for k in range(3):
        plane = picture[:, k * step : k * step + side]
        row, column = np.unravel_index(plane.argmax(), plane.shape)
        assert abs(row - side / 2) < 16 and abs(column - side / 2) < 16


# The whole command


def test_the_command_judges_every_engine_alike(cases, model, tmp_path, monkeypatch):
    monkeypatch.setattr(judged_cases, "reserved", set)
    monkeypatch.setattr(judge, "DETECTORS", QUICK)
    folders = ["--data", str(cases), "--out", str(tmp_path / "pictures"), "--cache", str(tmp_path / "cache")]
    arguments = ["--model", str(model), *folders, "--json", str(tmp_path / "out.json"), "--quick"]
    judge.main([*arguments, "--engine", "bridge", "--edits", "removed", "hidden"])
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["task"] == "place" and out["engine"] == "bridge" and "--edits removed hidden" in out["command"]
    hidden = out["results"]["CT hidden"]
    assert hidden["places"] == PATIENTS and hidden["detectors"]["trees"]["auc"] > 0
    assert (tmp_path / "pictures" / hidden["numbers"]["power"]["worst"]["picture"]).exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.npz")}
    judge.main([*arguments, "--engine", "bridge", "--edits", "hidden", "--update"])
    assert {
        p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.npz")
    } == before  # none made twice
    again = json.loads((tmp_path / "out.json").read_text())
    assert again["results"]["CT hidden"]["numbers"] == hidden["numbers"] and "CT removed" in again["results"]


def test_clear_errors(cases, model, tmp_path):
    arguments = ["--model", str(model), "--json", str(tmp_path / "o.json")]
    with pytest.raises(SystemExit, match="has no images of"):
        judge.main([*arguments, "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="--update: can't read"):
        judge.main([*arguments, "--data", str(cases), "--update"])


def placed_results(engine, trees, edit="hidden"):
    number = {
        "made": 0.5,
        "control": 1.0,
        "compared": "ratio",
        "median": 0.5,
        "interval": [0.4, 0.6],
        "measured": 5,
    }
    number |= {"worst": {"value": 0.2, "case": "c7", "picture": None}}
    names = ("level", "grain") if edit == "hidden" else ("power", "pattern")
    detector = {"auc": trees, "interval": [trees - 0.1, trees + 0.1]}
    found = {
        "places": 5,
        "patients": 5,
        "extent_mm": 30.0,
        "seconds": 2.0,
        "numbers": dict.fromkeys(names, number),
    }
    found |= {"detectors": {"trees": detector, "seen": {"grain": 0.2}}, "refused": []}
    out = {
        "task": "place",
        "model": "m",
        "engine": engine,
        "strength": None,
        "data": "sts",
        "results": {f"CT {edit}": found},
    }
    return out | {"commands": {f"CT {edit}": "python Training/evaluate.py place"}}


def test_the_page_says_which_detector_proves_nothing():
    weak = judge_page.section([placed_results("exemplar", 0.55), placed_results("bridge", 0.7)])
    rows = [line for line in weak if line.startswith("| CT hidden")]
    assert [r.split("|")[1].strip() for r in rows] == ["CT hidden, bridge", "CT hidden, exemplar"]
    assert all("†" in r for r in rows) and "×0.50 (0.40-0.60)" in rows[1] and "grain 0.20" in rows[1]
    strong = judge_page.section([placed_results("exemplar", 0.55), placed_results("bridge", 0.9)])
    assert not any("†" in line for line in strong if line.startswith("| CT"))
    tumours = "\n".join(judge_page.section([placed_results("bridge", 0.9, "own")]))
    assert "| CT own, bridge | 5; 30 mm | ×0.50 (0.40-0.60) |" in tumours and "c7" in tumours


def test_the_page_says_which_engine_wins_each_edit():
    drawn, copied = placed_results("bridge", 0.9, "donor"), placed_results("exemplar", 0.6, "donor")
    ratio = copied["results"]["CT donor"]["numbers"]["power"]
    copied["results"]["CT donor"]["numbers"]["power"] = ratio | {"median": 1.1}
    for out, within in ((drawn, 0.5), (copied, 0.2)):
        out["results"]["CT donor"]["reach"] = {"within": within, "off": 1.0, "worst": {"value": 1.0}}
    told = [line for line in judge_page.section([drawn, copied]) if line.startswith("| sts, CT donor |")]
    assert len(told) == 1 and told[0].endswith("1 of 2, pattern ×0.50 | 0.50 | 0.20 | exemplar | bridge |")
    other = copied | {"model": "generic-ct"}
    assert not any("Which engine wins" in line for line in judge_page.section([drawn, other]))


def test_the_page_shows_what_strength_does(tmp_path):
    outs = []
    for engine, strength, pattern, off in (
        ("exemplar", 0.0, 1.0, 0.3),
        ("exemplar", 0.3, 0.9, 0.2),
        ("bridge", None, 0.7, 0.0),
    ):
        out = placed_results(engine, 0.9, "slider+") | {"strength": strength}
        found = out["results"]["CT slider+"]
        found["numbers"]["pattern"] = found["numbers"]["pattern"] | {"made": pattern}
        found["reach"] = {"within": 0.5, "said": 1.0, "off": off, "worst": {"value": 1.0}}
        outs.append(out)
    curves = judge_page.strengths(outs)
    assert list(curves.values()) == [[(0.0, 1.0, 0.3), (0.3, 0.9, 0.2), (1.0, 0.7, 0.0)]]
    judge_pictures.strength_figure(tmp_path / "s.png", curves)
    assert (tmp_path / "s.png").stat().st_size < 40000
    assert any("0.3: 0.900, 0.20" in line for line in judge_page.section(outs))


def test_salt_and_pepper_proves_a_detector_where_it_was_judged():
    first, better = placed_results("bridge", 0.7, "slider+"), placed_results("exemplar", 0.6, "slider+")
    better["results"]["CT speckled"] = placed_results("exemplar", 0.95, "speckled")["results"]["CT speckled"]
    rows = [line for line in judge_page.section([first, better]) if line.startswith("| CT slider+")]
    assert len(rows) == 2 and not any("†" in row for row in rows)


def test_the_page_has_the_readings():
    reading = {
        "task": "reading",
        "data": "sts",
        "engine": "bridge",
        "strength": None,
        "accuracy": 0.75,
        "interval": [0.6, 0.9],
    }
    reading |= {
        "pictures": 20,
        "readers": 2,
        "known": {"real": 1.0, "made": 0.5},
        "edits": {"hidden": 0.75},
        "command": "c",
    }
    text = "\n".join(judge_page.section([reading]))
    assert "| sts, hidden, bridge | 20, 2 | 0.75 (0.60-0.90) | 1.00, 0.50 |" in text
    assert judge_page.section([]) == []

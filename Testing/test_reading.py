"""Blinded reading: kits that give nothing away, keys that can't be changed, and a score that can be worked out by hand."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))
pytest.importorskip("evaluate", reason="the training extra is not installed")
import reading
from judge_edits import Sample
from judged_cases import Place

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume

ABOUT = {"model": "m", "version": "1", "data": "d", "engine": "e", "strength": None, "command": "c"}
PATIENTS = 10


class Maker:
    """Brightens the healthy place of every patient."""

    def __init__(self):
        self.places = []
        for i in range(PATIENTS):
            array = np.random.default_rng(i).normal(0, 30, (12, 30, 30)).astype(np.int16)
            mask, hole = np.zeros((2, *array.shape), bool)
            mask[3:6, 4:9, 4:9], hole[5:9, 15:22, 15:22] = True, True
            case = SimpleNamespace(id=f"p{i}_1", patient=f"p{i}", modality="CT")
            self.places.append(Place(case, Volume(array, (1.0, 1.0, 2.0)), mask, False, hole))

    def made(self, i, edit):
        place = self.places[i]
        box = (slice(5, 9), slice(15, 22), slice(15, 22))
        return Sample(box, place.volume.array[box] + 150, place.hole, 0.0)


@pytest.fixture
def kit(tmp_path):
    items = reading.shown(Maker(), ["hidden"], seed=3)
    secret = reading.write_kit(items, tmp_path / "kit", tmp_path / "key.json", ABOUT)
    return tmp_path / "kit", tmp_path / "key.json", secret["pictures"]


def chunks(png: bytes) -> list[bytes]:
    """Kinds of a PNG's chunks."""
    found, at = [], 8
    while at < len(png):
        found.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return found


def guess(folder, answers, name=reading.GUESSES):
    (folder / name).write_text("picture,guess\n" + "".join(f"{k},{v}\n" for k, v in answers.items()))
    return folder / name


def test_half_of_the_patients_is_edited_and_none_is_shown_twice(kit):
    _, _, pictures = kit
    assert [p["truth"] for p in pictures.values()].count("made") == PATIENTS // 2
    assert len({p["patient"] for p in pictures.values()}) == len(pictures) == PATIENTS
    others = reading.drawn([f"p{i}" for i in range(PATIENTS)], np.random.default_rng(1))
    assert sorted(others.values()).count("made") == PATIENTS // 2
    assert others != reading.drawn([f"p{i}" for i in range(PATIENTS)], np.random.default_rng(2))


def test_a_patient_with_two_images_is_edited_in_both_or_in_none():
    maker = Maker()
    for i, place in enumerate(maker.places):
        place.case.patient = f"p{i // 2}"
    items = reading.shown(maker, ["hidden"], seed=0)
    assert len({(v["place"].case.patient, v["truth"]) for v in items}) == PATIENTS // 2


def test_the_kit_tells_nothing(kit):
    folder, _, pictures = kit
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*pictures, "README.txt", "guesses.csv", "seal.json"]
    )
    text = "".join((folder / n).read_text() for n in ("README.txt", "guesses.csv", "seal.json"))
    assert "p0" not in text and "_1" not in text
    raw = [(folder / n).read_bytes() for n in pictures]
    assert all(chunks(r) == [b"IHDR", b"IDAT", b"IEND"] for r in raw)  # no text, no time
    assert len({r[16:24] for r in raw}) == 1  # all of one size


def test_score_is_the_share_that_was_known(kit):
    folder, key, pictures = kit
    truth = {n: p["truth"] for n, p in pictures.items()}
    assert reading.score(key, [guess(folder, truth)])["accuracy"] == 1
    real = guess(folder, dict.fromkeys(truth, "real"), "second.csv")
    found = reading.score(key, [guess(folder, truth), real])
    assert found["accuracy"] == 0.75 and found["each"] == [1, 0.5] and found["readers"] == 2
    assert found["known"] == {"real": 1, "made": 0.5} and found["edits"] == {"hidden": 0.75}
    assert found["interval"][0] <= 0.75 <= found["interval"][1]


def test_a_changed_key_is_found_out(kit):
    folder, key, pictures = kit
    answers = guess(folder, {n: "real" for n in pictures})
    secret = json.loads(key.read_text())
    for told in secret["pictures"].values():
        told["truth"] = "real"
    key.write_text(json.dumps(secret, indent=1) + "\n")
    with pytest.raises(InputError, match="isn't the key"):
        reading.score(key, [answers])


def test_the_seal_alone_gives_no_key_away(tmp_path):
    items = reading.shown(Maker(), ["hidden"], seed=3)
    seals = []
    for name in ("a", "b"):
        reading.write_kit(items, tmp_path / name, tmp_path / f"{name}.json", ABOUT)
        seals.append(json.loads((tmp_path / name / reading.SEAL).read_text())["sha256_of_key"])
    assert seals[0] != seals[1]  # salted: trying all keys tells nothing


def test_clear_errors(kit, tmp_path):
    folder, key, pictures = kit
    with pytest.raises(InputError, match="001.png has ''; write real or made"):
        reading.score(key, [folder / reading.GUESSES])
    with pytest.raises(InputError, match="is there already"):
        reading.write_kit(reading.shown(Maker(), ["hidden"], 0), folder, tmp_path / "other.json", ABOUT)
    with pytest.raises(InputError, match="readers mustn't have it"):
        reading.write_kit(
            reading.shown(Maker(), ["hidden"], 0), tmp_path / "n", tmp_path / "n/key.json", ABOUT
        )
    with pytest.raises(InputError, match="has seal.json"):
        reading.score(key, [guess(tmp_path, {n: "real" for n in pictures}, "alone.csv")])
    with pytest.raises(SystemExit, match="reading: can't read the key"):
        reading.main(["score", "--key", str(tmp_path / "none.json"), str(folder / reading.GUESSES)])


def test_the_border_of_the_image_tells_nothing(monkeypatch):
    """Untouched tumours in the middle of their image, made ones at its side: both are shown with as much around."""
    import judge_pictures

    monkeypatch.setattr(reading, "NEEDED_MM", 0.0)
    items = []
    for i, place in enumerate(Maker().places):
        mask = np.zeros_like(place.mask)
        left = 12 if i % 2 else 4
        mask[4:8, 13:17, left : left + 5] = True
        items.append({"place": place, "truth": "real" if i % 2 else "made", "edit": "moved", "mask": mask})
    rooms = reading.alike(items)
    assert len({tuple(map(tuple, room)) for room in rooms}) == 1 and rooms[0][2, 0] == 6
    place, mask = items[1]["place"], items[1]["mask"]
    whole, held = (
        judge_pictures.planes(place.volume.array, place.volume, mask, 14.0, (-100, 100), r)
        for r in (None, rooms[1])
    )
    side = judge_pictures.SIDE
    assert (held[:, :60] == 0).all() and (whole[side // 2, :60] > 0).any()
    assert (held[:, side // 2 : side] == whole[:, side // 2 : side]).all()

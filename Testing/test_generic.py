"""The models for any organ: what is in them, and that each edit that needs no network works with them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from TumorSynthLib import shaping
from TumorSynthLib.edit.bank import Bank
from TumorSynthLib.edit.choose import suited
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models import ANY, bundled_folder, find, info, installed, memorisation
from TumorSynthLib.models.parts import draws
from TumorSynthLib.shaping import PREFIX, measured_shape
from TumorSynthLib.suitability import at_scale, level_of
from TumorSynthLib.volume import Volume, read_image, read_labelmap

GENERIC = ("generic-ct", "generic-mr")
CONTRAST, MEAN = "original_glcm_Contrast", "original_firstorder_Mean"
DATA = os.environ.get("TUMORSYNTH_TEST_DATA")
SPACING = (1.0, 1.0, 2.0)


def tumour_in_tissue(tissue: float, tumour: float, grain: float, seed=0) -> tuple[Volume, np.ndarray]:
    """A rough ball of 5 ml in even tissue of a body with background around it."""
    rng = np.random.default_rng(seed)
    shape = (36, 90, 90)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, shape), (0.5, 0.8, 0.8))
    rough = ndimage.gaussian_filter(rng.normal(0, 1, shape), (2, 3, 3))
    k, j, i = np.indices(shape)
    far = np.sqrt((2 * (k - 18)) ** 2 + (j - 45) ** 2 + (i - 30) ** 2)
    mask = far + 25 * rough < 10.5
    opacity = ndimage.gaussian_filter(mask.astype(float), (0.3, 0.8, 0.8))
    array = tissue + (tumour - tissue) * opacity * (1 + 3 * rough) + grain * noise / noise.std()
    array[:, :4] = array[:, -4:] = array[..., :4] = array[..., -4:] = 0 if tissue > 200 else -1000
    return Volume(np.rint(array).astype(np.int16), SPACING), mask


@pytest.fixture(scope="module")
def ct():
    volume, mask = tumour_in_tissue(60.0, 110.0, 8.0)
    array = volume.array.copy()
    array[:, 4:14, 4:-4] = np.random.default_rng(1).normal(-100, 8, array[:, 4:14, 4:-4].shape)  # fat
    return "generic-ct", volume.with_array(array), mask


@pytest.fixture(scope="module")
def mr():
    volume, mask = tumour_in_tissue(400.0, 700.0, 15.0)
    array = volume.array.copy()
    array[:, 4:14, 4:-4] = 1000  # fat
    return "generic-mr", volume.with_array(array), mask


@pytest.fixture(params=GENERIC)
def case(request):
    return request.getfixturevalue(request.param[-2:])


def test_all_models_that_come_along_are_known_and_small():
    """A bundle that is added or lost has to be added here, and to README's table."""
    found = {m.id: m for m in installed() if m.bundled}
    assert set(found) == {*GENERIC, "lung-nodule-ct", "soft-tissue-sarcoma"}
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for model in found.values():
        assert not model.error and f"`{model.id}`" in readme
    for name in GENERIC:
        files = list((bundled_folder() / name).iterdir())
        assert sum(f.stat().st_size for f in files) <= 500_000


@pytest.mark.parametrize("name", GENERIC)
def test_cards_say_licence_memorisation_and_what_they_cannot_do(name):
    bundle = find(name)
    bundle.verify()
    assert bundle.organ == ANY and not draws(bundle) and bundle.licence == "CC BY 4.0"
    assert all(
        part.startswith("CC BY") and "NC" not in part
        for part in bundle.json["training"]["licence"].split(", ")
    )
    assert "no network" in bundle.json["cannot"] and "real tumours" in bundle.json["memorisation"]
    assert "insert" in bundle.json["can"]
    judged = json.loads((Path(__file__).parents[1] / "Training" / "judged_patients.json").read_text())[
        "patients"
    ]
    kept = {name for part in judged.values() for name in part}
    lenders = Bank.of_bundle(bundle).of(bundle.modalities[0])
    assert len(lenders) >= 6 and all(t.entry["licence"].startswith("CC BY") for t in lenders)
    cases = [*(t.case for t in lenders), *bundle.json["population"][bundle.modalities[0]]["cases"]]
    assert not [c for c in cases if any(c == p or c.startswith(p + "_") for p in kept)]


@pytest.mark.parametrize("name", [*GENERIC, "lung-nodule-ct", "soft-tissue-sarcoma"])
def test_info_says_what_a_bank_holds_of_patients_without_its_numbers(name):
    told = info(name)["bank"]
    assert "real tumours" in told["what"] and len(told["tumours"]) >= 6 and "CC BY 3.0" in told["licence"]
    assert set(told) == {"what", "tumours", "data", "licence"}


@pytest.mark.parametrize("name", [*GENERIC, "lung-nodule-ct", "soft-tissue-sarcoma"])
def test_info_says_what_of_patients_an_edit_may_show_again(name):
    told = info(name)
    assert "may show one of them again" in told["memorisation"] and "may resemble it" in told["memorisation"]
    assert "CC BY 3.0" in told["memorisation"] and len(json.dumps(told.get("shape"))) < 3000, "case numbers"
    tumours = (
        find(name)
        .json.get("shape", {})
        .get("forms", {})
        .get("tumours", "a real tumour that a model beside it holds")
    )
    assert str(tumours) in told["memorisation"]
    assert find(name).json.get("memorisation", told["memorisation"]) == told["memorisation"]


@pytest.mark.parametrize("name", GENERIC)
def test_new_shapes_are_grown_from_real_forms_with_sizes_of_the_own_population(name, monkeypatch):
    """Without the models that lend them it still draws."""
    shaper = shaping.Shaper(find(name), "cpu")
    assert len(shaper.model.forms.masks) > 200
    starts = [shaper.model._start(None, seed)[1].features[PREFIX + "MeshVolume"] for seed in range(12)]
    low, high = shaper.model.population.quantiles(PREFIX + "MeshVolume", (5, 95))
    assert all(0.9 * low <= v <= 1.1 * high for v in starts) and len({round(v) for v in starts}) > 8
    round_ = shaper.model._start({PREFIX + "Sphericity": 0.95}, 1)[1].features[PREFIX + "MeshVolume"]
    assert 0.9 * low <= round_, "rounder tumours are smaller, but not smaller than they are found"
    drawn = shaper.model.draw({"volume_ml": 5.0, "sphericity": 0.7}, (1.0, 1.0, 1.0), 1)
    assert drawn.reached[PREFIX + "MeshVolume"] == pytest.approx(5000, rel=0.005)
    assert drawn.reached[PREFIX + "Sphericity"] == pytest.approx(0.7, abs=0.01)
    assert shaper.model._start({"volume_ml": 5.0}, 1)[1].aims == (PREFIX + "MeshVolume",)
    monkeypatch.setattr(shaping, "that_come_along", list)
    alone = shaping.Shaper(find(name), "cpu").model
    assert alone.forms is None
    assert alone.draw({"volume_ml": 5.0}, (2.0,) * 3, 1).reached[PREFIX + "MeshVolume"] == pytest.approx(
        5000, rel=0.01
    )


def test_every_edit_works(case):
    name, volume, mask = case
    editor = Editor(name)
    own = editor.extract(volume, mask)
    inside = volume.array[mask].mean()
    removed = editor.remove(volume, mask)
    outside = np.median(
        volume.array[
            ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask, iterations=3)
        ]
    )
    assert abs(removed.volume.array[mask].mean() - outside) < 0.25 * abs(inside - outside)
    slid = editor.retexture(volume, mask, EditRequest(features={CONTRAST: 1.3 * own[CONTRAST]}))
    assert slid.reached[CONTRAST] == pytest.approx(1.3 * own[CONTRAST], rel=0.05)
    assert (slid.volume.array[~mask] == volume.array[~mask]).all()
    moved = editor.move(volume, mask, EditRequest(to=(62.0, 45.0, 36.0)))
    assert abs(moved.volume.array[moved.mask].mean() - inside) < 0.2 * abs(inside - outside)
    ml = float(volume.volume_of(mask)) / 1000
    for factor in (0.7, 1.3):
        sized = editor.reshape(volume, mask, EditRequest(features={"volume_ml": factor * ml}))
        assert float(volume.volume_of(sized.mask)) / 1000 == pytest.approx(factor * ml, rel=0.1)
    other = replace(volume, array=volume.array[:, ::-1].copy())
    lent = editor.retexture(volume, mask, EditRequest(donor=(other, mask[:, ::-1].copy())))
    assert (lent.volume.array[~mask] == volume.array[~mask]).mean() > 0.99
    assert editor.reachable(volume, mask, [CONTRAST])[CONTRAST][1] > own[CONTRAST]


def test_a_tumour_under_the_skin_keeps_its_form_and_its_centre_when_it_shrinks(ct):
    name, volume, _ = ct
    k, j, i = np.indices(volume.array.shape)
    mask = ((2 * (k - 18)) / 14) ** 2 + ((j - 45) / 18) ** 2 + ((i - 30) / 12) ** 2 <= 1
    noise = np.random.default_rng(3).normal(0, 8, volume.array.shape)
    array = np.where(i < 14, -1000, np.where(i < 34, -100, 60) + noise)  # air, fat, muscle
    array += (60 + noise - array) * ndimage.gaussian_filter(mask.astype(float), (0.3, 0.8, 0.8))
    volume = volume.with_array(np.rint(array).astype(np.int16))
    ml = float(volume.volume_of(mask)) / 1000
    small = Editor(name).reshape(volume, mask, EditRequest(features={"volume_ml": 0.6 * ml})).mask
    before, after = (measured_shape(m, SPACING) for m in (mask, small))
    for feature in ("Flatness", "Elongation", "Sphericity"):
        assert after[PREFIX + feature] == pytest.approx(before[PREFIX + feature], rel=0.06), feature
    assert np.abs(np.argwhere(small).mean(0) - np.argwhere(mask).mean(0)).max() < 1


@pytest.mark.parametrize("edit", ["retexture", "insert", "reshape", "move"])
def test_a_donor_of_another_modality_is_refused_or_said(ct, mr, edit):
    """Its voxels were once laid as they are, without a word."""
    options = {"insert": {"at": (62.0, 45.0, 36.0)}, "reshape": {"features": {"volume_ml": 4.0}},
               "move": {"to": (62.0, 45.0, 36.0)}}.get(edit, {})  # fmt: skip
    for (name, volume, mask), (_, *donor) in ((ct, mr), (mr, ct)):
        own, request = [] if edit == "insert" else [mask], EditRequest(donor=tuple(donor), **options)
        for model in (name, None):
            if model is None and edit == "reshape":
                continue
            with pytest.raises(
                InputError, match=f"donor doesn't look like {name[-2:].upper()}.*same modality"
            ):
                getattr(Editor(model), edit)(volume, *own, request)
    made = getattr(Editor("generic-ct"), edit)(
        ct[1], *([ct[2]] if own else []), replace(request, donor=mr[1:], modality="CT")
    )
    assert any("donor doesn't look like CT" in text and "believed" in text for text in made.warnings)


@pytest.mark.parametrize("donor", [False, True])
def test_insertions_by_bank_or_donor_stay_off_the_tumour_that_is_there(case, donor):
    name, volume, mask = case
    lent = {"donor": (volume, mask)} if donor else {"features": {"volume_ml": 3.0}}
    made = Editor(name).insert(volume, EditRequest(at="auto", avoid=mask, seed=1, **lent))
    assert made.mask.any() and not (made.mask & mask).any()
    assert (made.volume.array[mask] == volume.array[mask]).all()
    if name == "generic-mr":  # what is inserted is seen
        new, old = (float(np.median(v.array[made.mask])) for v in (made.volume, volume))
        assert abs(new - old) > 0.05 * level_of(volume)  # three times the grain


def test_an_insertion_beyond_its_tissue_advises_what_an_insertion_can_do(ct):
    name, volume, mask = ct
    request = EditRequest(at="auto", avoid=mask, features={CONTRAST: 900.0, "volume_ml": 3.0})
    said = [t for t in Editor(name).insert(volume, request).warnings if "allows no more" in t]
    assert said and all("another seed" in text and "strength" not in text for text in said)
    changed = Editor(name).synthesize(volume, mask, EditRequest(features={CONTRAST: 900.0}))
    assert any(text.endswith("or more strength") for text in changed.warnings)


@pytest.mark.parametrize("tissue, said", [(30.0, True), (-100.0, False)])
def test_a_new_tumour_that_is_hardly_seen_is_told(tissue, said):
    volume, mask = tumour_in_tissue(tissue, 110.0, 25.0)
    request = EditRequest(at="auto", avoid=mask, seed=1, features={"volume_ml": 3.0})
    made = Editor("generic-ct").insert(volume, request)
    assert any("hardly seen" in text for text in made.warnings) == said
    asked = replace(request, features={"volume_ml": 3.0, "mean_intensity": 120.0})
    assert not any("hardly seen" in text for text in Editor("generic-ct").insert(volume, asked).warnings)


def test_a_tumour_of_any_size_is_lent_smaller_where_it_fits_nowhere(ct):
    name, volume, _ = ct
    organ = np.zeros(volume.array.shape, bool)
    organ[4:12, 20:36, 48:64] = organ[24:32, 60:76, 66:82] = True  # two parts, far from each other
    made = [Editor(name).insert(volume, EditRequest(at="auto", inside=organ, seed=s)) for s in range(4)]
    assert all((one.mask & organ).sum() > 0.97 * one.mask.sum() > 0 for one in made)


def test_a_place_that_is_to_be_avoided_is_refused(ct):
    name, volume, mask = ct
    with pytest.raises(InputError, match="avoided"):
        Editor(name).insert(
            volume, EditRequest(at=(30.0, 45.0, 36.0), avoid=mask, features={"volume_ml": 3.0})
        )


def test_series_keep_the_tumour(ct):
    name, volume, mask = ct
    steps = Editor(name).series(volume, mask, "volume_ml", ["0.9x", "1.1x"])
    sizes = [step.mask.sum() for step in steps]
    assert sizes[0] < mask.sum() < sizes[1]


def test_what_needs_a_network_says_so(ct):
    name, volume, mask = ct
    with pytest.raises(InputError, match="network"):
        Editor(name).synthesize(volume, mask, EditRequest(engine="bridge", features={CONTRAST: 30.0}))


@pytest.mark.parametrize("factor", [0.25, 8])
def test_mr_is_measured_and_edited_alike_at_any_scale(mr, factor):
    """Grey levels of MR have no unit: four times as large, they are the same image."""
    name, volume, mask = mr
    array = (volume.array.astype(np.float32) * factor).astype(np.float32)
    other = replace(volume, array=array)
    editor = Editor(name)
    ways = [editor.extract(v, mask) for v in (volume, other)]
    scales = [at_scale(editor.bundle, v, "MR").scale for v in (volume, other)]
    assert scales[1] / scales[0] == factor and level_of(other) == pytest.approx(factor * level_of(volume))
    assert ways[1][CONTRAST] == pytest.approx(ways[0][CONTRAST], rel=0.02)
    for v, features in zip((volume, other), ways):
        population = editor.population("MR", v)
        shares = (
            population.percentile(MEAN, features[MEAN]),
            population.percentile(CONTRAST, features[CONTRAST]),
        )
        assert shares == pytest.approx((population.percentile(MEAN, ways[0][MEAN] * v.array.mean() / volume.array.mean()),
                                        population.percentile(CONTRAST, ways[0][CONTRAST])), abs=5)  # fmt: skip
    request = EditRequest(at="auto", avoid=mask, seed=1, features={"volume_ml": 3.0})
    made = [editor.insert(v, request) for v in (volume, other)]
    levels = [m.volume.array[m.mask].mean() / level_of(v) for m, v in zip(made, (volume, other))]
    assert levels[1] == pytest.approx(levels[0], rel=0.1)
    assert made[1].provenance["model"].get("scale", 1) == scales[1]


def test_an_editor_for_an_image_has_the_model_that_suits(ct, mr):
    for name, volume, mask in (ct, mr):
        assert Editor.auto(volume, mask).bundle.id == name
    assert Editor.auto(mr[1], mr[2], ["thigh"], "T1").bundle.id == "soft-tissue-sarcoma"


@pytest.mark.skipif(not DATA, reason="needs TUMORSYNTH_TEST_DATA")
@pytest.mark.parametrize("name", ["brain1", "brain2", "breast1"])
def test_other_organs_have_the_model_for_any_and_can_be_edited(name):
    folder = Path(DATA) / "pyradiomics"
    if not folder.is_dir():
        pytest.skip("needs pyradiomics' cases")
    volume = read_image(folder / f"{name}_image.nrrd")
    mask = read_labelmap(folder / f"{name}_label.nrrd", volume) > 0
    assert suited(volume, mask, [name]).model_id == "generic-mr"
    editor = Editor.auto(volume, mask, [name])
    own = editor.extract(volume, mask)
    slid = editor.retexture(volume, mask, EditRequest(features={CONTRAST: 1.2 * own[CONTRAST]}))
    end = slid.provenance["plan"].get("limits", {}).get(CONTRAST, 1.2 * own[CONTRAST])
    assert slid.reached[CONTRAST] == pytest.approx(end, rel=0.05) and end > 1.1 * own[CONTRAST]
    assert editor.remove(volume, mask).warnings == ()


def test_a_card_counts_tumours_of_a_population_of_regions():
    regions = {name: {"names": ["a"], "cases": ["1", "2"], "tensor": name} for name in ("core", "rim")}
    manifest = {"files": {}, "organ": "brain", "network": None, "population": {"CT": regions}}
    assert "features of 2 tumours" in memorisation(manifest)

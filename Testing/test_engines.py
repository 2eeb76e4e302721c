"""The door behind which engines draw: which one an edit takes, what it needs, and what the record says of it."""

from dataclasses import replace
from types import SimpleNamespace

import editor_case
import numpy as np
import pytest
from scipy import ndimage

from TumorSynthLib.edit.case import Case
from TumorSynthLib.edit.features import steerable
from TumorSynthLib.edit.plan import KEPT, Plan, _texture_from, _told, choose_engine, of_existing
from TumorSynthLib.edit.told import made
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.engines import ENGINES
from TumorSynthLib.errors import Cancelled, InputError
from TumorSynthLib.phantom import chest
from TumorSynthLib.provenance import check_repeatable, request_of
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.suitability import holds_tumour
from TumorSynthLib.texture.engine import make_engine

CONTRAST = "original_glcm_Contrast"


BARE = SimpleNamespace(json={"network": {}}, painted=None)  # a bundle without a bank


@pytest.fixture(scope="module")
def case():
    return editor_case.ct()


@pytest.mark.parametrize("edit, options, model, engine", [
    ("remove", {}, True, "exemplar"), ("remove", {"engine": "bridge"}, True, "bridge"), ("remove", {"steps": 3}, True, "bridge"),
    ("remove", {"steps": 3, "strict": True}, True, "exemplar"), ("remove", {}, False, "exemplar"),
    ("synthesize", {}, True, "bridge"), ("synthesize", {"strength": 0.3}, True, "exemplar"),
    ("synthesize", {"strength": 1.0}, True, "bridge"), ("move", {"grow": 2.0}, True, "exemplar"),
    ("move", {"donor": (None, None)}, True, "bridge"), ("reshape", {}, True, "exemplar"), ("insert", {}, True, "bridge"),
    ("synthesize", {"donor": (None, None), "priority": "look"}, True, "exemplar"),
    ("synthesize", {"donor": (None, None)}, True, "bridge"),
    ("insert", {"donor": (None, None)}, True, "exemplar"),
])  # fmt: skip
def test_the_engine_is_the_one_that_uses_what_is_asked(edit, options, model, engine):
    case = SimpleNamespace(bundle=BARE if model else None, modality="CT")
    assert choose_engine(edit, case, EditRequest(**options)) == engine


def test_a_model_without_a_network_leaves_drawing_to_the_tissue():
    case = SimpleNamespace(bundle=SimpleNamespace(json={"engine": "exemplar"}), modality="CT")
    assert choose_engine("synthesize", case, EditRequest()) == "exemplar"
    with pytest.raises(InputError, match="a model's network"):
        choose_engine("remove", case, EditRequest(engine="bridge"))


def test_a_tumour_that_is_there_keeps_its_pattern_unless_something_speaks_against_it(case):
    assert of_existing(EditRequest(features={"contrast": 4.0})).strength == KEPT
    assert of_existing(EditRequest(donor=case)).priority == "look"
    for request in (
        EditRequest(donor=case, priority="features"),
        EditRequest(steps=2),
        EditRequest(engine="bridge"),
        EditRequest(strength=1.0),
    ):
        assert of_existing(request) is request


def test_a_moved_tumour_keeps_its_voxels_whatever_features_are_asked_for():
    """A full features file once made a move draw the tumour anew, without a word: key sets were compared."""
    asked = EditRequest(to=(0.0, 0.0, 0.0), features={"contrast": 4.0, "mean_intensity": 30.0})
    donor = EditRequest(to=(0.0, 0.0, 0.0), donor=editor_case.ct())
    assert [_texture_from(r, None) for r in (EditRequest(to=(0.0, 0.0, 0.0)), asked, donor)] == [
        "own",
        "own",
        "donor",
    ]
    assert _texture_from(asked, object()) == "request"  # with a shape of its own
    assert _texture_from(EditRequest(texture_from="request"), None) == "request"  # as a repetition says it


def test_engines_say_who_they_are_and_what_they_need():
    for name in ENGINES:
        engine = make_engine(name, BARE, "cpu")
        assert engine.name == name and "remove" in engine.edits and engine.knows(CONTRAST)
    with pytest.raises(InputError, match="bridge needs a model"):
        make_engine("bridge", None, "cpu")


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (0, -1, 0, 1, 0, 0, 0, 0, -1)])
def test_a_slider_without_a_model_changes_the_mask_alone(case, direction):
    volume, mask = case
    volume = type(volume)(volume.array, volume.spacing, volume.origin, tuple(map(float, direction)))
    own = Editor(None).extract(volume, mask)[CONTRAST]
    result = Editor(None).retexture(volume, mask, EditRequest(features={CONTRAST: 1.1 * own}))
    changed = result.volume.array != volume.array
    assert changed[mask].any() and not changed[~mask].any()
    assert result.reached[CONTRAST] == pytest.approx(1.1 * own, rel=0.02)
    assert result.provenance["plan"]["engine"] == "exemplar" and result.provenance["plan"]["strength"] == KEPT
    assert result.spread[CONTRAST] > 0  # between the tumour's own parts
    again = Editor(None).synthesize(volume, mask, EditRequest(**request_of(result.provenance)))
    assert np.array_equal(again.volume.array, result.volume.array)


class Heard(list):
    """What an edit reports, in order."""

    def __call__(self, stage, fraction):
        self.append(stage)

    def say(self, text):
        self.append(text)


def test_a_slider_tells_how_far_it_can_go_and_goes_no_further(case):
    volume, mask = case
    editor = Editor(None)
    (low, high), (least, most) = editor.reachable(volume, mask, ["mean_intensity", "intensity_sd"]).values()
    own = editor.extract(volume, mask)
    assert (
        low < own["original_firstorder_Mean"] < high
        and least < own["original_firstorder_Variance"] ** 0.5 < most
    )
    request, heard = EditRequest(features={"mean_intensity": high + 500.0}, reachable=True), Heard()
    result = editor.synthesize(volume, mask, request, heard)
    mean, sd = "original_firstorder_Mean", result.spread["original_firstorder_Mean"]
    reached, limit = result.reached[mean], result.used[mean]
    assert reached == pytest.approx(high, abs=0.3 * sd) and reached == pytest.approx(limit, abs=0.05 * sd)
    assert result.asked[mean] == high + 500.0 and f"{limit:.4g}" in result.warnings[0]
    assert heard.index(result.warnings[0]) < heard.index("measure") and len(result.warnings) == 1
    plan = result.provenance["plan"]
    assert plan["limits"] == {mean: limit}
    assert plan["reachable"][mean] == [low, max(high, limit)]  # what is told holds what was reached
    assert plan["zone_voxels"] == 0 and plan["spread_from"] == "sub-windows of the tumour"


def test_a_slider_is_measured_on_the_grid_of_the_settings(case):
    from TumorSynthLib.radiomics.settings import Settings

    volume, mask = case
    for more in ({}, {"interpolator": "sitkLinear"}):
        editor = Editor(None, settings=Settings(resampledPixelSpacing=(1.5, 1.5, 1.5), binWidth=10.0, **more))
        own = editor.extract(volume, mask)[CONTRAST]
        result = editor.synthesize(volume, mask, EditRequest(features={CONTRAST: 0.9 * own}, strength=0.0))
        again = editor.extract(result.volume, mask)
        assert again[CONTRAST] == pytest.approx(0.9 * own, rel=0.02)
        assert again[CONTRAST] == pytest.approx(result.reached[CONTRAST], rel=1e-6)


def test_a_removal_without_a_model_is_repeated_voxel_by_voxel(case):
    volume, mask = case
    result = Editor(None).remove(volume, mask, EditRequest(seed=3, zone=1.0))
    changed = result.volume.array != volume.array
    assert (
        changed[mask].mean() > 0.9
        and not changed[~result.changed].any()
        and np.array_equal(result.mask, mask)
    )
    assert np.array_equal(result.patch.apply(volume.array.copy()), result.volume.array)
    plan = result.provenance["plan"]
    assert plan["zone_mm"] == 1.0 and plan["zone_voxels"] == (result.changed & ~mask).sum() > 0
    again = Editor(None).remove(volume, mask, EditRequest(**request_of(result.provenance)))
    assert np.array_equal(again.volume.array, result.volume.array)


@pytest.mark.parametrize(
    "edit, options",
    [
        ("remove", {}),
        ("remove", {"zone": 0.0}),
        ("remove", {"strict": True}),
        ("remove", {"grow": 6.0, "zone": 1.0}),
        ("move", {"to": (16.0, 20.0, 16.0), "nearest": True}),
        ("synthesize", {"features": {"mean_intensity": 30.0}}),
    ],
)
def test_the_distance_that_is_said_holds_for_every_voxel(case, edit, options):
    """The zone alone was said once, not the rim that a removal grows by, nor the slice that it goes on for."""
    volume, mask = case
    volume = replace(volume, array=volume.array[::2].copy(), spacing=(1.0, 1.0, 3.0))
    mask = mask[::2].copy()
    result = getattr(Editor(None), edit)(volume, mask, EditRequest(modality="CT", **options))
    tumours, plan = mask | result.mask, result.provenance["plan"]
    outside = (result.volume.array != volume.array) & ~tumours
    away = ndimage.distance_transform_edt(~tumours, volume.spacing[::-1])
    if edit == "synthesize" or options.get("strict"):
        assert not outside.any() and plan["zone_voxels"] == 0
        assert made(result.provenance)[1] == "Outside the mask no voxel changed."
    else:
        assert away[outside].max() - 1e-6 <= plan["reach_mm"] < 0.1 + away[result.changed].max()
        assert f"up to {plan['reach_mm']:g} mm" in made(result.provenance)[1]


def test_a_network_that_draws_because_of_an_option_says_so():
    """`remove --steps 20` took another engine, twelve times as slow, without a word."""
    volume, mask = editor_case.ct()
    request = EditRequest(steps=3, engine=None)
    case = Case(volume, mask, BARE, "CT", True, Settings())
    for edit, more, said in (("remove", {}, 1), ("remove", {"engine": "bridge"}, 0), ("insert", {}, 0)):
        plan = Plan(edit, replace(request, **more), "bridge", mask)
        assert sum("because of --steps" in text for text in _told(case, plan).warnings) == said


def test_what_made_the_voxels_is_said_in_words():
    for operation, request, plan, said in (
        ("remove", {}, {}, "Made of the image's own tissue (engine exemplar)."),
        ("insert", {}, {"lender": "case"}, "Made of a real tumour of the model's bank (engine exemplar)."),
        ("synthesize", {}, {"stage": "level kept"}, "pattern adjusted and its mean intensity kept"),
        ("synthesize", {"donor": True}, {"stage": "part"}, "Made of a part of the donor's tissue (engine"),
    ):
        entry = {"operation": operation, "request": request, "plan": {"engine": "exemplar", **plan}}
        assert len(made(entry)) == 1 and said in made(entry)[0]
    entry = {"operation": "move", "plan": {"engine": "bridge", "zone_voxels": 1234, "reach_mm": 4.0}}
    assert made(entry) == [
        "Drawn by the model's network (engine bridge).",
        "Outside the old and the new mask 1,234 voxels could change, up to 4 mm from them.",
    ]
    assert made({}) == []


def test_avoid_and_lend_hold(case):
    volume, mask = case
    other = editor_case.ball((10, 30, 30), 5.0, volume.spacing)
    lend = np.zeros_like(mask)
    lend[:, 9:, :35] = True
    result = Editor(None).remove(volume, mask, EditRequest(avoid=other, lend=lend))
    assert not (result.volume.array != volume.array)[other].any()
    hashes = result.provenance["input"]
    assert hashes["avoid_sha256"] and hashes["lend_sha256"] and "inside_sha256" not in hashes


def test_what_needs_a_model_says_so(case):
    volume, mask = case
    for call in (
        lambda e: e.reshape(volume, mask, EditRequest(features={"volume_ml": 2.0})),
        lambda e: e.insert(volume, EditRequest(at=(0, 0, 0))),
        lambda e: e.series(volume, mask, "volume_ml", ["2x"]),
        lambda e: e.remove(volume, mask, EditRequest(engine="bridge")),
        lambda e: e.synthesize(volume, mask),
    ):
        with pytest.raises(InputError, match="model"):
            call(Editor(None))


@pytest.mark.parametrize("stage", ["prepare", "texture", "measure"])
def test_a_removal_can_be_cancelled(case, stage):
    def stop(told, fraction):
        if told == stage:
            raise Cancelled("stop")

    before = case[0].array.copy()
    with pytest.raises(Cancelled):
        Editor(None).remove(*case, EditRequest(), stop)
    assert np.array_equal(case[0].array, before)


def test_the_nearest_request_is_that_of_the_edit(tmp_path, case):
    """Entropy can't exceed the logarithm of the number of voxels, which an edit knows, and so must who announces it."""
    editor = Editor(editor_case.model(tmp_path / "model"), "cpu")
    volume, _ = case
    small = editor_case.ball((10, 20, 18), 3.5, volume.spacing)
    features = {"original_firstorder_Entropy": 7.5}
    told = editor.nearest(volume, small, features)
    result = editor.synthesize(volume, small, EditRequest(features=features, steps=1, solve=False))
    assert told.used == result.used and told.used["original_firstorder_Entropy"] < 7
    assert told.changed["original_firstorder_Entropy"][0] == 7.5 and told.warnings


def test_a_mask_holds_a_tumour_unless_it_shows_healthy_lung(case):
    lung = np.full((12, 40, 40), -850, np.int16)
    nodule = np.zeros(lung.shape, bool)
    nodule[4:8, 10:20, 10:20] = True
    healthy = np.roll(nodule, 15, axis=2)
    lung[nodule] = -20
    volume = type(case[0])(lung, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert holds_tumour(volume, nodule, True) and not holds_tumour(volume, healthy, True)
    assert holds_tumour(*case, True) and holds_tumour(volume, healthy, False)


def test_a_synthesize_of_which_only_the_mask_is_known_keeps_the_tumour_that_is_there(case):
    volume, mask = case
    asked = EditRequest(features={CONTRAST: 4.0}, modality="CT")
    assert Editor(None).on_tumour(volume, mask, asked).strength == KEPT
    for request in (EditRequest(), EditRequest(features={CONTRAST: 4.0}, strength=1.0)):
        assert Editor(None).on_tumour(volume, mask, request) is request


def test_many_features_are_another_tumours_unless_most_are_its_own():
    """A features file: with a few values changed the tumour keeps its voxels, another tumour's is drawn by the network."""
    volume, mask = chest(seed=1)
    editor = Editor("lung-nodule-ct")
    population = editor.population("CT")
    own = {n: v for n, v in steerable(editor.extract(volume, mask))[0].items() if n in population.names}
    changed = EditRequest(features={**own, CONTRAST: 1.3 * own[CONTRAST]})
    assert len(own) > 20 and editor.on_tumour(volume, mask, changed).strength == KEPT
    typical = {n: population.quantiles(n, (25,))[0] for n in own}
    other = EditRequest(features=typical)
    assert editor.on_tumour(volume, mask, other) is other
    assert Editor("generic-ct").on_tumour(volume, mask, other).strength == KEPT  # it has no network


def test_a_donor_lends_its_tissue_and_is_needed_again_for_a_repetition(case):
    volume, mask = case
    donor = editor_case.ct(seed=4, spread=70.0)
    result = Editor(None).retexture(volume, mask, EditRequest(donor=donor, modality="CT"))
    changed = result.volume.array != volume.array
    assert changed[mask].any() and not changed[~mask].any()
    assert result.provenance["plan"]["engine"] == "exemplar" and result.provenance["plan"]["stage"]
    assert result.asked and result.asked.keys() <= result.reached.keys()
    spread = [v[mask].std() for v in (volume.array, donor[0].array, result.volume.array)]
    assert spread[0] < spread[2] < 1.2 * spread[1]
    arguments = request_of(result.provenance)
    with pytest.raises(InputError, match="donor"):
        check_repeatable(result.provenance, None, volume, mask, request=EditRequest(**arguments))
    again = EditRequest(**arguments, donor=donor)
    check_repeatable(result.provenance, None, volume, mask, request=again)
    assert np.array_equal(Editor(None).synthesize(volume, mask, again).volume.array, result.volume.array)


def test_a_series_of_a_texture_keeps_the_tumours_pattern(case):
    volume, mask = case
    steps = Editor(None).series(volume, mask, CONTRAST, ["0.9x", "1.1x"], EditRequest(modality="CT"))
    assert [s.provenance["plan"]["strength"] for s in steps] == [KEPT, KEPT]
    inside = [s.volume.array[mask].astype(float) for s in steps]
    assert np.corrcoef(*inside)[0, 1] > 0.95 and steps[0].reached[CONTRAST] < steps[1].reached[CONTRAST]

"""Shapes drawn for asked features: what is asked is reached, what is impossible is said, another seed is another shape."""

import numpy as np
import pytest
from scipy import ndimage
from tiny_bundle import tiny_bundle

from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models import find
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.shape_features import shape as shape_features
from TumorSynthLib.shape import ShapeModel
from TumorSynthLib.shape.coordinates import FEATURES, NAMES, PREFIX, SCALE, features_of, logs
from TumorSynthLib.shape.field import grid, outline, unstrung
from TumorSynthLib.shape.forms import Forms, bent
from TumorSynthLib.shape.nested import core_of
from TumorSynthLib.shape.solver import draw
from TumorSynthLib.shape.surface import Slopes

SPACING = (1.0, 1.0, 1.5)


def population(seed=0, count=60):
    """Tumour-like tables: logarithms that vary around an ellipsoid of some millilitres."""
    rng = np.random.default_rng(seed)
    size, rows = rng.normal(0, 0.3, count), []
    for scale in size:
        axes = np.array([28.0, 23.0, 19.0]) * np.exp(scale + rng.normal(0, 0.06, 3))
        axes = np.sort(axes)[::-1]
        volume = 0.68 * axes.prod()
        area = (36 * np.pi * volume**2) ** (1 / 3) / rng.uniform(0.72, 0.85)
        width = 1.22 * axes[0]
        planar = width * rng.uniform(0.8, 0.98, 3)
        rows.append(features_of(np.log([volume, volume * 1.01, area, width, *planar, *axes])))
    return Population(
        NAMES, np.array([[r[n] for n in NAMES] for r in rows]), tuple(f"case{i}" for i in range(count))
    )


@pytest.fixture(scope="module")
def model():
    return ShapeModel(population())


def test_logarithms_give_the_features_of_a_mask():
    rng = np.random.default_rng(3)
    mask = ndimage.gaussian_filter(rng.normal(size=(18, 20, 22)), 3) > 0.03
    exact = shape_features(mask, SPACING)
    again = features_of(logs(exact))
    assert set(exact) == set(FEATURES)
    for name, value in exact.items():
        assert again[PREFIX + name] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("sphericity", [0.65, 0.85])
def test_a_request_is_reached_on_voxels(model, sphericity):
    asked = {"volume_ml": 8.0, "sphericity": sphericity, "elongation": 0.8, "flatness": 0.6}
    drawn = model.draw(asked, SPACING, seed=4)
    exact = shape_features(drawn.mask, SPACING)
    assert drawn.reached == {PREFIX + n: pytest.approx(v) for n, v in exact.items()}
    assert exact["MeshVolume"] == pytest.approx(8000, rel=0.005)
    assert exact["Sphericity"] == pytest.approx(sphericity, abs=0.01)
    assert exact["Elongation"] == pytest.approx(0.8, abs=0.015)
    assert exact["Flatness"] == pytest.approx(0.6, abs=0.015)
    assert drawn.asked[PREFIX + "MeshVolume"] == 8000 and not drawn.warnings


def test_every_feature_of_another_mask_is_reached(model):
    source = model.draw({"volume_ml": 9.0, "sphericity": 0.7}, SPACING, seed=1)
    drawn = model.draw(source.reached, SPACING, seed=2)
    off = {n: abs(drawn.reached[n] / v - 1) for n, v in source.reached.items()}
    assert max(off.values()) < 0.03 and off[PREFIX + "VoxelVolume"] < 0.005
    assert drawn.mask.shape != source.mask.shape or (drawn.mask != source.mask).mean() > 0.02


def test_one_piece_without_holes_in_an_empty_margin(model):
    drawn = model.draw({"volume_ml": 6.0, "sphericity": 0.6}, SPACING, seed=3)
    assert ndimage.label(drawn.mask)[1] == 1 and ndimage.label(~drawn.mask)[1] == 1
    for axis in range(3):
        sides = np.moveaxis(drawn.mask, axis, 0)
        assert not sides[0].any() and not sides[-1].any() and sides[1].any() and sides[-2].any()
    assert drawn.centre == pytest.approx(np.argwhere(drawn.mask).mean(0))


@pytest.mark.parametrize("fraction", [0.15, 0.5])
def test_a_core_lies_in_its_rim(model, fraction):
    outer = model.draw({"volume_ml": 6.0}, SPACING, seed=2)
    core, other = (core_of(outer.mask, SPACING, fraction, seed) for seed in (2, 3))
    assert core.sum() / outer.mask.sum() == pytest.approx(fraction, rel=0.03)
    assert ndimage.label(core)[1] == 1 and ndimage.label(~core)[1] == 1
    assert not (ndimage.binary_dilation(core, np.ones((3, 3, 3))) & ~outer.mask).any()
    assert not np.array_equal(other, core)


def test_a_core_without_a_rim_is_refused(model):
    mask = model.draw({"volume_ml": 1.0}, SPACING).mask
    for fraction in (0.99, 0.0, 1.5):
        with pytest.raises(InputError, match="core"):
            core_of(mask, SPACING, fraction)


def test_seeds_repeat_and_differ(model):
    one, same, other = (model.draw({"volume_ml": 4.0}, SPACING, seed=s) for s in (5, 5, 6))
    assert np.array_equal(one.mask, same.mask)
    assert one.mask.shape != other.mask.shape or not np.array_equal(one.mask, other.mask)


def test_reshape_scales_and_keeps_the_form(model):
    source = model.draw({"volume_ml": 5.0, "sphericity": 0.7}, SPACING, seed=7)
    grown = model.reshape(source.mask, SPACING, {"volume_ml": 10.0})
    assert grown.reached[PREFIX + "MeshVolume"] == pytest.approx(10000, rel=0.005)
    for name in ("Elongation", "Flatness", "Sphericity"):
        assert grown.reached[PREFIX + name] == pytest.approx(source.reached[PREFIX + name], abs=0.02)
    rounder = model.reshape(source.mask, SPACING, {"sphericity": 0.8})
    assert rounder.reached[PREFIX + "Sphericity"] == pytest.approx(0.8, abs=0.01)
    assert rounder.reached[PREFIX + "MeshVolume"] == pytest.approx(5000, rel=0.03)


@pytest.mark.parametrize("spacing", [(0.6, 0.6, 5.0), (1.0, 1.0, 1.5)])
def test_a_growing_tumour_keeps_what_it_has(model, spacing):
    """The smaller tumour lies in the larger one, even on slices of which a tumour has three: nothing is bent after the grid."""
    source = model.draw({"volume_ml": 2.0, "sphericity": 0.7}, spacing, seed=3).mask
    centre = np.argwhere(source).mean(0)
    phase = centre - np.round(centre)
    steps = [model.reshape(source, spacing, {"volume_ml": ml}) for ml in (1.5, 2.02, 3.0, 4.5)]
    for small, large in zip(steps, steps[1:]):
        inner, outer = (
            {tuple(c - np.round(np.array(s.centre) - phase)) for c in np.argwhere(s.mask)}
            for s in (small, large)
        )
        assert len(inner & outer) > 0.97 * len(inner)
        for name in ("Sphericity", "Elongation", "Flatness"):  # nothing of its form was asked for
            assert large.reached[PREFIX + name] == pytest.approx(small.reached[PREFIX + name], abs=0.05)
        asked, reached = (values[PREFIX + "MeshVolume"] for values in (large.asked, large.reached))
        assert reached == pytest.approx(asked, rel=0.01)


def beaded() -> np.ndarray:
    """A ball of 1 ml, and beside it a small one that hangs on it by a thread."""
    z, y, x = np.indices((20, 20, 36)) - 9.5
    thread = (np.abs(z) < 1) & (np.abs(y) < 1) & (x > 0) & (x < 16)
    return (z**2 + y**2 + x**2 < 6.5**2) | (z**2 + y**2 + (x - 16) ** 2 < 3.5**2) | thread


def test_beads_on_a_thread_are_taken_off():
    mask = beaded()
    left = unstrung(mask)
    assert not left[:, :, 22:].any() and left[:, :, :16].sum() == mask[:, :, :16].sum()
    ball = mask & (np.arange(36) < 16)
    assert np.array_equal(unstrung(ball), ball)
    lobes = ball | ball[:, :, ::-1] | (mask & (np.abs(np.arange(36) - 17.5) < 6))
    assert np.array_equal(unstrung(lobes), lobes)  # neither is the tumour


def test_a_tumour_keeps_its_own_bead(model):
    mask = beaded()
    grown = model.reshape(mask, (1.0, 1.0, 1.0), {"volume_ml": 1.5 * mask.sum() / 1000}).mask
    extent = [np.ptp(np.flatnonzero(m.any((0, 1)))) for m in (mask, grown)]
    assert extent[1] > extent[0]


@pytest.mark.parametrize("sphericity", [0.62, 0.8])
def test_preview_is_near_what_is_asked_and_what_is_drawn(model, sphericity):
    asked = {"volume_ml": 8.0, "sphericity": sphericity, "elongation": 0.8}
    shown = model.preview(asked, seed=3)
    reached = shape_features(shown.mask, shown.spacing)
    assert reached["MeshVolume"] == pytest.approx(8000, rel=0.03)
    assert reached["Sphericity"] == pytest.approx(sphericity, abs=0.03)
    assert reached["Elongation"] == pytest.approx(0.8, abs=0.03)
    drawn = model.draw(asked, shown.spacing, seed=3)
    size = np.maximum(shown.mask.shape, drawn.mask.shape) + 8
    both = []
    for mask in (shown.mask, drawn.mask):
        start = np.round(size / 2 - np.argwhere(mask).mean(0)).astype(int)
        both.append(np.zeros(size, bool))
        both[-1][tuple(slice(a, a + n) for a, n in zip(start, mask.shape))] = mask
    assert 2 * (both[0] & both[1]).sum() > 0.85 * (both[0].sum() + both[1].sum())


def test_slopes_of_a_surface_are_its_derivatives():
    axes = np.array([0.7, 0.6, 0.5])
    vertices, faces = outline(1 - np.sqrt(((grid(28) / axes) ** 2).sum(-1)))
    found, rng = Slopes(vertices, faces), np.random.default_rng(0)
    assert found.volume == pytest.approx(4 / 3 * np.pi * axes.prod(), rel=0.02)
    assert found.covariance == pytest.approx(np.diag(axes**2 / 5), abs=0.003)
    assert found.centre == pytest.approx(np.zeros(3), abs=1e-4)
    move = 1e-5 * rng.normal(size=vertices.shape)
    after, before = (Slopes(vertices + sign * move, faces) for sign in (1, -1))
    assert (after.volume - before.volume) / 2 == pytest.approx((found.push * move).sum(), rel=1e-4)
    assert (after.area - before.area) / 2 == pytest.approx((found.pull * move).sum(), rel=1e-4)


def test_preview_is_a_closed_surface_of_the_asked_volume(model):
    shown = model.preview({"volume_ml": 8.0, "sphericity": 0.75}, seed=2)
    a, b, c = (shown.vertices[shown.faces[:, k]] for k in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 == pytest.approx(
        8000, rel=0.05
    )  # > 0: turned outwards
    edges = np.sort(
        np.concatenate([shown.faces[:, [0, 1]], shown.faces[:, [1, 2]], shown.faces[:, [2, 0]]]), 1
    )
    assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()
    assert shown.mask.sum() * np.prod(shown.spacing) == pytest.approx(8000, rel=0.05)


@pytest.mark.parametrize(
    "features, word",
    [
        ({"sphericity": 1.2}, "at most 1"),
        ({"flatness": 0.9, "elongation": 0.5}, "Flatness"),
        ({"volume_ml": -3.0}, "positive"),
        ({"volume_ml": float("nan")}, "positive"),
        ({"original_glcm_Contrast": 3.0}, "not a shape feature"),
        ({"volume_ml": 1e-5}, "too few"),
        ({"volume_ml": 1e9}, "ask for less"),
        ({"volum_ml": 1}, "Unknown"),
    ],
)
def test_impossible_requests_get_one_sentence(model, features, word):
    with pytest.raises(InputError, match=word):
        model.draw(features, SPACING)


def test_contradictions_are_settled_and_said(model):
    drawn = model.draw(
        {"volume_ml": 8.0, "max_diameter_mm": 15.0}, SPACING, seed=1
    )  # the ball of 8 ml is 24.8 mm wide
    assert drawn.warnings and drawn.used != drawn.asked
    features = features_of(logs(drawn.reached))
    assert features[PREFIX + "Maximum3DDiameter"] ** 3 * np.pi / 6 >= features[PREFIX + "MeshVolume"]


def test_bundle_with_a_population_draws_without_a_network(tmp_path):
    plain = tiny_bundle(tmp_path / "plain")
    with pytest.raises(ModelError, match="no shape part"):
        ShapeModel.from_bundle(plain)
    table = population()
    manifest = {k: v for k, v in plain.json.items() if k != "files"}
    manifest["shape"] = {"population": {"names": list(table.names), "cases": list(table.cases)}}
    files = {f: plain.tensors(f) for f in plain.json["files"]}
    files["shape.safetensors"] = {"population": table.values.astype(np.float32)}
    model = ShapeModel.from_bundle(write_bundle(tmp_path / "shapes", manifest, files))
    drawn = model.draw({"volume_ml": 3.0}, SPACING, seed=1)
    assert drawn.reached[PREFIX + "MeshVolume"] == pytest.approx(3000, rel=0.005)


def lent(table: Population, count: int = 6) -> dict:
    """Tensors of forms: bumpy masks that stand for the first tumours of a population."""
    plain, masks, edges = ShapeModel(table), [], []
    for row in range(count):
        asked = dict(zip(table.names, table.values[row]))
        edge = float((asked[PREFIX + "VoxelVolume"] / 6000) ** (1 / 3))
        masks.append(plain.draw(asked, (edge,) * 3, seed=row).mask)
        edges.append(edge)
    return Forms.packed(masks, edges, range(count))


@pytest.fixture(scope="module")
def grown():
    """A model that grows its shapes from forms, and the tensors of these."""
    table = population()
    model, tensors = ShapeModel(table), lent(table)
    model.forms = Forms.of(tensors, model._table)
    return model, tensors


def test_a_form_is_bent_and_keeps_what_was_not_asked(grown):
    """Asked for a size alone, a shape has the features of a form at that size, and isn't a copy of it."""
    model, _ = grown
    drawn = model.draw({"volume_ml": 5.0}, SPACING, seed=3)
    assert drawn.reached[PREFIX + "MeshVolume"] == pytest.approx(5000, rel=0.005)
    _, target = model._start({"volume_ml": 5.0}, 3, SPACING)
    for name in ("Elongation", "Flatness", "Sphericity"):
        assert drawn.reached[PREFIX + name] == pytest.approx(target.features[PREFIX + name], abs=0.06)
    form, _ = model.forms.form(0, np.random.default_rng(0))
    other = bent(form.values, np.random.default_rng(1)) > 0
    share = 2 * (other & (form.values > 0)).sum() / (other.sum() + (form.values > 0).sum())
    assert 0.5 < share < 0.97 and ndimage.label(other)[1] <= 2


def test_a_form_keeps_the_fine_relief_of_its_tumour():
    """A ball of two voxels takes as much off it as off the tumour's own mask."""
    forms = ShapeModel.from_bundle(find("lung-nodule-ct")).forms
    ball = np.sum((np.indices((5, 5, 5)) - 2) ** 2, 0) <= 4

    def opened(mask):
        mask = np.pad(mask, 4)
        return 1 - ndimage.binary_opening(mask, ball).sum() / mask.sum()

    some = range(0, len(forms.masks), 30)
    drawn = [draw(forms.form(i, np.random.default_rng(i))[0], (forms.edges[i],) * 3).mask for i in some]
    assert np.median([opened(m) for m in drawn]) > np.median([opened(forms.masks[i]) for i in some])


def test_a_form_reaches_what_is_asked(grown):
    model, _ = grown
    asked = {"volume_ml": 8.0, "sphericity": 0.75, "elongation": 0.8, "flatness": 0.6}
    exact = model.draw(asked, SPACING, seed=4).reached
    assert exact[PREFIX + "MeshVolume"] == pytest.approx(8000, rel=0.005)
    for name in ("Sphericity", "Elongation", "Flatness"):
        assert exact[PREFIX + name] == pytest.approx(asked[name.lower()], abs=0.015)


def test_forms_near_a_request_are_taken(grown):
    """All features of one of the forms lead to it, at any size; a size alone to several."""
    model, _ = grown
    spread = model._gauss[1]
    own = features_of(model.forms.logs[2])
    form = {n: own[n] for n in own if n.endswith(("Elongation", "Flatness", "Sphericity"))}
    draws = [model.forms.chosen(form, spread, np.random.default_rng(k)) for k in range(40)]
    assert np.bincount(draws, minlength=6).argmax() == 2
    sizes = spread + 4 * np.outer(SCALE, SCALE) / 9  # of tumours as small as nodules and as large as sarcomas
    assert draws == [model.forms.chosen(form, sizes, np.random.default_rng(k)) for k in range(40)]
    some = {model.forms.chosen({}, spread, np.random.default_rng(k)) for k in range(60)}
    assert some == set(range(6))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("row"),
        lambda t: t.update(row=t["row"] + 100),
        lambda t: t.update(edge=t["edge"] * np.nan),
        lambda t: t.update(shape=t["shape"] * 2),
        lambda t: t.update(bits=t["bits"] * 0),
        lambda t: t.update(shape=t["shape"][:, :2]),
    ],
)
def test_damaged_forms_are_refused(grown, change):
    model, tensors = grown
    damaged = dict(tensors)
    change(damaged)
    with pytest.raises(ModelError, match="damaged"):
        Forms.of(damaged, model._table)

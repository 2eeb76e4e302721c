"""The shape generator: preparation, training that goes on where it stopped, export into a bundle, evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_shape_model import population
from tiny_bundle import tiny_bundle
from training_case import TRAINING, one_thread  # noqa: F401

from TumorSynthLib.errors import ModelError
from TumorSynthLib.radiomics.shape_features import shape as shape_features
from TumorSynthLib.shape import ShapeModel
from TumorSynthLib.shape.coordinates import BASE, NAMES, PREFIX, logs
from TumorSynthLib.shape.field import grid
from TumorSynthLib.shape.network import FormGenerator, Generator, ShapeConfig, _convolved, free_of_size

prepare_shapes = pytest.importorskip("prepare_shapes")
shape_networks = pytest.importorskip("shape_networks")
train_shape = pytest.importorskip("train_shape")
export_shape = pytest.importorskip("export_shape")
write_results = pytest.importorskip("write_results")
SPACING = (1.0, 1.0, 1.0)


def tumours(path: Path, count=4):
    """A file of masks as in the shared data: ellipsoids of different axes."""
    masks = []
    for k in range(count):
        z, y, x = np.indices((26, 26, 26)) - 12.5
        masks.append((z / (6 + k)) ** 2 + (y / 8) ** 2 + (x / (10 - k)) ** 2 < 1)
    packed = [np.packbits(m) for m in masks]
    offset = np.cumsum([0, *map(len, packed)])
    np.savez(
        path, bits=np.concatenate(packed), offset=offset, shape=[m.shape for m in masks], spacing=SPACING,
        id=[f"t{k}" for k in range(count)], patient=[f"p{k}" for k in range(count)],
    )  # fmt: skip
    return masks


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    masks = tumours(folder / "some.npz")
    a = prepare_shapes.parse(
        ["--group", f"some={folder / 'some.npz'}", "--out", str(folder / "out"), "--each", "12"]
    )
    prepare_shapes.prepare(a)
    return folder / "out", masks


@pytest.mark.parametrize("bias", [None, torch.arange(5.0)])
def test_one_form_is_convolved_as_many(bias):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 6, 7, 8), torch.randn(5, 3, 3, 3, 3)
    with torch.inference_mode():
        alone = _convolved(x, weight, bias)
        many = _convolved(torch.cat([x, x]), weight, bias)
    torch.testing.assert_close(alone, many[:1], rtol=1e-4, atol=1e-4)


def test_prepared_examples_carry_the_features_of_their_masks(prepared):
    folder, masks = prepared
    fields, table = np.load(folder / "fields.npy"), np.load(folder / "logs.npy")
    meta = json.loads((folder / "meta.json").read_text())
    assert fields.shape == (12, 32, 32, 32) and table.shape == (12, 10)
    exact = shape_features(masks[0], SPACING)
    np.testing.assert_allclose(table[0], logs(exact), atol=1e-9)
    np.testing.assert_allclose(
        meta["groups"]["some"]["cases"]["t0"], [exact[n[len(PREFIX) :]] for n in NAMES]
    )
    # Each field shows its own features: its volume and axes, free of size, as those of its row.
    inside = fields > 0
    for k in range(12):
        points = np.argwhere(inside[k])
        axes = 4 * np.sqrt(np.linalg.eigvalsh(np.cov(points.T))[::-1])
        radius = (3 * len(points) / 4 / np.pi) ** (1 / 3)
        told = np.exp(table[k][7:] - (table[k][0] + np.log(3 / 4 / np.pi)) / 3)
        np.testing.assert_allclose(axes / radius, told, rtol=0.06)


def test_values_do_not_depend_on_size():
    features = dict(zip(NAMES, population().values[0]))
    base = logs(features)[None]
    scale = np.array([3, 3, 2, *[1] * 7]) * np.log(2.5)
    small, large = free_of_size(base), free_of_size(base + scale)
    np.testing.assert_allclose(small[:, :-1], large[:, :-1], atol=1e-12)
    assert large[0, -1] - small[0, -1] == pytest.approx(np.log(2.5))


def test_soft_features_follow_an_ellipsoid():
    u = torch.from_numpy(grid(32))
    axes = torch.tensor([0.45, 0.6, 0.8])
    field = (1 - (u / axes).norm(dim=-1)) * 0.55
    found = shape_networks.soft_features(field[None, None].float()).exp()[0]
    radius = float(axes.prod() ** (1 / 3))
    expected = 4 * axes.flip(0) / 5**0.5 / radius
    np.testing.assert_allclose(found[5:], expected, rtol=0.04)
    widths = (
        2 * np.array([0.8, 0.8, 0.8, 0.6]) / radius
    )  # in space, across z, y and x (the longest axis is x)
    np.testing.assert_allclose(found[1:5], widths, rtol=0.12)


def test_tokens_carry_identity():
    """Exchanging two features' values changes what is drawn, and so does withholding one."""
    torch.manual_seed(0)
    network = Generator(ShapeConfig()).eval()
    code, values = torch.randn(1, 48), torch.randn(1, len(NAMES) + 1)
    given, group = torch.ones(1, len(NAMES) + 1, dtype=torch.bool), torch.tensor([0])
    swapped = values[:, [1, 0, *range(2, values.shape[1])]]
    fewer = given.clone()
    fewer[0, 3] = False
    with torch.inference_mode():
        one = network(code, values, given, group)
        assert (one - network(code, swapped, given, group)).abs().max() > 1e-4
        assert (one - network(code, values, fewer, group)).abs().max() > 1e-4
        assert torch.equal(one, network(code, values, given, group))


def steps(prepared, out, *options):
    command = [
        sys.executable,
        str(TRAINING / "train_shape.py"),
        "--data",
        str(prepared),
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    command += ["--batch", "2", "--widths", "8", "8", "8", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return torch.load(Path(out) / "last.pt", map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    first = steps(prepared[0], out, "--steps", "2")
    return out, first, steps(prepared[0], out, "--steps", "4")


def test_training_goes_on_where_it_stopped(trained):
    _, first, second = trained
    assert (first["step"], second["step"]) == (2, 4) and second["spent"] > first["spent"]
    changed = [k for k, v in first["painter"].items() if not torch.equal(v, second["painter"][k])]
    assert any("generator" in k for k in changed) and any("encoder" in k for k in changed)
    assert any(not torch.equal(v, second["judge"][k]) for k, v in first["judge"].items())
    assert all(torch.isfinite(v).all() for v in second["ema"].values())


def test_bundle_gets_its_shape_part(prepared, trained, tmp_path, monkeypatch):
    tiny_bundle(tmp_path / "bundle")
    before = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    arguments = [
        "--bundle",
        str(tmp_path / "bundle"),
        "--shapes",
        str(prepared[0]),
        "--group",
        "some",
        "--run",
        str(trained[0]),
    ]
    bundle = export_shape.add(export_shape.parse(arguments))
    assert bundle.json["population"] == before["population"] and set(before["files"]) < set(
        bundle.json["files"]
    )
    model = ShapeModel.from_bundle(bundle)
    assert model.population.cases == ("t0", "t1", "t2", "t3") and isinstance(model.network, FormGenerator)
    checkpoint = trained[2]
    network = Generator(ShapeConfig.from_dict(checkpoint["config"]))
    network.load_state_dict(checkpoint["ema"])
    base = logs(dict(zip(NAMES, model.population.values[1])))
    mine, theirs = (
        g.field(base, np.random.default_rng(3)) for g in (FormGenerator(network, "some"), model.network)
    )
    np.testing.assert_allclose(mine, theirs, atol=0.01)
    with pytest.raises(ModelError, match="hold some"):
        export_shape.add(export_shape.parse([*arguments[:5], "other"]))
    written = {f.name: f.read_bytes() for f in bundle.folder.iterdir()}
    monkeypatch.setattr(export_shape, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="stays as it was"):
        export_shape.add(export_shape.parse([*arguments, "--version", "9.0.0"]))
    assert {f.name: f.read_bytes() for f in bundle.folder.iterdir()} == written


def test_forms_are_lent_by_those_who_judge_nothing(prepared, tmp_path, monkeypatch):
    """Patients that judge are left out, as those who are named; what the bundle has stays, and it draws from the forms."""
    tiny_bundle(tmp_path / "bundle")
    arguments = ["--bundle", str(tmp_path / "bundle"), "--shapes", str(prepared[0]), "--group", "some"]
    before = export_shape.add(export_shape.parse(arguments))
    tumours(tmp_path / "some.npz")
    cases = list(prepare_shapes.masks(tmp_path / "some.npz"))
    monkeypatch.setattr(export_shape, "LEAST_VOXELS", 20)
    monkeypatch.setattr(export_shape, "FLAT_CAP", 1.0)
    monkeypatch.setattr(export_shape, "reserved", lambda: {cases[1][1]})
    given = ["--bundle", str(tmp_path / "bundle"), "--forms", str(tmp_path / "some.npz")]
    bundle = export_shape.lend(export_shape.parse([*given, "--leave-out", cases[2][1]]))
    left = [c[0] for c in cases if c[1] not in (cases[1][1], cases[2][1])]
    assert sorted(bundle.json["shape"]["forms"]["cases"]) == sorted(left) and left
    assert set(bundle.json["files"]) == {*before.json["files"], "forms.safetensors"}
    model = ShapeModel.from_bundle(bundle)
    assert len(model.forms.masks) == len(left)
    assert model.draw({"volume_ml": 2.0}, SPACING, seed=1).reached[PREFIX + "MeshVolume"] == pytest.approx(
        2000, rel=0.01
    )
    with pytest.raises(SystemExit):
        export_shape.parse(["--bundle", "x", "--group", "some"])


def test_looks_of_balls_and_stars():
    """A ball loses little to the opening and is solid; rays of three voxels are lost, and show as spiculation."""
    pytest.importorskip("skimage")
    shape_scoring = pytest.importorskip("shape_scoring")
    place = np.indices((41, 41, 41)) - 20.0
    ball = (place**2).sum(0) <= 12**2
    star = ball.copy()
    for turn in range(0, 360, 30):
        for r in np.arange(0, 19, 0.3):
            y, x = r * np.sin(np.radians(turn)), r * np.cos(np.radians(turn))
            j, i = round(20 + y), round(20 + x)
            star[19:22, j - 1 : j + 2, i - 1 : i + 2] = True
    round_, spiky = (shape_scoring.look(m, SPACING[:1] * 3) for m in (ball, star))
    assert round_["opening"] < 0.03 < spiky["opening"] * 10 and spiky["opening"] > round_["opening"]
    assert round_["solidity"] > 0.97 > spiky["solidity"] and round_["bending"] == pytest.approx(1, abs=0.1)
    lines = [shape_scoring.waviness(shape_scoring.silhouettes(m, (1.0,) * 3)) for m in (ball, star)]
    assert lines[1]["spiculation"] > 3 * lines[0]["spiculation"]
    rng = np.random.default_rng(0)
    x, label, who = rng.normal(size=(120, 4)), np.arange(40).repeat(3) % 2, np.arange(20).repeat(6)
    assert shape_scoring.told_apart(x + 2 * label[:, None], label, who)["auc"] > 0.9
    told = shape_scoring.told_apart(x, label, who)
    assert 0.25 < told["auc"] < 0.75
    row = {"real 5, 50, 95": [0.1, 0.2, 0.3], "made 5, 50, 95": [0.2, 0.3, 0.4], "made within": 0.5}
    page = write_results.shape_looks(
        {"tumours": 3, "patients": 2, "features": {"opening": row}, "silhouettes": told}
    )
    assert f"AUC {told['auc']:.2f}" in page[0]
    assert "| opening | 0.100 0.200 0.300 | 0.200 0.300 0.400 | 0.50 |" in page


def test_network_forms_are_solved(prepared, trained, tmp_path, monkeypatch):
    """Even what an untrained network draws comes out with the asked features; with forms of real tumours it stays at hand."""
    tiny_bundle(tmp_path / "bundle")
    arguments = [
        "--bundle",
        str(tmp_path / "bundle"),
        "--shapes",
        str(prepared[0]),
        "--group",
        "some",
        "--run",
        str(trained[0]),
    ]
    model = ShapeModel.from_bundle(export_shape.add(export_shape.parse(arguments)))
    asked = {"volume_ml": 2.0, "elongation": 0.8}
    drawn = model.draw(asked, SPACING, seed=1)
    assert drawn.reached[PREFIX + "MeshVolume"] == pytest.approx(2000, rel=0.01)
    tumours(tmp_path / "some.npz")
    monkeypatch.setattr(export_shape, "LEAST_VOXELS", 20)
    monkeypatch.setattr(export_shape, "FLAT_CAP", 1.0)
    given = ["--bundle", str(tmp_path / "bundle"), "--forms", str(tmp_path / "some.npz")]
    bundle = export_shape.lend(export_shape.parse(given))
    assert ShapeModel.from_bundle(bundle).network is None
    again = ShapeModel.from_bundle(bundle, grown=False)
    assert again.forms is None and (again.draw(asked, SPACING, seed=1).mask == drawn.mask).all()


def test_evaluation_of_a_population(prepared, tmp_path):
    """The command on a bundle without a network: every number is there, and what is solved is better than what isn't."""
    folder, _ = prepared
    tiny_bundle(tmp_path / "bundle")
    arguments = ["--bundle", str(tmp_path / "bundle"), "--shapes", str(folder), "--group", "some"]
    export_shape.add(export_shape.parse(arguments))
    shape_scoring = pytest.importorskip("shape_scoring")
    pytest.importorskip("radiomics")
    tumours(tmp_path / "val.npz", 5)
    model = ShapeModel.from_bundle(shape_scoring.load_bundle(tmp_path / "bundle"))
    cases = list(prepare_shapes.masks(tmp_path / "val.npz"))
    rows = shape_scoring.fidelity(model, cases, 0)
    exact = shape_features(cases[0][2], SPACING)
    assert rows[0]["asked"] == {PREFIX + n: pytest.approx(v, rel=1e-6) for n, v in exact.items()}
    solved, alone = (shape_scoring.table([r for r in rows if r["arm"] == arm]) for arm in ("solved", "alone"))
    assert solved["volume_error"]["largest"] < 0.01 and solved["median"] > 0.98
    assert np.mean(list(solved["relative_error"].values())) < np.mean(list(alone["relative_error"].values()))
    assert solved["shuffled"] < 0.5 < solved["interval"][0] <= solved["interval"][1]
    again = shape_scoring.diversity(model, cases, 3, 0)
    assert 0 < again["volume and sphericity"]["dice"] < 1


def test_parts_of_an_evaluation_add_up(prepared, tmp_path):
    """What was measured before stays, for the same command; of another one nothing does."""
    pytest.importorskip("radiomics")
    shape_scoring = pytest.importorskip("shape_scoring")
    bundle = tiny_bundle(tmp_path / "bundle").folder
    arguments = ["--bundle", str(bundle), "--shapes", str(prepared[0]), "--group", "some"]
    export_shape.add(export_shape.parse(arguments))
    tumours(tmp_path / "val.npz", 3)
    out = tmp_path / "out.json"
    command = ["--model", str(bundle), "--shapes", str(tmp_path / "val.npz"), "--json", str(out), "--quick"]
    shape_scoring.main([*command, "--parts", "fidelity"])
    shape_scoring.main([*command, "--parts", "timings"])
    told = json.loads(out.read_text())
    assert told["results"]["solved"]["cases"] == 3 and told["timings"]["preview"]["times"] > 3
    assert "grid" not in told and told["timings"]["solved at 1 mm, all 17"]["times"] == 3
    page = "\n".join(write_results.shape({k: v for k, v in told.items() if k != "timings"}))
    assert "| solved | 3 (" in page and "Timings" not in page and "grid" not in page
    shape_scoring.main([*command, "--seed", "1", "--parts", "timings"])
    assert "results" not in json.loads(out.read_text())


def test_base_names_are_told_by_tokens():
    assert [NAMES[k][len(PREFIX) :] for k in train_shape.TOLD] == [
        n for n in BASE if not n.endswith("Volume")
    ]

"""Several regions: prepared, trained, exported and edited one at a time; on real glioma with necrosis and enhancing tumour."""

import json
from pathlib import Path

import editor_case
import numpy as np
import pytest
import torch
from tiny_bundle import tiny_bundle
from training_case import call, common, export_bundle, one_thread, prepare, train_texture  # noqa: F401

from TumorSynthLib import cli
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import ImageWarning, InputError, ModelError
from TumorSynthLib.models.bundle import load_bundle
from TumorSynthLib.radiomics.extract import extract, extract_image
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture.context import conditions, region_masks
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig
from TumorSynthLib.volume import Volume, read_image, read_labelmap, write_volume

NAMES = ["necrosis", "enhancing"]


@pytest.fixture(scope="module")
def prepared(shared_data, tmp_path_factory) -> Path:
    """Crops of two patients with glioma, T1CE and FLAIR, two regions."""
    out = tmp_path_factory.mktemp("glioma")
    options = ["--crop", 16, 32, 32, "--windows", 2, "--varied", 0, "--context", 1, "--limit", 4]
    call(prepare, "brats2015", "--data", shared_data / "brats2015/train", "--out", out, *options)
    return out


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    options = ["--steps", 2, "--batch", 2, "--draws", 1, "--widths", 8, 8, 16, "--threads", 1]
    call(train_texture, "--data", prepared, "--out", out, *options)
    return out


@pytest.fixture(scope="module")
def bundle(prepared, trained, tmp_path_factory):
    """Bundle of a network that has hardly been trained."""
    out = tmp_path_factory.mktemp("bundle") / "glioma"
    words = ["--run", trained, "--data", prepared, "--out", out, "--id", "glioma", "--version", "0.1.0"]
    words += [
        "--title",
        "Glioma",
        "--organ",
        "brain",
        "--licence",
        "CC BY-NC-SA",
        "--data-name",
        "BraTS 2015",
    ]
    words += ["--data-licence", "CC BY-NC-SA", "--margin", 8]
    return export_bundle.export(export_bundle.parse([str(w) for w in words]))


@pytest.fixture(scope="module")
def case(shared_data):
    """Image and labelmap of a patient."""
    folder = shared_data / "brats2015/val"
    volume = read_image(folder / "BRATS2013_pat0003_T1CE_image.nii.gz")
    labels = read_image(folder / "BRATS2013_pat0003_mask.nii.gz").array.astype(np.uint8)
    plan = prepare.PLANS["brats2015"]
    return prepare.scaled(volume, plan), labels


# Preparation


def test_each_region_has_crops_features_and_a_population(prepared, shared_data):
    data = common.Prepared(prepared)
    assert data.regions == NAMES and [r["label"] for r in data.meta["regions"]] == [1, 4]
    tumours = [i for i, r in enumerate(data.rows) if r["kind"] != "context"]
    assert {data.rows[i]["region"] for i in tumours} == set(NAMES)
    settings = Settings(binWidth=10)
    for i in tumours[::7]:
        mask = (data.labels[i] & prepare.FULL) > 0
        own = (data.labels[i] & (1 << (common.REGION_BIT + data.region[i]))) > 0
        assert own[mask].all() and mask.any()  # what is painted lies in its own region
        found = extract(data.images[i].astype(np.float32), mask, (1.0, 1.0, 1.0), settings, prepare.CLASSES)
        np.testing.assert_allclose(data.features[i], [found[n] for n in data.meta["names"]], rtol=1e-9)
    stem = shared_data / "brats2015/train" / "BRATS2013_pat0001"
    volume = prepare.scaled(read_image(f"{stem}_T1CE_image.nii.gz"), prepare.PLANS["brats2015"])
    labels = read_image(f"{stem}_mask.nii.gz").array
    for name, own in (("necrosis", (1, 3)), ("enhancing", (4,))):
        found = extract_image(volume, np.isin(labels, own), settings, ("firstorder", "glcm"))
        there = data.meta["population"]["T1CE"][name]["BRATS2013_pat0001"]
        assert all(there[n] == pytest.approx(v, rel=1e-6) for n, v in found.items())


def test_oedema_is_neither_painted_nor_healthy(prepared):
    data = common.Prepared(prepared)
    regions = (1 << common.REGION_BIT) | (1 << (common.REGION_BIT + 1))
    only = [((label & prepare.TUMOUR) > 0) & ((label & regions) == 0) for label in data.labels]
    assert sum(o.sum() for o in only) > 1000
    assert not any((o & ((label & prepare.FULL) > 0)).any() for o, label in zip(only, data.labels))


# Training


def sampler_of(prepared: Path):
    data = common.Prepared(prepared)
    names = train_texture.conditioning(data.meta["names"])
    columns = [data.meta["names"].index(n) for n in names]
    return train_texture.Sampler(data, columns, train_texture.intensity_maps(data))


def test_items_show_the_painted_region_and_the_others_around_it(prepared):
    """Input channels: eight per region, the painted one's are the hole's, and the other one never overlaps it."""
    sampler = sampler_of(prepared)
    batch = sampler.batch(10, step=0, first=0, seed=0)
    assert batch["conditions"].shape[1] == 8 * 2 + 10
    assert set(batch["region"].tolist()) == {0, 1}
    around = 0
    for k in range(10):
        hole = batch["hole"][k, 0].numpy()
        number = int(batch["region"][k])
        channels = batch["conditions"][k, :16].reshape(2, 8, -1)
        blocks = torch.from_numpy(
            hole.reshape(8, 2, 16, 2, 16, 2).transpose(1, 3, 5, 0, 2, 4).reshape(8, -1).astype(np.float32)
        )
        assert float(channels[number].sum()) == hole.sum()
        torch.testing.assert_close(channels[number].sum(0), blocks.sum(0))
        other = channels[1 - number]
        assert not ((channels[number] > 0) & (other > 0)).any()
        around += int((other > 0).any())
    assert around >= 3


def test_a_network_paints_what_it_is_told(trained):
    """The region's embedding and its own feature scaling change the prediction."""
    saved = torch.load(trained / "last.pt", map_location="cpu", weights_only=True)
    config = NetworkConfig.from_dict(saved["config"]["network"])
    assert config.regions == 2 and saved["config"]["meta"]["regions"][1] == {"name": "enhancing", "label": 4}
    assert saved["network"]["tokens.center"].shape[0] == 4  # two modalities with two regions each
    assert not torch.equal(saved["network"]["tokens.center"][0], saved["network"]["tokens.center"][1])
    network = BridgeNetwork(config)
    network.load_state_dict(saved["network"])
    z = torch.zeros(1, 8, 4, 8, 8)
    rest = (torch.zeros(1, 26, 4, 8, 8), torch.tensor([0.5]), torch.tensor([0]))
    rest += (
        torch.ones(1, config.features),
        torch.ones(1, config.features, dtype=torch.bool),
        torch.tensor([False]),
    )
    with torch.no_grad():
        outs = [network(z, z, *rest, torch.tensor([r])) for r in (0, 1)]
    assert not torch.equal(*outs)


def test_one_region_leaves_the_network_as_it_was():
    """Same weights, same names, same input channels: bundles of before load and draw the same voxels."""
    config = NetworkConfig(8, 4, 2, 1, (8, 8, 16), 1, 2, 8, 16)
    torch.manual_seed(0)
    network = BridgeNetwork(config).eval()
    assert not [name for name in network.state_dict() if name.startswith("region")]
    assert network.tokens.center.shape == (2, 4)
    mask, valid = np.zeros((8, 16, 16), bool), np.ones((8, 16, 16), bool)
    mask[2:6, 4:12, 4:12] = True
    plain = conditions(mask[None], valid, (1.0, 1.0, 2.0))
    masks = region_masks(mask, 0, np.zeros((1, *mask.shape), bool))
    assert torch.equal(plain, conditions(masks, valid, (1.0, 1.0, 2.0), mask))
    z = torch.randn(1, 8, 4, 8, 8)
    rest = (
        plain,
        torch.tensor([0.5]),
        torch.tensor([1]),
        torch.ones(1, 4),
        torch.ones(1, 4, dtype=torch.bool),
    )
    with torch.no_grad():
        a, b = (
            network(z, z, *rest, torch.tensor([False])),
            network(z, z, *rest, torch.tensor([False]), torch.tensor([0])),
        )
    assert torch.equal(a, b)


def test_a_bundle_of_before_draws_the_same_with_and_without_the_region_named():
    from TumorSynthLib.models import find

    bundle = find("lung-nodule-ct")
    assert [r.name for r in bundle.regions] == ["tumour"] and bundle.painting(None) is bundle
    model = TextureModel.from_bundle(bundle, "cpu")
    rng = np.random.default_rng(0)
    array = rng.normal(-100, 60, (8, 16, 16)).astype(np.float32)
    mask = np.zeros(array.shape, bool)
    mask[2:6, 4:12, 4:12] = True
    wanted = {"original_firstorder_Mean": 20.0}
    a = model.sample(array, mask, "CT", wanted, seed=1, steps=1)
    b = model.sample(array, mask, "CT", wanted, seed=1, steps=1, region="tumour", others={"tumour": ~mask})
    assert np.array_equal(a, b)
    with pytest.raises(InputError, match="tumour"):
        model.sample(array, mask, "CT", wanted, region="necrosis")


# Bundle


def test_bundle_has_regions_and_a_population_for_each(bundle, prepared):
    bundle.verify()
    again = load_bundle(bundle.folder)
    assert [(r.name, r.label) for r in again.regions] == [("necrosis", 1), ("enhancing", 4)]
    expected = common.Prepared(prepared).meta["population"]["FLAIR"]
    for name in NAMES:
        view = again.painting(name.upper())
        population = view.population("FLAIR")
        k = population.names.index("original_glcm_Contrast")
        for case, row in zip(population.cases, population.values):
            assert row[k] == pytest.approx(expected[name][case]["original_glcm_Contrast"], rel=1e-6)
    assert again.json["training"]["scaled_to_median"] == 500
    with pytest.raises(InputError, match="necrosis.*enhancing"):
        again.population("FLAIR")
    with pytest.raises(InputError, match="oedema"):
        again.painting("oedema")


@pytest.mark.parametrize(
    "regions",
    [[], ["a", "a"], [{"name": "a"}], [{"name": "a", "label": 0}], [{"name": "a", "label": 1}] * 2, "a"],
    ids=str,
)
def test_damaged_regions_are_named(regions, tmp_path):
    with pytest.raises(ModelError, match="regions"):
        tiny_bundle(tmp_path / "m", regions=regions)
        load_bundle(tmp_path / "m")


def test_a_population_by_region_is_checked(bundle, tmp_path):
    manifest = json.loads((bundle.folder / "bundle.json").read_text())
    manifest["population"]["FLAIR"]["necrosis"]["cases"] = []
    from TumorSynthLib.models.manifest import check_manifest

    with pytest.raises(ModelError, match="FLAIR.necrosis.cases"):
        check_manifest(manifest, "here")


# Edits


@pytest.fixture(scope="module")
def editor(bundle):
    return Editor(bundle, "cpu")


QUICK = {"modality": "T1CE", "steps": 1, "solve": False}


@pytest.mark.parametrize("name, label", [("necrosis", 1), ("enhancing", 4)])
def test_painting_one_region_leaves_the_others_bit_identical(editor, case, name, label):
    volume, labels = case
    result = editor.synthesize(volume, labels, EditRequest(region=name, seed=1, **QUICK))
    own = labels == label
    assert np.array_equal(result.mask, own) and result.provenance["request"]["region"] == name
    assert np.array_equal(result.volume.array[~own], volume.array[~own])
    assert (result.volume.array != volume.array)[own].mean() > 0.5
    found = editor.extract(volume, labels, "T1CE", ["firstorder"], region=name)
    assert result.before["original_firstorder_Mean"] == pytest.approx(found["original_firstorder_Mean"])
    assert found["original_firstorder_Mean"] == pytest.approx(volume.array[own].mean())


def test_features_asked_of_a_region_are_reached_in_that_region(editor, case):
    volume, labels = case
    asked = {"mean_intensity": 700.0, "intensity_sd": 90.0}
    request = EditRequest(features=asked, region="enhancing", modality="T1CE", steps=1, seed=2)
    result = editor.synthesize(volume, labels, request)
    inside = result.volume.array[labels == 4]
    assert inside.mean() == pytest.approx(700, rel=0.02) and inside.std() == pytest.approx(90, rel=0.05)
    spread = editor.painting("enhancing").population("T1CE").std
    assert result.spread["original_firstorder_Mean"] == pytest.approx(
        spread[editor.painting("enhancing").population("T1CE").names.index("original_firstorder_Mean")]
    )


def test_the_network_sees_the_other_region(editor, case):
    """The same hole with and without the labels around it is painted differently."""
    volume, labels = case
    request = EditRequest(region="necrosis", seed=1, **QUICK)
    whole = editor.synthesize(volume, labels, request)
    alone = editor.synthesize(volume, labels == 1, request)  # a bool mask: nothing is known of the rest
    assert np.array_equal(whole.mask, alone.mask) and not np.array_equal(
        whole.volume.array, alone.volume.array
    )


def test_removal_takes_one_region_or_all(editor, case):
    volume, labels = case
    one = editor.remove(volume, labels, EditRequest(region="necrosis", **QUICK))
    assert np.array_equal(one.volume.array[labels != 1], volume.array[labels != 1])
    both = editor.remove(volume, labels, EditRequest(**QUICK))
    assert np.array_equal(both.mask, np.isin(labels, [1, 4])) and both.provenance["operation"] == "remove"


def test_what_needs_one_region_says_so(editor, case):
    volume, labels = case
    with pytest.raises(InputError, match="necrosis.*enhancing"):
        editor.synthesize(volume, labels, EditRequest(**QUICK))
    with pytest.raises(InputError, match="several regions"):
        editor.move(volume, labels, EditRequest(to=(0.0, 0.0, 0.0), **QUICK))
    with pytest.raises(InputError, match="no voxel of enhancing"):
        editor.synthesize(volume, (labels == 1).astype(np.uint8), EditRequest(region="enhancing", **QUICK))


def test_a_model_with_one_region_takes_its_name_and_no_other(tmp_path):
    volume, mask = editor_case.ct()
    editor = Editor(editor_case.model(tmp_path / "m"), "cpu")
    plain = editor.synthesize(volume, mask, EditRequest(steps=1, solve=False))
    named = editor.synthesize(volume, mask, EditRequest(steps=1, solve=False, region="tumour"))
    assert np.array_equal(plain.volume.array, named.volume.array)
    assert "region" not in plain.provenance["request"]
    with pytest.raises(InputError, match="necrosis"):
        editor.synthesize(volume, mask, EditRequest(region="necrosis"))


# Command line


@pytest.fixture(scope="module")
def files(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    volume, labels = case
    write_volume(volume, folder / "image.nii.gz")
    write_volume(volume.with_array(labels), folder / "labels.nii.gz")
    return folder / "image.nii.gz", folder / "labels.nii.gz"


def test_commands_take_a_region(bundle, files, case, tmp_path, capsys):
    volume, labels = case
    common_words = [*map(str, files), "--model", str(bundle.folder), "--modality", "T1CE"]
    assert cli.main(["extract", *common_words, "--region", "enhancing", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["region"] == "enhancing" and found["mask voxels"] == int((labels == 4).sum())
    assert 0 <= found["percentiles"]["original_firstorder_Mean"] <= 100
    out = tmp_path / "edited.nii.gz"
    words = ["--region", "necrosis", "--steps", "1", "--quiet"]
    assert (
        cli.main(["synthesize", *common_words, *words, "--set", "mean_intensity=300", "--out", str(out)]) == 0
    )
    edited = read_image(out).array
    assert np.array_equal(edited[labels != 1], volume.array[labels != 1])
    assert edited[labels == 1].mean() == pytest.approx(300, rel=0.02)
    again = tmp_path / "again.nii.gz"
    repeat = [*map(str, files), "--model", str(bundle.folder), "--repeat", str(tmp_path / "edited.json")]
    assert cli.main(["synthesize", *repeat, "--out", str(again), "--quiet"]) == 0
    assert np.array_equal(read_image(again).array, edited)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--region", "oedema"], "oedema"),
        ([], "--region"),
        (["--region", "necrosis", "--label", "9"], "label 9"),
    ],
)
def test_wrong_regions_are_one_line_and_exit_code_2(words, message, bundle, files, tmp_path, capsys):
    out = str(tmp_path / "x.nii.gz")
    common_words = [*map(str, files), "--model", str(bundle.folder), "--modality", "T1CE", "--out", out]
    assert cli.main(["synthesize", *common_words, "--quiet", *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x.nii.gz").exists()


def test_a_labelmap_on_another_grid_and_a_damaged_one(files, case, tmp_path):
    volume, labels = case
    finer = Volume(labels.repeat(2, 0).repeat(2, 1).repeat(2, 2), tuple(s / 2 for s in volume.spacing),
                   tuple(volume.points([-0.25] * 3)), volume.direction)  # fmt: skip
    write_volume(finer, tmp_path / "fine.nii.gz")
    with pytest.warns(ImageWarning, match="another grid"):
        assert np.array_equal(read_labelmap(tmp_path / "fine.nii.gz", volume), labels)
    write_volume(volume.with_array(labels.astype(np.float32) + 0.5), tmp_path / "half.nii.gz")
    with pytest.raises(InputError, match="whole numbers"):
        read_labelmap(tmp_path / "half.nii.gz", volume)

"""Bundles: what is accepted, and how a damaged or malicious one is refused."""

import hashlib
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import tiny_bundle

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models import (
    bundled_folder,
    find,
    info,
    install,
    installed,
    list_models,
    load_bundle,
    load_catalogue,
    verify,
)
from TumorSynthLib.models import pyradiomics_params as params
from TumorSynthLib.models.catalogue import Catalogue
from TumorSynthLib.models.folders import user_folder
from TumorSynthLib.models.store import version_key


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Empty user folder, and no bundled models."""
    folder = tmp_path / "models"
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(folder))
    monkeypatch.delenv("TUMORSYNTH_CATALOGUE", raising=False)
    bundled = tmp_path / "bundled"
    for module in ("store", "installation", "catalogue"):
        monkeypatch.setattr(f"TumorSynthLib.models.{module}.bundled_folder", lambda: bundled)
    return folder


def edit_manifest(folder: Path, change) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def relist(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was tampered with."""
    data = (folder / name).read_bytes()
    edit_manifest(
        folder,
        lambda m: m["files"].__setitem__(
            name, {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        ),
    )


def test_a_bundle_gives_back_what_was_written(tmp_path):
    values = np.random.default_rng(1).normal(size=(5, 14))
    tiny_bundle(tmp_path / "tiny", values=values, modalities=("CT", "T1"))
    bundle = load_bundle(tmp_path / "tiny")
    assert (bundle.id, bundle.version, bundle.modalities) == ("tiny", "1.0.0", ("CT", "T1"))
    assert bundle.spacing == (1.0, 1.0, 2.0)
    assert bundle.licence == "CC0-1.0"
    assert bundle.sha256 == hashlib.sha256((tmp_path / "tiny" / "bundle.json").read_bytes()).hexdigest()
    tensors = bundle.tensors("network.safetensors")
    assert tensors["network.weight"].shape == (16, 16)
    assert np.abs(tensors["network.weight"]).sum() > 0
    np.testing.assert_allclose(bundle.tensors("population.safetensors")["T1"], values, rtol=1e-6)
    assert bundle.settings("CT").binWidth == 25


def test_the_population_is_that_of_the_modality(tmp_path):
    pytest.importorskip("TumorSynthLib.radiomics.population")
    values = np.random.default_rng(1).normal(size=(9, 14))
    population = tiny_bundle(tmp_path / "tiny", values=values).population("CT")
    assert population.names[0] == "original_firstorder_Mean"
    np.testing.assert_allclose(population.values, values, rtol=1e-6)
    assert population.cases[-1] == "case008"


def test_a_modality_is_named_or_the_only_one(tmp_path):
    two = tiny_bundle(tmp_path / "two", modalities=("CT", "T1"))
    assert two.modality("t1") == "T1"
    assert tiny_bundle(tmp_path / "one").modality(None) == "CT"
    with pytest.raises(ModelError, match="CT, T1"):
        two.modality(None)
    with pytest.raises(ModelError, match="not on 'PET'"):
        two.modality("PET")


def test_a_random_network_loads_into_the_texture_model(tmp_path):
    pytest.importorskip("torch")
    generator = pytest.importorskip("TumorSynthLib.texture.generator")
    bundle = tiny_bundle(tmp_path / "tiny", network=True)
    model = generator.TextureModel.from_bundle(bundle, "cpu")
    array = np.random.default_rng(0).normal(0, 50, (6, 16, 16)).astype(np.float32)
    mask = np.zeros(array.shape, bool)
    mask[2:4, 5:10, 5:10] = True
    out = model.sample(array, mask, "CT", {bundle.json["network"]["features"][0]: 10.0}, seed=1)
    assert np.array_equal(out[~mask], array[~mask])
    assert not np.array_equal(out[mask], array[mask])


def wrong_values():
    sha = "0" * 64
    return {
        "format": ("format", 2, "update"),
        "id": ("id", "../evil", "'id'"),
        "windows device": ("id", "con", "'id'"),
        "version": ("version", "latest", "'version'"),
        "modalities": ("modalities", [], "'modalities'"),
        "spacing": ("spacing_mm", [1, 1], "'spacing_mm'"),
        "negative spacing": ("spacing_mm", [1, -1, 1], "'spacing_mm'"),
        "margin": ("margin_mm", "10", "'margin_mm'"),
        "intensity": ("intensity", {}, "intensity.CT"),
        "range": ("intensity", {"CT": {"kind": "asinh", "range": [1, 0]}}, "intensity.CT.range"),
        "extraction": ("extraction", {"T1": {}}, "extraction.CT"),
        "population": (
            "population",
            {"CT": {"names": ["a", "a"], "cases": ["b"], "tensor": "CT"}},
            "CT.names",
        ),
        "no files": ("files", {}, "'files'"),
        "parent folder": ("files", {"../x.safetensors": {"sha256": sha, "bytes": 9}}, "plain file name"),
        "absolute": ("files", {"/etc/passwd": {"sha256": sha, "bytes": 9}}, "plain file name"),
        "backslash": ("files", {"..\\x.safetensors": {"sha256": sha, "bytes": 9}}, "plain file name"),
        "drive": ("files", {"C:x.safetensors": {"sha256": sha, "bytes": 9}}, "plain file name"),
        "pickle": ("files", {"model.pt": {"sha256": sha, "bytes": 9}}, "run any program"),
        "other kind": ("files", {"model.onnx": {"sha256": sha, "bytes": 9}}, "safetensors files only"),
        "hash": ("files", {"x.safetensors": {"sha256": "abc", "bytes": 9}}, "files.x.safetensors.sha256"),
        "size": ("files", {"x.safetensors": {"sha256": sha, "bytes": -1}}, "files.x.safetensors.bytes"),
    }


@pytest.mark.parametrize("key, value, message", wrong_values().values(), ids=wrong_values().keys())
def test_a_wrong_manifest_is_refused_by_key(tmp_path, key, value, message):
    folder = tiny_bundle(tmp_path / "tiny").folder
    edit_manifest(folder, lambda m: m.__setitem__(key, value))
    with pytest.raises(ModelError, match=message.replace(".", r"\.")):
        load_bundle(folder)


@pytest.mark.parametrize("key", ["id", "files", "spacing_mm", "extraction", "licence"])
def test_a_missing_key_is_named(tmp_path, key):
    folder = tiny_bundle(tmp_path / "tiny").folder
    edit_manifest(folder, lambda m: m.pop(key))
    with pytest.raises(ModelError, match=f"lacks the key '{key}'"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"format": NaN}', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b" " * (16 * 2**20 + 1), "more than 16 MB"),
    ],
    ids=["broken", "list", "nan", "bytes", "deep", "huge"],
)
def test_a_manifest_that_is_not_one_is_refused(tmp_path, content, message):
    folder = tiny_bundle(tmp_path / "tiny").folder
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_bundle(folder)


def test_a_folder_without_a_manifest_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"no bundle\.json"):
        load_bundle(tmp_path)
    with pytest.raises(ModelError, match="not a folder"):
        load_bundle(tmp_path / "nowhere")


def test_one_changed_byte_is_found_before_parsing(tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path / "tiny")
    path = bundle.folder / "network.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr("safetensors.numpy.load", lambda data: pytest.fail("parsed before it was checked"))
    with pytest.raises(ModelError, match=r"network\.safetensors: its SHA-256 differs"):
        load_bundle(bundle.folder).tensors("network.safetensors")


def test_swapped_files_are_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny").folder
    one, two = folder / "network.safetensors", folder / "population.safetensors"
    one.rename(folder / "x")
    two.rename(one)
    (folder / "x").rename(two)
    with pytest.raises(ModelError, match="bytes, bundle.json says"):
        load_bundle(folder)


def test_missing_and_truncated_files_are_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny").folder
    path = folder / "network.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(ModelError, match="bundle.json says"):
        load_bundle(folder)
    relist(folder, path.name)
    with pytest.raises(ModelError, match="not valid safetensors"):
        load_bundle(folder).tensors(path.name)
    path.unlink()
    with pytest.raises(ModelError, match="missing"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "length, message",
    [
        (2**63, "header claims"),
        (11 * 2**20, "header claims"),
        (0, "header claims"),
        (10_000, "header claims"),
    ],
)
def test_a_header_longer_than_allowed_is_refused(tmp_path, length, message):
    folder = tiny_bundle(tmp_path / "tiny").folder
    path = folder / "network.safetensors"
    size = 12 * 2**20 if length == 11 * 2**20 else 1000
    path.write_bytes(struct.pack("<Q", length) + b"{}".ljust(size))
    relist(folder, path.name)
    with pytest.raises(ModelError, match=message):
        load_bundle(folder).tensors(path.name)


def test_a_header_that_points_outside_the_file_is_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny").folder
    header = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
    path = folder / "network.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    relist(folder, path.name)
    for framework in ("numpy", "torch"):
        with pytest.raises(ModelError, match="not valid safetensors"):
            load_bundle(folder).tensors(path.name, framework)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
@pytest.mark.parametrize("name", ["network.safetensors", "bundle.json"])
def test_links_are_refused(tmp_path, name):
    folder = tiny_bundle(tmp_path / "tiny").folder
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    os.symlink(outside, folder / name)
    with pytest.raises(ModelError, match="link"):
        load_bundle(folder)


def test_a_pickle_beside_the_tensors_is_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny").folder
    (folder / "model.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"'model\.ckpt'.*run any program"):
        load_bundle(folder)


def test_extra_files_are_ignored_with_the_reason(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny").folder
    (folder / "README.md").write_text("notes")
    (folder / "extra.safetensors").write_bytes(b"123")
    (folder / "more").mkdir()
    bundle = load_bundle(folder)
    assert bundle.ignored == {
        "extra.safetensors": "not listed in bundle.json",
        "more": "a bundle has no sub-folders",
    }
    with pytest.raises(ModelError, match="has no file 'extra.safetensors'"):
        bundle.tensors("extra.safetensors")


def test_a_population_of_another_size_is_refused(tmp_path):
    pytest.importorskip("TumorSynthLib.radiomics.population")
    folder = tiny_bundle(tmp_path / "tiny").folder
    edit_manifest(folder, lambda m: m["population"]["CT"]["cases"].pop())
    with pytest.raises(ModelError, match=r"says \(19, 14\)"):
        load_bundle(folder).population("CT")


def test_find_prefers_the_users_model(models, tmp_path):
    tiny_bundle(tmp_path / "bundled" / "tiny")
    assert find("tiny").folder == tmp_path / "bundled" / "tiny"
    tiny_bundle(models / "tiny", version="2.0.0")
    assert find("tiny").version == "2.0.0"
    assert find(str(tmp_path / "bundled" / "tiny")).version == "1.0.0"
    assert [(model.id, model.version, model.bundled) for model in installed()] == [("tiny", "2.0.0", False)]


def test_an_unknown_model_names_those_that_are_there(models):
    tiny_bundle(models / "lung-nodule-ct", id="lung-nodule-ct")
    with pytest.raises(ModelError, match="did you mean 'lung-nodule-ct'"):
        find("lung-nodule")
    with pytest.raises(ModelError, match="models list"):
        find("no/such/model")


def test_list_shows_damaged_models_with_the_reason(models, tmp_path):
    tiny_bundle(models / "good", id="good")
    tiny_bundle(models / "broken", id="broken")
    (models / "broken" / "network.safetensors").unlink()
    tiny_bundle(models / "other-name", id="misnamed")
    listing = list_models(Catalogue((), ""))
    assert {row["id"]: row["status"] for row in listing.models} == {
        "good": "installed",
        "broken": "damaged",
        "other-name": "damaged",
    }
    assert any("missing" in note for note in listing.notes)
    json.dumps(listing.models)


def test_verify_names_the_damaged_model(models):
    tiny_bundle(models / "good", id="good")
    path = tiny_bundle(models / "bad", id="bad").folder / "network.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    results = dict(verify())
    assert results["good"] == ""
    assert "SHA-256" in results["bad"]
    assert verify("good") == [("good", "")]
    assert "SHA-256" in verify("bad")[0][1]
    with pytest.raises(ModelError, match="no model"):
        verify("absent")


def test_info_is_json_without_the_populations_numbers(models):
    tiny_bundle(models / "tiny")
    shown = info("tiny")
    assert shown["scores"] == {"pearson": 0.0}
    assert shown["population"] == {"CT": {"cases": 20, "features": 14}}
    assert shown["status"] == "installed"
    json.dumps(shown)


def test_user_folder_by_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("TUMORSYNTH_MODELS", raising=False)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    parts = {
        "win32": tmp_path / "local",
        "darwin": tmp_path / "Library" / "Application Support",
        "linux": tmp_path / "data",
    }
    for platform, expected in parts.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert user_folder() == expected / "TumorSynthRadiomics" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert user_folder() == tmp_path / ".local" / "share" / "TumorSynthRadiomics" / "models"


def test_the_checkouts_models_are_found():
    folder = bundled_folder()
    assert folder is not None
    assert (folder / "catalogue.json").is_file()


def test_versions_compare_by_number():
    assert version_key("1.10.0") > version_key("1.9.1") > version_key("1.9") == version_key("1.9.0-rc1")


def test_params_reproduce_the_models_features_in_pyradiomics(tmp_path):
    featureextractor = pytest.importorskip("radiomics.featureextractor")
    sitk = pytest.importorskip("SimpleITK")
    extraction = {"CT": {"binWidth": 10.0, "voxelArrayShift": 1000, "geometryTolerance": 1e-06}}
    bundle = tiny_bundle(tmp_path / "tiny", extraction=extraction)
    path = tmp_path / "params.yaml"
    path.write_text(params(bundle), encoding="utf-8")
    extractor = featureextractor.RadiomicsFeatureExtractor(str(path))
    assert extractor.settings["binWidth"] == 10
    assert extractor.settings["geometryTolerance"] == 1e-6
    assert extractor.settings["resampledPixelSpacing"] == [1, 1, 2]
    array = np.random.default_rng(0).normal(0, 50, (12, 12, 12)).astype(np.float32)
    mask = np.zeros(array.shape, np.uint8)
    mask[3:9, 3:9, 3:9] = 1
    features = extractor.execute(sitk.GetImageFromArray(array), sitk.GetImageFromArray(mask))
    assert {name for name in features if name.startswith("original")} == set(
        bundle.json["population"]["CT"]["names"]
    )


@pytest.mark.parametrize(
    "scale", [(1, 1, 1), (1.004, 1.004, 1), (0.993, 0.993, 1.006), (1 + 3e-6,) * 3, (1 - 4e-4,) * 3]
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_params_hold_on_grids_near_the_models(tmp_path, scale, dtype):
    """An image's grid may differ from the model's as little as scanners' do; features are still those of the file."""
    radiomics = pytest.importorskip("radiomics")
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    from TumorSynthLib.editor import Editor
    from TumorSynthLib.volume import Volume

    radiomics.setVerbosity(60)
    bundle = tiny_bundle(tmp_path / "tiny", population={})
    path = tmp_path / "params.yaml"
    path.write_text(params(bundle), encoding="utf-8")
    rng = np.random.default_rng(3)
    array = (40 + 60 * rng.standard_normal((20, 40, 44))).astype(dtype)
    mask = (
        sum((axis - n / 2) ** 2 / (n / 3) ** 2 for axis, n in zip(np.indices(array.shape), array.shape)) < 1
    )
    volume = Volume(array, tuple(s * f for s, f in zip(bundle.spacing, scale)), (-20.0, 3.0, 40.0))
    labels = volume.with_array(mask.astype(np.uint8)).sitk()
    expected = RadiomicsFeatureExtractor(str(path)).execute(volume.sitk(), labels)
    found = Editor(bundle).extract(volume, mask, "CT")
    for name, value in expected.items():
        if not name.startswith("diagnostics"):
            assert found[name] == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


def test_params_without_a_population_ask_for_all_classes(tmp_path):
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load(params(tiny_bundle(tmp_path / "tiny", population={})))
    assert len(content["featureClass"]) == 7
    assert content["setting"]["binWidth"] == 25


@pytest.fixture
def no_home(monkeypatch):
    """A user without HOME and without an entry, as containers have."""
    for name in (
        "HOME",
        "USERPROFILE",
        "LOCALAPPDATA",
        "XDG_DATA_HOME",
        "TUMORSYNTH_MODELS",
        "TUMORSYNTH_CATALOGUE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_without_a_home_folder_the_bundled_models_are_there(no_home, tmp_path):
    tiny_bundle(tmp_path / "tiny")
    assert list_models().models and find(bundled_folder_ids()[0]).verify() is None
    with pytest.raises(ModelError, match="no home folder.*TUMORSYNTH_MODELS"):
        install(tmp_path / "tiny")


def bundled_folder_ids() -> list[str]:
    return [path.name for path in sorted(bundled_folder().iterdir()) if (path / "bundle.json").is_file()]


@pytest.mark.parametrize("name", ["TUMORSYNTH_MODELS", "TUMORSYNTH_CATALOGUE"])
def test_a_folder_of_nobody_is_named(monkeypatch, name):
    monkeypatch.setenv(name, "~nouser-at-all/models")
    with pytest.raises(ModelError, match="~nouser-at-all"):
        user_folder() if name == "TUMORSYNTH_MODELS" else load_catalogue()


ODD = {
    "half a character": lambda m: m.update(title="Lung \ud800"),
    "half a character in a part that isn't read": lambda m: m["training"].update(data="\udfff"),
    "control characters": lambda m: m.update(title="a\x1b[2Jb"),
    "a number of 400 digits": lambda m: m.update(margin_mm=10**399),
    "a number of 400 digits in scores": lambda m: m["scores"].update(pearson=10**399),
    "an infinite number": lambda m: m.update(margin_mm=float("1e400")),
    "deep nesting": lambda m: m["training"].update(deep=_nested(60)),
    "a blank licence": lambda m: m.update(licence=" \n"),
    "an empty licence": lambda m: m.update(licence={}),
    "an unknown engine": lambda m: m.update(engine="warp"),
    "no codec": lambda m: m.pop("codec"),
    "no sampler": lambda m: m.pop("sampler"),
    "a sampler without nodes": lambda m: m["sampler"].pop("nodes"),
    "nodes that rise": lambda m: m["sampler"].update(nodes=[0.1, 1.0]),
    "nodes that are texts": lambda m: m["sampler"].update(nodes=["a"]),
    "eta of 5": lambda m: m["sampler"].update(eta=5),
    "no scale": lambda m: m["intensity"]["CT"].pop("scale"),
    "no centre": lambda m: m["intensity"]["CT"].pop("center"),
    "scale 0": lambda m: m["intensity"]["CT"].update(scale=0),
    "a negative scale": lambda m: m["intensity"]["CT"].update(scale=-3),
    "an unknown kind of intensity": lambda m: m["intensity"]["CT"].update(kind="log"),
    "widths that are texts": lambda m: m["network"]["config"].update(widths=["a", "b", "c"]),
    "widths of a million": lambda m: m["network"]["config"].update(widths=[10**6] * 3),
    "blocks of 10^9": lambda m: m["network"]["config"].update(blocks=10**9),
    "no block": lambda m: m["network"]["config"].update(blocks=0),
    "features of another number": lambda m: m["network"]["config"].update(features=3),
    "a config that is a list": lambda m: m["network"].update(config=[]),
    "features that are numbers": lambda m: m["network"].update(features=[1, 2]),
    "a codec of 10^9 channels": lambda m: m.update(codec={"kind": "vqgan", "width": 10**9}),
    "a shape part that is a list": lambda m: m.update(shape=[]),
    "a shape part without a population": lambda m: m.update(shape={"network": {}}),
    "a bank that is a number": lambda m: m.update(bank=5),
    "a bank without tumours": lambda m: m.update(bank={"tumours": "many"}),
}  # fmt: skip


def _nested(depth: int):
    return [_nested(depth - 1)] if depth else 0


@pytest.mark.parametrize("what", ODD)
def test_an_odd_bundle_is_refused_and_leaves_the_others_alone(models, what):
    tiny_bundle(models / "good", id="good")
    tiny_bundle(models / "odd", id="odd")
    edit_manifest(models / "odd", ODD[what])
    for refused in (lambda: find("odd"), lambda: install(models / "odd"), lambda: info("odd")):
        with pytest.raises(ModelError, match="odd"):
            refused()
    listing = list_models(Catalogue((), ""))
    assert [m["status"] for m in listing.models] == ["installed", "damaged"] and find("good").verify() is None
    assert dict(verify())["good"] == "" and "odd" in dict(verify())["odd"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, "bfloat16"])
def test_weights_that_are_no_numbers_are_refused(models, tmp_path, value, dtype):
    """Such a network would fill the mask with 0, exit 0."""
    tiny_bundle(tmp_path / "bad", id="bad")
    array = np.full(3, value, np.float32)
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        from safetensors.torch import save

        data = save({"network.weight": torch.from_numpy(array).to(torch.bfloat16)})
    else:
        from safetensors.numpy import save

        data = save({"network.weight": array.astype(dtype)})
    (tmp_path / "bad" / "network.safetensors").write_bytes(data)
    relist(tmp_path / "bad", "network.safetensors")
    for refused in (
        lambda: load_bundle(tmp_path / "bad").tensors("network.safetensors", "torch"),
        lambda: install(tmp_path / "bad"),
    ):
        with pytest.raises(ModelError, match="holds NaN or infinity"):
            refused()


def test_settings_that_nobody_can_use_are_refused_at_install(models, tmp_path):
    tiny_bundle(tmp_path / "bad", id="bad")
    edit_manifest(tmp_path / "bad", lambda m: m["extraction"]["CT"].update(distances=[10**9]))
    with pytest.raises(ModelError, match="its settings can't be used"):
        install(tmp_path / "bad")

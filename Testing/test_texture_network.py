"""Texture network and generator, on tiny configurations."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_texture import CODECS, ball, noise
from torch import nn

from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.texture import context, generator, network, precision
from TumorSynthLib.texture.bridge import FEW_STEP_NODES
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.generator import LEVEL, TextureModel, pick_device
from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig, SliceConv
from TumorSynthLib.texture.removal import RIM, blend_rim, tainted_rim

FEATURES = 5
TINY = NetworkConfig(
    latent_channels=8,
    features=FEATURES,
    modalities=2,
    widths=(8, 8, 16),
    blocks=1,
    heads=2,
    token=8,
    embedding=16,
)


# Network


def awake(config=TINY, seed=0):
    """A network whose zero-initialised layers are random, so that every path shows in the output."""
    torch.manual_seed(seed)
    net = BridgeNetwork(config).eval()
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(0, 0.2)
    return net


def inputs(config=TINY, batch=1, size=(4, 8, 8), seed=0, **changes):
    rng = torch.Generator().manual_seed(seed)
    c, k = config.latent_channels, network.condition_count(config.regions)
    made = {
        "x": torch.randn(batch, c, *size, generator=rng),
        "y": torch.randn(batch, c, *size, generator=rng),
        "conditions": torch.rand(batch, k, *size, generator=rng),
        "m": torch.rand(batch, generator=rng),
        "modality": torch.arange(batch) % config.modalities,
        "values": torch.randn(batch, config.features, generator=rng),
        "given": torch.ones(batch, config.features, dtype=torch.bool),
        "removal": torch.zeros(batch, dtype=torch.bool),
    }
    return made | changes


def test_slice_convolution_equals_conv3d():
    for depth, cin, cout in ((1, 3, 4), (5, 4, 2)):
        conv = SliceConv(cin, cout)
        reference = nn.Conv3d(cin, cout, 3, padding=1)
        with torch.no_grad():  # slices below, at and above come one after the other along the input channels
            reference.weight.copy_(torch.stack(conv.weight.chunk(3, 1), 2))
            reference.bias.copy_(conv.bias)
        x = noise(2, cin, depth, 6, 7)
        out = network._volumes(conv(network._slices(x), depth), depth)
        torch.testing.assert_close(out, reference(x), rtol=1e-5, atol=1e-6)


def test_down_and_up_agree_on_the_order_of_voxels():
    for deep in (False, True):
        down, up = network.Down(2, 16, deep), network.Up(16, 2, deep)
        n = 16 if deep else 8
        with torch.no_grad():
            down.map.weight.zero_(), down.map.bias.zero_(), up.map.weight.zero_(), up.map.bias.zero_()
            down.map.weight[:n] = torch.eye(n)
            up.map.weight[:, :n] = torch.eye(n)
        x = network._slices(noise(2, 2, 4, 4, 6))
        small, depth = down(x, 4)
        assert small.shape == ((4 if deep else 8), 16, 2, 3) and depth == (2 if deep else 4)
        back, depth = up(small, depth)
        torch.testing.assert_close(back, x)


@pytest.mark.parametrize("size", [(2, 4, 4), (4, 8, 12), (6, 4, 16)])
@pytest.mark.parametrize(
    "config", [TINY, NetworkConfig(3, 2, 1, 2, (4, 8, 8), 2, 4, 8, 16)], ids=["one region", "two regions"]
)
def test_output_has_the_latents_shape(size, config):
    with torch.no_grad():
        out = awake(config)(**inputs(config, 2, size))
    assert out.shape == (2, config.latent_channels, *size) and torch.isfinite(out).all()


def test_untrained_network_starts_at_the_filled_image():
    torch.manual_seed(0)
    sent = inputs()
    assert float((BridgeNetwork(TINY)(**sent) - sent["y"]).detach().abs().max()) < 0.5


@torch.no_grad()
def test_shuffled_features_change_the_output():
    """The authors' release gives the same output here: its tokens carry no identity."""
    net, sent = awake(), inputs()
    shuffled = sent | {"values": sent["values"][:, [1, 2, 3, 4, 0]]}
    assert (net(**sent) - net(**shuffled)).abs().max() > 1e-3
    pooled = nn.Linear(2 * FEATURES, 16)  # and by attention alone, without the pooled vector
    nn.init.zeros_(pooled.weight)
    net.tokens.pool = pooled
    assert (net(**sent) - net(**shuffled)).abs().max() > 1e-4


@torch.no_grad()
def test_features_that_are_not_given_have_no_influence():
    net, sent = awake(), inputs()
    sent["given"][0, 2] = False
    out = net(**sent)
    for value in (1e6, math.nan):
        other = sent["values"].clone()
        other[0, 2] = value
        assert torch.equal(net(**sent | {"values": other}), out)
    sent["given"][0, 3] = False
    assert (net(**sent) - out).abs().max() > 1e-4  # to be told nothing is itself told


@torch.no_grad()
def test_removal_ignores_features():
    net = awake()
    sent = inputs(removal=torch.ones(1, dtype=torch.bool))
    out = net(**sent)
    assert torch.equal(net(**sent | {"values": sent["values"] + 3}), out)
    assert torch.equal(net(**sent | {"given": torch.zeros_like(sent["given"])}), out)
    assert (net(**inputs()) - out).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name, value", [("m", torch.tensor([0.9])), ("modality", torch.tensor([1]))])
def test_time_and_modality_matter(name, value):
    net, sent = awake(), inputs(m=torch.tensor([0.1]))
    assert (net(**sent | {name: value}) - net(**sent)).abs().max() > 1e-3


def test_gradient_reaches_every_parameter():
    net = awake().train()
    sent = inputs(batch=3, removal=torch.tensor([False, True, False]))
    sent["given"][0, :2] = False
    net(**sent).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@torch.no_grad()
def test_items_of_a_batch_are_independent():
    net = awake()
    sent = inputs(batch=3, removal=torch.tensor([False, True, False]))
    sent["given"][2, :3] = False
    out = net(**sent)
    for i in range(3):
        alone = net(**{k: v[i : i + 1] for k, v in sent.items()})
        torch.testing.assert_close(alone, out[i : i + 1], rtol=1e-4, atol=1e-5)


def test_norms_may_be_more_precise_than_products(monkeypatch):
    """As under autocast on a GPU, where layer norm stays float32: attention mixed the two, and failed there."""
    net = awake()
    given = inputs(batch=3, removal=torch.tensor([False, True, False]))
    precise = net(**given)
    norm = network.channel_norm
    monkeypatch.setattr(network, "channel_norm", lambda x, weight: norm(x.float(), weight))
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(**given)
    assert torch.allclose(rough.float(), precise, atol=0.3) and not torch.equal(rough.float(), precise)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_predicts_what_the_cpu_does():
    net = awake()
    given = inputs(batch=3, removal=torch.tensor([False, True, False]))
    expected = net(**given)
    net.to("cuda")
    assert torch.allclose(net(**{k: v.to("cuda") for k, v in given.items()}).cpu(), expected, atol=0.02)


def test_token_scaling_standardises_raw_values():
    net = BridgeNetwork(TINY)
    net.tokens.set_scaling(
        torch.tensor([[10.0, 0, 0, 0, math.log(100)], [0.0] * 5]),
        torch.full((2, 5), 2.0),
        torch.tensor([[False] * 4 + [True], [False] * 5]),
    )
    values = torch.tensor([[12.0, 0, 0, 0, 100 * math.e**2]])
    seen = net.tokens.standardise(values, torch.tensor([0]))
    torch.testing.assert_close(seen[0, [0, 1, 4]], torch.asinh(torch.tensor([1.0, 0.0, 1.0])))
    assert float(net.tokens.standardise(values, torch.tensor([1]))[0, 0]) == pytest.approx(math.asinh(6))


def test_config_round_trip_and_errors():
    assert NetworkConfig.from_dict(TINY.as_dict() | {"widths": [8, 8, 16]}) == TINY
    with pytest.raises(ModelError, match="hyper"):
        NetworkConfig.from_dict({"hyper": 1})
    with pytest.raises(ModelError, match="multiples of 4"):
        NetworkConfig(widths=(8, 8, 10))


# Generator


NAMES = tuple(f"original_firstorder_f{i}" for i in range(FEATURES))


def model(codec="haar"):
    chosen = make_codec(CODECS[codec])
    config = NetworkConfig(**(TINY.as_dict() | {"latent_channels": chosen.channels}))
    maps = {"CT": context.IntensityMap(0, 100), "T1": context.IntensityMap(400, 200)}
    return TextureModel(
        awake(config), chosen.eval(), NAMES, ("CT", "T1"), maps, (1.0, 1.0, 2.0), (1.0, 0.5, 0.1)
    )


REGIONS = {
    "odd shape": ((5, 11, 13), lambda s: ball(s, 2.6)),
    "touches the border": ((4, 8, 8), lambda s: ball(s, 5, (0, 0, 4))),
    "all of it": ((4, 8, 8), lambda s: np.ones(s, bool)),
    "one voxel": ((4, 8, 16), lambda s: ball(s, 0.5, (1, 3, 9))),
}


@pytest.mark.parametrize("codec", ["haar", "vqgan"])
@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_sample_changes_the_mask_alone(region, codec):
    shape, make = region
    mask = make(shape)
    array = (np.random.default_rng(0).normal(0, 80, shape) * 7).astype(np.float32)
    out = model(codec).sample(array, mask, "CT", dict.fromkeys(NAMES[:2], 1.0), seed=1)
    assert out.shape == shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert np.array_equal(out[~mask], array[~mask])
    assert (out[mask] != array[mask]).all()


def test_what_the_mask_hides_has_no_influence():
    mask = ball((5, 11, 13), 2.6)  # touches two borders, beyond which the region is padded
    valid = np.ones(mask.shape, bool)
    valid[0] = False  # outside the image, where a region replicates its border
    array = np.random.default_rng(0).normal(0, 80, mask.shape).astype(np.float32)
    other = np.where(mask, 900, array).astype(np.float32)
    other[0] = 900
    for features in ({}, None):
        a, b = (model().sample(v, mask & valid, "CT", features, valid=valid, seed=1) for v in (array, other))
        np.testing.assert_array_equal(a[mask & valid], b[mask & valid])


def test_same_seed_same_voxels():
    tumours, mask = model(), ball((4, 8, 8), 3)
    array = np.zeros((4, 8, 8), np.float32)

    def draw(**changes):
        return tumours.sample(array, mask, "CT", {NAMES[0]: 1.0}, **{"seed": 3} | changes)

    first = draw()
    np.testing.assert_array_equal(draw(), first)
    for changes in ({"seed": 4}, {"steps": 5}, {"eta": 0.0}, {"valid": ball((4, 8, 8), 3.5)}):
        assert not np.array_equal(draw(**changes), first), changes


@pytest.mark.parametrize("few, guided", [(FEW_STEP_NODES, 2), ((1.0, 0.5, 0.1), 1), ((1.0,), 1)])
def test_the_last_evaluations_alone_are_guided(few, guided, monkeypatch):
    """Guided earlier, draws were easier to tell from real tumours."""
    tumours, mask, seen = model(), ball((4, 8, 8), 3), []
    tumours.few_steps, tumours.features, tumours.in_band = few, (LEVEL,) * FEATURES, False
    monkeypatch.setattr(generator, "calibrated", lambda x, hole, intensity, asked: seen.append(asked) or x)
    tumours.sample(np.zeros((4, 8, 8), np.float32), mask, "CT", {LEVEL: 40.0})
    assert [asked.mean for asked in seen] == [None] * (len(few) - guided) + [40.0] * guided


def test_features_removal_and_modality_matter():
    tumours, mask = model(), ball((4, 8, 8), 3)
    array = np.full((4, 8, 8), 50, np.float32)

    def draw(features, modality="CT"):
        return tumours.sample(array, mask, modality, features, seed=0)

    asked = draw({NAMES[0]: 1.0})
    assert not np.array_equal(draw({NAMES[0]: 2.0}), asked)
    assert not np.array_equal(draw({NAMES[1]: 1.0}), asked)
    assert not np.array_equal(draw({}), asked)
    assert not np.array_equal(draw(None), draw({}))
    assert not np.array_equal(draw({}, "T1"), draw({}))
    np.testing.assert_array_equal(draw({NAMES[0]: 1.0, "original_glcm_Unknown": 5.0}), asked)


def test_a_perfect_network_gives_the_image_back():
    """With the clean latent as prediction, the sampler ends at the image itself, whatever the noise was."""
    tumours, mask = model(), ball((4, 8, 8), 3)
    array = np.random.default_rng(0).normal(0, 80, (4, 8, 8)).astype(np.float32)
    mapped = torch.from_numpy(tumours.intensity["CT"].forward(array))[None, None]
    clean = tumours.codec.encode(mapped)
    tumours.network = lambda *args: clean
    np.testing.assert_allclose(tumours.sample(array, mask, "CT", {}, seed=5), array, atol=1e-2)


def test_progress_is_reported_and_may_stop_the_sampling():
    class Stop(Exception):
        pass

    heard = []

    def listen(stage, fraction):
        heard.append(fraction)
        if fraction > 0.5 and heard[0] == 0 and len(heard) > 3:
            raise Stop

    mask = ball((4, 8, 8), 3)
    tumours = model()
    with pytest.raises(Stop):
        tumours.sample(np.zeros((4, 8, 8), np.float32), mask, "CT", {}, progress=listen)
    assert heard == [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]


def test_unknown_modality_and_device_are_refused():
    mask = ball((4, 8, 8), 3)
    with pytest.raises(InputError, match="knows CT, T1, not 'PET'"):
        model().sample(np.zeros((4, 8, 8), np.float32), mask, "PET", {})
    with pytest.raises(InputError, match="'tpu' is not available"):
        pick_device("tpu")
    with pytest.raises(InputError, match="isn't one"):
        pick_device("cpu:x")
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_from_bundle_reads_small_weights_and_flags(dtype, monkeypatch):
    monkeypatch.setattr(
        precision, "fast_bfloat16", lambda device: False
    )  # the weights' precision is measured here
    reference = model()
    reference.network.tokens.log[:, 1] = True
    tensors = {f"codec.{k}": v for k, v in reference.codec.state_dict().items()}
    for k, v in reference.network.state_dict().items():
        stored = v.to(torch.uint8) if v.dtype == torch.bool else v.to(dtype) if v.ndim >= 2 else v
        tensors[f"network.{k}"] = stored
    json = {
        "id": "tiny", "files": {}, "network": {"config": reference.network.config.as_dict(), "features": list(NAMES)},
        "codec": CODECS["haar"], "modalities": ["CT", "T1"], "spacing_mm": [1.0, 1.0, 2.0],
        "intensity": {"CT": {"center": 0, "scale": 100}, "T1": {"center": 400, "scale": 200}},
        "sampler": {"nodes": [1.0, 0.5, 0.1], "eta": 1.0},
    }  # fmt: skip
    bundle = SimpleNamespace(json=json, tensors=lambda *_: tensors, settings=lambda modality: Settings())
    loaded = TextureModel.from_bundle(bundle, "cpu")
    assert (
        loaded.network.tokens.log.dtype == torch.bool
        and loaded.network.tokens.log.tolist() == [[False, True] + [False] * 3] * 2
    )
    assert all(p.dtype == torch.float32 for p in loaded.network.parameters())
    mask = ball((4, 8, 8), 3)
    a, b = (
        np.arcsinh(m.sample(np.zeros((4, 8, 8), np.float32), mask, "CT", {}, steps=1) / 100)
        for m in (reference, loaded)
    )
    tolerance = {torch.float32: 0, torch.float16: 0.01, torch.bfloat16: 0.1}[dtype]
    assert np.abs(a - b)[mask].max() <= tolerance * a[mask].std()
    del tensors["codec.mean"]
    with pytest.raises(ModelError, match="tiny.*reinstall"):
        TextureModel.from_bundle(bundle, "cpu")
    json |= {"version": "0.9.0", "files": {"network-further.safetensors": {}}}
    with pytest.raises(ModelError, match="tiny 0.9.0.*differences"):
        TextureModel.from_bundle(bundle, "cpu")


def test_removal_blends_towards_its_rim_in_the_outermost_voxels_only():
    mask = ball((12, 24, 24), 8)
    rim = ndimage.binary_dilation(mask, RIM) & ~mask
    out = blend_rim(np.zeros(mask.shape, np.float32), np.full(mask.shape, 100, np.float32), mask, rim)
    depth = ndimage.distance_transform_edt(mask, (2, 1, 1))
    assert 20 < out[mask & (depth <= 1)].mean() < 90 and np.abs(out[depth > 4]).max() < 1
    assert (out[~mask] == 0).all()


def test_removal_does_not_see_the_rim_of_the_tumour():
    mask = ball((8, 24, 24), 4)
    rim = ndimage.binary_dilation(mask, RIM) & ~mask
    seen = []
    for value in (1000.0, 3000.0):
        array = np.zeros(mask.shape, np.float32)
        array[rim] = value
        net = model()
        net.network.register_forward_hook(lambda module, sent, out: seen.append(sent[1]))
        net.sample(array, mask, "CT", None, steps=1)
    torch.testing.assert_close(seen[0], seen[1])


def test_a_healthy_rim_is_context_and_a_tainted_one_is_not():
    rng = np.random.default_rng(0)
    mask = ball((8, 32, 32), 5)
    image, valid = rng.uniform(-1, 1, mask.shape).astype(np.float32), np.ones(mask.shape, bool)
    rim = ndimage.binary_dilation(mask, RIM) & ~mask
    assert not tainted_rim(np.where(mask, 9.0, image), mask, valid).any()
    tainted = tainted_rim(np.where(rim, 5.0, image), mask, valid)
    assert (tainted == rim).all()
    valid[:, :8] = False
    assert not (tainted_rim(np.where(rim, 5.0, image), mask, valid) & ~valid).any()


def test_a_removal_is_the_expected_tissue_with_part_of_a_draws_texture(monkeypatch):
    rng = np.random.default_rng(0)
    array, mask = rng.normal(0, 50, (8, 32, 32)).astype(np.float32), ball((8, 32, 32), 5)
    net, found = model(), {}
    for share in (0.0, 0.5, 1.0):
        monkeypatch.setattr("TumorSynthLib.texture.removal.DETAIL", share)
        found[share] = net.intensity["CT"].forward(net.sample(array, mask, "CT", None, seed=1))
    alone = net.intensity["CT"].forward(net.sample(array, mask, "CT", None, seed=1, steps=1))
    np.testing.assert_allclose(found[0.0], alone, atol=1e-4)
    assert np.abs(found[1.0] - alone).max() > 0.01
    np.testing.assert_allclose(found[0.5], (found[0.0] + found[1.0]) / 2, atol=1e-4)


def test_a_removal_stays_within_the_range_of_its_surroundings():
    """A bright rim around a hole once drew ever darker values into its middle."""
    rng = np.random.default_rng(0)
    array = rng.uniform(-50, 50, (8, 32, 32)).astype(np.float32)
    mask = ball(array.shape, 5)
    net = model()
    net.network.register_forward_hook(lambda module, sent, out: out - 9.0)
    removed = net.sample(array, mask, "CT", None, seed=1)[mask]
    assert (
        removed.min() > -150 and removed.max() < 150
    )  # a little more than the surroundings, next to the rim
    assert net.sample(array, mask, "CT", {}, seed=1)[mask].min() < -500


@pytest.mark.parametrize("tiles", [True, False])
def test_bfloat16_runs_where_the_processor_has_tiles_for_it(tiles, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    with precision.autocast(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if tiles else torch.float32)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # torch before 2.5
    assert not precision.fast_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize(
    "modality, unit, expected", [("CT", "HU", True), ("T1", "grey level", False), ("T1", None, False)]
)
@pytest.mark.parametrize("limits", [{"range": [-1024, 3071]}, {}])
def test_ct_is_told_by_the_model_not_by_its_limits(tmp_path, modality, unit, expected, limits):
    """A model of MR without a range was removed from as if it were CT."""
    from tiny_bundle import tiny_bundle

    mapping = {"kind": "asinh", "center": 0.0, "scale": 100.0, **limits, **({"unit": unit} if unit else {})}
    bundle = tiny_bundle(tmp_path / "m", modalities=(modality,), network=True, intensity={modality: mapping})
    assert TextureModel.from_bundle(bundle, "cpu").intensity[modality].is_ct == expected
    assert Intensity.of(None, modality, bundle).is_ct == expected


def test_only_values_tell_ct_where_no_modality_does():
    low = np.array([-900.0, 40.0])
    assert Intensity.of(low, "").is_ct and Intensity.of(low, "").unit == "HU"
    assert not Intensity.of(low + 900, "").is_ct and not Intensity.of(low, "T1").is_ct
    assert Intensity.of(None, "CT").is_ct and Intensity.of(None, "T1").unit == ""


@pytest.mark.parametrize("engine", [None, "exemplar"])
def test_a_model_without_a_network_is_one_and_says_so(tmp_path, engine):
    import json

    from tiny_bundle import tiny_bundle

    from TumorSynthLib.models import load_bundle

    folder = tiny_bundle(tmp_path / "m").folder
    manifest = json.loads((folder / "bundle.json").read_text())
    for part in ("network", "codec", "sampler"):
        del manifest[part]
    manifest["intensity"]["CT"] = {"kind": "asinh"}
    (folder / "bundle.json").write_text(json.dumps({**manifest, "engine": engine}))
    with pytest.raises(ModelError, match="has no network"):
        TextureModel.from_bundle(load_bundle(folder), "cpu")

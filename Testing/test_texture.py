"""Codecs, Brownian bridge and what the network is told, on tiny configurations."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.texture import context, network
from TumorSynthLib.texture.bridge import FEW_STEP_NODES, Bridge, nodes
from TumorSynthLib.texture.codec import HaarCodec, VQGANCodec, blocks, make_codec, pool_any, unblocks

CODECS = {
    "haar": {"kind": "haar"},
    "vqgan": {"kind": "vqgan", "width": 8, "levels": [9, 9, 5]},
    "vqgan one channel": {"kind": "vqgan", "width": 4, "levels": [33]},
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Codec


@pytest.mark.parametrize("config", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("shape", [(1, 1, 4, 8, 8), (3, 1, 2, 6, 10)])
def test_codec_interface(config, shape):
    codec, x = make_codec(config), noise(*shape)
    z = codec.encode(x)
    assert z.shape == (shape[0], codec.channels, *(s // 2 for s in shape[2:]))
    assert codec.decode(z).shape == x.shape
    assert codec.mean.shape == codec.std.shape == (codec.channels,)
    assert isinstance(codec.lossless, bool)
    state = {k: v.clone() for k, v in codec.state_dict().items()}
    again = make_codec(config)
    again.load_state_dict(state)
    assert torch.equal(again.encode(x), z)


@pytest.mark.parametrize("config", CODECS.values(), ids=CODECS)
def test_codec_latents_are_standardised(config):
    codec, x = make_codec(config), noise(2, 1, 4, 8, 8)
    plain, back = codec.encode(x), codec.decode(codec.encode(x))
    codec.mean += 0.25
    codec.std *= 2
    torch.testing.assert_close(codec.encode(x), (plain - 0.25) / 2)
    torch.testing.assert_close(codec.decode(codec.encode(x)), back)


def test_unknown_codec_is_refused():
    with pytest.raises(ModelError, match="'zip'"):
        make_codec({"kind": "zip"})


def test_blocks_hold_the_voxels_of_each_cell():
    x = torch.arange(4 * 4 * 4.0).view(1, 1, 4, 4, 4)
    assert blocks(x)[0, :, 0, 1, 0].tolist() == x[0, 0, 0:2, 2:4, 0:2].flatten().tolist()
    assert torch.equal(unblocks(blocks(x)), x)


def test_haar_is_orthonormal_and_lossless():
    codec, x = HaarCodec(), noise(2, 1, 4, 8, 6) * 3 + 1
    torch.testing.assert_close(codec.matrix @ codec.matrix.T, torch.eye(8))
    z = codec.encode(x)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    torch.testing.assert_close(z[:, :1], nn.functional.avg_pool3d(x, 2) * math.sqrt(8))
    torch.testing.assert_close(codec.decode(z), x)
    assert codec.encode(torch.ones(1, 1, 2, 2, 2))[0, 1:].abs().max() < 1e-6


def test_vqgan_quantises_to_its_levels():
    codec = VQGANCodec(4, (3, 5))
    z = torch.linspace(-1.2, 1.2, 50).view(1, 1, 50, 1, 1).expand(1, 2, 50, 1, 1)
    q = codec.quantise(z)
    torch.testing.assert_close(q[0, 0].unique(), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(q[0, 1].unique(), torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    assert float((q - z.clamp(-1, 1))[0, 1].abs().max()) <= 0.25 + 1e-6


def test_vqgan_gradient_passes_straight_through():
    codec = VQGANCodec(8, (9, 9))
    z = noise(1, 2, 2, 2, 2).mul(0.3).requires_grad_()
    weight = noise(1, 2, 2, 2, 2, seed=1)
    (codec.quantise(z) * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)
    codec.reconstruct(noise(1, 1, 4, 4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.encoder.parameters())


def test_vqgan_decode_quantises_and_agrees_with_reconstruct():
    codec, x = VQGANCodec(8, (9, 9)).eval(), noise(1, 1, 4, 4, 4)
    z = codec.encode(x)
    torch.testing.assert_close(codec.decode(z), codec.reconstruct(x))
    assert torch.equal(codec.decode(codec.quantise(z)), codec.decode(z))


def test_pool_any_marks_touched_cells():
    mask = torch.zeros(1, 1, 4, 4, 4)
    mask[0, 0, 3, 0, 1] = 1
    cells = pool_any(mask)[0, 0]
    assert cells.sum() == 1 and cells[1, 0, 0] == 1


# Bridge


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("m", [0.05, 0.5, 0.9])
def test_forward_process_has_the_papers_moments(scale, m):
    x0, y = torch.full((1, 1, 40, 40, 40), 2.0), torch.full((1, 1, 40, 40, 40), -1.0)
    x = Bridge(scale).noised(x0, y, torch.tensor([m]), noise(*x0.shape))
    assert abs(float(x.mean()) - ((1 - m) * 2 - m)) < 0.02
    assert abs(float(x.var()) - 2 * scale * (m - m * m)) < 0.02
    assert Bridge(scale).deviation(m) == pytest.approx(math.sqrt(2 * scale * (m - m * m)))


def test_bridge_ends_are_exact_and_times_are_per_item():
    x0, y = noise(2, 1, 2, 2, 2), noise(2, 1, 2, 2, 2, seed=1)
    out = Bridge().noised(x0, y, torch.tensor([0.0, 1.0]), noise(2, 1, 2, 2, 2, seed=2))
    assert torch.equal(out[0], x0[0]) and torch.equal(out[1], y[1])


def bbdm_posterior(x_t, x0, y, m, n, s):
    """q(x_n | x_m, x0, y) from the joint normal distribution of two times of the chain.

    BBDM's chain is x_m = A x_n + B y + N(0, V), with A and V fixed by the marginals
    x_t ~ N((1 - t) x0 + t y, 2 s (t - t^2)); then Bayes' rule.
    """

    def variance(t):
        return 2 * s * (t - t * t)

    a = (1 - m) / (1 - n)
    transition = variance(m) - variance(n) * a * a
    precision = 1 / variance(n) + a * a / transition
    prior_mean = (1 - n) * x0 + n * y
    offset = m * y - n * a * y
    mean = (prior_mean / variance(n) + a * (x_t - offset) / transition) / precision
    return mean, math.sqrt(1 / precision)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("m, n", [(0.9, 0.5), (0.62, 0.32), (0.5, 0.495), (0.05, 0.015)])
def test_step_with_eta_1_is_the_posterior_of_bbdm(scale, m, n):
    x, x0, y, z = (noise(1, 1, 3, 3, 3, seed=i).double() for i in range(4))
    mean, deviation = bbdm_posterior(x, x0, y, m, n, scale)
    torch.testing.assert_close(Bridge(scale).step(x, x0, y, m, n, 1.0, z), mean + deviation * z)


def test_step_from_the_start_draws_the_marginal():
    x0, y, z = (noise(1, 1, 3, 3, 3, seed=i) for i in range(3))
    for eta in (0.0, 1.0):
        out = Bridge().step(y, x0, y, 1.0, 0.4, eta, z)
        torch.testing.assert_close(out, 0.6 * x0 + 0.4 * y + math.sqrt(2 * 0.4 * 0.6) * z)


def test_step_with_eta_0_ignores_the_noise_and_stays_on_the_path():
    x0, y, z = (noise(1, 1, 3, 3, 3, seed=i) for i in range(3))
    bridge = Bridge()
    x = bridge.noised(x0, y, torch.tensor([0.6]), z)
    out = bridge.step(x, x0, y, 0.6, 0.2, 0.0, noise(1, 1, 3, 3, 3, seed=9))
    torch.testing.assert_close(out, bridge.noised(x0, y, torch.tensor([0.2]), z))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_any_eta_keeps_the_marginal_variance(eta):
    x0 = y = torch.zeros(1, 1, 40, 40, 40)
    x = Bridge().noised(x0, y, torch.tensor([0.6]), noise(*x0.shape))
    out = Bridge().step(x, x0, y, 0.6, 0.2, eta, noise(*x0.shape, seed=1))
    assert float(out.var()) == pytest.approx(2 * 0.2 * 0.8, rel=0.02)


def test_step_to_0_returns_the_prediction():
    x, x0, y, z = (noise(1, 1, 2, 2, 2, seed=i) for i in range(4))
    assert torch.equal(Bridge().step(x, x0, y, 0.1, 0.0, 1.0, z), x0)


@pytest.mark.parametrize("m, n", [(0.2, 0.2), (0.2, 0.4), (1.2, 0.5), (0.5, -0.1)])
def test_step_refuses_to_go_up_or_out(m, n):
    x = torch.zeros(1, 1, 2, 2, 2)
    with pytest.raises(InputError, match="down within"):
        Bridge().step(x, x, x, m, n, 1.0, x)


def test_nodes_descend_for_any_number_of_steps():
    for steps in range(1, 201):
        times = nodes(steps)
        assert len(times) == steps and times[0] == pytest.approx(1.0) and times[-1] > 0
        assert all(a > b for a, b in zip(times, times[1:]))
    assert nodes(None) == nodes(len(FEW_STEP_NODES)) == FEW_STEP_NODES
    assert nodes(200)[1] == pytest.approx(1 - 1 / 200)
    assert nodes(None, (1.0, 0.5)) == (1.0, 0.5)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(InputError, match="between 1 and 1000"):
        nodes(steps)


# Context


def test_intensity_map_inverts_and_never_clips():
    values = np.array([-1024, -200, 0, 20, 40, 3071], np.float32)
    mapping = context.IntensityMap(20, 100)
    mapped = mapping.forward(values)
    assert (np.diff(mapped) > 0).all() and mapped[3] == 0 and np.abs(mapped).max() < 5
    np.testing.assert_allclose(mapping.inverse(mapped), values, rtol=1e-4, atol=1e-3)


def ball(shape, radius, center=None):
    grid = np.indices(shape)
    center = center or [s / 2 - 0.5 for s in shape]
    return sum((g - c) ** 2 for g, c in zip(grid, center)) < radius**2


def test_fill_keeps_known_voxels_and_constants():
    hole = torch.from_numpy(ball((8, 16, 16), 5))[None, None]
    x = noise(1, 1, 8, 16, 16)
    out = context.fill(torch.where(hole, torch.tensor(1e3), x), ~hole)
    assert torch.equal(out[~hole], x[~hole])
    assert out[hole].abs().max() < x.abs().max()  # what was in the hole has no influence
    flat = context.fill(torch.where(hole, torch.tensor(9.0), torch.tensor(-2.5)), ~hole)
    torch.testing.assert_close(flat, torch.full_like(flat, -2.5))


def test_fill_is_smooth_and_follows_its_surroundings():
    shape = (8, 16, 16)
    ramp = torch.linspace(0, 1, 16).view(1, 1, 1, 1, 16).expand(1, 1, *shape).contiguous()
    hole = torch.from_numpy(ball(shape, 4))[None, None]
    out = context.fill(torch.where(hole, torch.tensor(5.0), ramp), ~hole)
    steps = out.diff(dim=4).abs()
    assert (
        float(steps.max()) < 0.35
    )  # the ramp itself climbs 0.067 per voxel, a constant fill would jump by 0.5
    assert float(out[0, 0, 4, 8, 5]) < float(out[0, 0, 4, 8, 10])


@pytest.mark.parametrize("shape", [(8, 16, 16), (4, 24, 8), (6, 10, 14)])
def test_fill_of_an_all_unknown_region_is_finite(shape):
    known = torch.zeros(1, 1, *shape, dtype=torch.bool)
    assert torch.isfinite(context.fill(noise(1, 1, *shape), known)).all()


def test_complete_continues_the_image_without_the_hole():
    valid, hole = torch.ones(1, 1, 4, 8, 8, dtype=torch.bool), torch.zeros(1, 1, 4, 8, 8, dtype=torch.bool)
    valid[..., 6:] = False
    hole[..., 4:6] = True
    x = noise(1, 1, 4, 8, 8)
    out = context.complete(torch.where(valid, x, torch.tensor(1e3)), hole, valid)
    assert torch.equal(out[valid], x[valid]) and out[~valid].abs().max() < x.abs().max()
    assert torch.equal(context.complete(torch.where(hole, -x, x), hole, valid)[~valid], out[~valid])
    assert context.complete(x, hole, valid | True) is x


def test_fill_treats_each_item_of_a_batch_alone():
    x, known = (
        noise(2, 1, 4, 8, 8),
        torch.rand(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.5,
    )
    known[1] = True
    both = context.fill(x, known)
    torch.testing.assert_close(both[:1], context.fill(x[:1], known[:1]))


def test_signed_distance_is_in_mm():
    mask = np.zeros((9, 9, 9), bool)
    mask[3:6, 2:7, 2:7] = True
    distance = context.signed_distance(mask, (0.5, 1.0, 4.0))  # x, y, z
    assert distance[4, 4, 4] == pytest.approx(1.5)  # three voxels of 0.5 mm along x
    assert distance[4, 4, 1] == pytest.approx(-0.5) and distance[4, 1, 4] == pytest.approx(-1.0)
    assert distance[2, 4, 4] == pytest.approx(-4.0)
    np.testing.assert_array_equal(distance > 0, mask)


@pytest.mark.parametrize("value, sign", [(False, -1), (True, 1)])
def test_signed_distance_of_nothing_and_of_everything(value, sign):
    distance = context.signed_distance(np.full((2, 3, 4), value), (1, 1, 1))
    assert np.isfinite(distance).all() and (np.sign(distance) == sign).all()


def test_conditions_carry_mask_extent_and_distance():
    mask, valid = ball((4, 8, 8), 2)[None], np.ones((4, 8, 8), bool)
    valid[:, :, 6:] = False
    channels = context.conditions(mask, valid, (1, 1, 2))
    assert channels.shape == (1, network.condition_count(1), 2, 4, 4)
    assert torch.equal(unblocks(channels[:, :8])[0, 0] > 0, torch.from_numpy(mask[0]))
    assert torch.equal(unblocks(channels[:, 8:16])[0, 0] > 0, torch.from_numpy(valid))
    assert float(channels[:, 16:].abs().max()) <= 1


def test_masked_starts_at_the_asked_level_or_the_filling():
    x = noise(2, 1, 8, 16, 16)
    hole = torch.zeros(2, 1, 8, 16, 16, dtype=torch.bool)
    hole[:, :, 2:6, 4:12, 4:12] = True
    y = context.masked(x, hole, torch.tensor([3.0, float("nan")]))
    assert torch.equal(y[~hole], x[~hole])
    assert float(y[0][hole[0]].mean()) == pytest.approx(3.0, abs=1e-4)
    torch.testing.assert_close(y[1], context.fill(x, ~hole)[1])

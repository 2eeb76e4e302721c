"""Steering by drawn tumours, and the critic of their looks; on generated images of a few voxels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_case import (  # noqa: F401
    SPACING,
    close,
    common,
    killed_and_resumed,
    one_thread,
    prepared,
    sampler_of,
    train,
    train_texture,
    trained,
)

from TumorSynthLib.radiomics.extract import extract
from TumorSynthLib.radiomics.settings import Settings

adversary = pytest.importorskip("adversary")
sampling = pytest.importorskip("sampling")
steering = pytest.importorskip("steering")


def test_steered_features_equal_the_exact_ones_and_have_gradients():
    rng = np.random.default_rng(0)
    image = rng.normal(100, 60, (6, 10, 10)).astype(np.float32)
    mask = np.indices(image.shape)[1] > 2
    values = torch.from_numpy(image[mask]).requires_grad_()
    found = steering.reached(values, steering.lines(mask), 25.0)
    exact = extract(image, mask, SPACING, Settings(binWidth=25.0), ("firstorder", "glcm"))
    sized = {"original_firstorder_TotalEnergy"}
    checked = [n for n in found if n in exact and n not in sized]
    assert len(checked) > 38
    for name in checked:
        assert float(found[name].detach()) == pytest.approx(exact[name], rel=2e-3), name
    found["original_glcm_Contrast"].backward()
    assert float(values.grad.abs().sum()) > 0


def steering_of(prepared, device="cpu"):
    data = common.Prepared(prepared)
    names = train_texture.conditioning(data.meta["names"])
    sampler = train_texture.Sampler(
        data, [data.meta["names"].index(n) for n in names], train_texture.intensity_maps(data)
    )
    codec, _ = common.open_codec(None)
    torch.manual_seed(0)
    codec, network = train_texture.build(common.Run(prepared / "unused"), data, sampler, codec, [8, 8, 16])
    requests = steering.Requests(sampler, names, data.meta)
    bridge, device = train_texture.Bridge(), torch.device(device)
    codec, network = codec.to(device), network.to(device)
    return steering.Steering(requests, sampler.maps, codec, network, bridge, device), network


def test_another_crop_s_features_are_asked_as_in_an_edit(prepared):
    """At the mask's size, and together feasible."""
    requests = steering_of(prepared)[0].requests
    data, columns, voxel = requests.sampler.data, requests.sampler.columns, float(np.prod(SPACING))
    other, item = int(requests.sampler.tumours[0]), requests.sampler._synthesis(np.random.default_rng(1))
    item["hole"][..., ::2] = False  # another size for certain
    modality = int(data.modality[other])
    asked = dict(zip(requests.names, requests._donated(other, item, modality).tolist()))
    population = requests.populations[data.meta["modalities"][modality]]
    voxels = int(item["hole"].sum())
    own = dict(zip(requests.names, np.nan_to_num(data.features[other, columns]).tolist()))
    sized = steering.at_size(population, own, int((data.labels[other] & 1).sum()) * voxel, voxels * voxel)
    feasible = population.project(sized, voxels=voxels, voxel_volume=voxel).features
    assert asked == pytest.approx({n: feasible.get(n, sized[n]) for n in asked}, rel=1e-5)


def test_single_sliders_are_asked_all_over_the_population(prepared):
    requests = steering_of(prepared)[0].requests
    meta, asked = requests.meta, {}
    for k in range(150):
        item = requests._request(np.random.default_rng(k))
        if int(item["given"].sum()) == 1:
            i = int(item["given"][0].nonzero())
            modality = meta["modalities"][int(item["modality"])]
            low, high = requests.populations[modality].quantiles(requests.names[i], (0, 100))
            asked.setdefault((modality, requests.names[i]), []).append(
                (float(item["values"][0, i]) - low) / (high - low)
            )
    values = [v for many in asked.values() for v in many]
    assert len(values) > 20 and len({n for _, n in asked}) > 5 and {n for _, n in asked} <= steering.DRIVEN
    assert min(values) > -1e-6 and max(values) < 1 + 1e-6 and np.ptp(values) > 0.5


def test_steering_teaches_a_network_to_reach_what_it_is_asked(prepared, trained):
    steer, network = steering_of(prepared)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    draws, losses = steer.requests.of(0, 0, 4, 0), []
    for _ in range(30):  # the same four draws again and again
        losses.append(steer.backward(network, network.tokens, draws, (1.0,))["missed"])
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_draws_made_together_are_those_made_alone(prepared):
    """A tumour's draw doesn't depend on what else a step draws, nor on how many processes share the step."""
    steer, network = steering_of(prepared)
    torch.nn.init.normal_(network.leave.weight, std=0.02)  # a new network changes nothing
    step = next(s for s in range(99) if steering.corrected(s, 0) == max(steering.NODES))
    together = steer.losses(network, network.tokens, steer.requests.of(step, 0, 4, 0))["missed"].detach()
    alone = [
        steer.losses(network, network.tokens, steer.requests.of(step, k, 1, 0))["missed"].detach()
        for k in range(4)
    ]
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-3)
    assert max(alone) > 1.05 * min(alone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_steers_as_the_cpu_does(prepared):
    missed = []
    for device in ("cpu", "cuda"):
        steer, network = steering_of(prepared, device)
        losses = [
            steer.backward(network, network.tokens, steer.requests.of(k, 0, 3, 0), (1.0,)) for k in range(4)
        ]
        missed.append([found["missed"] for found in losses])
    assert missed[1] == pytest.approx(missed[0], rel=0.05)


def test_workers_make_the_steps_that_are_made_without(prepared):
    requests = steering_of(prepared)[0].requests
    options = SimpleNamespace(batch=2, accumulate=2, draws=2, seed=0)
    streams = [
        sampling.Steps(requests.sampler, requests, options, 0, 1).stream(3, 6, workers) for workers in (0, 2)
    ]
    for alone, ahead in zip(*streams, strict=True):
        assert len(ahead["batches"]) == 2
        pairs = [
            (a, b)
            for k in range(2)
            for a, b in zip(alone["batches"][k].values(), ahead["batches"][k].values())
        ]
        pairs += [(alone["draws"][k], ahead["draws"][k]) for k in ("values", "hole", "x")]
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert alone["draws"]["noise"] == ahead["draws"]["noise"]


def test_workers_are_refused_where_they_cannot_share_the_data(prepared, monkeypatch):
    monkeypatch.setattr(sampling, "get_all_start_methods", lambda: ["spawn"])
    steps = sampling.Steps(
        sampler_of(prepared)[0], None, SimpleNamespace(batch=1, accumulate=1, seed=0), 0, 1
    )
    assert len(next(iter(steps.stream(0, 1, 0)))["batches"]) == 1
    with pytest.raises(SystemExit, match="--workers 0"):
        steps.stream(0, 1, 1)


def test_a_critic_learns_what_drawn_tumours_lack_and_tells_the_draw(prepared):
    rng = np.random.default_rng(0)
    critic, item = adversary.Adversary(torch.device("cpu")), sampler_of(prepared)[0].real(rng)
    smooth = torch.nn.functional.avg_pool3d(item["x"], 3, 1, 1, count_include_pad=False)
    for _ in range(60):
        critic.learn(smooth, item, rng)
    smooth.requires_grad_()
    against = critic.held_against(smooth, item["hole"], rng)
    assert float(against.detach()) > float(critic.held_against(item["x"], item["hole"], rng).detach()) + 0.2
    critic.optimiser.zero_grad(set_to_none=True)
    against.backward()
    assert float(smooth.grad.abs().sum()) > 0
    assert all(p.grad is None for p in critic.critic.parameters())


def test_a_critic_settles_as_the_network_does_and_its_slope_has_a_price(prepared, monkeypatch):
    def slope_after_learning(price: float, share: float):
        monkeypatch.setattr(adversary, "SLOPE_PRICE", price)
        rng = np.random.default_rng(0)
        critic, item = adversary.Adversary(torch.device("cpu")), sampler_of(prepared)[0].real(rng)
        critic.pace(share)
        before = critic.critic.out.weight.detach().clone()
        for _ in range(30):
            critic.learn(torch.where(item["hole"], item["x"].mean(), item["x"]), item, rng)
        seen = torch.cat([pair[1] for pair in critic.seen[-4:]]).float().requires_grad_()
        (slope,) = torch.autograd.grad(critic.critic(seen).sum(), seen)
        return float(slope[:, : adversary.SLICES].square().sum((1, 2, 3)).mean()), torch.dist(
            critic.critic.out.weight, before
        )

    (free, moved), (priced, _), (_, still) = (
        slope_after_learning(*a) for a in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.0))
    )
    assert priced < 0.5 * free
    assert moved > 0 and still == 0


def test_a_critic_sees_nothing_of_what_lies_beyond_the_image(prepared):
    """Draws are continued there, real crops weren't: in small images that alone told them apart."""
    rng = np.random.default_rng(0)
    critic, item = adversary.Adversary(torch.device("cpu")), sampler_of(prepared)[0].real(rng)
    item["hole"] = torch.zeros_like(item["hole"])
    item["hole"][..., 4:8, 4:8, 4:8] = True
    item["valid"] = torch.ones_like(item["valid"])
    item["valid"][..., 9:] = False
    item["x"] = torch.where(item["valid"], item["x"], 1000.0)
    critic.learn(torch.zeros_like(item["x"]), item, rng)
    assert float(critic.seen[-1].abs().max()) < 100


def test_the_critic_judges_last_evaluations_of_real_crops_only(prepared, monkeypatch):
    steer, network = steering_of(prepared)
    steer.adversary = adversary.Adversary(torch.device("cpu"))
    requests = steer.requests
    requests.judged = True
    kinds = [row["kind"] for row in requests.sampler.data.rows]
    asked = []
    donated = requests._donated
    monkeypatch.setattr(requests, "_donated", lambda j, *rest: asked.append(kinds[j]) or donated(j, *rest))
    real, judged = requests.sampler.real, []
    monkeypatch.setattr(requests.sampler, "real", lambda rng: judged.append(True) or real(rng))
    for step in range(6):
        asked.clear()
        judged.clear()
        last = steering.corrected(step, 0) == max(steering.NODES)
        found = steer.losses(network, network.tokens, requests.of(step, 0, 3, 0))
        assert ("unreal" in found) == last and len(judged) == 3 * last
        assert not last or set(asked) <= {"real"}
    assert {steering.corrected(step, 0) == max(steering.NODES) for step in range(6)} == {True, False}


def test_training_with_a_critic_resumes_as_if_it_had_not_stopped(prepared, tmp_path, monkeypatch):
    options = ("--steps", 4, "--adversary", 0.05, "--batch", 2, "--threads", 1, "--save-every", 2)
    whole = train(prepared, tmp_path / "whole", *options)
    resumed = killed_and_resumed((prepared, tmp_path / "parts", *options), monkeypatch)
    assert close(whole["adversary"]["critic"], resumed["adversary"]["critic"]) == 0
    assert close(whole["network"], resumed["network"]) == 0


def test_a_critic_without_draws_to_judge_is_refused(prepared, tmp_path):
    with pytest.raises(SystemExit, match="--steer"):
        train(prepared, tmp_path, "--steps", 1, "--batch", 1, "--adversary", 0.05, "--steer", 0)

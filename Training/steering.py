"""Teach the network to reach what it is asked: draw as the product draws, measure, and push the last prediction.

The bridge's own loss says how a true tumour looks; it hardly notices features, since a denoised tumour is right without
reading them. Here a tumour is drawn by the product's few steps from its own features or from another crop's, which
leaves nothing but the features to go by. First-order and GLCM features of a prediction are differentiable
(`radiomics.differentiable`); their small bias is replaced by the exact value, with the differentiable one's gradient.
"""

from __future__ import annotations

import numpy as np
import torch
from export_bundle import population
from sampling import moved
from scipy.stats import norm
from torch.nn import functional as F

from TumorSynthLib.radiomics.differentiable import (
    firstorder_features,
    glcm_features,
    hard_glcm,
    lines,
    soft_glcm,
    soft_histogram,
)
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.sizing import at_size
from TumorSynthLib.radiomics.table import DRIVERS
from TumorSynthLib.texture.bridge import FEW_STEP_NODES
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.precision import autocast

LEVELS = 128  # grey levels at most; brighter voxels count as the last level
NODES = {2: 0.1, 3: 0.15, 4: 0.25, 5: 0.5}  # which evaluation is corrected, and how often
OTHERS = 0.45  # share of requests that are another crop's features
SLIDERS = 0.2  # share that asks for a single driver, as a user who moves one slider does
DRIVEN = {name for name, _ in DRIVERS.values()} | {
    "original_firstorder_Variance"
}  # the square of a slider's deviation
REACH = 2.2  # standard deviations that such a slider is moved at most, in percentiles of the population


def reached(values: torch.Tensor, paths, bin_width: float) -> dict[str, torch.Tensor]:
    """First-order and GLCM features (without MCC) by full name of intensities (n,), exact, with gradients."""
    low = torch.floor(values.detach().min() / bin_width)
    u = (values / bin_width - low).clamp(max=LEVELS - 1e-3)
    level = u.detach().floor().long()
    levels = int(level.max()) + 1
    soft_p = soft_histogram(u, levels)
    hard_p = torch.bincount(level, minlength=levels).float() / len(level)
    shared = firstorder_features(values, soft_p + (hard_p - soft_p).detach())
    found = {f"original_firstorder_{k}": v for k, v in shared.items()}
    if levels > 1 and len(paths.order):
        soft, hard = (
            glcm_features(soft_glcm(u, paths, levels)),
            glcm_features(hard_glcm(level, paths, levels)),
        )
        for k, v in soft.items():
            found[f"original_glcm_{k}"] = v.mean() + (hard[k].mean().float() - v.mean()).detach()
    return found


def corrected(step: int, seed: int) -> int:
    """Number of the evaluation that a step corrects, the same for all draws of all processes."""
    return int(np.random.default_rng([seed, step, 2]).choice(list(NODES), p=list(NODES.values())))


def _populations(meta: dict) -> dict[str, Population]:
    """By modality; none where tumours have several regions, whose requests are asked as they are."""
    if len(meta.get("regions", [])) > 1:
        return {}
    entries, tensors = population(meta)
    return {
        m: Population(tuple(e["names"]), tensors[m].numpy(), tuple(e["cases"])) for m, e in entries.items()
    }


class Requests:
    """Tumours to draw, and what is asked of them; made on the CPU.

    :param names: the features in the order of the network's tokens.
    :param judged: whether a critic judges draws of the last evaluation, which are real crops then.
    """

    def __init__(self, sampler, names, meta, judged: bool = False):
        self.sampler, self.names, self.meta, self.judged = sampler, tuple(names), meta, judged
        self.populations = _populations(meta)
        self.few_steps = FEW_STEP_NODES

    def of(self, step: int, first: int, count: int, seed: int) -> dict:
        """Draws first ... first + count - 1 of a step: a batch of items, with their `lines`, `noise` seeds and the rest."""
        times = self.few_steps[: corrected(step, seed) + 1]
        # Earlier predictions are means, and smooth by right.
        judged = self.judged and len(times) == len(self.few_steps)
        rngs = [np.random.default_rng([seed, step, k, 1]) for k in range(first, first + count)]
        items = [self._request(rng, judged) for rng in rngs]
        batch = {k: torch.cat([i[k] for i in items]) for k in items[0]}
        paths = [lines(i["hole"][0, 0].numpy()) for i in items]
        noise = [int(rng.integers(2**31)) for rng in rngs]
        more = int(rngs[0].integers(2**31))
        return batch | {"lines": paths, "noise": noise, "times": times, "judged": judged, "critic_seed": more}

    def _request(self, rng, real: bool = False):
        """A training item and what is asked of it: its own features, those of another crop of its modality as a tumour of its
        size would have them, or a single driver. `real`: neither crop is varied or procedural."""
        item = self.sampler.real(rng) if real else self.sampler._synthesis(rng)
        modality, region, kind = int(item["modality"]), int(item["region"]), rng.random()
        if kind < OTHERS:
            data = self.sampler.data
            for _ in range(20):
                j = int(
                    rng.choice(self.sampler.holes)
                    if real
                    else rng.choice(self.sampler.tumours, p=self.sampler.weight)
                )
                if data.modality[j] == modality and data.region[j] == region:
                    item["values"] = torch.from_numpy(self._donated(j, item, modality))[None]
                    break
        elif kind < OTHERS + SLIDERS:
            self._slide(item, self.populations.get(self.meta["modalities"][modality]), rng)
        return item

    def _slide(self, item, population: Population | None, rng):
        """Ask for one driver alone, anywhere in the population."""
        known = [i for i, n in enumerate(self.names) if n in DRIVEN and population and n in population.names]
        if known:
            i = int(rng.choice(known))
            percentile = 100 * norm.cdf(rng.uniform(-REACH, REACH))
            item["values"][0, i] = population.quantiles(self.names[i], [percentile])[0]
            item["given"] = torch.arange(len(self.names))[None] == i

    def _donated(self, j: int, item, modality: int) -> np.ndarray:
        """Features (F,) float32 of crop j as they are asked of an item's mask: at its size, and feasible, as in an edit."""
        values = np.nan_to_num(self.sampler.data.features[j, self.sampler.columns])
        population = self.populations.get(self.meta["modalities"][modality])
        if population is None:
            return values.astype(np.float32)
        voxel = float(np.prod(self.meta["spacing"]))
        voxels = int(item["hole"].sum())
        other = int((self.sampler.data.labels[j] & 1).sum())
        asked = at_size(population, dict(zip(self.names, values.tolist())), other * voxel, voxels * voxel)
        asked = asked | population.project(asked, voxels=voxels, voxel_volume=voxel).features
        return np.array([asked[n] for n in self.names], np.float32)


class Steering:
    """Loss of drawn tumours against their requests.

    :param adversary: judges whether they look real as well.
    """

    def __init__(self, requests: Requests, maps, codec, network, bridge, device, adversary=None):
        self.requests, self.adversary = requests, adversary
        meta = requests.meta
        self.bin_width = float(meta["extraction"]["binWidth"])
        self.model = TextureModel(
            network, codec, requests.names, tuple(meta["modalities"]), dict(zip(meta["modalities"], maps)),
            tuple(meta["spacing"]), requests.few_steps, bridge=bridge, device=device,
            bin_widths=dict.fromkeys(meta["modalities"], self.bin_width),
        )  # fmt: skip
        self.where = {n: i for i, n in enumerate(requests.names)}

    def backward(self, model, tokens, draws: dict, weights) -> dict[str, float]:
        """Add the gradients of a step's draws (`Requests.of`); returns their mean losses.

        :param model: the network, or what wraps it in a distributed run.
        :param weights: of the error in features, and of what the adversary holds against a draw.
        """
        found = self.losses(model, tokens, draws)
        sum(w * loss for w, loss in zip(weights, found.values())).backward()
        return {k: float(v.detach()) for k, v in found.items()}

    def losses(self, network, tokens, draws: dict) -> dict[str, torch.Tensor]:
        """Means over drawn tumours: `missed`, the error of their asked features in the tokens' units, and with an adversary,
        which learns from these draws, `unreal` where the last evaluation is corrected."""
        items = moved(draws, self.model.device)
        times, told = items["times"], [items[k] for k in ("modality", "values", "given", "removal", "region")]
        modalities = [self.model.modalities[m] for m in draws["modality"].tolist()]
        given, values = draws["given"].numpy(), draws["values"].numpy()
        asked = [{n: float(v[i]) for n, i in self.where.items() if g[i]} for g, v in zip(given, values)]

        def predict(state, y, m):
            with torch.set_grad_enabled(m == times[-1]), autocast(state.device):
                time = torch.full((len(state),), m, device=state.device)
                return network(state, y, items["conditions"], time, *told).float()

        image = self.model.draw(
            predict, items["x"], items["hole"], items["valid"], asked, modalities, times, 1.0, items["noise"]
        )
        missed = [self._missed(image, items, k, asked[k], modalities[k], tokens) for k in range(len(image))]
        found = {"missed": torch.stack(missed).mean()}
        if items["judged"]:
            rng = np.random.default_rng(items["critic_seed"])
            self.adversary.learn(image, items, rng)
            found["unreal"] = self.adversary.held_against(image, items["hole"], rng)
        return found

    def _missed(self, image, items, k: int, asked, modality, tokens) -> torch.Tensor:
        """Of item k."""
        inside = self.model.intensity[modality].inverse(image[k : k + 1])[items["hole"][k : k + 1]]
        found = reached(inside, items["lines"][k].to(inside.device), self.bin_width)
        chosen = [n for n in asked if n in found]
        if not chosen:
            return image.sum() * 0.0
        one = {n: items[n][k : k + 1] for n in ("values", "modality", "region")}
        columns = torch.tensor([self.where[n] for n in chosen], device=image.device)
        values = one["values"].index_copy(1, columns, torch.stack([found[n].float() for n in chosen])[None])
        row = self.model.network.scaling_row(one["modality"], one["region"])
        got = tokens.standardise(values, row)[0, columns]
        wanted = tokens.standardise(one["values"], row)[0, columns]
        return F.smooth_l1_loss(got, wanted, beta=0.3)

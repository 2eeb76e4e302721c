"""Teach the network to reach what it is asked: draw as the product draws, measure, and push the last prediction.

The bridge's own loss says how a true tumour looks; it hardly notices features, since a denoised tumour is right without
reading them. Here a tumour is drawn by the product's few steps from its own features or from another crop's, which
leaves nothing but the features to go by. First-order and GLCM features of a prediction are differentiable
(`radiomics.differentiable`); their small bias is replaced by the exact value, with the differentiable one's gradient.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from export_bundle import population
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
from TumorSynthLib.texture.bridge import FEW_STEP_NODES
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.precision import autocast

LEVELS = 128  # grey levels at most; brighter voxels count as the last level
NODES = {2: 0.1, 3: 0.15, 4: 0.25, 5: 0.5}  # which evaluation is corrected, and how often
OTHERS = 0.5  # share of requests that are another crop's features


def reached(values: torch.Tensor, paths, bin_width: float, spacing) -> dict[str, torch.Tensor]:
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
    return {m: Population(tuple(e["names"]), tensors[m].numpy(), tuple(e["cases"])) for m, e in entries.items()}


class Steering:
    """Loss of drawn tumours against their requests.

    :param sampler: the training's `Sampler`; `names` the features in the order of the network's tokens.
    :param adversary: judges whether they look real as well.
    """

    def __init__(self, sampler, names, maps, meta, codec, network, bridge, device, adversary=None):
        self.sampler, self.names, self.adversary = sampler, names, adversary
        self.bin_width = float(meta["extraction"]["binWidth"])
        self.model = TextureModel(
            network, codec, tuple(names), tuple(meta["modalities"]), dict(zip(meta["modalities"], maps)),
            tuple(meta["spacing"]), FEW_STEP_NODES, bridge=bridge, device=device,
            bin_widths=dict.fromkeys(meta["modalities"], self.bin_width),
        )  # fmt: skip
        self.where = {n: i for i, n in enumerate(names)}
        self.populations = _populations(meta)

    def _request(self, rng, real: bool = False):
        """A training item and what is asked of it: its own features or those of another crop of its modality, as a tumour of
        its size would have them. `real`: neither crop is varied or procedural."""
        item = self.sampler.real(rng) if real else self.sampler._synthesis(rng)
        if rng.random() < OTHERS:
            data, modality, region = self.sampler.data, int(item["modality"]), int(item["region"])
            for _ in range(20):
                j = int(rng.choice(self.sampler.holes) if real else rng.choice(self.sampler.tumours, p=self.sampler.weight))
                if data.modality[j] == modality and data.region[j] == region:
                    item["values"] = torch.from_numpy(self._donated(j, item, modality))[None]
                    break
        return item

    def _donated(self, j: int, item, modality: int) -> np.ndarray:
        """Features (F,) float32 of crop j as they are asked of an item's mask: at its size, and feasible, as in an edit."""
        values = np.nan_to_num(self.sampler.data.features[j, self.sampler.columns])
        population = self.populations.get(self.model.modalities[modality])
        if population is None:
            return values.astype(np.float32)
        voxel = float(np.prod(self.model.spacing))
        voxels = int(item["hole"].sum())
        other = int((self.sampler.data.labels[j] & 1).sum())
        asked = at_size(population, dict(zip(self.names, values.tolist())), other * voxel, voxels * voxel)
        asked = asked | population.project(asked, voxels=voxels, voxel_volume=voxel).features
        return np.array([asked[n] for n in self.names], np.float32)

    def backward(self, model, tokens, step: int, first: int, count: int, weights, seed: int) -> dict[str, float]:
        """Add the gradients of draws first ... first + count - 1 of a step; returns their mean losses.

        :param model: the network, or what wraps it in a distributed run: gradients are exchanged with the last draw.
        :param weights: of the error in features, and of what the adversary holds against a draw.
        """
        total: dict[str, float] = {}
        for index in range(first, first + count):
            more = hasattr(model, "no_sync") and index + 1 < first + count
            with model.no_sync() if more else nullcontext():
                losses = self.losses(model, tokens, step, index, seed)
                sum(w * loss / count for w, loss in zip(weights, losses.values())).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0.0) + float(loss.detach()) / count
        return total

    def losses(self, network, tokens, step: int, index: int, seed: int) -> dict[str, torch.Tensor]:
        """Of one drawn tumour: `missed`, the mean error of its asked features in the tokens' units, and with an adversary,
        which learns from this draw, `unreal` where the last evaluation is corrected."""
        rng = np.random.default_rng([seed, step, index, 1])
        times = self.model.few_steps[: corrected(step, seed) + 1]
        # Earlier predictions are means, and smooth by right.
        judged = self.adversary is not None and len(times) == len(self.model.few_steps)
        item = self._request(rng, judged)
        item = {k: v.to(self.model.device) for k, v in item.items()}
        hole, modality = item["hole"], self.model.modalities[int(item["modality"])]
        asked = {n: float(item["values"][0, i]) for n, i in self.where.items() if bool(item["given"][0, i])}

        def predict(state, y, m):
            with torch.set_grad_enabled(m == times[-1]), autocast(state.device):
                time = torch.full((1,), m, device=state.device)
                told = ("modality", "values", "given", "removal", "region")
                return network(state, y, item["conditions"], time, *(item[k] for k in told)).float()

        noise = int(rng.integers(2**31))
        image = self.model.draw(predict, item["x"], hole, item["valid"], asked, modality, times, 1.0, noise)
        found = {"missed": self._missed(image, item, asked, modality, tokens)}
        if judged:
            self.adversary.learn(image, item, rng)
            found["unreal"] = self.adversary.held_against(image, hole, rng)
        return found

    def _missed(self, image, item, asked, modality, tokens) -> torch.Tensor:
        hole = item["hole"]
        paths = lines(hole[0, 0].cpu().numpy())
        found = reached(
            self.model.intensity[modality].inverse(image)[hole], paths, self.bin_width, self.model.spacing
        )
        chosen = [n for n in asked if n in found]
        if not chosen:
            return image.sum() * 0.0
        columns = torch.tensor([self.where[n] for n in chosen], device=image.device)
        values = item["values"].clone()
        values = values.index_copy(1, columns, torch.stack([found[n].float() for n in chosen])[None])
        row = self.model.network.scaling_row(item["modality"], item["region"])
        got = tokens.standardise(values, row)[0, columns]
        wanted = tokens.standardise(item["values"], row)[0, columns]
        return F.smooth_l1_loss(got, wanted, beta=0.3)

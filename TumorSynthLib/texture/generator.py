"""The texture generator of a model: intensities in, intensities out; no files, no geometry beyond the spacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models.bundle import regions_of
from TumorSynthLib.texture.bridge import Bridge, nodes
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.context import (
    IntensityMap,
    calibrated,
    complete,
    conditions,
    masked,
    noise_cells,
    region_masks,
)
from TumorSynthLib.texture.network import MULTIPLE, BridgeNetwork, NetworkConfig

Progress = Callable[[str, float], None]

# The voxels around a contour hold some tumour (partial volume): a removal doesn't take them for healthy context, or it
# would continue them inwards. They keep their values in the result.
RIM = np.ones((1, 3, 3), bool)
LEVEL = "original_firstorder_Mean"  # where it is asked, the bridge starts at this level
SPREAD = "original_firstorder_Variance"
CALIBRATED_FROM = 0.35  # bridge time below which a prediction is given the asked mean and variance; earlier ones are blurred


def pick_device(name: str = "auto") -> torch.device:
    """CUDA, then MPS, then CPU; or the named one, if it is there."""
    mps = getattr(torch.backends, "mps", None)
    present = {"cuda": torch.cuda.is_available(), "mps": bool(mps and mps.is_available()), "cpu": True}
    if name == "auto":
        return torch.device(next(k for k in ("cuda", "mps", "cpu") if present[k]))
    if not present.get(name.split(":")[0], False):
        raise InputError(f"device {name!r} is not available here; use 'auto' or 'cpu'")
    return torch.device(name)


@dataclass
class TextureModel:
    """Codec, network and schedule of one bundle, on one device.

    `features` are the names the network can be told, in the order of its tokens; `intensity` maps each modality;
    `regions` are those that it paints, one at a time.
    """

    network: BridgeNetwork
    codec: torch.nn.Module
    features: tuple[str, ...]
    modalities: tuple[str, ...]
    intensity: Mapping[str, IntensityMap]
    spacing: tuple[float, float, float]
    few_steps: tuple[float, ...]
    eta: float = 1.0
    bridge: Bridge = Bridge()
    device: torch.device = torch.device("cpu")
    regions: tuple[str, ...] = ("tumour",)

    @classmethod
    def from_bundle(cls, bundle, device: str = "auto") -> TextureModel:
        """Load codec and network of a verified bundle (`models.Bundle`)."""
        j = bundle.json
        network = BridgeNetwork(NetworkConfig.from_dict(j["network"]["config"]))
        codec = make_codec(j["codec"])
        tensors = bundle.tensors("network.safetensors", "torch")
        for module, prefix in ((network, "network."), (codec, "codec.")):
            state = {k[len(prefix) :]: torch.as_tensor(v) for k, v in tensors.items() if k.startswith(prefix)}
            try:
                module.load_state_dict(state)
            except RuntimeError as error:
                raise ModelError(
                    f"model {j['id']}: its weights don't fit its network; reinstall it ({error})"
                ) from None
        where = pick_device(device)
        maps = {
            m: IntensityMap(v["center"], v["scale"], v.get("range", (-np.inf, np.inf)))
            for m, v in j["intensity"].items()
        }
        return cls(
            network.eval().to(where), codec.eval().to(where), tuple(j["network"]["features"]), tuple(j["modalities"]),
            maps, tuple(j["spacing_mm"]), tuple(j["sampler"]["nodes"]), float(j["sampler"]["eta"]), device=where,
            regions=tuple(r.name for r in regions_of(j)),
        )  # fmt: skip

    def _features(self, features: Mapping[str, float] | None) -> tuple[torch.Tensor, torch.Tensor]:
        values, given = (
            torch.zeros(1, len(self.features)),
            torch.zeros(1, len(self.features), dtype=torch.bool),
        )
        for i, name in enumerate(self.features):
            if features and name in features:
                values[0, i], given[0, i] = float(features[name]), True
        return values, given

    def _pad(self, array: np.ndarray, mode: str) -> np.ndarray:
        margins = [(0, -s % m) for s, m in zip(array.shape, MULTIPLE)]
        return np.pad(array, margins, mode=mode)

    @torch.inference_mode()
    def sample(
        self,
        array: np.ndarray,
        mask: np.ndarray,
        modality: str,
        features: Mapping[str, float] | None,
        *,
        valid: np.ndarray | None = None,
        seed: int = 0,
        steps: int | None = None,
        eta: float | None = None,
        progress: Progress | None = None,
        region: str | None = None,
        others: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Fill the mask with tumour (features: any subset, {} for none) or healthy tissue (features None).

        array (D, H, W) float32 intensities on the model's grid, mask and valid (inside the image) bool of its shape.
        `region` is the one that the mask is of (None: the first), `others` the masks of regions around it that stay.
        Returns (D, H, W) float32; voxels outside the mask keep their value. Same seed, same voxels.
        """
        if modality not in self.modalities:
            raise InputError(
                f"this model knows {', '.join(self.modalities)}, not {modality!r}; choose one with --modality"
            )
        shape, intensity = array.shape, self.intensity[modality]
        valid = np.ones(shape, bool) if valid is None else valid
        x = torch.from_numpy(intensity.forward(self._pad(array, "edge")))[None, None].to(self.device)
        hole_np, valid = self._pad(mask, "constant"), self._pad(valid, "constant")
        if features is None:
            hole_np = hole_np | (ndimage.binary_dilation(hole_np, RIM) & valid)
        hole = torch.from_numpy(hole_np)[None, None].to(self.device)
        masks, number = self._masks(hole_np, region, others)
        around = conditions(masks, valid, self.spacing, hole_np).to(self.device)
        known = torch.from_numpy(valid)[None, None].to(self.device) & ~hole
        values, given = (t.to(self.device) for t in self._features(features))
        modal = torch.tensor([self.modalities.index(modality)], device=self.device)
        removal = torch.tensor([features is None], device=self.device)
        which = torch.tensor([number], device=self.device)

        def predict(state, y, m):
            time = torch.full((1,), m, device=self.device)
            return self.network(state, y, around, time, modal, values, given, removal, which).float()

        eta = self.eta if eta is None else eta
        out = self.draw(
            predict,
            x,
            hole,
            known | hole,
            features,
            intensity,
            nodes(steps, self.few_steps),
            eta,
            seed,
            progress,
        )
        out = intensity.inverse(out[0, 0].cpu().numpy())[tuple(slice(s) for s in shape)]
        if features is None:
            out = blend_rim(out, array, mask, hole_np[tuple(slice(s) for s in shape)] & ~mask)
        return np.where(mask, out, array).astype(np.float32)

    def _masks(self, hole: np.ndarray, region: str | None, others) -> tuple[np.ndarray, int]:
        """Masks (R, D, H, W) of all regions on the padded grid, and the number of the painted one.

        :raises InputError: the model has no such region.
        """
        for name in [*([region] if region else []), *(others or {})]:
            if name not in self.regions:
                raise InputError(f"this model paints {', '.join(self.regions)}, not {name!r}")
        number = self.regions.index(region) if region else 0
        around = np.zeros((len(self.regions), *hole.shape), bool)
        for name, mask in (others or {}).items():
            around[self.regions.index(name)] = self._pad(mask, "constant")
        return region_masks(hole, number, around), number

    def draw(self, predict, x, hole, valid, features, intensity, times, eta, seed, progress=None):
        """The bridge from the filled hole to a tumour (features: any subset) or healthy tissue (None).

        x (1, 1, D, H, W) in the network's range, hole and valid bool of its shape; `predict(state, y, m)` is the network.
        Returns x with another content of the hole. Training draws with it too.
        """
        x = complete(x, hole, valid)
        limits, moments, mean = (-torch.inf, torch.inf), None, np.nan
        if features is None:
            limits = surrounding_range(x, hole, valid & ~hole)
        else:
            mean = features.get(LEVEL, np.nan)
            moments = (intensity, features.get(LEVEL), features.get(SPREAD))
        level = torch.as_tensor(intensity.forward(np.array([mean]))).to(x.device)
        rng = torch.Generator().manual_seed(int(seed))
        base = masked(x, hole, level)
        y = self.codec.encode(base)
        cells = noise_cells(hole) > 0
        known = self.codec.encode(torch.where(hole, base, x))
        state, clean = y, y
        for i, m in enumerate(times):
            if progress:
                progress("texture", i / len(times))
            clean = predict(state, y, m)
            late = moments if m <= CALIBRATED_FROM or len(times) == 1 else None
            clean = self._impose(torch.where(cells, clean, known), x, hole, limits, late)
            n = times[i + 1] if i + 1 < len(times) else 0.0
            noise = torch.randn(y.shape, generator=rng).to(y.device)
            state = torch.where(cells, self.bridge.step(state, clean, y, m, n, eta, noise), known)
        image = self.codec.decode(clean)
        if progress:
            progress("texture", 1.0)
        return torch.where(hole, image, x)

    def _impose(self, latent, x, hole, limits, moments):
        """Known voxels re-imposed in cells that the border cuts; drawn ones held within the limits and to the asked moments.

        Only a lossless codec can do that in image space.
        """
        if not self.codec.lossless:
            return latent
        drawn = self.codec.decode(latent).clamp(*limits)
        if moments:
            drawn = calibrated(drawn, hole, *moments)
        return self.codec.encode(torch.where(hole, drawn, x))


def surrounding_range(x: torch.Tensor, hole: torch.Tensor, known: torch.Tensor) -> tuple[float, float]:
    """5th and 95th percentile of what is known within eight voxels (two across slices) of the hole.

    Healthy tissue is neither darker nor brighter: a bright rim all around once drew air into the middle of a removal.
    """
    near = F.max_pool3d(hole.float(), (5, 17, 17), 1, (2, 8, 8)) > 0
    around = x[near & known]
    if len(around) < 20:
        return -torch.inf, torch.inf
    low, high = (float(torch.kthvalue(around, max(1, round(q * len(around)))).values) for q in (0.05, 0.95))
    return low, high


def blend_rim(out: np.ndarray, array: np.ndarray, mask: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Leads the outermost one or two voxels of a removal over to what stays around it, so that no line shows.

    out, array (D, H, W) drawn and given intensities; rim the voxels around the mask that were drawn as well.
    """
    if not rim.any():
        return out
    width = (0.3, 0.8, 0.8)
    excess = ndimage.gaussian_filter(np.where(rim, array - out, 0.0), width)
    weight = ndimage.gaussian_filter(rim.astype(np.float32), width)
    depth = ndimage.distance_transform_edt(mask, (2.0, 1.0, 1.0))
    return out + np.exp(-((depth / 1.3) ** 2)) * excess / np.maximum(weight, 1e-3) * mask


def voxels_evaluated(mask: np.ndarray) -> int:
    """Voxels that go through the network for a mask's padded region; basis of the time and memory estimates."""
    return int(np.prod([s + (-s % m) for s, m in zip(mask.shape, MULTIPLE)]))


__all__ = ["TextureModel", "blend_rim", "pick_device", "voxels_evaluated"]

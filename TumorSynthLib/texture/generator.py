"""The texture generator of a model: intensities in, intensities out; no files, no geometry beyond the spacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from TumorSynthLib.errors import InputError, ModelError
from TumorSynthLib.models.bundle import regions_of
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.models.parts import engine_of
from TumorSynthLib.texture import removal
from TumorSynthLib.texture.band import Band
from TumorSynthLib.texture.bridge import Bridge, nodes
from TumorSynthLib.texture.calibration import CONTRAST, Moments, calibrated
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.context import (
    IntensityMap,
    complete,
    conditions,
    masked,
    noise_cells,
    region_masks,
)
from TumorSynthLib.texture.equaliser import RINGS, equalised
from TumorSynthLib.texture.network import MULTIPLE, BridgeNetwork, NetworkConfig
from TumorSynthLib.texture.precision import autocast

Progress = Callable[[str, float], None]

WEIGHTS = "network.safetensors"  # of a bundle: tensors of network and codec by name
DIFFERENCES = "network-further.safetensors"  # beside it, where an earlier version stored further training
LEVEL = "original_firstorder_Mean"  # where it is asked, the bridge starts at this level
CALIBRATED_FROM = (
    0.06  # bridge time below which predictions are calibrated: the last evaluations fit the rest to it
)


def pick_device(name: str = "auto") -> torch.device:
    """CUDA, then the CPU; or the named one, if it is there (an Apple GPU has not been tried: it is never chosen by itself)."""
    mps = getattr(torch.backends, "mps", None)
    present = {"cuda": torch.cuda.is_available(), "mps": bool(mps and mps.is_available()), "cpu": True}
    if name == "auto":
        return torch.device("cuda" if present["cuda"] else "cpu")
    if not present.get(name.split(":")[0], False):
        raise InputError(f"device {name!r} is not available here; use 'auto' or 'cpu'")
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} isn't one; use 'auto', 'cpu' or 'cuda:0'") from None


@dataclass
class TextureModel:
    """Codec, network and schedule of one bundle, on one device.

    `features` are the names the network can be told, in the order of its tokens; `intensity` maps each modality;
    `regions` are those that it paints, one at a time; `bin_widths` of the features per modality; `guided` calibrates
    draws to the asked moments, `in_band` gives them no other grain than the image has around them; `lacking` is what the
    network's grain lacks, per modality (`equaliser.py`).
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
    bin_widths: Mapping[str, float | None] = field(default_factory=dict)
    guided: bool = True
    in_band: bool = True
    lacking: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def from_bundle(cls, bundle, device: str = "auto") -> TextureModel:
        """Load codec and network of a verified bundle (`models.Bundle`)."""
        j = bundle.json
        if engine_of(j) != "bridge":
            raise ModelError(f"model {j['id']} has no network, so it draws no textures; choose another model")
        if DIFFERENCES in j["files"]:  # without these it would draw as another model
            raise ModelError(
                f"model {j['id']} {j['version']} stores its training as differences, which this version no longer reads; "
                f"install a newer one, or remove it (tumorsynth models remove {j['id']})"
            )
        tensors = bundle.tensors(WEIGHTS, "torch")
        network, codec = _built(j, sum(torch.as_tensor(v).numel() for v in tensors.values()))
        for module, prefix in ((network, "network."), (codec, "codec.")):
            state = {k[len(prefix) :]: torch.as_tensor(v) for k, v in tensors.items() if k.startswith(prefix)}
            try:
                module.load_state_dict(state)
            except RuntimeError as error:
                raise ModelError(
                    f"model {j['id']}: its weights don't fit its network; reinstall it ({error})"
                ) from None
        where = pick_device(device)
        maps = {m: IntensityMap.of(Intensity.of(None, m, bundle)) for m in j["modalities"]}
        return cls(
            network.eval().to(where), codec.eval().to(where), tuple(j["network"]["features"]), tuple(j["modalities"]),
            maps, tuple(j["spacing_mm"]), tuple(j["sampler"]["nodes"]), float(j["sampler"]["eta"]), device=where,
            regions=tuple(r.name for r in regions_of(j)), lacking=_lacking(j),
            bin_widths={m: bundle.settings(m).binWidth for m in j["modalities"]},
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
        contrast: bool = True,
    ) -> np.ndarray:
        """Fill the mask with tumour (features: any subset, {} for none) or healthy tissue (features None).

        array (D, H, W) float32 intensities on the model's grid, mask and valid (inside the image) bool of its shape.
        `region` is the one that the mask is of (None: the first), `others` the masks of regions around it that stay.
        `contrast` gives the draw the asked GLCM contrast; without it, draws that differ in what they are asked look more alike.
        Returns (D, H, W) float32; voxels outside the mask keep their value. Same seed, same voxels.
        """
        if modality not in self.modalities:
            raise InputError(
                f"this model knows {', '.join(self.modalities)}, not {modality!r}; choose one with --modality"
            )
        shape, intensity = array.shape, self.intensity[modality]
        extent = valid = np.ones(shape, bool) if valid is None else valid
        x = torch.from_numpy(intensity.forward(self._pad(array, "edge")))[None, None].to(self.device)
        hole_np, valid = self._pad(mask, "constant"), self._pad(valid, "constant")
        around = None
        if features is None:
            around = removal.Surroundings.of(self._pad(array, "edge"), hole_np, valid, intensity)
            hole_np = around.hole
        hole = torch.from_numpy(hole_np)[None, None].to(self.device)
        masks, number = self._masks(hole_np, region, others)
        channels = conditions(masks, valid, self.spacing, hole_np).to(self.device)
        known = torch.from_numpy(valid)[None, None].to(self.device) & ~hole
        values, given = (t.to(self.device) for t in self._features(features))
        modal = torch.tensor([self.modalities.index(modality)], device=self.device)
        without = torch.tensor([features is None], device=self.device)
        which = torch.tensor([number], device=self.device)

        def predict(state, y, m):
            time = torch.full((1,), m, device=self.device)
            with autocast(self.device):
                return self.network(state, y, channels, time, modal, values, given, without, which).float()

        eta = self.eta if eta is None else eta
        times, valid = nodes(steps, self.few_steps), known | hole
        asked = (
            None
            if features is None
            else [features if contrast else {k: v for k, v in features.items() if k != CONTRAST}]
        )
        out = self.draw(predict, x, hole, valid, asked, [modality], times, eta, [seed], progress, around)
        out = intensity.inverse(out[0, 0].cpu().numpy())[tuple(slice(s) for s in shape)]
        if features is None:
            out = removal.blend_rim(out, array, mask, hole_np[tuple(slice(s) for s in shape)] & ~mask)
            out = np.clip(out, *intensity.limits)
        if not np.isfinite(out[mask]).all():
            raise ModelError(
                "the model's network gives values that are no numbers: its weights are damaged; install the model again"
            )
        out = np.where(mask, out, array).astype(np.float32)
        return (
            out
            if features is None or not self.in_band
            else self.fitting(out, array, mask, modality, asked[0], extent)
        )

    def fitting(
        self,
        drawn: np.ndarray,
        array: np.ndarray,
        mask: np.ndarray,
        modality: str,
        features: Mapping[str, float],
        valid=None,
    ) -> np.ndarray:
        """A draw (D, H, W) into mask of array with what its grain lacks, and no other than array has around the mask.

        Between the two it is given the asked contrast; what they do to level, spread and percentiles is put right at last.
        """
        asked, intensity = self._asked(features, modality), self.intensity[modality]
        hole = torch.from_numpy(mask)[None, None]

        def as_asked(values, moments):
            if moments == Moments():
                return values
            x = torch.from_numpy(intensity.forward(values))[None, None]
            found = intensity.inverse(calibrated(x, hole, intensity, moments)[0, 0].numpy())
            return np.where(mask, found, values).astype(np.float32)

        out, band = equalised(drawn, mask, self.lacking.get(modality, ())), Band.around(array, mask, valid)
        out = as_asked(out, asked)
        if band is not None:
            out = band.held(band.oriented(out, mask), mask)
            out = as_asked(out, replace(asked, contrast=None))
        return np.where(mask, np.clip(out, *intensity.limits), array).astype(np.float32)

    def _asked(self, features: Mapping[str, float], modality: str) -> Moments:
        return Moments.asked(features, self.bin_widths.get(modality)) if self.guided else Moments()

    @torch.inference_mode()
    def continued(
        self,
        array: np.ndarray,
        mask: np.ndarray,
        modality: str,
        valid: np.ndarray | None = None,
        spacing=None,
    ) -> np.ndarray:
        """The smooth start of a removal alone: array (D, H, W) with the mask continued from the healthy tissue around it.

        :param spacing: (x, y, z) mm of the array, if that isn't the model's grid.
        """
        intensity, valid = self.intensity[modality], np.ones(mask.shape, bool) if valid is None else valid
        around = removal.Surroundings.of(array, mask, valid, intensity)
        x = torch.from_numpy(intensity.forward(array))[None, None].to(self.device)
        cut, tissue = (torch.from_numpy(a)[None, None].to(self.device) for a in (around.hole, around.tissue))
        smooth = (
            intensity.inverse(removal.continued(x, cut, intensity, spacing or self.spacing, tissue))[0, 0]
            .cpu()
            .numpy()
        )
        smooth = removal.blend_rim(smooth, array, mask, around.hole & ~mask)
        return np.where(mask, np.clip(smooth, *intensity.limits), array).astype(np.float32)

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

    def draw(
        self, predict, x, hole, valid, features, modalities, times, eta, seeds, progress=None, around=None
    ):
        """The bridge from filled holes to tumours, or to healthy tissue. Training draws with it too.

        x (B, 1, D, H, W) in the network's range, hole and valid bool of its shape; `predict(state, y, m)` is the network.
        :param features: of each tumour, any subset; None for healthy tissue, with `around` its `removal.Surroundings` (B = 1).
        :param modalities: and `seeds`: one per item. An item's draw doesn't depend on the others'.
        Returns x with another content of the holes.
        """
        x, intensities = complete(x, hole, valid), [self.intensity[m] for m in modalities]
        limits, moments = (-torch.inf, torch.inf), [Moments()] * len(x)
        if features is None:
            tissue = torch.from_numpy(around.tissue)[None, None].to(x.device)
            limits = removal.surrounding_range(x, hole, tissue, around.clean)
            base = removal.continued(x, hole, intensities[0], self.spacing, tissue)
        else:
            moments = [self._asked(f, m) for f, m in zip(features, modalities)]
            levels = [i.forward([f.get(LEVEL, np.nan)])[0] for i, f in zip(intensities, features)]
            base = masked(x, hole, torch.as_tensor(np.array(levels)).to(x.device))
        rngs = [torch.Generator().manual_seed(int(s)) for s in seeds]
        y = self.codec.encode(base)
        cells = noise_cells(hole) > 0
        known = self.codec.encode(torch.where(hole, base, x))
        state = clean = expected = y
        guided_from = max(CALIBRATED_FROM, self.few_steps[-1])  # the model's own last evaluation in any case
        for i, m in enumerate(times):
            if progress:
                progress("texture", i / len(times))
            clean = torch.where(cells, predict(state, y, m), known)
            late = m <= guided_from or len(times) == 1
            clean = self._impose(
                clean, x, hole, limits, intensities, moments if late else [Moments()] * len(x)
            )
            expected = clean if i == 0 else expected
            n = times[i + 1] if i + 1 < len(times) else 0.0
            noise = torch.cat([torch.randn(y[:1].shape, generator=g) for g in rngs]).to(y.device)
            state = torch.where(cells, self.bridge.step(state, clean, y, m, n, eta, noise), known)
        if features is None:
            clean = expected + removal.DETAIL * (clean - expected)
        image = self.codec.decode(clean)
        if progress:
            progress("texture", 1.0)
        return torch.where(hole, image, x)

    def _impose(self, latent, x, hole, limits, intensities, moments):
        """Known voxels re-imposed in cells that the border cuts; drawn ones held within the limits and to the asked moments.

        Only a lossless codec can do that in image space.
        """
        if not self.codec.lossless:
            return latent
        drawn, one = self.codec.decode(latent).clamp(*limits), [slice(i, i + 1) for i in range(len(x))]
        drawn = torch.cat(
            [calibrated(drawn[i], hole[i], *asked) for i, *asked in zip(one, intensities, moments)]
        )
        return self.codec.encode(torch.where(hole, drawn, x))


def _built(manifest: dict, stored: int) -> tuple[BridgeNetwork, torch.nn.Module]:
    """Network and codec of a manifest, without weights.

    :param stored: values in the bundle's tensors; a network with more weights isn't built, which bounds the memory.
    :raises ModelError: they can't be built, or don't fit each other.
    """
    model = manifest["id"]
    try:
        config = NetworkConfig.from_dict(manifest["network"]["config"])
        with torch.device("meta"):  # takes no memory
            weights = sum(p.numel() for p in BridgeNetwork(config).parameters())
            weights += sum(p.numel() for p in make_codec(manifest["codec"]).parameters())
        if weights > stored:
            raise ModelError(
                f"model {model}: its network has {weights:,} weights, the files hold fewer; reinstall it"
            )
        network, codec = BridgeNetwork(config), make_codec(manifest["codec"])
    except (TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"model {model}: its network can't be built ({str(error)[:80]}); reinstall it"
        ) from None
    needed = (
        codec.channels,
        len(manifest["network"]["features"]),
        len(manifest["modalities"]),
        len(regions_of(manifest)),
    )
    if needed != (config.latent_channels, config.features, config.modalities, config.regions):
        raise ModelError(
            f"model {model}: its network isn't one for its codec, features, modalities and regions; reinstall it"
        )
    return network, codec


def _lacking(manifest: dict) -> dict[str, list[float]]:
    """What the grain of a bundle's network lacks, per modality.

    :raises ModelError: the numbers are not those of the rings.
    """
    found = manifest["sampler"].get("grain", {})
    try:
        right = all(np.shape(v) == (RINGS,) and np.isfinite(v).all() for v in found.values())
    except (AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise ModelError(
            f"model {manifest['id']}: sampler.grain isn't {RINGS} numbers per modality; reinstall it"
        )
    return found


__all__ = ["TextureModel", "pick_device"]

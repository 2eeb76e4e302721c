"""Tumours to judge: cases of patients that were never trained on, and every way ("arm") of making a tumour in their masks.

full        the network's sample, moved by the solver until the features hold: the product's default
network     the network alone, as the library draws: guided to the asked moments on its way, where the codec is lossless
unguided    the same without, and with grain as it comes: what the network itself has learned
field       the solver on a Gaussian random field with the real tumour's mean and spread: no network
mask only   the network told the population's mean features, whatever is asked: what the mask alone gives away
codec       the real tumour through the model's codec and back: the ceiling
and one arm per baseline (`baselines.py`), without the solver, as the paper has them.

Every tumour is measured by pyradiomics in the voxels that a file would store. `Bench` keeps what was drawn, in memory
and, with a cache folder, on disk, so that analyses share samples and a run that was stopped goes on. Of a model that paints
several regions one is judged; the network sees the others as they are.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import common
import numpy as np
from prepare import CLASSES, Case, cases
from procedural import SMALLEST
from scoring import AUDIT, EVERY, klass, pyradiomics_features, size_free

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.painted import parts
from TumorSynthLib.radiomics.sizing import at_size
from TumorSynthLib.region import Region
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.solver import gaussian_field, solve
from TumorSynthLib.volume import Volume

FIELD_MM = 3.0  # correlation length of the field arm's start
SCRIPTS = ("arms.py", "baselines.py", "scoring.py")  # which a sample depends on beside the library


@dataclass(eq=False)
class Tumour:
    """One case in memory, with its own features by pyradiomics.

    :param labels: what an editor is given: the mask, or the labelmap where the model paints several regions.
    """

    case: Case
    volume: Volume
    mask: np.ndarray
    own: dict[str, float]
    labels: np.ndarray

    @property
    def key(self) -> str:
        return f"{self.case.id} {self.case.modality}"

    @cached_property
    def digest(self) -> str:
        """Of its voxels and labels: cases that are prepared anew keep their names."""
        return common.image_hash(self.volume, self.labels)


@dataclass(eq=False)
class Drawn:
    """A tumour that an arm made: its box of the image, and what pyradiomics measures in it; `donor` is the number of the case
    whose features were asked for."""

    box: tuple[slice, ...]
    values: np.ndarray
    features: dict[str, float]
    seconds: float
    donor: int | None = None

    def volume(self, original: Volume) -> Volume:
        array = original.array.copy()
        array[self.box] = self.values
        return original.with_array(array)


def chosen(found: list[Case], patients: int | None, each: int | None, seed: int) -> list[Case]:
    """Cases of `patients` patients drawn with a fixed seed, at most `each` per patient and modality; None is all."""
    rng = np.random.default_rng([seed, 1])
    names = sorted({c.patient for c in found})
    kept = set(rng.permutation(names)[:patients].tolist()) if patients else set(names)
    taken = []
    count: dict = {}
    for i in rng.permutation(len(found)):
        key = found[i].patient, found[i].modality
        if found[i].patient in kept and (each is None or count.get(key, 0) < each):
            count[key] = count.get(key, 0) + 1
            taken.append(int(i))
    return [found[i] for i in sorted(taken)]


def painted_mask(bundle: Bundle, labels: np.ndarray, path: Path) -> np.ndarray:
    """The tumour (K, J, I) bool of a labelmap: its only label, or the region that the model is opened for."""
    if bundle.painted:
        mask = parts(bundle, labels, bundle.painted.name)[0]
        if mask.sum() < SMALLEST:
            raise InputError(f"{bundle.painted.name} has fewer than {SMALLEST} voxels")
        return mask
    found = np.unique(labels[labels > 0]).tolist()
    if len(found) > 1:
        raise InputError(
            f"{path} has the labels {', '.join(map(str, found))}: give masks of the tumour alone, as prepare.py --pairs writes "
            "them for a model with one region"
        )
    return labels > 0


def field_arm(bundle: Bundle, modality: str, volume: Volume, mask, request, seed: int) -> Volume:
    """Solver on a Gaussian field: the control without a network."""
    region = Region.around(volume, mask, bundle.spacing, bundle.json["margin_mm"])
    inside = region.array[region.mask]
    noise = gaussian_field(region.mask, region.spacing, FIELD_MM, seed)
    sample = region.array.copy()
    sample[region.mask] = inside.mean() + inside.std() * noise[region.mask]
    population, settings = bundle.population(modality), bundle.settings(modality)
    solved = solve(
        sample,
        region.mask,
        request,
        population,
        settings,
        spacing=region.spacing,
        region=region,
        band=region.band,
    )
    return volume.with_array(region.paste(solved.native if solved.native is not None else solved.array))


def codec_arm(texture, bundle: Bundle, modality: str, volume: Volume, mask) -> Volume:
    """The real tumour, encoded and decoded by the model's codec."""
    import torch

    region = Region.around(volume, mask, bundle.spacing, 8.0, (4, 8, 8))
    intensity = texture.intensity[modality]
    x = torch.from_numpy(intensity.forward(region.array))[None, None].to(texture.device)
    with torch.inference_mode():
        back = texture.codec.decode(texture.codec.encode(x))[0, 0].float().cpu().numpy()
    array = np.where(region.mask, intensity.inverse(back), region.array).astype(np.float32)
    return volume.with_array(region.paste(region.to_native(array)))


@dataclass
class Bench:
    """A model, the cases, and all that was drawn so far.

    :param baselines: arm to an editor whose network is the baseline's.
    :param cache: folder for samples; None keeps them in memory only.
    """

    bundle: Bundle
    tumours: list[Tumour]
    device: str = "auto"
    baselines: dict[str, Editor] = field(default_factory=dict)
    cache: Path | None = None
    refused: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.editor = Editor(self.bundle, self.device)
        self.plain = Editor(self.bundle, self.device)
        self.kept: dict[str, Drawn] = {}
        self.code = source_hash()
        if self.cache:
            self.cache.mkdir(parents=True, exist_ok=True)

    @classmethod
    def load(cls, bundle: Bundle, found: list[Case], **more) -> Bench:
        """The cases in memory, but for those without the region that the model paints.

        :raises InputError: a file is damaged, or a mask has several labels and the model one region; or no case is left.
        """
        bench = cls(bundle, [], **more)
        for case in found:
            volume, labels = case.load()
            try:
                mask = painted_mask(bundle, labels, case.mask)
            except InputError as error:
                if not bundle.painted:
                    raise
                bench.left_out.append(f"{case.id} {case.modality}: {error}")
                continue
            own = bench.measure(case.modality, volume, mask)
            bench.tumours.append(Tumour(case, volume, mask, own, labels if bundle.painted else mask))
        if not found:
            raise InputError(
                "there is no case to measure: give a folder with images of the model's modalities"
            )
        if not bench.tumours:
            raise InputError(f"none of the {len(found)} cases can be measured: {bench.left_out[0]}")
        return bench

    @property
    def region(self) -> str | None:
        """The region that is measured, where the model paints several."""
        return self.bundle.painted.name if self.bundle.painted else None

    @cached_property
    def texture(self) -> TextureModel:
        """The model's network and codec."""
        return TextureModel.from_bundle(self.bundle, self.device)

    def measure(self, modality: str, volume: Volume, mask, classes=EVERY) -> dict[str, float]:
        """As the product measures: on the model's grid."""
        settings = self.bundle.settings(modality).to_pyradiomics()
        settings["resampledPixelSpacing"] = list(self.bundle.spacing)
        return pyradiomics_features(volume, mask, settings, classes)

    def draw(self, tumour: Tumour, arm: str, asked: dict, seed: int = 0, steps=None, classes=EVERY):
        """The tumour that an arm makes for a request (any subset of features), or None where it is refused."""
        text = json.dumps([tumour.key, arm, sorted(asked.items()), seed, steps, list(classes)])
        where = (
            tumour.digest,
            self.bundle.sha256,
            getattr(self.baselines.get(arm), "identity", ""),
            self.code,
            self.region or "",
        )
        name = hashlib.sha256((text + "".join(where)).encode()).hexdigest()[:32]
        if name not in self.kept:
            self.kept[name] = self._from_disk(name) or self._make(
                tumour, arm, asked, seed, steps, classes, name
            )
        return self.kept[name]

    def _make(self, tumour, arm, asked, seed, steps, classes, name) -> Drawn | None:
        start = time.perf_counter()
        try:
            edited = self._edit(tumour, arm, asked, seed, steps)
        except InputError as error:
            self.refused.append(f"{tumour.key} {arm}: {error}")
            return None
        seconds = time.perf_counter() - start
        box = bounding_box(tumour.mask)
        features = self.measure(tumour.case.modality, edited, tumour.mask, classes)
        drawn = Drawn(box, edited.array[box].copy(), features, seconds)
        if self.cache:
            store(self.cache / f"{name}.npz", drawn)
        return drawn

    def _edit(self, tumour: Tumour, arm: str, asked: dict, seed: int, steps) -> Volume:
        modality, volume, mask = tumour.case.modality, tumour.volume, tumour.mask
        if arm == "field":
            return field_arm(self.bundle, modality, volume, mask, asked, seed)
        if arm == "codec":
            return codec_arm(self.texture, self.bundle, modality, volume, mask)
        if arm == "mask only":
            population = self.bundle.population(modality)
            mean = dict(zip(population.names, map(float, population.mean)))
            asked = {n: mean[n] for n in asked if n in mean}
        editor = self.baselines.get(arm, self.editor)
        if arm == "unguided":
            editor = self.plain
            network = editor.load()
            network.guided = network.in_band = False
        wish = EditRequest(
            features=asked,
            modality=modality,
            seed=seed,
            steps=steps,
            solve=arm == "full",
            region=self.region,
            engine="bridge",
        )
        return editor.synthesize(volume, tumour.labels, wish).volume

    def _from_disk(self, name: str) -> Drawn | None:
        path = self.cache / f"{name}.npz" if self.cache else None
        if path is None or not path.exists():
            return None
        with np.load(path) as f:
            box = tuple(slice(int(a), int(b)) for a, b in f["box"])
            features = dict(zip(f["names"].tolist(), f["features"].tolist()))
            return Drawn(box, f["values"], features, float(f["seconds"]))

    def wish(self, i: int, donor: int) -> dict[str, float]:
        """A donor's features as a case is asked for them: at its size, as the product does with a donor.

        GLCM at the audit's bin width is left out: no population says how it follows the size. Audit features are what those
        of the donor would be, and change nothing of what is asked.
        """
        case, other = self.tumours[i], self.tumours[donor]
        sizes = [t.volume.volume_of(t.mask) for t in (other, case)]
        known = {n: v for n, v in other.own.items() if klass(n) != "glcm_other"}
        population = self.bundle.population(case.case.modality)
        return at_size(population, known, *sizes) | at_size(population, request_of(known), *sizes)

    def mates(self, i: int) -> list[int]:
        """Tumours of other patients in the same modality, in an order of the case's own."""
        me = self.tumours[i].case
        found = [
            k
            for k, t in enumerate(self.tumours)
            if t.case.modality == me.modality and t.case.patient != me.patient
        ]
        return np.random.default_rng([i, 2]).permutation(found).tolist()


def store(path: Path, drawn: Drawn):
    """A sample on disk, whole or not at all."""
    part = path.with_name(f"{path.name}.{uuid4().hex}.part.npz")  # several processes may share the folder
    np.savez_compressed(
        part,
        box=np.array([[s.start, s.stop] for s in drawn.box]),
        values=drawn.values,
        names=np.array(list(drawn.features)),
        features=np.array(list(drawn.features.values())),
        seconds=drawn.seconds,
    )
    part.replace(path)


def source_hash() -> str:
    """Of the code that makes samples: a cache never serves what other code made."""
    return common.library_hash(*(Path(__file__).with_name(name) for name in SCRIPTS))


def request_of(features: dict[str, float]) -> dict[str, float]:
    """The part of measured features that is asked for: the paper's 74 that don't grow with the region."""
    return {n: v for n, v in features.items() if klass(n) in CLASSES and size_free(n)}


def judged(features: dict[str, float]) -> list[str]:
    """Names that agreement is measured on: asked ones and audit ones, free of the region's size."""
    return [n for n in features if klass(n) in (*CLASSES, *AUDIT) and size_free(n)]


__all__ = ["Bench", "Drawn", "Tumour", "cases", "chosen", "judged", "request_of"]

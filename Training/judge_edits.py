"""The edits that are judged, made through the public `Editor`, and kept on disk: the same for every engine.

hidden    a healthy place is filled as if a tumour had been there: what was there is known
removed   the tumour is removed
slider+, slider-   one feature of the tumour, one standard deviation up or down; which one goes by turns through the cases
own       the tumour is asked for with all its own features
donor     with the texture of another patient's tumour
grown, shrunk      to 1.5 and .6 of its volume
moved     to another place in the body, or in the lung
inserted  a new tumour at the healthy place, of that place's volume; nothing else is asked

Two are no edits, but show what a detector is worth (`CONTROLS`):
untouched tumours as they are; those of every other patient pass for edited ones: nobody could tell
speckled  salt and pepper in the tumour: everybody should tell
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import common
import numpy as np
from arms import request_of
from judged_cases import Place, allowed
from scipy import ndimage

from TumorSynthLib.edit.options import OPTIONS
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.region import quantise

EDITS = ("hidden", "removed", "slider+", "slider-", "own", "donor", "grown", "shrunk", "moved", "inserted")
#: Which of the editor's methods makes it.
METHODS = {
    "hidden": "remove", "removed": "remove", "slider+": "synthesize", "slider-": "synthesize", "own": "synthesize",
    "donor": "retexture", "grown": "reshape", "shrunk": "reshape", "moved": "move", "inserted": "insert",
}  # fmt: skip
CONTROLS = ("untouched", "speckled")
SPECKLED, SPECK_SD = (
    0.1,
    1.0,
)  # share of the tumour's voxels that are speckled, by how many of its standard deviations
HEALTHY = ("hidden", "removed")  # judged as healthy tissue; the others as tumours
SAME_MASK = ("slider+", "slider-", "own", "donor", *CONTROLS)
SIZES = {"grown": 1.5, "shrunk": 0.6}
#: Asked of sliders in turn, within these shares of the own value: texture is at most halved or doubled.
SLIDERS = {
    "original_glcm_Contrast": (0.5, 2.0),
    "original_firstorder_Variance": (0.5, 2.0),
    "original_glcm_Correlation": (0.0, 10.0),
    "original_firstorder_Entropy": (0.5, 2.0),
    "original_firstorder_Mean": (-np.inf, np.inf),
}
CORRELATION = (0.05, 0.96)
FARTHEST_MM, NEAREST_MM = 40.0, 10.0  # how far tumours are moved


@dataclass(eq=False)
class Sample:
    """One edit of one place: the box of voxels that changed, the tumour's (or hole's) mask after it, and what was reached."""

    box: tuple[slice, ...]
    values: np.ndarray
    mask: np.ndarray
    seconds: float
    facts: dict = field(
        default_factory=dict
    )  # asked, reached, spread, lender, feature, moved_voxels (k, j, i)

    def image(self, place: Place) -> np.ndarray:
        array = place.volume.array.copy()
        array[self.box] = self.values
        return array


@dataclass(eq=False)
class Maker:
    """Makes edits of places by one engine.

    :param engine, strength: passed on where they aren't None.
    :param kept: folder for samples; None keeps none. A sample of other code is never used.
    """

    editor: Editor
    places: list[Place]
    engine: str | None = None
    strength: float | None = None
    seed: int = 0
    kept: Path | None = None
    refused: list[str] = field(default_factory=list)

    def __post_init__(self):
        EditRequest(
            engine=self.engine, strength=self.strength
        )  # refuses what can't be, before anything is made
        if self.kept:
            self.kept.mkdir(parents=True, exist_ok=True)

    @cached_property
    def code(self) -> str:
        return common.library_hash()

    def made(self, i: int, edit: str) -> Sample | None:
        """The edit of place i; None where it can't be made there: the reason is in `refused`."""
        place = self.places[i]
        if edit in CONTROLS:
            return control(place, edit, self.seed)
        try:
            path = self.kept / f"{self._name(i, edit)}.npz" if self.kept else None
            if path and path.exists():
                return read_sample(path, place)
            sample = self._make(i, edit)
        except InputError as error:
            self.refused.append(f"{place.key} {edit}: {error}")
            return None
        if path:
            write_sample(path, sample)
        return sample

    def _name(self, i: int, edit: str) -> str:
        place = self.places[i]
        of = [
            self.editor.bundle.sha256,
            self.code,
            place.key,
            common.image_hash(place.volume, place.mask),
            edit,
            self.engine,
            self.strength,
            self.seed,
            place.scale,
            i,
        ]
        digest = hashlib.sha256(json.dumps(of).encode())
        digest.update(place.hole.tobytes() if place.hole is not None else b"")
        if edit == "donor":
            mate = self._mate(i)
            digest.update(common.image_hash(mate.volume, mate.mask).encode())
        stem = f"{place.case.id}_{place.case.modality}_{edit}_{self.engine or 'default'}"
        return f"{stem}_{digest.hexdigest()[:16]}"

    def _wish(self, place: Place, edit: str, **options) -> EditRequest:
        """A request with engine and strength where the edit has them."""
        own: dict = {"engine": self.engine, "strength": self.strength}
        own = {n: v for n, v in own.items() if v is not None and _has(edit, n)}
        return EditRequest(modality=place.case.modality, seed=self.seed, **own, **options)

    def _make(self, i: int, edit: str) -> Sample:
        place = self.places[i]
        volume, mask = place.volume, place.mask
        if edit in ("hidden", "inserted") and place.hole is None:
            raise InputError("no healthy place is large enough")
        request, facts = self._planned(i, edit)
        target = {"hidden": [place.hole], "inserted": []}.get(edit, [mask])
        start = time.perf_counter()
        result = getattr(self.editor, METHODS[edit])(volume, *target, request)
        seconds = time.perf_counter() - start
        after = place.hole if edit == "hidden" else mask if edit == "removed" else result.mask
        changed = result.volume.array != volume.array
        box = ndimage.find_objects((changed | after).astype(np.uint8))[0]
        if edit not in HEALTHY:
            wanted = result.asked or {n: result.before[n] for n in request_of(result.before)}
            facts |= {"asked": wanted, "reached": {n: result.reached[n] for n in wanted}}
            facts |= {"spread": {n: result.spread[n] for n in wanted if n in result.spread}}
            plan = result.provenance.get("plan", {})
            facts["limits"] = dict(plan.get("limits", {}))
            facts |= {"moved_voxels": plan["moved_voxels"]} if "moved_voxels" in plan else {}
        return Sample(box, result.volume.array[box].copy(), after, seconds, facts)

    def _planned(self, i: int, edit: str) -> tuple[EditRequest, dict]:
        """The request, and what is to be kept of it."""
        place = self.places[i]
        options: dict = {}
        facts: dict = {}
        if edit == "hidden":  # where no tumour shows, none is to be looked for
            options = {"grow": 0.0} | ({"avoid": place.mask} if _has(edit, "avoid") else {})
        elif edit.startswith("slider"):
            name, value = self._slid(i, 1 if edit.endswith("+") else -1)
            options, facts = {"features": {name: value}}, {"feature": name}
        elif edit == "own":
            own = request_of(self.editor.extract(place.volume, place.mask, place.case.modality))
            options = {"features": own}
        elif edit == "donor":
            lender = self._mate(i)
            options, facts = {"donor": (lender.volume, lender.mask)}, {"lender": lender.case.patient}
        elif edit in SIZES:
            options = {"features": {"volume_ml": SIZES[edit] * place.volume.volume_of(place.mask) / 1000}}
        elif edit == "moved":
            options = {"to": self._target(place), "nearest": True}
        elif edit == "inserted":
            centre = place.volume.points(np.argwhere(place.hole).mean(0)[None, ::-1])[0]
            ml = place.volume.volume_of(place.hole) / 1000
            options = {"at": tuple(centre.tolist()), "nearest": True, "features": {"volume_ml": ml}}
        return self._wish(place, edit, **options), facts

    def _slid(self, i: int, sign: int) -> tuple[str, float]:
        """Which feature a slider asks in place i, and its value: one population's sd off the tumour's own."""
        place = self.places[i]
        turn = sum(p.case.modality == place.case.modality for p in self.places[:i])
        name = list(SLIDERS)[(turn + (sign < 0)) % len(SLIDERS)]
        own = self.editor.extract(place.volume, place.mask, place.case.modality)[name]
        population = self.editor.population(place.case.modality, place.volume)
        sd = float(population.std[population.names.index(name)])
        low, high = (own * v if np.isfinite(v) else v for v in SLIDERS[name])
        if name.endswith("Correlation"):
            low, high = CORRELATION
        return name, float(np.clip(own + sign * sd, low, high))

    def _mate(self, i: int) -> Place:
        """The patient after this one whose tumour lends its texture."""
        place = self.places[i]
        later = [*self.places[i + 1 :], *self.places[:i]]
        mates = [
            p
            for p in later
            if p.case.modality == place.case.modality and p.case.patient != place.case.patient
        ]
        if not mates:
            raise InputError("a donor's edit needs another patient")
        return mates[0]

    def _target(self, place: Place) -> tuple[float, float, float]:
        """Where a tumour is moved to, (x, y, z) LPS mm: a random one of the deepest healthy points 10 to 40 mm off."""
        centre = np.argwhere(place.mask).mean(0)
        free = allowed(place)
        free |= ndimage.binary_dilation(
            place.mask, iterations=8
        )  # it leaves its place, with the margin kept around it
        depth = ndimage.distance_transform_edt(np.pad(free, 1), place.spacing)[1:-1, 1:-1, 1:-1]
        at = np.argwhere(free)
        off = np.sqrt((((at - centre) * np.array(place.spacing)) ** 2).sum(1))
        at = at[(off > NEAREST_MM) & (off < FARTHEST_MM)]
        if not len(at):
            raise InputError("there is no healthy place to move it to")
        deep = depth[tuple(at.T)]
        at = at[deep >= np.percentile(deep, 80)]
        rng = np.random.default_rng([self.seed, *place.key.encode()])
        return tuple(place.volume.points(at[rng.integers(len(at))][None, ::-1].astype(float))[0].tolist())


def control(place: Place, edit: str, seed: int) -> Sample:
    """A tumour as it is, or with salt and pepper."""
    box = ndimage.find_objects(place.mask.astype(np.uint8))[0]
    values, mask = place.volume.array[box].copy(), place.mask[box]
    if edit == "speckled":
        rng = np.random.default_rng([seed, *place.key.encode()])
        own = values[mask].astype(np.float64)
        sign = rng.choice([-1.0, 0.0, 1.0], len(own), p=[SPECKLED / 2, 1 - SPECKLED, SPECKLED / 2])
        values[mask] = quantise(own + SPECK_SD * own.std() * sign, values.dtype)
    return Sample(box, values, place.mask, 0.0)


def _has(edit: str, option: str) -> bool:
    """Whether an edit has an option in this version."""
    return option in OPTIONS and METHODS[edit] in OPTIONS[option].edits


def write_sample(path: Path, sample: Sample):
    """A sample on disk, whole or not at all."""
    part = path.with_suffix(".part.npz")
    box = np.array([[s.start, s.stop] for s in sample.box])
    facts = json.dumps(sample.facts | {"seconds": sample.seconds})
    shape = np.array(sample.mask.shape)
    np.savez_compressed(
        part, box=box, values=sample.values, mask=np.packbits(sample.mask), shape=shape, facts=facts
    )
    part.replace(path)


def read_sample(path: Path, place: Place) -> Sample:
    with np.load(path) as f:
        facts = json.loads(str(f["facts"]))
        box = tuple(slice(int(a), int(b)) for a, b in f["box"])
        shape = tuple(f["shape"])
        mask = np.unpackbits(f["mask"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        return Sample(box, f["values"], mask, facts.pop("seconds"), facts)

"""The shape part of an edit: a mask drawn from shape features, on an image's grid or on one of its own.

Masks are in LPS order here (see `region.Frame`). Shape features are those of the mask on its own grid, without resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from TumorSynthLib.errors import InputError
from TumorSynthLib.models import ANY, Bundle, that_come_along
from TumorSynthLib.placement import Part
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.shape_features import shape
from TumorSynthLib.region import Frame
from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.threads import needing_torch
from TumorSynthLib.volume import Volume

PREFIX = "original_shape_"
SHAPE_FEATURES = 17
SAME = (
    1e-3  # relative difference up to which a tumour has a feature already: its mask then stays to the voxel
)
FILLED = 0.6  # part of an image that a tumour may fill: a ball fills half of the cube around it
COARSE = 3.0  # voxels across the smallest drawn tumour, below which its shape can't be told
BEYOND = (
    1.5  # times the largest of the tumours the model knows, or part of the smallest: flagged from there on
)
VOLUMES = {PREFIX + "MeshVolume", PREFIX + "VoxelVolume"}
ROOM = 2.0  # times as far as it would grow without them a tumour grows past regions that stay as they are
FAR = 0.03  # relative difference of a size from what was asked that is said
CORRECTED = 4  # times that the number of voxels is corrected for the volume that is asked
FEWEST = 20  # voxels of a tumour that shrinks beside such regions
CORE = 2  # label of the core in a tumour's labelmap, whose rim is 1
MAX_EXTENT = 1000.0  # mm; no request is meant for a larger tumour


@dataclass(frozen=True, eq=False)
class Form:
    """What became of the shape that was asked for: full feature names to values.

    :param used: the nearest request that a shape can meet; `reached`: measured in the mask; `before`: in the old one.
    """

    asked: dict[str, float]
    used: dict[str, float]
    reached: dict[str, float]
    before: dict[str, float] = field(default_factory=dict)


class Shaper:
    """Draws masks with one model, which is loaded once, at the first drawing."""

    def __init__(self, bundle: Bundle, device: str):
        self.bundle, self.device = bundle, device
        self._model: Any = None

    @property
    def model(self):
        """The `shape.ShapeModel`: the bundle's own, or else one without a network, of the shapes of its tumours."""
        if self._model is None:
            if self.bundle is None:
                raise InputError(
                    "shapes are made by a model: name one (--model); `tumorsynth models list` shows what there is"
                )
            from TumorSynthLib.shape import ShapeModel

            population = None if self.bundle.json.get("shape") else self._of_tumours()
            if population is None:
                with needing_torch("making a shape"):
                    self._model = ShapeModel.from_bundle(self.bundle, self.device)
            elif self.bundle.organ == ANY:
                self._model = ShapeModel.borrowing(population, that_come_along())
            else:
                self._model = ShapeModel(population)
        return self._model

    def _of_tumours(self) -> Population | None:
        """Shapes of the tumours in the texture's population, measured on the model's grid; None where they are missing."""
        for modality in self.bundle.json.get("population") or {}:
            population = self.bundle.population(modality)
            kept = [i for i, name in enumerate(population.names) if name.startswith(PREFIX)]
            values = np.asarray(population.values)[:, kept]
            if len(kept) == SHAPE_FEATURES and (values > 0).all():
                return Population(tuple(population.names[i] for i in kept), values, tuple(population.cases))
        return None

    def spread(self) -> dict[str, float]:
        """Standard deviation of each shape feature in the model's population."""
        population = getattr(self.model, "population", None)
        return dict(zip(population.names, map(float, population.std))) if population is not None else {}

    def draw(
        self,
        asked: Mapping[str, float],
        spacing,
        seed: int,
        solve: bool = True,
        report: Callable[[float], None] | None = None,
    ) -> tuple[Part, Form, list[str]]:
        """A mask with the asked features on a grid of (x, y, z) mm; what isn't asked is as in the population."""  # fmt: skip
        _check_extent(asked)
        drawn = self.model.draw(
            dict(asked) or None, spacing, seed=seed, solve=solve, progress=_fraction(report)
        )
        return self._result(drawn, asked, {})

    def reshape(
        self,
        part: Part,
        asked: Mapping[str, float],
        spacing,
        seed: int,
        report: Callable[[float], None] | None = None,
    ) -> tuple[Part, Form, list[str]]:
        """A mask with the asked features that begins with the form of a tumour; what isn't asked stays as it is."""
        _check_extent(asked)
        before = measured_shape(part.mask, spacing)
        if all(abs(before[name] / value - 1) <= SAME for name, value in asked.items()):
            return part, Form(dict(asked), dict(asked), before, before), []
        drawn = self.model.reshape(
            np.pad(part.mask, 1), spacing, dict(asked), spacing=spacing, seed=seed, progress=_fraction(report)
        )
        return self._result(drawn, asked, before)

    def reshape_beside(
        self, mask: np.ndarray, kept: np.ndarray, asked: Mapping[str, float], spacing, seed: int,
        report: Callable[[float], None] | None = None,
    ) -> tuple[Part, Form, list[str]]:  # fmt: skip
        """As `reshape`, of a tumour (D, H, W) that regions touch which stay as they are: of another volume, it ends at them."""
        part, before = Part.of(mask), measured_shape(mask, spacing)
        if len(asked) != 1 or not asked.keys() <= VOLUMES or not _touch(mask, kept):
            return self.reshape(part, asked, spacing, seed, report)
        (name, value) = next(iter(asked.items()))
        if abs(before[name] / value - 1) <= SAME:
            return self.reshape(part, asked, spacing, seed, report)
        _check_extent(asked)
        new, reached = _of_volume(mask, kept, name, value / before[name], spacing)
        box = bounding_box(new)
        centre = part.centre + [a.start - b.start for a, b in zip(bounding_box(mask), box)]
        off = f"{name[len(PREFIX) :]} is {reached[name]:.4g} instead of {value:.4g}"
        notes = [off] if abs(reached[name] / value - 1) > FAR else []
        return Part(new[box], centre), Form(dict(asked), dict(asked), reached, before), notes

    def _result(self, drawn, asked: Mapping[str, float], before: dict[str, float]):
        part = Part.of(np.asarray(drawn.mask, bool))
        reached = measured_shape(part.mask, drawn.spacing)
        warnings = [str(text) for text in drawn.warnings]
        if min(part.mask.shape) < COARSE:
            warnings.append("the tumour is only one or two voxels thick on this grid: its shape is coarse")
        warnings += self._beyond(asked)
        return (
            part,
            Form(dict(asked), {n: float(drawn.used.get(n, v)) for n, v in asked.items()}, reached, before),
            warnings,
        )

    def _beyond(self, asked: Mapping[str, float]) -> list[str]:
        """Warnings of asked values that are far from those of all the model's tumours."""
        population, warnings = getattr(self.model, "population", None), []
        if self.bundle is not None and self.bundle.organ == ANY:
            return []
        for name, value in asked.items() if population is not None else ():
            low, high = population.quantiles(name, (0, 100))
            if not low / BEYOND <= value <= high * BEYOND:
                warnings.append(
                    f"{name} = {value:g} is far from the tumours that the model knows ({low:.3g} to {high:.3g})"
                )
        return warnings


def _of_volume(mask: np.ndarray, kept: np.ndarray, name: str, wanted: float, spacing):
    """A mask of so many times its volume that ends at what is kept, and its features: the mesh's volume isn't the voxels'."""
    own, times = measured_shape(mask, spacing)[name], wanted
    for _ in range(CORRECTED):
        new = resized_beside(mask, kept, times, spacing[::-1])
        reached = measured_shape(new, spacing)
        if new.sum() < round(times * mask.sum()):  # all of its room is taken
            break
        times *= wanted * own / reached[name]
    return new, reached


def resized_beside(mask: np.ndarray, kept: np.ndarray, times: float, spacing) -> np.ndarray:
    """A mask (D, H, W) of so many times its voxels that ends at what is kept, which it may touch: its surface moves evenly.

    :param spacing: (z, y, x) mm.
    :raises InputError: there is less than half of the room that it needs, or too few voxels would be left.
    """
    from scipy import ndimage

    wanted, size = max(1, round(times * mask.sum())), int(mask.sum())
    if wanted < min(FEWEST, size):
        raise InputError(
            f"{times:.3g} times the tumour's volume are {wanted} of its {size} voxels, too few for a tumour: ask for at least "
            f"{min(FEWEST, size)}"
        )
    room = (3 * wanted * np.prod(spacing) / (4 * np.pi)) ** (1 / 3)
    wide = [int(np.ceil(room / s)) + 2 for s in spacing]
    box = tuple(slice(max(0, s.start - n), s.stop + n) for s, n in zip(bounding_box(mask), wide))
    own = mask[box]
    away = ndimage.distance_transform_edt(~own, spacing) - ndimage.distance_transform_edt(own, spacing)
    away += 0.3 * ndimage.gaussian_filter(away, [min(spacing) / s for s in spacing])  # else many are as far
    reach = ROOM * np.sort(away.ravel())[min(wanted, away.size) - 1]
    free = own | (~kept[box] & (away <= max(reach, 0)))
    free = own if times < 1 else ndimage.binary_propagation(own, mask=free)
    count = min(wanted, int(free.sum()))
    if times > 1 and count - size < (wanted - size) / 2:
        raise InputError(
            f"the tumour has room for {count / size:.2f} times its volume, not for {times:.2f} times: regions around it stay as "
            "they are; ask for less, or name the one that may change (--inside)"
        )
    result, whole = np.zeros_like(mask), ndimage.label(own)[1]
    while True:
        new, at = np.zeros_like(own), np.argwhere(free)
        new[tuple(at[np.argsort(away[free], kind="stable")[:count]].T)] = True
        parts, number = ndimage.label(new)
        if number <= whole or len(at) <= count:
            break
        islands = new & ~np.isin(
            parts, 1 + np.argsort(-np.bincount(parts.ravel())[1:], kind="stable")[:whole]
        )
        free = free & ~islands  # behind what is kept, or beyond a neck
    result[box] = new
    return result


def _touch(mask: np.ndarray, kept: np.ndarray) -> bool:
    from scipy import ndimage

    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in bounding_box(mask))
    return bool((ndimage.binary_dilation(mask[box]) & kept[box]).any())


def measured_shape(mask: np.ndarray, spacing) -> dict[str, float]:
    """The 17 shape features of a mask in LPS order, by full names; spacing (x, y, z) mm."""
    box = bounding_box(mask)
    return {PREFIX + name: float(value) for name, value in shape(mask[box], spacing).items()}


def on_grid(mask: np.ndarray, spacing, wanted) -> np.ndarray:
    """A mask (D, H, W) on another grid; spacings (z, y, x) mm."""
    from scipy import ndimage

    zoom = np.asarray(spacing, float) / np.asarray(wanted, float)
    if np.allclose(zoom, 1, atol=0.01):
        return mask
    padded = np.pad(mask[bounding_box(mask)], 2)
    inside = ndimage.distance_transform_edt(padded, spacing)
    soft = np.clip(inside - ndimage.distance_transform_edt(~padded, spacing), -4, 4).astype(np.float32)
    found = ndimage.zoom(soft, zoom, order=1, mode="nearest", grid_mode=True) > 0
    if not found.any():
        raise InputError("the tumour is smaller than a voxel of the image: ask for a larger one")
    return found


def with_core(grid: Volume, share: float, seed: int) -> Volume:
    """A mask image (uint8, one tumour) in which a core of this share of the tumour has the label `CORE`; as it is for 0."""
    from TumorSynthLib.shape.nested import core_of

    if not share:
        return grid
    array, frame = grid.array.copy(), Frame.of(grid.direction)
    view, spacing = frame.view(array), frame.take(grid.spacing[::-1])[::-1]
    box = bounding_box(view)
    core = core_of(np.pad(view[box] > 0, 1), spacing, share, seed)[1:-1, 1:-1, 1:-1]
    view[box][core] = CORE
    return grid.with_array(array)


def _check_extent(asked: Mapping[str, float]) -> None:
    """Raise InputError for a tumour of more than a metre, before anything is drawn."""
    for name, value in asked.items():
        short = name.rsplit("_", 1)[-1]
        lengths = "Diameter" in short or "Axis" in short
        power = {"MeshVolume": 3, "VoxelVolume": 3, "SurfaceArea": 2}.get(short, int(lengths))
        if power and value ** (1 / power) > MAX_EXTENT:
            raise InputError(
                f"{name} = {value:g} is larger than any patient: check its unit (mm, mm², mm³; volume_ml is in ml)"
            )


def check_room(asked: Mapping[str, float], size_mm: tuple[float, float, float]) -> None:
    """Raise InputError for a request that no image of this size (x, y, z) mm holds, before anything is drawn."""
    image = " × ".join(f"{s:.0f}" for s in size_mm)
    for name in ("MeshVolume", "VoxelVolume"):
        volume, most = asked.get(PREFIX + name, 0.0), FILLED * float(np.prod(size_mm))
        if volume > most:
            raise InputError(
                f"a tumour of {volume / 1000:.4g} ml is larger than the image of {image} mm: ask for less than "
                f"{most / 1000:.3g} ml"
            )
    for name in ("Maximum3DDiameter", "MajorAxisLength"):
        length, most = asked.get(PREFIX + name, 0.0), float(np.linalg.norm(size_mm))
        if length > most:
            raise InputError(
                f"{name} = {length:.4g} mm is larger than the image of {image} mm: ask for less than {most:.0f} mm"
            )


def _fraction(report: Callable[[float], None] | None) -> Callable[..., None] | None:
    """A progress callback that takes (stage, fraction) or the fraction alone."""
    return None if report is None else lambda *told: report(float(told[-1]))

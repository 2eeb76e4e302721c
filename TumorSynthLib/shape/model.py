"""Tumour shapes of a model: drawn for asked features, or changed from a tumour that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, ModelError
from ..models.parts import FORMS
from ..radiomics.population import Population
from ..radiomics.shape_features import shape as shape_features
from . import feasible, solver
from .coordinates import NAMES, PREFIX, SCALE, V, logs, short
from .field import from_mask
from .forms import Forms
from .solver import Form
from .start import analytic
from .surface import Surface

if TYPE_CHECKING:
    from ..models.bundle import Bundle

FILE = "shape.safetensors"
TENSOR = "population"
VOLUME = PREFIX + "MeshVolume"
USUAL = {
    VOLUME: (5, 95),
    PREFIX + "Sphericity": (50, 95),
    PREFIX + "Elongation": (5, 95),
    PREFIX + "Flatness": (5, 95),
}
"""Percentiles of the population between which a form of another organ's tumour is to be; thick slices lower its sphericities."""
MAX_VOXELS = 64_000_000  # of a tumour
MIN_VOXELS = 20
FAR = 0.03  # relative difference from which an asked feature that was not reached is worth a warning
SHRINK = 0.05  # weight of the diagonal in the population's covariance
SWAY = 0.1  # voxels by which a changed tumour may move between the voxels: the steps of a series shall fit together
PREVIEW_VOXELS = 2000  # of a preview's tumour
PREVIEW_STEPS = 4  # at most, and
PREVIEW_NEAR = 4.0  # tolerances that the asked features are off, at which they end: about 1 %
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Shape:
    """A tumour's form on a voxel grid.

    :param mask: (K, J, I) bool, tight box plus an empty margin of at least one voxel, on `spacing` (x, y, z) mm.
    :param centre: centre of mass as a float index (k, j, i) into the mask.
    :param asked: the request, `used`: its nearest feasible values, `reached`: all 17 features of the mask, exactly.
    """

    mask: np.ndarray
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]
    asked: dict[str, float]
    used: dict[str, float]
    reached: dict[str, float]
    warnings: tuple[str, ...] = ()


class ShapeModel:
    """Draws shapes like those of a population.

    :param population: shape features of the training tumours (all 17).
    :param network: what gives a form for features and a seed (`network.FormGenerator`); without it a super-ellipsoid with bumps.
    :param forms: of real tumours, from which shapes are grown instead.
    :param lent: the forms are of other tumours than the population's, whose sizes are drawn.
    """

    def __init__(self, population: Population, network=None, forms: Forms | None = None, lent: bool = False):
        missing = [short(n) for n in NAMES if n not in population.names]
        if missing:
            raise ModelError(
                f"the model's shape population lacks {', '.join(missing)}; get a newer version of the model"
            )
        self.population = population
        self.network = network
        self.forms = forms
        self.lent = lent

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "auto", grown: bool = True) -> ShapeModel:
        """The shape part of a bundle: ``shape`` in its manifest and shape.safetensors.

        :param grown: from the bundle's forms of real tumours, where it has some: neither its network nor PyTorch is used then.
        :raises ModelError: the bundle has no shape part, or it is damaged.
        """
        part = bundle.json.get("shape")
        if not isinstance(part, dict) or FILE not in bundle.json["files"]:
            raise ModelError(
                f"model {bundle.id!r} makes no shapes: it has no shape part; choose another model"
            )
        try:
            entry, config = part["population"], part.get("network")
            names, cases = list(entry["names"]), list(entry["cases"])
        except (KeyError, TypeError):
            raise ModelError(
                f"model {bundle.id!r} is damaged: its shape part has no population; install it again"
            ) from None
        grown = grown and FORMS in bundle.json["files"]
        tensors = bundle.tensors(FILE, "torch" if config and not grown else "numpy")
        values = tensors.get(TENSOR)
        if values is None or tuple(values.shape) != (len(cases), len(names)):
            raise ModelError(
                f"model {bundle.id!r} is damaged: its shape population doesn't fit; install it again"
            )
        network = None
        if config and not grown:
            from .network import FormGenerator

            weights = {k[8:]: v for k, v in tensors.items() if k.startswith("network.")}
            network = FormGenerator.load(config, weights, bundle.id, device)
        model = cls(Population(tuple(names), np.asarray(values, np.float64), tuple(cases)), network)
        if grown:
            model.forms = Forms.of(bundle.tensors(FORMS, "numpy"), model._table)
        return model

    @classmethod
    def borrowing(cls, population: Population, lenders: Iterable[Bundle]) -> ShapeModel:
        """A model without forms of its own, whose shapes are grown from those of other models; of bumps where these have none."""
        models = [cls.from_bundle(b) for b in lenders if FORMS in b.json["files"]]
        forms = [m.forms for m in models if m.forms is not None]
        return cls(population, forms=Forms.joined(forms) if forms else None, lent=True)

    @cached_property
    def _table(self) -> np.ndarray:
        """(cases, 10) base logarithms of the population."""
        return np.array([logs(dict(zip(self.population.names, row))) for row in self.population.values])

    @cached_property
    def _gauss(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (10,) and covariance (10, 10) of the population's base logarithms; what form varies apart from size is drawn a
        little towards independence."""
        table = self._table
        size = table[:, V] / 3
        form = np.column_stack([table - size[:, None] * SCALE, size])
        covariance = np.cov(form.T)
        covariance = (1 - SHRINK) * covariance + SHRINK * np.diag(np.diag(covariance))
        back = np.column_stack([np.eye(len(SCALE)), SCALE])
        return table.mean(0), back @ covariance @ back.T + 1e-8 * np.eye(len(SCALE))

    def draw(
        self,
        features: Mapping[str, float] | None,
        spacing,
        seed: int = 0,
        solve: bool = True,
        progress: Progress | None = None,
    ) -> Shape:
        """A new shape with the asked features (any subset of the 17; aliases such as volume_ml too), free ones as in tumours.

        :param spacing: (x, y, z) mm of the mask. :param solve: without it, the network's own answer, scaled to the volume.
        :raises InputError: a feature or value that no shape can have, or too large for the grid.
        """
        spacing = _checked(spacing)
        form, target = self._start(features, seed, spacing)
        _check_size(target, spacing)
        if solve:
            spare = partial(_other_start, target, seed)
            _, drawn = solver.solve(form, target, spacing, seed, spare, progress)
        else:
            drawn = solver.draw(solver.to_volume(form, target), spacing)
        return _shape(drawn.mask, spacing, target)

    def reshape(
        self, mask: np.ndarray, mask_spacing, features: Mapping[str, float] | None, spacing=None, seed: int = 0,
        progress: Progress | None = None,
    ) -> Shape:  # fmt: skip
        """An existing tumour's form with other features.

        What isn't asked for is kept where it can be: the form (ratios, sphericity), and the size too unless a size (volume,
        surface, a length) is asked for, which scales the whole tumour.

        :param mask: (D, H, W) of the tumour on a grid of `mask_spacing`; :param spacing: of the result, default the same.
        """
        mask, mask_spacing = np.asarray(mask, bool), _checked(mask_spacing)
        spacing = mask_spacing if spacing is None else _checked(spacing)
        if mask.ndim != 3 or mask.sum() < MIN_VOXELS:
            raise InputError(
                f"a tumour of so few voxels ({int(mask.sum())}) has too little form to change; mark at least {MIN_VOXELS}."
            )
        own = logs(shape_features(mask, mask_spacing))
        target = feasible.keep(feasible.request(features), own)
        _check_size(target, spacing)
        form = Form(*from_mask(mask, mask_spacing), _phase(mask, mask_spacing, spacing), True)
        form = solver.sharpened(form, own, mask_spacing)
        target = solver.settled(form, target, own, spacing)
        _, drawn = solver.solve(form, target, spacing, seed, progress=progress, sway=SWAY)
        return _shape(drawn.mask, spacing, target)

    def preview(self, features: Mapping[str, float] | None, seed: int = 0) -> Surface:
        """About the shape that `draw` gives for the same features and seed, at once, as a triangle surface."""
        form, target = self._start(features, seed)
        spacing, rng = _edges(target, PREVIEW_VOXELS), np.random.default_rng([seed, 1])
        form, drawn = solver.sketch(form, target, spacing, rng, PREVIEW_STEPS, near=PREVIEW_NEAR)
        vertices, faces = form.outline
        vertices = (vertices @ form.matrix.T)[:, ::-1]  # to x, y, z, which turns the faces' sense
        faces = faces[:, ::-1] if np.linalg.det(form.matrix) > 0 else faces
        return Surface(vertices - vertices.mean(0), np.ascontiguousarray(faces), _cut(drawn.mask)[0], spacing)

    def _start(self, features, seed: int, spacing=None) -> tuple[Form, feasible.Target]:
        """The form to begin with, and what it is to become; what wasn't asked for is as in the real tumour it is grown from."""
        asked, (mean, covariance) = feasible.request(features), self._gauss
        if self.forms is not None:
            rng = np.random.default_rng([seed, 5])
            near = self._typical(asked, seed) if self.lent else asked
            form, own = self.forms.form(self.forms.chosen(near, covariance, rng), rng)
            target = feasible.complete(asked, own, covariance)
            if self.lent and not feasible.sized(asked):  # the same form, of a size that such tumours have
                step = np.log(near[VOLUME]) - target.logs[V]
                target = replace(target, logs=target.logs + SCALE / 3 * step)
            return form, solver.settled(form, target, own, spacing or _edges(target, PREVIEW_VOXELS))
        target = feasible.complete(asked, mean, covariance, np.random.default_rng([seed, 2]))
        if self.network is None:
            return analytic(target.logs, seed), target
        return self.network.form(target.logs, seed), target

    def _typical(self, asked: Mapping[str, float], seed: int) -> dict[str, float]:
        """A request with the size and form that a usual tumour of the population may have besides."""
        drawn = feasible.complete(asked, *self._gauss, np.random.default_rng([seed, 2])).features
        usual = {}
        for name, between in USUAL.items():
            if name != VOLUME or not feasible.sized(asked):
                low, high = self.population.quantiles(name, between)
                usual[name] = min(max(drawn[name], low), high)
        return usual | dict(asked)


def _edges(target: feasible.Target, voxels: int) -> tuple[float, float, float]:
    """Spacing (x, y, z) mm of cubes of which a tumour has so many."""
    return (float(np.exp(target.logs[V]) / voxels) ** (1 / 3),) * 3


def _phase(mask: np.ndarray, mask_spacing, spacing) -> tuple[float, float, float]:
    """(z, y, x) mm by which a mask's centre of mass is off its nearest voxel; 0 where the new grid is another one."""
    if mask_spacing != spacing:
        return 0.0, 0.0, 0.0
    centre = np.argwhere(mask).mean(0)
    return tuple(((centre - np.round(centre)) * spacing[::-1]).tolist())


def _other_start(target: feasible.Target, seed: int, attempt: int) -> Form:
    """A form to start from where the network's doesn't lead to what is asked: its axes and its turn are right already."""
    return analytic(target.logs, seed + 1_000_003 * attempt)


def _checked(spacing) -> tuple[float, float, float]:
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(
            f"a voxel spacing of {spacing} is not possible; give three lengths above 0 mm (x, y, z)."
        )
    return spacing


def _check_size(target: feasible.Target, spacing) -> None:
    voxels = float(np.exp(target.logs[V])) / float(np.prod(spacing))
    if voxels > MAX_VOXELS:
        raise InputError(
            f"a tumour of {np.exp(target.logs[V]) / 1000:.0f} ml would have {voxels:.0f} voxels; ask for less."
        )
    if voxels < MIN_VOXELS:
        raise InputError(
            f"a tumour of {np.exp(target.logs[V]):.3g} mm³ has only {voxels:.0f} voxels here, too few for a shape; "
            f"ask for at least {MIN_VOXELS * np.prod(spacing):.3g} mm³."
        )


def _cut(mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The mask in its tight box plus one voxel, and its centre of mass there."""
    used = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    mask = np.pad(mask[tuple(slice(u[0], u[-1] + 1) for u in used)], 1)
    lines = [mask.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return mask, tuple(float(line @ np.arange(len(line)) / line.sum()) for line in lines)


def _shape(mask: np.ndarray, spacing, target: feasible.Target) -> Shape:
    """The mask cut to its box, with its exact features and what is worth a warning."""
    mask, centre = _cut(mask)
    reached = {PREFIX + name: float(value) for name, value in shape_features(mask, spacing).items()}
    far = [n for n, v in target.used.items() if abs(reached[n] / v - 1) > FAR]
    notes = [f"{short(n)} is {reached[n]:.4g} instead of {target.used[n]:.4g}" for n in far]
    asked, used = dict(target.asked), dict(target.used)
    return Shape(mask, tuple(spacing), centre, asked, used, reached, (*target.warnings, *notes))

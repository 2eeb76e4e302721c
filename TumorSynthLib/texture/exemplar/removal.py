"""Removal of a tumour with the image's own tissue: whole pieces of healthy tissue are copied into its place.

Hole (mask, and the rim where the tumour shows) -> candidate pieces (exhaustive search, by the ring around the
hole) -> one piece per block, seams to the voxel (shiftmap) -> level joined by a screened membrane -> grain
feathered, its variance kept. No network, no training, numpy and scipy only; the same seed gives the same
voxels for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from ...errors import InputError
from . import grain as grain_stage
from .candidates import CandidateConfig, farthest, find_pieces, reach_of
from .grain import GrainConfig
from .hole import HoleConfig, Surroundings, hole_of, shows_beyond, surroundings
from .lenders import Atlas, LenderConfig, describe
from .membrane import MembraneConfig, joined_level
from .seams import refine
from .shiftmap import ShiftMapConfig, block_size, blocks_of, choose
from .spatial import behind, dilate, in_plane, near_box

MIRRORS = ((2,), (1,), (1, 2))
"""Axes along which tissue is mirrored as further candidates: in the plane, where noise and anatomy allow it."""


FINEST_MM = 0.3
"""Lengths in mm were chosen on scans of patients; on finer grids (small animals) they shrink with the voxels."""
OUTLINED = "the tumour reaches beyond the mask: with --strict its outline stays visible"
SPAN = 1000.0
"""Images without a unit are worked on with this range, so that nothing depends on how they were scaled."""


@dataclass(frozen=True)
class RemovalConfig:
    """All settings of a removal, by stage."""

    zone_lung_mm: float = 2.0
    """Width of the transition in lung, in all directions."""
    zone_mm: float = 5.0
    """Width of the transition elsewhere."""
    map_zone_mm: float = 2.0
    """The pieces are chosen with this zone in plane; the rest of the zone goes on with the nearest piece."""
    off_bone_voxels: float = 3.0
    """In plane: so near to bone nothing is lent where bone lies at the hole."""
    bone_mm: float = 10.0
    """Bone within it lies at the hole."""
    mirror_below: float = 7.0
    """Tissue is lent mirrored, too, where there is less than so many times the hole's voxels."""
    mirror_voxels: int = 20000
    """Only for holes smaller than this: the search takes four times as long."""
    hole: HoleConfig = field(default_factory=HoleConfig)
    lenders: LenderConfig = field(default_factory=LenderConfig)
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    shift_map: ShiftMapConfig = field(default_factory=ShiftMapConfig)
    large: int = 50000
    """Larger holes (voxels) compare their pieces in fewer samples, to save time: what a block chooses is seen less there.
    Not in lung, where vessels would be repeated and the pleura get steps."""
    large_candidates: CandidateConfig = CandidateConfig(shortlist=1000, first_samples=12)
    large_shift_map: ShiftMapConfig = ShiftMapConfig(
        labels=20,
        border_samples=40,
        inner_samples=12,
        face_samples=48,
        sweeps=6,
        voxel_rounds=5,
    )
    membrane: MembraneConfig = field(default_factory=MembraneConfig)
    grain: GrainConfig = field(default_factory=GrainConfig)


@dataclass(frozen=True, eq=False)
class Removed:
    """values float32 (D, H, W): the whole image, changed in `hole` and `zone` (bool, disjoint) only; facts:
    what was done."""

    values: np.ndarray
    hole: np.ndarray
    zone: np.ndarray
    facts: Mapping[str, object]
    warnings: tuple[str, ...]


def remove(
    image: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    *,
    is_ct: bool,
    seed: int = 0,
    grow_mm: float | None = None,
    zone_mm: float | None = None,
    strict: bool = False,
    avoid: np.ndarray | None = None,
    lend: np.ndarray | None = None,
    config: RemovalConfig | None = None,
    progress: Callable[[float], None] | None = None,
) -> Removed:
    """Fills the mask with tissue of the image.

    image (D, H, W) in any axis order, spacing in mm per axis (the coarsest axis is taken for the slices);
    mask bool; grow_mm: rim that is replaced, too (None: found by profile); zone_mm: transition beyond it
    (None: 2 in lung, 5 else); strict: no voxel outside the mask changes; avoid: voxels that neither lend nor
    change (other tumours); lend: tissue is taken from there only; progress: called with a share from 0 to 1,
    what it raises ends the removal. Raises InputError where nothing can lend.
    """
    config = config or RemovalConfig()
    tick = progress or (lambda share: None)
    image, mask, spacing = _checked(image, mask, spacing)
    for name, given in (("avoid", avoid), ("lend", lend)):
        if given is not None and np.shape(given) != image.shape:
            raise InputError(
                f"the mask {name} {np.shape(given)} isn't on the image's grid {image.shape}: resample it"
            )
    order = _slices_first(spacing)
    turned = [None if a is None else np.asarray(a).transpose(order) for a in (image, mask, avoid, lend)]
    finer = max(1.0, FINEST_MM / min(spacing))
    space = tuple(spacing[a] * finer for a in order)
    reach = reach_of(turned[1], space, config.candidates)
    box = near_box(turned[1], space, reach + 4 * max(space[1:]))
    crop = [None if a is None else np.ascontiguousarray(a[box]) for a in turned]
    values = _numbers(crop[0])
    scale = 1.0 if is_ct else SPAN / max(float(np.ptp(values)), np.finfo(np.float32).tiny)
    removal = _Removal(values * np.float32(scale), *crop[1:], space, is_ct, reach, config, tick)
    grow_mm, zone_mm = (None if mm is None else mm * finer for mm in (grow_mm, zone_mm))
    values, hole, zone, facts, warnings = removal.run(seed, grow_mm, zone_mm, strict)
    facts.update({name: round(facts[name] / finer, 3) for name in ("grow_mm", "zone_mm")})
    values = values / np.float32(scale)
    whole = turned[0].astype(np.float32)
    holes, zones = (np.zeros(whole.shape, bool) for _ in range(2))
    change = hole | zone
    whole[box][change] = values[change]
    holes[box], zones[box] = hole, zone
    tick(1.0)
    back = np.argsort(order)
    return Removed(*(np.ascontiguousarray(a.transpose(back)) for a in (whole, holes, zones)), facts, warnings)


def _slices_first(spacing) -> tuple[int, ...]:
    """Order of the axes with the coarsest, the first of equals, in front."""
    coarsest = int(np.argmax(spacing))
    return (coarsest, *(a for a in range(3) if a != coarsest))


def _numbers(values) -> np.ndarray:
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            "the image holds values that aren't numbers (NaN or infinite): replace them by the background's value"
        )
    return values


def _checked(image, mask, spacing):
    image, mask = np.asarray(image), np.asarray(mask) > 0
    if image.ndim != 3 or image.shape != mask.shape:
        raise InputError(
            f"image {image.shape} and mask {mask.shape} aren't on one grid of three axes: give a mask of the image's grid"
        )
    if not mask.any():
        raise InputError("the mask is empty, there is nothing to remove: give a mask with a tumour")
    spacing = tuple(float(s) for s in spacing)
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"spacing {spacing} isn't three lengths in mm: correct the image's header")
    return image, mask, spacing


class _Removal:
    """One removal in a box, slice axis first."""

    def __init__(self, image, mask, avoid, lend, spacing, is_ct, reach, config: RemovalConfig, tick):
        self.image, self.mask, self.spacing, self.is_ct = image, mask, spacing, is_ct
        self.avoid = np.zeros(mask.shape, bool) if avoid is None else (np.asarray(avoid) > 0) & ~mask
        self.may_lend = ~self.avoid if lend is None else (np.asarray(lend) > 0) & ~self.avoid
        self.reach, self.config, self.tick = reach, config, tick

    def run(self, seed: int, grow_mm, zone_mm, strict: bool):
        c = self.config
        around = surroundings(self.image, self.mask, self.spacing, self.is_ct, c.hole)
        hole, grow = hole_of(self.image, self.mask, self.spacing, around, 0.0 if strict else grow_mm, c.hole)
        if strict:
            zone_mm = 0.0
        elif zone_mm is None:
            zone_mm = c.zone_lung_mm if around.in_air else c.zone_mm
        hole &= ~self.avoid
        changeable = around.usable & (around.depth > -c.hole.air_zone_mm) & ~around.bone & ~self.avoid
        if self.avoid.any():  # nor does what lies behind it change, a voxel's gap in it or not
            around_each = np.ones((3, 3, 3))  # at the image's end, too
            wall = ndimage.binary_dilation(self.avoid, around_each)
            wall = ndimage.binary_erosion(wall, around_each, border_value=1) & ~self.mask
            near = dilate(hole, self.spacing, max(zone_mm, c.map_zone_mm))
            hidden = behind(wall, self.mask, near, self.spacing)
            hole, changeable = hole & ~hidden, changeable & ~hidden
        beside = self._bone_beside(hole, around)
        lend, whole = self.may_lend, hole | beside
        if beside.any():  # its edge would be repeated
            lend = lend & ~dilate(around.bone, in_plane(self.spacing), c.off_bone_voxels * self.spacing[1])
        if around.in_air:  # a rib would be lent to where none is
            lend = lend & ~(around.bone & (around.depth < 0))
        narrow = np.zeros_like(hole) if strict else self._zone_in_plane(hole, changeable)
        tissue = describe(self.image, whole, narrow, around, lend, self.spacing, self.is_ct, c.lenders)
        self._check_lenders(tissue.lend)
        self.tick(0.1)
        fill, known = whole | narrow, tissue.known & ~narrow
        if fill.sum() > c.large and not around.in_air:
            c = replace(c, candidates=c.large_candidates, shift_map=c.large_shift_map)
        atlas = self._atlas(tissue, fill, c.shift_map, max(zone_mm, c.candidates.ring_mm))
        pieces = find_pieces(
            atlas,
            fill,
            known,
            self.spacing,
            self.reach,
            c.shift_map.costs,
            seed,
            c.candidates,
        )
        self.tick(0.35)
        blocks = blocks_of(fill, self.spacing, c.shift_map)
        chosen = choose(
            atlas,
            pieces,
            blocks,
            fill,
            known,
            self.spacing,
            seed,
            c.shift_map,
            lambda share: self.tick(0.35 + 0.35 * share),
        )
        self.tick(0.7)
        labels = refine(atlas, pieces, blocks, chosen, fill, known, c.shift_map)
        self.tick(0.85)
        labels = self._whole_zone(labels, hole, zone_mm, changeable, atlas, pieces)
        kind = "mr" if not self.is_ct else "lung" if around.in_air else "ct"
        level = joined_level(tissue, atlas, pieces, labels, whole, self.spacing, kind, c.membrane)
        values = grain_stage.filled(
            tissue, atlas, pieces, labels, level, hole, zone_mm, self.spacing, self.is_ct, c.grain
        )
        values, labels = np.where(beside, self.image, values), np.where(beside, -1, labels)
        facts = dict(
            grow_mm=round(grow, 2),
            zone_mm=round(float(zone_mm), 2),
            lung=around.in_air,
            candidates=len(pieces),
            pieces=int(len(np.unique(labels[labels >= 0]))),
            voxels=int((labels >= 0).sum()),
        )
        outlined = strict and shows_beyond(self.image, self.mask, around, self.spacing, c.hole)
        return values, hole, (labels >= 0) & ~hole, facts, (OUTLINED,) if outlined else ()

    def _bone_beside(self, hole, around: Surroundings):
        """Bone at the hole: it is filled along, as its level would run into the hole, and then put back."""
        if around.in_air or not around.bone.any():
            return np.zeros_like(hole)
        return dilate(hole, self.spacing, self.config.bone_mm) & around.bone & ~hole

    def _zone_in_plane(self, hole, changeable):
        near = dilate(hole, in_plane(self.spacing), self.config.map_zone_mm)
        return near & ~hole & changeable

    def _check_lenders(self, lend):
        if lend.sum() < 50:
            raise InputError(
                "there is no healthy tissue near the mask to take from: give a larger part of the image, a smaller mask, "
                + ("or avoid less" if self.avoid.any() else "or name tissue by --lend")
            )

    def _atlas(self, tissue, fill, shift_map: ShiftMapConfig, near_mm: float) -> Atlas:
        """The atlas for shifts of voxels within `near_mm` of the hole; blocks of used tissue lie alike however wide its pad."""
        block = block_size(self.spacing, shift_map)
        pad = farthest(self.reach, self.spacing, fill.shape) + 4 + 2 * block
        at = np.argwhere(fill)
        spare = np.minimum(at.min(0), np.array(fill.shape) - 1 - at.max(0))
        spare = np.maximum(spare - np.ceil(near_mm / np.array(self.spacing)).astype(int) - 1, 0)
        pad -= np.minimum(spare, pad) // block * block
        voxels = int(fill.sum())
        few = tissue.lend.sum() < self.config.mirror_below * voxels and voxels < self.config.mirror_voxels
        return Atlas(tissue, pad, (at.min(0) + at.max(0)) / 2, MIRRORS if few else ())

    def _whole_zone(self, labels, hole, zone_mm: float, changeable, atlas: Atlas, pieces):
        """The labels with the zone in all directions: its outer part goes on with the nearest piece."""
        fill = labels >= 0
        if zone_mm <= 0:
            return np.where(hole, labels, -1)
        box = near_box(fill, self.spacing, zone_mm)
        near = ndimage.distance_transform_edt(
            ~fill[box], self.spacing, return_distances=False, return_indices=True
        )
        wide = dilate(hole, self.spacing, zone_mm)[box] & changeable[box] & ~fill[box]
        more = np.argwhere(wide)
        piece = labels[box][tuple(near[(slice(None), *more.T)])]
        more = more + [b.start for b in box]
        able = atlas.lends(atlas.flat(more) + atlas.offsets(pieces)[piece])
        labels = labels.copy()
        labels[tuple(more[able].T)] = piece[able]
        return labels

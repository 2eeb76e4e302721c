"""A donor's tissue in another tumour's mask: its arrangement and roughness, on the recipient's own grain.

The donor's level (core, rim) is carried by the motion that takes one contour to the other, so that no seam is
needed whatever the forms; or a part of a larger donor is laid in at its own scale. Its roughness is lent as a factor of the
recipient's own bands, so that sharpness, streaks and noise stay the recipient's scan's. What a donor's contour takes in of fat,
bone or air isn't lent. What features that tissue has in the recipient is foreseen before (`expected`), of the donor's voxels.

Arrays are (D, H, W), the axis of the slices first; spacing is (x, y, z) mm, as `bands.Bands` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from TumorSynthLib.resampling import bounding_box
from TumorSynthLib.texture.exemplar.bands import Bands
from TumorSynthLib.texture.exemplar.limits import Limits, softly_held
from TumorSynthLib.texture.exemplar.matte import sd_of
from TumorSynthLib.texture.exemplar.warp import motion_between


@dataclass(frozen=True)
class DonorConfig:
    """How tissue is lent.

    :param strange_sd: robust standard deviations from the core at which what a contour takes in isn't tumour.
    :param rim: voxels in plane below the border that may hold such tissue.
    :param scale: by which a donor is enlarged at least and at most, so that it fills the recipient.
    :param low: in-plane voxels, Gaussian of what is carried: where noise is a small part of the contrast, and elsewhere.
    :param clear: times the noise from which the spread of a donor's level counts as clear contrast.
    :param local: in-plane voxels, Gaussian over which roughness is compared.
    :param fine, medium: factors of the recipient's bands, at least and at most.
    :param filled: share of the recipient that a part of the donor at its own scale should fill, and at least.
    :param quantiles: of the donor's level, which the part is to share.
    :param searched: voxels of the boxes that the part is looked for in; larger ones are thinned in plane.
    :param piece: in-plane voxels, side of the pieces in which a donor's texture is laid at its own scale; `coarse`: in-plane
        voxels, the Gaussian above which it is carried by the motion.
    :param border: in-plane voxels below the border that stay the recipient's, where half of a change has faded in.
    :param knots: per cent of the voxels below each knot of the curve of levels; `fewest`: voxels that tell it.
    """

    strange_sd: float = 5.0
    rim: float = 2.5
    scale: tuple[float, float] = (0.5, 2.0)
    low: tuple[float, float] = (1.0, 2.0)
    clear: float = 8.0
    local: float = 4.0
    fine: tuple[float, float] = (0.5, 1.8)
    medium: tuple[float, float] = (0.4, 2.5)
    filled: tuple[float, float] = (0.97, 0.8)
    quantiles: tuple[float, ...] = (5.0, 15.0, 30.0, 50.0, 70.0, 85.0, 95.0)
    searched: float = 1e6
    piece: float = 12.0
    coarse: float = 4.0
    border: float = 1.75
    knots: tuple[float, ...] = (0, 0.1, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.9, 100)
    fewest: int = 100


CONFIG = DonorConfig()


def lent_tissue(
    image: np.ndarray, mask: np.ndarray, spacing, in_air: bool, is_ct: bool, config=CONFIG
) -> np.ndarray:
    """The donor's mask without other tissue at its border; all of it where air is around, which no contour tells apart.

    In MR septa inside are the tumour's own.
    """
    if in_air:
        return mask
    bands = Bands(image, mask, spacing)
    level = bands.smooth(bands.image, 1.5)[bands.mask]
    core = level[bands.depth > min(config.rim, np.quantile(bands.depth, 0.5))]
    same = np.abs(level - np.median(core)) < config.strange_sd * sd_of(core)
    kept = mask.copy()
    deep = bands.depth > config.rim
    low, high = np.percentile(bands.own[deep], (1, 99)) if deep.any() else (-np.inf, np.inf)
    like = deep | ((bands.own >= low) & (bands.own <= high))
    kept[mask] = like & (same if is_ct else same | deep)
    return kept if kept.sum() > 0.3 * mask.sum() else mask


@dataclass(frozen=True, eq=False)
class Lent:
    """A donor's tissue.

    :param image: (D, H, W) its level is taken from; `rough` (D, H, W): its roughness. `mask` (D, H, W) bool, what is lent.
    :param spacing: (x, y, z) mm.
    """

    image: np.ndarray
    rough: np.ndarray
    mask: np.ndarray
    spacing: Sequence[float]


def places_of(bands: Bands, donor: Lent, config: DonorConfig = CONFIG) -> np.ndarray:
    """(n, 3) where each voxel of a recipient lies in the whole donor, brought to its size and form: voxels of the donor's box."""
    theirs = np.asarray(donor.spacing[::-1], np.float64)
    size = float(np.cbrt(bands.mask.sum() * np.prod(bands.spacing) / (donor.mask.sum() * np.prod(theirs))))
    tissue = donor.mask[bounding_box(donor.mask)]
    inside = _enlarged(tissue, np.clip(size, *config.scale) * theirs / bands.spacing)
    old, new, shift = _aligned(inside, bands.mask)
    motion = motion_between(old, new, bands.spacing)
    at = np.argwhere(new) - motion[:, new].T - shift
    return (at + 0.5) * (np.array(tissue.shape) / inside.shape) - 0.5


def laid(
    bands: Bands, donor: Lent, limits: Limits | None = None, config: DonorConfig = CONFIG, places=None
) -> np.ndarray:
    """Voxels (n,) of a tumour with a donor's tissue, the whole donor brought to its size and form.

    :param bands: of the recipient.
    :param limits: what tissue allows in the recipient.
    :param places: `places_of` them, if known.
    """
    at = places_of(bands, donor, config) if places is None else places
    fields = _fields(donor, config)
    # The nearest voxel of the donor's box: beyond it the border is repeated.
    carried = np.stack([ndimage.map_coordinates(f, at.T, order=1, mode="nearest") for f in fields])
    return _made(bands, carried, limits, config)


def expected(bands: Bands, donor: Lent, config: DonorConfig = CONFIG, places=None) -> np.ndarray:
    """Voxels (n,) that tell what features the donor's tissue has in a recipient's mask: its level brought to that form, its
    texture in pieces at its own scale, with the recipient's border and finest grain. Seams show: it isn't for
    looking at.

    :param places: `places_of` the recipient's voxels, if known.
    """
    at = places_of(bands, donor, config) if places is None else places
    theirs = Bands(donor.rough, donor.mask, donor.spacing)
    level = theirs.smooth(theirs.image, config.coarse)
    detail = np.where(theirs.mask, theirs.image - level, 0.0)
    near = ndimage.distance_transform_edt(
        ~theirs.mask, theirs.spacing, return_distances=False, return_indices=True
    )
    at = at + [s.start for s in bounding_box(theirs.mask)]
    values = ndimage.map_coordinates(level[tuple(near)], at.T, order=1, mode="nearest")
    # Each piece is one shift; what of it lies beyond the donor's border is mirrored there.
    where = np.argwhere(bands.mask)
    grid = bands.spacing / theirs.spacing
    side = np.maximum(np.rint(config.piece * bands.voxel / bands.spacing), 1)
    piece = np.unique(where // side, axis=0, return_inverse=True)[1].ravel()
    shift = np.stack([np.bincount(piece, v) for v in (at - where * grid).T], 1) / np.bincount(piece)[:, None]
    last = np.array(theirs.mask.shape) - 1
    source = np.clip(np.rint(where * grid + shift[piece]).astype(int), 0, last)
    inside = np.stack([n[tuple(source.T)] for n in near], 1)
    mirrored = np.clip(2 * inside - source, 0, last)
    mirrored = np.where(theirs.mask[tuple(mirrored.T)][:, None], mirrored, inside)
    change = values + detail[tuple(mirrored.T)] - bands.own
    values = bands.own + np.where(_inner(bands, config), change, _faded(bands, change, config))
    return values - bands.filter.grain(_box(bands, values, bands.image))[bands.mask] + bands.parts[0]


def levelled(bands: Bands, values: np.ndarray, like: np.ndarray, config: DonorConfig = CONFIG) -> np.ndarray:
    """Voxels (n,) with the levels of others (n,) of the same mask, by a curve from level to level: no detail gets much
    stronger or weaker by it, no grain is added, and the border stays."""
    inner = _inner(bands, config)
    if inner.sum() < config.fewest:
        return values
    own, wanted = (np.percentile(v[inner], config.knots) for v in (values, like))
    rise = np.clip(np.diff(wanted), *np.multiply.outer(config.fine, np.diff(own)))
    curve = np.concatenate([[0.0], np.cumsum(rise)])
    curve += np.median(wanted) - np.median(curve)
    beyond = values - np.clip(values, own[0], own[-1])
    return values + bands.without_grain(
        _faded(bands, np.interp(values, own, curve) + beyond - values, config)
    )


def part_laid(
    bands: Bands, donor: Lent, limits: Limits | None = None, config: DonorConfig = CONFIG
) -> np.ndarray | None:
    """The same with a part of the donor at its own scale that has the whole one's levels; None where the donor is too small."""
    found = _part_of(bands, donor, config)
    return None if found is None else _made(bands, found, limits, config)


def _made(bands: Bands, found: np.ndarray, limits: Limits | None, c: DonorConfig) -> np.ndarray:
    """Voxels (n,) with a level and roughness (2 or 3, n) of the recipient's finer bands."""
    wanted = found[0]
    for band, theirs, ends in zip(bands.parts[1:], found[1:], (c.fine, c.medium)):
        wanted = wanted + _gain(bands, band, theirs, ends, c) * band
    change = wanted - bands.parts[1:].sum(0)
    if limits is not None:
        change = softly_held(change, bands.own, limits.low, limits.high, 2 * bands.noise)
    return bands.own + bands.without_grain(_faded(bands, change, c))


def _fields(donor: Lent, c: DonorConfig) -> list[np.ndarray]:
    """Boxes of the donor's level and of the standard deviations of its one or two finer bands, repeated beyond the tissue."""
    theirs, rough = (Bands(image, donor.mask, donor.spacing) for image in (donor.image, donor.rough))
    box = bounding_box(theirs.mask)
    near = ndimage.distance_transform_edt(
        ~theirs.mask, theirs.spacing, return_distances=False, return_indices=True
    )
    spread = np.subtract(*np.percentile(theirs.smooth(theirs.image, c.low[1])[theirs.mask], (95, 5)))
    clear = spread > c.clear * theirs.noise
    detail = [_box(rough, part) for part in rough.parts[1 : 2 if clear else 3]]
    fields = [theirs.smooth(theirs.image, c.low[0 if clear else 1])]
    fields += [np.sqrt(np.maximum(rough.smooth(d**2, c.local), 0)) for d in detail]
    return [f[tuple(near)][box] for f in fields]


def _enlarged(tissue: np.ndarray, zoom: np.ndarray) -> np.ndarray:
    """A mask enlarged by `zoom`; a donor of a few voxels that fills none of the new grid is taken for its whole box."""
    if np.allclose(zoom, 1, atol=1e-3):
        return tissue
    share = ndimage.zoom(tissue.astype(np.float32), zoom, order=1, mode="grid-constant", grid_mode=True)
    return share > 0.5 if (share > 0.5).any() else np.ones(np.maximum(share.shape, 1), bool)


def _part_of(bands: Bands, donor: Lent, c: DonorConfig) -> np.ndarray | None:
    """Level and roughness (2 or 3, n) of the part of the donor that fills the recipient and whose levels are most the whole
    donor's."""
    zoom = np.asarray(donor.spacing[::-1], np.float64) / bands.spacing
    fields, inside = _fields(donor, c), _enlarged(donor.mask[bounding_box(donor.mask)], zoom)
    if not np.allclose(zoom, 1, atol=1e-3):
        fields = [ndimage.zoom(f, zoom, order=1, mode="nearest", grid_mode=True) for f in fields]
    whole = fields[0].shape == inside.shape  # else it is thinner than a slice
    shift = _place_of(bands.mask, inside, fields[0], c) if whole else None
    if shift is None:
        return None
    at = np.clip(np.argwhere(bands.mask) + shift, 0, np.array(inside.shape) - 1)
    return np.stack([f[tuple(at.T)] for f in fields])


def _place_of(wanted: np.ndarray, inside: np.ndarray, level: np.ndarray, c: DonorConfig) -> np.ndarray | None:
    """(3,) by how many voxels a mask is shifted into the donor's tissue."""
    sizes = np.array(wanted.shape) + inside.shape
    thin = max(1, int(np.ceil(np.sqrt(float(np.prod(sizes)) / c.searched))))
    every = (slice(None), slice(None, None, thin), slice(None, None, thin))
    mask, tissue, level = (a[every] for a in (wanted, inside, level))
    shape = [fft.next_fast_len(a + b, real=True) for a, b in zip(mask.shape, tissue.shape)]
    turned = np.conj(fft.rfftn(mask.astype(np.float32), shape))

    def held(values: np.ndarray) -> np.ndarray:
        return fft.irfftn(fft.rfftn(values.astype(np.float32), shape) * turned, shape)

    count = held(tissue)
    share = count / mask.sum()
    if share.max() < c.filled[1]:
        return None
    off = np.zeros(shape)
    for edge in np.percentile(level[tissue], c.quantiles):
        below = tissue & (level < edge)
        off += (held(below) / np.maximum(count, 1) - below.sum() / tissue.sum()) ** 2
    off[share < min(c.filled[0], float(share.max()) - 0.02)] = np.inf
    at = np.array(np.unravel_index(int(off.argmin()), off.shape))
    return np.where(at < tissue.shape, at, at - shape) * (1, thin, thin)


def _aligned(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both masks in the box of the second, grown where the first needs it, with their centres together; and the first's place."""
    shift = np.round(np.argwhere(new).mean(0) - np.argwhere(old).mean(0)).astype(int)
    before = np.maximum(-shift, 0) + 4
    after = np.maximum(shift + old.shape - new.shape, 0) + 4
    wide = np.pad(new, list(zip(before, after)))
    moved = np.zeros(wide.shape, bool)
    moved[tuple(slice(a, a + n) for a, n in zip(shift + before, old.shape))] = old
    return moved, wide, shift + before


def _inner(bands: Bands, config: DonorConfig) -> np.ndarray:
    """(n,) bool, which voxels of a recipient are to be as the donor's; the others are its border."""
    return (bands.depth >= config.border) & (bands.tissue >= 0.5)


def _faded(bands: Bands, change: np.ndarray, config: DonorConfig) -> np.ndarray:
    """A change (n,) as the border takes part in it: by its share of tumour where the level comes nearer to that around, else a
    rim would stay behind; not where it goes away from it, nor in another texture: that would harden the border."""
    inner = _inner(bands, config)
    if bands.around is None or not inner.any():
        return bands.tissue * change
    level = float(np.median(change[inner]))
    if level * (np.median(bands.own[inner]) - np.median(bands.around)) > 0:
        return bands.tissue * change
    return bands.shifting * level + bands.tissue * (change - level)


def _box(bands: Bands, values: np.ndarray, around: np.ndarray | float = 0.0) -> np.ndarray:
    """Box of values (n,) in the mask, and what is around it."""
    box = np.zeros(bands.mask.shape) + around
    box[bands.mask] = values
    return box


def _gain(bands: Bands, band: np.ndarray, wanted: np.ndarray, bounds, c: DonorConfig) -> np.ndarray:
    """(n,) factor of one of the recipient's bands that makes it as rough as the donor's."""
    mine = np.sqrt(np.maximum(bands.smooth(_box(bands, band**2), c.local)[bands.mask], 0)) + 1e-6
    return np.clip(wanted / mine, *bounds)

"""A tumour's matte put over another place: where it may lie there, and what is left behind of the wall it lay on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from TumorSynthLib.texture.exemplar.matte import (
    ARRAYS,
    IN_PLANE,
    Matte,
    MatteConfig,
    composed,
    depth_of,
    distance_mm,
    held,
    ramp,
    sd_of,
    sigma_of,
    voxels_to,
)
from TumorSynthLib.texture.exemplar.spatial import blur, in_plane

WALL_HU = -300.0
"""Tissue above it beside the lung that is thicker than `WALL_MM` is the chest's wall or the mediastinum, no vessel."""
WALL_MM = 7.0
LEAST_ROUND = 0.75
"""Share of a tumour that is left where its flat side is cut to a bulge."""
FLAT = 0.1
"""Share of a tumour's border on the wall from which on it is a flat side."""
BESIDE, CONTACT, APART = 3.0, 2.0, 0.15
"""Voxels in plane from the wall up to which a border lies on it; from there up to which the contour says where the tumour ends
(less and less up to twice as far); opacity above which what doesn't hang together with the tumour is a piece of its old place."""
VESSEL_MM, CLEAR, ROOT = 2.0, 0.3, 1.5
"""Radius of a ball: what of a tumour it doesn't fit into and goes on outside is a vessel, spicules end; opacity from which on it
is looked at; voxels in plane of a vessel that stay on the tumour."""
DENSE_HU = -600.0
"""Vessels beside a tumour in the lung are brighter."""
RIB_HU = 200.0
"""What is brighter beside a tumour in the lung than it and this is a rib; vessels and its own bright voxels are not."""
BONE_HU, MARROW_MM2, THROUGH_MM = 180.0, 1000.0, 20.0
"""Bone above it in a CT; what it encloses in a slice is marrow up to this area, and brain or bowel above it; in MR so far along
the slices' axis bone may go on unseen."""
CUT, CUT_BLUR = (0.58, -0.25), 0.55
"""Voxels in plane: to each side of a contour that was cut from the wall over which opacity goes, so many times the width of the
tumour's other borders (`_width`) and a bit less; and its Gaussian. So it is as soft as they are."""
WIDTHS = (1.8, 2.2, 3.0)
"""Voxels in plane: the narrowest and the widest border, and between them what is taken where too few voxels tell."""
SEAM = 4.0
"""Voxels in plane from both a tumour and the wall that it lies on up to which what is between them is closed."""
BODY_HU, DARK_SHARE, SPOT_MM2 = -400.0, 0.16, 60.0
"""Outside the body below it in CT; in MR below this share of the image's 99th percentile, or cortical bone, where the area in a
slice is larger than a vessel's, which is as dark."""
MARROW_LEAST, MARROW_SHARE = 0.5, 0.7
"""Of bright tissue's level, marrow is brighter; of the marrow's, what follows on it is brighter: muscle has a third of it."""
AROUND_MM = 40.0
"""Around a tumour in soft tissue in which bone is looked for: marrow is told by the ring of bone around it."""


@dataclass(frozen=True, eq=False)
class Laid:
    """A box of an image with a tumour laid into it.

    :param box: slices into the image; `values` float32, `changed` bool, `mask` bool (the tumour's), `tissue` bool (the
        voxels of the mask that are more than half tumour, without fat and fascia that the contour took in): all of the box.
    """

    box: tuple[slice, ...]
    values: np.ndarray
    changed: np.ndarray
    mask: np.ndarray
    tissue: np.ndarray


def allowed(
    background: np.ndarray, spacing, in_lung: bool, is_ct: bool, bright: float | None = None
) -> np.ndarray:
    """(D, H, W) 0 to 1 where a tumour may lie: in lung not in the wall of the chest, else not outside the body, nor in bone.

    :param bright: the whole image's 99th percentile; None takes that of the background.
    """
    if not in_lung:
        bright = float(np.percentile(background, 99)) if bright is None else bright
        return in_soft_tissue(background, spacing, is_ct, bright)
    level = blur(background, sigma_of(1.0, spacing))
    inward = _depth_mm(wall_of(level, spacing), spacing) / spacing[1]
    return 1 - ramp(inward, 0.7, 3.0)  # falls off within the wall, so that a tumour abuts without a gap


def in_soft_tissue(background: np.ndarray, spacing, is_ct: bool, bright: float) -> np.ndarray:
    """(D, H, W) 0 to 1, neither outside the body nor in bone: a tumour abuts on it. MR's cortical bone is as dark as air."""
    if not is_ct:
        level = blur(background, sigma_of(0.7, spacing)) / bright
        dark = _larger(level < DARK_SHARE, SPOT_MM2, spacing)
        dark = _through(_with_marrow(dark, spacing), spacing) | _carried_on(dark, level, spacing)
        return ramp(distance_mm(dark, spacing) / spacing[1], 1.0, 4.0)
    level = blur(background, sigma_of(1.0, spacing))
    may = ramp(distance_mm(level < BODY_HU, spacing) / spacing[1], 1.0, 4.0)
    return may * ramp(distance_mm(bone_of(level, spacing), spacing) / spacing[1], 0.5, 2.5)


def _in_one(may: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """`may` without the parts that bone or air cuts off from the largest: the marrow, or another limb."""
    parts, count = ndimage.label(opacity * may > 0.02)
    if count < 2:
        return may
    largest = parts == 1 + np.argmax(ndimage.sum_labels(opacity * may, parts, np.arange(1, count + 1)))
    return np.where((parts > 0) & ~largest, 0, may)


def bone_of(level: np.ndarray, spacing) -> np.ndarray:
    """Bool, bone and the marrow in it, of a CT's level."""
    return _with_marrow(ndimage.binary_opening(level > BONE_HU, IN_PLANE), spacing)


def _with_marrow(bone: np.ndarray, spacing) -> np.ndarray:
    """Bone with the small holes that it has in a slice, also where the image's end cuts the bone open."""
    whole = bone.copy()
    for side in ((), (1, 0), (1, 1), (2, 0), (2, 1)):  # an end of the image closes a bone that it cuts
        pads = [(int(side == (axis, 0)), int(side == (axis, 1))) for axis in range(3)]
        inner = tuple(slice(low, low + n) for (low, _), n in zip(pads, bone.shape))
        closed = np.pad(bone, pads, constant_values=True)
        holes = ndimage.binary_fill_holes(closed, IN_PLANE)[inner] & ~bone
        whole |= holes & ~_larger(holes, MARROW_MM2, spacing)
    return whole


def _through(bone: np.ndarray, spacing) -> np.ndarray:
    """Bone that goes on in slices where its thin cortex isn't dark enough to be seen, between slices where it is."""
    most = int(THROUGH_MM / spacing[0]) // 2
    if not most:
        return bone
    closed = ndimage.binary_closing(
        np.pad(bone, [(most, most), (0, 0), (0, 0)]), np.ones((2 * most + 1, 1, 1))
    )
    return bone | closed[most : most + len(bone)]


def _carried_on(dark: np.ndarray, level: np.ndarray, spacing) -> np.ndarray:
    """Marrow that dark bone encloses in a slice, and what follows on it in the next ones, as bright and in line: towards
    a bone's end its cortex is too thin to be seen.

    :param level: of the image, as a share of that of bright tissue, which marrow is at least half as bright as.
    """
    holes = ndimage.binary_fill_holes(dark, IN_PLANE) & ~dark
    marrow = _larger(holes, SPOT_MM2, spacing) & ~_larger(holes, MARROW_MM2, spacing) & (level > MARROW_LEAST)
    for slices in (range(1, len(dark)), range(len(dark) - 2, -1, -1)):
        for k in slices:
            last = k - slices.step
            if marrow[last].any():
                bright = level[k] > MARROW_SHARE * np.median(level[last][marrow[last]])
                marrow[k] |= ndimage.binary_dilation(marrow[last]) & bright & ~dark[k]
    return marrow


def _larger(mask: np.ndarray, mm2: float, spacing) -> np.ndarray:
    """The parts of a mask that have at least so many mm2 in a slice."""
    parts, count = ndimage.label(mask, IN_PLANE)
    area = np.bincount(parts.ravel(), minlength=count + 1) * spacing[1] * spacing[2]
    return (area >= mm2)[parts] & mask


def wall_of(level: np.ndarray, spacing) -> np.ndarray:
    """Bool, the chest's wall and the mediastinum: dense tissue that is thicker than vessels are."""
    dense = level > WALL_HU
    seed = _depth_mm(dense, spacing) > WALL_MM / 2
    return dense & (distance_mm(seed, spacing) <= WALL_MM / 2 + spacing[1])


def _depth_mm(mask: np.ndarray, spacing) -> np.ndarray:
    """Distance in mm to what isn't the mask, within slices; 0 outside it."""
    return ndimage.distance_transform_edt(mask, in_plane(spacing))


def joined(matte: Matte, at: np.ndarray | None = None) -> tuple[Matte, np.ndarray]:
    """The tumour with what is between it and the wall of the chest that it lies on made opaque; and (D, H, W) 0 to 1, where.

    By level its opacity ends before the wall begins, as a removal puts lung next to the wall; in its own place the residual
    makes up for that, in another shape a dark slit or a bright line would show.

    :param at: where it was made opaque before it got its mask; None: the mask is still its own.
    """
    spacing, nowhere = matte.spacing, np.zeros(matte.mask.shape, np.float32)
    wall = wall_of(blur(matte.background, sigma_of(1.0, spacing)), spacing)
    if not matte.in_lung or not wall.any():
        return matte, nowhere
    off, apart = voxels_to(matte.mask, spacing), voxels_to(wall, spacing)
    seam = ramp(-off, -SEAM, -SEAM / 2) * ramp(-apart, -SEAM, -SEAM / 2)
    closed = voxels_to(np.minimum(off, apart) > SEAM / 2, spacing) - SEAM / 2  # depth below both, gaps closed
    seam = (seam * ramp(closed, 0.5, 2.0)).astype(np.float32)
    image = composed(matte, matte.background) + matte.residual
    if at is None:
        seam *= ramp(blur(image, sigma_of(MatteConfig.crisp, spacing)), 2 * WALL_HU, WALL_HU)
    else:
        touching = ramp(-np.maximum(off, apart), -2.0, -1.0)
        seam *= np.maximum(ramp(-voxels_to(at > 0.5, spacing), -2 * SEAM, -SEAM), touching)
    if not seam.any():
        return matte, nowhere
    opacity = np.maximum(matte.opacity, seam)
    result = replace(matte, opacity=opacity, own=np.maximum(matte.own, seam))
    if at is not None:
        return replace(result, residual=(1 - ramp(opacity - matte.opacity, 0.0, 0.2)) * matte.residual), seam
    back = blur(matte.background, sigma_of(MatteConfig.fine, spacing))
    grain = image - (opacity * matte.colour + (1 - opacity) * back)
    grain = held(grain, 1.0 * (seam == 0), matte.grain_bound)  # without the wall's level
    result = replace(result, grain=grain)
    left = np.where(result.touched, image - composed(result, matte.background), 0)
    return replace(result, residual=left), seam


def detached(matte: Matte, is_ct: bool = True) -> Matte:
    """The tumour without the wall of the chest that it lay on: how far it goes there, its contour says, rounded.

    A contour that ends on the pleura has a flat side, and pieces of vessels beside a nodule belong to its place: nothing explains
    them at another one.
    """
    if not matte.in_lung:
        return matte
    spacing, seen = matte.spacing, composed(matte, matte.background) + matte.residual
    whole, matte = int(matte.mask.sum()), _without_vessels(matte, seen)
    matte = replace(matte, opacity=_in_one_piece(matte.opacity, matte.mask))
    depth = depth_of(matte.mask, spacing)
    wall = allowed(matte.background, spacing, True, is_ct) < 0.5
    level = blur(seen, sigma_of(MatteConfig.crisp, spacing))
    wall |= level > np.maximum(matte.colour + 6 * matte.noise, RIB_HU)
    border = matte.mask & (depth < 1.0)
    contact = border & (-depth_of(wall, spacing) < BESIDE)
    if not contact.any():
        return matte
    away, mask = np.maximum(-depth_of(contact, spacing), 0), matte.mask
    if contact.sum() > FLAT * border.sum():
        mask, depth = _rounded(mask, depth, away, spacing, LEAST_ROUND * whole)
    near = ramp(-away, -2 * CONTACT, -CONTACT)
    cut = np.maximum(near, matte.mask & ~mask)
    dense = ramp(level, 2 * WALL_HU, WALL_HU)  # the wall next to it hides how far it goes, lung doesn't
    half = CUT[0] * _width(matte, seen, border & (away > 2 * CONTACT)) + CUT[1]
    opacity = np.minimum(np.maximum(matte.opacity, dense), ramp(depth, -half, half))
    opacity = matte.opacity + cut * (opacity - matte.opacity)
    soft = blur(cut, sigma_of(1.0, spacing))
    opacity = soft * blur(opacity, sigma_of(CUT_BLUR, spacing)) + (1 - soft) * opacity
    own = np.minimum(np.maximum(matte.own, dense), ramp(depth, -1.0, 0.5))
    own = matte.own + cut * (own - matte.own)
    free = ramp(depth, -1.5, 0.5) * (1 - soft)
    inside = matte.own > 0.9
    bound = 3 * sd_of(matte.finest[inside if inside.any() else matte.mask])
    grain, finest = held(matte.grain, free, matte.grain_bound), held(matte.finest, free, bound)
    opacity, own = opacity.astype(np.float32), own.astype(np.float32)
    return replace(matte, mask=mask, opacity=opacity, own=own, grain=grain, finest=finest)


def _width(matte: Matte, seen: np.ndarray, border: np.ndarray) -> float:
    """Width in voxels in plane of a border (D, H, W) bool: contrast over the steepest slope beside it."""
    if border.sum() < 30:
        return WIDTHS[1]
    slope = np.hypot(*np.gradient(blur(seen, (0, 0.5, 0.5)), axis=(1, 2)))
    steep = ndimage.maximum_filter(slope, (1, 5, 5))[border]
    contrast = (matte.colour - matte.background)[border]
    return float(np.clip(np.median(contrast / np.maximum(steep, 1e-3)), WIDTHS[0], WIDTHS[2]))


def _without_vessels(matte: Matte, seen: np.ndarray) -> Matte:
    """The tumour without the vessels that run into it; `seen` (D, H, W) is its image at its old place."""
    spacing = matte.spacing
    sides = [np.arange(-int(VESSEL_MM / s), int(VESSEL_MM / s) + 1) * s for s in spacing]
    ball = sum(off**2 for off in np.meshgrid(*sides, indexing="ij")) <= VESSEL_MM**2 + 1e-6
    there = matte.opacity > CLEAR
    parts, _ = ndimage.label(ndimage.binary_opening(there, ball))
    sizes = np.bincount(parts[matte.mask], minlength=2)
    if not sizes[1:].any():
        return matte
    solid = parts == 1 + sizes[1:].argmax()
    near = (min(spacing[0] / spacing[1], 1.2), 1, 1)  # a thick slice's neighbour may hold the tumour's end
    thin = there & (ndimage.distance_transform_edt(~solid, near) > ROOT)
    thin, _ = ndimage.label(thin, np.ones((3, 3, 3)))
    outside = ndimage.binary_dilation((matte.opacity <= APART) & (seen > DENSE_HU), np.ones((1, 3, 3)))
    vessel = np.isin(thin, np.setdiff1d(thin[outside], 0))
    if not vessel.any():
        return matte
    left = ramp(blur(ndimage.binary_dilation(vessel) & ~solid, 0.7), 0.1, 0.6)
    opacity, own = (((1 - left) * values).astype(np.float32) for values in (matte.opacity, matte.own))
    pieces, _ = ndimage.label(matte.mask & (left < 0.5))
    mask = np.isin(pieces, np.setdiff1d(pieces[solid], 0))  # without what only a vessel joined to it
    return replace(matte, mask=mask, opacity=opacity, own=own)


def _in_one_piece(opacity: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Opacity without the pieces that don't hang together with the tumour."""
    parts, _ = ndimage.label(opacity > APART)
    whole = np.isin(parts, np.unique(parts[mask & (parts > 0)]))
    loose = (parts > 0) & ~whole
    if not loose.any():
        return opacity
    return opacity * (1 - ramp(blur(ndimage.binary_dilation(loose, iterations=2) & ~whole, 0.7), 0.1, 0.6))


def _rounded(mask: np.ndarray, depth, away, spacing, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask with its flat side cut to a bulge, an ellipsoid's, and its depth (`matte.depth_of`); elsewhere as it is.

    :param away: (D, H, W) voxels in plane from the flat side; `least` voxels are to be left.
    """
    if np.count_nonzero(mask) < 2:  # which has no form
        return mask, depth
    radius = (3 * mask.sum() * np.prod(spacing) / (4 * np.pi)) ** (1 / 3) / spacing[1]
    near = ramp(-away, -0.9 * radius, -0.3 * radius)
    unit = np.array(spacing) / spacing[1]
    inside = np.argwhere(mask) * unit
    middle, form = inside.mean(0), np.linalg.inv(5 * np.cov(inside.T) + np.eye(3))
    at = np.moveaxis(np.indices(mask.shape), 0, -1) * unit - middle
    slope = at @ form
    far = np.sqrt(np.maximum((at * slope).sum(-1), 1e-6))
    bulge = (
        (1 - far) * far / np.maximum(np.sqrt((slope**2).sum(-1)), 1e-6)
    )  # about the depth below an ellipsoid
    for slack in np.arange(-1.0, radius, 0.5):
        soft = depth + near * (np.minimum(depth, bulge + slack) - depth)
        soft = blur(soft, sigma_of(0.1 * radius, spacing)) * near + (1 - near) * soft
        round_ = mask & (soft > 0)
        if round_.sum() >= least:
            return round_, np.minimum(soft, depth)
    return mask, depth


def seen_around(image: np.ndarray, box, spacing, in_lung: bool) -> tuple[np.ndarray, tuple[slice, ...]]:
    """A box of the image with as much around it as tells where a tumour may lie, and where in this the box is."""
    beyond = 12 if in_lung else int(np.ceil(AROUND_MM / spacing[1]))
    low = [max(s.start - m, 0) for s, m in zip(box, (0, beyond, beyond))]
    high = [min(s.stop + m, n) for s, m, n in zip(box, (0, beyond, beyond), image.shape)]
    inner = tuple(slice(s.start - a, s.stop - a) for s, a in zip(box, low))
    return image[tuple(map(slice, low, high))].astype(np.float32), inner


def bright_of(image: np.ndarray) -> float:
    """The level of bright tissue in an MR scan."""
    return float(np.percentile(image[::2, ::2, ::2], 99))


def laid_over(
    image: np.ndarray,
    matte: Matte,
    corner,
    is_ct: bool = True,
    home: np.ndarray | None = None,
    sharp: float | None = None,
) -> Laid:
    """A tumour laid into an image.

    :param image: (D, H, W), without the old tumour; not written to.
    :param corner: (z, y, x) index in it of the first voxel of the matte's box, which may lie partly outside.
    :param home: (D, H, W) bool of the matte's box, where the tumour lay if this is its own place: it may lie there again,
        whatever the image shows, and elsewhere where it finds soft tissue or lung.
    :param sharp: of a tumour from another scan (`matte.composed`).
    """
    low, size = np.array(corner), np.array(matte.mask.shape)
    high = np.minimum(low + size, image.shape)
    first = np.maximum(low, 0)
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, high))
    cut = tuple(slice(int(a - c), int(b - c)) for a, b, c in zip(first, high, low))
    wide, inner = seen_around(image, box, matte.spacing, matte.in_lung)
    bright = 0.0 if is_ct else bright_of(image)
    if home is None:
        may = allowed(wide, matte.spacing, matte.in_lung, is_ct, bright)[inner]
        if not matte.in_lung:
            may = _in_one(may, matte.opacity[cut])
    else:
        may = np.maximum(in_soft_tissue(wide, matte.spacing, is_ct, bright)[inner], home[cut])
        may = np.ones_like(may) if matte.in_lung else may
    part = replace(matte, **{name: getattr(matte, name)[cut] for name in ARRAYS})
    under = wide[inner]
    values = composed(part, under, may, sharp)
    changed = part.touched & (np.asarray(may) > 0)
    mask = part.mask & (np.asarray(may) > 0.5)
    tissue = mask if matte.in_lung else mask & part.tissue & (part.opacity * may > 0.5)
    return Laid(box, np.where(changed, values, under), changed, mask, tissue if tissue.any() else mask)

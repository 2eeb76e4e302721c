"""The level of the copies, joined: a screened membrane over the seams.

Solved is A @ c = b for the correction c of the copied level, one unknown per voxel of the hole: over a seam,
c jumps by what the low-passed copies differ there, so that the sum is smooth; at the hole's border the sum
meets the known level; everywhere c is drawn to 0 over `decay`. Jumps far beyond the grain are borders of
tissues and are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from .lenders import Atlas, Pieces, Tissue
from .spatial import blur, known_blur, neighbours


@dataclass(frozen=True)
class MembraneConfig:
    decay_ct_mm: float = 6.0
    """CT numbers are absolute: a correction doesn't reach far."""
    decay_lung_mm: float = 2.0
    """In lung a rim's haze would be carried into the hole, where it is seen as a ghost of the tumour."""
    decay_mr_mm: float = 40.0
    """MR is shaded."""
    border_of_tissues: float = 9.0
    """Jumps of the level beyond so many SD of grain are left."""
    rim_in_lung: float = 3.0
    """The same at the hole's border in lung: a brighter rim there is haze."""
    kinks_voxels: float = 0.8
    """Gaussian (voxels in plane) that the level gets next to seams, where its kinks are narrower than the
    image's blur."""
    tolerance: float = 1e-3
    iterations: int = 300


def joined_level(
    tissue: Tissue, atlas: Atlas, pieces: Pieces, labels, hole, spacing, kind: str, config: MembraneConfig
) -> np.ndarray:
    """The level with the hole filled by the pieces' levels, joined: float32 (D, H, W). labels: int (D, H, W),
    -1 outside; kind: ct, mr or lung (CT of it)."""
    fill = labels >= 0
    correction, copied = _correction(tissue, atlas, pieces, labels, hole, spacing, kind, config)
    out = tissue.level.copy()
    out[fill] = copied + correction
    sides = (0.0, config.kinks_voxels, config.kinks_voxels)
    softer = known_blur(out, ndimage.binary_dilation(fill, iterations=4), sides)[0]
    seam = np.zeros(fill.shape, bool)
    for axis in (1, 2):
        for step in (1, -1):
            seam |= labels != np.roll(labels, step, axis)
    close = np.clip(3 * blur(seam & fill, (0, 1.2, 1.2)), 0, 1)
    return np.where(fill, (1 - close) * out + close * softer, out).astype(np.float32)


def _correction(tissue, atlas, pieces, labels, hole, spacing, kind: str, config: MembraneConfig):
    """c and the copied level, both (n,) in the order of the hole's voxels."""
    fill = labels >= 0
    nodes, piece = np.argwhere(fill), labels[fill]
    ids = np.full(fill.shape, -1)
    ids[fill] = np.arange(len(nodes))
    level, place = atlas.banks(tissue.level, np.float32(0)).reshape(-1), atlas.flat(nodes)
    offset = atlas.offsets(pieces)[piece]
    copied, usable = level[place + offset], tissue.lend | ~hole
    decay = {"ct": config.decay_ct_mm, "mr": config.decay_mr_mm, "lung": config.decay_lung_mm}[kind]
    diagonal, right = np.full(len(nodes), (spacing[1] / decay) ** 2), np.zeros(len(nodes))
    rim = config.rim_in_lung if kind == "lung" else config.border_of_tissues

    def soft(jump, bound=config.border_of_tissues):
        return jump * np.exp(-((np.abs(jump) / (bound * tissue.sigma)) ** 4))

    links = []
    for axis, sign, rows, beside in neighbours(nodes, fill.shape):
        weight, step = (spacing[1] / spacing[axis]) ** 2, sign * atlas.strides[axis]
        other = ids[beside]
        if sign > 0:
            p, q = rows[other >= 0], other[other >= 0]
            # both copies at both voxels of the pair
            four = np.stack(
                [
                    place[p] + offset[p],
                    place[p] + step + offset[p],
                    place[p] + offset[q],
                    place[p] + step + offset[q],
                ]
            )
            values = level[four].astype(float)
            jump = 0.5 * (values[0] + values[1] - values[2] - values[3])
            jump = np.where(atlas.lends(four).all(0), soft(jump), 0)
        else:  # the same pairs, seen from their other voxels
            p, q, jump = q, p, -jump
        diagonal[p] += weight
        right[p] -= weight * jump
        links.append((p, q, np.full(len(p), -weight)))
        r = rows[(other < 0) & usable[beside]]
        sure = weight * atlas.lends(place[r] + step + offset[r])
        diagonal[r] += sure
        right[r] -= sure * soft(level[place[r] + step + offset[r]] - level[place[r] + step], rim)
    row, column, value = (np.concatenate(x) for x in zip(*links))
    matrix = sparse.csr_matrix((value, (row, column)), (len(nodes),) * 2)
    return conjugate_gradients(matrix, diagonal, right, config.tolerance, config.iterations), copied


def conjugate_gradients(off_diagonal, diagonal, right, tolerance: float, iterations: int) -> np.ndarray:
    """Solves (diag(diagonal) + off_diagonal) @ x = right, positive definite, preconditioned by the diagonal.

    numpy's own sums instead of a BLAS's: the same digits for any number of threads."""
    off_diagonal, diagonal, right = (a.astype(np.float32) for a in (off_diagonal, diagonal, right))
    x, residual = np.zeros(len(right), np.float32), right.copy()
    scaled = residual / diagonal
    direction, product = scaled.copy(), float((residual * scaled).sum())
    goal = tolerance**2 * float((right * right).sum())
    for _ in range(iterations):
        if float((residual * residual).sum()) <= goal:
            break
        image = diagonal * direction + off_diagonal @ direction
        length = product / float((direction * image).sum())
        x += length * direction
        residual -= length * image
        scaled = residual / diagonal
        before, product = product, float((residual * scaled).sum())
        direction = scaled + product / before * direction
    return x

"""Detectors of edited places, trained and judged across patients, on the native grid.

- `trees`: boosted trees on 21 named features of small patches, and on their difference from patches around;
- `network`: the patch network of `detectors.py`, with 5 mm of rim;
- `numbers`: a random forest and a logistic regression on the named numbers of `judge_numbers.py`.

.5: nobody could tell. An AUC means something only where the same detector tells a poor edit of the same kind apart. The AUC of
every single feature says what was seen: above .5, it is higher where the image was edited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectors import apart, folds, number_scores, patch_scores, patches
from scipy import ndimage, stats
from scoring import interval

BANDS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.51)  # of power, cycles per voxel
NAMES = (
    *(f"power {a:g}-{b:g}" for a, b in zip(BANDS[:-1], BANDS[1:])),
    "spread", "grain", "skewness", "kurtosis", "sharpest point", "power along x / y",
    "slice below", "slice above", "neighbour x", "neighbour y", "second neighbour x",
    "unevenness of grain", "largest grain", "difference of slices", "difference of slices' levels", "steepest edge",
)  # fmt: skip
FEATURES = (*NAMES, *(f"{n}, against around" for n in NAMES))


@dataclass(frozen=True)
class DetectorConfig:
    """How detectors are trained: the same for all edits that are compared."""

    patch: int = 14  # voxels in plane, 10 in lung, whose nodules are small
    lung_patch: int = 10
    each: int = 30  # patches a place
    around: int = 10
    ring_mm: tuple[float, float] = (4.0, 16.0)
    rim_mm: float = 5.0
    folds: int = 5
    repeats: int = 3  # with other folds
    network_steps: int = 150


DETECTORS = DetectorConfig()


@dataclass(eq=False)
class Look:
    """What a detector sees of one place.

    :param image: (z, y, x), edited or not; `where` its voxels that are judged, `ring` healthy ones around.
    :param mask: what the network is shown as the place.
    :param made: whether it was edited; `case` numbers the pair; `lender` is the patient whose tissue or features came in.
    """

    image: np.ndarray
    mask: np.ndarray
    where: np.ndarray
    ring: np.ndarray
    made: bool
    case: int
    patient: str
    lender: str
    numbers: dict[str, float]


def look(
    image, mask, spacing, avoid=None, rim: float | None = None, config: DetectorConfig = DETECTORS, **of
) -> Look:
    """A look at the mask, with the rim around it where there is a tumour; cut to what detectors need.

    :param rim: mm around the mask in which patches may have their middle; None: none, as there is no tumour.
    :param avoid: (z, y, x) bool, what isn't healthy and so no part of the ring.
    """
    reach = [int(np.ceil((config.ring_mm[1] + config.rim_mm) / s)) + config.patch for s in spacing]
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(found, reach))
    image, mask = image[box].astype(np.float32), mask[box]
    far = ndimage.distance_transform_edt(~mask, spacing)
    where = far <= rim if rim is not None else mask if mask.sum() < 900 else inside(mask)
    low, high = (mm + (0.0 if rim is None else config.rim_mm) for mm in config.ring_mm)
    ring = (far > low) & (far < high)
    return Look(image, mask, where, ring if avoid is None else ring & ~avoid[box], **of)


def rim_of(spacing, lung: bool, outside: bool, config: DetectorConfig = DETECTORS) -> float:
    """How far (mm) from a tumour a patch may have its middle: where nothing outside can have changed, so that the patch ends
    with the rim, and what is seen isn't drowned in patches that hold no tumour."""
    half = (config.lung_patch if lung else config.patch) / 2 * float(np.mean(spacing[1:]))
    return config.rim_mm if outside else max(config.rim_mm - half, 0.0)


def inside(mask: np.ndarray) -> np.ndarray:
    """The mask without its outermost voxels in plane."""
    return ndimage.binary_erosion(mask, np.ones((1, 3, 3), bool))


def cut(image: np.ndarray, centres: np.ndarray, size: int) -> np.ndarray:
    """(n, 3, size, size) patches of three slices around the centres (n, 3), which `centres_of` keeps within the image."""
    half = size // 2
    return np.stack([image[z - 1 : z + 2, y - half : y + half, x - half : x + half] for z, y, x in centres])


def centres_of(where: np.ndarray, size: int, count: int, rng) -> np.ndarray:
    """At most `count` random voxels (n, 3) of `where` whose patch lies within the image."""
    half, found = size // 2, np.argwhere(where)
    low, high = np.array([1, half, half]), np.array(where.shape) - [2, half, half]
    found = found[((found >= low) & (found <= high)).all(1)]
    return found[rng.permutation(len(found))[:count]]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation (n,) of each a (n, ...) with its b; 0 where one is flat."""
    a, b = (v.reshape(len(v), -1) - v.reshape(len(v), -1).mean(1, keepdims=True) for v in (a, b))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(size > 1e-12, (a * b).sum(1) / np.maximum(size, 1e-12), 0.0)


def patch_features(p: np.ndarray) -> np.ndarray:
    """(n, 21) named features (`NAMES`) of patches (n, 3, size, size)."""
    p = p.astype(np.float64)
    middle, n = p[:, 1], p.shape[-1]
    window = np.outer(np.hanning(n + 2)[1:-1], np.hanning(n + 2)[1:-1])
    power = np.abs(np.fft.fft2((middle - middle.mean((1, 2), keepdims=True)) * window)) ** 2
    f = np.abs(np.fft.fftfreq(n))
    radius = np.maximum(f[:, None], f[None])
    out = [
        np.log(power[:, (radius > a) & (radius <= b)].mean(1) + 1e-3) for a, b in zip(BANDS[:-1], BANDS[1:])
    ]
    residual = p - ndimage.gaussian_filter(p, (0, 0, 1.5, 1.5))
    grain = residual[:, 1]
    flat, spread = grain.reshape(len(p), -1), middle.std((1, 2))
    laplace = np.stack([ndimage.laplace(m) for m in middle]).reshape(len(p), -1)
    out += [np.log(spread + 1e-3), np.log(flat.std(1) + 1e-3), stats.skew(flat, 1), stats.kurtosis(flat, 1)]
    out += [np.abs(laplace).max(1) / (laplace.std(1) + 1e-3)]
    out += [np.log((power[:, 0, 1 : n // 2].mean(1) + 1) / (power[:, 1 : n // 2, 0].mean(1) + 1))]
    out += [_correlation(residual[:, 0], grain), _correlation(grain, residual[:, 2])]
    out += [_correlation(grain[:, :, :-1], grain[:, :, 1:]), _correlation(grain[:, :-1], grain[:, 1:])]
    out += [_correlation(grain[:, :, :-2], grain[:, :, 2:])]
    q = n // 4
    parts = grain[:, : 4 * q, : 4 * q].reshape(len(p), q, 4, q, 4).std((2, 4)).reshape(len(p), -1)
    out += [parts.std(1) / (parts.mean(1) + 1e-3), parts.max(1) / (parts.mean(1) + 1e-3)]
    out += [np.log((p[:, 2] - middle).std((1, 2)) + 1e-3) - np.log(spread + 1e-3)]
    out += [np.log(np.abs(np.diff(p.mean((2, 3)), axis=1)).mean(1) + 0.1)]
    steep = np.hypot(*np.gradient(middle, axis=(1, 2))).reshape(len(p), -1)
    out += [np.log(steep.max(1) + 1e-3) - np.log(steep.mean(1) + 1e-3)]
    return np.nan_to_num(np.stack(out, 1))


def rows_of(
    looks: list[Look], size: int, seed: int, config: DetectorConfig = DETECTORS
) -> tuple[np.ndarray, np.ndarray]:
    """Features (patches, 42) of all looks, and the look (patches,) that each belongs to.

    The two of a case are cut at the same voxels where they show the same place.
    """
    x, of = [], []
    for i, item in enumerate(looks):
        rng = np.random.default_rng([seed, item.case])
        centres = centres_of(item.where, size, config.each, rng)
        around = centres_of(item.ring, size, config.around, np.random.default_rng([seed, item.case, 1]))
        if not len(centres):
            continue
        found = patch_features(cut(item.image, centres, size))
        beside = np.median(patch_features(cut(item.image, around, size)), 0) if len(around) else 0.0
        x.append(np.concatenate([found, found - beside], 1))
        of.append(np.full(len(found), i))
    return (np.concatenate(x), np.concatenate(of)) if x else (np.zeros((0, len(FEATURES))), np.zeros(0, int))


def rank_auc(score: np.ndarray, made: np.ndarray) -> float:
    """Share of (untouched, made) pairs that the score orders rightly; ties count half."""
    count = int(made.sum())
    if not count or count == len(made):
        return float("nan")
    ranks = stats.rankdata(score)[made.astype(bool)].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(made) - count)))


def judged(scores: list[np.ndarray], made: np.ndarray, patients: np.ndarray) -> dict:
    """AUC, mean over repetitions with other folds, and its interval by patient."""
    rows = [{"patient": p, "at": i} for i, p in enumerate(patients)]

    def value(some):
        at = np.array([r["at"] for r in some])
        return float(np.mean([rank_auc(s[at], made[at]) for s in scores]))

    return {"auc": value(rows), "interval": interval(rows, value)}


def tree_scores(x: np.ndarray, y: np.ndarray, parts) -> np.ndarray:
    """Probability (n,) of having been edited for the second of each of the `parts` (`detectors.apart`), by boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    out = np.full(len(y), 0.5)
    for train, test in parts:
        if len(np.unique(y[train])) < 2 or not test.any():
            continue
        # Not weighted by class: an AUC hardly asks for it, and weights make the binning ten times as slow.
        trees = HistGradientBoostingClassifier(max_iter=80, max_depth=3, learning_rate=0.08, random_state=0)
        out[test] = trees.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return out


def detect(looks: list[Look], lung: bool, seed: int = 0, config: DetectorConfig = DETECTORS) -> dict:
    """All detectors on one edit's looks, untouched and made; AUCs of single features, those farthest from .5 first.

    :returns: {} where fewer than four patients are there.
    """
    patients, lenders = (np.array([getattr(v, n) for v in looks]) for n in ("patient", "lender"))
    names = sorted(set(patients))
    if len(names) < 4:
        return {}
    size = config.lung_patch if lung else config.patch
    x, of = rows_of(looks, size, seed, config)
    made = np.array([v.made for v in looks]).astype(int)
    splits = []
    for r in range(config.repeats):
        fold = folds(list(patients), min(config.folds, len(names)), seed + r)
        splits.append([apart(fold, k, patients, lenders) for k in np.unique(fold)])
    trees = [tree_scores(x, made[of], [(a[of], b[of]) for a, b in parts]) for parts in splits]
    out = {
        "trees": judged(trees, made[of], patients[of]),
        "numbers": _by_numbers(looks, made, patients, splits[:1], seed),
    }
    if config.network_steps:
        out["network"] = _by_network(looks, made, patients, splits[0], config.network_steps, seed)
    single = {n: rank_auc(x[:, k], made[of]) for k, n in enumerate(FEATURES)}
    out["seen"] = dict(sorted(single.items(), key=lambda kv: -abs(kv[1] - 0.5)))
    return out | {
        "untouched": int((made == 0).sum()),
        "made": int(made.sum()),
        "patches": len(x),
        "patients": len(names),
    }


def _by_numbers(looks, made, patients, splits, seed: int) -> dict:
    names = sorted({n for v in looks for n in v.numbers})
    x = np.arcsinh(np.array([[v.numbers.get(n, np.nan) for n in names] for v in looks]))
    known = np.isfinite(x).any(0)
    x, names = x[:, known], [n for n, k in zip(names, known) if k]
    x = np.where(np.isfinite(x), x, np.nanmedian(x, 0))
    scores = [number_scores(x, made, parts, seed) for parts in splits]
    single = {n: rank_auc(x[:, k], made) for k, n in enumerate(names)}
    return judged(scores, made, patients) | {"each": single}


def _by_network(looks, made, patients, parts, steps: int, seed: int) -> dict:
    """The patch network of `detectors.py` on the native grid; intensities by the untouched images' median and spread."""
    ring = np.concatenate([v.image[v.ring][:: max(1, int(v.ring.sum()) // 500)] for v in looks if not v.made])
    middle, spread = np.median(ring), max(float(np.percentile(ring, 84) - np.percentile(ring, 16)) / 2, 1e-3)
    # A patch needs a centre: the place itself, and its rim where a tumour is judged.
    image = np.stack(
        [
            patches(v.image, v.where, v.case + seed, lambda a: np.arcsinh((a - middle) / spread), v.mask)
            for v in looks
        ]
    )
    cases = np.array([v.case for v in looks])
    scores = [patch_scores(image, made, cases, parts, steps, seed)]
    return judged(scores, made, patients)

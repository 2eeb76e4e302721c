"""How believable synthetic tumours are: detectors of synthetic tumours, trained and judged across patients.

Two detectors, each blind to which features were asked for:
- `patches`: a small convolutional network on three neighbouring slices around the border and the inside, with the mask.
- `numbers`: radial profile, power spectrum, neighbour correlations, the step at the border, and the audit features
  (which the solver never sees), by logistic regression and a random forest, whose probabilities are averaged.

An AUC of .5 is perfect; that of `field` (solver on a random field) should be near 1, or the detector has no power and its
other values mean nothing. A detector that is hardly trained finds the field, too: more steps shouldn't raise an AUC.
Folds are by patient: no patient is in training and in judgement, neither by the place of a tumour nor by the features that it
was asked for. Those of a donor are a real tumour's of another case, and would tell a detector that the opposite is true of it.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from arms import Bench, Drawn, Tumour
from scipy import ndimage
from scoring import AUDIT, interval, klass, size_free
from torch import nn
from torch.nn import functional as F

from TumorSynthLib.region import Region

SHELLS = 6
BANDS = 6  # of the power spectrum
PATCH = 24  # voxels in plane
CONTEXT_MM = 14.0
PATCHES = 12  # per tumour
PAIRS, RATE = 24, 5e-3  # of a batch: a synthetic and the real patch each; learning rate at first


def window(bench: Bench, tumour: Tumour, drawn: Drawn | None) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask (D, H, W) of a tumour (the real one without `drawn`) on the model's grid."""
    volume = drawn.volume(tumour.volume) if drawn else tumour.volume
    region = Region.around(volume, tumour.mask, bench.bundle.spacing, CONTEXT_MM)
    return region.array.astype(np.float32), region.mask


def numbers(array: np.ndarray, mask: np.ndarray, spacing) -> np.ndarray:
    """Arrangement of a tumour's values, free of their level and spread: profile, spectrum, neighbours, border."""
    inside = array[mask]
    z = (array - inside.mean()) / max(float(inside.std()), 1e-3)
    return np.concatenate(
        [profile(z, mask, spacing), spectrum(z, mask), neighbours(z, mask), border(z, mask)]
    )


def profile(z: np.ndarray, mask: np.ndarray, spacing) -> np.ndarray:
    """Mean and spread by depth below the border: the outermost layer, then shells with equal shares of voxels."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), spacing[::-1])[1:-1, 1:-1, 1:-1][mask]
    order = np.argsort(depth, kind="stable")
    values = z[mask][order]
    parts = np.array_split(values, SHELLS)
    return np.array([p.mean() for p in parts] + [p.std() for p in parts])


def spectrum(z: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of in-plane power by frequency, in BANDS bands up to Nyquist, in logarithm; mean over slices."""
    total = np.zeros(BANDS)
    masked = np.where(mask, z, 0.0)
    for k in np.flatnonzero(mask.sum((1, 2)) >= 12):
        rows, columns = (np.flatnonzero(mask[k].any(a)) for a in (1, 0))
        part = masked[k, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        power = np.abs(np.fft.fft2(part - part.mean(), (64, 64) if max(part.shape) <= 64 else None)) ** 2
        f = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij"))
        band = np.minimum((f / 0.5 * BANDS).astype(int), BANDS - 1)
        total += np.bincount(band.ravel(), power.ravel(), BANDS)
    return np.log((total + 1e-9) / (total.sum() + BANDS * 1e-9))


def neighbours(z: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Correlation with the neighbour one and two voxels away, along each axis, and with the slices' own noise."""
    found = []
    for axis in range(3):
        for lag in (1, 2):
            a, b = (np.take(z, np.arange(*r), axis) for r in ((lag, z.shape[axis]), (0, z.shape[axis] - lag)))
            m, n = (
                np.take(mask, np.arange(*r), axis) for r in ((lag, z.shape[axis]), (0, z.shape[axis] - lag))
            )
            both = m & n
            usable = both.sum() > 8 and a[both].std() > 0 and b[both].std() > 0
            found.append(np.corrcoef(a[both], b[both])[0, 1] if usable else 0.0)
    return np.array(found)


def border(z: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean and gradient of the layers inside and outside the border, in the tumour's standard deviations."""
    plane = np.zeros((3, 3, 3), bool)
    plane[1] = True
    layers, found = [mask & ~ndimage.binary_erosion(mask, plane)], []
    inner = ndimage.binary_erosion(mask, plane)
    layers.append(inner & ~ndimage.binary_erosion(inner, plane))
    outer = ndimage.binary_dilation(mask, plane)
    layers.append(outer & ~mask)
    steep = np.hypot(*np.gradient(z, axis=(1, 2))) if min(z.shape[1:]) > 1 else np.zeros_like(z)
    for layer in layers:
        found += [z[layer].mean(), steep[layer].mean()] if layer.any() else [0.0, 0.0]
    noise = np.abs(z - ndimage.uniform_filter(z, (1, 3, 3)))
    found.append(np.log((noise[mask].mean() + 1e-3) / (noise[outer & ~mask].mean() + 1e-3)))
    return np.clip(np.arcsinh(found), -10, 10)


def audit(features: dict[str, float]) -> np.ndarray:
    """The audit features that are free of the region's size, bent so that outliers don't rule."""
    names = [n for n in sorted(features) if klass(n) in AUDIT and size_free(n)]
    return np.arcsinh(np.array([features[n] for n in names]))


def folds(patients: list[str], count: int, seed: int) -> np.ndarray:
    """Fold (n,) of every item; all of one patient are in one fold."""
    names = np.random.default_rng(seed).permutation(sorted(set(patients)))
    of = {p: k % count for k, p in enumerate(names)}
    return np.array([of[p] for p in patients])


def apart(
    fold: np.ndarray, k: int, patients: np.ndarray, lenders: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which items train the detector that judges fold k, and which it judges: bool (n,) each.

    :param patients: whose tumour was at the item's place; `lenders`: whose features it has. (n,) names.
    """
    test = fold == k
    held = np.union1d(patients[test], lenders[test])
    return ~np.isin(patients, held) & ~np.isin(lenders, held), test


def number_scores(
    x: np.ndarray, y: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]], seed: int
) -> np.ndarray:
    """Probability (n,) of being synthetic for the second of each of the `parts` (see `apart`), by detectors trained on the first;
    mean of logistic regression and random forest, 0.5 where too few train."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    out = np.full(len(y), 0.5)
    for train, test in parts:
        if len(np.unique(y[train])) < 2:
            continue
        models = (
            make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500)),
            RandomForestClassifier(
                200, class_weight="balanced", min_samples_leaf=2, random_state=seed, n_jobs=1
            ),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out[test] = np.mean([m.fit(x[train], y[train]).predict_proba(x[test])[:, 1] for m in models], 0)
    return out


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()


class PatchNet(nn.Module):
    """Logit of being synthetic for patches (B, 4, PATCH, PATCH): three slices and the mask of the middle one.

    The first layer also sees the slices without their smooth part: grain is what betrays most, and few cases teach no filter.
    Without its batch normalisation it still tells nothing apart when one with it hardly errs.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        self.body = nn.Sequential(
            *_layer(7, width), *_layer(width, width), nn.MaxPool2d(2),
            *_layer(width, 2 * width), *_layer(2 * width, 2 * width),
        )  # fmt: skip
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(4 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grain = x[:, :3] - F.avg_pool2d(x[:, :3], 3, 1, 1, count_include_pad=False)
        h = self.body(torch.cat([x, 4 * grain], 1))
        return self.out(self.drop(torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)))[:, 0]


def patches(array: np.ndarray, mask: np.ndarray, seed: int, mapped, shown=None) -> np.ndarray:
    """(PATCHES, 4, PATCH, PATCH) at random voxels of the mask, half of them at its border; same seed, same places.

    :param shown: the mask whose border is meant and that the network sees, where `mask` reaches beyond it; None is `mask`.
    """
    rng, half = np.random.default_rng(seed), PATCH // 2
    shown = mask if shown is None else shown
    edge = np.argwhere(shown & ~ndimage.binary_erosion(shown))
    every = np.argwhere(mask)
    x = np.pad(mapped(array), ((1, 1), (half, half), (half, half)), mode="edge")
    m = np.pad(shown.astype(np.float32), ((1, 1), (half, half), (half, half)))
    out = []
    for k in range(PATCHES):
        pool = edge if k % 2 else every
        z, i, j = pool[rng.integers(len(pool))]
        area = (slice(i, i + PATCH), slice(j, j + PATCH))
        out.append(np.concatenate([x[z : z + 3][(slice(None), *area)], m[z + 1][area][None]]))
    return np.stack(out).astype(np.float32)


def patch_scores(
    x: np.ndarray, y: np.ndarray, cases: np.ndarray, parts: list, steps: int, seed: int
) -> np.ndarray:
    """The same as logit (n,) per tumour, mean over its patches x (n, PATCHES, 4, PATCH, PATCH); cases (n,) are the masks'."""
    out = np.zeros(len(y))
    for train, test in (map(np.flatnonzero, part) for part in parts):
        if len(np.unique(y[train])) < 2:
            continue
        net = _trained(x[train], y[train], cases[train], steps, seed)
        with torch.no_grad():
            logits = net(torch.from_numpy(x[test].reshape(-1, *x.shape[2:])))
        out[test] = logits.view(len(test), -1).mean(1).numpy()
    return out


def _trained(x: np.ndarray, y: np.ndarray, cases: np.ndarray, steps: int, seed: int) -> PatchNet:
    """The network after `steps` batches of pairs, turned and flipped: a synthetic patch and the real one of the same place."""
    rng = np.random.default_rng(seed)
    real = {c: i for i, (c, t) in enumerate(zip(cases, y)) if t == 0}
    made = np.flatnonzero(y == 1)
    twins = np.array([real[cases[i]] for i in made])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = PatchNet().train()
        optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-2)
        for step in range(steps):
            some = rng.integers(len(made), size=PAIRS)
            places = np.tile(rng.integers(x.shape[1], size=PAIRS), 2)
            items = np.concatenate([twins[some], made[some]])
            batch = np.rot90(x[items, places], rng.integers(4), (2, 3))
            batch = np.ascontiguousarray(batch[..., ::-1] if rng.random() < 0.5 else batch)
            for group in optimiser.param_groups:
                group["lr"] = RATE * (0.525 + 0.475 * np.cos(np.pi * step / steps))
            logits = net(torch.from_numpy(batch))
            loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(y[items].astype(np.float32)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def auc(score: np.ndarray, y: np.ndarray) -> float:
    """Share of (real, synthetic) pairs that the score orders rightly; ties count half."""
    a, b = score[y == 1], score[y == 0]
    if not len(a) or not len(b):
        return float("nan")
    return float((a[:, None] > b[None]).mean() + 0.5 * (a[:, None] == b[None]).mean())


def judged_auc(score: np.ndarray, y: np.ndarray, patients: list[str], cases: list[int]) -> dict:
    """AUC with its interval by patient; `pairs`: how often the synthetic tumour scores above the real one of its own mask."""
    rows = [{"patient": p, "score": s, "y": t} for p, s, t in zip(patients, score, y)]
    real = {c: s for c, s, t in zip(cases, score, y) if t == 0}
    above = [float(s > real[c]) + 0.5 * float(s == real[c]) for c, s, t in zip(cases, score, y) if t == 1]

    def value(some):
        return auc(np.array([r["score"] for r in some]), np.array([r["y"] for r in some]))

    return {"auc": value(rows), "interval": interval(rows, value), "pairs": float(np.mean(above))}


def detect(
    bench: Bench, made: list[tuple[int, Drawn]], count: int, steps: int, repeats: int, seed: int = 0
) -> dict:
    """Both detectors on one arm's tumours and the real ones of the same cases; `trained_on`: synthetic tumours that one learned
    from, mean over folds.

    :param made: (case, sample); a case may have several.
    :param count: folds; `steps` of the patch network's training, 0 leaves it out; `repeats` with other folds, averaged.
    """
    items = [(i, None) for i in sorted({i for i, _ in made})] + list(made)
    rows, crops, made_up, cases = [], [], [], [i for i, _ in items]
    patients = np.array([bench.tumours[i].case.patient for i in cases])
    lenders = np.array(
        [bench.tumours[d.donor if d and d.donor is not None else i].case.patient for i, d in items]
    )
    for i, drawn in items:
        tumour = bench.tumours[i]
        array, mask = window(bench, tumour, drawn)
        found = numbers(array, mask, bench.bundle.spacing)
        rows.append(np.concatenate([found, audit(drawn.features if drawn else tumour.own)]))
        mapped = bench.bundle.json["intensity"][tumour.case.modality]
        crops.append(patches(array, mask, i, lambda v, m=mapped: np.arcsinh((v - m["center"]) / m["scale"])))
        made_up.append(int(drawn is not None))
    x, y, image = np.nan_to_num(np.array(rows)), np.array(made_up), np.stack(crops)
    count = min(count, len(set(patients)))
    scores, trained = {"numbers": np.zeros(len(y)), "patches": np.zeros(len(y))}, []
    for r in range(repeats):
        fold = folds(patients, count, seed + r)
        parts = [apart(fold, k, patients, lenders) for k in np.unique(fold)]
        trained += [y[train].sum() for train, _ in parts]
        scores["numbers"] += number_scores(x, y, parts, seed + r) / repeats
        if steps:
            scores["patches"] += patch_scores(image, y, np.array(cases), parts, steps, seed + r) / repeats
    if not steps:
        scores.pop("patches")
    out = {name: judged_auc(s, y, patients, cases) for name, s in scores.items()}
    return out | {
        "real": int((y == 0).sum()), "synthetic": int(y.sum()), "patients": len(set(patients)),
        "trained_on": float(np.mean(trained)),
    }  # fmt: skip

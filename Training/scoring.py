"""Statistics of an evaluation: re-extraction by pyradiomics, correlations with intervals by patient, PSNR and SSIM."""

from __future__ import annotations

import logging
import re
from collections import Counter

import numpy as np
from prepare import CLASSES
from scipy import stats

from TumorSynthLib.radiomics.table import FEATURES

AUDIT = ("gldm", "ngtdm", "glcm_other")  # never seen by the solver
EVERY = ("firstorder", "glcm", "glrlm", "glszm", *AUDIT)
OTHER_BIN = 0.6  # the audit's second bin width, as a share of the model's


def pyradiomics_features(volume, mask, settings: dict, classes=EVERY) -> dict[str, float]:
    """Texture features of `classes` by pyradiomics; `glcm_other` is GLCM at another bin width, `original_glcm_other_*`."""
    import SimpleITK as sitk
    from radiomics import featureextractor, setVerbosity

    setVerbosity(logging.CRITICAL)
    image = volume.sitk()
    label = sitk.GetImageFromArray(mask.astype(np.uint8))
    label.CopyInformation(image)
    found = {}
    plain, other = [c for c in classes if c != "glcm_other"], [c for c in classes if c == "glcm_other"]
    for wanted, scale, rename in ((plain, 1.0, ""), (other and ["glcm"], OTHER_BIN, "_other")):
        if not wanted:
            continue
        options = {**settings, "binWidth": settings["binWidth"] * scale}
        extractor = featureextractor.RadiomicsFeatureExtractor(**options)
        extractor.disableAllFeatures()
        for name in wanted:
            extractor.enableFeatureClassByName(name)
        values = extractor.execute(image, label)
        for k, v in values.items():
            if k.startswith("original_"):
                found[k.replace("glcm_", f"glcm{rename}_")] = float(v)
    return found


def klass(name: str) -> str:
    return name.split("_")[1] + ("_other" if "_other_" in name else "")


def size_free(name: str) -> bool:
    return FEATURES[name.replace("glcm_other", "glcm")].size == "free"


def table(rows: list[dict], names: list[str], key: str) -> np.ndarray:
    """(rows, names) values asked or reached."""
    return np.array([[r[key][n] for n in names] for r in rows], float)


def columnwise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column of a (n, f) with that of b; nan where one doesn't vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    spread = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12 * (1 + np.abs(a).max(0) ** 2), (a * b).sum(0) / spread, np.nan)


def concordance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Lin's concordance coefficient of each column: 1 only where asked and reached are equal, not merely in line."""
    together = 2 * ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
    spread = a.var(0) + b.var(0) + (a.mean(0) - b.mean(0)) ** 2
    return np.where(spread > 0, together / np.maximum(spread, 1e-300), np.nan)


def residuals(values: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """What is left of each column (n, f) after a line in the logarithm of the region's voxels (n,)."""
    x = np.stack([np.ones(len(voxels)), np.log(np.maximum(voxels, 1))], 1)
    return values - x @ np.linalg.lstsq(x, values, rcond=None)[0]


def correlations(rows: list[dict], names: list[str], shuffle: bool = False) -> dict[str, float]:
    """Pearson of asked against reached across cases, per feature; `shuffle` pairs results with another case's request.

    :param rows: those of one case lie together.
    """
    asked, reached = table(rows, names, "asked"), table(rows, names, "reached")
    if shuffle:
        asked = np.roll(
            asked, max(Counter(r.get("case", i) for i, r in enumerate(rows)).values(), default=1), axis=0
        )
    found = columnwise(asked, reached)
    return {n: float(v) for n, v in zip(names, found) if np.isfinite(v)}


def middle(values) -> float:
    """Median of the finite ones."""
    values = np.asarray(list(values), float)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def agreement(rows: list[dict], names: list[str]) -> dict[str, float]:
    """Medians over features of every measure of agreement between asked and reached."""
    asked, reached = table(rows, names, "asked"), table(rows, names, "reached")
    ranks = stats.rankdata(asked, axis=0), stats.rankdata(reached, axis=0)
    out = {
        "spearman": middle(columnwise(*ranks)),
        "concordance": middle(concordance(asked, reached)),
    }
    voxels = np.array([r.get("voxels", 1) for r in rows], float)
    if len(rows) > 4 and np.ptp(voxels) > 0:
        out["without_volume"] = middle(columnwise(residuals(asked, voxels), residuals(reached, voxels)))
    return out


def interval(rows: list[dict], statistic, draws: int = 300) -> list[float]:
    """95 % bootstrap interval of a statistic of rows, resampling patients; of fewer than five there is none."""
    rng, patients = np.random.default_rng(0), sorted({r["patient"] for r in rows})
    groups = {p: [r for r in rows if r["patient"] == p] for p in patients}
    values = []
    if len(patients) < 5:
        return [None, None]
    for _ in range(draws):
        drawn = [r for p in rng.choice(patients, len(patients)) for r in groups[p]]
        if len({r["patient"] for r in drawn}) > 2:
            values.append(statistic(drawn))
    return [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]


def summary(rows: list[dict], names: list[str], population) -> dict:
    """Feature-wise medians with intervals per class, the worst features, the shuffled control and case-wise values."""
    out: dict = {
        "cases": len(rows),
        "patients": len({r["patient"] for r in rows}),
        "classes": {},
        "groups": {},
    }
    kinds = sorted({klass(n) for n in names})
    for kind in kinds:
        out["classes"][kind] = _group(rows, [n for n in names if klass(n) == kind])
    for group, part in (("steered", set(CLASSES)), ("audit", set(AUDIT))):
        chosen = [n for n in names if klass(n) in part]
        if chosen:
            out["groups"][group] = _group(rows, chosen)
    every = correlations(rows, names)
    out["worst"] = dict(sorted(every.items(), key=lambda kv: kv[1])[:5])
    out |= _case_wise(rows, [n for n in names if klass(n) in CLASSES and n in population.names], population)
    if (
        "unsized" in rows[0]
    ):  # against the donor's features as measured, before they were taken to the tumour's size
        raw = [r | {"asked": r["unsized"]} for r in rows]
        out["unsized"] = {
            k: middle(correlations(raw, [n for n in names if klass(n) == k]).values()) for k in kinds
        }
    out["seconds_median"] = float(np.median([r["seconds"] for r in rows]))
    for score in ("psnr", "ssim"):
        found = [r[score] for r in rows if score in r]
        if found:
            out[score] = float(np.mean(found))
    return out


def _group(rows: list[dict], names: list[str]) -> dict:
    """Median Pearson over features with its interval, the shuffled control, and the other measures."""

    def median(some):
        return middle(correlations(some, names).values())

    shuffled = middle(correlations(rows, names, True).values())
    out = {"median": median(rows), "interval": interval(rows, median), "shuffled": shuffled}
    return out | agreement(rows, names)


def _case_wise(rows: list[dict], names: list[str], population) -> dict:
    """Agreement across z-scored features within a case, which is what the paper's figures print; means over cases."""
    where = [population.names.index(n) for n in names]
    mean, sigma = np.asarray(population.mean)[where], np.maximum(np.asarray(population.std)[where], 1e-12)
    z = [[(table([r], names, k)[0] - mean) / sigma for k in ("asked", "reached")] for r in rows]
    for r, (asked, reached) in zip(rows, z):
        r["case_pearson"] = float(np.corrcoef(asked, reached)[0, 1])
        r["case_spearman"] = float(stats.spearmanr(asked, reached).statistic)
    out: dict = {"mean_difference_sigma": float(np.mean([np.abs(p[1] - p[0]).mean() for p in z]))}
    for name in ("case_pearson", "case_spearman"):
        out[name] = float(np.mean([r[name] for r in rows]))
        out[name + "_interval"] = interval(rows, lambda some, n=name: float(np.mean([r[n] for r in some])))
    return out


def psnr_ssim(truth, result, where, low, high) -> tuple[float, float]:
    """PSNR (dB) and mean SSIM inside `where` at the window [low, high]."""
    from skimage.metrics import structural_similarity

    t, r = (np.clip((x.astype(np.float64) - low) / (high - low), 0, 1) for x in (truth, result))
    error = np.mean((t - r)[where] ** 2)
    size = min(7, min(t.shape) - (1 - min(t.shape) % 2))
    _, full = structural_similarity(t, r, data_range=1.0, full=True, win_size=max(3, size))
    return float(-10 * np.log10(max(error, 1e-12))), float(full[where].mean())


def removal_summary(rows):
    """Mean PSNR and SSIM of every arm with intervals, and how often the model beats each of the others."""
    out, arms = {}, [k for k, v in rows[0].items() if isinstance(v, (tuple, list)) and len(v) == 2]
    for modality in sorted({r["modality"] for r in rows}):
        part = [r for r in rows if r["modality"] == modality]
        for arm in arms:
            for k, name in enumerate(("psnr", "ssim")):

                def mean(some, arm=arm, k=k):
                    return float(np.mean([r[arm][k] for r in some]))

                out[f"{modality} {arm} {name}"] = {
                    "mean": mean(part),
                    "interval": interval(part, mean),
                    "holes": len(part),
                }
        for arm in arms[1:]:
            key = f"{modality} model better (PSNR), share of holes"
            better = float(np.mean([r["model"][0] > r[arm][0] for r in part]))
            out[key if arm == "biharmonic" else f"{key}, than {arm}"] = better
    return out


def compact(out: dict) -> dict:
    """What a model's card shows of an evaluation: medians with interval per class, and means with interval."""
    source = re.search(r"--(?:data|image) (?:DATA/)?(\S+)", out["command"])[1]
    if out["task"] == "removal":
        return {f"removal in {source}, inside the hole + 5 mm": out["results"]}
    card = {}
    for key, found in out["results"].items():
        card[key] = {
            kind: [
                v if v is None else round(v, 3) for v in (part["median"], *part["interval"], part["shuffled"])
            ]
            for kind, part in found["classes"].items()
        }
        card[key]["case-wise Pearson, Spearman"] = [
            round(found[k], 3) for k in ("case_pearson", "case_spearman")
        ]
        card[key]["cases, patients"] = [found["cases"], found["patients"]]
    what = (
        "texture: Pearson of asked and reached, feature-wise median [value, 95 % low, high, shuffled control]"
    )
    return {what: card}

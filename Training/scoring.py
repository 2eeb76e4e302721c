"""Statistics of an evaluation: re-extraction by pyradiomics, correlations with intervals by patient, PSNR and SSIM."""

from __future__ import annotations

import logging
import re

import numpy as np
from prepare import CLASSES
from scipy import stats

from TumorSynthLib.radiomics.table import FEATURES

AUDIT = ("gldm", "ngtdm", "glcm_other")  # never seen by the solver
OTHER_BIN = 0.6  # the audit's second bin width, as a share of the model's


def pyradiomics_features(volume, mask, settings: dict) -> dict[str, float]:
    """All texture features by pyradiomics, plus GLCM at another bin width as `original_glcm_other_*`."""
    import SimpleITK as sitk
    from radiomics import featureextractor, setVerbosity

    setVerbosity(logging.CRITICAL)
    image = volume.sitk()
    label = sitk.GetImageFromArray(mask.astype(np.uint8))
    label.CopyInformation(image)
    found = {}
    for classes, scale, rename in (
        (("firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm"), 1.0, ""),
        (("glcm",), OTHER_BIN, "_other"),
    ):
        options = {**settings, "binWidth": settings["binWidth"] * scale}
        extractor = featureextractor.RadiomicsFeatureExtractor(**options)
        extractor.disableAllFeatures()
        for name in classes:
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


def correlations(rows: list[dict], names: list[str], shuffle: bool = False) -> dict[str, float]:
    """Pearson of asked against reached across cases, per feature; `shuffle` pairs results with the next case's request."""
    asked = np.array([[r["asked"][n] for n in names] for r in rows])
    reached = np.array([[r["reached"][n] for n in names] for r in rows])
    if shuffle:
        asked = np.roll(asked, 1, axis=0)
    out = {}
    for k, name in enumerate(names):
        if asked[:, k].std() > 0 and reached[:, k].std() > 0:
            out[name] = float(np.corrcoef(asked[:, k], reached[:, k])[0, 1])
    return out


def interval(rows: list[dict], statistic, draws: int = 300) -> list[float]:
    """95 % bootstrap interval of a statistic of rows, resampling patients; of fewer than three there is none."""
    rng, patients = np.random.default_rng(0), sorted({r["patient"] for r in rows})
    groups = {p: [r for r in rows if r["patient"] == p] for p in patients}
    values = []
    if len(patients) < 3:
        return [None, None]
    for _ in range(draws):
        drawn = [r for p in rng.choice(patients, len(patients)) for r in groups[p]]
        if len({r["patient"] for r in drawn}) > 2:
            values.append(statistic(drawn))
    return [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]


def summary(rows: list[dict], names: list[str], population) -> dict:
    """Feature-wise medians with intervals per class, the worst features, the shuffled control and case-wise values."""
    out = {"cases": len(rows), "patients": len({r["patient"] for r in rows}), "classes": {}}
    for kind in sorted({klass(n) for n in names}):
        part = [n for n in names if klass(n) == kind]

        def middle(some, part=part):
            return float(np.median(list(correlations(some, part).values()) or [np.nan]))

        shuffled = float(np.median(list(correlations(rows, part, True).values()) or [np.nan]))
        out["classes"][kind] = {
            "median": middle(rows),
            "interval": interval(rows, middle),
            "shuffled": shuffled,
        }
    every = correlations(rows, names)
    out["worst"] = dict(sorted(every.items(), key=lambda kv: kv[1])[:5])
    steered = [n for n in names if klass(n) in CLASSES and n in population.names]
    where = [population.names.index(n) for n in steered]
    mean, sigma = np.asarray(population.mean)[where], np.maximum(np.asarray(population.std)[where], 1e-12)
    z = [[(np.array([r[k][n] for n in steered]) - mean) / sigma for k in ("asked", "reached")] for r in rows]
    out["case_pearson"] = float(np.mean([np.corrcoef(*p)[0, 1] for p in z]))
    out["case_spearman"] = float(np.mean([stats.spearmanr(*p).statistic for p in z]))
    out["mean_difference_sigma"] = float(np.mean([np.abs(p[1] - p[0]).mean() for p in z]))
    out["seconds_median"] = float(np.median([r["seconds"] for r in rows]))
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
    out = {}
    for modality in sorted({r["modality"] for r in rows}):
        part = [r for r in rows if r["modality"] == modality]
        for arm in ("model", "biharmonic"):
            for k, name in enumerate(("psnr", "ssim")):

                def mean(some, arm=arm, k=k):
                    return float(np.mean([r[arm][k] for r in some]))

                out[f"{modality} {arm} {name}"] = {
                    "mean": mean(part),
                    "interval": interval(part, mean),
                    "holes": len(part),
                }
        out[f"{modality} model better (PSNR), share of holes"] = float(
            np.mean([r["model"][0] > r["biharmonic"][0] for r in part])
        )
    return out


def compact(out: dict) -> dict:
    """What a model's card shows of an evaluation: medians with interval per class, and means with interval."""
    source = re.search(r"--(?:data|image) (\S+)", out["command"])[1]
    if out["task"] == "removal":
        return {f"removal in {source}, inside the hole + 5 mm": out["results"]}
    card = {}
    for key, found in out["results"].items():
        card[key] = {
            kind: [round(v, 3) for v in (part["median"], *part["interval"], part["shuffled"])]
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

"""How far sets of synthetic tumours lie from real ones, and whether any of them was copied.

`frechet` is the Fréchet Radiomics Distance (Konz, Osuala et al., Medical Image Analysis 2026, arXiv 2412.01496): the
logarithm of the squared Fréchet distance between Gaussians fitted to radiomics features that are z-scored by the
reference. By `frd-score`, the authors' package, where it is installed (filtered images, 464 features), and by the same
formula on this project's own features against the training population. It grows as a set gets smaller, so that only sets
of one size compare; the real tumours of the same cases against that reference are the floor.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import numpy as np
from arms import Bench, Drawn, request_of
from detectors import numbers, window
from scipy import fft, linalg
from scoring import middle

from TumorSynthLib.region import Region

QUERY = (5, 13, 13)  # voxels (z, y, x) of the patch that is looked for in the training tumours
FLAT = 1.0  # grey levels of deviation below which a place is too flat to be like anything
MARGIN = 8  # voxels around a window: filters of `frd-score` leave out features of thin ones, and all rows must have the same
LIMIT = 10.0  # z-scores are cut here: one outlier would be the whole distance


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to the rows of a (n, f) and b (m, f)."""
    ca, cb = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr((ca cb)^1/2) from the symmetric form, which stays real where covariances are singular (few cases).
    values, vectors = linalg.eigh(ca)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(linalg.eigvalsh(root @ cb @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def to_population(population, rows: list[dict[str, float]]) -> float:
    """Logarithm of the squared Fréchet distance of tumours' features from the training population's."""
    names = [n for n in request_of(rows[0]) if n in population.names]
    where = [population.names.index(n) for n in names]
    mean, sigma = np.asarray(population.mean)[where], np.maximum(np.asarray(population.std)[where], 1e-12)
    reference = (np.asarray(population.values)[:, where] - mean) / sigma
    found = (np.array([[r[n] for n in names] for r in rows]) - mean) / sigma
    return float(np.log(frechet_distance(*(np.clip(x, -LIMIT, LIMIT) for x in (reference, found)))))


def by_package(bench: Bench, made: list[tuple[int, Drawn]]) -> float | None:
    """FRDv1 of `frd-score` between the real tumours of the cases and the samples, or None where it is not installed."""
    try:
        from frd_score import compute_frd
    except ImportError:
        return None
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        paths: tuple = ([], []), ([], [])
        for side, items in enumerate(([(i, None) for i in sorted({i for i, _ in made})], made)):
            for k, (i, drawn) in enumerate(items):
                array, mask = (
                    np.pad(x, MARGIN, mode)
                    for x, mode in zip(window(bench, bench.tumours[i], drawn), ("edge", "constant"))
                )
                for part, values in enumerate((np.rint(array).astype(np.float32), mask.astype(np.uint8))):
                    image = sitk.GetImageFromArray(values)
                    image.SetSpacing(bench.bundle.spacing)
                    path = Path(folder) / f"{side}_{part}_{k:04d}.nii.gz"
                    sitk.WriteImage(image, str(path))
                    paths[part][side].append(str(path))
        try:
            return float(compute_frd(list(paths[0]), paths_masks=list(paths[1]), num_workers=1))
        except (
            ValueError,
            RuntimeError,
            np.linalg.LinAlgError,
        ) as error:  # e.g. too few cases for its filters
            print(f"frd-score: {error}", flush=True)
            return None


def arrangement(bench: Bench, made: list[tuple[int, Drawn]]) -> float:
    """Distance of mean profile, spectrum, neighbours and border from the real tumours' of the same cases.

    Median over the numbers of |difference of means| in standard deviations of the real ones.
    """
    spacing = bench.bundle.spacing
    real = [numbers(*window(bench, bench.tumours[i], None), spacing) for i in sorted({i for i, _ in made})]
    synthetic = [numbers(*window(bench, bench.tumours[i], d), spacing) for i, d in made]
    gap = np.abs(np.mean(synthetic, 0) - np.mean(real, 0)) / np.maximum(np.std(real, 0), 1e-6)
    return middle(gap)


class Training:
    """Real tumours that a model was trained on, to look for copies in; by the folder that prepare.py made."""

    def __init__(self, folder: Path, modality: str, limit: int = 1200):
        data = common.Prepared(folder)
        kinds = np.array([r["kind"] for r in data.rows])
        rows = np.flatnonzero((kinds == "real") & (data.modality == data.meta["modalities"].index(modality)))
        rows = rows[:: max(1, -(-len(rows) // limit))]
        self.shape = data.images.shape[1:]
        size = tuple(min(q, s) for q, s in zip(QUERY, self.shape))
        self.size, self.patients = size, np.array([data.rows[i]["patient"] for i in rows])
        ones = fft.rfftn(np.ones(size, np.float32), self.shape)
        self.valid = tuple(slice(q - 1, s) for q, s in zip(size, self.shape))
        self.spectra, self.spread = [], []
        for i in rows:
            image = np.asarray(data.images[i], np.float32)
            image = image - image.mean()
            spectrum = fft.rfftn(image, self.shape)
            total, square = (
                fft.irfftn(f * ones, self.shape)[self.valid]
                for f in (spectrum, fft.rfftn(image**2, self.shape))
            )
            self.spectra.append(spectrum)
            variance = square - total**2 / np.prod(size)
            self.spread.append(np.sqrt(np.maximum(variance, FLAT**2 * np.prod(size))).astype(np.float32))

    def nearest(self, patch: np.ndarray, patient: str = "") -> float:
        """Highest correlation of a patch of `size` with any place of any training crop of other patients."""
        query = patch - patch.mean()
        norm = float(np.sqrt((query**2).sum()))
        if norm == 0:
            return float("nan")
        spectrum, best = fft.rfftn(query[::-1, ::-1, ::-1], self.shape), -1.0
        for k in np.flatnonzero(self.patients != patient):
            product = fft.irfftn(self.spectra[k] * spectrum, self.shape)[self.valid]
            best = max(best, float((product / self.spread[k]).max()) / norm)
        return best


def central_patch(bench: Bench, i: int, drawn: Drawn | None, size=QUERY) -> np.ndarray:
    """Patch of `size` voxels at the middle of a tumour on the model's grid, repeated outwards where the image ends."""
    tumour = bench.tumours[i]
    volume = drawn.volume(tumour.volume) if drawn else tumour.volume
    region = Region.around(volume, tumour.mask, bench.bundle.spacing, 8.0)
    centre = np.rint(np.argwhere(region.mask).mean(0)).astype(int)
    ends = zip(centre, size, region.array.shape)
    index = [np.clip(np.arange(c - q // 2, c - q // 2 + q), 0, s - 1) for c, q, s in ends]
    return region.array[np.ix_(*index)].astype(np.float32)


def memorised(bench: Bench, made: list[tuple[int, Drawn]], training: Training) -> dict:
    """Nearest training patch of every sample, against the same for the real tumours in the same masks."""
    cases = sorted({i for i, _ in made})

    def nearest(i: int, drawn: Drawn | None) -> float:
        return training.nearest(central_patch(bench, i, drawn, training.size), bench.tumours[i].case.patient)

    real, synthetic = [nearest(i, None) for i in cases], [nearest(i, d) for i, d in made]
    limit = float(np.nanpercentile(real, 95))
    return {
        "real_to_real": [float(v) for v in np.nanpercentile(real, [5, 50, 95, 100])],
        "synthetic_to_real": [float(v) for v in np.nanpercentile(synthetic, [5, 50, 95, 100])],
        "percentiles": [5, 50, 95, 100],
        "above_real_95": float(np.nanmean(np.array(synthetic) > limit)),
        "training_crops": len(training.patients),
    }

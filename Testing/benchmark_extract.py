"""Time of a whole extraction, all seven classes, against pyradiomics in the same process.

    python Testing/benchmark_extract.py                       # a synthetic region of 50,000 voxels
    python Testing/benchmark_extract.py IMAGE MASK [LABEL]    # and a real one

Prints the median of alternating runs on one thread, and the ratio.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import radiomics  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from radiomics.featureextractor import RadiomicsFeatureExtractor  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402

from TumorSynthLib.radiomics.extract import CLASSES, extract_image  # noqa: E402
from TumorSynthLib.radiomics.settings import Settings  # noqa: E402

RUNS = 7


def synthetic() -> tuple[sitk.Image, sitk.Image]:
    """A smooth Gaussian random field with noise in an ellipsoid of about 50,000 voxels, 1 × 1 × 2 mm."""
    rng = np.random.default_rng(0)
    shape = (40, 48, 53)
    z, y, x = np.meshgrid(*(np.linspace(-1.02, 1.02, n) for n in shape), indexing="ij")
    field = gaussian_filter(rng.standard_normal(shape), 3)
    array = 40 + 60 * field / field.std() + 15 * rng.standard_normal(shape)
    image = sitk.GetImageFromArray(array.astype(np.int16))
    mask = sitk.GetImageFromArray((z**2 + y**2 + x**2 < 1).astype(np.uint8))
    for part in (image, mask):
        part.SetSpacing((1.0, 1.0, 2.0))
    return image, mask


def compare(title: str, image: sitk.Image, mask: sitk.Image, settings: Settings) -> float:
    """Print both times and their ratio; returns the ratio."""
    extractor = RadiomicsFeatureExtractor(**settings.to_pyradiomics(), additionalInfo=False)
    extractor.disableAllFeatures()
    for cls in CLASSES:
        extractor.enableFeatureClassByName(cls)
    tasks = {
        "here": lambda: extract_image(image, mask, settings),
        "pyradiomics": lambda: extractor.execute(image, mask),
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for name, task in [*tasks.items()] * (RUNS + 1):
        start = time.perf_counter()
        task()
        times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first run warms up
    ratio = median["pyradiomics"] / median["here"]
    voxels = int((sitk.GetArrayViewFromImage(mask) == settings.label).sum())
    print(
        f"{title}: {voxels} voxels, pyradiomics {median['pyradiomics'] * 1000:.0f} ms, "
        f"here {median['here'] * 1000:.0f} ms, ratio {ratio:.1f}"
    )
    return ratio


def main() -> int:
    radiomics.setVerbosity(60)
    ratio = compare("synthetic", *synthetic(), Settings())
    if len(sys.argv) > 2:
        label = int(sys.argv[3]) if len(sys.argv) > 3 else 1
        image, mask = (sitk.ReadImage(path) for path in sys.argv[1:3])
        compare(Path(sys.argv[1]).name, image, mask, Settings(label=label))
    return 0 if ratio >= 3 else 1


if __name__ == "__main__":
    sys.exit(main())

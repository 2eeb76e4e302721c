"""What a network's grain lacks: found on tumours, stored in the bundle, put right in every draw."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_bundle  # noqa: E402
from scipy import ndimage  # noqa: E402

from TumorSynthLib.errors import ModelError  # noqa: E402
from TumorSynthLib.models.bundle import load_bundle  # noqa: E402
from TumorSynthLib.models.write import write_bundle  # noqa: E402
from TumorSynthLib.radiomics.extract import extract  # noqa: E402
from TumorSynthLib.texture.equaliser import RINGS, equalised, spectrum  # noqa: E402
from TumorSynthLib.texture.generator import TextureModel  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Training"))


def noise(width: float, seed: int, shape=(8, 48, 48)) -> np.ndarray:
    """White noise and as much that is blurred by so many voxels in plane, deviation 30 around 100."""
    white, blurred = np.random.default_rng(seed).normal(size=(2, *shape))
    blurred = ndimage.gaussian_filter(blurred, (0, width, width))
    return (100 + 30 * (white + blurred / blurred.std()) / 2**0.5).astype(np.float32)


@pytest.fixture(scope="module")
def mask():
    z, y, x = np.indices((8, 48, 48)) - np.reshape((4, 24, 24), (3, 1, 1, 1))
    return (2 * z) ** 2 + y**2 + x**2 < 15**2


def far(a, b, mask) -> float:
    """Mean difference of two spectra."""
    return float(np.abs(spectrum(a, mask) - spectrum(b, mask)).mean())


def test_blurred_grain_lacks_what_is_fine(mask):
    lacking = spectrum(noise(0, 1), mask) - spectrum(noise(1.5, 2), mask)
    assert lacking.shape == (RINGS,) and lacking[0] < -0.5 and lacking[-1] > 0.3


def test_grain_gets_what_it_lacks_and_the_rest_stays(mask):
    wanted, drawn = noise(0, 1), noise(1.0, 2)
    found = equalised(drawn, mask, spectrum(wanted, mask) - spectrum(drawn, mask))
    assert far(found, wanted, mask) < 0.5 * far(drawn, wanted, mask)
    assert np.array_equal(found[~mask], drawn[~mask])
    assert found[mask].mean() == pytest.approx(drawn[mask].mean(), abs=0.1)
    assert found[mask].std() == pytest.approx(drawn[mask].std(), rel=0.01)
    assert np.corrcoef(found[mask], drawn[mask])[0, 1] > 0.8


def test_what_tells_nothing_stays_as_it_is(mask):
    drawn, some = noise(1.0, 2), [0.5] * RINGS
    assert equalised(drawn, mask, ()) is drawn and equalised(drawn, mask, [0.0] * RINGS) is drawn
    few = np.zeros_like(mask)
    few[4, 20:26, 20:26] = True
    assert equalised(drawn, few, some) is drawn
    with np.errstate(all="ignore"):
        assert np.array_equal(equalised(drawn * np.float32(1e25), mask, some), drawn * np.float32(1e25))


def with_grain(folder: Path, values) -> Path:
    bundle = tiny_bundle.tiny_bundle(folder / "tiny", network=True)
    manifest = {k: v for k, v in bundle.json.items() if k not in ("files", "format")}
    manifest["sampler"] = manifest["sampler"] | {"grain": {"CT": values}}
    return write_bundle(
        folder / "again", manifest, {n: bundle.tensors(n, "torch") for n in bundle.json["files"]}
    ).folder


def test_a_bundle_s_draws_get_what_they_lack(mask, tmp_path):
    image = noise(0.5, 3)
    plain = TextureModel.from_bundle(
        load_bundle(tiny_bundle.tiny_bundle(tmp_path / "plain", network=True).folder), "cpu"
    )
    model = TextureModel.from_bundle(load_bundle(with_grain(tmp_path, [-1.0] + [1.0] * (RINGS - 1))), "cpu")
    draws = [m.sample(image, mask, "CT", {}) for m in (plain, model)]
    assert not np.array_equal(*draws) and np.array_equal(draws[1][~mask], image[~mask])
    model.in_band = plain.in_band = False  # what the network itself has learned
    assert np.array_equal(*(m.sample(image, mask, "CT", {}) for m in (plain, model)))
    model.in_band = plain.in_band = True
    assert np.array_equal(*(m.sample(image, mask, "CT", None) for m in (plain, model)))


MOMENTS = ("original_firstorder_Mean", "original_firstorder_Variance")


@pytest.mark.parametrize("contrast", [0.5, 4.0])
def test_a_bundle_s_draws_get_the_asked_moments_and_contrast(mask, tmp_path, contrast):
    """Contrast once counted for nothing in draws: bundles' models didn't know the width of their grey levels."""
    bundle = load_bundle(tiny_bundle.tiny_bundle(tmp_path / "tiny", network=True).folder)
    model, image = TextureModel.from_bundle(bundle, "cpu"), noise(0.5, 3)
    asked = dict(zip((*MOMENTS, "original_glcm_Contrast"), (40.0, 900.0, contrast)))
    settings = bundle.settings("CT")
    assert model.bin_widths == {"CT": settings.binWidth}

    def reached(asked):
        drawn = model.sample(image, mask, "CT", asked)
        features = extract(drawn, mask, model.spacing, settings, ("firstorder", "glcm"))
        return np.array([features[name] for name in ("original_glcm_Contrast", *MOMENTS)])

    found, free = reached(asked), reached({n: asked[n] for n in MOMENTS})
    np.testing.assert_allclose(found[1:], [asked[n] for n in MOMENTS], rtol=0.03)
    assert abs(np.log(found[0] / contrast)) < 0.5 * abs(np.log(free[0] / contrast))


EIGHT = [0.1] * RINGS
WRONG = (EIGHT[1:], [*EIGHT[1:], 1e400], [*EIGHT[1:], "a"], None)


@pytest.mark.parametrize("grain", [*({"CT": values} for values in WRONG), EIGHT])
def test_a_bundle_with_other_numbers_is_refused(tmp_path, grain):
    bundle = load_bundle(tiny_bundle.tiny_bundle(tmp_path / "tiny", network=True).folder)
    bundle.json["sampler"]["grain"] = grain
    with pytest.raises(ModelError, match="reinstall"):
        TextureModel.from_bundle(bundle, "cpu")


def test_what_draws_lack_is_found_and_written(tmp_path, monkeypatch):
    """The network's draws are replaced by blurred real tumours, which must come out less blurred."""
    equalise = pytest.importorskip("equalise", reason="the training extra is not installed")
    from training_case import tree

    data = tree(tmp_path / "train", 3, ("CT",))
    bundle = tiny_bundle.tiny_bundle(tmp_path / "tiny", network=True)
    sample = TextureModel.sample

    def blurred(self, array, mask, modality, features, **more):
        if self.in_band:
            return sample(self, array, mask, modality, features, **more)
        soft = ndimage.gaussian_filter(array, (0, 0.5, 0.5))
        mean, share = (
            soft[mask].mean(),
            array[mask].std() / soft[mask].std(),
        )  # draws are guided to the asked deviation
        return np.where(mask, mean + share * (soft - mean), array).astype(np.float32)

    monkeypatch.setattr(TextureModel, "sample", blurred)
    monkeypatch.setattr("TumorSynthLib.texture.band.Band.around", lambda *a: None)
    missing = []
    found = equalise.lacking
    monkeypatch.setattr(equalise, "lacking", lambda *a: missing.append(found(*a)) or missing[-1])
    values = equalise.equalise(bundle.folder, data, 3, "1.1.0")["CT"]
    (before, after) = missing[0][1]
    assert np.abs(after).mean() < 0.75 * np.abs(before).mean()
    assert values[-1] > values[0]
    written = load_bundle(bundle.folder)
    assert written.json["sampler"]["grain"] == {"CT": values} and written.version == "1.1.0"

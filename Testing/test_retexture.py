"""Sliders from a tumour's own voxels: bands that add up, numbers that meet a request, limits of tissue."""

import numpy as np
import pytest
from scipy import ndimage

from TumorSynthLib.errors import InputError
from TumorSynthLib.texture.exemplar.bands import BANDS, Bands, Filter, grain_kernel
from TumorSynthLib.texture.exemplar.limits import softly_held, tissue_limits
from TumorSynthLib.texture.exemplar.numbers import Numbers
from TumorSynthLib.texture.exemplar.retexture import Slider, retexture

SPACING = (0.8, 0.8, 2.0)  # x, y, z mm
SPREAD = {"original_firstorder_Mean": 20.0, "original_firstorder_Variance": 300.0}


@pytest.fixture(scope="module")
def tumour():
    """A ball of grain and structure in another tissue: (image, mask)."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((12, 40, 44), float)
    mask = ((z - 5.5) / 5) ** 2 + ((y - 20) / 14) ** 2 + ((x - 21) / 15) ** 2 < 1
    image = 20 * np.sin(y / 3) * np.cos(x / 4) + 8 * rng.standard_normal(mask.shape)
    return np.where(mask, 60 + image, -80 + 0.5 * image).astype(np.float32), mask


def measure_in(mask):
    def measure(box, names):
        assert all(name.startswith("original_firstorder_") for name in names)
        values = box[mask].astype(float)
        return {"original_firstorder_Mean": values.mean(), "original_firstorder_Variance": values.var()}

    return measure


def asked(**features):
    return {f"original_firstorder_{name}": value for name, value in features.items()}


def test_bands_add_up(tumour):
    image, mask = tumour
    bands = Bands(image, mask, SPACING)
    assert bands.parts.shape == (len(BANDS), mask.sum())
    np.testing.assert_allclose(bands.parts.sum(0), image[mask], atol=1e-9)


def test_the_filter_equals_a_convolution(tumour):
    box = tumour[0][3:6]
    expected = np.stack([ndimage.convolve(s.astype(float), grain_kernel(), mode="nearest") for s in box])
    np.testing.assert_allclose(Filter(box.shape).grain(box), expected, atol=1e-4)  # of some 100


def test_a_change_without_grain_has_none(tumour):
    image, mask = tumour
    bands = Bands(image, mask, SPACING)
    box = np.zeros(bands.mask.shape)
    change = np.random.default_rng(1).standard_normal(mask.sum())
    box[bands.mask] = change
    before = bands.filter.grain(box)[bands.mask].std()
    box[bands.mask] = bands.without_grain(change)
    assert bands.filter.grain(box)[bands.mask].std() < 0.2 * before


@pytest.mark.parametrize("mean, variance", [(65.0, 220.0), (55.0, 150.0)])
def test_mean_and_variance_are_met_and_nothing_else_moves(tumour, mean, variance):
    image, mask = tumour
    made = retexture(image, mask, SPACING, asked(Mean=mean, Variance=variance), measure_in(mask), SPREAD)
    values = made.values[mask].astype(float)
    assert abs(values.mean() - mean) < 0.05 * 20 and abs(values.var() - variance) < 0.05 * 300
    assert not made.missed and not made.warnings
    np.testing.assert_array_equal(made.values[~mask], image[~mask])
    assert np.corrcoef(values, image[mask])[0, 1] > 0.9


def test_what_cant_be_reached_doesnt_hold_up_the_rest(tumour):
    """The search once found no step at all where one of two features was out of reach."""
    image, mask = tumour
    made = retexture(image, mask, SPACING, asked(Mean=65.0, Variance=900.0), measure_in(mask), SPREAD)
    assert abs(made.values[mask].mean() - 65) < 2
    assert made.values[mask].var() > image[mask].var() * 1.3


def test_noise_isnt_scaled_but_by_strength():
    """Upward sliders once made salt and pepper of a scan's noise."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices((8, 48, 48), float)
    mask = ((z - 3.5) / 3) ** 2 + ((y - 24) / 16) ** 2 + ((x - 24) / 16) ** 2 < 1
    noise = 20 * rng.standard_normal(mask.shape)
    knot = 120 * np.exp(-((y - 24) ** 2 + (x - 30) ** 2) / 8)
    bands = Bands((60 + noise + knot).astype(np.float32), mask, SPACING)
    scaled = bands.moving(0.0)[:3].std(1) / bands.parts[1:4].std(1)
    far = (np.hypot(y - 24, x - 30) > 8)[mask]
    assert np.abs(bands.moving(0.0)[0, far]).mean() < 0.1 * np.abs(bands.parts[1, far]).mean()
    assert scaled[1] > 0.5  # the knot
    np.testing.assert_allclose(bands.moving(1.0), bands.parts[1:5])


def test_what_is_mostly_air_is_left_alone(tumour):
    """Stronger or weaker bands once made a nodule's edge hard."""
    image, mask = tumour
    soft = np.where(mask, image, -800).astype(np.float32)
    soft = ndimage.gaussian_filter(soft, (0, 1.0, 1.0))
    bands = Bands(soft, ndimage.binary_dilation(mask, np.ones((1, 3, 3)), 2), SPACING)
    space = Numbers(bands, tissue_limits(bands), (-np.inf, np.inf), False)
    edge = bands.share < 0.2
    for gain in (-0.6, 0.6):
        change = np.abs(space.values(np.array([0, gain, gain, gain, 0, 0, 0.0])) - bands.own)
        assert edge.sum() > 50 and change.max() > 5 and change[edge].mean() < 8 < 0.01 * np.ptp(soft)


def test_what_is_there_already_changes_nothing(tumour):
    image, mask = tumour
    own = float(image[mask].astype(float).mean())
    made = retexture(image, mask, SPACING, asked(Mean=own), measure_in(mask), SPREAD)
    assert made.stage == "own"
    np.testing.assert_array_equal(made.values, image)


def test_a_request_beyond_tissue_goes_to_the_limit_and_says_so(tumour):
    image, mask = tumour
    slider = Slider(image, mask, SPACING, measure_in(mask), SPREAD)
    low, high = slider.reachable("original_firstorder_Mean")
    made = slider.moved(asked(Mean=900.0))
    assert low < image[mask].mean() < high < 200
    assert made.reached["original_firstorder_Mean"] == pytest.approx(high, abs=0.1 * 20)
    assert "not 900" in made.warnings[0] and "firstorder_Mean" in made.warnings[0]


def test_what_tissue_allows_is_met_and_what_is_left_undone_is_said(tumour):
    """A request once ended short of what a farther one reached, and was silent where the spread is wide."""
    image, mask = tumour
    name, own = "original_firstorder_Variance", float(image[mask].astype(float).var())
    slider = Slider(image, mask, SPACING, measure_in(mask), SPREAD | {name: 6000.0})
    far = [slider.moved(asked(Variance=50 * own), strength) for strength in (0.0, 0.3, 0.6)]
    ends = [made.reached[name] for made in far]
    assert own < ends[0] < ends[1] < ends[2]
    assert all(made.limits == {name: end} and "not" in made.warnings[0] for made, end in zip(far, ends))
    short = slider.moved(asked(Variance=ends[0] + 100), 0.0)
    assert short.limits == {name: pytest.approx(ends[0], rel=0.05)} and slider.config.met * 6000 > 100
    near = own + 0.9 * (ends[1] - own)
    made = slider.moved(asked(Variance=near), 0.3)
    assert made.reached[name] == pytest.approx(near, rel=0.03) and not made.limits


def test_limits_keep_what_is_beyond_them_already():
    base = np.array([0.0, 50.0, 120.0])
    change = softly_held(np.array([500.0, 500.0, 500.0]), base, 0.0, 100.0, 10.0)
    np.testing.assert_allclose(change, [100.0, 50.0, 0.0], atol=1e-6)
    assert softly_held(np.zeros(3), base, 0.0, 100.0, 10.0).tolist() == [0, 0, 0]
    np.testing.assert_allclose(softly_held(np.full(1, -30.0), base[2:], 0.0, 100.0, 10.0), [-30.0])


def test_limits_hold_the_tumours_own_voxels(tumour):
    bands = Bands(*tumour, SPACING)
    limits = tissue_limits(bands)
    assert 0 < limits.low < limits.core < limits.high < 150


def test_air_in_a_loose_contour_tells_nothing_of_what_the_tumour_may_become(tumour):
    image, mask = tumour
    loose = image.copy()
    loose[:, :9][mask[:, :9]] = -800.0
    assert 0.01 < (loose[mask] == -800.0).mean() < 0.1
    assert tissue_limits(Bands(loose, mask, SPACING)).low > -50


def test_a_core_gets_hardly_darker_where_no_level_is_asked(tumour):
    image, mask = tumour
    bands = Bands(image, mask, SPACING)
    limits, theta = tissue_limits(bands), np.array([0, 0, 0, 0, 0, -1.8, -0.2])
    moved = []
    for level_asked in (False, True):
        space = Numbers(bands, limits, (-np.inf, np.inf), False, level_asked)
        moved.append(float((space.values(theta) - bands.own)[space.core].mean()) / space.sd)
    assert moved[0] > -1.05 > -1.2 > moved[1]


def test_bad_input(tumour):
    image, mask = tumour
    with pytest.raises(InputError, match="empty"):
        Slider(image, np.zeros_like(mask), SPACING, measure_in(mask), SPREAD)
    broken = image.copy()
    broken[5, 20, 21] = np.nan
    with pytest.raises(InputError, match="finite"):
        Slider(broken, mask, SPACING, measure_in(mask), SPREAD)


def test_no_torch_is_needed():
    import subprocess
    import sys

    code = "import sys, TumorSynthLib.texture.exemplar.retexture; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def test_windows_make_up_the_mask(tumour):
    from TumorSynthLib.texture.exemplar.windows import windows

    mask = tumour[1]
    parts = windows(mask, SPACING)
    assert len(parts) == 8 and np.array_equal(np.sum(parts, axis=0), mask.astype(int))
    assert max(p.sum() for p in parts) - min(p.sum() for p in parts) <= 8
    small = np.zeros((4, 4, 4), bool)
    small[1:3, 1:3, 1:3] = True
    assert len(windows(small, SPACING)) == 1


def test_spread_within_is_that_between_parts(tumour):
    from TumorSynthLib.radiomics.settings import Settings
    from TumorSynthLib.texture.exemplar.windows import spread_within

    image, mask = tumour
    steep = image + 10.0 * np.indices(mask.shape)[2]
    settings = Settings(binWidth=5.0)
    calm, far = (spread_within(a, mask, SPACING, settings, ("firstorder",)) for a in (image, steep))
    assert far["original_firstorder_Mean"] > 3 * calm["original_firstorder_Mean"] > 0


def test_strength_brings_features_nearer_and_keeps_less_of_the_pattern(tumour):
    from TumorSynthLib.radiomics.extract import extract
    from TumorSynthLib.radiomics.settings import Settings

    image, mask = tumour
    settings, name = Settings(binWidth=10.0), "original_glcm_Correlation"

    def measure(box, names):
        assert names == (name,)  # no other feature is computed
        return extract(np.rint(box).astype(int), mask, SPACING, settings, names)

    slider = Slider(image, mask, SPACING, measure, {name: 0.1})
    off, kept, most = [], [], []
    for strength in (0.0, 0.3, 0.6):
        made = slider.moved({name: 0.98}, strength, seed=1)
        off.append(abs(made.reached[name] - 0.98))
        kept.append(np.corrcoef(made.values[mask], image[mask])[0, 1])
        again = slider.moved({name: 0.98}, strength, seed=1)
        np.testing.assert_array_equal(made.values, again.values)
        most.append(made.stage)
    assert most[0] != "voxels" and most[1:] == ["voxels", "voxels"]
    assert off[0] > off[1] >= off[2] and kept[0] > kept[1] >= kept[2]


def test_no_voxel_moves_further_than_the_strength_allows(tumour):
    from TumorSynthLib.texture.exemplar.voxels import Voxels

    image, mask = tumour
    bands = Bands(image, mask, SPACING)
    space = Voxels(bands, tissue_limits(bands), (-np.inf, np.inf), bands.own, 0.3)
    change = space.values(np.full(len(space.fields), 3.0)) - bands.own
    assert 0.5 < np.abs(change / (1.2 * space.sd)).max() < 1 + 1e-9
    assert np.abs(space.values(np.zeros(len(space.fields))) - bands.own).max() < 1e-9


@pytest.mark.parametrize("wanted", [25.0, 55.0])
def test_a_real_nodule_keeps_its_pattern_and_its_finest_grain(shared_data, wanted):
    from TumorSynthLib.editor import Editor, EditRequest
    from TumorSynthLib.volume import read_image, read_mask

    stem = shared_data / "lidc_ct" / "val" / "LIDC-IDRI-0377_R_1_CT_image.nii.gz"
    if not stem.exists():
        pytest.skip(f"{stem} is missing")
    volume = read_image(stem)
    mask = read_mask(str(stem).replace("_image", "_mask"), volume)
    request = EditRequest(features={"contrast": wanted})
    result = Editor("lung-nodule-ct").retexture(volume, mask, request)
    contrast = "original_glcm_Contrast"
    if result.reached[contrast] != pytest.approx(wanted, abs=0.05 * 196):  # then its tissue's limit is said
        assert result.provenance["plan"]["limits"][contrast] == pytest.approx(result.reached[contrast])
        assert abs(result.reached[contrast] - wanted) < 0.7 * abs(result.before[contrast] - wanted)
    before, after = (v.array.astype(float) for v in (volume, result.volume))
    assert np.array_equal(before[~mask], after[~mask])
    assert np.corrcoef(before[mask], after[mask])[0, 1] > 0.95
    power = [float((Filter(a.shape).grain(a)[mask] ** 2).mean()) for a in (before, after)]
    assert 0.75 < power[1] / power[0] < 1.35


def test_a_level_that_is_to_stay_doesnt_hold_up_the_rest(shared_data):
    """As presets and the demonstration ask: the contrast doubled, the mean as it is."""
    from TumorSynthLib.editor import Editor, EditRequest
    from TumorSynthLib.volume import read_image, read_mask

    case = shared_data / "sts" / "val" / "STS_041_CT_image.nii.gz"
    volume = read_image(case)
    mask = read_mask(str(case).replace("_image", "_mask"), volume)
    editor = Editor("soft-tissue-sarcoma")
    own = editor.extract(volume, mask, "CT", ("firstorder", "glcm"))
    mean, contrast = "original_firstorder_Mean", "original_glcm_Contrast"
    wanted = {mean: own[mean], contrast: 2 * own[contrast]}
    result = editor.retexture(volume, mask, EditRequest(features=wanted, modality="CT", strength=0.8))
    assert result.reached[contrast] == pytest.approx(wanted[contrast], rel=0.01)
    assert result.reached[mean] == pytest.approx(wanted[mean], abs=0.5)


def test_more_strength_never_reaches_less(shared_data):
    """One search among more moves once ended before the one among fewer."""
    from TumorSynthLib.editor import Editor, EditRequest
    from TumorSynthLib.volume import read_image, read_mask

    stem = shared_data / "lidc_ct" / "val" / "LIDC-IDRI-0377_R_1_CT_image.nii.gz"
    if not stem.exists():
        pytest.skip(f"{stem} is missing")
    volume = read_image(stem)
    mask = read_mask(str(stem).replace("_image", "_mask"), volume)
    editor = Editor("lung-nodule-ct")
    reached = [
        editor.retexture(volume, mask, EditRequest(features={"contrast": 25.0}, strength=s)).reached[
            "original_glcm_Contrast"
        ]
        for s in (0.0, 0.3, 0.6)
    ]
    assert 25 < reached[2] <= reached[1] < reached[0]

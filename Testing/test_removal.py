"""What a removal takes for healthy tissue, and how it continues it into the hole."""

import numpy as np
import pytest
import torch

from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.models import find
from TumorSynthLib.region import Region
from TumorSynthLib.texture import removal
from TumorSynthLib.texture.context import Filling, IntensityMap, fill
from TumorSynthLib.texture.generator import TextureModel
from TumorSynthLib.texture.removal import continued, tainted_rim, without_air, without_strangers
from TumorSynthLib.volume import Volume, read_image, read_mask

SHAPE = (12, 40, 40)


def _ball(centre, radius):
    z, y, x = np.indices(SHAPE)
    return ((z - centre[0]) / 3) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


@pytest.fixture
def thigh():
    """CT of muscle under the skin (HU) with air to the left, and a tumour that nearly touches the skin."""
    array = np.random.default_rng(0).normal(50, 8, SHAPE).astype(np.float32)
    array[:, :, :10] = -1000
    return array, _ball((6, 20, 20), 9.0)


def test_air_beyond_the_skin_says_nothing_of_tissue(thigh):
    array, mask = thigh
    kept = without_air(array, mask, np.ones(SHAPE, bool), ct=True)
    assert not kept[:, :, :10].any() and kept[:, :, 10:].all()


def test_air_of_mr_is_dark(thigh):
    array, mask = thigh
    kept = without_air(np.maximum(array + 250, 0), mask, np.ones(SHAPE, bool), ct=False)
    assert not kept[:, :, :10].any() and kept[:, :, 10:].all()


def test_lung_around_a_nodule_is_tissue(thigh):
    array, mask = thigh
    lung = np.where(mask, 0, array - 850).astype(np.float32)
    assert without_air(lung, mask, np.ones(SHAPE, bool), ct=True).all()


def test_voxels_outside_the_image_stay_outside(thigh):
    array, mask = thigh
    valid = np.ones(SHAPE, bool)
    valid[:3] = False
    assert not without_air(array, mask, valid, ct=True)[:3].any()


def test_a_removal_under_the_skin_holds_no_air(thigh):
    """Beside a broad tumour at the skin, more than a twentieth of what is near is air."""
    array, mask = thigh
    model = TextureModel.from_bundle(find("soft-tissue-sarcoma"), "cpu")
    healed = model.sample(np.where(mask, 80, array), mask, "CT", None, seed=1)
    assert healed[mask].min() > -50
    assert np.array_equal(healed[~mask], array[~mask])


def test_a_removal_stays_within_what_the_modality_can_have(thigh, monkeypatch):
    """Led over to a dark rim, T1 once went below zero, and the image passed for a CT."""
    array, mask = thigh
    monkeypatch.setattr(removal, "blend_rim", lambda out, *_: out - 1000)
    model = TextureModel.from_bundle(find("soft-tissue-sarcoma"), "cpu")
    healed = model.sample(np.maximum(array + 250, 0), mask, "T1", None, steps=1)
    assert healed[mask].min() == 0


def test_mr_is_continued_in_its_own_intensities(shared_data):
    """Hidden places of healthy tissue in real T1 are met better than in the network's range, which bends bright fat."""
    mr, ball, found = IntensityMap(450.0, 300.0, (0.0, 4000.0)), _ball((6, 20, 20), 8.0), []
    for case in ("STS_036", "STS_040"):
        volume = read_image(shared_data / "sts" / "val" / f"{case}_T1_image.nii.gz")
        tumour = read_mask(shared_data / "sts" / "val" / f"{case}_T1_mask.nii.gz", like=volume)
        for corner in np.ndindex(*(s // 20 for s in volume.array.shape)):
            box = tuple(slice(20 * c, 20 * c + n) for c, n in zip(corner, SHAPE))
            truth = volume.array[box].astype(np.float32)
            if truth.shape != SHAPE or tumour[box].any() or truth[ball].min() < 150:
                continue
            hole, x = torch.from_numpy(ball)[None, None], mr.forward(torch.from_numpy(truth)[None, None])
            x = torch.where(hole, 0.0, x)
            arms = continued(x, hole, mr, (0.98, 0.98, 3.27), ~hole), torch.where(hole, fill(x, ~hole), x)
            found.append([np.sqrt(np.mean((mr.inverse(a)[0, 0].numpy() - truth)[ball] ** 2)) for a in arms])
    own, bent = np.mean(found, 0)
    assert len(found) >= 5
    assert own < 0.98 * bent


def test_bone_beside_a_tumour_does_not_shine_into_its_place(thigh):
    """It once did, far into the muscle, although nothing but muscle lay on all other sides."""
    array, mask = thigh
    bone = _ball((6, 20, 33), 4.5) & ~mask
    array[bone] = 900
    kept = without_strangers(array, mask, array > -500)
    assert not kept[bone & (np.indices(SHAPE)[2] < 34)].any()
    assert kept[:, :, 12:28][~mask[:, :, 12:28]].mean() > 0.98
    model = TextureModel.from_bundle(find("soft-tissue-sarcoma"), "cpu")
    healed = model.sample(np.where(mask, 80, array), mask, "CT", None, seed=1)
    assert healed[mask].max() < 150
    assert np.array_equal(healed[~mask], array[~mask])


def test_bone_all_around_is_what_a_hole_in_bone_is_filled_with(thigh):
    array, mask = thigh
    bony = np.where(np.indices(SHAPE)[2] > 12, array + 500, array)
    assert without_strangers(bony, mask, np.ones(SHAPE, bool))[:, :, 14:].all()


def test_a_rim_is_tainted_where_it_differs_one_way_and_not_by_chance(thigh):
    mask, array = thigh[1], np.random.default_rng(1).normal(50, 8, SHAPE).astype(np.float32)
    valid, rim = np.ones(SHAPE, bool), removal.ndimage.binary_dilation(mask, removal.RIM) & ~mask
    assert not tainted_rim(array, mask, valid).any()
    assert tainted_rim(np.where(rim, array + 200, array), mask, valid)[rim].mean() > 0.9


@pytest.mark.parametrize("orders, power", [((0, 1, 0), 1), ((0, 1, 1), 1), ((0, 0, 1), 2)])
def test_what_a_filling_costs_nothing_is_continued_exactly(orders, power):
    """Second order continues a slope, third a bend, on any grid."""
    z, y, x = np.indices(SHAPE) / 10.0
    truth = torch.from_numpy((x + 0.5 * y - 0.3 * z) ** power).float()[None, None]
    hole = torch.from_numpy(_ball((6, 20, 20), 5.0))[None, None]
    how = Filling(tuple(map(float, orders)), iterations=400).on((1.0, 1.0, 2.5))
    out = fill(torch.where(hole, torch.zeros(()), truth), ~hole, how)
    assert float((out - truth)[hole].abs().max()) < 0.02 * float(truth.std())


def test_slices_count_less_the_thicker_they_are():
    assert Filling().on((1.0, 1.0, 1.0)).axes == (1.0, 1.0, 1.0)
    assert Filling().on((1.0, 1.0, 3.0)).axes == (0.5, 1.0, 1.0)
    assert Filling().on((6.0, 1.0, 1.0)).axes == (1.0, 1.0, 0.25)


def test_what_is_added_to_a_native_box_leaves_the_box_itself_as_it_is(thigh):
    array, mask = thigh
    volume = Volume(array.astype(np.float32), (0.6, 0.6, 2.0), (0.0, 0.0, 0.0))
    region = Region.around(volume, mask, (0.98, 0.98, 3.27), 8.0)
    assert region.native_spacing == pytest.approx(volume.spacing)
    added = region.added(region.native + 5, np.zeros(region.shape))
    assert np.allclose(added[region.native_mask], (region.native + 5)[region.native_mask])
    assert np.array_equal(added[~region.native_mask], region.native[~region.native_mask])


@pytest.mark.parametrize("slices, calls", [(1.25, 2), (3.0, 0)])
def test_thick_slices_are_continued_on_the_model_s_grid(thigh, monkeypatch, slices, calls):
    """Between 5 mm slices of lung1 the image's own voxels continue into a hole 2 dB worse than the model's grid."""
    array, mask = thigh
    seen, kept = [], TextureModel.continued
    monkeypatch.setattr(
        TextureModel, "continued", lambda self, *a, **k: seen.append(a) or kept(self, *a, **k)
    )
    lung = Volume(np.where(mask, 0, array - 850).astype(np.int16), (0.6, 0.6, slices), (0.0, 0.0, 0.0))
    result = Editor("lung-nodule-ct").remove(lung, mask, EditRequest(engine="bridge"))
    assert len(seen) == calls
    assert result.volume.array[mask].mean() < -600
    assert np.array_equal(result.volume.array[~mask], lung.array[~mask])

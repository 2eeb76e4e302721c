"""Mass effect: a motion without folds that can be undone, ends within its margin, and carries one tumour onto another."""

import numpy as np
import pytest
from scipy import ndimage

from TumorSynthLib.deformation import bone_of, push, warped
from TumorSynthLib.errors import InputError
from TumorSynthLib.region import Frame

SPACING = np.array([2.0, 1.2, 1.2])  # (z, y, x) mm
SHAPE = (30, 50, 50)
LPS = Frame.of((1, 0, 0, 0, 1, 0, 0, 0, 1))
MARGIN = 14.0


def ball(radius, stretch=(1.0, 1.0, 1.0), centre=(0.5, 0.5, 0.5)):
    place = [
        (c - m * (n - 1)) * s / f for c, m, n, s, f in zip(np.indices(SHAPE), centre, SHAPE, SPACING, stretch)
    ]
    return sum(p**2 for p in place) < radius**2


OLD = ball(9.0)
PAIRS = {
    "larger": (OLD, ball(11.5)),
    "longer": (OLD, ball(10.0, (0.9, 1.3, 1.0))),
    "smaller": (OLD, ball(7.0)),
    "new": (None, OLD),
}


@pytest.fixture(scope="module", params=PAIRS)
def moved(request):
    old, new = PAIRS[request.param]
    return old, new, push(SHAPE, SPACING, new, old, MARGIN)


def test_nothing_folds(moved):
    _, _, motion = moved
    assert motion.jacobian().min() > 0 and motion.jacobian(backward=True).min() > 0
    assert motion.largest() > 1.0  # it does move


def test_the_inverse_undoes_it(moved):
    _, _, motion = moved
    there, back = motion.displacement(), motion.displacement(backward=True)
    at = np.indices(there.shape[1:]) + back / motion.step
    left = back + np.stack([ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in there])
    still = np.sqrt((left**2).sum(0))
    assert still[motion.tissue].max() < 0.5 * motion.step  # of displacements of 2 to 5 mm
    assert np.sqrt((back**2).sum(0)).max() > 5 * still[motion.tissue].max()


def test_it_ends_within_the_margin(moved):
    old, new, motion = moved
    both = new if old is None else old | new
    image = np.random.default_rng(0).normal(size=SHAPE)
    after, box = warped(image, LPS, SPACING, motion)
    away = ndimage.distance_transform_edt(~both, SPACING)
    assert np.array_equal(after[away > MARGIN], image[away > MARGIN])
    changed = after != image
    assert changed[(away > 0) & (away < MARGIN / 2)].mean() > 0.9
    changed[box] = False
    assert not changed.any()


def test_the_old_tumour_is_carried_onto_the_new_one(moved):
    old, new, motion = moved
    if old is None:
        pytest.skip("there is no old tumour")
    carried = warped(old.astype(float), LPS, SPACING, motion)[0] > 0.5
    overlap = 2 * (carried & new).sum() / (carried.sum() + new.sum())
    plain = 2 * (old & new).sum() / (old.sum() + new.sum())
    assert overlap > 0.95 and overlap > plain + 0.05


def test_tissue_keeps_its_noise():
    """Interpolation that blurs would show as a smooth ring around the tumour."""
    image = np.random.default_rng(1).normal(size=SHAPE)
    image = ndimage.gaussian_filter(image, (0.4, 0.8, 0.8))  # as fine as a scanner's noise
    motion = push(SHAPE, SPACING, ball(11.5), OLD, MARGIN)
    after = warped(image, LPS, SPACING, motion)[0]
    ring = ball(15.0) & ~ball(11.5)
    assert 0.85 < after[ring].std() / image[ring].std() < 1.1


def test_the_border_of_the_image_stays():
    near = ball(9.0, centre=(0.5, 0.25, 0.5))
    motion = push(SHAPE, SPACING, ball(11.0, centre=(0.5, 0.25, 0.5)), near, MARGIN)
    assert motion.jacobian().min() > 0
    for side in (motion.displacement()[:, :, 0], motion.displacement()[:, :, -1]):
        assert np.abs(side).max() < 1e-9


def test_order_of_storage_does_not_matter():
    image = np.random.default_rng(2).normal(size=SHAPE)
    motion = push(SHAPE, SPACING, ball(11.5), OLD, MARGIN)
    straight, _ = warped(image, LPS, SPACING, motion)
    turned = Frame(order=(2, 0, 1), flip=(True, False, True))
    stored = np.ascontiguousarray(turned.back(image))
    assert np.array_equal(turned.view(warped(stored, turned, SPACING, motion)[0]), straight)


def test_too_much_for_the_margin_is_refused():
    with pytest.raises(InputError, match="larger margin"):
        push(SHAPE, SPACING, ball(20.0), ball(5.0), 1.5)


@pytest.mark.parametrize("name", ["larger", "smaller", "new"])
def test_bone_stays_and_tissue_beyond_it_moves_no_fold(name):
    old, new = PAIRS[name]
    array = np.full(SHAPE, 40.0, np.float32)
    bone = np.zeros(SHAPE, bool)
    bone[:, 23:27, 35:38] = True  # beside the tumour, within the margin
    array[bone] = 1000.0
    stiff = bone_of(array, SPACING)
    assert (stiff & bone).sum() > 0.9 * bone.sum()
    free, held = (push(SHAPE, SPACING, new, old, MARGIN, s) for s in (None, stiff))
    out, _ = warped(array, LPS, SPACING, held)
    assert (
        np.abs(out - array)[bone].max() < 1
        and np.abs(warped(array, LPS, SPACING, free)[0] - array)[bone].max() > 20
    )
    assert held.jacobian().min() > 0 and held.largest() > 0.6 * free.largest()

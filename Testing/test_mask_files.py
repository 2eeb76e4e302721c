"""Masks of DICOM SEG, RTSTRUCT and .seg.nrrd by number and name, labels of other files, and other grids."""

import copy
import os
import sys
import warnings

import dicom_tree
import numpy as np
import pydicom
import pytest
from dicom_case import ARRAY, ORIGIN, SHAPE, SPACING, TUMOUR, VOLUME, files_of, refusal, series  # noqa: F401

from TumorSynthLib.errors import ImageWarning
from TumorSynthLib.volume import Volume, read_image, read_labelmap, read_mask, write_volume

NODE = dicom_tree.ball((9, 24, 20), 4.0)


@pytest.fixture
def scan(series):
    """A CT series: its folder, its headers in the order of slices, and its image."""
    folder = series()
    return folder, [pydicom.dcmread(f) for f in files_of(folder)], read_image(folder)


def with_gap():
    mask = TUMOUR.copy()
    mask[5] = False
    return mask


def seg(file, slices, structures, change=None):
    pytest.importorskip("highdicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dicom_tree.seg(file, slices, structures)
        if change is not None:
            ds = pydicom.dcmread(file)
            change(ds)
            ds.save_as(file)
    return file


def test_segments_on_the_image_and_on_the_same_image_as_nifti(scan, tmp_path):
    folder, slices, volume = scan
    file = seg(tmp_path / "seg/a.dcm", slices, {"tumour": with_gap()})
    nifti = read_image(write_volume(volume, tmp_path / "ct.nii"))
    flipped = Volume(
        ARRAY[::-1, :, ::-1].copy(), SPACING, tuple(volume.points([27, 0, 11])), (-1, 0, 0, 0, 1, 0, 0, 0, -1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (file, file.parent):
            assert np.array_equal(read_mask(path, volume), with_gap())
        assert np.array_equal(read_mask(file, nifti), with_gap())
        assert np.array_equal(read_mask(file, flipped), with_gap()[::-1, :, ::-1])


def test_segments_are_chosen_by_number_or_name(scan, tmp_path):
    _, slices, volume = scan
    file = seg(tmp_path / "seg/a.dcm", slices, {"tumour": with_gap(), "Node": NODE})
    assert "several labels (1 (tumour), 2 (Node)): choose one with --label" in refusal(file, volume)
    for label in (2, "2", "node"):
        assert np.array_equal(read_mask(file, volume, label), NODE)
    assert np.array_equal(read_mask(file, volume, "tumour"), with_gap())
    assert "no label 3" in refusal(file, volume, 3) and "1 (tumour)" in refusal(file, volume, "liver")
    labels = read_labelmap(file, volume)
    assert np.array_equal(labels == 2, NODE) and np.array_equal(labels == 1, with_gap() & ~NODE)


def test_segments_of_another_grid_are_resampled(scan, tmp_path):
    _, slices, volume = scan
    file = seg(tmp_path / "seg/a.dcm", slices, {"tumour": with_gap()})
    fine = Volume(
        np.zeros((24, 32, 28), np.int16), (1.25, 1.5, 1.5), (ORIGIN[0], ORIGIN[1], ORIGIN[2] - 0.75)
    )
    with pytest.warns(ImageWarning, match="another grid"):
        assert np.array_equal(read_mask(file, fine), np.repeat(with_gap(), 2, axis=0))


def test_a_soft_segmentation_says_what_to_do(scan, tmp_path):
    _, slices, volume = scan
    values = (TUMOUR * 128).astype(np.uint8) + (with_gap() * 100).astype(np.uint8)

    def soft(ds, array=values):
        frames = [k for k in range(SHAPE[0]) if TUMOUR[k].any()]
        ds.SegmentationType, ds.MaximumFractionalValue, ds.SegmentationFractionalType = (
            "FRACTIONAL",
            228,
            "PROBABILITY",
        )
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit = 7
        ds.PixelData = array[frames].tobytes()

    file = seg(tmp_path / "seg/a.dcm", slices, {"tumour": TUMOUR}, soft)
    assert "soft mask (SEG of SegmentationType FRACTIONAL" in refusal(file, volume)
    whole = seg(
        tmp_path / "whole/a.dcm", slices, {"t": TUMOUR}, lambda ds: soft(ds, (TUMOUR * 228).astype(np.uint8))
    )
    assert np.array_equal(read_mask(whole, volume), TUMOUR)
    soft_file = write_volume(volume.with_array(values / np.float32(228)), tmp_path / "soft.nii")
    assert "soft mask" in refusal(soft_file, volume)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_a_labelmap_segmentation(scan, tmp_path, syntax):
    """All segments in one frame a slice, plain, by RLE and by JPEG-LS."""
    highdicom = pytest.importorskip("highdicom")
    if not hasattr(highdicom.seg.SegmentationTypeValues, "LABELMAP"):
        pytest.skip("this highdicom doesn't write LABELMAP")
    _, slices, volume = scan
    first = pydicom.dcmread(seg(tmp_path / "seg/a.dcm", slices, {"tumour": TUMOUR, "node": NODE}))
    told = [highdicom.seg.SegmentDescription.from_dataset(one) for one in first.SegmentSequence]
    labels = np.where(TUMOUR, 1, 2 * NODE).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = highdicom.seg.Segmentation(
            slices, labels, highdicom.seg.SegmentationTypeValues.LABELMAP, told, highdicom.UID(), 2, highdicom.UID(), 1,
            "test", "test", "1", "0", transfer_syntax_uid=syntax,
        )  # fmt: skip
        made.save_as(tmp_path / "map.dcm")
    for n, name in ((1, "tumour"), (2, "node")):
        assert np.array_equal(read_mask(tmp_path / "map.dcm", volume, name), labels == n)


def test_damaged_segmentations(scan, tmp_path):
    _, slices, volume = scan

    def cut(ds):
        ds.PixelData = ds.PixelData[:10]

    assert "ends early" in refusal(seg(tmp_path / "a/a.dcm", slices, {"t": TUMOUR}, cut), volume)

    def unplaced(ds):
        for frame in ds.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    assert "(0020,0032)" in refusal(seg(tmp_path / "b/a.dcm", slices, {"t": TUMOUR}, unplaced), volume)

    def huge(ds):
        ds.Rows = ds.Columns = 65535

    assert (
        "claims" in (text := refusal(seg(tmp_path / "c/a.dcm", slices, {"t": TUMOUR}, huge), volume))
        or "ends" in text
    )


def test_structures_of_an_rtstruct(scan, tmp_path):
    _, slices, volume = scan
    hollow = TUMOUR & ~dicom_tree.ball((5, 14, 12), 3.5)
    file = tmp_path / "rt/a.dcm"
    dicom_tree.rtstruct(file, slices, {"GTV-1": hollow, "Lung": NODE})
    assert "several labels (1 (GTV-1), 2 (Lung))" in refusal(file, volume)
    nifti = read_image(write_volume(volume, tmp_path / "ct.nii"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for like in (volume, nifti):
            assert np.array_equal(read_mask(file, like, "gtv-1"), hollow)
            assert np.array_equal(read_mask(file.parent, like, 2), NODE)


def test_contours_on_another_grid_keep_their_volume(scan, tmp_path):
    """On an image of finer, and of turned slices: volume within 2 %."""
    _, slices, _ = scan
    file = tmp_path / "rt/a.dcm"
    dicom_tree.rtstruct(file, slices, {"GTV-1": TUMOUR})
    right = TUMOUR.sum() * np.prod(SPACING)
    fine = Volume(np.zeros((48, 80, 70), np.int16), (0.5, 0.6, 0.75), ORIGIN)
    sagittal = Volume(
        np.zeros((40, 60, 60), np.int16),
        (0.8, 0.8, 0.9),
        tuple(np.add(ORIGIN, (0, 0, -3))),
        (0, 0, 1, 1, 0, 0, 0, 1, 0),
    )
    for like in (fine, sagittal):
        with pytest.warns(ImageWarning, match="another grid"):
            mask = read_mask(file, like)
        assert mask.sum() * np.prod(like.spacing) == pytest.approx(right, rel=0.02)
        centre = like.points(np.argwhere(mask)[:, ::-1]).mean(0)
        assert np.abs(centre - VOLUME.points(np.argwhere(TUMOUR)[:, ::-1]).mean(0)).max() < 0.8


def test_contours_that_skip_slices(scan, tmp_path):
    """One slice left out stays empty, and is said; contours in every other slice stand for two slices."""
    _, slices, volume = scan
    for name, left, words in (("one", [5], "no contour in 1 slices"), ("half", [4, 6], "another grid")):
        mask = TUMOUR.copy()
        mask[left] = False
        file = tmp_path / name / "a.dcm"
        dicom_tree.rtstruct(file, slices, {"GTV-1": mask})
        with pytest.warns(ImageWarning, match=words):
            found = read_mask(file, volume)
        if name == "one":
            assert np.array_equal(found, mask)
        else:
            assert found[left].any((1, 2)).all() and found.sum() == pytest.approx(TUMOUR.sum(), rel=0.25)


def test_rtstructs_that_hold_no_mask(scan, tmp_path):
    _, slices, volume = scan
    file = tmp_path / "rt/a.dcm"
    dicom_tree.rtstruct(file, slices, {"GTV-1": TUMOUR})
    whole = pydicom.dcmread(file)

    def changed(change):
        ds = copy.deepcopy(whole)
        for contour in ds.ROIContourSequence[0].ContourSequence:
            change(contour)
        ds.save_as(file)
        return file

    def point(contour):
        contour.ContourGeometricType = "POINT"

    with pytest.warns(ImageWarning, match="GTV-1 has no closed outlines"):
        assert "no closed contours" in refusal(changed(point), volume)

    def nan(contour):
        contour.ContourData = contour.ContourData[:-1]

    assert "(3006,0050)" in refusal(changed(nan), volume)

    def away(contour):
        contour.ContourData = [float(v) + 900 for v in contour.ContourData]

    assert "outside the image" in refusal(changed(away), volume)
    ds = copy.deepcopy(whole)
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    ds.save_as(file)
    with pytest.warns(ImageWarning, match=r"another frame of reference .*\(0020,0052\)"):
        assert np.array_equal(read_mask(file, volume), TUMOUR)


@pytest.mark.parametrize("shift", [(17.5, 0), (-17.5, 0), (0, 18.0), (0, -18.0)])
def test_contours_that_reach_beyond_the_image_are_refused_as_masks_are(scan, tmp_path, shift):
    """They were cut at its border without a word."""
    _, slices, volume = scan
    file = tmp_path / "rt/a.dcm"
    dicom_tree.rtstruct(file, slices, {"GTV-1": TUMOUR})
    ds = pydicom.dcmread(file)
    for contour in ds.ROIContourSequence[0].ContourSequence:
        points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) + [shift[0], 0, shift[1]]
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
    ds.save_as(file)
    assert "% of" in (words := refusal(file, volume)) and "outside the image" in words


def test_a_contour_that_is_there_twice_counts_once(scan, tmp_path):
    """The second took out what the first had put in."""
    _, slices, volume = scan
    file = tmp_path / "rt/a.dcm"
    dicom_tree.rtstruct(file, slices, {"GTV-1": TUMOUR})
    ds = pydicom.dcmread(file)
    ds.ROIContourSequence[0].ContourSequence.append(
        copy.deepcopy(ds.ROIContourSequence[0].ContourSequence[2])
    )
    ds.save_as(file)
    with pytest.warns(ImageWarning, match="1 contours twice"):
        assert np.array_equal(read_mask(file, volume), TUMOUR)


def seg_nrrd(path, layers, segments):
    """A .seg.nrrd as Slicer writes it: layers (L, K, J, I), segments (name, value, layer)."""
    stacked = np.stack(layers, axis=-1) if len(layers) > 1 else layers[0]
    sizes = " ".join(map(str, stacked.shape[::-1]))
    none, kinds = ("none ", "list ") if len(layers) > 1 else ("", "")
    texts = "".join(
        f"Segment{n}_Name:={name}\nSegment{n}_LabelValue:={value}\nSegment{n}_Layer:={layer}\nSegment{n}_ID:=S{n}\n"
        for n, (name, value, layer) in enumerate(segments)
    )
    head = (
        f"NRRD0004\ntype: unsigned char\ndimension: {stacked.ndim}\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {none}({SPACING[0]},0,0) (0,{SPACING[1]},0) (0,0,{SPACING[2]})\nkinds: {kinds}domain domain domain\n"
        f"encoding: raw\nspace origin: ({ORIGIN[0]},{ORIGIN[1]},{ORIGIN[2]})\n{texts}\n"
    )
    path.write_bytes(head.encode() + stacked.astype(np.uint8).tobytes())
    return path


def test_segments_of_a_seg_nrrd(tmp_path):
    overlap = dicom_tree.ball((5, 16, 12), 6.0)
    one = seg_nrrd(
        tmp_path / "a.seg.nrrd", [TUMOUR * 1 + (NODE & ~TUMOUR) * 2], [("tumour", 1, 0), ("node", 2, 0)]
    )
    assert "several labels (1 (tumour), 2 (node))" in refusal(one, VOLUME)
    assert np.array_equal(read_mask(one, VOLUME, "Node"), NODE & ~TUMOUR)
    layers = seg_nrrd(tmp_path / "b.seg.nrrd", [TUMOUR * 1, overlap * 1], [("tumour", 1, 0), ("part", 1, 1)])
    assert np.array_equal(read_mask(layers, VOLUME, "tumour"), TUMOUR)
    assert np.array_equal(read_mask(layers, VOLUME, "2"), overlap)
    assert "2 layers" in refusal(layers)
    broken = seg_nrrd(tmp_path / "c.seg.nrrd", [TUMOUR * 1, overlap * 1], [("tumour", 1, 7)])
    assert "no layer 7" in refusal(broken, VOLUME)


def without(path, *lines):
    """A .seg.nrrd without some lines of its header."""
    content = path.read_bytes()
    for line in lines:
        assert line in content
        content = content.replace(line, b"", 1)
    path.write_bytes(content)
    return path


def test_segments_of_slicer_before_layers(tmp_path):
    """Each segment was read from the first layer."""
    two = [("tumour", 1, 0), ("node", 1, 1)]
    lost = [
        b"Segment0_Layer:=0\n",
        b"Segment1_Layer:=1\n",
        b"Segment0_LabelValue:=1\n",
        b"Segment1_LabelValue:=1\n",
    ]
    path = without(seg_nrrd(tmp_path / "a.seg.nrrd", [TUMOUR * 1, NODE * 1], two), *lost)
    assert np.array_equal(read_mask(path, VOLUME, "node"), NODE)
    assert np.array_equal(read_mask(path, VOLUME, "tumour"), TUMOUR)
    path = without(seg_nrrd(tmp_path / "b.seg.nrrd", [TUMOUR * 1, NODE * 1], two), lost[1])
    assert "nothing says the Layer of its segment 'node'" in refusal(path, VOLUME, "node")
    one = [("tumour", 1, 0), ("node", 2, 0)]
    path = seg_nrrd(tmp_path / "c.seg.nrrd", [TUMOUR + NODE * 2], one)
    assert "the LabelValue of its segment 'node'" in refusal(
        without(path, b"Segment1_LabelValue:=2\n"), VOLUME, "node"
    )


def test_labels_that_rounding_has_moved(tmp_path):
    labels = np.where(NODE, np.float32(1.9999998), np.where(TUMOUR, np.float32(1.0000001), np.float32(0)))
    path = write_volume(VOLUME.with_array(labels), tmp_path / "floats.nii")
    for n, mask in ((1, TUMOUR & ~NODE), (2, NODE)):
        assert np.array_equal(read_mask(path, VOLUME, n), mask)
    assert np.array_equal(read_labelmap(path, VOLUME) == 2, NODE)
    half = write_volume(VOLUME.with_array(np.where(NODE, np.float32(1.5), TUMOUR)), tmp_path / "half.nii")
    assert "no label 2: it has 1, 1.5" in refusal(half, VOLUME, 2)


def test_large_labels_are_chosen_by_all_their_digits(tmp_path):
    labels = np.where(NODE, 1_000_000, np.where(TUMOUR, 1_234_567, 0)).astype(np.int32)
    path = write_volume(VOLUME.with_array(labels), tmp_path / "large.nii")
    assert np.array_equal(read_mask(path, VOLUME, 1_234_567), TUMOUR & ~NODE)
    assert np.array_equal(read_mask(path, VOLUME, "1000000"), NODE)
    assert "1000000, 1234567" in refusal(path, VOLUME, 3)


def test_a_mirrored_or_turned_mask_is_the_same_without_a_word(tmp_path):
    direction = (0, 0, -1.0, 0, 1, 0, 1, 0, 0)  # its axes run along z, y and back along x
    turned = Volume(
        np.ascontiguousarray(TUMOUR.transpose(2, 1, 0)[::-1]).astype(np.uint8), SPACING[::-1],
        tuple(VOLUME.points([SHAPE[2] - 1, 0, 0])), direction,
    )  # fmt: skip
    path = write_volume(turned, tmp_path / "turned.nrrd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_mask(path, VOLUME), TUMOUR)


def test_a_cropped_mask_is_taken_without_a_word(tmp_path):
    crop = Volume(TUMOUR[2:9, 3:, 4:].astype(np.uint8), SPACING, tuple(VOLUME.points([4, 3, 2])))
    path = write_volume(crop, tmp_path / "crop.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_mask(path, VOLUME), TUMOUR)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX's")
def test_pipes_and_devices_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    os.symlink("/dev/zero", tmp_path / "zero.nii")
    for name in ("pipe.nii", "zero.nii"):
        assert "no plain file" in refusal(tmp_path / name) and "no plain file" in refusal(
            tmp_path / name, VOLUME
        )


@pytest.mark.parametrize("name", ["lidc_ct/train/LIDC-IDRI-0001_R_1_CT", "sts/val/STS_036_CT"])
def test_seg_and_rtstruct_of_real_tumours(shared_data, tmp_path, monkeypatch, name):
    """The NIfTI mask again: voxel for voxel from a SEG, within 2 % of its volume from contours, on its own and a finer grid."""
    pytest.importorskip("highdicom")
    image_file = shared_data / f"{name}_image.nii.gz"
    if not image_file.is_file():
        pytest.skip(f"no {image_file}")
    image = read_image(image_file)
    mask = read_mask(shared_data / f"{name}_mask.nii.gz", image)
    k, j, i = (slice(max(int(n.min()) - 2, 0), int(n.max()) + 3) for n in np.nonzero(mask))
    array, mask = image.array[k, j, i], mask[k, j, i]
    for where in (dicom_tree, sys.modules[__name__]):
        monkeypatch.setattr(where, "SPACING", tuple(round(s, 4) for s in image.spacing))
    slices = dicom_tree.ct_series(tmp_path / "ct", "x", array)
    volume = read_image(tmp_path / "ct")
    assert np.array_equal(volume.array, array)
    file = seg(tmp_path / "seg/a.dcm", slices, {"tumour": mask})
    assert np.array_equal(read_mask(file, volume), mask)
    dicom_tree.rtstruct(tmp_path / "rt/a.dcm", slices, {"GTV": mask})
    right = mask.sum() * np.prod(volume.spacing)
    x, y, z = volume.spacing
    fine = Volume(
        np.zeros([2 * n for n in array.shape], np.int16), (x / 2, y / 2, z / 2),
        tuple(np.subtract(volume.origin, (x / 4, y / 4, z / 4))),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        for like in (volume, fine):
            found = read_mask(tmp_path / "rt/a.dcm", like)
            assert found.sum() * np.prod(like.spacing) == pytest.approx(right, rel=0.02)

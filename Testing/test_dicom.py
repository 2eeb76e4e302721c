"""DICOM as images and masks: every slice by its own tags, refused with the tag named; SEG and RTSTRUCT by number and name."""

import copy
import os
import shutil
import sys
import warnings

import dicom_tree
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import Volume, read_image, read_labelmap, read_mask, write_volume

ARRAY = dicom_tree.image()
SPACING, ORIGIN, SHAPE = dicom_tree.SPACING, dicom_tree.ORIGIN, dicom_tree.SHAPE
VOLUME = Volume(ARRAY, SPACING, ORIGIN)
TUMOUR = dicom_tree.ball((5, 14, 12), 8.0)
NODE = dicom_tree.ball((9, 24, 20), 4.0)


def quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(path)


def refusal(path, *more):
    with pytest.raises(InputError) as caught:
        read_mask(path, *more) if more else read_image(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 450
    return text


def files_of(folder):
    """The files of a series, by position."""
    return sorted(folder.glob("*.dcm"), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])


@pytest.fixture
def series(tmp_path):
    """A CT series with changes: `make(change)` gives a folder, `change(dataset, k)` alters slice k in place."""

    def make(change=None, name="ct"):
        dicom_tree.ct_series(tmp_path / name, "Doe^John", ARRAY)
        for k, file in enumerate(files_of(tmp_path / name)):
            if change is not None:
                ds = pydicom.dcmread(file)
                change(ds, k)
                ds.save_as(file)
        return tmp_path / name

    return make


def test_a_plain_series(series):
    folder = series()
    volume = quietly(folder)
    assert np.array_equal(volume.array, ARRAY) and volume.array.dtype == np.int32 and volume.same_grid(VOLUME)
    assert volume.modality == "CT" and volume.metadata["0010|0010"] == "Doe^John"


def test_what_is_written_holds_no_name(series, tmp_path):
    volume = read_image(series())
    for suffix in (".nrrd", ".mha", ".nii"):
        content = write_volume(volume, tmp_path / f"out{suffix}").read_bytes()
        assert b"Doe" not in content and b"0010|" not in content
    assert b"Doe^John" in write_volume(volume, tmp_path / "out.nrrd", keep_header=True).read_bytes()


def tilted(degrees):
    angle = np.radians(degrees)

    def change(ds, k):
        ds.ImageOrientationPatient = [1, 0, 0, 0, round(np.cos(angle), 6), round(-np.sin(angle), 6)]

    return change


def shifted(ds, k):
    if k >= 6:
        ds.ImagePositionPatient = [ORIGIN[0] + 8, *ds.ImagePositionPatient[1:]]


def set_from(first, **values):
    """A change of attributes from a slice on; None deletes."""

    def change(ds, k):
        if k >= first:
            for name, value in values.items():
                if value is None:
                    del ds[name]
                else:
                    setattr(ds, name, value)

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (shifted, "(0020,0032) ImagePositionPatient"),
        (set_from(6, PixelSpacing=[1.5, 1.4]), "(0028,0030) PixelSpacing differs"),
        (set_from(0, PixelSpacing=None), "(0028,0030) PixelSpacing is missing"),
        (set_from(0, PixelSpacing=[0, 0]), "(0028,0030) PixelSpacing is 0"),
        (set_from(6, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]), "(0020,0037) ImageOrientationPatient differs"),
        (set_from(0, ImageOrientationPatient=None), "(0020,0037) ImageOrientationPatient is missing"),
        (set_from(0, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "isn't two directions at right angles"),
        (set_from(3, ImagePositionPatient=None), "(0020,0032) ImagePositionPatient is missing"),
        (set_from(6, Modality="MR"), "(0008,0060) Modality differs"),
        (set_from(0, PhotometricInterpretation="RGB", SamplesPerPixel=3), "(0028,0004) PhotometricInterpretation"),
        (set_from(0, PhotometricInterpretation="PALETTE COLOR"), "(0028,0004) PhotometricInterpretation"),
        (set_from(6, PhotometricInterpretation="MONOCHROME1"), "(0028,0004) PhotometricInterpretation differs"),
        (set_from(11, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "(0008,0016) SOPClassUID differs"),
        (set_from(6, PatientID="other"), "(0010,0020) PatientID has 2 values"),
        (set_from(6, FrameOfReferenceUID="1.2.3"), "(0020,0052) FrameOfReferenceUID differs"),
        (set_from(0, RescaleSlope=0), "(0028,1053) RescaleSlope is 0"),
        (set_from(4, Rows=16), "(0028,0010) Rows differs"),
        (set_from(0, BitsStored=17), "(0028,0101) BitsStored"),
        (set_from(0, BitsAllocated=12), "(0028,0100) BitsAllocated"),
        (set_from(0, NumberOfFrames=4, PixelData=bytes(7168)), "(5200,9230)"),
        (set_from(0, PixelData=b"\0" * 100), "ends before the last voxel"),
        (set_from(0, ModalityLUTSequence=Sequence([Dataset()])), "(0028,3000)"),
        (set_from(0, Rows=65535, Columns=65535), "ends before the last voxel"),
    ],
)  # fmt: skip
def test_what_is_no_plain_stack_is_refused_by_its_tag(series, change, words):
    assert words in refusal(series(change))


def test_missing_and_doubled_slices(series):
    folder = series()
    files = files_of(folder)
    shutil.copy(files[3], folder / "copy.dcm")
    assert "missing or doubled" in refusal(folder)
    (folder / "copy.dcm").unlink()
    files[5].unlink()
    assert "3 to 6 mm apart" in refusal(folder)


def test_gantry_tilt_is_resampled_and_said(tmp_path):
    """A smooth scene, cut by tilted slices, is that scene again; the tilted mask, too."""
    angle, z = np.radians(15), np.arange(SHAPE[0]) * SPACING[2]
    y = np.arange(SHAPE[1]) * SPACING[1]
    # Position (y, z) of a pixel in a tilted slice; the scene is a function of it.
    py, pz = y[None, :] * np.cos(angle), z[:, None] - y[None, :] * np.sin(angle)

    def scene(py, pz):
        return 100 * np.sin(py / 9) + 3 * pz

    array = np.broadcast_to(np.rint(scene(py, pz))[:, :, None], SHAPE).astype(np.int16)
    dicom_tree.ct_series(tmp_path / "ct", "x", array)
    for file in (tmp_path / "ct").glob("*.dcm"):
        ds = pydicom.dcmread(file)
        tilted(15)(ds, 0)
        ds.save_as(file)
    with pytest.warns(ImageWarning, match="gantry tilt of 15.0°"):
        volume = read_image(tmp_path / "ct")
    index = np.stack(np.indices(volume.array.shape)[::-1], axis=-1)
    places = volume.points(index) - ORIGIN
    known = volume.array > volume.array.min()
    inner = known.copy()
    for axis in (1, 2):
        inner &= np.roll(known, 1, axis) & np.roll(known, -1, axis)
    expected = scene(places[..., 1], places[..., 2])
    assert (
        inner.mean() > 0.7 and np.abs(volume.array - expected)[inner].max() < 6
    )  # of 190; linear between pixels
    assert volume.spacing[2] == pytest.approx(3 * np.cos(angle))


def test_slopes_and_intercepts_of_each_slice(series):
    def change(ds, k):
        slope = 0.5 if k % 2 else 0.25
        ds.RescaleSlope, ds.RescaleIntercept = slope, -1024 - k
        ds.PixelData = ((ARRAY[k] + 1024.0 + k) / slope).astype("<u2").tobytes()

    volume = quietly(series(change))
    assert np.array_equal(volume.array, ARRAY) and volume.array.dtype == np.float32


def test_monochrome1_has_the_same_values(series):
    assert np.array_equal(quietly(series(set_from(0, PhotometricInterpretation="MONOCHROME1"))).array, ARRAY)


def test_12_bits_with_an_overlay_above_them(series):
    def change(ds, k):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 1, 0
        ds.PixelData = ((ARRAY[k].astype(np.int32) & 0xFFF) | 0x8000).astype("<u2").tobytes()

    volume = quietly(series(change))
    assert np.array_equal(volume.array, ARRAY) and volume.array.dtype == np.int16


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70"]
)
def test_packed_pixels(series, tmp_path, syntax):
    """RLE, JPEG 2000 and lossless JPEG, packed by GDCM."""
    kind = {"5": "RLE", "0": "JPEG2000", "70": "JPEG"}[syntax.rsplit(".", 1)[1].replace("90", "0")]
    folder = series()
    for file in files_of(folder):
        ds = pydicom.dcmread(file)
        image = sitk.GetImageFromArray(ds.pixel_array[None])
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO"), writer.UseCompressionOn(), writer.SetCompressor(kind)
        writer.SetFileName(str(tmp_path / "packed.dcm"))
        writer.Execute(image)
        packed = pydicom.dcmread(tmp_path / "packed.dcm")
        if not packed.file_meta.TransferSyntaxUID.is_compressed:
            pytest.skip(f"this GDCM doesn't write {kind}")
        ds.PixelData, ds.file_meta.TransferSyntaxUID = packed.PixelData, packed.file_meta.TransferSyntaxUID
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.save_as(file)
    assert np.array_equal(quietly(folder).array, ARRAY)


def test_a_ct_without_rescale_is_said(series):
    with pytest.warns(ImageWarning, match="RescaleIntercept: its stored values are taken as HU"):
        volume = read_image(series(set_from(0, RescaleIntercept=None, RescaleSlope=None)))
    assert np.array_equal(volume.array, ARRAY + 1024)


def test_a_ct_whose_values_are_no_hu_is_said(series):
    with pytest.warns(ImageWarning, match=r"in 'US' \(tag \(0028,1054\) RescaleType\), not HU"):
        read_image(series(set_from(0, RescaleType="US")))


def test_a_modality_that_its_sop_class_contradicts_is_said(series):
    with pytest.warns(ImageWarning, match="says 'MR' in its tag .* SOP class is that of CT"):
        assert read_image(series(set_from(0, Modality="MR"))).modality == "MR"


def test_a_localizer_is_left_out_and_hidden_files_are_passed_over(series):
    folder = series()
    ds = pydicom.dcmread(files_of(folder)[0])
    ds.ImageOrientationPatient, ds.ImageType = [1, 0, 0, 0, 0, -1], ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.save_as(folder / "scout.dcm")
    (folder / "._1-001.dcm").write_bytes(b"\0\5\x16\7" + bytes(300))
    (folder / "notes.txt").write_text("hello")
    with pytest.warns(ImageWarning, match=r"localizer in its series \(scout.dcm\), which was left out"):
        assert np.array_equal(read_image(folder).array, ARRAY)


def enhanced(folder, target, order, jump=0.0, change=None):
    """An enhanced CT of one file whose frames have the given order."""
    files = files_of(folder)
    ds = pydicom.dcmread(files[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames = len(order)
    shared, frames = Dataset(), []

    def item(**values):
        one = Dataset()
        for name, value in values.items():
            setattr(one, name, value)
        return Sequence([one])

    shared.PixelMeasuresSequence = item(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2])
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    for k in order:
        frame = Dataset()
        place = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + k * SPACING[2] + (jump if k >= 6 else 0)]
        frame.PlanePositionSequence = item(ImagePositionPatient=place)
        frame.PixelValueTransformationSequence = item(
            RescaleSlope=1, RescaleIntercept=-1024 - k, RescaleType="HU"
        )
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = (
        Sequence([shared]),
        Sequence(frames),
    )
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(ds, name)
    ds.PixelData = b"".join((ARRAY[k].astype(np.int32) + 1024 + k).astype("<u2").tobytes() for k in order)
    if change is not None:
        change(ds)
    target.mkdir()
    ds.save_as(target / "all.dcm")
    return target


def test_multi_frame_in_any_order(series, tmp_path):
    folder = series()
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    for n, frames in enumerate((list(range(12)), order, order[::-1])):
        target = enhanced(folder, tmp_path / f"e{n}", frames)
        for path in (target, target / "all.dcm"):
            volume = quietly(path)
            assert np.array_equal(volume.array, ARRAY) and volume.same_grid(VOLUME)
    assert "missing or doubled" in refusal(enhanced(folder, tmp_path / "jump", order, jump=7))

    def less(ds):
        del ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence

    assert "(0020,0032)" in refusal(enhanced(folder, tmp_path / "less", order, change=less))

    def fewer(ds):
        ds.NumberOfFrames = 10

    assert "(5200,9230)" in refusal(enhanced(folder, tmp_path / "fewer", order, change=fewer))


def test_other_objects_are_named(series, tmp_path):
    folder = series()
    slices = [pydicom.dcmread(f) for f in files_of(folder)]
    dicom_tree.rtstruct(tmp_path / "rt/a.dcm", slices, {"GTV": TUMOUR})
    assert "holds a structure set (RTSTRUCT)" in refusal(tmp_path / "rt")
    assert "no DICOM image" in refusal(tmp_path / "rt/a.dcm")
    (tmp_path / "two").mkdir()
    for name in ("ct", "other"):
        series(name=name) if name == "other" else None
        for file in files_of(tmp_path / name):
            shutil.copy(file, tmp_path / "two" / f"{name}-{file.name}")
    assert "2 DICOM series" in refusal(tmp_path / "two")


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


def test_files_without_a_preamble(series):
    """Programs of old wrote the data set at once, without group 2, implicit and little endian."""
    folder = series()
    for file in files_of(folder):
        ds = pydicom.dcmread(file)
        plain = Dataset()
        plain.update(ds)
        pydicom.dcmwrite(file, plain, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert np.array_equal(quietly(folder).array, ARRAY)


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

"""DICOM as images: every slice by its own tags, refused with the tag named."""

import shutil
import warnings

import dicom_tree
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_case import ARRAY, ORIGIN, SHAPE, SPACING, TUMOUR, VOLUME, files_of, refusal, series  # noqa: F401
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from TumorSynthLib.errors import ImageWarning
from TumorSynthLib.volume import read_image, write_volume


def quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(path)


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


def test_files_without_a_preamble(series):
    """Programs of old wrote the data set at once, without group 2, implicit and little endian."""
    folder = series()
    for file in files_of(folder):
        ds = pydicom.dcmread(file)
        plain = Dataset()
        plain.update(ds)
        pydicom.dcmwrite(file, plain, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert np.array_equal(quietly(folder).array, ARRAY)

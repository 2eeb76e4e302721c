"""Reading and writing images, and the one clear error for each thing that can be wrong with them."""

import gzip
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import Volume, check_image, check_mask, guard, read_image, read_mask, write_volume

FORMATS = [".nii.gz", ".nii", ".nrrd", ".mha"]
TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]


def make(dtype=np.int16, shape=(6, 8, 10), turn=TURN):
    array = np.random.default_rng(0).normal(50, 20, shape).astype(dtype)
    spacing, origin = (0.75, 0.5, 2.5), (12.5, -40.25, 7.0)
    return Volume(array, spacing, origin, tuple(np.asarray(turn, float).ravel()))


def ball(volume, centre=(3, 4, 5), radius=2.5):
    index = np.indices(volume.array.shape)
    return sum((axis - c) ** 2 for axis, c in zip(index, centre)) < radius**2


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_round_trip(tmp_path, suffix, dtype):
    first = read_image(write_volume(make(dtype), tmp_path / f"first{suffix}"))
    second = read_image(write_volume(first, tmp_path / f"second{suffix}", {"descrip": "synthetic"}))
    assert np.array_equal(second.array, make(dtype).array) and second.array.dtype == dtype
    tolerance = 0 if ".nii" in suffix or suffix == ".mha" else 1e-14  # NRRD stores spacing × direction
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(second, name), getattr(first, name), rtol=0, atol=tolerance * 10)
    assert first.same_grid(make(dtype))


@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 4)])
def test_nifti_geometry_fields_are_kept_to_the_bit(tmp_path, codes):
    source = bytearray(write_volume(make(), tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2h", source, 252, *codes)
    (tmp_path / "a.nii").write_bytes(source)
    write_volume(read_image(tmp_path / "a.nii"), tmp_path / "b.nii.gz", {"descrip": "synthetic"})
    result = gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert result[76:92] == source[76:92] and result[252:328] == source[252:328]
    assert result[352:] == source[352:]
    moved = replace(read_image(tmp_path / "a.nii"), origin=(1.0, 2.0, 3.0))
    assert read_image(write_volume(moved, tmp_path / "c.nii")).origin == pytest.approx((1, 2, 3))


@pytest.mark.parametrize("suffix", FORMATS)
def test_marks_are_in_the_file_header(tmp_path, suffix):
    marks = {"descrip": "Synthetic image: not for diagnosis", "synthetic": "true", "aux_file": "synthetic"}
    image = sitk.ReadImage(str(write_volume(make(), tmp_path / f"x{suffix}", marks)))
    assert image.GetMetaData("descrip") == marks["descrip"]
    if ".nii" not in suffix:
        assert image.GetMetaData("synthetic") == "true"
    else:
        assert image.GetMetaData("aux_file") == "synthetic"


def test_nrrd_in_another_space_is_not_mirrored(tmp_path):
    image = make().sitk()
    image.SetMetaData("NRRD_space", "right-anterior-superior")
    sitk.WriteImage(image, str(tmp_path / "ras.nrrd"))
    read = read_image(tmp_path / "ras.nrrd")
    again = read_image(write_volume(read, tmp_path / "again.nrrd"))
    assert again.same_grid(read)


def test_no_partial_file_when_writing_fails(tmp_path, monkeypatch):
    target = tmp_path / "out.nii.gz"
    write_volume(make(), target)
    before = target.read_bytes()

    def stopped(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(guard.os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_volume(make(np.float32), target)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["out.nii.gz"]
    with pytest.raises(KeyboardInterrupt):
        write_volume(make(), tmp_path / "new.nrrd")
    assert os.listdir(tmp_path) == ["out.nii.gz"]


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize("name", ["out.png", "out", "out.dcm"])
def test_formats_that_are_not_written(tmp_path, name):
    with pytest.raises(InputError, match="nii.gz") as caught:
        write_volume(make(), tmp_path / name)
    one_line(caught)
    assert not os.listdir(tmp_path)


def test_folder_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="can't write"):
        write_volume(make(), tmp_path / "file" / "out.nii.gz")


def save(image, path):
    sitk.WriteImage(image, str(path))
    return path


# Of a NIfTI-1 header: struct format of its numbers, and where they start.
FIELDS = {0: "i", 40: "8h", 70: "2h", 76: "8f", 108: "3f", 252: "2h", 256: "18f"}


def big_endian(path, dtype):
    """An uncompressed little-endian NIfTI file of a dtype with the bytes of its numbers turned around."""
    raw = bytearray(path.read_bytes())
    start = int(struct.unpack_from("<f", raw, 108)[0])
    for at, kind in FIELDS.items():
        struct.pack_into(">" + kind, raw, at, *struct.unpack_from("<" + kind, raw, at))
    raw[start:] = np.frombuffer(raw[start:], dtype).byteswap().tobytes()
    path.write_bytes(raw)
    return path


def test_nifti_in_the_other_byte_order(tmp_path):
    volume = make()
    read = read_image(big_endian(write_volume(volume, tmp_path / "big.nii"), np.int16))
    assert (
        np.array_equal(read.array, volume.array) and read.array.dtype == np.int16 and read.same_grid(volume)
    )
    assert read_image(write_volume(read, tmp_path / "again.nii.gz")).same_grid(volume)


def bad_files(folder):
    """Name of each kind of bad image file, with words its error must have."""
    volume = make()
    four = sitk.JoinSeries([volume.sitk(), volume.sitk()])
    colour = sitk.Compose([volume.sitk()] * 3)
    nan = make(np.float32)
    nan.array[2, 3, 4] = np.nan
    infinite = make(np.float64)
    infinite.array[2, 3, 4] = np.inf
    (folder / "text.nii.gz").write_text("this is no image")
    (folder / "empty").mkdir()
    for suffix in FORMATS:
        whole = write_volume(make(shape=(40, 40, 40)), folder / f"whole{suffix}").read_bytes()
        (folder / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray((folder / "whole.nii.gz").read_bytes())
    flipped[len(flipped) // 2] ^= 0x55
    (folder / "flipped.nii.gz").write_bytes(flipped)
    cut = big_endian(write_volume(volume, folder / "cut-big.nii"), np.int16)
    cut.write_bytes(cut.read_bytes()[:-100])
    lying = bytearray((folder / "whole.nii").read_bytes())
    struct.pack_into("<3h", lying, 42, 30000, 30000, 30000)
    (folder / "lying.nii").write_bytes(lying)
    return {
        "missing": (folder / "nothing.nii.gz", "no file"),
        "text": (folder / "text.nii.gz", "can't read"),
        **{f"cut{suffix}": (folder / f"cut{suffix}", "can't read") for suffix in FORMATS},
        "bit flip": (folder / "flipped.nii.gz", "damaged|cut short"),
        "lying header": (folder / "lying.nii", "damaged"),
        "empty folder": (folder / "empty", "no DICOM"),
        "4-D": (save(four, folder / "four.nii.gz"), "4-D"),
        "2-D": (save(volume.sitk()[:, :, 0], folder / "two.mha"), "2-D"),
        "colour": (save(colour, folder / "colour.nrrd"), "3 values per voxel"),
        "NaN, other byte order": (
            big_endian(write_volume(nan, folder / "big.nii"), np.float32),
            "1 voxels that are NaN",
        ),
        "cut, other byte order": (cut, "damaged"),
        "NaN": (write_volume(nan, folder / "nan.nii.gz"), "1 voxels that are NaN"),
        "NaN in NRRD": (write_volume(nan, folder / "nan.nrrd"), "1 voxels that are NaN"),
        "infinite": (write_volume(infinite, folder / "inf.nrrd"), "infinite"),
    }


BAD = [
    "missing",
    "text",
    "bit flip",
    "lying header",
    "empty folder",
    "4-D",
    "2-D",
    "colour",
    "NaN",
    "NaN in NRRD",
]
BAD += ["NaN, other byte order", "cut, other byte order"]
BAD += ["infinite", *(f"cut{suffix}" for suffix in FORMATS)]


@pytest.mark.parametrize("kind", BAD)
def test_bad_images(tmp_path, kind):
    path, words = bad_files(tmp_path)[kind]
    with pytest.raises(InputError, match=words) as caught:
        read_image(path)
    assert path.name in one_line(caught)
    assert caught.value.exit_code == 2


def test_scaled_nifti(tmp_path):
    raw = bytearray(write_volume(make(), tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", raw, 112, 0.5, -3.0)
    (tmp_path / "a.nii").write_bytes(raw)
    scaled = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(scaled.array, make().array * 0.5 - 3.0)
    again = read_image(write_volume(scaled, tmp_path / "b.nii.gz"))
    assert np.array_equal(again.array, scaled.array)


def test_a_time_axis_of_one_is_dropped(tmp_path):
    path = save(sitk.JoinSeries([make().sitk()]), tmp_path / "one.nii.gz")
    assert np.array_equal(read_image(path).array, make().array)
    assert read_image(path).same_grid(make())


def write_mask(folder, volume, labels, name="mask.nii.gz"):
    return write_volume(volume.with_array(labels), folder / name)


def test_mask_labels(tmp_path):
    volume = make()
    labels = ball(volume).astype(np.uint8) * 3
    assert np.array_equal(read_mask(write_mask(tmp_path, volume, labels), volume), ball(volume))
    labels[0, 0, 0] = 1
    path = write_mask(tmp_path, volume, labels)
    assert read_mask(path, volume, label=1).sum() == 1
    with pytest.raises(InputError, match=r"several labels \(1, 3\)") as caught:
        read_mask(path, volume)
    one_line(caught)
    with pytest.raises(InputError, match="no label 2") as caught:
        read_mask(path, volume, label=2)
    one_line(caught)


def test_empty_mask(tmp_path):
    volume = make()
    path = write_mask(tmp_path, volume, np.zeros(volume.array.shape, np.uint8))
    with pytest.raises(InputError, match="empty") as caught:
        read_mask(path, volume)
    one_line(caught)
    with pytest.raises(InputError, match="empty"):
        check_mask(np.zeros(volume.array.shape), volume)
    with pytest.raises(InputError, match="voxels"):
        check_mask(np.ones((3, 3, 3)), volume)


@pytest.mark.parametrize("turn", [np.eye(3), TURN, np.diag([-1, 1, 1])])
def test_mask_on_another_grid(tmp_path, turn):
    volume = make(shape=(20, 40, 30))
    centre = volume.points([15, 20, 10])
    grid = Volume(
        np.zeros((50, 51, 52), np.uint8), (0.61, 0.7, 1.1), direction=tuple(np.ravel(turn).astype(float))
    )
    grid = Volume(grid.array, grid.spacing, tuple(centre - grid.points([26, 25, 25])), grid.direction)
    index = np.stack(np.indices(grid.array.shape)[::-1], axis=-1)
    sphere = np.linalg.norm(grid.points(index) - centre, axis=-1) < 5
    path = write_mask(tmp_path, grid, sphere.astype(np.uint8))
    with pytest.warns(ImageWarning, match="another grid than the image"):
        found = read_mask(path, volume)
    index = np.stack(np.indices(volume.array.shape)[::-1], axis=-1)
    expected = np.linalg.norm(volume.points(index) - centre, axis=-1) < 5
    assert found.shape == volume.array.shape
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.93
    resampled = sitk.Resample(grid.with_array(sphere.astype(np.uint8)).sitk(), volume.sitk(), sitk.Transform(),
                              sitk.sitkNearestNeighbor)  # fmt: skip
    assert (found != sitk.GetArrayFromImage(resampled).astype(bool)).mean() < 1e-3


@pytest.mark.parametrize(
    "shift, words", [((500, 0, 0), "lies outside the image"), ((2.25, 0, 0), "% of .* lies outside")]
)
def test_mask_outside_the_image(tmp_path, shift, words):
    volume = make(turn=np.eye(3))
    moved = Volume(ball(volume).astype(np.uint8), volume.spacing, tuple(np.add(volume.origin, shift)))
    path = write_volume(moved, tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=words) as caught:
        read_mask(path, volume)
    one_line(caught)


def test_check_image_refuses_what_is_no_image():
    with pytest.raises(InputError, match="3-D"):
        check_image(Volume(np.zeros((3, 3)), (1, 1, 1)))
    with pytest.raises(InputError, match="complex"):
        check_image(Volume(np.zeros((3, 3, 3), complex), (1, 1, 1)))
    with pytest.raises(InputError, match="geometry"):
        check_image(Volume(np.zeros((3, 3, 3)), (1, 0, 1)))


def write_series(folder, slices, uid="1.2.826.0.1.3680043.2.1125.1", spacing=2.5):
    """A DICOM folder of int16 slices; returns the volume that they make."""
    folder.mkdir(exist_ok=True)
    array = np.random.default_rng(1).integers(-1000, 1000, (12, 9, 10)).astype(np.int16)
    volume = Volume(array, (0.75, 0.5, spacing), (10.0, -20.0, 30.0))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for n in slices:
        image = volume.sitk()[:, :, n]
        direction = "\\".join(f"{v:.10g}" for v in [*volume.matrix[:, 0] / 0.75, *volume.matrix[:, 1] / 0.5])
        fields = {
            "0008|0060": "CT", "0020|000e": uid, "0020|000d": "1.2.826.0.1.3680043.2.1125.2", "0020|0013": str(n),
            "0008|0018": f"{uid}.{n}", "0020|0037": direction,
            "0020|0032": "\\".join(f"{v:.10g}" for v in volume.points([0, 0, n])),
        }  # fmt: skip
        for key, value in fields.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid[-1]}_{99 - n}.dcm"))
        writer.Execute(image)
    return volume


def test_dicom_folder(tmp_path):
    expected = write_series(tmp_path / "ct", range(12))
    with pytest.warns(ImageWarning, match="not HU"):
        volume = read_image(tmp_path / "ct")
    assert np.array_equal(volume.array, expected.array)
    assert volume.same_grid(expected)


def test_dicom_with_a_missing_slice(tmp_path):
    write_series(tmp_path / "ct", [n for n in range(12) if n != 5])
    with pytest.raises(InputError, match="missing") as caught:
        read_image(tmp_path / "ct")
    one_line(caught)


def test_dicom_with_two_series(tmp_path):
    write_series(tmp_path / "ct", range(12))
    write_series(tmp_path / "ct", range(12), uid="1.2.826.0.1.3680043.2.1125.3")
    with pytest.raises(InputError, match="2 DICOM series") as caught:
        read_image(tmp_path / "ct")
    one_line(caught)

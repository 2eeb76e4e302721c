"""Headers and streams of NIfTI, NRRD and MetaImage: what they claim is checked, and what is read is right."""

import bz2
import gzip
import os
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import Volume, check_image, read_image, write_volume
from TumorSynthLib.volume.files import read_any

ARRAY = np.random.default_rng(3).integers(-900, 900, (5, 6, 7)).astype(np.int16)
RAW = ARRAY.tobytes()
SPACING, ORIGIN = (0.8, 0.9, 2.5), (-20.0, 30.0, 110.0)
VOLUME = Volume(ARRAY, SPACING, ORIGIN)


def nifti(*changes, magic=b"n+1\0", data=RAW):
    """A NIfTI-1 file of the array with changes (format, offset, values) of its header."""
    head = bytearray(352)
    plain = [
        ("i", 0, (348,)), ("8h", 40, (3, 7, 6, 5, 1, 1, 1, 1)), ("2h", 70, (4, 16)), ("8f", 76, (1, *SPACING, 0, 0, 0, 0)),
        ("f", 108, (352,)), ("2f", 112, (1, 0)), ("B", 123, (2,)), ("2h", 252, (1, 1)),
        ("6f", 256, (0, 0, 1, 20, -30, 110)), ("12f", 280, (-0.8, 0, 0, 20, 0, -0.9, 0, -30, 0, 0, 2.5, 110)),
    ]  # fmt: skip
    for form, offset, values in (*plain, *changes):
        struct.pack_into("<" + form, head, offset, *values)
    head[344:348] = magic
    return bytes(head) + data


def saved(folder, content, name="x.nii"):
    (folder / name).write_bytes(content)
    return folder / name


def quietly(path):
    """The image of a file that is read without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(path)


def said(path):
    """The image of a file, and the one sentence that was said of it."""
    with pytest.warns(ImageWarning) as caught:
        volume = read_image(path)
    (one,) = [str(w.message) for w in caught]
    return volume, one


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_image(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 and path.name in text
    return text


def same(volume, other=VOLUME, tolerance=1e-6):
    """Whether two images have the same voxels at the same place."""
    places = (("spacing", tolerance), ("origin", 1e-4), ("direction", tolerance))
    return np.array_equal(volume.array, other.array) and all(
        np.allclose(getattr(volume, name), getattr(other, name), rtol=0, atol=most) for name, most in places
    )


def nrrd(fields=(), data=RAW, encoding="raw", start="NRRD0004", without=(), texts=()):
    head = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "7 6 5",
        "space directions": "(0.8,0,0) (0,0.9,0) (0,0,2.5)", "kinds": "domain domain domain", "endian": "little",
        "encoding": encoding, "space origin": "(-20,30,110)", **dict(fields),
    }  # fmt: skip
    lines = (
        [start] + [f"{k}: {v}" for k, v in head.items() if k not in without] + [f"{k}:={v}" for k, v in texts]
    )
    return ("\n".join(lines) + "\n\n").encode() + data


def metaimage(fields=(), data=RAW, without=()):
    head = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "-20 30 110",
        "ElementSpacing": "0.8 0.9 2.5", "DimSize": "7 6 5", "ElementType": "MET_SHORT", **dict(fields),
    }  # fmt: skip
    head["ElementDataFile"] = head.pop("ElementDataFile", "LOCAL")
    return "".join(f"{k} = {v}\n" for k, v in head.items() if k not in without).encode() + data


def test_the_plain_files_are_read_without_a_word(tmp_path):
    packed = gzip.compress(ARRAY.tobytes())
    files = {
        "a.nii": nifti(), "b.nii.gz": gzip.compress(nifti()), "c.nrrd": nrrd(), "d.nrrd": nrrd(data=packed, encoding="gzip"),
        "e.nrrd": nrrd(data=bz2.compress(ARRAY.tobytes()), encoding="bz2"), "f.mha": metaimage(),
        "g.mha": metaimage({"CompressedData": "True", "CompressedDataSize": len(zlib.compress(RAW))}, zlib.compress(RAW)),
    }  # fmt: skip
    for name, content in files.items():
        assert same(quietly(saved(tmp_path, content, name))), name
        if name != "e.nrrd":  # ITK isn't built with bzip2
            assert same(Volume.from_sitk(sitk.ReadImage(str(tmp_path / name)))), name


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_itk_reads_what_is_written(tmp_path, suffix):
    turn = np.linalg.qr(np.random.default_rng(8).normal(size=(3, 3)))[0]
    for direction in (np.eye(3), turn, -turn, np.diag([-1.0, -1, 1]), np.eye(3)[[2, 0, 1]]):
        volume = replace(VOLUME, direction=tuple(direction.ravel()), metadata={"note": "Müller: a=b|c"})
        path = write_volume(volume, tmp_path / f"x{suffix}", {"descrip": "made here"})
        image = sitk.ReadImage(str(path))
        assert same(Volume.from_sitk(image), volume) and same(quietly(path), volume)
        if ".nii" not in suffix:
            assert image.GetMetaData("note") == "Müller: a=b|c"


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "hdr", "nrrd", "nhdr", "mha", "mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_itk_in_every_type(tmp_path, suffix, packed):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for kind in "i1 u1 i2 u2 i4 u4 i8 u8 f4 f8".split():
        volume = replace(VOLUME, array=np.abs(ARRAY % 100).astype(kind), direction=tuple(turn.ravel()))
        path = tmp_path / f"{kind}.{suffix}"
        sitk.WriteImage(volume.sitk(), str(path), packed)
        found = quietly(path)
        assert same(found, Volume.from_sitk(sitk.ReadImage(str(path)))) and found.array.dtype == np.dtype(
            kind
        )


def random_header(rng):
    """Changes of a NIfTI header: codes, units, mirrored and turned forms, some of them apart."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    spacing, offset = rng.uniform(0.3, 4, 3), rng.uniform(-200, 200, 3)
    shift = rng.choice([0.0, 3.0])
    rows = np.column_stack([turn * spacing, offset + shift])
    q = turn * [1, 1, np.sign(np.linalg.det(turn))]
    b, c, d = [q[2, 1] - q[1, 2], q[0, 2] - q[2, 0], q[1, 0] - q[0, 1]] / (2 * np.sqrt(1 + np.trace(q)))
    return [
        ("8f", 76, (np.sign(np.linalg.det(turn)), *spacing, 0, 0, 0, 0)), ("B", 123, (int(rng.choice([0, 2])),)),
        ("2h", 252, (int(rng.integers(0, 3)), int(rng.choice([0, 1, 1, 2, 4])))), ("6f", 256, (b, c, d, *offset)),
        ("12f", 280, rows.ravel()),
    ]  # fmt: skip


def test_nifti_geometry_is_what_itk_and_slicer_take(tmp_path):
    rng = np.random.default_rng(11)
    for _ in range(60):
        changes = random_header(rng)
        path = saved(tmp_path, nifti(*changes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)
            volume = read_any(path)
        image = sitk.ReadImage(str(path))
        size = max(1.0, *map(abs, image.GetOrigin()))
        np.testing.assert_allclose(volume.spacing, image.GetSpacing(), rtol=1e-5)
        np.testing.assert_allclose(volume.origin, image.GetOrigin(), rtol=0, atol=1e-5 * size)
        np.testing.assert_allclose(volume.direction, image.GetDirection(), rtol=0, atol=1e-4)


def nifti_2(order="<"):
    head = bytearray(544)
    fields = (
        ("i4s4s", 0, (540, b"n+2\0", b"\r\n\x1a\n")), ("2h", 12, (4, 16)), ("8q", 16, (3, 7, 6, 5, 1, 1, 1, 1)),
        ("8d", 104, (1, *SPACING, 0, 0, 0, 0)), ("q", 168, (544,)), ("2d", 176, (1, 0)), ("2d", 192, (300, -100)),
        ("2i", 344, (0, 1)), ("12d", 400, (-0.8, 0, 0, 20, 0, -0.9, 0, -30, 0, 0, 2.5, 110)), ("i", 500, (2,)),
    )  # fmt: skip
    for form, offset, values in fields:
        struct.pack_into(order + form, head, offset, *values)
    return bytes(head) + ARRAY.astype(order + "i2").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_2_is_read_and_its_header_kept(tmp_path, order):
    volume = quietly(saved(tmp_path, nifti_2(order)))
    assert same(volume)
    written = write_volume(volume, tmp_path / "y.nii").read_bytes()
    assert struct.unpack_from("<2f", written, 124) == (300, -100) and same(quietly(tmp_path / "y.nii"))


def test_nifti_pairs(tmp_path):
    head, data = nifti(("f", 108, (0,)), magic=b"ni1\0", data=b"")[:348], ARRAY.tobytes()
    saved(tmp_path, head, "a.hdr"), saved(tmp_path, data, "a.img")
    saved(tmp_path, gzip.compress(head), "b.hdr.gz"), saved(tmp_path, gzip.compress(data), "b.img.gz")
    for name in ("a.hdr", "a.img", "b.hdr.gz", "b.img.gz"):
        assert same(quietly(tmp_path / name)), name
    (tmp_path / "a.img").write_bytes(data[: len(data) * 9 // 10])
    assert "ends before the last voxel" in refusal(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    assert "no file a.img" in refusal(tmp_path / "a.hdr")
    analyze = bytearray(head)
    analyze[344:348] = bytes(4)
    saved(tmp_path, bytes(analyze), "c.hdr"), saved(tmp_path, data, "c.img")
    assert "Analyze 7.5" in refusal(tmp_path / "c.hdr")


def test_packed_files_are_known_by_their_content(tmp_path):
    volume, text = said(saved(tmp_path, gzip.compress(nifti()), "zip.nii"))
    assert same(volume) and "packed by gzip" in text
    assert same(quietly(saved(tmp_path, nifti(), "plain.nii.gz")))
    assert "ends before" in refusal(saved(tmp_path, nifti()[:-50], "cut.nii.gz"))
    with pytest.warns(ImageWarning, match="packed by gzip"):
        assert "damaged" in refusal(saved(tmp_path, gzip.compress(nifti())[:-50], "cut.nii"))


def flips(content, start, count=25, seed=0):
    """Copies of a file with one flipped byte each, after its header."""
    for at in np.random.default_rng(seed).integers(start, len(content), count):
        bad = bytearray(content)
        bad[at] ^= 0x5A
        yield bytes(bad)


@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "bz2.nrrd", "mha"])
def test_one_flipped_byte_of_packed_voxels_is_found(tmp_path, kind):
    raw = ARRAY.tobytes()
    whole = {
        "nii.gz": gzip.compress(nifti()),
        "nrrd": nrrd(data=gzip.compress(raw), encoding="gzip"),
        "bz2.nrrd": nrrd(data=bz2.compress(raw), encoding="bzip2"),
        "mha": metaimage({"CompressedData": "True"}, zlib.compress(raw)),
    }[kind]
    start = (
        12
        if kind == "nii.gz"
        else whole.index(b"LOCAL\n") + 6
        if kind == "mha"
        else whole.index(b"\n\n") + 14
    )
    for bad in flips(whole, start):
        path = saved(tmp_path, bad, f"x.{kind}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ImageWarning)
                volume = read_image(path)
        except InputError:
            continue
        assert np.array_equal(volume.array, ARRAY)  # a byte that says nothing of the voxels, e.g. a time
    assert "damaged" in refusal(saved(tmp_path, whole[: len(whole) * 2 // 3], f"x.{kind}"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30, 1e30, -352.0, 100.0, 351.0, 352.5, 1e6])
def test_vox_offset_that_lies(tmp_path, value):
    assert "vox_offset" in refusal(
        p := saved(tmp_path, nifti(("f", 108, (value,))))
    ) or "ends before" in refusal(p)


def test_vox_offset_of_0_is_352(tmp_path):
    volume, text = said(saved(tmp_path, nifti(("f", 108, (0,)))))
    assert same(volume) and "vox_offset of 0" in text


@pytest.mark.parametrize(
    "change, words",
    [
        (("8h", 40, (3, 7, 6, 0, 1, 1, 1, 1)), "claims 7 × 6 × 0 voxels"),
        (("8h", 40, (9, 7, 6, 5, 1, 1, 1, 1)), "9 axes"),
        (("8h", 40, (3, 7, 6, 4, 1, 1, 1, 1)), "more of them follow"),
        (("2h", 70, (1, 1)), "type 1"),
        (("2h", 70, (128, 24)), "3 values per voxel"),
        (("2h", 70, (32, 64)), "complex"),
        (("2f", 112, (float("inf"), 0)), "scl_slope"),
        (("2f", 112, (2, float("nan"))), "scl_slope and scl_inter are 2 and nan"),
        (("B", 123, (7,)), "unit 7"),
        (("3f", 80, (float("nan"),) * 3), "pixdim is nan"),
        (("3f", 80, (-0.8, 0.9, 2.5)), "pixdim is -0.8"),
        (("B", 123, (1,)), "another unit"),  # metres: an image of 13 m
        (("6f", 256, (0, 0, 1, 1e30, 0, 0)), None),  # the sform is there
    ],
)
def test_nifti_headers_that_lie(tmp_path, change, words):
    path = saved(tmp_path, nifti(change))
    if words:
        assert words in refusal(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)
            assert same(read_image(path))


def test_what_was_taken_is_said(tmp_path):
    rows = np.array([[-0.8, 0, 0, 20], [0, -0.9, 0, -30], [0, 0, 2.5, 110]])
    sheared, moved, wide = rows.copy(), rows.copy(), rows * [1.25, 1.25, 1.25, 1]
    sheared[0, 1], moved[2, 3] = 0.3, 113

    def with_rows(rows, *more):
        return saved(tmp_path, nifti(("12f", 280, rows.ravel()), *more))

    volume, text = said(with_rows(sheared))
    assert same(volume) and "sheared" in text and "qform is taken" in text
    assert "sheared" in refusal(with_rows(sheared, ("h", 252, (0,))))
    volume, text = said(with_rows(moved))
    assert same(volume, replace(VOLUME, origin=(-20, 30, 113))) and "differ by up to 3 mm: the sform" in text
    volume, text = said(with_rows(moved, ("h", 254, (2,))))
    assert same(volume) and "the qform is taken" in text
    volume, text = said(with_rows(wide, ("h", 252, (0,))))
    assert same(volume) and "pixdim are taken" in text
    volume, text = said(with_rows(rows, ("h", 252, (0,)), ("3f", 80, (0, 0, 0))))
    assert same(volume) and "pixdim of 0, 0, 0" in text
    volume, text = said(with_rows(rows, ("2h", 252, (0, 0))))
    assert volume.origin == (0, 0, 0) and "neither sform nor qform" in text
    assert "pixdim is 0, 0, 0" in refusal(with_rows(rows, ("h", 254, (0,)), ("3f", 80, (0, 0, 0))))


@pytest.mark.parametrize("code, factor", [(1, 1e-3), (3, 1e3)])
def test_nifti_in_metres_and_micrometres(tmp_path, code, factor):
    rows = np.array([[-0.8, 0, 0, 20], [0, -0.9, 0, -30], [0, 0, 2.5, 110]]) * factor
    content = nifti(("B", 123, (code,)), ("12f", 280, rows.ravel()), ("3f", 80, np.multiply(SPACING, factor)),
                    ("3f", 268, np.multiply((20, -30, 110), factor)))  # fmt: skip
    volume = quietly(saved(tmp_path, content))
    assert same(volume, tolerance=1e-5)
    again = write_volume(volume, tmp_path / "again.nii")
    assert same(quietly(again), tolerance=1e-5) and again.read_bytes()[123] == code


@pytest.mark.parametrize(
    "unit, factor", [("um", 1e3), ("µm", 1e3), ("micron", 1e3), ("cm", 0.1), ("m", 1e-3), ("mm", 1)]
)
def test_nrrd_units(tmp_path, unit, factor):
    s, o = np.multiply(SPACING, factor), np.multiply(ORIGIN, factor)
    place = {"space directions": f"({s[0]!r},0,0) (0,{s[1]!r},0) (0,0,{s[2]!r})".replace("np.float64", "")}
    place["space directions"] = f"({float(s[0])},0,0) (0,{float(s[1])},0) (0,0,{float(s[2])})"
    place |= {
        "space origin": f"({float(o[0])},{float(o[1])},{float(o[2])})",
        "space units": f'"{unit}" "{unit}" "{unit}"',
    }
    assert same(quietly(saved(tmp_path, nrrd(place), "a.nrrd")))
    plain = {"spacings": " ".join(map(str, s.tolist())), "units": f'"{unit}" "{unit}" "{unit}"'}
    volume = quietly(
        saved(tmp_path, nrrd(plain, without=("space", "space directions", "space origin")), "b.nrrd")
    )
    assert volume.spacing == pytest.approx(SPACING)


def test_metaimage_units(tmp_path):
    fields = {"DistanceUnits": "um", "ElementSpacing": "800 900 2500", "Offset": "-20000 30000 110000"}
    assert same(quietly(saved(tmp_path, metaimage(fields), "a.mha")))
    assert "unknown unit" in refusal(saved(tmp_path, metaimage({"DistanceUnits": "furlong"}), "b.mha"))
    assert "unknown unit" in refusal(saved(tmp_path, nrrd({"space units": '"mm" "mm" "parsec"'}), "b.nrrd"))


def test_intensity_scales_of_every_format(tmp_path):
    expected = ARRAY * 0.5 - 3.0
    scale = {"ElementToIntensityFunctionSlope": "0.5", "ElementToIntensityFunctionOffset": "-3"}
    for content, name in ((nifti(("2f", 112, (0.5, -3))), "a.nii"), (metaimage(scale), "a.mha")):
        volume = quietly(saved(tmp_path, content, name))
        assert np.array_equal(volume.array, expected) and volume.array.dtype == np.float32
    for slope in (0.0, float("nan")):  # as nibabel writes "none"
        assert same(quietly(saved(tmp_path, nifti(("2f", 112, (slope, float("nan")))))))
    assert "isn't finite" in refusal(
        saved(tmp_path, metaimage({"ElementToIntensityFunctionSlope": "inf"}), "b.mha")
    )


@pytest.mark.parametrize(
    "content, name, words",
    [
        (nrrd(without=("space directions",)), "a.nrrd", "no voxel size"),
        (metaimage(without=("ElementSpacing",)), "a.mha", "no voxel size"),
        (nrrd({"space directions": "(0.8,0,0) (0.3,0.9,0) (0,0,2.5)"}), "a.nrrd", "sheared"),
        (metaimage({"TransformMatrix": "1 0 0 0.3 1 0 0 0 1"}), "a.mha", "sheared"),
        (nrrd({"space origin": "(nan,0,0)"}), "a.nrrd", "isn't finite"),
        (metaimage({"ElementSpacing": "0,8 0,9 2,5"}), "a.mha", "decimal point"),
        (nrrd({"sizes": "7 6 50"}), "a.nrrd", "ends before the last voxel"),
        (nrrd({"sizes": "7 6 4"}), "a.nrrd", "more of them follow"),
        (metaimage({"DimSize": "7 6"}), "a.mha", "don't fit together"),
        (metaimage({"DimSize": "-7 6 5"}), "a.mha", "claims -7"),
        (metaimage({"ElementType": "MET_OTHER"}), "a.mha", "type"),
        (metaimage({"BinaryData": "False"}), "a.mha", "as text"),
        (nrrd(encoding="ascii"), "a.nrrd", "encoding"),
        (nrrd(without=("endian",)), "a.nrrd", "endian"),
        (nrrd({"data file": "/etc/passwd"}), "a.nhdr", "outside its folder"),
        (nrrd({"data file": "../a.raw"}), "a.nhdr", "outside its folder"),
        (metaimage({"ElementDataFile": "../a.raw"}), "a.mhd", "outside its folder"),
        (metaimage({"ElementDataFile": "LIST"}), "a.mhd", "several files"),
        (nrrd({"byte skip": "-5"}), "a.nrrd", "skips"),
        (nrrd({"data file": "LIST\na.raw"}), "a.nhdr", "several files"),
        (nrrd({"spacings": "1 1 1\nsizes: 6 7 5"}), "a.nrrd", "there twice"),
        (metaimage({"Comment": "x\nDimSize = 6 7 5"}), "a.mha", "there twice"),
        (nrrd({"space directions": "(0.8,0,0) none (0,0,2.5)"}), "a.nrrd", "is 2-D (7 × 5)"),
        (b"NRRD0004\ntype: short\n", "a.nrrd", "no field 'sizes'"),
        (b"ObjectType = Image\n", "a.mha", "ElementDataFile"),
        (b"hello", "a.mha", "no MetaImage"),
        (nrrd(), "a.nii", "NRRD file"),
        (b"hello", "a.xyz", "unknown format"),
    ],
)
def test_headers_of_text_that_lie(tmp_path, content, name, words):
    assert words in refusal(saved(tmp_path, content, name))


def test_voxels_beside_the_header(tmp_path):
    saved(tmp_path, ARRAY.tobytes(), "a.raw"), saved(tmp_path, b"head\nmore" + ARRAY.tobytes(), "b.raw")
    assert same(quietly(saved(tmp_path, nrrd({"data file": "a.raw"}, b""), "a.nhdr")))
    skipped = {"data file": "b.raw", "line skip": "1", "byte skip": "4"}
    assert same(quietly(saved(tmp_path, nrrd(skipped, b""), "b.nhdr")))
    assert same(quietly(saved(tmp_path, nrrd({"data file": "b.raw", "byte skip": "-1"}, b""), "c.nhdr")))
    assert same(quietly(saved(tmp_path, metaimage({"ElementDataFile": "a.raw"}, b""), "a.mhd")))
    assert same(
        quietly(saved(tmp_path, metaimage({"ElementDataFile": "b.raw", "HeaderSize": "-1"}, b""), "b.mhd"))
    )
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.raw")
        assert "no plain file" in refusal_of(saved(tmp_path, nrrd({"data file": "pipe.raw"}, b""), "p.nhdr"))


def refusal_of(path):
    with pytest.raises(InputError) as caught:
        read_image(path)
    return str(caught.value)


def test_claims_that_no_file_can_hold_cost_nothing(tmp_path):
    short = gzip.compress(b"\0" * 1000)
    big = ("8h", 40, (3, 1200, 1200, 1200, 1, 1, 1, 1))
    zeros = gzip.compress(b"\0" * 2**20, 9) * 64  # 64 MiB that a header of 3.4 GB begins
    files = {
        "a.mha": metaimage({"DimSize": "1000 1000 1000"}),
        "b.mha": metaimage({"DimSize": "1000 1000 1000", "CompressedData": "True"}, zlib.compress(b"")),
        "a.nrrd": nrrd({"sizes": "2000 2000 2000"}), "b.nrrd": nrrd({"sizes": "1000 1000 1000"}, short, "gzip"),
        "a.nii": nifti(big), "a.nii.gz": gzip.compress(nifti(big, ("2h", 70, (16, 32)))),
        "bomb.nii.gz": gzip.compress(nifti(big, ("2h", 70, (16, 32)), data=b"")) + zeros,
    }  # fmt: skip
    for name, content in files.items():
        assert "claims" in (text := refusal(saved(tmp_path, content, name))) or "ends before" in text, name
    # A small header before a stream of any length: it isn't unpacked to its end.
    long = gzip.compress(nifti()) + gzip.compress(b"\0" * 2**26, 9)
    assert "more of them follow" in refusal(saved(tmp_path, long, "long.nii.gz"))


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha", "x.img"])
def test_nan_of_every_format(tmp_path, name):
    array = ARRAY.astype(np.float32)
    array[2, 3, 4] = np.nan
    sitk.WriteImage(replace(VOLUME, array=array).sitk(), str(tmp_path / name))
    assert "1 voxels that are NaN" in refusal(tmp_path / name)


def test_latin_1_in_headers_is_kept_as_text(tmp_path):
    name = "Müller"
    raw = nrrd(texts=[("note", "@")]).replace(b"@", name.encode("latin-1"))
    volume = quietly(saved(tmp_path, raw, "a.nrrd"))
    assert volume.metadata["note"] == name
    assert quietly(write_volume(volume, tmp_path / "b.nrrd")).metadata["note"] == name
    descrip = ("80s", 148, (name.encode("latin-1"),))
    assert quietly(saved(tmp_path, nifti(descrip))).metadata["descrip"] == name


FIELDS = {
    "dim_info": ("B", 39, (57,)), "intent_code": ("h", 68, (1001,)), "slice_end": ("h", 120, (4,)),
    "slice_code": ("B", 122, (1,)),
    "xyzt_units": ("B", 123, (2 | 8,)), "cal": ("2f", 124, (400.0, -160.0)), "slice_duration": ("f", 132, (0.1,)),
    "toffset": ("f", 136, (3.5,)), "intent_name": ("16s", 328, (b"a name",)),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_survives(tmp_path, suffix):
    def extension(code, text):
        return struct.pack("<2i", 48, code) + text.ljust(40, b"\0")

    notes = extension(6, b"note of the scanner") + extension(2, b"DICOM: Doe^John")
    raw = nifti(*FIELDS.values(), ("f", 108, (352 + len(notes),)), data=b"")
    path = saved(tmp_path, raw[:348] + b"\1\0\0\0" + notes + ARRAY.tobytes())
    volume = quietly(path)
    assert same(volume)
    out = write_volume(
        volume.with_array(volume.array + np.int16(1)), tmp_path / f"out{suffix}", {"descrip": "SYNTHETIC"}
    )
    result = out.read_bytes() if suffix == ".nii" else gzip.decompress(out.read_bytes())
    for name, (form, offset, _) in FIELDS.items():
        stop = offset + struct.calcsize("<" + form)
        assert result[offset:stop] == raw[offset:stop], name
    assert b"note of the scanner" in result[348:500] and b"Doe^John" not in result
    assert b"SYNTHETIC" in result[148:228] and same(quietly(out), replace(VOLUME, array=ARRAY + 1))
    kept = write_volume(volume, tmp_path / "kept.nii", keep_header=True).read_bytes()
    assert b"Doe^John" in kept
    mask = write_volume(volume.with_array((ARRAY > 0).astype(np.uint8)), tmp_path / "mask.nii").read_bytes()
    assert struct.unpack_from("<2f", mask, 124) == (0, 0)  # the image's display range isn't the mask's


@pytest.mark.parametrize(
    "key", ["0010|0010", "0010,0010", "DICOM.patient.name", "PatientID", "DICOM_0010_0030"]
)
def test_no_dicom_attribute_is_written_unasked(tmp_path, key):
    volume = replace(VOLUME, metadata={key: "Doe^John", "note": "kept"})
    for suffix in (".nrrd", ".mha", ".nii"):
        assert b"Doe^John" not in write_volume(volume, tmp_path / f"x{suffix}").read_bytes()
    kept = quietly(write_volume(volume, tmp_path / "y.nrrd", keep_header=True))
    assert kept.metadata[key] == "Doe^John" and kept.metadata["note"] == "kept"


@pytest.mark.skipif(os.name != "posix", reason="a limit of file sizes is POSIX's")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_full_disk_leaves_no_file(tmp_path, suffix):
    import resource
    import signal

    volume = Volume(np.random.default_rng(0).integers(0, 2**15, (40, 40, 40)).astype(np.int16), SPACING)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(InputError, match="can't write .*full"):
            write_volume(volume, tmp_path / f"x{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not os.listdir(tmp_path)


def test_lengths_in_another_unit_are_refused():
    for factor in (1e3, 1e-3):
        with pytest.raises(InputError, match="another unit"):
            check_image(
                replace(VOLUME, array=np.zeros((50, 50, 50)), spacing=(2 * factor, 3 * factor, 5 * factor))
            )

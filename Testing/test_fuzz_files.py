"""Damaged headers of all formats, at random but the same every time: an error of one line or an image, no crash, no hang."""

import gzip
import resource
import signal
import struct
import sys
import warnings
import zlib
from contextlib import contextmanager

import dicom_tree
import numpy as np
import pydicom
import pytest
from test_volume_formats import ARRAY, RAW, VOLUME, metaimage, nifti, nifti_2, nrrd

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume, read_image, read_labelmap, read_mask

SECONDS = 120  # until a reading is taken to hang; a good one takes hundredths
MEMORY = 1.5e9  # bytes that a reading may take beside what the process has taken before
COUNT, DICOM_COUNT = 150, 25  # damaged files of each kind
WORDS = [
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"1e30",
    b"99999999999",
    b"9" * 400,
    b"",
    b"\xff\xfe",
    b"none",
    b"(",
    b"%d",
    b"LIST",
    b"-0.5",
]


def kinds():
    """Name of each kind to a whole file, and where its voxels begin."""
    packed = gzip.compress(RAW)
    raw = zlib.compress(RAW)
    plain = {
        "a.nii": nifti(), "b.nii": nifti_2(), "c.nrrd": nrrd(), "d.mha": metaimage(),
        "e.nrrd": nrrd(data=packed, encoding="gzip"), "f.mha": metaimage({"CompressedData": "True"}, raw),
        "g.nii.gz": gzip.compress(nifti()),
        "h.seg.nrrd": nrrd(texts=[("Segment0_Name", "a"), ("Segment0_LabelValue", "1"), ("Segment0_Layer", "0")]),
    }  # fmt: skip
    return plain


def damaged(content, rng, header):
    """A copy of a file with some bytes, a number or a word of its header changed, or cut."""
    data = bytearray(content)
    kind = rng.integers(0, 5)
    if kind == 0:
        for at in rng.integers(0, header, rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
    elif kind == 1:
        at = int(rng.integers(0, max(header - 8, 1)))
        value = rng.choice([np.nan, np.inf, -1.0, 0.0, 1e30, 2.0**31, 1e-30])
        form = rng.choice(["<f", "<d", ">f", "<i", "<h"])
        number = float(value) if form[1] in "fd" else int(np.clip(np.nan_to_num(value), -(2**15), 2**15 - 1))
        struct.pack_into(
            form, data, at, min(number, 3e38) if form[1] == "f" and np.isfinite(number) else number
        )
    elif kind == 2:
        lines = bytes(data[:header]).split(b"\n")
        n = int(rng.integers(0, len(lines)))
        parts = lines[n].split(b" ")
        parts[int(rng.integers(0, len(parts)))] = WORDS[rng.integers(0, len(WORDS))]
        lines[n] = b" ".join(parts)
        data[:header] = b"\n".join(lines)
    elif kind == 3:
        del data[int(rng.integers(0, len(data))) :]
    else:
        at = int(rng.integers(0, header))
        data[at:at] = bytes(rng.integers(0, 256, rng.integers(1, 30)).astype(np.uint8))
    return bytes(data)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def in_time(path):
    """A reading that hangs is an error."""

    def late(number, frame):
        raise AssertionError(f"more than {SECONDS} s: {path.read_bytes()[:600]!r}")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def tried(path, like):
    """Read a file as image, mask and labelmap; each is an image of the right kind, or an error of one line."""
    before, good = peak(), 0
    with in_time(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (read_image, lambda p: read_mask(p, like, 1), lambda p: read_labelmap(p, like)):
            try:
                result = read(path)
                array = result.array if isinstance(result, Volume) else result
                assert array.ndim == 3 and np.isfinite(array).all()
                good += 1
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 700
    assert peak() - before < MEMORY  # other tests of this process may have taken more before
    return good


@pytest.mark.parametrize("name", kinds())
def test_damaged_headers(tmp_path, name):
    content = kinds()[name]
    header = len(content) - len(RAW) if len(content) > len(RAW) + 100 else len(content)
    rng, refused = np.random.default_rng(sum(name.encode())), 0
    path = tmp_path / name
    for _ in range(COUNT):
        path.write_bytes(damaged(content, rng, header))
        refused += tried(path, VOLUME) == 0
    assert refused > COUNT // 5


def dicom_objects(folder):
    """A slice, a SEG and an RTSTRUCT of one series, as bytes; and its image."""
    slices = dicom_tree.ct_series(folder / "ct", "x", dicom_tree.image()[:3])
    mask = np.zeros((3, *dicom_tree.SHAPE[1:]), bool)
    mask[:, 10:20, 10:20] = True
    dicom_tree.rtstruct(folder / "rt/a.dcm", slices, {"GTV": mask})
    found = {"slice": (folder / "ct/1-001.dcm").read_bytes(), "rtstruct": (folder / "rt/a.dcm").read_bytes()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dicom_tree.seg(folder / "seg/a.dcm", slices, {"GTV": mask})
        found["seg"] = (folder / "seg/a.dcm").read_bytes()
    except ImportError:
        pass
    return found, read_image(folder / "ct")


def test_damaged_dicom(tmp_path):
    found, like = dicom_objects(tmp_path)
    rng = np.random.default_rng(4)
    path = tmp_path / "x.dcm"
    for content in found.values():
        header = len(content) if len(content) < 5000 else len(content) - 2000
        for _ in range(DICOM_COUNT):
            path.write_bytes(damaged(content, rng, header))
            tried(path, like)


def test_dicom_with_odd_values(tmp_path):
    """Attributes of a whole file set to what their type allows and no scanner writes."""
    found, like = dicom_objects(tmp_path)
    path, rng = tmp_path / "x.dcm", np.random.default_rng(6)
    odd = {
        "DS": ["", "0", "-1", "1e30", "1e-30", "nan", "abc", "1\\2\\3"], "IS": ["", "0", "-5", "99999999", "x"],
        "US": [0, 1, 7, 65535], "CS": ["", "RGB", "ODD", "LOCALIZER"], "UI": ["", "1.2.3"], "LO": ["", "\u00fc" * 40], "SH": [""],
    }  # fmt: skip
    for content in found.values():
        path.write_bytes(content)
        whole = pydicom.dcmread(path)
        elements = [e for e in whole.iterall() if e.VR in odd and e.tag.group != 2]
        for _ in range(DICOM_COUNT):
            path.write_bytes(content)
            ds = pydicom.dcmread(path)
            same = [e for e in ds.iterall() if e.VR in odd and e.tag.group != 2]
            n = int(rng.integers(0, len(elements)))
            options = odd[same[n].VR]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    same[n].value = options[rng.integers(0, len(options))]
                    ds.save_as(path)
                except (ValueError, TypeError, OverflowError):
                    continue  # pydicom itself doesn't write it
            tried(path, like)


def test_the_whole_files_are_read(tmp_path):
    """The fuzzed files are good ones before they are damaged."""
    for name, content in kinds().items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_image(tmp_path / name).array, ARRAY), name

"""A CT series of a generated chest for tests of DICOM, its tumour, and what is said where a file is refused."""

import dicom_tree
import pydicom
import pytest

from TumorSynthLib.errors import InputError
from TumorSynthLib.volume import Volume, read_image, read_mask

ARRAY = dicom_tree.image()
SPACING, ORIGIN, SHAPE = dicom_tree.SPACING, dicom_tree.ORIGIN, dicom_tree.SHAPE
VOLUME = Volume(ARRAY, SPACING, ORIGIN)
TUMOUR = dicom_tree.ball((5, 14, 12), 8.0)


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

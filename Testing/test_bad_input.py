"""Every wrong input gets one clear error that says what is wrong and what to do, before heavy work, and writes nothing."""

import json
import os
import sys
from dataclasses import replace

import editor_case
import numpy as np
import pytest
import SimpleITK as sitk

from TumorSynthLib import cli
from TumorSynthLib.editor import Editor, EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.texture.painter import Painter
from TumorSynthLib.volume import Volume, read_image, write_volume


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return editor_case.model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A model of CT and T1."""
    mapping = {"kind": "asinh", "center": 0.0, "scale": 100.0}
    intensity = {
        "CT": {**mapping, "unit": "HU", "range": [-1024, 3071]},
        "T1": {**mapping, "unit": "grey level", "range": [0, 3000]},
    }
    folder = tmp_path_factory.mktemp("models") / "two"
    return editor_case.model(folder, id="two", modalities=("CT", "T1"), intensity=intensity)


@pytest.fixture
def attempt(bundle, tmp_path, capsys, monkeypatch):
    """Try an edit on an image and mask; asserts that it is refused with exit code 2 and one line, which is returned.

    The network must not have been loaded: wrong input is found before heavy work.
    """

    def call(image, mask, *more, command="synthesize", model=None, code=2):
        paths = []
        for name, item in (("image", image), ("mask", mask)):
            path = item
            if isinstance(item, sitk.Image):
                path = tmp_path / f"{name}.nrrd"
                sitk.WriteImage(item, str(path))
            elif isinstance(item, Volume):
                path = tmp_path / f"{name}.nrrd"
                write_volume(item, path)
            paths.append(str(path))
        monkeypatch.setattr(Painter, "load", lambda *a: pytest.fail("the network was loaded"))
        before = sorted(tmp_path.rglob("*"))
        folder = (model or bundle).folder
        got = cli.main(
            [command, *paths, "--model", str(folder), "--out", str(tmp_path / "out.nii.gz"), *map(str, more)]
        )
        out, err = capsys.readouterr()
        assert got == code and not out and sorted(tmp_path.rglob("*")) == before
        assert len(err.splitlines()) == 1 and "Traceback" not in err
        return err.strip()

    return call


@pytest.fixture
def case():
    volume, mask = editor_case.ct()
    return volume, volume.with_array(mask.astype(np.uint8))


def with_values(volume, change):
    array = volume.array.astype(np.float32)
    return volume.with_array(change(array))


def test_missing_file(attempt, case):
    assert "there is no file" in attempt("nowhere.nii.gz", case[1])


def test_not_an_image(attempt, case, tmp_path):
    path = tmp_path / "text.nii.gz"
    path.write_text("hello")
    assert "can't read" in attempt(path, case[1])


def test_cut_file(attempt, case, tmp_path):
    path = tmp_path / "cut.nii.gz"
    write_volume(case[0], path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "can't read" in attempt(path, case[1])


def test_empty_mask(attempt, case):
    assert "is empty" in attempt(case[0], case[1].with_array(np.zeros_like(case[1].array)))


def test_mask_outside_the_image(attempt, case):
    away = Volume(case[1].array, case[1].spacing, (500.0, 500.0, 500.0))
    assert "lies outside the image" in attempt(case[0], away)


def test_mask_partly_outside_the_image(attempt, case):
    shifted = Volume(case[1].array, case[1].spacing, tuple(np.array(case[1].origin) + (20, 0, 0)))
    assert "lies outside the image" in attempt(case[0], shifted)


def test_mask_of_other_geometry_is_resampled(bundle, case, tmp_path, capsys):
    fine = sitk.Resample(
        case[1].sitk(), [2 * n for n in case[1].size], sitk.Transform(), sitk.sitkNearestNeighbor, case[1].origin,
        [s / 2 for s in case[1].spacing], case[1].direction,
    )  # fmt: skip
    write_volume(case[0], tmp_path / "i.nrrd")
    sitk.WriteImage(fine, str(tmp_path / "m.nrrd"))
    assert cli.main(["remove", str(tmp_path / "i.nrrd"), str(tmp_path / "m.nrrd"), "--model", str(bundle.folder), "--out",
                     str(tmp_path / "o.nrrd"), "--quiet"]) == 0  # fmt: skip
    said = [line for line in capsys.readouterr().err.splitlines() if "another grid than the image" in line]
    assert len(said) == 1 and said[0].startswith("warning: ")


@pytest.mark.parametrize("keep", [False, True])
def test_dicom_attributes_are_kept_on_request_only(bundle, case, tmp_path, keep):
    named = replace(case[0], metadata={"0010|0010": "Doe^John", "note": "of the scan"})
    write_volume(named, tmp_path / "i.nrrd", keep_header=True)
    write_volume(case[1], tmp_path / "m.nrrd")
    command = [
        "remove",
        str(tmp_path / "i.nrrd"),
        str(tmp_path / "m.nrrd"),
        "--model",
        str(bundle.folder),
        "--quiet",
    ]
    assert cli.main([*command, *(["--keep-header"] if keep else []), "--out", str(tmp_path / "o.nrrd")]) == 0
    fields = read_image(tmp_path / "o.nrrd").metadata
    assert ("0010|0010" in fields) == keep and fields["note"] == "of the scan" and "descrip" in fields
    assert "Doe" not in (tmp_path / "o.json").read_text(encoding="utf-8")


def test_several_labels(attempt, case):
    labels = case[1].array.copy()
    labels[:10][labels[:10] > 0] = 4
    assert "several labels (1, 4): choose one with --label" in attempt(case[0], case[1].with_array(labels))
    assert "has no label 9" in attempt(case[0], case[1].with_array(labels), "--label", 9)


def test_the_image_in_place_of_the_mask(attempt, case):
    values = case[0].with_array(np.arange(case[0].array.size, dtype=np.int32).reshape(case[0].array.shape))
    assert "looks like an image: give the tumour's mask" in attempt(case[0], values)


def test_folder_without_dicom(tmp_path, capfd):
    with pytest.raises(InputError, match="holds no DICOM image"):
        read_image(tmp_path)
    assert not capfd.readouterr().err  # ITK warns of its own accord


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_a_file_where_a_folder_should_be(attempt, case, tmp_path, option):
    (tmp_path / "file").write_text("")
    name = tmp_path / "file" / "new" / ("o.nrrd" if option == "--out" else "")
    assert f"{tmp_path / 'file'} is a file; choose another folder" in attempt(*case, option, name)


def test_folder_that_refuses_files(attempt, case, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) != str(tmp_path / "locked")
    )  # root may write anywhere
    assert "can't be written to; choose another folder" in attempt(
        *case, "--out", tmp_path / "locked" / "o.nrrd"
    )


def test_nan(attempt, case):
    def spoil(array):
        array[3, 3, 3] = np.nan
        return array

    assert "NaN" in attempt(with_values(case[0], spoil), case[1])


def test_infinite(attempt, case):
    def spoil(array):
        array[3, 3, 3] = np.inf
        return array

    assert "infinite" in attempt(with_values(case[0], spoil), case[1])


def test_four_dimensions(attempt, case):
    assert "4-D" in attempt(sitk.JoinSeries(case[0].sitk(), case[0].sitk()), case[1])


def test_two_dimensions(attempt, case):
    assert "2-D" in attempt(case[0].sitk()[:, :, 5], case[1])


def test_colour(attempt, case):
    image = case[0].sitk()
    assert "colour" in attempt(sitk.Compose(image, image, image), case[1])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: np.clip(a + 1100, 0, None), "air at -1000"),  # MR, or CT with another offset
        (lambda a: a / 3000, "air at -1000"),
        (lambda a: a * 1000, "can't be HU"),
        (lambda a: a * 0 + 7, "all voxels have the value 7"),
    ],
)
def test_wrong_modality_for_ct(attempt, case, change, message):
    shown = attempt(with_values(case[0], change), case[1])
    assert "doesn't look like CT" in shown and message in shown


def test_wrong_modality_for_mr(attempt, case, two):
    dim = with_values(case[0], lambda a: np.clip(a + 1000, 0, None) / 5000)
    assert "rescale its intensities" in attempt(dim, case[1], "--modality", "T1", model=two)
    assert "looks like none of CT, T1" in attempt(dim, case[1], model=two)


def test_modality_is_found(two, case):
    editor = Editor(two)
    assert editor.modality(case[0]) == "CT"
    mr = with_values(case[0], lambda a: np.clip(a + 1000, 0, None))
    assert editor.modality(mr) == "T1"
    wide = np.zeros((80, 160, 160), np.float32)  # most of it background
    wide[: mr.array.shape[0], : mr.array.shape[1], : mr.array.shape[2]] = mr.array
    assert editor.modality(Volume(wide, mr.spacing)) == "T1"


def test_unknown_modality(attempt, case):
    assert "works on CT, not on 'PET'" in attempt(case[0], case[1], "--modality", "PET", code=3)


def test_spacing_too_coarse(attempt, case):
    def coarse(volume):
        return Volume(volume.array, (10.0, 10.0, 20.0), volume.origin)

    assert "too coarse" in attempt(coarse(case[0]), coarse(case[1]))


def test_larger_than_supported(attempt, case):
    def huge(volume):
        return Volume(volume.array, (7.9, 7.9, 15.8), volume.origin)

    full = huge(case[1]).with_array(np.ones_like(case[1].array))
    full.array[0, 0, 0] = 0
    from TumorSynthLib import suitability

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suitability, "MAX_VOXELS", 1_000_000)
        shown = attempt(huge(case[0]), full)
    assert "larger than supported" in shown and "million" in shown


def test_mask_of_the_whole_image(attempt, case):
    assert "covers the whole image" in attempt(case[0], case[1].with_array(np.ones_like(case[1].array)))


def test_mask_of_few_voxels(attempt, case):
    few = np.zeros_like(case[1].array)
    few[10, 20, 18:20] = 1
    assert "too few" in attempt(case[0], case[1].with_array(few))


@pytest.mark.parametrize(
    "setting, message",
    [
        ("original_glcm_Kontrast=3", "Did you mean original_glcm_Contrast"),
        ("contrst=3", "Did you mean contrast"),
        ("shininess=3", "Unknown feature 'shininess'"),
        ("contrast=-1", "impossible: the feature is always at least 0"),
        ("correlation=3", "impossible: the feature is always between -1 and 1"),
        ("original_firstorder_Uniformity=1.5", "between 0 and 1"),
        ("intensity_sd=-5", "impossible"),
        ("contrast=nan", "finite number"),
        ("contrast=inf", "finite number"),
        ("mean_intensity=1000000", "stores -32768 to 32767"),
        ("volume_ml=3", "where the mask stays as it is"),
        ("original_gldm_DependenceEntropy=3", "measured, but not asked for"),
    ],
)
def test_wrong_feature(attempt, case, setting, message):
    assert message in attempt(case[0], case[1], "--set", setting)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not JSON"),
        ("[1, 2]", "holds no features"),
        ("{}", "holds no features"),
        (json.dumps({"features": {"contrast": "high"}}), "expected a number"),
        (json.dumps({"features": {"shininess": 1.0}}), "Unknown feature"),
    ],
)
def test_wrong_features_file(attempt, case, tmp_path, content, message):
    (tmp_path / "f.json").write_text(content)
    assert message in attempt(case[0], case[1], "--features", tmp_path / "f.json")


def test_missing_features_file(attempt, case):
    shown = attempt(*case, "--features", "nowhere.json")
    assert "there is no file nowhere.json, which should be a features file" in shown


@pytest.mark.parametrize("damage", ["cut", "bit", "missing", "manifest"])
def test_damaged_model(case, tmp_path, capsys, damage):
    bundle = editor_case.model(tmp_path / "bad", id="bad")
    weights = bundle.folder / "network.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "bit":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
    elif damage == "missing":
        weights.unlink()
    else:
        (bundle.folder / "bundle.json").write_text('{"format": 1}')
    write_volume(case[0], tmp_path / "i.nrrd")
    write_volume(case[1], tmp_path / "m.nrrd")
    before = sorted(tmp_path.rglob("*"))
    code = cli.main(["remove", str(tmp_path / "i.nrrd"), str(tmp_path / "m.nrrd"), "--model", str(bundle.folder), "--out",
                     str(tmp_path / "o.nrrd"), "--engine", "bridge"])  # fmt: skip
    err = capsys.readouterr().err
    assert code == 3 and len(err.splitlines()) == 1 and ("damaged" in err or "get the model again" in err)
    assert sorted(tmp_path.rglob("*")) == before


def test_unfit_but_possible_is_a_warning(bundle):
    editor = Editor(bundle)
    volume, mask = editor_case.ct(spacing=(2.5, 2.5, 2.0))
    mask = mask.copy()
    mask[10, 20, :18] = True
    warnings = editor.remove(volume, mask, EditRequest(engine="bridge")).warnings
    assert any("coarser than the model's" in w for w in warnings)
    assert any("touches the border" in w for w in warnings)


def test_editor_checks_too(bundle):
    editor = Editor(bundle)
    volume, mask = editor_case.ct()
    with pytest.raises(InputError, match="read_mask"):
        editor.remove(volume, mask[1:])
    with pytest.raises(InputError, match="is empty"):
        editor.remove(volume, np.zeros_like(mask))


def test_wrong_input_needs_no_torch(bundle, case, tmp_path):
    import subprocess

    write_volume(case[0].with_array(np.abs(case[0].array)), tmp_path / "i.nrrd")
    write_volume(case[1], tmp_path / "m.nrrd")
    code = (
        "import sys; from TumorSynthLib.cli import main; "
        f"rc = main(['remove', {str(tmp_path / 'i.nrrd')!r}, {str(tmp_path / 'm.nrrd')!r}, '--model', {str(bundle.folder)!r}, "
        f"'--out', {str(tmp_path / 'o.nrrd')!r}]); print(rc, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cli.__file__.rsplit("TumorSynthLib", 1)[0],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["2", "False"], done

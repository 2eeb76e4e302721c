"""A series: its values, how its steps hang together, its pictures and files; and the commands shape, reshape and insert."""

import json
import re
import struct
import sys
import zlib

import editor_case
import numpy as np
import pytest
import shape_case
import SimpleITK as sitk

from TumorSynthLib import cli, series
from TumorSynthLib.console import Bar
from TumorSynthLib.editor import Editor
from TumorSynthLib.errors import InputError
from TumorSynthLib.pace import Pace
from TumorSynthLib.png import encode_apng, encode_png
from TumorSynthLib.provenance import request_of
from TumorSynthLib.requests import EditRequest
from TumorSynthLib.series_figures import series_pictures, there_and_back

VOLUME, CONTRAST, MEAN = "original_shape_MeshVolume", "original_glcm_Contrast", "original_firstorder_Mean"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def editor(folder):
    return Editor(shape_case.model(folder / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def unguided(editor):
    """Random weights draw nothing of what is asked; put right, two draws share little."""
    made = Editor(editor.bundle, device="cpu")
    made.load().guided = False
    return made


@pytest.fixture(scope="module")
def case():
    return editor_case.ct()


@pytest.fixture(scope="module")
def growth(unguided, case):
    return unguided.series(
        *case, "volume_ml", ["0.6x", "1x", "1.4x"], EditRequest(solve=False, seed=2, engine="bridge")
    )


def test_values_are_numbers_or_multiples():
    own = {VOLUME: 2000.0, "original_firstorder_Variance": 100.0}
    assert series.absolute("volume_ml", ["0.5x", 3, "1e0", "2×"], own) == [1.0, 3.0, 1.0, 4.0]
    assert series.absolute("intensity_sd", ["2x"], own) == [20.0]
    for values in ([], ["much"], ["nanx"], ["x"], [float("inf")], list(range(99))):
        with pytest.raises(InputError):
            series.checked("volume_ml", values)
    with pytest.raises(InputError, match="Unknown feature"):
        series.checked("shininess", [1])
    with pytest.raises(InputError, match="plain numbers"):
        series.absolute("contrast", ["2x"], own)


def test_growth_is_one_tumour_growing(case, growth):
    volume, mask = case
    own = growth[0].before[VOLUME]
    for result, factor in zip(growth, (0.6, 1.0, 1.4)):
        assert result.reached[VOLUME] == pytest.approx(factor * own, rel=0.01)
        assert not (result.volume.array != volume.array)[~(mask | result.mask)].any()
    assert np.array_equal(growth[1].mask, mask)
    for small, large in zip(growth, growth[1:]):
        assert (
            small.mask & ~large.mask
        ).sum() < 0.01 * small.mask.sum()  # nothing that was tumour is not any more
        both = small.mask & large.mask
        assert np.corrcoef(small.volume.array[both], large.volume.array[both])[0, 1] > 0.2


def test_every_step_repeats_alone(unguided, case, growth):
    result = growth[2]
    assert result.provenance["operation"] == "reshape"
    entry = result.provenance["series"]
    assert (entry["feature"], entry["named"], entry["step"], entry["steps"]) == (VOLUME, "volume_ml", 3, 3)
    again = unguided.reshape(*case, EditRequest(**request_of(json.loads(json.dumps(result.provenance)))))
    assert np.array_equal(again.volume.array, result.volume.array)


def test_a_texture_series_keeps_mask_and_mean(editor, case):
    volume, mask = case
    before = editor.extract(volume, mask)
    stages = []
    found = editor.series(
        volume,
        mask,
        "contrast",
        ["0.6x", "1.5x"],
        None,
        lambda stage, fraction: stages.append((stage, fraction)),
    )
    reached = [result.reached[CONTRAST] / before[CONTRAST] for result in found]
    assert reached == pytest.approx([0.6, 1.5], rel=0.1)
    for result in found:
        assert np.array_equal(result.mask, mask) and abs(result.reached[MEAN] - before[MEAN]) < 1
        assert result.provenance["operation"] == "synthesize"
    assert np.corrcoef(found[0].volume.array[mask], found[1].volume.array[mask])[0, 1] > 0.5
    assert [s for s in stages if s[0] == "step"] == [("step", 0.0), ("step", 0.5)]


def test_what_a_step_asks_for():
    features = series.step_features(CONTRAST, "contrast", 3.0, {"glcm_Contrast": 9.0, "skewness": 1.0}, 20.0)
    assert features == {"skewness": 1.0, MEAN: 20.0, "contrast": 3.0}
    assert series.step_features(MEAN, "mean_intensity", 5.0, {}, 20.0) == {"mean_intensity": 5.0}
    assert MEAN not in series.step_features(CONTRAST, "contrast", 3.0, {"p90": 70.0}, 20.0)


def test_table_has_a_row_a_step(growth):
    lines = series.table_text("volume_ml", growth).splitlines()
    head = lines[0].split(",")
    assert head[:2] == ["step", "volume_ml"] and VOLUME in head and CONTRAST in head and len(lines) == 4
    row = dict(zip(head, lines[3].split(",")))
    assert row["step"] == "3" and float(row[VOLUME]) == pytest.approx(growth[2].reached[VOLUME], rel=1e-6)


def test_progress_of_the_whole_never_goes_back():
    pace = Pace.of("series", EditRequest(), 4)
    told = [pace.at(*report)[0] for report in (
        ("prepare", 0.0), ("shape", 1.0), ("step", 0.0), ("texture", 1.0), ("step", 0.5), ("texture", 0.1), ("measure", 1.0)
    )]  # fmt: skip
    assert told == sorted(told) and told[4] == 0.5 and told[-1] == 0.75


@pytest.mark.parametrize("edit, options", [
    ("reshape", {"mass_effect": 20.0}), ("synthesize", {"samples": 3}), ("move", {}), ("remove", {}),
    ("insert", {"solve": False}),
])  # fmt: skip
def test_the_shell_s_bar_never_goes_back(monkeypatch, edit, options):
    """Through stages that come twice, as tissue is drawn for the hole and for the tumour, and each solve begins anew."""
    shown = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("TumorSynthLib.console._draw", shown.append)
    bar = Bar()
    bar.pace = Pace.of(edit, EditRequest(**options))
    for stage in (
        "prepare",
        "shape",
        "model",
        "texture",
        "mass effect",
        "model",
        "texture",
        "solve",
        "solve",
        "measure",
    ):
        for fraction in (0.0, 0.2, 1.0):
            bar(stage, fraction)
    percent = [int(re.search(r"(\d+)%", text).group(1)) for text in shown if "%" in text]
    assert percent == sorted(percent) and percent[-1] == 100


def chunks(data):
    """(kind, content) of a PNG, each checked."""
    at = 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + content)
        yield kind, content
        at += 12 + size


def unfiltered(data, height, width):
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + 3 * width)
    assert (rows[:, 0] == 2).all()
    return np.cumsum(rows[:, 1:], axis=0, dtype=np.uint64).astype(np.uint8).reshape(height, width, 3)


def test_animation_holds_all_frames():
    frames = [np.random.default_rng(i).integers(0, 256, (7, 5, 3), dtype=np.uint8) for i in range(3)]
    found = list(chunks(encode_apng(frames, 250)))
    assert [kind for kind, _ in found] == [
        b"IHDR",
        b"acTL",
        b"fcTL",
        b"IDAT",
        b"fcTL",
        b"fdAT",
        b"fcTL",
        b"fdAT",
        b"IEND",
    ]
    assert struct.unpack(">II", found[1][1]) == (3, 0)
    numbers = [struct.unpack(">I", c[:4])[0] for kind, c in found if kind in (b"fcTL", b"fdAT")]
    assert numbers == [0, 1, 2, 3, 4]
    assert struct.unpack(">HH", found[2][1][20:24]) == (250, 1000)
    pictures = [found[3][1], found[5][1][4:], found[7][1][4:]]
    assert all(np.array_equal(unfiltered(data, 7, 5), frame) for data, frame in zip(pictures, frames))
    assert dict(chunks(encode_png(frames[0])))[b"IDAT"] == found[3][1]
    with pytest.raises(ValueError, match="one shape"):
        encode_apng([frames[0], frames[0][:4]])


def test_pictures_show_the_growth(case, growth):
    volume, mask = case
    frames, sheet = series_pictures(volume, growth, mask, "CT", [1.2, 2.0, 2.9])
    assert len(frames) == 3 and len({frame.shape for frame in frames}) == 1 and sheet.shape[2] == 3
    assert len(there_and_back(frames)) == 4 and len(there_and_back(frames[:1])) == 1

    def outlines(picture):
        return int(((picture[..., 0] > 250) & (picture[..., 2] < 90)).sum())

    lengths = [outlines(frame) for frame in frames]
    assert lengths[0] < lengths[1] < lengths[2] and abs(outlines(sheet) - sum(lengths)) < 0.02 * sum(lengths)


@pytest.fixture
def run(capsys, monkeypatch, folder, editor):
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(folder))

    def call(*args):
        code = cli.main([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return editor_case.files(tmp_path_factory.mktemp("data"))


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_series_command_writes_all(run, data, tmp_path):
    out, report = tmp_path / "out", tmp_path / "report"
    code, shown, err = run(
        "series", *data, "--model", "tiny", "--device", "cpu", "--feature", "volume_ml", "--values", "1x,1.3x",
        "--no-solve", "--out", out, "--report", report, "--json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(shown)
    assert [row["step"] for row in told["table"]] == [1, 2] and len(told["steps"]) == 2
    names = {f"step-0{i}{end}" for i in (1, 2) for end in (".nii.gz", ".json", "-mask.nii.gz")}
    assert {p.name for p in out.iterdir()} == names | {"series.png", "contact-sheet.png", "features.csv"}
    masks = [voxels(out / f"step-0{i}-mask.nii.gz") for i in (1, 2)]
    assert masks[1].sum() == pytest.approx(1.3 * masks[0].sum(), rel=0.03)
    record = json.loads((out / "step-02.json").read_text(encoding="utf-8"))
    assert record["synthetic"] is True and record["series"]["step"] == 2
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") > 2 and "Series of volume_ml" in page


def test_shape_command(run, data, tmp_path):
    out = tmp_path / "m.nii.gz"
    code, shown, err = run(
        "shape", "--model", "tiny", "--set", "volume_ml=1", "--spacing", "1", "--out", out, "--json"
    )
    assert code == 0, err
    told = json.loads(shown)
    assert set(told["outputs"]) == {"mask", "sidecar"} and told["reached"][VOLUME] == pytest.approx(
        1000, rel=0.02
    )
    assert abs(voxels(out).sum() - 1000) < 40 and sitk.ReadImage(str(out)).GetSpacing() == (1, 1, 1)
    again = tmp_path / "again.nii.gz"
    assert run("shape", "--repeat", tmp_path / "m.json", "--out", again)[0] == 0
    assert np.array_equal(voxels(out), voxels(again))
    at = sitk.ReadImage(str(data[0])).TransformIndexToPhysicalPoint((16, 24, 9))
    place = ["--like", data[0], "--at", *at, "--report", tmp_path / "report"]
    code, _, err = run(
        "shape", "--model", "tiny", "--set", "volume_ml=1", *place, "--out", tmp_path / "on.nii"
    )
    assert code == 0, err
    assert (
        voxels(tmp_path / "on.nii").shape == voxels(data[0]).shape
        and (tmp_path / "report" / "report.html").is_file()
    )


def test_insert_and_reshape_commands(run, data, tmp_path):
    at = sitk.ReadImage(str(data[0])).TransformIndexToPhysicalPoint((16, 24, 9))
    place = ["--at", *at, "--set", "volume_ml=1.1", "mean_intensity=10", "--no-solve"]
    out, mask = tmp_path / "i.nii.gz", tmp_path / "im.nii.gz"
    code, shown, err = run(
        "insert",
        data[0],
        "--model",
        "tiny",
        *place,
        "--out",
        out,
        "--out-mask",
        mask,
        "--report",
        tmp_path / "r",
    )
    assert code == 0 and "volume_ml" in shown, err
    changed, new = voxels(out) != voxels(data[0]), voxels(mask) > 0
    assert changed[new].any() and not changed[~new].any() and (tmp_path / "r" / "report.html").is_file()
    args = ["--out", tmp_path / "j.nii.gz", "--out-mask", tmp_path / "jm.nii.gz"]
    assert run("insert", data[0], "--repeat", tmp_path / "i.json", *args)[0] == 0
    assert np.array_equal(voxels(out), voxels(tmp_path / "j.nii.gz"))
    args = [
        "--set",
        "volume_ml=2.6",
        "--no-solve",
        "--mass-effect",
        "8",
        "--out",
        tmp_path / "k.nii",
        "--out-mask",
        tmp_path / "km.nii",
    ]
    code, shown, err = run("reshape", *data, "--model", "tiny", *args, "--json")
    told = json.loads(shown)
    assert code == 0 and told["provenance"]["mass_effect"]["margin_mm"] == 8 and "mask" in told["outputs"]


WRONG = [
    (["shape", "--model", "tiny", "--out", "m.nii", "--set", "sphericity=1.4"], "at most 1"),
    (["shape", "--model", "tiny", "--out", "m.nii", "--like", "IMAGE"], "--like needs --at"),
    (["shape", "--model", "tiny", "--out", "m.nii", "--spacing", "1", "2"], "one number or three"),
    (
        [
            "shape",
            "--model",
            "tiny",
            "--out",
            "m.nii",
            "--spacing",
            "1",
            "--like",
            "IMAGE",
            "--at",
            "0",
            "0",
            "0",
        ],
        "exclude",
    ),
    (["shape", "--model", "tiny", "--out", "m.nii", "--nearest"], "--like IMAGE"),
    (["shape", "--out", "m.nii"], "a mask alone shows no organ"),
    (["insert", "IMAGE", "--model", "tiny", "--out", "x.nii", "--out-mask", "y.nii"], "--at X Y Z is needed"),
    (
        [
            "insert",
            "IMAGE",
            "--model",
            "tiny",
            "--at",
            "0",
            "-500",
            "0",
            "--out",
            "x.nii",
            "--out-mask",
            "y.nii",
        ],
        "nearest place",
    ),
    (
        ["reshape", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--out-mask", "y.nii"],
        "say which shape",
    ),
    (
        [
            "series",
            "IMAGE",
            "MASK",
            "--model",
            "tiny",
            "--feature",
            "volume_ml",
            "--values",
            "many",
            "--out",
            "d",
        ],
        "no value",
    ),
    (
        [
            "series",
            "IMAGE",
            "MASK",
            "--model",
            "tiny",
            "--feature",
            "volume_ml",
            "--values",
            "1x",
            "--out",
            "IMAGE",
        ],
        "is a file",
    ),
]


@pytest.mark.parametrize("args, message", WRONG, ids=[" ".join(a)[:70] for a, _ in WRONG])
def test_wrong_use_is_one_line_and_code_2(run, data, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    names = {"IMAGE": data[0], "MASK": data[1]}
    code, out, err = run(*(names.get(a, a) for a in args))
    assert code == 2 and not out and len(err) == 1 and message in err[0]
    assert list(tmp_path.iterdir()) == []

"""The demonstration: its download is checked, its phantom is said to be one, it writes what it says."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import editor_case
import numpy as np
import pytest
import shape_case

from TumorSynthLib import cli, samples
from TumorSynthLib.phantom import chest
from TumorSynthLib.provenance import is_marked, read_sidecar
from TumorSynthLib.volume import read_image

CONTENT = {name: f"content of {name}".encode() for name in samples.FILES}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(samples.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive(path: Path, members: dict[str, bytes] = CONTENT, kind=tarfile.REGTYPE, extra=()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in [*((samples.FOLDER_IN_ARCHIVE + n, d) for n, d in members.items()), *extra]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            entry.linkname = "/etc/passwd"
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def known(monkeypatch):
    """The hashes of CONTENT in place of the real ones."""
    monkeypatch.setattr(samples, "FILES", {n: hashlib.sha256(d).hexdigest() for n, d in CONTENT.items()})


def test_only_the_named_files_are_taken(known, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    bad = [("../evil", b"x"), ("/tmp/evil", b"x"), (samples.FOLDER_IN_ARCHIVE + "../../../evil", b"x")]
    samples.unpack(archive(tmp_path / "a.tar.gz", extra=bad), folder)
    assert {p.name for p in folder.iterdir()} == set(CONTENT)
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar.gz", "out"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_are_refused(known, tmp_path, kind):
    with pytest.raises(samples.Unavailable, match="not a plain file"):
        samples.unpack(archive(tmp_path / "a.tar.gz", kind=kind), tmp_path)


def test_other_content_is_refused(known, tmp_path):
    with pytest.raises(samples.Unavailable, match="SHA-256"):
        samples.unpack(archive(tmp_path / "a.tar.gz", {**CONTENT, "lung1_image.nrrd": b"other"}), tmp_path)
    with pytest.raises(samples.Unavailable, match="has no lung1_label"):
        samples.unpack(
            archive(tmp_path / "b.tar.gz", {"lung1_image.nrrd": CONTENT["lung1_image.nrrd"]}), tmp_path
        )


def pip_that(result, monkeypatch, archive_path=None, stderr=""):
    """Replace pip; returns the commands it was called with."""
    calls = []

    def fake(command, **options):
        calls.append(command)
        assert not options.get("shell")
        if archive_path is not None:
            folder = Path(command[command.index("--dest") + 1])
            (folder / archive_path.name).write_bytes(archive_path.read_bytes())
        if isinstance(result, Exception):
            raise result
        return subprocess.CompletedProcess(command, result, "", stderr)

    monkeypatch.setattr(samples.subprocess, "run", fake)
    return calls


def test_download_is_asked_of_pip_once(known, tmp_path, cache, monkeypatch):
    source = archive(tmp_path / "a.tar.gz")
    monkeypatch.setattr(samples, "ARCHIVE_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    calls = pip_that(0, monkeypatch, source)
    folder = samples.lungs()
    assert samples.complete(folder) and folder.parent == cache
    assert samples.lungs() == folder and len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"] and "--require-hashes" in calls[0]
    (folder / "lung1_image.nrrd").write_bytes(b"damaged")
    samples.lungs()
    assert len(calls) == 2 and samples.complete(folder)
    assert [p.name for p in cache.iterdir()] == [folder.name]


def test_wrong_archive_is_not_opened(known, tmp_path, monkeypatch):
    pip_that(0, monkeypatch, archive(tmp_path / "a.tar.gz"))
    with pytest.raises(samples.Unavailable, match="isn't the expected file"):
        samples.lungs()


@pytest.mark.parametrize(
    "result, stderr, message",
    [
        (1, "WARNING: retrying\nERROR: No matching distribution found for it\n", "No matching distribution"),
        (subprocess.TimeoutExpired("pip", 1), "", "longer than"),
    ],
)
def test_failing_download_says_why(monkeypatch, result, stderr, message):
    pip_that(result, monkeypatch, stderr=stderr)
    with pytest.raises(samples.Unavailable, match=message):
        samples.lungs()


def test_phantom_is_reproducible_and_has_a_tumour():
    (a, mask), (b, _) = chest(1), chest(1)
    assert np.array_equal(a.array, b.array) and a.array.dtype == np.int16
    assert 1000 < mask.sum() < 10000 and -60 < a.array[mask].mean() < 40
    assert not np.array_equal(a.array, chest(2)[0].array)


@pytest.fixture
def small(monkeypatch):
    """A case of two seconds in place of the phantom."""
    from TumorSynthLib import demo

    volume, mask = editor_case.ct()
    to = tuple(volume.points(np.array([16, 24, 9])))
    case = demo.Case("generated phantom, not a patient", False, volume, mask, editor_case.ct(3), to)
    monkeypatch.setattr(demo, "generated", lambda: case)
    monkeypatch.setattr(demo, "VALUES", ("1x", "1.4x"))


def test_demo_without_network_uses_the_phantom_and_says_so(tmp_path, capsys, monkeypatch, small):
    shape_case.model(tmp_path / "tiny")
    pip_that(1, monkeypatch, stderr="ERROR: Could not find a version")
    out = tmp_path / "out"
    code = cli.main(["demo", "--out", str(out), "--model", str(tmp_path / "tiny"), "--device", "cpu"])
    shown, err = capsys.readouterr()
    assert code == 0 and "GENERATED PHANTOM" in err and "Could not find a version" in err
    assert "not a patient" in shown and str(out / "report.html") in shown and "not for diagnosis" in shown
    assert (shown + err).count("the donor lends its look") == 1  # the bar says it before it is drawn
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "not a patient" in page
    names = [
        "removed",
        "a-donors-tissue",
        "higher-contrast",
        "lower-contrast",
        "moved",
        "twice-the-volume",
        "smaller",
        "inserted",
    ]
    steps = ["series-1", "series-2"]
    for name in names:
        assert is_marked(read_image(out / f"{name}.nii.gz").metadata), name
        assert read_sidecar(out / f"{name}.json")["synthetic"] is True
    assert not is_marked(read_image(out / "original.nii.gz").metadata)
    assert {p.name for p in out.glob("*.nii.gz")} == {
        f"{n}.nii.gz"
        for n in [*names, *steps, *(f"{n}-mask" for n in [*names[4:], *steps]), "original", "mask"]
    }
    assert all(read_sidecar(out / f"{n}.json")["series"]["named"] == "volume_ml" for n in steps)
    assert str(out / "edits.png") in shown and (out / "edits.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in out.glob("series*.png")} == {"series.png", "series-contact-sheet.png"}
    assert (
        len((out / "series.csv").read_text(encoding="utf-8").splitlines()) == 3
        and "Series of volume_ml" in page
    )
    assert json.loads((out / "features.json").read_text(encoding="utf-8"))["features"]
    contrast = [
        read_sidecar(out / f"{n}.json")["features"]["reached"]["original_glcm_Contrast"] for n in names[2:4]
    ]
    assert contrast[0] > 1.5 * contrast[1]


def test_demo_needs_its_model(tmp_path, capsys):
    assert cli.main(["demo", "--phantom", "--out", str(tmp_path / "out"), "--model", "no-such-model"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "out").exists()

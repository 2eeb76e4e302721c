"""The command line in tests: a small case, a tiny model, and a call that returns what was printed."""

import editor_case
import pytest
import SimpleITK as sitk

from TumorSynthLib import cli


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return editor_case.files(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    editor_case.model(folder / "tiny")
    return folder


@pytest.fixture(autouse=True)
def home(models, monkeypatch):
    monkeypatch.setenv("TUMORSYNTH_MODELS", str(models))
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)


@pytest.fixture
def run(capsys):
    """Run a command; returns (exit code, stdout, lines of stderr)."""

    def call(*args):
        code = cli.main([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


def edit(name, data, out, *more):
    return [name, *data, "--model", "tiny", "--device", "cpu", "--out", out, *more]


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.name.startswith(".")]

"""The command line where something goes wrong: one line, exit codes, nothing half written; signals, and the bar."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_case import data, edit, home, leftovers, models, run, voxels  # noqa: F401

from TumorSynthLib import cli, commands
from TumorSynthLib.errors import Cancelled
from TumorSynthLib.outputs import Staging

ROOT = Path(__file__).resolve().parents[1]


WRONG = [
    (["synthesize"], "required"),
    (["frobnicate"], "invalid choice"),
    (["extract", "IMAGE", "MASK", "--settings", "IMAGE", "--model", "tiny"], "not allowed with"),
    (["synthesize", "IMAGE", "MASK", "--out", "x.nii"], "let a model draw (--model)"),
    (
        ["reshape", "IMAGE", "MASK", "--out", "x.nii", "--out-mask", "y.nii", "--model", "none"],
        "reshape needs a model",
    ),
    (
        ["move", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--out-mask", "y.nii"],
        "--to X Y Z is needed",
    ),
    (["remove", "IMAGE", "MASK", "--model", "tiny", "--out", "x.png"], "use a name that ends in"),
    (
        ["remove", "IMAGE", "MASK", "--model", "tiny", "--out", "IMAGE"],
        "is an input and would be overwritten",
    ),
    (["remove", "IMAGE", "MASK", "--model", "tiny", "--out", "MASK"], "is an input and would be overwritten"),
    (
        ["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--set", "contrast"],
        "expected NAME=VALUE",
    ),
    (
        ["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--set", "contrast=high"],
        "expected NAME=VALUE",
    ),
    (["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--steps", "0"], "steps is 0"),
    (["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--eta", "2"], "eta is 2"),
    (["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--samples", "0"], "samples is 0"),
    (["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--seed", "-1"], "seed is -1"),
    (
        ["synthesize", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--device", "abacus"],
        "'abacus' is not available",
    ),
    (
        ["remove", "IMAGE", "MASK", "--model", "tiny", "--out", "x.nii", "--report", "IMAGE"],
        "is a file: give a folder",
    ),
]


@pytest.mark.parametrize("args, message", WRONG, ids=[" ".join(a)[:60] for a, _ in WRONG])
def test_wrong_use_is_one_line_and_code_2(run, data, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    names = {"IMAGE": data[0], "MASK": data[1]}
    before = {p: p.read_bytes() for p in data}
    code, out, err = run(*(names.get(a, a) for a in args))
    assert code == 2 and not out and len(err) == 1 and message in err[0] and err[0].startswith("tumorsynth: ")
    assert list(tmp_path.iterdir()) == [] and {p: p.read_bytes() for p in data} == before


def test_missing_model_is_code_3(run, data, tmp_path):
    code, _, err = run("remove", *data, "--model", "liver", "--out", tmp_path / "x.nii")
    assert code == 3 and len(err) == 1 and "liver" in err[0] and "tumorsynth models list" in err[0]


def test_internal_error_is_code_1_without_traceback(run, data, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "inputs", lambda *a: 1 / 0)
    code, _, err = run(*edit("remove", data, tmp_path / "x.nii"))
    assert code == 1 and len(err) == 1 and "internal error: ZeroDivisionError" in err[0]
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    assert any("Traceback" in line for line in run(*edit("remove", data, tmp_path / "x.nii"))[2])


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled, OSError, MemoryError])
def test_failure_while_writing_leaves_nothing(run, data, tmp_path, monkeypatch, error):
    from TumorSynthLib import provenance

    def fail(*args):
        raise error("stop")

    monkeypatch.setattr(provenance, "write_sidecar", fail)  # the image is in the staging folder by then
    code, _, err = run(*edit("remove", data, tmp_path / "sub" / "x.nii"))
    assert code in (2, 130) and len(err) == 1
    assert list(tmp_path.iterdir()) == []


def listen_to_ctrl_c():
    """A test run in a shell's background, or by nohup, inherits that signals are ignored; a user's command does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_stops_cleanly(data, tmp_path, number):
    """In the middle of the network's work, which its first progress tells."""
    code = (
        "import sys; from TumorSynthLib import cli, console\n"
        "console.Bar.__call__ = lambda bar, stage, fraction: print(stage, flush=True)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = edit(
        "synthesize", data, tmp_path / "x.nii.gz", "--engine", "bridge", "--steps", 1000, "--samples", 64
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=listen_to_ctrl_c,
    )  # fmt: skip
    while (stage := process.stdout.readline()) != "texture\n":
        assert stage, process.stderr.read()
    process.send_signal(getattr(signal, number))
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()  # one that didn't stop would go on for minutes
    assert process.returncode == 130 and err.strip() == "tumorsynth: stopped; nothing was written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_an_import_stops_cleanly(number):
    """Imports run texts by exec, in which CPython treats KeyboardInterrupt in a way of its own."""
    code = (
        "import sys; from TumorSynthLib import cli, commands\n"
        "text = 'import time; print(1, flush=True); time.sleep(600)'\n"
        "commands.extract = lambda args: exec(text)\n"
        "sys.exit(cli.main(['extract', 'image', 'mask']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=listen_to_ctrl_c,
    )  # fmt: skip
    assert process.stdout.readline() == "1\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == "tumorsynth: stopped; nothing was written"


def test_staging_is_all_or_nothing(tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(RuntimeError), Staging() as staging:
        staging.file(tmp_path / "old").write_text("new")
        staging.file(tmp_path / "deep" / "er" / "b").write_text("b")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"
    with Staging() as staging:
        staging.file(tmp_path / "old").write_text("new")
        (staging.folder(tmp_path / "report") / "page").write_text("p")
    assert (tmp_path / "old").read_text() == "new" and (tmp_path / "report" / "page").read_text() == "p"
    assert not leftovers(tmp_path)


def test_bar_only_on_a_terminal(capsys, monkeypatch):
    from TumorSynthLib.console import Bar

    with Bar() as bar:
        bar("texture", 0.5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar() as bar:
        bar("texture", 0.5)
    shown = capsys.readouterr().err
    assert "44%" in shown and shown.endswith("\r")
    with Bar(quiet=True) as bar:
        bar("texture", 0.5)
    assert capsys.readouterr().err == ""


def test_the_bar_never_goes_back(capsys, monkeypatch):
    """Stages come again: a series' steps, a second solve, tissue that moves after something was drawn."""
    from TumorSynthLib.console import Bar

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar() as bar:
        for stage in (
            "prepare",
            "texture",
            "mass effect",
            "model",
            "texture",
            "solve",
            "measure",
            "solve",
            "step",
            "texture",
        ):
            for fraction in (0.0, 0.5, 1.0):
                bar(stage, fraction)
    shown = [int(share) for share in re.findall(r"(\d+)%", capsys.readouterr().err)]
    assert len(shown) > 5 and shown == sorted(shown)

"""Output streams: an edit whose files are written succeeds, whatever the terminal is; nothing steers the terminal."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import editor_case
import pytest

from TumorSynthLib import cli, commands
from TumorSynthLib.console import as_json
from TumorSynthLib.terminal import Sturdy, shown, sturdy_streams

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "no-such-encoding"])
def test_any_text_fits_any_encoding(encoding):
    text = shown("+0.12 σ … 3 × 4 mm³ – Müller ☃", encoding)
    if encoding != "no-such-encoding":
        text.encode(encoding)
    assert ("σ" in text) == (encoding in ("utf-8", "cp437")) and "0.12" in text


@pytest.mark.parametrize(
    "odd", ["\x1b[2J", "\x07", "\x9b2J", "a\rb", "\u202egpj", "\ud800", "\u2028", "\x7f", "\0"]
)
def test_nothing_steers_the_terminal(odd):
    assert shown(odd).isprintable() and shown("tab\tand\nline") == "tab\tand\nline"
    stream = io.StringIO()
    print(odd, file=Sturdy(stream))
    assert stream.getvalue().strip("\n").isprintable()


def test_a_byte_of_a_name_is_shown_as_such():
    assert shown(os.fsdecode(b"M\xfcller")) == "M\\xfcller"


def test_json_stays_json_where_the_terminal_lacks_characters(monkeypatch):
    value = {"unit": "mm³", "name": os.fsdecode(b"M\xfcller"), "title": "a\x1b[2J"}
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    text = as_json(value)
    text.encode("ascii")
    assert json.loads(text) == value


class Broken(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_stream_that_fails_is_remembered():
    stream = Sturdy(Broken())
    print("text", file=stream)
    stream.flush()
    assert stream.lost.errno == 28
    stream = Sturdy(None)
    print("text", file=stream)
    assert stream.lost is None and not stream.isatty()


def test_streams_come_back(monkeypatch):
    before = sys.stdout, sys.stderr
    with pytest.raises(RuntimeError), sturdy_streams():
        assert isinstance(sys.stdout, Sturdy)
        raise RuntimeError
    assert (sys.stdout, sys.stderr) == before


def test_files_decide_on_the_exit_code(monkeypatch, capsys):
    """What was to be printed is lost: no harm where it is in files."""
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(commands, "extract", lambda args: print("features") or 0)
    assert cli.main(["extract", "i", "m"]) == 2 and "No space left" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", Broken())
    assert cli.main(["extract", "i", "m", "--out", "f.json"]) == 0


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    model = editor_case.model(folder / "tiny")
    return folder, [*map(str, editor_case.files(folder)), "--model", str(model.folder)]


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors as a shell does")
def test_closed_streams_from_the_start(case):
    """Our own files must not get the numbers of the closed ones: what a library prints would go into them."""
    folder, arguments = case
    code = (
        "import os, sys\n"
        "for n in (0, 1, 2): os.close(n)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'TumorSynthLib', *sys.argv[1:]])\n"
    )
    out = folder / "out.nii"
    command = ["remove", *arguments, "--device", "cpu", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT)
    assert done.returncode == 0 and out.stat().st_size > 352 and out.with_suffix(".json").is_file()


def test_an_interrupt_after_the_files_are_there_is_too_late(case, monkeypatch, tmp_path, capsys):
    """ "Nothing was written" would be wrong."""
    import signal

    monkeypatch.setattr(commands, "tell", lambda *a: signal.raise_signal(signal.SIGTERM))
    _, arguments = case
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["remove", *arguments, "--device", "cpu", "--out", str(tmp_path / "o.nii")]) == 0
    assert (tmp_path / "o.json").is_file() and signal.getsignal(signal.SIGTERM) == before

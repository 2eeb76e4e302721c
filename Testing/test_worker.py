"""The worker process: its protocol, cancelling, crashes, its end; with a tiny model."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import editor_case
import numpy as np
import pytest

from TumorSynthLib import delta
from TumorSynthLib.errors import InputError
from TumorSynthLib.exchange import PREFIX, Folder, new_folder, remove_forgotten
from TumorSynthLib.pace import Pace

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return editor_case.model(tmp_path_factory.mktemp("models") / "tiny")


class Client:
    """The other side of the pipe, without anything of Slicer."""

    def __init__(self, bundle, code: str = ""):
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.bundle, self.number = bundle, 0
        start = ["-m", "TumorSynthLib.worker"] if not code else ["-c", code]
        self.process = subprocess.Popen(
            [sys.executable, *start, "--folder", str(self.folder)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.ready = self.receive()
        volume, mask = editor_case.ct()
        self.array, self.mask = volume.array, mask
        volume.array.tofile(self.folder / "v")
        mask.tofile(self.folder / "m")
        self.volume = {
            "file": "v", "dtype": "int16", "shape": list(volume.array.shape), "spacing": list(volume.spacing),
            "origin": list(volume.origin), "direction": list(volume.direction),
        }  # fmt: skip

    def send(self, **message) -> int:
        self.number += 1
        self.line({"id": self.number, **message})
        return self.number

    def line(self, message) -> None:
        self.process.stdin.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def edit(self, edit: str, **request) -> int:
        whole = [[0, n] for n in self.mask.shape]
        message = {
            "model": str(self.bundle.folder),
            "volume": self.volume,
            "mask": {"file": "m", "box": whole},
        }
        return self.send(command="edit", edit=edit, request=request, device="cpu", **message)

    def answer(self) -> tuple[dict, list]:
        """The last event of a request, and its progress."""
        progress = []
        while True:
            event = self.receive()
            if event["event"] != "progress":
                return event, progress
            progress.append(event)

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(120)


@pytest.fixture(scope="module")
def client(bundle):
    """One process for all tests that leave it alive: starting torch takes longer than all they do."""
    made = Client(bundle)
    yield made
    made.end()
    made.process.stdout.close()
    made.process.stderr.close()


def result_of(client, event) -> np.ndarray:
    """The edited array that an answer describes."""
    entry = event["results"][0]
    box = tuple(slice(a, b) for a, b in entry["box"])
    array = client.array.copy()
    array[box] = delta.toggle(array[box], (client.folder / entry["change"]).read_text())
    return array


def test_edits_are_the_editors(client, bundle):
    from TumorSynthLib.editor import Editor, EditRequest

    volume, mask = editor_case.ct()
    for edit, request in (
        ("remove", {"seed": 2}),
        ("synthesize", {"seed": 3, "solve": False, "features": {"contrast": 4.0}}),
    ):
        client.edit(edit, **request)
        event, progress = client.answer()
        assert event["event"] == "done", event
        expected = getattr(Editor(bundle, "cpu"), edit)(volume, mask, EditRequest(**request))
        assert np.array_equal(result_of(client, event), expected.volume.array)
        assert event["results"][0]["reached"] == pytest.approx(expected.reached)
        fractions = [p["fraction"] for p in progress]
        assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] == 1.0
        assert all(p["remaining"] is None or p["remaining"] >= 0 for p in progress)


def test_a_removal_needs_no_model(client):
    volume, mask = editor_case.ct()
    given = {"command": "edit", "device": "cpu", "model": "", "volume": client.volume}
    given["mask"] = {"file": "m", "box": [[0, n] for n in client.mask.shape]}
    client.send(**given, edit="remove", request={"seed": 4})
    event, progress = client.answer()
    assert event["event"] == "done", event
    record = event["results"][0]["provenance"]
    assert (
        record["model"] == {} and record["plan"]["engine"] == "exemplar" and progress[-1]["fraction"] == 1.0
    )
    assert (result_of(client, event) != volume.array)[mask].mean() > 0.9
    client.send(
        **{k: v for k, v in given.items() if k != "mask"}, edit="insert", request={"at": [0.0, 0.0, 0.0]}
    )
    assert "whose tissue could be used" in client.answer()[0]["message"]


def test_ranges_are_told_one_by_one_and_given_up(client):
    message = {
        "model": "",
        "volume": client.volume,
        "mask": {"file": "m", "box": [[0, n] for n in client.mask.shape]},
    }
    names = ["mean_intensity", "intensity_sd", "contrast"]
    number = client.send(command="reach", names=names, **message)
    first = client.receive()
    assert (first["event"], first["id"], first["feature"]) == ("range", number, "mean_intensity")
    own = client.array[client.mask].mean()
    assert first["low"] < own < first["high"]
    client.line({"command": "cancel", "id": number})
    events = [client.receive()]
    while events[-1]["event"] == "range":
        events.append(client.receive())
    assert len(events) <= len(names) and events[-1]["kind"] == "cancelled"
    client.send(command="reach", names=["no_such_feature"], **message)
    assert client.receive()["kind"] == "input"


def test_moved_mask_comes_back_as_its_box(client):
    volume, mask = editor_case.ct()
    target = volume.points(np.argwhere(mask).mean(0)[::-1] + (2.0, 3.0, 0.0))
    client.edit("move", to=[float(v) for v in target], solve=False)
    event, _progress = client.answer()
    entry = event["results"][0]["mask"]
    shape = [b - a for a, b in entry["box"]]
    moved = np.fromfile(client.folder / entry["file"], bool).reshape(shape)
    assert 0.9 * mask.sum() <= moved.sum() <= mask.sum()
    assert all(n - 2 <= a <= n for a, n in zip(shape, np.ptp(np.argwhere(mask), axis=0) + 1))


def test_preview_is_the_shape_models(client, tmp_path):
    from TumorSynthLib.models import find
    from TumorSynthLib.shaping import Shaper

    features = {"volume_ml": 2.0, "sphericity": 0.7}
    client.send(command="preview", model="lung-nodule-ct", features=features, seed=4)
    event, _progress = client.answer()
    expected = Shaper(find("lung-nodule-ct"), "cpu").model.preview(features, 4)
    vertices = np.fromfile(client.folder / event["vertices"]["file"], np.float32)
    faces = np.fromfile(client.folder / event["faces"]["file"], np.int32).reshape(event["faces"]["shape"])
    assert vertices.reshape(event["vertices"]["shape"]) == pytest.approx(expected.vertices, abs=0.05)
    assert np.array_equal(faces, expected.faces)
    client.send(command="preview", model="lung-nodule-ct", features={"sphericity": 2.0})
    assert client.answer()[0]["kind"] == "input"


def test_errors_are_told_and_the_next_request_works(client):
    client.edit("synthesize", features={"entropy": -3.0})
    event, _progress = client.answer()
    assert (event["event"], event["kind"]) == ("error", "input") and "impossible" in event["message"]
    client.edit("synthesize", colour=1)
    assert "no option 'colour'" in client.answer()[0]["message"]
    client.edit("levitate")
    assert "can't 'levitate'" in client.answer()[0]["message"]
    client.line("this is no JSON")
    assert client.answer()[0]["kind"] == "input"
    client.send(command="edit", edit="remove", model="no-such-model", volume=client.volume, request={})
    assert client.answer()[0]["kind"] == "model"
    client.edit("remove")
    assert client.answer()[0]["event"] == "done"


@pytest.mark.parametrize("name", ("../x", "/etc/passwd", "a/b", "..", "", 3, None))
def test_only_bare_names_in_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="bare name"):
        Folder(tmp_path).file(name)


def test_folder_checks_sizes_and_types(tmp_path):
    folder = Folder(tmp_path)
    (tmp_path / "v").write_bytes(b"\0" * 10)
    with pytest.raises(InputError, match="another size"):
        folder.read({"file": "v", "dtype": "int16", "shape": [2, 2, 2]})
    with pytest.raises(InputError, match="real numbers"):
        folder.read({"file": "v", "dtype": "object", "shape": [10]})
    with pytest.raises(InputError, match="outside the image"):
        folder.mask({"file": "v", "box": [[0, 1], [0, 1], [0, 10]]}, (1, 1, 5))
    folder.remove()
    assert tmp_path.is_dir()  # only a folder of its own is removed


def test_cancel_stops_between_reports(client):
    number = client.edit("synthesize", samples=64, solve=False)
    while client.receive().get("stage") != "texture":
        pass
    client.line({"command": "cancel", "id": number})
    event, progress = client.answer()
    assert (event["event"], event["kind"]) == ("error", "cancelled") and len(progress) < 60
    client.edit("remove")
    assert client.answer()[0]["event"] == "done"


def test_ends_with_stdin_even_while_it_works(bundle):
    client = Client(bundle)
    client.edit("synthesize", samples=64, solve=False)
    while client.receive().get("stage") != "texture":
        pass
    assert client.end() == 0 and not client.folder.exists()
    assert '"done"' not in client.process.stdout.read()  # 64 samples weren't waited for
    client.process.stdout.close()
    client.process.stderr.close()


def test_prints_of_libraries_do_not_reach_the_client(bundle):
    code = (
        "import os, sys\n"
        "from TumorSynthLib import worker\n"
        "serve = worker.Worker.serve\n"
        "def noisy(self, request):\n"
        "    print('a print'); os.write(1, b'from C\\n'); serve(self, request)\n"
        "worker.Worker.serve = noisy\n"
        "sys.exit(worker.main(sys.argv[1:]))\n"
    )
    client = Client(bundle, code)
    client.send(command="nonsense")
    assert "no command 'nonsense'" in client.answer()[0]["message"]
    client.end()
    errors = client.process.stderr.read()
    assert "a print" in errors and "from C" in errors
    client.process.stdout.close()
    client.process.stderr.close()


@pytest.mark.parametrize("raised", ("MemoryError()", "RuntimeError('CUDA out of memory. Tried to allocate')"))
def test_exhausted_memory_is_told(bundle, raised):
    code = (
        "import sys\n"
        "from TumorSynthLib import worker\n"
        f"def fail(self, request): raise {raised}\n"
        "worker.Worker._edit = fail\n"
        "sys.exit(worker.main(sys.argv[1:]))\n"
    )
    client = Client(bundle, code)
    client.edit("remove")
    event, _progress = client.answer()
    assert event["kind"] == "memory" and "memory" in event["message"]
    client.end()
    client.process.stdout.close()
    client.process.stderr.close()


def test_refuses_a_folder_that_is_not_its_own(tmp_path):
    command = [sys.executable, "-m", "TumorSynthLib.worker", "--folder", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and "must be an existing folder" in done.stderr and tmp_path.is_dir()


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_is_left_to_the_application(client):
    client.process.send_signal(signal.SIGINT)
    client.send(command="nonsense")
    assert client.answer()[0]["event"] == "error"


def test_delta_is_its_own_undo_in_every_type():
    rng = np.random.default_rng(0)
    for dtype in (np.int16, np.uint8, np.float32, np.float64, np.uint32):
        before = rng.integers(0, 200, (3, 4, 5)).astype(dtype)
        after = before.copy()
        after[1, 2] = 7
        text = delta.encode(before[:, ::-1], after[:, ::-1])
        assert np.array_equal(delta.toggle(before[:, ::-1], text), after[:, ::-1])
        assert np.array_equal(delta.toggle(delta.toggle(before[:, ::-1], text), text), before[:, ::-1])
    with pytest.raises(InputError, match="doesn't fit"):
        delta.toggle(before[:2], text)
    with pytest.raises(InputError, match="damaged"):
        delta.toggle(before, "!" + text[:-3])
    mask = rng.random((5, 6, 7)) > 0.5
    assert np.array_equal(delta.unpack(delta.pack(mask), mask.shape), mask)


@pytest.mark.parametrize(
    "what", ["empty", "no base64", "no zlib", "cut", "longer", "other", "no ASCII", "bomb", "none", "number"]
)
def test_a_damaged_change_is_wrong_input_and_takes_no_memory(what):
    import base64
    import tracemalloc
    import zlib

    array = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    text = delta.encode(array, array + 1)
    odd = {
        "empty": "", "no base64": "%%%", "no zlib": base64.b64encode(b"hello").decode(), "cut": text[: len(text) // 2],
        "longer": base64.b64encode(base64.b64decode(text) + b"more").decode(), "other": delta.encode(array[:5], array[:5]),
        "no ASCII": "ä" * 40, "none": None, "number": 5,
        "bomb": base64.b64encode(zlib.compress(b"\0" * (1 << 26), 9)).decode(),
    }[what]  # fmt: skip
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            delta.toggle(array, odd)
        with pytest.raises(InputError):
            delta.unpack(odd, array.shape)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_pace_never_goes_back_and_counts_passes():
    now = [0.0]
    pace = Pace(("prepare", "model", "texture", "measure"), passes=2, estimate=10.0, clock=lambda: now[0])
    assert pace.at("prepare", 0.0) == (0.0, 10.0)
    seen = []
    for stage, fraction in (
        ("model", 0),
        ("texture", 0),
        ("texture", 0.5),
        ("model", 0),
        ("texture", 0),
        ("texture", 1),
        ("measure", 1),
    ):
        now[0] += 1.0
        seen.append(pace.at(stage, fraction))
    fractions = [f for f, _remaining in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and seen[-1][1] == 0.0
    steps = Pace(("texture", "measure"), steps=4, clock=lambda: now[0])
    reports = [("step", 0.0), ("texture", 1.0), ("step", 0.5), ("texture", 0.0), ("step", 0.75)]
    told = [steps.at(*report)[0] for report in reports]
    assert told[0] == 0.0 and 0.2 < told[1] < 0.25 and told[2:] == [0.5, 0.5, 0.75]
    half = fractions[4]
    assert 0.4 < half < 0.7 and seen[4][1] == pytest.approx(5.0 * (1 - half) / half)


ODD_LINES = {
    "a list": "[1, 2]", "a number": "5", "null": "null", "a text": '"edit"', "deep nesting": "[" * 200000,
    "closed nesting": "[" * 200000 + "]" * 200000, "not JSON": "hello", "NaN": '{"id": 1, "command": "warm", "model": NaN}',
    "an id that is a list": '{"id": [1], "command": "measure"}', "an id that is a path": '{"id": "../x", "command": "edit"}',
    "5,000 digits": '{"id": 1, "command": "warm", "seed": ' + "9" * 5000 + "}", "no command": '{"id": 1}',
    "a model that is a number": '{"id": 1, "command": "warm", "model": 5}',
    "no model": '{"id": 1, "command": "edit", "edit": "remove"}',
    "a command that is a list": '{"id": 1, "command": ["edit"]}', "an edit that is nested": '{"id": 1, "command": "edit", '
    '"model": "lung-nodule-ct", "edit": ' + "[" * 500 + "]" * 500 + "}",
    "a request that is a text": '{"id": 1, "command": "edit", "edit": "remove", "model": "lung-nodule-ct", "request": "abc"}',
}  # fmt: skip


@pytest.mark.parametrize("what", ODD_LINES)
def test_any_line_gets_an_answer(client, what):
    client.line(ODD_LINES[what])
    event, _ = client.answer()
    assert event["event"] == "error" and event["kind"] in ("input", "model"), event
    client.send(command="nonsense")
    assert "no command 'nonsense'" in client.answer()[0]["message"]


def test_bytes_that_are_no_text_get_an_answer(client):
    for odd in (b"\xff\xfe{}\n", b"\n\xed\xa0\x80\n"):
        client.process.stdin.buffer.write(odd)
        client.process.stdin.buffer.flush()
        assert client.answer()[0]["kind"] == "input"


@pytest.mark.parametrize("change", [
    {"shape": "abc"}, {"shape": [1, 2]}, {"shape": [10**30, 1, 1]}, {"shape": [-1, -1, 4]}, {"shape": [0, 1, 1]}, {"shape": None},
    {"dtype": "object"}, {"dtype": 5}, {"file": "../x"}, {"file": None}, {"file": "n" * 300}, {"spacing": [1, 1]},
    {"spacing": [0, 1, 1]}, {"spacing": ["a", 1, 1]}, {"spacing": [10**400, 1, 1]}, {"origin": None}, {"direction": [0] * 9},
    {"metadata": 5},
], ids=str)  # fmt: skip
def test_a_damaged_image_is_wrong_input(client, change):
    client.send(
        command="measure",
        volume={**client.volume, **change},
        mask={"file": "m", "box": [[0, n] for n in client.mask.shape]},
    )
    event, _ = client.answer()
    assert event["event"] == "error" and event["kind"] == "input", event


@pytest.mark.parametrize("mask", [
    5, {"file": "m"}, {"file": "m", "box": [[0, 1]]}, {"file": "m", "box": [[5, 1], [0, 1], [0, 1]]},
    {"file": "m", "box": [[-3, -1], [0, 1], [0, 1]]}, {"file": "m", "box": [[0, 10**12], [0, 1], [0, 1]]},
    {"file": "m", "box": [["0", "1"], [0, 1], [0, 1]]},
], ids=str)  # fmt: skip
def test_a_damaged_mask_is_wrong_input(client, mask):
    client.send(command="measure", volume=client.volume, mask=mask)
    event, _ = client.answer()
    assert event["event"] == "error" and event["kind"] == "input", event


def test_a_request_that_waits_is_cancelled_and_the_one_before_too(client):
    first = client.edit("synthesize", samples=64, solve=False)
    second = client.edit("remove")
    while client.receive().get("stage") != "texture":
        pass
    client.line({"command": "cancel", "id": second})
    client.line({"command": "cancel", "id": first})
    for number in (first, second):
        event, _ = client.answer()
        assert (event["id"], event["kind"]) == (number, "cancelled")
    client.line({"command": "cancel", "id": first})  # it is over: nothing happens to later ones of that id
    client.number = first - 1
    assert client.edit("remove") == first and client.answer()[0]["event"] == "done"
    client.number = second


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_it_at_once_and_nothing_is_left(name):
    """Also in the middle of a computation that doesn't return to Python."""
    code = (
        "import sys, time, ctypes\n"
        "from TumorSynthLib import worker\n"
        "def busy(self, request): print('busy', file=sys.stderr, flush=True); ctypes.CDLL(None).sleep(600)\n"
        "worker.Worker._warm = busy\n"
        "sys.exit(worker.main(sys.argv[1:]))\n"
    )
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / (PREFIX + "x")
        folder.mkdir()
        (folder / "v").write_bytes(b"voxels of a patient")
        command = [sys.executable, "-c", code, "--folder", str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, **pipes)
        process.stdout.readline()
        process.stdin.write(b'{"id": 1, "command": "warm", "model": "x"}\n')
        process.stdin.flush()
        assert process.stderr.readline() == b"busy\n"
        process.send_signal(getattr(signal, name))
        process.wait(120)
        assert not folder.exists()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


@pytest.mark.skipif(os.name != "posix", reason="locks differ")
def test_forgotten_folders_go_and_those_in_use_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    used, held = new_folder()
    forgotten, other = tmp_path / (PREFIX + "old"), tmp_path / "somebody's"
    for folder in (forgotten, other):
        folder.mkdir()
    (tmp_path / (PREFIX + "link")).symlink_to(other)
    mine = tmp_path / (PREFIX + "mine")
    mine.mkdir()
    remove_forgotten(mine)
    assert not forgotten.exists() and used.is_dir() and other.is_dir() and mine.is_dir()
    os.close(held)
    remove_forgotten(mine)
    assert not used.exists()

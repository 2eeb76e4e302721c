"""The client of the worker process: crashes, cancelling, both kinds of pipes, no orphans, no files left."""

import errno
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import slicer_runtime

from TumorSynthLib.volume import Volume

slicer_runtime.start()

from TumorSynthSlicer import nodes, pipes, worker_client  # noqa: E402
from TumorSynthSlicer.job import EditJob  # noqa: E402
from TumorSynthSlicer.worker_client import WorkerClient, WorkerError  # noqa: E402

from TumorSynthLib import wire  # noqa: E402
from TumorSynthLib.exchange import Exchange  # noqa: E402


@dataclass(frozen=True)
class StandIn:
    """A request to the stand-in."""

    command: str
    value: int = 0


#: A worker of a few lines: answers, crashes, or hangs as the request says.
STAND_IN = """
import json, os, sys, time
say = lambda **event: print(json.dumps(event), flush=True)
say(event="ready", pid=os.getpid(), protocol=1, version="0")
for line in sys.stdin:
    request = json.loads(line)
    if request["command"] == "crash":
        sys.stderr.write("no more memory for you\\n")
        sys.stderr.flush()
        os._exit(9)
    if request["command"] == "hang":
        say(id=request["id"], event="progress", stage="texture", fraction=0.5)
        while True:
            time.sleep(1)
    if request["command"] != "cancel":
        say(id=request["id"], event="done", device=str(request["value"]))
"""


@pytest.fixture
def client(tmp_path):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    made = WorkerClient([sys.executable, str(script)])
    yield made
    made.stop()


def wait(client, events, seconds=120.0):
    limit = time.monotonic() + seconds
    while not any(isinstance(e, worker_client.ENDS) for e in events) and time.monotonic() < limit:
        client.pump(0.01)
    return events[-1]


def isAlive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except OSError:
        return False
    return (
        not Path(f"/proc/{number}/stat").exists()
        or Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    )


def hasEnded(number: int, seconds: float = 60.0) -> bool:
    """Whether a process ends; one that was killed does so when the system comes to it."""
    limit = time.monotonic() + seconds
    while isAlive(number) and time.monotonic() < limit:
        time.sleep(0.01)
    return not isAlive(number)


def test_answers_in_one_process(client):
    numbers = set()
    for value in (1, 2):
        events = []
        client.request(StandIn("echo", value), events.append)
        assert wait(client, events).device == str(value)
        numbers.add(client.processID)
    assert len(numbers) == 1 and client.isRunning()


def test_two_requests_get_their_own_answers(client):
    first, second = [], []
    client.request(StandIn("echo", 1), first.append)
    client.request(StandIn("echo", 2), second.append)
    wait(client, second)
    assert [e.device for e in first] == ["1"] and [e.device for e in second] == ["2"]


def test_an_error_in_a_callback_is_not_swallowed(client):
    def fail(event):
        raise ValueError("of the callback")

    client.request(StandIn("echo", 1), fail)
    with pytest.raises(ValueError, match="of the callback"):
        wait(client, [wire.Progress(1, "texture", 0.0)])


def test_crash_is_told_and_the_next_request_starts_another(client):
    events = []
    client.request(StandIn("crash"), events.append)
    event = wait(client, events)
    assert event.kind == "crash" and "no more memory for you" in event.message and not client.isRunning()
    events = []
    client.request(StandIn("echo", 3), events.append)
    assert wait(client, events).device == "3"


def test_cancel_ends_what_does_not_listen(client):
    events = []
    number = client.request(StandIn("hang"), events.append)
    while not events:
        client.pump(0.01)
    process, waiting = client.processID, []
    client.cancel(12345)  # a request that isn't there
    assert client.isRunning()
    client._handlers[99] = waiting.append  # another one that waits behind it
    client.cancel(number)
    assert not client.isRunning() and hasEnded(process)
    assert [type(e) for e in events] == [wire.Progress]  # nothing more is delivered
    assert [e.kind for e in waiting] == ["cancelled"]


@pytest.mark.skipif(os.name != "posix", reason="a shell script as launcher")
def test_a_dropped_request_is_not_waited_for(client):
    """Its events go nowhere, and the process goes on: the next request is answered by the same one."""
    events, dropped = [], []
    client.request(StandIn("echo", 1), events.append)
    wait(client, events)
    process = client.processID
    client.drop(client.request(StandIn("echo", 2), dropped.append))
    events.clear()
    client.request(StandIn("echo", 3), events.append)
    assert wait(client, events).device == "3" and client.processID == process and dropped == []


def test_cancel_ends_the_child_of_a_launcher(tmp_path):
    """PythonSlicer is a launcher: its child must not outlive it."""
    script, launcher = tmp_path / "stand_in.py", tmp_path / "launcher"
    script.write_text(STAND_IN)
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "{script}" "$@"\necho ended >&2\n')
    launcher.chmod(0o755)
    client = WorkerClient([str(launcher)])
    events = []
    number = client.request(StandIn("hang"), events.append)
    while not events:
        client.pump(0.01)
    child = client.processID
    client.cancel(number)
    assert hasEnded(child)
    client.stop()


def test_stop_leaves_no_process_and_no_files(client):
    events = []
    client.request(StandIn("echo", 1), events.append)
    wait(client, events)
    folder, number = client.exchange.path, client.processID
    assert folder.is_dir()
    client.stop()
    assert not folder.exists() and not isAlive(number) and not client.isRunning()


def test_missing_program_is_one_sentence():
    client = WorkerClient(["/no/such/program"])
    with pytest.raises(WorkerError, match="can't be started"):
        client.request(StandIn("echo"), print)
    client.stop()


def sent(exchange: Exchange, key: str, volume) -> np.ndarray:
    """A volume's voxels as the worker finds them."""
    entry = exchange.entry(key, volume)
    return np.fromfile(exchange.path / entry["file"], entry["dtype"]).reshape(entry["shape"])


def test_volume_goes_over_in_small_steps_and_only_once():
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1000, (40, 512, 512)).astype(np.int16)
    exchange, volume = Exchange(), Volume(array, (1.0, 1.0, 1.0))
    try:
        steps = list(exchange.sendVolume("v", volume, 1))
        assert len(steps) >= 3 and steps[-1] == 1.0 and steps == sorted(steps)
        assert np.array_equal(sent(exchange, "v", volume), array)
        assert list(exchange.sendVolume("v", volume, 1)) == []
        box = (slice(3, 6), slice(10, 20), slice(30, 60))
        array[box] = 5
        exchange.patchVolume("v", box, array, 2)
        assert list(exchange.sendVolume("v", volume, 2)) == []
        assert np.array_equal(sent(exchange, "v", volume), array)
        exchange.adopt("v", "copy")  # edits go on in a copy of the volume
        assert list(exchange.sendVolume("copy", volume, 2)) == []
        assert list(exchange.sendVolume("copy", volume, 3)) != []
        exchange.keepOnly(["other"])
        assert not list(exchange.path.iterdir())
    finally:
        exchange.remove()
    assert not exchange.path.exists()


def test_a_file_that_is_still_mapped_is_no_obstacle(monkeypatch):
    """Windows neither removes nor overwrites a file that the worker maps; it goes once the worker lets it go."""
    array = np.zeros((4, 8, 8), np.int16)
    exchange, volume = Exchange(), Volume(array, (1.0, 1.0, 1.0))
    list(exchange.sendVolume("v", volume, 1))
    mapped, unlink, keep = exchange.entry("v", volume)["file"], type(exchange.path).unlink, open

    def refuse(path, *given, **named):
        if path.name == mapped:
            raise PermissionError(13, "a file with a user-mapped section is open", str(path))
        return unlink(path, *given, **named)

    def opened(path, mode="r", *given, **named):
        if os.path.basename(path) == mapped and "w" in mode:
            raise PermissionError(13, "a file with a user-mapped section is open", str(path))
        return keep(path, mode, *given, **named)

    monkeypatch.setattr(type(exchange.path), "unlink", refuse)
    monkeypatch.setattr("builtins.open", opened)
    array[:] = 7
    assert list(exchange.sendVolume("v", volume, 2)) != []
    assert (sent(exchange, "v", volume) == 7).all() and (exchange.path / mapped).exists()
    monkeypatch.undo()
    list(exchange.sendVolume("v", volume, 3))
    assert len(list(exchange.path.iterdir())) == 1
    exchange.remove()


@pytest.mark.parametrize(
    "number, words", [(errno.ENOSPC, "free some space"), (errno.EACCES, "restart Slicer")]
)
def test_a_folder_that_can_not_be_used_says_what_helps(number, words):
    def transfer():
        raise OSError(number, os.strerror(number))
        yield

    job = EditJob("remove", None, transfer(), dict, None, {})
    job.step()
    assert words in str(job.error) and ("space" in str(job.error)) == (number == errno.ENOSPC)


@pytest.mark.parametrize("cancelled", [False, True])
def test_the_scene_changes_in_one_step_and_the_panel_in_the_next(cancelled):
    """Both at once held up the application's main thread; what is in the scene can't be cancelled any more."""
    seen = []

    class Client:
        def request(self, message, onEvent):
            self.onEvent = onEvent
            return 1

        def pump(self, seconds):
            self.onEvent(wire.Done(1))

        def cancel(self, number):
            seen.append("cancel")

    calls = {"onDone": seen.append, "onCancel": lambda: seen.append("cancelled")}
    job = EditJob(
        "remove", Client(), iter(()), dict, lambda event, seconds: seen.append("scene") or "outcome", calls
    )
    job.step()
    job.step()
    assert seen == ["scene"] and job.isRunning()
    job.cancel() if cancelled else job.step()
    assert seen == ["scene", "outcome"] and job.outcome == "outcome" and not job.isRunning()


def test_files_of_results_are_taken_away():
    exchange = Exchange()
    mask = nodes.Mask((slice(1, 3), slice(0, 2), slice(4, 6)), np.ones((2, 2, 2), bool))
    entry = exchange.sendMask("m", mask)
    assert exchange.read(entry["file"], bool, (2, 2, 2)).all() and not (exchange.path / "m").exists()
    exchange.remove()


def test_forgotten_folder_is_removed():
    exchange = Exchange()
    path = exchange.path
    assert path.is_dir()
    del exchange
    assert not path.exists()


def test_python_of_slicer_is_preferred(monkeypatch, tmp_path):
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / name
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("SLICER_HOME", str(tmp_path))
    assert worker_client.pythonExecutable() == str(program)
    monkeypatch.delenv("SLICER_HOME")
    assert worker_client.pythonExecutable() == sys.executable
    monkeypatch.setattr(sys, "executable", "/opt/Slicer/bin/SlicerApp-real")
    with pytest.raises(WorkerError, match="PythonSlicer isn't there"):
        worker_client.pythonExecutable()


def test_pipe_of_qt(tmp_path):
    """The same, with a QProcess, as in the application."""
    core = pytest.importorskip("PySide6.QtCore")
    core.QCoreApplication.instance() or core.QCoreApplication([])
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    sys.modules.setdefault("qt", core)
    pipe = pipes.QtPipe()
    pipe.start([sys.executable, str(script)], str(tmp_path), dict(os.environ))
    lines, limit = [], time.monotonic() + 120
    pipe.write(b'{"id": 1, "command": "echo", "value": 7}\n')
    while len(lines) < 2 and time.monotonic() < limit:
        lines += pipe.readLines()  # without an event loop and without waiting
        time.sleep(0.005)
    assert (
        b'"ready"' in lines[0] and b'"device": "7"' in lines[1] and pipe.isRunning() and pipe.processID() > 0
    )
    pipe.write(b'{"id": 2, "command": "crash"}\n')
    assert pipe.waitForEnd(120) and "no more memory" in pipe.errorText() and not pipe.isRunning()
    pipe.kill()
    if sys.modules.get("qt") is core:
        del sys.modules["qt"]

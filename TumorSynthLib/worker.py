"""The editor in a process of its own, behind JSON lines: it keeps torch and the model loaded between edits.

    python -m TumorSynthLib.worker --folder DIR

One request a line on stdin, one event a line on stdout; everything else that prints goes to stderr. Voxels go through files in
DIR, which the client makes and which both sides use by bare names; the worker removes it when stdin closes, and ends.

    → {"id": 1, "command": "edit", "edit": "remove", "model": "lung-nodule-ct", "device": "auto", "request": {"seed": 3},
       "volume": {"file": "v", "dtype": "int16", "shape": [K, J, I], "spacing": […], "origin": […], "direction": […]},
       "mask": {"file": "m", "box": [[k0, k1], [j0, j1], [i0, i1]]}}          (bytes of the box; positions are LPS mm)
    ← {"event": "ready", "pid": 4711, …}                                       once
    ← {"id": 1, "event": "progress", "stage": "texture", "fraction": 0.4, "remaining": 1.2}
    ← {"id": 1, "event": "done", "results": [{"box": …, "change": "r1-0-change", "mask": {…}, "asked": {…}, …}]}
    ← {"id": 1, "event": "error", "kind": "input|model|memory|cancelled|internal", "message": "…"}

Other commands: `measure` (as edit), `reach` (as measure, with `names`: an event "range" with `feature`, `low` and `high` for
each, as far as the tumour's own tissue can be taken), `preview` (the surface of a shape with asked features, LPS mm about its
centre), `warm` (load the model), `cancel`, `quit`. A cancel names the id of a request, under way or waiting, and is noticed at
the next report of progress; a client that can't wait ends the process. A line that is no request gets an error without an id.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import queue
import re
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from TumorSynthLib import __version__, wire
from TumorSynthLib.edit.edits import EDITS
from TumorSynthLib.edit.options import OPTIONS, Option, from_message
from TumorSynthLib.errors import Cancelled, InputError, OutOfMemory, TumorSynthError
from TumorSynthLib.exchange import PREFIX, Folder, remove_forgotten, well_formed
from TumorSynthLib.memory import give_back, reuse_memory
from TumorSynthLib.threads import share_cores

MODELS_KEPT = 2
MAX_LINE = 16 * 2**20  # bytes of a request; voxels go through files


class Worker:
    """Serves requests one after the other.

    :param send: takes an event (a dict) to the client.
    """

    def __init__(self, folder: Folder, send):
        self.folder, self.send = folder, send
        self._waiting: dict[Any, bool] = {}  # requests by id, and whether they were cancelled
        self._current: Any = None
        self._editors: dict[tuple[str, str, str], Any] = {}
        self._shapes: dict[tuple[str, str], Any] = {}

    def expect(self, number: Any) -> None:
        """A request of that id will be served: from now on it can be cancelled."""
        self._waiting[number] = False

    def cancel(self, number: Any) -> None:
        """Stop a request, be it under way or waiting; one that is done or unknown is left alone."""
        if number in self._waiting:
            self._waiting[number] = True

    def serve(self, request: Mapping[str, Any]) -> None:
        """Do one request; whatever goes wrong becomes an error event."""
        number = self._current = request.get("id")
        try:
            self._check_cancelled()
            with self._reported():
                done = self._do(number, request)
            self._tell(done)
        except TumorSynthError as error:
            self._tell(wire.Failed.of(number, error))
        except OSError as error:  # a full disk, a folder that is gone
            what = f"{error.filename}: " if error.filename else ""
            message = f"{what}{error.strerror or error}: check the disk and try again"
            self._tell(wire.Failed(number, "input", message))
        except Exception as error:
            traceback.print_exc()
            self._tell(wire.Failed(number, "internal", _one_line(error)))
        finally:
            self._current = None
            self._waiting.pop(number, None)
            if (
                request.get("command") != "preview"
            ):  # of which many follow each other: it would take longer than they do
                gc.collect()
                give_back()

    def _tell(self, event: wire.Event) -> None:
        self.send(wire.as_json(event))

    @contextlib.contextmanager
    def _reported(self):
        """Exhausted memory as what it is."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "memory" in str(error).lower():
                self._editors.clear()
                raise OutOfMemory(
                    "the memory didn't suffice for this edit: close other programs, or edit a smaller part of the tumour"
                ) from error
            raise

    def _do(self, number: Any, request: Mapping[str, Any]) -> wire.Done:
        message = wire.request_of(request)
        do = {
            wire.Edit: self._edit,
            wire.Measure: self._measure,
            wire.Reach: self._reach,
            wire.Preview: self._preview,
            wire.Warm: self._warm,
        }
        return wire.Done(number, **do[type(message)](message))

    def editor(self, model: str, device: str):
        """The editor of a model, kept between requests; another version of the model is noticed."""
        from TumorSynthLib.editor import Editor
        from TumorSynthLib.models import find

        bundle = find(model) if model else None
        key = (str(bundle.folder), bundle.sha256, device) if bundle else ("", "", device)
        editor = self._editors.pop(key, None) or Editor(bundle, device)
        self._editors[key] = editor  # the last used one comes last
        while len(self._editors) > MODELS_KEPT:
            self._editors.pop(next(iter(self._editors)))
        return editor

    def _edit(self, message: wire.Edit) -> dict[str, Any]:
        from TumorSynthLib.painted import parts

        editor = self.editor(message.model, message.device)
        with well_formed("an edit"):
            volume = self.folder.volume(message.volume)
            mask = self.folder.mask(message.mask, volume.array.shape) if message.mask else None
            series = message.series
            wanted = from_message(
                message.options, lambda row, entry: self._image(row, entry, volume.array.shape)
            )
        if mask is None and EDITS[message.edit].mask:
            raise InputError(
                f"the message has no mask, which {message.edit} needs: choose the tumour's segment"
            )
        steps = len(series[1]) if series and series[1] else 1
        progress = self._progress(message.edit, wanted, steps, message.estimate)
        images = (volume,) if mask is None else (volume, mask)
        found = getattr(editor, message.edit)(*images, *series, wanted, progress)
        results = found if isinstance(found, (list, tuple)) else [found]
        self._check_cancelled()
        if mask is not None and editor.bundle is not None:
            mask = parts(editor.bundle, mask, wanted.region)[0]
        return {
            "device": str(results[0].provenance.get("device") or ""),
            "results": tuple(self._result(f"r{self._current}-{i}", r, mask) for i, r in enumerate(results)),
        }

    def _image(self, row: Option, entry: Mapping[str, Any], shape):
        """What a request holds in place of an entry of the exchange."""
        if row.kind == "donor":
            image = self.folder.volume(entry["volume"])
            return image, self.folder.mask(entry["mask"], image.array.shape)
        return self.folder.mask(entry, shape)

    def _result(self, name: str, result, mask) -> dict[str, Any]:
        """An `EditResult` as JSON; the change of voxels, and the mask where it isn't the one given, as files."""
        import numpy as np

        from TumorSynthLib import delta

        patch = result.patch
        entry: dict[str, Any] = {key: getattr(result, key) for key in wire.TOLD}
        entry["box"] = [[s.start, s.stop] for s in patch.box]
        entry["checksums"] = [delta.checksum(patch.before), delta.checksum(patch.after)]
        entry["change"] = f"{name}-change"
        self.folder.file(entry["change"]).write_text(
            delta.encode(patch.before, patch.after), encoding="ascii"
        )
        if mask is None or not np.array_equal(mask, result.mask):
            entry["mask"] = self._mask(f"{name}-mask", result.mask)
        return entry

    def _mask(self, name: str, mask) -> dict[str, Any]:
        import numpy as np

        from TumorSynthLib.resampling import bounding_box

        box = bounding_box(mask)
        file = self.folder.write(name, np.ascontiguousarray(mask[box]))
        return {"file": file, "box": [[s.start, s.stop] for s in box]}

    def _measure(self, message: wire.Measure) -> dict[str, Any]:
        from TumorSynthLib.measurement import measure

        editor = self.editor(message.model, message.device) if message.model else None
        with well_formed("a measurement"):
            region, modality = (_text(message.request, name) for name in ("region", "modality"))
            volume = self.folder.volume(message.volume)
            mask = self.folder.mask(message.mask, volume.array.shape)
        if region and editor is not None:
            editor = editor.painting(region)
        self._tell(wire.Progress(self._current, "measure", 0.0))
        return {"measurement": measure(editor, volume, mask, modality)}

    def _reach(self, message: wire.Reach) -> dict[str, Any]:
        """Tell of each feature as soon as it is known, as all of them take long."""
        editor = self.editor(message.model, message.device)
        with well_formed("a search for ranges"):
            region, modality = (_text(message.request, name) for name in ("region", "modality"))
            volume = self.folder.volume(message.volume)
            mask = self.folder.mask(message.mask, volume.array.shape)
        editor = editor.painting(region) if region and editor.several else editor
        wanted = from_message({"modality": modality}, lambda row, entry: None)
        for name in message.names:
            found = editor.reachable(volume, mask, [name], wanted, lambda *_stage: self._check_cancelled())
            self._tell(wire.Range(self._current, name, *found[name]))
        return {}

    def _preview(self, message: wire.Preview) -> dict[str, Any]:
        """Vertices (V, 3) float32 and faces (F, 3) int32 of a surface, as files."""
        shapes = self._shape_model(message.model)
        OPTIONS["seed"].check(message.seed)
        surface = shapes.preview(dict(message.features), message.seed)
        found = {"vertices": surface.vertices.astype("float32"), "faces": surface.faces.astype("int32")}
        return {
            name: {"file": self.folder.write(f"preview-{name}", array), "shape": list(array.shape)}
            for name, array in found.items()
        }

    def _shape_model(self, model: str):
        """The shape model of a bundle, kept between requests."""
        from TumorSynthLib.models import find
        from TumorSynthLib.shaping import Shaper

        bundle = find(model)
        key = (str(bundle.folder), bundle.sha256)
        if key not in self._shapes:
            self._shapes = {key: Shaper(bundle, "cpu").model}
        return self._shapes[key]

    def _warm(self, message: wire.Warm) -> dict[str, Any]:
        return {"device": str(self.editor(message.model, message.device).load().device)}

    def _progress(self, edit: str, wanted, steps: int, estimate: float | None):
        """The editor's progress callback: tells the client, and stops the edit where it was cancelled."""
        from TumorSynthLib.pace import Pace

        pace, number = Pace.of(edit, wanted, steps, estimate), self._current

        def progress(stage: str, fraction: float) -> None:
            self._check_cancelled()
            self._tell(wire.Progress(number, stage, *pace.at(stage, fraction)))

        return progress

    def _check_cancelled(self) -> None:
        if self._waiting.get(self._current):
            raise Cancelled("the edit was cancelled; nothing has been changed")


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is a {type(value).__name__}, no text")
    return value


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (
        f"an error in the engine ({type(error).__name__}: {lines[0] if lines else 'no message'}); see the log"
    )


class _Lines:
    """Events as lines on the real stdout, which nothing else can reach any more."""

    def __init__(self):
        self._stream = os.fdopen(os.dup(1), "wb", buffering=0)
        sys.stdout.flush()
        os.dup2(2, 1)  # what libraries print, in C too, goes to stderr
        sys.stdout = sys.stderr
        self._lock = threading.Lock()

    def send(self, event: Mapping[str, Any]) -> None:
        from TumorSynthLib.provenance import plain

        line = json.dumps(plain(event), ensure_ascii=True, allow_nan=False) + "\n"
        with self._lock, contextlib.suppress(OSError):
            self._stream.write(line.encode("ascii"))


def _listen(worker: Worker, requests: queue.Queue, source) -> None:
    """Thread: requests to the queue, cancellations at once; the process ends where stdin does, or where this fails."""
    try:
        while line := source.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                while not line.endswith(b"\n") and (line := source.readline(MAX_LINE)):
                    pass
                _refuse(worker, None, f"a request has more than {MAX_LINE >> 20} MB")
            elif line.strip() and _heard(worker, requests, line):
                break
    finally:
        _end(worker.folder)  # in the middle of whatever computation


def _heard(worker: Worker, requests: queue.Queue, line: bytes) -> bool:
    """Take one line; True where it asks for the end."""
    try:
        request = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _refuse(worker, None, f"a request is not JSON ({str(error)[:80]})")
        return False
    number = request.get("id") if isinstance(request, dict) else None
    if not isinstance(request, dict):
        _refuse(worker, None, f"a request is a {type(request).__name__}, not a JSON object")
    elif request.get("command") == "quit":
        return True
    elif isinstance(number, bool) or not isinstance(number, (int, str, type(None))):
        _refuse(worker, None, f"a request's id is a {type(number).__name__}, neither a number nor a text")
    elif request.get("command") == wire.Cancel.command:
        worker.cancel(number)
    elif isinstance(number, str) and not re.fullmatch("[0-9A-Za-z_-]{1,64}", number):  # files are named by it
        _refuse(worker, None, "a request's id must have 1 to 64 letters, digits, - and _")
    else:
        worker.expect(number)
        requests.put(request)
    return False


def _refuse(worker: Worker, number: Any, why: str) -> None:
    worker.send(wire.as_json(wire.Failed(number, "input", f"{why}: it was left out")))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _end(folder: Folder) -> None:
    """End the process from any thread, without the folder."""
    folder.remove()
    os._exit(0)


def _end_at_signals(folder: Folder) -> None:
    """Let SIGTERM and SIGHUP end the process and remove the folder, at once, even in the middle of a computation.

    A thread waits for them, since Python's handlers run only between two of the main thread's instructions.
    """
    numbers = {getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}
    if not hasattr(signal, "pthread_sigmask"):  # Windows ends processes without a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # in this thread and those that it will start

    def wait() -> None:
        signal.sigwait(numbers)
        _end(folder)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m TumorSynthLib.worker", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", required=True, help="folder of the exchanged arrays, made by the client")
    args = parser.parse_args(arguments)
    folder = Path(args.folder)
    if not folder.is_dir() or not folder.name.startswith(PREFIX):
        parser.error(f"--folder must be an existing folder whose name begins with {PREFIX}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the application
    reuse_memory()
    share_cores()
    exchange = Folder(folder)
    exchange.hold()
    _end_at_signals(exchange)
    remove_forgotten(folder.absolute())
    lines = _Lines()
    requests: queue.Queue = queue.Queue()
    worker = Worker(exchange, lines.send)
    threading.Thread(target=_listen, args=(worker, requests, sys.stdin.buffer), daemon=True).start()
    lines.send(wire.as_json(wire.Ready(os.getpid(), wire.PROTOCOL, __version__)))
    while True:
        worker.serve(requests.get())


if __name__ == "__main__":
    sys.exit(main())

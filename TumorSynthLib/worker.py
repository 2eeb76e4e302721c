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

Other commands: `measure` (as edit), `preview` (the surface of a shape with asked features, LPS mm about its centre), `warm` (load
the model), `cancel`, `quit`. A cancel names the id of a request, under way or waiting, and is noticed at the next report of
progress; a client that can't wait ends the process. A line that is no request gets an error without an id.
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

from TumorSynthLib import __version__
from TumorSynthLib.edit.edits import EDITS as TABLE
from TumorSynthLib.edit.edits import names
from TumorSynthLib.edit.options import OPTIONS, Option, from_message
from TumorSynthLib.errors import Cancelled, InputError, ModelError, TumorSynthError
from TumorSynthLib.exchange import PREFIX, Folder, remove_forgotten, well_formed
from TumorSynthLib.memory import give_back, reuse_memory
from TumorSynthLib.numeric import is_finite
from TumorSynthLib.threads import share_cores

PROTOCOL = 1
EDITS = names(changes=True)
MODELS_KEPT = 2
RESULT_KEYS = (
    "asked",
    "used",
    "reached",
    "before",
    "timing",
    "provenance",
    "warnings",
    "spread",
    "differences",
)
MAX_LINE = 16 * 2**20  # bytes of a request; voxels go through files


class OutOfMemory(TumorSynthError):
    """The memory didn't suffice."""


KINDS = (
    (OutOfMemory, "memory"), (Cancelled, "cancelled"), (ModelError, "model"), (InputError, "input"),
    (TumorSynthError, "internal"),
)  # fmt: skip


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
                done = self._do(request)
            self.send({"id": number, "event": "done", **done})
        except TumorSynthError as error:
            kind = next(kind for cls, kind in KINDS if isinstance(error, cls))
            self.send({"id": number, "event": "error", "kind": kind, "message": str(error)})
        except OSError as error:  # a full disk, a folder that is gone
            what = f"{error.filename}: " if error.filename else ""
            message = f"{what}{error.strerror or error}: check the disk and try again"
            self.send({"id": number, "event": "error", "kind": "input", "message": message})
        except Exception as error:
            traceback.print_exc()
            self.send({"id": number, "event": "error", "kind": "internal", "message": _one_line(error)})
        finally:
            self._current = None
            self._waiting.pop(number, None)
            if (
                request.get("command") != "preview"
            ):  # of which many follow each other: it would take longer than they do
                gc.collect()
                give_back()

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

    def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        command = request.get("command")
        actions = {"edit": self._edit, "measure": self._measure, "preview": self._preview, "warm": self._warm}
        if not isinstance(command, str) or command not in actions:
            raise InputError(
                f"the worker has no command {_quoted(command)}: this module and its engine don't fit together"
            )
        return actions[command](request)

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

    def _edit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from TumorSynthLib.painted import parts

        edit = request.get("edit")
        if edit not in EDITS:
            raise InputError(f"this version of the engine can't {_quoted(edit)}: update the extension")
        editor = self.editor(*_model(request, needed=TABLE[edit].model))
        with well_formed("an edit"):
            volume = self.folder.volume(request["volume"])
            mask = self.folder.mask(request["mask"], volume.array.shape) if request.get("mask") else None
            given = dict(request.get("request") or {})
            series = _series(given) if edit == "series" else ()
            wanted = from_message(given, lambda row, entry: self._image(row, entry, volume.array.shape))
        if mask is None and TABLE[edit].mask:
            raise InputError(f"the message has no mask, which {edit} needs: choose the tumour's segment")
        progress = self._progress(request, edit, wanted, len(series[1]) if series and series[1] else 1)
        images = (volume,) if mask is None else (volume, mask)
        found = getattr(editor, edit)(*images, *series, wanted, progress)
        results = found if isinstance(found, (list, tuple)) else [found]
        self._check_cancelled()
        if mask is not None and editor.bundle is not None:
            mask = parts(editor.bundle, mask, wanted.region)[0]
        return {
            "device": str(results[0].provenance.get("device") or ""),
            "results": [self._result(f"r{request.get('id')}-{i}", r, mask) for i, r in enumerate(results)],
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
        entry: dict[str, Any] = {key: getattr(result, key) for key in RESULT_KEYS}
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

    def _measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from TumorSynthLib.measurement import measure

        editor = self.editor(*_model(request)) if request.get("model") else None
        with well_formed("a measurement"):
            options = dict(request.get("request") or {})
            region, modality = (_text(options, name) for name in ("region", "modality"))
            volume = self.folder.volume(request["volume"])
            mask = self.folder.mask(request["mask"], volume.array.shape)
        if region and editor is not None:
            editor = editor.painting(region)
        self.send(
            {
                "id": request.get("id"),
                "event": "progress",
                "stage": "measure",
                "fraction": 0.0,
                "remaining": None,
            }
        )
        return {"measurement": measure(editor, volume, mask, modality)}

    def _preview(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Vertices (V, 3) float32 and faces (F, 3) int32 of a surface, as files."""
        shapes = self._shape_model(_model(request)[0])
        with well_formed("a preview"):
            features, seed = dict(request.get("features") or {}), request.get("seed") or 0
        OPTIONS["seed"].check(seed)
        surface = shapes.preview(features, seed)
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

    def _warm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        editor = self.editor(*_model(request))
        return {"device": str(editor.load().device)}

    def _progress(self, request: Mapping[str, Any], edit: str, wanted, steps: int):
        """The editor's progress callback: tells the client, and stops the edit where it was cancelled."""
        from TumorSynthLib.pace import Pace

        estimate = request.get("estimate")
        pace = Pace.of(edit, wanted, steps, float(estimate) if is_finite(estimate) else None)

        def progress(stage: str, fraction: float) -> None:
            self._check_cancelled()
            whole, remaining = pace.at(stage, fraction)
            event = {"id": request.get("id"), "event": "progress", "stage": stage, "fraction": whole}
            self.send({**event, "remaining": remaining})

        return progress

    def _check_cancelled(self) -> None:
        if self._waiting.get(self._current):
            raise Cancelled("the edit was cancelled; nothing has been changed")


def _model(request: Mapping[str, Any], needed: bool = True) -> tuple[str, str]:
    """Model and device of a message; no model is "", where none is needed."""
    with well_formed("a model"):
        model, device = _text(request, "model"), _text(request, "device")
    if not model and needed:
        raise InputError("the message names no model: choose one")
    return model or "", device or "auto"


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is a {type(value).__name__}, no text")
    return value


def _quoted(value: Any) -> str:
    """For a message; of what is no text only the type is told, since its own text may be long or nested."""
    return repr(value[:40]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _series(given: dict[str, Any]) -> tuple[str | None, list[Any]]:
    """Feature and values of a series, taken out of its options."""
    feature, values = _text(given, "feature"), list(given.pop("values", None) or [])
    given.pop("feature", None)
    return feature, values


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
    elif request.get("command") == "cancel":
        worker.cancel(number)
    elif isinstance(number, str) and not re.fullmatch("[0-9A-Za-z_-]{1,64}", number):  # files are named by it
        _refuse(worker, None, "a request's id must have 1 to 64 letters, digits, - and _")
    else:
        worker.expect(number)
        requests.put(request)
    return False


def _refuse(worker: Worker, number: Any, why: str) -> None:
    worker.send({"id": number, "event": "error", "kind": "input", "message": f"{why}: it was left out"})


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
    lines, requests = _Lines(), queue.Queue()
    worker = Worker(exchange, lines.send)
    threading.Thread(target=_listen, args=(worker, requests, sys.stdin.buffer), daemon=True).start()
    lines.send({"event": "ready", "pid": os.getpid(), "protocol": PROTOCOL, "version": __version__})
    while True:
        worker.serve(requests.get())


if __name__ == "__main__":
    sys.exit(main())

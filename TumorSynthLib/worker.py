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
the model), `cancel`, `quit`. A cancel is noticed at the next report of progress; a client that can't wait ends the process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from TumorSynthLib import __version__
from TumorSynthLib.edit.edits import names
from TumorSynthLib.edit.options import Option, from_message
from TumorSynthLib.errors import Cancelled, InputError, ModelError, TumorSynthError
from TumorSynthLib.memory import give_back, reuse_memory
from TumorSynthLib.threads import share_cores

PROTOCOL = 1
PREFIX = "tumorsynth-"  # of the folder's name: no other one is ever removed
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
TYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float32",
    "float64",
)


class OutOfMemory(TumorSynthError):
    """The memory didn't suffice."""


KINDS = (
    (OutOfMemory, "memory"), (Cancelled, "cancelled"), (ModelError, "model"), (InputError, "input"),
    (TumorSynthError, "internal"),
)  # fmt: skip


class Folder:
    """The exchange of arrays; names are bare, so that nothing else can be read or written."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def file(self, name: Any) -> Path:
        """Path of a named file.

        :raises InputError: the name is not a bare one.
        """
        if not isinstance(name, str) or not name or name != os.path.basename(name) or name in (".", ".."):
            raise InputError(f"{name!r} is no name of a file in the exchange folder: use a bare name")
        return self.path / name

    def read(self, entry: Mapping[str, Any]):
        """Array of `file`, `dtype`, `shape`, mapped and not copied."""
        import numpy as np

        shape = tuple(int(n) for n in entry["shape"])
        if entry["dtype"] not in TYPES:
            raise InputError(
                f"the image holds {entry['dtype']} values, but an image of real numbers is needed"
            )
        path, dtype = self.file(entry["file"]), np.dtype(entry["dtype"])
        if not path.is_file() or path.stat().st_size != dtype.itemsize * int(np.prod(shape)):
            raise InputError(
                f"the exchange file {path.name} is missing or has another size than {shape}: try again"
            )
        return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)

    def mask(self, entry: Mapping[str, Any], shape):
        """(K, J, I) array of that shape from the bytes of a box: bool, or uint8 for a labelmap."""
        import numpy as np

        box = tuple(slice(int(a), int(b)) for a, b in entry["box"])
        dtype = "uint8" if entry.get("dtype") == "uint8" else "bool"
        mask = np.zeros(shape, dtype)
        part = self.read({"file": entry["file"], "dtype": dtype, "shape": [s.stop - s.start for s in box]})
        if mask[box].shape != part.shape:
            raise InputError("the mask's box lies outside the image: try again")
        mask[box] = part
        return mask

    def write(self, name: str, array) -> str:
        """Write an array's bytes; returns the name."""
        array.tofile(self.file(name))
        return name

    def remove(self) -> None:
        if self.path.name.startswith(PREFIX):
            shutil.rmtree(self.path, ignore_errors=True)


class Worker:
    """Serves requests one after the other.

    :param send: takes an event (a dict) to the client.
    """

    def __init__(self, folder: Folder, send):
        self.folder, self.send = folder, send
        self.cancelled = threading.Event()
        self._editors: dict[tuple[str, str, str], Any] = {}
        self._shapes: dict[tuple[str, str], Any] = {}

    def serve(self, request: Mapping[str, Any]) -> None:
        """Do one request; whatever goes wrong becomes an error event."""
        number = request.get("id")
        try:
            with self._reported():
                done = self._do(request)
            self.send({"id": number, "event": "done", **done})
        except TumorSynthError as error:
            kind = next(kind for cls, kind in KINDS if isinstance(error, cls))
            self.send({"id": number, "event": "error", "kind": kind, "message": str(error)})
        except Exception as error:
            traceback.print_exc()
            self.send({"id": number, "event": "error", "kind": "internal", "message": _one_line(error)})
        finally:
            if (
                request.get("command") != "preview"
            ):  # it takes longer than a preview, of which many follow each other
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
        if command not in actions:
            raise InputError(
                f"the worker has no command {command!r}: this module and its engine don't fit together"
            )
        return actions[command](request)

    def editor(self, model: str, device: str):
        """The editor of a model, kept between requests; another version of the model is noticed."""
        from TumorSynthLib.editor import Editor
        from TumorSynthLib.models import find

        bundle = find(model)
        key = (str(bundle.folder), bundle.sha256, device)
        editor = self._editors.pop(key, None) or Editor(bundle, device)
        self._editors[key] = editor  # the last used one comes last
        while len(self._editors) > MODELS_KEPT:
            self._editors.pop(next(iter(self._editors)))
        return editor

    def _volume(self, entry: Mapping[str, Any]):
        from TumorSynthLib.volume import Volume

        spacing, origin, direction = (tuple(map(float, entry[k])) for k in ("spacing", "origin", "direction"))
        return Volume(self.folder.read(entry), spacing, origin, direction, dict(entry.get("metadata") or {}))

    def _edit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from TumorSynthLib.painted import parts

        edit = request.get("edit")
        editor = self.editor(request["model"], request.get("device") or "auto")
        if edit not in EDITS or not hasattr(editor, edit):
            raise InputError(f"this version of the engine can't {edit}: update the extension")
        volume = self._volume(request["volume"])
        mask = self.folder.mask(request["mask"], volume.array.shape) if request.get("mask") else None
        given = dict(request.get("request") or {})
        series = (given.pop("feature", None), given.pop("values", None)) if edit == "series" else ()
        wanted = from_message(given, lambda row, entry: self._image(row, entry, volume.array.shape))
        progress = self._progress(request, edit, wanted, len(series[1]) if series and series[1] else 1)
        images = (volume,) if mask is None else (volume, mask)
        found = getattr(editor, edit)(*images, *series, wanted, progress)
        results = found if isinstance(found, (list, tuple)) else [found]
        self._check_cancelled()
        mask = None if mask is None else parts(editor.bundle, mask, wanted.region)[0]
        return {
            "device": str(getattr(editor, "used_device", "") or results[0].provenance.get("device") or ""),
            "results": [self._result(f"r{request['id']}-{i}", r, mask) for i, r in enumerate(results)],
        }

    def _image(self, row: Option, entry: Mapping[str, Any], shape):
        """What a request holds in place of an entry of the exchange."""
        if row.kind == "donor":
            image = self._volume(entry["volume"])
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

        editor = (
            self.editor(request["model"], request.get("device") or "auto") if request.get("model") else None
        )
        options = request.get("request") or {}
        if options.get("region"):
            editor = editor.painting(options["region"])
        volume = self._volume(request["volume"])
        mask = self.folder.mask(request["mask"], volume.array.shape)
        self.send(
            {"id": request["id"], "event": "progress", "stage": "measure", "fraction": 0.0, "remaining": None}
        )
        return {"measurement": measure(editor, volume, mask, options.get("modality"))}

    def _preview(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Vertices (V, 3) float32 and faces (F, 3) int32 of a surface, as files."""
        shapes = self._shape_model(request["model"])
        surface = shapes.preview(request.get("features") or {}, int(request.get("seed") or 0))
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
        editor = self.editor(request["model"], request.get("device") or "auto")
        return {"device": str(editor.load().device) if hasattr(editor, "load") else ""}

    def _progress(self, request: Mapping[str, Any], edit: str, wanted, steps: int):
        """The editor's progress callback: tells the client, and stops the edit where it was cancelled."""
        from TumorSynthLib.pace import Pace

        stages = ["prepare", "model", "texture", "measure"]
        if wanted.solve and edit != "remove":
            stages.append("solve")
        if edit in ("reshape", "insert", "series"):
            stages.append("shape")
        drawn = 1 if edit == "remove" else wanted.samples
        passes = drawn + (edit in ("move", "reshape"))
        pace = Pace(tuple(stages), passes, steps, request.get("estimate"))

        def progress(stage: str, fraction: float) -> None:
            self._check_cancelled()
            whole, remaining = pace.at(stage, fraction)
            event = {"id": request["id"], "event": "progress", "stage": stage, "fraction": whole}
            self.send({**event, "remaining": remaining})

        return progress

    def _check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("the edit was cancelled; nothing has been changed")


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
    """Thread: requests to the queue, cancellations at once; the process ends where stdin does."""
    current = -1
    for line in source:
        try:
            request = json.loads(line)
        except ValueError:
            print(f"not a request: {line[:80]!r}", file=sys.stderr)
            continue
        if request.get("command") == "cancel":
            if request.get("id") == current:
                worker.cancelled.set()
        elif request.get("command") == "quit":
            break
        else:
            current = request.get("id")
            worker.cancelled.clear()
            requests.put(request)
    worker.folder.remove()
    os._exit(0)  # from a thread, in the middle of whatever computation


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
    lines, requests = _Lines(), queue.Queue()
    worker = Worker(Folder(folder), lines.send)
    threading.Thread(target=_listen, args=(worker, requests, sys.stdin.buffer), daemon=True).start()
    lines.send({"event": "ready", "pid": os.getpid(), "protocol": PROTOCOL, "version": __version__})
    while True:
        worker.serve(requests.get())


if __name__ == "__main__":
    sys.exit(main())

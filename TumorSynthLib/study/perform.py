"""One job, done: files read, edit made or features measured, results written whole, and the row that the ledger gets."""

from __future__ import annotations

import errno
import gc
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from TumorSynthLib.errors import InputError, ModelError, TumorSynthError, noticed
from TumorSynthLib.memory import give_back
from TumorSynthLib.outputs import Staging
from TumorSynthLib.study.layouts import Layout
from TumorSynthLib.study.ledger import DONE, FAILED
from TumorSynthLib.study.plan import EXTRACT, Job
from TumorSynthLib.study.stamps import Stamps

NO_ROOM = "no room"  # a state that no ledger has: the job is still to be done
ROOM = 4 * 2**20  # bytes; with less on the disk an error of writing means that it is full
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MODELS_KEPT = 2


class Bench:
    """What a process keeps between jobs: the editors of the last models, with their networks.

    :param layout: where results go.
    :param threads: of the computations; the same number gives the same voxels on any number of processes.
    """

    def __init__(self, layout: Layout, device: str = "auto", threads: int = 1):
        self.layout, self.device, self.threads = layout, device, threads
        self._editors: dict[tuple[str, str], Any] = {}

    def do(self, job: Job) -> dict[str, Any]:
        """Do a job; whatever goes wrong is in the row, whose state is then "failed", or "no room" on a full disk."""
        start = time.perf_counter()
        there, stamps = self.layout.recovered(job), Stamps()
        if there is not None and not stamps.differ(
            there, job
        ):  # done by a process that died before it could tell
            return there
        row = {name: getattr(job, name) for name in ("id", "patient", "edit", "key", "model_sha256")}
        row |= {"name": job.stem, "model": job.model_id, "state": DONE, "input_stamp": stamps.of(job)}
        with noticed(show=False) as read:
            try:
                _limit_threads(self.threads, network=bool(job.model))
                row |= (
                    self._extracted(job, row, read) if job.edit == EXTRACT else self._edited(job, row, read)
                )
            except Exception as error:
                full = self._is_full(error)
                row |= {"state": NO_ROOM if full else FAILED, "error": _told(error), "warnings": list(read)}
        gc.collect()
        give_back()
        return {"finished": _now(), **row, "seconds": round(time.perf_counter() - start, 3)}

    def _extracted(self, job: Job, row: Mapping[str, Any], read: list) -> dict[str, Any]:
        """Measure; `read` are the warnings of reading files."""
        from TumorSynthLib.commands import extracted
        from TumorSynthLib.provenance import plain

        options = {name: job.options.get(name) for name in ("modality", "region")}
        bundle = self._editor(job).bundle if job.model else None
        asked = SimpleNamespace(
            image=job.image, mask=job.mask, label=job.label, settings=job.settings, **options
        )
        found, texts, _ = extracted(asked, bundle)
        paths = self.layout.paths(job)
        told = {
            "warnings": [*read, *texts],
            "outputs": self.layout.names(job),
            "modality": found.get("modality", ""),
            "finished": _now(),
        }
        found["batch"] = {**row, **told}
        with Staging() as staging:
            text = json.dumps(plain(found), indent=1, ensure_ascii=False, allow_nan=False)
            staging.file(paths["features"]).write_text(text + "\n", encoding="utf-8")
        return told

    def _edited(self, job: Job, row: Mapping[str, Any], read: list) -> dict[str, Any]:
        """Edit; `read` are the warnings of reading files."""
        from TumorSynthLib.commands import with_warnings, write_edit
        from TumorSynthLib.provenance import voxel_hash

        editor = self._editor(job)
        images, request = _inputs(job, editor.bundle)
        result = with_warnings(getattr(editor, job.edit)(*images, request), read)
        paths = self.layout.paths(job)
        told = {
            "asked": result.asked,
            "reached": {name: result.reached[name] for name in result.asked if name in result.reached},
            "warnings": list(result.warnings),
            "outputs": self.layout.names(job),
            "input_sha256": result.provenance["input"]["voxels_sha256"],
            "result_sha256": voxel_hash(result.volume.array),
            "modality": result.provenance["modality"],
            "finished": _now(),
        }
        batch = {**row, **told, "seconds": result.timing.get("total")}
        result = replace(result, provenance={**result.provenance, "batch": batch})
        files = {"image": job.image, **({"mask": job.mask} if job.mask else {})}
        labels = {} if job.label is None else {"mask": [str(job.label)]}
        for name, given in job.options.items():
            if isinstance(given, Mapping) and "mask" in given:  # of an option, or a donor's
                donor = {"donor_image": given["image"]} if "image" in given else {}
                role = "donor_mask" if donor else name
                files |= {**donor, role: given["mask"]}
                labels |= {} if given.get("label") is None else {role: [str(given["label"])]}
        with Staging() as staging:
            write_edit(staging, paths, result, files, labels=labels)
        return told

    def _editor(self, job: Job):
        """The editor of a job's model, kept with its network; the model must be the planned one."""
        from TumorSynthLib.editor import Editor

        key = (job.model_sha256, self.device)
        editor = self._editors.pop(key, None) or Editor(_bundle(job), self.device)
        self._editors[key] = editor  # the last used one comes last
        while len(self._editors) > MODELS_KEPT:
            self._editors.pop(next(iter(self._editors)))
        return editor

    def _is_full(self, error: BaseException) -> bool:
        if any(isinstance(e, OSError) and e.errno in _FULL for e in _chain(error)):
            return True
        try:
            return shutil.disk_usage(self.layout.folder).free < ROOM
        except OSError:
            return False


def _bundle(job: Job):
    """The planned model: from its folder, or from this machine's own models where that isn't within reach."""
    from TumorSynthLib.models import find

    found = []
    for name in (job.model, job.model_id):
        try:
            bundle = find(name)
        except (ModelError, InputError) as error:
            found.append(str(error))
            continue
        if bundle.sha256 == job.model_sha256:
            return bundle
        found.append(f"{name} is another version")
    raise ModelError(
        f"the planned model {job.model_id!r} isn't here ({'; '.join(found)}): put it on the shared disk, or plan again"
    )


def _inputs(job: Job, bundle) -> tuple[tuple[Any, ...], Any]:
    """The images of an edit and its request."""
    from TumorSynthLib.commands import option_mask
    from TumorSynthLib.edit.options import from_message
    from TumorSynthLib.edit.regions import keeping_others
    from TumorSynthLib.volume import read_image, read_labelmap, read_mask

    def tumour(path: str, like, label):
        if len(bundle.regions) > 1 and label is None:
            return read_labelmap(path, like)
        return read_mask(path, like, label)

    volume = read_image(job.image)

    def image(row, entry: Mapping[str, Any]):
        if row.kind == "donor":
            donor = read_image(entry["image"])
            return donor, tumour(entry["mask"], donor, entry.get("label"))
        return option_mask(row, entry["mask"], volume, entry.get("label"))

    request = from_message(job.options, image)
    if not job.mask:
        return (volume,), request
    mask = tumour(job.mask, volume, job.label)
    return (volume, mask), keeping_others(job.edit, request, job.mask, volume, [job.label], mask)


def _limit_threads(threads: int, network: bool) -> None:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if network:  # importing torch takes longer than an extraction
        import torch

        torch.set_num_threads(threads)


def _told(error: BaseException) -> str:
    if isinstance(error, TumorSynthError):
        return str(error)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "there is not enough memory: give fewer --workers, or a smaller region"
    return f"internal error: {type(error).__name__}: {error}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

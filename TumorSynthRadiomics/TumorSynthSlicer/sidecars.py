"""The mark beside what Slicer's ordinary Save writes: its storage nodes write no attributes of a volume."""

from __future__ import annotations

import json
import logging
import os

import slicer

from . import history, nodes

SAVED = "fileSaved(qSlicerIO::IOProperties)"  # of qSlicerCoreIOManager, once a file is written


def watchSaves() -> None:
    """From now on, write a record beside each file of a synthetic volume that the application saves."""
    stopWatching()
    slicer.app.coreIOManager().connect(SAVED, writeMissing)
    _watching.append(writeMissing)


def stopWatching() -> None:
    """The reverse of `watchSaves`, before the module is loaded anew."""
    while _watching:
        slicer.app.coreIOManager().disconnect(SAVED, _watching.pop())


_watching: list = []


def writeMissing(*unused) -> None:
    """Write a record beside each file that holds the voxels of a synthetic volume as they are now.

    Which file was saved isn't taken from the signal: a scene bundle, for example, leaves the file of a volume alone.
    """
    for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLSequenceNode"):
        for node in slicer.util.getNodesByClass(kind):
            if node.GetAttribute(nodes.SYNTHETIC) == "true":
                try:
                    _writeFor(node)
                except Exception:  # an image must not be lost because its record can't be written
                    logging.exception(
                        "Tumor Synth Radiomics: no record beside the file of %s", node.GetName()
                    )


def _writeFor(node) -> None:
    storage = node.GetStorageNode()
    path = storage.GetFullNameFromFileName() if storage is not None else ""
    if not path or not os.path.isfile(path):
        return
    saved, changed = os.path.getmtime(path), float(node.GetAttribute(history.CHANGED) or "inf")
    if saved < changed:  # a file from before the edit
        return
    sidecar = _place(path)
    if not os.path.isfile(sidecar) or os.path.getmtime(sidecar) < changed:
        _write(node, path, sidecar)


def _place(path: str) -> str:
    """Where the record of an image goes; the JSON file of another program stays as it is."""
    from TumorSynthLib.provenance import sidecar_path

    usual = sidecar_path(path)
    if usual.is_file() and not isRecord(usual):
        usual = usual.with_name(usual.stem + ".synthetic.json")
    return str(usual)


def isRecord(path) -> bool:
    """Whether a JSON file is the record of an edit."""
    from TumorSynthLib.errors import TumorSynthError
    from TumorSynthLib.provenance import read_sidecar

    try:
        read_sidecar(path)
    except TumorSynthError:
        return False
    return True


def _write(node, path: str, sidecar: str) -> None:
    from TumorSynthLib.provenance import plain, with_files

    records = history.provenanceOf(node)
    record = {**with_files(records[-1], {"result": path}), "edits": records}
    part = sidecar + ".part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(plain(record), file, indent=2, ensure_ascii=False, allow_nan=False)
        os.replace(part, sidecar)
    finally:
        if os.path.exists(part):
            os.remove(part)

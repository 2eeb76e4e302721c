"""Tables, cases and a tiny model for the tests of batches."""

import csv
import io
import json
from pathlib import Path

import editor_case
import numpy as np

from TumorSynthLib.study import ledger
from TumorSynthLib.study.plan import Job
from TumorSynthLib.volume import write_volume


def cases(folder: Path, count: int = 3) -> list[tuple[Path, Path]]:
    """Image and mask files of so many cases."""
    found = []
    for seed in range(count):
        volume, mask = editor_case.ct(seed)
        image, label = folder / f"case{seed}.nii.gz", folder / f"case{seed}_mask.nii.gz"
        write_volume(volume, image)
        write_volume(volume.with_array(mask.astype(np.uint8)), label)
        found.append((image, label))
    return found


def table(path: Path, rows: list[dict]) -> Path:
    """A CSV table of rows with any columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def rows(out: Path) -> list[dict[str, str]]:
    """The ledger's rows in a folder, in their order."""
    text = (out / ledger.NAME).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def job(number: int = 0, **changes) -> Job:
    """A job of its own."""
    plain = {
        "id": f"case{number}",
        "patient": f"case{number}",
        "edit": "extract",
        "image": f"/data/case{number}.nii.gz",
        "mask": f"/data/case{number}_mask.nii.gz",
        "label": None,
        "options": {},
    }
    return Job(**{**plain, **changes})


def row_of(job: Job, **changes) -> dict:
    """A row as a done job has it."""
    plain = {
        "name": job.stem,
        "id": job.id,
        "patient": job.patient,
        "edit": job.edit,
        "key": job.key,
        "state": "done",
    }
    outputs = {
        "outputs": json.dumps({"features": f"{job.id}/{job.stem}.json"}),
        "seconds": 0.5,
        "modality": "CT",
    }
    return {**plain, **outputs, **changes}

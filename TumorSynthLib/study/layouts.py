"""Where the results of a batch lie, and the files that a whole data set needs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.outputs import Staging
from TumorSynthLib.study.ledger import DONE
from TumorSynthLib.study.plan import EXTRACT, Job

LAYOUTS = ("flat", "nnunet")
SUFFIX = ".nii.gz"
FEATURES = "features.csv"
FOLDS = 5  # of nnU-Net's cross-validation
_DATASET = re.compile(r"Dataset\d{3}_\w+")


@dataclass(frozen=True)
class Layout:
    """Files of jobs in a folder.

    :param kind: "flat", a folder for each case; "nnunet", nnU-Net's raw data set, for which the folder is named as one.
    """

    folder: Path
    kind: str = "flat"

    def check(self) -> None:
        """Raise InputError where nnU-Net wouldn't find the data set."""
        if self.kind == "nnunet" and not _DATASET.fullmatch(self.folder.resolve().name):
            raise InputError(
                f"nnU-Net names its data sets like Dataset101_Lung: give --out such a folder, not {self.folder.name!r}"
            )

    def names(self, job: Job) -> dict[str, str]:
        """Role to file, relative to the folder with slashes; the sidecar has the image's name, as it records it."""
        stem = job.stem
        if job.edit == EXTRACT:
            return {"features": f"{'features' if self.kind == 'nnunet' else job.id}/{stem}.json"}
        if self.kind == "nnunet":
            return {
                "image": f"imagesTr/{stem}_0000{SUFFIX}",
                "sidecar": f"records/{stem}_0000.json",
                "mask": f"labelsTr/{stem}{SUFFIX}",
            }
        folder = job.id
        return {
            "image": f"{folder}/{stem}{SUFFIX}",
            "sidecar": f"{folder}/{stem}.json",
            "mask": f"{folder}/{stem}_mask{SUFFIX}",
        }

    def paths(self, job: Job) -> dict[str, Path]:
        """Role to file."""
        return {role: self.folder / name for role, name in self.names(job).items()}

    def recovered(self, job: Job) -> dict[str, Any] | None:
        """The row of a job whose results are whole, as it stands in their record; None if they aren't there."""
        paths = self.paths(job)
        try:
            row = json.loads(paths.get("sidecar", paths.get("features")).read_text(encoding="utf-8"))["batch"]
            there = row["key"] == job.key and all(path.is_file() for path in paths.values())
            return row if there else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_stale(self, ledger: Path) -> bool:
        """Whether a file about all results is missing or older than the ledger."""
        files = [self.folder / FEATURES, self.folder / "dataset.json"]
        try:
            return max(p.stat().st_mtime for p in files if p.exists()) < ledger.stat().st_mtime
        except (OSError, ValueError):
            return True

    def finish(self, rows: Iterable[Mapping[str, str]]) -> list[str]:
        """Write the files about all results, of the ledger's rows; returns notes."""
        rows = [row for row in rows if row["state"] == DONE]
        measured = [row for row in rows if row["edit"] == EXTRACT]
        edited = [row for row in rows if row["edit"] != EXTRACT]
        if measured:
            _write(self.folder / FEATURES, _feature_table(self.folder, measured))
        if self.kind == "nnunet" and edited:
            return self._dataset(edited)
        return []

    def _dataset(self, rows: list[Mapping[str, str]]) -> list[str]:
        modalities = sorted({row["modality"] for row in rows})
        folds = splits({row["name"]: row["patient"] for row in rows})
        notes = []
        if len(modalities) > 1:
            notes.append(
                f"the data set mixes {', '.join(modalities)}: give each modality an --out of its own"
            )
        if len(folds) < FOLDS:
            notes.append(
                f"{FOLDS} folds need as many patients: there are {len(folds)}, so {len(folds)} folds were made"
            )
        content = {
            "channel_names": {"0": modalities[0]},
            "labels": {"background": 0, "tumour": 1},
            "numTraining": len(rows),
            "file_ending": SUFFIX,
            "name": self.folder.resolve().name.partition("_")[2],
            "description": "Synthetic images: edited tumours. For research use only; not for diagnosis.",
            "synthetic": True,
        }
        _write(self.folder / "dataset.json", json.dumps(content, indent=1) + "\n")
        _write(self.folder / "splits_final.json", json.dumps(folds, indent=1) + "\n")
        return notes


def splits(patients: Mapping[str, str], folds: int = FOLDS) -> list[dict[str, list[str]]]:
    """nnU-Net's folds, in which all cases of a patient stay together.

    Patients are dealt out in the order of a hash of their names, so that the folds don't follow the names and don't depend on
    the order of the cases.

    :param patients: case to patient.
    :returns: for each fold the cases of "train" and "val"; as many folds as there are patients, if these are fewer.
    """
    order = sorted(set(patients.values()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    fold_of = {patient: i % folds for i, patient in enumerate(order)}
    cases = sorted(patients)
    return [
        {
            "train": [case for case in cases if fold_of[patients[case]] != fold],
            "val": [case for case in cases if fold_of[patients[case]] == fold],
        }
        for fold in range(min(folds, len(order)))
    ]


def _feature_table(folder: Path, rows: list[Mapping[str, str]]) -> str:
    """One row a measured case, one column a feature."""
    found: list[tuple[Mapping[str, str], Mapping[str, Any]]] = []
    names: dict[str, None] = {}
    for row in sorted(rows, key=lambda row: row["name"]):
        try:
            path = folder / json.loads(row["outputs"])["features"]
            features = json.loads(path.read_text(encoding="utf-8"))["features"]
        except (OSError, ValueError, KeyError):
            continue  # taken away since; the ledger still says that it was there
        found.append((row, features))
        names.update(dict.fromkeys(features))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "id", "patient", *names])
    for row, features in found:
        values = ["" if features.get(n) is None else repr(features[n]) for n in names]
        writer.writerow([row["name"], row["id"], row["patient"], *values])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with Staging() as staging:
        staging.file(path).write_text(text, encoding="utf-8", newline="")

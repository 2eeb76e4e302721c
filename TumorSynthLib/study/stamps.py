"""Whether the files that a job reads are still those that it read: their sizes and times, without opening them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from TumorSynthLib.study.plan import Job


class Stamps:
    """Stamps of jobs; each file is looked at once."""

    def __init__(self) -> None:
        self._seen: dict[str, list | None] = {}

    def of(self, job: Job) -> str:
        """A text that changes with the size or the time (whole seconds) of any file that a job reads; "" where one is missing.

        Of a folder, such as a DICOM series, all its files count.
        """
        found = [self._look(path) for path in sorted(set(files_of(job)))]
        if None in found:
            return ""
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]

    def differ(self, row: Mapping[str, Any], job: Job) -> bool:
        """Whether a job's files are there, and are others than a row tells of; one without a stamp is believed."""
        then = row.get("input_stamp")
        return bool(then) and self.of(job) not in ("", then)

    def _look(self, path: str) -> list | None:
        if path not in self._seen:
            try:
                self._seen[path] = [path, *_facts(path)]
            except OSError:
                self._seen[path] = None
        return self._seen[path]


def files_of(job: Job) -> Iterator[str]:
    """The files that a job reads, those of its options too."""
    yield from (path for path in (job.image, job.mask, job.settings) if path)
    for value in job.options.values():
        if isinstance(value, Mapping):  # of an image; features are numbers
            yield from (
                path for name, path in value.items() if name in ("image", "mask") and isinstance(path, str)
            )


def _facts(path: str) -> list:
    if not os.path.isdir(path):
        return _of(os.stat(path))
    with os.scandir(path) as entries:
        return sorted([entry.name, *_of(entry.stat())] for entry in entries if entry.is_file())


def _of(found: os.stat_result) -> list[int]:
    return [found.st_size, int(found.st_mtime)]

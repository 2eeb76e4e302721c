"""The ledger of a batch: a CSV file with one row for each job that has ended. What isn't in it is still to be done.

Rows are appended as jobs end, each in one write that reaches the disk, so that a killed process costs at most the row that was
being written; the next run drops a cut row, and does that job again unless its result says that it was done.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import InputError
from TumorSynthLib.outputs import Staging

NAME = "ledger.csv"
LOCK = ".batch.lock"
DONE, FAILED = "done", "failed"
#: asked, reached: JSON, feature to value, of what was asked for; outputs: JSON, role to file, relative to the ledger's folder;
#: input_stamp: see `stamps`, empty in ledgers of earlier versions.
COLUMNS = (
    "name",
    "id",
    "patient",
    "edit",
    "state",
    "seconds",
    "asked",
    "reached",
    "warnings",
    "error",
    "outputs",
    "input_sha256",
    "result_sha256",
    "input_stamp",
    "modality",
    "model",
    "model_sha256",
    "finished",
    "key",
)

Row = dict[str, str]


class Ledger:
    """The ledger in a folder, open for one run. Use as a context; only the run that holds it writes.

    :raises InputError: the file is no ledger, can't be written, or another run holds it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self.rows: dict[str, Row] = {}
        self._file: int | None = None
        self._lock: int | None = None

    def __enter__(self) -> Ledger:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(
                f"can't write to {self.folder} ({error.strerror}): choose another --out"
            ) from None
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of its lock."""
        for file in (self._file, self._lock):
            if file is not None:
                os.close(file)
        self._file = self._lock = None

    def _open(self) -> None:
        from TumorSynthLib.models.lock import try_lock

        if not try_lock(self._lock):
            raise InputError(
                f"another batch is writing to {self.folder}: wait for it, or choose another --out"
            )
        self.rows, whole = read(self.path)
        if not whole:
            self._rewrite()
        self._append()

    def _append(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def _rewrite(self) -> None:
        with Staging() as staging:
            staging.file(self.path).write_text(
                "".join(_lines(self.rows.values())), encoding="utf-8", newline=""
            )

    def forget(self, keys: set[str]) -> None:
        """Take out the rows of jobs that are to be done again."""
        if not keys & self.rows.keys():
            return
        self.rows = {key: row for key, row in self.rows.items() if key not in keys}
        os.close(self._file)
        self._file = None
        self._rewrite()
        self._append()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a job's row; it is on the disk when this returns.

        :raises InputError: the disk takes no more; the ledger is then as it was.
        """
        texts = {name: _cell(row.get(name)) for name in COLUMNS}
        line = _line(texts.values()).encode("utf-8")
        length = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("it took only a part of the row")
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, length)
            raise InputError(
                f"can't write to {self.path} ({error.strerror or error}): make room and give the same command again"
            ) from None
        self.rows[texts["key"]] = texts


def read(path: Path) -> tuple[dict[str, Row], bool]:
    """Rows of a ledger by the key of their job, and whether it holds just these, one a job, and no cut row.

    :raises InputError: the file is no ledger.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}, False
    except OSError as error:
        raise InputError(f"can't read {path} ({error.strerror})") from None
    end = data.rfind(b"\n") + 1
    text = data[:end].decode("utf-8", "replace")
    reader = csv.reader(io.StringIO(text, newline=""))
    head = next(reader, None)
    if head is None and not data.strip(b"\0"):  # an empty file, as a full disk leaves it
        return {}, False
    earlier = [name for name in COLUMNS if name != "input_stamp"]
    if head not in (list(COLUMNS), earlier):
        raise InputError(f"{path} is no ledger of this version's batches: choose another --out, or rename it")
    rows: dict[str, Row] = {}
    count = 0
    for cells in reader:
        count += 1
        if len(cells) == len(head) and cells[-1]:
            rows[cells[-1]] = {"input_stamp": "", **dict(zip(head, cells))}
    return rows, count == len(rows) and end == len(data) and head == list(COLUMNS)


def _lines(rows) -> Iterator[str]:
    yield _line(COLUMNS)
    for row in rows:
        yield _line(row[name] for name in COLUMNS)


def _line(cells) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: Any) -> str:
    """A value as text without line breaks, which would split the row."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return " ".join(str(value).split())

"""One installation at a time, over all processes; the system frees the lock when a process ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError

WAIT_S = 600.0
_POLL_S = 0.1


@contextlib.contextmanager
def locked(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if it is missing.

    Where the file system knows no locks (some network drives), go on without: the steps that follow are
    renames.

    :raises ModelError: if the folder can't be written, or another process holds the lock for longer than
        `wait_s`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ModelError(
            f"the models' folder {folder} can't be written ({error.strerror}); "
            "set TUMORSYNTH_MODELS to one that can"
        ) from None
    try:
        deadline = time.monotonic() + wait_s
        while not try_lock(file):
            if time.monotonic() > deadline:
                raise ModelError(
                    f"another process is installing a model in {folder}; wait until it is done and try again"
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(file)


def try_lock(file: int) -> bool:
    """Take the lock; False if another process has it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True

"""Locks on folders, which tell whether the process that made them lives; the system frees them when it ends."""

from __future__ import annotations

import os
from pathlib import Path


def lock(folder: str | os.PathLike, shared: bool = False) -> tuple[int | None, bool]:
    """A descriptor that locks a folder until it is closed or the process ends, or None; and whether another has the lock.

    None and False: the file system or the platform (Windows) knows no such locks.

    :param shared: others may hold it, too, but nobody alone.
    """
    if os.name == "nt":
        return None, False
    import fcntl

    try:
        descriptor = os.open(Path(folder), os.O_RDONLY)
    except OSError:
        return None, False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return descriptor, False
    except OSError as error:
        os.close(descriptor)
        return None, isinstance(error, BlockingIOError)


def unlock(descriptor: int | None) -> None:
    """Give back what `lock` gave."""
    if descriptor is not None:
        os.close(descriptor)

"""Small text files that a user names: read with a bound, and never from a pipe or device, which would hang or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from TumorSynthLib.errors import InputError, TumorSynthError


def read_small(
    path: str | os.PathLike, limit: int, what: str, error: type[TumorSynthError] = InputError
) -> bytes:
    """The bytes of a plain file.

    :param limit: bytes that it may have. :param what: it should be, for the message, e.g. "the record of an edit".
    :param error: class of the errors.
    :raises TumorSynthError: it is missing, a folder, pipe or device, too large, or can't be read.
    """
    path = Path(path)
    plain = f"{path} is a pipe, device or folder, no plain file: give {what} as a file"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise error(plain)
        # Without waiting, should it have become a pipe meanwhile, which would open only when somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"there is no file {path}, which should be {what}: check its name") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"can't read {path} ({reason}): check its name and permissions") from None
    with os.fdopen(descriptor, "rb") as file:
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise error(plain)
            data = file.read(limit + 1)
        except OSError as problem:
            raise error(f"can't read {path} ({problem.strerror}): check the disk") from None
    if len(data) > limit:
        raise error(f"{path} is too large for {what} (more than {limit / 2**20:.3g} MB): check its name")
    return data

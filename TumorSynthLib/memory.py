"""How freed memory is kept between layers of a network, and given back between edits; glibc only, no effect elsewhere."""

from __future__ import annotations

import contextlib
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h


def reuse_memory() -> None:
    """Ask glibc to keep freed blocks: the network's large arrays are then not mapped and cleared anew at each layer, which
    saves a tenth of an edit's time."""
    for name in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        _call("mallopt", name, 2**31 - 1)


def give_back() -> None:
    """Return freed blocks to the system."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library, without the function
        getattr(ctypes.CDLL(None), function)(*arguments)

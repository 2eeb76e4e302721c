"""Errors that a user can act on, each with the exit code of the command line, and what readers of files warn of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TumorSynthError(Exception):
    """Base of all errors raised on purpose; the message is one line that says what, why and what to do."""

    exit_code = 1


class InputError(TumorSynthError):
    """The image, mask, feature or option can't be used as given."""

    exit_code = 2


class ModelError(TumorSynthError):
    """A model is missing, damaged or does not fit the request."""

    exit_code = 3


class OutOfMemory(TumorSynthError):
    """The memory didn't suffice."""


class Cancelled(TumorSynthError):
    """The user stopped the edit; nothing was written."""

    exit_code = 130


class ImageWarning(Warning):
    """What a reader had to choose, leave out or resample; one line that the user should know of."""


@contextmanager
def noticed(show: bool = True) -> Iterator[list[str]]:
    """Context that gives a list of what readers warn of within it, each text once; for the record of what is made of the files.

    :param show: let the warnings be shown as they are without it, too.
    """
    found: list[str] = []
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def keep(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            text = " ".join(str(message).split())
            if issubclass(category, ImageWarning) and text not in found:
                found.append(text)
            if show or not issubclass(category, ImageWarning):
                shown(message, category, *where, **more)

        warnings.showwarning = keep
        warnings.simplefilter("always", ImageWarning)
        yield found

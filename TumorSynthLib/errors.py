"""Errors that a user can act on, each with the exit code of the command line."""


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

"""Standard streams that can't fail: closed, full or gone ones, characters that a terminal lacks or shouldn't be sent."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

#: Control characters, which move the cursor or rename the window; marks that turn the direction of writing; halves of
#: surrogate pairs, as Python reads names that aren't UTF-8. Tabs and line ends stay.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: What stands for a character that the stream's encoding lacks.
_PLAIN = {
    "σ": "SD", "–": "-", "—": "-", "…": "...", "×": "x", "²": "^2", "³": "^3", "µ": "u", "μ": "u", "±": "+-", "°": " deg",
    "≤": "<=", "≥": ">=", "−": "-", "→": "->", "‘": "'", "’": "'", "“": '"', "”": '"', "\xa0": " ",
}  # fmt: skip


def shown(text: str, encoding: str | None = "utf-8") -> str:
    """The text as a terminal of that encoding can show it, without characters that would steer the terminal."""
    text = _UNSAFE.sub(_escaped, text)
    try:
        text.encode(encoding or "utf-8")
        return text
    except UnicodeEncodeError:
        return "".join(_in(encoding or "utf-8", character) for character in text)
    except LookupError:  # an encoding that Python doesn't know
        return text.encode("ascii", "backslashreplace").decode("ascii")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that isn't UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _in(encoding: str, character: str) -> str:
    with contextlib.suppress(UnicodeEncodeError):
        character.encode(encoding)
        return character
    return _PLAIN.get(character, "?")


class Sturdy:
    """A text stream for `print` around another one, or around none; `lost` is the error after which nothing arrives."""

    def __init__(self, stream):
        self._stream = stream
        self.lost: OSError | None = None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.errors = "replace"

    def write(self, text: str) -> int:
        self.draw(shown(text, self.encoding))
        return len(text)

    def draw(self, text: str) -> None:
        """Write a text as it is: a progress bar, which returns to the line's beginning."""
        if self._stream is not None and self.lost is None:
            self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        if self._stream is not None and self.lost is None:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("this stream is closed")
        return self._stream.fileno()

    def _try(self, action) -> None:
        try:
            action()
        except OSError as error:
            self.lost = error
            with contextlib.suppress(
                OSError, ValueError
            ):  # what is left in the buffer would fail again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except ValueError as error:  # closed by somebody
            self.lost = OSError(str(error))


@contextlib.contextmanager
def sturdy_streams() -> Iterator[tuple[Sturdy, Sturdy]]:
    """Stdout and stderr as `Sturdy` ones; a closed descriptor 0, 1 or 2 is opened, so that no file of ours gets it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    before = sys.stdout, sys.stderr
    out, err = Sturdy(before[0]), Sturdy(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before

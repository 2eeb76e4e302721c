"""A child process that talks in lines, read without ever blocking: by QProcess in the application, by threads elsewhere.

Both kinds have `start`, `write`, `readLines`, `isRunning`, `errorText`, `closeInput` and `kill`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque

ERROR_LINES = 40  # of the child's stderr that are kept for a message


class ThreadPipe:
    """A `subprocess` whose output is read by threads; for Python without Qt."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._lines: queue.Queue = queue.Queue()
        self._errors: deque = deque(maxlen=ERROR_LINES)
        self._readers: list[threading.Thread] = []  # of output and errors

    def start(self, command: list[str], folder: str, environment: dict[str, str]) -> None:
        options = (
            {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {"start_new_session": True}
        )
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            **options,
        )  # fmt: skip
        for stream, put in (
            (self._process.stdout, self._lines.put),
            (self._process.stderr, self._errors.append),
        ):
            self._readers.append(threading.Thread(target=_drain, args=(stream, put), daemon=True))
            self._readers[-1].start()

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended; `isRunning` tells
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def readLines(self, waitSeconds: float = 0.0) -> list[bytes]:
        """Whole lines that have arrived; waits for the first one at most so long."""
        lines = []
        with contextlib.suppress(queue.Empty):
            lines.append(self._lines.get(timeout=waitSeconds) if waitSeconds else self._lines.get_nowait())
            while True:
                lines.append(self._lines.get_nowait())
        return lines

    def isRunning(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def processID(self) -> int:
        return self._process.pid if self._process else 0

    def errorText(self) -> str:
        if not self.isRunning() and self._readers:
            self._readers[-1].join(1.0)  # a busy machine lets it read the last words later
        return b"".join(self._errors).decode("utf-8", "replace")

    def closeInput(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def waitForEnd(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.isRunning()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self.waitForEnd(1.0)


class QtPipe:
    """A QProcess, which reads in Qt's event loop without threads of Python."""

    def __init__(self):
        import qt

        self._qt, self._process = qt, qt.QProcess()
        self._rest = b""
        self._errors = deque(maxlen=ERROR_LINES)

    def start(self, command: list[str], folder: str, environment: dict[str, str]) -> None:
        variables = self._qt.QProcessEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        self._process.setProcessEnvironment(variables)
        self._process.setWorkingDirectory(folder)
        self._process.start(command[0], command[1:])
        if not self._process.waitForStarted(10000):
            raise OSError(f"{command[0]} can't be started")

    def write(self, data: bytes) -> None:
        self._process.write(data)

    def readLines(self, waitSeconds: float = 0.0) -> list[bytes]:
        if self.isRunning() and not self._process.bytesAvailable():
            # With 0 ms it only looks: what has arrived is then there without the event loop, too.
            self._process.waitForReadyRead(int(1000 * waitSeconds))
        self._readErrors()
        *lines, self._rest = (self._rest + _bytes(self._process.readAllStandardOutput())).split(b"\n")
        return lines

    def isRunning(self) -> bool:
        return int(_number(_get(self._process, "state"))) != 0

    def processID(self) -> int:
        return int(_get(self._process, "processId") or 0)

    def errorText(self) -> str:
        self._readErrors()
        return b"\n".join(self._errors).decode("utf-8", "replace")

    def closeInput(self) -> None:
        self._process.closeWriteChannel()

    def waitForEnd(self, seconds: float) -> bool:
        return not self.isRunning() or bool(self._process.waitForFinished(int(1000 * seconds)))

    def kill(self) -> None:
        self._process.kill()
        self.waitForEnd(1.0)

    def _readErrors(self) -> None:
        self._errors.extend(
            line for line in _bytes(self._process.readAllStandardError()).split(b"\n") if line
        )


def makePipe():
    """A pipe of the kind that fits where this runs."""
    qt = sys.modules.get("qt")
    if qt is not None and hasattr(qt, "QProcess") and qt.QCoreApplication.instance() is not None:
        return QtPipe()
    return ThreadPipe()


def endTree(*processIDs: int) -> None:
    """End processes and their children at once: a launcher's child would outlive the launcher."""
    for number in {n for n in processIDs if n and n > 1}:
        if os.name == "nt":
            command = ["taskkill", "/T", "/F", "/PID", str(number)]
            subprocess.run(
                command, capture_output=True, creationflags=subprocess.CREATE_NO_WINDOW, check=False
            )
        else:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)


def _drain(stream, put) -> None:
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            put(line)


def _bytes(data) -> bytes:
    """Bytes of a QByteArray: PythonQt's and PySide6's `data()` give bytes."""
    data = data.data() if hasattr(data, "data") else data
    return data if isinstance(data, bytes) else bytes(data)


def _get(instance, name: str):
    """A value that is a property in PythonQt or a method."""
    value = getattr(instance, name)
    return value() if callable(value) else value


def _number(value) -> int:
    return value.value if hasattr(value, "value") else value

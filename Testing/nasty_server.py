"""A local web server that misbehaves on request, for the download tests."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does with the next requests; `requests` collects (method, path, headers)."""

    data: bytes = b""
    etag: str | None = '"one"'
    last_modified: str | None = None
    drop_after: list[int] = field(
        default_factory=list
    )  # bytes of the body before the connection breaks, per request
    statuses: list[int] = field(default_factory=list)  # error codes to answer first
    ranges: bool = True
    wrong_range: bool = False  # answers another part than asked
    declared: int | None = None  # Content-Length to claim
    no_length: bool = False
    redirect: str | None = None
    encoding: str | None = None
    byte_pause_s: float = 0.0  # between two bytes of the body
    head_pause_s: float = 0.0  # between two bytes of the answer's head
    change_to: bytes | None = None  # the file from the second request on, with another ETag
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def gets(self) -> list[dict[str, str]]:
        """Headers of the GET requests so far."""
        return [headers for method, _, headers in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)
        if self.behaviour.change_to is not None:
            self.behaviour.data, self.behaviour.etag = self.behaviour.change_to, '"two"'

    def _answer(self, body: bool) -> None:
        nasty = self.behaviour
        nasty.requests.append((self.command, self.path, dict(self.headers)))
        if body and nasty.statuses:
            self._head(nasty.statuses.pop(0), {"Content-Length": "0"})
            return
        if nasty.redirect and self.path != "/moved":
            self._head(302, {"Location": nasty.redirect, "Content-Length": "0"})
            return
        start = self._asked_start() if body else 0
        if start >= len(nasty.data) > 0:
            self._head(416, {"Content-Range": f"bytes */{len(nasty.data)}", "Content-Length": "0"})
            return
        sent = nasty.data[start:]
        headers = {"Content-Length": str(nasty.declared if nasty.declared is not None else len(sent))}
        if nasty.no_length:
            headers = {}
        if start:
            shown = start + 1 if nasty.wrong_range else start
            headers["Content-Range"] = f"bytes {shown}-{len(nasty.data) - 1}/{len(nasty.data)}"
        for name, value in (("ETag", nasty.etag), ("Last-Modified", nasty.last_modified),
                            ("Content-Encoding", nasty.encoding)):  # fmt: skip
            if value:
                headers[name] = value
        self._head(206 if start else 200, headers)
        if body:
            self._send(sent)

    def _asked_start(self) -> int:
        """First byte to send: what Range asks, if ranges are known and If-Range names this version."""
        nasty = self.behaviour
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (nasty.etag, nasty.last_modified)
        return int(match[1]) if match and nasty.ranges and same else 0

    def _slowly(self, data: bytes, pause: float) -> None:
        if not pause:
            self.wfile.write(data)
            return
        with contextlib.suppress(OSError):  # the client has given up
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(pause)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        if self.behaviour.head_pause_s:
            self._slowly(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000, self.behaviour.head_pause_s)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        if self.behaviour.drop_after:
            data = data[: self.behaviour.drop_after.pop(0)]
        self._slowly(data, self.behaviour.byte_pause_s)
        self.close_connection = True


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """Run the server on a free port of this machine; yields its address without a trailing slash."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # a client that went away is no news for the tests that follow
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""Download of one file over https: resumed after a break, bounded in size, and checked by SHA-256.

A download goes to ``NAME.part`` with ``NAME.part.json`` beside it, which remembers the address and what the
server said about the file's version (ETag or Last-Modified). A later attempt asks for the rest with ``Range``
and ``If-Range``, so that the halves of two different files are never glued together. Proxies come from the
environment, as urllib reads it.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .. import __version__
from ..errors import ModelError

Progress = Callable[[str, float], None]

ATTEMPTS = 5  # without a new byte; the count starts again whenever some arrive
FIRST_PAUSE_S = 1.0  # doubled at each attempt
TIMEOUT_S = 30.0  # without a byte from the server
CHUNK = 256 * 2**10
LEAST_RATE = 1000.0  # bytes per second, on average over `PATIENCE_S`: a slower server is given up
PATIENCE_S = 60.0
ANSWER_S = 60.0  # until a server's answer begins, with all its headers
TOTAL_S = 6 * 3600.0  # of one download, over all attempts
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


class _Interrupted(Exception):
    """The connection broke, or the server is busy; what arrived is kept. The message is for the user."""


class _Restart(Exception):
    """What is in the .part can't be continued."""


@dataclass(frozen=True)
class Rules:
    """How to download; the tests shorten the pauses and allow http to this machine."""

    attempts: int = ATTEMPTS
    first_pause_s: float = FIRST_PAUSE_S
    timeout_s: float = TIMEOUT_S
    allow_loopback_http: bool = False
    least_rate: float = LEAST_RATE
    patience_s: float = PATIENCE_S
    answer_s: float = ANSWER_S
    total_s: float = TOTAL_S


class _Watch:
    """Ends a download whose server sends too slowly, or that takes too long."""

    def __init__(self, url: str, rules: Rules):
        self.url, self.rules = url, rules
        self.end = time.monotonic() + rules.total_s
        self.begin()

    def begin(self) -> None:
        """A new attempt."""
        self._since, self._got = time.monotonic(), 0

    def count(self, got: int) -> None:
        """So many more bytes have come.

        :raises ModelError: too few since the last look, or too late.
        """
        now = time.monotonic()
        self._got += got
        late, passed = now > self.end, now - self._since
        slow = passed >= self.rules.patience_s and self._got < self.rules.least_rate * passed
        if late or slow:
            why = (
                f"takes more than {self.rules.total_s / 3600:.3g} h"
                if late
                else f"sends {self._got / passed:.0f} bytes a second only"
            )
            raise ModelError(
                f"the server of {_shown(self.url)} {why}; start it again later, or install from a file"
            )
        if passed >= self.rules.patience_s:
            self._since, self._got = now, 0


def check_address(url: str, allow_loopback_http: bool = False) -> None:
    """Refuse all but https (and http to this machine, where a test allows it).

    :raises ModelError: with the reason.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises where it is no port
        good = url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise ModelError(f"{_shown(url)} is no valid address; check it")
    if parts.scheme == "https" and parts.hostname:
        return
    if allow_loopback_http and parts.scheme == "http" and _is_loopback(parts.hostname):
        return
    raise ModelError(
        f"{_shown(url)} is not an https address; models are downloaded over https only. "
        "Download it yourself and install from the file"
    )


def download(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    sha256: str,
    size: int | None = None,
    rules: Rules | None = None,
    progress: Progress | None = None,
) -> None:
    """Download `url` to `path`, continuing ``path.part`` if an earlier attempt left one.

    :param sha256: the file's hash; a file that differs is deleted, and fetched once more if it was continued.
    :param size: the exact size if it is known; else `max_bytes` bounds it.
    :raises ModelError: refused address, no connection, other size, other hash. Only the ``.part`` of a broken
        download stays.
    """
    rules = rules or Rules()
    check_address(url, rules.allow_loopback_http)
    part = _Part(path, url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.size() > 0
        _fetch_all(url, part, size, max_bytes, rules, progress)
        if resumed and part.hash() != sha256:
            part.clear()
            _fetch_all(url, part, size, max_bytes, rules, progress)
        found = part.hash()
        if found == sha256:
            part.finish(path)
            return
        part.clear()
    except OSError as error:
        raise ModelError(
            f"{part.path} can't be written ({error.strerror}); check permissions and free space"
        ) from None
    raise ModelError(
        f"{_shown(url)} is not the expected file: its SHA-256 is {found}, expected {sha256}. "
        "Nothing was installed; try again later, or tell the model's author"
    )


def fetch(
    url: str,
    max_bytes: int,
    *,
    allow_loopback_http: bool = False,
    timeout_s: float = TIMEOUT_S,
    total_s: float = ANSWER_S,
) -> bytes:
    """Small file as bytes, e.g. a catalogue.

    :raises ModelError: refused address, no connection, or more than `max_bytes`.
    """
    check_address(url, allow_loopback_http)
    rules = Rules(
        timeout_s=timeout_s, allow_loopback_http=allow_loopback_http, total_s=total_s, answer_s=total_s
    )
    watch, data = _Watch(url, rules), b""
    try:
        with _open(url, {}, rules) as response:
            declared = response.length
            while len(data) <= max_bytes and (chunk := response.read1(CHUNK)):
                data += chunk
                watch.count(len(chunk))
    except urllib.error.HTTPError as error:
        raise ModelError(_http_reason(url, error)) from None
    except _BROKEN as error:
        raise ModelError(_connection_reason(url, error)) from None
    if len(data) > max_bytes:
        raise ModelError(f"{_shown(url)} is larger than {max_bytes >> 20} MB; check the address")
    if declared is not None and len(data) < declared:
        raise ModelError(f"the connection to {_shown(url)} broke off; try again")
    return data


def remote_size(url: str, rules: Rules | None = None) -> int | None:
    """Size that the server states for `url`, or None if it says nothing or can't be reached."""
    rules = rules or Rules()
    check_address(url, rules.allow_loopback_http)
    try:
        with _open(url, {}, rules, method="HEAD") as response:
            return _count(response.headers.get("Content-Length", ""))
    except _BROKEN:
        return None


def _count(text: str) -> int | None:
    """A number of bytes in a header; None where it is none."""
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None


class _Part:
    """The unfinished file and the note beside it."""

    def __init__(self, path: Path, url: str) -> None:
        self.url = url
        self.path = path.with_name(path.name + ".part")
        self.note = path.with_name(path.name + ".part.json")

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def validator(self) -> str:
        """ETag or Last-Modified of the file that the .part is the beginning of; empty if unknown."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return note["validator"] if note["url"] == self.url and isinstance(note["validator"], str) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, validator: str) -> None:
        self.clear()
        self.note.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def clear(self) -> None:
        for path in (self.path, self.note):
            path.unlink(missing_ok=True)

    def hash(self) -> str:
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
        return digest.hexdigest()

    def finish(self, path: Path) -> None:
        os.replace(self.path, path)
        self.note.unlink(missing_ok=True)


def _fetch_all(
    url: str, part: _Part, size: int | None, max_bytes: int, rules: Rules, progress: Progress | None
) -> None:
    failures = restarts = 0
    watch = _Watch(url, rules)
    while True:
        before = part.size()
        try:
            watch.begin()
            _fetch_rest(url, part, size, max_bytes, rules, progress, watch)
            return
        except _Restart:
            part.clear()
            restarts += 1
            if restarts > 2:
                raise ModelError(
                    f"the server of {_shown(url)} changes the file all the time; try again later"
                ) from None
        except _Interrupted as broken:
            failures = 1 if part.size() > before else failures + 1
            if failures >= rules.attempts:
                raise ModelError(str(broken)) from None
            time.sleep(rules.first_pause_s * 2 ** (failures - 1))


def _fetch_rest(
    url: str,
    part: _Part,
    size: int | None,
    max_bytes: int,
    rules: Rules,
    progress: Progress | None,
    watch: _Watch,
) -> None:
    start, validator = part.size(), part.validator()
    if start and (not validator or (size is not None and start > size)):
        raise _Restart
    if start and start == size:
        return
    headers = {"Range": f"bytes={start}-", "If-Range": validator} if start else {}
    with _connect(url, headers, rules) as response:
        if response.status == 206 and start:
            total = _continued_total(response, start)
        else:
            start, total = 0, response.length
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ModelError(
                f"the server of {_shown(url)} sends the file re-encoded; install from a file instead"
            )
        _check_size(url, total, size, max_bytes)
        if start == 0:
            part.begin(_validator(response))
        _receive(url, response, part, start, total, size, max_bytes, progress, watch)


def _connect(url: str, headers: dict[str, str], rules: Rules) -> http.client.HTTPResponse:
    """`_open`, with its failures sorted into those worth another attempt and those not."""
    try:
        return _open(url, headers, rules)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and headers:
            raise _Restart from None
        if error.code in _TRANSIENT:
            raise _Interrupted(_http_reason(url, error)) from None
        raise ModelError(_http_reason(url, error)) from None
    except _BROKEN as error:
        reason = _connection_reason(url, error)
        if isinstance(_cause(error), ssl.SSLCertVerificationError):
            raise ModelError(reason) from None
        raise _Interrupted(reason) from None


def _receive(
    url: str,
    response: http.client.HTTPResponse,
    part: _Part,
    start: int,
    total: int | None,
    size: int | None,
    max_bytes: int,
    progress: Progress | None,
    watch: _Watch,
) -> None:
    limit = size if size is not None else max_bytes
    got = start
    with open(part.path, "ab") as file:
        while True:
            try:
                chunk = response.read1(CHUNK)  # what there is: `read` would wait for all of it
            except _BROKEN:
                raise _Interrupted(_broke_off(url, got)) from None
            if not chunk:
                break
            got += len(chunk)
            if got > limit:
                file.close()
                part.clear()
                raise ModelError(
                    f"{_shown(url)} sends more than the {limit:,} bytes expected; nothing was installed"
                )
            file.write(chunk)
            file.flush()  # a download that is given up continues from here
            watch.count(len(chunk))
            if progress:
                progress("download", got / max(1, total or size or max_bytes))
    expected = total if total is not None else size
    if expected is not None and got < expected:
        raise _Interrupted(_broke_off(url, got))


def _continued_total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Total size from ``Content-Range: bytes START-END/TOTAL``; another start than asked means the server
    confuses things."""
    text = response.headers.get("Content-Range", "")
    unit, _, span = text.partition(" ")
    first, _, rest = span.partition("-")
    total = rest.partition("/")[2]
    if unit != "bytes" or first != str(start):
        raise _Restart
    return _count(total)


def _validator(response: http.client.HTTPResponse) -> str:
    """A strong ETag, else Last-Modified, else nothing; ``If-Range`` forbids weak ETags."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _check_size(url: str, total: int | None, size: int | None, max_bytes: int) -> None:
    if total is None:
        return
    if size is not None and total != size:
        raise ModelError(
            f"{_shown(url)} has {total:,} bytes, expected {size:,}; nothing was installed. "
            "Try again later, or tell the model's author"
        )
    if total > max_bytes:
        raise ModelError(
            f"{_shown(url)} has {total:,} bytes, more than the {max_bytes:,} allowed; nothing was installed"
        )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that would have been allowed in the first place."""

    max_redirections = 5

    def __init__(self, allow_loopback_http: bool) -> None:
        self.allow_loopback_http = allow_loopback_http

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            check_address(newurl, self.allow_loopback_http)
        except ModelError:
            raise ModelError(
                f"{_shown(req.full_url)} redirects to {_shown(newurl)}, which is not https; refused"
            ) from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], rules: Rules, method: str = "GET") -> http.client.HTTPResponse:
    request = urllib.request.Request(
        url,
        method=method,
        headers={
            "User-Agent": f"TumorSynthRadiomics/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        },
    )
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=_tls()), _SafeRedirects(rules.allow_loopback_http)
    )
    return _in_time(lambda: opener.open(request, timeout=rules.timeout_s), url, rules.answer_s)


def _in_time(
    call: Callable[[], http.client.HTTPResponse], url: str, seconds: float
) -> http.client.HTTPResponse:
    """What a call gives; it may take only so long as a whole, however slowly its single bytes come.

    :raises ModelError: what the call gets is no answer. :raises TimeoutError: it takes longer.
    """
    found: queue.Queue = queue.Queue()
    given_up = threading.Event()

    def run() -> None:
        try:
            response = call()
            if given_up.is_set():
                response.close()
            found.put((response, None))
        except BaseException as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        response, error = found.get(timeout=seconds)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if isinstance(error, ValueError):  # an address, here or in a redirection, that can't be one
        raise ModelError(f"{_shown(url)} leads to no valid address ({str(error)[:80]}); check it") from None
    if error is not None:
        raise error
    return response


def _tls() -> ssl.SSLContext:
    """The system's certificates; certifi's where Python finds none (as in some bundled Pythons)."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not os.environ.get("SSL_CERT_FILE"):
        try:
            import certifi

            context.load_verify_locations(certifi.where())
        except (ImportError, OSError):
            pass
    return context


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _cause(error: BaseException) -> object:
    return error.reason if isinstance(error, urllib.error.URLError) else error


def _http_reason(url: str, error: urllib.error.HTTPError) -> str:
    what = {403: "refuses access", 404: "has no such file", 407: "asks for a proxy password"}.get(
        error.code, "failed"
    )
    return (
        f"the server of {_shown(url)} {what} (HTTP {error.code}); check the address, or install from a file"
    )


def _broke_off(url: str, got: int) -> str:
    return f"the connection to {_shown(url)} broke off after {got:,} bytes; start it again to continue"


def _connection_reason(url: str, error: BaseException) -> str:
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {_shown(url)} is not trusted ({cause.verify_message}). Behind a hospital "
            "proxy, set SSL_CERT_FILE to its certificate; or download in a browser and install from the file"
        )
    text = str(cause).strip() or type(cause).__name__
    return (
        f"{_shown(url)} can't be reached ({text}). Check the network and HTTPS_PROXY, "
        "or download it elsewhere and install from the file"
    )


def _shown(url: str) -> str:
    """The address without user name, password, query and fragment, which may hold secrets."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return repr(url.partition("?")[0].rpartition("@")[2][:80])
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"

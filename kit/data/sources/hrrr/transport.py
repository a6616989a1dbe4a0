"""HTTP requests to HRRR's archives: whole indices, and ranges of bytes of the files.

Own code, because the registry's downloader and pooch fetch whole files, and neither Herbie nor fsspec holds the answer
to a range against the bytes that were asked for; Herbie's requests for indices have no time limit (docs/decisions.md,
2026-11-22).
"""

from __future__ import annotations

import dataclasses
import re
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kit.io.progress import ProgressCallback
from kit.io.retry import (
    RETRY_STATUS,
    Limits,
    Pace,
    RetryableError,
    SourceError,
    patiently,
    reason,
    retry_after,
    within,
)
from kit.registry.entry import host_of

if TYPE_CHECKING:
    import requests

_MAX_TEXT = 8 * 2**20
"""Bytes of an index that are read; HRRR's longest has 100 KB."""
_MAX_RANGE = 2**28
"""Bytes of a range that are read; the messages of a field have 3 MB at most, whole files 400."""
_AT_ONCE = 2**18


class AbsentError(SourceError):
    """The archive answered that it does not have the file."""


class ShorterError(SourceError):
    """The file does not have the bytes that were asked for."""


@dataclass(frozen=True)
class Piece:
    """A run of bytes of a file.

    Attributes:
        content: the bytes.
        total: length of the whole file in bytes.
        version: the file's ETag, else its time of change; empty if the archive says neither.
    """

    content: bytes
    total: int
    version: str


@dataclass
class Transport:
    """Connections to the archives; may be used by several threads.

    Attributes:
        limits: waiting times and number of attempts.
        watch: receiver of a message before each wait.
        stop: once set, nothing more is asked.
    """

    limits: Limits
    watch: ProgressCallback
    stop: threading.Event = field(default_factory=threading.Event)
    _sessions: threading.local = field(default_factory=threading.local)

    def text(self, address: str, attempts: int) -> str:
        """Fetch a small file.

        Raises:
            SourceError: it cannot be had.
        """
        return self.piece(address, None, None, attempts).content.decode("latin-1")

    def piece(self, address: str, start: int | None, end: int | None, attempts: int) -> Piece:
        """Fetch bytes of a file.

        Args:
            address: URL of the file.
            start: first byte; None for a small file as a whole.
            end: last byte; None for the file's last one.
            attempts: largest number of attempts in a row.

        Raises:
            SourceError: they cannot be had.
        """
        limits = dataclasses.replace(self.limits, attempts=min(attempts, self.limits.attempts))
        return patiently(lambda: self._ask(address, start, end), limits, self.watch)

    def _ask(self, address: str, start: int | None, end: int | None) -> Piece:
        import requests
        import urllib3
        from requests.exceptions import InvalidSchema, InvalidURL, SSLError

        if self.stop.is_set():
            msg = "stopped"
            raise SourceError(msg)
        # Compressed bytes could not be counted against the range.
        headers = {"Accept-Encoding": "identity"}
        if start is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end}"
        # requests does not promise that threads may share a session.
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        timeout = (self.limits.connect, self.limits.read)
        try:
            head = partial(self._sessions.session.get, address, headers=headers, stream=True, timeout=timeout)
            with within(sum(timeout), head) as answer:
                if start is None:
                    return _read_text(answer, self.limits)
                return _read_range(answer, start, end, self.limits)
        except (SSLError, InvalidURL, InvalidSchema) as error:
            msg = f"{type(error).__name__} ({reason(error)})"
            raise SourceError(msg) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            msg = f"{host_of(address)}: {reason(error)}"
            raise RetryableError(msg) from error


def _check_status(answer: requests.Response, expected: int) -> None:
    """Turn an answer that is not what was asked for into what it means."""
    status = answer.status_code
    # What each answer means for the hour: asked again, looked for in another archive, or begun again by a new index.
    if status == expected:
        return
    if status in RETRY_STATUS:
        msg = f"{host_of(answer.url)} answered {status} ({answer.reason})"
        raise RetryableError(msg, retry_after(answer.headers))
    if status == 416:
        msg = "the file is shorter than its index says"
        raise ShorterError(msg)
    msg = f"the archive answered {status} ({answer.reason})"
    if status in (404, 410):
        raise AbsentError(msg)
    if status == 200:
        msg = "the archive sends whole files where parts are asked for; a proxy may have dropped the Range header"
    raise SourceError(msg)


def _read(answer: requests.Response, most: int, limits: Limits) -> bytes:
    """Read at most so many bytes, at a rate worth waiting for."""
    content, pace = bytearray(), Pace(limits)
    while len(content) < most:
        piece = answer.raw.read1(min(_AT_ONCE, most - len(content)), decode_content=False)
        if not piece:
            break
        content += piece
        pace.advanced(len(piece))
    return bytes(content)


def _read_text(answer: requests.Response, limits: Limits) -> Piece:
    """Read a small file, which may not be endless and may not be cut off."""
    _check_status(answer, 200)
    # Not decoded: bytes that were packed in spite of the request would have another length.
    length = answer.headers.get("Content-Length", "")
    content = _read(answer, _MAX_TEXT + 1, limits)
    if len(content) > _MAX_TEXT or (length.isdigit() and len(content) < int(length)):
        msg = f"{host_of(answer.url)}: {len(content)} of {length or 'unknown'} bytes arrived"
        raise RetryableError(msg)
    return Piece(content, len(content), "")


def _read_range(answer: requests.Response, start: int, end: int | None, limits: Limits) -> Piece:
    """Read the bytes that were asked for, and no more."""
    _check_status(answer, 206)
    # A server may send another range than the one that was asked for, and one that ends with the file.
    stated = answer.headers.get("Content-Range")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", stated or "")
    if found is None or int(found[1]) != start or (end is not None and int(found[2]) > end):
        msg = f"the archive sends {stated!r} where bytes {start} to {end} were asked for"
        raise SourceError(msg)
    length = int(found[2]) - start + 1
    if length > _MAX_RANGE:
        msg = f"the archive sends {length} bytes at once, more than a field has ({_MAX_RANGE} are read at most)"
        raise SourceError(msg)
    content = _read(answer, length, limits)
    if len(content) < length:
        msg = f"{host_of(answer.url)}: the connection was cut after {len(content)} of {length} bytes"
        raise RetryableError(msg)
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return Piece(content, int(found[3]), version)

"""Bytes of an archive over HTTP: parts of files, asked for with patience, and no more than there should be."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kit.io.progress import ProgressCallback
from kit.io.retry import RETRY_STATUS, Limits, RetryableError, SourceError, patiently, reason, retry_after
from kit.registry.entry import host_of

__all__ = ["AbsentError", "Piece", "ShorterError", "Transport"]

T = TypeVar("T")
_MOST_TEXT = 8 * 2**20
"""Bytes of an index that are read; HRRR's longest has 100 KB."""


class AbsentError(SourceError):
    """The archive answered that it does not have the file."""


class ShorterError(SourceError):
    """The file does not have the bytes that were asked for."""


@dataclass(frozen=True)
class Piece:
    """A run of bytes of a file.

    Attributes:
        content: the bytes.
        total: of the whole file.
        version: the file's ETag, else its time of change; empty if the archive says neither.
    """

    content: bytes
    total: int
    version: str


@dataclass
class Transport:
    """Asks archives; may be used by several threads.

    Attributes:
        limits: of patience.
        watch: is told of waits.
        stop: once set, nothing more is asked.
    """

    limits: Limits
    watch: ProgressCallback
    stop: threading.Event = field(default_factory=threading.Event)
    _sessions: threading.local = field(default_factory=threading.local)

    def text(self, address: str, attempts: int) -> str:
        """A small file.

        Raises:
            SourceError: it cannot be had.
        """
        return self._patiently(lambda: self._ask(address, None, None).content.decode("latin-1"), attempts)

    def piece(self, address: str, start: int, end: int | None, attempts: int) -> Piece:
        """Bytes of a file, both ends included; to its last one where ``end`` is None.

        Raises:
            SourceError: they cannot be had.
        """
        return self._patiently(lambda: self._ask(address, start, end), attempts)

    def _patiently(self, run: Callable[[], T], attempts: int) -> T:
        limits = dataclasses.replace(self.limits, attempts=min(attempts, self.limits.attempts))
        return patiently(run, limits, self.watch)

    def _ask(self, address: str, start: int | None, end: int | None) -> Piece:
        import requests
        import urllib3
        from requests.exceptions import InvalidSchema, InvalidURL, SSLError

        if self.stop.is_set():
            msg = "stopped"
            raise SourceError(msg)
        headers = {"Accept-Encoding": "identity"}
        if start is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end}"
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        patience = (self.limits.connect, self.limits.read)
        try:
            with self._sessions.session.get(address, headers=headers, stream=True, timeout=patience) as answer:
                self._refuse(answer, ranged=start is not None)
                return _taken(answer, start, end)
        except (SSLError, InvalidURL, InvalidSchema) as error:
            msg = f"{type(error).__name__} ({reason(error)})"
            raise SourceError(msg) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            msg = f"{host_of(address)}: {reason(error)}"
            raise RetryableError(msg) from error

    def _refuse(self, answer: Any, *, ranged: bool) -> None:
        """Turn an answer that is not what was asked for into what it means."""
        status = answer.status_code
        if status in RETRY_STATUS:
            msg = f"{host_of(answer.url)} answered {status} ({answer.reason})"
            raise RetryableError(msg, retry_after(answer.headers))
        if status in (404, 410):
            msg = f"the archive answered {status} ({answer.reason})"
            raise AbsentError(msg)
        if status == 416:
            msg = "the file is shorter than its index says"
            raise ShorterError(msg)
        if ranged and status == 200:
            msg = "the archive sends whole files where parts are asked for; a proxy may have dropped the Range header"
            raise SourceError(msg)
        if status != (206 if ranged else 200):
            msg = f"the archive answered {status} ({answer.reason})"
            raise SourceError(msg)


def _taken(answer: Any, start: int | None, end: int | None) -> Piece:
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    length = answer.headers.get("Content-Length", "")
    if start is None:
        content = answer.raw.read(_MOST_TEXT + 1, decode_content=False)
        if len(content) > _MOST_TEXT or (length.isdigit() and len(content) < int(length)):
            msg = f"{host_of(answer.url)}: {len(content)} of {length or 'unknown'} bytes arrived"
            raise RetryableError(msg)
        return Piece(content, len(content), version)
    told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    if told is None or int(told[1]) != start or (end is not None and int(told[2]) > end):
        msg = f"the archive sends {answer.headers.get('Content-Range')!r} where bytes {start} to {end} were asked for"
        raise SourceError(msg)
    wanted = int(told[2]) - start + 1
    content = answer.raw.read(wanted, decode_content=False)
    if len(content) < wanted:
        msg = f"{host_of(answer.url)}: the connection was cut after {len(content)} of {wanted} bytes"
        raise RetryableError(msg)
    return Piece(content, int(told[3]), version)

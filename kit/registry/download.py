"""The bytes of one address, over HTTP: resumed where they were cut, tried again, never more than there should be.

pooch has the cache's folder and the order of things (a temporary file, a hash, then a move), but begins each
download anew, which weights of 5 GB do not bear.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kit.io.errors import RegistryError
from kit.io.progress import ProgressCallback
from kit.io.retry import RETRY_STATUS, Limits, RetryableError, SourceError, patiently, reason, retry_after
from kit.registry.entry import host_of
from kit.registry.partial_download import PartialDownload, Version

if TYPE_CHECKING:
    import requests

__all__ = ["Source", "download"]

_PIECE = 1 << 18


@dataclass(frozen=True)
class Source:
    """One place of a file.

    Attributes:
        url: the registry's address.
        address: where to ask, http or https.
        token: shown to the address's own host, and to no other that it redirects to.
    """

    url: str
    address: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Source({self.url!r})"


class _Bearer:
    """Shows a token; requests drops it on the way to another host, and takes none from ~/.netrc in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def download(
    source: Source, part: PartialDownload, size: int | None, limits: Limits, watch: ProgressCallback, name: str
) -> None:
    """Bring a part to its full length.

    Args:
        source: where from.
        part: what is there already is continued, if it is of this source and version.
        size: bytes that the file must have; None if nobody knows.
        limits: of patience.
        watch: is told.
        name: of the entry, for people.

    Raises:
        SourceError: this source will not do: it lacks the file, has one of another size, or keeps failing.
        RegistryError: this machine will not do: no space, or a folder that cannot be written to.
    """
    import requests

    with requests.Session() as session:
        attempt = _Attempt(session, source, part, size, limits, watch, name)
        try:
            patiently(attempt.run, limits, watch, lambda: part.length)
        finally:
            watch.ended()


@dataclass(frozen=True)
class _Attempt:
    """One request for what is missing, and what is done with its answer."""

    session: requests.Session
    source: Source
    part: PartialDownload
    size: int | None
    limits: Limits
    watch: ProgressCallback
    name: str

    def run(self) -> None:
        import requests.exceptions as failures
        import urllib3

        have, version = self.part.of(self.source.url)
        if version is not None and have == version.total:
            return
        try:
            with self._ask(have, version) as answer:
                self._refuse(answer)
                self._take(answer, self._agree(answer, have, version))
        except (failures.SSLError, failures.InvalidURL, failures.InvalidSchema, failures.InvalidHeader) as error:
            # Also what comes of a redirect to another scheme, or of a proxy that is written wrongly.
            msg = f"{type(error).__name__} ({reason(error)})"
            raise SourceError(msg) from error
        except failures.TooManyRedirects as error:
            msg = "it redirects in a circle"
            raise SourceError(msg) from error
        except (failures.RequestException, urllib3.exceptions.HTTPError) as error:
            msg = f"{self.name}: {reason(error)} after {self.part.length} bytes"
            raise RetryableError(msg) from error

    def _ask(self, have: int, version: Version | None) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if have and version is not None:
            headers["Range"] = f"bytes={have}-"
            if version.strong and version.etag is not None:
                headers["If-Range"] = version.etag
        patience = (self.limits.connect, self.limits.read)
        auth = None if self.source.token is None else _Bearer(self.source.token)
        return self.session.get(self.source.address, headers=headers, stream=True, timeout=patience, auth=auth)

    def _refuse(self, answer: requests.Response) -> None:
        """Turn an answer that is no file into what it means."""
        status = answer.status_code
        if status == 416:
            self.part.discard()
            msg = f"{self.name}: the server has no more than what is there already; beginning anew"
            raise RetryableError(msg, wait=0.0)
        if status in RETRY_STATUS:
            msg = f"{self.name}: the server answered {status} ({answer.reason})"
            raise RetryableError(msg, retry_after(answer.headers))
        if status not in (200, 206):
            msg = f"the server answered {status} ({answer.reason})"
            raise SourceError(msg)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            msg = "the server sends it compressed although it was asked not to"
            raise SourceError(msg)

    def _agree(self, answer: requests.Response, have: int, version: Version | None) -> Version:
        """Settle which version arrives and from which byte on; begins anew if it is not the part's, or is whole."""
        headers, begin, total = answer.headers, 0, _length(answer)
        if answer.status_code == 206:
            begin, total = _range(answer)
        if self.size is not None and total is not None and total != self.size:
            self.part.discard()
            msg = f"it has {total} bytes there, the registry says {self.size}; nothing of it was kept"
            raise SourceError(msg)
        arrives = Version(self.source.url, headers.get("ETag"), headers.get("Last-Modified"), total or self.size)
        if answer.status_code == 206:
            if begin == have and version is not None and not version.differs(arrives):
                return version
            self.part.discard()
            msg = f"{self.name}: the file changed at the server; beginning anew"
            raise RetryableError(msg, wait=0.0)
        if have:
            self.watch.said(f"{self.name}: the server sends the whole file again; beginning anew")
        self.part.begin(arrives)
        return arrives

    def _take(self, answer: requests.Response, version: Version) -> None:
        """Write what arrives; never more than the file has."""
        have = self.part.length
        self._check_space(have, version.total)
        self.watch.started(self.name, host_of(self.source.url), have, version.total)
        with self.part.open() as stream:
            while piece := answer.raw.read1(_PIECE, decode_content=False):
                have += len(piece)
                if version.total is not None and have > version.total:
                    self.part.discard()
                    msg = f"it sends more than the {version.total} bytes that it should have"
                    raise SourceError(msg)
                self.part.append(stream, piece)
                self.watch.advanced(have)
        if version.total is not None and have < version.total:
            msg = f"{self.name}: the connection was cut after {have} of {version.total} bytes"
            raise RetryableError(msg)

    def _check_space(self, have: int, total: int | None) -> None:
        if total is None:
            return
        free = shutil.disk_usage(self.part.path.parent).free
        if free < total - have:
            msg = (
                f"{self.name}: needs {total - have} bytes in {self.part.path.parent}, where {free} are free. Free "
                "some, or choose another folder with KIT_CACHE"
            )
            raise RegistryError(msg)


def _length(answer: requests.Response) -> int | None:
    """Bytes that an answer will bring; None if it does not say."""
    told = answer.headers.get("Content-Length", "")
    return int(told) if told.isdigit() and "Transfer-Encoding" not in answer.headers else None


def _range(answer: requests.Response) -> tuple[int, int | None]:
    """First byte of a partial answer, -1 if it makes no sense, and bytes of the whole file, if it says so."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if told is None:
        return -1, None
    return int(told[1]), int(told[2]) if told[2] != "*" else None

"""Downloads over HTTP: resumed where they were cut, tried again, never more bytes than there should be.

pooch has the cache's folder and the order of things (a temporary file, a hash, then a move), but begins each
download from its first byte, which is too slow for weights of 5 GB.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kit.io.errors import RegistryError
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
from kit.registry.partial_download import PartialDownload, Version

if TYPE_CHECKING:
    import requests

_PIECE = 1 << 18
"""Most bytes that are read at once."""


@dataclass(frozen=True)
class Source:
    """Address of a file.

    Attributes:
        url: The registry's address.
        address: Address to ask, http or https.
        token: Token for the address's own host, shown to no other that it redirects to.
    """

    url: str
    # Neither is for a message or a log: an address may hold a signature.
    address: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Show the token; requests drops it at another host, and takes none from ~/.netrc in its place."""
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def download(
    source: Source, part: PartialDownload, size: int | None, limits: Limits, watch: ProgressCallback, name: str
) -> None:
    """Download the rest of a file into a partial one.

    Args:
        source: Address of the file.
        part: Partial download; what is there is continued, if it is of this source and version.
        size: Length in bytes that the file must have; None if nobody knows.
        limits: Patience with the server.
        watch: Receiver of the progress.
        name: Name of the entry, for people.

    Raises:
        SourceError: this source will not do: it lacks the file, has one of another size, or keeps failing.
        RegistryError: this machine will not do: no space, or a folder that cannot be written to.
    """
    import requests

    # One session for all attempts: connections to the same host are used again.
    with requests.Session() as session:
        attempt = _Attempt(session, source, part, size, limits, watch, name)
        try:
            patiently(attempt.run, limits, watch, lambda: part.length)
        finally:
            watch.ended()


@dataclass(frozen=True)
class _Attempt:
    """One request for the bytes that are missing, and the handling of its answer."""

    session: requests.Session
    source: Source
    part: PartialDownload
    size: int | None
    limits: Limits
    watch: ProgressCallback
    name: str

    def run(self) -> None:
        """Send the request and write what arrives.

        Raises:
            RetryableError: the connection or the server failed; a further attempt may not.
            SourceError: this source will not do.
        """
        import requests.exceptions as failures
        import urllib3

        have, version = self.part.continuable(self.source.url)
        # All of it arrived, and the process ended before it was verified.
        if version is not None and have == version.total:
            return
        # Compressed bytes could not be continued by their place, nor counted against the size.
        headers = {"Accept-Encoding": "identity"}
        if version is not None:
            headers["Range"] = f"bytes={have}-"
            # RFC 9110, section 13.1.5: a weak ETag may stand for other bytes, and is no condition for a range.
            if version.strong and version.etag is not None:
                headers["If-Range"] = version.etag
        auth = None if self.source.token is None else self.source.authorize
        timeout = (self.limits.connect, self.limits.read)
        try:
            head = partial(
                self.session.get, self.source.address, headers=headers, stream=True, timeout=timeout, auth=auth
            )
            with within(sum(timeout), head) as answer:
                self._check_status(answer)
                self._write(answer, self._agree_on_version(answer, have, version))
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

    def _check_status(self, answer: requests.Response) -> None:
        """Check that an answer is a file, or the rest of one."""
        status = answer.status_code
        if status == 416:
            self.part.discard()
            msg = f"{self.name}: the server has no more than what is there already; beginning anew"
            raise RetryableError(msg, wait=0.0)
        msg = f"the server answered {status} ({answer.reason})"
        if status in RETRY_STATUS:
            msg = f"{self.name}: {msg}"
            raise RetryableError(msg, retry_after(answer.headers))
        if status not in (200, 206):
            raise SourceError(msg)
        # Some servers compress in spite of the request.
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            msg = "the server sends it compressed although it was asked not to"
            raise SourceError(msg)

    def _agree_on_version(self, answer: requests.Response, have: int, version: Version | None) -> Version:
        """Compare the version that arrives with the one that is there; start over if it is another, or comes whole."""
        headers, begin = answer.headers, 0
        length = headers.get("Content-Length", "")
        if answer.status_code == 206:
            # "bytes 500-999/1000", and * for a length that the server does not know.
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
            begin, length = (int(found[1]), found[2]) if found else (-1, "")
        elif "Transfer-Encoding" in headers:
            # The length that is stated is then not the file's.
            length = ""
        total = int(length) if length.isdigit() else None
        # Before a byte is written: 5 GB of another file would only be found out by their hash.
        if self.size is not None and total is not None and total != self.size:
            self.part.discard()
            msg = f"it has {total} bytes there, the registry says {self.size}; nothing of it was kept"
            raise SourceError(msg)
        arrives = Version(self.source.url, headers.get("ETag"), headers.get("Last-Modified"), total or self.size)
        if answer.status_code == 206:
            # Not every server honours If-Range.
            if begin == have and version is not None and not version.differs(arrives):
                return version
            self.part.discard()
            msg = f"{self.name}: the file changed at the server; beginning anew"
            raise RetryableError(msg, wait=0.0)
        if have:
            self.watch.said(f"{self.name}: the server sends the whole file again; beginning anew")
        self.part.begin(arrives)
        return arrives

    def _write(self, answer: requests.Response, version: Version) -> None:
        """Write what arrives; never more than the file has."""
        have, total = self.part.length, version.total
        if total is not None:
            # Said before hours of downloading rather than at their end.
            folder = self.part.path.parent
            free = shutil.disk_usage(folder).free
            if free < total - have:
                msg = (
                    f"{self.name}: needs {total - have} bytes in {folder}, where {free} are free. Free some, or choose "
                    "another folder with KIT_CACHE"
                )
                raise RegistryError(msg)
        self.watch.started(self.name, host_of(self.source.url), have, total)
        pace = Pace(self.limits)
        with self.part.open() as stream:
            # read1: what has arrived is written at once, so that a cut loses nothing.
            while piece := answer.raw.read1(_PIECE, decode_content=False):
                have += len(piece)
                # A server that claims another length, or none, must not fill the disk.
                if total is not None and have > total:
                    self.part.discard()
                    msg = f"it sends more than the {total} bytes that it should have"
                    raise SourceError(msg)
                self.part.append(stream, piece)
                self.watch.advanced(have)
                pace.advanced(len(piece))
        if total is not None and have < total:
            msg = f"{self.name}: the connection was cut after {have} of {total} bytes"
            raise RetryableError(msg)

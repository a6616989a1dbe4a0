"""Partial downloads: the bytes that have arrived of a file, and a note of the version that they belong to."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path

from pydantic import TypeAdapter

from kit.io import atomic
from kit.io.documents import read_text
from kit.io.errors import RegistryError
from kit.io.secrets import scrub

# No space, no quota left, and a file larger than the file system or the user's limit allows.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Version:
    """Marks by which one version of a file is known from another.

    Attributes:
        url: The registry's address, its secrets masked; bytes of one address are never continued from another. Not the
            address that it redirects to: a hub signs another one for each request.
        etag: The server's name for the version, if it has one.
        modified: ``Last-Modified``, if it has one.
        total: Length of the whole file in bytes, if known.
    """

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def strong(self) -> bool:
        """Whether the ETag stands for the very bytes, as ``If-Range`` needs it."""
        return self.etag is not None and not self.etag.startswith("W/")

    def differs(self, other: Version) -> bool:
        """Check whether two answers are surely of different versions, or cannot be compared."""
        if self.total is not None and other.total is not None and self.total != other.total:
            return True
        if self.etag is not None and other.etag is not None:
            return self.etag != other.etag
        return self.modified is None or self.modified != other.modified


_VERSION = TypeAdapter(Version)


class PartialDownload:
    """File that is being downloaded, in the final folder: ``.NAME.part``, and its version in ``.NAME.part.json``."""

    def __init__(self, place: Path) -> None:
        self.path = place.with_name(f".{place.name}.part")
        self.note = place.with_name(f".{place.name}.part.json")

    @property
    def length(self) -> int:
        """Number of bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def continuable(self, url: str) -> tuple[int, Version | None]:
        """Find what can be continued from an address, and delete what cannot.

        Returns:
            Number of bytes that are there, and the version that they belong to; 0 and None if nothing is.
        """
        length = self.length
        try:
            # ``strict``: a note that is torn or was changed says nothing.
            version = _VERSION.validate_json(read_text(self.note), strict=True)
        except (OSError, ValueError):
            version = Version("")
        # Without a name for the version, nobody could say whether the rest is of the same file.
        is_named = (version.etag or version.modified) is not None
        is_too_long = version.total is not None and length > version.total
        if version.url != scrub(url) or not is_named or not length or is_too_long:
            self.discard()
            return 0, None
        return length, version

    def begin(self, version: Version) -> None:
        """Start from the first byte with a version of the file.

        Raises:
            RegistryError: the folder cannot be written to.
        """
        with self._writing():
            # The note before the bytes: bytes without one are never continued.
            self.discard()
            self.note.write_text(json.dumps(asdict(replace(version, url=scrub(version.url)))))
            self.path.touch()

    def open(self) -> FileIO:
        """Open the file to write at its end, unbuffered: a full disk is then reported by the write that met it."""
        with self._writing():
            return FileIO(self.path, "a")

    def append(self, stream: FileIO, data: bytes) -> None:
        """Write bytes at the end of the file.

        Raises:
            RegistryError: the disk is full or refuses; what was written stays, to be continued.
        """
        with self._writing():
            # A disk that fills takes a part of the bytes and fails at the next write.
            rest = memoryview(data)
            while rest:
                rest = rest[stream.write(rest) :]

    def publish(self, place: Path) -> None:
        """Move the bytes, which are whole and verified, to the file's final place."""
        atomic.publish(self.path, place)
        self.discard()

    def discard(self) -> None:
        """Delete the bytes and the note."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = (
                f"{self.path} cannot be written: {error.strerror or error}. Mend that, or choose another folder with "
                "KIT_CACHE"
            )
            if error.errno in _FULL:
                msg = (
                    f"no space left for {self.path} after {self.length} bytes ({error.strerror}). Free some and run "
                    "the same again: it goes on from there. Or choose another folder with KIT_CACHE"
                )
            raise RegistryError(msg) from error

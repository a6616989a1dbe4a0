"""What has arrived of a file so far: its bytes, and a note that says of what they are a part."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from kit.io.errors import RegistryError

__all__ = ["PartialDownload", "Version"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Version:
    """How one version of a file is told from another.

    Attributes:
        url: the registry's address; a part of one address is never continued from another.
        etag: the server's name for the version, if it has one.
        modified: ``Last-Modified``, if it has one.
        total: bytes in all, if known.
    """

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def strong(self) -> bool:
        """Whether the ETag stands for the very bytes, as a condition needs it."""
        return self.etag is not None and not self.etag.startswith("W/")

    def differs(self, other: Version) -> bool:
        """Whether two answers are surely of different versions, or cannot be compared."""
        if self.total is not None and other.total is not None and self.total != other.total:
            return True
        if self.etag is not None and other.etag is not None:
            return self.etag != other.etag
        return self.modified is None or self.modified != other.modified


class PartialDownload:
    """A file on its way, beside its place: ``.NAME.part``, and ``.NAME.part.json`` which says of what it is a part."""

    def __init__(self, place: Path) -> None:
        self.path = place.with_name(f".{place.name}.part")
        self.note = place.with_name(f".{place.name}.part.json")

    def of(self, url: str) -> tuple[int, Version | None]:
        """Return how many bytes of an address are there, and of which version; discards what is of no use.

        A part can be continued if its server named a version; without that, it is begun anew.
        """
        known = self._read_note()
        length = self.path.stat().st_size if self.path.is_file() else 0
        useful = known is not None and known.url == url and (known.etag or known.modified) is not None
        if known is None or not useful or not length or (known.total is not None and length > known.total):
            self.discard()
            return 0, None
        return length, known

    @property
    def length(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, version: Version) -> None:
        """Begin anew with a version of the file.

        Raises:
            RegistryError: the folder cannot be written to.
        """
        with self._writing():
            self.discard()
            self.note.write_text(json.dumps(asdict(version)))
            self.path.touch()

    def open(self) -> FileIO:
        """Open it to write at its end, unbuffered: a full disk is then told by the very write that met it."""
        with self._writing():
            return FileIO(self.path, "a")

    def append(self, stream: FileIO, data: bytes) -> None:
        """Write at the end.

        Raises:
            RegistryError: the disk is full or refuses; what was written stays, to be continued.
        """
        with self._writing():
            rest = memoryview(data)
            while rest:
                rest = rest[stream.write(rest) :]

    def discard(self) -> None:
        """Delete the bytes and the note."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _read_note(self) -> Version | None:
        """Read the note; one that is torn or strange says nothing."""
        try:
            found = Version(**json.loads(self.note.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        texts = (found.etag, found.modified)
        return (
            found
            if all(isinstance(text, str | None) for text in texts) and isinstance(found.total, int | None)
            else None
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                msg = (
                    f"no space left for {self.path} after {self.length} bytes ({error.strerror}). Free some and run "
                    "the same again: it goes on from there. Or choose another folder with KIT_CACHE"
                )
            else:
                msg = (
                    f"{self.path} cannot be written: {error.strerror or error}. Mend that, or choose another folder "
                    "with KIT_CACHE"
                )
            raise RegistryError(msg) from error

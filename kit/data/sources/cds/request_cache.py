"""Results in the cache, and what is remembered of each request while it is under way.

``<cache>/cds/<digest>.grib`` is there whole or not at all; ``<digest>.json`` beside it says which request it answers,
which job of the data store that is, and what its bytes hash to. A process that works on a request holds its lock, which
the system takes back however the process ends.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.sources.cds.requests import Planned
from kit.io.atomic import sync, write_atomically
from kit.io.errors import RegistryError
from kit.registry.partial_download import PartialDownload
from kit.registry.paths import cache_dir

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Kept", "Note", "folder"]

_MAGIC, _END = b"GRIB", b"7777"


@dataclass(frozen=True)
class Note:
    """What is remembered of a request.

    Attributes:
        dataset: whom it is put to.
        inputs: the request itself.
        service: address of the data store.
        submitting: it may have been submitted, and the answer was not heard.
        job: its id there.
        url: where the result was fetched from.
        size: of the result in bytes.
        sha256: of the result.
    """

    dataset: str
    inputs: dict[str, Any]
    service: str = ""
    submitting: bool = False
    job: str | None = None
    url: str | None = None
    size: int | None = None
    sha256: str | None = None


def folder() -> Path:
    """Where results are kept."""
    return cache_dir() / "cds"


class Kept:
    """One request's place in the cache."""

    def __init__(self, planned: Planned, where: Path) -> None:
        self.planned = planned
        self.path = where / f"{planned.digest}.grib"
        self._note = where / f"{planned.digest}.json"
        self._lock: BaseFileLock | None = None

    @property
    def part(self) -> PartialDownload:
        """What has arrived of the result."""
        return PartialDownload(self.path)

    def lock(self) -> bool:
        """Take the request for this process; False if another one works on it.

        Raises:
            RegistryError: the folder cannot be written to.
        """
        from filelock import FileLock, Timeout

        if self._lock is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
            except OSError as error:
                raise self._unwritable(error) from error
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def release(self) -> None:
        """Let others have the request."""
        if self._lock is not None and self._lock.is_locked:
            self._lock.release()

    def whole(self) -> bool:
        """Whether the result is there, and is what was once fetched; one that is not is deleted."""
        if not self.path.is_file():
            return False
        note = self.note
        if note.sha256 is not None and note.size == self.path.stat().st_size and note.sha256 == _sha256(self.path):
            return True
        self.path.unlink(missing_ok=True)
        return False

    def delete(self) -> None:
        """Delete the result, and forget which job it came from."""
        self.path.unlink(missing_ok=True)
        self.remember(job=None, url=None, size=None, sha256=None)

    @property
    def note(self) -> Note:
        """What is remembered; nothing but the request itself where the note is torn or of another request."""
        blank = Note(self.planned.dataset, self.planned.inputs)
        try:
            found = Note(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return blank
        return found if (found.dataset, found.inputs) == (blank.dataset, blank.inputs) else blank

    def remember(self, **changes: Any) -> None:
        """Write down what changed, before anything else is done.

        Raises:
            RegistryError: the folder cannot be written to.
        """
        note = replace(self.note, **changes)
        try:
            write_atomically(self._note, json.dumps(asdict(note), indent=1, sort_keys=True))
        except OSError as error:
            raise self._unwritable(error) from error

    def why_not(self, size: int) -> str | None:
        """Say what is wrong with what has arrived; None if it may be the result.

        Args:
            size: bytes that the data store announced.
        """
        path = self.part.path
        found = path.stat().st_size if path.is_file() else 0
        if found != size:
            return f"{found} bytes arrived, {size} were announced"
        with path.open("rb") as stream:
            begins = stream.read(len(_MAGIC))
            stream.seek(-min(found, len(_END)), 2)
            ends = stream.read()
        if begins != _MAGIC:
            return f"it is not GRIB: it begins with {begins!r}"
        return None if ends == _END else "its last message is cut off"

    def settle(self, url: str) -> None:
        """Move what has arrived to its place."""
        part = self.part
        self.remember(url=url, size=part.length, sha256=_sha256(part.path))
        sync(part.path)
        part.path.replace(self.path)
        part.discard()

    def facts(self) -> dict[str, Any]:
        """For the store's attributes: the file, and the request that it answers.

        The job's id and the time are not among them: they say nothing of the data, and would tell two stores of the
        same data apart.
        """
        note = self.note
        named = {"name": self.path.name, "sha256": note.sha256, "size": note.size}
        return {**named, "dataset": note.dataset, "request": note.inputs}

    def _unwritable(self, error: OSError) -> RegistryError:
        return RegistryError(
            f"{self.path.parent} cannot be written to: {error.strerror or error}. Mend that, or choose another folder "
            "with KIT_CACHE"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Results in the cache, and what is remembered of each request while it is under way.

``<cache>/cds/<digest>.grib`` is there whole or not at all; ``<digest>.json`` beside it says which request it answers,
which job of the data store that is, and what its bytes hash to. A process that works on a request holds its lock, which
the system takes back however the process ends.

Own code, because the data stores' client forgets a job when its process ends (docs/decisions.md, 2026-11-22).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kit.data.sources.cds.requests import Planned
from kit.io.atomic import write_atomically
from kit.io.documents import read_json
from kit.io.errors import RegistryError
from kit.io.hashes import sha256_of_file
from kit.io.locks import LockHandle, take
from kit.io.secrets import scrub
from kit.registry.entry import cache_dir
from kit.registry.partial_download import PartialDownload

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
    """Return the folder of results."""
    return cache_dir() / "cds"


class CachedRequest:
    """One request's place in the cache."""

    def __init__(self, planned: Planned, where: Path) -> None:
        self.planned = planned
        self.path = where / f"{planned.digest}.grib"
        self.part = PartialDownload(self.path)
        self._note = where / f"{planned.digest}.json"
        self._lock: LockHandle | None = None

    def lock(self) -> bool:
        """Take the request for this process; False if another one works on it.

        Raises:
            RegistryError: the folder cannot be written to.
        """
        if self._lock is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = take(self.path.with_name(f".{self.path.name}.lock"))
            except OSError as error:
                raise self._unwritable(error) from error
        return self._lock is not None

    def release(self) -> None:
        """Let others have the request."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def is_whole(self) -> bool:
        """Whether the result is there, and is what was once fetched; one that is not is deleted."""
        if not self.path.is_file():
            return False
        note = self.note
        # The size first: it costs nothing, and a hash takes as long as reading the file.
        if note.size == self.path.stat().st_size and note.sha256 == sha256_of_file(self.path):
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
            found = Note(**read_json(self._note))
        except (OSError, ValueError, TypeError):
            return blank
        # The name of the file is a digest of the request, shortened: the request itself decides.
        if (found.dataset, found.inputs) != (blank.dataset, blank.inputs):
            return blank
        return found

    def remember(self, **changes: Any) -> None:
        """Write down what changed, before anything else is done.

        Raises:
            RegistryError: the folder cannot be written to.
        """
        note = replace(self.note, **changes)
        # Whole or absent at any moment: another process reads it when this one is killed.
        try:
            write_atomically(self._note, json.dumps(asdict(note), indent=1, sort_keys=True))
        except OSError as error:
            raise self._unwritable(error) from error

    def damage(self, size: int) -> str:
        """Say what is wrong with what has arrived; empty if it may be the result.

        Args:
            size: bytes that the data store announced.
        """
        found = self.part.length
        if found != size:
            return f"{found} bytes arrived, {size} were announced"
        # The protocol's ``file:checksum`` does not say of which kind it is: the form is checked instead.
        with self.part.path.open("rb") as stream:
            begins = stream.read(len(_MAGIC))
            stream.seek(-min(found, len(_END)), 2)
            ends = stream.read()
        if begins != _MAGIC:
            return f"it is not GRIB: it begins with {begins!r}"
        if ends != _END:
            return "its last message is cut off"
        return ""

    def publish(self, url: str) -> None:
        """Move what has arrived to its place.

        Args:
            url: address that it came from.
        """
        # Noted before it is there, so that a result without a hash is never taken for whole.
        self.remember(url=scrub(url), size=self.part.length, sha256=sha256_of_file(self.part.path))
        self.part.publish(self.path)

    def facts(self) -> dict[str, Any]:
        """Return what the store's attributes record: the file, and the request that it answers.

        The job's id and the time are not among them: they say nothing of the data, and would tell two stores of the
        same data apart.
        """
        note = self.note
        return {
            "name": self.path.name,
            "sha256": note.sha256,
            "size": note.size,
            "dataset": note.dataset,
            "request": note.inputs,
        }

    def _unwritable(self, error: OSError) -> RegistryError:
        return RegistryError(
            f"{self.path.parent} cannot be written to: {error.strerror or error}. Mend that, or choose another folder "
            "with KIT_CACHE"
        )

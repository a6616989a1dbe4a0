"""Hours of HRRR's analyses, fetched into the cache: whole, verified, and once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from kit.data.sources.grib.grid import GribGrid
from kit.data.sources.grib.scan import MAGIC, Message, scan
from kit.data.sources.grib.source import name_of
from kit.data.sources.hrrr.index import Wanted
from kit.data.sources.hrrr.plan import Plan, Planner, Share
from kit.data.sources.hrrr.transport import Piece, ShorterError
from kit.io.atomic import published, sync, write_atomically
from kit.io.errors import StoreError
from kit.io.retry import SourceError
from kit.registry.fetching import locked
from kit.registry.paths import cache_dir

__all__ = ["Fetched", "Fetcher"]

_FRAME = 16
"""Bytes of a message's first section, which ends in the message's length."""
_AGAIN = 2
"""Times that an hour is begun anew because a file is not the one that its index describes."""
_FORMAT = 1
"""Of the cache's files; counted up where they would mean something else."""
_TYPES = {
    "surface": ("surface", 0),
    "2 m above ground": ("heightAboveGround", 2),
    "10 m above ground": ("heightAboveGround", 10),
    "mean sea level": ("meanSea", 0),
    "entire atmosphere": ("atmosphere", 0),
    "entire atmosphere (considered as a single layer)": ("atmosphereSingleLayer", 0),
}
"""What eccodes calls the levels that an index words so."""


class _RefusedError(Exception):
    """An archive whose file will not do.

    Attributes:
        archive: its name.
        stale: the file is not the one that its index describes; it may have been replaced meanwhile.
    """

    def __init__(self, archive: str, why: str, *, stale: bool) -> None:
        super().__init__(why)
        self.archive, self.stale = archive, stale


class _MisfitError(StoreError):
    """A message that is not the one that its index promised.

    Attributes:
        number: of the message in the hour's file, from 1.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class Fetched:
    """An hour in the cache.

    Attributes:
        facts: name, SHA-256 and size of the file, and which files of HRRR's it is of.
        messages: that it holds.
    """

    facts: dict[str, Any]
    messages: tuple[Message, ...]


@dataclass
class Fetcher:
    """Brings hours into the cache; may be used by several threads.

    Attributes:
        planner: reads indices anew where that is needed.
        grids: those that were read so far.
        done: bytes that arrived.
    """

    planner: Planner
    grids: dict[str, GribGrid] = field(default_factory=dict)
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def held(self, time: np.datetime64, wanted: Sequence[Wanted]) -> Fetched | None:
        """An hour that is in the cache, and whose bytes have just been verified; None if there is none."""
        path = _place(time, wanted)
        try:
            facts = json.loads(_note(path).read_text(encoding="utf-8"))
            with path.open("rb") as stream:
                known = _told(facts)["sha256"] == hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Fetched(_told(facts), self._messages(path, time, wanted)) if known else None

    def fetch(self, time: np.datetime64, wanted: Sequence[Wanted], plan: Plan) -> Fetched:
        """Fetch an hour, from another archive where one fails.

        Args:
            time: that everything is valid at.
            wanted: its messages.
            plan: where they were when the indices were read.

        Raises:
            MissingError: no archive has it.
            UnavailableError: those that might did not answer, or not with what their indices describe.
            RegistryError: the cache cannot be written to.
        """
        path, watch = _place(time, wanted), self.planner.transport.watch
        refused: dict[str, str] = {}
        stale = 0
        with locked(path, watch, path.name):
            if (found := self.held(time, wanted)) is not None:
                return found
            while True:
                try:
                    return self._bring(path, wanted, plan)
                except _RefusedError as error:
                    stale += error.stale
                    if not error.stale or stale > _AGAIN:
                        refused[error.archive], stale = str(error), 0
                    watch.said(f"{path.stem}: {error.archive}: {error}; trying again")
                plan = self.planner.plan(time, wanted, refused)

    def _bring(self, path: Path, wanted: Sequence[Wanted], plan: Plan) -> Fetched:
        digest = hashlib.sha256()
        # Also what a process that was killed has left.
        for old in (path, *path.parent.glob(f".{path.name}.*.part")):
            old.unlink(missing_ok=True)
        with published(path) as part:
            with part.open("xb") as stream:
                for share in plan.shares:
                    for content in self._contents(share):
                        stream.write(content)
                        digest.update(content)
                size = stream.tell()
            sync(part)
            try:
                messages = self._messages(part, plan.time, wanted)
            except _MisfitError as error:
                owners = [share.archive for share in plan.shares for _ in share.lines]
                raise _RefusedError(owners[error.number - 1], str(error), stale=True) from error
            facts = {
                "name": path.name,
                "sha256": digest.hexdigest(),
                "size": size,
                "of": [str(share.run) for share in plan.shares],
                "from": [urlsplit(share.address)._replace(query="").geturl() for share in plan.shares],
            }
            write_atomically(_note(path), json.dumps(facts))
        return Fetched(_told(facts), tuple(dataclasses.replace(message, path=path) for message in messages))

    def _contents(self, share: Share) -> Iterator[bytes]:
        """The messages of a file, one by one."""
        transport, attempts = self.planner.transport, self.planner.attempts(share.archive)
        first: Piece | None = None
        for run in share.ranges():
            start, end = run[0][1].start, run[-1][1].end
            try:
                piece = transport.piece(share.address, start, end, attempts)
            except SourceError as error:
                raise _RefusedError(share.archive, str(error), stale=isinstance(error, ShorterError)) from error
            first = first or piece
            if (piece.total, piece.version) != (first.total, first.version):
                raise _RefusedError(share.archive, "the file changed while it was fetched", stale=True)
            for wanted, line in run:
                content = piece.content[line.start - start : None if line.end is None else line.end - start + 1]
                if not _is_message(content):
                    why = f"bytes {line.start} to {line.end} are no message {wanted}: the index does not fit the file"
                    raise _RefusedError(share.archive, why, stale=True)
                yield content
            with self._lock:
                self.done += len(piece.content)
                transport.watch.advanced(self.done)

    def _messages(self, path: Path, time: np.datetime64, wanted: Sequence[Wanted]) -> tuple[Message, ...]:
        """Read the headers of an hour's file, and see that it holds what it should.

        Raises:
            StoreError: it does not, or is damaged.
        """
        # eccodes is one at a time; so are the grids, which are large.
        with self._lock:
            messages = tuple(scan(path, self.grids))
        expected = {(item.name, item.level): item for item in wanted}
        for message in messages:
            name = name_of(message)[0]
            item = expected.pop((name, message.level if message.on_pressure else -1.0), None)
            fits = item is not None and message.time == time and message.lead == item.lead
            if item is None or not fits or not _lies(message, item):
                place = f"{message.level_type} {message.level:g}"
                msg = (
                    f"a message is {name} on {place} at {message.time}, {message.lead:g} h after its run, where the "
                    f"index promised {item or 'another one'} at {time}"
                )
                raise _MisfitError(msg, message.number)
        return messages


def _lies(message: Message, item: Wanted) -> bool:
    return message.on_pressure or (message.level_type, message.level) == _TYPES[item.place]


def _is_message(content: bytes) -> bool:
    """Whether bytes are one whole message of GRIB 2, by its first section and its last."""
    length = int.from_bytes(content[8:_FRAME])
    return content[:4] == MAGIC and content[7:8] == b"\x02" and length == len(content) and content[-4:] == b"7777"


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a store says of an hour: nothing of the archive, which may be another one when the build goes on."""
    return {key: facts[key] for key in ("name", "sha256", "size", "of")}


def _place(time: np.datetime64, wanted: Sequence[Wanted]) -> Path:
    """Where an hour lies, or would lie: the name says what is in it, and not which archive it is from."""
    told = json.dumps([_FORMAT, *map(str, wanted)])
    moment = time.astype("datetime64[h]").item()
    key = hashlib.sha256(told.encode()).hexdigest()[:12]
    return cache_dir() / "hrrr" / f"{moment:%Y%m%d}" / f"hrrr.{moment:%Y%m%d}.t{moment:%H}z.{key}.grib2"


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")

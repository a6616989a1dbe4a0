"""Hours of HRRR's analyses: which bytes of which files they are, and how they come into the cache, whole and once."""

import dataclasses
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
from kit.data.sources.hrrr.index import Line, ModelRun, WantedField, read_index
from kit.data.sources.hrrr.transport import AbsentError, Piece, ShorterError, Transport
from kit.io.atomic import published, sync, write_atomically
from kit.io.documents import read_json
from kit.io.errors import StoreError, UnavailableError
from kit.io.hashes import new_sha256, sha256_of_file, sha256_of_text
from kit.io.retry import SourceError
from kit.io.secrets import without_user
from kit.registry.entry import cache_dir
from kit.registry.locking import locked

_HOUR = np.timedelta64(1, "h")
_FRAME = 16
"""Bytes of a message's first section, which ends in the message's length."""
_RESTARTS = 2
"""Times that an hour is begun again because a file is not the one that its index describes."""
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


class MissingError(StoreError):
    """An hour that no archive has, or not all of it."""


class _ArchiveError(Exception):
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
class FetchShare:
    """What is taken of one file.

    Attributes:
        run: the file.
        archive: name or address of the archive that has it.
        address: URL of the file there.
        lines: its messages, in the file's order.
    """

    run: ModelRun
    archive: str
    address: str
    lines: Mapping[WantedField, Line]

    def ranges(self) -> list[list[tuple[WantedField, Line]]]:
        """List runs of messages that lie side by side: each is one request."""
        ranges: list[list[tuple[WantedField, Line]]] = []
        for wanted, line in self.lines.items():
            if not ranges or ranges[-1][-1][1].end != line.start - 1:
                ranges.append([])
            ranges[-1].append((wanted, line))
        return ranges


@dataclass(frozen=True)
class HourPlan:
    """What is fetched for one hour.

    Attributes:
        time: that everything is valid at.
        shares: by file.
    """

    time: np.datetime64
    shares: tuple[FetchShare, ...]

    @property
    def requests(self) -> int:
        """Number of requests for bytes; indices have been read."""
        return sum(len(share.ranges()) for share in self.shares)

    @property
    def size(self) -> int:
        """Bytes, short of a file's last message, whose length the index does not say."""
        return sum(line.size for share in self.shares for line in share.lines.values())


@dataclass(frozen=True)
class HourPlanner:
    """Reader of indices; may be used by several threads.

    Attributes:
        transport: connections to the archives.
        archives: which are asked, in order.
    """

    transport: Transport
    archives: Sequence[str]

    def plan(
        self, time: np.datetime64, wanted: Sequence[WantedField], refused: Mapping[str, str] | None = None
    ) -> HourPlan:
        """Find an hour's messages in the indices of its files.

        Pressure levels are taken from the file of the surface where it has all that are wanted of a variable, else
        from the larger file of all levels.

        Args:
            time: that they are valid at.
            wanted: the messages.
            refused: archives that are not asked, and why.

        Raises:
            MissingError: no archive has a file; or it holds no such message.
            UnavailableError: an archive that might have it did not answer.
        """
        shares = []
        for lead in sorted({item.lead for item in wanted}):
            items = [item for item in wanted if item.lead == lead]
            run = ModelRun(time - lead * _HOUR, lead, "sfc")
            share, _ = self._share(run, items, refused or {})
            # A variable comes from one file, with all of its levels.
            partly = {item.name for item in items if item not in share.lines}
            lines = {item: line for item, line in share.lines.items() if item.name not in partly}
            if lines:
                shares.append(dataclasses.replace(share, lines=lines))
            if not partly:
                continue
            # The surface's file has some pressure levels; the larger one has all.
            run = dataclasses.replace(run, product="prs")
            rest = [item for item in items if item.name in partly]
            share, held = self._share(run, rest, refused or {})
            lacking = [item for item in rest if item not in share.lines]
            if lacking:
                raise MissingError(_lacking(run, lacking, held))
            shares.append(share)
        return HourPlan(time, tuple(shares))

    def _share(
        self, run: ModelRun, items: Sequence[WantedField], refused: Mapping[str, str]
    ) -> tuple[FetchShare, tuple[str, ...]]:
        """Find messages in the index of the first archive that has it; return all that it names, too."""
        failures, absent = dict(refused), []
        for archive in self.archives:
            if archive in refused:
                continue
            try:
                address, lines, held = read_index(run, archive, items, self.transport, self.attempts(archive))
            except AbsentError:
                absent.append(archive)
            except SourceError as error:
                failures[archive] = str(error)
                if not self.transport.stop.is_set():
                    self.transport.watch.said(f"{run}: {archive}: {error}")
            else:
                return FetchShare(run, archive, address, lines), held
        # What nobody has is missing; what somebody may have is unavailable for now.
        if not failures:
            msg = f"{run} is in none of the archives {', '.join(absent)}"
            raise MissingError(msg)
        failures |= dict.fromkeys(absent, "absent")
        tried = "; ".join(map(": ".join, failures.items()))
        msg = f"{run} cannot be had: {tried}. What was fetched is kept: the same command goes on from there"
        raise UnavailableError(msg)

    def attempts(self, archive: str) -> int:
        """Return how often an archive is asked in a row: one that has another behind it is given up sooner."""
        return self.transport.limits.attempts if archive == self.archives[-1] else 2


def _lacking(run: ModelRun, lacking: Sequence[WantedField], held: Sequence[str]) -> str:
    """Say which messages a file lacks, and on which levels it has their variables."""
    variables = {item.variable for item in lacking}
    levels: dict[str, None] = {}
    for name in held:
        variable, level = name.split(":", 1)
        if variable in variables:
            levels[level] = None
    return (
        f"{run} holds no message {', '.join(map(str, lacking))}; of {', '.join(sorted(variables))} it holds "
        f"{', '.join(levels) or 'nothing'}. Leave it out, or choose other --levels"
    )


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
    """Cache of hours; may be used by several threads.

    Attributes:
        planner: reader of indices, which are read again where a file was replaced.
        grids: those that were read so far.
        done: bytes that arrived.
    """

    planner: HourPlanner
    grids: dict[str, GribGrid] = field(default_factory=dict)
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cached(self, time: np.datetime64, wanted: Sequence[WantedField]) -> Fetched | None:
        """Return an hour of the cache whose bytes have just been verified; None if there is none."""
        path = _place(time, wanted)
        try:
            facts = _recorded(read_json(_note(path)))
            if facts["sha256"] != sha256_of_file(path):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Fetched(facts, self._messages(path, time, wanted))

    def fetch(self, time: np.datetime64, wanted: Sequence[WantedField], plan: HourPlan) -> Fetched:
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
            # Another process may have fetched it meanwhile.
            if (found := self.cached(time, wanted)) is not None:
                return found
            while True:
                try:
                    return self._download(path, wanted, plan)
                except _ArchiveError as error:
                    # A file that was replaced meanwhile has a new index; any other failure is the archive's.
                    stale += error.stale
                    if not error.stale or stale > _RESTARTS:
                        refused[error.archive], stale = str(error), 0
                    watch.said(f"{path.stem}: {error.archive}: {error}; trying again")
                plan = self.planner.plan(time, wanted, refused)

    def _download(self, path: Path, wanted: Sequence[WantedField], plan: HourPlan) -> Fetched:
        """Write an hour's messages into one file, and into a note of the same name what it holds."""
        content_hash = new_sha256()
        # Also what a process that was killed has left.
        for old in (path, *path.parent.glob(f".{path.name}.*.part")):
            old.unlink(missing_ok=True)
        # What is cut never has its final name: Herbie's own downloads do, and are taken for whole the next time.
        with published(path) as part:
            with part.open("xb") as stream:
                for share in plan.shares:
                    for content in self._contents(share):
                        stream.write(content)
                        content_hash.update(content)
                size = stream.tell()
            sync(part)
            try:
                messages = self._messages(part, plan.time, wanted)
            except _MisfitError as error:
                archives = [share.archive for share in plan.shares for _ in share.lines]
                raise _ArchiveError(archives[error.number - 1], str(error), stale=True) from error
            # Without the query, which holds the signature of Azure's addresses.
            facts = {
                "name": path.name,
                "sha256": content_hash.hexdigest(),
                "size": size,
                "of": [str(share.run) for share in plan.shares],
                "from": [without_user(urlsplit(share.address)._replace(query="").geturl()) for share in plan.shares],
            }
            write_atomically(_note(path), json.dumps(facts))
        return Fetched(_recorded(facts), tuple(dataclasses.replace(message, path=path) for message in messages))

    def _contents(self, share: FetchShare) -> Iterator[bytes]:
        """Fetch the messages of a file, one by one."""
        transport, attempts = self.planner.transport, self.planner.attempts(share.archive)
        first: Piece | None = None
        for run in share.ranges():
            start, end = run[0][1].start, run[-1][1].end
            try:
                piece = transport.piece(share.address, start, end, attempts)
            except SourceError as error:
                raise _ArchiveError(share.archive, str(error), stale=isinstance(error, ShorterError)) from error
            # Ranges of two versions of a file would make an hour that never was.
            first = first or piece
            if (piece.total, piece.version) != (first.total, first.version):
                raise _ArchiveError(share.archive, "the file changed while it was fetched", stale=True)
            for wanted, line in run:
                content = piece.content[line.start - start :]
                if line.end is not None:
                    content = content[: line.end - line.start + 1]
                # One whole message of GRIB 2, by its first section and its last.
                length, frame = int.from_bytes(content[8:_FRAME]), (content[:4], content[7:8], content[-4:])
                if length != len(content) or frame != (MAGIC, b"\x02", b"7777"):
                    why = f"bytes {line.start} to {line.end} are no message {wanted}: the index does not fit the file"
                    raise _ArchiveError(share.archive, why, stale=True)
                yield content
            # Several hours arrive at once, and are reported as one.
            with self._lock:
                self.done += len(piece.content)
                transport.watch.advanced(self.done)

    def _messages(self, path: Path, time: np.datetime64, wanted: Sequence[WantedField]) -> tuple[Message, ...]:
        """Read the headers of an hour's file, and check that it holds what it should.

        Raises:
            StoreError: it does not, or is damaged.
        """
        # eccodes is one at a time; so are the grids, which are large.
        with self._lock:
            messages = tuple(scan(path, self.grids))
        # The index is another file than the messages, and may be of another version or wrong.
        expected = {(item.name, item.level): item for item in wanted}
        for message in messages:
            name, _ = name_of(message)
            item = expected.pop((name, message.level if message.on_pressure else -1.0), None)
            level = (message.level_type, message.level)
            if (
                item is None
                or (message.time, message.lead) != (time, item.lead)
                or not (message.on_pressure or level == _TYPES[item.place])
            ):
                msg = (
                    f"a message is {name} on {message.level_type} {message.level:g} at {message.time}, "
                    f"{message.lead:g} h after its run, where the index promised {item or 'another one'} at {time}"
                )
                raise _MisfitError(msg, message.number)
        return messages


def _recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a store says of an hour: not the archive, which may be another one when the build goes on."""
    return {key: facts[key] for key in ("name", "sha256", "size", "of")}


def _place(time: np.datetime64, wanted: Sequence[WantedField]) -> Path:
    """Name an hour's file in the cache by what is in it, not by the archive that it is from."""
    # Hours with other messages, and those of another format, are other files.
    key = sha256_of_text(json.dumps([_FORMAT, *map(str, wanted)]))[:12]
    moment = time.astype("datetime64[h]").item()
    return cache_dir() / "hrrr" / f"{moment:%Y%m%d}" / f"hrrr.{moment:%Y%m%d}.t{moment:%H}z.{key}.grib2"


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")

"""What is fetched for an hour of HRRR: which bytes of which files, from which archive."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.sources.hrrr.index import Line, Run, Wanted, read_index
from kit.data.sources.hrrr.transport import AbsentError, Transport
from kit.io.errors import StoreError, UnavailableError
from kit.io.retry import SourceError

__all__ = ["MissingError", "Plan", "Planner", "Share"]

_HOUR = np.timedelta64(1, "h")


class MissingError(StoreError):
    """An hour that no archive has, or not all of it."""


@dataclass(frozen=True)
class Share:
    """What is taken of one file.

    Attributes:
        run: the file.
        archive: that has it.
        address: where.
        lines: its messages, in the file's order.
    """

    run: Run
    archive: str
    address: str
    lines: tuple[tuple[Wanted, Line], ...]

    def ranges(self) -> Iterator[list[tuple[Wanted, Line]]]:
        """Runs of messages that lie side by side: each is one request."""
        run: list[tuple[Wanted, Line]] = []
        for item in self.lines:
            if run and run[-1][1].end != item[1].start - 1:
                yield run
                run = []
            run.append(item)
        if run:
            yield run


@dataclass(frozen=True)
class Plan:
    """What is fetched for one hour.

    Attributes:
        time: that everything is valid at.
        shares: by file.
    """

    time: np.datetime64
    shares: tuple[Share, ...]

    @property
    def requests(self) -> int:
        """For bytes; indices have been read."""
        return sum(1 for share in self.shares for _ in share.ranges())

    @property
    def size(self) -> int:
        """Bytes, short of a file's last message, whose length the index does not say."""
        lines = (line for share in self.shares for _, line in share.lines)
        return sum(line.end - line.start + 1 for line in lines if line.end is not None)


@dataclass(frozen=True)
class Planner:
    """Reads indices; may be used by several threads.

    Attributes:
        transport: how.
        archives: which are asked, in order.
    """

    transport: Transport
    archives: Sequence[str]

    def plan(self, time: np.datetime64, wanted: Sequence[Wanted], refused: Mapping[str, str] | None = None) -> Plan:
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
            run = Run(time - lead * _HOUR, lead, "sfc")
            share, _ = self._share(run, items, refused or {})
            found = {item for item, _ in share.lines}
            partly = {item.name for item in items if item not in found}
            kept = tuple((item, line) for item, line in share.lines if item.name not in partly)
            share = dataclasses.replace(share, lines=kept)
            shares += [share] if share.lines else []
            if partly:
                rest = [item for item in items if item.name in partly]
                shares.append(self._rest(run, rest, refused or {}))
        return Plan(time, tuple(shares))

    def _rest(self, run: Run, items: Sequence[Wanted], refused: Mapping[str, str]) -> Share:
        """What the file of the surface lacks."""
        run = dataclasses.replace(run, product="prs")
        share, held = self._share(run, items, refused)
        lacking = [item for item in items if item not in {found for found, _ in share.lines}]
        if lacking:
            names = ", ".join(map(str, lacking))
            kinds = {item.variable for item in lacking}
            places = [entry.partition(":")[2] for entry in held if entry.partition(":")[0] in kinds]
            msg = (
                f"{run} holds no message {names}; of {', '.join(sorted(kinds))} it holds "
                f"{', '.join(dict.fromkeys(places)) or 'nothing'}. Leave it out, or choose other --levels"
            )
            raise MissingError(msg)
        return share

    def _share(self, run: Run, items: Sequence[Wanted], refused: Mapping[str, str]) -> tuple[Share, tuple[str, ...]]:
        failures, absent = dict(refused), []
        for archive in (name for name in self.archives if name not in refused):
            try:
                address, lines, held = read_index(run, archive, items, self.transport, self.attempts(archive))
            except AbsentError:
                absent.append(archive)
            except SourceError as error:
                failures[archive] = str(error)
                if not self.transport.stop.is_set():
                    self.transport.watch.said(f"{run}: {archive}: {error}")
            else:
                order = sorted(lines.items(), key=lambda pair: pair[1].number)
                return Share(run, archive, address, tuple(order)), held
        if not failures:
            msg = f"{run} is in none of the archives {', '.join(absent)}"
            raise MissingError(msg)
        tried = "; ".join([f"{name}: {why}" for name, why in failures.items()] + [f"{name}: absent" for name in absent])
        msg = f"{run} cannot be had: {tried}. What was fetched is kept: the same command goes on from there"
        raise UnavailableError(msg)

    def _attempts(self, archive: str) -> int:
        # What has a mirror behind it is given up sooner.
        return self.transport.limits.attempts if archive == self.archives[-1] else 2

    def attempts(self, archive: str) -> int:
        """How often an archive is asked in a row: one that has another behind it is given up sooner."""
        return self.transport.limits.attempts if archive == self.archives[-1] else 2

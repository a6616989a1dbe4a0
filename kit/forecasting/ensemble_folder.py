"""Folder of an ensemble that is not finished: its plan, the forecasts so far, and who works on which.

``.NAME.ensemble.part`` beside the Zarr ``NAME`` holds ``plan.json``, the Zarr as far as it is written, a file in
``done`` for each pass that is, ``claims`` on those that are not, and what else processes share. All at work share a
lock on the plan; who removes the folder needs it alone.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data.store.format import consolidate
from kit.forecasting.claims import Claims
from kit.forecasting.writing import ForecastLayout, ZarrWriter
from kit.io.atomic import (
    check_free,
    make_folder,
    move,
    publish,
    remove_leftovers,
    remove_tree,
    scratch,
    sync,
    sync_tree,
    write_atomically,
)
from kit.io.documents import DocumentError, read_json
from kit.io.errors import SettingsError
from kit.io.locks import LockHandle, take

_logger = logging.getLogger(__name__)

_PLAN, _DONE, _CLAIMS, _FORECASTS = "plan.json", "done", "claims", "forecasts"

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Pass:
    """Forecasts that go through the model together: members of one checkpoint, from one initial time.

    Attributes:
        checkpoint: Index of the checkpoint.
        start: Index of the initial time.
        members: Numbers of the members.
    """

    checkpoint: int
    start: int
    members: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the pass in the plan that it belongs to."""
        return f"checkpoint{self.checkpoint}-start{self.start}-member{self.members[0]}"


class EnsembleFolder:
    """An unfinished ensemble that this process works on; ``joined`` makes it."""

    def __init__(self, folder: Path, out: Path, plan: Plan) -> None:
        self.folder = folder
        self.out = out
        self.plan = plan
        self.claims = Claims(folder / _CLAIMS)
        self._forecasts = folder / _FORECASTS
        self._writer: ZarrWriter | None = None

    def done(self) -> set[str]:
        """List the names of the passes that are done."""
        return _names(self.folder / _DONE)

    def writer(self, layout: ForecastLayout) -> ZarrWriter:
        """Open the Zarr that all processes write into; whoever comes first makes it.

        Raises:
            CheckpointError: it was made for other variables or another grid.
        """
        if self._writer is None:
            if not self._forecasts.exists():
                with scratch(self._forecasts) as part:
                    ZarrWriter(part, layout)
                    sync_tree(part)
                    # Where another process was faster, its own is taken, and this one is removed.
                    if not self._forecasts.exists():
                        _rename(part, self._forecasts)
            self._writer = ZarrWriter(self._forecasts, None)
            self._writer.check(layout)
        return self._writer

    def record(self, each: Pass, layout: ForecastLayout) -> None:
        """Record that a pass is done, once the disk holds all of it."""
        for name in layout.variables:
            for member in each.members:
                chunks = self._chunks(name, layout.numbers.index(member), each.start)
                sync_tree(chunks)
                # The folders above it may be as new.
                for parent in chunks.parents[:3]:
                    sync(parent)
        write_atomically(self.folder / _DONE / each.name, "")

    def _chunks(self, name: str, member: int, start: int) -> Path:
        return self._forecasts / name / "c" / str(member) / str(start)

    def publish(self) -> None:
        """Give the finished Zarr its name.

        Raises:
            SettingsError: something else has it meanwhile.
        """
        check_free(self.out)
        # What a process that was killed had begun to write.
        for partial in self._forecasts.rglob("*.partial"):
            partial.unlink()
        consolidate(self._forecasts)
        publish(self._forecasts, self.out)


@contextmanager
def joined(out: Path, plan: Plan, adopted: Sequence[str]) -> Iterator[EnsembleFolder]:
    """Begin an ensemble, or go on with one of the same plan; other processes may do so at the same time.

    Args:
        out: Zarr that the ensemble becomes.
        plan: Everything that its values follow from.
        adopted: Entries of the plan that are taken from an unfinished ensemble, whatever they are here.

    Raises:
        SettingsError: an ensemble of another plan is there; names what differs.
    """
    folder = folder_of(out)
    make_folder(out.parent)
    remove_leftovers(out.parent)
    lock = _join(folder, plan)
    try:
        found = read_plan(folder)
        check_plan(folder, {**plan, **{name: found.get(name) for name in adopted}}, found)
        remove_leftovers(folder)
        yield EnsembleFolder(folder, out, found)
    finally:
        lock.release()
        _leave(folder, out)


def folder_of(out: Path) -> Path:
    """Return the folder of an unfinished ensemble."""
    return out.parent / f".{out.name}.ensemble.part"


def read_plan(folder: Path) -> dict[str, Any]:
    """Read the plan of an unfinished ensemble.

    Raises:
        FileNotFoundError: there is none.
        SettingsError: it cannot be read.
    """
    try:
        plan: dict[str, Any] = dict(read_json(folder / _PLAN))
    except (DocumentError, TypeError, ValueError) as error:
        msg = f"{folder / _PLAN}: it is no plan of an ensemble ({error}); remove {folder}, or choose another --out"
        raise SettingsError(msg) from error
    return plan


def check_plan(place: Path, plan: Plan, found: Plan) -> None:
    """Compare the plan of an ensemble that is there with the present one.

    Raises:
        SettingsError: they differ; names in what.
    """
    differing = [name for name in (*plan, *found) if plan.get(name) != found.get(name)]
    if not differing:
        return
    places = [
        f"{name} ({_short(found.get(name))} there, {_short(plan.get(name))} here)" for name in dict.fromkeys(differing)
    ]
    msg = (
        f"{place}: another ensemble is there, and the two must not be mixed. They differ in {'; '.join(places)}. Give "
        "the command of that one to go on with it, choose another --out, or remove it"
    )
    raise SettingsError(msg)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if not file.name.startswith(".")} if folder.exists() else set()


def _join(folder: Path, plan: Plan) -> LockHandle:
    """Make the folder of an ensemble unless it is there, and share its lock."""
    while True:
        if not folder.exists():
            # Whole before it gets its name, so that nobody joins half a folder.
            with scratch(folder) as part:
                for name in (_DONE, _CLAIMS):
                    (part / name).mkdir(parents=True)
                (part / _PLAN).write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
                sync_tree(part)
                if not folder.exists():
                    _rename(part, folder)
        try:
            lock = take(folder / _PLAN, shared=True, make=False, wait=True, quiet=True)
        except FileNotFoundError:
            # Removed between two lines.
            continue
        assert lock is not None
        return lock


def _rename(part: Path, folder: Path) -> None:
    """Rename a folder unless the name is taken: renaming onto a folder that holds something fails."""
    try:
        move(part, folder)
    except OSError:
        if not folder.exists():
            raise


def _leave(folder: Path, out: Path) -> None:
    """Remove the folder of an ensemble that is finished, or of which nothing is done, if nobody works on it."""
    try:
        lock = take(folder / _PLAN, make=False, quiet=True)
    except FileNotFoundError:
        return
    if lock is None:
        return
    finished = out.exists() and not (folder / _FORECASTS).exists()
    done = len(_names(folder / _DONE))
    # A file system without locks lets everybody have one: there nobody can tell whether others are at work.
    if finished or (done == 0 and lock.exclusive):
        remove_tree(folder)
    else:
        _logger.info("%d pass(es) done are kept in %s; the same command goes on from there", done, folder)
    lock.release()

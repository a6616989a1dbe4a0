"""The folder of a build that is not finished: its plan, what is written so far, and who works on it.

``.NAME.part`` beside the store ``NAME`` holds ``plan.json``, the store as far as it is written, ``records`` of the
blocks that are done, ``claims`` on those that are not, and ``scratch``, where files are written before they are moved
to their place. Every process at work shares a lock on the plan; who discards the folder needs it alone.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.data.store.build_plan import BuildPlan, differences
from kit.data.store.manifest import BlockRecord
from kit.io.errors import StoreError
from kit.io.locks import LockHandle, take

__all__ = ["STATIC", "OtherPlanError", "BuildState", "discard", "folder_of", "join"]

STATIC = -1
"""Number of the block of static variables."""
_PLAN, _RECORDS, _CLAIMS, _SCRATCH = "plan.json", "records", "claims", "scratch"
_REMOVALS = 40
_PAUSE = 0.05
_SHOWN = 3


class OtherPlanError(StoreError):
    """An unfinished build of another store is in the way."""


@dataclass(frozen=True)
class BuildState:
    """An unfinished build that this process works on.

    Attributes:
        folder: of the build.
        plan: of the store.
        private: nobody else can join it, and it cannot be gone on with.
        lock: shared by all that are at work.
    """

    folder: Path
    plan: BuildPlan
    private: bool
    lock: LockHandle

    @property
    def store(self) -> Path:
        """What becomes the store; named by the plan, so that a late writer of another one cannot reach it."""
        return self.folder / f"store-{self.plan.digest[:12]}"

    @property
    def scratch(self) -> Path:
        """Files on their way to their place."""
        return self.folder / _SCRATCH

    @property
    def closing(self) -> Path:
        """What is exchanged at the end of an append, once all of it is prepared."""
        return self.folder / "closing"

    def record_file(self, number: int) -> Path:
        """Where the record of a block is kept."""
        return self.folder / _RECORDS / ("static.npz" if number == STATIC else f"{number:08d}.npz")

    @property
    def numbers(self) -> list[int]:
        """Numbers of all blocks, in the order of time."""
        return [STATIC, *range(len(self.plan.edges) - 1)]

    def recorded(self) -> set[int]:
        """Numbers of the blocks that are done."""
        try:
            names = [file.stem for file in (self.folder / _RECORDS).iterdir()]
        except FileNotFoundError:
            return set()
        return {STATIC if name == "static" else int(name) for name in names}

    def claim(self, number: int) -> LockHandle | None:
        """Take a block that is not done; None if another process has it, or has done it."""
        held = take(self.folder / _CLAIMS / str(number))
        if held is not None and self.record_file(number).exists():
            held.release(remove=True)
            return None
        return held

    def claim_end(self) -> LockHandle | None:
        """Take what is left to do when all blocks are done; None if another process has it."""
        return take(self.folder / _CLAIMS / "end")

    def check(self) -> set[int]:
        """Look for the files of all blocks that are done, and forget the records of those whose files are not right.

        Sizes are compared, not hashes: those would take as long as reading the whole store, and are compared by
        ``kit data verify``. While another process ends the build, its files are on their way: nothing is looked at.

        Returns:
            Numbers of the blocks that are done.
        """
        try:
            held = self.claim_end()
        except FileNotFoundError:
            held = None
        if held is None:
            return self.recorded() if self.store.exists() else set(self.numbers)
        try:
            if not self.store.exists():
                return set(self.numbers)
            return self.recorded() if self.closing.exists() else self._checked()
        finally:
            held.release()

    def _checked(self) -> set[int]:
        done = self.recorded()
        for number in sorted(done):
            file = self.record_file(number)
            if not _intact(file, self.store):
                file.unlink(missing_ok=True)
                done.discard(number)
        return done

    def leave(self) -> None:
        """Work on it no more; others may."""
        self.lock.release()

    def abandon(self) -> int:
        """Work on it no more, and remove it if nothing is done, or if nobody could go on with it.

        Returns:
            Blocks that are done and kept.
        """
        kept = 0 if self.private or not self.folder.exists() else len(self.recorded() - {STATIC})
        self.leave()
        if not kept:
            discard(self.folder)
        return kept


def _intact(file: Path, store: Path) -> bool:
    try:
        return BlockRecord.load(file).holds(store)
    except (OSError, ValueError, KeyError, EOFError):
        return False


def folder_of(out: Path, kind: str = "part") -> Path:
    """The folder of an unfinished build of a store."""
    return out.parent / f".{out.name}.{kind}"


def join(
    folder: Path, plan: BuildPlan, make: Callable[[Path], None], *, private: bool = False, restart: bool = False
) -> BuildState:
    """Begin a build, or go on with one of the same plan.

    Args:
        folder: of the build.
        plan: of the store.
        make: writes the skeleton of the store to a folder.
        private: nobody else is to join it.
        restart: discard what is there before.

    Raises:
        OtherPlanError: a build of another plan is there.
        StoreError: one that is to be discarded is being worked on.
    """
    if restart and not discard(folder):
        msg = f"{folder}: another process is building there; wait for it or stop it, then use --restart again"
        raise StoreError(msg)
    while True:
        if not folder.exists():
            _begin(folder, plan, make)
        try:
            lock = take(folder / _PLAN, shared=True, make=False)
            if lock is not None:
                part = _checked(folder, plan, lock, private=private)
                if part.store.exists():
                    return part
                # The store has its name already; the last of those who made it removes the rest.
                lock.release()
                discard(folder)
        except FileNotFoundError:
            # Finished or discarded between two lines.
            if folder.exists() and not (folder / _PLAN).exists():
                discard(folder)
        time.sleep(_PAUSE)


def _begin(folder: Path, plan: BuildPlan, make: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:12]}")
    try:
        for name in (_RECORDS, _CLAIMS, _SCRATCH):
            (new / name).mkdir(parents=True)
        (new / _PLAN).write_text(plan.text, encoding="utf-8")
        make(new / f"store-{plan.digest[:12]}")
        try:
            # Renaming onto a folder that holds something fails: the first of several is joined by the others.
            new.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        _remove(new)


def _checked(folder: Path, plan: BuildPlan, lock: LockHandle, *, private: bool) -> BuildState:
    text = (folder / _PLAN).read_text(encoding="utf-8")
    if text == plan.text:
        return BuildState(folder, plan, private, lock)
    lock.release()
    try:
        places = list(differences(plan.content, json.loads(text)))
    except ValueError:
        places = ["its plan cannot be read"]
    shown = "; ".join(places[:_SHOWN]) + (f"; and {len(places) - _SHOWN} more" if len(places) > _SHOWN else "")
    msg = (
        f"{folder}: an unfinished build of another plan is there, and the two must not be mixed. They differ in: "
        f"{shown}. Give the command of that build to go on with it, choose another --out, or discard what it has with "
        "--restart"
    )
    raise OtherPlanError(msg)


def discard(folder: Path) -> bool:
    """Remove an unfinished build.

    Returns:
        Whether it is gone; not if a process works on it.
    """
    try:
        lock = take(folder / _PLAN, make=False)
    except (FileNotFoundError, NotADirectoryError):
        # Without a plan it is none, or what a removal has left.
        _remove(folder)
        return not folder.exists()
    if lock is None:
        return False
    try:
        folder.rename(folder.with_name(f"{folder.name}-gone-{uuid.uuid4().hex[:12]}"))
    finally:
        lock.release()
    # With what processes have left that were killed here.
    for gone in folder.parent.glob(f"{folder.name}-gone-*"):
        _remove(gone)
    return True


def _remove(folder: Path) -> None:
    """Delete a folder into which threads may still be finishing what they had begun."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_PAUSE)

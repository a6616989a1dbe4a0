"""Folder of a build that is not finished: its plan, what is written so far, and who works on it.

``.NAME.part`` beside the store ``NAME`` holds ``plan.json``, the store as far as it is written, ``records`` of the
blocks that are done, ``claims`` on those that are not, and ``scratch``, where files are written before they are moved
to their place. Every process at work shares a lock on the plan; who discards the folder needs it alone.
"""

import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.data.store.build_plan import BuildPlan, differences
from kit.data.store.manifest import BlockRecord
from kit.io.atomic import move, publish, remove_tree
from kit.io.documents import DocumentError, parse_json
from kit.io.errors import StoreError
from kit.io.locks import LockHandle, take
from kit.io.retry import poll

STATIC = -1
"""Number of the block of static variables."""
_PLAN, _RECORDS, _CLAIMS, _SCRATCH = "plan.json", "records", "claims", "scratch"
_PAUSE = 0.05
"""Seconds between two attempts to join a build that another process is making or removing."""
_SHOWN = 3
"""Differences between two plans that a message lists."""


class OtherPlanError(StoreError):
    """An unfinished build of another store is in the way."""


@dataclass(frozen=True)
class BuildState:
    """An unfinished build that this process works on.

    Attributes:
        folder: Folder of the build.
        plan: Plan of the store.
        private: Whether nobody else can join the build; then it is not kept when it is interrupted.
        lock: Lock that all processes at work share.
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
        """Path of the record of a block."""
        name = "static" if number == STATIC else f"{number:08d}"
        return self.folder / _RECORDS / f"{name}.npz"

    @property
    def numbers(self) -> list[int]:
        """Numbers of all blocks, in the order of time."""
        return [STATIC, *range(len(self.plan.edges) - 1)]

    def recorded(self) -> set[int]:
        """List the numbers of the blocks that are done."""
        try:
            names = {file.stem for file in (self.folder / _RECORDS).iterdir()}
        except FileNotFoundError:
            return set()
        numbers = set(map(int, names - {"static"}))
        if "static" in names:
            numbers.add(STATIC)
        return numbers

    def claim(self, number: int) -> LockHandle | None:
        """Lock a block that is not done; None if another process has it, or has done it."""
        held = take(self.folder / _CLAIMS / str(number))
        # The other process writes the record before it lets go: a block that is free and has one is done.
        if held is not None and self.record_file(number).exists():
            held.release(remove=True)
            return None
        return held

    def claim_end(self) -> LockHandle | None:
        """Lock what is left to do when all blocks are done; None if another process has it, or the build is gone."""
        try:
            return take(self.folder / _CLAIMS / "end")
        except FileNotFoundError:
            return None

    def check(self) -> set[int]:
        """Look for the files of all blocks that are done, and forget the records of those whose files are not right.

        Sizes are compared: hashes would take as long as reading the whole store. But files of before the machine last
        started may have lost what the disk did not hold yet, whatever their size, and are compared by hash. While
        another process ends the build, its files are on their way: nothing is looked at.

        Returns:
            Numbers of the blocks that are done.
        """
        held = self.claim_end()
        try:
            if not self.store.exists():
                return set(self.numbers)
            done = self.recorded()
            # Another process, now or before it was killed, has begun to move files away.
            if held is None or self.closing.exists():
                return done
            started = boot_time()
            for number in sorted(done):
                file = self.record_file(number)
                try:
                    earlier = file.stat().st_mtime < started
                    intact = BlockRecord.load(file).holds(self.store, by_hash=earlier)
                except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                    intact = False
                if not intact:
                    # Its block is written again.
                    file.unlink(missing_ok=True)
                    done.discard(number)
            return done
        finally:
            if held is not None:
                held.release()

    def leave(self) -> None:
        """Work on the build no more; others may."""
        self.lock.release()

    def abandon(self) -> int:
        """Work on the build no more, and remove it if nothing is done, or if nobody could go on with it.

        Returns:
            Number of blocks that are done and kept.
        """
        # Static variables alone are written in no time.
        kept = 0
        if not self.private and self.folder.exists():
            kept = len(self.recorded() - {STATIC})
        self.leave()
        if not kept:
            discard(self.folder)
        return kept


def boot_time() -> float:
    """Return when the machine started, in seconds since 1970."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def folder_of(out: Path, kind: str = "part") -> Path:
    """Return the folder of an unfinished build of a store."""
    return out.parent / f".{out.name}.{kind}"


def join(
    folder: Path, plan: BuildPlan, make: Callable[[Path], None], *, private: bool = False, restart: bool = False
) -> BuildState:
    """Begin a build, or go on with one of the same plan.

    Args:
        folder: Folder of the build.
        plan: Plan of the store.
        make: Function that writes the skeleton of the store to a folder.
        private: Whether nobody else is to join the build.
        restart: Whether to discard what is there before.

    Raises:
        OtherPlanError: a build of another plan is there.
        StoreError: one that is to be discarded is being worked on.
    """
    if restart and not discard(folder):
        msg = f"{folder}: another process is building there; wait for it or stop it, then use --restart again"
        raise StoreError(msg)
    joined: list[BuildState] = []

    def try_to_join() -> bool:
        if not folder.exists():
            _begin(folder, plan, make)
        try:
            lock = take(folder / _PLAN, shared=True, make=False)
            if lock is not None:
                _check_plan(folder, plan, lock)
                build = BuildState(folder, plan, private, lock)
                if build.store.exists():
                    joined.append(build)
                    return True
                # The store has its name already; the last of those who made it removes the rest.
                lock.release()
                discard(folder)
        except FileNotFoundError:
            # Finished or discarded between two lines.
            if folder.exists() and not (folder / _PLAN).exists():
                discard(folder)
        return False

    poll(try_to_join, _PAUSE)
    return joined[0]


def _begin(folder: Path, plan: BuildPlan, make: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:12]}")
    # Whole before it gets its name, so that nobody joins half a folder.
    try:
        for name in (_RECORDS, _CLAIMS, _SCRATCH):
            (new / name).mkdir(parents=True)
        (new / _PLAN).write_text(plan.text, encoding="utf-8")
        make(new / f"store-{plan.digest[:12]}")
        try:
            # Renaming onto a folder that holds something fails: the first of several is joined by the others.
            publish(new, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        remove_tree(new)


def _check_plan(folder: Path, plan: BuildPlan, lock: LockHandle) -> None:
    """Compare the plan of an unfinished build with ours, and release its lock if it is another."""
    # There is no leader and no server: whoever has the same plan works on it, as all write the same bytes.
    text = (folder / _PLAN).read_text(encoding="utf-8")
    if text == plan.text:
        return
    lock.release()
    try:
        places = list(differences(plan.content, parse_json(text)))
    except DocumentError:
        places = ["its plan cannot be read"]
    shown = "; ".join(places[:_SHOWN])
    if len(places) > _SHOWN:
        shown += f"; and {len(places) - _SHOWN} more"
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
        remove_tree(folder)
        return not folder.exists()
    if lock is None:
        return False
    # First away under another name: nobody can join it while its files are deleted.
    try:
        move(folder, folder.with_name(f"{folder.name}-gone-{uuid.uuid4().hex[:12]}"), durable=False)
    finally:
        lock.release()
    # With what processes have left that were killed here.
    for gone in folder.parent.glob(f"{folder.name}-gone-*"):
        remove_tree(gone)
    return True

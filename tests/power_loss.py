"""What a disk holds after the power went, for a process that is run with its fsyncs watched.

    events = watched(["-m", "kit", "data", "build", ...], root, log)
    for lost in events.crashes(rng, 20):
        lost.restore(place, names="durable")

A disk may drop everything that was not synced. Of a file it then holds what the last fsync of it covered, or nothing;
of a folder the names that its last fsync covered (``names="durable"``), or those that the system had in memory
(``names="kept"``): real file systems do either, and readers have to meet both.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

_SOURCE = Path(__file__).with_suffix(".c")
_START = "start"


@dataclass(frozen=True)
class Named:
    """A name in a folder: which file it stands for, its type (``d``, ``f`` or ``o``), and the name or path."""

    identity: str
    kind: str
    name: str


class Events:
    """Fsyncs of a watched process, and what was there before it.

    Args:
        root: Folder whose files were watched.
        log: Folder that the recording lies in.
    """

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self.log = log
        lines = (log / "events").read_text(encoding="utf-8").splitlines()
        self.synced = [Named(identity, kind, number) for number, kind, identity in (line.split("\t") for line in lines)]

    def __len__(self) -> int:
        return len(self.synced)

    def restore(self, moment: int, place: Path, names: Literal["durable", "kept"]) -> None:
        """Write what the disk holds if the power goes just before the fsync of that number returns.

        Args:
            moment: Number of the fsync that is not done; ``len(self)`` for the end.
            place: Folder that takes the place of the root; must not exist.
            names: Which names of folders outlive the loss.
        """
        contents = self._started("file")
        folders = self._started("names")
        for event in self.synced[:moment]:
            if event.kind == "d":
                folders[event.identity] = self.log / f"{event.name}.names"
            else:
                contents[event.identity] = self.log / f"{event.name}.file"
        place.mkdir(parents=True)
        if names == "durable":
            self._fill(place, _identity(self.root), folders, contents)
            return
        last = min(moment, len(self) - 1)
        for found in _read(self.log / f"{last}.tree"):
            target = place / Path(found.name).relative_to(self.root)
            if target != place:
                _make(found, target, contents)

    def _started(self, suffix: str) -> dict[str, Path]:
        return {path.name.removesuffix(f".{suffix}"): path for path in (self.log / _START).glob(f"*.{suffix}")}

    def _fill(self, place: Path, identity: str, folders: dict[str, Path], contents: dict[str, Path]) -> None:
        if identity not in folders:
            return
        for found in _read(folders[identity]):
            target = place / found.name
            _make(found, target, contents)
            if found.kind == "d":
                self._fill(target, found.identity, folders, contents)


def _make(found: Named, target: Path, contents: dict[str, Path]) -> None:
    if found.kind == "d":
        target.mkdir(exist_ok=True)
    elif found.kind == "f":
        # A file that was never synced may have lost everything but its name.
        if found.identity in contents:
            shutil.copyfile(contents[found.identity], target)
        else:
            target.touch()


def _read(file: Path) -> Iterator[Named]:
    for line in file.read_text(encoding="utf-8").splitlines():
        yield Named(*line.split("\t"))


def _identity(path: Path) -> str:
    """Return a file's identity as the library writes it; Python has no time of birth, coreutils' ``stat`` does."""
    told = subprocess.run(["stat", "--format=%i %.9W", path], capture_output=True, text=True, check=True)
    inode, born = told.stdout.split()
    return f"{inode}-{born}"


def library(folder: Path) -> Path:
    """Compile the library that watches; skips the test where no compiler is."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    built = folder / "power_loss.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, _SOURCE], check=True)
    return built


def watched(arguments: Sequence[str], root: Path, log: Path, status: int = 0) -> Events:
    """Run Python with its fsyncs below a folder watched.

    Args:
        arguments: Those of Python.
        root: Folder to watch; what it holds already is taken as safely on the disk.
        log: Folder for the recording; made.
        status: Exit status that is due.
    """
    start = log / _START
    start.mkdir(parents=True)
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            kinds = ((_identity(inner), "d" if inner.is_dir() else "f", inner.name) for inner in path.iterdir())
            lines = ["\t".join(inner) + "\n" for inner in kinds]
            (start / f"{_identity(path)}.names").write_text("".join(lines), encoding="utf-8")
        else:
            shutil.copyfile(path, start / f"{_identity(path)}.file")
    variables = {"LD_PRELOAD": str(library(log)), "POWER_LOSS_ROOT": str(root), "POWER_LOSS_LOG": str(log)}
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return Events(root, log)


def moments(events: Events, count: int, seed: int) -> list[int]:
    """Choose moments of a power loss: random ones, and the end."""
    chosen = random.Random(seed).sample(range(len(events)), min(count, len(events)))
    return [*sorted(chosen), len(events)]

"""Compare every file of a store with what was recorded when it was written."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
import zarr.errors

from kit.data.store.build_state import folder_of
from kit.data.store.format import INTEGRITY, REPORT_FILE, STATISTICS_FILE, pending_statistics, statistics_file
from kit.data.store.manifest import MANIFEST, ChunkFact, Manifest, document_hash, file_hash, values_hash
from kit.io.errors import StoreError

__all__ = ["Problem", "Verification", "verify"]

_BATCH = 256
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written."""

    file: str
    problem: str
    """What is wrong with it, as a clause whose subject is the file."""


@dataclass(frozen=True)
class Verification:
    """What comparing came to: files and bytes that were read, and what is wrong."""

    store: Path
    files: int
    size: int
    problems: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        problems = [{"file": problem.file, "problem": problem.problem} for problem in self.problems]
        return {
            "store": str(self.store),
            "passed": not problems,
            "files": self.files,
            "bytes": self.size,
            "problems": problems,
        }


def verify(store: Path, workers: int | None = None) -> Verification:
    """Read every file of a store and compare it with its hash.

    Args:
        store: its folder.
        workers: threads that read; as many as there are processors by default.

    Returns:
        Every file that was changed, cut off or lost, and every one that is none of the store's.

    Raises:
        StoreError: there is no such folder, or it holds no store with hashes.
    """
    store = Path(store)
    if odd := list(_no_files(store)):
        # A pipe is waited for, and a device read, without end: nothing is opened beside one.
        return Verification(store, 0, 0, tuple(Problem(path, "is no file; nothing was compared") for path in odd))
    document = _document(store)
    problems: list[Problem] = []
    if document["attributes"][INTEGRITY].get("metadata") != document_hash(document):
        problems.append(Problem("zarr.json", "was changed"))
    manifest, tail, found = _manifest(store, document["attributes"])
    problems += [*found, *_statistics(store, document["attributes"]), *_metadata(store, document)]
    problems += _times(store, document["attributes"])
    size, files = 0, 0
    for problem, count in _compared(store, manifest.chunks(), workers or len(os.sched_getaffinity(0))):
        size, files = size + count, files + 1
        problems += [] if problem is None else [problem]
    known = {chunk.path for chunk in itertools.chain(manifest.chunks(), tail.chunks())}
    extra = sorted(_beside(store, document))
    problems += [Problem(path, "is none of the store's files") for path in _strangers(store, {*known, *extra})]
    present = [store / path for path in extra if (store / path).is_file()]
    return Verification(
        store, files + len(present), size + sum(file.stat().st_size for file in present), tuple(problems)
    )


def _no_files(store: Path) -> Iterator[str]:
    """What is neither a folder nor, links followed, a regular file."""
    for folder, _, names in os.walk(store):
        for file in (Path(folder, name) for name in names):
            if file.exists() and not file.is_file():
                yield file.relative_to(store).as_posix()


def _document(store: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((store / "zarr.json").read_text(encoding="utf-8"))
        attributes = document["attributes"]
    except _UNREADABLE as error:
        what = "no such store" if not store.is_dir() else f"no readable Zarr v3 group ({error})"
        msg = f"{store}: {what}; build one with `kit data build`"
        raise StoreError(msg) from error
    if not isinstance(attributes.get(INTEGRITY), dict):
        msg = f"{store}: holds no hashes of its files: it is no store, or one of an earlier version; build it again"
        raise StoreError(msg)
    return document


def _manifest(store: Path, attributes: Mapping[str, Any]) -> tuple[Manifest, Manifest, list[Problem]]:
    """What counts of the manifest, what an append that is under way put behind it, and what is wrong with it."""
    try:
        content = (store / MANIFEST).read_bytes()
        facts = attributes[INTEGRITY]["manifest"]
        length = int(facts["bytes"])
        manifest, tail = Manifest(content[:length]), Manifest(content[length:])
        if manifest.facts() == facts:
            return manifest, tail, []
        hashes = manifest.by_variable()
    except FileNotFoundError:
        return Manifest(b""), Manifest(b""), [Problem(MANIFEST, "is gone: the chunks cannot be compared")]
    except _UNREADABLE:
        return Manifest(b""), Manifest(b""), [Problem(MANIFEST, "was changed and cannot be read")]
    changed = [name for name, value in attributes.get("data_sha256", {}).items() if hashes.get(name, value) != value]
    return manifest, tail, [Problem(MANIFEST, f"was changed: the lines of {', '.join(changed) or 'some files'}")]


def _statistics(store: Path, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        sha256, _ = file_hash(statistics_file(store, attributes))
    except OSError:
        yield Problem(STATISTICS_FILE, "is gone")
        return
    if sha256 != attributes[INTEGRITY].get("statistics"):
        yield Problem(STATISTICS_FILE, "was changed")


def _arrays(document: Mapping[str, Any]) -> Mapping[str, Any]:
    arrays: Mapping[str, Any] = document["consolidated_metadata"]["metadata"]
    return arrays


def _metadata(store: Path, document: Mapping[str, Any]) -> Iterator[Problem]:
    """Metadata of arrays in files of their own, which the root's repeat."""
    # While an append ends, either may know of the new states first.
    moving = folder_of(store, "append.part").exists()
    for name, expected in sorted(_arrays(document).items()):
        try:
            held = json.loads((store / name / "zarr.json").read_text(encoding="utf-8"))
            same = held == expected or (moving and {**held, "shape": 0} == {**expected, "shape": 0})
        except FileNotFoundError:
            yield Problem(f"{name}/zarr.json", "is gone")
            continue
        except _UNREADABLE:
            same = False
        if not same:
            yield Problem(f"{name}/zarr.json", "was changed")


def _times(store: Path, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of the times: their file grows with every append, before the metadata say so."""
    try:
        group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
        held = values_hash(group["time"][:])  # type: ignore[index, arg-type]
    except (*_UNREADABLE, RuntimeError, zarr.errors.BaseZarrError):
        yield Problem("time", "cannot be read")
        return
    if held != attributes["data_sha256"].get("time"):
        yield Problem("time", "was changed")


def _compared(store: Path, chunks: Iterable[ChunkFact], workers: int) -> Iterator[tuple[Problem | None, int]]:
    with cf.ThreadPoolExecutor(workers) as pool:
        # Some at a time: the list of all futures would outgrow the list of all files.
        left = iter(chunks)
        while batch := list(itertools.islice(left, _BATCH)):
            yield from pool.map(lambda chunk: _compare(store, chunk), batch)


def _compare(store: Path, chunk: ChunkFact) -> tuple[Problem | None, int]:
    try:
        sha256, size = file_hash(store / chunk.path)
    except FileNotFoundError:
        return Problem(chunk.path, "is gone"), 0
    except OSError as error:
        return Problem(chunk.path, f"cannot be read ({error.strerror})"), 0
    if size != chunk.size:
        return Problem(chunk.path, f"has {size} bytes, {chunk.size} were written"), size
    return (None if sha256 == chunk.sha256 else Problem(chunk.path, "was changed")), size


def _beside(store: Path, document: Mapping[str, Any]) -> set[str]:
    """Files that the manifest does not list."""
    times = {file.relative_to(store).as_posix() for file in (store / "time" / "c").glob("*")}
    if folder_of(store, "append.part").exists():
        # On their way to their name.
        times |= {file.name for file in store.glob("stats-*.json")}
    pending = pending_statistics(store, document["attributes"]).name
    arrays = {f"{name}/zarr.json" for name in _arrays(document)}
    return {"zarr.json", MANIFEST, STATISTICS_FILE, REPORT_FILE, pending, *times, *arrays}


def _strangers(store: Path, known: set[str]) -> list[str]:
    files = (Path(folder, name) for folder, _, names in os.walk(store) for name in names)
    paths = (file.relative_to(store).as_posix() for file in files)
    return sorted(path for path in paths if path not in known)

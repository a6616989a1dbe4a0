"""Verification of a store or a climatology: every file is compared with what was recorded when it was written."""

import concurrent.futures as cf
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr.errors

from kit.data.store.build_state import folder_of
from kit.data.store.format import (
    CLIMATOLOGY_KEY,
    INTEGRITY,
    REPORT_FILE,
    STATISTICS_FILE,
    pending_statistics,
    statistics_file,
)
from kit.data.store.manifest import MANIFEST, ChunkFact, Manifest, document_hash, file_hash, values_hash
from kit.data.zarr_guard import open_group
from kit.io.documents import read_json
from kit.io.errors import StoreError

_BATCH = 256
"""Chunks that are handed to the threads at a time: the list of all futures would outgrow the list of all files."""
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written."""

    file: str
    problem: str
    """What is wrong with it, as a clause whose subject is the file."""


@dataclass(frozen=True)
class Verification:
    """Result of a verification: files and bytes that were read, and what is wrong."""

    store: Path
    files: int
    size: int
    problems: tuple[Problem, ...]
    is_climatology: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON knows it."""
        problems = list(map(dataclasses.asdict, self.problems))
        return {
            "store": str(self.store),
            "passed": not problems,
            "files": self.files,
            "bytes": self.size,
            "problems": problems,
        }


def verify(store: Path, workers: int | None = None) -> Verification:
    """Read every file of a store, or of a climatology, and compare it with its hash.

    Args:
        store: Folder of it.
        workers: Number of threads that read; as many as there are processors by default.

    Returns:
        Every file that was changed, cut off or lost, and every one that is none of the store's.

    Raises:
        StoreError: there is no such folder, or it holds no store with hashes.
    """
    store = Path(store)
    found = [Path(folder, name) for folder, _, names in os.walk(store) for name in names]
    paths = {file.relative_to(store).as_posix(): file for file in found}
    # Links are followed. A pipe is waited for, and a device read, without end: nothing is opened beside one.
    odd = [path for path, file in paths.items() if file.exists() and not file.is_file()]
    if odd:
        return Verification(store, 0, 0, tuple(Problem(path, "is no file; nothing was compared") for path in odd))
    # Everything else is hashed from the root's metadata, which carry their own hash.
    document = _read_document(store)
    attributes = document["attributes"]
    arrays: Mapping[str, Any] = document["consolidated_metadata"]["metadata"]
    # While an append ends, files are on their way to their names, and metadata of arrays may know of new states first.
    appending = folder_of(store, "append.part").exists()
    problems: list[Problem] = []
    if attributes[INTEGRITY].get("metadata") != document_hash(document):
        problems.append(Problem("zarr.json", "was changed"))
    manifest, tail, wrong = _read_manifest(store, attributes)
    problems += wrong
    problems += _compare_metadata(store, arrays, appending=appending)
    # A climatology has neither statistics nor times.
    is_climatology = CLIMATOLOGY_KEY in attributes
    if not is_climatology:
        problems += _compare_statistics(store, attributes)
        problems += _compare_times(store, attributes)
    size = files = 0
    with cf.ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        left = manifest.chunks()
        while batch := list(itertools.islice(left, _BATCH)):
            for problem, count in pool.map(_compare_chunk, itertools.repeat(store), batch):
                size, files = size + count, files + 1
                if problem is not None:
                    problems.append(problem)
    # Files that the manifest does not list: they were compared above, or anyone may remove them.
    extra = {"zarr.json", MANIFEST, STATISTICS_FILE, REPORT_FILE, pending_statistics(store, attributes).name}
    extra.update(f"{name}/zarr.json" for name in arrays)
    extra.update(path for path in paths if path.startswith("time/c/"))
    if appending:
        extra.update(path for path in paths if re.fullmatch(r"stats-[^/]*\.json", path))
    known = extra.union(chunk.path for chunk in itertools.chain(manifest.chunks(), tail.chunks()))
    problems += [Problem(path, "is none of the store's files") for path in sorted(paths.keys() - known)]
    present = [file for path, file in paths.items() if path in extra and file.is_file()]
    size += sum(file.stat().st_size for file in present)
    return Verification(store, files + len(present), size, tuple(problems), is_climatology)


def _read_document(store: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = read_json(store / "zarr.json")
        attributes = document["attributes"]
    except _UNREADABLE as error:
        what = f"no readable Zarr v3 group ({error})" if store.is_dir() else "no such store"
        msg = f"{store}: {what}; build one with `kit data build`"
        raise StoreError(msg) from error
    if not isinstance(attributes.get(INTEGRITY), dict):
        msg = f"{store}: holds no hashes of its files: it is no store, or one of an earlier version; build it again"
        raise StoreError(msg)
    return document


def _read_manifest(store: Path, attributes: Mapping[str, Any]) -> tuple[Manifest, Manifest, list[Problem]]:
    """Read what counts of the manifest and what an append that is under way put behind it; tell what is wrong."""
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


def _compare_metadata(store: Path, arrays: Mapping[str, Any], *, appending: bool) -> Iterator[Problem]:
    """Compare the metadata of arrays in files of their own with those that the root's repeat."""
    for name, expected in sorted(arrays.items()):
        path = f"{name}/zarr.json"
        try:
            held = read_json(store / path)
            # The number of states is what an append changes.
            same = held == expected or (appending and {**held, "shape": 0} == {**expected, "shape": 0})
        except FileNotFoundError:
            yield Problem(path, "is gone")
            continue
        except _UNREADABLE:
            same = False
        if not same:
            yield Problem(path, "was changed")


def _compare_statistics(store: Path, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        if file_hash(statistics_file(store, attributes))[0] != attributes[INTEGRITY].get("statistics"):
            yield Problem(STATISTICS_FILE, "was changed")
    except OSError:
        yield Problem(STATISTICS_FILE, "is gone")


def _compare_times(store: Path, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare the values of the times: their file grows with every append, before the metadata say so."""
    try:
        group = open_group(store, consolidated=True)
        if values_hash(group["time"][:]) != attributes["data_sha256"].get("time"):  # type: ignore[index, arg-type]
            yield Problem("time", "was changed")
    except (*_UNREADABLE, RuntimeError, zarr.errors.BaseZarrError):
        yield Problem("time", "cannot be read")


def _compare_chunk(store: Path, chunk: ChunkFact) -> tuple[Problem | None, int]:
    """Compare a file with its hash; returns what is wrong, and how many bytes were read."""
    try:
        sha256, size = file_hash(store / chunk.path)
    except FileNotFoundError:
        return Problem(chunk.path, "is gone"), 0
    except OSError as error:
        return Problem(chunk.path, f"cannot be read ({error.strerror})"), 0
    if size != chunk.size:
        return Problem(chunk.path, f"has {size} bytes, {chunk.size} were written"), size
    if sha256 != chunk.sha256:
        return Problem(chunk.path, "was changed"), size
    return None, size

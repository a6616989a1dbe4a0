"""End of a build: records are merged in the order of time, metadata are written, and the store gets its name."""

import importlib.metadata
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from kit.data.statistics import FieldAccumulator, StoreStatistics, point_weights
from kit.data.store.blocks import keys_of
from kit.data.store.build_plan import BuildPlan
from kit.data.store.build_state import STATIC, BuildState, discard
from kit.data.store.format import INTEGRITY, STATISTICS_FILE, STORE_FORMAT, Times, coordinate_values, pending_statistics
from kit.data.store.manifest import (
    MANIFEST,
    BlockRecord,
    ChunkFact,
    Manifest,
    file_hash,
    group_document,
    values_hash,
    write_file,
)
from kit.io.atomic import move, publish, sync, sync_tree
from kit.io.documents import read_json
from kit.io.errors import StoreError
from kit.io.hashes import sha256_of_bytes, sha256_of_file
from kit.io.locks import take
from kit.io.retry import poll

_PAUSE = 0.2
"""Seconds between looks at what another process does at the end."""


class StoreExistsError(StoreError):
    """The folder of a store to be written is there already."""


def finish(build: BuildState, dataset: xr.Dataset, out: Path) -> None:
    """Make the store of a build whose blocks are all done, or wait until another process has made it.

    Raises:
        StoreExistsError: something else is at ``out`` by now.
        StoreError: the build was discarded meanwhile.
        OSError: the disk is full.
    """

    def try_to_finish() -> bool:
        held = build.claim_end()
        try:
            if not build.store.exists():
                if not out.exists():
                    msg = f"{build.folder}: the build is gone, and so is what it had; start it again"
                    raise StoreError(msg)
                return True
            if held is None:
                return False
            _complete(build, dataset)
            try:
                # Renaming onto a folder that holds something fails, so two stores cannot mix.
                publish(build.store, out)
            except OSError as error:
                if not out.exists():
                    raise
                msg = f"{out}: another process wrote this store meanwhile"
                raise StoreExistsError(msg) from error
            return True
        finally:
            if held is not None:
                held.release()

    poll(try_to_finish, _PAUSE)


def _complete(build: BuildState, dataset: xr.Dataset) -> None:
    """Write everything beside the chunks; the same bytes, whoever does it and however often."""
    statistics = merged_statistics(build, dataset).text().encode()
    chunks = []
    # Files of the times grow with every append: their values are hashed instead.
    for name in ("latitude", "level", "longitude"):
        for file in sorted((build.store / name).rglob("*")):
            if file.is_file() and file.name != "zarr.json":
                sha256, size = file_hash(file)
                chunks.append(ChunkFact(file.relative_to(build.store).as_posix(), size, sha256))
    for record in records_of(build):
        chunks += record.chunks
    manifest = Manifest.of(chunks)
    write_file(build.store / MANIFEST, manifest.content, build.scratch)
    write_file(build.store / STATISTICS_FILE, statistics, build.scratch)
    seconds, attributes = coordinate_values(dataset)["time"], build.plan.content["attributes"]
    root = root_document(build.store, attributes, build.plan, manifest, seconds, sha256_of_bytes(statistics))
    write_file(build.store / "zarr.json", root, build.scratch)


def root_document(
    arrays: Path,
    attributes: Mapping[str, Any],
    plan: BuildPlan,
    manifest: Manifest,
    seconds: npt.NDArray[np.int64],
    statistics: str,
) -> bytes:
    """Write the metadata of a store's group with those of all its arrays, as Zarr consolidates them.

    Args:
        arrays: Folder of the arrays.
        attributes: Attributes of the store, to which the kit adds what it knows itself.
        plan: Plan of the build.
        manifest: All chunks of the store.
        seconds: Times of all states, seconds since 1970.
        statistics: SHA-256 of ``stats.json``.
    """
    hashes = {**manifest.by_variable(), "time": values_hash(seconds)}
    return group_document(
        arrays,
        {
            **attributes,
            "Conventions": "CF-1.11",
            "kit_store": STORE_FORMAT,
            "kit_version": importlib.metadata.version("aurora-finetune-kit"),
            "splits": dict(plan.content["splits"]),
            "data_sha256": dict(sorted(hashes.items())),
            INTEGRITY: {"plan": plan.digest, "manifest": manifest.facts(), "statistics": statistics},
        },
    )


def records_of(build: BuildState) -> Iterator[BlockRecord]:
    """Read the records of all blocks, in the order of time."""
    return (BlockRecord.load(build.record_file(number)) for number in build.numbers)


def merged_statistics(
    build: BuildState, dataset: xr.Dataset, before: Iterable[tuple[str, npt.NDArray[np.float32], int]] = ()
) -> StoreStatistics:
    """Merge the statistics of all training states; the same whatever the blocks were.

    Args:
        build: Build whose blocks are all done.
        dataset: Variables of the build.
        before: Fields of earlier states, by key, with their times in seconds since 1970.
    """
    states, train = build.plan.content["counted"], build.plan.splits["train"]
    weights = point_weights(build.plan.weights, dataset["latitude"].values, dataset["longitude"].values)
    # In the order of time, whoever wrote which block when: the last digits of sums depend on their order.
    merged = {}
    for array in dataset.data_vars.values():
        for key in keys_of(array):
            merged[key] = FieldAccumulator(key, states, weights)
    for key, field, moment in before:
        merged[key].add(field, moment)
    for record in records_of(build):
        for key, summary in record.pairs():
            merged[key].merge(summary)
    variables = {key: accumulator.result() for key, accumulator in merged.items()}
    return StoreStatistics(train=train, states=states, weights=build.plan.weights, variables=variables)


# The end of an append: chunks are moved to their places, then the root's metadata are exchanged.
#
# All that is exchanged is prepared in a folder first, which gets its name when it is whole; from then on the end
# needs nothing else, and every step of it can be done again. In order: the manifest, whose new lines do not count
# yet; the chunks, behind the last that the metadata know; the times, of which earlier metadata read the earlier ones;
# statistics beside the present ones; the root's metadata, with which the store is the new one; the copies of arrays'
# metadata, and the statistics under their own name.


def prepare(
    build: BuildState, out: Path, attributes: Mapping[str, Any], times: Times, statistics: StoreStatistics | None
) -> Path:
    """Write all metadata of the store with its new states to a folder.

    Args:
        build: Append whose blocks are all done.
        out: Folder of the store.
        attributes: Attributes of its root, as they are.
        times: Times of all states.
        statistics: New statistics, if the training states are others.

    Returns:
        The folder, whole but not named yet.
    """
    folder = build.scratch / uuid.uuid4().hex
    folder.mkdir()
    zarr.create_group(folder, zarr_format=3)
    for file in sorted(out.glob("*/zarr.json")):
        metadata = read_json(file)
        if "time" in metadata["dimension_names"]:
            metadata["shape"][0] = len(times)
        copy = folder / file.parent.name / "zarr.json"
        copy.parent.mkdir()
        copy.write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    # Chunks of times are longer than there are times: those of the store are exchanged one by one, and earlier
    # metadata read the earlier times, whatever stands behind them.
    seconds = times.astype(np.int64)
    zarr.open_array(folder / "time", mode="r+", zarr_format=3)[:] = seconds
    # What a killed append has put behind the lines that count is dropped.
    present = (out / MANIFEST).read_bytes()[: attributes[INTEGRITY]["manifest"]["bytes"]]
    added = Manifest.of(chunk for record in records_of(build) for chunk in record.chunks)
    manifest = Manifest(present + added.content)
    (folder / MANIFEST).write_bytes(manifest.content)
    held = out / STATISTICS_FILE
    if statistics is not None:
        held = folder / STATISTICS_FILE
        write_file(held, statistics.text().encode(), build.scratch)
    joined = _joined_attributes(attributes, build.plan)
    (folder / "zarr.json").write_bytes(
        root_document(folder, joined, build.plan, manifest, seconds, sha256_of_file(held))
    )
    return folder


def _joined_attributes(attributes: Mapping[str, Any], plan: BuildPlan) -> dict[str, Any]:
    """Add what the new states bring to the attributes of the store."""
    added, times = plan.content["attributes"], plan.content["times"]
    joined = dict(attributes)
    for key in ("source_files", "history", "registry_files"):
        held = list(joined.get(key, []))
        held += [item for item in added.get(key, []) if item not in held]
        if held:
            joined[key] = held
    said = f"{times['count']} states from {times['first']} to {times['last']} appended"
    joined["history"] = [*joined.get("history", []), said]
    licences = dict.fromkeys((joined.get("licence"), added.get("licence")))
    joined["licence"] = "; ".join(filter(None, licences))
    joined["synthetic"] = bool(joined.get("synthetic") or added.get("synthetic"))
    return joined


def commit(build: BuildState, out: Path, prepared: Callable[[], Path]) -> None:
    """Make the new states part of the store, or wait until another process has.

    Args:
        build: Append whose blocks are all done.
        out: Folder of the store.
        prepared: Function that makes the folder of what is exchanged.

    Raises:
        StoreError: the store was changed meanwhile.
        OSError: the disk is full; the store is what it was.
    """

    def try_to_commit() -> bool:
        if not build.store.exists():
            return True
        held = build.claim_end()
        if held is None:
            return False
        try:
            if build.store.exists():
                if not build.closing.exists():
                    ready = prepared()
                    # From here on the end is done again after a power loss, with what is recorded here.
                    for needed in (build.store, build.record_file(STATIC).parent):
                        sync_tree(needed)
                    publish(ready, build.closing)
                _exchange(build, out)
            return True
        finally:
            held.release()

    poll(try_to_commit, _PAUSE)


def recover(folder: Path, out: Path) -> Mapping[str, Any] | None:
    """Do what is left of an append that was killed at its end.

    Returns:
        The content of its plan; None if there is no such append.
    """
    try:
        lock = take(folder / "plan.json", shared=True, make=False)
    except FileNotFoundError:
        return None
    if lock is None:
        return None
    build = BuildState(folder, BuildPlan(read_json(folder / "plan.json")), False, lock)
    if not build.closing.exists():
        lock.release()
        return None
    commit(build, out, lambda: build.closing)
    build.leave()
    discard(folder)
    return build.plan.content


def _exchange(build: BuildState, out: Path) -> None:
    new = build.closing
    now = read_json(out / "zarr.json")["attributes"][INTEGRITY]["metadata"]
    attributes = read_json(new / "zarr.json")["attributes"]
    pending = pending_statistics(out, attributes)
    restated = (new / STATISTICS_FILE).exists()
    if now == build.plan.content["base"]["metadata"]:
        # Copied, not moved: each step can be done again by a process that follows a killed one.
        write_file(out / MANIFEST, (new / MANIFEST).read_bytes(), build.scratch, durable=True)
        for record in records_of(build):
            for chunk in record.chunks:
                _move_chunk(build.store / chunk.path, out / chunk.path)
        # The names of the chunks first: metadata that count them come last.
        for folder in (path for path in out.rglob("*") if path.is_dir()):
            sync(folder)
        for file in sorted((new / "time" / "c").iterdir()):
            write_file(out / "time" / "c" / file.name, file.read_bytes(), build.scratch, durable=True)
        if restated:
            write_file(pending, (new / STATISTICS_FILE).read_bytes(), build.scratch, durable=True)
        write_file(out / "zarr.json", (new / "zarr.json").read_bytes(), build.scratch, durable=True)
    elif now != attributes[INTEGRITY]["metadata"]:
        msg = f"{out}: was changed while states were appended to it; discard what is done of that with --restart"
        raise StoreError(msg)
    for file in sorted(new.glob("*/zarr.json")):
        write_file(out / file.parent.name / "zarr.json", file.read_bytes(), build.scratch, durable=True)
    if restated:
        write_file(out / STATISTICS_FILE, (new / STATISTICS_FILE).read_bytes(), build.scratch, durable=True)
        pending.unlink(missing_ok=True)
    # Gone, it says that this end is done.
    shutil.rmtree(build.store)


def _move_chunk(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        move(source, target, durable=False)
    except FileNotFoundError:
        # A process that was killed at this end has moved it before.
        if not target.exists():
            raise

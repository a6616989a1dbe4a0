"""The end of a build: records are merged in the order of time, metadata are written, and the store gets its name."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from kit.data.settings import Period
from kit.data.statistics import FieldAccumulator, StoreStatistics, point_weights
from kit.data.store.blocks import keys_of
from kit.data.store.build_plan import BuildPlan
from kit.data.store.build_state import BuildState, discard
from kit.data.store.format import INTEGRITY, STATISTICS_FILE, STORE_FORMAT, Times, pending_statistics
from kit.data.store.layout import coordinate_values
from kit.data.store.manifest import (
    MANIFEST,
    BlockRecord,
    ChunkFact,
    Manifest,
    document_bytes,
    file_hash,
    values_hash,
    write_file,
)
from kit.io.errors import StoreError
from kit.io.locks import take

__all__ = [
    "StoreExistsError",
    "commit",
    "finish",
    "merged_statistics",
    "prepare",
    "records_of",
    "recover",
    "root_attributes",
    "root_document",
    "save_statistics",
]

_PAUSE = 0.2


class StoreExistsError(StoreError):
    """The folder of a store to be written is there already."""


def finish(part: BuildState, dataset: xr.Dataset, out: Path) -> None:
    """Make the store of a build whose blocks are all done, or wait until another process has made it.

    Raises:
        StoreExistsError: something else is at ``out`` by now.
        StoreError: the build was discarded meanwhile.
        OSError: the disk is full.
    """
    while True:
        try:
            held = part.claim_end()
        except FileNotFoundError:
            held = None
        try:
            if not part.store.exists():
                if out.exists():
                    return
                msg = f"{part.folder}: the build is gone, and so is what it had; start it again"
                raise StoreError(msg)
            if held is not None:
                _complete(part, dataset)
                _publish(part, out)
                return
        finally:
            if held is not None:
                held.release()
        time.sleep(_PAUSE)


def _complete(part: BuildState, dataset: xr.Dataset) -> None:
    """Write everything beside the chunks; the same bytes, whoever does it and however often."""
    statistics = merged_statistics(part, dataset)
    manifest = Manifest.of([*_coordinate_chunks(part.store), *(c for r in records_of(part) for c in r.chunks)])
    write_file(part.store / MANIFEST, manifest.content, part.scratch)
    save_statistics(statistics, part.store / STATISTICS_FILE, part.scratch)
    attributes = root_attributes(
        part.plan.content["attributes"],
        part.plan.splits,
        {**manifest.by_variable(), "time": values_hash(coordinate_values(dataset)["time"])},
        {
            "plan": part.plan.digest,
            "manifest": manifest.facts(),
            "statistics": file_hash(part.store / STATISTICS_FILE)[0],
        },
    )
    write_file(part.store / "zarr.json", document_bytes(root_document(part.store, attributes)), part.scratch)


def root_document(store: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a group with those of all its arrays, as Zarr consolidates them."""
    files = sorted(store.glob("*/zarr.json"))
    arrays = {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    return {
        "attributes": dict(attributes),
        "zarr_format": 3,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        "node_type": "group",
    }


def save_statistics(statistics: StoreStatistics, path: Path, scratch: Path) -> None:
    """Write statistics, whole or not at all."""
    new = scratch / f"{uuid.uuid4().hex}.json"
    statistics.save(new)
    new.replace(path)


def root_attributes(
    attributes: Mapping[str, Any], splits: Mapping[str, Period], hashes: Mapping[str, str], integrity: Mapping[str, Any]
) -> dict[str, Any]:
    """Attributes of the whole store: those given, and what the kit says of it."""
    return {
        **attributes,
        "Conventions": "CF-1.11",
        "kit_store": STORE_FORMAT,
        "kit_version": importlib.metadata.version("aurora-finetune-kit"),
        "splits": {name: str(period) for name, period in splits.items()},
        "data_sha256": dict(sorted(hashes.items())),
        INTEGRITY: dict(integrity),
    }


def records_of(part: BuildState) -> Iterator[BlockRecord]:
    """Records of all blocks, in the order of time."""
    return (BlockRecord.load(part.record_file(number)) for number in part.numbers)


def merged_statistics(
    part: BuildState, dataset: xr.Dataset, before: Iterable[tuple[str, npt.NDArray[np.float32], int]] = ()
) -> StoreStatistics:
    """Statistics of all training states, the same whatever the blocks were.

    Args:
        part: the build, all of its blocks done.
        dataset: its variables.
        before: fields of earlier states, by key, with their moments.
    """
    states = part.plan.content["counted"]
    keys = [key for array in dataset.data_vars.values() for key in keys_of(array)]
    weights = point_weights(part.plan.weights, dataset["latitude"].values, dataset["longitude"].values)
    merged = {key: FieldAccumulator(key, states, weights) for key in keys}
    for key, field, moment in before:
        merged[key].add(field, moment)
    for record in records_of(part):
        for key, summary in record.pairs():
            merged[key].merge(summary)
    variables = {key: accumulator.result() for key, accumulator in merged.items()}
    train = part.plan.splits["train"]
    return StoreStatistics(train=train, states=states, weights=part.plan.weights, variables=variables)


def _coordinate_chunks(store: Path) -> Iterator[ChunkFact]:
    """Files of coordinates; those of the times grow, and their values are hashed instead."""
    for name in ("latitude", "level", "longitude"):
        for file in sorted((store / name).rglob("*")):
            if file.is_file() and file.name != "zarr.json":
                sha256, size = file_hash(file)
                yield ChunkFact(file.relative_to(store).as_posix(), size, sha256)


def _publish(part: BuildState, out: Path) -> None:
    try:
        # Renaming onto a folder that holds something fails, so two stores cannot mix.
        part.store.rename(out)
    except OSError as error:
        if not out.exists():
            raise
        msg = f"{out}: another process wrote this store meanwhile"
        raise StoreExistsError(msg) from error


# The end of an append: chunks are moved to their places, then the root's metadata are exchanged.
#
# All that is exchanged is prepared in a folder first, which gets its name when it is whole; from then on the end
# needs nothing else, and every step of it can be done again. In order: the manifest, whose new lines do not count
# yet; the chunks, behind the last that the metadata know; the times, of which earlier metadata read the earlier ones;
# statistics beside the present ones; the root's metadata, with which the store is the new one; the copies of arrays'
# metadata, and the statistics under their own name.


def prepare(
    part: BuildState, out: Path, attributes: Mapping[str, Any], times: Times, statistics: StoreStatistics | None
) -> Path:
    """Write all metadata of the store with its new states to a folder.

    Args:
        part: the append, all of its blocks done.
        out: the store.
        attributes: of its root, as they are.
        times: of all states.
        statistics: new ones, if the training states are others.

    Returns:
        The folder, whole but not named yet.
    """
    folder = part.scratch / uuid.uuid4().hex
    folder.mkdir()
    zarr.create_group(folder, zarr_format=3)
    for file in sorted(out.glob("*/zarr.json")):
        metadata = json.loads(file.read_text(encoding="utf-8"))
        if "time" in metadata["dimension_names"]:
            metadata["shape"][0] = len(times)
        (folder / file.parent.name).mkdir()
        (folder / file.parent.name / "zarr.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    seconds = times.astype(np.int64)
    zarr.open_array(folder / "time", mode="r+", zarr_format=3)[:] = seconds
    present = (out / MANIFEST).read_bytes()[: attributes[INTEGRITY]["manifest"]["bytes"]]
    added = Manifest.of(chunk for record in records_of(part) for chunk in record.chunks)
    manifest = Manifest(present + added.content)
    (folder / MANIFEST).write_bytes(manifest.content)
    if statistics is not None:
        save_statistics(statistics, folder / STATISTICS_FILE, part.scratch)
    held = folder / STATISTICS_FILE if statistics is not None else out / STATISTICS_FILE
    integrity = {"plan": part.plan.digest, "manifest": manifest.facts(), "statistics": file_hash(held)[0]}
    hashes = {**manifest.by_variable(), "time": values_hash(seconds)}
    new = root_attributes(_joined(attributes, part.plan), part.plan.splits, hashes, integrity)
    (folder / "zarr.json").write_bytes(document_bytes(root_document(folder, new)))
    return folder


def _joined(attributes: Mapping[str, Any], plan: BuildPlan) -> dict[str, Any]:
    """Attributes of the store, with what the new states bring."""
    added, times = plan.content["attributes"], plan.content["times"]
    joined = dict(attributes)
    for key in ("source_files", "history", "registry_files"):
        held = list(joined.get(key, []))
        held += [item for item in added.get(key, []) if item not in held]
        if held:
            joined[key] = held
    said = f"{times['count']} states from {times['first']} to {times['last']} appended"
    joined["history"] = [*joined.get("history", []), said]
    licences = dict.fromkeys(filter(None, (joined.get("licence"), added.get("licence"))))
    joined["licence"] = "; ".join(licences)
    joined["synthetic"] = bool(joined.get("synthetic")) or bool(added.get("synthetic"))
    return joined


def commit(part: BuildState, out: Path, prepared: Callable[[], Path]) -> None:
    """Make the new states part of the store, or wait until another process has.

    Args:
        part: the append, all of its blocks done.
        out: the store.
        prepared: makes the folder of what is exchanged.

    Raises:
        StoreError: the store was changed meanwhile.
        OSError: the disk is full; the store is what it was.
    """
    while part.store.exists():
        try:
            held = part.claim_end()
        except FileNotFoundError:
            return
        if held is None:
            time.sleep(_PAUSE)
            continue
        try:
            if part.store.exists():
                if not part.closing.exists():
                    prepared().rename(part.closing)
                _exchange(part, out)
        finally:
            held.release()


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
    part = BuildState(folder, BuildPlan(json.loads((folder / "plan.json").read_text(encoding="utf-8"))), False, lock)
    if not part.closing.exists():
        lock.release()
        return None
    commit(part, out, lambda: part.closing)
    part.leave()
    discard(folder)
    return part.plan.content


def _exchange(part: BuildState, out: Path) -> None:
    new = part.closing
    now = json.loads((out / "zarr.json").read_text(encoding="utf-8"))["attributes"][INTEGRITY]["metadata"]
    document = json.loads((new / "zarr.json").read_text(encoding="utf-8"))
    if now == part.plan.content["base"]["metadata"]:
        _place(new / MANIFEST, out / MANIFEST, part)
        for record in records_of(part):
            for chunk in record.chunks:
                _moved(part.store / chunk.path, out / chunk.path)
        for file in sorted((new / "time" / "c").iterdir()):
            _place(file, out / "time" / "c" / file.name, part)
        if (new / STATISTICS_FILE).exists():
            _place(new / STATISTICS_FILE, pending_statistics(out, document["attributes"]), part)
        _place(new / "zarr.json", out / "zarr.json", part)
    elif now != document["attributes"][INTEGRITY]["metadata"]:
        msg = f"{out}: was changed while states were appended to it; discard what is done of that with --restart"
        raise StoreError(msg)
    for file in sorted(new.glob("*/zarr.json")):
        _place(file, out / file.parent.name / "zarr.json", part)
    if (new / STATISTICS_FILE).exists():
        _place(new / STATISTICS_FILE, out / STATISTICS_FILE, part)
        pending_statistics(out, document["attributes"]).unlink(missing_ok=True)
    # Gone, it says that this end is done.
    shutil.rmtree(part.store)


def _place(source: Path, target: Path, part: BuildState) -> None:
    write_file(target, source.read_bytes(), part.scratch)


def _moved(source: Path, target: Path) -> None:
    """Move a chunk, unless that was done before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except FileNotFoundError:
        if not target.exists():
            raise

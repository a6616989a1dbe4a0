"""The end of a build: records are merged in the order of time, metadata are written, and the store gets its name."""

from __future__ import annotations

import importlib.metadata
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.building.blocks import keys_of
from kit.data.building.layout import coordinate_values
from kit.data.building.manifest import MANIFEST, Manifest, document_bytes, file_hash, values_hash
from kit.data.building.part import Part
from kit.data.building.records import ChunkFact, Record, write_file
from kit.data.settings import Period
from kit.data.statistics import FieldAccumulator, StoreStatistics, point_weights
from kit.data.store_format import INTEGRITY, STATISTICS_FILE, STORE_FORMAT
from kit.errors import StoreError

__all__ = [
    "StoreExistsError",
    "finish",
    "merged_statistics",
    "records_of",
    "root_attributes",
    "root_document",
    "save_statistics",
]

_PAUSE = 0.2


class StoreExistsError(StoreError):
    """The folder of a store to be written is there already."""


def finish(part: Part, dataset: xr.Dataset, out: Path) -> None:
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


def _complete(part: Part, dataset: xr.Dataset) -> None:
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


def records_of(part: Part) -> Iterator[Record]:
    """Records of all blocks, in the order of time."""
    return (Record.load(part.record_file(number)) for number in part.numbers)


def merged_statistics(
    part: Part, dataset: xr.Dataset, before: Iterable[tuple[str, npt.NDArray[np.float32], int]] = ()
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


def _publish(part: Part, out: Path) -> None:
    try:
        # Renaming onto a folder that holds something fails, so two stores cannot mix.
        part.store.rename(out)
    except OSError as error:
        if not out.exists():
            raise
        msg = f"{out}: another process wrote this store meanwhile"
        raise StoreExistsError(msg) from error

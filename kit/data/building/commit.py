"""The end of an append: chunks are moved to their places, then the root's metadata are exchanged.

All that is exchanged is prepared in a folder first, which gets its name when it is whole; from then on the end needs
nothing else, and every step of it can be done again. In order: the manifest, whose new lines do not count yet; the
chunks, behind the last that the metadata know; the times, of which earlier metadata read the earlier ones; statistics
beside the present ones; the root's metadata, with which the store is the new one; the copies of arrays' metadata, and
the statistics under their own name.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from kit.data.building.finish import records_of, root_attributes, root_document, save_statistics
from kit.data.building.manifest import MANIFEST, Manifest, document_bytes, file_hash, values_hash
from kit.data.building.part import Part, discard
from kit.data.building.plan import Plan
from kit.data.building.records import write_file
from kit.data.statistics import StoreStatistics
from kit.data.store_format import INTEGRITY, STATISTICS_FILE, Times, pending_statistics
from kit.errors import StoreError
from kit.locking import take

__all__ = ["commit", "prepare", "recover"]

_PAUSE = 0.2


def prepare(
    part: Part, out: Path, attributes: Mapping[str, Any], times: Times, statistics: StoreStatistics | None
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


def _joined(attributes: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
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


def commit(part: Part, out: Path, prepared: Callable[[], Path]) -> None:
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
    part = Part(folder, Plan(json.loads((folder / "plan.json").read_text(encoding="utf-8"))), False, lock)
    if not part.closing.exists():
        lock.release()
        return None
    commit(part, out, lambda: part.closing)
    part.leave()
    discard(folder)
    return part.plan.content


def _exchange(part: Part, out: Path) -> None:
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


def _place(source: Path, target: Path, part: Part) -> None:
    write_file(target, source.read_bytes(), part.scratch)


def _moved(source: Path, target: Path) -> None:
    """Move a chunk, unless that was done before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except FileNotFoundError:
        if not target.exists():
            raise

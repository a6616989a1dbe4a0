"""Other statistics for a store that is there, with the hash of them that its metadata hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kit.data.building.manifest import document_bytes
from kit.data.building.part import folder_of
from kit.data.statistics import StoreStatistics
from kit.data.store_format import INTEGRITY, STATISTICS_FILE, pending_statistics
from kit.errors import StoreError
from kit.publish import write_atomically

__all__ = ["restate"]


def restate(out: Path, statistics: StoreStatistics) -> Path:
    """Replace a store's statistics.

    As at the end of an append, the new ones lie beside the present ones until the metadata name them, so that a process
    that is killed leaves a store with one or the other.

    Args:
        out: the store.
        statistics: of its training states.

    Returns:
        Where they are.

    Raises:
        StoreError: states are being appended to the store.
        OSError: the disk is full or the folder cannot be written; the store has the old statistics or the new.
    """
    if (appending := folder_of(out, "append.part")).exists():
        msg = f"{out}: states are being appended to it ({appending}); finish that first, with the command that began it"
        raise StoreError(msg)
    file, text = out / STATISTICS_FILE, statistics.text()
    document = json.loads((out / "zarr.json").read_text(encoding="utf-8"))
    attributes = document["attributes"]
    if INTEGRITY not in attributes:
        write_atomically(file, text)
        return file
    attributes[INTEGRITY] = {**attributes[INTEGRITY], "statistics": hashlib.sha256(text.encode()).hexdigest()}
    pending = pending_statistics(out, attributes)
    write_atomically(pending, text)
    write_atomically(out / "zarr.json", document_bytes(document).decode())
    write_atomically(file, text)
    pending.unlink()
    return file

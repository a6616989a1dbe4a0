"""Builds of small stores in many blocks, and the bytes of what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from kit.data.settings import Period
from kit.data.store import build_plan as plan
from kit.data.store import executor as driver
from kit.data.store.blocks import WriteTask, write_block
from kit.data.store.executor import ExecutionOptions
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from tests.factories import synthetic_dataset

__all__ = ["ATTRIBUTES", "SPLITS", "build", "files_of", "interrupt", "one_state_blocks", "small"]

SPLITS = {"train": Period.parse("2020-01-01/2020-01-02"), "valid": Period.parse("2020-01-02T06/2020-01-02T12")}
ATTRIBUTES = {"source": "test", "source_files": [{"name": "a"}], "history": ["made"], "licence": "none"}


def small(times: int = 8, **options: Any) -> xr.Dataset:
    """States of two variables, one on levels."""
    wanted: dict[str, Any] = {
        "surface": ("2t",),
        "atmospheric": ("t",),
        "static": ("z",),
        "height": 4,
        "width": 8,
    } | options
    return synthetic_dataset(times=times, **wanted)


def build(
    out: Path,
    dataset: xr.Dataset | None = None,
    *,
    workers: int | None = 1,
    splits: dict[str, Period] | None = None,
    attributes: dict[str, Any] | None = None,
    **how: Any,
) -> Store:
    """Build a store that an interrupted build can be gone on with."""
    return write_store(
        small() if dataset is None else dataset,
        out,
        splits=splits or SPLITS,
        attributes=ATTRIBUTES if attributes is None else attributes,
        settings={"source": "test"},
        how=ExecutionOptions(workers=workers, **how),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their path in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def one_state_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every state a block of its own."""
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1)


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, after: int) -> list[int]:
    """Let an error end a build after so many blocks; the list takes the first state of each block that is written."""
    written: list[int] = []

    def watched(block: WriteTask, *rest: Any) -> int:
        if error is not None and len(written) == after:
            raise error
        size = write_block(block, *rest)
        written.append(-1 if block.indices is None else block.indices[0])
        return size

    monkeypatch.setattr(driver, "write_block", watched)
    return written

"""Write a dataset as a store: plan, blocks, end."""

from __future__ import annotations

import functools
import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from kit.data.settings import Codec, Period
from kit.data.statistics import Weighting
from kit.data.store.build_plan import BuildPlan, plan_of
from kit.data.store.build_state import BuildState, discard, folder_of, join
from kit.data.store.executor import ExecutionOptions, write_blocks
from kit.data.store.finalize import StoreExistsError, finish
from kit.data.store.format import INTEGRITY
from kit.data.store.layout import check_dataset, check_splits, make_skeleton, times_of

__all__ = ["say_what_is_kept", "write"]

_logger = logging.getLogger(__name__)


def write(
    dataset: xr.Dataset,
    out: Path,
    *,
    splits: Mapping[str, Period],
    attributes: Mapping[str, Any],
    weights: Weighting = "none",
    codec: Codec = "fast",
    settings: Mapping[str, Any] | None = None,
    how: ExecutionOptions | None = None,
) -> None:
    """Do what ``kit.data.store.reader.write_store`` says, short of opening the result.

    Args:
        dataset: in the store's form.
        out: folder to be made.
        splits: periods by name.
        attributes: added to the root's.
        weights: how points are weighted in the statistics.
        codec: how chunks are packed.
        settings: what was asked for. With them, an interrupted build is kept and gone on with, and processes that are
            given the same share it: what they do not determine, ``attributes`` must. Without them, nothing is kept.
        how: by whom it is written.
    """
    check_dataset(dataset, out)
    check_splits(times_of(dataset), splits, out)
    plan = plan_of(dataset, splits=splits, attributes=attributes, codec=codec, weights=weights, settings=settings or {})
    private = settings is None
    if _is_made(out, plan, private=private):
        return
    folder = folder_of(out, f"{uuid.uuid4().hex[:12]}.part") if private else folder_of(out)
    how = how or ExecutionOptions()
    skeleton = functools.partial(make_skeleton, dataset, codec=codec)
    part = join(folder, plan, skeleton, private=private, restart=how.restart)
    try:
        if not _is_made(out, plan, private=private):
            write_blocks(part, dataset, how)
            finish(part, dataset, out)
    except BaseException:
        say_what_is_kept(part)
        raise
    part.leave()
    discard(folder)


def _is_made(out: Path, plan: BuildPlan, *, private: bool) -> bool:
    """Whether another process has made this very store.

    Raises:
        StoreExistsError: something else is there.
    """
    if not out.exists():
        return False
    try:
        document = json.loads((out / "zarr.json").read_text(encoding="utf-8"))
        same = not private and document["attributes"][INTEGRITY]["plan"] == plan.digest
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        msg = f"{out}: exists already; choose another folder, or remove this one first"
        raise StoreExistsError(msg)
    return True


def say_what_is_kept(part: BuildState) -> None:
    """Leave an interrupted build, and tell people what there is of it."""
    kept = part.abandon()
    if kept:
        _logger.warning(
            "%s: %d of %d blocks are done and kept; the same command goes on, --restart begins anew",
            part.folder,
            kept,
            len(part.numbers) - 1,
        )

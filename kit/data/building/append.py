"""Add later states to a store: blocks beside it as in a build, then one exchange of its metadata.

No chunk of a variable is written anew. New ones are written in a folder beside the store. What the end takes is
prepared there, too, so that a process that is killed in the middle of it is followed by one that goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.building.commit import commit, prepare, recover
from kit.data.building.driver import How, write_blocks
from kit.data.building.finish import merged_statistics
from kit.data.building.layout import check_dataset, check_splits, times_of
from kit.data.building.matching import check_matching, codec_of
from kit.data.building.part import Part, discard, folder_of, join
from kit.data.building.plan import plan_of
from kit.data.building.write import say_what_is_kept
from kit.data.settings import Codec, Period
from kit.data.statistics import StoreStatistics, Weighting, channel_key
from kit.data.store import Store
from kit.data.store_format import INTEGRITY, STATIC_PREFIX, period_indices
from kit.errors import SettingsError

__all__ = ["append"]

_logger = logging.getLogger(__name__)


def append(
    dataset: xr.Dataset,
    out: Path,
    *,
    splits: Mapping[str, Period],
    attributes: Mapping[str, Any],
    settings: Mapping[str, Any],
    weights: Weighting | None = None,
    codec: Codec | None = None,
    how: How | None = None,
) -> None:
    """Add the states of a dataset to a store.

    Args:
        dataset: later times of the store's variables; static variables must equal the store's.
        out: the store.
        splits: periods that replace those of the store. Statistics are of the training states: they are made anew if
            ``train`` is among these, or if new states fall into the store's own; earlier states are read for that.
        attributes: of the new states; files and history are added to the store's.
        settings: what was asked for, as in ``write``.
        weights: how points are weighted in the statistics; as the store's are, in any case.
        codec: how chunks are packed; as the store's are, in any case.
        how: by whom it is written.

    Raises:
        SettingsError: ``codec`` or ``weights`` are others than the store's.
        StoreError: there is no store, the states cannot follow those of the store, or an append of others is not
            finished.
        OSError: the disk is full; the store is what it was, and what is done is kept.
    """
    how = how or How()
    folder = folder_of(out, "append.part")
    check_dataset(dataset, out)
    dynamic = dataset[[name for name in dataset.data_vars if not str(name).startswith(STATIC_PREFIX)]]
    recovered = recover(folder, out)
    asked = plan_of(dynamic, splits={}, attributes=attributes, codec="fast", settings=settings, counted=0)
    # All but the end of an interrupted append was done: nothing is left for the same command.
    if recovered is not None and _request(recovered) == _request(asked.content):
        return
    store = Store.open(out)
    check_matching(store, dataset)
    for name, asked_for, held in (
        ("codec", codec, codec_of(store)),
        ("weights", weights, store.statistics.weights),
    ):
        if asked_for not in (None, held):
            msg = f"--{name} {asked_for}: the store {out} was built with {held}, and so is what is added; leave it out"
            raise SettingsError(msg)
    merged = store.splits | dict(splits)
    times = np.concatenate([store.times, times_of(dataset)])
    check_splits(times, merged, out)
    plan = plan_of(
        dynamic,
        splits=merged,
        attributes=attributes,
        codec=codec_of(store),
        weights=store.statistics.weights,
        settings=settings,
        counted=len(period_indices(times, merged["train"])),
        base={"metadata": store.attributes[INTEGRITY]["metadata"], "states": len(store.times)},
    )
    part = join(folder, plan, lambda skeleton: skeleton.mkdir(), restart=how.restart)
    try:
        write_blocks(part, dynamic, how, offset=len(store.times))
        commit(part, out, lambda: prepare(part, out, store.attributes, times, _statistics(part, dynamic, store)))
    except BaseException:
        say_what_is_kept(part)
        raise
    part.leave()
    discard(folder)


def _request(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan was asked for, whatever it is added to."""
    return {key: content[key] for key in ("settings", "attributes", "times", "coordinates", "variables")}


def _statistics(part: Part, dataset: xr.Dataset, store: Store) -> StoreStatistics | None:
    """Statistics of the training states as they are now; None where they are those that they were."""
    times, train = times_of(dataset), part.plan.splits["train"]
    if train == store.splits["train"] and not period_indices(times, train).size:
        return None
    _logger.info("%s: reads the training states that were there, for statistics of all", store.path)
    anew = merged_statistics(part, dataset, _fields(store, train))
    static = {key: value for key, value in store.statistics.variables.items() if key.startswith(STATIC_PREFIX)}
    return anew.model_copy(update={"variables": anew.variables | static})


def _fields(store: Store, train: Period) -> Iterator[tuple[str, npt.NDArray[np.float32], int]]:
    """Fields of the training states that a store has, by statistics key, with their moments."""
    for index in store.indices(train).tolist():
        moment = int(store.times[index].astype(np.int64))
        for name in store.surface:
            yield name, store.read(name, [index])[0], moment
        for name in store.atmospheric:
            for level, layer in zip(store.levels, store.read(name, [index])[0], strict=True):
                yield channel_key(name, level), layer, moment

"""Add later states to a store: blocks beside it as in a build, then one exchange of its metadata.

No chunk of a variable is written anew. New ones are written in a folder beside the store. What the end takes is
prepared there, too, so that a process that is killed in the middle of it is followed by one that goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from kit.data.settings import Codec, Period
from kit.data.statistics import StoreStatistics, Weighting, channel_key
from kit.data.store.build_plan import plan_of
from kit.data.store.build_state import BuildState, discard, folder_of, join
from kit.data.store.executor import ExecutionOptions, write_blocks
from kit.data.store.finalize import commit, merged_statistics, prepare, recover
from kit.data.store.format import INTEGRITY, STATIC_PREFIX, compressors, listed, period_indices
from kit.data.store.layout import check_dataset, check_splits, coordinate_values, times_of
from kit.data.store.reader import Store
from kit.data.store.writer import say_what_is_kept
from kit.io.errors import SettingsError, StoreError

__all__ = ["append", "check_matching", "codec_of"]

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
    how: ExecutionOptions | None = None,
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
    how = how or ExecutionOptions()
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


def _statistics(part: BuildState, dataset: xr.Dataset, store: Store) -> StoreStatistics | None:
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


# Whether states can be added to a store: later times of the same variables on the same grid.

_SAME = ("units", "accumulation_hours")
"""Attributes that must not change from one state to the next."""


def codec_of(store: Store) -> Codec:
    """ExecutionOptions the chunks of a store are packed.

    Raises:
        StoreError: in none of the kit's ways, or the store is of an earlier version.
    """
    group = zarr.open_group(store.path, mode="r", zarr_format=3, use_consolidated=True)
    array: Any = group[(store.surface + store.atmospheric)[0]]
    held = [codec.to_dict() for codec in array.compressors]
    codec: Codec
    for codec in get_args(Codec):
        if INTEGRITY in store.attributes and held == [packing.to_dict() for packing in compressors(codec)]:
            return codec
    msg = f"{store.path}: was written by an earlier version of the kit; build it again to add states to it"
    raise StoreError(msg)


def check_matching(store: Store, dataset: xr.Dataset) -> None:
    """Check that the states of a dataset can follow those of a store.

    Raises:
        StoreError: times overlap or are earlier; variables, grids, levels, units or static fields differ.
    """
    _check_times(store, dataset)
    for name, values in coordinate_values(dataset).items():
        if name == "time":
            continue
        held = np.array(store.levels) if name == "level" else getattr(store, name)
        if not np.array_equal(values, held):
            sides = f"{listed(store.levels)}; {listed(values.tolist())} hPa" if name == "level" else "two grids"
            msg = f"{store.path}: the {name}s of the states to be added differ from the store's: {sides}"
            raise StoreError(msg)
    new = {str(name) for name in dataset.data_vars if not str(name).startswith(STATIC_PREFIX)}
    if new != {*store.surface, *store.atmospheric}:
        old = ", ".join(sorted({*store.surface, *store.atmospheric}))
        msg = (
            f"{store.path}: holds the variables {old}; the states to be added hold {', '.join(sorted(new))}: give the "
            "same with --variables"
        )
        raise StoreError(msg)
    for name in sorted(new):
        _check_attributes(store, dataset[name])
    _check_statics(store, dataset)


def _check_times(store: Store, dataset: xr.Dataset) -> None:
    times = times_of(dataset)
    earlier = times[times <= store.times[-1]]
    if earlier.size:
        shared = np.intersect1d(earlier, store.times).size
        msg = (
            f"{store.path}: ends at {store.times[-1]}, and states are added behind that alone; of the {len(times)} "
            f"states given, {earlier.size} from {earlier[0]} to {earlier[-1]} are not later ({shared} of them are in "
            "the store already): choose with --times"
        )
        raise StoreError(msg)


def _check_attributes(store: Store, array: xr.DataArray) -> None:
    held = store.variable_attributes(str(array.name))
    for key in _SAME:
        if held.get(key) != array.attrs.get(key):
            sides = f"{held.get(key)!r}, in the states to be added {array.attrs.get(key)!r}"
            msg = f"{store.path}: {key} of {array.name} is {sides}; build both from one kind of data"
            raise StoreError(msg)


def _check_statics(store: Store, dataset: xr.Dataset) -> None:
    for name in store.static:
        key = STATIC_PREFIX + name
        if key in dataset and not np.array_equal(
            store.read_static(name), dataset[key].values.astype(np.float32), equal_nan=True
        ):
            msg = f"{store.path}: the static variable {name} differs from that of the states to be added"
            raise StoreError(msg)

"""Writing of a dataset as a store, and of later states to one: plan, blocks, end."""

import functools
import logging
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.settings import Codec, Period
from kit.data.statistics import StoreStatistics, Weighting
from kit.data.store.build_plan import BuildPlan, plan_of
from kit.data.store.build_state import BuildState, discard, folder_of, join
from kit.data.store.executor import ExecutionOptions, write_blocks
from kit.data.store.finalize import StoreExistsError, commit, finish, merged_statistics, prepare, recover
from kit.data.store.format import (
    INTEGRITY,
    STATIC_PREFIX,
    check_dataset,
    check_splits,
    compressors,
    coordinate_values,
    listed,
    make_skeleton,
    period_indices,
    times_of,
)
from kit.data.store.reader import Store
from kit.data.zarr_guard import open_group
from kit.io.documents import read_json
from kit.io.errors import SettingsError, StoreError

_logger = logging.getLogger(__name__)


def write_store(
    dataset: xr.Dataset,
    out: Path,
    *,
    splits: Mapping[str, Period],
    attributes: Mapping[str, Any],
    weights: Weighting = "none",
    codec: Codec = "fast",
    settings: Mapping[str, Any] | None = None,
    how: ExecutionOptions | None = None,
) -> Store:
    """Write a dataset as a store, with statistics of its training states.

    The dataset may be lazy: one state at a time (or 32 MiB of small ones) is computed and held by each thread. Nothing
    is left at ``out`` if this fails for any reason, and nothing beside it unless ``settings`` are given.

    Args:
        dataset: Dataset with the dimensions ``time``, ``level``, ``latitude``, ``longitude`` in the store's order, or
            ``time``, ``level``, ``y``, ``x`` with latitudes and longitudes on ``(y, x)``; static variables prefixed
            ``static_``; attributes of the variables are kept.
        out: Folder to be made.
        splits: Periods by name: at least ``train``, with ``valid`` and ``test`` beside it.
        attributes: Attributes added to the root's.
        weights: Weights of points in the statistics.
        codec: Packing of the chunks.
        settings: Settings of the build, where these and ``attributes`` determine what the dataset holds: then an
            interrupted write is gone on with by the next one of the same settings, and several share the work.
        how: Threads or cluster, and callback.

    Raises:
        StoreExistsError: ``out`` exists.
        StoreError: the dataset is not of the store's form, a split holds none of its states, or an unfinished build of
            something else is in the way.
        OSError: the disk is full or the folder cannot be written.
    """
    out = Path(out)
    check_dataset(dataset, out)
    check_splits(times_of(dataset), splits, out)
    plan = plan_of(dataset, splits=splits, attributes=attributes, codec=codec, weights=weights, settings=settings or {})
    private = settings is None
    if _is_made(out, plan, private=private):
        return Store.open(out)
    # Builds of the same plan meet in one folder; a private one has a folder that nobody else can know.
    folder = folder_of(out, f"{uuid.uuid4().hex[:12]}.part" if private else "part")
    how = how or ExecutionOptions()
    skeleton = functools.partial(make_skeleton, dataset, codec=codec)
    build = join(folder, plan, skeleton, private=private, restart=how.restart)
    try:
        # Another process may have finished it before this one joined.
        if not _is_made(out, plan, private=private):
            write_blocks(build, dataset, how)
            finish(build, dataset, out)
    except BaseException:
        _abandon(build)
        raise
    build.leave()
    discard(folder)
    return Store.open(out)


def _is_made(out: Path, plan: BuildPlan, *, private: bool) -> bool:
    """Check whether another process has made this very store.

    Raises:
        StoreExistsError: something else is there.
    """
    if not out.exists():
        return False
    try:
        same = not private and read_json(out / "zarr.json")["attributes"][INTEGRITY]["plan"] == plan.digest
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        msg = f"{out}: exists already; choose another folder, or remove this one first"
        raise StoreExistsError(msg)
    return True


def _abandon(build: BuildState) -> None:
    """Leave an interrupted build, and log what there is of it."""
    kept = build.abandon()
    if kept:
        _logger.warning(
            "%s: %d of %d blocks are done and kept; the same command goes on, --restart begins anew",
            build.folder,
            kept,
            len(build.numbers) - 1,
        )


# Later states of a store: blocks beside it as in a build, then one exchange of its metadata.
#
# No chunk of a variable is written again. New ones are written in a folder beside the store. What the end takes is
# prepared there, too, so that a process that is killed in the middle of it is followed by one that goes on.


def append_states(
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
        dataset: Later times of the store's variables; static variables must equal the store's.
        out: Folder of the store.
        splits: Periods that replace those of the store. Statistics of the training states are computed again if
            ``train`` is among these, or if new states fall into the store's own; earlier states are read for that.
        attributes: Attributes of the new states; files and history are added to the store's.
        settings: Settings of the build, as in ``write_store``.
        weights: Weights of points in the statistics; as the store's are, in any case.
        codec: Packing of the chunks; as the store's are, in any case.
        how: Threads or cluster, and callback.

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
    # All but the end of an interrupted append was done: nothing is left for the same command. Other entries of a plan
    # depend on the store that it adds to, which has changed with that end.
    requested = ("settings", "attributes", "times", "coordinates", "variables")
    if recovered is not None and all(recovered[key] == asked.content[key] for key in requested):
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
    build = join(folder, plan, Path.mkdir, restart=how.restart)
    # The store is what it was until the end, which exchanges its metadata.
    try:
        write_blocks(build, dynamic, how, offset=len(store.times))
        commit(build, out, lambda: prepare(build, out, store.attributes, times, _statistics(build, dynamic, store)))
    except BaseException:
        _abandon(build)
        raise
    build.leave()
    discard(folder)


def _statistics(build: BuildState, dataset: xr.Dataset, store: Store) -> StoreStatistics | None:
    """Compute statistics of the training states as they are now; None where they are those that they were."""
    times, train = times_of(dataset), build.plan.splits["train"]
    # Later states outside the training period change nothing: the earlier ones need not be read.
    if train == store.splits["train"] and not period_indices(times, train).size:
        return None
    _logger.info("%s: reads the training states that were there, for statistics of all", store.path)
    statistics = merged_statistics(build, dataset, _fields(store, train))
    static = {key: value for key, value in store.statistics.variables.items() if key.startswith(STATIC_PREFIX)}
    return statistics.model_copy(update={"variables": statistics.variables | static})


def _fields(store: Store, train: Period) -> Iterator[tuple[str, npt.NDArray[np.float32], int]]:
    """Read the fields of a store's training states, by statistics key, with their times in seconds since 1970."""
    for index in store.indices(train).tolist():
        moment = int(store.times[index].astype(np.int64))
        for name in store.surface + store.atmospheric:
            layers = store.read(name, [index]).reshape(-1, *store.shape)
            for key, layer in zip(store.statistics_keys(name), layers, strict=True):
                yield key, layer, moment


# Whether states can be added to a store: later times of the same variables on the same grid.


def codec_of(store: Store) -> Codec:
    """Find out how the chunks of a store are packed.

    Raises:
        StoreError: in none of the kit's ways, or the store is of an earlier version.
    """
    group = open_group(store.path, consolidated=True)
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
    values = coordinate_values(dataset)
    sides = "two grids"
    for name, held in (("level", store.levels), ("latitude", store.latitude), ("longitude", store.longitude)):
        if name in values and not np.array_equal(values[name], held):
            if name == "level":
                sides = f"{listed(store.levels)}; {listed(values[name].tolist())} hPa"
            msg = f"{store.path}: the {name}s of the states to be added differ from the store's: {sides}"
            raise StoreError(msg)
    old = sorted({*store.surface, *store.atmospheric})
    new = sorted(str(name) for name in dataset.data_vars if not str(name).startswith(STATIC_PREFIX))
    if new != old:
        msg = (
            f"{store.path}: holds the variables {', '.join(old)}; the states to be added hold {', '.join(new)}: give "
            "the same with --variables"
        )
        raise StoreError(msg)
    for name in new:
        held_attributes, attributes = store.variable_attributes(name), dataset[name].attrs
        # Attributes that must not change from one state to the next.
        for key in ("units", "accumulation_hours", "averaging_hours", "lead_hours"):
            # Stores of before state no leads.
            is_unknown = key == "lead_hours" and not {key} <= held_attributes.keys() & attributes.keys()
            if not is_unknown and held_attributes.get(key) != attributes.get(key):
                sides = f"{held_attributes.get(key)!r}, in the states to be added {attributes.get(key)!r}"
                msg = f"{store.path}: {key} of {name} is {sides}; build both from one kind of data"
                raise StoreError(msg)
    for name in store.static:
        added = dataset.get(STATIC_PREFIX + name)
        if added is not None and not np.array_equal(store.read_static(name), added.astype(np.float32), equal_nan=True):
            msg = f"{store.path}: the static variable {name} differs from that of the states to be added"
            raise StoreError(msg)

"""Whether states can be added to a store: later times of the same variables on the same grid."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import xarray as xr
import zarr

from kit.data.building.layout import coordinate_values, times_of
from kit.data.settings import Codec
from kit.data.store import Store
from kit.data.store_format import INTEGRITY, STATIC_PREFIX, compressors, listed
from kit.errors import StoreError

__all__ = ["check_matching", "codec_of"]

_SAME = ("units", "accumulation_hours")
"""Attributes that must not change from one state to the next."""


def codec_of(store: Store) -> Codec:
    """How the chunks of a store are packed.

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

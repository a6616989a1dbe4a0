"""The skeleton of a store: its arrays without their chunks, its coordinates, its metadata."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from kit.data.settings import Codec, Period
from kit.data.store.format import (
    CURVILINEAR,
    STATIC_PREFIX,
    Times,
    check_coordinates,
    compressors,
    grid_dimensions,
    period_indices,
    plain_attributes,
)
from kit.io.errors import StoreError

__all__ = [
    "COORDINATES",
    "TIME_CHUNK",
    "check_dataset",
    "check_splits",
    "chunk_file",
    "consolidate",
    "coordinate_values",
    "make_skeleton",
    "times_of",
]

TIME_CHUNK = 4096
"""Times in a chunk: more than there are, as a rule, so that later times are added without a change of its size."""
COORDINATES: dict[str, dict[str, str]] = {
    "time": {"standard_name": "time", "units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    "level": {"standard_name": "air_pressure", "units": "hPa", "positive": "down"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east"},
}


def times_of(dataset: xr.Dataset) -> Times:
    """The times of a dataset, ``datetime64[s]``."""
    return dataset["time"].values.astype("datetime64[s]")


def coordinate_values(dataset: xr.Dataset) -> dict[str, npt.NDArray[Any]]:
    """Coordinates as a store holds them: times as seconds since 1970, the rest in double precision."""
    values: dict[str, npt.NDArray[Any]] = {"time": times_of(dataset).astype(np.int64)}
    for name in ("level", "latitude", "longitude"):
        if name in dataset.coords:
            values[name] = dataset[name].values.astype(np.float64)
    return values


def check_dataset(dataset: xr.Dataset, out: Path) -> None:
    """Check that a dataset has the form of a store.

    Raises:
        StoreError: it has not; names what is other.
    """
    for name in ("time", "latitude", "longitude"):
        if name not in dataset.coords:
            known = ", ".join(sorted(map(str, dataset.coords)))
            msg = f"{out}: the dataset to be written has no coordinate {name!r}; it has {known}"
            raise StoreError(msg)
    grid = grid_dimensions(dataset)
    for name in ("latitude", "longitude"):
        if grid == CURVILINEAR and dataset[name].dims != grid:
            msg = f"{out}: {name} has the dimensions {dataset[name].dims}, expected {grid}"
            raise StoreError(msg)
    for key, array in dataset.data_vars.items():
        allowed = (grid,) if str(key).startswith(STATIC_PREFIX) else (("time", *grid), ("time", "level", *grid))
        if array.dims not in allowed:
            msg = f"{out}: {key} has the dimensions {array.dims}, expected {' or '.join(map(str, allowed))}"
            raise StoreError(msg)
    if not any("time" in array.dims for array in dataset.data_vars.values()):
        msg = f"{out}: nothing to write: no variable has a time"
        raise StoreError(msg)
    values = coordinate_values(dataset)
    levels = values.get("level", np.empty(0))
    check_coordinates(out, values["latitude"], values["longitude"], times_of(dataset), levels)


def check_splits(times: Times, splits: Mapping[str, Period], out: Path) -> None:
    """Check that there is a training split, and that every split holds a state.

    Raises:
        StoreError: one of the two.
    """
    if "train" not in splits:
        msg = f"{out}: a store needs a training split, got {sorted(splits)}; give `train` as START/END"
        raise StoreError(msg)
    for name, period in splits.items():
        if not period_indices(times, period).size:
            msg = (
                f"{out}: no state falls in {name} = {period}; "
                f"the data's {len(times)} states run from {times[0]} to {times[-1]}"
            )
            raise StoreError(msg)


def make_skeleton(dataset: xr.Dataset, folder: Path, codec: Codec) -> None:
    """Make a group with the arrays of a dataset, and write its coordinates; no chunk of a variable is written."""
    root = zarr.create_group(folder, zarr_format=3)
    for name, values in coordinate_values(dataset).items():
        root.create_array(
            name,
            data=values,
            chunks=(TIME_CHUNK,) if name == "time" else values.shape,
            dimension_names=tuple(map(str, dataset[name].dims)),
            attributes=dict(COORDINATES[name]),
            # A chunk of nothing but the fill value is written too, so that a lost chunk cannot pass for one.
            config={"write_empty_chunks": True},
        )
    for key, array in dataset.data_vars.items():
        root.create_array(
            str(key),
            shape=array.shape,
            chunks=(1, *array.shape[1:]) if "time" in array.dims else array.shape,
            dtype="float32",
            fill_value=float("nan"),
            compressors=compressors(codec),
            dimension_names=tuple(map(str, array.dims)),
            attributes=plain_attributes(array.attrs) | _beside(array),
        )


def _beside(array: xr.DataArray) -> dict[str, str]:
    """What CF asks of a field whose coordinates are no dimensions of it (section 5)."""
    return {"coordinates": "latitude longitude"} if grid_dimensions(array) == CURVILINEAR else {}


def chunk_file(name: str, dimensions: int, index: int | None) -> str:
    """Where the chunk of a state lies in a store, or the one chunk of a static variable."""
    places = ["0"] * dimensions if index is None else [str(index), *["0"] * (dimensions - 1)]
    return "/".join((name, "c", *places))


def consolidate(folder: Path) -> None:
    """Put all metadata of a group into one file."""
    with warnings.catch_warnings():
        # All metadata in one file: readers need not list the folder, where stats.json is a stranger.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(zarr.storage.LocalStore(folder), zarr_format=3)

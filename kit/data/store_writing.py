"""Write a store: check the dataset, stream it to a sibling folder state by state, then rename."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from kit.data.settings import Codec, Period
from kit.data.statistics import FieldAccumulator, StoreStatistics, Weighting, channel_key, point_weights
from kit.data.store_format import (
    CURVILINEAR,
    STATIC_PREFIX,
    STATISTICS_FILE,
    STORE_FORMAT,
    Times,
    check_coordinates,
    compressors,
    grid_dimensions,
    period_indices,
    plain_attributes,
)
from kit.errors import StoreError

__all__ = ["COORDINATES", "StoreExistsError", "consolidate", "write"]

_REMOVALS = 40
BLOCK_BYTES = 32 * 2**20
COORDINATES: dict[str, dict[str, str]] = {
    "time": {"standard_name": "time", "units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    "level": {"standard_name": "air_pressure", "units": "hPa", "positive": "down"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east"},
}


class StoreExistsError(StoreError):
    """The folder of a store to be written is there already."""


def write(
    dataset: xr.Dataset,
    out: Path,
    *,
    splits: Mapping[str, Period],
    attributes: Mapping[str, Any],
    weights: Weighting = "none",
    codec: Codec = "fast",
) -> None:
    """Do what ``kit.data.store.write_store`` says, short of opening the result."""
    if out.exists():
        msg = f"{out}: exists already; choose another folder, or remove this one first"
        raise StoreExistsError(msg)
    times = _check(dataset, out)
    train = _check_splits(times, splits, out)
    with _published(out) as folder:
        hashes, statistics = _write_arrays(dataset, folder, times, train, weights, codec)
        root = zarr.open_group(folder, mode="r+", use_consolidated=False)
        root.attrs.update(
            plain_attributes(attributes)
            | {
                "Conventions": "CF-1.11",
                "kit_store": STORE_FORMAT,
                "kit_version": importlib.metadata.version("aurora-finetune-kit"),
                "splits": {name: str(period) for name, period in splits.items()},
                "data_sha256": hashes,
            }
        )
        consolidate(folder)
        report = StoreStatistics(train=splits["train"], states=len(train), weights=weights, variables=statistics)
        report.save(folder / STATISTICS_FILE)


def _check(dataset: xr.Dataset, out: Path) -> Times:
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
    times = dataset["time"].values.astype("datetime64[s]")
    levels = dataset["level"].values.astype(np.float64) if "level" in dataset.coords else np.empty(0)
    latitude, longitude = (dataset[name].values.astype(np.float64) for name in ("latitude", "longitude"))
    check_coordinates(out, latitude, longitude, times, levels)
    return times


def _check_splits(times: Times, splits: Mapping[str, Period], out: Path) -> npt.NDArray[np.int64]:
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
    return period_indices(times, splits["train"])


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes ``out`` if the body succeeds, and vanishes if it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}.part"
    try:
        yield folder
        try:
            # Renaming onto a folder that holds something fails, so two writers cannot mix.
            folder.rename(out)
        except OSError as error:
            if not out.exists():
                raise
            msg = f"{out}: another process wrote this store meanwhile"
            raise StoreExistsError(msg) from error
    except BaseException:
        _remove(folder)
        raise


def _remove(folder: Path) -> None:
    """Delete a folder into which Zarr's threads may still be finishing the chunks that they had begun."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _write_arrays(
    dataset: xr.Dataset,
    folder: Path,
    times: Times,
    train: npt.NDArray[np.int64],
    weighting: Weighting,
    codec: Codec,
) -> tuple[dict[str, str], dict[str, Any]]:
    root = zarr.create_group(folder, zarr_format=3)
    _write_coordinates(root, dataset, times)
    weights = point_weights(weighting, dataset["latitude"].values, dataset["longitude"].values)
    writers = {str(name): _Writer(root, array, len(train), weights, codec) for name, array in dataset.data_vars.items()}
    dynamic = dataset[[name for name, array in dataset.data_vars.items() if "time" in array.dims]]
    static = dataset[[name for name, array in dataset.data_vars.items() if "time" not in array.dims]]
    training = set(train.tolist())
    # NetCDF's library takes one reader at a time, and one state is little work: threads gain nothing here.
    with dask.config.set(scheduler="synchronous"):
        for key, array in static.load().data_vars.items():
            writers[str(key)].write(..., array.values[None], counted=[0], moments=[0])
        for block in _blocks(dynamic):
            counted = [index - block.start for index in range(block.start, block.stop) if index in training]
            moments = times[block].astype(np.int64)
            for key, array in dynamic.isel(time=block).load().data_vars.items():
                writers[str(key)].write(block, array.values, counted=counted, moments=moments)
    hashes = {name: writer.digest.hexdigest() for name, writer in sorted(writers.items())}
    return hashes, {key: a.result() for w in writers.values() for key, a in w.accumulators.items()}


def _blocks(dynamic: xr.Dataset) -> Iterator[slice]:
    """Runs of states that are computed together: one state, or as many small ones as ``BLOCK_BYTES`` hold."""
    states = dynamic.sizes["time"]
    bytes_per_state = 4 * sum(array.size for array in dynamic.data_vars.values()) // max(1, states)
    length = max(1, BLOCK_BYTES // max(1, bytes_per_state))
    return (slice(start, min(start + length, states)) for start in range(0, states, length))


def _write_coordinates(root: zarr.Group, dataset: xr.Dataset, times: Times) -> None:
    values: dict[str, npt.NDArray[Any]] = {"time": times.astype(np.int64)}
    for name in ("level", "latitude", "longitude"):
        if name in dataset.coords:
            values[name] = dataset[name].values.astype(np.float64)
    for name, array in values.items():
        dimensions = tuple(map(str, dataset[name].dims))
        root.create_array(
            name, data=array, chunks=array.shape, dimension_names=dimensions, attributes=dict(COORDINATES[name])
        )


def _beside(array: xr.DataArray) -> dict[str, str]:
    """What CF asks of a field whose coordinates are no dimensions of it (section 5)."""
    return {"coordinates": "latitude longitude"} if grid_dimensions(array) == CURVILINEAR else {}


class _Writer:
    """One variable on its way to the disk: its array, its hash, its statistics."""

    def __init__(
        self,
        root: zarr.Group,
        array: xr.DataArray,
        states: int,
        weights: npt.NDArray[np.float64] | None,
        codec: Codec,
    ) -> None:
        self.array = root.create_array(
            str(array.name),
            shape=array.shape,
            chunks=(1, *array.shape[1:]) if "time" in array.dims else array.shape,
            dtype="float32",
            fill_value=float("nan"),
            compressors=compressors(codec),
            dimension_names=tuple(map(str, array.dims)),
            attributes=plain_attributes(array.attrs) | _beside(array),
            # A chunk of nothing but NaN is written too, so that a lost chunk cannot pass for one.
            config={"write_empty_chunks": True},
        )
        self.dimensions = array.dims
        self.digest = hashlib.sha256()
        name = str(array.name)
        keys = [name] if "level" not in array.dims else [channel_key(name, v) for v in array["level"].values]
        fields = states if "time" in array.dims else 1
        self.accumulators = {key: FieldAccumulator(key, fields, weights) for key in keys}

    def write(
        self, where: Any, values: npt.NDArray[Any], *, counted: Iterable[int], moments: Sequence[int] | Any
    ) -> None:
        """Write states, values of shape [T, (C,) H, W], and take some of them into the statistics."""
        states = np.ascontiguousarray(values, dtype=np.float32)
        self.array[where] = states if "time" in self.dimensions else states[0]
        self.digest.update(states.tobytes())
        for index in counted:
            layers = states[index] if "level" in self.dimensions else states[index][None]
            for accumulator, layer in zip(self.accumulators.values(), layers, strict=True):
                accumulator.add(layer, int(moments[index]))


def consolidate(folder: Path) -> None:
    """Put all metadata of a group into one file."""
    with warnings.catch_warnings():
        # All metadata in one file: readers need not list the folder, where stats.json is a stranger.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(zarr.storage.LocalStore(folder), zarr_format=3)

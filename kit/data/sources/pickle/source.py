"""Pickles in the two forms that are in use: a dictionary of NumPy arrays, and a list of ``aurora.Batch`` pairs.

The dictionary has the keys ``time`` (``datetime64`` or ISO 8601 text), ``latitude``, ``longitude``, ``level``
(hPa), surface variables [T, H, W], variables on levels [T, C, H, W] and ``static_NAME`` [H, W]. A variable may
be packed: ``NAME.scale`` and ``NAME.offset`` (no dimension, or one value per time, per level, or both) turn it
into ``NAME * scale + offset``. ``attributes`` may hold text and numbers: ``licence``, ``synthetic``.

Dimension letters: B batch, T time, C level, H latitude, W longitude.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.base import Pieces, Request, SourceData, SourceLocation, file_facts
from kit.data.sources.dates import dates_of_text
from kit.data.sources.fields import IN_STORE_UNITS
from kit.data.sources.pickle.unpickle import Array, PickledBatch, PickledPair, load
from kit.data.store.format import CURVILINEAR, GRID, STATIC_PREFIX
from kit.io.errors import StoreError

COORDINATES = ("time", "latitude", "longitude", "level")
Values = npt.NDArray[Any]


@contextmanager
def open_source(paths: Sequence[SourceLocation], request: Request) -> Iterator[SourceData]:
    """Open a pickle.

    Args:
        paths: The one file.
        request: What is taken.

    Raises:
        StoreError: It asks for anything but plain data, or is of neither form.
    """
    path = Path(paths[0])
    if len(paths) > 1 or not path.is_file():
        msg = f"{', '.join(map(str, paths))}: a pickle is one file; give its path"
        raise StoreError(msg)
    content = load(path)
    attributes: Mapping[str, Any] = {}
    if isinstance(content, dict):
        attributes = content.get("attributes", {})
        if not isinstance(attributes, dict):
            msg = f"{path}: 'attributes' holds a {type(attributes).__name__}, expected a dictionary of text and numbers"
            raise StoreError(msg)
        dataset = _from_arrays(content, path)
    elif isinstance(content, list | tuple) and content and all(_is_pair(item) for item in content):
        dataset = _from_pairs(content, path)
    else:
        msg = (
            f"{path}: holds a {type(content).__name__}, expected a dictionary of NumPy arrays or a list of "
            "(input, target) aurora.Batch pairs"
        )
        raise StoreError(msg)
    # Arrays by the model's own names mean what the model's mean: winds to east and north on any grid.
    pieces = Pieces(request, winds_by_default="earth")
    pieces.add(dataset, path.name)
    yield SourceData(
        fields=pieces.merged(),
        names=tuple(sorted(pieces.names)),
        files=file_facts([path]),
        notes=tuple(pieces.notes),
        origins=pieces.origins(),
        licence=str(attributes.get("licence", "")),
        synthetic=bool(attributes.get("synthetic", False)),
    )


def _values(item: Any, name: str, path: Path) -> Values:
    # A stand-in without values is one whose pickle never set its state.
    if isinstance(item, Array) and item.values is not None:
        return item.values
    if isinstance(item, int | float):
        return np.asarray(item)
    msg = f"{path}: {name!r} holds a {type(item).__name__}, expected a NumPy array"
    raise StoreError(msg)


# The dictionary of arrays.


def _from_arrays(content: dict[Any, Any], path: Path) -> xr.Dataset:
    arrays: dict[str, Values] = {}
    for name, item in content.items():
        if name != "attributes":
            arrays[str(name)] = _values(item, str(name), path)
    missing = [name for name in ("time", "latitude", "longitude") if name not in arrays]
    if missing:
        msg = f"{path}: the dictionary lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}"
        raise StoreError(msg)
    times = _parse_times(arrays["time"], path)
    located = _on_dimensions(arrays["latitude"], arrays["longitude"], path)
    coords: dict[str, Any] = {"time": times, **located}
    sizes = {"time": len(times)}
    if "level" in arrays:
        level = arrays["level"]
        coords["level"] = ("level", np.atleast_1d(level), {"units": "hPa"})
        sizes["level"] = len(level) if level.ndim else 0
    for dims, values in located.values():
        sizes |= dict(zip(dims, values.shape, strict=True))
    data = {}
    for name, values in arrays.items():
        if name in COORDINATES or name.endswith((".scale", ".offset")):
            continue
        dims = _dimensions_of(name, values, sizes, path)
        unpacked = values
        if f"{name}.scale" in arrays or f"{name}.offset" in arrays:
            scale = _spread(f"{name}.scale", arrays.get(f"{name}.scale", np.asarray(1.0)), values, path)
            offset = _spread(f"{name}.offset", arrays.get(f"{name}.offset", np.asarray(0.0)), values, path)
            unpacked = (values.astype(np.float64) * scale + offset).astype(np.float32)
        data[name] = (dims, unpacked, {IN_STORE_UNITS: 1})
    return xr.Dataset(data, coords=coords)


def _on_dimensions(latitude: Values, longitude: Values, path: Path) -> dict[str, tuple[tuple[str, ...], Values]]:
    """Coordinates on their dimensions: vectors each on its own, matrices on ``(y, x)``."""
    if latitude.ndim == longitude.ndim == 1:
        return {"latitude": (GRID[:1], latitude), "longitude": (GRID[1:], longitude)}
    if latitude.ndim != 2 or latitude.shape != longitude.shape:
        msg = (
            f"{path}: latitudes have the shape {latitude.shape} and longitudes {longitude.shape}; expected two "
            "vectors, or two matrices of one shape [H, W]"
        )
        raise StoreError(msg)
    return {"latitude": (CURVILINEAR, latitude), "longitude": (CURVILINEAR, longitude)}


def _parse_times(times: Values, path: Path) -> Values:
    if times.dtype.kind == "M" and times.ndim == 1:
        return times
    if times.dtype.kind in "US" and times.ndim == 1:
        return dates_of_text(times, str(path))
    msg = f"{path}: time holds {times.dtype}, shape {times.shape}; expected datetime64 or ISO 8601 text, one dimension"
    raise StoreError(msg)


def _dimensions_of(name: str, values: Values, sizes: Mapping[str, int], path: Path) -> tuple[str, ...]:
    grid = CURVILINEAR if CURVILINEAR[0] in sizes else GRID
    known: dict[int, tuple[str, ...]] = {3: ("time", *grid), 4: ("time", "level", *grid)}
    if name.startswith(STATIC_PREFIX):
        known = {2: grid}
    dims = known.get(values.ndim, ())
    if not dims or values.shape != tuple(sizes.get(dim, 0) for dim in dims):
        msg = (
            f"{path}: {name} has the shape {values.shape}; expected [T, H, W], [T, C, H, W], or [H, W] for a name with "
            f"the prefix {STATIC_PREFIX!r}, where {', '.join(f'{dim} has {size}' for dim, size in sizes.items())}"
        )
        raise StoreError(msg)
    return dims


def _spread(key: str, factors: Values, values: Values, path: Path) -> npt.NDArray[np.float64]:
    """Lay packing factors along the dimensions before latitude and longitude."""
    leading = values.shape[:-2]
    shape = factors.shape
    if factors.ndim == values.ndim and shape[-2:] == (1, 1):
        shape = shape[:-2]
    if shape == ():
        return factors.astype(np.float64)
    # One value per level means the same at all times.
    if len(shape) == 1 and len(leading) == 2 and shape[0] == leading[1]:
        shape = (1, *shape)
    if len(shape) != len(leading) or any(a not in (1, b) for a, b in zip(shape, leading, strict=True)):
        msg = f"{path}: {key} has the shape {factors.shape}; expected none, [C], or {list(leading)}"
        raise StoreError(msg)
    return factors.astype(np.float64).reshape(*shape, 1, 1)


# The list of pairs.


def _is_pair(item: Any) -> bool:
    if isinstance(item, PickledPair):
        return True
    return isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(b, PickledBatch) for b in item)


def _from_pairs(content: Sequence[Any], path: Path) -> xr.Dataset:
    """Put the states of all pairs in order of time, each once.

    The states of an input are taken to be as far apart as its last one and the target.
    """
    states: dict[datetime, dict[str, Values]] = {}
    statics: dict[str, Values] = {}
    first, _ = _pair(content[0], path)
    for item in content:
        source, target = _pair(item, path)
        times, ends = _times(source), _times(target)
        if len(times) != len(ends):
            msg = f"{path}: an input holds {len(times)} samples, its target {len(ends)}"
            raise StoreError(msg)
        for batch in (source, target):
            _check_grid(batch, first, path)
            for name, field in batch.static_vars.items():
                values = _values(field, name, path)
                known = statics.setdefault(STATIC_PREFIX + name, values)
                if not np.array_equal(known, values, equal_nan=True):
                    when = batch.metadata.time
                    msg = f"{path}: the static variable {name} of the batch at {when} differs from the first one's"
                    raise StoreError(msg)
        for index, (time, end) in enumerate(zip(times, ends, strict=True)):
            if end <= time:
                msg = f"{path}: the target of the input at {time} is of {end}, not later"
                raise StoreError(msg)
            _merge_states(states, source, index, time, end - time, path)
            _merge_states(states, target, index, end, end - time, path)
    return _sequence(states, statics, first, path)


def _pair(item: Any, path: Path) -> tuple[PickledBatch, PickledBatch]:
    if isinstance(item, PickledPair):
        item = (item.input_batch, item.target_batch)
    source, target = item
    # A stand-in takes what its pickle gives it, which may be anything.
    for batch in (source, target):
        if not isinstance(batch, PickledBatch) or not batch.is_complete():
            msg = f"{path}: a pair holds a {type(batch).__name__} where a whole aurora.Batch is expected"
            raise StoreError(msg)
    return source, target


def _times(batch: PickledBatch) -> list[datetime]:
    # A store's times are UTC, and do not say so.
    times = batch.metadata.time
    return [time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None) for time in times]


def _check_grid(batch: PickledBatch, first: PickledBatch, path: Path) -> None:
    mine, theirs = batch.metadata, first.metadata
    for name, one, other in (
        ("latitudes", _values(mine.lat, "lat", path), _values(theirs.lat, "lat", path)),
        ("longitudes", _values(mine.lon, "lon", path), _values(theirs.lon, "lon", path)),
        ("levels", np.asarray(_levels(batch, path)), np.asarray(_levels(first, path))),
    ):
        if not np.array_equal(one, other):
            msg = f"{path}: the {name} of the batch at {mine.time} differ from the first one's: {one} and {other}"
            raise StoreError(msg)


def _levels(batch: PickledBatch, path: Path) -> list[float]:
    return [float(_values(level, "atmos_levels", path)) for level in batch.metadata.atmos_levels]


def _merge_states(
    states: dict[datetime, dict[str, Values]], batch: PickledBatch, index: int, time: datetime, step: Any, path: Path
) -> None:
    for name, item in (*batch.surf_vars.items(), *batch.atmos_vars.items()):
        values = _values(item, name, path)
        if values.ndim not in (4, 5) or index >= values.shape[0]:
            msg = f"{path}: {name} of the batch at {time} has the shape {values.shape}; expected [B, T, (C,) H, W]"
            raise StoreError(msg)
        # The last state is the batch's own; the others go back a step each.
        for back, state in enumerate(reversed(values[index])):
            moment = time - back * step
            known = states.setdefault(moment, {}).setdefault(name, state)
            if not np.array_equal(known, state, equal_nan=True):
                msg = f"{path}: two batches hold {name} at {moment:%Y-%m-%dT%H:%M} with different values"
                raise StoreError(msg)


def _sequence(
    states: Mapping[datetime, Mapping[str, Values]], statics: Mapping[str, Values], first: PickledBatch, path: Path
) -> xr.Dataset:
    moments = sorted(states)
    # A variable of a store has a value at every time.
    names = list(states[moments[0]])
    for moment in moments:
        if set(states[moment]) != set(names):
            msg = f"{path}: {moment} holds {sorted(states[moment])}, {moments[0]} holds {sorted(names)}"
            raise StoreError(msg)
    latitude, longitude = _values(first.metadata.lat, "lat", path), _values(first.metadata.lon, "lon", path)
    coords: dict[str, Any] = {
        "time": np.array(moments, dtype="datetime64[us]"),
        **_on_dimensions(latitude, longitude, path),
        "level": ("level", _levels(first, path), {"units": "hPa"}),
    }
    grid = CURVILINEAR if latitude.ndim == 2 else GRID
    data: dict[str, Any] = {name: (grid, values, {IN_STORE_UNITS: 1}) for name, values in statics.items()}
    for name in names:
        values = np.stack([states[moment][name] for moment in moments])
        dimensions = ("time", "level", *grid) if values.ndim == 4 else ("time", *grid)
        data[name] = (dimensions, values, {IN_STORE_UNITS: 1})
    return xr.Dataset(data, coords=coords)

"""Fill missing values by a method that was asked for by name, and record it.

A variable that is named is read twice: once to count what is missing and to refuse what the method is not meant for,
before anything is written; and once as it is written. What a value is filled with depends on the data alone, not on
how they are cut into blocks.

Dimension letters: T time, C level, Y and X the rows and columns of the grid.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.settings import Rule, told
from kit.data.sources.fields import Note
from kit.data.store.format import STATIC_PREFIX
from kit.data.variables import lookup
from kit.io.errors import SettingsError, StoreError

__all__ = ["REACH", "filled"]

Array = npt.NDArray[Any]

REACH = 4
"""States before and after within which ``linear-time`` looks for a value; a week-long hole is no hole but an end."""
SPARSE = 0.01
"""Largest share of the points of a field that ``nearest`` fills."""
MARGIN = 3
"""Rows and columns within which each of them must have a value."""


def filled(dataset: xr.Dataset, rules: tuple[Rule, ...], note: Note) -> xr.Dataset:
    """Fill the missing values of variables, lazily, and say so in their attributes and to ``note``.

    Args:
        dataset: in the store's form.
        rules: at most one for each variable.
        note: is told what is filled, and how.

    Raises:
        SettingsError: a rule has no effect: there is no such variable, or nothing is missing of it.
        StoreError: what is missing is not of the kind that the method is meant for; says where.
    """
    for rule in rules:
        if rule.variable not in dataset.data_vars:
            held = ", ".join(map(str, dataset.data_vars))
            msg = f"--infill {rule} has no effect: the store has no {rule.variable}; it has {held}"
            raise SettingsError(msg)
        field = _Field(dataset[rule.variable], rule)
        count, states = field.survey()
        if not count:
            msg = f"--infill {rule} has no effect: no value of {rule.variable} is missing; leave it out"
            raise SettingsError(msg)
        of_states = (states, field.states) if "time" in field.array.dims else None
        note(told(rule, count, field.array.size, of_states))
        dataset = dataset.assign({rule.variable: field.lazy(count, states)})
    return dataset


@dataclass(frozen=True)
class _Problem:
    """Why a state cannot be filled."""

    reason: str
    remedy: str


class _Field:
    """What dask takes for an array: states of a variable, filled as they are read."""

    def __init__(self, array: xr.DataArray, rule: Rule) -> None:
        self.array, self.rule = array, rule
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, np.dtype(np.float32)
        static = array.name is not None and str(array.name).startswith(STATIC_PREFIX)
        self.states = 1 if static else int(array.sizes["time"])
        if rule.method == "linear-time" and static:
            msg = f"--infill {rule}: a static variable has no states before and after; choose nearest or constant"
            raise SettingsError(msg)
        known = lookup(str(array.name).removeprefix(STATIC_PREFIX), _kind(array))
        if rule.method == "linear-time" and known is not None and known.units == "degree":
            msg = f"--infill {rule}: between 350 and 10 degrees lies 0, not 180; choose nearest for a direction"
            raise SettingsError(msg)

    def __getitem__(self, key: tuple[slice | int, ...]) -> Array:
        parts: list[slice | int] = [*key, *(slice(None) for _ in range(self.ndim - len(key)))]
        if "time" not in self.array.dims:
            return np.asarray(next(self._filled([0]))[tuple(parts)])
        chosen = range(self.states)[parts[0]] if isinstance(parts[0], slice) else [int(parts[0])]
        values = np.stack(list(self._filled(chosen)))[(slice(None), *parts[1:])]
        return np.asarray(values if isinstance(parts[0], slice) else values[0])

    def lazy(self, count: int, states: int) -> xr.DataArray:
        """The field as dask computes it, with what was done to it in its attributes."""
        chunks = self.array.chunks or (-1,) * self.ndim
        meta = np.empty((0,) * self.ndim, self.dtype)
        name = f"infill-{uuid.uuid4().hex}"
        data = da.from_array(  # type: ignore[no-untyped-call]
            self, chunks=chunks, name=name, asarray=False, fancy=False, meta=meta
        )
        facts = {"infill_method": self.rule.how, "infill_values": count}
        return self.array.copy(data=data).assign_attrs(facts | ({"infill_states": states} if self.states > 1 else {}))

    def survey(self) -> tuple[int, int]:
        """Values that are filled, and states that have some; reads the variable once.

        Raises:
            StoreError: something cannot be filled by this method.
        """
        count = states = 0
        for chunk in self._chunks():
            raw = self._raw(chunk)
            for time, state in zip(chunk, raw, strict=True):
                missing = int(np.isnan(state).sum())
                if missing:
                    self._fill(time, state, raw, chunk)
                    count, states = count + missing, states + 1
        return count, states

    def _chunks(self) -> Iterator[range]:
        if self.states == 1 or self.array.chunks is None:
            yield range(self.states)
            return
        start = 0
        for length in self.array.chunks[0]:
            yield range(start, start + length)
            start += length

    def _raw(self, times: range | list[int]) -> Array:
        """States as the source has them, [T, ...]."""
        if "time" not in self.array.dims:
            return np.asarray(self.array.values)[None]
        part = slice(times[0], times[-1] + 1, times.step if isinstance(times, range) else None)
        return np.asarray(self.array.isel(time=part).compute(scheduler="synchronous").values)

    def _filled(self, times: range | list[int]) -> Iterator[Array]:
        raw = self._raw(times)
        for time, state in zip(times, raw, strict=True):
            yield self._fill(time, state, raw, times) if np.isnan(state).any() else state

    def _fill(self, time: int, state: Array, raw: Array, times: range | list[int]) -> Array:
        def other(index: int) -> Array:
            # What was read with it need not be read again.
            return np.asarray(raw[times.index(index)] if index in times else self._raw([index])[0])

        if self.rule.method == "constant":
            return np.where(np.isnan(state), np.float32(self.rule.value), state)
        found = self._nearest(state) if self.rule.method == "nearest" else self._between(time, state, other)
        if isinstance(found, _Problem):
            moment = "" if self.states == 1 else f" at {self.array['time'].values[time].astype('datetime64[m]')}"
            msg = f"--infill {self.rule} cannot fill {self.rule.variable}{moment}: {found.reason}. {found.remedy}"
            raise StoreError(msg)
        return found

    def _nearest(self, state: Array) -> Array | _Problem:
        """Values of the nearest points of the same field that have one."""
        layers = state.reshape(-1, *state.shape[-2:])
        result = layers.copy()
        for layer in result:
            missing_YX = np.isnan(layer)
            count = int(missing_YX.sum())
            if not count:
                continue
            if count > SPARSE * layer.size or not _within(~missing_YX, MARGIN)[missing_YX].all():
                return _Problem(
                    f"{count} of {layer.size} points of a field lack a value, and nearest is meant for single points: "
                    f"at most {SPARSE:.0%} of a field, each within {MARGIN} rows and columns of a value",
                    "Fill states that are missing by linear-time, what has no value over land or below the ground by "
                    "constant:NUMBER, or leave the variable, the level or the times out",
                )
            layer[missing_YX] = layer[~missing_YX][self._neighbours(missing_YX)]
        return np.asarray(result.reshape(state.shape))

    def _neighbours(self, missing_YX: Array) -> npt.NDArray[np.int64]:
        """Positions of the nearest among the points with a value, by distance on the sphere."""
        from scipy.spatial import KDTree

        latitude, longitude = (np.deg2rad(self.array[name].values) for name in ("latitude", "longitude"))
        if latitude.ndim == 1:
            latitude, longitude = np.meshgrid(latitude, longitude, indexing="ij")
        points = np.stack(
            [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
        )
        tree = KDTree(points[~missing_YX], balanced_tree=False, compact_nodes=False)
        return np.asarray(tree.query(points[missing_YX])[1])

    def _between(self, time: int, state: Array, other: Callable[[int], Array]) -> Array | _Problem:
        """Values on the straight line between the states before and after that have one."""
        moments = self.array["time"].values.astype("datetime64[s]").astype(np.int64)
        missing = np.isnan(state)
        sides = []
        for step in (-1, 1):
            value, moment = np.full(state.shape, np.nan), np.zeros(state.shape)
            for index in range(time + step, time + step * (REACH + 1), step):
                if not 0 <= index < self.states or not (open_ := missing & np.isnan(value)).any():
                    break
                candidate = other(index)
                value[open_], moment[open_] = candidate[open_], moments[index]
            sides.append((value, moment))
        (before, first), (after, last) = sides
        with np.errstate(invalid="ignore"):
            line = before + (after - before) * (moments[time] - first) / np.maximum(last - first, 1)
        if left := int(np.isnan(line[missing]).sum()):
            return _Problem(
                f"{left} of {int(missing.sum())} missing values have none within {REACH} states before and after",
                "Leave these times out with --times, or choose another method",
            )
        return np.where(missing, line.astype(np.float32), state)


def _kind(array: xr.DataArray) -> Any:
    if str(array.name).startswith(STATIC_PREFIX):
        return "static"
    return "atmospheric" if "level" in array.dims else "surface"


def _within(there_YX: Array, steps: int) -> Array:
    """Points with a value among their neighbours so many rows and columns around."""
    padded = np.pad(there_YX, steps)
    rows, columns = there_YX.shape
    near = np.zeros_like(there_YX)
    for row in range(2 * steps + 1):
        for column in range(2 * steps + 1):
            near |= padded[row : row + rows, column : column + columns]
    return near

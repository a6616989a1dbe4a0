"""Filling of missing values by a method that was asked for by name, and its record.

A variable that is named is read twice: once to count what is missing and to refuse what the method is not meant for,
before anything is written; and once as it is written. What a value is filled with depends on the data alone, not on
how they are cut into blocks.

Dimension letters: T time, C level, Y and X the rows and columns of the grid.
"""

import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.infill_rules import Rule
from kit.data.sources.fields import Note
from kit.data.store.format import STATIC_PREFIX
from kit.data.variables import Kind, lookup
from kit.io.errors import SettingsError, StoreError

Array = npt.NDArray[Any]

REACH = 4
"""States before and after within which ``linear-time`` looks for a value; a week-long hole is no hole but an end."""
SPARSE = 0.01
"""Largest share of the points of a field that ``nearest`` fills."""
MARGIN = 3
"""Rows and columns within which each of them must have a value."""
_NOTE = re.compile(r"(\S+): (\d+) of \d+ values(?: in \d+ of \d+ states)? were missing and filled by (\S+)")


def fill_missing(dataset: xr.Dataset, rules: tuple[Rule, ...], note: Note) -> xr.Dataset:
    """Fill the missing values of variables, lazily, and say so in their attributes and to ``note``.

    Args:
        dataset: Dataset in the store's form.
        rules: Methods by variable, at most one for each.
        note: Function that takes in what is filled, and how.

    Raises:
        SettingsError: a rule has no effect: there is no such variable, or nothing is missing of it.
        StoreError: what is missing is not of the kind that the method is meant for; says where.
    """
    for rule in rules:
        if rule.variable not in dataset.data_vars:
            held = ", ".join(map(str, dataset.data_vars))
            msg = f"--infill {rule} has no effect: the store has no {rule.variable}; it has {held}"
            raise SettingsError(msg)
        # Counted before anything is written: a build must not find after hours that a mask was no scatter of points,
        # and the count must not depend on which processes wrote.
        field = _Field(dataset[rule.variable], rule)
        count, states = field.survey()
        if not count:
            msg = f"--infill {rule} has no effect: no value of {rule.variable} is missing; leave it out"
            raise SettingsError(msg)
        of_states = (states, field.states) if "time" in field.array.dims else None
        note(infill_note(rule, count, field.array.size, of_states))
        dataset = dataset.assign({rule.variable: field.lazy(count, states)})
    return dataset


class _ProblemError(Exception):
    """A state cannot be filled; the message says why, and what to do."""


class _Field:
    """What dask takes for an array: states of a variable, filled as they are read."""

    def __init__(self, array: xr.DataArray, rule: Rule) -> None:
        self.array, self.rule = array, rule
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, np.dtype(np.float32)
        kind: Kind = "surface"
        if "level" in array.dims:
            kind = "atmospheric"
        self.states = 1
        if str(array.name).startswith(STATIC_PREFIX):
            kind = "static"
        else:
            self.states = int(array.sizes["time"])
        if rule.method == "linear-time" and kind == "static":
            msg = f"--infill {rule}: a static variable has no states before and after; choose nearest or constant"
            raise SettingsError(msg)
        known = lookup(str(array.name).removeprefix(STATIC_PREFIX), kind)
        if rule.method == "linear-time" and known is not None and known.units == "degree":
            msg = f"--infill {rule}: between 350 and 10 degrees lies 0, not 180; choose nearest for a direction"
            raise SettingsError(msg)

    def __getitem__(self, key: tuple[slice | int, ...]) -> Array:
        if "time" not in self.array.dims:
            return np.asarray(next(self._filled([0]))[key])
        first, *others = key
        if isinstance(first, slice):
            return np.stack(list(self._filled(range(self.states)[first])))[(slice(None), *others)]
        return np.asarray(next(self._filled([int(first)]))[tuple(others)])

    def lazy(self, count: int, states: int) -> xr.DataArray:
        """Return the field as dask computes it, with what was done to it in its attributes."""
        chunks = self.array.chunks or (-1,) * self.ndim
        meta = np.empty((0,) * self.ndim, self.dtype)
        # A name of its own: dask would hash the values to find one.
        name = f"infill-{uuid.uuid4().hex}"
        data = da.from_array(  # type: ignore[no-untyped-call]
            self, chunks=chunks, name=name, asarray=False, fancy=False, meta=meta
        )
        facts = {"infill_method": self.rule.how, "infill_values": count}
        if self.states > 1:
            facts["infill_states"] = states
        return self.array.copy(data=data).assign_attrs(facts)

    def survey(self) -> tuple[int, int]:
        """Count the values that are filled, and the states that have some; reads the variable once.

        Raises:
            StoreError: something cannot be filled by this method.
        """
        lengths: tuple[int, ...] = (self.states,)
        if self.states > 1 and self.array.chunks is not None:
            lengths = self.array.chunks[0]
        count = states = start = 0
        for length in lengths:
            times = range(start, start + length)
            raw = self._raw(times)
            for time, state in zip(times, raw, strict=True):
                missing = int(np.isnan(state).sum())
                if missing:
                    self._fill(time, state, raw, times)
                    count, states = count + missing, states + 1
            start += length
        return count, states

    def _raw(self, times: range | list[int]) -> Array:
        """Read states as the source has them, [T, ...]."""
        if "time" not in self.array.dims:
            return np.asarray(self.array.values)[None]
        part = slice(times[0], times[-1] + 1, times.step if isinstance(times, range) else None)
        return np.asarray(self.array.isel(time=part).compute(scheduler="synchronous").values)

    def _filled(self, times: range | list[int]) -> Iterator[Array]:
        raw = self._raw(times)
        for time, state in zip(times, raw, strict=True):
            yield self._fill(time, state, raw, times) if np.isnan(state).any() else state

    def _fill(self, time: int, state: Array, raw: Array, times: range | list[int]) -> Array:
        """Fill a state; ``raw`` are those at ``times``, which were read with it."""
        try:
            if self.rule.method == "constant":
                return np.where(np.isnan(state), np.float32(self.rule.value), state)
            if self.rule.method == "nearest":
                return self._nearest(state)
            return self._between(time, state, raw, times)
        except _ProblemError as problem:
            moment = ""
            if self.states > 1:
                moment = f" at {self.array['time'].values[time].astype('datetime64[m]')}"
            msg = f"--infill {self.rule} cannot fill {self.rule.variable}{moment}: {problem}"
            raise StoreError(msg) from None

    def _nearest(self, state: Array) -> Array:
        """Take values of the nearest points of the same field that have one, by distance on the sphere."""
        from scipy.spatial import KDTree

        latitude, longitude = np.deg2rad(self.array["latitude"].values), np.deg2rad(self.array["longitude"].values)
        if latitude.ndim == 1:
            latitude, longitude = np.meshgrid(latitude, longitude, indexing="ij")
        points = np.stack(
            [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
        )
        result = state.reshape(-1, *state.shape[-2:]).copy()
        for layer in result:
            missing_YX = np.isnan(layer)
            count = int(missing_YX.sum())
            if not count:
                continue
            if count > SPARSE * layer.size or not _near(~missing_YX, MARGIN)[missing_YX].all():
                msg = (
                    f"{count} of {layer.size} points of a field lack a value, and nearest is meant for single points: "
                    f"at most {SPARSE:.0%} of a field, each within {MARGIN} rows and columns of a value. "
                    "Fill states that are missing by linear-time, what has no value over land or below the ground by "
                    "constant:NUMBER, or leave the variable, the level or the times out"
                )
                raise _ProblemError(msg)
            # An unbalanced tree is built sooner, and is asked for few points only.
            tree = KDTree(points[~missing_YX], balanced_tree=False, compact_nodes=False)
            layer[missing_YX] = layer[~missing_YX][tree.query(points[missing_YX])[1]]
        return np.asarray(result.reshape(state.shape))

    def _between(self, time: int, state: Array, raw: Array, times: range | list[int]) -> Array:
        """Draw a straight line between the states before and after that have a value."""
        moments = self.array["time"].values.astype("datetime64[s]").astype(np.int64)
        missing = np.isnan(state)
        sides = []
        for step in (-1, 1):
            value, moment = np.full(state.shape, np.nan), np.zeros(state.shape)
            # No further than a few states: a line neither invents days nor reads a whole store for one value.
            for index in range(time + step, time + step * (REACH + 1), step):
                still_missing = missing & np.isnan(value)
                if not 0 <= index < self.states or not still_missing.any():
                    break
                # What was read with it need not be read again.
                states, place = raw, 0
                if index in times:
                    place = times.index(index)
                else:
                    states = self._raw([index])
                value[still_missing], moment[still_missing] = states[place][still_missing], moments[index]
            sides.append((value, moment))
        (before, first), (after, last) = sides
        with np.errstate(invalid="ignore"):
            line = before + (after - before) * (moments[time] - first) / np.maximum(last - first, 1)
        left = int(np.isnan(line[missing]).sum())
        if left:
            msg = (
                f"{left} of {int(missing.sum())} missing values have none within {REACH} states before and after. "
                "Leave these times out with --times, or choose another method"
            )
            raise _ProblemError(msg)
        return np.where(missing, line.astype(np.float32), state)


def _near(there_YX: Array, steps: int) -> Array:
    """Find points with a value among their neighbours so many rows and columns around."""
    padded = np.pad(there_YX, steps)
    rows, columns = there_YX.shape
    near = np.zeros_like(there_YX)
    for row in range(2 * steps + 1):
        for column in range(2 * steps + 1):
            near |= padded[row : row + rows, column : column + columns]
    return near


def infill_note(rule: Rule, count: int, size: int, states: tuple[int, int] | None) -> str:
    """Write the note for a store's history that says what was filled.

    Args:
        rule: Variable and method.
        count: Number of values that were missing.
        size: Number of all values.
        states: Number of states with some missing, and of all; None for a static variable.
    """
    where = "" if states is None else f" in {states[0]} of {states[1]} states"
    return f"{rule.variable}: {count} of {size} values{where} were missing and filled by {rule.how}"


def parse_infill_notes(history: Iterable[Any]) -> dict[str, tuple[int, str]]:
    """Read from a store's history how many values were filled, and by which methods, by variable."""
    found: dict[str, tuple[int, str]] = {}
    for note in map(str, history):
        match = _NOTE.fullmatch(note)
        if match is None:
            continue
        name, values, method = match.groups()
        count, methods = found.get(name, (0, method))
        # An append adds its own to the history.
        if method not in methods.split(" and "):
            methods += f" and {method}"
        found[name] = (count + int(values), methods)
    return found

"""Which states of a Zarr store are taken, before any of them is read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.fields import Note
from kit.data.settings import Period
from kit.data.sources.base import Request
from kit.data.store_format import period_indices
from kit.errors import StoreError

__all__ = ["FILLED", "Times", "hours_between"]

FILLED = ("valid_time_start", "valid_time_stop")
"""Attributes of ARCO-ERA5: its arrays are allocated for decades to come, and filled between these."""


def hours_between(times: npt.NDArray[np.datetime64]) -> int | None:
    """Hours from state to state; None for one state."""
    return int(np.diff(times).min() / np.timedelta64(1, "h")) if len(times) > 1 else None


@dataclass(frozen=True)
class Times:
    """States that are taken.

    Attributes:
        positions: among the store's.
        values: their times.
    """

    positions: npt.NDArray[np.intp]
    values: npt.NDArray[np.datetime64]

    @classmethod
    def of(cls, dataset: xr.Dataset, request: Request, where: str, note: Note) -> Times:
        """Choose states by the wanted period, as far as the store is filled.

        A sum over a step needs the hours before its first state, so that these are taken, too.

        Raises:
            StoreError: there are none.
        """
        if "time" not in dataset.coords:
            return cls(np.empty(0, np.intp), np.empty(0, "datetime64[s]"))
        values = np.atleast_1d(dataset["time"].values)
        if not np.issubdtype(values.dtype, np.datetime64) or dataset["time"].ndim > 1 or not values.size:
            msg = f"{where}: times of the type {values.dtype} and the shape {values.shape} are no dates of a calendar"
            raise StoreError(msg)
        values = values.astype("datetime64[s]")
        inside = cls._filled(dataset, values, note)
        if request.times is not None:
            early = timedelta(hours=(request.step or 1) - 1)
            wanted = period_indices(values, Period(request.times.start - early, request.times.end))
            inside = inside[np.isin(inside, wanted)]
        if not inside.size:
            first, last = (np.datetime_as_string(values[edge], unit="m") for edge in (0, -1))
            told = "".join(f", {key} {dataset.attrs[key]}" for key in FILLED if key in dataset.attrs)
            msg = f"{where}: no state in --times {request.times}; the store holds {first} to {last}{told}"
            raise StoreError(msg)
        return cls(inside, values[inside])

    @staticmethod
    def _filled(dataset: xr.Dataset, values: npt.NDArray[np.datetime64], note: Note) -> npt.NDArray[np.intp]:
        start, stop = (_edge(dataset.attrs.get(key), late=key == FILLED[1]) for key in FILLED)
        inside = np.ones(len(values), dtype=bool)
        if start is not None:
            inside &= values >= start
        if stop is not None:
            inside &= values <= stop
        if not inside.all():
            note(f"the store is filled from {dataset.attrs.get(FILLED[0])} to {dataset.attrs.get(FILLED[1])}")
        return np.flatnonzero(inside)

    @property
    def indexer(self) -> slice | npt.NDArray[np.intp]:
        """The positions, as a slice where they follow each other."""
        if not len(self.positions):
            return slice(0, 0)
        first, last = int(self.positions[0]), int(self.positions[-1])
        return slice(first, last + 1) if last - first + 1 == len(self.positions) else self.positions

    @property
    def ends(self) -> Times:
        """The first state and the last."""
        edges = [0, -1] if len(self.positions) > 1 else slice(None)
        return Times(self.positions[edges], self.values[edges])


def _edge(text: Any, *, late: bool) -> np.datetime64 | None:
    """A time that an attribute states; of a day, the first or the last second."""
    try:
        moment = np.datetime64(str(text))
    except ValueError:
        return None
    if np.isnat(moment):
        return None
    one: np.datetime64 = moment.astype("datetime64[s]")
    return one + np.timedelta64(86399, "s") if late and moment.dtype == np.dtype("datetime64[D]") else one

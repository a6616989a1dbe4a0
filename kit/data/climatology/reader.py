"""Reader of climatologies: the kit's own, and those of WeatherBench 2, in a folder or where they are published.

Both are Zarr whose arrays have the dimensions ``hour`` and ``dayofyear``, then ``level``, ``latitude`` and
``longitude``, in any order. Dimensions: B time, C level, H latitude, W longitude.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from kit.config.suggestions import near_names
from kit.data.climatology.calendar import day_of_year, listed_days, seconds_of_day
from kit.data.climatology.matching import Wanted, match_names, select_grid
from kit.data.climatology.rain import DRY_FRACTION, HEAVY, RainClimate, dry_mm, match_rain
from kit.data.settings import Period
from kit.data.sources.zarr.address import is_address
from kit.data.sources.zarr.reading import ZarrArrays
from kit.data.sources.zarr.retry_store import AbsentChunkError
from kit.data.sources.zarr.source import opened
from kit.data.store.format import CLIMATOLOGY_FORMAT, CLIMATOLOGY_KEY, INTEGRITY
from kit.io.errors import SettingsError, StoreError
from kit.io.hashes import sha256_of_bytes, sha256_of_text

_YEARS = re.compile(r"(\d{4})-(\d{4})_")
"""How names of WeatherBench 2's climatologies begin: ``1990-2019_6h_1440x721.zarr``."""
_CACHE_BYTES = 2**28
_NAMED = 3
"""Times that a message names."""

Float32 = npt.NDArray[np.float32]
Times = npt.NDArray[np.datetime64]
Moment = tuple[int, int]
"""Hour of the day, and day of the year."""


@contextmanager
def open_climatology(place: str, wanted: Wanted, stated: Period | None = None) -> Iterator["StoredClimatology"]:
    """Open a climatology for scores of a store's states.

    Args:
        place: Folder, zip or address of a Zarr, or the name of an entry of the registry.
        wanted: Store, grid, levels and variables.
        stated: Times that it was averaged over, where it does not say so itself.

    Raises:
        SettingsError: it says neither itself nor by ``stated`` over which years it was averaged, or is of made-up data.
        StoreError: it is none, cannot be read, or has another grid.
        UnavailableError: it did not answer.
    """
    if not is_address(place) and not Path(place).exists():
        place = _address_of(place)
    with opened(place) as (dataset, arrays):
        yield StoredClimatology(place, dataset, arrays, wanted, stated)


def _address_of(name: str) -> str:
    """Look up the address of a climatology in the registry.

    Raises:
        SettingsError: there is none of this name.
    """
    from kit import registry

    known = {entry.name: entry for entry in registry.entries().values() if entry.kind == "climatology"}
    if name not in known:
        near = ", ".join(near_names(name, known) or known)
        msg = (
            f"--climatology {name}: no such folder, and no climatology of the registry, which has {near}; make one "
            "with `kit data climatology`"
        )
        raise SettingsError(msg)
    return known[name].urls[0]


class StoredClimatology:
    """A climatology that is open for scores on a part of a store's grid.

    Attributes:
        place: Folder or address.
        period: Times that it was averaged over, UTC.
        fingerprint: Hash that tells it from any other.
        names: Variables, by the store's names.
        lacking: What is wrong with it for the variables that it is not used for, by name.
    """

    def __init__(
        self, place: str, dataset: xr.Dataset, arrays: ZarrArrays, wanted: Wanted, stated: Period | None
    ) -> None:
        """Take what is wanted of an open Zarr; arguments are those of ``open_climatology``."""
        self.place = place
        _check_form(place, dataset)
        self.period = _period_of(place, dataset.attrs, stated)
        if dataset.attrs.get("synthetic") and not wanted.store.attributes.get("synthetic"):
            msg = f"{place}: was made of synthetic data, and {wanted.store.path} is not; make one of real data"
            raise SettingsError(msg)
        self._arrays = arrays
        self._hours = {int(hour): number for number, hour in enumerate(dataset["hour"].values)}
        self._days = {int(day): number for number, day in enumerate(dataset["dayofyear"].values)}
        selection = select_grid(dataset, wanted, place)
        self._matches, self.lacking = match_names(dataset, wanted)
        self.names = tuple(self._matches)
        self._windows = {name: wanted.window(name) for name in self.names}
        self._matches |= match_rain(dataset, self._matches)
        metadata = arrays.pin([str(key) for key in dataset.data_vars])
        self._fields: dict[str, xr.DataArray] = {}
        repeated = set()
        for name, match in self._matches.items():
            given = dataset[match.key]
            array, order = given.isel(selection), tuple(selection)
            if match.levels is not None:
                array, order = array.isel(level=list(match.levels)), ("level", *order)
            self._fields[name] = array.transpose("hour", "dayofyear", *order)
            chunk = dict(zip(given.dims, given.encoding.get("chunks") or given.shape, strict=False))
            if chunk["hour"] * chunk["dayofyear"] > 1:
                repeated.add(match.key)
        # Where a chunk holds several days, the next ones need it again.
        arrays.store.repeated = frozenset(repeated)
        self._kept: OrderedDict[Moment, dict[str, Float32]] = OrderedDict()
        self.fingerprint = self._fingerprint(dataset, metadata)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.place.rstrip("/").rpartition("/")[2]

    def check(self, times: Sequence[datetime]) -> None:
        """Check that states can be compared with it.

        Args:
            times: Valid times, UTC.

        Raises:
            SettingsError: it was averaged over some of them, or has nothing for some.
        """
        within = [time for time in times if self.period.start <= time <= self.period.end]
        if within:
            years = listed_days({time.year for time in within})
            msg = (
                f"--climatology {self.place}: was averaged over {self.period}, and {len(within)} of the {len(times)} "
                f"times that forecasts are compared with lie within ({years}): what is tested must not be part of what "
                "is usual. Score other times with --data.test START/END, or make a climatology without these: kit data "
                "climatology --store STORE --out OTHER.zarr --period START/END"
            )
            raise SettingsError(msg)
        moments = dict(zip(times, self._moments(times), strict=True))
        absent = [time for time, (hour, day) in moments.items() if hour not in self._hours or day not in self._days]
        if absent:
            named = ", ".join(f"{time:%Y-%m-%dT%H:%M}" for time in absent[:_NAMED])
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            hours = ", ".join(map(str, self._hours))
            msg = (
                f"--climatology {self.place}: has nothing for {named}{more}, which forecasts are compared with; it has "
                f"the hours {hours} UTC of the days of the year {listed_days(self._days)}. Score other times with "
                "--data.test START/END, or make one of whole years with `kit data climatology`"
            )
            raise SettingsError(msg)

    def states(self, times: Sequence[datetime]) -> dict[str, Tensor]:
        """Read the usual values at some times, [B, H, W] and [B, C, H, W] in the store's units.

        Raises:
            StoreError: a chunk is damaged or lost.
            UnavailableError: it did not answer.
        """
        return self._states(times, self.names)

    def rain(self, times: Sequence[datetime]) -> dict[str, RainClimate]:
        """Read how often variables are dry and when they are heavy, where it says so, [B, H, W]; errors as above."""
        named = [name for name in self.names if name + DRY_FRACTION in self._fields]
        held = self._states(times, [name + ending for name in named for ending in (DRY_FRACTION, HEAVY)])
        climates = {}
        for name in named:
            below = dry_mm(self._windows.get(name))
            climates[name] = RainClimate(held[name + DRY_FRACTION], held[name + HEAVY], below)
        return climates

    def _states(self, times: Sequence[datetime], names: Sequence[str]) -> dict[str, Tensor]:
        found = [self._state(moment) for moment in self._moments(times)]
        return {name: torch.from_numpy(np.stack([state[name] for state in found])) for name in names}

    def _moments(self, times: Sequence[datetime]) -> list[Moment]:
        moments = np.array([time.astimezone(UTC).replace(tzinfo=None) for time in times], dtype="datetime64[s]")
        seconds = seconds_of_day(moments)
        # Between whole hours there is nothing.
        hours = np.where(seconds % 3600 == 0, seconds // 3600, -1)
        return list(zip(hours.tolist(), day_of_year(moments).tolist(), strict=True))

    def _state(self, moment: Moment) -> dict[str, Float32]:
        """Read all variables at an hour of a day; those read last are kept, as leads of start dates meet."""
        if moment not in self._kept:
            self._kept[moment] = {name: self._read(name, moment) for name in self._fields}
            size = sum(values.nbytes for values in self._kept[moment].values())
            while len(self._kept) > 1 and size * len(self._kept) > _CACHE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(moment)
        return self._kept[moment]

    def _read(self, name: str, moment: Moment) -> Float32:
        hour, day = moment
        match = self._matches[name]
        field = self._fields[name].isel(hour=self._hours[hour], dayofyear=self._days[day])

        def take() -> npt.NDArray[Any]:
            try:
                return np.asarray(field.values)
            except AbsentChunkError as error:
                msg = f"{error}, which holds day {day} at {hour} UTC: it is damaged; make or copy it again"
                raise StoreError(msg) from error

        values = self._arrays.read(match.key, take, f" for day {day} at {hour} UTC")
        return np.asarray(values * np.float32(match.scale) + np.float32(match.offset), dtype=np.float32)

    def _fingerprint(self, dataset: xr.Dataset, metadata: str) -> str:
        """Hash what tells it from others: of the kit's own the hashes of all files, of others metadata and a field."""
        if INTEGRITY in dataset.attrs:
            return sha256_of_text(json.dumps(dataset.attrs, sort_keys=True, default=str))
        facts = [self.name, str(self.period), metadata]
        if self.names:
            moment = next(iter(self._hours)), next(iter(self._days))
            facts.append(sha256_of_bytes(np.ascontiguousarray(self._read(self.names[0], moment)).tobytes()))
        return sha256_of_text("\n".join(facts))


def _check_form(place: str, dataset: xr.Dataset) -> None:
    """Check that a Zarr is a climatology.

    Raises:
        StoreError: it has no hours or no days of the year, or is one of a later version.
    """
    for name in ("hour", "dayofyear"):
        if name not in dataset.coords or dataset[name].dims != (name,) or dataset[name].dtype.kind not in "iu":
            found = ", ".join(f"{dimension} ({size})" for dimension, size in dataset.sizes.items())
            msg = (
                f"{place}: expected a climatology with whole numbers for its coordinates hour and dayofyear, as `kit "
                f"data climatology` and WeatherBench 2 write them, found the dimensions {found}"
            )
            raise StoreError(msg)
    held = dataset.attrs.get(CLIMATOLOGY_KEY, CLIMATOLOGY_FORMAT)
    if held != CLIMATOLOGY_FORMAT:
        msg = f"{place}: is a climatology of format {held!r}, {CLIMATOLOGY_FORMAT} expected; make it with this kit"
        raise StoreError(msg)


def _period_of(place: str, attributes: Mapping[str, Any], stated: Period | None) -> Period:
    """Find over which times a climatology was averaged.

    Raises:
        SettingsError: nobody says so, or two say so.
        StoreError: its own attribute is none.
    """
    name = place.rstrip("/").rpartition("/")[2]
    years = _YEARS.match(name)
    if CLIMATOLOGY_KEY in attributes:
        try:
            period = Period.parse(attributes.get("period"))
        except ValueError as error:
            msg = f"{place}: its attribute period is damaged ({error}); make it again with `kit data climatology`"
            raise StoreError(msg) from error
    elif years is not None:
        period = Period.parse(f"{years[1]}/{years[2]}")
    elif stated is not None:
        return stated
    else:
        msg = (
            f"--climatology {place}: does not say over which years it was averaged, so that nobody can tell whether "
            "they are those that are tested; state them with --climatology_period START/END"
        )
        raise SettingsError(msg)
    if stated is not None and stated != period:
        msg = f"--climatology_period {stated}: {place} says itself that it was averaged over {period}; leave it out"
        raise SettingsError(msg)
    return period

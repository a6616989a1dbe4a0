"""HRRR, NOAA's 3 km analyses of the contiguous United States, through Herbie.

Herbie knows the archives and reads their indices; of each hour's files only the messages that are wanted are fetched,
into the cache, several hours at once. Then they are read as any GRIB is.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

import numpy as np
import xarray as xr

from kit.data.settings import Period
from kit.data.sources.base import Request, SourceData, SourceLocation
from kit.data.sources.grib.source import data_of_messages
from kit.data.sources.hrrr.fetch import Fetched, Fetcher
from kit.data.sources.hrrr.index import ARCHIVE_VARIABLE, Wanted, archives, load_herbie, states_of, wanted_by_hour
from kit.data.sources.hrrr.plan import MissingError, Plan, Planner
from kit.data.sources.hrrr.transport import Transport
from kit.io.errors import SettingsError, StoreError
from kit.io.progress import current
from kit.io.retry import Limits
from kit.registry.fetching import offline
from kit.registry.paths import cache_dir

__all__ = ["LICENCE", "Estimate", "estimate", "open_source"]

LICENCE = "NOAA HRRR, public domain (NOAA Open Data Dissemination)"
_THREADS = 4
"""Hours that are fetched at once."""
_SAMPLE = 24
"""Hours whose indices are read for an estimate."""
_NAME = "hrrr"
_HOUR = np.timedelta64(1, "h")

Item = TypeVar("Item")
Result = TypeVar("Result")
Hours = Mapping[np.datetime64, tuple[Wanted, ...]]


@dataclass(frozen=True)
class Estimate:
    """What a build will fetch.

    Attributes:
        hours: whose files are looked into.
        requests: to the archives, for indices and for bytes.
        download_bytes: that will arrive.
        exact: every index was read; otherwise those of some hours, evenly spread, stand for all.
    """

    hours: int
    requests: int
    download_bytes: int
    exact: bool


@contextmanager
def open_source(
    paths: Sequence[SourceLocation], request: Request, *, limits: Limits | None = None
) -> Iterator[SourceData]:
    """Fetch analyses of HRRR, and open them.

    Args:
        paths: the word ``hrrr``; which archives are asked, the environment may say (``KIT_HRRR_ARCHIVE``).
        request: what is taken; ``times`` must be given, and ``levels`` for variables on pressure levels.
        limits: of patience.

    Raises:
        SettingsError: a setting is missing or unknown, or Herbie is not installed.
        StoreError: HRRR has no such variable, level or hour, or nothing may be fetched.
        UnavailableError: the archives did not answer, or not in full; what was fetched stays in the cache.
        RegistryError: the cache cannot be written to.
    """
    if request.sample:
        yield _sample(paths, request, limits or Limits())
        return
    hours, fetcher = _prepared(paths, request, limits or Limits())
    yield _opened(hours, fetcher, request)


def _opened(hours: Hours, fetcher: Fetcher, request: Request) -> SourceData:
    fetched = {time: found for time, wanted in hours.items() if (found := fetcher.held(time, wanted)) is not None}
    absent = {time: wanted for time, wanted in hours.items() if time not in fetched}
    if absent:
        fetched |= _fetch(absent, fetcher)
    ordered = [fetched[time] for time in hours]
    messages = [message for hour in ordered for message in hour.messages]
    source = data_of_messages(messages, request, tuple(hour.facts for hour in ordered), "HRRR")
    first = next(iter(hours))
    notes = (*source.notes, *([f"static variables are those of {first}"] if _has_statics(hours) else []))
    return dataclasses.replace(source, licence=LICENCE, notes=notes)


def _sample(paths: Sequence[SourceLocation], request: Request, limits: Limits) -> SourceData:
    """Fetch the first state alone, have it stand for all, and say what fetching all will take."""
    all_of_it = estimate(paths, request, limits=limits)
    states = states_of(request)
    moment = states[0].astype("datetime64[s]").item().replace(tzinfo=UTC)
    hours, fetcher = _prepared(paths, dataclasses.replace(request, times=Period(moment, moment)), limits)
    source = _opened(hours, fetcher, request)
    fields = {name: _repeated(field, states) for name, field in source.fields.items()}
    return dataclasses.replace(
        source, fields=fields, requests=all_of_it.requests, download_bytes=all_of_it.download_bytes
    )


def _repeated(field: xr.DataArray, states: Sequence[np.datetime64]) -> xr.DataArray:
    """The first times of a field at all times that it would have."""
    if "time" not in field.dims:
        return field
    ahead = field.sizes["time"] - 1
    times = np.array(states, "datetime64[ns]")
    if ahead:
        # Rain: every hour of the sums.
        times = np.arange(times[0] - ahead * _HOUR, times[-1] + _HOUR, _HOUR)
    return field.isel(time=np.arange(len(times)) % field.sizes["time"]).assign_coords(time=times)


def estimate(paths: Sequence[SourceLocation], request: Request, *, limits: Limits | None = None) -> Estimate:
    """Say what ``open_source`` would fetch, by the archives' indices; hours in the cache count as fetched.

    Raises:
        StoreError: as ``open_source`` does, of the hours whose indices are read.
        SettingsError: as ``open_source`` does.
    """
    hours, fetcher = _prepared(paths, request, limits or Limits())
    absent = [(time, wanted) for time, wanted in hours.items() if fetcher.held(time, wanted) is None]
    picked = absent
    if len(absent) > _SAMPLE:
        picked = [absent[round(index)] for index in np.linspace(0, len(absent) - 1, _SAMPLE)]
    plans = _plans(dict(picked), fetcher.planner)
    share = len(absent) / max(1, len(picked))
    requests = sum(plan.requests + len(plan.shares) for plan in plans.values())
    size = sum(plan.size for plan in plans.values())
    return Estimate(len(hours), round(requests * share), round(size * share), exact=len(picked) == len(absent))


def _prepared(paths: Sequence[SourceLocation], request: Request, limits: Limits) -> tuple[Hours, Fetcher]:
    if [str(path) for path in paths] != [_NAME]:
        msg = (
            f"--path of --source hrrr is the word {_NAME}, got {', '.join(map(str, paths))}; a mirror is named by the "
            f"environment variable {ARCHIVE_VARIABLE}"
        )
        raise SettingsError(msg)
    hours = wanted_by_hour(request)
    load_herbie()
    return hours, Fetcher(Planner(Transport(limits, current()), archives()))


def _has_statics(hours: Hours) -> bool:
    return any(item.name.startswith("static_") for item in next(iter(hours.values())))


def _fetch(hours: Hours, fetcher: Fetcher) -> dict[np.datetime64, Fetched]:
    planner, watch = fetcher.planner, fetcher.planner.transport.watch
    name = f"HRRR, {len(hours)} hour{'s' if len(hours) > 1 else ''}"
    watch.said(f"{name}: reading the indices")
    plans = _plans(hours, planner)
    total = sum(plan.size for plan in plans.values())
    _check_space(total)
    hosts = ", ".join(dict.fromkeys(share.archive for plan in plans.values() for share in plan.shares))
    watch.started(name, hosts, 0, total)
    try:
        return _at_once(lambda time: fetcher.fetch(time, hours[time], plans[time]), list(hours), planner.transport)
    finally:
        watch.ended()


def _plans(hours: Hours, planner: Planner) -> dict[np.datetime64, Plan]:
    """Plans of hours; says all at once which are missing.

    Raises:
        MissingError: no archive has some of them.
        StoreError: nothing may be fetched.
    """
    if hours and offline():
        msg = (
            f"{len(hours)} hours of HRRR, the first {next(iter(hours))}, are not in the cache {cache_dir()}, and "
            "KIT_OFFLINE=1 asks that nothing be fetched; unset it"
        )
        raise StoreError(msg)

    def plan(time: np.datetime64) -> Plan | MissingError:
        try:
            return planner.plan(time, hours[time])
        except MissingError as error:
            return error

    plans = _at_once(plan, list(hours), planner.transport)
    missing = {time: found for time, found in plans.items() if isinstance(found, MissingError)}
    if missing:
        first, *more = [f"{time}: {error}" for time, error in missing.items()]
        others = f" Others are missing, too: {', '.join(str(time) for time in list(missing)[1:9])}." if more else ""
        msg = (
            f"{len(missing)} of {len(hours)} hours of HRRR cannot be had. {first}.{others} The archive has gaps: "
            "choose --times without them, and append what comes after"
        )
        raise MissingError(msg)
    return {time: found for time, found in plans.items() if isinstance(found, Plan)}


def _check_space(total: int) -> None:
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < total:
        msg = (
            f"{total / 1e9:.1f} GB of HRRR are to be fetched into {folder}, where {free / 1e9:.1f} GB are free. Free "
            "some, choose another folder with KIT_CACHE, or build fewer --times"
        )
        raise StoreError(msg)


def _at_once(work: Callable[[Item], Result], items: Sequence[Item], transport: Transport) -> dict[Item, Result]:
    """Do the same for several items in threads; the first failure ends all."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hrrr")
    futures = {pool.submit(work, item): item for item in items}
    try:
        results = {futures[future]: future.result() for future in as_completed(futures)}
    except BaseException:
        transport.stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return {item: results[item] for item in items}

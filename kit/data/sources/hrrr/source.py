"""HRRR, NOAA's 3 km analyses of the contiguous United States, through Herbie.

Herbie knows the archives and reads their indices; of each hour's files only the messages that are wanted are fetched,
into the cache, several hours at once. Then they are read as any GRIB is.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC

import numpy as np
import xarray as xr

from kit.data.products import PRODUCTS
from kit.data.settings import Period
from kit.data.sources.base import Request, SourceData, SourceLocation
from kit.data.sources.grib.source import data_of_messages
from kit.data.sources.hrrr.fetch import Fetched, Fetcher, HourPlan, HourPlanner, MissingError
from kit.data.sources.hrrr.index import ARCHIVE_VARIABLE, WantedField, archives, load_herbie, states_of, wanted_by_hour
from kit.data.sources.hrrr.transport import Transport
from kit.data.store.format import STATIC_PREFIX
from kit.io.errors import SettingsError, StoreError
from kit.io.progress import current
from kit.io.retry import Limits
from kit.registry.entry import cache_dir
from kit.registry.fetching import offline

LICENCE = "NOAA HRRR, public domain (NOAA Open Data Dissemination)"
_THREADS = 4
"""Hours that are fetched at once."""
_SAMPLE = 24
"""Hours whose indices are read for an estimate."""
_NAME = "hrrr"
_HOUR = np.timedelta64(1, "h")

Hours = Mapping[np.datetime64, tuple[WantedField, ...]]


@dataclass(frozen=True)
class FetchEstimate:
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
    limits = limits or Limits()
    if not request.sample:
        hours, fetcher = _prepare(paths, request, limits)
        yield _open(hours, fetcher, request)
        return
    # The first state alone is fetched, and stands for all.
    whole = estimate(paths, request, limits=limits)
    states = states_of(request)
    moment = states[0].astype("datetime64[s]").item().replace(tzinfo=UTC)
    hours, fetcher = _prepare(paths, dataclasses.replace(request, times=Period(moment, moment)), limits)
    source = _open(hours, fetcher, request)
    fields = {name: _repeat(field, states) for name, field in source.fields.items()}
    yield dataclasses.replace(source, fields=fields, requests=whole.requests, download_bytes=whole.download_bytes)


def _open(hours: Hours, fetcher: Fetcher, request: Request) -> SourceData:
    """Open hours of the cache, after fetching those that it lacks."""
    fetched: dict[np.datetime64, Fetched] = {}
    absent = {}
    for time, wanted in hours.items():
        found = fetcher.cached(time, wanted)
        if found is None:
            absent[time] = wanted
        else:
            fetched[time] = found
    # Before the store is begun: gaps show before anything large is fetched, and a build that is stopped while it
    # writes needs no network to go on.
    if absent:
        fetched |= _fetch(absent, fetcher)
    ordered = [fetched[time] for time in hours]
    messages = [message for hour in ordered for message in hour.messages]
    request = dataclasses.replace(request, product=PRODUCTS["hrrr"])
    source = data_of_messages(messages, request, tuple(hour.facts for hour in ordered), "HRRR")
    first, wanted = next(iter(hours.items()))
    notes = source.notes
    if any(field.name.startswith(STATIC_PREFIX) for field in wanted):
        notes = (*notes, f"static variables are those of {first}")
    return dataclasses.replace(source, licence=LICENCE, notes=notes)


def _repeat(field: xr.DataArray, states: Sequence[np.datetime64]) -> xr.DataArray:
    """Repeat the first times of a field at all times that it would have."""
    if "time" not in field.dims:
        return field
    ahead = field.sizes["time"] - 1
    times = np.array(states, "datetime64[s]")
    if ahead:
        # Rain: every hour of the sums.
        times = np.arange(times[0] - ahead * _HOUR, times[-1] + _HOUR, _HOUR)
    return field.isel(time=np.arange(len(times)) % field.sizes["time"]).assign_coords(time=times)


def estimate(paths: Sequence[SourceLocation], request: Request, *, limits: Limits | None = None) -> FetchEstimate:
    """Say what ``open_source`` would fetch, by the archives' indices; hours in the cache count as fetched.

    Raises:
        StoreError: as ``open_source`` does, of the hours whose indices are read.
        SettingsError: as ``open_source`` does.
    """
    hours, fetcher = _prepare(paths, request, limits or Limits())
    absent = [time for time, wanted in hours.items() if fetcher.cached(time, wanted) is None]
    sample = absent
    if len(absent) > _SAMPLE:
        sample = [absent[round(index)] for index in np.linspace(0, len(absent) - 1, _SAMPLE)]
    plans = _plans({time: hours[time] for time in sample}, fetcher.planner).values()
    scale = len(absent) / max(1, len(sample))
    requests = size = 0
    for plan in plans:
        # An index for each file, and ranges of bytes.
        requests += len(plan.shares) + plan.requests
        size += plan.size
    return FetchEstimate(len(hours), round(requests * scale), round(size * scale), exact=sample == absent)


def _prepare(paths: Sequence[SourceLocation], request: Request, limits: Limits) -> tuple[Hours, Fetcher]:
    """List the hours that a request needs, and set up what fetches them."""
    if list(map(str, paths)) != [_NAME]:
        msg = (
            f"--path of --source hrrr is the word {_NAME}, got {', '.join(map(str, paths))}; a mirror is named by the "
            f"environment variable {ARCHIVE_VARIABLE}"
        )
        raise SettingsError(msg)
    hours = wanted_by_hour(request)
    # In this thread: Herbie is imported once, with the environment changed meanwhile.
    load_herbie()
    return hours, Fetcher(HourPlanner(Transport(limits, current()), archives()))


def _fetch(hours: Hours, fetcher: Fetcher) -> dict[np.datetime64, Fetched]:
    """Fetch hours, several at once, after reading all of their indices."""
    planner, watch = fetcher.planner, fetcher.planner.transport.watch
    name = f"HRRR, {len(hours)} hour{'s' if len(hours) > 1 else ''}"
    watch.said(f"{name}: reading the indices")
    # All indices before any bytes, and room for all bytes before the first.
    plans = _plans(hours, planner)
    total = sum(plan.size for plan in plans.values())
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < total:
        msg = (
            f"{total / 1e9:.1f} GB of HRRR are to be fetched into {folder}, where {free / 1e9:.1f} GB are free. Free "
            "some, choose another folder with KIT_CACHE, or build fewer --times"
        )
        raise StoreError(msg)
    hosts = ", ".join(dict.fromkeys(share.archive for plan in plans.values() for share in plan.shares))
    fetched = {}

    def fetch(time: np.datetime64) -> None:
        fetched[time] = fetcher.fetch(time, hours[time], plans[time])

    watch.started(name, hosts, 0, total)
    try:
        _at_once(fetch, hours, planner.transport)
    finally:
        watch.ended()
    return fetched


def _plans(hours: Hours, planner: HourPlanner) -> dict[np.datetime64, HourPlan]:
    """Plan hours; say all at once which are missing.

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
    plans: dict[np.datetime64, HourPlan] = {}
    missing: dict[np.datetime64, MissingError] = {}

    def plan(time: np.datetime64) -> None:
        try:
            plans[time] = planner.plan(time, hours[time])
        except MissingError as error:
            missing[time] = error

    _at_once(plan, hours, planner.transport)
    if missing:
        first, *others = sorted(missing)
        msg = f"{len(missing)} of {len(hours)} hours of HRRR cannot be had. {first}: {missing[first]}."
        if others:
            msg += f" Others are missing, too: {', '.join(map(str, others[:8]))}."
        msg += " The archive has gaps: choose --times without them, and append what comes after"
        raise MissingError(msg)
    return dict(sorted(plans.items()))


def _at_once(work: Callable[[np.datetime64], None], hours: Hours, transport: Transport) -> None:
    """Do the same for several hours in threads; the first failure ends all."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hrrr")
    futures = [pool.submit(work, time) for time in hours]
    try:
        # As they end, so that a failure is seen when it comes, whichever hour it is of.
        for future in as_completed(futures):
            future.result()
    except BaseException:
        # Other threads may be in the middle of an hour, or wait for their next attempt.
        transport.stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)

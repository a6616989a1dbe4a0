"""The Copernicus data stores (Climate Data Store, Atmosphere Data Store): asked, waited for, then read as GRIB."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.base import Announcement, Request, SourceData, SourceLocation
from kit.data.sources.cds.access import find_access
from kit.data.sources.cds.products import Times
from kit.data.sources.cds.queue import Pace, fetch_all, readable
from kit.data.sources.cds.request_cache import Kept, folder
from kit.data.sources.cds.requests import Planned, Selection, plan, select
from kit.data.sources.cds.service import Service, load_client
from kit.data.sources.grib import source as grib
from kit.data.sources.grib.scan import load_eccodes
from kit.data.store.format import STATIC_PREFIX, listed
from kit.io.errors import RegistryError, StoreError
from kit.io.progress import current
from kit.io.retry import Limits
from kit.registry.fetching import offline

__all__ = ["LIMITS", "PACE", "announce", "open_source", "plan_requests"]

LIMITS = Limits(attempts=10, backoff=2.0)
"""Of patience with a data store: some eight minutes without an answer."""
PACE = Pace()


def plan_requests(paths: Sequence[SourceLocation], request: Request) -> tuple[Planned, ...]:
    """Say which requests a build will make, without asking anybody.

    Args:
        paths: one name of a product or of a data set.
        request: what is taken.

    Returns:
        The requests, each with its fields and estimated bytes, those included whose results are in the cache.

    Raises:
        SettingsError: there is no such product or variable, no time is named, or the choice cannot be served.
    """
    return plan(select(str(paths[0]), request))


def announce(paths: Sequence[SourceLocation], request: Request) -> Announcement | None:
    """Say what a build will fetch, without asking anybody; None if all of it is in the cache.

    Raises:
        SettingsError: as ``plan_requests``.
    """
    selection = select(str(paths[0]), request)
    missing = [planned for planned in plan(selection) if not Kept(planned, folder()).path.is_file()]
    if not missing:
        return None
    of = selection
    fields = len(of.times) * (len(of.variables) + len(of.accumulated) + len(of.atmospheric) * len(of.levels))
    return Announcement(
        states=len(of.times),
        value_bytes=4 * of.points * (fields + len(of.statics)),
        requests=len(missing),
        download_bytes=sum(planned.size for planned in missing),
    )


@contextmanager
def open_source(paths: Sequence[SourceLocation], request: Request) -> Iterator[SourceData]:
    """Ask a data store for what is wanted, wait for it, and open it.

    Args:
        paths: one name of a product or of a data set.
        request: what is taken; times must be named.

    Raises:
        SettingsError: the choice cannot be served, a package or the key is missing, or a licence is not accepted.
        StoreError: a request is refused or fails, or the result is not what was asked.
        UnavailableError: the data store does not answer; what was fetched stays, and its queue goes on.
    """
    selection = select(str(paths[0]), request)
    kept = [Kept(planned, folder()) for planned in plan(selection)]
    # Before hours of waiting, not after.
    load_eccodes()
    _fetch(selection, kept)
    wanted = dataclasses.replace(
        request,
        variables=frozenset((*selection.variables, *selection.accumulated, *selection.atmospheric)),
        statics=frozenset(STATIC_PREFIX + name for name in selection.statics),
    )
    with grib.open_source([one.path for one in kept], wanted) as opened:
        try:
            _check(opened.fields, selection)
        except StoreError:
            _delete_short(kept)
            raise
        notes = (*opened.notes, *_notes(selection, request))
        files = tuple(one.facts() for one in kept)
        licence = selection.product.credit
        # All that will be fetched has been.
        yield dataclasses.replace(opened, files=files, notes=notes, licence=licence, requests=0, download_bytes=0)


def _fetch(selection: Selection, kept: Sequence[Kept]) -> None:
    missing = [one.planned for one in kept if not one.path.is_file()]
    if missing and offline():
        msg = (
            f"{len(missing)} of {len(kept)} results of {selection.product.name} are not in the cache, the first for "
            f"{missing[0]}, and KIT_OFFLINE is set"
        )
        raise RegistryError(msg)
    watch = current()
    if missing:
        load_client()
        size = readable(sum(planned.size for planned in missing))
        watch.said(f"{selection.product.name}: {len(missing)} requests, about {size}")
    fetch_all(kept, lambda: Service(find_access(selection.product.store), LIMITS, watch), watch, LIMITS, PACE)


def _notes(selection: Selection, request: Request) -> Iterator[str]:
    """What was chosen because nobody said otherwise."""
    if request.variables is None:
        yield f"variables chosen by {selection.product.name}, as none were named"
    if request.levels is None and selection.atmospheric:
        yield f"levels chosen as Aurora's, as none were named: {listed(selection.levels)} hPa"


def _check(fields: Mapping[str, xr.DataArray], selection: Selection) -> None:
    """Hold what came against what was asked.

    Raises:
        StoreError: a variable, a level or a time is missing; names it.
    """
    of = selection
    asked: dict[str, Times] = dict.fromkeys((*of.variables, *of.atmospheric), of.times)
    asked |= dict.fromkeys(of.accumulated, of.hours)
    statics = [STATIC_PREFIX + name for name in of.statics]
    if missing := [name for name in (*asked, *statics) if name not in fields]:
        msg = (
            f"{of.product.name}: the results lack {', '.join(missing)}, which were asked for; they hold "
            f"{', '.join(sorted(fields))}. {_anew()}"
        )
        raise StoreError(msg)
    for name, times in asked.items():
        _check_times(name, times, fields[name], of)
        if name in of.atmospheric:
            lost = set(of.levels) - set(fields[name]["level"].values.tolist())
            if lost:
                msg = f"{of.product.name}: {name} lacks the levels {listed(sorted(lost))} hPa. {_anew()}"
                raise StoreError(msg)


def _check_times(name: str, asked: Times, field: xr.DataArray, selection: Selection) -> None:
    wanted = _stamps(asked)
    lost = wanted[~np.isin(wanted, field["time"].values.astype("datetime64[s]"))]
    if lost.size:
        msg = (
            f"{selection.product.name}: {lost.size} of {wanted.size} times of {name} are missing, the first at "
            f"{lost[0]}; the data store may not have them yet: end --times earlier. {_anew()}"
        )
        raise StoreError(msg)


def _stamps(times: Times) -> npt.NDArray[np.datetime64]:
    return np.array([moment.replace(tzinfo=None) for moment in times], dtype="datetime64[s]")


def _delete_short(kept: Sequence[Kept]) -> None:
    """Delete results that hold fewer fields than were asked for: the data store may have them another time."""
    eccodes = load_eccodes()
    for one in kept:
        with one.path.open("rb") as stream:
            held = eccodes.codes_count_in_file(stream)
        if held < one.planned.fields:
            one.delete()


def _anew() -> str:
    return (
        "What is short of fields was deleted from the cache, so that the same command asks for it anew; to have all "
        f"of it anew, delete {folder()}"
    )

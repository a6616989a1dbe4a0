"""The Copernicus data stores (Climate Data Store, Atmosphere Data Store): asked, waited for, then read as GRIB."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import xarray as xr

from kit.data.products import PRODUCTS
from kit.data.sources.base import Announcement, Request, SourceData, SourceLocation
from kit.data.sources.cds.access import find_access
from kit.data.sources.cds.products import Times
from kit.data.sources.cds.queue import PollingPolicy, fetch_all, readable
from kit.data.sources.cds.request_cache import CachedRequest, folder
from kit.data.sources.cds.requests import FieldSelection, plan, select
from kit.data.sources.cds.service import Service, load_client
from kit.data.sources.grib import source as grib
from kit.data.sources.grib.scan import load_eccodes
from kit.data.store.format import STATIC_PREFIX, listed
from kit.io.errors import RegistryError, StoreError
from kit.io.progress import current
from kit.io.retry import Limits
from kit.registry.fetching import offline

LIMITS = Limits(attempts=10, backoff=2.0)
"""Of patience with a data store: some eight minutes without an answer."""
POLLING = PollingPolicy()


def announce(paths: Sequence[SourceLocation], request: Request) -> Announcement | None:
    """Say what a build will fetch, without asking anybody; None if all of it is in the cache.

    Raises:
        SettingsError: there is no such product or variable, no time is named, or the choice cannot be served.
    """
    # Whether results in the cache are whole is looked at when they are opened.
    selection = select(str(paths[0]), request)
    missing = [planned for planned in plan(selection) if not CachedRequest(planned, folder()).path.is_file()]
    if not missing:
        return None
    fields = len(selection.variables) + len(selection.accumulated)
    fields += len(selection.atmospheric) * len(selection.levels)
    return Announcement(
        states=len(selection.times),
        value_bytes=4 * selection.points * (len(selection.times) * fields + len(selection.statics)),
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
    requests = [CachedRequest(planned, folder()) for planned in plan(selection)]
    # Before hours of waiting, not after.
    eccodes = load_eccodes()
    _fetch(selection, requests)
    wanted = dataclasses.replace(
        request,
        variables=frozenset((*selection.variables, *selection.accumulated, *selection.atmospheric)),
        statics=frozenset(STATIC_PREFIX + name for name in selection.statics),
        product=PRODUCTS.get(selection.product.name),
    )
    with grib.open_source([cached.path for cached in requests], wanted) as opened:
        try:
            _check(opened.fields, selection)
        except StoreError:
            # Results that are short of fields are deleted: the data store may have them another time.
            for cached in requests:
                with cached.path.open("rb") as stream:
                    held = eccodes.codes_count_in_file(stream)
                if held < cached.planned.fields:
                    cached.delete()
            raise
        # What was chosen because nobody said otherwise.
        notes = list(opened.notes)
        if request.variables is None:
            notes.append(f"variables chosen by {selection.product.name}, as none were named")
        if request.levels is None and selection.atmospheric:
            notes.append(f"levels chosen as Aurora's, as none were named: {listed(selection.levels)} hPa")
        yield dataclasses.replace(
            opened,
            files=tuple(cached.facts() for cached in requests),
            notes=tuple(notes),
            licence=selection.product.credit,
            # All that will be fetched has been.
            requests=0,
            download_bytes=0,
        )


def _fetch(selection: FieldSelection, requests: Sequence[CachedRequest]) -> None:
    """Fetch what the cache lacks."""
    missing = [cached.planned for cached in requests if not cached.path.is_file()]
    if missing and offline():
        msg = (
            f"{len(missing)} of {len(requests)} results of {selection.product.name} are not in the cache, the first "
            f"for {missing[0]}, and KIT_OFFLINE is set"
        )
        raise RegistryError(msg)
    # The package is needed only where something is fetched.
    watch = current()
    if missing:
        load_client()
        size = readable(sum(planned.size for planned in missing))
        watch.said(f"{selection.product.name}: {len(missing)} requests, about {size}")
    fetch_all(requests, lambda: Service(find_access(selection.product.store), LIMITS, watch), watch, LIMITS, POLLING)


def _check(fields: Mapping[str, xr.DataArray], selection: FieldSelection) -> None:
    """Compare what came with what was asked.

    Raises:
        StoreError: a variable, a level or a time is missing; names it.
    """
    product = selection.product.name
    advice = (
        "What is short of fields was deleted from the cache, so that the same command asks for it anew; to have all "
        f"of it anew, delete {folder()}"
    )
    asked: dict[str, Times] = dict.fromkeys((*selection.variables, *selection.atmospheric), selection.times)
    # Running totals have become sums that end at the times of states.
    ends = selection.times if selection.product.totals_since_midnight else selection.hours
    asked |= dict.fromkeys(selection.accumulated, ends)
    # The data store may not have the latest times yet, and sends those that it has.
    statics = [STATIC_PREFIX + name for name in selection.statics]
    if missing := [name for name in (*asked, *statics) if name not in fields]:
        msg = (
            f"{product}: the results lack {', '.join(missing)}, which were asked for; they hold "
            f"{', '.join(sorted(fields))}. {advice}"
        )
        raise StoreError(msg)
    for name, times in asked.items():
        wanted = np.array([moment.replace(tzinfo=None) for moment in times], dtype="datetime64[s]")
        lost = wanted[~np.isin(wanted, fields[name]["time"].values.astype("datetime64[s]"))]
        if lost.size:
            msg = (
                f"{product}: {lost.size} of {wanted.size} times of {name} are missing, the first at {lost[0]}; the "
                f"data store may not have them yet: end --times earlier. {advice}"
            )
            raise StoreError(msg)
        if name in selection.atmospheric:
            lacking = set(selection.levels).difference(fields[name]["level"].values.tolist())
            if lacking:
                msg = f"{product}: {name} lacks the levels {listed(sorted(lacking))} hPa. {advice}"
                raise StoreError(msg)

"""Requests that bring what a build wants: how many, for what, and how large.

Nothing here asks anybody: a plan follows from the settings alone.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

from kit.data.sources.base import Request
from kit.data.sources.cds.forecasts import Forecasts, by_leads, chosen_leads, of_states, of_sums
from kit.data.sources.cds.products import CdsProduct, Times, blocks, dated, product_of, request_name
from kit.data.statics import CLASSES, DERIVED
from kit.data.store.format import STATIC_PREFIX, listed
from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE, Kind, lookup
from kit.io.errors import SettingsError
from kit.io.hashes import sha256_of_text

LEVELS = (50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 400.0, 500.0, 600.0, 700.0, 850.0, 925.0, 1000.0)
"""In hPa; those that Aurora's published weights know, for who does not say which."""
MOST_FIELDS = 5000
"""In one request. The Climate Data Store refuses "too large" ones by a cost that it does not publish; of hourly ERA5,
users report 5,952 fields as taken and 8,928 as refused."""
MOST_BYTES = 4 * 10**9
"""In one result, as estimated: what one cut, one failed request or one full disk costs at most."""
_BYTES_PER_POINT = 2
"""ERA5 and CAMS pack values into 16 bits."""
_HEADER = 200
"""Bytes of a GRIB message beside its values, roughly."""
_WAVES = tuple(name for name, variable in SURFACE.items() if any(140000 < n < 141000 for n in variable.param_ids))
_HOUR = timedelta(hours=1)
_TABLES = {"static": STATIC, "surface": SURFACE, "atmospheric": ATMOSPHERIC}

Area = tuple[float, float, float, float]


@dataclass(frozen=True)
class Planned:
    """One request.

    Attributes:
        dataset: whom it is put to.
        inputs: the request itself, as the data store takes it.
        fields: that it will bring.
        size: of its result in bytes, as estimated.
    """

    dataset: str
    inputs: dict[str, Any]
    fields: int
    size: int

    @property
    def digest(self) -> str:
        """By which its result is known in the cache: SHA-256 of data set and request, shortened."""
        text = json.dumps([self.dataset, self.inputs], sort_keys=True, separators=(",", ":"))
        return sha256_of_text(text)[:32]

    def __str__(self) -> str:
        if "date" in self.inputs:
            when = self.inputs["date"][0]
        else:
            when = f"{self.inputs['year'][0]}-{self.inputs['month'][0]}"
        return f"{self.dataset} of {when} ({self.fields} fields)"


@dataclass(frozen=True)
class FieldSelection:
    """What is asked of a product.

    Attributes:
        product: what it is asked of.
        variables: without levels, each value of one moment.
        accumulated: without levels, each value of the hour before its time.
        atmospheric: on levels.
        statics: without prefix.
        levels: in hPa.
        times: of the states.
        hours: at which accumulated variables are needed: those of the states, and those between or before.
        area: north, west, south, east of what is asked, on points of the grid; None for the globe.
        forecasts: that bring the states, by their starts; of analyses all leads are 0.
        totals: forecasts that bring what accumulates since their start; empty where it does otherwise.
    """

    product: CdsProduct
    variables: tuple[str, ...]
    accumulated: tuple[str, ...]
    atmospheric: tuple[str, ...]
    statics: tuple[str, ...]
    levels: tuple[float, ...]
    times: Times
    hours: Times
    area: Area | None
    forecasts: Forecasts
    totals: Forecasts

    @property
    def points(self) -> int:
        """Of one field."""
        spacing = self.product.spacing
        if self.area is None:
            return (round(180 / spacing) + 1) * round(360 / spacing)
        north, west, south, east = self.area
        return (round((north - south) / spacing) + 1) * (round((east - west) / spacing) + 1)


def select(path: str, request: Request) -> FieldSelection:
    """Choose what a build wants of a product.

    Raises:
        SettingsError: there is no such product or variable, no time is named, or the choice cannot be served.
    """
    product = product_of(path)
    names = product.variables
    if request.variables is not None:
        names = tuple(sorted(request.variables))
    elif not names:
        msg = f"--path {product.name} needs --variables: the kit does not know what is wanted of it"
        raise SettingsError(msg)
    by_kind: dict[str, list[str]] = {"surface": [], "atmospheric": []}
    for name in names:
        by_kind[_kind(name, product)].append(name)
    surface, atmospheric = tuple(by_kind["surface"]), tuple(by_kind["atmospheric"])
    accumulated = tuple(name for name in surface if SURFACE[name].accumulated)
    statics = _statics(product, request)
    leads: tuple[int, ...] = ()
    if request.leads is not None:
        leads = chosen_leads(product, request.leads, on_levels=bool(atmospheric))
    if accumulated and product.why_not_accumulated and not any(leads):
        msg = f"{product.name} has no {', '.join(accumulated)} that add up: {product.why_not_accumulated} leave it out"
        raise SettingsError(msg)
    # ERA5's wave model has a grid of its own, in the same data set.
    waves = [name for name in surface if name in _WAVES]
    others = [name for name in (*surface, *atmospheric, *statics) if name not in waves]
    if waves and others and product.store == "CDS":
        msg = (
            f"{', '.join(waves)} come on the grid of ERA5's wave model (0.5 degrees), {', '.join(others)} on that of "
            "its atmosphere (0.25 degrees): a store has one grid. Build one store of each, with statics of their own"
        )
        raise SettingsError(msg)
    levels: tuple[float, ...] = ()
    if atmospheric:
        levels = tuple(sorted(request.levels or LEVELS))
    elif request.levels:
        msg = f"--levels {listed(request.levels)} has no effect: none of {', '.join(names)} lies on levels"
        raise SettingsError(msg)
    times = hours = _times(product, request, leads)
    states, sums = of_states(times, product.hours, leads or (0,)), Forecasts()
    if accumulated and leads:
        sums = of_sums(times, product.hours, leads, request.step, ", ".join(accumulated))
    if accumulated and product.totals_since_midnight:
        # Each day is a forecast of 24 hours.
        days = of_sums(times, (0,), range(25), request.step, ", ".join(accumulated))
        hours = tuple(sorted({day + lead * _HOUR for day, leads_of_day in days.items() for lead in leads_of_day}))
    elif product.hours == tuple(range(24)) and request.step is not None:
        # The hours of the windows that end at the times of states.
        hours = tuple(sorted({moment - back * _HOUR for moment in times for back in range(request.step)}))
    return FieldSelection(
        product=product,
        variables=tuple(name for name in surface if name not in accumulated),
        accumulated=accumulated,
        atmospheric=atmospheric,
        statics=statics,
        levels=levels,
        times=times,
        hours=hours,
        area=_area(request.region, product.spacing),
        forecasts=states,
        totals=sums,
    )


def plan(selection: FieldSelection) -> tuple[Planned, ...]:
    """Split what is wanted into requests: by month and kind, none of them too large.

    Returns:
        Those of static fields first, then in the order of time.
    """
    product, states = selection.product, selection.variables
    first: Forecasts = {next(iter(selection.forecasts)): (0,)}
    sums, totals = selection.accumulated, selection.totals
    if not totals and selection.hours == selection.times:
        # Sums of the step of the data are asked for together with the states.
        states, sums = (*states, *sums), ()
    elif not totals:
        totals = dict.fromkeys(selection.hours, (0,))
    return (
        *_split(selection, product.surface, "static", selection.statics, first),
        *_split(selection, product.surface, "surface", states, selection.forecasts),
        *_split(selection, product.surface, "surface", sums, totals),
        *_split(selection, product.levels, "atmospheric", selection.atmospheric, selection.forecasts),
    )


def _kind(name: str, product: CdsProduct) -> str:
    """Return whether a variable lies on levels in a product: ``surface`` or ``atmospheric``."""
    surface, atmospheric = lookup(name, "surface"), lookup(name, "atmospheric")
    for variable, dataset in ((surface, product.surface), (atmospheric, product.levels)):
        if variable is not None and dataset:
            # For its refusal of what the data stores have no name for.
            request_name(variable, product)
            return variable.kind
    if surface or atmospheric:
        where = "without pressure levels" if surface else "on pressure levels"
        msg = f"{product.name} has no variables {where}, and {name} is one; ask for it with another --path"
        raise SettingsError(msg)
    msg = (
        f"{name} is not in the kit's table, so that its name in a request is not known; there are "
        f"{', '.join((*SURFACE, *ATMOSPHERIC))}"
    )
    raise SettingsError(msg)


def _statics(product: CdsProduct, request: Request) -> tuple[str, ...]:
    """List statics to ask for: those from which classes are derived, and none of those that follow from coordinates.

    Raises:
        SettingsError: the product cannot be asked for one, and nobody else has it.
    """
    if request.statics is None:
        if not product.statics and not request.statics_elsewhere:
            msg = f"{product.name} needs --statics: it holds none by itself; the kit derives {', '.join(DERIVED)}"
            raise SettingsError(msg)
        return product.statics
    asked: dict[str, None] = {}
    for static in sorted(name.removeprefix(STATIC_PREFIX) for name in request.statics):
        base, _, number = static.rpartition("_")
        if base not in CLASSES or not number.isdecimal():
            base = static
        if base in DERIVED:
            continue
        variable = STATIC.get(base)
        # What has no parameter number, or lies in a data set without statics, cannot be asked for.
        if variable is not None and variable.param_ids and product.names is not None and product.surface:
            asked[base] = None
        elif not request.statics_elsewhere:
            msg = (
                f"the static variable {base} is none that {product.name} can be asked for; the kit derives "
                f"{', '.join(DERIVED)}; take others from a file with --statics_from"
            )
            raise SettingsError(msg)
    return tuple(asked)


def _times(product: CdsProduct, request: Request, leads: tuple[int, ...]) -> Times:
    """List the valid times of the states, in order."""
    if request.times is None:
        msg = f"--times START/END is needed: {product.name} goes back for decades"
        raise SettingsError(msg)
    at = sorted({(hour + lead) % 24 for hour in product.hours for lead in leads or (0,)})
    # Around midnight too, where there is but one hour a day.
    own = min(later - hour for hour, later in itertools.pairwise([*at, at[0] + 24]))
    step = request.step or 1
    if request.step is not None and request.step % own:
        msg = f"--step {step}h: {product.name} has states every {own} h, which makes no step of {step} h"
        raise SettingsError(msg)
    moment = request.times.start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if moment < request.times.start:
        moment += _HOUR
    held = []
    while moment <= request.times.end:
        if moment.hour in at:
            held.append(moment)
        moment += _HOUR
    # Whole steps from midnight UTC, whatever the first time is; of a lead that reaches none, from the first.
    times = [moment for moment in held if (moment.timestamp() // 3600) % step == 0]
    if leads and not times:
        times = [moment for moment in held if (moment - held[0]) % (step * _HOUR) == timedelta(0)]
    if not times:
        shown = ", ".join(f"{hour:02d}" for hour in at)
        msg = f"--times {request.times}: {product.name} has no state there at a step of {step} h; it has {shown} UTC"
        raise SettingsError(msg)
    return tuple(times)


def _area(region: Area | None, spacing: float) -> Area | None:
    """Widen a region to points of the grid; west in [-180, 180) and east beyond it."""
    if region is None:
        return None
    north, west, south, east = region
    width, west = (east - west) % 360 or 360.0, (west + 180) % 360 - 180
    # Rounded first: 10.000000001 steps are 10.
    first, last = math.floor(round(west / spacing, 6)), math.ceil(round((west + width) / spacing, 6))
    top = min(90.0, math.ceil(round(north / spacing, 6)) * spacing)
    bottom = max(-90.0, math.floor(round(south / spacing, 6)) * spacing)
    # The whole circle has no column twice.
    if (last - first) * spacing >= 360 - spacing / 2:
        first, last = 0, round(360 / spacing) - 1
    return round(top, 6), round(first * spacing, 6), round(bottom, 6), round(last * spacing, 6)


def _split(
    selection: FieldSelection, dataset: str, kind: Kind, names: Sequence[str], forecasts: Forecasts
) -> list[Planned]:
    """Split some variables of one kind into requests."""
    if not names:
        return []
    product = selection.product
    levels = selection.levels if kind == "atmospheric" else ()
    size = _BYTES_PER_POINT * selection.points + _HEADER
    wanted = [request_name(_TABLES[kind][name], product) for name in names]
    planned = []
    for leads, starts in by_leads(forecasts):
        # Each request holds all variables, levels and leads of its times: a time is never divided.
        fields_at_once = len(names) * max(1, len(levels)) * len(leads)
        most = max(1, min(MOST_FIELDS, MOST_BYTES // size) // fields_at_once)
        for days, hours in blocks(starts, most, together=product.dates == "range"):
            inputs = {"variable": wanted, **dated(days, hours, product.dates), **product.extra}
            if any(leads):
                inputs["leadtime_hour"] = [str(lead) for lead in leads]
            if levels:
                inputs["pressure_level"] = [f"{level:g}" for level in levels]
            # It is what the archive holds, counts less towards the limits than NetCDF, and is checked field by field
            # by the source that reads it.
            inputs["data_format"] = "grib"
            if product.store == "CDS":
                # The Atmosphere Data Store has no such choice, and sends GRIB as it is.
                inputs["download_format"] = "unarchived"
            if selection.area is not None:
                inputs["area"] = list(selection.area)
            fields = fields_at_once * len(days) * len(hours)
            planned.append(Planned(dataset, inputs, fields, fields * size))
    return planned

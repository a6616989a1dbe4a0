"""Products of the Copernicus data stores: data sets, their hours, grids and names of variables.

Facts are from the data sets' own pages (``https://cds.climate.copernicus.eu/datasets/...`` and the same at
``https://ads.atmosphere.copernicus.eu``), whose forms show the request that belongs to a choice.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from kit.data.variables import Kind, Variable, lookup
from kit.io.errors import SettingsError

STORES = {
    "CDS": "https://cds.climate.copernicus.eu/api",
    "ADS": "https://ads.atmosphere.copernicus.eu/api",
}
"""Addresses of the Climate Data Store and of the Atmosphere Data Store."""

_WEATHER = ("2t", "10u", "10v", "msl", "t", "u", "v", "q", "z")
_POLLUTION = ("pm1", "pm2p5", "pm10", "tcco", "tc_no", "tcno2", "gtco3", "tcso2", "co", "no", "no2", "go3", "so2")
_EXTRA_NAMES = {"go3": "ozone"}
"""Names in requests that the table's aliases do not tell from others."""
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")


@dataclass(frozen=True)
class CdsProduct:
    """One thing to ask for, which may lie in two data sets.

    Attributes:
        name: what ``--path`` calls it.
        store: of ``STORES``.
        surface: data set of variables without levels; empty if there is none.
        levels: data set of variables on pressure levels; empty if there is none.
        hours: of the day, UTC, at which there are analyses, and forecasts start.
        spacing: of the grid, in degrees.
        dates: how days are written: year, month and day apart, or ``date`` as START/END.
        extra: further parameters of each request.
        surface_leads: hours between leads without pressure levels; 0 if there are no forecasts.
        level_leads: the same on pressure levels.
        longest_lead: of its forecasts, in hours.
        totals_since_midnight: whether its accumulations run from 00 UTC of each day, not over an hour.
        why_not_accumulated: why it has no accumulations of one window; empty if it has them.
        names: of statics in requests, where they are not ERA5's; None if the data set holds no statics.
        variables: that are asked for if nobody says which; empty if somebody must.
        statics: likewise.
        credit: licence, and whom to name.
    """

    name: str
    store: Literal["CDS", "ADS"]
    surface: str
    levels: str
    hours: tuple[int, ...] = tuple(range(24))
    spacing: float = 0.25
    dates: Dates = "days"
    extra: Mapping[str, Any] = field(default_factory=dict)
    surface_leads: int = 0
    level_leads: int = 0
    longest_lead: int = 0
    totals_since_midnight: bool = False
    why_not_accumulated: str = ""
    names: Mapping[str, str] | None = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    statics: tuple[str, ...] = ()
    credit: str = ""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Its data sets."""
        return tuple(dict.fromkeys(name for name in (self.surface, self.levels) if name))


_C3S = (
    "CC BY 4.0; contains modified Copernicus Climate Change Service information; neither the European Commission nor "
    "ECMWF is responsible for any use of it"
)
_CAMS = (
    "CC BY 4.0; contains modified Copernicus Atmosphere Monitoring Service information; neither the European "
    "Commission nor ECMWF is responsible for any use of it"
)
_OF_CAMS = {"z": "surface_geopotential", "lsm": "land_sea_mask"}

_PRODUCTS = (
    CdsProduct(
        name="era5",
        store="CDS",
        surface="reanalysis-era5-single-levels",
        levels="reanalysis-era5-pressure-levels",
        extra={"product_type": ["reanalysis"]},
        variables=_WEATHER,
        statics=("z", "lsm", "slt"),
        credit=f"{_C3S}; Hersbach et al. (2023), DOI 10.24381/cds.adbb2d47 and 10.24381/cds.bd0915c6",
    ),
    CdsProduct(
        name="era5-land",
        store="CDS",
        surface="reanalysis-era5-land",
        levels="",
        spacing=0.1,
        totals_since_midnight=True,
        names=None,
        credit=f"{_C3S}; Munoz Sabater (2019), DOI 10.24381/cds.e2161bac",
    ),
    CdsProduct(
        name="cams",
        store="ADS",
        surface="cams-global-atmospheric-composition-forecasts",
        levels="cams-global-atmospheric-composition-forecasts",
        hours=(0, 12),
        spacing=0.4,
        dates="range",
        extra={"type": ["forecast"], "leadtime_hour": ["0"]},
        # "Temporal resolution" and "forecast period" on the data set's page.
        surface_leads=1,
        level_leads=3,
        longest_lead=120,
        why_not_accumulated="nothing has added up yet at the beginning of a forecast; choose later leads, such as "
        "--lead 0h/12h, or",
        names=_OF_CAMS,
        variables=(*_WEATHER, *_POLLUTION),
        statics=("z", "lsm"),
        credit=_CAMS,
    ),
    CdsProduct(
        name="cams-eac4",
        store="ADS",
        surface="cams-global-reanalysis-eac4",
        levels="cams-global-reanalysis-eac4",
        hours=tuple(range(0, 24, 3)),
        spacing=0.75,
        dates="range",
        why_not_accumulated="it is made of analyses, which accumulate nothing;",
        names=_OF_CAMS,
        variables=(*_WEATHER, *_POLLUTION),
        statics=("z", "lsm"),
        credit=f"{_CAMS}; Inness et al. (2019), DOI 10.5194/acp-19-3515-2019",
    ),
)
PRODUCTS = {product.name: product for product in _PRODUCTS}
"""What the kit knows by name."""


def product_of(path: str) -> CdsProduct:
    """Find what ``--path`` asks for: a product by name, one of its data sets, or any other data set.

    Of a data set that the kit does not know, it is assumed that requests are written as for ERA5 (at the Climate Data
    Store) or as for CAMS (if its name begins with ``cams-``, at the Atmosphere Data Store), on a grid of 0.25 degrees
    at every hour; the data store says so if that is not true.

    Raises:
        SettingsError: it is no name of a data set.
    """
    if path in PRODUCTS:
        return PRODUCTS[path]
    for product in _PRODUCTS:
        if path not in product.datasets:
            continue
        # CAMS has one data set for both kinds, ERA5 one for each.
        kinds: list[Kind] = []
        surface = levels = ""
        statics: tuple[str, ...] = ()
        if path == product.surface:
            surface, statics = path, product.statics
            kinds.append("surface")
        if path == product.levels:
            levels = path
            kinds.append("atmospheric")
        variables = tuple(name for name in product.variables if any(lookup(name, kind) for kind in kinds))
        return replace(product, name=path, surface=surface, levels=levels, variables=variables, statics=statics)
    if not _ID.fullmatch(path):
        msg = (
            f"--path {path!r}: --source cds wants {', '.join(PRODUCTS)}, or the name of a data set of the Climate or "
            "the Atmosphere Data Store as it stands in its page's address, such as reanalysis-era5-single-levels"
        )
        raise SettingsError(msg)
    # Of an unknown data set nothing but its name is known: fields that it does not have are refused by the data store.
    like = PRODUCTS["cams-eac4" if path.startswith("cams-") else "era5"]
    return replace(
        like, name=path, surface=path, levels=path, hours=tuple(range(24)), spacing=0.25, extra={}, variables=(),
        statics=(), why_not_accumulated="", credit=f"see the page of {path}; {like.credit.split(';')[1].strip()}",
    )  # fmt: skip


def request_name(variable: Variable, product: CdsProduct) -> str:
    """Name a variable of the kit's table as a data store does: by ERA5's long name, which is among the aliases.

    Raises:
        SettingsError: it has no such name.
    """
    if variable.kind == "static" and product.names and variable.name in product.names:
        return product.names[variable.name]
    slug = variable.long_name.lower().replace(" ", "_")
    for alias in variable.aliases:
        # Aliases are GRIB's short names, NCAR's var_167 and WeatherBench's names with a window, too.
        words = "_" in alias and not alias.startswith("var_") and not alias.endswith("_1h")
        if words or alias == slug or (alias.isalpha() and len(alias) > 6):
            return alias
    if variable.name in _EXTRA_NAMES:
        return _EXTRA_NAMES[variable.name]
    msg = f"{variable.name}: the Copernicus data stores have no name for it that the kit knows; leave it out"
    raise SettingsError(msg)


# Times as requests name them: days of a month and hours of a day, each day with the same hours.

T = TypeVar("T")
Times = tuple[datetime, ...]
Dates = Literal["days", "range"]
"""How days are written: year, month and day apart, or ``date`` as START/END."""


def blocks(times: Times, most: int, *, together: bool) -> list[tuple[tuple[datetime, ...], tuple[int, ...]]]:
    """Group times into days of one month with the same hours, at most so many times in a block.

    Args:
        times: in order.
        most: times in a block.
        together: the days of a block must follow each other.
    """
    # A request names days and hours apart, and brings every hour of every day.
    hours_of_days: dict[datetime, list[int]] = {}
    for moment in times:
        hours_of_days.setdefault(moment.replace(hour=0), []).append(moment.hour)
    groups: dict[tuple[int, ...], list[list[datetime]]] = {}
    for day, hours in hours_of_days.items():
        runs = groups.setdefault((day.year, day.month, *hours), [[]])
        if together and runs[-1] and day - runs[-1][-1] != timedelta(days=1):
            runs.append([])
        runs[-1].append(day)
    found = []
    for (_, _, *hours), runs in groups.items():
        for run, some in itertools.product(runs, _even_parts(hours, most)):
            found += [(days, some) for days in _even_parts(run, max(1, most // len(some)))]
    return sorted(found)


def _even_parts(items: Sequence[T], most: int) -> list[tuple[T, ...]]:
    """Divide a list into parts of nearly the same length, none longer than that."""
    count = math.ceil(len(items) / most)
    edges = [round(index * len(items) / count) for index in range(count + 1)]
    return [tuple(items[start:end]) for start, end in itertools.pairwise(edges)]


def dated(days: Sequence[datetime], hours: Sequence[int], form: Dates) -> dict[str, Any]:
    """Write the part of a request that says when."""
    first, last = days[0], days[-1]
    when: dict[str, Any] = {"date": [f"{first:%Y-%m-%d}/{last:%Y-%m-%d}"]}
    if form == "days":
        when = {"year": [f"{first:%Y}"], "month": [f"{first:%m}"], "day": [f"{day:%d}" for day in days]}
    return when | {"time": [f"{hour:02d}:00" for hour in hours]}

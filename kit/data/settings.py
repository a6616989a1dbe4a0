"""Settings of data: the store that is read, the part of it, and what a store is built from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_settings import CliPositionalArg

from kit.data.infill_rules import Rules
from kit.data.products import PRODUCTS, LeadRange, Windows
from kit.registry.settings import RegistrySettings

Codec = Literal["fast", "small", "none"]
"""How a store's chunks are packed."""


@dataclass(frozen=True)
class Period:
    """An inclusive range of times, UTC: ``START/END`` in ISO 8601, where a year or a month alone is all of it."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, value: Any) -> Period:
        """Read ``START/END``; naive times are UTC.

        Raises:
            ValueError: the text is not two ISO 8601 times in order.
        """
        if isinstance(value, cls):
            return value
        msg = f"expected START/END in ISO 8601, such as 2020-01-01/2020-12-31T18, got {value!r}"
        if not isinstance(value, str) or value.count("/") != 1:
            raise ValueError(msg)
        first, last = value.split("/")
        try:
            start, end = _utc(first), _utc(last, at_end=True)
        except ValueError as error:
            raise ValueError(msg) from error
        if start > end:
            msg += ": it ends before it starts"
            raise ValueError(msg)
        return cls(start, end)

    def __str__(self) -> str:
        return "/".join(moment.strftime("%Y-%m-%dT%H:%M") for moment in (self.start, self.end))


def _utc(text: str, *, at_end: bool = False) -> datetime:
    """Read a time; of a year or a month its first, or at the end its last minute."""
    found = re.fullmatch(r"(\d{4})(?:-(\d{2}))?", text.strip())
    if found is None:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    year, month = found.groups()
    if not at_end:
        return datetime(int(year), int(month or 1), 1, tzinfo=UTC)
    # The minute before the next month; 31 days after the first of any month lies in the next one.
    following = datetime(int(year), int(month or 12), 1, tzinfo=UTC) + timedelta(days=31)
    return following.replace(day=1) - timedelta(minutes=1)


TimeRange = Annotated[
    Period,
    BeforeValidator(Period.parse, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


def check_region(region: tuple[float, float, float, float] | None, setting: str) -> None:
    """Check north, west, south and east by themselves.

    Raises:
        ValueError: there is no such region; names the setting.
    """
    if region is None:
        return
    # West may be greater than east: the box then crosses Greenwich.
    north, west, south, east = region
    if not -90 <= south <= north <= 90:
        msg = f"{setting}: north {north:g} and south {south:g} must be in [-90, 90], the larger one first"
        raise ValueError(msg)
    if west == east or not (abs(west) <= 360 and abs(east) <= 360):
        msg = (
            f"{setting}: west {west:g} and east {east:g} must be two different longitudes in [-360, 360]; the "
            "whole circle is 0 to 360"
        )
        raise ValueError(msg)


class DataSettings(BaseModel):
    """Which store is trained on, and which part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str = "era5-sample"
    """A store's folder, or the name of a registry entry that the kit builds into one."""
    region: tuple[float, float, float, float] | None = None
    """North, west, south, east in degrees; the whole store by default. Where west is greater than east, the box
    crosses Greenwich."""
    halo: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Degrees of context around ``data.region``: the model sees them; losses and scores are over the region alone."""
    variables: tuple[str, ...] | None = None
    """Surface and atmospheric variables by Aurora's short names; by default all that the store holds."""
    levels: tuple[float, ...] | None = None
    """Pressure levels in hPa; by default all that the store holds."""
    statics: tuple[str, ...] | None = None
    """Static variables without the ``static_`` prefix; by default all that the store holds."""
    accept: tuple[str, ...] = ()
    """Errors of the store's checks to train in spite of, by name, such as ``nan:2t``; each must have been found."""
    train: TimeRange | None = None
    """Times to train on, ``START/END`` inclusive; by default the store's own split."""
    valid: TimeRange | None = None
    """Times to validate on; by default the store's own split."""
    test: TimeRange | None = None
    """Times that evaluation scores; by default the store's own split."""
    history: PositiveInt = 2
    """States that the model sees, the last one being the initial time."""
    batch_size: PositiveInt = 1
    """Pairs per forward pass; of processes that train together, all of theirs."""
    workers: int = Field(default=0, ge=0)
    """Processes that read ahead; with 0 up to four threads of the training process do, about as fast."""

    @model_validator(mode="after")
    def _check_region(self) -> DataSettings:
        if self.region is None and self.halo:
            msg = f"data.halo {self.halo:g} has no effect without data.region: everything is scored; leave it out"
            raise ValueError(msg)
        check_region(self.region, "data.region")
        return self


# Settings of ``kit data build``: what is read, what is taken of it, where the store goes.

SourceKind = Literal["netcdf", "grib", "files", "pickle", "zarr", "cds", "hrrr"]
SOURCES: tuple[str, ...] = get_args(SourceKind)


def _hours(value: Any) -> Any:
    # TOML and the command line give ``6h``, Python a duration.
    if isinstance(value, timedelta):
        value = f"{value.total_seconds() / 3600:g}"
    found = re.fullmatch(r"(\d+) ?(?:h|hours?)?", str(value).strip())
    if found is None or int(found[1]) == 0:
        msg = f"expected whole hours such as 6h, got {value!r}"
        raise ValueError(msg)
    return int(found[1])


Hours = Annotated[int, BeforeValidator(_hours, json_schema_input_type=str), PlainSerializer(lambda h: f"{h}h")]


# They are no part of a build's plan: whoever goes on with it may choose others.
_CARRIED_OUT = ("path", "out", "workers", "scheduler", "append", "restart", "registry")
"""Settings that say how a build is carried out, and not what is built."""


class BuildSettings(BaseModel):
    """What a store is built from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    # The field is a text, because ``Path`` would take one of the slashes of ``https://`` away.
    @field_validator("path", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    source: SourceKind
    """Kind of the data: ``netcdf`` (a folder, a file, or a zip as the CDS delivers it), ``grib`` (a folder or a file
    of GRIB 1 or 2), ``files`` (NetCDF and GRIB that lie together), ``pickle``, ``zarr`` (a folder, a zip or an
    address), ``cds`` (asked of the Copernicus data stores), or ``hrrr`` (NOAA's analyses of the United States at
    3 km)."""
    path: str
    """The data: a folder, a file or, of ``zarr``, an address; or the name of a data set or of an entry of the registry
    (``kit data list``), whose files are fetched and verified. For ``cds``: ``era5``, ``era5-land``, ``cams``,
    ``cams-eac4``, or the name of a data set there. For ``hrrr``: the word ``hrrr``."""
    out: Path
    """Folder of the new store; must not exist, except with ``append``."""
    variables: tuple[str, ...] | None = None
    """Surface and atmospheric variables by Aurora's short names; by default all that the kit knows."""
    levels: tuple[float, ...] | None = None
    """Pressure levels in hPa; by default all that the data hold."""
    levels_are: Literal["pressure"] | None = None
    """What levels are of which files say neither unit nor kind: ``pressure``, in hPa; by default they are refused."""
    at_level: float | None = Field(default=None, gt=0, le=1100)
    """Pressure in hPa at which fields lie that come without a level, such as a temperature of the air aloft."""
    region: tuple[float, float, float, float] | None = None
    """North, west, south, east in degrees, as ``data.region``; by default all that the data hold."""
    halo: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Degrees of context to take around ``--region``, for ``data.halo`` in training; it ends where the data end."""
    regrid: float | None = Field(default=None, gt=0, le=90)
    """Degrees between the points of another grid to bring the data to, that of the globe with both poles: 0.4 is 451 x
    900, 0.25 is 721 x 1440; by default the data's own grid."""
    regrid_like: str | None = None
    """A store or a NetCDF file whose grid to bring the data to."""
    regrid_method: Literal["linear", "conservative", "nearest"] | None = None
    """How fields are brought to it; by default states linearly, what is accumulated and shares by area, soil types and
    directions from the nearest point (these in any case)."""
    statics: tuple[str, ...] | None = None
    """Static variables without prefix, from the data or derived from the coordinates (``coslat``,
    ``sinlat``, ``coslon``, ``sinlon``); by default all that the data hold."""
    statics_from: str | None = None
    """A file of static fields on the data's own grid or the globe around it, which stand over those of the data: a
    registry entry such as ``aurora-0.25-static``, a pickle like it, or NetCDF."""
    times: TimeRange | None = None
    """Times to take, ``START/END`` inclusive, such as ``2019/2020`` or ``2019-01-01/2019-03-31T18``; by default all
    that the data hold."""
    step: Hours | None = None
    """Hours between states, such as ``6h``; by default the data's own."""
    lead: LeadRange | None = None
    """Leads of forecasts to take states from: ``6h``, or ``0h/12h`` for a sequence in which each time comes from the
    shortest lead; by default analyses (lead 0) alone, and of what accumulates the shortest lead."""
    product: str | None = None
    """Product that the data are of, where the files do not say: ``era5``, ``era5-land``, ``era5-daily`` (statistics of
    days), ``cams``, ``ifs``, ``gfs`` or ``hrrr``; it says over which hours accumulations add up."""
    window: Windows = ()
    """Hours over which accumulations add up and means are taken, by variable, where neither files nor product say:
    ``tp=1h`` (up to the time stamp), ``tp=24h-after`` (from it on), ``tp=since-00utc``, ``tp=since-start`` (of the
    forecast), ``tp=resets-6h``."""
    infill: Rules = ()
    """How missing values are filled, by variable: ``2t=nearest`` (single points), ``tp=linear-time`` (between the
    states before and after), ``sst=constant:273.15``; by default they stay missing."""
    leave_out_missing: tuple[str, ...] = ()
    """Variables to leave out because the data lack them, or hold nothing but missing values of them."""
    train: TimeRange | None = None
    """Times to train on, ``START/END`` inclusive. When neither this nor the next two are given: the first
    70 % of the states, then 15 % and 15 %."""
    valid: TimeRange | None = None
    """Times to validate on."""
    test: TimeRange | None = None
    """Times that evaluation scores."""
    absent_chunks: tuple[str, ...] = ()
    """Variables of a Zarr store whose absent chunks stand for its fill value, such as ``sst`` where it is missing over
    a whole chunk; of any other an absent chunk is an error."""
    weights: Literal["none", "area"] = "none"
    """How points are weighted in the statistics: ``none``, all alike; ``area``, by the area of their cells, so that a
    grid's crowded poles do not count more than they cover."""
    codec: Codec = "fast"
    """How chunks are packed. ``fast`` is read at the speed of memory; ``small`` takes a tenth to a quarter less room
    and twice the time to read; ``none`` packs nothing, for a disk that is faster than that."""
    workers: int | None = Field(default=None, ge=1)
    """Threads that read, pack and write blocks of states; by default as many as there are processors. Each holds one
    variable of a block."""
    scheduler: str | None = None
    """Address of a ``dask.distributed`` scheduler, such as ``tcp://host:8786``, whose workers write the blocks instead;
    they share the file systems of the data and of the store."""
    append: bool = False
    """Add later times to the store that is at ``out``; no chunk of it is written anew. Its splits stay, but for those
    that are given."""
    restart: bool = False
    """Discard what an interrupted build has left at this place, instead of going on with it."""
    registry: RegistrySettings = RegistrySettings()
    winds_are: Literal["earth", "grid"] | None = None
    """What winds on a grid whose rows are no parallels point along, where the files do not say: ``earth``, east and
    north; ``grid``, the grid's own axes, from which they are turned. It stands over what the files say."""
    leave_out: tuple[str, ...] = ()
    """Variables to leave out of what the data hold, static ones with their prefix, such as ``swh`` of a wave stream
    that lies on another grid."""
    group: tuple[str, ...] = ()
    """Groups of NetCDF-4 files that hold the fields, such as ``data`` or ``forecast/surface``; by default the root."""
    licence: str | None = None
    """Licence or attribution of the data; by default what the files say."""

    @field_validator("product")
    @classmethod
    def _check_product(cls, value: str | None) -> str | None:
        if value is not None and value not in PRODUCTS:
            msg = f"the kit knows no product {value!r}; there are {', '.join(PRODUCTS)}"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> BuildSettings:
        check_region(self.region, "--region")
        both_grids = self.regrid is not None and self.regrid_like is not None
        no_grid = self.regrid is None and self.regrid_like is None
        for refused, msg in (
            (
                self.region is None and self.halo,
                f"--halo {self.halo:g} has no effect without --region: everything is taken; leave it out",
            ),
            (both_grids, "--regrid and --regrid_like name two grids; leave one of them out"),
            (
                self.regrid_method is not None and no_grid,
                "--regrid_method has no effect without --regrid or --regrid_like; leave it out",
            ),
            (
                self.absent_chunks and self.source != "zarr",
                f"--absent_chunks has no effect with --source {self.source}: only Zarr stores have chunks",
            ),
            (
                self.group and self.source not in ("netcdf", "files", "cds"),
                f"--group has no effect with --source {self.source}: it names groups of NetCDF files; leave it out",
            ),
            (
                self.workers is not None and self.scheduler is not None,
                "workers has no effect with scheduler: the cluster's workers write the blocks; leave one of them out",
            ),
        ):
            if refused:
                raise ValueError(msg)
        return self

    def asked(self) -> dict[str, Any]:
        """Return all settings but those of how and where it is done: builds of the same data that agree are alike."""
        return self.model_dump(mode="json", exclude=set(_CARRIED_OUT))


class VerifySettings(BaseModel):
    """What is verified."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: CliPositionalArg[Path]
    """A store's folder."""
    workers: int | None = Field(default=None, ge=1)
    """Threads that read; by default as many as there are processors."""

"""GRIB 1 and 2, as ECMWF, the Climate Data Store and others deliver ERA5 and analyses.

Headers are read first, without the values; then whole states are laid out, whichever files and whichever order their
messages come in, and each message is decoded when its state is written. Own code, not cfgrib's, which builds one
dataset for each set of keys that agree, leaves the rest out with a warning, and goes by short names, which mean
different things to different centres; the figures are in ``scan``.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr

from kit.data.products import product_of_class
from kit.data.source_names import find, find_param
from kit.data.sources.base import (
    Pieces,
    Request,
    SourceData,
    SourceLocation,
    data_files,
    file_facts,
    files_left_out,
)
from kit.data.sources.fields import Note
from kit.data.sources.grib.doubles import by_units
from kit.data.sources.grib.grid import GribGrid
from kit.data.sources.grib.scan import Message, is_grib, scan
from kit.data.sources.grib.values import lazy, same_values
from kit.data.sources.grib.windows import states_of, window_of
from kit.data.sources.grib.winds import along_grid, check_vectors, with_angles
from kit.data.sources.leads import LEAD, WINDOW
from kit.data.sources.netcdf import SUFFIXES as NETCDF_SUFFIXES
from kit.data.sources.winds import OTHER_COMPONENT
from kit.data.store.format import CURVILINEAR, GRID, STATIC_PREFIX, TO_REGULAR_GRID, grid_dimensions, listed
from kit.data.units import canonical_units
from kit.data.variables import Variable
from kit.io.errors import StoreError


@contextmanager
def open_source(paths: Sequence[SourceLocation], request: Request) -> Iterator[SourceData]:
    """Open GRIB data.

    Args:
        paths: files, and folders, in which every file counts that is GRIB by its name or by its first bytes.
        request: what is taken.

    Raises:
        StoreError: no files, a damaged file, or messages that cannot be brought into one form.
        SettingsError: eccodes is not installed.
    """
    files = data_files(paths, "GRIB", ".grib, .grb, .grib2, .grb2, or any that begins with GRIB", is_grib)
    grids: dict[str, GribGrid] = {}
    messages = [message for file in files for message in scan(file, grids)]
    opened = data_of_messages(messages, request, file_facts(files), str(paths[0]))
    yield dataclasses.replace(opened, notes=(*opened.notes, *files_left_out(paths, NETCDF_SUFFIXES)))


def data_of_messages(
    messages: Sequence[Message], request: Request, files: tuple[dict[str, Any], ...], where: str
) -> SourceData:
    """Bring messages into one form, as ``open_source`` does those of its files.

    Args:
        messages: of all files.
        request: what is taken.
        files: their names, hashes and sizes.
        where: they are from, for messages.

    Raises:
        StoreError: there is nothing that could be taken, or not in one form.
    """
    if not messages:
        msg = f"{where}: holds no GRIB message"
        raise StoreError(msg)
    pieces = Pieces(with_product_of(messages, request))
    add_fields(messages, pieces)
    if not pieces.found:
        # Say what there is instead.
        for message in messages:
            if message.grid.problem:
                msg = (
                    f"{message}: {message.short_name} (paramId {message.param}) {message.grid.problem}, and nothing "
                    "else was found that the store could take: it wants rows that go south and columns that go east; "
                    f"{TO_REGULAR_GRID}"
                )
                raise StoreError(msg)
        if request.variables is None:
            notes = " ".join(pieces.notes)
            msg = f"{where}: none of {len(messages)} messages is of a variable that the kit knows. {notes}"
            raise StoreError(msg)
    fields = pieces.merged()
    projection = projection_of_messages(messages, fields)
    return SourceData(
        fields=fields,
        names=tuple(sorted(pieces.names)),
        files=files,
        notes=tuple(pieces.notes),
        projection=projection,
        origins=pieces.origins(),
    )


def with_product_of(messages: Sequence[Message], request: Request) -> Request:
    """Complete a request by the product that the headers of messages name, where they agree and nobody else does."""
    classes = {message.mars_class for message in messages}
    if request.product is not None or len(classes) != 1:
        return request
    return dataclasses.replace(request, product=product_of_class(classes.pop()))


def projection_of_messages(messages: Sequence[Message], fields: Mapping[str, xr.DataArray]) -> Mapping[str, Any]:
    """Return the projection of the messages' grid, as CF's attributes; none for parallels and meridians."""
    # Those need no projection, whatever messages that were left out lie on.
    if any(grid_dimensions(field) == CURVILINEAR for field in fields.values()):
        return next(filter(None, (message.grid.projection for message in messages)), {})
    return {}


# From messages to fields: which belong together, and whether they make whole states.

_MODEL_LEVELS = ("hybrid", "sigma", "eta", "generalVertical")
_FINAL, _PRELIMINARY = "1", "5"


def add_fields(messages: Sequence[Message], pieces: Pieces) -> None:
    """Put messages together, and take the fields that were asked for.

    Args:
        messages: of all files.
        pieces: is given one piece for each variable.

    Raises:
        StoreError: messages of a variable lie on a grid that the store cannot keep, on several grids or model levels,
            are of several members, steps or windows, contradict each other, leave holes, or are components of a wind
            that cannot be turned. Nothing has been decoded but static fields and what came twice.
    """
    groups: dict[str, tuple[Variable | None, list[Message]]] = {}
    for message in messages:
        name, variable = name_of(message)
        if variable is not None and variable.kind == "atmospheric" and not message.on_pressure:
            if pieces.takes(name, known=True):
                _leave_out(name, message, pieces.note)
            continue
        taken = pieces.takes(name, known=variable is not None)
        # A component along the grid's axes is turned together with the other one, whichever was asked for.
        if not taken and name in OTHER_COMPONENT and along_grid(message, pieces.request.winds_are):
            taken = pieces.request.takes(OTHER_COMPONENT[name], known=True)
        if taken:
            groups.setdefault(name, (variable, []))[1].append(message)
    for name, (variable, group) in groups.items():
        _check_alike(name, group, pieces.note)
        check_vectors(name, group, pieces.request.winds_are)
        for part in by_units(name, variable, group, pieces.note):
            if name.startswith(STATIC_PREFIX):
                field = _static(name, part)
            else:
                field = _dynamic(name, variable, part, pieces.note)
            # The name that the table recognises: static variables have their prefix from there.
            field.name = name.removeprefix(STATIC_PREFIX)
            # Where a place is given twice, values may differ by as much.
            field.encoding["scale_factor"] = max(message.packing_step for message in part)
            where = part[0].path.name
            if more := len({message.path.name for message in part}) - 1:
                where += f" and {more} more"
            dataset = field.to_dataset()
            if name in OTHER_COMPONENT and along_grid(part[0], pieces.request.winds_are):
                dataset = with_angles(dataset, part[0].grid)
            pieces.add(dataset, where)


def name_of(message: Message) -> tuple[str, Variable | None]:
    """Name a field as the store does, and say what the table knows of it, by its parameter number alone."""
    variable = find_param(message.param, on_levels=message.on_pressure)
    if variable is None and not message.on_pressure:
        # A quantity of the atmosphere on some other level: its kind says so.
        variable = find_param(message.param, on_levels=True)
    if variable is not None and variable.kind == "static":
        return STATIC_PREFIX + variable.name, variable
    if variable is not None:
        return variable.name, variable
    # A short name that another quantity goes by in the table must not be taken for it.
    known = [find(message.short_name, on_levels=on_levels) for on_levels in (True, False)]
    if message.short_name.isalnum() and known == [None, None]:
        return message.short_name, None
    return f"p{message.param}", None


def _leave_out(name: str, message: Message, note: Note) -> None:
    """Leave out a quantity of the atmosphere that lies on no pressure level; on model levels it is refused."""
    if message.level_type.startswith(_MODEL_LEVELS):
        msg = (
            f"{message}: {name} lies on model levels ({message.level_type} {message.level:g}); the store wants "
            "pressure levels: interpolate the data first, leave these messages out with eccodes' "
            f"`grib_copy -w typeOfLevel!={message.level_type} {message.path.name} NEW.grib`, or name what is wanted "
            "with --variables"
        )
        raise StoreError(msg)
    note(f"{name} on levels of the type {message.level_type} left out: the store wants pressure levels")


def _check_alike(name: str, messages: Sequence[Message], note: Note) -> None:
    """Refuse what cannot be one field: grids, members, kinds of data, levels of a surface variable."""
    first = messages[0]
    for message in messages:
        if message.grid.problem:
            msg = (
                f"{message}: {name} {message.grid.problem}; the store wants rows that follow each other southwards "
                f"and columns that go east: ask for the data on such a grid, or {TO_REGULAR_GRID}"
            )
            raise StoreError(msg)
        if not message.grid.same_points(first.grid):
            msg = (
                f"the grids of two messages of {name} differ: {message} has {message.grid}, {first} has {first.grid}; "
                "give one grid, in files of its own"
            )
            raise StoreError(msg)
        # ECMWF's types of an ensemble's spread, and of its standard deviation.
        if message.data_type in ("es", "ses"):
            msg = f"{message}: {name} is the spread of an ensemble, no state; leave it out with --leave_out {name}"
            raise StoreError(msg)
        if message.grid.note:
            note(f"{message.path.name}: {message.grid.note}")
        if message.grid.northwards and first.grid.curved:
            note("rows flipped so that latitudes decrease")
        elif message.grid.northwards:
            note("latitudes flipped to decrease")
    members = {message.member or 0 for message in messages}
    if len(members) > 1:
        msg = (
            f"{first.path.name}: {name} comes from {len(members)} ensemble members, {min(members)} to "
            f"{max(members)}; give those of one, such as with eccodes' `grib_copy -w number:i={min(members)} "
            f"{first.path.name} NEW.grib`"
        )
        raise StoreError(msg)
    if first.on_pressure:
        return
    # On several levels at a time; what the level is called may change over the years.
    by_time: dict[np.datetime64, Message] = {}
    for message in messages:
        other = by_time.setdefault(message.time, message)
        if (other.level_type, other.level) != (message.level_type, message.level):
            msg = (
                f"{other} and {message} hold {name} at {message.time} on several levels, {other.level_type} "
                f"{other.level:g} and {message.level_type} {message.level:g}, of which the kit knows no better one; "
                f"give one of them, such as with eccodes' `grib_copy -w paramId:i={message.param},"
                f"typeOfLevel={other.level_type},level:i={other.level:g} {message.path.name} ONE.grib` and `grib_copy "
                f"-w paramId:i!={message.param} {message.path.name} OTHERS.grib`, both files of which go in a folder"
            )
            raise StoreError(msg)


def _static(name: str, messages: Sequence[Message]) -> xr.DataArray:
    """Take the one field of a static variable, however often it comes."""
    first = messages[0]
    for message in messages[1:]:
        if not same_values(first, message):
            msg = (
                f"{name.removeprefix(STATIC_PREFIX)} has no pressure levels and so is taken to be static, but "
                f"{message} at {message.time} differs from {first} at {first.time}; a field on a level needs its level"
            )
            raise StoreError(msg)
    return _array(lazy([[first]], np.float64), [first]).isel(time=0, level=0, drop=True)


def _dynamic(name: str, variable: Variable | None, messages: Sequence[Message], note: Note) -> xr.DataArray:
    """Lay out the states of a variable by time and level, [T, C, H, W] or [T, H, W]."""
    accumulated = variable is not None and variable.accumulated
    messages = states_of(name, messages, accumulated, note)
    first = messages[0]
    # By valid time, lead, window and level; what lies on no pressure level has the level 0.
    cells: dict[tuple[np.datetime64, float, float, float], Message] = {}
    for message in messages:
        window = window_of(message) if accumulated else 0.0
        cell = (message.time, message.lead, window, message.level if message.on_pressure else 0.0)
        if cell in cells:
            message = _choose(name, cells[cell], message, note)  # noqa: PLW2901
        cells[cell] = message
    if count := sum(message.version.lstrip("0") == _PRELIMINARY for message in cells.values()):
        note(f"{name}: {count} of {len(cells)} fields are preliminary (ERA5T)")
    states = sorted({cell[:3] for cell in cells})
    levels = sorted({cell[3] for cell in cells})
    # A state is whole or it is none: the store has no missing fields.
    holes = [(*state, level) for state, level in itertools.product(states, levels) if (*state, level) not in cells]
    if holes:
        msg = (
            f"{name}: {len(holes)} of {len(states)} x {len(levels)} fields are missing, the first at "
            f"{holes[0][3]:g} hPa at {holes[0][0]}; the files hold the levels {listed(levels)} hPa. Give all levels "
            "for the same times"
        )
        raise StoreError(msg)
    columns = [[cells[(*state, level)] for level in levels] for state in states]
    # Converted in double precision, then rounded once.
    units_stay = variable is None or canonical_units(first.units) == variable.units
    values = lazy(columns, "f4" if units_stay and not accumulated else "f8")
    field = _array(values, [column[0] for column in columns])
    _, leads, windows = zip(*states, strict=True)
    field = field.assign_coords({LEAD: ("time", np.array(leads))})
    if accumulated:
        field = field.assign_coords({WINDOW: ("time", np.array(windows))})
    elif first.step_type == "avg":
        field.attrs["averaging_hours"] = first.window
    if first.on_pressure:
        return field.assign_coords(level=("level", levels, {"units": "hPa"}))
    return field.isel(level=0)


def _choose(name: str, first: Message, other: Message, note: Note) -> Message:
    """Choose the one of two messages of a field and time that stands."""
    versions = {message.version.lstrip("0"): message for message in (first, other)}
    if set(versions) == {_FINAL, _PRELIMINARY}:
        note("ERA5 and ERA5T combined: preliminary values where there are no final ones")
        return versions[_FINAL]
    if same_values(first, other):
        note(f"{name}: states that come twice, alike, were taken once")
        return first
    level = f" at {other.level:g} hPa" if other.on_pressure else ""
    pairs = [(key, getattr(first, key), getattr(other, key)) for key in ("lead", "version", "data_type")]
    differing = "; ".join(f"{key} {one} and {two}" for key, one, two in pairs if one != two)
    why = f" ({differing})" if differing else ""
    msg = f"{first} and {other} both hold {name}{level} at {other.time}, with different values{why}; remove one of them"
    raise StoreError(msg)


def _array(values: Any, messages: Sequence[Message]) -> xr.DataArray:
    """Give values, [T, C, H, W], their times, their grid and their units."""
    first = messages[0]
    dimensions = CURVILINEAR if first.grid.curved else GRID
    coords = {
        "time": np.array([message.time for message in messages], "datetime64[s]"),
        "latitude": (dimensions if first.grid.curved else "latitude", first.grid.latitude),
        "longitude": (dimensions if first.grid.curved else "longitude", first.grid.longitude),
    }
    attributes = {
        "units": first.units,
        "long_name": first.short_name,
        "GRIB_uvRelativeToGrid": int(first.grid.relative),
        "GRIB_gridType": first.grid.kind,
    }
    return xr.DataArray(values, coords, ("time", "level", *dimensions), attrs=attributes)

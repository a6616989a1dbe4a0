"""Dataset of a store from the fields of a source: variables, levels, times, static fields, filled gaps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from kit.data.infill import fill_missing
from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import SourceData
from kit.data.sources.leads import LEAD
from kit.data.sources.merging import named_by_file
from kit.data.sources.missing_variables import without_missing
from kit.data.statics import choose_statics
from kit.data.store.format import STATIC_PREFIX, listed, period_indices
from kit.data.variables import lookup
from kit.data.windows import at_step, trim
from kit.io.errors import StoreError


def assemble(source: SourceData, settings: BuildSettings, notes: list[str]) -> xr.Dataset:
    """Choose variables, levels, times and static variables, and fill missing values, all lazily.

    Args:
        source: Data as the source found them, on the store's grid.
        settings: Settings of the build.
        notes: List that receives what was done.

    Returns:
        The dataset in the store's form.

    Raises:
        StoreError: the data lack what is asked for, or fields differ in their times or levels.
    """

    def note(text: str) -> None:
        # Many fields give the same note.
        if text not in notes:
            notes.append(text)

    source, settings = without_missing(source, settings, note)
    fields = {name: field for name, field in source.fields.items() if not name.startswith(STATIC_PREFIX)}
    missing = [name for name in settings.variables or () if name not in fields]
    if missing or not fields:
        held = ", ".join(name for name in source.names if not name.startswith(STATIC_PREFIX)) or "none"
        wanted = ", ".join(missing) or "that the kit knows"
        msg = f"the data lack the variables {wanted}; they hold {held}. {' '.join(source.notes)}".rstrip()
        raise StoreError(msg)
    for name, field in fields.items():
        accumulated = "accumulation_hours" in field.attrs
        if "level" not in field.dims:
            variable = lookup(name, "surface")
            accumulated = accumulated or (variable is not None and variable.accumulated)
        with named_by_file(source.origins.get(name, "")):
            chosen = _on_levels(field, settings.levels)
            fields[name] = at_step(chosen, accumulated=accumulated, hours=settings.step, note=note)
    # Sums first, then times: a window may begin before the first time that is taken.
    fields = trim(fields, note)
    for name, field in fields.items():
        with named_by_file(source.origins.get(name, "")):
            fields[name] = _with_leads(_in_times(field, settings.times))
    _check_same_coordinates(fields, source.origins)
    for where, on_levels in (("on pressure levels", True), ("at the surface", False)):
        if not any(("level" in field.dims) == on_levels for field in fields.values()):
            note(f"no variable {where}: Aurora needs at least one to train; give files of the same grid and times")
    statics = choose_statics(source.fields, next(iter(fields.values())), settings.statics, note, source.names)
    dataset = xr.Dataset({**fields, **statics})
    for rule in settings.infill:
        with named_by_file(source.origins.get(rule.variable, "")):
            dataset = fill_missing(dataset, (rule,), note)
    return dataset


def _on_levels(field: xr.DataArray, levels: Sequence[float] | None) -> xr.DataArray:
    """Select levels in hPa, in increasing order; a field without levels stays as it is."""
    if levels is None or "level" not in field.dims:
        return field
    held = field["level"].values.tolist()
    missing = [level for level in levels if level not in held]
    if missing:
        msg = f"{field.name} lacks the levels {listed(missing)} hPa; the data hold {listed(held)}"
        raise StoreError(msg)
    return field.isel(level=[held.index(level) for level in sorted(set(levels))])


def _with_leads(field: xr.DataArray) -> xr.DataArray:
    """State from which leads the states are, in hours, where that is known."""
    if LEAD not in field.coords:
        return field
    found = sorted(set(np.nan_to_num(field[LEAD].values).tolist()))
    leads = [int(lead) if lead.is_integer() else lead for lead in found]
    stated = leads if len(leads) > 1 else leads[0]
    return field.drop_vars(LEAD).assign_attrs(lead_hours=stated)


def _in_times(field: xr.DataArray, period: Period | None) -> xr.DataArray:
    """Select the states inside a period."""
    if period is None:
        return field
    times = field["time"].values.astype("datetime64[s]")
    inside = period_indices(times, period)
    if not inside.size:
        msg = f"{field.name}: no state in --times {period}; the data hold {_described(times)}"
        raise StoreError(msg)
    return field.isel(time=inside)


def _check_same_coordinates(fields: Mapping[str, xr.DataArray], origins: Mapping[str, str]) -> None:
    for coordinate in ("time", "level"):
        first = None
        for name, field in fields.items():
            if coordinate not in field.dims:
                continue
            values = field[coordinate].values
            if first is None:
                first = (name, values)
            elif not np.array_equal(values, first[1]):
                msg = (
                    f"{first[0]} and {name} differ in their {coordinate}s: {_described(first[1])}; "
                    f"{_described(values)}{_origins((first[0], name), origins)}. Give both for the same ones, or "
                    "choose with --times, --step, --levels or --variables"
                )
                raise StoreError(msg)


def _origins(names: Sequence[str], origins: Mapping[str, str]) -> str:
    """Say which files fields are from, where that is known."""
    known = [f"{name} is from {origins[name]}" for name in names if name in origins]
    return f" ({', '.join(known)})" if known else ""


def _described(values: Any) -> str:
    if np.issubdtype(values.dtype, np.datetime64):
        minutes = values.astype("datetime64[m]")
        return f"{len(values)} from {minutes[0]} to {minutes[-1]}"
    return f"{listed(values.tolist())} hPa"

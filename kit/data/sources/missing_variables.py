"""Variables that are left out because the data lack them, which is done only for those that were named."""

import dataclasses

import numpy as np
import xarray as xr

from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import SourceData
from kit.data.sources.fields import Note
from kit.data.store.format import STATIC_PREFIX, period_indices
from kit.io.errors import SettingsError


def without_missing(source: SourceData, settings: BuildSettings, note: Note) -> tuple[SourceData, BuildSettings]:
    """Leave out the variables of ``--leave_out_missing``, and say why.

    Args:
        source: Data as the source found them.
        settings: Settings of the build.
        note: Takes which variables were left out.

    Returns:
        The data without them, and settings that do not ask for them.

    Raises:
        SettingsError: One of them is there, with values, or nobody asked for it.
    """
    requested = {*(settings.variables or ()), *(STATIC_PREFIX + name for name in settings.statics or ())}
    fields = dict(source.fields)
    for name in settings.leave_out_missing:
        field = source.fields.get(name)
        if field is None:
            if name not in requested:
                msg = (
                    f"--leave_out_missing {name} has no effect: the data lack it and nothing asks for it; leave it out"
                )
                raise SettingsError(msg)
            note(f"{name} left out: the data lack it")
            continue
        if _has_value(field, settings.times):
            msg = f"--leave_out_missing {name} has no effect: the data hold values of {name}; leave the setting out"
            raise SettingsError(msg)
        note(f"{name} left out: it holds nothing but missing values")
        fields.pop(name, None)
    # None stands for everything that the data hold, and stays.
    variables, statics, gone = settings.variables, settings.statics, settings.leave_out_missing
    if variables is not None:
        variables = tuple(name for name in variables if name not in gone)
    if statics is not None:
        statics = tuple(name for name in statics if STATIC_PREFIX + name not in gone)
    changed = settings.model_copy(update={"variables": variables, "statics": statics})
    return dataclasses.replace(source, fields=fields), changed


def _has_value(field: xr.DataArray, period: Period | None) -> bool:
    """Whether there is a single value; reads no further than to the first."""
    if "time" not in field.dims:
        return not bool(np.isnan(field.values).all())
    if period is not None:
        field = field.isel(time=period_indices(field["time"].values.astype("datetime64[s]"), period))
    # A chunk holds states that are read together.
    lengths = field.chunks[0] if field.chunks else (1,) * field.sizes["time"]
    start = 0
    for length in lengths:
        block = field.isel(time=slice(start, start + length)).compute(scheduler="synchronous")
        if not np.isnan(block.values).all():
            return True
        start += length
    return False

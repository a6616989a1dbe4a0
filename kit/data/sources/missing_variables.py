"""Variables that are left out because the data lack them, which is done only for those that were named."""

from __future__ import annotations

import dataclasses

import numpy as np
import xarray as xr

from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import SourceData
from kit.data.sources.fields import Note
from kit.data.store.format import STATIC_PREFIX, period_indices
from kit.io.errors import SettingsError

__all__ = ["without_missing"]


def without_missing(source: SourceData, settings: BuildSettings, note: Note) -> tuple[SourceData, BuildSettings]:
    """Leave out the variables of ``--leave_out_missing``, and say why.

    Args:
        source: the data.
        settings: of the build.
        note: is told which were left out.

    Returns:
        The data without them, and settings that do not ask for them.

    Raises:
        SettingsError: one of them is there, with values, or nobody asked for it.
    """
    for name in settings.leave_out_missing:
        field = source.fields.get(name)
        if field is None and name not in _asked(settings):
            msg = f"--leave_out_missing {name} has no effect: the data lack it and nothing asks for it; leave it out"
            raise SettingsError(msg)
        if field is not None and _has_value(field, settings.times):
            msg = f"--leave_out_missing {name} has no effect: the data hold values of {name}; leave the setting out"
            raise SettingsError(msg)
        note(f"{name} left out: {'the data lack it' if field is None else 'it holds nothing but missing values'}")
    gone = frozenset(settings.leave_out_missing)
    fields = {name: field for name, field in source.fields.items() if name not in gone}
    changed = {
        "variables": _kept(settings.variables, gone, ""),
        "statics": _kept(settings.statics, gone, STATIC_PREFIX),
    }
    return dataclasses.replace(source, fields=fields), settings.model_copy(update=changed)


def _asked(settings: BuildSettings) -> frozenset[str]:
    """Names of all that was asked for, as the store has them."""
    statics = (STATIC_PREFIX + name for name in settings.statics or ())
    return frozenset((*(settings.variables or ()), *statics))


def _kept(names: tuple[str, ...] | None, gone: frozenset[str], prefix: str) -> tuple[str, ...] | None:
    return None if names is None else tuple(name for name in names if prefix + name not in gone)


def _has_value(field: xr.DataArray, period: Period | None) -> bool:
    """Whether there is a single value; reads no further than to the first."""
    if "time" not in field.dims:
        return not bool(np.isnan(field.values).all())
    if period is not None:
        field = field.isel(time=period_indices(field["time"].values.astype("datetime64[s]"), period))
    start = 0
    for length in field.chunks[0] if field.chunks else (1,) * field.sizes["time"]:
        block = field.isel(time=slice(start, start + length)).compute(scheduler="synchronous")
        if not np.isnan(block.values).all():
            return True
        start += length
    return False

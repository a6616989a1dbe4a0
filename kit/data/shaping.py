"""The part of the globe that a build takes, on the grid that it wants: what the data give, cropped and regridded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from kit.data.build_settings import BuildSettings
from kit.data.circle import is_closed, western_edge
from kit.data.regridding import Target, regridded
from kit.data.selection import Region, cropped, describe, with_context
from kit.data.sources.base import SourceData
from kit.errors import StoreError

__all__ = ["shaped", "wanted_region"]


def wanted_region(settings: BuildSettings) -> Region | None:
    """What a source is asked for: the region, its halo, and what another grid needs around them.

    Raises:
        StoreError: there is no such grid.
    """
    target, region = _target(settings), settings.region
    if target is None:
        return None if region is None else with_context(region, settings.halo)
    if region is not None:
        return with_context(region, settings.halo + target.margin)
    if target.is_global or is_closed(target.longitude):
        return None
    edge = western_edge(target.longitude)
    corners = target.latitude.max(), target.longitude[edge], target.latitude.min(), target.longitude[edge - 1]
    north, west, south, east = map(float, corners)
    return with_context((north, west, south, east), target.margin)


def shaped(source: SourceData, settings: BuildSettings) -> SourceData:
    """Crop and regrid the fields of a source, lazily.

    Raises:
        StoreError: the region selects nothing; the fields cannot be brought to the grid.
    """
    region, target = wanted_region(settings), _target(settings)
    if not source.fields or (region is None and target is None):
        return source
    notes = list(source.notes)
    facts: dict[str, Any] = {}
    fields = {name: cropped(field, region, settings.path) for name, field in source.fields.items()}
    if target is not None:
        if settings.region is not None:
            _check_margin(next(iter(fields.values())), target)
        fields, facts = regridded(fields, target, settings.regrid_method, notes.append)
    if settings.region is not None:
        inner = with_context(settings.region, settings.halo)
        fields = {name: cropped(field, inner, settings.path) for name, field in fields.items()}
        describe(next(iter(fields.values())), settings.region, settings.halo, notes.append)
    return replace(source, fields=fields, notes=tuple(notes), regridding=facts)


def _target(settings: BuildSettings) -> Target | None:
    if settings.regrid is not None:
        return Target.of_spacing(settings.regrid)
    return None if settings.regrid_like is None else Target.like(settings.regrid_like)


def _check_margin(field: xr.DataArray, target: Target) -> None:
    """Refuse data so coarse that what was taken around the region does not reach the next of their points."""
    axes = [field[name].values for name in ("latitude", "longitude") if field[name].ndim == 1]
    spacing = max((float(np.median(np.abs(np.diff(axis)))) for axis in axes if len(axis) > 1), default=0.0)
    if spacing + target.spacing / 2 > target.margin:
        msg = (
            f"--region with --regrid to {target.told}: the data are {spacing:g} degrees apart, and only "
            f"{target.margin:g} degrees around the region were taken to fill it; regrid without --region, and take the "
            "region in training (data.region)"
        )
        raise StoreError(msg)

"""Levels of files in the store's form: pressures in hPa, increasing; what is none is refused."""

import numpy as np
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.units import canonical_units
from kit.io.errors import StoreError


def order_levels(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Convert levels to hPa and put them in increasing order.

    Raises:
        StoreError: they are no distinct pressures.
    """
    level = dataset["level"]
    values = np.asarray(level.values, dtype=np.float64)
    # Model levels are numbers too, and only the description says that they are no pressures.
    described = f"{level.attrs.get('standard_name', '')} {level.attrs.get('long_name', '')}".lower()
    if "hybrid" in described or "sigma" in described or "model" in described:
        msg = f"{where}: levels are {described.strip()!r}; the store wants pressure levels: interpolate the data first"
        raise StoreError(msg)
    units = canonical_units(str(level.attrs.get("units", "hPa")))
    if units == "Pa":
        note("levels converted from Pa to hPa")
        values = np.round(values / 100, 6)
    elif units not in ("hPa", "1"):
        msg = f"{where}: levels come in {level.attrs['units']!r}; the store wants pressure in hPa or Pa"
        raise StoreError(msg)
    if values.min() <= 0 or values.max() > 1100 or len(np.unique(values)) < len(values):
        found = ", ".join(f"{value:g}" for value in values)
        msg = f"{where}: levels must be distinct pressures between 0 and 1100 hPa, found {found}"
        raise StoreError(msg)
    dataset = dataset.assign_coords(level=("level", values))
    return dataset if (np.diff(values) > 0).all() else dataset.isel(level=np.argsort(values))

"""What the vertical coordinates of files are: pressure, heights, model levels, or nothing that they say.

A coordinate is taken for what its description, its name, its units, its standard name, or the level type of its fields
says, in this order; numbers alone say it only where they cannot be anything else.
"""

import re
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.units import canonical_units, conversion
from kit.io.errors import StoreError

PRESSURE, MODEL, ISENTROPIC, VORTICITY = (
    "pressure",
    "model levels",
    "isentropic surfaces",
    "surfaces of potential vorticity",
)
HEIGHT, DEPTH, SURFACE, BARE = "heights", "depths", "surface", "unknown levels"

_MODEL_WORDS = ("hybrid", "sigma", "model", "eta ", "terrain_following", "terrain following")
_NAMES = (
    (MODEL, r"(model|half|full)_?lev.*|.*hybrid.*|lv_hyb.*|ml|mlevs?|nhy[mi]|bottom_top.*|sigma.*|eta.*|ilev"),
    (MODEL, r"generalvertical.*"),
    (PRESSURE, r"isobaric.*|plevs?_?\w*|p_?levels?\w*|lv_isbl.*|level_?pressure"),
    (PRESSURE, r"(air_?)?press(ure)?s?(_?lev(el)?s?)?|pres(_?lev(el)?s?)?"),
    (ISENTROPIC, r"theta.*|isentropic.*|potential_?temperature.*|lv_thel.*"),
    (VORTICITY, r"potential_?vorticity.*|pvu?|lv_pvl.*"),
    (HEIGHT, r"height.*|altitude.*|lv_htgl.*|lv_htms.*"),
    (DEPTH, r"depth.*|soil.*|lv_dbll.*"),
    (SURFACE, r"surface|mean_?sea.*|entire_?atmosphere.*|atmosphere.*layer|nominal_?top|cloud(base|top).*"),
    (BARE, r"lev(el)?s?|levelist|lvl"),
)
"""Names of coordinates in lower case: of the CDS, cfgrib, CMIP, WRF, NCL and THREDDS."""
_STANDARD_NAMES = {
    "air_pressure": PRESSURE,
    "height": HEIGHT,
    "altitude": HEIGHT,
    "depth": DEPTH,
    "air_potential_temperature": ISENTROPIC,
    "ertel_potential_vorticity": VORTICITY,
}
_LEVEL_TYPES = (
    (PRESSURE, "isobaric"),
    (MODEL, "hybrid"),
    (MODEL, "sigma"),
    (MODEL, "eta"),
    (MODEL, "generalVertical"),
    (ISENTROPIC, "theta"),
    (VORTICITY, "potentialVorticity"),
    (HEIGHT, "heightAbove"),
    (DEPTH, "depthBelow"),
    (SURFACE, "surface"),
    (SURFACE, "meanSea"),
    (SURFACE, "entireAtmosphere"),
    (SURFACE, "nominalTop"),
)
"""Beginnings of ecCodes' ``typeOfLevel``."""
STANDARD_LEVELS = frozenset(
    [1, 2, 3, 5, 7, 10, 20, 30, 50, 70, *range(100, 250, 25), *range(250, 750, 50), *range(750, 1001, 25)]
)
"""ERA5's 37 pressure levels in hPa; ARCO-ERA5 and WeatherBench 2 give them as ``level``, without units."""
_MODEL_LEVELS = 137
"""Levels of ECMWF's model, from the top: as pressures these numbers would reach no further down than that."""
_NCL = re.compile(r"_p\d+_l(\d+)_g[a-z0-9]+$")
_NCL_ISOBARIC = 100


def kind_of(dataset: xr.Dataset | xr.DataArray, name: Hashable) -> str:
    """Tell what a coordinate or dimension counts vertically; empty where it is nothing vertical.

    Args:
        dataset: A file, or one field.
        name: Its dimension or coordinate.
    """
    attributes: dict[str, Any] = {}
    if name in dataset.coords:
        attributes = dict(dataset[name].attrs)
    standard_name = str(attributes.get("standard_name", ""))
    description = f"{standard_name} {attributes.get('long_name', '')} ".lower()
    named = _named(str(name))
    # Model levels are numbers of any unit, pressure's among them, and only the description says what they are.
    is_vertical = bool(named) or "positive" in attributes or attributes.get("axis") == "Z"
    if "formula_terms" in attributes or any(word in description for word in _MODEL_WORDS):
        is_vertical = is_vertical or standard_name.startswith(("atmosphere_", "model_level"))
        return MODEL if is_vertical else ""
    if named not in ("", BARE):
        return named
    if standard_name in _STANDARD_NAMES:
        return _STANDARD_NAMES[standard_name]
    is_dimension = name in dataset.dims
    if is_vertical or (is_dimension and standard_name):
        measured = _measured(str(attributes.get("units", "")), str(attributes.get("positive", "")))
        if measured:
            return measured
    if not is_vertical:
        return ""
    return _of_level_type(dataset, name) or BARE


def _named(name: str) -> str:
    for kind, pattern in _NAMES:
        if re.fullmatch(pattern, name.lower()):
            return kind
    return ""


def _measured(units: str, positive: str) -> str:
    """Tell a kind of level by its units."""
    for kind, target in ((PRESSURE, "hPa"), (HEIGHT, "m"), (ISENTROPIC, "K"), (VORTICITY, "K m2 kg-1 s-1")):
        try:
            conversion("levels", units, target)
        except StoreError:
            continue
        return DEPTH if kind == HEIGHT and positive == "down" else kind
    return ""


def _of_level_type(dataset: xr.Dataset | xr.DataArray, name: Hashable) -> str:
    """Tell a kind of level by the type that all fields along it state."""
    fields = [dataset] if isinstance(dataset, xr.DataArray) else list(dataset.data_vars.values())
    kinds = {level_type(field) for field in fields if name in field.dims}
    return kinds.pop() if len(kinds) == 1 else ""


def level_type(array: xr.DataArray) -> str:
    """Tell what a field lies on by its own words: ecCodes' ``typeOfLevel``, or NCL's ending of names; else empty."""
    stated = str(array.attrs.get("GRIB_typeOfLevel", ""))
    for kind, beginning in _LEVEL_TYPES:
        if stated.startswith(beginning):
            return kind
    of_ncl = _NCL.search(str(array.name).lower())
    if of_ncl is None:
        return ""
    return PRESSURE if int(of_ncl[1]) == _NCL_ISOBARIC else SURFACE


def is_standard(values: npt.NDArray[np.float64]) -> bool:
    """Whether numbers can be nothing but ERA5's pressure levels: at least three, and no model's numbers."""
    distinct = set(values.tolist())
    return len(distinct) >= 3 and distinct <= STANDARD_LEVELS and max(distinct) > _MODEL_LEVELS


def surface_height(array: xr.DataArray) -> float | None:
    """Read the height in metres at which a field lies; 0 at a surface, None where nothing says that it lies at one."""
    found = None
    for name in array.coords:
        coordinate = array[name]
        if coordinate.size != 1 or coordinate.dtype.kind not in "iuf":
            continue
        kind = kind_of(array, name)
        value = float(coordinate.values.ravel()[0])
        if kind == SURFACE or (kind == BARE and value in (0, -1)):
            found = found or 0.0
        if kind == HEIGHT:
            scale = conversion(str(name), str(coordinate.attrs.get("units", "m")), "m")
            found = value * (1.0 if scale is None else scale[0])
    if found is None and level_type(array) in (SURFACE, HEIGHT):
        return 0.0
    return found


def pressure_dimension(array: xr.DataArray) -> Hashable | None:
    """Find the dimension of a field that is pressure; None where it lies on no pressure levels."""
    if "level" in array.dims:
        return "level"
    for name in array.dims:
        if kind_of(array, name) == PRESSURE:
            return name
    return None


def in_hectopascals(coordinate: xr.DataArray) -> npt.NDArray[np.float64]:
    """Return levels in hPa, in their own order; without units, numbers beyond any pressure in hPa are Pa.

    Raises:
        StoreError: the units are none of pressure.
    """
    values = np.asarray(coordinate.values, dtype=np.float64)
    units = canonical_units(str(coordinate.attrs.get("units", "1")))
    if units in ("1", "level"):
        name = str(coordinate.name).lower()
        units = "Pa" if values.max(initial=0) > 1100 or name == "isobaricinpa" else "hPa"
    if units == "Pa":
        return np.round(values / 100, 6)
    change = conversion(f"{coordinate.name} (levels)", units, "hPa")
    return values if change is None else np.round(values * change[0], 6)

"""WRF's own output files (``wrfout``): surface fields in a form that the kit reads, the rest named and left out.

Names, units and meanings are those of WRF's registry (WRF Users' Guide, chapter "WRF Output Fields"). Levels of the
model (``bottom_top``) are no pressures, and its ``T`` is not the temperature, so that nothing on them is taken.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.dates import dates_of_text
from kit.data.sources.fields import Note
from kit.data.sources.winds import ORIGIN, X_ANGLE
from kit.io.errors import StoreError

_GRID = ("south_north", "west_east")
_TIME = "Time"
_TAKEN = {
    "T2": "2t", "U10": "10u", "V10": "10v", "PSFC": "sp", "TSK": "skt", "SEAICE": "ci", "PBLH": "blh", "HGT": "orog",
    "LANDMASK": "lsm",
}  # fmt: skip
"""Surface fields that mean what the kit's table means, with a name of the table."""
_TOTALS = ("RAINC", "RAINNC", "RAINSH", "SNOWNC", "GRAUPELNC", "HAILNC", "SFROFF", "UDROFF", "ACSNOM", "ACSNOW")
_RADIUS = 6370000.0
"""Metres; WRF's Earth is a sphere of that radius."""
_AXES = {"U10": "x_wind", "V10": "y_wind"}
_MERCATOR, _LAMBERT, _POLAR = 3, 1, 2
"""Numbers of ``MAP_PROJ``."""


def is_wrf(dataset: xr.Dataset) -> bool:
    """Return whether a file is WRF's own output, by its title or its dimensions and attributes."""
    title = str(dataset.attrs.get("TITLE", ""))
    is_titled = "WRF" in title or "MAP_PROJ" in dataset.attrs
    return is_titled and set(_GRID) <= set(map(str, dataset.dims))


def surface_fields(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Bring surface fields of WRF's output into a form that the kit reads, still lazy.

    Times are those of ``Times``, leads are counted from the start of the simulation where the file states it; winds are
    given the angles of ``COSALPHA`` and ``SINALPHA``, or the projection.

    Args:
        dataset: The file as xarray opens it.
        where: Name of the file, for messages.
        note: Takes what is left out.

    Raises:
        StoreError: The grid moves with time, or states cannot be dated.
    """
    fields: dict[str, xr.DataArray] = {}
    levels, totals, others = [], [], []
    for key, array in dataset.data_vars.items():
        name, dims = str(key), set(map(str, array.dims))
        is_total = name in _TOTALS or str(array.attrs.get("description", "")).upper().startswith("ACCUMULATED")
        if any(dim.startswith("bottom_top") for dim in dims):
            levels.append(name)
        elif is_total:
            totals.append(name)
        elif name in _TAKEN and dims <= {_TIME, *_GRID}:
            fields[name] = array
        elif set(_GRID) <= dims and name not in ("XLAT", "XLONG", "COSALPHA", "SINALPHA"):
            others.append(name)
    _note_left_out(levels, totals, others, note)
    mapping = _mapping(dataset.attrs)
    for key, array in fields.items():
        attributes = {**array.attrs, "short_name": _TAKEN[key]}
        if key in _AXES:
            attributes["standard_name"] = _AXES[key]
        if mapping:
            attributes["grid_mapping"] = "projection"
        fields[key] = array.assign_attrs(attributes)
    result = xr.Dataset({key: array.drop_vars(list(array.coords)) for key, array in fields.items()})
    if mapping:
        result["projection"] = ((), 0, mapping)
    angles = _constant(dataset, ("COSALPHA", "SINALPHA"), where)
    if angles:
        # Uearth = U COSALPHA - V SINALPHA: the x axis points ALPHA north of east.
        cosine, sine = angles
        if np.abs(np.hypot(cosine, sine) - 1).max() > 1e-3:
            msg = f"{where}: COSALPHA and SINALPHA are no cosine and sine of an angle; mend the file"
            raise StoreError(msg)
        attributes = {"standard_name": X_ANGLE, "units": "degree", ORIGIN: "by the file's COSALPHA and SINALPHA"}
        result[X_ANGLE] = (_GRID, np.degrees(np.arctan2(sine, cosine)), attributes)
    points = _constant(dataset, ("XLAT", "XLONG"), where)
    if not points:
        msg = f"{where}: WRF output without XLAT and XLONG, the points of its grid; write them to the file, too"
        raise StoreError(msg)
    coordinates: dict[str, Any] = {"latitude": (_GRID, points[0]), "longitude": (_GRID, points[1])}
    if _TIME in dataset.dims:
        coordinates["time"] = (_TIME, _times(dataset, where))
    # A restarted run counts from the start of the simulation, whichever file it goes on from.
    start = dataset.attrs.get("SIMULATION_START_DATE", dataset.attrs.get("START_DATE"))
    if start is not None and _TIME in dataset.dims:
        (moment,) = _moments([start], "the attribute of the start of the simulation", where)
        coordinates["forecast_reference_time"] = ((), moment, {"standard_name": "forecast_reference_time"})
        note(f"states of a simulation with WRF that starts at {moment}; times are those that they are valid at")
    result = result.assign_coords(coordinates)
    if _TIME in result.dims:
        result = result.swap_dims({_TIME: "time"})
    return result


def _note_left_out(levels: list[str], totals: list[str], others: list[str], note: Note) -> None:
    if levels:
        note(
            f"left out, on WRF's model levels: {', '.join(sorted(levels))}; interpolate them to pressure levels first, "
            "such as with wrf-python's `interplevel` of `getvar` (tk, uvmet, geopotential), and give that file as well"
        )
    if totals:
        note(
            f"left out, totals since the start of WRF's run: {', '.join(sorted(totals))}; take differences between "
            "output times, and give these, with the hours in the name, such as tp_1h in mm"
        )
    if others:
        note(f"left out, of no use as they are in WRF's output: {', '.join(sorted(others))}")


def _constant(
    dataset: xr.Dataset, names: tuple[str, str], where: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Read two fields that must not change with time, [H, W]; None where the file lacks one."""
    if not set(names) <= set(map(str, dataset.variables)):
        return None
    found = []
    for name in names:
        values = np.asarray(dataset[name].values, dtype=np.float64)
        if values.ndim > len(_GRID):
            if not (values == values[:1]).all():
                msg = (
                    f"{where}: {name} changes with time, as on a nest that moves (or holds missing values); the store "
                    "keeps one grid: regrid the states to a grid that stays, or build from the outer domain"
                )
                raise StoreError(msg)
            values = values[0]
        found.append(values)
    return found[0], found[1]


def _times(dataset: xr.Dataset, where: str) -> npt.NDArray[np.datetime64]:
    """Read when states are valid: from the text of ``Times``, else from ``XTIME``, as xarray decodes it."""
    if "Times" in dataset.variables:
        return _moments(np.atleast_1d(dataset["Times"].values), "Times", where)
    if "XTIME" in dataset.variables and np.issubdtype(dataset["XTIME"].dtype, np.datetime64):
        return np.atleast_1d(dataset["XTIME"].values)
    msg = f"{where}: WRF output without Times, and without an XTIME that says since when; write Times to the file, too"
    raise StoreError(msg)


def _moments(texts: Iterable[Any], what: str, where: str) -> npt.NDArray[np.datetime64]:
    """Read dates as WRF writes them, ``2020-01-01_06:00:00``."""
    moments = []
    for text in texts:
        plain = text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
        if re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d", plain.strip()) is None:
            msg = f"{where}: {what} holds {plain!r}, a date such as 2020-01-01_06:00:00 is expected; mend the file"
            raise StoreError(msg)
        moments.append(plain.strip().replace("_", "T"))
    return dates_of_text(np.array(moments), f"{where}: {what}")


def _mapping(attributes: dict[str, Any]) -> dict[str, Any]:
    """Write WRF's projection as attributes of a CF grid mapping; empty for others than conformal ones."""
    number = int(attributes.get("MAP_PROJ", 0))
    try:
        parallels = [float(attributes["TRUELAT1"]), float(attributes["TRUELAT2"])]
        meridian = float(attributes["STAND_LON"])
    except KeyError:
        return {}
    if number == _LAMBERT:
        return {
            "grid_mapping_name": "lambert_conformal_conic",
            "standard_parallel": parallels if parallels[0] != parallels[1] else parallels[0],
            "longitude_of_central_meridian": meridian,
            "latitude_of_projection_origin": float(attributes.get("MOAD_CEN_LAT", parallels[0])),
            "earth_radius": _RADIUS,
        }
    if number == _POLAR:
        return {
            "grid_mapping_name": "polar_stereographic",
            "straight_vertical_longitude_from_pole": meridian,
            "latitude_of_projection_origin": 90.0 if parallels[0] > 0 else -90.0,
            "standard_parallel": parallels[0],
            "earth_radius": _RADIUS,
        }
    if number == _MERCATOR:
        return {
            "grid_mapping_name": "mercator",
            "standard_parallel": parallels[0],
            "longitude_of_projection_origin": meridian,
            "earth_radius": _RADIUS,
        }
    return {}

"""A grammar of files: one truth in memory, in the forms in which people have it, and what must become of each form.

The truth is a function of place, valid time and lead, so that a field that is flipped, rolled, shifted in time or of
another forecast has other values. Rain is known hour by hour; it is the same in all forecasts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

__all__ = [
    "EPOCHS", "GRAVITY", "GRIDS", "LEAD_UNITS", "LEVELS", "LEVEL_FORMS", "NAMES", "STANDARD_NAMES", "START", "UPPER",
    "Array", "Form", "drawn_form", "expected_states", "flags", "forms", "packing", "problem", "rain", "state",
    "tolerance", "unit_of", "value", "window_of",
]  # fmt: skip

Array = npt.NDArray[np.float64]
START = np.datetime64("2020-02-28T00", "h")
LEVELS = (500.0, 850.0, 1000.0)
GRAVITY = 9.80665
GRIDS = {
    "box": (np.array([50.5, 50.25, 50.0]), np.array([5.0, 5.25, 5.5, 5.75])),
    "globe": (np.array([60.0, 0.0, -60.0]), np.array([0.0, 90.0, 180.0, 270.0])),
    "greenwich": (np.array([50.5, 50.25, 50.0]), np.array([359.5, 359.75, 0.0, 0.25])),
}
UPPER = ("t", "u", "z")
SURFACE = ("2t", "10u", "msl")
_BASE = {"t": 250.0, "u": 5.0, "z": 20000.0, "2t": 280.0, "10u": -3.0, "msl": 101000.0}
_SIZE = {"t": 20.0, "u": 10.0, "z": 3000.0, "2t": 15.0, "10u": 8.0, "msl": 1500.0}

# Names and units.

NAMES: dict[str, dict[str, str]] = {
    "short": {"t": "t", "u": "u", "z": "z", "2t": "2t", "10u": "10u", "msl": "msl", "tp": "tp"},
    "era5": {"t": "t", "u": "u", "z": "z", "2t": "t2m", "10u": "u10", "msl": "msl", "tp": "tp"},
    "long": {
        "t": "temperature", "u": "u_component_of_wind", "z": "geopotential", "2t": "2m_temperature",
        "10u": "10m_u_component_of_wind", "msl": "mean_sea_level_pressure", "tp": "total_precipitation",
    },
    "cmip": {"t": "ta", "u": "ua", "z": "zg", "2t": "tas", "10u": "uas", "msl": "psl", "tp": "tp"},
    "standard": {
        "t": "field1", "u": "field2", "z": "field3", "2t": "t2m", "10u": "u10", "msl": "field4", "tp": "field5",
    },
}  # fmt: skip
STANDARD_NAMES = {
    "t": "air_temperature", "u": "eastward_wind", "z": "geopotential", "msl": "air_pressure_at_mean_sea_level",
    "tp": "lwe_thickness_of_precipitation_amount",
}  # fmt: skip
_KELVIN: dict[str, tuple[float, float]] = {
    "K": (1, 0), "kelvin": (1, 0), "degK": (1, 0), "degC": (1, 273.15), "celsius": (1, 273.15),
    "degree_C": (1, 273.15), "degrees_celsius": (1, 273.15),
}  # fmt: skip
_SPEED: dict[str, tuple[float, float]] = {
    "m s**-1": (1, 0), "m/s": (1, 0), "m s-1": (1, 0), "m s^-1": (1, 0), "km h-1": (1 / 3.6, 0),
}  # fmt: skip
_WATER: dict[str, tuple[float, float]] = {"m": (1, 0), "meters": (1, 0), "mm": (1e-3, 0), "kg m-2": (1e-3, 0)}
UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "t": _KELVIN, "2t": _KELVIN, "u": _SPEED, "10u": _SPEED, "tp": _WATER,
    "z": {"m**2 s**-2": (1, 0), "m2/s2": (1, 0), "m^2 s^-2": (1, 0)},
    "msl": {"Pa": (1, 0), "hPa": (100, 0), "mb": (100, 0), "millibars": (100, 0), "pascal": (1, 0)},
}  # fmt: skip
"""Value in the store's units = value x scale + offset."""
HEIGHT_UNITS = {"m": (GRAVITY, 0.0), "gpm": (GRAVITY, 0.0)}

# Coordinates: the name of the dimension, its attributes, and how many hPa its numbers count.

LEVEL_FORMS: dict[str, tuple[str, dict[str, str], float]] = {
    "old cds": ("level", {"units": "millibars", "long_name": "pressure_level"}, 1.0),
    "new cds": ("pressure_level", {"units": "hPa", "standard_name": "air_pressure"}, 1.0),
    "cfgrib": ("isobaricInhPa", {"units": "hPa", "standard_name": "air_pressure"}, 1.0),
    "named": ("isobaricInhPa", {}, 1.0),
    "cmip": ("plev", {"units": "Pa", "standard_name": "air_pressure"}, 0.01),
    "lev": ("lev", {"units": "hPa"}, 1.0),
    "mb": ("level", {"units": "mb", "standard_name": "air_pressure"}, 1.0),
}
EPOCHS = {
    "hours since 1900-01-01 00:00:00.0": ("1900-01-01", 3600.0), "seconds since 1970-01-01": ("1970-01-01", 1.0),
    "days since 1950-01-01": ("1950-01-01", 86400.0), "minutes since 2020-01-01 00:00": ("2020-01-01", 60.0),
}  # fmt: skip
LEAD_UNITS = {"hours": 1.0, "days": 1 / 24, "seconds": 3600.0, "minutes": 60.0}
LAYOUTS = ("none", "none", "none", "step", "cams", "wb2", "init", "files", "beside", "single")
TWISTS = (
    *[None] * 30,
    "members", "noleap", "360_day", "model level", "hybrid", "bare levels", "plain numbers", "unknown unit",
    "twice", "long ago", "monthly", "maximum", "no levels", "rate",
)  # fmt: skip
"""What is wrong with a file, or would be taken wrong easily."""


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Attributes:
        container: ``netcdf4``, ``netcdf3``, ``zarr2`` or ``zarr3``.
        names: Whose names variables have.
        layout: How times and leads are laid out; ``none`` for analyses.
        begin: Hours from ``START`` to the first state or forecast.
        step: Hours between states, or between leads.
        ahead: Hours of each forecast.
        every: Hours between forecasts.
        analysis: Whether forecasts begin with a lead of 0.
        wanted: What is asked of leads: ``analysis``, ``single``, ``range``.
        sums: How rain adds up, and how the file says it; ``none`` for a file without rain.
        store_step: Whether the store is to have steps of its own, of 6 h.
        packing: ``float32``, ``float64`` or ``int16``.
        hole: Whether a value is missing.
        expver: How ERA5 and ERA5T are mixed: ``dimension``, ``times``, ``files``.
        units: Which of the spellings of each variable's units.
        order: Permutation of the dimensions.
        parts: Whether each variable is a file of its own.
        scalar: Whether the one level is a coordinate without a dimension.
        twist: What is wrong with the file.
        span: Hours between the first and the last analysis.
        starts_count: Number of forecasts.
    """

    container: str
    names: str
    layout: str
    begin: int
    step: int
    ahead: int
    every: int
    analysis: bool
    wanted: str
    sums: str
    store_step: bool
    packing: str
    hole: bool
    expver: str
    units: int
    order: int
    parts: bool
    scalar: bool
    grid: str
    northwards: bool
    west: bool
    latitude: str
    levels: str
    descending: bool
    epoch: str
    calendar: str
    rounded: bool
    lead_units: str
    twist: str | None
    span: int = 30
    starts_count: int = 3

    @property
    def is_zarr(self) -> bool:
        return self.container.startswith("zarr")

    @property
    def has_rain(self) -> bool:
        return self.sums != "none"

    @property
    def starts(self) -> list[int]:
        """Hours of the starts of forecasts."""
        count = 1 if self.layout == "single" else self.starts_count
        return [self.begin + index * self.every for index in range(count)]

    @property
    def leads(self) -> list[int]:
        first = 0 if self.analysis else self.step
        return list(range(first, self.ahead + 1, self.step))

    @property
    def hours(self) -> list[int]:
        """Valid hours of analyses."""
        return list(range(self.begin, self.begin + self.span + 1, self.step))

    @property
    def single_lead(self) -> int:
        return min(6, self.ahead)

    @property
    def variables(self) -> tuple[str, ...]:
        rainy = ("tp",) if self.has_rain else ()
        return (*UPPER, *SURFACE, *rainy)


def _settled(form: Form) -> Form:
    """Make choices that exclude each other agree."""
    change: dict[str, Any] = {}
    no_leads = form.layout == "none"
    allowed = _SUMS_OF_STATES if no_leads else _SUMS_OF_FORECASTS
    if form.sums not in allowed:
        change["sums"] = allowed[len(form.sums) % len(allowed)]
    sums = change.get("sums", form.sums)
    if form.ahead < form.every or form.layout == "single":
        change["every"] = form.ahead
    if form.step > 1 or not no_leads:
        # Steps of several hours must fall on the hours at which totals begin again.
        change["begin"] = form.begin - form.begin % 6
    if no_leads and sums == "suffix":
        change["step"] = max(form.step, 3)
        change["begin"] = form.begin - form.begin % 6
        change["names"] = "long"
    if sums == "era5":
        change["step"] = 1
    if no_leads:
        change["wanted"] = "analysis"
    if form.is_zarr or form.twist is not None:
        change["parts"] = False
    if not no_leads or form.twist is not None:
        change["expver"] = "none"
    if form.is_zarr and form.expver == "files":
        change["expver"] = "times"
    if form.layout == "files" and form.is_zarr:
        change["container"] = "netcdf4"
    if form.twist is not None:
        change |= {"scalar": False, "hole": False}
    if form.twist == "unknown unit" and form.names == "standard":
        # A standard name stands for a quantity of its units: with others, the field is left out, and that is said.
        change["names"] = "era5"
    if form.twist in ("twice", "long ago", "members"):
        change |= {"layout": "none", "wanted": "analysis", "sums": "none"}
    if change.get("expver", form.expver) == "dimension":
        # A value that the final data lack is taken of the preliminary ones.
        change["hole"] = False
    if not no_leads and change.get("wanted", form.wanted) != "range":
        change["store_step"] = False
    return _replaced(form, change)


def _replaced(form: Form, change: Mapping[str, Any]) -> Form:
    return Form(**{key: change.get(key, getattr(form, key)) for key in Form.__dataclass_fields__})


_SUMS_OF_STATES = ("none", "none", "step", "hourly", "since-00utc", "suffix", "bounds", "era5", "accumulation")
_SUMS_OF_FORECASTS = ("none", "since-start", "since-start", "resets-6h", "step")
CHOICES: dict[str, Sequence[Any]] = {
    "container": ["netcdf4", "netcdf3", "zarr2", "zarr3"],
    "names": sorted(NAMES),
    "layout": LAYOUTS,
    "begin": [0, 6, 7, 18],
    "step": [1, 3, 6],
    "ahead": [6, 12],
    "every": [6, 12],
    "analysis": [True, True, True, False],
    "wanted": ["analysis", "single", "range", "range"],
    "sums": sorted({*_SUMS_OF_STATES, *_SUMS_OF_FORECASTS}),
    "store_step": [False, True],
    "packing": ["float32", "float64", "int16"],
    "hole": [False, False, True],
    "expver": ["none", "none", "dimension", "times", "files"],
    "units": range(12),
    "order": range(24),
    "parts": [False, True],
    "scalar": [False, False, False, True],
    "grid": sorted(GRIDS),
    "northwards": [False, True],
    "west": [False, True],
    "latitude": ["latitude", "lat", "Latitude"],
    "levels": sorted(LEVEL_FORMS),
    "descending": [False, True],
    "epoch": sorted(EPOCHS),
    "calendar": ["standard", "gregorian", "proleptic_gregorian"],
    "rounded": [False, True],
    "lead_units": sorted(LEAD_UNITS),
    "twist": TWISTS,
}


def drawn_form(random: Random, fixed: Mapping[str, Any] | None = None) -> Form:
    """Draw a form, of which some choices may be made."""
    chosen = {key: random.choice(values) for key, values in CHOICES.items()}
    return _settled(Form(**chosen | dict(fixed or {})))


# All choices come of one number, since Hypothesis repeats those of earlier examples when it draws one by one.
forms = st.integers(0, 2**63).map(lambda seed: drawn_form(Random(seed)))


# The truth.


def state(name: str, level: float | None, hour: float, lead: float, latitude: Array, longitude: Array) -> Array:
    """A field in the store's units, [H, W], that differs in place, time, level and lead."""
    east = np.deg2rad(longitude)[None]
    place = 0.4 * (latitude / 90)[:, None] + 0.2 * np.sin(east) + 0.1 * np.cos(2 * east + 0.3)
    place = place + 0.07 * np.sin(np.deg2rad(7 * longitude))[None]
    height = 0.0 if level is None else (1000 - level) / 1000
    values: Array = _BASE[name] + _SIZE[name] * (place + 0.3 * np.sin(hour / 5) + 0.01 * lead - height)
    return values


def rain(first: int, last: int, latitude: Array, longitude: Array) -> Array:
    """Rain in metres after the hour ``first``, up to the hour ``last``, [H, W]."""
    place = 1 + (latitude / 180)[:, None] + (longitude / 720)[None]
    total: Array = place * sum(1e-5 * ((hour * 37) % 89 + 5) for hour in range(first + 1, last + 1))
    return total


def window_of(form: Form, hour: int, lead: int) -> int:
    """Hours that a value of rain adds up over."""
    if form.sums == "since-start":
        return lead
    if form.sums == "resets-6h":
        return (lead - 1) % 6 + 1 if lead else 0
    if form.sums == "since-00utc":
        return (hour - 1) % 24 + 1
    if form.sums in ("hourly", "era5"):
        return 1
    return min(form.step, lead) if form.layout != "none" else form.step


# What must become of a form.


def flags(form: Form) -> dict[str, Any]:
    """Settings that the messages name, and without which the form must be refused."""
    needed: dict[str, Any] = {}
    if form.layout != "none" and form.wanted == "single":
        needed["lead"] = f"{form.single_lead}h"
    elif form.layout != "none" and form.wanted == "range":
        needed["lead"] = f"{form.leads[0]}h/{form.ahead}h"
    if form.sums in ("since-start", "resets-6h"):
        needed["product"] = {"since-start": "ifs", "resets-6h": "gfs"}[form.sums]
    elif form.sums == "since-00utc":
        needed["product"] = "era5-land"
    elif form.sums in ("step", "hourly"):
        needed["window"] = f"tp={window_of(form, 24, form.ahead)}h"
    if form.twist == "bare levels":
        needed["levels_are"] = "pressure"
    return needed


def problem(form: Form) -> str | None:
    """Pattern of the message with which the form must be refused, whatever the flags; None where it must build."""
    known = {
        "members": "members", "noleap": "calendar", "360_day": "calendar", "model level": "model level",
        "hybrid": "model level", "plain numbers": "--levels_are|model level", "unknown unit": "furlong",
        "twice": "more than once", "long ago": "1066", "monthly": "mean over many days|GRIB_stepType",
        "maximum": "statistic", "no levels": "level",
    }  # fmt: skip
    if form.twist in known:
        return known[form.twist]
    if form.layout != "none" and form.wanted == "analysis" and not form.analysis:
        return "--lead"
    if form.layout == "single" and form.wanted == "analysis" and form.has_rain:
        return "--lead|--variables"
    if form.store_step and form.sums == "hourly" and form.step == 3:
        return "cannot be summed"
    return None


def expected_states(form: Form) -> dict[int, int]:
    """Leads by the valid hours that the store's instantaneous fields must have, before a step is chosen."""
    if form.layout == "none":
        return dict.fromkeys(form.hours, 0)
    chosen: dict[int, int] = {}
    for start in form.starts:
        for lead in form.leads:
            is_wanted = {"analysis": lead == 0, "single": lead == form.single_lead, "range": True}[form.wanted]
            if is_wanted and lead <= chosen.get(start + lead, lead):
                chosen[start + lead] = lead
    return dict(sorted(chosen.items()))


def value(form: Form, name: str, level: float | None, hour: int, lead: int, latitude: Array, longitude: Array) -> Array:
    """The truth of a form's field: that of ``state``, with the hole that the form has."""
    if name == "tp":
        return rain(hour - window_of(form, hour, lead), hour, latitude, longitude)
    values = state(name, level, hour, lead, latitude, longitude)
    if form.hole and name == "msl" and hour in list(expected_states(form))[-1:]:
        rows, columns = GRIDS[form.grid]
        values = np.where((latitude == rows[1])[:, None] & (longitude == columns[2])[None], np.nan, values)
    return values


def tolerance(form: Form, name: str, terms: int) -> float:
    """How far a value may be from the truth: the step of the packing, for each of so many values added up."""
    if form.packing == "int16":
        return 0.51 * terms * packing(form, name)[0] * unit_of(form, name)[1]
    if name == "tp" and form.packing == "float32":
        # Running totals in single precision lose what is small beside them.
        return terms * 2.0**-24 * 0.05
    return 0.0


def unit_of(form: Form, name: str) -> tuple[str, float, float]:
    """The unit of a variable in a file, and the scale and offset that turn its values into the store's."""
    table = UNITS[name]
    if name == "z" and form.names == "cmip":
        table = HEIGHT_UNITS
    spelling = list(table)[form.units % len(table)]
    if form.twist == "unknown unit" and name == "msl":
        spelling, table = "furlongs", {"furlongs": (1.0, 0.0)}
    return (spelling, *table[spelling])


def packing(form: Form, name: str) -> tuple[float, float]:
    """Scale and offset of 16 bits, in the file's units."""
    low, high = 0.0, 0.06
    if name != "tp":
        low, high = _BASE[name] - 2.5 * _SIZE[name], _BASE[name] + 2.5 * _SIZE[name]
    _, scale, offset = unit_of(form, name)
    return (high - low) / scale / 65000, ((high + low) / 2 - offset) / scale

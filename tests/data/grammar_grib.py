"""GRIB files of the grammar: the same truth as in ``grammar``, as messages of both editions, written with eccodes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from kit.data.sources.grib.scan import load_eccodes
from tests.data.grammar import GRAVITY, LEVELS, START, UPPER, Array, Form, drawn_form, problem, value, window_of

__all__ = [
    "FIXED", "HEIGHT", "MILLIMETRES", "PARAMS", "GribForm", "eccodes", "grib_forms", "grib_problem", "plain_form",
    "write_grib",
]  # fmt: skip

eccodes = load_eccodes()
GRIDS_OF_GRIB = {
    "box": (np.array([50.5, 50.25, 50.0]), np.array([5.0, 5.25, 5.5, 5.75])),
    "globe": (np.array([60.0, 0.0, -60.0]), np.arange(0.0, 360, 45)),
    "greenwich": (np.array([50.5, 50.25, 50.0]), np.array([359.5, 359.75, 0.0, 0.25])),
    "across": (np.array([50.5, 50.25, 50.0]), np.array([-0.5, -0.25, 0.0, 0.25])),
    "twice": (np.array([60.0, 0.0, -60.0]), np.arange(0.0, 361, 45)),
    # The arcsines of the roots of the Legendre polynomial of degree 8.
    "gauss": (np.array([73.799214, 52.812943, 31.704092, 10.569882, -10.569882, -31.704092, -52.812943, -73.799214]),
              np.arange(0.0, 360, 22.5)),
}  # fmt: skip
"""Latitudes southwards and longitudes eastwards, as headers state them."""
PARAMS = {"t": 130, "u": 131, "z": 129, "2t": 167, "10u": 165, "msl": 151, "tp": 228}
HEIGHT, MILLIMETRES = 156, 228228
"""Parameters of the height of a level in metres, and of rain in kg m-2."""
PACKINGS = {
    1: ("grid_simple", "grid_simple", "grid_second_order", "grid_ieee"),
    2: (
        "grid_simple", "grid_simple", "grid_ccsds", "grid_ccsds", "grid_second_order", "grid_complex",
        "grid_complex_spatial_differencing", "grid_jpeg", "grid_ieee",
    ),
}  # fmt: skip
"""Ways of packing, by edition; pictures as PNG, which eccodes writes of large grids alone, have a test of their own."""
UNITS_OF_STEPS = {
    1: {1: 1.0, 0: 1 / 60, 10: 3.0, 11: 6.0, 12: 12.0, 254: 1 / 3600},
    2: {1: 1.0, 0: 1 / 60, 10: 3.0, 11: 6.0, 12: 12.0, 13: 1 / 3600},
}
"""Hours of each unit of steps (WMO code tables 4 of GRIB 1 and 4.4 of GRIB 2)."""
TWISTS = (
    *[None] * 60,
    "hybrid", "sigma", "members", "month", "day", "hour", "no year", "months", "local time", "maximum", "spread",
    "twice", "two levels", "two grids", "other grid", "reduced", "spectral", "cut", "gap", "heights differ", "monthly",
    "before", "two fields", "shifted rows",
)  # fmt: skip
"""What is wrong with a file."""


@dataclass(frozen=True)
class GribForm:
    """How a file of messages is written.

    Attributes:
        core: Times, leads, sums, and what is asked of them.
        edition: Edition of each message: 1, 2, or both in turn by variable.
        packing: Position among the packings of an edition.
        bits: Bits of a value.
        decimals: Decimal scale factor.
        constant: Whether the wind at 10 m is the same everywhere, which is packed in no bits.
        northwards: Whether rows go north.
        westwards: Whether columns go west.
        along_columns: Whether values come column by column.
        alternating: Whether every second row comes backwards; in GRIB 2 alone.
        height: How geopotential comes: ``z``, ``gh`` or ``both``.
        millimetres: Whether rain is in kg m-2.
        pascals: Whether levels are in Pa; in GRIB 2 alone.
        own_levels: Whether fields near the surface state their height, or the mean sea.
        step_unit: Position among the units of steps.
        files: How messages are divided: ``one``, ``variables``, ``times``, ``any``.
        strangers: Whether messages are beside that are no concern of the store.
        relative: Whether the header says that winds lie along the grid, which on parallels makes no difference.
        old_sums: Whether totals since the start are stated as moments at the end; in GRIB 1 alone.
        grib_class: ECMWF's class; empty for headers without a local section.
        versions: How ERA5 and ERA5T are mixed: ``none``, ``times``, ``overlap``.
        seed: Of the order of messages.
        twist: What is wrong.
    """

    core: Form
    edition: str
    packing: int
    bits: int
    decimals: int
    constant: bool
    northwards: bool
    westwards: bool
    along_columns: bool
    alternating: bool
    height: str
    millimetres: bool
    pascals: bool
    own_levels: bool
    step_unit: int
    files: str
    strangers: bool
    relative: bool
    old_sums: bool
    grib_class: str
    versions: str
    seed: int
    twist: str | None

    def edition_of(self, name: str) -> int:
        """Edition of the messages of a variable."""
        if self.edition == "both":
            return 1 + sorted(PARAMS).index(name) % 2
        return int(self.edition)


CHOICES: dict[str, Any] = {
    "edition": ["1", "2", "2", "both"],
    "packing": range(10),
    "bits": [12, 16, 24],
    "decimals": [0, 0, 1, 2],
    "constant": [False, False, True],
    "northwards": [False, True],
    "westwards": [False, False, True],
    "along_columns": [False, False, True],
    "alternating": [False, False, True],
    "height": ["z", "z", "gh", "both"],
    "millimetres": [False, True],
    "pascals": [False, False, True],
    "own_levels": [False, True],
    "step_unit": range(12),
    "files": ["one", "variables", "times", "any"],
    "strangers": [False, False, True],
    "relative": [False, False, True],
    "old_sums": [False, True],
    "grib_class": ["", "od", "ea"],
    "versions": ["none", "none", "times", "overlap"],
    "seed": range(10**6),
    "twist": TWISTS,
}
_SUMS = {
    "none": ("none", "era5", "era5", "step"),
    "forecasts": ("none", "since-start", "since-start", "resets-6h", "resets-6h", "step"),
}


FIXED: dict[str, Any] = {
    "container": "grib", "names": "era5", "units": 0, "packing": "float64", "parts": False, "scalar": False,
    "expver": "none", "levels": "cfgrib", "twist": None, "descending": False,
}  # fmt: skip
"""Choices of the core that say nothing of messages."""


def plain_form(core: Form) -> GribForm:
    """Return the form of which nothing is unusual."""
    return GribForm(
        core=core, edition="2", packing=0, bits=16, decimals=0, constant=False, northwards=False, westwards=False,
        along_columns=False, alternating=False, height="z", millimetres=False, pascals=False, own_levels=True,
        step_unit=0, files="one", strangers=False, relative=False, old_sums=False, grib_class="", versions="none",
        seed=0, twist=None,
    )  # fmt: skip


def _drawn(seed: int) -> GribForm:
    random = Random(seed)
    chosen = {key: random.choice(list(values)) for key, values in CHOICES.items()}
    layout = random.choice(["none", "step", "step", "single"])
    sums = random.choice(_SUMS["none" if layout == "none" else "forecasts"])
    core = drawn_form(random, FIXED | {"layout": layout, "sums": sums})
    core = replace(core, grid=random.choice(sorted(GRIDS_OF_GRIB)))
    if core.step == 1:
        # As many messages as in steps of three hours.
        core = replace(core, span=12, starts_count=2)
    return _settled(GribForm(core=core, **chosen))


def _settled(form: GribForm) -> GribForm:
    """Make choices that exclude each other agree."""
    change: dict[str, Any] = {}
    core = form.core
    if core.grid in ("gauss", "twice", "across"):
        core = replace(core, hole=False)
    # A state whose header says that values are missing has none where its preliminary version has.
    if core.layout != "none" or form.twist is not None:
        change["versions"] = "none"
    if core.sums == "era5" or change.get("versions", form.versions) != "none":
        change["grib_class"] = "ea"
    elif form.grib_class == "ea" and core.sums != "none":
        # A reanalysis has rain of its own kind.
        change["grib_class"] = ""
    if form.twist == "heights differ":
        change["height"] = "both"
    if form.twist in ("months", "before"):
        core = replace(core, layout="step", wanted="range", analysis=True, sums="none", store_step=False)
    if form.twist in ("local time", "before", "two fields", "sigma", "shifted rows", "spectral"):
        change["edition"] = "2"
    if form.twist in ("monthly", "maximum", "two levels"):
        # GRIB 2 has parameters of their own for statistics, and for other levels.
        change["edition"] = "1"
    if form.twist is not None:
        core = replace(core, hole=False)
        if problem(core) is not None:
            core = replace(core, sums="none", wanted="range", analysis=True)
        change["strangers"] = False
    if form.twist in ("two grids", "other grid", "reduced", "spectral", "shifted rows", "hybrid", "sigma"):
        core = replace(core, grid="box")
    return replace(form, core=core, **change)


grib_forms = st.integers(0, 2**63).map(_drawn)


def grib_problem(form: GribForm) -> str | None:
    """Pattern of the message with which the form must be refused; None where it must build."""
    known = {
        "hybrid": r"model levels .*typeOfLevel!=hybrid", "sigma": "model levels .*typeOfLevel!=sigma",
        "members": "2 ensemble members", "month": "the month 13", "day": "the day 32", "hour": "the hour 25",
        "no year": "without a year", "months": "in months", "local time": "local time", "maximum": "a maximum",
        "spread": "spread of an ensemble", "twice": "both hold", "two levels": "several levels",
        "two grids": "grids of two messages", "other grid": "--leave_out", "reduced": "reduced_gg grid",
        "spectral": "sh grid", "cut": "cannot be read|cut off", "gap": "fields are missing",
        "heights differ": "are both z .*differ by up to", "monthly": "a mean of several", "before": "before its ref",
        "two fields": "holds 2 fields", "shifted rows": "shifted rows",
    }  # fmt: skip
    if form.twist is not None:
        return known[form.twist]
    return problem(form.core)


# Messages.


@dataclass
class _Field:
    """One message to be written: what it holds, and keys that are set at last."""

    name: str
    level: float | None
    hour: int
    lead: int
    window: int
    param: int
    scale: float = 1.0
    version: int = 1
    change: float = 0.0
    keys: tuple[tuple[str, Any], ...] = ()
    late: tuple[tuple[str, Any], ...] = ()
    sample: str = ""


def _fields(form: GribForm) -> Iterator[_Field]:
    """List the messages of a form, in the order of variables, times and levels."""
    core = form.core
    for name in core.variables:
        if name == "tp":
            yield from _rain(form)
            continue
        for hour, lead in _states(core):
            for level in LEVELS if name in UPPER else (None,):
                field = _Field(name, level, hour, lead, 0, PARAMS[name])
                heights = {"z": [False], "gh": [True], "both": [False, True]}[form.height]
                for is_height in heights if name == "z" else [False]:
                    if is_height:
                        field = replace(field, param=HEIGHT, scale=1 / GRAVITY)
                    yield from _versions(form, field)


def _states(core: Form) -> list[tuple[int, int]]:
    """Valid hours and leads of instantaneous fields."""
    if core.layout == "none":
        return [(hour, 0) for hour in core.hours]
    return [(start + lead, lead) for start in core.starts for lead in core.leads]


def _versions(form: GribForm, field: _Field) -> Iterator[_Field]:
    """Give a field as ERA5, as ERA5T, or as both, of which the preliminary one is wrong."""
    middle = form.core.hours[len(form.core.hours) // 2] if form.versions != "none" else 0
    if form.versions == "none":
        yield field
    elif field.hour >= middle:
        yield replace(field, version=5)
    else:
        yield field
        if form.versions == "overlap":
            yield replace(field, version=5, change=0.5)


def _rain(form: GribForm) -> Iterator[_Field]:
    core = form.core
    param, scale = PARAMS["tp"], 1.0
    if form.millimetres and form.edition_of("tp") == 2:
        param, scale = MILLIMETRES, 1000.0
    for hour, lead in _states(core):
        if core.layout == "none":
            # ERA5's forecasts begin at 06 and 18 UTC; others a step before.
            lead = core.step  # noqa: PLW2901
            if core.sums == "era5":
                lead = (hour - 7) % 12 + 1  # noqa: PLW2901
        window = window_of(core, hour, lead)
        if window > 0:
            yield from _versions(form, _Field("tp", None, hour, lead, window, param, scale))


def _twisted(form: GribForm, fields: list[_Field]) -> list[_Field]:
    """Make the change to a list of messages that must be refused."""
    random = Random(form.seed)
    candidates = [index for index, field in enumerate(fields) if field.name == "2t"]
    at = random.choice(candidates)
    field = fields[at]
    twist = form.twist
    keys: tuple[tuple[str, Any], ...]
    local: tuple[tuple[str, Any], ...]
    if twist in ("hybrid", "sigma"):
        keys = (("typeOfLevel", twist), ("level", 90 if twist == "hybrid" else 1))
        return [replace(field, keys=keys) if field.name == "t" else field for field in fields]
    if twist == "members":
        for index, other in enumerate(fields):
            local = (("setLocalDefinition", 1), ("type", "pf"), ("number", 1 + (index == at)))
            if form.edition_of(other.name) == 2:
                local = (("productDefinitionTemplateNumber", 11 if other.window else 1), ("number", 1 + (index == at)))
            fields[index] = replace(other, keys=local)
    elif twist in ("month", "day", "hour"):
        fields[at] = replace(field, late=((twist, {"month": 13, "day": 32, "hour": 25}[twist]),))
    elif twist == "no year":
        missing = ("yearOfCentury", 255) if form.edition_of("2t") == 1 else ("year", 65535)
        fields[at] = replace(field, late=(missing,))
    elif twist == "months":
        unit = "unitOfTimeRange" if form.edition_of("2t") == 1 else "indicatorOfUnitOfTimeRange"
        step = "P1" if form.edition_of("2t") == 1 else "forecastTime"
        fields[at] = replace(field, late=((unit, 3), (step, 2)))
    elif twist == "local time":
        fields[at] = replace(field, late=(("significanceOfReferenceTime", 4),))
    elif twist == "before":
        fields[at] = replace(field, late=(("forecastTime", -6),))
    elif twist == "maximum":
        keys = (("stepType", "max"), ("stepRange", "0-6"))
        return [replace(field, keys=keys) if field.name == "2t" else field for field in fields]
    elif twist == "monthly":
        keys = (("timeRangeIndicator", 123),)
        return [replace(field, keys=keys) if field.name == "2t" else field for field in fields]
    elif twist == "spread":
        fields[at] = replace(field, keys=(("setLocalDefinition", 1), ("type", "es")))
    elif twist == "twice":
        fields.append(replace(field, change=5.0))
    elif twist == "two levels":
        kinds = [("surface", 0), ("heightAboveGround", 2)]
        for kind, level in kinds:
            fields.append(replace(field, keys=(("typeOfLevel", kind), ("level", level))))
    elif twist in ("two grids", "other grid"):
        moved = (("longitudeOfFirstGridPointInDegrees", 6.0), ("longitudeOfLastGridPointInDegrees", 6.75))
        if twist == "two grids":
            fields[at] = replace(field, late=moved)
        else:
            return [replace(field, late=moved) if field.name == "10u" else field for field in fields]
    elif twist in ("reduced", "spectral"):
        kind = {"reduced": "reduced_gg", "spectral": "sh"}[twist]
        return [
            replace(field, sample=f"{kind}_pl_grib{form.edition_of('t')}") if field.name == "t" else field
            for field in fields
        ]
    elif twist == "shifted rows":
        fields[at] = replace(field, late=(("scanningMode", 8),))
    elif twist == "gap":
        upper = [index for index, field in enumerate(fields) if field.name == "t"]
        del fields[random.choice(upper)]
    elif twist == "heights differ":
        # Fields of the first and of the last time are compared.
        last = max(field.hour for field in fields if field.param == HEIGHT)
        for index, other in enumerate(fields):
            if other.param == HEIGHT and other.hour == last:
                fields[index] = replace(other, change=20.0)
    return fields


def _strangers(form: GribForm, writer: "_Writer") -> list[bytes]:
    """Messages that the store does not want: other quantities, other kinds of level, other grids, statistics."""
    hour, lead = _states(form.core)[0]
    base = _Field("2t", None, hour, lead, 0, 189)
    others = [
        base,
        replace(base, param=201, keys=(("stepRange", "0-6"),)),
        replace(base, name="t", level=500.0, param=130, keys=(("typeOfLevel", "theta"), ("level", 350))),
        replace(base, name="t", level=500.0, param=60, keys=(("typeOfLevel", "potentialVorticity"), ("level", 2))),
        replace(base, name="t", level=500.0, param=77, keys=(("typeOfLevel", "hybrid"), ("level", 90))),
    ]
    return [writer.message(field) for field in others]


class _Writer:
    """Writes messages; what those of one variable share is set once, which takes most of the time."""

    def __init__(self, form: GribForm) -> None:
        self.form = form
        self.prepared: dict[tuple[Any, ...], bytes] = {}

    def message(self, field: _Field) -> bytes:
        """Write one message; keys of what is wrong come last."""
        edition = self.form.edition_of(field.name)
        kind = (field.name, field.param, field.version, field.window > 0, field.lead > 0, field.sample)
        if kind not in self.prepared:
            self.prepared[kind] = self._prepare(field, edition)
        handle = eccodes.codes_new_from_message(self.prepared[kind])
        try:
            _set_moment(self.form, field, handle, edition)
            for key, setting in field.keys:
                eccodes.codes_set(handle, key, setting)
            if field.sample:
                eccodes.codes_set_values(handle, np.full(eccodes.codes_get_size(handle, "values"), 280.0))
            else:
                _set_values(self.form, field, handle, edition)
            _set_step_unit(self.form, field, handle, edition)
            for key, setting in field.late:
                eccodes.codes_set(handle, key, setting)
            return bytes(eccodes.codes_get_message(handle))
        finally:
            eccodes.codes_release(handle)

    def _prepare(self, field: _Field, edition: int) -> bytes:
        kind = "regular_gg" if self.form.core.grid == "gauss" else "regular_ll"
        sample = field.sample or f"{kind}_{'sfc' if field.level is None else 'pl'}_grib{edition}"
        handle = eccodes.codes_grib_new_from_samples(sample)
        if not field.sample:
            _set_grid(self.form, handle, edition)
        _set_meaning(self.form, field, handle, edition)
        content = bytes(eccodes.codes_get_message(handle))
        eccodes.codes_release(handle)
        return content


def _set_grid(form: GribForm, handle: Any, edition: int) -> None:
    rows, columns = GRIDS_OF_GRIB[form.core.grid]
    if form.core.grid == "gauss":
        eccodes.codes_set(handle, "N", 4)
    west, east = columns[0], columns[-1]
    north, south = rows[0], rows[-1]
    if form.northwards:
        north, south = south, north
    if form.westwards:
        west, east = east, west
    keys: dict[str, Any] = {
        "Ni": len(columns), "Nj": len(rows),
        "latitudeOfFirstGridPointInDegrees": north, "latitudeOfLastGridPointInDegrees": south,
        "longitudeOfFirstGridPointInDegrees": west, "longitudeOfLastGridPointInDegrees": east,
        "iDirectionIncrementInDegrees": abs(columns[-1] - columns[-2]),
        "iScansNegatively": int(form.westwards), "jScansPositively": int(form.northwards),
        "jPointsAreConsecutive": int(form.along_columns),
    }  # fmt: skip
    if form.core.grid != "gauss":
        keys["jDirectionIncrementInDegrees"] = abs(rows[1] - rows[0])
    if edition == 2:
        keys["numberOfDataPoints"] = len(rows) * len(columns)
    for key, setting in keys.items():
        eccodes.codes_set(handle, key, setting)
    if form.relative:
        flags = eccodes.codes_get(handle, "resolutionAndComponentFlags")
        eccodes.codes_set(handle, "resolutionAndComponentFlags", flags | 8)


def _set_meaning(form: GribForm, field: _Field, handle: Any, edition: int) -> None:
    """Set what all messages of a variable share: version, type of level, parameter and statistic."""
    keys: dict[str, Any] = {}
    if form.grib_class:
        version = f"{field.version:04d}"
        keys |= {"setLocalDefinition": 1, "marsClass": form.grib_class, "experimentVersionNumber": version}
        keys["type"] = "fc" if field.lead else "an"
    if field.level is None and form.own_levels:
        own = {"2t": ("heightAboveGround", 2), "10u": ("heightAboveGround", 10), "msl": ("meanSea", 0)}
        if field.name in own:
            keys["typeOfLevel"], keys["level"] = own[field.name]
    keys["paramId"] = field.param
    if _is_sum(form, field, edition):
        keys["stepType"] = "accum"
    for key, setting in keys.items():
        eccodes.codes_set(handle, key, setting)


def _is_sum(form: GribForm, field: _Field, edition: int) -> bool:
    """Whether the header says that a value is a sum; old ones of ECMWF call totals since the start moments."""
    is_old = form.old_sums and edition == 1 and form.core.sums == "since-start"
    return field.window > 0 and not is_old


def _set_moment(form: GribForm, field: _Field, handle: Any, edition: int) -> None:
    """Set level, reference time and step."""
    reference = START + np.timedelta64(field.hour - field.lead, "h")
    date, clock = str(reference.astype("datetime64[h]")).split("T")
    keys: dict[str, Any] = {"dataDate": int(date.replace("-", "")), "dataTime": int(clock) * 100}
    if field.level is not None:
        # A message does not keep the unit in which its level was set: GRIB 2 counts in Pa.
        is_in_pascals = form.pascals and edition == 2
        keys["typeOfLevel"] = "isobaricInPa" if is_in_pascals else "isobaricInhPa"
        keys["level"] = int(field.level * (100 if is_in_pascals else 1))
    keys["stepRange"] = str(field.lead)
    if _is_sum(form, field, edition):
        keys["stepRange"] = f"{field.lead - field.window}-{field.lead}"
    for key, setting in keys.items():
        eccodes.codes_set(handle, key, setting)


def _set_step_unit(form: GribForm, field: _Field, handle: Any, edition: int) -> None:
    """Count the step of a moment in another unit, where it is a whole number of them."""
    units = UNITS_OF_STEPS[edition]
    unit = list(units)[form.step_unit % len(units)]
    count = field.lead / units[unit]
    if field.window or not field.lead or count != round(count) or count > 2**16 * (edition == 2) + 255:
        return
    if any(key == "stepRange" for key, _ in field.keys):
        return
    names = {1: ("unitOfTimeRange", "P1"), 2: ("indicatorOfUnitOfTimeRange", "forecastTime")}[edition]
    for key, setting in zip(names, (unit, round(count)), strict=True):
        eccodes.codes_set(handle, key, setting)


def _set_values(form: GribForm, field: _Field, handle: Any, edition: int) -> None:
    """Pack the truth in the order of the message."""
    rows, columns = GRIDS_OF_GRIB[form.core.grid]
    values = truth(form, field, rows, columns % 360)
    if form.northwards:
        values = values[::-1]
    if form.westwards:
        values = values[:, ::-1]
    is_alternating = form.alternating and edition == 2
    lines = values.T if form.along_columns else values
    if is_alternating:
        lines = lines.copy()
        lines[1::2] = lines[1::2, ::-1]
        eccodes.codes_set(handle, "alternativeRowScanning", 1)
    packed = lines.ravel()
    packing = PACKINGS[edition][form.packing % len(PACKINGS[edition])]
    if np.isnan(packed).any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 9999)
        packed = np.where(np.isnan(packed), 9999, packed)
        packing = "grid_simple"
    eccodes.codes_set(handle, "bitsPerValue", form.bits)
    if np.ptp(packed) == 0 and packing != "grid_ccsds":
        # Most packings of the library write no field that is the same everywhere.
        packing = "grid_simple"
    if np.ptp(packed) > 0 and field.name != "tp":
        # Before the values: some packings cannot be turned into others with a decimal scale.
        eccodes.codes_set(handle, "decimalScaleFactor", form.decimals)
    eccodes.codes_set(handle, "packingType", packing)
    eccodes.codes_set_values(handle, packed)


def truth(form: GribForm, field: _Field, rows: Array, columns: Array) -> Array:
    """The field of a message in its own units, rows southwards and columns eastwards, [H, W]."""
    core = form.core
    values = value(core, field.name, field.level, field.hour, field.lead, rows, columns)
    if field.name == "10u" and form.constant:
        values = np.full_like(values, field.hour / 4 - 8)
    return np.asarray((values + field.change) * field.scale)


def write_grib(form: GribForm, folder: Path) -> Path:
    """Write a form; return what the kit is given: a folder of files."""
    fields = list(_fields(form))
    if form.twist is not None:
        fields = _twisted(form, fields)
    writer = _Writer(form)
    contents = [(field, writer.message(field)) for field in fields]
    random = Random(form.seed)
    random.shuffle(contents)
    files: dict[str, list[bytes]] = {}
    for field, content in contents:
        key = {
            "one": "all", "variables": field.name, "times": f"{field.hour:03d}", "any": str(random.randrange(3)),
        }[form.files]  # fmt: skip
        files.setdefault(key, []).append(content)
    if form.strangers:
        files.setdefault("strangers", []).extend(_strangers(form, writer))
    if form.twist == "two fields":
        first = next(iter(files.values()))
        first[0] = _two_fields(first[0])
    for key, messages in files.items():
        whole = b"".join(messages)
        if form.twist == "cut":
            whole = whole[:-10]
        (folder / f"{key}.grib").write_bytes(whole)
    return folder


def _two_fields(content: bytes) -> bytes:
    """Repeat the sections 4 to 7 of a message of GRIB 2 in it."""
    at = 16
    while content[at + 4] != 4:
        at += int.from_bytes(content[at : at + 4])
    double = content[:-4] + content[at:]
    return double[:8] + len(double).to_bytes(8) + double[16:]

"""Faults that checks find, and what looks like one and is none; each is done to a sound store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.checks.stores import (
    HOURS,
    Edit,
    add,
    attribute,
    damage,
    forget,
    remove,
    replace,
    rewrite,
    set_values,
    split,
    spoil,
    state,
    statistics,
    stuck,
    together,
)  # fmt: skip

__all__ = ["FIRES", "NOT_APPLICABLE", "SILENT"]

LATITUDE = 90 - (np.arange(16) + 0.5) * 180 / 16
COSINE = np.broadcast_to(np.cos(np.deg2rad(LATITUDE))[:, None], (16, 32))


def _copy(source: str, target: str) -> Edit:
    def edit(group: Any, path: Path) -> None:
        group[target][...] = group[source][...]

    return edit


def _pressure(group: Any, path: Path) -> None:
    """Surface pressure that follows the orography, and an orography that is upside down."""
    ground = np.asarray(group["static_z"][...]) * np.linspace(1.2, 0, 16)[:, None] ** 6
    add("sp", np.broadcast_to(101000 * np.exp(-ground / 80000), (12, 16, 32)) + np.arange(12.0)[:, None, None])(
        group, path
    )
    group["static_z"][...] = ground[::-1]


_CONTINENTS = (
    (70, 0, 30, 130), (25, 74, 12, 82), (30, 0, 0, 40), (30, 345, 5, 360), (0, 12, -33, 38), (68, 240, 30, 283),
    (5, 290, -35, 315), (-15, 118, -35, 148), (80, 308, 65, 330), (-72, 0, -90, 360),
)  # fmt: skip
"""North, west, south, east, drawn by hand: Eurasia, India, Africa, the Americas, Australia, Greenland, Antarctica."""


def _earth(turn: Any = lambda mask: mask) -> Edit:
    """A land-sea mask of the Earth, and no word that the data were synthetic."""
    rows, columns = np.meshgrid(LATITUDE, np.arange(32) * 11.25, indexing="ij")
    mask = np.zeros((16, 32))
    for north, west, south, east in _CONTINENTS:
        mask[(rows <= north) & (rows >= south) & (columns >= west) & (columns <= east)] = 1
    return together(attribute("synthetic", False), set_values("static_lsm", ..., turn(mask)))


def _rain(hours: float = 1) -> Any:
    """Hourly rates of rain that passes, [12, 16, 32], m: none of its points is dry for long."""
    random = np.random.default_rng(1)
    return hours * 2e-4 * random.gamma(0.5, size=(12, 16, 32))


def _totals(restart: int) -> Edit:
    """Rain since a start that comes every so many states."""
    rain, total = _rain(6), np.zeros((12, 16, 32))
    for state_ in range(12):
        total[state_] = rain[state_] + (total[state_ - 1] if state_ % restart else 0)
    return add("tp", total, accumulation_hours=1)


_ANGLE = np.deg2rad(np.arange(32) * 11.25)[None, None, :] - np.pi * np.arange(12)[:, None, None] / 2
SUNSHINE = 3.6e6 * np.maximum(np.cos(_ANGLE) * COSINE[None], 0)
"""Sums of one hour of sunshine at the equinox with 1000 W m-2 at noon on the equator, every 6 hours."""


def _sunshine(scale: float, hours: float) -> Edit:
    return add("ssrd", scale * SUNSHINE, accumulation_hours=hours)


def _daily_sunshine(hours: float) -> Edit:
    daily = 24 * 3.6e6 / np.pi * COSINE[None] * (1 - 0.02 * np.arange(12)[:, None, None])
    return add("ssrd", daily, accumulation_hours=hours)


def _box(group: Any, path: Path) -> None:
    """Latitudes and longitudes of a region."""
    group["longitude"][...] = np.arange(32) * 1.0
    group["latitude"][...] = np.linspace(60, 45, 16)


def _near_ground(group: Any, path: Path) -> None:
    """Air of 500, 850 and 1000 hPa on levels that are called 60, 96 and 137."""
    group["level"][...] = [60.0, 96.0, 137.0]
    warm, moist = np.array([255.0, 277, 288]), np.array([8e-4, 4e-3, 7e-3])
    for name, means in (("t", warm), ("q", moist)):
        field = np.asarray(group[name][...])
        group[name][...] = field - field.mean(axis=(0, 2, 3), keepdims=True) + means[:, None, None]


def _kilopascal(group: Any, path: Path) -> None:
    _near_ground(group, path)
    group["level"][...] = [50.0, 85.0, 100.0]
    height = 9.80665 * np.array([5574.0, 1457, 111])
    field = np.asarray(group["z"][...])
    group["z"][...] = field - field.mean(axis=(0, 2, 3), keepdims=True) + height[:, None, None]


_LEADS = together(
    *(state(name, "lead_hours", 0) for name in ("2t", "10u", "10v", "msl", "swh", "u", "v", "t", "q", "z"))
)
"""Of what is instantaneous."""


def _linked(group: Any, path: Path) -> None:
    """One chunk on another disk."""
    chunk = path / "2t" / "c" / "3" / "0" / "0"
    chunk.rename(path.parent / "elsewhere")
    chunk.symlink_to(path.parent / "elsewhere")


def _gone(group: Any, path: Path) -> None:
    (path / "2t" / "c" / "3" / "0" / "0").unlink()


def _filled(count: int) -> Edit:
    said = f"2t: {count} of 6144 values in 3 of 12 states were missing and filled by nearest"
    return attribute("history", ["latitudes flipped to decrease", said])


FIRES: tuple[tuple[str, Edit, str | None, str, str], ...] = (
    ("format", attribute("kit_store", 2), None, "error", r"kit_store is 2, 1 expected"),
    ("layout", remove("longitude"), "longitude", "error", r"no such coordinate"),
    ("layout", rewrite("x", np.zeros((2, 2)), ("a", "b")), "x", "error", r"dimensions are \('a', 'b'\)"),
    ("layout", rewrite("number", 0, ()), "number", "warning", r"dimensions are \(\)"),
    ("layout", rewrite("lsm", np.zeros((16, 32)), ("latitude", "longitude")), "lsm", "error", r"are named static_"),
    ("layout", rewrite("latitude", np.arange(15.0), ("latitude",)), "2t", "error", r"shape is \(12, 16, 32\), .*15"),
    ("layout", rewrite("2t", np.zeros((12, 16, 32), bool), ("time", "latitude", "longitude")), "2t", "error", "bool"),
    ("layout", rewrite("time", HOURS // 3600, ("time",), units="hours since 1970-01-01"), "time", "error", r"'hours"),
    ("layout", remove("level"), "u", "error", r"no usable coordinate level"),
    ("readable", damage, "2t", "error", r"state 3 of 12 cannot be read"),
    ("variables", remove("2t", "10u", "10v", "msl", "tp", "swh"), None, "error", r"no surface variable"),
    ("variables", remove("u", "v", "q", "z", "t"), None, "error", r"no atmospheric variable"),
    ("variables", remove("static_lsm", "static_slt", "static_z"), None, "error", r"no static variable"),
    (
        "known-variables",
        rewrite("mystery", np.zeros((12, 16, 32)), ("time", "latitude", "longitude")),
        "mystery",
        "info",
        r"range is not checked",
    ),
    ("statistics", forget, None, "error", r"has no statistics"),
    ("statistics", spoil, None, "error", r"not the statistics"),
    ("statistics", statistics(lambda v: v.pop("2t")), "2t", "error", r"stats.json lacks 2t"),
    ("statistics", statistics(lambda v: v.pop("u_500")), "u", "error", r"stats.json lacks u_500$"),
    ("statistics", statistics(lambda v: v["2t"].update(std=0)), "2t", "error", r"2t has mean .*, scale 0"),
    ("statistics", statistics(lambda v: v["q_850"].update(mean=None)), "q", "error", r"q_850 has mean nan"),
    (
        "statistics",
        statistics(lambda v: v["static_lsm"].update(std=0)),
        "static_lsm",
        "warning",
        r"static_lsm has mean .*, scale 0",
    ),
    ("latitude", replace("latitude", np.flip), "latitude", "error", r"not strictly decreasing at 15 of 15 steps: -84"),
    ("latitude", set_values("latitude", 0, 95.0), "latitude", "error", r"1 of 16 values outside \[-90, 90\], first 95"),
    ("latitude", set_values("latitude", 3, np.nan), "latitude", "error", r"not strictly decreasing at 2 of 15"),
    ("longitude", replace("longitude", lambda v: v - 180), "longitude", "error", r"16 of 32 .*\[0, 360\), first -180"),
    ("longitude", set_values("longitude", 5, 0.0), "longitude", "error", r"at 1 of 31 steps: 45 is followed by 0"),
    ("level", replace("level", np.flip), "level", "error", r"not strictly increasing at 2 of 2 steps: 850"),
    (
        "level",
        replace("level", lambda v: v * 100),
        "level",
        "error",
        r"outside \(0, 1100\] hPa \(Pa for hPa: divide by 100\), first 10000",
    ),
    (
        "grid-spacing",
        set_values("latitude", 0, 89.0),
        "latitude",
        "warning",
        r"1 of 15 steps differ from 11.25 degrees",
    ),
    (
        "grid-spacing",
        replace("longitude", lambda v: np.where(v > 180, v, v / 10)),
        "longitude",
        "warning",
        r"differ from",
    ),
    (
        "time-order",
        set_values("time", 4, HOURS[3]),
        "time",
        "error",
        r"1 times occur more than once, first 2020-01-01T18:00",
    ),
    (
        "time-order",
        replace("time", lambda v: np.roll(v, 1)),
        "time",
        "error",
        r"unsorted at 1 places: 2020-01-03T18:00 is followed by 2020-01-01T00:00",
    ),
    (
        "time-gaps",
        replace("time", lambda v: v + 86400 * (np.arange(12) > 7)),
        "time",
        "warning",
        r"1 of 11 steps differ from the usual 6 h, first from 2020-01-02T18:00 to 2020-01-04T00:00",
    ),
    (
        "time-gaps",
        rewrite("time", HOURS[:1], ("time",), units="seconds since 1970-01-01"),
        "time",
        "error",
        "one state",
    ),
    (
        "nan",
        set_values("u", (slice(4, 6), 1, 2, slice(0, 3)), np.nan),
        "u",
        "error",
        r"6 of 18432 values NaN in 2 of 12 states on 1 of 3 levels, a block; first: 2020-01-02T00:00, 500 hPa, 61.8",
    ),
    (
        "nan",
        set_values("static_z", (15, 1), np.nan),
        "static_z",
        "error",
        r"1 of 512 values NaN, scattered; first: 84.375 S, 11.25 E$",
    ),
    (
        "nan",
        set_values("swh", (slice(None), 1, 1), np.nan),
        "swh",
        "info",
        r"12 of 6144 values NaN in 12 of 12 states, the same points in every state; first",
    ),
    (
        "nan",
        set_values("swh", 7, np.nan),
        "swh",
        "error",
        r"512 of 6144 values NaN in 1 of 12 states, whole fields; first: 2020-01-02T18",
    ),
    (
        "inf",
        set_values("2t", (0, 0, 31), -np.inf),
        "2t",
        "error",
        r"1 of 6144 values infinite in 1 of 12 states, scattered; first: 2020",
    ),
    ("range", replace("2t", lambda v: v - 273.15), "2t", "error", r"6144 of .*outside \[150, 350\] K \(values span"),
    ("range", set_values("tp", (0, 0, 0), 2.0), "tp", "error", r"1 of .*outside \[0, 1\] m \(values span 0 to 2\)"),
    ("range", set_values("static_lsm", (0, 0), 100), "static_lsm", "error", r"1 of 512 values outside \[0, 1\] 1"),
    (
        "constant-in-space",
        replace("10u", np.zeros_like),
        "10u",
        "error",
        r"one value \(0\) everywhere in all 12 states",
    ),
    ("constant-in-space", replace("tp", np.zeros_like), "tp", "error", r"one value \(0\) everywhere in all 12 states"),
    ("constant-in-space", set_values("q", (slice(None), 0), 1e-6), "q", "error", r"in all 12 states at 100 hPa"),
    ("constant-in-space", set_values("static_slt", ..., 0), "static_slt", "warning", r"one value \(0\) everywhere$"),
    (
        "constant-in-space",
        set_values("2t", 5, 280.0),
        "2t",
        "warning",
        r"1 of 12 fields with one .*; first: 2020-01-02T06:00$",
    ),
    ("constant-in-time", replace("2t", lambda v: v[:1] + 0 * v), "2t", "error", r"the same in all 12 states$"),
    (
        "constant-in-time",
        replace("u", lambda v: np.concatenate([v[:, :2], v[:1, 2:] + 0 * v[:, 2:]], axis=1)),
        "u",
        "error",
        r"the same in all 12 states at 850 hPa$",
    ),
    (
        "constant-in-time",
        stuck("10u", 4),
        "10u",
        "warning",
        r"1 of 12 fields equal to the one before .*: 2020-01-02T00",
    ),
    ("missing-variables", remove("10v", "msl"), None, "info", r"reads 4 surface variables; the store lacks 10v, msl$"),
    ("missing-levels", rewrite("level", [100.0, 500.0, 870.0], ("level",)), "level", "info", r"870 hPa: upstream pub"),
    ("time-step", replace("time", lambda v: v[0] + (v - v[0]) * 7 // 6), "time", "warning", r"every 7 h, which does"),
    ("accumulation-window", state("tp", "accumulation_hours", None), "tp", "warning", r"does not say over how many"),
    ("accumulation-window", state("tp", "accumulation_hours", 1), "tp", "warning", r"over 1 h, .* 6 h: what fell"),
    ("accumulation-window", state("tp", "accumulation_hours", 24), "tp", "warning", r"windows overlap"),
    ("model-levels", replace("level", lambda _: [96.0, 97.0, 98.0]), "level", "error", r"96 to 98 in steps of 1"),
    (
        "static-coordinates",
        add("static_coslat", COSINE.T.reshape(16, 32)),
        "static_coslat",
        "error",
        r"its latitudes by",
    ),
    ("static-coordinates", add("static_sinlat", COSINE), "static_sinlat", "error", r"its latitudes by up to 1.41"),
    ("negative", set_values("tp", (0, 0, 0), -0.01), "tp", "error", r"1 of 6144 values below zero, down to -0.01"),
    (
        "negative",
        set_values("q", (0, 1, 2, 3), -5e-4),
        "q",
        "error",
        r"below zero, down to -0.0005 .*500 hPa, 61.875 N",
    ),
    ("outliers", set_values("msl", (5, 3, 4), 125000.0), "msl", "warning", r"1 of 6144 values far .* 2020-01-02T06:00"),
    ("jumps", set_values("10u", 7, 40.0), "10u", "warning", r"the mean of 1 of 12 states .* first 2020-01-02T18:00"),
    ("zeros", set_values("msl", (slice(None), slice(0, 2)), 0.0), "msl", "warning", r"768 of 6144 values \(12.5%\)"),
    ("duplicate-variables", _copy("10u", "10v"), "10v", "warning", r"has the mean of 10u in every state"),
    ("units-attribute", state("2t", "units", "degC"), "2t", "error", r"unit 'degC', and 'K' is expected"),
    ("unit-mistake", replace("2t", lambda v: v - 273.15), "2t", "error", r"degrees Celsius for kelvin"),
    ("unit-mistake", replace("msl", lambda v: v / 100), "msl", "error", r"hPa for Pa"),
    (
        "unit-mistake",
        replace("msl", lambda v: v / np.where(np.arange(12) < 5, 1, 100)[:, None, None]),
        "msl",
        "error",
        r"7 of 12 states from 2020-01-02T06:00 on: hPa for Pa",
    ),
    ("unit-mistake", replace("msl", lambda v: v / 1000), "msl", "error", r"kPa for Pa"),
    ("unit-mistake", replace("z", lambda v: v / 9.80665), "z", "error", r"0.102 times .*: geopotential height in m$"),
    ("unit-mistake", replace("z", lambda v: v / 98.0665), "z", "error", r"geopotential height in dam$"),
    ("unit-mistake", replace("static_z", lambda v: v / 9.80665), "static_z", "error", r"metres for m2 s-2"),
    ("unit-mistake", replace("tp", lambda v: v * 1000), "tp", "error", r"mm for m"),
    ("unit-mistake", replace("q", lambda v: v * 1000), "q", "error", r"g/kg for kg/kg"),
    ("unit-mistake", replace("static_lsm", lambda v: v * 100), "static_lsm", "error", r"percent for a share"),
    ("unit-mistake", add("ssrd", 300 * np.random.default_rng(0).random((12, 16, 32))), "ssrd", "error", r"W m-2 for J"),
    ("hydrostatic", replace("z", lambda v: v / 9.80665), "z", "error", r"the thickness from z is 0.0\d* times"),
    ("hydrostatic", replace("z", lambda v: np.flip(v, axis=1)), "z", "error", r"the thickness from z is -\S* times"),
    ("hydrostatic", replace("level", lambda _: [300.0, 400.0, 925.0]), "z", "error", r"between \d+ and \d+ hPa"),
    ("hydrostatic", replace("t", lambda v: v + 25), "z", "warning", r"the thickness from z is 0.8\d* times"),
    (
        "dew-point",
        add("2d", np.full((12, 16, 32), 290.0) + np.arange(12.0)[:, None, None]),
        "2d",
        "warning",
        r"above 2t",
    ),
    ("land-sea-mask", set_values("static_lsm", (0, 0), 100), "static_lsm", "error", r"spans 0 to 100; shares of land"),
    ("land-sea-mask", replace("static_lsm", lambda v: 1 - v), "static_lsm", "error", r"100% of the highest ground"),
    ("soil-type", replace("static_slt", lambda v: 2 - v), "static_slt", "warning", r"100% of points static_slt contra"),
    (
        "static-alignment",
        _pressure,
        "static_z",
        "error",
        r"mean of sp, north and south are exchanged: correlation -1.0",
    ),
    ("splits", split(valid="2020-01-02T00/2020-01-03T00"), None, "error", r"^train .* and valid .* overlap$"),
    ("splits", split(test="2020-01-02T18/2020-01-03T12"), None, "warning", r"^valid .* and test .* overlap$"),
    ("splits", split(test="2021-01-01/2021-02-01"), None, "error", r"^test .* holds no state$"),
    ("splits", split(test="yesterday"), None, "error", r"^test: expected START/END"),
    (
        "statistics-match",
        statistics(lambda v: v["2t"].update(mean=290)),
        "2t",
        "error",
        r"2t: mean 290 recorded, 2\d\d",
    ),
    (
        "statistics-match",
        statistics(lambda v: v["u_500"].update(std=20)),
        "u",
        "error",
        r"u_500: scale 20 recorded, \d",
    ),
    (
        "statistics-drift",
        statistics(lambda v: v["msl"].update(std=9151.2)),
        "msl",
        "error",
        r"^msl: .* 6.87 times as w",
    ),
    (
        "statistics-drift",
        statistics(lambda v: v["t_500"].update(mean=-20)),
        "t",
        "error",
        r"^t_500: .* 20.9 scales awa",
    ),
    ("statistics-drift", statistics(lambda v: v["10u"].update(mean=25)), "10u", "warning", r"^10u: .* 4.5 scales away"),
    ("readable", _gone, "2t", "error", r"state 3 of 12 cannot be read .*3/0/0 is gone"),
    ("self-contained", _linked, "2t", "warning", r"1 of its files or folders are links, first 0 to .*elsewhere"),
    ("infilled", _filled(6), "2t", "info", r"6 of 6144 values .* filled by nearest"),
    ("infilled", _filled(1228), "2t", "warning", r"1228 of 6144 values \(0.2 of them\)"),
    (
        "geography",
        _earth(lambda mask: np.roll(mask, 16, axis=1)),
        "static_lsm",
        "error",
        r"points in the midst of land and sea right; \d+% were it not half the circle off in longitude",
    ),
    ("geography", _earth(np.flipud), "static_lsm", "error", r"were it not upside down$"),
    ("geography", attribute("synthetic", False), "static_lsm", "warning", r"has \d+% of \d+ points"),
    ("seam", replace("2t", lambda v: v + np.linspace(0, 60, 32)), "2t", "warning", r"^at 348.75 and 0 E it differs by"),
    (
        "seam",
        set_values("u", (slice(None), 1, slice(None), 0), 90.0),
        "u",
        "warning",
        r"times as much as any two",
    ),
    ("leads", state("2t", "lead_hours", [6, 12]), None, "warning", r"different leads, 2t: 6, 12 h$"),
    (
        "leads",
        together(_LEADS, state("msl", "lead_hours", 6)),
        None,
        "warning",
        r"leads, 10u, 10v, 2t, q, swh and 4 more: 0 h; msl: 6 h$",
    ),
    ("leads", together(_LEADS, state("tp", "lead_hours", [1, 2])), None, "info", r"0 h; tp: 1, 2 h$"),
    (
        "running-totals",
        _totals(4),
        "tp",
        "error",
        r"over 9 steps and drops after 2, first after 2020-01-01T18:00: .* a st",
    ),
    (
        "running-totals",
        together(_totals(4), replace("time", lambda v: v + 6 * 3600)),
        "tp",
        "error",
        r"first after 2020-01-02T00:00: these are totals since 00 UTC, not sums of the 1 h that it states$",
    ),
    (
        "running-totals",
        replace("tp", lambda v: np.cumsum(np.tile(v, (1, 1, 1)) + 1e-4, axis=0)[[0, 1, 2, 0, 1, 2] * 2]),
        "tp",
        "error",
        r"over 8 steps and drops after 3",
    ),
    (
        "window-values",
        _daily_sunshine(1),
        "ssrd",
        "error",
        r"^reaches 7\d\d\d W m-2, .* at most 1407: the window of 1 h",
    ),
    (
        "window-values",
        _sunshine(1, 24),
        "ssrd",
        "error",
        r"\d\d% of its values are zero, .*24 h that it states is too long",
    ),
    (
        "window-values",
        add("strd", 300 * 3600 + 3600 * SUNSHINE / 3.6e4, accumulation_hours=24),
        "strd",
        "error",
        r"mean is 13.\d W m-2, and the sky gives 40 to 560: the window of 24 h that it states is too long",
    ),
    (
        "window-values",
        add("strd", 24 * (300 * 3600 + SUNSHINE / 10), accumulation_hours=1),
        "strd",
        "error",
        r"too short",
    ),
    (
        "window-values",
        add("tp", 48 * _rain(), accumulation_hours=1),
        "tp",
        "warning",
        r"its mean is 1\d\d mm a day, and no region has 100: the window of 1 h that it states is too short for them",
    ),
    (
        "window-values",
        together(attribute("synthetic", False), add("tp", _rain(), accumulation_hours=24)),
        "tp",
        "warning",
        r"over the globe is 0.\d+ mm a day, where 0.5 to 10 are expected: the window of 24 h .* too long",
    ),
    (
        "level-profile",
        _near_ground,
        "level",
        "error",
        r"^t averages 255, 277, 288 at 60, 96, 137 hPa; q averages 0.0008, ",
    ),
    ("level-profile", _kilopascal, "level", "error", r"^t averages 255, 277, 288 at 50, 85, 100 hPa"),
    ("level-profile", replace("q", lambda v: np.flip(v, axis=1)), "q", "warning", r"^q averages 0.00\d+ at 100 hPa"),
)
"""Check, fault, variable, severity, what is said."""

SILENT: tuple[tuple[str, Edit], ...] = (
    ("layout", rewrite("level", [1.0, 2.0, 3.0], ("level",))),
    ("variables", remove("2t", "q", "static_z")),
    ("statistics", statistics(lambda v: v.update(more=v["2t"]))),
    ("grid-spacing", set_values("latitude", 0, 84.5)),
    ("time-gaps", replace("time", lambda v: v // 6)),
    ("range", set_values("tp", (0, 0, 0), -1e-7)),
    ("constant-in-space", set_values("tp", 5, 0.0)),
    ("constant-in-time", set_values("tp", slice(5, 8), 0.0)),
    ("constant-in-time", set_values("swh", (slice(None), 3, 3), np.nan)),
    ("model-levels", rewrite("level", [1.0, 2.0, 5.0], ("level",))),
    ("model-levels", rewrite("level", [1.0, 2.0, 3.5], ("level",))),
    ("static-coordinates", add("static_coslat", COSINE)),
    ("negative", set_values("q", (0, 1, 2, 3), -5e-5)),
    ("negative", set_values("tp", (0, 0, 0), -1e-7)),
    ("outliers", set_values("tp", (5, 3, 4), 0.02)),
    ("jumps", set_values("10u", (7, slice(0, 2)), 8.0)),
    ("zeros", set_values("tp", (slice(None), slice(0, 8)), 0.0)),
    ("units-attribute", state("z", "units", "m**2 s**-2")),
    ("unit-mistake", replace("2t", lambda v: v - 60)),
    ("unit-mistake", set_values("msl", ..., 90000.0)),
    ("hydrostatic", replace("t", lambda v: v + 5)),
    ("dew-point", add("2d", np.full((12, 16, 32), 240.0))),
    ("land-sea-mask", remove("static_z")),
    ("soil-type", set_values("static_slt", (0, slice(0, 20)), 1.0)),
    ("static-alignment", add("sp", np.random.default_rng(0).normal(98000, 500, (12, 16, 32)))),
    ("splits", split(valid="2020-01-02T18/2020-01-02T18")),
    ("statistics-match", statistics(lambda v: v["2t"].update(mean=v["2t"]["mean"] * (1 + 1e-6)))),
    ("statistics-drift", statistics(lambda v: v["2t"].update(mean=225.0, std=2.0))),
    ("accumulation-window", state("2t", "accumulation_hours", 1)),
    ("missing-variables", add("2d", np.full((12, 16, 32), 270.0))),
    ("geography", _earth()),
    ("geography", together(_earth(), replace("static_lsm", lambda mask: np.where(np.arange(32) % 9 == 0, 1, mask)))),
    ("readable", set_values("2t", 3, np.nan)),
    ("infilled", attribute("history", ["2t converted from degC to K"])),
    ("seam", replace("2t", lambda v: np.roll(v, 7, axis=2))),
    ("leads", _LEADS),
    ("leads", state("2t", "lead_hours", 6)),
    ("running-totals", set_values("tp", slice(2, 5), 0.0)),
    ("running-totals", add("tp", _rain(6))),
    ("running-totals", add("ssrd", SUNSHINE)),
    ("running-totals", together(remove("tp"), add("ssrd", SUNSHINE[:, :, :1] + 0 * SUNSHINE))),
    ("window-values", _sunshine(1, 1)),
    ("window-values", _daily_sunshine(24)),
    ("window-values", add("strd", 300 * 3600 + SUNSHINE / 10, accumulation_hours=1)),
    ("window-values", together(attribute("synthetic", False), add("tp", _rain(), accumulation_hours=1))),
    # Another unit is no other window: the check of units tells.
    ("window-values", add("tp", 1e3 * _rain(6), accumulation_hours=6)),
    ("level-profile", replace("t", lambda v: v - 273.15)),
    ("level-profile", replace("t", lambda v: v + 15)),
    ("level-profile", replace("z", lambda v: v / 9.80665)),
)
"""What looks like a fault and is none: coarse rounding, dry hours, noise of packing, extreme regions, spellings."""

NOT_APPLICABLE: tuple[tuple[str, Edit, str], ...] = (
    ("hydrostatic", remove("t"), r"^the store lacks t$"),
    ("dew-point", remove("2t"), r"^the store lacks 2t, 2d$"),
    ("land-sea-mask", remove("static_lsm"), r"^the store lacks static_lsm$"),
    ("soil-type", remove("static_slt"), r"^the store lacks static_slt$"),
    ("static-alignment", remove("static_z"), r"^the store lacks static_z$"),
    ("static-alignment", _box, r"^without sp, the whole globe is needed$"),
    (
        "geography",
        together(attribute("synthetic", False), _box),
        r"^\d+ points in the midst of land and sea, 30 needed$",
    ),
    ("accumulation-window", remove("tp"), r"^no accumulated variable$"),
    ("negative", remove("tp", "swh", "q", "static_lsm", "static_slt"), r"^no variable that cannot be below zero$"),
    ("model-levels", remove("level"), r"^no usable coordinate level$"),
    ("infilled", attribute("history", None), r"^no history of the build$"),
    ("statistics-match", forget, r"^no readable statistics$"),
    ("units-attribute", attribute("synthetic", True), r"^no variable of the table states a unit$"),
    ("seam", _box, r"^the grid does not go around the Earth$"),
    ("leads", attribute("synthetic", True), r"^no variable states its lead"),
    ("running-totals", remove("tp"), r"^no sums"),
    ("window-values", state("tp", "accumulation_hours", None), r"^no sums that state their window$"),
    ("level-profile", remove("t", "q", "z"), r"^no temperature, humidity or geopotential"),
    ("wind-direction", attribute("synthetic", True), r"^the grid's axes point east and north$"),
)
"""Check, what is taken from the store, the reason that is told."""

"""Files of HRRR's in small: its projection with wide steps, its messages, its indices, its folders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.data.sources.grib_files import eccodes
from tests.servers import Server

__all__ = ["CONE", "HEIGHT", "HRRR", "LEVELS", "WIDTH", "field", "lambert", "put_hour", "put_run"]

HEIGHT, WIDTH = 24, 40
"""135 km instead of 3: the same corner, nearly the same extent."""
HRRR = {
    "Nx": WIDTH,
    "Ny": HEIGHT,
    "shapeOfTheEarth": 6,
    "latitudeOfFirstGridPointInDegrees": 21.138123,
    "longitudeOfFirstGridPointInDegrees": 237.280472,
    "LaDInDegrees": 38.5,
    "LoVInDegrees": 262.5,
    "Latin1InDegrees": 38.5,
    "Latin2InDegrees": 38.5,
    "DxInMetres": 135000,
    "DyInMetres": 135000,
    "scanningMode": 64,
    "resolutionAndComponentFlags": 56,
}
CONE = 0.6225146366376195
"""sin(38.5 degrees)."""
LEVELS = (500, 850, 1000)
_NUMBERS = {
    "REFC:entire atmosphere": (0, 16, 196, 10, 0),
    "TMP:2 m above ground": (0, 0, 0, 103, 2),
    "DPT:2 m above ground": (0, 0, 6, 103, 2),
    "UGRD:10 m above ground": (0, 2, 2, 103, 10),
    "VGRD:10 m above ground": (0, 2, 3, 103, 10),
    "CAPE:surface": (0, 7, 6, 1, 0),
    "CIN:surface": (0, 7, 7, 1, 0),
    "PRES:surface": (0, 3, 0, 1, 0),
    "HGT:surface": (0, 3, 5, 1, 0),
    "LAND:surface": (2, 0, 0, 1, 0),
    "MSLMA:mean sea level": (0, 3, 198, 101, 0),
    "TCDC:entire atmosphere": (0, 6, 1, 10, 0),
    "PWAT:entire atmosphere (considered as a single layer)": (0, 1, 3, 200, 0),
    "CAPE:180-0 mb above ground": (0, 7, 6, 108, 18000),
    "APCP:surface": (0, 1, 8, 1, 0),
}
_UPPER = {
    "HGT": (0, 3, 5),
    "TMP": (0, 0, 0),
    "DPT": (0, 0, 6),
    "UGRD": (0, 2, 2),
    "VGRD": (0, 2, 3),
    "SPFH": (0, 1, 0),
}
_VALUES = {
    "REFC": (-10, 32),
    "TMP": (280, 4),
    "DPT": (275, 4),
    "UGRD": (2, 4),
    "VGRD": (2, 8),
    "CAPE": (0, 512),
    "CIN": (-64, 32),
    "PRES": (95000, 256),
    "MSLMA": (101000, 256),
    "TCDC": (0, 64),
    "PWAT": (16, 8),
    "APCP": (2, 1),
    "SPFH": (0.004, 0.001),
}
"""Value at the first point at midnight, and how much it grows over the columns, and over 24 hours."""
_HEIGHTS = {500: 5781, 850: 1432, 1000: 100}
"""Metres, in balance with 280 K."""


def field(line: str, time: np.datetime64) -> npt.NDArray[np.float64]:
    """The values of a message, rows northwards."""
    name, _, place = line.partition(":")
    columns = np.tile(np.arange(WIDTH) / WIDTH, (HEIGHT, 1))
    if line == "LAND:surface":
        return np.round(columns)
    if line == "HGT:surface":
        return np.round(columns) * (100 + 400 * columns)
    hour = int(time.astype("datetime64[h]").astype(int) % 24)
    base, growth = (_HEIGHTS[int(place.split()[0])], 16) if name == "HGT" else _VALUES[name]
    return np.asarray(base + growth * (columns + hour / 24))


def lambert(
    line: str, time: np.datetime64, *, lead: int = 0, values: npt.NDArray[Any] | None = None, **keys: Any
) -> bytes:
    """One message.

    Args:
        line: ``variable:level``, as an index words it.
        time: that it is valid at.
        lead: hours from the run; an accumulation runs over them.
        values: [H, W], rows northwards; by default ``field``.
        keys: of eccodes, over those of the grid.
    """
    name, _, place = line.partition(":")
    upper = place.endswith(" mb")
    numbers = (*_UPPER[name], 100, int(place.split()[0]) * 100) if upper else _NUMBERS[line]
    run = (time - np.timedelta64(lead, "h")).astype("datetime64[h]").item()
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    given = {
        "centre": 7,
        "tablesVersion": 2,
        "gridType": "lambert",
        **HRRR,
        "dataDate": int(f"{run:%Y%m%d}"),
        "dataTime": run.hour * 100,
        **({"productDefinitionTemplateNumber": 8, "typeOfStatisticalProcessing": 1} if lead else {}),
        "discipline": numbers[0],
        "parameterCategory": numbers[1],
        "parameterNumber": numbers[2],
        "typeOfFirstFixedSurface": numbers[3],
        "scaleFactorOfFirstFixedSurface": 0,
        "scaledValueOfFirstFixedSurface": numbers[4],
        **({"stepRange": f"0-{lead}"} if lead else {}),
        "bitsPerValue": 16,
    }
    for key, item in (given | keys).items():
        eccodes.codes_set(handle, key, item)
    content = field(line, time) if values is None else values
    eccodes.codes_set_values(handle, content.astype(np.float64).ravel())
    message: bytes = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return message


def put_run(
    server: Server, time: np.datetime64, lines: Iterable[str], *, product: str = "sfc", lead: int = 0
) -> tuple[str, list[bytes]]:
    """Serve one file of HRRR's and its index; returns its path, and its messages."""
    run = (time - np.timedelta64(lead, "h")).astype("datetime64[h]").item()
    path = f"/hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrf{product}f{lead:02d}.grib2"
    moment = f"0-{lead} hour acc fcst" if lead else "anl"
    names = list(lines)
    messages = [lambert(line, time, lead=lead) for line in names]
    index, at = [], 0
    for number, (line, content) in enumerate(zip(names, messages, strict=True), 1):
        index.append(f"{number}:{at}:d={run:%Y%m%d%H}:{line}:{moment}:")
        at += len(content)
    server.put(path, b"".join(messages))
    server.put(f"{path}.idx", ("\n".join(index) + "\n").encode())
    return path, messages


def put_hour(server: Server, time: str) -> dict[str, str]:
    """Serve the files of an hour, as HRRR has them: of the surface, of all levels, and the run before for rain.

    Pressure levels of the surface's file lack humidity, and height at 1000 hPa.

    Returns:
        Paths, by product: ``sfc``, ``prs``, ``rain``.
    """
    moment = np.datetime64(time, "h")
    levels = [f"{name}:{level} mb" for level in LEVELS for name in ("HGT", "TMP", "DPT", "UGRD", "VGRD")]
    upper = [f"{name}:{level} mb" for level in LEVELS for name in ("HGT", "TMP", "SPFH", "UGRD", "VGRD")]
    surface = [line for line in _NUMBERS if line != "APCP:surface"]
    held = [line for line in levels if line != "HGT:1000 mb"]
    return {
        "sfc": put_run(server, moment, [surface[0], *held, *surface[1:]])[0],
        "prs": put_run(server, moment, upper, product="prs")[0],
        "rain": put_run(server, moment, ["REFC:entire atmosphere", "APCP:surface"], lead=1)[0],
    }

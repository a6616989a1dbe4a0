"""GRIB messages with known values, written with eccodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.sources.grib.scan import load_eccodes

__all__ = ["FIELD", "HEIGHT", "LATITUDE", "LONGITUDE", "WIDTH", "eccodes", "field", "message", "write"]

eccodes = load_eccodes()
HEIGHT, WIDTH = 3, 4
LATITUDE = np.array([50.5, 50.25, 50.0])
LONGITUDE = np.array([5.0, 5.25, 5.5, 5.75])
FIELD = np.arange(12, dtype=np.float64).reshape(HEIGHT, WIDTH)
"""Whole numbers below 2^8, which 16 bits hold exactly; rows southwards, columns eastwards."""


def field(base: float) -> npt.NDArray[np.float64]:
    """A field that can be told from others."""
    return FIELD + base


def message(
    values: npt.NDArray[np.float64] = FIELD,
    *,
    param: int = 167,
    level: int | None = None,
    time: str = "2020-01-01T00",
    edition: int = 1,
    grid: Sequence[npt.NDArray[np.float64]] = (LATITUDE, LONGITUDE),
    late: bool = False,
    **keys: Any,
) -> bytes:
    """One message on a regular grid.

    Args:
        values: [H, W], or in the message's own order; NaN for missing.
        param: ECMWF's parameter number.
        level: in hPa; None for the surface.
        time: of the analysis, to the hour.
        edition: of GRIB.
        grid: latitudes and longitudes, in the order of the message.
        late: set ``keys`` after the values, to contradict them.
        keys: of eccodes, set last of all.
    """
    handle = eccodes.codes_grib_new_from_samples(f"regular_ll_{'sfc' if level is None else 'pl'}_grib{edition}")
    latitude, longitude = grid
    given = {
        "Ni": len(longitude),
        "Nj": len(latitude),
        "iScansNegatively": int(longitude[-1] < longitude[0]),
        "jScansPositively": int(latitude[-1] > latitude[0]),
        "latitudeOfFirstGridPointInDegrees": latitude[0],
        "latitudeOfLastGridPointInDegrees": latitude[-1],
        "longitudeOfFirstGridPointInDegrees": longitude[0],
        "longitudeOfLastGridPointInDegrees": longitude[-1],
        "iDirectionIncrementInDegrees": abs(longitude[1] - longitude[0]),
        "jDirectionIncrementInDegrees": abs(latitude[1] - latitude[0]),
        "dataDate": int(time[:10].replace("-", "")),
        "dataTime": int(time[11:13]) * 100,
        "paramId": param,
        "bitsPerValue": 16,
    }
    if "typeOfLevel" in keys:
        given["typeOfLevel"] = keys.pop("typeOfLevel")
    if level is not None:
        given["level"] = level
    for key, value in (given | ({} if late else keys)).items():
        eccodes.codes_set(handle, key, value)
    if np.isnan(values).any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 9999)
    eccodes.codes_set_values(handle, np.where(np.isnan(values), 9999, values).ravel())
    for key, value in keys.items() if late else ():
        eccodes.codes_set(handle, key, value)
    content: bytes = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return content


def write(path: Path, *messages: bytes) -> Path:
    """Put messages into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(messages))
    return path

"""Coasts and borders of the Earth, from Natural Earth (public domain); ``nox -s coastlines`` makes the file."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.io.errors import RegistryError
from kit.registry.fetching import fetch

ENTRY = "coastlines"
"""Name of the file in the registry."""
SCALES = ("110m", "50m")
"""1 to 110 million, for the whole Earth, and 1 to 50 million, for a part of it."""
DEGREES = 180 / 32767
"""Degrees in one step of the file's whole numbers: 600 m, less than the lines themselves are off."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """Lines on the Earth, each ended by NaN, as matplotlib draws several at once.

    Attributes:
        longitude: Degrees east in [-180, 180], [N].
        latitude: Degrees north, [N].
    """

    longitude: Array
    latitude: Array

    def within(self, west: float, south: float, east: float, north: float) -> Lines:
        """Keep what lies in a box of degrees, on whichever turn of the circle the box is.

        Lines go on to the first point outside, so that they reach the edge of the box.
        """
        longitudes, latitudes = [], []
        for turn in (-360.0, 0.0, 360.0):
            longitude = self.longitude + turn
            inside = (longitude >= west) & (longitude <= east) & (self.latitude >= south) & (self.latitude <= north)
            near = inside.copy()
            near[1:] |= inside[:-1]
            near[:-1] |= inside[1:]
            if inside.any():
                longitudes.append(np.where(near, longitude, np.nan))
                latitudes.append(np.where(near, self.latitude, np.nan))
        if not longitudes:
            return Lines(np.empty(0), np.empty(0))
        return Lines(np.concatenate(longitudes), np.concatenate(latitudes))


@functools.cache
def earth_lines(kind: str, scale: str) -> Lines:
    """Read lines that the package carries.

    Args:
        kind: ``coasts`` or ``borders``.
        scale: One of ``SCALES``.

    Raises:
        RegistryError: the package's file is missing, damaged or another one.
    """
    path = fetch(ENTRY)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            points: npt.NDArray[Any] = arrays[f"{kind}_{scale}"]
            lengths: npt.NDArray[Any] = arrays[f"{kind}_{scale}_lengths"]
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        msg = f"{path}: no file of coastlines ({error}); make it anew with nox -s coastlines, or install the kit again"
        raise RegistryError(msg) from error
    ends = np.cumsum(lengths)
    longitude, latitude = np.insert(points.astype(np.float64) * DEGREES, ends, np.nan, axis=0).T
    return Lines(longitude, latitude)

"""Made-up weather for benchmarks: fields with the spectrum of the atmosphere's, packed as archives pack theirs.

White noise does not compress and a smooth wave does so by itself: how large a store becomes and how fast it is read
are told only by fields whose small scales are as strong as real ones. Their amplitude falls with the wave number to
the power of -5/3 (a variance spectrum of about -3, Nastrom and Gage 1985, doi:10.1175/1520-0469(1985)042), and values
are rounded to the 16 bits of ERA5's GRIB files.

Dimension letters: H latitude, W longitude.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.sources.grib.scan import load_eccodes

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
_SLOPE = -5 / 3
_BITS = 16
_SURFACE = {167: (280.0, 15.0), 165: (0.0, 6.0), 166: (0.0, 6.0), 151: (101_000.0, 1_200.0)}
_ATMOSPHERIC = {
    129: (60_000.0, 3_000.0),
    130: (250.0, 15.0),
    131: (8.0, 12.0),
    132: (0.0, 10.0),
    133: (5e-3, 5e-4),
}
_STATIC = {129: (5_000.0, 900.0), 172: (0.5, 0.1), 43: (3.0, 0.5)}
"""ECMWF's parameter numbers, with a mean and a standard deviation of about the real ones."""


@dataclass(frozen=True)
class Field:
    """Quantity and time of one message: parameter number, level in hPa, and mean and deviation in its unit."""

    param: int
    level: int | None
    time: np.datetime64
    mean: float
    scale: float


def noise(shape: tuple[int, int], seed: int) -> npt.NDArray[np.float32]:
    """Draw a field of mean 0 and standard deviation 1, [H, W], periodic, rounded to 16 bits of its range."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(random.standard_normal(shape))
    waves = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    # The amplitude of wave number 0, the mean, becomes 0.
    waves[0, 0] = np.inf
    values = np.fft.irfft2(spectrum * waves**_SLOPE, s=shape)
    values /= values.std()
    # A GRIB message holds integers between the smallest and the largest value.
    step = (values.max() - values.min()) / (2**_BITS - 1)
    return np.asarray(np.round(values / step) * step, dtype=np.float32)


def fields(
    states: int, levels: Sequence[int] = LEVELS, *, surface: Sequence[int] = tuple(_SURFACE), hours: int = 6
) -> Iterator[Field]:
    """List the content of a file of ERA5: statics of the first state, then all fields, state by state."""
    times = np.datetime64("2020-01-01T00") + np.arange(states) * np.timedelta64(hours, "h")
    for param, (mean, scale) in _STATIC.items():
        yield Field(param, None, times[0], mean, scale)
    for time in times:
        for param in surface:
            yield Field(param, None, time, *_SURFACE[param])
        for param, level in product(_ATMOSPHERIC if levels else (), levels):
            yield Field(param, level, time, *_ATMOSPHERIC[param])


def write_grib(path: Path, shape: tuple[int, int], content: Iterator[Field]) -> int:
    """Write a file of GRIB 1 on a regular grid, as the CDS delivers ERA5.

    Args:
        path: File to write.
        shape: Number of rows and columns; the globe, both poles included.
        content: Quantity and time of each message.

    Returns:
        Bytes of the values, in float32.
    """
    eccodes = load_eccodes()
    packed: dict[tuple[int, int | None], Any] = {}
    written = 0
    with path.open("wb") as stream:
        for field in content:
            quantity = field.param, field.level
            if quantity not in packed:
                packed[quantity] = _message(field, shape, seed=len(packed))
            # The values of a quantity stay; each of its states is packed and read by itself all the same.
            moment = str(field.time)
            eccodes.codes_set(packed[quantity], "dataDate", int(moment[:10].replace("-", "")))
            eccodes.codes_set(packed[quantity], "dataTime", int(moment[11:13]) * 100)
            eccodes.codes_write(packed[quantity], stream)
            written += 4 * shape[0] * shape[1]
    for handle in packed.values():
        eccodes.codes_release(handle)
    return written


def _message(field: Field, shape: tuple[int, int], seed: int) -> Any:
    eccodes = load_eccodes()
    rows, columns = shape
    keys: dict[str, Any] = {
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPointInDegrees": 90.0,
        "latitudeOfLastGridPointInDegrees": -90.0,
        "longitudeOfFirstGridPointInDegrees": 0.0,
        "longitudeOfLastGridPointInDegrees": 360.0 * (columns - 1) / columns,
        "iDirectionIncrementInDegrees": 360.0 / columns,
        "jDirectionIncrementInDegrees": 180.0 / (rows - 1),
        "paramId": field.param,
        "bitsPerValue": _BITS,
    }
    sample = "regular_ll_sfc_grib1"
    if field.level is not None:
        sample, keys["level"] = "regular_ll_pl_grib1", field.level
    handle = eccodes.codes_grib_new_from_samples(sample)
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, (field.mean + field.scale * noise(shape, seed).astype(np.float64)).ravel())
    return handle

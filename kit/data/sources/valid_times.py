"""Valid times and leads of files, from what they state."""

import numpy as np
import xarray as xr

from kit.io.errors import StoreError

_FIRST, _LAST = np.datetime64("1678-01-01", "s"), np.datetime64("2262-01-01", "s")
"""Times that nanoseconds since 1970 hold in 64 bits; others would wrap around."""


def check_times(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Check that times are dates, and round them to seconds.

    Raises:
        StoreError: they are of another calendar, missing, or out of range.
    """
    times = dataset["time"]
    if times.ndim != 1 or not np.issubdtype(times.dtype, np.datetime64):
        first = times.values.ravel()[:1]
        msg = f"{where}: times of the type {times.dtype} ({first}) are not dates of the standard calendar"
        raise StoreError(msg)
    if without := int(np.isnat(times.values).sum()):
        msg = f"{where}: {without} of {times.size} times have no value; leave these states out"
        raise StoreError(msg)
    values = times.values.astype("datetime64[s]")
    outside = (values < _FIRST) | (values > _LAST)
    if outside.any():
        msg = f"{where}: the time {values[outside][0]} is not between {_FIRST} and {_LAST}; correct it"
        raise StoreError(msg)
    return dataset.assign_coords(time=("time", values.astype("datetime64[ns]")))

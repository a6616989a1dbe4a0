"""Valid times and leads of files, from what they state."""

import numpy as np
import xarray as xr

from kit.data.settings import Period
from kit.data.sources.dates import checked_dates
from kit.io.errors import StoreError


def check_times(dataset: xr.Dataset, where: str, period: Period | None = None) -> xr.Dataset:
    """Check that times are dates, and round them to seconds.

    Args:
        dataset: Fields along ``time``.
        where: Name of the file, for messages.
        period: Times that were asked for, whose years are believed.

    Raises:
        StoreError: They are of another calendar, missing, or out of range.
    """
    times = dataset["time"]
    if times.ndim != 1 or not np.issubdtype(times.dtype, np.datetime64):
        first = times.values.ravel()[:1]
        msg = f"{where}: times of the type {times.dtype} ({first}) are not dates of the standard calendar"
        raise StoreError(msg)
    return dataset.assign_coords(time=("time", checked_dates(times.values, where, period)))

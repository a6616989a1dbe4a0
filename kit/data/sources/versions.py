"""ERA5 and ERA5T in one file: final values stand before preliminary ones (``expver`` 1 and 5)."""

import numpy as np
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.sources.leads import VERSION, VERSIONS

_UNKNOWN = 9999


def with_versions(dataset: xr.Dataset) -> xr.Dataset:
    """State the version of each state, where a file gives one for each time.

    Args:
        dataset: One file; a dimension of versions stays as it is.

    Returns:
        The file with ``state_version`` along its times, where states of several files are compared.
    """
    if VERSIONS not in dataset.variables or VERSIONS in dataset.dims:
        return dataset
    versions = np.vectorize(_version, otypes=[np.float64])(dataset[VERSIONS].values)
    return dataset.drop_vars(VERSIONS).assign_coords({VERSION: (dataset[VERSIONS].dims, versions)})


def final_before_preliminary(dataset: xr.Dataset, note: Note) -> xr.Dataset:
    """Combine the versions along a dimension: final values where there are any, preliminary ones elsewhere; lazy.

    Args:
        dataset: Fields; without such a dimension they stay as they are.
        note: Takes what was done.
    """
    if VERSIONS not in dataset.dims or VERSIONS not in dataset.variables:
        return dataset
    order = np.argsort([_version(value) for value in dataset[VERSIONS].values], kind="stable")
    combined = dataset.isel({VERSIONS: order[0]}, drop=True)
    for index in order[1:]:
        combined = combined.fillna(dataset.isel({VERSIONS: index}, drop=True))
        note("ERA5 and ERA5T combined: preliminary values where there are no final ones")
    return combined


def _version(value: object) -> int:
    """Read a version as a number; what is none comes last."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    if text.strip().replace(".", "").isdigit():
        return int(float(text))
    return _UNKNOWN

"""Meridians that a grid gives twice, as 0 and 360 degrees: equal ones are one, others contradict each other."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.io.errors import StoreError

_READ = 3
"""Most states, and most levels of each, that are compared: the first, one between and the last."""
_ROUNDING = 1e-6
"""Share of the largest value within which single precision may round."""


def repeated_columns(dataset: xr.Dataset, kept: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Find columns of vectors of longitudes that are the same place as an earlier one.

    Args:
        dataset: Fields with longitudes in degrees, in any order.
        kept: Longitudes that are taken, in [0, 360).

    Returns:
        Positions of the first column and of the later one.
    """
    longitude = dataset["longitude"]
    if longitude.ndim != 1 or longitude.size < 2:
        return []
    first: dict[float, int] = {}
    pairs = []
    for column, degrees in enumerate((np.round(longitude.values.astype(np.float64), 5) % 360).tolist()):
        if degrees in first and np.isclose(kept, degrees, rtol=0, atol=1e-4).any():
            pairs.append((first[degrees], column))
        else:
            first[degrees] = column
    return pairs


def check_repeated(field: xr.DataArray, pairs: list[tuple[int, int]], where: str) -> None:
    """Check that columns of a field that are the same place hold the same values.

    Args:
        field: Field with its longitudes, lazy; a few states and levels of it are read.
        pairs: Positions of the columns.
        where: Name of the file, for messages.

    Raises:
        StoreError: They differ by more than the step of packed values, or than single precision rounds.
    """
    some = field
    for dimension in field.dims:
        if dimension not in ("latitude", "longitude"):
            last = field.sizes[dimension] - 1
            some = some.isel({dimension: sorted({0, last // 2, last})[:_READ]})
    for one, other in pairs:
        left = some.isel(longitude=one, drop=True)
        both = xr.concat([left, some.isel(longitude=other, drop=True)], "column", coords="minimal", compat="override")
        values = both.compute(scheduler="synchronous")
        apart = abs(values.isel(column=0) - values.isel(column=1))
        largest = float(np.abs(values).max())
        step = abs(float(field.encoding.get("scale_factor", 0.0)))
        allowed = max(step * (1 + _ROUNDING), largest * _ROUNDING)
        absent = values.isnull()
        differ = (apart > allowed) | (absent.isel(column=0) != absent.isel(column=1))
        if not bool(differ.any()):
            continue
        worst = float(apart.max())
        spot = apart.fillna(0).argmax(...)
        place = [f"{name} {apart[name].values[int(at)]}" for name, at in spot.items() if name in apart.coords]
        degrees = [float(field["longitude"].values[column]) for column in (one, other)]
        step_east = float(np.median(np.abs(np.diff(field["longitude"].values))))
        msg = (
            f"{where}: {field.name} at {degrees[0]:g} and at {degrees[1]:g} degrees east, which are one place, differs "
            f"by up to {worst:g} {field.attrs.get('units', '')} ({', '.join(map(str, place))}); which of them is right "
            "is not known: remove the wrong column (such as with xarray's isel), or leave the meridian out with "
            f"--region 90,{degrees[0] % 360 + step_east:g},-90,{(degrees[0] - step_east) % 360:g}"
        )
        raise StoreError(msg)

"""Values below zero of what cannot be: refused where they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kit.data.store import Store
from kit.data.variables import lookup
from kit.errors import StoreError

__all__ = ["refuse_negative"]


def refuse_negative(store: Store, name: str, times: Sequence[int], values: npt.NDArray[np.float32]) -> None:
    """Refuse states with values below zero by more than packing and differences of sums leave.

    Args:
        store: where they were read.
        name: of the variable.
        times: positions of the states in the store.
        values: of these states; the first axis is time. Missing ones say nothing.

    Raises:
        StoreError: names the time and the value.
    """
    known = lookup(name, "surface" if name in store.surface else "atmospheric")
    below = values < -(known.margin if known else 0.0)
    if below.any():
        first = int(np.flatnonzero(below.reshape(len(values), -1).any(axis=1))[0])
        found, unit = float(np.nanmin(values[first])), f" {known.units}" if known else ""
        msg = (
            f"{store.path}: {name} at {store.times[times[first]]} is as low as {found:g}{unit}, but it is transformed "
            f"as what cannot be below zero. Correct the source and build the store again, or leave {name} out"
        )
        raise StoreError(msg)

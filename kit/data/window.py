"""Accumulation windows: rain of a step must be the rain that fell in that step, no more and no less."""

from __future__ import annotations

from collections.abc import Iterable

from kit.data.store import Store
from kit.data.variables import lookup
from kit.errors import StoreError

__all__ = ["refuse_other_windows"]


def refuse_other_windows(store: Store, names: Iterable[str], hours: float, *, hourly: bool = False) -> None:
    """Refuse accumulated variables whose window is not that of a prediction.

    Args:
        store: states its windows, as ``kit data build`` does.
        names: surface variables that are read or predicted.
        hours: from one state of the model to the next.
        hourly: the model's own accumulated variables are of the last hour, whatever its step.

    Raises:
        StoreError: a window is another, or not stated; says how to build the store.
    """
    wanted = 1.0 if hourly else hours
    for name in names:
        known = lookup(name, "surface")
        if known is None or not known.accumulated:
            continue
        window = store.variable_attributes(name).get("accumulation_hours")
        if window is None:
            found = "does not say over how many hours it is accumulated (attribute accumulation_hours)"
        elif float(window) != wanted:
            found = f"is accumulated over {float(window):g} h"
        else:
            continue
        what = "predicts that of the last hour" if hourly else f"steps {hours:g} h"
        built = "hourly data, without --step" if hourly else f"hourly data with --step {hours:g}h"
        step = "" if hourly or window is None else f"; or set model.timestep {float(window):g}h"
        msg = f"{store.path}: {name} {found}, but the model {what}: build the store from {built}{step}"
        raise StoreError(msg)

"""One variable that GRIB messages hold in two units, such as geopotential in m2 s-2 and as a height."""

from collections.abc import Sequence

import numpy as np

from kit.data.sources.fields import Note
from kit.data.sources.grib.scan import Message
from kit.data.sources.grib.values import decoded
from kit.data.units import canonical_units, conversion
from kit.data.variables import Variable
from kit.io.errors import StoreError

_ROUNDING = 1e-6
"""Share of the largest value by which a conversion may round."""


def by_units(name: str, variable: Variable | None, messages: Sequence[Message], note: Note) -> list[list[Message]]:
    """Divide messages by their units, and drop those that repeat a field in other units.

    Fields of the first and the last time are decoded and compared.

    Args:
        name: The store's name of the variable.
        variable: Its entry in the table of variables.
        messages: Messages that hold it, on one grid.
        note: Takes what was dropped.

    Returns:
        Messages of one unit each, those that need no conversion first.

    Raises:
        StoreError: Fields in two units differ by more than packing leaves, or the variable is not in the table.
    """
    parts: dict[str, list[Message]] = {}
    for message in messages:
        parts.setdefault(message.units, []).append(message)
    if len(parts) == 1:
        return [list(messages)]
    if variable is None:
        found = " and ".join(parts)
        msg = f"{messages[0].path.name}: {name} comes in several units, {found}; leave it out with --leave_out {name}"
        raise StoreError(msg)
    # False comes before True: what needs no conversion is kept.
    ordered = sorted(parts, key=lambda units: canonical_units(units) != variable.units)
    taken: dict[tuple[object, ...], Message] = {}
    result = []
    for units in ordered:
        doubles, alone = [], []
        for message in parts[units]:
            kept = taken.setdefault(_field_of(message, variable), message)
            # A field may come twice in one unit, too, of which one is chosen later.
            if kept.units == units:
                alone.append(message)
            else:
                doubles.append((kept, message))
        times = [message.time for _, message in doubles]
        for kept, other in doubles:
            if other.time in (min(times), max(times)):
                _check_equal(name, variable, kept, other)
        for kept, other in doubles:
            note(f"{name} taken from {kept.short_name}; {other.short_name} holds the same")
        if alone:
            result.append(alone)
    return result


def _field_of(message: Message, variable: Variable) -> tuple[object, ...]:
    """Return what two messages of the same field have in common."""
    if variable.kind == "static":
        return ()
    level = message.level if message.on_pressure else 0.0
    return message.time, message.lead, message.window, message.step_type, level, message.version


def _check_equal(name: str, variable: Variable, kept: Message, other: Message) -> None:
    """Check that two messages hold the same to the steps of their packing."""
    fields, allowed = [], 0.0
    for message, values in zip((kept, other), decoded([kept, other]), strict=True):
        change = conversion(f"{message}: {name}", message.units, variable.units, of_water=variable.is_water)
        scale, offset = change or (1.0, 0.0)
        fields.append(values * scale + offset)
        allowed += message.packing_step * abs(scale)
    one, two = fields
    apart = float(np.nanmax(np.abs(one - two), initial=0.0))
    largest = float(np.nanmax(np.abs(one), initial=0.0))
    if apart <= allowed + _ROUNDING * largest and np.array_equal(np.isnan(one), np.isnan(two)):
        return
    level = f" at {other.level:g} hPa" if other.on_pressure else ""
    msg = (
        f"{kept} ({kept.short_name} in {kept.units}) and {other} ({other.short_name} in {other.units}) are both "
        f"{variable.name}{level} at {other.time}, and differ by up to {apart:g} {variable.units}; leave one of them "
        f"out, such as with eccodes' `grib_copy -w shortName!={other.short_name} {other.path.name} NEW.grib`"
    )
    raise StoreError(msg)

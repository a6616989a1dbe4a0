"""Bounds of what a perturbed state may be: amounts are not negative, shares at most 1."""

from dataclasses import replace

import torch
from aurora import Batch

from kit.data.variables import Kind, lookup

# Archives have some below zero by their transforms, so that the table of variables leaves a margin.
_HUMIDITIES = ("q", "r")


def within_bounds(state: Batch) -> Batch:
    """Bring amounts and shares of a state into what is possible."""
    surface, atmospheric = dict(state.surf_vars), dict(state.atmos_vars)
    kinds: tuple[tuple[Kind, dict[str, torch.Tensor]], ...] = (("surface", surface), ("atmospheric", atmospheric))
    for kind, values in kinds:
        for name in values:
            values[name] = possible(values[name], name, kind)
    return replace(state, surf_vars=surface, atmos_vars=atmospheric)


def possible(values: torch.Tensor, name: str, kind: Kind) -> torch.Tensor:
    """Bring values of what has bounds by its nature into them: amounts and shares."""
    known = lookup(name, kind)
    if known is None or not (known.non_negative or name in _HUMIDITIES):
        return values
    share = known.units == "1" and known.high == 1
    return values.clamp(min=0, max=1 if share else None)

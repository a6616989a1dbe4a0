"""Forecasts to ask a data store for: the starts and leads that bring the states and sums of a build."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from kit.data.sources.cds.products import CdsProduct
from kit.io.errors import SettingsError

Forecasts = dict[datetime, tuple[int, ...]]
"""Leads in hours, increasing, by the start of the forecast."""


def chosen_leads(product: CdsProduct, chosen: tuple[float, float], *, on_levels: bool) -> tuple[int, ...]:
    """List the leads that states may be taken from.

    Args:
        product: Product that is asked for them.
        chosen: First and last lead in hours, as ``--lead`` names them.
        on_levels: Whether variables on pressure levels are asked for, which come at fewer leads.

    Returns:
        Leads in hours, increasing.

    Raises:
        SettingsError: The product has no forecasts, or none of these leads.
    """
    first, last = chosen
    given = f"--lead {first:g}h" if first == last else f"--lead {first:g}h/{last:g}h"
    every = product.level_leads if on_levels else product.surface_leads
    if not every:
        msg = f"{given} has no effect: {product.name} is asked for analyses, which have no leads; leave it out"
        raise SettingsError(msg)
    leads = tuple(lead for lead in range(0, product.longest_lead + 1, every) if first <= lead <= last)
    if not leads or last > product.longest_lead:
        where = "on levels" if on_levels else "at the surface"
        msg = (
            f"{given}: {product.name} has leads every {every} h {where}, from 0 to {product.longest_lead} h; choose "
            f"among these, such as --lead {every}h or --lead 0h/12h"
        )
        raise SettingsError(msg)
    return leads


def of_states(times: Sequence[datetime], hours: Sequence[int], leads: Sequence[int]) -> Forecasts:
    """Find the forecast of the shortest lead for each valid time.

    Args:
        times: Valid times, each of which some lead reaches.
        hours: Hours of the day, UTC, at which forecasts start.
        leads: Leads in hours, increasing.
    """
    found: dict[datetime, set[int]] = {}
    for moment in times:
        lead = _shortest(moment, hours, leads)
        assert lead is not None, "valid times are chosen by the leads"
        found.setdefault(moment - timedelta(hours=lead), set()).add(lead)
    return _ordered(found)


def of_sums(
    times: Sequence[datetime], hours: Sequence[int], leads: Sequence[int], step: int | None, names: str
) -> Forecasts:
    """Find the running totals, since the start of a forecast, that make up sums which end at valid times.

    A sum goes back from its end: as far as the forecast of the shortest lead goes, then on from there with an earlier
    one. Where it begins after the start of a forecast, the total at its beginning is needed, too.

    Args:
        times: Valid times, at which sums end.
        hours: Hours of the day, UTC, at which forecasts start.
        leads: Leads in hours, increasing.
        step: Hours that a sum is over; None for those between two leads, or for all of a single lead.
        names: Variables, for the message.

    Raises:
        SettingsError: The leads do not make up the sums.
    """
    found: dict[datetime, set[int]] = {}
    later = [lead for lead in leads if lead]
    length = step
    if length is None:
        length = leads[1] - leads[0] if len(leads) > 1 else leads[0]
    for end in times:
        moment, rest = end, length
        while rest > 0:
            lead = _shortest(moment, hours, later)
            if lead is None or 0 < lead - rest < leads[0]:
                msg = (
                    f"{names}: totals at leads from {leads[0]} to {leads[-1]} h do not make up the {length} h before "
                    f"{end:%Y-%m-%dT%H}; begin with earlier leads, such as --lead 0h/{max(12, leads[-1])}h, choose "
                    "another --step, or leave it out"
                )
                raise SettingsError(msg)
            start = moment - timedelta(hours=lead)
            found.setdefault(start, set()).add(lead)
            if lead > rest:
                found[start].add(lead - rest)
            moment, rest = start, rest - lead
    return _ordered(found)


def by_leads(forecasts: Forecasts) -> list[tuple[tuple[int, ...], tuple[datetime, ...]]]:
    """Group starts that are asked for the same leads: a request brings all of its leads of all of its starts."""
    groups: dict[tuple[int, ...], list[datetime]] = {}
    for start, leads in forecasts.items():
        groups.setdefault(leads, []).append(start)
    return [(leads, tuple(starts)) for leads, starts in groups.items()]


def _shortest(moment: datetime, hours: Sequence[int], leads: Sequence[int]) -> int | None:
    """Return the shortest lead of a forecast that reaches a valid time; None if there is none."""
    for lead in leads:
        if (moment - timedelta(hours=lead)).hour in hours:
            return lead
    return None


def _ordered(found: dict[datetime, set[int]]) -> Forecasts:
    return {start: tuple(sorted(found[start])) for start in sorted(found)}

"""Accumulations with one window: differences of running totals, and sums where windows differ in length.

A value with the window w, valid at t, is the sum over (t - w, t]. Values that begin at the same moment, in the same
forecast, are running totals: the difference of two of them is the sum over the time between their ends, exactly.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.sources.leads import LEAD, WINDOW
from kit.data.store.format import listed
from kit.io.errors import StoreError

_HOUR = 3600
Seconds = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Interval:
    """Sum over a time, made of one value, or of the difference of two.

    Attributes:
        lead: Hours from the start of the forecast to the end; the shortest is preferred.
        differs: Whether it is a difference; a value as it stands is preferred.
        start: Begin, in seconds since 1970.
        end: End.
        plus: Position of the value.
        minus: Position of the value that is subtracted; -1 where there is none.
    """

    lead: float
    differs: bool
    start: int
    end: int
    plus: int
    minus: int = -1


def with_one_window(field: xr.DataArray, step: int | None, note: Note) -> xr.DataArray:
    """Bring an accumulated field to one value for each time, all over windows of one length.

    Args:
        field: Values along ``time`` with ``state_window`` in hours, several for a time where windows or leads differ.
        step: Hours between states of the store, over which sums are wanted; None for the shortest windows there are.
        note: Takes what was done.

    Returns:
        The field with increasing times and the attribute ``accumulation_hours``; still lazy.

    Raises:
        StoreError: Windows do not make up one length, or are not of whole hours.
    """
    name = str(field.name)
    ends: Seconds = field["time"].values.astype("datetime64[s]").astype(np.int64)
    windows = field[WINDOW].values.astype(np.float64)
    leads = np.full(len(ends), np.nan)
    if LEAD in field.coords:
        leads = field[LEAD].values.astype(np.float64)
    spans = np.round(windows * _HOUR).astype(np.int64)
    # No value of a forecast adds up over more than its lead.
    used = (spans > 0) & ~(leads < windows)
    comment = "of forecasts" if np.nan_to_num(leads).any() else ""
    if not used.any():
        msg = (
            f"{name} is accumulated, and all {len(ends)} values are of the start of a forecast, where nothing has "
            "added up yet; leave it out by naming others with --variables, or give later leads as well"
        )
        raise StoreError(msg)
    if len(np.unique(spans[used])) == 1 and len(np.unique(ends[used])) == used.sum():
        # Rounded before they are added up, as values of moments are.
        return _stated(field.isel(time=np.flatnonzero(used)).astype(np.float32), int(spans[used][0]), name, comment)
    if len(set(zip(ends[used].tolist(), spans[used].tolist(), strict=True))) < used.sum():
        note(f"{name}: where forecasts overlap, the one of the shortest lead was taken")
    best = _intervals(ends, spans, leads, used, (step or 0) * _HOUR)
    shortest = min(end - start for start, end in best)
    covered = {end for start, end in best if end - start == shortest}
    all_ends = sorted(set(ends[used].tolist()))
    # What comes before the first short window belongs to hours before the data.
    gaps = [end for end in all_ends if end not in covered and end > min(covered)]
    length = shortest
    has_differences = any(best[end - shortest, end].differs for end in covered)
    if step is not None and (gaps or has_differences) and step * _HOUR % shortest == 0:
        length = step * _HOUR
        terms = _sums(best, all_ends, length, name)
    elif gaps:
        lengths = sorted({(end - start) / _HOUR for start, end in best if not best[start, end].differs})
        at = np.datetime64(gaps[0], "s")
        msg = (
            f"{name} at {at} is accumulated over other hours than before: windows of {listed(lengths)} h do not make "
            f"up one of {shortest / _HOUR:g} h; choose a --step that they make up, such as --step "
            f"{max(6, int(max(lengths))):g}h, or --times before"
        )
        raise StoreError(msg)
    else:
        terms = {end: [best[end - shortest, end]] for end in sorted(covered)}
    differs = any(term.differs for parts in terms.values() for term in parts)
    if differs:
        note(f"{name}: running totals made differences, exactly those of the hours between them")
    lost = sorted(set(all_ends) - set(terms))
    if lost and length == shortest:
        first = np.datetime64(lost[0], "s")
        note(f"{name}: {len(lost)} values from {first} on are of other windows than {length / _HOUR:g} h, and left out")
    return _stated(_computed(field, terms), length, name, "made of running totals" if differs else comment)


def _intervals(
    ends: Seconds, spans: Seconds, leads: npt.NDArray[np.float64], used: npt.NDArray[np.bool_], wanted: int
) -> dict[tuple[int, int], Interval]:
    """Find the best sum for each time between two ends of which the values make one up."""
    totals: dict[tuple[int, int], list[int]] = defaultdict(list)
    found: list[Interval] = []
    for position in np.flatnonzero(used).tolist():
        end, start = int(ends[position]), int(ends[position] - spans[position])
        found.append(Interval(float(np.nan_to_num(leads[position])), False, start, end, position))
        # Of the same forecast: its start is the end less the lead, or that of the window where no lead is known.
        reference = start if np.isnan(leads[position]) else round(end - leads[position] * _HOUR)
        totals[start, reference].append(position)
    for positions in totals.values():
        by_end = {int(ends[position]): position for position in positions}
        ordered = sorted(by_end)
        # Neighbours, and those that are as far apart as is wanted, which saves reading all between.
        pairs = {*itertools.pairwise(ordered), *((end - wanted, end) for end in ordered if end - wanted in by_end)}
        for begin, end in sorted(pairs):
            if begin < end:
                later = by_end[end]
                found.append(Interval(float(np.nan_to_num(leads[later])), True, begin, end, later, by_end[begin]))
    best: dict[tuple[int, int], Interval] = {}
    for interval in sorted(found):
        best.setdefault((interval.start, interval.end), interval)
    return best


def _sums(best: dict[tuple[int, int], Interval], ends: list[int], length: int, name: str) -> dict[int, list[Interval]]:
    """Make up sums of one length that end at whole multiples of it, or of the first end where there are none."""
    by_end: dict[int, list[Interval]] = defaultdict(list)
    for interval in sorted(best.values()):
        by_end[interval.end].append(interval)
    targets = [end for end in ends if end % length == 0] or [end for end in ends if (end - ends[0]) % length == 0]
    terms: dict[int, list[Interval]] = {}
    for target in targets:
        parts = _path(by_end, target, target - length)
        if parts:
            terms[target] = parts
        elif terms:
            msg = (
                f"{name}: the values do not make up the sum over the {length / _HOUR:g} h that end at "
                f"{np.datetime64(target, 's')}; a value is missing there: fill the gap, or choose other --times"
            )
            raise StoreError(msg)
    if not terms:
        msg = f"{name}: no sum over {length / _HOUR:g} h is complete in the data; choose another --step"
        raise StoreError(msg)
    return terms


def _path(by_end: dict[int, list[Interval]], end: int, begin: int) -> list[Interval]:
    """Follow intervals back from an end to a beginning, the best first; empty where there is no way."""
    dead: set[int] = set()

    def back(at: int) -> list[Interval] | None:
        if at == begin:
            return []
        for interval in by_end.get(at, ()):
            if interval.start >= begin and interval.start not in dead:
                rest = back(interval.start)
                if rest is not None:
                    return [interval, *rest]
        dead.add(at)
        return None

    return back(end) or []


def _computed(field: xr.DataArray, terms: dict[int, list[Interval]]) -> xr.DataArray:
    """Compute sums lazily, in double precision, rounded once; from the last hour to the first."""
    # Sums of the same form are computed together, as whole arrays.
    forms: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for end, parts in terms.items():
        forms[tuple(part.differs for part in parts)].append(end)
    pieces = []
    for form, ends in forms.items():
        total = None
        for index, differs in enumerate(form):
            value = _taken(field, [terms[end][index].plus for end in ends])
            if differs:
                value = value - _taken(field, [terms[end][index].minus for end in ends])
            total = value if total is None else total + value
        assert total is not None, "a sum has a part"
        piece = field.isel(time=[terms[end][0].plus for end in ends]).copy(data=total.astype(np.float32))
        pieces.append(piece.assign_coords(time=("time", np.array(ends, "datetime64[s]"))))
    if len(pieces) == 1:
        return pieces[0]
    joined: xr.DataArray = xr.concat(pieces, dim="time", coords="minimal", compat="override", join="exact")
    return joined.sortby("time")


def _taken(field: xr.DataArray, positions: list[int]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = field.isel(time=positions).astype(np.float64).data
    return values


def _stated(field: xr.DataArray, seconds: int, name: str, comment: str) -> xr.DataArray:
    if seconds % _HOUR:
        msg = f"{name} is accumulated over {seconds / _HOUR:g} h; whole hours are needed: choose a --step that is"
        raise StoreError(msg)
    field = field.drop_vars(WINDOW).assign_attrs(accumulation_hours=seconds // _HOUR)
    # The comment says that the first values may be lost, where other fields begin earlier.
    return field.assign_attrs(accumulation_comment=comment) if comment else field

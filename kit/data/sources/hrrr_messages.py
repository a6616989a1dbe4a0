"""Which messages of HRRR's files hold what a build asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kit.data.sources.base import Request
from kit.data.store_format import STATIC_PREFIX
from kit.errors import SettingsError, StoreError

__all__ = ["ANALYSIS", "CONVECTIVE", "Wanted", "states_of", "wanted_by_hour"]

ANALYSIS, ACCUMULATED = "anl", "0-1 hour acc fcst"
"""What an index calls the moment of an analysis, and the first hour of a forecast."""
CONVECTIVE = ("refc", "2t", "2d", "10u", "10v", "cape", "cin")
"""Surface variables that are taken where none are named."""
_UPPER = ("z", "t", "u", "v", "q")
_SURFACE = {
    "refc": ("REFC", "entire atmosphere"),
    "2t": ("TMP", "2 m above ground"),
    "2d": ("DPT", "2 m above ground"),
    "10u": ("UGRD", "10 m above ground"),
    "10v": ("VGRD", "10 m above ground"),
    "cape": ("CAPE", "surface"),
    "cin": ("CIN", "surface"),
    "sp": ("PRES", "surface"),
    "msl": ("MSLMA", "mean sea level"),
    "tcc": ("TCDC", "entire atmosphere"),
    "tcwv": ("PWAT", "entire atmosphere (considered as a single layer)"),
    "tp": ("APCP", "surface"),
}
"""Names in an index, by the store's; levels as wgrib2 words them."""
_LEVEL = {"z": "HGT", "t": "TMP", "u": "UGRD", "v": "VGRD", "q": "SPFH", "w": "VVEL", "r": "RH"}
_STATIC = {f"{STATIC_PREFIX}z": ("HGT", "surface"), f"{STATIC_PREFIX}lsm": ("LAND", "surface")}
_WINDS = {"u": "v", "v": "u", "10u": "10v", "10v": "10u"}
_HOUR = np.timedelta64(1, "h")


@dataclass(frozen=True, order=True)
class Wanted:
    """One message that is asked for.

    Attributes:
        name: the store's name of its variable; statics carry their prefix.
        level: in hPa; -1 for a surface variable.
        variable: as an index names it.
        place: its level, as an index words it.
        lead: hours from the run to the time that it is valid at: 1 where it is accumulated, else 0.
    """

    name: str
    level: float
    variable: str
    place: str
    lead: int = 0

    @property
    def moment(self) -> str:
        """The time of the forecast, as an index words it."""
        return ACCUMULATED if self.lead else ANALYSIS

    def __str__(self) -> str:
        return f"{self.variable}:{self.place}:{self.moment}"


def wanted_by_hour(request: Request) -> dict[np.datetime64, tuple[Wanted, ...]]:
    """List the messages of every hour that a build needs, by the hour that they are valid at.

    Args:
        request: what is asked for; ``times`` must be given, and ``levels`` for variables of the atmosphere.

    Raises:
        SettingsError: one of the two is not given.
        StoreError: a variable is none of HRRR's that the kit knows, or a time lies in the future.
    """
    names = _names(request)
    states = states_of(request)
    moments = [name for name in names if name != "tp"]
    hours: dict[np.datetime64, set[Wanted]] = {time: set() for time in states} if moments else {}
    for time in hours:
        hours[time] = {wanted for name in moments for wanted in _of(name, request.levels or ())}
    if "tp" in names:
        for time in states:
            for back in range(request.step or 1):
                hours.setdefault(time - back * _HOUR, set()).add(Wanted("tp", -1.0, *_SURFACE["tp"], lead=1))
    asked = request.statics
    hours[states[0]] |= {Wanted(name, -1.0, *_STATIC[name]) for name in _STATIC if asked is None or name in asked}
    return {time: tuple(sorted(hours[time])) for time in sorted(hours)}


def _names(request: Request) -> tuple[str, ...]:
    names = tuple(sorted(request.variables)) if request.variables is not None else (*CONVECTIVE, *_UPPER)
    strangers = [name for name in names if name not in _SURFACE and name not in _LEVEL]
    if strangers:
        msg = (
            f"{', '.join(strangers)}: no variable that the kit takes of HRRR; those are {', '.join(_SURFACE)} at the "
            f"surface and {', '.join(_LEVEL)} on pressure levels"
        )
        raise StoreError(msg)
    upper = [name for name in names if name in _LEVEL]
    if upper and not request.levels:
        msg = (
            f"--source hrrr needs the levels of {', '.join(upper)}, such as --levels 500,700,850,925,1000: HRRR has 40 "
            "of them, of about 1 MB each and hour"
        )
        raise SettingsError(msg)
    # Winds are those along the grid's axes: one cannot be turned without the other.
    return tuple(dict.fromkeys([*names, *(_WINDS[name] for name in names if name in _WINDS)]))


def _of(name: str, levels: Sequence[float]) -> Iterable[Wanted]:
    if name in _SURFACE:
        yield Wanted(name, -1.0, *_SURFACE[name])
        return
    for level in levels:
        yield Wanted(name, float(level), _LEVEL[name], f"{level:g} mb")


def states_of(request: Request) -> list[np.datetime64]:
    """Hours of the period that are whole steps from midnight UTC; HRRR has one analysis an hour.

    Raises:
        SettingsError: there is no period.
        StoreError: it holds no such hour, or ends in the future.
    """
    times, step = request.times, request.step or 1
    if times is None:
        msg = "--source hrrr needs --times START/END: the archive grows by the hour, and none of it is taken unasked"
        raise SettingsError(msg)
    start, end = (np.datetime64(moment.replace(tzinfo=None), "s") for moment in (times.start, times.end))
    # Up to the first whole hour in the period, not before it.
    first = start.astype("datetime64[h]") + (_HOUR if start != start.astype("datetime64[h]") else 0 * _HOUR)
    hours = np.arange(first, end.astype("datetime64[h]") + _HOUR)
    states = list(hours[hours.astype(np.int64) % step == 0])
    if not states:
        msg = (
            f"no hour in --times {times} is a whole step of {step} h from midnight UTC; widen --times or change --step"
        )
        raise StoreError(msg)
    if states[-1] > np.datetime64("now", "h"):
        msg = f"HRRR at {states[-1]} lies in the future; end --times before {np.datetime64('now', 'h')} UTC"
        raise StoreError(msg)
    return states

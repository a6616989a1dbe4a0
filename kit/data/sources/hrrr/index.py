"""Where HRRR's files lie, and which bytes of them are which message: Herbie's templates and its reading of indices."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from kit.data.sources.base import Request
from kit.data.sources.hrrr.transport import Transport
from kit.data.store.format import STATIC_PREFIX
from kit.io.errors import SettingsError, StoreError
from kit.io.retry import RetryableError, SourceError, patiently

__all__ = [
    "ANALYSIS",
    "ARCHIVES",
    "ARCHIVE_VARIABLE",
    "CONVECTIVE",
    "Line",
    "Run",
    "Wanted",
    "address_of",
    "archives",
    "load_herbie",
    "read_index",
    "states_of",
    "wanted_by_hour",
]

ARCHIVES = ("aws", "google", "azure", "nomads")
"""Herbie's names of the archives that are asked, in this order."""
ARCHIVE_VARIABLE = "KIT_HRRR_ARCHIVE"
"""Environment variable with archives in the place of these: Herbie's names, or addresses of mirrors, with commas."""
_SIGN = "https://planetarycomputer.microsoft.com/api/sas/v1/sign?href="
"""Gives an address of Azure's the signature without which it is not answered; Herbie asks there, too."""
_LINE = re.compile(r"\d+:\d+:d=(\d{10}):[^:]+:[^:]+:[^:]+(:.*)?")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Run:
    """One file of HRRR's.

    Attributes:
        time: of the run.
        lead: hours ahead.
        product: ``sfc`` (the surface and some pressure levels) or ``prs`` (all pressure levels).
    """

    time: np.datetime64
    lead: int
    product: str

    def __str__(self) -> str:
        moment = self.time.astype("datetime64[h]").item()
        return f"hrrr.{moment:%Y%m%d} t{moment:%H}z wrf{self.product}f{self.lead:02d}"


@dataclass(frozen=True)
class Line:
    """A message of a file, as its index states it.

    Attributes:
        number: of the message, from 1.
        start: its first byte.
        end: its last byte; None for the file's last message.
    """

    number: int
    start: int
    end: int | None


def archives() -> tuple[str, ...]:
    """Names and addresses of the archives to ask, in order.

    Raises:
        SettingsError: the environment names one that is unknown.
    """
    said = [part.strip() for part in os.environ.get(ARCHIVE_VARIABLE, "").split(",") if part.strip()]
    strangers = [name for name in said if name not in ARCHIVES and not name.startswith(("http://", "https://"))]
    if strangers:
        msg = (
            f"{ARCHIVE_VARIABLE} names {', '.join(strangers)}; expected some of {', '.join(ARCHIVES)}, or addresses of "
            "mirrors (http:// or https://) that keep HRRR's folders, such as hrrr.20240601/conus"
        )
        raise SettingsError(msg)
    return tuple(dict.fromkeys(said)) or ARCHIVES


@functools.cache
def load_herbie() -> Any:
    """Import Herbie, quietly, and give its class that looks nowhere of itself.

    Its settings are a temporary folder's: it would write some into the user's home otherwise, and read them there.

    Raises:
        SettingsError: it is not installed.
    """
    said = os.environ.get("HERBIE_CONFIG_PATH")
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.environ["HERBIE_CONFIG_PATH"] = folder
            # eccodes' PROJ, loaded before pyproj's, crashes; Herbie imports both.
            from kit.data.sources.grib.scan import load_eccodes

            load_eccodes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from herbie.core import Herbie
    except ImportError as error:
        msg = (
            f"--source hrrr needs the package herbie-data, which cannot be imported ({error}); install it with: "
            'pip install "aurora-finetune-kit[hrrr]"'
        )
        raise SettingsError(msg) from error
    finally:
        if said is None:
            os.environ.pop("HERBIE_CONFIG_PATH", None)
        else:
            os.environ["HERBIE_CONFIG_PATH"] = said
    # Its own search for files has no time limit, and takes a server's error for a file that is not there.
    quiet = {"find_grib": lambda _: (None, None), "find_idx": lambda _: (None, None)}
    return type("QuietHerbie", (Herbie,), quiet)


def _opened(run: Run) -> Any:
    moment = run.time.astype("datetime64[s]").item()
    # The lock: Herbie and pandas import more of themselves the first time.
    with _LOCK:
        return load_herbie()(
            moment, model="hrrr", product=run.product, fxx=run.lead, save_dir=tempfile.gettempdir(), verbose=False
        )


def address_of(run: Run, archive: str) -> str:
    """Where an archive keeps a file; mirrors have the folders of Amazon's."""
    templates = _opened(run).SOURCES
    if archive in ARCHIVES:
        return str(templates[archive])
    return archive.rstrip("/") + urlsplit(str(templates["aws"])).path


def _ready(address: str, archive: str, transport: Transport, attempts: int) -> str:
    """An address as the archive wants to be asked."""
    if archive != "azure":
        return address
    text = transport.text(_SIGN + address, attempts)
    try:
        return str(json.loads(text)["href"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"Azure's addresses must be signed, and the signer answered {text[:80]!r}"
        raise SourceError(msg) from error


def read_index(
    run: Run, archive: str, wanted: Sequence[Wanted], transport: Transport, attempts: int
) -> tuple[str, dict[Wanted, Line], tuple[str, ...]]:
    """Find messages in the index of a file.

    Args:
        run: the file.
        archive: where it is looked for.
        wanted: what is looked for.
        transport: how.
        attempts: in a row.

    Returns:
        The file's address, what was found, and all that the index names, as ``variable:level``.

    Raises:
        SourceError: the archive lacks the index, does not answer, or sends what is none of this run.
    """
    address = address_of(run, archive)
    index = _ready(f"{address}.idx", archive, transport, attempts)

    def once() -> str:
        text = transport.text(index, attempts)
        if why := _damage(text, run):
            msg = f"the index of {run} {why}"
            raise RetryableError(msg)
        return text

    text = patiently(once, dataclasses.replace(transport.limits, attempts=min(2, attempts)), transport.watch)
    return _ready(address, archive, transport, attempts), *_found(text, run, wanted)


def _damage(text: str, run: Run) -> str:
    """Why a text is no index of this run; empty if it is one."""
    lines = text.splitlines()
    if not lines:
        return "is empty"
    offsets = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            return f"is damaged or no index: its line {number} is {line[:60]!r}"
        if match[1] != f"{run.time.astype('datetime64[h]').item():%Y%m%d%H}":
            return f"is of another run, {match[1]}"
        offsets.append(int(line.split(":", 2)[1]))
    return "" if all(a < b for a, b in itertools.pairwise(offsets)) else "has messages out of order"


def _found(text: str, run: Run, wanted: Sequence[Wanted]) -> tuple[dict[Wanted, Line], tuple[str, ...]]:
    herbie = _opened(run)
    # Herbie takes a text that is here already for an index that it has made itself.
    herbie.idx, herbie.idx_source = io.StringIO(text), "generated"
    held = herbie.inventory()
    lines: dict[Wanted, Line] = {}
    for item in wanted:
        rows = herbie.inventory(f"^{re.escape(f':{item}:')}")
        if len(rows):
            row = rows.iloc[0]
            end = None if np.isnan(row.end_byte) else int(row.end_byte)
            lines[item] = Line(int(row.grib_message), int(row.start_byte), end)
    return lines, tuple(f"{variable}:{level}" for variable, level in zip(held.variable, held.level, strict=True))


# Which messages of HRRR's files hold what a build asks for.

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

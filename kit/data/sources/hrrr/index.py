"""Addresses and indices of HRRR's files, by Herbie's templates and reader, and the messages that a build needs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import math
import os
import re
import tempfile
import threading
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from kit.data.sources.base import Request
from kit.data.sources.hrrr.transport import Transport
from kit.data.sources.winds import OTHER_COMPONENT
from kit.data.store.format import STATIC_PREFIX
from kit.io.documents import parse_json
from kit.io.errors import SettingsError, StoreError
from kit.io.retry import RetryableError, SourceError, patiently

ARCHIVES = ("aws", "google", "azure", "nomads")
"""Herbie's names of the archives that are asked, in this order."""
ARCHIVE_VARIABLE = "KIT_HRRR_ARCHIVE"
"""Environment variable with archives in the place of these: Herbie's names, or addresses of mirrors, with commas."""
_SIGNER = "https://planetarycomputer.microsoft.com/api/sas/v1/sign?href="
"""Gives an address of Azure's the signature without which it is not answered; Herbie asks there, too."""
_LINE = re.compile(r"\d+:\d+:d=(\d{10}):[^:]+:[^:]+:[^:]+(:.*)?")
"""A line of an index: number, first byte, hour of the run, variable, level, time of the forecast, and more."""
_IMPORT_LOCK = threading.Lock()


@dataclass(frozen=True)
class ModelRun:
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

    @property
    def size(self) -> int:
        """Bytes; 0 for the file's last message, whose length the index does not say."""
        return 0 if self.end is None else self.end - self.start + 1


def archives() -> tuple[str, ...]:
    """List names and addresses of the archives to ask, in order.

    Raises:
        SettingsError: the environment names one that is unknown.
    """
    named = list(filter(None, map(str.strip, os.environ.get(ARCHIVE_VARIABLE, "").split(","))))
    unknown = [name for name in named if name not in ARCHIVES and not name.startswith(("http://", "https://"))]
    if unknown:
        msg = (
            f"{ARCHIVE_VARIABLE} names {', '.join(unknown)}; expected some of {', '.join(ARCHIVES)}, or addresses of "
            "mirrors (http:// or https://) that keep HRRR's folders, such as hrrr.20240601/conus"
        )
        raise SettingsError(msg)
    return tuple(dict.fromkeys(named)) or ARCHIVES


@functools.cache
def load_herbie() -> Any:
    """Import Herbie, quietly, and give its class that looks nowhere of itself.

    Its settings are a temporary folder's: it would write some into the user's home otherwise, and read them there.

    Raises:
        SettingsError: it is not installed.
    """
    before = os.environ.get("HERBIE_CONFIG_PATH")
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
        os.environ.pop("HERBIE_CONFIG_PATH", None)
        if before is not None:
            os.environ["HERBIE_CONFIG_PATH"] = before
    # Its own search for files has no time limit, and takes a server's error for a file that is not there.
    quiet = {"find_grib": lambda _: (None, None), "find_idx": lambda _: (None, None)}
    return type("QuietHerbie", (Herbie,), quiet)


def _open(run: ModelRun) -> Any:
    moment = run.time.astype("datetime64[s]").item()
    # Herbie and pandas import more of themselves the first time, which several threads must not do at once.
    with _IMPORT_LOCK:
        return load_herbie()(
            moment, model="hrrr", product=run.product, fxx=run.lead, save_dir=tempfile.gettempdir(), verbose=False
        )


def address_of(run: ModelRun, archive: str) -> str:
    """Compose a file's address in an archive; mirrors have the folders of Amazon's."""
    templates = _open(run).SOURCES
    if archive in ARCHIVES:
        return str(templates[archive])
    return archive.rstrip("/") + urlsplit(str(templates["aws"])).path


def read_index(
    run: ModelRun, archive: str, wanted: Sequence[WantedField], transport: Transport, attempts: int
) -> tuple[str, dict[WantedField, Line], tuple[str, ...]]:
    """Find messages in the index of a file.

    Args:
        run: the file.
        archive: where it is looked for.
        wanted: what is looked for.
        transport: connections to the archives.
        attempts: largest number of attempts in a row.

    Returns:
        The file's address, the lines of what was found in the file's order, and all that the index names, as
        ``variable:level``.

    Raises:
        SourceError: the archive lacks the index, does not answer, or sends what is none of this run.
    """

    def signed(address: str) -> str:
        if archive != "azure":
            return address
        text = transport.text(_SIGNER + address, attempts)
        try:
            return str(parse_json(text)["href"])
        except (ValueError, KeyError, TypeError) as error:
            msg = f"Azure's addresses must be signed, and the signer answered {text[:80]!r}"
            raise SourceError(msg) from error

    def fetch_text() -> str:
        text = transport.text(index, attempts)
        if damage := _damage(text, run):
            msg = f"the index of {run} {damage}"
            raise RetryableError(msg)
        return text

    address = address_of(run, archive)
    index = signed(f"{address}.idx")
    # An index that came damaged twice is damaged there.
    text = patiently(fetch_text, dataclasses.replace(transport.limits, attempts=min(2, attempts)), transport.watch)
    herbie = _open(run)
    # Herbie takes a text that is here already for an index that it has made itself.
    herbie.idx, herbie.idx_source = io.StringIO(text), "generated"
    everything = herbie.inventory()
    lines = {}
    for field in wanted:
        rows = herbie.inventory(f"^{re.escape(f':{field}:')}")
        if len(rows):
            row = rows.iloc[0]
            # Of a single message, Herbie's table has no column of ends.
            end = row.get("end_byte", math.nan)
            lines[field] = Line(int(row.grib_message), int(row.start_byte), None if np.isnan(end) else int(end))
    in_order = dict(sorted(lines.items(), key=lambda pair: pair[1].number))
    names = [f"{variable}:{level}" for variable, level in zip(everything.variable, everything.level, strict=True)]
    return signed(address), in_order, tuple(names)


def _damage(text: str, run: ModelRun) -> str:
    """Say why a text is no index of a run; empty if it is one."""
    lines = text.splitlines()
    if not lines:
        return "is empty"
    starts = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            return f"is damaged or no index: its line {number} is {line[:60]!r}"
        if match[1] != f"{run.time.astype('datetime64[h]').item():%Y%m%d%H}":
            return f"is of another run, {match[1]}"
        starts.append(int(line.split(":", 2)[1]))
    # Herbie takes the byte before the next message for the end of one.
    if any(start >= after for start, after in itertools.pairwise(starts)):
        return "has messages out of order"
    return ""


# Which messages of HRRR's files hold what a build asks for.

_ANALYSIS, _ACCUMULATED = "anl", "0-1 hour acc fcst"
"""What an index calls the moment of an analysis, and the first hour of a forecast."""
_CONVECTIVE = ("refc", "2t", "2d", "10u", "10v", "cape", "cin")
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
_HOUR = np.timedelta64(1, "h")


@dataclass(frozen=True, order=True)
class WantedField:
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
        return _ACCUMULATED if self.lead else _ANALYSIS

    def __str__(self) -> str:
        return f"{self.variable}:{self.place}:{self.moment}"


def wanted_by_hour(request: Request) -> dict[np.datetime64, tuple[WantedField, ...]]:
    """List the messages of every hour that a build needs, by the hour that they are valid at.

    Args:
        request: what is asked for; ``times`` must be given, and ``levels`` for variables of the atmosphere.

    Raises:
        SettingsError: one of the two is not given.
        StoreError: a variable is none of HRRR's that the kit knows, or a time lies in the future.
    """
    names, states = _names(request), states_of(request)
    hours: dict[np.datetime64, set[WantedField]] = defaultdict(set)
    for time, name in itertools.product(states, names):
        if name == "tp":
            # The sum over a step needs the first hour of each run in it.
            for back in range(request.step or 1):
                hours[time - back * _HOUR].add(WantedField("tp", -1.0, *_SURFACE["tp"], lead=1))
        elif name in _SURFACE:
            hours[time].add(WantedField(name, -1.0, *_SURFACE[name]))
        else:
            for level in request.levels or ():
                hours[time].add(WantedField(name, float(level), _LEVEL[name], f"{level:g} mb"))
    # Static fields once, with the first state.
    for name, words in _STATIC.items():
        if request.statics is None or name in request.statics:
            hours[states[0]].add(WantedField(name, -1.0, *words))
    return {time: tuple(sorted(hours[time])) for time in sorted(hours)}


def _names(request: Request) -> tuple[str, ...]:
    """List the variables that are needed, with those that others cannot be read without."""
    names: Sequence[str] = (*_CONVECTIVE, *_UPPER)
    if request.variables is not None:
        names = sorted(request.variables)
    unknown = sorted(set(names) - _SURFACE.keys() - _LEVEL.keys())
    if unknown:
        msg = (
            f"{', '.join(unknown)}: no variable that the kit takes of HRRR; those are {', '.join(_SURFACE)} at the "
            f"surface and {', '.join(_LEVEL)} on pressure levels"
        )
        raise StoreError(msg)
    upper = ", ".join(name for name in names if name in _LEVEL)
    if upper and not request.levels:
        msg = (
            f"--source hrrr needs the levels of {upper}, such as --levels 500,700,850,925,1000: HRRR has 40 of them, "
            "of about 1 MB each and hour"
        )
        raise SettingsError(msg)
    # Winds are those along the grid's axes: one cannot be turned without the other.
    others = filter(None, map(OTHER_COMPONENT.get, names))
    return tuple(dict.fromkeys([*names, *others]))


def states_of(request: Request) -> list[np.datetime64]:
    """List the hours of the period that are whole steps from midnight UTC; HRRR has one analysis an hour.

    Raises:
        SettingsError: there is no period.
        StoreError: it holds no such hour, or ends in the future.
    """
    times, step = request.times, request.step or 1
    if times is None:
        msg = "--source hrrr needs --times START/END: the archive grows by the hour, and none of it is taken unasked"
        raise SettingsError(msg)
    start = np.datetime64(times.start.replace(tzinfo=None), "s")
    end = np.datetime64(times.end.replace(tzinfo=None), "s")
    first = start.astype("datetime64[h]")
    # Up to the first whole hour in the period, not before it.
    if first < start:
        first += _HOUR
    hours = np.arange(first, end.astype("datetime64[h]") + _HOUR)
    states = list(hours[hours.astype(np.int64) % step == 0])
    if not states:
        msg = (
            f"no hour in --times {times} is a whole step of {step} h from midnight UTC; widen --times or change --step"
        )
        raise StoreError(msg)
    now = np.datetime64("now", "h")
    if states[-1] > now:
        msg = f"HRRR at {states[-1]} lies in the future; end --times before {now} UTC"
        raise StoreError(msg)
    return states

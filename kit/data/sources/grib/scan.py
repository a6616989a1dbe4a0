"""Headers of the messages of a GRIB file, without their values.

Own code on eccodes' raw headers: reading all headers and decoding all values of 392 messages takes a third of the time
of eccodes' ``.values`` with the keys and coordinates of each message, as cfgrib and pygrib take them (0.22 s against
0.64 s), and cfgrib leaves out messages whose keys do not agree, with a warning (docs/decisions.md, 2026-11-21).
"""

import calendar
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from kit.data.sources.file_formats import describe_format
from kit.data.sources.grib.grid import GribGrid, read_grid
from kit.io.errors import SettingsError, StoreError

T = TypeVar("T")

MAGIC = b"GRIB"
SUFFIXES = (".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2", ".gb2")
PRESSURE = {"isobaricInhPa": 1.0, "isobaricInPa": 0.01}
"""Types of level that are pressure, and what turns their numbers into hPa."""
_ENVELOPE = 128
"""Bytes between messages that are passed over: telecommunication puts headings there. No message is so short."""
_LOG: list[IO[bytes]] = []
"""Null device that the library writes its complaints to; it keeps the file, which stays open as long as the process."""
_HEADERS = (1, 2, 3)
"""Sections that say which field it is, and where."""
_DATA_SECTION = 7
"""Number of the section of GRIB 2 that holds a field's values."""
_UNIT_HOURS = {"s": 1 / 3600, "m": 1 / 60, "": 1.0, "h": 1.0, "D": 24.0}
_WITHOUT_LENGTH = {3: "months", 4: "years", 5: "decades", 6: "normals of 30 years", 7: "centuries"}
"""Units of steps (WMO code tables 4 of GRIB 1 and 4.4 of GRIB 2) for which eccodes takes 30 days and 365."""
_UNITS_OF_EDITION_1 = {0: 1 / 60, 13: 0.25, 14: 0.5, 254: 1 / 3600}
"""Hours of those units of GRIB 1 that eccodes cannot turn into hours."""
_UNITS = {1: (0, 1, 2, 10, 11, 12, 13, 14, 254, 255), 2: (0, 1, 2, 10, 11, 12, 13)}
"""Units of steps that have a length, by edition; analyses of GRIB 1 often leave theirs out (255)."""
_UNIT_KEYS = {1: "unitOfTimeRange", 2: "indicatorOfUnitOfTimeRange"}
_MISSING_PARTS = {1: {"yearOfCentury": (255,), "month": (0, 255), "day": (0, 255), "hour": (255,), "minute": (255,)}}
"""Values that stand for a part of a date that is not stated, by edition; eccodes reads them as numbers."""
_MISSING_PARTS[2] = {"year": (0, 65535)} | dict(list(_MISSING_PARTS[1].items())[1:])
_PARTS = {"month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59), "second": (0, 59)}
"""First and last value of each part of a date behind the year."""
_NO_SECOND = 255
"""Stands for a second that is not stated: then it is 0, since most writers count in minutes."""
_VERIFYING, _OBSERVED, _LOCAL = 2, 3, 4
"""Meanings of a reference time (WMO code table 1.2): the time that is forecast, of an observation, a local time."""
_RANGES = {
    6: "an average from before the reference time to before it", 7: "an average around the reference time",
    51: "a climatological mean", 114: "an accumulation of several forecasts", 115: "an average of several forecasts",
    116: "an accumulation of several forecasts", 117: "an average of forecasts of one time",
    125: "a standard deviation of several forecasts",
}  # fmt: skip
"""Time ranges of GRIB 1 (WMO code table 5) that eccodes counts no steps of."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One field of a file, as its headers describe it.

    Attributes:
        path: the file.
        number: of the message in the file, from 1.
        offset: of its first byte.
        length: in bytes.
        param: ECMWF's parameter number (``paramId``).
        short_name: of the parameter.
        units: of its values.
        level_type: what ``level`` is counted in.
        level: in hPa where it is pressure.
        time: when it is valid, ``datetime64[s]``, UTC.
        lead: hours from the start of the forecast to that time; 0 in an analysis.
        window: hours that a statistic runs over; 0 for a moment.
        step_type: ``instant``, or which statistic it is: ``accum``, ``avg``, ``max``, ...
        data_type: ``an``, ``fc``, ``es``, ...
        member: of an ensemble, where it is said.
        version: the experiment, where it is said: 1 is ERA5, 5 preliminary ERA5T.
        mars_class: ECMWF's class of data: ``ea`` is ERA5; empty where there is none.
        grid: where its values lie.
        packing_step: difference between neighbouring packed values, in ``units``; 0 where it is not stated.
    """

    path: Path
    number: int
    offset: int
    length: int
    param: int
    short_name: str
    units: str
    level_type: str
    level: float
    time: np.datetime64
    lead: float
    window: float
    step_type: str
    data_type: str
    member: int | None
    version: str
    mars_class: str
    grid: GribGrid
    packing_step: float

    @property
    def on_pressure(self) -> bool:
        """Whether it lies on a pressure level."""
        return self.level_type in PRESSURE

    def __str__(self) -> str:
        return f"{self.path.name}, message {self.number}"


def load_eccodes() -> Any:
    """Import the library that decodes GRIB.

    Raises:
        SettingsError: it is not installed.
    """
    # eccodes brings an old SQLite, and loads it so that Python's own module, if it comes later, is bound to it: MLflow
    # refuses that. It also brings a PROJ, with which a pyproj that comes later crashes.
    for earlier in ("sqlite3", "pyproj"):
        if importlib.util.find_spec(earlier) is not None:
            importlib.import_module(earlier)
    try:
        eccodes = importlib.import_module("eccodes")
    # Without its binary part the package fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        msg = (
            f"--source grib needs the package eccodes, which cannot be imported ({error}); install it with: "
            'pip install "aurora-finetune-kit[grib]"'
        )
        raise SettingsError(msg) from error
    # Not to the screen: what the library finds wrong, the kit says in its own message.
    if not _LOG:
        _LOG.append(Path(os.devnull).open("wb"))  # noqa: SIM115
        eccodes.codes_context_set_logging(_LOG[0])
    return eccodes


def is_grib(path: Path) -> bool:
    """Whether a file is GRIB by its name or by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def scan(path: Path, grids: dict[str, GribGrid] | None = None) -> list[Message]:
    """Read the headers of all messages of a file.

    Args:
        path: the file.
        grids: those of other files, by what eccodes calls them; is given those of this one.

    Raises:
        StoreError: the file holds anything else, a message is damaged, cut off, or holds several fields.
        SettingsError: eccodes is not installed.
    """
    if grids is None:
        grids = {}
    return list(_Scanner(path, load_eccodes(), grids).messages())


@dataclass
class _Scanner:
    path: Path
    eccodes: Any
    grids: dict[str, GribGrid]
    names: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Short name and units by parameter number: looking them up takes longer than all the rest."""
    shared: dict[tuple[type, Any], Any] = field(default_factory=dict)
    """The same object for equal values: of a year of the globe there are a hundred thousand messages."""

    def messages(self) -> Iterator[Message]:
        number, end = 0, 0
        with self.path.open("rb") as stream:
            while True:
                number += 1
                try:
                    handle = self.eccodes.codes_grib_new_from_file(stream, headers_only=True)
                except self.eccodes.CodesInternalError as error:
                    raise self._damaged(number, error) from error
                if handle is None:
                    break
                try:
                    offset = self.eccodes.codes_get_message_offset(handle)
                    self._check_gap(stream, end, offset, number)
                    message = self._message(handle, number, offset)
                except StoreError:
                    raise
                except (self.eccodes.CodesInternalError, ValueError, OverflowError) as error:
                    raise self._damaged(number, error) from error
                finally:
                    self.eccodes.codes_release(handle)
                self._check_single(stream, message)
                end = offset + message.length
                yield message
            self._check_gap(stream, end, self.path.stat().st_size, number)

    def _message(self, handle: Any, number: int, offset: int) -> Message:
        def get(key: str, default: Any = None) -> Any:
            try:
                return self.eccodes.codes_get(handle, key)
            except self.eccodes.KeyValueNotFoundError:
                return default

        def shared(value: T) -> T:
            same: T = self.shared.setdefault((type(value), value), value)
            return same

        length = int(get("totalLength", 0))
        # eccodes reads on behind the end of a message whose headers claim more than it has, and crashes.
        for section in _HEADERS:
            end = int(get(f"offsetSection{section}", 0)) + int(get(f"section{section}Length", 0))
            if end > length:
                raise self._damaged(number, f"section {section} ends at byte {end}, the message at {length}")
        edition = int(get("edition", 0))
        if edition not in (1, 2):
            raise self._damaged(number, f"GRIB of the edition {edition}, where there are 1 and 2")
        base = self._reference_time(get, edition, number)
        # Steps before times: eccodes never returns from a time whose step is of no unit.
        first, last = self._steps(get, edition, number)
        valid = base + np.timedelta64(round(last * 3600), "s")
        meaning = int(get("significanceOfReferenceTime", 0))
        if meaning == _VERIFYING:
            valid, base = base, base - (valid - base)
        elif meaning == _LOCAL or (meaning == _OBSERVED and last):
            what = f"a step of {last:g} h after an observation"
            if meaning == _LOCAL:
                what = "a reference time in local time"
            raise self._unread(number, f"states {what}", "significanceOfReferenceTime", meaning)
        param, level_type = int(get("paramId", 0)), str(get("typeOfLevel"))
        if param not in self.names:
            self.names[param] = (str(get("shortName", "unknown")), str(get("units", "")))
        short_name, units = self.names[param]
        # Messages of one grid share it, over all files: matrices of a projection are large.
        section_hash = str(get("md5GridSection", f"{self.path}, message {number}"))
        if section_hash not in self.grids:
            self.grids[section_hash] = read_grid(self.eccodes, handle)
        return Message(
            path=self.path,
            number=number,
            offset=offset,
            length=length,
            param=param,
            short_name=short_name,
            units=units,
            level_type=shared(level_type),
            level=shared(round(float(get("level", 0)) * PRESSURE.get(level_type, 1.0), 6)),
            time=shared(valid),
            lead=shared(float((valid - base) / np.timedelta64(3600, "s"))),
            window=shared(last - first),
            step_type=shared(str(get("stepType", "instant"))),
            data_type=shared(str(get("dataType", ""))),
            member=get("number"),
            version=shared(str(get("experimentVersionNumber", ""))),
            mars_class=shared(str(get("marsClass", ""))),
            grid=self.grids[section_hash],
            packing_step=shared(_packing_step(int(get("binaryScaleFactor", 0)), int(get("decimalScaleFactor", 0)))),
        )

    def _reference_time(self, get: Callable[..., Any], edition: int, number: int) -> np.datetime64:
        """Read the reference time; refuse a date of which a part is missing or out of range."""
        for key, missing in _MISSING_PARTS[edition].items():
            value = int(get(key))
            if value in missing:
                part = key.removesuffix("OfCentury")
                raise self._unread(number, f"states a date without a {part} ({key} {value})", key, value)
        parts = {key: int(get(key, 0)) for key in _PARTS}
        if parts["second"] == _NO_SECOND:
            parts["second"] = 0
        # Not as eccodes' dataDate, which writes a warning of its own where a part is out of range.
        year = int(get("year"))
        for key, (first, last) in _PARTS.items():
            if key == "day" and year > 0:
                last = calendar.monthrange(year, parts["month"])[1]  # noqa: PLW2901
            if not first <= parts[key] <= last:
                what = f"states a date with the {key} {parts[key]}, where {first} to {last} can be"
                raise self._unread(number, what, key, parts[key])
        month, day, hour, minute, second = parts.values()
        return np.datetime64(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}", "s")

    def _steps(self, get: Callable[..., Any], edition: int, number: int) -> tuple[float, float]:
        """Read where the interval of a message begins and ends, in hours from the reference time."""
        unit = int(get(_UNIT_KEYS[edition], 1))
        if unit in _WITHOUT_LENGTH and any(int(get(key, 0)) for key in ("forecastTime", "P1", "P2")):
            what = f"counts its forecast step in {_WITHOUT_LENGTH[unit]}, which have no fixed length"
            raise self._unread(number, what, _UNIT_KEYS[edition], unit)
        if unit not in _UNITS[edition] and unit not in _WITHOUT_LENGTH:
            what = f"counts its forecast step in a unit that no code table names ({unit})"
            raise self._unread(number, what, _UNIT_KEYS[edition], unit)
        time_range = int(get("timeRangeIndicator", 0))
        if edition == 1 and time_range in _RANGES:
            what = f"is {_RANGES[time_range]} (time range indicator {time_range}), no state"
            raise self._unread(number, what, "timeRangeIndicator", time_range)
        if edition == 1 and unit in _UNITS_OF_EDITION_1:
            one, two = int(get("P1")), int(get("P2"))
            if time_range == 10:
                one, two = 256 * one + two, 256 * one + two
            elif time_range < 2:
                two = one
            return one * _UNITS_OF_EDITION_1[unit], two * _UNITS_OF_EDITION_1[unit]
        first, last = _hours(get("startStep", 0)), _hours(get("endStep", 0))
        if min(first, last) < 0:
            what = f"states the forecast steps {first:g} to {last:g} h, which begin before its reference time"
            if first == last:
                what = f"states the forecast step {first:g} h, which is before its reference time"
            raise self._unread(number, what, "forecastTime", int(get("forecastTime", 0)))
        return first, last

    def _unread(self, number: int, what: str, key: str, value: int) -> StoreError:
        """Describe a message that is whole, and that the kit cannot read as a state."""
        # Without ":i" the tool compares texts, and a number of a code table has another, such as "h".
        return StoreError(
            f"{self.path}: message {number} {what}; the file is whole: leave such messages out with eccodes' "
            f"`grib_copy -w {key}:i!={value} {self.path.name} NEW.grib`, or mend their headers"
        )

    def _check_gap(self, stream: IO[bytes], start: int, stop: int, number: int) -> None:
        if stop - start <= _ENVELOPE:
            return
        # eccodes looks for the next message by its first bytes, and would pass over one that has lost them.
        held = os.pread(stream.fileno(), min(stop - start, 2**20), start)
        if held.count(0) < len(held):
            what = "not a GRIB file" if number == 1 else f"{stop - start} bytes before message {number} are no message"
            other = describe_format(self.path) if number == 1 else ""
            advice = f"the file is {other}" if other else "the file is damaged or of another format: fetch it again"
            msg = f"{self.path}: {what}; {advice}"
            raise StoreError(msg)

    def _check_single(self, stream: IO[bytes], message: Message) -> None:
        """Refuse a message with several fields, of which eccodes would read the first alone; GRIB 1 has one."""
        if os.pread(stream.fileno(), 1, message.offset + 7) != b"\x02":
            return
        at, fields = message.offset + 16, 0
        while at < message.offset + message.length - 4:
            head = os.pread(stream.fileno(), 5, at)
            size = int.from_bytes(head[:4])
            if size < 5:
                raise self._damaged(message.number, f"a section of {size} bytes")
            fields += head[4] == _DATA_SECTION
            at += size
        if fields > 1:
            msg = (
                f"{self.path}: message {message.number} holds {fields} fields; split them first with eccodes' "
                f"`grib_copy {self.path.name} NEW.grib`"
            )
            raise StoreError(msg)

    def _damaged(self, number: int, error: object) -> StoreError:
        return StoreError(
            f"{self.path}: message {number} cannot be read ({error}): the file is damaged or cut off; fetch it again"
        )


def _packing_step(binary: int, decimal: int) -> float:
    """Compute what one more in a packed integer is worth; infinite where a damaged header says so.

    In both editions a value is (reference + integer x 2^binary) / 10^decimal.
    """
    with np.errstate(all="ignore"):
        return float(np.float64(2) ** binary * np.float64(10) ** -decimal)


def _hours(step: int | str) -> float:
    found = re.fullmatch(r"(-?\d+)([smhD]?)", str(step))
    if found is None:
        msg = f"a forecast step of {step!r}"
        raise ValueError(msg)
    return int(found[1]) * _UNIT_HOURS[found[2]]

"""Files that are not what they should be: NetCDF, zips, GRIB and pickles, each of a few hundred bytes to some KB."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from tests.data.sources.era5_files import LATITUDE, LONGITUDE
from tests.data.sources.grib_files import field, message

__all__ = ["CLASSIC", "FOLDERS", "GRIB", "NETCDF", "PICKLES", "Make", "netcdf", "states"]

Make = Callable[[Path], Any]
"""Makes the input at a path."""
Edit = Callable[[netCDF4.Dataset], object]

DIMENSIONS = ("time", "latitude", "longitude")
HOURS = "hours since 2020-01-01"


def values(times: int = 4) -> Any:
    """Temperatures, [T, 3, 4]."""
    return 280.0 + np.arange(times * 12).reshape(times, 3, 4) % 7 + 0.01 * np.arange(times * 12).reshape(times, 3, 4)


def netcdf(
    edit: Edit = lambda _: None,
    *,
    form: Any = "NETCDF4",
    time: Any = (0, 6, 12, 18),
    units: str | None = HOURS,
    calendar: str | None = None,
    latitude: Any = LATITUDE,
    longitude: Any = LONGITUDE,
    variable: bool = True,
) -> Make:
    """Make a file of 2 m temperature, then edit it."""

    def make(path: Path) -> None:
        with netCDF4.Dataset(path, "w", format=form) as dataset:
            for name, coordinate in zip(DIMENSIONS, (time, latitude, longitude), strict=True):
                array = np.asarray(coordinate)
                # The classic formats have no integers of 64 bits.
                array = array.astype(np.int32) if array.dtype.kind == "i" else array
                dataset.createDimension(name, len(array))
                dataset.createVariable(name, array.dtype.str[1:], (name,))[:] = array
            if units is not None:
                dataset["time"].units = units
            if calendar is not None:
                dataset["time"].calendar = calendar
            if variable:
                created = dataset.createVariable("t2m", "f4", DIMENSIONS, fill_value=-32767.0)
                created.units = "K"
                created[:] = np.resize(values(), (len(time), len(latitude), len(longitude)))
            edit(dataset)

    return make


def add(name: str, kind: Any, dimensions: tuple[str, ...] = DIMENSIONS, data: Any = None, **attributes: Any) -> Edit:
    """Add a variable."""

    def edit(dataset: netCDF4.Dataset) -> None:
        variable = dataset.createVariable(name, kind, dimensions)
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        if data is not None:
            variable[...] = data

    return edit


def attributes(name: str, **changed: Any) -> Edit:
    return lambda dataset: dataset[name].setncatts(changed)


def along(name: str, size: int, variable: str = "t2m", kind: str = "f4", *more: str) -> Edit:
    """Add a dimension, and a variable of some along it."""

    def edit(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension(name, size)
        created = dataset.createVariable(variable, kind, ("time", name, *more, "latitude", "longitude"))
        created.units = "K"

    return edit


def in_group(dataset: netCDF4.Dataset) -> None:
    group = dataset.createGroup("fields")
    group.createVariable("t2m", "f4", DIMENSIONS)[:] = values()


def complex_numbers(dataset: netCDF4.Dataset) -> None:
    kind = dataset.createCompoundType(np.dtype([("re", "f4"), ("im", "f4")]), "complex64")
    dataset.createVariable("t2m", kind, DIMENSIONS)


def ragged(dataset: netCDF4.Dataset) -> None:
    kind = dataset.createVLType(np.float32, "ragged")
    dataset.createVariable("t2m", kind, DIMENSIONS)[0, 0, 0] = np.zeros(2, np.float32)


def words(dataset: netCDF4.Dataset) -> None:
    dataset.createVariable("t2m", str, DIMENSIONS)[0, 0, 0] = "warm"


def missing(count: int) -> Edit:
    """Leave out the first values of every state."""

    def edit(dataset: netCDF4.Dataset) -> None:
        packed = dataset.createVariable("u10", "i2", DIMENSIONS, fill_value=-1)
        packed.setncatts({"units": "m s**-1", "scale_factor": 0.01})
        some = np.ma.masked_array(values() / 100 - 2.8, np.zeros((4, 3, 4), bool))
        some.mask.reshape(4, 12)[:, :count] = True
        packed[:] = some

    return edit


def packed(**attributes: Any) -> Edit:
    return add("u10", "i2", data=np.arange(48).reshape(4, 3, 4) + 1, units="m s**-1", **attributes)


def damaged(path: Path) -> None:
    """A compressed chunk with other bytes than its checksum says, in a file that is sound otherwise."""

    def compressed(dataset: netCDF4.Dataset) -> None:
        created = dataset.createVariable("t2m", "f4", DIMENSIONS, zlib=True, fletcher32=True)
        created.units = "K"
        created[:] = values()

    netcdf(compressed, variable=False)(path)
    content = path.read_bytes()
    at = content.index(b"\x78\x5e")
    path.write_bytes(content[: at + 10] + bytes(20) + content[at + 30 :])


def unnamed(dataset: netCDF4.Dataset) -> None:
    """Coordinates under other names than their dimensions."""
    for name in DIMENSIONS:
        dataset.renameVariable(name, f"x{name}")


def curved(dataset: netCDF4.Dataset) -> None:
    """Two-dimensional coordinates of another shape than the field's."""
    dataset.createDimension("y", 2)
    for name in ("latitude", "longitude"):
        dataset.renameVariable(name, f"old_{name}")
        dataset.createVariable(name, "f8", ("y", name))[:] = 10.0


NETCDF: dict[str, tuple[Make, str]] = {
    "empty": (lambda path: path.touch(), "not readable as NetCDF"),
    "a pipe": (os.mkfifo, "no NetCDF files"),
    "a folder named like a file": (Path.mkdir, "no NetCDF files"),
    "a link into nowhere": (lambda path: path.symlink_to("nowhere.nc"), "no such file or folder"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "no such file or folder"),
    "HDF5 without NetCDF": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)), "not readable as NetCDF"),
    "another format": (lambda path: path.write_bytes(b"GRIB" + bytes(200)), "not readable as NetCDF"),
    "a damaged chunk": (damaged, "t2m cannot be read"),
    "no variable": (netcdf(variable=False), "holds a field"),
    "no coordinates": (netcdf(unnamed), "latitude is needed"),
    "a field in a group": (netcdf(in_group, variable=False), "lie in groups, fields; name those to take with --group"),
    "text": (netcdf(words, variable=False), "t2m holds <U4 values, numbers expected"),
    "characters": (netcdf(add("t2m", "S1", data=b"a"), variable=False), "t2m holds .S1 values, numbers expected"),
    "complex numbers": (netcdf(complex_numbers, variable=False), "t2m holds .* values, numbers expected"),
    "ragged rows": (netcdf(ragged, variable=False), "t2m cannot be read"),
    "an ensemble": (netcdf(along("number", 2), variable=False), "ensemble members"),
    "five dimensions": (netcdf(along("height", 2), variable=False), "height"),
    "a level of another kind": (netcdf(along("level", 2, "t"), variable=False), "dimension level without its values"),
    "two-dimensional coordinates": (netcdf(curved), "latitude|coordinate|shape"),
    "no time at all": (netcdf(time=(), variable=False), "time has no values"),
    "times of zero length": (netcdf(time=()), "time has no values"),
    "a calendar of 360 days": (netcdf(calendar="360_day"), "time counts in the calendar '360_day'"),
    "a calendar without leap days": (netcdf(calendar="noleap"), "time counts in the calendar 'noleap'"),
    "the Julian calendar": (netcdf(calendar="julian"), "time counts in the calendar 'julian'"),
    "a calendar of its own": (netcdf(calendar="mayan"), "time counts in the calendar 'mayan'"),
    "times twice": (netcdf(time=(0, 6, 6, 12)), "more than once"),
    "a time without a value": (netcdf(time=(0.0, 6.0, np.nan, 18.0)), "1 of 4 times have no value"),
    "times without a unit": (netcdf(units=None), "standard calendar"),
    "times in bananas": (netcdf(units="bananas since yesterday"), "time has the units 'bananas"),
    "times of no year": (netcdf(time=(0.0, 6.0, 1e300, 2e300)), "time cannot be read as dates"),
    "times in the year 300000": (netcdf(time=(0.0, 1.0, 2.0, 2629800000.0)), "outside the years|cannot be read"),
    "times with a hole": (netcdf(time=(0, 6, 12, 48)), "qa:time-gaps"),
    "a latitude twice": (netcdf(latitude=(50.5, 50.25, 50.25)), "distinct"),
    "a latitude without a value": (
        netcdf(latitude=(50.5, np.nan, 50.0)),
        "latitude must hold finite numbers, found nan",
    ),
    "latitudes beyond the pole": (netcdf(latitude=(91.0, 90.0, 89.0)), "within"),
    "no latitude": (netcdf(latitude=()), "latitude has no values"),
    "no longitude": (netcdf(longitude=()), "longitude has no values"),
    "a longitude without a value": (
        netcdf(longitude=(5.0, np.nan, 5.5, 5.75)),
        "longitude must hold finite numbers, found nan",
    ),
    "an endless longitude": (
        netcdf(longitude=(5.0, np.inf, 5.5, 5.75)),
        "longitude must hold finite numbers, found inf",
    ),
    "two boxes": (netcdf(longitude=(5.0, 5.25, 100.0, 100.25)), "hole"),
    "a factor that is text": (netcdf(packed(scale_factor="two")), "u10 (holds|cannot be read)"),
    "a factor of nothing": (netcdf(packed(scale_factor=0.0)), "qa:constant-in-space:10u"),
    "a factor without a value": (netcdf(packed(scale_factor=np.nan)), "qa:nan:10u"),
    "a factor beyond all": (netcdf(packed(scale_factor=1e38)), "qa:inf:10u"),
    "a factor of many": (netcdf(packed(scale_factor=np.ones(3))), "not readable as NetCDF"),
    "a fill value of text": (netcdf(packed(missing_value="none")), "qa"),
    "two fill values": (netcdf(packed(missing_value=np.int16(3), _FillValue_=4)), "qa:nan:10u"),
    "masked points": (netcdf(missing(2)), "qa:nan:10u"),
    "masked states": (netcdf(missing(12)), "qa:nan:10u"),
    "values beyond single precision": (netcdf(add("u10", "f8", data=1e300, units="m s**-1")), "qa:inf:10u"),
    "a unit of another kind": (netcdf(attributes("t2m", units="parsec")), "'parsec'"),
    "a unit of numbers": (netcdf(attributes("t2m", units=np.arange(3))), "comes in"),
    "an axis of a billion points": (netcdf(lambda d: d.createDimension("x", 2**40) and None), "qa"),
    "latitudes by the trillion": (
        netcdf(
            lambda d: (
                d.createDimension("lat", 2**40),
                d.createVariable("lat", "f8", ("lat",), chunksizes=(1024,)),
                d.createVariable("v10", "f4", ("time", "lat", "longitude"), chunksizes=(1, 1024, 4)),
            ),
            variable=False,
        ),
        "lat claims 1099511627776 values of one dimension",
    ),
}
"""By name: what makes it, and what is said of it, or the check that fails after ``qa:``."""

CLASSIC = netcdf(form="NETCDF3_CLASSIC")
"""A sound file of the classic format."""


def header(*parts: bytes | int) -> Make:
    """A classic file that is all header."""
    content = b"".join(part if isinstance(part, bytes) else struct.pack(">I", part) for part in parts)
    return lambda path: path.write_bytes(content)


NETCDF |= {
    "a header of four billion dimensions": (header(b"CDF\x01", 0, 10, 2**32 - 1), "header"),
    "a name of four billion letters": (header(b"CDF\x01", 0, 10, 1, 2**32 - 1), "header"),
    "a version of its own": (header(b"CDF\x09", bytes(60)), "header|not readable"),
    "a header of nothing": (header(b"CDF\x01", bytes(28)), "latitude is needed"),
    "a dimension that is not there": (
        header(b"CDF\x01", 0, 0, 0, 0, 0, 11, 1, 1, b"a\0\0\0", 1, 7, 0, 0, 5, 4, 100),
        "header",
    ),
}


def zipped(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bomb(path: Path) -> None:
    """Two gigabytes of nothing in 2 MB; written by hand, for speed: one block of zeros, repeated."""
    import zlib

    size, block = 2**31, bytes(2**20)
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = compress.compress(block) + compress.flush(zlib.Z_FULL_FLUSH)
    content = body * (size // len(block)) + b"\x03\x00"
    name = b"a.nc"
    sizes = struct.pack("<III", 0, len(content), size)
    local = b"PK\x03\x04" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", len(name), 0) + name
    central = b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    where = len(local) + len(content)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), where, 0)
    path.write_bytes(local + content + central + end)


def claiming(size: int) -> Make:
    """A member that says it is of another size."""

    def make(path: Path) -> None:
        content = bytearray(zipped({"a.nc": b"CDF\x01" + bytes(100)}))
        at = content.index(b"PK\x01\x02")
        content[at + 24 : at + 28] = struct.pack("<I", size)
        path.write_bytes(bytes(content))

    return make


def locked(path: Path) -> None:
    content = bytearray(zipped({"a.nc": bytes(100)}))
    for at in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[at] |= 1
    path.write_bytes(bytes(content))


NETCDF |= {
    "an empty zip": (lambda path: path.write_bytes(zipped({})), "holds a field|no NetCDF"),
    "a zip of other files": (lambda path: path.write_bytes(zipped({"a.txt": b"text"})), "holds a field|no NetCDF"),
    "a zip bomb": (bomb, "claim to unpack to 2147483648"),
    "a zip that claims more than there is": (claiming(2**32 - 2), "unpack"),
    "a zip that claims less than there is": (claiming(3), "unpack|not readable|header"),
    "a locked zip": (locked, "unpack"),
    "a zip of a zip": (lambda path: path.write_bytes(zipped({"a.nc": zipped({"b.nc": b""})})), "not readable"),
}


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


FIRST, SECOND = message(field(1)), message(field(2), edition=2)


def section(number: int) -> int:
    """Where a section of the second edition begins."""
    at = 16
    while SECOND[at + 4] != number:
        at += int.from_bytes(SECOND[at : at + 4])
    return at


def contents(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


GRIB: dict[str, tuple[Make, str]] = {
    "empty": (contents(b""), "no GRIB message"),
    "a pipe": (os.mkfifo, "no GRIB files"),
    "four letters": (contents(b"GRIB"), "message 1|no GRIB message"),
    "no message in much": (contents(b"x" * 5000), "not a GRIB file|no GRIB message"),
    "a third edition": (contents(patched(SECOND, 7, b"\x03")), "message 1|no GRIB message"),
    "edition zero": (contents(patched(SECOND, 7, b"\x00")), "message 1|no GRIB message"),
    "a longer message than there is": (contents(patched(FIRST, 4, b"\x7f\xff\xff")), "message 1"),
    "a message of no length": (contents(patched(FIRST, 4, b"\0\0\0")), "message 1"),
    "a message longer than all disks": (contents(patched(SECOND, 8, b"\x7f" + b"\xff" * 7)), "message 1"),
    "a first section of no length": (contents(patched(FIRST, 8, b"\0\0\0")), "message 1"),
    "a first section too long": (contents(patched(FIRST, 8, b"\xff\xff\xff")), "message 1"),
    "a section of no length": (contents(patched(SECOND, section(3), bytes(4))), "message 1"),
    "a section too long": (contents(patched(SECOND, section(4), b"\xff" * 4)), "message 1"),
    "sections of another number": (contents(patched(SECOND, section(5) + 4, b"\x09")), "message 1"),
    "four billion points": (contents(patched(SECOND, section(3) + 6, b"\xff" * 4)), "message 1"),
    "four billion columns": (contents(patched(SECOND, section(3) + 30, b"\xff\xff\xff\xfe")), "message 1"),
    "four billion packed values": (contents(patched(SECOND, section(5) + 5, b"\xff" * 4)), "message 1"),
    "a packing that nobody knows": (contents(patched(SECOND, section(5) + 9, b"\xfe\xfe")), "message 1"),
    "255 bits for a value": (contents(patched(SECOND, section(5) + 19, b"\xff")), "message 1|qa"),
    "no end": (contents(patched(SECOND, len(SECOND) - 4, b"8888")), "message 1"),
    "a grid of no points": (contents(message(late=True, Ni=0)), "message 1"),
    "a day that is none": (contents(message(late=True, month=2, day=31)), "message 1"),
    "text before all": (contents(b"<html>" * 300 + FIRST), "no message|not a GRIB file"),
}


def states(**changed: Any) -> dict[str, Any]:
    """A dictionary of arrays, as ``--source pickle`` reads it."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    plain = {"time": times, "latitude": LATITUDE, "longitude": LONGITUDE, "2t": values().astype(np.float32)}
    return {key: value for key, value in {**plain, **changed}.items() if value is not None}


def pickled(content: Any, protocol: int = 4) -> Make:
    return lambda path: path.write_bytes(pickle.dumps(content, protocol))


def nested(path: Path) -> None:
    path.write_bytes(b"\x80\x04" + b"]" * 200000 + b"a" * 199999 + b".")


def around(path: Path) -> None:
    """A list that holds itself."""
    path.write_bytes(b"\x80\x04]\x94h\x00a.")


PICKLES: dict[str, tuple[Make, str]] = {
    "empty": (contents(b""), "pickle"),
    "a pipe": (os.mkfifo, "a pickle is one file"),
    "bytes without end": (contents(b"\x80\x04\x8e" + b"\x7f" * 8 + b"x."), "pickle"),
    "a frame without end": (contents(b"\x80\x04\x95" + b"\xff" * 8 + b"x."), "pickle"),
    "an unknown protocol": (contents(b"\x80\xff."), "pickle"),
    "a number of a million digits": (contents(b"I" + b"9" * 1_000_000 + b"\n."), "pickle|int"),
    "a list in lists in lists": (nested, "list|pickle"),
    "a list of itself": (around, "list"),
    "a memo that is not there": (contents(b"\x80\x04h\x09."), "pickle"),
    "a number": (pickled(7), "holds a int"),
    "nothing": (pickled(None), "NoneType"),
    "objects": (pickled(states(**{"2t": np.full((4, 3, 4), {})})), "refused|object"),
    "complex numbers": (pickled(states(**{"2t": values().astype(complex)})), "complex"),
    "text for numbers": (pickled(states(**{"2t": values().astype(str)})), "2t holds .* values, numbers expected"),
    "records": (pickled(states(**{"2t": np.zeros((4, 3, 4), [("a", "f4")])})), "2t|refused"),
    "latitudes as text": (pickled(states(latitude=LATITUDE.astype(str))), "latitude must hold finite numbers"),
    "times as numbers": (pickled(states(time=np.arange(4))), "time holds int64"),
    "times that are none": (
        pickled(states(time=np.array(["NaT"] * 4, "datetime64[ns]"))),
        "4 of 4 times have no value",
    ),
    "times before all": (
        pickled(states(time=(np.arange(-4, 0) * 10**6).astype("datetime64[Y]"))),
        "outside the years 1800 to 2300",
    ),
    "no states": (
        pickled(states(time=np.empty(0, "datetime64[ns]"), **{"2t": np.empty((0, 3, 4))})),
        "time has no values",
    ),
    "one state short": (pickled(states(**{"2t": values(3)})), r"2t has the shape \(3, 3, 4\)"),
    "one dimension": (pickled(states(**{"2t": np.zeros(5)})), r"2t has the shape \(5,\)"),
    "five dimensions": (pickled(states(**{"2t": np.zeros((4, 1, 1, 3, 4))})), "2t has the shape"),
    "names that are numbers": (pickled({**states(), 7: values()}), "qa"),
    "a factor of another shape": (pickled(states(**{"2t.scale": np.ones(9)})), "2t.scale"),
    "only NaN": (pickled(states(**{"2t": np.full((4, 3, 4), np.nan, "f4")})), "qa:nan:2t"),
    "attributes of another kind": (pickled({**states(), "attributes": [1, 2]}), "holds a list, expected a dictionary"),
    "a licence of another kind": (pickled({**states(), "attributes": {"licence": {"a": 1}}}), "qa"),
}


def _beside(name: str, content: bytes | None) -> Make:
    """A sound file in a folder, and another thing beside it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        netcdf()(folder / "a.nc")
        if content is None:
            os.mkfifo(folder / name)
        else:
            (folder / name).write_bytes(content)

    return make


def _linked(folder: Path) -> None:
    """A folder of links, one of them to a folder around it."""
    folder.mkdir()
    netcdf()(folder.parent / "outside.nc")
    (folder / "a.nc").symlink_to("../outside.nc")
    (folder / "round").symlink_to("..")


def _strange(name: Any) -> Make:
    def make(folder: Path) -> None:
        folder.mkdir()
        netcdf()(folder / "plain.nc")
        (folder / "plain.nc").rename(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)))

    return make


FOLDERS: dict[str, tuple[Make, str]] = {
    "a pipe beside a file": (_beside("pipe.nc", None), "qa"),
    "an empty file beside another": (_beside("b.nc", b""), "b.nc: not readable"),
    "text beside a file": (_beside("notes.txt", b"text"), "qa"),
    "links out of the folder": (_linked, "qa"),
    "a name of two lines": (_strange(b"a\nb.nc"), "qa"),
    "a name that is no text": (_strange(b"a\xff\xfe.nc"), "not readable as NetCDF"),
    "a name in other letters": (_strange("\u6c17\u8c61\U0001f300.nc".encode()), "qa"),
    "a name that colours": (_strange(b"a\x1b[31m[bold]b.nc"), "qa"),
    "a store": (lambda folder: (folder / "c").mkdir(parents=True), "no NetCDF files"),
}
"""Folders, read as NetCDF."""

"""ERA5 in NetCDF, as the CDS delivers it today and did before.

A folder, a file, or a zip; ``valid_time`` or ``time``, ``pressure_level`` or ``level``; ERA5 and ERA5T
mixed through ``expver``; instantaneous and accumulated variables in files of their own.
"""

import shutil
import tempfile
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.base import (
    Pieces,
    Request,
    SourceData,
    SourceLocation,
    data_files,
    file_facts,
    files_left_out,
    states_together,
)
from kit.data.sources.dates import decode_dates
from kit.data.sources.fields import Note
from kit.data.sources.grib.scan import SUFFIXES as GRIB_SUFFIXES
from kit.data.sources.groups import open_parts
from kit.data.sources.leads import LEAD_DIMENSIONS, TIME_DIMENSIONS
from kit.data.sources.netcdf_files import UNREADABLE, check_length, describe_unopened, describe_unread
from kit.data.sources.versions import final_before_preliminary, with_versions
from kit.data.sources.wrf import is_wrf, surface_fields
from kit.io.errors import StoreError
from kit.io.expansion import is_bomb

SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf")


@contextmanager
def open_source(paths: Sequence[SourceLocation], request: Request) -> Iterator[SourceData]:
    """Open NetCDF data.

    Args:
        paths: Files, zips, and folders of them.
        request: What is taken.

    Raises:
        StoreError: No files, a damaged file, or files that cannot be brought into one form.
    """
    files = data_files(paths, "NetCDF", f"{', '.join(SUFFIXES)} or .zip", is_named_netcdf)
    pieces = Pieces(request)
    with ExitStack() as stack:
        licence = add_files(files, pieces, stack)
        if not pieces.names:
            msg = f"{paths[0]}: none of {len(files)} files holds a field on latitudes and longitudes"
            raise StoreError(msg)
        yield SourceData(
            fields=pieces.merged(),
            names=tuple(sorted(pieces.names)),
            files=file_facts(files),
            notes=(*pieces.notes, *files_left_out(paths, GRIB_SUFFIXES)),
            licence=licence,
            projection=pieces.projection,
            origins=pieces.origins(),
        )


def is_named_netcdf(path: Path) -> bool:
    """Whether a file is NetCDF, or a zip that may hold some, by its name."""
    return path.suffix.lower() in (*SUFFIXES, ".zip")


def add_files(files: Sequence[Path], pieces: Pieces, stack: ExitStack) -> str:
    """Take all fields of NetCDF files and zips of them.

    Args:
        files: Files; their fields may be read until ``stack`` is closed.
        pieces: Receives the fields.
        stack: Closes files and removes what was unpacked.

    Returns:
        The licences that the files state.

    Raises:
        StoreError: A file is damaged, or its fields cannot be brought into the store's form.
    """
    licences = []
    scratch: Path | None = None
    for number, file in enumerate(files):
        members = [(file.name, file)]
        if zipfile.is_zipfile(file):
            if scratch is None:
                scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kit-netcdf-")))
            members = _unpack(file, scratch / str(number))
        for name, member in members:
            parts = stack.enter_context(open_file(member, name, pieces.request.groups, pieces.note))
            for part, dataset in parts.items():
                licences.append(str(dataset.attrs.get("Licence", dataset.attrs.get("licence", ""))).strip())
                pieces.add(final_before_preliminary(with_versions(dataset), pieces.note), part)
    return "; ".join(dict.fromkeys(filter(None, licences)))


def _unpack(archive: Path, folder: Path) -> list[tuple[str, Path]]:
    """Write the NetCDF members of a zip to a folder, under names of our own; return theirs, and where they lie."""
    unpacked = []
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if _is_netcdf(archive, member)]
            _check_size(archive, members, folder.parent)
            folder.mkdir()
            for number, member in enumerate(members):
                target = folder / f"{number}.nc"
                with content.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                if target.stat().st_size != member.file_size:
                    msg = f"{member.filename} unpacks to {target.stat().st_size} bytes, not to {member.file_size}"
                    raise EOFError(msg)
                unpacked.append((f"{archive.name}:{member.filename}", target))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        msg = f"{archive}: the zip cannot be unpacked ({error}); fetch it again"
        raise StoreError(msg) from error
    return unpacked


def _is_netcdf(archive: Path, member: zipfile.ZipInfo) -> bool:
    name = member.filename
    # A name may be of either system, whichever this one is.
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        msg = f"{archive}: refused: the member {name!r} points outside the archive; nothing was unpacked"
        raise StoreError(msg)
    return not member.is_dir() and name.lower().endswith(SUFFIXES)


def _check_size(archive: Path, members: Sequence[zipfile.ZipInfo], scratch: Path) -> None:
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if is_bomb(size, packed):
        msg = f"{archive}: refused: {packed} bytes claim to unpack to {size}, which no field does; fetch it again"
        raise StoreError(msg)
    free = shutil.disk_usage(scratch).free
    if size > free:
        msg = f"{archive}: unpacks to {size} bytes, {free} are free in {scratch}; set TMPDIR to a larger disk"
        raise StoreError(msg)


@contextmanager
def open_file(path: Path, name: str, groups: Sequence[str], note: Note) -> Iterator[dict[str, xr.Dataset]]:
    """Open one file, lazily: dates decoded, WRF's output in a form that the kit reads.

    Args:
        path: The file.
        name: Its name, for messages.
        groups: Groups to take instead of the root.
        note: Takes what is left out.

    Yields:
        The root of the file, or the groups, by name for messages.

    Raises:
        StoreError: The file is damaged, of another format, or has not these groups.
    """
    check_length(path)
    try:
        with warnings.catch_warnings():
            # Several fill values in one file, dates that only cftime can hold: the checks below speak up.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            warnings.filterwarnings("ignore", message="this date/calendar/year zero convention")
            options: dict[str, Any] = {"engine": "netcdf4", "cache": False}
            # Dates are decoded below, where the numbers that they come from are still known.
            options |= {"decode_times": False, "decode_timedelta": False}
            parts = open_parts(path, name, groups, note, **options)
    except StoreError:
        raise
    except (*UNREADABLE, MemoryError) as error:
        msg = describe_unopened(path, name, error)
        raise StoreError(msg) from error
    with ExitStack() as stack:
        for dataset in parts.values():
            stack.callback(dataset.close)
        opened = {}
        for part, dataset in parts.items():
            lazy = _in_states(decode_dates(dataset, part), part)
            opened[part] = surface_fields(lazy, part, note) if is_wrf(lazy) else lazy
        yield opened


class _Values:
    """What dask takes for an array: reading it says of which file and variable something cannot be read."""

    def __init__(self, variable: xr.Variable, what: str) -> None:
        self._variable, self._what = variable, what
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        try:
            # A packed value may unpack to more than its type holds; it is infinite then, which the checks report.
            with np.errstate(over="ignore", invalid="ignore"):
                # Rows of different lengths pass for numbers until they are read.
                return np.asarray(self._variable[key].values).astype(self.dtype, copy=False)
        except UNREADABLE as error:
            msg = describe_unread(self._what, error)
            raise StoreError(msg) from error


def _in_states(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Read one state at a time, or some small ones, whatever the file's own chunks are."""
    of_times = (*TIME_DIMENSIONS, *LEAD_DIMENSIONS)
    sizes = [size for dim, size in dataset.sizes.items() if str(dim).lower() not in of_times]
    # The grid's rows and columns, by whatever names; levels are fewer.
    rows, columns = sorted([1, 1, *sizes])[-2:]
    length = dict.fromkeys(TIME_DIMENSIONS, states_together(rows * columns)) | dict.fromkeys(LEAD_DIMENSIONS, 1)
    lazy = {}
    for key, array in dataset.data_vars.items():
        data = da.from_array(  # type: ignore[no-untyped-call]
            _Values(array.variable, f"{where}: {key}"),
            chunks=tuple(length.get(str(dim).lower(), -1) for dim in array.dims),
            # A name of its own, so that dask need not hash what it is given.
            name=f"netcdf-{uuid.uuid4().hex}",
            asarray=False,
            fancy=False,
            meta=np.empty((0,) * array.ndim, array.dtype),
        )
        lazy[key] = array.copy(data=data)
    return dataset.assign(lazy)

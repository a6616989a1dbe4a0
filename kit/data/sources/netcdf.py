"""ERA5 in NetCDF, as the CDS delivers it today and did before.

A folder, a file, or a zip; ``valid_time`` or ``time``, ``pressure_level`` or ``level``; ERA5 and ERA5T
mixed through ``expver``; instantaneous and accumulated variables in files of their own.
"""

from __future__ import annotations

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

from kit.data.fields import Note
from kit.data.sources.base import Pieces, Place, Request, SourceData, data_files, file_facts, states_together
from kit.data.sources.classic import check_length
from kit.data.sources.merging import merge
from kit.errors import StoreError

__all__ = ["open_source"]

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)
"""What a damaged file raises, where it is opened and where it is read."""
_BOMB_BYTES, _BOMB_RATIO = 2**27, 200
"""A zip of more than that, packed so much smaller, holds nothing but the wish to fill a disk."""
SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf")


@contextmanager
def open_source(paths: Sequence[Place], request: Request) -> Iterator[SourceData]:
    """Open NetCDF data.

    Args:
        paths: files, zips, and folders of them.
        request: what is taken.

    Raises:
        StoreError: no files, a damaged file, or files that cannot be brought into one form.
    """
    files = data_files(paths, "NetCDF", f"{', '.join(SUFFIXES)} or .zip", _is_candidate)
    pieces = Pieces(request)
    licences = []
    with ExitStack() as stack:
        scratch: Path | None = None
        for number, file in enumerate(files):
            members = [(file.name, file)]
            if zipfile.is_zipfile(file):
                if scratch is None:
                    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kit-netcdf-")))
                members = _unpacked(file, scratch / str(number))
            for name, member in members:
                dataset = stack.enter_context(_opened(member, name))
                licences.append(str(dataset.attrs.get("Licence", dataset.attrs.get("licence", ""))).strip())
                pieces.add(_one_version(dataset, pieces.note), name)
        if not pieces.names:
            msg = f"{paths[0]}: none of {len(files)} files holds a field on latitudes and longitudes"
            raise StoreError(msg)
        fields = merge(pieces.found, pieces.note)
        licence = "; ".join(dict.fromkeys(filter(None, licences)))
        yield SourceData(
            fields,
            tuple(sorted(pieces.names)),
            file_facts(files),
            tuple(pieces.notes),
            licence,
            projection=pieces.projection,
        )


def _is_candidate(path: Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, ".zip")


def _unpacked(archive: Path, folder: Path) -> list[tuple[str, Path]]:
    """Write the NetCDF members of a zip to a folder, under names of our own."""
    try:
        with zipfile.ZipFile(archive) as content:
            members = [m for m in content.infolist() if _is_netcdf(archive, m)]
            _fits(archive, members, folder.parent)
            folder.mkdir()
            return [_extracted(content, member, folder / f"{number}.nc") for number, member in enumerate(members)]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        msg = f"{archive}: the zip cannot be unpacked ({error}); fetch it again"
        raise StoreError(msg) from error


def _is_netcdf(archive: Path, member: zipfile.ZipInfo) -> bool:
    name = member.filename
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        msg = f"{archive}: refused: the member {name!r} points outside the archive; nothing was unpacked"
        raise StoreError(msg)
    return not member.is_dir() and name.lower().endswith(SUFFIXES)


def _fits(archive: Path, members: Sequence[zipfile.ZipInfo], scratch: Path) -> None:
    size, packed = (sum(getattr(member, key) for member in members) for key in ("file_size", "compress_size"))
    if size > _BOMB_BYTES and size > _BOMB_RATIO * packed:
        msg = f"{archive}: refused: {packed} bytes claim to unpack to {size}, which no field does; fetch it again"
        raise StoreError(msg)
    free = shutil.disk_usage(scratch).free
    if size > free:
        msg = f"{archive}: unpacks to {size} bytes, {free} are free in {scratch}; set TMPDIR to a larger disk"
        raise StoreError(msg)


def _extracted(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> tuple[str, Path]:
    with content.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    if target.stat().st_size != member.file_size:
        msg = f"{member.filename} unpacks to {target.stat().st_size} bytes, not to {member.file_size}"
        raise EOFError(msg)
    return f"{Path(str(content.filename)).name}:{member.filename}", target


@contextmanager
def _opened(path: Path, name: str) -> Iterator[xr.Dataset]:
    check_length(path)
    try:
        with warnings.catch_warnings():
            # Several fill values in one file, dates that only cftime can hold: the checks below speak up.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            warnings.filterwarnings("ignore", message="this date/calendar/year zero convention")
            dataset = xr.open_dataset(path, engine="netcdf4", decode_timedelta=False, cache=False)
    except (*UNREADABLE, MemoryError) as error:
        msg = f"{name}: not readable as NetCDF ({error}); fetch the file again, or give its kind with --source"
        raise StoreError(msg) from error
    with dataset:
        yield _in_states(dataset, name)


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
            msg = f"{self._what} cannot be read ({error}): the file is damaged; fetch it again"
            raise StoreError(msg) from error


def _in_states(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Read one state at a time, or some small ones, whatever the file's own chunks are."""
    times = [dim for dim in dataset.dims if str(dim) in ("time", "valid_time")]
    # The grid's rows and columns, by whatever names; levels are fewer.
    rows, columns = sorted([1, 1, *(size for dim, size in dataset.sizes.items() if dim not in times)])[-2:]
    length = states_together(rows * columns)
    lazy = {}
    for key, array in dataset.data_vars.items():
        chunks = tuple(length if dim in times else -1 for dim in array.dims)
        values = _Values(array.variable, f"{where}: {key}")
        meta = np.empty((0,) * array.ndim, array.dtype)
        name = f"netcdf-{uuid.uuid4().hex}"
        data = da.from_array(  # type: ignore[no-untyped-call]
            values, chunks=chunks, name=name, asarray=False, fancy=False, meta=meta
        )
        lazy[key] = array.copy(data=data)
    return dataset.assign(lazy)


def _one_version(dataset: xr.Dataset, note: Note) -> xr.Dataset:
    """Let final ERA5 (``expver`` 1) stand where it exists, and preliminary ERA5T (5) elsewhere."""
    if "expver" not in dataset.variables:
        return dataset
    if "expver" in dataset.dims:
        versions = sorted(range(dataset.sizes["expver"]), key=lambda i: _version(dataset["expver"].values[i]))
        combined = dataset.isel(expver=versions[0], drop=True)
        for index in versions[1:]:
            combined = combined.fillna(dataset.isel(expver=index, drop=True))
            note("ERA5 and ERA5T combined: preliminary values where there are no final ones")
        return combined
    expver = dataset["expver"]
    if expver.ndim == 1:
        dataset = _latest(dataset, expver, note)
    return dataset.drop_vars("expver")


def _latest(dataset: xr.Dataset, expver: xr.DataArray, note: Note) -> xr.Dataset:
    (along,) = expver.dims
    versions = np.array([_version(value) for value in expver.values])
    preliminary = int((versions == 5).sum())
    if preliminary:
        note(f"{preliminary} of {versions.size} states in a file are preliminary (ERA5T)")
    if along not in dataset.coords:
        return dataset
    moments = dataset[along].values
    # The first of equal moments after sorting by version is the final one.
    order = np.argsort(versions, kind="stable")
    _, first = np.unique(moments[order], return_index=True)
    kept = order[first]
    return dataset if kept.size == moments.size else dataset.isel({along: np.sort(kept)})


def _version(value: object) -> int:
    text = value.decode() if isinstance(value, bytes) else str(value)
    return int(float(text)) if text.strip().replace(".", "").isdigit() else 9999

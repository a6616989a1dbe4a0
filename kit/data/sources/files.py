"""NetCDF and GRIB files that make up one data set, as waves in GRIB beside the weather in NetCDF."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from kit.data.sources.base import Pieces, Request, SourceData, SourceLocation, data_files, file_facts
from kit.data.sources.grib import source as grib
from kit.data.sources.grib.grid import GribGrid
from kit.data.sources.grib.scan import is_grib, scan
from kit.data.sources.netcdf import SUFFIXES, add_files, is_named_netcdf
from kit.io.errors import StoreError


@contextmanager
def open_source(paths: Sequence[SourceLocation], request: Request) -> Iterator[SourceData]:
    """Open NetCDF and GRIB data that lie together, each read as its own source does.

    Args:
        paths: Files, zips of NetCDF, and folders of them.
        request: What is taken.

    Raises:
        StoreError: No files, a damaged file, or files that cannot be brought into one form.
        SettingsError: There are GRIB files, and eccodes is not installed.
    """
    wanted = f"{', '.join(SUFFIXES)}, .zip, .grib, .grb, .grib2, .grb2, or any that begins with GRIB"
    files = data_files(paths, "NetCDF or GRIB", wanted, lambda path: is_named_netcdf(path) or is_grib(path))
    grids: dict[str, GribGrid] = {}
    messages = [message for file in files if is_grib(file) for message in scan(file, grids)]
    pieces = Pieces(request)
    with ExitStack() as stack:
        licence = add_files([file for file in files if not is_grib(file)], pieces, stack)
        # Headers of GRIB name the product of their own fields alone.
        pieces.request = grib.with_product_of(messages, request)
        grib.add_fields(messages, pieces)
        pieces.request = request
        if not pieces.names:
            msg = f"{paths[0]}: none of {len(files)} files holds a field that the store could take"
            raise StoreError(msg)
        fields = pieces.merged()
        yield SourceData(
            fields=fields,
            names=tuple(sorted(pieces.names)),
            files=file_facts(files),
            notes=tuple(pieces.notes),
            licence=licence,
            projection=pieces.projection or grib.projection_of_messages(messages, fields),
            origins=pieces.origins(),
        )

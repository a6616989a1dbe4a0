"""GRIB 1 and 2, as ECMWF, the Climate Data Store and others deliver ERA5 and analyses.

Headers are read first, without the values; then whole states are laid out, whichever files and whichever order their
messages come in, and each message is decoded when its state is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kit.data.sources.base import Pieces, Place, Request, SourceData, data_files, file_facts
from kit.data.sources.grib_fields import add_fields
from kit.data.sources.grib_grid import Grid
from kit.data.sources.grib_scan import Message, is_grib, scan
from kit.data.sources.merging import merge
from kit.data.store_format import CURVILINEAR, grid_dimensions
from kit.errors import StoreError

__all__ = ["laid_out", "open_source"]


@contextmanager
def open_source(paths: Sequence[Place], request: Request) -> Iterator[SourceData]:
    """Open GRIB data.

    Args:
        paths: files, and folders, in which every file counts that is GRIB by its name or by its first bytes.
        request: what is taken.

    Raises:
        StoreError: no files, a damaged file, or messages that cannot be brought into one form.
        SettingsError: eccodes is not installed.
    """
    files = data_files(paths, "GRIB", ".grib, .grb, .grib2, .grb2, or any that begins with GRIB", is_grib)
    grids: dict[str, Grid] = {}
    messages = [message for file in files for message in scan(file, grids)]
    yield laid_out(messages, request, file_facts(files), str(paths[0]))


def laid_out(
    messages: Sequence[Message], request: Request, files: tuple[dict[str, Any], ...], where: str
) -> SourceData:
    """Bring messages into one form, as ``open_source`` does those of its files.

    Args:
        messages: of all files.
        request: what is taken.
        files: their names, hashes and sizes.
        where: they are from, for messages.

    Raises:
        StoreError: there is nothing that could be taken, or not in one form.
    """
    pieces = Pieces(request)
    add_fields(messages, pieces)
    if not pieces.found:
        _refuse_nothing(where, messages, pieces)
    fields = merge(pieces.found, pieces.note)
    curved = any(grid_dimensions(field) == CURVILINEAR for field in fields.values())
    known = (message.grid.projection for message in messages if message.grid.projection)
    projection = next(known, {}) if curved else {}
    return SourceData(fields, tuple(sorted(pieces.names)), files, tuple(pieces.notes), projection=projection)


def _refuse_nothing(path: str, messages: Sequence[Message], pieces: Pieces) -> None:
    """Say what there is instead, where nothing could be taken."""
    if not messages:
        msg = f"{path}: holds no GRIB message"
        raise StoreError(msg)
    foreign = next((message for message in messages if message.grid.problem), None)
    if foreign is not None:
        msg = (
            f"{foreign}: {foreign.short_name} (paramId {foreign.param}) {foreign.grid.problem}, and nothing else was "
            "found that the store could take; it wants rows that go south and columns that go east"
        )
        raise StoreError(msg)
    if pieces.request.variables is None:
        msg = f"{path}: none of {len(messages)} messages is of a variable that the kit knows. {' '.join(pieces.notes)}"
        raise StoreError(msg)

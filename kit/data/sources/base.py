"""What a source hands over, whatever kind it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xarray as xr

from kit.data.region import cropped
from kit.data.settings import Period
from kit.data.sources.coordinates import canonical_coordinates, projection_of
from kit.data.sources.fields import canonical_name, canonical_values
from kit.data.store.format import CURVILINEAR, STATIC_PREFIX, grid_dimensions
from kit.io.errors import StoreError

__all__ = [
    "Announcement",
    "OpenSource",
    "Pieces",
    "Place",
    "Request",
    "SourceData",
    "data_files",
    "file_facts",
    "states_together",
]

Place = str | Path
"""A file, a folder, or an address."""


LAYER_BYTES = 2**20


@dataclass(frozen=True)
class Request:
    """What a build asks a source for; None stands for everything that the kit knows."""

    variables: frozenset[str] | None = None
    statics: frozenset[str] | None = None
    """With their prefix."""
    times: Period | None = None
    """States of these times, ends included; sources that fetch ask for no others, and those that open files may hand
    over more."""
    levels: tuple[float, ...] | None = None
    """In hPa."""
    region: tuple[float, float, float, float] | None = None
    """North, west, south, east in degrees, context included."""
    step: int | None = None
    """Hours between states; what is accumulated needs the hours between, too."""
    sample: bool = False
    """Nothing is built: a source that fetches may fetch a little, let that stand for all, and say what all would be."""
    statics_elsewhere: bool = False
    """A file of static fields is given as well, which may hold those that the source lacks."""
    absent_chunks: frozenset[str] = frozenset()
    """Variables, statics without prefix, of which a chunk that a Zarr store lacks stands for its fill value."""

    def takes(self, name: str, *, known: bool) -> bool:
        """Whether a field of this name is to be read; one that the table lacks must be asked for."""
        asked = self.statics if name.startswith(STATIC_PREFIX) else self.variables
        return known if asked is None else name in asked


@dataclass(frozen=True)
class SourceData:
    """Fields in the store's form, each with its own times, still lazy.

    Args:
        fields: those asked for, by the store's name; statics carry their prefix.
        names: of everything that was found, asked for or not.
        files: name, SHA-256 and size of every file that was read.
        notes: what was done to the data, one sentence each.
        licence: as the files state it; empty where they do not.
        synthetic: the data say of themselves that they are.
        projection: of a curvilinear grid, where it is known: the attributes of a CF grid mapping (appendix F).
        requests: that reading all of the fields asks of servers, where that is known.
        download_bytes: that they bring, where that is known.
        regridding: how the fields came to another grid, if they did.
    """

    fields: dict[str, xr.DataArray]
    names: tuple[str, ...]
    files: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    licence: str = ""
    synthetic: bool = False
    projection: Mapping[str, Any] = field(default_factory=dict)
    requests: int | None = None
    download_bytes: int | None = None
    regridding: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Announcement:
    """What a source will fetch before it can open anything, as far as the request alone tells.

    Attributes:
        states: that the store will have.
        value_bytes: of all their values, float32.
        requests: that will be made.
        download_bytes: that these bring, as estimated.
    """

    states: int
    value_bytes: int
    requests: int
    download_bytes: int


def states_together(points: int) -> int:
    """States of a variable that are read together: one, or as many small ones as a layer of ``LAYER_BYTES`` holds.

    It follows from the grid alone, not from the levels, so that the chunks of all variables end at the same times: a
    block of a build then computes none of them twice.

    Args:
        points: of a layer.
    """
    return max(1, LAYER_BYTES // (4 * max(1, points)))


class OpenSource(Protocol):
    """The one function of every source module; fields may be read until the context ends."""

    def __call__(self, paths: Sequence[Place], request: Request) -> AbstractContextManager[SourceData]:
        """Open the data at ``paths``: files, folders or addresses."""


@dataclass
class Pieces:
    """Fields as they are found: the same variable may come in pieces, file by file."""

    request: Request = Request()
    found: dict[str, list[tuple[str, xr.DataArray]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    projection: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Keep a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def takes(self, name: str, *, known: bool) -> bool:
        """Whether a field that was found is wanted; keeps its name, and a note on one that the table lacks."""
        self.names.add(name)
        if self.request.takes(name, known=known):
            return True
        if not known:
            self.note(f"{name} left out: not in the kit's table of variables; ask for it by name to have it")
        return False

    def add(self, dataset: xr.Dataset, where: str) -> None:
        """Take all fields of one file.

        Raises:
            StoreError: its coordinates or units cannot be brought into the store's form.
        """
        projection = projection_of(dataset)
        dataset = cropped(canonical_coordinates(dataset, where, self.note), self.request.region, where)
        grid = grid_dimensions(dataset)
        if grid == CURVILINEAR:
            self.projection = self.projection or projection
        for array in dataset.data_vars.values():
            if not set(grid) <= set(array.dims):
                continue
            name, variable = canonical_name(array)
            if not self.takes(name, known=variable is not None):
                continue
            extra = [dim for dim in array.dims if dim not in ("time", "level", *grid)]
            if all(array.sizes[dim] == 1 for dim in extra):
                array = array.squeeze(extra, drop=True)  # noqa: PLW2901
            else:
                msg = f"{where}: {array.name} has the dimensions {array.dims}; select along {sorted(map(str, extra))}"
                raise StoreError(msg)
            if bare := [dim for dim in array.dims if dim not in array.coords and dim not in grid]:
                msg = f"{where}: {array.name} has the dimension {bare[0]} without its values; add that coordinate"
                raise StoreError(msg)
            values = canonical_values(array, name, variable, where, self.note)
            self.found.setdefault(name, []).append((where, values))


def data_files(paths: Sequence[Place], kind: str, wanted: str, is_wanted: Callable[[Path], bool]) -> list[Path]:
    """Find the files of a source.

    Args:
        paths: files, which are taken as they are, and folders, which are searched to any depth.
        kind: of the source, for the message.
        wanted: what its files look like, for the message.
        is_wanted: says of a file in a folder whether it is one of them.

    Raises:
        StoreError: a folder holds none; lists what its files end in.
    """
    files = []
    for path in map(Path, paths):
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        taken = inside if path.is_file() else [p for p in inside if is_wanted(p)]
        if not taken:
            kinds = sorted({p.suffix for p in inside})
            msg = f"{path}: no {kind} files ({wanted}); files there end in {kinds or 'nothing'}"
            raise StoreError(msg)
        files += taken
    return files


def file_facts(paths: Iterable[Path]) -> tuple[dict[str, Any], ...]:
    """Name, SHA-256 and size of files, for the store's attributes."""
    facts = []
    for path in paths:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        facts.append({"name": path.name, "sha256": digest, "size": path.stat().st_size})
    return tuple(facts)

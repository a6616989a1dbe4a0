"""What a source hands over, whatever kind it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xarray as xr

from kit.data.fields import canonical_coordinates, canonical_name, canonical_values
from kit.data.store_format import STATIC_PREFIX
from kit.errors import StoreError

__all__ = ["OpenSource", "Pieces", "Request", "SourceData", "file_facts"]


@dataclass(frozen=True)
class Request:
    """What a build asks a source for; None stands for everything that the kit knows."""

    variables: frozenset[str] | None = None
    statics: frozenset[str] | None = None
    """With their prefix."""

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
    """

    fields: dict[str, xr.DataArray]
    names: tuple[str, ...]
    files: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    licence: str = ""
    synthetic: bool = False


class OpenSource(Protocol):
    """The one function of every source module; fields may be read until the context ends."""

    def __call__(self, path: Path, request: Request) -> AbstractContextManager[SourceData]:
        """Open the data at ``path``."""


@dataclass
class Pieces:
    """Fields as they are found: the same variable may come in pieces, file by file."""

    request: Request = Request()
    found: dict[str, list[tuple[str, xr.DataArray]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Keep a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def add(self, dataset: xr.Dataset, where: str) -> None:
        """Take all fields of one file.

        Raises:
            StoreError: its coordinates or units cannot be brought into the store's form.
        """
        dataset = canonical_coordinates(dataset, where, self.note)
        for array in dataset.data_vars.values():
            if not {"latitude", "longitude"} <= set(array.dims):
                continue
            name, variable = canonical_name(array)
            self.names.add(name)
            if not self.request.takes(name, known=variable is not None):
                if variable is None:
                    self.note(f"{name} left out: not in the kit's table of variables; ask for it by name to have it")
                continue
            extra = [dim for dim in array.dims if dim not in ("time", "level", "latitude", "longitude")]
            if all(array.sizes[dim] == 1 for dim in extra):
                array = array.squeeze(extra, drop=True)  # noqa: PLW2901
            else:
                msg = f"{where}: {array.name} has the dimensions {array.dims}; select along {sorted(map(str, extra))}"
                raise StoreError(msg)
            values = canonical_values(array, name, variable, where, self.note)
            self.found.setdefault(name, []).append((where, values))


def file_facts(paths: Iterable[Path]) -> tuple[dict[str, Any], ...]:
    """Name, SHA-256 and size of files, for the store's attributes."""
    facts = []
    for path in paths:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        facts.append({"name": path.name, "sha256": digest, "size": path.stat().st_size})
    return tuple(facts)

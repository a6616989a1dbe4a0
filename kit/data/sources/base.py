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
from kit.errors import StoreError

__all__ = ["OpenSource", "Pieces", "SourceData", "file_facts"]


@dataclass(frozen=True)
class SourceData:
    """Fields in the store's form, each with its own times, still lazy.

    Args:
        fields: by the store's name; statics carry their prefix.
        files: name, SHA-256 and size of every file that was read.
        notes: what was done to the data, one sentence each.
        licence: as the files state it; empty where they do not.
        synthetic: the data say of themselves that they are.
    """

    fields: dict[str, xr.DataArray]
    files: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    licence: str = ""
    synthetic: bool = False


class OpenSource(Protocol):
    """The one function of every source module; fields may be read until the context ends."""

    def __call__(self, path: Path, wanted: frozenset[str] | None) -> AbstractContextManager[SourceData]:
        """Open the data at ``path``; names in ``wanted`` are taken even if the table lacks them."""


@dataclass
class Pieces:
    """Fields as they are found: the same variable may come in pieces, file by file."""

    wanted: frozenset[str] | None = None
    found: dict[str, list[tuple[str, xr.DataArray]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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
            name, variable = canonical_name(array, where)
            if variable is None and name not in (self.wanted or ()):
                self.note(f"{name} left out: not in the kit's table of variables; ask for it by name to have it")
                continue
            extra = set(array.dims) - {"time", "level", "latitude", "longitude"}
            if extra:
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

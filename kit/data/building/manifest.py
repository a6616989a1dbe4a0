"""What a store consists of, with hashes, so that a changed file is found and named.

``manifest.txt`` has a line for every chunk: SHA-256, size, path. The root's metadata (``zarr.json``) hold the hash of
that file as far as it counts, one hash for each variable over its lines, the hash of ``stats.json``, and their own. The
metadata of each array are in the root's, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.building.records import ChunkFact
from kit.data.store_format import INTEGRITY

__all__ = ["MANIFEST", "Manifest", "document_bytes", "document_hash", "file_hash", "values_hash"]

MANIFEST = "manifest.txt"
_PIECE = 2**20


@dataclass(frozen=True)
class Manifest:
    """Chunks of a store, as the file has them: for years of states that is compact enough to be held."""

    content: bytes

    @classmethod
    def of(cls, chunks: Iterable[ChunkFact]) -> Manifest:
        """List chunks: variable by variable, each in the order given."""
        lines: dict[str, bytearray] = {}
        for chunk in chunks:
            lines.setdefault(_variable(chunk.path), bytearray()).extend(_line(chunk))
        return cls(b"".join(content for _, content in sorted(lines.items())))

    def chunks(self) -> Iterator[ChunkFact]:
        """Read the lines.

        Raises:
            ValueError: one is none of a manifest.
        """
        for line in self.content.decode().splitlines():
            sha256, size, path = line.split(" ", 2)
            yield ChunkFact(path, int(size), sha256)

    def by_variable(self) -> dict[str, str]:
        """A hash for each variable, over its lines in the order of the file, by name."""
        digests: dict[str, Any] = {}
        for chunk in self.chunks():
            digests.setdefault(_variable(chunk.path), hashlib.sha256()).update(_line(chunk))
        return {name: digest.hexdigest() for name, digest in sorted(digests.items())}

    def facts(self) -> dict[str, Any]:
        """How much of the file counts, and its hash: what is behind it belongs to an append that is under way."""
        return {"bytes": len(self.content), "sha256": hashlib.sha256(self.content).hexdigest()}


def _variable(path: str) -> str:
    return path.partition("/")[0]


def _line(chunk: ChunkFact) -> bytes:
    return f"{chunk.sha256} {chunk.size} {chunk.path}\n".encode()


def document_hash(document: Mapping[str, Any]) -> str:
    """The hash of the root's metadata, without the place where it is kept itself."""
    attributes = dict(document.get("attributes", {}))
    attributes[INTEGRITY] = {k: v for k, v in dict(attributes.get(INTEGRITY, {})).items() if k != "metadata"}
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """The root's metadata as they are written, with their own hash."""
    attributes = dict(document["attributes"])
    attributes[INTEGRITY] = {**attributes.get(INTEGRITY, {}), "metadata": document_hash(document)}
    return (json.dumps({**document, "attributes": attributes}, indent=2) + "\n").encode()


def file_hash(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def values_hash(values: npt.NDArray[Any]) -> str:
    """SHA-256 of values in their own order and type."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

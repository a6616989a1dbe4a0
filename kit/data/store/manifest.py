"""What a store consists of, with hashes, so that a changed file is found and named.

``manifest.txt`` has a line for every chunk: SHA-256, size, path. The root's metadata (``zarr.json``) hold the hash of
that file as far as it counts, one hash for each variable over its lines, the hash of ``stats.json``, and their own. The
metadata of each array are in the root's, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.statistics import Summary
from kit.data.store.format import INTEGRITY

__all__ = [
    "ChunkFact",
    "MANIFEST",
    "Manifest",
    "BlockRecord",
    "document_bytes",
    "document_hash",
    "file_hash",
    "values_hash",
    "write_file",
]

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


# What is known of a block that is done: its files, with sizes and hashes, and what it adds to the statistics.
#
# A record is a small file of packed arrays, written beside its place and moved there once all chunks of the block are
# in theirs; so a record that is there says that its chunks are.

_NUMBERS = tuple(field for field in dataclasses.fields(Summary) if field.name != "sample")


@dataclass(frozen=True, slots=True)
class ChunkFact:
    """A file of a store, as it was written."""

    path: str
    """Inside the store, with slashes."""
    size: int
    sha256: str


@dataclass(frozen=True)
class BlockRecord:
    """A block that is done.

    Attributes:
        chunks: its files.
        summaries: by state that counts, in order, then by key.
    """

    chunks: tuple[ChunkFact, ...]
    summaries: tuple[tuple[tuple[str, Summary], ...], ...]

    def save(self, path: Path, scratch: Path) -> None:
        """Write it, whole or not at all."""
        flat = [summary for state in self.summaries for _, summary in state]
        header = {
            "chunks": [dataclasses.astuple(chunk) for chunk in self.chunks],
            "keys": [[key for key, _ in state] for state in self.summaries],
        }
        numbers = [[float(getattr(summary, field.name)) for field in _NUMBERS] for summary in flat]
        stream = io.BytesIO()
        np.savez(
            stream,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            numbers=np.array(numbers, np.float64).reshape(len(flat), len(_NUMBERS)),
            sizes=np.array([summary.sample.size for summary in flat], np.int64),
            samples=np.concatenate([np.empty(0, np.float32), *(summary.sample for summary in flat)]),
        )
        write_file(path, stream.getvalue(), scratch)

    @classmethod
    def load(cls, path: Path) -> BlockRecord:
        """Read a record."""
        with np.load(path, allow_pickle=False) as held:
            header = json.loads(held["header"].tobytes())
            numbers, samples = held["numbers"].tolist(), np.split(held["samples"], np.cumsum(held["sizes"]))
        flat = iter([_summary(row, sample) for row, sample in zip(numbers, samples[: len(numbers)], strict=True)])
        states = tuple(tuple((key, next(flat)) for key in keys) for keys in header["keys"])
        return cls(tuple(ChunkFact(*chunk) for chunk in header["chunks"]), states)

    def holds(self, store: Path) -> bool:
        """Whether its files are in a store, of the sizes that were written."""
        return all(_size(store / chunk.path) == chunk.size for chunk in self.chunks)

    def pairs(self) -> Iterator[tuple[str, Summary]]:
        """Keys and summaries, state by state."""
        return (pair for state in self.summaries for pair in state)


def _summary(row: Sequence[float], sample: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Summary:
    numbers = {
        field.name: int(value) if field.type == "int" else value for field, value in zip(_NUMBERS, row, strict=True)
    }
    return Summary(**numbers, sample=sample)  # type: ignore[arg-type]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def write_file(path: Path, content: bytes, scratch: Path) -> None:
    """Write a file whole or not at all; what is there is replaced.

    Args:
        path: its place; the folder is made if it is not there.
        content: of the file.
        scratch: a folder of the same file system; what a killed process leaves there counts for nothing.
    """
    part = scratch / uuid.uuid4().hex
    try:
        part.write_bytes(content)
        try:
            part.replace(path)
        except FileNotFoundError:
            if not part.exists():
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

"""What is known of a block that is done: its files, with sizes and hashes, and what it adds to the statistics.

A record is a small file of packed arrays, written beside its place and moved there once all chunks of the block are in
theirs; so a record that is there says that its chunks are.
"""

from __future__ import annotations

import dataclasses
import io
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.data.statistics import Summary

__all__ = ["ChunkFact", "Record", "write_file"]

_NUMBERS = tuple(field for field in dataclasses.fields(Summary) if field.name != "sample")


@dataclass(frozen=True, slots=True)
class ChunkFact:
    """A file of a store, as it was written."""

    path: str
    """Inside the store, with slashes."""
    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
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
    def load(cls, path: Path) -> Record:
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

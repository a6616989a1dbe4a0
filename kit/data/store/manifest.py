"""Files of a store with their hashes, so that a changed file is found and named.

``manifest.txt`` has a line for every chunk: SHA-256, size, path. The root's metadata (``zarr.json``) hold the hash of
that file as far as it counts, one hash for each variable over its lines, the hash of ``stats.json``, and their own. The
metadata of each array are in the root's, too.
"""

from __future__ import annotations

import dataclasses
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.statistics import Summary
from kit.data.store.format import INTEGRITY
from kit.io.atomic import move, sync
from kit.io.documents import parse_json, read_json
from kit.io.hashes import Hasher, new_sha256, sha256_of_bytes, sha256_of_file, sha256_of_text

MANIFEST = "manifest.txt"


@dataclass(frozen=True, slots=True)
class ChunkFact:
    """A file of a store, as it was written."""

    path: str
    """Inside the store, with slashes."""
    size: int
    """Bytes."""
    sha256: str

    @property
    def variable(self) -> str:
        """Name of the array that the file belongs to."""
        return self.path.partition("/")[0]

    @property
    def line(self) -> bytes:
        """Line of the manifest."""
        return f"{self.sha256} {self.size} {self.path}\n".encode()


@dataclass(frozen=True)
class Manifest:
    """Chunks of a store, as the file has them: for years of states that is compact enough to be held."""

    content: bytes

    @classmethod
    def of(cls, chunks: Iterable[ChunkFact]) -> Manifest:
        """List chunks: variable by variable, each in the order given."""
        lines: dict[str, bytearray] = {}
        for chunk in chunks:
            lines.setdefault(chunk.variable, bytearray()).extend(chunk.line)
        return cls(b"".join(lines[variable] for variable in sorted(lines)))

    def chunks(self) -> Iterator[ChunkFact]:
        """Read the lines.

        Raises:
            ValueError: one is none of a manifest.
        """
        for line in self.content.decode().splitlines():
            sha256, size, path = line.split(" ", 2)
            yield ChunkFact(path, int(size), sha256)

    def by_variable(self) -> dict[str, str]:
        """Hash the lines of each variable, in the order of the file; hashes by name."""
        hashers: dict[str, Hasher] = {}
        for chunk in self.chunks():
            hashers.setdefault(chunk.variable, new_sha256()).update(chunk.line)
        return {name: hashers[name].hexdigest() for name in sorted(hashers)}

    def facts(self) -> dict[str, Any]:
        """Describe how much of the file counts, and its hash: what follows belongs to an append that is under way."""
        return {"bytes": len(self.content), "sha256": sha256_of_bytes(self.content)}


def document_hash(document: Mapping[str, Any]) -> str:
    """Hash the root's metadata, without the entry that keeps this very hash."""
    attributes = dict(document.get("attributes", {}))
    attributes[INTEGRITY] = dict(attributes.get(INTEGRITY, {}))
    attributes[INTEGRITY].pop("metadata", None)
    # Sorted and without spaces: the hash does not depend on how the JSON is laid out.
    return sha256_of_text(json.dumps({**document, "attributes": attributes}, sort_keys=True, separators=(",", ":")))


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Write the root's metadata as JSON, with their own hash."""
    attributes = dict(document["attributes"])
    attributes[INTEGRITY] = {**attributes.get(INTEGRITY, {}), "metadata": document_hash(document)}
    return (json.dumps({**document, "attributes": attributes}, indent=2) + "\n").encode()


def group_document(arrays: Path, attributes: Mapping[str, Any]) -> bytes:
    """Write the metadata of a group with those of all its arrays, as Zarr consolidates them, and their own hash.

    Args:
        arrays: Folder of the arrays.
        attributes: Attributes of the group.
    """
    metadata = {file.parent.name: read_json(file) for file in sorted(arrays.glob("*/zarr.json"))}
    return document_bytes(
        {
            "attributes": attributes,
            "zarr_format": 3,
            # All metadata in one file: readers need not list the folder, and it is exchanged in one step.
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": metadata},
            "node_type": "group",
        }
    )


def file_hash(path: Path) -> tuple[str, int]:
    """Compute SHA-256 and size in bytes of a file."""
    return sha256_of_file(path), path.stat().st_size


def values_hash(values: npt.NDArray[Any]) -> str:
    """Compute the SHA-256 of values in their own order and type."""
    return sha256_of_bytes(np.ascontiguousarray(values).tobytes())


# What is known of a block that is done: its files, with sizes and hashes, and what it adds to the statistics.
#
# A record is a small file of packed arrays, written beside its place and moved there once all chunks of the block are
# in theirs; so a record that is there says that its chunks are.

_NUMBERS = [field for field in dataclasses.fields(Summary) if field.name != "sample"]


@dataclass(frozen=True)
class BlockRecord:
    """Files and statistics of a block that is done.

    Attributes:
        chunks: Files of the block.
        summaries: Statistics of each state that counts, in order, then by key.
    """

    chunks: tuple[ChunkFact, ...]
    summaries: tuple[tuple[tuple[str, Summary], ...], ...]

    def save(self, path: Path, scratch: Path) -> None:
        """Write the record, whole or not at all."""
        numbers, sizes, samples = [], [], [np.empty(0, np.float32)]
        for _, summary in self.pairs():
            # Counts are whole in double precision, too, up to 2**53.
            numbers.append([getattr(summary, field.name) for field in _NUMBERS])
            sizes.append(summary.sample.size)
            samples.append(summary.sample)
        header = {
            "chunks": list(map(dataclasses.astuple, self.chunks)),
            "keys": [[key for key, _ in state] for state in self.summaries],
        }
        stream = io.BytesIO()
        np.savez(
            stream,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            numbers=np.array(numbers, np.float64).reshape(len(numbers), len(_NUMBERS)),
            sizes=np.array(sizes, np.int64),
            samples=np.concatenate(samples),
        )
        write_file(path, stream.getvalue(), scratch)

    @classmethod
    def load(cls, path: Path) -> BlockRecord:
        """Read a record."""
        with np.load(path, allow_pickle=False) as held:
            header = parse_json(held["header"].tobytes())
            numbers, samples = held["numbers"].tolist(), np.split(held["samples"], np.cumsum(held["sizes"]))
        flat = []
        # ``np.split`` gives an empty sample behind the last one.
        for row, sample in zip(numbers, samples[: len(numbers)], strict=True):
            named: dict[str, Any] = {}
            for field, value in zip(_NUMBERS, row, strict=True):
                named[field.name] = value
                if field.type == "int":
                    named[field.name] = int(value)
            flat.append(Summary(**named, sample=sample))
        left = iter(flat)
        # In the order of the file: as many as a state has keys.
        states = [tuple(zip(keys, islice(left, len(keys)), strict=True)) for keys in header["keys"]]
        return cls(tuple(ChunkFact(*chunk) for chunk in header["chunks"]), tuple(states))

    def holds(self, store: Path, *, by_hash: bool = False) -> bool:
        """Check that the files of the block are in a store, of the sizes that were written, or with the bytes."""
        for chunk in self.chunks:
            file = store / chunk.path
            try:
                if file.stat().st_size != chunk.size:
                    return False
            except FileNotFoundError:
                return False
            if by_hash and file_hash(file)[0] != chunk.sha256:
                return False
        return True

    def pairs(self) -> Iterator[tuple[str, Summary]]:
        """Iterate over keys and summaries, state by state."""
        return (pair for state in self.summaries for pair in state)


def write_file(path: Path, content: bytes, scratch: Path, *, durable: bool = False) -> None:
    """Write a file whole or not at all; what is there is replaced.

    The disk is not waited for while a store of tens of thousands of files is built: all of it is synced before it gets
    its name, and a build that goes on after a power loss compares the hashes of all files with its records.

    Args:
        path: Place of the file; its folder is made if it is not there.
        content: Bytes of the file.
        scratch: Folder on the same file system; what a killed process leaves there counts for nothing.
        durable: Wait until the disk holds the file and its name.
    """
    part = scratch / uuid.uuid4().hex
    try:
        part.write_bytes(content)
        if durable:
            sync(part)
        try:
            move(part, path, durable=durable)
        except FileNotFoundError:
            # The first chunk of an array makes its folder, unless the scratch folder itself is gone.
            if not part.exists():
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            move(part, path, durable=durable)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

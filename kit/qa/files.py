"""The files of a store: whether what should be a file is one, before anything reads it.

Opening a pipe waits for ever, and a device such as ``/dev/zero`` has no end.
"""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zarr

__all__ = ["chunk_files", "check_chunks", "check_file"]

_CHUNKS = 10**8
"""More than any store has: a century of hours, a hundred variables."""


def check_file(file: Path) -> None:
    """Refuse what is no regular file; links are followed.

    Raises:
        OSError: it is absent, or something else.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        msg = f"{file} is gone"
        raise FileNotFoundError(msg) from None
    if not stat.S_ISREG(mode):
        msg = f"{file} is no file"
        raise OSError(msg)


def chunk_files(folder: Path, array: zarr.Array[Any], time: int | None = None) -> Iterator[Path]:
    """Files of an array's chunks (of its shards, where it has some).

    Args:
        folder: of the array.
        array: a variable or a coordinate.
        time: position along the first dimension, for those of one state alone.

    Raises:
        ValueError: the array's description cannot be.
    """
    grid = array.shards or array.chunks
    ranges = [range(-(-size // length)) for size, length in zip(array.shape, grid, strict=True)]
    if time is not None:
        ranges[0] = range(time // grid[0], time // grid[0] + 1)
    if (count := math.prod(map(len, ranges))) > _CHUNKS:
        msg = f"it claims {count} chunks"
        raise ValueError(msg)
    return (folder / array.metadata.encode_chunk_key(index) for index in itertools.product(*ranges))


def check_chunks(folder: Path, array: zarr.Array[Any], time: int | None = None) -> None:
    """Refuse to read chunks that are gone, which Zarr takes for missing values, or are no files.

    Raises:
        OSError: names the file.
        ValueError: the array's description cannot be.
    """
    for file in chunk_files(folder, array, time):
        check_file(file)

"""Chunks as Zarr writes them, without its machinery for each: encoded in one go, in the thread that has the values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt

from kit.data.settings import Codec
from kit.data.store_format import compressors

__all__ = ["Encode", "encoder"]

Encode = Callable[[npt.NDArray[np.float32]], bytes]
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@functools.cache
def encoder(codec: Codec) -> Encode:
    """What turns a whole chunk into the bytes that writing it to an array of a store would put into its file.

    Blosc packs a chunk to the same bytes in one thread only, which is how numcodecs calls it outside the main thread:
    call it there.
    """
    steps = [_step(packing.to_dict()) for packing in compressors(codec)]

    def encode(chunk: npt.NDArray[np.float32]) -> bytes:
        content: Any = np.ascontiguousarray(chunk, dtype="<f4").reshape(-1).view(np.uint8)
        for step in steps:
            content = step(content)
        return bytes(content)

    return encode


def _step(packing: Mapping[str, Any]) -> Callable[[Any], Any]:
    options = dict(packing.get("configuration", {}))
    if packing["name"] == "blosc":
        encode: Callable[[Any], Any] = numcodecs.Blosc(**options | {"shuffle": _SHUFFLES[options["shuffle"]]}).encode
        return encode
    assert packing["name"] == "crc32c", packing
    return _checked


def _checked(content: Any) -> bytes:
    data = bytes(content)
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")

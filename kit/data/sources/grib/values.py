"""Values of GRIB messages, decoded when they are asked for.

Own code on eccodes, for the reasons and figures of ``scan``; from GRIB to a store it takes 0.29 of the time of pygrib's
``.values`` with every pair stacked and saved (docs/benchmarks.md).
"""

import itertools
import math
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from kit.data.sources.base import states_together
from kit.data.sources.grib.scan import MAGIC, Message, load_eccodes
from kit.io.errors import StoreError

_MISSING = 1e300
"""Stands for a point without a value while a message is decoded; eccodes' own, 9999, may be a value."""


def lazy(messages: Sequence[Sequence[Message]], dtype: npt.DTypeLike) -> da.Array:
    """Lay messages out as an array that decodes what is computed, a state (or some small ones) at a time.

    Args:
        messages: by time, then by level.
        dtype: of the values.

    Returns:
        [T, C, H, W].
    """
    cube = _MessageArray(messages, np.dtype(dtype))
    array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        cube,
        chunks=(states_together(math.prod(cube.shape[2:])), *cube.shape[1:]),
        name=f"grib-{uuid.uuid4().hex}",
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * cube.ndim, cube.dtype),
    )
    return array


class _MessageArray:
    """What dask takes for an array: a shape, and slices that are decoded as they are taken."""

    def __init__(self, messages: Sequence[Sequence[Message]], dtype: np.dtype[Any]) -> None:
        self._messages = np.array(messages, dtype=object)
        self.shape = (*self._messages.shape, *messages[0][0].grid.shape)
        self.dtype, self.ndim = dtype, len(self.shape)

    def __getitem__(self, key: tuple[slice | int, ...]) -> npt.NDArray[Any]:
        chosen = np.asarray(self._messages[key[:2]])
        values = np.empty((chosen.size, *self.shape[2:]), self.dtype)
        # What single precision cannot hold becomes infinite, which the checks report.
        with np.errstate(over="ignore"):
            for index, field in enumerate(decoded(chosen.ravel().tolist())):
                values[index] = field
        states = values.reshape(*chosen.shape, *self.shape[2:])
        return states[(slice(None),) * chosen.ndim + tuple(key[2:])]


def decoded(messages: Sequence[Message]) -> Iterator[npt.NDArray[np.float64]]:
    """Decode messages, each to rows southwards and columns eastwards, [H, W], NaN where there is no value.

    Raises:
        StoreError: a message cannot be decoded; names file and message.
    """
    eccodes = load_eccodes()
    for content, message in _packed_messages(messages):
        try:
            handle = eccodes.codes_new_from_message(content)
            try:
                # Before any memory is taken: a damaged header may claim billions.
                size = eccodes.codes_get_size(handle, "values")
                if size != message.grid.size:
                    msg = f"{message.path}: message {message.number} holds {size} values, but {message.grid}"
                    raise StoreError(msg)
                eccodes.codes_set_double(handle, "missingValue", _MISSING)
                values = eccodes.codes_get_double_array(handle, "values")
            finally:
                eccodes.codes_release(handle)
        except eccodes.CodesInternalError as error:
            msg = f"{message.path}: message {message.number} cannot be decoded ({error}); fetch the file again"
            raise StoreError(msg) from error
        values[values == _MISSING] = np.nan
        yield message.grid.arrange(values)


def same_values(first: Message, other: Message) -> bool:
    """Whether two messages of one quantity hold the same values; most often their packed bytes tell."""
    (one, _), (two, _) = _packed_messages([first, other])
    if _value_sections(one) == _value_sections(two) and first.grid is other.grid:
        return True
    left, right = decoded([first, other])
    return np.array_equal(left, right, equal_nan=True)


def _packed_messages(messages: Sequence[Message]) -> Iterator[tuple[bytes, Message]]:
    for path, of_file in itertools.groupby(messages, key=lambda message: message.path):
        with path.open("rb") as stream:
            for message in of_file:
                stream.seek(message.offset)
                content = stream.read(message.length)
                if len(content) < message.length or content[:4] != MAGIC:
                    msg = f"{path}: message {message.number} is gone: the file was changed while it was read"
                    raise StoreError(msg)
                yield content, message


def _value_sections(content: bytes) -> bytes:
    """Cut out everything that the values follow from: all but what says which field it is, and when."""
    if content[7] == 1:
        section = 8 + int.from_bytes(content[8:11])
        # The decimal scale stands at the end of what every first section holds.
        return content[34:36] + content[section:]
    sections, at = b"", 16
    # GRIB 2: the length of a section and its number come first; from 5 on sections say how values are packed.
    while at < len(content) - 4:
        size = int.from_bytes(content[at : at + 4])
        if content[at + 4] >= 5:
            sections += content[at : at + size]
        at += size
    return sections

"""Whether a NetCDF file of the classic formats is whole.

The NetCDF library reads whatever lies behind the end of a truncated classic file as zeros, without a word.
The header says where every variable lies, so the length that the file must have can be worked out.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from kit.errors import StoreError

__all__ = ["check_length"]

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_STREAMING = 0xFFFFFFFF
_HEADER_LIMIT = 16 * 2**20


def check_length(path: Path) -> None:
    """Do nothing for files of another format.

    Raises:
        StoreError: the file is shorter than its header says.
    """
    with path.open("rb") as stream:
        if stream.read(3) != b"CDF":
            return
        stream.seek(0)
        header = stream.read(_HEADER_LIMIT)
    try:
        expected = _Header(header).length()
    except (struct.error, KeyError, IndexError) as error:
        msg = f"{path}: the header of this NetCDF file is cut off or damaged ({error!r}); fetch the file again"
        raise StoreError(msg) from error
    size = path.stat().st_size
    if size < expected:
        msg = f"{path}: truncated: {size} bytes, its header calls for {expected}; fetch the file again"
        raise StoreError(msg)


class _Header:
    """Reader of the header, after the format's specification (CDF-1, CDF-2, CDF-5)."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 4
        version = content[3]
        self.count = ">Q" if version == 5 else ">I"
        self.offset = ">I" if version == 1 else ">Q"

    def length(self) -> int:
        """Bytes up to the end of the last variable."""
        records = self._number(self.count)
        if records in (_STREAMING, 2**64 - 1):
            return 0
        dimensions = [self._dimension() for _ in range(self._list())]
        self._attributes()
        variables = [self._variable(dimensions) for _ in range(self._list())]
        stride = sum(_padded(size) for is_record, _, size in variables if is_record)
        if sum(is_record for is_record, _, _ in variables) == 1:
            # The one exception of the format: a single record variable is not padded.
            stride = next(size for is_record, _, size in variables if is_record)
        ends = [begin + size for is_record, begin, size in variables if not is_record]
        ends += [begin + (records - 1) * stride + size for is_record, begin, size in variables if is_record and records]
        return max(ends, default=self.at)

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def _list(self) -> int:
        self._number(">I")
        return self._number(self.count)

    def _skip(self, size: int) -> None:
        self.at += _padded(size)

    def _name(self) -> None:
        self._skip(self._number(self.count))

    def _dimension(self) -> int:
        self._name()
        return self._number(self.count)

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._name()
            kind = self._number(">I")
            self._skip(self._number(self.count) * _SIZES[kind])

    def _variable(self, dimensions: list[int]) -> tuple[bool, int, int]:
        """Whether it has records, where it begins, and the bytes of it (of one record)."""
        self._name()
        lengths = [dimensions[self._number(self.count)] for _ in range(self._number(self.count))]
        self._attributes()
        kind = self._number(">I")
        # The size in the header is no use: it overflows for large variables.
        self._number(self.count)
        begin = self._number(self.offset)
        is_record = bool(lengths) and lengths[0] == 0
        return is_record, begin, math.prod(lengths[1:] if is_record else lengths) * _SIZES[kind]


def _padded(size: int) -> int:
    return -(-size // 4) * 4

"""Whether a NetCDF file is whole, and why one cannot be read: cut off, damaged, or whole and not understood."""

import math
import struct
from pathlib import Path

import netCDF4
import numpy as np

from kit.data.sources.file_formats import describe_format
from kit.data.sources.leads import LEAD_DIMENSIONS, TIME_DIMENSIONS
from kit.data.zarr_layout import MAX_COORDINATE
from kit.io.errors import StoreError
from kit.io.expansion import BOMB_BYTES, is_bomb

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)
"""What a file that cannot be read raises, where it is opened and where its values are."""

_OF_TIMES = (*TIME_DIMENSIONS, *LEAD_DIMENSIONS)
_POINTER = 8
"""Bytes of a text's place in memory."""
# Bytes of a value, by the number of its type in the specification.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
# Numbers of records that mean: not known, the file was written as a stream.
_STREAMING = (0xFFFFFFFF, 2**64 - 1)
_HEADER_LIMIT = 16 * 2**20
_HDF5 = b"\x89HDF\r\n\x1a\n"
"""First bytes of HDF5, on which NetCDF-4 is built."""


def check_length(path: Path) -> None:
    """Check that a NetCDF file is as long as its header says; do nothing for files of another format.

    The NetCDF library reads what lies behind the end of a truncated classic file as zeros, without a word.

    Raises:
        StoreError: The file is shorter, or the header is damaged.
    """
    with path.open("rb") as stream:
        header = stream.read(len(_HDF5))
        if not header.startswith((b"CDF", _HDF5)):
            return
        stream.seek(0)
        # The superblock of HDF5 takes no more than this.
        header = stream.read(_HEADER_LIMIT if header.startswith(b"CDF") else 128)
    try:
        expected = _ClassicHeader(header).length() if header.startswith(b"CDF") else _length_of_hdf5(header)
    except (struct.error, KeyError, IndexError) as error:
        msg = f"{path}: not readable as NetCDF: its header is cut off or damaged ({error}); fetch the file again"
        raise StoreError(msg) from error
    size = path.stat().st_size
    if size < expected:
        msg = f"{path}: truncated: {size} bytes, its header calls for {expected}; fetch the file again"
        raise StoreError(msg)


def check_claims(group: netCDF4.Dataset, path: Path) -> None:
    """Check that the variables of a group claim no more memory than a file of this size holds.

    The library makes room for all that is claimed: coordinates as the file is opened, a state of a field or a chunk
    as its first value is read, also where nothing of it was ever written.

    Args:
        group: Root of an open file, or a group of it.
        path: The file.

    Raises:
        StoreError: a coordinate, a state or a chunk is larger; names the variable.
    """
    status = path.stat()
    # Of a sparse file only the blocks on the disk are there; some file systems do not count them.
    held = min(status.st_size, status.st_blocks * 512 or status.st_size)
    for name, variable in group.variables.items():
        width = np.dtype(variable.dtype).itemsize if variable.dtype is not str else _POINTER
        if variable.ndim == 1 and variable.size > MAX_COORDINATE:
            raise StoreError(_beyond(path, name, f"{variable.size} values of one dimension", MAX_COORDINATE))
        sides = zip(variable.dimensions, variable.shape, strict=True)
        state = width * math.prod(side for dimension, side in sides if dimension.lower() not in _OF_TIMES)
        if is_bomb(state, held):
            raise StoreError(_beyond(path, name, f"a state of {state} bytes", f"what a file of {held} bytes holds"))
        chunking = variable.chunking() if group.data_model.startswith("NETCDF4") else None
        if isinstance(chunking, list):
            chunk, whole = width * math.prod(chunking), width * int(variable.size)
            if is_bomb(chunk, held) or chunk > 2 * whole + BOMB_BYTES:
                raise StoreError(_beyond(path, name, f"chunks of {chunk} bytes", f"what its {whole} bytes need"))


def _beyond(path: Path, name: str, claim: str, most: object) -> str:
    return f"{path}: refused: {name} claims {claim}, more than {most}; fetch the file again, or write it anew"


def _length_of_hdf5(header: bytes) -> int:
    """Read the address of the end of a file from the superblock (HDF5 file format specification, section II.A).

    Raises:
        IndexError: The superblock ends early, or is none.
    """
    version = header[8]
    if version < 2:
        # Numbers of versions and sizes, ranks of B-trees, flags; version 1 has a rank more. Then four addresses: base,
        # free space, end of the file, driver.
        size_of_address, addresses = header[13], 24 + 4 * version
    else:
        # Base, extension of the superblock, end of the file, root group.
        size_of_address, addresses = header[9], 12
    end = addresses + 2 * size_of_address
    address = header[end : end + size_of_address]
    # Ones alone stand for no address.
    if not address or len(address) < size_of_address or set(address) == {0xFF}:
        msg = f"no end of the file at byte {end} of the superblock"
        raise IndexError(msg)
    return int.from_bytes(address, "little")


def describe_unopened(path: Path, name: str, error: BaseException) -> str:
    """Describe why a file could not be opened as NetCDF, and what goes on.

    Args:
        path: The file, whose length is what its header says.
        name: Its name, for the message.
        error: What opening it raised.
    """
    with path.open("rb") as stream:
        is_netcdf = stream.read(len(_HDF5)).startswith((b"CDF", _HDF5))
    if not is_netcdf:
        what = describe_format(path)
        advice = f"the file is {what}" if what else "fetch the file again, or give its kind with --source"
        return f"{name}: not readable as NetCDF ({error}); {advice}"
    if isinstance(error, OSError | RuntimeError | MemoryError):
        # The library itself found no way through the file's structure.
        return (
            f"{name}: not readable as NetCDF ({error}): the file is as long as its header says, but what lies in it is "
            "damaged, or no NetCDF; fetch it again, or see whether `ncdump -h` can read it"
        )
    return (
        f"{name}: not readable as NetCDF ({error}): the file is whole, but attributes or dimensions of its variables "
        "contradict each other or are of another form than CF's; mend them, such as with NCO's ncatted, or leave that "
        "variable out of the file with `ncks -x -v NAME IN OUT`"
    )


def describe_unread(what: str, error: BaseException) -> str:
    """Describe why values of a file that was opened could not be read, and what goes on.

    Args:
        what: File and variable.
        error: What reading them raised.
    """
    text = str(error)
    if "filter" in text.lower():
        return (
            f"{what} cannot be read ({text}): the file is whole, but packed by a filter that the NetCDF library here "
            "lacks; write it anew where it can be read, such as with `nccopy -F none IN OUT`, or set HDF5_PLUGIN_PATH"
        )
    if isinstance(error, OSError | RuntimeError):
        return f"{what} cannot be read ({text}): the file is damaged; fetch it again"
    return (
        f"{what} cannot be read ({text}): the file is whole, but this variable holds no grid of numbers; leave it out "
        "by naming others with --variables, or convert the file"
    )


class _ClassicHeader:
    """Reader of the header, after the format's specification (CDF-1, CDF-2, CDF-5)."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 4
        version = content[3]
        # Since CDF-2 positions take 64 bits, since CDF-5 counts do too.
        self.count = ">Q" if version == 5 else ">I"
        self.offset = ">I" if version == 1 else ">Q"

    def length(self) -> int:
        """Bytes up to the end of the last variable."""
        records = self._number(self.count)
        if records in _STREAMING:
            return 0
        dimensions = []
        for _ in range(self._list()):
            self._name()
            dimensions.append(self._number(self.count))
        self._attributes()
        # Fixed variables lie one after the other; behind them lie the records, each with a part of all others.
        end = 0
        of_records = []
        for _ in range(self._list()):
            is_record, begin, size = self._variable(dimensions)
            if is_record:
                of_records.append((begin, size))
            else:
                end = max(end, begin + size)
        stride = sum(_padded(size) for _, size in of_records)
        if len(of_records) == 1:
            # The one exception of the format: a single record variable is not padded.
            stride = of_records[0][1]
        if records:
            for begin, size in of_records:
                end = max(end, begin + (records - 1) * stride + size)
        return end or self.at

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
        # The dimension of records is the first, and its length is stored as 0.
        is_record = bool(lengths) and lengths[0] == 0
        if is_record:
            del lengths[0]
        return is_record, begin, math.prod(lengths) * _SIZES[kind]


def _padded(size: int) -> int:
    return -(-size // 4) * 4

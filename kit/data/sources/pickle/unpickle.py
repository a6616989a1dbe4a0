"""A reader of pickles that hold plain arrays, which lets them run nothing.

A pickle names functions and classes to be called as it is read. Only the names in ``_ALLOWED`` are honoured,
and none of them reaches the real function: each maps to a small stand-in of ours that can hold a value and
nothing more (NumPy's own ``__setstate__`` methods, for one, trust their input). Tensors come with a whole
``torch.load`` inside; theirs is read by the weights-only loader.

Python's own unpickler in Python is taken, not the one in C: that one makes a table as long as the largest number of a
memo in the file, which may be four billion, and sets attributes of whatever a pickle names.
"""

import io
import math
import pickle
import re
import reprlib
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from kit.data.sources.file_formats import describe_format
from kit.io.errors import StoreError

_MAX_STEPS = 5_000_000
"""Instructions of a pickle; a batch of Aurora takes about a thousand."""

# What the unpickler, and the stand-ins below, raise for bytes that are damaged or made up.
_NOT_A_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
    RecursionError,
    struct.error,
)


def load(path: Path) -> Any:
    """Read a pickle; arrays and tensors in it arrive as ``Array``.

    Raises:
        StoreError: The pickle asks for anything but plain data, or is damaged; nothing of it was executed.
    """
    try:
        with path.open("rb") as stream:
            return _PlainUnpickler(_Stream(stream, path.stat().st_size)).load()
    except _NotPlainDataError as error:
        msg = (
            f"{path}: refused: the pickle asks for {error}, which is no plain data. Nothing was executed. "
            "Accepted are a dictionary of NumPy arrays and a list of (input, target) aurora.Batch pairs; "
            "write the data so, or as NetCDF"
        )
        raise StoreError(msg) from None
    except _NOT_A_PICKLE as error:
        what = describe_format(path)
        advice = f"The file is {what}" if what and "pickle" not in what else "Write it again"
        msg = f"{path}: not a readable pickle ({type(error).__name__}: {error}); nothing was executed. {advice}"
        raise StoreError(msg) from error


class _NotPlainDataError(Exception):
    """Something that is not plain data; the message names it."""


def _refuse(what: str, cause: BaseException | None = None) -> NoReturn:
    raise _NotPlainDataError(what) from cause


@dataclass
class _Dtype:
    """Stands for ``numpy.dtype``: a plain kind and size, never objects or fields."""

    code: str
    unit: str = ""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[biufSUMm]\d+", code):
            _refuse(f"an array of the type {reprlib.repr(code)}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # NumPy's state: version, byte order, subarray, names, fields, ...; the unit of times comes last.
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>|=")
        if self.code.lstrip("<>|=")[0] in "Mm" and len(state) > 8:
            unit, number = state[8][1][:2]
            name = unit.decode() if isinstance(unit, bytes) else str(unit)
            # The name becomes part of a dtype's text: letters alone cannot smuggle another type in.
            if not re.fullmatch(r"[A-Za-z]{1,2}", name):
                _refuse(f"an array of times in {name!r}")
            self.unit = f"[{int(number)}{name}]"
        if state[3] is not None or state[4] is not None:
            _refuse("an array with named fields")

    def real(self) -> np.dtype[Any]:
        """The dtype itself, made from its checked name."""
        return np.dtype(self.code + self.unit)


@dataclass
class Array:
    """Stands for an array or a tensor until its values are asked for."""

    values: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[4], bytes | bytearray | str):
            _refuse("an array of Python objects")
        _, shape, dtype, column_major, data = state
        self.values = _from_bytes(_as_bytes(data), dtype, shape, "F" if column_major else "C")


def _as_bytes(data: Any) -> Any:
    """Bytes of data that protocols 0 to 2 write as text."""
    return data.encode("latin1") if isinstance(data, str) else data


def _from_bytes(data: Any, dtype: Any, shape: Any, order: str) -> npt.NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray | pickle.PickleBuffer):
        _refuse("an array made of something else than bytes")
    sides = tuple(int(side) for side in shape)
    real = dtype.real()
    raw = memoryview(data)
    if raw.nbytes != math.prod(sides) * real.itemsize:
        msg = f"an array of the shape {sides} and the type {real} has {raw.nbytes} bytes"
        raise pickle.UnpicklingError(msg)
    return np.frombuffer(raw, dtype=real).reshape(sides, order="F" if order == "F" else "C")


def _reconstruct(*_: Any) -> Array:
    # An empty array; shape, type and bytes follow through __setstate__.
    return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: str) -> Array:
    return Array(_from_bytes(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any) -> Array:
    return Array(_from_bytes(_as_bytes(data), dtype, (), "C"))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # Protocol 2 writes bytes as text in this one encoding.
    if not isinstance(text, str) or encoding != "latin1":
        _refuse(f"_codecs.encode to {reprlib.repr(encoding)}")
    return text.encode("latin1")


class _NdarrayName:
    """Stands for the name ``numpy.ndarray``, which is passed on and never called."""


@dataclass
class _TensorStorage:
    """A tensor's storage, read by the weights-only loader."""

    real: Any


def _storage_from_bytes(data: Any) -> _TensorStorage:
    import torch

    # PyTorch pickles storages in its former format. Of a zip the members may be packed, to any size.
    if not isinstance(data, bytes) or data.startswith(b"PK"):
        _refuse("a tensor whose storage is no bytes of PyTorch's former format")
    try:
        with warnings.catch_warnings():
            # It warns of unusual protocols before it refuses what they hold.
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        # PyTorch's message names what it refuses.
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            _refuse(f"{named[1]} inside a tensor", error)
        _refuse(f"a tensor that is not one ({str(error).splitlines()[0]})", error)
    except (*_NOT_A_PICKLE, OSError) as error:
        _refuse(f"a tensor that is not one ({type(error).__name__}: {error})", error)
    if not isinstance(loaded, torch.storage.TypedStorage):
        _refuse(f"a tensor whose storage is a {type(loaded).__name__}")
    return _TensorStorage(loaded)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Array:
    """``torch._utils._rebuild_tensor_v2`` without gradients, hooks and metadata."""
    import torch

    if not isinstance(storage, _TensorStorage):
        _refuse(f"a tensor whose storage is a {type(storage).__name__}")
    typed = storage.real
    # A stride of zero makes any number of values of one.
    held = typed._untyped_storage.nbytes() // typed.dtype.itemsize
    if math.prod(map(int, size)) > held:
        msg = f"a tensor of the shape {reprlib.repr(size)} has {held} values; save its contiguous() copy"
        raise pickle.UnpicklingError(msg)
    # Bounds are checked by set_.
    tensor = torch.empty(0, dtype=typed.dtype).set_(
        typed._untyped_storage, int(offset), tuple(map(int, size)), tuple(map(int, stride))
    )
    # NumPy has no bfloat16.
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return Array(tensor.numpy())


class _Record:
    """Stands for a dataclass: takes its fields and does nothing with them."""

    fields: tuple[str, ...] = ()

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not set(self.fields) <= set(state):
            msg = f"a {type(self).__name__} with the fields {reprlib.repr(state)}"
            raise pickle.UnpicklingError(msg)
        # These fields alone: whatever else a pickle brings is dropped.
        for name in self.fields:
            object.__setattr__(self, name, state[name])


class PickledMetadata(_Record):
    """What ``aurora.Metadata`` held."""

    fields = ("lat", "lon", "time", "atmos_levels")
    lat: Array
    lon: Array
    time: tuple[datetime, ...]
    atmos_levels: tuple[Any, ...]


class PickledBatch(_Record):
    """What ``aurora.Batch`` held."""

    fields = ("surf_vars", "static_vars", "atmos_vars", "metadata")
    surf_vars: dict[str, Array]
    static_vars: dict[str, Array]
    atmos_vars: dict[str, Array]
    metadata: PickledMetadata

    def is_complete(self) -> bool:
        """Whether the fields are there and of their types, which nothing has ensured so far."""
        for name in ("surf_vars", "static_vars", "atmos_vars"):
            if not isinstance(getattr(self, name, None), dict):
                return False
        metadata = getattr(self, "metadata", None)
        if not isinstance(metadata, PickledMetadata):
            return False
        times = getattr(metadata, "time", None)
        return (
            isinstance(times, tuple)
            and all(isinstance(time, datetime) for time in times)
            and isinstance(getattr(metadata, "atmos_levels", None), tuple | list)
            and isinstance(getattr(metadata, "lat", None), Array)
            and isinstance(getattr(metadata, "lon", None), Array)
        )


class PickledPair(_Record):
    """What vibe-kit's ``SupervisedTrainingDataPair`` held."""

    fields = ("input_batch", "target_batch")
    input_batch: PickledBatch
    target_batch: PickledBatch


# NumPy 2 calls numpy.core numpy._core; vibe-kit's class is found in two modules.
_ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _NdarrayName,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    "datetime.datetime": datetime,
    "datetime.timedelta": timedelta,
    "datetime.timezone": timezone,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage_from_bytes,
    "aurora.batch.Batch": PickledBatch,
    "aurora.batch.Metadata": PickledMetadata,
    "vibe_tune_aurora.types.SupervisedTrainingDataPair": PickledPair,
    "vibe_tune_aurora.custom_types.SupervisedTrainingDataPair": PickledPair,
}


class _Stream:
    """A file that is asked for no more than it has: a pickle may claim strings longer than all memory."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left, self.readline = stream, size, stream.readline

    def read(self, size: int) -> bytes:
        """Read so many bytes.

        Raises:
            EOFError: there are fewer.
        """
        if size > self._left:
            msg = f"it claims {size} bytes where {self._left} are left"
            raise EOFError(msg)
        content = self._stream.read(size)
        self._left -= len(content)
        return content


class _Steps(dict[int, Callable[[Any], None]]):
    """Python's table of a pickle's instructions, each of which is counted as it is looked up."""

    taken = 0

    def __getitem__(self, instruction: int) -> Callable[[Any], None]:
        self.taken += 1
        if self.taken > _MAX_STEPS:
            msg = f"it has more than {_MAX_STEPS} instructions"
            raise pickle.UnpicklingError(msg)
        return super().__getitem__(instruction)


class _PlainUnpickler(pickle._Unpickler):
    stack: list[Any]

    def __init__(self, stream: _Stream) -> None:
        super().__init__(stream)
        self.dispatch = _Steps(pickle._Unpickler.dispatch)  # type: ignore[misc]
        self.dispatch[pickle.BUILD[0]] = _PlainUnpickler._build

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        full = f"{module_name}.{global_name}"
        if full not in _ALLOWED:
            _refuse(full)
        return _ALLOWED[full]

    def _build(self) -> None:
        # Anything else would have its attributes set, and functions and classes are this process's own.
        if not isinstance(self.stack[-2], _Dtype | Array | _Record):
            _refuse(f"attributes of a {type(self.stack[-2]).__name__} to be set")
        pickle._Unpickler.dispatch[pickle.BUILD[0]](self)  # type: ignore[arg-type]

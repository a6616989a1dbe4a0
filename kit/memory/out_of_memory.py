"""Memory that ran out: of what, where, and how much was missing.

Nothing is watched while all goes well. What is known afterwards is in the traceback: PyTorch keeps the frames of a
forward pass, and of whatever Python runs inside the backward pass, recomputation above all. Which settings would help
is in ``kit.memory.advice``.
"""

import errno
import gc
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import torch

from kit.io.errors import OutOfMemoryError
from kit.memory.host_memory import host_available

_logger = logging.getLogger(__name__)

Phase = Literal["forward", "backward", "update", "elsewhere"]

_GIB, _MIB = 2**30, 2**20

# Names of an adapter's parts (PEFT's, upstream's) behind the name of the layer that it is on.
_ADAPTER = re.compile(r"\.(base_layer|lora_\w+)\b.*")
# What PyTorch, CUDA's libraries, NumPy and the C++ library say when they get no memory.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|cannot allocate memory|unable to allocate|std::bad_alloc"
    r"|_ALLOC_FAILED|\bMemoryError\b",
    re.IGNORECASE,
)
_ON_GPU = re.compile(r"CUDA|CUBLAS|CUDNN|CUSPARSE|GPU", re.IGNORECASE)
_REQUESTED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
_FREE_OF_TOTAL = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
_CAPACITY = re.compile(r"total capacity of ([\d.]+) (\wiB)")
_UNUSED = re.compile(r"([\d.]+) (bytes|[KMGT]iB) is reserved by PyTorch but unallocated")
_UNITS = {"bytes": 1, "kib": 2**10, "mib": _MIB, "gib": _GIB, "tib": 2**40}


@dataclass(frozen=True)
class Shortage:
    """What is known of a failure to get memory.

    Attributes:
        phase: Phase of the step; ``elsewhere`` where no part of the model was at work.
        module: Name of the module that ran, or whose part of the backward pass ran; None where it is unknown.
        function: Qualified name of the innermost function of the kit that ran.
        calls: Names of all functions that ran.
        on_gpu: Whether it was the GPU's memory.
        requested: Bytes that were not to be had; None where the error does not say.
        remaining: What there was, in words.
        fragmented: Bytes that PyTorch held in pieces too small, if they would have been enough; else 0.
        capacity: Bytes of the GPU; None where the error does not say.
    """

    phase: Phase
    module: str | None
    function: str
    calls: frozenset[str]
    on_gpu: bool
    requested: int | None
    remaining: str
    fragmented: int = 0
    capacity: int | None = None

    @property
    def place(self) -> str | None:
        """The part of the model: encoder, backbone or decoder."""
        return None if self.module is None else self.module.partition(".")[0]

    def __str__(self) -> str:
        where = {
            "forward": f"in the forward pass of {self.module}",
            "backward": f"in the backward pass of {self.module}",
            "update": "when the optimiser applied the gradients",
            "elsewhere": f"in {self.function}",
        }[self.phase]
        if self.phase == "backward" and self.module is None:
            where = "in the backward pass, in a part that PyTorch ran by itself and does not name"
        amount, owner = "an unknown amount", "host"
        if self.requested is not None:
            amount = size_text(self.requested)
        if self.on_gpu:
            owner = "GPU"
        return f"out of memory {where}: {amount} was asked of the {owner}, {self.remaining}"


def size_text(count: int) -> str:
    """Write bytes for people."""
    if count >= _GIB / 10:
        return f"{count / _GIB:.2f} GiB"
    return f"{count / _MIB:.1f} MiB"


def diagnose(error: BaseException, model: torch.nn.Module | None) -> Shortage | None:
    """Find out what a failure says about memory; None where it is another kind of failure.

    Args:
        error: Exception with its traceback, as it was caught.
        model: Model whose modules are looked for among the frames.
    """
    text = str(error)
    if isinstance(error, OSError):
        if error.errno != errno.ENOMEM:
            return None
    elif not isinstance(error, MemoryError | torch.OutOfMemoryError) and _OUT_OF_MEMORY.search(text) is None:
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = frozenset(frame.f_code.co_name for frame in frames)
    # Pinned memory is the host's, and CUDA's to refuse.
    pinning = not calls.isdisjoint(("empty_host", "empty_hosts"))
    on_gpu = isinstance(error, torch.OutOfMemoryError) or (_ON_GPU.search(text) is not None and not pinning)
    module = _running_module(frames, model)
    phase: Phase = "elsewhere" if module is None else "forward"
    if "_engine_run_backward" in calls:
        phase = "backward"
    for frame in frames:
        optimizes = isinstance(frame.f_locals.get("self"), torch.optim.Optimizer)
        if optimizes or frame.f_code.co_qualname.endswith("Updater.update"):
            phase = "update"
    remaining = f"where {size_text(host_available())} is to be had"
    if on_gpu:
        remaining = "which is full"
        if found := _FREE_OF_TOTAL.search(text):
            remaining = f"which has {found[2]} free of {found[1]}"
    requested, unused = _bytes(_REQUESTED.search(text)), _bytes(_UNUSED.search(text)) or 0
    if requested is None or unused < requested:
        unused = 0
    capacity = _bytes(_CAPACITY.search(text))
    return Shortage(phase, module, _innermost(frames), calls, on_gpu, requested, remaining, unused, capacity)


def _running_module(frames: Sequence[FrameType], model: torch.nn.Module | None) -> str | None:
    """Name the innermost module that was at work."""
    if model is None:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    for frame in reversed(frames):
        # A frame works on a module, or on work of the memory engine that holds one (kit.memory.tiling,
        # kit.memory.encoder_decoder_tiling), under these names.
        for variable in ("self", "module", "work"):
            value = frame.f_locals.get(variable)
            held = getattr(value, "__dict__", {})
            for module in (value, held.get("module"), held.get("_module")):
                if (name := names.get(id(module))) is not None:
                    return _ADAPTER.sub("", name) or type(module).__name__
    return None


def _innermost(frames: Sequence[FrameType]) -> str:
    for frame in reversed(frames):
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("kit.") and name != __name__:
            return f"{name}.{frame.f_code.co_qualname}"
    return "a library"


def _bytes(found: re.Match[str] | None) -> int | None:
    return None if found is None else int(float(found[1]) * _UNITS[found[2].lower()])


@dataclass
class GuardedModel:
    """The model that runs while memory may run out; None as long as it is not built."""

    model: torch.nn.Module | None = None


@contextmanager
def readable(explain: Callable[[Shortage], str], model: torch.nn.Module | None = None) -> Iterator[GuardedModel]:
    """Turn a lack of memory inside the block into an error that says what to do.

    By the time that the error is raised, what the block's functions held is free again.

    Args:
        explain: Function that makes the message.
        model: Model that runs inside the block, if it is there already.

    Raises:
        OutOfMemoryError: with that message.
    """
    guarded = GuardedModel(model)
    try:
        yield guarded
    except (RuntimeError, MemoryError, OSError) as error:
        # What follows a shortage, such as closing the run, fails for the same reason: the first one is reported.
        earlier: BaseException | None = error
        while earlier is not None and not isinstance(earlier, OutOfMemoryError):
            earlier = earlier.__context__
        if earlier is not None:
            _logger.info("memory ran out again", exc_info=error)
            raise earlier from None
        shortage = diagnose(error, guarded.model)
        if shortage is None:
            raise
        _free_frames(error)
        msg = explain(shortage)
        _logger.info("%s", msg, exc_info=error)
        raise OutOfMemoryError(msg) from None


def _free_frames(error: BaseException) -> None:
    """Free what the functions that failed held, tensors above all; their traceback can still be printed."""
    traceback.clear_frames(error.__traceback__)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # Where they were looked at, a frame of Python 3.11 keeps copies of its variables until they are looked at
        # again.
        assert frame.f_locals is not None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

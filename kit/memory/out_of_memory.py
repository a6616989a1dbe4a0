"""Memory ran out: of what, where, and how much was missing.

Nothing is watched while all goes well. What is known afterwards is in the traceback: PyTorch keeps the frames of a
forward pass, and of whatever Python runs inside the backward pass, recomputation above all.
"""

from __future__ import annotations

import errno
import gc
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch

from kit.io.errors import OutOfMemoryError
from kit.memory.advice import Advice, Situation, advise, advise_forecast, advise_host
from kit.memory.host_memory import host_available

__all__ = ["Shortage", "Watched", "diagnose", "explain_forecast", "explain_training", "readable", "size"]

_logger = logging.getLogger(__name__)

Phase = Literal["forward", "backward", "update", "elsewhere"]

_GIB, _MIB = 2**30, 2**20
_ADAPTER = re.compile(r"\.(base_layer|lora_\w+)\b.*")
_TELLING = re.compile(
    r"can't allocate memory|not enough memory|out of memory|cannot allocate memory|unable to allocate|std::bad_alloc"
    r"|_ALLOC_FAILED|\bMemoryError\b",
    re.IGNORECASE,
)
_ON_GPU = re.compile(r"CUDA|CUBLAS|CUDNN|CUSPARSE|GPU", re.IGNORECASE)
_ASKED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
_TOTAL = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
_CAPACITY = re.compile(r"total capacity of ([\d.]+) (\wiB)")
_UNUSED = re.compile(r"([\d.]+) (bytes|[KMGT]iB) is reserved by PyTorch but unallocated")
_UNITS = {"bytes": 1, "kib": 2**10, "mib": _MIB, "gib": _GIB, "tib": 2**40}


@dataclass(frozen=True)
class Shortage:
    """What is known of a failure.

    Attributes:
        phase: of the step; ``elsewhere`` where no part of the model was at work.
        module: name of the module that ran, or whose part of the backward pass ran; None where nobody knows.
        function: of the kit, the innermost that ran.
        calls: names of all functions that ran.
        on_gpu: whether it was the GPU's memory.
        asked: bytes that were not to be had; None where nobody told.
        there: what there was, in words.
        fragmented: bytes that PyTorch held in pieces too small, if they would have been enough.
        capacity: of the GPU, bytes; None where nobody told.
    """

    phase: Phase
    module: str | None
    function: str
    calls: frozenset[str]
    on_gpu: bool
    asked: int | None
    there: str
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
        what = "an unknown amount" if self.asked is None else size(self.asked)
        return f"out of memory {where}: {what} was asked of the {'GPU' if self.on_gpu else 'host'}, {self.there}"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / _GIB:.2f} GiB" if count >= _GIB / 10 else f"{count / _MIB:.1f} MiB"


def diagnose(error: BaseException, model: torch.nn.Module | None) -> Shortage | None:
    """Find out what a failure says about memory; None where it is another kind of failure.

    Args:
        error: with its traceback, as it was caught.
        model: whose modules are looked for among the frames.
    """
    if not _is_shortage(error):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = _module(frames, model)
    text = str(error)
    # Pinned memory is the host's, and CUDA's to refuse.
    on_gpu = isinstance(error, torch.OutOfMemoryError) or (
        _ON_GPU.search(text) is not None and not any("empty_host" in frame.f_code.co_name for frame in frames)
    )
    asked = _bytes(_ASKED.search(text))
    unused = _bytes(_UNUSED.search(text)) or 0
    return Shortage(
        _phase(frames, module),
        module,
        _innermost(frames),
        frozenset(frame.f_code.co_name for frame in frames),
        on_gpu,
        asked,
        _there(text, on_gpu=on_gpu),
        unused if asked is not None and unused >= asked else 0,
        _bytes(_CAPACITY.search(text)),
    )


@dataclass
class Watched:
    """What runs while memory may run out; None as long as it is not there."""

    model: torch.nn.Module | None = None


@contextmanager
def readable(explain: Callable[[Shortage], str], model: torch.nn.Module | None = None) -> Iterator[Watched]:
    """Turn a lack of memory inside the block into an error that says what to do.

    By the time that the error is raised, what the block's functions held is free again.

    Args:
        explain: makes the message.
        model: that runs inside the block, if it is there already.

    Raises:
        OutOfMemoryError: with that message.
    """
    watched = Watched(model)
    try:
        yield watched
    except (RuntimeError, MemoryError, OSError) as error:
        told = _told(error)
        if told is not None:
            _logger.info("memory ran out again", exc_info=error)
            raise told from None
        shortage = diagnose(error, watched.model)
        if shortage is None:
            raise
        _let_go(error)
        msg = explain(shortage)
        _logger.info("%s", msg, exc_info=error)
        raise OutOfMemoryError(msg) from None


def explain_training(shortage: Shortage, now: Situation, *, workers: int = 0) -> list[str]:
    """Say what happened in training, and what to change; a line for each.

    Args:
        shortage: what happened.
        now: the settings in force.
        workers: processes that read data.
    """
    if now.device == "cuda" and not shortage.on_gpu:
        return _lines(shortage, advise_host(now.memory, workers))
    advice = advise(now, place=shortage.place, updating=shortage.phase == "update")
    lines = _lines(shortage, advice)
    if shortage.capacity is not None and now.memory.fit is None:
        lines.append(f"Or let the planner choose, without them: --memory.fit {shortage.capacity // _GIB}GiB")
    return lines


def explain_forecast(shortage: Shortage, now: Situation) -> str:
    """Say what happened in a forecast, and what to change."""
    return "\n".join(_lines(shortage, advise_forecast(now, place=shortage.place)))


def _lines(shortage: Shortage, advice: Sequence[Advice]) -> list[str]:
    lines = [f"{shortage}."]
    if shortage.fragmented:
        lines.append(
            f"PyTorch holds {size(shortage.fragmented)} in pieces that are too small; the environment variable "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True avoids that."
        )
    if not advice:
        return [*lines, "No setting saves more: choose a smaller region (data.region), a smaller model or another GPU."]
    return [*lines, "These settings save memory; try them in this order, each in addition to those before it:"] + [
        f"  {item}" for item in advice
    ]


def _let_go(error: BaseException) -> None:
    """Free what the functions that failed held, tensors above all; their traceback can still be printed."""
    traceback.clear_frames(error.__traceback__)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # Where they were looked at, a frame keeps copies of its variables until they are looked at again.
        assert frame.f_locals is not None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _told(error: BaseException | None) -> OutOfMemoryError | None:
    """The error that was raised before, where what follows it, such as closing the run, fails for the same reason."""
    while error is not None and not isinstance(error, OutOfMemoryError):
        error = error.__context__
    return error


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _TELLING.search(str(error)) is not None


def _module(frames: Sequence[FrameType], model: torch.nn.Module | None) -> str | None:
    """Name of the innermost module that was at work."""
    names = {} if model is None else {id(module): name for name, module in model.named_modules()}
    for frame in reversed(frames):
        for module in _modules(frame):
            name = names.get(id(module))
            if name is not None:
                return _ADAPTER.sub("", name) or type(module).__name__
    return None


def _modules(frame: FrameType) -> Iterator[Any]:
    """What a frame works on: a module, or work of the memory engine on one."""
    for name in ("self", "module", "work"):
        value = frame.f_locals.get(name)
        held = getattr(value, "__dict__", {})
        yield from (value, held.get("module"), held.get("_module"))


def _phase(frames: Sequence[FrameType], module: str | None) -> Phase:
    if any(isinstance(frame.f_locals.get("self"), torch.optim.Optimizer) or _updates(frame) for frame in frames):
        return "update"
    if any(frame.f_code.co_name == "_engine_run_backward" for frame in frames):
        return "backward"
    return "elsewhere" if module is None else "forward"


def _updates(frame: FrameType) -> bool:
    return frame.f_code.co_qualname.endswith("Updater.update")


def _innermost(frames: Sequence[FrameType]) -> str:
    for frame in reversed(frames):
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("kit.") and name != __name__:
            return f"{name}.{frame.f_code.co_qualname}"
    return "a library"


def _there(text: str, *, on_gpu: bool) -> str:
    if on_gpu:
        found = _TOTAL.search(text)
        return "which is full" if found is None else f"which has {found[2]} free of {found[1]}"
    return f"where {size(host_available())} is to be had"


def _bytes(found: re.Match[str] | None) -> int | None:
    return None if found is None else int(float(found[1]) * _UNITS[found[2].lower()])

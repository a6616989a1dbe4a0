"""Counter of the bytes that a step holds, real or simulated: at its peak, by what, and where the peak is.

A dispatch mode sees every operation's results. A storage counts from the operation that makes it until the last
reference to it goes, however many views there are of it.
"""

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, Self

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle

from kit.memory.host_memory import allocating_host, is_host

Category = Literal["parameters", "gradients", "optimizer", "activations", "batch"]
Phase = Literal["forward", "backward", "update"]
CATEGORIES: tuple[Category, ...] = ("parameters", "gradients", "optimizer", "activations", "batch")
"""What bytes are held for; activations are all that no other category claims, temporaries among them."""

Observer = Callable[[Any, Sequence[Any], Mapping[str, Any], Any, bool], None]
"""Called with each operation, its arguments, its result, and whether any tensor is the host's so far."""

_ACTIVATIONS = CATEGORIES.index("activations")
# Where a step is while no module runs.
_BEFORE, _AFTER, _UPDATE = "inputs", "loss", "optimizer"


@dataclass(frozen=True)
class Peak:
    """The most that the device holds at a time.

    Attributes:
        bytes: Bytes of all storages together.
        breakdown: Bytes by category.
        where: Name of the module that runs, or whose gradient is computed; outside the model ``inputs``, ``loss``
            or ``optimizer``.
        phase: Phase of the step.
        workspace: Bytes of the activations that a kernel takes for itself.
    """

    bytes: int = 0
    breakdown: dict[Category, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    where: str = _BEFORE
    phase: Phase = "forward"
    workspace: int = 0


@dataclass(slots=True)
class _LiveStorage:
    """What is known of a live storage; the reference tells when it goes."""

    bytes: int
    host: bool
    reference: weakref.ref[torch.UntypedStorage]
    category: int = _ACTIVATIONS


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered.

    Tensors that are there before do not count until ``own`` names them.

    Attributes:
        peak: The most since the start, or since ``restart``.
        host_peak: Most bytes of the host's memory; where the device is the CPU, of what ``kit.memory.host_memory``
            made.
        phases: Most bytes in each phase.
        workspaces: Bytes that a kernel takes besides its results, by operation.
        observer: Function that is called with each operation.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Make ready to count.

        Args:
            model: Model whose modules the peak is ascribed to. Gradients of its parameters have a category of their
                own.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.workspaces: Mapping[Any, Workspace] = {}
        self.observer: Observer | None = None
        self._model = model
        self._storages: dict[int, _LiveStorage] = {}
        self._live = [0] * len(CATEGORIES)
        self._host_live = 0
        self._names = _Names(model)
        self._handles: list[RemovableHandle] = []
        self.restart()

    @property
    def device_bytes(self) -> int:
        """Bytes that the device holds now."""
        return sum(self._live)

    def restart(self) -> None:
        """Forget the peaks; what is held stays counted."""
        self.peak = Peak()
        self.host_peak = self._host_live
        self.phases: dict[Phase, int] = {}

    def own(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Say what tensors are for, and count those that were there before."""
        index = CATEGORIES.index(category)
        for tensor in tensors:
            for part in _plain(tensor):
                storage = self._track(part)
                if not storage.host:
                    self._live[storage.category] -= storage.bytes
                    self._live[index] += storage.bytes
                storage.category = index

    def __enter__(self) -> Self:
        self._handles = self._names.follow()
        for parameter in self._model.parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
                self._handles.append(handle)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would wrap the method below in what keeps its compiler away, which takes longer than the method.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            # A tensor made of others: it comes back with these.
            return NotImplemented
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if _makes_tensors(func):
            if isinstance(result, torch.Tensor):
                self._track(result)
            elif isinstance(result, tuple | list):
                for part in result:
                    if isinstance(part, torch.Tensor):
                        self._track(part)
        workspace = 0
        if func in self.workspaces:
            workspace = self.workspaces[func](args, kwargs)
        total, phase = sum(self._live) + workspace, self._names.phase()
        if total > self.phases.get(phase, 0):
            self.phases[phase] = total
            if total > self.peak.bytes:
                held = dict(zip(CATEGORIES, self._live, strict=True))
                held["activations"] += workspace
                self.peak = Peak(total, held, self._names.current(), phase, workspace)
        if self.observer is not None:
            self.observer(func, args, kwargs, result, self.host_peak > 0)
        return result

    def _track(self, tensor: torch.Tensor) -> _LiveStorage:
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._storages.get(key)
        if known is not None:
            return known
        host = allocating_host() or is_host(storage)
        known = _LiveStorage(storage.nbytes(), host, weakref.ref(storage, partial(self._release, key)))
        self._storages[key] = known
        if host:
            self._host_live += known.bytes
            self.host_peak = max(self.host_peak, self._host_live)
        else:
            self._live[_ACTIVATIONS] += known.bytes
        return known

    def _release(self, key: int, _reference: object) -> None:
        gone = self._storages.pop(key)
        if gone.host:
            self._host_live -= gone.bytes
        else:
            self._live[gone.category] -= gone.bytes

    def _accumulated(self, parameter: torch.Tensor) -> None:
        # Whoever applies gradients in the backward pass may have taken it already.
        if parameter.grad is not None:
            self.own([parameter.grad], "gradients")


class _Names:
    """Follows which module runs. In the backward pass: which module made the node that runs."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._names = {module: name or "model" for name, module in model.named_modules()}
        self._running: list[str] = []
        # Nodes of the graph are numbered in the order in which the forward pass makes them.
        self._numbers: list[int] = []
        self._makers: list[str] = []
        self._after_backward = False

    def follow(self) -> list[RemovableHandle]:
        """Watch modules run, until the handles are removed."""
        # Recomputation ends in the middle of modules, by an exception.
        leaving = register_module_forward_hook(self._leave, always_call=True)
        return [register_module_forward_pre_hook(self._enter), leaving]

    def phase(self) -> Phase:
        """What the step is doing."""
        if torch._C._current_graph_task_id() != -1:
            self._after_backward = True
            return "backward"
        if self._running:
            self._after_backward = False
        return "update" if self._after_backward else "forward"

    def current(self) -> str:
        """Name of the module that runs or, in the backward pass, that ran."""
        if self._running:
            return self._running[-1]
        phase = self.phase()
        if phase == "update":
            return _UPDATE
        if not self._makers:
            return _BEFORE
        node = None
        if phase == "backward":
            node = torch._C._current_autograd_node()
        if node is None:
            return self._makers[-1]
        return self._makers[max(bisect_right(self._numbers, node._sequence_nr()) - 1, 0)]

    def _enter(self, module: torch.nn.Module, _args: Any) -> None:
        if module in self._names:
            self._running.append(self._names[module])
            self._mark(self._running[-1])

    def _leave(self, module: torch.nn.Module, _args: Any, _output: Any) -> None:
        if module in self._names and self._running:
            self._running.pop()
            self._mark(self._running[-1] if self._running else _AFTER)

    def _mark(self, name: str) -> None:
        number = torch._C._autograd._get_sequence_nr()
        if self._numbers and self._numbers[-1] >= number:
            self._makers[-1] = name
        else:
            self._numbers.append(number)
            self._makers.append(name)


@cache
def _makes_tensors(func: Any) -> bool:
    """Decide whether an operation returns anything but views of its arguments, or these themselves."""
    return any(result.alias_info is None for result in func._schema.returns)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Find all tensors of nested dictionaries and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor, or the tensors that it is made of."""
    made: Any = tensor
    if not is_traceable_wrapper_subclass(made):
        yield tensor
        return
    for name in made.__tensor_flatten__()[0]:
        yield from _plain(getattr(made, name))


# Memory that CUDA's kernels take for themselves while they run, which no tensor of the program shows.
#
# Attention's backward pass is what matters here. Outside autocast, and wherever there is a mask, PyTorch's memory-
# efficient kernel runs it, which accumulates the gradient of the queries in tiles of 64 x 64 fp32 values, a tile for
# each sample and head however few queries there are (``mem_eff_attention/kernel_backward.h``,
# ``workspace_elements_gq``). Aurora's perceivers attend from 3 or 13 levels to 13 or 3, for every patch and head: at
# 0.25 degrees that is a workspace of 15.8 GiB. In bf16 without a mask, FlashAttention-2 runs it, with queries rounded
# up to 128 (``flash_attn/flash_api.cpp``, ``mha_bwd``). On the GPUs where PyTorch prefers cuDNN's attention, it takes
# less.
#
# ``roll`` along several axes is one roll after the other, and all results stay until the last.

Workspace = Callable[[Sequence[Any], Mapping[str, Any]], int]
"""From an operation's arguments, positional and named, to bytes."""

_aten = torch.ops.aten
_TILE = 64
# Bytes before the values of a tile: a lock, a counter, padding.
_TILE_HEAD = 16
_FLASH_ROWS, _FLASH_WIDTH = 128, 32
# Samples that one launch of the memory-efficient kernel takes; more are taken in turns.
_MOST_SAMPLES = 2**16 - 1


def _attention_backward(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Count bytes of ``_scaled_dot_product_flash_attention_for_cpu_backward``, which stands in for CUDA's kernels."""
    query: torch.Tensor = args[1]
    samples, heads, length, width = query.shape
    if kwargs.get("attn_mask") is None and query.dtype in (torch.bfloat16, torch.float16):
        rows = _up(length, _FLASH_ROWS)
        return 4 * samples * heads * rows * (_up(width, _FLASH_WIDTH) + 1)
    tiles = -(-length // _TILE) * -(-width // _TILE)
    return min(samples, _MOST_SAMPLES) * heads * (tiles * (4 * _TILE * _TILE + _TILE_HEAD) + 4 * length)


def _roll(args: Sequence[Any], _kwargs: Mapping[str, Any]) -> int:
    tensor: torch.Tensor = args[0]
    axes = args[2] if len(args) > 2 else ()
    return max(len(axes) - 1, 0) * tensor.numel() * tensor.element_size()


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


CUDA_WORKSPACES: Mapping[Any, Workspace] = {
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    _aten.roll.default: _roll,
}

"""Recomputation: what a segment of the model keeps for the backward pass, where it waits, and what is computed again.

``torch.utils.checkpoint`` (the non-reentrant form) does the work. Modules keep their classes and names; wrappers
that rename parameters, such as upstream's own, are not used.

With block recomputation the inputs of segments are most of what a step holds: 12.8 GiB for the 1.3 billion parameter
model at 0.25 degrees in fp32. They can be rounded, or wait on the host. PyTorch's own ``save_on_cpu`` would wait for
each copy; here copies go on during the arithmetic, which is why this stays the kit's own code. Full fine-tuning of
that model, in fp32 and clipped, then peaks at 9.5 GiB where upstream's recipe takes 63.8 (``docs/benchmarks.md``).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from kit.memory.host_memory import empty_host
from kit.memory.settings import MemorySettings

T = TypeVar("T")

_aten = torch.ops.aten
# What costs most to compute for each byte that it takes to keep: matrix products and attention.
_DEAR = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]
# Below this many bytes a tensor is not worth a journey: contexts, time embeddings.
_SMALL = 2**16


class InputKeeper:
    """Keeps the inputs of segments as the settings say.

    ``bf16`` rounds them: what is recomputed from them differs in the third digit, and so do gradients. The host is
    exact: copies leave on a side stream while the forward pass goes on, and each is fetched back while the segment
    after it, in order of the forward pass, runs its backward pass.
    """

    def __init__(self, settings: MemorySettings) -> None:
        self._rounds = settings.saved_inputs == "bf16"
        self._offloads = "inputs" in settings.offload
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._latest: weakref.ref[_HostInput] | None = None

    @property
    def parks(self) -> bool:
        """Whether inputs are kept in another form or place than they come in."""
        return self._rounds or self._offloads

    def hooks(self) -> AbstractContextManager[Any]:
        """Hooks for autograd, to be in force where a segment's inputs are saved.

        None where inputs stay as they are: inside a segment that is recomputed itself, hooks would keep what the outer
        one lets go.
        """
        if not self.parks:
            return nullcontext()
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: torch.Tensor) -> Any:
        worth_it = tensor.is_floating_point() and tensor.nbytes >= _SMALL
        if not worth_it or isinstance(tensor, torch.nn.Parameter):
            return tensor
        return self.park(tensor)

    def _unpack(self, packed: Any) -> torch.Tensor:
        tensor: torch.Tensor = packed if isinstance(packed, torch.Tensor) else packed.take()
        return tensor

    def park(self, tensor: torch.Tensor) -> _RoundedInput | _HostInput:
        """Keep one tensor in the way of the settings."""
        kept = tensor.detach()
        if self._rounds:
            kept = kept.to(torch.bfloat16)
        if not self._offloads:
            return _RoundedInput(kept, tensor.dtype)
        device, stream = kept.device, None
        if device.type == "cuda":
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream = self._streams[device]
        parked = _HostInput(kept, tensor.dtype, self._latest, stream)
        self._latest = weakref.ref(parked)
        return parked


class _RoundedInput:
    """One tensor in a lower precision."""

    def __init__(self, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        self._tensor = tensor
        self._dtype = dtype

    def take(self) -> torch.Tensor:
        """Give the tensor back in its own precision."""
        return self._tensor.to(self._dtype)


class _HostInput:
    """One tensor, on the host until it is needed.

    Without a stream, on a CPU, copies are made at once: exactness can be tested there, and the planner counts them.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        dtype: torch.dtype,
        before: weakref.ref[_HostInput] | None,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self._device = tensor.device
        self._dtype = dtype
        self._before = before
        self._stream = stream
        self._back: torch.Tensor | None = None
        self._host = empty_host(tensor.shape, tensor.dtype, pin=stream is not None)
        if stream is None:
            self._host.copy_(tensor)
            return
        # The copy reads the tensor after the work that makes it, and the allocator keeps it until the copy is done.
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)

    def take(self) -> torch.Tensor:
        """Give the tensor back on its device, once; the one that will be asked for next starts on its way."""
        self._fetch()
        back, self._back = self._back, None
        assert back is not None
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            back.record_stream(current)
        before = None if self._before is None else self._before()
        if before is not None:
            before._fetch()
        return back.to(self._dtype)

    def _fetch(self) -> None:
        if self._back is not None:
            return
        if self._stream is None:
            self._back = self._host.to(self._device, copy=True)
            return
        with torch.cuda.stream(self._stream):
            self._back = self._host.to(self._device, non_blocking=True)


class Recomputation:
    """Runs segments of a model so that they are computed again in the backward pass.

    Args:
        keeper: Keeper of the inputs of segments until then.
        selective: Whether to keep the results of matrix products and attention too, and recompute the rest alone.
    """

    def __init__(self, keeper: InputKeeper, *, selective: bool = False) -> None:
        self._keeper = keeper
        self._contexts: dict[str, Any] = {}
        if selective:
            self._contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _DEAR)

    def __call__(self, module: torch.nn.Module, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a segment.

        A segment through which no gradient flows is run as it is: it keeps nothing, and is never computed again.

        Args:
            module: Module whose parameters the function uses.
            function: The segment.
            *args: Its inputs.
            **kwargs: More of them, kept as they are.
        """
        flows = any(getattr(source, "requires_grad", False) for source in (*args, *module.parameters()))
        if not (torch.is_grad_enabled() and flows):
            return function(*args, **kwargs)
        if kwargs:
            function = partial(function, **kwargs)
        with self._keeper.hooks():
            result: T = checkpoint(
                function, *args, use_reentrant=False, preserve_rng_state=is_random(module), **self._contexts
            )
        return result


def is_random(module: torch.nn.Module) -> bool:
    """Decide whether a module draws random numbers, which recomputation must draw again as they were."""
    if not module.training:
        return False
    # Dropout, stochastic depth, and the noise of ensembles.
    drawn = ("p", "drop_prob", "stochastic")
    return any(getattr(part, name, False) for part in module.modules() for name in drawn)

"""Where the inputs of recomputed segments wait for the backward pass: on the device, rounded, or on the host.

With block recomputation these inputs are most of what a step holds: 12.8 GiB for the 1.3 billion parameter model
at 0.25 degrees in fp32.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch.autograd.graph import saved_tensors_hooks

from kit.memory.host_memory import empty_host
from kit.memory.settings import MemorySettings

__all__ = ["InputKeeper", "Parked"]

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
        self._latest: weakref.ref[_OnHost] | None = None

    @property
    def parks(self) -> bool:
        """Whether inputs are kept in another form or place than they come in."""
        return self._rounds or self._offloads

    def hooks(self) -> AbstractContextManager[Any]:
        """Hooks for autograd, to be in force where a segment's inputs are saved.

        None where inputs stay as they are: inside a segment that is recomputed itself, hooks would keep what the outer
        one lets go.
        """
        return saved_tensors_hooks(self._pack, self._unpack) if self.parks else nullcontext()

    def _pack(self, tensor: torch.Tensor) -> Any:
        worth_it = tensor.is_floating_point() and tensor.nbytes >= _SMALL
        if not worth_it or isinstance(tensor, torch.nn.Parameter):
            return tensor
        return self.park(tensor)

    def _unpack(self, packed: Any) -> torch.Tensor:
        tensor = packed if isinstance(packed, torch.Tensor) else packed.take()
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def park(self, tensor: torch.Tensor) -> Parked:
        """Keep one tensor in the way of the settings."""
        kept = tensor.detach()
        if self._rounds:
            kept = kept.to(torch.bfloat16)
        if not self._offloads:
            return _Rounded(kept, tensor.dtype)
        parked = _OnHost(kept, tensor.dtype, self._latest, self._stream(kept.device))
        self._latest = weakref.ref(parked)
        return parked

    def _stream(self, device: torch.device) -> torch.cuda.Stream | None:
        if device.type != "cuda":
            return None
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]


class Parked(Protocol):
    """A tensor that is kept."""

    def take(self) -> torch.Tensor:
        """Give it back, as it came and where it was; once."""


class _Rounded:
    """One tensor in a lower precision."""

    def __init__(self, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        self._tensor = tensor
        self._dtype = dtype

    def take(self) -> torch.Tensor:
        return self._tensor.to(self._dtype)


class _OnHost:
    """One tensor, on the host until it is needed.

    Without a stream, on a CPU, copies are made at once: exactness can be tested there, and the planner counts them.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        dtype: torch.dtype,
        before: weakref.ref[_OnHost] | None,
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
        """The tensor, on its device again; the one that will be asked for next starts on its way."""
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

"""AdamW on the host: gradients stream to it as they become complete, weights come back.

The device holds weights, and each gradient for a moment; the host holds fp32 copies of the weights that train, their
gradients and both moments, 16 bytes for each of them, and does the arithmetic.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch

from kit.memory.host_memory import empty_host, empty_hosts, mark_host

__all__ = ["HostAdam"]


class HostAdam:
    """PyTorch's fused AdamW over copies of the parameters.

    A step is ``gather``, whatever the caller does to the gradients of ``masters``, and ``step``. On a CPU all of it
    gives the numbers of AdamW over the parameters themselves, bit for bit.

    Args:
        parameters: what trains, on their device, in fp32. Each gets a hook that takes its gradient away.
        groups: names of the parameters in each group, and its weight decay; by default one group of them all.
        weight_decay: decoupled; of the one group, and what the groups' own is compared with.
        betas: of the two moments.

    Attributes:
        masters: the host's copies, by the same names. Between ``gather`` and ``step`` those of parameters that the
            backward pass reached have a gradient: the sum over all backward passes since the last step.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        groups: Sequence[tuple[Sequence[str], float]] | None = None,
        *,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        assert all(parameter.dtype is torch.float32 for parameter in parameters.values())
        self._parameters = parameters
        device = next(iter(parameters.values())).device
        shapes = [parameter.shape for parameter in parameters.values()]
        pin = device.type == "cuda"
        self._link: _Link = _Stream(device, max(shape.numel() for shape in shapes)) if pin else _Copy()
        copies, buffers = (empty_hosts(shapes, torch.float32, pin=pin) for _ in range(2))
        self.masters = {name: torch.nn.Parameter(copy) for name, copy in zip(parameters, copies, strict=True)}
        self._buffers = dict(zip(parameters, buffers, strict=True))
        # Versions of the parameters that the masters are copies of: weights that somebody else changed, be it by
        # loading a checkpoint, are taken over before the next step.
        self._versions: dict[str, int] = {}
        parts = [(list(parameters), weight_decay)] if groups is None else groups
        split = [
            {"params": [self.masters[name] for name in names]} | ({} if own == weight_decay else {"weight_decay": own})
            for names, own in parts
        ]
        self._optimizer = torch.optim.AdamW(split, weight_decay=weight_decay, betas=betas, fused=True)
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(partial(self._receive, name))  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Forget gradients of a step that was given up."""
        self._link.wait()
        for master in self.masters.values():
            master.grad = None

    def gather(self) -> None:
        """Wait until all gradients are here."""
        self._link.wait()
        for name, master in self._reached().items():
            parameter = self._parameters[name]
            if self._versions.get(name) != parameter._version:
                master.detach().copy_(parameter.detach())

    def step(self, *rates: float) -> None:
        """Apply the gradients, and send the new weights to the device.

        Args:
            rates: learning rate of each group.
        """
        reached = self._reached()
        for master in reached.values():
            self._prepare(master)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._optimizer.step()
        for name, master in reached.items():
            parameter = self._parameters[name]
            # Without waiting: the device uses them after the copies, and the next gradients arrive after that.
            parameter.detach().copy_(master.detach(), non_blocking=True)
            self._versions[name] = parameter._version
            master.grad = None

    def state_dict(self) -> dict[str, Any]:
        """State of PyTorch's AdamW, in its own form: that of the same optimiser on the device."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with the weights that the parameters have when the next step ends."""
        self._optimizer.load_state_dict(state)
        for moments in self._optimizer.state.values():
            for value in moments.values():
                mark_host(value)
        self._versions.clear()

    def _reached(self) -> dict[str, torch.nn.Parameter]:
        return {name: master for name, master in self.masters.items() if master.grad is not None}

    def _prepare(self, master: torch.nn.Parameter) -> None:
        """Make the moments as AdamW would, in memory that counts as the host's."""
        state = self._optimizer.state[master]
        if not state:
            state["step"] = empty_host((), torch.float32).zero_()
            state["exp_avg"] = empty_host(master.shape, torch.float32).zero_()
            state["exp_avg_sq"] = empty_host(master.shape, torch.float32).zero_()

    @torch.no_grad()
    def _receive(self, name: str, parameter: torch.nn.Parameter) -> None:
        """Take a gradient off the device.

        Autograd calls it once in a backward pass, with the sum over all uses of the parameter, recomputed ones too;
        the next backward pass of an accumulated step, or one inside another, adds to what is here.
        """
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        master, buffer = self.masters[name], self._buffers[name]
        if master.grad is None:
            self._link.send(gradient, buffer)
            master.grad = buffer
        else:
            self._link.add(gradient, buffer)


class _Link(Protocol):
    """The way from the device to the host."""

    def send(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        """Fill a buffer."""

    def add(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        """Add to a buffer."""

    def wait(self) -> None:
        """Return when all buffers are as they were asked to be."""


class _Copy:
    """Without a GPU: copies are made at once."""

    def send(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer.copy_(gradient)

    def add(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer.add_(gradient)

    def wait(self) -> None:
        pass


class _Stream:
    """With a GPU: copies are made on a stream of their own while the backward pass goes on.

    Sums are made by the host. A gradient that is to be added waits in one of two bays until the other is needed, so
    that the host adds one while the next is on its way.
    """

    def __init__(self, device: torch.device, largest: int) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._largest = largest
        self._bays: list[torch.Tensor] = []
        self._waiting: list[tuple[torch.cuda.Event, torch.Tensor, torch.Tensor]] = []

    def send(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        # After the work that makes the gradient, whose memory is kept until the copy is done.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            buffer.copy_(gradient, non_blocking=True)
        gradient.record_stream(self._stream)

    def add(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        if len(self._waiting) == 2:
            self._add_oldest()
        bay = self._free_bay()[: gradient.numel()].view(gradient.shape)
        self.send(gradient, bay)
        self._waiting.append((self._stream.record_event(), bay, buffer))

    def wait(self) -> None:
        while self._waiting:
            self._add_oldest()
        self._stream.synchronize()

    def _add_oldest(self) -> None:
        event, bay, buffer = self._waiting.pop(0)
        # The buffer's own copy was asked for before this one, on the same stream.
        event.synchronize()
        buffer.add_(bay)

    def _free_bay(self) -> torch.Tensor:
        if not self._bays:
            self._bays = empty_hosts([(self._largest,)] * 2, torch.float32, pin=True)
        # Taken in turn, as they are emptied.
        self._bays.reverse()
        return self._bays[0]


# AdamW with moments in 8 bits, as torchao makes it.
#
# Tensors of fewer than 4096 values, or whose size 256 does not divide, keep moments in fp32; the others hold codes of
# one byte into a table of 256 values, and one scale for each block of 256.

# Python and PyTorch complain about torchao's source as it is imported; none of it is the reader's to mend.
_complaints = logging.getLogger("torch.utils._pytree")
_level = _complaints.level
_complaints.setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.optim import AdamW8bit as _AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit
_complaints.setLevel(_level)

__all__ = ["AdamW8bit"]


class AdamW8bit(_AdamW8bit):  # type: ignore[misc]
    """torchao's, with a state of plain tensors and values, which loads where torchao was never imported.

    Args:
        parameters: what trains.
        weight_decay: decoupled.
        betas: of the two moments.
        compiled: run its arithmetic through ``torch.compile``, which needs a compiler at hand; else in eager mode,
            slower, and with some 50 bytes of scratch for each value of the tensor that is being updated.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float],
        compiled: bool,
    ) -> None:
        super().__init__(list(parameters), weight_decay=weight_decay, betas=betas)
        self._compiled = compiled

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have a gradient."""
        with nullcontext() if self._compiled else torch.compiler.set_stance("force_eager"):
            loss: float | None = super().step(closure)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State, with each 8-bit tensor taken apart."""
        state: dict[str, Any] = super().state_dict()
        return {**state, "state": _mapped(state["state"], _apart)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict({**state_dict, "state": _mapped(state_dict["state"], _together)})


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[Any], Any]) -> dict[int, dict[str, Any]]:
    return {index: {key: change(value) for key, value in own.items()} for index, own in state.items()}


def _apart(value: Any) -> Any:
    if not isinstance(value, OptimState8bit):
        return value
    return {"codes": value.codes, "scale": value.scale, "qmap": value.qmap, "signed": value.signed}


def _together(value: Any) -> Any:
    return OptimState8bit(**value, dtype=torch.float32) if isinstance(value, dict) else value

"""Optimisers that take less of the device's memory: AdamW on the host, and AdamW with moments in 8 bits.

On the host, gradients stream to AdamW as they become complete, and weights come back. The device holds weights, and
each gradient for a moment; the host holds fp32 copies of the weights that train, their gradients and both moments, 16
bytes for each of them, and does the arithmetic. Of full fine-tuning of the 1.26 billion parameter model, whose step
upstream's recipe takes 63.8 GiB for, that leaves 9.5 GiB on the device and 26.4 on the host (``docs/benchmarks.md``).
PyTorch's own offloading is FSDP's; this stays the kit's own code, around PyTorch's fused AdamW.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from kit.memory.host_memory import empty_host, empty_hosts, mark_host

# Python and PyTorch complain about torchao's source as it is imported; none of it is the reader's to mend.
_complaints = logging.getLogger("torch.utils._pytree")
_level = _complaints.level
_complaints.setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.optim import AdamW8bit as _AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit
_complaints.setLevel(_level)


class HostAdam:
    """PyTorch's fused AdamW over copies of the parameters.

    A step is ``gather``, whatever the caller does to the gradients of ``masters``, and ``step``. On a CPU all of it
    gives the numbers of AdamW over the parameters themselves, bit for bit.

    Args:
        parameters: Parameters that train, on their device, in fp32. Each gets a hook that takes its gradient away.
        groups: Names of the parameters in each group, and its weight decay; by default one group of them all.
        weight_decay: Decoupled weight decay; of the one group, and what the groups' own is compared with.
        betas: Decay rates of the two moments.

    Attributes:
        masters: The host's copies, by the same names. Between ``gather`` and ``step`` those of parameters that the
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
        self._link = _GradientLink(device, max(shape.numel() for shape in shapes))
        copies = map(torch.nn.Parameter, empty_hosts(shapes, torch.float32, pin=pin))
        self.masters: dict[str, torch.nn.Parameter] = dict(zip(parameters, copies, strict=True))
        self._buffers = dict(zip(parameters, empty_hosts(shapes, torch.float32, pin=pin), strict=True))
        # Versions of the parameters that the masters are copies of: weights that somebody else changed, be it by
        # loading a checkpoint, are taken over before the next step.
        self._versions: dict[str, int] = {}
        if groups is None:
            groups = [(list(parameters), weight_decay)]
        split = []
        for names, own in groups:
            group: dict[str, Any] = {"params": [self.masters[name] for name in names]}
            if own != weight_decay:
                group["weight_decay"] = own
            split.append(group)
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
            rates: Learning rate of each group.
        """
        reached = self._reached()
        for master in reached.values():
            state = self._optimizer.state[master]
            if not state:
                # The moments as AdamW would make them, in memory that counts as the host's.
                state["step"] = empty_host((), torch.float32).zero_()
                state["exp_avg"] = empty_host(master.shape, torch.float32).zero_()
                state["exp_avg_sq"] = empty_host(master.shape, torch.float32).zero_()
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

    @torch.no_grad()
    def _receive(self, name: str, parameter: torch.nn.Parameter) -> None:
        """Take a gradient off the device.

        Autograd calls it once in a backward pass, with the sum over all uses of the parameter, recomputed ones too;
        the next backward pass of an accumulated step, or one inside another, adds to what is here.
        """
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            # Autograd calls it for every parameter of a decoder in bands, those of unused variables' heads too.
            return
        master, buffer = self.masters[name], self._buffers[name]
        if master.grad is None:
            self._link.send(gradient, buffer)
            master.grad = buffer
        else:
            self._link.add(gradient, buffer)


class _GradientLink:
    """Brings gradients from the device to the host: at once without a GPU, else while the backward pass goes on.

    With a GPU copies are made on a stream of their own, and sums by the host. A gradient that is to be added waits in
    one of two bays until the other is needed, so that the host adds one while the next is on its way.

    Args:
        device: Device of the gradients.
        largest: Number of values of the largest one.
    """

    def __init__(self, device: torch.device, largest: int) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._largest = largest
        self._bays: list[torch.Tensor] = []
        self._waiting: list[tuple[torch.cuda.Event, torch.Tensor, torch.Tensor]] = []

    def send(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        """Fill a buffer."""
        if self._stream is None:
            buffer.copy_(gradient)
            return
        # After the work that makes the gradient, whose memory is kept until the copy is done.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            buffer.copy_(gradient, non_blocking=True)
        gradient.record_stream(self._stream)

    def add(self, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
        """Add to a buffer."""
        if self._stream is None:
            buffer.add_(gradient)
            return
        if len(self._waiting) == 2:
            self._add_oldest()
        if not self._bays:
            self._bays = empty_hosts([(self._largest,)] * 2, torch.float32, pin=True)
        # Taken in turn, as they are emptied.
        self._bays.reverse()
        bay = self._bays[0][: gradient.numel()].view(gradient.shape)
        self.send(gradient, bay)
        self._waiting.append((self._stream.record_event(), bay, buffer))

    def wait(self) -> None:
        """Return when all buffers are as they were asked to be."""
        while self._waiting:
            self._add_oldest()
        if self._stream is not None:
            self._stream.synchronize()

    def _add_oldest(self) -> None:
        event, bay, buffer = self._waiting.pop(0)
        # The buffer's own copy was asked for before this one, on the same stream.
        event.synchronize()
        buffer.add_(bay)


class AdamW8bit(_AdamW8bit):  # type: ignore[misc]
    """torchao's, with a state of plain tensors and values, which loads where torchao was never imported.

    Tensors of fewer than 4096 values, or whose size 256 does not divide, keep moments in fp32; the others hold codes
    of one byte into a table of 256 values, and one scale for each block of 256.

    Args:
        parameters: Parameters that train.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of the two moments.
        compiled: Whether to run its arithmetic through ``torch.compile``, which needs a compiler at hand; else in
            eager mode, slower, and with some 50 bytes of scratch for each value of the tensor that is being updated.
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
        """Return the state, with each 8-bit tensor taken apart."""
        state: dict[str, Any] = super().state_dict()
        return {**state, "state": _mapped(state["state"], _apart)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict({**state_dict, "state": _mapped(state_dict["state"], _together)})


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[Any], Any]) -> dict[int, dict[str, Any]]:
    """Change every value of every parameter's state."""
    return {index: dict(zip(own, map(change, own.values()), strict=True)) for index, own in state.items()}


def _apart(value: Any) -> Any:
    if not isinstance(value, OptimState8bit):
        return value
    return {"codes": value.codes, "scale": value.scale, "qmap": value.qmap, "signed": value.signed}


def _together(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return OptimState8bit(**value, dtype=torch.float32)

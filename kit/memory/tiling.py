"""Bands: a module run on one part of its input at a time, and each part computed again in the backward pass.

``torch.utils.checkpoint`` per band would do, but it keeps every band's input and output until the whole is put
together: 9.1 GiB for a LoRA step of the 1.26 billion parameter model at 0.25 degrees, where this needs 7.9
(``docs/decisions.md``). Here bands are read from and written into whole tensors: a pass holds its input, its output
and one band, and nothing else. Gradients of parameters are summed over the bands and handed to autograd once. No
library that the kit knows does this, so it stays the kit's own code.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import compress
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kit.memory.recompute import InputKeeper, is_random

Tensors = tuple[torch.Tensor, ...]


class Work(ABC):
    """A module's work, divided into bands that need nothing of each other.

    Attributes:
        module: Module whose parameters are used.
        bands: Number of bands.
    """

    module: torch.nn.Module
    bands: int

    @abstractmethod
    def run(self, band: int, inputs: Tensors) -> Tensors:
        """Compute one band's outputs from its part of the banded inputs, and the shared ones."""

    @abstractmethod
    def read(self, whole: torch.Tensor, band: int) -> torch.Tensor:
        """Take a band out of an input; a view or a copy."""

    @abstractmethod
    def allocate(self, like: torch.Tensor) -> torch.Tensor:
        """Make room for a whole input, or for its gradient, given one band."""

    @abstractmethod
    def write(self, whole: torch.Tensor, band: int, part: torch.Tensor) -> None:
        """Put a band where ``read`` takes it from."""

    # Outputs are laid out as inputs are, unless a work says otherwise.

    def read_output(self, whole: torch.Tensor, band: int) -> torch.Tensor:
        """Take a band out of an output's gradient."""
        return self.read(whole, band)

    def allocate_output(self, like: torch.Tensor) -> torch.Tensor:
        """Make room for a whole output, given one band."""
        return self.allocate(like)

    def write_output(self, whole: torch.Tensor, band: int, part: torch.Tensor) -> None:
        """Put a band of an output where it belongs."""
        self.write(whole, band, part)


def run_bands(work: Work, keeper: InputKeeper, banded: Tensors, shared: Tensors = ()) -> Tensors:
    """Run all bands.

    Args:
        work: Work to be done.
        keeper: Keeper of the inputs for the backward pass.
        banded: Inputs of which every band reads its own part.
        shared: Inputs that every band reads whole.

    Returns:
        Whole outputs.
    """
    parameters = [parameter for parameter in work.module.parameters() if parameter.requires_grad]
    outputs: Tensors = _Bands.apply(  # type: ignore[no-untyped-call]
        work, keeper, len(banded), len(shared), *banded, *shared, *parameters
    )
    return outputs


class _Bands(torch.autograd.Function):
    """The forward pass without a graph, and the backward pass band by band."""

    @staticmethod
    def forward(ctx: Any, work: Work, keeper: InputKeeper, banded: int, shared: int, *tensors: torch.Tensor) -> Tensors:
        whole, rest = tensors[:banded], tensors[banded:]
        ctx.work, ctx.banded, ctx.shared = work, banded, shared
        ctx.conditions = _Conditions(tensors[0].device, random=is_random(work.module))
        ctx.parked = dict.fromkeys(range(work.bands), ()) if keeper.parks else None
        outputs: list[torch.Tensor] = []
        for band in range(work.bands):
            parts = tuple(work.read(tensor, band) for tensor in whole)
            if ctx.parked is not None and any(ctx.needs_input_grad):
                ctx.parked[band] = list(map(keeper.park, parts))
            ctx.conditions.note()
            results = work.run(band, (*parts, *rest[:shared]))
            outputs = outputs or list(map(work.allocate_output, results))
            for output, result in zip(outputs, results, strict=True):
                work.write_output(output, band, result)
        # Copies in bf16 of this module's weights are no use to the next one.
        torch.clear_autocast_cache()
        if keeper.parks:
            whole = ()
        ctx.save_for_backward(*whole, *rest)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        work: Work = ctx.work
        saved = ctx.saved_tensors
        kept = ctx.banded if ctx.parked is None else 0
        whole, rest = saved[:kept], saved[kept:]
        wanted = ctx.needs_input_grad[4:]
        sums: list[torch.Tensor | None] = [None] * len(wanted)
        with ctx.conditions.precision():
            for band in range(work.bands):
                if ctx.parked is None:
                    parts = [work.read(tensor, band) for tensor in whole]
                else:
                    parts, ctx.parked[band] = [item.take() for item in ctx.parked[band]], None
                # Nothing of a band but its sums may have a name here: it would be held while the next one runs.
                _add(sums, work, ctx.banded, band, _gradients(ctx, band, parts, rest, wanted, gradients))
        torch.clear_autocast_cache()
        return (None, None, None, None, *sums)


def _gradients(
    ctx: Any,
    band: int,
    parts: Sequence[torch.Tensor],
    rest: Sequence[torch.Tensor],
    wanted: Sequence[bool],
    gradients: Tensors,
) -> list[torch.Tensor | None]:
    """Compute a band again, and the gradients of its inputs and of the parameters; None where none is wanted."""
    inputs = [*parts, *rest[: ctx.shared]]
    leaves = [tensor.detach().requires_grad_(want) for tensor, want in zip(inputs, wanted, strict=False)]
    with torch.enable_grad(), ctx.conditions.randomness(band):
        results = ctx.work.run(band, tuple(leaves))
    sources = compress([*leaves, *rest[ctx.shared :]], wanted)
    given = [ctx.work.read_output(gradient, band) for gradient in gradients]
    # Backward passes run without autocast, as everywhere.
    with ctx.conditions.precision(backward=True):
        found = iter(torch.autograd.grad(results, list(sources), given, allow_unused=True))
    return [next(found) if want else None for want in wanted]


def _add(
    sums: list[torch.Tensor | None], work: Work, banded: int, band: int, gradients: Sequence[torch.Tensor | None]
) -> None:
    """Write a band's gradients of inputs into whole ones, and add those of everything else up."""
    for index, gradient in enumerate(gradients):
        if gradient is None:
            continue
        value = sums[index]
        if index < banded:
            sums[index] = value = work.allocate(gradient) if value is None else value
            work.write(value, band, gradient)
        else:
            sums[index] = gradient if value is None else value.add_(gradient)


class _Conditions:
    """Under which bands ran: precision, and random numbers where they draw any."""

    def __init__(self, device: torch.device, *, random: bool) -> None:
        self._device = device
        self._gpus = [device] if device.type == "cuda" else []
        self._enabled = torch.is_autocast_enabled(device.type)
        self._dtype = torch.get_autocast_dtype(device.type)
        self._random = random
        self._states: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def note(self) -> None:
        """Remember where random numbers are, before a band."""
        if self._random:
            self._states.append((torch.get_rng_state(), list(map(torch.cuda.get_rng_state, self._gpus))))

    def precision(self, *, backward: bool = False) -> AbstractContextManager[None]:
        """Autocast as it was; its copies of weights serve all bands."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._enabled and not backward)

    @contextmanager
    def randomness(self, band: int) -> Iterator[None]:
        """Draw what a band drew; random numbers outside go on where they were."""
        with torch.random.fork_rng(self._gpus, enabled=self._random):
            if self._random:
                state, gpu_states = self._states[band]
                torch.set_rng_state(state)
                for gpu, gpu_state in zip(self._gpus, gpu_states, strict=True):
                    torch.cuda.set_rng_state(gpu_state, gpu)
            yield

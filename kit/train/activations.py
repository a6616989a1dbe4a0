"""What flows through a model: statistics of its modules' outputs, on request, to see where they spike.

Forward hooks read outputs and change nothing; they are there while a step is watched, and gone afterwards. A module
that the memory engine runs in bands is seen band by band; what is computed again in the backward pass is not counted
again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from aurora import Aurora, Batch
from aurora.model.perceiver import PerceiverResampler
from aurora.model.swin3d import PatchMerging3D, PatchSplitting3D, Swin3DTransformerBlock

from kit.train.optim import DivergenceError

__all__ = ["Activation", "watched_modules", "watching"]

_logger = logging.getLogger(__name__)

_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterDict)
_IN_BLOCKS = ("attn.qkv", "attn.proj", "mlp")


@dataclass(frozen=True)
class Activation:
    """What a module put out during one training step, over all of its calls.

    Attributes:
        max: largest magnitude; NaN where there is one.
        rms: root of the mean square; NaN or infinite where a value is.
        nonfinite: share of values that are NaN or infinite.
        values: how many there were.
    """

    max: float
    rms: float
    nonfinite: float
    values: int

    def as_dict(self) -> dict[str, float | None]:
        """JSON form; JSON has no NaN, so that it is null."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


class _Sums:
    """Statistics on their way, on the device: reading them would wait for it."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[torch.Tensor] = []

    def add(self, value: torch.Tensor) -> None:
        lowest, highest = torch.aminmax(value)
        square = torch.linalg.vector_norm(value, dtype=torch.float32).double().square()
        finite = value.isfinite().sum()
        largest = torch.maximum(lowest.abs(), highest.abs()).double()
        new = torch.stack([largest, square, value.numel() - finite.double()])
        self.count += value.numel()
        if self._parts:
            (old,) = self._parts
            new = torch.cat([torch.maximum(old[:1], new[:1]), old[1:] + new[1:]])
        self._parts = [new]

    def result(self) -> Activation:
        largest, square, bad = self._parts[0].tolist()
        return Activation(largest, math.sqrt(square / self.count), bad / self.count, self.count)


def watched_modules(model: Aurora) -> dict[str, torch.nn.Module]:
    """Modules whose outputs are looked at, by name: parts of encoder and decoder, blocks, and what is in these.

    The memory engine computes attention itself, through a block's ``qkv`` and ``proj``; modules that it bypasses
    are not among them.
    """
    found: dict[str, torch.nn.Module] = {}
    for part in ("encoder", "decoder"):
        found |= _parts(part, model.get_submodule(part))
    for name, module in model.backbone.named_modules(prefix="backbone"):
        if isinstance(module, Swin3DTransformerBlock):
            found |= {f"{name}.{inner}": module.get_submodule(inner) for inner in _IN_BLOCKS} | {name: module}
        elif isinstance(module, PatchMerging3D | PatchSplitting3D):
            found[name] = module
    return found


def _parts(name: str, module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """A module and its children, and those of containers and of resamplers, in which spikes were seen."""
    found: dict[str, torch.nn.Module] = {} if isinstance(module, _CONTAINERS) else {name: module}
    for child, part in module.named_children():
        if isinstance(part, (*_CONTAINERS, PerceiverResampler)):
            found |= _parts(f"{name}.{child}", part)
        elif not isinstance(part, torch.nn.Identity | torch.nn.Dropout):
            found[f"{name}.{child}"] = part
    return found


@contextmanager
def watching(model: Aurora, every: int | None, step: int) -> Iterator[dict[str, Activation]]:
    """Watch a model's activations while the block runs, if it is this step's turn.

    Args:
        model: called in the block, and perhaps computed again in a backward pass.
        every: steps from one watched step to the next; None watches none.
        step: counted from 1.

    Yields:
        Statistics by module, in the order in which the modules ran, there when the block is done; empty in other
        steps.
    """
    found: dict[str, Activation] = {}
    if every is None or step % every:
        yield found
        return
    watch = _Watch(model)
    try:
        yield found
    except DivergenceError:
        watch.tell(step)
        raise
    finally:
        watch.remove()
    found |= watch.results()


class _Watch:
    """Hooks on a model, and what they saw."""

    def __init__(self, model: Aurora) -> None:
        self._sums: dict[str, _Sums] = {}
        self._forward = False
        modules = watched_modules(model)
        # From the encoder's call to the end of the decoder's: a backward pass runs parts of both again, but neither
        # as a whole.
        self._handles = [model.encoder.register_forward_pre_hook(partial(self._enter, inside=True))]
        self._handles += [module.register_forward_hook(partial(self._see, name)) for name, module in modules.items()]
        self._handles += [model.decoder.register_forward_hook(partial(self._enter, inside=False), always_call=True)]

    def _enter(self, *_: Any, inside: bool) -> None:
        self._forward = inside

    @torch.no_grad()
    def _see(self, name: str, _module: torch.nn.Module, _args: Any, output: Any) -> None:
        if not self._forward:
            return
        for value in _tensors(output):
            self._sums.setdefault(name, _Sums()).add(value.detach())

    def results(self) -> dict[str, Activation]:
        return {name: sums.result() for name, sums in self._sums.items()}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def tell(self, step: int) -> None:
        """Say where the first value went missing in a step that failed."""
        bad = [name for name, activation in self.results().items() if activation.nonfinite]
        if bad:
            _logger.warning("step %d: the first module to put out NaN or Inf is %s", step, bad[0])


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Floating-point tensors of an output: a tensor, several, or a batch."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, Batch):
        for value in (*output.surf_vars.values(), *output.atmos_vars.values()):
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)

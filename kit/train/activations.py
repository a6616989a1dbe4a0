"""Statistics of the outputs of a model's modules, on request, to see where they spike.

Forward hooks read outputs and change nothing; they are there while a step is watched, and gone afterwards. A module
that the memory engine runs in bands is counted band by band; what is computed again in the backward pass is not
counted again.
"""

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

_logger = logging.getLogger(__name__)

# They have no forward of their own, so that no hook of theirs fires.
_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterDict)
_IN_BLOCKS = ("attn.qkv", "attn.proj", "mlp")


@dataclass(frozen=True)
class Activation:
    """Statistics of a module's output during one training step, over all of its calls.

    Attributes:
        max: Largest magnitude; NaN where there is one.
        rms: Root of the mean square; NaN or infinite where a value is.
        nonfinite: Share of values that are NaN or infinite.
        values: Number of values.
    """

    max: float
    rms: float
    nonfinite: float
    values: int

    def as_dict(self) -> dict[str, float | None]:
        """Return the JSON form; JSON has no NaN, so that it is null."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


class _Sums:
    """Running statistics of a module, kept on the device: reading them would wait for it at every module."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: torch.Tensor | None = None

    def add(self, value: torch.Tensor) -> None:
        lowest, highest = torch.aminmax(value)
        # Squares are added in fp32, whatever the output: those of bf16 would be lost in a long sum.
        square = torch.linalg.vector_norm(value, dtype=torch.float32).double().square()
        finite = value.isfinite().sum()
        largest = torch.maximum(lowest.abs(), highest.abs()).double()
        new = torch.stack([largest, square, value.numel() - finite.double()])
        self.count += value.numel()
        if self._sums is not None:
            old = self._sums
            new = torch.cat([torch.maximum(old[:1], new[:1]), old[1:] + new[1:]])
        self._sums = new

    def result(self) -> Activation:
        assert self._sums is not None
        largest, square, bad = self._sums.tolist()
        return Activation(largest, math.sqrt(square / self.count), bad / self.count, self.count)


def watched_modules(model: Aurora) -> dict[str, torch.nn.Module]:
    """Return the modules whose outputs are watched, by name: parts of encoder and decoder, blocks, and their parts.

    The memory engine computes attention itself, through a block's ``qkv`` and ``proj``; modules that it bypasses
    are not among them.
    """
    found: dict[str, torch.nn.Module] = {}
    for part in ("encoder", "decoder"):
        found |= _parts(part, model.get_submodule(part))
    for name, module in model.backbone.named_modules(prefix="backbone"):
        if isinstance(module, Swin3DTransformerBlock):
            for inner in _IN_BLOCKS:
                found[f"{name}.{inner}"] = module.get_submodule(inner)
            # After its parts: modules are reported in the order in which they end.
            found[name] = module
        elif isinstance(module, PatchMerging3D | PatchSplitting3D):
            found[name] = module
    return found


def _parts(name: str, module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return a module and its children, and those of containers and of resamplers, in which spikes were found."""
    found: dict[str, torch.nn.Module] = {}
    if not isinstance(module, _CONTAINERS):
        found[name] = module
    for child, part in module.named_children():
        if isinstance(part, (*_CONTAINERS, PerceiverResampler)):
            found |= _parts(f"{name}.{child}", part)
        # An identity hands its input on, and dropout only zeroes or scales it.
        elif not isinstance(part, torch.nn.Identity | torch.nn.Dropout):
            found[f"{name}.{child}"] = part
    return found


@contextmanager
def watching(model: Aurora, every: int | None, step: int) -> Iterator[dict[str, Activation]]:
    """Watch a model's activations while the block runs, if it is this step's turn.

    Args:
        model: Model that is called in the block, and perhaps computed again in a backward pass.
        every: Steps from one watched step to the next; None watches none.
        step: Step, counted from 1.

    Yields:
        Statistics by module, in the order in which the modules ran, filled in when the block is done; empty in other
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
        # The first module that went wrong is the best clue there is.
        bad = [name for name, activation in watch.results().items() if activation.nonfinite]
        if bad:
            _logger.warning("step %d: the first module to put out NaN or Inf is %s", step, bad[0])
        raise
    finally:
        watch.remove()
    found |= watch.results()


class _Watch:
    """Hooks on a model, and the statistics that they collect."""

    def __init__(self, model: Aurora) -> None:
        self._sums: dict[str, _Sums] = {}
        self._forward = False
        modules = watched_modules(model)
        # From the encoder's call to the end of the decoder's: a backward pass runs parts of both again, but neither
        # as a whole. The model's own hooks cannot tell, because its ``forward`` is called directly.
        self._handles = [model.encoder.register_forward_pre_hook(partial(self._set_forward, inside=True))]
        for name, module in modules.items():
            self._handles.append(module.register_forward_hook(partial(self._collect, name)))
        # Even where the decoder fails: nothing after it is of this forward pass.
        leave = partial(self._set_forward, inside=False)
        self._handles.append(model.decoder.register_forward_hook(leave, always_call=True))

    def _set_forward(self, *_: Any, inside: bool) -> None:
        self._forward = inside

    @torch.no_grad()
    def _collect(self, name: str, _module: torch.nn.Module, _args: Any, output: Any) -> None:
        if not self._forward:
            return
        for value in _tensors(output):
            self._sums.setdefault(name, _Sums()).add(value.detach())

    def results(self) -> dict[str, Activation]:
        return {name: sums.result() for name, sums in self._sums.items()}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Yield the floating-point tensors of an output: a tensor, several, or a batch."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, Batch):
        for value in (*output.surf_vars.values(), *output.atmos_vars.values()):
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)

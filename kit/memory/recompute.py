"""Recomputation: what a segment of the model keeps for the backward pass, and what it computes again.

``torch.utils.checkpoint`` (the non-reentrant form) does the work. Modules keep their classes and names; wrappers
that rename parameters, such as upstream's own, are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from kit.memory.activation_offload import InputKeeper

__all__ = ["Recomputation", "is_random"]

T = TypeVar("T")

_aten = torch.ops.aten
# What costs most to compute for each byte that it takes to keep: matrix products and attention.
_DEAR = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


class Recomputation:
    """Runs segments of a model so that they are computed again in the backward pass.

    Args:
        keeper: how the inputs of segments are kept until then.
        selective: keep the results of matrix products and attention too, and recompute the rest alone.
    """

    def __init__(self, keeper: InputKeeper, *, selective: bool = False) -> None:
        self._keeper = keeper
        self._contexts: dict[str, Any] = {}
        if selective:
            self._contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)

    def __call__(self, module: torch.nn.Module, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a segment.

        A segment through which no gradient flows is run as it is: it keeps nothing, and is never computed again.

        Args:
            module: whose parameters the function uses.
            function: the segment.
            *args: its inputs.
            **kwargs: more of them, kept as they are.
        """
        if not (torch.is_grad_enabled() and _needs_gradient(module, args)):
            return function(*args, **kwargs)
        called = partial(function, **kwargs) if kwargs else function
        with self._keeper.hooks():
            result: T = checkpoint(
                called, *args, use_reentrant=False, preserve_rng_state=is_random(module), **self._contexts
            )
        return result


def _needs_gradient(module: torch.nn.Module, args: tuple[Any, ...]) -> bool:
    if any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args):
        return True
    return any(parameter.requires_grad for parameter in module.parameters())


def is_random(module: torch.nn.Module) -> bool:
    """Whether random numbers must be drawn again as they were."""
    if not module.training:
        return False
    # Dropout, stochastic depth, and the noise of ensembles.
    drawn = ("p", "drop_prob", "stochastic")
    return any(getattr(part, name, False) for part in module.modules() for name in drawn)


def _policy(_context: Any, op: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _DEAR else CheckpointPolicy.PREFER_RECOMPUTE

"""Building of described models: no larger than the weights that are to be loaded into them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aurora import Aurora
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kit.io.errors import CheckpointError
from kit.models.spec import ModelSpec
from kit.models.weights.load import Weights

_MORE = 2**26
"""Parameters that a model may have beyond twice those of its weights: what is added beside them."""
# What upstream's constructors and PyTorch raise where sizes do not fit together, or do not fit into memory.
_UNBUILDABLE = (
    RuntimeError, AssertionError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError,
)  # fmt: skip


def build_model(spec: ModelSpec, weights: Weights | None, *, autocast: bool) -> Aurora:
    """Build a model, with random weights on the CPU, that weights will be loaded into.

    Args:
        spec: the model.
        weights: what will be loaded; None for random weights, of which the size is the user's.
        autocast: as ``ModelSpec.build`` takes it.

    Raises:
        CheckpointError: the weights come with a description, and what it describes cannot be built or is far larger
            than they are.
    """
    if weights is None or weights.description is None:
        return spec.build(autocast=autocast)
    held = 0
    below: Weights | None = weights
    while below is not None:
        held += sum(tensor.numel() for tensor in below.state.values())
        below = below.under
    try:
        with _limited(2 * held + _MORE):
            return spec.build(autocast=autocast)
    except CheckpointError as error:
        msg = f"{weights.base['name']}: its weights have {held} values, and {error}; it was not written by the kit"
        raise CheckpointError(msg) from None
    except _UNBUILDABLE as error:
        first = (str(error).splitlines() or [""])[0]
        msg = (
            f"{weights.base['name']}: the model that it describes cannot be built ({type(error).__name__}: {first}); "
            "it was not written by the kit"
        )
        raise CheckpointError(msg) from error


@contextmanager
def _limited(most: int) -> Iterator[None]:
    """Stop this thread from making modules with more parameters in all.

    PyTorch calls the hook with each parameter, before it fills it with values.
    """
    mine, count = threading.get_ident(), 0

    def add(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if threading.get_ident() == mine and parameter is not None:
            count += parameter.numel()
        if count > most:
            msg = f"the model that it describes has more than {most}"
            raise CheckpointError(msg)

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()

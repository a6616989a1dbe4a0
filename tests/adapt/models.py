"""Small models on which adapters have something to adapt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from aurora import Aurora
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from tests.batches import synthetic_batch

__all__ = ["assert_planned", "awake_model", "equal", "predicted", "size"]


def awake_model(spec: ModelSpec, *, autocast: bool = False, seed: int = 0) -> Aurora:
    """A frozen model with random weights in which no layer is zero.

    Upstream starts the modulation that follows each block at zero, so that a fresh backbone passes nothing on. Frozen,
    because PyTorch folds products with a parameter that trains in another way, which changes last bits.
    """
    torch.manual_seed(seed)
    model = spec.build(autocast=autocast).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def predicted(model: Aurora, spec: ModelSpec, seed: int = 0) -> Fields:
    """Predictions in training space."""
    space = TrainingSpace(model, spec)
    torch.manual_seed(seed)  # the ensemble model draws noise
    return space.predict_fields(space.inputs(synthetic_batch(spec)))


def size(fields: Fields) -> torch.Tensor:
    """Something to minimise."""
    return torch.stack([value.square().mean() for value in (fields.surface | fields.atmospheric).values()]).sum()


def equal(one: Fields, other: Fields) -> bool:
    """Whether two predictions are the same to the last bit."""
    pairs = ((one.surface, other.surface), (one.atmospheric, other.atmospheric))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def assert_planned(step: Callable[[], tuple[torch.nn.Module, torch.Tensor]]) -> None:
    """A step over fake tensors leaves what a real one leaves, which in the same process meets nothing fake.

    Args:
        step: builds a model, takes a step, and returns the model and its output.
    """

    def left() -> tuple[bool, list[object]]:
        model, output = step()
        return isinstance(output, FakeTensor), [
            (name, p.shape, p.dtype, p.grad is None) for name, p in model.named_parameters()
        ]

    with FakeTensorMode():
        faked, planned = left()
    assert faked
    assert left() == (False, planned)

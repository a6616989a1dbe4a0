"""The flat network of the reference: its size, its reach, recomputation."""

import pytest
import torch

from kit.diffusion.flat import FlatNetwork
from kit.diffusion.network import DiffusionModel


@pytest.mark.parametrize(("width", "parameters"), [(16, 81_111), (24, 180_799)])
def test_it_has_as_many_parameters_as_the_reference(width: int, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in FlatNetwork(7, width=width).parameters()) == parameters


def test_recomputation_changes_no_gradient() -> None:
    gradients = []
    for is_recomputed in (False, True):
        torch.manual_seed(0)
        network = DiffusionModel(FlatNetwork(2, 1, 8, is_recomputed=is_recomputed), 2, 1, None)
        generator = torch.Generator().manual_seed(1)
        state, condition = torch.randn(2, 2, 7, 9, generator=generator), torch.randn(2, 1, 7, 9, generator=generator)
        found = network(state, torch.tensor([1.0, 900.0]), condition)
        assert found.shape == state.shape
        (found**2).mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_an_absent_condition_is_none_of_zeros() -> None:
    network = DiffusionModel(FlatNetwork(2, 1, 8), 2, 1, None)
    state, label = torch.randn(1, 2, 5, 6), torch.tensor([10.0])
    assert not torch.equal(network(state, label), network(state, label, torch.zeros(1, 1, 5, 6)))

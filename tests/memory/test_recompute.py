"""What is kept of a segment's inputs, and where."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kit.memory.host_memory import is_host
from kit.memory.recompute import InputKeeper, Recomputation
from kit.memory.settings import MemorySettings


def chain(keeper: InputKeeper, x: torch.Tensor, layers: list[torch.nn.Module]) -> torch.Tensor:
    recomputed = Recomputation(keeper)
    for layer in layers:
        x = recomputed(layer, layer, x)
    return x


@pytest.fixture
def layers() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.GELU()) for _ in range(4)]


def gradient(settings: MemorySettings, layers: list[torch.nn.Module]) -> torch.Tensor:
    for layer in layers:
        layer.zero_grad()
    x = torch.randn(256, 128, generator=torch.Generator().manual_seed(1), requires_grad=True)
    chain(InputKeeper(settings), x, layers).square().sum().backward()  # type: ignore[no-untyped-call]
    first = next(layers[0].parameters()).grad
    assert first is not None
    return first.clone()


def test_inputs_on_the_host_change_nothing(layers: list[torch.nn.Module]) -> None:
    assert torch.equal(gradient(MemorySettings(offload=("inputs",)), layers), gradient(MemorySettings(), layers))


def test_inputs_in_bf16_change_the_third_digit(layers: list[torch.nn.Module]) -> None:
    exact, rounded = gradient(MemorySettings(), layers), gradient(MemorySettings(saved_inputs="bf16"), layers)
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-5 < error < 1e-2


def test_what_is_offloaded_is_the_hosts_until_it_is_taken() -> None:
    keeper = InputKeeper(MemorySettings(offload=("inputs",)))
    first, second = torch.randn(256, 128), torch.randn(256, 128)
    parked: list[Any] = [keeper.park(first), keeper.park(second)]
    assert all(is_host(item._host.untyped_storage()) for item in parked)
    back = parked[1].take()
    assert torch.equal(back, second)
    assert not is_host(back.untyped_storage())
    # The one before is already on its way.
    assert torch.equal(parked[0]._back, first)


def test_offloaded_inputs_in_bf16_come_back_in_fp32() -> None:
    keeper = InputKeeper(MemorySettings(offload=("inputs",), saved_inputs="bf16"))
    value = torch.randn(256, 128)
    back = keeper.park(value).take()
    assert back.dtype == torch.float32
    assert torch.equal(back, value.bfloat16().float())


def test_small_tensors_and_parameters_stay_as_they_are() -> None:
    keeper = InputKeeper(MemorySettings(offload=("inputs",), saved_inputs="bf16"))
    for value in (torch.randn(8), torch.nn.Parameter(torch.randn(512, 512)), torch.arange(100_000)):
        assert keeper._pack(value) is value


def test_nothing_is_kept_or_recomputed_without_a_gradient(layers: list[torch.nn.Module]) -> None:
    calls = []
    frozen = layers[0].requires_grad_(requires_grad=False)

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        result: torch.Tensor = frozen(x)
        return result

    out = Recomputation(InputKeeper(MemorySettings()))(frozen, counted, torch.randn(256, 128))
    assert not out.requires_grad
    layers[1](out).sum().backward()
    assert len(calls) == 1


def test_dropout_is_drawn_again_as_it_was() -> None:
    module = torch.nn.Dropout(0.5)
    x = torch.ones(256, 128, requires_grad=True)
    out = Recomputation(InputKeeper(MemorySettings()))(module, lambda value: module(value * value), x)
    out.sum().backward()
    # The derivative is 2 x / (1 - p) where the output was kept, else 0.
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * out.detach())

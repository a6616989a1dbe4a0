"""QLoRA: frozen layers in four bits, in every precision, with and without gradients, planned and real."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kit.adapt import lora, trainable
from kit.adapt.lora import import_packages
from kit.adapt.settings import AdaptSettings
from tests.adapt.models import assert_planned, awake_model, predicted, size
from tests.batches import small_spec

QLORA = AdaptSettings(method="qlora", rank=4)


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    import_packages("qlora")


def layer(width: int = 64, height: int = 96) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A linear layer, and the same in NF4."""
    from kit.adapt.nf4 import Nf4Linear

    torch.manual_seed(0)
    linear = torch.nn.Linear(width, height).requires_grad_(False)
    return linear, Nf4Linear(linear)


def unpacked(linear: torch.nn.Linear) -> torch.Tensor:
    """What bitsandbytes makes of a weight when it packs it and unpacks it again."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(linear.weight, quant_type="nf4")
    weight: torch.Tensor = dequantize_4bit(packed, state)
    return weight


def test_it_computes_with_the_weight_that_bitsandbytes_unpacks() -> None:
    linear, packed = layer()
    weight = unpacked(linear)
    x = torch.randn(5, 64)
    assert torch.equal(packed(x), torch.nn.functional.linear(x, weight, linear.bias))
    # The widest gap between NF4's sixteen values, from -1 to -0.6962, halved, in units of a block's largest weight.
    largest = linear.weight.reshape(-1, 64).abs().amax(1)
    errors = (weight - linear.weight).reshape(-1, 64).abs().amax(1)
    assert (errors <= 0.1520 * largest).all()
    assert errors.max() > 0


def test_it_follows_the_precision_of_the_moment() -> None:
    linear, packed = layer()
    x = torch.randn(5, 64)
    assert packed(x).dtype is torch.float32  # the first input settles nothing
    with torch.autocast("cpu", torch.bfloat16):
        y = packed(x)
    assert y.dtype is torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        expected = torch.nn.functional.linear(x, unpacked(linear), linear.bias)
    assert torch.equal(y, expected)
    assert packed(x).dtype is torch.float32


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass(dtype: torch.dtype) -> None:
    linear, packed = layer()
    x = torch.randn(5, 64, requires_grad=True)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16),
    ):
        y = packed(x)
    assert all(size < linear.weight.numel() // 2 for size in kept)
    y.sum().backward()
    assert x.grad is not None
    expected = torch.ones(5, 96, dtype=dtype) @ unpacked(linear).to(dtype)
    torch.testing.assert_close(x.grad, expected.float())


def test_gradients_pass_after_an_evaluation() -> None:
    """On CPUs with AVX-512 bitsandbytes' own layer would repack its weight in evaluation, for inference alone."""
    _, packed = layer()
    x = torch.randn(5, 64)
    before = packed.train()(x)
    with torch.no_grad():
        assert torch.equal(packed.eval()(x), before)
    x.requires_grad_()
    y = packed.train()(x)
    assert torch.equal(y, before)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_a_layer_without_a_bias_has_none() -> None:
    from kit.adapt.nf4 import Nf4Linear

    linear = torch.nn.Linear(64, 8, bias=False).requires_grad_(False)
    x = torch.randn(5, 64)
    assert torch.equal(Nf4Linear(linear)(x), torch.nn.functional.linear(x, unpacked(linear)))


def test_its_operations_are_counted() -> None:
    """Forward 2 x 5 x 64 x 96, and as much again for the gradient of the input."""
    counted = []
    for module in layer():
        with FlopCounterMode(display=False) as counter:
            module(torch.randn(5, 64, requires_grad=True)).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted == [2 * 2 * 5 * 64 * 96] * 2


class Mlp(torch.nn.Module):
    """The smallest thing with two targets."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(64, 128)
        self.fc2 = torch.nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two layers."""
        y: torch.Tensor = self.fc2(torch.nn.functional.gelu(self.fc1(x)))
        return y


@pytest.mark.parametrize("method", ("lora", "qlora"))
@pytest.mark.parametrize("autocast", (False, True))
def test_a_step_can_be_planned_on_fake_tensors(method: str, autocast: bool) -> None:
    settings = AdaptSettings.model_validate({"method": method, "rank": 4, "targets": ("fc1", "fc2")})

    def step() -> tuple[torch.nn.Module, torch.Tensor]:
        model = Mlp()
        lora.attach(model, settings)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = torch.utils.checkpoint.checkpoint(model, torch.randn(5, 64), use_reentrant=False)
        y.sum().backward()
        return model, y

    assert_planned(step)


def test_a_model_in_nf4_predicts_nearly_the_same() -> None:
    from bitsandbytes.nn.modules import Linear4bit
    from peft.tuners.lora.bnb import Linear4bit as AdaptedLinear4bit

    spec = small_spec("small")
    model = awake_model(spec)
    _, total = trainable.count(model)
    with torch.no_grad():
        before = predicted(model, spec).atmospheric["t"]
        parameters = trainable.select(model, QLORA).parameters
        after = predicted(model, spec).atmospheric["t"]
    error = float((after - before).norm() / before.norm())
    assert 0 < error < 0.1
    layers = [module for module in model.modules() if isinstance(module, AdaptedLinear4bit)]
    assert len(layers) == 4 * 8
    assert all(isinstance(module.base_layer, Linear4bit) for module in layers)
    # Two weights in a byte are two weights.
    trains = sum(parameter.numel() for parameter in parameters.values())
    assert trainable.count(model) == (trains, total + trains)


@pytest.mark.parametrize("autocast", (False, True))
def test_training_moves_adapters_alone(autocast: bool) -> None:
    spec = small_spec("small")
    model = awake_model(spec, autocast=autocast).train()
    parameters = trainable.select(model, QLORA).parameters
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-2)
    for _ in range(3):
        size(predicted(model, spec)).backward()  # type: ignore[no-untyped-call]
        assert {name for name, p in model.named_parameters() if p.grad is not None} == parameters.keys()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == parameters.keys()
    assert next(model.parameters()).dtype is torch.float32

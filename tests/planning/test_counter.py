"""Bytes of a step, counted: cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kit.memory.host_memory import empty_host
from kit.planning.counter import Counter, tensors_in

# A 4 x 4 tensor in fp32.
T = 64


class Toy(nn.Module):
    """One weight of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x))


def counted() -> tuple[Toy, torch.Tensor, Counter]:
    model, x = Toy(), torch.zeros(4, 4)
    counter = Counter(model)
    counter.own(model.parameters(), "parameters")
    counter.own([x], "batch")
    return model, x, counter


def test_what_was_there_counts_once_it_is_named() -> None:
    model = Toy()
    counter = Counter(model)
    with counter, torch.no_grad():
        model(torch.zeros(4, 4))
    # The input, the linear layer's result, and relu's; not the weight, of which a transposed view was made.
    assert counter.peak.bytes == 3 * T
    assert counter.peak.breakdown["parameters"] == 0


def test_a_forward_pass_by_hand() -> None:
    model, x, counter = counted()
    with counter, torch.no_grad():
        y = model(x)
        y.view(16).unsqueeze(0)
        torch.zeros(2, 2)
    # Weight, input, the linear layer's result and relu's; views are nothing, and the last tensor is smaller than what
    # has gone by then.
    assert counter.peak.bytes == 4 * T
    assert counter.peak.breakdown == {"parameters": T, "gradients": 0, "optimizer": 0, "activations": 2 * T, "batch": T}
    assert (counter.peak.where, counter.peak.phase) == ("model", "forward")
    assert counter.phases == {"forward": 4 * T}


def test_a_backward_pass_by_hand() -> None:
    model, x, counter = counted()
    with counter:
        model(x).sum().backward()
    # In relu's part: weight, input, relu's result, which it has kept, and the gradient of its input; the loss and the
    # gradient of it, 4 bytes each. In the linear layer's part the weight's gradient takes the place of relu's result.
    assert counter.peak.bytes == 4 * T + 8
    assert (counter.peak.where, counter.peak.phase) == ("model", "backward")
    assert counter.phases["forward"] == 4 * T


def test_a_gradient_is_one_once_it_is_complete() -> None:
    model, x, counter = counted()
    with counter:
        model(x).sum().backward()
        counter.restart()
        with torch.no_grad():
            torch.zeros(100)
    assert counter.peak.breakdown == {"parameters": T, "gradients": T, "optimizer": 0, "activations": 400, "batch": T}
    assert (counter.peak.where, counter.peak.phase) == ("optimizer", "update")


def test_a_gradient_that_is_taken_away_in_the_backward_pass_is_none() -> None:
    model, x, counter = counted()

    def take(parameter: torch.Tensor) -> None:
        parameter.grad = None

    model.inner.weight.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
    with counter:
        model(x).sum().backward()
        counter.restart()
        torch.zeros(1)
    assert counter.peak.breakdown["gradients"] == 0


def test_the_hosts_memory_is_counted_apart() -> None:
    _, _, counter = counted()
    with counter:
        kept = empty_host([100], torch.float32)
        kept.zero_()
        del kept
        empty_host([10], torch.float32)
    assert counter.host_peak == 400
    assert counter.peak.bytes == 2 * T
    counter.own([empty_host([1], torch.float32)], "optimizer")
    assert counter.peak.breakdown["optimizer"] == 0


def test_a_workspace_counts_while_its_operation_runs() -> None:
    model, x, counter = counted()
    counter.workspaces = {torch.ops.aten.relu.default: lambda args, _: 10 * args[0].nbytes}
    with counter, torch.no_grad():
        model(x)
    assert counter.peak.bytes == 14 * T
    assert counter.peak.workspace == 10 * T


def test_a_module_that_fails_is_left() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(x)

    model = nn.Sequential(nn.Linear(4, 4), Failing())
    counter = Counter(model)
    with counter:
        with pytest.raises(RuntimeError):
            model(torch.zeros(4, 4))
        torch.zeros(100)
    assert counter.peak.where == "loss"


def test_nothing_is_left_behind() -> None:
    model, x, counter = counted()
    with counter:
        model(x)
    before = counter.peak
    model(torch.zeros(1000, 4)).sum().backward()
    assert counter.peak == before


def test_tensors_are_found_wherever_they_are() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    assert list(tensors_in({"a": [one, {"b": two}], "c": (3, "d")})) == [one, two]

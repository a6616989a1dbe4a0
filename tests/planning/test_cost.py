"""Arithmetic and time of a step: cases worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kit.memory.host_memory import empty_host
from kit.planning.cost import ASSUMED, CARDS, Card, Cost, Meter
from kit.planning.counter import CUDA_WORKSPACES, Counter
from kit.planning.simulation import simulated_gpu

# 1e12 operations a second in bf16, half of that in fp32; 1e9 bytes a second; 1e8 to the host.
SLOW = Card("slow", 1, 1, 0.75, 0.5, 1, 0.1)


def cost_of(run: object, *tensors: torch.Tensor) -> Cost:
    assert callable(run)
    counter = Counter(nn.Module())
    counter.observer = meter = Meter()
    with counter:
        run(*tensors)
    return meter.cost()


def test_a_matrix_product_by_hand() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    cost = cost_of(torch.mm, a, b)
    assert cost.flops == 2 * 2 * 3 * 5
    # Reads 6 and 15 values, writes 10, of 4 bytes.
    assert cost.kernels == {("fp32", 60, 124): 1}


def test_views_cost_nothing_and_an_expanded_tensor_is_read_once() -> None:
    def run(x: torch.Tensor) -> None:
        x.view(2, 2).t()
        x.expand(1000, 4) * 2

    assert cost_of(run, torch.ones(4)).kernels == {("fp32", 0, 16 + 16000): 1}


def test_precisions_have_rates_of_their_own() -> None:
    def run(x: torch.Tensor) -> None:
        x @ x
        x.bfloat16() @ x.bfloat16()
        F.conv2d(x.view(1, 1, 8, 8), x.view(1, 1, 8, 8))

    units = {unit for unit, flops, _ in cost_of(run, torch.ones(8, 8)).kernels if flops}
    assert units == {"fp32", "bf16", "tf32"}


def test_recomputation_counts_again() -> None:
    layer = nn.Linear(4, 4, bias=False)

    def step(x: torch.Tensor) -> None:
        torch.utils.checkpoint.checkpoint(lambda y: layer(layer(y)).sum(), x, use_reentrant=False).backward()

    # Two layers, 2 * 4 * 4 * 4 operations each: forward, again but for the last, whose result nobody needs, and the
    # gradients of two weights and one input (the second layer's).
    assert cost_of(step, torch.ones(4, 4)).flops == 128 * (2 + 1 + 3)


def _backward(x: torch.Tensor) -> None:
    x.sum().backward()  # type: ignore[no-untyped-call]


def test_attention_is_counted_in_both_directions() -> None:
    q = torch.ones(2, 3, 4, 8, requires_grad=True)
    forward = 2 * 2 * (2 * 3 * 4 * 4 * 8)
    with torch.no_grad():
        assert cost_of(F.scaled_dot_product_attention, q, q, q).flops == forward
    # Backward, scores are computed again, and there are four products.
    assert cost_of(lambda x: _backward(F.scaled_dot_product_attention(x, x, x)), q).flops == forward * 7 // 2


def test_time_is_the_longer_of_arithmetic_and_traffic() -> None:
    cost = Cost({("bf16", 10**12, 10): 1, ("fp32", 10**12, 10): 2, ("fp32", 10, 10**9): 3}, 0, 0)
    assert cost.seconds(SLOW) == pytest.approx((1 + 2 * 2 + 3) / ASSUMED.traffic)


def test_a_kernel_takes_a_moment_at_least() -> None:
    assert Cost({("fp32", 1, 1): 1000}, 0, 0).seconds(CARDS["H200"]) == pytest.approx(4e-3)


def test_copies_to_the_host_hide_behind_arithmetic_and_the_hosts_own_does_not() -> None:
    cost = Cost({("bf16", 10**12, 10): 1}, carried=5 * 10**7, on_host=4 * 10**10)
    assert cost.seconds(SLOW) == pytest.approx(1 / ASSUMED.traffic + 1)
    assert Cost(cost.kernels, 10**9, 0).seconds(SLOW) == pytest.approx(10 / ASSUMED.traffic)


def test_copies_to_the_host_are_told_from_arithmetic_on_it() -> None:
    def run(x: torch.Tensor) -> None:
        kept = empty_host([4], torch.float32)
        kept.copy_(x)
        kept.add_(1)

    cost = cost_of(run, torch.ones(4))
    # Four values of 4 bytes cross; the sum reads and writes as many.
    assert (cost.carried, cost.on_host) == (16, 32)


def test_a_cost_is_that_of_several_steps() -> None:
    assert Cost({("bf16", 7, 8): 2}, 10, 20).times(1.5) == Cost({("bf16", 7, 8): 3}, 15, 30)


class _Seen:
    """Notes what the kernels that run would take."""

    def __init__(self) -> None:
        self.needs: list[int] = []

    def __call__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], _result: Any, _hosts: bool) -> None:
        if func in CUDA_WORKSPACES:
            self.needs.append(CUDA_WORKSPACES[func](args, kwargs))


@pytest.mark.parametrize(
    ("dtype", "masked", "expected"),
    [
        # 144 queries are three tiles of 64 x 64 values and a head of 16 bytes; then a value for each query.
        (torch.float32, False, 5 * 8 * (3 * 16400 + 4 * 144)),
        (torch.bfloat16, True, 5 * 8 * (3 * 16400 + 4 * 144)),
        # FlashAttention's rows are rounded up to 256; 64 values and one more for each.
        (torch.bfloat16, False, 4 * 5 * 8 * 256 * 65),
    ],
)
def test_the_workspace_of_attentions_backward_pass(dtype: torch.dtype, masked: bool, expected: int) -> None:
    with simulated_gpu():
        q = torch.empty(5, 8, 144, 64, dtype=dtype, requires_grad=True)
        mask = torch.empty(144, 144, dtype=dtype) if masked else None
        counter = Counter(nn.Module())
        counter.observer = seen = _Seen()
        with counter:
            F.scaled_dot_product_attention(q, q, q, attn_mask=mask).sum().backward()  # type: ignore[no-untyped-call]
    assert seen.needs == [expected]


def test_a_roll_along_three_axes_holds_two_more_of_its_results() -> None:
    x = torch.zeros(2, 3, 4)
    assert CUDA_WORKSPACES[torch.ops.aten.roll.default]((x, (1, 1, 1), (0, 1, 2)), {}) == 2 * x.nbytes

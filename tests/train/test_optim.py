"""The rules by which parameters move, worked through by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kit.train.optim import (
    DivergenceError,
    GradientNorms,
    build_optimizer,
    check_finite,
    clip_gradients,
    group_norms,
    learning_rate,
    set_rate,
)
from kit.train.settings import OptimSettings

RATES = (1e-3, 4e-3, 3e-3, 2e-3, 1e-3)
DECAY = 0.1

Array = NDArray[np.float64]


def gradients(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in RATES]


def values(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def trained(name: str, shape: tuple[int, ...]) -> tuple[Array, torch.optim.Optimizer]:
    """The values of a parameter after five steps."""
    parameter = torch.nn.Parameter(values(shape))
    optimizer = build_optimizer(
        [parameter], OptimSettings.model_validate({"name": name, "lr": 1.0, "weight_decay": DECAY})
    )
    for rate, gradient in zip(RATES, gradients(shape), strict=True):
        parameter.grad = gradient.clone()
        set_rate(optimizer, rate)
        optimizer.step()
    return parameter.detach().double().numpy(), optimizer


def adamw_by_hand(shape: tuple[int, ...]) -> Array:
    """Loshchilov and Hutter 2019, algorithm 2."""
    x, m, v = values(shape).double().numpy(), np.zeros(shape), np.zeros(shape)
    for t, (rate, gradient) in enumerate(zip(RATES, gradients(shape), strict=True), start=1):
        g = gradient.double().numpy()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        x = x - rate * DECAY * x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    return x


def adafactor_by_hand(shape: tuple[int, int]) -> Array:
    """Shazeer and Stern 2018, algorithm 4, with PyTorch's defaults and decoupled weight decay."""
    x, rows, columns = values(shape).double().numpy(), np.zeros((shape[0], 1)), np.zeros((1, shape[1]))
    for t, (rate, gradient) in enumerate(zip(RATES, gradients(shape), strict=True), start=1):
        g = gradient.double().numpy()
        size = max(1e-3, float(np.sqrt(np.mean(x**2)))) * min(rate, 1 / np.sqrt(t))
        beta = 1 - t**-0.8
        rows = beta * rows + (1 - beta) * np.mean(g**2, axis=1, keepdims=True)
        columns = beta * columns + (1 - beta) * np.mean(g**2, axis=0, keepdims=True)
        update = g / np.sqrt(rows * columns / rows.mean())
        x = x - rate * DECAY * x - size * update / max(1.0, float(np.sqrt(np.mean(update**2))))
    return x


def test_adamw_by_hand() -> None:
    np.testing.assert_allclose(trained("adamw", (3, 5))[0], adamw_by_hand((3, 5)), rtol=1e-5, atol=1e-7)


def test_adafactor_by_hand() -> None:
    np.testing.assert_allclose(trained("adafactor", (3, 5))[0], adafactor_by_hand((3, 5)), rtol=1e-5, atol=1e-7)


def test_adafactor_keeps_a_row_and_a_column() -> None:
    _, optimizer = trained("adafactor", (30, 50))
    (state,) = optimizer.state_dict()["state"].values()
    assert sum(value.numel() for value in state.values() if value is not None) == 1 + 30 + 50


def test_adamw_in_8_bits_keeps_small_tensors_in_fp32() -> None:
    np.testing.assert_allclose(trained("adamw-8bit", (3, 5))[0], adamw_by_hand((3, 5)), rtol=1e-5, atol=1e-7)


def test_adamw_in_8_bits_is_near_to_adamw() -> None:
    """The sum of the rates is 0.011, and a value moves by about as much: rounded moments make 3 % of that."""
    shape = (64, 128)
    expected = adamw_by_hand(shape)
    error = np.abs(trained("adamw-8bit", shape)[0] - expected)
    moved = np.abs(expected - values(shape).double().numpy())
    assert 0 < error.mean() < 0.03 * moved.mean()


def test_adamw_in_8_bits_keeps_two_bytes_a_value() -> None:
    """Two moments of one byte, and for each a scale of 4 bytes per 256 values and a table of 256 values."""
    _, optimizer = trained("adamw-8bit", (64, 128))
    (state,) = optimizer.state_dict()["state"].values()
    held = [part for key in ("exp_avg", "exp_avg_sq") for part in state[key].values()]
    size = sum(part.nbytes for part in held if isinstance(part, torch.Tensor))
    assert size == 2 * (64 * 128 + 4 * (64 * 128 // 256) + 4 * 256)


def test_learning_rate_by_hand() -> None:
    """Warm-up over 4 steps to 1, then half a cosine to 0.2 at step 12: halfway, at step 8, (1 + 0.2) / 2."""
    settings = OptimSettings(lr=1.0, warmup=4, final_lr=0.2)
    rates = {step: learning_rate(step, 12, settings) for step in (1, 2, 4, 8, 12)}
    assert rates == pytest.approx({1: 0.25, 2: 0.5, 4: 1.0, 8: 0.6, 12: 0.2})


@pytest.mark.parametrize("lr", (0.5, torch.tensor(0.5)))
def test_the_rate_reaches_the_optimiser_as_it_keeps_it(lr: Any) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=lr)
    set_rate(optimizer, 0.25)
    optimizer.step()
    assert parameter.item() == -0.25
    assert optimizer.param_groups[0]["lr"] is lr or not isinstance(lr, torch.Tensor)


def test_clipping_by_hand() -> None:
    """Gradients (3, 0) and (0, 4): norms 3 and 4, global norm 5; clipped to 1 they are a fifth."""
    parameters = {"a.b.weight": torch.nn.Parameter(torch.zeros(2)), "a.c.weight": torch.nn.Parameter(torch.zeros(2))}
    parameters["a.b.weight"].grad = torch.tensor([3.0, 0.0])
    parameters["a.c.weight"].grad = torch.tensor([0.0, 4.0])
    parameters["unused.d.weight"] = torch.nn.Parameter(torch.zeros(1))
    norms = clip_gradients(parameters, 1.0)
    assert float(norms.total) == pytest.approx(5.0)
    assert norms.groups == pytest.approx({"a.b": 3.0, "a.c": 4.0})
    clipped = parameters["a.b.weight"].grad
    assert clipped is not None
    assert clipped.tolist() == pytest.approx([0.6, 0.0])


def test_norms_add_up_by_group() -> None:
    """Norms 3 and 4 make 5 in their group; with 12 in the other, 13."""
    norms = group_norms(
        {"a.b.weight": torch.tensor(3.0), "a.b.bias": torch.tensor(4.0), "c.weight": torch.tensor(12.0)}
    )
    assert norms.groups == pytest.approx({"a.b": 5.0, "c": 12.0})
    assert float(norms.total) == pytest.approx(13.0)


def test_a_gradient_that_is_not_finite_is_refused_by_name() -> None:
    check_finite(1, GradientNorms(torch.tensor(1.0), {"a": 1.0}))
    with pytest.raises(DivergenceError, match=r"step 7: the gradient is not finite in b, c; lower optim.lr"):
        check_finite(7, GradientNorms(torch.tensor(torch.nan), {"a": 1.0, "b": float("inf"), "c": float("nan")}))

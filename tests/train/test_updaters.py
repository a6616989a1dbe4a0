"""Wherever and whenever gradients are applied, the same comes out, and nothing is left behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.train.optim import DivergenceError
from kit.train.settings import OptimSettings
from kit.train.updaters import (
    DeviceUpdater,
    HostUpdater,
    InBackwardUpdater,
    Update,
    Updater,
    build_updater,
    check_updater,
)

STEPS = 6
HOST: dict[str, Any] = {"offload": ("optimizer",)}
IN_BACKWARD: dict[str, Any] = {"step_in_backward": True}
# Every way of updating, with settings that it allows.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "device": ({}, {}),
    "device-8bit": ({"name": "adamw-8bit"}, {}),
    "device-adafactor": ({"name": "adafactor"}, {}),
    "host": ({}, HOST),
    "in-backward": ({"clip": None}, IN_BACKWARD),
    "in-backward-8bit": ({"clip": None, "name": "adamw-8bit"}, IN_BACKWARD),
    "in-backward-adafactor": ({"clip": None, "name": "adafactor"}, IN_BACKWARD),
}


class Net(torch.nn.Module):
    """Uses one weight several times, recomputes some of its uses, and leaves one parameter out."""

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.first = torch.nn.Linear(8, 64)
        self.shared = torch.nn.Linear(64, 64)
        self.last = torch.nn.Linear(64, 1)
        self.unused = torch.nn.Parameter(torch.ones(3))

    def _segment(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.shared(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        # In its reentrant form, a backward pass inside the backward pass adds to the gradient for each segment.
        parts = [checkpoint(self._segment, part, use_reentrant=self.reentrant) for part in torch.split(x, 2)]
        result: torch.Tensor = self.last(torch.cat(parts))
        return result.square().mean()


def updater_of(net: torch.nn.Module, optim: dict[str, Any], memory: dict[str, Any], accumulate: int = 1) -> Updater:
    settings = OptimSettings.model_validate({"warmup": 2, "lr": 1e-2, "clip": 0.1, **optim})
    parameters = dict(net.named_parameters())
    where = MemorySettings.model_validate(memory)
    check_updater(settings, where, accumulate)
    return build_updater(parameters, settings, where, steps=STEPS)


def take(net: torch.nn.Module, updater: Updater, step: int, accumulate: int = 1) -> Update:
    generator = torch.Generator().manual_seed(step)
    updater.begin(step)
    for _ in range(accumulate):
        updater.backward(net(torch.randn(6, 8, generator=generator)) / accumulate)
    return updater.update(step)


def run(
    optim: dict[str, Any], memory: dict[str, Any], *, accumulate: int = 1, reentrant: bool = False
) -> tuple[dict[str, torch.Tensor], list[Update]]:
    net = Net(reentrant=reentrant)
    updater = updater_of(net, optim, memory, accumulate)
    updates = [take(net, updater, step, accumulate) for step in range(1, STEPS + 1)]
    assert all(parameter.grad is None for parameter in net.parameters())
    return net.state_dict(), updates


def assert_same(
    a: tuple[dict[str, torch.Tensor], list[Update]], b: tuple[dict[str, torch.Tensor], list[Update]]
) -> None:
    """Bit for bit: parameters, rates, norms."""
    assert [name for name in a[0] if not torch.equal(a[0][name], b[0][name])] == []
    assert [update.rate for update in a[1]] == [update.rate for update in b[1]]
    assert [float(update.norms.total) for update in a[1]] == [float(update.norms.total) for update in b[1]]
    assert [update.norms.groups for update in a[1]] == [update.norms.groups for update in b[1]]


@pytest.mark.parametrize(
    ("memory", "kind"), (({}, DeviceUpdater), (HOST, HostUpdater), (IN_BACKWARD, InBackwardUpdater))
)
def test_the_settings_choose(memory: dict[str, Any], kind: type) -> None:
    assert isinstance(updater_of(Net(), {"clip": None}, memory), kind)


@pytest.mark.parametrize("memory", ({}, HOST))
@pytest.mark.parametrize("clip", (0.1, None))
def test_adamw_with_clipping_by_hand(memory: dict[str, Any], clip: float | None) -> None:
    """Five steps on sum(g x), whose gradient is g: (3, 4) times the step, of norm 5, 10, ..."""
    net = torch.nn.ParameterDict({"x": torch.nn.Parameter(torch.tensor([1.0, -2.0]))})
    updater = updater_of(net, {"clip": clip, "weight_decay": 0.1}, memory)
    x, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step in range(1, 6):
        gradient = torch.tensor([3.0, 4.0]) * step
        updater.begin(step)
        updater.backward((net["x"] * gradient).sum())
        update = updater.update(step)
        assert float(update.norms.total) == pytest.approx(5 * step)
        g = gradient.double().numpy() * (1 if clip is None else clip / (5 * step + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        x = x - update.rate * 0.1 * x
        x = x - update.rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
        np.testing.assert_allclose(net["x"].detach().numpy(), x, rtol=1e-5)


@pytest.mark.parametrize("clip", (0.01, None))
@pytest.mark.parametrize("accumulate", (1, 3))
@pytest.mark.parametrize("reentrant", (False, True))
def test_the_host_does_what_the_device_does(clip: float | None, accumulate: int, reentrant: bool) -> None:
    device, host = (run({"clip": clip}, memory, accumulate=accumulate, reentrant=reentrant) for memory in ({}, HOST))
    assert_same(device, host)


@pytest.mark.parametrize("name", ("adamw", "adamw-8bit", "adafactor"))
@pytest.mark.parametrize("reentrant", (False, True))
def test_a_step_in_the_backward_pass_does_what_one_after_it_does(name: str, reentrant: bool) -> None:
    device, early = (run({"clip": None, "name": name}, memory, reentrant=reentrant) for memory in ({}, IN_BACKWARD))
    assert_same(device, early)


@pytest.mark.parametrize("memory", (HOST, IN_BACKWARD))
def test_gradients_are_gone_before_the_next_ones_come(memory: dict[str, Any]) -> None:
    net = Net()
    updater = updater_of(net, {"clip": None}, memory)
    seen: list[int] = []

    def count(_: torch.nn.Parameter) -> None:
        seen.append(sum(parameter.grad is not None for parameter in net.parameters()))

    for parameter in net.parameters():
        # It runs after the updater's hook.
        parameter.register_post_accumulate_grad_hook(count)  # type: ignore[no-untyped-call]
    take(net, updater, 1)
    assert seen == [0] * 6


def test_a_gradient_that_comes_in_parts_is_not_applied_in_parts() -> None:
    """A weight used both inside and outside a pass of its own: the outer pass completes its share first."""
    net = Net(reentrant=True)
    net.last = net.shared
    updater = updater_of(net, {"clip": None}, IN_BACKWARD)
    with pytest.raises(AssertionError, match=r"shared\..*: its gradient came in parts"):
        take(net, updater, 1)


def test_a_parameter_that_is_not_used_neither_moves_nor_has_a_state() -> None:
    for optim, memory in WAYS.values():
        net = Net()
        updater = updater_of(net, optim, memory)
        take(net, updater, 1)
        assert net.unused.tolist() == [1.0, 1.0, 1.0]
        names = [name for name, _ in net.named_parameters()]
        assert names.index("unused") not in updater.state_dict()["state"]


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_that_is_not_finite_is_not_applied(way: str) -> None:
    optim, memory = WAYS[way]
    net = Net()
    updater = updater_of(net, optim, memory)
    take(net, updater, 1)
    net.shared.weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[no-untyped-call]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(DivergenceError, match=r"step 2: the gradient is not finite in shared"):
        take(net, updater, 2)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    # What is given up by moving in the backward pass: the parameters with finite gradients have moved.
    others = {"first.weight", "first.bias", "shared.bias", "last.weight", "last.bias"}
    assert moved == (others if updater.moves_in_backward else set())


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    # Plain tensors alone: a class of torchao's would load only where torchao was imported before.
    assert {type(leaf) for leaf in tree_leaves(state)} <= {torch.Tensor, bool, int, float, type(None)}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return loaded


def resumed(
    first: tuple[dict[str, Any], dict[str, Any]], second: tuple[dict[str, Any], dict[str, Any]]
) -> dict[str, torch.Tensor]:
    """Three steps in one way, then three in another, through files."""
    net = Net()
    updater = updater_of(net, *first)
    for step in (1, 2, 3):
        take(net, updater, step)
    weights, state = saved_and_loaded(net.state_dict()), saved_and_loaded(updater.state_dict())
    again = Net()
    updater = updater_of(again, *second)
    take(again, updater, 1)  # whatever it did before is forgotten
    again.load_state_dict(weights)
    updater.load_state_dict(state)
    for step in (4, 5, 6):
        take(again, updater, step)
    return again.state_dict()


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_same_run(way: str) -> None:
    through, resume = run(*WAYS[way])[0], resumed(WAYS[way], WAYS[way])
    assert [name for name in through if not torch.equal(through[name], resume[name])] == []


@pytest.mark.parametrize(("first", "second"), (({}, HOST), (HOST, {}), ({}, IN_BACKWARD), (IN_BACKWARD, HOST)))
def test_a_state_moves_between_device_and_host(first: dict[str, Any], second: dict[str, Any]) -> None:
    optim: dict[str, Any] = {"clip": None}
    through, moved = run(optim, {})[0], resumed((optim, first), (optim, second))
    assert [name for name in through if not torch.equal(through[name], moved[name])] == []


def test_the_host_takes_over_weights_that_somebody_else_changed() -> None:
    def change(net: Net) -> None:
        with torch.no_grad():
            net.first.weight.mul_(2)

    results = []
    for memory in ({}, HOST):
        net = Net()
        updater = updater_of(net, {}, memory)
        take(net, updater, 1)
        change(net)
        take(net, updater, 2)
        results.append(net.first.weight)
    assert torch.equal(*results)


def test_the_host_forgets_a_step_that_was_given_up() -> None:
    one, two = Net(), Net()
    a, b = (updater_of(net, {}, HOST) for net in (one, two))
    a.begin(1)
    a.backward(one(torch.ones(6, 8)))
    take(one, a, 1)
    take(two, b, 1)
    assert torch.equal(one.first.weight, two.first.weight)


@pytest.mark.parametrize(
    ("optim", "memory", "passes", "message"),
    (
        ({"name": "adafactor"}, HOST, {}, r"memory.offload optimizer and optim.name adafactor exclude each other"),
        ({"name": "adamw-8bit"}, HOST, {}, r"memory.offload optimizer and optim.name adamw-8bit exclude each other"),
        ({"clip": 0.5}, IN_BACKWARD, {}, r"optim.clip \(0.5\) cannot be kept to; pass --optim.clip none too"),
        ({"clip": None}, IN_BACKWARD, {"accumulate": 2}, r"train.accumulate \(2\) has nothing to average"),
        ({"clip": None}, IN_BACKWARD, {"losses": 3}, r"there are 3 to average"),
        ({"clip": None}, HOST | IN_BACKWARD, {}, r"memory.step_in_backward and memory.offload optimizer exclude"),
    ),
)
def test_settings_that_exclude_each_other_are_refused(
    optim: dict[str, Any], memory: dict[str, Any], passes: dict[str, Any], message: str
) -> None:
    settings, where = OptimSettings.model_validate(optim), MemorySettings.model_validate(memory)
    with pytest.raises(SettingsError, match=message):
        check_updater(settings, where, **passes)


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_gives_what_a_cpu_gives(way: str) -> None:
    """Within rounding: three steps, in which a value moves by 2e-2."""
    optim, memory = WAYS[way]
    results: list[dict[str, torch.Tensor]] = []
    build: Callable[[], Net] = Net
    for device in ("cpu", "cuda"):
        net = build().to(device)
        several = 1 if "step_in_backward" in memory else 2
        updater = updater_of(net, optim, memory, several)
        for step in (1, 2, 3):
            generator = torch.Generator().manual_seed(step)
            updater.begin(step)
            for _ in range(several):
                updater.backward(net(torch.randn(6, 8, generator=generator).to(device)) / several)
            updater.update(step)
        results.append({name: value.cpu() for name, value in net.state_dict().items()})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=2e-4 if "8bit" not in way else 5e-3)

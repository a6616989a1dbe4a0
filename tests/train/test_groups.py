"""Parameters in groups: who is in which, at what rate, and that nothing else changes for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.train.optim import BETAS, group_parameters, resolved_groups
from kit.train.settings import MAIN, NEW, GroupSettings, OptimSettings
from kit.train.updaters import Update, Updater, build_updater

STEPS = 6
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "device": ({}, {}),
    "device-8bit": ({"name": "adamw-8bit"}, {}),
    "device-adafactor": ({"name": "adafactor"}, {}),
    "host": ({}, {"offload": ("optimizer",)}),
    "in-backward": ({"clip": None}, {"step_in_backward": True}),
    "in-backward-8bit": ({"clip": None, "name": "adamw-8bit"}, {"step_in_backward": True}),
    "in-backward-adafactor": ({"clip": None, "name": "adafactor"}, {"step_in_backward": True}),
}
GROUPS: dict[str, Any] = {"last": {"lr": 0.05, "weight_decay": 0.5}, "new": {"warmup": 0}}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(8, 64)
        self.mid = torch.nn.Linear(64, 64)
        self.last = torch.nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.tanh(self.mid(self.first(x))))
        return result.square().mean()


def optim(**settings: Any) -> OptimSettings:
    return OptimSettings.model_validate({"lr": 1e-2, "warmup": 2, "clip": 0.1, "groups": GROUPS, **settings})


def parts(settings: OptimSettings, new: tuple[str, ...] = ("mid.bias",)) -> dict[str, list[str]]:
    groups = group_parameters(dict(Net().named_parameters()), new, settings)
    return {group.name: list(group.parameters) for group in groups}


def test_the_first_pattern_that_matches_takes_a_parameter() -> None:
    assert parts(optim()) == {
        MAIN: ["first.weight", "first.bias", "mid.weight"],
        "last": ["last.weight", "last.bias"],
        NEW: ["mid.bias"],
    }
    first = {"mid": {"lr": 1.0}, "bias": {"lr": 2.0}, "*": {"lr": 3.0}}
    assert parts(optim(groups=first)) == {
        "mid": ["mid.weight", "mid.bias"],
        "bias": ["first.bias", "last.bias"],
        "*": ["first.weight", "last.weight"],
    }


def test_what_is_new_has_a_group_without_being_asked_for() -> None:
    groups = group_parameters(dict(Net().named_parameters()), ("mid.bias",), optim(groups={}))
    assert [(group.name, group.settings.peak) for group in groups] == [(MAIN, 1e-2), (NEW, 1e-3)]
    assert parts(optim(groups={}), new=()) == {MAIN: [name for name, _ in Net().named_parameters()]}


def test_every_number_of_every_group_is_in_the_settled_settings_and_they_settle_the_same() -> None:
    parameters = dict(Net().named_parameters())
    settings = optim(weight_decay=0.25)
    found = resolved_groups(group_parameters(parameters, ("mid.bias",), settings), settings)
    assert found.groups == {
        "last": GroupSettings(lr=0.05, weight_decay=0.5, warmup=2),
        "new": GroupSettings(lr=1e-3, weight_decay=0.25, warmup=0),
    }
    again = OptimSettings.model_validate(found.model_dump())
    assert resolved_groups(group_parameters(parameters, ("mid.bias",), again), again) == found


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"lsat": {"lr": 1.0}}, r"optim\.groups, among what trains: 'lsat' .* did you mean last\?"),
        ({"new": {"lr": 1.0}}, r"optim\.groups\.new has no effect: the weights have every parameter"),
        ({"mid": {"lr": 1.0}, "mid.bias": {"lr": 2.0}}, r"'mid\.bias' has no effect: groups before it take all"),
    ],
)
def test_a_group_that_takes_nothing_is_refused(groups: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parts(optim(groups=groups), new=())


def test_a_group_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="sets none of lr, weight_decay and warmup"):
        OptimSettings.model_validate({"groups": {"last": {}}})


@pytest.mark.parametrize(
    ("method", "lr"), [("full", 3e-4), ("head", 3e-4), ("lora", 3e-3), ("qlora", 3e-3), ("prefix", 0.1)]
)
def test_a_method_has_a_learning_rate_of_its_own(method: str, lr: float) -> None:
    assert OptimSettings().resolved(method).peak == lr
    assert OptimSettings(lr=0.5).resolved(method).peak == 0.5


def updater_of(net: torch.nn.Module, way: str, **settings: Any) -> Updater:
    own, memory = WAYS[way]
    where = MemorySettings.model_validate(memory)
    return build_updater(dict(net.named_parameters()), optim(**(own | settings)), where, steps=STEPS, new=("mid.bias",))


def take(net: torch.nn.Module, updater: Updater, step: int) -> Update:
    generator = torch.Generator().manual_seed(step)
    updater.begin(step)
    updater.backward(net(torch.randn(6, 8, generator=generator)))
    return updater.update(step)


def test_each_group_moves_as_adamw_with_its_own_numbers_would_move_it() -> None:
    """Against optimisers of PyTorch's, one for each group, whose rates are worked out here."""
    net, other = Net(), Net()
    updater = updater_of(net, "device", clip=None)
    own: dict[str, tuple[list[torch.Tensor], float, int, float]] = {
        "last": ([other.last.weight, other.last.bias], 0.05, 2, 0.5),
        "new": ([other.mid.bias], 1e-3, 0, 5e-6),
        "main": ([other.first.weight, other.first.bias, other.mid.weight], 1e-2, 2, 5e-6),
    }
    optimizers = {
        name: torch.optim.AdamW(members, weight_decay=decay, betas=BETAS, fused=True)
        for name, (members, _, _, decay) in own.items()
    }
    for step in range(1, STEPS + 1):
        update = take(net, updater, step)
        other(torch.randn(6, 8, generator=torch.Generator().manual_seed(step))).backward()
        rates = {}
        for name, (_, peak, warmup, _) in own.items():
            progress = torch.tensor((step - warmup) / (STEPS - warmup), dtype=torch.float64)
            cosine = 0.5 * (1 + torch.cos(torch.pi * progress))
            rates[name] = peak * step / warmup if step <= warmup else float(peak * (0.1 + 0.9 * cosine))
            optimizers[name].param_groups[0]["lr"] = rates[name]
            optimizers[name].step()
            optimizers[name].zero_grad()
        assert {"main": update.rate, **update.rates} == pytest.approx(rates)
    for (name, value), wanted in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name)


@pytest.mark.parametrize(("one", "other"), [("device", "host"), ("device", "in-backward")])
def test_wherever_a_group_is_moved_the_same_comes_out(one: str, other: str) -> None:
    ends = []
    for way in (one, other):
        net = Net()
        updater = updater_of(net, way, clip=None)
        updates = [take(net, updater, step) for step in range(1, STEPS + 1)]
        ends.append(
            (net.state_dict(), [(u.rate, u.rates, float(u.norms.total)) for u in updates], updater.state_dict())
        )
    (a, rates_a, state_a), (b, rates_b, state_b) = ends
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert rates_a == rates_b
    assert state_a["param_groups"] == state_b["param_groups"]
    assert [group["params"] for group in state_a["param_groups"]] == [[0, 1, 2], [3, 4], [5]]
    for index, moments in state_a["state"].items():
        assert all(torch.equal(moments[key], state_b["state"][index][key]) for key in moments)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_with_groups_goes_on_to_the_last_bit(way: str) -> None:
    straight = Net()
    updater = updater_of(straight, way)
    for step in range(1, STEPS + 1):
        take(straight, updater, step)
    first = Net()
    updater = updater_of(first, way)
    for step in range(1, 4):
        take(first, updater, step)
    second = Net()
    second.load_state_dict(first.state_dict())
    resumed = updater_of(second, way)
    resumed.load_state_dict(copy.deepcopy(updater.state_dict()))
    for step in range(4, STEPS + 1):
        take(second, resumed, step)
    wanted = straight.state_dict()
    assert [name for name, value in second.state_dict().items() if not torch.equal(value, wanted[name])] == []


@pytest.mark.parametrize("way", ("device", "host", "in-backward"))
def test_without_groups_the_optimiser_is_pytorchs_over_all_parameters(way: str) -> None:
    net, other = Net(), Net()
    where = MemorySettings.model_validate(WAYS[way][1])
    updater = build_updater(dict(net.named_parameters()), optim(groups={}, clip=None), where, steps=STEPS)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=5e-6, betas=BETAS, fused=True)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = take(net, updater, step).rate
        other(torch.randn(6, 8, generator=torch.Generator().manual_seed(step))).backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted, found = optimizer.state_dict(), updater.state_dict()
    assert found["param_groups"] == wanted["param_groups"]
    assert list(found["param_groups"][0]) == list(wanted["param_groups"][0])
    assert found["state"].keys() == wanted["state"].keys()
    for index, moments in wanted["state"].items():
        assert all(torch.equal(value, found["state"][index][key]) for key, value in moments.items())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))

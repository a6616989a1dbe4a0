"""AdamW on the host: what is where, and how gradients get there. What it computes is tests/train/test_updaters.py's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kit.memory import optimizers as host_adam
from kit.memory.host_memory import empty_hosts, is_host
from kit.memory.optimizers import HostAdam

BETAS = (0.9, 0.95)


def two_layers() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 1))


def host_of(net: torch.nn.Module, *, weight_decay: float = 0.1) -> HostAdam:
    return HostAdam(dict(net.named_parameters()), weight_decay=weight_decay, betas=BETAS)


def step(net: torch.nn.Module, host: HostAdam, x: torch.Tensor) -> None:
    net(x).sum().backward()
    host.gather()
    host.step(1e-3)


def test_five_steps_are_those_of_pytorchs_adamw() -> None:
    one, two = two_layers(), two_layers()
    host = host_of(one)
    optimizer = torch.optim.AdamW(two.parameters(), lr=1e-3, weight_decay=0.1, betas=BETAS, fused=True)
    for seed in range(5):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        step(one, host, x)
        two(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_caller_may_change_the_gradients_between_gather_and_step() -> None:
    """With gradients made zero, only the decay moves the weights: by 1e-3 x 0.1 of their value."""
    net = two_layers()
    host = host_of(net)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    net(torch.ones(3, 4)).sum().backward()
    host.gather()
    for master in host.masters.values():
        assert master.grad is not None
        master.grad.zero_()
    host.step(1e-3)
    for old, new in zip(before, net.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - 1e-4))


@pytest.mark.parametrize("fake", (False, True))
def test_all_that_it_holds_is_the_hosts_and_all_that_trains_is_the_devices(fake: bool) -> None:
    """Of each value 16 bytes: weight, gradient, two moments."""
    with FakeTensorMode() if fake else nullcontext():
        net = two_layers()
        host = host_of(net)
        for _ in range(2):
            step(net, host, torch.ones(3, 4))
        state = [value for own in host._optimizer.state.values() for value in own.values()]
        assert all(is_host(value.untyped_storage()) for value in (*state, *host.masters.values()))
        assert all(is_host(value.untyped_storage()) for value in host._buffers.values())
        assert not any(is_host(parameter.untyped_storage()) for parameter in net.parameters())
        held = [*host.masters.values(), *host._buffers.values(), *(value for value in state if value.ndim)]
        assert sum(value.nbytes for value in held) == 16 * sum(parameter.numel() for parameter in net.parameters())


def test_a_loaded_state_is_the_hosts_too() -> None:
    net = two_layers()
    host = host_of(net)
    step(net, host, torch.ones(3, 4))
    again = host_of(two_layers())
    again.load_state_dict(
        {"state": {0: {k: v.clone() for k, v in host.state_dict()["state"][0].items()}}, **_groups(host)}
    )
    state = [value for own in again._optimizer.state.values() for value in own.values()]
    assert len(state) == 3
    assert all(is_host(value.untyped_storage()) for value in state)


def _groups(host: HostAdam) -> dict[str, Any]:
    return {"param_groups": host.state_dict()["param_groups"]}


class _FakeStream:
    """Runs the copies that are asked for only when somebody waits for them."""

    def __init__(self, _device: torch.device) -> None:
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self) -> None:
        for source, target in self.pending:
            target.detach().copy_(source)
        self.pending.clear()

    def record_event(self) -> _FakeStream:
        # Too generous by what was asked for after the event, which nobody reads before waiting for it.
        return self


class _Late(torch.Tensor):
    """A gradient whose copies are made by the stream in force."""

    stream: _FakeStream

    def record_stream(self, stream: Any) -> None:
        assert stream is self.stream


@contextmanager
def _late_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have copies from a gradient wait for the stream, and pinned memory be any memory."""
    with monkeypatch.context() as patch:
        copy = torch.Tensor.copy_

        def copy_later(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            if not isinstance(source, _Late):
                return copy(target, source)
            assert non_blocking
            source.stream.pending.append((source.as_subclass(torch.Tensor), target))
            return target

        patch.setattr(torch.cuda, "Stream", _FakeStream)
        patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda device: None)
        patch.setattr(host_adam, "empty_hosts", lambda shapes, dtype, pin: empty_hosts(shapes, dtype))
        patch.setattr(torch.Tensor, "copy_", copy_later)
        yield


def test_sums_of_gradients_wait_for_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parameters of different sizes, three backward passes: 1 + 2 + 4 everywhere, through two bays."""
    buffers = [torch.zeros(2, 3), torch.zeros(7), torch.zeros(1)]
    with _late_copies(monkeypatch):
        link = host_adam._GradientLink(torch.device("cuda"), 7)
        for value in (1.0, 2.0, 4.0):
            for buffer in buffers:
                gradient = torch.full(buffer.shape, value).as_subclass(_Late)
                gradient.stream = link._stream  # type: ignore[assignment]
                (link.send if value == 1.0 else link.add)(gradient, buffer)
        assert len(link._waiting) == 2
        link.wait()
    assert link._waiting == []
    assert [set(buffer.flatten().tolist()) for buffer in buffers] == [{7.0}] * 3


class _Unused(torch.autograd.Function):
    """Passes its input on, and has no gradient for its parameter."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor, _parameter: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    """As AdamW leaves it: heads of variables that the loss does not reach, in a decoder that runs in bands."""
    used, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    host = HostAdam({"used": used, "unused": unused}, weight_decay=0.1, betas=BETAS)
    _Unused.apply(used, unused).sum().backward()  # type: ignore[no-untyped-call]
    host.gather()
    host.step(1e-3)
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(3))

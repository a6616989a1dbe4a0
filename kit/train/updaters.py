"""Updaters: gradients are clipped and applied on the device, on the host, or each as it becomes complete.

All three take norms in one order, of each parameter and then of these norms, and write states in one form, so that a
run can be compared, and go on, with another of them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from kit.io.errors import SettingsError
from kit.memory.optimizers import HostAdam
from kit.memory.settings import MemorySettings
from kit.train.optim import (
    BETAS,
    GradientNorms,
    Group,
    build_optimizer,
    check_finite,
    clip_gradients,
    group_norms,
    group_parameters,
    learning_rate,
    set_rate,
)
from kit.train.settings import MAIN, OptimSettings

Parameters = Mapping[str, torch.nn.Parameter]
After = Callable[[int], None]
"""Acts on parameters that have moved while their gradients are still there."""


@dataclass(frozen=True)
class Update:
    """Outcome of an update.

    Attributes:
        rate: Learning rate of the parameters that no entry of ``optim.groups`` names.
        norms: Norms of the gradient, before clipping.
        rates: Learning rate of each group of ``optim.groups``.
    """

    rate: float
    norms: GradientNorms
    rates: Mapping[str, float] = field(default_factory=dict)


class Updater(Protocol):
    """Moves the parameters. A step is ``begin``, ``backward`` for each batch, ``update``."""

    moves_in_backward: bool
    """Whether ``backward`` already moves them, so that the loss has to be checked before."""
    groups: Sequence[Group]
    """Groups of the parameters, with the settings of each."""

    def begin(self, step: int) -> None:
        """Prepare for a step, counted from 1."""

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass from a batch's share of the loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, step: int, after: After | None = None) -> Update:
        """Apply the gradients, call ``after`` with the step, and free them.

        Raises:
            DivergenceError: a gradient is not finite; the parameters are as before, unless ``moves_in_backward``.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state that training needs to go on: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state, after the parameters have been loaded."""


def build_updater(
    parameters: Parameters,
    optim: OptimSettings,
    memory: MemorySettings,
    *,
    steps: int,
    new: Collection[str] = (),
) -> Updater:
    """Build the updater that the settings of optimiser and memory ask for.

    Args:
        parameters: Parameters that train, on their device.
        optim: Settings of the optimiser, with a learning rate.
        memory: Where its states are, and when it acts.
        steps: Optimiser steps of the whole run.
        new: Names of the parameters that the base weights lack.

    Raises:
        SettingsError: a group of parameters is empty.
    """
    rates = _GroupRates(group_parameters(parameters, new, optim), optim, steps)
    if memory.step_in_backward:
        return InBackwardUpdater(parameters, rates)
    if "optimizer" in memory.offload:
        return HostUpdater(parameters, optim, rates)
    return DeviceUpdater(parameters, optim, rates)


def check_updater(optim: OptimSettings, memory: MemorySettings, accumulate: int = 1, losses: int = 1) -> None:
    """Refuse settings of optimiser and memory that exclude each other.

    Args:
        optim: Settings of the optimiser.
        memory: Where its states are, and when it acts.
        accumulate: Batches in an optimiser step.
        losses: Losses of a batch, each with a backward pass of its own.

    Raises:
        SettingsError: two of them exclude each other; names both.
    """
    offloads = "optimizer" in memory.offload
    # HostAdam does AdamW's arithmetic alone.
    if offloads and optim.name != "adamw":
        msg = (
            f"memory.offload optimizer and optim.name {optim.name} exclude each other: the host's arithmetic is "
            "AdamW's; use --optim.name adamw, or leave the optimiser on the device"
        )
    elif not memory.step_in_backward:
        return
    elif offloads:
        msg = (
            "memory.step_in_backward and memory.offload optimizer exclude each other: one applies gradients on the "
            "device, the other on the host; give one"
        )
    # What is applied at once can wait neither for the global norm nor for another backward pass.
    elif optim.clip is not None:
        msg = (
            f"memory.step_in_backward applies each gradient before the global norm is known, so that optim.clip "
            f"({optim.clip:g}) cannot be kept to; pass --optim.clip none too"
        )
    elif accumulate > 1:
        msg = (
            f"memory.step_in_backward applies each gradient before the next batch, so that train.accumulate "
            f"({accumulate}) has nothing to average; pass --train.accumulate 1, or leave it out"
        )
    elif losses > 1:
        msg = (
            f"memory.step_in_backward applies each gradient before the next loss of a batch, and there are {losses} to "
            "average; grade one step (rollout.graded last), hold members at once (task.together), or leave it out"
        )
    else:
        return
    raise SettingsError(msg)


class _GroupRates:
    """Learning rates of groups of parameters, step by step."""

    def __init__(self, groups: Sequence[Group], main: OptimSettings, steps: int) -> None:
        self.groups = groups
        self._main = main
        self._steps = steps

    def at(self, step: int) -> list[float]:
        """Return the learning rate of each group at a step."""
        return [learning_rate(step, self._steps, group.settings) for group in self.groups]

    def report(self, step: int, norms: GradientNorms) -> Update:
        """Return the outcome of a step that has been taken."""
        rates = dict(zip((group.name for group in self.groups), self.at(step), strict=True))
        # Shown on its own, from the settings: every parameter may be in a group that has its own.
        rates.pop(MAIN, None)
        return Update(learning_rate(step, self._steps, self._main), norms, rates)


class DeviceUpdater(Updater):
    """Gradients are applied on the device, after the backward pass.

    Attributes:
        optimizer: Optimiser over all parameters.
    """

    moves_in_backward = False

    def __init__(self, parameters: Parameters, settings: OptimSettings, rates: _GroupRates) -> None:
        self.groups = rates.groups
        self.optimizer = build_optimizer([group.options(settings) for group in self.groups], settings)
        self._parameters = parameters
        self._settings = settings
        self._rates = rates

    def begin(self, step: int) -> None:
        """Do nothing."""

    def update(self, step: int, after: After | None = None) -> Update:
        """Clip, apply and free the gradients."""
        norms = clip_gradients(self._parameters, self._settings.clip)
        # Before the optimiser: after an infinite gradient neither its moments nor the weights could be trusted.
        check_finite(step, norms)
        set_rate(self.optimizer, *self._rates.at(step))
        self.optimizer.step()
        if after is not None:
            after(step)
        # Freed, not zeroed: in the next forward pass their memory is for activations.
        self.optimizer.zero_grad(set_to_none=True)
        return self._rates.report(step, norms)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the optimiser's state."""
        self.optimizer.load_state_dict(state)


class HostUpdater(Updater):
    """Gradients leave the device as they become complete; AdamW runs on the host.

    The global norm is that of the gradients on the host, taken in the same order as on the device: norm of each
    parameter, then norm of these. On a CPU every number is the device updater's, bit for bit; between a GPU and its
    host the last bits of norms and of AdamW's arithmetic differ.
    """

    moves_in_backward = False

    def __init__(self, parameters: Parameters, settings: OptimSettings, rates: _GroupRates) -> None:
        self.groups = rates.groups
        decays = [(list(group.parameters), group.settings.weight_decay) for group in self.groups]
        self._host = HostAdam(parameters, decays, weight_decay=settings.weight_decay, betas=BETAS)
        self._settings = settings
        self._rates = rates

    def begin(self, step: int) -> None:  # noqa: ARG002
        """Drop gradients of a step that was given up."""
        self._host.begin()

    def update(self, step: int, after: After | None = None) -> Update:
        """Clip and apply the gradients on the host, and send the weights back."""
        assert after is None, "gradients have left the device"
        self._host.gather()
        # Of the copies on the host, whose gradients are clipped where they are.
        norms = clip_gradients(self._host.masters, self._settings.clip)
        check_finite(step, norms)
        self._host.step(*self._rates.at(step))
        return self._rates.report(step, norms)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the form of the device updater's, so that it can move between them."""
        return self._host.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state in the form of the device updater's."""
        self._host.load_state_dict(state)


class InBackwardUpdater:
    """Each gradient is applied and freed as soon as it is complete, so that they are never there all at once.

    Autograd completes a parameter's gradient once in a backward pass, recomputed uses included; what a backward pass
    inside another contributes waits for the end of the outer one.

    What is given up: a gradient that is not finite is not applied, but by the time that it shows, parameters nearer
    to the loss have moved. The step then raises ``DivergenceError``, and the last checkpoint is the state to go back
    to. The loss itself is looked at before anything moves.
    """

    moves_in_backward = True

    def __init__(self, parameters: Parameters, rates: _GroupRates) -> None:
        self.groups = rates.groups
        self._parameters = parameters
        self._rates = rates
        # One for each parameter, so that it can step alone.
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                self._optimizers[name] = build_optimizer([parameter], group.settings, in_backward=True)
        self._norms: dict[str, torch.Tensor] = {}
        self._now: dict[str, float] = {}
        self._pass: int | None = None
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(partial(self._receive, name))  # type: ignore[no-untyped-call]

    def begin(self, step: int) -> None:
        """Set the learning rates with which gradients will be applied."""
        for group, rate in zip(self.groups, self._rates.at(step), strict=True):
            self._now |= dict.fromkeys(group.parameters, rate)
        self._norms.clear()

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass, in which the parameters move."""

        def note(_: torch.Tensor) -> None:
            self._pass = _current_pass()

        # The hook on the loss runs before all others: recomputed blocks run backward passes inside this outer one, and
        # what a pass inside contributes is not yet the whole gradient.
        handle = loss.register_hook(note)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        handle.remove()

    def update(self, step: int, after: After | None = None) -> Update:
        """Apply what is left, and put the norms together in the order of the parameters."""
        assert after is None, "gradients are gone as soon as they have been applied"
        for name, parameter in self._parameters.items():
            # What only a backward pass inside contributed to.
            if parameter.grad is not None:
                self._apply(name, parameter)
        # Gradients came in autograd's order; the sum over norms is to be the other updaters'.
        norms = group_norms({name: self._norms[name] for name in self._parameters if name in self._norms})
        check_finite(step, norms)
        return self._rates.report(step, norms)

    def _receive(self, name: str, parameter: torch.nn.Parameter) -> None:
        # Autograd calls the hook of every parameter of a decoder in bands, even of unused variables' heads, which have
        # no gradient.
        if parameter.grad is not None and _current_pass() == self._pass:
            self._apply(name, parameter)

    @torch.no_grad()
    def _apply(self, name: str, parameter: torch.nn.Parameter) -> None:
        assert parameter.grad is not None
        assert name not in self._norms, f"{name}: its gradient came in parts, and the first was already applied"
        norm = torch.linalg.vector_norm(parameter.grad)
        self._norms[name] = norm
        optimizer = self._optimizers[name]
        set_rate(optimizer, self._now[name])
        if isinstance(optimizer, torch.optim.AdamW):
            # The kernel itself leaves the update out, so that the host need not wait for the norm.
            optimizer.found_inf = (~torch.isfinite(norm)).to(norm.dtype)  # type: ignore[attr-defined]
            optimizer.step()
        elif torch.isfinite(norm):
            optimizer.step()
        parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the form of one optimiser over all parameters, as the device updater's."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        index = 0
        for group in self.groups:
            members = list(range(index, index + len(group.parameters)))
            for name in group.parameters:
                single = self._optimizers[name].state_dict()
                if single["state"]:
                    state[index] = single["state"][0]
                index += 1
            # Hyperparameters are those of the group's first parameter, as of all.
            first = self._optimizers[next(iter(group.parameters))].state_dict()
            groups.append({**first["param_groups"][0], "params": members})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state in the form of the device updater's."""
        group_of: dict[int, dict[str, Any]] = {}
        for group in state["param_groups"]:
            group_of |= dict.fromkeys(group["params"], group)
        for index, optimizer in enumerate(self._optimizers.values()):
            own = {0: state["state"][index]} if index in state["state"] else {}
            optimizer.load_state_dict({"state": own, "param_groups": [{**group_of[index], "params": [0]}]})


def _current_pass() -> int:
    """Return the number of the backward pass that calls; passes inside passes have their own."""
    return int(torch._C._current_graph_task_id())

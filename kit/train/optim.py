"""Optimisers, the learning rate, and gradient norms."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kit.adapt.settings import matches, matching
from kit.adapt.trainable import module_group
from kit.io.errors import KitError, SettingsError
from kit.memory.optimizers import AdamW8bit
from kit.train.settings import MAIN, NEW, GroupSettings, OptimSettings

BETAS = (0.9, 0.95)
"""Decay of AdamW's two moments."""


class DivergenceError(KitError):
    """The loss or a gradient is no longer a finite number."""


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
    settings: OptimSettings,
    *,
    in_backward: bool = False,
) -> torch.optim.Optimizer:
    """Build the optimiser that the settings name.

    Args:
        parameters: Parameters that train, on their device; or groups of them, as PyTorch's optimisers take them.
        settings: Name and weight decay; the learning rate is set at each step.
        in_backward: Whether it steps inside of the backward pass, on autograd's own threads.
    """
    trained: list[Any] = list(parameters)
    if settings.name == "adafactor":
        # One tensor after the other: together they would need copies of all gradients at once.
        return torch.optim.Adafactor(trained, lr=settings.peak, weight_decay=settings.weight_decay, foreach=False)
    if settings.name == "adamw-8bit":
        first = trained[0]
        if isinstance(first, dict):
            first = first["params"][0]
        # Where there is a GPU there is Triton, but the backward pass is no place to start a compiler.
        compiled = first.device.type == "cuda" and not in_backward
        return AdamW8bit(trained, weight_decay=settings.weight_decay, betas=BETAS, compiled=compiled)
    # Fused: one kernel, which can also leave an update out by itself (``found_inf``, as the updaters need it).
    return torch.optim.AdamW(trained, lr=settings.peak, weight_decay=settings.weight_decay, betas=BETAS, fused=True)


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """Compute the learning rate of a step: linear warm-up to ``optim.lr``, then half a cosine to its ``final_lr``.

    Args:
        step: Step, counted from 1.
        steps: Optimiser steps of the whole run.
        settings: Peak, warm-up and end.
    """
    if step <= settings.warmup:
        return settings.peak * step / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.peak * (settings.final_lr + (1 - settings.final_lr) * cosine)


def set_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Set the learning rate of each group of an optimiser's parameters."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            # Compiled arithmetic reads it from there.
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@dataclass(frozen=True)
class GradientNorms:
    """Norms of the gradient before clipping.

    Attributes:
        total: Global norm, a scalar tensor.
        groups: Norm of each group of modules.
    """

    total: torch.Tensor
    groups: dict[str, float]


def clip_gradients(parameters: Mapping[str, torch.nn.Parameter], limit: float | None) -> GradientNorms:
    """Measure the gradient, and scale it down to a global norm of ``limit`` where it is larger.

    Parameters without a gradient, such as the heads of levels that the data lack, count as zero.

    Args:
        parameters: Parameters by name, with their gradients.
        limit: Largest global norm; None leaves gradients as they are.

    Returns:
        Norms before clipping.
    """
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    # Norm of each parameter, then norm of these: the order in which the other updaters take it too.
    norms = torch._foreach_norm(list(gradients.values()))
    measured = group_norms(dict(zip(gradients, norms, strict=True)))
    if limit is not None:
        # The norm is there already: PyTorch's ``clip_grad_norm_`` would take it a second time.
        clipped = [parameters[name] for name in gradients]
        torch.nn.utils.clip_grads_with_norm_(clipped, limit, measured.total, foreach=True)
    return measured


def group_norms(norms: Mapping[str, torch.Tensor]) -> GradientNorms:
    """Combine norms of parameters, scalar tensors, into those of groups of modules and of all, in the order given."""
    stacked = torch.stack(list(norms.values()))
    # One read for all of them: each would wait for the device.
    groups: dict[str, float] = defaultdict(float)
    for name, norm in zip(norms, stacked.tolist(), strict=True):
        groups[module_group(name)] += norm**2
    total = torch.linalg.vector_norm(stacked)
    return GradientNorms(total, {group: math.sqrt(square) for group, square in groups.items()})


def check_finite(step: int, norms: GradientNorms) -> None:
    """Check that the gradient of a step is finite.

    Raises:
        DivergenceError: it is not; names the groups of modules.
    """
    if not torch.isfinite(norms.total):
        worst = [group for group, norm in norms.groups.items() if not norm < float("inf")]
        msg = f"step {step}: the gradient is not finite in {', '.join(worst)}; lower optim.lr, or use fp32"
        raise DivergenceError(msg)


# Groups of parameters, each with a learning rate, a weight decay and a warm-up of its own.


@dataclass(frozen=True)
class Group:
    """Parameters that move in the same way.

    Attributes:
        name: Key of ``optim.groups``, or ``main``.
        parameters: Parameters by name; at least one.
        settings: Settings of the optimiser, with this group's own values in place.
    """

    name: str
    parameters: dict[str, torch.nn.Parameter]
    settings: OptimSettings

    def options(self, main: OptimSettings) -> dict[str, Any]:
        """Return the group as PyTorch's optimisers take it, with the values that differ from the optimiser's own."""
        options: dict[str, Any] = {"params": list(self.parameters.values())}
        if self.settings.weight_decay != main.weight_decay:
            options["weight_decay"] = self.settings.weight_decay
        return options


def group_parameters(
    parameters: Mapping[str, torch.nn.Parameter], new: Collection[str], settings: OptimSettings
) -> list[Group]:
    """Divide the parameters that train among the groups of ``optim.groups``; the first key that matches takes one.

    New parameters that match no key are a group of their own too.

    Args:
        parameters: Parameters that train.
        new: Names of the parameters that the base weights lack.
        settings: Settings of the optimiser, with a learning rate.

    Returns:
        Groups that are not empty: ``main``, then in the order of the settings.

    Raises:
        SettingsError: a key takes nothing.
    """
    # After the keys that were given: a pattern that a person wrote counts before the default for new parameters.
    keys = list(dict.fromkeys((*settings.groups, NEW)))
    found: dict[str, dict[str, torch.nn.Parameter]] = {key: {} for key in (MAIN, *keys)}
    for name, parameter in parameters.items():
        takers = [key for key in keys if (key == NEW and name in new) or (key != NEW and matches(name, key))]
        found[next(iter(takers), MAIN)][name] = parameter
    groups: list[Group] = []
    for key, members in found.items():
        if members:
            groups.append(Group(key, members, settings if key == MAIN else settings.of_group(key)))
        elif key in settings.groups:
            _explain_empty(key, list(parameters), new)
    return groups


def _explain_empty(key: str, names: Sequence[str], new: Collection[str]) -> None:
    """Explain why a key of ``optim.groups`` takes nothing.

    Raises:
        SettingsError: always.
    """
    if key == NEW and not new:
        msg = "optim.groups.new has no effect: the weights have every parameter of the model; leave it out"
        raise SettingsError(msg)
    if key != NEW:
        # Raises where the pattern matches no name at all, and names those that are near it.
        matching(names, key, "optim.groups, among what trains")
    msg = f"optim.groups: {key!r} has no effect: groups before it take all that it matches; put it first, or leave it"
    raise SettingsError(msg)


def resolved_groups(groups: Sequence[Group], settings: OptimSettings) -> OptimSettings:
    """Return the settings with every number of every group filled in."""
    numbers = {
        group.name: GroupSettings(**group.settings.model_dump(include={"lr", "weight_decay", "warmup"}))
        for group in groups
        if group.name != MAIN
    }
    return settings.model_copy(update={"groups": numbers})
